// SPDX-License-Identifier: GPL-2.0

//! The portable core of crate `upcall` on the host: the same source, under `cargo test` and loom.
//!
//! The modules are named and re-exported as in the kernel's `lib.rs`, so that their paths to each
//! other resolve. What they take from the kernel there comes from [`sys`] here.

// Not all that the kernel's modules use is used here.
#![cfg_attr(not(test), allow(dead_code, unused_imports))]

#[path = "../../../upcall/block_on.rs"]
mod block_on;
#[path = "../../../upcall/done.rs"]
mod done;
#[path = "../../../upcall/executor.rs"]
mod executor;
#[path = "../../../upcall/join.rs"]
mod join;
#[path = "../../../upcall/ready.rs"]
mod ready;
#[path = "../../../upcall/rwsem.rs"]
mod rwsem;
#[path = "../../../upcall/scope.rs"]
mod scope;
#[path = "../../../upcall/state.rs"]
mod state;
#[path = "../../../upcall/sys/mod.rs"]
mod sys;
#[path = "../../../upcall/task.rs"]
mod task;

pub use block_on::block_on;
pub use executor::Executor;
pub use join::{join_all, JoinAll};
pub use rwsem::{Read, ReadGuard, RwSemaphore, Write, WriteGuard};
pub use scope::{Member, Scope, Spawner};
pub use task::{Cancelled, JoinHandle};

#[cfg(test)]
mod harness;
#[cfg(test)]
mod tests;
