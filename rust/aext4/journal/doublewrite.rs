// SPDX-License-Identifier: GPL-2.0

//! A copy of one block in a log that is empty, while the block is written in place.
//!
//! The superblock says whether the log counts, so it cannot be brought home by the log as other
//! blocks are. It has two sectors, and a loss of power may leave one old and one new: its checksum
//! is wrong then. So the log, which is empty by what its superblock says, gets a whole transaction
//! with the new superblock where its next one would begin, before the superblock is written. Who
//! finds a wrong checksum looks there.
//!
//! The transaction has the number that the log's superblock says comes next, and the log begins
//! with a later one: so it is never replayed, and other implementations see an empty log.
//!
//! # Concurrency
//!
//! The log is the caller's: the journal has not started, is over, or rests as long as the volume is
//! frozen.

use super::commit::tagged;
use super::log::LogBlocks;
use disk::{Buf, Cache};
use kernel::prelude::*;
use layout::journal::{JournalSuper, TagWriter};
use upcall::bio::Op;

/// Writes a copy of block `block`, which is to have the content `buf`, to the log. It is on stable
/// media when this returns, unless there are no barriers.
///
/// Fails with the errors of the block layer, and with `ENOMEM`.
///
/// # Cancellation
///
/// The log is as empty as before.
pub async fn write(
    cache: &Cache,
    blocks: &LogBlocks,
    sb: &JournalSuper,
    barrier: bool,
    block: u64,
    buf: &Buf,
) -> Result {
    let tid = sb.sequence;
    let place = |n: u32| {
        let at = sb.after(sb.next_block(), n);
        blocks.place(at).map(|(pblk, _)| pblk).ok_or(EIO)
    };
    let (tag, data) = tagged(cache, &sb.rules, tid, block, buf).await?;
    let mut draft = cache.draft().await?;
    let mut writer = TagWriter::new(draft.data_mut(), tid, &sb.rules);
    writer.push(draft.data_mut(), &tag);
    writer.finish(draft.data_mut());
    cache
        .write_one(place(0)?, draft.freeze(), Op::WriteMeta)
        .await?;
    cache.write_one(place(1)?, data, Op::WriteMeta).await?;
    let mut draft = cache.draft().await?;
    let now = disk::time::now();
    let secs = u64::try_from(now.secs).unwrap_or(0);
    sb.rules
        .write_commit(draft.data_mut(), tid, secs, now.nanos);
    let op = match barrier {
        true => Op::WriteMetaFlushFua,
        false => Op::WriteMeta,
    };
    cache.write_one(place(2)?, draft.freeze(), op).await
}
