// SPDX-License-Identifier: GPL-2.0

//! The state word of a task: its flags and its reference count.
//!
//! All that is known about a task at one moment is in one word, and every change is one
//! compare-and-exchange with full ordering, so there is no state in between. The functions here
//! decide; what follows from the decision (push, drop, free) is done by [`task`](super::task).

use super::sys::{Atomic, Full, Relaxed};

/// The task is on the ready list, or whoever set the bit is about to push it, or (with
/// [`RUNNING`]) the poller pushes it when the poll is over.
///
/// Set by a wake, by an abort and by `spawn`; cleared when a poll begins. It is what makes a
/// hundred wakes one poll. The setter that found neither `SCHEDULED` nor `RUNNING` owns the task's
/// link and gives the list a reference.
pub(crate) const SCHEDULED: usize = 1 << 0;

/// Somebody polls or drops the future, and nobody else may touch it.
///
/// Set by the executor when it takes the task from the ready list, and by `spawn_eager` for the
/// first poll. There is no other way to the future.
pub(crate) const RUNNING: usize = 1 << 1;

/// The future is gone: it returned a value, which is stored in its place, or was cancelled.
///
/// Never cleared. A wake that comes later does nothing.
pub(crate) const COMPLETE: usize = 1 << 2;

/// Somebody asked for the future to be dropped instead of polled.
///
/// Set by `abort` and by the drop of a scope, at any time. The next owner of [`RUNNING`] obeys. If
/// the future returned in the same moment, the value wins and the bit means nothing.
pub(crate) const CANCELLED: usize = 1 << 3;

/// A `JoinHandle` exists, and the output is its to take or drop.
///
/// Set at birth, cleared when the handle is dropped. If it is clear when the task completes,
/// the completer drops the output; if the handle finds [`COMPLETE`] when it clears the
/// bit, the handle does.
pub(crate) const HANDLE: usize = 1 << 4;

/// One reference. Wakers, the ready list, the scope and the `JoinHandle` hold one each.
pub(crate) const REF: usize = 1 << 8;

/// So many references that the task is leaked, which is better than a use after free: none is taken
/// away any more. As many again would have to be added until the count wraps.
const TOO_MANY: usize = 1 << (usize::BITS - 1);

/// What the caller of a transition does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Nothing,
    /// Push the task on the ready list, with the reference that the transition added.
    Push,
    /// Drop the future and complete the task: it was cancelled.
    Cancel,
    /// Poll the future.
    Poll,
    /// Free the task: the reference that the caller gave away was the last.
    Free,
}

/// Takes a reference away from `s`.
fn drop_ref(s: usize) -> (usize, Next) {
    debug_assert!(s >= REF);
    if s & TOO_MANY != 0 {
        (s, Next::Nothing)
    } else if s < 2 * REF {
        (s.wrapping_sub(REF), Next::Free)
    } else {
        (s.wrapping_sub(REF), Next::Nothing)
    }
}

/// The state word of a task.
pub(crate) struct State(Atomic<usize>);

impl State {
    /// Makes a state word with `bits`.
    pub(crate) fn new(bits: usize) -> Self {
        Self(Atomic::new(bits))
    }

    /// The bits, as they were a moment ago. It orders nothing.
    #[cfg(MODULE)]
    pub(crate) fn look(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Replaces the word by what `f` makes of it; `f` also says what to do next.
    fn update<R>(&self, mut f: impl FnMut(usize) -> (usize, R)) -> R {
        let mut old = self.0.load(Relaxed);
        loop {
            let (new, next) = f(old);
            // Also if nothing changes: the exchange orders a wake before the poll that it found
            // scheduled.
            match self.0.cmpxchg(old, new, Full) {
                Ok(_) => return next,
                Err(now) => old = now,
            }
        }
    }

    /// A waker was called. Any context.
    pub(crate) fn wake(&self) -> Next {
        self.update(|s| {
            if s & (COMPLETE | SCHEDULED) != 0 {
                (s, Next::Nothing)
            } else if s & RUNNING != 0 {
                (s | SCHEDULED, Next::Nothing)
            } else {
                ((s | SCHEDULED) + REF, Next::Push)
            }
        })
    }

    /// A waker was called that gives its reference away: to the list, or to nobody. Any context.
    pub(crate) fn wake_and_put(&self) -> Next {
        self.update(|s| {
            if s & (COMPLETE | SCHEDULED) != 0 {
                drop_ref(s)
            } else if s & RUNNING != 0 {
                drop_ref(s | SCHEDULED)
            } else {
                (s | SCHEDULED, Next::Push)
            }
        })
    }

    /// The future is to be dropped. Any context.
    pub(crate) fn abort(&self) -> Next {
        self.update(|s| {
            if s & COMPLETE != 0 {
                (s, Next::Nothing)
            } else if s & (RUNNING | SCHEDULED) != 0 {
                (s | CANCELLED, Next::Nothing)
            } else {
                ((s | CANCELLED | SCHEDULED) + REF, Next::Push)
            }
        })
    }

    /// The executor took the task from the ready list. The list's reference is now the executor's.
    ///
    /// `Nothing` if the task was [claimed](Self::claim) while it was on the list.
    pub(crate) fn begin(&self) -> Next {
        self.update(|s| {
            if s & (COMPLETE | RUNNING) != 0 {
                return (s, Next::Nothing);
            }
            debug_assert!(s & SCHEDULED != 0);
            let next = if s & CANCELLED != 0 {
                Next::Cancel
            } else {
                Next::Poll
            };
            ((s & !SCHEDULED) | RUNNING, next)
        })
    }

    /// A worker wants to cancel the task, now. Returns whether it owns [`RUNNING`] to do so; if not,
    /// the task is complete, or running: further up on the worker's own stack, or elsewhere.
    ///
    /// `SCHEDULED` stays as it is, and [`begin`](Self::begin) finds the task claimed.
    pub(crate) fn claim(&self) -> bool {
        self.update(|s| {
            if s & (COMPLETE | RUNNING) != 0 {
                (s, false)
            } else {
                (s | CANCELLED | RUNNING, true)
            }
        })
    }

    /// The poll returned `Pending`.
    ///
    /// After `Cancel` the caller still owns [`RUNNING`], and its reference. After `Push` it passes the
    /// reference on to the list: none is added. Otherwise the reference is gone.
    pub(crate) fn pending(&self) -> Next {
        self.update(|s| {
            debug_assert!(s & RUNNING != 0);
            if s & (CANCELLED | SCHEDULED) == 0 {
                drop_ref(s & !RUNNING)
            } else if s & CANCELLED != 0 {
                (s, Next::Cancel)
            } else {
                (s & !RUNNING, Next::Push)
            }
        })
    }

    /// The future is gone. Returns whether a `JoinHandle` exists, which then owns the output.
    pub(crate) fn complete(&self) -> bool {
        self.update(|s| {
            debug_assert!(s & RUNNING != 0 && s & COMPLETE == 0);
            ((s & !(RUNNING | SCHEDULED)) | COMPLETE, s & HANDLE != 0)
        })
    }

    /// The `JoinHandle` is dropped. Returns whether the task is complete, so that the caller has
    /// to drop the output.
    pub(crate) fn detach(&self) -> bool {
        self.update(|s| (s & !HANDLE, s & COMPLETE != 0))
    }

    /// Adds a reference.
    pub(crate) fn get(&self) {
        self.0.fetch_add(REF, Relaxed);
    }

    /// Drops a reference. Returns whether it was the last.
    pub(crate) fn put(&self) -> bool {
        self.update(drop_ref) == Next::Free
    }
}
