// SPDX-License-Identifier: GPL-2.0

//! The allocators on a machine with a disk: nothing is given twice, nothing is lost, and the disk
//! says what memory says.

use aext4::alloc::inodes::Hint;
use aext4::alloc::{
    Allocator, Counters, Goal, Groups, InodeFree, Kept, Loan, Reservation, Space, Watch, Window,
};
use aext4::journal::{Credits, Freed, Journal, Log};
use aext4::recovery;
use disk::Cache;
use kernel::alloc::KVVec;
use kernel::machine::{self, Config, Fail, Rng};
use kernel::prelude::*;
use layout::bitmap::{clear_range, count_free, free_runs, mark_range, pad};
use layout::group::{bit, Zone};
use layout::group_edit::{init_block_bitmap, init_inode_bitmap};
use layout::inode_edit::new_extra_isize;
use layout::{Geometry, Group, GroupDesc, GroupEdit, Ino, InodeEdit, Pblk, SuperBlock, SuperEdit};
use sim::e2fs::{Image, Scratch};
use sim::{dropped_after, simulate_on, varied, Bed};
use simdisk::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use upcall::block_on;
use upcall::simulation::jitter;

const CRC: layout::CrcFns = layout::CrcFns {
    crc32c: disk::checksum::crc32c,
    crc16: disk::checksum::crc16,
};

/// What the volume says of itself, and what was reported.
struct Reports {
    zones: Vec<Zone>,
    lines: Mutex<Vec<String>>,
}

impl Watch for Reports {
    fn may_use_reserve(&self) -> bool {
        false
    }

    fn report_unread(&self, block: u64, error: Error) {
        self.report(&format_args!("block {block}: {error:?}"));
    }

    fn is_system_block(&self, start: Pblk, len: u32) -> bool {
        let end = start.0 + u64::from(len);
        let before = self.zones.partition_point(|zone| zone.start.0 < end);
        self.zones[..before]
            .iter()
            .rev()
            .take(64)
            .any(|zone| zone.start.0 + zone.len > start.0)
    }

    fn report(&self, what: &dyn fmt::Display) {
        self.lines.lock().unwrap().push(what.to_string());
    }
}

/// A volume that is mounted for writing.
struct Vol {
    sb: SuperBlock,
    cache: Cache,
    journal: kernel::sync::Arc<Journal>,
    groups: kernel::sync::Arc<Groups>,
    reports: Reports,
}

impl Vol {
    async fn open(bed: &Bed, kept: Kept) -> Result<Self> {
        let disk = bed.disk()?;
        let mut raw = [0; 1024];
        disk.read_raw(1024, 1024, |bytes| raw.copy_from_slice(bytes))
            .await?;
        let sb = SuperBlock::parse(&raw, 1, CRC).expect("a superblock");
        let geo = &sb.geo;
        let cache = Cache::new(&disk, geo.block_size())?;
        let mut log = None;
        if sb.journal_ino.is_some() {
            let inode = recovery::journal_inode(&cache, &sb).await;
            let inode = inode.map_err(|_| EIO)?.expect("the inode of the journal");
            log = Some(
                Log::open(&disk, &cache, geo, &inode)
                    .await
                    .map_err(|_| EIO)?,
            );
        }
        let wide = geo.has_incompat(layout::Incompat::B64);
        let journal = Journal::start(log, &cache, wide, geo.csum().metadata()).await?;
        let mut descs = KVVec::new();
        for group in (0..geo.groups()).map(Group) {
            let (block, offset) = geo.desc_location(group).expect("a descriptor");
            let buf = cache.read(block.0, block.0..block.0).await?;
            let raw = &buf.data()[offset as usize..];
            GroupDesc::verify(raw, group, geo).expect("a sound descriptor");
            descs.push(
                GroupDesc::parse(raw, group, geo).expect("a descriptor"),
                disk::gfp(),
            )?;
        }
        let mut zones: Vec<Zone> = descs.iter().flat_map(|desc| desc.zones(geo)).collect();
        zones.retain(|zone| zone.len > 0);
        zones.sort_by_key(|zone| zone.start.0);
        let groups = Groups::load(&cache, geo, descs, sb.groups_per_flex, kept).await?;
        Ok(Self {
            sb,
            cache,
            journal,
            groups,
            reports: Reports {
                zones,
                lines: Mutex::default(),
            },
        })
    }

    fn alloc(&self) -> Allocator<'_> {
        Allocator {
            cache: &self.cache,
            groups: &self.groups,
            journal: Some(&self.journal),
            watch: &self.reports,
        }
    }

    async fn loan(&self, goal: Goal, want: u32, min: u32) -> Result<Loan> {
        self.alloc()
            .loan_blocks(goal, want, min, &mut Space::Must)
            .await
    }

    /// Makes loans real in one transaction. Gives its number.
    async fn apply(&self, loans: Vec<Loan>) -> Result<u32> {
        let credits = Credits::blocks(2 * loans.len() as u32);
        let tx = NotSend(self.journal.begin(&self.cache, credits).await?);
        let NotSend(mut tx) = tx;
        for loan in loans {
            loan.apply(&mut tx);
        }
        Ok(tx.tid())
    }

    async fn free(&self, start: u64, count: u32) -> Result<u32> {
        let plan = self.alloc().plan_free(Pblk(start), count).await?;
        let tx = NotSend(self.journal.begin(&self.cache, plan.credits()).await?);
        let NotSend(mut tx) = tx;
        plan.apply(&mut tx);
        Ok(tx.tid())
    }

    /// Takes an inode, and writes it.
    async fn create(&self, parent: Ino, hint: Hint) -> Result<Ino> {
        let loan = self.alloc().loan_inode(parent, hint).await?;
        jitter().await;
        let (block, offset) = loan.place().expect("a place");
        let table = self.cache.plan(block.0).await?;
        let mut credits = loan.credits();
        credits.blocks += 1;
        let tx = NotSend(self.journal.begin(&self.cache, credits).await?);
        let NotSend(mut tx) = tx;
        let ino = loan.ino();
        loan.apply(&mut tx);
        let geo = &self.sb.geo;
        tx.edit(table, |bytes| {
            let raw = &mut bytes[offset as usize..];
            assert_eq!(&raw[0x1a..0x1c], &[0, 0], "inode {} has links", ino.0);
            let extra = new_extra_isize(&self.sb);
            let mut edit = InodeEdit::init(raw, extra, geo).expect("an inode");
            edit.set_mode(if hint.dir { 0o040755 } else { 0o100644 });
            edit.set_links(1 + u16::from(hint.dir));
            edit.seal(ino);
        });
        Ok(ino)
    }

    async fn remove(&self, ino: Ino, dir: bool) -> Result<u32> {
        let free = self.alloc().plan_free_inode(ino, dir).await?;
        let geo = &self.sb.geo;
        let (group, index) = geo.inode_index(ino).expect("an inode");
        let desc = self.groups.desc(group).expect("a group");
        let (block, offset) = desc.inode_location(index, geo).expect("a place");
        let table = self.cache.plan(block.0).await?;
        let mut credits = InodeFree::CREDITS;
        credits.blocks += 1;
        let tx = NotSend(self.journal.begin(&self.cache, credits).await?);
        let NotSend(mut tx) = tx;
        tx.edit(table, |bytes| {
            let mut edit = InodeEdit::new(&mut bytes[offset as usize..], geo).expect("an inode");
            assert_eq!(edit.links(), 1 + u16::from(dir), "inode {}", ino.0);
            edit.clear(disk::time::now().secs as u32);
            edit.seal(ino);
        });
        free.apply(&mut tx);
        Ok(tx.tid())
    }
}

/// The tests' futures are spawned; they do not await while a transaction is open.
struct NotSend<T>(T);
// SAFETY: As it says.
unsafe impl<T> Send for NotSend<T> {}

/// The bitmaps of a disk, with those of groups that have none.
struct Bitmaps {
    sb: SuperBlock,
    blocks: Vec<Vec<u8>>,
    inodes: Vec<Vec<u8>>,
    descs: Vec<GroupDesc>,
}

impl Bitmaps {
    /// The shape of the volume on a disk.
    fn shape(store: &Store) -> Geometry {
        let sb = SuperBlock::parse(&store.get(1024, 1024), 1, CRC);
        sb.unwrap().geo
    }

    /// Those of a disk.
    fn read(store: &Store) -> Self {
        let sb = SuperBlock::parse(&store.get(1024, 1024), 1, CRC).unwrap();
        let size = sb.geo.block_size() as usize;
        Self::new(sb, |block| store.get(block.0 * size as u64, size))
    }

    /// Those of a volume that is mounted.
    fn live(vol: &Vol) -> Self {
        Self::new(vol.sb, |block| {
            let read = vol.cache.read(block.0, block.0..block.0);
            block_on(read).unwrap().unwrap().data().to_vec()
        })
    }

    /// Reads them, and checks them against descriptors and checksums.
    fn new(sb: SuperBlock, get: impl Fn(Pblk) -> Vec<u8>) -> Self {
        let geo = &sb.geo;
        let (mut blocks, mut inodes, mut descs) = (Vec::new(), Vec::new(), Vec::new());
        for group in (0..geo.groups()).map(Group) {
            let (block, offset) = geo.desc_location(group).unwrap();
            let raw = get(block).split_off(offset as usize);
            GroupDesc::verify(&raw, group, geo).unwrap();
            let desc = GroupDesc::parse(&raw, group, geo).unwrap();
            let mut bits = get(desc.block_bitmap);
            desc.verify_block_bitmap(&bits, geo).unwrap();
            if desc.has_flag(GroupDesc::BLOCK_UNINIT, geo) {
                init_block_bitmap(&mut bits, &desc, geo).unwrap();
            }
            let free = count_free(&bits, geo.group_clusters(group));
            assert_eq!(free, desc.free_clusters, "free blocks of group {}", group.0);
            blocks.push(bits);
            let mut bits = get(desc.inode_bitmap);
            desc.verify_inode_bitmap(&bits, geo).unwrap();
            if desc.has_flag(GroupDesc::INODE_UNINIT, geo) {
                init_inode_bitmap(&mut bits, geo).unwrap();
            } else {
                assert!(!desc.has_flag(GroupDesc::BLOCK_UNINIT, geo));
            }
            let free = count_free(&bits, geo.inodes_per_group().get());
            assert_eq!(free, desc.free_inodes, "free inodes of group {}", group.0);
            inodes.push(bits);
            descs.push(desc);
        }
        Self {
            sb,
            blocks,
            inodes,
            descs,
        }
    }

    fn geo(&self) -> &Geometry {
        &self.sb.geo
    }

    fn free_blocks(&self) -> BTreeSet<u64> {
        let mut all = BTreeSet::new();
        for (n, bits) in self.blocks.iter().enumerate() {
            let group = Group(n as u32);
            let first = self.geo().group_first_block(group).0;
            for run in free_runs(bits, 0, self.geo().group_clusters(group)) {
                all.extend(first + u64::from(run.start)..first + u64::from(run.end()));
            }
        }
        all
    }

    fn is_free(&self, ino: Ino) -> bool {
        let (group, index) = self.geo().inode_index(ino).unwrap();
        bit(&self.inodes[group.0 as usize], index) == Some(false)
    }

    /// What the counters of an idle volume say.
    fn counters(&self) -> Counters {
        let sum = |f: fn(&GroupDesc) -> u32| self.descs.iter().map(|desc| u64::from(f(desc))).sum();
        Counters {
            free: sum(|desc| desc.free_clusters),
            usable: sum(|desc| desc.free_clusters),
            free_inodes: sum(|desc| desc.free_inodes),
            usable_inodes: sum(|desc| desc.free_inodes),
            dirs: sum(|desc| desc.used_dirs),
            ..Counters::default()
        }
    }
}

/// Writes the totals to the superblock, as a volume does when it is unmounted.
fn write_totals(store: &mut Store, counters: &Counters, sb: &SuperBlock) {
    let mut raw = store.get(1024, 1024);
    let mut edit = SuperEdit::new(&mut raw).unwrap();
    edit.set_free_blocks(counters.free);
    edit.set_free_inodes(counters.free_inodes as u32);
    edit.seal(sb.geo.csum());
    store.write(1024, &raw);
}

/// What the test thinks.
#[derive(Default)]
struct Model {
    free: BTreeSet<u64>,
    loaned: BTreeSet<u64>,
    held: BTreeSet<u64>,
    /// Runs that the tasks have: start and length.
    mine: Vec<(u64, u32)>,
    /// Inodes that the tasks have, and whether they are directories.
    inodes: BTreeMap<u32, bool>,
    /// Runs of the model, and when they were freed.
    freed: usize,
    dropped: usize,
}

impl Model {
    fn take(&mut self, loan: &Loan) {
        for block in loan.start().0..loan.start().0 + u64::from(loan.len()) {
            assert!(!self.held.contains(&block), "block {block} is held");
            assert!(self.free.remove(&block), "block {block} is not free");
            self.loaned.insert(block);
        }
    }

    fn give_back(&mut self, loan: &Loan) {
        for block in loan.start().0..loan.start().0 + u64::from(loan.len()) {
            assert!(self.loaned.remove(&block));
            self.free.insert(block);
        }
    }

    fn own(&mut self, start: u64, len: u32) {
        for block in start..start + u64::from(len) {
            assert!(self.loaned.remove(&block));
        }
        self.mine.push((start, len));
    }

    fn release(&mut self, freed: &Freed) {
        for block in freed.start..freed.start + u64::from(freed.count) {
            assert!(self.held.remove(&block), "block {block} was not held");
            self.free.insert(block);
        }
    }
}

/// The background of a volume.
struct Loops(Vec<upcall::JoinHandle<Result>>);

impl Loops {
    fn start(bed: &Bed, vol: &Arc<Vol>, model: Option<Arc<Mutex<Model>>>) -> Result<Self> {
        let commits = {
            let vol = vol.clone();
            bed.scope().spawn(async move {
                let ended = |committed: aext4::journal::Committed<'_>| {
                    for freed in &committed.freed {
                        if let Some(model) = &model {
                            model.lock().unwrap().release(freed);
                        }
                        vol.groups.release(freed);
                    }
                };
                let interval = || Duration::from_millis(1);
                vol.journal.commit_loop(&vol.cache, interval, ended).await
            })?
        };
        let home = {
            let vol = vol.clone();
            bed.scope()
                .spawn(async move { vol.journal.checkpoint_loop(&vol.cache).await })?
        };
        Ok(Self(vec![commits, home]))
    }

    /// Stops, and makes the disk whole.
    fn stop(self, vol: &Vol) -> Result {
        vol.journal.stop();
        for task in self.0 {
            block_on(task).unwrap().unwrap()?;
        }
        block_on(vol.journal.empty(&vol.cache)).unwrap()
    }
}

/// One operation of a task.
async fn operate(vol: &Vol, model: &Mutex<Model>, last: &mut u64) -> Result {
    jitter().await;
    let geo = &vol.sb.geo;
    let alloc = vol.alloc();
    match machine::random(10) {
        0..=3 => {
            let mut loans = Vec::new();
            for _ in 0..1 + machine::random(3) {
                let goal = match machine::random(3) {
                    0 => Goal::behind(Pblk(*last)),
                    _ => Goal {
                        block: Pblk(machine::random(geo.blocks_count() + 10)),
                        behind: machine::random(2) == 0,
                    },
                };
                let want = 1 + machine::random(300) as u32;
                let min = 1 + machine::random(want.min(4).into()) as u32;
                // Some give up on the way.
                let polls = match machine::random(4) {
                    0 => machine::random(6) as usize,
                    _ => usize::MAX,
                };
                let mut loan = match dropped_after(polls, vol.loan(goal, want, min)).await {
                    None => continue,
                    Some(Err(error)) if error == ENOSPC => continue,
                    Some(loan) => loan?,
                };
                assert!((min..=want).contains(&loan.len()));
                *last = loan.start().0 + u64::from(loan.len()) - 1;
                model.lock().unwrap().take(&loan);
                if loan.len() > 1 && machine::random(4) == 0 {
                    let len = 1 + machine::random(u64::from(loan.len()) - 1) as u32;
                    loans.push(alloc.split(&mut loan, len).await?);
                }
                loans.push(loan);
            }
            jitter().await;
            if machine::random(4) == 0 {
                for loan in loans {
                    model.lock().unwrap().give_back(&loan);
                    model.lock().unwrap().dropped += 1;
                    drop(loan);
                }
                return Ok(());
            }
            let runs: Vec<_> = loans
                .iter()
                .map(|loan| (loan.start().0, loan.len()))
                .collect();
            vol.apply(loans).await?;
            let mut model = model.lock().unwrap();
            for (start, len) in runs {
                model.own(start, len);
            }
        }
        4..=6 => {
            let run = {
                let mut model = model.lock().unwrap();
                match model.mine.len() {
                    0 => return Ok(()),
                    len => model.mine.swap_remove(machine::random(len as u64) as usize),
                }
            };
            // Some of it, from anywhere.
            let skip = machine::random(run.1.into()) as u32;
            let len = 1 + machine::random(u64::from(run.1 - skip)) as u32;
            let start = run.0 + u64::from(skip);
            let plan = alloc.plan_free(Pblk(start), len).await?;
            jitter().await;
            if machine::random(4) == 0 {
                drop(plan);
                model.lock().unwrap().mine.push(run);
                return Ok(());
            }
            let tx = NotSend(vol.journal.begin(&vol.cache, plan.credits()).await?);
            let NotSend(mut tx) = tx;
            {
                let mut model = model.lock().unwrap();
                model.held.extend(start..start + u64::from(len));
                model.freed += 1;
                let behind = run.1 - skip - len;
                model.mine.extend((skip > 0).then_some((run.0, skip)));
                let rest = (start + u64::from(len), behind);
                model.mine.extend((behind > 0).then_some(rest));
            }
            plan.apply(&mut tx);
        }
        7 | 8 => {
            let dir = machine::random(3) == 0;
            let hint = Hint {
                dir,
                top: machine::random(2) == 0,
                seed: machine::random(1 << 32) as u32,
            };
            let parent = {
                let model = model.lock().unwrap();
                let dirs: Vec<u32> = model.inodes.iter().filter(|i| *i.1).map(|i| *i.0).collect();
                match dirs.len() {
                    0 => Ino::ROOT,
                    len => Ino(dirs[machine::random(len as u64) as usize]),
                }
            };
            if machine::random(4) == 0 {
                // Chosen, and given back.
                let polls = machine::random(8) as usize;
                let loan = dropped_after(polls, alloc.loan_inode(parent, hint)).await;
                jitter().await;
                if let Some(loan) = loan {
                    let ino = loan?.ino().0;
                    assert!(!model.lock().unwrap().inodes.contains_key(&ino));
                }
                return Ok(());
            }
            let ino = vol.create(parent, hint).await?;
            let before = model.lock().unwrap().inodes.insert(ino.0, dir);
            assert_eq!(before, None, "inode {} was given twice", ino.0);
        }
        _ => {
            let found = {
                let mut model = model.lock().unwrap();
                let nth = machine::random(model.inodes.len().max(1) as u64) as usize;
                let found = model.inodes.iter().nth(nth).map(|i| (*i.0, *i.1));
                found.inspect(|(ino, _)| {
                    model.inodes.remove(ino);
                })
            };
            if let Some((ino, dir)) = found {
                vol.remove(Ino(ino), dir).await?;
            }
        }
    }
    Ok(())
}

/// Options of mke2fs, and the size of the image.
const KINDS: [(&str, u64); 7] = [
    ("-b 1024 -J size=1 -O metadata_csum,64bit -N 256", 33 << 20),
    // Bitmaps and tables that were never written, and a small last group.
    (
        "-b 1024 -J size=1 -O metadata_csum,64bit -E lazy_itable_init=1,nodiscard -N 4096",
        (60 << 20) + (300 << 10),
    ),
    (
        "-b 4096 -g 1024 -J size=4 -O metadata_csum,64bit -E lazy_itable_init=1,nodiscard -N 2048",
        50 << 20,
    ),
    (
        "-b 1024 -J size=1 -O uninit_bg,^metadata_csum,^64bit -E lazy_itable_init=1,nodiscard",
        40 << 20,
    ),
    (
        "-b 1024 -O ^has_journal,metadata_csum -E lazy_itable_init=1,nodiscard -N 4096",
        40 << 20,
    ),
    (
        "-b 1024 -O ^has_journal,^metadata_csum,^uninit_bg,^flex_bg,^extent,^64bit -I 128",
        20 << 20,
    ),
    (
        "-b 4096 -g 2048 -G 4 -J size=4 -O metadata_csum,^64bit -E lazy_itable_init=1,nodiscard",
        80 << 20,
    ),
];

fn base(dir: &Scratch, (options, size): (&str, u64)) -> Store {
    Image::make(dir.path("base.img"), size, options).store()
}

/// What was never written has something of long ago.
fn litter(store: &mut Store) {
    let bitmaps = Bitmaps::read(store);
    let geo = bitmaps.geo();
    let size = u64::from(geo.block_size());
    let rubbish = vec![0xa5; size as usize];
    for desc in &bitmaps.descs {
        if desc.has_flag(GroupDesc::BLOCK_UNINIT, geo) {
            store.write(desc.block_bitmap.0 * size, &rubbish);
        }
        let uninit = desc.has_flag(GroupDesc::INODE_UNINIT, geo);
        if uninit {
            store.write(desc.inode_bitmap.0 * size, &rubbish);
        }
        if desc.flags & GroupDesc::INODE_ZEROED == 0 {
            let all = geo.inodes_per_group().get();
            let used = if uninit { 0 } else { all - desc.itable_unused };
            let per_block = geo.block_size() / u32::from(geo.inode_size());
            for n in used.div_ceil(per_block)..geo.inode_table_blocks() {
                store.write((desc.inode_table.0 + u64::from(n)) * size, &rubbish);
            }
        }
    }
}

#[test]
fn nothing_is_given_twice_and_nothing_is_lost() {
    let dir = Scratch::new("alloc");
    let runs = sim::count("UPCALL_ALLOCS", 8);
    let (mut freed, mut dropped) = (0, 0);
    for (n, kind) in KINDS.into_iter().enumerate() {
        let mut store = base(&dir, kind);
        litter(&mut store);
        for seed in 0..runs {
            let config = Config {
                max_steps: 50_000_000,
                ..varied(seed * 7 + n as u64)
            };
            let (model, mut last, counters, sb) = random(&store, config);
            freed += model.freed;
            dropped += model.dropped;
            // All was freed in the end. So the disk is as it was, but for what was never written.
            let before = Bitmaps::read(&store);
            let after = Bitmaps::read(&last);
            assert_eq!(before.free_blocks(), after.free_blocks());
            assert_eq!(before.inodes, after.inodes);
            assert_eq!(counters, after.counters());
            write_totals(&mut last, &counters, &sb);
            if seed < 3 {
                let image = Image::write(dir.path("last.img"), &last);
                image
                    .is_clean()
                    .unwrap_or_else(|text| panic!("{kind:?}: {text}"));
            }
        }
    }
    println!("{freed} runs were freed, {dropped} loans dropped");
    assert!(freed as u64 > runs * 50 && dropped as u64 > runs * 10);
}

/// Some tasks do as they like. Then all that they have is compared, and freed.
fn random(store: &Store, config: Config) -> (Model, Store, Counters, SuperBlock) {
    let stale = config.seed % 2 == 0;
    simulate_on(config, store.clone(), |bed| {
        let before = Bitmaps::read(store);
        let model = Model {
            free: before.free_blocks(),
            ..Model::default()
        };
        let model = Arc::new(Mutex::new(model));
        let vol = Arc::new(block_on(Vol::open(bed, Kept::default())).unwrap().unwrap());
        assert_eq!(vol.groups.counters(), before.counters());
        if stale {
            // Somebody has looked at inodes that are not in use.
            for desc in vol.groups.descs() {
                for n in 0..u64::from(vol.sb.geo.inode_table_blocks()) {
                    let block = desc.inode_table.0 + n;
                    block_on(vol.cache.read(block, block..block))
                        .unwrap()
                        .unwrap();
                }
            }
        }
        let loops = Loops::start(bed, &vol, Some(model.clone())).unwrap();
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (vol, model) = (vol.clone(), model.clone());
                let work = async move {
                    let mut last = machine::random(vol.sb.geo.blocks_count());
                    for _ in 0..50 {
                        operate(&vol, &model, &mut last).await?;
                        if machine::random(12) == 0 {
                            vol.journal.sync(vol.journal.running_tid()).await?;
                        }
                        if machine::random(10) == 0 {
                            vol.cache.shrink(1000);
                        }
                    }
                    Ok::<_, Error>(())
                };
                bed.scope().spawn(work).unwrap()
            })
            .collect();
        for task in tasks {
            block_on(task).unwrap().unwrap().unwrap();
        }
        block_on(vol.journal.sync(vol.journal.running_tid()))
            .unwrap()
            .unwrap();
        machine::settle();
        compare(&vol, &model.lock().unwrap(), &before);
        let (mine, inodes) = {
            let mut model = model.lock().unwrap();
            let mine = core::mem::take(&mut model.mine);
            (mine, core::mem::take(&mut model.inodes))
        };
        block_on(async {
            for (start, len) in mine {
                model
                    .lock()
                    .unwrap()
                    .held
                    .extend(start..start + u64::from(len));
                vol.free(start, len).await.unwrap();
            }
            for (ino, dir) in inodes {
                vol.remove(Ino(ino), dir).await.unwrap();
            }
        })
        .unwrap();
        loops.stop(&vol).unwrap();
        assert_eq!(*vol.reports.lines.lock().unwrap(), Vec::<String>::new());
        let counters = vol.groups.counters();
        let sb = vol.sb;
        drop(vol);
        let model = core::mem::take(&mut *model.lock().unwrap());
        assert!(model.held.is_empty() && model.loaned.is_empty());
        let store = bed.device.disk().durable().clone();
        (model, store, counters, sb)
    })
}

/// Whether memory, the bitmaps and the model agree. Nobody does anything meanwhile.
fn compare(vol: &Vol, model: &Model, before: &Bitmaps) {
    assert!(model.held.is_empty(), "what was freed is durable");
    assert!(model.loaned.is_empty());
    let counters = vol.groups.counters();
    assert_eq!(counters.free, model.free.len() as u64);
    assert_eq!(
        (counters.loaned, counters.held, counters.promised),
        (0, 0, 0)
    );
    assert_eq!(counters.usable, counters.free);
    let inodes = before.counters().free_inodes - model.inodes.len() as u64;
    assert_eq!(counters.free_inodes, inodes);
    let dirs = model.inodes.values().filter(|dir| **dir).count() as u64;
    assert_eq!(counters.dirs, before.counters().dirs + dirs);
    let live = Bitmaps::live(vol);
    assert_eq!(live.counters(), counters);
    assert!(live.free_blocks() == model.free, "bitmaps and model differ");
    for ino in (1..=vol.sb.geo.inodes_count()).map(Ino) {
        let mine = model.inodes.contains_key(&ino.0);
        assert_eq!(
            live.is_free(ino),
            before.is_free(ino) && !mine,
            "inode {}",
            ino.0
        );
    }
}

/// An image whose groups all have bitmaps.
fn written(dir: &Scratch, kind: (&str, u64)) -> Store {
    let mut store = base(dir, kind);
    let bitmaps = Bitmaps::read(&store);
    let geo = bitmaps.geo();
    let size = u64::from(geo.block_size());
    for (n, desc) in bitmaps.descs.iter().enumerate() {
        let (blocks, inodes) = (&bitmaps.blocks[n], &bitmaps.inodes[n]);
        store.write(desc.block_bitmap.0 * size, blocks);
        store.write(desc.inode_bitmap.0 * size, inodes);
        let (block, offset) = geo.desc_location(desc.group).unwrap();
        change(&mut store, size, block.0, |raw| {
            let raw = &mut raw[offset as usize..];
            let mut edit = GroupEdit::new(raw, desc.group, geo).unwrap();
            let uninit = GroupDesc::BLOCK_UNINIT | GroupDesc::INODE_UNINIT;
            edit.set_flags(edit.flags() & !uninit);
            edit.seal(Some(blocks), Some(inodes)).unwrap();
        });
    }
    store
}

/// Opens a volume without faults, and without anybody else.
fn quiet<R>(store: &Store, kept: Kept, f: impl FnOnce(&Bed, &Arc<Vol>) -> R) -> R {
    let config = Config {
        max_steps: 200_000_000,
        ..Config::new(1)
    };
    simulate_on(config, store.clone(), |bed| {
        let vol = Arc::new(block_on(Vol::open(bed, kept)).unwrap().unwrap());
        f(bed, &vol)
    })
}

fn hint_at(block: u64) -> Goal {
    Goal {
        block: Pblk(block),
        behind: false,
    }
}

#[test]
fn a_file_that_is_written_in_sequence_has_few_extents() {
    let dir = Scratch::new("alloc-runs");
    let options = "-b 4096 -O ^has_journal,metadata_csum -E lazy_itable_init=1,nodiscard";
    for (want, most) in [(16, 20), (2048, 20), (1 << 20, 20)] {
        let image = Image::make(dir.path("large.img"), 1 << 30, options);
        let store = Store::open(image.path()).unwrap();
        let runs = quiet(&store, Kept::default(), |_, vol| {
            let per_flex = vol.sb.groups_per_flex;
            let mut goal = Goal::of_inode(&vol.sb.geo, per_flex, Ino(12), true);
            let (mut runs, mut end, mut count) = (0, 0, 0);
            // All but a fiftieth.
            let all = vol.groups.counters().free * 49 / 50;
            while count < all {
                let loan = block_on(vol.loan(goal, want, 1)).unwrap().unwrap();
                runs += u64::from(loan.start().0 != end);
                end = loan.start().0 + u64::from(loan.len());
                count += u64::from(loan.len());
                goal = Goal::behind(Pblk(end - 1));
                block_on(vol.apply(vec![loan])).unwrap().unwrap();
            }
            runs
        });
        println!("{runs} runs of a file by {want} blocks");
        assert!(runs <= most, "{runs} runs by {want} blocks");
    }
}

/// Takes `want` blocks behind `file`'s last one. Says whether they are not right behind it.
async fn grow(vol: &Vol, file: &mut (Goal, Window), want: u32) -> Result<bool> {
    let (goal, window) = file;
    let alloc = vol.alloc();
    let loan = alloc
        .loan_growing(*goal, want, &mut Space::User, window)
        .await?;
    let apart = loan.start() != goal.block;
    *goal = Goal::behind(Pblk(loan.start().0 + u64::from(loan.len()) - 1));
    vol.apply(vec![loan]).await?;
    Ok(apart)
}

#[test]
fn files_that_grow_side_by_side_have_few_extents() {
    let dir = Scratch::new("alloc-windows");
    let options = "-b 4096 -O ^has_journal,metadata_csum -E lazy_itable_init=1,nodiscard";
    let image = Image::make(dir.path("windows.img"), 256 << 20, options);
    let store = Store::open(image.path()).unwrap();
    quiet(&store, Kept::default(), |_, vol| {
        let per_flex = vol.sb.groups_per_flex;
        let first = Goal::of_inode(&vol.sb.geo, per_flex, Ino(12), true);
        // More files than there are windows.
        for (files, rounds, most) in [(64, 128, 4), (300, 64, 24)] {
            let free = vol.groups.counters().free;
            let mut files: Vec<_> = (0..files).map(|_| (first, Window::default())).collect();
            let mut apart = 0;
            for _ in 0..rounds {
                for file in &mut files {
                    apart += u64::from(block_on(grow(vol, file, 1)).unwrap().unwrap());
                }
            }
            let count = files.len() as u64;
            println!("{} extents of {count} files", apart);
            assert!(apart <= most * count, "{apart} extents of {count} files");
            let counters = vol.groups.counters();
            assert_eq!(counters.free, free - count * rounds);
            assert_eq!(counters.usable, counters.free);
            assert_eq!(counters.promised, 0);
            // What is in windows is for others, too, if there is nothing else.
            if count > 64 {
                let mut other = (hint_at(1), Window::default());
                let left = counters.usable;
                for _ in 0..left {
                    block_on(grow(vol, &mut other, 1)).unwrap().unwrap();
                }
                let end = block_on(grow(vol, &mut other, 1)).unwrap();
                assert_eq!(end.err(), Some(ENOSPC));
                assert_eq!(vol.groups.counters().usable, 0);
                drop(files);
            }
        }
    });
}

/// Makes an image of `size` bytes, of which the disk has little.
fn sparse(dir: &Scratch, size: u64) -> Store {
    let image = Image::make(
        dir.path("sparse.img"),
        size,
        "-b 4096 -i 67108864 -O ^has_journal,^resize_inode,sparse_super2,64bit,metadata_csum \
         -E lazy_itable_init=1,nodiscard,num_backup_sb=0",
    );
    Store::open(image.path()).unwrap()
}

/// Does `f`, and says how many blocks were read meanwhile.
fn reads<R>(bed: &Bed, f: impl FnOnce() -> R) -> (u64, R) {
    let before = bed.device.disk().counts().reads;
    let result = f();
    (bed.device.disk().counts().reads - before, result)
}

#[test]
fn what_an_allocation_costs_does_not_grow_with_the_volume() {
    let dir = Scratch::new("alloc-large");
    // No larger file is possible everywhere.
    let store = sparse(&dir, (16 << 40) - (128 << 20));
    quiet(&store, Kept::default(), |bed, vol| {
        let geo = &vol.sb.geo;
        assert_eq!(geo.groups(), 131_071);
        let mut rng = Rng::new(5);
        for n in 0..500 {
            let goal = hint_at(rng.below(geo.blocks_count()));
            let want = 1 + rng.below(1 << (n % 16)) as u32;
            let (read, loan) = reads(bed, || block_on(vol.loan(goal, want, 1)).unwrap().unwrap());
            // A bitmap, and a block of descriptors if it is not in memory.
            assert!(read <= 2, "{read} reads for {want} blocks");
            assert_eq!(loan.len(), want, "on an empty volume");
            block_on(vol.apply(vec![loan])).unwrap().unwrap();
        }
    });
    // Most groups are full: nobody looks at their bitmaps, which say something else.
    let geo = Bitmaps::shape(&store);
    let mut store = store;
    const FULL: u32 = 100_000;
    for group in (0..FULL).map(Group) {
        let (block, offset) = geo.desc_location(group).unwrap();
        let at = block.0 * 4096 + u64::from(offset);
        let mut raw = store.get(at, usize::from(geo.desc_size()));
        let mut edit = GroupEdit::new(&mut raw, group, &geo).unwrap();
        edit.set_free_clusters(0).unwrap();
        edit.set_flags(edit.flags() & !GroupDesc::BLOCK_UNINIT);
        edit.seal(None, None).unwrap();
        store.write(at, &raw);
    }
    quiet(&store, Kept::default(), |bed, vol| {
        for (home, want, found) in [(5, 1, FULL), (5, 32000, FULL), (120_000, 9, 120_000)] {
            let goal = hint_at(geo.group_first_block(Group(home)).0 + 7);
            let (read, loan) = reads(bed, || block_on(vol.loan(goal, want, 1)).unwrap().unwrap());
            let group = geo.group_of(loan.start()).unwrap().0;
            assert!(read <= 2 && loan.len() == want, "{read} reads");
            assert!(
                (found..found + 2).contains(&group),
                "{group}, from {home} on"
            );
        }
    });
}

#[test]
fn what_an_allocation_costs_on_a_full_volume() {
    let dir = Scratch::new("alloc-full");
    let mut store = sparse(&dir, 512 << 30);
    // In each group 3 % are free, in short runs.
    let bitmaps = Bitmaps::read(&store);
    let geo = *bitmaps.geo();
    let mut rng = Rng::new(3);
    for (n, mut bits) in bitmaps.blocks.into_iter().enumerate() {
        let group = Group(n as u32);
        let count = geo.group_clusters(group);
        let first = bits.clone();
        mark_range(&mut bits, 0, count);
        for at in (0..count - 200).step_by(200) {
            let len = 1 + rng.below(11) as u32;
            if free_runs(&first, at, at + len).any(|run| run.len == len) {
                clear_range(&mut bits, at, len).unwrap();
            }
        }
        pad(&mut bits, count);
        let block = bitmaps.descs[n].block_bitmap.0;
        store.write(block * 4096, &bits);
        let (block, offset) = geo.desc_location(group).unwrap();
        let at = block.0 * 4096 + u64::from(offset);
        let mut raw = store.get(at, usize::from(geo.desc_size()));
        let mut edit = GroupEdit::new(&mut raw, group, &geo).unwrap();
        edit.set_free_clusters(count_free(&bits, count)).unwrap();
        edit.set_flags(edit.flags() & !GroupDesc::BLOCK_UNINIT);
        edit.seal(Some(&bits), None).unwrap();
        store.write(at, &raw);
    }
    quiet(&store, Kept::default(), |bed, vol| {
        let full = vol.groups.counters().free as f64 / geo.blocks_count() as f64;
        assert!((0.02..0.04).contains(&full), "{full} are free");
        let mut rng = Rng::new(8);
        let (mut sum, mut most, mut lens) = (0, 0, 0);
        for n in 0..2000 {
            let goal = hint_at(rng.below(geo.blocks_count()));
            let want = 1 + rng.below(if n % 2 == 0 { 10 } else { 300 }) as u32;
            let (read, loan) = reads(bed, || block_on(vol.loan(goal, want, 1)).unwrap().unwrap());
            (sum, most) = (sum + read, most.max(read));
            lens += u64::from(loan.len());
            block_on(vol.apply(vec![loan])).unwrap().unwrap();
        }
        println!("{sum} reads for 2000 loans of {lens} blocks, at most {most} for one");
        // The goal's group, three others, and the nearest one that has anything.
        assert!(most <= 5 && sum < 4000, "{most}, {sum}");
    });
}

#[test]
fn there_is_no_space_when_there_is_none() {
    let dir = Scratch::new("alloc-space");
    let store = base(&dir, ("-b 1024 -J size=1 -O metadata_csum -N 64", 20 << 20));
    for seed in 0..sim::count("UPCALL_ALLOCS", 8) {
        let kept = Kept {
            root: 1000,
            must: 100,
        };
        simulate_on(Config::new(seed), store.clone(), |bed| {
            let vol = Arc::new(block_on(Vol::open(bed, kept)).unwrap().unwrap());
            let loops = Loops::start(bed, &vol, None).unwrap();
            let all = vol.groups.counters().free;
            let reserved = vol.alloc().reserve(500, &Space::User).unwrap();
            assert_eq!(vol.alloc().reserve(all, &Space::User).err(), Some(ENOSPC));
            let reserved = Arc::new(Mutex::new(Some(reserved)));
            // Several take what they get. Whoever is told that there is no more is told the truth.
            let tasks: Vec<_> = (0..4)
                .map(|n| {
                    let (vol, reserved) = (vol.clone(), reserved.clone());
                    let work = async move {
                        let mut mine = reserved.lock().unwrap().take().filter(|_| n == 0);
                        let mut runs: Vec<(u64, u32)> = Vec::new();
                        loop {
                            let want = 1 + machine::random(200) as u32;
                            let goal = hint_at(machine::random(20 << 10));
                            let mut space = match &mut mine {
                                Some(reserved) if machine::random(8) == 0 => {
                                    Space::Reserved(reserved)
                                }
                                _ => Space::User,
                            };
                            let loan = vol.alloc().loan_blocks(goal, want, 1, &mut space).await;
                            let loan = match loan {
                                Ok(loan) => loan,
                                Err(error) => {
                                    assert_eq!(error, ENOSPC);
                                    if let Space::User = space {
                                        let now = vol.groups.counters();
                                        let floor = now.promised + kept.root + kept.must;
                                        assert!(now.usable <= floor, "{now:?}");
                                        break;
                                    }
                                    continue;
                                }
                            };
                            runs.push((loan.start().0, loan.len()));
                            vol.apply(vec![loan]).await?;
                        }
                        Ok::<_, Error>((runs, mine))
                    };
                    bed.scope().spawn(work).unwrap()
                })
                .collect();
            let mut runs = Vec::new();
            let mut left = None;
            for task in tasks {
                let (more, reserved) = block_on(task).unwrap().unwrap().unwrap();
                runs.extend(more);
                left = left.or(reserved);
            }
            let mut left: Reservation = left.or(reserved.lock().unwrap().take()).unwrap();
            let loan = |space: &mut Space<'_>, want| {
                block_on(vol.alloc().loan_blocks(hint_at(1), want, 1, space)).unwrap()
            };
            assert_eq!(loan(&mut Space::User, 1).err(), Some(ENOSPC));
            let counters = vol.groups.counters();
            assert_eq!(counters.promised, left.count());
            assert_eq!(counters.usable, left.count() + kept.root + kept.must);
            // What was reserved can be had, to the last block.
            let mut kept_loans = Vec::new();
            while left.count() > 0 {
                kept_loans.push(loan(&mut Space::Reserved(&mut left), 50).unwrap());
            }
            assert!(loan(&mut Space::Reserved(&mut left), 1).is_err());
            let mut spaces = [(Space::Root, kept.root), (Space::Must, kept.must)];
            for (space, count) in &mut spaces {
                let mut got = 0;
                while let Ok(loan) = loan(space, 77) {
                    got += u64::from(loan.len());
                    kept_loans.push(loan);
                }
                assert_eq!(got, *count);
            }
            let counters = vol.groups.counters();
            assert_eq!((counters.usable, counters.promised), (0, 0));
            // What is freed is there after the commit, and who asks waits for it.
            let (start, len) = runs[1];
            block_on(vol.free(start, len)).unwrap().unwrap();
            assert!(vol.alloc().reserve(1, &Space::Must).is_err());
            let reserve = vol.alloc();
            let reserved = block_on(reserve.reserve_freed(len.into(), &Space::Must)).unwrap();
            drop(reserved.unwrap());
            block_on(vol.apply(vec![loan(&mut Space::Must, len).unwrap()]))
                .unwrap()
                .unwrap();
            let (start, len) = runs[0];
            block_on(vol.free(start, len)).unwrap().unwrap();
            let again = loan(&mut Space::Must, 1000).unwrap();
            assert_eq!((again.start().0, again.len()), (start, len));
            assert_eq!(loan(&mut Space::Must, 1).err(), Some(ENOSPC));
            kept_loans.push(again);
            drop((kept_loans, left));
            let counters = vol.groups.counters();
            assert_eq!((counters.loaned, counters.promised), (0, 0));
            loops.stop(&vol).unwrap();
        });
    }
}

/// Some of everything, one after the other. Gives what was taken and not freed.
async fn session(vol: &Vol) -> Result<Vec<(u64, u32)>> {
    let mut runs = Vec::new();
    for n in 0..4 {
        // So that much is read, and much awaited.
        vol.cache.shrink(100_000);
        let goal = hint_at(n * 9000);
        let mut loan = vol.loan(goal, 40, 2).await?;
        let front = vol.alloc().split(&mut loan, 10).await?;
        runs.push((front.start().0, 10));
        let rest = (loan.start().0, loan.len());
        vol.cache.shrink(100_000);
        vol.apply(vec![loan, front]).await?;
        vol.free(rest.0, rest.1).await?;
    }
    let hint = Hint {
        dir: true,
        top: true,
        seed: 3,
    };
    let dir = vol.create(Ino::ROOT, hint).await?;
    vol.cache.shrink(100_000);
    let file = vol.create(dir, Hint::default()).await?;
    vol.remove(file, false).await?;
    Ok(runs)
}

/// After a session that was cut short: what is loaned was given back, and all goes on.
fn afterwards(bed: &Bed, vol: &Arc<Vol>) {
    let counters = vol.groups.counters();
    assert_eq!((counters.loaned, counters.promised), (0, 0));
    assert_eq!(counters.usable + counters.held, counters.free);
    assert_eq!(counters.usable_inodes, counters.free_inodes);
    let loops = Loops::start(bed, vol, None).unwrap();
    block_on(session(vol)).unwrap().unwrap();
    loops.stop(vol).unwrap();
    let counters = vol.groups.counters();
    assert_eq!(
        (counters.loaned, counters.promised, counters.held),
        (0, 0, 0)
    );
    let live = Bitmaps::live(vol);
    assert_eq!(live.counters(), counters);
}

const SESSION: (&str, u64) = (
    "-b 1024 -J size=1 -O metadata_csum,64bit -E lazy_itable_init=1,nodiscard -N 4096",
    40 << 20,
);

#[test]
fn every_read_failed_in_turn() {
    let dir = Scratch::new("alloc-reads");
    let store = written(&dir, SESSION);
    let mut hit = 0;
    for nth in 0.. {
        let over = quiet(&store, Kept::default(), |bed, vol| {
            // What is in memory is not read.
            vol.cache.shrink(100_000);
            let before = bed.device.disk().counts().reads;
            bed.device.disk().faults.reads.insert(before + nth);
            let result = block_on(session(vol)).unwrap();
            let over = bed.device.disk().counts().reads <= before + nth;
            bed.device.disk().faults.reads.clear();
            if let Err(error) = result {
                assert_eq!(error, EIO);
                hit += 1;
            }
            afterwards(bed, vol);
            over
        });
        if over {
            println!("{nth} reads, {hit} sessions failed");
            break;
        }
    }
    assert!(hit > 0);
    // If none can be read that may have room, that is the reason.
    quiet(&store, Kept::default(), |bed, vol| {
        vol.cache.shrink(100_000);
        bed.device.disk().faults.gone = Some(0);
        let loan = block_on(vol.loan(hint_at(1), 1, 1)).unwrap();
        assert_eq!(loan.err(), Some(ENODEV));
        let loan = block_on(vol.alloc().loan_inode(Ino::ROOT, Hint::default()));
        assert_eq!(loan.unwrap().err(), Some(ENODEV));
    });
}

#[test]
fn every_allocation_failed_in_turn() {
    let dir = Scratch::new("alloc-memory");
    let store = base(&dir, SESSION);
    let mut hit = 0;
    for nth in 0.. {
        let over = quiet(&store, Kept::default(), |bed, vol| {
            vol.cache.shrink(100_000);
            machine::fail_allocations(Fail::Nth(nth));
            let result = match nth % 2 {
                0 => block_on(session(vol)),
                _ => {
                    // On a worker it is waited for.
                    let other = vol.clone();
                    let task = bed.scope().spawn(async move { session(&other).await });
                    task.and_then(|task| block_on(task)?.map_err(|_| EINTR).map(Ok)?)
                }
            };
            let failed = machine::allocations().1 != 0;
            machine::fail_allocations(Fail::Never);
            match result {
                Ok(Ok(_)) => {}
                Ok(Err(error)) | Err(error) => {
                    assert_eq!(error, ENOMEM);
                    hit += 1;
                }
            }
            afterwards(bed, vol);
            !failed
        });
        if over && nth % 2 == 0 {
            println!("{nth} allocations, {hit} sessions failed");
            break;
        }
    }
    assert!(hit > 10);
}

#[test]
fn every_await_dropped() {
    let dir = Scratch::new("alloc-dropped");
    let store = written(&dir, SESSION);
    for polls in 0.. {
        let over = quiet(&store, Kept::default(), |bed, vol| {
            vol.cache.shrink(100_000);
            let end = block_on(dropped_after(polls, session(vol))).unwrap();
            let over = end.is_some();
            if let Some(end) = end {
                end.unwrap();
            }
            afterwards(bed, vol);
            over
        });
        if over {
            println!("dropped at {polls} polls");
            assert!(polls > 10);
            break;
        }
    }
}

/// Changes a block of an image.
fn change(store: &mut Store, size: u64, block: u64, f: impl FnOnce(&mut [u8])) {
    let mut bytes = store.get(block * size, size as usize);
    f(&mut bytes);
    store.write(block * size, &bytes);
}

/// What was reported, which is not left for others.
fn reported(vol: &Vol) -> Vec<String> {
    core::mem::take(&mut *vol.reports.lines.lock().unwrap())
}

#[test]
fn damage_is_reported_and_passed_over() {
    let dir = Scratch::new("alloc-damage");
    let mut store = written(&dir, KINDS[0]);
    let bitmaps = Bitmaps::read(&store);
    let geo = *bitmaps.geo();
    let size = u64::from(geo.block_size());
    // The checksum of group 1's bitmaps is wrong; group 2's says that the table of its inodes is
    // free, or what else of metadata is there.
    let desc = &bitmaps.descs[1];
    for block in [desc.block_bitmap.0, desc.inode_bitmap.0] {
        change(&mut store, size, block, |bits| bits[3] ^= 1);
    }
    let group = Group(3);
    let first = geo.group_first_block(group).0;
    let meta = bitmaps.descs[3].zones(&geo);
    let meta = meta
        .iter()
        .find(|zone| zone.len > 0 && zone.start.0 >= first);
    let at = (meta.expect("metadata in group 3").start.0 - first) as u32;
    let mut bits = bitmaps.blocks[3].clone();
    clear_range(&mut bits, at, 1).unwrap();
    change(&mut store, size, bitmaps.descs[3].block_bitmap.0, |to| {
        to.copy_from_slice(&bits);
    });
    let (block, offset) = geo.desc_location(group).unwrap();
    change(&mut store, size, block.0, |raw| {
        let raw = &mut raw[offset as usize..];
        let mut edit = GroupEdit::new(raw, group, &geo).unwrap();
        edit.return_clusters(1).unwrap();
        edit.seal(Some(&bits), None).unwrap();
    });
    quiet(&store, Kept::default(), |_, vol| {
        let usable = vol.groups.counters().usable;
        let in_group = |n| hint_at(geo.group_first_block(Group(n)).0 + 4000);
        let loan = block_on(vol.loan(in_group(1), 10, 1)).unwrap().unwrap();
        assert_ne!(geo.group_of(loan.start()), Some(Group(1)));
        let lines = reported(vol);
        assert!(
            matches!(&lines[..], [line] if line.contains("checksum")),
            "{lines:?}"
        );
        let lost = u64::from(bitmaps.descs[1].free_clusters);
        assert_eq!(vol.groups.counters().usable, usable - lost - 10);
        // It is said once.
        drop(loan);
        drop(block_on(vol.loan(in_group(1), 10, 1)).unwrap().unwrap());
        assert_eq!(reported(vol).len(), 0);
        let goal = Goal {
            block: Pblk(first + u64::from(at)),
            behind: true,
        };
        let loan = block_on(vol.loan(goal, 1, 1)).unwrap().unwrap();
        assert_ne!(geo.group_of(loan.start()), Some(group));
        let lines = reported(vol);
        assert!(
            matches!(&lines[..], [line] if line.contains("metadata")),
            "{lines:?}"
        );
        drop(loan);
        // The inodes of the group are passed over, too.
        let parent = Ino(geo.inodes_per_group().get() + 1);
        let ino = block_on(vol.create(parent, Hint::default()))
            .unwrap()
            .unwrap();
        assert_ne!(geo.inode_index(ino).unwrap().0, Group(1));
        assert_eq!(reported(vol).len(), 1);
    });
}

#[test]
fn what_is_not_in_use_is_not_freed() {
    let dir = Scratch::new("alloc-free");
    let store = written(&dir, KINDS[0]);
    quiet(&store, Kept::default(), |_, vol| {
        let geo = &vol.sb.geo;
        let loan = block_on(vol.loan(hint_at(9000), 10, 10)).unwrap().unwrap();
        let start = loan.start().0;
        let plan = |start, count| block_on(vol.alloc().plan_free(Pblk(start), count)).unwrap();
        let damaged = |start, count, why: &str| {
            assert_eq!(
                plan(start, count).err().map(|e| e.to_errno()),
                Some(-117),
                "{why}"
            );
            let lines = reported(vol);
            assert!(
                matches!(&lines[..], [line] if line.contains(why)),
                "{lines:?}"
            );
        };
        damaged(start, 1, "are free");
        block_on(vol.apply(vec![loan])).unwrap().unwrap();
        damaged(start, 11, "are free");
        damaged(geo.blocks_count() - 1, 2, "not on the volume");
        damaged(0, 1, "not on the volume");
        damaged(5, 0, "not on the volume");
        damaged(vol.groups.descs()[1].inode_table.0, 1, "metadata");
        let first = plan(start + 2, 5).unwrap();
        damaged(start, 3, "somebody else");
        damaged(start + 6, 4, "somebody else");
        drop(first);
        block_on(vol.free(start, 10)).unwrap().unwrap();
        damaged(start, 1, "are free");
        // They are held: nobody has them before the commit.
        let behind = Goal {
            block: Pblk(start),
            behind: true,
        };
        let loan = block_on(vol.loan(behind, 1, 1)).unwrap().unwrap();
        assert!(loan.start().0 < start || loan.start().0 >= start + 10);
        drop(loan);
        vol.groups.release(&Freed { start, count: 10 });
        let loan = block_on(vol.loan(behind, 10, 1)).unwrap().unwrap();
        assert_eq!((loan.start().0, loan.len()), (start, 10));
        drop(loan);
        // Right behind a file's end a short run is taken; else it is passed over.
        let two = [(0, 10), (15, 5)].map(|(at, want)| {
            let loan = block_on(vol.loan(hint_at(start + at), want, want)).unwrap();
            loan.unwrap()
        });
        assert_eq!(two[1].start().0, start + 15);
        let end = Goal::behind(Pblk(start + 9));
        let loan = block_on(vol.loan(end, 100, 1)).unwrap().unwrap();
        assert_eq!((loan.start().0, loan.len()), (start + 10, 5));
        drop(loan);
        let loan = block_on(vol.loan(hint_at(start + 10), 100, 1)).unwrap();
        assert_eq!(loan.unwrap().len(), 100);
        drop(two);
        let inode = |ino, dir| block_on(vol.alloc().plan_free_inode(Ino(ino), dir)).unwrap();
        let count = geo.inodes_count();
        for (ino, dir) in [
            (0, false),
            (2, true),
            (8, false),
            (count, false),
            (count + 1, false),
        ] {
            assert_eq!(
                inode(ino, dir).err().map(|e| e.to_errno()),
                Some(-117),
                "{ino}"
            );
            assert_eq!(reported(vol).len(), 1);
        }
        let ino = block_on(vol.create(Ino::ROOT, Hint::default()))
            .unwrap()
            .unwrap();
        let first = inode(ino.0, false).unwrap();
        assert!(inode(ino.0, false).is_err());
        drop(first);
        block_on(vol.remove(ino, false)).unwrap().unwrap();
        assert!(inode(ino.0, false).is_err());
    });
}

#[test]
fn an_inode_rests_if_there_is_no_log() {
    let dir = Scratch::new("alloc-rest");
    for (kind, rests) in [(KINDS[0], false), (KINDS[5], true)] {
        quiet(&base(&dir, kind), Kept::default(), |_, vol| {
            let create = || {
                block_on(vol.create(Ino::ROOT, Hint::default()))
                    .unwrap()
                    .unwrap()
            };
            let first = create();
            block_on(vol.remove(first, false)).unwrap().unwrap();
            let next = create();
            assert_eq!(next != first, rests);
            block_on(upcall::sleep(Duration::from_secs(6))).unwrap();
            if rests {
                assert_eq!(create(), first);
            }
        });
    }
}

#[test]
fn directories_of_the_root_are_apart_and_files_near_them() {
    let dir = Scratch::new("alloc-orlov");
    let store = base(&dir, ("-b 1024 -g 1024 -G 4 -N 8192 -J size=1", 48 << 20));
    quiet(&store, Kept::default(), |_, vol| {
        let geo = &vol.sb.geo;
        let flex = |ino| geo.inode_index(ino).unwrap().0 .0 / vol.sb.groups_per_flex;
        // Two at the same time, in a group without a bitmap.
        let last = Ino(geo.inodes_count());
        let loan = || block_on(vol.alloc().loan_inode(last, Hint::default())).unwrap();
        let two = [loan().unwrap(), loan().unwrap()];
        assert_ne!(two[0].ino(), two[1].ino());
        drop(two);
        let mut tops = BTreeSet::new();
        let mut rng = Rng::new(1);
        for _ in 0..8 {
            let top = Hint {
                dir: true,
                top: true,
                seed: rng.next() as u32,
            };
            let dir = block_on(vol.create(Ino::ROOT, top)).unwrap().unwrap();
            tops.insert(flex(dir));
            let below = Hint { top: false, ..top };
            let sub = block_on(vol.create(dir, below)).unwrap().unwrap();
            assert_eq!(flex(sub), flex(dir));
            for _ in 0..20 {
                let file = block_on(vol.create(sub, Hint::default())).unwrap().unwrap();
                assert_eq!(flex(file), flex(dir));
            }
        }
        assert!(tops.len() >= 6, "{tops:?}");
        // More than a group has: the next one had nothing before.
        let uninit = |desc: &GroupDesc| desc.has_flag(GroupDesc::BLOCK_UNINIT, geo);
        let count = |bitmaps: &Bitmaps| bitmaps.descs.iter().filter(|desc| uninit(desc)).count();
        for _ in 0..2 * geo.inodes_per_group().get() {
            block_on(vol.create(Ino::ROOT, Hint::default()))
                .unwrap()
                .unwrap();
        }
        assert!(count(&Bitmaps::live(vol)) < count(&Bitmaps::read(&store)));
    });
}

#[test]
fn a_run_that_was_freed_bit_by_bit_is_found() {
    let dir = Scratch::new("alloc-bound");
    let store = base(
        &dir,
        ("-b 1024 -O ^has_journal,metadata_csum -N 64", 8 << 20),
    );
    quiet(&store, Kept::default(), |bed, vol| {
        let loops = Loops::start(bed, vol, None).unwrap();
        let mut runs = Vec::new();
        while let Ok(loan) = block_on(vol.loan(hint_at(1), 10, 1)).unwrap() {
            runs.push((loan.start().0, loan.len()));
            block_on(vol.apply(vec![loan])).unwrap().unwrap();
        }
        let free = |(start, count): (u64, u32)| {
            let tid = block_on(vol.free(start, count)).unwrap().unwrap();
            block_on(vol.journal.sync(tid)).unwrap().unwrap();
            machine::settle();
        };
        let long = || block_on(vol.loan(hint_at(1), 100, 100)).unwrap();
        for run in runs.iter().step_by(2) {
            free(*run);
        }
        // Now it is known how long the longest run is.
        assert_eq!(long().err(), Some(ENOSPC));
        // So nobody looks any more.
        block_on(vol.journal.sync(vol.journal.running_tid()))
            .unwrap()
            .unwrap();
        machine::settle();
        vol.cache.shrink(100_000);
        let (read, again) = reads(bed, long);
        assert_eq!((read, again.err()), (0, Some(ENOSPC)));
        let mut others = runs.iter().skip(101).step_by(2);
        for n in 0..4 {
            assert!(long().is_err(), "{n} were freed");
            free(*others.next().unwrap());
        }
        free(*others.next().unwrap());
        let loan = long().unwrap();
        assert_eq!(loan.start().0, runs[100].0);
        // A loan that is given back counts, too.
        drop(loan);
        assert_eq!(long().unwrap().start().0, runs[100].0);
        loops.stop(vol).unwrap();
    });
}

#[test]
fn there_is_no_inode_when_there_is_none() {
    let dir = Scratch::new("alloc-inodes");
    for kind in [
        ("-b 1024 -N 200 -J size=1", 33 << 20),
        (KINDS[5].0, 8 << 20),
    ] {
        quiet(&base(&dir, kind), Kept::default(), |_, vol| {
            let create = || block_on(vol.create(Ino::ROOT, Hint::default())).unwrap();
            let count = vol.groups.counters().free_inodes;
            let mut all = BTreeSet::new();
            while let Ok(ino) = create() {
                assert!(ino >= vol.sb.geo.first_ino() && all.insert(ino));
            }
            assert_eq!(all.len() as u64, count);
            assert_eq!(create().err(), Some(ENOSPC));
            // Without a log one that was freed just now is better than none.
            let ino = *all.iter().nth(all.len() / 2).unwrap();
            block_on(vol.remove(ino, false)).unwrap().unwrap();
            assert_eq!(create(), Ok(ino));
            assert_eq!(create().err(), Some(ENOSPC));
        });
    }
}
