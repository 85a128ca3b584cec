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

/// Consecutive blocks of a file that are consecutive on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first block in the file.
    pub lblk: Lblk,
    /// How many blocks; at least 1.
    pub len: u32,
    /// The first block on the volume; all `len` blocks lie on it.
    pub pblk: Pblk,
    /// Whether the blocks are allocated but never written, so that they read as zeros.
    pub unwritten: bool,
}

impl Run {
    /// Returns the first block behind the run in the file.
    pub const fn end(&self) -> Lblk {
        Lblk(self.lblk.0.saturating_add(self.len))
    }

    /// Returns the part of the run from `lblk` on, or `None` if it is not in the run.
    pub fn from(&self, lblk: Lblk) -> Option<Self> {
        let skip = lblk.0.checked_sub(self.lblk.0)?;
        let len = self.len.checked_sub(skip).filter(|&n| n > 0)?;
        Some(Self {
            lblk,
            len,
            pblk: Pblk(self.pblk.0.checked_add(u64::from(skip))?),
            unwritten: self.unwritten,
        })
    }
}

/// What one step of a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The block is mapped, by this run.
    Run(Run),
    /// Nothing is mapped from the block up to `until`, exclusive, and maybe beyond.
    Hole {
        /// The end of the hole as far as this step saw it; past the block that was looked up.
        until: Lblk,
    },
    /// The answer is in another block.
    Descend(Node),
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
pub struct Node {
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

impl Node {
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
