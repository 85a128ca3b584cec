// SPDX-License-Identifier: GPL-2.0

//! Direct reads. Those that are asynchronous do not wait for metadata.
//!
//! C header: [`include/linux/iomap.h`](srctree/include/linux/iomap.h).
//!
//! An asynchronous read whose map is not in memory would make AIO wait, and io_uring, which says
//! `IOCB_NOWAIT`, would hand it to a thread that waits. Such a read is put off instead: an upcall
//! reads the map, and then a thread of a workqueue sends the bios, which seldom waits. It uses the
//! caller's address space meanwhile.
//!
//! # Concurrency
//!
//! A read that was put off keeps the caller's file open, since the caller keeps it until it is
//! told; so the volume stays mounted, and the inode in memory. It takes the inode's lock in the
//! thread that sends it, and never in the upcall. It finds the file as it is then: one that was
//! cut meanwhile reads as cut.
//!
//! The caller is told when both the bios have ended and the thread is done with the file, in the
//! context of whichever is later, an interrupt's too.
//!
//! # Cancellation
//!
//! If the upcall's future is dropped (without memory, or by `umount -f`) the read is sent, and the
//! thread that sends it waits for the map, or meets the error.

use crate::fs::FileSystem;
use crate::inode::Inode;
use crate::pages;
use core::ptr::NonNull;
use kernel::prelude::*;
use upcall_bindings as ub;

/// A read that was put off. A thread sends it when this is dropped, in any context.
struct Postponed(NonNull<ub::upcall_dio>);

// SAFETY: It is used by one thread at a time, and belongs to none.
unsafe impl Send for Postponed {}

impl Drop for Postponed {
    fn drop(&mut self) {
        // SAFETY: It was not sent yet, and is not used again.
        unsafe { ub::upcall_dio_send(self.0.as_ptr()) };
    }
}

/// Whether the map of the bytes from `pos` to `end` is in memory.
fn is_cached<F: FileSystem>(inode: &Inode<'_, F>, pos: u64, end: u64) -> bool {
    let mut at = pos;
    while at < end {
        match inode.volume().map_cached(inode.info(), at, end - at) {
            Some(map) => at = F::map_end(&map),
            None => return false,
        }
    }
    true
}

/// Reads from a file past the page cache.
///
/// # Safety
///
/// `iocb` and `to` are a direct read of the file `inode`, as the VFS passes it.
pub(crate) unsafe fn read<F: FileSystem>(
    inode: &Inode<'_, F>,
    iocb: *mut ub::kiocb,
    to: *mut ub::iov_iter,
) -> isize {
    let again = EAGAIN.to_errno() as isize;
    // SAFETY: By the function's contract.
    unsafe {
        let nowait = (*iocb).ki_flags & ub::UPCALL_IOCB_NOWAIT != 0;
        if (*iocb).ki_complete.is_none() {
            return read_now(inode, iocb, to, nowait);
        }
        let queued = -(ub::EIOCBQUEUED as isize);
        let pos = (*iocb).ki_pos as u64;
        let len = ub::upcall_iov_iter_count(to) as u64;
        let end = || {
            pos.saturating_add(len)
                .min(ub::upcall_i_size_read(inode.as_ptr()) as u64)
        };
        if !nowait {
            let waits = is_cached(inode, pos, end()) || !postpone(inode, iocb, to, pos..end());
            return if waits {
                read_now(inode, iocb, to, nowait)
            } else {
                queued
            };
        }
        // What fails half-way may not be put off. One block is in one part of the map.
        let last = pos.saturating_add(len.saturating_sub(1));
        let one_block = (pos ^ last) >> (*inode.as_ptr()).i_blkbits == 0;
        let mut try_now = one_block || is_cached(inode, pos, end());
        // The second time the map is there: it came between the first and the look.
        for _ in 0..2 {
            if !try_now {
                break;
            }
            // A read that fails leaves the iterator anywhere.
            let before = core::ptr::read(to);
            let read = read_now(inode, iocb, to, nowait);
            if read != again {
                return read;
            }
            core::ptr::write(to, before);
            try_now = is_cached(inode, pos, end());
        }
        if try_now {
            // It is something else that it would have to wait for.
            return again;
        }
        match postpone(inode, iocb, to, pos..end()) {
            true => queued,
            false => again,
        }
    }
}

/// # Safety
///
/// As for [`read`].
unsafe fn read_now<F: FileSystem>(
    inode: &Inode<'_, F>,
    iocb: *mut ub::kiocb,
    to: *mut ub::iov_iter,
    nowait: bool,
) -> isize {
    // SAFETY: By the function's contract.
    unsafe {
        if !ub::upcall_inode_lock_shared(inode.as_ptr(), nowait) {
            return EAGAIN.to_errno() as isize;
        }
        let read = ub::upcall_dio_read(iocb, to, pages::blocking::<F>());
        ub::upcall_inode_unlock_shared(inode.as_ptr());
        read
    }
}

/// Puts a read off until the map of `range` is in memory. If that cannot be it returns `false`;
/// else the read is not the caller's any more.
///
/// # Safety
///
/// As for [`read`], and the caller waits to be told of the end.
unsafe fn postpone<F: FileSystem>(
    inode: &Inode<'_, F>,
    iocb: *mut ub::kiocb,
    to: *mut ub::iov_iter,
    range: core::ops::Range<u64>,
) -> bool {
    // SAFETY: By the function's contract.
    let postponed = unsafe { ub::upcall_dio_take(iocb, to, pages::blocking::<F>()) };
    let Some(postponed) = NonNull::new(postponed).map(Postponed) else {
        return false;
    };
    let (volume, info) = (inode.volume().clone(), inode.info().clone());
    let spawner = inode.volume().disk().spawner();
    // Without memory the future is dropped here, and the read sent.
    let _ = spawner.spawn(async move {
        let mut at = range.start;
        while at < range.end {
            match volume.map(&info, at, range.end - at).await {
                Ok(map) => at = F::map_end(&map),
                // Whoever sends the read meets the error, too.
                Err(_) => break,
            }
        }
        drop(postponed);
    });
    true
}
