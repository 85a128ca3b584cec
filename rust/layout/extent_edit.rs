// SPDX-License-Identifier: GPL-2.0

//! Changes to one node of an extent tree.
//!
//! Every change to a tree is a set of [`NodeEdit`]s, which [`ExtentPlan`](super::ExtentPlan) works
//! out: each makes one node from a part of what a node held, with some entries replaced. A node
//! that is written where it lay changes in place; a fresh block is made from a snapshot of its
//! source. [`seal`] comes last.

use super::bytes::{get_u16, get_u32, high32, low16, low32, put_bytes, put_u16, put_u32};
use super::csum::Owner;
use super::extent::{ENTRY_SIZE, MAGIC, MAX_WRITTEN};
use super::geometry::Geometry;
use super::map::{Extent, ExtentState};
use super::units::{Lblk, Pblk};

/// The most blocks that one written extent has.
pub const WRITTEN_MAX: u32 = MAX_WRITTEN as u32;

/// The most blocks that one unwritten extent has.
pub const UNWRITTEN_MAX: u32 = WRITTEN_MAX - 1;

/// An entry of a node, as the disk has it.
pub type Entry = [u8; ENTRY_SIZE];

/// How many entries one edit adds to a node at most: those that an inode has room for.
pub const NEW_ENTRIES: usize = 4;

/// Encodes an entry of a leaf; `None` for a hole, and for an extent that is empty or too long.
pub fn extent_entry(extent: &Extent) -> Option<Entry> {
    let (pblk, len) = match extent.state {
        ExtentState::Written(pblk) if extent.len <= WRITTEN_MAX => (pblk, extent.len),
        ExtentState::Unwritten(pblk) if extent.len <= UNWRITTEN_MAX => {
            (pblk, extent.len.checked_add(WRITTEN_MAX)?)
        }
        _ => return None,
    };
    if extent.len == 0 {
        return None;
    }
    let mut entry = [0; ENTRY_SIZE];
    put_u32(&mut entry, 0, extent.lblk.0)?;
    put_u16(&mut entry, 4, u16::try_from(len).ok()?)?;
    put_u16(&mut entry, 6, u16::try_from(high32(pblk.0)).ok()?)?;
    put_u32(&mut entry, 8, low32(pblk.0))?;
    Some(entry)
}

/// Encodes an entry of an index: the node at `pblk` maps blocks from `lblk` on.
pub fn index_entry(lblk: Lblk, pblk: Pblk) -> Entry {
    let mut entry = [0; ENTRY_SIZE];
    let _ = put_u32(&mut entry, 0, lblk.0);
    let _ = put_u32(&mut entry, 4, low32(pblk.0));
    let _ = put_u16(&mut entry, 8, low16(high32(pblk.0)));
    entry
}

/// Returns how many entries a node of so many bytes has room for: 4 in the inode.
pub fn max_entries(bytes: usize) -> u16 {
    let room = bytes.saturating_sub(ENTRY_SIZE) / ENTRY_SIZE;
    u16::try_from(room).unwrap_or(u16::MAX)
}

/// Makes an empty node: a leaf if `depth` is 0. `None` if there is no room for a node.
pub fn init(node: &mut [u8], depth: u8) -> Option<()> {
    let max = max_entries(node.len());
    if max == 0 {
        return None;
    }
    node.fill(0);
    put_u16(node, 0, MAGIC)?;
    put_u16(node, 4, max)?;
    put_u16(node, 6, u16::from(depth))
}

/// Makes the root of a file with these extents, which are in order; `None` if an inode has no room
/// for so many.
pub fn root_of(extents: &[Extent]) -> Option<[u8; 60]> {
    let mut root = [0; 60];
    init(&mut root, 0)?;
    if extents.len() > usize::from(max_entries(root.len())) {
        return None;
    }
    for (i, extent) in (0u16..).zip(extents) {
        put_bytes(&mut root, offset(i), &extent_entry(extent)?)?;
        put_u16(&mut root, 2, i + 1)?;
    }
    Some(root)
}

/// Computes and writes the checksum of a node in a block, if the volume has checksums; `None` if
/// the node says that it has no room for one.
pub fn seal(node: &mut [u8], owner: &Owner, geo: &Geometry) -> Option<()> {
    if !geo.csum().metadata() {
        return Some(());
    }
    let tail = offset(get_u16(node, 4)?);
    let sum = geo.csum().crc32c(owner.seed, node.get(..tail)?);
    put_u32(node, tail, sum)
}

/// Returns the offset of entry `i`, in bytes.
const fn offset(i: u16) -> usize {
    ENTRY_SIZE * (1 + i as usize)
}

/// A node that an edit changes or makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The node at this level of the path, 0 for the root: see [`NodeEdit::apply`].
    Level(u8),
    /// The fresh block of this number, counted from 0: see [`NodeEdit::make`].
    Fresh(u8),
}

/// How one node comes to be: from the entries `from..to` of a node, of which `cut` from `at` on
/// give way to new ones.
#[derive(Clone, Copy, Debug)]
pub struct NodeEdit {
    /// The node that is changed or made.
    pub target: Target,
    /// The level of the node from which entries are taken; that of the target if it is in the path.
    pub source: u8,
    /// How many levels will lie below the node.
    pub depth: u8,
    /// How many entries the source has.
    pub(super) entries: u16,
    pub(super) from: u16,
    pub(super) to: u16,
    /// Counted from the source's first entry, as `from` and `to` are.
    pub(super) at: u16,
    pub(super) cut: u16,
    pub(super) new: [Entry; NEW_ENTRIES],
    pub(super) count: u8,
    /// Which fresh block each new entry points to, if it does.
    pub(super) fresh: [Option<u8>; NEW_ENTRIES],
    /// By how many blocks of the file the entries from `at` on move, if nothing else changes.
    pub(super) delta: i64,
}

impl NodeEdit {
    /// Returns how many entries the node will have; `None` if the numbers contradict each other.
    pub(super) fn len(&self) -> Option<u16> {
        let cut_end = self.at.checked_add(self.cut)?;
        if self.from > self.at || cut_end > self.to || self.to > self.entries {
            return None;
        }
        (self.to - self.from - self.cut).checked_add(u16::from(self.count))
    }

    fn new_entries(&self) -> &[Entry] {
        self.new.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// Returns whether `node` is the source as it was when this was planned.
    fn is_source(&self, node: &[u8]) -> bool {
        get_u16(node, 0) == Some(MAGIC) && get_u16(node, 2) == Some(self.entries)
    }

    /// Changes the node of the path that is the target, in place.
    ///
    /// `None`, and nothing changes, if `node` is not as it was when this was planned.
    pub fn apply(&self, node: &mut [u8]) -> Option<()> {
        let len = self.len()?;
        if !self.is_source(node)
            || self.from != 0
            || len > get_u16(node, 4)?
            || node.len() < offset(len).max(offset(self.entries))
        {
            return None;
        }
        if self.delta != 0 {
            return shift(node, self.at, self.delta);
        }
        // What is behind the cut moves to behind the new entries, all within the bytes.
        let tail = offset(self.at + self.cut)..offset(self.to);
        let to = offset(self.at + u16::from(self.count));
        if tail.end > node.len() {
            return None;
        }
        let end = tail.len() + to;
        node.copy_within(tail, to);
        self.put_new(node, offset(self.at))?;
        // No entry that is gone stays behind, where it might be taken for one that is there.
        if let Some(gone) = node.get_mut(end..offset(self.entries).max(end)) {
            gone.fill(0);
        }
        put_u16(node, 2, len)?;
        put_u16(node, 6, u16::from(self.depth))
    }

    /// Makes the target, a whole fresh block, from a snapshot of the source.
    ///
    /// `None`, and nothing changes, if `source` is not as it was when this was planned.
    pub fn make(&self, source: &[u8], node: &mut [u8]) -> Option<()> {
        let len = self.len()?;
        let head = source.get(offset(self.from)..offset(self.at))?;
        let tail = source.get(offset(self.at + self.cut)..offset(self.to))?;
        if !self.is_source(source) || len > max_entries(node.len()) {
            return None;
        }
        init(node, self.depth)?;
        put_u16(node, 2, len)?;
        let at = offset(0).checked_add(head.len())?;
        put_bytes(node, offset(0), head)?;
        self.put_new(node, at)?;
        put_bytes(node, at + self.new_entries().len() * ENTRY_SIZE, tail)
    }

    fn put_new(&self, node: &mut [u8], at: usize) -> Option<()> {
        for (i, entry) in self.new_entries().iter().enumerate() {
            put_bytes(node, at + i * ENTRY_SIZE, entry)?;
        }
        Some(())
    }

    /// Fills the numbers of fresh blocks in; `None` if there are too few.
    pub(super) fn place(&mut self, blocks: &[Pblk]) -> Option<()> {
        for (entry, fresh) in self.new.iter_mut().zip(&self.fresh) {
            let Some(fresh) = fresh else {
                continue;
            };
            let pblk = blocks.get(usize::from(*fresh)).copied()?;
            let lblk = get_u32(entry, 0).map(Lblk)?;
            *entry = index_entry(lblk, pblk);
        }
        Some(())
    }
}

/// Moves the entries of `node` from number `from` on by `delta` blocks of the file.
///
/// `None`, and nothing changes, if a block number would leave the file.
fn shift(node: &mut [u8], from: u16, delta: i64) -> Option<()> {
    let entries = get_u16(node, 2)?;
    let moved = |node: &[u8], i| {
        let lblk = get_u32(node, offset(i)).map(Lblk)?;
        shifted(lblk, delta)
    };
    for i in from..entries {
        moved(node, i)?;
    }
    for i in from..entries {
        let lblk = moved(node, i)?;
        put_u32(node, offset(i), lblk.0)?;
    }
    Some(())
}

/// Returns the block of the file that lies `delta` blocks behind `lblk`, if a file can have it.
pub(super) fn shifted(lblk: Lblk, delta: i64) -> Option<Lblk> {
    let moved = i64::from(lblk.0).checked_add(delta)?;
    let moved = u32::try_from(moved).ok().map(Lblk)?;
    (moved < Lblk::END).then_some(moved)
}
