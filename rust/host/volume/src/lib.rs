// SPDX-License-Identifier: GPL-2.0

//! Crate `volume` in the simulation: the shipping operations of the Rust API, without a VFS.

// What the VFS asks for is not used here.
#![allow(dead_code)]

mod api;
#[path = "../../../volume/change.rs"]
mod change;
#[path = "../../../volume/convert.rs"]
mod convert;
#[path = "../../../volume/operations.rs"]
mod operations;
#[path = "../../../volume/prepared.rs"]
mod prepared;
mod vfs_ops;

pub use api::Volume;
pub use stack::Ino;
