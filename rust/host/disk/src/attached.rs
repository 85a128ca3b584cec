// SPDX-License-Identifier: GPL-2.0

//! There is no page cache: no `InodeInfo` has a VFS inode.

use crate::time::Now;

/// The VFS inode of an `InodeInfo`, which never has one.
#[derive(Default)]
pub struct Attached;

impl Attached {
    /// Makes the part of an `InodeInfo` that has no VFS inode.
    pub const fn new() -> Self {
        Self
    }

    /// Whether there is a VFS inode.
    pub fn is_set(&self) -> bool {
        false
    }

    /// Whether the page cache has any page of the file.
    pub fn has_pages(&self) -> bool {
        false
    }

    /// Whether the page cache has what is to be written.
    pub fn has_dirty(&self) -> bool {
        false
    }

    /// The size that the VFS inode has, if there is one.
    pub fn size(&self) -> Option<u64> {
        None
    }

    /// The time for a change, if there is a VFS inode.
    pub fn stamp(&self) -> Option<Now> {
        None
    }

    /// Copies the bytes from `pos` on, if the page cache has them.
    pub fn copy(&self, _pos: u64, _to: &mut [u8]) -> Cached {
        Cached::Nothing
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
