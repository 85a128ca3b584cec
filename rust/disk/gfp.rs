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
    if !upcall::on_worker() {
        // What is waited for is not to wait for what a file system does to free memory.
        let _nofs = sys::NoFs::enter();
        return Ok(KVVec::with_capacity(capacity, GFP_KERNEL)?);
    }
    if let Ok(vec) = KVVec::with_capacity(capacity, sys::GFP_NOWAIT) {
        return Ok(vec);
    }
    in_blocking(spawner, move || {
        let _nofs = sys::NoFs::enter();
        Ok(KVVec::with_capacity(capacity, GFP_KERNEL)?)
    })
    .await
}

/// Lets the blocking worker run `f`, which may wait for memory. For upcalls. The task for it needs
/// memory, too, and is waited for.
///
/// Fails as `f` does, and with `ESHUTDOWN` once the scope of the volume is over.
pub(crate) async fn in_blocking<T, F>(spawner: &Spawner, f: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Clone + Send + 'static,
{
    loop {
        match spawner.spawn_blocking(f.clone()) {
            Ok(running) => return running.await?,
            Err(ENOMEM) if upcall::on_worker() => upcall::memory_freed().await,
            Err(error) => return Err(error),
        }
    }
}
