// SPDX-License-Identifier: GPL-2.0

//! [`SuperPlan`]: a change of the superblock that is a part of a transaction.
//!
//! # Two ways to the superblock
//!
//! What has to be as durable as other blocks, the head of the list of orphans above all, is edited
//! as a block of metadata: in the cache, by a transaction, and so through the journal. What says
//! that the volume is in use, is clean, or needs recovery is written in place, at once, by a
//! `SuperWrite`, which begins with what the device has. They do not
//! meet. The second way is taken before the first transaction and after the last, when all that
//! transactions changed is home; before the first the block in the cache becomes what the device
//! has then ([`Ext4::refresh_super`]).
//!
//! What a program writes to the superblock past us while the volume is writable is lost with the
//! next change of the first kind.

use crate::ext4::Ext4;
use crate::journal::{Credits, Transaction};
use disk::{Level, Planned};
use kernel::prelude::*;
use layout::super_edit::{is_sound, SuperEdit};
use layout::superblock::{super_offset, SUPER_KIB, SUPER_SIZE};
use layout::Group;

/// The superblock, to be changed.
///
/// # Cancellation
///
/// Dropping it leaves the superblock as it is.
pub struct SuperPlan {
    planned: Planned,
    offset: usize,
}

impl Ext4 {
    /// Plans to change the superblock in a transaction.
    ///
    /// # Cancellation
    ///
    /// It stays as it is.
    pub async fn plan_super(&self) -> Result<SuperPlan> {
        let place = super_offset(SUPER_KIB).ok_or(EINVAL)?;
        let bits = self.sb.geo.block_bits();
        let block = place >> bits;
        let planned = self.cache.plan(block).await?;
        let offset = usize::try_from(place - (block << bits)).map_err(|_| EINVAL)?;
        Ok(SuperPlan { planned, offset })
    }

    /// Makes the superblock in the cache what the device has, before the first transaction.
    pub(crate) async fn refresh_super(&self) -> Result {
        let place = super_offset(SUPER_KIB).ok_or(EINVAL)?;
        let plan = self.plan_super().await?;
        let mut raw = [0; SUPER_SIZE];
        let copy = |bytes: &[u8]| raw.copy_from_slice(bytes);
        disk::pinned(|| self.disk.read_raw(place, SUPER_SIZE, copy))?.await?;
        let ((), pin) = plan.planned.edit(|block| {
            let end = plan.offset.saturating_add(SUPER_SIZE);
            let to = block.get_mut(plan.offset..end);
            if let Some(to) = to {
                to.copy_from_slice(&raw);
            }
        });
        // It is what the device has: nobody has to write it.
        if let Some(pin) = pin {
            pin.clear_edited();
        }
        Ok(())
    }
}

impl Ext4 {
    /// Plans to change the backup of the superblock in `group`; `None` if it has none. One that is
    /// damaged stays as it is, with a line in the log.
    ///
    /// # Cancellation
    ///
    /// It stays as it is.
    pub(crate) async fn plan_backup(&self, group: Group) -> Result<Option<SuperPlan>> {
        let geo = &self.sb.geo;
        if group.0 == 0 || !geo.group_has_super(group) {
            return Ok(None);
        }
        let block = geo.group_first_block(group).0;
        let planned = self.plan_edit(block).await?;
        let plan = SuperPlan { planned, offset: 0 };
        if plan.look(|raw| is_sound(raw, geo.csum())) != Some(true) {
            self.disk.log_limited(
                Level::Warning,
                format_args!("block {block}: a damaged backup of the superblock is left as it is"),
            );
            return Ok(None);
        }
        Ok(Some(plan))
    }
}

impl SuperPlan {
    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub const CREDITS: Credits = Credits::blocks(1);

    /// Changes the superblock by `change`, which is short: it runs under a spinlock. Does not
    /// sleep, and does not fail.
    pub fn apply(
        self,
        volume: &Ext4,
        tx: &mut Transaction<'_>,
        change: impl FnOnce(&mut SuperEdit<'_>),
    ) {
        let changed = tx.edit(self.planned, |block| {
            let raw = block.get_mut(self.offset..)?;
            let mut edit = SuperEdit::new(raw)?;
            change(&mut edit);
            edit.seal(volume.sb.geo.csum());
            Some(())
        });
        if changed.is_none() {
            // It was one when the volume was mounted.
            kernel::warn_on!(true);
        }
    }

    /// What `look` says of the superblock as it is now.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let buf = self.planned.buf()?;
        buf.data().get(self.offset..).map(look)
    }
}
