// SPDX-License-Identifier: GPL-2.0

//! Waiting for several futures at once, in one task, and letting others go first.

use super::members::Members;
use super::stats::Wait;
use super::sys::{self, KVec};
use super::task;
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
    members: Members,
    /// How many are not done.
    left: usize,
    /// It was ready.
    over: bool,
}

impl<F: Future> JoinAll<F> {
    /// Polls those that were woken, until `failed` says so of an output or all are done.
    ///
    /// The futures are never moved: the vector does not grow, and outputs replace them in place.
    fn poll_members(
        &mut self,
        cx: &mut Context<'_>,
        mut failed: impl FnMut(&F::Output) -> bool,
    ) -> Poll<()> {
        let (slots, left) = (&mut self.slots, &mut self.left);
        let mut ended = *left == 0;
        self.members.poll(cx, |index, cx| {
            let Some(slot) = slots.get_mut(index) else {
                return true;
            };
            let Slot::Pending(future) = slot else {
                return true;
            };
            // SAFETY: The future is pinned with the `JoinAll`, and not moved, as said above.
            if let Poll::Ready(output) = unsafe { Pin::new_unchecked(future) }.poll(cx) {
                ended = failed(&output);
                *slot = Slot::Ready(output);
                *left -= 1;
                ended |= *left == 0;
            }
            !ended
        });
        if ended {
            self.over = true;
            return Poll::Ready(());
        }
        task::waits(cx, Wait::Join);
        Poll::Pending
    }
}

/// Waits for all of `futures`, and gives their outputs in the same order.
///
/// They run in the caller's task, each polled when it is woken. After a millisecond of polls others
/// have their turn, so that no poll takes longer than that and the longest of one future. Fails with
/// `ENOMEM` if there is no memory for the list.
///
/// # Cancellation
///
/// Dropping it drops the futures that are not done, and the outputs of those that are.
///
/// ```
/// # use kernel::prelude::*;
/// # use upcall::{join_all, Scope};
/// # async fn example(scope: &Scope) -> Result {
/// let mut handles = KVec::new();
/// for n in 0..3 {
///     handles.push(scope.spawn(async move { n * n })?, GFP_KERNEL)?;
/// }
/// for square in join_all(handles)?.await? {
///     pr_info!("{}\n", square?);
/// }
/// # Ok(())
/// # }
/// ```
pub fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> sys::Result<JoinAll<F>> {
    let mut slots = KVec::new();
    for future in futures {
        sys::push(&mut slots, Slot::Pending(future))?;
    }
    Ok(JoinAll {
        members: Members::new(slots.len())?,
        left: slots.len(),
        slots,
        over: false,
    })
}

impl<F: Future> Future for JoinAll<F> {
    type Output = sys::Result<KVec<F::Output>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: The futures are never moved, as `poll_members` says.
        let this = unsafe { self.get_unchecked_mut() };
        if this.over {
            return sys::polled_again();
        }
        if this.poll_members(cx, |_| false).is_pending() {
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

/// The future of [`try_join_all`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct TryJoinAll<F: Future>(JoinAll<F>);

/// Waits for all of `futures`, and gives the values of all or the first error.
///
/// Otherwise as [`join_all`]; what is not done when one fails is dropped with the future.
pub fn try_join_all<F, T, E>(futures: impl IntoIterator<Item = F>) -> sys::Result<TryJoinAll<F>>
where
    F: Future<Output = Result<T, E>>,
    E: From<sys::Error>,
{
    Ok(TryJoinAll(join_all(futures)?))
}

impl<F, T, E> Future for TryJoinAll<F>
where
    F: Future<Output = Result<T, E>>,
    E: From<sys::Error>,
{
    type Output = Result<KVec<T>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: The futures are never moved, as `poll_members` says.
        let this = &mut unsafe { self.get_unchecked_mut() }.0;
        if this.over {
            return sys::polled_again();
        }
        if this.poll_members(cx, |output| output.is_err()).is_pending() {
            return Poll::Pending;
        }
        let mut values = KVec::new();
        for slot in this.slots.iter_mut() {
            // A future that is not done stays where it is.
            if !matches!(slot, Slot::Ready(_)) {
                continue;
            }
            match core::mem::replace(slot, Slot::Taken) {
                Slot::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Slot::Ready(Ok(value)) if this.left == 0 => {
                    if let Err(error) = sys::push(&mut values, value) {
                        return Poll::Ready(Err(error.into()));
                    }
                }
                // Of one that was done before another failed.
                _ => {}
            }
        }
        Poll::Ready(Ok(values))
    }
}

/// Futures that are waited for together, in place: what [`join!`](crate::join!) makes of its arguments.
pub trait Together {
    /// The outputs, in the same order.
    type Output;

    #[doc(hidden)]
    fn poll_together(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output>;
}

/// The future of [`join!`](crate::join!).
#[must_use = "a future does nothing unless it is awaited"]
#[doc(hidden)]
pub struct Join<T>(pub T);

impl<T: Together> Future for Join<T> {
    type Output = T::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: The field is pinned with `self`.
        unsafe { self.map_unchecked_mut(|this| &mut this.0) }.poll_together(cx)
    }
}

/// What [`try_join!`](crate::try_join!) makes of its arguments.
pub trait TryTogether<Error> {
    /// The values, in the same order.
    type Values;

    #[doc(hidden)]
    fn try_poll_together(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Values, Error>>;
}

/// The future of [`try_join!`](crate::try_join!).
#[must_use = "a future does nothing unless it is awaited"]
#[doc(hidden)]
pub struct TryJoin<T, E>(pub T, pub core::marker::PhantomData<E>);

impl<T: TryTogether<E>, E> Future for TryJoin<T, E> {
    type Output = Result<T::Values, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: The field is pinned with `self`.
        unsafe { self.map_unchecked_mut(|this| &mut this.0) }.try_poll_together(cx)
    }
}

#[doc(hidden)]
pub struct Member<F: Future>(Slot<F>);

impl<F: Future> Member<F> {
    #[doc(hidden)]
    pub fn new(future: F) -> Self {
        Self(Slot::Pending(future))
    }

    /// Polls the future unless it is done. Returns whether it is.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if let Slot::Pending(future) = &mut self.0 {
            // SAFETY: The member is part of a pinned `Join`, and the output replaces the future in
            // place.
            match unsafe { Pin::new_unchecked(future) }.poll(cx) {
                Poll::Ready(output) => self.0 = Slot::Ready(output),
                Poll::Pending => return false,
            }
        }
        true
    }

    /// Takes the error out, if the output is one.
    fn take_error<T, E>(&mut self) -> Option<E>
    where
        F: Future<Output = Result<T, E>>,
    {
        if !matches!(self.0, Slot::Ready(Err(_))) {
            return None;
        }
        self.take()?.err()
    }

    fn take(&mut self) -> Option<F::Output> {
        // A future is never moved.
        if !matches!(self.0, Slot::Ready(_)) {
            return None;
        }
        match core::mem::replace(&mut self.0, Slot::Taken) {
            Slot::Ready(output) => Some(output),
            _ => None,
        }
    }
}

macro_rules! together {
    ($($name:ident $value:ident $index:tt),+) => {
        impl<$($name: Future),+> Together for ($(Member<$name>,)+) {
            type Output = ($($name::Output,)+);

            fn poll_together(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                // SAFETY: The futures are polled where they are, and never moved.
                let this = unsafe { self.get_unchecked_mut() };
                let mut done = true;
                $(done &= this.$index.poll(cx);)+
                if !done {
                    return Poll::Pending;
                }
                match ($(this.$index.take(),)+) {
                    ($(Some($name),)+) => Poll::Ready(($($name,)+)),
                    _ => sys::polled_again(),
                }
            }
        }

        impl<E, $($value, $name: Future<Output = Result<$value, E>>),+> TryTogether<E>
            for ($(Member<$name>,)+)
        {
            type Values = ($($value,)+);

            fn try_poll_together(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Result<Self::Values, E>> {
                // SAFETY: As above.
                let this = unsafe { self.get_unchecked_mut() };
                if false $(|| matches!(this.$index.0, Slot::Taken))+ {
                    return sys::polled_again();
                }
                let mut done = true;
                $(
                    if !this.$index.poll(cx) {
                        done = false;
                    } else if let Some(error) = this.$index.take_error() {
                        return Poll::Ready(Err(error));
                    }
                )+
                if !done {
                    return Poll::Pending;
                }
                match ($(this.$index.take(),)+) {
                    ($(Some(Ok($name)),)+) => Poll::Ready(Ok(($($name,)+))),
                    _ => sys::polled_again(),
                }
            }
        }
    };
}

#[allow(
    non_snake_case,
    reason = "the names of the types are also those of the outputs"
)]
mod tuples {
    use super::*;

    together!(A T 0, B U 1);
    together!(A T 0, B U 1, C V 2);
    together!(A T 0, B U 1, C V 2, D W 3);
    together!(A T 0, B U 1, C V 2, D W 3, F X 4);
    together!(A T 0, B U 1, C V 2, D W 3, F X 4, G Y 5);
}

/// Waits for two to six futures of any types, in the caller's task, and gives a tuple of their outputs.
///
/// Without memory of its own: the futures are part of the caller's. Dropping it drops them.
///
/// ```
/// # use upcall::join;
/// # async fn example() {
/// let (a, b) = join!(async { 1 }, async { "two" });
/// # let _ = (a, b);
/// # }
/// ```
#[macro_export]
macro_rules! join {
    ($($future:expr),+ $(,)?) => {
        $crate::Join(($($crate::JoinMember::new($future),)+)).await
    };
}

/// [`join!`](crate::join!) for futures that give a `Result` with the same error: a tuple of their
/// values, or the first error, at once. What is not done then is dropped.
///
/// ```
/// # use kernel::prelude::*;
/// # use upcall::{try_join, Block, Device};
/// # async fn example(device: &Device, a: &mut Block, b: &mut Block) -> Result {
/// try_join!(
///     a.read(device, 0, 0, Block::SIZE),
///     b.read(device, 1 << 20, 0, Block::SIZE),
/// )?;
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! try_join {
    ($($future:expr),+ $(,)?) => {
        $crate::TryJoin(($($crate::JoinMember::new($future),)+), ::core::marker::PhantomData).await
    };
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
