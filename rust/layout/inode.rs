// SPDX-License-Identifier: GPL-2.0

//! Inodes: 128 bytes that every volume has, and the fields and attributes behind them.

use super::bytes::{get_array, get_u16, get_u32, join16, join32, low16, low32};
use super::csum::Owner;
use super::error::{Error, Kind, OrShort, Result};
use super::feature::{Compat, Incompat, RoCompat};
use super::geometry::Geometry;
use super::units::{FileType, Ino, Pblk};

const SHORT: &str = "inode: buffer too short";

/// The size in bytes of the oldest inodes, and of the part that all share.
pub const BASE_SIZE: u16 = 128;

/// How many bytes behind the first 128 have a meaning.
pub(super) const KNOWN_EXTRA: u16 = 32;

/// How many bytes `i_block` has: block pointers, an extent root, a short link or inline data.
pub const I_BLOCK_SIZE: usize = 60;

/// Offset of `i_block`, in bytes.
pub const I_BLOCK: usize = 0x28;

/// Offset of the two halves of the checksum, in bytes.
pub(super) const CSUM_LO: usize = 0x7c;
pub(super) const CSUM_HI: usize = 0x82;

/// Values of the superblock's field that tells which system made the volume.
const CREATOR_LINUX: u32 = 0;
pub(super) const CREATOR_HURD: u32 = 1;

/// The flags of an inode, as the disk and `lsattr` have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InodeFlags(pub u32);

impl InodeFlags {
    /// Writes are synchronous.
    pub const SYNC: Self = Self(0x8);
    /// The file cannot be changed.
    pub const IMMUTABLE: Self = Self(0x10);
    /// The file can only grow.
    pub const APPEND: Self = Self(0x20);
    /// `dump` skips the file.
    pub const NODUMP: Self = Self(0x40);
    /// Access times are not kept.
    pub const NOATIME: Self = Self(0x80);
    /// The contents are encrypted.
    pub const ENCRYPT: Self = Self(0x800);
    /// The directory has a hash index.
    pub const INDEX: Self = Self(0x1000);
    /// The data goes through the journal.
    pub const JOURNAL_DATA: Self = Self(0x4000);
    /// The tail is not merged with others: nobody does that.
    pub const NOTAIL: Self = Self(0x8000);
    /// Changes to the directory are synchronous.
    pub const DIRSYNC: Self = Self(0x10000);
    /// The directory is the top of a hierarchy, which only matters to allocation.
    pub const TOPDIR: Self = Self(0x20000);
    /// The block count is in file-system blocks.
    pub const HUGE_FILE: Self = Self(0x40000);
    /// The file is mapped by extents.
    pub const EXTENTS: Self = Self(0x80000);
    /// The file has a Merkle tree behind its end.
    pub const VERITY: Self = Self(0x100000);
    /// The inode holds the value of another inode's attribute.
    pub const EA_INODE: Self = Self(0x200000);
    /// The file is accessed directly.
    pub const DAX: Self = Self(0x200_0000);
    /// The contents lie in the inode.
    pub const INLINE_DATA: Self = Self(0x1000_0000);
    /// New files inherit the project.
    pub const PROJINHERIT: Self = Self(0x2000_0000);
    /// Names in the directory ignore case.
    pub const CASEFOLD: Self = Self(0x4000_0000);

    /// Returns whether all bits of `bits` are set.
    #[inline]
    pub const fn has(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970; from 1901 to 2446 if inodes have room, else to 2038.
    pub secs: i64,
    /// Nanoseconds: below 1,000,000,000.
    pub nanos: u32,
}

impl Time {
    /// Decodes the base word and, if the inode has room for it, the word with epoch and
    /// nanoseconds.
    fn decode(base: u32, extra: Option<u32>) -> Self {
        let extra = extra.unwrap_or(0);
        let secs = i64::from(i32::from_le_bytes(base.to_le_bytes()));
        Self {
            secs: secs + (i64::from(extra & 3) << 32),
            // ext4 takes what it finds, but nobody expects more than a second.
            nanos: (extra >> 2).min(999_999_999),
        }
    }

    /// Returns the word that the time was decoded from, for inodes that keep something else there.
    pub(super) fn base_word(self) -> u32 {
        low32(u64::from_le_bytes(self.secs.to_le_bytes()))
    }
}

/// The number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

impl Device {
    /// Decodes the two words of `i_block`: 8:8 bits in the first, or 12:20 in the second.
    fn decode(old: u32, new: u32) -> Self {
        if old != 0 {
            return Self {
                major: old >> 8 & 0xff,
                minor: old & 0xff,
            };
        }
        Self {
            major: new >> 8 & 0xfff,
            minor: new & 0xff | new >> 12 & 0xf_ff00,
        }
    }
}

/// Where an inode's contents lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataMap {
    /// In blocks that extents map.
    Extents,
    /// In blocks that block pointers map.
    Indirect,
    /// In the inode: see [`InlineData`](super::InlineData).
    Inline,
    /// In `i_block`: see [`Inode::fast_symlink`].
    FastSymlink,
    /// Nowhere: devices, pipes and sockets have none.
    None,
}

/// A checked inode.
#[derive(Clone, Copy, Debug)]
pub struct Inode {
    /// The inode's number.
    pub ino: Ino,
    /// What the checksums of its blocks depend on.
    pub owner: Owner,
    /// The mode: type and permission bits.
    pub mode: u16,
    /// The type, from the mode.
    pub file_type: FileType,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The project; 0 if the volume keeps none.
    pub project: u32,
    /// The size in bytes; at most what the map can cover, so that every block number fits
    /// [`Lblk`](super::Lblk).
    pub size: u64,
    /// Space taken, in 512-byte sectors.
    pub sectors: u64,
    /// Links to the inode. A directory with too many sub-directories to count has 1.
    pub links: u16,
    /// The flags.
    pub flags: InodeFlags,
    /// Last access.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation; `None` if the inode is too small to keep it.
    pub crtime: Option<Time>,
    /// Deletion time, or the next orphan's number in the list of orphans.
    pub dtime: u32,
    /// The generation, which tells users of a number one after another apart.
    pub generation: u32,
    /// The change counter.
    pub version: u64,
    /// The block with extended attributes.
    pub xattr_block: Option<Pblk>,
    /// The device, if the inode is one.
    pub device: Option<Device>,
    /// The bytes of `i_block` as the disk has them.
    pub block: [u8; I_BLOCK_SIZE],
    /// How many bytes behind the first 128 hold fields. An inode that has room and says 0, as
    /// tune2fs and old tools leave it, counts as one that has all fields.
    pub extra_isize: u16,
    /// Where the attributes in the inode start, as an offset in it; see
    /// [`XattrSet::in_inode`](super::XattrSet::in_inode).
    pub xattr_offset: Option<u16>,
    data_map: DataMap,
    indexed: bool,
}

/// The inode's bytes, read field by field.
struct Raw<'a> {
    bytes: &'a [u8],
    /// The first of them, which every inode has: a field there needs no check of the length.
    base: &'a [u8; BASE_SIZE as usize],
    extra_isize: u16,
}

impl Raw<'_> {
    /// The bytes that have the field of `len` bytes at `off`.
    #[inline(always)]
    fn with(&self, off: usize, len: usize) -> &[u8] {
        if off + len <= self.base.len() {
            self.base
        } else {
            self.bytes
        }
    }

    #[inline(always)]
    fn u16(&self, off: usize) -> Result<u16> {
        get_u16(self.with(off, 2), off).or_short(SHORT)
    }

    #[inline(always)]
    fn u32(&self, off: usize) -> Result<u32> {
        get_u32(self.with(off, 4), off).or_short(SHORT)
    }

    /// Reads a time, by its field and by that of what it has behind the first 128 bytes.
    #[inline(always)]
    fn time(&self, base: usize, extra: usize) -> Result<Time> {
        Ok(Time::decode(self.u32(base)?, self.extra(extra)?))
    }

    /// Reads a field behind the first 128 bytes, if the inode says that it uses it.
    #[inline(always)]
    fn extra(&self, off: usize) -> Result<Option<u32>> {
        if off + 4 <= usize::from(BASE_SIZE) + usize::from(self.extra_isize) {
            self.u32(off).map(Some)
        } else {
            Ok(None)
        }
    }
}

/// What need not be found out of an inode that is parsed.
enum Known {
    Nothing,
    /// That its checksum is right.
    Checksum,
    /// The same, and what its checksum depends on.
    Owner(Owner),
}

impl Inode {
    /// Parses, verifies and checks an inode that is in use; `raw` is the whole of it.
    ///
    /// # Errors
    ///
    /// [`Kind::Stale`] if the inode is not in use, [`Kind::Checksum`], and [`Kind::Corrupt`] for
    /// fields that contradict each other or the volume.
    pub fn parse(raw: &[u8], ino: Ino, geo: &Geometry) -> Result<Self> {
        Self::parse_as(raw, ino, geo, false, Known::Nothing)
    }

    /// Like [`parse`](Self::parse), but accepts an inode without links, as the list of orphans has
    /// them.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse).
    pub fn parse_orphan(raw: &[u8], ino: Ino, geo: &Geometry) -> Result<Self> {
        Self::parse_as(raw, ino, geo, true, Known::Nothing)
    }

    /// Like [`parse_orphan`](Self::parse_orphan), for bytes whose checksum was written just now.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse), but for the checksum.
    pub fn parse_sealed(raw: &[u8], ino: Ino, geo: &Geometry) -> Result<Self> {
        Self::parse_as(raw, ino, geo, true, Known::Checksum)
    }

    /// As [`parse_sealed`](Self::parse_sealed), for an inode whose owner is known: its generation
    /// does not change.
    ///
    /// # Errors
    ///
    /// As for [`parse_sealed`](Self::parse_sealed).
    pub fn parse_edited(raw: &[u8], owner: &Owner, geo: &Geometry) -> Result<Self> {
        Self::parse_as(raw, owner.ino, geo, true, Known::Owner(*owner))
    }

    fn parse_as(raw: &[u8], ino: Ino, geo: &Geometry, orphan: bool, known: Known) -> Result<Self> {
        geo.inode_index(ino)?;
        let bytes = raw.get(..usize::from(geo.inode_size())).or_short(SHORT)?;
        let mut raw = Raw {
            bytes,
            base: bytes.first_chunk().or_short(SHORT)?,
            extra_isize: 0,
        };
        let (mode, links) = (raw.u16(0x0)?, raw.u16(0x1a)?);
        if mode == 0 && links == 0 {
            return Err(stale(ino));
        }
        if geo.inode_size() > BASE_SIZE {
            raw.extra_isize = raw.u16(0x80)?;
            let room = geo.inode_size() - BASE_SIZE;
            if raw.extra_isize > room || raw.extra_isize % 4 != 0 {
                return Err(Error::corrupt2(
                    "inode {}: extra size {}",
                    ino,
                    raw.extra_isize,
                ));
            }
        }
        let generation = raw.u32(0x64)?;
        let owner = match known {
            Known::Owner(owner) => owner,
            _ => geo.csum().owner(ino, generation),
        };
        if let Known::Nothing = known {
            verify_csum(&raw, &owner, geo)?;
        }
        // What else a deleted inode has says nothing.
        if links == 0 && !orphan {
            return Err(stale(ino));
        }

        let Some(file_type) = FileType::from_mode(mode) else {
            return Err(Error::corrupt2("inode {}: mode {x}", ino, mode));
        };
        let flags = InodeFlags(raw.u32(0x20)?);
        check_flags(ino, file_type, flags, geo)?;
        let sectors = sectors(&raw, flags, geo)?;
        let size = size(&raw, ino, file_type, flags, geo)?;
        let xattr_block = xattr_block(&raw, ino, geo)?;
        let block: [u8; I_BLOCK_SIZE] = get_array(bytes, I_BLOCK).or_short(SHORT)?;
        let data_map = data_map(file_type, flags, size, sectors, xattr_block.is_some(), geo);
        if data_map == DataMap::FastSymlink && !flags.has(InodeFlags::ENCRYPT) {
            check_fast_symlink(ino, &block, size)?;
        }

        // Both are only where the inode itself says so.
        let project = match geo.has_ro_compat(RoCompat::PROJECT) {
            true => raw.extra(0x9c)?.unwrap_or(0),
            false => 0,
        };
        let xattr_offset = xattr_offset(&raw, geo);
        if geo.inode_size() > BASE_SIZE && raw.extra_isize == 0 {
            raw.extra_isize = KNOWN_EXTRA;
        }
        Ok(Self {
            ino,
            owner,
            mode,
            file_type,
            uid: join16(raw.u16(0x2)?, raw.u16(0x78)?),
            gid: join16(raw.u16(0x18)?, raw.u16(0x7a)?),
            project,
            size,
            sectors,
            links,
            flags,
            atime: raw.time(0x8, 0x8c)?,
            ctime: raw.time(0xc, 0x84)?,
            mtime: raw.time(0x10, 0x88)?,
            crtime: match raw.extra(0x90)? {
                Some(base) => Some(Time::decode(base, raw.extra(0x94)?)),
                None => None,
            },
            dtime: raw.u32(0x14)?,
            generation,
            // On volumes that the Hurd made, the low half is something else.
            version: match geo.creator_os {
                CREATOR_HURD => 0,
                _ => join32(raw.u32(0x24)?, raw.extra(0x98)?.unwrap_or(0)),
            },
            xattr_block,
            device: match file_type {
                FileType::CharDevice | FileType::BlockDevice => Some(Device::decode(
                    get_u32(&block, 0).or_short(SHORT)?,
                    get_u32(&block, 4).or_short(SHORT)?,
                )),
                _ => None,
            },
            block,
            extra_isize: raw.extra_isize,
            xattr_offset,
            data_map,
            indexed: file_type == FileType::Directory
                && flags.has(InodeFlags::INDEX)
                && !flags.has(InodeFlags::INLINE_DATA)
                && geo.has_compat(Compat::DIR_INDEX),
        })
    }

    /// Returns where the contents lie.
    #[inline]
    pub const fn data_map(&self) -> DataMap {
        self.data_map
    }

    /// Returns whether this is a directory with a hash index.
    pub const fn is_indexed(&self) -> bool {
        self.indexed
    }

    /// Returns whether this is a directory.
    pub const fn is_dir(&self) -> bool {
        matches!(self.file_type, FileType::Directory)
    }

    /// Returns whether this is a link whose target is encrypted: see
    /// [`NokeyName::of_link`](super::NokeyName::of_link).
    pub const fn is_encrypted_link(&self) -> bool {
        matches!(self.file_type, FileType::Symlink) && self.flags.has(InodeFlags::ENCRYPT)
    }

    /// Returns the target of a link that lies in `i_block`: 1 to 59 bytes without a zero; `None`
    /// for all else.
    pub fn fast_symlink(&self) -> Option<&[u8]> {
        if self.data_map != DataMap::FastSymlink || self.flags.has(InodeFlags::ENCRYPT) {
            return None;
        }
        self.block.get(..usize::try_from(self.size).ok()?)
    }
}

#[cold]
fn stale(ino: Ino) -> Error {
    Error::new(Kind::Stale, "inode {}: not in use").with(ino, 0u64)
}

/// Computes the checksum of an inode of which `bytes` are the whole; `None` if it carries none.
///
/// It has 32 bits if the inode uses the field for its upper half, else 16.
pub(super) fn checksum(
    bytes: &[u8],
    extra_isize: u16,
    owner: &Owner,
    geo: &Geometry,
) -> Option<u32> {
    let csum = geo.csum();
    // Other systems keep something else where the checksum's lower half is.
    if !csum.metadata() || geo.creator_os != CREATOR_LINUX {
        return None;
    }
    let (base, extra) = bytes.split_at_checked(usize::from(BASE_SIZE))?;
    let computed = csum.crc32c_zeroed(owner.seed, base, CSUM_LO, 2);
    Some(if has_csum_hi(extra_isize) {
        csum.crc32c_zeroed(computed, extra, CSUM_HI - usize::from(BASE_SIZE), 2)
    } else {
        u32::from(low16(csum.crc32c(computed, extra)))
    })
}

/// Returns whether an inode uses the field for the upper half of its checksum.
pub(super) const fn has_csum_hi(extra_isize: u16) -> bool {
    extra_isize >= 4
}

fn verify_csum(raw: &Raw<'_>, owner: &Owner, geo: &Geometry) -> Result<()> {
    let Some(computed) = checksum(raw.bytes, raw.extra_isize, owner, geo) else {
        return Ok(());
    };
    let stored = match has_csum_hi(raw.extra_isize) {
        true => join16(raw.u16(CSUM_LO)?, raw.u16(CSUM_HI)?),
        false => u32::from(raw.u16(CSUM_LO)?),
    };
    if stored == computed {
        Ok(())
    } else {
        Err(Error::checksum(
            "inode: checksum {x}, but {x} expected",
            stored,
            computed,
        ))
    }
}

fn check_flags(ino: Ino, file_type: FileType, flags: InodeFlags, geo: &Geometry) -> Result<()> {
    let bad = |what| Err(Error::corrupt1(what, ino));
    if flags.has(InodeFlags::INLINE_DATA) {
        if flags.has(InodeFlags::EXTENTS) {
            return bad("inode {}: both inline data and extents");
        }
        if !geo.has_incompat(Incompat::INLINE_DATA) {
            return bad("inode {}: inline data without the feature");
        }
    }
    if flags.has(InodeFlags::ENCRYPT) && !geo.has_incompat(Incompat::ENCRYPT) {
        return bad("inode {}: encrypted without the feature");
    }
    if flags.has(InodeFlags::CASEFOLD) && !geo.has_incompat(Incompat::CASEFOLD) {
        return bad("inode {}: casefolded without the feature");
    }
    // Without the feature an index is meant to be taken for empty space, but the blocks of an index
    // have their checksum elsewhere.
    if file_type == FileType::Directory
        && flags.has(InodeFlags::INDEX)
        && !geo.has_compat(Compat::DIR_INDEX)
        && geo.csum().metadata()
    {
        return bad("inode {}: indexed directory without the feature");
    }
    if file_type == FileType::Symlink
        && (flags.has(InodeFlags::IMMUTABLE) || flags.has(InodeFlags::APPEND))
    {
        return bad("inode {}: immutable or append-only symbolic link");
    }
    Ok(())
}

fn sectors(raw: &Raw<'_>, flags: InodeFlags, geo: &Geometry) -> Result<u64> {
    let lo = raw.u32(0x1c)?;
    if !geo.has_ro_compat(RoCompat::HUGE_FILE) {
        return Ok(u64::from(lo));
    }
    let count = join32(lo, u32::from(raw.u16(0x74)?));
    if flags.has(InodeFlags::HUGE_FILE) {
        // At most 48 bits, and at most 7 more.
        Ok(count << geo.block_bits().saturating_sub(9))
    } else {
        Ok(count)
    }
}

fn size(
    raw: &Raw<'_>,
    ino: Ino,
    file_type: FileType,
    flags: InodeFlags,
    geo: &Geometry,
) -> Result<u64> {
    let wide = file_type == FileType::Regular || geo.has_incompat(Incompat::LARGEDIR);
    // The upper half was once a directory's ACL, which is why it counts for some only.
    let hi = if wide { raw.u32(0x6c)? } else { 0 };
    let size = join32(raw.u32(0x4)?, hi);
    if size > geo.max_file_size(flags.has(InodeFlags::EXTENTS)) {
        return Err(Error::corrupt2("inode {}: size {}", ino, size));
    }
    Ok(size)
}

fn xattr_block(raw: &Raw<'_>, ino: Ino, geo: &Geometry) -> Result<Option<Pblk>> {
    let hi = match geo.has_incompat(Incompat::B64) {
        true => raw.u16(0x76)?,
        false => 0,
    };
    let block = Pblk(join32(raw.u32(0x68)?, u32::from(hi)));
    if block.0 == 0 {
        return Ok(None);
    }
    if !geo.contains(block, 1) {
        return Err(Error::corrupt2(
            "inode {}: attribute block {} is not on the volume",
            ino,
            block,
        ));
    }
    Ok(Some(block))
}

/// Finds attributes in the inode: there is room for them, and their magic number is there.
fn xattr_offset(raw: &Raw<'_>, geo: &Geometry) -> Option<u16> {
    let start = BASE_SIZE.checked_add(raw.extra_isize)?;
    if raw.extra_isize == 0 || start.checked_add(8)? > geo.inode_size() {
        return None;
    }
    let magic = get_u32(raw.bytes, usize::from(start))?;
    (magic == super::xattr::MAGIC).then_some(start)
}

fn data_map(
    file_type: FileType,
    flags: InodeFlags,
    size: u64,
    sectors: u64,
    has_xattr_block: bool,
    geo: &Geometry,
) -> DataMap {
    match file_type {
        FileType::Regular | FileType::Directory | FileType::Symlink => {}
        _ => return DataMap::None,
    }
    if flags.has(InodeFlags::INLINE_DATA) {
        return DataMap::Inline;
    }
    if file_type == FileType::Symlink {
        // Before values of attributes had inodes, which count in `sectors`, a link was short if it
        // had no block of its own. Links of fewer than 60 bytes with a block exist from then.
        let short = if geo.has_incompat(Incompat::EA_INODE) {
            size > 0 && size < 60
        } else {
            let cluster = u64::from(geo.cluster_blocks()) << geo.block_bits();
            let xattr_sectors = if has_xattr_block { cluster >> 9 } else { 0 };
            sectors == xattr_sectors
        };
        if short {
            return DataMap::FastSymlink;
        }
    }
    if flags.has(InodeFlags::EXTENTS) {
        DataMap::Extents
    } else {
        DataMap::Indirect
    }
}

/// Checks that the target in `i_block` ends where the size says, as ext4 does.
fn check_fast_symlink(ino: Ino, block: &[u8; I_BLOCK_SIZE], size: u64) -> Result<()> {
    let end = block.iter().position(|&byte| byte == 0);
    match end {
        Some(end @ 1..) if u64::try_from(end) == Ok(size) => Ok(()),
        _ => Err(Error::corrupt2(
            "inode {}: symbolic link of {} bytes",
            ino,
            size,
        )),
    }
}
