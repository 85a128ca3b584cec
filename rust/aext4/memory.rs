// SPDX-License-Identifier: GPL-2.0

//! Memory for what is planned. An upcall does not wait for reclaim in an allocation, but for
//! [`upcall::memory_freed`].
//!
//! # Cancellation
//!
//! Dropping one of the futures leaves the vector as it is.

use core::future::Future;
use disk::{gfp, Boxed};
use kernel::prelude::*;

/// Makes room for one more element.
pub(crate) async fn room<T>(vec: &mut KVec<T>) -> Result {
    room_for(vec, 1).await
}

/// Makes room for `count` more elements.
pub(crate) async fn room_for<T>(vec: &mut KVec<T>, count: usize) -> Result {
    loop {
        match vec.reserve(count, gfp()) {
            Ok(()) => return Ok(()),
            Err(_) if upcall::on_worker() => upcall::memory_freed().await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// A box of what `make` makes.
pub(crate) async fn boxed<T>(make: impl Fn() -> T) -> Result<KBox<T>> {
    loop {
        match KBox::new(make(), gfp()) {
            Ok(made) => return Ok(made),
            Err(_) if upcall::on_worker() => upcall::memory_freed().await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The future that `make` makes, in memory of its own: one that is large is not to be a part of
/// others.
pub(crate) async fn pinned<F: Future>(make: impl Fn() -> F) -> Result<Boxed<F>> {
    loop {
        match disk::pinned(&make) {
            Ok(made) => return Ok(made),
            Err(_) if upcall::on_worker() => upcall::memory_freed().await,
            Err(error) => return Err(error),
        }
    }
}

/// Puts a value on the heap. Not in the caller, whose frame would have room for it.
#[inline(never)]
pub(crate) fn kept<T>(value: T) -> Result<KBox<T>> {
    Ok(KBox::new(value, gfp())?)
}
