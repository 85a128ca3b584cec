// SPDX-License-Identifier: GPL-2.0

//! Deleting inodes that nothing leads to, when the last user lets go of them.
//!
//! Whoever lets go of an inode without links says so by [`Ext4::delete`]. If others use it still, it
//! is noted as one that is being left, and a task of the volume looks at these until they have no
//! users. So a reference may be dropped in any context, and nobody has to be told.
//!
//! # Concurrency
//!
//! That an inode has no users is told under the table's lock, and there it leaves the table: from
//! then on its number may be given to another, which has an `InodeInfo` of its own. On the disk it
//! has no links, so nobody reads it there, and it is on the list of orphans: if something fails, or
//! the power does, the next mount deletes it.

use crate::alloc::{InodeFree, Space};
use crate::ext4::Ext4;
use crate::freed::Freed;
use crate::inode_info::{InodeInfo, InodeRef};
use crate::inode_plan::{InodePlan, Writable};
use crate::journal::Credits;
use crate::map_plan::{MapPlan, CREDITS_MAX};
use crate::memory;
use crate::orphan::OrphanRemove;
use core::time::Duration;
use kernel::prelude::*;
use kernel::rbtree::RBTreeNodeReservation;
use layout::{DataMap, Ino, Lblk};

/// How long the task waits before it looks at inodes again that are being left.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_LAST: Duration = Duration::from_millis(640);

/// How often the task looks when the volume becomes read-only.
const LAST_LOOKS: u32 = 3;

impl Ext4 {
    /// Lets go of an inode, and deletes it if nothing leads to it and nobody else uses it: its
    /// blocks, its attributes and itself are free. If others use it still, a task of the volume
    /// deletes it when they do not any more.
    ///
    /// Does nothing for an inode with links, or on a volume that is not writable. Fails with the
    /// errors of damage and of the block layer; the next mount tries again.
    ///
    /// # Cancellation
    ///
    /// As when it fails.
    pub async fn delete(&self, info: InodeRef) -> Result {
        self.delete_or_note(info).await.map(|_| ())
    }

    /// As [`delete`](Self::delete). Returns whether nothing is left to be done.
    async fn delete_or_note(&self, info: InodeRef) -> Result<bool> {
        if !info.is_deleted() || self.journal().is_none() {
            return Ok(true);
        }
        let mut memory = None;
        if !self.take_out(&info, &mut memory) {
            memory = Some(memory::tree_node().await?);
            if !self.take_out(&info, &mut memory) {
                drop(info);
                self.leaving.wake();
                return Ok(false);
            }
        }
        // The VFS knows of none of its transactions.
        let _permit = self.pass_gate().await?;
        memory::pinned(|| self.delete_now(&info)).await?.await?;
        Ok(true)
    }

    /// Memory for [`leave`](Self::leave), to be had before an inode loses its last name.
    ///
    /// # Cancellation
    ///
    /// It is free again.
    pub async fn leaving_memory(&self) -> Result<LeavingMemory> {
        memory::tree_node().await
    }

    /// Notes that an inode without links is being left: a task of the volume deletes it when nobody
    /// uses it any more. For who cannot wait for [`delete`](Self::delete). Does not sleep.
    pub fn leave(&self, info: &InodeInfo, memory: LeavingMemory) {
        if info.is_deleted() && self.journal().is_some() {
            self.inodes.lock().set_leaving(info.ino, memory);
            self.leaving.wake();
        }
    }

    /// Takes an inode out of the table if nobody else uses it, or notes that it is being left, if
    /// there is memory for that. Returns whether it was taken.
    fn take_out(&self, info: &InodeRef, memory: &mut Option<LeavingMemory>) -> bool {
        let mut table = self.inodes.lock();
        let node = table.remove_alone(info);
        let taken = node.is_some();
        if let Some(memory) = (!taken).then(|| memory.take()).flatten() {
            table.set_leaving(info.ino, memory);
        }
        drop(table);
        // Freed without the lock.
        drop(node);
        taken
    }

    /// Looks at the next inode from number `from` on that is being left: its number, and what
    /// [`look_leaving`](crate::inode_info::InodeTable::look_leaving) says.
    fn look_left(&self, from: u32) -> Option<(Ino, Option<Option<InodeRef>>)> {
        let mut freed = None;
        let mut table = self.inodes.lock();
        let next = table.next_leaving(from)?;
        let found = table.look_leaving(next, &mut freed);
        drop(table);
        drop(freed);
        Some((next, found))
    }

    /// Deletes an inode that nobody else uses, and that is in the table no more.
    pub(crate) async fn delete_now(&self, info: &InodeInfo) -> Result {
        let writable = self.writable()?;
        self.drop_xattr_values(info).await?;
        if !matches!(info.data_map(), DataMap::Extents | DataMap::Indirect) {
            let nothing = (Freed::new(), Credits::default());
            return self.free_inode(&writable, info, nothing).await;
        }
        let guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
        self.drop_pending(info, Lblk(0)..Lblk::END).await?;
        if let Some(freed) = self.plan_free_small(&writable, info).await? {
            return self.free_inode(&writable, info, freed).await;
        }
        drop(guard);
        let writable = &writable;
        let rest = memory::pinned(|| self.free_all(writable, info)).await?;
        rest.await
    }

    /// Frees the blocks of an inode, by as many transactions as it takes, and then the inode.
    async fn free_all(&self, writable: &Writable, info: &InodeInfo) -> Result {
        let mut until = match self.has_metadata_blocks(info) {
            // These are freed by small steps, which are not for holes.
            true => self.mapped_end(info).await?,
            false => Lblk::END,
        };
        loop {
            let guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
            let small = match until {
                Lblk(0) => Some((Freed::new(), Credits::default())),
                _ => self.plan_free_small(writable, info).await?,
            };
            if let Some(freed) = small {
                return self.free_inode(writable, info, freed).await;
            }
            let mut map = MapPlan::new(self, writable, info, Space::Must).await?;
            until = map.unmap(Lblk(0), until, CREDITS_MAX).await?;
            let inode = self.plan_inode(info).await?;
            let credits = map.credits().and(InodePlan::CREDITS);
            let mut tx = writable.journal.begin(&self.cache, credits).await?;
            let change = map.apply(&mut tx);
            inode.apply(self, &mut tx, info, |edit| {
                change.put(edit);
                edit.set_size(0);
            });
            drop((change, tx, guard));
        }
    }

    /// The first block behind all that are mapped, whatever the size is.
    async fn mapped_end(&self, info: &InodeInfo) -> Result<Lblk> {
        let (mut at, mut end) = (Lblk(0), Lblk(0));
        while at < Lblk::END {
            let extent = self.map(info, at).await?;
            at = extent.end();
            if extent.pblk().is_some() {
                end = at;
            }
        }
        Ok(end)
    }

    /// The last transaction: what is left, and the inode.
    async fn free_inode(
        &self,
        writable: &Writable,
        info: &InodeInfo,
        (freed, credits): (Freed, Credits),
    ) -> Result {
        let allocator = writable.allocator(self);
        let free = allocator.plan_free_inode(info.ino, info.is_dir()).await?;
        let inode = self.plan_inode(info).await?;
        let xattrs = self.plan_release_xattrs(writable, info).await?;
        let credits = credits
            .and(InodePlan::CREDITS)
            .and(InodeFree::CREDITS)
            .and(OrphanRemove::CREDITS)
            .and(xattrs.credits());
        let orphan = self.plan_orphan_remove(info.ino).await?;
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        if let Some(orphan) = orphan {
            orphan.apply(self, &mut tx);
        }
        freed.apply(self, &mut tx);
        xattrs.apply(self, &mut tx);
        // A time that is 32 bits wide, as the inode has it.
        inode.clear(self, &mut tx, info, disk::time::now().secs as u32);
        free.apply(&mut tx);
        Ok(())
    }

    /// Deletes inodes that were left, until the volume becomes read-only.
    pub(crate) async fn delete_loop(&self) -> Result {
        let mut wait = LOOK_FIRST;
        let mut last_looks = 0;
        loop {
            let stopped = self.leaving.should_stop();
            let left = self.delete_left().await;
            if stopped && (left == 0 || last_looks == LAST_LOOKS) {
                return Ok(());
            }
            last_looks += u32::from(stopped);
            if left == 0 {
                wait = LOOK_FIRST;
                self.leaving.woken().await;
            } else {
                upcall::sleep(wait).await;
                wait = (wait * 2).min(LOOK_LAST);
            }
        }
    }

    /// Looks once at the inodes that are being left. Returns how many have users still.
    async fn delete_left(&self) -> usize {
        let (mut at, mut left) = (0, 0);
        while let Some((next, found)) = self.look_left(at) {
            at = next.0.saturating_add(1);
            match found {
                Some(Some(info)) => match self.delete_or_note(info).await {
                    Ok(deleted) => left += usize::from(!deleted),
                    Err(error) => {
                        let errno = error.to_errno();
                        self.report(&format_args!("inode {next}: error {errno} deleting it"));
                    }
                },
                Some(None) => left += 1,
                None => {}
            }
        }
        left
    }
}

/// The memory of a note that an inode is being left.
pub type LeavingMemory = RBTreeNodeReservation<u32, ()>;
