// SPDX-License-Identifier: GPL-2.0

//! Telling the device which blocks are free.
//!
//! A run of free blocks is loaned while the device forgets it, so that nobody uses it meanwhile.
//! One run at a time: who finds no space waits for it, and looks again.

use super::blocks::Loan;
use super::groups::Groups;
use super::taken::{self, Kind};
use super::{Allocator, Which};
use disk::Disk;
use kernel::prelude::*;
use layout::{Group, GroupDesc, Pblk};

impl Groups {
    /// Whether all of a group was forgotten by the device, in runs of at least `min` blocks, and
    /// nothing was freed in it since.
    pub fn is_trimmed(&self, group: Group, min: u32) -> bool {
        self.state(group)
            .is_some_and(|state| (1..=min).contains(&state.trimmed))
    }

    /// How many blocks of a group are free.
    pub fn free_blocks(&self, group: Group) -> u32 {
        self.state(group).map_or(0, |state| state.usable())
    }
}

impl Allocator<'_> {
    /// Lets the device forget the free blocks in `from..end` of a group, in runs of at least `min`.
    /// Returns how many these were.
    ///
    /// Fails with `EOPNOTSUPP` if the device cannot, with `EINTR` if the thread was killed, and
    /// with the errors of the block layer and of a damaged bitmap.
    ///
    /// # Cancellation
    ///
    /// The device goes on with the run that it has, which may be used again before.
    pub async fn trim(
        &self,
        disk: &Disk,
        group: Group,
        from: u32,
        end: u32,
        min: u32,
    ) -> Result<u64> {
        let whole = from == 0 && end >= self.geo().group_clusters(group);
        if whole {
            // What is freed from here on is looked at the next time.
            self.groups
                .with(group, |view| view.state.trimmed = min.max(1));
        }
        let trimmed = self.trim_runs(disk, group, from, end, min.max(1)).await;
        if whole && trimmed.is_err() {
            self.groups.with(group, |view| view.state.trimmed = 0);
        }
        trimmed
    }

    async fn trim_runs(
        &self,
        disk: &Disk,
        group: Group,
        from: u32,
        end: u32,
        min: u32,
    ) -> Result<u64> {
        let bits = self.geo().block_bits();
        let first = self.geo().group_first_block(group).0;
        let (mut at, mut trimmed) = (from, 0);
        while at < end {
            disk.checkpoint().await?;
            let _turn = self.groups.trimming.lock().await.map_err(|_| ESHUTDOWN)?;
            let Some(loan) = self.loan_free(group, at, end, min).await? else {
                break;
            };
            let (start, len) = (loan.start().0, loan.len());
            disk.device()
                .discard(start << bits, u64::from(len) << bits)
                .await?;
            drop(loan);
            trimmed += u64::from(len);
            at = u32::try_from(start - first).map_or(end, |bit| bit.saturating_add(len));
        }
        Ok(trimmed)
    }

    /// Takes the first run of at least `min` free blocks in `from..end` of a group.
    async fn loan_free(&self, group: Group, from: u32, end: u32, min: u32) -> Result<Option<Loan>> {
        let plans = self.plan(group, Which::Blocks).await?;
        let made = self.made(group).await?;
        let node = self.groups.node().await?;
        let first = self.geo().group_first_block(group).0;
        let end = end.min(self.geo().group_clusters(group));
        let mut node = Some(node);
        let found = self.groups.with(group, |view| {
            if view.state.bad_blocks {
                return None;
            }
            let buf = plans.bitmap.buf();
            let bits = match (&made, &buf) {
                (Some(made), _) if view.state.has(GroupDesc::BLOCK_UNINIT) => &made[..],
                (_, Some(buf)) => buf.data(),
                _ => &[],
            };
            let mut at = from;
            let run = loop {
                let run = taken::next_run(bits, view.blocks, first, at, end, u32::MAX)?;
                if run.len >= min {
                    break run;
                }
                at = run.start.saturating_add(run.len);
            };
            let start = first + u64::from(run.start);
            // Else it would be the device that destroys the volume.
            if self.watch.is_system_block(Pblk(start), run.len) {
                view.state.bad_blocks = true;
                return None;
            }
            taken::insert(view.blocks, node.take()?, start, run.len, Kind::Loaned);
            view.state.loaned += run.len;
            Some((Pblk(start), run.len))
        });
        drop(node);
        Ok(found
            .flatten()
            .map(|(start, len)| Loan::new(self.groups.clone(), group, start, len, plans)))
    }
}
