// SPDX-License-Identifier: GPL-2.0

//! The checked shape of a volume: sizes, counts, and where a group, a descriptor or an inode lies.
//!
//! All other parsers take a [`Geometry`]. It comes from
//! [`SuperBlock::parse`](super::SuperBlock::parse) only, so its divisors are not zero and its
//! counts agree with each other.

use core::num::{NonZeroU32, NonZeroU64};

use super::bytes::us;
use super::csum::Csum;
use super::error::{Error, Result};
use super::feature::{Compat, Features, Incompat, RoCompat};
use super::hash::HashParams;
use super::units::{Group, Ino, Lblk, Pblk};

/// The checked shape of a volume.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub(super) features: Features,
    pub(super) csum: Csum,
    pub(super) hash: HashParams,
    pub(super) block_bits: u8,
    pub(super) cluster_bits: u8,
    pub(super) first_data_block: u32,
    pub(super) blocks_count: u64,
    pub(super) blocks_per_group: NonZeroU64,
    pub(super) clusters_per_group: u32,
    pub(super) inodes_per_group: NonZeroU32,
    pub(super) inodes_per_block: NonZeroU32,
    pub(super) inodes_count: u32,
    pub(super) first_ino: u32,
    pub(super) inode_size: u16,
    pub(super) desc_size: u16,
    pub(super) descs_per_block: NonZeroU32,
    pub(super) groups: u32,
    pub(super) first_meta_bg: u32,
    pub(super) reserved_gdt_blocks: u16,
    pub(super) backup_bgs: [u32; 2],
    pub(super) super_block: Pblk,
    pub(super) creator_os: u32,
}

impl Geometry {
    /// Returns the feature words.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// Returns whether an incompatible feature is in use.
    #[inline]
    pub const fn has_incompat(&self, bits: Incompat) -> bool {
        self.features.incompat.has(bits)
    }

    /// Returns whether a read-only-compatible feature is in use.
    #[inline]
    pub const fn has_ro_compat(&self, bits: RoCompat) -> bool {
        self.features.ro_compat.has(bits)
    }

    /// Returns whether a compatible feature is in use.
    #[inline]
    pub const fn has_compat(&self, bits: Compat) -> bool {
        self.features.compat.has(bits)
    }

    /// Returns how checksums are computed.
    #[inline]
    pub const fn csum(&self) -> &Csum {
        &self.csum
    }

    /// Returns how names of hashed directories are hashed.
    #[inline]
    pub const fn hash(&self) -> &HashParams {
        &self.hash
    }

    /// Returns the block size in bytes: a power of two from 1,024 to 65,536.
    #[inline]
    pub const fn block_size(&self) -> u32 {
        1 << self.block_bits
    }

    /// Returns the binary logarithm of the block size: 10 to 16.
    #[inline]
    pub const fn block_bits(&self) -> u8 {
        self.block_bits
    }

    /// Returns how many blocks make a cluster, the unit of allocation; 1 without `bigalloc`.
    pub const fn cluster_blocks(&self) -> u32 {
        1 << self.cluster_bits
    }

    /// Returns the first block that belongs to a group: 1 if blocks (and clusters) have 1 KiB, else
    /// 0.
    pub const fn first_data_block(&self) -> Pblk {
        // Lossless; `u64::from` is no const fn.
        Pblk(self.first_data_block as u64)
    }

    /// Returns the number of blocks, which is also the exclusive end of valid block numbers.
    #[inline]
    pub const fn blocks_count(&self) -> u64 {
        self.blocks_count
    }

    /// Returns the volume's size in bytes; it fits an `i64`.
    pub const fn bytes(&self) -> u64 {
        self.blocks_count << self.block_bits
    }

    /// Returns the number of block groups.
    pub const fn groups(&self) -> u32 {
        self.groups
    }

    /// Returns how many blocks a group has; the last may have fewer.
    pub const fn blocks_per_group(&self) -> NonZeroU64 {
        self.blocks_per_group
    }

    /// Returns how many clusters a group has, which is how many bits of its block bitmap count.
    pub const fn clusters_per_group(&self) -> u32 {
        self.clusters_per_group
    }

    /// Returns how many inodes a group has.
    pub const fn inodes_per_group(&self) -> NonZeroU32 {
        self.inodes_per_group
    }

    /// Returns the number of inodes, which is also the largest valid inode number.
    pub const fn inodes_count(&self) -> u32 {
        self.inodes_count
    }

    /// Returns the first inode number that is not reserved.
    pub const fn first_ino(&self) -> Ino {
        Ino(self.first_ino)
    }

    /// Returns the size of an inode in bytes: a power of two from 128 to the block size.
    #[inline]
    pub const fn inode_size(&self) -> u16 {
        self.inode_size
    }

    /// Returns the size of a group descriptor in bytes: a power of two from 32 to 1,024.
    pub const fn desc_size(&self) -> u16 {
        self.desc_size
    }

    /// Returns the block that holds the superblock in use.
    pub const fn super_block(&self) -> Pblk {
        self.super_block
    }

    /// Returns how many blocks of descriptors the volume has.
    pub fn desc_blocks(&self) -> u32 {
        self.groups.div_ceil(self.descs_per_block.get())
    }

    /// Returns how many blocks a group's inode table has.
    pub fn inode_table_blocks(&self) -> u32 {
        self.inodes_per_group.get() / self.inodes_per_block
    }

    /// Returns the number of blocks that cover a file of `size` bytes, or `None` if no file is so
    /// large.
    pub fn file_blocks(&self, size: u64) -> Option<Lblk> {
        let blocks = size.div_ceil(u64::from(self.block_size()));
        u32::try_from(blocks).ok().map(Lblk)
    }

    /// Returns whether `len` blocks from `start` may hold something: not empty, and on the volume.
    ///
    /// [`first_data_block`](Self::first_data_block) itself does not pass. It holds the superblock,
    /// or the boot sector, and no structure may point there.
    #[inline]
    pub fn contains(&self, start: Pblk, len: u64) -> bool {
        start.0 > u64::from(self.first_data_block)
            && len > 0
            && matches!(start.0.checked_add(len), Some(end) if end <= self.blocks_count)
    }

    /// Returns `start` if `len` blocks from it pass [`contains`](Self::contains).
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) with `what`, which may mention the block number.
    #[inline]
    pub fn check(&self, start: Pblk, len: u64, what: &'static str) -> Result<Pblk> {
        if self.contains(start, len) {
            Ok(start)
        } else {
            Err(Error::corrupt2(what, start, len))
        }
    }

    /// Returns whether a directory may name `ino`: the root, or an inode that is not reserved.
    pub const fn is_user_ino(&self, ino: Ino) -> bool {
        ino.0 == Ino::ROOT.0 || (ino.0 >= self.first_ino && ino.0 <= self.inodes_count)
    }

    /// Returns an inode's group and its index in the group's table.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the volume has no such inode.
    pub fn inode_index(&self, ino: Ino) -> Result<(Group, u32)> {
        match ino.0.checked_sub(1) {
            Some(n) if n < self.inodes_count => {
                Ok((Group(n / self.inodes_per_group), n % self.inodes_per_group))
            }
            _ => Err(Error::corrupt2(
                "inode number {} out of range, the last is {}",
                ino,
                self.inodes_count,
            )),
        }
    }

    /// Returns a group's first block.
    pub fn group_first_block(&self, group: Group) -> Pblk {
        let start = u64::from(group.0).saturating_mul(self.blocks_per_group.get());
        Pblk(start.saturating_add(u64::from(self.first_data_block)))
    }

    /// Returns how many blocks a group has; 0 if there is no such group.
    pub fn group_blocks(&self, group: Group) -> u64 {
        self.blocks_count
            .saturating_sub(self.group_first_block(group).0)
            .min(self.blocks_per_group.get())
    }

    /// Returns how many clusters a group has; 0 if there is no such group.
    pub fn group_clusters(&self, group: Group) -> u32 {
        let clusters = self
            .group_blocks(group)
            .div_ceil(u64::from(self.cluster_blocks()));
        // Lossless, as no group has more than `clusters_per_group`.
        u32::try_from(clusters).unwrap_or(self.clusters_per_group)
    }

    /// Returns the group in which a block lies, or `None` if it lies in none.
    pub fn group_of(&self, block: Pblk) -> Option<Group> {
        let rel = block.0.checked_sub(u64::from(self.first_data_block))?;
        if block.0 >= self.blocks_count {
            return None;
        }
        u32::try_from(rel / self.blocks_per_group).ok().map(Group)
    }

    /// Returns whether a group starts with a copy of the superblock.
    pub fn group_has_super(&self, group: Group) -> bool {
        fn is_power(n: u32, base: u32) -> bool {
            let mut p = base;
            while p < n {
                match p.checked_mul(base) {
                    Some(q) => p = q,
                    None => return false,
                }
            }
            p == n
        }
        let Group(g) = group;
        if g == 0 {
            return true;
        }
        if self.has_compat(Compat::SPARSE_SUPER2) {
            return self.backup_bgs.contains(&g);
        }
        if g == 1 || !self.has_ro_compat(RoCompat::SPARSE_SUPER) {
            return true;
        }
        is_power(g, 3) || is_power(g, 5) || is_power(g, 7)
    }

    /// Returns whether the descriptor block `index` lies in the groups that it describes.
    fn desc_block_is_meta(&self, index: u32) -> bool {
        self.has_incompat(Incompat::META_BG) && index >= self.first_meta_bg
    }

    /// Returns where the descriptor block `index` lies; see [`desc_location`](Self::desc_location).
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if there is no such block, or it would lie outside
    /// the volume.
    pub fn desc_block(&self, index: u32) -> Result<Pblk> {
        if index >= self.desc_blocks() {
            return Err(Error::corrupt1(
                "group descriptors: there is no block {}",
                index,
            ));
        }
        let block = if self.desc_block_is_meta(index) {
            let group = Group(index.saturating_mul(self.descs_per_block.get()));
            let mut skip = u64::from(self.group_has_super(group));
            // With 1 KiB blocks and clusters of several, group 0 starts with the boot block,
            // and the superblock is its second.
            if self.block_bits == 10 && index == 0 && self.first_data_block == 0 {
                skip += 1;
            }
            self.group_first_block(group).0.saturating_add(skip)
        } else {
            // Both terms are below 2^63, as blocks on the volume and a 32-bit number are.
            self.super_block.0.saturating_add(u64::from(index) + 1)
        };
        self.check(
            Pblk(block),
            1,
            "group descriptors: block {} is not on the volume",
        )
    }

    /// Returns the block that holds a group's descriptor, and the descriptor's byte offset in it.
    ///
    /// Descriptors follow the superblock in use, which is why `sb=` finds the copies that lie
    /// behind a backup. Where `meta_bg` puts them into their own groups, the first copy there is
    /// used.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if there is no such group, or its descriptor would
    /// lie outside the volume.
    pub fn desc_location(&self, group: Group) -> Result<(Pblk, u32)> {
        if group.0 >= self.groups {
            return Err(Error::corrupt2(
                "group {} out of range, there are {}",
                group,
                self.groups,
            ));
        }
        let block = self.desc_block(group.0 / self.descs_per_block)?;
        let slot = group.0 % self.descs_per_block;
        // Below the block size, as `slot` is below the number of descriptors in a block.
        Ok((block, slot.saturating_mul(u32::from(self.desc_size))))
    }

    /// Returns how many blocks at a group's start hold superblock, descriptors and room for more.
    pub fn base_meta_blocks(&self, group: Group) -> u64 {
        let has_super = self.group_has_super(group);
        let index = group.0 / self.descs_per_block;
        let gdt = if self.desc_block_is_meta(index) {
            let in_set = group.0 % self.descs_per_block;
            let last = self.descs_per_block.get() - 1;
            u64::from(in_set <= 1 || in_set == last)
        } else if has_super {
            let blocks = if self.has_incompat(Incompat::META_BG) {
                self.first_meta_bg
            } else {
                self.desc_blocks()
            };
            u64::from(blocks) + self.reserved_desc_blocks(group)
        } else {
            0
        };
        u64::from(has_super) + gdt
    }

    /// Returns how many of a group's [`base_meta_blocks`](Self::base_meta_blocks) are reserved for
    /// descriptors of groups to come.
    pub(super) fn reserved_desc_blocks(&self, group: Group) -> u64 {
        let index = group.0 / self.descs_per_block;
        match self.group_has_super(group) && !self.desc_block_is_meta(index) {
            true => u64::from(self.reserved_gdt_blocks),
            false => 0,
        }
    }

    /// Returns the largest size in bytes that a file with extents, or (`false`) an indirect map,
    /// can have.
    pub fn max_file_size(&self, extents: bool) -> u64 {
        let bits = u32::from(self.block_bits);
        let mut blocks = u64::from(u32::MAX);
        if !extents {
            let ptrs = 1u64 << (bits - 2);
            blocks = blocks.min(12 + ptrs + ptrs * ptrs + ptrs * ptrs * ptrs);
        }
        if !self.has_ro_compat(RoCompat::HUGE_FILE) {
            // The 32-bit count of 512-byte sectors is then the narrower limit.
            blocks = blocks.min(u64::from(u32::MAX) >> (bits - 9));
        }
        blocks << bits
    }

    /// Returns whether a buffer has the length of a block.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) with `what`; it is the caller who passed a wrong
    /// buffer.
    pub(super) fn whole_block(&self, data: &[u8], what: &'static str) -> Result<()> {
        if data.len() == us(self.block_size()) {
            Ok(())
        } else {
            Err(Error::corrupt(what))
        }
    }
}
