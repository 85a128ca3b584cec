// SPDX-License-Identifier: GPL-2.0

//! A file as a stream of pages, and a directory as a stream of entries.

use crate::asynchronous::{AsyncStackable, Ino};
use kernel::prelude::*;
use upcall::{Block, Blocks};
use vfs::{DirBatch, DirEntry};

/// The pages of a file, in order, of which a number is read at a time.
///
/// ```
/// # use kernel::prelude::*;
/// # use stack::{AsyncStackable, Ino};
/// # async fn sum(volume: &impl AsyncStackable, ino: Ino) -> Result<u64> {
/// let mut pages = volume.pages(ino, 0, 32);
/// let mut sum = 0;
/// while let Some(page) = pages.next().await? {
///     sum += page.iter().map(|&byte| u64::from(byte)).sum::<u64>();
/// }
/// # Ok(sum)
/// # }
/// ```
pub struct Pages<'a, L> {
    layer: &'a L,
    ino: Ino,
    /// Where the next batch begins.
    offset: u64,
    ahead: usize,
    blocks: Option<Blocks>,
    /// How many bytes of the batch there are, and how many of them were given out.
    len: usize,
    given: usize,
    end: bool,
}

impl<'a, L: AsyncStackable> Pages<'a, L> {
    pub(crate) fn new(layer: &'a L, ino: Ino, offset: u64, ahead: usize) -> Self {
        Self {
            layer,
            ino,
            offset,
            ahead: ahead.max(1),
            blocks: None,
            len: 0,
            given: 0,
            end: false,
        }
    }

    /// The next page: [`Block::SIZE`] bytes, fewer at the end of the file; `None` behind it.
    ///
    /// Fails as [`AsyncStackable::read_at`]. May be called again after an error, and then tries again.
    ///
    /// # Cancellation
    ///
    /// No page is lost by dropping the future.
    pub async fn next(&mut self) -> Result<Option<&[u8]>> {
        if self.given == self.len {
            if self.end {
                return Ok(None);
            }
            let blocks = match &mut self.blocks {
                Some(blocks) => blocks,
                none => none.insert(Blocks::new(self.ahead)?),
            };
            let want = blocks.len();
            let range = self.offset..self.offset.saturating_add(want as u64);
            let len = self.layer.read_at(self.ino, range, blocks).await?;
            (self.len, self.given) = (len, 0);
            self.offset = self.offset.saturating_add(len as u64);
            self.end = len < want;
            if len == 0 {
                return Ok(None);
            }
        }
        let page = self.given / Block::SIZE;
        let len = (self.len - self.given).min(Block::SIZE);
        self.given += len;
        let blocks = self.blocks.as_ref().ok_or(EIO)?;
        Ok(Some(blocks.page(page).get(..len).ok_or(EIO)?))
    }
}

/// The entries of a directory, in its own order.
pub struct Entries<'a, L> {
    layer: &'a L,
    dir: Ino,
    /// Where the batch after this one begins.
    next: Option<u64>,
    /// From where on a new stream gives what this one has not given yet.
    pos: u64,
    batch: DirBatch,
    /// How many bytes of the batch are good; none while it is being read.
    len: usize,
    /// Where in the batch the next entry is, in bytes.
    at: usize,
}

impl<'a, L: AsyncStackable> Entries<'a, L> {
    pub(crate) fn new(layer: &'a L, dir: Ino, pos: u64) -> Self {
        Self {
            layer,
            dir,
            next: Some(pos),
            pos,
            batch: DirBatch::new(),
            len: 0,
            at: 0,
        }
    }

    /// The next entry; `None` at the end. `.` and `..` are among them.
    ///
    /// Fails as [`AsyncStackable::read_dir`].
    ///
    /// # Cancellation
    ///
    /// No entry is lost by dropping the future.
    pub async fn next(&mut self) -> Result<Option<DirEntry<'_>>> {
        while self.at == self.len {
            let Some(pos) = self.next else {
                return Ok(None);
            };
            self.batch.clear();
            (self.len, self.at) = (0, 0);
            self.layer.read_dir(self.dir, pos, &mut self.batch).await?;
            self.len = self.batch.len();
            self.next = self.batch.next();
            self.pos = pos;
        }
        let Some((entry, at)) = self.batch.entry_at(self.at) else {
            return Ok(None);
        };
        (self.at, self.pos) = (at, entry.next);
        Ok(Some(entry))
    }

    /// Where the listing is: a stream that begins here goes on with what this one would give next.
    pub fn position(&self) -> u64 {
        self.pos
    }
}
