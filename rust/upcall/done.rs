// SPDX-License-Identifier: GPL-2.0

//! A one-shot completion with one asynchronous waiter.
//!
//! The asynchronous relative of the kernel's `struct completion`: one side calls
//! [`Done::complete`] once, from any context; the other side polls [`Done::poll`].
//!
//! # Concurrency
//!
//! One waiter (whoever polls has exclusive use of the waiting side) and one completer, which may
//! be in interrupt context, can run at the same time. The waker slot has one owner at each moment,
//! told by the state:
//!
//! | state | who may touch the slot |
//! |---|---|
//! | `EMPTY` | the waiter |
//! | `ARMED` | whoever moves the state away from `ARMED` |
//! | `DONE` | nobody, but for the completer that came from `ARMED`, once |
//!
//! The waiter moves `EMPTY → ARMED` after it wrote the slot and `ARMED → EMPTY` before it changes
//! it. The completer moves any state to `DONE` in one exchange, and takes the waker out if the
//! state it replaced was `ARMED`. A waiter whose move fails finds `DONE` and needs no waker.
//!
//! [`Done::reset`] makes `DONE` `EMPTY` again, for who has both sides: a request that is asked again when the
//! completer has dropped its reference.
//!
//! The completer takes a waker out but once the exchange is done the waiter may already have seen
//! `DONE` and freed the memory. So the waiter frees nothing before the completer lets go: the memory
//! that holds a `Done` is refcounted by both sides (task, bio request).

use super::stats::Wait;
use super::sys::{self, Acquire, Atomic, Cell, Full, Relaxed};
use super::task;
use core::task::{Context, Poll, Waker};

const EMPTY: usize = 0;
const ARMED: usize = 1;
const DONE: usize = 2;

/// A one-shot completion with one asynchronous waiter.
pub(crate) struct Done {
    state: Atomic<usize>,
    waker: Cell<Option<Waker>>,
}

// SAFETY: The state word gives the waker slot to one side at a time (module documentation).
unsafe impl Send for Done {}
// SAFETY: As above.
unsafe impl Sync for Done {}

impl Done {
    /// Makes a completion that is not done.
    pub(crate) fn new() -> Self {
        Self {
            state: Atomic::new(EMPTY),
            waker: Cell::new(None),
        }
    }

    /// Whether [`complete`](Self::complete) was called. What the completer did before is visible
    /// to a caller that sees `true`.
    pub(crate) fn is_done(&self) -> bool {
        self.state.load(Acquire) == DONE
    }

    /// Marks the completion as done and wakes the waiter.
    ///
    /// Any context. A second call does nothing.
    pub(crate) fn complete(&self) {
        if let Some(waker) = self.finish() {
            waker.wake();
        }
    }

    /// [`complete`](Self::complete), inside a read section.
    #[cfg_attr(not(MODULE), allow(dead_code, reason = "the host has no devices"))]
    pub(crate) fn complete_in(&self, section: &sys::ReadSection) {
        if let Some(waker) = self.finish() {
            task::wake_in(waker, section);
        }
    }

    /// Marks the completion as done. Gives the waiter's waker.
    fn finish(&self) -> Option<Waker> {
        if self.state.xchg(DONE, Full) != ARMED {
            return None;
        }
        // SAFETY: We moved the state away from `ARMED`, so the slot is ours.
        self.waker.with_mut(|slot| unsafe { (*slot).take() })
    }

    /// Makes a completion that is done, and has no waker, one that is not.
    ///
    /// # Safety
    ///
    /// The caller has exclusive use of both sides.
    #[cfg_attr(not(MODULE), allow(dead_code, reason = "the host has no devices"))]
    pub(crate) unsafe fn reset(&self) {
        self.state.store(EMPTY, Relaxed);
    }

    /// Polls for completion, of what a task waits for as `what`.
    ///
    /// # Safety
    ///
    /// The caller has exclusive use of the waiting side: no other `poll` or
    /// [`disarm`](Self::disarm) runs at the same time.
    #[inline(always)] // A call more for each step of a task is much beside what it does.
    pub(crate) unsafe fn poll(&self, cx: &mut Context<'_>, what: Wait) -> Poll<()> {
        match self.state.load(Acquire) {
            DONE => return Poll::Ready(()),
            ARMED => {
                // `will_wake` may read the slot only once it is ours.
                if self.state.cmpxchg(ARMED, EMPTY, Full).is_err() {
                    return self.ready();
                }
            }
            _ => {}
        }
        // SAFETY: The state is `EMPTY` and we are the waiter, so the slot is ours.
        let old = self.waker.with_mut(|slot| unsafe {
            match &mut *slot {
                Some(waker) if waker.will_wake(cx.waker()) => None,
                Some(waker) => Some(core::mem::replace(waker, task::clone_waker(cx.waker()))),
                None => {
                    slot.write(Some(task::clone_waker(cx.waker())));
                    None
                }
            }
        });
        drop(old);
        if self.state.cmpxchg(EMPTY, ARMED, Full).is_ok() {
            task::waits(cx, what);
            return Poll::Pending;
        }
        // Completed in between: the completer saw `EMPTY` and left the slot to us.
        // SAFETY: The completer replaced `EMPTY`, so it does not touch the slot.
        drop(self.waker.with_mut(|slot| unsafe { (*slot).take() }));
        self.ready()
    }

    /// An exchange failed because of `DONE`. A failed exchange orders nothing, so that what the
    /// completer did before becomes visible here.
    fn ready(&self) -> Poll<()> {
        let done = self.is_done();
        debug_assert!(done);
        Poll::Ready(())
    }

    /// Takes back the waker that the last [`poll`](Self::poll) left, if it is still there.
    ///
    /// # Safety
    ///
    /// As for [`poll`](Self::poll).
    pub(crate) unsafe fn disarm(&self) {
        if self.state.load(Relaxed) == ARMED && self.state.cmpxchg(ARMED, EMPTY, Full).is_ok() {
            // SAFETY: We moved the state away from `ARMED`, so the slot is ours.
            drop(self.waker.with_mut(|slot| unsafe { (*slot).take() }));
        }
    }
}
