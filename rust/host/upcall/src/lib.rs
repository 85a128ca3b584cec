// SPDX-License-Identifier: GPL-2.0

//! The portable core of crate `upcall` on the host: the same source, under `cargo test` and loom.
//!
//! The modules are named and re-exported as in the kernel's `lib.rs`, so that their paths to each
//! other resolve. What they take from the kernel there comes from [`sys`] here.

// Not all that the kernel's modules use is used here.
#![cfg_attr(not(test), allow(dead_code, unused_imports))]

#[path = "../../../upcall/bio.rs"]
pub mod bio;
#[path = "../../../upcall/block.rs"]
mod block;
#[path = "../../../upcall/block_on.rs"]
mod block_on;
#[path = "../../../upcall/blocks.rs"]
mod blocks;
#[path = "../../../upcall/boxed.rs"]
mod boxed;
#[path = "../../../upcall/budget.rs"]
mod budget;
#[path = "../../../upcall/chain.rs"]
mod chain;
#[path = "../../../upcall/channel.rs"]
pub mod channel;
#[path = "../../../upcall/device.rs"]
mod device;
#[path = "../../../upcall/done.rs"]
mod done;
#[path = "../../../upcall/executor.rs"]
mod executor;
#[path = "../../../upcall/join.rs"]
mod join;
#[path = "../../../upcall/join_set.rs"]
mod join_set;
#[path = "../../../upcall/members.rs"]
mod members;
#[path = "../../../upcall/memory.rs"]
mod memory;
#[path = "../../../upcall/notify.rs"]
mod notify;
#[path = "../../../upcall/oneshot.rs"]
pub mod oneshot;
#[path = "../../../upcall/race.rs"]
mod race;
#[path = "../../../upcall/ready.rs"]
mod ready;
#[path = "../../../upcall/registry.rs"]
mod registry;
#[path = "../../../upcall/rwsem.rs"]
mod rwsem;
#[path = "../../../upcall/scope.rs"]
mod scope;
#[path = "../../../upcall/semaphore.rs"]
mod semaphore;
#[path = "../../../upcall/state.rs"]
mod state;
#[path = "../../../upcall/stats.rs"]
mod stats;
#[path = "../../../upcall/sys/mod.rs"]
mod sys;
#[path = "../../../upcall/task.rs"]
mod task;
#[path = "../../../upcall/time.rs"]
mod time;

pub use block::{Block, Transfer};
pub use block_on::{block_on, block_on_killable, block_on_nofs, on_worker};
pub use blocks::Blocks;
pub use boxed::{pinned, Boxed};
pub use budget::Budget;
pub use chain::{run, Chain, Then};
pub use channel::channel;
pub use device::{Device, Priority};
pub use executor::{BlockingWorker, Executor};
pub use join::{
    join_all, try_join_all, yield_now, Join, JoinAll, Member as JoinMember, Together, TryJoin,
    TryJoinAll, TryTogether,
};
pub use join_set::JoinSet;
pub use memory::memory_freed;
pub use notify::Notify;
pub use oneshot::oneshot;
pub use race::{race, Either, Race};
pub use rwsem::{
    Blocking, Locking, Mutex, MutexGuard, Read, ReadGuard, RwSemaphore, Write, WriteGuard,
};
pub use scope::{Member, Scope, Spawner};
pub use semaphore::{AcquireError, Acquiring, Closed, Permit, Semaphore, TryError};
pub use sys::LockClass;
pub use task::{Cancelled, JoinHandle};
pub use time::{interval, sleep, sleep_until, timeout, Elapsed, Instant, Interval, Sleep};

#[cfg(test)]
mod harness;
#[cfg(test)]
mod tests;
