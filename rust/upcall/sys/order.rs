// SPDX-License-Identifier: GPL-2.0

//! The memory orderings of an [`Atomic`](super::Atomic) that is not the `kernel` crate's, by its names.

use core::sync::atomic::Ordering;

/// No ordering.
pub struct Relaxed;
/// What comes later stays later.
pub struct Acquire;
/// What comes earlier stays earlier.
pub struct Release;
/// Both, and among all of them.
pub struct Full;

/// The orderings of an exchange.
pub trait Any {
    const EXCHANGE: Ordering;
}
/// The orderings of a load.
pub trait AcquireOrRelaxed {
    const LOAD: Ordering;
}
/// The orderings of a store.
pub trait ReleaseOrRelaxed {
    const STORE: Ordering;
}

impl Any for Relaxed {
    const EXCHANGE: Ordering = Ordering::Relaxed;
}
impl Any for Acquire {
    const EXCHANGE: Ordering = Ordering::Acquire;
}
impl Any for Release {
    const EXCHANGE: Ordering = Ordering::Release;
}
impl Any for Full {
    const EXCHANGE: Ordering = Ordering::SeqCst;
}
impl AcquireOrRelaxed for Relaxed {
    const LOAD: Ordering = Ordering::Relaxed;
}
impl AcquireOrRelaxed for Acquire {
    const LOAD: Ordering = Ordering::Acquire;
}
impl ReleaseOrRelaxed for Relaxed {
    const STORE: Ordering = Ordering::Relaxed;
}
impl ReleaseOrRelaxed for Release {
    const STORE: Ordering = Ordering::Release;
}
