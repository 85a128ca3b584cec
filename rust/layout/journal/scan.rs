// SPDX-License-Identifier: GPL-2.0

//! Which transactions of a log count, and where the log ends.
//!
//! A reader goes through the log block by block, and tells [`Scan`] each block that is the log's
//! own, and each that is logged, which a descriptor has announced. A transaction counts when its
//! commit block was found. What is behind the last of those is what was being written when the
//! power went, or older than the log: it ends the log, whatever it is.
//!
//! A wrong checksum may be the end, too, if the block is older than the log. The time of the next
//! commit block tells: jbd2's rule is that it is older if the time goes backwards, and that the log
//! is corrupt otherwise.

use super::super::error::{Error, Kind, Result};
use super::block::{BlockType, Header};
use super::superblock::{Checksums, Rules};

/// CRC-32 as the kernel's `crc32_be(crc, data, len)` computes it: most significant bit first, no
/// inversion.
pub type Crc32Be = fn(crc: u32, data: &[u8]) -> u32;

/// What a block of the log's own is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A descriptor: the blocks that its [`Tags`](super::Tags) name follow.
    Descriptor,
    /// A revoke block, with [`Revokes`](super::Revokes).
    Revoke,
    /// The commit block of this transaction, which counts.
    Commit(u32),
    /// Nothing of the log any more.
    End,
}

/// The walk through a log.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    rules: Rules,
    crc32: Crc32Be,
    /// The transaction that is being read.
    tid: u32,
    /// The time of the last commit.
    last_commit: u64,
    /// Whether a checksum of this transaction was wrong.
    unsound: bool,
    /// The CRC-32 of this transaction's blocks.
    transaction: u32,
}

impl Scan {
    /// Begins at transaction `tid`.
    pub fn new(rules: &Rules, tid: u32, crc32: Crc32Be) -> Self {
        Self {
            rules: *rules,
            crc32,
            tid,
            last_commit: 0,
            unsound: false,
            transaction: !0,
        }
    }

    /// The number of the first transaction that does not count, as far as the walk has come.
    pub const fn next_tid(&self) -> u32 {
        self.tid
    }

    /// Tells what block `data` of the log is, which no descriptor has announced.
    ///
    /// # Errors
    ///
    /// [`Kind::Checksum`] if the log is corrupt: something of it counts, and is not what was
    /// written.
    pub fn block(&mut self, data: &[u8]) -> Result<Found> {
        let header = Header::parse(data).filter(|header| header.tid == self.tid);
        let Some(Header { block_type, .. }) = header else {
            return Ok(Found::End);
        };
        match block_type {
            BlockType::Descriptor => {
                self.unsound |= !self.rules.is_sound(data);
                self.logged(data);
                Ok(Found::Descriptor)
            }
            BlockType::Revoke => {
                self.unsound |= !self.rules.is_sound(data);
                Ok(Found::Revoke)
            }
            BlockType::Commit => self.commit(data),
            BlockType::SuperV1 | BlockType::SuperV2 => Ok(Found::End),
        }
    }

    /// Tells of a block that a descriptor has announced.
    pub fn logged(&mut self, data: &[u8]) {
        if self.rules.checksums == Checksums::V1 {
            self.transaction = (self.crc32)(self.transaction, data);
        }
    }

    fn commit(&mut self, data: &[u8]) -> Result<Found> {
        let commit = self.rules.read_commit(data, self.transaction);
        if self.unsound || !commit.sound {
            if commit.secs < self.last_commit {
                return Ok(Found::End);
            }
            return Err(
                Error::new(Kind::Checksum, "journal: transaction {} is corrupt")
                    .with(self.tid, 0u64),
            );
        }
        self.last_commit = commit.secs;
        self.transaction = !0;
        let tid = self.tid;
        self.tid = tid.wrapping_add(1);
        Ok(Found::Commit(tid))
    }
}
