// SPDX-License-Identifier: GPL-2.0

//! What crate `vfs` makes the C tables of directories of.

use crate::convert;
use crate::prepared::Prepared;
use crate::vfs_ops::Mounted;
use aext4::rename::Rename;
use aext4::InodeRef;
use kernel::prelude::*;
use vfs::{DirBatch, DirOperations};

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

    fn flush_on_replace(&self) -> bool {
        self.flags().auto_da_alloc()
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
        self.0.link(dir, name, inode, false).await
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
