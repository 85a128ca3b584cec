// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints of aext4, as functions.  Rust checks the key before it calls them.
 */
#define CREATE_TRACE_POINTS
#include "trace_aext4.h"
#include "helpers.h"

void upcall_do_trace_aext4_transaction_start(const struct block_device *bdev, u32 tid, u32 blocks,
					     u32 revokes)
{
	trace_aext4_transaction_start(bdev, tid, blocks, revokes);
}

void upcall_do_trace_aext4_commit_begin(const struct block_device *bdev, u32 tid, u32 blocks,
					u32 revokes)
{
	trace_aext4_commit_begin(bdev, tid, blocks, revokes);
}

void upcall_do_trace_aext4_commit_end(const struct block_device *bdev, u32 tid, u64 us, int error)
{
	trace_aext4_commit_end(bdev, tid, us, error);
}

void upcall_do_trace_aext4_checkpoint(const struct block_device *bdev, u32 tid, u32 transactions,
				      u32 blocks, u32 space)
{
	trace_aext4_checkpoint(bdev, tid, transactions, blocks, space);
}

void upcall_do_trace_aext4_allocate_blocks(const struct block_device *bdev, u64 goal, u32 want,
					   u64 start, u32 len)
{
	trace_aext4_allocate_blocks(bdev, goal, want, start, len);
}

void upcall_do_trace_aext4_allocate_inode(const struct block_device *bdev, u32 ino, u32 parent,
					  bool dir)
{
	trace_aext4_allocate_inode(bdev, ino, parent, dir);
}

void upcall_do_trace_aext4_writeback_map(const struct block_device *bdev, u32 ino, u64 pos,
					 u64 offset, u64 len, u64 addr, bool mapped)
{
	trace_aext4_writeback_map(bdev, ino, pos, offset, len, addr, mapped);
}
