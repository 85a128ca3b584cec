// SPDX-License-Identifier: GPL-2.0

//! The flags of allocations.

use crate::sys;
use kernel::alloc::{Flags, KVVec};
use kernel::prelude::*;
use upcall::Spawner;

/// The flags for an allocation by code that upcalls run, and threads.
///
/// On a worker nothing waits for reclaim, since the worker may have to end the IO that frees
/// memory; there such an allocation fails early, and [`upcall::memory_freed`] is what to wait for.
/// Any context but interrupts.
pub fn gfp() -> Flags {
    if upcall::on_worker() {
        sys::GFP_NOWAIT
    } else {
        GFP_KERNEL
    }
}

/// An empty vector with room for `capacity` elements. Waits for memory; on a worker it lets the
/// blocking worker wait.
///
/// Fails with `ENOMEM`, and with `ESHUTDOWN` once the scope of the volume is over.
pub async fn vec_with_capacity<T: Send + 'static>(
    spawner: &Spawner,
    capacity: usize,
) -> Result<KVVec<T>> {
    if let Ok(vec) = KVVec::with_capacity(capacity, gfp()) {
        return Ok(vec);
    }
    if !upcall::on_worker() {
        return Err(ENOMEM);
    }
    let wait = spawner.spawn_blocking(move || {
        let _nofs = sys::NoFs::enter();
        KVVec::with_capacity(capacity, GFP_KERNEL)
    })?;
    Ok(wait.await??)
}
