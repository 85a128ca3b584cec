// SPDX-License-Identifier: GPL-2.0

//! The bottom of crate `disk` on the host.

use crate::device::Level;
use core::ptr::NonNull;
use kernel::alloc::{flags, Flags};
use std::sync::{Mutex, MutexGuard};
use upcall::bio::Segment;

/// A value under a lock.
pub(crate) struct IrqLock<T>(Mutex<T>);

/// A lock that is held.
pub(crate) type IrqGuard<'a, T> = MutexGuard<'a, T>;

impl<T> IrqLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// # Safety
    ///
    /// None here.
    pub(crate) unsafe fn init(&self) {}

    pub(crate) fn lock(&self) -> IrqGuard<'_, T> {
        // A test that panicked under a lock is over.
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn layout(size: u32) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(size as usize, size as usize).expect("a power of two")
}

pub(crate) fn alloc_block(size: u32, _wait: bool) -> Option<NonNull<u8>> {
    if kernel::alloc::fails() {
        return None;
    }
    // SAFETY: The size is not zero. Zeroed, so that a host's checkers see what is read before it is written
    // as what it is in the kernel: some bytes.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout(size)) })
}

/// # Safety
///
/// `memory` was allocated with the same size, and is not used any more.
pub(crate) unsafe fn free_block(memory: NonNull<u8>, size: u32) {
    // SAFETY: By the function's contract.
    unsafe { std::alloc::dealloc(memory.as_ptr(), layout(size)) };
}

/// # Safety
///
/// `memory` comes from [`alloc_block`], with `len` bytes.
pub(crate) unsafe fn segment(memory: NonNull<u8>, len: u32) -> Segment {
    // SAFETY: By the function's contract.
    unsafe { Segment::of_memory(memory, len) }
}

pub(crate) fn total_memory() -> u64 {
    1 << 30
}

/// Bounds nothing here.
pub(crate) struct RateLimit;

impl RateLimit {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn permits(&self, _label: &[u8; 48]) -> bool {
        true
    }
}

pub(crate) fn print(level: Level, label: &[u8; 48], args: core::fmt::Arguments<'_>) {
    let end = label
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(label.len());
    let label = String::from_utf8_lossy(&label[..end]);
    kernel::print::line(&format!("{level:?}: {label}: {args}"));
}

pub(crate) fn panic(_label: &[u8; 48]) {
    panic!("errors=panic");
}

pub(crate) fn interrupted() -> bool {
    false
}

/// For allocations where nothing may wait.
pub(crate) const GFP_NOWAIT: Flags = flags::GFP_NOWAIT;

/// Nothing here.
pub(crate) struct NoFs;

impl NoFs {
    pub(crate) fn enter() -> Self {
        Self
    }
}
