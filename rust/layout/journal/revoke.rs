// SPDX-License-Identifier: GPL-2.0

//! Revoke blocks: what earlier transactions logged of a block is not replayed.
//!
//! A block of metadata that is freed may be used for data, which is not logged. A replay of what
//! the block was before would destroy it.

use super::super::bytes::{low32, us};
use super::super::error::{Error, Result};
use super::block::{be32, be64, put, put_be32, BlockType, Header, HEADER_SIZE};
use super::superblock::Rules;

/// Where the count is, and the first record: behind the header.
const COUNT: usize = HEADER_SIZE as usize;
const FIRST: u32 = HEADER_SIZE + 4;

impl Rules {
    /// The size of a record in bytes.
    fn revoke_size(&self) -> u32 {
        if self.wide {
            8
        } else {
            4
        }
    }

    /// How many records a revoke block has at most.
    pub fn revokes_max(&self) -> u32 {
        let room = self.room().saturating_sub(FIRST);
        room.checked_div(self.revoke_size()).unwrap_or(0)
    }
}

/// The block numbers of a revoke block.
#[derive(Clone, Copy, Debug)]
pub struct Revokes<'a> {
    data: &'a [u8],
    size: u32,
    at: u32,
    end: u32,
}

impl<'a> Revokes<'a> {
    /// Takes a revoke block.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::super::Kind::Corrupt) if it says that it is longer than a block.
    pub fn new(data: &'a [u8], rules: &Rules) -> Result<Self> {
        let end = be32(data, COUNT).unwrap_or(0);
        if end > rules.room() {
            return Err(Error::corrupt1("journal: a revoke block of {} bytes", end));
        }
        Ok(Self {
            data,
            size: rules.revoke_size(),
            at: FIRST,
            end,
        })
    }
}

impl Iterator for Revokes<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let next = self.at.checked_add(self.size)?;
        if next > self.end {
            return None;
        }
        let at = us(core::mem::replace(&mut self.at, next));
        match self.size {
            8 => be64(self.data, at),
            _ => be32(self.data, at).map(u64::from),
        }
    }
}

/// Fills a revoke block, number by number.
#[derive(Debug)]
pub struct RevokeWriter {
    rules: Rules,
    at: u32,
}

impl RevokeWriter {
    /// Begins a revoke block of transaction `tid` in `block`.
    pub fn new(block: &mut [u8], tid: u32, rules: &Rules) -> Self {
        block.fill(0);
        Header::write(block, BlockType::Revoke, tid);
        Self {
            rules: *rules,
            at: FIRST,
        }
    }

    /// Adds the number of a block. Returns `false` if the revoke block is full.
    pub fn push(&mut self, block: &mut [u8], number: u64) -> bool {
        let next = self.at.saturating_add(self.rules.revoke_size());
        if next > self.rules.room() {
            return false;
        }
        let at = us(core::mem::replace(&mut self.at, next));
        match self.rules.wide {
            true => put(block, at, &number.to_be_bytes()),
            false => put_be32(block, at, low32(number)),
        }
        true
    }

    /// Ends the revoke block.
    pub fn finish(self, block: &mut [u8]) {
        put_be32(block, COUNT, self.at);
        self.rules.seal(block);
    }
}
