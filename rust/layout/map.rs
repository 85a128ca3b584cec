// SPDX-License-Identifier: GPL-2.0

//! From a block of a file to a block of the volume, one metadata block at a time.
//!
//! A look-up starts in the inode and is told, step by step, which block to read next:
//!
//! ```text
//! let mut step = map::start(&inode, lblk, &geo)?;
//! while let Step::Descend(node) = step {
//!     let data = read(node.pblk).await?;
//!     if !verified(data) {
//!         node.verify(data, &inode.owner, &geo)?;
//!     }
//!     step = node.step(data, lblk, &geo)?;
//! }
//! ```
//!
//! Depth falls with each step, so that the loop ends after at most five of them.

use super::csum::Owner;
use super::error::{Error, Result};
use super::extent::ExtentNode;
use super::geometry::Geometry;
use super::indirect;
use super::inode::{DataMap, Inode};
use super::units::{Lblk, Pblk};

/// Consecutive blocks of a file that are in the same state, and consecutive on the volume if they
/// are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first block in the file.
    pub lblk: Lblk,
    /// How many blocks; at least 1.
    pub len: u32,
    /// Where they are, and what they hold.
    pub state: ExtentState,
}

/// What the blocks of an [`Extent`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentState {
    /// Nothing: they read as zeros.
    Hole,
    /// Data, from this block of the volume on. All of the extent lies on the volume.
    Written(Pblk),
    /// Space from this block of the volume on that was never written, so that it reads as zeros.
    Unwritten(Pblk),
}

impl Extent {
    /// Returns the hole from `lblk` up to `until`, exclusive; at least one block.
    pub fn hole(lblk: Lblk, until: Lblk) -> Self {
        Self {
            lblk,
            len: until.0.saturating_sub(lblk.0).max(1),
            state: ExtentState::Hole,
        }
    }

    /// Returns the first block behind the extent in the file.
    pub const fn end(&self) -> Lblk {
        Lblk(self.lblk.0.saturating_add(self.len))
    }

    /// Returns whether the extent has block `lblk`.
    pub fn covers(&self, lblk: Lblk) -> bool {
        lblk.0
            .checked_sub(self.lblk.0)
            .is_some_and(|skip| skip < self.len)
    }

    /// Returns the first block on the volume, unless it is a hole.
    pub const fn pblk(&self) -> Option<Pblk> {
        match self.state {
            ExtentState::Hole => None,
            ExtentState::Written(pblk) | ExtentState::Unwritten(pblk) => Some(pblk),
        }
    }

    /// Returns where block `lblk` of the file is, if the extent covers it and it holds data.
    pub fn written_at(&self, lblk: Lblk) -> Option<Pblk> {
        match self.from(lblk)?.state {
            ExtentState::Written(pblk) => Some(pblk),
            ExtentState::Hole | ExtentState::Unwritten(_) => None,
        }
    }

    /// Returns whether the blocks are allocated but were never written.
    pub const fn is_unwritten(&self) -> bool {
        matches!(self.state, ExtentState::Unwritten(_))
    }

    /// Returns the part of the extent from `lblk` on, or `None` if it is not in the extent.
    pub fn from(&self, lblk: Lblk) -> Option<Self> {
        let skip = lblk.0.checked_sub(self.lblk.0)?;
        let len = self.len.checked_sub(skip).filter(|&n| n > 0)?;
        let behind = |pblk: Pblk| pblk.0.checked_add(u64::from(skip)).map(Pblk);
        let state = match self.state {
            ExtentState::Hole => ExtentState::Hole,
            ExtentState::Written(pblk) => ExtentState::Written(behind(pblk)?),
            ExtentState::Unwritten(pblk) => ExtentState::Unwritten(behind(pblk)?),
        };
        Some(Self { lblk, len, state })
    }
}

/// What one step of a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The block is mapped, by this extent, which is no hole.
    Extent(Extent),
    /// Nothing is mapped from the block up to `until`, exclusive, and maybe beyond.
    Hole {
        /// The end of the hole as far as this step saw it; past the block that was looked up.
        until: Lblk,
    },
    /// The answer is in another block.
    Descend(TreeBlock),
}

/// Which kind of tree a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Extents.
    Extents,
    /// Block pointers, as in ext2.
    Indirect,
}

/// A block of mapping metadata that is to be read, and what its parent promised about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeBlock {
    /// Where it lies.
    pub pblk: Pblk,
    /// How many levels of metadata lie below it: 0 for a node that maps data.
    pub depth: u8,
    /// The first block of the file that it may map.
    pub first: Lblk,
    /// The end of what it may map, exclusive.
    pub end: Lblk,
    /// What it is.
    pub tree: Tree,
}

impl TreeBlock {
    /// Verifies the node: its checksum, and every entry in it.
    ///
    /// To be called once when the block has been read. [`step`](Self::step) stays safe without it,
    /// but trusts the order of the entries.
    ///
    /// # Errors
    ///
    /// [`Kind::Checksum`](super::Kind::Checksum) or [`Kind::Corrupt`](super::Kind::Corrupt).
    pub fn verify(&self, data: &[u8], owner: &Owner, geo: &Geometry) -> Result<()> {
        match self.tree {
            Tree::Extents => ExtentNode::block(data, self, geo)?.verify(owner, geo),
            Tree::Indirect => indirect::verify(data, geo),
        }
    }

    /// Looks `lblk` up in the node.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if `lblk` is not in the node's range.
    pub fn step(&self, data: &[u8], lblk: Lblk, geo: &Geometry) -> Result<Step> {
        if lblk < self.first || lblk >= self.end {
            return Err(Error::corrupt2(
                "block map: block {} is not below the node at {}",
                lblk,
                self.pblk,
            ));
        }
        match self.tree {
            Tree::Extents => ExtentNode::block(data, self, geo)?.search(lblk, geo),
            Tree::Indirect => indirect::step(data, self, lblk, geo),
        }
    }
}

/// Starts to look `lblk` up, in the inode itself.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt), also if the inode has no block map, as inline data and
/// devices have none.
pub fn start(inode: &Inode, lblk: Lblk, geo: &Geometry) -> Result<Step> {
    match inode.data_map() {
        DataMap::Extents => ExtentNode::root(&inode.block)?.search(lblk, geo),
        DataMap::Indirect => indirect::start(&inode.block, lblk, geo),
        DataMap::Inline | DataMap::FastSymlink | DataMap::None => {
            Err(Error::corrupt1("inode {}: it has no block map", inode.ino))
        }
    }
}

/// Checks the part of the block map that lies in the inode.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt).
pub fn verify_root(inode: &Inode, geo: &Geometry) -> Result<()> {
    match inode.data_map() {
        DataMap::Extents => ExtentNode::root(&inode.block)?.verify(&inode.owner, geo),
        DataMap::Indirect => indirect::verify(&inode.block, geo),
        DataMap::Inline | DataMap::FastSymlink | DataMap::None => Ok(()),
    }
}
