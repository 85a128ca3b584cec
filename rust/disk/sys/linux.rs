// SPDX-License-Identifier: GPL-2.0

//! The bottom in the kernel.
//!
//! C headers: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h),
//! [`include/linux/gfp.h`](srctree/include/linux/gfp.h).

use crate::device::Level;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use kernel::alloc::{flags, Flags};
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::print::{call_printk, format_strings as levels};
use kernel::types::{NotThreadSafe, Opaque};
use upcall::bio::Segment;
use upcall::Device;
use upcall_bindings as ub;

/// A value under a spinlock that is taken with interrupts off, so that completions may take it.
pub(crate) struct IrqLock<T> {
    raw: Opaque<ub::spinlock_t>,
    value: UnsafeCell<T>,
}

// SAFETY: The lock gives the value to one at a time.
unsafe impl<T: Send> Send for IrqLock<T> {}
// SAFETY: As for `Send`.
unsafe impl<T: Send> Sync for IrqLock<T> {}

impl<T> IrqLock<T> {
    /// Makes a lock, to be initialised by [`init`](Self::init) at its final address.
    pub(crate) fn new(value: T) -> Self {
        Self {
            raw: Opaque::zeroed(),
            value: UnsafeCell::new(value),
        }
    }

    /// Initialises the lock.
    ///
    /// # Safety
    ///
    /// Nobody takes the lock before, and it is not moved afterwards.
    pub(crate) unsafe fn init(&self) {
        // SAFETY: By the function's contract the memory is ours.
        unsafe { ub::upcall_irq_lock_init(self.raw.get()) };
    }

    /// The value, for who has it to himself. It need not be initialised.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Takes the lock. Any context.
    #[inline]
    pub(crate) fn lock(&self) -> IrqGuard<'_, T> {
        // SAFETY: The lock was initialised.
        let flags = unsafe { ub::upcall_irq_lock(self.raw.get()) };
        IrqGuard {
            lock: self,
            flags,
            not_send: NotThreadSafe,
        }
    }
}

/// A lock that is held.
pub(crate) struct IrqGuard<'a, T> {
    lock: &'a IrqLock<T>,
    flags: usize,
    not_send: NotThreadSafe,
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
        let _ = self.not_send;
        // SAFETY: We hold the lock, and the flags are those that taking it gave.
        unsafe { ub::upcall_irq_unlock(self.lock.raw.get(), self.flags) };
    }
}

/// Allocates memory for a block of `size` bytes, a power of two up to the page size, which does not
/// cross a page. Its content is undefined. Waits for memory if `wait`.
pub(crate) fn alloc_block(size: u32, wait: bool) -> Option<NonNull<u8>> {
    // SAFETY: No conditions.
    NonNull::new(unsafe { ub::upcall_block_alloc(size, wait) }.cast())
}

/// Frees what [`alloc_block`] gave. Any context.
///
/// # Safety
///
/// `memory` was allocated with the same size, and is not used any more.
pub(crate) unsafe fn free_block(memory: NonNull<u8>, size: u32) {
    // SAFETY: By the function's contract.
    unsafe { ub::upcall_block_free(memory.as_ptr().cast(), size) };
}

/// The part of a request for the memory of a block.
///
/// # Safety
///
/// `memory` comes from [`alloc_block`], with `len` bytes.
pub(crate) unsafe fn segment(memory: NonNull<u8>, len: u32) -> Segment {
    let mut offset = 0;
    // SAFETY: By the function's contract the memory lies in a page.
    let page = unsafe { ub::upcall_block_page(memory.as_ptr().cast(), &mut offset) };
    Segment {
        // SAFETY: Memory of the kernel's map has a page.
        page: unsafe { NonNull::new_unchecked(page.cast()) },
        offset,
        len,
    }
}

/// A number that nobody can know.
pub(crate) fn random() -> u64 {
    // SAFETY: Process context.
    unsafe { ub::upcall_random() }
}

/// How many bytes of memory there are.
pub(crate) fn total_memory() -> u64 {
    // SAFETY: No conditions.
    unsafe { ub::upcall_total_memory() }
}

/// Bounds the lines of a log.
pub(crate) struct RateLimit(Opaque<ub::ratelimit_state>);

// SAFETY: It has a lock of its own.
unsafe impl Send for RateLimit {}
// SAFETY: As for `Send`.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    /// Makes one for ten lines in five seconds.
    pub(crate) fn new() -> Self {
        let state = Opaque::uninit();
        // SAFETY: The memory is there to be filled. Its lock is not taken yet, so it may be moved.
        unsafe { ub::upcall_ratelimit_init(state.get()) };
        Self(state)
    }

    /// Whether one more line is within the limit. `label`, with a zero at its end, is for the line
    /// that says how many were not. Any context.
    pub(crate) fn permits(&self, label: &[u8; 48]) -> bool {
        // SAFETY: The state was initialised, and a label ends with a zero.
        unsafe { ub::upcall_ratelimit(self.0.get(), label.as_ptr()) }
    }
}

/// Writes a line to the kernel log. Any context.
pub(crate) fn print(level: Level, label: &[u8; 48], args: core::fmt::Arguments<'_>) {
    let level = match level {
        Level::Error => &levels::ERR,
        Level::Warning => &levels::WARNING,
        Level::Info => &levels::INFO,
    };
    // SAFETY: The formats are the kernel crate's, and the label ends with a zero.
    unsafe { call_printk(level, label, format_args!("{args}\n")) }
}

/// Stops the machine.
pub(crate) fn panic(label: &[u8; 48]) {
    // SAFETY: A label ends with a zero.
    unsafe { ub::upcall_panic(label.as_ptr().cast()) }
}

/// Lets other threads run. Returns whether the calling thread was killed. Process context.
pub(crate) fn interrupted() -> bool {
    // SAFETY: Process context.
    unsafe { ub::upcall_interrupted() }
}

/// The time of day, in seconds and nanoseconds.
pub(crate) fn now() -> (i64, u32) {
    let mut time = ub::timespec64::default();
    // SAFETY: The memory is there to be filled.
    unsafe { ub::ktime_get_coarse_real_ts64(&mut time) };
    (time.tv_sec, time.tv_nsec as u32)
}

/// The time of day for what is written to files.
pub(crate) fn file_time(device: &Device) -> (i64, u32) {
    let mut time = ub::timespec64::default();
    // SAFETY: The device is open, and the memory is there to be filled.
    unsafe { ub::upcall_device_time(device.as_ptr().cast(), &mut time) };
    (time.tv_sec, time.tv_nsec as u32)
}

/// Whether nothing can be written to the device.
pub(crate) fn read_only(device: &Device) -> bool {
    // SAFETY: The device is open.
    unsafe { ub::upcall_bdev_read_only(device.as_ptr().cast()) }
}

/// How many sectors of 512 bytes were written to the device since it is there.
pub(crate) fn sectors_written(device: &Device) -> u64 {
    // SAFETY: The device is open.
    unsafe { ub::upcall_sectors_written(device.as_ptr().cast()) }
}

/// What a discard should be a multiple of, in bytes; 0 if the device knows none.
pub(crate) fn discard_granularity(device: &Device) -> u32 {
    // SAFETY: The device is open.
    unsafe { ub::upcall_discard_granularity(device.as_ptr().cast()) }
}

/// Changes `len` bytes from `pos` on, which lie in one block of the device's own cache, and waits
/// until they are on stable media. Process context; sleeps.
pub(crate) fn edit_raw(
    device: &Device,
    pos: u64,
    len: usize,
    change: &mut dyn FnMut(&mut [u8]),
) -> Result {
    struct Arg<'a>(usize, &'a mut dyn FnMut(&mut [u8]));

    /// # Safety
    ///
    /// `arg` is an [`Arg`], and there are as many bytes as it says, which are the caller's.
    unsafe extern "C" fn call(arg: *mut c_void, bytes: *mut u8) {
        // SAFETY: By the function's contract.
        let arg = unsafe { &mut *arg.cast::<Arg<'_>>() };
        // SAFETY: By the function's contract.
        (arg.1)(unsafe { core::slice::from_raw_parts_mut(bytes, arg.0) });
    }

    let mut arg = Arg(len, change);
    // SAFETY: The device is open. The bytes lie in one block, which is locked while they are changed.
    to_result(unsafe {
        ub::upcall_edit_buffer(
            device.as_ptr().cast(),
            pos,
            Some(call),
            (&raw mut arg).cast(),
        )
    })
}

/// For allocations where nothing may wait.
pub(crate) const GFP_NOWAIT: Flags = flags::GFP_NOWAIT;

/// While it lives, the calling thread's allocations do not wait for what a file system does to free
/// memory.
pub(crate) struct NoFs(core::ffi::c_uint, NotThreadSafe);

impl NoFs {
    pub(crate) fn enter() -> Self {
        // SAFETY: The destructor restores, on the same thread.
        Self(unsafe { ub::upcall_memalloc_nofs_save() }, NotThreadSafe)
    }
}

impl Drop for NoFs {
    fn drop(&mut self) {
        let _ = self.1;
        // SAFETY: The flags are those that saving gave.
        unsafe { ub::upcall_memalloc_nofs_restore(self.0) };
    }
}
