// SPDX-License-Identifier: GPL-2.0

//! Extended attributes: in the inode, in a block of their own, and values in other inodes.
//!
//! A set is a list of entries that grows up, and values that grow down. A name is stored without
//! its prefix, which a number stands for.

use core::ops::Range;

use super::bytes::{get_bytes, get_u16, get_u32, get_u8, us};
use super::error::{Error, Kind, OrShort, Result};
use super::feature::Incompat;
use super::geometry::Geometry;
use super::inode::{Inode, InodeFlags};
use super::units::{FileType, Ino, Pblk};

const SHORT: &str = "attributes: buffer too short";

/// The number that marks a set of attributes.
pub(super) const MAGIC: u32 = 0xea02_0000;

pub(super) const ENTRY_SIZE: usize = 16;
pub(super) const BLOCK_HEADER: usize = 32;

/// The bytes in front of the first entry in an inode, and what an inode has room for at least if it
/// can have attributes.
pub(super) const AREA_HEADER: usize = 4;
pub(super) const AREA_MIN: usize = 8;

/// The largest size in bytes that a value may claim; Linux itself stops at 64 KiB.
pub const VALUE_MAX: u32 = 1 << 24;

/// The number of "user.".
pub const INDEX_USER: u8 = 1;
/// The number of "system.posix_acl_access", which is a whole name.
pub const INDEX_POSIX_ACL_ACCESS: u8 = 2;
/// The number of "system.posix_acl_default", which is a whole name.
pub const INDEX_POSIX_ACL_DEFAULT: u8 = 3;
/// The number of "trusted.".
pub const INDEX_TRUSTED: u8 = 4;
/// The number of "lustre.".
pub const INDEX_LUSTRE: u8 = 5;
/// The number of "security.".
pub const INDEX_SECURITY: u8 = 6;
/// The number of "system.", for attributes that users do not see, as inline data.
pub const INDEX_SYSTEM: u8 = 7;
/// The number of "system.richacl", which is a whole name.
pub const INDEX_RICHACL: u8 = 8;
/// The number of an encryption context, which has no name.
pub const INDEX_ENCRYPTION: u8 = 9;
/// The number of "gnu.", for the Hurd.
pub const INDEX_HURD: u8 = 10;

/// Prefixes by number; a whole name comes before the prefix that it starts with.
const PREFIXES: &[(u8, &str)] = &[
    (INDEX_USER, "user."),
    (INDEX_POSIX_ACL_ACCESS, "system.posix_acl_access"),
    (INDEX_POSIX_ACL_DEFAULT, "system.posix_acl_default"),
    (INDEX_TRUSTED, "trusted."),
    (INDEX_LUSTRE, "lustre."),
    (INDEX_SECURITY, "security."),
    (INDEX_RICHACL, "system.richacl"),
    (INDEX_SYSTEM, "system."),
    (INDEX_HURD, "gnu."),
];

/// Returns what stands before the name of an attribute with this number; `None` for unknown ones.
pub fn prefix(index: u8) -> Option<&'static str> {
    PREFIXES.iter().find(|(i, _)| *i == index).map(|(_, p)| *p)
}

/// Splits a full name into the number of its prefix and the rest; `None` if no prefix fits.
///
/// The numbers that stand for a whole name come with an empty rest.
pub fn split_name(full: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(index, prefix)| {
        let rest = full.strip_prefix(prefix.as_bytes())?;
        (prefix.ends_with('.') || rest.is_empty()).then_some((*index, rest))
    })
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrValue<'a> {
    /// Beside its entry.
    Here(&'a [u8]),
    /// In an inode of its own.
    Inode(EaValue),
}

impl XattrValue<'_> {
    /// Returns the size of the value in bytes; at most [`VALUE_MAX`].
    pub fn size(&self) -> u32 {
        match self {
            Self::Here(value) => u32::try_from(value.len()).unwrap_or(u32::MAX),
            Self::Inode(value) => value.size,
        }
    }
}

/// An attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// The number of the prefix; see [`prefix`].
    pub index: u8,
    /// The name without its prefix, without zeros; empty if the number stands for a whole name.
    pub name: &'a [u8],
    /// The value.
    pub value: XattrValue<'a>,
    /// The stored hash of name and value; 0 for many in inodes.
    pub hash: u32,
}

/// A checked set of attributes.
#[derive(Clone, Copy, Debug)]
pub struct XattrSet<'a> {
    data: &'a [u8],
    /// Where the first entry is.
    first: usize,
    /// What the offsets of values count from.
    value_base: usize,
    /// Where the list of entries ends, including its terminator.
    names_end: usize,
}

impl<'a> XattrSet<'a> {
    /// Finds and checks the attributes in the bytes from which `inode` was parsed; `None` if there
    /// are none.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`].
    pub fn in_inode(raw: &'a [u8], inode: &Inode, geo: &Geometry) -> Result<Option<Self>> {
        let data = raw.get(..usize::from(geo.inode_size())).or_short(SHORT)?;
        match inode.xattr_offset {
            Some(start) => {
                let first = usize::from(start).saturating_add(AREA_HEADER);
                Self::check(data, first, first, geo).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Checks the attributes in `area`, the bytes of an inode behind its fields; `None` if there are
    /// none.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`].
    pub fn in_area(area: &'a [u8], geo: &Geometry) -> Result<Option<Self>> {
        match get_u32(area, 0) {
            Some(MAGIC) if area.len() >= AREA_MIN => {
                Self::check(area, AREA_HEADER, AREA_HEADER, geo).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Checks a block of attributes.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`].
    pub fn in_block(data: &'a [u8], geo: &Geometry) -> Result<Self> {
        geo.whole_block(data, SHORT)?;
        let u32_at = |off| get_u32(data, off).or_short(SHORT);
        let (magic, blocks) = (u32_at(0)?, u32_at(8)?);
        if magic != MAGIC || blocks != 1 {
            return Err(Error::corrupt2(
                "attribute block: magic {x} and {} blocks",
                magic,
                blocks,
            ));
        }
        Self::check(data, BLOCK_HEADER, 0, geo)
    }

    /// Verifies the checksum of the block of attributes `data`, which lies at `pblk`.
    ///
    /// # Errors
    ///
    /// [`Kind::Checksum`].
    pub fn verify_block(data: &[u8], pblk: Pblk, geo: &Geometry) -> Result<()> {
        geo.whole_block(data, SHORT)?;
        if !geo.csum().metadata() {
            return Ok(());
        }
        let stored = get_u32(data, 16).or_short(SHORT)?;
        let computed = geo.csum().xattr_block(pblk, data);
        if stored == computed {
            Ok(())
        } else {
            Err(Error::checksum(
                "attribute block: checksum {x}, but {x} expected",
                stored,
                computed,
            ))
        }
    }

    /// Returns how many inodes share the block of attributes `data`.
    pub fn block_refcount(data: &[u8]) -> Option<u32> {
        get_u32(data, 4)
    }

    fn check(data: &'a [u8], first: usize, value_base: usize, geo: &Geometry) -> Result<Self> {
        let mut set = Self {
            data,
            first,
            value_base,
            names_end: data.len(),
        };
        // Where the names end is known only after a pass over them, and values must lie behind.
        let mut pos = first;
        while get_u32(data, pos).or_short("attributes: no end")? != 0 {
            let name_len = usize::from(get_u8(data, pos).or_short(SHORT)?);
            let name = get_bytes(data, pos.saturating_add(ENTRY_SIZE), name_len)
                .or_short("attributes: a name runs over the end")?;
            if name.contains(&0) {
                return Err(Error::corrupt("attributes: a name with a zero byte"));
            }
            pos = next_entry(pos, name_len);
        }
        set.names_end = pos.saturating_add(4);

        let mut pos = first;
        while pos.saturating_add(4) < set.names_end {
            pos = set.check_value(pos, geo)?;
        }
        Ok(set)
    }

    /// Checks the value of the entry at `pos` and returns the position of the next.
    fn check_value(&self, pos: usize, geo: &Geometry) -> Result<usize> {
        let name_len = usize::from(get_u8(self.data, pos).or_short(SHORT)?);
        let ino = Ino(get_u32(self.data, pos + 4).or_short(SHORT)?);
        let size = get_u32(self.data, pos + 8).or_short(SHORT)?;
        if size > VALUE_MAX {
            return Err(Error::corrupt1("attributes: a value of {} bytes", size));
        }
        if ino.0 != 0 {
            let valid = geo.has_incompat(Incompat::EA_INODE)
                && size > 0
                && ino != Ino::ROOT
                && geo.is_user_ino(ino);
            if !valid {
                return Err(Error::corrupt2(
                    "attributes: a value of {} bytes in inode {}",
                    size,
                    ino,
                ));
            }
        } else if size > 0 {
            let offset = get_u16(self.data, pos + 2).or_short(SHORT)?;
            let start = self.value_base.saturating_add(usize::from(offset));
            let padded = us(size).next_multiple_of(4);
            if start < self.names_end || get_bytes(self.data, start, padded).is_none() {
                return Err(Error::corrupt2(
                    "attributes: a value of {} bytes at {}",
                    size,
                    offset,
                ));
            }
        }
        Ok(next_entry(pos, name_len))
    }

    /// Returns an iterator over the attributes, in the order of the disk.
    pub const fn iter(&self) -> XattrIter<'a> {
        XattrIter {
            set: *self,
            pos: self.first,
        }
    }

    /// Finds an attribute by the number of its prefix and the rest of its name.
    pub fn find(&self, index: u8, name: &[u8]) -> Option<Xattr<'a>> {
        self.iter().find(|x| x.index == index && x.name == name)
    }

    /// Returns where the value of an attribute lies in the bytes of which the set was made; `None`
    /// if it has no bytes there.
    pub(super) fn value_at(&self, index: u8, name: &[u8]) -> Option<Range<usize>> {
        let mut pos = self.first;
        while pos.saturating_add(4) < self.names_end {
            let (entry, next) = self.entry(pos)?;
            if let (true, XattrValue::Here(value @ [_, ..])) =
                (entry.index == index && entry.name == name, entry.value)
            {
                let offset = usize::from(get_u16(self.data, pos + 2)?);
                let start = self.value_base.checked_add(offset)?;
                return Some(start..start.checked_add(value.len())?);
            }
            pos = next;
        }
        None
    }

    fn entry(&self, pos: usize) -> Option<(Xattr<'a>, usize)> {
        let name_len = usize::from(get_u8(self.data, pos)?);
        let size = get_u32(self.data, pos + 8)?;
        let hash = get_u32(self.data, pos + 12)?;
        let value = match get_u32(self.data, pos + 4)? {
            0 if size == 0 => XattrValue::Here(&[]),
            0 => {
                let start = self
                    .value_base
                    .checked_add(usize::from(get_u16(self.data, pos + 2)?))?;
                XattrValue::Here(get_bytes(self.data, start, us(size))?)
            }
            ino => XattrValue::Inode(EaValue {
                ino: Ino(ino),
                size,
                entry_hash: hash,
            }),
        };
        let entry = Xattr {
            index: get_u8(self.data, pos + 1)?,
            name: get_bytes(self.data, pos + ENTRY_SIZE, name_len)?,
            value,
            hash,
        };
        Some((entry, next_entry(pos, name_len)))
    }
}

/// Entries start at multiples of four.
pub(super) fn next_entry(pos: usize, name_len: usize) -> usize {
    pos.saturating_add((ENTRY_SIZE + name_len).next_multiple_of(4))
}

/// An iterator over a checked set of attributes.
#[derive(Clone, Debug)]
pub struct XattrIter<'a> {
    set: XattrSet<'a>,
    pos: usize,
}

impl<'a> Iterator for XattrIter<'a> {
    type Item = Xattr<'a>;

    fn next(&mut self) -> Option<Xattr<'a>> {
        if self.pos.saturating_add(4) >= self.set.names_end {
            return None;
        }
        let (entry, next) = self.set.entry(self.pos)?;
        self.pos = next;
        Some(entry)
    }
}

/// A value that lies in an inode of its own, as a file's contents do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EaValue {
    /// The inode; neither reserved nor the root.
    pub ino: Ino,
    /// The size of the value in bytes: 1 to [`VALUE_MAX`].
    pub size: u32,
    /// The entry's hash, over its name and the hash of the value.
    pub entry_hash: u32,
}

impl EaValue {
    /// Returns the hash of the value, and the number of references to it, that an inode with a value
    /// keeps for times.
    pub fn hash_and_refs(inode: &Inode) -> (u32, u64) {
        let refs = u64::from(inode.ctime.base_word()) << 32 | inode.version & 0xffff_ffff;
        (inode.atime.base_word(), refs)
    }

    /// Checks that `inode`, which is [`ino`](Self::ino), can hold the value, and starts the value's
    /// verification.
    ///
    /// `parent` is the inode that has the attribute.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`].
    pub fn open(&self, inode: &Inode, parent: &Inode, geo: &Geometry) -> Result<EaHasher> {
        let bad = |what| Err(Error::corrupt1(what, inode.ino));
        if inode.ino != self.ino || inode.ino == parent.ino {
            return bad("attribute value: inode {} is not its own");
        }
        if inode.file_type != FileType::Regular
            || !inode.flags.has(InodeFlags::EA_INODE)
            || inode.links != 1
        {
            return bad("attribute value: inode {} is not one for values");
        }
        if inode.xattr_offset.is_some() || inode.xattr_block.is_some() {
            return bad("attribute value: inode {} has attributes itself");
        }
        if inode.size != u64::from(self.size) {
            return bad("attribute value: inode {} has another size");
        }
        let (hash, refs) = Self::hash_and_refs(inode);
        // In Lustre's form they keep the parent for a time.
        let lustre =
            inode.mtime.base_word() == parent.ino.0 && inode.generation == parent.generation;
        if refs == 0 && !lustre {
            return bad("attribute value: inode {} has no references");
        }
        Ok(EaHasher {
            state: geo.csum().seed(),
            value_hash: hash,
            entry_hash: self.entry_hash,
            lustre,
        })
    }
}

/// The running hash of a value that is read piece by piece.
#[derive(Clone, Copy, Debug)]
pub struct EaHasher {
    state: u32,
    value_hash: u32,
    entry_hash: u32,
    lustre: bool,
}

impl EaHasher {
    /// Returns whether the value is in Lustre's form: it has one user, who does not answer for its
    /// space.
    pub const fn is_lustre(&self) -> bool {
        self.lustre
    }

    /// Adds the next bytes of the value.
    pub fn update(&mut self, data: &[u8], geo: &Geometry) {
        self.state = geo.csum().crc32c(self.state, data);
    }

    /// Verifies the hashes after the whole value was added; `name` is the attribute's, without its
    /// prefix.
    ///
    /// Values in Lustre's form carry no hash, and pass.
    ///
    /// # Errors
    ///
    /// [`Kind::Checksum`].
    pub fn finish(&self, name: &[u8]) -> Result<()> {
        if self.state != self.value_hash {
            if self.lustre {
                return Ok(());
            }
            return Err(Error::checksum(
                "attribute value: hash {x}, but {x} expected",
                self.value_hash,
                self.state,
            ));
        }
        let word = self.state.to_le_bytes();
        let computed = entry_hash(name, &word, false);
        // Hashes by systems with signed characters are in use, too.
        if self.entry_hash == computed || self.entry_hash == entry_hash(name, &word, true) {
            return Ok(());
        }
        Err(
            Error::new(Kind::Checksum, "attribute: hash {x}, but {x} expected")
                .with(self.entry_hash, computed),
        )
    }
}

/// Computes the hash that the entry of an attribute in a block stores.
///
/// `value` is the value itself or, for one in an inode, the four bytes of its hash. `signed` asks
/// for the variant that takes the bytes of the name for signed numbers.
pub fn entry_hash(name: &[u8], value: &[u8], signed: bool) -> u32 {
    let mut hash = 0u32;
    for &b in name {
        let byte = match u32::from(b) {
            b @ 0x80.. if signed => b | 0xffff_ff00,
            b => b,
        };
        hash = hash.rotate_left(5) ^ byte;
    }
    for chunk in value.chunks(4) {
        let mut word = [0u8; 4];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        hash = hash.rotate_left(16) ^ u32::from_le_bytes(word);
    }
    hash
}
