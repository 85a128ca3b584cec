// SPDX-License-Identifier: GPL-2.0

//! [`InodeLoan`] and [`InodeFree`]: an inode that somebody is about to use, or to free.
//!
//! Without a log nothing says in which order blocks reach the disk. So an inode that was freed is
//! not used again at once, as in ext4: the time in it tells how long ago that was.

use super::blocks::passable;
use super::groups::{Groups, View};
pub use super::orlov::Hint;
use super::taken::{self, Kind, Node, Tree};
use super::{surprised, Allocator, Plans, Which};
use crate::journal::{Credits, Transaction};
use disk::{vec_with_capacity, Planned};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::bitmap;
use layout::bytes::get_u32;
use layout::csum::Mode;
use layout::group_edit::{bitmap_sum, init_block_bitmap, init_inode_bitmap};
use layout::{Group, GroupDesc, GroupEdit, Ino, Pblk};

/// For how long an inode that was freed is not used again, in seconds, if there is no log.
const REST_SECS: u32 = 5;

/// Where an inode has the time when it was freed.
const DTIME: usize = 0x14;

/// An inode that nobody else has.
///
/// # Cancellation
///
/// Dropping it gives the inode back. Process context; does not sleep.
#[must_use = "dropping it gives the inode back"]
pub struct InodeLoan {
    groups: Arc<Groups>,
    group: Group,
    index: u32,
    ino: Ino,
    dir: bool,
    plans: Option<InodePlans>,
}

struct InodePlans {
    own: Plans,
    /// The group's block bitmap, if it was never written: an inode in use says that it was.
    blocks: Option<Planned>,
    /// The blocks of the inode table that come into use.
    table: KVVec<Planned>,
}

impl Allocator<'_> {
    /// Takes an inode, for something in the directory `parent`.
    ///
    /// Fails with `ENOSPC` if there is none; otherwise as [`loan_blocks`](Self::loan_blocks) does.
    ///
    /// # Cancellation
    ///
    /// Nothing is taken.
    pub async fn loan_inode(&self, parent: Ino, hint: Hint) -> Result<InodeLoan> {
        let (beside, _) = self.geo().inode_index(parent).map_err(|_| EINVAL)?;
        let groups = self.geo().groups();
        let home = self.groups.inode_group(beside, hint);
        let mut failed = None;
        for rested in [true, false] {
            let mut done = 0;
            while done < groups {
                let from = self.groups.behind(home, done);
                let Some(group) = self.groups.with_inode(from, groups - done) else {
                    break;
                };
                match self.look_inode(group, hint.dir, rested).await {
                    Ok(Some(loan)) => {
                        disk::trace::allocate_inode(self.cache, loan.ino.0, parent.0, hint.dir);
                        return Ok(loan);
                    }
                    Ok(None) => {}
                    Err(error) => failed = Some(passable(error)?),
                }
                done = self.groups.distance(home, group) + 1;
            }
        }
        Err(failed.unwrap_or(ENOSPC))
    }

    async fn look_inode(&self, group: Group, dir: bool, rested: bool) -> Result<Option<InodeLoan>> {
        let own = self.plan(group, Which::Inodes).await?;
        let state = self.groups.state(group).ok_or(EINVAL)?;
        let mut blocks = None;
        if state.has(GroupDesc::BLOCK_UNINIT) {
            // Only to check it.
            drop(self.made(group).await?);
            let place = self.groups.desc(group).ok_or(EINVAL)?;
            blocks = Some(self.plan_unread(place.block_bitmap).await?);
        }
        let node = self.groups.node().await?;
        let Some(index) = self.choose_inode(group, &own, node, rested)? else {
            return Ok(None);
        };
        let first = self.first_ino(group);
        let plans = InodePlans {
            own,
            blocks,
            table: KVVec::new(),
        };
        // From here on it is given back by drop.
        let mut loan = InodeLoan {
            groups: self.groups.clone(),
            group,
            index,
            ino: Ino(u32::try_from(first + u64::from(index)).map_err(|_| EINVAL)?),
            dir,
            plans: Some(plans),
        };
        let table = self.plan_table(group, index).await?;
        if let Some(plans) = &mut loan.plans {
            plans.table = table;
        }
        Ok(Some(loan))
    }

    /// The number of a group's first inode.
    fn first_ino(&self, group: Group) -> u64 {
        u64::from(group.0) * u64::from(self.geo().inodes_per_group().get()) + 1
    }

    /// Chooses an inode, and takes it.
    fn choose_inode(
        &self,
        group: Group,
        plans: &Plans,
        node: Node,
        rested: bool,
    ) -> Result<Option<u32>> {
        let geo = self.geo();
        let base = self.first_ino(group);
        let count = geo.inodes_per_group().get();
        // Those that are reserved are in use, whatever the bitmap says.
        let reserved = u64::from(geo.first_ino().0).saturating_sub(base);
        let mut at = u32::try_from(reserved).unwrap_or(count);
        let chosen = self.groups.with(group, |view| {
            if view.state.usable_inodes() == 0 {
                return None;
            }
            let uninit = view.state.has(GroupDesc::INODE_UNINIT);
            let buf = plans.bitmap.buf();
            let bits = buf.as_ref().map_or(&[][..], |buf| buf.data());
            loop {
                let index = match uninit {
                    true => next_index(view.inodes, base, at, count),
                    false => {
                        taken::next_run(bits, view.inodes, base, at, count, 1).map(|run| run.start)
                    }
                }?;
                if rested && self.is_resting(group, index) {
                    at = index + 1;
                    continue;
                }
                let ino = base + u64::from(index);
                taken::insert(view.inodes, node, ino, 1, Kind::Loaned);
                view.state.loaned_inodes += 1;
                return Some(index);
            }
        });
        chosen.ok_or(EINVAL)
    }

    /// Whether an inode was freed a moment ago, and there is no log. One that is not in memory was
    /// not.
    fn is_resting(&self, group: Group, index: u32) -> bool {
        if self.journal.is_none_or(|journal| journal.has_log()) {
            return false;
        }
        let desc = self.groups.desc(group);
        let place = desc.and_then(|desc| desc.inode_location(index, self.geo()).ok());
        let Some((block, offset)) = place else {
            return false;
        };
        let Some(buf) = self.cache.get(block.0) else {
            return false;
        };
        let freed = get_u32(buf.data(), offset as usize + DTIME).unwrap_or(0);
        // Times that are 32 bits wide, as the inode has them.
        let now = disk::time::now().secs as u32;
        freed != 0 && now.wrapping_sub(freed) < REST_SECS
    }

    /// Plans to zero the blocks of the inode table that come into use with an inode.
    async fn plan_table(&self, group: Group, index: u32) -> Result<KVVec<Planned>> {
        let geo = self.geo();
        let blocks = self.groups.state(group).filter(|_| keeps_used(self.groups));
        let Some(state) = blocks.filter(|state| state.table_used(geo) <= index) else {
            return Ok(KVVec::new());
        };
        let per_block = u32::from(inodes_per_block(self.groups));
        let first = state.table_used(geo).div_ceil(per_block);
        let end = index / per_block + 1;
        let desc = self.groups.desc(group).ok_or(EINVAL)?;
        let count = end.saturating_sub(first);
        let mut table = vec_with_capacity(self.cache.spawner(), count as usize).await?;
        for n in first..end {
            let block = desc.inode_table.0 + u64::from(n);
            let planned = self.cache.plan_new(block).await?;
            table.push_within_capacity(planned).map_err(|_| ENOMEM)?;
        }
        Ok(table)
    }

    /// Plans to free an inode.
    ///
    /// Fails with `EUCLEAN` if it is not in use, or is reserved, or somebody else is about to free
    /// it, which was reported; otherwise as [`plan_free`](Self::plan_free) does.
    ///
    /// # Cancellation
    ///
    /// It stays in use.
    pub async fn plan_free_inode(&self, ino: Ino, dir: bool) -> Result<InodeFree> {
        let wrong = |what: &str| self.damaged(&format_args!("inode {ino}, to be freed: {what}"));
        let place = self.geo().inode_index(ino);
        let (group, index) = place.map_err(|_| wrong("there is no such inode"))?;
        if !self.geo().is_user_ino(ino) || ino == Ino::ROOT {
            return Err(wrong("it is reserved"));
        }
        let plans = self.plan(group, Which::Inodes).await?;
        let node = self.groups.node().await?;
        let claimed = self.groups.with(group, |view| {
            if view.state.bad_inodes {
                return Err("the bitmap is damaged");
            }
            if dir && view.state.used_dirs == 0 {
                return Err("the group has no directory");
            }
            let buf = plans.bitmap.buf();
            let bits = buf.as_ref().map_or(&[][..], |buf| buf.data());
            let free = bits.is_empty() || bitmap::next_free(bits, index, index + 1).is_some();
            if free || view.state.has(GroupDesc::INODE_UNINIT) {
                return Err("it is free");
            }
            let ino = u64::from(ino);
            if taken::overlaps(view.inodes, ino, ino) {
                return Err("somebody else frees it");
            }
            taken::insert(view.inodes, node, ino, 1, Kind::Freeing);
            Ok(())
        });
        claimed.ok_or(EINVAL)?.map_err(wrong)?;
        Ok(InodeFree {
            groups: self.groups.clone(),
            group,
            index,
            ino,
            dir,
            plans: Some(plans),
        })
    }
}

/// The first inode of `at..end` that is not taken, of a group that has none in use.
fn next_index(tree: &Tree, base: u64, at: u32, end: u32) -> Option<u32> {
    (at..end).find(|index| {
        let ino = base + u64::from(*index);
        !taken::overlaps(tree, ino, ino)
    })
}

/// Whether descriptors say how much of an inode table was in use at some time.
fn keeps_used(groups: &Groups) -> bool {
    groups.geo.csum().mode() != Mode::None
}

fn inodes_per_block(groups: &Groups) -> u16 {
    let count = groups.geo.block_size() / u32::from(groups.geo.inode_size()).max(1);
    u16::try_from(count).unwrap_or(u16::MAX).max(1)
}

impl InodeLoan {
    /// The number of the inode.
    pub fn ino(&self) -> Ino {
        self.ino
    }

    /// The block that has the inode, and its offset there. It is in memory if it was not in use
    /// before.
    pub fn place(&self) -> Option<(Pblk, u32)> {
        let desc = self.groups.desc(self.group)?;
        desc.inode_location(self.index, &self.groups.geo).ok()
    }

    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub fn credits(&self) -> Credits {
        let plans = self.plans.as_ref();
        let more = plans.map_or(0, |plans| {
            plans.table.len() + usize::from(plans.blocks.is_some())
        });
        Credits::blocks(u32::try_from(more + 2).unwrap_or(u32::MAX))
    }

    /// The inode is in use from here on. Its block of the table is zeroed if nothing was in it
    /// before, so the inode is written after this. Does not sleep, and does not fail.
    pub fn apply(mut self, tx: &mut Transaction<'_>) {
        let Some(plans) = self.plans.take() else {
            return;
        };
        let groups = self.groups.clone();
        let removed = groups.with(self.group, |view| {
            self.apply_to(view, plans, tx);
            taken::remove(view.inodes, u64::from(self.ino), 1)
        });
        groups.keep(removed.flatten());
    }

    fn apply_to(&self, view: &mut View<'_>, plans: InodePlans, tx: &mut Transaction<'_>) {
        let (group, index, dir) = (self.group, self.index, self.dir);
        let geo = &self.groups.geo;
        let offset = geo.desc_location(group).map_or(0, |(_, offset)| offset);
        let Some(desc) = self.groups.desc(group) else {
            return;
        };
        let used = view.state.table_used(geo);
        for planned in plans.table {
            // Somebody else may have taken an inode of the block meanwhile.
            let n = planned.block() - desc.inode_table.0;
            if n * u64::from(inodes_per_block(&self.groups)) >= used.into() {
                tx.edit(planned, |_| ());
            }
        }
        let mut block_sum = None;
        let block_uninit = view.state.has(GroupDesc::BLOCK_UNINIT);
        if let Some(planned) = plans.blocks.filter(|_| block_uninit) {
            block_sum = tx.edit(planned, |bits| {
                let _ = init_block_bitmap(bits, desc, geo);
                bitmap_sum(bits, geo.clusters_per_group(), geo)
            });
        }
        let uninit = view.state.has(GroupDesc::INODE_UNINIT);
        let (was_free, sum) = tx.edit(plans.own.bitmap, |bits| {
            if uninit {
                let _ = init_inode_bitmap(bits, geo);
            }
            let was_free = bitmap::set_range(bits, index, 1).is_ok();
            (
                was_free,
                bitmap_sum(bits, geo.inodes_per_group().get(), geo),
            )
        });
        let counted = tx.edit(plans.own.desc, |block| {
            let raw = block.get_mut(offset as usize..)?;
            let mut edit = GroupEdit::new(raw, group, geo)?;
            edit.take_inode(index, dir)?;
            if block_uninit {
                edit.set_flags(edit.flags() & !GroupDesc::BLOCK_UNINIT);
            }
            let now = (edit.flags(), edit.itable_unused());
            edit.seal_sums(block_sum, sum)?;
            Some(now)
        });
        if let Some((flags, unused)) = counted.filter(|_| keeps_used(&self.groups)) {
            view.state.flags = flags;
            view.state.itable_unused = unused;
        }
        if !was_free || counted.is_none() {
            surprised();
        }
        view.state.free_inodes = view.state.free_inodes.saturating_sub(1);
        view.state.loaned_inodes = view.state.loaned_inodes.saturating_sub(1);
        view.state.used_dirs += u32::from(dir);
    }
}

impl Drop for InodeLoan {
    fn drop(&mut self) {
        let Some(plans) = self.plans.take() else {
            return;
        };
        let removed = self.groups.with(self.group, |view| {
            view.state.loaned_inodes = view.state.loaned_inodes.saturating_sub(1);
            taken::remove(view.inodes, u64::from(self.ino), 1)
        });
        self.groups.keep(removed.flatten());
        drop(plans);
    }
}

/// An inode that nobody else frees.
///
/// # Cancellation
///
/// Dropping it leaves it in use. Process context; does not sleep.
#[must_use = "dropping it leaves the inode in use"]
pub struct InodeFree {
    groups: Arc<Groups>,
    group: Group,
    index: u32,
    ino: Ino,
    dir: bool,
    plans: Option<Plans>,
}

impl InodeFree {
    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub const CREDITS: Credits = Credits::blocks(2);

    /// The inode is free from here on, and can be had again: the transaction has cleared it, and
    /// set the time when that was. Does not sleep, and does not fail.
    pub fn apply(mut self, tx: &mut Transaction<'_>) {
        let Some(Plans { bitmap, desc }) = self.plans.take() else {
            return;
        };
        let (group, index, dir) = (self.group, self.index, self.dir);
        let geo = &self.groups.geo;
        let offset = geo.desc_location(group).map_or(0, |(_, offset)| offset);
        let removed = self.groups.with(group, |view| {
            let (was_used, sum) = tx.edit(bitmap, |bits| {
                let was_used = bitmap::clear_range(bits, index, 1).is_ok();
                (
                    was_used,
                    bitmap_sum(bits, geo.inodes_per_group().get(), geo),
                )
            });
            let counted = tx.edit(desc, |block| {
                let raw = block.get_mut(offset as usize..)?;
                let mut edit = GroupEdit::new(raw, group, geo)?;
                edit.return_inode(dir)?;
                edit.seal_sums(None, sum)
            });
            if !was_used || counted.is_none() {
                surprised();
            }
            view.state.free_inodes += 1;
            view.state.used_dirs = view.state.used_dirs.saturating_sub(u32::from(dir));
            taken::remove(view.inodes, u64::from(self.ino), 1)
        });
        self.groups.keep(removed.flatten());
    }
}

impl Drop for InodeFree {
    fn drop(&mut self) {
        let Some(plans) = self.plans.take() else {
            return;
        };
        let removed = self.groups.with(self.group, |view| {
            taken::remove(view.inodes, u64::from(self.ino), 1)
        });
        self.groups.keep(removed.flatten());
        drop(plans);
    }
}
