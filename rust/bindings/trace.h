/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The runtime's tracepoints.  A task has the number that debugfs shows.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM upcall

#if !defined(UPCALL_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define UPCALL_TRACE_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/tracepoint.h>

TRACE_EVENT(upcall_spawn,
	TP_PROTO(u64 task, const char *executor, const char *name, unsigned int len),
	TP_ARGS(task, executor, name, len),
	TP_STRUCT__entry(
		__field(u64, task)
		__string(executor, executor)
		__string_len(name, name, len)
	),
	TP_fast_assign(
		__entry->task = task;
		__assign_str(executor);
		__assign_str(name);
	),
	TP_printk("task=%llu executor=%s name=%s", __entry->task, __get_str(executor), __get_str(name))
);

DECLARE_EVENT_CLASS(upcall_task,
	TP_PROTO(u64 task),
	TP_ARGS(task),
	TP_STRUCT__entry(__field(u64, task)),
	TP_fast_assign(__entry->task = task;),
	TP_printk("task=%llu", __entry->task)
);

/* A waker made it ready. */
DEFINE_EVENT(upcall_task, upcall_wake, TP_PROTO(u64 task), TP_ARGS(task));
DEFINE_EVENT(upcall_task, upcall_poll_begin, TP_PROTO(u64 task), TP_ARGS(task));
/* Its future is dropped unfinished. */
DEFINE_EVENT(upcall_task, upcall_cancel, TP_PROTO(u64 task), TP_ARGS(task));
/* Its future is gone: it returned, or was dropped. */
DEFINE_EVENT(upcall_task, upcall_complete, TP_PROTO(u64 task), TP_ARGS(task));

TRACE_EVENT(upcall_poll_end,
	TP_PROTO(u64 task, bool ready),
	TP_ARGS(task, ready),
	TP_STRUCT__entry(
		__field(u64, task)
		__field(bool, ready)
	),
	TP_fast_assign(
		__entry->task = task;
		__entry->ready = ready;
	),
	TP_printk("task=%llu ready=%d", __entry->task, __entry->ready)
);

TRACE_EVENT(upcall_bio_submit,
	TP_PROTO(const struct bio *bio),
	TP_ARGS(bio),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(sector_t, sector)
		__field(unsigned int, bytes)
		__field(unsigned int, op)
		__field(bool, nowait)
	),
	TP_fast_assign(
		__entry->dev = bio_dev(bio);
		__entry->sector = bio->bi_iter.bi_sector;
		__entry->bytes = bio->bi_iter.bi_size;
		__entry->op = bio_op(bio);
		__entry->nowait = bio->bi_opf & REQ_NOWAIT;
	),
	TP_printk("dev=%d:%d sector=%llu bytes=%u op=%u nowait=%d",
		  MAJOR(__entry->dev), MINOR(__entry->dev), (u64)__entry->sector, __entry->bytes,
		  __entry->op, __entry->nowait)
);

TRACE_EVENT(upcall_bio_complete,
	TP_PROTO(const struct bio *bio, u64 sector, int error),
	TP_ARGS(bio, sector, error),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(sector_t, sector)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->dev = bio_dev(bio);
		__entry->sector = sector;
		__entry->error = error;
	),
	TP_printk("dev=%d:%d sector=%llu error=%d",
		  MAJOR(__entry->dev), MINOR(__entry->dev), (u64)__entry->sector, __entry->error)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
