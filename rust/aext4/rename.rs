// SPDX-License-Identifier: GPL-2.0

//! Names that move: to another name, another directory, over or against an existing one.
//!
//! It is one transaction: whoever looks, also after a loss of power, finds the old names or the new
//! ones. Room for a new name is made before.
//!
//! # Concurrency
//!
//! Whoever moves something to another directory has the volume's mutex for moves, before all other
//! locks. So ".." of all directories stays as it is, but for removed ones, and a walk along it tells
//! whether a directory would be moved into itself. The walk has the lock of one directory at a time,
//! to read. Then the locks of both directories, and of what moves, are taken, and the names are
//! looked at again.

use crate::dir::Found;
use crate::dir_write::{check_name, Change, NamePlan, Room};
use crate::error::corrupted;
use crate::ext4::Ext4;
use crate::inode_info::{InodeInfo, NewInfo};
use crate::inode_lock::lock_inodes;
use crate::inode_plan::Writable;
use crate::journal::{Credits, Transaction};
use crate::memory;
use crate::new_inode::{Contents, NewInode, NodePlan};
use crate::orphan::OrphanAdd;
use kernel::prelude::*;
use layout::inode_edit::{links_after_link, links_after_unlink};
use layout::{Device, Ino};

/// What moves, and where.
#[derive(Clone, Copy)]
pub struct Rename<'a> {
    /// The directory that has the name.
    pub from: &'a InodeInfo,
    /// The name.
    pub name: &'a [u8],
    /// What the name leads to.
    pub source: &'a InodeInfo,
    /// The directory of the new name.
    pub to: &'a InodeInfo,
    /// The new name.
    pub new_name: &'a [u8],
    /// What has the new name, and loses it.
    pub target: Option<&'a InodeInfo>,
    /// The target gets the old name.
    pub exchange: bool,
    /// What gets the old name: a device 0:0 with these permissions and owners.
    pub whiteout: Option<&'a NewInode<'a>>,
}

/// What is planned of a rename.
struct Plan<'a> {
    from: NamePlan<'a>,
    /// Unless it is the same directory.
    to: Option<NamePlan<'a>>,
    source: NamePlan<'a>,
    target: Option<NamePlan<'a>>,
    whiteout: Option<NodePlan<'a>>,
}

impl Ext4 {
    /// Gives `source` the new name instead of the old. If both lead to the same inode, nothing is
    /// done.
    ///
    /// Fails with `ENOENT` if there is no old name, or no target to be exchanged, and with `ESTALE`
    /// if a name leads elsewhere; with `EEXIST` if the new name is there, and no target was given;
    /// with `EINVAL` for a directory that would be moved into itself, for an exchange with a
    /// whiteout, and for names that none can have; with `ENOTEMPTY`, `ENOTDIR` and `EISDIR` if the
    /// target cannot be replaced; with `EXDEV` if a directory wants another project; with `EMLINK`,
    /// `ENAMETOOLONG`, `ENOSPC`; with `ENOKEY` in encrypted directories; with `EROFS`; with
    /// `EUCLEAN` if the volume is damaged; with `EIO`, `ENOMEM`.
    ///
    /// # Cancellation
    ///
    /// All has been done, or nothing.
    pub async fn rename(&self, rename: Rename<'_>) -> Result {
        self.move_name(&rename).await?;
        self.sync_names(&[rename.from, rename.to]).await
    }

    async fn move_name(&self, rename: &Rename<'_>) -> Result {
        let writable = self.writable()?;
        check_name(rename.name)?;
        let new_name = check_name(rename.new_name)?;
        if rename.exchange && rename.whiteout.is_some() {
            return Err(EINVAL);
        }
        if rename.exchange && rename.target.is_none() {
            return Err(ENOENT);
        }
        let across = rename.from.ino != rename.to.ino;
        let _moves = match across {
            true => Some(self.moves.lock().await.map_err(|_| EIO)?),
            false => None,
        };
        memory::pinned(|| self.check_loop(rename, across))
            .await?
            .await?;
        let (from, to) = (Some(rename.from), Some(rename.to));
        let _locks = lock_inodes([from, to, Some(rename.source), rename.target]).await?;
        if !self.check_rename(rename).await? {
            return Ok(());
        }
        let room = match rename.target {
            Some(_) => None,
            None => Some(self.make_room(&writable, rename.to, new_name).await?),
        };
        let plan = || self.plan_rename(&writable, rename, across, room);
        let mut plan = disk::pinned(plan)?.await?;
        let mut orphan = None;
        if let Some(target) = rename.target.filter(|_| !rename.exchange) {
            let left = self.links_left(target)?;
            if let Some(target) = &mut plan.target {
                target.set_links(left);
            }
            if left == 0 {
                orphan = self.plan_orphan_add(target.ino).await?;
            }
        }
        let mut credits = plan.credits();
        if orphan.is_some() {
            credits = credits.and(OrphanAdd::CREDITS);
        }
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        let whiteout = Plan::apply(plan, self, &mut tx, orphan);
        drop(tx);
        if let Some(whiteout) = whiteout {
            drop(self.enter_node(whiteout));
        }
        Ok(())
    }

    /// Checks that no directory would be moved into itself.
    async fn check_loop(&self, rename: &Rename<'_>, across: bool) -> Result {
        let (from, to, source) = (rename.from.ino, rename.to.ino, rename.source.ino);
        if source == to || source == from {
            return Err(EINVAL);
        }
        let target = rename.target.filter(|target| target.is_dir());
        if target.is_some_and(|target| target.ino == from || target.ino == to) {
            return Err(if rename.exchange { EINVAL } else { ENOTEMPTY });
        }
        if !across {
            return Ok(());
        }
        if rename.source.is_dir() && self.is_below(to, source).await? {
            return Err(EINVAL);
        }
        if let Some(target) = target.filter(|_| rename.exchange) {
            if self.is_below(from, target.ino).await? {
                return Err(EINVAL);
            }
        }
        Ok(())
    }

    /// Whether a directory is `top`, or below it. The caller has the mutex for moves.
    async fn is_below(&self, dir: Ino, top: Ino) -> Result<bool> {
        let mut at = dir;
        // A damaged volume may lead round and round.
        for depth in 0..self.sb.geo.inodes_count() {
            if at == top {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            self.checkpoint(depth).await?;
            let dir = self.iget_user(at).await?;
            let _lock = dir.rwsem.read().await.map_err(|_| EIO)?;
            match self.find(&dir, b"..").await? {
                Some(found) => at = found.ino,
                None => return Err(self.no_parent(at)),
            }
        }
        Err(self.no_parent(dir))
    }

    #[cold]
    fn no_parent(&self, dir: Ino) -> Error {
        self.report(&format_args!("inode {dir}, directory: '..' leads nowhere"));
        corrupted()
    }

    /// Checks what the names lead to, and whether the target can be replaced. Returns whether there
    /// is something to do.
    async fn check_rename(&self, rename: &Rename<'_>) -> Result<bool> {
        let (source, to) = (rename.source, rename.to);
        self.find_child(rename.from, rename.name, source).await?;
        self.check_dir(to)?;
        let found = self.find(to, rename.new_name).await?;
        match (found, rename.target) {
            (None, None) => {}
            (Some(_), None) => return Err(EEXIST),
            (Some(found), Some(target)) if found.ino == target.ino => {}
            (_, Some(_)) => return Err(ESTALE),
        }
        self.check_project_of(to, source)?;
        let Some(target) = rename.target else {
            return Ok(true);
        };
        if target.ino == source.ino {
            return Ok(false);
        }
        if rename.exchange {
            self.check_project_of(rename.from, target)?;
            return Ok(true);
        }
        match (source.is_dir(), target.is_dir()) {
            (true, false) => return Err(ENOTDIR),
            (false, true) => return Err(EISDIR),
            (true, true) if !self.is_empty(target).await? => return Err(ENOTEMPTY),
            _ => {}
        }
        Ok(true)
    }

    /// Plans all but the links of the target.
    async fn plan_rename<'a>(
        &'a self,
        writable: &Writable,
        rename: &Rename<'a>,
        across: bool,
        room: Option<Room>,
    ) -> Result<KBox<Plan<'a>>> {
        let Rename {
            from, source, to, ..
        } = *rename;
        // Where the old name is now that there is room for the new one.
        let old = self.find_child(from, rename.name, source).await?;
        let whiteout = match rename.whiteout {
            Some(new) => {
                let new = NewInode {
                    mode: 0o020_000 | new.mode & 0o7777,
                    device: Some(Device { major: 0, minor: 0 }),
                    ..*new
                };
                let contents = Contents::Empty;
                let node = || self.plan_node(writable, from, rename.name, &new, contents, 1);
                let node = memory::pinned(node).await?;
                Some(node.await?)
            }
            None => None,
        };
        let mut from_plan = self.plan_name(from).await?;
        let mut to_plan = match across {
            true => Some(self.plan_name(to).await?),
            false => None,
        };
        let mut source_plan = self.plan_name(source).await?;
        let mut target_plan = match rename.target {
            Some(target) => Some(self.plan_name(target).await?),
            None => None,
        };
        // The new name comes first: it may lie in the room behind the old one.
        let new = self.new_entry(rename, room).await?;
        let place = to_plan.as_mut().unwrap_or(&mut from_plan);
        place.change(self, new).await?;
        let gone = match (rename.exchange, rename.target, &whiteout) {
            (true, Some(target), _) => Change::Lead {
                found: old,
                ino: target.ino,
                file_type: target.file_type,
            },
            (_, _, Some(whiteout)) => Change::Lead {
                found: old,
                ino: whiteout.ino(),
                file_type: whiteout.info().file_type,
            },
            _ => Change::Remove { found: old },
        };
        from_plan.change(self, gone).await?;
        if across && source.is_dir() {
            let found = self.parent_of(source, from).await?;
            let ino = to.ino;
            let change = Change::Parent { found, ino };
            source_plan.change(self, change).await?;
        }
        if let Some(target) = rename.target.filter(|target| target.is_dir()) {
            if let Some(plan) = target_plan.as_mut().filter(|_| across && rename.exchange) {
                let found = self.parent_of(target, to).await?;
                let ino = from.ino;
                plan.change(self, Change::Parent { found, ino }).await?;
            }
        }
        let (less, more) = self.parents_links(rename, across)?;
        if let Some(links) = less {
            from_plan.set_links(links);
        }
        if let (Some(links), Some(to_plan)) = (more, &mut to_plan) {
            to_plan.set_links(links);
        }
        let memory = memory::uninit().await?;
        let plan = Plan {
            from: from_plan,
            to: to_plan,
            source: source_plan,
            target: target_plan,
            whiteout,
        };
        Ok(KBox::write(memory, plan))
    }

    /// What becomes of the entry with the new name.
    async fn new_entry<'a>(&self, rename: &Rename<'a>, room: Option<Room>) -> Result<Change<'a>> {
        let (ino, file_type) = (rename.source.ino, rename.source.file_type);
        Ok(match room {
            Some(room) => Change::Insert {
                room,
                name: check_name(rename.new_name)?,
                ino,
                file_type,
            },
            None => Change::Lead {
                found: self.find(rename.to, rename.new_name).await?.ok_or(ESTALE)?,
                ino,
                file_type,
            },
        })
    }

    /// The entry ".." of a directory, which has to lead to `parent`.
    async fn parent_of(&self, dir: &InodeInfo, parent: &InodeInfo) -> Result<Found> {
        let found = self.find(dir, b"..").await?;
        let found = found.filter(|found| found.ino == parent.ino);
        found.ok_or_else(|| self.no_parent(dir.ino))
    }

    /// How many links the two directories will have, if that changes.
    fn parents_links(
        &self,
        rename: &Rename<'_>,
        across: bool,
    ) -> Result<(Option<u16>, Option<u16>)> {
        let links = |dir: &InodeInfo| dir.look(|dir| (dir.links, dir.is_indexed()));
        let more = |dir: &InodeInfo| {
            let (links, indexed) = links(dir);
            links_after_link(links, true, indexed, &self.sb.geo).ok_or(EMLINK)
        };
        let less = |dir: &InodeInfo| links_after_unlink(links(dir).0, true);
        let comes = rename.source.is_dir();
        let goes = rename.target.is_some_and(InodeInfo::is_dir);
        let (from, to) = (rename.from, rename.to);
        Ok(match (across, comes, goes) {
            // In one directory the target is lost, if it does not get the other name.
            (false, true, true) if !rename.exchange => (Some(less(from)), None),
            (false, ..) => (None, None),
            (true, true, false) => (Some(less(from)), Some(more(to)?)),
            (true, false, true) if rename.exchange => (Some(more(from)?), Some(less(to))),
            (true, true, true) if !rename.exchange => (Some(less(from)), None),
            (true, ..) => (None, None),
        })
    }
}

impl Plan<'_> {
    fn credits(&self) -> Credits {
        let dirs = [Some(&self.from), self.to.as_ref()];
        let inodes = [Some(&self.source), self.target.as_ref()];
        let plans = Iterator::chain(dirs.into_iter(), inodes);
        let blocks = plans.flatten().map(|plan| plan.credits()).sum();
        let whiteout = self.whiteout.as_ref().map(|node| node.credits());
        Credits::blocks(blocks).and(whiteout.unwrap_or_default())
    }

    /// Does all of it. Gives the whiteout, to be entered into the table.
    fn apply(
        mut this: KBox<Self>,
        volume: &Ext4,
        tx: &mut Transaction<'_>,
        orphan: Option<OrphanAdd<'_>>,
    ) -> Option<NewInfo> {
        let whiteout = this.whiteout.take();
        let whiteout = whiteout.map(|node| node.apply(volume, tx, 0));
        if let Some(to) = &mut this.to {
            to.apply(volume, tx);
        }
        this.from.apply(volume, tx);
        this.source.apply(volume, tx);
        match (&mut this.target, orphan) {
            (Some(target), Some(orphan)) => orphan.apply(volume, tx, |tx, next| {
                target.set_dtime(next);
                target.apply(volume, tx);
            }),
            (Some(target), None) => target.apply(volume, tx),
            (None, _) => {}
        }
        whiteout
    }
}
