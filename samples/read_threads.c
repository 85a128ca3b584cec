// SPDX-License-Identifier: GPL-2.0
/*
 * Reads the files that a list names with threads: what samples/read_many.rs does with upcalls.
 *
 * usage: read_threads DIR THREADS; the list is DIR/.read_many, one path below DIR per line.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char **paths;
static size_t count;
static int dir;
static atomic_size_t next, bytes, errors;

static void read_file(const char *path)
{
	static _Thread_local char page[4096];
	ssize_t n;
	int fd = openat(dir, path, O_RDONLY);

	if (fd < 0) {
		errors++;
		return;
	}
	while ((n = read(fd, page, sizeof(page))) > 0)
		bytes += n;
	if (n < 0)
		errors++;
	close(fd);
}

static void *work(void *arg)
{
	size_t i;

	while ((i = next++) < count)
		read_file(paths[i]);
	return arg;
}

int main(int argc, char **argv)
{
	struct timespec from, to;
	pthread_t threads[256];
	char *line = NULL;
	size_t size = 0;
	ssize_t len;
	FILE *list;
	int n, i;

	n = argc == 3 ? atoi(argv[2]) : 0;
	if (n < 1 || n > 256)
		errx(2, "usage: read_threads DIR THREADS");
	dir = open(argv[1], O_RDONLY | O_DIRECTORY);
	list = dir < 0 ? NULL : fdopen(openat(dir, ".read_many", O_RDONLY), "r");
	if (!list)
		err(1, "%s/.read_many", argv[1]);
	while ((len = getline(&line, &size, list)) > 0) {
		line[len - 1] = '\0';
		paths = realloc(paths, (count + 1) * sizeof(*paths));
		if (!paths)
			err(1, "memory");
		paths[count] = strdup(line);
		if (!paths[count++])
			err(1, "memory");
	}
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, work, NULL))
			errx(1, "cannot make %d threads", n);
	for (i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("files %zu bytes %zu errors %zu us %lld\n", count, (size_t)bytes, (size_t)errors,
	       (to.tv_sec - from.tv_sec) * 1000000LL + (to.tv_nsec - from.tv_nsec) / 1000);
	return errors != 0;
}
