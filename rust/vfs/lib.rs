// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers for file systems whose operations are futures.
//!
//! A file system implements [`FileSystem`]: asynchronous operations on its volume and inodes. This
//! crate is the synchronous interface to it: it registers the type with the VFS, and calls each
//! operation with [`block_on`](upcall::block_on). It knows nothing about the on-disk format.
//!
//! | module | what it has |
//! |---|---|
//! | [`fs`] | [`FileSystem`]: what a file system provides |
//! | [`mount`] | registration, mount options, mount, remount, unmount |
//! | [`superblock`] | a mounted superblock: `statfs`, `umount -f`, what memory is given back |
//! | [`inode`] | VFS inodes attached to the file system's, `stat`, links |
//! | [`attr`], [`new_inode`], [`xattr_name`], [`acl_entry`] | attributes, and what new inodes are to be |
//! | [`dir`] | `lookup` and `readdir` |
//! | [`namei`] | `create`, `link`, `unlink`, `rename` and their like |
//! | [`revalidate`], [`door`] | dentries, and VFS inodes, when something changes past the VFS |
//! | [`setattr`] | `setattr`, `update_time`, `chattr` |
//! | [`listing`] | directory entries on their way to who lists a directory |
//! | [`data`] | [`DataOperations`]: what it provides for files that are written |
//! | [`file`](mod@file) | `read`, `lseek`, `ioctl` |
//! | [`direct`] | direct reads, which do not wait for metadata |
//! | [`admin`] | `ioctl`s of who administers a volume |
//! | [`write`](mod@write) | `write`, direct writes, shared mappings |
//! | [`writeback`], [`ioends`] | from the page cache to the device, and what comes after; `fsync` |
//! | [`resize`], [`fallocate`] | a file's size, and its space |
//! | [`pages`] | the page cache: readahead that only starts work, iomap |
//! | [`permission`] | what credentials permit |
//! | [`sysfs`] | counters in `/sys/fs` |
//! | [`debugfs`] | a file in debugfs |
//! | [`mount_ref`] | keeping a volume mounted from Rust |
//! | [`xattr`] | extended attributes |
//! | [`acl`] | access control lists |
//! | [`export`] | file handles for NFS and `open_by_handle_at` |
//!
//! # Locks
//!
//! VFS locks (directory and file `i_rwsem`, `invalidate_lock`, folio locks) are taken by the VFS before it
//! calls us, and the futures that we block on take none of them. What changes files past the VFS and needs
//! them leaves that to a thread of its own, without any lock ([`door`]).

/// An entry of a C table, if the file system has what is behind it; else a null pointer.
macro_rules! present {
    ($has:expr, $function:expr) => {
        if $has {
            Some($function)
        } else {
            None
        }
    };
}

mod acl;
mod acl_entry;
mod admin;
mod attr;
mod data;
mod debugfs;
mod dir;
mod direct;
pub mod door;
mod export;
mod fallocate;
mod file;
pub mod fs;
mod inode;
mod ioends;
mod listing;
mod mount;
mod mount_ref;
mod namei;
mod new_inode;
mod pages;
pub mod permission;
mod resize;
mod revalidate;
mod setattr;
mod superblock;
mod sysfs;
mod write;
mod writeback;
mod xattr;
mod xattr_name;

pub use acl_entry::AclEntry;
pub use attr::{Attr, FileType, SetAttr, StatAttr, StatFs, Time, VolumeInfo};
pub use data::{DataOperations, FileMap, FileMapKind};
pub use dir::DirOperations;
pub use export::ExportOperations;
pub use file::FileOperations;
pub use fs::{FileSystem, FileSystemType};
pub use inode::InodeOperations;
pub use listing::{DirBatch, DirEntry};
pub use mount::{MountOption, Registration, Type};
pub use mount_ref::MountRef;
pub use namei::Rename;
pub use new_inode::{NewInode, NewXattr};
pub use pages::{AddressSpaceOperations, Iomap};
pub use superblock::SuperOperations;
pub use xattr::XattrOperations;
pub use xattr_name::{XattrFlags, XattrNamespace};
