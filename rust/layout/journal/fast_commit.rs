// SPDX-License-Identifier: GPL-2.0

//! Fast commits: changes that ext4 wrote behind the log, in a form of its own.
//!
//! They are recognised, and not applied. They count if a block of them has a head for the
//! transaction that would be next, and a tail with the right checksum behind it.

use super::super::bytes::{get_array, get_bytes, get_u16, get_u32};
use super::superblock::Rules;

/// The size of what each record begins with: its kind and the length of the rest.
const RECORD: usize = 4;

const TAIL: u16 = 8;
const HEAD: u16 = 9;

/// The walk through the blocks of fast commits.
#[derive(Clone, Copy, Debug)]
pub struct FastCommits {
    rules: Rules,
    /// The transaction that they are to belong to.
    tid: u32,
    crc: u32,
    begun: bool,
}

/// What the blocks so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// There are no fast commits.
    No,
    /// There are.
    Yes,
    /// The next block tells.
    Unknown,
}

impl FastCommits {
    /// Begins at the first block behind a log whose next transaction is `tid`.
    pub fn new(rules: &Rules, tid: u32) -> Self {
        Self {
            rules: *rules,
            tid,
            crc: 0,
            begun: false,
        }
    }

    /// Tells what there is, the next block being `data`.
    pub fn block(&mut self, data: &[u8]) -> Pending {
        let mut at = 0usize;
        if !core::mem::replace(&mut self.begun, true) && get_u16(data, 0) != Some(HEAD) {
            return Pending::No;
        }
        while let (Some(kind), Some(len)) = (get_u16(data, at), get_u16(data, at.saturating_add(2)))
        {
            let whole = RECORD.saturating_add(usize::from(len));
            let value = at.saturating_add(RECORD);
            let Some(record) = get_bytes(data, at, whole) else {
                return Pending::No;
            };
            match kind {
                // Both have two words; the head's second one is the transaction's number.
                HEAD if get_u32(data, value.saturating_add(4)) != Some(self.tid) => {
                    return Pending::No;
                }
                TAIL => {
                    let covered = get_bytes(data, at, RECORD + 4).unwrap_or(&[]);
                    let crc = (self.rules.crc32c)(self.crc, covered);
                    let tail: Option<[u8; 8]> = get_array(data, value);
                    let [a, b, c, d, e, f, g, h] = tail.unwrap_or([0; 8]);
                    let ends = u32::from_le_bytes([a, b, c, d]) == self.tid;
                    return match ends && u32::from_le_bytes([e, f, g, h]) == crc {
                        true => Pending::Yes,
                        false => Pending::No,
                    };
                }
                0 => return Pending::No,
                kind if kind > HEAD => return Pending::No,
                _ => self.crc = (self.rules.crc32c)(self.crc, record),
            }
            at = at.saturating_add(whole);
        }
        Pending::Unknown
    }
}
