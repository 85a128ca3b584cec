// SPDX-License-Identifier: GPL-2.0

//! Memory set aside, for what has to go on when there is none left.
//!
//! C header: [`include/linux/mempool.h`](srctree/include/linux/mempool.h).
//!
//! Memory is made free by writing; so whoever writes for that purpose must not need memory that is
//! not there yet. Tasks and requests of a [`Reserve`] have their memory from it when the allocator
//! has none, and give it back when they are done. In process context one waits for another to be done;
//! so as long as those that are under way can finish, the next can begin. On an executor nobody waits, and
//! a reserve that is used up is `ENOMEM`: have as many under way as the reserve is for.
//!
//! # Concurrency
//!
//! The pool has a lock of its own and is usable in any context. Each piece of memory that is out has a
//! reference on it, so the last to go may be a waker, in interrupt context, after the module that
//! made the reserve was removed.

use crate::bio::HEAD_SIZE;
use crate::sys::{self, Layout};
use crate::task::Header;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall_bindings as ub;

/// Memory for a number of tasks and requests.
#[derive(Clone)]
pub struct Reserve(Arc<Pool>);

struct Pool {
    raw: NonNull<ub::mempool>,
    size: usize,
}

// SAFETY: A mempool is made to be shared.
unsafe impl Send for Pool {}
// SAFETY: As above.
unsafe impl Sync for Pool {}

impl Reserve {
    /// What a task has beside its future, or a request beside its payload, in bytes, at the most.
    pub const OVERHEAD: usize = if size_of::<Header>() > HEAD_SIZE {
        size_of::<Header>() + 16
    } else {
        HEAD_SIZE + 16
    };

    /// Sets memory aside for `count` tasks or requests of at most `size` bytes each.
    ///
    /// The future's size, or the payload's with 16 bytes for each of its segments, and [`Reserve::OVERHEAD`] fit in `size`.
    /// Fails with `ENOMEM`, and with `EINVAL` if one of them is zero. May sleep, but in an upcall.
    pub fn new(count: usize, size: usize) -> Result<Self> {
        let count = count.try_into().map_err(|_| EINVAL)?;
        if count == 0 || size == 0 {
            return Err(EINVAL);
        }
        // SAFETY: No conditions.
        let raw = unsafe { ub::upcall_mempool_create(count, size, !sys::on_worker()) };
        let raw = NonNull::new(raw).ok_or(ENOMEM)?;
        // It is destroyed with the pool if there is no memory for the `Arc`.
        sys::new_arc(Pool { raw, size }).map(Self)
    }

    /// Allocates, as the module's documentation says. `None` too if it does not fit.
    pub(crate) fn alloc(&self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() > self.0.size || layout.align() > align_of::<u64>() {
            return None;
        }
        // Who is out may need any worker in order to come back.
        let wait = sys::current_executor().is_none();
        // SAFETY: Whoever may not wait says so.
        let memory = unsafe { ub::upcall_mempool_alloc(self.0.raw.as_ptr(), wait) };
        NonNull::new(memory.cast())
    }

    /// Frees. Any context.
    ///
    /// # Safety
    ///
    /// `memory` comes from [`alloc`](Self::alloc) of this reserve, and is not used any more.
    pub(crate) unsafe fn free(&self, memory: NonNull<u8>) {
        // SAFETY: By the function's contract.
        unsafe { ub::upcall_mempool_free(memory.as_ptr().cast(), self.0.raw.as_ptr()) };
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: Memory that is out has a reference, so all is back.
        unsafe { ub::mempool_destroy(self.raw.as_ptr()) };
    }
}
