// SPDX-License-Identifier: GPL-2.0
/*
 * Programs' side of bench/door: files WHAT THREADS COUNT, in the directory it is started in.
 *
 * make   makes COUNT directories of 16 files of 4 KiB
 * stat   look-up and stat of a file in each of COUNT directories, by THREADS threads
 * read   open, read of 4 KiB and close of the same file
 * list   open, getdents64 and close of each directory
 * tree   getdents64 and statx of all that is there, by one thread
 *
 * Prints "ns=.. ops=..".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "threads.h"

#define FILES 16

static const char *what;
static uint64_t count;
static atomic_uint_least64_t next, entries, directories;

/* Which file of a directory: splitmix64, as in door_bench.rs. */
static unsigned int pick(uint64_t n)
{
	uint64_t z = (n + 1) * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	return (z ^ (z >> 27)) & (FILES - 1);
}

struct entry {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

/* Calls each for every entry but the dots; closes fd. */
static void list(int fd, void (*each)(int fd, struct entry *entry))
{
	char buffer[32768];
	long got, at;

	while ((got = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) > 0) {
		for (at = 0; at < got;) {
			struct entry *entry = (void *)(buffer + at);

			at += entry->reclen;
			if (strcmp(entry->name, ".") && strcmp(entry->name, ".."))
				each(fd, entry);
		}
	}
	if (got < 0)
		err(1, "getdents64");
	close(fd);
}

static void nothing(int fd, struct entry *entry)
{
	entries++;
}

static void visit(int fd, struct entry *entry)
{
	struct statx st;
	int sub;

	entries++;
	if (statx(fd, entry->name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st))
		err(1, "%s", entry->name);
	if (S_ISDIR(st.stx_mode)) {
		directories++;
		sub = openat(fd, entry->name, O_RDONLY | O_DIRECTORY);
		if (sub < 0)
			err(1, "%s", entry->name);
		list(sub, visit);
	}
}

static void *work(void *unused)
{
	char name[32], page[4096];
	struct statx st;
	uint64_t n;
	int fd;

	while ((n = next++) < count) {
		if (!strcmp(what, "list")) {
			sprintf(name, "d%lu", n);
			fd = open(name, O_RDONLY | O_DIRECTORY);
			if (fd < 0)
				err(1, "%s", name);
			list(fd, nothing);
			continue;
		}
		sprintf(name, "d%lu/f%u", n, pick(n));
		if (!strcmp(what, "stat")) {
			if (statx(AT_FDCWD, name, 0, STATX_BASIC_STATS, &st))
				err(1, "%s", name);
			continue;
		}
		fd = open(name, O_RDONLY);
		if (fd < 0 || read(fd, page, sizeof(page)) != sizeof(page))
			err(1, "%s", name);
		close(fd);
	}
	return NULL;
}

static void make(void)
{
	char name[32], page[4096];
	uint64_t n;
	int f, fd;

	for (n = 0; n < count; n++) {
		sprintf(name, "d%lu", n);
		if (mkdir(name, 0755))
			err(1, "%s", name);
	}
	for (n = 0; n < count; n++) {
		for (f = 0; f < FILES; f++) {
			sprintf(name, "d%lu/f%d", n, f);
			memset(page, n + f, sizeof(page));
			fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
			if (fd < 0 || write(fd, page, sizeof(page)) != sizeof(page))
				err(1, "%s", name);
			close(fd);
		}
	}
}

int main(int argc, char **argv)
{
	unsigned int threads;
	uint64_t start, ops;

	if (argc != 4)
		errx(2, "usage: files WHAT THREADS COUNT");
	what = argv[1];
	threads = atoi(argv[2]);
	count = strtoull(argv[3], NULL, 0);
	start = now();
	ops = count;
	if (!strcmp(what, "make")) {
		make();
	} else if (!strcmp(what, "tree")) {
		directories = 1;
		list(open(".", O_RDONLY | O_DIRECTORY), visit);
		ops = directories;
	} else {
		by_threads(threads, work, NULL);
	}
	printf("ns=%lu ops=%lu entries=%lu\n", now() - start, ops, (unsigned long)entries);
	return 0;
}
