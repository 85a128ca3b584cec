// SPDX-License-Identifier: GPL-2.0

//! Ranges of a file, for `fallocate`: space for contents that come later, holes, zeros, and ranges
//! that are taken out of a file or put into it.
//!
//! A hole that is to have space is reserved, and loaned, as for contents that are in memory; then
//! it is mapped at once, and unwritten. So whoever writes to it meanwhile, through the page cache,
//! finds either.
//!
//! # After a loss of power
//!
//! Each operation is as many transactions as it takes, most often one. Between two of them the file
//! is valid, has nothing that it did not have, and
//!
//! | operation | is on the disk |
//! |---|---|
//! | [`punch`](Ext4::punch) | with a hole that begins too late |
//! | [`zero`](Ext4::zero) | with zeros that end too early |
//! | [`collapse`](Ext4::collapse) | with a hole in the range, or a part of it; or with a first part of what is behind moved to the front, a hole there, and the rest where it was; its size is the old one |
//! | [`insert`](Ext4::insert) | with the new size, and a last part of what is behind moved to the end, where a hole is left |
//!
//! # Concurrency
//!
//! Of a file with a VFS inode the VFS has the inode's lock and keeps faults out. What the page cache
//! had of the range is on the device, and no more in memory; no direct IO is under way. So nothing
//! of the range is pending, but for what was reserved in vain, which is dropped.
//!
//! What is mapped changes under the `map_lock`, which is let go of between the transactions;
//! `rwsem` is held to write from the first to the last.

use crate::alloc::Space;
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::{InodePlan, Writable};
use crate::map_plan::{Do, MapPlan, CREDITS_MAX};
use crate::memory;
use crate::write::WriteKind;
use core::ops::Range;
use disk::pinned;
use kernel::prelude::*;
use layout::{DataMap, ExtentState, FileType, InodeEdit, Lblk};

impl Ext4 {
    /// Gives the holes from `pos` to `end` blocks, which read as zeros until they are written. The
    /// size stays. `privileged` says whether that may be space that is kept for those with
    /// privilege.
    ///
    /// Fails with `EOPNOTSUPP` for a file without extents, which has no blocks that read as zeros;
    /// with `ENOSPC`, `EFBIG`, `EROFS`, and with the errors of damage and of the block layer. Then
    /// there may be blocks for a part of it. Of a file with a VFS inode a part may stay reserved
    /// until somebody [forgets](Self::forget) it, unless it was for lack of space: it is not known
    /// here whether somebody has written to it meanwhile.
    ///
    /// # Cancellation
    ///
    /// As when it fails.
    pub async fn allocate(&self, info: &InodeInfo, pos: u64, end: u64, privileged: bool) -> Result {
        if info.data_map() != DataMap::Extents {
            return Err(EOPNOTSUPP);
        }
        let done = self.allocate_holes(info, pos, end, privileged).await;
        if done.is_err() && !info.attached.is_set() {
            self.forget(info, pos, end).await?;
        }
        done
    }

    async fn allocate_holes(
        &self,
        info: &InodeInfo,
        pos: u64,
        end: u64,
        privileged: bool,
    ) -> Result {
        let mut at = pos;
        while at < end {
            let map = self.write_begin(info, at, end - at, privileged, false);
            let map = map.await?;
            let behind = map.offset.saturating_add(map.len);
            match map.kind {
                WriteKind::Delayed { new: true } => {
                    let until = behind.min(end);
                    while at < until {
                        at = pinned(|| self.map_unwritten(info, at, until))?.await?;
                    }
                }
                _ => at = behind,
            }
        }
        Ok(())
    }

    /// Drops what is pending of a range of bytes: nobody has written to it, or what was written is
    /// not in memory any more, and none of it is on its way to the device.
    ///
    /// Fails with `ENOMEM`, and with `EROFS`.
    ///
    /// # Cancellation
    ///
    /// A part is dropped.
    pub async fn forget(&self, info: &InodeInfo, pos: u64, end: u64) -> Result {
        let bits = self.sb.geo.block_bits();
        let from = u32::try_from(pos >> bits).map_or(Lblk::END, Lblk);
        let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
        self.drop_pending(info, from..self.first_behind(end)).await
    }

    /// Makes a hole of the whole blocks from `pos` to `end`, and zeroes the rest of the range. The
    /// size stays. For a file with a VFS inode the VFS zeroes.
    ///
    /// Fails with `EOPNOTSUPP` for a file whose data is in its inode, with `EROFS`, and with the
    /// errors of damage and of the block layer. Then a part may be a hole.
    ///
    /// # Cancellation
    ///
    /// As when it fails.
    pub async fn punch(&self, info: &InodeInfo, pos: u64, end: u64) -> Result {
        let _guard = info.rwsem.write().await.map_err(|_| ESHUTDOWN)?;
        memory::pinned(|| self.punch_locked(info, pos, end))
            .await?
            .await
    }

    async fn punch_locked(&self, info: &InodeInfo, pos: u64, end: u64) -> Result {
        let writable = self.writable()?;
        check_mapped(info)?;
        self.zero_edges(info, pos, end).await?;
        let whole = self.whole_blocks(pos, end);
        let (from, mut until) = (whole.start, whole.end);
        while until > from {
            let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
            self.drop_pending(info, from..until).await?;
            let mut plan = MapPlan::new(self, &writable, info, Space::Must).await?;
            until = plan.unmap(from, until, CREDITS_MAX).await?;
            self.change(&writable, info, plan, None).await?;
        }
        Ok(())
    }

    /// Makes what is from `pos` to `end` read as zeros, and gives it space: the whole blocks are
    /// unwritten, and the rest is zeroed. The size stays. For a file with a VFS inode the VFS zeroes.
    ///
    /// Fails as [`allocate`](Self::allocate) does: for lack of space before anything is zeroed.
    ///
    /// # Cancellation
    ///
    /// As when it fails.
    pub async fn zero(&self, info: &InodeInfo, pos: u64, end: u64, privileged: bool) -> Result {
        let _guard = info.rwsem.write().await.map_err(|_| ESHUTDOWN)?;
        memory::pinned(|| self.zero_locked(info, pos, end, privileged))
            .await?
            .await
    }

    async fn zero_locked(&self, info: &InodeInfo, pos: u64, end: u64, privileged: bool) -> Result {
        let writable = self.writable()?;
        let whole = self.whole_blocks(pos, end);
        let (mut from, until) = (whole.start, whole.end);
        self.forget(info, pos, end).await?;
        let allocated = self.allocate(info, pos, end, privileged).await;
        if allocated.is_err() {
            self.forget(info, pos, end).await?;
        }
        allocated?;
        self.zero_edges(info, pos, end).await?;
        while from < until {
            let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
            let mut plan = MapPlan::new(self, &writable, info, Space::Must).await?;
            while from < until && plan.weight() <= CREDITS_MAX {
                let extent = self.map(info, from).await?;
                let end = extent.end().min(until);
                if let ExtentState::Written(_) = extent.state {
                    plan.convert(from, end.0 - from.0, true).await?;
                }
                from = end;
            }
            self.change(&writable, info, plan, None).await?;
        }
        Ok(())
    }

    /// Takes `len` bytes from `pos` on out of a file of `size` bytes: what is behind them moves to
    /// their place, and the file is shorter by as much.
    ///
    /// Fails with `EOPNOTSUPP` for a file without extents; with `EINVAL` if the range is not of
    /// whole blocks, or is not before the end of the file; with `EROFS`, and with the errors of
    /// damage and of the block layer. Then the file may be as between two transactions.
    ///
    /// # Cancellation
    ///
    /// As when it fails.
    pub async fn collapse(&self, info: &InodeInfo, pos: u64, len: u64, size: u64) -> Result {
        let _guard = info.rwsem.write().await.map_err(|_| ESHUTDOWN)?;
        memory::pinned(|| self.collapse_locked(info, pos, len, size))
            .await?
            .await
    }

    async fn collapse_locked(&self, info: &InodeInfo, pos: u64, len: u64, size: u64) -> Result {
        let writable = self.writable()?;
        let range = self.aligned(info, pos, len)?;
        if pos.saturating_add(len) >= size {
            return Err(EINVAL);
        }
        let delta = i64::from(range.end.0 - range.start.0);
        // Up to where the range is mapped still, and from where on what is behind it is to move.
        let (mut until, mut next) = (range.end, range.end);
        while next < Lblk::END {
            let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
            self.drop_pending(info, range.start..Lblk::END).await?;
            let mut plan = MapPlan::new(self, &writable, info, Space::Must).await?;
            if until > range.start {
                until = plan.unmap(range.start, until, CREDITS_MAX).await?;
            }
            while until <= range.start && next < Lblk::END && plan.weight() <= CREDITS_MAX {
                // From the first leaf on, so that what moves finds its place free.
                next = plan.run(next, Do::Shift(range.end, -delta)).await?.1;
            }
            let done = next >= Lblk::END;
            if done {
                plan.run(range.start, Do::Merge).await?;
            }
            let size = done.then(|| size.saturating_sub(len));
            self.change(&writable, info, plan, size).await?;
        }
        Ok(())
    }

    /// Puts a hole of `len` bytes into a file of `size` bytes: what is from `pos` on moves behind
    /// it, and the file is longer by as much.
    ///
    /// Fails with `EOPNOTSUPP` for a file without extents; with `EINVAL` if the range is not of
    /// whole blocks, does not begin before the end of the file, or would move what is mapped out of
    /// what a file can have; with `EFBIG` if the file would be too long; with `EROFS`, and with the
    /// errors of damage and of the block layer. Then the file may be as between two transactions.
    ///
    /// # Cancellation
    ///
    /// As when it fails.
    pub async fn insert(&self, info: &InodeInfo, pos: u64, len: u64, size: u64) -> Result {
        let _guard = info.rwsem.write().await.map_err(|_| ESHUTDOWN)?;
        memory::pinned(|| self.insert_locked(info, pos, len, size))
            .await?
            .await
    }

    async fn insert_locked(&self, info: &InodeInfo, pos: u64, len: u64, size: u64) -> Result {
        let writable = self.writable()?;
        let range = self.aligned(info, pos, len)?;
        if pos >= size {
            return Err(EINVAL);
        }
        let size = size.checked_add(len).ok_or(EFBIG)?;
        if size > self.max_size(info) {
            return Err(EFBIG);
        }
        let delta = i64::from(range.end.0 - range.start.0);
        let mut until = Lblk::END;
        while until > range.start {
            let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
            self.drop_pending(info, range.start..Lblk::END).await?;
            let mut plan = MapPlan::new(self, &writable, info, Space::Must).await?;
            if until == Lblk::END {
                let end = plan.mapped_end().await?;
                if i64::from(end.0) + delta > i64::from(Lblk::END.0) {
                    return Err(EINVAL);
                }
                plan.run(range.start, Do::Split).await?;
            }
            while until > range.start && plan.weight() <= CREDITS_MAX {
                // From the last leaf on, so that what moves finds its place free.
                let last = Lblk(until.0.saturating_sub(1));
                until = plan.run(last, Do::Shift(range.start, delta)).await?.0;
            }
            self.change(&writable, info, plan, Some(size)).await?;
        }
        Ok(())
    }

    /// One transaction that changes the map, and the size if there is one.
    async fn change(
        &self,
        writable: &Writable,
        info: &InodeInfo,
        plan: MapPlan<'_>,
        size: Option<u64>,
    ) -> Result {
        if plan.is_empty() && size.is_none() {
            return Ok(());
        }
        let set_size = |edit: &mut InodeEdit<'_>| {
            if let Some(size) = size {
                edit.set_size(size);
            }
        };
        self.change_with(writable, info, plan, set_size).await
    }

    /// One transaction that changes the map, and by `more` what else of the inode. `more` runs under
    /// a spinlock.
    pub(crate) async fn change_with(
        &self,
        writable: &Writable,
        info: &InodeInfo,
        plan: MapPlan<'_>,
        more: impl FnOnce(&mut InodeEdit<'_>),
    ) -> Result {
        let inode = self.plan_inode(info).await?;
        let credits = plan.credits().and(InodePlan::CREDITS);
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        let change = plan.apply(&mut tx);
        inode.apply(self, &mut tx, info, |edit| {
            change.put(edit);
            more(edit);
        });
        drop(change);
        Ok(())
    }

    /// The blocks that lie in a range of bytes as a whole.
    fn whole_blocks(&self, pos: u64, end: u64) -> Range<Lblk> {
        let until = u32::try_from(end >> self.sb.geo.block_bits()).map_or(Lblk::END, Lblk);
        self.first_behind(pos)..until
    }

    /// The blocks of a range that moves what is behind it.
    fn aligned(&self, info: &InodeInfo, pos: u64, len: u64) -> Result<Range<Lblk>> {
        if info.data_map() != DataMap::Extents {
            return Err(EOPNOTSUPP);
        }
        let end = pos.checked_add(len).ok_or(EFBIG)?;
        let mask = u64::from(self.sb.geo.block_size()) - 1;
        if (pos | len) & mask != 0 || len == 0 {
            return Err(EINVAL);
        }
        let range = self.whole_blocks(pos, end);
        match range.end < Lblk::END {
            true => Ok(range),
            false => Err(EINVAL),
        }
    }

    /// Zeroes what a range has of blocks that are not in it as a whole, unless the VFS does.
    async fn zero_edges(&self, info: &InodeInfo, pos: u64, end: u64) -> Result {
        let block = u64::from(self.sb.geo.block_size());
        let (first, last) = (pos.next_multiple_of(block), end - end % block);
        self.zero_part(info, pos..end.min(first)).await?;
        if last >= first {
            self.zero_part(info, last..end).await?;
        }
        Ok(())
    }
}

/// Whether a file has a map that may have holes.
fn check_mapped(info: &InodeInfo) -> Result {
    let mapped = matches!(info.data_map(), DataMap::Extents | DataMap::Indirect);
    match mapped && info.file_type == FileType::Regular {
        true => Ok(()),
        false => Err(EOPNOTSUPP),
    }
}
