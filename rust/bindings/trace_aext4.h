/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The tracepoints of aext4.  Blocks are the volume's, unless it says that they are the journal's;
 * offsets and lengths are in bytes.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM aext4

#if !defined(UPCALL_TRACE_AEXT4_H) || defined(TRACE_HEADER_MULTI_READ)
#define UPCALL_TRACE_AEXT4_H

#include <linux/blkdev.h>
#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(aext4_transaction,
	TP_PROTO(const struct block_device *bdev, u32 tid, u32 blocks, u32 revokes),
	TP_ARGS(bdev, tid, blocks, revokes),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, tid)
		__field(u32, blocks)
		__field(u32, revokes)
	),
	TP_fast_assign(
		__entry->dev = bdev->bd_dev;
		__entry->tid = tid;
		__entry->blocks = blocks;
		__entry->revokes = revokes;
	),
	TP_printk("dev %d,%d tid %u blocks %u revokes %u", MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->tid, __entry->blocks, __entry->revokes)
);

/* An operation may change BLOCKS blocks, and revoke REVOKES, as a part of transaction TID. */
DEFINE_EVENT(aext4_transaction, aext4_transaction_start,
	TP_PROTO(const struct block_device *bdev, u32 tid, u32 blocks, u32 revokes),
	TP_ARGS(bdev, tid, blocks, revokes)
);

/* BLOCKS blocks that TID has changed are about to be written, to the journal if there is one. */
DEFINE_EVENT(aext4_transaction, aext4_commit_begin,
	TP_PROTO(const struct block_device *bdev, u32 tid, u32 blocks, u32 revokes),
	TP_ARGS(bdev, tid, blocks, revokes)
);

/* TID is durable, or not if there was an error, after so many microseconds. */
TRACE_EVENT(aext4_commit_end,
	TP_PROTO(const struct block_device *bdev, u32 tid, u64 us, int error),
	TP_ARGS(bdev, tid, us, error),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, tid)
		__field(u64, us)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->dev = bdev->bd_dev;
		__entry->tid = tid;
		__entry->us = us;
		__entry->error = error;
	),
	TP_printk("dev %d,%d tid %u us %llu error %d", MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->tid, __entry->us, __entry->error)
);

/*
 * BLOCKS blocks are home, of so many transactions up to TID.  That made SPACE blocks of the journal
 * free.
 */
TRACE_EVENT(aext4_checkpoint,
	TP_PROTO(const struct block_device *bdev, u32 tid, u32 transactions, u32 blocks, u32 space),
	TP_ARGS(bdev, tid, transactions, blocks, space),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, tid)
		__field(u32, transactions)
		__field(u32, blocks)
		__field(u32, space)
	),
	TP_fast_assign(
		__entry->dev = bdev->bd_dev;
		__entry->tid = tid;
		__entry->transactions = transactions;
		__entry->blocks = blocks;
		__entry->space = space;
	),
	TP_printk("dev %d,%d tid %u transactions %u blocks %u space %u", MAJOR(__entry->dev),
		  MINOR(__entry->dev), __entry->tid, __entry->transactions, __entry->blocks,
		  __entry->space)
);

/* LEN blocks from START on were chosen, where WANT were wanted, best from GOAL on. */
TRACE_EVENT(aext4_allocate_blocks,
	TP_PROTO(const struct block_device *bdev, u64 goal, u32 want, u64 start, u32 len),
	TP_ARGS(bdev, goal, want, start, len),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u64, goal)
		__field(u32, want)
		__field(u64, start)
		__field(u32, len)
	),
	TP_fast_assign(
		__entry->dev = bdev->bd_dev;
		__entry->goal = goal;
		__entry->want = want;
		__entry->start = start;
		__entry->len = len;
	),
	TP_printk("dev %d,%d goal %llu want %u start %llu len %u", MAJOR(__entry->dev),
		  MINOR(__entry->dev), __entry->goal, __entry->want, __entry->start, __entry->len)
);

/* An inode was chosen for something in the directory PARENT. */
TRACE_EVENT(aext4_allocate_inode,
	TP_PROTO(const struct block_device *bdev, u32 ino, u32 parent, bool dir),
	TP_ARGS(bdev, ino, parent, dir),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, ino)
		__field(u32, parent)
		__field(bool, dir)
	),
	TP_fast_assign(
		__entry->dev = bdev->bd_dev;
		__entry->ino = ino;
		__entry->parent = parent;
		__entry->dir = dir;
	),
	TP_printk("dev %d,%d ino %u parent %u dir %d", MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->ino, __entry->parent, __entry->dir)
);

/*
 * Dirty data of a file, from POS on: LEN bytes from OFFSET on are to go to ADDR of the device, where
 * the map has them already or not; ADDR is 0 for a hole.
 */
TRACE_EVENT(aext4_writeback_map,
	TP_PROTO(const struct block_device *bdev, u32 ino, u64 pos, u64 offset, u64 len, u64 addr,
		 bool mapped),
	TP_ARGS(bdev, ino, pos, offset, len, addr, mapped),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, ino)
		__field(u64, pos)
		__field(u64, offset)
		__field(u64, len)
		__field(u64, addr)
		__field(bool, mapped)
	),
	TP_fast_assign(
		__entry->dev = bdev->bd_dev;
		__entry->ino = ino;
		__entry->pos = pos;
		__entry->offset = offset;
		__entry->len = len;
		__entry->addr = addr;
		__entry->mapped = mapped;
	),
	TP_printk("dev %d,%d ino %u pos %llu offset %llu len %llu addr %llu mapped %d",
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->ino, __entry->pos,
		  __entry->offset, __entry->len, __entry->addr, __entry->mapped)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace_aext4
#include <trace/define_trace.h>
