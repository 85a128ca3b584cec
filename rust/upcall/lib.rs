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
//! | [`registry`], [`stats`], [`debugfs`] | all that there is, its figures, and debugfs |
//! | [`task`] | the one allocation of a task, wakers, [`JoinHandle`] |
//! | [`state`] | a task's state word |
//! | [`ready`] | the lock-free ready list |
//! | [`done`] | a one-shot completion |
//! | [`current`](mod@current) | what a task knows of itself |
//! | [`boxed`] | [`Boxed`]: large futures, on the heap |
//! | [`block_on`](mod@block_on) | from synchronous to asynchronous code |
//! | [`join`](mod@join) | [`join_all`], [`join!`], [`try_join!`], [`yield_now`] |
//! | [`race`](mod@race) | [`race`](fn@race), [`select!`] |
//! | [`chain`] | [`run`], and what comes [`then`](Chain::then) |
//! | [`members`], [`budget`] | what waits for many: which are to be polled, and how many at a time |
//! | [`join_set`] | [`JoinSet`]: many tasks, so many at a time |
//! | [`semaphore`] | [`Semaphore`]: the queue of those who wait, fair |
//! | [`rwsem`] | [`RwSemaphore`] and [`Mutex`], made of it |
//! | [`channel`](mod@channel), [`oneshot`](mod@oneshot), [`notify`] | values and events between tasks |
//! | [`time`] | [`sleep`], [`timeout`](fn@timeout), [`interval`] |
//! | [`reserve`], [`memory`] | memory for what must go on when there is none, and waiting for it |
//! | [`bio`] | block requests as futures |
//! | [`block`], [`blocks`] | [`Block`], the owned page; [`Blocks`], many |
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

pub mod atomic {
    //! Atomic variables, by the names of the `kernel` crate, as instructions instead of calls where that is
    //! possible.

    pub use crate::sys::{Acquire, Atomic, Full, Relaxed, Release};
}
pub mod bio;
mod block;
mod block_on;
mod blocks;
mod boxed;
mod budget;
mod chain;
pub mod channel;
mod current;
mod debugfs;
mod device;
mod done;
mod executor;
mod join;
mod join_set;
mod members;
mod memory;
mod module;
mod notify;
pub mod oneshot;
mod race;
mod ready;
mod registry;
mod reserve;
mod rwsem;
mod scope;
mod semaphore;
mod state;
mod stats;
mod sys;
mod task;
mod time;

pub use block::{Block, Transfer};
pub use block_on::{block_on, block_on_killable, block_on_nofs, on_worker};
pub use blocks::Blocks;
pub use boxed::{pinned, Boxed};
pub use budget::Budget;
pub use chain::{run, Chain, Then};
pub use channel::channel;
pub use current::{current, Current};
pub use device::{Device, Priority};
pub use executor::{BlockingWorker, Executor};
pub use join::{
    join_all, try_join_all, yield_now, Join, JoinAll, Member as JoinMember, Together, TryJoin,
    TryJoinAll, TryTogether,
};
pub use join_set::JoinSet;
pub use memory::memory_freed;
pub use module::on_executor;
pub use notify::Notify;
pub use oneshot::oneshot;
pub use race::{race, Either, Race};
pub use reserve::Reserve;
pub use rwsem::{
    Blocking, Locking, Mutex, MutexGuard, Read, ReadGuard, RwSemaphore, Write, WriteGuard,
};
pub use scope::{Member, Scope, Spawner};
pub use semaphore::{AcquireError, Acquiring, Closed, Permit, Semaphore, TryError};
pub use sys::LockClass;
pub use task::{Cancelled, JoinHandle};
pub use time::{interval, sleep, sleep_until, timeout, Elapsed, Instant, Interval, Sleep};

use kernel::prelude::*;
use module::Runtime;

module! {
    type: Runtime,
    name: "upcall",
    authors: ["The Upcall developers"],
    description: "Asynchronous runtime: a bag of upcalls on one thread",
    license: "GPL",
}
