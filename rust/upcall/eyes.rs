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
use crate::task::{self, Header};
use core::ptr::{from_ref, NonNull};
use kernel::alloc::KVVec;
use kernel::debugfs;
use kernel::fmt;
use kernel::prelude::*;
use kernel::uaccess::UserSliceReader;

/// In nanoseconds.
static POLL_LIMIT: Counter = Counter::new(100_000_000);

/// How long one poll may take, in nanoseconds.
pub(crate) fn poll_limit() -> u64 {
    POLL_LIMIT.get()
}

/// Makes the directory.
pub(crate) fn open() -> impl PinInit<debugfs::Scope<()>> {
    debugfs::Scope::dir((), c"upcall", |unit, dir| {
        dir.read_callback_file(c"executors", unit, &|(), f| executors(f));
        dir.read_callback_file(c"tasks", unit, &|(), f| tasks(f));
        dir.read_write_callback_file(
            c"poll_limit_us",
            unit,
            &|(), f| writeln!(f, "{}", microseconds(POLL_LIMIT.get())),
            &|(), reader| set_poll_limit(reader),
        );
    })
}

fn microseconds(nanoseconds: u64) -> u64 {
    if nanoseconds == u64::MAX {
        return 0;
    }
    nanoseconds / 1000
}

fn set_poll_limit(reader: &mut UserSliceReader) -> Result {
    let mut buffer = [0; 24];
    let len = reader.len();
    let text = buffer.get_mut(..len).ok_or(EINVAL)?;
    reader.read_slice(text)?;
    let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
    let limit: u64 = text.trim().parse().map_err(|_| EINVAL)?;
    POLL_LIMIT.set(match limit {
        0 => u64::MAX,
        limit => limit.checked_mul(1000).ok_or(ERANGE)?,
    });
    Ok(())
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
    sleeps: bool,
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
            name: *core.bell().name_bytes(),
            sleeps: core.sleeps(),
            runs: stats.runs.get(),
            polls: stats.polls.get(),
            longest: stats.longest.get(),
            latency: core::array::from_fn(|class| stats.latency[class].get()),
        })
    })
}

impl Line {
    fn write(&self, tasks: u64, ready: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = CStr::from_bytes_until_nul(&self.name).map_err(|_| fmt::Error)?;
        write!(
            f,
            "executor={} sleeps={} tasks={tasks} ready={ready} runs={} polls={} longest_us={} latency=",
            name.to_str().unwrap_or("?"),
            u8::from(self.sleeps),
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

/// We are a member of the scope, so that names of tasks which end meanwhile are still there.
fn scope_tasks(scope: &ScopeInner, now: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut count = 0;
    scope.for_each(|_| count += 1);
    // Tasks that come between are not shown.
    let mut tasks = KVVec::with_capacity(count, GFP_KERNEL).map_err(|_| fmt::Error)?;
    scope.for_each(|task| {
        if tasks.len() < tasks.capacity() {
            let _ = tasks.push(TaskRef::new(task), GFP_NOWAIT);
        }
    });
    for task in &tasks {
        let task = task.get();
        // SAFETY: The task's scope keeps the executor.
        let executor = unsafe { task.executor.as_ref() };
        writeln!(
            f,
            "task={} executor={} state={} age_ms={} polls={} waits={} name={}",
            task.id,
            executor.bell().name().to_str().unwrap_or("?"),
            state_name(task.state.look()),
            microseconds(sys::nanoseconds(now.wrapping_sub(task.spawned))) / 1000,
            task.polls.get(),
            Wait::name(task.waits.get()),
            task.name(),
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

/// A reference on a task.
struct TaskRef(NonNull<Header>);

impl TaskRef {
    fn new(task: &Header) -> Self {
        task.state.get();
        Self(NonNull::from(task))
    }

    fn get(&self) -> &Header {
        // SAFETY: We have a reference.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        // SAFETY: The reference is ours.
        unsafe { task::put(self.0) };
    }
}

/// The running task, as its code sees it.
pub struct Current {
    /// Its number: unique until the module is loaded again, and the one in debugfs and traces.
    pub id: u64,
    /// Its name.
    pub name: &'static str,
    /// How often it was polled, this time included.
    pub polls: u32,
}

/// The task whose poll the caller is in, if it is run by an executor; `None` elsewhere, also inside a first
/// poll by `spawn_eager`. Process context.
pub fn current() -> Option<Current> {
    let executor = sys::current_executor()?;
    // SAFETY: The executor is there while it runs us, and so is the task.
    let task = unsafe { executor.as_ref().current_task()?.as_ref() };
    Some(Current {
        id: task.id,
        name: task.name(),
        polls: task.polls.get(),
    })
}
