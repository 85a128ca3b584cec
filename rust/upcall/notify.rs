// SPDX-License-Identifier: GPL-2.0

//! Waiting for something to happen, without data.
//!
//! # Concurrency
//!
//! A [`Semaphore`] whose permits are what happened: a notification is a permit, waiting for one
//! takes it. There is at most one free permit, so that many notifications which nobody waits for are
//! one. Whoever takes it sees what all of the notifiers did before.

use super::semaphore::{Closed, Semaphore};
use super::stats::Wait;

/// Wakes tasks that wait for something to happen.
///
/// ```
/// # use upcall::Notify;
/// # async fn example(changed: &Notify, work: impl Fn()) {
/// // Until the other side closes it
/// while changed.notified().await.is_ok() {
///     work();
/// }
/// # }
/// ```
pub struct Notify(Semaphore);

impl Default for Notify {
    fn default() -> Self {
        Self::new()
    }
}

impl Notify {
    /// Makes one of which nothing is known yet.
    pub fn new() -> Self {
        Self(Semaphore::binary())
    }

    /// Wakes the task that has waited longest, or else the next that comes to wait. Process context.
    pub fn notify_one(&self) {
        self.0.release(1);
    }

    /// Wakes all who wait, and lets nobody wait any more: a last notification.
    pub fn close(&self) {
        self.0.close();
    }

    /// Waits for a notification. Fails with [`Closed`] once there will be none.
    ///
    /// # Cancellation
    ///
    /// A notification that a dropped future was given goes to the next.
    pub async fn notified(&self) -> Result<(), Closed> {
        self.0.acquire_as(1, Wait::Notify).await?.forget();
        Ok(())
    }
}
