// SPDX-License-Identifier: GPL-2.0

//! [`Running`]: what the transactions since the last commit have changed.
//!
//! All of it is under the spinlock of [`Journal::running`](super::Journal). Room in the lists is
//! made when a transaction begins, so that nothing is allocated when it edits.
//!
//! # Space in the log
//!
//! A transaction brings blocks of the log for its credits when it begins, and they are the running
//! transactions' from then on. So there are never fewer than what was changed and what those that
//! are open may still change takes, whoever of them ends first; for the parts of a transaction
//! never take fewer blocks together than each alone. What is more than that is given back when one
//! ends.

use super::{LogBlocks, Ring};
use disk::{Buf, Pin};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::Notify;

/// How much a transaction changes at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credits {
    /// Blocks that it edits.
    pub blocks: u32,
    /// Blocks of metadata that it frees.
    pub revokes: u32,
    /// Runs of blocks that it frees.
    pub freed: u32,
}

impl Credits {
    /// As many blocks to edit, and nothing to free.
    pub const fn blocks(blocks: u32) -> Self {
        Self {
            blocks,
            revokes: 0,
            freed: 0,
        }
    }

    /// Both together.
    pub const fn and(self, other: Self) -> Self {
        Self {
            blocks: self.blocks.saturating_add(other.blocks),
            revokes: self.revokes.saturating_add(other.revokes),
            freed: self.freed.saturating_add(other.freed),
        }
    }

    /// As many times as much.
    pub const fn times(self, count: u32) -> Self {
        Self {
            blocks: self.blocks.saturating_mul(count),
            revokes: self.revokes.saturating_mul(count),
            freed: self.freed.saturating_mul(count),
        }
    }

    fn add(&mut self, other: &Self) {
        self.blocks += other.blocks;
        self.revokes += other.revokes;
        self.freed += other.freed;
    }

    fn sub(&mut self, other: &Self) {
        self.blocks = self.blocks.saturating_sub(other.blocks);
        self.revokes = self.revokes.saturating_sub(other.revokes);
        self.freed = self.freed.saturating_sub(other.freed);
    }
}

/// A run of blocks that was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// The first block.
    pub start: u64,
    /// How many there are.
    pub count: u32,
}

/// A block that was edited.
pub(super) struct Edited {
    pub(super) pin: Pin,
    /// What the commit writes.
    pub(super) buf: Option<Buf>,
}

/// What the transactions since the last commit have changed.
pub(super) struct Running {
    pub(super) tid: u32,
    pub(super) edited: KVVec<Edited>,
    pub(super) revokes: KVVec<u64>,
    pub(super) freed: KVVec<Freed>,
    /// What transactions that are open may still add.
    open: Credits,
    /// How many blocks of the log it has.
    pub(super) permits: usize,
    /// Whether the upcall was told that there is something to commit.
    told: bool,
    /// Closed when the commit is over.
    pub(super) latch: Arc<Notify>,
}

/// The lists of a [`Running`], longer ones.
pub(super) struct Lists {
    edited: KVVec<Edited>,
    revokes: KVVec<u64>,
    freed: KVVec<Freed>,
}

impl Running {
    pub(super) fn new(tid: u32, latch: Arc<Notify>) -> Self {
        Self {
            tid,
            edited: KVVec::new(),
            revokes: KVVec::new(),
            freed: KVVec::new(),
            open: Credits::default(),
            permits: 0,
            told: false,
            latch,
        }
    }

    /// Whether there is nothing to commit.
    pub(super) fn is_empty(&self) -> bool {
        self.edited.is_empty() && self.revokes.is_empty() && self.freed.is_empty()
    }

    /// Whether a transaction of so many blocks of the log may be one of these, which have `max`
    /// together.
    pub(super) fn fits(&self, permits: usize, max: usize) -> bool {
        // While nothing is changed there is no commit to wait for.
        self.is_empty() || self.permits + permits <= max
    }

    /// Whether the lists have room for a transaction with these credits, which is open from then
    /// on, and brings so many blocks of the log. Else how long they are to be.
    pub(super) fn open(&mut self, credits: &Credits, permits: usize) -> Result<(), Credits> {
        let mut open = self.open;
        open.add(credits);
        let fits = |len: usize, capacity: usize, more: u32| len + more as usize <= capacity;
        if fits(self.edited.len(), self.edited.capacity(), open.blocks)
            && fits(self.revokes.len(), self.revokes.capacity(), open.revokes)
            && fits(self.freed.len(), self.freed.capacity(), open.freed)
        {
            self.open = open;
            self.permits += permits;
            return Ok(());
        }
        let want = |len: usize, more: u32| (2 * (len as u32 + more)).max(16);
        Err(Credits {
            blocks: want(self.edited.len(), open.blocks),
            revokes: want(self.revokes.len(), open.revokes),
            freed: want(self.freed.len(), open.freed),
        })
    }

    /// Adds a block that a transaction edited, which had credits for it. Returns whether there was
    /// room.
    pub(super) fn push_edited(&mut self, edited: Edited) -> bool {
        self.open.blocks = self.open.blocks.saturating_sub(1);
        self.edited.push_within_capacity(edited).is_ok()
    }

    /// As [`push_edited`](Self::push_edited), for a block of metadata that was freed.
    pub(super) fn push_revoke(&mut self, block: u64) -> bool {
        self.open.revokes = self.open.revokes.saturating_sub(1);
        self.revokes.push_within_capacity(block).is_ok()
    }

    /// As [`push_edited`](Self::push_edited), for blocks that were freed.
    pub(super) fn push_freed(&mut self, freed: Freed) -> bool {
        self.open.freed = self.open.freed.saturating_sub(1);
        self.freed.push_within_capacity(freed).is_ok()
    }

    /// A transaction that has these credits left is not open any more. Returns how many blocks of
    /// the log are given back, and whether the upcall is to be told that there is something to
    /// commit.
    pub(super) fn close(&mut self, left: &Credits, ring: Option<&Ring>) -> (usize, bool) {
        self.open.sub(left);
        let needs = ring.map_or(0, |ring| self.log_blocks(ring));
        let unused = self.permits.saturating_sub(needs);
        self.permits -= unused;
        let tell = !self.told && !self.is_empty();
        self.told |= tell;
        (unused, tell)
    }

    /// Exchanges the lists for longer ones. Gives those that are not used any more, to be freed
    /// without the lock.
    pub(super) fn lengthen(&mut self, lists: Lists) -> Lists {
        Lists {
            edited: exchange(&mut self.edited, lists.edited),
            revokes: exchange(&mut self.revokes, lists.revokes),
            freed: exchange(&mut self.freed, lists.freed),
        }
    }

    /// How many blocks of the log it takes, with what transactions that are open may still add.
    fn log_blocks(&self, ring: &Ring) -> usize {
        if self.is_empty() && self.open == Credits::default() {
            return 0;
        }
        let more = |len: usize, open: u32| len + open as usize;
        ring.log_blocks(
            more(self.edited.len(), self.open.blocks),
            more(self.revokes.len(), self.open.revokes),
        )
    }
}

impl Lists {
    pub(super) async fn new(cache: &disk::Cache, want: &Credits) -> Result<Self> {
        let spawner = cache.spawner();
        Ok(Self {
            edited: disk::vec_with_capacity(spawner, want.blocks as usize).await?,
            revokes: disk::vec_with_capacity(spawner, want.revokes as usize).await?,
            freed: disk::vec_with_capacity(spawner, want.freed as usize).await?,
        })
    }
}

/// Moves the elements of a list to a longer one, which takes its place. Gives the shorter one.
pub(super) fn exchange<T>(list: &mut KVVec<T>, mut other: KVVec<T>) -> KVVec<T> {
    if other.capacity() <= list.capacity() {
        return other;
    }
    // They are few, and moving them needs no memory.
    let mut old = core::mem::take(list);
    for element in old.drain_all() {
        let _ = other.push_within_capacity(element);
    }
    *list = other;
    old
}

impl Ring {
    pub(super) fn new(blocks: LogBlocks, sb: layout::journal::JournalSuper) -> Self {
        let (tags, revokes) = (sb.rules.tags_max(), sb.rules.revokes_max());
        Self {
            blocks,
            sb,
            tags: tags.max(1) as usize,
            revokes: revokes.max(1) as usize,
        }
    }

    /// How many blocks of the log a transaction takes that edits and revokes so many.
    pub(super) fn log_blocks(&self, blocks: usize, revokes: usize) -> usize {
        blocks + blocks.div_ceil(self.tags) + revokes.div_ceil(self.revokes) + 1
    }

    /// How many blocks a transaction has at most: a third of the log, as in jbd2.
    pub(super) fn max(&self) -> usize {
        self.sb.len() as usize / 3
    }
}
