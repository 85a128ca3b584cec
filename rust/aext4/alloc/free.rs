// SPDX-License-Identifier: GPL-2.0

//! [`FreePlan`]: a run of blocks that somebody is about to free.

use super::groups::Groups;
use super::taken::{self, Kind};
use super::{surprised, Allocator, Plans, Which};
use crate::journal::{Credits, Transaction};
use disk::vec_with_capacity;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::bitmap;
use layout::group_edit::bitmap_sum;
use layout::{Group, GroupDesc, GroupEdit, Pblk};

/// Blocks that nobody else frees.
///
/// # Cancellation
///
/// Dropping it leaves them in use. Process context; does not sleep.
#[must_use = "dropping it leaves the blocks in use"]
pub struct FreePlan {
    parts: KVVec<Part>,
}

/// What of them is in one group.
struct Part {
    groups: Arc<Groups>,
    group: Group,
    bit: u32,
    start: u64,
    len: u32,
    plans: Option<Plans>,
}

impl Allocator<'_> {
    /// Plans to free `count` blocks from `start` on.
    ///
    /// Fails with `EUCLEAN` if one of them is not in use, or is metadata of fixed place, or
    /// somebody else is about to free it, which was reported; with `EIO`, `EUCLEAN` or `EBADMSG` if
    /// a bitmap cannot be read; with `ENOMEM`.
    ///
    /// # Cancellation
    ///
    /// They stay in use.
    pub async fn plan_free(&self, start: Pblk, count: u32) -> Result<FreePlan> {
        let geo = self.geo();
        let wrong = |what: &str| {
            self.damaged(&format_args!(
                "blocks to be freed, {count} from {start} on: {what}"
            ))
        };
        if !geo.contains(start, count.into()) {
            return Err(wrong("they are not on the volume"));
        }
        if self.watch.is_system_block(start, count) {
            return Err(wrong("some are metadata"));
        }
        let end = start.0 + u64::from(count);
        let last = Pblk(end - 1);
        let groups = geo.group_of(start).zip(geo.group_of(last));
        let many = groups.map_or(0, |(first, last)| last.0 - first.0 + 1);
        let mut parts = vec_with_capacity(self.cache.spawner(), many as usize).await?;
        let mut at = start.0;
        while at < end {
            let (group, bit) = self.groups.place(Pblk(at)).ok_or(EINVAL)?;
            let stop = geo.group_first_block(Group(group.0 + 1)).0.min(end);
            let len = u32::try_from(stop - at).map_err(|_| EINVAL)?;
            let plans = self.plan(group, Which::Blocks).await?;
            let node = self.groups.node().await?;
            let claimed = self.groups.with(group, |view| {
                if view.state.bad_blocks {
                    return Err("the bitmap is damaged");
                }
                if view.state.has(GroupDesc::BLOCK_UNINIT) {
                    return Err("the group has none in use");
                }
                let buf = plans.bitmap.buf();
                let bits = buf.as_ref().map_or(&[][..], |buf| buf.data());
                // What lies behind the bytes would count as in use.
                if bits.is_empty() || bitmap::next_free(bits, bit, bit + len).is_some() {
                    return Err("some are free");
                }
                if taken::overlaps(view.blocks, at, stop - 1) {
                    return Err("somebody else frees some");
                }
                taken::insert(view.blocks, node, at, len, Kind::Freeing);
                Ok(())
            });
            claimed.ok_or(EINVAL)?.map_err(wrong)?;
            let part = Part {
                groups: self.groups.clone(),
                group,
                bit,
                start: at,
                len,
                plans: Some(plans),
            };
            parts.push_within_capacity(part).map_err(|_| ENOMEM)?;
            at = stop;
        }
        Ok(FreePlan { parts })
    }
}

impl FreePlan {
    /// What [`apply`](Self::apply) takes of the transaction's credits. Of metadata, revoking is the
    /// caller's.
    pub fn credits(&self) -> Credits {
        let parts = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        Credits {
            blocks: parts.saturating_mul(2),
            revokes: 0,
            freed: parts,
        }
    }

    /// The blocks are not in use from here on. They can be had again when the transaction is
    /// durable. Does not sleep, and does not fail.
    pub fn apply(mut self, tx: &mut Transaction<'_>) {
        for part in self.parts.iter_mut() {
            part.apply(tx);
        }
    }
}

impl Part {
    fn apply(&mut self, tx: &mut Transaction<'_>) {
        let Some(Plans { bitmap, desc }) = self.plans.take() else {
            return;
        };
        let (group, bit, len) = (self.group, self.bit, self.len);
        let geo = &self.groups.geo;
        let offset = geo.desc_location(group).map_or(0, |(_, offset)| offset);
        let last = self.start + u64::from(len) - 1;
        self.groups.with(group, |view| {
            // Before the bits are clear, so that nobody takes them.
            let held = view.blocks.get_mut(&last);
            if let Some(run) = held {
                run.kind = Kind::Held;
            }
            let (was_used, sum) = tx.edit(bitmap, |bits| {
                let was_used = bitmap::clear_range(bits, bit, len).is_ok();
                (was_used, bitmap_sum(bits, geo.clusters_per_group(), geo))
            });
            let counted = tx.edit(desc, |block| {
                let raw = block.get_mut(offset as usize..)?;
                let mut edit = GroupEdit::new(raw, group, geo)?;
                edit.return_clusters(len)?;
                edit.seal_sums(sum, None)
            });
            if !was_used || counted.is_none() {
                surprised();
            }
            view.state.free += len;
            view.state.held += len;
        });
        tx.free(self.start, len);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Some(plans) = self.plans.take() else {
            return;
        };
        let removed = self.groups.with(self.group, |view| {
            taken::remove(view.blocks, self.start, self.len)
        });
        self.groups.keep(removed.flatten());
        drop(plans);
    }
}
