// SPDX-License-Identifier: GPL-2.0

//! [`InodePlan`]: a change of an inode, planned before a transaction and applied by it.
//!
//! # Concurrency
//!
//! Whoever changes attributes or names has the inode's `rwsem`, whoever changes the map its
//! `map_lock`, and both may edit the inode's bytes at the same time: each only its own fields, under
//! the lock of the block. The copy in memory is parsed from the bytes under that lock, and numbered
//! there, so that the newest stays, in whatever order they come to be stored.

use crate::alloc::{Allocator, Groups, Watch};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::journal::{Credits, Journal, Transaction};
use core::fmt;
use disk::Planned;
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::{Geometry, Inode, InodeEdit, Owner, Pblk};

/// What changes a volume, while that is writable.
pub struct Writable {
    /// The journal.
    pub journal: Arc<Journal>,
    /// What can be allocated.
    pub groups: Arc<Groups>,
}

impl Writable {
    /// What allocates on `volume`.
    pub fn allocator<'a>(&'a self, volume: &'a Ext4) -> Allocator<'a> {
        Allocator {
            cache: &volume.cache,
            groups: &self.groups,
            journal: Some(&self.journal),
            watch: volume,
        }
    }
}

impl Watch for Ext4 {
    fn is_system_block(&self, start: Pblk, len: u32) -> bool {
        Ext4::is_system_block(self, start, len)
    }

    fn may_use_reserve(&self) -> bool {
        Ext4::may_use_reserve(self)
    }

    fn report(&self, what: &dyn fmt::Display) {
        Ext4::report(self, what);
    }

    fn report_unread(&self, block: u64, error: Error) {
        Ext4::report_unread(self, block, error);
    }
}

/// An inode that is in memory to be changed.
///
/// # Cancellation
///
/// Dropping it leaves the inode as it is.
pub struct InodePlan {
    planned: Planned,
    offset: u32,
}

impl Ext4 {
    /// What changes the volume. Fails with `EROFS` if it is not writable, and with `EIO` if it was
    /// shut down.
    pub fn writable(&self) -> Result<Writable> {
        let writing = self.writing.lock();
        let writing = writing.as_ref().ok_or(EROFS)?;
        writing.journal.check()?;
        Ok(Writable {
            journal: writing.journal.clone(),
            groups: writing.groups.clone(),
        })
    }

    /// Fails with `EROFS` if the volume is not writable.
    pub fn check_writing(&self) -> Result {
        let writing = self.writing.lock();
        writing.as_ref().ok_or(EROFS)?.journal.check()
    }

    /// Plans to change an inode.
    ///
    /// # Cancellation
    ///
    /// The inode stays as it is.
    pub async fn plan_inode(&self, info: &InodeInfo) -> Result<InodePlan> {
        let (block, offset) = info.place;
        let planned = self.plan_edit(block).await?;
        Ok(InodePlan { planned, offset })
    }

    /// Waits until what was changed of an inode is durable, and what was written to the device
    /// before.
    ///
    /// Fails with `EIO` if the journal was aborted before that, and with the errors of the block
    /// layer.
    ///
    /// # Cancellation
    ///
    /// The commit goes on.
    pub async fn sync_inode(&self, info: &InodeInfo) -> Result {
        match self.journal() {
            Some(journal) => self.sync_to(&journal, info.changed_in()).await,
            None => Ok(()),
        }
    }

    /// Whether a loss of power leaves the map of an inode, and its size, as they are. Does not sleep.
    pub fn map_is_durable(&self, info: &InodeInfo) -> bool {
        let changed = self.journal().zip(info.map_changed_in());
        changed.is_none_or(|(journal, tid)| journal.is_durable(tid))
    }

    /// As [`sync_inode`](Self::sync_inode), of all inodes.
    pub async fn sync(&self) -> Result {
        match self.journal() {
            Some(journal) => self.sync_to(&journal, Some(journal.running_tid())).await,
            None => Ok(()),
        }
    }

    async fn sync_to(&self, journal: &Journal, tid: Option<u32>) -> Result {
        journal.check()?;
        let flushed = match tid {
            Some(tid) => journal.sync_device(tid).await?,
            None => !self.flags().barrier(),
        };
        if flushed {
            return Ok(());
        }
        self.cache.flush().await
    }
}

impl InodePlan {
    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub const CREDITS: Credits = Credits::blocks(1);

    /// Changes the inode by `change`, which is short and looks up nothing: it runs under a spinlock.
    /// Does not sleep, and does not fail.
    pub fn apply(
        self,
        volume: &Ext4,
        tx: &mut Transaction<'_>,
        info: &InodeInfo,
        change: impl FnOnce(&mut InodeEdit<'_>),
    ) {
        let geo = &volume.sb.geo;
        let (mut parsed, mut number) = (Err(layout::Error::corrupt("")), 0);
        tx.edit(self.planned, |block| {
            let raw = block.get_mut(self.offset as usize..)?;
            let mut edit = InodeEdit::new(raw, geo)?;
            change(&mut edit);
            edit.seal_for(&info.owner);
            parse(raw, &info.owner, geo, &mut parsed);
            number = info.next_edit();
            Some(())
        });
        match &parsed {
            Ok(inode) => {
                if inode.size != info.size() {
                    info.set_map_changed_in(tx.tid());
                }
                info.store(number, inode);
            }
            // The bytes were checked when the inode was read.
            Err(_) => {
                kernel::warn_on!(true);
            }
        }
        info.set_changed_in(tx.tid());
    }

    /// Frees the inode at the time `now`, in seconds: it has nothing any more, and nobody uses it.
    /// Does not sleep, and does not fail.
    pub fn clear(self, volume: &Ext4, tx: &mut Transaction<'_>, info: &InodeInfo, now: u32) {
        tx.edit(self.planned, |block| {
            let raw = block.get_mut(self.offset as usize..)?;
            let mut edit = InodeEdit::new(raw, &volume.sb.geo)?;
            edit.clear(now);
            edit.seal_for(&info.owner);
            Some(())
        });
    }
}

/// Parses an inode where it is to be: it is large, and would be moved once or twice more.
#[inline(never)]
fn parse(raw: &[u8], owner: &Owner, geo: &Geometry, parsed: &mut layout::Result<Inode>) {
    *parsed = Inode::parse_edited(raw, owner, geo);
}
