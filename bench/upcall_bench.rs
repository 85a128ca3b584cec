// SPDX-License-Identifier: GPL-2.0

//! The runtime's side of `bench/runtime`; `peer.c` has the other.
//!
//! Writing `WORKLOAD ARGUMENTS` to the debugfs file `upcall_bench/run` runs the workload for the
//! writer's thread. Reading the file gives `ns=.. ops=..` of the last one.

use core::future::{poll_fn, Future};
use core::task::{Poll, Waker};
use kernel::debugfs::{Dir, File, Reader, Writer};
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel::time::{Instant, Monotonic};
use kernel::uaccess::UserSliceReader;
use kernel::{fmt, InPlaceModule};
use upcall::oneshot::Receiver;
use upcall::{
    block_on, oneshot, yield_now, Block, Device, Mutex, Notify, RwSemaphore, Scope, Semaphore,
    Spawner,
};

module! {
    type: UpcallBench,
    name: "upcall_bench",
    authors: ["The Upcall developers"],
    description: "The runtime's side of its benchmark",
    license: "GPL",
}

#[pin_data]
struct UpcallBench {
    #[pin]
    file: File<Runner>,
    /// Goes after the file.
    dir: Dir,
}

impl InPlaceModule for UpcallBench {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let dir = Dir::new(c"upcall_bench");
        try_pin_init!(Self {
            file <- dir.read_write_file(c"run", Runner(Mutex::new(State::default()))),
            dir,
        })
    }
}

/// What the file does.
struct Runner(Mutex<State>);

#[derive(Default)]
struct State {
    ns: u64,
    ops: u64,
    held: Option<Held>,
}

impl Writer for Runner {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock_blocking().map_err(|_| fmt::Error)?;
        writeln!(f, "ns={} ops={}", state.ns, state.ops)
    }
}

impl Reader for Runner {
    fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
        let mut line = [0; 128];
        let line = line.get_mut(..reader.len()).ok_or(EINVAL)?;
        reader.read_slice(line)?;
        let line = core::str::from_utf8(line).map_err(|_| EINVAL)?;
        self.0.lock_blocking()?.run(line)
    }
}

fn number(word: Option<&str>) -> Result<u64> {
    word.ok_or(EINVAL)?.parse().map_err(|_| EINVAL)
}

impl State {
    fn run(&mut self, line: &str) -> Result {
        let mut words = line.split_whitespace();
        let name = words.next().ok_or(EINVAL)?;
        let ns = match name {
            "reads" | "reads_merging" | "hold_reads" => {
                let path = words.next().ok_or(EINVAL)?;
                let depth = number(words.next())?;
                if name == "hold_reads" {
                    self.ops = depth;
                    self.held = Some(hold_reads(path, depth)?);
                    0
                } else {
                    self.ops = number(words.next())?;
                    reads(path, depth, self.ops, name == "reads_merging")?
                }
            }
            "release" => self.held.take().ok_or(EINVAL)?.release()?,
            _ => {
                self.ops = number(words.next())?;
                let work = match name {
                    "spawn" => spawn,
                    "spawn_inside" => |count| from_inside(count, spawn_inside),
                    "yield" => |count| from_inside(count, yields),
                    "wake" => wake_each_other,
                    "wake_again" => |count| from_inside(count, wake_itself),
                    "wake_idle" => wake_idle,
                    "notify" => notify_each_other,
                    "read_blocking" => read_blocking,
                    "read_block_on" => read_block_on,
                    "read_inside" => |count| from_inside(count, read_inside),
                    "try_read" => try_read,
                    "hold_tasks" => {
                        self.held = Some(hold_tasks(self.ops)?);
                        return Ok(());
                    }
                    _ => return Err(EINVAL),
                };
                work(self.ops)?
            }
        };
        self.ns = ns;
        Ok(())
    }
}

/// The nanoseconds that `work` takes.
fn timed(work: impl FnOnce() -> Result) -> Result<u64> {
    let start = Instant::<Monotonic>::now();
    work()?;
    Ok(start.elapsed().as_nanos() as u64)
}

/// The nanoseconds that an upcall takes, as itself sees it.
fn from_inside<F>(count: u64, work: impl FnOnce(u64, Spawner) -> F) -> Result<u64>
where
    F: Future<Output = Result> + Send + 'static,
{
    let scope = Scope::new()?;
    let work = work(count, scope.spawner());
    block_on(scope.spawn(async move {
        let start = Instant::<Monotonic>::now();
        work.await?;
        Ok(start.elapsed().as_nanos() as u64)
    })?)??
}

fn spawn(count: u64) -> Result<u64> {
    let scope = Scope::new()?;
    timed(|| {
        for _ in 0..count {
            block_on(scope.spawn(async {})?)??;
        }
        Ok(())
    })
}

async fn spawn_inside(count: u64, spawner: Spawner) -> Result {
    for _ in 0..count {
        spawner.spawn(async {})?.await?;
    }
    Ok(())
}

async fn yields(count: u64, _: Spawner) -> Result {
    for _ in 0..count {
        yield_now().await;
    }
    Ok(())
}

/// As [`yields`], with nothing between the waker and the poll.
async fn wake_itself(count: u64, _: Spawner) -> Result {
    let mut left = count;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    Ok(())
}

/// The waker of whoever awaits it.
async fn own_waker() -> Waker {
    poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
}

/// Two tasks that wake each other by their wakers: each wake finds a task that is not scheduled, and
/// an executor that is busy.
fn wake_each_other(count: u64) -> Result<u64> {
    /// Counts down and wakes the other, each time when it is polled.
    async fn turn(waker: upcall::oneshot::Sender<Waker>, other: Receiver<Waker>, count: u64) {
        let _ = waker.send(own_waker().await);
        let Ok(other) = other.await else { return };
        let mut left = count;
        poll_fn(|_| {
            other.wake_by_ref();
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            Poll::Pending
        })
        .await;
    }
    let scope = Scope::new()?;
    let (to_b, from_a) = oneshot()?;
    let (to_a, from_b) = oneshot()?;
    // The executor has the turns in hand only once both have been spawned
    let half = count >> 1;
    timed(|| {
        scope.spawn(turn(to_b, from_b, half))?;
        scope.spawn(turn(to_a, from_a, half))?;
        block_on(scope.join())
    })
}

/// A thread that wakes a task on an idle executor, and waits until the task has woken it.
fn wake_idle(count: u64) -> Result<u64> {
    let polls = Arc::new(Atomic::<u64>::new(0), GFP_KERNEL)?;
    let thread = block_on(own_waker())?;
    let (to_us, from_task) = oneshot()?;
    let scope = Scope::new()?;
    let counter = polls.clone();
    let task = scope.spawn(async move {
        let _ = to_us.send(own_waker().await);
        poll_fn(|_| {
            // One for the first poll, and one for each wake
            counter.add(1u64, Relaxed);
            thread.wake_by_ref();
            if counter.load(Relaxed) > count {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await
    })?;
    let until = |n| {
        block_on(poll_fn(|_| {
            if polls.load(Relaxed) < n {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        }))
    };
    let waker = block_on(from_task)??;
    until(1)?;
    let ns = timed(|| {
        for n in 0..count {
            waker.wake_by_ref();
            until(n + 2)?;
        }
        Ok(())
    })?;
    block_on(task)??;
    Ok(ns)
}

/// As [`wake_each_other`], by what a user would take for it.
fn notify_each_other(count: u64) -> Result<u64> {
    let scope = Scope::new()?;
    let sides = Arc::new((Notify::new(), Notify::new()), GFP_KERNEL)?;
    let half = count >> 1;
    let other = sides.clone();
    timed(|| {
        scope.spawn(async move {
            for _ in 0..half {
                sides.0.notify_one();
                sides.1.notified().await?;
            }
            Ok::<_, Error>(())
        })?;
        scope.spawn(async move {
            for _ in 0..half {
                other.0.notified().await?;
                other.1.notify_one();
            }
            Ok::<_, Error>(())
        })?;
        block_on(scope.join())
    })
}

fn read_blocking(count: u64) -> Result<u64> {
    let lock = RwSemaphore::new(());
    timed(|| {
        for _ in 0..count {
            drop(lock.read_blocking()?);
        }
        Ok(())
    })
}

fn read_block_on(count: u64) -> Result<u64> {
    let lock = RwSemaphore::new(());
    timed(|| {
        for _ in 0..count {
            drop(block_on(lock.read())??);
        }
        Ok(())
    })
}

async fn read_inside(count: u64, _: Spawner) -> Result {
    let lock = RwSemaphore::new(());
    for _ in 0..count {
        drop(lock.read().await?);
    }
    Ok(())
}

fn try_read(count: u64) -> Result<u64> {
    let lock = RwSemaphore::new(());
    timed(|| {
        for _ in 0..count {
            drop(lock.try_read()?);
        }
        Ok(())
    })
}

/// What readers share.
struct Reads {
    device: Device,
    /// Of the numbers of the pages that are read.
    mask: u64,
    count: u64,
    next: Atomic<u64>,
    errors: Atomic<u64>,
}

impl Reads {
    fn new(path: &str, scope: &Scope, count: u64, merging: bool) -> Result<Arc<Self>> {
        let path = CString::try_from_fmt(fmt!("{path}"))?;
        let mut device = Device::open(&path, false, scope)?;
        if !merging {
            device = device.without_merging();
        }
        // As far as the largest power of two. Not by ilog2(), whose panic objtool does not know
        let unused = (device.size()? / Block::SIZE as u64).leading_zeros() + 1;
        let reads = Self {
            device,
            mask: u64::MAX.checked_shr(unused).unwrap_or(0),
            count,
            next: Atomic::new(0),
            errors: Atomic::new(0),
        };
        Ok(Arc::new(reads, GFP_KERNEL)?)
    }

    /// Where the next read is, if there is one: splitmix64, as in `peer.c`.
    fn next(&self) -> Option<u64> {
        let n = self.next.fetch_add(1u64, Relaxed);
        let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (n < self.count).then_some(((z ^ (z >> 31)) & self.mask) << PAGE_SHIFT)
    }

    async fn run(self: Arc<Self>, mut block: Block) {
        while let Some(pos) = self.next() {
            if block.read(&self.device, pos, 0, Block::SIZE).await.is_err() {
                self.errors.add(1u64, Relaxed);
            }
        }
    }

    fn check(&self) -> Result {
        if self.errors.load(Relaxed) == 0 {
            Ok(())
        } else {
            Err(EIO)
        }
    }
}

/// As many upcalls as reads are in flight, each of which takes the next when it is done with one.
fn reads(path: &str, depth: u64, count: u64, merging: bool) -> Result<u64> {
    let requests = Scope::new()?;
    let reads = Reads::new(path, &requests, count, merging)?;
    let mut blocks = KVec::new();
    for _ in 0..depth {
        blocks.push(Block::new()?, GFP_KERNEL)?;
    }
    let readers = Scope::new()?;
    let ns = timed(|| {
        for block in blocks {
            readers.spawn(reads.clone().run(block))?;
        }
        block_on(readers.join())
    })?;
    reads.check()?;
    Ok(ns)
}

/// Tasks that wait, until they are released.
struct Held {
    /// Its tasks, which end when `gate` is closed, or the device is done.
    scope: Scope,
    gate: Arc<Semaphore>,
    reads: Option<(Arc<Reads>, Scope)>,
}

impl Held {
    /// Waits until all that was spawned before has been polled: the executor takes the tasks in turn.
    fn settle(&self) -> Result {
        block_on(self.scope.spawn(async {})?)??;
        Ok(())
    }

    fn release(self) -> Result<u64> {
        let ns = timed(|| {
            self.gate.close();
            block_on(self.scope.join())
        })?;
        if let Some((reads, _requests)) = self.reads {
            reads.check()?;
        }
        Ok(ns)
    }
}

/// Reads that are all in flight at the same time.
fn hold_reads(path: &str, count: u64) -> Result<Held> {
    let requests = Scope::new()?;
    let reads = Reads::new(path, &requests, count, false)?;
    let scope = Scope::new()?;
    for _ in 0..count {
        scope.spawn(reads.clone().run(Block::vacant()))?;
    }
    let held = Held {
        scope,
        gate: Arc::new(Semaphore::new(0), GFP_KERNEL)?,
        reads: Some((reads, requests)),
    };
    held.settle()?;
    Ok(held)
}

/// Tasks that all wait for the same thing.
fn hold_tasks(count: u64) -> Result<Held> {
    let held = Held {
        scope: Scope::new()?,
        gate: Arc::new(Semaphore::new(0), GFP_KERNEL)?,
        reads: None,
    };
    for _ in 0..count {
        let gate = held.gate.clone();
        held.scope.spawn(async move {
            let _ = gate.acquire(1).await;
        })?;
    }
    held.settle()?;
    Ok(held)
}
