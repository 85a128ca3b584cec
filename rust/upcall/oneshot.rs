// SPDX-License-Identifier: GPL-2.0

//! One value from one sender to one receiver.
//!
//! # Concurrency
//!
//! The slot belongs to the sender until it completes [`Done`], to the receiver after. Sender and
//! receiver each hold a reference on both; the last frees them. The sender may be in interrupt
//! context, as far as the value may: sending runs no destructor but, if the receiver is gone, the
//! value's own.

use super::done::Done;
use super::semaphore::Closed;
use super::stats::Wait;
use super::sys::{self, Acquire, Arc, Atomic, Cell, Release};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

struct Inner<T> {
    value: Cell<Option<T>>,
    done: Done,
    /// The receiver is gone, and nobody will look at the value.
    deaf: Atomic<bool>,
}

// SAFETY: `done` gives the value to one side at a time (module documentation).
unsafe impl<T: Send> Send for Inner<T> {}
// SAFETY: As above.
unsafe impl<T: Send> Sync for Inner<T> {}

/// Makes a sender and a receiver for one value. Fails with `ENOMEM`. May sleep.
///
/// ```
/// # use kernel::prelude::*;
/// # use upcall::{oneshot, Scope};
/// # async fn example(scope: &Scope) -> Result<u32> {
/// let (answer, question) = oneshot()?;
/// scope.spawn(async move { answer.send(42) })?;
/// Ok(question.await?)
/// # }
/// ```
pub fn oneshot<T: Send>() -> sys::Result<(Sender<T>, Receiver<T>)> {
    let inner = sys::new_arc(Inner {
        value: Cell::new(None),
        done: Done::new(),
        deaf: Atomic::new(false),
    })?;
    Ok((Sender(inner.clone()), Receiver(Some(inner))))
}

/// The side that gives the value. Dropping it unsent tells the receiver.
pub struct Sender<T: Send>(Arc<Inner<T>>);

impl<T: Send> Sender<T> {
    /// Sends the value and wakes the receiver. Any context.
    ///
    /// Gives the value back if the receiver is known to be gone. One that goes at the same moment
    /// may leave the value to be dropped with the channel.
    pub fn send(self, value: T) -> Result<(), T> {
        if self.is_closed() {
            return Err(value);
        }
        // SAFETY: We are the sender, and have not completed.
        self.0.value.with_mut(|slot| unsafe { *slot = Some(value) });
        Ok(())
        // The drop completes.
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.0.deaf.load(Acquire)
    }
}

impl<T: Send> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.done.complete();
    }
}

/// The side that gets the value: a future of it, or of [`Closed`] if there will be none.
///
/// # Cancellation
///
/// Nothing is lost by dropping a borrow of it; dropping the receiver drops the value.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Receiver<T: Send>(Option<Arc<Inner<T>>>);

impl<T: Send> Future for Receiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(inner) = &this.0 else {
            return sys::polled_again();
        };
        // SAFETY: `&mut self` makes us the one waiter.
        if unsafe { inner.done.poll(cx, Wait::Oneshot) }.is_pending() {
            return Poll::Pending;
        }
        // SAFETY: The sender is done, so the value is ours.
        let value = inner.value.with_mut(|slot| unsafe { (*slot).take() });
        this.0 = None;
        Poll::Ready(value.ok_or(Closed))
    }
}

impl<T: Send> Drop for Receiver<T> {
    fn drop(&mut self) {
        let Some(inner) = &self.0 else { return };
        inner.deaf.store(true, Release);
        // SAFETY: `&mut self` makes us the one waiter.
        unsafe { inner.done.disarm() };
        if inner.done.is_done() {
            // SAFETY: The sender is done, so the value is ours.
            drop(inner.value.with_mut(|slot| unsafe { (*slot).take() }));
        }
    }
}
