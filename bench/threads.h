/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs of the benchmarks have in common: a clock, and many threads at once.
 */
#ifndef BENCH_THREADS_H
#define BENCH_THREADS_H

#include <err.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

/* Nanoseconds. */
static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/*
 * Runs work by so many threads with small stacks, each with its number, and meanwhile, if that is not
 * NULL, by the caller.  Waits for the threads.
 */
static void by_threads(unsigned long threads, void *(*work)(void *number), void (*meanwhile)(void))
{
	pthread_t *thread = calloc(threads, sizeof(*thread));
	pthread_attr_t small;
	unsigned long i;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 1 << 17);
	for (i = 0; i < threads; i++)
		if (pthread_create(&thread[i], &small, work, (void *)i))
			errx(1, "no thread");
	if (meanwhile)
		meanwhile();
	for (i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
}

#endif
