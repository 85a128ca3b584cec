// SPDX-License-Identifier: GPL-2.0

//! [`Verify`]: a layer that compares checksums of contents.

use crate::asynchronous::{AsyncStackable, Ino, Layer};
use crate::change::Change;
use crate::forward;
use crate::page::{self, ReadPage};
use core::ops::Range;
use disk::checksum::crc32c;
use disk::gfp;
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use upcall::{Block, Blocks};

/// The attribute that has the checksums of a file: one for each page, 32 bits, little-endian. CRC-32C of the page's
/// bytes, of which the last page has those of the file.
pub const ATTRIBUTE: &[u8] = b"user.crc32c";

/// Of how many files the checksums are kept.
const FILES_MAX: usize = 1024;

/// A file's checksums; `None` if it has none.
type Sums = Option<Arc<KVec<u8>>>;

/// The checksums that were read.
#[pin_data]
struct Known {
    #[pin]
    files: SpinLock<Table>,
}

struct Table {
    files: RBTree<u32, Sums>,
    len: usize,
}

impl Known {
    /// Not in the caller, which is generic: lockdep would have the lock's name from another module.
    #[inline(never)]
    fn new() -> Result<Arc<Self>> {
        let table = Table {
            files: RBTree::new(),
            len: 0,
        };
        let known = pin_init!(Self {
            files <- new_spinlock!(table),
        });
        Arc::pin_init(known, gfp())
    }

    fn get(&self, ino: Ino) -> Option<Sums> {
        self.files.lock().files.get(&ino.0).cloned()
    }

    /// What an inode has is to be read again.
    fn forget(&self, ino: Ino) {
        let mut table = self.files.lock();
        let old = table.files.remove_node(&ino.0);
        if old.is_some() {
            table.len -= 1;
        }
        drop(table);
        drop(old);
    }

    fn insert(&self, ino: Ino, sums: Sums) -> Result {
        let node = kernel::rbtree::RBTreeNode::new(ino.0, sums, gfp())?;
        let mut table = self.files.lock();
        let full = table.len >= FILES_MAX;
        let old = if full {
            table.len = 0;
            Some(core::mem::replace(&mut table.files, RBTree::new()))
        } else {
            None
        };
        let before = table.files.insert(node);
        if before.is_none() {
            table.len += 1;
        }
        drop(table);
        // Freed outside of the lock.
        drop((old, before));
        Ok(())
    }
}

/// Compares the contents of files with the checksums that they have in their attribute [`ATTRIBUTE`].
///
/// A page that differs fails with `EBADMSG`; a page without a checksum, in a file that has some, does so too.
/// Files without the attribute are read as they are, and counted.
///
/// Changes go to the layer below, but the contents of a file that has checksums cannot be changed: `EROFS`. Whoever removes the
/// attribute can, and sets it again. What others change below the layer is found to differ.
pub struct Verify<L> {
    below: L,
    known: Arc<Known>,
    verified: Atomic<u64>,
    unknown: Atomic<u64>,
    failed: Atomic<u64>,
}

impl<L: AsyncStackable> Verify<L> {
    /// Makes the layer on `below`. Fails with `ENOMEM`.
    pub fn new(below: L) -> Result<Self> {
        Ok(Self {
            below,
            known: Known::new()?,
            verified: Atomic::new(0),
            unknown: Atomic::new(0),
            failed: Atomic::new(0),
        })
    }

    /// The layer below.
    pub fn below(&self) -> &L {
        &self.below
    }

    /// How many pages were found to be as they should.
    pub fn verified(&self) -> u64 {
        self.verified.load(Relaxed)
    }

    /// How many pages had no checksum to be compared with.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Relaxed)
    }

    /// How many pages differed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    async fn sums(&self, ino: Ino) -> Result<Sums> {
        if let Some(sums) = self.known.get(ino) {
            return Ok(sums);
        }
        let sums = match self.below.getxattr(ino, ATTRIBUTE).await {
            Ok(value) => Some(Arc::new(value, gfp())?),
            Err(error) if error == ENODATA || error == EOPNOTSUPP => None,
            Err(error) => return Err(error),
        };
        self.known.insert(ino, sums.clone())?;
        Ok(sums)
    }

    /// Fails with `EROFS` for a file that has checksums.
    async fn check_contents(&self, ino: Ino) -> Result {
        match self.sums(ino).await? {
            Some(_) => Err(EROFS),
            None => Ok(()),
        }
    }

    /// Compares one page, number `page` of the file.
    fn check(&self, sums: &Sums, page: u64, bytes: &[u8]) -> Result {
        let Some(sums) = sums else {
            self.unknown.fetch_add(1, Relaxed);
            return Ok(());
        };
        let at = usize::try_from(page)
            .unwrap_or(usize::MAX)
            .saturating_mul(4);
        let sum = sums.get(at..).and_then(|sums| sums.first_chunk());
        if sum.is_some_and(|&sum| u32::from_le_bytes(sum) == !crc32c(!0, bytes)) {
            self.verified.fetch_add(1, Relaxed);
            return Ok(());
        }
        self.failed.fetch_add(1, Relaxed);
        Err(EBADMSG)
    }
}

impl<L: AsyncStackable> ReadPage for Verify<L> {
    async fn read_page(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let sums = self.sums(ino).await?;
        let count = self.below.read(ino, offset, block).await?;
        if count > 0 {
            let bytes = block.as_slice().get(..count).ok_or(EIO)?;
            self.check(&sums, offset / Block::SIZE as u64, bytes)?;
        }
        Ok(count)
    }
}

impl<L: Layer> Layer for Verify<L> {
    type Kind = L::Kind;
}

impl<L: AsyncStackable> AsyncStackable for Verify<L> {
    forward!(self, self.below; root, lookup, stat, readlink, read_dir, getxattr, listxattr, acl, statfs);
    forward!(self, self.below; make_durable, open, tmpfile);

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        if let Change::Truncate { ino, .. } | Change::Allocate { ino, .. } = change {
            self.check_contents(ino).await?;
        }
        let ino = self.below.change(change).await?;
        // It may be a new inode with an old number, or have another attribute.
        self.known.forget(ino);
        Ok(ino)
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        self.check_contents(ino).await?;
        self.below.write_bytes(ino, pos, bytes).await
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        // What was not asked for of the pages is compared, too.
        page::read(self, ino, offset, block).await
    }

    async fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        let want = blocks.check_range(&range)?;
        let sums = self.sums(ino).await?;
        // The last page as a whole, as its checksum is.
        let whole = range.end.checked_next_multiple_of(Block::SIZE as u64);
        let end = whole.ok_or(EFBIG)?;
        let count = self.below.read_at(ino, range.start..end, blocks).await?;
        for n in 0..count.div_ceil(Block::SIZE) {
            let len = (count - n * Block::SIZE).min(Block::SIZE);
            let bytes = blocks.page(n).get(..len).ok_or(EIO)?;
            self.check(&sums, range.start / Block::SIZE as u64 + n as u64, bytes)?;
        }
        let count = count.min(want);
        let tail = blocks.page_mut(count / Block::SIZE);
        if let Some(tail) = tail.get_mut(count % Block::SIZE..) {
            tail.fill(0);
        }
        Ok(count)
    }
}
