// SPDX-License-Identifier: GPL-2.0

//! In which group an inode should be, after Grigory Orlov: directories of the root apart from each
//! other, everything else near its parent.
//!
//! Groups whose metadata is in one place count as one. Not all of them are looked at: a bounded
//! number from a start on, and if none of these will do, the parent's.

use super::groups::{Groups, Sums};
use layout::{Geometry, Group};

/// How many are looked at.
const LOOK_MAX: usize = 64;

/// What some groups have together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flex {
    /// Blocks that can be had.
    pub(super) blocks: u64,
    /// Inodes that can be had.
    pub(super) inodes: u64,
    /// Directories.
    pub(super) dirs: u64,
}

/// What is known of a new inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// It is a directory.
    pub dir: bool,
    /// Its parent is the root, or one whose directories have little to do with each other.
    pub top: bool,
    /// A number that differs from directory to directory, as a hash of the name does.
    pub seed: u32,
}

impl Groups {
    /// The group that is tried first for a new inode, whose parent is in group `parent`.
    pub(super) fn inode_group(&self, parent: Group, hint: Hint) -> Group {
        self.sums(|sums| {
            let per_flex = sums.groups_per_flex;
            let mut flex = parent.0 / per_flex;
            let mut from = parent.0;
            if hint.dir {
                let found = dir_flex(sums, flex as usize, hint, &self.geo);
                flex = u32::try_from(found).unwrap_or(flex);
                // Directories are with the metadata.
                from = flex.saturating_mul(per_flex.get());
            }
            let start = flex.saturating_mul(per_flex.get());
            let end = start.saturating_add(per_flex.get()).min(self.geo.groups());
            let found = sums.next_inode(from, end);
            let found = found.or_else(|| sums.next_inode(start, from));
            Group(found.unwrap_or(parent.0))
        })
    }
}

/// Where a directory should be.
fn dir_flex(sums: &Sums, parent: usize, hint: Hint, geo: &Geometry) -> usize {
    let count = sums.flex.len().max(1);
    let total = sums.totals();
    let mean = |sum: u64| sum / count as u64;
    let from = |start: usize| {
        (0..count.min(LOOK_MAX)).filter_map(move |n| {
            let at = (start + n) % count;
            Some((at, *sums.flex.get(at)?))
        })
    };
    if hint.top {
        let fair = |flex: &Flex| {
            flex.inodes >= mean(total.inodes).max(1) && flex.blocks >= mean(total.blocks)
        };
        let emptiest = from(hint.seed as usize % count)
            .filter(|(_, flex)| fair(flex))
            .min_by_key(|(_, flex)| flex.dirs);
        if let Some((at, _)) = emptiest {
            return at;
        }
    }
    // Near the parent, unless that has much more than its share.
    let per_flex = u64::from(sums.groups_per_flex.get());
    let inodes = u64::from(geo.inodes_per_group().get()) * per_flex;
    let blocks = geo.blocks_per_group().get() * per_flex;
    let fair = |flex: &Flex| {
        flex.dirs < mean(total.dirs) + inodes / 16 + 1
            && flex.inodes >= mean(total.inodes).saturating_sub(inodes / 4).max(1)
            && flex.blocks >= mean(total.blocks).saturating_sub(blocks / 4)
    };
    let found = from(parent).find(|(_, flex)| fair(flex));
    found.map_or(parent, |(at, _)| at)
}
