// SPDX-License-Identifier: GPL-2.0

//! [`Blocks`]: many owned pages, read and written by as few requests as the device allows.

use crate::bio::{submit_or_return, Io, Op, Payload, Segment};
use crate::block::address;
use crate::device::Device;
use core::mem::take;
use core::ops::Range;
use core::ptr::NonNull;
use kernel::page::{Page, PAGE_SIZE};
use kernel::prelude::*;

/// How many pages one request has: every device takes so many segments (`bio_max_segs`).
const CHUNK: usize = 256;

/// The shifts of a page, and of a chunk.
const PAGE_SHIFT: u32 = PAGE_SIZE.trailing_zeros();
const CHUNK_SHIFT: u32 = PAGE_SHIFT + CHUNK.trailing_zeros();

/// A number of owned pages, as one range of bytes.
///
/// As with a [`Block`](crate::Block), a transfer takes the pages along. What a transfer that was
/// dropped had taken is *vacant* afterwards, and gets new pages with the next transfer.
pub struct Blocks {
    /// Chunks of [`CHUNK`] pages, of which the last may have fewer; a vacant one has none.
    chunks: KVec<KVec<Page>>,
    pages: usize,
}

impl Blocks {
    /// Allocates `pages` pages filled with zeroes. Fails with `ENOMEM`. May sleep.
    pub fn new(pages: usize) -> Result<Self> {
        let mut this = Self {
            chunks: KVec::with_capacity(pages.div_ceil(CHUNK), GFP_KERNEL)?,
            pages,
        };
        while this.chunks.len() < this.chunks.capacity().min(pages.div_ceil(CHUNK)) {
            this.chunks.push(KVec::new(), GFP_KERNEL)?;
        }
        for index in 0..this.chunks.len() {
            this.fill(index)?;
        }
        Ok(this)
    }

    /// How many bytes `range` of a file has, which begins at a page and goes to the start of the blocks.
    ///
    /// Fails with `EINVAL` if it is backwards, begins inside a page, or is longer than the blocks.
    pub fn check_range(&self, range: &Range<u64>) -> Result<usize> {
        let want = range.end.checked_sub(range.start).ok_or(EINVAL)?;
        if range.start % PAGE_SIZE as u64 != 0 || want > self.len() as u64 {
            return Err(EINVAL);
        }
        Ok(want as usize)
    }

    /// The size, in bytes.
    pub fn len(&self) -> usize {
        self.pages << PAGE_SHIFT
    }

    /// Whether there are no pages.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// The bytes of page number `page`; none if it is vacant or not there.
    pub fn page(&self, page: usize) -> &[u8] {
        let chunk = self.chunks.get(page / CHUNK);
        match chunk.and_then(|chunk| chunk.get(page % CHUNK)) {
            // SAFETY: The page is ours, was zeroed when it was allocated, and is mapped.
            Some(page) => unsafe { core::slice::from_raw_parts(address(page), PAGE_SIZE) },
            None => &[],
        }
    }

    /// The bytes of page number `page`; none if it is vacant or not there.
    pub fn page_mut(&mut self, page: usize) -> &mut [u8] {
        let chunk = self.chunks.get_mut(page / CHUNK);
        match chunk.and_then(|chunk| chunk.get_mut(page % CHUNK)) {
            // SAFETY: As in `page`, and we have it to ourselves.
            Some(page) => unsafe { core::slice::from_raw_parts_mut(address(page), PAGE_SIZE) },
            None => &mut [],
        }
    }

    /// Gives vacant parts pages filled with zeroes. Fails with `ENOMEM`. May sleep.
    pub fn fill_vacant(&mut self) -> Result {
        (0..self.chunks.len()).try_for_each(|index| self.fill(index))
    }

    /// Gives chunk `index` its pages, if it is vacant.
    fn fill(&mut self, index: usize) -> Result {
        let count = (self.pages - index * CHUNK).min(CHUNK);
        let Some(chunk) = self.chunks.get_mut(index) else {
            return Ok(());
        };
        if chunk.is_empty() {
            let mut pages = KVec::with_capacity(count, GFP_KERNEL)?;
            for _ in 0..count {
                pages.push(Page::alloc_page(GFP_KERNEL | __GFP_ZERO)?, GFP_KERNEL)?;
            }
            *chunk = pages;
        }
        Ok(())
    }

    /// Reads `len` bytes from byte `pos` of the device, to byte `offset` of the blocks and what follows.
    ///
    /// All three are multiples of the device's logical block size, and the range fits the blocks. The
    /// requests, one for each 256 pages, are submitted together; one after the other if the device has a
    /// [`Reserve`](crate::Reserve). Fails as [`Block::read`](crate::Block::read)
    /// does, with the first error; the bytes of the range are then undefined, but never somebody else's.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the pages of its requests vacant.
    pub async fn read(&mut self, device: &Device, pos: u64, offset: usize, len: usize) -> Result {
        self.transfer(device, Op::Read, pos, offset, len).await
    }

    /// Writes `len` bytes, from byte `offset` of the blocks on, to byte `pos` of the device and what follows.
    ///
    /// With `fua` the data is on stable media when the future is ready; else a
    /// [`flush`](Device::flush) brings it there. Vacant pages are written as zeroes. Otherwise as
    /// [`read`](Self::read).
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the pages of its requests vacant; the device writes nevertheless.
    pub async fn write(
        &mut self,
        device: &Device,
        pos: u64,
        offset: usize,
        len: usize,
        fua: bool,
    ) -> Result {
        let op = if fua { Op::WriteFua } else { Op::Write };
        self.transfer(device, op, pos, offset, len).await
    }

    async fn transfer(
        &mut self,
        device: &Device,
        op: Op,
        pos: u64,
        offset: usize,
        len: usize,
    ) -> Result {
        let mask = u64::from(device.logical_block_size()).wrapping_sub(1);
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if (pos | offset as u64 | len as u64) & mask != 0 || end > self.len() {
            return Err(EINVAL);
        }
        pos.checked_add(len as u64).ok_or(EINVAL)?;
        let count = (end - offset).div_ceil(CHUNK << PAGE_SHIFT) + 1;
        let mut ios: KVec<(usize, Io<Chunk>)> = KVec::with_capacity(count, GFP_KERNEL)?;
        let mut result = Ok(());
        let mut at = offset;
        while at < end && result.is_ok() {
            let stop = (((at >> CHUNK_SHIFT) + 1) << CHUNK_SHIFT).min(end);
            match self.start(device, op, pos + (at - offset) as u64, at, stop) {
                // Within the capacity.
                Ok(io) => result = Ok(ios.push((at >> CHUNK_SHIFT, io), GFP_KERNEL)?),
                Err(error) => result = Err(error),
            }
            at = stop;
            // Nobody waits for memory that he has himself.
            if device.reserve().is_some() {
                result = result.and(self.finish(&mut ios).await);
            }
        }
        // Also after an error: what was begun brings its pages back.
        result.and(self.finish(&mut ios).await)
    }

    /// Waits for requests, and puts their pages back. Gives the first error.
    async fn finish(&mut self, ios: &mut KVec<(usize, Io<Chunk>)>) -> Result {
        let mut result = Ok(());
        for (index, io) in ios.iter_mut() {
            let (done, chunk) = io.await;
            if let (Some(place), Some(chunk)) = (self.chunks.get_mut(*index), chunk) {
                *place = chunk.0;
            }
            result = result.and(done);
        }
        ios.clear();
        result
    }

    /// Submits a request for the bytes from `at` to `stop`, which lie in one chunk.
    fn start(
        &mut self,
        device: &Device,
        op: Op,
        pos: u64,
        at: usize,
        stop: usize,
    ) -> Result<Io<Chunk>> {
        let index = at >> CHUNK_SHIFT;
        self.fill(index)?;
        let base = index << CHUNK_SHIFT;
        let (at, stop) = (at - base, stop - base);
        let place = self.chunks.get_mut(index).ok_or(EINVAL)?;
        let (first, last) = (at >> PAGE_SHIFT, (stop - 1) >> PAGE_SHIFT);
        // Copies of the pointers: the pages themselves go along as the payload.
        let mut parts = KVec::with_capacity(last - first + 1, GFP_KERNEL)?;
        for n in first..=last {
            let from = at.max(n << PAGE_SHIFT) - (n << PAGE_SHIFT);
            let to = stop.min((n + 1) << PAGE_SHIFT) - (n << PAGE_SHIFT);
            let page = place.get(n).ok_or(EINVAL)?;
            // SAFETY: A page's pointer is never null.
            let page = unsafe { NonNull::new_unchecked(page.as_ptr()) };
            parts.push((page, from as u32, (to - from) as u32), GFP_KERNEL)?;
        }
        let segments = parts
            .iter()
            .map(|&(page, offset, len)| Segment { page, offset, len });
        let chunk = Chunk(take(place));
        // SAFETY: The pages go along with the request.
        let io = unsafe { submit_or_return(device, op, pos, 0, segments, chunk) };
        // What was not submitted keeps its content.
        io.map_err(|(error, chunk)| {
            *place = chunk.map_or(KVec::new(), |chunk| chunk.0);
            error
        })
    }
}

/// The payload of a request.
struct Chunk(KVec<Page>);

impl Payload for Chunk {}
