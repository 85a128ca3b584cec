// SPDX-License-Identifier: GPL-2.0

//! How much is done at a time before others have their turn.
//!
//! A future whose members are always ready would hold the thread for as long as it has members. So
//! what polls many of them counts, looks at the clock, and pauses: [`join_all`](crate::join_all),
//! [`JoinSet`](crate::JoinSet), and walks of trees.

use super::join::yield_now;
use super::sys;

/// How many steps are taken at a time. It matters where the clock has no known speed.
const STEPS_MAX: u32 = 1024;

/// For how long steps are taken, in nanoseconds: much more than a switch to another task costs.
const TIME_MAX: u64 = 1_000_000;

/// A budget in steps and in time, for a task that does much without having to wait.
///
/// What uses it holds the thread for no longer than its longest step and a millisecond.
///
/// ```
/// # use upcall::Budget;
/// # async fn example(items: &[u32], work: impl Fn(u32)) {
/// let mut budget = Budget::new();
/// for &item in items {
///     work(item);
///     budget.pause().await;
/// }
/// # }
/// ```
pub struct Budget {
    left: u32,
    /// By [`sys::stamp`].
    start: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

impl Budget {
    /// Makes a budget, whose time begins now. Any context.
    pub fn new() -> Self {
        Self {
            left: STEPS_MAX,
            start: sys::stamp(),
        }
    }

    /// Takes a step. Returns whether the budget is used up.
    #[inline(never)] // Once, and not in each user's module.
    pub(crate) fn step(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0 || sys::since(sys::stamp(), self.start) >= sys::stamps(TIME_MAX)
    }

    /// Takes a step, and lets others go first if the budget is used up, which then begins anew.
    ///
    /// A task that had to wait meanwhile may pause early, once. In [`block_on()`](crate::block_on()) it
    /// costs a poll.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost by dropping it.
    pub async fn pause(&mut self) {
        if self.step() {
            yield_now().await;
            *self = Self::new();
        }
    }
}
