// SPDX-License-Identifier: GPL-2.0

//! A file's size, and space, set by `truncate`, `fallocate` and their like.
//!
//! # Concurrency
//!
//! The caller has the inode's lock, so nobody writes. Direct IO that is under way is waited for; the
//! `invalidate_lock` keeps faults out; and taking folios out of the page cache waits for their writeback. So
//! when the file system is told, nothing of what it frees is being written, or can come to be.

use crate::fs::FileSystem;
use crate::inode::{refresh, Inode};
use crate::write::{with_privilege, zero_behind, zero_range};
use disk::pinned;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_long};
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

/// # Safety
///
/// As [`set_size`], and the `invalidate_lock` is held.
unsafe fn set_size_locked<F: FileSystem>(raw: *mut ub::inode, size: u64) -> Result {
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
            // The disk is not to know a size before the bytes below it.
            let start = disk_size.min(size).min(old);
            to_result(ub::filemap_write_and_wait_range(
                (*raw).i_mapping,
                start as i64,
                (size.max(1) - 1) as i64,
            ))?;
        }
        ub::truncate_setsize(raw, size as i64);
        block_on(pinned(|| volume.truncate(info, size))?)??;
        Ok(())
    }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn fallocate<F: FileSystem>(
    file: *mut ub::file,
    mode: c_int,
    pos: i64,
    len: i64,
) -> c_long {
    if mode & !(ub::FALLOC_FL_KEEP_SIZE as c_int) != 0 {
        return EOPNOTSUPP.to_errno() as c_long;
    }
    let keep_size = mode != 0;
    // SAFETY: The VFS passes a file of ours that is open for writing, and a range.
    let done = unsafe {
        let raw = (*file).f_inode;
        ub::upcall_inode_lock(raw, false);
        let done = fallocate_locked::<F>(file, raw, pos, len, keep_size);
        ub::upcall_inode_unlock(raw);
        done
    };
    done.map_or_else(|error| error.to_errno() as c_long, |()| 0)
}

/// # Safety
///
/// As [`fallocate`], and the inode's lock is held.
unsafe fn fallocate_locked<F: FileSystem>(
    file: *mut ub::file,
    raw: *mut ub::inode,
    pos: i64,
    len: i64,
    keep_size: bool,
) -> Result {
    // SAFETY: By the function's contract.
    unsafe {
        let end = pos.checked_add(len).ok_or(EFBIG)?;
        let grows = !keep_size && end > ub::upcall_i_size_read(raw);
        if grows {
            to_result(ub::inode_newsize_ok(raw, end))?;
        }
        to_result(ub::file_modified(file))?;
        // The end of a direct write changes the map, too.
        ub::inode_dio_wait(raw);
        let inode = Inode::<F>::new(raw);
        let (volume, info) = (inode.volume(), inode.info());
        with_privilege(|privileged| {
            block_on(pinned(|| {
                volume.allocate(info, pos as u64, end as u64, privileged)
            })?)?
        })?;
        if grows {
            set_size::<F>(raw, end as u64)?;
        }
        refresh(&inode);
        if ub::upcall_file_is_sync(file) || ub::upcall_inode_is_sync(raw) {
            block_on(pinned(|| volume.sync_inode(info, false))?)??;
        }
        Ok(())
    }
}
