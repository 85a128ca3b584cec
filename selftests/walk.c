// SPDX-License-Identifier: GPL-2.0
/*
 * walk DIR: look at everything below DIR in every way that reads, and print how
 * many calls failed, by errno.  Without DIR: for each line "DEVICE FSTYPE DIR" on
 * standard input, mount, do the same, umount, and say "end".  Errors are expected: the caller feeds
 * broken images and failing disks.  What it bounds is its own work, so that a
 * file of 2^60 bytes or a directory without end does not keep it busy: such an
 * end is reported as "unbounded".
 *
 * A line is "errno NUMBER COUNT" or "mount NUMBER"; then "paths N bytes N".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
	MAX_DEPTH = 24,
	MAX_ENTRIES = 20000,
	MAX_SEGMENTS = 50,
	MAX_BYTES = 2 << 20,
};

static unsigned long failures[4096], paths, bytes;
static int unbounded;
static char buffer[1 << 17];

static long count(long result)
{
	if (result < 0 && errno < 4096)
		failures[errno]++;
	return result;
}

static void xattrs(const char *path)
{
	char names[65536], value[65536];
	ssize_t size = count(llistxattr(path, names, sizeof(names)));

	for (ssize_t at = 0; at < size; at += strlen(names + at) + 1)
		count(lgetxattr(path, names + at, value, sizeof(value)));
	if (lgetxattr(path, "system.posix_acl_access", value, sizeof(value)) < 0 &&
	    errno != ENODATA && errno != EOPNOTSUPP)
		count(-1);
}

static void extents(int fd)
{
	struct {
		struct fiemap map;
		struct fiemap_extent extent[64];
	} request = { .map = { .fm_length = ~0ull, .fm_extent_count = 64 } };

	for (int n = 0; n < MAX_SEGMENTS; n++) {
		struct fiemap_extent *last;

		request.map.fm_length = ~0ull - request.map.fm_start;
		if (count(ioctl(fd, FS_IOC_FIEMAP, &request)) < 0 || !request.map.fm_mapped_extents)
			return;
		last = &request.extent[request.map.fm_mapped_extents - 1];
		if (last->fe_flags & FIEMAP_EXTENT_LAST)
			return;
		if (last->fe_logical + last->fe_length <= request.map.fm_start) {
			unbounded = 1;
			return;
		}
		request.map.fm_start = last->fe_logical + last->fe_length;
	}
}

static void content(int fd, off_t size)
{
	off_t at = 0, end = size < MAX_BYTES ? size : MAX_BYTES;

	while (at < end) {
		ssize_t got = count(pread(fd, buffer, sizeof(buffer), at));

		if (got == 0)
			break;
		/* What cannot be read is skipped: more may follow */
		if (got < 0)
			got = 4096;
		else
			bytes += got;
		at += got;
	}
	at = 0;
	for (int n = 0; n < MAX_SEGMENTS && at < size; n++) {
		off_t data = lseek(fd, at, SEEK_DATA);

		if (data < 0) {
			if (errno != ENXIO)
				count(-1);
			break;
		}
		at = count(lseek(fd, data, SEEK_HOLE));
		if (at < 0)
			break;
		if (at <= data) {
			unbounded = 1;
			break;
		}
		if (data >= end)
			count(pread(fd, buffer, 4096, data));
	}
	count(pread(fd, buffer, sizeof(buffer), size / 2));
	count(pread(fd, buffer, 4096, size > 100 ? size - 100 : 0));
}

static void walk(const char *path, int depth);

static void directory(const char *path, int depth)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	char *child;
	int n = 0;

	if (!dir) {
		count(-1);
		return;
	}
	count(ioctl(dirfd(dir), FS_IOC_GETFLAGS, buffer));
	for (;;) {
		errno = 0;
		entry = readdir(dir);
		if (!entry) {
			if (errno)
				count(-1);
			break;
		}
		if (++n > MAX_ENTRIES) {
			unbounded = 1;
			break;
		}
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		/* Of a long directory, all is listed and some is looked at */
		if (n > 64 && n % 16)
			continue;
		if (asprintf(&child, "%s/%s", path, entry->d_name) < 0)
			exit(2);
		walk(child, depth + 1);
		free(child);
	}
	closedir(dir);
	/* A name that is not there goes through the hash tree too */
	if (asprintf(&child, "%s/no such name", path) < 0)
		exit(2);
	if (access(child, F_OK) && errno != ENOENT)
		count(-1);
	free(child);
}

static void walk(const char *path, int depth)
{
	struct stat st;
	int fd;

	static ino_t seen;

	paths++;
	if (count(lstat(path, &st)))
		return;
	/* The tests make long directories of links to one file: once is enough */
	if (S_ISREG(st.st_mode) && st.st_nlink > 20 && st.st_ino == seen)
		return;
	if (st.st_nlink > 20)
		seen = st.st_ino;
	xattrs(path);
	if (S_ISLNK(st.st_mode)) {
		count(readlink(path, buffer, sizeof(buffer)));
	} else if (S_ISDIR(st.st_mode)) {
		/* A directory may be inside itself on a broken image */
		if (depth < MAX_DEPTH)
			directory(path, depth);
	} else if (S_ISREG(st.st_mode)) {
		fd = count(open(path, O_RDONLY));
		if (fd < 0)
			return;
		extents(fd);
		content(fd, st.st_size);
		close(fd);
	}
}

static void walk_all(const char *path)
{
	struct statfs fs;

	memset(failures, 0, sizeof(failures));
	paths = bytes = unbounded = 0;
	count(statfs(path, &fs));
	walk(path, 0);
	for (int e = 0; e < 4096; e++)
		if (failures[e])
			printf("errno %d %lu\n", e, failures[e]);
	printf("paths %lu bytes %lu\n", paths, bytes);
	if (unbounded)
		printf("unbounded\n");
}

int main(int argc, char **argv)
{
	char device[100], type[100], path[100];

	if (argc == 2) {
		walk_all(argv[1]);
		return 0;
	}
	while (scanf("%99s %99s %99s", device, type, path) == 3) {
		if (mount(device, path, type, MS_RDONLY, "")) {
			printf("mount %d\n", errno);
		} else {
			walk_all(path);
			if (umount(path))
				printf("umount %d\n", errno);
		}
		printf("end\n");
		fflush(stdout);
	}
	return 0;
}
