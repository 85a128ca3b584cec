// SPDX-License-Identifier: GPL-2.0

//! Directory entries: blocks of them, and the few that fit an inode.
//!
//! A block is a chain of entries that fills it exactly. Blocks of an index look like a block with
//! one unused entry, so that a linear scan of an indexed directory finds every name.

use super::bytes::{get_array, get_bytes, get_u16, get_u32, get_u8, us};
use super::csum::Owner;
use super::error::{Error, OrShort, Result};
use super::feature::Incompat;
use super::geometry::Geometry;
use super::inline::InlineData;
use super::inode::{Inode, InodeFlags};
use super::nokey::NokeyName;
use super::units::{FileType, Ino, Lblk};

const SHORT: &str = "directory block: buffer too short";

/// The size in bytes of the smallest entry, and of the fake one that holds a block's checksum.
pub(super) const MIN_ENTRY: u32 = 12;

/// The type byte of the fake entry that holds a block's checksum.
pub(super) const TAIL_TYPE: u8 = 0xde;

/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// A directory entry that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The inode: from 1 to the volume's last. See [`Geometry::is_user_ino`] for what a name may
    /// lead to.
    pub ino: Ino,
    /// The name: 1 to 255 bytes.
    pub name: &'a [u8],
    /// The inode's type; `None` if the volume does not record it in directories, or not this one.
    pub file_type: Option<FileType>,
    /// Where the entry starts, in bytes from the start of the block (or of the inline data).
    pub offset: u32,
    /// Where the next entry starts, likewise; the block's end for the last one.
    pub next: u32,
}

/// A chain of directory entries: a block, or a part of an inode.
#[derive(Clone, Copy, Debug)]
pub struct Dirents<'a> {
    data: &'a [u8],
    base: u32,
    inodes_count: u32,
    file_types: bool,
    block_bits: u8,
    /// Whether names may have any bytes.
    encrypted: bool,
}

impl<'a> Dirents<'a> {
    /// Takes a whole directory block; its entries are checked one by one as they are met.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the buffer is not a block.
    pub fn block(data: &'a [u8], geo: &Geometry) -> Result<Self> {
        geo.whole_block(data, SHORT)?;
        Ok(Self::part(data, 0, geo))
    }

    /// Takes a part of an inode's inline data that starts at byte `base` of it.
    pub(super) fn part(data: &'a [u8], base: u32, geo: &Geometry) -> Self {
        Self {
            data,
            base,
            inodes_count: geo.inodes_count(),
            file_types: geo.has_incompat(Incompat::FILETYPE),
            block_bits: geo.block_bits(),
            encrypted: false,
        }
    }

    /// Says whether the names are encrypted, and may have any bytes.
    pub const fn encrypted(mut self, encrypted: bool) -> Self {
        self.encrypted = encrypted;
        self
    }

    /// Verifies the checksum of a block with entries; for a block of an index see
    /// [`DxNode`](super::DxNode).
    ///
    /// # Errors
    ///
    /// [`Kind::Checksum`](super::Kind::Checksum), also if the fake entry that holds the checksum is
    /// missing.
    pub fn verify(&self, owner: &Owner, geo: &Geometry) -> Result<()> {
        if !geo.csum().metadata() {
            return Ok(());
        }
        let at = self.data.len().saturating_sub(us(MIN_ENTRY));
        let (covered, tail) = self.data.split_at_checked(at).or_short(SHORT)?;
        if !is_tail(tail) {
            return Err(no_checksum());
        }
        let stored = get_u32(tail, 8).or_short(SHORT)?;
        let computed = geo.csum().crc32c(owner.seed, covered);
        if stored == computed {
            Ok(())
        } else {
            Err(Error::checksum(
                "directory block: checksum {x}, but {x} expected",
                stored,
                computed,
            ))
        }
    }

    /// Returns an iterator over the entries in use.
    pub fn iter(&self) -> DirIter<'a> {
        self.iter_from(0)
    }

    /// Returns an iterator over the entries in use that start at `offset` or later.
    ///
    /// The chain is followed from its start, so that an offset between two entries does no harm.
    pub fn iter_from(&self, offset: u32) -> DirIter<'a> {
        DirIter {
            part: *self,
            pos: 0,
            skip_to: offset,
        }
    }

    /// Finds a name.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if a bad entry is met before the name.
    pub fn find(&self, name: &[u8]) -> Result<Option<DirEntry<'a>>> {
        let mut pos = 0;
        while us(pos) < self.data.len() {
            let raw = self.raw_entry(pos).ok_or_else(|| self.complaint(pos))?;
            if usize::from(raw.name_len) == name.len() && raw.ino != 0 && self.has_name(pos, name) {
                return self.entry(pos, &raw).map(Some);
            }
            pos = raw.next;
        }
        Ok(None)
    }

    /// How many bytes the entries take.
    pub(super) const fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether the entry at `pos` has these bytes, as many as its name has.
    ///
    /// Names of a directory often have one length, and begin alike: the last byte tells most.
    #[inline(always)]
    pub(super) fn has_name(&self, pos: u32, name: &[u8]) -> bool {
        self.data.get(us(pos) + 7 + name.len()) == name.last()
            && get_bytes(self.data, us(pos) + 8, name.len()) == Some(name)
    }

    /// Finds the entry that a [`NokeyName`] stands for.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub fn find_nokey(&self, name: &NokeyName) -> Result<Option<DirEntry<'a>>> {
        find_nokey(self.encrypted(true).iter(), name)
    }

    /// Decodes and checks the entry at `pos`, in use or not; positions do not include `base`.
    /// `None` if it is not sound, which [`complaint`](Self::complaint) says more of.
    ///
    /// A look-up goes through a hundred entries before it meets its own: what all of them pay is a
    /// load and a few comparisons.
    #[inline(always)]
    pub(super) fn raw_entry(&self, pos: u32) -> Option<RawEntry> {
        let at = us(pos);
        let [i0, i1, i2, i3, l0, l1, name_len, type_byte] = get_array(self.data, at)?;
        let ino = u32::from_le_bytes([i0, i1, i2, i3]);
        let rec_len = rec_len(u16::from_le_bytes([l0, l1]), self.block_bits);
        // A position is less than the length of the data, which is 64 KiB at most.
        let next = pos.wrapping_add(rec_len);
        let last = us(next) == self.data.len();
        let sound = rec_len % 4 == 0
            && rec_len >= (u32::from(name_len) + 8).max(MIN_ENTRY)
            && (last || us(next) + us(MIN_ENTRY) <= self.data.len())
            && ino <= self.inodes_count;
        if !sound || (last && name_len == 1 && get_u8(self.data, at + 8) == Some(b'.')) {
            return None;
        }
        Some(RawEntry {
            ino,
            next,
            name_len,
            type_byte,
        })
    }

    /// What is wrong with the entry at `pos`, which [`raw_entry`](Self::raw_entry) refuses.
    #[cold]
    #[inline(never)]
    pub(super) fn complaint(&self, pos: u32) -> Error {
        let at = us(pos);
        let (raw_len, name_len) = (get_u16(self.data, at + 4), get_u8(self.data, at + 6));
        let what = match (get_u32(self.data, at), raw_len, name_len) {
            (Some(ino), Some(raw_len), Some(name_len)) => {
                let rec_len = rec_len(raw_len, self.block_bits);
                let left = self.data.len().saturating_sub(at);
                if rec_len < MIN_ENTRY || rec_len % 4 != 0 {
                    "directory entry at {}: bad length"
                } else if rec_len < u32::from(name_len) + 8 {
                    "directory entry at {}: too short for its name"
                } else if us(rec_len) > left {
                    "directory entry at {}: runs over the end"
                } else if us(rec_len) != left && left - us(rec_len) < us(MIN_ENTRY) {
                    "directory entry at {}: too close to the end"
                } else if ino > self.inodes_count {
                    "directory entry at {}: inode number out of range"
                } else {
                    "directory entry at {}: '.' is the last"
                }
            }
            _ => "directory entry at {}: cut off",
        };
        Error::corrupt1(what, pos.saturating_add(self.base))
    }

    /// What [`raw_entry`](Self::raw_entry) has found at `pos`, with its name.
    #[inline(always)]
    fn entry(&self, pos: u32, raw: &RawEntry) -> Result<DirEntry<'a>> {
        let offset = pos.saturating_add(self.base);
        let Some(name) = get_bytes(self.data, us(pos) + 8, usize::from(raw.name_len)) else {
            return Err(Error::corrupt1("directory entry at {}: cut off", offset));
        };
        Ok(DirEntry {
            ino: Ino(raw.ino),
            name,
            file_type: match self.file_types {
                true => FileType::from_dirent(raw.type_byte),
                false => None,
            },
            offset,
            next: raw.next.saturating_add(self.base),
        })
    }
}

/// An entry whose header was checked.
pub(super) struct RawEntry {
    pub(super) ino: u32,
    /// Where the next one begins.
    pub(super) next: u32,
    pub(super) name_len: u8,
    type_byte: u8,
}

/// An iterator over directory entries in use; it ends after the first error.
#[derive(Clone, Debug)]
pub struct DirIter<'a> {
    part: Dirents<'a>,
    pos: u32,
    skip_to: u32,
}

impl<'a> Iterator for DirIter<'a> {
    type Item = Result<DirEntry<'a>>;

    // A part of the loop that uses it: entries are many.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if us(self.pos) >= self.part.data.len() {
                return None;
            }
            let entry = match self.part.raw_entry(self.pos) {
                Some(raw) => {
                    let pos = core::mem::replace(&mut self.pos, raw.next);
                    self.part.entry(pos, &raw)
                }
                None => Err(self.part.complaint(self.pos)),
            };
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    self.pos = u32::MAX;
                    return Some(Err(e));
                }
            };
            if entry.ino.0 == 0 || entry.offset < self.skip_to {
                continue;
            }
            // User space gets these, and takes a slash for a separator.
            let bad = |&byte: &u8| byte == 0 || byte == b'/';
            let checked = !self.part.encrypted;
            if entry.name.is_empty() || checked && entry.name.iter().any(bad) {
                self.pos = u32::MAX;
                return Some(Err(Error::corrupt1(
                    "directory entry at {}: bad name",
                    entry.offset,
                )));
            }
            return Some(Ok(entry));
        }
    }
}

/// Returns whether this is the fake entry that holds a block's checksum.
pub(super) fn is_tail(tail: &[u8]) -> bool {
    get_u32(tail, 0) == Some(0)
        && get_u16(tail, 4) == Some(12)
        && get_u8(tail, 6) == Some(0)
        && get_u8(tail, 7) == Some(TAIL_TYPE)
}

/// The refusal of a block without [such an entry](is_tail).
#[cold]
pub(super) fn no_checksum() -> Error {
    Error::new(super::Kind::Checksum, "directory block: no checksum")
}

/// Decodes the length of an entry; 64 KiB, which 16 bits cannot hold, is written as 65,535 or 0.
pub(super) fn rec_len(raw: u16, block_bits: u8) -> u32 {
    match raw {
        0 | 0xffff if block_bits == 16 => 1 << 16,
        raw => u32::from(raw),
    }
}

/// Returns whether a block of an indexed directory looks like a part of the index.
///
/// An empty block of entries looks like that too. So a caller that scans an indexed directory block
/// by block verifies the checksum of a block as one with entries only if this is `false`.
pub fn is_index_block(data: &[u8], lblk: Lblk, geo: &Geometry) -> bool {
    lblk.0 == 0
        || get_u16(data, 4).is_some_and(|n| rec_len(n, geo.block_bits()) == geo.block_size())
}

/// A directory in its inode: its parent and two chains of entries.
///
/// It has no entries for "." and "..".
#[derive(Clone, Copy, Debug)]
pub struct InlineDir<'a> {
    /// What ".." is.
    pub parent: Ino,
    parts: [Dirents<'a>; 2],
}

impl<'a> InlineDir<'a> {
    /// Takes the inline data of the directory `inode`.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the parent's number is none of a directory.
    pub fn parse(data: &InlineData<'a>, inode: &Inode, geo: &Geometry) -> Result<Self> {
        let (head, tail) = data.parts();
        let parent = Ino(get_u32(head, 0).or_short("inline directory: too short")?);
        if !geo.is_user_ino(parent) {
            return Err(Error::corrupt2(
                "inode {}: inline directory with parent {}",
                inode.ino,
                parent,
            ));
        }
        let first = head.get(4..).unwrap_or(&[]);
        let head_len = u32::try_from(head.len()).unwrap_or(u32::MAX);
        Ok(Self {
            parent,
            parts: [
                Dirents::part(first, 4, geo),
                Dirents::part(tail, head_len, geo),
            ]
            .map(|part| part.encrypted(inode.flags.has(InodeFlags::ENCRYPT))),
        })
    }

    /// Returns an iterator over the entries in use; their offsets are in the inline data, from 4
    /// up.
    pub fn iter(&self) -> core::iter::Flatten<core::array::IntoIter<DirIter<'a>, 2>> {
        self.iter_from(0)
    }

    /// Returns an iterator over the entries in use that start at `offset` or later.
    pub fn iter_from(
        &self,
        offset: u32,
    ) -> core::iter::Flatten<core::array::IntoIter<DirIter<'a>, 2>> {
        self.parts
            .map(|part| part.iter_from(offset))
            .into_iter()
            .flatten()
    }

    /// Finds a name that is neither "." nor "..".
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if a bad entry is met before the name.
    pub fn find(&self, name: &[u8]) -> Result<Option<DirEntry<'a>>> {
        for part in &self.parts {
            if let Some(entry) = part.find(name)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Finds the entry that a [`NokeyName`] stands for.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub fn find_nokey(&self, name: &NokeyName) -> Result<Option<DirEntry<'a>>> {
        find_nokey(self.iter(), name)
    }
}

fn find_nokey<'a>(
    mut entries: impl Iterator<Item = Result<DirEntry<'a>>>,
    name: &NokeyName,
) -> Result<Option<DirEntry<'a>>> {
    entries
        .find(|entry| entry.as_ref().map_or(true, |entry| name.is_of(entry.name)))
        .transpose()
}
