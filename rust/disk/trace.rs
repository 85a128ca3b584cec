// SPDX-License-Identifier: GPL-2.0

//! The tracepoints of `rust/bindings/trace_aext4.h`, which has what the numbers are.
//!
//! One that nobody listens to is a `nop`. Usable in any context, while the device is open.

use crate::Cache;
use upcall_bindings::{self as ub, trace};

/// The device of a cache, for C.
fn bdev(cache: &Cache) -> *const ub::block_device {
    cache.device().as_ptr().cast()
}

/// A part of transaction `tid` begins, which may change so many blocks.
pub fn transaction_start(cache: &Cache, tid: u32, blocks: u32, revokes: u32) {
    trace!(
        __tracepoint_aext4_transaction_start,
        upcall_do_trace_aext4_transaction_start(bdev(cache), tid, blocks, revokes)
    );
}

/// What transaction `tid` has changed is about to be written.
pub fn commit_begin(cache: &Cache, tid: u32, blocks: u32, revokes: u32) {
    trace!(
        __tracepoint_aext4_commit_begin,
        upcall_do_trace_aext4_commit_begin(bdev(cache), tid, blocks, revokes)
    );
}

/// Transaction `tid` is durable, or `error` is not 0.
pub fn commit_end(cache: &Cache, tid: u32, us: u64, error: i32) {
    trace!(
        __tracepoint_aext4_commit_end,
        upcall_do_trace_aext4_commit_end(bdev(cache), tid, us, error)
    );
}

/// Transactions up to `tid` are home.
pub fn checkpoint(cache: &Cache, tid: u32, transactions: u32, blocks: u32, space: u32) {
    trace!(
        __tracepoint_aext4_checkpoint,
        upcall_do_trace_aext4_checkpoint(bdev(cache), tid, transactions, blocks, space)
    );
}

/// Blocks were chosen.
pub fn allocate_blocks(cache: &Cache, goal: u64, want: u32, start: u64, len: u32) {
    trace!(
        __tracepoint_aext4_allocate_blocks,
        upcall_do_trace_aext4_allocate_blocks(bdev(cache), goal, want, start, len)
    );
}

/// An inode was chosen.
pub fn allocate_inode(cache: &Cache, ino: u32, parent: u32, dir: bool) {
    trace!(
        __tracepoint_aext4_allocate_inode,
        upcall_do_trace_aext4_allocate_inode(bdev(cache), ino, parent, dir)
    );
}

/// Where dirty data goes: `at` is its place, and whether the map has it.
pub fn writeback_map(cache: &Cache, ino: u32, pos: u64, range: (u64, u64), at: (u64, bool)) {
    trace!(
        __tracepoint_aext4_writeback_map,
        upcall_do_trace_aext4_writeback_map(bdev(cache), ino, pos, range.0, range.1, at.0, at.1)
    );
}
