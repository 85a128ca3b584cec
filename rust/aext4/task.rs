// SPDX-License-Identifier: GPL-2.0

//! [`TaskControl`]: how a task that a volume has while it is writable is woken, and ended.

use upcall::atomic::{Acquire, Atomic, Release};
use upcall::Notify;

/// What a task waits for.
///
/// A task asks [`should_stop`](Self::should_stop) before it looks for work, and ends after that
/// look: what was noted before it was stopped is seen.
pub(crate) struct TaskControl {
    wake: Notify,
    running: Atomic<bool>,
}

impl TaskControl {
    pub(crate) fn new() -> Self {
        Self {
            wake: Notify::new(),
            running: Atomic::new(false),
        }
    }

    /// The task may begin, and looks at what was noted before.
    pub(crate) fn start(&self) {
        self.running.store(true, Release);
        self.wake();
    }

    /// The task ends soon, after a last look.
    pub(crate) fn stop(&self) {
        self.running.store(false, Release);
        self.wake();
    }

    /// There is work. Any context.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Whether the task is to end, or has not begun.
    pub(crate) fn should_stop(&self) -> bool {
        !self.running.load(Acquire)
    }

    /// Waits for [`wake`](Self::wake), also for one that came before.
    ///
    /// # Cancellation
    ///
    /// Nobody waits any more.
    pub(crate) async fn woken(&self) {
        // It is never closed.
        let _ = self.wake.notified().await;
    }
}
