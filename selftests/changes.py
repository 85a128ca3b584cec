# SPDX-License-Identifier: GPL-2.0
"""Random changes of a tree, each of them synced, and what a crash may leave of them."""

import ctypes
import hashlib
import os
import random
import threading

from harness import check, libc

KEEP, PUNCH, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
# The offsets of ranges: a multiple of each size of blocks
STEP = 4096
RANGES = {"punch": PUNCH | KEEP, "zero": ZERO, "collapse": COLLAPSE, "insert": INSERT, "allocate": KEEP}


class File:
    """What a file has.  All its names share it."""

    def __init__(self, data):
        self.data = data


def content(seed, size):
    """The bytes of a file: they differ from block to block, and from file to file."""
    out = bytearray()
    block = 0
    while len(out) < size:
        out += hashlib.sha256(f"{seed}/{block}".encode()).digest() * 16
        block += 1
    return bytes(out[:size])


def write_all(path, data, flags=0, pos=None):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        if pos is not None:
            os.lseek(fd, pos, os.SEEK_SET)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_dir(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def plan(rng, state, extents=True, files_max=40, size_max=100000):
    """The next change: a tuple of words.  Without EXTENTS of all ranges only holes can be made."""
    files = sorted(name for name, what in state.items() if what != "dir")
    dirs = sorted(name for name, what in state.items() if what == "dir")
    empty = [d for d in dirs if not any(name.startswith(d + "/") for name in state)]
    kind = rng.choice(["create"] * 4 + ["append", "append", "truncate", "replace", "overwrite", "rename", "over",
                                        "unlink", "unlink", "mkdir", "rmdir", "link", "punch", *RANGES])
    if kind in RANGES and not extents:
        kind = "punch"
    place = rng.choice(dirs + [""])
    new = (place + "/" if place else "") + f"n{rng.randrange(10**6)}"
    if new in state:
        return plan(rng, state, extents, files_max, size_max)
    if kind == "mkdir" and len(dirs) < 8:
        return ("mkdir", new)
    if kind == "rmdir" and empty:
        return ("rmdir", rng.choice(empty))
    if files and (kind != "create" or len(files) > files_max):
        name = rng.choice(files)
        size = len(state[name].data)
        if kind == "append" and size < 3 * size_max:
            return ("append", name, str(rng.randrange(1, size_max // 3)))
        if kind == "truncate":
            return ("truncate", name, str(min(rng.randrange(0, 2 * size + 2), 3 * size_max)))
        if kind == "replace":
            return ("replace", name, str(rng.randrange(10**9)), str(rng.randrange(size_max)))
        if kind == "overwrite" and size:
            pos = rng.randrange(size)
            return ("overwrite", name, str(rng.randrange(10**9)), str(pos),
                    str(rng.randrange(1, min(size - pos, size_max // 3) + 1)))
        if kind in ("rename", "link"):
            return (kind, name, new)
        if kind == "over" and len(files) > 1:
            return ("rename", name, rng.choice([f for f in files if f != name]))
        if kind in RANGES and size > 2 * STEP:
            pos = rng.randrange(size // STEP) * STEP
            count = rng.randrange(1, 5) * STEP
            if kind in ("punch", "zero"):
                # Also within blocks
                pos, count = pos + rng.choice((0, 0, 100)), count + rng.choice((0, 0, 1234))
            if kind == "zero":
                count = min(count, size - pos)
            if kind != "collapse" or pos + count < size:
                if kind != "insert" or size < 3 * size_max:
                    return (kind, name, str(pos), str(count))
        return ("unlink", name)
    return ("create", new, str(rng.randrange(10**9)), str(rng.randrange(size_max)))


def expect(state, change):
    """What the change makes of STATE: name -> "dir", or File."""
    kind, name, *rest = change
    old = state.get(name)
    if kind == "mkdir":
        state[name] = "dir"
    elif kind in ("rmdir", "unlink"):
        del state[name]
    elif kind in ("create", "replace"):
        state[name] = File(content(rest[0], int(rest[1])))
    elif kind == "append":
        size = len(old.data)
        old.data += content(f"append{size}", size + int(rest[0]))[size:]
    elif kind == "truncate":
        old.data = old.data[:int(rest[0])].ljust(int(rest[0]), b"\0")
    elif kind == "overwrite":
        pos, count = int(rest[1]), int(rest[2])
        old.data = old.data[:pos] + content(rest[0], count) + old.data[pos + count:]
    elif kind == "rename":
        state.pop(name)
        # Two names of one file both stay
        if state.get(rest[0]) is old:
            state[name] = old
        state[rest[0]] = old
    elif kind == "link":
        state[rest[0]] = old
    elif kind in RANGES:
        pos, count = map(int, rest)
        before, after = old.data[:pos], old.data[pos + count:]
        inside = len(old.data) - len(before) - len(after)
        old.data = {"punch": before + bytes(inside) + after, "zero": before + bytes(inside) + after,
                    "collapse": before + after, "insert": before + bytes(count) + old.data[pos:],
                    "allocate": old.data}[kind]


def carry_out(root, state, change):
    """Change what is in ROOT, and sync it."""
    kind, name, *rest = change
    path = f"{root}/{name}"
    if kind == "mkdir":
        os.mkdir(path)
    elif kind == "rmdir":
        os.rmdir(path)
    elif kind == "unlink":
        os.unlink(path)
    elif kind == "create":
        write_all(path, content(rest[0], int(rest[1])), os.O_EXCL)
    elif kind == "replace":
        write_all(f"{root}/tmp", content(rest[0], int(rest[1])), os.O_TRUNC)
        os.rename(f"{root}/tmp", path)
    elif kind == "append":
        size = len(state[name].data)
        write_all(path, content(f"append{size}", size + int(rest[0]))[size:], os.O_APPEND)
    elif kind == "truncate":
        os.truncate(path, int(rest[0]))
        write_all(path, b"")
    elif kind == "overwrite":
        write_all(path, content(rest[0], int(rest[2])), pos=int(rest[1]))
    elif kind in ("rename", "link"):
        getattr(os, kind)(path, f"{root}/{rest[0]}")
        sync_dir(os.path.dirname(f"{root}/{rest[0]}"))
    elif kind in RANGES:
        fd = os.open(path, os.O_RDWR)
        try:
            if libc.fallocate64(fd, RANGES[kind], *(ctypes.c_long(int(word)) for word in rest)):
                number = ctypes.get_errno()
                raise OSError(number, f"{os.strerror(number)}: {change}")
            os.fsync(fd)
        finally:
            os.close(fd)
    sync_dir(os.path.dirname(path))


def copy_of(state):
    """A copy in which names of one file still are."""
    known = {}
    return {name: what if what == "dir" else known.setdefault(id(what), File(what.data))
            for name, what in state.items()}


# ---- a load ----

class Load:
    """Threads that change a tree each, TOP/w0 and so on, until they are told to end, or cannot go on.

    TREES has what they begin with.  TELL(worker, change) is called before a change, and TELL(worker, None)
    when it is durable."""

    def __init__(self, top, seed, trees, tell=lambda worker, change: None, **limits):
        self.top, self.tell, self.limits = top, tell, limits
        self.trees = trees
        self.before = [copy_of(tree) for tree in trees]
        # What was begun, and how many of it are durable
        self.changes = [[] for _ in trees]
        self.durable = [0 for _ in trees]
        self.errors, self.over = [], False
        self.threads = [threading.Thread(target=self.work, args=(n, random.Random(f"{seed}/{n}")))
                        for n in range(len(trees))]
        for thread in self.threads:
            thread.start()

    def work(self, number, rng):
        state, root = self.trees[number], f"{self.top}/w{number}"
        while not self.over:
            change = plan(rng, state, **self.limits)
            self.changes[number].append(change)
            self.tell(number, change)
            try:
                carry_out(root, state, change)
            except OSError as why:
                self.errors.append(why)
                return
            expect(state, change)
            self.durable[number] += 1
            self.tell(number, None)

    def wait_for(self, count):
        """Until so many changes are durable."""
        while sum(self.durable) < count:
            check(not self.errors, self.errors)
            check(any(thread.is_alive() for thread in self.threads), "the load ended")
            self.threads[0].join(0.01)

    def end(self):
        self.over = True
        for thread in self.threads:
            thread.join(120)
            check(not thread.is_alive(), "a writer hangs")

    def only(self, *numbers):
        """No other errors came."""
        wrong = [why for why in self.errors if why.errno not in numbers]
        check(not wrong, wrong)


def make(top, workers):
    """Directories for so many workers, durable."""
    for number in range(workers):
        os.mkdir(f"{top}/w{number}")
    sync_dir(top)
    return [{} for _ in range(workers)]


# ---- what is left ----

def found(root):
    """The tree as it is, but for the file that a replacement may leave."""
    out, files = {}, {}
    for at, dirs, names in os.walk(root):
        inside = os.path.relpath(at, root)
        for name in dirs + names:
            path = name if inside == "." else f"{inside}/{name}"
            if path == "tmp":
                continue
            if name in dirs:
                out[path] = "dir"
                continue
            number = os.lstat(f"{root}/{path}").st_ino
            if number not in files:
                with open(f"{root}/{path}", "rb") as f:
                    files[number] = File(f.read())
            out[path] = files[number]
    return out


def differences(got, wanted):
    lines = []
    for name in sorted(set(got) | set(wanted)):
        a, b = got.get(name), wanted.get(name)
        if a is None or b is None:
            lines.append(f"{name}: {'lost' if a is None else 'should not be there'}")
        elif "dir" in (a, b):
            if a != b:
                lines.append(f"{name}: another type")
        elif a.data != b.data:
            a, b = a.data, b.data
            first = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            lines.append(f"{name}: {len(a)} bytes, not {len(b)}; byte {first} differs")
    return lines


def in_between(got, before, change):
    """Whether it may be what is left of a change that did not end."""
    kind, name, *_ = change
    if kind not in ("append", "truncate", "create", "overwrite", *RANGES):
        return False
    # Its data may be there in part; nothing but what was or what was to be
    after = copy_of(before)
    expect(after, change)
    old = before.get(name)
    same = {other for other, what in before.items() if what is old}
    if any(line.split(":")[0] not in same | {name} for line in differences(got, before)):
        return False
    data = got.get(name)
    if data is None or data == "dir":
        return kind == "create" and data is None
    if kind in ("collapse", "insert"):
        # Nobody promises that extents are moved at once
        return True
    old, new, data = old.data if old else b"", after[name].data, data.data
    longest = max(len(old), len(new))
    old, new = old.ljust(longest, b"\0"), new.ljust(longest, b"\0")
    # Where bytes are written over in place there never are zeros
    zero = -1 if kind == "overwrite" else 0
    return len(data) <= longest and stale(data, zero, old, new) is None


def stale(data, zero, *known):
    """The first byte of DATA that none of KNOWN has there, and that is not ZERO."""
    bytes_of = enumerate(zip(data, *known))
    return next((n for n, (x, *others) in bytes_of if x not in (zero, *others)), None)


def neither(got, wanted):
    """What a file has that is neither zero nor of the file WANTED."""
    if not isinstance(got, File) or not isinstance(wanted, File):
        return []
    at = stale(got.data, 0, wanted.data.ljust(len(got.data), b"\0"))
    if at is None:
        return []
    return [f"neither zero nor of the change: bytes from {at} on, {got.data[at:at + 16].hex()}"]


def wrong(got, state, changes):
    """What is wrong if GOT is not STATE after some of CHANGES, the next of them in part."""
    state, first = copy_of(state), None
    for change in [*changes, None]:
        lines = differences(got, state)
        if not lines or change and in_between(got, state, change):
            return []
        first = first or lines
        if change:
            expect(state, change)
            first = first + neither(got.get(change[1]), state.get(change[1]))
    return [f"{len(changes)} changes may be there, from {changes[:1]} on:"] + first
