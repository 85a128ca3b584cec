// SPDX-License-Identifier: GPL-2.0

//! Writing to files: `write`, by the page cache or past it, and shared mappings.
//!
//! C header: [`include/linux/iomap.h`](srctree/include/linux/iomap.h).
//!
//! # Concurrency
//!
//! A write holds the inode's lock, exclusively unless it goes past the page cache to whole blocks
//! that are below the end of the file. No folio is locked when its space is reserved, but in a
//! fault of a shared mapping: there `begin` runs with the folio locked, and all of it allocates
//! without recursion into file systems. A file whose data is in its inode has got blocks before
//! that, and never loses them.
//!
//! iomap asks again, with the folio locked, whether the map that `begin` gave is still true:
//! writeback changes it meanwhile, and a folio that was reclaimed after it must not be filled with
//! zeros.
//!
//! What a short write reserved in vain is given back under the `invalidate_lock`, so that no fault
//! makes a page dirty there meanwhile. Zeroing reserves nothing.
//!
//! The end of a direct write runs where the caller waits, or in a workqueue of the superblock. What
//! was chosen for one that failed stays with the file until the file is cut or goes: another direct
//! write may be on its way to the same blocks.

use crate::data::{FileMap, FileMapKind};
use crate::fs::FileSystem;
use crate::inode::{refresh, Inode};
use crate::pages::begin_only;
use crate::writeback::fill;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::pin;
use core::ptr::null_mut;
use core::task::{Context, Poll, Waker};
use disk::pinned;
use kernel::error::{from_result, to_result};
use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;
use upcall::block_on_nofs;
use upcall_bindings as ub;

/// The functions that C calls.
struct Ops<F>(PhantomData<F>);

/// Runs `future` until it is ready; with `nowait` it is polled once, and `EAGAIN` if it is not.
fn wait<T>(future: impl Future<Output = Result<T>>, nowait: bool) -> Result<T> {
    // It stays where it is.
    let mut future = pin!(future);
    if !nowait {
        return block_on_nofs(future)?;
    }
    let mut cx = Context::from_waker(Waker::noop());
    match future.as_mut().poll(&mut cx) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(EAGAIN),
    }
}

/// Calls `f`, and if there is no space once more with the privilege to use what is kept, if the
/// caller has that.
pub(crate) fn with_privilege<F: FileSystem, T>(
    volume: &F,
    f: impl Fn(bool) -> Result<T>,
) -> Result<T> {
    match f(false) {
        Err(ENOSPC) if volume.may_use_reserve() => f(true),
        result => result,
    }
}

impl<F: FileSystem> Ops<F> {
    const BUFFERED: &'static ub::iomap_ops = &ub::iomap_ops {
        iomap_begin: Some(Self::begin),
        iomap_end: Some(Self::end),
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    };

    const DELAYED: &'static ub::iomap_ops = &begin_only(Self::begin_delayed);

    const DIRECT: &'static ub::iomap_ops = &begin_only(Self::begin_direct);

    const WRITE: &'static ub::iomap_write_ops = &ub::iomap_write_ops {
        iomap_valid: Some(Self::valid),
        // SAFETY: As above.
        ..unsafe { core::mem::zeroed() }
    };

    const DIRECT_END: &'static ub::iomap_dio_ops = &ub::iomap_dio_ops {
        end_io: Some(Self::direct_end),
        // SAFETY: As above.
        ..unsafe { core::mem::zeroed() }
    };

    const MAPPING: &'static ub::vm_operations_struct = &ub::vm_operations_struct {
        fault: Some(ub::filemap_fault),
        map_pages: Some(ub::filemap_map_pages),
        page_mkwrite: Some(Self::page_mkwrite),
        // SAFETY: As above.
        ..unsafe { core::mem::zeroed() }
    };

    /// Tells iomap the map that `find` finds, which is told whether it must not wait.
    ///
    /// # Safety
    ///
    /// `inode` is one of ours that is in use, and `iomap` a structure to fill.
    unsafe fn fill_found(
        inode: *mut ub::inode,
        flags: c_uint,
        iomap: *mut ub::iomap,
        find: impl FnOnce(&F, &F::Inode, bool) -> Result<FileMap>,
    ) -> c_int {
        from_result(|| {
            // SAFETY: By the function's contract.
            let (inode, iomap) = unsafe { (Inode::<F>::new(inode), &mut *iomap) };
            let nowait = flags & ub::IOMAP_NOWAIT != 0;
            let map = find(inode.volume(), inode.info(), nowait)?;
            fill(inode.volume(), &map, iomap);
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by iomap alone, as the C declaration says.
    unsafe extern "C" fn begin(
        inode: *mut ub::inode,
        pos: i64,
        len: i64,
        flags: c_uint,
        iomap: *mut ub::iomap,
        _source: *mut ub::iomap,
    ) -> c_int {
        let find = |volume: &F, info: &F::Inode, nowait| {
            with_privilege(volume, |privileged| {
                let begun = volume.write_begin(info, pos as u64, len as u64, privileged, nowait);
                wait(begun, nowait)
            })
        };
        // SAFETY: iomap passes an inode of ours, and a structure to fill.
        unsafe { Self::fill_found(inode, flags, iomap, find) }
    }

    /// # Safety
    ///
    /// Called by iomap alone, as the C declaration says.
    unsafe extern "C" fn begin_delayed(
        inode: *mut ub::inode,
        pos: i64,
        len: i64,
        flags: c_uint,
        iomap: *mut ub::iomap,
        _source: *mut ub::iomap,
    ) -> c_int {
        let find = |volume: &F, info: &F::Inode, nowait| {
            wait(volume.map_delayed(info, pos as u64, len as u64), nowait)
        };
        // SAFETY: iomap passes an inode of ours, and a structure to fill.
        unsafe { Self::fill_found(inode, flags, iomap, find) }
    }

    /// # Safety
    ///
    /// Called by iomap alone, as the C declaration says.
    unsafe extern "C" fn begin_direct(
        inode: *mut ub::inode,
        pos: i64,
        len: i64,
        flags: c_uint,
        iomap: *mut ub::iomap,
        _source: *mut ub::iomap,
    ) -> c_int {
        let find = |volume: &F, info: &F::Inode, nowait| {
            let direct = |map: &FileMap| {
                matches!(map.kind, FileMapKind::Data(_) | FileMapKind::Unwritten(_))
            };
            match volume.direct_cached(info, pos as u64)?.filter(direct) {
                Some(map) => return Ok(map),
                None if nowait => return Err(EAGAIN),
                None => {}
            }
            let map = with_privilege(volume, |privileged| {
                block_on_nofs(volume.direct_begin(info, pos as u64, len as u64, privileged))?
            })?;
            // The page cache takes the rest.
            Some(map).filter(direct).ok_or(ENOTBLK)
        };
        // SAFETY: iomap passes an inode of ours, and a structure to fill.
        unsafe {
            let found = Self::fill_found(inode, flags, iomap, find);
            let this = Inode::<F>::new(inode);
            let (volume, info) = (this.volume(), this.info());
            // Then iomap has the file synced, and does not rely on the device alone.
            let end = (*iomap).offset as u64 + (*iomap).length;
            let end = end.min((pos + len) as u64);
            if found == 0 && (!volume.map_is_durable(info) || end > volume.disk_size(info)) {
                (*iomap).flags |= ub::IOMAP_F_DIRTY as u16;
            }
            found
        }
    }

    /// Gives back what a short write reserved.
    ///
    /// # Safety
    ///
    /// Called by iomap alone, as the C declaration says.
    unsafe extern "C" fn end(
        inode: *mut ub::inode,
        pos: i64,
        len: i64,
        written: isize,
        flags: c_uint,
        iomap: *mut ub::iomap,
    ) -> c_int {
        // SAFETY: iomap passes an inode of ours, and the map that `begin` filled.
        unsafe {
            let delayed = u32::from((*iomap).type_) == ub::IOMAP_DELALLOC;
            // A fault makes its page dirty, or reserves nothing.
            if !delayed
                || u32::from((*iomap).flags) & ub::IOMAP_F_NEW == 0
                || flags & ub::IOMAP_FAULT != 0
            {
                return 0;
            }
            let mask = (1i64 << (*inode).i_blkbits) - 1;
            let start = if written == 0 {
                pos & !mask
            } else {
                (pos + written as i64 + mask) & !mask
            };
            let end = (pos + len + mask) & !mask;
            if start < end {
                ub::upcall_invalidate_lock(inode);
                let punch: unsafe extern "C" fn(*mut ub::inode, i64, i64, *mut ub::iomap) =
                    Self::punch;
                ub::iomap_write_delalloc_release(inode, start, end, flags, iomap, Some(punch));
                ub::upcall_invalidate_unlock(inode);
            }
        }
        0
    }

    /// # Safety
    ///
    /// Called by iomap alone, as the C declaration says.
    unsafe extern "C" fn punch(inode: *mut ub::inode, pos: i64, len: i64, _iomap: *mut ub::iomap) {
        // SAFETY: iomap passes an inode of ours.
        let inode = unsafe { Inode::<F>::new(inode) };
        let (pos, end) = (pos as u64, (pos + len) as u64);
        // Without memory it stays reserved.
        let _ = block_on_nofs(inode.volume().write_undo(inode.info(), pos, end));
    }

    /// # Safety
    ///
    /// Called by iomap alone, as the C declaration says.
    unsafe extern "C" fn valid(inode: *mut ub::inode, iomap: *const ub::iomap) -> bool {
        // SAFETY: iomap passes an inode of ours, and the map that `begin` filled.
        unsafe {
            let inode = Inode::<F>::new(inode);
            (*iomap).validity_cookie == inode.volume().map_sequence(inode.info())
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn page_mkwrite(fault: *mut ub::vm_fault) -> ub::vm_fault_t {
        // SAFETY: The kernel passes a fault in a mapping of a file of ours.
        unsafe { ub::upcall_page_mkwrite(fault, Self::BUFFERED, Some(Self::prepare_fault)) }
    }

    /// Has a file whose data is in its inode get blocks, which takes a lock that comes before
    /// folios.
    ///
    /// # Safety
    ///
    /// Called by `upcall_page_mkwrite` alone, with an inode of ours.
    unsafe extern "C" fn prepare_fault(inode: *mut ub::inode) -> c_int {
        // SAFETY: By the function's contract.
        let inode = unsafe { Inode::<F>::new(inode) };
        let (volume, info) = (inode.volume(), inode.info());
        let left = with_privilege(volume, |privileged| {
            block_on_nofs(pinned(|| volume.leave_inline(info, privileged))?)?
        });
        left.map_or_else(|error| error.to_errno(), |()| 0)
    }

    /// What comes before a write, with the inode's lock held: how many bytes it may write, none
    /// among them; zeros between the end of the file and its start; times and privileges.
    ///
    /// # Safety
    ///
    /// The request is one to write a file of ours, and the inode's lock is held: exclusively if it
    /// is to grow.
    unsafe fn prepare(iocb: *mut ub::kiocb, from: *mut ub::iov_iter) -> Result<usize> {
        // SAFETY: By the function's contract.
        unsafe {
            let inode = (*(*iocb).ki_filp).f_inode;
            let count = ub::generic_write_checks(iocb, from);
            to_result(count.min(0) as c_int)?;
            if count == 0 {
                return Ok(0);
            }
            let size = ub::upcall_i_size_read(inode);
            if (*iocb).ki_pos > size {
                if (*iocb).ki_flags & ub::UPCALL_IOCB_NOWAIT != 0 {
                    return Err(EAGAIN);
                }
                // Those that end behind the size move it.
                ub::inode_dio_wait(inode);
                let size = ub::upcall_i_size_read(inode);
                if (*iocb).ki_pos > size {
                    ub::upcall_invalidate_lock(inode);
                    let zeroed = zero_behind::<F>(inode, size, (*iocb).ki_pos);
                    ub::upcall_invalidate_unlock(inode);
                    zeroed?;
                }
            }
            to_result(ub::kiocb_modified(iocb))?;
            Ok(count as usize)
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn write_iter(iocb: *mut ub::kiocb, from: *mut ub::iov_iter) -> isize {
        // SAFETY: The VFS passes a request to write to a file of ours.
        let written = unsafe {
            let inode = Inode::<F>::new((*(*iocb).ki_filp).f_inode);
            if (*iocb).ki_flags & ub::UPCALL_IOCB_DIRECT == 0 {
                Self::buffered(iocb, from)
            } else if inode.volume().is_direct(inode.info()) {
                Self::direct(iocb, from)
            } else {
                (*iocb).ki_flags &= !ub::UPCALL_IOCB_DIRECT;
                Self::buffered(iocb, from)
            }
        };
        written.unwrap_or_else(|error| error.to_errno() as isize)
    }

    /// # Safety
    ///
    /// As [`write_iter`](Self::write_iter).
    unsafe fn buffered(iocb: *mut ub::kiocb, from: *mut ub::iov_iter) -> Result<isize> {
        // SAFETY: By the function's contract.
        unsafe {
            let mut written = Self::buffered_once(iocb, from);
            let nowait = (*iocb).ki_flags & ub::UPCALL_IOCB_NOWAIT != 0;
            if written == Err(ENOSPC) && !nowait {
                // What is written needs less than what was reserved for it.
                ub::upcall_write_back_all((*(*(*iocb).ki_filp).f_inode).i_sb);
                written = Self::buffered_once(iocb, from);
            }
            let written = written?;
            if written == 0 {
                return Ok(0);
            }
            Ok(ub::upcall_write_sync(iocb, written))
        }
    }

    /// # Safety
    ///
    /// As [`write_iter`](Self::write_iter).
    unsafe fn buffered_once(iocb: *mut ub::kiocb, from: *mut ub::iov_iter) -> Result<isize> {
        // SAFETY: By the function's contract.
        unsafe {
            let inode = (*(*iocb).ki_filp).f_inode;
            let nowait = (*iocb).ki_flags & ub::UPCALL_IOCB_NOWAIT != 0;
            if !ub::upcall_inode_lock(inode, nowait) {
                return Err(EAGAIN);
            }
            let written = Self::prepare(iocb, from).and_then(|count| {
                if count == 0 {
                    return Ok(0);
                }
                let (ops, write) = (Self::BUFFERED, Self::WRITE);
                let written = ub::iomap_file_buffered_write(iocb, from, ops, write, null_mut());
                to_result(written.min(0) as c_int)?;
                Ok(written)
            });
            ub::upcall_inode_unlock(inode);
            written
        }
    }

    /// # Safety
    ///
    /// As [`write_iter`](Self::write_iter).
    unsafe fn direct(iocb: *mut ub::kiocb, from: *mut ub::iov_iter) -> Result<isize> {
        // SAFETY: By the function's contract.
        unsafe {
            let direct = Self::direct_only(iocb, from)?;
            let rest = ub::upcall_iov_iter_count(from);
            if direct < 0 || rest == 0 {
                return Ok(direct);
            }
            if (*iocb).ki_flags & ub::UPCALL_IOCB_NOWAIT != 0 {
                return if direct > 0 { Ok(direct) } else { Err(EAGAIN) };
            }
            // Through the page cache, and then out of it.
            (*iocb).ki_flags &= !ub::UPCALL_IOCB_DIRECT;
            let buffered = Self::buffered(iocb, from);
            (*iocb).ki_flags |= ub::UPCALL_IOCB_DIRECT;
            let buffered = buffered.unwrap_or_else(|error| error.to_errno() as isize);
            if buffered == 0 {
                return Ok(direct);
            }
            Ok(ub::direct_write_fallback(iocb, from, direct, buffered))
        }
    }

    /// Writes past the page cache as far as that goes. Returns how much, or `-EIOCBQUEUED`.
    ///
    /// # Safety
    ///
    /// As [`write_iter`](Self::write_iter).
    unsafe fn direct_only(iocb: *mut ub::kiocb, from: *mut ub::iov_iter) -> Result<isize> {
        // SAFETY: By the function's contract.
        unsafe {
            let inode = (*(*iocb).ki_filp).f_inode;
            let nowait = (*iocb).ki_flags & ub::UPCALL_IOCB_NOWAIT != 0;
            let mask = (1usize << (*inode).i_blkbits) - 1;
            let mut shared = ub::upcall_inode_is_nosec(inode);
            loop {
                let locked = if shared {
                    ub::upcall_inode_lock_shared(inode, nowait)
                } else {
                    ub::upcall_inode_lock(inode, nowait)
                };
                if !locked {
                    return Err(EAGAIN);
                }
                let unlock = move || {
                    if shared {
                        ub::upcall_inode_unlock_shared(inode);
                    } else {
                        ub::upcall_inode_unlock(inode);
                    }
                };
                let append = (*iocb).ki_flags & ub::UPCALL_IOCB_APPEND != 0;
                let (pos, len) = ((*iocb).ki_pos, ub::upcall_iov_iter_count(from));
                let end = pos.checked_add(len as i64).unwrap_or(i64::MAX);
                let grows = append || end > ub::upcall_i_size_read(inode);
                // Blocks that are written in part are zeroed around it: one at a time.
                let partial = append || (pos as usize | len) & mask != 0;
                if shared && (grows || partial) {
                    unlock();
                    shared = false;
                    continue;
                }
                let written = Self::prepare(iocb, from).map(|count| {
                    if count == 0 {
                        return 0;
                    }
                    let mut flags = 0;
                    if grows || partial {
                        ub::inode_dio_wait(inode);
                        flags |= ub::IOMAP_DIO_FORCE_WAIT;
                    }
                    if ub::upcall_stable_writes(inode) {
                        flags |= ub::IOMAP_DIO_BOUNCE;
                    }
                    let (ops, end) = (Self::DIRECT, Self::DIRECT_END);
                    ub::iomap_dio_rw(iocb, from, ops, end, flags, null_mut(), 0)
                });
                unlock();
                let written = written?;
                if written == ENOTBLK.to_errno() as isize {
                    return Ok(0);
                }
                if written < 0 && written != EIOCBQUEUED.to_errno() as isize {
                    return Err(Error::from_errno(written as c_int));
                }
                return Ok(written);
            }
        }
    }

    /// # Safety
    ///
    /// Called by iomap alone, as the C declaration says.
    unsafe extern "C" fn direct_end(
        iocb: *mut ub::kiocb,
        size: isize,
        error: c_int,
        flags: c_uint,
    ) -> c_int {
        // SAFETY: iomap passes a request to write to a file of ours; one that makes the file grow
        // has the inode's lock.
        unsafe {
            if error != 0 || size == 0 {
                return error;
            }
            let raw = (*(*iocb).ki_filp).f_inode;
            let inode = Inode::<F>::new(raw);
            let (volume, info) = (inode.volume(), inode.info());
            let mask = (1u64 << (*raw).i_blkbits) - 1;
            let pos = (*iocb).ki_pos as u64;
            let end = pos + size as u64;
            let grows = end > ub::upcall_i_size_read(raw) as u64;
            // The disk may know of a smaller size than the VFS: writeback is to come.
            if end > volume.disk_size(info) || flags & ub::IOMAP_DIO_UNWRITTEN != 0 {
                let (first, behind) = (pos & !mask, (end + mask) & !mask);
                let done = volume.write_done(info, first, behind, true, end);
                if let Err(error) = block_on_nofs(done).and_then(|done| done) {
                    return error.to_errno();
                }
                refresh(&inode);
            }
            if grows {
                ub::upcall_i_size_write(raw, end as i64);
            }
        }
        0
    }
}

/// Writes zeros to what a file has from `pos` on, in the page cache. Holes stay.
///
/// # Safety
///
/// `inode` is a regular file of ours; its lock and its `invalidate_lock` are held exclusively.
pub(crate) unsafe fn zero_range<F: FileSystem>(
    inode: *mut ub::inode,
    pos: i64,
    len: i64,
) -> Result<bool> {
    // SAFETY: By the function's contract.
    let this = unsafe { Inode::<F>::new(inode) };
    if this.volume().attr(this.info()).inline {
        // What lies in the inode has no block.
        return Ok(false);
    }
    let mut did = false;
    let (ops, write) = (Ops::<F>::DELAYED, Ops::<F>::WRITE);
    // SAFETY: By the function's contract.
    to_result(unsafe { ub::iomap_zero_range(inode, pos, len, &mut did, ops, write, null_mut()) })?;
    Ok(did)
}

/// Zeroes what there may be between the end of a file, `size`, and `until`, where it will go on.
///
/// That is in the page that has the end: a program may have written there by a mapping. What is in
/// the pages behind was never written, whether there is space for it or not.
///
/// # Safety
///
/// As for [`zero_range`].
pub(crate) unsafe fn zero_behind<F: FileSystem>(
    inode: *mut ub::inode,
    size: i64,
    until: i64,
) -> Result<bool> {
    const PAGE: i64 = kernel::page::PAGE_SIZE as i64;
    let rest = (PAGE - size % PAGE) % PAGE;
    match rest.min(until.saturating_sub(size)) {
        // SAFETY: By the function's contract.
        len @ 1.. => unsafe { zero_range::<F>(inode, size, len) },
        _ => Ok(false),
    }
}

/// The operations that reserve nothing, and see what is delayed.
pub(crate) fn delayed<F: FileSystem>() -> &'static ub::iomap_ops {
    Ops::<F>::DELAYED
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn write_iter<F: FileSystem>(
    iocb: *mut ub::kiocb,
    from: *mut ub::iov_iter,
) -> isize {
    // SAFETY: As the caller's.
    unsafe { Ops::<F>::write_iter(iocb, from) }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn mmap_prepare<F: FileSystem>(area: *mut ub::vm_area_desc) -> c_int {
    // SAFETY: The VFS passes a mapping to be made of a file of ours.
    unsafe { ub::upcall_mmap_prepare(area, Ops::<F>::MAPPING) }
}
