// SPDX-License-Identifier: GPL-2.0

//! Plans for changes to an extent tree: what will happen to which node, before anything does.
//!
//! The caller reads the nodes from the root to the leaf in charge ([`next_block`]), makes an
//! [`ExtentPath`] of them and asks it for a plan. The plan says how many blocks the tree needs;
//! with their numbers ([`ExtentPlan::place`]) its edits are ready to be applied, each to one node,
//! in any order. What they take from other nodes comes from the snapshots that the path was made
//! of.
//!
//! ```text
//! let path = ExtentPath::new(&nodes, lblk, &geo)?;
//! let mut plan = path.map(len, pblk, false)?;
//! plan.place(&blocks)?;
//! for edit in plan.edits() {
//!     match edit.target {
//!         Target::Level(level) => edit.apply(node_mut(level)),
//!         Target::Fresh(n) => edit.make(nodes[edit.source], fresh_mut(n)),
//!     }
//! }
//! ```
//!
//! One plan changes one leaf, and the way to it. So it covers a part of the range that was asked
//! for if the rest lies elsewhere; [`ExtentPlan::range`] says which.

use super::bytes::us;
use super::error::{Error, OrShort, Result};
use super::extent::{ExtentNode, MAX_DEPTH};
use super::extent_edit::{
    extent_entry, index_entry, max_entries, shifted, Entry, NodeEdit, Target, NEW_ENTRIES,
    UNWRITTEN_MAX, WRITTEN_MAX,
};
use super::geometry::Geometry;
use super::map::{Extent, ExtentState, Tree, TreeBlock};
use super::units::{Lblk, Pblk};

/// The number of levels that a tree has at most: that of the root, and five below.
pub const MAX_LEVELS: usize = MAX_DEPTH as usize + 1;

/// How many extents a change of a leaf adds at most.
const NEW_EXTENTS: usize = 3;

/// The most edits in one plan: two for each level below the root, and three where the root moves.
const MAX_EDITS: usize = 2 * MAX_LEVELS + 1;

const NO_PATH: &str = "extent tree: a path of no nodes, or of too many";

/// A node on the way from the root to a leaf.
#[derive(Clone, Copy, Debug)]
struct Level<'a> {
    node: ExtentNode<'a>,
    /// The entry that leads on; in a leaf, the number of entries that start at or before the block
    /// that is looked for.
    pos: u16,
    /// Where the node lies; `None` for the root.
    pblk: Option<Pblk>,
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
    lblk: Lblk,
    geo: &'a Geometry,
}

/// A change of a leaf: `cut` entries from `at` on give way to some extents.
struct Splice {
    at: u16,
    cut: u16,
    new: [Option<Extent>; NEW_EXTENTS],
}

/// What an edit of a level means for the level above it.
#[derive(Clone, Copy, Default)]
struct Above {
    /// The node starts with another block.
    key: Option<Lblk>,
    /// The node has a new right neighbour: the block that it starts with, and its number.
    sibling: Option<(Lblk, u8)>,
    /// The node is gone.
    gone: bool,
}

/// A planned change of an extent tree.
#[derive(Clone, Copy, Debug)]
pub struct ExtentPlan {
    edits: [Option<NodeEdit>; MAX_EDITS],
    len: usize,
    range: (Lblk, Lblk),
    fresh: u8,
    freed: [Option<Pblk>; MAX_LEVELS],
    placed: bool,
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

    fn level(&self, i: usize) -> Result<&Level<'a>> {
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

    fn leaf(&self) -> Result<&Level<'a>> {
        self.level(usize::from(self.depth()))
    }

    /// Returns the start of what the leaf is in charge of: that of the file, if nothing is mapped
    /// in front of the leaf.
    fn start(&self) -> Result<Lblk> {
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
    fn at_or_before(&self, leaf: &Level<'_>) -> Result<Option<(u16, Extent)>> {
        match leaf.pos.checked_sub(1) {
            Some(i) => Ok(Some((i, leaf.node.extent(i, self.geo)?))),
            None => Ok(None),
        }
    }

    fn nth(&self, leaf: &Level<'_>, i: u16) -> Result<Option<Extent>> {
        match i < leaf.node.len() {
            true => leaf.node.extent(i, self.geo).map(Some),
            false => Ok(None),
        }
    }

    /// Plans to map `len` blocks from the path's block on, which are a hole, to those from `pblk`
    /// on.
    ///
    /// Mapped is as much as fits one extent, the hole, and the
    /// leaf. Neighbours that continue are joined with it.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if the block is mapped, or the tree cannot
    /// grow.
    pub fn map(&self, len: u32, pblk: Pblk, unwritten: bool) -> Result<ExtentPlan> {
        let (leaf, lblk) = (self.leaf()?, self.lblk);
        let left = self.at_or_before(leaf)?;
        if left.is_some_and(|(_, left)| lblk < left.end()) || lblk >= leaf.node.end() {
            return Err(Error::corrupt1("extent tree: block {} is no hole", lblk));
        }
        let right = self.nth(leaf, leaf.pos)?;
        let end = right.map_or(leaf.node.end(), |r| r.lblk.min(leaf.node.end()));
        let hole = end.0.saturating_sub(lblk.0);
        let len = len.min(hole).min(most(unwritten));
        let state = match unwritten {
            true => ExtentState::Unwritten(pblk),
            false => ExtentState::Written(pblk),
        };
        let new = Extent { lblk, len, state };
        self.geo.check(
            pblk,
            u64::from(len),
            "extent: block {} with {} blocks is not on the volume",
        )?;
        let splice = join(leaf.pos, 0, [Some(new), None, None], left, right);
        self.change(splice, (lblk, new.end()))
    }

    /// Plans to make `len` mapped blocks from the path's block on written, or unwritten.
    ///
    /// Changed is as much as the extent has that holds the path's block,
    /// which leaves up to three pieces. Neighbours that continue the changed one are joined with
    /// it.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if the block is a hole or has that state, or
    /// the tree cannot grow.
    pub fn convert(&self, len: u32, unwritten: bool) -> Result<ExtentPlan> {
        let (leaf, lblk) = (self.leaf()?, self.lblk);
        let found = self.at_or_before(leaf)?;
        let Some((i, old)) =
            found.filter(|(_, e)| e.covers(lblk) && e.is_unwritten() != unwritten && len > 0)
        else {
            return Err(Error::corrupt1(
                "extent tree: the state of block {} is not the expected one",
                lblk,
            ));
        };
        let end = Lblk(lblk.0.saturating_add(len.min(most(unwritten)))).min(old.end());
        let state = |e: Extent| match e.state {
            ExtentState::Written(p) | ExtentState::Unwritten(p) if unwritten => {
                ExtentState::Unwritten(p)
            }
            ExtentState::Written(p) | ExtentState::Unwritten(p) => ExtentState::Written(p),
            ExtentState::Hole => ExtentState::Hole,
        };
        let head = clip(&old, old.lblk, lblk);
        let middle = clip(&old, lblk, end).map(|e| Extent {
            state: state(e),
            ..e
        });
        let tail = clip(&old, end, old.end());
        let (left, right) = (
            match i.checked_sub(1) {
                Some(left) if head.is_none() => Some((left, leaf.node.extent(left, self.geo)?)),
                _ => None,
            },
            match tail {
                None => self.nth(leaf, i + 1)?,
                Some(_) => None,
            },
        );
        let splice = match (head, middle, tail) {
            (None, middle, None) => join(i, 1, [middle, None, None], left, right),
            (None, middle, tail) => {
                let mut splice = join(i, 1, [middle, None, None], left, None);
                splice.new[1] = tail;
                splice
            }
            (head, middle, None) => {
                let joined = join(i, 1, [middle, None, None], None, right);
                Splice {
                    new: [head, joined.new[0], None],
                    ..joined
                }
            }
            (head, middle, tail) => Splice {
                at: i,
                cut: 1,
                new: [head, middle, tail],
            },
        };
        self.change(splice, (lblk, end))
    }

    /// Plans to unmap the blocks from `from` up to `until`, exclusive, as far as the leaf is in
    /// charge of them, and of its extents the last `extents` at most.
    ///
    /// The path must be the one to a block of the leaf. [`extents`](Self::extents) of the plan's
    /// [`range`](ExtentPlan::range) are what becomes free. A leaf that maps nothing any more is
    /// freed, with the nodes above that lead nowhere else: see [`ExtentPlan::freed_nodes`].
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if the tree cannot grow, as a hole in the
    /// middle of an extent demands.
    pub fn unmap(&self, from: Lblk, until: Lblk, extents: u16) -> Result<ExtentPlan> {
        let leaf = self.leaf()?;
        let until = until.min(leaf.node.end());
        let from = from.max(self.start()?).min(until);
        // The extents `first..last` have blocks in the range.
        let mut first = leaf.node.upper_bound(from)?;
        if let Some(before) = first.checked_sub(1) {
            if leaf.node.extent(before, self.geo)?.end() > from {
                first = before;
            }
        }
        let last = match until.0.checked_sub(1) {
            Some(block) => leaf.node.upper_bound(Lblk(block))?,
            None => 0,
        };
        let Some(count) = last.checked_sub(first).filter(|&n| n > 0 && extents > 0) else {
            return Ok(ExtentPlan::empty((from, until)));
        };
        let (first, from) = match count > extents {
            true => {
                let first = last - extents;
                (first, leaf.node.entry_lblk(first)?)
            }
            false => (first, from),
        };
        let head = clip(&leaf.node.extent(first, self.geo)?, Lblk(0), from);
        let tail = clip(&leaf.node.extent(last - 1, self.geo)?, until, Lblk::END);
        let new = match head {
            None => [tail, None, None],
            head => [head, tail, None],
        };
        let cut = last - first;
        let splice = Splice {
            at: first,
            cut,
            new,
        };
        self.change(splice, (from, until))
    }

    /// Plans to cut the extent that has the path's block in two, of which the second starts there.
    /// Nothing happens if an extent starts there already, or the block is a hole.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if the tree cannot grow.
    pub fn split_at(&self) -> Result<ExtentPlan> {
        let (leaf, lblk) = (self.leaf()?, self.lblk);
        let found = self.at_or_before(leaf)?.filter(|(_, e)| e.covers(lblk));
        let range = (lblk, lblk);
        let Some((at, old)) = found.filter(|(_, e)| e.lblk < lblk) else {
            return Ok(ExtentPlan::empty(range));
        };
        let (head, tail) = (clip(&old, old.lblk, lblk), clip(&old, lblk, old.end()));
        let new = [head, tail, None];
        self.change(Splice { at, cut: 1, new }, range)
    }

    /// Plans to move the leaf's extents that start at or behind `from` by `delta` blocks of the
    /// file.
    ///
    /// That is one step of taking a range out of a file, or of putting one in. The range is
    /// unmapped first, or what straddles its start is [split](Self::split_at). Then the leaves move
    /// one by one, so that what moves finds its place free: to the front from the first leaf on, to
    /// the end from the last one. The plan's range is what the leaf was in charge of from `from`
    /// on; the next leaf is behind, or in front of it.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if the place is not free, as far as this leaf
    /// and the nodes above tell, or lies outside a file.
    pub fn shift(&self, from: Lblk, delta: i64) -> Result<ExtentPlan> {
        let leaf = self.leaf()?;
        let range = (from.max(self.start()?).min(self.end()), self.end());
        // The first extent that starts at `from` or behind.
        let at = match from.0.checked_sub(1) {
            Some(before) => leaf.node.upper_bound(Lblk(before))?,
            None => 0,
        };
        let Some(last) = leaf.node.len().checked_sub(1).filter(|&n| n >= at) else {
            return Ok(ExtentPlan::empty(range));
        };
        let outside = "extent tree: a block would leave the file";
        let first = shifted(leaf.node.entry_lblk(at)?, delta).or_short(outside)?;
        let last = leaf.node.extent(last, self.geo)?;
        let end = shifted(Lblk(last.end().0 - 1), delta).or_short(outside)?;
        let free_from = match at.checked_sub(1) {
            Some(before) => leaf.node.extent(before, self.geo)?.end(),
            None => self.first_possible()?,
        };
        if first < free_from || end >= leaf.node.end() {
            return Err(Error::corrupt2(
                "extent tree: no room to move block {} to block {}",
                leaf.node.entry_lblk(at)?,
                first,
            ));
        }
        let depth = self.depth();
        let mut edit = NodeEdit::nothing(Target::Level(depth), depth, 0, leaf.node.len());
        edit.at = at;
        edit.delta = delta;
        let mut plan = ExtentPlan::empty(range);
        if delta != 0 {
            let above = self.settle(edit, &mut plan)?;
            self.carry(above, &mut plan)?;
        }
        Ok(plan)
    }

    /// Returns the first block that the leaf can start with, as far as the nodes above tell.
    fn first_possible(&self) -> Result<Lblk> {
        let index = self.levels.iter().flatten().take(usize::from(self.depth()));
        match index.filter(|level| level.pos > 0).last() {
            None => Ok(Lblk(0)),
            Some(level) => {
                let before = level.node.entry_lblk(level.pos - 1)?;
                Ok(Lblk(before.0.saturating_add(1)))
            }
        }
    }

    /// Plans to move the leaf's only level into the root, where the root has a single entry and
    /// room for what that node has; `None` if it has not.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt).
    pub fn shrink(&self) -> Result<Option<ExtentPlan>> {
        let root = self.level(0)?;
        if root.node.depth() == 0 || root.node.len() != 1 {
            return Ok(None);
        }
        let child = self.level(1)?;
        let count = child.node.len();
        if count > root.node.max() || usize::from(count) > NEW_ENTRIES {
            return Ok(None);
        }
        let mut edit = NodeEdit::nothing(Target::Level(0), 0, child.node.depth(), 1);
        edit.cut = 1;
        for i in 0..count {
            let entry = self.raw_entry(child, i)?;
            edit.push(entry, None)?;
        }
        let mut plan = ExtentPlan::empty((Lblk(0), Lblk(0)));
        plan.push(edit)?;
        plan.free(child.pblk);
        Ok(Some(plan))
    }

    fn raw_entry(&self, level: &Level<'_>, i: u16) -> Result<Entry> {
        match level.node.depth() {
            0 => extent_entry(&level.node.extent(i, self.geo)?)
                .or_short("extent tree: an extent cannot be kept"),
            _ => Ok(index_entry(
                level.node.entry_lblk(i)?,
                level.node.index_block(i, self.geo)?,
            )),
        }
    }

    /// Plans a change of the leaf, and what follows from it.
    fn change(&self, splice: Splice, range: (Lblk, Lblk)) -> Result<ExtentPlan> {
        let mut plan = ExtentPlan::empty(range);
        let depth = self.depth();
        let leaf = self.leaf()?;
        let mut edit = NodeEdit::nothing(Target::Level(depth), depth, 0, leaf.node.len());
        edit.at = splice.at;
        edit.cut = splice.cut;
        for extent in splice.new.iter().flatten() {
            let entry = extent_entry(extent).or_short("extent tree: an extent is too long")?;
            edit.push(entry, None)?;
        }
        let above = self.settle(edit, &mut plan)?;
        self.carry(above, &mut plan)?;
        Ok(plan)
    }

    /// Carries a change of the leaf up to the root.
    fn carry(&self, mut above: Above, plan: &mut ExtentPlan) -> Result<()> {
        let depth = self.depth();
        for i in (0..depth).rev() {
            if above.key.is_none() && above.sibling.is_none() && !above.gone {
                break;
            }
            let level = self.level(usize::from(i))?;
            let below = depth - i;
            let mut edit = NodeEdit::nothing(Target::Level(i), i, below, level.node.len());
            edit.at = level.pos;
            if above.gone || above.key.is_some() {
                edit.cut = 1;
            } else {
                edit.at += 1;
            }
            if let Some(key) = above.key {
                let pblk = level.node.index_block(level.pos, self.geo)?;
                edit.push(index_entry(key, pblk), None)?;
            }
            if let Some((key, fresh)) = above.sibling {
                edit.push(index_entry(key, Pblk(0)), Some(fresh))?;
            }
            above = self.settle(edit, plan)?;
        }
        Ok(())
    }

    /// Puts the edit of a level into the plan: in place, or with the node split, moved or freed.
    fn settle(&self, mut edit: NodeEdit, plan: &mut ExtentPlan) -> Result<Above> {
        let level = self.level(usize::from(edit.source))?;
        let len = edit.len().or_short("extent tree: entries are missing")?;
        let root = edit.source == 0;
        if len == 0 {
            if root {
                edit.depth = 0;
                plan.push(edit)?;
                return Ok(Above::default());
            }
            plan.free(level.pblk);
            return Ok(Above {
                gone: true,
                ..Above::default()
            });
        }
        let before = match level.node.is_empty() {
            true => None,
            false => Some(level.node.entry_lblk(0)?),
        };
        if len <= level.node.max() {
            plan.push(edit)?;
            let key = Some(self.first(level, &edit)?).filter(|&key| Some(key) != before);
            return Ok(Above {
                key,
                ..Above::default()
            });
        }
        if root {
            return self.move_root(level, edit, plan);
        }
        self.split(level, edit, before, plan)
    }

    /// Moves the root's entries into a block, and makes the root an index of it.
    fn move_root(
        &self,
        root: &Level<'_>,
        mut edit: NodeEdit,
        plan: &mut ExtentPlan,
    ) -> Result<Above> {
        if root.node.depth() >= MAX_DEPTH {
            return Err(Error::corrupt("extent tree: it cannot grow deeper"));
        }
        let key = self.first(root, &edit)?;
        let fresh = plan.fresh()?;
        edit.target = Target::Fresh(fresh);
        plan.push(edit)?;
        let depth = root.node.depth() + 1;
        let mut index = NodeEdit::nothing(Target::Level(0), 0, depth, root.node.len());
        index.cut = root.node.len();
        index.push(index_entry(key, Pblk(0)), Some(fresh))?;
        plan.push(index)?;
        Ok(Above::default())
    }

    /// Splits a node, and lets the change happen in one of its halves.
    fn split(
        &self,
        level: &Level<'_>,
        edit: NodeEdit,
        before: Option<Lblk>,
        plan: &mut ExtentPlan,
    ) -> Result<Above> {
        let entries = edit.entries;
        // What is appended gets a node for itself, so that a file that grows at its end has full
        // nodes; else half of the entries move. A change that makes a node grow cuts one entry at
        // most, which is in one half.
        let at = match edit.at == entries {
            true => entries,
            false => entries / 2,
        };
        let (mut left, mut right) = (edit, edit);
        left.to = at;
        right.from = at;
        let fresh = plan.fresh()?;
        right.target = Target::Fresh(fresh);
        if edit.at >= at {
            left.drop_change(at);
        } else {
            right.drop_change(at);
        }
        let fits = |edit: &NodeEdit, max: u16| edit.len().is_some_and(|n| n > 0 && n <= max);
        let room = max_entries(us(self.geo.block_size()));
        if !fits(&left, level.node.max()) || !fits(&right, room) {
            return Err(Error::corrupt1(
                "extent tree: a node with room for {} entries cannot be split",
                level.node.max(),
            ));
        }
        plan.push(left)?;
        plan.push(right)?;
        Ok(Above {
            key: Some(self.first(level, &left)?).filter(|&key| Some(key) != before),
            sibling: Some((self.first(level, &right)?, fresh)),
            gone: false,
        })
    }

    /// Returns the block that a node starts with after its edit.
    fn first(&self, level: &Level<'_>, edit: &NodeEdit) -> Result<Lblk> {
        if edit.at > edit.from {
            return level.node.entry_lblk(edit.from);
        }
        match edit.first_new() {
            Some(lblk) => Ok(lblk),
            None if edit.delta != 0 => shifted(level.node.entry_lblk(edit.at)?, edit.delta)
                .or_short("extent tree: a block would leave the file"),
            None => level.node.entry_lblk(edit.at.saturating_add(edit.cut)),
        }
    }
}

impl NodeEdit {
    /// Makes the edit that leaves a node of so many entries as it is.
    fn nothing(target: Target, source: u8, depth: u8, entries: u16) -> Self {
        Self {
            target,
            source,
            depth,
            entries,
            from: 0,
            to: entries,
            at: 0,
            cut: 0,
            new: [[0; 12]; NEW_ENTRIES],
            count: 0,
            fresh: [None; NEW_ENTRIES],
            delta: 0,
        }
    }

    fn push(&mut self, entry: Entry, fresh: Option<u8>) -> Result<()> {
        let i = usize::from(self.count);
        let slots = self.new.get_mut(i).zip(self.fresh.get_mut(i));
        let (slot, number) = slots.or_short("extent tree: too many entries in one edit")?;
        *slot = entry;
        *number = fresh;
        self.count += 1;
        Ok(())
    }

    /// Takes the change out of one half of a split node, which is at `at`.
    fn drop_change(&mut self, at: u16) {
        self.at = at;
        self.cut = 0;
        self.count = 0;
        self.fresh = [None; NEW_ENTRIES];
    }

    fn first_new(&self) -> Option<Lblk> {
        let entry = self.new.first().filter(|_| self.count > 0)?;
        super::bytes::get_u32(entry, 0).map(Lblk)
    }
}

impl ExtentPlan {
    fn empty(range: (Lblk, Lblk)) -> Self {
        Self {
            edits: [None; MAX_EDITS],
            len: 0,
            range,
            fresh: 0,
            freed: [None; MAX_LEVELS],
            placed: false,
        }
    }

    fn push(&mut self, edit: NodeEdit) -> Result<()> {
        let slot = self.edits.get_mut(self.len);
        *slot.or_short("extent tree: too many edits")? = Some(edit);
        self.len += 1;
        Ok(())
    }

    fn fresh(&mut self) -> Result<u8> {
        let n = self.fresh;
        self.fresh = n.checked_add(1).or_short(NO_PATH)?;
        Ok(n)
    }

    fn free(&mut self, pblk: Option<Pblk>) {
        if let Some(slot) = self.freed.iter_mut().find(|slot| slot.is_none()) {
            *slot = pblk;
        }
    }

    /// Returns the part of the range that was asked for which this plan covers: its first block,
    /// and the first one behind it.
    ///
    /// What is to be unmapped is covered from its end, so that there may be more in front of it.
    pub const fn range(&self) -> (Lblk, Lblk) {
        self.range
    }

    /// Returns how many blocks of the file this plan covers.
    pub const fn blocks(&self) -> u32 {
        self.range.1 .0.saturating_sub(self.range.0 .0)
    }

    /// Returns how many blocks the tree needs: at most one for each level, and one more.
    pub const fn new_blocks(&self) -> u8 {
        self.fresh
    }

    /// Tells which blocks the tree gets; `None`, and nothing changes, if they are too few.
    ///
    /// To be called once, also if none is needed.
    pub fn place(&mut self, blocks: &[Pblk]) -> Option<()> {
        if blocks.len() < usize::from(self.fresh) {
            return None;
        }
        for edit in self.edits.iter_mut().flatten() {
            edit.place(blocks)?;
        }
        self.placed = true;
        Some(())
    }

    /// Returns the edits, in no order that matters; none before [`place`](Self::place) was called.
    pub fn edits(&self) -> impl Iterator<Item = &NodeEdit> {
        self.edits.iter().flatten().filter(|_| self.placed)
    }

    /// Returns the blocks of the nodes that are in use no more.
    pub fn freed_nodes(&self) -> impl Iterator<Item = Pblk> + '_ {
        self.freed.iter().flatten().copied()
    }
}

/// Returns the most blocks that one extent has.
const fn most(unwritten: bool) -> u32 {
    if unwritten {
        UNWRITTEN_MAX
    } else {
        WRITTEN_MAX
    }
}

/// Returns the part of an extent between two blocks.
fn clip(extent: &Extent, from: Lblk, until: Lblk) -> Option<Extent> {
    let from = from.max(extent.lblk);
    let until = until.min(extent.end());
    let len = until.0.checked_sub(from.0).filter(|&n| n > 0)?;
    Some(Extent {
        len,
        ..extent.from(from)?
    })
}

/// Returns both as one extent, if the second continues the first and one can be so long.
fn joined(a: &Extent, b: &Extent) -> Option<Extent> {
    let len = a.len.checked_add(b.len)?;
    let behind = a.pblk()?.0.checked_add(u64::from(a.len))?;
    let alike = a.is_unwritten() == b.is_unwritten();
    (a.end() == b.lblk && b.pblk()?.0 == behind && alike && len <= most(a.is_unwritten()))
        .then_some(Extent { len, ..*a })
}

/// Makes the splice that puts one extent in the place of `cut` entries from `at` on, joined with
/// its neighbours where they continue it.
fn join(
    at: u16,
    cut: u16,
    new: [Option<Extent>; NEW_EXTENTS],
    left: Option<(u16, Extent)>,
    right: Option<Extent>,
) -> Splice {
    let mut splice = Splice { at, cut, new };
    let [Some(extent), ..] = &mut splice.new else {
        return splice;
    };
    if let Some((i, both)) = left.and_then(|(i, left)| Some((i, joined(&left, extent)?))) {
        *extent = both;
        splice.at = i;
        splice.cut += 1;
    }
    if let Some(both) = right.and_then(|right| joined(extent, &right)) {
        *extent = both;
        splice.cut += 1;
    }
    splice
}
