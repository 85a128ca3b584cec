// SPDX-License-Identifier: GPL-2.0
/*
 * What a cached operation costs through the VFS: stat, open+close, open+read+close of one file.
 *
 * usage: warm FILE ROUNDS; prints nanoseconds per operation, which in tools/vm --sim are
 * instructions.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *path;

static void do_stat(void)
{
	struct stat st;

	if (stat(path, &st))
		err(1, "%s", path);
}

static void do_open(void)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		err(1, "%s", path);
	close(fd);
}

static void do_read(void)
{
	static char page[4096];
	int fd = open(path, O_RDONLY);

	if (fd < 0 || read(fd, page, sizeof(page)) != sizeof(page))
		err(1, "%s", path);
	close(fd);
}

static long long measure(void (*op)(void), int rounds)
{
	struct timespec from, to;
	int i;

	for (i = 0; i < 100; i++)
		op();
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (i = 0; i < rounds; i++)
		op();
	clock_gettime(CLOCK_MONOTONIC, &to);
	return ((to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec) / rounds;
}

int main(int argc, char **argv)
{
	int rounds = argc == 3 ? atoi(argv[2]) : 0;

	if (rounds < 1)
		errx(2, "usage: warm FILE ROUNDS");
	path = argv[1];
	printf("stat %lld open %lld read %lld\n", measure(do_stat, rounds),
	       measure(do_open, rounds), measure(do_read, rounds));
	return 0;
}
