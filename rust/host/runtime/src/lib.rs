// SPDX-License-Identifier: GPL-2.0

//! Crate `upcall` in the simulation: the shipping source, with [`machine`](kernel::machine) in
//! place of the kernel.
//!
//! The modules are named and re-exported as in the kernel's `lib.rs`, so that their paths to each
//! other resolve. What they take from the kernel there comes from [`sys`] here. Tests of the
//! runtime by itself, and its models under loom, are in `rust/host/upcall`.

// Not all that the kernel's modules use is used here.
#![allow(dead_code)]

pub mod atomic {
    //! Atomic variables, by the names of the `kernel` crate.

    pub use crate::sys::{Acquire, Atomic, Full, Relaxed, Release};
}

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
pub mod simulation;
#[path = "../../../upcall/state.rs"]
mod state;
#[path = "../../../upcall/stats.rs"]
mod stats;
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
pub use sys::{LockClass, Reserve};
pub use task::{Cancelled, JoinHandle};
pub use time::{interval, sleep, sleep_until, timeout, Elapsed, Instant, Interval, Sleep};
