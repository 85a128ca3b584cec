// SPDX-License-Identifier: GPL-2.0

//! `fallocate`: space for a range of a file, holes, zeros, ranges that are taken out or put in.
//!
//! The VFS has looked at the range, and whether the file may be changed: it is neither immutable,
//! nor append-only, nor used for swap.
//!
//! # Concurrency
//!
//! The inode's lock is held, so nobody writes, and direct IO that is under way is waited for. Where
//! blocks are taken out of a file, or get another place in it, the `invalidate_lock` is held from
//! before the pages of the range are written back until the end: no fault makes a page dirty, and
//! nobody reads one into the page cache. So the file system finds nothing delayed in the range, and
//! nothing on its way to the device.

use crate::fs::FileSystem;
use crate::inode::{refresh, Inode};
use crate::resize::{set_size, set_size_locked};
use crate::write::{with_privilege, zero_range};
use disk::pinned;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_long};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use upcall::block_on;
use upcall_bindings as ub;

/// What can be asked for.
const MODES: u32 = ub::FALLOC_FL_KEEP_SIZE
    | ub::FALLOC_FL_PUNCH_HOLE
    | ub::FALLOC_FL_ZERO_RANGE
    | ub::FALLOC_FL_COLLAPSE_RANGE
    | ub::FALLOC_FL_INSERT_RANGE;

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn fallocate<F: FileSystem>(
    file: *mut ub::file,
    mode: c_int,
    pos: i64,
    len: i64,
) -> c_long {
    let mode = mode as u32;
    if mode & !MODES != 0 {
        return EOPNOTSUPP.to_errno() as c_long;
    }
    // SAFETY: The VFS passes a file of ours that is open for writing, and a range.
    let done = unsafe {
        let raw = (*file).f_inode;
        ub::upcall_inode_lock(raw, false);
        let done = locked::<F>(file, raw, mode, pos, len);
        ub::upcall_inode_unlock(raw);
        done
    };
    done.map_or_else(|error| error.to_errno() as c_long, |()| 0)
}

/// # Safety
///
/// As [`fallocate`], and the inode's lock is held.
unsafe fn locked<F: FileSystem>(
    file: *mut ub::file,
    raw: *mut ub::inode,
    mode: u32,
    pos: i64,
    len: i64,
) -> Result {
    // SAFETY: By the function's contract.
    unsafe {
        let inode = Inode::<F>::new(raw);
        let (volume, info) = (inode.volume(), inode.info());
        let end = pos.checked_add(len).ok_or(EFBIG)?;
        with_privilege(volume, |privileged| block_on(pinned(|| volume.leave_inline(info, privileged))?)?)?;
        // The end of a direct write changes the map, too.
        ub::inode_dio_wait(raw);
        to_result(ub::file_modified(file))?;
        let sync = ub::upcall_file_is_sync(file) || ub::upcall_inode_is_sync(raw);
        let grows = mode & ub::FALLOC_FL_KEEP_SIZE == 0 && end > ub::upcall_i_size_read(raw);
        let operation = mode & !ub::FALLOC_FL_KEEP_SIZE;
        let done = if operation == 0 {
            allocate::<F>(raw, pos, end, grows)
        } else {
            ub::upcall_invalidate_lock(raw);
            let done = match operation {
                ub::FALLOC_FL_PUNCH_HOLE => punch::<F>(raw, pos, end, sync),
                ub::FALLOC_FL_ZERO_RANGE => zero::<F>(raw, pos, end, grows, sync),
                ub::FALLOC_FL_COLLAPSE_RANGE => collapse::<F>(raw, pos, len),
                ub::FALLOC_FL_INSERT_RANGE => insert::<F>(raw, pos, len),
                _ => Err(EOPNOTSUPP),
            };
            ub::upcall_invalidate_unlock(raw);
            done
        };
        refresh(&inode);
        done?;
        if sync {
            block_on(pinned(|| volume.sync_inode(info, false))?)??;
        }
        Ok(())
    }
}

/// # Safety
///
/// `raw` is a regular file of a volume of type `F`, and its lock is held exclusively.
unsafe fn allocate<F: FileSystem>(raw: *mut ub::inode, pos: i64, end: i64, grows: bool) -> Result {
    // SAFETY: By the function's contract.
    unsafe {
        if grows {
            to_result(ub::inode_newsize_ok(raw, end))?;
        }
        let inode = Inode::<F>::new(raw);
        let (volume, info) = (inode.volume(), inode.info());
        let allocated = with_privilege(volume, |privileged| {
            let allocated = || volume.allocate(info, pos as u64, end as u64, privileged);
            block_on(pinned(allocated)?)?
        });
        if let Err(error) = allocated {
            if error == EOPNOTSUPP {
                return allocated;
            }
            // What is reserved, and not dirty, is so in vain.
            ub::upcall_invalidate_lock(raw);
            let forgotten = clean(raw, pos, end)
                .and_then(|()| block_on(pinned(|| volume.forget(info, pos as u64, end as u64))?)?);
            ub::upcall_invalidate_unlock(raw);
            return forgotten.and(Err(error));
        }
        if grows {
            set_size::<F>(raw, end as u64)?;
        }
        Ok(())
    }
}

/// # Safety
///
/// As [`allocate`], and the `invalidate_lock` is held.
unsafe fn punch<F: FileSystem>(raw: *mut ub::inode, pos: i64, end: i64, sync: bool) -> Result {
    // SAFETY: By the function's contract.
    unsafe {
        let size = ub::upcall_i_size_read(raw);
        if pos >= size {
            return Ok(());
        }
        // Up to the end of the block that has the end of the file; what is behind stays.
        let mask = (1i64 << (*raw).i_blkbits) - 1;
        let end = if end >= size {
            (size + mask) & !mask
        } else {
            end
        };
        clean(raw, pos, end)?;
        zero_edges::<F>(raw, pos, end, sync)?;
        let inode = Inode::<F>::new(raw);
        let (volume, info) = (inode.volume(), inode.info());
        block_on(pinned(|| volume.punch(info, pos as u64, end as u64))?)?
    }
}

/// # Safety
///
/// As [`punch`].
unsafe fn zero<F: FileSystem>(
    raw: *mut ub::inode,
    pos: i64,
    end: i64,
    grows: bool,
    sync: bool,
) -> Result {
    // SAFETY: By the function's contract.
    unsafe {
        if grows {
            to_result(ub::inode_newsize_ok(raw, end))?;
        }
        clean(raw, pos, end)?;
        let inode = Inode::<F>::new(raw);
        let (volume, info) = (inode.volume(), inode.info());
        // Before anything is zeroed it is known that there is space.
        with_privilege(volume, |privileged| {
            let zeroed = || volume.zero(info, pos as u64, end as u64, privileged);
            block_on(pinned(zeroed)?)?
        })?;
        zero_edges::<F>(raw, pos, end, sync)?;
        if grows {
            set_size_locked::<F>(raw, end as u64)?;
        }
        Ok(())
    }
}

/// # Safety
///
/// As [`punch`].
unsafe fn collapse<F: FileSystem>(raw: *mut ub::inode, pos: i64, len: i64) -> Result {
    // SAFETY: By the function's contract.
    unsafe {
        let size = ub::upcall_i_size_read(raw);
        clean_from(raw, pos)?;
        let inode = Inode::<F>::new(raw);
        let (volume, info) = (inode.volume(), inode.info());
        let collapsed = || volume.collapse(info, pos as u64, len as u64, size as u64);
        block_on(pinned(collapsed)?)??;
        ub::upcall_i_size_write(raw, size - len);
        Ok(())
    }
}

/// # Safety
///
/// As [`punch`].
unsafe fn insert<F: FileSystem>(raw: *mut ub::inode, pos: i64, len: i64) -> Result {
    // SAFETY: By the function's contract.
    unsafe {
        let size = ub::upcall_i_size_read(raw);
        clean_from(raw, pos)?;
        let inode = Inode::<F>::new(raw);
        let (volume, info) = (inode.volume(), inode.info());
        let inserted = || volume.insert(info, pos as u64, len as u64, size as u64);
        let done = block_on(pinned(inserted)?)?;
        // Where it ends in the middle the size is the new one already.
        let now = volume.disk_size(info) as i64;
        ub::upcall_i_size_write(raw, size.max(now));
        done
    }
}

/// Writes the pages of a range back, and takes them out of the page cache.
///
/// Those that are in the range in part, too: else a mapping of theirs could still be written to,
/// and nothing would say that blocks of theirs are gone.
///
/// # Safety
///
/// As for [`punch`].
unsafe fn clean(raw: *mut ub::inode, pos: i64, end: i64) -> Result {
    const MASK: i64 = PAGE_SIZE as i64 - 1;
    let (start, last) = (pos & !MASK, end.saturating_add(MASK) & !MASK);
    // SAFETY: By the function's contract.
    unsafe {
        let mapping = (*raw).i_mapping;
        to_result(ub::filemap_write_and_wait_range(mapping, start, last - 1))?;
        ub::truncate_pagecache_range(raw, start, last - 1);
    }
    Ok(())
}

/// As [`clean`], from `pos` on.
///
/// # Safety
///
/// As for [`punch`].
unsafe fn clean_from(raw: *mut ub::inode, pos: i64) -> Result {
    let start = pos & !(PAGE_SIZE as i64 - 1);
    // SAFETY: By the function's contract.
    unsafe {
        let mapping = (*raw).i_mapping;
        to_result(ub::filemap_write_and_wait_range(mapping, start, i64::MAX))?;
        ub::truncate_pagecache(raw, start);
    }
    Ok(())
}

/// Zeroes, in the page cache, what a range has of blocks that are not in it as a whole. With `sync`
/// the zeros are on the device after that. What is behind the end of the file is zeros.
///
/// # Safety
///
/// As for [`punch`].
unsafe fn zero_edges<F: FileSystem>(raw: *mut ub::inode, pos: i64, end: i64, sync: bool) -> Result {
    // SAFETY: By the function's contract.
    unsafe {
        let size = ub::upcall_i_size_read(raw);
        let mask = (1i64 << (*raw).i_blkbits) - 1;
        let (first, last) = (pos.saturating_add(mask) & !mask, end & !mask);
        let head = (pos, end.min(first).min(size));
        let tail = (last.max(first), end.min(size));
        let mut zeroed = false;
        for (from, to) in [head, tail] {
            if from < to {
                zeroed |= zero_range::<F>(raw, from, to - from)?;
            }
        }
        if zeroed && sync {
            let mapping = (*raw).i_mapping;
            to_result(ub::filemap_write_and_wait_range(mapping, pos, end - 1))?;
        }
    }
    Ok(())
}
