// SPDX-License-Identifier: GPL-2.0

//! The ext4 on-disk format parser of the `aext4` module, built for the host.
//!
//! [`layout`] is the module's own source. Around it is what tests need: checksums ([`crc`]), a
//! synchronous reader over an image ([`volume`]), a directory in memory that can be changed
//! ([`edit`]), and entry points for fuzzers ([`fuzz`]).

#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[path = "../../../layout/lib.rs"]
pub mod layout;

pub mod crc;
pub mod edit;
pub mod fuzz;
pub mod volume;
mod walk;
