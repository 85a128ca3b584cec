// SPDX-License-Identifier: GPL-2.0

//! Writeback: from the page cache to the device.
//!
//! C header: [`include/linux/iomap.h`](srctree/include/linux/iomap.h).
//!
//! # Concurrency
//!
//! `writepages` runs in the flusher's threads and in those that sync. It has one folio locked when
//! it asks for the file's map, and the folios before it are under writeback; it waits for the
//! future, which takes the map lock and may read metadata, but waits for no folio. Allocations do
//! not recurse into file systems. A map that was found is used as long as its sequence number is
//! the file's: truncation changes it, and waits for the folios that are under writeback before.
//!
//! What ends where a transaction is needed, for space that was new, or since the file has grown,
//! goes through [`ioends`](crate::ioends); the rest ends in the completion of its bio.

use crate::data::{FileMap, FileMapKind};
use crate::fs::FileSystem;
use crate::inode::Inode;
use crate::pages::NO_ADDRESS;
use core::marker::PhantomData;
use disk::pinned;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;
use upcall::{block_on, block_on_nofs};
use upcall_bindings as ub;

/// The functions that C calls.
struct Ops<F>(PhantomData<F>);

impl<F: FileSystem> Ops<F> {
    const WRITEBACK: &'static ub::iomap_writeback_ops = &ub::iomap_writeback_ops {
        writeback_range: Some(Self::range),
        writeback_submit: Some(Self::submit),
    };

    /// # Safety
    ///
    /// Called by iomap alone, as the C declaration says.
    unsafe extern "C" fn range(
        context: *mut ub::iomap_writepage_ctx,
        folio: *mut ub::folio,
        pos: u64,
        len: c_uint,
        end_pos: u64,
    ) -> isize {
        // SAFETY: iomap passes its context, with an inode of ours, and a locked folio of it.
        unsafe {
            let added = match Self::find(context, pos) {
                Ok(()) => ub::iomap_add_to_ioend(context, folio, pos as i64, end_pos as i64, len),
                Err(error) => error.to_errno() as isize,
            };
            if added < 0 {
                // The rest of the folio is not written any more, and becomes clean.
                let inode = Inode::<F>::new((*context).inode);
                let end = ub::upcall_folio_end(folio) as u64;
                let _ = block_on_nofs(inode.volume().write_undo(inode.info(), pos, end));
            }
            added
        }
    }

    /// Finds the map at `pos`, if the context's is not of it.
    ///
    /// # Safety
    ///
    /// As [`range`](Self::range).
    unsafe fn find(context: *mut ub::iomap_writepage_ctx, pos: u64) -> Result {
        // SAFETY: By the function's contract.
        let (inode, raw, iomap) = unsafe {
            let raw = (*context).inode;
            (Inode::<F>::new(raw), raw, &mut (*context).iomap)
        };
        let (volume, info) = (inode.volume(), inode.info());
        let start = iomap.offset as u64;
        if (start..start + iomap.length).contains(&pos)
            && iomap.validity_cookie == volume.map_sequence(info)
        {
            return Ok(());
        }
        // SAFETY: As above.
        let (size, block) = unsafe {
            let size = ub::upcall_i_size_read(raw) as u64;
            (size, 1u64 << (*raw).i_blkbits)
        };
        // As far as more may follow: iomap cuts it to what is dirty.
        let end = size.next_multiple_of(block).max(pos + block);
        let map = block_on_nofs(volume.writeback_map(info, pos, end))??;
        fill(volume, &map, iomap);
        Ok(())
    }

    /// # Safety
    ///
    /// Called by iomap alone, as the C declaration says.
    unsafe extern "C" fn submit(context: *mut ub::iomap_writepage_ctx, error: c_int) -> c_int {
        // SAFETY: iomap passes its context, with an inode of ours and an ioend of it.
        unsafe {
            let ioend: *mut ub::iomap_ioend = (*context).wb_ctx.cast();
            let inode = Inode::<F>::new((*ioend).io_inode);
            let end = (*ioend).io_offset as u64 + (*ioend).io_size as u64;
            if u32::from((*ioend).io_flags) & ub::IOMAP_IOEND_UNWRITTEN != 0
                || end > inode.volume().disk_size(inode.info())
                || ub::upcall_ioend_may_sleep(ioend)
            {
                inode.superblock().mounted().ioends.route(ioend);
            }
            ub::upcall_ioend_not_background(ioend);
            ub::iomap_ioend_writeback_submit(context, error)
        }
    }
}

/// Tells iomap what `map` says.
pub(crate) fn fill<F: FileSystem>(volume: &F, map: &FileMap, iomap: &mut ub::iomap) {
    let (kind, addr, flags) = match map.kind {
        FileMapKind::Hole => (ub::IOMAP_HOLE, NO_ADDRESS, 0),
        FileMapKind::Data(addr) => (ub::IOMAP_MAPPED, addr, 0),
        FileMapKind::Unwritten(addr) => (ub::IOMAP_UNWRITTEN, addr, 0),
        FileMapKind::Delayed { new } => (
            ub::IOMAP_DELALLOC,
            NO_ADDRESS,
            if new { ub::IOMAP_F_NEW } else { 0 },
        ),
    };
    iomap.type_ = kind as u16;
    iomap.addr = addr;
    iomap.flags = flags as u16;
    iomap.offset = map.offset as i64;
    iomap.length = map.len;
    iomap.bdev = volume.disk().device().as_ptr().cast();
    iomap.validity_cookie = map.sequence;
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn writepages<F: FileSystem>(
    mapping: *mut ub::address_space,
    wbc: *mut ub::writeback_control,
) -> c_int {
    let mut context = ub::iomap_writepage_ctx {
        // SAFETY: The VFS passes the mapping of a file of ours.
        inode: unsafe { (*mapping).host },
        wbc,
        ops: Ops::<F>::WRITEBACK,
        ..Default::default()
    };
    // SAFETY: As above; the context lives until the end of the call.
    unsafe { ub::iomap_writepages(&mut context) }
}

/// `fsync` of a file: its bytes, then what leads to them.
///
/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn fsync<F: FileSystem>(
    file: *mut ub::file,
    start: i64,
    end: i64,
    datasync: c_int,
) -> c_int {
    let sync = || {
        // SAFETY: The VFS passes a file of ours.
        unsafe {
            to_result(ub::file_write_and_wait_range(file, start, end))?;
            let inode = Inode::<F>::new((*file).f_inode);
            let volume = inode.volume();
            let sync = pinned(|| volume.sync_inode(inode.info(), datasync != 0))?;
            let synced = block_on(sync)?;
            let told = to_result(ub::file_check_and_advance_wb_err(file));
            synced.and(told)
        }
    };
    sync().map_or_else(|error: Error| error.to_errno(), |()| 0)
}
