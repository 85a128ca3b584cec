# SPDX-License-Identifier: GPL-2.0
"""What the selftests share: TAP output, loop devices, mounts, the kernel log.

The tests run as root in the lab's virtual machine (tools/vm).  FSTYPE=ext4
runs them against the kernel's own ext4: that proves the test, not the module.
"""

import contextlib
import ctypes
import errno
import fcntl
import importlib.machinery
import importlib.util
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback

FSTYPE = os.environ.get("FSTYPE", "aext4")
HERE = os.path.dirname(os.path.abspath(__file__))
# Images that `mkimages DIR` left there; without it each test makes its own
IMAGES = os.environ.get("UPCALL_IMAGES")
SEED = 0x75706361
# How much of the kernel's log is shown with a failure
LOG_LINES = 60

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MNT_DETACH = 2


# ---- TAP ----

class Skip(Exception):
    """A test that cannot run here, and why."""


_tests = []
# Are all tests run, so that one can say what none of them needed?
whole_run = True


def test(name):
    """Register a function as the test NAME; it fails by an exception."""
    def register(function):
        _tests.append((name, function))
        return function
    return register


def check(condition, *why):
    if not condition:
        raise AssertionError(" ".join(map(str, why)) or "check failed")


def equal(got, wanted, what=""):
    check(got == wanted, f"{what}: " if what else "", f"got {got!r}, wanted {wanted!r}")


def note(*words):
    for line in " ".join(map(str, words)).split("\n"):
        print("#", line.encode("utf-8", "backslashreplace").decode(), flush=True)


def picked_by(words, name):
    """A word picks a test that has it in its name; "=NAME" picks the one of that name."""
    return not words or any(word == "=" + name if word.startswith("=") else word in name for word in words)


def describe(why):
    """Where a test failed, and why: FILE:LINE of the line that checked, and of those that called it."""
    def relative(path):
        return os.path.relpath(path, os.path.dirname(HERE))

    frames = [f for f in traceback.extract_tb(why.__traceback__) if f.filename != __file__]
    at = "".join(f"{relative(f.filename)}:{f.lineno}: in {f.name}: {f.line}\n" for f in frames[:-1])
    last = f"{relative(frames[-1].filename)}:{frames[-1].lineno}: " if frames else ""
    if isinstance(why, AssertionError):
        return f"{at}{last}{why or (frames[-1].line if frames else '')}"
    return f"{at}{last}{type(why).__name__}: {why}\n{traceback.format_exc()}"


def run_tests():
    """Run what was registered.  Arguments pick tests by name (see picked_by)."""
    global whole_run
    picked = [t for t in _tests if picked_by(sys.argv[1:], t[0])]
    whole_run = len(picked) == len(_tests)
    if os.geteuid() != 0 or not os.path.exists("/run/vm"):
        sys.exit(f"{sys.argv[0]}: runs as root in the virtual machine: "
                 f"tools/vm -- selftests/{os.path.basename(sys.argv[0])}")
    print(f"TAP version 13\n1..{len(picked)}", flush=True)
    failed = 0
    for number, (name, function) in enumerate(picked, 1):
        started = time.monotonic()
        log = Log()
        try:
            function()
            result, rest = "ok", ""
        except Skip as why:
            result, rest = "ok", f" # SKIP {why}"
        except Exception as why:
            note(describe(why))
            result, rest = "not ok", ""
            failed += 1
            # Cleaning up says things, too
            said = log.lines()
            if len(said) > LOG_LINES:
                note(f"(the kernel said {len(said) - LOG_LINES} lines before these)")
            for line in said[-LOG_LINES:]:
                note(f"kernel: {line}")
        log.close()
        cleanup()
        print(f"{result} {number} {name}{rest}", flush=True)
        seconds = time.monotonic() - started
        if seconds > 10:
            note(f"{seconds:.0f} s")
    sys.exit(1 if failed else 0)


# ---- what is given back at the end of each test ----

_undo = []


def cleanup():
    while _undo:
        with contextlib.suppress(OSError):
            _undo.pop()()


# ---- commands and modules ----

def put(path, value):
    with open(path, "w") as f:
        f.write(str(value))


def run(*command, input=None, ok=True):
    """Run COMMAND and return its output, stderr included."""
    done = subprocess.run([str(w) for w in command], input=input, text=True,
                          errors="replace", stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if ok and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.stdout}")
    return done.stdout


def modprobe(*names):
    """Load modules of the kernel's; whatever is built in is there already."""
    for name in names:
        run("modprobe", "-q", name, ok=False)


def load(name):
    """Import a script that has no .py in its name."""
    loader = importlib.machinery.SourceFileLoader(name, f"{HERE}/{name}")
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def compile_c(name):
    """Compile selftests/NAME.c and return the program's path."""
    program = f"/tmp/{name}"
    if not os.path.exists(program):
        run("gcc", "-O1", "-Wall", "-Werror", "-o", program, f"{HERE}/{name}.c", "-lpthread")
    return program


def get_image(name):
    """An image of mkimages, in memory; made now if nobody did before."""
    path = f"/tmp/{name}.img"
    if IMAGES and os.path.exists(f"{IMAGES}/{name}.img"):
        run("cp", "--sparse=always", f"{IMAGES}/{name}.img", path)
    else:
        load("mkimages").make(name, path)
    return path


def debug_kernel():
    return os.path.exists("/sys/kernel/debug/kmemleak")


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


# ---- loop devices ----

LOOP_CONFIGURE, LOOP_CLR_FD, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C01, 0x4C82
LO_READ_ONLY, LO_DIRECT_IO = 1, 16
_loop_ready = False


def loop_attach(file, ro=False, direct=False):
    """Attach FILE to a free loop device; /dev/loopN.  Detach it yourself."""
    global _loop_ready
    if not _loop_ready:
        modprobe("loop")
        _loop_ready = True
    backing = os.open(file, os.O_RDONLY if ro else os.O_RDWR)
    try:
        while True:
            control = os.open("/dev/loop-control", os.O_RDWR)
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            os.close(control)
            device = os.open(f"/dev/loop{number}", os.O_RDONLY if ro else os.O_RDWR)
            info = struct.pack("<5Q4I64s64s32s2Q", 0, 0, 0, 0, 0, 0, 0, 0,
                               (LO_READ_ONLY if ro else 0) | (LO_DIRECT_IO if direct else 0),
                               os.fsencode(file)[:63], b"", b"", 0, 0)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE,
                            struct.pack("<II", backing, 0) + info + bytes(64))
                return f"/dev/loop{number}"
            except OSError as e:
                # Another process took it
                if e.errno != errno.EBUSY:
                    raise
            finally:
                os.close(device)
    finally:
        os.close(backing)


def loop_detach(device):
    fd = os.open(device, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, LOOP_CLR_FD)
    finally:
        os.close(fd)


def loop(file, ro=False, direct=False):
    """A loop device until the end of this test."""
    device = loop_attach(file, ro, direct)
    _undo.append(lambda: loop_detach(device))
    return device


# ---- device mapper ----

def sectors(device):
    with open(f"/sys/class/block/{os.path.basename(device)}/size") as f:
        return int(f.read())


def dm(name, *targets):
    """A mapped device until the end of this test; a target is (sectors, type, ...)."""
    modprobe("dm-mod", *(f"dm-{t[1]}" for t in targets))
    run("dmsetup", "create", name, "--noudevsync", input=dm_table(targets))
    _undo.append(lambda: run("dmsetup", "remove", "--noudevsync", "--retry", name, ok=False))
    minor = run("dmsetup", "info", "-c", "--noheadings", "-o", "minor", name).strip()
    return f"/dev/dm-{minor}"


def dm_table(targets):
    at, lines = 0, []
    for size, *words in targets:
        lines.append(" ".join(map(str, [at, size, *words])))
        at += size
    return "\n".join(lines) + "\n"


def dm_reload(name, *targets):
    """Replace what NAME is, with its requests held meanwhile."""
    modprobe(*(f"dm-{t[1]}" for t in targets))
    run("dmsetup", "load", name, input=dm_table(targets))
    run("dmsetup", "suspend", "--noflush", "--nolockfs", "--noudevsync", name)
    run("dmsetup", "resume", "--noudevsync", name)


# ---- mounts ----

def sys_mount(source, target, fstype, flags=0, data=""):
    if libc.mount(os.fsencode(source), os.fsencode(target),
                  fstype and fstype.encode(), ctypes.c_ulong(flags), os.fsencode(data)):
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e), source)


def sys_umount(target, flags=0):
    if libc.umount2(os.fsencode(target), flags):
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e), target)


def mount(source, options="", flags=MS_RDONLY, fstype=None, at=None):
    """Mount until the end of this test and return the directory."""
    target = at or tempfile.mkdtemp(prefix="mnt-")
    try:
        sys_mount(source, target, fstype or FSTYPE, flags, options)
    except OSError:
        if not at:
            os.rmdir(target)
        raise

    def undo():
        with contextlib.suppress(OSError):
            sys_umount(target)
        if not at:
            os.rmdir(target)
    _undo.append(undo)
    return target


def fails(number, function, *args, **kwargs):
    """FUNCTION must fail with this errno."""
    try:
        function(*args, **kwargs)
    except OSError as e:
        wanted = number if isinstance(number, tuple) else (number,)
        check(e.errno in wanted, f"got {errno.errorcode.get(e.errno, e.errno)}, wanted "
              + "/".join(errno.errorcode.get(n, str(n)) for n in wanted))
        return
    raise AssertionError("no error, wanted "
                         + str(errno.errorcode.get(number, number)))


def mount_options(target):
    """(file system, set of options) as /proc/mounts has them."""
    found = None
    with open("/proc/mounts") as f:
        for line in f:
            _, where, fstype, options, *_ = line.split(" ")
            if where == target:
                found = fstype, set(options.split(","))
    return found


# ---- file handles, as NFS uses them ----

def handle(path, flags=0):
    """The handle's bytes, with its header."""
    buffer = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0), 136)
    mount_id = ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), buffer, ctypes.byref(mount_id), flags):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    size, = struct.unpack_from("<I", buffer.raw)
    return buffer.raw[:8 + size]


def open_handle(m, raw, flags=os.O_RDONLY):
    """A descriptor of what RAW, a handle, names on the volume that is mounted at M."""
    at = os.open(m, os.O_RDONLY)
    try:
        fd = libc.open_by_handle_at(at, ctypes.create_string_buffer(raw, len(raw)), flags)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
        return fd
    finally:
        os.close(at)


# ---- the kernel log ----

class Log:
    """What the kernel says from now on."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def lines(self):
        got = []
        while True:
            try:
                record = os.read(self.fd, 8192)
            except BlockingIOError:
                return got
            except BrokenPipeError:
                got.append("(messages were lost)")
                continue
            text = record.decode("utf-8", "replace").split("\n")[0]
            got.append(text.split(";", 1)[1])

    def about(self, device):
        """What a file system said of this device (not the device itself)."""
        name = os.path.basename(device)
        return [line for line in self.lines()
                if f"({name})" in line or f"({device})" in line or f"device {name}" in line]

    def close(self):
        os.close(self.fd)


# ---- allocations that fail ----

FAIL = "/sys/kernel/debug"


def text_of(module):
    """(first, last) address of a module."""
    with open("/proc/modules") as f:
        for line in f:
            name, size, *_, address = line.split(" (")[0].split()
            if name == module:
                return int(address, 16), int(address, 16) + int(size)
    raise AssertionError(f"{module} is not loaded")


class Injection:
    """Allocations that have MODULE among their callers fail, in any context."""

    def __init__(self, kind, module, percent):
        if not os.path.exists(f"{FAIL}/{kind}"):
            raise Skip(f"this kernel has no {kind}")
        first, last = text_of(module)
        self.dir = f"{FAIL}/{kind}"
        for name, value in (("task-filter", "N"), ("interval", 1), ("times", 1000000),
                            ("verbose", 0), ("ignore-gfp-wait", "N"), ("stacktrace-depth", 32),
                            ("require-start", f"{first:#x}"), ("require-end", f"{last:#x}"),
                            ("probability", 0)):
            put(f"{self.dir}/{name}", value)
        if kind == "fail_page_alloc":
            put(f"{self.dir}/min-order", 0)
            put(f"{self.dir}/ignore-gfp-highmem", "N")
        self.percent = percent

    def on(self):
        put(f"{self.dir}/probability", self.percent)

    def off(self):
        put(f"{self.dir}/probability", 0)

    def failed(self):
        with open(f"{self.dir}/times") as f:
            return 1000000 - int(f.read())


# ---- processes with a time limit ----

def bounded(function, seconds):
    """Run FUNCTION in a child.  Its exit status, or None if it had to be left
    behind: a child that SIGKILL does not end hangs in the kernel."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(seconds)
            function()
            status = 0
        except BaseException:
            note(traceback.format_exc())
        finally:
            sys.stdout.flush()
            os._exit(status)
    deadline = time.monotonic() + seconds + 10
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    with contextlib.suppress(OSError):
        note(f"hangs at:\n{open(f'/proc/{child}/stack').read()}")
    os.kill(child, signal.SIGKILL)
    return None


@contextlib.contextmanager
def work_dir():
    path = tempfile.mkdtemp(prefix="work-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
