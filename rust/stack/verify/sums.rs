// SPDX-License-Identifier: GPL-2.0

//! The checksums of a file's pages, and what a change of contents makes of them.

use core::ops::Range;
use disk::checksum::crc32c;
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use upcall::Block;

/// The size of a page.
pub(super) const PAGE: u64 = Block::SIZE as u64;

/// Of how many pages there are checksums at most: the longest value that Linux has for an attribute
/// (`XATTR_SIZE_MAX`).
pub(super) const PAGES_MAX: u64 = 65_536 / 4;

/// The checksum of bytes.
pub(super) fn sum_of(bytes: &[u8]) -> u32 {
    !crc32c(!0, bytes)
}

/// How many bytes page `page` of a file of `size` bytes has.
pub(super) fn len_of(page: u64, size: u64) -> usize {
    size.saturating_sub(page.saturating_mul(PAGE)).min(PAGE) as usize
}

/// The checksums of a file, as its attribute has them.
pub(super) struct Sums(KVVec<u8>);

impl Sums {
    /// Those that the attribute has. Fails with `ENOMEM`.
    pub(super) fn new(value: &[u8]) -> Result<Self> {
        let mut sums = KVVec::new();
        sums.extend_from_slice(value, gfp())?;
        Ok(Self(sums))
    }

    /// The value of the attribute.
    pub(super) fn value(&self) -> &[u8] {
        &self.0
    }

    /// Whether a file of this size has a checksum for each page, and no other.
    pub(super) fn fits(&self, size: u64) -> bool {
        self.0.len() as u64 == size.div_ceil(PAGE).saturating_mul(4)
    }

    pub(super) fn get(&self, page: u64) -> Option<u32> {
        let at = usize::try_from(page).ok()?.checked_mul(4)?;
        let sum = self.0.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*sum))
    }

    /// Adds the checksum of the next page. Fails with `ENOMEM`.
    pub(super) fn push(&mut self, sum: u32) -> Result {
        Ok(self.0.extend_from_slice(&sum.to_le_bytes(), gfp())?)
    }

    /// Has room for those of `pages` pages. Fails with `ENOMEM`.
    pub(super) fn reserve(&mut self, pages: u64) -> Result {
        let len = usize::try_from(pages.saturating_mul(4))?;
        Ok(self.0.reserve(len.saturating_sub(self.0.len()), gfp())?)
    }

    /// The checksums of a file of `pages` pages, of which those from `first` on are `new`. There is
    /// room for them ([`reserve`](Self::reserve)).
    pub(super) fn replace(&mut self, first: u64, new: &[u32], pages: u64) {
        let bytes = |pages: u64| usize::try_from(pages.saturating_mul(4)).unwrap_or(usize::MAX);
        self.0.truncate(bytes(pages));
        for (sum, page) in new.iter().zip(first..pages) {
            let at = bytes(page);
            match self.0.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                Some(place) => *place = sum.to_le_bytes(),
                None => {
                    for byte in sum.to_le_bytes() {
                        // Within what was reserved.
                        let _ = self.0.push_within_capacity(byte);
                    }
                }
            }
        }
    }
}

/// A change of contents.
pub(super) enum Edit {
    /// Bytes are written, at the end without a position.
    Write(Option<u64>, KVVec<u8>),
    /// Another size.
    Truncate(u64),
    /// Space, up to which the file grows unless its size is kept.
    Allocate(Range<u64>, bool),
}

/// What a change does to the contents of a file of a certain size.
pub(super) struct Effect<'a> {
    /// The size before.
    pub(super) before: u64,
    /// The size after.
    pub(super) size: u64,
    /// Where bytes are written, or where the file is cut or grows.
    pub(super) start: u64,
    /// What is written there.
    pub(super) bytes: &'a [u8],
}

impl Edit {
    /// What it does to a file of `before` bytes; nothing if the contents stay, or if there are no
    /// such positions.
    pub(super) fn effect(&self, before: u64) -> Option<Effect<'_>> {
        let grown = |size| Effect {
            before,
            size,
            start: size.min(before),
            bytes: &[],
        };
        match self {
            Self::Write(pos, bytes) => {
                let start = pos.unwrap_or(before);
                let end = start.checked_add(bytes.len() as u64)?;
                (!bytes.is_empty()).then_some(Effect {
                    before,
                    size: before.max(end),
                    start,
                    bytes,
                })
            }
            Self::Truncate(size) => (*size != before).then(|| grown(*size)),
            Self::Allocate(range, keep_size) => {
                (!keep_size && range.end > before).then(|| grown(range.end))
            }
        }
    }
}

impl Effect<'_> {
    /// The pages whose checksums change, or that are new.
    pub(super) fn pages(&self) -> Range<u64> {
        let first = self.start.min(self.before) / PAGE;
        let end = match self.bytes.len() as u64 {
            0 => self.size,
            len => self.start.saturating_add(len),
        };
        first..end.div_ceil(PAGE)
    }

    /// Which bytes of page `page` are written, and with what.
    pub(super) fn written(&self, page: u64) -> (Range<usize>, &[u8]) {
        let at = page.saturating_mul(PAGE);
        let end = self.start.saturating_add(self.bytes.len() as u64);
        let from = self.start.max(at).min(at.saturating_add(PAGE));
        let to = end.min(at.saturating_add(PAGE)).max(from);
        let place = (from - at) as usize..(to - at) as usize;
        let skip = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let bytes = self.bytes.get(skip..).unwrap_or(&[]);
        (place.clone(), bytes.get(..place.len()).unwrap_or(&[]))
    }
}
