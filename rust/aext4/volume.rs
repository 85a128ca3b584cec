// SPDX-License-Identifier: GPL-2.0

//! A mounted volume: superblock, groups, and what is reported about it.

use crate::error::{corrupted, refuse_mount};
use crate::node::Table;
use crate::options::{Flags, Options, Settled};
use core::fmt;
use core::ops::Range;
use kernel::alloc::KVVec;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use layout::dir::NAME_MAX;
use layout::group::Zone;
use layout::superblock::{super_offset, OnError, SUPER_SIZE};
use layout::{CrcFns, FileType, Group, GroupDesc, Ino, Inode, Pblk, SuperBlock};
use upcall::join_all;
use vfs::disk::Level;
use vfs::{Disk, StatFs, VolumeInfo};

/// The magic number that `statfs` reports, the same as ext4's.
const MAGIC: u64 = 0xef53;

/// How many blocks of an inode table are read at once, at most.
const AROUND: u64 = 256;

/// How many blocks of descriptors are read at once.
const BATCH: usize = 64;

/// The checksums, as the kernel computes them.
const CRC: CrcFns = CrcFns {
    crc32c: vfs::checksum::crc32c,
    crc16: vfs::checksum::crc16,
};

/// A mounted volume.
#[pin_data]
pub(crate) struct Volume {
    pub(crate) disk: Disk,
    pub(crate) sb: SuperBlock,
    groups: KVVec<GroupDesc>,
    /// Where metadata of fixed place is: runs of blocks, in order, that do not touch.
    zones: KVVec<Zone>,
    statfs: StatFs,
    #[pin]
    pub(crate) nodes: SpinLock<Table>,
    #[pin]
    options: SpinLock<Settled>,
    /// The [`Flags`] of the options.
    flags: Atomic<u32>,
}

impl Volume {
    /// Reads and checks the volume on `disk`.
    ///
    /// Fails with the error number that fits the reason, which was logged.
    pub(crate) async fn mount(mut disk: Disk, options: Options, silent: bool) -> Result<Arc<Self>> {
        let sb = read_super(&disk, &options, silent).await?;
        let for_writing = options.for_writing;
        let options = Settled::new(options, &sb, &disk)?;
        check_state(&disk, &sb, &options.options)?;
        let block_size = sb.geo.block_size();
        let fits = block_size as usize <= PAGE_SIZE && block_size >= disk.logical_block_size();
        if !fits || disk.set_block_size(block_size).is_err() {
            disk.log(
                Level::Error,
                format_args!("blocks of {block_size} bytes do not fit device and memory pages"),
            );
            return Err(EINVAL);
        }
        let groups = read_groups(&disk, &sb, for_writing).await?;
        let zones = merged(groups.iter().flat_map(|group| group.zones(&sb.geo)))?;
        let counted = merged(
            groups
                .iter()
                .flat_map(|group| group.overhead_zones(&sb.geo)),
        )?;
        let journal = journal_blocks(&disk, &sb, &groups).await;
        let overhead = sb.overhead(counted, journal);
        let statfs = statfs(&sb, &groups, overhead);
        let volume = Arc::pin_init(
            pin_init!(Self {
                disk,
                sb,
                groups,
                zones,
                statfs,
                nodes <- new_spinlock!(Table::new()),
                flags: Atomic::new(options.options.flags().0),
                options <- new_spinlock!(options),
            }),
            GFP_KERNEL,
        )?;
        let root = match volume.get_node(Ino::ROOT).await {
            Err(error) if error == ESTALE => None,
            root => Some(root?),
        };
        if !root.is_some_and(|root| root.inode.is_dir()) {
            volume.report(&format_args!("the root is not a directory in use"));
            return Err(corrupted());
        }
        Ok(volume)
    }

    /// Logs a line, at most ten in five seconds, and stops the machine if `errors=panic` says so.
    pub(crate) fn report(&self, what: &dyn core::fmt::Display) {
        self.disk.log_limited(Level::Error, format_args!("{what}"));
        let on_error = self.on_error();
        if on_error == OnError::Panic {
            self.disk.panic();
        }
    }

    /// Whether one of `len` blocks from `pblk` on holds metadata of fixed place, which no file's map
    /// may name.
    pub(crate) fn is_fixed(&self, pblk: Pblk, len: u32) -> bool {
        let end = pblk.0.saturating_add(len.into());
        let before = self.zones.partition_point(|zone| zone.start.0 < end);
        let last = before.checked_sub(1).and_then(|i| self.zones.get(i));
        last.is_some_and(|zone| zone.start.0.saturating_add(zone.len) > pblk.0)
    }

    /// The block of the volume that has inode `ino`, and the inode's offset in it.
    pub(crate) fn inode_place(&self, ino: Ino) -> layout::Result<(Pblk, u32)> {
        let geo = &self.sb.geo;
        let (Group(group), index) = geo.inode_index(ino)?;
        match self.groups.get(group as usize) {
            Some(group) => group.inode_location(index, geo),
            None => Err(layout::Error::corrupt1("no group {}", group)),
        }
    }

    /// The blocks of the inode table that are read along with `pblk`, which has inode `ino`.
    pub(crate) fn inodes_around(&self, ino: Ino, pblk: Pblk) -> Range<u64> {
        let none = pblk.0..pblk.0;
        let count = u64::from(self.options.lock().options.inode_readahead()).min(AROUND);
        if count == 0 {
            return none;
        }
        let Ok((Group(group), _)) = self.sb.geo.inode_index(ino) else {
            return none;
        };
        let Some(group) = self.groups.get(group as usize) else {
            return none;
        };
        let first = group.inode_table.0;
        let end = first + u64::from(self.sb.geo.inode_table_blocks());
        let from = (pblk.0 - pblk.0 % count).max(first);
        from..end.min(from + count)
    }

    pub(crate) fn options(&self) -> Options {
        self.options.lock().options.clone()
    }

    /// The options that are on or off.
    pub(crate) fn flags(&self) -> Flags {
        Flags(self.flags.load(Relaxed))
    }

    fn on_error(&self) -> OnError {
        let options = self.options.lock();
        options.options.on_error().unwrap_or(self.sb.on_error)
    }

    /// Writes the options that differ from the default.
    pub(crate) fn show_options(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.options.lock().show(&self.sb, out)
    }

    /// Space and inodes, used and free.
    pub(crate) fn statfs(&self) -> StatFs {
        let mut statfs = self.statfs;
        if self.flags().minix_df() {
            statfs.blocks = self.sb.geo.blocks_count();
        }
        statfs
    }

    /// Changes the options; fails if one cannot be changed while the volume is mounted.
    pub(crate) fn set_options(&self, new: Options) -> Result {
        let mut options = self.options.lock();
        let result = options.remount(new, &self.sb);
        self.flags.store(options.options.flags().0, Relaxed);
        drop(options);
        result.map_err(|why| {
            self.disk
                .log(Level::Error, format_args!("mount options: {why}"));
            EINVAL
        })
    }

    pub(crate) fn info(&self) -> VolumeInfo {
        // Inodes of more than 128 bytes have room for two more bits of the seconds, and nanoseconds.
        let large = self.sb.geo.inode_size() > 128;
        VolumeInfo {
            magic: MAGIC,
            block_size: self.sb.geo.block_size(),
            max_bytes: self
                .sb
                .geo
                .max_file_size(self.sb.geo.has_incompat(layout::Incompat::EXTENTS)),
            time_range: (
                i32::MIN.into(),
                if large {
                    i64::from(i32::MAX) + (3 << 32)
                } else {
                    i32::MAX.into()
                },
            ),
            time_granularity: if large { 1 } else { 1_000_000_000 },
            uuid: self.sb.uuid,
            acl: self.flags().acl(),
            root: Ino::ROOT.0,
            name_max: NAME_MAX as u32,
        }
    }
}

/// The features in a raw superblock that are not supported, by name.
struct Unsupported<'a>(&'a [u8; SUPER_SIZE]);

impl fmt::Display for Unsupported<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = layout::bytes::get_u32(self.0, 0x60).unwrap_or(0);
        for (i, name) in layout::Incompat(word).unsupported().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}

/// Reads the superblock, where the options say it is.
async fn read_super(disk: &Disk, options: &Options, silent: bool) -> Result<SuperBlock> {
    let mut raw = [0; SUPER_SIZE];
    let Some(offset) = super_offset(options.sb()).filter(|pos| *pos < disk.size()) else {
        disk.log(
            Level::Error,
            format_args!("sb={} is behind the end of the device", options.sb()),
        );
        return Err(EINVAL);
    };
    let read = disk
        .read_raw(offset, SUPER_SIZE, |bytes| raw.copy_from_slice(bytes))
        .await;
    if let Err(error) = read {
        disk.log(
            Level::Error,
            format_args!("cannot read the superblock at byte {offset}"),
        );
        return Err(error);
    }
    let sb = SuperBlock::parse(&raw, options.sb(), CRC).map_err(|error| match error.kind {
        layout::Kind::NotExt4 if silent => EINVAL,
        layout::Kind::Feature => {
            disk.log(
                Level::Error,
                format_args!("unsupported features: {}", Unsupported(&raw)),
            );
            EOPNOTSUPP
        }
        _ => refuse_mount(disk, error),
    })?;
    sb.check_device(disk.size())
        .map_err(|error| refuse_mount(disk, error))?;
    Ok(sb)
}

/// Says what is to be said about the state that the volume was left in.
fn check_state(disk: &Disk, sb: &SuperBlock, options: &Options) -> Result {
    if sb.needs_recovery() {
        if !options.norecovery() {
            disk.log(
                Level::Error,
                format_args!(
                    "the journal needs recovery, which needs writing: \
                     mount with ext4 first, or without the journal's changes by -o ro,noload"
                ),
            );
            return Err(EROFS);
        }
        disk.log(
            Level::Warning,
            format_args!("mounting without the changes that are in the journal only"),
        );
    } else if !sb.is_clean() {
        disk.log(
            Level::Warning,
            format_args!(
                "the volume was not unmounted cleanly, or has errors: e2fsck is recommended"
            ),
        );
    }
    Ok(())
}

/// Reads and checks all group descriptors.
///
/// A wrong checksum is no reason not to read, but one not to write. Nothing is written yet, but who asks
/// for it is not to take a damaged volume for a sound one.
async fn read_groups(disk: &Disk, sb: &SuperBlock, for_writing: bool) -> Result<KVVec<GroupDesc>> {
    let geo = &sb.geo;
    let refuse = |error| refuse_mount(disk, error);
    let mut groups = KVVec::new();
    let mut next = 0;
    for first in (0..geo.desc_blocks()).step_by(BATCH) {
        let mut blocks = KVec::new();
        for index in (first..geo.desc_blocks()).take(BATCH) {
            blocks.push(geo.desc_block(index).map_err(refuse)?, GFP_KERNEL)?;
        }
        let buffers = join_all(blocks.iter().map(|pblk| disk.buffer(pblk.0)))?.await?;
        for (buffer, block) in buffers.into_iter().zip(blocks.iter()) {
            let buffer = buffer?;
            while next < geo.groups() {
                let (pblk, offset) = geo.desc_location(Group(next)).map_err(refuse)?;
                if pblk != *block {
                    break;
                }
                let raw = buffer.data().get(offset as usize..).ok_or(EIO)?;
                if let Err(error) = GroupDesc::verify(raw, Group(next), geo) {
                    if for_writing {
                        return Err(refuse(error));
                    }
                    disk.log_limited(Level::Error, format_args!("group {next}: {error}"));
                }
                let group = GroupDesc::parse(raw, Group(next), geo).map_err(refuse)?;
                groups.push(group, GFP_KERNEL)?;
                next += 1;
            }
        }
    }
    Ok(groups)
}

/// Sorts zones, and merges those that touch or overlap.
fn merged(zones: impl Iterator<Item = Zone>) -> Result<KVVec<Zone>> {
    let mut all = RBTree::new();
    for zone in zones {
        // Of zones that begin at the same block the longest counts.
        let so_far = all.get(&zone.start.0).copied().unwrap_or(0);
        if zone.len > so_far {
            all.try_create_and_insert(zone.start.0, zone.len, GFP_KERNEL)?;
        }
    }
    let mut merged: KVVec<Zone> = KVVec::new();
    for (&start, &len) in all.iter() {
        match merged.last_mut() {
            Some(last) if start <= last.start.0.saturating_add(last.len) => {
                let end = start.saturating_add(len);
                last.len = last.len.max(end.saturating_sub(last.start.0));
            }
            _ => {
                let start = Pblk(start);
                merged.push(Zone { start, len }, GFP_KERNEL)?;
            }
        }
    }
    Ok(merged)
}

/// The size of the journal in blocks, if the volume has one in itself.
///
/// The journal is not needed for reading: if its inode is damaged there is a line in the log, and 0.
async fn journal_blocks(disk: &Disk, sb: &SuperBlock, groups: &[GroupDesc]) -> u64 {
    let Some(ino) = sb.journal_ino else {
        return 0;
    };
    let size = match journal_size(disk, sb, groups, ino).await {
        Ok(Ok(size)) => size,
        Ok(Err(error)) => {
            disk.log(Level::Warning, format_args!("the journal: {error}"));
            0
        }
        Err(_) => {
            disk.log(
                Level::Warning,
                format_args!("the journal: inode {ino} cannot be read"),
            );
            0
        }
    };
    size >> sb.geo.block_bits()
}

async fn journal_size(
    disk: &Disk,
    sb: &SuperBlock,
    groups: &[GroupDesc],
    ino: Ino,
) -> Result<layout::Result<u64>> {
    let geo = &sb.geo;
    let place = geo.inode_index(ino).and_then(|(Group(group), index)| {
        let group = groups.get(group as usize);
        match group {
            Some(group) => group.inode_location(index, geo),
            None => Err(layout::Error::corrupt1("no group for inode {}", ino)),
        }
    });
    let (pblk, offset) = match place {
        Ok(place) => place,
        Err(error) => return Ok(Err(error)),
    };
    let buffer = disk.buffer(pblk.0).await?;
    let raw = buffer.data().get(offset as usize..).ok_or(EIO)?;
    Ok(
        Inode::parse(raw, ino, geo).and_then(|inode| match inode.file_type {
            FileType::Regular => Ok(inode.size),
            _ => Err(layout::Error::corrupt1("inode {} is no file", ino)),
        }),
    )
}

/// Adds up space and inodes. What the disk says is bounded by what the volume can have.
fn statfs(sb: &SuperBlock, groups: &[GroupDesc], overhead: u64) -> StatFs {
    let geo = &sb.geo;
    let cluster = u64::from(geo.cluster_blocks());
    let per_group = (geo.clusters_per_group(), geo.inodes_per_group().get());
    let (mut free, mut free_files) = (0u64, 0u64);
    for group in groups {
        free = free.saturating_add(group.free_clusters.min(per_group.0).into());
        free_files = free_files.saturating_add(group.free_inodes.min(per_group.1).into());
    }
    let free = free.saturating_mul(cluster).min(geo.blocks_count());
    // ext4 keeps a fiftieth, at most 4,096 clusters, for the conversion of unwritten extents.
    let kept = if geo.has_incompat(layout::Incompat::EXTENTS) {
        (geo.blocks_count() / cluster / 50)
            .min(4096)
            .saturating_mul(cluster)
    } else {
        0
    };
    StatFs {
        blocks: geo
            .blocks_count()
            .saturating_sub(overhead.saturating_mul(cluster)),
        free,
        available: free.saturating_sub(sb.reserved_blocks.saturating_add(kept)),
        files: geo.inodes_count().into(),
        free_files,
    }
}
