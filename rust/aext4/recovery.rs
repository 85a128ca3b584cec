// SPDX-License-Identifier: GPL-2.0

//! Recovering a volume that was not unmounted, before anything of it is in memory.
//!
//! A mount without the option `norecovery` recovers, also one that is read-only, as ext4 does:
//! without what the journal has the volume may contradict itself.

use crate::journal::{doublewrite, replay, Log, Refused};
use crate::super_write::SuperWrite;
use core::fmt;
use disk::{Cache, Disk, Level};
use kernel::prelude::*;
use layout::super_edit::{ErrorCode, Errors};
use layout::superblock::SUPER_SIZE;
use layout::{FileType, GroupDesc, Incompat, Inode, Pblk, SuperBlock};

/// Brings home what the journal has, and says in the superblock, at byte `offset`, that the volume
/// does not need it any more.
///
/// Fails, with a line in the log, with `EROFS` if nothing can be written, with the error number
/// that fits what is wrong with the journal, and with the errors of the block layer. Unless it is
/// one of those of writing, nothing was changed.
///
/// If the superblock is `torn`, which was read without a look at its checksum, the journal has to
/// have the whole of it: else it fails with `EBADMSG`.
pub async fn recover(disk: &Disk, sb: &SuperBlock, offset: u64, torn: bool) -> Result {
    if disk.is_read_only() {
        disk.log(
            Level::Error,
            format_args!(
                "the journal needs recovery, and the device is read-only: \
                 mount without the journal's changes by -o ro,noload"
            ),
        );
        return Err(EROFS);
    }
    // For this alone.
    let cache = Cache::new(disk, sb.geo.block_size())?;
    replay(disk, &cache, sb, offset, torn).await.map_err(|why| {
        disk.log(Level::Error, format_args!("cannot recover: {why}"));
        why.errno()
    })
}

async fn replay(
    disk: &Disk,
    cache: &Cache,
    sb: &SuperBlock,
    offset: u64,
    torn: bool,
) -> Result<(), Refused> {
    let geo = sb.geo;
    let Some(inode) = journal_inode(cache, sb).await? else {
        return Err(layout::Error::new(
            layout::Kind::Feature,
            "the journal is on another device, or nowhere",
        )
        .into());
    };
    let mut log = Log::open(disk, cache, &geo, &inode).await?;
    let wanted = torn.then_some(Pblk(offset >> geo.block_bits()));
    // Errors that were recorded past the log, when nothing could be written to it any more.
    let mut errors = None;
    if !torn {
        let look = |raw: &[u8]| errors = Errors::of(raw);
        disk.read_raw(offset, SUPER_SIZE, look).await?;
    }
    replay::recover(disk, cache, &geo, &mut log, wanted).await?;
    // Why the log was given up is the volume's to remember; the log forgets it after that.
    let errno = log.head.sb.errno;
    if errno != 0 {
        let what = Errno(i32::from_ne_bytes(errno.to_ne_bytes()));
        disk.log(
            Level::Warning,
            format_args!("filesystem error recorded from previous mount: {what}"),
        );
    }
    let write = SuperWrite::prepare(disk, cache, &geo, offset, |edit| {
        let mut features = edit.features();
        features.incompat = features.incompat.without(Incompat::RECOVER);
        edit.set_features(features);
        if let Some(errors) = &errors {
            edit.keep_errors(errors);
        }
        if errno != 0 {
            edit.set_state(edit.state() | SuperBlock::STATE_ERROR);
        }
    })
    .await?;
    if geo.csum().metadata() {
        let sb = &log.head.sb;
        doublewrite::write(cache, &log.blocks, sb, true, write.block, &write.buf).await?;
    }
    write.write(disk).await?;
    if errno != 0 {
        log.head
            .update(cache, |sb, raw| sb.set_errno(raw, 0))
            .await?;
        disk.log(
            Level::Warning,
            format_args!("marked fs in need of filesystem check"),
        );
    }
    Ok(())
}

/// An error number, in ext4's words.
struct Errno(i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ErrorCode::of(self.0) {
            ErrorCode::Io => f.write_str("IO failure"),
            ErrorCode::NoMemory => f.write_str("Out of memory"),
            ErrorCode::BadChecksum => f.write_str("Filesystem failed CRC"),
            ErrorCode::Corrupted => f.write_str("Corrupt filesystem"),
            ErrorCode::ReadOnly => f.write_str("Journal has aborted"),
            _ => write!(f, "error {}", self.0.saturating_neg()),
        }
    }
}

/// The inode of the journal, or `None` if the volume has none in itself.
///
/// Nothing else of the volume is needed, and nothing else is trusted: before the recovery the
/// descriptors may be torn.
pub async fn journal_inode(cache: &Cache, sb: &SuperBlock) -> Result<Option<Inode>, Refused> {
    let Some(ino) = sb.journal_ino else {
        return Ok(None);
    };
    let geo = &sb.geo;
    let (group, index) = geo.inode_index(ino)?;
    let (pblk, offset) = geo.desc_location(group)?;
    let buf = cache.read(pblk.0, pblk.0..pblk.0).await?;
    let raw = buf.data().get(offset as usize..).ok_or(EIO)?;
    let desc = GroupDesc::parse(raw, group, geo)?;
    let (pblk, offset) = desc.inode_location(index, geo)?;
    let buf = cache.read(pblk.0, pblk.0..pblk.0).await?;
    let raw = buf.data().get(offset as usize..).ok_or(EIO)?;
    let inode = Inode::parse(raw, ino, geo)?;
    match inode.file_type {
        FileType::Regular => Ok(Some(inode)),
        _ => Err(layout::Error::corrupt1("inode {} is no file", ino).into()),
    }
}
