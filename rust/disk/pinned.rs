// SPDX-License-Identifier: GPL-2.0

//! [`Boxed`]: a large future on the heap, polled in a frame of its own.
//!
//! A thread in the kernel has 16 KiB of stack, and file systems are called deep in it. What a future
//! keeps across an `.await` is in its box. What it has between two is in the frame of its poll, and
//! the compiler likes to make one frame of a poll and of all the polls that it calls one after the
//! other. So boxes are made, and polled, in functions that are not inlined.

use crate::gfp;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use kernel::prelude::*;

/// A future on the heap.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Boxed<F>(Pin<KBox<F>>);

// The future is pinned where the box leads to, wherever the box itself is.
impl<F> Unpin for Boxed<F> {}

impl<F: Future> Future for Boxed<F> {
    type Output = F::Output;

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.0.as_mut().poll(cx)
    }
}

/// Puts the future that `make` makes on the heap. Fails with `ENOMEM`.
#[inline(never)]
pub fn pinned<F: Future>(make: impl FnOnce() -> F) -> Result<Boxed<F>> {
    // Made where it stays: it is not moved there.
    let memory = KBox::new_uninit(gfp())?;
    Ok(Boxed(KBox::into_pin(KBox::write(memory, make()))))
}
