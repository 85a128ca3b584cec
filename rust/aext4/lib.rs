// SPDX-License-Identifier: GPL-2.0

//! The ext2, ext3 and ext4 file system: every operation once, as an `async fn` of [`Ext4`].
//!
//! It knows the disk format ([`layout`]), the device and its metadata ([`disk`]), and the runtime; nothing of
//! the VFS, and nothing of who calls. Crate `volume` makes of it what programs mount and what modules call.
//!
//! | module | what it has |
//! |---|---|
//! | [`ext4`] | a mounted volume: superblock, groups, options |
//! | [`inode_info`] | what is known of an inode, and the table of inodes |
//! | [`inode_plan`] | changing inodes |
//! | [`set_attributes`] | changing attributes |
//! | [`map`] | from a file's blocks to the device's |
//! | [`dir`] | finding names and listing directories |
//! | [`alloc`] | which blocks and inodes are given to whom |
//! | [`journal`], [`recovery`] | the journal; recovering a volume before it is mounted |
//! | [`remount`] | making a volume writable, and read-only again |
//! | [`freeze`] | stopping all changes for a while, or for ever |
//! | [`read`] | contents |
//! | [`xattr`] | extended attributes and access control lists |
//! | [`options`], [`error`] | mount options; log lines and error numbers |
//!
//! # Locks
//!
//! An inode's extent cache, or the table of inodes, or the volume's options: spinlocks, never held across an
//! `.await` and never with one another. Those of [`alloc`] and [`journal`] are told there.

#![deny(unsafe_code)]

pub mod alloc;
pub mod dir;
pub mod error;
pub mod ext4;
pub mod freeze;
pub mod inode_info;
pub mod inode_plan;
pub mod journal;
pub mod map;
pub mod options;
pub mod read;
pub mod recovery;
pub mod remount;
pub mod set_attributes;
pub mod xattr;

pub use dir::DirContext;
pub use ext4::{Ext4, StatFs};
pub use inode_info::{InodeInfo, InodeRef};
pub use map::{Mapping, MappingKind};
pub use options::Options;
pub use set_attributes::SetAttributes;
