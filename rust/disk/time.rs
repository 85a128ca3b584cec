// SPDX-License-Identifier: GPL-2.0

//! The time of day.

use crate::sys;

/// A point in time, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds: below 1,000,000,000.
    pub nanos: u32,
}

/// The time of day, as exact as a timer tick. Any context.
///
/// C header: [`include/linux/timekeeping.h`](srctree/include/linux/timekeeping.h).
pub fn now() -> Now {
    let (secs, nanos) = sys::now();
    Now { secs, nanos }
}
