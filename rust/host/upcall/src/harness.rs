// SPDX-License-Identifier: GPL-2.0

//! What the tests share: an executor to run by hand or on a thread, and futures that are told what
//! to do.

// The models and the other tests each use their part.
#![allow(dead_code)]

use crate::bio;
use crate::executor::{BlockingWorker, Core, Executor};
use crate::registry;
use crate::sys::{self, rt, Acquire, Atomic, Ledger, Relaxed, Release, Work};
use crate::Scope;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

/// Runs `test` alone in the process, and checks that it left nothing behind.
pub(crate) fn session(test: impl FnOnce()) {
    let _alone = alone();
    Ledger::open();
    test();
    Ledger::close();
}

/// Runs `test` in all interleavings with at most `preemptions` preemptions, each of them as a
/// [`session`].
#[cfg(loom)]
pub(crate) fn model(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let _alone = alone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(move || {
        Ledger::open();
        test();
        Ledger::close();
    });
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    static HOOK: Once = Once::new();
    // A test that fails while tasks exist is likely to abort while it unwinds, and the test runner
    // would show nothing of what it captured.
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "\n{info}");
        }));
    });
    ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// An executor, run by its owner or by a thread.
#[derive(Clone)]
pub(crate) struct Host(Executor);

impl Host {
    pub(crate) fn new() -> Self {
        let this = Self(Executor::with_work(Work::new(), None).unwrap());
        registry::add(this.executor());
        this
    }

    /// One that may sleep.
    pub(crate) fn blocking() -> Self {
        Self(Executor::with_work(Work::new(), Some(bio::is_request)).unwrap())
    }

    /// A scope on this executor, and on `blocking` for what may sleep.
    pub(crate) fn scope_with(&self, blocking: &Host) -> Scope {
        Scope::on(&self.0, &BlockingWorker::of(blocking.0.clone())).unwrap()
    }

    pub(crate) fn executor(&self) -> &Core {
        self.0.core()
    }

    pub(crate) fn scope(&self) -> Scope {
        self.try_scope().unwrap()
    }

    pub(crate) fn try_scope(&self) -> sys::Result<Scope> {
        Scope::on(&self.0, &BlockingWorker::of(self.0.clone()))
    }

    fn run(&self) {
        sys::set_executor(core::ptr::from_ref(self.executor()).cast_mut());
        // SAFETY: The run was started, and lets nobody else run.
        unsafe { self.executor().run() };
        sys::set_executor(core::ptr::null_mut());
        self.executor().work().finish();
    }

    /// Waits until a run is due and runs once.
    pub(crate) fn run_once(&self) {
        assert!(self.executor().work().wait());
        self.run();
    }

    /// Runs once, if the work item was queued.
    pub(crate) fn try_run(&self) -> bool {
        let due = self.executor().work().try_start();
        if due {
            self.run();
        }
        due
    }

    /// Runs as long as the work item is queued, without waiting.
    pub(crate) fn pump(&self) {
        while self.try_run() {}
    }

    /// Starts a thread that runs the executor.
    pub(crate) fn worker(&self) -> Worker {
        let host = self.clone();
        let thread = rt::thread::spawn(move || {
            while host.executor().work().wait() {
                host.run();
            }
        });
        Worker {
            host: self.clone(),
            thread,
        }
    }
}

/// A thread that runs an executor.
pub(crate) struct Worker {
    host: Host,
    thread: rt::thread::JoinHandle<()>,
}

impl Worker {
    /// Ends the thread once nothing is pending.
    pub(crate) fn stop(self) {
        self.host.executor().work().close();
        self.thread.join().unwrap();
    }
}

/// Something that happens once, with one who waits for it. The flag orders nothing by itself.
pub(crate) struct Signal {
    set: Atomic<bool>,
    waker: rt::Mutex<Option<Waker>>,
}

impl Signal {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            set: Atomic::new(false),
            waker: rt::Mutex::new(None),
        })
    }

    /// Lets it happen, in interrupt context.
    pub(crate) fn fire(&self) {
        self.set.store(true, Relaxed);
        let waker = self.waker.lock().unwrap().take();
        if let Some(waker) = waker {
            sys::interrupt(|| waker.wake());
        }
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let old = self.waker.lock().unwrap().replace(cx.waker().clone());
        drop(old);
        if self.set.load(Relaxed) {
            // What is left is of no use, and counts as a leak.
            let left = self.waker.lock().unwrap().take();
            drop(left);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Waits for it.
    pub(crate) fn wait(self: &Arc<Self>) -> Wait {
        Wait(self.clone())
    }
}

/// The future of [`Signal::wait`].
pub(crate) struct Wait(Arc<Signal>);

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let waker = self.0.waker.lock().unwrap().take();
        drop(waker);
    }
}

/// Where a future leaves wakers for others to use.
#[derive(Clone)]
pub(crate) struct Wakers(Arc<std::sync::Mutex<Vec<Waker>>>);

impl Wakers {
    pub(crate) fn new() -> Self {
        Self(Arc::new(std::sync::Mutex::new(Vec::new())))
    }

    /// Leaves `count` clones.
    pub(crate) fn leave(&self, cx: &Context<'_>, count: usize) {
        // Loom may switch threads in a clone, and does not know of the mutex.
        let wakers: Vec<_> = (0..count).map(|_| cx.waker().clone()).collect();
        self.0.lock().unwrap().extend(wakers);
    }

    pub(crate) fn take(&self) -> Waker {
        self.0.lock().unwrap().pop().expect("no waker was left")
    }
}

/// How many [`Probe`]s there were, and how many are gone.
///
/// Counted without loom: the counters order nothing, and are read when all is over.
#[derive(Clone)]
pub(crate) struct Probes(Arc<(AtomicUsize, AtomicUsize)>);

impl Probes {
    pub(crate) fn new() -> Self {
        Self(Arc::new((AtomicUsize::new(0), AtomicUsize::new(0))))
    }

    pub(crate) fn probe(&self) -> Probe {
        self.0 .0.fetch_add(1, Ordering::Relaxed);
        Probe(self.clone(), Box::new(0))
    }

    pub(crate) fn made(&self) -> usize {
        self.0 .0.load(Ordering::Relaxed)
    }

    pub(crate) fn dropped(&self) -> usize {
        self.0 .1.load(Ordering::Relaxed)
    }

    /// Whether each of `count` probes was dropped.
    #[track_caller]
    pub(crate) fn check(&self, count: usize) {
        assert_eq!(self.made(), count, "probes made");
        assert_eq!(self.dropped(), count, "probes dropped");
    }
}

/// A user's value: its destructor is not for interrupt context and not to be run under a spinlock.
///
/// It owns memory, so that a second drop is an error of its own.
pub(crate) struct Probe(Probes, #[allow(dead_code)] Box<u8>);

impl Drop for Probe {
    fn drop(&mut self) {
        assert!(!sys::in_interrupt(), "a destructor in interrupt context");
        assert!(!sys::in_lock(), "a destructor under a spinlock");
        self.0 .0 .1.fetch_add(1, Ordering::Relaxed);
    }
}

/// Never ready; leaves as many wakers as it is told on its first poll.
pub(crate) struct Never {
    pub(crate) wakers: Wakers,
    pub(crate) leave: usize,
    pub(crate) _probe: Probe,
}

impl Future for Never {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        assert!(sys::in_nofs(), "a poll outside a nofs scope");
        let count = core::mem::take(&mut self.leave);
        self.wakers.leave(cx, count);
        Poll::Pending
    }
}

/// A waker that counts, and says when it is called where it must not be.
pub(crate) struct Count(AtomicUsize);

impl Count {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(0)))
    }

    pub(crate) fn wakes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        assert!(!sys::in_lock(), "somebody is woken under a spinlock");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls `future` once with `waker`.
pub(crate) fn poll_with<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

/// Polls `future` once, with a waker that does nothing.
pub(crate) fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    poll_with(future, Waker::noop())
}

/// Returns `Pending` once and wakes itself.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    core::future::poll_fn(|cx| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// A value that threads can borrow for as long as the test runs. Loom has no scoped threads.
pub(crate) struct Shared<T>(Box<T>);

impl<T: 'static> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(value))
    }

    /// The test joins its threads before it drops `self`.
    pub(crate) fn get(&self) -> &'static T {
        // SAFETY: By the above.
        unsafe { &*core::ptr::from_ref(&*self.0) }
    }
}

/// A flag that publishes what was done before it was set.
pub(crate) struct Flag(Atomic<bool>);

impl Flag {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Atomic::new(false)))
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Acquire)
    }
}

/// A small random number generator (xorshift), the same on every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number less than `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }

    /// Whether something of probability `1 / n` happens.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
