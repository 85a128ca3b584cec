// SPDX-License-Identifier: GPL-2.0

//! The orphan file: what the kernel's ext4 left there comes to the list of orphans.
//!
//! ext4 keeps orphans in a file where the volume has one, so that many CPUs do not wait for the head
//! of one list. Here they are on the list on any volume, which ext4 reads as well. So a volume that
//! ext4 had when the power failed is emptied of them first. Each entry moves in a transaction of its
//! own: after a loss of power an inode is in the one place or in the other.

use crate::error::{corrupted, About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::{InodeInfo, InodeRef};
use crate::inode_plan::{InodePlan, Writable};
use crate::orphan::OrphanAdd;
use crate::super_plan::SuperPlan;
use disk::{gfp, Level};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::{orphan_file, Ino, Lblk, Pblk, RoCompat, SuperBlock};

impl Ext4 {
    /// Moves what the orphan file has to the list of orphans, and adds it to `orphans`. The
    /// superblock does not say any more that there is something in the file.
    ///
    /// Fails with `EUCLEAN` or `EBADMSG` if the file is damaged, which was reported; otherwise as
    /// [`clean_orphans`](Self::clean_orphans) does.
    pub(crate) async fn adopt_orphans(&self, orphans: &mut KVVec<InodeRef>) -> Result {
        let geo = &self.sb.geo;
        let Some(ino) = self.sb.orphan_file else {
            return Ok(());
        };
        if !geo.has_ro_compat(RoCompat::ORPHAN_PRESENT) {
            return Ok(());
        }
        if self.sb.state & SuperBlock::STATE_ERROR != 0 {
            self.disk.log(
                Level::Warning,
                format_args!("the volume has errors, so the orphan file is left as it is"),
            );
            return Ok(());
        }
        let writable = self.writable()?;
        let file = self.iget(ino).await?;
        let end = geo.file_blocks(file.size()).ok_or_else(corrupted)?;
        for lblk in 0..end.0 {
            self.disk.checkpoint().await?;
            let extent = self.map(&file, Lblk(lblk)).await?;
            let Some(pblk) = extent.written_at(Lblk(lblk)) else {
                self.report(&format_args!("orphan file: block {lblk} is a hole"));
                return Err(corrupted());
            };
            let entries = self.orphan_entries(&file, pblk).await?;
            let mut at = 0;
            while let Some(&(offset, ino)) = entries.get(at) {
                at += 1;
                let moved = || self.adopt(&writable, &file, pblk, offset, ino);
                if let Some(orphan) = disk::pinned(moved)?.await? {
                    orphans.push(orphan, gfp())?;
                }
            }
        }
        let plan = self.plan_super().await?;
        let begun = writable.journal.begin(&self.cache, SuperPlan::CREDITS);
        let mut tx = begun.await?;
        plan.apply(self, &mut tx, |edit| {
            let mut features = edit.features();
            features.ro_compat = features.ro_compat.without(RoCompat::ORPHAN_PRESENT);
            edit.set_features(features);
        });
        Ok(())
    }

    /// The entries in use of a block of the file, which is verified.
    async fn orphan_entries(&self, file: &InodeInfo, pblk: Pblk) -> Result<KVVec<(usize, Ino)>> {
        let geo = &self.sb.geo;
        let about = About::block(file.ino, pblk.0);
        let buffer = self.block(pblk).await?;
        orphan_file::verify(buffer.data(), pblk, &file.owner, geo).or_report(self, about)?;
        let mut entries = KVVec::new();
        for entry in orphan_file::orphans(buffer.data(), geo).or_report(self, about)? {
            entries.push(entry, gfp())?;
        }
        Ok(entries)
    }

    /// Moves one entry. One that leads to no inode is cleared.
    async fn adopt(
        &self,
        writable: &Writable,
        file: &InodeInfo,
        pblk: Pblk,
        offset: usize,
        ino: Ino,
    ) -> Result<Option<InodeRef>> {
        let found = match self.sb.geo.is_user_ino(ino) {
            true => self.iget_orphan(ino).await,
            false => Err(ESTALE),
        };
        let orphan = match found {
            Ok(orphan) => Some(orphan),
            Err(error) if error == ENOMEM || error == EIO => return Err(error),
            Err(_) => {
                self.report(&format_args!("inode {ino}, in the orphan file, is none"));
                None
            }
        };
        let entry = self.plan_edit(pblk.0).await?;
        let mut credits = InodePlan::CREDITS;
        credits.blocks += OrphanAdd::CREDITS.blocks + 1;
        let (mut plan, mut add) = (None, None);
        if let Some(orphan) = &orphan {
            plan = Some(self.plan_inode(orphan).await?);
            add = self.plan_orphan_add(ino).await?;
        }
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        if let (Some(orphan), Some(plan), Some(add)) = (&orphan, plan, add) {
            add.apply(self, &mut tx, |tx, next| {
                plan.apply(self, tx, orphan, |edit| edit.set_dtime(next));
            });
        }
        let cleared = tx.edit(entry, |block| {
            orphan_file::clear(block, offset, pblk, &file.owner, &self.sb.geo)
        });
        if cleared.is_none() {
            kernel::warn_on!(true);
        }
        Ok(orphan)
    }
}
