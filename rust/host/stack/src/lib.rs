// SPDX-License-Identifier: GPL-2.0

//! Crate `stack` in the simulation: the shipping source, but for credentials, which nobody has, and
//! what walks trees with a scope of its own.
//!
//! The modules are named and re-exported as in the kernel's `lib.rs`.

#![forbid(unsafe_code)]

#[path = "../../../stack/asynchronous.rs"]
pub mod asynchronous;
#[path = "../../../stack/blocking.rs"]
pub mod blocking;
#[path = "../../../stack/change.rs"]
pub mod change;
#[path = "../../../stack/copy.rs"]
mod copy;
#[path = "../../../stack/forward.rs"]
mod forward;
#[path = "../../../stack/latency.rs"]
pub mod latency;
#[path = "../../../stack/mirror/mod.rs"]
pub mod mirror;
#[path = "../../../stack/overlay/mod.rs"]
pub mod overlay;
#[path = "../../../stack/owned_change.rs"]
mod owned_change;
#[path = "../../../stack/page.rs"]
mod page;
#[path = "../../../stack/path.rs"]
pub mod path;
#[path = "../../../stack/ram/mod.rs"]
pub mod ram;
#[path = "../../../stack/stream.rs"]
pub mod stream;
#[path = "../../../stack/subtree.rs"]
pub mod subtree;
#[path = "../../../stack/verify/mod.rs"]
pub mod verify;

pub use asynchronous::{AsyncStackable, Asynchronous, Ino, Layer};
pub use blocking::{Background, Blocking, Stackable, Synchronous};
pub use change::{Change, OpenInode, RenameFlags, Sync};
pub use copy::copy_attributes;
pub use latency::Latency;
pub use mirror::{Mirror, Side};
pub use overlay::Overlay;
pub use page::bytes_of;
pub use ram::RamFs;
pub use stream::{Entries, Pages};
pub use subtree::Subtree;
pub use verify::Verify;
