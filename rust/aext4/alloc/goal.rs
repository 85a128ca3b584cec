// SPDX-License-Identifier: GPL-2.0

//! [`Goal`]: where a file's next block should be.

use layout::{Geometry, Group, Ino, Lblk, Pblk};

/// From how many groups in one flexible group on the first of them is for directories.
const DIR_SCHEME_GROUPS: u32 = 4;

/// Where blocks are looked for first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The block. It need not be on the volume.
    pub block: Pblk,
    /// Whether the file's block before it lies right in front of it: then a short run there is
    /// better than a long one elsewhere.
    pub behind: bool,
}

impl Goal {
    /// Right behind the block `last`.
    pub fn behind(last: Pblk) -> Self {
        Self {
            block: Pblk(last.0.saturating_add(1)),
            behind: true,
        }
    }

    /// For block `wanted` of a file whose nearest block `mapped` is at `at`.
    pub fn near(mapped: Lblk, at: Pblk, wanted: Lblk) -> Self {
        let before = u64::from(wanted.0.saturating_sub(mapped.0));
        let after = u64::from(mapped.0.saturating_sub(wanted.0));
        Self {
            block: Pblk(at.0.saturating_add(before).saturating_sub(after)),
            behind: before == 1,
        }
    }

    /// For the first block of an inode: in its group. Where the metadata of several groups is in
    /// the first of them, directories are with it, and files in the groups behind.
    pub fn of_inode(geo: &Geometry, groups_per_flex: u32, ino: Ino, regular: bool) -> Self {
        let (Group(mut group), _) = geo.inode_index(ino).unwrap_or((Group(0), 0));
        if groups_per_flex >= DIR_SCHEME_GROUPS {
            group -= group % groups_per_flex;
            if regular && group + 1 < geo.groups() {
                group += 1;
            }
        }
        Self {
            block: geo.group_first_block(Group(group)),
            behind: false,
        }
    }
}
