// SPDX-License-Identifier: GPL-2.0

//! Changes to a directory that lies in its inode.
//!
//! The plan and the apply are those of [`dir_edit`](super::dir_edit), on the bytes of the inode.
//! The checksum is the inode's. A name that does not fit makes the directory one of a block, which
//! [`to_block`] fills. Its inode then changes in ways that are not told here: the flag and the
//! attribute go, and size, map and block count are those of one block.

use core::ops::Range;

use super::bytes::{get_bytes, put_u16, put_u32, us};
use super::dir::{DirEntry, InlineDir};
use super::dir_edit::{
    encode_len, entry_len, get_mut, insert, nameless, not_as_planned, remove_in, room_in, Filler,
    Name, Slot,
};
use super::error::{Error, OrShort, Result};
use super::geometry::Geometry;
use super::inline::InlineData;
use super::inode::{I_BLOCK, I_BLOCK_SIZE};
use super::units::{FileType, Ino};

const SHORT: &str = "inline directory: too short";

/// The number of the parent comes first.
const PARENT: usize = 4;

/// Where the two chains of entries lie in the inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineChains([Range<usize>; 2]);

/// Room for an entry in an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineSlot {
    chain: Range<usize>,
    slot: Slot,
}

impl InlineChains {
    /// Finds the chains of a directory.
    pub fn of(data: &InlineData<'_>) -> Self {
        let [head, tail] = data.ranges();
        Self([head.start + PARENT..head.end, tail])
    }

    /// Plans where a name goes; `raw` is the inode. `None` if there is no room for it.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if a bad entry is met before the room.
    pub fn room(&self, raw: &[u8], name: Name<'_>, geo: &Geometry) -> Result<Option<InlineSlot>> {
        for chain in &self.0 {
            let bytes = raw.get(chain.clone()).or_short(SHORT)?;
            if let Some(slot) = room_in(bytes, name, geo)? {
                let chain = chain.clone();
                return Ok(Some(InlineSlot { chain, slot }));
            }
        }
        Ok(None)
    }

    /// Returns where the entry at `offset`, as [`DirEntry::offset`] counts, lies in the inode: its
    /// chain, and the offset in that.
    fn place(&self, offset: u32) -> Option<(Range<usize>, u32)> {
        let [head, tail] = &self.0;
        let in_head = us(offset).checked_sub(PARENT)?;
        let (chain, at) = match in_head.checked_sub(head.len()) {
            None => (head, in_head),
            Some(at) => (tail, at),
        };
        (at < chain.len()).then_some((chain.clone(), u32::try_from(at).ok()?))
    }

    /// Removes the entry of inode `ino` at [`offset`](DirEntry::offset) from the inode `raw`.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if there is no such entry; `raw` is then unchanged.
    pub fn remove(&self, raw: &mut [u8], offset: u32, ino: Ino, geo: &Geometry) -> Result<()> {
        let (chain, at) = self.place(offset).ok_or_else(|| not_as_planned(offset))?;
        remove_in(raw.get_mut(chain).or_short(SHORT)?, at, ino, geo)
    }

    /// Lets the entry at [`offset`](DirEntry::offset) lead to `new` instead of `old`.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if there is no such entry; `raw` is then unchanged.
    pub fn set_entry(
        &self,
        raw: &mut [u8],
        offset: u32,
        old: Ino,
        new: Ino,
        file_type: FileType,
        geo: &Geometry,
    ) -> Result<()> {
        let (chain, at) = self.place(offset).ok_or_else(|| not_as_planned(offset))?;
        let chain = raw.get_mut(chain).or_short(SHORT)?;
        super::dir_edit::set_entry(chain, at, old, new, file_type, geo)
    }
}

impl InlineSlot {
    /// Puts an entry into the inode `raw`.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the inode is not as planned; it is then
    /// unchanged.
    pub fn insert(
        &self,
        raw: &mut [u8],
        name: Name<'_>,
        ino: Ino,
        file_type: FileType,
        geo: &Geometry,
    ) -> Result<()> {
        let chain = raw.get_mut(self.chain.clone()).or_short(SHORT)?;
        insert(chain, &self.slot, name, ino, file_type, geo)
    }
}

/// Lets ".." of the directory in the inode `raw` lead to `new` instead of `old`.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if it does not lead to `old`; `raw` is then unchanged.
pub fn set_parent(raw: &mut [u8], old: Ino, new: Ino) -> Result<()> {
    if get_bytes(raw, I_BLOCK, PARENT) != Some(&old.0.to_le_bytes()) {
        return Err(not_as_planned(0));
    }
    put_u32(raw, I_BLOCK, new.0).or_short(SHORT)
}

/// Makes the `i_block` of the inode `raw` an empty directory.
///
/// The attribute "system.data" with no bytes, which belongs to it, is not made here.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if `raw` is too short.
pub fn init(raw: &mut [u8], parent: Ino) -> Result<()> {
    let block = get_mut(raw, I_BLOCK, I_BLOCK_SIZE).or_short(SHORT)?;
    block.fill(0);
    put_u32(block, 0, parent.0).or_short(SHORT)?;
    // At most 56.
    let len = u32::try_from(I_BLOCK_SIZE - PARENT).unwrap_or(0);
    put_u16(block, PARENT + 4, encode_len(len)).or_short(SHORT)
}

/// Returns whether a directory has no names.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt).
pub fn is_empty(dir: &InlineDir<'_>) -> Result<bool> {
    Ok(dir.iter().next().transpose()?.is_none())
}

/// Checks that the names of a directory can go to a block: all entries are sound, and they fit.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt).
pub fn check_to_block(dir: &InlineDir<'_>, geo: &Geometry) -> Result<()> {
    let mut len = us(entry_len(1) + entry_len(2));
    for entry in dir.iter() {
        len += us(needs(&entry?)?);
    }
    match len <= super::dir_edit::end_of_entries(geo) {
        true => Ok(()),
        false => Err(Error::corrupt("inline directory: larger than a block")),
    }
}

fn needs(entry: &DirEntry<'_>) -> Result<u32> {
    let name = Name::new(entry.name).ok_or_else(|| nameless(entry.offset))?;
    Ok(name.entry_len())
}

/// Fills the fresh block `buf` with the names of `dir`, which is the directory of inode `ino`.
///
/// The names are packed behind "." and "..", and [`room`](super::dir_edit::room) then says where
/// the next one goes.
///
/// # Errors
///
/// What [`check_to_block`] would say.
pub fn to_block(dir: &InlineDir<'_>, ino: Ino, buf: &mut [u8], geo: &Geometry) -> Result<()> {
    check_to_block(dir, geo)?;
    let mut filler = Filler::new(buf, geo)?;
    filler.dots(ino, dir.parent).or_short(SHORT)?;
    for entry in dir.iter() {
        let entry = entry?;
        let name = Name::new(entry.name).ok_or_else(|| nameless(entry.offset))?;
        filler
            .add(entry.ino, name, entry.file_type)
            .or_short(SHORT)?;
    }
    filler.finish().or_short(SHORT)
}
