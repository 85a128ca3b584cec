// SPDX-License-Identifier: GPL-2.0

//! [`Journal`]: changes of metadata that reach the disk together or not at all.
//!
//! Its format is jbd2's. It has no thread: two upcalls of the volume do what is to be done in the
//! background.
//!
//! | module | what it has |
//! |---|---|
//! | [`log`] | where the journal is on the device, and its superblock |
//! | [`replay`] | bringing home what a log has after a loss of power |
//! | [`transaction`] | [`Transaction`]: a change of several blocks |
//! | [`running`] | what the changes since the last commit have in common |
//! | [`commit`] | writing them to the log |
//! | [`checkpoint`] | writing home what the log has, so that its space is free |
//! | [`doublewrite`] | a copy of the superblock in an empty log, while it is written in place |
//!
//! # How a change becomes durable
//!
//! 1. It is planned: blocks are read and pinned, memory is set aside. Dropping it leaves no trace.
//! 2. [`Journal::begin`] waits for space in the log. From here on nothing waits: the compiler sees to
//!    it, since a [`Transaction`] is not `Send`. The blocks are edited in memory, and the transaction
//!    ends.
//! 3. The commit takes the versions that the blocks have now, when no transaction is open, and writes
//!    them to the log; then a commit block, after a flush, with FUA. From then on all of it is
//!    durable, and whoever waits for it is woken. New transactions change the blocks meanwhile: that
//!    makes next versions.
//! 4. The checkpoint writes the versions home, and then moves the log's tail behind them.
//!
//! # What a loss of power leaves
//!
//! | during | there is |
//! |---|---|
//! | the writes to the log | a transaction without a commit block, which does not count |
//! | the commit block | the same, or the whole transaction: its checksum tells, and it is one sector |
//! | the writes home | the transaction in the log, which writes them again |
//! | the new tail | one tail or the other: what the new one leaves out is home, since a flush came before |
//!
//! Without a log the same engine writes the versions home at once. Then a loss of power leaves some
//! of them, and e2fsck repairs what does not fit together.
//!
//! # Freed blocks
//!
//! Blocks that a transaction frees are the allocator's again when it is durable, not before: until
//! then the disk has a volume that uses them. Of freed metadata the log may have copies. A revoke
//! block says that they do not count, and what is not home yet is not written home any more; a
//! write home that is under way is waited for before the blocks are given back.
//!
//! # Locks
//!
//! `gate` (read by a transaction, written by the commit for as long as it takes the versions) → the
//! spinlock of `running`, that of `state`: neither with another one held. `home` (the log's
//! superblock, and all writes home) is not taken with the gate held.

pub mod checkpoint;
pub mod commit;
pub mod doublewrite;
pub mod log;
pub mod replay;
pub mod running;
pub mod transaction;

use crate::memory;
use core::time::Duration;
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::{new_spinlock, Arc, SpinLock};
use layout::journal::is_later;
use upcall::atomic::{Acquire, Atomic, Full, Relaxed};
use upcall::{sleep, timeout, Mutex, Notify, RwSemaphore, Semaphore};

use checkpoint::Logged;
pub use commit::Committed;
pub use log::{Log, Refused};
use log::{LogBlocks, LogSuper};
use running::Running;
pub use running::{Credits, Freed};
pub use transaction::Transaction;

/// How long a commit or a checkpoint waits that found no memory, before it tries again.
const NO_MEMORY: Duration = Duration::from_millis(10);

/// The journal of a volume that is mounted for writing; or, without a log, what writes its
/// metadata.
#[pin_data]
pub struct Journal {
    log: Option<Ring>,
    /// Read by transactions, written by the commit.
    gate: RwSemaphore<()>,
    #[pin]
    running: SpinLock<Running>,
    #[pin]
    state: SpinLock<State>,
    /// Blocks of the log that nothing is in, nor will be.
    space: Semaphore,
    /// How many wait for some of them.
    waiting: Atomic<usize>,
    /// The log's superblock. Whoever has it may write home.
    home: Mutex<Option<LogSuper>>,
    /// Held by a commit from when it is durable until what it has freed may be used again.
    releasing: Mutex<()>,
    /// For the upcall that commits: the first change since the last commit, or somebody who waits.
    wake: Notify,
    /// For the upcall that writes home: there is little space.
    low: Notify,
    /// Somebody waits for the running transactions.
    requested: Atomic<bool>,
    /// The error number for which nothing is written any more, or 0.
    aborted: Atomic<i32>,
    /// Whether what was written is flushed.
    barrier: Atomic<bool>,
}

/// The log, as a ring.
struct Ring {
    blocks: LogBlocks,
    /// For the rules of its blocks, and the arithmetic of the ring: where it begins is old.
    sb: layout::journal::JournalSuper,
    /// How many tags, and how many revokes, a block of them has at most.
    tags: usize,
    revokes: usize,
}

/// What is in the log.
struct State {
    /// Where the next transaction begins.
    head: u32,
    /// The last transaction that is durable.
    durable: u32,
    /// The one that is being written, and what its waiters wait for.
    committing: Option<(u32, Arc<Notify>)>,
    /// What is durable and not home, oldest first.
    logged: KVVec<Logged>,
    /// The time of the last commit block, in seconds.
    time: u64,
}

impl Journal {
    /// Starts a journal in `log`, which is empty, or without a log.
    ///
    /// The log is made to have checksums if `checksums`, and to have block numbers of 64 bits if
    /// `wide`. It is on stable media when this returns.
    pub async fn start(
        log: Option<Log>,
        cache: &disk::Cache,
        wide: bool,
        checksums: bool,
    ) -> Result<Arc<Self>> {
        let (mut ring, mut home, mut first, mut head) = (None, None, 1, 0);
        if let Some(Log {
            blocks,
            head: mut sb,
        }) = log
        {
            // Numbers are used once in the life of a volume.
            first = sb.sb.sequence.wrapping_add(1);
            head = sb.sb.next_block();
            sb.update(cache, |sb, raw| {
                sb.set_rules(raw, wide, checksums);
                sb.set_tail(raw, head, first);
            })
            .await?;
            ring = Some(Ring::new(blocks, sb.sb));
            home = Some(sb);
        }
        // One block stays free, so that a full log is not an empty one.
        let space = ring.as_ref().map_or(0, |ring| ring.sb.len() as usize - 1);
        let state = State {
            head,
            durable: first.wrapping_sub(1),
            committing: None,
            logged: KVVec::new(),
            time: 0,
        };
        let running = Running::new(first, latch().await?);
        make(ring, running, state, space, home)
    }

    /// Whether there is a log.
    pub fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// Whether what was written is flushed before it counts as durable, from now on.
    pub fn set_barrier(&self, barrier: bool) {
        self.barrier.store(barrier, Relaxed);
    }

    /// Nothing is written any more: the disk stays as it is, and who waits fails with `EIO`.
    /// Returns whether it was this call that did it. Process context.
    pub fn abort(&self, error: Error) -> bool {
        let first = self.aborted.cmpxchg(0, error.to_errno(), Full).is_ok();
        self.space.close();
        // Who asks from now on sees the error; who has asked is woken.
        let latch = self.running.lock().latch.clone();
        latch.close();
        self.request();
        self.low.notify_one();
        first
    }

    /// Fails with `EROFS` if the journal was aborted, and with `EIO` if that was a shutdown.
    pub fn check(&self) -> Result {
        match self.aborted() {
            None => Ok(()),
            Some(ESHUTDOWN) => Err(EIO),
            Some(_) => Err(EROFS),
        }
    }

    /// Why the journal was aborted, if it was.
    pub fn aborted(&self) -> Option<Error> {
        match self.aborted.load(Acquire) {
            0 => None,
            errno => Some(Error::from_errno(errno)),
        }
    }

    /// Says in the log's superblock why the journal was aborted, for the next mount.
    ///
    /// Fails with the errors of the block layer.
    pub(crate) async fn record_errno(&self, cache: &disk::Cache, why: Error) -> Result {
        let errno = u32::from_ne_bytes(why.to_errno().to_ne_bytes());
        let mut home = self.home.lock().await?;
        match &mut *home {
            Some(sb) => sb.update(cache, |sb, raw| sb.set_errno(raw, errno)).await,
            None => Ok(()),
        }
    }

    /// The number that the transactions have that are running now.
    pub fn running_tid(&self) -> u32 {
        self.running.lock().tid
    }

    /// Whether the transactions with number `tid`, and all before, are durable.
    pub fn is_durable(&self, tid: u32) -> bool {
        !is_later(tid, self.state.lock().durable)
    }

    /// Makes the upcall commit.
    fn request(&self) {
        self.requested.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// Waits until the transactions with number `tid`, and all before, are durable.
    ///
    /// Fails with `EIO` if the journal was aborted before, and with `EINVAL` for a number that is
    /// not given out yet.
    ///
    /// # Cancellation
    ///
    /// The commit goes on.
    pub async fn sync(&self, tid: u32) -> Result {
        while let Some(latch) = self.pending(tid)? {
            // It is closed when the commit is over, well or not.
            let _ = latch.notified().await;
        }
        Ok(())
    }

    /// Waits until what transactions have freed that are durable may be used again.
    ///
    /// # Cancellation
    ///
    /// Nothing was done.
    pub(crate) async fn released(&self) -> Result {
        drop(self.releasing.lock().await?);
        Ok(())
    }

    /// As [`sync`](Self::sync). Whether what the device was told before this call is on stable
    /// media, too, when it returns: that is so if the commit begins after the call, and if there
    /// are no barriers.
    pub async fn sync_device(&self, tid: u32) -> Result<bool> {
        let begins = {
            let running = self.running.lock();
            running.tid == tid && !running.is_empty()
        };
        self.sync(tid).await?;
        Ok(begins || !self.barrier.load(Relaxed))
    }

    /// What to wait for until transactions with number `tid` are durable, unless they are. Makes
    /// the upcall commit them if they are running.
    fn pending(&self, tid: u32) -> Result<Option<Arc<Notify>>> {
        loop {
            {
                let state = self.state.lock();
                if !is_later(tid, state.durable) {
                    return Ok(None);
                }
                match &state.committing {
                    Some((committing, latch)) if *committing == tid => {
                        return Ok(Some(latch.clone()));
                    }
                    _ => {}
                }
            }
            let running = self.running.lock();
            if is_later(tid, running.tid) {
                return Err(EINVAL);
            }
            if running.tid == tid {
                if running.is_empty() {
                    // Nothing was changed since the one before.
                    drop(running);
                    return self.pending(tid.wrapping_sub(1));
                }
                let latch = running.latch.clone();
                drop(running);
                // An abort closes the latches that there are after it has said so.
                self.check().map_err(|_| EIO)?;
                self.request();
                return Ok(Some(latch));
            }
            drop(running);
            // Between the two looks it was taken, or became durable; or its commit failed.
            self.check().map_err(|_| EIO)?;
        }
    }

    /// Commits whenever somebody waits, or `interval` after the first change; `ended` is told of
    /// each commit. Returns when [`stop`](Self::stop) was called; with the error for which it has
    /// aborted the journal; or as [`check`](Self::check) if somebody else did.
    ///
    /// # Cancellation
    ///
    /// Dropping it during a commit aborts the journal. Otherwise nobody commits any more, and who
    /// waits does so until the journal is aborted.
    pub async fn commit_loop(
        &self,
        cache: &disk::Cache,
        interval: impl Fn() -> Duration,
        mut ended: impl FnMut(Committed<'_>),
    ) -> Result {
        loop {
            let stopped = self.wake.notified().await.is_err();
            if !stopped && !self.requested.load(Relaxed) {
                // Others may change more meanwhile.
                let _ = timeout(interval(), self.wake.notified()).await;
            }
            self.requested.store(false, Relaxed);
            while let Some(committed) = self.commit(cache).await? {
                ended(committed);
                if self.is_low() {
                    self.low.notify_one();
                }
                if !stopped {
                    break;
                }
            }
            if stopped {
                return Ok(());
            }
        }
    }

    /// Writes home what the log has whenever there is little space in it. Returns as
    /// [`commit_loop`](Self::commit_loop) does.
    ///
    /// # Cancellation
    ///
    /// Dropping it while it writes aborts the journal. The log keeps what it has.
    pub async fn checkpoint_loop(&self, cache: &disk::Cache) -> Result {
        while self.low.notified().await.is_ok() {
            self.check()?;
            while self.is_low() && self.checkpoint(cache).await? {}
        }
        Ok(())
    }

    /// How many blocks of the log are free, at least: none without a log. An estimate while others
    /// change something.
    pub fn space(&self) -> usize {
        self.space.available()
    }

    /// Whether so little of the log is free that it is to be written home.
    fn is_low(&self) -> bool {
        let len = self.log.as_ref().map_or(0, |ring| ring.sb.len() as usize);
        self.space() < len / 2
    }

    /// Makes the two loops end, after a last commit. Nobody begins a transaction any more.
    pub fn stop(&self) {
        self.wake.close();
        self.low.close();
    }

    /// Writes home all that is durable, so that the log has nothing that a mount needs.
    ///
    /// Fails with the errors of the block layer, and with `EROFS` if the journal was aborted.
    ///
    /// # Cancellation
    ///
    /// Dropping it while it writes aborts the journal.
    pub async fn checkpoint_all(&self, cache: &disk::Cache) -> Result {
        while self.checkpoint(cache).await? {}
        self.check()
    }

    /// Writes a copy of a block to the log, which is [empty](Self::empty): see
    /// [`doublewrite`](doublewrite::write).
    pub(crate) async fn doublewrite(
        &self,
        cache: &disk::Cache,
        block: u64,
        buf: &disk::Buf,
    ) -> Result {
        let home = self.home.lock().await?;
        match (&self.log, &*home) {
            (Some(ring), Some(LogSuper { sb, .. })) => {
                let barrier = self.barrier.load(Relaxed);
                doublewrite::write(cache, &ring.blocks, sb, barrier, block, buf).await
            }
            _ => Ok(()),
        }
    }

    /// Goes on after [`empty`](Self::empty), with a number that the [copy](Self::doublewrite) in the
    /// log does not have. Nobody has begun a transaction meanwhile, nor does now.
    ///
    /// Fails with the errors of the block layer. Then the log is empty still.
    pub(crate) async fn resume(&self, cache: &disk::Cache) -> Result {
        let mut home = self.home.lock().await?;
        let Some(log) = &mut *home else {
            return Ok(());
        };
        let (tid, head) = (log.sb.sequence.wrapping_add(1), log.sb.next_block());
        log.update(cache, |sb, raw| sb.set_tail(raw, head, tid))
            .await?;
        self.state.lock().durable = tid.wrapping_sub(1);
        self.running.lock().tid = tid;
        Ok(())
    }

    /// Writes home all that the log has, and says that it is empty. The loops are over, or nobody
    /// changes anything.
    ///
    /// Fails with the error of the block layer, or with `EROFS` if the journal was aborted. Then
    /// the log stays as it is.
    pub async fn empty(&self, cache: &disk::Cache) -> Result {
        self.checkpoint_all(cache).await?;
        let mut home = self.home.lock().await?;
        let (tid, head) = {
            let state = self.state.lock();
            (state.durable.wrapping_add(1), state.head)
        };
        match &mut *home {
            Some(sb) => {
                sb.update(cache, |sb, raw| sb.set_empty(raw, tid, head))
                    .await
            }
            None => Ok(()),
        }
    }
}

/// Waits a while for memory.
async fn no_memory() {
    upcall::memory_freed().await;
    sleep(NO_MEMORY).await;
}

/// What the waiters of a transaction wait for.
async fn latch() -> Result<Arc<Notify>> {
    memory::retry(|| Ok(Arc::new(Notify::new(), gfp())?)).await
}

/// Not in `start`, which is compiled into whatever module polls it: lockdep would have the locks'
/// names from there.
#[inline(never)]
fn make(
    log: Option<Ring>,
    running: Running,
    state: State,
    space: usize,
    home: Option<LogSuper>,
) -> Result<Arc<Journal>> {
    Arc::pin_init(
        pin_init!(Journal {
            log,
            gate: RwSemaphore::new(()),
            running <- new_spinlock!(running),
            state <- new_spinlock!(state),
            space: Semaphore::new(space),
            waiting: Atomic::new(0),
            home: Mutex::new(home),
            releasing: Mutex::new(()),
            wake: Notify::new(),
            low: Notify::new(),
            requested: Atomic::new(false),
            aborted: Atomic::new(0),
            barrier: Atomic::new(true),
        }),
        gfp(),
    )
}
