// SPDX-License-Identifier: GPL-2.0

//! Upcall: an asynchronous runtime for the kernel.
//!
//! One thread runs a bag of upcalls: futures that wait for the disk, for locks and for each other
//! without a thread being parked. This crate knows nothing about file systems.
//!
//! | module | what it has |
//! |---|---|
//! | [`executor`] | the one thread: ready list, budget, worker |
//! | [`scope`] | fork-join, and safe unloading |
//! | [`task`] | the one allocation of a task, wakers, [`JoinHandle`] |
//! | [`state`] | a task's state word |
//! | [`ready`] | the lock-free ready list |
//! | [`done`] | a one-shot completion |
//! | [`block_on`](mod@block_on) | from synchronous to asynchronous code |
//! | [`join`] | [`join_all`] |
//! | [`rwsem`] | [`RwSemaphore`] |
//! | [`bio`] | block requests as futures |
//! | [`block`] | [`Block`], the owned page |
//! | [`sys`] | what the portable core takes from the kernel, or from the host when it is tested |
//!
//! # Contexts
//!
//! Wakers and completions run in any context up to hard interrupt, and never sleep, allocate or run a
//! user's destructor. Everything else runs in process context. Inside an upcall nothing blocks: no
//! sleeping lock, no synchronous read, no wait for another upcall but by `.await`.

#[cfg(CONFIG_PREEMPT_RT)]
compile_error!(
    "upcall does not support PREEMPT_RT: its wakers free memory in hard interrupt context"
);

pub mod bio;
mod block;
mod block_on;
mod done;
mod executor;
mod join;
mod module;
mod ready;
mod rwsem;
mod scope;
mod state;
mod sys;
mod task;

pub use block::Block;
pub use block_on::{block_on, on_worker};
pub use executor::Executor;
pub use join::{join_all, yield_now, JoinAll};
pub use rwsem::{Read, ReadGuard, RwSemaphore, Write, WriteGuard};
pub use scope::{Member, Scope, Spawner};
pub use task::{Cancelled, JoinHandle};

use kernel::prelude::*;
use module::Runtime;
pub use module::Worker;

module! {
    type: Runtime,
    name: "upcall",
    authors: ["The Upcall developers"],
    description: "Asynchronous runtime: a bag of upcalls on one thread",
    license: "GPL",
}
