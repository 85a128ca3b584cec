// SPDX-License-Identifier: GPL-2.0

//! The page cache, by the kernel's iomap library with our map under it.
//!
//! C header: [`include/linux/iomap.h`](srctree/include/linux/iomap.h).
//!
//! For data there are two tables of [`iomap_ops`](ub::iomap_ops): *blocking* finds the map of the wanted range,
//! and reads it with `block_on` if it is not in memory (unless the caller said `IOMAP_NOWAIT`); *found* is told
//! by readahead what it found before.
//!
//! # Readahead
//!
//! `readahead` only starts work. If the map is in memory, the bios go out at once. Else the folios, which are
//! locked, move to an upcall that reads the map and then has the volume's blocking worker send the bios, by the map
//! that was found: whether it is still in memory then does not matter. The caller never waits for metadata; whoever wants the data waits for the folio lock, as always. Without memory
//! for the upcall the folios are left to the VFS, which unlocks them, and `read_folio` reads them.
//!
//! The upcall uses the inode without a reference: the inode's count of readahead under way keeps
//! `evict` from finishing (see [`inode`](crate::inode)). So an upcall never has to drop the last reference on
//! an inode, which may sleep.

use crate::attr::FileType;
use crate::fs::{FileSystem, FileSystemType};
use crate::inode::Inode;
use crate::{write, writeback};
use core::future::Future;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::error::from_result;
use kernel::ffi::{c_int, c_uint, c_void};
use kernel::prelude::*;
use upcall::block_on;
use upcall_bindings as ub;

/// What `address_space_operations` and iomap need of files.
#[vtable]
pub trait AddressSpaceOperations: FileSystemType {
    /// Where the bytes of a file from `pos` on are: the map covers `pos` and at least one byte.
    fn map(
        &self,
        inode: &Self::Inode,
        pos: u64,
        len: u64,
    ) -> impl Future<Output = Result<Self::Map>> + Send;

    /// As [`map`](Self::map), from memory alone. Does not wait.
    fn map_cached(&self, inode: &Self::Inode, pos: u64, len: u64) -> Option<Self::Map>;

    /// Where the extended attributes of an inode are, for `FIEMAP`; `None` if there are none.
    fn map_xattr(&self, inode: &Self::Inode) -> Option<Self::Map>;

    /// The first byte behind what `map` is about.
    fn map_end(map: &Self::Map) -> u64;

    /// Tells iomap what `map` says. What lies in memory stays as long as the inode has users.
    fn fill_iomap(inode: &Self::Inode, map: &Self::Map, iomap: &mut Iomap<'_>);
}

/// What iomap has for an address where there is none: `IOMAP_NULL_ADDR`.
pub(crate) const NO_ADDRESS: u64 = u64::MAX;

/// What iomap calls for a map.
type Begin =
    unsafe extern "C" fn(*mut ub::inode, i64, i64, c_uint, *mut ub::iomap, *mut ub::iomap) -> c_int;

/// The operations that find a map, and have nothing to do at its end.
pub(crate) const fn begin_only(begin: Begin) -> ub::iomap_ops {
    ub::iomap_ops {
        iomap_begin: Some(begin),
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    }
}

/// The functions that C calls.
struct Ops<F>(PhantomData<F>);

impl<F: FileSystem> Ops<F> {
    const PAGES: &'static ub::address_space_operations = &ub::address_space_operations {
        read_folio: Some(Self::read_folio),
        readahead: Some(Self::readahead),
        bmap: Some(Self::bmap),
        writepages: Some(writeback::writepages::<F>),
        dirty_folio: Some(ub::iomap_dirty_folio),
        invalidate_folio: Some(ub::iomap_invalidate_folio),
        release_folio: Some(ub::iomap_release_folio),
        is_partially_uptodate: Some(ub::iomap_is_partially_uptodate),
        migrate_folio: Some(ub::filemap_migrate_folio),
        error_remove_folio: Some(ub::generic_error_remove_folio),
        swap_activate: Some(Self::swap_activate),
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    };

    const BLOCKING: &'static ub::iomap_ops = &begin_only(Self::begin_blocking);

    const XATTR: &'static ub::iomap_ops = &begin_only(Self::begin_xattr);

    const FOUND: &'static ub::iomap_ops = &begin_only(Self::begin_found);

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn read_folio(_file: *mut ub::file, folio: *mut ub::folio) -> c_int {
        // SAFETY: The VFS passes a locked folio of a file of ours.
        unsafe { ub::upcall_bio_read_folio(folio, Self::BLOCKING) };
        0
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn bmap(mapping: *mut ub::address_space, block: u64) -> u64 {
        // SAFETY: The VFS passes a mapping of a file of ours.
        unsafe { ub::iomap_bmap(mapping, block, Self::BLOCKING) }
    }

    /// A file that is used for swap: where its blocks are. What is delayed is written first, and a
    /// hole, or data in the inode, is refused with a line in the log.
    ///
    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    #[cfg(CONFIG_SWAP)]
    unsafe extern "C" fn swap_activate(
        swap: *mut ub::swap_info_struct,
        file: *mut ub::file,
        span: *mut u64,
    ) -> c_int {
        // SAFETY: The kernel passes a file of ours, whose lock is held.
        unsafe {
            let maps = reported(&Inode::<F>::new((*file).f_inode));
            ub::iomap_swapfile_activate(swap, file, span, maps)
        }
    }

    /// # Safety
    ///
    /// Nobody calls it.
    #[cfg(not(CONFIG_SWAP))]
    unsafe extern "C" fn swap_activate(
        _swap: *mut ub::swap_info_struct,
        _file: *mut ub::file,
        _span: *mut u64,
    ) -> c_int {
        EINVAL.to_errno()
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn readahead(rac: *mut ub::readahead_control) {
        // SAFETY: The VFS passes a request whose folios are locked, of a file of ours.
        let (inode, pos, len) = unsafe {
            let raw = NonNull::new_unchecked((*(*rac).mapping).host);
            (
                raw,
                ub::upcall_readahead_pos(rac),
                ub::upcall_readahead_length(rac),
            )
        };
        // SAFETY: The folios are locked, so the inode is there.
        let this = unsafe { Inode::<F>::new(inode.as_ptr()) };
        let mut found = Found::<F>::new();
        let end = pos + len;
        if found
            .add_cached(this.volume(), this.info(), pos, end)
            .is_some()
        {
            // SAFETY: As above. What was found stays until the end of the call.
            unsafe { ub::upcall_bio_readahead(rac, Self::FOUND, found.as_ptr()) };
            return;
        }
        let (volume, info) = (this.volume().clone(), this.info().clone());
        // SAFETY: As above.
        let readahead = unsafe { Readahead::<F>::take(&this, rac) };
        // Without memory the future, and with it the folios, are dropped here.
        let _ = this.volume().disk().spawner().spawn(async move {
            while let Some(at) = found.end(pos).filter(|&at| at < end) {
                let map = volume.map(&info, at, end - at).await;
                // Whoever reads the folio gets the error.
                if map.and_then(|map| found.add(map)).is_err() {
                    break;
                }
            }
            // Sending bios may wait for the device.
            let _ = volume
                .disk()
                .spawner()
                .spawn_blocking(move || readahead.submit(&found));
        });
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn begin_blocking(
        inode: *mut ub::inode,
        pos: i64,
        len: i64,
        flags: c_uint,
        iomap: *mut ub::iomap,
        _source: *mut ub::iomap,
    ) -> c_int {
        from_result(|| {
            // SAFETY: iomap passes an inode of ours.
            let inode = unsafe { Inode::<F>::new(inode) };
            let (volume, info) = (inode.volume(), inode.info());
            let (pos, len) = (pos as u64, len as u64);
            let mapping = match volume.map_cached(info, pos, len) {
                Some(mapping) => mapping,
                None if flags & ub::IOMAP_NOWAIT != 0 => return Err(EAGAIN),
                None => block_on(volume.map(info, pos, len))??,
            };
            // SAFETY: iomap passes a structure to fill.
            unsafe { fill(volume, info, &mapping, iomap) };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn begin_xattr(
        inode: *mut ub::inode,
        pos: i64,
        _len: i64,
        _flags: c_uint,
        iomap: *mut ub::iomap,
        _source: *mut ub::iomap,
    ) -> c_int {
        from_result(|| {
            // SAFETY: iomap passes an inode of ours.
            let inode = unsafe { Inode::<F>::new(inode) };
            let (volume, info) = (inode.volume(), inode.info());
            let mapping = volume
                .map_xattr(info)
                .filter(|map| F::map_end(map) > pos as u64);
            // SAFETY: iomap passes a structure to fill.
            unsafe { fill(volume, info, &mapping.ok_or(ENOENT)?, iomap) };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn begin_found(
        inode: *mut ub::inode,
        pos: i64,
        _len: i64,
        _flags: c_uint,
        iomap: *mut ub::iomap,
        _source: *mut ub::iomap,
    ) -> c_int {
        from_result(|| {
            // SAFETY: iomap passes an inode of ours, and the map of an iteration, whose private data is
            // what `upcall_bio_readahead` was given.
            let (inode, found) = unsafe {
                let found: *const Found<F> = ub::upcall_iomap_private(iomap).cast();
                (Inode::<F>::new(inode), &*found)
            };
            let map = found.at(pos as u64).ok_or(EAGAIN)?;
            // SAFETY: iomap passes a structure to fill.
            unsafe { fill(inode.volume(), inode.info(), map, iomap) };
            Ok(0)
        })
    }
}

/// What readahead found of a file's map: parts that follow each other.
///
/// Most often it is one, which needs no memory.
struct Found<F: FileSystem> {
    first: Option<F::Map>,
    more: KVec<F::Map>,
}

impl<F: FileSystem> Found<F> {
    fn new() -> Self {
        Self {
            first: None,
            more: KVec::new(),
        }
    }

    fn as_ptr(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// Where what was found ends; `start` if nothing was.
    fn end(&self, start: u64) -> Option<u64> {
        let last = self.more.last().or(self.first.as_ref());
        Some(last.map_or(start, F::map_end))
    }

    fn add(&mut self, map: F::Map) -> Result {
        if self.first.is_none() {
            self.first = Some(map);
            return Ok(());
        }
        Ok(self.more.push(map, disk::gfp())?)
    }

    /// Adds what is in memory of the map from `pos` to `end`. `None` if that is not all.
    fn add_cached(&mut self, volume: &F, info: &F::Inode, pos: u64, end: u64) -> Option<()> {
        let mut at = pos;
        while at < end {
            let map = volume.map_cached(info, at, end - at)?;
            at = F::map_end(&map);
            self.add(map).ok()?;
        }
        Some(())
    }

    /// The part that has byte `pos`.
    fn at(&self, pos: u64) -> Option<&F::Map> {
        let first = self.first.as_ref().filter(|map| F::map_end(map) > pos);
        first.or_else(|| {
            let before = self.more.partition_point(|map| F::map_end(map) <= pos);
            self.more.get(before)
        })
    }
}

/// # Safety
///
/// `iomap` is valid. `info` lives as long as it is used: its VFS inode has a reference on it.
unsafe fn fill<F: FileSystem>(volume: &F, info: &F::Inode, map: &F::Map, iomap: *mut ub::iomap) {
    // SAFETY: By the function's contract.
    let iomap = unsafe { &mut *iomap };
    iomap.flags = 0;
    iomap.bdev = volume.disk().device().as_ptr().cast();
    F::fill_iomap(info, map, &mut Iomap(iomap));
}

/// What iomap is told of a part of a file.
///
/// C header: [`include/linux/iomap.h`](srctree/include/linux/iomap.h).
pub struct Iomap<'a>(&'a mut ub::iomap);

impl Iomap<'_> {
    fn set(&mut self, kind: u32, offset: u64, len: u64, addr: u64) {
        self.0.type_ = kind as u16;
        self.0.offset = offset as i64;
        self.0.length = len;
        self.0.addr = addr;
    }

    /// The `len` bytes from byte `offset` of the file on are a hole.
    pub fn hole(&mut self, offset: u64, len: u64) {
        self.set(ub::IOMAP_HOLE, offset, len, NO_ADDRESS);
    }

    /// The bytes are on the device, from byte `addr` on.
    pub fn mapped(&mut self, offset: u64, len: u64, addr: u64) {
        self.set(ub::IOMAP_MAPPED, offset, len, addr);
    }

    /// The bytes have space on the device, from byte `addr` on, that was never written.
    pub fn unwritten(&mut self, offset: u64, len: u64, addr: u64) {
        self.set(ub::IOMAP_UNWRITTEN, offset, len, addr);
    }

    /// The bytes are those at `data`, which crosses no page, and are in an inode at byte `addr` of the device.
    pub fn inline(&mut self, offset: u64, len: u64, addr: u64, data: &[u8]) {
        self.set(ub::IOMAP_INLINE, offset, len, addr);
        self.0.inline_data = data.as_ptr().cast_mut().cast();
    }
}

/// The folios of a readahead request, locked, and the promise that their inode stays.
///
/// # Cancellation
///
/// Dropping it unlocks the folios unread; whoever needs one reads it.
struct Readahead<F> {
    rac: ub::readahead_control,
    reading: NonNull<ub::atomic_t>,
    fs: PhantomData<fn() -> F>,
}

// SAFETY: Locked folios may be read and unlocked by any thread.
unsafe impl<F> Send for Readahead<F> {}

impl<F: FileSystem> Readahead<F> {
    /// # Safety
    ///
    /// `rac` is a request of the VFS for the file `inode`.
    unsafe fn take(inode: &Inode<'_, F>, rac: *mut ub::readahead_control) -> Self {
        let mut taken = ub::readahead_control::default();
        let reading = inode.reading();
        // SAFETY: By the function's contract. The folios are locked, so the inode is not evicted
        // before the count says that we use it.
        unsafe {
            ub::upcall_users_enter(reading);
            ub::upcall_readahead_take(&mut taken, rac);
            Self {
                rac: taken,
                reading: NonNull::new_unchecked(reading),
                fs: PhantomData,
            }
        }
    }

    /// Sends the bios. What is not in `found` is unlocked unread.
    fn submit(mut self, found: &Found<F>) {
        // SAFETY: The folios are locked, and the inode stays; so does what was found.
        unsafe { ub::upcall_bio_readahead(&mut self.rac, Ops::<F>::FOUND, found.as_ptr()) };
    }
}

impl<F> Drop for Readahead<F> {
    fn drop(&mut self) {
        // SAFETY: What is left of the request is ours. The inode may go after the last line.
        unsafe {
            ub::upcall_readahead_drop_rest(&mut self.rac);
            ub::upcall_users_leave(self.reading.as_ptr());
        }
    }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn fiemap<F: FileSystem>(
    inode: *mut ub::inode,
    info: *mut ub::fiemap_extent_info,
    start: u64,
    len: u64,
) -> c_int {
    // SAFETY: The VFS passes an inode of ours.
    unsafe {
        let mut maps = reported::<F>(&Inode::new(inode));
        if (*info).fi_flags & ub::FIEMAP_FLAG_XATTR != 0 {
            (*info).fi_flags &= !ub::FIEMAP_FLAG_XATTR;
            maps = Ops::<F>::XATTR;
        }
        ub::upcall_inode_lock_shared(inode, false);
        let result = ub::iomap_fiemap(inode, info, start, len, maps);
        ub::upcall_inode_unlock_shared(inode);
        result
    }
}

pub(crate) fn operations<F: FileSystem>() -> &'static ub::address_space_operations {
    Ops::<F>::PAGES
}

pub(crate) fn blocking<F: FileSystem>() -> &'static ub::iomap_ops {
    Ops::<F>::BLOCKING
}

/// The operations for those who ask where a file's bytes are.
pub(crate) fn reported<F: FileSystem>(inode: &Inode<'_, F>) -> &'static ub::iomap_ops {
    let attr = inode.volume().attr(inode.info());
    if attr.file_type == FileType::Regular && !attr.inline {
        write::delayed::<F>()
    } else {
        blocking::<F>()
    }
}
