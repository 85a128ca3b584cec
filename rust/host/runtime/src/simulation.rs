// SPDX-License-Identifier: GPL-2.0

//! What a simulation needs of the runtime beside its public interface.

use crate::bio;
use crate::executor::{BlockingWorker, Executor, InPlug};
use crate::memory::Shortage;
use crate::registry;
use crate::scope::Scope;
use crate::sys::{self, Result};
use core::ptr::{null_mut, NonNull};
use kernel::machine;

/// An executor, on a work item of the machine, or on a thread if its runnables may sleep.
pub fn executor(name: &str, blocking: bool) -> Result<Executor> {
    let in_plug = blocking.then_some(bio::is_request as InPlug);
    let executor = Executor::with_work(sys::Work::new(name, blocking), in_plug)?;
    executor.core().work().init(executor.as_ptr());
    registry::add(executor.core());
    Ok(executor)
}

/// Lets others go first, so many times as the seed says: the executor itself polls in the order of
/// wakes.
pub async fn jitter() {
    for _ in 0..kernel::machine::random(4) {
        crate::yield_now().await;
    }
}

/// What the module has in the kernel: the default executors.
pub struct Runtime {
    /// Runs upcalls.
    pub executor: Executor,
    /// Runs what may sleep.
    pub blocking: BlockingWorker,
    shortage: NonNull<Shortage>,
}

impl Runtime {
    /// Makes them, and makes them the machine's, which has none yet.
    pub fn new() -> Result<Self> {
        assert!(sys::executor().is_err(), "a machine has one runtime");
        let executor = executor("upcall", false)?;
        let blocking = BlockingWorker::of(self::executor("blocking", true)?);
        let shortage = NonNull::from(Box::leak(Box::new(Shortage::new())));
        sys::set_defaults(executor.as_ptr().as_ptr(), shortage.as_ptr());
        Ok(Self {
            executor,
            blocking,
            shortage,
        })
    }

    /// A scope whose tasks run on them.
    pub fn scope(&self) -> Result<Scope> {
        Scope::on(&self.executor, &self.blocking)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What is under way may still use it.
            return;
        }
        // What is on its way to be released goes to the default executor.
        machine::settle();
        sys::set_defaults(null_mut(), null_mut());
        // SAFETY: It came from a box, and nobody knows of it any more.
        drop(unsafe { Box::from_raw(self.shortage.as_ptr()) });
    }
}
