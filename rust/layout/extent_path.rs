// SPDX-License-Identifier: GPL-2.0

//! The way from an inode to a leaf of its extent tree, as changes need it: also to where nothing is
//! mapped, and with all nodes at hand.

use super::error::{Error, OrShort, Result};
use super::extent::{ExtentNode, MAX_DEPTH};
use super::extent_edit::{extent_entry, index_entry, Entry};
use super::geometry::Geometry;
use super::map::{Extent, Tree, TreeBlock};
use super::units::{Lblk, Pblk};

/// The number of levels that a tree has at most: that of the root, and five below.
pub const MAX_LEVELS: usize = MAX_DEPTH as usize + 1;

pub(super) const NO_PATH: &str = "extent tree: a path of no nodes, or of too many";

/// A node on the way from the root to a leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level<'a> {
    pub(super) node: ExtentNode<'a>,
    /// The entry that leads on; in a leaf, the number of entries that start at or before the block
    /// that is looked for.
    pub(super) pos: u16,
    /// Where the node lies; `None` for the root.
    pub(super) pblk: Option<Pblk>,
}

/// Returns the next block to read on the way to the leaf in charge of `lblk`, or `None` if the last
/// node is it.
///
/// `nodes` are those read so far, from the root, which is the 60 bytes of `i_block`. In front of
/// the first entry of the tree the leftmost leaf is in charge, which a look-up never reads.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt).
pub fn next_block(nodes: &[&[u8]], lblk: Lblk, geo: &Geometry) -> Result<Option<TreeBlock>> {
    walk(nodes, lblk, geo, |_, _| ())
}

/// Follows a path, hands each level to `visit`, and returns the block that comes next.
fn walk<'a>(
    nodes: &[&'a [u8]],
    lblk: Lblk,
    geo: &Geometry,
    mut visit: impl FnMut(usize, Level<'a>),
) -> Result<Option<TreeBlock>> {
    if nodes.is_empty() || nodes.len() > MAX_LEVELS {
        return Err(Error::corrupt(NO_PATH));
    }
    let mut at: Option<TreeBlock> = None;
    for (i, data) in nodes.iter().enumerate() {
        let node = match (&at, i) {
            (None, 0) => ExtentNode::root((*data).try_into().ok().or_short(NO_PATH)?)?,
            (Some(at), _) => ExtentNode::block(data, at, geo)?,
            // The leaf was reached, and there are more nodes.
            (None, _) => return Err(Error::corrupt(NO_PATH)),
        };
        let bound = node.upper_bound(lblk)?;
        let pblk = at.map(|at| at.pblk);
        if node.depth() == 0 {
            visit(
                i,
                Level {
                    node,
                    pos: bound,
                    pblk,
                },
            );
            at = None;
            continue;
        }
        let pos = bound.saturating_sub(1);
        visit(i, Level { node, pos, pblk });
        let first = node.entry_lblk(pos)?;
        let end = match pos + 1 < node.len() {
            true => node.entry_lblk(pos + 1)?.min(node.end()),
            false => node.end(),
        };
        if end <= first {
            return Err(Error::corrupt1("extent index: no room for entry {}", pos));
        }
        at = Some(TreeBlock {
            pblk: node.index_block(pos, geo)?,
            depth: node.depth().saturating_sub(1),
            first,
            end,
            tree: Tree::Extents,
        });
    }
    Ok(at)
}

/// The nodes from the root to the leaf in charge of a block.
#[derive(Clone, Copy, Debug)]
pub struct ExtentPath<'a> {
    levels: [Option<Level<'a>>; MAX_LEVELS],
    pub(super) lblk: Lblk,
    pub(super) geo: &'a Geometry,
}

impl<'a> ExtentPath<'a> {
    /// Checks the nodes from the root to the leaf in charge of `lblk`; see [`next_block`].
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if the last node is no leaf.
    pub fn new(nodes: &[&'a [u8]], lblk: Lblk, geo: &'a Geometry) -> Result<Self> {
        let mut levels = [None; MAX_LEVELS];
        let next = walk(nodes, lblk, geo, |i, level| {
            if let Some(slot) = levels.get_mut(i) {
                *slot = Some(level);
            }
        })?;
        match next {
            None => Ok(Self { levels, lblk, geo }),
            Some(_) => Err(Error::corrupt(
                "extent tree: the path does not end in a leaf",
            )),
        }
    }

    pub(super) fn level(&self, i: usize) -> Result<&Level<'a>> {
        self.levels
            .get(i)
            .and_then(Option::as_ref)
            .or_short(NO_PATH)
    }

    /// Returns the root's depth, which is also the level of the leaf.
    pub fn depth(&self) -> u8 {
        match self.levels.first() {
            Some(Some(root)) => root.node.depth(),
            _ => 0,
        }
    }

    pub(super) fn leaf(&self) -> Result<&Level<'a>> {
        self.level(usize::from(self.depth()))
    }

    /// Returns the start of what the leaf is in charge of: that of the file, if nothing is mapped
    /// in front of the leaf.
    pub(super) fn start(&self) -> Result<Lblk> {
        let mut index = self.levels.iter().flatten().take(usize::from(self.depth()));
        match index.all(|level| level.pos == 0) {
            true => Ok(Lblk(0)),
            false => self.leaf()?.node.entry_lblk(0),
        }
    }

    /// Returns the end of what the leaf is in charge of, exclusive.
    pub fn end(&self) -> Lblk {
        self.leaf().map_or(Lblk(0), |leaf| leaf.node.end())
    }

    /// Returns the leaf's extents between two blocks, cut off there.
    pub fn extents(&self, from: Lblk, until: Lblk) -> impl Iterator<Item = Result<Extent>> + '_ {
        let leaf = self.leaf().ok();
        let len = leaf.map_or(0, |leaf| leaf.node.len());
        (0..len)
            .filter_map(move |i| leaf.map(|leaf| leaf.node.extent(i, self.geo)))
            .filter_map(move |extent| match extent {
                Ok(extent) => clip(&extent, from, until).map(Ok),
                Err(e) => Some(Err(e)),
            })
    }

    /// Returns the leaf's extent that has `lblk`, or the one before it, with its number.
    pub(super) fn at_or_before(&self, leaf: &Level<'_>) -> Result<Option<(u16, Extent)>> {
        match leaf.pos.checked_sub(1) {
            Some(i) => Ok(Some((i, leaf.node.extent(i, self.geo)?))),
            None => Ok(None),
        }
    }

    pub(super) fn nth(&self, leaf: &Level<'_>, i: u16) -> Result<Option<Extent>> {
        match i < leaf.node.len() {
            true => leaf.node.extent(i, self.geo).map(Some),
            false => Ok(None),
        }
    }

    /// Returns the first block that the leaf can start with, as far as the nodes above tell.
    pub(super) fn first_possible(&self) -> Result<Lblk> {
        let index = self.levels.iter().flatten().take(usize::from(self.depth()));
        match index.filter(|level| level.pos > 0).last() {
            None => Ok(Lblk(0)),
            Some(level) => {
                let before = level.node.entry_lblk(level.pos - 1)?;
                Ok(Lblk(before.0.saturating_add(1)))
            }
        }
    }

    pub(super) fn raw_entry(&self, level: &Level<'_>, i: u16) -> Result<Entry> {
        match level.node.depth() {
            0 => extent_entry(&level.node.extent(i, self.geo)?)
                .or_short("extent tree: an extent cannot be kept"),
            _ => Ok(index_entry(
                level.node.entry_lblk(i)?,
                level.node.index_block(i, self.geo)?,
            )),
        }
    }
}

/// Returns the part of an extent between two blocks.
pub(super) fn clip(extent: &Extent, from: Lblk, until: Lblk) -> Option<Extent> {
    let from = from.max(extent.lblk);
    let until = until.min(extent.end());
    let len = until.0.checked_sub(from.0).filter(|&n| n > 0)?;
    Some(Extent {
        len,
        ..extent.from(from)?
    })
}
