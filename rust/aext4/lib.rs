// SPDX-License-Identifier: GPL-2.0

//! aext4: the ext2, ext3 and ext4 disk format with an asynchronous core.
//!
//! Every operation is written once, as an `async fn` of [`Volume`](volume::Volume). Two doors lead to it: the VFS's,
//! where C callers block on it, and the [`door`] for Rust callers in the kernel.
//!
//! | module | what it has |
//! |---|---|
//! | [`layout`](mod@layout) | the on-disk structures, without any kernel type |
//! | [`volume`] | a mounted volume: superblock, groups, options |
//! | [`node`] | what is known of an inode, and the table of nodes |
//! | [`map`] | from a file's bytes to the device's |
//! | [`dir`] | finding names and listing directories |
//! | [`read`] | contents, past the VFS |
//! | [`xattr`] | extended attributes and access control lists |
//! | [`fs`] | the VFS door |
//! | [`door`] | the Rust door |
//! | [`options`], [`error`] | mount options; log lines and error numbers |
//!
//! # Locks
//!
//! Outermost first: VFS locks (the Rust door takes none) → folio locks → a node's run cache, or the table
//! of nodes, or the volume's options. The last three are spinlocks, never held across an
//! `.await` and never with one another.

#![deny(unsafe_code)]

use kernel::prelude::*;

mod dir;
pub mod door;
mod error;
mod fs;
mod map;
mod node;
mod options;
mod read;
mod volume;
mod xattr;

module! {
    type: Aext4,
    name: "aext4",
    authors: ["The Upcall developers"],
    description: "ext2, ext3 and ext4 with an asynchronous core",
    license: "GPL",
    alias: ["fs-aext4"],
}

struct Aext4 {
    _registration: vfs::Registration<volume::Volume>,
}

impl kernel::Module for Aext4 {
    fn init(module: &'static ThisModule) -> Result<Self> {
        Ok(Self {
            _registration: fs::TYPE.register(module)?,
        })
    }
}
