// SPDX-License-Identifier: GPL-2.0

//! [`Mirror`]: a layer of two copies, each of which stands in for the other.
//!
//! # Concurrency
//!
//! A change is made in both copies at once, by one task of the mirror's scope: whoever wanted it
//! may drop his future, and it is made in both, or in none if it had not begun. The tasks are
//! shielded, so the scope's end does not leave one in one copy alone. Changes of the same
//! inodes are made in the same order in both: each has the locks of the inodes that it is about, of
//! which there is a fixed number, taken in their order. `rmdir` and `rename`, which are about
//! inodes that are not known before, and about directories above them, keep all other changes out
//! by `order`, which these have to read. All of these are held across the `.await` of what is
//! below, by tasks alone.
//!
//! Names are looked up in the first copy, which has the mirror's numbers. Whoever looks them up in
//! the second one has the lock of the directory, so that what is found has its
//! [number](numbers). Other reading takes no lock: while a write is under way one read may find it
//! made, and the next one not yet.
//!
//! `out` says which copy is not used any more. It is set once, by whoever comes first. A change
//! that was made in a copy that is out when it ends, and not in the other, has failed.

mod change;
mod numbers;

use self::numbers::{Numbers, Room};
use crate::asynchronous::{AsyncStackable, Asynchronous, Ino, Layer};
use crate::change::{Change, OpenInode, Sync as Durable};
use crate::owned_change::{owned_bytes, OwnedChange};
use crate::page::{self, ReadPage};
use core::future::Future;
use core::ops::Range;
use disk::gfp;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use upcall::{Block, Blocks, Mutex, RwSemaphore, Spawner};
use vfs::{AclEntry, Attr, DirBatch, DirEntry, FileType, NewInode, StatFs};

/// Between how many locks inodes are shared out.
const LOCKS: usize = 64;

/// One of the copies of a [`Mirror`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Side {
    /// The one that was given first.
    First = 1,
    /// The other.
    Second = 2,
}

/// Two copies of one tree: what one cannot read is read from the other, and each change goes to
/// both.
///
/// Times are those at which each copy was changed, which differ a little. Inodes have the numbers
/// of the first copy; what has another one in the second is remembered. Pages are read by turns
/// from both, so that two devices are as fast as two.
///
/// What only reads goes to the other copy when the device, or what is on it, is at fault: `EIO` and
/// what else the block layer reports, `EBADMSG` and `EUCLEAN`. It succeeds if one copy has all that
/// it needs; a page is a matter for itself. What one copy has lost of a page's map, and the other
/// of the page, is not put together.
///
/// A change that one copy makes and the other does not, whatever the error, succeeds. The copy that
/// has missed it is [out](Self::out), with a line in the log: it is neither read nor changed again
/// by this mirror. Whoever has made it the same again makes a new one. If both fail the error is
/// returned, and both stay.
///
/// Changes fail with `ESHUTDOWN` once the mirror's scope ends, which waits for those that are under
/// way. What is below is to outlast them: tasks of the same scope that are not
/// [shielded](Spawner::shielded) do not.
///
/// # Cancellation
///
/// A change has not begun, or goes on alone to its end, in both copies.
pub struct Mirror<A, B> {
    copies: Arc<Copies<A, B>>,
    spawner: Spawner,
}

/// Whether an error is the device's, or of what is on it.
fn is_fault(error: Error) -> bool {
    [
        EIO, EBADMSG, EUCLEAN, ETIMEDOUT, ENOLINK, EREMOTEIO, EILSEQ, ENXIO, ENODEV, ESHUTDOWN,
    ]
    .contains(&error)
}

struct Copies<A, B> {
    first: A,
    second: B,
    /// Whether positions in listings are the same.
    alike: bool,
    numbers: Arc<Numbers>,
    out: Atomic<u32>,
    failovers: Atomic<u64>,
    order: RwSemaphore<()>,
    locks: KVec<Mutex<()>>,
}

impl<A: AsyncStackable + 'static, B: AsyncStackable + 'static> Mirror<A, B> {
    /// Makes the mirror of two copies that are the same to the block; who makes it answers for
    /// that. Its changes are tasks of the scope of `spawner`.
    ///
    /// Fails with `EINVAL` if the copies differ in their root or their size.
    pub async fn new(first: A, second: B, spawner: Spawner) -> Result<Self> {
        let (one, other) = (first.statfs().await?, second.statfs().await?);
        if first.root() != second.root() || (one.blocks, one.files) != (other.blocks, other.files) {
            return Err(EINVAL);
        }
        Self::of(first, second, true, spawner)
    }

    /// Makes the mirror of two copies of one tree, which may lie on different volumes, and which
    /// were changed by a mirror perhaps: their inodes are told to be the same by their names, which
    /// takes a walk of both.
    ///
    /// Fails with `EINVAL` if there are not the same names, or they are not of the same type, links
    /// or size. Contents and attributes are not compared. Fails as reading does, if one of both
    /// does.
    pub async fn paired(first: A, second: B, spawner: Spawner) -> Result<Self> {
        let mirror = Self::of(first, second, false, spawner)?;
        disk::pinned(|| mirror.copies.pair())?.await?;
        Ok(mirror)
    }

    fn of(first: A, second: B, alike: bool, spawner: Spawner) -> Result<Self> {
        let mut locks = KVec::with_capacity(LOCKS, gfp())?;
        for _ in 0..LOCKS {
            locks.push(Mutex::new(()), gfp())?;
        }
        let copies = Copies {
            first,
            second,
            alike,
            numbers: Numbers::new()?,
            out: Atomic::new(0),
            failovers: Atomic::new(0),
            order: RwSemaphore::new(()),
            locks,
        };
        let copies = Arc::new(copies, gfp())?;
        let spawner = spawner.shielded();
        Ok(Self { copies, spawner })
    }

    /// Makes a change, by a task that its caller may leave alone.
    async fn task<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.spawner.spawn(task)?.await.map_err(|_| ESHUTDOWN)?
    }

    /// How many operations that read went to the other copy.
    pub fn failovers(&self) -> u64 {
        self.copies.failovers.load(Relaxed)
    }

    /// The copy that has missed a change, if one has.
    pub fn out(&self) -> Option<Side> {
        match self.copies.out.load(Relaxed) {
            1 => Some(Side::First),
            2 => Some(Side::Second),
            _ => None,
        }
    }

    /// The copies.
    pub fn copies(&self) -> (&A, &B) {
        (&self.copies.first, &self.copies.second)
    }
}

impl<A: AsyncStackable, B: AsyncStackable> Copies<A, B> {
    fn is_out(&self, side: Side) -> bool {
        self.out.load(Relaxed) == side as u32
    }

    /// Whether the other copy, `side`, may do better.
    fn may_ask(&self, side: Side, error: Error) -> bool {
        let ask = is_fault(error) && !self.is_out(side);
        if ask {
            self.failovers.fetch_add(1, Relaxed);
        }
        ask
    }

    /// Finds out which inodes of the copies are the same.
    async fn pair(&self) -> Result {
        let mut left = KVec::new();
        left.push((self.first.root(), self.second.root()), gfp())?;
        self.numbers
            .set(Room::new()?, self.first.root(), self.second.root());
        while let Some((dir, second)) = left.pop() {
            let (mut entries, mut count) = (self.first.entries(dir, 0), 0u64);
            while let Some(entry) = entries.next().await? {
                count += 1;
                if entry.name == b"." || entry.name == b".." {
                    continue;
                }
                let ino = Ino(entry.ino);
                let twin = match self.second.lookup(second, entry.name).await {
                    Err(ENOENT) => return Err(EINVAL),
                    twin => twin?,
                };
                let (one, other) = (self.first.stat(ino).await?, self.second.stat(twin).await?);
                let is_dir = one.file_type == FileType::Directory;
                if one.file_type != other.file_type
                    || !is_dir && (one.nlink, one.size) != (other.nlink, other.size)
                {
                    return Err(EINVAL);
                }
                self.numbers.set(Room::new()?, ino, twin);
                if is_dir {
                    left.push((ino, twin), gfp())?;
                }
            }
            let mut entries = self.second.entries(second, 0);
            while entries.next().await?.is_some() {
                count = count.wrapping_sub(1);
            }
            if count != 0 {
                return Err(EINVAL);
            }
        }
        Ok(())
    }
}

impl<A, B> Layer for Mirror<A, B> {
    type Kind = Asynchronous;
}

/// Asks the first copy, or the second if `$second`, and then the other. The number `$ino` is each
/// one's own.
macro_rules! either {
    ($this:expr, $second:expr, $ino:ident => $op:ident($($arg:expr),*)) => {{
        let this = $this;
        let twin = this.numbers.to_second($ino);
        if this.is_out(Side::First) || $second && !this.is_out(Side::Second) {
            let asked = { let $ino = twin; this.second.$op($($arg),*).await };
            match asked {
                Err(error) if this.may_ask(Side::First, error) => this.first.$op($($arg),*).await,
                result => result,
            }
        } else {
            match this.first.$op($($arg),*).await {
                Err(error) if this.may_ask(Side::Second, error) => {
                    let $ino = twin;
                    this.second.$op($($arg),*).await
                }
                result => result,
            }
        }
    }};
}

impl<A: AsyncStackable, B: AsyncStackable> ReadPage for Copies<A, B> {
    async fn read_page(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let second = (offset / Block::SIZE as u64) % 2 == 1;
        either!(self, second, ino => read(ino, offset, block))
    }
}

impl<A: AsyncStackable, B: AsyncStackable> Copies<A, B> {
    /// Looks a name up in the second copy.
    async fn lookup_second(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let _lock = self.lock_one(dir).await?;
        let dir = self.numbers.to_second(dir);
        let found = self.second.lookup(dir, name).await?;
        Ok(self.numbers.to_first(found))
    }

    /// Lists a directory of the second copy.
    async fn list_second(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        let _lock = self.lock_one(dir).await?;
        let twin = self.numbers.to_second(dir);
        let mut found = DirBatch::new();
        self.second.read_dir(twin, pos, &mut found).await?;
        for entry in found.iter() {
            let ino = self.numbers.to_first(Ino(entry.ino)).0;
            batch.push(&DirEntry { ino, ..entry })?;
        }
        if let Some(next) = found.next() {
            batch.go_on_at(next);
        }
        if let Some(end) = found.end() {
            batch.end_at(end);
        }
        Ok(())
    }
}

impl<A: AsyncStackable + 'static, B: AsyncStackable + 'static> AsyncStackable for Mirror<A, B> {
    fn root(&self) -> Ino {
        self.copies.first.root()
    }

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let copies = &*self.copies;
        if !copies.is_out(Side::First) {
            match copies.first.lookup(dir, name).await {
                Err(error) if copies.may_ask(Side::Second, error) => {}
                found => return found,
            }
        }
        disk::pinned(|| copies.lookup_second(dir, name))?.await
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        let own = ino.0;
        let mut attr = either!(&*self.copies, own % 2 == 1, ino => stat(ino))?;
        attr.ino = own;
        Ok(attr)
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        // Each page for itself: what is lost on both copies is not the same page perhaps.
        page::read(&*self.copies, ino, offset, block).await
    }

    async fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        // By turns for each MiB: what lies together stays together.
        let (copies, second) = (&*self.copies, (range.start >> 20) % 2 == 1);
        match either!(copies, second, ino => read_at(ino, range.clone(), blocks)) {
            // Each page for itself, as above.
            Err(error)
                if copies.may_ask(Side::First, error) || copies.may_ask(Side::Second, error) =>
            {
                page::read_at(copies, ino, range, blocks).await
            }
            result => result,
        }
    }

    async fn readlink(&self, ino: Ino) -> Result<KVec<u8>> {
        either!(&*self.copies, false, ino => readlink(ino))
    }

    /// A listing of copies that are not the same to the block is not continued in the other one,
    /// where it may have another order.
    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        let copies = &*self.copies;
        if !copies.is_out(Side::First) {
            // An attempt that fails may have left entries behind.
            let mut found = DirBatch::new();
            match copies.first.read_dir(dir, pos, &mut found).await {
                Err(error) if (pos == 0 || copies.alike) && copies.may_ask(Side::Second, error) => {
                }
                listed => return listed.and_then(|()| batch.append(&found)),
            }
        }
        disk::pinned(|| copies.list_second(dir, pos, batch))?.await
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        either!(&*self.copies, false, ino => getxattr(ino, name))
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        either!(&*self.copies, false, ino => listxattr(ino))
    }

    async fn acl(&self, ino: Ino, default: bool) -> Result<Option<KVec<AclEntry>>> {
        either!(&*self.copies, false, ino => acl(ino, default))
    }

    async fn statfs(&self) -> Result<StatFs> {
        let copies = &*self.copies;
        if copies.is_out(Side::First) {
            return copies.second.statfs().await;
        }
        match copies.first.statfs().await {
            Err(error) if copies.may_ask(Side::Second, error) => copies.second.statfs().await,
            result => result,
        }
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        let (copies, change) = (self.copies.clone(), OwnedChange::new(&change)?);
        let task = async move { disk::pinned(|| copies.change(&change))?.await };
        self.task(task).await
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let (copies, bytes) = (self.copies.clone(), owned_bytes(bytes)?);
        let task = async move { disk::pinned(|| copies.write(ino, pos, &bytes))?.await };
        self.task(task).await
    }

    async fn make_durable(&self, what: Durable) -> Result {
        disk::pinned(|| self.copies.make_durable(what))?.await
    }

    async fn open(&self, ino: Ino) -> Result<OpenInode> {
        disk::pinned(|| self.copies.open(ino))?.await
    }

    async fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        let (copies, new) = (self.copies.clone(), new.try_clone()?);
        let task = async move { disk::pinned(|| copies.tmpfile(dir, &new))?.await };
        self.task(task).await
    }
}
