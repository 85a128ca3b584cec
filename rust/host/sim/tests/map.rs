// SPDX-License-Identifier: GPL-2.0

//! A file's map changes as a model does, on extents and on block pointers, and e2fsck agrees.

use aext4::alloc::Space;
use aext4::inode_plan::InodePlan;
use aext4::map_plan::MapPlan;
use aext4::{Ext4, InodeInfo, Options};
use kernel::machine::{self, Config, Rng};
use kernel::prelude::*;
use layout::{ExtentState, Lblk, Pblk};
use sim::e2fs::{Image, Scratch};
use sim::volume::Volume;
use sim::{count, simulate, simulate_on, Bed};
use simdisk::Store;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use upcall::block_on;
use upcall::simulation::jitter;

const KINDS: [&str; 6] = [
    "-b 4096 -I 256",
    "-b 1024",
    "-b 1024 -O ^metadata_csum,^64bit",
    "-b 1024 -O ^has_journal,^extent,^metadata_csum,^64bit",
    "-b 4096 -O ^extent,^metadata_csum,^64bit",
    "-b 2048 -r 0 -O none",
];

/// What is mapped: each block, and whether it is unwritten.
type Model = BTreeMap<u32, (u64, bool)>;

fn writable(bed: &Bed) -> Volume {
    let volume = block_on(Volume::mount(bed, Options::default()));
    let volume = volume.expect("no deadlock").expect("it mounts");
    block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
    volume
}

/// An image with empty files `a`, `b` and so on.
fn image(dir: &Scratch, size: u64, options: &str, files: u32) -> Image {
    let image = Image::make(dir.path("image"), size, options);
    let empty = Image::file(dir, "empty", b"");
    let empty = empty.to_str().unwrap();
    let mut commands = String::new();
    for n in 0..files {
        let name = char::from(b'a' + n as u8);
        commands += &format!("write {empty} {name}\n");
    }
    image.debugfs(&commands);
    image
}

fn is_extents(info: &InodeInfo) -> bool {
    info.data_map() == layout::DataMap::Extents
}

/// The highest block that a test maps: near the end of what the format has, sometimes.
fn some_block(rng: &mut Rng, most: u32) -> u32 {
    match rng.below(6) {
        0 => rng.below(64) as u32,
        1 => rng.below(300) as u32,
        2 => rng.below(70_000) as u32 % most,
        3 => most - 1 - rng.below(200) as u32,
        4 => rng.below(u64::from(most)) as u32,
        _ => rng.below(2000) as u32,
    }
}

/// Maps a run of holes from `at` on.
async fn map(
    volume: &Ext4,
    info: &InodeInfo,
    model: &mut Model,
    at: u32,
    want: u32,
    unwritten: bool,
) -> Result {
    let writable = volume.writable()?;
    let guard = info.map_lock.write().await.unwrap();
    let goal = volume.goal(info, Lblk(at)).await?;
    let alloc = writable.allocator(volume);
    let loan = alloc.loan_blocks(goal, want, 1, &mut Space::Root).await?;
    let (start, len) = (loan.start().0, loan.len());
    let mut plan = MapPlan::new(volume, &writable, info, Space::Root).await?;
    plan.map_loan(Lblk(at), loan, unwritten).await?;
    finish(volume, info, plan, u64::from(at) + u64::from(len)).await?;
    drop(guard);
    for n in 0..len {
        let old = model.insert(at + n, (start + u64::from(n), unwritten));
        assert_eq!(old, None);
    }
    Ok(())
}

async fn finish(volume: &Ext4, info: &InodeInfo, plan: MapPlan<'_>, end: u64) -> Result {
    let writable = volume.writable()?;
    let inode = volume.plan_inode(info).await?;
    let credits = plan.credits().and(InodePlan::CREDITS);
    let mut tx = writable.journal.begin(&volume.cache, credits).await?;
    let change = plan.apply(&mut tx);
    let size = (end << volume.sb.geo.block_bits()).max(info.size());
    inode.apply(volume, &mut tx, info, |edit| {
        change.put(edit);
        edit.set_size(size);
    });
    drop(change);
    Ok(())
}

async fn unmap(volume: &Ext4, info: &InodeInfo, model: &mut Model, from: u32, until: u32) {
    let mut end = until;
    while end > from {
        let writable = volume.writable().unwrap();
        let guard = info.map_lock.write().await.unwrap();
        let mut plan = MapPlan::new(volume, &writable, info, Space::Root)
            .await
            .unwrap();
        let to = plan.unmap(Lblk(from), Lblk(end), 40).await.unwrap();
        assert!(to.0 < end);
        finish(volume, info, plan, 0).await.unwrap();
        drop(guard);
        model.retain(|at, _| *at < to.0 || *at >= end);
        end = to.0;
    }
}

async fn convert(
    volume: &Ext4,
    info: &InodeInfo,
    model: &mut Model,
    at: u32,
    len: u32,
    unwritten: bool,
) {
    let writable = volume.writable().unwrap();
    let guard = info.map_lock.write().await.unwrap();
    let mut plan = MapPlan::new(volume, &writable, info, Space::Root)
        .await
        .unwrap();
    plan.convert(Lblk(at), len, unwritten).await.unwrap();
    finish(volume, info, plan, 0).await.unwrap();
    drop(guard);
    for n in at..at + len {
        model.get_mut(&n).unwrap().1 = unwritten;
    }
}

async fn check(volume: &Ext4, info: &InodeInfo, model: &Model, around: u32) {
    let keys: Vec<u32> = model.keys().copied().collect();
    let near = (around.saturating_sub(3)..around.saturating_add(3)).filter(|at| *at < u32::MAX);
    for at in keys.into_iter().chain(near) {
        let extent = volume.map(info, Lblk(at)).await.unwrap();
        let here = extent.from(Lblk(at)).unwrap();
        let said = match here.state {
            ExtentState::Hole => None,
            ExtentState::Written(Pblk(p)) => Some((p, false)),
            ExtentState::Unwritten(Pblk(p)) => Some((p, true)),
        };
        assert_eq!(said, model.get(&at).copied(), "block {at}");
        if let (ExtentState::Hole, Some((next, _))) = (here.state, model.range(at..).next()) {
            assert!(here.end().0 <= *next, "a hole up to {}", here.end().0);
        }
    }
}

/// What debugfs says of the blocks of a file must be what the model says.
fn judge(image: &Image, ino: u32, model: &Model) {
    let listed: Vec<u64> = image.blocks(ino);
    let data: Vec<u64> = model.values().map(|(p, _)| *p).collect();
    // debugfs lists blocks of the tree, too.
    let known: std::collections::BTreeSet<u64> = listed.iter().copied().collect();
    assert!(data.iter().all(|p| known.contains(p)));
}

fn run_kind(seed: u64, options: &str, dir: &Scratch) {
    let image = image(dir, 24 << 20, options, 2);
    let (store, models) = simulate(seed, image.store(), |bed| {
        let volume = writable(bed);
        let models = block_on(random(seed, &volume)).unwrap();
        machine::settle();
        block_on(volume.0.make_read_only()).unwrap().unwrap();
        (bed.device.disk().durable().clone(), models)
    });
    let after = Image::write(dir.path("after"), &store);
    assert_eq!(after.is_clean(), Ok(()), "seed {seed}, {options}");
    for (ino, model) in models {
        judge(&after, ino, &model);
    }
}

async fn random(seed: u64, volume: &Volume) -> Vec<(u32, Model)> {
    let mut rng = Rng::new(seed);
    let volume_ref = &volume.0;
    let mut models = Vec::new();
    let files = [
        volume.path(b"a").await.unwrap(),
        volume.path(b"b").await.unwrap(),
    ];
    for _ in &files {
        models.push(Model::new());
    }
    for _ in 0..150 {
        let which = rng.below(2) as usize;
        let (info, model) = (&files[which], &mut models[which]);
        let extents = is_extents(info);
        let most = volume_ref.max_size(info) >> volume_ref.sb.geo.block_bits();
        let most = most.min(u64::from(u32::MAX - 1)) as u32;
        let at = some_block(&mut rng, most);
        match rng.below(10) {
            0..=5 => {
                let mut len = [1, 2, 40, 400][rng.below(4) as usize].min(u32::MAX - 1 - at);
                len = len.min(most - at);
                if let Some((next, _)) = model.range(at..).next() {
                    len = len.min(*next - at);
                }
                let unwritten = extents && rng.one_in(3);
                if len == 0 {
                    continue;
                }
                match map(volume_ref, info, model, at, len, unwritten).await {
                    Ok(()) => {}
                    Err(ENOSPC) => unmap(volume_ref, info, model, 0, u32::MAX).await,
                    Err(error) => panic!("seed {seed}: {error:?} at {at}"),
                }
            }
            6..=7 => {
                let keys: Vec<u32> = model.keys().copied().collect();
                if keys.is_empty() {
                    continue;
                }
                let from = keys[rng.below(keys.len() as u64) as usize];
                let len = [1, 3, 100, 5000, u32::MAX][rng.below(5) as usize];
                let until = from.saturating_add(len);
                unmap(volume_ref, info, model, from, until).await;
            }
            _ if extents => {
                let keys: Vec<u32> = model.keys().copied().collect();
                if keys.is_empty() {
                    continue;
                }
                let at = keys[rng.below(keys.len() as u64) as usize];
                let was = model[&at].1;
                let most = 1 + rng.below(30) as u32;
                let len = (1..most)
                    .take_while(|n| model.get(&(at + n)).is_some_and(|m| m.1 == was))
                    .count() as u32;
                convert(volume_ref, info, model, at, len + 1, !was).await;
            }
            _ => {}
        }
        if rng.one_in(8) {
            check(volume_ref, info, model, at).await;
        }
        if rng.one_in(40) {
            volume_ref.cache.shrink(1000);
        }
    }
    let mut all = Vec::new();
    for (info, model) in files.iter().zip(models) {
        check(volume_ref, info, &model, 5).await;
        all.push((info.ino.0, model));
    }
    all
}

#[test]
fn maps_change_as_the_model_does() {
    let dir = Scratch::new("map-random");
    for seed in 0..count("SIM_MAPS", 24) {
        run_kind(seed, KINDS[(seed % 6) as usize], &dir);
    }
}

/// A file is cut at random, on the disk.
async fn cut(seed: u64, volume: &Volume) -> Vec<(u32, Model)> {
    let mut rng = Rng::new(seed);
    let ext4 = &volume.0;
    let info = volume.path(b"a").await.unwrap();
    let bits = ext4.sb.geo.block_bits();
    let most = ext4.max_size(&info) >> bits;
    let most = most.min(u64::from(u32::MAX - 1)) as u32;
    let mut model = Model::new();
    for _ in 0..25 {
        for _ in 0..rng.below(40) {
            let at = some_block(&mut rng, most);
            let next = model.range(at..).next().map_or(most, |(next, _)| *next);
            let len = (next - at).min(1 + rng.below(9) as u32);
            if len > 0 {
                map(ext4, &info, &mut model, at, len, false).await.unwrap();
            }
        }
        let size = match rng.below(4) {
            0 => 0,
            1 => info.size(),
            2 => (u64::from(some_block(&mut rng, most)) << bits) + rng.below(1 << bits),
            _ => rng.below(1 << 20),
        };
        ext4.truncate(&info, size).await.unwrap();
        assert_eq!(info.size(), size);
        model.retain(|at, _| u64::from(*at) << bits < size);
        check(ext4, &info, &model, (size >> bits) as u32).await;
        assert!(!ext4.is_orphan(info.ino).await.unwrap());
    }
    vec![(info.ino.0, model)]
}

#[test]
fn files_are_cut_as_the_model_is() {
    let dir = Scratch::new("map-cut");
    for seed in 0..count("SIM_MAPS", 24) {
        let options = KINDS[(seed % 6) as usize];
        let image = image(&dir, 24 << 20, options, 2);
        let (store, models) = simulate(seed, image.store(), |bed| {
            let volume = writable(bed);
            let models = block_on(cut(seed, &volume)).unwrap();
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            (bed.device.disk().durable().clone(), models)
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "seed {seed}, {options}");
        for (ino, model) in models {
            judge(&after, ino, &model);
        }
    }
}

/// What is known of the blocks of a file while somebody changes its map.
#[derive(Default)]
struct Known {
    /// How many changes have begun, and ended.
    begun: u64,
    ended: u64,
    model: Model,
}

/// Looks a block up again and again. What is found when nothing has changed must be the model's.
async fn look(volume: Volume, known: Arc<Mutex<Known>>, seed: u64) -> Result<u64> {
    let mut rng = Rng::new(seed);
    let info = volume.path(b"a").await?;
    let mut judged = 0;
    loop {
        let (before, over) = {
            let known = known.lock().unwrap();
            (known.begun, known.begun == u64::MAX)
        };
        if over {
            return Ok(judged);
        }
        let at = rng.below(900) as u32;
        let extent = volume.0.map(&info, Lblk(at)).await?;
        let found = extent.from(Lblk(at)).and_then(|extent| extent.pblk());
        {
            let known = known.lock().unwrap();
            if known.begun == before && known.ended == before {
                let is = known.model.get(&at).map(|(pblk, _)| Pblk(*pblk));
                assert_eq!(found, is, "block {at}");
                judged += 1;
            }
        }
        if rng.one_in(30) {
            volume.0.cache.shrink(100);
        }
        jitter().await;
    }
}

#[test]
fn who_looks_while_the_map_changes_finds_nothing_old() {
    let dir = Scratch::new("map-look");
    for seed in 0..count("SIM_LOOKS", 8) {
        let image = image(&dir, 16 << 20, KINDS[1 + (seed % 4) as usize], 2);
        simulate(seed, image.store(), |bed| {
            let volume = writable(bed);
            let known = Arc::new(Mutex::new(Known::default()));
            let tasks: Vec<_> = (0..3)
                .map(|n| look(volume.clone(), known.clone(), seed * 9 + n))
                .map(|look| bed.scope().spawn(look).unwrap())
                .collect();
            block_on(async {
                let mut rng = Rng::new(seed);
                let info = volume.path(b"a").await.unwrap();
                let mut model = Model::new();
                for _ in 0..120 {
                    known.lock().unwrap().begun += 1;
                    let at = rng.below(900) as u32;
                    if rng.one_in(3) {
                        let until = at + 1 + rng.below(60) as u32;
                        unmap(&volume.0, &info, &mut model, at, until).await;
                    } else if !model.contains_key(&at) {
                        let next = model.range(at..).next().map_or(900, |(next, _)| *next);
                        let len = (next - at).min(1 + rng.below(3) as u32);
                        let mapped = map(&volume.0, &info, &mut model, at, len, false);
                        mapped.await.unwrap();
                    }
                    {
                        let mut known = known.lock().unwrap();
                        known.model = model.clone();
                        known.ended += 1;
                    }
                    let pause = std::time::Duration::from_micros(rng.below(400));
                    upcall::sleep(pause).await;
                }
                known.lock().unwrap().begun = u64::MAX;
            })
            .unwrap();
            for task in tasks {
                let judged = block_on(task).unwrap().unwrap().unwrap();
                assert!(judged > 20, "{judged}");
            }
            block_on(volume.0.make_read_only()).unwrap().unwrap();
        });
    }
}

#[test]
fn a_cut_goes_on_after_a_loss_of_power() {
    let dir = Scratch::new("map-orphan");
    let (mut states, mut cut) = (0, 0);
    for seed in 0..count("SIM_CUTS", 4) {
        let options = KINDS[[1, 2, 4, 0][(seed % 4) as usize]];
        let image = image(&dir, 16 << 20, options, 1);
        let lost = Arc::new(Mutex::new(Vec::<Store>::new()));
        let old = simulate_on(Config::new(seed), image.store(), |bed| {
            let volume = writable(bed);
            let old = block_on(async {
                let info = volume.path(b"a").await.unwrap();
                let mut model = Model::new();
                for n in 0..500 {
                    let mapped = map(&volume.0, &info, &mut model, n * 2, 1, false);
                    mapped.await.unwrap();
                }
                volume.0.sync().await.unwrap();
                info.size()
            })
            .unwrap();
            let (all_lost, mut rng) = (lost.clone(), Rng::new(seed));
            bed.device.observe(move |disk| {
                let all = disk.crash_states(rng.next());
                let share = all.len() as u64 / 3 + 1;
                let some = all.states().filter(|_| rng.one_in(share));
                let stores = some.map(|crash| all.store(crash));
                all_lost.lock().unwrap().extend(stores);
            });
            block_on(async {
                let info = volume.path(b"a").await.unwrap();
                let (cut, syncs) = (volume.0.truncate(&info, 1000), async {
                    for _ in 0..12 {
                        upcall::yield_now().await;
                        volume.0.sync().await.unwrap();
                    }
                });
                let mut both = upcall::join_all([
                    Box::pin(async { cut.await }) as Work<'_>,
                    Box::pin(async {
                        syncs.await;
                        Ok(())
                    }),
                ])
                .unwrap()
                .await
                .unwrap();
                while let Some(done) = both.pop() {
                    done.unwrap();
                }
                volume.0.sync().await.unwrap();
            })
            .unwrap();
            bed.device.observe(|_| ());
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            old
        });
        for store in core::mem::take(&mut *lost.lock().unwrap()) {
            states += 1;
            let after = simulate_on(Config::new(states), store, |bed| {
                let volume = writable(bed);
                block_on(async {
                    let info = volume.path(b"a").await.unwrap();
                    assert!([old, 1000].contains(&info.size()), "{}", info.size());
                    assert!(!volume.0.is_orphan(info.ino).await.unwrap());
                    if info.size() == 1000 {
                        cut += 1;
                        let block = u64::from(volume.0.sb.geo.block_size());
                        // One of data, and those of a tree that leads to it.
                        assert!(volume.0.sectors(&info) <= block / 512 * 3);
                    }
                })
                .unwrap();
                block_on(volume.0.make_read_only()).unwrap().unwrap();
                machine::take_log();
                bed.device.disk().durable().clone()
            });
            if states % 4 == 0 {
                let after = Image::write(dir.path("after"), &after);
                assert_eq!(after.is_clean(), Ok(()), "state {states}, {options}");
            }
        }
    }
    assert!(states > 40 && cut > 10, "{states}, {cut}");
}

type Work<'a> = std::pin::Pin<Box<dyn std::future::Future<Output = Result> + 'a>>;
