// SPDX-License-Identifier: GPL-2.0

//! Crate `vfs` in the simulation: its types, without a VFS.
//!
//! No inode has a VFS inode, so there is nobody to tell of changes, and nothing to leave to threads.

#[path = "../../../vfs/acl_entry.rs"]
mod acl_entry;
#[path = "../../../vfs/attr.rs"]
mod attr;
pub mod door;
#[path = "../../../vfs/listing.rs"]
mod listing;
#[path = "../../../vfs/new_inode.rs"]
mod new_inode;
#[path = "../../../vfs/xattr_name.rs"]
mod xattr_name;

pub use acl_entry::AclEntry;
pub use attr::{Attr, FileType, SetAttr, StatAttr, StatFs, Time, VolumeInfo};
pub use door::MountRef;
pub use listing::{DirBatch, DirEntry};
pub use new_inode::{NewInode, NewXattr};
pub use xattr_name::{XattrFlags, XattrNamespace};
