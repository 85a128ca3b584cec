// SPDX-License-Identifier: GPL-2.0

//! What [`Verify`](super::Verify) knows of files.
//!
//! # Concurrency
//!
//! The table's spinlock is taken in process context and by upcalls, and nothing is called, made or
//! freed under it. It protects the table, and the step from no user of a file to the first: so a
//! file that has no user, seen under it, can be taken out of the table, unless what is known of it
//! is nowhere else. What is known is in each file's [`RwSemaphore`], which is held across the
//! `.await` of what is below: readers share it, a change has it alone.

use super::sums::Sums;
use crate::asynchronous::Ino;
use core::ops::Deref;
use disk::gfp;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::atomic::{Acquire, Atomic, Relaxed, Release};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use upcall::RwSemaphore;
use vfs::{Attr, Time};

/// Of how many files it is kept what they have, if nobody uses them and it can be read again.
const FILES_MAX: usize = 1024;

/// How a file with this number is told from one that had it before.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Identity {
    generation: u32,
    made: Option<(i64, u32)>,
}

impl From<&Attr> for Identity {
    fn from(attr: &Attr) -> Self {
        Self {
            generation: attr.generation,
            made: attr.btime.map(|Time { secs, nanos }| (secs, nanos)),
        }
    }
}

/// What is known of a file's checksums.
pub(super) enum Known {
    /// Nothing was read yet.
    Unread,
    /// There are none.
    Unknown {
        /// Whether the attribute has the mark; otherwise there is no attribute.
        marked: bool,
        /// Whether no loss of power brings some back.
        settled: bool,
    },
    /// Those of the attribute.
    Sealed(Sums),
    /// Those of what the file has now. They are in memory alone.
    Open {
        sums: Sums,
        /// A number that no other contents have, of no file.
        version: u64,
        /// Whether the mark is durable, in place of the attribute.
        marked: bool,
    },
}

/// What is known of a file.
pub(super) struct State {
    /// Whose it is.
    pub(super) of: Identity,
    pub(super) known: Known,
    /// How often what the attribute has was found to be another, or may have been.
    pub(super) loads: u64,
}

/// A file.
pub(super) struct File {
    pub(super) state: RwSemaphore<State>,
    /// Whether it is [`Known::Open`].
    open: Atomic<bool>,
    users: Atomic<usize>,
}

/// A file that is used, and so stays in the table.
pub(super) struct Used(Arc<File>);

impl Used {
    /// Who calls this has the table's lock, or uses the file.
    fn new(file: &Arc<File>) -> Self {
        file.users.fetch_add(1, Relaxed);
        Self(file.clone())
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        // Whoever sees that there is no user sees what it left.
        self.0.users.fetch_sub(1, Release);
    }
}

impl Deref for Used {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

struct Table {
    files: RBTree<u32, Arc<File>>,
    len: usize,
    /// Where one looks for a file to seal next.
    hand: u32,
}

/// The files.
#[pin_data]
pub(super) struct Files {
    #[pin]
    table: SpinLock<Table>,
    open: Atomic<usize>,
    versions: Atomic<u64>,
}

impl Files {
    /// Not in the caller, which is generic: lockdep would have the lock's name from another module.
    #[inline(never)]
    pub(super) fn new() -> Result<Arc<Self>> {
        let table = Table {
            files: RBTree::new(),
            len: 0,
            hand: 0,
        };
        let files = pin_init!(Self {
            table <- new_spinlock!(table),
            open: Atomic::new(0),
            versions: Atomic::new(0),
        });
        Arc::pin_init(files, gfp())
    }

    /// A file of which something is known.
    pub(super) fn find(&self, ino: Ino) -> Option<Used> {
        self.table.lock().files.get(&ino.0).map(Used::new)
    }

    /// A file. Fails with `ENOMEM`.
    pub(super) fn get(&self, ino: Ino) -> Result<Used> {
        if let Some(used) = self.find(ino) {
            return Ok(used);
        }
        let state = State {
            of: Identity::default(),
            known: Known::Unread,
            loads: 0,
        };
        let file = File {
            state: RwSemaphore::new(state),
            open: Atomic::new(false),
            users: Atomic::new(0),
        };
        let file = Arc::new(file, gfp())?;
        let node = RBTreeNode::new(ino.0, file.clone(), gfp())?;
        let mut table = self.table.lock();
        if let Some(used) = table.files.get(&ino.0).map(Used::new) {
            drop(table);
            return Ok(used);
        }
        let used = Used::new(&file);
        let old = table.make_room();
        table.files.insert(node);
        table.len += 1;
        drop(table);
        // Freed outside of the lock.
        drop(old);
        Ok(used)
    }

    /// A number for contents that nobody had.
    pub(super) fn version(&self) -> u64 {
        self.versions.fetch_add(1, Relaxed)
    }

    /// How many files are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// The first open file whose number is `from` or larger.
    pub(super) fn open_from(&self, from: u32) -> Option<(Ino, Used)> {
        let table = self.table.lock();
        let mut next = Some(from);
        while let Some(from) = next {
            let cursor = table.files.cursor_lower_bound(&from)?;
            let (ino, file) = cursor.current();
            if file.open.load(Relaxed) {
                return Some((Ino(*ino), Used::new(file)));
            }
            next = ino.checked_add(1);
        }
        None
    }

    /// An open file, another one each time.
    pub(super) fn some_open(&self) -> Option<(Ino, Used)> {
        let hand = self.table.lock().hand;
        let found = self.open_from(hand).or_else(|| self.open_from(0))?;
        self.table.lock().hand = found.0 .0.wrapping_add(1);
        Some(found)
    }

    /// Says what is known of a file now. Gives what was known.
    pub(super) fn put(&self, file: &File, state: &mut State, known: Known) -> Known {
        let is_open = matches!(known, Known::Open { .. });
        match (file.open.load(Relaxed), is_open) {
            (false, true) => drop(self.open.fetch_add(1, Relaxed)),
            (true, false) => drop(self.open.fetch_sub(1, Relaxed)),
            _ => {}
        }
        file.open.store(is_open, Relaxed);
        core::mem::replace(&mut state.known, known)
    }
}

impl Table {
    /// Takes a file out that nobody uses, if there are many.
    fn make_room(&mut self) -> Option<RBTreeNode<u32, Arc<File>>> {
        if self.len < FILES_MAX {
            return None;
        }
        let idle = |file: &File| file.users.load(Acquire) == 0 && !file.open.load(Relaxed);
        let (ino, _) = self.files.iter().find(|(_, file)| idle(file))?;
        let ino = *ino;
        self.len -= 1;
        self.files.remove_node(&ino)
    }
}
