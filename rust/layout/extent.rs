// SPDX-License-Identifier: GPL-2.0

//! Nodes of an extent tree: the 60 bytes in the inode, and blocks.
//!
//! A node is a header of 12 bytes and entries of 12 bytes, sorted by the file's blocks. It is
//! searched where it lies and never unpacked.

use super::bytes::{get_u16, get_u32, join32};
use super::csum::Owner;
use super::error::{Error, OrShort, Result};
use super::geometry::Geometry;
use super::map::{Extent, ExtentState, Step, Tree, TreeBlock};
use super::units::{Lblk, Pblk};

pub(super) const MAGIC: u16 = 0xf30a;
pub(super) const ENTRY_SIZE: usize = 12;
const SHORT: &str = "extent node: buffer too short";

/// The deepest tree that ext4 makes: five levels of index below the inode.
pub const MAX_DEPTH: u8 = 5;

/// The largest number of blocks in a written extent; larger lengths mark unwritten ones.
pub(super) const MAX_WRITTEN: u16 = 1 << 15;

/// The `i_block` of a file that has no extent yet: a leaf with room for four.
pub const EMPTY_ROOT: [u8; 60] = {
    let mut root = [0; 60];
    let [m0, m1, _, _, max, ..] = &mut root;
    [*m0, *m1] = MAGIC.to_le_bytes();
    *max = 4;
    root
};

/// A node of an extent tree, whose header was checked.
#[derive(Clone, Copy, Debug)]
pub struct ExtentNode<'a> {
    data: &'a [u8],
    entries: u16,
    max: u16,
    depth: u8,
    first: Lblk,
    end: Lblk,
    root: bool,
}

/// The length of an extent, in blocks, and whether it was never written, by the number on the disk.
fn length(raw: u16) -> (u16, bool) {
    match raw.checked_sub(MAX_WRITTEN) {
        Some(len @ 1..) => (len, true),
        _ => (raw, false),
    }
}

impl<'a> ExtentNode<'a> {
    /// Parses the root, which is the 60 bytes of an inode's `i_block`.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) for a bad header, or a tree that is too deep.
    pub fn root(data: &'a [u8; 60]) -> Result<Self> {
        Self::parse(data, None, Lblk(0), Lblk::END)
    }

    /// Parses a block that an index entry led to.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) for a bad header, or one that breaks the parent's
    /// promise.
    pub fn block(data: &'a [u8], at: &TreeBlock, geo: &Geometry) -> Result<Self> {
        geo.whole_block(data, SHORT)?;
        Self::parse(data, Some(at.depth), at.first, at.end)
    }

    fn parse(data: &'a [u8], expected_depth: Option<u8>, first: Lblk, end: Lblk) -> Result<Self> {
        let u16_at = |off| get_u16(data, off).or_short(SHORT);
        let magic = u16_at(0)?;
        if magic != MAGIC {
            return Err(Error::corrupt1("extent header: bad magic {x}", magic));
        }
        let (entries, max, depth) = (u16_at(2)?, u16_at(4)?, u16_at(6)?);
        let depth = match (u8::try_from(depth), expected_depth) {
            (Ok(found), Some(expected)) if found == expected => found,
            (Ok(found @ 0..=MAX_DEPTH), None) => found,
            (_, expected) => {
                return Err(Error::corrupt2(
                    "extent header: depth {}, not {}",
                    depth,
                    expected.unwrap_or(MAX_DEPTH),
                ))
            }
        };
        let room = data.len().saturating_sub(ENTRY_SIZE) / ENTRY_SIZE;
        if max == 0 || usize::from(max) > room {
            return Err(Error::corrupt1("extent header: room for {} entries", max));
        }
        if entries > max {
            return Err(Error::corrupt2(
                "extent header: {} entries with room for {}",
                entries,
                max,
            ));
        }
        if entries == 0 && depth > 0 {
            return Err(Error::corrupt1(
                "extent header: no entries at depth {}",
                depth,
            ));
        }
        let node = Self {
            data,
            entries,
            max,
            depth,
            first,
            end,
            root: expected_depth.is_none(),
        };
        // The range in which this node is authoritative starts with its first entry.
        if !node.root && entries > 0 && node.entry_lblk(0)? != first {
            return Err(Error::corrupt2(
                "extent node: starts with block {}, but its parent says {}",
                node.entry_lblk(0)?,
                first,
            ));
        }
        Ok(node)
    }

    /// Returns how many levels lie below: 0 for a leaf.
    pub const fn depth(&self) -> u8 {
        self.depth
    }

    /// Returns the number of entries.
    pub const fn len(&self) -> u16 {
        self.entries
    }

    /// Returns how many entries have room.
    pub const fn max(&self) -> u16 {
        self.max
    }

    /// Returns the end of what the node may map, exclusive.
    pub(super) const fn end(&self) -> Lblk {
        self.end
    }

    /// Returns the number of entries that start at or before `lblk`.
    pub(super) fn upper_bound(&self, lblk: Lblk) -> Result<u16> {
        let (mut lo, mut hi) = (0, self.entries);
        while lo < hi {
            let mid = lo + (hi - lo) / 2;
            if self.entry_lblk(mid)? <= lblk {
                lo = mid + 1;
            } else {
                hi = mid;
            }
        }
        Ok(lo)
    }

    /// Returns whether the node maps nothing.
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Verifies the checksum, unless this is the root, and every entry.
    ///
    /// # Errors
    ///
    /// [`Kind::Checksum`](super::Kind::Checksum), or [`Kind::Corrupt`](super::Kind::Corrupt) for
    /// entries out of order, that overlap, leave the parent's range, or point out of the volume.
    pub fn verify(&self, owner: &Owner, geo: &Geometry) -> Result<()> {
        if !self.root && geo.csum().metadata() {
            let tail = ENTRY_SIZE * (1 + usize::from(self.max));
            let stored =
                get_u32(self.data, tail).or_short("extent node: no room for a checksum")?;
            let covered = self.data.get(..tail).or_short(SHORT)?;
            let computed = geo.csum().crc32c(owner.seed, covered);
            if stored != computed {
                return Err(Error::checksum(
                    "extent node: checksum {x}, but {x} expected",
                    stored,
                    computed,
                ));
            }
        }
        if self.depth == 0 && self.is_sound_leaf(geo) {
            return Ok(());
        }
        let mut next = self.first;
        for i in 0..self.entries {
            let lblk = self.entry_lblk(i)?;
            if lblk < next || lblk >= self.end {
                return Err(Error::corrupt2(
                    "extent node: entry for block {} where {} is the first possible",
                    lblk,
                    next,
                ));
            }
            next = match self.depth {
                0 => self.extent(i, geo)?.end(),
                _ => {
                    self.index_block(i, geo)?;
                    Lblk(lblk.0.saturating_add(1))
                }
            };
            if next > self.end {
                return Err(Error::corrupt2(
                    "extent node: entry ends at block {}, past {}",
                    next,
                    self.end,
                ));
            }
        }
        Ok(())
    }

    /// Whether all entries of a leaf are as [`verify`](Self::verify) wants them, which says what is
    /// wrong with one. There are hundreds of them in a leaf, and this takes a few instructions each.
    fn is_sound_leaf(&self, geo: &Geometry) -> bool {
        let Some(entries) = self.data.get(ENTRY_SIZE..Self::offset(self.entries)) else {
            return false;
        };
        let mut next = u64::from(self.first.0);
        entries.chunks_exact(ENTRY_SIZE).all(|entry| {
            let Ok(entry) = <[u8; ENTRY_SIZE]>::try_from(entry) else {
                return false;
            };
            let [l0, l1, l2, l3, n0, n1, h0, h1, p0, p1, p2, p3] = entry;
            let lblk = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
            let (len, _) = length(u16::from_le_bytes([n0, n1]));
            let hi = u16::from_le_bytes([h0, h1]);
            let pblk = join32(u32::from_le_bytes([p0, p1, p2, p3]), u32::from(hi));
            let in_order = lblk >= next;
            next = lblk + u64::from(len);
            in_order && next <= u64::from(self.end.0) && geo.contains(Pblk(pblk), u64::from(len))
        })
    }

    /// Looks a block up, among the entries where they lie.
    ///
    /// What is returned was checked by itself, so that it is safe to use even if the node was not
    /// [verified](Self::verify).
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the entry in charge is bad.
    pub fn search(&self, lblk: Lblk, geo: &Geometry) -> Result<Step> {
        let lo = self.upper_bound(lblk)?;
        let next = if lo < self.entries {
            self.entry_lblk(lo)?.min(self.end)
        } else {
            self.end
        };
        let hole = || {
            if next > lblk {
                Ok(Step::Hole { until: next })
            } else {
                // Reached only if entries of a node that was not verified are out of order.
                Err(Error::corrupt1(
                    "extent node: no entry is in charge of block {}",
                    lblk,
                ))
            }
        };
        let Some(i) = lo.checked_sub(1) else {
            return hole();
        };
        if self.depth == 0 {
            let run = self.extent(i, geo)?;
            if lblk < run.end() {
                return Ok(Step::Extent(run));
            }
            return hole();
        }
        let first = self.entry_lblk(i)?;
        if next <= first {
            return hole();
        }
        Ok(Step::Descend(TreeBlock {
            pblk: self.index_block(i, geo)?,
            depth: self.depth.saturating_sub(1),
            first,
            end: next,
            tree: Tree::Extents,
        }))
    }

    /// Returns the offset of entry `i`, in bytes.
    fn offset(i: u16) -> usize {
        ENTRY_SIZE * (1 + usize::from(i))
    }

    pub(super) fn entry_lblk(&self, i: u16) -> Result<Lblk> {
        get_u32(self.data, Self::offset(i))
            .map(Lblk)
            .or_short(SHORT)
    }

    /// Returns the block that index entry `i` points to.
    pub(super) fn index_block(&self, i: u16, geo: &Geometry) -> Result<Pblk> {
        let at = Self::offset(i);
        let lo = get_u32(self.data, at + 4).or_short(SHORT)?;
        let hi = get_u16(self.data, at + 8).or_short(SHORT)?;
        geo.check(
            Pblk(join32(lo, u32::from(hi))),
            1,
            "extent index: block {} is not on the volume",
        )
    }

    /// Returns leaf entry `i`, whose length and place on the volume are checked.
    pub(super) fn extent(&self, i: u16, geo: &Geometry) -> Result<Extent> {
        let at = Self::offset(i);
        let lblk = self.entry_lblk(i)?;
        let raw_len = get_u16(self.data, at + 4).or_short(SHORT)?;
        let hi = get_u16(self.data, at + 6).or_short(SHORT)?;
        let lo = get_u32(self.data, at + 8).or_short(SHORT)?;
        let (len, unwritten) = length(raw_len);
        if len == 0 || lblk.0.checked_add(u32::from(len)).is_none() {
            return Err(Error::corrupt2(
                "extent: {} blocks from block {}",
                len,
                lblk,
            ));
        }
        let pblk = geo.check(
            Pblk(join32(lo, u32::from(hi))),
            u64::from(len),
            "extent: block {} with {} blocks is not on the volume",
        )?;
        Ok(Extent {
            lblk,
            len: u32::from(len),
            state: if unwritten {
                ExtentState::Unwritten(pblk)
            } else {
                ExtentState::Written(pblk)
            },
        })
    }
}
