// SPDX-License-Identifier: GPL-2.0

//! The kernel's block layer, as [`bio`](crate::bio) and [`device`](crate::device) use it.
//!
//! C headers: [`include/linux/bio.h`](srctree/include/linux/bio.h),
//! [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h).
//!
//! The host has a device of its own in its place, which refuses, waits and completes as a test says.

use super::ReadSection;
use crate::bio::{end_io as ended, Head};
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::types::Opaque;
use upcall_bindings as ub;

pub(crate) use kernel::bindings::{block_device as RawDevice, page as RawPage};
pub(crate) use ub::{
    req_op_REQ_OP_DISCARD as OP_DISCARD, req_op_REQ_OP_READ as OP_READ,
    req_op_REQ_OP_WRITE as OP_WRITE, req_op_REQ_OP_WRITE_ZEROES as OP_WRITE_ZEROES,
    UPCALL_REQ_FUA as FUA, UPCALL_REQ_IDLE as IDLE, UPCALL_REQ_META as META,
    UPCALL_REQ_NOMERGE as NOMERGE, UPCALL_REQ_NOWAIT as NOWAIT, UPCALL_REQ_PREFLUSH as PREFLUSH,
    UPCALL_REQ_PRIO as PRIO, UPCALL_REQ_SYNC as SYNC,
};

/// `log2` of the size of a sector.
pub(crate) const SECTOR_SHIFT: u32 = bindings::SECTOR_SHIFT;

/// An entry of a table of segments.
pub(crate) type BioVec = ub::bio_vec;

/// The entry of `len` bytes from byte `offset` of `page` on.
pub(crate) fn bio_vec(page: NonNull<RawPage>, offset: u32, len: u32) -> BioVec {
    BioVec {
        bv_page: page.as_ptr().cast(),
        bv_len: len,
        bv_offset: offset,
    }
}

/// Makes an entry another part of its page.
pub(crate) fn set_part(entry: &mut BioVec, offset: u32, len: u32) {
    entry.bv_offset = offset;
    entry.bv_len = len;
}

/// What a bio is to ask.
pub(crate) struct Ask {
    /// Operation and flags.
    pub(crate) opf: u32,
    pub(crate) sector: u64,
    /// In bytes.
    pub(crate) size: u32,
    /// 0 for that of the thread.
    pub(crate) priority: u16,
    pub(crate) bdev: NonNull<RawDevice>,
    /// Null if there are no segments.
    pub(crate) table: *mut BioVec,
    pub(crate) segments: u16,
}

/// How a bio ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As this error number says, or well with 0.
    Done(i32),
    /// It was not begun, since that would have waited.
    Refused,
}

/// A bio inside of a request.
pub(crate) struct Bio(Opaque<ub::bio>);

impl Bio {
    /// One that is not out.
    pub(crate) fn new() -> Self {
        Self(Opaque::uninit())
    }

    /// Submits it, as if the calling thread asked, or as if a thread of the kernel did if `root`.
    ///
    /// # Safety
    ///
    /// It is not out, and stays, with what `ask` points to, until [`ended`] was called for `head`.
    #[inline(always)] // Into the one that submits, and the one that submits again.
    pub(crate) unsafe fn submit(&self, head: NonNull<Head>, ask: &Ask, root: bool) {
        let bio = self.0.get();
        let bdev: *mut ub::block_device = ask.bdev.as_ptr().cast();
        // SAFETY: By the function's contract the bio is ours, and the table has so many entries.
        unsafe {
            if root {
                // To say whose it is is cheaper than to let the kernel find out.
                let none = core::ptr::null_mut();
                ub::bio_init(bio, none, ask.table, ask.segments, ask.opf);
                (*bio).bi_bdev = bdev;
                #[cfg(CONFIG_BLK_CGROUP)]
                ub::bio_associate_blkg_from_css(bio, ub::blkcg_root_css);
            } else {
                ub::bio_init(bio, bdev, ask.table, ask.segments, ask.opf);
            }
            (*bio).bi_vcnt = ask.segments;
            (*bio).bi_iter.bi_sector = ask.sector;
            (*bio).bi_iter.bi_size = ask.size;
            (*bio).bi_ioprio = ask.priority;
            (*bio).bi_end_io = Some(end_io);
            (*bio).bi_private = head.as_ptr().cast();
            super::trace::bio_submit(bio);
            ub::submit_bio(bio);
        }
    }

    /// Tells those who trace that it is done.
    ///
    /// # Safety
    ///
    /// It was submitted, and has ended.
    #[inline(always)]
    pub(crate) unsafe fn trace_end(&self, sector: impl FnOnce() -> u64, errno: i32) {
        // SAFETY: By the function's contract it is initialised.
        unsafe { super::trace::bio_complete(self.0.get(), sector, errno) };
    }
}

/// The bio's completion.
///
/// # Safety
///
/// `bio` was submitted by [`Bio::submit`], and has ended. Any context.
#[inline(never)] // Its address is taken in generic code, and must be that of the runtime's own text.
unsafe extern "C" fn end_io(bio: *mut ub::bio) {
    // The module's exit waits for us.
    let section: ReadSection = super::read_section();
    // SAFETY: `submit` set `bi_private`, and the bio is ours until `ended`.
    unsafe {
        let head = NonNull::new_unchecked((*bio).bi_private.cast::<Head>());
        ub::bio_uninit(bio);
        let status = (*bio).bi_status;
        let nowait = (*bio).bi_opf & ub::UPCALL_REQ_NOWAIT != 0;
        let end = match status {
            0 => End::Done(0),
            // A stacked device may lose the ability while we use it.
            ub::UPCALL_BLK_STS_AGAIN | ub::UPCALL_BLK_STS_NOTSUPP if nowait => End::Refused,
            _ => End::Done(ub::upcall_blk_status_to_errno(status)),
        };
        ended(head, end, &section);
    }
}

/// What a device is asked for once, when it becomes known.
pub(crate) struct Traits {
    pub(crate) logical_block_size: u32,
    /// Whether a request that may not wait is begun, or refused, without a wait.
    pub(crate) nowait: bool,
    /// How many requests it can have in flight, if it has a number.
    pub(crate) depth: Option<usize>,
}

/// # Safety
///
/// The device is open. So in the next.
pub(crate) unsafe fn traits(bdev: NonNull<RawDevice>) -> Traits {
    let bdev = bdev.as_ptr().cast();
    // SAFETY: By the function's contract.
    unsafe {
        let depth = ub::upcall_bdev_depth(bdev) as usize;
        Traits {
            logical_block_size: ub::upcall_logical_block_size(bdev),
            nowait: ub::upcall_bdev_nowait(bdev),
            depth: (depth != 0).then_some(depth),
        }
    }
}

/// The size in bytes.
///
/// # Safety
///
/// As above.
pub(crate) unsafe fn size(bdev: NonNull<RawDevice>) -> u64 {
    // SAFETY: By the function's contract.
    unsafe { ub::upcall_bdev_size(bdev.as_ptr().cast()) }
}

/// A device's open file.
pub(crate) type OpenFile = ARef<File>;

/// Opens the device at `path`. May sleep.
pub(crate) fn open(path: &CStr, write: bool) -> Result<(OpenFile, NonNull<RawDevice>)> {
    // SAFETY: The path is a C string.
    let file = from_err_ptr(unsafe { ub::upcall_open_bdev(path.as_char_ptr(), write) })?;
    // SAFETY: The file was opened, and its reference is ours. It belongs to no thread's table of
    // files, so that nobody uses its position.
    let file: OpenFile = unsafe { ARef::from_raw(NonNull::new_unchecked(file.cast())) };
    // SAFETY: The file is that of a block device.
    let bdev = unsafe { ub::upcall_file_bdev(file.as_ptr().cast()) };
    // SAFETY: An open file has a device.
    Ok((file, unsafe { NonNull::new_unchecked(bdev.cast()) }))
}
