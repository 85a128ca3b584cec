// SPDX-License-Identifier: GPL-2.0

//! Descriptor blocks: the tags that name the blocks behind them.

use super::super::bytes::{get_array, low32, us};
use super::block::{be32, put, put_be32, BlockType, Header, HEADER_SIZE, TAIL_SIZE};
use super::superblock::{Checksums, Rules};

/// The bits of a tag's flags.
const ESCAPED: u16 = 0x1;
const SAME_UUID: u16 = 0x2;
const LAST: u16 = 0x8;

/// The size of the identity behind a tag that has one.
const UUID_SIZE: u32 = 16;

/// The name of a block that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Where on the volume it belongs.
    pub block: u64,
    /// Whether its first four bytes were taken away: see [`unescape`](super::block::unescape).
    pub escaped: bool,
    /// Its checksum: 32 or 16 bits, or 0.
    pub checksum: u32,
}

impl Rules {
    /// The size of a tag in bytes.
    fn tag_size(&self) -> u32 {
        match (self.checksums, self.wide) {
            (Checksums::V3, _) => 16,
            (Checksums::V2, true) => 14,
            (Checksums::V2, false) => 10,
            (_, true) => 12,
            (_, false) => 8,
        }
    }

    /// How many bytes of a descriptor or revoke block there are before its checksum.
    pub(super) fn room(&self) -> u32 {
        let tail = if self.has_block_checksums() {
            TAIL_SIZE
        } else {
            0
        };
        self.block_size.saturating_sub(tail)
    }

    /// How many tags a descriptor that is written here has at most.
    pub fn tags_max(&self) -> u32 {
        let room = self.room().saturating_sub(HEADER_SIZE + UUID_SIZE);
        room.checked_div(self.tag_size()).unwrap_or(0)
    }

    /// Whether the checksum that a tag has is that of the block, as it lies in the log.
    pub fn tag_matches(&self, tag: &Tag, tid: u32, data: &[u8]) -> bool {
        !self.has_block_checksums() || tag.checksum == self.data_checksum(tid, data)
    }
}

/// The tags of a descriptor block, in the order of the blocks behind it.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'a> {
    data: &'a [u8],
    rules: Rules,
    at: usize,
    over: bool,
}

impl<'a> Tags<'a> {
    /// Takes a descriptor block.
    pub fn new(data: &'a [u8], rules: &Rules) -> Self {
        Self {
            data,
            rules: *rules,
            at: us(HEADER_SIZE),
            over: false,
        }
    }
}

impl Iterator for Tags<'_> {
    type Item = Tag;

    fn next(&mut self) -> Option<Tag> {
        let (at, size) = (self.at, us(self.rules.tag_size()));
        if self.over || at.saturating_add(size) > us(self.rules.room()) {
            return None;
        }
        let low = be32(self.data, at)?;
        let flags = get_array(self.data, at.saturating_add(6)).map(u16::from_be_bytes)?;
        let high = match self.rules.wide {
            true => be32(self.data, at.saturating_add(8))?,
            false => 0,
        };
        let checksum = match self.rules.checksums {
            Checksums::None | Checksums::V1 => 0,
            Checksums::V2 => {
                let sum = get_array(self.data, at.saturating_add(4)).map(u16::from_be_bytes)?;
                u32::from(sum)
            }
            Checksums::V3 => be32(self.data, at.saturating_add(12))?,
        };
        self.at = at.saturating_add(size);
        if flags & SAME_UUID == 0 {
            self.at = self.at.saturating_add(us(UUID_SIZE));
        }
        self.over = flags & LAST != 0;
        Some(Tag {
            block: u64::from(high) << 32 | u64::from(low),
            escaped: flags & ESCAPED != 0,
            checksum,
        })
    }
}

/// Fills a descriptor block, tag by tag.
#[derive(Debug)]
pub struct TagWriter {
    rules: Rules,
    /// Where the next tag goes.
    at: u32,
    /// Where the last one is.
    last: Option<u32>,
}

impl TagWriter {
    /// Begins a descriptor of transaction `tid` in `block`.
    pub fn new(block: &mut [u8], tid: u32, rules: &Rules) -> Self {
        block.fill(0);
        Header::write(block, BlockType::Descriptor, tid);
        Self {
            rules: *rules,
            at: HEADER_SIZE,
            last: None,
        }
    }

    /// Adds a tag. Returns `false` if the block is full.
    pub fn push(&mut self, block: &mut [u8], tag: &Tag) -> bool {
        let size = self.rules.tag_size();
        // Behind the first tag is the volume's identity, which readers skip.
        let uuid = if self.last.is_none() { UUID_SIZE } else { 0 };
        let end = self.at.saturating_add(size).saturating_add(uuid);
        if end > self.rules.room() {
            return false;
        }
        let at = us(self.at);
        let mut flags = if tag.escaped { ESCAPED } else { 0 };
        if self.last.is_some() {
            flags |= SAME_UUID;
        }
        put_be32(block, at, low32(tag.block));
        put(block, at.saturating_add(6), &flags.to_be_bytes());
        if self.rules.wide {
            put_be32(block, at.saturating_add(8), low32(tag.block >> 32));
        }
        match self.rules.checksums {
            Checksums::None | Checksums::V1 => {}
            Checksums::V2 => {
                let [_, _, a, b] = tag.checksum.to_be_bytes();
                put(block, at.saturating_add(4), &[a, b]);
            }
            Checksums::V3 => put_be32(block, at.saturating_add(12), tag.checksum),
        }
        self.last = Some(self.at);
        self.at = end;
        true
    }

    /// Ends the descriptor, which has a tag.
    pub fn finish(self, block: &mut [u8]) {
        if let Some(last) = self.last {
            let at = us(last).saturating_add(6);
            let flags = get_array(block, at).map_or(0, u16::from_be_bytes);
            put(block, at, &(flags | LAST).to_be_bytes());
        }
        self.rules.seal(block);
    }
}
