// SPDX-License-Identifier: GPL-2.0

//! Names that go.
//!
//! An inode whose last name goes is without links from then on, and on the list of
//! [orphans](crate::orphan). Its contents stay until its last user lets go of it.

use crate::dir::{Found, Holds};
use crate::dir_write::{check_name, Change, LinkPlan};
use crate::error::{corrupted, About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_lock::lock_inodes;
use crate::journal::Credits;
use crate::memory;
use crate::orphan::OrphanAdd;
use kernel::prelude::*;
use layout::inode_edit::links_after_unlink;
use layout::{dir_edit, inline_dir_edit, DataMap, Lblk};

impl Ext4 {
    /// Removes the name of something that is no directory, and is `child`.
    ///
    /// Fails with `ENOENT` if there is no such name, and with `ESTALE` if it leads elsewhere; with
    /// `EISDIR`; with `EINVAL` and `ENAMETOOLONG` for a name that none can have; with `ENOKEY` in
    /// an encrypted directory; with `EROFS`; with `EUCLEAN` if the volume is damaged; with `EIO`,
    /// `ENOMEM`.
    ///
    /// # Cancellation
    ///
    /// The name stays, or goes.
    pub async fn unlink(&self, dir: &InodeInfo, name: &[u8], child: &InodeInfo) -> Result {
        if child.is_dir() {
            return Err(EISDIR);
        }
        self.remove(dir, name, child).await?;
        self.sync_names(&[dir]).await
    }

    /// Removes the directory `child`, which has no names in it.
    ///
    /// Fails as [`unlink`](Self::unlink), with `ENOTDIR`, and with `ENOTEMPTY`.
    ///
    /// # Cancellation
    ///
    /// The directory stays, or goes.
    pub async fn rmdir(&self, dir: &InodeInfo, name: &[u8], child: &InodeInfo) -> Result {
        if !child.is_dir() {
            return Err(ENOTDIR);
        }
        self.remove(dir, name, child).await?;
        self.sync_names(&[dir]).await
    }

    async fn remove(&self, dir: &InodeInfo, name: &[u8], child: &InodeInfo) -> Result {
        let writable = self.writable()?;
        if dir.ino == child.ino {
            return Err(EINVAL);
        }
        let _locks = lock_inodes([Some(dir), Some(child), None, None]).await?;
        let found = self.find_child(dir, name, child).await?;
        let mut parent = self.plan_name(dir).await?;
        parent.change(self, Change::Remove { found }).await?;
        if child.is_dir() {
            if !memory::pinned(|| self.is_empty(child)).await?.await? {
                return Err(ENOTEMPTY);
            }
            parent.set_links(links_after_unlink(dir.look(|dir| dir.links), true));
        }
        let mut target = self.plan_link(child).await?;
        let left = self.links_left(child)?;
        target.set_links(left);
        let orphan = match left {
            0 => self.plan_orphan_add(child.ino).await?,
            _ => None,
        };
        let mut credits = Credits::blocks(parent.credits()).and(LinkPlan::CREDITS);
        if orphan.is_some() {
            credits.blocks += OrphanAdd::CREDITS.blocks;
        }
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        parent.apply(self, &mut tx);
        match orphan {
            Some(orphan) => orphan.apply(self, &mut tx, |tx, next| {
                target.set_dtime(next);
                target.apply(self, tx);
            }),
            None => target.apply(self, &mut tx),
        }
        Ok(())
    }

    /// Finds a name that leads to `child`, in a directory whose lock the caller has.
    pub(crate) async fn find_child(
        &self,
        dir: &InodeInfo,
        name: &[u8],
        child: &InodeInfo,
    ) -> Result<Found> {
        self.check_dir(dir)?;
        check_name(name)?;
        match self.find(dir, name).await? {
            None => Err(ENOENT),
            Some(found) if found.ino == child.ino => Ok(found),
            Some(_) => Err(ESTALE),
        }
    }

    /// How many links an inode has when it has one fewer: a directory none.
    pub(crate) fn links_left(&self, child: &InodeInfo) -> Result<u16> {
        let links = child.look(|child| child.links);
        if links == 0 {
            self.report(&format_args!(
                "inode {}: a name leads to it, and it has no links",
                child.ino
            ));
            return Err(corrupted());
        }
        Ok(match child.is_dir() {
            true => 0,
            false => links_after_unlink(links, false),
        })
    }

    /// Whether a directory, whose lock the caller has, has no names but "." and "..".
    pub(crate) async fn is_empty(&self, dir: &InodeInfo) -> Result<bool> {
        let geo = &self.sb.geo;
        if dir.data_map() == DataMap::Inline {
            let buffer = self.inode_buffer(dir).await?;
            let inline = self.inline_dir(dir, &buffer)?;
            return inline_dir_edit::is_empty(&inline).or_report(self, About::inode(dir.ino));
        }
        let holds = match dir.is_indexed() {
            true => Holds::Either,
            false => Holds::Entries,
        };
        for lblk in 0..self.dir_blocks(dir)? {
            self.checkpoint(lblk).await?;
            let (buffer, about) = self.dir_block(dir, Lblk(lblk), holds, 16).await?;
            let empty = dir_edit::is_empty(buffer.data(), Lblk(lblk), dir.ino, geo);
            if !empty.or_report(self, about)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
