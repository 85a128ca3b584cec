# SPDX-License-Identifier: GPL-2.0
"""What the selftests of volumes that are mounted for writing share."""

import contextlib
import ctypes
import os
import sys

import harness
from harness import MS_RDONLY, equal, loop, mount, run, sys_umount


class Volume:
    """A fresh image, on a loop device until the end of the test."""

    def __init__(self, *features, size="64M", options="", source=None):
        self.image = "/tmp/written.img"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.image)
        kind = () if "-t" in features else ("-t", "ext4")
        populate = ("-d", source) if source else ()
        run("mke2fs", "-q", "-F", *kind, "-E", "lazy_itable_init=0", *populate, *features,
            self.image, size)
        self.device = loop(self.image)
        self.options = options
        self.dir = None

    def mount(self, flags=0, options=None, fstype=None):
        self.dir = mount(self.device, self.options if options is None else options, flags, fstype)
        return self.dir

    def umount(self):
        sys_umount(self.dir)

    def judge(self):
        """The volume is in order."""
        run("e2fsck", "-fn", self.device)

    def ends(self, facts):
        """Unmount.  e2fsck finds nothing, and ext4 and another mount of ours see what FACTS of a tree say."""
        seen = facts(self.dir)
        self.umount()
        self.judge()
        for fstype in ("ext4", None):
            found = facts(self.mount(MS_RDONLY, "", fstype))
            self.umount()
            for path in sorted(seen.keys() | found.keys()):
                equal(found.get(path), seen.get(path), path)


def in_child(function):
    """Run FUNCTION in a process of its own."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException as why:
            harness.note(harness.describe(why))
        finally:
            sys.stdout.flush()
            os._exit(status)
    equal(os.waitpid(child, 0)[1], 0, "status of the child")


def link_fd(fd, path):
    """Give a file that has no name one."""
    # AT_FDCWD, AT_SYMLINK_FOLLOW
    if harness.libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, os.fsencode(path), 0x400):
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e), path)
