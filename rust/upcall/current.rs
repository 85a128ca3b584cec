// SPDX-License-Identifier: GPL-2.0

//! The running task, as its code sees it.

use crate::sys;

/// The running task, as its code sees it.
pub struct Current {
    /// Its number: unique until the module is loaded again, and the one in debugfs and traces.
    pub id: u64,
    /// Its name.
    pub name: &'static str,
    /// How often it was polled, this time included.
    pub polls: u32,
}

/// The task whose poll the caller is in, if an executor's worker runs it; `None` elsewhere, also inside a
/// first poll by a `spawn_eager` of another thread. Process context.
pub fn current() -> Option<Current> {
    let executor = sys::current_executor()?;
    // SAFETY: The executor is there while it runs us, and so is the task.
    let task = unsafe { executor.as_ref().current_task()?.as_ref() };
    Some(Current {
        id: task.id,
        name: task.name(),
        polls: task.polls.get(),
    })
}
