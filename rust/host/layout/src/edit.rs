// SPDX-License-Identifier: GPL-2.0

//! A directory in memory: the smallest caller of the edits.
//!
//! Every change goes as it does in the file system: the plan reads blocks, and may refuse; then
//! blocks are changed one at a time, and what moves between two comes from a snapshot.

use std::collections::BTreeSet;

use crate::layout::dir_edit::{Place, Slot};
use crate::layout::dir_split::{self, Full, Half, Split, SplitEntry};
use crate::layout::htree_edit::{self, IndexPlan};
use crate::layout::*;

/// What fresh blocks hold: it must not matter.
const GARBAGE: u8 = 0xa5;

/// A directory in memory.
#[derive(Clone, Debug)]
pub struct Dir {
    /// The volume's shape.
    pub geo: Geometry,
    /// What its checksums depend on.
    pub owner: Owner,
    /// Whether it has an index.
    pub indexed: bool,
    /// Its blocks.
    pub blocks: Vec<Vec<u8>>,
    /// How often a split separated equal hashes.
    pub continued: usize,
    /// Whether a name may be there twice, as on a corrupt volume.
    pub corrupt: bool,
}

/// Where a name was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The block.
    pub lblk: Lblk,
    /// Where it is in the block.
    pub offset: u32,
    /// The inode.
    pub ino: Ino,
    /// The type.
    pub file_type: Option<FileType>,
}

/// An entry: its name, inode and type.
pub type Listed = (Vec<u8>, Ino, Option<FileType>);

/// Where a name goes, by both of the functions that say it; one of them also whether it is there,
/// as it may be in a leaf of a damaged index that it does not belong to.
fn room(block: &[u8], name: dir_edit::Name<'_>, geo: &Geometry) -> Result<Option<Slot>> {
    let slot = dir_edit::room(block, name, geo)?;
    let entries = Dirents::block(block, geo)?;
    let place = match entries.find(name.bytes())? {
        Some(_) => Place::Taken,
        None => Place::Room(slot),
    };
    assert_eq!(dir_edit::place(block, name, geo)?, place);
    for entry in entries.iter() {
        let there = dir_edit::Name::new(entry?.name).expect("1 to 255 bytes");
        assert_eq!(dir_edit::place(block, there, geo)?, Place::Taken);
    }
    Ok(slot)
}

impl Dir {
    /// Makes an empty directory in one block.
    pub fn new(geo: Geometry, owner: Owner, parent: Ino) -> Self {
        let mut dir = Self {
            geo,
            owner,
            indexed: false,
            blocks: vec![],
            continued: 0,
            corrupt: false,
        };
        let block = dir.fresh(1).0 as usize;
        dir_edit::init_dir(&mut dir.blocks[block], owner.ino, parent, &geo).expect("a block");
        dir.seal_entries(Lblk(0)).expect("a block");
        dir
    }

    fn fresh(&mut self, count: u32) -> Lblk {
        let first = Lblk(self.blocks.len() as u32);
        let block = vec![GARBAGE; self.geo.block_size() as usize];
        self.blocks
            .resize(self.blocks.len() + count as usize, block);
        first
    }

    fn block(&self, lblk: Lblk) -> Result<&[u8]> {
        let block = self.blocks.get(lblk.0 as usize);
        block
            .map(Vec::as_slice)
            .ok_or(Error::corrupt1("no block {}", lblk))
    }

    fn block_mut(&mut self, lblk: Lblk) -> &mut [u8] {
        &mut self.blocks[lblk.0 as usize]
    }

    fn seal_entries(&mut self, lblk: Lblk) -> Result<()> {
        let (owner, geo) = (self.owner, self.geo);
        dir_edit::seal(self.block_mut(lblk), &owner, &geo)
    }

    /// Calls `f` with the leaves that may have names with the hash of `name`, in order, until it
    /// returns something.
    fn walk<T>(
        &self,
        name: &[u8],
        mut f: impl FnMut(Lblk, &DxCursor) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let geo = &self.geo;
        let root = DxRoot::parse(self.block(Lblk(0))?, geo)?;
        let hash = geo.hash().hash(root.version, name).major;
        let (mut cursor, mut step) = DxCursor::start(&root, hash, self.blocks.len() as u32)?;
        loop {
            step = match step {
                DxStep::Node(lblk) => cursor.feed(&DxNode::parse(self.block(lblk)?, lblk, geo)?)?,
                DxStep::Leaf(leaf) => match f(leaf.lblk, &cursor)? {
                    Some(found) => return Ok(Some(found)),
                    None => cursor.advance(Reach::SameHash),
                },
                DxStep::Done => return Ok(None),
            };
        }
    }

    /// Finds a name.
    pub fn find(&self, name: &[u8]) -> Result<Option<Found>> {
        let in_block = |lblk: Lblk| -> Result<Option<Found>> {
            let found = Dirents::block(self.block(lblk)?, &self.geo)?.find(name)?;
            Ok(found.map(|e| Found {
                lblk,
                offset: e.offset,
                ino: e.ino,
                file_type: e.file_type,
            }))
        };
        if self.indexed {
            return self.walk(name, |lblk, _| in_block(lblk));
        }
        for lblk in 0..self.blocks.len() as u32 {
            if let Some(found) = in_block(Lblk(lblk))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Adds a name that is not there; `false` if the index cannot grow.
    pub fn add(&mut self, name: &[u8], ino: Ino, file_type: FileType) -> Result<bool> {
        let new = dir_edit::Name::new(name).expect("1 to 255 bytes");
        if self.indexed {
            return self.add_indexed(new, ino, file_type);
        }
        let geo = self.geo;
        for lblk in 0..self.blocks.len() as u32 {
            let lblk = Lblk(lblk);
            if let Some(slot) = room(self.block(lblk)?, new, &geo)? {
                self.insert(lblk, &slot, new, ino, file_type)?;
                return Ok(true);
            }
        }
        if self.blocks.len() > 1 || !geo.has_compat(Compat::DIR_INDEX) {
            let lblk = self.fresh(1);
            dir_edit::init_block(self.block_mut(lblk), &geo)?;
            let slot = dir_edit::room(self.block(lblk)?, new, &geo)?.expect("an empty block");
            self.insert(lblk, &slot, new, ino, file_type)?;
            return Ok(true);
        }
        let map = vec![SplitEntry::default(); dir_split::split_entries(&geo)];
        let old = self.blocks[0].clone();
        match dir_split::plan_linear(&old, self.owner.ino, new, map, &geo)? {
            Full::Pack(slot) => {
                dir_split::pack(self.block_mut(Lblk(0)), &geo)?;
                self.insert(Lblk(0), &slot, new, ino, file_type)?;
            }
            Full::Split(split) => {
                let lower = self.fresh(2);
                let upper = Lblk(lower.0 + 1);
                split.lower(&old, self.block_mut(lower), &geo)?;
                split.upper(&old, self.block_mut(upper), &geo)?;
                let dir = self.owner.ino;
                split.root(self.block_mut(Lblk(0)), dir, [lower, upper], &geo)?;
                htree_edit::seal(&mut self.blocks[0], Lblk(0), &self.owner, &geo)?;
                self.indexed = true;
                self.insert_half(&split, &old, [lower, upper], new, ino, file_type)?;
            }
        }
        Ok(true)
    }

    fn add_indexed(
        &mut self,
        name: dir_edit::Name<'_>,
        ino: Ino,
        file_type: FileType,
    ) -> Result<bool> {
        let geo = self.geo;
        let first_leaf = |lblk, cursor: &DxCursor| Ok(Some((lblk, cursor.path())));
        let (leaf, path) = self.walk(name.bytes(), first_leaf)?.expect("a first leaf");
        if let Some(slot) = room(self.block(leaf)?, name, &geo)? {
            self.insert(leaf, &slot, name, ino, file_type)?;
            return Ok(true);
        }
        let map = vec![SplitEntry::default(); dir_split::split_entries(&geo)];
        let version = DxRoot::parse(self.block(Lblk(0))?, &geo)?.version;
        let old = self.block(leaf)?.to_vec();
        let split = match dir_split::plan(&old, name, version, map, &geo)? {
            Full::Pack(slot) => {
                dir_split::pack(self.block_mut(leaf), &geo)?;
                self.insert(leaf, &slot, name, ino, file_type)?;
                return Ok(true);
            }
            Full::Split(split) => split,
        };
        let Some(fresh) = htree_edit::fresh_blocks(&path, &geo) else {
            return Ok(false);
        };
        let nodes = path.nodes().iter().map(|n| self.block(n.lblk));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        let first = Lblk(self.blocks.len() as u32);
        let plan = IndexPlan::new(&path, &nodes, split.index_hash(), first, &geo)?;

        assert_eq!(self.fresh(fresh), first);
        let mut edited = BTreeSet::new();
        for edit in plan.edits() {
            assert!(edited.insert(edit.block), "a block is edited once");
            let from = edit
                .from
                .map_or(vec![], |lblk| self.blocks[lblk.0 as usize].clone());
            edit.apply(self.block_mut(edit.block), &from, &geo)?;
            let owner = self.owner;
            htree_edit::seal(self.block_mut(edit.block), edit.block, &owner, &geo)?;
        }
        // An edit that was made, or whose node has changed since, is refused.
        for edit in plan.edits() {
            let from = self.block(edit.from.unwrap_or(Lblk(0)))?;
            let mut again = self.block(edit.block)?.to_vec();
            assert!(edit.apply(&mut again, from, &geo).is_err(), "{edit:?}");
            assert_eq!(again, self.block(edit.block)?);
        }
        let fresh_nodes = edited.range(first..).count() as u32;
        assert_eq!(fresh_nodes + 1, fresh, "every fresh block is used");
        split.upper(&old, self.block_mut(first), &geo)?;
        split.cut(self.block_mut(leaf), &geo)?;
        self.insert_half(&split, &old, [leaf, first], name, ino, file_type)?;
        Ok(true)
    }

    /// Adds the name that made a split, and checks what the split says of the other names.
    fn insert_half(
        &mut self,
        split: &Split<Vec<SplitEntry>>,
        old: &[u8],
        halves: [Lblk; 2],
        name: dir_edit::Name<'_>,
        ino: Ino,
        file_type: FileType,
    ) -> Result<()> {
        self.continued += usize::from(split.index_hash() & 1 == 1);
        let pick = |half| halves[usize::from(half == Half::Upper)];
        let entries = Dirents::block(old, &self.geo)?.iter();
        for entry in entries.filter(|_| !self.corrupt) {
            let entry = entry?;
            let Some((half, offset)) = split.locate(entry.offset) else {
                assert!(entry.name == b"." || entry.name == b"..");
                continue;
            };
            let found = Dirents::block(self.block(pick(half))?, &self.geo)?.find(entry.name)?;
            assert_eq!(found.map(|e| (e.offset, e.ino)), Some((offset, entry.ino)));
        }
        self.insert(pick(split.half()), split.slot(), name, ino, file_type)?;
        for lblk in halves {
            self.seal_entries(lblk)?;
        }
        Ok(())
    }

    fn insert(
        &mut self,
        lblk: Lblk,
        slot: &dir_edit::Slot,
        name: dir_edit::Name<'_>,
        ino: Ino,
        file_type: FileType,
    ) -> Result<()> {
        let geo = self.geo;
        dir_edit::insert(self.block_mut(lblk), slot, name, ino, file_type, &geo)?;
        self.seal_entries(lblk)
    }

    /// Removes a name that was found.
    pub fn remove(&mut self, found: &Found) -> Result<()> {
        let geo = self.geo;
        dir_edit::remove(self.block_mut(found.lblk), found.offset, found.ino, &geo)?;
        self.seal_entries(found.lblk)
    }

    /// Lets a name that was found lead elsewhere.
    pub fn set(&mut self, found: &Found, ino: Ino, file_type: FileType) -> Result<()> {
        let geo = self.geo;
        let block = self.block_mut(found.lblk);
        dir_edit::set_entry(block, found.offset, found.ino, ino, file_type, &geo)?;
        self.seal_entries(found.lblk)
    }

    /// Returns all entries by a scan of all blocks.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut all = vec![];
        for block in &self.blocks {
            for entry in Dirents::block(block, &self.geo)?.iter() {
                let entry = entry?;
                all.push((entry.name.to_vec(), entry.ino, entry.file_type));
            }
        }
        Ok(all)
    }

    /// Returns whether no block has a name but "." and "..".
    pub fn is_empty(&self) -> Result<bool> {
        for (lblk, block) in self.blocks.iter().enumerate() {
            if !dir_edit::is_empty(block, Lblk(lblk as u32), self.owner.ino, &self.geo)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the number of levels of the index, the root included; 0 without one.
    pub fn levels(&self) -> Result<u8> {
        match self.indexed {
            true => Ok(DxRoot::parse(self.block(Lblk(0))?, &self.geo)?.levels + 1),
            false => Ok(0),
        }
    }

    /// Verifies every block, and that each belongs to the tree once and has the hashes that the
    /// tree says.
    pub fn verify(&self) -> Result<()> {
        let geo = &self.geo;
        if !self.indexed {
            for block in &self.blocks {
                Dirents::block(block, geo)?.verify(&self.owner, geo)?;
            }
            return Ok(());
        }
        let root = DxRoot::parse(self.block(Lblk(0))?, geo)?;
        root.node.verify(&self.owner, geo)?;
        let mut seen = BTreeSet::from([Lblk(0)]);
        let (mut cursor, mut step) = DxCursor::start(&root, 0, self.blocks.len() as u32)?;
        loop {
            step = match step {
                DxStep::Node(lblk) => {
                    let node = DxNode::parse(self.block(lblk)?, lblk, geo)?;
                    if seen.insert(lblk) {
                        node.verify(&self.owner, geo)?;
                    }
                    cursor.feed(&node)?
                }
                DxStep::Leaf(leaf) => {
                    if !seen.insert(leaf.lblk) {
                        return Err(Error::corrupt1("leaf {} twice", leaf.lblk));
                    }
                    let next = cursor.next_hash();
                    let entries = Dirents::block(self.block(leaf.lblk)?, geo)?;
                    entries.verify(&self.owner, geo)?;
                    for entry in entries.iter() {
                        let hash = geo.hash().hash(root.version, entry?.name).major;
                        // A hash that goes on in the next leaf is that one without its lowest bit.
                        let below = next.is_none_or(|next| hash < next);
                        if hash < leaf.first_hash || !below {
                            return Err(Error::corrupt2("leaf {}: hash {x}", leaf.lblk, hash));
                        }
                    }
                    cursor.advance(Reach::Any)
                }
                DxStep::Done => break,
            };
        }
        match seen.len() == self.blocks.len() {
            true => Ok(()),
            false => Err(Error::corrupt1("{} blocks in the tree", seen.len() as u64)),
        }
    }
}
