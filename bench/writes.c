// SPDX-License-Identifier: GPL-2.0
/*
 * Programs' side of bench/write: writes WHAT ARGUMENTS, in the directory it is started in.
 *
 * create THREADS COUNT       COUNT times create, write of 4 KiB, fsync and close, by THREADS threads,
 *                            each in a directory of its own
 * append THREADS COUNT       COUNT times write of 4 KiB and fsync, each thread at the end of its file
 * sequential FILE MIB        buffered writes of a MiB, then fsync
 * direct FILE COUNT STEP PAGES
 * buffered FILE COUNT STEP PAGES
 *                            writes of 4 KiB by io_uring, 64 in flight, to random ones of every STEP-th
 *                            page, of which there are PAGES, a power of two; then fsync if buffered
 * names DIR COUNT            create, look-up of a name that is not there, unlink, COUNT times each
 * waits THREADS COUNT        the longest of COUNT creates, stats and unlinks, while THREADS threads
 *                            create, write and fsync
 *
 * Prints "ns=.. ops=..", or "create=.. stat=.. unlink=.." of one operation.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "threads.h"

#define PAGE 4096
#define MIB (1 << 20)
#define DEPTH 64

static const char *what;
static unsigned long threads, count;
static atomic_bool stop;
static char *page;

static uint64_t mix(uint64_t n)
{
	uint64_t z = n * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void *memory(size_t size)
{
	void *found = aligned_alloc(PAGE, size);

	if (!found)
		errx(1, "malloc");
	memset(found, 'w', size);
	return found;
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags, 0644);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static void write_all(int fd, const void *data, size_t size)
{
	if (write(fd, data, size) != (ssize_t)size)
		err(1, "write");
}

static void sync_file(int fd)
{
	if (fsync(fd))
		err(1, "fsync");
}

static void *work(void *number)
{
	unsigned long n, self = (unsigned long)number;
	char name[64];
	int fd;

	if (!strcmp(what, "append")) {
		sprintf(name, "t%lu/file", self);
		fd = open_file(name, O_WRONLY | O_APPEND);
		for (n = self; n < count; n += threads) {
			write_all(fd, page, PAGE);
			sync_file(fd);
		}
		close(fd);
		return NULL;
	}
	for (n = self; n < count && !stop; n += threads) {
		sprintf(name, "t%lu/f%lu", self, n);
		fd = open_file(name, O_WRONLY | O_CREAT | O_EXCL);
		write_all(fd, page, PAGE);
		sync_file(fd);
		close(fd);
	}
	return NULL;
}

/* Makes a directory and a file for each thread, and has them on the disk. */
static void prepare(void)
{
	unsigned long n;
	char name[64];

	for (n = 0; n < threads; n++) {
		sprintf(name, "t%lu", n);
		if (mkdir(name, 0755))
			err(1, "%s", name);
		strcat(name, "/file");
		close(open_file(name, O_WRONLY | O_CREAT | O_EXCL));
	}
	sync();
}

static void create(const char *name)
{
	close(open_file(name, O_WRONLY | O_CREAT | O_EXCL));
}

static void status(const char *name)
{
	struct stat st;

	if (stat(name, &st) && errno != ENOENT)
		err(1, "%s", name);
}

static void remove_name(const char *name)
{
	if (unlink(name))
		err(1, "%s", name);
}

static void (*const step[3])(const char *) = { create, status, remove_name };

static unsigned long samples;

static void waits(void)
{
	const struct timespec pause = { .tv_nsec = 700000 };
	uint64_t start, took, longest[3] = {};
	char name[64];
	unsigned long n;
	int i;

	for (n = 0; n < samples; n++) {
		sprintf(name, "s%lu", n);
		for (i = 0; i < 3; i++) {
			nanosleep(&pause, NULL);
			start = now();
			step[i](name);
			took = now() - start;
			if (took > longest[i])
				longest[i] = took;
		}
	}
	stop = true;
	printf("create=%lu stat=%lu unlink=%lu\n", longest[0], longest[1], longest[2]);
}

static void names(const char *dir)
{
	uint64_t start, took[3];
	char name[256];
	unsigned long n;
	int i;

	/* What is to be searched is in memory then */
	for (n = 0; n < 4 * count; n++) {
		sprintf(name, "%s/warm%lu", dir, n);
		status(name);
	}
	for (i = 0; i < 3; i++) {
		start = now();
		for (n = 0; n < count; n++) {
			sprintf(name, "%s/%s%lu", dir, i == 1 ? "absent" : "new", n);
			step[i](name);
		}
		took[i] = (now() - start) / count;
	}
	printf("create=%lu stat=%lu unlink=%lu\n", took[0], took[1], took[2]);
}

static uint64_t ring(int fd, uint64_t seed, uint64_t stride, uint64_t pages)
{
	uint64_t start, n = 0, done = 0;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct io_uring uring;
	unsigned int head, seen;

	if (io_uring_queue_init(DEPTH, &uring, 0))
		errx(1, "io_uring_queue_init");
	start = now();
	while (done < count) {
		while (n < count && n - done < DEPTH) {
			sqe = io_uring_get_sqe(&uring);
			io_uring_prep_write(sqe, fd, page, PAGE, (mix(seed + n++) & (pages - 1)) * stride * PAGE);
		}
		if (io_uring_submit_and_wait(&uring, 1) < 0)
			errx(1, "io_uring_enter");
		seen = 0;
		io_uring_for_each_cqe(&uring, head, cqe) {
			if (cqe->res != PAGE)
				errx(1, "a write gave %d", cqe->res);
			seen++;
		}
		io_uring_cq_advance(&uring, seen);
		done += seen;
	}
	if (!strcmp(what, "buffered"))
		sync_file(fd);
	start = now() - start;
	io_uring_queue_exit(&uring);
	return start;
}

int main(int argc, char **argv)
{
	uint64_t start;
	char *mib;
	int fd;

	if (argc < 4)
		errx(2, "usage: writes WHAT ARGUMENTS");
	what = argv[1];
	page = memory(PAGE);
	if (!strcmp(what, "sequential")) {
		mib = memory(MIB);
		fd = open_file(argv[2], O_WRONLY | O_CREAT | O_TRUNC);
		count = atol(argv[3]);
		start = now();
		for (unsigned long n = 0; n < count; n++)
			write_all(fd, mib, MIB);
		sync_file(fd);
		printf("ns=%lu ops=%lu\n", now() - start, count);
	} else if (!strcmp(what, "names")) {
		count = atol(argv[3]);
		names(argv[2]);
	} else if (!strcmp(what, "direct") || !strcmp(what, "buffered")) {
		if (argc != 6)
			errx(2, "usage: writes %s FILE COUNT STEP PAGES", what);
		fd = open_file(argv[2], O_WRONLY | (*what == 'd' ? O_DIRECT : 0));
		count = atol(argv[3]);
		/* Where the file is, is known then */
		ring(fd, 1, atol(argv[4]), atol(argv[5]));
		printf("ns=%lu", ring(fd, count + 1, atol(argv[4]), atol(argv[5])));
		printf(" ops=%lu\n", count);
	} else {
		threads = atol(argv[2]);
		count = atol(argv[3]);
		prepare();
		if (!strcmp(what, "waits")) {
			samples = count;
			count = ~0ul;
			by_threads(threads, work, waits);
			return 0;
		}
		start = now();
		by_threads(threads, work, NULL);
		printf("ns=%lu ops=%lu\n", now() - start, count);
	}
	return 0;
}
