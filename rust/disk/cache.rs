// SPDX-License-Identifier: GPL-2.0

//! The metadata cache: blocks by number, each read once for many who ask.
//!
//! A block in the cache is an [`Entry`], which refers to the block's current version. The model for
//! having a cache of one's own is XFS's `xfs_buf`; that a block has immutable versions is its
//! difference: a reader keeps the version that it found, whatever happens to the block.
//!
//! | state of a block | what there is |
//! |---|---|
//! | absent | no entry |
//! | reading | an entry without a version, and a request whose payload has the version; waiters |
//! | present | an entry with a version |
//!
//! A read that fails makes its blocks absent. Those who wait get the error; but if the request had
//! several blocks, nobody knows which is bad: then they look again, and each reads its block alone.
//!
//! # Concurrency
//!
//! Entries, chains and waiters are under the spinlock of a *shard*, taken with interrupts off.
//! Anybody may look up; whoever finds a block absent enters it as `reading`, and submits the read.
//! Only they read blocks ahead, in the same request. The completion runs in any context. It makes
//! the blocks present, and wakes whoever waits, so that nobody depends on when somebody else's
//! future is polled next.
//!
//! An entry is freed only if it is present, unpinned, clean, and its version has no other user. So
//! a pointer to the entry stays valid while the block is being read, or pinned by a
//! [`Planned`](crate::Planned).
//!
//! The payload of a request keeps the cache. If the future is dropped, the request is merely
//! detached: the blocks are present when the device is done.
//!
//! # Memory
//!
//! On a worker no allocation waits: what cannot be had at once is allocated by the volume's thread
//! for blocking work. Blocks that nobody uses stay until there are too many, or memory is short.
//! Each has a mark that a look-up sets; the hand that goes round frees those whose mark is not set,
//! and takes the mark away.

use crate::reading::{Fresh, Reading};
use crate::sys::{self, IrqGuard, IrqLock};
use crate::version::{Buf, Pool};
use crate::wait::{Outcome, Settled, Waiter};
use crate::Disk;
use core::fmt;
use core::ops::Range;
use core::ptr::{null_mut, NonNull};
use core::task::Waker;
use kernel::alloc::KVVec;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::atomic::{Atomic, Relaxed};
use upcall::bio::InFlight;
use upcall::{Device, Spawner};

/// How many locks there are: a power of two.
const SHARDS: usize = 64;

/// How many chains there are at most, and at least: powers of two.
const BUCKETS_MAX: u64 = 1 << 17;
const BUCKETS_MIN: u64 = 1 << 10;

/// How many blocks a request has at most: what every device takes in one bio.
pub(crate) const RUN_BLOCKS_MAX: usize = 256;

/// How many chains are looked at, at most, when there are too many blocks.
const SWEEP_CHAINS_MAX: usize = 1024;

/// A block that is in the cache, or being read. Under the lock of its shard.
pub(crate) struct Entry {
    pub(crate) block: u64,
    /// The next one of its chain.
    next: *mut Entry,
    /// `None` while it is being read.
    pub(crate) version: Option<Buf>,
    /// Those who wait for the read.
    waiters: *mut Waiter,
    /// How many plans need the entry to stay.
    pub(crate) pins: u32,
    /// Changed, and not taken by who writes it.
    pub(crate) edited: bool,
    /// The version that the log has and that is not home, and its transaction.
    pub(crate) logged: Option<(u32, Buf)>,
    /// Looked up since the hand came by.
    pub(crate) marked: bool,
}

// SAFETY: What the pointers lead to is reached under the lock of the entry's shard alone.
unsafe impl Send for Entry {}

/// The chains of one lock: every [`SHARDS`]th. A chain is null, or begins with an entry.
pub(crate) struct Shard {
    chains: KVVec<*mut Entry>,
    /// How far the hash is shifted, to give the number of a chain.
    shift: u32,
    /// What blocks are hashed by.
    key: u64,
}

// SAFETY: The entries are the shard's, but for what their documentation says.
unsafe impl Send for Shard {}

/// What the clones of a cache share.
pub(crate) struct Inner {
    shards: KVVec<IrqLock<Shard>>,
    pub(crate) pool: Arc<Pool>,
    buckets: usize,
    /// What blocks are hashed by.
    key: u64,
    /// How many entries there are.
    pub(crate) len: Atomic<usize>,
    /// From how many on each new one makes room.
    max: usize,
    /// The chain that the hand is at.
    hand: Atomic<usize>,
    stats: Stats,
}

/// What is counted.
#[derive(Default)]
struct Stats {
    hits: Counter,
    reads: Counter,
    ahead: Counter,
    waits: Counter,
    evicted: Counter,
    reclaimed: Counter,
}

struct Counter(Atomic<usize>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    /// Not exact: two who count at the same time may count as one. A locked instruction would cost
    /// more than the rest of a look-up.
    #[inline(always)]
    fn add(&self, count: usize) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }
}

/// How many blocks a cache has, and what it counted since it was made. The counts are not exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Blocks that are in memory, or being read.
    pub blocks: usize,
    /// Of these, those that are being read.
    pub reading: usize,
    /// Of these, those that were changed, and that nobody has taken to write them.
    pub dirty: usize,
    /// Of these, those that the log has, and that are not home yet.
    pub logged: usize,
    /// Look-ups that found the block, at once or after a wait for somebody else's read.
    pub hits: usize,
    /// Look-ups that did not, and began to read the block.
    pub reads: usize,
    /// Blocks that were read along with such.
    pub ahead: usize,
    /// Waits for a read that somebody else had begun.
    pub waits: usize,
    /// Blocks that made room for others.
    pub evicted: usize,
    /// Blocks that were freed by [`shrink`](Cache::shrink).
    pub reclaimed: usize,
}

impl fmt::Display for CacheStats {
    /// A line for each figure: its name, and the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = [
            ("blocks", self.blocks),
            ("reading", self.reading),
            ("dirty", self.dirty),
            ("logged", self.logged),
            ("hits", self.hits),
            ("reads", self.reads),
            ("ahead", self.ahead),
            ("waits", self.waits),
            ("evicted", self.evicted),
            ("reclaimed", self.reclaimed),
        ];
        for (name, figure) in figures {
            writeln!(f, "{name} {figure}")?;
        }
        Ok(())
    }
}

/// The metadata of a volume that is in memory.
pub struct Cache {
    pub(crate) inner: Arc<Inner>,
    device: Device,
    spawner: Spawner,
    /// How many blocks the device had when the cache was made.
    blocks: u64,
}

/// What a look-up finds.
enum Found {
    Present(Buf),
    Reading,
    Absent,
}

impl Cache {
    /// Makes an empty cache for blocks of `block_size` bytes, a power of two up to the page size.
    ///
    /// Fails with `EINVAL` for another size, and with `ENOMEM`. May sleep.
    pub fn new(disk: &Disk, block_size: u32) -> Result<Self> {
        if !block_size.is_power_of_two() || block_size as usize > PAGE_SIZE {
            return Err(EINVAL);
        }
        let bits = block_size.trailing_zeros();
        let blocks = disk.size() >> bits;
        // An eighth of the memory, and a chain for four blocks.
        let max = (sys::total_memory() >> (bits + 3)).max(256);
        let buckets = (max.min(blocks) / 4)
            .clamp(BUCKETS_MIN, BUCKETS_MAX)
            .next_power_of_two();
        let key = sys::random() | 1;
        let mut shards = KVVec::with_capacity(SHARDS, GFP_KERNEL)?;
        for _ in 0..SHARDS {
            let mut chains = KVVec::new();
            chains.resize(buckets as usize / SHARDS, null_mut(), GFP_KERNEL)?;
            let shard = Shard {
                chains,
                shift: u64::BITS - buckets.trailing_zeros(),
                key,
            };
            shards.push(IrqLock::new(shard), GFP_KERNEL)?;
        }
        let inner = Inner {
            shards,
            pool: Pool::new(block_size)?,
            buckets: buckets as usize,
            key,
            len: Atomic::new(0),
            max: max as usize,
            hand: Atomic::new(0),
            stats: Stats::default(),
        };
        for shard in inner.shards.iter() {
            // SAFETY: Nobody else knows of the locks, and the vector's memory is not moved any
            // more.
            unsafe { shard.init() };
        }
        Ok(Self {
            inner: Arc::new(inner, GFP_KERNEL)?,
            device: disk.device().clone(),
            spawner: disk.spawner().clone(),
            blocks,
        })
    }

    /// The size of a block in bytes.
    pub fn block_size(&self) -> u32 {
        self.inner.pool.size()
    }

    /// How many blocks are in memory, or being read. Any context.
    pub fn len(&self) -> usize {
        self.inner.len.load(Relaxed)
    }

    /// Whether there is room for blocks that those who hold them keep in memory: half of what there
    /// may be. Any context.
    pub fn has_room(&self) -> bool {
        self.len() < self.inner.max / 2
    }

    /// Whether no block is in memory. Any context.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many blocks there are, and what was counted. Looks at each block: nothing is counted
    /// when a block becomes dirty or logged. Process context; does not sleep.
    pub fn stats(&self) -> CacheStats {
        let mut found = CacheStats::default();
        for bucket in 0..self.inner.buckets {
            let shard = self.inner.lock(bucket % SHARDS);
            let mut at = shard.chains.get(bucket / SHARDS).copied();
            while let Some(entry) = at.and_then(NonNull::new) {
                // SAFETY: The entries of the chain live while we have its shard's lock.
                let entry = unsafe { entry.as_ref() };
                found.blocks += 1;
                found.reading += usize::from(entry.version.is_none());
                found.dirty += usize::from(entry.edited);
                found.logged += usize::from(entry.logged.is_some());
                at = Some(entry.next);
            }
        }
        let stats = &self.inner.stats;
        CacheStats {
            hits: stats.hits.0.load(Relaxed),
            reads: stats.reads.0.load(Relaxed),
            ahead: stats.ahead.0.load(Relaxed),
            waits: stats.waits.0.load(Relaxed),
            evicted: stats.evicted.0.load(Relaxed),
            reclaimed: stats.reclaimed.0.load(Relaxed),
            ..found
        }
    }

    #[inline(always)]
    fn shard(&self, block: u64) -> IrqGuard<'_, Shard> {
        self.inner.shard(block)
    }

    /// What spawns into the volume's scope.
    pub fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// The device, for requests.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// How many blocks the device had when the cache was made.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Block `block`, in units of the block size, if it is in memory. Does not sleep.
    #[inline]
    pub fn get(&self, block: u64) -> Option<Buf> {
        self.look_up(block).ok()
    }

    /// Reads block `block`, in units of the block size, if it is not in memory.
    ///
    /// If it is this call that begins the read, the blocks of `ahead` that are absent are read as
    /// well, those next to the block in the same request; they are not waited for, and left out if
    /// memory is short. The caller has checked that all are on the volume.
    ///
    /// Fails with `EIO` and other errors of the block layer, also for a block that is not on the
    /// device, with
    /// `ENOMEM`, and with `ESHUTDOWN` once the scope of the volume is over.
    ///
    /// # Cancellation
    ///
    /// The read goes on, and the blocks stay in memory.
    pub async fn read(&self, block: u64, ahead: Range<u64>) -> Result<Buf> {
        let mut alone = false;
        loop {
            match self.look_up(block) {
                Ok(buf) => return Ok(buf),
                Err(false) => {}
                Err(true) => {
                    self.inner.stats.waits.add(1);
                    Settled::new(&self.inner, block).await?;
                    continue;
                }
            }
            if block >= self.blocks {
                // The device has shrunk.
                return Err(EIO);
            }
            let fresh = self.fresh(block).await?;
            let others = if alone { block..block } else { ahead.clone() };
            let io = match self.start(block, fresh, others) {
                Ok(Some(io)) => io,
                Ok(None) => continue,
                // An upcall does not wait for reclaim in the allocation, but here.
                Err(ENOMEM) if upcall::on_worker() => {
                    upcall::memory_freed().await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (result, reading) = io.await;
            let mut reading = reading.ok_or(EIO)?;
            match result {
                Ok(()) => return reading.wanted.take().ok_or(EIO),
                Err(error) if reading.count == 1 => return Err(error),
                // It may be a neighbour that is bad.
                Err(_) => alone = true,
            }
        }
    }

    /// Block `block` if it is present; else whether it is being read.
    #[inline]
    fn look_up(&self, block: u64) -> Result<Buf, bool> {
        match self.shard(block).find(block) {
            Found::Present(buf) => {
                self.inner.count_hit();
                Ok(buf)
            }
            Found::Reading => Err(true),
            Found::Absent => Err(false),
        }
    }

    /// What is needed to read a block, without waiting.
    fn fresh_now(&self, block: u64) -> Option<Fresh> {
        Fresh::new(&self.inner.pool, block, false).ok()
    }

    /// What is needed to read a block. Waits for memory; on a worker it lets the blocking worker
    /// wait.
    async fn fresh(&self, block: u64) -> Result<Fresh> {
        if !upcall::on_worker() {
            return Fresh::new(&self.inner.pool, block, true);
        }
        match self.fresh_now(block) {
            Some(fresh) => Ok(fresh),
            None => {
                let pool = self.inner.pool.clone();
                self.spawner
                    .spawn_blocking(move || Fresh::new(&pool, block, true))?
                    .await?
            }
        }
    }

    /// Makes an absent block present, with zeroes, or waits for a read of it that is under way.
    pub(crate) async fn enter_zeroed(&self, block: u64) -> Result {
        let Fresh { mut entry, version } = self.fresh(block).await?;
        let mut version = version;
        // SAFETY: Nobody else knows of the version.
        unsafe { version.data_mut() }.fill(0);
        entry.version = Some(version);
        {
            let mut shard = self.shard(block);
            if shard.entry(block).is_none() {
                // SAFETY: A box is not null.
                shard.insert(unsafe { NonNull::new_unchecked(KBox::into_raw(entry)) });
                drop(shard);
                self.inner.len.fetch_add(1, Relaxed);
                self.inner.make_room();
                return Ok(());
            }
        }
        drop(entry);
        // Whether the read fails is nothing to us.
        let _ = Settled::new(&self.inner, block).await;
        Ok(())
    }

    /// Enters the block, and the absent ones of `ahead`, and submits their reads.
    ///
    /// Gives the request that has the block, or `None` if the block is no longer absent.
    fn start(
        &self,
        block: u64,
        fresh: Fresh,
        ahead: Range<u64>,
    ) -> Result<Option<InFlight<Reading>>> {
        let mut run = Reading::new(&self.inner);
        if !run.enter(&self.inner, fresh, true) {
            return Ok(None);
        }
        self.inner.stats.reads.add(1);
        // Downwards from the block as far as its neighbours are absent, then upwards.
        let last = ahead.end.min(self.blocks);
        let mut first = block;
        while first > ahead.start
            && first <= ahead.end
            && run.count < RUN_BLOCKS_MAX
            && self.enter(&mut run, first - 1)
        {
            first -= 1;
        }
        let mut end = block + 1;
        while end < last
            && end > ahead.start
            && run.count < RUN_BLOCKS_MAX
            && self.enter(&mut run, end)
        {
            end += 1;
        }
        let io = run.submit(&self.device)?;
        // What is beyond a neighbour that was there already has requests of its own.
        self.read_ahead(ahead.start..first.min(last));
        self.read_ahead(end.max(ahead.start)..last);
        self.inner.make_room();
        Ok(Some(io))
    }

    /// Enters an absent neighbour at either end of a run, if there is memory.
    fn enter(&self, run: &mut Reading, block: u64) -> bool {
        // A look before memory is taken.
        if !matches!(self.shard(block).peek(block), Found::Absent) {
            return false;
        }
        let entered = self
            .fresh_now(block)
            .is_some_and(|fresh| run.enter(&self.inner, fresh, false));
        if entered {
            self.inner.stats.ahead.add(1);
        }
        entered
    }

    /// Starts to read the blocks of a range that are absent, as far as that needs no waiting.
    fn read_ahead(&self, blocks: Range<u64>) {
        let mut run = Reading::new(&self.inner);
        for block in blocks {
            let entered = self.enter(&mut run, block);
            if !entered || run.count >= RUN_BLOCKS_MAX {
                let full = core::mem::replace(&mut run, Reading::new(&self.inner));
                if full.count > 0 && full.submit(&self.device).is_err() {
                    return;
                }
            }
        }
        if run.count > 0 {
            // Without memory the blocks are absent again.
            let _ = run.submit(&self.device);
        }
    }

    /// Frees up to `count` blocks that nobody uses, those first that nobody asked for of late.
    /// Returns how many it freed.
    ///
    /// For the shrinker of the superblock. Process context; does not sleep.
    pub fn shrink(&self, count: usize) -> usize {
        // The second time round no mark is left of the first.
        let freed = self.inner.evict(count, 2 * self.inner.buckets);
        self.inner.stats.reclaimed.add(freed);
        self.inner.pool.shrink();
        freed
    }

    /// Makes a block absent whose memory nobody needs any more. Returns whether it is absent.
    ///
    /// A block that is being read, pinned or not written yet stays. Those who hold a version keep
    /// it. Any context.
    pub fn invalidate(&self, block: u64) -> bool {
        let mut shard = self.shard(block);
        let gone = match shard.entry(block) {
            // SAFETY: The entry is in a chain of the shard, whose lock we hold.
            Some(entry) if unsafe { entry.as_ref() }.is_idle() => shard.remove(block),
            Some(_) => return false,
            None => return true,
        };
        drop(shard);
        if gone.is_some() {
            self.inner.len.fetch_sub(1, Relaxed);
        }
        true
    }
}

impl Entry {
    /// A block that is being read.
    pub(crate) fn new(block: u64) -> Self {
        Self {
            block,
            next: null_mut(),
            version: None,
            waiters: null_mut(),
            pins: 0,
            edited: false,
            logged: None,
            marked: true,
        }
    }

    /// Whether the entry may be freed.
    fn is_idle(&self) -> bool {
        self.version.is_some()
            && self.pins == 0
            && !self.edited
            && self.logged.is_none()
            && self.waiters.is_null()
    }
}

impl Shard {
    /// The chain of a block, as an index into the shard's.
    #[inline(always)]
    fn chain_of(&self, block: u64) -> usize {
        (hash(block, self.key) >> self.shift) as usize / SHARDS
    }

    /// The entry of a block.
    #[inline(always)]
    pub(crate) fn entry(&self, block: u64) -> Option<NonNull<Entry>> {
        let mut at = self.chains.get(self.chain_of(block)).copied()?;
        while let Some(entry) = NonNull::new(at) {
            // SAFETY: The entries of our chains live while we have the lock.
            let this = unsafe { entry.as_ref() };
            if this.block == block {
                return Some(entry);
            }
            at = this.next;
        }
        None
    }

    /// What there is of a block, which is marked as used.
    #[inline]
    fn find(&mut self, block: u64) -> Found {
        let Some(mut entry) = self.entry(block) else {
            return Found::Absent;
        };
        // SAFETY: The entries of our chains live while we have the lock, and are ours.
        let entry = unsafe { entry.as_mut() };
        entry.marked = true;
        match &entry.version {
            Some(version) => Found::Present(version.clone()),
            None => Found::Reading,
        }
    }

    /// Whether a block is absent, without a mark.
    fn peek(&self, block: u64) -> Found {
        match self.entry(block) {
            Some(_) => Found::Reading,
            None => Found::Absent,
        }
    }

    /// Adds an entry whose block has none.
    pub(crate) fn insert(&mut self, entry: NonNull<Entry>) {
        // SAFETY: The entry is new, and ours.
        let block = unsafe { entry.as_ref() }.block;
        let chain = self.chain_of(block);
        if let Some(first) = self.chains.get_mut(chain) {
            // SAFETY: As for the block.
            unsafe { (*entry.as_ptr()).next = *first };
            *first = entry.as_ptr();
        }
    }

    /// Takes the entry of a block out.
    pub(crate) fn remove(&mut self, block: u64) -> Option<KBox<Entry>> {
        let chain = self.chain_of(block);
        let mut link: *mut *mut Entry = self.chains.get_mut(chain)?;
        // SAFETY: The links of our chains, and what they lead to, are ours while we have the lock.
        // Entries come from boxes.
        unsafe {
            while !(*link).is_null() {
                let at = *link;
                if (*at).block == block {
                    *link = (*at).next;
                    return Some(KBox::from_raw(at));
                }
                link = &raw mut (*at).next;
            }
        }
        None
    }

    /// Links a waiter to a block that is being read. Returns `false` if it is not.
    ///
    /// # Safety
    ///
    /// The waiter is not linked, and stays where it is until it is unlinked.
    pub(crate) unsafe fn wait(&mut self, block: u64, waiter: *mut Waiter, waker: &Waker) -> bool {
        let Some(entry) = self.entry(block) else {
            return false;
        };
        // SAFETY: The entry is in our chain, and we have the lock. The waiter is the caller's.
        unsafe {
            let entry = entry.as_ptr();
            if (*entry).version.is_some() {
                return false;
            }
            waiter.write(Waiter {
                prev: null_mut(),
                next: (*entry).waiters,
                waker: Some(waker.clone()),
                outcome: Outcome::Waiting,
                entry,
            });
            if !(*entry).waiters.is_null() {
                (*(*entry).waiters).prev = waiter;
            }
            (*entry).waiters = waiter;
        }
        true
    }

    /// Unlinks a waiter, if the end of the read has not. Gives its waker, to be dropped without the
    /// lock.
    ///
    /// # Safety
    ///
    /// The waiter was linked in this shard.
    pub(crate) unsafe fn unlink_waiter(&mut self, waiter: *mut Waiter) -> Option<Waker> {
        // SAFETY: Waiters and entries are ours while we have the lock; one that is linked refers to
        // an entry that is being read, and neighbours that are linked.
        unsafe {
            let this = &mut *waiter;
            if !this.entry.is_null() {
                if this.prev.is_null() {
                    (*this.entry).waiters = this.next;
                } else {
                    (*this.prev).next = this.next;
                }
                if !this.next.is_null() {
                    (*this.next).prev = this.prev;
                }
                this.entry = null_mut();
            }
            this.waker.take()
        }
    }

    /// Tells all who wait for an entry that the wait is over.
    ///
    /// # Safety
    ///
    /// The entry is in a chain of the shard, or was until now.
    pub(crate) unsafe fn wake_all(&mut self, entry: *mut Entry, outcome: Outcome) {
        // SAFETY: Waiters are ours while we have the lock, and linked ones live.
        unsafe {
            let mut at = core::mem::replace(&mut (*entry).waiters, null_mut());
            while !at.is_null() {
                let next = (*at).next;
                (*at).entry = null_mut();
                (*at).outcome = outcome;
                if let Some(waker) = (*at).waker.take() {
                    waker.wake();
                }
                at = next;
            }
        }
    }
}

/// Multiplicative hashing, as `hash_64()` of C, but by an odd number that an image cannot know:
/// else it could have all of its blocks in one chain.
#[inline(always)]
fn hash(block: u64, key: u64) -> u64 {
    block.wrapping_mul(key)
}

impl Inner {
    /// Locks the shard of a block.
    #[inline(always)]
    pub(crate) fn shard(&self, block: u64) -> IrqGuard<'_, Shard> {
        let bucket =
            (hash(block, self.key) >> (u64::BITS - self.buckets.trailing_zeros())) as usize;
        self.lock(bucket % SHARDS)
    }

    #[inline(always)]
    fn lock(&self, shard: usize) -> IrqGuard<'_, Shard> {
        // SAFETY: There are that many shards, and the number is below it.
        unsafe { self.shards.get_unchecked(shard % SHARDS) }.lock()
    }

    /// A look-up found its block.
    #[inline(always)]
    pub(crate) fn count_hit(&self) {
        self.stats.hits.add(1);
    }

    /// Frees some blocks, if there are too many.
    fn make_room(&self) {
        let len = self.len.load(Relaxed);
        if len > self.max {
            let over = len - self.max;
            let freed = self.evict(over, SWEEP_CHAINS_MAX);
            self.stats.evicted.add(freed);
        }
    }

    /// Lets the hand go over up to `chains` chains, until it has freed `count` blocks.
    fn evict(&self, count: usize, chains: usize) -> usize {
        let mut freed = 0;
        for _ in 0..chains {
            if freed >= count {
                break;
            }
            let bucket = self.hand.fetch_add(1, Relaxed) & (self.buckets - 1);
            let mut gone: *mut Entry = null_mut();
            {
                let mut shard = self.lock(bucket % SHARDS);
                let Some(first) = shard.chains.get_mut(bucket / SHARDS) else {
                    break;
                };
                let mut link: *mut *mut Entry = first;
                // SAFETY: The links of the chain, and what they lead to, are ours while we have the
                // lock.
                unsafe {
                    while !(*link).is_null() {
                        let at = *link;
                        let unused =
                            (*at).is_idle() && (*at).version.as_ref().is_some_and(Buf::is_unique);
                        if unused && !(*at).marked && freed < count {
                            *link = (*at).next;
                            (*at).next = gone;
                            gone = at;
                            freed += 1;
                        } else {
                            (*at).marked = false;
                            link = &raw mut (*at).next;
                        }
                    }
                }
            }
            while !gone.is_null() {
                // SAFETY: What was taken out is ours, and came from a box.
                let entry = unsafe { KBox::from_raw(gone) };
                gone = entry.next;
            }
        }
        self.len.fetch_sub(freed, Relaxed);
        freed
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for shard in self.shards.iter() {
            for chain in 0..self.buckets / SHARDS {
                let mut at = {
                    let mut shard = shard.lock();
                    let first = shard.chains.get_mut(chain);
                    first.map_or(null_mut(), |first| core::mem::replace(first, null_mut()))
                };
                // Without the lock: the memory goes to the pool, which has one of its own.
                while !at.is_null() {
                    // SAFETY: Nobody else knows of the cache: its entries are ours, and came from
                    // boxes.
                    let entry = unsafe { KBox::from_raw(at) };
                    at = entry.next;
                }
            }
        }
    }
}
