// SPDX-License-Identifier: GPL-2.0

//! Changes to an inode, in the bytes of the block that holds it.
//!
//! An [`InodeEdit`] borrows the inode's bytes. Its setters write one field each, wherever the disk
//! keeps its parts, and skip parts for which the inode has no room. [`InodeEdit::seal`] comes last.

use super::bytes::{
    get_u16, get_u32, high16, high32, join32, low16, low32, put_bytes, put_u16, put_u32,
};
use super::csum::Owner;
use super::extent::EMPTY_ROOT;
use super::feature::RoCompat;
use super::geometry::Geometry;
use super::inode::{
    checksum, has_csum_hi, Device, InodeFlags, Time, BASE_SIZE, CREATOR_HURD, CSUM_HI, CSUM_LO,
    I_BLOCK_SIZE, KNOWN_EXTRA,
};
use super::superblock::SuperBlock;
use super::units::{Ino, Pblk};

/// Offset of `i_block`, in bytes.
const I_BLOCK: usize = 0x28;

/// Offset of the field that tells how many bytes behind the first 128 are in use.
const EXTRA_ISIZE: usize = 0x80;

/// The largest number of links that an inode may have, but for directories with an index on a
/// volume with `dir_nlink`.
pub const LINK_MAX: u16 = 65_000;

/// The largest size of a regular file on a volume without `large_file`.
pub const SMALL_FILE_MAX: u64 = 0x7fff_ffff;

/// Returns whether a regular file of `size` bytes needs `large_file` in the superblock.
pub const fn needs_large_file(size: u64) -> bool {
    size > SMALL_FILE_MAX
}

/// Returns how many bytes behind the first 128 a new inode of the volume should use.
pub fn new_extra_isize(sb: &SuperBlock) -> u16 {
    let room = sb.geo.inode_size().saturating_sub(BASE_SIZE);
    if room == 0 {
        return 0;
    }
    let wanted = match sb.geo.has_ro_compat(RoCompat::EXTRA_ISIZE) {
        true => sb.want_extra_isize.max(sb.min_extra_isize),
        false => 0,
    };
    // A multiple of 4, as the parser demands; the room is one.
    wanted.max(KNOWN_EXTRA).next_multiple_of(4).min(room)
}

/// Returns the number of links after one more, or `None` if no more is possible (`EMLINK`).
///
/// `indexed` says whether the inode is a directory with an index. Such a one goes to 1 on a volume
/// with `dir_nlink` when its links can no longer be counted, and a directory stays there.
pub fn links_after_link(links: u16, dir: bool, indexed: bool, geo: &Geometry) -> Option<u16> {
    if dir && links == 1 {
        return Some(1);
    }
    if links < LINK_MAX {
        return Some(links + 1);
    }
    (indexed && geo.has_ro_compat(RoCompat::DIR_NLINK)).then_some(1)
}

/// Returns the number of links after one fewer.
///
/// A directory keeps 2 for itself, or the 1 that says that its links are not counted, until it is
/// removed.
pub const fn links_after_unlink(links: u16, dir: bool) -> u16 {
    if dir && links <= 2 {
        links
    } else {
        links.saturating_sub(1)
    }
}

impl Time {
    /// The earliest time that an inode can keep, in seconds since 1970.
    pub const MIN_SECS: i64 = -(1 << 31);

    /// Returns the latest time that an inode with or without room for the epoch can keep, in
    /// seconds since 1970.
    pub const fn max_secs(wide: bool) -> i64 {
        let last = (1 << 31) - 1;
        if wide {
            last + (3 << 32)
        } else {
            last
        }
    }

    /// Encodes the base word, and the word with epoch and nanoseconds; the nearest time that can be
    /// kept if this one cannot.
    pub(super) fn encode(self, wide: bool) -> (u32, u32) {
        let secs = self.secs.clamp(Self::MIN_SECS, Self::max_secs(wide));
        let nanos = match secs == self.secs {
            true => self.nanos.min(999_999_999),
            false => 0,
        };
        let time = Self { secs, nanos };
        // The base word counts as signed, so what it stands for is taken off before the shift.
        let base = time.base_word();
        let signed = i64::from(i32::from_le_bytes(base.to_le_bytes()));
        let epoch = low32(u64::from_le_bytes((secs - signed).to_le_bytes()) >> 32) & 3;
        (base, epoch | nanos << 2)
    }
}

impl Device {
    /// Encodes the two words of `i_block`: 8:8 bits in the first if they suffice, else 12:20 in the
    /// second.
    const fn encode(self) -> [u32; 2] {
        let (major, minor) = (self.major & 0xfff, self.minor & 0xf_ffff);
        if major < 256 && minor < 256 {
            [major << 8 | minor, 0]
        } else {
            [0, minor & 0xff | major << 8 | (minor & 0xf_ff00) << 12]
        }
    }
}

/// The times of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeField {
    /// Last access.
    Access,
    /// Last change of the contents.
    Modify,
    /// Last change of the inode.
    Change,
    /// Creation; inodes of 128 bytes have no room for it.
    Create,
}

impl TimeField {
    /// Returns the offsets of the base word, and of the word with epoch and nanoseconds.
    const fn offsets(self) -> (usize, usize) {
        match self {
            Self::Access => (0x8, 0x8c),
            Self::Modify => (0x10, 0x88),
            Self::Change => (0xc, 0x84),
            Self::Create => (0x90, 0x94),
        }
    }
}

/// An editor of an inode's bytes.
#[derive(Debug)]
pub struct InodeEdit<'a> {
    raw: &'a mut [u8],
    geo: &'a Geometry,
    extra_isize: u16,
}

impl<'a> InodeEdit<'a> {
    /// Starts to edit the inode at the start of `raw`, which may be longer.
    ///
    /// An inode that has room for more fields than the first 128 bytes hold, and says that it uses
    /// none, uses those that are known from now on, as ext4 has it.
    ///
    /// `None`, and nothing changes, if `raw` is shorter than an inode, or if the inode says that it
    /// uses more bytes than it has.
    pub fn new(raw: &'a mut [u8], geo: &'a Geometry) -> Option<Self> {
        let raw = raw.get_mut(..usize::from(geo.inode_size()))?;
        let room = geo.inode_size().checked_sub(BASE_SIZE)?;
        let mut extra_isize = 0;
        if room > 0 {
            extra_isize = get_u16(raw, EXTRA_ISIZE)?;
            if extra_isize > room || extra_isize % 4 != 0 {
                return None;
            }
            if extra_isize == 0 && geo.creator_os != CREATOR_HURD {
                extra_isize = KNOWN_EXTRA.min(room);
                put_u16(raw, EXTRA_ISIZE, extra_isize)?;
            }
        }
        Some(Self {
            raw,
            geo,
            extra_isize,
        })
    }

    /// Starts a fresh inode at the start of `raw`: all zero, with `extra_isize` bytes behind the
    /// first 128 in use.
    ///
    /// `extra_isize` is [`new_extra_isize`] of the volume. `None`, and nothing changes, if `raw` is
    /// shorter than an inode, or the inode has no room for so much.
    pub fn init(raw: &'a mut [u8], extra_isize: u16, geo: &'a Geometry) -> Option<Self> {
        let raw = raw.get_mut(..usize::from(geo.inode_size()))?;
        let room = geo.inode_size().checked_sub(BASE_SIZE)?;
        if extra_isize > room || extra_isize % 4 != 0 {
            return None;
        }
        raw.fill(0);
        if room > 0 {
            put_u16(raw, EXTRA_ISIZE, extra_isize)?;
        }
        Some(Self {
            raw,
            geo,
            extra_isize,
        })
    }

    // `new` and `init` checked the length, and every field that is written lies in the first 128
    // bytes, or behind them within what the inode was found to use.
    fn put16(&mut self, off: usize, v: u16) {
        let _ = put_u16(self.raw, off, v);
    }

    fn put32(&mut self, off: usize, v: u32) {
        let _ = put_u32(self.raw, off, v);
    }

    fn get32(&self, off: usize) -> u32 {
        get_u32(self.raw, off).unwrap_or(0)
    }

    fn get16(&self, off: usize) -> u16 {
        get_u16(self.raw, off).unwrap_or(0)
    }

    /// Returns whether the inode uses the field of `len` bytes at `off`, behind the first 128.
    fn has(&self, off: usize, len: usize) -> bool {
        off + len <= usize::from(BASE_SIZE) + usize::from(self.extra_isize)
    }

    /// Returns all bytes of the inode, to edit what lies in it and is no field: the names of a
    /// directory.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.raw
    }

    /// Returns how many bytes behind the first 128 are in use.
    pub const fn extra_isize(&self) -> u16 {
        self.extra_isize
    }

    /// Returns the mode.
    pub fn mode(&self) -> u16 {
        self.get16(0x0)
    }

    /// Returns the flags.
    pub fn flags(&self) -> InodeFlags {
        InodeFlags(self.get32(0x20))
    }

    /// Returns the number of links.
    pub fn links(&self) -> u16 {
        self.get16(0x1a)
    }

    /// Sets type and permission bits.
    pub fn set_mode(&mut self, mode: u16) {
        self.put16(0x0, mode);
    }

    /// Sets the owner.
    pub fn set_uid(&mut self, uid: u32) {
        self.put16(0x2, low16(uid));
        self.put16(0x78, high16(uid));
    }

    /// Sets the group.
    pub fn set_gid(&mut self, gid: u32) {
        self.put16(0x18, low16(gid));
        self.put16(0x7a, high16(gid));
    }

    /// Sets the project; `false` if the inode has no room for it (`EOVERFLOW`) or the volume keeps
    /// none.
    pub fn set_project(&mut self, project: u32) -> bool {
        if !self.geo.has_ro_compat(RoCompat::PROJECT) || !self.has(0x9c, 4) {
            return false;
        }
        self.put32(0x9c, project);
        true
    }

    /// Sets the size in bytes.
    pub fn set_size(&mut self, size: u64) {
        self.put32(0x4, low32(size));
        self.put32(0x6c, high32(size));
    }

    /// Returns the size in bytes; that of a directory has 32 bits.
    pub fn size(&self) -> u64 {
        join32(self.get32(0x4), self.get32(0x6c))
    }

    /// Returns the space taken, in 512-byte sectors.
    pub fn sectors(&self) -> u64 {
        let lo = self.get32(0x1c);
        if !self.geo.has_ro_compat(RoCompat::HUGE_FILE) {
            return u64::from(lo);
        }
        let count = join32(lo, u32::from(self.get16(0x74)));
        match self.flags().has(InodeFlags::HUGE_FILE) {
            true => count << self.geo.block_bits().saturating_sub(9),
            false => count,
        }
    }

    /// Adds to the space taken, or takes from it, in 512-byte sectors; `None`, and nothing changes,
    /// if the volume cannot keep so many.
    pub fn add_sectors(&mut self, delta: i64) -> Option<()> {
        self.set_sectors(self.sectors().saturating_add_signed(delta))
    }

    /// Sets the space taken, in 512-byte sectors; `None`, and nothing changes, if the volume cannot
    /// keep so many.
    ///
    /// A count of more than 48 bits is kept in blocks, and [`InodeFlags::HUGE_FILE`] says so.
    pub fn set_sectors(&mut self, sectors: u64) -> Option<()> {
        let flags = self.flags().0 & !InodeFlags::HUGE_FILE.0;
        let (count, flags) = if sectors < 1 << 48 {
            (sectors, flags)
        } else {
            let blocks = sectors >> self.geo.block_bits().saturating_sub(9);
            (blocks, flags | InodeFlags::HUGE_FILE.0)
        };
        let hi = u16::try_from(high32(count)).ok()?;
        if hi != 0 && !self.geo.has_ro_compat(RoCompat::HUGE_FILE) {
            return None;
        }
        self.put32(0x1c, low32(count));
        self.put16(0x74, hi);
        self.put32(0x20, flags);
        Some(())
    }

    /// Sets the number of links; see [`links_after_link`].
    pub fn set_links(&mut self, links: u16) {
        self.put16(0x1a, links);
    }

    /// Sets the flags but for [`InodeFlags::HUGE_FILE`], which belongs to the count of sectors.
    pub fn set_flags(&mut self, flags: InodeFlags) {
        let huge = InodeFlags::HUGE_FILE.0;
        let kept = self.flags().0 & huge;
        self.put32(0x20, flags.0 & !huge | kept);
    }

    /// Sets a time as exactly as the inode can keep it; the nearest that it can keep if it is out
    /// of range.
    pub fn set_time(&mut self, field: TimeField, time: Time) {
        let (base, extra) = field.offsets();
        if field == TimeField::Create && !self.has(base, 4) {
            return;
        }
        let wide = self.has(extra, 4);
        let words = time.encode(wide);
        self.put32(base, words.0);
        if wide {
            self.put32(extra, words.1);
        }
    }

    /// Sets the time of deletion, or the number of the next inode in the list of orphans.
    pub fn set_dtime(&mut self, dtime: u32) {
        self.put32(0x14, dtime);
    }

    /// Sets the generation, on which the checksums of the inode and of its blocks depend.
    pub fn set_generation(&mut self, generation: u32) {
        self.put32(0x64, generation);
    }

    /// Sets the change counter, or the low half of it if there is room for no more.
    pub fn set_version(&mut self, version: u64) {
        // The Hurd keeps something else there.
        if self.geo.creator_os == CREATOR_HURD {
            return;
        }
        self.put32(0x24, low32(version));
        if self.has(0x98, 4) {
            self.put32(0x98, high32(version));
        }
    }

    /// Sets the block with extended attributes.
    pub fn set_xattr_block(&mut self, block: Option<Pblk>) {
        let block = block.map_or(0, |pblk| pblk.0);
        self.put32(0x68, low32(block));
        if self.geo.creator_os != CREATOR_HURD {
            self.put16(0x76, low16(high32(block)));
        }
    }

    /// Sets the device number, which takes the place of a block map.
    pub fn set_device(&mut self, device: Device) {
        let [old, new] = device.encode();
        self.put32(I_BLOCK, old);
        self.put32(I_BLOCK + 4, new);
        self.put32(I_BLOCK + 8, 0);
    }

    /// Sets what `i_block` holds: block pointers, an extent root, a short link or inline data.
    pub fn set_block(&mut self, block: &[u8; I_BLOCK_SIZE]) {
        let _ = put_bytes(self.raw, I_BLOCK, block);
    }

    /// Returns the bytes of `i_block`, to edit a block map in them.
    pub fn block_mut(&mut self) -> Option<&mut [u8; I_BLOCK_SIZE]> {
        self.raw
            .get_mut(I_BLOCK..I_BLOCK + I_BLOCK_SIZE)?
            .try_into()
            .ok()
    }

    /// Sets the hash of an attribute's value and the number of attributes that have it, in an inode
    /// that holds such a value.
    ///
    /// They lie where other inodes keep the time of the last access, and the change counter with
    /// the time of the last change.
    pub fn set_value_refs(&mut self, hash: u32, refs: u64) {
        self.put32(0x8, hash);
        self.put32(0x24, low32(refs));
        self.put32(0xc, high32(refs));
    }

    /// Returns the bytes behind the fields, which attributes may take; empty if there are none.
    pub fn xattr_area(&mut self) -> &mut [u8] {
        let start = match self.extra_isize {
            0 => self.raw.len(),
            extra => usize::from(BASE_SIZE + extra),
        };
        self.raw.get_mut(start..).unwrap_or_default()
    }

    /// Makes room for more fields behind the first 128 bytes, and zeroes them; `false` if
    /// attributes lie there, which have to be moved first, or the inode is too small.
    pub fn grow_extra_isize(&mut self, extra_isize: u16) -> bool {
        if extra_isize <= self.extra_isize {
            return true;
        }
        let room = self.geo.inode_size().saturating_sub(BASE_SIZE);
        let start = usize::from(BASE_SIZE + self.extra_isize);
        if extra_isize > room
            || extra_isize % 4 != 0
            || get_u32(self.raw, start) == Some(super::xattr::MAGIC)
        {
            return false;
        }
        let end = usize::from(BASE_SIZE + extra_isize);
        if let Some(fresh) = self.raw.get_mut(start..end) {
            fresh.fill(0);
        }
        self.put16(EXTRA_ISIZE, extra_isize);
        self.extra_isize = extra_isize;
        true
    }

    /// Leaves the inode as one that was deleted at `dtime`, in seconds since 1970.
    ///
    /// Mode, flags and times stay, as tools that look for deleted files expect; size, space, links,
    /// the block map and attributes go. e2fsck takes an inode without links for a deleted one only
    /// if `dtime` is not 0, so that 1 is written for it.
    pub fn clear(&mut self, dtime: u32) {
        self.set_size(0);
        let _ = self.set_sectors(0);
        self.set_links(0);
        self.set_dtime(dtime.max(1));
        self.set_xattr_block(None);
        // Old systems reuse an inode without a look at the upper halves.
        self.put16(0x78, 0);
        self.put16(0x7a, 0);
        self.set_block(match self.flags().has(InodeFlags::EXTENTS) {
            true => &EMPTY_ROOT,
            false => &[0; I_BLOCK_SIZE],
        });
        self.xattr_area().fill(0);
    }

    /// Computes and writes the checksum of inode `ino`, if the volume has checksums.
    pub fn seal(self, ino: Ino) {
        let generation = get_u32(self.raw, 0x64).unwrap_or_default();
        let owner = self.geo.csum().owner(ino, generation);
        self.seal_for(&owner);
    }

    /// As [`seal`](Self::seal), for an inode whose owner is known: its generation does not change.
    pub fn seal_for(self, owner: &Owner) {
        let Self {
            raw,
            geo,
            extra_isize,
        } = self;
        let Some(csum) = checksum(raw, extra_isize, owner, geo) else {
            return;
        };
        let _ = put_u16(raw, CSUM_LO, low16(csum));
        if has_csum_hi(extra_isize) {
            let _ = put_u16(raw, CSUM_HI, high16(csum));
        }
    }
}

/// Computes and writes the checksum of the inode `ino` at the start of `raw`; `None` if these are
/// no bytes of an inode.
pub fn seal(raw: &mut [u8], ino: Ino, geo: &Geometry) -> Option<()> {
    let raw = raw.get_mut(..usize::from(geo.inode_size()))?;
    let extra_isize = match geo.inode_size() > BASE_SIZE {
        true => get_u16(raw, EXTRA_ISIZE)?,
        false => 0,
    };
    InodeEdit {
        raw,
        geo,
        extra_isize,
    }
    .seal(ino);
    Some(())
}
