// SPDX-License-Identifier: GPL-2.0

//! What can be seen from outside: debugfs `upcall/`.
//!
//! | file | |
//! |---|---|
//! | `executors` | a line for each executor |
//! | `tasks` | a line for each task that is not complete |
//! | `poll_limit_us` | the longest time that one poll may hold the thread without a warning, in microseconds; 0 turns it off |
//!
//! The figures are those of a moment, and not all of the same one. Documentation/debugging.md has
//! the fields.

use crate::executor::Core;
use crate::registry;
use crate::scope::ScopeInner;
use crate::state;
use crate::stats::{Wait, CLASSES};
use crate::sys::{self, Counter};
use crate::task::Header;
use core::ptr::{from_ref, NonNull};
use kernel::alloc::KVVec;
use kernel::bindings;
use kernel::ffi::c_int;
use kernel::fmt;
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::seq_print;
use upcall_bindings as ub;

/// In nanoseconds.
static POLL_LIMIT: Counter = Counter::new(100_000_000);

/// How long one poll may take, in nanoseconds.
pub(crate) fn poll_limit() -> u64 {
    POLL_LIMIT.get()
}

/// The directory, while it is there.
pub(crate) struct Directory(());

impl Directory {
    /// Makes the directory. Without debugfs it is not there.
    pub(crate) fn create() -> Self {
        // SAFETY: Called once, by a thread that may sleep.
        unsafe { ub::upcall_debugfs_create() };
        Self(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: `create` made it, and nobody else removes it.
        unsafe { ub::upcall_debugfs_remove() };
    }
}

/// What a function writes.
struct Shown(fn(&mut fmt::Formatter<'_>) -> fmt::Result);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)(f)
    }
}

/// Shows `executors`.
///
/// # Safety
///
/// Called by C, with a file that is being read.
#[no_mangle]
unsafe extern "C" fn upcall_rs_show_executors(file: *mut bindings::seq_file) {
    // SAFETY: By the function's contract.
    seq_print!(unsafe { SeqFile::from_raw(file) }, "{}", Shown(executors));
}

/// Shows `tasks`.
///
/// # Safety
///
/// Called by C, with a file that is being read.
#[no_mangle]
unsafe extern "C" fn upcall_rs_show_tasks(file: *mut bindings::seq_file) {
    // SAFETY: By the function's contract.
    seq_print!(unsafe { SeqFile::from_raw(file) }, "{}", Shown(tasks));
}

/// Gives `poll_limit_us`.
#[no_mangle]
extern "C" fn upcall_rs_poll_limit() -> u64 {
    match POLL_LIMIT.get() {
        u64::MAX => 0,
        limit => microseconds(limit),
    }
}

/// Sets `poll_limit_us`. Returns 0 or an error number.
#[no_mangle]
extern "C" fn upcall_rs_set_poll_limit(us: u64) -> c_int {
    let limit = match us {
        0 => Some(u64::MAX),
        us => us.checked_mul(1000),
    };
    match limit {
        Some(limit) => {
            POLL_LIMIT.set(limit);
            0
        }
        None => ERANGE.to_errno(),
    }
}

fn microseconds(nanoseconds: u64) -> u64 {
    nanoseconds / 1000
}

fn executors(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // One line after the other: to count the tasks one must be able to sleep.
    let mut index = 0;
    while let Some(line) = nth_executor(index) {
        let (mut tasks, mut ready) = (0u64, 0u64);
        registry::for_each_scope(|scope| {
            scope.for_each(|task| {
                if task.executor.as_ptr().cast_const() == line.core {
                    tasks += 1;
                    ready += u64::from(task.state.look() & state::SCHEDULED != 0);
                }
            });
        });
        line.write(tasks, ready, f)?;
        index += 1;
    }
    Ok(())
}

/// The figures of an executor.
struct Line {
    /// Where it is, or was.
    core: *const Core,
    name: [u8; sys::NAME_LEN],
    blocking: bool,
    runs: u64,
    polls: u64,
    longest: u64,
    latency: [u64; CLASSES],
}

/// The oldest executor is the first.
fn nth_executor(index: usize) -> Option<Line> {
    let mut count = 0usize;
    registry::find_executor(|_| {
        count += 1;
        None::<()>
    });
    let mut skip = count.checked_sub(index + 1)?;
    registry::find_executor(|core| {
        if skip > 0 {
            skip -= 1;
            return None;
        }
        let stats = core.stats();
        Some(Line {
            core: from_ref(core),
            name: *core.work().name_bytes(),
            blocking: core.is_blocking(),
            runs: stats.runs.get(),
            polls: stats.polls(),
            longest: stats.longest(),
            latency: core::array::from_fn(|class| stats.latency[class].get()),
        })
    })
}

impl Line {
    fn write(&self, tasks: u64, ready: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = CStr::from_bytes_until_nul(&self.name).map_err(|_| fmt::Error)?;
        write!(
            f,
            "executor={} blocking={} tasks={tasks} ready={ready} runs={} polls={} longest_us={} latency=",
            name.to_str().unwrap_or("?"),
            u8::from(self.blocking),
            self.runs,
            self.polls,
            microseconds(self.longest),
        )?;
        for (class, count) in self.latency.iter().enumerate() {
            write!(f, "{}{count}", if class == 0 { "" } else { "," })?;
        }
        writeln!(f)
    }
}

fn tasks(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let now = sys::stamp();
    let mut result = Ok(());
    registry::for_each_scope(|scope| {
        if result.is_ok() {
            result = scope_tasks(scope, now, f);
        }
    });
    result
}

/// What is shown of a task.
struct Row {
    id: u64,
    executor: NonNull<Core>,
    state: usize,
    spawned: u64,
    polls: u32,
    waits: u32,
    name: [u8; NAME_LEN],
}

/// As much of a name is shown.
const NAME_LEN: usize = 96;

impl Row {
    /// The task is in its scope's list: it is not complete, so its name is there.
    fn new(task: &Header) -> Self {
        let mut name = [0; NAME_LEN];
        for (to, from) in name.iter_mut().zip(task.name().bytes()) {
            *to = from;
        }
        Self {
            id: task.id,
            executor: task.executor,
            state: task.state.look(),
            spawned: task.spawned,
            polls: task.polls.get(),
            waits: task.waits.get(),
            name,
        }
    }
}

/// We are a member of the scope, which keeps its executors.
fn scope_tasks(scope: &ScopeInner, now: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut count = 0;
    scope.for_each(|_| count += 1);
    let Ok(mut rows) = KVVec::with_capacity(count, GFP_KERNEL) else {
        return writeln!(f, "# no memory to show {count} tasks");
    };
    // Under the list's lock nothing can be written. Tasks that come between are not shown.
    scope.for_each(|task| {
        if rows.len() < rows.capacity() {
            let _ = rows.push(Row::new(task), GFP_NOWAIT);
        }
    });
    for row in &rows {
        // SAFETY: By the above.
        let executor = unsafe { row.executor.as_ref() };
        let len = row.name.iter().position(|&byte| byte == 0);
        let name = row.name.get(..len.unwrap_or(NAME_LEN)).unwrap_or(&[]);
        writeln!(
            f,
            "task={} executor={} state={} age_ms={} polls={} waits={} name={}",
            row.id,
            executor.work().name().to_str().unwrap_or("?"),
            state_name(row.state),
            microseconds(sys::nanoseconds(sys::since(now, row.spawned))) / 1000,
            row.polls,
            Wait::name(row.waits),
            core::str::from_utf8(name).unwrap_or("?"),
        )?;
    }
    Ok(())
}

fn state_name(bits: usize) -> &'static str {
    if bits & state::COMPLETE != 0 {
        "complete"
    } else if bits & state::RUNNING != 0 {
        "running"
    } else if bits & state::CANCELLED != 0 {
        "cancelled"
    } else if bits & state::SCHEDULED != 0 {
        "ready"
    } else {
        "waiting"
    }
}
