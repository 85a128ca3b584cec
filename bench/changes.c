// SPDX-License-Identifier: GPL-2.0
/*
 * Programs' side of bench/changes: changes WHAT THREADS COUNT, in the directory it is started in.
 *
 * dirs    makes COUNT directories
 * create  makes COUNT empty files in 256 directories, then syncfs
 * unlink  removes them, then syncfs
 * write   COUNT times create, write of 4 KiB, fsync and close
 *
 * By THREADS threads; by io_uring as it is by default, with 1,024 in flight, if THREADS is 0.
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
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "threads.h"

#define DIRS 256
#define DEPTH 1024
#define PAGE 4096

enum step { CREATE, WRITE, FSYNC, CLOSE, UNLINK, DONE };

static const enum step create_steps[] = { CREATE, CLOSE, DONE };
static const enum step write_steps[] = { CREATE, WRITE, FSYNC, CLOSE, DONE };
static const enum step unlink_steps[] = { UNLINK, DONE };

static const enum step *steps;
static char page[PAGE];
static uint64_t count;
static atomic_uint_least64_t next;

/* As in door_bench.rs. */
static void name_file(char *name, uint64_t n)
{
	sprintf(name, "d%lu/f%lu", n % DIRS, n);
}

static void *work(void *unused)
{
	const enum step *step;
	char name[32];
	uint64_t n;
	int fd;

	while ((n = next++) < count) {
		name_file(name, n);
		/* An empty file needs no descriptor: this is the cheapest that there is. */
		if (steps == create_steps) {
			if (mknod(name, S_IFREG | 0644, 0))
				err(1, "%s", name);
			continue;
		}
		for (step = steps; *step != DONE; step++) {
			if (*step == CREATE)
				fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
			if ((*step == CREATE && fd < 0) ||
			    (*step == WRITE && write(fd, page, PAGE) != PAGE) ||
			    (*step == FSYNC && fsync(fd)) || (*step == CLOSE && close(fd)) ||
			    (*step == UNLINK && unlink(name)))
				err(1, "%s", name);
		}
	}
	return NULL;
}

/* One file, and how far it is. */
struct slot {
	const enum step *step;
	char name[32];
	int fd;
};

static void prepare(struct io_uring_sqe *sqe, struct slot *slot)
{
	switch (*slot->step) {
	case CREATE:
		io_uring_prep_openat(sqe, AT_FDCWD, slot->name, O_WRONLY | O_CREAT | O_EXCL, 0644);
		break;
	case WRITE:
		io_uring_prep_write(sqe, slot->fd, page, PAGE, 0);
		break;
	case FSYNC:
		io_uring_prep_fsync(sqe, slot->fd, 0);
		break;
	case CLOSE:
		io_uring_prep_close(sqe, slot->fd);
		break;
	default:
		io_uring_prep_unlinkat(sqe, AT_FDCWD, slot->name, 0);
	}
	io_uring_sqe_set_data(sqe, slot);
}

static void by_ring(void)
{
	struct slot *slots = calloc(DEPTH, sizeof(*slots)), *slot;
	struct rlimit files = { DEPTH + 64, DEPTH + 64 };
	struct io_uring_cqe *cqe;
	struct io_uring uring;
	unsigned int head, seen, busy = 0;

	if (setrlimit(RLIMIT_NOFILE, &files))
		err(1, "setrlimit");
	if (io_uring_queue_init(DEPTH, &uring, 0))
		errx(1, "io_uring_queue_init");
	for (; busy < DEPTH && next < count; busy++) {
		slot = &slots[busy];
		slot->step = steps;
		name_file(slot->name, next++);
		prepare(io_uring_get_sqe(&uring), slot);
	}
	while (busy) {
		if (io_uring_submit_and_wait(&uring, 1) < 0)
			errx(1, "io_uring_enter");
		seen = 0;
		io_uring_for_each_cqe(&uring, head, cqe) {
			seen++;
			slot = io_uring_cqe_get_data(cqe);
			if (cqe->res < 0)
				errx(1, "%s: %s", slot->name, strerror(-cqe->res));
			if (*slot->step == CREATE)
				slot->fd = cqe->res;
			if (*slot->step == WRITE && cqe->res != PAGE)
				errx(1, "%s: written in part", slot->name);
			if (*++slot->step == DONE) {
				if (next >= count) {
					busy--;
					continue;
				}
				slot->step = steps;
				name_file(slot->name, next++);
			}
			prepare(io_uring_get_sqe(&uring), slot);
		}
		io_uring_cq_advance(&uring, seen);
	}
	io_uring_queue_exit(&uring);
}

int main(int argc, char **argv)
{
	unsigned int threads;
	char name[32];
	uint64_t start;
	int dir;

	if (argc != 4)
		errx(2, "usage: changes WHAT THREADS COUNT");
	threads = atoi(argv[2]);
	count = strtoull(argv[3], NULL, 0);
	memset(page, 'w', sizeof(page));
	if (!strcmp(argv[1], "dirs")) {
		for (uint64_t n = 0; n < count; n++) {
			sprintf(name, "d%lu", n);
			if (mkdir(name, 0755))
				err(1, "%s", name);
		}
		return 0;
	}
	steps = !strcmp(argv[1], "unlink") ? unlink_steps :
		!strcmp(argv[1], "create") ? create_steps : write_steps;
	dir = open(".", O_RDONLY | O_DIRECTORY);
	if (dir < 0)
		err(1, ".");
	start = now();
	if (threads)
		by_threads(threads, work, NULL);
	else
		by_ring();
	/* Those that are written are durable. */
	if (steps != write_steps && syncfs(dir))
		err(1, "syncfs");
	printf("ns=%lu ops=%lu\n", now() - start, count);
	return 0;
}
