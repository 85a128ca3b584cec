// SPDX-License-Identifier: GPL-2.0

//! What the Rust API has from the VFS, for a volume that no program has mounted.

use core::ops::Deref;
use core::time::Duration;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A file system.
pub trait FileSystem {
    /// Its inodes.
    type Inode;
}

/// There is no VFS inode to have the new attributes.
pub fn refresh_attached<F: FileSystem>(_volume: &F, _info: &F::Inode) {}

/// There are no dentries.
pub fn names_changed<F: FileSystem>(_dir: &F::Inode) {}

/// What is to be done to an inode that others may have leases of.
#[derive(Clone, Copy)]
pub enum Access {
    /// Its contents are read.
    Read,
    /// Something else than contents is changed.
    Change,
}

/// Nobody has leases.
pub fn has_leases<F: FileSystem>(_info: &F::Inode, _access: Access) -> bool {
    false
}

/// How a file is opened.
pub enum OpenFor {
    /// To be read.
    Reading,
    /// To be written.
    Writing,
    /// To be written at its end.
    Appending,
}

/// A file that programs have: there is none.
pub enum OpenedFile {}

impl OpenedFile {
    /// Writes.
    pub fn write(&self, _pos: u64, _bytes: &[u8]) -> Result<(u64, usize)> {
        match *self {}
    }

    /// Reads.
    pub fn read(&self, _pos: u64, _bytes: &mut [u8]) -> Result<usize> {
        match *self {}
    }

    /// Makes it longer or shorter.
    pub fn truncate(&self, _size: u64) -> Result {
        match *self {}
    }

    /// Gives it space.
    pub fn allocate(&self, _pos: u64, _len: u64, _keep_size: bool) -> Result {
        match *self {}
    }
}

/// A volume.
pub struct MountRef<F>(F);

impl<F> Deref for MountRef<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.0
    }
}

impl<F: FileSystem> MountRef<F> {
    /// Of a volume.
    pub fn new(volume: F) -> Self {
        Self(volume)
    }

    /// The volume can be written, for all that the mount says.
    pub fn check_writable(&self) -> Result {
        Ok(())
    }

    /// There are no leases.
    pub async fn break_leases(
        _this: &Arc<Self>,
        _info: &F::Inode,
        _access: Access,
        _limit: Duration,
    ) -> Result {
        Ok(())
    }

    /// No file is open.
    pub async fn with_file<T: Send + 'static>(
        _this: &Arc<Self>,
        _ino: u32,
        _how: OpenFor,
        _f: impl FnOnce(&OpenedFile) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        Err(EBUSY)
    }

    /// Nothing is in the page cache.
    pub async fn write_back(_this: &Arc<Self>, _info: &F::Inode) -> Result {
        Ok(())
    }

    /// Nothing is in the page cache.
    pub async fn write_back_all(_this: &Arc<Self>) -> Result {
        Ok(())
    }

    /// There is no VFS inode.
    pub async fn prune(_this: &Arc<Self>, _info: &F::Inode) -> Result {
        Ok(())
    }
}
