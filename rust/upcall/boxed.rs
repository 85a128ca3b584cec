// SPDX-License-Identifier: GPL-2.0

//! [`Boxed`]: a large future on the heap, polled in a frame of its own.
//!
//! A thread in the kernel has 16 KiB of stack, and file systems are called deep in it. What a future
//! keeps across an `.await` is in its box. What it has between two is in the frame of its poll, and
//! the compiler likes to make one frame of a poll and of all the polls that it calls one after the
//! other. So boxes are made, and polled, in functions that are not inlined.
//!
//! An operation of a file system makes some ten of them, one in the other. Their memory is that of
//! tasks: from slab caches, which do not clear what is written anyway.

use crate::sys::{self, Layout, Result, ENOMEM};
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll};

/// A future on the heap.
///
/// # Invariants
///
/// It leads to a future, which it owns, in memory from [`sys::alloc`] without a reserve.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Boxed<F>(NonNull<F>, PhantomData<F>);

// SAFETY: It owns the future, and is sent with it.
unsafe impl<F: Send> Send for Boxed<F> {}
// SAFETY: A reference to it gives none to the future.
unsafe impl<F> Sync for Boxed<F> {}

// The future is pinned where the box leads to, wherever the box itself is.
impl<F> Unpin for Boxed<F> {}

impl<F: Future> Future for Boxed<F> {
    type Output = F::Output;

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: By the invariant it is ours, and it stays where it is until it is dropped.
        unsafe { Pin::new_unchecked(self.0.as_mut()) }.poll(cx)
    }
}

impl<F> Drop for Boxed<F> {
    fn drop(&mut self) {
        // SAFETY: By the invariant. Nobody uses it any more.
        unsafe {
            self.0.drop_in_place();
            sys::free(self.0.cast(), Layout::new::<F>(), None);
        }
    }
}

/// Puts the future that `make` makes on the heap. Fails with `ENOMEM`. May sleep, but in an upcall.
#[inline(never)]
pub fn pinned<F: Future>(make: impl FnOnce() -> F) -> Result<Boxed<F>> {
    const { assert!(size_of::<F>() > 0) };
    let memory = sys::alloc(Layout::new::<F>(), None).ok_or(ENOMEM)?;
    let place = memory.cast::<F>();
    // Made where it stays: it is not moved there.
    // SAFETY: The memory is for one, and ours.
    unsafe { place.write(make()) };
    // INVARIANT: It is there now.
    Ok(Boxed(place, PhantomData))
}
