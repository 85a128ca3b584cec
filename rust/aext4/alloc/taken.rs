// SPDX-License-Identifier: GPL-2.0

//! [`Taken`]: what nobody may take, though a bitmap says that it is free; or free, though it is in
//! use.
//!
//! Runs of blocks, or inodes, in a tree of each shard of groups. They do not overlap. Their memory
//! is there before they are: nothing is allocated under the shard's lock.

use kernel::rbtree::{RBTree, RBTreeNode, RBTreeNodeReservation};
use layout::bitmap::{self, BitRun};

/// Why a run is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its bits are clear. Somebody is about to use it.
    Loaned,
    /// Its bits are set. Somebody is about to free it.
    Freeing,
    /// Its bits are clear. The transaction that freed it is not durable.
    Held,
}

/// A run that is taken. Its key is its last block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) start: u64,
    pub(super) kind: Kind,
}

/// The runs of a shard, by their last block, or inode.
pub(super) type Tree = RBTree<u64, Taken>;

/// The memory of a run.
pub(super) type Node = RBTreeNodeReservation<u64, Taken>;

/// The memory of a run that was taken out of a tree.
pub(super) type Removed = RBTreeNode<u64, Taken>;

/// The first run that ends at `from` or behind: its first block, its last, and its kind.
pub(super) fn first(tree: &Tree, from: u64) -> Option<(u64, u64, Kind)> {
    let cursor = tree.cursor_lower_bound(&from)?;
    let (last, taken) = cursor.current();
    Some((taken.start, *last, taken.kind))
}

/// Whether a block of `start..=last` is taken.
pub(super) fn overlaps(tree: &Tree, start: u64, last: u64) -> bool {
    first(tree, start).is_some_and(|(other, _, _)| other <= last)
}

/// Puts a run in.
pub(super) fn insert(tree: &mut Tree, node: Node, start: u64, len: u32, kind: Kind) {
    let last = start + u64::from(len.saturating_sub(1));
    // Runs do not overlap, so there is none with this key.
    let _ = tree.insert(node.into_node(last, Taken { start, kind }));
}

/// Takes a run out. The memory is for the caller to [keep](super::Groups::keep), without the lock.
pub(super) fn remove(tree: &mut Tree, start: u64, len: u32) -> Option<Removed> {
    tree.remove_node(&(start + u64::from(len.saturating_sub(1))))
}

/// The first run of bits in `from..end` that are clear, and not taken, or the first `most` bits of
/// it; bit 0 stands for `base`.
pub(super) fn next_run(
    bits: &[u8],
    tree: &mut Tree,
    base: u64,
    from: u32,
    end: u32,
    most: u32,
) -> Option<BitRun> {
    let mut at = from;
    let mut cursor = tree.cursor_lower_bound_mut(&(base + u64::from(from)));
    loop {
        let start = bitmap::next_free(bits, at, end)?;
        let mut limit = start.saturating_add(most).min(end);
        // The first that ends there or behind. Those of many writers lie side by side.
        while let Some(ahead) = cursor.take() {
            if *ahead.current().0 >= base + u64::from(start) {
                cursor = Some(ahead);
                break;
            }
            cursor = ahead.move_next();
        }
        if let Some((last, taken)) = cursor.as_ref().map(|cursor| cursor.current()) {
            let other = taken.start.saturating_sub(base);
            if other <= u64::from(start) {
                at = u32::try_from((last - base).saturating_add(1)).unwrap_or(end);
                continue;
            }
            limit = u32::try_from(other).map_or(limit, |other| other.min(limit));
        }
        let stop = bitmap::next_used(bits, start, limit);
        return Some(BitRun {
            start,
            len: stop.saturating_sub(start),
        });
    }
}
