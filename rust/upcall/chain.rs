// SPDX-License-Identifier: GPL-2.0

//! Chains of steps, each of which gets the value of the one before.
//!
//! `run(a).then(b).then(c)` does what `async { c(b(a.await?).await?).await }` does. It is a type of
//! its own, and not made of `async` blocks, as each of those would have room for the step before
//! it twice.

use super::sys;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

/// A chain: a future of what its last step gives. See [`run`].
///
/// # Cancellation
///
/// Dropping it drops the step that it is at; later ones never begin.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Chain<F> {
    steps: F,
    over: bool,
}

impl<F> Chain<F> {
    fn of(steps: F) -> Self {
        Self { steps, over: false }
    }
}

/// Begins a chain with `first`.
///
/// Steps give a `Result`. The first error ends the chain, and is what the chain gives.
///
/// ```
/// # use kernel::prelude::*;
/// # use upcall::run;
/// # async fn example() -> Result<u32> {
/// run(async { Ok(20u32) })
///     .then(|n| async move { Ok(n + 1) })
///     .then(|n| async move { n.checked_mul(2).ok_or(EOVERFLOW) })
///     .await
/// # }
/// ```
pub fn run<F, T, E>(first: F) -> Chain<F>
where
    F: Future<Output = Result<T, E>>,
{
    Chain::of(first)
}

impl<F, T, E> Chain<F>
where
    F: Future<Output = Result<T, E>>,
{
    /// Adds a step: a function of the value so far, which gives a future.
    pub fn then<S, G, U>(self, step: S) -> Chain<Then<F, S, G>>
    where
        S: FnOnce(T) -> G,
        G: Future<Output = Result<U, E>>,
    {
        Chain::of(Then::First(self.steps, Some(step)))
    }
}

impl<F: Future> Future for Chain<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: Nothing is moved out of it.
        let this = unsafe { self.get_unchecked_mut() };
        if this.over {
            return sys::polled_again();
        }
        // SAFETY: The field is pinned with `self`.
        let output = unsafe { Pin::new_unchecked(&mut this.steps) }.poll(cx);
        this.over = output.is_ready();
        output
    }
}

/// A step with what comes before it.
#[doc(hidden)]
pub enum Then<F, S, G> {
    First(F, Option<S>),
    Second(G),
    Over,
}

impl<F, S, G, T, U, E> Future for Then<F, S, G>
where
    F: Future<Output = Result<T, E>>,
    S: FnOnce(T) -> G,
    G: Future<Output = Result<U, E>>,
{
    type Output = Result<U, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: The futures are polled where they are, and dropped by the assignments; only the
        // step, which is not pinned, is moved.
        let this = unsafe { self.get_unchecked_mut() };
        if let Self::First(first, step) = this {
            // SAFETY: As above.
            let Poll::Ready(result) = unsafe { Pin::new_unchecked(first) }.poll(cx) else {
                return Poll::Pending;
            };
            let step = step.take();
            // The step before is over before this one begins.
            *this = Self::Over;
            match (result, step) {
                (Ok(value), Some(step)) => *this = Self::Second(step(value)),
                (Err(error), _) => return Poll::Ready(Err(error)),
                (Ok(_), None) => {}
            }
        }
        let Self::Second(second) = this else {
            return sys::polled_again();
        };
        // SAFETY: As above.
        let result = unsafe { Pin::new_unchecked(second) }.poll(cx);
        if result.is_ready() {
            *this = Self::Over;
        }
        result
    }
}
