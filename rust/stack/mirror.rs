// SPDX-License-Identifier: GPL-2.0

//! [`Mirror`]: a layer of two copies, each of which stands in for the other.

use crate::asynchronous::{AsyncStackable, Asynchronous, Ino, Layer};
use crate::page::{self, ReadPage};
use core::ops::Range;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use upcall::{Block, Blocks};
use vfs::{AclEntry, Attr, DirBatch, StatFs};

/// Two copies of one volume: what one cannot read is read from the other.
///
/// The copies are the same to the block, so that their inodes have the same numbers; who makes the mirror answers for
/// that. Pages are read by turns from both, so that two devices are as fast as two.
///
/// An operation goes to the other copy when the device, or what is on it, is at fault: `EIO` and what else the block layer
/// reports, `EBADMSG` and `EUCLEAN`. It succeeds if one copy has all that it needs; a page is a matter for itself. What
/// one copy has lost of a page's map, and the other of the page, is not put together.
///
/// It is read-only: changes fail with `EROFS`, since two volumes that are changed do not give new inodes the same numbers.
pub struct Mirror<A, B> {
    first: A,
    second: B,
    failovers: Atomic<u64>,
}

impl<A: AsyncStackable, B: AsyncStackable> Mirror<A, B> {
    /// Makes the mirror. Fails with `EINVAL` if the copies differ in their root or their size.
    pub async fn new(first: A, second: B) -> Result<Self> {
        let (one, other) = (first.statfs().await?, second.statfs().await?);
        if first.root() != second.root() || (one.blocks, one.files) != (other.blocks, other.files) {
            return Err(EINVAL);
        }
        Ok(Self {
            first,
            second,
            failovers: Atomic::new(0),
        })
    }

    /// How many operations went to the other copy.
    pub fn failovers(&self) -> u64 {
        self.failovers.load(Relaxed)
    }

    /// Whether the other copy may do better.
    fn is_fault(&self, error: Error) -> bool {
        let fault = [
            EIO, EBADMSG, EUCLEAN, ETIMEDOUT, ENOLINK, EREMOTEIO, EILSEQ, ENXIO, ENODEV, ESHUTDOWN,
        ]
        .contains(&error);
        if fault {
            self.failovers.fetch_add(1, Relaxed);
        }
        fault
    }
}

impl<A, B> Layer for Mirror<A, B> {
    type Kind = Asynchronous;
}

/// Asks the first copy, or the second if `$second`, and then the other.
macro_rules! either {
    ($this:ident, $second:expr, $op:ident($($arg:expr),*)) => {
        if $second {
            match $this.second.$op($($arg),*).await {
                Err(error) if $this.is_fault(error) => $this.first.$op($($arg),*).await,
                result => result,
            }
        } else {
            match $this.first.$op($($arg),*).await {
                Err(error) if $this.is_fault(error) => $this.second.$op($($arg),*).await,
                result => result,
            }
        }
    };
}

impl<A: AsyncStackable, B: AsyncStackable> ReadPage for Mirror<A, B> {
    async fn read_page(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let second = (offset / Block::SIZE as u64) % 2 == 1;
        either!(self, second, read(ino, offset, block))
    }
}

impl<A: AsyncStackable, B: AsyncStackable> AsyncStackable for Mirror<A, B> {
    fn root(&self) -> Ino {
        self.first.root()
    }

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        either!(self, dir.0 % 2 == 1, lookup(dir, name))
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        either!(self, ino.0 % 2 == 1, stat(ino))
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        // Each page for itself: what is lost on both copies is not the same page perhaps.
        page::read(self, ino, offset, block).await
    }

    async fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        // By turns for each MiB: what lies together stays together.
        let second = (range.start >> 20) % 2 == 1;
        match either!(self, second, read_at(ino, range.clone(), blocks)) {
            // As above.
            Err(error) if self.is_fault(error) => page::read_at(self, ino, range, blocks).await,
            result => result,
        }
    }

    async fn readlink(&self, ino: Ino) -> Result<KVec<u8>> {
        either!(self, false, readlink(ino))
    }

    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        // An attempt that fails may have left entries behind.
        let mut found = DirBatch::new();
        let result = self.first.read_dir(dir, pos, &mut found).await;
        match result {
            Err(error) if self.is_fault(error) => {
                found.clear();
                self.second.read_dir(dir, pos, &mut found).await?;
            }
            result => result?,
        }
        batch.append(&found)
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        either!(self, false, getxattr(ino, name))
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        either!(self, false, listxattr(ino))
    }

    async fn acl(&self, ino: Ino, default: bool) -> Result<Option<KVec<AclEntry>>> {
        either!(self, false, acl(ino, default))
    }

    async fn statfs(&self) -> Result<StatFs> {
        either!(self, false, statfs())
    }
}
