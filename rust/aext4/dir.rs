// SPDX-License-Identifier: GPL-2.0

//! Directories: finding a name, and listing.
//!
//! A listing goes through the blocks of the directory in their order, also if there is an index,
//! whose blocks look like blocks without entries. A position is the offset of an entry in the
//! directory: it stays what it is for as long as nobody writes.

use crate::error::{corrupted, About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::{InodeInfo, InodeRef};
use disk::{gfp, Buf};
use kernel::prelude::*;
use layout::dir::{is_index_block, NAME_MAX};
use layout::{
    Compat, DataMap, DirEntry, Dirents, DxCursor, DxNode, DxRoot, DxStep, FileType, Geometry,
    HashVersion, InlineData, InlineDir, Ino, InodeFlags, Lblk, NameHash, NokeyName, Pblk, Reach,
};

/// How many blocks of a directory are read ahead when it is listed or searched through.
const DIR_READAHEAD_MAX: u32 = 16;

/// After how many blocks a loop over a directory looks up.
const YIELD_EVERY: u32 = 16;

/// Where a listing goes, as C's `struct dir_context`.
pub trait DirContext: Send {
    /// Takes an entry. A listing that goes on behind it begins at `next`. An error ends the
    /// listing.
    fn emit(&mut self, entry: &DirEntry<'_>, next: u64) -> Result;

    /// Says that the listing goes on at `pos`, although there may have been no entries.
    fn go_on_at(&mut self, pos: u64);

    /// Says that there are no more entries; a listing that goes on at `pos` finds none with the
    /// least work.
    fn end_at(&mut self, pos: u64);
}

/// An entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The block of the volume that has it; `None` if it lies in the inode, or is "." or ".." of a
    /// directory that does.
    pub(crate) block: Option<u64>,
    /// Where it is in the block, or as [`DirEntry::offset`] counts in an inode.
    pub(crate) offset: u32,
    /// The inode that it leads to.
    pub(crate) ino: Ino,
}

impl Found {
    fn new(block: Option<u64>, entry: &DirEntry<'_>) -> Self {
        Self {
            block,
            offset: entry.offset,
            ino: entry.ino,
        }
    }
}

/// What a directory block holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    Entries,
    Index,
    /// Entries, or a part of the index that looks like a block without entries.
    Either,
}

/// A name that is looked for.
enum Wanted<'a> {
    Plain(&'a [u8]),
    /// What stands for a name in a directory that is encrypted. On the heap: it is seldom, and
    /// large.
    Nokey(KBox<NokeyName>),
}

impl<'a> Wanted<'a> {
    /// `None` if no name in `dir` can be so called.
    fn new(dir: &InodeInfo, name: &'a [u8]) -> Result<Option<Self>> {
        if !dir.flags().has(InodeFlags::ENCRYPT) || name == b"." || name == b".." {
            return Ok(Some(Self::Plain(name)));
        }
        let Some(name) = NokeyName::parse(name) else {
            return Ok(None);
        };
        Ok(Some(Self::Nokey(KBox::new(name, gfp())?)))
    }

    fn hash(&self, version: HashVersion, geo: &Geometry) -> u32 {
        match self {
            Self::Plain(name) => geo.hash().hash(version, name).major,
            Self::Nokey(name) => name.hash().major,
        }
    }

    fn find<'b>(&self, entries: &Dirents<'b>) -> layout::Result<Option<DirEntry<'b>>> {
        match self {
            Self::Plain(name) => entries.find(name),
            Self::Nokey(name) => entries.find_nokey(name),
        }
    }

    fn find_inline<'b>(&self, entries: &InlineDir<'b>) -> layout::Result<Option<DirEntry<'b>>> {
        match self {
            Self::Plain(name) => entries.find(name),
            Self::Nokey(name) => entries.find_nokey(name),
        }
    }
}

/// How the names of a directory are listed.
#[derive(Clone, Copy)]
enum Names {
    Plain,
    /// Encrypted, and with this hash if the directory is sorted.
    Nokey(Option<HashVersion>),
}

impl Names {
    /// Adds an entry to `ctx`, behind which a listing goes on at `next`.
    fn push(
        self,
        entry: &DirEntry<'_>,
        next: u64,
        geo: &Geometry,
        ctx: &mut impl DirContext,
    ) -> Result<layout::Result<()>> {
        let version = match self {
            Self::Nokey(version) if entry.name != b"." && entry.name != b".." => version,
            _ => {
                ctx.emit(entry, next)?;
                return Ok(Ok(()));
            }
        };
        let hash = match version {
            Some(version) => geo.hash().hash(version, entry.name),
            None => NameHash { major: 0, minor: 0 },
        };
        match NokeyName::new(entry.name, hash) {
            Ok(name) => {
                let name = name.show();
                let shown = DirEntry {
                    name: name.bytes(),
                    ..*entry
                };
                ctx.emit(&shown, next)?;
            }
            Err(error) => return Ok(Err(error)),
        }
        Ok(Ok(()))
    }
}

impl Ext4 {
    /// Finds `name` in directory `dir`, and reads the inode that it leads to.
    ///
    /// Fails with `ENOTDIR`, with `ENAMETOOLONG`, and with `EUCLEAN` if the name leads to an inode
    /// that is not in use or can have none.
    pub async fn lookup(&self, dir: &InodeInfo, name: &[u8]) -> Result<Option<InodeRef>> {
        if name.len() > NAME_MAX {
            return Err(ENAMETOOLONG);
        }
        let _lock = dir.rwsem.read().await.map_err(|_| EIO)?;
        let Some(Found { ino, .. }) = self.find(dir, name).await? else {
            return Ok(None);
        };
        match self.iget_user(ino).await {
            Err(error) if error == ESTALE => {
                self.report(&format_args!(
                    "inode {}, directory: an entry leads to inode {ino}, not in use",
                    dir.ino
                ));
                Err(corrupted())
            }
            found => found.map(Some),
        }
    }

    /// Finds the entry that `name` has in directory `dir`, whose lock the caller has.
    pub(crate) async fn find(&self, dir: &InodeInfo, name: &[u8]) -> Result<Option<Found>> {
        if !dir.is_dir() {
            return Err(ENOTDIR);
        }
        let Some(wanted) = Wanted::new(dir, name)? else {
            return Ok(None);
        };
        let found = match dir.data_map() {
            DataMap::Inline => self.find_inline(dir, name, &wanted).await?,
            _ if dir.is_indexed() && name != b"." && name != b".." => {
                self.find_indexed(dir, &wanted).await?
            }
            _ => self.find_linear(dir, &wanted).await?,
        };
        let Some(found) = found else {
            return Ok(None);
        };
        let ino = found.ino;
        let itself = ino == dir.ino && name != b"." && ino != Ino::ROOT;
        if itself || !self.sb.geo.is_user_ino(ino) {
            self.report(&format_args!(
                "inode {}, directory: an entry leads to inode {ino}",
                dir.ino
            ));
            return Err(corrupted());
        }
        Ok(Some(found))
    }

    async fn find_inline(
        &self,
        dir: &InodeInfo,
        name: &[u8],
        wanted: &Wanted<'_>,
    ) -> Result<Option<Found>> {
        let dots = |ino| Found {
            block: None,
            offset: 0,
            ino,
        };
        if name == b"." {
            return Ok(Some(dots(dir.ino)));
        }
        let buffer = self.inode_buffer(dir).await?;
        let inline = self.inline_dir(dir, &buffer)?;
        if name == b".." {
            return Ok(Some(dots(inline.parent)));
        }
        let about = About::inode(dir.ino);
        Ok(wanted
            .find_inline(&inline)
            .or_report(self, about)?
            .map(|entry| Found::new(None, &entry)))
    }

    /// The buffer with the raw inode of `info`, which begins at the offset in its place.
    pub async fn inode_buffer(&self, info: &InodeInfo) -> Result<Buf> {
        self.block(Pblk(info.place.0)).await
    }

    pub(crate) fn inline_dir<'a>(&self, dir: &InodeInfo, buffer: &'a Buf) -> Result<InlineDir<'a>> {
        let raw = buffer.data().get(dir.place.1 as usize..).ok_or(EIO)?;
        InlineData::parse(raw, &dir.inode(), &self.sb.geo)
            .and_then(|data| InlineDir::parse(&data, &dir.inode(), &self.sb.geo))
            .or_report(self, About::inode(dir.ino))
    }

    async fn find_linear(&self, dir: &InodeInfo, name: &Wanted<'_>) -> Result<Option<Found>> {
        let holds = if dir.is_indexed() {
            Holds::Either
        } else {
            Holds::Entries
        };
        for lblk in 0..self.dir_blocks(dir)? {
            self.checkpoint(lblk).await?;
            let (buffer, about) = self
                .dir_block(dir, Lblk(lblk), holds, DIR_READAHEAD_MAX)
                .await?;
            let entry = Dirents::block(buffer.data(), &self.sb.geo)
                .and_then(|entries| name.find(&entries))
                .or_report(self, about)?;
            if let Some(entry) = entry {
                return Ok(Some(Found::new(about.block, &entry)));
            }
        }
        Ok(None)
    }

    async fn find_indexed(&self, dir: &InodeInfo, name: &Wanted<'_>) -> Result<Option<Found>> {
        let geo = &self.sb.geo;
        let blocks = self.dir_blocks(dir)?;
        let (buffer, about) = self.dir_block(dir, Lblk(0), Holds::Index, 0).await?;
        let (mut cursor, mut step) = DxRoot::parse(buffer.data(), geo)
            .and_then(|root| DxCursor::start(&root, name.hash(root.version, geo), blocks))
            .or_report(self, about)?;
        drop(buffer);
        for visited in 0u32.. {
            self.checkpoint(visited).await?;
            step = match step {
                DxStep::Node(lblk) => {
                    let (buffer, about) = self.dir_block(dir, lblk, Holds::Index, 0).await?;
                    DxNode::parse(buffer.data(), lblk, geo)
                        .and_then(|node| cursor.feed(&node))
                        .or_report(self, about)?
                }
                DxStep::Leaf(leaf) => {
                    let (buffer, about) = self.dir_block(dir, leaf.lblk, Holds::Entries, 0).await?;
                    let entry = Dirents::block(buffer.data(), geo)
                        .and_then(|entries| name.find(&entries))
                        .or_report(self, about)?;
                    if let Some(entry) = entry {
                        return Ok(Some(Found::new(about.block, &entry)));
                    }
                    cursor.advance(Reach::SameHash)
                }
                DxStep::Done => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Lets others run from time to time in a loop over the blocks of a directory: a damaged one
    /// may have billions, all in memory. Fails with `EINTR` if the thread was killed.
    pub(crate) async fn checkpoint(&self, count: u32) -> Result {
        if count % YIELD_EVERY == YIELD_EVERY - 1 {
            self.disk.checkpoint().await?;
        }
        Ok(())
    }

    /// The size of a directory in blocks.
    pub(crate) fn dir_blocks(&self, dir: &InodeInfo) -> Result<u32> {
        match self.sb.geo.file_blocks(dir.size()) {
            // A directory has no holes.
            Some(Lblk(blocks)) if u64::from(blocks) <= self.sb.geo.blocks_count() => Ok(blocks),
            _ => {
                let size = dir.size();
                self.report(&format_args!("inode {}, directory: {size} bytes", dir.ino));
                Err(corrupted())
            }
        }
    }

    /// Reads block `lblk` of a directory and verifies it, once. Starts to read up to `ahead` blocks
    /// that follow it on the disk.
    pub(crate) async fn dir_block(
        &self,
        dir: &InodeInfo,
        lblk: Lblk,
        holds: Holds,
        ahead: u32,
    ) -> Result<(Buf, About)> {
        let geo = &self.sb.geo;
        let ino = dir.ino;
        let extent = self.map(dir, lblk).await?;
        let Some(pblk) = extent.written_at(lblk) else {
            self.report(&format_args!(
                "inode {ino}, directory: block {lblk} is a hole"
            ));
            return Err(corrupted());
        };
        let about = About::block(ino, pblk.0);
        let count = if ahead > 0 {
            let left = extent.end().0.min(self.dir_blocks(dir)?);
            left.saturating_sub(lblk.0).min(ahead)
        } else {
            0
        };
        let others = pblk.0..pblk.0 + u64::from(count);
        let buffer = self.block_ahead(pblk, others).await?;
        if !buffer.is_verified() {
            let data = buffer.data();
            let entries = || Dirents::block(data, geo)?.verify(&dir.owner, geo);
            let index = || DxNode::parse(data, lblk, geo)?.verify(&dir.owner, geo);
            match holds {
                Holds::Index => index(),
                Holds::Either if is_index_block(data, lblk, geo) => index().or_else(|_| entries()),
                _ => entries(),
            }
            .or_report(self, about)?;
            buffer.set_verified();
        }
        Ok((buffer, about))
    }

    /// Adds entries of directory `dir` from position `pos` on to `ctx`: those of one block.
    pub async fn list(&self, dir: &InodeInfo, pos: u64, ctx: &mut impl DirContext) -> Result {
        if !dir.is_dir() {
            return Err(ENOTDIR);
        }
        let _lock = dir.rwsem.read().await.map_err(|_| EIO)?;
        if dir.data_map() == DataMap::Inline {
            return self.list_inline(dir, pos, ctx).await;
        }
        let bits = self.sb.geo.block_bits();
        let blocks = self.dir_blocks(dir)?;
        let Some(lblk) = u32::try_from(pos >> bits)
            .ok()
            .filter(|&lblk| lblk < blocks)
        else {
            return Ok(());
        };
        let base = u64::from(lblk) << bits;
        let holds = if dir.is_indexed() {
            Holds::Either
        } else {
            Holds::Entries
        };
        let names = self.names(dir, blocks).await?;
        let (buffer, about) = self
            .dir_block(dir, Lblk(lblk), holds, DIR_READAHEAD_MAX)
            .await?;
        let entries = Dirents::block(buffer.data(), &self.sb.geo).or_report(self, about)?;
        let entries = entries.encrypted(dir.flags().has(InodeFlags::ENCRYPT));
        for entry in entries.iter_from((pos - base) as u32) {
            let entry = entry.or_report(self, about)?;
            let next = base + u64::from(entry.next);
            let pushed = names.push(&entry, next, &self.sb.geo, ctx)?;
            pushed.or_report(self, about)?;
        }
        let behind = base + (1 << bits);
        if lblk + 1 < blocks {
            ctx.go_on_at(behind);
        } else {
            ctx.end_at(behind);
        }
        Ok(())
    }

    /// Entries of an inline directory are at their offsets in it, from 4 up; what it does not have
    /// an entry for, "." and "..", is at 0 and 1.
    async fn list_inline(&self, dir: &InodeInfo, pos: u64, ctx: &mut impl DirContext) -> Result {
        let buffer = self.inode_buffer(dir).await?;
        let inline = self.inline_dir(dir, &buffer)?;
        for (at, name, ino) in [(0, &b"."[..], dir.ino), (1, b"..", inline.parent)] {
            if pos <= at {
                let entry = DirEntry {
                    ino,
                    file_type: Some(FileType::Directory),
                    name,
                    offset: 0,
                    next: 0,
                };
                ctx.emit(&entry, at + 1)?;
            }
        }
        let from = u32::try_from(pos).unwrap_or(u32::MAX);
        let names = self.names(dir, 1).await?;
        let about = About::inode(dir.ino);
        for entry in inline.iter_from(from) {
            let entry = entry.or_report(self, about)?;
            let pushed = names.push(&entry, entry.next.into(), &self.sb.geo, ctx)?;
            pushed.or_report(self, about)?;
        }
        Ok(())
    }

    /// How the names of a directory of that many blocks are listed.
    ///
    /// Encrypted ones carry the hash that the kernel's ext4 gives them, which sorts what it lists
    /// by an index or from one block.
    async fn names(&self, dir: &InodeInfo, blocks: u32) -> Result<Names> {
        if !dir.flags().has(InodeFlags::ENCRYPT) {
            return Ok(Names::Plain);
        }
        let geo = &self.sb.geo;
        if dir.is_indexed() {
            let root = || self.dir_block(dir, Lblk(0), Holds::Index, 0);
            let (buffer, about) = disk::pinned(root)?.await?;
            let root = DxRoot::parse(buffer.data(), geo).or_report(self, about)?;
            return Ok(Names::Nokey(Some(root.version)));
        }
        if blocks > 1 || !geo.has_compat(Compat::DIR_INDEX) {
            return Ok(Names::Nokey(None));
        }
        let version = geo.hash().default_version();
        let version = version.or_report(self, About::inode(dir.ino))?;
        Ok(Names::Nokey(Some(version)))
    }
}
