// SPDX-License-Identifier: GPL-2.0

//! [`Window`]: where a file that grows goes on, though its neighbours grow as well.
//!
//! Files that are written by turns would have their blocks by turns. So whoever takes blocks behind
//! a file's last one gets a window with them: the run of free blocks that follows, in which others
//! look for blocks only if they find none elsewhere in the group. These are the reservation windows
//! of ext3.
//!
//! A window takes nothing. It is in memory alone, its blocks are free by all counters, and no
//! allocation fails for it. It goes when the VFS has the inode in memory no more, when the file
//! goes on elsewhere, or when there are very many.
//!
//! # Concurrency
//!
//! The windows of a shard of groups are under its lock. A [`Window`] belongs to who has the inode's
//! `map_lock` to write, and is plain numbers: an inode's memory may go in any context. One that was
//! not [closed](Window::close) stays in the way of others until there are very many.

use super::goal::Goal;
use super::groups::Groups;
use super::taken::{self, Tree};
use kernel::rbtree::{RBTree, RBTreeNode, RBTreeNodeReservation};
use layout::bitmap::BitRun;
use layout::Group;

/// How many blocks the first window of a file has, and how many the largest. Each is twice as long
/// as the one before.
const FIRST: u32 = 32;
const MOST: u32 = 2048;

/// How many windows a shard has at most: all are gone through in a search.
const WINDOWS_MAX: usize = 128;

/// The first blocks of windows, by the last blocks. They do not overlap.
#[derive(Default)]
pub(super) struct Windows {
    tree: RBTree<u64, u64>,
    count: usize,
}

/// The memory of a window.
pub(super) type Memory = RBTreeNodeReservation<u64, u64>;

impl Windows {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a window, in the place of another one if there are very many. What this gives is freed
    /// without the lock.
    pub(super) fn insert(&mut self, memory: Memory, start: u64, last: u64) -> Freed {
        let mut removed = None;
        if self.count >= WINDOWS_MAX {
            let first = self.tree.cursor_front().map(|cursor| *cursor.current().0);
            removed = first.and_then(|last| self.remove(last));
        }
        let replaced = self.tree.insert(memory.into_node(last, start));
        self.count += usize::from(replaced.is_none());
        [removed, replaced]
    }

    fn remove(&mut self, last: u64) -> Option<RBTreeNode<u64, u64>> {
        let removed = self.tree.remove_node(&last)?;
        self.count -= 1;
        Some(removed)
    }

    /// The window that has `block`, or the next one behind: its first block, and its last.
    fn next(&self, block: u64) -> Option<(u64, u64)> {
        let cursor = self.tree.cursor_lower_bound(&block)?;
        let (last, start) = cursor.current();
        Some((*start, *last))
    }

    /// As [`taken::next_run`], of blocks that are in no window.
    pub(super) fn next_run(
        &self,
        bits: &[u8],
        tree: &mut Tree,
        base: u64,
        from: u32,
        end: u32,
        most: u32,
    ) -> Option<BitRun> {
        let mut at = from;
        while at < end {
            let run = taken::next_run(bits, tree, base, at, end, most)?;
            let first = base + u64::from(run.start);
            let Some((start, last)) = self.next(first) else {
                return Some(run);
            };
            if start > first {
                let before = u32::try_from(start - first).unwrap_or(u32::MAX);
                let len = run.len.min(before);
                return Some(BitRun { len, ..run });
            }
            at = u32::try_from(last + 1 - base).unwrap_or(end);
        }
        None
    }
}

/// What was taken out, to be freed without the lock.
pub(super) type Freed = [Option<RBTreeNode<u64, u64>>; 2];

/// The window of a file, if it has one.
#[derive(Default)]
pub struct Window {
    /// How long it was to be, or the one before.
    size: u32,
    run: Option<Run>,
}

/// The run of a window.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) group: Group,
    pub(super) start: u64,
    pub(super) last: u64,
}

impl Window {
    /// Gives the run up. Process context.
    pub(crate) fn close(&mut self, groups: &Groups) {
        if let Some(run) = self.run.take() {
            let removed = groups.with(run.group, |view| view.windows.remove(run.last));
            groups.keep_window(removed.flatten());
        }
    }

    /// Gives the run up for the next one, if the next block is to be at `goal`. Returns how many
    /// blocks that has.
    pub(super) fn next_room(&mut self, groups: &Groups, goal: Goal) -> u32 {
        let run = self.run;
        self.close(groups);
        if !goal.behind {
            return 0;
        }
        if !run.is_some_and(|run| (run.start..=run.last).contains(&goal.block.0)) {
            self.size = (2 * self.size).clamp(FIRST, MOST);
        }
        self.size
    }

    pub(super) fn open(&mut self, run: Option<Run>) {
        self.run = run;
    }
}
