// SPDX-License-Identifier: GPL-2.0

//! From a file's bytes to the device's: extent trees and block pointers.
//!
//! A block is searched where its entry lies: in the inode, then in the block of each node of the
//! tree. Nothing is unpacked. The inode remembers the extents that were found last, and the tree's
//! leaves ([`ExtentCache`]).
//!
//! The same search runs in two ways: [`Ext4::map`] waits for blocks that are not in memory, and
//! [`Ext4::map_cached`], which the other begins with, gives up at the first.
//!
//! # Concurrency
//!
//! Who searches takes no lock for it, and waits for nobody who plans a change. A change of the map
//! is made in one go, without an await, between two steps of the cache's generation, which is odd
//! meanwhile ([`Change`]). What was found counts only if the generation is even, and the same
//! before and after: so nothing old is remembered, or returned. Who finds it odd waits at the
//! `map_lock`, which whoever changes a map has.

use crate::error::{corrupted, errno, About};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use disk::Buf;
use kernel::alloc::{flags, Flags};
use kernel::prelude::*;
use layout::map::{self, Extent, ExtentState, Step, TreeBlock};
use layout::{DataMap, InodeFlags, Lblk};

/// How many extents an inode remembers, beside the first.
const EXTENTS_MAX: usize = 16;

/// How many leaves of its tree an inode refers to.
const LEAVES_MAX: usize = 256;

/// For allocations under a spinlock.
const NOWAIT: Flags = flags::GFP_NOWAIT;

/// Where a part of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first byte in the file.
    pub offset: u64,
    /// How many bytes; at least 1.
    pub len: u64,
    /// What is there.
    pub kind: MappingKind,
}

/// What is at a [`Mapping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingKind {
    /// Nothing: reads as zeros.
    Hole,
    /// Bytes from this position of the device on.
    Data(u64),
    /// Space from this position of the device on that was never written: reads as zeros.
    Unwritten(u64),
    /// What lies in the inode, at this position of the device, from the start of the file.
    Inline(u64),
}

impl Mapping {
    /// The first byte behind it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

impl MappingKind {
    /// What is `bytes` bytes behind.
    pub fn skip(self, bytes: u64) -> Self {
        match self {
            Self::Hole => Self::Hole,
            Self::Data(pos) => Self::Data(pos + bytes),
            Self::Unwritten(pos) => Self::Unwritten(pos + bytes),
            Self::Inline(pos) => Self::Inline(pos + bytes),
        }
    }
}

/// What is remembered of a file's map: the extents that were found last, holes among them, and the
/// leaves of its tree.
///
/// A file of one extent, as most are, needs no memory beside the inode's. With the leaves a random
/// read in a large file is a binary search here, and no look-up in the cache of blocks for each
/// level of the tree.
pub struct ExtentCache {
    /// Odd while the map changes; one more with each beginning and each end of a change.
    generation: u32,
    first: Option<Extent>,
    /// The last that was found in one of `leaves`.
    last: Option<Extent>,
    /// All but these, as many as there were, up to a bound.
    more: KVec<Extent>,
    /// Which of `more` is overwritten next, when they are as many as they may be.
    next: usize,
    /// Sorted by where they begin.
    leaves: KVec<Leaf>,
}

/// A leaf of a file's tree.
struct Leaf {
    at: TreeBlock,
    buf: Buf,
}

/// What an [`ExtentCache`] has of a block.
enum Known<'a> {
    Extent(Extent),
    /// The leaf that says where it is.
    Leaf(&'a Leaf),
    Nothing,
}

impl ExtentCache {
    pub(crate) fn new() -> Self {
        Self {
            generation: 0,
            first: None,
            last: None,
            more: KVec::new(),
            next: 0,
            leaves: KVec::new(),
        }
    }

    /// What a search that begins now has to find again at its end; `None` while the map changes.
    pub(crate) fn generation(&self) -> Option<u32> {
        (self.generation % 2 == 0).then_some(self.generation)
    }

    /// Whether what was found since this generation still counts.
    pub(crate) fn is_valid(&self, generation: u32) -> bool {
        self.generation == generation
    }

    /// What is remembered of the extent that has a block.
    fn find(&self, lblk: Lblk) -> Known<'_> {
        let covers = |extent: &&Extent| extent.covers(lblk);
        let first = self.first.iter().find(covers);
        let first = first.or_else(|| self.last.iter().find(covers));
        if let Some(extent) = first {
            return Known::Extent(*extent);
        }
        // In a file of many extents it is hardly one of `more`.
        if let Some(leaf) = self.leaf(lblk) {
            return Known::Leaf(leaf);
        }
        let more = self.more.iter().find(covers);
        more.map_or(Known::Nothing, |extent| Known::Extent(*extent))
    }

    /// Remembers an extent, if there is memory. Does not sleep.
    fn remember(&mut self, extent: Extent) {
        if self.first.is_none() {
            self.first = Some(extent);
            return;
        }
        // Under a spinlock nothing may wait; without memory another one is forgotten.
        if self.more.len() < EXTENTS_MAX && self.more.push(extent, NOWAIT).is_ok() {
            return;
        }
        if self.next >= self.more.len() {
            self.next = 0;
        }
        if let Some(slot) = self.more.get_mut(self.next) {
            *slot = extent;
        }
        self.next += 1;
    }

    /// The leaf in whose range a block is, if it is remembered.
    fn leaf(&self, lblk: Lblk) -> Option<&Leaf> {
        let before = self.leaves.partition_point(|leaf| leaf.at.first <= lblk);
        let leaf = self.leaves.get(before.checked_sub(1)?)?;
        (lblk < leaf.at.end).then_some(leaf)
    }

    /// Remembers a leaf, if there is memory, and fewer than the bound. Does not sleep.
    fn remember_leaf(&mut self, at: &TreeBlock, buf: &Buf) {
        let place = self.leaves.partition_point(|leaf| leaf.at.first < at.first);
        let known = self.leaves.get(place);
        if self.leaves.len() >= LEAVES_MAX || known.is_some_and(|leaf| leaf.at.first == at.first) {
            return;
        }
        let leaf = Leaf {
            at: *at,
            buf: buf.clone(),
        };
        if self.leaves.push(leaf, NOWAIT).is_ok() {
            if let Some(behind) = self.leaves.get_mut(place..) {
                behind.rotate_right(1);
            }
        }
    }
}

/// Why a search failed.
enum Failed {
    Io(Error),
    Damaged(About, layout::Error),
    /// The map leads to metadata.
    Metadata(About),
}

/// A change of a map, which is being made: from before its first edit until the inode in memory has
/// the new root. There is no await meanwhile.
pub(crate) struct Change<'a> {
    info: &'a InodeInfo,
    /// What was remembered, to be freed without a lock.
    forgotten: Option<ExtentCache>,
}

impl<'a> Change<'a> {
    /// Begins a change of the map of `info`, whose `map_lock` the caller has to write.
    pub(crate) fn begin(info: &'a InodeInfo) -> Self {
        let mut extents = info.extents.lock();
        let mut fresh = ExtentCache::new();
        fresh.generation = extents.generation.wrapping_add(1);
        let forgotten = core::mem::replace(&mut *extents, fresh);
        drop(extents);
        Self {
            info,
            forgotten: Some(forgotten),
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut extents = self.info.extents.lock();
        extents.generation = extents.generation.wrapping_add(1);
        self.info.bump_map_seq();
        drop(extents);
        drop(self.forgotten.take());
    }
}

impl Ext4 {
    /// Finds the extent of `info`'s map that covers `lblk`. Waits for the disk if it must.
    ///
    /// It is what the disk's map says: see [`pending`](crate::pending) for what was written and is
    /// not there yet.
    pub async fn map(&self, info: &InodeInfo, lblk: Lblk) -> Result<Extent> {
        match self.map_cached(info, lblk) {
            Some(extent) => Ok(extent),
            None => self.map_waiting(info, lblk).await,
        }
    }

    /// As [`map`](Self::map), for what is not in memory.
    async fn map_waiting(&self, info: &InodeInfo, lblk: Lblk) -> Result<Extent> {
        loop {
            // Seldom, and then the device is waited for: it is not to make the future of every
            // reader larger.
            match disk::pinned(|| self.read_map(info, lblk)) {
                Ok(read) => return read.await,
                Err(_) if upcall::on_worker() => upcall::memory_freed().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`map`](Self::map), for what is not in memory, or damaged.
    async fn read_map(&self, info: &InodeInfo, lblk: Lblk) -> Result<Extent> {
        loop {
            let generation = info.extents.lock().generation();
            let Some(generation) = generation else {
                // It changes at this moment.
                drop(info.map_lock.read().await);
                upcall::yield_now().await;
                continue;
            };
            let found = self.search(info, lblk, generation).await;
            // What was found while the map changed is neither an answer nor damage.
            if !info.extents.lock().is_valid(generation) {
                continue;
            }
            return found.map_err(|failed| match failed {
                Failed::Io(error) => error,
                Failed::Damaged(about, error) => {
                    self.report(&format_args!("{about}{error}"));
                    errno(error.kind)
                }
                Failed::Metadata(about) => {
                    self.report(&format_args!("{about}a map that leads to metadata"));
                    corrupted()
                }
            });
        }
    }

    /// Searches the map, and remembers what it finds.
    async fn search(
        &self,
        info: &InodeInfo,
        lblk: Lblk,
        generation: u32,
    ) -> core::result::Result<Extent, Failed> {
        let mut about = About::inode(info.ino);
        let mut step = info
            .look(|inode| map::start(inode, lblk, &self.sb.geo))
            .map_err(|error| Failed::Damaged(about, error))?;
        loop {
            match step {
                Step::Descend(at) => {
                    about = About::block(info.ino, at.pblk.0);
                    let buffer = self.block(at.pblk).await.map_err(Failed::Io)?;
                    step = self
                        .descend(info, &at, &buffer, lblk, generation)
                        .map_err(|error| Failed::Damaged(about, error))?;
                }
                found => {
                    let extent = self.found(info, lblk, found, generation);
                    return extent.ok_or(Failed::Metadata(about));
                }
            }
        }
    }

    /// As [`map`](Self::map), with what is in memory alone. Does not wait, and leaves
    /// damage to be reported by the other.
    pub fn map_cached(&self, info: &InodeInfo, lblk: Lblk) -> Option<Extent> {
        let geo = &self.sb.geo;
        let generation = {
            let mut extents = info.extents.lock();
            match extents.find(lblk) {
                Known::Extent(extent) => return Some(extent),
                Known::Leaf(leaf) => {
                    // Short enough for a spinlock, and then nothing has to be looked at again.
                    extents.generation()?;
                    let step = leaf.at.step(leaf.buf.data(), lblk, geo).ok()?;
                    let extent = self.extent_of(lblk, step)?;
                    extents.last = Some(extent);
                    return Some(extent);
                }
                Known::Nothing => extents.generation()?,
            }
        };
        let mut step = info.look(|inode| map::start(inode, lblk, geo)).ok()?;
        loop {
            match step {
                Step::Descend(at) => {
                    let buffer = self.cache.get(at.pblk.0)?;
                    step = self.descend(info, &at, &buffer, lblk, generation).ok()?;
                }
                found => return self.found(info, lblk, found, generation),
            }
        }
    }

    fn descend(
        &self,
        info: &InodeInfo,
        at: &map::TreeBlock,
        buffer: &Buf,
        lblk: Lblk,
        generation: u32,
    ) -> layout::Result<Step> {
        if !buffer.is_verified() {
            at.verify(buffer.data(), &info.owner, &self.sb.geo)?;
            buffer.set_verified();
        }
        if at.depth == 0 && self.cache.has_room() {
            let mut extents = info.extents.lock();
            if extents.is_valid(generation) {
                extents.remember_leaf(at, buffer);
            }
        }
        at.step(buffer.data(), lblk, &self.sb.geo)
    }

    /// What a step found, to be remembered; `None` if that cannot be right, or the map has changed
    /// since `generation`.
    fn found(&self, info: &InodeInfo, lblk: Lblk, step: Step, generation: u32) -> Option<Extent> {
        let extent = self.extent_of(lblk, step)?;
        let mut extents = info.extents.lock();
        if !extents.is_valid(generation) {
            return None;
        }
        extents.remember(extent);
        Some(extent)
    }

    /// The extent that a step has led to; `None` if that cannot be right.
    fn extent_of(&self, lblk: Lblk, step: Step) -> Option<Extent> {
        let extent = match step {
            Step::Extent(extent) => extent,
            Step::Hole { until } => Extent::hole(lblk, until),
            Step::Descend(_) => return None,
        };
        let on_system_block = extent
            .pblk()
            .is_some_and(|pblk| self.is_system_block(pblk, extent.len));
        // It covers the block unless somebody wrote to the device while we searched.
        (!on_system_block && extent.covers(lblk)).then_some(extent)
    }

    /// The block of a file that contains byte `pos`; blocks past the last that a file can have are
    /// part of a hole.
    fn block_of(&self, pos: u64) -> Option<Lblk> {
        let lblk = u32::try_from(pos >> self.sb.geo.block_bits()).ok()?;
        (lblk < Lblk::END.0).then_some(Lblk(lblk))
    }

    fn mapping(&self, extent: &Extent) -> Mapping {
        let bits = self.sb.geo.block_bits();
        Mapping {
            offset: u64::from(extent.lblk.0) << bits,
            len: u64::from(extent.len) << bits,
            kind: match extent.state {
                ExtentState::Hole => MappingKind::Hole,
                ExtentState::Written(pblk) => MappingKind::Data(pblk.0 << bits),
                ExtentState::Unwritten(pblk) => MappingKind::Unwritten(pblk.0 << bits),
            },
        }
    }

    /// The mapping that needs no look at a tree: of inline data, and past the last block.
    fn simple_mapping(&self, info: &InodeInfo, pos: u64) -> Option<Mapping> {
        let hole = |offset| Mapping {
            offset,
            len: u64::MAX / 4,
            kind: MappingKind::Hole,
        };
        let inline = info.flags().has(InodeFlags::INLINE_DATA);
        if inline && info.data_map() == DataMap::Inline {
            // What a directory holds is not kept in the `InodeInfo`, and never read through a
            // mapping.
            let len = if info.is_dir() {
                info.size()
            } else {
                info.inline.len() as u64
            };
            // mke2fs makes inline files of those that are one hole, however large.
            if info.size() > Self::INLINE_MAX || pos >= len {
                return Some(hole(pos));
            }
            let (block, offset) = info.place;
            let place = block << self.sb.geo.block_bits();
            return Some(Mapping {
                offset: 0,
                len,
                kind: MappingKind::Inline(place + u64::from(offset) + Self::I_BLOCK),
            });
        }
        self.block_of(pos).is_none().then(|| hole(pos))
    }

    /// Where the bytes of `info` from `pos` on are.
    pub async fn map_bytes(&self, info: &InodeInfo, pos: u64) -> Result<Mapping> {
        if let Some(mapping) = self.map_bytes_cached(info, pos) {
            return Ok(mapping);
        }
        let lblk = self.block_of(pos).ok_or(EFBIG)?;
        Ok(self.mapping(&self.map_waiting(info, lblk).await?))
    }

    /// As [`map_bytes`](Self::map_bytes), with what is in memory alone. Does not wait.
    pub fn map_bytes_cached(&self, info: &InodeInfo, pos: u64) -> Option<Mapping> {
        if let Some(mapping) = self.simple_mapping(info, pos) {
            return Some(mapping);
        }
        let extent = self.map_cached(info, self.block_of(pos)?)?;
        Some(self.mapping(&extent))
    }

    /// The largest file whose data can lie in its inode.
    pub const INLINE_MAX: u64 = 4096;
    /// Where `i_block` is in an inode, in bytes.
    const I_BLOCK: u64 = 0x28;
}
