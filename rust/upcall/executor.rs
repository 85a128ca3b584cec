// SPDX-License-Identifier: GPL-2.0

//! The executor: one thread that runs a bag of upcalls.
//!
//! # Concurrency
//!
//! Any context pushes on the ready list; whoever finds it empty rings the bell. The bell starts
//! [`Executor::run`] on the worker, and never twice at the same time: in the kernel this is the
//! non-reentrancy of a work item. `backlog` belongs to that run alone.
//!
//! No wake is lost: a push that comes before the run's last look at the list is seen by it, one that
//! comes later finds the list empty and rings. A run that stops because its budget is used up leaves
//! a non-empty list behind, to which nobody rings; it rings for itself.

use super::ready::{Batch, Link, ReadyList};
use super::scope::ScopeInner;
use super::sys::{self, Arc, Atomic, Bell, Cell, Relaxed};
use core::ptr::{null, NonNull};

/// How many runnables one run takes on before it lets others have the CPU.
const BUDGET: usize = 256;

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

impl Runnable {
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
pub struct Executor {
    ready: ReadyList,
    /// What is left of a batch when the budget is used up. Touched by the worker alone.
    backlog: Cell<Batch>,
    /// The thread that is inside [`Executor::run`], or 0.
    worker: Atomic<usize>,
    /// The scope whose member is being run, or null. Touched by the worker alone.
    scope: Cell<*const ScopeInner>,
    bell: Bell,
}

// SAFETY: `backlog` and `scope` are touched by the one worker alone; all else is made to be shared.
unsafe impl Send for Executor {}
// SAFETY: As above.
unsafe impl Sync for Executor {}

impl Executor {
    /// Makes an executor that `bell` starts.
    pub(crate) fn new(bell: Bell) -> Self {
        Self {
            ready: ReadyList::new(),
            backlog: Cell::new(Batch::new()),
            worker: Atomic::new(0),
            scope: Cell::new(null()),
            bell,
        }
    }

    /// Where the bell is, for the kernel to find the executor from its work item.
    #[cfg(MODULE)]
    pub(crate) const BELL_OFFSET: usize = core::mem::offset_of!(Executor, bell);

    /// The bell, to be hung up once the executor has its final address.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
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
            self.bell.ring();
        }
    }

    /// Whether the caller is this executor's worker, inside a poll.
    pub fn is_current(&self) -> bool {
        self.worker.load(Relaxed) == sys::current()
    }

    /// Runs `f` for a member of `scope`.
    ///
    /// # Safety
    ///
    /// Called by the worker, from a [`Runnable`], which calls it once. The member keeps `scope`
    /// alive until `f` has called the user's code for the last time.
    pub(crate) unsafe fn within(&self, scope: *const ScopeInner, f: impl FnOnce()) {
        // SAFETY: We are the worker.
        self.scope.with_mut(|current| unsafe { *current = scope });
        f();
        // SAFETY: As above.
        self.scope.with_mut(|current| unsafe { *current = null() });
    }

    /// The scope whose member the caller is, if the caller is user code on this executor's worker.
    pub(crate) fn current_scope(&self) -> Option<Arc<ScopeInner>> {
        if !self.is_current() {
            return None;
        }
        // SAFETY: We are the worker.
        let scope = self.scope.with(|current| unsafe { *current });
        // SAFETY: User code runs inside `within`, so the scope is there, in an `Arc`.
        (!scope.is_null()).then(|| unsafe { sys::share(scope) })
    }

    /// Runs what is ready, at most [`BUDGET`] runnables.
    ///
    /// # Safety
    ///
    /// Called by the bell alone, never twice at the same time.
    pub(crate) unsafe fn run(&self) {
        self.worker.store(sys::current(), Relaxed);
        // SAFETY: We are the one worker.
        let take = |backlog: *mut Batch| unsafe { core::mem::replace(&mut *backlog, Batch::new()) };
        let mut batch = self.backlog.with_mut(take);
        sys::with_plug(|| {
            let _nofs = sys::NoFs::enter();
            for _ in 0..BUDGET {
                if batch.is_empty() {
                    batch = self.ready.take();
                }
                let Some(link) = batch.next() else { break };
                let runnable: NonNull<Runnable> = link.cast();
                // SAFETY: Links on our list are the first fields of live runnables, and the
                // reference that was pushed with it is now ours to pass on.
                unsafe { (runnable.as_ref().run)(runnable) };
            }
        });
        self.worker.store(0, Relaxed);
        if !batch.is_empty() || !self.ready.is_empty() {
            // SAFETY: We are the one worker.
            self.backlog.with_mut(|backlog| unsafe { *backlog = batch });
            self.bell.ring();
        }
    }
}
