// SPDX-License-Identifier: GPL-2.0

//! The flags of allocations.

use crate::sys;
use kernel::alloc::Flags;
use kernel::prelude::*;

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
