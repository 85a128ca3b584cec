// SPDX-License-Identifier: GPL-2.0

//! Copying up: what is to be changed, and is below, gets above.
//!
//! It gets its name when it is complete. A file is made without a name, filled, made durable, and
//! linked; a directory or a link is made in the work directory, and renamed. So whoever looks, also
//! after a loss of power, finds what is below, or the copy. What of it is left in the work
//! directory goes when the overlay is made the next time.

use super::nodes::Node;
use super::{Overlay, OWN};
use crate::asynchronous::{AsyncStackable, Ino};
use crate::change::RenameFlags;
use crate::copy::copy_attributes;
use disk::gfp;
use kernel::prelude::*;
use kernel::rbtree::RBTreeNodeReservation;
use kernel::sync::Arc;
use upcall::Block;
use vfs::{Attr, FileType, NewInode, SetAttr};

impl<L: AsyncStackable, U: AsyncStackable> Overlay<L, U> {
    /// The number above of an inode, which is copied up if it is below, with the directories that
    /// it is in. The caller has the lock for changes.
    pub(super) async fn copy_up(&self, ino: Ino) -> Result<Ino> {
        loop {
            let mut node = self.nodes.get(ino)?;
            if let Some(upper) = node.upper() {
                return Ok(upper);
            }
            // The first that is missing comes first.
            let dir = loop {
                let parent = self.nodes.get(node.parent)?;
                match parent.upper() {
                    Some(dir) => break dir,
                    None => node = parent,
                }
            };
            disk::pinned(|| self.copy_node(&node, dir))?.await?;
        }
    }

    /// Copies up what is to be in the directory `dir` above.
    async fn copy_node(&self, node: &Arc<Node>, dir: Ino) -> Result {
        let room = RBTreeNodeReservation::new(gfp())?;
        let lower = node.lower.ok_or(ESTALE)?;
        // Somebody who gave up may have copied it up.
        match self.upper.lookup(dir, &node.name).await {
            Ok(upper) if self.is_whiteout(upper).await? => return Err(ESTALE),
            Ok(upper) => {
                self.nodes.set_upper(room, node, upper);
                return Ok(());
            }
            Err(ENOENT) => {}
            Err(error) => return Err(error),
        }
        let attr = self.lower.stat(lower).await?;
        let was = self.upper.stat(dir).await?;
        let mut new = NewInode::with_mode(attr.mode).owned_by(attr.uid, attr.gid);
        new.device = attr.device;
        let upper = match attr.file_type {
            FileType::Directory | FileType::Symlink => {
                let name = self.work_name();
                let made = match attr.file_type {
                    FileType::Directory => self.upper.create(self.work, &name, &new).await?,
                    _ => {
                        let target = self.lower.readlink(lower).await?;
                        self.make_link(self.work, &name, &target, &new).await?
                    }
                };
                self.copy_attributes(&self.lower, lower, made, &attr)
                    .await?;
                let (work, flags) = (self.work, RenameFlags::default());
                self.upper
                    .rename(work, &name, dir, &node.name, flags)
                    .await?;
                made
            }
            _ => {
                let made = self.upper.tmpfile(self.work, &new).await?;
                if attr.file_type == FileType::Regular {
                    self.copy_contents(lower, made.ino(), attr.size).await?;
                }
                self.copy_attributes(&self.lower, lower, made.ino(), &attr)
                    .await?;
                self.upper.fsync(made.ino()).await?;
                self.upper.link(dir, &node.name, made.ino()).await?
            }
        };
        self.nodes.set_upper(room, node, upper);
        // Its directory has the same names as before.
        let times = SetAttr {
            atime: Some(was.atime),
            mtime: Some(was.mtime),
            ..SetAttr::default()
        };
        self.upper.set_attr(dir, &times).await.map(drop)
    }

    /// Copies the pages that have something else than zeros.
    async fn copy_contents(&self, from: Ino, to: Ino, size: u64) -> Result {
        let (mut block, mut at) = (Block::vacant(), 0);
        while at < size {
            let count = self.lower.read(from, at, &mut block).await?;
            let bytes = block.as_slice().get(..count).ok_or(EIO)?;
            if bytes.iter().any(|byte| *byte != 0) {
                let (_, written) = self.upper.write_bytes(to, Some(at), bytes).await?;
                if written != count {
                    return Err(ENOSPC);
                }
            }
            if count < Block::SIZE {
                break;
            }
            at += count as u64;
        }
        self.upper.truncate(to, size).await.map(drop)
    }

    /// Gives a copy the attributes, the lists, and the times of what it is of.
    pub(super) async fn copy_attributes<F: AsyncStackable>(
        &self,
        of: &F,
        from: Ino,
        to: Ino,
        attr: &Attr,
    ) -> Result {
        let wanted = |name: &[u8]| !name.starts_with(OWN);
        copy_attributes((of, from), attr, (&self.upper, to), wanted).await
    }
}
