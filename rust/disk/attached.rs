// SPDX-License-Identifier: GPL-2.0

//! [`Attached`]: what of a file is in the page cache, for readers without a VFS inode.
//!
//! C header: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h).
//!
//! # Concurrency
//!
//! An `InodeInfo` has at most one VFS inode: the VFS makes the next only when it has evicted the
//! one before. The VFS inode is published when it is attached and taken back when it is evicted.
//! Its memory is freed after a grace period of RCU that begins later, so that whoever finds the
//! pointer inside a read section may use it there: to look for a folio, and take a reference on that,
//! or to bring copies of attributes up to date. A folio that is truncated at the same time keeps its
//! bytes as long as there are references.
//!
//! A VFS inode is filled when it is published, and a change looks for it when it was made, both under
//! the lock of the copy in memory: so one of the two sees the other.

use crate::time::Now;
use core::ptr::{null_mut, NonNull};
use kernel::sync::atomic::{Acquire, Atomic, Relaxed, Release};
use kernel::sync::rcu;
use upcall_bindings as ub;

/// The VFS inode of an `InodeInfo`, if there is one: its pages are read by those who have none.
pub struct Attached(Atomic<*mut ub::inode>);

impl Default for Attached {
    fn default() -> Self {
        Self::new()
    }
}

impl Attached {
    /// Makes the part of an `InodeInfo` that has no VFS inode.
    pub const fn new() -> Self {
        Self(Atomic::new(null_mut()))
    }

    /// Publishes the inode.
    ///
    /// # Safety
    ///
    /// `inode` is freed after a grace period that begins after [`clear`](Self::clear).
    pub unsafe fn set(&self, inode: *mut ub::inode) {
        self.0.store(inode, Release);
    }

    /// The inode is being evicted.
    pub fn clear(&self) {
        self.0.store(null_mut(), Relaxed);
    }

    /// Whether there is a VFS inode. Does not sleep.
    #[inline]
    pub fn is_set(&self) -> bool {
        !self.0.load(Acquire).is_null()
    }

    /// Whether the page cache has any page of the file. Does not sleep.
    pub fn has_pages(&self) -> bool {
        let _rcu = rcu::read_lock();
        let inode = self.0.load(Acquire);
        // SAFETY: The read section keeps an inode that is found in it.
        !inode.is_null() && unsafe { ub::upcall_has_pages(inode) }
    }

    /// Calls `look` with the VFS inode, if there is one, in a read section of RCU. Does not sleep.
    pub fn look<R>(&self, look: impl FnOnce(NonNull<ub::inode>) -> R) -> Option<R> {
        let _rcu = rcu::read_lock();
        NonNull::new(self.0.load(Acquire)).map(look)
    }

    /// The size that the VFS inode has, if there is one. Does not sleep.
    #[inline]
    pub fn size(&self) -> Option<u64> {
        self.is_set().then(|| self.vfs_size()).flatten()
    }

    fn vfs_size(&self) -> Option<u64> {
        // SAFETY: The read section keeps an inode that is found in it.
        self.look(|inode| unsafe { ub::upcall_inode_size(inode.as_ptr()) } as u64)
    }

    /// The time for a change of the file that is made now, which its VFS inode has from now on, if
    /// there is one. Any context.
    pub fn stamp(&self) -> Option<Now> {
        let mut time = ub::timespec64::default();
        // SAFETY: The read section keeps an inode that is found in it.
        self.look(|inode| unsafe { ub::upcall_inode_stamp(inode.as_ptr(), &mut time) })?;
        Some(Now {
            secs: time.tv_sec,
            nanos: time.tv_nsec as u32,
        })
    }

    /// Whether programs have changed bytes of the file that are not on the device yet. Does not
    /// sleep.
    pub fn has_dirty(&self) -> bool {
        // SAFETY: The read section keeps an inode that is found in it.
        let dirty = self.look(|inode| unsafe { ub::upcall_has_dirty(inode.as_ptr()) });
        dirty.unwrap_or(false)
    }

    /// Copies the bytes from `pos` on into `to`, if all of them lie in one folio of the page cache
    /// that holds the file's content; `to` is then full. Does not sleep.
    #[inline]
    pub fn copy(&self, pos: u64, to: &mut [u8]) -> Cached {
        match self.is_set() {
            true => self.copy_from_pages(pos, to),
            false => Cached::Nothing,
        }
    }

    fn copy_from_pages(&self, pos: u64, to: &mut [u8]) -> Cached {
        let copy = |inode: NonNull<ub::inode>| {
            let (to, len) = (to.as_mut_ptr(), to.len());
            // SAFETY: The read section keeps the inode, and `to` is as long as it says.
            unsafe { ub::upcall_copy_cached(inode.as_ptr(), pos, to.cast(), len) }
        };
        match self.look(copy) {
            Some(ub::upcall_cached_UPCALL_COPIED) => Cached::Copied,
            Some(ub::upcall_cached_UPCALL_CACHED_IN_PART) => Cached::InPart,
            _ => Cached::Nothing,
        }
    }
}

/// What the page cache has of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// Nothing that differs from what is on the device.
    Nothing,
    /// All, and they were copied.
    Copied,
    /// What differs from what is on the device, and is not to be had at once.
    InPart,
}
