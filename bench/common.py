# SPDX-License-Identifier: GPL-2.0
"""What the benchmarks share: points and their choice, devices, costs, the result file.

They run as root in the machine (tools/vm --sim), and are started by bench/run, which
says by environment variables what to measure and what it knows of the host:

BENCH         the points, by their ids, with commas between (all)
LAT           the device's latencies: 100us,2ms (what the program takes for usual)
BENCH_RESULT  the file to which rows are added; without it they are only printed
BENCH_HOST    JSON: what of the configuration the guest does not know
"""

import json
import os
import platform
import subprocess
import sys
import time

# Two runs that are further apart, in percent, are not believed
SPREAD_LIMIT = 2.0
ATTEMPTS = 3
UNITS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1_000_000_000}
WORDS = "simulated time: 1 instruction = 1 ns"


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def put(path, value):
    with open(path, "w") as f:
        f.write(str(value))


def get(path):
    with open(path) as f:
        return f.read()


# ---- What to measure ----

def chosen(ids):
    """Those of IDS that BENCH names; all without it."""
    wanted = [word for word in os.environ.get("BENCH", "").replace(" ", "").split(",") if word]
    return [id for id in ids if not wanted or id in wanted]


def latencies(usual):
    """Nanoseconds, from LAT or else from USUAL."""
    found = []
    for word in (os.environ.get("LAT") or usual).replace(" ", "").split(","):
        number = word.rstrip("nums")
        found.append(int(number) * UNITS[word[len(number):] or "ns"])
    return found


def latency_name(ns):
    for unit, factor in reversed(UNITS.items()):
        if ns >= factor and ns % factor == 0:
            return f"{ns // factor}{unit}"
    return "0"


# ---- Modules ----

def insert(name):
    run("insmod", f"{os.environ['UPCALL_MODULES']}/bench/{name}.ko")


def remove(name):
    run("rmmod", name)


# ---- Devices ----

# As they were made, for the configuration
DEVICES = {}


def null_blk(name, mib, latency_ns, depth=1024, another=False, **attributes):
    """A disk in memory that answers each request after the same time; at once if that is 0.

    ANOTHER is one beside those that there are, and shares their tags.
    """
    # Shared tags: the set is the module's, and is not marked as one of a driver that sleeps. A device with memory
    # marks its own set so, since null_blk allocates when it is written to. Upcalls would then submit by another
    # thread, as they need not with the drivers of most disks.
    if not another:
        subprocess.run(("rmmod", "null_blk"), stderr=subprocess.DEVNULL)
        run("modprobe", "null_blk", "nr_devices=0", f"hw_queue_depth={depth}")
    if not os.path.isdir("/sys/kernel/config/nullb"):
        run("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
    directory = f"/sys/kernel/config/nullb/{name}"
    os.mkdir(directory)
    settings = {"size": mib, "blocksize": 512, "memory_backed": 1, "irqmode": 2 if latency_ns else 0,
                "completion_nsec": latency_ns, "hw_queue_depth": depth, "submit_queues": 1, "shared_tags": 1}
    for key, value in {**settings, **attributes, "power": 1}.items():
        put(f"{directory}/{key}", value)
    put(f"/sys/block/{name}/queue/scheduler", "none")
    DEVICES[f"{name}, {latency_name(latency_ns)}"] = {
        **settings, **attributes, "scheduler": "none", "nr_requests": int(get(f"/sys/block/{name}/queue/nr_requests"))}
    return f"/dev/{name}"


def remove_null_blk(name):
    os.rmdir(f"/sys/kernel/config/nullb/{name}")


def fill(device, mib):
    """Content, so that a read copies what is there instead of making zeroes."""
    block = os.urandom(1 << 20)
    with open(device, "wb", buffering=0) as f:
        for _ in range(mib):
            f.write(block)
        os.fsync(f.fileno())


def device_reads(device):
    return int(get(f"/sys/block/{os.path.basename(device)}/stat").split()[0])


# ---- Costs ----

class Cost:
    """What one run of a point cost, of one operation, and what else it counted."""

    def __init__(self, ns, ops, reads=0, **also):
        self.ns_per_op = ns / ops
        self.reads_per_op = reads / ops
        self.also = also


def observed(work, device=None):
    """Runs WORK, which returns (nanoseconds, operations, what else it counted)."""
    reads = device_reads(device) if device else 0
    ns, ops, also = work()
    return Cost(ns, ops, device_reads(device) - reads if device else 0, **also)


def spread(values):
    """In percent of the least."""
    return 100 * (max(values) / min(values) - 1) if min(values) else 0.0


def mean(values):
    return sum(values) / len(values)


def twice(engines, limit=SPREAD_LIMIT):
    """Runs each of ENGINES, {name: function that gives a Cost}, twice and by turns.

    An engine whose two runs are more than LIMIT percent apart has both rejected and is run twice again.
    Returns {name: (costs, spread in percent)}.
    """
    costs = {}
    todo = list(engines)
    for attempt in range(ATTEMPTS):
        for name in todo:
            costs[name] = []
        for _ in range(2):
            for name in todo:
                costs[name].append(engines[name]())
        apart = {name: spread([cost.ns_per_op for cost in costs[name]]) for name in engines}
        todo = [name for name in engines if apart[name] > limit]
        if not todo:
            break
        for name in todo:
            print(f"rejected: {name}, runs {apart[name]:.1f} % apart"
                  + (", again" if attempt + 1 < ATTEMPTS else "; kept, do not believe it"), flush=True)
    return {name: (costs[name], apart[name]) for name in engines}


# ---- Results ----

class Results:
    """The rows of a program: printed as they come, and added to BENCH_RESULT."""

    def __init__(self):
        self.rows = []
        self.bars = []
        self.notes = {}
        # What points cost without a latency, which is in instructions
        self.insn = {}
        print(WORDS)
        print(f"{'id':5} {'engine':28} {'in flight':>9} {'L':>6} {'ns/op':>10} {'insn/op':>10} {'reads':>6} "
              f"{'/limit':>7} {'/peer':>7} {'spread':>7}", flush=True)

    def row(self, id, engine, in_flight, latency_ns, costs, apart, limit=None, peer=None, **also):
        """LIMIT and PEER are ns per operation of the bio limit and the best peer.

        A run that waits does not tell its instructions. They are those of the same point on a device
        that answers at once, if that was measured before.
        """
        ns = mean([cost.ns_per_op for cost in costs])
        point = id, engine, in_flight, also.get("what")
        if not latency_ns:
            self.insn[point] = round(ns, 1)
        insn = self.insn.get(point)
        row = {"id": id, "engine": engine, "in_flight": in_flight, "latency_ns": latency_ns,
               "ns_per_op": round(ns, 1),
               "insn_per_op": insn,
               "reads_per_op": round(mean([cost.reads_per_op for cost in costs]), 3),
               "ratio_to_limit": round(ns / limit, 3) if limit else None,
               "ratio_to_best_peer": round(ns / peer, 3) if peer else None,
               "spread_percent": round(apart, 2), **costs[-1].also, **also}
        self.rows.append(row)
        ratio = lambda value: "-" if value is None else f"{value:.3f}"
        print(f"{id:5} {engine:28} {in_flight or '-':>9} {latency_name(latency_ns or 0):>6} {row['ns_per_op']:10.1f} "
              f"{'-' if insn is None else insn:>10} {row['reads_per_op']:6.2f} {ratio(row['ratio_to_limit']):>7} "
              f"{ratio(row['ratio_to_best_peer']):>7} {apart:6.2f}%"
              + "".join(f"  {key}={value}" for key, value in {**costs[-1].also, **also}.items()), flush=True)
        return ns

    def bar(self, id, what, value, limit, at_least=False):
        """A goal, and whether it is met."""
        met = value >= limit if at_least else value <= limit
        self.bars.append({"id": id, "what": what, "value": round(value, 3), "bar": limit, "met": met})
        print(f"{id:5} {'met   ' if met else 'MISSED'} {what}: {value:.4g}, bar {'>=' if at_least else '<='} {limit}",
              flush=True)

    def note(self, **notes):
        """A part of the configuration that is this program's."""
        self.notes.update(notes)

    def save(self):
        """Adds the rows to the result file, in the place of older ones of the same point."""
        print(WORDS)
        path = os.environ.get("BENCH_RESULT")
        if not path:
            return
        try:
            saved = json.loads(get(path))
        except FileNotFoundError:
            saved = {"rows": [], "bars": [], "configuration": {}}
        same = lambda row: (row["id"], row.get("engine"), row.get("in_flight"), row.get("latency_ns"), row.get("what"))
        for kind, new in ("rows", self.rows), ("bars", self.bars):
            replaced = {same(row) for row in new}
            saved[kind] = [row for row in saved[kind] if same(row) not in replaced] + new
        saved["configuration"].update(configuration())
        saved["configuration"]["programs"] = {
            **saved["configuration"].get("programs", {}), os.path.basename(sys.argv[0]): {
                "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
                "devices": DEVICES, **self.notes}}
        with open(path + ".new", "w") as f:
            # A row a line: results are compared by diff
            f.write('{"configuration": ' + json.dumps(saved["configuration"], indent=1))
            for kind in "rows", "bars":
                f.write(f',\n"{kind}": [\n' + ",\n".join(json.dumps(row) for row in saved[kind]) + "\n]")
            f.write("}\n")
        os.rename(path + ".new", path)
        print(f"written: {path}")


def configuration():
    return {
        "time": WORDS,
        "kernel": platform.release(),
        "command_line": get("/proc/cmdline").strip(),
        "cpus": os.cpu_count(),
        **json.loads(os.environ.get("BENCH_HOST", "{}")),
    }


def main(ids, measure):
    """The program: measures those of IDS that are chosen."""
    if os.geteuid() != 0 or not os.path.exists("/run/vm"):
        sys.exit(f"{sys.argv[0]} runs in the machine: make bench")
    started = time.monotonic()
    results = Results()
    measure(chosen(ids), results)
    results.save()
    print(f"{time.monotonic() - started:.1f} simulated seconds")
