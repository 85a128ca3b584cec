// SPDX-License-Identifier: GPL-2.0

//! Waiting for memory in an upcall, without holding the thread.
//!
//! Reclaim may wait for IO that only the executor's thread can complete. So on a worker no
//! allocation enters reclaim: it succeeds at once, or fails. An `async fn` whose allocation failed
//! waits here without its thread, and tries again; everything else fails with `ENOMEM`. Nobody
//! waits for memory that was set aside ([`Reserve`](crate::Reserve)): a reserve that is used up was
//! made for less than is under way.
//!
//! # Concurrency
//!
//! A future whose allocation failed leaves a waker in a table, and queues a work item on a queue of
//! its own. The work item allocates as a thread may, and thereby waits for reclaim on behalf of
//! all. Then it takes all wakers out of the table and wakes them. A waker is in the table before
//! the work is queued, so a run that begins after the failure sees it. The table has a lock for
//! process context, and the wakers are called and dropped outside of it. A future that is dropped
//! leaves its waker there, which costs one wake in vain. When the table is full, the future wakes
//! its own task, and other tasks run in between.

use crate::sys::{self, Lock, Result, ENOMEM};
use crate::task;
use core::future::{poll_fn, Future};
use core::task::{Context, Poll, Waker};

/// How many can wait without waking themselves.
const WAITERS_MAX: usize = 64;

/// The largest size for which the allocator tries until it succeeds, in bytes:
/// `PAGE_ALLOC_COSTLY_ORDER`.
const ALLOC_SIZE_MAX: usize = 8 * 4096;

/// Those who wait for memory.
pub(crate) struct Shortage {
    waiting: Lock<[Option<Waker>; WAITERS_MAX]>,
}

impl Shortage {
    /// Makes one with nobody waiting.
    pub(crate) fn new() -> Self {
        Self {
            waiting: sys::new_lock!([const { None }; WAITERS_MAX]),
        }
    }

    /// Leaves a waker. Fails if there is no place.
    pub(crate) fn leave(&self, waker: &Waker) -> Result<(), ()> {
        let mut waker = Some(task::clone_waker(waker));
        let mut waiting = self.waiting.lock();
        let same = |new: &Waker| waiting.iter().flatten().any(|old| old.will_wake(new));
        let there = waker.as_ref().is_some_and(same);
        let place = waiting.iter_mut().find(|place| place.is_none());
        if let (false, Some(place)) = (there, place) {
            *place = waker.take();
            return Ok(());
        }
        drop(waiting);
        drop(waker);
        there.then_some(()).ok_or(())
    }

    /// Wakes all. Process context.
    pub(crate) fn over(&self) {
        let all = core::mem::replace(&mut *self.waiting.lock(), [const { None }; WAITERS_MAX]);
        all.into_iter().flatten().for_each(Waker::wake);
    }
}

/// After an allocation of `size` bytes failed: whether the caller is to return `Pending`, and to
/// try again when it is polled again. Not outside of an upcall, where the allocation has waited
/// itself.
pub(crate) fn wait(cx: &Context<'_>, size: usize) -> bool {
    if !sys::on_worker() || size > ALLOC_SIZE_MAX {
        return false;
    }
    let Some(shortage) = sys::shortage() else {
        return false;
    };
    if shortage.leave(cx.waker()).is_ok() {
        sys::reclaim(size);
    } else {
        cx.waker().wake_by_ref();
    }
    true
}

/// What `attempt` gives, which fails for lack of `size` bytes of memory: in an upcall it is tried
/// until it does not.
pub(crate) fn retry<T>(
    size: usize,
    mut attempt: impl FnMut() -> Option<T>,
) -> impl Future<Output = Result<T>> {
    poll_fn(move |cx| match attempt() {
        Some(value) => Poll::Ready(Ok(value)),
        None if wait(cx, size) => Poll::Pending,
        None => Poll::Ready(Err(ENOMEM)),
    })
}

/// Waits until the kernel has tried to make memory free; not at all outside of an upcall.
///
/// For an upcall in which something failed with `ENOMEM` that is worth another try, such as
/// [`Spawner::spawn`](crate::Spawner::spawn).
///
/// # Cancellation
///
/// Nothing is lost.
pub async fn memory_freed() {
    let mut waited = false;
    poll_fn(|cx| {
        if core::mem::replace(&mut waited, true) || !wait(cx, ALLOC_SIZE_MAX / 8) {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await
}
