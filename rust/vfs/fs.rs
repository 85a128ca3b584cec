// SPDX-License-Identifier: GPL-2.0

//! [`FileSystem`]: what a file system provides.
//!
//! It is one trait for each C table, which stands beside the table that is made of it. What a file
//! system leaves out is a null pointer in the table.

use crate::attr::VolumeInfo;
use crate::data::DataOperations;
use crate::dir::DirOperations;
use crate::export::ExportOperations;
use crate::file::FileOperations;
use crate::inode::InodeOperations;
use crate::mount::{MountOption, Type};
use crate::pages::AddressSpaceOperations;
use crate::superblock::SuperOperations;
use crate::xattr::XattrOperations;
use core::future::Future;
use disk::Disk;
use kernel::prelude::*;

/// A mounted volume of a file system, a cheap handle on it: the types, and what mounts one.
///
/// Every operation that may wait is a future, which borrows no VFS object and can be dropped at any
/// point. Numbers of bytes and offsets are in bytes.
pub trait FileSystemType: Clone + Send + Sync + 'static {
    /// The name for `mount -t`.
    const NAME: &'static CStr;
    /// Mount options, as far as the VFS does not know them.
    type Options: Default + Send + Sync + 'static;
    /// What the file system knows of an inode: a cheap handle, which may be dropped in any context.
    type Inode: Clone + Send + Sync + 'static;
    /// Where a part of a file is.
    type Map: Send;

    /// The type, as it is registered.
    fn registration() -> &'static Type<Self>;

    /// Takes one mount option. Returns `false` if there is no such option.
    fn set_option(options: &mut Self::Options, option: MountOption<'_>) -> Result<bool>;

    /// Reads and checks the volume on `disk`.
    ///
    /// If the volume is refused, the reason was logged. `silent` asks for no log line if the
    /// device holds something else.
    fn mount(
        disk: Disk,
        options: Self::Options,
        silent: bool,
    ) -> impl Future<Output = Result<Self>> + Send;

    /// The device below.
    fn disk(&self) -> &Disk;

    /// What does not change while the volume is mounted.
    fn info(&self) -> VolumeInfo;

    /// The files in `/sys/fs/NAME/DEVICE/`.
    const COUNTERS: &'static [&'static CStr];

    /// Writes what file `index` of them has. Called by any thread from the mount on, until the
    /// volume ends; does not sleep.
    fn show_counter(&self, index: usize, out: &mut dyn core::fmt::Write) -> core::fmt::Result;

    /// Writes what the file `NAME/DEVICE/cache` of debugfs has. Called as
    /// [`show_counter`](Self::show_counter), by a thread.
    fn show_cache(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;
}

/// All of a file system: implemented for what implements its parts.
pub trait FileSystem:
    SuperOperations
    + InodeOperations
    + DirOperations
    + FileOperations
    + AddressSpaceOperations
    + DataOperations
    + XattrOperations
    + ExportOperations
{
}

impl<F> FileSystem for F where
    F: SuperOperations
        + InodeOperations
        + DirOperations
        + FileOperations
        + AddressSpaceOperations
        + DataOperations
        + XattrOperations
        + ExportOperations
{
}

/// An error number that the `kernel` crate has no name for.
pub(crate) fn errno(number: u32) -> Error {
    Error::from_errno(-(number as i32))
}
