// SPDX-License-Identifier: GPL-2.0

//! Changes to sets of extended attributes.
//!
//! A changed set is written as a whole: [`SetEdit::write`] takes the old set and a change, and
//! fills other bytes, entries from the front and values from the end. So whatever an old set looks
//! like, the new one has no gaps, and nothing lies over something else.
//!
//! First comes the plan: [`Sets::place`] says whether the attribute goes to the inode or to the
//! block, and whether its value needs an inode of its own. It is the order of ext4: the inode, then
//! the block, then a value elsewhere. An attribute is in one place only, so that it leaves the
//! other. What was written is then copied to the inode's area ([`put_area`]) or to the block
//! ([`put_block`]), whose checksum [`seal`] sets.

use core::cmp::Ordering;

use super::bytes::{get_u32, put_bytes, put_u16, put_u32, put_u8, us};
use super::error::{Error, OrShort, Result};
use super::feature::Incompat;
use super::geometry::Geometry;
use super::units::{Ino, Pblk};
use super::xattr::{
    entry_hash, next_entry, Xattr, XattrSet, XattrValue, AREA_HEADER, AREA_MIN, BLOCK_HEADER,
    ENTRY_SIZE, MAGIC,
};

const SHORT: &str = "attributes: buffer too short";

/// The length of the longest name without its prefix, in bytes.
pub const NAME_MAX: usize = 255;

/// Where a set of attributes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In the inode, behind its fields.
    Inode,
    /// In a block.
    Block,
}

impl Home {
    /// Returns where the first entry is.
    const fn header(self) -> usize {
        match self {
            Self::Inode => AREA_HEADER,
            Self::Block => BLOCK_HEADER,
        }
    }

    /// Returns what the offsets of values count from.
    const fn value_base(self) -> usize {
        match self {
            Self::Inode => AREA_HEADER,
            Self::Block => 0,
        }
    }
}

/// A value to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewValue<'a> {
    /// Beside its entry.
    Here(&'a [u8]),
    /// In an inode of its own.
    Inode {
        /// The inode.
        ino: Ino,
        /// The size of the value in bytes.
        size: u32,
        /// The value's [`value_hash`].
        hash: u32,
    },
}

/// The change of one attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XattrChange<'a> {
    /// The number of the prefix; see [`prefix`](super::xattr::prefix).
    pub index: u8,
    /// The name without its prefix: at most [`NAME_MAX`] bytes, no zeros.
    pub name: &'a [u8],
    /// The value; `None` to remove the attribute.
    pub value: Option<NewValue<'a>>,
}

impl XattrChange<'_> {
    fn is_of(&self, attr: &Xattr<'_>) -> bool {
        self.index == attr.index && self.name == attr.name
    }

    /// Compares in the order of a block's entries.
    fn order(&self, attr: &Xattr<'_>) -> Ordering {
        let by = |index: u8, len: usize| (index, len);
        by(self.index, self.name.len())
            .cmp(&by(attr.index, attr.name.len()))
            .then_with(|| self.name.cmp(attr.name))
    }
}

/// Computes the hash that an inode with a value of an attribute keeps.
pub fn value_hash(value: &[u8], geo: &Geometry) -> u32 {
    geo.csum().crc32c(geo.csum().seed(), value)
}

/// Returns how many bytes an entry takes.
fn entry_len(name: &[u8]) -> usize {
    next_entry(0, name.len())
}

/// Returns how many bytes a value takes beside its entry.
const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// An entry to be written.
#[derive(Clone, Copy)]
struct Item<'a> {
    index: u8,
    name: &'a [u8],
    value: NewValue<'a>,
    hash: u32,
}

impl<'a> Item<'a> {
    fn old(attr: &Xattr<'a>) -> Self {
        let value = match attr.value {
            XattrValue::Here(value) => NewValue::Here(value),
            XattrValue::Inode(value) => NewValue::Inode {
                ino: value.ino,
                size: value.size,
                hash: 0,
            },
        };
        Self {
            index: attr.index,
            name: attr.name,
            value,
            hash: attr.hash,
        }
    }

    fn new(change: &XattrChange<'a>, home: Home) -> Option<Self> {
        let value = change.value?;
        let hash = match (value, home) {
            (NewValue::Inode { hash, .. }, _) => {
                entry_hash(change.name, &hash.to_le_bytes(), false)
            }
            (NewValue::Here(value), Home::Block) => entry_hash(change.name, value, false),
            // As ext4 has it: those in inodes are not shared, and need none.
            (NewValue::Here(_), Home::Inode) => 0,
        };
        Some(Self {
            index: change.index,
            name: change.name,
            value,
            hash,
        })
    }

    fn value_len(&self) -> usize {
        match self.value {
            NewValue::Here(value) => padded(value.len()),
            NewValue::Inode { .. } => 0,
        }
    }
}

/// How many bytes a set needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Needs {
    names: usize,
    values: usize,
}

/// A set of attributes with a change.
#[derive(Clone, Copy, Debug)]
pub struct SetEdit<'a> {
    home: Home,
    old: Option<XattrSet<'a>>,
    change: XattrChange<'a>,
}

impl<'a> SetEdit<'a> {
    /// Changes the set `old` of an inode or a block; `None` if there is none yet.
    pub const fn new(home: Home, old: Option<XattrSet<'a>>, change: XattrChange<'a>) -> Self {
        Self { home, old, change }
    }

    /// Calls `each` for the entries of the new set, in their order.
    fn each(&self, mut each: impl FnMut(Item<'a>)) {
        let mut new = Item::new(&self.change, self.home);
        for attr in self.old.iter().flat_map(XattrSet::iter) {
            let same = self.change.is_of(&attr);
            // Those of a block are in order, those of an inode are not.
            let before = self.home == Home::Block && self.change.order(&attr) == Ordering::Less;
            if let Some(new) = new.take_if(|_| same || before) {
                each(new);
            }
            if !same {
                each(Item::old(&attr));
            }
        }
        if let Some(new) = new {
            each(new);
        }
    }

    fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        self.each(|item| {
            needs.names += entry_len(item.name);
            needs.values += item.value_len();
        });
        needs
    }

    /// Returns whether the new set has no attributes.
    pub fn is_empty(&self) -> bool {
        self.needs() == Needs::default()
    }

    /// Returns whether the new set fits `len` bytes, with its header.
    pub fn fits(&self, len: usize) -> bool {
        let Needs { names, values } = self.needs();
        self.home.header() + names + 4 + values <= len
    }

    /// Writes the new set; `to` is the inode's area or a block, of which every byte is written. A
    /// block is one that nobody shares, without checksum. An area without attributes is all zero.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the set does not fit, or the name is no name;
    /// what was written of it is then to be thrown away.
    pub fn write(&self, to: &mut [u8]) -> Result<()> {
        to.fill(0);
        if self.home == Home::Inode && self.is_empty() {
            return Ok(());
        }
        if self.change.name.len() > NAME_MAX || self.change.name.contains(&0) {
            return Err(Error::corrupt("attributes: a name that cannot be"));
        }
        put_u32(to, 0, MAGIC).or_short(SHORT)?;
        let base = self.home.value_base();
        let (mut at, mut top) = (self.home.header(), to.len());
        let mut hash = Some(0u32);
        let mut all = Some(());
        self.each(|item| {
            all = all.and_then(|()| {
                let next = at.checked_add(entry_len(item.name))?;
                let low = top.checked_sub(item.value_len())?;
                if next.checked_add(4)? > low {
                    return None;
                }
                put_u8(to, at, u8::try_from(item.name.len()).ok()?)?;
                put_u8(to, at + 1, item.index)?;
                match item.value {
                    NewValue::Here([]) => {}
                    NewValue::Here(value) => {
                        put_u16(to, at + 2, u16::try_from(low.checked_sub(base)?).ok()?)?;
                        put_u32(to, at + 8, u32::try_from(value.len()).ok()?)?;
                        put_bytes(to, low, value)?;
                    }
                    NewValue::Inode { ino, size, .. } => {
                        put_u32(to, at + 4, ino.0)?;
                        put_u32(to, at + 8, size)?;
                    }
                }
                put_u32(to, at + 12, item.hash)?;
                put_bytes(to, at + ENTRY_SIZE, item.name)?;
                hash = match item.hash {
                    // One without a hash cannot be compared, and so cannot the block.
                    0 => None,
                    item => hash.map(|hash| hash.rotate_left(16) ^ item),
                };
                (at, top) = (next, low);
                Some(())
            });
        });
        all.ok_or_else(|| Error::corrupt("attributes: more than there is room for"))?;
        if self.home == Home::Block {
            set_refcount(to, 1).or_short(SHORT)?;
            put_u32(to, 8, 1).or_short(SHORT)?;
            put_u32(to, 12, hash.unwrap_or(0)).or_short(SHORT)?;
        }
        Ok(())
    }
}

/// The attributes of an inode.
#[derive(Clone, Copy, Debug)]
pub struct Sets<'a> {
    /// How many bytes the inode has behind its fields.
    pub area_len: usize,
    /// Those in the inode.
    pub area: Option<XattrSet<'a>>,
    /// Those in the block.
    pub block: Option<XattrSet<'a>>,
}

/// Where an attribute goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Where its entry is.
    pub home: Home,
    /// Whether the value has an inode of its own.
    pub own_inode: bool,
}

impl<'a> Sets<'a> {
    /// Finds an attribute, and says where it is.
    pub fn find(&self, index: u8, name: &[u8]) -> Option<(Home, Xattr<'a>)> {
        let at = |home, set: &Option<XattrSet<'a>>| {
            set.and_then(|set| set.find(index, name))
                .map(|attr| (home, attr))
        };
        at(Home::Inode, &self.area).or_else(|| at(Home::Block, &self.block))
    }

    /// Returns the set that is there.
    pub const fn get(&self, home: Home) -> Option<XattrSet<'a>> {
        match home {
            Home::Inode => self.area,
            Home::Block => self.block,
        }
    }

    /// Says where an attribute with this value goes; `None` if there is no room for it (`ENOSPC`).
    pub fn place(&self, index: u8, name: &[u8], value: &[u8], geo: &Geometry) -> Option<Placement> {
        let block_size = us(geo.block_size());
        let may = geo.has_incompat(Incompat::EA_INODE) && !value.is_empty();
        // What would take a block for itself.
        let large = block_size.saturating_sub(entry_len(b"123") + BLOCK_HEADER + 4);
        let here = Placement {
            home: Home::Inode,
            own_inode: false,
        };
        let elsewhere = Placement {
            own_inode: true,
            ..here
        };
        let [first, second] = match (may, padded(value.len()) > large) {
            (true, true) => [Some(elsewhere), None],
            (true, false) => [Some(here), Some(elsewhere)],
            (false, _) => [Some(here), None],
        };
        let [first, second] = [first, second].map(|way| {
            let way = way?;
            let value = match way.own_inode {
                true => NewValue::Inode {
                    ino: Ino(0),
                    size: u32::try_from(value.len()).ok()?,
                    hash: 0,
                },
                false => NewValue::Here(value),
            };
            let change = XattrChange {
                index,
                name,
                value: Some(value),
            };
            let edit = SetEdit::new(Home::Inode, self.area, change);
            if self.area_len >= AREA_MIN && edit.fits(self.area_len) {
                return Some(way);
            }
            let edit = SetEdit::new(Home::Block, self.block, change);
            // So that a long value leaves room for the names of others.
            let reserve = match may && matches!(value, NewValue::Here(_)) {
                true => (block_size / 8).min(1024),
                false => 0,
            };
            let fits = edit.fits(block_size) && block_size - edit.needs().values >= reserve;
            fits.then_some(Placement {
                home: Home::Block,
                ..way
            })
        });
        first.or(second)
    }
}

/// Copies a set that [`SetEdit::write`] has written to the inode's area; `None`, and nothing
/// changes, if they are not of the same length.
pub fn put_area(area: &mut [u8], set: &[u8]) -> Option<()> {
    if area.len() != set.len() {
        return None;
    }
    put_bytes(area, 0, set)
}

/// Copies a set that [`SetEdit::write`] has written to the block `buf`, which lies at `pblk`, and
/// seals it; `None`, and nothing changes, if they are not of the same length.
pub fn put_block(buf: &mut [u8], set: &[u8], pblk: Pblk, geo: &Geometry) -> Option<()> {
    put_area(buf, set)?;
    seal(buf, pblk, geo)
}

/// Sets how many inodes share a block of attributes; `None` if these are no bytes of a block.
pub fn set_refcount(buf: &mut [u8], refcount: u32) -> Option<()> {
    put_u32(buf, 4, refcount)
}

/// How many inodes share a block of attributes at most: as many as ext4 lets.
pub const SHARERS_MAX: u32 = 1024;

/// Where the names begin in a block of attributes.
const HEADER: usize = 32;

/// The part of a block of attributes by which those are found that have the same.
pub fn contents(block: &[u8]) -> &[u8] {
    block.get(HEADER..).unwrap_or(&[])
}

/// Whether two blocks have the same attributes. How many share them, and checksums, do not count.
pub fn same_contents(a: &[u8], b: &[u8]) -> bool {
    // The magic number; the number of blocks, and the hash.
    let header = |block: &[u8]| Some((get_u32(block, 0)?, get_u32(block, 8)?, get_u32(block, 12)?));
    header(a).is_some() && header(a) == header(b) && contents(a) == contents(b)
}

/// Adds one inode to those that share a block of attributes; `None`, and nothing changes, if that
/// would be too many, or nobody has it.
pub fn retain(buf: &mut [u8]) -> Option<()> {
    let count = get_u32(buf, 4)?;
    if !(1..SHARERS_MAX).contains(&count) {
        return None;
    }
    set_refcount(buf, count + 1)
}

/// Takes one inode off those that share a block of attributes; `None`, and nothing changes, if it
/// is not shared.
pub fn release(buf: &mut [u8]) -> Option<()> {
    let left = get_u32(buf, 4)?.checked_sub(1).filter(|&left| left > 0)?;
    set_refcount(buf, left)
}

/// Sets the checksum of the block of attributes `buf`, which lies at `pblk`; does nothing on a
/// volume without such checksums. `None` if these are no bytes of a block.
pub fn seal(buf: &mut [u8], pblk: Pblk, geo: &Geometry) -> Option<()> {
    if geo.csum().metadata() {
        let sum = geo.csum().xattr_block(pblk, buf);
        put_u32(buf, 16, sum)?;
    }
    Some(())
}
