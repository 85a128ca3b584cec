// SPDX-License-Identifier: GPL-2.0

//! Readers, writers, downgraders and those who give up, on one [`RwSemaphore`], by both kinds of
//! caller: tasks of the executor, and kernel threads in `block_on`.
//!
//! Exclusion is checked by two counters of those inside, and by a pair of plain numbers that only
//! writers change, one after the other. The order of the queue is checked without a clock: once
//! a future is in the queue, whoever gets the lock before it was in the queue before it, or
//! had the lock; so there are not more of them than there are actors, twice.

use crate::{each_cpu, replace, stopped, verify, Rng, Stats, Thread};
use core::future::{poll_fn, Future};
use core::hint::black_box;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Full, Relaxed};
use kernel::sync::Arc;
use upcall::{block_on, sleep, timeout, yield_now, Closed, Instant, RwSemaphore, Scope};

/// `second` is the complement of `first` whenever nobody writes.
struct Pair {
    first: u64,
    second: u64,
}

impl Pair {
    /// Reads both, from memory and not from what the compiler knows.
    fn look(&self) -> u64 {
        let pair = black_box(self);
        verify!(pair.first == !pair.second, "the pair does not match");
        pair.first
    }
}

/// A change that is half done. It is finished also if the writer is dropped in between.
struct Change<'a>(&'a mut Pair);

impl<'a> Change<'a> {
    fn new(pair: &'a mut Pair) -> Self {
        pair.first = pair.first.wrapping_add(1);
        Self(black_box(pair))
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.second = !self.0.first;
    }
}

/// Somebody who has the lock.
struct Inside<'a> {
    locks: &'a Locks,
    writes: bool,
}

impl<'a> Inside<'a> {
    fn new(locks: &'a Locks, writes: bool) -> Self {
        let this = Self { locks, writes };
        if writes {
            verify!(locks.writers.fetch_add(1, Full) == 0, "two writers");
        } else {
            locks.readers.fetch_add(1, Full);
        }
        this.check();
        this
    }

    fn check(&self) {
        let (readers, writers) = (&self.locks.readers, &self.locks.writers);
        if self.writes {
            let readers = readers.load(Relaxed);
            verify!(readers == 0, "{readers} readers beside a writer");
        } else {
            verify!(writers.load(Relaxed) == 0, "a writer beside a reader");
        }
    }

    /// The writer becomes a reader, for whom it is counted before others can come.
    fn downgrade(self) -> Self {
        self.locks.readers.fetch_add(1, Full);
        let locks = self.locks;
        drop(self);
        Self {
            locks,
            writes: false,
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.writes {
            self.locks.writers.fetch_sub(1, Full);
        } else {
            self.locks.readers.fetch_sub(1, Full);
        }
    }
}

/// What an actor does with the lock.
#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Downgrade,
    /// One of the above, but for a short time only; it is then dropped, wherever it is.
    GiveUp,
    /// `try_read` and `try_write`.
    Try,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Read, "read"),
    (Kind::Write, "write"),
    (Kind::Downgrade, "downgrade"),
    (Kind::GiveUp, "give up"),
    (Kind::Try, "try"),
];

/// Where [`Kind::GiveUp`] is. It does not use `read_blocking`, where nobody can be dropped.
const GIVE_UP: usize = 3;
/// Where [`Kind::Try`] is.
const TRY: usize = 4;

const TASK: usize = 0;
const THREAD: usize = 1;
const CALLERS: [&str; 2] = ["task", "thread"];

/// What all actors share.
pub(crate) struct Locks {
    lock: RwSemaphore<Pair>,
    readers: Atomic<i64>,
    writers: Atomic<i64>,
    /// How often the lock was had, for reading and for writing.
    reads: Atomic<u64>,
    writes: Atomic<u64>,
    /// How many others got the lock while somebody waited for it, at most.
    passed: Atomic<u64>,
    /// How many want the lock at the same time, at most.
    actors: u64,
    /// By caller and kind: how long was waited, in nanoseconds.
    waited: [[Stats; KINDS.len()]; 2],
    began: Instant,
    gave_up: Atomic<u64>,
    refused: Atomic<u64>,
    aborted: Atomic<u64>,
}

impl Locks {
    pub(crate) fn new(each: u32) -> Result<Arc<Self>> {
        let per_caller = u64::from(each) * KINDS.len() as u64;
        let cpus = u64::from(kernel::cpu::nr_cpu_ids());
        Ok(Arc::new(
            Self {
                lock: RwSemaphore::new(Pair {
                    first: 0,
                    second: !0,
                }),
                readers: Atomic::new(0),
                writers: Atomic::new(0),
                reads: Atomic::new(0),
                writes: Atomic::new(0),
                passed: Atomic::new(0),
                // And the one who is aborted.
                actors: per_caller + per_caller.max(cpus) + 1,
                waited: [const { [const { Stats::new() }; KINDS.len()] }; 2],
                began: Instant::now(),
                gave_up: Atomic::new(0),
                refused: Atomic::new(0),
                aborted: Atomic::new(0),
            },
            GFP_KERNEL,
        )?)
    }

    /// Waits for the lock, and looks how many got past.
    async fn wait<G>(
        &self,
        writes: bool,
        caller: usize,
        kind: usize,
        future: impl Future<Output = Result<G, Closed>>,
    ) -> Option<G> {
        let had = || {
            let reads = if writes { self.reads.load(Relaxed) } else { 0 };
            reads + self.writes.load(Relaxed)
        };
        let began = Instant::now();
        let mut future = pin!(future);
        let mut queued = None;
        let guard = poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Pending => {
                queued.get_or_insert_with(had);
                Poll::Pending
            }
            Poll::Ready(guard) => Poll::Ready(guard),
        })
        .await;
        // We have the lock: no writer comes, and to a writer no reader.
        let passed = queued.map_or(0, |before| had() - before);
        replace(&self.passed, passed, |most| passed > most);
        verify!(
            passed <= 2 * self.actors,
            "{passed} of {} got past, writer {writes}",
            self.actors
        );
        self.note(caller, kind, began);
        verify!(guard.is_ok(), "nobody closed the lock");
        guard.ok()
    }

    fn note(&self, caller: usize, kind: usize, began: Instant) {
        let nanos = Instant::now().since(began).as_nanos() as u64;
        if let Some(stats) = self.waited.get(caller).and_then(|caller| caller.get(kind)) {
            stats.add(nanos);
        }
    }

    /// Whether to use the lock's own blocking functions.
    fn by_thread(rng: &mut Rng, caller: usize, kind: usize) -> bool {
        caller == THREAD && kind != GIVE_UP && rng.below(2) == 0
    }

    async fn read(&self, rng: &mut Rng, caller: usize, kind: usize) {
        if Self::by_thread(rng, caller, kind) {
            return self.read_by_thread(rng, kind);
        }
        if let Some(guard) = self.wait(false, caller, kind, self.lock.read()).await {
            self.look(&guard, rng).await;
        }
    }

    /// No function of a task: the guard stays with its thread.
    fn read_by_thread(&self, rng: &mut Rng, kind: usize) {
        let began = Instant::now();
        let guard = self.lock.read_blocking();
        self.note(THREAD, kind, began);
        verify!(guard.is_ok(), "nobody closed the lock");
        if let Ok(guard) = guard {
            verify!(block_on(self.look(&guard, rng)).is_ok(), "a thread waits");
        }
    }

    /// Reads, for a while.
    async fn look(&self, pair: &Pair, rng: &mut Rng) {
        self.reads.fetch_add(1, Relaxed);
        let inside = Inside::new(self, false);
        let before = pair.look();
        hold(rng).await;
        verify!(pair.look() == before, "changed under a reader");
        inside.check();
    }

    async fn write(&self, rng: &mut Rng, caller: usize, kind: usize, downgrade: bool) {
        if Self::by_thread(rng, caller, kind) {
            return self.write_by_thread(rng, kind, downgrade);
        }
        let waiting = self.wait(true, caller, kind, self.lock.write());
        let Some(mut guard) = waiting.await else {
            return;
        };
        let inside = self.change(&mut guard, rng).await;
        if downgrade {
            let written = guard.look();
            let inside = inside.downgrade();
            self.unchanged(&guard.downgrade(), written, inside, rng)
                .await;
        }
    }

    /// As [`read_by_thread`](Self::read_by_thread).
    fn write_by_thread(&self, rng: &mut Rng, kind: usize, downgrade: bool) {
        let began = Instant::now();
        let guard = self.lock.write_blocking();
        self.note(THREAD, kind, began);
        verify!(guard.is_ok(), "nobody closed the lock");
        let Ok(mut guard) = guard else { return };
        let inside = block_on(self.change(&mut guard, rng));
        verify!(inside.is_ok(), "a thread waits");
        // Dropped before the guard
        let Ok(inside) = inside else { return };
        if downgrade {
            let written = guard.look();
            let inside = inside.downgrade();
            let guard = guard.downgrade();
            let done = block_on(self.unchanged(&guard, written, inside, rng));
            verify!(done.is_ok(), "a thread waits");
        }
    }

    /// Writes, for a while.
    async fn change(&self, pair: &mut Pair, rng: &mut Rng) -> Inside<'_> {
        self.writes.fetch_add(1, Relaxed);
        let inside = Inside::new(self, true);
        pair.look();
        let change = Change::new(pair);
        hold(rng).await;
        drop(change);
        inside.check();
        inside
    }

    /// Goes on reading what it wrote. `inside` is dropped before the guard.
    async fn unchanged(&self, pair: &Pair, written: u64, inside: Inside<'_>, rng: &mut Rng) {
        hold(rng).await;
        verify!(pair.look() == written, "a writer came in between");
        inside.check();
    }

    async fn try_both(&self, rng: &mut Rng, caller: usize, kind: usize) {
        let began = Instant::now();
        if rng.below(2) == 0 {
            if let Ok(guard) = self.lock.try_read() {
                self.note(caller, kind, began);
                self.look(&guard, rng).await;
            }
        } else if let Ok(mut guard) = self.lock.try_write() {
            self.note(caller, kind, began);
            self.writes.fetch_add(1, Relaxed);
            let inside = Inside::new(self, true);
            let _change = Change::new(&mut guard);
            inside.check();
        }
        yield_now().await;
    }

    /// Waits for the lock, and is dropped when it is handed over, without having seen it.
    async fn refuse(&self, writes: bool) {
        let (mut read, mut write) = (pin!(self.lock.read()), pin!(self.lock.write()));
        let mut queued = false;
        poll_fn(|cx| {
            if core::mem::replace(&mut queued, true) {
                return Poll::Ready(());
            }
            if writes {
                write.as_mut().poll(cx).map(drop)
            } else {
                read.as_mut().poll(cx).map(drop)
            }
        })
        .await;
        self.refused.fetch_add(1, Relaxed);
    }

    /// Now and then all are quiet for a while but those who try: they get the lock only if nobody waits.
    fn quiet(&self, kind: usize) -> bool {
        let millis = Instant::now().since(self.began).as_millis() as u64;
        millis & 127 < 16 && kind != TRY
    }

    /// Has the lock once, or not.
    async fn round(&self, rng: &mut Rng, caller: usize, kind: usize) {
        match KINDS.get(kind).map(|&(kind, _)| kind) {
            Some(Kind::Read) => self.read(rng, caller, kind).await,
            Some(Kind::Write) => self.write(rng, caller, kind, false).await,
            Some(Kind::Downgrade) => self.write(rng, caller, kind, true).await,
            Some(Kind::Try) => self.try_both(rng, caller, kind).await,
            _ => {
                let soon = if rng.below(2) == 0 { 500 } else { 20_000 };
                let soon = rng.micros(soon);
                let mut inner = rng.fork();
                let in_time = match rng.below(4) {
                    3 => {
                        self.refuse(rng.below(2) == 0).await;
                        Ok(())
                    }
                    0 => timeout(soon, self.read(&mut inner, caller, kind)).await,
                    1 => timeout(soon, self.write(&mut inner, caller, kind, false)).await,
                    _ => timeout(soon, self.write(&mut inner, caller, kind, true)).await,
                };
                if in_time.is_err() {
                    self.gave_up.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Checks what is left when all actors are gone, and says how they fared.
    pub(crate) fn report(&self, long: bool) {
        let inside = (self.readers.load(Relaxed), self.writers.load(Relaxed));
        verify!(inside == (0, 0), "{inside:?} readers and writers are left");
        match self.lock.try_write() {
            Ok(pair) => drop(pair.look()),
            Err(error) => verify!(false, "a permit is lost: {error:?}"),
        }
        for (caller, stats) in CALLERS.iter().zip(&self.waited) {
            for (n, ((_, kind), waited)) in KINDS.iter().zip(stats).enumerate() {
                let us = |nanos: u64| nanos / 1000;
                pr_info!(
                    "locks: {caller} {kind}: {} times, waited {}/{}/{} us\n",
                    waited.count(),
                    us(waited.min()),
                    us(waited.average()),
                    us(waited.max())
                );
                // Nothing is promised to those who try, or have no patience.
                let starved = long && n != TRY && n != GIVE_UP && waited.count() == 0;
                verify!(!starved, "{caller} {kind} starved");
                verify!(waited.max() < LONGEST, "{caller} {kind} waited too long");
            }
        }
        pr_info!(
            "locks: {} gave up, {} did not take it, {} aborted, {} waited, at most {} of {} got past\n",
            self.gave_up.load(Relaxed),
            self.refused.load(Relaxed),
            self.aborted.load(Relaxed),
            self.lock.contended(),
            self.passed.load(Relaxed),
            self.actors
        );
    }
}

/// No wait is longer: a bound for hangs, since the machine may be emulated and busy.
const LONGEST: u64 = 30_000_000_000;

/// Some time with the lock.
async fn hold(rng: &mut Rng) {
    match rng.below(8) {
        0 => sleep(rng.micros(200)).await,
        1..=3 => yield_now().await,
        _ => {}
    }
}

async fn actor(locks: Arc<Locks>, mut rng: Rng, kind: usize) {
    while !stopped() {
        locks.round(&mut rng, TASK, kind).await;
        if locks.quiet(kind) {
            sleep(Duration::from_millis(4)).await;
        }
        // Even if it never had to wait
        yield_now().await;
    }
}

/// Aborts an actor again and again, wherever it is.
async fn aborter(locks: Arc<Locks>, scope: upcall::Spawner, mut rng: Rng) {
    while !stopped() {
        let kind = rng.below(KINDS.len() as u32) as usize;
        let Ok(victim) = scope.spawn(actor(locks.clone(), rng.fork(), kind)) else {
            verify!(
                crate::tolerable(Err(ENOMEM)) || stopped(),
                "spawning an actor"
            );
            continue;
        };
        sleep(rng.micros(3000)).await;
        victim.abort();
        // Or it saw that all is to end, first.
        if victim.await.is_err() {
            locks.aborted.fetch_add(1, Relaxed);
        }
    }
}

pub(crate) fn start(
    locks: &Arc<Locks>,
    scope: &Scope,
    threads: &mut KVec<Thread>,
    rng: &mut Rng,
    each: u32,
) -> Result {
    for _ in 0..each {
        for kind in 0..KINDS.len() {
            scope.spawn(actor(locks.clone(), rng.fork(), kind))?;
        }
    }
    scope.spawn(aborter(locks.clone(), scope.spawner(), rng.fork()))?;
    let mut kind = 0;
    for _ in 0..each {
        each_cpu(|cpu| {
            let (locks, mut rng) = (locks.clone(), rng.fork());
            let mine = kind;
            kind = if kind + 1 < KINDS.len() { kind + 1 } else { 0 };
            let thread = Thread::new(cpu, move || {
                let mut kind = mine;
                while !stopped() {
                    // Each thread does everything, so that all kinds come on all CPUs.
                    kind = if kind + 1 < KINDS.len() { kind + 1 } else { 0 };
                    let now = if locks.quiet(kind) { TRY } else { kind };
                    let done = block_on(locks.round(&mut rng, THREAD, now));
                    verify!(done.is_ok(), "a thread may block");
                }
            })?;
            Ok(threads.push(thread, GFP_KERNEL)?)
        })?;
    }
    Ok(())
}
