// SPDX-License-Identifier: GPL-2.0

//! The journal on a disk that loses power: what was synced is there, and all of it as it was after some
//! transaction.

use aext4::journal::{Credits, Journal, Log};
use aext4::{recovery, Options};
use disk::Cache;
use kernel::machine::{self, Config, Rng};
use kernel::prelude::*;
use layout::journal::JournalSuper;
use layout::SuperBlock;
use sim::e2fs::{Image, Scratch};
use sim::volume::Volume;
use sim::{simulate_on, varied, Bed};
use simdisk::Store;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use upcall::simulation::jitter;
use upcall::{block_on, Block, Device};

const SIZE: u64 = 8 << 20;
const BLOCK: usize = 1024;
/// How many blocks the transactions are about: the last ones of the volume.
const BLOCKS: u64 = 120;
const FIRST: u64 = SIZE / BLOCK as u64 - BLOCKS - 1;

/// A change, in the order in which they were made.
#[derive(Clone)]
enum Event {
    /// These blocks have the content of this change.
    Edit(u32, Vec<u64>),
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
    /// Blocks that somebody is about to change.
    busy: BTreeSet<u64>,
    meta: BTreeSet<u64>,
    free: BTreeSet<u64>,
    /// Freed, and not durable.
    held: BTreeSet<u64>,
}

impl Model {
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
}

/// What a block has after change number `event`.
fn content(block: u64, event: usize) -> Vec<u8> {
    let mut rng = Rng::new(block << 32 | event as u64);
    let mut bytes: Vec<u8> = (0..BLOCK / 8)
        .flat_map(|_| rng.next().to_le_bytes())
        .collect();
    if (block + event as u64) % 5 == 0 {
        // What looks like a block of the log's own.
        bytes[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
    }
    bytes
}

/// An image with an empty journal, that says that it needs recovery.
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
        for block in FIRST..FIRST + BLOCKS {
            store.write(block * BLOCK as u64, &content(block, 0));
        }
        Self { store, journal }
    }
}

async fn open(bed: &Bed) -> (Cache, Arc<Journal_>) {
    let disk = bed.disk().unwrap();
    let mut raw = [0; 1024];
    disk.read_raw(1024, 1024, |bytes| raw.copy_from_slice(bytes))
        .await
        .unwrap();
    let sb = SuperBlock::parse(&raw, 1, CRC).unwrap();
    let cache = Cache::new(&disk, BLOCK as u32).unwrap();
    let inode = recovery::journal_inode(&cache, &sb).await.ok().flatten();
    let inode = inode.expect("the inode of the journal");
    let log = Log::open(&disk, &cache, &sb.geo, &inode).await;
    let log = log.ok().expect("a journal");
    let csum = sb.geo.csum().metadata();
    let wide = sb.geo.has_incompat(layout::Incompat::B64);
    let journal = Journal::start(Some(log), &cache, wide, csum).await.unwrap();
    (cache, Arc::new(Journal_(journal)))
}

/// A journal that the host's `Arc` has.
struct Journal_(kernel::sync::Arc<Journal>);

const CRC: layout::CrcFns = layout::CrcFns {
    crc32c: disk::checksum::crc32c,
    crc16: disk::checksum::crc16,
};

/// One change.
async fn change(
    device: &Device,
    cache: &Cache,
    journal: &Journal,
    model: &Mutex<Model>,
) -> Result<u32> {
    jitter().await;
    let kind = machine::random(10);
    match kind {
        0 => {
            // Data, of a block that is free.
            let block = {
                let model = &mut *model.lock().unwrap();
                Model::claim(&mut model.busy, &model.free)
            };
            let Some(block) = block else { return Ok(0) };
            let mut page = Block::new()?;
            let event = {
                let mut model = model.lock().unwrap();
                model.free.remove(&block);
                model.push(Event::Writing(block))
            };
            page.as_mut_slice()[..BLOCK].copy_from_slice(&content(block, event));
            let written = page
                .write(&device, block * BLOCK as u64, 0, BLOCK, true)
                .await;
            let mut model = model.lock().unwrap();
            if written.is_ok() {
                model.push(Event::Data(event, block));
            }
            model.free.insert(block);
            model.busy.remove(&block);
            written?;
            Ok(0)
        }
        1 | 2 => {
            let block = {
                let model = &mut *model.lock().unwrap();
                Model::claim(&mut model.busy, &model.meta)
            };
            let Some(block) = block else { return Ok(0) };
            let credits = Credits {
                blocks: 0,
                revokes: 1,
                freed: 1,
            };
            let begun = journal.begin(cache, credits).await;
            let mut model = model.lock().unwrap();
            model.busy.remove(&block);
            let mut tx = begun?;
            tx.revoke(cache, block);
            tx.free(block, 1);
            model.push(Event::Free(tx.tid(), block));
            model.meta.remove(&block);
            model.held.insert(block);
            Ok(tx.tid())
        }
        _ => {
            let (old, new) = {
                let model = &mut *model.lock().unwrap();
                let count = 1 + machine::random(if kind == 3 { 30 } else { 6 });
                let mut old = Vec::new();
                for _ in 0..count {
                    old.extend(Model::claim(&mut model.busy, &model.meta));
                }
                let new = match machine::random(3) {
                    0 => Model::claim(&mut model.busy, &model.free),
                    _ => None,
                };
                (old, new)
            };
            let release = |model: &mut Model| {
                for block in old.iter().chain(&new) {
                    model.busy.remove(block);
                }
            };
            let planned = async {
                let mut planned = Vec::new();
                for block in &old {
                    planned.push(cache.plan(*block).await?);
                }
                if let Some(block) = new {
                    planned.push(cache.plan_new(block).await?);
                }
                jitter().await;
                let tx = journal
                    .begin(cache, Credits::blocks(planned.len() as u32))
                    .await?;
                Ok::<_, Error>((planned, NotSend(tx)))
            };
            let planned = planned.await;
            let mut model = model.lock().unwrap();
            release(&mut model);
            let (planned, NotSend(mut tx)) = planned?;
            let event = model.events.len();
            let mut blocks = Vec::new();
            for planned in planned {
                let block = planned.block();
                let before = planned.buf().unwrap();
                let old = before.data().to_vec();
                tx.edit(planned, |bytes| {
                    bytes.copy_from_slice(&content(block, event))
                });
                assert_eq!(before.data(), old, "a version has changed");
                blocks.push(block);
                model.free.remove(&block);
                model.meta.insert(block);
            }
            model.push(Event::Edit(tx.tid(), blocks));
            Ok(tx.tid())
        }
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

/// Runs tasks that change blocks, while the power may go at any request.
fn run(base: &Base, config: Config, odds: u64, faults: &[u64]) -> (Vec<Lost>, Vec<Event>, Store) {
    let seed = config.seed;
    simulate_on(config, base.store.clone(), |bed| {
        let model = Arc::new(Mutex::new(Model::default()));
        {
            let mut model = model.lock().unwrap();
            model
                .events
                .push(Event::Edit(0, (FIRST..FIRST + BLOCKS).collect()));
            model.meta = (FIRST..FIRST + BLOCKS).collect();
        }
        let (cache, journal) = block_on(open(bed)).unwrap();
        let cache = Arc::new(cache);
        bed.device.disk().faults.writes.extend(faults);
        let lost = Arc::new(Mutex::new(Vec::new()));
        // What an interrupt may look at: how many events there are, and what was synced.
        let seen = Arc::new((model.lock().unwrap().count.clone(), AtomicU32::new(0)));
        if odds > 0 {
            let (lost, seen) = (lost.clone(), seen.clone());
            let mut rng = Rng::new(seed);
            bed.device.observe(move |disk| {
                if !rng.one_in(odds) {
                    return;
                }
                let all = disk.crash_states(rng.next());
                let share = all.len() as u64 / 6 + 1;
                for (_, store) in all.iter().filter(|_| rng.one_in(share)) {
                    lost.lock().unwrap().push(Lost {
                        store,
                        events: seen.0.load(Relaxed),
                        synced: seen.1.load(Relaxed),
                    });
                }
            });
        }
        let commits = {
            let (cache, journal, model) = (cache.clone(), journal.clone(), model.clone());
            bed.scope().spawn(async move {
                let ended = |committed: aext4::journal::Committed| {
                    let mut model = model.lock().unwrap();
                    for freed in &committed.freed {
                        assert!(model.held.remove(&freed.start));
                        model.free.insert(freed.start);
                    }
                };
                let interval = || Duration::from_millis(1);
                journal.0.commit_loop(&cache, interval, ended).await
            })
        };
        let home = {
            let (cache, journal) = (cache.clone(), journal.clone());
            bed.scope()
                .spawn(async move { journal.0.checkpoint_loop(&cache).await })
        };
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (cache, journal, model) = (cache.clone(), journal.clone(), model.clone());
                let device = bed.upcall_device().unwrap();
                let seen = seen.clone();
                let work = async move {
                    for _ in 0..40 {
                        let tid = change(&device, &cache, &journal.0, &model).await?;
                        if tid != 0 && machine::random(4) == 0 {
                            journal.0.sync(tid).await?;
                            seen.1.fetch_max(tid, Relaxed);
                        }
                        if machine::random(10) == 0 {
                            cache.shrink(1000);
                        }
                    }
                    Ok::<_, Error>(())
                };
                bed.scope().spawn(work).unwrap()
            })
            .collect();
        let mut failed = false;
        for task in tasks {
            match block_on(task).unwrap().unwrap() {
                Ok(()) => {}
                Err(error) => {
                    assert!(
                        !faults.is_empty() && (error == EIO || error == EROFS),
                        "{error:?}"
                    );
                    failed = true;
                }
            }
        }
        journal.0.stop();
        let ends = [commits, home].map(|task| block_on(task.unwrap()).unwrap().unwrap());
        let emptied = block_on(journal.0.empty(&cache)).unwrap();
        if faults.is_empty() {
            assert_eq!((ends, emptied), ([Ok(()), Ok(())], Ok(())));
        }
        let _ = failed;
        let last = model.lock().unwrap();
        let store = bed.device.disk().durable().clone();
        if faults.is_empty() {
            // A volume that was stopped has nothing to recover.
            let raw = store.get(base.journal, 1024);
            let sb = JournalSuper::parse(&raw, BLOCK as u32, 1024, CRC.crc32c).unwrap();
            assert!(!sb.needs_recovery());
        }
        drop(cache);
        let lost = core::mem::take(&mut *lost.lock().unwrap());
        (lost, last.events.clone(), store)
    })
}

/// Recovers, and compares the blocks with what the changes say.
fn check(base: &Base, lost: Lost, events: &[Event], seed: u64) {
    let mut config = Config::new(seed);
    config.memory = 1 << 30;
    let store = simulate_on(config, lost.store, |bed| {
        let volume = block_on(Volume::mount(bed, Options::default())).unwrap();
        drop(volume.expect("it is recovered"));
        machine::settle();
        machine::take_log();
        bed.device.disk().durable().clone()
    });
    let raw = store.get(base.journal, 1024);
    let sb = JournalSuper::parse(&raw, BLOCK as u32, 1024, CRC.crc32c).unwrap();
    assert!(!sb.needs_recovery());
    let end = sb.sequence;
    assert!(
        lost.synced < end,
        "{} was synced, {end} is lost",
        lost.synced
    );
    compare(&store, &events[..lost.events], end);
}

/// Whether each block is as it was after the last transaction before `end`.
fn compare(store: &Store, events: &[Event], end: u32) {
    let mut wanted = vec![None; BLOCKS as usize];
    for (n, event) in events.iter().enumerate() {
        match event {
            Event::Edit(tid, blocks) if *tid < end => {
                for block in blocks {
                    wanted[(block - FIRST) as usize] = Some(n);
                }
            }
            Event::Free(tid, block) if *tid < end => wanted[(block - FIRST) as usize] = None,
            Event::Writing(block) => wanted[(block - FIRST) as usize] = None,
            Event::Data(of, block) => wanted[(block - FIRST) as usize] = Some(*of),
            _ => {}
        }
    }
    for (index, event) in wanted.into_iter().enumerate() {
        let block = FIRST + index as u64;
        if let Some(event) = event {
            let found = store.get(block * BLOCK as u64, BLOCK);
            let which = (0..events.len()).find(|n| content(block, *n) == found);
            assert_eq!(
                which,
                Some(event),
                "block {block}, of {} changes",
                events.len()
            );
        }
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
    let mut states = 0;
    for (n, options) in KINDS.iter().enumerate() {
        let base = Base::new(&dir, options);
        for seed in 0..runs {
            let (lost, events, last) = run(&base, varied(seed * 3 + n as u64), 6, &[]);
            compare(&last, &events, u32::MAX - 1);
            states += lost.len();
            for (i, lost) in lost.into_iter().enumerate() {
                check(&base, lost, &events, i as u64);
            }
        }
    }
    println!("{states} crash states");
    assert!(states as u64 > runs * 30, "{states}");
}

#[test]
fn a_write_that_fails_aborts_and_loses_nothing() {
    let dir = Scratch::new("journal-faults");
    let base = Base::new(&dir, KINDS[0]);
    for nth in 0..60 {
        let (_, events, store) = run(&base, Config::new(nth), 0, &[nth * 3]);
        let lost = Lost {
            store,
            events: events.len(),
            synced: 0,
        };
        check(&base, lost, &events, nth);
    }
}
