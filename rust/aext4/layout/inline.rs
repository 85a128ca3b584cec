// SPDX-License-Identifier: GPL-2.0

//! Contents that lie in the inode: the 60 bytes of `i_block`, then the attribute "system.data".

use super::bytes::get_bytes;
use super::error::{Error, OrShort, Result};
use super::geometry::Geometry;
use super::inode::{Inode, I_BLOCK_SIZE};
use super::xattr::{self, XattrSet, XattrValue};

/// The inline data of a file, a directory or a symbolic link.
#[derive(Clone, Copy, Debug)]
pub struct InlineData<'a> {
    head: &'a [u8],
    tail: &'a [u8],
}

impl<'a> InlineData<'a> {
    /// Finds the inline data in the bytes from which `inode` was parsed.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if it is missing, or lies in another inode.
    pub fn parse(raw: &'a [u8], inode: &Inode, geo: &Geometry) -> Result<Self> {
        let set = XattrSet::in_inode(raw, inode, geo)?;
        let found = set.and_then(|set| set.find(xattr::INDEX_SYSTEM, b"data"));
        match found.map(|x| x.value) {
            Some(XattrValue::Here(tail)) => Ok(Self {
                head: get_bytes(raw, 0x28, I_BLOCK_SIZE).or_short("inode: buffer too short")?,
                tail,
            }),
            _ => Err(Error::corrupt1(
                "inode {}: inline data is missing",
                inode.ino,
            )),
        }
    }

    /// Returns all of the data in its two parts, whatever the inode's size is.
    pub const fn parts(&self) -> (&'a [u8], &'a [u8]) {
        (self.head, self.tail)
    }

    /// Returns the contents of a file or a link in two parts, which together have the inode's size.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the inode is larger than its data.
    pub fn contents(&self, inode: &Inode) -> Result<(&'a [u8], &'a [u8])> {
        let parts = usize::try_from(inode.size).ok().and_then(|size| {
            let in_head = size.min(self.head.len());
            let in_tail = size.checked_sub(in_head)?;
            Some((self.head.get(..in_head)?, self.tail.get(..in_tail)?))
        });
        parts.ok_or_else(|| {
            Error::corrupt2(
                "inode {}: size {} exceeds its inline data",
                inode.ino,
                inode.size,
            )
        })
    }

    /// Copies contents from byte `offset` of the file to `buf`, and returns how many bytes there were.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the inode is larger than its data.
    pub fn read_at(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (head, tail) = self.contents(inode)?;
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let head = head.get(skip.min(head.len())..).unwrap_or(&[]);
        let skip = skip.saturating_sub(I_BLOCK_SIZE);
        let tail = tail.get(skip.min(tail.len())..).unwrap_or(&[]);
        let mut done = 0;
        for (to, from) in buf.iter_mut().zip(head.iter().chain(tail)) {
            *to = *from;
            done += 1;
        }
        Ok(done)
    }
}
