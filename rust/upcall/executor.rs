// SPDX-License-Identifier: GPL-2.0

//! The executor: one thread that runs a bag of upcalls.
//!
//! # Concurrency
//!
//! Any context pushes on the ready list; whoever finds it empty queues the work item. That starts
//! [`Core::run`] on the worker, and never twice at the same time: in the kernel this is the
//! non-reentrancy of a work item. `backlog` belongs to that run alone.
//!
//! No wake is lost: a push that comes before the run's last look at the list is seen by it, one
//! that comes later finds the list empty and queues the work item. A run that stops because its
//! budget is used up leaves a non-empty list behind, for which nobody queues it; the run does so
//! itself.
//!
//! # Lifetime
//!
//! Handles, scopes among them, keep the core. A waker has no handle: it holds a task, which has a
//! scope only until it is complete. So a waker is inside a read section of RCU from before it looks
//! at the state of the task until it has queued the work item. Whoever drops the last handle, in
//! any context, hands the core over to be taken down in process context: after a grace period nobody
//! pushes any more, and after the last run nobody uses it. That is done by a
//! workqueue for this alone, so that nobody's work waits for a grace period or for another
//! executor's last run.

use super::ready::{Batch, Link, ReadyList};
use super::registry;
use super::scope::ScopeInner;
use super::stats::Stats;
use super::sys::{self, Arc, Atomic, Cell, Relaxed, Work};
use super::task::Header;
use core::mem::ManuallyDrop;
use core::ptr::{null, NonNull};

/// How many runnables one run takes on before it lets others have the CPU.
const RUN_POLLS_MAX: usize = 256;

/// For how long a run takes on runnables, in nanoseconds: polls that are slow, or many.
const RUN_TIME_MAX: u64 = 2_000_000;

/// What the executor runs: a task, or a request whose memory is to be released in process context.
///
/// It is the first field of the object, so that a pointer to one is a pointer to the other. `run`
/// is a function of the runtime's own text and never of a user module's: a runnable may outlive the
/// module that spawned it.
#[repr(C)]
pub(crate) struct Runnable {
    link: Link,
    run: unsafe fn(NonNull<Runnable>),
}

/// Tells of a runnable that waits on an executor whose runnables may sleep whether it goes with its
/// like in a block plug.
pub(crate) type InPlug = fn(NonNull<Runnable>) -> bool;

impl Runnable {
    /// What runs it.
    pub(crate) fn function(&self) -> unsafe fn(NonNull<Self>) {
        self.run
    }

    /// Makes a runnable.
    ///
    /// `run` gets the reference that was pushed along with the runnable.
    pub(crate) fn new(run: unsafe fn(NonNull<Runnable>)) -> Self {
        Self {
            link: Link::new(),
            run,
        }
    }
}

/// One thread that polls tasks.
///
/// This is a handle on it, which can be cloned. Each [`Scope`](crate::Scope) has one on the
/// executor that its tasks run on. When the last is dropped, in any context, the thread ends in its
/// own time.
pub struct Executor {
    /// Taken out by the destructor alone.
    core: ManuallyDrop<Arc<Core>>,
}

impl Executor {
    /// Makes an executor that `work` runs. Its runnables may sleep if there is `blocking`.
    pub(crate) fn with_work(work: Work, blocking: Option<InPlug>) -> sys::Result<Self> {
        let core = Core {
            ready: ReadyList::new(),
            backlog: Cell::new(Batch::new()),
            worker: Atomic::new(0),
            running: Cell::new((null(), null())),
            stats: Stats::new(),
            blocking,
            work,
        };
        Ok(Self {
            core: ManuallyDrop::new(sys::new_arc(core)?),
        })
    }

    /// The handle that `core` is a reference of.
    #[cfg(MODULE)]
    pub(crate) fn from_core(core: Arc<Core>) -> Self {
        Self {
            core: ManuallyDrop::new(core),
        }
    }

    /// The executor itself, which lives at least as long as the handle.
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Where it is.
    pub(crate) fn as_ptr(&self) -> NonNull<Core> {
        NonNull::from(self.core())
    }

    /// Gives the reference away.
    #[cfg(MODULE)]
    pub(crate) fn into_core(self) -> Arc<Core> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: The destructor does not run.
        unsafe { ManuallyDrop::take(&mut this.core) }
    }

    /// Whether the caller is this executor's worker, inside a poll.
    pub fn is_current(&self) -> bool {
        self.core.is_current()
    }
}

impl Clone for Executor {
    fn clone(&self) -> Self {
        Self {
            core: self.core.clone(),
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // SAFETY: The destructor runs once, and nothing uses the field after.
        let core = unsafe { ManuallyDrop::take(&mut self.core) };
        let Some(core) = sys::last_reference(core) else {
            return;
        };
        // From here on only read sections that began before, and its own last run, know of it.
        registry::remove(&core);
        sys::after_grace_period(core);
    }
}

/// One thread that runs what may sleep, one piece after the other: for
/// [`spawn_blocking`](crate::Spawner::spawn_blocking), and for requests whose submission has to
/// wait.
///
/// This is a handle on it, which can be cloned, as [`Executor`] is for the thread that polls tasks.
#[derive(Clone)]
pub struct BlockingWorker(Executor);

impl BlockingWorker {
    /// The worker that `executor` is the thread of. Its runnables may sleep.
    pub(crate) fn of(executor: Executor) -> Self {
        Self(executor)
    }

    /// Its thread.
    pub(crate) fn executor(&self) -> &Executor {
        &self.0
    }

    /// Whether the caller is this worker, inside a piece of work.
    pub fn is_current(&self) -> bool {
        self.0.is_current()
    }
}

/// What the handles of an executor share.
pub(crate) struct Core {
    ready: ReadyList,
    /// What is left of a batch when the budget is used up. Touched by the worker alone.
    backlog: Cell<Batch>,
    /// The thread that is inside [`Core::run`], or 0.
    worker: Atomic<usize>,
    /// The scope whose member is being run, and the task if it is one, or null. Touched by the
    /// worker alone.
    running: Cell<(*const ScopeInner, *const Header)>,
    stats: Stats,
    /// There if its runnables may sleep.
    blocking: Option<InPlug>,
    work: Work,
}

// SAFETY: `backlog` and `running` are touched by the one worker alone; all else is made to be
// shared.
unsafe impl Send for Core {}
// SAFETY: As above.
unsafe impl Sync for Core {}

impl Core {
    /// Where the work item is, for the kernel to find the executor from it.
    #[cfg(MODULE)]
    pub(crate) const WORK_OFFSET: usize = core::mem::offset_of!(Core, work);

    /// The work item, to be initialised once the executor has its final address.
    pub(crate) fn work(&self) -> &Work {
        &self.work
    }

    /// Its figures.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether its runnables may sleep.
    pub(crate) fn is_blocking(&self) -> bool {
        self.blocking.is_some()
    }

    /// Queues `runnable`. Any context.
    ///
    /// # Safety
    ///
    /// The caller has the right to push it (nobody else does, and it is on no list) and passes on
    /// a reference that keeps it alive. The executor outlives the call.
    pub(crate) unsafe fn push(&self, runnable: NonNull<Runnable>) {
        // SAFETY: `Link` is the first field, and the caller vouches for the rest.
        if unsafe { self.ready.push(runnable.cast()) } {
            self.work.queue();
        }
    }

    /// Whether the caller is this executor's worker, inside a poll.
    pub(crate) fn is_current(&self) -> bool {
        self.worker.load(Relaxed) == sys::current()
    }

    /// Runs `f` for a member of `scope`, which is `task` if it is one. What ran before goes on
    /// after.
    ///
    /// # Safety
    ///
    /// Called by the worker, inside [`run`](Self::run). The member keeps `scope` alive until `f`
    /// has called the user's code for the last time, and `task` is alive as long.
    pub(crate) unsafe fn within(
        &self,
        scope: *const ScopeInner,
        task: *const Header,
        f: impl FnOnce(),
    ) {
        let set = |to| {
            self.running.with_mut(|running| {
                // SAFETY: We are the worker.
                unsafe { core::mem::replace(&mut *running, to) }
            })
        };
        let outer = set((scope, task));
        f();
        // At once: other code than a member's runs on this thread too, such as a driver's when the
        // plug ends.
        set(outer);
    }

    /// The scope whose member the caller is, if the caller is user code on this executor's worker.
    /// It is there as long as that code runs.
    pub(crate) fn current_scope(&self) -> Option<NonNull<ScopeInner>> {
        NonNull::new(self.running()?.0.cast_mut())
    }

    /// The task that is being run, if the caller is the worker, and runs one.
    #[cfg(MODULE)]
    pub(crate) fn current_task(&self) -> Option<NonNull<Header>> {
        NonNull::new(self.running()?.1.cast_mut())
    }

    /// What is being run, if the caller is the worker.
    fn running(&self) -> Option<(*const ScopeInner, *const Header)> {
        if !self.is_current() {
            return None;
        }
        // SAFETY: We are the worker.
        Some(self.running.with(|running| unsafe { *running }))
    }

    /// Runs what is ready, at most [`RUN_POLLS_MAX`] runnables, and none after [`RUN_TIME_MAX`].
    /// Returns whether there is more, for which it queued the work item again.
    ///
    /// # Safety
    ///
    /// Called by the work item alone, never twice at the same time.
    pub(crate) unsafe fn run(&self) -> bool {
        self.worker.store(sys::current(), Relaxed);
        self.stats.run();
        // SAFETY: We are the one worker.
        let take = |backlog: *mut Batch| unsafe { core::mem::replace(&mut *backlog, Batch::new()) };
        let mut batch = self.backlog.with_mut(take);
        let nofs = sys::NoFs::enter();
        let (start, time) = (self.stats.clock(), sys::stamps(RUN_TIME_MAX));
        let mut budget = RUN_POLLS_MAX;
        while budget != 0 {
            if batch.is_empty() {
                batch = self.ready.take();
            }
            if batch.is_empty() {
                break;
            }
            // A run is over by the clock that was read after a poll anyway.
            let over = || sys::since(self.stats.clock(), start) >= time;
            if let Some(in_plug) = self.blocking {
                // A plug for requests that follow each other, and for nothing else: in one around
                // all of it, a request would wait for whatever comes after it to be done.
                sys::with_plug(|| run_while(&mut batch, &mut budget, in_plug, over));
                run_while(&mut batch, &mut budget, |next| !in_plug(next), over);
            } else {
                // One plug for what became ready together: what becomes ready meanwhile may come
                // for as long as we run, and would keep the first requests from the device.
                sys::with_plug(|| run_while(&mut batch, &mut budget, |_| true, over));
            }
        }
        drop(nofs);
        self.worker.store(0, Relaxed);
        let more = !batch.is_empty() || !self.ready.is_empty();
        if more {
            // SAFETY: We are the one worker.
            self.backlog.with_mut(|backlog| unsafe { *backlog = batch });
            self.work.queue();
        }
        more
    }
}

/// Runs what is ready, up to the first that does not fit, and until the budget is used up or the
/// time is over.
#[inline(always)] // The executor of upcalls has one that asks nothing.
fn run_while(
    batch: &mut Batch,
    budget: &mut usize,
    fits: impl Fn(NonNull<Runnable>) -> bool,
    over: impl Fn() -> bool,
) {
    while let Some(link) = batch.peek() {
        let runnable: NonNull<Runnable> = link.cast();
        if *budget == 0 || !fits(runnable) {
            break;
        }
        let _ = batch.next();
        *budget -= 1;
        // SAFETY: Links on our list are the first fields of live runnables, and the reference that
        // was pushed with it is now ours to pass on.
        unsafe { (runnable.as_ref().run)(runnable) };
        if over() {
            *budget = 0;
        }
    }
}
