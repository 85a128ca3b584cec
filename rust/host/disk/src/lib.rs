// SPDX-License-Identifier: GPL-2.0

//! Crate `disk` in the simulation: the shipping source, over the machine's devices.
//!
//! The modules are named and re-exported as in the kernel's `lib.rs`. What knows the page cache,
//! and the kernel's checksums, have a counterpart here.

#![feature(arbitrary_self_types)]

pub mod attached;
#[path = "../../../disk/cache.rs"]
pub mod cache;
pub mod checksum;
#[path = "../../../disk/device.rs"]
pub mod device;
#[path = "../../../disk/edit.rs"]
pub mod edit;
#[path = "../../../disk/gfp.rs"]
mod gfp;
#[path = "../../../disk/random.rs"]
pub mod random;
#[path = "../../../disk/reading.rs"]
mod reading;
mod reserve;
#[path = "../../../disk/run.rs"]
pub mod run;
#[path = "../../../disk/sys/mod.rs"]
mod sys;
#[path = "../../../disk/time.rs"]
pub mod time;
pub mod trace;
#[path = "../../../disk/version.rs"]
pub mod version;
#[path = "../../../disk/wait.rs"]
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
