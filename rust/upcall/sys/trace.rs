// SPDX-License-Identifier: GPL-2.0

//! The tracepoints of `rust/bindings/trace.h`.
//!
//! One that is not in use is a `nop`. Usable in any context.

use crate::task::Header;
use core::ptr::NonNull;
use kernel::prelude::*;
use upcall_bindings::{self as ub, trace};

/// A task was spawned. The caller knows that it is not complete.
pub(crate) fn spawn(task: NonNull<Header>) {
    trace!(
        __tracepoint_upcall_spawn,
        upcall_do_trace_spawn(
            id(task),
            executor(task),
            name(task).as_ptr().cast(),
            name(task).len() as u32
        )
    );
}

/// A waker made a task ready.
pub(crate) fn wake(task: NonNull<Header>) {
    trace!(__tracepoint_upcall_wake, upcall_do_trace_wake(id(task)));
}

/// A poll begins.
pub(crate) fn poll_begin(task: NonNull<Header>) {
    trace!(
        __tracepoint_upcall_poll_begin,
        upcall_do_trace_poll_begin(id(task))
    );
}

/// A poll is over.
pub(crate) fn poll_end(task: NonNull<Header>, ready: bool) {
    trace!(
        __tracepoint_upcall_poll_end,
        upcall_do_trace_poll_end(id(task), ready)
    );
}

/// A task's future is dropped unfinished.
pub(crate) fn cancel(task: NonNull<Header>) {
    trace!(__tracepoint_upcall_cancel, upcall_do_trace_cancel(id(task)));
}

/// A task is complete.
pub(crate) fn complete(task: NonNull<Header>) {
    trace!(
        __tracepoint_upcall_complete,
        upcall_do_trace_complete(id(task))
    );
}

/// A bio is submitted.
///
/// # Safety
///
/// `bio` is initialised.
pub(crate) unsafe fn bio_submit(bio: *const ub::bio) {
    trace!(
        __tracepoint_upcall_bio_submit,
        upcall_do_trace_bio_submit(bio)
    );
}

/// A bio that began at what `sector` gives is done.
///
/// # Safety
///
/// `bio` is initialised.
pub(crate) unsafe fn bio_complete(bio: *const ub::bio, sector: impl FnOnce() -> u64, error: i32) {
    trace!(
        __tracepoint_upcall_bio_complete,
        upcall_do_trace_bio_complete(bio, sector(), error)
    );
}

fn id(task: NonNull<Header>) -> u64 {
    // SAFETY: Whoever traces a task has a reference.
    unsafe { task.as_ref() }.id
}

fn name(task: NonNull<Header>) -> &'static str {
    // SAFETY: As above.
    unsafe { task.as_ref() }.name()
}

fn executor(task: NonNull<Header>) -> *const kernel::ffi::c_char {
    // SAFETY: As above. The caller keeps the executor.
    unsafe { task.as_ref().executor.as_ref() }
        .work()
        .name()
        .as_char_ptr()
}
