// SPDX-License-Identifier: GPL-2.0

//! [`Freed`]: blocks that a transaction frees, and which of them it revokes.

use crate::alloc::FreePlan;
use crate::error::{About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::Writable;
use crate::journal::{Credits, Transaction};
use crate::map_plan::Root;
use crate::memory;
use kernel::prelude::*;
use layout::{extent_path, DataMap, Extent, ExtentPath, IndirectPath, Lblk, DIRECT};

/// How many blocks of metadata one step frees at most: each of them is revoked.
pub(crate) const STEP_REVOKES: u32 = 512;

/// Runs of blocks that are to be free.
///
/// # Cancellation
///
/// Dropping it leaves everything as it is.
pub(crate) struct Freed {
    plans: KVec<FreePlan>,
    /// First blocks and lengths of runs of metadata.
    revoked: KVec<(u64, u32)>,
}

/// What a root leads to: extents have room for so many.
type Runs = [Option<Extent>; 4];

impl Freed {
    pub(crate) fn new() -> Self {
        Self {
            plans: KVec::new(),
            revoked: KVec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Adds what an extent leads to; nothing if that is a hole. Returns what it takes of the
    /// transaction. Fails with the errors of damage and of the block layer, and with `ENOMEM`.
    pub(crate) async fn add(
        &mut self,
        volume: &Ext4,
        writable: &Writable,
        run: &Extent,
        metadata: bool,
    ) -> Result<Credits> {
        let Some(start) = run.pblk() else {
            return Ok(Credits::default());
        };
        memory::room(&mut self.plans).await?;
        let plan = writable.allocator(volume).plan_free(start, run.len).await?;
        let mut credits = plan.credits();
        if metadata {
            memory::room(&mut self.revoked).await?;
            credits.revokes = credits.revokes.saturating_add(run.len);
            let run = (start.0, run.len);
            self.revoked.push_within_capacity(run).map_err(|_| ENOMEM)?;
        }
        self.plans.push_within_capacity(plan).map_err(|_| ENOMEM)?;
        Ok(credits)
    }

    /// Frees and revokes them. Does not sleep, and does not fail.
    pub(crate) fn apply(mut self, volume: &Ext4, tx: &mut Transaction<'_>) {
        for (start, len) in self.revoked.iter() {
            for block in *start..start.saturating_add(u64::from(*len)) {
                tx.revoke(&volume.cache, block);
            }
        }
        while let Some(plan) = self.plans.pop() {
            plan.apply(tx);
        }
    }
}

impl Ext4 {
    /// Plans to free all blocks of an inode whose map is in the inode alone, and of few extents.
    /// `None` if it is larger. The caller has the inode's `map_lock`, and clears the inode.
    ///
    /// Fails as [`Freed::add`] does.
    pub(crate) async fn plan_free_small(
        &self,
        writable: &Writable,
        info: &InodeInfo,
    ) -> Result<Option<(Freed, Credits)>> {
        let mut runs = Runs::default();
        if !self.small_map(info, &mut runs)? {
            return Ok(None);
        }
        let (mut freed, mut credits) = (Freed::new(), Credits::default());
        let metadata = self.has_metadata_blocks(info);
        for run in runs.iter().flatten() {
            credits = credits.and(freed.add(self, writable, run, metadata).await?);
        }
        Ok(Some((freed, credits)))
    }

    /// What a map without blocks of its own leads to. Returns whether it is such a map.
    #[inline(never)]
    fn small_map(&self, info: &InodeInfo, runs: &mut Runs) -> Result<bool> {
        let (map, root) = info.look(|inode| (inode.data_map(), inode.block));
        let found = match map {
            DataMap::Extents => self.root_extents(&root, runs),
            _ => self.root_pointers(&root, runs),
        };
        let revokes = || runs.iter().flatten().map(|run| run.len).sum::<u32>();
        let small = found.or_report(self, About::inode(info.ino))?;
        Ok(small && (!self.has_metadata_blocks(info) || revokes() <= STEP_REVOKES))
    }

    fn root_extents(&self, root: &Root, runs: &mut Runs) -> layout::Result<bool> {
        let (nodes, geo) = ([&root[..]], &self.sb.geo);
        if extent_path::next_block(&nodes, Lblk(0), geo)?.is_some() {
            return Ok(false);
        }
        let path = ExtentPath::new(&nodes, Lblk(0), geo)?;
        fill(runs, path.extents(Lblk(0), Lblk::END))
    }

    fn root_pointers(&self, root: &Root, runs: &mut Runs) -> layout::Result<bool> {
        let (_, indirect) = root.split_at(4 * DIRECT as usize);
        if indirect.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        let path = IndirectPath::new(&[&root[..]], Lblk(0), &self.sb.geo)?;
        fill(runs, path.extents(Lblk(0), Lblk(DIRECT)))
    }
}

/// Puts the runs that are no holes into the slots. Returns whether there are enough of these.
fn fill(
    slots: &mut Runs,
    runs: impl Iterator<Item = layout::Result<Extent>>,
) -> layout::Result<bool> {
    let mut slots = slots.iter_mut();
    for run in runs {
        let run = run?;
        if run.pblk().is_none() {
            continue;
        }
        let Some(slot) = slots.next() else {
            return Ok(false);
        };
        *slot = Some(run);
    }
    Ok(true)
}
