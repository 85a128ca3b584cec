// SPDX-License-Identifier: GPL-2.0

//! A synchronous reader over an image: the smallest file system that can be built on the parser.
//!
//! It counts the blocks that it reads and stops at a limit, so that a test can tell that a hostile
//! image does not keep a reader busy for ever.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::layout::dir::is_index_block;
use crate::layout::superblock::{SUPER_KIB, SUPER_SIZE};
use crate::layout::*;

/// Something with bytes at offsets.
pub trait Disk {
    /// Fills `buf` from `offset`; `false` past the end.
    fn read(&self, offset: u64, buf: &mut [u8]) -> bool;

    /// Returns the size in bytes.
    fn size(&self) -> u64;
}

impl Disk for [u8] {
    fn read(&self, offset: u64, buf: &mut [u8]) -> bool {
        let data = usize::try_from(offset)
            .ok()
            .and_then(|at| self.get(at..at.checked_add(buf.len())?));
        match data {
            Some(data) => {
                buf.copy_from_slice(data);
                true
            }
            None => false,
        }
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

impl Disk for Vec<u8> {
    fn read(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.as_slice().read(offset, buf)
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

impl Disk for File {
    fn read(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.read_exact_at(buf, offset).is_ok()
    }

    fn size(&self) -> u64 {
        self.metadata().map_or(0, |m| m.len())
    }
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fail {
    /// The parser refused.
    Layout(Error),
    /// The image is too short.
    Io(u64),
    /// The limit of blocks was reached.
    Limit,
    /// The limit of steps in one file was reached, as a map of 2^32 blocks may well do.
    Long,
    /// A name was not found.
    NotFound,
}

impl From<Error> for Fail {
    fn from(e: Error) -> Self {
        Self::Layout(e)
    }
}

/// A result of the reader.
pub type Out<T> = std::result::Result<T, Fail>;

/// A name in a directory, as listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The name.
    pub name: Vec<u8>,
    /// The inode.
    pub ino: u32,
    /// The type, if the directory tells.
    pub file_type: Option<&'static str>,
}

/// A volume in an image.
pub struct Volume<D> {
    disk: D,
    /// The superblock.
    pub sb: SuperBlock,
    /// The raw blocks read so far.
    pub reads: Cell<u64>,
    /// How many blocks may be read in total.
    pub limit: u64,
    /// How many steps may be taken in the map of one file.
    pub long: u64,
    /// Whether `verify` is called, as it should be.
    pub verify: bool,
}

impl<D: Disk> Volume<D> {
    /// Opens a volume by its first superblock.
    pub fn open(disk: D, fns: CrcFns) -> Out<Self> {
        Self::open_at(disk, SUPER_KIB, fns)
    }

    /// Opens a volume by the superblock that `sb=kib` names.
    pub fn open_at(disk: D, kib: u64, fns: CrcFns) -> Out<Self> {
        let mut raw = [0; SUPER_SIZE];
        if !disk.read(kib * 1024, &mut raw) {
            return Err(Fail::Io(kib));
        }
        let sb = SuperBlock::parse(&raw, kib, fns)?;
        sb.check_device(disk.size())?;
        Ok(Self {
            disk,
            sb,
            reads: Cell::new(0),
            limit: u64::MAX,
            long: u64::MAX,
            verify: true,
        })
    }

    /// Returns the volume's shape.
    pub fn geo(&self) -> &Geometry {
        &self.sb.geo
    }

    /// Reads a block.
    pub fn block(&self, pblk: Pblk) -> Out<Vec<u8>> {
        self.count()?;
        assert!(
            pblk.0 < self.geo().blocks_count(),
            "the parser let {pblk} out"
        );
        let mut data = vec![0; self.geo().block_size() as usize];
        if self.disk.read(pblk.0 << self.geo().block_bits(), &mut data) {
            Ok(data)
        } else {
            Err(Fail::Io(pblk.0))
        }
    }

    /// Counts one step towards the limit.
    pub(crate) fn count(&self) -> Out<()> {
        self.reads.set(self.reads.get() + 1);
        if self.reads.get() > self.limit {
            return Err(Fail::Limit);
        }
        Ok(())
    }

    fn step(&self, steps: &mut u64) -> Out<()> {
        self.count()?;
        *steps += 1;
        match *steps > self.long {
            true => Err(Fail::Long),
            false => Ok(()),
        }
    }

    /// Reads a group's descriptor.
    pub fn group(&self, group: Group) -> Out<GroupDesc> {
        let (pblk, offset) = self.geo().desc_location(group)?;
        let data = self.block(pblk)?;
        let raw = &data[offset as usize..];
        if self.verify {
            GroupDesc::verify(raw, group, self.geo())?;
        }
        Ok(GroupDesc::parse(raw, group, self.geo())?)
    }

    /// Works out how many clusters metadata takes.
    pub fn overhead(&self) -> Out<u64> {
        let mut blocks = std::collections::BTreeMap::new();
        for group in 0..self.geo().groups() {
            for zone in self.group(Group(group))?.overhead_zones(self.geo()) {
                let len = blocks.entry(zone.start.0).or_insert(0);
                *len = zone.len.max(*len);
            }
        }
        let fixed = blocks.into_iter().map(|(start, len)| group::Zone {
            start: Pblk(start),
            len,
        });
        let journal = match self.sb.journal_ino {
            Some(ino) => self.blocks_of(&self.inode(ino)?).0,
            None => 0,
        };
        Ok(self.sb.overhead(fixed, journal.into()))
    }

    /// Reads an inode's bytes.
    pub fn raw_inode(&self, ino: Ino) -> Out<Vec<u8>> {
        let (group, index) = self.geo().inode_index(ino)?;
        let (pblk, offset) = self.group(group)?.inode_location(index, self.geo())?;
        let data = self.block(pblk)?;
        let start = offset as usize;
        Ok(data[start..start + usize::from(self.geo().inode_size())].to_vec())
    }

    /// Reads an inode.
    pub fn inode(&self, ino: Ino) -> Out<Inode> {
        Ok(Inode::parse(&self.raw_inode(ino)?, ino, self.geo())?)
    }

    /// Maps one block of a file.
    pub fn map(&self, inode: &Inode, lblk: Lblk) -> Out<Step> {
        let mut step = map::start(inode, lblk, self.geo())?;
        let mut depth = u8::MAX;
        while let Step::Descend(node) = step {
            assert!(node.depth < depth, "depth must fall");
            depth = node.depth;
            let data = self.block(node.pblk)?;
            if self.verify {
                node.verify(&data, &inode.owner, self.geo())?;
            }
            step = node.step(&data, lblk, self.geo())?;
        }
        match step {
            Step::Extent(run) => assert!(run.lblk <= lblk && lblk < run.end(), "{run:?} at {lblk}"),
            Step::Hole { until } => assert!(until > lblk, "hole until {until} at {lblk}"),
            Step::Descend(_) => unreachable!(),
        }
        Ok(step)
    }

    /// Returns all runs of a file up to `end`, neighbours joined.
    pub fn runs(&self, inode: &Inode, end: Lblk) -> Out<Vec<Extent>> {
        let mut runs: Vec<Extent> = Vec::new();
        let mut at = Lblk(0);
        let mut steps = 0;
        while at < end {
            self.step(&mut steps)?;
            match self.map(inode, at)? {
                Step::Extent(run) => {
                    let run = run.from(at).expect("the run holds the block");
                    at = run.end();
                    match runs.last_mut() {
                        Some(last)
                            if last.end() == run.lblk
                                && last.pblk().expect("no hole").0 + u64::from(last.len)
                                    == run.pblk().expect("no hole").0
                                && last.is_unwritten() == run.is_unwritten() =>
                        {
                            last.len += run.len;
                        }
                        _ => runs.push(run),
                    }
                }
                Step::Hole { until } => at = until,
                Step::Descend(_) => unreachable!(),
            }
        }
        Ok(runs)
    }

    /// Returns how many blocks an inode's size covers.
    pub fn blocks_of(&self, inode: &Inode) -> Lblk {
        self.geo()
            .file_blocks(inode.size)
            .expect("sizes are bounded")
    }

    /// Reads a range of a file; shorter at its end.
    pub fn read(&self, inode: &Inode, offset: u64, len: usize) -> Out<Vec<u8>> {
        let len = len.min(usize::try_from(inode.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut out = vec![0; len];
        match inode.data_map() {
            DataMap::Inline => {
                let raw = self.raw_inode(inode.ino)?;
                let inline = InlineData::parse(&raw, inode, self.geo())?;
                assert_eq!(inline.read_at(inode, offset, &mut out), len);
            }
            DataMap::FastSymlink => {
                let target = inode.fast_symlink().expect("the map says so");
                out.copy_from_slice(&target[offset as usize..offset as usize + len]);
            }
            DataMap::None => out.clear(),
            DataMap::Extents | DataMap::Indirect => {
                let bits = self.geo().block_bits();
                let mut done = 0;
                while done < len {
                    let at = offset + done as u64;
                    let lblk = Lblk(u32::try_from(at >> bits).expect("sizes are bounded"));
                    match self.map(inode, lblk)? {
                        Step::Extent(run) if !run.is_unwritten() => {
                            let in_block = (at & u64::from(self.geo().block_size() - 1)) as usize;
                            let pblk = run
                                .from(lblk)
                                .and_then(|run| run.pblk())
                                .expect("the run holds the block");
                            let data = self.block(pblk)?;
                            let n = (data.len() - in_block).min(len - done);
                            out[done..done + n].copy_from_slice(&data[in_block..in_block + n]);
                            done += n;
                        }
                        Step::Extent(run) => done = self.skip(offset, run.end()),
                        Step::Hole { until } => done = self.skip(offset, until),
                        Step::Descend(_) => unreachable!(),
                    }
                }
            }
        }
        Ok(out)
    }

    /// Returns how far behind `offset` a block starts, in bytes.
    fn skip(&self, offset: u64, to: Lblk) -> usize {
        ((u64::from(to.0) << self.geo().block_bits()) - offset) as usize
    }

    /// Reads a block of a directory, or returns the end of the hole that is there.
    fn dir_block(&self, dir: &Inode, lblk: Lblk) -> Out<std::result::Result<Vec<u8>, Lblk>> {
        match self.map(dir, lblk)? {
            Step::Extent(run) if !run.is_unwritten() => {
                let run = run.from(lblk).expect("the run holds the block");
                self.block(run.pblk().expect("no hole")).map(Ok)
            }
            Step::Extent(run) => Ok(Err(run.end())),
            Step::Hole { until } => Ok(Err(until)),
            Step::Descend(_) => unreachable!(),
        }
    }

    /// Reads a block of a directory that its index leads to.
    fn dx_block(&self, dir: &Inode, lblk: Lblk) -> Out<Vec<u8>> {
        let data = self.dir_block(dir, lblk)?;
        data.map_err(|_| Fail::Layout(Error::corrupt("test: hole in an index")))
    }

    fn listed(&self, entry: &DirEntry<'_>) -> Listed {
        Listed {
            name: entry.name.to_vec(),
            ino: entry.ino.0,
            file_type: entry.file_type.map(type_name),
        }
    }

    /// Lists a directory block by block, as a reader does that ignores the index.
    pub fn list(&self, dir: &Inode) -> Out<Vec<Listed>> {
        let mut out = Vec::new();
        if dir.data_map() == DataMap::Inline {
            let raw = self.raw_inode(dir.ino)?;
            let data = InlineData::parse(&raw, dir, self.geo())?;
            let inline = InlineDir::parse(&data, dir, self.geo())?;
            for (name, ino) in [(".", dir.ino), ("..", inline.parent)] {
                let name = name.into();
                let file_type = self.geo().has_incompat(Incompat::FILETYPE).then_some("dir");
                out.push(Listed {
                    name,
                    ino: ino.0,
                    file_type,
                });
            }
            for entry in inline.iter() {
                out.push(self.listed(&entry?));
            }
            return Ok(out);
        }
        let mut lblk = Lblk(0);
        let mut steps = 0;
        while lblk < self.blocks_of(dir) {
            self.step(&mut steps)?;
            let data = match self.dir_block(dir, lblk)? {
                Ok(data) => data,
                Err(end) => {
                    lblk = end;
                    continue;
                }
            };
            let block = Dirents::block(&data, self.geo())?;
            let index = dir.is_indexed() && is_index_block(&data, lblk, self.geo());
            if self.verify && !index {
                block.verify(&dir.owner, self.geo())?;
            }
            for entry in block.iter() {
                out.push(self.listed(&entry?));
            }
            lblk.0 += 1;
        }
        Ok(out)
    }

    /// Lists an indexed directory in the order of hashes, with the listing position of each name.
    pub fn list_hashed(&self, dir: &Inode) -> Out<Vec<(u64, Listed)>> {
        let mut out = Vec::new();
        let mut group: Vec<(NameHash, Listed)> = Vec::new();
        let data = self.dx_block(dir, Lblk(0))?;
        let root = DxRoot::parse(&data, self.geo())?;
        if self.verify {
            root.node.verify(&dir.owner, self.geo())?;
        }
        for entry in Dirents::block(&data, self.geo())?.iter() {
            out.push((0, self.listed(&entry?)));
        }
        let (mut cursor, mut step) = DxCursor::start(&root, 0, self.blocks_of(dir).0)?;
        loop {
            step = match step {
                DxStep::Node(lblk) => self.feed(&mut cursor, dir, lblk)?,
                DxStep::Leaf(leaf) => {
                    let data = self.dx_block(dir, leaf.lblk)?;
                    let block = Dirents::block(&data, self.geo())?;
                    if self.verify {
                        block.verify(&dir.owner, self.geo())?;
                    }
                    for entry in block.iter() {
                        let entry = entry?;
                        let hash = self.geo().hash().hash(root.version, entry.name);
                        group.push((hash, self.listed(&entry)));
                    }
                    // Names with one hash must be sorted together, whatever leaf they are in.
                    if cursor.next_hash().is_none_or(|h| h & 1 == 0) {
                        group.sort();
                        out.extend(group.drain(..).map(|(h, e)| (h.to_cookie(), e)));
                    }
                    cursor.advance(Reach::Any)
                }
                DxStep::Done => return Ok(out),
            }
        }
    }

    fn feed(&self, cursor: &mut DxCursor, dir: &Inode, lblk: Lblk) -> Out<DxStep> {
        let data = self.dx_block(dir, lblk)?;
        let node = DxNode::parse(&data, lblk, self.geo())?;
        if self.verify {
            node.verify(&dir.owner, self.geo())?;
        }
        Ok(cursor.feed(&node)?)
    }

    /// Finds a name, by the index if there is one.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Out<Ino> {
        if dir.data_map() == DataMap::Inline {
            let raw = self.raw_inode(dir.ino)?;
            let data = InlineData::parse(&raw, dir, self.geo())?;
            let inline = InlineDir::parse(&data, dir, self.geo())?;
            match name {
                b"." => return Ok(dir.ino),
                b".." => return Ok(inline.parent),
                _ => {}
            }
            let found = inline.find(name)?;
            return found.map(|e| e.ino).ok_or(Fail::NotFound);
        }
        if !dir.is_indexed() {
            let all = self.list(dir)?;
            let found = all.iter().find(|e| e.name == name);
            return found.map(|e| Ino(e.ino)).ok_or(Fail::NotFound);
        }
        let data = self.dx_block(dir, Lblk(0))?;
        let root = DxRoot::parse(&data, self.geo())?;
        match name {
            b"." => return Ok(dir.ino),
            b".." => return Ok(root.parent),
            _ => {}
        }
        let hash = self.geo().hash().hash(root.version, name);
        let (mut cursor, mut step) = DxCursor::start(&root, hash.major, self.blocks_of(dir).0)?;
        loop {
            step = match step {
                DxStep::Node(lblk) => self.feed(&mut cursor, dir, lblk)?,
                DxStep::Leaf(leaf) => {
                    let data = self.dx_block(dir, leaf.lblk)?;
                    match Dirents::block(&data, self.geo())?.find(name)? {
                        Some(entry) => return Ok(entry.ino),
                        None => cursor.advance(Reach::SameHash),
                    }
                }
                DxStep::Done => return Err(Fail::NotFound),
            }
        }
    }

    /// Follows a path from the root; components are separated by slashes.
    pub fn path(&self, path: &str) -> Out<Inode> {
        let mut inode = self.inode(Ino::ROOT)?;
        for name in path.split('/').filter(|s| !s.is_empty()) {
            inode = self.inode(self.lookup(&inode, name.as_bytes())?)?;
        }
        Ok(inode)
    }

    /// Returns all attributes of an inode by their full names, with their values.
    pub fn xattrs(&self, inode: &Inode) -> Out<Vec<(String, Vec<u8>)>> {
        let mut out = Vec::new();
        let raw = self.raw_inode(inode.ino)?;
        if let Some(set) = XattrSet::in_inode(&raw, inode, self.geo())? {
            self.xattr_values(inode, &set, &mut out)?;
        }
        if let Some(pblk) = inode.xattr_block {
            let data = self.block(pblk)?;
            XattrSet::verify_block(&data, pblk, self.geo())?;
            let set = XattrSet::in_block(&data, self.geo())?;
            for x in set.iter() {
                if let (XattrValue::Here(value), false) = (x.value, x.hash == 0) {
                    let unsigned = xattr::entry_hash(x.name, value, false);
                    let signed = xattr::entry_hash(x.name, value, true);
                    let known = [unsigned, signed].contains(&x.hash);
                    assert!(known || !self.verify, "hash of an attribute");
                }
            }
            self.xattr_values(inode, &set, &mut out)?;
        }
        Ok(out)
    }

    fn xattr_values(
        &self,
        inode: &Inode,
        set: &XattrSet<'_>,
        out: &mut Vec<(String, Vec<u8>)>,
    ) -> Out<()> {
        for x in set.iter() {
            let prefix = xattr::prefix(x.index).unwrap_or("?");
            let name = format!("{prefix}{}", String::from_utf8_lossy(x.name));
            let value = match x.value {
                XattrValue::Here(value) => value.to_vec(),
                XattrValue::Inode(value) => {
                    let other = self.inode(value.ino)?;
                    let mut hasher = value.open(&other, inode, self.geo())?;
                    let data = self.read(&other, 0, value.size as usize)?;
                    // In two pieces, as a reader of blocks would.
                    let (a, b) = data.split_at(data.len() / 2);
                    hasher.update(a, self.geo());
                    hasher.update(b, self.geo());
                    hasher.finish(x.name)?;
                    data
                }
            };
            out.push((name, value));
        }
        Ok(())
    }

    /// Verifies both bitmaps of a group and returns the numbers of free clusters and inodes in
    /// them.
    pub fn check_bitmaps(&self, group: Group) -> Out<(u32, u32)> {
        let desc = self.group(group)?;
        let blocks = self.block(desc.block_bitmap)?;
        desc.verify_block_bitmap(&blocks, self.geo())?;
        let inodes = self.block(desc.inode_bitmap)?;
        desc.verify_inode_bitmap(&inodes, self.geo())?;
        let free = |map: &[u8], n: u32| {
            let set = (0..n).filter(|&i| group::bit(map, i) == Some(false));
            set.count() as u32
        };
        let ratio = u64::from(self.geo().cluster_blocks());
        let clusters = self.geo().group_blocks(group).div_ceil(ratio) as u32;
        let inode_bits = self.geo().inodes_per_group().get();
        Ok((
            match desc.has_flag(GroupDesc::BLOCK_UNINIT, self.geo()) {
                true => desc.free_clusters,
                false => free(&blocks, clusters),
            },
            match desc.has_flag(GroupDesc::INODE_UNINIT, self.geo()) {
                true => inode_bits,
                false => free(&inodes, inode_bits),
            },
        ))
    }
}

/// Returns a short name for a file type.
pub fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "dir",
        FileType::CharDevice => "chr",
        FileType::BlockDevice => "blk",
        FileType::Fifo => "fifo",
        FileType::Socket => "sock",
        FileType::Symlink => "link",
    }
}
