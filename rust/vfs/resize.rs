// SPDX-License-Identifier: GPL-2.0

//! A file's size, set by `truncate` and its like.
//!
//! # Concurrency
//!
//! The caller has the inode's lock, so nobody writes. Direct IO that is under way is waited for; the
//! `invalidate_lock` keeps faults out; and taking folios out of the page cache waits for their writeback. So
//! when the file system is told, nothing of what it frees is being written, or can come to be.

use crate::fs::FileSystem;
use crate::inode::Inode;
use crate::write::{zero_behind, zero_range};
use disk::pinned;
use kernel::error::to_result;
use kernel::prelude::*;
use upcall::block_on;
use upcall_bindings as ub;

/// Gives a file the size `size`, after the checks of the VFS. Neither times nor the VFS's copies of
/// attributes change, but the size. Returns whether it had another one.
///
/// Fails with the errors of the disk, and with `EROFS`. May sleep.
///
/// # Safety
///
/// `raw` is a regular file of a volume of type `F`, and its lock is held exclusively.
pub(crate) unsafe fn set_size<F: FileSystem>(raw: *mut ub::inode, size: u64) -> Result<bool> {
    // SAFETY: By the function's contract.
    unsafe {
        ub::inode_dio_wait(raw);
        let old = ub::upcall_i_size_read(raw) as u64;
        ub::upcall_invalidate_lock(raw);
        let result = set_size_locked::<F>(raw, size);
        ub::upcall_invalidate_unlock(raw);
        result.map(|()| size != old)
    }
}

/// As [`set_size`], with no direct IO under way.
///
/// # Safety
///
/// As [`set_size`], and the `invalidate_lock` is held.
pub(crate) unsafe fn set_size_locked<F: FileSystem>(raw: *mut ub::inode, size: u64) -> Result {
    // SAFETY: By the function's contract.
    unsafe {
        let inode = Inode::<F>::new(raw);
        let (volume, info) = (inode.volume(), inode.info());
        let old = ub::upcall_i_size_read(raw) as u64;
        let mask = (1u64 << (*raw).i_blkbits) - 1;
        // What is behind the end in the last block is zeros whenever it can be seen.
        let zeroed = if size > old {
            zero_behind::<F>(raw, old as i64, size as i64)?
        } else if size & mask != 0 {
            zero_range::<F>(raw, size as i64, (mask + 1 - (size & mask)) as i64)?
        } else {
            false
        };
        let disk_size = volume.disk_size(info);
        if zeroed || (size > disk_size && old != disk_size) {
            // The disk is not to know a size before the bytes below it, nor before the zeros that
            // are behind it in its block.
            let start = disk_size.min(size).min(old);
            let end = match size > old {
                true => size,
                false => size.next_multiple_of(mask + 1),
            };
            to_result(ub::filemap_write_and_wait_range(
                (*raw).i_mapping,
                start as i64,
                (end.max(1) - 1) as i64,
            ))?;
        }
        ub::truncate_setsize(raw, size as i64);
        block_on(pinned(|| volume.truncate(info, size))?)??;
        Ok(())
    }
}
