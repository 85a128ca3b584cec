// SPDX-License-Identifier: GPL-2.0

//! Recovery: what the log has of transactions that count is written where it belongs.
//!
//! The log is read once to its end, and all of it is checked before anything is written: a log that
//! is corrupt leaves the volume as it is. Of the copies of a block the last is written, once.
//!
//! # What a loss of power leaves
//!
//! | after | there is |
//! |---|---|
//! | some of the writes | the same log: the next recovery writes them again |
//! | the flush, and the log's superblock with FUA | an empty log, and a volume that says that it needs recovery |
//! | the volume's superblock | a volume that does not |
//!
//! C source: `fs/jbd2/recovery.c`.

use super::log::{Log, Reader, Refused};
use disk::{gfp, Buf, Cache, Disk, Level};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::journal::fast_commit::{FastCommits, Pending};
use layout::journal::{block, is_later, Found, Revokes, Scan, Tags};
use layout::{sort, Error as Refusal, Geometry, Kind, Pblk};

/// How many blocks are in memory, to be sorted and written together.
const WRITE_BATCH: usize = Cache::RUN_MAX;

/// A block that the log has a copy of.
#[derive(Clone, Copy)]
struct Copied {
    /// Where it belongs.
    home: u64,
    /// The transaction.
    tid: u32,
    /// Which block of the log it is, and its place among all that were read.
    at: u32,
    order: u32,
    escaped: bool,
    /// Whether its checksum is right.
    sound: bool,
}

/// What there is to do.
struct Plan {
    /// The last copy of each block, in the order of the log.
    copies: KVVec<Copied>,
    /// How many copies are not used since their blocks were revoked.
    revoked: usize,
    /// The first transaction that does not count.
    end: u32,
    /// The block of the log that it would begin at.
    head: u32,
}

/// Brings home what the log has, and empties it. The volume's superblock still says that it needs
/// recovery.
///
/// If there is no copy of block `wanted`, nothing is written, and it fails with `EBADMSG`. In a log
/// that is empty the copy is what [`doublewrite`](super::doublewrite) left.
///
/// The cache is the caller's for this alone: what it has read is old afterwards.
pub async fn recover(
    disk: &Disk,
    cache: &Cache,
    geo: &Geometry,
    log: &mut Log,
    wanted: Option<Pblk>,
) -> Result<(), Refused> {
    let missing = |block: Pblk| {
        let what = "block {} has a wrong checksum, and the journal has no copy of it";
        Refused::from(Refusal::new(Kind::Checksum, what).with(block.0, 0u64))
    };
    let has_log = log.head.sb.needs_recovery();
    if !has_log && wanted.is_none() {
        return Ok(());
    }
    let first = log.head.sb.sequence;
    let mut plan = scan(cache, geo, log).await?;
    let is_missing = |block: &Pblk| !plan.copies.iter().any(|copied| copied.home == block.0);
    if let Some(block) = wanted.filter(is_missing) {
        return Err(missing(block));
    }
    if !has_log {
        // What `doublewrite` left, which is to stay until the block is whole on stable media.
        plan.copies
            .retain(|copied| wanted == Some(Pblk(copied.home)));
        write_home(cache, log, &plan.copies).await?;
        return Ok(cache.flush().await?);
    }
    refuse_fast_commits(cache, log, plan.end).await?;
    write_home(cache, log, &plan.copies).await?;
    // Its flush comes after all that was written home.
    log.head
        .update(cache, |sb, raw| sb.set_empty(raw, plan.end, plan.head))
        .await?;
    disk.log(
        Level::Info,
        format_args!(
            "recovery complete: {} transactions, {} blocks written, {} copies revoked",
            plan.end.wrapping_sub(first),
            plan.copies.len(),
            plan.revoked
        ),
    );
    Ok(())
}

/// Reads the log to its end, and checks all of it.
async fn scan(cache: &Cache, geo: &Geometry, log: &Log) -> Result<Plan, Refused> {
    let sb = &log.head.sb;
    let mut reader = Reader::new(log, cache);
    let mut scan = Scan::new(&sb.rules, sb.sequence, disk::checksum::crc32_be);
    let mut copies: KVVec<Copied> = KVVec::new();
    let mut revokes: KVVec<(u64, u32)> = KVVec::new();
    // As far as transactions are complete.
    let start = match sb.needs_recovery() {
        true => sb.start,
        false => sb.next_block(),
    };
    let (mut complete, mut head) = ((0, 0), start);
    let mut order = 0;
    // At most once around. What goes further is no transaction: it has begun with a descriptor that
    // was being written when the power went, or that leads round and round.
    'log: while order < sb.len() {
        let at = sb.after(start, order);
        let buf = reader.get(at).await?;
        order += 1;
        let tid = scan.next_tid();
        match scan.block(buf.data())? {
            Found::End => break,
            Found::Descriptor => {
                for tag in Tags::new(buf.data(), &sb.rules) {
                    if order == sb.len() {
                        break 'log;
                    }
                    let at = sb.after(start, order);
                    let data = reader.get(at).await?;
                    scan.logged(data.data());
                    let copied = Copied {
                        home: tag.block,
                        tid,
                        at,
                        order,
                        escaped: tag.escaped,
                        sound: sb.rules.tag_matches(&tag, tid, data.data()),
                    };
                    copies.push(copied, gfp()).map_err(|_| ENOMEM)?;
                    order += 1;
                }
            }
            Found::Revoke => {
                for number in Revokes::new(buf.data(), &sb.rules)? {
                    revokes.push((number, tid), gfp()).map_err(|_| ENOMEM)?;
                }
            }
            Found::Commit(_) => {
                complete = (copies.len(), revokes.len());
                head = sb.after(start, order);
            }
        }
    }
    copies.truncate(complete.0);
    revokes.truncate(complete.1);
    let revoked = drop_revoked(&mut copies, &mut revokes);
    for copied in &copies {
        check(copied, geo, log)?;
    }
    keep_last(&mut copies);
    Ok(Plan {
        copies,
        revoked,
        end: scan.next_tid(),
        head,
    })
}

/// Whether a copy may be written home.
fn check(copied: &Copied, geo: &Geometry, log: &Log) -> layout::Result<()> {
    if !copied.sound {
        let what = "journal: transaction {} has a wrong checksum of block {}";
        return Err(Refusal::new(Kind::Checksum, what).with(copied.tid, copied.home));
    }
    if copied.home >= geo.blocks_count() || log.blocks.has(copied.home) {
        return Err(Refusal::corrupt2(
            "journal: transaction {} has a copy of block {}, which is none of metadata",
            copied.tid,
            copied.home,
        ));
    }
    Ok(())
}

/// Leaves out the copies of blocks that the same or a later transaction has revoked. Returns how
/// many.
fn drop_revoked(copies: &mut KVVec<Copied>, revokes: &mut [(u64, u32)]) -> usize {
    // In the order of the log, of which each transaction is later than those before.
    sort::sort(revokes, |a, b| {
        a.0 < b.0 || a.0 == b.0 && is_later(b.1, a.1)
    });
    let before = copies.len();
    copies.retain(|copied| {
        let behind = revokes.partition_point(|(block, _)| *block <= copied.home);
        let last = behind.checked_sub(1).and_then(|at| revokes.get(at));
        !last.is_some_and(|(block, tid)| *block == copied.home && !is_later(copied.tid, *tid))
    });
    before - copies.len()
}

/// Leaves out all but the last copy of each block. The rest is in the order of the log.
fn keep_last(copies: &mut KVVec<Copied>) {
    // The last one of a block first.
    sort::sort_by_key(copies, |copied| (copied.home, u32::MAX - copied.order));
    let mut before = None;
    copies.retain(|copied| before.replace(copied.home) != Some(copied.home));
    sort::sort_by_key(copies, |copied| copied.order);
}

/// Refuses a log behind which there are fast commits, which are not understood here.
async fn refuse_fast_commits(cache: &Cache, log: &Log, tid: u32) -> Result<(), Refused> {
    let sb = &log.head.sb;
    let mut commits = FastCommits::new(&sb.rules, tid);
    for block in (sb.end..).take(sb.fast_commit_blocks as usize) {
        let (pblk, _) = log.blocks.place(block).ok_or(EIO)?;
        let bufs = cache.read_run(pblk, 1).await?;
        let data = bufs.first().map(Buf::data).unwrap_or(&[]);
        match commits.block(data) {
            Pending::No => return Ok(()),
            Pending::Unknown => {}
            Pending::Yes => {
                let what = "journal: there are fast commits: mount with ext4 first, or run e2fsck";
                return Err(Refusal::new(Kind::Feature, what).into());
            }
        }
    }
    Ok(())
}

/// Writes each copy where it belongs, and waits until the device has them all.
async fn write_home(cache: &Cache, log: &Log, copies: &[Copied]) -> Result {
    let mut reader = Reader::new(log, cache);
    for batch in copies.chunks(WRITE_BATCH) {
        let mut bufs: KVVec<(u64, Buf)> =
            disk::vec_with_capacity(cache.spawner(), batch.len()).await?;
        for copied in batch {
            let mut buf = reader.get(copied.at).await?;
            if copied.escaped {
                let mut whole = cache.draft_of(&buf).await?;
                block::unescape(whole.data_mut());
                buf = whole.freeze();
            }
            bufs.push_within_capacity((copied.home, buf))
                .map_err(|_| EIO)?;
        }
        sort::sort_by_key(&mut bufs, |(block, _)| *block);
        cache.write_blocks(bufs).await?;
    }
    Ok(())
}
