// SPDX-License-Identifier: GPL-2.0

//! Blocks of extended attributes: a new one, one that an inode leaves, and who shares one.
//!
//! ext4 lets inodes with the same attributes share a block; aext4 makes no such block, but changes
//! those that are there. The mutex of [`SharedXattrs`] protects the number of sharers from the look
//! at it until the transaction is applied, so that of two inodes that leave a block, one is the last.
//! It is taken behind the inode's `rwsem`. The number never grows here, so that a block that one
//! inode has stays that inode's.

use crate::alloc::{FreePlan, Goal, Loan, Space};
use crate::error::{corrupted, About};
use crate::ext4::Ext4;
use crate::inode_plan::Writable;
use crate::journal::{Credits, Transaction};
use crate::super_plan::SuperPlan;
use disk::{Buf, Planned};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::xattr_edit::{put_block, release, seal};
use layout::{Compat, Ino, Pblk, XattrSet};
use upcall::atomic::{Atomic, Relaxed};
use upcall::{Mutex, MutexGuard};

/// What is known of attributes that several inodes share.
pub(crate) struct SharedXattrs {
    /// For the number of those who share something.
    counts: Mutex<()>,
    /// Whether the superblock says that there are attributes.
    told: Atomic<u32>,
}

impl SharedXattrs {
    pub(crate) fn new() -> Self {
        Self {
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
pub(crate) struct Fresh {
    pub(crate) loan: Loan,
    planned: Planned,
    bytes: KVVec<u8>,
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

    /// Plans a new block with these bytes for inode `ino`.
    pub(crate) async fn plan_fresh(
        &self,
        writable: &Writable,
        ino: Ino,
        bytes: KVVec<u8>,
    ) -> Result<Fresh> {
        let goal = Goal::of_inode(&self.sb.geo, self.sb.groups_per_flex, ino, false);
        let loan = writable
            .allocator(self)
            .loan_blocks(goal, 1, 1, &mut Space::User)
            .await?;
        let planned = self.cache.plan_new(loan.start().0).await?;
        Ok(Fresh {
            loan,
            planned,
            bytes,
        })
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

    pub(crate) fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>) -> Pblk {
        let pblk = self.loan.start();
        self.loan.apply(tx);
        write_block(volume, tx, self.planned, pblk, &self.bytes);
        pblk
    }
}

pub(crate) fn write_block(
    volume: &Ext4,
    tx: &mut Transaction<'_>,
    planned: Planned,
    pblk: Pblk,
    bytes: &[u8],
) {
    let put = tx.edit(planned, |block| {
        put_block(block, bytes, pblk, &volume.sb.geo)
    });
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
