// SPDX-License-Identifier: GPL-2.0

//! aext4: what programs mount, and what modules call.
//!
//! The operations are those of crate `aext4`. Two interfaces lead to them: the VFS's, where C callers block
//! on them, and [`Volume`] for Rust callers in the kernel.
//!
//! | module | what it has |
//! |---|---|
//! | [`api`] | [`Volume`]: the Rust interface |
//! | `operations`, `change` | its operations, and its changes |
//! | `vfs_ops` | what crate `vfs` makes the C tables of |
//! | `names` | what it makes those of directories of |
//! | `data` | what it makes those of files of that are written |
//! | `prepared` | what new inodes are to be |
//! | `convert` | the types of `aext4` and `layout`, as the two interfaces have them |

#![deny(unsafe_code)]

use kernel::prelude::*;

pub mod api;
mod change;
mod convert;
mod data;
mod names;
mod operations;
mod prepared;
mod vfs_ops;

pub use aext4::{Mapping, MappingKind};
pub use api::{Extents, Ino, Volume};

module! {
    type: Aext4,
    name: "aext4",
    authors: ["The Upcall developers"],
    description: "ext2, ext3 and ext4 with an asynchronous core",
    license: "GPL",
    alias: ["fs-aext4"],
}

struct Aext4 {
    _registration: vfs::Registration<vfs_ops::Mounted>,
}

impl kernel::Module for Aext4 {
    fn init(module: &'static ThisModule) -> Result<Self> {
        Ok(Self {
            _registration: vfs_ops::TYPE.register(module)?,
        })
    }
}
