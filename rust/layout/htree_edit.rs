// SPDX-License-Identifier: GPL-2.0

//! Changes to the index of a directory.
//!
//! When a leaf is [split](super::dir_split), the index gets an entry more. If the node above the
//! leaf is full, it is split, too, and so on up; if all are full, a level is added below the root.
//!
//! ```text
//!   plan:   let path = cursor.path();                         // at the first leaf for the hash
//!           let fresh = fresh_blocks(&path, &geo);            // None: no space, ever
//!           // fresh blocks at the directory's end are allocated; the new leaf is the first
//!           let plan = IndexPlan::new(&path, &nodes, split.index_hash(), first, &geo)?;
//!   apply:  for edit in plan.edits() {
//!               edit.apply(block(edit.block), snapshot(edit.from), &geo)?;
//!               seal(block(edit.block), edit.block, &owner, &geo)?;
//!           }
//! ```
//!
//! Each block is edited once, and new ones come before those from which their entries are. So a
//! snapshot may be of the time of the plan, or of right before the edit.

use super::bytes::{get_bytes, put_bytes, put_u16, put_u32, put_u8, us};
use super::csum::Owner;
use super::dir::MIN_ENTRY;
use super::dir_edit::{encode_len, Filler};
use super::error::{Error, OrShort, Result};
use super::geometry::Geometry;
use super::htree::{
    deepest, entries_limit, DxNode, DxPath, DxPathNode, DxRoot, ENTRY_SIZE, NODE_ENTRIES,
    ROOT_ENTRIES,
};
use super::units::{Ino, Lblk};

const SHORT: &str = "directory index: buffer too short";

/// Offset of the number of levels in a root, in bytes.
const ROOT_LEVELS: usize = 30;

/// How many blocks one more entry changes at most: one that was not full, and below it two nodes
/// and what is split off them. A level is added only where at most one node lies below the root,
/// and changes fewer.
const MAX_EDITS: usize = 5;

/// Returns how many fresh blocks it takes to split the leaf at the end of `path`: 1 to 3.
///
/// `None` if the index is as large as the volume's features allow: `ENOSPC`.
pub fn fresh_blocks(path: &DxPath, geo: &Geometry) -> Option<u32> {
    let growth = Growth::of(path, geo)?;
    // At most 3.
    u32::try_from(1 + usize::from(growth.add_level) + growth.splits).ok()
}

/// What becomes of the nodes of a path.
#[derive(Clone, Copy)]
struct Growth {
    /// Whether the entries of the root go to a node of their own.
    add_level: bool,
    /// How many nodes at the end of the path are split.
    splits: usize,
}

impl Growth {
    fn of(path: &DxPath, geo: &Geometry) -> Option<Self> {
        let nodes = path.nodes();
        let full = |n: &&DxPathNode| n.count >= n.limit;
        let splits = nodes.iter().rev().take_while(full).count();
        if splits < nodes.len() {
            return Some(Self {
                add_level: false,
                splits,
            });
        }
        // A node has room for more entries than the root, so that a new one is not full.
        (nodes.len() <= usize::from(deepest(geo))).then_some(Self {
            add_level: true,
            splits: splits.saturating_sub(1),
        })
    }
}

/// An entry of the index, to be put behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NewEntry {
    after: u16,
    hash: u32,
    child: Lblk,
}

/// What an edit does to a block before it puts an entry in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Nothing.
    Keep,
    /// Makes it a node with the entries of another, from this one on.
    Take(u16),
    /// Drops its entries from this one on.
    Cut(u16),
    /// Makes it a root of one entry, with one level more.
    Raise(Lblk),
}

/// A change to one block of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEdit {
    /// The block that changes.
    pub block: Lblk,
    /// The node from which entries are copied, if the block is a fresh one.
    pub from: Option<Lblk>,
    action: Action,
    /// How many entries the block has before, or the node from which they are copied.
    count: u16,
    insert: Option<NewEntry>,
}

/// All changes to an index by which it gets one more leaf.
#[derive(Clone, Copy, Debug)]
pub struct IndexPlan {
    edits: [Option<NodeEdit>; MAX_EDITS],
    len: usize,
}

impl IndexPlan {
    /// Plans to put the leaf `first` behind the one to which `path` leads.
    ///
    /// `nodes` are the blocks of the path, `hash` is where the leaf's range begins, and `first` is
    /// the first of the [`fresh_blocks`], with the others right behind.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also if the nodes are not those of the path, or the
    /// index cannot grow.
    pub fn new(
        path: &DxPath,
        nodes: &[&[u8]],
        hash: u32,
        first: Lblk,
        geo: &Geometry,
    ) -> Result<Self> {
        let growth = Growth::of(path, geo).or_short("directory index: full")?;
        if nodes.len() != path.nodes().len() {
            return Err(Error::corrupt("directory index: nodes are missing"));
        }
        let (mut plan, mut old) = (Self::empty(), Self::empty());
        let mut fresh = first;
        let mut new = (hash, first);
        let below = path.nodes().iter().zip(nodes).rev();
        for (i, (at, data)) in below.take(growth.splits + 1).enumerate() {
            let node = DxNode::parse(data, at.lblk, geo)?;
            if node.count() != at.count || node.limit() != at.limit || at.entry >= at.count {
                return Err(changed(at.lblk));
            }
            let insert = NewEntry {
                after: at.entry,
                hash: new.0,
                child: new.1,
            };
            let kept = |action, insert| NodeEdit {
                block: at.lblk,
                from: None,
                action,
                count: at.count,
                insert,
            };
            let moved = |block, action, insert| NodeEdit {
                block,
                from: Some(at.lblk),
                ..kept(action, insert)
            };
            if i < growth.splits {
                let middle = at.count / 2;
                fresh = Lblk(fresh.0.saturating_add(1));
                let (in_lower, in_upper) = match at.entry.checked_sub(middle) {
                    Some(after) => (None, Some(NewEntry { after, ..insert })),
                    None => (Some(insert), None),
                };
                plan.push(moved(fresh, Action::Take(middle), in_upper))?;
                old.push(kept(Action::Cut(middle), in_lower))?;
                new = (node.hash(middle).or_short(SHORT)?, fresh);
            } else if growth.add_level {
                fresh = Lblk(fresh.0.saturating_add(1));
                plan.push(moved(fresh, Action::Take(0), Some(insert)))?;
                old.push(kept(Action::Raise(fresh), None))?;
            } else {
                old.push(kept(Action::Keep, Some(insert)))?;
            }
        }
        if fresh.0 > CHILD_MAX {
            return Err(Error::corrupt1("directory index: no block {}", fresh));
        }
        for edit in old.edits() {
            plan.push(*edit)?;
        }
        Ok(plan)
    }

    const fn empty() -> Self {
        Self {
            edits: [None; MAX_EDITS],
            len: 0,
        }
    }

    fn push(&mut self, edit: NodeEdit) -> Result<()> {
        let slot = self.edits.get_mut(self.len);
        *slot.or_short("directory index: too many changes")? = Some(edit);
        self.len += 1;
        Ok(())
    }

    /// Returns the changes in the order in which they are to be made.
    pub fn edits(&self) -> impl Iterator<Item = &NodeEdit> {
        self.edits.iter().flatten()
    }
}

/// The largest block number that an entry can have; the top bits are reserved.
const CHILD_MAX: u32 = 0x0fff_ffff;

/// The refusal of a node that is not the one with which a change was planned.
#[cold]
fn changed(block: Lblk) -> Error {
    Error::corrupt1("directory index: block {}: not what was planned", block)
}

impl NodeEdit {
    /// Changes the block `buf`; `from` is a snapshot of the node [`from`](Self::from), and ignored
    /// if there is none.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if a node is not as planned; `buf` is then
    /// unchanged.
    pub fn apply(&self, buf: &mut [u8], from: &[u8], geo: &Geometry) -> Result<()> {
        geo.whole_block(buf, SHORT)?;
        let source = match self.from {
            Some(lblk) => DxNode::parse(from, lblk, geo)?,
            None => DxNode::parse(buf, self.block, geo)?,
        };
        if source.count() != self.count {
            return Err(changed(self.block));
        }
        let count = match self.action {
            Action::Keep => self.count,
            Action::Take(first) => self.count.saturating_sub(first),
            Action::Cut(count) => count,
            Action::Raise(_) => 1,
        };
        let start = start_of(self.block);
        let limit = entries_limit(start, geo);
        if matches!(self.insert, Some(new) if new.after >= count || count >= limit) {
            return Err(changed(self.block));
        }
        match self.action {
            Action::Keep | Action::Cut(_) => {}
            Action::Take(first) => {
                let from_start = start_of(self.from.unwrap_or(self.block));
                let entries = get_bytes(from, entry_at(from_start, first), size_of(count));
                let entries = entries.or_short(SHORT)?;
                geo.whole_block(buf, SHORT)?;
                // A listing of all blocks takes a node for an unused entry.
                buf.fill(0);
                put_u16(buf, 4, encode_len(geo.block_size())).or_short(SHORT)?;
                put_bytes(buf, start, entries).or_short(SHORT)?;
                put_u16(buf, start, limit).or_short(SHORT)?;
            }
            Action::Raise(child) => {
                let levels = DxRoot::parse(buf, geo)?.levels.saturating_add(1);
                put_u32(buf, entry_at(start, 0) + 4, child.0).or_short(SHORT)?;
                put_u8(buf, ROOT_LEVELS, levels).or_short(SHORT)?;
            }
        }
        put_u16(buf, start + 2, count).or_short(SHORT)?;
        match self.insert {
            Some(new) => put_entry(buf, start, count, new).or_short(SHORT),
            None => Ok(()),
        }
    }
}

/// Puts an entry behind another one of `count`.
fn put_entry(buf: &mut [u8], start: usize, count: u16, new: NewEntry) -> Option<()> {
    let at = entry_at(start, new.after.checked_add(1)?);
    let end = entry_at(start, count);
    if at > end || end.checked_add(ENTRY_SIZE)? > buf.len() {
        return None;
    }
    buf.copy_within(at..end, at + ENTRY_SIZE);
    put_u32(buf, at, new.hash)?;
    put_u32(buf, at + 4, new.child.0)?;
    put_u16(buf, start + 2, count.checked_add(1)?)
}

/// Returns where the entries of a node start.
fn start_of(block: Lblk) -> usize {
    match block {
        Lblk(0) => ROOT_ENTRIES,
        _ => NODE_ENTRIES,
    }
}

fn entry_at(start: usize, i: u16) -> usize {
    start + size_of(i)
}

fn size_of(entries: u16) -> usize {
    ENTRY_SIZE * usize::from(entries)
}

/// Makes a root with two leaves, of which the second starts at `hash`.
pub(super) fn init_root(
    buf: &mut [u8],
    dir: Ino,
    parent: Ino,
    leaves: [Lblk; 2],
    hash: u32,
    geo: &Geometry,
) -> Result<()> {
    let version = geo.hash().new_index()?.to_root();
    Filler::new(buf, geo)?.dots(dir, parent).or_short(SHORT)?;
    // ".." seems to have the rest of the block.
    let rest = geo.block_size() - MIN_ENTRY;
    put_u16(buf, us(MIN_ENTRY) + 4, encode_len(rest)).or_short(SHORT)?;
    // Behind four reserved bytes: the hash, the length of this, no levels, no flags.
    put_bytes(buf, 28, &[version, 8, 0, 0]).or_short(SHORT)?;
    let [lower, upper] = leaves;
    put_u16(buf, ROOT_ENTRIES, entries_limit(ROOT_ENTRIES, geo)).or_short(SHORT)?;
    put_u16(buf, ROOT_ENTRIES + 2, 2).or_short(SHORT)?;
    put_u32(buf, ROOT_ENTRIES + 4, lower.0).or_short(SHORT)?;
    put_u32(buf, entry_at(ROOT_ENTRIES, 1), hash).or_short(SHORT)?;
    put_u32(buf, entry_at(ROOT_ENTRIES, 1) + 4, upper.0).or_short(SHORT)
}

/// Sets the checksum of the node `buf`, block `lblk` of a directory; does nothing on a volume
/// without such checksums.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if the block is not a node.
pub fn seal(buf: &mut [u8], lblk: Lblk, owner: &Owner, geo: &Geometry) -> Result<()> {
    let node = DxNode::parse(buf, lblk, geo)?;
    if !geo.csum().metadata() {
        return Ok(());
    }
    let (at, sum) = node.checksum(owner, geo)?;
    put_u32(buf, at, sum).or_short(SHORT)
}
