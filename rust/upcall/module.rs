// SPDX-License-Identifier: GPL-2.0

//! The module: makes the default executor, and takes it down.

use crate::executor::Executor;
use crate::scope::Scope;
use crate::sys::Bell;
use core::ptr::{null_mut, NonNull};
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Release};
use upcall_bindings as ub;

/// The default executor. Set before any user of the module can be loaded, cleared after the last
/// was removed.
static EXECUTOR: Atomic<*mut Executor> = Atomic::new(null_mut());

/// The default executor.
pub(crate) fn executor() -> Result<NonNull<Executor>> {
    NonNull::new(EXECUTOR.load(Acquire)).ok_or(ENODEV)
}

impl Scope {
    /// Makes an empty scope on the default executor.
    ///
    /// Fails with `ENOMEM`. May sleep.
    pub fn new() -> Result<Self> {
        // SAFETY: The default executor lives as long as this module, which outlives its users.
        unsafe { Scope::on(executor()?) }
    }
}

/// A workqueue of our own.
struct Queue(NonNull<ub::workqueue_struct>);

// SAFETY: Workqueues are made to be shared between threads.
unsafe impl Send for Queue {}
// SAFETY: As above.
unsafe impl Sync for Queue {}

impl Queue {
    fn new(name: &CStr, flags: u32) -> Result<Self> {
        // SAFETY: `name` is copied.
        let queue = unsafe { ub::upcall_alloc_ordered_workqueue(name.as_char_ptr(), flags) };
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: The queue is ours. The call waits for work that is running or queued.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr().cast()) };
    }
}

/// The module's data.
pub(crate) struct Runtime {
    /// Dropped first: no work may run when the executor goes.
    _queue: Queue,
    _executor: Pin<KBox<Executor>>,
}

impl kernel::Module for Runtime {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let queue = Queue::new(
            c"upcall",
            bindings::wq_flags_WQ_MEM_RECLAIM | bindings::wq_flags_WQ_HIGHPRI,
        )?;
        let executor = KBox::pin(
            Executor::new(Bell::new(queue.0.as_ptr().cast())),
            GFP_KERNEL,
        )?;
        // SAFETY: The executor has its final address, and nobody knows of it yet.
        unsafe { executor.bell().hang() };
        EXECUTOR.store(core::ptr::from_ref(&*executor).cast_mut(), Release);
        pr_info!("one executor\n");
        Ok(Self {
            _queue: queue,
            _executor: executor,
        })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        EXECUTOR.store(null_mut(), Release);
        pr_info!("unloaded\n");
    }
}
