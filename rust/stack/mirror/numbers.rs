// SPDX-License-Identifier: GPL-2.0

//! How the inodes of a mirror are named.
//!
//! They have the numbers of the first copy. What has the same number in the second one, which is
//! the rule, needs no memory; the others are in two tables. An inode that was deleted may stay
//! there until one of its numbers is given again: it is found by nobody. When the first copy is
//! out, new inodes have no number there, and get one that nobody has.

use crate::asynchronous::Ino;
use disk::gfp;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::{new_spinlock, Arc, SpinLock};

/// The inodes whose numbers differ, both ways.
struct Tables {
    to_second: RBTree<u32, u32>,
    to_first: RBTree<u32, u32>,
}

/// See the [module](self).
#[pin_data]
pub(super) struct Numbers {
    #[pin]
    tables: SpinLock<Tables>,
}

/// Memory for one more inode.
pub(super) struct Room([RBTreeNodeReservation<u32, u32>; 2]);

impl Room {
    /// Fails with `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        let room = || RBTreeNodeReservation::new(gfp());
        Ok(Self([room()?, room()?]))
    }
}

impl Tables {
    /// Nobody has these numbers any more.
    fn forget(&mut self, ino: u32, second: u32) {
        if let Some(old) = self.to_second.remove(&ino) {
            self.to_first.remove(&old);
        }
        if let Some(old) = self.to_first.remove(&second) {
            self.to_second.remove(&old);
        }
    }

    fn set(&mut self, room: Room, ino: u32, second: u32) {
        self.forget(ino, second);
        if ino != second {
            let [one, other] = room.0;
            self.to_second.insert(one.into_node(ino, second));
            self.to_first.insert(other.into_node(second, ino));
        }
    }
}

impl Numbers {
    /// All are the same.
    ///
    /// Not in the caller, which is generic: lockdep would have the lock's name from another module.
    #[inline(never)]
    pub(super) fn new() -> Result<Arc<Self>> {
        let tables = Tables {
            to_second: RBTree::new(),
            to_first: RBTree::new(),
        };
        let numbers = pin_init!(Self {
            tables <- new_spinlock!(tables),
        });
        Arc::pin_init(numbers, gfp())
    }

    /// The number in the second copy.
    pub(super) fn to_second(&self, ino: Ino) -> Ino {
        let tables = self.tables.lock();
        Ino(tables.to_second.get(&ino.0).copied().unwrap_or(ino.0))
    }

    /// The mirror's number of what has this one in the second copy.
    pub(super) fn to_first(&self, second: Ino) -> Ino {
        let tables = self.tables.lock();
        Ino(tables.to_first.get(&second.0).copied().unwrap_or(second.0))
    }

    /// An inode has these numbers from now on.
    pub(super) fn set(&self, room: Room, ino: Ino, second: Ino) {
        self.tables.lock().set(room, ino.0, second.0);
    }

    /// Gives a number to a new inode that is in the second copy alone.
    pub(super) fn name_second(&self, room: Room, second: Ino) -> Ino {
        let mut tables = self.tables.lock();
        if let Some(old) = tables.to_first.remove(&second.0) {
            tables.to_second.remove(&old);
        }
        // If its own number is somebody's, then his in the second copy may be free, and so on: that
        // ends, since no two lead to the same, and nobody leads to where it began.
        let mut ino = second.0;
        while let Some(&next) = tables.to_second.get(&ino) {
            ino = next;
        }
        tables.set(room, ino, second.0);
        Ino(ino)
    }
}
