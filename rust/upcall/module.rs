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
/// was removed; so is the sleeper.
static EXECUTOR: Atomic<*mut Executor> = Atomic::new(null_mut());

/// The executor whose runnables may sleep.
static SLEEPER: Atomic<*mut Executor> = Atomic::new(null_mut());

/// The default executor.
pub(crate) fn executor() -> Result<NonNull<Executor>> {
    NonNull::new(EXECUTOR.load(Acquire)).ok_or(ENODEV)
}

/// The sleeper: runs what must wait in the kernel, so that the executor need not.
pub(crate) fn sleeper() -> Result<NonNull<Executor>> {
    NonNull::new(SLEEPER.load(Acquire)).ok_or(ENODEV)
}

impl Scope {
    /// Makes an empty scope on the default executor.
    ///
    /// Fails with `ENOMEM`. May sleep.
    pub fn new() -> Result<Self> {
        // SAFETY: Both live as long as this module, which outlives its users.
        unsafe { Scope::on_both(executor()?, sleeper()?) }
    }

    /// Makes an empty scope on the default executor, with a sleeper of its own.
    ///
    /// Fails with `ENOMEM`. May sleep.
    ///
    /// # Safety
    ///
    /// `sleeper` outlives the scope and everything spawned in it.
    pub unsafe fn with_sleeper(sleeper: &Worker) -> Result<Self> {
        let sleeper = NonNull::from(&*sleeper.executor);
        // SAFETY: The default executor lives as long as this module; the rest is our contract.
        unsafe { Scope::on_both(executor()?, sleeper) }
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

/// An executor with a thread of its own.
///
/// A scope that is made with one runs on it what may sleep. Dropping it waits for what runs, so it is dropped
/// after the scopes, and not by itself.
pub struct Worker {
    /// Dropped first: no work may run when the executor goes.
    _queue: Queue,
    executor: Pin<KBox<Executor>>,
}

impl Worker {
    /// Makes a worker for what may sleep. Fails with `ENOMEM`. May sleep.
    pub fn sleeper(name: &CStr) -> Result<Self> {
        Self::new(name, bindings::wq_flags_WQ_MEM_RECLAIM)
    }

    fn new(name: &CStr, flags: u32) -> Result<Self> {
        let queue = Queue::new(name, flags)?;
        let bell = Bell::new(queue.0.as_ptr().cast());
        let executor = KBox::pin(Executor::new(bell), GFP_KERNEL)?;
        // SAFETY: The executor has its final address, and nobody knows of it yet.
        unsafe { executor.bell().hang() };
        Ok(Self {
            _queue: queue,
            executor,
        })
    }

    fn as_ptr(&self) -> *mut Executor {
        core::ptr::from_ref(&*self.executor).cast_mut()
    }
}

/// The module's data.
pub(crate) struct Runtime {
    _executor: Worker,
    _sleeper: Worker,
}

impl kernel::Module for Runtime {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let executor = Worker::new(
            c"upcall",
            bindings::wq_flags_WQ_MEM_RECLAIM | bindings::wq_flags_WQ_HIGHPRI,
        )?;
        let sleeper = Worker::sleeper(c"upcall_sleeper")?;
        SLEEPER.store(sleeper.as_ptr(), Release);
        EXECUTOR.store(executor.as_ptr(), Release);
        Ok(Self {
            _executor: executor,
            _sleeper: sleeper,
        })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Every user's scopes are gone, and with them all tasks and requests; but the completion
        // that let the last of them go may still be in its last instructions.
        // SAFETY: Process context, without any lock.
        unsafe { ub::upcall_wait_for_completions() };
        EXECUTOR.store(null_mut(), Release);
        SLEEPER.store(null_mut(), Release);
    }
}
