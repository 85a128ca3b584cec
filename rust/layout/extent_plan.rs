// SPDX-License-Identifier: GPL-2.0

//! Plans for changes to an extent tree: what will happen to which node, before anything does.
//!
//! The caller reads the nodes from the root to the leaf in charge
//! ([`next_block`](super::extent_path::next_block)), makes an [`ExtentPath`] of them and asks it
//! for a plan. The plan says how many blocks the tree needs; with their numbers
//! ([`ExtentPlan::place`]) its edits are ready to be applied, each to one node, in any order. What
//! they take from other nodes comes from the snapshots that the path was made of.
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
use super::extent::MAX_DEPTH;
use super::extent_edit::{
    extent_entry, index_entry, max_entries, shifted, Entry, NodeEdit, Target, NEW_ENTRIES,
};
use super::extent_path::{ExtentPath, Level, MAX_LEVELS, NO_PATH};
use super::map::Extent;
use super::units::{Lblk, Pblk};

/// How many extents a change of a leaf adds at most.
pub(super) const NEW_EXTENTS: usize = 3;

/// The most edits in one plan: two for each level below the root, and three where the root moves.
const MAX_EDITS: usize = 2 * MAX_LEVELS + 1;

/// A change of a leaf: `cut` entries from `at` on give way to some extents.
pub(super) struct Splice {
    pub(super) at: u16,
    pub(super) cut: u16,
    pub(super) new: [Option<Extent>; NEW_EXTENTS],
}

/// What an edit of a level means for the level above it.
#[derive(Clone, Copy, Default)]
pub(super) struct Above {
    /// The node starts with another block.
    key: Option<Lblk>,
    /// The node has a new right neighbour: the block that it starts with, and its number.
    sibling: Option<(Lblk, u8)>,
    /// The node is gone.
    gone: bool,
}

/// A planned change of an extent tree.
///
/// It is large, so what plans a change fills one that the caller has, on the heap.
#[derive(Clone, Copy, Debug)]
pub struct ExtentPlan {
    edits: [Option<NodeEdit>; MAX_EDITS],
    len: usize,
    range: (Lblk, Lblk),
    fresh: u8,
    freed: [Option<Pblk>; MAX_LEVELS],
    placed: bool,
}

impl ExtentPath<'_> {
    /// Plans a change of the leaf, and what follows from it.
    pub(super) fn change(
        &self,
        splice: Splice,
        range: (Lblk, Lblk),
        plan: &mut ExtentPlan,
    ) -> Result<()> {
        plan.reset(range);
        let above = self.settle(self.leaf_edit(&splice)?, plan)?;
        self.carry(above, plan)
    }

    fn leaf_edit(&self, splice: &Splice) -> Result<NodeEdit> {
        let depth = self.depth();
        let leaf = self.leaf()?;
        let mut edit = NodeEdit::nothing(Target::Level(depth), depth, 0, leaf.node.len());
        edit.at = splice.at;
        edit.cut = splice.cut;
        for extent in splice.new.iter().flatten() {
            let entry = extent_entry(extent).or_short("extent tree: an extent is too long")?;
            edit.push(entry, None)?;
        }
        Ok(edit)
    }

    /// The edit that makes such a change, if the leaf is the root, and stays it.
    pub(super) fn root_edit(&self, splice: &Splice) -> Result<Option<NodeEdit>> {
        if self.depth() > 0 {
            return Ok(None);
        }
        let (edit, max) = (self.leaf_edit(splice)?, self.leaf()?.node.max());
        Ok(Some(edit).filter(|edit| edit.len().is_some_and(|len| len > 0 && len <= max)))
    }

    /// Carries a change of the leaf up to the root.
    pub(super) fn carry(&self, mut above: Above, plan: &mut ExtentPlan) -> Result<()> {
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
    pub(super) fn settle(&self, mut edit: NodeEdit, plan: &mut ExtentPlan) -> Result<Above> {
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
    pub(super) fn nothing(target: Target, source: u8, depth: u8, entries: u16) -> Self {
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

    pub(super) fn push(&mut self, entry: Entry, fresh: Option<u8>) -> Result<()> {
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
    /// A plan that changes nothing.
    pub const EMPTY: Self = Self {
        edits: [None; MAX_EDITS],
        len: 0,
        range: (Lblk(0), Lblk(0)),
        fresh: 0,
        freed: [None; MAX_LEVELS],
        placed: false,
    };

    /// Makes it one that changes nothing of a range.
    pub(super) fn reset(&mut self, range: (Lblk, Lblk)) {
        for edit in &mut self.edits {
            *edit = None;
        }
        self.len = 0;
        self.range = range;
        self.fresh = 0;
        self.freed = [None; MAX_LEVELS];
        self.placed = false;
    }

    pub(super) fn push(&mut self, edit: NodeEdit) -> Result<()> {
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

    pub(super) fn free(&mut self, pblk: Option<Pblk>) {
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
