// SPDX-License-Identifier: GPL-2.0

//! The names in a directory in memory.
//!
//! They are in the order of a hash, and those with the same in the order of a number that each gets
//! to tell it from the others. Both make the position of a name in a listing, so that a listing
//! goes on where it was, whatever names come and go meanwhile.

use crate::asynchronous::Ino;
use crate::owned_change::owned;
use disk::checksum::crc32c;
use disk::gfp;
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use vfs::{DirBatch, DirEntry, FileType};

/// The bits of a position that tell names with the same hash apart.
const SAME: u32 = 24;

/// How many entries one step of a listing gives.
const STEP: usize = 64;

/// An entry.
struct Entry {
    name: KVec<u8>,
    ino: Ino,
    file_type: FileType,
}

/// The names in a directory.
pub(super) struct Names {
    entries: RBTree<u64, Entry>,
    directories: u32,
}

/// The first position of names with the hash of `name`. Those before are for "." and "..".
fn first(name: &[u8]) -> u64 {
    (u64::from(crc32c(!0, name)) + 1) << SAME
}

fn is_dir(file_type: FileType) -> u32 {
    u32::from(file_type == FileType::Directory)
}

impl Names {
    /// None.
    pub(super) fn new() -> Self {
        Self {
            entries: RBTree::new(),
            directories: 0,
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many of them are directories'.
    pub(super) fn directories(&self) -> u32 {
        self.directories
    }

    /// Where a name is, or where it would go, which is free.
    fn place(&self, name: &[u8]) -> core::result::Result<u64, Option<u64>> {
        let first = first(name);
        let end = first + (1 << SAME);
        let (mut free, mut at) = (Some(first), first);
        while let Some(cursor) = self.entries.cursor_lower_bound(&at) {
            let (&key, entry) = cursor.current();
            if key >= end {
                break;
            }
            if entry.name.as_slice() == name {
                return Ok(key);
            }
            if free == Some(key) {
                free = Some(key + 1).filter(|key| *key < end);
            }
            at = key + 1;
        }
        Err(free)
    }

    /// What a name leads to.
    pub(super) fn find(&self, name: &[u8]) -> Option<Ino> {
        let key = self.place(name).ok()?;
        self.entries.get(&key).map(|entry| entry.ino)
    }

    /// Adds a name that is not there. Fails with `ENOSPC` and `ENOMEM`.
    pub(super) fn insert(&mut self, name: &[u8], ino: Ino, file_type: FileType) -> Result {
        let key = self.place(name).err().flatten().ok_or(ENOSPC)?;
        let entry = Entry {
            name: owned(name)?,
            ino,
            file_type,
        };
        self.entries.try_create_and_insert(key, entry, gfp())?;
        self.directories += is_dir(file_type);
        Ok(())
    }

    /// Removes a name.
    pub(super) fn remove(&mut self, name: &[u8]) {
        let key = self.place(name).ok();
        if let Some(entry) = key.and_then(|key| self.entries.remove(&key)) {
            self.directories -= is_dir(entry.file_type);
        }
    }

    /// Lets a name lead elsewhere.
    pub(super) fn lead(&mut self, name: &[u8], ino: Ino, file_type: FileType) {
        let key = self.place(name).ok();
        if let Some(entry) = key.and_then(|key| self.entries.get_mut(&key)) {
            self.directories -= is_dir(entry.file_type);
            self.directories += is_dir(file_type);
            (entry.ino, entry.file_type) = (ino, file_type);
        }
    }

    /// Adds some names from position `pos` on to a listing of the directory `dir`.
    pub(super) fn list(&self, dir: Ino, parent: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        for (at, name, ino) in [(0, &b"."[..], dir), (1, b"..", parent)] {
            if pos <= at {
                batch.push(&DirEntry {
                    ino: ino.0,
                    file_type: FileType::Directory,
                    next: at + 1,
                    name,
                })?;
            }
        }
        let mut pos = pos;
        for _ in 0..STEP {
            let Some(cursor) = self.entries.cursor_lower_bound(&pos) else {
                return Ok(());
            };
            let (&key, entry) = cursor.current();
            pos = key + 1;
            batch.push(&DirEntry {
                ino: entry.ino.0,
                file_type: entry.file_type,
                next: pos,
                name: &entry.name,
            })?;
        }
        batch.go_on_at(pos);
        Ok(())
    }
}
