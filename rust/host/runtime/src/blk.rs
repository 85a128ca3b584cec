// SPDX-License-Identifier: GPL-2.0

//! The simulation's block layer: bios go to the [`BlockDevice`](kernel::block::BlockDevice) behind
//! a device.

use super::{machine, on_worker, read_section, Result};
use crate::bio::{end_io, Head};
use core::ffi::CStr;
use core::ptr::NonNull;
use kernel::block::{BioOp, Status};
use kernel::prelude::*;

pub(crate) use kernel::bindings::{block_device as RawDevice, page as RawPage};

// The numbers are the kernel's, so far as `bio` relies on them.
pub(crate) const OP_READ: u32 = 0;
pub(crate) const OP_WRITE: u32 = 1;
pub(crate) const OP_DISCARD: u32 = 3;
pub(crate) const OP_WRITE_ZEROES: u32 = 9;
pub(crate) const SYNC: u32 = 1 << 11;
pub(crate) const META: u32 = 1 << 12;
pub(crate) const PRIO: u32 = 1 << 13;
pub(crate) const NOMERGE: u32 = 1 << 14;
pub(crate) const IDLE: u32 = 1 << 15;
pub(crate) const FUA: u32 = 1 << 17;
pub(crate) const PREFLUSH: u32 = 1 << 18;
pub(crate) const NOWAIT: u32 = 1 << 21;
pub(crate) const SECTOR_SHIFT: u32 = kernel::bindings::SECTOR_SHIFT;

const OP_MASK: u32 = 0xff;

/// An entry of a table of segments.
pub(crate) struct BioVec(NonNull<RawPage>, u32, u32);

pub(crate) fn bio_vec(page: NonNull<RawPage>, offset: u32, len: u32) -> BioVec {
    BioVec(page, offset, len)
}

pub(crate) fn set_part(entry: &mut BioVec, offset: u32, len: u32) {
    (entry.1, entry.2) = (offset, len);
}

pub(crate) struct Ask {
    pub(crate) opf: u32,
    pub(crate) sector: u64,
    pub(crate) size: u32,
    pub(crate) priority: u16,
    pub(crate) bdev: NonNull<RawDevice>,
    pub(crate) table: *mut BioVec,
    pub(crate) segments: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done(i32),
    Refused,
}

/// A bio inside of a request: the machine's is made when it is submitted.
pub(crate) struct Bio(());

/// A request whose bio is out, and which stays until it has ended.
struct Out(NonNull<Head>);

// SAFETY: A request may be ended by any thread.
unsafe impl Send for Out {}

impl Out {
    /// # Safety
    ///
    /// The bio is out, and is not any more.
    unsafe fn end(self, status: Status) {
        let end = match status {
            Status::Ok => End::Done(0),
            Status::Again => End::Refused,
            Status::Error(errno) => End::Done(errno),
        };
        let section = read_section();
        // SAFETY: By the function's contract.
        unsafe { end_io(self.0, end, &section) };
    }
}

impl Bio {
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// # Safety
    ///
    /// As in the kernel.
    pub(crate) unsafe fn submit(&self, head: NonNull<Head>, ask: &Ask, _root: bool) {
        assert!(
            !machine::in_interrupt(),
            "a bio is submitted in interrupt context"
        );
        let nowait = ask.opf & NOWAIT != 0;
        assert!(nowait || !on_worker(), "a worker may wait for a device");
        let op = match ask.opf & OP_MASK {
            OP_READ => BioOp::Read,
            OP_WRITE => BioOp::Write,
            OP_DISCARD => BioOp::Discard,
            OP_WRITE_ZEROES => BioOp::WriteZeroes,
            op => panic!("no operation: {op}"),
        };
        let segments = (0..usize::from(ask.segments))
            .map(|n| {
                // SAFETY: The table has so many entries.
                let BioVec(page, offset, len) = unsafe { &*ask.table.add(n) };
                // SAFETY: The part is in the memory that begins with the page.
                let start = unsafe { page.cast::<u8>().add(*offset as usize) };
                (start, *len)
            })
            .collect();
        let out = Out(head);
        let bio = kernel::block::Bio {
            op,
            preflush: ask.opf & PREFLUSH != 0,
            fua: ask.opf & FUA != 0,
            nowait,
            sector: ask.sector,
            size: ask.size,
            segments,
            // SAFETY: It is called once.
            end: Box::new(move |status| unsafe { out.end(status) }),
        };
        // SAFETY: The device is open.
        unsafe { ask.bdev.as_ref() }.0.submit(bio);
    }

    /// # Safety
    ///
    /// As in the kernel.
    pub(crate) unsafe fn trace_end(&self, _sector: impl FnOnce() -> u64, _errno: i32) {}
}

pub(crate) struct Traits {
    pub(crate) logical_block_size: u32,
    pub(crate) nowait: bool,
    pub(crate) depth: Option<usize>,
}

/// # Safety
///
/// The device is open. So in the next.
pub(crate) unsafe fn traits(bdev: NonNull<RawDevice>) -> Traits {
    // SAFETY: By the function's contract.
    let device = unsafe { bdev.as_ref() };
    Traits {
        logical_block_size: device.0.logical_block_size(),
        nowait: device.0.nowait(),
        depth: device.0.depth(),
    }
}

/// # Safety
///
/// As above.
pub(crate) unsafe fn size(bdev: NonNull<RawDevice>) -> u64 {
    // SAFETY: By the function's contract.
    unsafe { bdev.as_ref() }.0.size()
}

/// Nothing is opened by name here.
pub(crate) struct OpenFile(core::convert::Infallible);

pub(crate) fn open(_path: &CStr, _write: bool) -> Result<(OpenFile, NonNull<RawDevice>)> {
    Err(ENOENT)
}
