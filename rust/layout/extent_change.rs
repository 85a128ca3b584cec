// SPDX-License-Identifier: GPL-2.0

//! What can be done to an extent tree: each function plans one change of one leaf.

use super::error::{Error, OrShort, Result};
use super::extent_edit::{shifted, NodeEdit, Target, NEW_ENTRIES, UNWRITTEN_MAX, WRITTEN_MAX};
use super::extent_path::{clip, ExtentPath};
use super::extent_plan::{ExtentPlan, Splice, NEW_EXTENTS};
use super::map::{Extent, ExtentState};
use super::units::{Lblk, Pblk};

/// The edit of a root, and the blocks of the file that it covers: the first, and the first behind.
pub type RootChange = Option<(NodeEdit, (Lblk, Lblk))>;

impl ExtentPath<'_> {
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
    pub fn map(&self, len: u32, pblk: Pblk, unwritten: bool, plan: &mut ExtentPlan) -> Result<()> {
        let (splice, range) = self.mapped(len, pblk, unwritten)?;
        self.change(splice, range, plan)
    }

    /// As [`map`](Self::map), for a leaf that is the root, and has room: the edit of the root, and
    /// the blocks that it covers. `None` if it takes a plan.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn map_in_root(&self, len: u32, pblk: Pblk, unwritten: bool) -> Result<RootChange> {
        let (splice, range) = self.mapped(len, pblk, unwritten)?;
        Ok(self.root_edit(&splice)?.map(|edit| (edit, range)))
    }

    /// As [`convert`](Self::convert), for a leaf that is the root: see
    /// [`map_in_root`](Self::map_in_root).
    ///
    /// # Errors
    ///
    /// As [`convert`](Self::convert).
    pub fn convert_in_root(&self, len: u32, unwritten: bool) -> Result<RootChange> {
        let (splice, range) = self.converted(len, unwritten)?;
        Ok(self.root_edit(&splice)?.map(|edit| (edit, range)))
    }

    fn mapped(&self, len: u32, pblk: Pblk, unwritten: bool) -> Result<(Splice, (Lblk, Lblk))> {
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
        Ok((splice, (lblk, new.end())))
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
    pub fn convert(&self, len: u32, unwritten: bool, plan: &mut ExtentPlan) -> Result<()> {
        let (splice, range) = self.converted(len, unwritten)?;
        self.change(splice, range, plan)
    }

    fn converted(&self, len: u32, unwritten: bool) -> Result<(Splice, (Lblk, Lblk))> {
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
        Ok((splice, (lblk, end)))
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
    pub fn unmap(
        &self,
        from: Lblk,
        until: Lblk,
        extents: u16,
        plan: &mut ExtentPlan,
    ) -> Result<()> {
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
            plan.reset((from, until));
            return Ok(());
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
        self.change(splice, (from, until), plan)
    }

    /// Plans to cut the extent that has the path's block in two, of which the second starts there.
    /// Nothing happens if an extent starts there already, or the block is a hole.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if the tree cannot grow.
    pub fn split_at(&self, plan: &mut ExtentPlan) -> Result<()> {
        let (leaf, lblk) = (self.leaf()?, self.lblk);
        let found = self.at_or_before(leaf)?.filter(|(_, e)| e.covers(lblk));
        let range = (lblk, lblk);
        let Some((at, old)) = found.filter(|(_, e)| e.lblk < lblk) else {
            plan.reset(range);
            return Ok(());
        };
        let (head, tail) = (clip(&old, old.lblk, lblk), clip(&old, lblk, old.end()));
        let new = [head, tail, None];
        self.change(Splice { at, cut: 1, new }, range, plan)
    }

    /// Plans to make one extent of that which starts with the path's block, and the one before, if
    /// it continues that. Nothing happens if they lie in two leaves.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt).
    pub fn merge_at(&self, plan: &mut ExtentPlan) -> Result<()> {
        let (leaf, lblk) = (self.leaf()?, self.lblk);
        plan.reset((lblk, lblk));
        let Some((at, right)) = self.at_or_before(leaf)?.filter(|(_, e)| e.lblk == lblk) else {
            return Ok(());
        };
        let Some(before) = at.checked_sub(1) else {
            return Ok(());
        };
        let Some(both) = joined(&leaf.node.extent(before, self.geo)?, &right) else {
            return Ok(());
        };
        let splice = Splice {
            at: before,
            cut: 2,
            new: [Some(both), None, None],
        };
        self.change(splice, (lblk, lblk), plan)
    }

    /// Returns the end of what is mapped before the path's block, or has it.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt).
    pub fn mapped_end(&self) -> Result<Lblk> {
        let before = self.at_or_before(self.leaf()?)?;
        Ok(before.map_or(Lblk(0), |(_, extent)| extent.end()))
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
    pub fn shift(&self, from: Lblk, delta: i64, plan: &mut ExtentPlan) -> Result<()> {
        let leaf = self.leaf()?;
        let range = (from.max(self.start()?).min(self.end()), self.end());
        // The first extent that starts at `from` or behind.
        let at = match from.0.checked_sub(1) {
            Some(before) => leaf.node.upper_bound(Lblk(before))?,
            None => 0,
        };
        let Some(last) = leaf.node.len().checked_sub(1).filter(|&n| n >= at) else {
            plan.reset(range);
            return Ok(());
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
        plan.reset(range);
        if delta != 0 {
            let above = self.settle(edit, plan)?;
            self.carry(above, plan)?;
        }
        Ok(())
    }

    /// Plans to move the leaf's only level into the root, where the root has a single entry and
    /// room for what that node has. Returns whether it is so.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt).
    pub fn shrink(&self, plan: &mut ExtentPlan) -> Result<bool> {
        let root = self.level(0)?;
        if root.node.depth() == 0 || root.node.len() != 1 {
            return Ok(false);
        }
        let child = self.level(1)?;
        let count = child.node.len();
        if count > root.node.max() || usize::from(count) > NEW_ENTRIES {
            return Ok(false);
        }
        let mut edit = NodeEdit::nothing(Target::Level(0), 0, child.node.depth(), 1);
        edit.cut = 1;
        for i in 0..count {
            let entry = self.raw_entry(child, i)?;
            edit.push(entry, None)?;
        }
        plan.reset((Lblk(0), Lblk(0)));
        plan.push(edit)?;
        plan.free(child.pblk);
        Ok(true)
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
