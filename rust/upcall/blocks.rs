// SPDX-License-Identifier: GPL-2.0

//! [`Blocks`]: many owned pages, read and written by as few requests as the device allows.

use crate::bio::{submit_or_return, InFlight, Op, Payload, Segment};
use crate::device::Device;
use crate::memory;
use crate::sys::{self, new_page, page_address, KVec, Page, Result, EINVAL, ENOMEM, PAGE_SIZE};
use core::future::poll_fn;
use core::mem::take;
use core::ops::Range;
use core::ptr::NonNull;
use core::task::Poll;

/// How many pages one request has: every device takes so many segments (`bio_max_segs`).
const CHUNK_PAGES: usize = 256;

/// The shifts of a page, and of a chunk.
const PAGE_SHIFT: u32 = PAGE_SIZE.trailing_zeros();
const CHUNK_SHIFT: u32 = PAGE_SHIFT + CHUNK_PAGES.trailing_zeros();

/// The largest piece of memory that a request needs, in bytes, rounded up.
const REQUEST_SIZE_MAX: usize = 2 * PAGE_SIZE;

/// A number of owned pages, as one range of bytes.
///
/// As with a [`Block`](crate::Block), a transfer takes the pages along. What a transfer that was
/// dropped had taken is *vacant* afterwards, and gets new pages with the next transfer.
pub struct Blocks {
    /// Chunks of [`CHUNK_PAGES`] pages, of which the last may have fewer; a vacant one has none,
    /// and one that could not be filled yet has some.
    chunks: KVec<KVec<Page>>,
    pages: usize,
}

impl Blocks {
    /// Allocates `pages` pages filled with zeroes. Fails with `ENOMEM`. May sleep, but in an upcall.
    pub fn new(pages: usize) -> Result<Self> {
        let mut this = Self::vacant(pages)?;
        this.fill_vacant()?;
        Ok(this)
    }

    /// Makes `pages` vacant pages. Fails with `ENOMEM`. May sleep, but in an upcall.
    pub fn vacant(pages: usize) -> Result<Self> {
        let count = pages.div_ceil(CHUNK_PAGES);
        let mut chunks = sys::vec(count).ok_or(ENOMEM)?;
        for _ in 0..count {
            sys::push(&mut chunks, KVec::new())?;
        }
        Ok(Self { chunks, pages })
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
        let chunk = self.chunks.get(page / CHUNK_PAGES);
        match chunk.and_then(|chunk| chunk.get(page % CHUNK_PAGES)) {
            // SAFETY: The page is ours, was zeroed when it was allocated, and is mapped.
            Some(page) => unsafe { core::slice::from_raw_parts(page_address(page), PAGE_SIZE) },
            None => &[],
        }
    }

    /// The bytes of page number `page`; none if it is vacant or not there.
    pub fn page_mut(&mut self, page: usize) -> &mut [u8] {
        let chunk = self.chunks.get_mut(page / CHUNK_PAGES);
        match chunk.and_then(|chunk| chunk.get_mut(page % CHUNK_PAGES)) {
            // SAFETY: As in `page`, and we have it to ourselves.
            Some(page) => unsafe { core::slice::from_raw_parts_mut(page_address(page), PAGE_SIZE) },
            None => &mut [],
        }
    }

    /// Gives vacant parts pages filled with zeroes. Fails with `ENOMEM`. May sleep, but in an upcall.
    pub fn fill_vacant(&mut self) -> Result {
        (0..self.chunks.len()).try_for_each(|index| self.fill(index))
    }

    /// Gives chunk `index` the pages that it lacks. If that fails it keeps what it got.
    fn fill(&mut self, index: usize) -> Result {
        let count = self.pages_of(index);
        let Some(chunk) = self.chunks.get_mut(index) else {
            return Ok(());
        };
        if chunk.capacity() < count {
            // It has no pages: those that have some have room for all.
            *chunk = sys::vec(count).ok_or(ENOMEM)?;
        }
        while chunk.len() < count {
            sys::push(chunk, new_page().ok_or(ENOMEM)?)?;
        }
        Ok(())
    }

    /// How many pages chunk `index` has when it is full.
    fn pages_of(&self, index: usize) -> usize {
        self.pages
            .saturating_sub(index * CHUNK_PAGES)
            .min(CHUNK_PAGES)
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
        let count = (end - offset).div_ceil(CHUNK_PAGES << PAGE_SHIFT) + 1;
        let size = count * size_of::<(usize, InFlight<Chunk>)>();
        let mut ios: KVec<(usize, InFlight<Chunk>)> =
            memory::retry(size, || sys::vec(count)).await?;
        let mut result = Ok(());
        let mut at = offset;
        while at < end && result.is_ok() {
            let stop = (((at >> CHUNK_SHIFT) + 1) << CHUNK_SHIFT).min(end);
            let from = pos + (at - offset) as u64;
            let started = poll_fn(|cx| match self.start(device, op, from, at, stop) {
                Err(ENOMEM)
                    if self.lacks_memory(device, at) && memory::wait(cx, REQUEST_SIZE_MAX) =>
                {
                    Poll::Pending
                }
                started => Poll::Ready(started),
            });
            result = match started.await {
                // Within the capacity.
                Ok(io) => sys::push(&mut ios, (at >> CHUNK_SHIFT, io)),
                Err(error) => Err(error),
            };
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
    async fn finish(&mut self, ios: &mut KVec<(usize, InFlight<Chunk>)>) -> Result {
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
    ) -> Result<InFlight<Chunk>> {
        let index = at >> CHUNK_SHIFT;
        self.fill(index)?;
        let base = index << CHUNK_SHIFT;
        let (at, stop) = (at - base, stop - base);
        let (first, last) = (at >> PAGE_SHIFT, (stop - 1) >> PAGE_SHIFT);
        let place = self.chunks.get_mut(index).ok_or(EINVAL)?;
        if last >= place.len() {
            return Err(EINVAL);
        }
        // The pages go along as the payload; their table stays where it is meanwhile.
        let pages = place.as_ptr();
        let segments = (first..last + 1).map(|n| {
            let from = at.max(n << PAGE_SHIFT) - (n << PAGE_SHIFT);
            let to = stop.min((n + 1) << PAGE_SHIFT) - (n << PAGE_SHIFT);
            Segment {
                // SAFETY: The index is in the table, and a page's pointer is never null.
                page: unsafe { NonNull::new_unchecked((*pages.add(n)).as_ptr()) },
                offset: from as u32,
                len: (to - from) as u32,
            }
        });
        let chunk = Chunk(take(place));
        // SAFETY: The pages go along with the request.
        let io = unsafe { submit_or_return(device, op, pos, 0, segments, chunk) };
        // What was not submitted keeps its content.
        io.map_err(|(error, chunk)| {
            *place = chunk.map_or(KVec::new(), |chunk| chunk.0);
            error
        })
    }

    /// Whether what was missing for a request from byte `at` on is not memory that was set aside.
    #[cold]
    fn lacks_memory(&self, device: &Device, at: usize) -> bool {
        let index = at >> CHUNK_SHIFT;
        let full = |chunk: &KVec<Page>| chunk.len() == self.pages_of(index);
        device.reserve().is_none() || !self.chunks.get(index).is_some_and(full)
    }
}

/// The payload of a request.
struct Chunk(KVec<Page>);

impl Payload for Chunk {}
