// SPDX-License-Identifier: GPL-2.0

//! The Rust API: the operations of [`AsyncStackable`].

use crate::api::Volume;
use crate::change::{into_block, into_blocks};
use crate::convert;
use crate::vfs_ops::Mounted;
use core::ops::Range;
use disk::gfp;
use kernel::prelude::*;
use layout::Ino as Number;
use stack::{AsyncStackable, Asynchronous, Change, Ino, Layer, OpenInode, Sync as Durable};
use upcall::{Block, Blocks};
use vfs::door::{has_leases, Access};
use vfs::{AclEntry, Attr, DirBatch, FileType, NewInode, StatFs, XattrNamespace};

impl Layer for Volume {
    type Kind = Asynchronous;
}

impl AsyncStackable for Volume {
    fn root(&self) -> Ino {
        Ino(Number::ROOT.0)
    }

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let dir = self.iget(dir).await?;
        let found = self.0.lookup(&dir, name).await?.ok_or(ENOENT)?;
        Ok(Ino(found.ino.0))
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        let info = self.iget(ino).await?;
        let attr = convert::attr(&self.0, &info);
        Ok(match attr.file_type {
            FileType::Regular => Attr {
                size: self.0.visible_size(&info),
                ..attr
            },
            _ => attr,
        })
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let info = match self.0.iget_user_cached(Number(ino.0))? {
            Some(info) => info,
            None => self.iget(ino).await?,
        };
        if has_leases::<Mounted>(&info, Access::Read) {
            disk::pinned(|| self.recall_to_read(&info))?.await?;
        }
        match self.0.read(&info, offset, block).await {
            Err(EBUSY) => {
                let read = disk::pinned(|| self.read_by_vfs(ino, offset, Block::SIZE))?;
                into_block(&read.await?, block)
            }
            read => read,
        }
    }

    async fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        let info = self.iget(ino).await?;
        let (start, len) = (range.start, blocks.check_range(&range)?);
        if has_leases::<Mounted>(&info, Access::Read) {
            disk::pinned(|| self.recall_to_read(&info))?.await?;
        }
        match self.0.read_at(&info, range, blocks).await {
            Err(EBUSY) => {
                let read = disk::pinned(|| self.read_by_vfs(ino, start, len))?;
                into_blocks(&read.await?, blocks)
            }
            read => read,
        }
    }

    async fn readlink(&self, ino: Ino) -> Result<KVec<u8>> {
        let info = self.iget(ino).await?;
        self.0.readlink(&info).await
    }

    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        let dir = self.iget(dir).await?;
        self.0.list(&dir, pos, &mut convert::Batch(batch)).await
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        let (space, name) = XattrNamespace::of_name(name).ok_or(EOPNOTSUPP)?;
        let info = self.iget(ino).await?;
        let index = convert::prefix_index(space);
        match space {
            XattrNamespace::AclAccess | XattrNamespace::AclDefault => {
                if !self.0.has_namespace(index) {
                    return Err(EOPNOTSUPP);
                }
                let default = space == XattrNamespace::AclDefault;
                let acl = self.0.get_acl(&info, default).await?.ok_or(ENODATA)?;
                AclEntry::to_xattr(&convert::acl(acl)?)
            }
            _ => self.0.xattr(&info, index, name).await,
        }
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        let info = self.iget(ino).await?;
        let mut names = KVec::new();
        let mut add = |index: u8, name: &[u8]| {
            let Some(space) = convert::namespace(index) else {
                return Ok(());
            };
            names.extend_from_slice(space.prefix().as_bytes(), gfp())?;
            names.extend_from_slice(name, gfp())?;
            names.push(0, gfp())?;
            Ok(())
        };
        self.0.list_names(&info, &mut add).await?;
        Ok(names)
    }

    async fn acl(&self, ino: Ino, default: bool) -> Result<Option<KVec<AclEntry>>> {
        let info = self.iget(ino).await?;
        self.0
            .get_acl(&info, default)
            .await?
            .map(convert::acl)
            .transpose()
    }

    async fn statfs(&self) -> Result<StatFs> {
        Ok(convert::statfs(&self.0))
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        self.make_change(change).await
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        disk::pinned(|| self.put_bytes(ino, pos, bytes))?.await
    }

    async fn write(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        disk::pinned(|| self.put_block(ino, offset, block))?.await
    }

    async fn write_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        disk::pinned(|| self.put_blocks(ino, range, blocks))?.await
    }

    async fn make_durable(&self, what: Durable) -> Result {
        disk::pinned(|| self.wait_durable(what))?.await
    }

    async fn open(&self, ino: Ino) -> Result<OpenInode> {
        self.keep(ino).await
    }

    async fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        disk::pinned(|| self.make_tmpfile(dir, new))?.await
    }
}
