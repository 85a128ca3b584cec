// SPDX-License-Identifier: GPL-2.0

//! [`Overlay`]: a layer that keeps changes of files in memory.
//!
//! # Concurrency
//!
//! The table of changed files is under a spinlock, each file's changes under an [`RwSemaphore`]: readers of a file read
//! together, also while they wait for the layer below, and a writer has it to itself. So a reader
//! sees a write as a whole or not at all. A write that is dropped halfway has changed the pages before.

use crate::asynchronous::{AsyncStackable, Ino, Layer};
use crate::change::Change;
use crate::forward;
use crate::page::{self, copy, ReadPage};
use disk::gfp;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use upcall::{Block, ReadGuard, RwSemaphore};
use vfs::{Attr, FileType, Time};

/// What was changed of a file.
struct Changes {
    size: u64,
    /// Up to here the layer below has the content of pages that were not changed. Never grows: what was cut off
    /// does not come back when the file grows.
    below: u64,
    mtime: Time,
    pages: RBTree<u64, Block>,
}

type File = Arc<RwSemaphore<Changes>>;

/// The files that were changed.
#[pin_data]
struct Files {
    #[pin]
    table: SpinLock<RBTree<u32, File>>,
}

impl Files {
    /// Not in the caller, which is generic: lockdep would have the lock's name from another module.
    #[inline(never)]
    fn new() -> Result<Arc<Self>> {
        let files = pin_init!(Self {
            table <- new_spinlock!(RBTree::new()),
        });
        Arc::pin_init(files, gfp())
    }

    fn get(&self, ino: Ino) -> Option<File> {
        self.table.lock().get(&ino.0).cloned()
    }

    /// Adds a file, unless somebody was faster, whose one is returned.
    fn add(&self, ino: Ino, file: File) -> Result<File> {
        let node = RBTreeNode::new(ino.0, file.clone(), gfp())?;
        let mut table = self.table.lock();
        if let Some(first) = table.get(&ino.0).cloned() {
            drop(table);
            return Ok(first);
        }
        table.insert(node);
        Ok(file)
    }
}

/// Takes changes of regular files, and keeps them in memory: the layer below is never written.
///
/// The first write to a page copies it up. What was changed stays until the layer is dropped, and takes its pages;
/// there is no bound but memory.
///
/// Only contents and sizes are changed: names and attributes are those of the layer below, and changing them fails with
/// `EROFS`.
pub struct Overlay<L> {
    below: L,
    files: Arc<Files>,
}

impl<L: AsyncStackable> Overlay<L> {
    /// Makes the layer on `below`. Fails with `ENOMEM`.
    pub fn new(below: L) -> Result<Self> {
        Ok(Self {
            below,
            files: Files::new()?,
        })
    }

    /// The layer below.
    pub fn below(&self) -> &L {
        &self.below
    }

    /// The changes of a file, which are none at first.
    async fn changed(&self, ino: Ino) -> Result<File> {
        if let Some(file) = self.files.get(ino) {
            return Ok(file);
        }
        let attr = self.below.stat(ino).await?;
        match attr.file_type {
            FileType::Regular => {}
            FileType::Directory => return Err(EISDIR),
            _ => return Err(EINVAL),
        }
        let changes = Changes {
            size: attr.size,
            below: attr.size,
            mtime: attr.mtime,
            pages: RBTree::new(),
        };
        self.files
            .add(ino, Arc::new(RwSemaphore::new(changes), gfp())?)
    }

    /// Writes `bytes` at byte `offset` of a regular file, which grows if it has to.
    ///
    /// Fails with `EISDIR`, `EINVAL` for what has no bytes, `EFBIG`, `ENOMEM`, and as reading what is below.
    ///
    /// # Cancellation
    ///
    /// Pages that were written before stay so, and the size is what it was.
    pub async fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) -> Result {
        self.write_from(ino, Some(offset), bytes).await.map(drop)
    }

    /// As [`write`](Self::write), or at the end of the file. Returns where.
    async fn write_from(&self, ino: Ino, offset: Option<u64>, bytes: &[u8]) -> Result<u64> {
        const SIZE: u64 = Block::SIZE as u64;
        let file = self.changed(ino).await?;
        let mut changes = file.write().await?;
        let offset = offset.unwrap_or(changes.size);
        let end = offset.checked_add(bytes.len() as u64).ok_or(EFBIG)?;
        if i64::try_from(end).is_err() {
            return Err(EFBIG);
        }
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let (page, skip) = (at / SIZE, (at % SIZE) as usize);
            let len = rest.len().min(Block::SIZE - skip);
            let (part, later) = rest.split_at(len);
            if changes.pages.get(&page).is_none() {
                let mut block = Block::vacant();
                block.fill_vacant()?;
                if len < Block::SIZE {
                    self.read_below(&changes, ino, page * SIZE, &mut block)
                        .await?;
                }
                changes.pages.try_create_and_insert(page, block, gfp())?;
            }
            let block = changes.pages.get_mut(&page).ok_or(EIO)?;
            copy(block.as_mut_slice(), skip, part, 0, len);
            rest = later;
            at += len as u64;
        }
        changes.size = changes.size.max(end);
        changes.mtime = Time::now();
        Ok(offset)
    }

    /// Makes a regular file `size` bytes long: cuts it, or adds zeroes. Fails as [`write`](Self::write).
    pub async fn truncate(&self, ino: Ino, size: u64) -> Result {
        const SIZE: u64 = Block::SIZE as u64;
        if i64::try_from(size).is_err() {
            return Err(EFBIG);
        }
        let file = self.changed(ino).await?;
        let mut changes = file.write().await?;
        changes.below = changes.below.min(size);
        let (first, keep) = (size.div_ceil(SIZE), (size % SIZE) as usize);
        while let Some(cursor) = changes.pages.cursor_lower_bound(&first) {
            let page = *cursor.current().0;
            changes.pages.remove(&page);
        }
        if keep > 0 {
            if let Some(block) = changes.pages.get_mut(&(size / SIZE)) {
                if let Some(tail) = block.as_mut_slice().get_mut(keep..) {
                    tail.fill(0);
                }
            }
        }
        changes.size = size;
        changes.mtime = Time::now();
        Ok(())
    }

    /// Reads what the layer below has of a page that was not changed, and of it what was not cut off.
    async fn read_below(
        &self,
        changes: &Changes,
        ino: Ino,
        offset: u64,
        block: &mut Block,
    ) -> Result {
        let valid = changes.below.saturating_sub(offset).min(Block::SIZE as u64) as usize;
        if valid > 0 {
            self.below.read(ino, offset, block).await?;
        } else {
            block.fill_vacant()?;
        }
        if let Some(tail) = block.as_mut_slice().get_mut(valid..) {
            tail.fill(0);
        }
        Ok(())
    }
}

/// A file that was changed, while it is read.
struct Changed<'a, L> {
    overlay: &'a Overlay<L>,
    changes: ReadGuard<'a, Changes>,
}

impl<L: AsyncStackable> ReadPage for Changed<'_, L> {
    async fn read_page(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let changes = &*self.changes;
        let left = changes.size.saturating_sub(offset);
        match changes.pages.get(&(offset / Block::SIZE as u64)) {
            Some(page) => {
                block.fill_vacant()?;
                copy(block.as_mut_slice(), 0, page.as_slice(), 0, Block::SIZE);
            }
            None => self.overlay.read_below(changes, ino, offset, block).await?,
        }
        Ok(left.min(Block::SIZE as u64) as usize)
    }
}

impl<L: Layer> Layer for Overlay<L> {
    type Kind = L::Kind;
}

impl<L: AsyncStackable> AsyncStackable for Overlay<L> {
    forward!(self, self.below; root, lookup, readlink, read_dir, getxattr, listxattr, acl, statfs);

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        match change {
            Change::Truncate { ino, size } => {
                Overlay::truncate(self, ino, size).await?;
                Ok(ino)
            }
            _ => Err(EROFS),
        }
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let at = self.write_from(ino, pos, bytes).await?;
        Ok((at, bytes.len()))
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        let mut attr = self.below.stat(ino).await?;
        if let Some(file) = self.files.get(ino) {
            let changes = file.read().await?;
            (attr.size, attr.mtime, attr.ctime) = (changes.size, changes.mtime, changes.mtime);
        }
        Ok(attr)
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let Some(file) = self.files.get(ino) else {
            return self.below.read(ino, offset, block).await;
        };
        let changed = Changed {
            overlay: self,
            changes: file.read().await?,
        };
        page::read(&changed, ino, offset, block).await
    }
}
