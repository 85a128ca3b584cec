// SPDX-License-Identifier: GPL-2.0

//! A model of RCU.
//!
//! A section that began before a grace period is over when the grace period is, and all that it did
//! comes before the end of the grace period. What comes before a grace period is seen by a section
//! that begins in it, or later. Nothing else is ordered by a section: neither with others, nor with
//! what its thread does before and after.
//!
//! So loom is told of two counters alone. A section that begins *acquires* what grace periods
//! *released* when they began; one that ends releases, and grace periods acquire that at their end.
//! All are exchanges, which see the last value. Which sections there are is known without loom, and
//! orders nothing: its threads run one at a time, and change at its operations.
//!
//! A test that does not ask for [grace periods](start) keeps its executors longer than everybody
//! who uses them. There a section does nothing, and costs the models no steps.

// What is not a model has no grace periods.
#![cfg_attr(not(loom), allow(dead_code))]

use super::{rt, Acquire, Arc, Atomic, Release};
use crate::executor::Core;
use core::marker::PhantomData;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

/// Whether there are grace periods.
static STARTED: AtomicBool = AtomicBool::new(false);

static STATE: Mutex<State> = Mutex::new(State {
    next: 0,
    sections: BTreeSet::new(),
    retired: Vec::new(),
    ended: Vec::new(),
});

struct State {
    /// The number of the next section.
    next: usize,
    /// Those that began and did not end.
    sections: BTreeSet<usize>,
    /// What is to be taken down when these sections are over.
    retired: Vec<(BTreeSet<usize>, Arc<Core>)>,
    /// What was taken down. The memory stays until the test is over, so that a late use is noticed.
    ended: Vec<Arc<Core>>,
}

super::global! {
    /// Grace periods that began.
    static BEGUN: Atomic<usize> = Atomic::new(0);
}
super::global! {
    /// Sections that ended.
    static LEFT: Atomic<usize> = Atomic::new(0);
}

fn state() -> std::sync::MutexGuard<'static, State> {
    STATE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A test begins. What one that failed left is leaked: it may be of a model that is gone.
pub(crate) fn open() {
    STARTED.store(false, Ordering::Relaxed);
    let mut state = state();
    state.sections.clear();
    core::mem::forget(core::mem::take(&mut state.retired));
    core::mem::forget(core::mem::take(&mut state.ended));
}

/// A test is over: it is in no section, and has taken down its executors.
pub(crate) fn close() {
    let ended = {
        let mut state = state();
        assert!(state.sections.is_empty(), "a read section did not end");
        assert!(state.retired.is_empty(), "an executor was not taken down");
        core::mem::take(&mut state.ended)
    };
    drop(ended);
}

/// From here on there are grace periods. The test calls [`take_down`] before it ends.
pub(crate) fn start() {
    STARTED.store(true, Ordering::Relaxed);
}

/// A read section, unless there are no grace periods. It does not go to another thread.
pub(crate) struct ReadSection(Option<usize>, PhantomData<*mut ()>);

pub(crate) fn read_section() -> ReadSection {
    if !STARTED.load(Ordering::Relaxed) {
        return ReadSection(None, PhantomData);
    }
    // Another thread may come in between before this, and the section begins later.
    BEGUN.fetch_add(0, Acquire);
    let mut state = state();
    let number = state.next;
    state.next += 1;
    state.sections.insert(number);
    ReadSection(Some(number), PhantomData)
}

impl Drop for ReadSection {
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            LEFT.fetch_add(1, Release);
            state().sections.remove(&number);
        }
    }
}

/// Has an executor taken down after a grace period, which begins now. Any context.
pub(crate) fn after_grace_period(core: Arc<Core>) {
    if STARTED.load(Ordering::Relaxed) {
        BEGUN.fetch_add(1, Release);
        let mut state = state();
        let sections = state.sections.clone();
        state.retired.push((sections, core));
    }
}

/// Takes down the executors whose last handle is gone, each after its grace period; by the thread
/// that runs them.
pub(crate) fn take_down() {
    loop {
        let Some((sections, core)) = state().retired.pop() else {
            return;
        };
        while !state().sections.is_disjoint(&sections) {
            rt::thread::yield_now();
        }
        LEFT.fetch_add(0, Acquire);
        // What is pending is run before, as the end of a workqueue does.
        while core.work().try_start() {
            // SAFETY: The run was started, and lets nobody else run.
            unsafe { core.run() };
            core.work().finish();
        }
        core.work().end();
        state().ended.push(core);
    }
}
