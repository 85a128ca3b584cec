// SPDX-License-Identifier: GPL-2.0

//! What a file in memory has: pages, and holes between them.

use crate::page::copy;
use core::ops::Range;
use disk::gfp;
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use upcall::Block;

const PAGE: u64 = Block::SIZE as u64;

/// How long a file can be: as long as on a volume with blocks of 4 KiB.
const SIZE_MAX: u64 = (u32::MAX as u64) << 12;

/// The pages that all files of a file system may have.
pub(super) struct Space {
    /// How many.
    pub(super) limit: u64,
    /// Those that they have.
    pub(super) used: u64,
}

impl Space {
    /// A page of zeros. Fails with `ENOSPC` and `ENOMEM`.
    fn take(&mut self) -> Result<Block> {
        if self.used >= self.limit {
            return Err(ENOSPC);
        }
        let block = Block::new()?;
        self.used += 1;
        Ok(block)
    }
}

/// The contents of a file.
pub(super) struct Contents {
    size: u64,
    pages: RBTree<u64, Block>,
    count: u64,
}

impl Contents {
    /// Nothing.
    pub(super) fn new() -> Self {
        Self {
            size: 0,
            pages: RBTree::new(),
            count: 0,
        }
    }

    /// In bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// How many pages it has.
    pub(super) fn pages(&self) -> u64 {
        self.count
    }

    /// Reads from byte `offset` on to `to`, whose rest is zeroed. Returns how many bytes there are.
    pub(super) fn read(&self, offset: u64, to: &mut [u8]) -> usize {
        to.fill(0);
        let count = self.size.saturating_sub(offset).min(to.len() as u64) as usize;
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let skip = (at % PAGE) as usize;
            let len = (count - done).min(Block::SIZE - skip);
            if let Some(page) = self.pages.get(&(at / PAGE)) {
                copy(to, done, page.as_slice(), skip, len);
            }
            done += len;
        }
        count
    }

    /// The page at `at`, which it gets if it has none.
    fn page(&mut self, at: u64, space: &mut Space) -> Result<&mut Block> {
        if self.pages.get(&at).is_none() {
            let block = space.take()?;
            if let Err(error) = self.pages.try_create_and_insert(at, block, gfp()) {
                space.used -= 1;
                return Err(error);
            }
            self.count += 1;
        }
        self.pages.get_mut(&at).ok_or(EIO)
    }

    /// Writes at byte `pos`. Returns how many bytes were written, which are fewer only if something
    /// failed behind them. Fails with `EFBIG`, `ENOSPC` and `ENOMEM`.
    pub(super) fn write(&mut self, pos: u64, bytes: &[u8], space: &mut Space) -> Result<usize> {
        if pos >= SIZE_MAX || pos.checked_add(bytes.len() as u64).is_none() {
            return Err(EFBIG);
        }
        let most = (SIZE_MAX - pos).min(bytes.len() as u64) as usize;
        let mut done = 0;
        while done < most {
            let at = pos + done as u64;
            let skip = (at % PAGE) as usize;
            let len = (most - done).min(Block::SIZE - skip);
            match self.page(at / PAGE, space) {
                Ok(page) => copy(page.as_mut_slice(), skip, bytes, done, len),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += len;
            self.size = self.size.max(at + len as u64);
        }
        Ok(done)
    }

    /// Gives it another size. What is cut off does not come back. Fails with `EFBIG`.
    pub(super) fn truncate(&mut self, size: u64, space: &mut Space) -> Result {
        if size > SIZE_MAX {
            return Err(EFBIG);
        }
        let first = size.div_ceil(PAGE);
        while let Some(page) = self.first_from(first) {
            self.pages.remove(&page);
            self.count -= 1;
            space.used -= 1;
        }
        let keep = (size % PAGE) as usize;
        if keep > 0 {
            if let Some(page) = self.pages.get_mut(&(size / PAGE)) {
                if let Some(tail) = page.as_mut_slice().get_mut(keep..) {
                    tail.fill(0);
                }
            }
        }
        self.size = size;
        Ok(())
    }

    fn first_from(&self, page: u64) -> Option<u64> {
        let cursor = self.pages.cursor_lower_bound(&page)?;
        Some(*cursor.current().0)
    }

    /// Gives the holes of a range pages. Fails with `EINVAL` for an empty range, `EFBIG`, `ENOSPC`
    /// and `ENOMEM`; pages that it got by then stay.
    pub(super) fn allocate(
        &mut self,
        range: Range<u64>,
        keep_size: bool,
        space: &mut Space,
    ) -> Result {
        if range.is_empty() {
            return Err(EINVAL);
        }
        if range.end > SIZE_MAX {
            return Err(EFBIG);
        }
        for page in range.start / PAGE..range.end.div_ceil(PAGE) {
            self.page(page, space)?;
        }
        if !keep_size {
            self.size = self.size.max(range.end);
        }
        Ok(())
    }
}
