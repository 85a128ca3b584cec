// SPDX-License-Identifier: GPL-2.0

//! A file whose data is in its inode gets a block for it, before it is written to.
//!
//! The data is written to the block first. Then one transaction maps the block, and the inode has no
//! data any more. What [`InodeInfo::inline`] has stays, for who looks at it.

use crate::alloc::Space;
use crate::error::{About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::InodePlan;
use crate::map_plan::{empty_root, MapPlan};
use crate::memory;
use disk::gfp;
use kernel::prelude::*;
use layout::xattr::{self, XattrSet};
use layout::xattr_edit::{put_area, Home, SetEdit, XattrChange};
use layout::{DataMap, FileType, InodeEdit, InodeFlags, Lblk, Pblk};
use upcall::bio::Op;

impl Ext4 {
    /// Moves the data of a file out of its inode, if it is there. `rwsem` is held to write.
    ///
    /// Fails with `ENOSPC`, and with the errors of damage and of the block layer.
    ///
    /// # Cancellation
    ///
    /// It stays in the inode.
    pub async fn leave_inline(&self, info: &InodeInfo, privileged: bool) -> Result {
        if info.data_map() != DataMap::Inline || info.file_type != FileType::Regular {
            return Ok(());
        }
        // Seldom, and large.
        memory::pinned(|| self.move_out(info, privileged))
            .await?
            .await
    }

    async fn move_out(&self, info: &InodeInfo, privileged: bool) -> Result {
        let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
        if info.data_map() != DataMap::Inline {
            return Ok(());
        }
        let writable = self.writable()?;
        let size = usize::try_from(info.size()).unwrap_or(usize::MAX);
        let data = info.inline.get(..size.min(info.inline.len()));
        let data = data.unwrap_or_default();
        let mut space = Space::of(privileged);
        let extents = self.maps_by_extents(info);
        let root = empty_root(extents);
        let mut loan = None;
        if data.iter().any(|byte| *byte != 0) {
            let goal = self.first_goal(info);
            let allocator = writable.allocator(self);
            let block = allocator.loan_blocks(goal, 1, 1, &mut space).await?;
            let mut draft = self.cache.draft().await?;
            let bytes = draft.data_mut();
            bytes.fill(0);
            for (to, from) in bytes.iter_mut().zip(data) {
                *to = *from;
            }
            let pblk = block.start().0;
            self.cache
                .write_one(pblk, draft.freeze(), Op::Write)
                .await?;
            loan = Some(block);
        }
        let mut plan = MapPlan::with_root(self, &writable, info, space, extents, root).await?;
        if let Some(loan) = loan {
            plan.map_loan(Lblk(0), loan, false).await?;
        }
        let area = self.area_without_data(info).await?;
        let inode = self.plan_inode(info).await?;
        let credits = plan.credits().and(InodePlan::CREDITS);
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        let change = plan.apply(&mut tx);
        inode.apply(self, &mut tx, info, |edit| {
            clear_inline(edit, extents, &area);
            change.put(edit);
        });
        drop(change);
        Ok(())
    }

    /// The attributes in an inode, without that which has the end of its inline data.
    pub(crate) async fn area_without_data(&self, info: &InodeInfo) -> Result<KVec<u8>> {
        let about = About::inode(info.ino);
        let (block, offset) = info.place;
        let table = self.block(Pblk(block)).await?;
        let raw = table.data().get(offset as usize..).ok_or(EIO)?;
        let inode = info.inode();
        let geo = &self.sb.geo;
        let set = XattrSet::in_inode(raw, &inode, geo).or_report(self, about)?;
        let len =
            usize::from(geo.inode_size()).saturating_sub(128 + usize::from(inode.extra_isize));
        let mut area = KVec::new();
        memory::room_for(&mut area, len).await?;
        area.extend_with(len, 0, gfp())?;
        let change = XattrChange {
            index: xattr::INDEX_SYSTEM,
            name: b"data",
            value: None,
        };
        SetEdit::new(Home::Inode, set, change)
            .write(&mut area)
            .or_report(self, about)?;
        Ok(area)
    }
}

/// The inode has no data in it any more, but a map: `area` is what its attributes are without that.
/// May run under a spinlock.
pub(crate) fn clear_inline(edit: &mut InodeEdit<'_>, extents: bool, area: &[u8]) {
    let mut flags = edit.flags().0 & !InodeFlags::INLINE_DATA.0;
    if extents {
        flags |= InodeFlags::EXTENTS.0;
    }
    edit.set_flags(InodeFlags(flags));
    if put_area(edit.xattr_area(), area).is_none() {
        // It was made for this inode.
        kernel::warn_on!(true);
    }
}
