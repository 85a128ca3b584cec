// SPDX-License-Identifier: GPL-2.0

//! What crate `vfs` makes the C tables of directories of.

use crate::convert;
use crate::vfs_ops::Mounted;
use aext4::new_inode::NewInode;
use aext4::rename::Rename;
use aext4::NewXattr;
use aext4::{Ext4, InodeRef};
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::{xattr, Device};
use vfs::{DirBatch, DirOperations};

/// What a new inode is to have, with the attributes as the disk has them.
struct Prepared<'a> {
    new: &'a vfs::NewInode,
    acls: [Option<KVVec<u8>>; 2],
}

impl<'a> Prepared<'a> {
    async fn new(volume: &Ext4, new: &'a vfs::NewInode) -> Result<Self> {
        let mut acls = [None, None];
        for (to, acl) in acls.iter_mut().zip([&new.acl, &new.default_acl]) {
            if let Some(acl) = acl {
                *to = Some(volume.encode_acl(&convert::layout_acl(acl)?).await?);
            }
        }
        Ok(Self { new, acls })
    }

    fn xattrs(&self) -> Result<KVec<NewXattr<'_>>> {
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

    fn inode<'b>(&self, xattrs: &'b [NewXattr<'b>]) -> NewInode<'b> {
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

#[vtable]
impl DirOperations for Mounted {
    async fn lookup(&self, dir: &InodeRef, name: &[u8]) -> Result<Option<u32>> {
        let found = self.0.lookup(dir, name).await?;
        Ok(found.map(|info| info.ino.0))
    }

    async fn read_dir(&self, dir: &InodeRef, pos: u64, batch: &mut DirBatch) -> Result {
        self.list(dir, pos, &mut convert::Batch(batch)).await
    }

    fn group_of_dir(&self) -> bool {
        self.flags().group_of_dir()
    }

    async fn create(&self, dir: &InodeRef, name: &[u8], new: &vfs::NewInode) -> Result<InodeRef> {
        let prepared = Prepared::new(self, new).await?;
        let xattrs = prepared.xattrs()?;
        self.0.create(dir, name, &prepared.inode(&xattrs)).await
    }

    async fn symlink(
        &self,
        dir: &InodeRef,
        name: &[u8],
        target: &[u8],
        new: &vfs::NewInode,
    ) -> Result<InodeRef> {
        let prepared = Prepared::new(self, new).await?;
        let xattrs = prepared.xattrs()?;
        let new = prepared.inode(&xattrs);
        self.0.symlink(dir, name, target, &new).await
    }

    async fn tmpfile(&self, dir: &InodeRef, new: &vfs::NewInode) -> Result<InodeRef> {
        let prepared = Prepared::new(self, new).await?;
        let xattrs = prepared.xattrs()?;
        self.0.tmpfile(dir, &prepared.inode(&xattrs)).await
    }

    async fn link(&self, dir: &InodeRef, name: &[u8], inode: &InodeRef) -> Result {
        self.0.link(dir, name, inode).await
    }

    async fn unlink(&self, dir: &InodeRef, name: &[u8], child: &InodeRef) -> Result {
        self.0.unlink(dir, name, child).await
    }

    async fn rmdir(&self, dir: &InodeRef, name: &[u8], child: &InodeRef) -> Result {
        self.0.rmdir(dir, name, child).await
    }

    async fn rename(&self, rename: vfs::Rename<'_, InodeRef>) -> Result {
        let prepared = match rename.whiteout {
            Some(new) => Some(Prepared::new(self, new).await?),
            None => None,
        };
        let xattrs = match &prepared {
            Some(prepared) => prepared.xattrs()?,
            None => KVec::new(),
        };
        let whiteout = prepared.as_ref().map(|prepared| prepared.inode(&xattrs));
        let rename = Rename {
            from: rename.from,
            name: rename.name,
            source: rename.source,
            to: rename.to,
            new_name: rename.new_name,
            target: rename.target.map(|target| &**target),
            exchange: rename.exchange,
            whiteout: whiteout.as_ref(),
        };
        self.0.rename(rename).await
    }
}
