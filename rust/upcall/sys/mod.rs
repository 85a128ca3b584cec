// SPDX-License-Identifier: GPL-2.0

//! What the portable core of the runtime takes from its surroundings.
//!
//! The state machine, the ready list, the wait lists and the rw-semaphore are written against this
//! module alone, so that the same source runs in the kernel, in `cargo test` and under loom. The
//! names and orderings are the kernel's: [`Atomic`] with `load`, `store`, `xchg`, `cmpxchg`.
//!
//! | item | in the kernel | on the host |
//! |---|---|---|
//! | [`Atomic`] | its instructions on x86, else `kernel::sync::atomic::Atomic` | std's or loom's atomics |
//! | [`Cell`] | `core::cell::UnsafeCell` | std's or loom's, which checks the accesses |
//! | [`Lock`] | `spinlock_t`, never taken in interrupt context | a mutex |
//! | [`Work`] | a work item of our workqueue | a condition variable |
//! | [`Parker`] | `task_struct` and an event count | a condition variable |
//! | [`alloc`], [`free`] | `kmalloc`, `kfree` | the global allocator |
//! | [`blk`] | bios and block devices | a device that does what a test says |

#[cfg(all(MODULE, CONFIG_X86_64))]
mod atomic;
#[cfg(MODULE)]
mod linux;
#[cfg(any(not(MODULE), CONFIG_X86_64))]
mod order;
#[cfg(MODULE)]
pub(crate) use linux::*;
#[cfg(MODULE)]
pub use linux::{Acquire, Atomic, Full, Relaxed, Release};
#[cfg(MODULE)]
pub(crate) mod blk;
#[cfg(MODULE)]
mod dep;
#[cfg(MODULE)]
pub(crate) mod trace;
#[cfg(MODULE)]
pub use dep::LockClass;
#[cfg(MODULE)]
pub(crate) use dep::{DepMap, Held};

#[cfg(not(MODULE))]
#[path = "../../host/upcall/src/sys.rs"]
mod host;
#[cfg(not(MODULE))]
pub(crate) use host::*;
#[cfg(not(MODULE))]
pub use host::{Acquire, Atomic, Full, LockClass, Relaxed, Release};

/// What every future of this crate gives that is polled after it was ready: a warning, and `Pending`.
///
/// The future takes no waker, so that who waits for it waits for ever.
#[cold]
pub(crate) fn polled_again<T>() -> core::task::Poll<T> {
    warn_if!(true, "a future was polled after it was ready");
    core::task::Poll::Pending
}
