// SPDX-License-Identifier: GPL-2.0

//! The first of several futures.

use super::sys;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

/// One of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// Of the first future.
    Left(A),
    /// Of the second future.
    Right(B),
}

/// The future of [`race`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Race<A, B> {
    a: A,
    b: B,
    over: bool,
}

/// Waits for `a` or `b`, whichever is ready first; for `a` if both are.
///
/// The other is dropped with the future, unfinished. To go on with it later, pass a `Pin<&mut _>` of
/// it. [`select!`](crate::select) is more pleasant for more than two.
///
/// # Cancellation
///
/// Dropping it drops both.
///
/// ```
/// # use upcall::{race, Either, JoinHandle, Notify};
/// # async fn example(task: JoinHandle<u32>, stop: &Notify) -> Option<u32> {
/// match race(task, stop.notified()).await {
///     Either::Left(value) => value.ok(),
///     Either::Right(_) => None,
/// }
/// # }
/// ```
pub fn race<A: Future, B: Future>(a: A, b: B) -> Race<A, B> {
    Race { a, b, over: false }
}

impl<A: Future, B: Future> Future for Race<A, B> {
    type Output = Either<A::Output, B::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: Nothing is moved out of it.
        let this = unsafe { self.get_unchecked_mut() };
        if this.over {
            return sys::polled_again();
        }
        // SAFETY: The field is pinned with `self`.
        let a = unsafe { Pin::new_unchecked(&mut this.a) };
        if let Poll::Ready(value) = a.poll(cx) {
            this.over = true;
            return Poll::Ready(Either::Left(value));
        }
        // SAFETY: The field is pinned with `self`.
        let b = unsafe { Pin::new_unchecked(&mut this.b) };
        let value = b.poll(cx);
        this.over = value.is_ready();
        value.map(Either::Right)
    }
}

/// Waits for the first of several futures, drops the others, and goes on in its arm.
///
/// Arms are `pattern = future => expression`. The futures are polled in the order in which they are
/// written. The expressions run in the surrounding function: they may `return`, `break` and `.await`.
///
/// ```
/// # use core::{future::Future, time::Duration};
/// # use kernel::prelude::*;
/// # use upcall::{select, sleep};
/// # async fn example(device_read: impl Future<Output = Result<u32>>) -> Result<u32> {
/// let answer = select! {
///     block = device_read => block?,
///     () = sleep(Duration::from_millis(100)) => return Err(ETIMEDOUT),
/// };
/// # Ok(answer)
/// # }
/// ```
#[macro_export]
macro_rules! select {
    (@future $future:expr) => { $future };
    (@future $future:expr, $($rest:expr),+) => {
        $crate::race($future, $crate::select!(@future $($rest),+))
    };
    (@arms $result:expr; $pattern:pat => $then:expr) => {
        match $result { $pattern => $then }
    };
    (@arms $result:expr; $pattern:pat => $then:expr, $($rest:tt)+) => {
        match $result {
            $crate::Either::Left($pattern) => $then,
            $crate::Either::Right(result) => $crate::select!(@arms result; $($rest)+),
        }
    };
    ($($pattern:pat = $future:expr => $then:expr),+ $(,)?) => {
        $crate::select!(@arms $crate::select!(@future $($future),+).await; $($pattern => $then),+)
    };
}
