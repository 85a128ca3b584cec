// SPDX-License-Identifier: GPL-2.0

//! The checkpoint: writing home what the log has, and moving the log's tail behind it.
//!
//! # Concurrency
//!
//! Whoever has `home` writes home, one at a time, so that no block is written home twice at the
//! same time. What is written are versions of their own: nobody who edits the blocks waits for it,
//! and it waits for no commit. A block that a later transaction has logged as well is left to that
//! one.

use super::running::exchange;
use super::{no_memory, Journal, Ring};
use disk::{vec_with_capacity, Cache, Pin};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::sort;

/// How many transactions are written home together at most, and how many blocks are enough.
const BATCH: usize = 16;
const BATCH_BLOCKS: usize = 2048;

/// A transaction that is durable, and not home.
pub(super) struct Logged {
    pub(super) tid: u32,
    /// Where in the log it begins.
    pub(super) start: u32,
    /// How many blocks of the log it takes.
    pub(super) permits: usize,
    /// The blocks that it has.
    pub(super) pins: KVVec<Pin>,
}

/// Transactions that are on their way home. If it goes before they are, the journal is aborted:
/// else the next ones would move the tail behind them.
struct Unfinished<'a>(&'a Journal);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.abort(EIO);
    }
}

impl Journal {
    /// Writes home the oldest transactions of the log. Returns whether there was one.
    ///
    /// If it fails, or is dropped on the way, the journal is aborted. It waits for memory as long
    /// as there is none.
    pub(super) async fn checkpoint(&self, cache: &Cache) -> Result<bool> {
        self.check()?;
        let Some(ring) = &self.log else {
            return Ok(false);
        };
        let mut home = self.home.lock().await?;
        let Some(sb) = &mut *home else {
            return Ok(false);
        };
        let mut batch: KVVec<Logged> = loop {
            match vec_with_capacity(cache.spawner(), BATCH).await {
                Err(ENOMEM) if self.check().is_ok() => no_memory().await,
                result => break result?,
            }
        };
        let unfinished = Unfinished(self);
        let mut blocks = 0;
        {
            let mut state = self.state.lock();
            while batch.len() < BATCH && blocks < BATCH_BLOCKS && !state.logged.is_empty() {
                let Ok(logged) = state.logged.remove(0) else {
                    break;
                };
                blocks += logged.pins.len();
                let _ = batch.push_within_capacity(logged);
            }
        }
        if batch.is_empty() {
            core::mem::forget(unfinished);
            return Ok(false);
        }
        loop {
            match self.write_batch(cache, ring, &batch, blocks, sb).await {
                Ok(()) => break,
                Err(ENOMEM) if self.check().is_ok() => no_memory().await,
                Err(error) => {
                    // The log keeps what it has, and so do the blocks.
                    self.abort(error);
                    return Err(error);
                }
            }
        }
        core::mem::forget(unfinished);
        let mut permits = 0;
        for logged in &batch {
            permits += logged.permits;
            for pin in &logged.pins {
                pin.clear_logged(logged.tid);
            }
        }
        self.space.release(permits);
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let tid = batch.last().map_or(0, |logged| logged.tid);
        disk::trace::checkpoint(
            cache,
            tid,
            count(batch.len()),
            count(blocks),
            count(permits),
        );
        Ok(true)
    }

    async fn write_batch(
        &self,
        cache: &Cache,
        ring: &Ring,
        batch: &[Logged],
        blocks: usize,
        sb: &mut super::log::LogSuper,
    ) -> Result {
        let mut bufs = vec_with_capacity(cache.spawner(), blocks).await?;
        for logged in batch {
            for pin in &logged.pins {
                if let Some(buf) = pin.logged(logged.tid) {
                    bufs.push_within_capacity((pin.block(), buf))
                        .map_err(|_| EIO)?;
                }
            }
        }
        sort::sort_by_key(&mut bufs, |(block, _)| *block);
        cache.write_blocks(bufs).await?;
        let (start, tid) = {
            let state = self.state.lock();
            match state.logged.first() {
                Some(logged) => (logged.start, logged.tid),
                // The one that is being written, or will be.
                None => (state.head, state.durable.wrapping_add(1)),
            }
        };
        debug_assert!(start >= ring.sb.first && start < ring.sb.end);
        // Its flush comes after all that was written home.
        sb.update(cache, |sb, raw| sb.set_tail(raw, start, tid))
            .await
    }

    /// Makes room for one more transaction in the list of those that are logged.
    pub(super) async fn reserve_logged(&self, cache: &Cache) -> Result {
        let want = {
            let state = self.state.lock();
            if state.logged.len() < state.logged.capacity() {
                return Ok(());
            }
            (2 * state.logged.len()).max(8)
        };
        let longer = vec_with_capacity(cache.spawner(), want).await?;
        // Only the commit, which we are, adds to it.
        let old = exchange(&mut self.state.lock().logged, longer);
        drop(old);
        Ok(())
    }
}
