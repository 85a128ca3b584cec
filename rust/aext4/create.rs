// SPDX-License-Identifier: GPL-2.0

//! New names: of new inodes, and of those that have a name.
//!
//! # Concurrency
//!
//! Who makes a name has the directory's `rwsem`, and that of the inode that is linked, from the
//! first look to the end of the transaction.

use crate::dir_write::{Change, LinkPlan};
use crate::error::corrupted;
use crate::ext4::Ext4;
use crate::inode_info::{InodeInfo, InodeRef};
use crate::inode_lock::lock_inodes;
use crate::journal::{Credits, Transaction};
use crate::memory;
use crate::new_inode::{Contents, NewInode};
use crate::orphan::{OrphanAdd, OrphanRemove};
use kernel::prelude::*;
use layout::inode_edit::links_after_link;
use layout::{FileType, InodeFlags};

impl Ext4 {
    /// Makes a file, a directory, a device, a pipe or a socket, by `new.mode`, and gives it a name.
    ///
    /// Fails with `EEXIST`; with `ENOENT` if the directory was removed; with `ENAMETOOLONG`, and
    /// `EINVAL` for a name that none can have, or a mode that needs more (a link); with `EMLINK`,
    /// `ENOSPC`; with `ENOKEY` in an encrypted directory; with `EROFS`; with `EUCLEAN` if the
    /// volume is damaged; with `EIO`, `ENOMEM`.
    ///
    /// # Cancellation
    ///
    /// There is no such name, or it is made.
    pub async fn create(
        &self,
        dir: &InodeInfo,
        name: &[u8],
        new: &NewInode<'_>,
    ) -> Result<InodeRef> {
        let contents = match FileType::from_mode(new.mode).ok_or(EINVAL)? {
            FileType::Directory => Contents::Directory,
            FileType::Symlink => return Err(EINVAL),
            _ => Contents::Empty,
        };
        let made = self.make(dir, name, new, contents).await?;
        self.sync_names(&[dir]).await?;
        Ok(made)
    }

    /// Makes a symbolic link to `target`. The type in `new.mode` does not count.
    ///
    /// Fails as [`create`](Self::create), with `ENOENT` for an empty target, and with
    /// `ENAMETOOLONG` for one that does not fit a block, with a zero behind it.
    ///
    /// # Cancellation
    ///
    /// As for [`create`](Self::create).
    pub async fn symlink(
        &self,
        dir: &InodeInfo,
        name: &[u8],
        target: &[u8],
        new: &NewInode<'_>,
    ) -> Result<InodeRef> {
        if target.is_empty() || target.contains(&0) {
            return Err(ENOENT);
        }
        if target.len() >= self.sb.geo.block_size() as usize {
            return Err(ENAMETOOLONG);
        }
        let new = NewInode {
            mode: 0o120_000 | new.mode & 0o7777,
            ..*new
        };
        let contents = Contents::Target(target);
        let made = self.make(dir, name, &new, contents).await?;
        self.sync_names(&[dir]).await?;
        Ok(made)
    }

    async fn make(
        &self,
        dir: &InodeInfo,
        name: &[u8],
        new: &NewInode<'_>,
        contents: Contents<'_>,
    ) -> Result<InodeRef> {
        let is_dir = matches!(contents, Contents::Directory);
        let writable = self.writable()?;
        let _lock = dir.rwsem.write().await.map_err(|_| EIO)?;
        let (name, room) = self.place_new(&writable, dir, name).await?;
        let mut parent = self.plan_name(dir).await?;
        if is_dir {
            let (links, indexed) = dir.look(|dir| (dir.links, dir.is_indexed()));
            let links = links_after_link(links, true, indexed, &self.sb.geo);
            parent.set_links(links.ok_or(EMLINK)?);
        }
        let links = 1 + u16::from(is_dir);
        let plan = || self.plan_node(&writable, dir, name.bytes(), new, contents, links);
        let node = memory::pinned(plan).await?.await?;
        let (ino, file_type) = (node.ino(), node.info().file_type);
        let change = Change::Insert {
            room,
            name,
            ino,
            file_type,
        };
        parent.change(self, change).await?;
        let mut credits = node.credits();
        credits.blocks += parent.credits();
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        let info = node.apply(self, &mut tx, 0);
        parent.apply(self, &mut tx);
        drop(tx);
        Ok(self.enter_node(info))
    }

    /// Checks that names of `dir` can be changed.
    pub(crate) fn check_dir(&self, dir: &InodeInfo) -> Result {
        if !dir.is_dir() {
            return Err(ENOTDIR);
        }
        if dir.is_deleted() {
            return Err(ENOENT);
        }
        if dir.flags().has(InodeFlags::ENCRYPT) {
            return Err(ENOKEY);
        }
        Ok(())
    }

    /// Waits until what was changed of directories is durable, if they are to be changed so.
    pub(crate) async fn sync_names(&self, dirs: &[&InodeInfo]) -> Result {
        for dir in dirs {
            let flags = dir.flags();
            if flags.has(InodeFlags::DIRSYNC) || flags.has(InodeFlags::SYNC) {
                memory::pinned(|| self.sync_inode(dir)).await?.await?;
            }
        }
        Ok(())
    }

    /// Makes a file without a name, near `dir`. It is deleted with its last user, or after a loss
    /// of power, unless [`link`](Self::link) gives it a name before.
    ///
    /// Fails as [`create`](Self::create), and with `EINVAL` for a directory or a link.
    ///
    /// # Cancellation
    ///
    /// There is no such file.
    pub async fn tmpfile(&self, dir: &InodeInfo, new: &NewInode<'_>) -> Result<InodeRef> {
        match FileType::from_mode(new.mode) {
            None | Some(FileType::Directory | FileType::Symlink) => Err(EINVAL),
            Some(_) => self.make_tmpfile(dir, new).await,
        }
    }

    async fn make_tmpfile(&self, dir: &InodeInfo, new: &NewInode<'_>) -> Result<InodeRef> {
        let writable = self.writable()?;
        let _lock = dir.rwsem.read().await.map_err(|_| EIO)?;
        self.check_dir(dir)?;
        let plan = || self.plan_node(&writable, dir, b"", new, Contents::Empty, 0);
        let node = memory::pinned(plan).await?.await?;
        let orphan = self.plan_orphan_add(node.ino()).await?;
        // Its number is free, so it is not on the list.
        let orphan = orphan.ok_or_else(corrupted)?;
        let mut credits = node.credits();
        credits.blocks += OrphanAdd::CREDITS.blocks;
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        let mut made = None;
        orphan.apply(self, &mut tx, |tx, next| {
            made = Some(node.apply(self, tx, next));
        });
        drop(tx);
        Ok(self.enter_node(made.ok_or(EIO)?))
    }

    /// Gives an inode one more name. One without any, as [`tmpfile`](Self::tmpfile) makes it, is
    /// deleted no more; whether other removed ones are to be had again is for the caller to say:
    /// with `usable` they are if they have a [handle](InodeInfo::is_usable).
    ///
    /// Fails as [`create`](Self::create), with `EPERM` for a directory, with `EXDEV` if the
    /// directory wants another project, with `EMLINK`, and with `ESTALE` for an inode that is not
    /// usable.
    ///
    /// # Cancellation
    ///
    /// There is no such name, or it is made.
    pub async fn link(
        &self,
        dir: &InodeInfo,
        name: &[u8],
        inode: &InodeInfo,
        usable: bool,
    ) -> Result {
        if inode.is_dir() {
            return Err(EPERM);
        }
        self.make_link(dir, name, inode, usable).await?;
        self.sync_names(&[dir]).await
    }

    async fn make_link(
        &self,
        dir: &InodeInfo,
        name: &[u8],
        inode: &InodeInfo,
        usable: bool,
    ) -> Result {
        let writable = self.writable()?;
        let _locks = lock_inodes([Some(dir), Some(inode), None, None]).await?;
        self.check_dir(dir)?;
        // It may have lost its last name since the caller found it.
        if usable && !inode.is_usable() {
            return Err(ESTALE);
        }
        self.check_project_of(dir, inode)?;
        let links = inode.look(|inode| inode.links);
        let more = links_after_link(links, false, false, &self.sb.geo).ok_or(EMLINK)?;
        let (name, room) = self.place_new(&writable, dir, name).await?;
        let mut parent = self.plan_name(dir).await?;
        let change = Change::Insert {
            room,
            name,
            ino: inode.ino,
            file_type: inode.file_type,
        };
        parent.change(self, change).await?;
        let mut child = self.plan_link(inode).await?;
        child.set_links(more);
        let orphan = match links {
            0 => Some(self.plan_orphan_remove(inode.ino).await?.ok_or(ENOENT)?),
            _ => None,
        };
        let mut credits = Credits::blocks(parent.credits()).and(LinkPlan::CREDITS);
        if orphan.is_some() {
            child.set_dtime(0);
            credits.blocks += OrphanRemove::CREDITS.blocks;
        }
        let mut tx: Transaction<'_> = writable.journal.begin(&self.cache, credits).await?;
        if let Some(orphan) = orphan {
            orphan.apply(self, &mut tx);
        }
        child.apply(self, &mut tx);
        parent.apply(self, &mut tx);
        Ok(())
    }

    /// Checks that an inode can have a name in `dir`, by their projects.
    pub(crate) fn check_project_of(&self, dir: &InodeInfo, inode: &InodeInfo) -> Result {
        let (flags, project) = dir.look(|dir| (dir.flags, dir.project));
        match flags.has(InodeFlags::PROJINHERIT) && inode.look(|inode| inode.project) != project {
            true => Err(EXDEV),
            false => Ok(()),
        }
    }
}
