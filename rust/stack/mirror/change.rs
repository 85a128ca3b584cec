// SPDX-License-Identifier: GPL-2.0

//! The changes of a mirror, each of which both copies make.

use super::numbers::Room;
use super::{is_fault, Copies, Side, LOCKS};
use crate::asynchronous::{AsyncStackable, Ino};
use crate::change::{Change, OpenInode, Sync as Durable};
use crate::owned_change::OwnedChange;
use kernel::prelude::*;
use kernel::sync::atomic::{Full, Relaxed};
use upcall::{join, MutexGuard, ReadGuard, WriteGuard};
use vfs::NewInode;

/// What a change holds. `order` goes last.
pub(super) struct Locks<'a> {
    _inodes: [Option<MutexGuard<'a, ()>>; 2],
    _order: (Option<ReadGuard<'a, ()>>, Option<WriteGuard<'a, ()>>),
}

/// What came of a change in each copy; nothing for one that is out.
type Outcomes<T> = (Option<Result<T>>, Option<Result<T>>);

/// The same operation in both copies at once, but for one that is out.
macro_rules! both {
    ($this:expr, $one:ident($($arg:expr),*), $other:ident($($twin:expr),*)) => {
        join!(
            async {
                match $this.is_out(Side::First) {
                    true => None,
                    false => Some($this.first.$one($($arg),*).await),
                }
            },
            async {
                match $this.is_out(Side::Second) {
                    true => None,
                    false => Some($this.second.$other($($twin),*).await),
                }
            }
        )
    };
}

impl<A: AsyncStackable, B: AsyncStackable> Copies<A, B> {
    /// The locks of one inode, or of two.
    async fn lock(&self, one: Ino, other: Ino) -> Result<Locks<'_>> {
        let order = self.order.read().await.map_err(|_| ESHUTDOWN)?;
        let slot = |ino: Ino| ino.0 as usize % LOCKS;
        let (low, high) = (slot(one).min(slot(other)), slot(one).max(slot(other)));
        let mutex = |slot| self.locks.get(slot).ok_or(EIO);
        let first = mutex(low)?.lock().await.map_err(|_| ESHUTDOWN)?;
        let second = match low == high {
            true => None,
            false => Some(mutex(high)?.lock().await.map_err(|_| ESHUTDOWN)?),
        };
        Ok(Locks {
            _inodes: [Some(first), second],
            _order: (Some(order), None),
        })
    }

    /// The lock of one inode.
    pub(super) async fn lock_one(&self, ino: Ino) -> Result<Locks<'_>> {
        self.lock(ino, ino).await
    }

    /// Keeps all other changes out.
    async fn lock_all(&self) -> Result<Locks<'_>> {
        let order = self.order.write().await.map_err(|_| ESHUTDOWN)?;
        Ok(Locks {
            _inodes: [None, None],
            _order: (None, Some(order)),
        })
    }

    /// The locks of what a change is about.
    async fn lock_for(&self, change: &Change<'_>) -> Result<Locks<'_>> {
        match *change {
            Change::Rmdir { .. } | Change::Rename { .. } => self.lock_all().await,
            Change::Create { dir, .. } | Change::Symlink { dir, .. } => self.lock_one(dir).await,
            Change::Link { dir, ino, .. } => self.lock(dir, ino).await,
            Change::Unlink { dir, name } => loop {
                // What it is about is known when its directory is locked, and has to stay so.
                let child = self.find(dir, name).await;
                let locks = self.lock(dir, child.unwrap_or(dir)).await?;
                if self.find(dir, name).await == child {
                    return Ok(locks);
                }
            },
            Change::SetAttr { ino, .. }
            | Change::SetXattr { ino, .. }
            | Change::SetAcl { ino, .. }
            | Change::Truncate { ino, .. }
            | Change::Allocate { ino, .. } => self.lock_one(ino).await,
        }
    }

    /// Looks a name up in the copy that is not out, without a lock.
    async fn find(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        match self.is_out(Side::First) {
            false => self.first.lookup(dir, name).await,
            true => {
                let dir = self.numbers.to_second(dir);
                let found = self.second.lookup(dir, name).await?;
                Ok(self.numbers.to_first(found))
            }
        }
    }

    /// A copy has missed a change, and is not used any more, unless the other is out already.
    #[cold]
    fn put_out(&self, side: Side, error: Error) {
        if self.out.cmpxchg(0, side as u32, Full).is_ok() {
            let which = match side {
                Side::First => "first",
                Side::Second => "second",
            };
            pr_err!("mirror: the {which} copy has missed a change ({error:?}), and is out\n");
        }
    }

    /// What came of a change; a copy that alone has failed is out.
    fn settle<T>(&self, outcomes: Outcomes<T>) -> Result<(Option<T>, Option<T>)> {
        match &outcomes {
            (Some(Ok(_)), Some(Err(error))) => self.put_out(Side::Second, *error),
            (Some(Err(error)), Some(Ok(_))) => self.put_out(Side::First, *error),
            _ => {}
        }
        let (one, other) = match (self.out.load(Relaxed), outcomes) {
            (1, (_, other)) => (None, other),
            (2, (one, _)) => (one, None),
            (_, outcomes) => outcomes,
        };
        match (one, other) {
            // The copy that works knows why it cannot be done.
            (Some(Err(fault)), Some(Err(error))) if is_fault(fault) => Err(error),
            (Some(Err(error)), _) | (_, Some(Err(error))) => Err(error),
            (None, None) => Err(EIO),
            (one, other) => Ok((one.and_then(Result::ok), other.and_then(Result::ok))),
        }
    }

    /// The mirror's number of an inode that has these, and may be new.
    fn name(&self, room: Room, inos: (Option<Ino>, Option<Ino>), is_new: bool) -> Result<Ino> {
        match inos {
            (Some(ino), Some(second)) => {
                self.numbers.set(room, ino, second);
                Ok(ino)
            }
            (Some(ino), None) => Ok(ino),
            (None, Some(second)) if is_new => Ok(self.numbers.name_second(room, second)),
            (None, Some(second)) => Ok(self.numbers.to_first(second)),
            (None, None) => Err(EIO),
        }
    }

    pub(super) async fn change(&self, change: &OwnedChange) -> Result<Ino> {
        let change = change.get();
        let _locks = self.lock_for(&change).await?;
        let room = Room::new()?;
        let twin = change.clone().with_inos(|ino| self.numbers.to_second(ino));
        let asked = both!(self, change(change.clone()), change(twin.clone()));
        let inos = self.settle(asked)?;
        if let (
            Change::Rename {
                from, name, flags, ..
            },
            Change::Rename { from: twin, .. },
        ) = (&change, &twin)
        {
            if flags.whiteout {
                self.learn((*from, *twin), name).await?;
            }
        }
        let is_new = matches!(change, Change::Create { .. } | Change::Symlink { .. });
        self.name(room, inos, is_new)
    }

    /// Finds out the numbers of what was made beside what was wanted.
    async fn learn(&self, (dir, twin): (Ino, Ino), name: &[u8]) -> Result {
        let room = Room::new()?;
        let asked = both!(self, lookup(dir, name), lookup(twin, name));
        let inos = self.settle(asked)?;
        self.name(room, inos, true).map(drop)
    }

    pub(super) async fn write(
        &self,
        ino: Ino,
        pos: Option<u64>,
        bytes: &[u8],
    ) -> Result<(u64, usize)> {
        let _lock = self.lock_one(ino).await?;
        let twin = self.numbers.to_second(ino);
        let asked = both!(
            self,
            write_bytes(ino, pos, bytes),
            write_bytes(twin, pos, bytes)
        );
        let (mut one, mut other) = asked;
        // Who has written less than the other has missed the rest.
        if let (Some(Ok((_, first))), Some(Ok((_, second)))) = (&one, &other) {
            match first.cmp(second) {
                core::cmp::Ordering::Less => one = Some(Err(EIO)),
                core::cmp::Ordering::Greater => other = Some(Err(EIO)),
                core::cmp::Ordering::Equal => {}
            }
        }
        let (one, other) = self.settle((one, other))?;
        one.or(other).ok_or(EIO)
    }

    pub(super) async fn make_durable(&self, what: Durable) -> Result {
        let twin = match what {
            Durable::All => Durable::All,
            Durable::Inode(ino) => Durable::Inode(self.numbers.to_second(ino)),
            Durable::Data(ino) => Durable::Data(self.numbers.to_second(ino)),
        };
        let asked = both!(self, make_durable(what), make_durable(twin));
        self.settle(asked).map(drop)
    }

    /// Keeps an inode in both copies, or in the one that can.
    pub(super) async fn open(&self, ino: Ino) -> Result<OpenInode> {
        let twin = self.numbers.to_second(ino);
        let (one, other) = join!(self.first.open(ino), self.second.open(twin));
        let asked = match self.is_out(Side::First) {
            true => other.as_ref().err(),
            false => one.as_ref().err(),
        };
        match asked {
            Some(error) => Err(*error),
            None => OpenInode::new(ino, (one.ok(), other.ok())),
        }
    }

    pub(super) async fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        let _lock = self.lock_one(dir).await?;
        let (room, twin) = (Room::new()?, self.numbers.to_second(dir));
        let asked = both!(self, tmpfile(dir, new), tmpfile(twin, new));
        let made = self.settle(asked)?;
        let number = |made: &Option<OpenInode>| made.as_ref().map(OpenInode::ino);
        let ino = self.name(room, (number(&made.0), number(&made.1)), true)?;
        OpenInode::new(ino, made)
    }
}
