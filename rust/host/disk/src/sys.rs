// SPDX-License-Identifier: GPL-2.0

//! The bottom of crate `disk` in the simulation.

use crate::device::Level;
use core::alloc::Layout;
use core::cell::{Cell, UnsafeCell};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use kernel::alloc::{allocate, flags, release, Flags};
use kernel::machine;
use kernel::prelude::*;
use kernel::types::NotThreadSafe;
use upcall::bio::Segment;
use upcall::{Block, Device};

/// A value under a lock that is taken with interrupts off.
pub(crate) struct IrqLock<T> {
    ready: Cell<bool>,
    locked: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: The lock gives the value to one at a time. The flags are touched by the one thread that
// the machine lets run.
unsafe impl<T: Send> Send for IrqLock<T> {}
// SAFETY: As for `Send`.
unsafe impl<T: Send> Sync for IrqLock<T> {}

impl<T> IrqLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            ready: Cell::new(false),
            locked: Cell::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// # Safety
    ///
    /// As in the kernel.
    pub(crate) unsafe fn init(&self) {
        self.ready.set(true);
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Any context.
    pub(crate) fn lock(&self) -> IrqGuard<'_, T> {
        assert!(self.ready.get(), "a lock that was not initialised");
        assert!(!self.locked.replace(true), "a spinlock is taken twice");
        machine::irqs_off(1);
        IrqGuard {
            lock: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// A lock that is held.
pub(crate) struct IrqGuard<'a, T> {
    lock: &'a IrqLock<T>,
    _not_send: NotThreadSafe,
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: We hold the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: We hold the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for IrqGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.locked.set(false);
        machine::irqs_off(-1);
        machine::interrupt_point();
    }
}

fn layout(size: u32) -> Layout {
    Layout::from_size_align(size as usize, size as usize).expect("a power of two")
}

pub(crate) fn alloc_block(size: u32, wait: bool) -> Option<NonNull<u8>> {
    let flags = if wait { flags::GFP_NOFS } else { GFP_NOWAIT };
    allocate(layout(size), flags, "block").ok()
}

/// # Safety
///
/// `memory` was allocated with the same size, and is not used any more.
pub(crate) unsafe fn free_block(memory: NonNull<u8>, size: u32) {
    // SAFETY: By the function's contract.
    unsafe { release(memory, layout(size)) };
}

/// # Safety
///
/// `memory` comes from [`alloc_block`], with `len` bytes.
pub(crate) unsafe fn segment(memory: NonNull<u8>, len: u32) -> Segment {
    // A page is where its bytes are.
    Segment {
        page: memory.cast(),
        offset: 0,
        len,
    }
}

/// The same each time, so that a seed repeats.
pub(crate) fn random() -> u64 {
    0x61c8_8646_80b5_83eb
}

pub(crate) fn total_memory() -> u64 {
    machine::memory_size()
}

/// Bounds the lines of a log, by the virtual clock.
pub(crate) struct RateLimit(Cell<(u64, u32)>);

// SAFETY: It is touched by the one thread that the machine lets run.
unsafe impl Send for RateLimit {}
// SAFETY: As for `Send`.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    pub(crate) fn new() -> Self {
        Self(Cell::new((0, 0)))
    }

    pub(crate) fn permits(&self, _label: &[u8; 48]) -> bool {
        let (begin, count) = self.0.get();
        let now = machine::now();
        let (begin, count) = if now - begin > 5_000_000_000 {
            (now, 0)
        } else {
            (begin, count)
        };
        self.0.set((begin, count + 1));
        count < 10
    }
}

pub(crate) fn print(level: Level, label: &[u8; 48], args: core::fmt::Arguments<'_>) {
    let end = label.iter().position(|&byte| byte == 0);
    let label = String::from_utf8_lossy(&label[..end.unwrap_or(label.len())]);
    let level = match level {
        Level::Error => "err",
        Level::Warning => "warning",
        Level::Info => "info",
    };
    machine::log(level, &format!("{label}: {args}"));
}

pub(crate) fn panic(_label: &[u8; 48]) {
    machine::log("emerg", "errors=panic");
}

/// Nobody is killed. Others get their turn, as a scheduler would give it.
pub(crate) fn interrupted() -> bool {
    machine::yield_now();
    false
}

/// The virtual clock, from some day on.
pub(crate) fn now() -> (i64, u32) {
    let now = machine::now();
    (
        1_700_000_000 + (now / 1_000_000_000) as i64,
        (now % 1_000_000_000) as u32,
    )
}

pub(crate) fn file_time(_: &Device) -> (i64, u32) {
    now()
}

pub(crate) fn read_only(device: &Device) -> bool {
    // SAFETY: The device is open.
    unsafe { device.as_ptr().as_ref() }.is_some_and(|device| device.0.read_only())
}

pub(crate) fn sectors_written(device: &Device) -> u64 {
    // SAFETY: The device is open.
    unsafe { device.as_ptr().as_ref() }.map_or(0, |device| device.0.sectors_written())
}

pub(crate) fn discard_granularity(device: &Device) -> u32 {
    device.logical_block_size()
}

/// By a thread that may wait.
pub(crate) fn edit_raw(
    device: &Device,
    pos: u64,
    len: usize,
    change: &mut dyn FnMut(&mut [u8]),
) -> Result {
    let page = Block::SIZE as u64;
    let (base, offset) = (pos - pos % page, (pos % page) as usize);
    upcall::block_on(async {
        let mut block = Block::new()?;
        let unit = device.logical_block_size() as usize;
        let (first, end) = (
            offset - offset % unit,
            (offset + len).next_multiple_of(unit),
        );
        let place = base + first as u64;
        block.read(device, place, first, end - first).await?;
        change(&mut block.as_mut_slice()[offset..offset + len]);
        block.write(device, place, first, end - first, true).await
    })?
}

/// For allocations where nothing may wait.
pub(crate) const GFP_NOWAIT: Flags = flags::GFP_NOWAIT;

/// Nothing here: no allocation enters a file system.
pub(crate) struct NoFs;

impl NoFs {
    pub(crate) fn enter() -> Self {
        Self
    }
}
