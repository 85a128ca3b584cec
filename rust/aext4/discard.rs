// SPDX-License-Identifier: GPL-2.0

//! Telling the device which blocks it may forget: `FITRIM`, and the option `discard`.
//!
//! # Concurrency
//!
//! With `discard`, a commit notes what it has released, and a task of the volume tells the device,
//! so that no commit waits for a discard. What is used again meanwhile is left out. What is noted
//! is a hint: without memory for it, the device is not told.

use crate::ext4::Ext4;
use crate::inode_plan::Writable;
use crate::journal::Freed;
use disk::{gfp, Level};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::{Group, Pblk};

impl Ext4 {
    /// Notes what a commit has released, if the device is to be told. Process context.
    pub(crate) fn note_released(&self, freed: &[Freed]) {
        if !self.flags().discard() || freed.is_empty() {
            return;
        }
        let mut released = self.released.lock();
        for freed in freed {
            if released.push(*freed, gfp()).is_err() {
                break;
            }
        }
        drop(released);
        self.discarder.wake();
    }

    /// Tells the device what was released, until the volume becomes read-only.
    pub(crate) async fn discard_loop(&self, writable: &Writable) -> Result {
        loop {
            let stopped = self.discarder.should_stop();
            let released = core::mem::take(&mut *self.released.lock());
            if released.is_empty() {
                if stopped {
                    return Ok(());
                }
                self.discarder.woken().await;
                continue;
            }
            if let Err(error) = self.discard(writable, &released).await {
                let errno = error.to_errno();
                self.disk.log_limited(
                    Level::Warning,
                    format_args!("discard request failed with {errno}"),
                );
                if error == EOPNOTSUPP {
                    self.end_discard();
                }
            }
        }
    }

    async fn discard(&self, writable: &Writable, released: &KVVec<Freed>) -> Result {
        // When nothing is written any more, it is better to forget nothing, too.
        if writable.journal.check().is_err() {
            return Ok(());
        }
        for freed in released {
            let end = freed.start.saturating_add(freed.count.into());
            self.trim_blocks(writable, freed.start, end, 1, false)
                .await?;
        }
        Ok(())
    }

    /// Lets the device forget the free bytes among `len` from `start` on, in runs of at least
    /// `min_len`. Returns how many these were.
    ///
    /// Fails with `EOPNOTSUPP` if the device cannot, with `EINVAL` as ext4 does: for a start behind
    /// the end, for less than a block, and for runs longer than a group; with `EROFS` if the volume
    /// is not writable; and with the errors of the block layer and of damage. If the thread is
    /// killed it ends early.
    ///
    /// # Cancellation
    ///
    /// A part is done.
    pub async fn trim(&self, start: u64, len: u64, min_len: u64) -> Result<u64> {
        let granularity = self.disk.discard_granularity().ok_or(EOPNOTSUPP)?;
        let writable = self.writable()?;
        let geo = &self.sb.geo;
        let bits = geo.block_bits();
        let per_group = u64::from(geo.clusters_per_group());
        let blocks = geo.blocks_count();
        let (start, count) = (start >> bits, len >> bits);
        let mut min = min_len >> bits;
        if min > per_group || start >= blocks || count == 0 {
            return Err(EINVAL);
        }
        if min_len < granularity.into() {
            min = u64::from(granularity) >> bits;
            if min > per_group {
                return Ok(0);
            }
        }
        let end = start.saturating_add(count).min(blocks);
        let first = geo.first_data_block().0;
        if end <= first.saturating_add(1) {
            return Ok(0);
        }
        let min = u32::try_from(min).map_err(|_| EINVAL)?.max(1);
        // What was deleted before a sync is free.
        writable.journal.released().await?;
        let trimmed = self
            .trim_blocks(&writable, start.max(first), end, min, true)
            .await?;
        Ok(trimmed << bits)
    }

    /// Lets the device forget the free blocks in `start..end`, but for groups of which it was told
    /// already, if `skip_trimmed`.
    async fn trim_blocks(
        &self,
        writable: &Writable,
        start: u64,
        end: u64,
        min: u32,
        skip_trimmed: bool,
    ) -> Result<u64> {
        let geo = &self.sb.geo;
        let (mut at, mut trimmed) = (start, 0);
        while let Some(group) = geo.group_of(Pblk(at)).filter(|_| at < end) {
            let first = geo.group_first_block(group).0;
            let next = geo.group_first_block(Group(group.0 + 1)).0;
            let groups = &writable.groups;
            let skip =
                groups.free_blocks(group) < min || skip_trimmed && groups.is_trimmed(group, min);
            if !skip {
                let from = u32::try_from(at - first).map_err(|_| EINVAL)?;
                let stop = u32::try_from(end.min(next) - first).map_err(|_| EINVAL)?;
                let allocator = writable.allocator(self);
                let done = disk::pinned(|| allocator.trim(&self.disk, group, from, stop, min))?;
                match done.await {
                    Ok(count) => trimmed += count,
                    Err(EINTR) => break,
                    Err(error) => return Err(error),
                }
            }
            at = next;
        }
        Ok(trimmed)
    }
}
