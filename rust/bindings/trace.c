// SPDX-License-Identifier: GPL-2.0
/*
 * The runtime's tracepoints, as functions.  Rust checks the key before it calls them.
 */
#define CREATE_TRACE_POINTS
#include "trace.h"
#include "helpers.h"

void upcall_do_trace_spawn(u64 task, const char *executor, const char *name, unsigned int len)
{
	trace_upcall_spawn(task, executor, name, len);
}

void upcall_do_trace_wake(u64 task)
{
	trace_upcall_wake(task);
}

void upcall_do_trace_poll_begin(u64 task)
{
	trace_upcall_poll_begin(task);
}

void upcall_do_trace_poll_end(u64 task, bool ready)
{
	trace_upcall_poll_end(task, ready);
}

void upcall_do_trace_cancel(u64 task)
{
	trace_upcall_cancel(task);
}

void upcall_do_trace_complete(u64 task)
{
	trace_upcall_complete(task);
}

void upcall_do_trace_bio_submit(const struct bio *bio)
{
	trace_upcall_bio_submit(bio);
}

void upcall_do_trace_bio_complete(const struct bio *bio, u64 sector, int error)
{
	trace_upcall_bio_complete(bio, sector, error);
}
