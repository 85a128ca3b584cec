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
//! | [`mount`] | registration, mount options, mount, unmount, `statfs` |
//! | [`inode`] | VFS inodes attached to the file system's, `stat`, links, attributes |
//! | [`dir`] | `lookup` and `readdir` |
//! | [`data`] | [`FileData`]: what it provides for files that are written |
//! | [`file`](mod@file) | `read`, `lseek`, `ioctl`, direct reads |
//! | [`write`](mod@write) | `write`, direct writes, shared mappings |
//! | [`writeback`], [`ioends`] | from the page cache to the device, and what comes after; `fsync` |
//! | [`resize`] | a file's size |
//! | [`pages`] | the page cache: readahead that only starts work, iomap |
//! | [`permission`] | what credentials permit |
//! | [`mount_ref`] | keeping a volume mounted from Rust |
//! | [`xattr`] | extended attributes and access control lists |
//! | [`export`] | file handles for NFS and `open_by_handle_at` |
//!
//! # Locks
//!
//! VFS locks (directory and file `i_rwsem`, `invalidate_lock`, folio locks) are taken by the VFS before it
//! calls us, and the futures that we block on take none of them.

pub mod data;
mod dir;
mod export;
mod file;
pub mod fs;
mod inode;
mod ioends;
mod mount;
mod mount_ref;
mod pages;
pub mod permission;
mod resize;
mod write;
mod writeback;
mod xattr;

pub use data::{FileData, FileMap, FileMapKind};
pub use fs::{
    AclEntry, Attr, DirBatch, DirEntry, FileSystem, FileType, StatFs, Time, VolumeInfo,
    XattrNamespace,
};
pub use mount::{MountOption, Registration, Type};
pub use mount_ref::MountRef;
pub use pages::Iomap;
