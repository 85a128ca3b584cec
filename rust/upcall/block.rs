// SPDX-License-Identifier: GPL-2.0

//! [`Block`]: an owned page that reads move in and out of requests.

use crate::bio::{InFlight, Op, Payload, Request, Segment};
use crate::device::Device;
use crate::memory;
use crate::sys::{new_page, page_address, Error, Page, Result, EINVAL, ENOMEM, PAGE_SIZE};
use core::future::Future;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{ready, Context, Poll};

/// An owned page of memory, of [`Block::SIZE`] bytes.
///
/// A read takes the page along and puts it back when it is done. If the read's future is dropped in
/// between, the device keeps writing into a page that the request owns, and the block is left
/// *vacant*: it has no bytes, and the next read gives it a new page. So a read can be cancelled at
/// any point.
///
/// After a transfer a block keeps the request that had the page, some 300 bytes, for the next: not if its memory is from a
/// [`Reserve`](crate::Reserve), or the completion still has it.
pub struct Block(Memory);

/// Where a block's page is.
enum Memory {
    Vacant,
    Page(Page),
    /// In the request of the last transfer, for the next.
    Request(Request<OnePage>),
}

impl Memory {
    fn page(&self) -> Option<&Page> {
        match self {
            Self::Vacant => None,
            Self::Page(page) => Some(page),
            Self::Request(request) => request.payload().map(|page| &page.0),
        }
    }

    /// A request for `device`, of this part of the page, or of a new one if it is vacant. Gives the page back
    /// if it fails.
    #[inline(always)] // For the one caller.
    fn into_request(
        self,
        device: &Device,
        offset: u32,
        len: u32,
    ) -> Result<Request<OnePage>, (Error, Self)> {
        let page = match self {
            Self::Request(mut request) if device.reserve().is_none() => {
                // SAFETY: It was made with one segment, below, and the part is in the page.
                unsafe { request.set_part(offset, len) };
                return Ok(request);
            }
            Self::Request(request) => request.into_payload(),
            Self::Page(page) => Some(OnePage(page)),
            Self::Vacant => None,
        };
        let page = match page.or_else(|| new_page().map(OnePage)) {
            Some(page) => page,
            None => return Err((ENOMEM, Self::Vacant)),
        };
        let segment = Segment {
            // SAFETY: A page's pointer is never null.
            page: unsafe { NonNull::new_unchecked(page.0.as_ptr()) },
            offset,
            len,
        };
        // SAFETY: The page is the payload.
        unsafe { Request::new(core::iter::once(segment), device.reserve(), page) }
            .map_err(|(error, page)| (error, Self::Page(page.0)))
    }
}

impl From<InFlight<OnePage>> for Memory {
    /// The page of a request that is done.
    #[inline(always)] // For the one caller.
    fn from(io: InFlight<OnePage>) -> Self {
        match io.into_request() {
            Ok(request) => Self::Request(request),
            Err(mut io) => io.take_payload().into(),
        }
    }
}

impl From<Option<OnePage>> for Memory {
    fn from(page: Option<OnePage>) -> Self {
        page.map_or(Self::Vacant, |page| Self::Page(page.0))
    }
}

impl Block {
    /// The size of a block that is not vacant, in bytes.
    pub const SIZE: usize = PAGE_SIZE;

    /// Allocates a block filled with zeroes.
    ///
    /// Fails with `ENOMEM`. May sleep, but in an upcall.
    pub fn new() -> Result<Self> {
        let mut block = Self::vacant();
        block.fill_vacant()?;
        Ok(block)
    }

    /// Makes a vacant block, which gets its page with the first read.
    pub const fn vacant() -> Self {
        Self(Memory::Vacant)
    }

    /// The bytes; none if the block is vacant.
    pub fn as_slice(&self) -> &[u8] {
        match self.0.page() {
            // SAFETY: The page is ours, was zeroed when it was allocated, and is mapped.
            Some(page) => unsafe { core::slice::from_raw_parts(page_address(page), Self::SIZE) },
            None => &[],
        }
    }

    /// The bytes; none if the block is vacant.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match self.0.page() {
            // SAFETY: As in `as_slice`, and we have it to ourselves.
            Some(page) => unsafe {
                core::slice::from_raw_parts_mut(page_address(page), Self::SIZE)
            },
            None => &mut [],
        }
    }

    /// Gives the block a page, filled with zeroes, if it is vacant. Fails with `ENOMEM`. May sleep, but
    /// in an upcall.
    pub fn fill_vacant(&mut self) -> Result {
        if self.0.page().is_none() {
            self.0 = Memory::Page(new_page().ok_or(ENOMEM)?);
        }
        Ok(())
    }

    /// Reads `len` bytes from byte `pos` of the device into the block, from byte `offset` of it on.
    ///
    /// `pos`, `offset` and `len` are multiples of the device's logical block size, and the range fits the
    /// block. Fails with `EIO` and the other errors of the block layer, `ENOMEM`, `EINVAL` and
    /// `ESHUTDOWN`; the bytes of the range are then undefined, but never somebody else's.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the block vacant.
    pub fn read<'a>(
        &'a mut self,
        device: &'a Device,
        pos: u64,
        offset: usize,
        len: usize,
    ) -> Transfer<'a> {
        self.transfer(device, Op::Read, pos, offset, len)
    }

    /// Writes `len` bytes of the block, from byte `offset` of it on, to byte `pos` of the device.
    ///
    /// With `fua` the data is on stable media when the future is ready; else a
    /// [`flush`](Device::flush) brings it there. A vacant block is written as zeroes. Fails with `EBADF` if the
    /// device is open for reading. Otherwise as [`read`](Self::read).
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the block vacant; the device writes nevertheless.
    pub fn write<'a>(
        &'a mut self,
        device: &'a Device,
        pos: u64,
        offset: usize,
        len: usize,
        fua: bool,
    ) -> Transfer<'a> {
        let op = if fua { Op::WriteFua } else { Op::Write };
        self.transfer(device, op, pos, offset, len)
    }

    fn transfer<'a>(
        &'a mut self,
        device: &'a Device,
        op: Op,
        pos: u64,
        offset: usize,
        len: usize,
    ) -> Transfer<'a> {
        // What does not fit is refused when it is started.
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Transfer {
            block: self,
            device,
            op,
            pos,
            offset: narrow(offset),
            len: narrow(len),
            io: None,
        }
    }

    /// Submits a transfer and returns at once.
    fn start(
        &mut self,
        device: &Device,
        op: Op,
        pos: u64,
        offset: usize,
        len: usize,
    ) -> Result<InFlight<OnePage>> {
        let mask = u64::from(device.logical_block_size()).wrapping_sub(1);
        let aligned = (pos | offset as u64 | len as u64) & mask == 0;
        let end = offset.checked_add(len).unwrap_or(usize::MAX);
        if !aligned || end > Self::SIZE {
            return Err(EINVAL);
        }
        let memory = core::mem::replace(&mut self.0, Memory::Vacant);
        let submitted = memory
            .into_request(device, offset as u32, len as u32)
            .and_then(|request| {
                request
                    .submit(device, op, pos, 0)
                    .map_err(|(error, request)| (error, request.into_payload().into()))
            });
        submitted.map_err(|(error, memory)| {
            // What was not submitted keeps its content.
            self.0 = memory;
            error
        })
    }
}

/// The future of [`Block::read`] and [`Block::write`]. Nothing happens before it is polled.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Transfer<'a> {
    block: &'a mut Block,
    device: &'a Device,
    pos: u64,
    io: Option<InFlight<OnePage>>,
    offset: u32,
    len: u32,
    op: Op,
}

impl Transfer<'_> {
    /// Whether what was missing is not memory that was set aside.
    #[cold]
    fn lacks_memory(&self) -> bool {
        self.device.reserve().is_none() || self.block.0.page().is_none()
    }
}

impl Future for Transfer<'_> {
    type Output = Result;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result> {
        let this = &mut *self;
        if this.io.is_none() {
            if this.len == 0 {
                return Poll::Ready(Ok(()));
            }
            let (offset, len) = (this.offset as usize, this.len as usize);
            match this
                .block
                .start(this.device, this.op, this.pos, offset, len)
            {
                Ok(io) => this.io = Some(io),
                Err(ENOMEM) if this.lacks_memory() && memory::wait(cx, Block::SIZE) => {
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let Some(io) = &mut this.io else {
            return Poll::Pending;
        };
        let result = ready!(io.poll_end(cx));
        this.len = 0;
        if let Some(io) = this.io.take() {
            this.block.0 = Memory::from(io);
        }
        Poll::Ready(result)
    }
}

/// The payload of a block's read.
struct OnePage(Page);

impl Payload for OnePage {}
