// SPDX-License-Identifier: GPL-2.0

//! Contents that lie in the inode: the 60 bytes of `i_block`, then the attribute "system.data".

use core::ops::Range;

use super::bytes::get_bytes;
use super::error::{Error, OrShort, Result};
use super::geometry::Geometry;
use super::inode::{Inode, I_BLOCK, I_BLOCK_SIZE};
use super::units::FileType;
use super::xattr::{self, XattrSet, XattrValue};

/// The inline data of a file, a directory or a symbolic link.
#[derive(Clone, Copy, Debug)]
pub struct InlineData<'a> {
    head: &'a [u8],
    tail: &'a [u8],
    /// Where the tail starts in the inode; it matters only if there is a tail.
    tail_at: usize,
}

impl<'a> InlineData<'a> {
    /// Finds the inline data in the bytes from which `inode` was parsed.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if it is missing, lies in another inode, or is too
    /// short for a link.
    pub fn parse(raw: &'a [u8], inode: &Inode, geo: &Geometry) -> Result<Self> {
        let set = XattrSet::in_inode(raw, inode, geo)?;
        let found = set.and_then(|set| set.find(xattr::INDEX_SYSTEM, b"data"));
        let data = match found.map(|x| x.value) {
            Some(XattrValue::Here(tail)) => Self {
                head: get_bytes(raw, I_BLOCK, I_BLOCK_SIZE).or_short("inode: buffer too short")?,
                tail,
                tail_at: set
                    .and_then(|set| set.value_at(xattr::INDEX_SYSTEM, b"data"))
                    .map_or(0, |range| range.start),
            },
            _ => {
                return Err(Error::corrupt1(
                    "inode {}: inline data is missing",
                    inode.ino,
                ))
            }
        };
        let (head, tail) = data.contents(inode);
        let len = head.len().saturating_add(tail.len());
        if inode.file_type == FileType::Symlink && u64::try_from(len) != Ok(inode.size) {
            return Err(Error::corrupt2(
                "inode {}: a link of {} bytes exceeds its inline data",
                inode.ino,
                inode.size,
            ));
        }
        Ok(data)
    }

    /// Returns all of the data in its two parts, whatever the inode's size is.
    pub const fn parts(&self) -> (&'a [u8], &'a [u8]) {
        (self.head, self.tail)
    }

    /// Returns where the two [`parts`](Self::parts) lie in the inode.
    pub fn ranges(&self) -> [Range<usize>; 2] {
        [
            I_BLOCK..I_BLOCK + I_BLOCK_SIZE,
            self.tail_at..self.tail_at.saturating_add(self.tail.len()),
        ]
    }

    /// Returns the contents of a file or a link in two parts.
    ///
    /// Together they have at most the inode's size. A file may be larger than its data, and ends
    /// with zeros then: mke2fs makes such files of those that are one hole.
    pub fn contents(&self, inode: &Inode) -> (&'a [u8], &'a [u8]) {
        let size = usize::try_from(inode.size).unwrap_or(usize::MAX);
        let in_head = size.min(self.head.len());
        let in_tail = size.saturating_sub(in_head).min(self.tail.len());
        (
            self.head.get(..in_head).unwrap_or(&[]),
            self.tail.get(..in_tail).unwrap_or(&[]),
        )
    }

    /// Copies contents from byte `offset` of the file to `buf`, and returns how many bytes there
    /// were.
    pub fn read_at(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> usize {
        let left = usize::try_from(inode.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let done = left.min(buf.len());
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let (head, tail) = self.contents(inode);
        let data = head.iter().chain(tail).skip(skip).copied();
        let zeros = core::iter::repeat(0);
        for (to, from) in buf.iter_mut().take(done).zip(data.chain(zeros)) {
            *to = from;
        }
        done
    }
}
