// SPDX-License-Identifier: GPL-2.0

//! [`Transaction`]: a change of several blocks, whole or absent after a loss of power.
//!
//! # Concurrency
//!
//! Transactions of several threads, and of the executor, are open at the same time: each edits
//! blocks that nobody else edits, by the locks of those who plan them, or shared ones (bitmaps,
//! inode tables) block by block. They read the gate. The commit writes it, and so finds none open.
//! Since a transaction never waits, the commit waits for others' instructions alone.

use super::running::{Credits, Edited, Freed, Lists};
use super::Journal;
use core::marker::PhantomData;
use disk::run::Draft;
use disk::{Cache, Pin, Planned};
use kernel::prelude::*;
use upcall::atomic::{Full, Relaxed};
use upcall::ReadGuard;

/// A change of several blocks.
///
/// It is open until it is dropped. It cannot be held across an `.await` of a future that is
/// spawned:
///
/// ```compile_fail
/// # use aext4::journal::{Credits, Journal};
/// # async fn example(journal: &Journal, cache: &disk::Cache) -> kernel::prelude::Result {
/// fn spawned(_: impl core::future::Future + Send) {}
/// spawned(async {
///     let transaction = journal.begin(cache, Credits::blocks(1)).await;
///     upcall::yield_now().await;
///     drop(transaction);
/// });
/// # Ok(())
/// # }
/// ```
#[must_use = "it ends when it is dropped"]
pub struct Transaction<'a> {
    journal: &'a Journal,
    gate: Option<ReadGuard<'a, ()>>,
    /// What of the credits is left.
    left: Credits,
    tid: u32,
    /// Not `Send`, so that nothing awaits while it is open.
    not_send: PhantomData<*mut ()>,
}

impl Journal {
    /// Begins a change of at most so many blocks, when there is space in the log.
    ///
    /// Fails with `ENOSPC` for more than a third of the log, with `EROFS` if the journal was
    /// aborted, and with `ENOMEM`.
    ///
    /// # Cancellation
    ///
    /// Nothing was changed.
    pub async fn begin(&self, cache: &Cache, credits: Credits) -> Result<Transaction<'_>> {
        self.check()?;
        let permits = match &self.log {
            None => 0,
            Some(ring) => {
                let permits = ring.log_blocks(credits.blocks as usize, credits.revokes as usize);
                if permits > ring.max() {
                    return Err(ENOSPC);
                }
                self.take_space(permits, ring.max()).await?;
                permits
            }
        };
        // Given back if the rest fails, or is dropped.
        let space = Space(self, permits);
        loop {
            let gate = self.gate.read().await.map_err(|_| EROFS)?;
            self.check()?;
            let (opened, tid) = {
                let mut running = self.running.lock();
                (running.open(&credits, permits), running.tid)
            };
            let want = match opened {
                Ok(()) => {
                    // The running transactions have it now.
                    core::mem::forget(space);
                    disk::trace::transaction_start(cache, tid, credits.blocks, credits.revokes);
                    return Ok(Transaction {
                        journal: self,
                        gate: Some(gate),
                        left: credits,
                        tid,
                        not_send: PhantomData,
                    });
                }
                Err(want) => want,
            };
            drop(gate);
            let lists = Lists::new(cache, &want).await?;
            let old = self.running.lock().lengthen(lists);
            drop(old);
        }
    }

    /// Waits for space in the log, and until the running transactions are not too large.
    async fn take_space(&self, permits: usize, max: usize) -> Result {
        loop {
            let (fits, tid) = {
                let running = self.running.lock();
                (running.fits(permits, max), running.tid)
            };
            if fits {
                break;
            }
            self.sync(tid).await.map_err(|_| EROFS)?;
        }
        match self.space.try_acquire(permits) {
            Ok(permit) => permit.forget(),
            Err(_) => {
                // What is in the log is written home. What is running is committed first, and what
                // others change until there is space.
                let _waiting = Waiting::new(self);
                self.low.notify_one();
                self.request();
                let permit = self.space.acquire(permits).await.map_err(|_| EROFS)?;
                permit.forget();
            }
        }
        Ok(())
    }
}

/// Blocks of the log that are given back.
struct Space<'a>(&'a Journal, usize);

impl Drop for Space<'_> {
    fn drop(&mut self) {
        self.0.space.release(self.1);
    }
}

/// One who waits for space in the log.
struct Waiting<'a>(&'a Journal);

impl<'a> Waiting<'a> {
    fn new(journal: &'a Journal) -> Self {
        journal.waiting.fetch_add(1, Full);
        Self(journal)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Full);
    }
}

impl Transaction<'_> {
    /// The number that it has, with all others until the next commit.
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// Changes a block: see [`Planned::edit`].
    pub fn edit<R>(&mut self, planned: Planned, change: impl FnOnce(&mut [u8]) -> R) -> R {
        let (block, fresh) = (planned.block(), planned.is_fresh());
        let (result, first) = planned.edit(change);
        self.edited(block, fresh, first);
        result
    }

    /// Changes a block to `draft`: see [`Planned::replace`].
    pub fn replace(&mut self, planned: Planned, draft: Draft) {
        let (block, fresh) = (planned.block(), planned.is_fresh());
        let first = planned.replace(draft);
        self.edited(block, fresh, first);
    }

    /// A block was changed; `first` is there if it was not before.
    fn edited(&mut self, block: u64, fresh: bool, first: Option<Pin>) {
        if first.is_none() && !fresh {
            return;
        }
        let mut running = self.journal.running.lock();
        if fresh {
            // It is metadata again: what earlier transactions logged of it is older than this.
            running.revokes.retain(|revoked| *revoked != block);
        }
        let Some(pin) = first else {
            return;
        };
        let pushed = match self.left.blocks.checked_sub(1) {
            Some(left) => {
                self.left.blocks = left;
                running.push_edited(Edited { pin, buf: None })
            }
            None => false,
        };
        drop(running);
        if !pushed {
            self.overdrawn();
        }
    }

    /// Frees a block of metadata: what was logged of it does not count any more, and nobody writes
    /// it home.
    pub fn revoke(&mut self, cache: &Cache, block: u64) {
        if let Some(pin) = cache.pin(block) {
            pin.clear_edited();
        }
        let pushed = match self.left.revokes.checked_sub(1) {
            Some(left) => {
                self.left.revokes = left;
                self.journal.running.lock().push_revoke(block)
            }
            None => false,
        };
        if !pushed {
            self.overdrawn();
        }
    }

    /// Frees blocks, which are the allocator's when this is durable.
    pub fn free(&mut self, start: u64, count: u32) {
        let pushed = match self.left.freed.checked_sub(1) {
            Some(left) => {
                self.left.freed = left;
                self.journal
                    .running
                    .lock()
                    .push_freed(Freed { start, count })
            }
            None => false,
        };
        if !pushed {
            self.overdrawn();
        }
    }

    /// More was changed than the credits allow. What was left out cannot be written, so nothing is.
    #[cold]
    fn overdrawn(&self) {
        kernel::warn_on!(true);
        self.journal.abort(EIO);
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        let journal = self.journal;
        let (unused, tell) = journal
            .running
            .lock()
            .close(&self.left, journal.log.as_ref());
        // The commit, which waits for us, needs no space.
        drop(self.gate.take());
        journal.space.release(unused);
        if journal.waiting.load(Relaxed) > 0 {
            // Who comes to wait after this look asks himself, and finds what we have changed.
            journal.request();
        } else if tell {
            journal.wake.notify_one();
        }
    }
}
