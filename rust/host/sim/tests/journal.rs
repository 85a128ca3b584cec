// SPDX-License-Identifier: GPL-2.0

//! The journal on a disk that loses power: what was synced is there, and all of it as it was after
//! some transaction.
//!
//! Upcalls and threads change blocks at the end of a volume, free them, write data to those that
//! are free, and sync. A [`Model`] notes what was done, in its order. What the disk may have after
//! a loss of power is recovered, and each block compared with what the model says of the
//! transactions that count.

use aext4::journal::{Committed, Credits, Journal, Log};
use aext4::recovery;
use disk::{Cache, Planned};
use kernel::machine::{self, Config, Fail, Rng};
use kernel::prelude::*;
use layout::journal::JournalSuper;
use layout::SuperBlock;
use sim::e2fs::{Image, Scratch};
use sim::{dropped_after, simulate_on, varied, Bed};
use simdisk::{Latency, Store};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use upcall::simulation::jitter;
use upcall::{block_on, on_worker, Block, Device, JoinHandle};

const SIZE: u64 = 8 << 20;
const BLOCK: usize = 1024;
/// How many blocks the transactions are about: before the last one of the volume.
const BLOCKS: u64 = 420;
const FIRST: u64 = SIZE / BLOCK as u64 - BLOCKS - 1;
/// A block that all transactions edit, each worker its own eight bytes of it.
const SHARED: u64 = FIRST + BLOCKS;

/// A change, in the order in which they were made.
#[derive(Clone)]
enum Event {
    /// What was there at first.
    Base,
    /// In this transaction these blocks got the content of this change, and the shared block, too,
    /// if there is a worker.
    Edit(u32, Option<usize>, Vec<u64>),
    /// This block is free.
    Free(u32, u64),
    /// Data is written to this block.
    Writing(u64),
    /// This block has data of this change, on stable media.
    Data(usize, u64),
}

/// What is in use, and what has happened.
#[derive(Default)]
struct Model {
    events: Vec<Event>,
    /// How many there are, for interrupts.
    count: Arc<AtomicUsize>,
    /// The last transaction that was synced, for interrupts.
    synced: Arc<AtomicU32>,
    /// Blocks that somebody is about to change.
    busy: BTreeSet<u64>,
    meta: BTreeSet<u64>,
    free: BTreeSet<u64>,
    /// Freed, and not durable.
    held: BTreeSet<u64>,
    /// How long a transaction waited to begin, at most, in nanoseconds.
    slowest: u64,
}

impl Model {
    fn new() -> Self {
        let mut model = Self {
            meta: (FIRST..SHARED).collect(),
            ..Self::default()
        };
        model.push(Event::Base);
        model
    }

    /// Adds an event. Gives its number.
    fn push(&mut self, event: Event) -> usize {
        self.events.push(event);
        self.count.store(self.events.len(), Relaxed);
        self.events.len() - 1
    }

    /// Takes one of `from` for the caller alone.
    fn claim(busy: &mut BTreeSet<u64>, from: &BTreeSet<u64>) -> Option<u64> {
        let idle: Vec<u64> = from.difference(busy).copied().collect();
        let block = *idle.get(machine::random(idle.len().max(1) as u64) as usize)?;
        busy.insert(block);
        Some(block)
    }

    fn release<'a>(&mut self, blocks: impl IntoIterator<Item = &'a u64>) {
        for block in blocks {
            self.busy.remove(block);
        }
    }

    /// What a commit has made durable.
    fn committed(&mut self, committed: &Committed<'_>) {
        for freed in &committed.freed {
            assert!(self.held.remove(&freed.start));
            self.free.insert(freed.start);
        }
    }
}

/// What a block has after change number `event`.
fn content(block: u64, event: usize) -> Vec<u8> {
    let mut rng = Rng::new(block << 32 | event as u64);
    let mut bytes: Vec<u8> = (0..BLOCK / 8)
        .flat_map(|_| rng.next().to_le_bytes())
        .collect();
    if (block + event as u64) % 5 == 0 {
        bytes[..4].copy_from_slice(&MAGIC);
    }
    bytes
}

/// What a block of the log's own begins with.
const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

/// Where a worker's number is in the shared block.
fn slot(worker: usize) -> std::ops::Range<usize> {
    8 + 8 * worker..16 + 8 * worker
}

/// A disk before a run: a volume with a journal that says that it needs recovery.
#[derive(Clone)]
struct Base {
    store: Store,
    /// Where the journal's superblock is, in bytes.
    journal: u64,
}

impl Base {
    fn new(dir: &Scratch, options: &str) -> Self {
        let image = Image::make(dir.path("base.img"), SIZE, options);
        image.debugfs("feature needs_recovery\n");
        let journal = image.blocks(8)[0] * BLOCK as u64;
        let mut store = image.store();
        for block in FIRST..SHARED {
            store.write(block * BLOCK as u64, &content(block, 0));
        }
        Self { store, journal }
    }

    /// Whether what looks like a block of the log's own is one: others are logged without the first
    /// bytes.
    fn check_log(&self, store: &Store) {
        let log = store.get(self.journal, 1024 * BLOCK);
        for block in log.chunks(BLOCK).filter(|block| block.starts_with(&MAGIC)) {
            assert!(block[4..7] == [0; 3], "a block that has no escape");
        }
    }

    /// The journal's superblock in a state of the disk.
    fn journal_super(&self, store: &Store) -> JournalSuper {
        let raw = store.get(self.journal, 1024);
        JournalSuper::parse(&raw, BLOCK as u32, 1024, CRC.crc32c).unwrap()
    }
}

/// The volume's superblock.
async fn super_block(disk: &disk::Disk) -> Result<SuperBlock> {
    let mut raw = [0; 1024];
    disk.read_raw(1024, 1024, |bytes| raw.copy_from_slice(bytes))
        .await?;
    Ok(SuperBlock::parse(&raw, 1, CRC).unwrap())
}

/// Starts the journal of what is on the disk; or without a log.
async fn open(bed: &Bed, log: bool) -> (Arc<Cache>, Arc<Journal_>) {
    let disk = bed.disk().unwrap();
    let sb = super_block(&disk).await.unwrap();
    let cache = Cache::new(&disk, BLOCK as u32).unwrap();
    let inode = recovery::journal_inode(&cache, &sb).await.ok().flatten();
    let inode = inode.expect("the inode of the journal");
    let csum = sb.geo.csum().metadata();
    let wide = sb.geo.has_incompat(layout::Incompat::B64);
    let log = match log {
        true => {
            let log = Log::open(&disk, &cache, &sb.geo, &inode).await;
            Some(log.ok().expect("a journal"))
        }
        false => None,
    };
    let journal = Journal::start(log, &cache, wide, csum).await.unwrap();
    (Arc::new(cache), Arc::new(Journal_(journal)))
}

/// A journal that the host's `Arc` has.
struct Journal_(kernel::sync::Arc<Journal>);

const CRC: layout::CrcFns = layout::CrcFns {
    crc32c: disk::checksum::crc32c,
    crc16: disk::checksum::crc16,
};

/// The upcalls of a journal.
struct Loops(Vec<JoinHandle<Result>>);

impl Loops {
    fn start(
        bed: &Bed,
        cache: &Arc<Cache>,
        journal: &Arc<Journal_>,
        model: &Arc<Mutex<Model>>,
        load: &Load,
    ) -> Self {
        let (first, second) = (load.dropped[0], load.dropped[1]);
        let commits = {
            let (cache, journal, model) = (cache.clone(), journal.clone(), model.clone());
            let interval = load.interval;
            async move {
                let ended = |committed: Committed<'_>| model.lock().unwrap().committed(&committed);
                let whole = || journal.0.commit_loop(&cache, || interval, ended);
                match dropped_after(first, whole()).await {
                    Some(result) => result,
                    None => match journal.0.check() {
                        Ok(()) => whole().await,
                        error => error,
                    },
                }
            }
        };
        let home = {
            let (cache, journal) = (cache.clone(), journal.clone());
            async move {
                match dropped_after(second, journal.0.checkpoint_loop(&cache)).await {
                    Some(result) => result,
                    None => match journal.0.check() {
                        Ok(()) => journal.0.checkpoint_loop(&cache).await,
                        error => error,
                    },
                }
            }
        };
        let scope = bed.scope();
        Self(vec![
            scope.spawn(commits).unwrap(),
            scope.spawn(home).unwrap(),
        ])
    }

    /// Waits for both.
    fn join(self) -> Vec<Result> {
        let all = self.0.into_iter();
        all.map(|task| block_on(task).unwrap().unwrap()).collect()
    }
}

/// One who changes blocks.
#[derive(Clone)]
struct Worker {
    number: usize,
    device: Device,
    cache: Arc<Cache>,
    journal: Arc<Journal_>,
    model: Arc<Mutex<Model>>,
    /// How many blocks a change has at most.
    large: u64,
    /// Whether futures are dropped at random.
    drops: bool,
    /// Whether more blocks are freed, and have data.
    reuse: bool,
}

impl Worker {
    /// Makes changes, and syncs some of them.
    async fn work(self, changes: u64) -> Result {
        for _ in 0..changes {
            let tid = match self.change().await {
                Err(ECANCELED) if self.drops => continue,
                result => result?,
            };
            if tid != 0 && machine::random(4) == 0 {
                match self.may_drop(self.journal.0.sync(tid)).await {
                    Err(ECANCELED) if self.drops => continue,
                    result => result?,
                }
                self.model.lock().unwrap().synced.fetch_max(tid, Relaxed);
            }
            if machine::random(10) == 0 {
                self.cache.shrink(1000);
            }
        }
        Ok(())
    }

    /// Waits for a future, or drops it at one of its polls and fails with `ECANCELED`.
    async fn may_drop<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let polls = match self.drops && machine::random(3) == 0 {
            true => machine::random(4) as usize,
            false => usize::MAX,
        };
        dropped_after(polls, future).await.unwrap_or(Err(ECANCELED))
    }

    /// Begins a transaction.
    async fn begin(&self, credits: Credits) -> Result<NotSend<aext4::journal::Transaction<'_>>> {
        let before = machine::now();
        let begin = async {
            let begun = self.journal.0.begin(&self.cache, credits).await;
            begun.map(NotSend)
        };
        let begun = self.may_drop(begin).await;
        let mut model = self.model.lock().unwrap();
        model.slowest = model.slowest.max(machine::now() - before);
        begun
    }

    /// One change. Gives the number of its transaction, if it has one.
    async fn change(&self) -> Result<u32> {
        jitter().await;
        let mut claimed = Vec::new();
        let kind = match (machine::random(10), self.reuse) {
            (kind, false) => kind,
            (0..4, true) => 0,
            (4..6, true) => 1,
            (kind, true) => kind - 3,
        };
        let result = match kind {
            0 => self.write_data(&mut claimed).await,
            1 | 2 => self.free(&mut claimed).await,
            3 => self.edit(&mut claimed, self.large).await,
            4 => self.create_again(&mut claimed).await,
            _ => self.edit(&mut claimed, self.large.min(250) / 10 + 3).await,
        };
        self.model.lock().unwrap().release(&claimed);
        result
    }

    /// Writes data to a block that is free.
    async fn write_data(&self, claimed: &mut Vec<u64>) -> Result<u32> {
        let mut page = Block::new()?;
        let (block, event) = {
            let model = &mut *self.model.lock().unwrap();
            let Some(block) = Model::claim(&mut model.busy, &model.free) else {
                return Ok(0);
            };
            claimed.push(block);
            (block, model.push(Event::Writing(block)))
        };
        page.as_mut_slice()[..BLOCK].copy_from_slice(&content(block, event));
        page.write(&self.device, block * BLOCK as u64, 0, BLOCK, true)
            .await?;
        self.model.lock().unwrap().push(Event::Data(event, block));
        Ok(0)
    }

    /// Frees blocks of metadata.
    async fn free(&self, claimed: &mut Vec<u64>) -> Result<u32> {
        {
            let model = &mut *self.model.lock().unwrap();
            for _ in 0..1 + machine::random(self.large / 8 + 1) {
                claimed.extend(Model::claim(&mut model.busy, &model.meta));
            }
        }
        if claimed.is_empty() {
            return Ok(0);
        }
        let credits = Credits {
            blocks: 0,
            revokes: claimed.len() as u32,
            freed: claimed.len() as u32,
        };
        let NotSend(mut tx) = self.begin(credits).await?;
        let tid = tx.tid();
        for block in claimed.iter() {
            {
                let mut model = self.model.lock().unwrap();
                model.push(Event::Free(tid, *block));
                model.meta.remove(block);
                model.held.insert(*block);
            }
            preempt();
            tx.revoke(&self.cache, *block);
            preempt();
            tx.free(*block, 1);
        }
        Ok(tid)
    }

    /// Frees a block of metadata, and makes it one again in the same transaction.
    async fn create_again(&self, claimed: &mut Vec<u64>) -> Result<u32> {
        let block = {
            let model = &mut *self.model.lock().unwrap();
            Model::claim(&mut model.busy, &model.meta)
        };
        let Some(block) = block else { return Ok(0) };
        claimed.push(block);
        let planned = self.cache.plan_new(block).await?;
        let credits = Credits {
            revokes: 1,
            ..Credits::blocks(1)
        };
        let NotSend(mut tx) = self.begin(credits).await?;
        let tid = tx.tid();
        let edit = Event::Edit(tid, None, claimed.clone());
        let event = self.model.lock().unwrap().push(edit);
        tx.revoke(&self.cache, block);
        preempt();
        tx.edit(planned, |to| {
            assert!(to.iter().all(|byte| *byte == 0));
            to.copy_from_slice(&content(block, event));
        });
        Ok(tid)
    }

    /// Edits blocks, new ones among them.
    async fn edit(&self, claimed: &mut Vec<u64>, most: u64) -> Result<u32> {
        let new = {
            let model = &mut *self.model.lock().unwrap();
            for _ in 0..1 + machine::random(most) {
                claimed.extend(Model::claim(&mut model.busy, &model.meta));
            }
            match machine::random(3) {
                0 => Model::claim(&mut model.busy, &model.free),
                _ => None,
            }
        };
        let mut planned = Vec::new();
        for block in claimed.iter() {
            planned.push(self.may_drop(self.cache.plan(*block)).await?);
        }
        if let Some(block) = new {
            claimed.push(block);
            planned.push(self.may_drop(self.cache.plan_new(block)).await?);
        }
        let shared = self.cache.plan(SHARED).await?;
        jitter().await;
        let credits = Credits::blocks(planned.len() as u32 + 1 + machine::random(9) as u32);
        let NotSend(mut tx) = self.begin(credits).await?;
        let tid = tx.tid();
        let event = {
            let mut model = self.model.lock().unwrap();
            for block in claimed.iter() {
                model.free.remove(block);
                model.meta.insert(*block);
            }
            model.push(Event::Edit(tid, Some(self.number), claimed.clone()))
        };
        for planned in planned {
            preempt();
            let bytes = content(planned.block(), event);
            edit(&mut tx, planned, |to| to.copy_from_slice(&bytes));
        }
        preempt();
        edit(&mut tx, shared, |to| {
            to[..4].copy_from_slice(&MAGIC);
            to[slot(self.number)].copy_from_slice(&(event as u64).to_le_bytes());
        });
        preempt();
        Ok(tid)
    }
}

/// Edits a block, whose version others may have.
fn edit(
    tx: &mut aext4::journal::Transaction<'_>,
    planned: Planned,
    change: impl FnOnce(&mut [u8]),
) {
    let before = match machine::random(2) {
        0 => planned.buf(),
        _ => None,
    };
    let old = before.as_ref().map(|buf| buf.data().to_vec());
    tx.edit(planned, change);
    let now = before.as_ref().map(|buf| buf.data().to_vec());
    assert_eq!(now, old, "a version has changed");
}

/// A thread is preempted, while its transaction is open.
fn preempt() {
    if !on_worker() && machine::random(4) == 0 {
        machine::yield_now();
    }
}

/// The test's future is not spawned where this matters: nothing awaits while it is open.
struct NotSend<T>(T);
// SAFETY: As it says.
unsafe impl<T> Send for NotSend<T> {}

/// A state of the disk after a loss of power, how many changes there were, and what was synced.
struct Lost {
    store: Store,
    events: usize,
    synced: u32,
}

/// What a run does.
#[derive(Clone)]
struct Load {
    /// How many upcalls and threads change blocks, and how often.
    tasks: usize,
    threads: usize,
    changes: u64,
    /// How many blocks a change has at most.
    large: u64,
    /// How often the journal is started and stopped.
    mounts: usize,
    /// One in so many requests is followed by a loss of power; 0 for none.
    odds: u64,
    /// The writes that fail.
    faults: Vec<u64>,
    /// The allocations that fail.
    memory: Fail,
    interval: Duration,
    /// Whether the workers drop futures at random.
    drops: bool,
    /// At which poll the loops are dropped, and begin anew: of the commit, and of the checkpoint.
    dropped: [usize; 2],
    /// Whether more blocks are freed, and have data, and requests overtake each other by far.
    reuse: bool,
    /// Whether there is a log, and whether what is written is flushed.
    log: bool,
    barrier: bool,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            tasks: 3,
            threads: 2,
            changes: 30,
            large: 30,
            mounts: 1,
            odds: 0,
            faults: Vec::new(),
            memory: Fail::Never,
            interval: Duration::from_millis(1),
            drops: false,
            reuse: false,
            dropped: [usize::MAX; 2],
            log: true,
            barrier: true,
        }
    }
}

/// What a run leaves.
struct Outcome {
    lost: Vec<Lost>,
    events: Vec<Event>,
    synced: u32,
    /// What is on the disk.
    store: Store,
    /// The first error of one who changes blocks, and of the journal.
    result: Result,
    ended: Result,
    /// How many allocations there were.
    allocations: u64,
    /// How long a transaction waited to begin, at most.
    slowest: Duration,
}

/// Runs upcalls and threads that change blocks, while the power may go at any request.
fn run(base: &Base, config: Config, load: &Load) -> Outcome {
    let seed = config.seed;
    simulate_on(config, base.store.clone(), |bed| {
        let model = Arc::new(Mutex::new(Model::new()));
        let lost = Arc::new(Mutex::new(Vec::new()));
        let (mut result, mut ended) = (Ok(()), Ok(()));
        let mut allocations = 0;
        let mut last = 0;
        for mount in 0..load.mounts {
            let (cache, journal) = block_on(open(bed, load.log)).unwrap();
            journal.0.set_barrier(load.barrier);
            assert!(journal.0.running_tid() > last, "numbers begin anew");
            let space = journal.0.space();
            if mount == 0 {
                bed.device.disk().faults.writes.extend(&load.faults);
                if load.odds > 0 {
                    lose_power(bed, seed, load.odds, &model, &lost);
                }
            }
            if load.reuse {
                bed.device.set_latency(Latency {
                    slow: 4,
                    ..Latency::default()
                });
            }
            let loops = Loops::start(bed, &cache, &journal, &model, load);
            let worker = |number| Worker {
                number,
                device: bed.upcall_device().unwrap(),
                cache: cache.clone(),
                journal: journal.clone(),
                model: model.clone(),
                large: load.large,
                drops: load.drops,
                reuse: load.reuse,
            };
            let tasks: Vec<_> = (0..load.tasks)
                .map(|n| bed.scope().spawn(worker(n).work(load.changes)).unwrap())
                .collect();
            let threads: Vec<_> = (load.tasks..load.tasks + load.threads)
                .map(|n| {
                    let (worker, changes) = (worker(n), load.changes);
                    machine::spawn("worker", move || block_on(worker.work(changes)).unwrap())
                })
                .collect();
            machine::fail_allocations(load.memory);
            for task in tasks {
                result = result.and(block_on(task).unwrap().unwrap());
            }
            for thread in threads {
                result = result.and(thread.join());
            }
            allocations = machine::allocations().0;
            machine::fail_allocations(Fail::Never);
            last = journal.0.running_tid();
            journal.0.stop();
            for end in loops.join() {
                ended = ended.and(end);
            }
            ended = ended.and(block_on(journal.0.empty(&cache)).unwrap());
            if ended.is_err() {
                break;
            }
            assert_eq!(journal.0.space(), space, "blocks of the log");
            // A volume that was stopped has nothing to recover.
            let sb = base.journal_super(bed.device.disk().durable());
            assert!(!sb.needs_recovery());
            if result.is_err() {
                break;
            }
        }
        let lost = core::mem::take(&mut *lost.lock().unwrap());
        let model = model.lock().unwrap();
        let store = match load.barrier {
            true => bed.device.disk().durable().clone(),
            false => bed.device.disk().current().clone(),
        };
        Outcome {
            lost,
            events: model.events.clone(),
            synced: model.synced.load(Relaxed),
            store,
            result,
            ended,
            allocations,
            slowest: Duration::from_nanos(model.slowest),
        }
    })
}

/// Lets the power go after one in `odds` requests, and notes what the disk may have then.
fn lose_power(
    bed: &Bed,
    seed: u64,
    odds: u64,
    model: &Arc<Mutex<Model>>,
    lost: &Arc<Mutex<Vec<Lost>>>,
) {
    let lost = lost.clone();
    // What an interrupt may look at: how many events there are, and what was synced.
    let (count, synced) = {
        let model = model.lock().unwrap();
        (model.count.clone(), model.synced.clone())
    };
    let mut rng = Rng::new(seed);
    bed.device.observe(move |disk| {
        if !rng.one_in(odds) {
            return;
        }
        let all = disk.crash_states(rng.next());
        let share = all.len() as u64 / 6 + 1;
        for crash in all.states().filter(|_| rng.one_in(share)) {
            lost.lock().unwrap().push(Lost {
                store: all.store(crash),
                events: count.load(Relaxed),
                synced: synced.load(Relaxed),
            });
        }
    });
}

/// Recovers what is on a disk.
fn recovered(store: Store) -> Store {
    // Nothing but the recovery runs: requests end when they are submitted.
    let latency = Latency {
        least: 0,
        more: 0,
        slow: 0,
        at_once: 1,
        refused: 0,
    };
    let config = Config {
        interrupts: false,
        memory: 1 << 20,
        ..Config::new(0)
    };
    machine::run(config, || {
        let bed = Bed::with_latency(store, latency).unwrap();
        let recover = async {
            let disk = bed.disk()?;
            let sb = super_block(&disk).await?;
            recovery::recover(&disk, &sb, 1024, false).await
        };
        let result = block_on(recover).unwrap();
        let log = machine::take_log();
        assert_eq!(result, Ok(()), "{log:#?}");
        let store = bed.device.disk().durable().clone();
        drop(bed);
        store
    })
}

/// Recovers, and compares the blocks with what the changes say. Gives what the disk has then.
fn check(base: &Base, lost: Lost, events: &[Event]) -> Store {
    let store = recovered(lost.store);
    let sb = base.journal_super(&store);
    assert!(!sb.needs_recovery());
    let end = sb.sequence;
    assert!(
        lost.synced < end,
        "{} was synced, {end} is lost",
        lost.synced
    );
    compare(base, &store, &events[..lost.events], end);
    store
}

/// Whether each block is as it was after the last transaction before `end`.
fn compare(base: &Base, store: &Store, events: &[Event], end: u32) {
    let mut wanted = vec![Some(0); BLOCKS as usize];
    let mut shared = std::collections::BTreeMap::new();
    for (n, event) in events.iter().enumerate() {
        match event {
            Event::Edit(tid, worker, blocks) if *tid < end => {
                for block in blocks {
                    wanted[(block - FIRST) as usize] = Some(n);
                }
                shared.extend(worker.map(|worker| (worker, n as u64)));
            }
            Event::Free(tid, block) if *tid < end => wanted[(block - FIRST) as usize] = None,
            Event::Writing(block) => wanted[(block - FIRST) as usize] = None,
            Event::Data(of, block) => wanted[(block - FIRST) as usize] = Some(*of),
            _ => {}
        }
    }
    let as_it_was = |block, event| match event {
        0 => base.store.get(block * BLOCK as u64, BLOCK),
        event => content(block, event),
    };
    for (index, event) in wanted.into_iter().enumerate() {
        let block = FIRST + index as u64;
        let Some(event) = event else { continue };
        let found = store.get(block * BLOCK as u64, BLOCK);
        if found != as_it_was(block, event) {
            let which = (0..events.len()).find(|n| as_it_was(block, *n) == found);
            panic!(
                "block {block} is as after change {which:?}, and not {event}, of {}",
                events.len()
            );
        }
    }
    let found = store.get(SHARED * BLOCK as u64, BLOCK);
    for (worker, event) in shared {
        let number = u64::from_le_bytes(found[slot(worker)].try_into().unwrap());
        assert_eq!(number, event, "what worker {worker} changed");
    }
}

const KINDS: [&str; 3] = [
    "-b 1024 -J size=1 -O metadata_csum,64bit",
    "-b 1024 -J size=1 -O ^metadata_csum,^64bit",
    "-b 1024 -J size=1 -O metadata_csum,^64bit,^extent",
];

#[test]
fn what_was_synced_survives_a_loss_of_power() {
    let dir = Scratch::new("journal");
    let runs = sim::count("UPCALL_CRASHES", 40);
    let (mut states, mut judged) = (0, 0);
    let mut spent = Duration::ZERO;
    for (n, options) in KINDS.iter().enumerate() {
        let base = Base::new(&dir, options);
        for seed in 0..runs {
            let load = Load {
                odds: 6,
                mounts: 1 + (seed % 4 == 0) as usize,
                large: [6, 30, 200][seed as usize % 3],
                ..Load::default()
            };
            let config = varied(seed * 3 + n as u64);
            let outcome = run(&base, config, &load);
            assert_eq!((outcome.result, outcome.ended), (Ok(()), Ok(())));
            compare(&base, &outcome.store, &outcome.events, u32::MAX);
            base.check_log(&outcome.store);
            states += outcome.lost.len() as u64;
            let begun = std::time::Instant::now();
            for (i, lost) in outcome.lost.into_iter().enumerate() {
                let before = (i % 400 == 7).then(|| lost.store.clone());
                let ours = check(&base, lost, &outcome.events);
                if let Some(before) = before {
                    // e2fsck does the same.
                    let image = Image::write(dir.path("lost.img"), &before);
                    image.replay();
                    let theirs = image.bytes();
                    let at = FIRST as usize * BLOCK;
                    assert!(theirs[at..] == ours.get(at as u64, theirs.len() - at)[..]);
                    judged += 1;
                }
            }
            spent += begun.elapsed();
        }
    }
    println!(
        "{states} crash states, {:?} each; e2fsck judged {judged}",
        spent / states as u32
    );
    assert!(states > runs * 30 && judged > runs / 4, "{states} {judged}");
}

/// Checks what a run has left, which is to lose nothing that was synced.
fn check_last(base: &Base, outcome: Outcome) {
    let lost = Lost {
        store: outcome.store,
        events: outcome.events.len(),
        synced: outcome.synced,
    };
    check(base, lost, &outcome.events);
}

#[test]
fn a_write_that_fails_aborts_and_loses_nothing() {
    let dir = Scratch::new("journal-faults");
    let base = Base::new(&dir, KINDS[0]);
    let mut failed = 0;
    for nth in 0..120 {
        let load = Load {
            faults: vec![nth * 3],
            ..Load::default()
        };
        let outcome = run(&base, Config::new(nth), &load);
        failed += u64::from(matches!(outcome.ended, Err(EIO | EROFS)));
        check_last(&base, outcome);
    }
    assert!(failed > 40, "{failed}");
}

/// Whoever plans or begins may fail for lack of memory; the journal goes on.
#[test]
fn an_allocation_that_fails_does_not_stop_the_journal() {
    let dir = Scratch::new("journal-memory");
    let base = Base::new(&dir, KINDS[0]);
    let (mut nth, mut failed) = (0, 0);
    loop {
        let load = Load {
            changes: 10,
            memory: Fail::Nth(nth),
            ..Load::default()
        };
        let outcome = run(&base, Config::new(1), &load);
        assert_eq!(outcome.ended, Ok(()), "allocation {nth}");
        assert!(matches!(outcome.result, Ok(()) | Err(ENOMEM)));
        compare(&base, &outcome.store, &outcome.events, u32::MAX);
        failed += u64::from(outcome.result.is_err());
        if outcome.allocations <= nth {
            break;
        }
        // All of the first ones, and then some.
        nth += 1 + nth / 100;
    }
    assert!(nth > 500 && failed > 10, "{nth} {failed}");
}

#[test]
fn short_memory_stops_nobody() {
    let dir = Scratch::new("journal-short");
    let base = Base::new(&dir, KINDS[0]);
    for seed in 0..20 {
        let load = Load {
            memory: [Fail::Short(2), Fail::Short(50), Fail::Atomic(3)][seed as usize % 3],
            ..Load::default()
        };
        let outcome = run(&base, Config::new(seed), &load);
        assert!(matches!(outcome.result, Ok(()) | Err(ENOMEM)));
        assert_eq!(outcome.ended, Ok(()));
        compare(&base, &outcome.store, &outcome.events, u32::MAX);
    }
}

#[test]
fn futures_that_are_dropped_leave_nothing() {
    let dir = Scratch::new("journal-drops");
    let base = Base::new(&dir, KINDS[0]);
    for seed in 0..60 {
        let load = Load {
            drops: true,
            large: [6, 200][seed as usize % 2],
            ..Load::default()
        };
        let outcome = run(&base, varied(seed), &load);
        assert_eq!((outcome.result, outcome.ended), (Ok(()), Ok(())));
        compare(&base, &outcome.store, &outcome.events, u32::MAX);
    }
}

/// A commit or a checkpoint that is dropped on its way aborts the journal: nobody waits for it, and
/// what is not home stays in the log.
#[test]
fn a_commit_or_a_checkpoint_that_is_dropped_loses_nothing() {
    let dir = Scratch::new("journal-dropped");
    let base = Base::new(&dir, KINDS[0]);
    let mut aborted = [0; 2];
    for polls in 0..80 {
        for which in 0..2 {
            let mut dropped = [usize::MAX; 2];
            dropped[which] = polls;
            let load = Load {
                dropped,
                large: 100,
                ..Load::default()
            };
            let outcome = run(&base, Config::new(polls as u64), &load);
            aborted[which] += usize::from(outcome.ended.is_err());
            check_last(&base, outcome);
        }
    }
    assert!(aborted.iter().all(|n| *n > 10), "{aborted:?}");
}

/// Nobody waits for the timer of the commit if the log is full.
#[test]
fn a_small_log_has_space_soon() {
    let dir = Scratch::new("journal-small");
    let base = Base::new(&dir, KINDS[0]);
    let mut waited = Duration::ZERO;
    for seed in 0..30 {
        let load = Load {
            tasks: 8,
            threads: 4,
            changes: 60,
            large: 250,
            interval: Duration::from_secs(50),
            memory: [Fail::Short(4), Fail::Atomic(2), Fail::Never][seed as usize % 3],
            ..Load::default()
        };
        // An interrupt may come early, and the clock goes on to it: no measure of a wait.
        let config = Config {
            interrupts: false,
            ..Config::new(seed)
        };
        let outcome = run(&base, config, &load);
        assert!(matches!(outcome.result, Ok(()) | Err(ENOMEM)));
        assert_eq!(outcome.ended, Ok(()));
        assert!(
            outcome.slowest < Duration::from_secs(10),
            "seed {seed}: {:?}",
            outcome.slowest
        );
        waited = waited.max(outcome.slowest);
        compare(&base, &outcome.store, &outcome.events, u32::MAX);
    }
    println!("the longest wait: {waited:?}");
}

/// An old write of metadata does not come behind the data that the block has since.
#[test]
fn freed_blocks_are_not_written_home_later() {
    let dir = Scratch::new("journal-reuse");
    let base = Base::new(&dir, KINDS[0]);
    for seed in 0..60 {
        let load = Load {
            tasks: 6,
            changes: 50,
            large: 120,
            reuse: true,
            ..Load::default()
        };
        let outcome = run(&base, Config::new(seed), &load);
        assert_eq!((outcome.result, outcome.ended), (Ok(()), Ok(())));
        compare(&base, &outcome.store, &outcome.events, u32::MAX);
    }
}

#[test]
fn without_a_log_or_without_flushes_all_is_written() {
    let dir = Scratch::new("journal-nolog");
    let base = Base::new(&dir, KINDS[1]);
    for seed in 0..20 {
        let load = Load {
            log: seed % 2 == 0,
            barrier: seed % 4 == 1,
            mounts: 1,
            ..Load::default()
        };
        let outcome = run(&base, varied(seed), &load);
        assert_eq!((outcome.result, outcome.ended), (Ok(()), Ok(())));
        compare(&base, &outcome.store, &outcome.events, u32::MAX);
    }
}
