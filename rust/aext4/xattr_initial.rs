// SPDX-License-Identifier: GPL-2.0

//! The extended attributes that a new inode has from the start: ACLs that it inherits, labels.

use crate::error::{About, OrReport};
use crate::ext4::Ext4;
use crate::inode_plan::Writable;
use crate::journal::{Credits, Transaction};
use crate::memory::{kept, pinned, room};
use crate::super_plan::SuperPlan;
use crate::xattr_block::Fresh;
use crate::xattr_value::NewHolder;
use crate::xattr_write::{check, Moves};
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::inode_edit::new_extra_isize;
use layout::xattr_edit::{put_area, Home};
use layout::{Ino, InodeEdit, NewValue, Pblk, Sets, XattrSet};
use upcall::MutexGuard;

/// An attribute that a new inode has from the start.
#[derive(Clone, Copy, Debug)]
pub struct NewXattr<'a> {
    /// The number of its prefix ([`layout::xattr`]).
    pub index: u8,
    /// Its name without the prefix.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// The attributes of a new inode, planned.
///
/// The transaction calls [`apply`](Self::apply) where it makes the inode, and
/// [`fill`](Self::fill) where it writes the inode's bytes, after all else that it writes there.
///
/// # Cancellation
///
/// Dropping it takes nothing.
pub struct InitialXattrs<'a> {
    area: KVVec<u8>,
    pblk: Option<Pblk>,
    fresh: Option<Fresh>,
    /// The block may be one that others share, as it is now.
    guard: Option<MutexGuard<'a, ()>>,
    holders: KVec<KBox<NewHolder>>,
    told: Option<SuperPlan>,
    /// How much of the space that the inode takes is theirs.
    sectors: i64,
}

impl<'a> InitialXattrs<'a> {
    /// Plans the attributes `attrs` of the new inode `ino`, which is owned by user and group
    /// `owner`.
    ///
    /// Fails as [`Ext4::set_xattr`] does.
    ///
    /// # Cancellation
    ///
    /// Nothing is taken.
    pub async fn plan(
        volume: &'a Ext4,
        writable: &Writable,
        ino: Ino,
        owner: (u32, u32),
        attrs: &[NewXattr<'_>],
    ) -> Result<KBox<Self>> {
        let geo = &volume.sb.geo;
        let used = 128 + usize::from(new_extra_isize(&volume.sb));
        let area_len = usize::from(geo.inode_size()).saturating_sub(used);
        let mut area = volume.zeroed(area_len).await?;
        let mut plan = kept(Self {
            area: KVVec::new(),
            pblk: None,
            fresh: None,
            guard: None,
            holders: KVec::new(),
            told: None,
            sectors: 0,
        })?;
        let mut block: Option<KVVec<u8>> = None;
        for attr in attrs {
            check(attr.name, Some(attr.value))?;
            let (mut next_area, mut next_block) = (None, None);
            {
                let about = About::inode(ino);
                let in_block = match &block {
                    Some(block) => Some(XattrSet::in_block(block, geo).or_report(volume, about)?),
                    None => None,
                };
                let sets = Sets {
                    area_len,
                    area: XattrSet::in_area(&area, geo).or_report(volume, about)?,
                    block: in_block,
                };
                let to = sets.place(attr.index, attr.name, attr.value, geo);
                let to = to.ok_or(ENOSPC)?;
                let value = match to.own_inode {
                    true => {
                        let holder =
                            pinned(|| volume.plan_holder(writable, ino, owner, attr.value)).await?;
                        let holder = holder.await?;
                        let value = holder.value();
                        plan.sectors += volume.value_sectors(holder.size());
                        room(&mut plan.holders).await?;
                        plan.holders.push(holder, gfp())?;
                        value
                    }
                    false => NewValue::Here(attr.value),
                };
                if sets.find(attr.index, attr.name).is_some() {
                    return Err(EEXIST);
                }
                let moves = Moves {
                    to: Some(to),
                    from: None,
                };
                let edit = |home| moves.edit(home, &sets, attr.index, attr.name, Some(value));
                for (home, len, next) in [
                    (Home::Inode, area_len, &mut next_area),
                    (Home::Block, geo.block_size() as usize, &mut next_block),
                ] {
                    if let Some(edit) = edit(home) {
                        let mut bytes = volume.zeroed(len).await?;
                        edit.write(&mut bytes).or_report(volume, about)?;
                        *next = Some(bytes);
                    }
                }
            }
            area = next_area.unwrap_or(area);
            block = next_block.or(block);
        }
        plan.area = area;
        if let Some(bytes) = block {
            let contents = volume.block_contents(bytes);
            plan.guard = Some(volume.lock_counts().await?);
            let fresh = match volume.plan_shared(&contents, None).await? {
                Some(shared) => shared,
                None => volume.plan_fresh(writable, ino, contents).await?,
            };
            plan.pblk = Some(fresh.pblk());
            plan.sectors += i64::from(geo.block_size()) >> 9;
            plan.fresh = Some(fresh);
        }
        if !attrs.is_empty() {
            plan.told = volume.plan_told().await?;
        }
        Ok(plan)
    }

    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub fn credits(&self) -> Credits {
        let mut all = Credits::default();
        if self.fresh.is_some() {
            all = all.and(Fresh::CREDITS);
        }
        for holder in self.holders.iter() {
            all = all.and(holder.credits());
        }
        if self.told.is_some() {
            all = all.and(SuperPlan::CREDITS);
        }
        all
    }

    /// Writes them into the new inode, and adds to the space that it takes. Does not sleep; may run
    /// under a spinlock.
    pub fn fill(&self, edit: &mut InodeEdit<'_>) {
        let _ = put_area(edit.xattr_area(), &self.area);
        if self.pblk.is_some() {
            edit.set_xattr_block(self.pblk);
        }
        let _ = edit.add_sectors(self.sectors);
    }

    /// What of them is not in the inode is there from here on. Does not sleep, and does not fail.
    pub fn apply(&mut self, volume: &Ext4, tx: &mut Transaction<'_>) {
        volume.tell(tx, self.told.take());
        if let Some(fresh) = self.fresh.take() {
            fresh.apply(volume, tx);
        }
        drop(self.guard.take());
        for holder in core::mem::take(&mut self.holders) {
            KBox::into_inner(holder).apply(volume, tx);
        }
    }
}
