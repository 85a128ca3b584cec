// SPDX-License-Identifier: GPL-2.0

//! A mounted volume: superblock, groups, and what is reported about it.

use crate::alloc::Groups;
use crate::counters::Written;
use crate::error::{corrupted, refuse_mount};
use crate::error_record::ErrorLog;
use crate::freeze::Gate;
use crate::inode_info::{InodeTable, Unused};
use crate::journal::Freed;
use crate::options::{Flags, Options, Settled};
use crate::orphan::OrphanList;
use crate::recovery;
use crate::remount::Writing;
use crate::super_plan::SuperPlan;
use crate::task::TaskControl;
use crate::xattr_block::SharedXattrs;
use core::fmt;
use core::ops::Range;
use disk::{Buf, Cache, Disk, Level, Planned};
use kernel::alloc::KVVec;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use layout::group::Zone;
use layout::superblock::{super_offset, OnError, SUPER_SIZE};
use layout::{CrcFns, Geometry, Group, GroupDesc, Ino, Pblk, SuperBlock};
use upcall::{join_all, Mutex};

/// How long a label is, at most, in bytes.
pub const LABEL_SIZE: usize = 16;

/// How many blocks of an inode table are read at once, at most.
const ITABLE_READAHEAD_MAX: u64 = 256;

/// How many blocks of descriptors are read at once.
const DESC_READ_BATCH: usize = 64;

/// The checksums, as the kernel computes them.
const CRC: CrcFns = CrcFns {
    crc32c: disk::checksum::crc32c,
    crc16: disk::checksum::crc16,
};

/// Space and inodes of a volume, in blocks.
#[derive(Clone, Copy)]
pub struct StatFs {
    /// Blocks that can hold data.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for users without privilege.
    pub available: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub free_files: u64,
}

/// A mounted volume.
#[pin_data]
pub struct Ext4 {
    /// The device.
    pub disk: Disk,
    /// The metadata that is in memory.
    pub cache: Cache,
    /// The superblock.
    pub sb: SuperBlock,
    groups: KVVec<GroupDesc>,
    /// Where metadata of fixed place is: runs of blocks, in order, that do not touch.
    system_zones: KVVec<Zone>,
    /// Whether the mount recovered it.
    pub(crate) was_recovered: bool,
    /// What there is while the volume is not writable.
    #[pin]
    statfs: SpinLock<StatFs>,
    /// The inodes that are in memory.
    #[pin]
    pub(crate) inodes: SpinLock<InodeTable>,
    pub(crate) unused: Arc<Unused>,
    #[pin]
    options: SpinLock<Settled>,
    /// The [`Flags`] of the options.
    flags: Atomic<u32>,
    /// What there is while the volume is writable.
    #[pin]
    pub(crate) writing: SpinLock<Option<Writing>>,
    /// What is known of errors.
    #[pin]
    pub(crate) errors: SpinLock<ErrorLog>,
    pub(crate) recorder: TaskControl,
    /// What is known of writes to the device.
    pub(crate) written: Written,
    /// Nothing is read or written any more.
    pub(crate) shut_down: Atomic<bool>,
    /// What the device is to forget.
    #[pin]
    pub(crate) released: SpinLock<KVVec<Freed>>,
    pub(crate) discarder: TaskControl,
    /// The label as it is now.
    #[pin]
    label: SpinLock<[u8; LABEL_SIZE]>,
    /// What deletes inodes that were left.
    pub(crate) leaving: TaskControl,
    /// What is passed by changes of which the VFS does not know.
    pub(crate) gate: Gate,
    /// Whether a freeze has the permits of the gate.
    pub(crate) frozen: Atomic<bool>,
    /// What is known of attributes that several inodes share.
    pub(crate) shared_xattrs: SharedXattrs,
    /// Inodes of which something is still to be freed.
    pub(crate) orphans: Mutex<OrphanList>,
    /// Held by who moves a name to another directory: ".." of all directories stays as it is.
    pub(crate) moves: Mutex<()>,
}

impl Ext4 {
    /// Reads and checks the volume on `disk`.
    ///
    /// Fails with the error number that fits the reason, which was logged.
    pub async fn mount(disk: Disk, options: Options, silent: bool) -> Result<Arc<Self>> {
        let before = disk.sectors_written();
        let (mut sb, torn) = read_super(&disk, &options, silent).await?;
        let was_recovered = sb.needs_recovery() && !options.norecovery() || torn;
        if was_recovered {
            let offset = super_offset(options.sb()).ok_or(EINVAL)?;
            disk::pinned(|| recovery::recover(&disk, &sb, offset, torn))?.await?;
            // What was read before is old.
            let (whole, torn) = read_super(&disk, &options, silent).await?;
            if torn {
                return Err(EBADMSG);
            }
            sb = whole;
        }
        let options = Settled::new(options, &sb, &disk)?;
        log_state(&disk, &sb);
        let block_size = sb.geo.block_size();
        let fits = block_size as usize <= PAGE_SIZE && block_size >= disk.logical_block_size();
        if !fits {
            disk.log(
                Level::Error,
                format_args!("blocks of {block_size} bytes do not fit device and memory pages"),
            );
            return Err(EINVAL);
        }
        let cache = Cache::new(&disk, block_size)?;
        let groups = read_groups(&disk, &cache, &sb, false).await?;
        let system_zones = merged(groups.iter().map(|group| group.zones(&sb.geo)))?;
        let counted = merged(groups.iter().map(|group| group.overhead_zones(&sb.geo)))?;
        let journal = journal_blocks(&disk, &cache, &sb).await;
        let overhead = sb.overhead(counted, journal);
        let statfs = statfs(&sb, &groups, overhead);
        let unused = Unused::new()?;
        let errors = ErrorLog::new(&sb);
        let written = Written::new(&sb, before);
        let mut label = [0; LABEL_SIZE];
        for (to, from) in label.iter_mut().zip(sb.label()) {
            *to = *from;
        }
        let volume = Arc::pin_init(
            pin_init!(Self {
                disk,
                cache,
                sb,
                groups,
                system_zones,
                was_recovered,
                statfs <- new_spinlock!(statfs),
                inodes <- new_spinlock!(InodeTable::new(unused.clone())),
                unused,
                flags: Atomic::new(options.options.flags().0),
                options <- new_spinlock!(options),
                writing <- new_spinlock!(None),
                errors <- new_spinlock!(errors),
                recorder: TaskControl::new(),
                written,
                shut_down: Atomic::new(false),
                released <- new_spinlock!(KVVec::new()),
                discarder: TaskControl::new(),
                label <- new_spinlock!(label),
                leaving: TaskControl::new(),
                gate: Gate::new(),
                frozen: Atomic::new(false),
                shared_xattrs: SharedXattrs::new(),
                orphans: Mutex::new(OrphanList::new()),
                moves: Mutex::new(()),
            }),
            GFP_KERNEL,
        )?;
        let root = match volume.iget(Ino::ROOT).await {
            Err(error) if error == ESTALE => None,
            root => Some(root?),
        };
        if !root.is_some_and(|root| root.is_dir()) {
            volume.report(&format_args!("the root is not a directory in use"));
            return Err(corrupted());
        }
        volume.log_errors();
        Ok(volume)
    }

    /// Metadata block `pblk`, which lies on the volume. Fails as [`Cache::read`] does.
    pub async fn block(&self, pblk: Pblk) -> Result<Buf> {
        self.block_ahead(pblk, pblk.0..pblk.0).await
    }

    /// As [`block`](Self::block). If the block has to be read, the blocks `ahead` are read with it.
    pub async fn block_ahead(&self, pblk: Pblk, ahead: Range<u64>) -> Result<Buf> {
        let read = self.cache.read(pblk.0, ahead).await;
        read.inspect_err(|error| self.report_unread(pblk.0, *error))
    }

    /// Plans to change metadata block `block`. Fails as [`Cache::plan`] does.
    pub(crate) async fn plan_edit(&self, block: u64) -> Result<Planned> {
        let planned = self.cache.plan(block).await;
        planned.inspect_err(|error| self.report_unread(block, *error))
    }

    /// Fails with `EIO` if the volume was shut down, and with `EROFS` if nothing is written to it
    /// any more since an error was found.
    pub fn check_alive(&self) -> Result {
        if self.is_shut_down() {
            return Err(EIO);
        }
        self.journal().map_or(Ok(()), |journal| journal.check())
    }

    /// Whether one of `len` blocks from `pblk` on holds metadata of fixed place, which no file's
    /// map may name.
    pub fn is_system_block(&self, pblk: Pblk, len: u32) -> bool {
        let end = pblk.0.saturating_add(len.into());
        let before = self.system_zones.partition_point(|zone| zone.start.0 < end);
        let last = before.checked_sub(1).and_then(|i| self.system_zones.get(i));
        last.is_some_and(|zone| zone.start.0.saturating_add(zone.len) > pblk.0)
    }

    /// The block of the volume that has inode `ino`, and the inode's offset in it.
    pub fn inode_place(&self, ino: Ino) -> layout::Result<(Pblk, u32)> {
        let geo = &self.sb.geo;
        let (Group(group), index) = geo.inode_index(ino)?;
        match self.groups.get(group as usize) {
            Some(group) => group.inode_location(index, geo),
            None => Err(layout::Error::corrupt1("no group {}", group)),
        }
    }

    /// The blocks of the inode table that are read along with `pblk`, which has inode `ino`.
    pub fn inodes_around(&self, ino: Ino, pblk: Pblk) -> Range<u64> {
        let none = pblk.0..pblk.0;
        let count =
            u64::from(self.options.lock().options.inode_readahead()).min(ITABLE_READAHEAD_MAX);
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

    /// The mount options.
    pub fn options(&self) -> Options {
        self.options.lock().options.clone()
    }

    /// The options that are on or off.
    pub fn flags(&self) -> Flags {
        Flags(self.flags.load(Relaxed))
    }

    /// The device cannot discard.
    pub(crate) fn end_discard(&self) {
        let mut options = self.options.lock();
        options.options.end_discard();
        self.flags.store(options.options.flags().0, Relaxed);
    }

    /// The label, with zeros behind it.
    pub fn label(&self) -> [u8; LABEL_SIZE] {
        *self.label.lock()
    }

    /// Changes the label, in the superblock and its backups: its first 16 bytes count. It is
    /// durable when this returns.
    ///
    /// Fails with `EROFS`, and with the errors of the journal and of the block layer.
    ///
    /// # Cancellation
    ///
    /// It is the old one or the new one; some backups may have the old one.
    pub async fn set_label(&self, label: &[u8]) -> Result {
        let writable = self.writable()?;
        let plan = self.plan_super().await?;
        let mut new = [0; LABEL_SIZE];
        for (to, from) in new.iter_mut().zip(label) {
            *to = *from;
        }
        {
            let journal = &writable.journal;
            let mut tx = journal.begin(&self.cache, SuperPlan::CREDITS).await?;
            plan.apply(self, &mut tx, |edit| edit.set_label(&new));
            *self.label.lock() = new;
        }
        for group in 0..self.sb.geo.groups() {
            let Some(backup) = self.plan_backup(Group(group)).await? else {
                continue;
            };
            let journal = &writable.journal;
            let mut tx = journal.begin(&self.cache, SuperPlan::CREDITS).await?;
            backup.apply(self, &mut tx, |edit| edit.set_label(&new));
        }
        self.sync().await
    }

    /// Whether the calling thread may use the blocks that are kept for those with privilege: by
    /// capability, or as the user or one of the group of `resuid` and `resgid`. Process context.
    pub fn may_use_reserve(&self) -> bool {
        let (uid, gid) = self.options.lock().options.reserve_owner(&self.sb);
        disk::may_use_reserve(uid, gid)
    }

    /// What is done when an error is found.
    pub(crate) fn on_error(&self) -> OnError {
        let options = self.options.lock();
        options.options.on_error().unwrap_or(self.sb.on_error)
    }

    /// Writes the options that differ from the default.
    pub fn show_options(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.options.lock().show(&self.sb, out)?;
        match self.check_alive() {
            Err(EIO) => out.write_str(",shutdown"),
            Err(_) => out.write_str(",emergency_ro"),
            Ok(()) => Ok(()),
        }
    }

    /// Space and inodes, used and free.
    pub fn statfs(&self) -> StatFs {
        if let Some(groups) = self.allocation_groups() {
            self.keep_statfs(&groups);
        }
        let mut statfs = *self.statfs.lock();
        if self.flags().minix_df() {
            statfs.blocks = self.sb.geo.blocks_count();
        }
        statfs
    }

    /// Keeps what is free as it is now.
    pub(crate) fn keep_statfs(&self, groups: &Groups) {
        let counters = groups.counters();
        let kept = self
            .sb
            .reserved_blocks
            .saturating_add(kept_back(&self.sb.geo));
        let mut statfs = self.statfs.lock();
        statfs.free = counters.usable.saturating_sub(counters.promised);
        statfs.available = statfs.free.saturating_sub(kept);
        statfs.free_files = counters.usable_inodes;
    }

    /// Changes the options; fails if one cannot be changed while the volume is mounted.
    pub fn set_options(&self, new: Options) -> Result {
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

/// Reads the superblock, where the options say it is. Tells whether it may have been written in
/// part when the power went: its checksum is wrong, and there is a journal that may have it.
async fn read_super(disk: &Disk, options: &Options, silent: bool) -> Result<(SuperBlock, bool)> {
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
    let parsed = SuperBlock::parse(&raw, options.sb(), CRC);
    let mut torn = None;
    if parsed.is_err_and(|error| error.kind == layout::Kind::Checksum) && !options.norecovery() {
        let sb = SuperBlock::parse_torn(&raw, options.sb(), CRC).ok();
        torn = sb.filter(|sb| {
            sb.journal_ino.is_some() && !disk.is_read_only() && sb.check_device(disk.size()).is_ok()
        });
    }
    if let Some(sb) = torn {
        disk.log(
            Level::Warning,
            format_args!("the superblock has a wrong checksum: looking for it in the journal"),
        );
        return Ok((sb, true));
    }
    let sb = parsed.map_err(|error| match error.kind {
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
    Ok((sb, false))
}

/// Says what is to be said about the state that the volume was left in.
fn log_state(disk: &Disk, sb: &SuperBlock) {
    if sb.needs_recovery() {
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
}

/// Reads and checks all group descriptors.
///
/// A wrong checksum is no reason not to read, but one not to write.
pub(crate) async fn read_groups(
    disk: &Disk,
    cache: &Cache,
    sb: &SuperBlock,
    for_writing: bool,
) -> Result<KVVec<GroupDesc>> {
    let geo = &sb.geo;
    let refuse = |error| refuse_mount(disk, error);
    let mut groups = KVVec::new();
    let mut next = 0;
    for first in (0..geo.desc_blocks()).step_by(DESC_READ_BATCH) {
        let mut blocks = KVec::new();
        for index in (first..geo.desc_blocks()).take(DESC_READ_BATCH) {
            blocks.push(geo.desc_block(index).map_err(refuse)?, GFP_KERNEL)?;
        }
        let buffers =
            join_all(blocks.iter().map(|pblk| cache.read(pblk.0, pblk.0..pblk.0)))?.await?;
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

/// Sorts the zones of groups, and merges those that touch or overlap.
///
/// By a tree: core's sort takes 850 bytes of the stack for each level of its recursion.
fn merged(groups: impl Iterator<Item = [Zone; 4]>) -> Result<KVVec<Zone>> {
    let mut all = RBTree::new();
    let mut add = |zone: Zone| -> Result {
        // Of zones that begin at the same block the longest counts.
        let so_far = all.get(&zone.start.0).copied().unwrap_or(0);
        if zone.len > so_far {
            all.try_create_and_insert(zone.start.0, zone.len, GFP_KERNEL)?;
        }
        Ok(())
    };
    // In a flexible group each kind of them is in one piece: few are left to be sorted.
    let mut kinds: [Option<Zone>; 4] = [None; 4];
    for zones in groups {
        let some = zones.into_iter().zip(&mut kinds);
        for (zone, kind) in some.filter(|(zone, _)| zone.len > 0) {
            match kind {
                Some(last) if last.start.0.saturating_add(last.len) == zone.start.0 => {
                    last.len = last.len.saturating_add(zone.len);
                }
                _ => {
                    if let Some(last) = kind.replace(zone) {
                        add(last)?;
                    }
                }
            }
        }
    }
    for last in kinds.into_iter().flatten() {
        add(last)?;
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
/// The journal is not needed for reading: if its inode is damaged there is a line in the log, and
/// 0.
async fn journal_blocks(disk: &Disk, cache: &Cache, sb: &SuperBlock) -> u64 {
    match recovery::journal_inode(cache, sb).await {
        Ok(Some(inode)) => inode.size >> sb.geo.block_bits(),
        Ok(None) => 0,
        Err(why) => {
            disk.log(Level::Warning, format_args!("the journal: {why}"));
            0
        }
    }
}

/// How many blocks are kept for what must not fail: as in ext4 a fiftieth, at most 4,096 clusters.
/// Only volumes with extents have something of that kind.
pub(crate) fn kept_back(geo: &Geometry) -> u64 {
    if !geo.has_incompat(layout::Incompat::EXTENTS) {
        return 0;
    }
    let cluster = u64::from(geo.cluster_blocks());
    let clusters = geo.blocks_count() >> cluster.trailing_zeros();
    (clusters / 50).min(4096).saturating_mul(cluster)
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
    StatFs {
        blocks: geo
            .blocks_count()
            .saturating_sub(overhead.saturating_mul(cluster)),
        free,
        available: free.saturating_sub(sb.reserved_blocks.saturating_add(kept_back(geo))),
        files: geo.inodes_count().into(),
        free_files,
    }
}
