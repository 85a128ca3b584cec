// SPDX-License-Identifier: GPL-2.0

//! The Rust API: file operations for other modules, as futures.
//!
//! ```
//! # use volume::Volume;
//! # use kernel::prelude::*;
//! # use stack::AsyncStackable;
//! # use upcall::Block;
//! # async fn example() -> Result<usize> {
//! let volume = Volume::open(c"/mnt")?;
//! let file = volume.walk(volume.root(), b"/etc/passwd").await?;
//! let mut block = Block::new()?;
//! let n = volume.read(file, 0, &mut block).await?;
//! # Ok(n)
//! # }
//! ```
//!
//! The operations are those of [`AsyncStackable`](stack::AsyncStackable). They need neither VFS inodes nor dentries, and take no VFS lock. What the
//! page cache has of a file, since programs have read it, is taken from there; what only the VFS can do with a file that
//! programs use is done by a thread for that ([`vfs::door`]).

use crate::convert;
use crate::vfs_ops::Mounted;
use aext4::Mapping;
use aext4::{Ext4, InodeRef};
use core::future::Future;
use core::ops::Range;
use disk::gfp;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::Ino as Number;
use vfs::{MountRef, VolumeInfo};

pub use stack::Ino;

/// A mounted volume, for Rust callers.
///
/// While it lives, `umount` fails with `EBUSY`. A mount that is detached with `umount -l` stays as long as there are
/// volumes, as with open files. `umount -f` shuts it down: what needs the device then fails with `ESHUTDOWN`. If the device
/// is gone it fails with `EIO`.
pub struct Volume(pub(crate) Arc<MountRef<Mounted>>);

impl Volume {
    /// Opens the volume that is mounted at, or above, the directory `path`.
    ///
    /// The path is the calling thread's: of the process that loads the module, for example. Fails with
    /// the errors of a path walk, and with `EINVAL` if it is no aext4 volume. May sleep.
    pub fn open(path: &CStr) -> Result<Self> {
        Self::of(MountRef::open(path)?)
    }

    /// Opens the volume that `file` is on, which is no longer needed after that.
    ///
    /// Fails with `EINVAL` if it is no aext4 volume. Process context.
    pub fn of_file(file: &File) -> Result<Self> {
        Self::of(MountRef::of_file(file)?)
    }

    /// Mounts the volume on the block device `device`, without a mount point; `options` are those of `mount -o`. It is
    /// mounted read-only if they do not have `rw`.
    ///
    /// The path of the device is the calling thread's. When the last such volume is dropped, the device is closed. Fails
    /// with the errors of `mount`, and says why in the log. May sleep.
    pub fn mount(device: &CStr, options: &CStr) -> Result<Self> {
        Self::of(MountRef::mount(device, options)?)
    }

    fn of(mount: MountRef<Mounted>) -> Result<Self> {
        Ok(Self(Arc::new(mount, gfp())?))
    }

    pub(crate) fn ext4(&self) -> &Arc<Ext4> {
        let mounted: &Mounted = &self.0;
        &mounted.0
    }

    /// What does not change while the volume is mounted: with it, [`stat`](stack::AsyncStackable::stat) has what `statx` has.
    pub fn info(&self) -> VolumeInfo {
        convert::info(&self.0)
    }

    /// Where the bytes `range.start` to `range.end`, not included, of a file are on the device.
    pub fn extents(&self, ino: Ino, range: Range<u64>) -> Extents<'_> {
        Extents {
            volume: self,
            ino,
            range,
        }
    }

    pub(crate) fn iget(&self, ino: Ino) -> impl Future<Output = Result<InodeRef>> + Send + '_ {
        self.0.iget_user(Number(ino.0))
    }
}

/// The stream of [`Volume::extents`].
pub struct Extents<'a> {
    volume: &'a Volume,
    ino: Ino,
    range: Range<u64>,
}

impl Extents<'_> {
    /// The next piece of the file's map, cut to the range and to the file's size; `None` at the end.
    ///
    /// Positions and lengths are in bytes. Fails with `EISDIR` and, for what has no bytes, `EINVAL`.
    ///
    /// # Cancellation
    ///
    /// No piece is lost by dropping the future.
    pub async fn next(&mut self) -> Result<Option<Mapping>> {
        let volume = &*self.volume.0;
        let info = self.volume.iget(self.ino).await?;
        volume.check_regular(&info)?;
        let end = self.range.end.min(volume.visible_size(&info));
        let start = self.range.start;
        if start >= end {
            return Ok(None);
        }
        let found = volume.map_bytes(&info, start).await?;
        let stop = found.offset.saturating_add(found.len).min(end);
        self.range.start = stop;
        let skip = start - found.offset;
        Ok(Some(Mapping {
            offset: start,
            len: stop - start,
            kind: found.kind.skip(skip),
        }))
    }
}
