// SPDX-License-Identifier: GPL-2.0

//! Making files longer and shorter.
//!
//! A file becomes shorter in as many transactions as it takes. The first sets the size, and puts
//! the inode on the list of orphans if there will be another; each frees blocks from the end on; the
//! last takes the inode off the list. After a loss of power between them the next mount frees the
//! rest.
//!
//! # What is behind the size
//!
//! The bytes behind the size, in the last block, are zero on the disk, so that a file that grows
//! reads as zeros there. That is the VFS's work for a file that has a VFS inode, by the page cache,
//! and done here for others.
//!
//! # Concurrency
//!
//! The size changes under `rwsem`, the map under `map_lock`, which is let go of between the
//! transactions. Whoever looks meanwhile sees the new size, and some of the old blocks behind it.

use crate::alloc::Space;
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::{InodePlan, Writable};
use crate::map_plan::{MapChange, MapPlan, CREDITS_MAX};
use crate::memory;
use crate::orphan::{OrphanAdd, OrphanRemove};
use core::ops::Range;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::{DataMap, FileType, Lblk};
use upcall::bio::Op;

impl Ext4 {
    /// Sets the size of a file. What is behind it is freed, what was pending is dropped, and what
    /// is new reads as zeros. Times are the caller's.
    ///
    /// Fails with `EFBIG`, `EROFS`, with `EINVAL` for what is no regular file, and with the errors
    /// of damage and of the block layer. When it fails the size may be the new one, and blocks
    /// behind it be freed by the next mount.
    ///
    /// # Cancellation
    ///
    /// As when it fails.
    pub async fn truncate(&self, info: &InodeInfo, size: u64) -> Result {
        if info.file_type != FileType::Regular {
            return Err(EINVAL);
        }
        let _guard = info.rwsem.write().await.map_err(|_| ESHUTDOWN)?;
        if size == 0 && self.flags().auto_da_alloc() {
            info.set_flush_on_close();
        }
        // Seldom, and large.
        memory::pinned(|| self.truncate_locked(info, size))
            .await?
            .await
    }

    /// As [`truncate`](Self::truncate), with `rwsem` held to write.
    pub(crate) async fn truncate_locked(&self, info: &InodeInfo, size: u64) -> Result {
        let writable = self.writable()?;
        if size > self.max_size(info) {
            return Err(EFBIG);
        }
        self.leave_inline(info, true).await?;
        let old = info.size();
        if size == old && self.sectors(info) == 0 {
            return Ok(());
        }
        if size >= old {
            // The disk may not know yet how long the file was.
            let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
            self.drop_pending(info, self.first_behind(size)..Lblk::END)
                .await?;
        }
        self.zero_tail(info, size.min(old)).await?;
        if size > old {
            return self.set_size(&writable, info, size).await;
        }
        self.free_behind(&writable, info, size).await
    }

    /// Zeroes what the block that has `size` holds behind it, unless the VFS does.
    pub(crate) async fn zero_tail(&self, info: &InodeInfo, size: u64) -> Result {
        let end = size.next_multiple_of(self.sb.geo.block_size().into());
        self.zero_part(info, size..end).await
    }

    /// Zeroes bytes of one block, if it was written, unless the VFS does.
    pub(crate) async fn zero_part(&self, info: &InodeInfo, range: Range<u64>) -> Result {
        if range.is_empty() || info.attached.is_set() {
            return Ok(());
        }
        let bits = self.sb.geo.block_bits();
        let Ok(lblk) = u32::try_from(range.start >> bits).map(Lblk) else {
            return Ok(());
        };
        let Some(pblk) = self.map(info, lblk).await?.written_at(lblk) else {
            return Ok(());
        };
        let start = u64::from(lblk.0) << bits;
        let part = (range.start - start) as usize..range.end.saturating_sub(start) as usize;
        let mut old: KVVec<_> = self.cache.read_run(pblk.0, 1).await?;
        let old = old.pop().ok_or(EIO)?;
        let bytes = old.data().get(part.clone()).unwrap_or_default();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let mut draft = self.cache.draft_of(&old).await?;
        if let Some(bytes) = draft.data_mut().get_mut(part) {
            bytes.fill(0);
        }
        self.cache
            .write_one(pblk.0, draft.freeze(), Op::Write)
            .await
    }

    /// Sets the size, and nothing else.
    async fn set_size(&self, writable: &Writable, info: &InodeInfo, size: u64) -> Result {
        let inode = self.plan_inode(info).await?;
        let mut tx = writable
            .journal
            .begin(&self.cache, InodePlan::CREDITS)
            .await?;
        inode.apply(self, &mut tx, info, |edit| edit.set_size(size));
        Ok(())
    }

    /// Sets the size to what it is or to less, and frees what is behind it.
    ///
    /// An inode without links is on the list of orphans, and stays there.
    pub(crate) async fn free_behind(
        &self,
        writable: &Writable,
        info: &InodeInfo,
        size: u64,
    ) -> Result {
        let from = self.first_behind(size);
        let mut until = Lblk::END;
        let mut first = true;
        while first || until > from {
            let guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
            if first {
                self.drop_pending(info, from..Lblk::END).await?;
            }
            let step = self.free_step(writable, info, size, from..until, first);
            until = step.await?;
            first = false;
            drop(guard);
        }
        Ok(())
    }

    /// The first block that has no byte of a file of this size.
    pub(crate) fn first_behind(&self, size: u64) -> Lblk {
        let blocks = size.div_ceil(u64::from(self.sb.geo.block_size()));
        u32::try_from(blocks).map_or(Lblk::END, Lblk)
    }

    /// One transaction of [`free_behind`](Self::free_behind): frees blocks of the range, from its end on.
    /// Returns where those begin that are freed.
    async fn free_step(
        &self,
        writable: &Writable,
        info: &InodeInfo,
        size: u64,
        range: Range<Lblk>,
        first: bool,
    ) -> Result<Lblk> {
        let has_links = !info.is_deleted();
        let mapped = matches!(info.data_map(), DataMap::Extents | DataMap::Indirect);
        let mut to = range.start;
        let mut map = None;
        if mapped && (range.start < range.end) {
            let mut plan = MapPlan::new(self, writable, info, Space::Must).await?;
            to = plan.unmap(range.start, range.end, CREDITS_MAX).await?;
            map = Some(plan);
        }
        let done = to <= range.start;
        let inode = self.plan_inode(info).await?;
        let mut credits = InodePlan::CREDITS;
        if let Some(plan) = &map {
            credits = credits.and(plan.credits());
        }
        let (mut add, mut remove) = (None, None);
        if first && !done && has_links {
            add = self.plan_orphan_add(info.ino).await?;
            credits = credits.and(OrphanAdd::CREDITS);
        } else if done && has_links {
            remove = self.plan_orphan_remove(info.ino).await?;
            credits = credits.and(OrphanRemove::CREDITS);
        }
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        let change = map.map(|plan| plan.apply(&mut tx));
        let edit_map = |edit: &mut layout::InodeEdit<'_>, change: &Option<MapChange<'_>>| {
            edit.set_size(size);
            if let Some(change) = change {
                change.put(edit);
            }
        };
        if let Some(add) = add {
            add.apply(self, &mut tx, |tx, next| {
                inode.apply(self, tx, info, |edit| {
                    edit_map(edit, &change);
                    edit.set_dtime(next);
                });
            });
        } else {
            let off = remove.is_some();
            if let Some(remove) = remove {
                remove.apply(self, &mut tx);
            }
            inode.apply(self, &mut tx, info, |edit| {
                edit_map(edit, &change);
                if off {
                    edit.set_dtime(0);
                }
            });
        }
        drop(change);
        Ok(to)
    }
}
