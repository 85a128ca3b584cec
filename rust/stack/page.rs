// SPDX-License-Identifier: GPL-2.0

//! What layers that think in pages share.

use crate::asynchronous::Ino;
use core::future::Future;
use core::ops::Range;
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use upcall::{Block, Blocks};

/// A layer that reads whole pages.
pub(crate) trait ReadPage: Sync {
    /// Reads the page of a file that begins at `offset`, a multiple of [`Block::SIZE`]. Returns how many bytes there are;
    /// the rest of the block is zero.
    fn read_page(
        &self,
        ino: Ino,
        offset: u64,
        block: &mut Block,
    ) -> impl Future<Output = Result<usize>> + Send;
}

/// The first `len` bytes of blocks none of which is vacant, for what does not take pages. Fails with
/// `EINVAL` for one that is, and with `ENOMEM`.
pub fn bytes_of(blocks: &Blocks, len: usize) -> Result<KVVec<u8>> {
    let mut bytes = KVVec::with_capacity(len, gfp())?;
    for n in 0..len.div_ceil(Block::SIZE) {
        let part = (len - n * Block::SIZE).min(Block::SIZE);
        let page = blocks.page(n).get(..part).ok_or(EINVAL)?;
        bytes.extend_from_slice(page, gfp())?;
    }
    Ok(bytes)
}

/// Copies `len` bytes of `from`, from byte `of` on, to byte `at` of `to`.
pub(crate) fn copy(to: &mut [u8], at: usize, from: &[u8], of: usize, len: usize) {
    let to = to.get_mut(at..at + len).unwrap_or(&mut []);
    let from = from.get(of..of + len).unwrap_or(&[]);
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// [`AsyncStackable::read`](crate::AsyncStackable::read), whatever the offset: by one page, or two.
pub(crate) async fn read<R: ReadPage>(
    reader: &R,
    ino: Ino,
    offset: u64,
    block: &mut Block,
) -> Result<usize> {
    if offset % Block::SIZE as u64 == 0 {
        reader.read_page(ino, offset, block).await
    } else {
        // Seldom, and needs memory anyway: it is not to make the future of every read larger.
        disk::pinned(|| read_unaligned(reader, ino, offset, block))?.await
    }
}

async fn read_unaligned<R: ReadPage>(
    reader: &R,
    ino: Ino,
    offset: u64,
    block: &mut Block,
) -> Result<usize> {
    let skip = (offset % Block::SIZE as u64) as usize;
    let first = offset - skip as u64;
    let split = Block::SIZE - skip;
    let mut page = Block::vacant();
    let mut count = reader.read_page(ino, first, &mut page).await?;
    block.fill_vacant()?;
    copy(block.as_mut_slice(), 0, page.as_slice(), skip, split);
    count = count.saturating_sub(skip);
    if count == split {
        let second = first.saturating_add(Block::SIZE as u64);
        count += reader.read_page(ino, second, &mut page).await?.min(skip);
        copy(block.as_mut_slice(), split, page.as_slice(), 0, skip);
    }
    if let Some(tail) = block.as_mut_slice().get_mut(count..) {
        tail.fill(0);
    }
    Ok(count)
}

/// [`AsyncStackable::read_at`](crate::AsyncStackable::read_at), page after page.
pub(crate) async fn read_at<R: ReadPage>(
    reader: &R,
    ino: Ino,
    range: Range<u64>,
    blocks: &mut Blocks,
) -> Result<usize> {
    let want = blocks.check_range(&range)?;
    blocks.fill_vacant()?;
    let mut block = Block::vacant();
    let mut done = 0;
    while done < want {
        let at = range.start + done as u64;
        let count = reader.read_page(ino, at, &mut block).await?;
        let valid = count.min(want - done);
        let page = blocks.page_mut(done / Block::SIZE);
        copy(page, 0, block.as_slice(), 0, valid);
        if let Some(tail) = page.get_mut(valid..) {
            tail.fill(0);
        }
        done += valid;
        if count < Block::SIZE {
            break;
        }
    }
    Ok(done)
}
