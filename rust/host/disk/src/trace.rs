// SPDX-License-Identifier: GPL-2.0

//! Nobody listens to tracepoints here.

use crate::Cache;

/// Nothing.
pub fn transaction_start(_: &Cache, _tid: u32, _blocks: u32, _revokes: u32) {}

/// Nothing.
pub fn commit_begin(_: &Cache, _tid: u32, _blocks: u32, _revokes: u32) {}

/// Nothing.
pub fn commit_end(_: &Cache, _tid: u32, _us: u64, _error: i32) {}

/// Nothing.
pub fn checkpoint(_: &Cache, _tid: u32, _transactions: u32, _blocks: u32, _space: u32) {}

/// Nothing.
pub fn allocate_blocks(_: &Cache, _goal: u64, _want: u32, _start: u64, _len: u32) {}

/// Nothing.
pub fn allocate_inode(_: &Cache, _ino: u32, _parent: u32, _dir: bool) {}

/// Nothing.
pub fn writeback_map(_: &Cache, _ino: u32, _pos: u64, _range: (u64, u64), _at: (u64, bool)) {}
