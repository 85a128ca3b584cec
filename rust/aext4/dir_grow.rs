// SPDX-License-Identifier: GPL-2.0

//! Room for more names in a directory.

use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::Writable;
use kernel::prelude::*;
use layout::dir_edit::Name;

impl Ext4 {
    pub(crate) async fn grow_dir(
        &self,
        _writable: &Writable,
        _dir: &InodeInfo,
        _name: Name<'_>,
    ) -> Result {
        Err(ENOSPC)
    }
}
