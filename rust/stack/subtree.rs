// SPDX-License-Identifier: GPL-2.0

//! [`Subtree`]: a layer that shows a part of a tree, as `chroot` does.

use crate::asynchronous::{AsyncStackable, Ino, Layer};
use crate::forward;
use kernel::prelude::*;
use vfs::{DirBatch, DirEntry, FileType};

/// Shows what is below one directory, which is its root: `..` there leads nowhere else, nor does a symbolic link.
///
/// It is a view for names, and no jail: the number of an inode that lies outside is as good as any.
pub struct Subtree<L> {
    below: L,
    top: Ino,
}

impl<L: AsyncStackable> Subtree<L> {
    /// Makes the view of directory `path`, walked from the root of `below`. Fails as
    /// [`AsyncStackable::walk`], and with `ENOTDIR`.
    pub async fn new(below: L, path: &[u8]) -> Result<Self> {
        let top = below.walk(below.root(), path).await?;
        if below.stat(top).await?.file_type != FileType::Directory {
            return Err(ENOTDIR);
        }
        Ok(Self { below, top })
    }

    /// The layer below.
    pub fn below(&self) -> &L {
        &self.below
    }
}

impl<L: Layer> Layer for Subtree<L> {
    type Kind = L::Kind;
}

impl<L: AsyncStackable> AsyncStackable for Subtree<L> {
    forward!(self, self.below; stat, read, read_at, readlink, getxattr, listxattr, acl, statfs);
    forward!(self, self.below; change, write_bytes, write, write_at, make_durable, open, tmpfile);

    fn root(&self) -> Ino {
        self.top
    }

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        if dir == self.top && name == b".." {
            return Ok(self.top);
        }
        self.below.lookup(dir, name).await
    }

    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        if dir != self.top {
            return self.below.read_dir(dir, pos, batch).await;
        }
        let mut found = DirBatch::new();
        self.below.read_dir(dir, pos, &mut found).await?;
        for entry in found.iter() {
            let ino = if entry.name == b".." {
                self.top.0
            } else {
                entry.ino
            };
            batch.push(&DirEntry { ino, ..entry })?;
        }
        if let Some(pos) = found.next() {
            batch.go_on_at(pos);
        }
        Ok(())
    }
}
