// SPDX-License-Identifier: GPL-2.0

//! [`Attached`]: what of a file is in the page cache, for readers without a VFS inode.
//!
//! C header: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h).
//!
//! # Concurrency
//!
//! An `InodeInfo` has at most one VFS inode: the VFS makes the next only when it has evicted the
//! one before. The VFS inode is published when it is attached and taken back when it is evicted.
//! Its memory is freed after a grace period of RCU that begins later, so that a reader may use the
//! pointer inside the read section in which it found it; it then looks for a folio, and takes a
//! reference on that. A folio that is truncated at the same time keeps its bytes as long as there
//! are references.

use core::ptr::null_mut;
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

    /// Copies the bytes from `pos` on into `to`, if all of them lie in one folio of the page cache
    /// that holds the file's content.
    ///
    /// Returns whether it did; `to` is then full. Does not sleep.
    pub fn copy(&self, pos: u64, to: &mut [u8]) -> bool {
        let _rcu = rcu::read_lock();
        let inode = self.0.load(Acquire);
        if inode.is_null() {
            return false;
        }
        // SAFETY: The read section keeps an inode that is found in it. `to` is as long as it says.
        unsafe { ub::upcall_copy_cached(inode, pos, to.as_mut_ptr().cast(), to.len()) }
    }
}
