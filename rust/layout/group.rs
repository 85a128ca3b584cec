// SPDX-License-Identifier: GPL-2.0

//! Group descriptors: where a group's bitmaps and inode table lie.

use super::bytes::{get_u16, get_u32, join16, join32, us};
use super::csum::{Mode, GROUP_CSUM};
use super::error::{Error, OrShort, Result};
use super::feature::{Incompat, RoCompat};
use super::geometry::Geometry;
use super::units::{Group, Pblk};

const SHORT: &str = "group descriptor: buffer too short";

/// A checked group descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupDesc {
    /// The group that it describes.
    pub group: Group,
    /// The block with one bit per cluster.
    pub block_bitmap: Pblk,
    /// The block with one bit per inode.
    pub inode_bitmap: Pblk,
    /// The first block of the inode table.
    pub inode_table: Pblk,
    /// Free clusters of the group.
    pub free_clusters: u32,
    /// Free inodes of the group.
    pub free_inodes: u32,
    /// Directories among the group's inodes.
    pub used_dirs: u32,
    /// How many inodes at the table's end were never in use; 0 if that is not kept.
    pub itable_unused: u32,
    /// The flag bits; see [`GroupDesc::INODE_UNINIT`] and its neighbours.
    pub flags: u16,
    /// The stored checksum of the block bitmap: 32 bits, or 16 if the descriptor is small.
    pub block_bitmap_csum: u32,
    /// The stored checksum of the inode bitmap: 32 bits, or 16 if the descriptor is small.
    pub inode_bitmap_csum: u32,
}

/// A run of blocks that metadata takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The first block.
    pub start: Pblk,
    /// How many blocks; may be 0.
    pub len: u64,
}

impl GroupDesc {
    /// Flag: the inode bitmap and table were never written.
    pub const INODE_UNINIT: u16 = 0x1;
    /// Flag: the block bitmap was never written.
    pub const BLOCK_UNINIT: u16 = 0x2;
    /// Flag: the unused part of the inode table is zeroed.
    pub const INODE_ZEROED: u16 = 0x4;

    /// Verifies the checksum of a group's descriptor, at the start of `raw`.
    ///
    /// It is apart from [`parse`](Self::parse) because a wrong one does not keep from reading: what
    /// a reader needs of the descriptor is checked there, and whoever rescues files needs them.
    ///
    /// # Errors
    ///
    /// [`Kind::Checksum`](super::Kind::Checksum).
    pub fn verify(raw: &[u8], group: Group, geo: &Geometry) -> Result<()> {
        let raw = raw.get(..usize::from(geo.desc_size())).or_short(SHORT)?;
        let stored = get_u16(raw, GROUP_CSUM).or_short(SHORT)?;
        let computed = geo.csum().group_desc(group, raw);
        if geo.csum().mode() == Mode::None || stored == computed {
            return Ok(());
        }
        Err(Error::checksum(
            "group descriptor: checksum {x}, but {x} expected",
            stored,
            computed,
        ))
    }

    /// Parses and checks a group's descriptor, at the start of `raw`.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if a bitmap or the inode table does not lie where it
    /// may: on the volume, and without `flex_bg` in its own group.
    pub fn parse(raw: &[u8], group: Group, geo: &Geometry) -> Result<Self> {
        let raw = raw.get(..usize::from(geo.desc_size())).or_short(SHORT)?;
        let u16_at = |off| get_u16(raw, off).or_short(SHORT);
        let u32_at = |off| get_u32(raw, off).or_short(SHORT);

        // The upper halves exist in the larger descriptors of 64bit volumes only.
        let wide = geo.has_incompat(Incompat::B64) && raw.len() >= 64;
        let block = |lo, hi| -> Result<Pblk> {
            let hi = if wide { u32_at(hi)? } else { 0 };
            Ok(Pblk(join32(u32_at(lo)?, hi)))
        };
        let count = |lo, hi| -> Result<u32> {
            let hi = if wide { u16_at(hi)? } else { 0 };
            Ok(join16(u16_at(lo)?, hi))
        };

        let desc = Self {
            group,
            block_bitmap: block(0x0, 0x20)?,
            inode_bitmap: block(0x4, 0x24)?,
            inode_table: block(0x8, 0x28)?,
            free_clusters: count(0xc, 0x2c)?,
            free_inodes: count(0xe, 0x2e)?,
            used_dirs: count(0x10, 0x30)?,
            flags: u16_at(0x12)?,
            block_bitmap_csum: count(0x18, 0x38)?,
            inode_bitmap_csum: count(0x1a, 0x3a)?,
            itable_unused: count(0x1c, 0x32)?,
        };
        desc.check(geo)?;
        Ok(desc)
    }

    fn check(&self, geo: &Geometry) -> Result<()> {
        let (first, end) = if geo.has_incompat(Incompat::FLEX_BG) {
            (geo.first_data_block(), geo.blocks_count())
        } else {
            let first = geo.group_first_block(self.group);
            (first, first.0.saturating_add(geo.group_blocks(self.group)))
        };
        let within = |start: Pblk, len: u64, what| {
            let fits = matches!(start.0.checked_add(len), Some(e) if e <= end);
            if start >= first && fits && geo.contains(start, len) {
                Ok(())
            } else {
                Err(Error::corrupt2(what, self.group, start))
            }
        };
        within(
            self.block_bitmap,
            1,
            "group {}: block bitmap at block {} out of range",
        )?;
        within(
            self.inode_bitmap,
            1,
            "group {}: inode bitmap at block {} out of range",
        )?;
        within(
            self.inode_table,
            u64::from(geo.inode_table_blocks()),
            "group {}: inode table at block {} out of range",
        )
    }

    /// Returns whether a flag is set; without group checksums no flag is in use.
    pub fn has_flag(&self, flag: u16, geo: &Geometry) -> bool {
        geo.csum().mode() != Mode::None && self.flags & flag != 0
    }

    /// Returns the block that holds the inode at `index` of the group's table, and its byte offset
    /// there.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the table has no such inode.
    pub fn inode_location(&self, index: u32, geo: &Geometry) -> Result<(Pblk, u32)> {
        if index >= geo.inodes_per_group().get() {
            return Err(Error::corrupt1("inode table: index {} out of range", index));
        }
        let block = index / geo.inodes_per_block;
        let slot = index % geo.inodes_per_block;
        // The table was checked to lie on the volume as a whole.
        Ok((
            Pblk(self.inode_table.0.saturating_add(u64::from(block))),
            slot.saturating_mul(u32::from(geo.inode_size())),
        ))
    }

    /// Verifies the checksum of the group's block bitmap; passes if it was never written.
    ///
    /// # Errors
    ///
    /// [`Kind::Checksum`](super::Kind::Checksum), or [`Kind::Corrupt`](super::Kind::Corrupt) if the
    /// buffer is too short.
    pub fn verify_block_bitmap(&self, bitmap: &[u8], geo: &Geometry) -> Result<()> {
        if self.has_flag(Self::BLOCK_UNINIT, geo) {
            return Ok(());
        }
        geo.csum().verify_bitmap(
            "block bitmap: checksum {x}, but {x} expected",
            bitmap,
            geo.clusters_per_group(),
            self.block_bitmap_csum,
            geo.desc_size() >= 64,
        )
    }

    /// Verifies the checksum of the group's inode bitmap; passes if it was never written.
    ///
    /// # Errors
    ///
    /// [`Kind::Checksum`](super::Kind::Checksum), or [`Kind::Corrupt`](super::Kind::Corrupt) if the
    /// buffer is too short.
    pub fn verify_inode_bitmap(&self, bitmap: &[u8], geo: &Geometry) -> Result<()> {
        if self.has_flag(Self::INODE_UNINIT, geo) {
            return Ok(());
        }
        geo.csum().verify_bitmap(
            "inode bitmap: checksum {x}, but {x} expected",
            bitmap,
            geo.inodes_per_group().get(),
            self.inode_bitmap_csum,
            geo.desc_size() >= 64,
        )
    }

    /// Returns what the group's metadata takes: superblock with descriptors, two bitmaps, inode
    /// table.
    ///
    /// File data must not overlap any group's zones. The check needs all descriptors, so it is the
    /// caller's.
    pub fn zones(&self, geo: &Geometry) -> [Zone; 4] {
        let one = |start| Zone { start, len: 1 };
        [
            Zone {
                start: geo.group_first_block(self.group),
                len: geo.base_meta_blocks(self.group),
            },
            one(self.block_bitmap),
            one(self.inode_bitmap),
            Zone {
                start: self.inode_table,
                len: u64::from(geo.inode_table_blocks()),
            },
        ]
    }

    /// Returns what of the group's [`zones`](Self::zones) counts as overhead.
    ///
    /// Volumes with `bigalloc` count no room that is reserved for more descriptors, as in ext4.
    pub fn overhead_zones(&self, geo: &Geometry) -> [Zone; 4] {
        let mut zones = self.zones(geo);
        if geo.has_ro_compat(RoCompat::BIGALLOC) {
            let [base, ..] = &mut zones;
            base.len = base
                .len
                .saturating_sub(geo.reserved_desc_blocks(self.group));
        }
        zones
    }
}

/// Returns whether bit `n` of a bitmap is set, or `None` past its end.
pub fn bit(bitmap: &[u8], n: u32) -> Option<bool> {
    let byte = bitmap.get(us(n / 8))?;
    Some(byte >> (n % 8) & 1 != 0)
}
