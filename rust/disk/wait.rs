// SPDX-License-Identifier: GPL-2.0

//! Waiting for a block that somebody else reads.
//!
//! # Concurrency
//!
//! A waiter is part of the future that waits, and is linked into the block's entry. Both are under
//! the lock of the entry's shard. The completion of the read, in any context, unlinks all waiters,
//! leaves each its outcome, and wakes it, all under the lock. A future that is dropped unlinks its
//! waiter under the lock, so that no list ever refers to memory that is gone.

use crate::cache::{Entry, Inner};
use core::cell::UnsafeCell;
use core::future::Future;
use core::marker::PhantomPinned;
use core::pin::Pin;
use core::ptr::null_mut;
use core::task::{Context, Poll, Waker};
use kernel::prelude::*;

/// How a waiter's wait ended.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// It has not.
    Waiting,
    /// The block is to be looked up again.
    Again,
    /// The read of this block failed.
    Failed(Error),
}

/// One who waits. All of it is under the lock of the shard, from when it is linked.
pub(crate) struct Waiter {
    pub(crate) prev: *mut Waiter,
    pub(crate) next: *mut Waiter,
    pub(crate) waker: Option<Waker>,
    pub(crate) outcome: Outcome,
    /// The entry that it is linked into, or null.
    pub(crate) entry: *mut Entry,
}

impl Waiter {
    fn new() -> Self {
        Self {
            prev: null_mut(),
            next: null_mut(),
            waker: None,
            outcome: Outcome::Again,
            entry: null_mut(),
        }
    }
}

/// Waits until the read of a block is over. Gives the error if it failed.
///
/// The block is then to be looked up again: it may have left the cache.
///
/// # Cancellation
///
/// The read goes on.
pub(crate) struct Settled<'a> {
    cache: &'a Inner,
    block: u64,
    waiter: UnsafeCell<Waiter>,
    linked: bool,
    _pinned: PhantomPinned,
}

// SAFETY: The waiter is reached under the shard's lock alone.
unsafe impl Send for Settled<'_> {}

impl<'a> Settled<'a> {
    pub(crate) fn new(cache: &'a Inner, block: u64) -> Self {
        Self {
            cache,
            block,
            waiter: UnsafeCell::new(Waiter::new()),
            linked: false,
            _pinned: PhantomPinned,
        }
    }
}

impl Future for Settled<'_> {
    type Output = Result;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result> {
        // SAFETY: The waiter stays where it is.
        let this = unsafe { self.get_unchecked_mut() };
        let waiter = this.waiter.get();
        let mut shard = this.cache.shard(this.block);
        if !this.linked {
            // SAFETY: The waiter is pinned, and is unlinked before it goes.
            this.linked = unsafe { shard.wait(this.block, waiter, cx.waker()) };
            return if this.linked {
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            };
        }
        // SAFETY: We hold the lock of the shard.
        match unsafe { (*waiter).outcome } {
            Outcome::Waiting => {
                // SAFETY: We hold the lock of the shard.
                let slot = unsafe { &mut (*waiter).waker };
                let old = match slot {
                    Some(old) if old.will_wake(cx.waker()) => None,
                    _ => slot.replace(cx.waker().clone()),
                };
                drop(shard);
                drop(old);
                Poll::Pending
            }
            Outcome::Again => Poll::Ready(Ok(())),
            Outcome::Failed(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for Settled<'_> {
    fn drop(&mut self) {
        if self.linked {
            let mut shard = self.cache.shard(self.block);
            // SAFETY: We hold the lock of the shard that it was linked in.
            let waker = unsafe { shard.unlink_waiter(self.waiter.get()) };
            drop(shard);
            drop(waker);
        }
    }
}
