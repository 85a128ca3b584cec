// SPDX-License-Identifier: GPL-2.0

//! The journal's superblock: the first 1,024 bytes of its first block.

use super::super::bytes::{get_array, get_bytes, us};
use super::super::csum::Crc32c;
use super::super::error::{Error, Kind, OrShort, Result};
use super::block::{be32, put_be32, BlockType, Header, HEADER_SIZE};

/// How many bytes the superblock has.
pub const SUPER_SIZE: usize = 1024;

/// The fewest blocks that a log has.
const LOG_MIN: u32 = 1024;

/// How many blocks fast commits have if the superblock does not say.
const FAST_COMMIT_BLOCKS: u32 = 256;

/// The checksum type of CRC-32C.
const CRC32C: u8 = 4;

const BLOCK_SIZE: usize = 0xc;
const TOTAL: usize = 0x10;
const FIRST: usize = 0x14;
const SEQUENCE: usize = 0x18;
const START: usize = 0x1c;
const ERRNO: usize = 0x20;
const COMPAT: usize = 0x24;
const INCOMPAT: usize = 0x28;
const RO_COMPAT: usize = 0x2c;
const UUID: usize = 0x30;
const CHECKSUM_TYPE: usize = 0x50;
const FAST_COMMITS: usize = 0x54;
const HEAD: usize = 0x58;
const CHECKSUM: usize = 0xfc;

const SHORT: &str = "journal superblock: buffer too short";

/// Bits of the compatible features.
const COMPAT_CHECKSUM: u32 = 0x1;

/// Bits of the incompatible features.
mod incompat {
    pub(super) const REVOKE: u32 = 0x1;
    pub(super) const B64: u32 = 0x2;
    pub(super) const CSUM_V2: u32 = 0x8;
    pub(super) const CSUM_V3: u32 = 0x10;
    pub(super) const FAST_COMMIT: u32 = 0x20;
    pub(super) const KNOWN: u32 = 0x3f;
}

/// Which checksums a log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// None.
    None,
    /// One for each transaction, in its commit block.
    V1,
    /// One for each block, of which tags have 16 bits.
    V2,
    /// One for each block.
    V3,
}

/// How the blocks of a log are read and written.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The size of a block in bytes: the volume's.
    pub block_size: u32,
    /// Which checksums there are.
    pub checksums: Checksums,
    /// Whether block numbers have 64 bits.
    pub wide: bool,
    /// Where every CRC-32C starts from.
    pub(super) seed: u32,
    pub(super) crc32c: Crc32c,
}

impl Rules {
    /// Whether every block has a checksum.
    #[inline]
    pub const fn has_block_checksums(&self) -> bool {
        matches!(self.checksums, Checksums::V2 | Checksums::V3)
    }
}

/// A checked superblock.
#[derive(Clone, Copy, Debug)]
pub struct JournalSuper {
    /// How the log is read.
    pub rules: Rules,
    /// The first block of the log.
    pub first: u32,
    /// The end of the log, exclusive.
    pub end: u32,
    /// How many blocks there are for fast commits, from `end` on.
    pub fast_commit_blocks: u32,
    /// The block that the oldest transaction begins at, or 0 if the log is empty.
    pub start: u32,
    /// The number of the oldest transaction, or one that is not later than the next if the log is
    /// empty.
    pub sequence: u32,
    /// Where the next transaction may begin, if the log is empty; 0 if it is not known.
    pub head: u32,
    /// The error that the log was given up for, or 0.
    pub errno: u32,
    /// Whether the superblock is of version 2, which has features.
    has_features: bool,
}

impl JournalSuper {
    /// Parses and checks the superblock, at the start of `raw`, of a journal that has `len` blocks
    /// of `block_size` bytes.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`], [`Kind::Checksum`], and [`Kind::Feature`].
    pub fn parse(raw: &[u8], block_size: u32, len: u32, crc32c: Crc32c) -> Result<Self> {
        let raw = raw.get(..SUPER_SIZE).or_short(SHORT)?;
        let word = |off| be32(raw, off).or_short(SHORT);
        let version = match Header::parse(raw).map(|header| header.block_type) {
            Some(BlockType::SuperV1) => 1,
            Some(BlockType::SuperV2) => 2,
            _ => return Err(Error::corrupt("journal: no superblock")),
        };
        if word(BLOCK_SIZE)? != block_size {
            return Err(Error::corrupt1(
                "journal: blocks of {} bytes",
                word(BLOCK_SIZE)?,
            ));
        }
        let (total, first) = (word(TOTAL)?, word(FIRST)?);
        if total > len {
            return Err(Error::corrupt2(
                "journal: {} blocks, but the file has {}",
                total,
                len,
            ));
        }
        let has_features = version == 2;
        let features = |off| if has_features { word(off) } else { Ok(0) };
        let (compat, incompat) = (features(COMPAT)?, features(INCOMPAT)?);
        if incompat & !incompat::KNOWN != 0 || features(RO_COMPAT)? != 0 {
            return Err(
                Error::new(Kind::Feature, "journal: unknown features {x}").with(incompat, 0u64)
            );
        }
        let checksums = match (
            compat & COMPAT_CHECKSUM != 0,
            incompat & incompat::CSUM_V2 != 0,
            incompat & incompat::CSUM_V3 != 0,
        ) {
            (false, false, false) => Checksums::None,
            (true, false, false) => Checksums::V1,
            (false, true, false) => Checksums::V2,
            (false, false, true) => Checksums::V3,
            _ => return Err(Error::corrupt("journal: more than one kind of checksums")),
        };
        let fast_commit_blocks = match (incompat & incompat::FAST_COMMIT != 0, word(FAST_COMMITS)?)
        {
            (false, _) => 0,
            (true, 0) => FAST_COMMIT_BLOCKS,
            (true, blocks) => blocks,
        };
        let end = total.saturating_sub(fast_commit_blocks);
        if end < LOG_MIN || first == 0 || first >= end {
            return Err(Error::corrupt2(
                "journal: the log has blocks {} to {}",
                first,
                end,
            ));
        }
        let uuid: [u8; 16] = get_array(raw, UUID).or_short(SHORT)?;
        let sb = Self {
            rules: Rules {
                block_size,
                checksums,
                wide: incompat & incompat::B64 != 0,
                seed: crc32c(!0, &uuid),
                crc32c,
            },
            first,
            end,
            fast_commit_blocks,
            start: word(START)?,
            sequence: word(SEQUENCE)?,
            head: word(HEAD)?,
            errno: word(ERRNO)?,
            has_features,
        };
        if sb.rules.has_block_checksums() {
            if raw.get(CHECKSUM_TYPE) != Some(&CRC32C) {
                return Err(Error::corrupt("journal: unknown kind of checksum"));
            }
            let (stored, computed) = (word(CHECKSUM)?, checksum(raw, crc32c));
            if stored != computed {
                return Err(Error::checksum(
                    "journal superblock: checksum {x}, but {x} expected",
                    stored,
                    computed,
                ));
            }
        }
        if sb.start != 0 && !(first..end).contains(&sb.start) {
            return Err(Error::corrupt1(
                "journal: it begins at block {}, outside of the log",
                sb.start,
            ));
        }
        Ok(sb)
    }

    /// How many blocks the log has.
    pub const fn len(&self) -> u32 {
        self.end.saturating_sub(self.first)
    }

    /// Whether the log has no block, which a checked superblock does not say.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is a transaction in the log.
    pub const fn needs_recovery(&self) -> bool {
        self.start != 0
    }

    /// Where the next transaction begins while the log is empty.
    pub fn next_block(&self) -> u32 {
        match self.head {
            block if (self.first..self.end).contains(&block) => block,
            _ => self.first,
        }
    }

    /// The block that is `count` blocks behind `block` in the ring.
    pub fn after(&self, block: u32, count: u32) -> u32 {
        let len = u64::from(self.len().max(1));
        let offset = u64::from(block.saturating_sub(self.first)) + u64::from(count);
        let offset = offset.checked_rem(len).unwrap_or(0);
        // Less than the length of the log.
        self.first
            .saturating_add(u32::try_from(offset).unwrap_or(0))
    }

    /// How many blocks there are from `from` up to `to`, exclusive, in the ring.
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from {
            to - from
        } else {
            self.len().saturating_sub(from - to)
        }
    }

    /// Says in the superblock `raw` that the log begins at block `start` with transaction
    /// `sequence`.
    pub fn set_tail(&mut self, raw: &mut [u8], start: u32, sequence: u32) {
        (self.start, self.sequence) = (start, sequence);
        put_be32(raw, START, start);
        put_be32(raw, SEQUENCE, sequence);
        self.seal(raw);
    }

    /// Says in the superblock `raw` that the log is empty, that the next transaction is not earlier
    /// than `sequence`, and where it begins. There are no fast commits then.
    pub fn set_empty(&mut self, raw: &mut [u8], sequence: u32, head: u32) {
        (self.start, self.sequence, self.head) = (0, sequence, head);
        put_be32(raw, START, 0);
        put_be32(raw, SEQUENCE, sequence);
        put_be32(raw, HEAD, head);
        if self.has_features {
            let incompat = be32(raw, INCOMPAT).unwrap_or(0);
            put_be32(raw, INCOMPAT, incompat & !incompat::FAST_COMMIT);
        }
        self.seal(raw);
    }

    /// Says in the superblock `raw` why the log was given up, or that it was not, by 0.
    pub fn set_errno(&mut self, raw: &mut [u8], errno: u32) {
        self.errno = errno;
        put_be32(raw, ERRNO, errno);
        self.seal(raw);
    }

    /// Says in the superblock `raw` how the log is written: with revoke blocks, with block numbers
    /// of 64 bits if `wide`, and with a checksum for each block if `checksums`. The log is empty.
    ///
    /// A superblock of version 1 becomes one of version 2.
    pub fn set_rules(&mut self, raw: &mut [u8], wide: bool, checksums: bool) {
        debug_assert!(!self.needs_recovery());
        let old = |off| match self.has_features {
            true => be32(raw, off).unwrap_or(0),
            false => 0,
        };
        let bit = |on: bool, bit: u32| if on { bit } else { 0 };
        let kept = old(INCOMPAT) & incompat::FAST_COMMIT;
        let (compat, ro_compat) = (old(COMPAT) & !COMPAT_CHECKSUM, old(RO_COMPAT));
        let incompat =
            kept | incompat::REVOKE | bit(wide, incompat::B64) | bit(checksums, incompat::CSUM_V3);
        put_be32(raw, COMPAT, compat);
        put_be32(raw, INCOMPAT, incompat);
        put_be32(raw, RO_COMPAT, ro_compat);
        Header::write(raw, BlockType::SuperV2, 0);
        if let Some(kind) = raw.get_mut(CHECKSUM_TYPE) {
            *kind = if checksums { CRC32C } else { 0 };
        }
        self.has_features = true;
        self.rules.wide = wide;
        self.rules.checksums = match checksums {
            true => Checksums::V3,
            false => Checksums::None,
        };
        self.seal(raw);
    }

    fn seal(&self, raw: &mut [u8]) {
        if self.rules.has_block_checksums() {
            let raw = raw.get_mut(..SUPER_SIZE).unwrap_or(&mut []);
            let sum = checksum(raw, self.rules.crc32c);
            put_be32(raw, CHECKSUM, sum);
        }
    }
}

/// The superblock's own checksum, which does not start from the log's seed.
fn checksum(raw: &[u8], crc32c: Crc32c) -> u32 {
    let head = get_bytes(raw, 0, CHECKSUM).unwrap_or(&[]);
    let tail = raw.get(CHECKSUM + 4..SUPER_SIZE).unwrap_or(&[]);
    crc32c(crc32c(crc32c(!0, head), &[0; 4]), tail)
}

const _: () = assert!(us(HEADER_SIZE) <= BLOCK_SIZE);
