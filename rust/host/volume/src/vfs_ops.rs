// SPDX-License-Identifier: GPL-2.0

//! What is mounted.

use aext4::{Ext4, InodeRef};
use core::ops::Deref;
use kernel::sync::Arc;
use vfs::door::FileSystem;

/// A volume that no program has mounted.
pub(crate) struct Mounted(pub(crate) Arc<Ext4>);

impl Deref for Mounted {
    type Target = Ext4;

    fn deref(&self) -> &Ext4 {
        &self.0
    }
}

impl FileSystem for Mounted {
    type Inode = InodeRef;
}
