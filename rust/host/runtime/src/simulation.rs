// SPDX-License-Identifier: GPL-2.0

//! What a simulation needs of the runtime beside its public interface.

use crate::executor::Executor;
use crate::registry;
use crate::scope::Scope;
use crate::sys::{self, Result};

/// An executor, on a work item of the machine, or on a thread if its runnables may sleep.
pub fn executor(name: &str, sleeps: bool) -> Result<Executor> {
    let executor = Executor::with_bell(sys::Bell::new(name, sleeps), sleeps)?;
    executor.core().bell().hang(executor.as_ptr());
    registry::add(executor.core());
    Ok(executor)
}

/// Lets others go first, so many times as the seed says: the executor itself polls in the order of wakes.
pub async fn jitter() {
    for _ in 0..kernel::machine::random(4) {
        crate::yield_now().await;
    }
}

/// The executors of a volume, or of a test.
pub struct Runtime {
    /// Runs upcalls.
    pub executor: Executor,
    /// Runs what may sleep.
    pub blocking: Executor,
}

impl Runtime {
    /// Makes them.
    pub fn new() -> Result<Self> {
        Ok(Self {
            executor: executor("upcall", false)?,
            blocking: executor("blocking", true)?,
        })
    }

    /// A scope whose tasks run on them.
    pub fn scope(&self) -> Result<Scope> {
        Scope::on(&self.executor, &self.blocking)
    }
}
