// SPDX-License-Identifier: GPL-2.0

//! [`Device`]: a block device, as the requests of a scope ask it.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h).
//!
//! A device is a value that says how it is asked: for which scope, with what memory, how urgently. Clones
//! share the open file, and so does each request as long as it is out, so that what is dropped
//! first does not matter.

use crate::bio::{submit_or_return, Io, Op, Payload};
use crate::reserve::Reserve;
use crate::scope::{Scope, Spawner};
use crate::sys::{Atomic, Full, Relaxed};
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use upcall_bindings as ub;

/// A block device with the scope that its requests belong to.
#[derive(Clone)]
pub struct Device {
    pub(crate) bdev: NonNull<ub::block_device>,
    pub(crate) scope: Spawner,
    pub(crate) nowait: bool,
    logical_block_size: u32,
    /// Keeps the device open, if we opened it.
    pub(crate) opened: Option<Opened>,
    reserve: Option<Reserve>,
    pub(crate) priority: u16,
    /// For the bios, beside those of an [`Op`].
    pub(crate) flags: u32,
}

// SAFETY: A block device may be used from any thread.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Device {
    /// Makes a device for requests that belong to `scope`.
    ///
    /// # Safety
    ///
    /// `bdev` is open, and stays so until `scope` was joined or dropped.
    pub unsafe fn new(bdev: NonNull<bindings::block_device>, scope: &Scope) -> Self {
        let bdev = bdev.cast();
        Self {
            bdev,
            scope: scope.spawner(),
            // SAFETY: The device is open.
            nowait: unsafe { ub::upcall_bdev_nowait(bdev.as_ptr()) },
            // SAFETY: As above.
            logical_block_size: unsafe { ub::upcall_logical_block_size(bdev.as_ptr()) },
            opened: None,
            reserve: None,
            priority: 0,
            flags: 0,
        }
    }

    /// Opens the device at `path`, for requests that belong to `scope`; for writing too if `write`.
    ///
    /// The path is the calling thread's; a worker has no file system, and finds nothing. Others may use the
    /// device as well. It stays open as long as the returned device, a clone of it or one
    /// of its requests is there. Fails with the errors of opening a device. May sleep.
    pub fn open(path: &CStr, write: bool, scope: &Scope) -> Result<Self> {
        // SAFETY: The path is a C string.
        let file = from_err_ptr(unsafe { ub::upcall_open_bdev(path.as_char_ptr(), write) })?;
        // SAFETY: The file was opened, and its reference is ours. It belongs to no thread's table of
        // files, so that nobody uses its position.
        let file: ARef<File> = unsafe { ARef::from_raw(NonNull::new_unchecked(file.cast())) };
        // SAFETY: The file is that of a block device.
        let bdev = unsafe { ub::upcall_file_bdev(file.as_ptr().cast()) };
        // SAFETY: Every request has a clone of `opened`, which keeps it open.
        let mut device = unsafe { Self::new(NonNull::new_unchecked(bdev.cast()), scope) };
        device.opened = Some(Opened::new(file)?);
        Ok(device)
    }

    /// Where its requests have their memory from, if it was set aside.
    pub(crate) fn reserve(&self) -> Option<&Reserve> {
        self.reserve.as_ref()
    }

    /// Gives the device's requests memory that was set aside. `ENOMEM` then also means that a request does
    /// not fit, or, inside an upcall, that the reserve is used up.
    pub fn reserved(mut self, reserve: &Reserve) -> Self {
        self.reserve = Some(reserve.clone());
        self
    }

    /// Gives the device's requests a priority, for the device's scheduler to heed.
    ///
    /// Without, an upcall's requests have `best_effort(4)`, and those of another thread the thread's.
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority.0;
        self
    }

    /// Tells the block layer not to look for other requests to join the device's with.
    ///
    /// For requests at places that are far from each other, where each look is in vain. C: `REQ_NOMERGE`.
    pub fn without_merging(mut self) -> Self {
        self.flags |= ub::UPCALL_REQ_NOMERGE;
        self
    }

    /// The size, in bytes.
    pub fn size(&self) -> u64 {
        // SAFETY: The device is open.
        unsafe { ub::upcall_bdev_size(self.bdev.as_ptr()) }
    }

    /// Brings all that was written before, and is done, to stable media.
    ///
    /// # Cancellation
    ///
    /// The device goes on with what was begun. So in the next two.
    pub async fn flush(&self) -> Result {
        self.without_data(Op::Flush, 0, 0)?.await.0
    }

    /// Tells the device that the content of `len` bytes from byte `pos` on is not needed any more.
    ///
    /// Both are multiples of the logical block size. What is read there later may be anything. Fails with
    /// `EOPNOTSUPP` if the device has no use for it.
    pub async fn discard(&self, pos: u64, len: u64) -> Result {
        self.range(Op::Discard, pos, len).await
    }

    /// Makes `len` bytes from byte `pos` on zero, without sending them.
    ///
    /// Both are multiples of the logical block size. Fails with `EOPNOTSUPP` if the device cannot.
    pub async fn write_zeroes(&self, pos: u64, len: u64) -> Result {
        self.range(Op::WriteZeroes, pos, len).await
    }

    async fn range(&self, op: Op, pos: u64, len: u64) -> Result {
        let end = pos.checked_add(len).ok_or(EINVAL)?;
        if (pos | len) & u64::from(self.logical_block_size).wrapping_sub(1) != 0 {
            return Err(EINVAL);
        }
        let mut at = pos;
        while at < end {
            // A bio counts with 32 bits.
            let size = (end - at).min(1 << 30);
            self.without_data(op, at, size as u32)?.await.0?;
            at += size;
        }
        Ok(())
    }

    fn without_data(&self, op: Op, pos: u64, size: u32) -> Result<Io<Nothing>> {
        // SAFETY: There are no segments.
        unsafe { submit_or_return(self, op, pos, size, core::iter::empty(), Nothing) }
            .map_err(|(error, _)| error)
    }

    /// The smallest unit that the device reads, in bytes: a power of two.
    pub fn logical_block_size(&self) -> u32 {
        self.logical_block_size
    }

    /// The C device.
    pub fn as_ptr(&self) -> *mut bindings::block_device {
        self.bdev.as_ptr().cast()
    }
}

/// A reference on the open file of a device: an [`Arc`](kernel::sync::Arc) that counts inline, since each
/// request counts.
pub(crate) struct Opened(NonNull<OpenFile>);

struct OpenFile {
    refs: Atomic<usize>,
    _file: ARef<File>,
}

// SAFETY: The file of a device belongs to no thread.
unsafe impl Send for Opened {}
// SAFETY: As above.
unsafe impl Sync for Opened {}

impl Opened {
    fn new(file: ARef<File>) -> Result<Self> {
        let open = OpenFile {
            refs: Atomic::new(1),
            _file: file,
        };
        let open = KBox::into_raw(KBox::new(open, GFP_KERNEL)?);
        // SAFETY: A box is not null.
        Ok(Self(unsafe { NonNull::new_unchecked(open) }))
    }
}

impl Clone for Opened {
    #[inline(always)]
    fn clone(&self) -> Self {
        // Of 64 bits, which no program counts through.
        // SAFETY: We have a reference.
        unsafe { self.0.as_ref() }.refs.fetch_add(1, Relaxed);
        Self(self.0)
    }
}

impl Drop for Opened {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: We have a reference.
        if unsafe { self.0.as_ref() }.refs.fetch_sub(1, Full) == 1 {
            // SAFETY: It was the last, and came from a box.
            drop(unsafe { KBox::from_raw(self.0.as_ptr()) });
        }
    }
}

/// The priority of requests, as of the system call `ioprio_set`.
///
/// C header: [`include/uapi/linux/ioprio.h`](srctree/include/uapi/linux/ioprio.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority(pub(crate) u16);

impl Priority {
    /// Before all others, for one who may keep all others waiting. Level 0 is the first, 7 the last.
    pub const fn real_time(level: u8) -> Self {
        Self::new(1, level)
    }

    /// The usual class. Level 0 is the first, 7 the last; a thread has 4.
    pub const fn best_effort(level: u8) -> Self {
        Self::new(2, level)
    }

    /// When nobody else needs the device.
    pub const fn idle() -> Self {
        Self::new(3, 0)
    }

    const fn new(class: u16, level: u8) -> Self {
        // Levels above the last are the last.
        let level = if level > 7 { 7 } else { level };
        Self(class << 13 | level as u16)
    }
}

/// The payload of a request without data.
struct Nothing;

impl Payload for Nothing {}
