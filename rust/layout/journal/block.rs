// SPDX-License-Identifier: GPL-2.0

//! Blocks of the log: their header, commit blocks, and checksums.

use super::super::bytes::{get_array, get_bytes, low16, us};
use super::superblock::{Checksums, Rules};

/// What every block of the log's own begins with.
pub const MAGIC: u32 = 0xc03b_3998;

/// The size of a [`Header`] in bytes.
pub(super) const HEADER_SIZE: u32 = 12;

/// The size of the checksum at the end of a descriptor or revoke block, in bytes.
pub(super) const TAIL_SIZE: u32 = 4;

/// Where a commit block has its checksum, and its time.
const COMMIT_KIND: usize = 12;
const COMMIT_SIZE: usize = 13;
const COMMIT_CHECKSUM: usize = 16;
const COMMIT_SECS: usize = 48;
const COMMIT_NANOS: usize = 56;
const COMMIT_END: usize = 64;

/// The kind and the size of a commit block's checksum of version 1: a CRC-32.
const CRC32: (u8, u8) = (1, 4);

/// What a block of the log's own is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// Names the blocks that follow.
    Descriptor,
    /// Ends a transaction, which counts from then on.
    Commit,
    /// The superblock, without features.
    SuperV1,
    /// The superblock.
    SuperV2,
    /// Names blocks that are not to be replayed.
    Revoke,
}

/// What every block of the log's own begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the block is.
    pub block_type: BlockType,
    /// The number of the transaction.
    pub tid: u32,
}

impl Header {
    /// Decodes the header; `None` if there is none.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        if be32(raw, 0)? != MAGIC {
            return None;
        }
        let block_type = match be32(raw, 4)? {
            1 => BlockType::Descriptor,
            2 => BlockType::Commit,
            3 => BlockType::SuperV1,
            4 => BlockType::SuperV2,
            5 => BlockType::Revoke,
            _ => return None,
        };
        Some(Self {
            block_type,
            tid: be32(raw, 8)?,
        })
    }

    /// Writes a header.
    pub fn write(raw: &mut [u8], block_type: BlockType, tid: u32) {
        let code = match block_type {
            BlockType::Descriptor => 1,
            BlockType::Commit => 2,
            BlockType::SuperV1 => 3,
            BlockType::SuperV2 => 4,
            BlockType::Revoke => 5,
        };
        put_be32(raw, 0, MAGIC);
        put_be32(raw, 4, code);
        put_be32(raw, 8, tid);
    }
}

/// Whether a block that is logged begins as a block of the log's own does, so that it needs an
/// escape.
pub fn needs_escape(data: &[u8]) -> bool {
    be32(data, 0) == Some(MAGIC)
}

/// Takes away what makes a block look like one of the log's own.
pub fn escape(data: &mut [u8]) {
    put_be32(data, 0, 0);
}

/// Restores what [`escape`] took away.
pub fn unescape(data: &mut [u8]) {
    put_be32(data, 0, MAGIC);
}

/// Reads a big-endian number of 32 bits.
#[inline]
pub(super) fn be32(raw: &[u8], off: usize) -> Option<u32> {
    get_array(raw, off).map(u32::from_be_bytes)
}

/// Reads a big-endian number of 64 bits.
#[inline]
pub(super) fn be64(raw: &[u8], off: usize) -> Option<u64> {
    get_array(raw, off).map(u64::from_be_bytes)
}

/// Writes a big-endian number of 32 bits, if it is inside of the buffer.
#[inline]
pub(super) fn put_be32(raw: &mut [u8], off: usize, value: u32) {
    put(raw, off, &value.to_be_bytes());
}

/// Writes bytes, if they are inside of the buffer.
#[inline]
pub(super) fn put(raw: &mut [u8], off: usize, bytes: &[u8]) {
    let to = off
        .checked_add(bytes.len())
        .and_then(|end| raw.get_mut(off..end));
    if let Some(to) = to {
        to.copy_from_slice(bytes);
    }
}

/// When a transaction was committed, and whether its commit block is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Seconds since 1970.
    pub secs: u64,
    /// Whether the checksum is right.
    pub sound: bool,
}

impl Rules {
    /// Writes the checksum at the end of a descriptor or revoke block.
    pub(super) fn seal(&self, block: &mut [u8]) {
        if self.has_block_checksums() {
            let at = block.len().saturating_sub(us(TAIL_SIZE));
            put_be32(block, at, 0);
            let sum = (self.crc32c)(self.seed, block);
            put_be32(block, at, sum);
        }
    }

    /// Whether the checksum at the end of a descriptor or revoke block is right.
    pub(super) fn is_sound(&self, block: &[u8]) -> bool {
        let at = block.len().saturating_sub(us(TAIL_SIZE));
        !self.has_block_checksums() || be32(block, at) == Some(self.zeroed(block, at))
    }

    /// The checksum of a block in which the one at `at` counts as zero.
    fn zeroed(&self, block: &[u8], at: usize) -> u32 {
        let head = get_bytes(block, 0, at).unwrap_or(&[]);
        let tail = block.get(at.saturating_add(4)..).unwrap_or(&[]);
        let sum = (self.crc32c)((self.crc32c)(self.seed, head), &[0; 4]);
        (self.crc32c)(sum, tail)
    }

    /// The checksum of a block as it lies in the log, escaped; tags have it, in as many bits as
    /// there are.
    pub fn data_checksum(&self, tid: u32, data: &[u8]) -> u32 {
        let sum = (self.crc32c)((self.crc32c)(self.seed, &tid.to_be_bytes()), data);
        match self.checksums {
            Checksums::None | Checksums::V1 => 0,
            Checksums::V2 => u32::from(low16(sum)),
            Checksums::V3 => sum,
        }
    }

    /// Fills `block` as the commit block of transaction `tid`, at a time since 1970.
    pub fn write_commit(&self, block: &mut [u8], tid: u32, secs: u64, nanos: u32) {
        block.fill(0);
        Header::write(block, BlockType::Commit, tid);
        put(block, COMMIT_SECS, &secs.to_be_bytes());
        put_be32(block, COMMIT_NANOS, nanos);
        if self.has_block_checksums() {
            let sum = (self.crc32c)(self.seed, block);
            put_be32(block, COMMIT_CHECKSUM, sum);
        }
    }

    /// Reads a commit block. `transaction` is the CRC-32 of the transaction's blocks, for version
    /// 1.
    pub(super) fn read_commit(&self, block: &[u8], transaction: u32) -> Commit {
        let stored = be32(block, COMMIT_CHECKSUM).unwrap_or(0);
        let kind = (
            block.get(COMMIT_KIND).copied().unwrap_or(0),
            block.get(COMMIT_SIZE).copied().unwrap_or(0),
        );
        let sound = match self.checksums {
            Checksums::None => true,
            Checksums::V1 => {
                (kind == CRC32 && stored == transaction) || (kind == (0, 0) && stored == 0)
            }
            Checksums::V2 | Checksums::V3 => {
                stored == self.zeroed(block, COMMIT_CHECKSUM) || stored == self.first_part(block)
            }
        };
        Commit {
            secs: be64(block, COMMIT_SECS).unwrap_or(0),
            sound,
        }
    }

    /// The checksum of a commit block of which only the first sector was written: the rest counts
    /// as zero.
    fn first_part(&self, block: &[u8]) -> u32 {
        const ZEROES: [u8; 512] = [0; 512];
        let head = get_bytes(block, 0, COMMIT_CHECKSUM).unwrap_or(&[]);
        let tail = block.get(COMMIT_CHECKSUM + 4..COMMIT_END).unwrap_or(&[]);
        let mut sum = (self.crc32c)((self.crc32c)(self.seed, head), &[0; 4]);
        sum = (self.crc32c)(sum, tail);
        let mut left = block.len().saturating_sub(COMMIT_END);
        while left > 0 {
            let some = ZEROES.get(..left.min(ZEROES.len())).unwrap_or(&[]);
            sum = (self.crc32c)(sum, some);
            left = left.saturating_sub(some.len().max(1));
        }
        sum
    }
}
