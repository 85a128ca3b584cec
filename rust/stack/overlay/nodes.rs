// SPDX-License-Identifier: GPL-2.0

//! What an overlay knows of its inodes: where each is, above and below.
//!
//! A node is made when a name is found, and stays as long as the overlay: its number is the
//! inode's. What is below keeps its place, so a node has its directory and its name, by which it is
//! copied up. Of a file below that has many names there is a node for each: they part when one is
//! copied up.

use crate::asynchronous::Ino;
use crate::owned_change::owned;
use disk::gfp;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::atomic::{Acquire, Atomic, Full, Release};
use kernel::sync::{new_spinlock, Arc, SpinLock};

/// The number of the root.
pub(super) const ROOT: Ino = Ino(1);

/// A number that no inode has.
const GONE: u32 = u32::MAX;

/// Where an inode is.
pub(super) struct Node {
    pub(super) ino: Ino,
    /// The directory that it was found in, and its name there.
    pub(super) parent: Ino,
    pub(super) name: KVec<u8>,
    /// Its number below; of a directory also if there is one above.
    pub(super) lower: Option<Ino>,
    /// Its number above, or 0.
    upper: Atomic<u32>,
    /// Another node of the same file below.
    next: Option<Arc<Node>>,
}

impl Node {
    /// Its number above.
    pub(super) fn upper(&self) -> Option<Ino> {
        Some(Ino(self.upper.load(Acquire))).filter(|ino| ino.0 != 0)
    }

    /// Its name is gone: if it was below alone it is found no more.
    pub(super) fn set_gone(&self) {
        let _ = self.upper.cmpxchg(0, GONE, Full);
    }
}

/// All of them.
struct Table {
    nodes: RBTree<u32, Arc<Node>>,
    by_upper: RBTree<u32, Arc<Node>>,
    by_lower: RBTree<u32, Arc<Node>>,
    next: u32,
}

impl Table {
    /// The newest node of a file below.
    fn of_lower(&self, lower: Option<Ino>) -> Option<&Arc<Node>> {
        lower.and_then(|lower| self.by_lower.get(&lower.0))
    }

    /// A number that no node has. Fails with `ENOSPC`.
    fn number(&mut self) -> Result<Ino> {
        let ino = self.next;
        self.next = ino.checked_add(1).ok_or(ENOSPC)?;
        Ok(Ino(ino))
    }
}

/// The node of a name, among those of one file below.
fn named(mut node: Option<Arc<Node>>, parent: Ino, name: &[u8]) -> Option<Arc<Node>> {
    while let Some(at) = node {
        if at.parent == parent && at.name.as_slice() == name {
            return Some(at);
        }
        node = at.next.clone();
    }
    None
}

/// The nodes, under a spinlock that is held for look-ups in the trees alone.
#[pin_data]
pub(super) struct Nodes {
    #[pin]
    table: SpinLock<Table>,
}

impl Nodes {
    /// Those of an overlay with these roots.
    ///
    /// Not in the caller, which is generic: lockdep would have the lock's name from another module.
    #[inline(never)]
    pub(super) fn new(upper: Ino, lower: Ino) -> Result<Arc<Self>> {
        let table = Table {
            nodes: RBTree::new(),
            by_upper: RBTree::new(),
            by_lower: RBTree::new(),
            next: ROOT.0,
        };
        let nodes = pin_init!(Self {
            table <- new_spinlock!(table),
        });
        let nodes = Arc::pin_init(nodes, gfp())?;
        nodes.add(ROOT, b"", Some(upper), Some(lower))?;
        Ok(nodes)
    }

    /// Fails with `ESTALE` for a number that was never given.
    pub(super) fn get(&self, ino: Ino) -> Result<Arc<Node>> {
        let table = self.table.lock();
        table.nodes.get(&ino.0).cloned().ok_or(ESTALE)
    }

    /// The node of an inode above.
    pub(super) fn of_upper(&self, upper: Ino) -> Option<Arc<Node>> {
        self.table.lock().by_upper.get(&upper.0).cloned()
    }

    /// The node of what was found, which is made if it is not known.
    pub(super) fn found(
        &self,
        parent: Ino,
        name: &[u8],
        upper: Option<Ino>,
        lower: Option<Ino>,
    ) -> Result<Arc<Node>> {
        self.enter(parent, name, upper, lower, false)
    }

    /// Makes a node. What had the same number above is not there any more.
    pub(super) fn add(
        &self,
        parent: Ino,
        name: &[u8],
        upper: Option<Ino>,
        lower: Option<Ino>,
    ) -> Result<Arc<Node>> {
        self.enter(parent, name, upper, lower, true)
    }

    /// Makes a node, unless it is known what was found. Two who find the same get the same node:
    /// what was looked at before there was memory is looked at again, under the lock that it is
    /// entered under.
    fn enter(
        &self,
        parent: Ino,
        name: &[u8],
        upper: Option<Ino>,
        lower: Option<Ino>,
        is_new: bool,
    ) -> Result<Arc<Node>> {
        loop {
            let newest = self.table.lock().of_lower(lower).cloned();
            let known = match upper {
                Some(upper) => self.of_upper(upper),
                None => named(newest.clone(), parent, name),
            };
            if let Some(node) = known.filter(|_| !is_new) {
                return Ok(node);
            }
            let room = || RBTreeNodeReservation::new(gfp());
            let (by_number, by_upper, by_lower) = (room()?, room()?, room()?);
            let name = owned(name)?;
            let ino = self.table.lock().number()?;
            let node = Node {
                ino,
                parent,
                name,
                lower,
                upper: Atomic::new(upper.map_or(0, |ino| ino.0)),
                next: newest.clone(),
            };
            let node = Arc::new(node, gfp())?;
            // Freed when the lock is released.
            let _old;
            let mut table = self.table.lock();
            let is_same = match (table.of_lower(lower), &newest) {
                (Some(now), Some(newest)) => Arc::ptr_eq(now, newest),
                (now, newest) => now.is_none() && newest.is_none(),
            };
            let is_known = upper.is_some_and(|upper| table.by_upper.get(&upper.0).is_some());
            if !is_same || is_known && !is_new {
                continue;
            }
            table.nodes.insert(by_number.into_node(ino.0, node.clone()));
            let old_upper = upper.and_then(|upper| {
                let entry = by_upper.into_node(upper.0, node.clone());
                table.by_upper.insert(entry)
            });
            let old_lower = lower.and_then(|lower| {
                let entry = by_lower.into_node(lower.0, node.clone());
                table.by_lower.insert(entry)
            });
            _old = (old_upper, old_lower);
            return Ok(node);
        }
    }

    /// What was below was copied up. `room` is for that.
    pub(super) fn set_upper(
        &self,
        room: RBTreeNodeReservation<u32, Arc<Node>>,
        node: &Arc<Node>,
        upper: Ino,
    ) {
        node.upper.store(upper.0, Release);
        let old = {
            let mut table = self.table.lock();
            table.by_upper.insert(room.into_node(upper.0, node.clone()))
        };
        drop(old);
    }
}
