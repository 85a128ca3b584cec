// SPDX-License-Identifier: GPL-2.0

//! Changes to blocks of directory entries.
//!
//! First comes a plan, which reads and may refuse: [`room`] for a name, [`parent_entry`],
//! [`is_empty`], and what [`Dirents::find`](super::Dirents::find) returns. Then, with a transaction
//! open, the plan is applied: [`insert`], [`remove`], [`set_entry`]. These refuse only a block that
//! is not the one of the plan, and leave it as it is. [`seal`] sets the checksum after the last
//! change.
//!
//! An entry can be longer than its name needs. The room behind a name is where the next name goes,
//! and a removed name becomes room behind the one before.

use super::bytes::{get_u16, get_u32, get_u8, put_bytes, put_u16, put_u32, put_u8, us};
use super::csum::Owner;
use super::dir::{
    is_tail, no_checksum, rec_len, DirEntry, Dirents, RawEntry, MIN_ENTRY, NAME_MAX, TAIL_TYPE,
};
use super::error::{Error, OrShort, Result};
use super::feature::Incompat;
use super::geometry::Geometry;
use super::units::{FileType, Ino, Lblk};

const SHORT: &str = "directory block: buffer too short";

/// The bytes of an entry in front of its name.
const HEADER: u32 = 8;

/// A name that an entry can hold: 1 to 255 bytes.
///
/// Which bytes a name may have is for the caller to decide: an encrypted one has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Takes a name; `None` if it is empty or too long.
    pub const fn new(name: &'a [u8]) -> Option<Self> {
        match name.len() {
            1..=NAME_MAX => Some(Self(name)),
            _ => None,
        }
    }

    /// Returns the bytes.
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Returns the length.
    fn len(self) -> u8 {
        u8::try_from(self.0.len()).unwrap_or(u8::MAX)
    }

    /// Returns how many bytes an entry with this name takes at least.
    pub(super) fn entry_len(self) -> u32 {
        entry_len(self.len())
    }
}

/// Returns how many bytes an entry with a name of this length takes at least.
pub(super) const fn entry_len(name_len: u8) -> u32 {
    // Lossless; `u32::from` is no const fn.
    (name_len as u32 + HEADER).next_multiple_of(4)
}

/// Room for an entry: an unused one, or what a used one does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where the entry is that has the room.
    pub(super) offset: u32,
    /// How many bytes of it are in use; 0 if it is not.
    pub(super) used: u32,
    /// How many bytes it has.
    pub(super) len: u32,
}

impl Slot {
    /// What the entry at `pos` has.
    #[inline]
    fn of(pos: u32, raw: &RawEntry) -> Result<Self> {
        let used = match (raw.ino, raw.name_len) {
            (0, _) => 0,
            (_, 0) => return Err(nameless(pos)),
            (_, name_len) => entry_len(name_len),
        };
        Ok(Self {
            offset: pos,
            used,
            len: raw.next.saturating_sub(pos),
        })
    }

    /// Returns where the new entry will be, in bytes from the start of the block.
    pub const fn offset(&self) -> u32 {
        self.offset.saturating_add(self.used)
    }

    /// Returns whether an entry with this name fits.
    pub(super) fn fits(&self, name: Name<'_>) -> bool {
        self.len.saturating_sub(self.used) >= name.entry_len()
    }
}

/// The refusal of a block that is not the one with which a change was planned.
#[cold]
pub(super) fn not_as_planned(offset: u32) -> Error {
    Error::corrupt1("directory entry at {}: not what was planned", offset)
}

/// Returns where the entries of a block end: at its checksum, or at the end.
pub(super) fn entries_end(data: &[u8], geo: &Geometry) -> Result<usize> {
    geo.whole_block(data, SHORT)?;
    let end = end_of_entries(geo);
    match data.get(end..) {
        Some([]) => Ok(end),
        Some(tail) if is_tail(tail) => Ok(end),
        _ => Err(no_checksum()),
    }
}

/// Returns where the entries of a block are to end.
pub(super) fn end_of_entries(geo: &Geometry) -> usize {
    let tail = match geo.csum().metadata() {
        true => MIN_ENTRY,
        false => 0,
    };
    us(geo.block_size() - tail)
}

/// Returns the entries of a block without the fake one that holds the checksum.
pub(super) fn entries<'a>(data: &'a [u8], geo: &Geometry) -> Result<Dirents<'a>> {
    let end = entries_end(data, geo)?;
    Ok(Dirents::part(data.get(..end).or_short(SHORT)?, 0, geo))
}

/// Plans where a name goes in a block; `None` if no entry has room enough.
///
/// That the name is not there already is for the caller to know.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if a bad entry is met before the room, and
/// [`Kind::Checksum`](super::Kind::Checksum) if the block has no place for its checksum.
pub fn room(data: &[u8], name: Name<'_>, geo: &Geometry) -> Result<Option<Slot>> {
    let end = entries_end(data, geo)?;
    room_in(data.get(..end).or_short(SHORT)?, name, geo)
}

/// What a block has for a name that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The name is there.
    Taken,
    /// Where it can go, if an entry has room enough.
    Room(Option<Slot>),
}

/// As [`room`], in a block that may have the name.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if a bad entry is met, and
/// [`Kind::Checksum`](super::Kind::Checksum) if the block has no place for its checksum.
pub fn place(data: &[u8], name: Name<'_>, geo: &Geometry) -> Result<Place> {
    let entries = entries(data, geo)?;
    let (bytes, len) = (name.bytes(), name.len());
    let (mut pos, mut room) = (0, None);
    while us(pos) < entries.len() {
        let raw = entries
            .raw_entry(pos)
            .ok_or_else(|| entries.complaint(pos))?;
        if raw.name_len == len && raw.ino != 0 && entries.has_name(pos, bytes) {
            return Ok(Place::Taken);
        }
        if room.is_none() {
            room = Some(Slot::of(pos, &raw)?).filter(|slot| slot.fits(name));
        }
        pos = raw.next;
    }
    Ok(Place::Room(room))
}

/// Finds room in a chain of entries.
pub(super) fn room_in(chain: &[u8], name: Name<'_>, geo: &Geometry) -> Result<Option<Slot>> {
    let entries = Dirents::part(chain, 0, geo);
    let mut pos = 0;
    while us(pos) < chain.len() {
        let raw = entries
            .raw_entry(pos)
            .ok_or_else(|| entries.complaint(pos))?;
        let slot = Slot::of(pos, &raw)?;
        if slot.fits(name) {
            return Ok(Some(slot));
        }
        pos = raw.next;
    }
    Ok(None)
}

/// The refusal of an entry in use without a name.
#[cold]
pub(super) fn nameless(offset: u32) -> Error {
    Error::corrupt1("directory entry at {}: bad name", offset)
}

/// Puts an entry where [`room`] was found; `buf` is the block.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if the block is not as planned; it is then unchanged.
pub fn insert(
    buf: &mut [u8],
    slot: &Slot,
    name: Name<'_>,
    ino: Ino,
    file_type: FileType,
    geo: &Geometry,
) -> Result<()> {
    let at = us(slot.offset);
    let header = header(buf, at, geo);
    let as_planned = match slot.used {
        0 => matches!(header, Some((Ino(0), len, _)) if len == slot.len),
        used => matches!(header, Some((Ino(1..), len, name_len))
            if len == slot.len && entry_len(name_len) == used),
    };
    if !as_planned || !slot.fits(name) || ino.0 == 0 {
        return Err(not_as_planned(slot.offset));
    }
    let entry = get_mut(buf, at, us(slot.len)).ok_or_else(|| not_as_planned(slot.offset))?;
    let (old, new) = entry
        .split_at_mut_checked(us(slot.used))
        .ok_or_else(|| not_as_planned(slot.offset))?;
    put_entry(new, ino, name, type_byte(Some(file_type), geo)).or_short(SHORT)?;
    put_u16(new, 4, encode_len(slot.len.saturating_sub(slot.used))).or_short(SHORT)?;
    if slot.used > 0 {
        put_u16(old, 4, encode_len(slot.used)).or_short(SHORT)?;
    }
    Ok(())
}

/// Removes the entry of inode `ino` at `offset` of the block `buf`.
///
/// Its room goes to the entry before. The first of a block stays, unused.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if there is no such entry; the block is then unchanged.
pub fn remove(buf: &mut [u8], offset: u32, ino: Ino, geo: &Geometry) -> Result<()> {
    let end = entries_end(buf, geo)?;
    remove_in(buf.get_mut(..end).or_short(SHORT)?, offset, ino, geo)
}

/// Removes an entry of a chain.
pub(super) fn remove_in(chain: &mut [u8], offset: u32, ino: Ino, geo: &Geometry) -> Result<()> {
    let (before, next) = neighbours(chain, offset, ino, geo)?;
    let is_dot = |at| {
        header(chain, at, geo).is_some_and(|(.., len)| len == 1)
            && get_u8(chain, at + 8) == Some(b'.')
    };
    if us(next) == chain.len() && before.is_some_and(|at| is_dot(us(at))) {
        // What is before ".." cannot have its room: "." is never the last.
        return Err(not_as_planned(offset));
    }
    let cleared = match before {
        Some(before) => {
            put_u16(
                chain,
                us(before) + 4,
                encode_len(next.saturating_sub(before)),
            );
            us(offset)..us(next)
        }
        None => {
            put_u32(chain, us(offset), 0);
            us(offset) + 6..us(next)
        }
    };
    chain.get_mut(cleared).or_short(SHORT)?.fill(0);
    Ok(())
}

/// Follows a chain to the entry of inode `ino` at `offset`; returns where the one before and the
/// next are.
fn neighbours(chain: &[u8], offset: u32, ino: Ino, geo: &Geometry) -> Result<(Option<u32>, u32)> {
    let entries = Dirents::part(chain, 0, geo);
    let (mut before, mut pos) = (None, 0);
    while pos <= offset && us(pos) < chain.len() {
        let raw = entries
            .raw_entry(pos)
            .ok_or_else(|| entries.complaint(pos))?;
        if pos == offset && raw.ino == ino.0 && raw.ino != 0 {
            return Ok((before, raw.next));
        }
        before = Some(pos);
        pos = raw.next;
    }
    Err(not_as_planned(offset))
}

/// Lets the entry at `offset` of the block `buf` lead to `new` instead of `old`.
///
/// That is what rename does to a name that it replaces or exchanges, and to ".." of a directory
/// that moves. It may be the root of an index, too.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if there is no such entry; the block is then unchanged.
pub fn set_entry(
    buf: &mut [u8],
    offset: u32,
    old: Ino,
    new: Ino,
    file_type: FileType,
    geo: &Geometry,
) -> Result<()> {
    neighbours(buf, offset, old, geo)?;
    if new.0 == 0 {
        return Err(not_as_planned(offset));
    }
    let at = us(offset);
    put_u8(buf, at + 7, type_byte(Some(file_type), geo)).or_short(SHORT)?;
    put_u32(buf, at, new.0).or_short(SHORT)
}

/// Finds ".." in block 0 of the directory `dir`, with or without an index.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if the block does not start with "." and "..".
pub fn parent_entry<'a>(data: &'a [u8], dir: Ino, geo: &Geometry) -> Result<DirEntry<'a>> {
    let mut entries = Dirents::block(data, geo)?.iter();
    let (dot, dotdot) = (entries.next().transpose()?, entries.next().transpose()?);
    match (dot, dotdot) {
        (Some(dot), Some(dotdot))
            if dot.offset == 0
                && dot.name == b"."
                && dot.ino == dir
                && dotdot.offset == dot.next
                && dotdot.name == b".." =>
        {
            Ok(dotdot)
        }
        _ => Err(Error::corrupt1("directory {}: no '.' or no '..'", dir)),
    }
}

/// Returns whether block `lblk` of the directory `dir` has no names but "." and "..".
///
/// The block may be one of the index, which has none. An empty directory is one whose blocks all
/// pass.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt).
pub fn is_empty(data: &[u8], lblk: Lblk, dir: Ino, geo: &Geometry) -> Result<bool> {
    let skip_to = match lblk {
        Lblk(0) => parent_entry(data, dir, geo)?.next,
        _ => 0,
    };
    // What bytes the names have does not matter here.
    let mut entries = Dirents::block(data, geo)?
        .encrypted(true)
        .iter_from(skip_to);
    Ok(entries.next().transpose()?.is_none())
}

/// Makes a block without names.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if the buffer is not a block.
pub fn init_block(buf: &mut [u8], geo: &Geometry) -> Result<()> {
    Filler::new(buf, geo)?.finish().or_short(SHORT)
}

/// Makes the first block of a directory, with "." and "..".
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if the buffer is not a block.
pub fn init_dir(buf: &mut [u8], dir: Ino, parent: Ino, geo: &Geometry) -> Result<()> {
    let mut filler = Filler::new(buf, geo)?;
    filler.dots(dir, parent).or_short(SHORT)?;
    filler.finish().or_short(SHORT)
}

/// Sets the checksum of a block of entries; does nothing on a volume without such checksums.
///
/// Blocks of an index have theirs elsewhere: see [`htree_edit::seal`](super::htree_edit::seal).
///
/// # Errors
///
/// [`Kind::Checksum`](super::Kind::Checksum) if the block has no place for it.
pub fn seal(buf: &mut [u8], owner: &Owner, geo: &Geometry) -> Result<()> {
    let end = entries_end(buf, geo)?;
    if !geo.csum().metadata() {
        return Ok(());
    }
    let covered = buf.get(..end).or_short(SHORT)?;
    let sum = geo.csum().crc32c(owner.seed, covered);
    put_u32(buf, end + 8, sum).or_short(SHORT)
}

/// Returns inode, length and length of the name of the entry at `at`.
pub(super) fn header(buf: &[u8], at: usize, geo: &Geometry) -> Option<(Ino, u32, u8)> {
    let len = rec_len(get_u16(buf, at + 4)?, geo.block_bits());
    Some((Ino(get_u32(buf, at)?), len, get_u8(buf, at + 6)?))
}

/// Returns `len` bytes from `off`, to be changed.
pub(super) fn get_mut(buf: &mut [u8], off: usize, len: usize) -> Option<&mut [u8]> {
    buf.get_mut(off..off.checked_add(len)?)
}

/// Encodes the length of an entry; only that of a block of 64 KiB does not fit.
pub(super) fn encode_len(len: u32) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// Returns the type byte of an entry; 0 if it is not told.
fn type_byte(file_type: Option<FileType>, geo: &Geometry) -> u8 {
    // Without the feature the byte is the upper half of the name's length.
    match (file_type, geo.has_incompat(Incompat::FILETYPE)) {
        (Some(file_type), true) => file_type.to_dirent(),
        _ => 0,
    }
}

/// Writes an entry but for its length; `None`, and nothing is written, if it does not fit.
fn put_entry(buf: &mut [u8], ino: Ino, name: Name<'_>, type_byte: u8) -> Option<()> {
    let entry = get_mut(buf, 0, us(name.entry_len()))?;
    put_u32(entry, 0, ino.0)?;
    put_u8(entry, 6, name.len())?;
    put_u8(entry, 7, type_byte)?;
    entry.get_mut(us(HEADER)..)?.fill(0);
    put_bytes(entry, us(HEADER), name.bytes())
}

/// Writes the fake entry that holds a block's checksum.
fn put_tail(buf: &mut [u8], at: usize) -> Option<()> {
    let tail = get_mut(buf, at, us(MIN_ENTRY))?;
    tail.fill(0);
    put_u16(tail, 4, encode_len(MIN_ENTRY))?;
    put_u8(tail, 7, TAIL_TYPE)
}

/// A block that is filled with one entry behind the other.
pub(super) struct Filler<'a> {
    buf: &'a mut [u8],
    geo: &'a Geometry,
    /// Where the last entry is.
    last: usize,
    /// Where the next will be.
    next: usize,
}

impl<'a> Filler<'a> {
    /// Clears a block.
    pub(super) fn new(buf: &'a mut [u8], geo: &'a Geometry) -> Result<Self> {
        geo.whole_block(buf, SHORT)?;
        buf.fill(0);
        Ok(Self {
            buf,
            geo,
            last: 0,
            next: 0,
        })
    }

    /// Adds a copy of an entry, which is as long as its name needs.
    pub(super) fn copy(&mut self, entry: &[u8]) -> Option<()> {
        let end = self.next.checked_add(entry.len())?;
        if end > end_of_entries(self.geo) {
            return None;
        }
        put_bytes(self.buf, self.next, entry)?;
        self.sized(entry.len())
    }

    /// Adds an entry.
    pub(super) fn add(
        &mut self,
        ino: Ino,
        name: Name<'_>,
        file_type: Option<FileType>,
    ) -> Option<()> {
        let rest = self.buf.get_mut(self.next..end_of_entries(self.geo))?;
        put_entry(rest, ino, name, type_byte(file_type, self.geo))?;
        self.sized(us(name.entry_len()))
    }

    /// Adds ".", which leads to `dir`, and ".." to its `parent`.
    pub(super) fn dots(&mut self, dir: Ino, parent: Ino) -> Option<()> {
        for (ino, name) in [(dir, &b"."[..]), (parent, b"..")] {
            self.add(ino, Name::new(name)?, Some(FileType::Directory))?;
        }
        Some(())
    }

    fn sized(&mut self, len: usize) -> Option<()> {
        put_u16(
            self.buf,
            self.next + 4,
            encode_len(u32::try_from(len).ok()?),
        )?;
        self.last = self.next;
        self.next += len;
        Some(())
    }

    /// Gives the rest of the block to the last entry, or makes it an unused one.
    pub(super) fn finish(self) -> Option<()> {
        finish(self.buf, self.last, self.geo)
    }
}

/// Gives the rest of a block to the entry at `last`, and makes a place for the checksum.
pub(super) fn finish(buf: &mut [u8], last: usize, geo: &Geometry) -> Option<()> {
    let end = end_of_entries(geo);
    let len = u32::try_from(end.checked_sub(last)?).ok()?;
    put_u16(buf, last + 4, encode_len(len))?;
    match geo.csum().metadata() {
        true => put_tail(buf, end),
        false => Some(()),
    }
}
