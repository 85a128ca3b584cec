// SPDX-License-Identifier: GPL-2.0

//! What becomes of the extended attributes of an inode that is deleted.

use crate::error::About;
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::Writable;
use crate::journal::{Credits, Transaction};
use crate::memory::pinned;
use crate::xattr_block::Left;
use crate::xattr_value::ValueStep;
use crate::xattr_write::{count, own_value, Request, XattrFlags};
use disk::{gfp, Buf};
use kernel::prelude::*;
use layout::{EaValue, Incompat, Pblk, XattrSet};
use upcall::MutexGuard;

/// What an inode that is deleted leaves of its attributes, planned.
///
/// # Cancellation
///
/// Dropping it leaves them as they are.
pub struct XattrRelease<'a> {
    block: Option<Left>,
    values: KVec<ValueStep>,
    /// Released when this is applied.
    _counts: Option<MutexGuard<'a, ()>>,
}

impl Ext4 {
    /// Removes the attributes of an inode that nobody uses any more, as far as each needs a
    /// transaction of its own: those whose values are elsewhere.
    /// [`plan_release_xattrs`](Self::plan_release_xattrs) does the rest.
    ///
    /// # Cancellation
    ///
    /// Some are removed, some are not.
    pub async fn drop_xattr_values(&self, info: &InodeInfo) -> Result {
        if !self.sb.geo.has_incompat(Incompat::EA_INODE) {
            return Ok(());
        }
        loop {
            let inode = info.inode();
            let raw = self.raw_area(info).await?;
            let block = match inode.xattr_block {
                Some(pblk) => Some((pblk, self.xattr_block(info, pblk).await?)),
                None => None,
            };
            let mut name = KVec::new();
            let index = {
                let mut sets = self.sets(&inode, &raw, block.as_ref())?;
                // A block that others have keeps what it refers to.
                let shared =
                    |(_, buf): &(Pblk, Buf)| XattrSet::block_refcount(buf.data()) > Some(1);
                sets.block = sets.block.filter(|_| !block.as_ref().is_some_and(shared));
                let mut all =
                    Iterator::chain(sets.area.iter(), &sets.block).flat_map(XattrSet::iter);
                let Some(attr) = all.find(|attr| own_value(&attr.value).is_some()) else {
                    return Ok(());
                };
                name.extend_from_slice(attr.name, gfp())?;
                attr.index
            };
            drop(block);
            let ask = Request {
                index,
                name: &name,
                value: None,
                flags: XattrFlags::default(),
                set: None,
            };
            pinned(|| self.change_xattr(info, &ask)).await?.await?;
        }
    }

    /// Plans what the transaction has to do that frees an inode: its block of attributes is freed,
    /// or has a sharer less, and values that only it refers to are freed.
    ///
    /// The caller has `rwsem` to write, or is the last user. What is in the inode goes with it.
    ///
    /// # Cancellation
    ///
    /// Nothing changes.
    pub async fn plan_release_xattrs<'a>(
        &'a self,
        writable: &Writable,
        info: &InodeInfo,
    ) -> Result<XattrRelease<'a>> {
        let mut plan = XattrRelease {
            block: None,
            values: KVec::new(),
            _counts: None,
        };
        let inode = info.inode();
        let own_values = self.sb.geo.has_incompat(Incompat::EA_INODE);
        let has_some = inode.xattr_block.is_some() || inode.xattr_offset.is_some() && own_values;
        if !has_some {
            return Ok(plan);
        }
        let mut block = match inode.xattr_block {
            Some(pblk) => Some((pblk, self.xattr_block(info, pblk).await?)),
            None => None,
        };
        plan._counts = Some(self.lock_counts().await?);
        let mut sharers = 0;
        if let Some((pblk, buf)) = &mut block {
            // Others may have come or left meanwhile.
            *buf = self.block(*pblk).await?;
            sharers = self.sharers(About::block(info.ino, pblk.0), buf)?;
        }
        if own_values {
            let raw = self.raw_area(info).await?;
            let mut values: KVec<(EaValue, i64)> = KVec::new();
            {
                let mut sets = self.sets(&inode, &raw, block.as_ref())?;
                sets.block = sets.block.filter(|_| sharers == 1);
                for attr in Iterator::chain(sets.area.iter(), &sets.block).flat_map(XattrSet::iter)
                {
                    if let Some(value) = own_value(&attr.value) {
                        count(&mut values, value, -1)?;
                    }
                }
            }
            self.plan_values(writable, &inode, &values, &mut plan.values)
                .await?;
        }
        if let Some((pblk, _)) = block {
            plan.block = Some(self.plan_leave(writable, pblk, sharers).await?);
        }
        Ok(plan)
    }
}

impl XattrRelease<'_> {
    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub fn credits(&self) -> Credits {
        let mut all = Credits::default();
        if let Some(left) = &self.block {
            all = left.credits();
        }
        for step in self.values.iter() {
            all = all.and(step.credits());
        }
        all
    }

    /// The inode has no attributes from here on, but for what is in its bytes. Does not sleep, and
    /// does not fail.
    pub fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>) {
        if let Some(left) = self.block {
            left.apply(volume, tx);
        }
        for step in self.values {
            step.apply(volume, tx);
        }
    }
}
