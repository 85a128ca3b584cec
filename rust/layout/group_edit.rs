// SPDX-License-Identifier: GPL-2.0

//! Changes to group descriptors, and bitmaps of groups that never had one.
//!
//! A descriptor keeps the checksums of two bitmaps and its own: [`GroupEdit::seal`] comes last.

use super::bitmap;
use super::bytes::{get_bytes, get_u16, high16, join16, low16, put_u16, us};
use super::csum::{Mode, GROUP_CSUM};
use super::geometry::Geometry;
use super::group::{GroupDesc, Zone};
use super::units::Group;

/// Offsets of a count's lower and upper half, in bytes.
type Halves = (usize, usize);

const FREE_CLUSTERS: Halves = (0xc, 0x2c);
const FREE_INODES: Halves = (0xe, 0x2e);
const USED_DIRS: Halves = (0x10, 0x30);
const ITABLE_UNUSED: Halves = (0x1c, 0x32);
const BLOCK_BITMAP_CSUM: Halves = (0x18, 0x38);
const INODE_BITMAP_CSUM: Halves = (0x1a, 0x3a);
const FLAGS: usize = 0x12;

/// Inodes of a table that were beyond the used part until now, by their index: `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshInodes {
    /// The first of them.
    pub start: u32,
    /// The first behind them; `start` if there are none.
    pub end: u32,
}

/// An editor of a group descriptor's bytes.
#[derive(Debug)]
pub struct GroupEdit<'a> {
    raw: &'a mut [u8],
    group: Group,
    geo: &'a Geometry,
}

impl<'a> GroupEdit<'a> {
    /// Starts to edit the descriptor at the start of `raw`, which may be longer; `None` if it is
    /// too short, or there is no such group.
    pub fn new(raw: &'a mut [u8], group: Group, geo: &'a Geometry) -> Option<Self> {
        let raw = raw.get_mut(..usize::from(geo.desc_size()))?;
        (group.0 < geo.groups()).then_some(Self { raw, group, geo })
    }

    /// Returns whether the descriptor is large enough for the upper halves.
    fn wide(&self) -> bool {
        self.raw.len() >= 64
    }

    fn get(&self, (lo, hi): Halves) -> u32 {
        let hi = match self.wide() {
            true => get_u16(self.raw, hi).unwrap_or(0),
            false => 0,
        };
        join16(get_u16(self.raw, lo).unwrap_or(0), hi)
    }

    /// Writes both halves of a count, or the lower one of a checksum if there is room for no more.
    fn put(&mut self, (lo, hi): Halves, v: u32) {
        let _ = put_u16(self.raw, lo, low16(v));
        if self.wide() {
            let _ = put_u16(self.raw, hi, high16(v));
        }
    }

    /// Writes a count that must not exceed `most`.
    fn put_count(&mut self, at: Halves, v: Option<u32>, most: u32) -> Option<u32> {
        let v = v.filter(|&v| v <= most && (self.wide() || v <= u32::from(u16::MAX)))?;
        self.put(at, v);
        Some(v)
    }

    /// Returns how many clusters are free.
    pub fn free_clusters(&self) -> u32 {
        self.get(FREE_CLUSTERS)
    }

    /// Returns how many inodes are free.
    pub fn free_inodes(&self) -> u32 {
        self.get(FREE_INODES)
    }

    /// Returns how many of the inodes are directories.
    pub fn used_dirs(&self) -> u32 {
        self.get(USED_DIRS)
    }

    /// Returns how many inodes at the table's end were never in use.
    pub fn itable_unused(&self) -> u32 {
        self.get(ITABLE_UNUSED)
    }

    /// Returns the flags.
    pub fn flags(&self) -> u16 {
        get_u16(self.raw, FLAGS).unwrap_or(0)
    }

    /// Returns whether a flag is set; without group checksums no flag is in use.
    pub fn has_flag(&self, flag: u16) -> bool {
        self.geo.csum().mode() != Mode::None && self.flags() & flag != 0
    }

    /// Sets the flags.
    pub fn set_flags(&mut self, flags: u16) {
        let _ = put_u16(self.raw, FLAGS, flags);
    }

    /// Sets how many clusters are free; `None`, and nothing changes, if the group has not so many.
    pub fn set_free_clusters(&mut self, n: u32) -> Option<u32> {
        let most = self.geo.group_clusters(self.group);
        self.put_count(FREE_CLUSTERS, Some(n), most)
    }

    /// Counts `n` clusters as taken, and returns how many are left; `None`, and nothing changes, if
    /// fewer are free.
    pub fn take_clusters(&mut self, n: u32) -> Option<u32> {
        let left = self.free_clusters().checked_sub(n);
        let most = self.geo.group_clusters(self.group);
        self.put_count(FREE_CLUSTERS, left, most)
    }

    /// Counts `n` clusters as free again, and returns how many are; `None`, and nothing changes, if
    /// the group has not so many.
    pub fn return_clusters(&mut self, n: u32) -> Option<u32> {
        let free = self.free_clusters().checked_add(n);
        let most = self.geo.group_clusters(self.group);
        self.put_count(FREE_CLUSTERS, free, most)
    }

    /// Sets how many inodes are free; `None`, and nothing changes, if the group has not so many.
    pub fn set_free_inodes(&mut self, n: u32) -> Option<u32> {
        self.put_count(FREE_INODES, Some(n), self.geo.inodes_per_group().get())
    }

    /// Sets how many inodes are directories; `None`, and nothing changes, if the group has not so
    /// many inodes.
    pub fn set_used_dirs(&mut self, n: u32) -> Option<u32> {
        self.put_count(USED_DIRS, Some(n), self.geo.inodes_per_group().get())
    }

    /// Sets how many inodes at the table's end were never in use; `None`, and nothing changes, if
    /// the group has not so many.
    pub fn set_itable_unused(&mut self, n: u32) -> Option<u32> {
        self.put_count(ITABLE_UNUSED, Some(n), self.geo.inodes_per_group().get())
    }

    /// Counts the inode at `index` of the table as taken; `None`, and nothing changes, if the table
    /// has no such inode or none is free.
    ///
    /// The used part of the table grows to it, if its size is kept, and the group's inode bitmap
    /// counts as written from now on. Returned are the inodes that join the used part: unless the
    /// group has [`GroupDesc::INODE_ZEROED`], they are to be zeroed on the disk.
    pub fn take_inode(&mut self, index: u32, dir: bool) -> Option<FreshInodes> {
        let all = self.geo.inodes_per_group().get();
        let free = self.free_inodes().checked_sub(1)?;
        let dirs = self.used_dirs().checked_add(u32::from(dir));
        let dirs = dirs.filter(|&n| n <= all)?;
        if index >= all || free >= all {
            return None;
        }
        self.put(FREE_INODES, free);
        self.put(USED_DIRS, dirs);
        let end = index.saturating_add(1);
        if self.geo.csum().mode() == Mode::None {
            return Some(FreshInodes { start: end, end });
        }
        let mut used = all.saturating_sub(self.itable_unused());
        if self.has_flag(GroupDesc::INODE_UNINIT) {
            self.set_flags(self.flags() & !GroupDesc::INODE_UNINIT);
            used = 0;
        }
        if end <= used {
            return Some(FreshInodes { start: end, end });
        }
        self.put(ITABLE_UNUSED, all.saturating_sub(end));
        Some(FreshInodes { start: used, end })
    }

    /// Counts an inode as free again; `None`, and nothing changes, if all are free, or none is a
    /// directory where this was one.
    pub fn return_inode(&mut self, dir: bool) -> Option<()> {
        let free = self.free_inodes().checked_add(1);
        let free = free.filter(|&n| n <= self.geo.inodes_per_group().get())?;
        let dirs = self.used_dirs().checked_sub(u32::from(dir))?;
        self.put(FREE_INODES, free);
        self.put(USED_DIRS, dirs);
        Some(())
    }

    /// Computes and writes the checksums that the volume keeps: those of the bitmaps that changed,
    /// and the descriptor's own. `None` if a bitmap is shorter than a group's.
    pub fn seal(self, blocks: Option<&[u8]>, inodes: Option<&[u8]>) -> Option<()> {
        let geo = self.geo;
        let sum = |bitmap: Option<&[u8]>, bits: u32| match bitmap {
            Some(bitmap) if bitmap.len() < us(bits / 8) => None,
            Some(bitmap) => Some(bitmap_sum(bitmap, bits, geo)),
            None => Some(None),
        };
        let blocks = sum(blocks, geo.clusters_per_group())?;
        let inodes = sum(inodes, geo.inodes_per_group().get())?;
        self.seal_sums(blocks, inodes)
    }

    /// As [`seal`](Self::seal), with the checksums of the bitmaps that [`bitmap_sum`] has given,
    /// for those that changed.
    pub fn seal_sums(mut self, blocks: Option<u32>, inodes: Option<u32>) -> Option<()> {
        let geo = self.geo;
        if geo.csum().metadata() {
            if let Some(sum) = blocks {
                self.put(BLOCK_BITMAP_CSUM, sum);
            }
            if let Some(sum) = inodes {
                self.put(INODE_BITMAP_CSUM, sum);
            }
        }
        if geo.csum().mode() != Mode::None {
            let sum = geo.csum().group_desc(self.group, self.raw);
            put_u16(self.raw, GROUP_CSUM, sum)?;
        }
        Some(())
    }
}

/// Computes the checksum of a bitmap, of which the first `bits` count; `None` if the volume keeps
/// none, or the bitmap is shorter.
pub fn bitmap_sum(bitmap: &[u8], bits: u32, geo: &Geometry) -> Option<u32> {
    if !geo.csum().metadata() {
        return None;
    }
    let covered = get_bytes(bitmap, 0, us(bits / 8))?;
    Some(geo.csum().crc32c(geo.csum().seed(), covered))
}

/// Makes the block bitmap of a group that never had one, as [`GroupDesc::BLOCK_UNINIT`] says: in
/// use is what the group's own metadata takes, and what does not exist.
///
/// Metadata of other groups is not looked for: mke2fs and resize2fs give a group that has some a
/// bitmap. Returns the number of free clusters; `None`, and nothing changes, if `bitmap` is no
/// block.
pub fn init_block_bitmap(bitmap: &mut [u8], desc: &GroupDesc, geo: &Geometry) -> Option<u32> {
    if bitmap.len() != us(geo.block_size()) {
        return None;
    }
    bitmap.fill(0);
    let first = geo.group_first_block(desc.group).0;
    let end = first.saturating_add(geo.group_blocks(desc.group));
    let bits = geo.group_clusters(desc.group);
    for Zone { start, len } in desc.zones(geo) {
        let zone_end = start.0.saturating_add(len).min(end);
        let start = start.0.max(first);
        if start >= zone_end {
            continue;
        }
        let cluster = |block: u64| (block.saturating_sub(first)) >> geo.cluster_bits;
        let from = u32::try_from(cluster(start)).ok()?;
        let last = u32::try_from(cluster(zone_end.saturating_sub(1))).ok()?;
        bitmap::mark_range(bitmap, from, last.saturating_sub(from).saturating_add(1));
    }
    bitmap::pad(bitmap, bits);
    Some(bitmap::count_free(bitmap, bits))
}

/// Makes the inode bitmap of a group that never had one, as [`GroupDesc::INODE_UNINIT`] says: all
/// are free. `None`, and nothing changes, if `bitmap` is no block.
pub fn init_inode_bitmap(bitmap: &mut [u8], geo: &Geometry) -> Option<()> {
    if bitmap.len() != us(geo.block_size()) {
        return None;
    }
    bitmap.fill(0);
    bitmap::pad(bitmap, geo.inodes_per_group().get());
    Some(())
}
