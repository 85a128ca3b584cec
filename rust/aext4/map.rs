// SPDX-License-Identifier: GPL-2.0

//! From a file's bytes to the device's: extent trees and block pointers.
//!
//! A block is searched where its entry lies: in the inode, then in the buffer of each node of the
//! tree. The last few runs that were found are remembered with the node, in a fixed number of slots, and
//! so are holes. Nothing is unpacked.
//!
//! The same search runs in two ways: [`Volume::map_blocks`] waits for blocks that are not in memory, and
//! [`Volume::map_blocks_cached`], which the other begins with, gives up at the first.

use crate::error::{corrupted, About, OrReport};
use crate::node::Node;
use crate::volume::Volume;
use disk::Buf;
use kernel::prelude::*;
use layout::map::{self, Run, Step};
use layout::{DataMap, Lblk, Pblk};
use vfs::{Mapping, MappingKind};

/// How many runs a node remembers.
const RUNS: usize = 16;

/// A part of a file's map: a run of blocks, or a hole.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    first: u32,
    /// At least 1.
    len: u32,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Hole,
    Data(Pblk),
    Unwritten(Pblk),
}

impl Piece {
    fn of_run(run: Run) -> Self {
        Self {
            first: run.lblk.0,
            len: run.len,
            what: if run.unwritten {
                What::Unwritten(run.pblk)
            } else {
                What::Data(run.pblk)
            },
        }
    }

    fn of_hole(first: Lblk, until: Lblk) -> Self {
        Self {
            first: first.0,
            len: until.0.saturating_sub(first.0).max(1),
            what: What::Hole,
        }
    }

    fn covers(&self, lblk: Lblk) -> bool {
        lblk.0
            .checked_sub(self.first)
            .is_some_and(|skip| skip < self.len)
    }

    /// The first block behind the piece.
    pub(crate) fn end(&self) -> u32 {
        self.first.saturating_add(self.len)
    }

    /// Where block `lblk` is on the volume, if it holds data.
    pub(crate) fn data_block(&self, lblk: Lblk) -> Option<Pblk> {
        match self.what {
            What::Data(pblk) => Some(Pblk(pblk.0 + u64::from(lblk.0.checked_sub(self.first)?))),
            _ => None,
        }
    }
}

/// The pieces that were found last.
pub(crate) struct RunCache {
    /// Filled in their order: behind an empty one all are.
    slots: [Option<Piece>; RUNS],
    /// The slot that is overwritten next.
    next: usize,
}

impl RunCache {
    pub(crate) fn new() -> Self {
        Self {
            slots: [None; RUNS],
            next: 0,
        }
    }

    fn find(&self, lblk: Lblk) -> Option<Piece> {
        let mut pieces = self.slots.iter().map_while(|slot| *slot);
        pieces.find(|piece| piece.covers(lblk))
    }

    fn remember(&mut self, piece: Piece) {
        if let Some(slot) = self.slots.get_mut(self.next) {
            *slot = Some(piece);
        }
        self.next = (self.next + 1) % RUNS;
    }
}

impl Volume {
    /// Finds the piece of `node`'s map that covers `lblk`. Waits for the disk if it must.
    pub(crate) async fn map_blocks(&self, node: &Node, lblk: Lblk) -> Result<Piece> {
        if let Some(piece) = self.map_blocks_cached(node, lblk) {
            return Ok(piece);
        }
        // Seldom, and then the device is waited for: it is not to make the future of every reader larger.
        KBox::pin(self.read_map(node, lblk), GFP_KERNEL)?.await
    }

    /// As [`map_blocks`](Self::map_blocks), for what is not in memory, or damaged.
    async fn read_map(&self, node: &Node, lblk: Lblk) -> Result<Piece> {
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
                    let piece = self.found(node, lblk, found);
                    if let Err(error) = piece {
                        self.report(&format_args!("{about}a map that leads to metadata"));
                        return Err(error);
                    }
                    return piece;
                }
            }
        }
    }

    /// As [`map_blocks`](Self::map_blocks), with what is in memory alone. Does not wait, and leaves
    /// damage to be reported by the other.
    pub(crate) fn map_blocks_cached(&self, node: &Node, lblk: Lblk) -> Option<Piece> {
        if let Some(piece) = node.runs.lock().find(lblk) {
            return Some(piece);
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
        node: &Node,
        at: &map::Node,
        buffer: &Buf,
        lblk: Lblk,
    ) -> layout::Result<Step> {
        if !buffer.is_verified() {
            at.verify(buffer.data(), &node.inode.owner, &self.sb.geo)?;
            buffer.set_verified();
        }
        at.step(buffer.data(), lblk, &self.sb.geo)
    }

    fn found(&self, node: &Node, lblk: Lblk, step: Step) -> Result<Piece> {
        let piece = match step {
            Step::Run(run) => Piece::of_run(run),
            Step::Hole { until } => Piece::of_hole(lblk, until),
            Step::Descend(_) => return Err(EINVAL),
        };
        let fixed = match piece.what {
            What::Hole => false,
            What::Data(pblk) | What::Unwritten(pblk) => self.is_fixed(pblk, piece.len),
        };
        // It covers the block unless somebody wrote to the device while we searched.
        if fixed || !piece.covers(lblk) {
            return Err(corrupted());
        }
        node.runs.lock().remember(piece);
        Ok(piece)
    }

    /// The block of a file that contains byte `pos`; blocks past the last that a file can have are
    /// part of a hole.
    fn block_of(&self, pos: u64) -> Option<Lblk> {
        let lblk = u32::try_from(pos >> self.sb.geo.block_bits()).ok()?;
        (lblk < Lblk::END.0).then_some(Lblk(lblk))
    }

    fn mapping(&self, piece: &Piece) -> Mapping {
        let bits = self.sb.geo.block_bits();
        Mapping {
            offset: u64::from(piece.first) << bits,
            len: u64::from(piece.len) << bits,
            kind: match piece.what {
                What::Hole => MappingKind::Hole,
                What::Data(pblk) => MappingKind::Data(pblk.0 << bits),
                What::Unwritten(pblk) => MappingKind::Unwritten(pblk.0 << bits),
            },
        }
    }

    /// The mapping that needs no look at a tree: of inline data, and past the last block.
    fn simple_mapping(&self, node: &Node, pos: u64) -> Option<Mapping> {
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
    pub(crate) async fn map_bytes(&self, node: &Node, pos: u64) -> Result<Mapping> {
        if let Some(mapping) = self.simple_mapping(node, pos) {
            return Ok(mapping);
        }
        let lblk = self.block_of(pos).ok_or(EFBIG)?;
        Ok(self.mapping(&self.map_blocks(node, lblk).await?))
    }

    /// As [`map_bytes`](Self::map_bytes), with what is in memory alone. Does not wait.
    pub(crate) fn map_bytes_cached(&self, node: &Node, pos: u64) -> Option<Mapping> {
        if let Some(mapping) = self.simple_mapping(node, pos) {
            return Some(mapping);
        }
        let piece = self.map_blocks_cached(node, self.block_of(pos)?)?;
        Some(self.mapping(&piece))
    }

    /// The largest file whose data can lie in its inode.
    pub(crate) const INLINE_MAX: u64 = 4096;
    /// Where `i_block` is in an inode, in bytes.
    const I_BLOCK: u64 = 0x28;
}
