// SPDX-License-Identifier: GPL-2.0

//! The journal, in jbd2's format.
//!
//! | module | what it has |
//! |---|---|
//! | [`log`] | where the journal is on the device, and its superblock |
//! | [`replay`] | bringing home what a log has after a loss of power |

pub mod log;
pub mod replay;

pub use log::{Log, Refused};
