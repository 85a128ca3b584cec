// SPDX-License-Identifier: GPL-2.0

//! The superblock: 1,024 bytes at byte 1,024 of the volume, with backups in some groups.

use core::num::{NonZeroU32, NonZeroU64};

use super::bytes::{get_array, get_u16, get_u32, get_u8, join32};
use super::csum::{self, CrcFns, Csum, Mode};
use super::error::{Error, Kind, OrShort, Result};
use super::feature::{Compat, Features, Incompat, RoCompat};
use super::geometry::Geometry;
use super::group::Zone;
use super::hash::HashParams;
use super::super_edit::{ErrorRecord, FIRST_ERROR, LAST_ERROR};
use super::units::{Ino, Pblk};

/// Size of the superblock in bytes.
pub const SUPER_SIZE: usize = 1024;

/// The value of the mount option `sb=`, in KiB from the start of the volume, that names the first
/// superblock.
pub const SUPER_KIB: u64 = 1;

/// The number that marks an ext2, ext3 or ext4 superblock, and what `statfs` reports as type.
pub const MAGIC: u16 = 0xef53;

const SHORT: &str = "superblock: buffer too short";

/// Returns the byte offset of the superblock that `sb=kib` names, or `None` if no device is so
/// large.
pub fn super_offset(kib: u64) -> Option<u64> {
    kib.checked_mul(1024).filter(|&b| b <= 1 << 62)
}

/// What the volume asks for when an error is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Carry on.
    Continue,
    /// Stop writing.
    ReadOnly,
    /// Stop the machine.
    Panic,
}

/// The checked superblock.
#[derive(Clone, Copy, Debug)]
pub struct SuperBlock {
    /// The volume's shape, which all other parsers take.
    pub geo: Geometry,
    /// The UUID.
    pub uuid: [u8; 16],
    /// The label, padded with zeros; see [`SuperBlock::label`].
    pub label_raw: [u8; 16],
    /// The state bits; see [`SuperBlock::STATE_CLEAN`] and its neighbours.
    pub state: u16,
    /// What to do when an error is found.
    pub on_error: OnError,
    /// The revision: 0 for the oldest volumes, else 1.
    pub revision: u32,
    /// Who may use the reserved blocks.
    pub reserved_uid: u32,
    /// The group that may use the reserved blocks.
    pub reserved_gid: u32,
    /// Blocks that only root and the above may use.
    pub reserved_blocks: u64,
    /// Free blocks when the superblock was last written: clusters are counted with all their
    /// blocks.
    pub free_blocks: u64,
    /// Free inodes when the superblock was last written.
    pub free_inodes: u32,
    /// Clusters that metadata takes, as mke2fs or the kernel worked it out; 0 if unknown. Resizing
    /// leaves it stale: see [`SuperBlock::overhead`].
    pub overhead_clusters: u32,
    /// The default mount options that tune2fs set.
    pub default_mount_opts: u32,
    /// The default mount options as text, padded with zeros; see [`SuperBlock::mount_opts`].
    pub mount_opts_raw: [u8; 64],
    /// How many blocks a disk of a RAID holds before the next one is used; 0 if unknown.
    pub raid_stride: u16,
    /// How many blocks a stripe of a RAID has; 0 if unknown.
    pub raid_stripe_width: u32,
    /// Groups per flexible group; 1 without `flex_bg`.
    pub groups_per_flex: u32,
    /// The journal's inode; `None` if there is none, or it is on another device.
    pub journal_ino: Option<Ino>,
    /// The device that holds the journal, encoded as `new_encode_dev` does; 0 if there is none.
    pub journal_dev: u32,
    /// The head of the list of orphan inodes; `None` if it is empty.
    pub last_orphan: Option<Ino>,
    /// The orphan file's inode; `None` without `orphan_file`.
    pub orphan_file: Option<Ino>,
    /// The inodes of the user, group and project quota files; `None` for those that do not exist.
    pub quota_inos: [Option<Ino>; 3],
    /// How many bytes beyond 128 every inode is meant to use.
    pub min_extra_isize: u16,
    /// How many bytes beyond 128 a new inode should use.
    pub want_extra_isize: u16,
    /// How many errors the kernel has recorded since the last check.
    pub error_count: u32,
    /// The first of them.
    pub first_error: ErrorRecord,
    /// The last of them.
    pub last_error: ErrorRecord,
    /// Mounts since the last check.
    pub mount_count: u16,
    /// Last written, in seconds since 1970.
    pub write_time: u64,
    /// Last mounted, in seconds since 1970.
    pub mount_time: u64,
    /// KiB written over the volume's life.
    pub kbytes_written: u64,
}

impl SuperBlock {
    /// State bit: the volume was unmounted cleanly.
    pub const STATE_CLEAN: u16 = 0x1;
    /// State bit: an error was found.
    pub const STATE_ERROR: u16 = 0x2;
    /// State bit: orphans are being recovered.
    pub const STATE_ORPHAN: u16 = 0x4;

    /// Parses and checks the superblock in the first 1,024 bytes of `raw`.
    ///
    /// `kib` says where it was read: the value of `sb=`, or [`SUPER_KIB`]. Group descriptors are
    /// looked for behind it.
    ///
    /// # Errors
    ///
    /// [`Kind::NotExt4`] without the magic number, [`Kind::Checksum`], [`Kind::Feature`] for an
    /// unsupported feature by its name, and [`Kind::Geometry`] if the numbers make no volume.
    pub fn parse(raw: &[u8], kib: u64, fns: CrcFns) -> Result<Self> {
        Self::parse_as(raw, kib, fns, true)
    }

    /// Like [`parse`](Self::parse), without a look at the checksum.
    ///
    /// A loss of power may leave one that was written in part. What the journal is found by never
    /// changes, and the journal has the whole of it.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse), but for [`Kind::Checksum`].
    pub fn parse_torn(raw: &[u8], kib: u64, fns: CrcFns) -> Result<Self> {
        Self::parse_as(raw, kib, fns, false)
    }

    fn parse_as(raw: &[u8], kib: u64, fns: CrcFns, verify: bool) -> Result<Self> {
        let raw = match raw.get(..SUPER_SIZE) {
            Some(raw) => raw,
            None => return Err(Error::new(Kind::NotExt4, SHORT)),
        };
        let f = Fields(raw);
        if f.u16(0x38)? != MAGIC {
            return Err(Error::new(
                Kind::NotExt4,
                "superblock: no ext2, ext3 or ext4 magic number",
            ));
        }
        let features = Features {
            compat: Compat(f.u32(0x5c)?),
            incompat: Incompat(f.u32(0x60)?),
            ro_compat: RoCompat(f.u32(0x64)?),
        };
        let csum = parse_csum(&f, &features, fns, verify)?;
        features.incompat.check()?;
        let geo = parse_geometry(&f, features, csum, kib)?;
        let wide = |lo, hi| if_wide(&f, &features, lo, hi);

        Ok(Self {
            geo,
            uuid: f.array(0x68)?,
            label_raw: f.array(0x78)?,
            state: f.u16(0x3a)?,
            on_error: match f.u16(0x3c)? {
                2 => OnError::ReadOnly,
                3 => OnError::Panic,
                _ => OnError::Continue,
            },
            revision: f.u32(0x4c)?,
            reserved_uid: u32::from(f.u16(0x50)?) | u32::from(f.u16(0x284)?) << 16,
            reserved_gid: u32::from(f.u16(0x52)?) | u32::from(f.u16(0x286)?) << 16,
            reserved_blocks: wide(0x8, 0x154)?,
            free_blocks: wide(0xc, 0x158)?,
            free_inodes: f.u32(0x10)?,
            overhead_clusters: f.u32(0x248)?,
            default_mount_opts: f.u32(0x100)?,
            mount_opts_raw: f.array(0x200)?,
            raid_stride: f.u16(0x164)?,
            raid_stripe_width: f.u32(0x170)?,
            groups_per_flex: match (features.incompat.has(Incompat::FLEX_BG), f.u8(0x174)?) {
                (true, bits @ 1..=31) => 1 << bits,
                _ => 1,
            },
            journal_ino: match features.compat.has(Compat::HAS_JOURNAL) {
                true => inode(f.u32(0xe0)?),
                false => None,
            },
            journal_dev: f.u32(0xe4)?,
            last_orphan: inode(f.u32(0xe8)?),
            orphan_file: match features.compat.has(Compat::ORPHAN_FILE) {
                true => inode(f.u32(0x280)?),
                false => None,
            },
            quota_inos: [
                inode(f.u32(0x240)?),
                inode(f.u32(0x244)?),
                inode(f.u32(0x26c)?),
            ],
            min_extra_isize: f.u16(0x15c)?,
            want_extra_isize: f.u16(0x15e)?,
            error_count: f.u32(0x194)?,
            first_error: ErrorRecord::parse(raw, &FIRST_ERROR).or_short(SHORT)?,
            last_error: ErrorRecord::parse(raw, &LAST_ERROR).or_short(SHORT)?,
            mount_count: f.u16(0x34)?,
            write_time: join32(f.u32(0x30)?, u32::from(f.u8(0x274)?)),
            mount_time: join32(f.u32(0x2c)?, u32::from(f.u8(0x275)?)),
            kbytes_written: join32(f.u32(0x178)?, f.u32(0x17c)?),
        })
    }

    /// Returns the label without its padding; its encoding is whatever the user typed.
    pub fn label(&self) -> &[u8] {
        unpadded(&self.label_raw)
    }

    /// Returns the default mount options that `tune2fs -E mount_opts=` set, with commas between.
    pub fn mount_opts(&self) -> &[u8] {
        unpadded(&self.mount_opts_raw)
    }

    /// Returns whether the journal holds changes without which the volume is out of date.
    pub const fn needs_recovery(&self) -> bool {
        self.geo.has_incompat(Incompat::RECOVER)
    }

    /// Returns whether the volume was unmounted cleanly and no error was found on it.
    pub const fn is_clean(&self) -> bool {
        self.state & (Self::STATE_CLEAN | Self::STATE_ERROR) == Self::STATE_CLEAN
    }

    /// Returns how many clusters metadata takes, which `statfs` does not count as space for data.
    ///
    /// `fixed` has the [`overhead_zones`](super::GroupDesc::overhead_zones) of all groups, in
    /// ascending order and merged where they touch or overlap. `journal_blocks` is the size of the
    /// journal in the volume, or 0.
    ///
    /// The superblock's own number is used as ext4 uses it: on volumes with `bigalloc`, unless it
    /// exceeds the volume. Elsewhere it may be stale, and counting is cheap.
    pub fn overhead(&self, fixed: impl IntoIterator<Item = Zone>, journal_blocks: u64) -> u64 {
        let geo = &self.geo;
        let stored = u64::from(self.overhead_clusters);
        if geo.has_ro_compat(RoCompat::BIGALLOC) && stored > 0 && stored <= geo.blocks_count() {
            return stored;
        }
        let bits = geo.cluster_bits;
        let mut clusters = geo.first_data_block().0 >> bits;
        // The first cluster that was not looked at.
        let mut next = 0;
        for zone in fixed.into_iter().filter(|zone| zone.len > 0) {
            // Clusters are counted from the first block of the first group.
            let start = zone.start.0.saturating_sub(geo.first_data_block().0);
            let last = start.saturating_add(zone.len - 1) >> bits;
            let first = (start >> bits).max(next);
            if first <= last {
                clusters = clusters.saturating_add(last - first + 1);
                next = last + 1;
            }
        }
        let journal = journal_blocks.div_ceil(u64::from(geo.cluster_blocks()));
        clusters.saturating_add(journal)
    }

    /// Refuses a volume that is larger than its device.
    ///
    /// # Errors
    ///
    /// [`Kind::Geometry`].
    pub fn check_device(&self, device_bytes: u64) -> Result<()> {
        let device_blocks = device_bytes >> self.geo.block_bits();
        if self.geo.blocks_count() <= device_blocks {
            return Ok(());
        }
        Err(Error::new(
            Kind::Geometry,
            "superblock: {} blocks, but the device has only {}",
        )
        .with(self.geo.blocks_count(), device_blocks))
    }
}

/// Returns a text without the zeros behind it.
fn unpadded(raw: &[u8]) -> &[u8] {
    raw.split(|&byte| byte == 0).next().unwrap_or(&[])
}

/// The superblock's bytes, read field by field.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u8(&self, off: usize) -> Result<u8> {
        get_u8(self.0, off).or_short(SHORT)
    }

    fn u16(&self, off: usize) -> Result<u16> {
        get_u16(self.0, off).or_short(SHORT)
    }

    fn u32(&self, off: usize) -> Result<u32> {
        get_u32(self.0, off).or_short(SHORT)
    }

    fn array<const N: usize>(&self, off: usize) -> Result<[u8; N]> {
        get_array(self.0, off).or_short(SHORT)
    }
}

fn inode(n: u32) -> Option<Ino> {
    (n != 0).then_some(Ino(n))
}

/// Reads a count of which the upper half is valid on 64bit volumes only.
fn if_wide(f: &Fields<'_>, features: &Features, lo: usize, hi: usize) -> Result<u64> {
    let high = match features.incompat.has(Incompat::B64) {
        true => f.u32(hi)?,
        false => 0,
    };
    Ok(join32(f.u32(lo)?, high))
}

/// Verifies the superblock's checksum and works out how all others are computed.
fn parse_csum(f: &Fields<'_>, features: &Features, fns: CrcFns, verify: bool) -> Result<Csum> {
    let mode = if features.ro_compat.has(RoCompat::METADATA_CSUM) {
        let algorithm = f.u8(0x175)?;
        if algorithm != 1 {
            return Err(Error::new(Kind::Feature, "checksum algorithm {}").with(algorithm, 0u64));
        }
        if verify {
            csum::verify_super(&fns, f.0, f.u32(0x3fc)?)?;
        }
        Mode::Metadata
    } else if features.ro_compat.has(RoCompat::GDT_CSUM) {
        Mode::GroupCrc16
    } else {
        Mode::None
    };
    let seed = match features.incompat.has(Incompat::CSUM_SEED) {
        true => Some(f.u32(0x270)?),
        false => None,
    };
    Ok(Csum::new(fns, mode, f.array(0x68)?, seed))
}

/// A refusal for numbers that make no volume.
fn bad<T>(what: &'static str, a: impl Into<u64>, b: impl Into<u64>) -> Result<T> {
    Err(Error::new(Kind::Geometry, what).with(a, b))
}

/// Reads and checks everything that tells where things lie.
fn parse_geometry(f: &Fields<'_>, features: Features, csum: Csum, kib: u64) -> Result<Geometry> {
    let log_block = f.u32(0x18)?;
    let log_cluster = f.u32(0x1c)?;
    let block_bits = match u8::try_from(log_block) {
        Ok(log @ 0..=6) => log + 10,
        _ => return bad("superblock: log2 of block size is {}", log_block, 0u64),
    };
    let block_size = 1u32 << block_bits;
    let bigalloc = features.ro_compat.has(RoCompat::BIGALLOC);
    let cluster_bits = match log_cluster.checked_sub(log_block).map(u8::try_from) {
        // A cluster of 2^28 bytes is the largest that ext4 takes.
        Some(Ok(bits)) if log_cluster <= 18 && (bigalloc || bits == 0) => bits,
        _ => {
            return bad(
                "superblock: cluster size 2^{} does not suit block size 2^{}",
                u64::from(log_cluster) + 10,
                block_bits,
            )
        }
    };

    let blocks_per_group = f.u32(0x20)?;
    let clusters_per_group = f.u32(0x24)?;
    if clusters_per_group == 0
        || clusters_per_group > block_size * 8
        || clusters_per_group % 8 != 0
        || u64::from(clusters_per_group) << cluster_bits != u64::from(blocks_per_group)
    {
        return bad(
            "superblock: {} clusters and {} blocks per group",
            clusters_per_group,
            blocks_per_group,
        );
    }
    let Some(blocks_per_group) = NonZeroU64::new(u64::from(blocks_per_group)) else {
        return bad("superblock: no blocks per group", 0u64, 0u64);
    };

    let blocks_count = if_wide(f, &features, 0x4, 0x150)?;
    let first_data_block = f.u32(0x14)?;
    let expected_first = u32::from(block_bits == 10 && cluster_bits == 0);
    if first_data_block != expected_first {
        return bad(
            "superblock: first data block is {} instead of {}",
            first_data_block,
            expected_first,
        );
    }
    // Byte offsets must fit a signed 64-bit number.
    if blocks_count <= u64::from(first_data_block) || blocks_count > (1 << 63 >> block_bits) - 1 {
        return bad("superblock: {} blocks", blocks_count, 0u64);
    }

    let (inode_size, first_ino) = match f.u32(0x4c)? {
        0 => (128, 11),
        _ => (f.u16(0x58)?, f.u32(0x54)?),
    };
    if inode_size < 128 || !inode_size.is_power_of_two() || u32::from(inode_size) > block_size {
        return bad("superblock: inode size {}", inode_size, 0u64);
    }
    if first_ino < 11 {
        return bad("superblock: first inode is {}", first_ino, 0u64);
    }
    let Some(inodes_per_block) = NonZeroU32::new(block_size / u32::from(inode_size)) else {
        return bad("superblock: inode size {}", inode_size, 0u64);
    };

    let desc_size = match features.incompat.has(Incompat::B64) {
        true => f.u16(0xfe)?,
        false => 32,
    };
    let smallest = if features.incompat.has(Incompat::B64) {
        64
    } else {
        32
    };
    if desc_size < smallest || desc_size > 1024 || !desc_size.is_power_of_two() {
        return bad("superblock: group descriptor size {}", desc_size, 0u64);
    }
    let Some(descs_per_block) = NonZeroU32::new(block_size / u32::from(desc_size)) else {
        return bad("superblock: group descriptor size {}", desc_size, 0u64);
    };

    let data_blocks = blocks_count - u64::from(first_data_block);
    let groups = data_blocks.div_ceil(blocks_per_group.get());
    let groups = match u32::try_from(groups) {
        // The number of the last slot in the last descriptor block must fit, too.
        Ok(n) if n <= u32::MAX - descs_per_block.get() => n,
        _ => return bad("superblock: {} block groups", groups, 0u64),
    };
    let inodes_per_group = match NonZeroU32::new(f.u32(0x28)?) {
        Some(n)
            if n >= inodes_per_block
                && n.get() <= block_size * 8
                && n.get() % 8 == 0
                && n.get() % inodes_per_block == 0 =>
        {
            n
        }
        n => {
            let n = n.map_or(0, NonZeroU32::get);
            return bad("superblock: {} inodes per group", n, 0u64);
        }
    };
    let inodes_count = f.u32(0x0)?;
    if u64::from(groups) * u64::from(inodes_per_group.get()) != u64::from(inodes_count) {
        return bad("superblock: {} inodes in {} groups", inodes_count, groups);
    }

    let reserved_gdt_blocks = f.u16(0xce)?;
    if u32::from(reserved_gdt_blocks) > block_size / 4 {
        return bad(
            "superblock: {} reserved descriptor blocks",
            reserved_gdt_blocks,
            0u64,
        );
    }
    let first_meta_bg = f.u32(0x104)?;
    let desc_blocks = groups.div_ceil(descs_per_block.get());
    if features.incompat.has(Incompat::META_BG) && first_meta_bg > desc_blocks {
        return bad(
            "superblock: first meta block group {}, but {} descriptor blocks",
            first_meta_bg,
            desc_blocks,
        );
    }
    if features.ro_compat.has(RoCompat::EXTRA_ISIZE) {
        let room = inode_size - 128;
        let (min, want) = (f.u16(0x15c)?, f.u16(0x15e)?);
        if min > room || want > room {
            return bad("superblock: inodes want {} or {} extra bytes", min, want);
        }
    }

    let super_block = match super_offset(kib) {
        Some(bytes) if bytes >> block_bits < blocks_count => Pblk(bytes >> block_bits),
        _ => return bad("superblock: sb={} is not on the volume", kib, 0u64),
    };
    let mut seed = [0u32; 4];
    for (i, word) in seed.iter_mut().enumerate() {
        *word = f.u32(0xec + i * 4)?;
    }

    Ok(Geometry {
        features,
        csum,
        // A volume that is so old that it has neither flag was hashed with signed characters.
        hash: HashParams::new(seed, f.u32(0x160)? & 0x2 != 0, f.u8(0xfc)?),
        block_bits,
        cluster_bits,
        first_data_block,
        blocks_count,
        blocks_per_group,
        clusters_per_group,
        inodes_per_group,
        inodes_per_block,
        inodes_count,
        first_ino,
        inode_size,
        desc_size,
        descs_per_block,
        groups,
        first_meta_bg,
        reserved_gdt_blocks,
        backup_bgs: [f.u32(0x24c)?, f.u32(0x250)?],
        super_block,
        creator_os: f.u32(0x48)?,
    })
}
