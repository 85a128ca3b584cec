// SPDX-License-Identifier: GPL-2.0

//! What is counted, for those who look: see [`debugfs`](super::debugfs).
//!
//! Counters order nothing, and each has one writer; whoever reads them sees what was true a moment
//! ago. A poll costs one reading of the clock, and a wake another.

use super::sys::{self, Counter};

/// How many classes of latency are told apart.
pub(crate) const CLASSES: usize = 20;

/// The figures of an executor. Written by its worker.
pub(crate) struct Stats {
    /// The last reading of the clock.
    clock: Counter,
    /// How often the worker was started.
    pub(crate) runs: Counter,
    /// The longest poll, by the clock.
    longest: Counter,
    /// A poll that takes no longer than this, by the clock, is neither the longest nor too long.
    unnoticed: Counter,
    /// How often a task waited for its turn: class 0 less than 1 us, class `n` less than `2^n` us,
    /// the last all that is longer.
    pub(crate) latency: [Counter; CLASSES],
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            clock: Counter::new(0),
            runs: Counter::new(0),
            longest: Counter::new(0),
            unnoticed: Counter::new(0),
            latency: [const { Counter::new(0) }; CLASSES],
        }
    }

    /// How often a task was polled.
    #[cfg(MODULE)]
    pub(crate) fn polls(&self) -> u64 {
        // Each waited for its turn.
        self.latency
            .iter()
            .map(Counter::get)
            .fold(0, u64::wrapping_add)
    }

    /// How long the longest poll took, in nanoseconds.
    #[cfg(MODULE)]
    pub(crate) fn longest(&self) -> u64 {
        sys::nanoseconds(self.longest.get())
    }

    /// The worker starts.
    pub(crate) fn run(&self) {
        self.runs.add(1);
        self.tick();
        self.set_unnoticed();
    }

    /// The last reading of the clock, by [`sys::stamp`].
    pub(crate) fn clock(&self) -> u64 {
        self.clock.get()
    }

    /// What the worker did last was no poll.
    pub(crate) fn tick(&self) {
        self.clock.set(sys::stamp());
    }

    /// A poll begins, of a task that was woken at `woken`.
    pub(crate) fn poll(&self, woken: u64) {
        let waited = sys::nanoseconds(sys::since(self.clock.get(), woken));
        // The bits of `waited >> 10`, also where there are none.
        let class = (waited >> 9 | 1).ilog2() as usize;
        if let Some(count) = self.latency.get(class).or(self.latency.last()) {
            count.add(1);
        }
    }

    /// The poll is over. Returns how long it took, in nanoseconds, if that may be too long.
    pub(crate) fn polled(&self) -> Option<u64> {
        let now = sys::stamp();
        let took = sys::since(now, self.clock.get());
        self.clock.set(now);
        if took <= self.unnoticed.get() {
            return None;
        }
        Some(self.notice(took))
    }

    #[cold]
    fn notice(&self, took: u64) -> u64 {
        self.longest.set(self.longest.get().max(took));
        self.set_unnoticed();
        sys::nanoseconds(took)
    }

    fn set_unnoticed(&self) {
        let limit = sys::stamps(sys::poll_limit());
        self.unnoticed.set(self.longest.get().min(limit));
    }
}

/// What a task waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A future that is not of this crate.
    Other,
    #[cfg_attr(not(MODULE), allow(dead_code, reason = "the host has no devices"))]
    Bio,
    Timer,
    Lock,
    Semaphore,
    Task,
    Scope,
    Oneshot,
    Channel,
    Notify,
    Join,
}

impl Wait {
    /// All of them, in order.
    #[cfg(MODULE)]
    const NAMES: [&'static str; 11] = [
        "other",
        "bio",
        "timer",
        "lock",
        "semaphore",
        "task",
        "scope",
        "oneshot",
        "channel",
        "notify",
        "join",
    ];

    /// The name of the one with this number.
    #[cfg(MODULE)]
    pub(crate) fn name(number: u32) -> &'static str {
        Self::NAMES.get(number as usize).unwrap_or(&"?")
    }
}
