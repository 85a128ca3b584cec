// SPDX-License-Identifier: GPL-2.0

//! From a file's bytes to the device's: extent trees and block pointers.
//!
//! A block is searched where its entry lies: in the inode, then in the buffer of each node of the
//! tree. The last few runs that were found are remembered with the node, in a fixed number of slots, and
//! so are holes. Nothing is unpacked.
//!
//! The same search runs in two ways: [`Ext4::map`] waits for blocks that are not in memory, and
//! [`Ext4::map_cached`], which the other begins with, gives up at the first.

use crate::error::{corrupted, About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use disk::Buf;
use kernel::prelude::*;
use layout::map::{self, Extent, ExtentState, Step};
use layout::{DataMap, Lblk};

/// How many runs a node remembers.
const EXTENTS_KEPT: usize = 16;

/// Where a part of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first byte in the file.
    pub offset: u64,
    /// How many bytes; at least 1.
    pub len: u64,
    /// What is there.
    pub kind: MappingKind,
}

/// What is at a [`Mapping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingKind {
    /// Nothing: reads as zeros.
    Hole,
    /// Bytes from this position of the device on.
    Data(u64),
    /// Space from this position of the device on that was never written: reads as zeros.
    Unwritten(u64),
    /// What lies in the inode, at this position of the device, from the start of the file.
    Inline(u64),
}

impl Mapping {
    /// The first byte behind it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

impl MappingKind {
    /// What is `bytes` bytes behind.
    pub fn skip(self, bytes: u64) -> Self {
        match self {
            Self::Hole => Self::Hole,
            Self::Data(pos) => Self::Data(pos + bytes),
            Self::Unwritten(pos) => Self::Unwritten(pos + bytes),
            Self::Inline(pos) => Self::Inline(pos + bytes),
        }
    }
}

/// The extents that were found last, holes among them.
pub struct ExtentCache {
    /// Filled in their order: behind an empty one all are.
    slots: [Option<Extent>; EXTENTS_KEPT],
    /// The slot that is overwritten next.
    next: usize,
}

impl ExtentCache {
    pub(crate) fn new() -> Self {
        Self {
            slots: [None; EXTENTS_KEPT],
            next: 0,
        }
    }

    fn find(&self, lblk: Lblk) -> Option<Extent> {
        let mut extents = self.slots.iter().map_while(|slot| *slot);
        extents.find(|extent| extent.covers(lblk))
    }

    fn remember(&mut self, extent: Extent) {
        if let Some(slot) = self.slots.get_mut(self.next) {
            *slot = Some(extent);
        }
        self.next = (self.next + 1) % EXTENTS_KEPT;
    }
}

impl Ext4 {
    /// Finds the extent of `node`'s map that covers `lblk`. Waits for the disk if it must.
    pub async fn map(&self, node: &InodeInfo, lblk: Lblk) -> Result<Extent> {
        if let Some(extent) = self.map_cached(node, lblk) {
            return Ok(extent);
        }
        // Seldom, and then the device is waited for: it is not to make the future of every reader larger.
        KBox::pin(self.read_map(node, lblk), GFP_KERNEL)?.await
    }

    /// As [`map`](Self::map), for what is not in memory, or damaged.
    async fn read_map(&self, node: &InodeInfo, lblk: Lblk) -> Result<Extent> {
        let mut about = About::inode(node.inode.ino);
        let mut step = map::start(&node.inode, lblk, &self.sb.geo).or_report(self, about)?;
        loop {
            match step {
                Step::Descend(at) => {
                    about = About::block(node.inode.ino, at.pblk.0);
                    let buffer = self.block(at.pblk).await?;
                    step = self
                        .descend(node, &at, &buffer, lblk)
                        .or_report(self, about)?;
                }
                found => {
                    let extent = self.found(node, lblk, found);
                    if let Err(error) = extent {
                        self.report(&format_args!("{about}a map that leads to metadata"));
                        return Err(error);
                    }
                    return extent;
                }
            }
        }
    }

    /// As [`map`](Self::map), with what is in memory alone. Does not wait, and leaves
    /// damage to be reported by the other.
    pub fn map_cached(&self, node: &InodeInfo, lblk: Lblk) -> Option<Extent> {
        if let Some(extent) = node.extents.lock().find(lblk) {
            return Some(extent);
        }
        let mut step = map::start(&node.inode, lblk, &self.sb.geo).ok()?;
        loop {
            match step {
                Step::Descend(at) => {
                    let buffer = self.cache.get(at.pblk.0)?;
                    step = self.descend(node, &at, &buffer, lblk).ok()?;
                }
                found => return self.found(node, lblk, found).ok(),
            }
        }
    }

    fn descend(
        &self,
        node: &InodeInfo,
        at: &map::TreeBlock,
        buffer: &Buf,
        lblk: Lblk,
    ) -> layout::Result<Step> {
        if !buffer.is_verified() {
            at.verify(buffer.data(), &node.inode.owner, &self.sb.geo)?;
            buffer.set_verified();
        }
        at.step(buffer.data(), lblk, &self.sb.geo)
    }

    fn found(&self, node: &InodeInfo, lblk: Lblk, step: Step) -> Result<Extent> {
        let extent = match step {
            Step::Extent(extent) => extent,
            Step::Hole { until } => Extent::hole(lblk, until),
            Step::Descend(_) => return Err(EINVAL),
        };
        let on_system_block = extent
            .pblk()
            .is_some_and(|pblk| self.is_system_block(pblk, extent.len));
        // It covers the block unless somebody wrote to the device while we searched.
        if on_system_block || !extent.covers(lblk) {
            return Err(corrupted());
        }
        node.extents.lock().remember(extent);
        Ok(extent)
    }

    /// The block of a file that contains byte `pos`; blocks past the last that a file can have are
    /// part of a hole.
    fn block_of(&self, pos: u64) -> Option<Lblk> {
        let lblk = u32::try_from(pos >> self.sb.geo.block_bits()).ok()?;
        (lblk < Lblk::END.0).then_some(Lblk(lblk))
    }

    fn mapping(&self, extent: &Extent) -> Mapping {
        let bits = self.sb.geo.block_bits();
        Mapping {
            offset: u64::from(extent.lblk.0) << bits,
            len: u64::from(extent.len) << bits,
            kind: match extent.state {
                ExtentState::Hole => MappingKind::Hole,
                ExtentState::Written(pblk) => MappingKind::Data(pblk.0 << bits),
                ExtentState::Unwritten(pblk) => MappingKind::Unwritten(pblk.0 << bits),
            },
        }
    }

    /// The mapping that needs no look at a tree: of inline data, and past the last block.
    fn simple_mapping(&self, node: &InodeInfo, pos: u64) -> Option<Mapping> {
        let hole = |offset| Mapping {
            offset,
            len: u64::MAX / 4,
            kind: MappingKind::Hole,
        };
        if node.inode.data_map() == DataMap::Inline {
            // What a directory holds is not kept with the node, and never read through a mapping.
            let len = if node.inode.is_dir() {
                node.inode.size
            } else {
                node.inline.len() as u64
            };
            // mke2fs makes inline files of those that are one hole, however large.
            if node.inode.size > Self::INLINE_MAX || pos >= len {
                return Some(hole(pos));
            }
            let (block, offset) = node.place;
            let place = block << self.sb.geo.block_bits();
            return Some(Mapping {
                offset: 0,
                len,
                kind: MappingKind::Inline(place + u64::from(offset) + Self::I_BLOCK),
            });
        }
        self.block_of(pos).is_none().then(|| hole(pos))
    }

    /// Where the bytes of `node` from `pos` on are.
    pub async fn map_bytes(&self, node: &InodeInfo, pos: u64) -> Result<Mapping> {
        if let Some(mapping) = self.simple_mapping(node, pos) {
            return Ok(mapping);
        }
        let lblk = self.block_of(pos).ok_or(EFBIG)?;
        Ok(self.mapping(&self.map(node, lblk).await?))
    }

    /// As [`map_bytes`](Self::map_bytes), with what is in memory alone. Does not wait.
    pub fn map_bytes_cached(&self, node: &InodeInfo, pos: u64) -> Option<Mapping> {
        if let Some(mapping) = self.simple_mapping(node, pos) {
            return Some(mapping);
        }
        let extent = self.map_cached(node, self.block_of(pos)?)?;
        Some(self.mapping(&extent))
    }

    /// The largest file whose data can lie in its inode.
    pub const INLINE_MAX: u64 = 4096;
    /// Where `i_block` is in an inode, in bytes.
    const I_BLOCK: u64 = 0x28;
}
