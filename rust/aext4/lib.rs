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
//! | [`map`], [`map_plan`] | from a file's blocks to the device's; changing that |
//! | [`dir`] | finding names and listing directories |
//! | [`create`], [`unlink`], [`rename`] | names that come, go and move |
//! | [`new_inode`] | new inodes |
//! | `dir_write`, `dir_grow`, `inode_lock` | what these have in common: entries, room, locks |
//! | [`alloc`] | which blocks and inodes are given to whom |
//! | [`journal`], [`recovery`] | the journal; recovering a volume before it is mounted |
//! | [`orphan`] | inodes of which something is still to be freed, if the power fails |
//! | [`super_plan`] | changing the superblock |
//! | [`remount`] | making a volume writable, and read-only again |
//! | [`truncate`], [`delete`] | making files longer and shorter; deleting inodes |
//! | [`task`] | how the tasks of a writable volume are woken and ended |
//! | [`freeze`] | stopping all changes for a while, or for ever |
//! | [`read`], [`write`](mod@write) | contents |
//! | [`fallocate`] | space for contents that come later, holes, zeros, ranges taken out and put in |
//! | [`unattached`] | changing the contents of files that no program has, by tasks |
//! | [`pending`] | what was written, and is not in the map yet |
//! | [`xattr`] | extended attributes and access control lists |
//! | [`xattr_write`], [`xattr_block`], [`xattr_value`] | changing them; blocks; values as inodes |
//! | [`xattr_initial`], [`xattr_release`] | those of a new inode, and of one that is deleted |
//! | [`counters`] | what is shown in `/sys/fs/aext4` |
//! | [`options`], [`error`] | mount options; log lines and error numbers |
//!
//! # Locks
//!
//! In this order; none but the last with a transaction open, which waits for nothing:
//!
//! 1. the volume's mutex for moves: who moves a name to another directory ([`rename`]);
//! 2. `rwsem` of inodes, in the order of their numbers: read for entries and attributes, written for
//!    their change;
//! 3. `map_lock` of an inode: written for a change of the map or of what is on its way to the device; read
//!    by nobody but who waits for a change that is being made ([`map`]);
//! 4. the mutex of the list of orphans ([`orphan`]);
//! 5. [`Journal::begin`](journal::Journal::begin);
//! 6. spinlocks.
//!
//! The table of inodes → an inode; what is pending of an inode → its extent cache; the volume's options:
//! spinlocks, never held across an `.await`, and with one another only in this order. Those of [`alloc`] and [`journal`] are told there.

#![deny(unsafe_code)]

pub mod alloc;
pub mod counters;
pub mod create;
pub mod delete;
pub mod dir;
mod dir_grow;
mod dir_write;
mod discard;
pub mod error;
pub mod error_record;
pub mod ext4;
pub mod fallocate;
mod freed;
pub mod freeze;
pub mod inline_write;
pub mod inode_info;
mod inode_lock;
pub mod inode_plan;
pub mod journal;
pub mod map;
pub mod map_plan;
mod memory;
pub mod new_inode;
pub mod options;
pub mod orphan;
mod orphan_file;
pub mod pending;
pub mod read;
pub mod recovery;
pub mod remount;
pub mod rename;
pub mod set_attributes;
pub mod super_plan;
mod super_write;
mod task;
pub mod truncate;
pub mod unattached;
pub mod unlink;
pub mod write;
pub mod xattr;
pub mod xattr_block;
pub mod xattr_initial;
pub mod xattr_release;
pub mod xattr_value;
pub mod xattr_write;

pub use dir::DirContext;
pub use ext4::{Ext4, StatFs};
pub use inode_info::{Handle, InodeInfo, InodeRef};
pub use map::{Mapping, MappingKind};
pub use new_inode::NewInode;
pub use options::Options;
pub use rename::Rename;
pub use set_attributes::SetAttributes;
pub use xattr_initial::{InitialXattrs, NewXattr};
pub use xattr_release::XattrRelease;
pub use xattr_write::XattrFlags;
