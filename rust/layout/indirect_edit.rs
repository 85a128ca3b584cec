// SPDX-License-Identifier: GPL-2.0

//! Changes to a map of block pointers, as ext2 has it: planned, then applied block by block.
//!
//! It goes as for extent trees (see [`extent_plan`](super::extent_plan)): the caller reads the
//! blocks from the inode to the pointer in charge, as far as there are such ([`next_block`]), makes
//! an [`IndirectPath`] of them and asks it for a plan. One plan changes the pointers in one block,
//! and the way to it. Pointers have 32 bits, know no unwritten state, and carry no checksum.

use super::bytes::{get_u32, low32, put_u32, us};
use super::error::{Error, OrShort, Result};
use super::extent_edit::Target;
use super::geometry::Geometry;
use super::indirect::{check, clamp, pointer, ptr_bits, span, DIRECT};
use super::map::{Extent, ExtentState, Tree, TreeBlock};
use super::units::{Lblk, Pblk};

/// The number of levels: the inode, and up to three of blocks.
pub const MAX_LEVELS: usize = 4;

const NO_PATH: &str = "block map: a path of no blocks, or of too many";

/// Where the pointer to a block of a file is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The pointer's number on each level; the first among the 15 of the inode.
    slots: [usize; MAX_LEVELS],
    /// How many levels of blocks there are.
    depth: usize,
}

/// Returns where the pointer to `lblk` is.
fn place(lblk: Lblk, geo: &Geometry) -> Result<Place> {
    let bits = ptr_bits(geo);
    let mask = (1u64 << bits) - 1;
    let mut slots = [0; MAX_LEVELS];
    let mut rel = u64::from(lblk.0);
    if lblk.0 < DIRECT {
        slots[0] = us(lblk.0);
        return Ok(Place { slots, depth: 0 });
    }
    rel -= u64::from(DIRECT);
    for (depth, root) in [(1u8, 12), (2, 13), (3, 14)] {
        let covered = span(depth, geo);
        if rel >= covered {
            rel -= covered;
            continue;
        }
        let [first, below @ ..] = &mut slots;
        *first = root;
        for (slot, level) in below.iter_mut().zip((0..u32::from(depth)).rev()) {
            *slot = usize::try_from(rel >> (bits * level) & mask).unwrap_or(0);
        }
        let depth = usize::from(depth);
        return Ok(Place { slots, depth });
    }
    Err(Error::corrupt1(
        "block map: block {} has no place in it",
        lblk,
    ))
}

/// Returns the next block to read on the way to the pointer to `lblk`; `None` if the last one has
/// it, or the way ends at a hole.
///
/// `nodes` are those read so far, from the 60 bytes of `i_block`.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt), also if no map has a place for `lblk`.
pub fn next_block(nodes: &[&[u8]], lblk: Lblk, geo: &Geometry) -> Result<Option<TreeBlock>> {
    let place = place(lblk, geo)?;
    let level = nodes.len().checked_sub(1).or_short(NO_PATH)?;
    if level > place.depth {
        return Err(Error::corrupt(NO_PATH));
    }
    if level == place.depth {
        return Ok(None);
    }
    let node = nodes.get(level).or_short(NO_PATH)?;
    let slot = place.slots.get(level).or_short(NO_PATH)?;
    let pblk = pointer(node, *slot)?;
    if pblk.0 == 0 {
        return Ok(None);
    }
    let depth = u8::try_from(place.depth - level - 1).unwrap_or(0);
    let (first, end) = subtree(lblk, place.depth - level, geo);
    Ok(Some(TreeBlock {
        pblk: check(pblk, 1, geo)?,
        depth,
        first,
        end,
        tree: Tree::Indirect,
    }))
}

/// Returns the blocks of the file that one pointer covers, which has `levels` levels of blocks
/// below it and leads to `lblk`.
fn subtree(lblk: Lblk, levels: usize, geo: &Geometry) -> (Lblk, Lblk) {
    let span = span(u8::try_from(levels).unwrap_or(3), geo);
    // Each tree starts where the ones with fewer levels end.
    let mut start = u64::from(DIRECT);
    for depth in 1..=3u8 {
        let covered = super::indirect::span(depth, geo);
        if u64::from(lblk.0) < start.saturating_add(covered) {
            break;
        }
        start = start.saturating_add(covered);
    }
    if lblk.0 < DIRECT {
        return (lblk, Lblk(lblk.0 + 1));
    }
    let rel = u64::from(lblk.0).saturating_sub(start);
    let first = start.saturating_add(rel / span.max(1) * span);
    (clamp(first), clamp(first.saturating_add(span)))
}

/// The blocks from the inode to the pointer to a block of a file, as far as they exist.
#[derive(Clone, Copy, Debug)]
pub struct IndirectPath<'a> {
    nodes: [&'a [u8]; MAX_LEVELS],
    /// Where each block lies; the first is the inode's.
    at: [Pblk; MAX_LEVELS],
    have: usize,
    place: Place,
    lblk: Lblk,
    geo: &'a Geometry,
}

/// A change of one block of a map: `count` pointers from number `slot` on.
#[derive(Clone, Copy, Debug)]
pub struct IndirectEdit {
    /// The block that is changed, or the fresh one that is made.
    pub target: Target,
    slot: usize,
    count: usize,
    change: Change,
}

/// What becomes of the pointers.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// They point to consecutive blocks.
    Run(Pblk),
    /// It points to the fresh block of this number.
    Fresh(u8),
    /// They are holes.
    Clear,
}

/// A planned change of a map.
#[derive(Clone, Copy, Debug)]
pub struct IndirectPlan {
    edits: [Option<IndirectEdit>; MAX_LEVELS],
    len: usize,
    range: (Lblk, Lblk),
    fresh: u8,
    freed: [Option<Pblk>; MAX_LEVELS],
    placed: bool,
}

impl<'a> IndirectPath<'a> {
    /// Checks the blocks on the way to the pointer to `lblk`; see [`next_block`].
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if blocks are missing that exist.
    pub fn new(nodes: &[&'a [u8]], lblk: Lblk, geo: &'a Geometry) -> Result<Self> {
        let mut path = Self {
            nodes: [&[]; MAX_LEVELS],
            at: [Pblk(0); MAX_LEVELS],
            have: nodes.len(),
            place: place(lblk, geo)?,
            lblk,
            geo,
        };
        for (i, node) in nodes.iter().enumerate() {
            let known = nodes.get(..i.saturating_add(1)).unwrap_or_default();
            let next = next_block(known, lblk, geo)?;
            let whole = match i {
                0 => node.len() == 60,
                _ => node.len() == us(geo.block_size()),
            };
            if !whole || next.is_some() != (known.len() < nodes.len()) {
                return Err(Error::corrupt(NO_PATH));
            }
            *path.nodes.get_mut(i).or_short(NO_PATH)? = node;
            if let Some(next) = next {
                *path.at.get_mut(i + 1).or_short(NO_PATH)? = next.pblk;
            }
        }
        match nodes.is_empty() {
            true => Err(Error::corrupt(NO_PATH)),
            false => Ok(path),
        }
    }

    /// Returns whether the block that has the pointer exists.
    fn is_whole(&self) -> bool {
        self.have == self.place.depth + 1
    }

    fn node(&self, level: usize) -> &'a [u8] {
        self.nodes.get(level).copied().unwrap_or_default()
    }

    fn slot(&self, level: usize) -> usize {
        self.place.slots.get(level).copied().unwrap_or(0)
    }

    /// Returns how many pointers to data the block that has the pointer holds.
    fn slots(&self) -> usize {
        match self.place.depth {
            0 => us(DIRECT),
            _ => us(self.geo.block_size() / 4),
        }
    }

    /// Returns the blocks of the file that the block with the pointer covers or, if there is none,
    /// those of the hole that is in its place.
    fn covered(&self) -> (Lblk, Lblk) {
        let slot = u32::try_from(self.slot(self.place.depth)).unwrap_or(0);
        match (self.place.depth, self.is_whole()) {
            (0, _) => (Lblk(0), Lblk(DIRECT)),
            (_, true) => {
                let first = self.lblk.0.saturating_sub(slot);
                let slots = u64::try_from(self.slots()).unwrap_or(0);
                (Lblk(first), clamp(u64::from(first).saturating_add(slots)))
            }
            (depth, false) => {
                let levels = (depth + 1).saturating_sub(self.have);
                subtree(self.lblk, levels, self.geo)
            }
        }
    }

    /// Returns the number of the pointer to `lblk`, which the block covers, in the block.
    fn slot_of(&self, lblk: Lblk) -> usize {
        us(lblk.0.saturating_sub(self.covered().0 .0))
    }

    /// Plans to map `len` blocks from the path's block on, which are a hole, to those from `pblk`
    /// on.
    ///
    /// Mapped is as much as fits the hole and the block of pointers.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if the block is mapped, or `pblk` has more
    /// than 32 bits.
    pub fn map(&self, len: u32, pblk: Pblk) -> Result<IndirectPlan> {
        let depth = self.place.depth;
        let slot = self.slot(depth);
        let mut room = self.slots().saturating_sub(slot);
        if self.is_whole() {
            let node = self.node(depth);
            let mut free = 0;
            while free < room && pointer(node, slot + free)?.0 == 0 {
                free += 1;
            }
            room = free;
        }
        // The last block number is no block of a file.
        let left = Lblk::END.0.saturating_sub(self.lblk.0);
        let count = us(len).min(room).min(us(left));
        let len = u32::try_from(count).unwrap_or(0);
        if len == 0 {
            return Err(Error::corrupt1("block map: block {} is no hole", self.lblk));
        }
        check(pblk, u64::from(len), self.geo)?;
        if pblk.0.saturating_add(u64::from(len)) > 1 << 32 {
            return Err(Error::corrupt1("block map: block {} has no pointer", pblk));
        }
        let mut plan = IndirectPlan::empty((self.lblk, Lblk(self.lblk.0 + len)));
        let mut target = Target::Level(level_number(self.have.saturating_sub(1)));
        for level in self.have.saturating_sub(1)..depth {
            let fresh = plan.fresh;
            plan.fresh += 1;
            plan.push(target, self.slot(level), 1, Change::Fresh(fresh))?;
            target = Target::Fresh(fresh);
        }
        plan.push(target, slot, count, Change::Run(pblk))?;
        Ok(plan)
    }

    /// Returns what is mapped from `from` up to `until`, exclusive, as far as the block with the
    /// pointer covers it: runs of consecutive blocks, in ascending order.
    pub fn extents(&self, from: Lblk, until: Lblk) -> Extents<'_> {
        let (first, end) = self.covered();
        let end = match self.is_whole() {
            true => until.min(end),
            false => Lblk(0),
        };
        Extents {
            path: self,
            at: from.max(first),
            end,
        }
    }

    /// Plans to unmap the blocks from `from` up to `until`, exclusive, as far as the block with the
    /// pointer covers them, or the hole that is in its place; and of their runs the last `runs` at
    /// most.
    ///
    /// [`extents`](Self::extents) of the plan's range are what becomes free. A block that has no
    /// pointer any more is freed, with those above that lead nowhere else: see
    /// [`IndirectPlan::freed_nodes`].
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt).
    pub fn unmap(&self, from: Lblk, until: Lblk, runs: u16) -> Result<IndirectPlan> {
        let (first, end) = self.covered();
        let until = until.min(end);
        let mut from = from.max(first).min(until);
        if !self.is_whole() {
            return Ok(IndirectPlan::empty((from, until)));
        }
        let mut count = 0usize;
        for run in self.extents(from, until) {
            run?;
            count += 1;
        }
        let leaf = self.node(self.place.depth);
        let empty = self.place.depth > 0 && leaf.iter().all(|&byte| byte == 0);
        if (count == 0 && !empty) || runs == 0 {
            return Ok(IndirectPlan::empty((from, until)));
        }
        if let Some(skip) = count.checked_sub(usize::from(runs)).filter(|&n| n > 0) {
            if let Some(run) = self.extents(from, until).nth(skip) {
                from = run?.lblk;
            }
        }
        let mut plan = IndirectPlan::empty((from, until));
        let mut clear = self.slot_of(from)..self.slot_of(until);
        for level in (0..=self.place.depth).rev() {
            let node = self.node(level);
            let others = node
                .chunks_exact(4)
                .enumerate()
                .any(|(i, pointer)| !clear.contains(&i) && pointer != [0; 4]);
            if level > 0 && !others {
                plan.free(self.at.get(level).copied());
                let slot = self.slot(level - 1);
                clear = slot..slot + 1;
                continue;
            }
            let target = Target::Level(level_number(level));
            plan.push(target, clear.start, clear.len(), Change::Clear)?;
            break;
        }
        Ok(plan)
    }
}

/// Returns a level as the number that a [`Target`] has.
fn level_number(level: usize) -> u8 {
    u8::try_from(level).unwrap_or(u8::MAX)
}

/// An iterator over what is mapped; see [`IndirectPath::extents`].
#[derive(Clone, Debug)]
pub struct Extents<'a> {
    path: &'a IndirectPath<'a>,
    at: Lblk,
    end: Lblk,
}

impl Extents<'_> {
    fn pointer(&self) -> Result<Pblk> {
        let node = self.path.node(self.path.place.depth);
        pointer(node, self.path.slot_of(self.at))
    }

    fn run(&mut self) -> Result<Option<Extent>> {
        while self.at < self.end && self.pointer()?.0 == 0 {
            self.at.0 += 1;
        }
        let lblk = self.at;
        if lblk >= self.end {
            return Ok(None);
        }
        let start = self.pointer()?;
        let mut len = 0u32;
        while self.at < self.end && self.pointer()?.0 == start.0 + u64::from(len) {
            self.at.0 += 1;
            len += 1;
        }
        Ok(Some(Extent {
            lblk,
            len,
            state: ExtentState::Written(check(start, u64::from(len), self.path.geo)?),
        }))
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Result<Extent>> {
        let run = self.run().transpose();
        if matches!(run, Some(Err(_))) {
            self.at = self.end;
        }
        run
    }
}

impl IndirectEdit {
    /// Changes the block that is the target, in place.
    ///
    /// `None`, and nothing changes, if `node` is too short, if pointers that are to be set are no
    /// holes, or before the plan's blocks were told.
    pub fn apply(&self, node: &mut [u8]) -> Option<()> {
        let value = |i: usize| match self.change {
            Change::Run(pblk) => Some(low32(pblk.0).wrapping_add(u32::try_from(i).ok()?)),
            Change::Fresh(_) => None,
            Change::Clear => Some(0),
        };
        let offset = |i: usize| self.slot.checked_add(i)?.checked_mul(4);
        for i in 0..self.count {
            value(i)?;
            let old = get_u32(node, offset(i)?)?;
            if old != 0 && !matches!(self.change, Change::Clear) {
                return None;
            }
        }
        for i in 0..self.count {
            put_u32(node, offset(i)?, value(i)?)?;
        }
        Some(())
    }

    /// Makes the target, a whole fresh block.
    pub fn make(&self, node: &mut [u8]) -> Option<()> {
        node.fill(0);
        self.apply(node)
    }
}

impl IndirectPlan {
    fn empty(range: (Lblk, Lblk)) -> Self {
        Self {
            edits: [None; MAX_LEVELS],
            len: 0,
            range,
            fresh: 0,
            freed: [None; MAX_LEVELS],
            placed: false,
        }
    }

    fn push(&mut self, target: Target, slot: usize, count: usize, change: Change) -> Result<()> {
        let entry = self.edits.get_mut(self.len).or_short(NO_PATH)?;
        *entry = Some(IndirectEdit {
            target,
            slot,
            count,
            change,
        });
        self.len += 1;
        Ok(())
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

    /// Returns how many blocks the map needs: at most three.
    pub const fn new_blocks(&self) -> u8 {
        self.fresh
    }

    /// Tells which blocks the map gets; `None`, and nothing changes, if they are too few or have
    /// more than 32 bits.
    ///
    /// To be called once, also if none is needed.
    pub fn place(&mut self, blocks: &[Pblk]) -> Option<()> {
        let blocks = blocks.get(..usize::from(self.fresh))?;
        if blocks.iter().any(|pblk| pblk.0 >= 1 << 32) {
            return None;
        }
        for edit in self.edits.iter_mut().flatten() {
            if let Change::Fresh(fresh) = edit.change {
                edit.change = Change::Run(blocks.get(usize::from(fresh)).copied()?);
            }
        }
        self.placed = true;
        Some(())
    }

    /// Returns the edits, in no order that matters; none before [`place`](Self::place) was called.
    pub fn edits(&self) -> impl Iterator<Item = &IndirectEdit> {
        self.edits.iter().flatten().filter(|_| self.placed)
    }

    /// Returns the blocks of pointers that are in use no more.
    pub fn freed_nodes(&self) -> impl Iterator<Item = Pblk> + '_ {
        self.freed.iter().flatten().copied()
    }
}
