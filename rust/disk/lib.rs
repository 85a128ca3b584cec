// SPDX-License-Identifier: GPL-2.0

//! The cellar of a file system: its device, and the metadata that is in memory.
//!
//! It knows neither a disk format nor the VFS.
//!
//! | module | what it has |
//! |---|---|
//! | [`device`] | [`Disk`]: the device below a volume, reads past every cache, log lines |
//! | [`cache`] | [`Cache`]: metadata blocks by number, read once for many who ask |
//! | `reading` | a read of blocks that follow each other, in one request |
//! | [`version`] | [`Buf`]: an immutable version of a block, and the pool of their memory |
//! | [`run`] | [`Draft`], [`Writing`]: runs of blocks past the cache |
//! | [`edit`] | [`Pin`], [`Planned`]: blocks that stay, and are changed |
//! | `gfp` | the flags of allocations |
//! | `wait` | waiting for a block that somebody else reads |
//! | [`attached`] | what of a file is in the page cache, for those without a VFS inode |
//! | [`checksum`], [`time`] | the kernel's checksums, and its clock |
//! | [`trace`] | tracepoints |
//! | `sys` | the bottom, which is another one on the host |
//!
//! # Locks
//!
//! A shard of the cache, or the free list of the pool: spinlocks that disable interrupts, since
//! completions take them. None is taken with another one held. Wakers are called under a shard's
//! lock, and take no lock of ours.

#![warn(missing_docs)]

pub mod attached;
pub mod cache;
pub mod checksum;
pub mod device;
pub mod edit;
mod gfp;
pub mod random;
mod reading;
mod reserve;
pub mod run;
mod sys;
pub mod time;
pub mod trace;
pub mod version;
mod wait;

pub use attached::{Attached, Cached};
pub use cache::Cache;
pub use device::{Disk, Label, Level};
pub use edit::{Pin, Planned};
pub use gfp::{gfp, vec_with_capacity};
pub use random::random;
pub use reserve::may_use_reserve;
pub use run::{Draft, Writing};
pub use upcall::{pinned, Boxed};
pub use version::Buf;
