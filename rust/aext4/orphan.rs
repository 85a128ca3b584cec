// SPDX-License-Identifier: GPL-2.0

//! The list of orphans: inodes of which something is still to be freed, if the power fails.
//!
//! An inode without links is on it until its last user lets go of it and it is deleted; one that is
//! being truncated, until that is done. The first is named in the superblock, and each has the
//! number of the next where others have the time of their deletion. All of it changes in the
//! transactions that make an inode an orphan, or none. So after a loss of power the list is right,
//! and the next mount for writing, ours or ext4's, does what is still to be done.
//!
//! An inode comes to the head of the list: that changes the superblock and the inode. One that
//! leaves changes the one before, which may be any inode, or the superblock.
//!
//! # Concurrency
//!
//! The list is in memory, too, under a mutex of the volume. Whoever plans to change it holds the
//! mutex until the transaction has, so that the one before stays the one before. That is a short
//! time, but `begin` may wait for space in the log with it; what makes space needs no orphans. It is
//! the last lock before `begin`. Dropping a plan gives the mutex back, and the list is as it was.

use crate::error::{About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::InodeRef;
use crate::journal::{Credits, Transaction};
use crate::memory::{self, Spares};
use crate::super_plan::SuperPlan;
use disk::{gfp, Level, Planned};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use layout::super_edit::{self, SuperEdit};
use layout::{Ino, InodeEdit, SuperBlock};
use upcall::MutexGuard;

/// The orphans of a volume, as they are in memory.
pub struct OrphanList {
    head: Option<u32>,
    inodes: RBTree<u32, Neighbours>,
    spares: Spares<u32, Neighbours>,
}

/// What is before an orphan, and behind it.
#[derive(Clone, Copy, Default)]
struct Neighbours {
    before: Option<u32>,
    next: Option<u32>,
}

type Memory = RBTreeNodeReservation<u32, Neighbours>;

impl OrphanList {
    pub(crate) fn new() -> Self {
        Self {
            head: None,
            inodes: RBTree::new(),
            spares: Spares::new(),
        }
    }

    fn has(&self, ino: u32) -> bool {
        self.inodes.get(&ino).is_some()
    }

    /// Puts an inode in front, which is not on the list. Gives the one that was.
    fn push(&mut self, ino: u32, memory: Memory) -> Option<u32> {
        let next = self.head.replace(ino);
        if let Some(next) = next.and_then(|next| self.inodes.get_mut(&next)) {
            next.before = Some(ino);
        }
        let at = Neighbours { before: None, next };
        self.inodes.insert(memory.into_node(ino, at));
        next
    }

    /// Puts an inode, which is not on the list, behind `last`, the last of it.
    fn append(&mut self, last: Option<u32>, ino: u32, memory: Memory) {
        match last {
            Some(last) => {
                if let Some(last) = self.inodes.get_mut(&last) {
                    last.next = Some(ino);
                }
            }
            None => self.head = Some(ino),
        }
        let at = Neighbours {
            before: last,
            next: None,
        };
        self.inodes.insert(memory.into_node(ino, at));
    }

    /// Takes an inode out. Gives what was behind it.
    fn remove(&mut self, ino: u32) -> Option<Option<u32>> {
        let at = *self.inodes.get(&ino)?;
        let node = self.inodes.remove_node(&ino)?;
        match at.before {
            Some(before) => {
                if let Some(before) = self.inodes.get_mut(&before) {
                    before.next = at.next;
                }
            }
            None => self.head = at.next,
        }
        if let Some(next) = at.next.and_then(|next| self.inodes.get_mut(&next)) {
            next.before = at.before;
        }
        drop(self.spares.keep(node));
        Some(at.next)
    }
}

/// An inode that is about to be put on the list. Nobody else changes the list meanwhile.
///
/// # Cancellation
///
/// Dropping it leaves the list as it is.
pub struct OrphanAdd<'a> {
    list: MutexGuard<'a, OrphanList>,
    ino: u32,
    memory: Memory,
    plan: SuperPlan,
}

/// An inode that is about to be taken off the list. Nobody else changes the list meanwhile.
///
/// # Cancellation
///
/// Dropping it leaves the list as it is.
pub struct OrphanRemove<'a> {
    list: MutexGuard<'a, OrphanList>,
    ino: u32,
    before: Before,
}

/// What has the number of an orphan.
enum Before {
    Super(SuperPlan),
    Inode {
        ino: Ino,
        planned: Planned,
        offset: u32,
    },
}

impl Ext4 {
    /// Plans to put an inode on the list of orphans; `None` if it is there.
    ///
    /// It is the last thing to be planned before `begin`: others wait until it is applied, or
    /// dropped. The inode's block is planned by the caller, who sets what
    /// [`OrphanAdd::apply`] tells.
    ///
    /// # Cancellation
    ///
    /// The list stays as it is.
    pub async fn plan_orphan_add(&self, ino: Ino) -> Result<Option<OrphanAdd<'_>>> {
        let mut memory = None;
        let (list, memory) = loop {
            let mut list = self.orphans.lock().await.map_err(|_| EROFS)?;
            if list.has(ino.0) {
                return Ok(None);
            }
            if let Some(memory) = memory.take().or_else(|| list.spares.take()) {
                break (list, memory);
            }
            // Who makes memory free may want the list.
            drop(list);
            memory = Some(memory::tree_node().await?);
        };
        let plan = self.plan_super().await?;
        Ok(Some(OrphanAdd {
            list,
            ino: ino.0,
            memory,
            plan,
        }))
    }

    /// Plans to take an inode off the list of orphans; `None` if it is not there. As
    /// [`plan_orphan_add`](Self::plan_orphan_add).
    pub async fn plan_orphan_remove(&self, ino: Ino) -> Result<Option<OrphanRemove<'_>>> {
        let list = self.orphans.lock().await.map_err(|_| EROFS)?;
        let Some(at) = list.inodes.get(&ino.0).copied() else {
            return Ok(None);
        };
        let before = match at.before.map(Ino) {
            None => Before::Super(self.plan_super().await?),
            Some(before) => {
                let place = self.inode_place(before);
                let (block, offset) = place.or_report(self, About::inode(before))?;
                let planned = self.plan_edit(block.0).await?;
                Before::Inode {
                    ino: before,
                    planned,
                    offset,
                }
            }
        };
        Ok(Some(OrphanRemove {
            list,
            ino: ino.0,
            before,
        }))
    }

    /// Whether an inode is on the list of orphans.
    pub async fn is_orphan(&self, ino: Ino) -> Result<bool> {
        Ok(self.orphans.lock().await.map_err(|_| EROFS)?.has(ino.0))
    }
}

impl OrphanAdd<'_> {
    /// What [`apply`](Self::apply) takes of the transaction's credits, beside the inode's.
    pub const CREDITS: Credits = SuperPlan::CREDITS;

    /// Puts the inode in front of the list. `change` changes the inode's bytes: they have `next`,
    /// which it is given, by [`InodeEdit::set_dtime`]. Does not sleep, and does not fail.
    pub fn apply(
        mut self,
        volume: &Ext4,
        tx: &mut Transaction<'_>,
        change: impl FnOnce(&mut Transaction<'_>, u32),
    ) {
        let ino = self.ino;
        let next = self.list.push(ino, self.memory);
        self.plan.apply(volume, tx, |edit: &mut SuperEdit<'_>| {
            edit.set_last_orphan(Some(Ino(ino)));
        });
        change(tx, next.unwrap_or(0));
    }
}

impl OrphanRemove<'_> {
    /// What [`apply`](Self::apply) takes of the transaction's credits, beside the inode's.
    pub const CREDITS: Credits = Credits::blocks(1);

    /// Takes the inode off the list. The caller sets its time of deletion, to 0 if it has links.
    /// Does not sleep, and does not fail.
    pub fn apply(mut self, volume: &Ext4, tx: &mut Transaction<'_>) {
        let Some(next) = self.list.remove(self.ino) else {
            return;
        };
        match self.before {
            Before::Super(plan) => plan.apply(volume, tx, |edit: &mut SuperEdit<'_>| {
                edit.set_last_orphan(next.map(Ino));
            }),
            Before::Inode {
                ino,
                planned,
                offset,
            } => {
                let geo = &volume.sb.geo;
                let edited = tx.edit(planned, |block| {
                    let raw = block.get_mut(offset as usize..)?;
                    let mut edit = InodeEdit::new(raw, geo)?;
                    edit.set_dtime(next.unwrap_or(0));
                    edit.seal(ino);
                    Some(())
                });
                if edited.is_none() {
                    kernel::warn_on!(true);
                }
            }
        }
    }
}

impl Ext4 {
    /// Reads the list of orphans from the disk, before anything else changes the volume, and does
    /// what is still to be done.
    ///
    /// What cannot be is left on the list, with a line in the log. Fails with the errors of the
    /// block layer and `ENOMEM`.
    pub async fn clean_orphans(&self) -> Result {
        let mut orphans = self.load_orphans().await?;
        self.adopt_orphans(&mut orphans).await?;
        let (mut deleted, mut truncated) = (0, 0);
        // Not by an iterator: it would not be `Send` across the await.
        while let Some(orphan) = orphans.pop() {
            let (ino, gone) = (orphan.ino, orphan.is_deleted());
            let done = match gone {
                true => self.delete(orphan).await,
                false => self.truncate_orphan(&orphan).await,
            };
            match done {
                Ok(()) if gone => deleted += 1,
                Ok(()) => truncated += 1,
                Err(error) => self.report(&format_args!(
                    "inode {ino}, an orphan: error {} cleaning up",
                    error.to_errno()
                )),
            }
        }
        if deleted + truncated > 0 {
            self.disk.log(
                Level::Info,
                format_args!("orphans: {deleted} deleted, {truncated} truncated"),
            );
        }
        Ok(())
    }

    /// Makes the list in memory what the disk has, and reads the inodes. Damage ends the list.
    async fn load_orphans(&self) -> Result<KVVec<InodeRef>> {
        let mut list = self.orphans.lock().await.map_err(|_| EROFS)?;
        *list = OrphanList::new();
        let mut orphans = KVVec::new();
        let plan = self.plan_super().await?;
        let found = plan.look(super_edit::orphans).flatten();
        let (head, state) = found.ok_or(EIO)?;
        let head = head.map_or(0, |ino| ino.0);
        drop(plan);
        if head != 0 && state & SuperBlock::STATE_ERROR != 0 {
            // As ext4: e2fsck is needed anyway, and finds what they have.
            self.disk.log(
                Level::Warning,
                format_args!("the volume has errors, so orphans are not cleaned up"),
            );
            return self.forget_orphans().await.map(|()| orphans);
        }
        let (mut next, mut last) = (head, None);
        while next != 0 {
            let ino = Ino(next);
            if !self.sb.geo.is_user_ino(ino) || list.has(next) {
                self.report(&format_args!("the list of orphans leads to inode {ino}"));
                break;
            }
            let orphan = match self.iget_orphan(ino).await {
                Ok(orphan) => orphan,
                Err(error) if error == ENOMEM || error == EIO => return Err(error),
                // Reported, or not in use.
                Err(_) => {
                    self.report(&format_args!(
                        "inode {ino}, on the list of orphans, is none"
                    ));
                    break;
                }
            };
            list.append(last, next, memory::tree_node().await?);
            last = Some(next);
            next = orphan.look(|inode| inode.dtime);
            orphans.push(orphan, gfp())?;
        }
        Ok(orphans)
    }

    /// Empties the list on the disk.
    async fn forget_orphans(&self) -> Result {
        let writable = self.writable()?;
        let plan = self.plan_super().await?;
        let begun = writable.journal.begin(&self.cache, SuperPlan::CREDITS);
        let mut tx = begun.await?;
        plan.apply(self, &mut tx, |edit| edit.set_last_orphan(None));
        Ok(())
    }

    /// Frees what an inode has behind its end, and takes it off the list.
    async fn truncate_orphan(&self, orphan: &InodeRef) -> Result {
        let writable = self.writable()?;
        let _guard = orphan.rwsem.write().await.map_err(|_| ESHUTDOWN)?;
        let freed = disk::pinned(|| self.free_behind(&writable, orphan, orphan.size()))?;
        freed.await
    }
}
