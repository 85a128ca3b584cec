// SPDX-License-Identifier: GPL-2.0
/*
 * Programs' side of bench/reads: direct HOW FILE IN_FLIGHT COUNT STEP PAGES
 *
 * Direct reads of 4 KiB. HOW is "ring", one thread with io_uring as it is by default, or "threads", a
 * thread for each read in flight. They read every STEP-th page in order, or at random PAGES of them if
 * that is not 0; it is a power of two then.
 *
 * Prints "ns=.. ops=..".
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "threads.h"

#define PAGE 4096

static int fd;
static uint64_t count, step, pages;
static atomic_uint_least64_t next;

/* The position of the n-th read, as in door_bench.rs and peer.c. */
static uint64_t place(uint64_t n)
{
	uint64_t z = n * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (pages ? (z ^ (z >> 31)) & (pages - 1) : n) * step * PAGE;
}

static void *page(void)
{
	void *found = aligned_alloc(PAGE, PAGE);

	if (!found)
		errx(1, "no memory");
	memset(found, 0, PAGE);
	return found;
}

static void **buffers;

static void *work(void *number)
{
	void *buffer = buffers[(unsigned long)number];
	uint64_t n;

	while ((n = next++) < count)
		if (pread(fd, buffer, PAGE, place(n)) != PAGE)
			err(1, "pread");
	return NULL;
}

static void threads(unsigned int depth)
{
	unsigned int i;
	uint64_t start;

	buffers = calloc(depth, sizeof(*buffers));
	for (i = 0; i < depth; i++)
		buffers[i] = page();
	start = now();
	by_threads(depth, work, NULL);
	printf("ns=%lu ops=%lu\n", now() - start, count);
}

static void ring(unsigned int depth)
{
	uint64_t start, n = 0, done = 0;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct io_uring uring;
	unsigned int i, head, seen;
	void *buffer;

	if (io_uring_queue_init(depth, &uring, 0))
		errx(1, "io_uring_queue_init");
	start = now();
	for (i = 0; i < depth && n < count; i++, n++) {
		buffer = page();
		sqe = io_uring_get_sqe(&uring);
		io_uring_prep_read(sqe, fd, buffer, PAGE, place(n));
		io_uring_sqe_set_data(sqe, buffer);
	}
	while (done < count) {
		if (io_uring_submit_and_wait(&uring, 1) < 0)
			errx(1, "io_uring_enter");
		seen = 0;
		io_uring_for_each_cqe(&uring, head, cqe) {
			if (cqe->res != PAGE)
				errx(1, "a read gave %d", cqe->res);
			buffer = io_uring_cqe_get_data(cqe);
			seen++;
			if (n == count)
				continue;
			sqe = io_uring_get_sqe(&uring);
			io_uring_prep_read(sqe, fd, buffer, PAGE, place(n++));
			io_uring_sqe_set_data(sqe, buffer);
		}
		io_uring_cq_advance(&uring, seen);
		done += seen;
	}
	printf("ns=%lu ops=%lu\n", now() - start, count);
}

int main(int argc, char **argv)
{
	unsigned int depth;

	if (argc != 7)
		errx(2, "usage: direct HOW FILE IN_FLIGHT COUNT STEP PAGES");
	depth = atoi(argv[3]);
	count = strtoull(argv[4], NULL, 0);
	step = strtoull(argv[5], NULL, 0);
	pages = strtoull(argv[6], NULL, 0);
	fd = open(argv[2], O_RDONLY | O_DIRECT);
	if (fd < 0)
		err(1, "%s", argv[2]);
	if (!strcmp(argv[1], "ring"))
		ring(depth);
	else
		threads(depth);
	return 0;
}
