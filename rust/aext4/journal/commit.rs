// SPDX-License-Identifier: GPL-2.0

//! The commit: writing what the running transactions have changed.
//!
//! # Concurrency
//!
//! One commit at a time, by one upcall. It closes the gate for as long as it takes to take the
//! versions; all that it waits for comes after that. The versions are its own references, so nobody
//! changes their bytes.
//!
//! A commit that is dropped aborts the journal, see [`Taken`]. One that finds no memory tries
//! again: until the commit block is there, what it has written to the log does not count.

use super::checkpoint::Logged;
use super::running::{Edited, Freed, Running};
use super::{latch, no_memory, Journal, Ring};
use disk::{vec_with_capacity, Buf, Cache, Pin, Writing};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::journal::{block, is_later, RevokeWriter, Rules, Tag, TagWriter};
use layout::sort;
use upcall::atomic::Relaxed;
use upcall::bio::Op;
use upcall::{Instant, MutexGuard};

/// How many requests of a commit are in flight at most.
const IN_FLIGHT: usize = 64;

/// What a commit has made durable.
pub struct Committed<'a> {
    /// The number of the transactions.
    pub tid: u32,
    /// What they have freed, and what may be used again.
    pub freed: KVVec<Freed>,
    /// Whoever waits until it is used again waits for this.
    _releasing: MutexGuard<'a, ()>,
}

impl Journal {
    /// Commits what is running. Gives `None` if there was nothing.
    ///
    /// If it fails the journal is aborted. What was taken stays in memory then, since nobody knows
    /// what the disk has of it.
    pub(super) async fn commit(&self, cache: &Cache) -> Result<Option<Committed<'_>>> {
        let result = self.try_commit(cache).await;
        if let Err(error) = result {
            self.abort(error);
        }
        result
    }

    async fn try_commit(&self, cache: &Cache) -> Result<Option<Committed<'_>>> {
        // Nothing is lost while there is no memory: it is tried until there is.
        let taken = loop {
            match self.take(cache).await {
                Err(ENOMEM) if self.check().is_ok() => no_memory().await,
                result => break result?,
            }
        };
        let Some(mut taken) = taken else {
            self.check()?;
            return Ok(None);
        };
        let (tid, began) = (taken.running.tid, Instant::now());
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let (edited, revokes) = (taken.running.edited.len(), taken.running.revokes.len());
        disk::trace::commit_begin(cache, tid, count(edited), count(revokes));
        let result = loop {
            let result = match self.check() {
                Ok(()) => self.write(cache, &mut taken.running).await,
                Err(error) => Err(error),
            };
            match result {
                Err(ENOMEM) if self.check().is_ok() => no_memory().await,
                result => break result,
            }
        };
        let us = u64::try_from(Instant::now().since(began).as_micros()).unwrap_or(u64::MAX);
        let error = result.as_ref().map_or_else(|error| error.to_errno(), |_| 0);
        disk::trace::commit_end(cache, tid, us, error);
        match result {
            Ok(_releasing) => Ok(Some(Committed {
                tid,
                freed: core::mem::take(&mut taken.running.freed),
                _releasing,
            })),
            Err(error) => {
                self.abort(error);
                Err(error)
            }
        }
    }

    /// Takes what is running, with the versions that the blocks have now.
    async fn take(&self, cache: &Cache) -> Result<Option<Taken<'_>>> {
        let next = latch().await?;
        // So that nothing fails when it is durable.
        self.reserve_logged(cache).await?;
        let _gate = self.gate.write().await.map_err(|_| EROFS)?;
        // Nobody changes what is running while we have the gate.
        let (tid, latch) = {
            let running = self.running.lock();
            if running.is_empty() {
                return Ok(None);
            }
            (running.tid, running.latch.clone())
        };
        self.state.lock().committing = Some((tid, latch));
        let next = Running::new(tid.wrapping_add(1), next);
        let mut taken = Taken {
            journal: self,
            running: core::mem::replace(&mut *self.running.lock(), next),
        };
        for edited in taken.running.edited.iter_mut() {
            // What was freed again has none.
            edited.buf = edited.pin.take_edited();
        }
        Ok(Some(taken))
    }

    /// Makes what was taken durable. Who waits for that goes on; who waits for what it has freed
    /// does when the guard is dropped.
    async fn write(&self, cache: &Cache, taken: &mut Running) -> Result<MutexGuard<'_, ()>> {
        match &self.log {
            Some(ring) => self.write_log(cache, ring, taken).await,
            None => self.write_home(cache, taken).await,
        }
    }

    /// Without a log: what was taken is written where it belongs.
    async fn write_home(&self, cache: &Cache, taken: &mut Running) -> Result<MutexGuard<'_, ()>> {
        let mut bufs = vec_with_capacity(cache.spawner(), taken.edited.len()).await?;
        for edited in &taken.edited {
            if let Some(buf) = &edited.buf {
                bufs.push_within_capacity((edited.pin.block(), buf.clone()))
                    .map_err(|_| EIO)?;
            }
        }
        sort::sort_by_key(&mut bufs, |(block, _)| *block);
        cache.write_blocks(bufs).await?;
        if self.barrier.load(Relaxed) {
            cache.flush().await?;
        }
        let releasing = self.releasing.lock().await?;
        self.state.lock().durable = taken.tid;
        Ok(releasing)
    }

    /// Writes what was taken to the log, and a commit block behind it.
    async fn write_log(
        &self,
        cache: &Cache,
        ring: &Ring,
        taken: &mut Running,
    ) -> Result<MutexGuard<'_, ()>> {
        let tid = taken.tid;
        let pins = vec_with_capacity(cache.spawner(), taken.edited.len()).await?;
        let start = self.state.lock().head;
        let mut out = Writer::new(ring, cache, start).await?;
        let filled = fill(cache, ring, taken, &mut out).await;
        // Also if that failed: whoever tries again writes the same blocks.
        let written = out.wait().await;
        filled.and(written)?;
        // What was given up is not to count.
        self.check()?;
        let place = ring.sb.after(start, out.used);
        let mut draft = cache.draft().await?;
        let (secs, nanos) = self.commit_time();
        ring.sb
            .rules
            .write_commit(draft.data_mut(), tid, secs, nanos);
        let op = match self.barrier.load(Relaxed) {
            true => Op::WriteMetaFlushFua,
            false => Op::WriteMeta,
        };
        let (pblk, _) = ring.blocks.place(place).ok_or(EIO)?;
        cache.write_one(pblk, draft.freeze(), op).await?;
        let used = out.used + 1;
        let releasing = self.releasing.lock().await?;
        self.logged(cache, ring, taken, (start, used), pins);
        if !taken.revokes.is_empty() {
            // A write home that was under way is over then.
            drop(self.home.lock().await?);
        }
        Ok(releasing)
    }

    /// The time for a commit block. It does not go back: a reader of the log would take what is
    /// wrong for something old.
    fn commit_time(&self) -> (u64, u32) {
        let now = disk::time::now();
        let mut state = self.state.lock();
        let secs = u64::try_from(now.secs).unwrap_or(0).max(state.time);
        state.time = secs;
        (secs, now.nanos)
    }

    /// The transaction is durable: it has `used` blocks of the log from `start` on.
    fn logged(
        &self,
        cache: &Cache,
        ring: &Ring,
        taken: &mut Running,
        (start, used): (u32, u32),
        mut pins: KVVec<Pin>,
    ) {
        let tid = taken.tid;
        // What is not used any more is not brought home.
        for &block in &taken.revokes {
            if let Some(pin) = cache.pin(block) {
                pin.clear_logged_before(tid);
            }
        }
        for Edited { pin, buf } in core::mem::take(&mut taken.edited) {
            if let Some(buf) = buf {
                pin.set_logged(tid, buf);
                let _ = pins.push_within_capacity(pin);
            }
        }
        debug_assert!(used as usize <= taken.permits);
        let permits = taken.permits.min(used as usize);
        let logged = Logged {
            tid,
            start,
            permits,
            pins,
        };
        {
            let mut state = self.state.lock();
            state.head = ring.sb.after(start, used);
            state.durable = tid;
            let _ = state.logged.push_within_capacity(logged);
        }
        self.space.release(taken.permits - permits);
        // Those who wait need not wait for the rest.
        taken.latch.close();
    }
}

/// Writes to the log what was taken, without a commit block. Does not wait for all of the writes.
async fn fill(cache: &Cache, ring: &Ring, taken: &Running, out: &mut Writer<'_>) -> Result {
    let tid = taken.tid;
    let mut revokes = taken.revokes.iter().copied().peekable();
    while revokes.peek().is_some() {
        let mut draft = cache.draft().await?;
        let mut writer = RevokeWriter::new(draft.data_mut(), tid, &ring.sb.rules);
        while let Some(&number) = revokes.peek() {
            if !writer.push(draft.data_mut(), number) {
                break;
            }
            revokes.next();
        }
        writer.finish(draft.data_mut());
        out.push(draft.freeze()).await?;
    }
    let mut rest = &taken.edited[..];
    while let Some((descriptor, bufs, behind)) = describe(cache, ring, tid, rest).await? {
        out.push(descriptor).await?;
        for buf in &bufs {
            out.push(buf.clone()).await?;
        }
        rest = behind;
    }
    out.submit().await
}

/// What a commit has taken.
///
/// If it goes before it is durable, by an error or since the future is dropped, the journal is
/// aborted: the blocks stay in memory, nobody waits for it any more, and nothing later is written.
struct Taken<'a> {
    journal: &'a Journal,
    running: Running,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let durable = {
            let mut state = self.journal.state.lock();
            state.committing = None;
            !is_later(self.running.tid, state.durable)
        };
        if !durable {
            self.journal.abort(EIO);
            for edited in &self.running.edited {
                edited.pin.set_edited();
            }
        }
        self.running.latch.close();
    }
}

/// Describes blocks of `rest`, as many as one descriptor has. Gives it, them as they lie in the
/// log, and what is left; or `None` if there was none.
async fn describe<'a>(
    cache: &Cache,
    ring: &Ring,
    tid: u32,
    rest: &'a [Edited],
) -> Result<Option<(Buf, KVVec<Buf>, &'a [Edited])>> {
    let rules = &ring.sb.rules;
    let max = rules.tags_max() as usize;
    let mut bufs = vec_with_capacity(cache.spawner(), max).await?;
    let mut draft = cache.draft().await?;
    let mut writer = TagWriter::new(draft.data_mut(), tid, rules);
    let mut behind: &[Edited] = &[];
    for (index, edited) in rest.iter().enumerate() {
        let Some(buf) = &edited.buf else { continue };
        if bufs.len() == max {
            behind = rest.get(index..).unwrap_or(&[]);
            break;
        }
        let (tag, data) = tagged(cache, rules, tid, edited.pin.block(), buf).await?;
        writer.push(draft.data_mut(), &tag);
        bufs.push_within_capacity(data).map_err(|_| EIO)?;
    }
    if bufs.is_empty() {
        return Ok(None);
    }
    writer.finish(draft.data_mut());
    Ok(Some((draft.freeze(), bufs, behind)))
}

/// What a descriptor says of block `block`, and the block as it lies in the log.
pub(super) async fn tagged(
    cache: &Cache,
    rules: &Rules,
    tid: u32,
    block: u64,
    buf: &Buf,
) -> Result<(Tag, Buf)> {
    let escaped = block::needs_escape(buf.data());
    let mut data = buf.clone();
    if escaped {
        let mut copy = cache.draft_of(buf).await?;
        block::escape(copy.data_mut());
        data = copy.freeze();
    }
    let checksum = rules.data_checksum(tid, data.data());
    let tag = Tag {
        block,
        escaped,
        checksum,
    };
    Ok((tag, data))
}

/// Writes blocks to the log, one behind the other.
struct Writer<'a> {
    ring: &'a Ring,
    cache: &'a Cache,
    start: u32,
    /// How many blocks there are.
    used: u32,
    /// Those that are not submitted, which follow each other on the device, and the first of them.
    run: KVVec<Buf>,
    first: u64,
    writes: KVVec<Writing>,
}

impl<'a> Writer<'a> {
    async fn new(ring: &'a Ring, cache: &'a Cache, start: u32) -> Result<Self> {
        Ok(Self {
            ring,
            cache,
            start,
            used: 0,
            run: KVVec::new(),
            first: 0,
            writes: vec_with_capacity(cache.spawner(), IN_FLIGHT).await?,
        })
    }

    async fn push(&mut self, buf: Buf) -> Result {
        let at = self.ring.sb.after(self.start, self.used);
        let (pblk, _) = self.ring.blocks.place(at).ok_or(EIO)?;
        let follows = pblk == self.first + self.run.len() as u64;
        if self.run.is_empty() || !follows || self.run.len() == Cache::RUN_MAX {
            self.submit().await?;
            self.first = pblk;
            self.run = vec_with_capacity(self.cache.spawner(), Cache::RUN_MAX).await?;
        }
        self.run.push_within_capacity(buf).map_err(|_| EIO)?;
        self.used += 1;
        Ok(())
    }

    async fn submit(&mut self) -> Result {
        let run = core::mem::take(&mut self.run);
        if run.is_empty() {
            return Ok(());
        }
        if self.writes.len() == IN_FLIGHT {
            self.wait().await?;
        }
        let write = self.cache.write_run(self.first, run, Op::WriteMeta).await?;
        self.writes.push_within_capacity(write).map_err(|_| EIO)
    }

    /// Waits until the device has all that were submitted.
    async fn wait(&mut self) -> Result {
        let mut result = Ok(());
        while let Some(write) = self.writes.pop() {
            let write: Writing = write;
            result = result.and(write.done().await);
        }
        result
    }
}
