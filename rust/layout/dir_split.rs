// SPDX-License-Identifier: GPL-2.0

//! What is done with a block of entries that has no room for one more name.
//!
//! A leaf of an index is split in two by the hash of its names; the first block of a linear
//! directory becomes the root of an index with two leaves. Both begin with [`plan`], which sorts
//! the names in memory that the caller lends. [`Split`] then says which half the new name goes to
//! and where in it, and writes the halves.
//!
//! ```text
//!   a leaf:                                      block 0 of a linear directory:
//!   split.upper(&old, new)                       split.lower(&old, new_1)
//!   split.cut(old)                               split.upper(&old, new_2)
//!   the index: htree_edit::IndexPlan             split.root(block_0, leaves, ...)
//! ```
//!
//! Names with one hash may come to lie in both halves; the lowest bit of the hash in the index says
//! so, and a look-up then goes on to the next leaf.

use core::ops::DerefMut;

use super::bytes::{get_bytes, get_u8, put_u16, us};
use super::dir::{Dirents, MIN_ENTRY};
use super::dir_edit::{
    encode_len, end_of_entries, entries, entries_end, entry_len, finish, header, nameless,
    not_as_planned, parent_entry, Filler, Name, Slot,
};
use super::error::{Error, OrShort, Result};
use super::geometry::Geometry;
use super::hash::HashVersion;
use super::htree_edit;
use super::sort;
use super::units::{Ino, Lblk};

const SHORT: &str = "directory block: buffer too short";

/// A name in a block that is to be split.
#[derive(Clone, Copy, Debug, Default)]
pub struct SplitEntry {
    hash: u32,
    /// Where the entry is, in units of four bytes.
    at: u16,
    /// How long it is, in the same units.
    len: u16,
    /// How much of it the name needs, likewise.
    used: u8,
}

impl SplitEntry {
    fn offset(&self) -> u32 {
        u32::from(self.at) * 4
    }

    fn used(&self) -> u32 {
        u32::from(self.used) * 4
    }
}

/// Returns how many [`SplitEntry`]s [`plan`] needs for a block of the volume.
pub fn split_entries(geo: &Geometry) -> usize {
    us(geo.block_size() / MIN_ENTRY)
}

/// One of two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Names with lower hashes.
    Lower,
    /// Names with higher hashes.
    Upper,
}

/// What to do with a full block.
#[derive(Clone, Copy, Debug)]
pub enum Full<M> {
    /// The block has fewer than two names, and room in pieces that [`pack`] brings together. The
    /// new name goes to the slot after that. What ext4 writes is never so.
    Pack(Slot),
    /// Its names go to two blocks.
    Split(Split<M>),
}

/// How the names of a block go to two.
///
/// `M` is the memory that the caller lent.
#[derive(Clone, Copy, Debug)]
pub struct Split<M> {
    /// The lower half, sorted by offset, then the upper half, sorted by hash.
    map: M,
    count: usize,
    /// How many are in the lower half.
    lower: usize,
    index_hash: u32,
    half: Half,
    slot: Slot,
}

/// Where the names of a block start.
enum First {
    /// At the start, in a leaf.
    Leaf,
    /// Behind ".." of this directory.
    Linear(Ino),
}

/// Plans what to do with `data`, a full leaf, to make room for `name`.
///
/// `map` is memory for [`split_entries`] entries: a slice, or a vector.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt), also if `map` is too short, and
/// [`Kind::Checksum`](super::Kind::Checksum) if the block has no place for its checksum.
pub fn plan<M: DerefMut<Target = [SplitEntry]>>(
    data: &[u8],
    name: Name<'_>,
    version: HashVersion,
    map: M,
    geo: &Geometry,
) -> Result<Full<M>> {
    plan_from(data, First::Leaf, name, version, map, geo)
}

/// Plans what to do with `data`, the full and only block of the directory `dir` without an index.
///
/// A split takes two fresh blocks here, and the inode gets the flag
/// [`INDEX`](super::InodeFlags::INDEX). The index uses
/// [`HashParams::new_index`](super::hash::HashParams::new_index).
///
/// # Errors
///
/// As for [`plan`].
pub fn plan_linear<M: DerefMut<Target = [SplitEntry]>>(
    data: &[u8],
    dir: Ino,
    name: Name<'_>,
    map: M,
    geo: &Geometry,
) -> Result<Full<M>> {
    let version = geo.hash().new_index()?;
    plan_from(data, First::Linear(dir), name, version, map, geo)
}

fn plan_from<M: DerefMut<Target = [SplitEntry]>>(
    data: &[u8],
    first: First,
    name: Name<'_>,
    version: HashVersion,
    mut map: M,
    geo: &Geometry,
) -> Result<Full<M>> {
    let chain = entries(data, geo)?;
    let skip_to = match first {
        First::Leaf => 0,
        First::Linear(dir) => {
            let dotdot = parent_entry(data, dir, geo)?;
            // A root has both at fixed places.
            if dotdot.offset != MIN_ENTRY {
                return Err(Error::corrupt1("directory {}: '..' out of place", dir));
            }
            dotdot.next
        }
    };
    let hash = |name: &[u8]| geo.hash().hash(version, name).major;
    let count = make_map(data, &chain, skip_to, hash, &mut map, geo)?;
    if count < 2 {
        let slot = packed_slot(data, &chain, geo)?;
        return match slot.fits(name) {
            true => Ok(Full::Pack(slot)),
            false => Err(Error::corrupt("directory block: no room for two names")),
        };
    }
    let sorted = map.get_mut(..count).or_short(SHORT)?;
    sort::sort_by_key(sorted, |e| (e.hash, e.at));
    let lower = split_point(sorted, geo);
    let (low, high) = sorted.split_at_mut_checked(lower).or_short(SHORT)?;
    let (Some(before), Some(after)) = (low.last(), high.first()) else {
        return Err(Error::corrupt("directory block: cannot be split"));
    };
    let index_hash = after.hash | u32::from(after.hash == before.hash);
    let half = match hash(name.bytes()) >= after.hash {
        true => Half::Upper,
        false => Half::Lower,
    };
    sort::sort_by_key(low, |e| e.at);
    let slot = match half {
        Half::Lower => last_slot(low, geo),
        Half::Upper => last_slot(high, geo),
    };
    if !slot.fits(name) {
        // Each half is at most a bit fuller than half, so that a full block's halves do have room.
        return Err(Error::corrupt("directory block: no room after a split"));
    }
    Ok(Full::Split(Split {
        map,
        count,
        lower,
        index_hash,
        half,
        slot,
    }))
}

/// Fills `map` with the entries in use from `skip_to` on; returns how many there are.
fn make_map(
    data: &[u8],
    chain: &Dirents<'_>,
    skip_to: u32,
    hash: impl Fn(&[u8]) -> u32,
    map: &mut [SplitEntry],
    geo: &Geometry,
) -> Result<usize> {
    let end = end_of_entries(geo);
    let (mut pos, mut count) = (0, 0usize);
    while us(pos) < end {
        let raw = chain.raw_entry(pos).ok_or_else(|| chain.complaint(pos))?;
        if raw.ino != 0 && pos >= skip_to {
            if raw.name_len == 0 {
                return Err(nameless(pos));
            }
            let name = get_bytes(data, us(pos) + 8, usize::from(raw.name_len)).or_short(SHORT)?;
            if name == b"." {
                return Err(stray_dot(pos));
            }
            let entry = map
                .get_mut(count)
                .or_short("directory block: too little memory to split it")?;
            let units = |bytes: u32| u16::try_from(bytes / 4).unwrap_or(u16::MAX);
            *entry = SplitEntry {
                hash: hash(name),
                at: units(pos),
                len: units(raw.next.saturating_sub(pos)),
                used: u8::try_from(entry_len(raw.name_len) / 4).unwrap_or(u8::MAX),
            };
            count += 1;
        }
        pos = raw.next;
    }
    Ok(count)
}

/// Returns how many of the entries, which are sorted by hash, stay in the lower half.
///
/// It is ext4's choice. The upper half takes entries until more than half of the next would be
/// beyond the middle of the block. If it could take them all, each half gets half of them.
fn split_point(sorted: &[SplitEntry], geo: &Geometry) -> usize {
    let middle = geo.block_size() / 2;
    let mut size = 0;
    for (i, entry) in sorted.iter().enumerate().rev() {
        let len = u32::from(entry.len) * 4;
        if size + len / 2 > middle {
            return i + 1;
        }
        size += len;
    }
    sorted.len() / 2
}

/// The refusal of a "." that is not where it belongs, and could become the last entry of a block.
#[cold]
fn stray_dot(offset: u32) -> Error {
    Error::corrupt1("directory entry at {}: '.' out of place", offset)
}

/// Returns the room behind the last of some entries that are packed in this order.
fn last_slot(packed: &[SplitEntry], geo: &Geometry) -> Slot {
    let total: u32 = packed.iter().map(SplitEntry::used).sum();
    let last = packed.last().map_or(0, SplitEntry::used);
    slot_behind(total.saturating_sub(last), last, geo)
}

fn slot_behind(offset: u32, used: u32, geo: &Geometry) -> Slot {
    // A block has 64 KiB at most.
    let end = u32::try_from(end_of_entries(geo)).unwrap_or(0);
    Slot {
        offset,
        used,
        len: end.saturating_sub(offset),
    }
}

/// Returns the room behind the last entry once the block is packed.
fn packed_slot(data: &[u8], chain: &Dirents<'_>, geo: &Geometry) -> Result<Slot> {
    let (mut pos, mut to, mut last, mut dot) = (0, 0, 0, false);
    while us(pos) < end_of_entries(geo) {
        let raw = chain.raw_entry(pos).ok_or_else(|| chain.complaint(pos))?;
        if raw.ino != 0 {
            if raw.name_len == 0 {
                return Err(nameless(pos));
            }
            dot = raw.name_len == 1 && get_u8(data, us(pos) + 8) == Some(b'.');
            last = entry_len(raw.name_len);
            to += last;
        }
        pos = raw.next;
    }
    if dot {
        return Err(stray_dot(to.saturating_sub(last)));
    }
    Ok(slot_behind(to.saturating_sub(last), last, geo))
}

/// Brings the names of a block together; what follows them is room behind the last.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) or [`Kind::Checksum`](super::Kind::Checksum) if the
/// block is not sound; it is then unchanged.
pub fn pack(buf: &mut [u8], geo: &Geometry) -> Result<()> {
    // After this walk the one below cannot fail.
    packed_slot(buf, &entries(buf, geo)?, geo)?;
    let end = end_of_entries(geo);
    let (mut pos, mut to, mut last) = (0, 0, 0);
    while pos < end {
        let (ino, len, name_len) = header(buf, pos, geo).or_short(SHORT)?;
        if ino.0 != 0 {
            last = to;
            to += move_entry(buf, pos, to, entry_len(name_len)).or_short(SHORT)?;
        }
        pos += us(len);
    }
    buf.get_mut(to..end).or_short(SHORT)?.fill(0);
    finish(buf, last, geo).or_short(SHORT)
}

/// Moves an entry to an earlier place, and lets it be as long as it has to; returns that length.
fn move_entry(buf: &mut [u8], from: usize, to: usize, used: u32) -> Option<usize> {
    let end = from.checked_add(us(used))?;
    if end > buf.len() || to > from {
        return None;
    }
    buf.copy_within(from..end, to);
    put_u16(buf, to + 4, encode_len(used))?;
    Some(us(used))
}

impl<M: DerefMut<Target = [SplitEntry]>> Split<M> {
    /// Returns the hash of the entry in the index that leads to the upper half.
    ///
    /// Its lowest bit is set if names with the same hash are in the lower half, too.
    pub fn index_hash(&self) -> u32 {
        self.index_hash
    }

    /// Returns the half to which the new name goes.
    pub fn half(&self) -> Half {
        self.half
    }

    /// Returns where in that half the new name goes, for [`insert`](super::dir_edit::insert).
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Returns where the entry at `offset` of the old block comes to lie; `None` if there is none.
    ///
    /// A rename in one directory needs it if the old name was in the block that the new one splits.
    pub fn locate(&self, offset: u32) -> Option<(Half, u32)> {
        [(Half::Lower, self.low()), (Half::Upper, self.high())]
            .into_iter()
            .find_map(|(half, entries)| {
                let i = entries.iter().position(|e| e.offset() == offset)?;
                Some((half, entries.iter().take(i).map(SplitEntry::used).sum()))
            })
    }

    fn low(&self) -> &[SplitEntry] {
        self.map.get(..self.lower).unwrap_or(&[])
    }

    fn high(&self) -> &[SplitEntry] {
        self.map.get(self.lower..self.count).unwrap_or(&[])
    }

    /// Writes the upper half to the fresh block `buf`; `old` is the block of the plan.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if `old` is not as planned.
    pub fn upper(&self, old: &[u8], buf: &mut [u8], geo: &Geometry) -> Result<()> {
        fill(self.high(), old, buf, geo)
    }

    /// Writes the lower half to the fresh block `buf`, likewise.
    ///
    /// # Errors
    ///
    /// As for [`upper`](Self::upper).
    pub fn lower(&self, old: &[u8], buf: &mut [u8], geo: &Geometry) -> Result<()> {
        fill(self.low(), old, buf, geo)
    }

    /// Leaves the lower half, packed, in `buf`, which is the block of the plan.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if `buf` is not as planned; it is then unchanged.
    pub fn cut(&self, buf: &mut [u8], geo: &Geometry) -> Result<()> {
        let end = entries_end(buf, geo)?;
        check(self.low(), buf, geo)?;
        let (mut to, mut last) = (0, 0);
        for entry in self.low() {
            last = to;
            to += move_entry(buf, us(entry.offset()), to, entry.used()).or_short(SHORT)?;
        }
        buf.get_mut(to..end).or_short(SHORT)?.fill(0);
        finish(buf, last, geo).or_short(SHORT)
    }

    /// Makes `buf`, block 0 of a linear directory, the root of an index.
    ///
    /// `leaves` are the blocks with the lower and the upper half.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if `buf` is not as planned; it is then unchanged.
    pub fn root(&self, buf: &mut [u8], dir: Ino, leaves: [Lblk; 2], geo: &Geometry) -> Result<()> {
        let parent = parent_entry(buf, dir, geo)?.ino;
        htree_edit::init_root(buf, dir, parent, leaves, self.index_hash, geo)
    }
}

/// Refuses a block that has not the entries of the plan.
fn check(entries: &[SplitEntry], old: &[u8], geo: &Geometry) -> Result<()> {
    let end = end_of_entries(geo);
    for entry in entries {
        let sound = matches!(header(old, us(entry.offset()), geo), Some((Ino(1..), _, name_len))
            if entry_len(name_len) == entry.used() && us(entry.offset() + entry.used()) <= end);
        if !sound {
            return Err(not_as_planned(entry.offset()));
        }
    }
    Ok(())
}

fn fill(entries: &[SplitEntry], old: &[u8], buf: &mut [u8], geo: &Geometry) -> Result<()> {
    geo.whole_block(old, SHORT)?;
    check(entries, old, geo)?;
    let mut filler = Filler::new(buf, geo)?;
    for entry in entries {
        let bytes = get_bytes(old, us(entry.offset()), us(entry.used())).or_short(SHORT)?;
        filler.copy(bytes).or_short(SHORT)?;
    }
    filler.finish().or_short(SHORT)
}
