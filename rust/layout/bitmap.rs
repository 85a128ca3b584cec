// SPDX-License-Identifier: GPL-2.0

//! Bitmaps: one bit for each cluster or inode of a group, set if it is in use.
//!
//! A search looks at 64 bits at a time. Bits behind the end of the bytes count as in use.

use super::bytes::{get_u64, get_u8, us};

/// A run of bits that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitRun {
    /// The first bit.
    pub start: u32,
    /// How many; at least 1.
    pub len: u32,
}

impl BitRun {
    /// Returns the first bit behind the run.
    pub const fn end(&self) -> u32 {
        self.start.saturating_add(self.len)
    }
}

/// Returns the 64 bits from bit `n * 64` on.
fn word(bitmap: &[u8], n: u32) -> u64 {
    let at = us(n).saturating_mul(8);
    get_u64(bitmap, at).unwrap_or_else(|| {
        let mut bytes = [0xff; 8];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = get_u8(bitmap, at.saturating_add(i)).unwrap_or(0xff);
        }
        u64::from_le_bytes(bytes)
    })
}

/// Returns the first bit from `from` on that is set or, if `flip` has all bits, clear; `end` if
/// there is none before it.
fn next(bitmap: &[u8], from: u32, end: u32, flip: u64) -> u32 {
    let mut at = from;
    while at < end {
        let found = (word(bitmap, at / 64) ^ flip) >> (at % 64);
        if found != 0 {
            return at.saturating_add(found.trailing_zeros()).min(end);
        }
        at = (at | 63).saturating_add(1);
    }
    end
}

/// Returns the first clear bit in `from..end`.
pub fn next_free(bitmap: &[u8], from: u32, end: u32) -> Option<u32> {
    Some(next(bitmap, from, end, u64::MAX)).filter(|&bit| bit < end)
}

/// Returns the first set bit in `from..end`, or `end`.
pub fn next_used(bitmap: &[u8], from: u32, end: u32) -> u32 {
    next(bitmap, from, end, 0)
}

/// Returns an iterator over the runs of clear bits in `from..end`, in ascending order.
pub fn free_runs(bitmap: &[u8], from: u32, end: u32) -> FreeRuns<'_> {
    FreeRuns {
        bitmap,
        at: from,
        end,
    }
}

/// An iterator over runs of clear bits; see [`free_runs`].
#[derive(Clone, Debug)]
pub struct FreeRuns<'a> {
    bitmap: &'a [u8],
    at: u32,
    end: u32,
}

impl Iterator for FreeRuns<'_> {
    type Item = BitRun;

    fn next(&mut self) -> Option<BitRun> {
        let start = next_free(self.bitmap, self.at, self.end)?;
        self.at = next_used(self.bitmap, start, self.end);
        Some(BitRun {
            start,
            len: self.at.saturating_sub(start),
        })
    }
}

/// Finds clear bits among the first `bits`: the first run of at least `min` from `goal` on, else
/// the first one before; at most `max` bits of it.
///
/// A run around `goal` counts from there, unless nothing else is found: then what precedes `goal`
/// counts with it.
pub fn find_free(bitmap: &[u8], bits: u32, goal: u32, min: u32, max: u32) -> Option<BitRun> {
    let min = min.max(1);
    let goal = if goal < bits { goal } else { 0 };
    let long = |run: &BitRun| run.len >= min;
    let found = free_runs(bitmap, goal, bits).find(long).or_else(|| {
        free_runs(bitmap, 0, bits)
            .take_while(|run| run.start < goal)
            .find(long)
    })?;
    Some(BitRun {
        start: found.start,
        len: found.len.min(max.max(min)),
    })
}

/// Returns the longest run of clear bits in `from..end`, the first one if several are; and how many
/// bits are clear.
pub fn longest_free(bitmap: &[u8], from: u32, end: u32) -> (Option<BitRun>, u32) {
    let mut longest: Option<BitRun> = None;
    let mut count = 0u32;
    for run in free_runs(bitmap, from, end) {
        count = count.saturating_add(run.len);
        if longest.is_none_or(|best| run.len > best.len) {
            longest = Some(run);
        }
    }
    (longest, count)
}

/// Counts the clear bits among the first `bits`.
pub fn count_free(bitmap: &[u8], bits: u32) -> u32 {
    let mut count = 0u32;
    for n in 0..bits.div_ceil(64) {
        let left = bits.saturating_sub(n.saturating_mul(64));
        let mask = if left < 64 { (1 << left) - 1 } else { u64::MAX };
        count = count.saturating_add((!word(bitmap, n) & mask).count_ones());
    }
    count
}

/// Sets `len` bits from `start` on.
///
/// # Errors
///
/// The first bit that is set already, or does not exist; nothing changes then.
pub fn set_range(bitmap: &mut [u8], start: u32, len: u32) -> Result<(), u32> {
    let end = end_of(bitmap, start, len)?;
    match next_used(bitmap, start, end) {
        bit if bit < end => Err(bit),
        _ => {
            write(bitmap, start, end, true);
            Ok(())
        }
    }
}

/// Clears `len` bits from `start` on.
///
/// # Errors
///
/// The first bit that is clear already, or does not exist; nothing changes then.
pub fn clear_range(bitmap: &mut [u8], start: u32, len: u32) -> Result<(), u32> {
    let end = end_of(bitmap, start, len)?;
    match next_free(bitmap, start, end) {
        Some(bit) => Err(bit),
        None => {
            write(bitmap, start, end, false);
            Ok(())
        }
    }
}

/// Sets `len` bits from `start` on, those too that are set already, as far as there are such bits.
pub fn mark_range(bitmap: &mut [u8], start: u32, len: u32) {
    let end = start.saturating_add(len).min(bits_of(bitmap));
    write(bitmap, start, end, true);
}

/// Sets all bits from bit `bits` to the end of the block, which stand for nothing.
pub fn pad(bitmap: &mut [u8], bits: u32) {
    let end = bits_of(bitmap);
    write(bitmap, bits, end, true);
}

/// Returns whether all bits from bit `bits` to the end of the block are set.
pub fn is_padded(bitmap: &[u8], bits: u32) -> bool {
    next_free(bitmap, bits, bits_of(bitmap)).is_none()
}

/// Returns how many bits there are.
fn bits_of(bitmap: &[u8]) -> u32 {
    u32::try_from(bitmap.len().saturating_mul(8)).unwrap_or(u32::MAX)
}

/// Returns the end of a range, or the first bit of it that does not exist.
fn end_of(bitmap: &[u8], start: u32, len: u32) -> Result<u32, u32> {
    let bits = bits_of(bitmap);
    match start.checked_add(len) {
        Some(end) if end <= bits => Ok(end),
        _ => Err(start.max(bits)),
    }
}

/// Writes the bits in `start..end`.
fn write(bitmap: &mut [u8], start: u32, end: u32, set: bool) {
    let mut at = start;
    while at < end {
        let next = (at | 7).saturating_add(1).min(end);
        // From 1 to 8 bits of one byte.
        let mask = 0xff >> (8 - (next - at)) << (at % 8);
        if let Some(byte) = bitmap.get_mut(us(at / 8)) {
            *byte = if set { *byte | mask } else { *byte & !mask };
        }
        at = next;
    }
}
