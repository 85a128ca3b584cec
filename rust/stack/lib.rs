// SPDX-License-Identifier: GPL-2.0

//! Layers of file operations that stack, asynchronous or synchronous.
//!
//! [`AsyncStackable`] is what the Rust API of a file system offers, and what every layer on it
//! offers again; [`Stackable`] is its synchronous twin. A type is one or the other: it says so as
//! its [`Layer::Kind`], which it has but one of. Two adapters cross the border: [`Blocking`] and
//! [`Background`].
//!
//! Layers are generic over what is below, so that a stack is one type: no table of functions lies between, and a
//! layer that only forwards costs nothing.
//!
//! | module | what it has |
//! |---|---|
//! | [`asynchronous`] | [`AsyncStackable`]: the operations, and what is made of them |
//! | [`change`] | what can be changed |
//! | [`blocking`] | [`Stackable`], and the adapters |
//! | [`path`](mod@path) | walking a path |
//! | [`stream`] | a file as a stream of pages, a directory as a stream of entries |
//! | [`tree`] | a whole tree, or many files, with a bound on what is in flight |
//! | [`page`], [`copy`](mod@copy), [`forward`](mod@forward) | what layers share |
//! | [`latency`] | a layer that measures |
//! | [`verify`] | a layer that compares checksums of contents, and keeps them |
//! | [`overlay`] | a layer that keeps changes in another file system |
//! | [`subtree`] | a layer that shows a part of a tree |
//! | [`mirror`] | a layer of two copies, each of which stands in for the other |
//! | [`permission`] | a layer that asks what credentials permit |
//! | [`ram`] | a file system in memory, as what lies below all layers |

#![forbid(unsafe_code)]

/// What lines in the log begin with.
const __LOG_PREFIX: &[u8] = b"stack\0";

pub mod asynchronous;
pub mod blocking;
pub mod change;
mod copy;
mod forward;
pub mod latency;
pub mod mirror;
pub mod overlay;
mod owned_change;
mod page;
pub mod path;
pub mod permission;
pub mod ram;
pub mod stream;
pub mod subtree;
pub mod tree;
pub mod verify;

pub use asynchronous::{AsyncStackable, Asynchronous, Ino, Layer};
pub use blocking::{Background, Blocking, Stackable, Synchronous};
pub use change::{Change, OpenInode, RenameFlags, Sync};
pub use copy::copy_attributes;
pub use latency::Latency;
pub use mirror::{Mirror, Side};
pub use overlay::Overlay;
pub use page::bytes_of;
pub use permission::Permitted;
pub use ram::RamFs;
pub use stream::{Entries, Pages};
pub use subtree::Subtree;
pub use tree::{read_many, walk_tree, Found, ReadMany, Visited, Visitor};
pub use verify::Verify;
