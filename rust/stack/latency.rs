// SPDX-License-Identifier: GPL-2.0

//! [`Latency`]: a layer that measures how long operations take.

use crate::asynchronous::{AsyncStackable, Ino, Layer};
use crate::blocking::Stackable;
use crate::change::{Change, OpenInode, Sync as Durable};
use crate::forward;
use core::ops::Range;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use upcall::{Block, Blocks, Instant};
use vfs::{AclEntry, Attr, DirBatch, NewInode, StatFs};

/// How many classes of latency are told apart.
pub const CLASSES: usize = 24;

/// How often operations of one kind took how long.
pub struct Histogram([Atomic<u64>; CLASSES]);

impl Histogram {
    const fn new() -> Self {
        Self([const { Atomic::new(0) }; CLASSES])
    }

    fn add(&self, since: Instant) {
        let us = Instant::now().since(since).as_nanos() as u64 >> 10;
        let class = (u64::BITS - us.leading_zeros()) as usize;
        if let Some(count) = self.0.get(class.min(CLASSES - 1)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// How often it took less than `1024 << class` nanoseconds, and not less than half of that; the first class
    /// has all that is less, the last all that is more.
    pub fn count(&self, class: usize) -> u64 {
        self.0.get(class).map_or(0, |count| count.load(Relaxed))
    }

    /// How many operations there were.
    pub fn total(&self) -> u64 {
        (0..CLASSES).map(|class| self.count(class)).sum()
    }
}

/// Measures how long the operations of the layer below take, from the first poll on.
///
/// An operation that is dropped before it is done is not counted. It is of the kind that the layer below is
/// of, asynchronous or synchronous.
pub struct Latency<L> {
    below: L,
    lookups: Histogram,
    stats: Histogram,
    reads: Histogram,
    lists: Histogram,
    changes: Histogram,
    writes: Histogram,
    syncs: Histogram,
}

impl<L> Latency<L> {
    /// Makes the layer on `below`.
    pub const fn new(below: L) -> Self {
        Self {
            below,
            lookups: Histogram::new(),
            stats: Histogram::new(),
            reads: Histogram::new(),
            lists: Histogram::new(),
            changes: Histogram::new(),
            writes: Histogram::new(),
            syncs: Histogram::new(),
        }
    }

    /// The layer below.
    pub fn below(&self) -> &L {
        &self.below
    }

    /// Of `lookup`.
    pub fn lookups(&self) -> &Histogram {
        &self.lookups
    }

    /// Of `stat`.
    pub fn stats(&self) -> &Histogram {
        &self.stats
    }

    /// Of `read` and `read_at`.
    pub fn reads(&self) -> &Histogram {
        &self.reads
    }

    /// Of `read_dir`.
    pub fn lists(&self) -> &Histogram {
        &self.lists
    }

    /// Of all changes but those of contents.
    pub fn changes(&self) -> &Histogram {
        &self.changes
    }

    /// Of writes.
    pub fn writes(&self) -> &Histogram {
        &self.writes
    }

    /// Of `fsync` and its like.
    pub fn syncs(&self) -> &Histogram {
        &self.syncs
    }
}

impl<L: Layer> Layer for Latency<L> {
    type Kind = L::Kind;
}

impl<L: AsyncStackable> AsyncStackable for Latency<L> {
    forward!(self, self.below; root, readlink, getxattr, listxattr, acl, statfs, open, tmpfile);

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let start = Instant::now();
        let result = self.below.lookup(dir, name).await;
        self.lookups.add(start);
        result
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        let start = Instant::now();
        let result = self.below.stat(ino).await;
        self.stats.add(start);
        result
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let start = Instant::now();
        let result = self.below.read(ino, offset, block).await;
        self.reads.add(start);
        result
    }

    async fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        let start = Instant::now();
        let result = self.below.read_at(ino, range, blocks).await;
        self.reads.add(start);
        result
    }

    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        let start = Instant::now();
        let result = self.below.read_dir(dir, pos, batch).await;
        self.lists.add(start);
        result
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        let start = Instant::now();
        let result = self.below.change(change).await;
        self.changes.add(start);
        result
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let start = Instant::now();
        let result = self.below.write_bytes(ino, pos, bytes).await;
        self.writes.add(start);
        result
    }

    async fn write(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let start = Instant::now();
        let result = self.below.write(ino, offset, block).await;
        self.writes.add(start);
        result
    }

    async fn write_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        let start = Instant::now();
        let result = self.below.write_at(ino, range, blocks).await;
        self.writes.add(start);
        result
    }

    async fn make_durable(&self, what: Durable) -> Result {
        let start = Instant::now();
        let result = self.below.make_durable(what).await;
        self.syncs.add(start);
        result
    }
}

impl<L: Stackable> Stackable for Latency<L> {
    fn root(&self) -> Ino {
        self.below.root()
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let start = Instant::now();
        let result = self.below.lookup(dir, name);
        self.lookups.add(start);
        result
    }

    fn stat(&self, ino: Ino) -> Result<Attr> {
        let start = Instant::now();
        let result = self.below.stat(ino);
        self.stats.add(start);
        result
    }

    fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let start = Instant::now();
        let result = self.below.read(ino, offset, block);
        self.reads.add(start);
        result
    }

    fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        let start = Instant::now();
        let result = self.below.read_at(ino, range, blocks);
        self.reads.add(start);
        result
    }

    fn readlink(&self, ino: Ino) -> Result<KVec<u8>> {
        self.below.readlink(ino)
    }

    fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        let start = Instant::now();
        let result = self.below.read_dir(dir, pos, batch);
        self.lists.add(start);
        result
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        self.below.getxattr(ino, name)
    }

    fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        self.below.listxattr(ino)
    }

    fn acl(&self, ino: Ino, default: bool) -> Result<Option<KVec<AclEntry>>> {
        self.below.acl(ino, default)
    }

    fn statfs(&self) -> Result<StatFs> {
        self.below.statfs()
    }

    fn change(&self, change: Change<'_>) -> Result<Ino> {
        let start = Instant::now();
        let result = self.below.change(change);
        self.changes.add(start);
        result
    }

    fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let start = Instant::now();
        let result = self.below.write_bytes(ino, pos, bytes);
        self.writes.add(start);
        result
    }

    fn make_durable(&self, what: Durable) -> Result {
        let start = Instant::now();
        let result = self.below.make_durable(what);
        self.syncs.add(start);
        result
    }

    fn open(&self, ino: Ino) -> Result<OpenInode> {
        self.below.open(ino)
    }

    fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        self.below.tmpfile(dir, new)
    }
}
