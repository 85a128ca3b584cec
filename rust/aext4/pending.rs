// SPDX-License-Identifier: GPL-2.0

//! [`Pending`]: what was written to a file, and is not in its map yet.
//!
//! A part of a hole that somebody writes to is *reserved*: there will be blocks for it, and for what
//! its map needs. When the data is about to go to the device the part is *loaned*: the blocks are
//! chosen, and the data is on its way. When it has arrived a transaction maps them, and nothing is
//! pending. So a block is in the map only if its data is on the device.
//!
//! | from | to | by |
//! |---|---|---|
//! | a hole | reserved | [`write_begin`](crate::Ext4::write_begin) |
//! | reserved | a hole | [`write_undo`](crate::Ext4::write_undo), making the file shorter |
//! | reserved | loaned | [`writeback_map`](crate::Ext4::writeback_map) |
//! | loaned | mapped, or a hole | [`write_done`](crate::Ext4::write_done) |
//!
//! # Space
//!
//! What is reserved is promised by the allocator: a block for each, and an allowance for the blocks
//! of the map, which is as much as the worst case takes. What was loaned keeps its part of the
//! allowance until it is mapped.
//!
//! # Concurrency
//!
//! Under a spinlock of the inode, which is taken before that of the extent cache. Nothing is
//! allocated with it held. What is loaned comes, goes and is cut only under the inode's `map_lock`,
//! held to write; what is reserved, under the spinlock alone.

use crate::alloc::{Loan, Reservation, Window};
use crate::memory;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode, RBTreeNodeReservation};
use layout::Pblk;

/// What is pending of a file.
pub struct Pending {
    /// By the last block. They do not overlap; those that are reserved do not touch.
    runs: RBTree<u32, Run>,
    /// How many blocks are reserved, and loaned.
    reserved: u64,
    loaned: u64,
    /// How many blocks all runs may need for the map.
    allowance: u64,
    /// What is promised for those that are reserved, and for the allowance.
    pool: Option<Reservation>,
    /// Where blocks are chosen next, if the file grows.
    window: Window,
}

/// A run of blocks of a file.
struct Run {
    first: u32,
    /// Where its blocks are, if they are loaned; and the loan, unless somebody cuts it.
    loan: Option<(Pblk, Option<Loan>)>,
}

/// The memory of a run.
pub(crate) struct Memory(RBTreeNodeReservation<u32, Run>);

/// What was taken out, to be freed without the lock.
#[must_use = "it is dropped without the lock"]
#[derive(Default)]
pub(crate) struct Freed {
    _nodes: [Option<RBTreeNode<u32, Run>>; 2],
    _pool: Option<Reservation>,
}

/// A run that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// Where it is, if it is loaned.
    pub(crate) at: Option<Pblk>,
}

/// The shape of a file's map, for the allowance.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// The binary logarithm of the block size.
    pub(crate) bits: u32,
    pub(crate) extents: bool,
}

/// How many of a map's blocks are pointed to by an inode without extents, directly.
const DIRECT: u64 = layout::DIRECT as u64;

impl Shape {
    /// How many blocks the map needs for a run of `first..=last`, at most.
    pub(crate) fn allowance(self, first: u32, last: u32) -> u64 {
        let (first, last) = (u64::from(first), u64::from(last));
        if self.extents {
            // A block of the tree has an entry for each 12 bytes. It counts half of the entries of
            // 16 bytes: nodes are split in halves. One more if the tree grows deeper.
            return 1 + ((last - first + 1) >> self.bits.saturating_sub(5));
        }
        let Some(last) = last.checked_sub(DIRECT) else {
            return 0;
        };
        // Blocks of pointers to data, which are aligned to what one covers behind the direct ones;
        // those that point to them; and the roots of two levels.
        let bits = self.bits.saturating_sub(2);
        let leaves = (last >> bits) - (first.saturating_sub(DIRECT) >> bits) + 1;
        match last >> bits {
            0 => leaves,
            _ => leaves + (leaves >> bits) + 2 + 2,
        }
    }
}

/// Memory for a run. On a worker it waits for it.
pub(crate) async fn memory() -> Result<Memory> {
    Ok(Memory(memory::tree_node().await?))
}

impl Found {
    /// How many blocks there are.
    pub(crate) fn len(&self) -> u32 {
        self.last - self.first + 1
    }

    /// Where block `block` of it is, if it is loaned.
    pub(crate) fn at(&self, block: u32) -> Option<Pblk> {
        let skip = block.checked_sub(self.first)?;
        self.at.map(|at| Pblk(at.0 + u64::from(skip)))
    }
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self {
            runs: RBTree::new(),
            reserved: 0,
            loaned: 0,
            allowance: 0,
            pool: None,
            window: Window::default(),
        }
    }

    /// Takes the window, or puts another one in its place. Both under the `map_lock`.
    pub(crate) fn replace_window(&mut self, window: Window) -> Window {
        core::mem::replace(&mut self.window, window)
    }

    /// How many blocks are pending.
    pub(crate) fn blocks(&self) -> u64 {
        self.reserved + self.loaned
    }

    /// The first run that ends at `from` or behind.
    pub(crate) fn next(&self, from: u32) -> Option<Found> {
        let cursor = self.runs.cursor_lower_bound(&from)?;
        let (last, run) = cursor.current();
        Some(Found {
            first: run.first,
            last: *last,
            at: run.loan.as_ref().map(|loan| loan.0),
        })
    }

    /// The run that has `block`.
    pub(crate) fn find(&self, block: u32) -> Option<Found> {
        self.next(block).filter(|found| found.first <= block)
    }

    /// The run of what is reserved that ends with `last`, if its memory is there.
    fn reserved_run(&self, found: Option<Found>) -> Option<Found> {
        found.filter(|found| found.at.is_none())
    }

    fn grow_allowance(&mut self, shape: Shape, first: u32, last: u32) {
        self.allowance += shape.allowance(first, last);
    }

    fn shrink_allowance(&mut self, shape: Shape, first: u32, last: u32) {
        let less = shape.allowance(first, last);
        self.allowance = self.allowance.saturating_sub(less);
    }

    /// Takes off the pool what is promised in excess.
    fn excess(&mut self) -> Option<Reservation> {
        let needed = self.reserved + self.allowance;
        let needed = match self.blocks() {
            0 => 0,
            _ => needed,
        };
        let pool = self.pool.as_mut()?;
        let excess = pool.count().checked_sub(needed).filter(|n| *n > 0)?;
        Some(pool.split(excess))
    }

    /// Adds a promise to the pool.
    fn add(&mut self, reservation: Reservation) {
        match &mut self.pool {
            Some(pool) => pool.merge(reservation),
            None => self.pool = Some(reservation),
        }
    }

    /// Reserves `first..=last`, of which nothing is pending, with the promise for it, and joins it
    /// with its neighbours.
    pub(crate) fn reserve(
        &mut self,
        shape: Shape,
        (mut first, mut last): (u32, u32),
        memory: Memory,
        reservation: Reservation,
    ) -> Freed {
        let mut freed = Freed::default();
        self.reserved += u64::from(last - first + 1);
        let before = first.checked_sub(1).and_then(|block| self.find(block));
        if let Some(left) = self.reserved_run(before) {
            self.shrink_allowance(shape, left.first, left.last);
            freed._nodes[0] = self.runs.remove_node(&left.last);
            first = left.first;
        }
        let behind = last.checked_add(1).and_then(|block| self.find(block));
        if let Some(right) = self.reserved_run(behind) {
            self.shrink_allowance(shape, right.first, right.last);
            freed._nodes[1] = self.runs.remove_node(&right.last);
            last = right.last;
        }
        let run = Run { first, loan: None };
        let _ = self.runs.insert(memory.0.into_node(last, run));
        self.grow_allowance(shape, first, last);
        self.add(reservation);
        freed._pool = self.excess();
        freed
    }

    /// Cuts the run of what is reserved in two, of which the second begins with `at`, if one has
    /// both `at` and the block before. `memory` is taken if that is so.
    pub(crate) fn cut(&mut self, shape: Shape, at: u32, memory: &mut Option<Memory>) {
        let found = self.find(at).filter(|found| found.first < at);
        let Some(found) = self.reserved_run(found) else {
            return;
        };
        let Some(memory) = memory.take() else {
            return;
        };
        if let Some(run) = self.runs.get_mut(&found.last) {
            run.first = at;
        }
        let run = Run {
            first: found.first,
            loan: None,
        };
        let _ = self.runs.insert(memory.0.into_node(at - 1, run));
        self.shrink_allowance(shape, found.first, found.last);
        self.grow_allowance(shape, found.first, at - 1);
        self.grow_allowance(shape, at, found.last);
    }

    /// Takes the first run out that lies in `from..until` and is reserved.
    pub(crate) fn remove_reserved(&mut self, shape: Shape, from: u32, until: u32) -> Option<Freed> {
        let mut at = from;
        loop {
            let found = self.next(at).filter(|found| found.last < until)?;
            at = found.last.saturating_add(1);
            if found.at.is_some() || found.first < from {
                continue;
            }
            let node = self.runs.remove_node(&found.last);
            self.reserved -= u64::from(found.len());
            self.shrink_allowance(shape, found.first, found.last);
            return Some(Freed {
                _nodes: [node, None],
                _pool: self.excess(),
            });
        }
    }

    /// Takes out of the pool what is promised for `count` blocks of data.
    pub(crate) fn lend(&mut self, count: u64) -> Option<Reservation> {
        self.pool.as_mut().map(|pool| pool.split(count))
    }

    /// Takes out of the pool what is promised for the map.
    pub(crate) fn lend_allowance(&mut self) -> Option<Reservation> {
        let reserved = self.reserved;
        let pool = self.pool.as_mut()?;
        let count = pool.count().saturating_sub(reserved);
        Some(pool.split(count))
    }

    /// Puts back what was lent and not used. What this returns is dropped without the lock.
    pub(crate) fn give_back(&mut self, lent: Reservation) -> Freed {
        self.add(lent);
        Freed {
            _pool: self.excess(),
            ..Freed::default()
        }
    }

    /// The run that ends with `last`, which is reserved, is loaned from now on. Gives the loan back
    /// if that is not so.
    pub(crate) fn set_loaned(&mut self, last: u32, loan: Loan) -> Option<Loan> {
        match self.runs.get_mut(&last) {
            Some(run) if run.loan.is_none() && last - run.first + 1 == loan.len() => {
                run.loan = Some((loan.start(), Some(loan)));
                let len = u64::from(last - run.first + 1);
                self.reserved -= len;
                self.loaned += len;
                None
            }
            _ => Some(loan),
        }
    }

    /// Takes the loan of the run that ends with `last`, for a cut. The run stays.
    pub(crate) fn take_loan(&mut self, last: u32) -> Option<Loan> {
        self.runs.get_mut(&last)?.loan.as_mut()?.1.take()
    }

    /// Puts the loan of a run back.
    pub(crate) fn put_loan(&mut self, last: u32, loan: Loan) {
        if let Some(Run {
            loan: Some((_, slot)),
            ..
        }) = self.runs.get_mut(&last)
        {
            *slot = Some(loan);
        }
    }

    /// The loan of the run that ends with `last` was cut: `front` is that of the blocks before `at`.
    pub(crate) fn put_cut(
        &mut self,
        shape: Shape,
        last: u32,
        at: u32,
        front: Loan,
        rest: Loan,
        memory: Memory,
    ) {
        let Some(run) = self.runs.get_mut(&last) else {
            return;
        };
        let first = run.first;
        run.first = at;
        run.loan = Some((rest.start(), Some(rest)));
        let run = Run {
            first,
            loan: Some((front.start(), Some(front))),
        };
        let _ = self.runs.insert(memory.0.into_node(at - 1, run));
        self.shrink_allowance(shape, first, last);
        self.grow_allowance(shape, first, at - 1);
        self.grow_allowance(shape, at, last);
    }

    /// Takes the run out that ends with `last`, which is loaned. What is not the loan is dropped
    /// without the lock.
    pub(crate) fn remove_loaned(&mut self, shape: Shape, last: u32) -> (Option<Loan>, Freed) {
        if self.runs.get(&last).is_none_or(|run| run.loan.is_none()) {
            return (None, Freed::default());
        }
        let mut freed = Freed::default();
        let mut loan = None;
        if let Some(run) = self.runs.get_mut(&last) {
            loan = run.loan.as_mut().and_then(|loan| loan.1.take());
            let first = run.first;
            freed._nodes[0] = self.runs.remove_node(&last);
            self.loaned -= u64::from(last - first + 1);
            self.shrink_allowance(shape, first, last);
        }
        (loan, freed)
    }

    /// What is promised in excess, after runs were taken out. Dropped without the lock.
    pub(crate) fn trim(&mut self) -> Freed {
        Freed {
            _pool: self.excess(),
            ..Freed::default()
        }
    }
}
