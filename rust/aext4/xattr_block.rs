// SPDX-License-Identifier: GPL-2.0

//! Blocks of extended attributes: a new one, one that an inode leaves, and who shares one.
//!
//! Inodes with the same attributes share a block, as in ext4, if it was written of late: some
//! blocks are remembered by a hash of what they have, and compared before they are shared. Those
//! with values that have inodes of their own are not.
//!
//! # Concurrency
//!
//! The mutex of [`SharedXattrs`] protects blocks and the numbers of their sharers from the look at
//! them until the transaction is applied: of two inodes that leave a block one is the last, and a
//! block that is shared is not changed, nor freed, meanwhile. It is taken behind the inode's
//! `rwsem`, by whoever changes, leaves or shares a block. A block is
//! forgotten when it is changed or freed, by whoever has the mutex.

use crate::alloc::{FreePlan, Goal, Loan, Space};
use crate::error::{corrupted, About};
use crate::ext4::Ext4;
use crate::inode_plan::Writable;
use crate::journal::{Credits, Transaction};
use crate::super_plan::SuperPlan;
use crate::xattr_write::own_value;
use disk::{Buf, Planned};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::xattr_edit::{contents, put_block, release, retain, same_contents, seal, SHARERS_MAX};
use layout::{Compat, Incompat, Ino, Pblk, XattrSet};
use upcall::atomic::{Atomic, Relaxed};
use upcall::{Mutex, MutexGuard};

/// How many blocks are remembered.
const RECENT: usize = 64;

/// What is known of attributes that several inodes share.
pub(crate) struct SharedXattrs {
    /// Blocks that were written of late, by the hash of what they have; 0 for none.
    recent: [Atomic<u64>; RECENT],
    /// For the number of those who share something.
    counts: Mutex<()>,
    /// Whether the superblock says that there are attributes.
    told: Atomic<u32>,
}

impl SharedXattrs {
    pub(crate) fn new() -> Self {
        Self {
            recent: [const { Atomic::new(0) }; RECENT],
            counts: Mutex::new(()),
            told: Atomic::new(0),
        }
    }
}

/// A block of attributes that an inode leaves.
pub(crate) enum Left {
    /// Nobody else has it.
    Free(Pblk, FreePlan),
    /// Others have it.
    Shared(Pblk, Planned),
}

/// A block of attributes that an inode gets.
pub(crate) enum Fresh {
    /// A new one.
    New(Loan, Planned, Contents),
    /// One that others have.
    Shared(Pblk, Planned),
}

/// What a block of attributes is to have.
pub(crate) struct Contents {
    bytes: KVVec<u8>,
    /// Where it is remembered, if it may be shared.
    slot: Option<usize>,
}

impl Ext4 {
    pub(crate) async fn lock_counts(&self) -> Result<MutexGuard<'_, ()>> {
        self.shared_xattrs.counts.lock().await.map_err(|_| EIO)
    }

    /// How many inodes share a block of attributes; not 0.
    pub(crate) fn sharers(&self, about: About, buf: &Buf) -> Result<u32> {
        match XattrSet::block_refcount(buf.data()) {
            Some(count) if count > 0 => Ok(count),
            _ => {
                self.report(&format_args!("{about}attributes that nobody has"));
                Err(corrupted())
            }
        }
    }

    /// What a block is to have that an edit has written to `bytes`.
    pub(crate) fn block_contents(&self, bytes: KVVec<u8>) -> Contents {
        let geo = &self.sb.geo;
        let sharable = !geo.has_incompat(Incompat::EA_INODE)
            || XattrSet::in_block(&bytes, geo)
                .is_ok_and(|set| set.iter().all(|attr| own_value(&attr.value).is_none()));
        let hash = disk::checksum::crc32c(!0, contents(&bytes));
        Contents {
            bytes,
            slot: sharable.then_some(hash as usize % RECENT),
        }
    }

    /// Plans to share a block that has these contents, and is not `but`, if one is known. The
    /// caller has the mutex.
    pub(crate) async fn plan_shared(
        &self,
        contents: &Contents,
        but: Option<Pblk>,
    ) -> Result<Option<Fresh>> {
        let slot = self.recent_slot(contents);
        let pblk = Pblk(slot.map_or(0, |slot| slot.load(Relaxed)));
        if pblk.0 == 0 || but == Some(pblk) {
            return Ok(None);
        }
        let buf = self.block(pblk).await?;
        let room = XattrSet::block_refcount(buf.data())
            .is_some_and(|count| (1..SHARERS_MAX).contains(&count));
        if !room || !same_contents(buf.data(), &contents.bytes) {
            return Ok(None);
        }
        Ok(Some(Fresh::Shared(pblk, self.plan_edit(pblk.0).await?)))
    }

    /// The block at `pblk` has other contents from now on, or is free.
    fn forget_block(&self, pblk: Pblk) {
        for slot in &self.shared_xattrs.recent {
            if slot.load(Relaxed) == pblk.0 {
                slot.store(0, Relaxed);
            }
        }
    }

    /// Where a block with these contents is remembered, if it may be shared.
    fn recent_slot(&self, contents: &Contents) -> Option<&Atomic<u64>> {
        self.shared_xattrs.recent.get(contents.slot?)
    }

    fn remember_block(&self, contents: &Contents, pblk: Pblk) {
        if let Some(slot) = self.recent_slot(contents) {
            slot.store(pblk.0, Relaxed);
        }
    }

    /// Plans a new block with these contents for inode `ino`.
    pub(crate) async fn plan_fresh(
        &self,
        writable: &Writable,
        ino: Ino,
        contents: Contents,
    ) -> Result<Fresh> {
        let goal = Goal::of_inode(&self.sb.geo, self.sb.groups_per_flex, ino, false);
        let loan = writable
            .allocator(self)
            .loan_blocks(goal, 1, 1, &mut Space::Caller)
            .await?;
        let planned = self.cache.plan_new(loan.start().0).await?;
        Ok(Fresh::New(loan, planned, contents))
    }

    /// Plans to leave the block at `pblk`, which so many share.
    pub(crate) async fn plan_leave(
        &self,
        writable: &Writable,
        pblk: Pblk,
        sharers: u32,
    ) -> Result<Left> {
        if sharers > 1 {
            return Ok(Left::Shared(pblk, self.plan_edit(pblk.0).await?));
        }
        let free = writable.allocator(self).plan_free(pblk, 1).await?;
        Ok(Left::Free(pblk, free))
    }

    /// Plans that the superblock says that there are attributes, unless it does.
    pub(crate) async fn plan_told(&self) -> Result<Option<SuperPlan>> {
        let told = self.shared_xattrs.told.load(Relaxed) != 0;
        if told || self.sb.geo.has_compat(Compat::EXT_ATTR) {
            return Ok(None);
        }
        Ok(Some(self.plan_super().await?))
    }

    /// The superblock says that there are attributes, if that was planned.
    pub(crate) fn tell(&self, tx: &mut Transaction<'_>, told: Option<SuperPlan>) {
        let Some(plan) = told else {
            return;
        };
        plan.apply(self, tx, |edit| {
            let mut features = edit.features();
            features.compat = features.compat.or(Compat::EXT_ATTR);
            edit.set_features(features);
        });
        self.shared_xattrs.told.store(1, Relaxed);
    }
}

impl Fresh {
    pub(crate) const CREDITS: Credits = Credits::blocks(Loan::CREDITS.blocks + 1);

    pub(crate) fn pblk(&self) -> Pblk {
        match self {
            Self::New(loan, ..) => loan.start(),
            Self::Shared(pblk, _) => *pblk,
        }
    }

    pub(crate) fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>) -> Pblk {
        let pblk = self.pblk();
        match self {
            Self::New(loan, planned, contents) => {
                loan.apply(tx);
                write_block(volume, tx, planned, pblk, &contents);
            }
            Self::Shared(_, planned) => {
                let more = tx.edit(planned, |block| {
                    retain(block)?;
                    seal(block, pblk, &volume.sb.geo)
                });
                if more.is_none() {
                    kernel::warn_on!(true);
                }
            }
        }
        pblk
    }
}

pub(crate) fn write_block(
    volume: &Ext4,
    tx: &mut Transaction<'_>,
    planned: Planned,
    pblk: Pblk,
    contents: &Contents,
) {
    volume.forget_block(pblk);
    let put = tx.edit(planned, |block| {
        put_block(block, &contents.bytes, pblk, &volume.sb.geo)
    });
    volume.remember_block(contents, pblk);
    if put.is_none() {
        kernel::warn_on!(true);
    }
}

impl Left {
    pub(crate) fn credits(&self) -> Credits {
        match self {
            Self::Shared(..) => Credits::blocks(1),
            Self::Free(_, free) => Credits {
                revokes: 1,
                ..free.credits()
            },
        }
    }

    pub(crate) fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>) {
        match self {
            Self::Free(pblk, free) => {
                volume.forget_block(pblk);
                tx.revoke(&volume.cache, pblk.0);
                free.apply(tx);
            }
            Self::Shared(pblk, planned) => {
                let left = tx.edit(planned, |block| {
                    release(block)?;
                    seal(block, pblk, &volume.sb.geo)
                });
                if left.is_none() {
                    kernel::warn_on!(true);
                }
            }
        }
    }
}
