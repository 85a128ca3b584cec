// SPDX-License-Identifier: GPL-2.0

//! The index of a directory: a tree, at most three levels deep, sorted by the hash of names.
//!
//! Block 0 of the directory is the root. A [`DxCursor`] walks the tree one block at a time:
//!
//! ```text
//! let root = DxRoot::parse(block(0).await?, &geo)?;
//! let hash = geo.hash().hash(root.version, name);
//! let (mut cursor, mut step) = DxCursor::start(&root, hash.major, dir_blocks)?;
//! loop {
//!     step = match step {
//!         DxStep::Node(lblk) => cursor.feed(&DxNode::parse(block(lblk).await?, lblk, &geo)?)?,
//!         DxStep::Leaf(leaf) => match Dirents::block(block(leaf.lblk).await?, &geo)?.find(name)? {
//!             Some(entry) => return Ok(Some(entry.ino)),
//!             None => cursor.advance(Reach::SameHash),
//!         },
//!         DxStep::Done => return Ok(None),
//!     };
//! }
//! ```
//!
//! "." and ".." are in the root's block and not in the index; [`DxRoot::parent`] is what ".." is.
//!
//! A listing in the order of hashes does the same with [`Reach::Any`]: it sorts the names of a
//! leaf, and as long as [`DxCursor::next_hash`] says that the next leaf goes on with the same hash,
//! adds that leaf's.

use super::bytes::{get_bytes, get_u16, get_u32, get_u8, us};
use super::csum::Owner;
use super::error::{Error, OrShort, Result};
use super::feature::Incompat;
use super::geometry::Geometry;
use super::hash::HashVersion;
use super::units::{Ino, Lblk};

const SHORT: &str = "directory index: buffer too short";
pub(super) const ENTRY_SIZE: usize = 8;

/// Where entries start in the root: behind "." and "..", and eight bytes of information.
pub(super) const ROOT_ENTRIES: usize = 32;

/// Where entries start in another node: behind a fake entry that covers the block.
pub(super) const NODE_ENTRIES: usize = 8;

/// How many levels of index an htree may have, the root included.
pub(super) const MAX_LEVELS: usize = 3;

/// A node of the index, whose header was checked.
#[derive(Clone, Copy, Debug)]
pub struct DxNode<'a> {
    data: &'a [u8],
    lblk: Lblk,
    start: usize,
    count: u16,
    limit: u16,
}

impl<'a> DxNode<'a> {
    /// Parses block `lblk` of a directory as a node: the root if that is 0.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt).
    pub fn parse(data: &'a [u8], lblk: Lblk, geo: &Geometry) -> Result<Self> {
        if lblk.0 == 0 {
            return Ok(DxRoot::parse(data, geo)?.node);
        }
        geo.whole_block(data, SHORT)?;
        let ino = get_u32(data, 0).or_short(SHORT)?;
        if ino != 0 || !super::dir::is_index_block(data, lblk, geo) {
            return Err(Error::corrupt1(
                "directory index: block {} is not a node",
                lblk,
            ));
        }
        Self::entries(data, lblk, NODE_ENTRIES, geo)
    }

    fn entries(data: &'a [u8], lblk: Lblk, start: usize, geo: &Geometry) -> Result<Self> {
        let limit = get_u16(data, start).or_short(SHORT)?;
        let count = get_u16(data, start + 2).or_short(SHORT)?;
        if limit != entries_limit(start, geo) {
            return Err(Error::corrupt2(
                "directory index: block {} with room for {}",
                lblk,
                limit,
            ));
        }
        if count == 0 || count > limit {
            return Err(Error::corrupt2(
                "directory index: block {} with {} entries",
                lblk,
                count,
            ));
        }
        Ok(Self {
            data,
            lblk,
            start,
            count,
            limit,
        })
    }

    /// Verifies the checksum and the order of the entries; to be called once when the block has
    /// been read.
    ///
    /// # Errors
    ///
    /// [`Kind::Checksum`](super::Kind::Checksum) or [`Kind::Corrupt`](super::Kind::Corrupt).
    pub fn verify(&self, owner: &Owner, geo: &Geometry) -> Result<()> {
        let csum = geo.csum();
        if csum.metadata() {
            let (at, computed) = self.checksum(owner, geo)?;
            let stored = get_u32(self.data, at).or_short(SHORT)?;
            if stored != computed {
                return Err(Error::checksum(
                    "directory index: checksum {x}, but {x} expected",
                    stored,
                    computed,
                ));
            }
        }
        let mut last = 0;
        for i in 1..self.count {
            let hash = self.hash(i).or_short(SHORT)?;
            if hash < last {
                return Err(Error::corrupt2(
                    "directory index: block {}: entry {} is out of order",
                    self.lblk,
                    i,
                ));
            }
            last = hash;
        }
        Ok(())
    }

    /// Computes the checksum, and says where it is stored.
    pub(super) fn checksum(&self, owner: &Owner, geo: &Geometry) -> Result<(usize, u32)> {
        let csum = geo.csum();
        let used = self.start + ENTRY_SIZE * usize::from(self.count);
        let tail_at = self.start + ENTRY_SIZE * usize::from(self.limit);
        let covered = get_bytes(self.data, 0, used).or_short(SHORT)?;
        let tail = get_bytes(self.data, tail_at, 8).or_short(SHORT)?;
        let computed = csum.crc32c_zeroed(csum.crc32c(owner.seed, covered), tail, 4, 4);
        Ok((tail_at + 4, computed))
    }

    /// Returns the number of entries; at least 1.
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// Returns the number of entries for which there is room.
    pub const fn limit(&self) -> u16 {
        self.limit
    }

    /// Returns the hash with which the range of entry `i` starts, 0 for the first; `None` past the
    /// end.
    ///
    /// If its lowest bit is set, names with the same hash also lie in the range before.
    pub fn hash(&self, i: u16) -> Option<u32> {
        match i {
            0 => Some(0),
            i if i < self.count => get_u32(self.data, self.start + ENTRY_SIZE * usize::from(i)),
            _ => None,
        }
    }

    /// Returns the directory block that entry `i` leads to; `None` past the end.
    pub fn child(&self, i: u16) -> Option<Lblk> {
        if i >= self.count {
            return None;
        }
        let block = get_u32(self.data, self.start + ENTRY_SIZE * usize::from(i) + 4)?;
        // The top bits are reserved.
        Some(Lblk(block & 0x0fff_ffff))
    }

    /// Returns the entry whose range `hash` falls in.
    pub fn search(&self, hash: u32) -> u16 {
        let (mut lo, mut hi) = (1, self.count);
        while lo < hi {
            let mid = lo + (hi - lo) / 2;
            match self.hash(mid) {
                Some(h) if h <= hash => lo = mid + 1,
                _ => hi = mid,
            }
        }
        lo.saturating_sub(1)
    }
}

/// Returns how many entries a node has room for whose entries begin at `start`.
pub(super) fn entries_limit(start: usize, geo: &Geometry) -> u16 {
    let tail = if geo.csum().metadata() { 8 } else { 0 };
    let room = us(geo.block_size()).saturating_sub(start + tail) / ENTRY_SIZE;
    // At most 8,191.
    u16::try_from(room).unwrap_or(u16::MAX)
}

/// Returns how many levels of nodes may lie below a root.
pub(super) fn deepest(geo: &Geometry) -> u8 {
    match geo.has_incompat(Incompat::LARGEDIR) {
        true => 2,
        false => 1,
    }
}

/// The root of the index, in block 0 of a directory.
#[derive(Clone, Copy, Debug)]
pub struct DxRoot<'a> {
    /// How names are hashed in this directory.
    pub version: HashVersion,
    /// How many levels of nodes lie below the root: 0 if its entries lead to leaves.
    pub levels: u8,
    /// What ".." is.
    pub parent: Ino,
    /// The entries.
    pub node: DxNode<'a>,
}

impl<'a> DxRoot<'a> {
    /// Parses block 0 of an indexed directory.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt), also for a tree that is too deep for the volume's
    /// features.
    pub fn parse(data: &'a [u8], geo: &Geometry) -> Result<Self> {
        geo.whole_block(data, SHORT)?;
        let u8_at = |off| get_u8(data, off).or_short(SHORT);
        let dots = [
            (get_u16(data, 4), 12),
            (get_u16(data, 16), geo.block_size() - 12),
        ];
        for (found, expected) in dots {
            if found.map(u32::from) != Some(expected) {
                return Err(Error::corrupt1(
                    "directory index: root without entry of {} bytes",
                    expected,
                ));
            }
        }
        let parent = get_u32(data, 12).or_short(SHORT)?;
        if parent == 0 || parent > geo.inodes_count() {
            return Err(Error::corrupt1("directory index: parent is {}", parent));
        }
        let reserved = get_u32(data, 24).or_short(SHORT)?;
        let (version, info_len) = (u8_at(28)?, u8_at(29)?);
        let (levels, flags) = (u8_at(30)?, u8_at(31)?);
        if reserved != 0 || info_len != 8 || flags & 1 != 0 {
            return Err(Error::corrupt2(
                "directory index: root information of {} bytes with flags {x}",
                info_len,
                flags,
            ));
        }
        if version > 2 {
            return Err(Error::corrupt1("directory index: hash version {}", version));
        }
        let deepest = deepest(geo);
        if levels > deepest {
            return Err(Error::corrupt2(
                "directory index: {} levels where {} are possible",
                levels,
                deepest,
            ));
        }
        Ok(Self {
            version: HashVersion::decode(version, geo.hash().unsigned())?,
            levels,
            parent: Ino(parent),
            node: DxNode::entries(data, Lblk(0), ROOT_ENTRIES, geo)?,
        })
    }
}

/// A leaf of the index: a block of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DxLeaf {
    /// The directory block.
    pub lblk: Lblk,
    /// The smallest major hash that a name in it should have.
    pub first_hash: u32,
}

/// What a walk of the index needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DxStep {
    /// This directory block, parsed as a node, is to be given to [`DxCursor::feed`].
    Node(Lblk),
    /// This leaf is the next to look at; then goes [`DxCursor::advance`].
    Leaf(DxLeaf),
    /// There is nothing more.
    Done,
}

/// How far a walk goes on after a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To leaves that may hold names with the hash that the walk started with.
    SameHash,
    /// To the end of the directory.
    Any,
}

/// A position in one level of the index.
#[derive(Clone, Copy, Debug)]
struct Frame {
    lblk: Lblk,
    entry: u16,
    count: u16,
    limit: u16,
    next_hash: Option<u32>,
}

/// A node that a walk went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DxPathNode {
    /// The directory block.
    pub lblk: Lblk,
    /// The entry that was followed.
    pub entry: u16,
    /// The number of entries.
    pub count: u16,
    /// The number of entries for which there is room.
    pub limit: u16,
}

/// The nodes from the root to the leaf that a walk has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DxPath {
    nodes: [DxPathNode; MAX_LEVELS],
    len: usize,
}

impl DxPath {
    /// Returns the nodes, the root first; 1 to 3.
    pub fn nodes(&self) -> &[DxPathNode] {
        self.nodes.get(..self.len).unwrap_or(&[])
    }
}

/// How the entry to follow is chosen in the next node.
#[derive(Clone, Copy, Debug)]
enum Choose {
    ByHash,
    First,
    Next,
}

/// A walk of the index, that asks for one block at a time.
#[derive(Clone, Copy, Debug)]
pub struct DxCursor {
    hash: u32,
    frames: [Frame; MAX_LEVELS],
    level: usize,
    last_level: usize,
    choose: Choose,
    first_hash: u32,
    dir_blocks: u32,
    leaves_left: u32,
}

impl DxCursor {
    /// Starts at the leaf in whose range the major hash `hash` falls; 0 is the first leaf.
    ///
    /// `dir_blocks` is the directory's size in blocks. It bounds what the index may point to, and
    /// how many leaves the walk sees.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the root points out of the directory.
    pub fn start(root: &DxRoot<'_>, hash: u32, dir_blocks: u32) -> Result<(Self, DxStep)> {
        let frame = Frame {
            lblk: Lblk(0),
            entry: 0,
            count: 0,
            limit: 0,
            next_hash: None,
        };
        let mut cursor = Self {
            hash,
            frames: [frame; MAX_LEVELS],
            level: 0,
            last_level: usize::from(root.levels),
            choose: Choose::ByHash,
            first_hash: 0,
            dir_blocks,
            leaves_left: dir_blocks,
        };
        let step = cursor.feed(&root.node)?;
        Ok((cursor, step))
    }

    /// Goes on with the node that [`DxStep::Node`] asked for.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the node points out of the directory, or back, or
    /// is not the one asked for.
    pub fn feed(&mut self, node: &DxNode<'_>) -> Result<DxStep> {
        let last_level = self.last_level;
        let Some((frame, above)) = self
            .frames
            .get_mut(..=self.level)
            .and_then(|frames| frames.split_last_mut())
        else {
            return Err(Error::corrupt("directory index: too deep"));
        };
        if frame.lblk != node.lblk {
            return Err(Error::corrupt2(
                "directory index: got block {} instead of {}",
                node.lblk,
                frame.lblk,
            ));
        }
        let entry = match self.choose {
            Choose::ByHash => node.search(self.hash),
            Choose::First => 0,
            Choose::Next => frame.entry.saturating_add(1),
        };
        let (Some(child), Some(hash)) = (node.child(entry), node.hash(entry)) else {
            return Err(Error::corrupt2(
                "directory index: block {} has no entry {}",
                node.lblk,
                entry,
            ));
        };
        if child.0 >= self.dir_blocks {
            return Err(Error::corrupt2(
                "directory index: block {} points to {}, past the end",
                node.lblk,
                child,
            ));
        }
        if child == node.lblk || child.0 == 0 || above.iter().any(|f| f.lblk == child) {
            return Err(Error::corrupt2(
                "directory index: block {} points back to {}",
                node.lblk,
                child,
            ));
        }
        frame.entry = entry;
        (frame.count, frame.limit) = (node.count, node.limit);
        frame.next_hash = entry.checked_add(1).and_then(|i| node.hash(i));
        if entry > 0 {
            self.first_hash = hash & !1;
        }
        if matches!(self.choose, Choose::Next) {
            self.choose = Choose::First;
        }

        if self.level < last_level {
            self.level += 1;
            if let Some(frame) = self.frames.get_mut(self.level) {
                frame.lblk = child;
            }
            return Ok(DxStep::Node(child));
        }
        // Each leaf occurs once in a sound tree. Trees that share nodes would take ages to walk.
        self.leaves_left = match self.leaves_left.checked_sub(1) {
            Some(left) => left,
            None => {
                return Err(Error::corrupt1(
                    "directory index: more leaves than the {} blocks",
                    self.dir_blocks,
                ))
            }
        };
        Ok(DxStep::Leaf(DxLeaf {
            lblk: child,
            first_hash: self.first_hash,
        }))
    }

    /// Returns the hash with which the next leaf starts; `None` if the current one is the last.
    ///
    /// If its lowest bit is set, the current leaf may hold names with the same major hash.
    pub fn next_hash(&self) -> Option<u32> {
        self.next_level().map(|(_, hash)| hash)
    }

    /// Returns the way to the current leaf.
    ///
    /// A new name goes to the first leaf of a walk that started with its hash, and the index grows
    /// along the way there.
    pub fn path(&self) -> DxPath {
        DxPath {
            nodes: self.frames.map(|f| DxPathNode {
                lblk: f.lblk,
                entry: f.entry,
                count: f.count,
                limit: f.limit,
            }),
            len: self.last_level + 1,
        }
    }

    fn next_level(&self) -> Option<(usize, u32)> {
        let frames = self.frames.get(..=self.last_level)?;
        let found = frames.iter().enumerate().rev();
        found.filter_map(|(i, f)| Some((i, f.next_hash?))).next()
    }

    /// Leaves the current leaf for the next one.
    ///
    /// Nothing is read if there is none, or none in reach.
    pub fn advance(&mut self, reach: Reach) -> DxStep {
        let Some((level, hash)) = self.next_level() else {
            return DxStep::Done;
        };
        if reach == Reach::SameHash && hash & !1 != self.hash & !1 {
            return DxStep::Done;
        }
        let Some(frame) = self.frames.get(level) else {
            return DxStep::Done;
        };
        self.level = level;
        self.choose = Choose::Next;
        DxStep::Node(frame.lblk)
    }
}
