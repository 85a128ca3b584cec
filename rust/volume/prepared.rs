// SPDX-License-Identifier: GPL-2.0

//! What a new inode is to be, as the disk has it.

use crate::convert;
use aext4::new_inode::NewInode;
use aext4::{Ext4, NewXattr};
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::{xattr, Device};

/// What a new inode is to have, with the attributes as the disk has them.
pub(crate) struct Prepared<'a> {
    new: &'a vfs::NewInode,
    acls: [Option<KVVec<u8>>; 2],
}

impl<'a> Prepared<'a> {
    pub(crate) async fn new(volume: &Ext4, new: &'a vfs::NewInode) -> Result<Self> {
        let mut acls = [None, None];
        for (to, acl) in acls.iter_mut().zip([&new.acl, &new.default_acl]) {
            if let Some(acl) = acl {
                *to = Some(volume.encode_acl(&convert::layout_acl(acl)?).await?);
            }
        }
        Ok(Self { new, acls })
    }

    pub(crate) fn xattrs(&self) -> Result<KVec<NewXattr<'_>>> {
        let mut xattrs = KVec::new();
        let indices = [
            xattr::INDEX_POSIX_ACL_ACCESS,
            xattr::INDEX_POSIX_ACL_DEFAULT,
        ];
        for (acl, index) in self.acls.iter().zip(indices) {
            if let Some(value) = acl {
                let name = b"";
                xattrs.push(NewXattr { index, name, value }, gfp())?;
            }
        }
        for xattr in self.new.xattrs.iter() {
            let new = NewXattr {
                index: convert::prefix_index(xattr.namespace),
                name: &xattr.name,
                value: &xattr.value,
            };
            xattrs.push(new, gfp())?;
        }
        Ok(xattrs)
    }

    pub(crate) fn inode<'b>(&self, xattrs: &'b [NewXattr<'b>]) -> NewInode<'b> {
        let (major, minor) = self.new.device;
        NewInode {
            mode: self.new.mode,
            uid: self.new.uid,
            gid: self.new.gid,
            device: Some(Device { major, minor }).filter(|_| is_device(self.new.mode)),
            xattrs,
        }
    }
}

/// Whether a mode is that of a character or a block device.
fn is_device(mode: u16) -> bool {
    matches!(mode & 0o170_000, 0o020_000 | 0o060_000)
}
