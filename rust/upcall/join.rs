// SPDX-License-Identifier: GPL-2.0

//! Waiting for several futures at once, in one task, and letting others go first.

use super::sys::{self, KVec};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

/// A future, then its output, then nothing.
enum Slot<F: Future> {
    Pending(F),
    Ready(F::Output),
    Taken,
}

/// The future of [`join_all`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct JoinAll<F: Future> {
    slots: KVec<Slot<F>>,
}

/// Waits for all of `futures`, and gives their outputs in the same order.
///
/// They run in the caller's task and are all polled when it is woken: right for a handful, or for
/// [`JoinHandle`](super::JoinHandle)s, whose poll is cheap. Fails with `ENOMEM` if there is no memory for the list.
///
/// # Cancellation
///
/// Dropping it drops the futures that are not done, and the outputs of those that are.
pub fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> sys::Result<JoinAll<F>> {
    let mut slots = KVec::new();
    for future in futures {
        sys::push(&mut slots, Slot::Pending(future))?;
    }
    Ok(JoinAll { slots })
}

impl<F: Future> Future for JoinAll<F> {
    type Output = sys::Result<KVec<F::Output>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: The futures are never moved: the vector does not grow, and outputs replace them
        // in place.
        let this = unsafe { self.get_unchecked_mut() };
        let mut pending = false;
        for slot in this.slots.iter_mut() {
            if let Slot::Pending(future) = slot {
                // SAFETY: As above.
                match unsafe { Pin::new_unchecked(future) }.poll(cx) {
                    Poll::Ready(output) => *slot = Slot::Ready(output),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return Poll::Pending;
        }
        let mut outputs = KVec::new();
        for slot in this.slots.iter_mut() {
            if let Slot::Ready(output) = core::mem::replace(slot, Slot::Taken) {
                if let Err(error) = sys::push(&mut outputs, output) {
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(outputs))
    }
}

/// Lets the other tasks that are ready run before the caller goes on.
///
/// # Cancellation
///
/// Nothing is lost by dropping it.
pub async fn yield_now() {
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
