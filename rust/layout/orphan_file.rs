// SPDX-License-Identifier: GPL-2.0

//! The orphan file: numbers of inodes of which something is still to be freed.
//!
//! It is an array of 32-bit numbers in blocks, in no order; 0 is an entry that is not used. Each block
//! ends with a magic number and a checksum, which depends on where the block lies.
//!
//! Format: `struct ext4_orphan_block_tail` of `fs/ext4/ext4.h`.

use super::bytes::{get_u32, put_u32};
use super::csum::Owner;
use super::error::{Error, Kind, OrShort, Result};
use super::geometry::Geometry;
use super::units::{Ino, Pblk};

/// What the last but one 32-bit number of each block is.
const MAGIC: u32 = 0x0b10_ca04;

/// The size of what a block ends with.
const TAIL: usize = 8;

const SHORT: &str = "orphan file: block too short";

/// Returns the bytes of the entries, and the offset of the tail.
fn entries<'a>(data: &'a [u8], geo: &Geometry) -> Result<(&'a [u8], usize)> {
    let size = usize::try_from(geo.block_size()).unwrap_or(0);
    let tail = size.checked_sub(TAIL).or_short(SHORT)?;
    Ok((data.get(..tail).or_short(SHORT)?, tail))
}

fn checksum(entries: &[u8], pblk: Pblk, owner: &Owner, geo: &Geometry) -> u32 {
    let csum = geo.csum();
    csum.crc32c(csum.crc32c(owner.seed, &pblk.0.to_le_bytes()), entries)
}

/// Verifies the block of the orphan file that lies at `pblk`; `owner` is the file's.
///
/// # Errors
///
/// [`Kind::Corrupt`] without the magic number, and [`Kind::Checksum`].
pub fn verify(data: &[u8], pblk: Pblk, owner: &Owner, geo: &Geometry) -> Result<()> {
    let (bytes, tail) = entries(data, geo)?;
    let magic = get_u32(data, tail).or_short(SHORT)?;
    if magic != MAGIC {
        return Err(Error::corrupt1("orphan file: magic number {x}", magic));
    }
    let stored = get_u32(data, tail + 4).or_short(SHORT)?;
    if geo.csum().metadata() && stored != checksum(bytes, pblk, owner, geo) {
        return Err(
            Error::new(Kind::Checksum, "orphan file: block {}: checksum").with(pblk.0, 0u64),
        );
    }
    Ok(())
}

/// Iterates over the entries in use, with the offset of each in the block.
pub fn orphans<'a>(
    data: &'a [u8],
    geo: &Geometry,
) -> Result<impl Iterator<Item = (usize, Ino)> + 'a> {
    let (bytes, _) = entries(data, geo)?;
    let numbers = bytes.chunks_exact(4).enumerate();
    Ok(numbers.filter_map(|(i, entry)| {
        let ino = get_u32(entry, 0).filter(|ino| *ino != 0)?;
        Some((4 * i, Ino(ino)))
    }))
}

/// Clears the entry at `offset` of the block at `pblk`, and seals the block; `None`, and nothing
/// changes, if there is no such entry.
pub fn clear(
    data: &mut [u8],
    offset: usize,
    pblk: Pblk,
    owner: &Owner,
    geo: &Geometry,
) -> Option<()> {
    let (bytes, tail) = entries(data, geo).ok()?;
    bytes.get(offset..offset.checked_add(4)?)?;
    put_u32(data, offset, 0)?;
    if geo.csum().metadata() {
        let sum = checksum(data.get(..tail)?, pblk, owner, geo);
        put_u32(data, tail + 4, sum)?;
    }
    Some(())
}
