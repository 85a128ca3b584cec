// SPDX-License-Identifier: GPL-2.0

//! Operations on names on a disk that fails and loses power, with memory that is short, and given
//! up on the way: each is done as a whole, or not at all.

use aext4::{Ext4, InodeInfo, InodeRef, Rename};
use kernel::machine::{self, Config, Fail, Rng};
use kernel::prelude::*;
use layout::Ino;
use sim::e2fs::{Image, Scratch};
use sim::tree::{dump, ended, mount, new_inode, writable, World, KINDS};
use sim::volume::Volume;
use sim::{dropped_after, simulate, simulate_on};
use simdisk::Store;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use upcall::block_on;

/// What was done before a loss of power.
#[derive(Default)]
struct Done {
    /// The tree after each operation.
    dumps: Vec<String>,
    /// How many operations are durable.
    synced: usize,
    /// States of the disk: what was durable when, and how many operations had begun.
    lost: Vec<(Store, usize, usize)>,
}

#[test]
fn a_loss_of_power_leaves_the_tree_after_some_operation() {
    let dir = Scratch::new("names-crash");
    let rounds = sim::count("NAMES_CRASHES", 8);
    let (mut states, mut behind) = (0u64, 0);
    for n in 0..rounds {
        // Those with a journal.
        let kinds = [KINDS[0], KINDS[1], KINDS[3], KINDS[4], KINDS[5], KINDS[7]];
        let options = kinds[n as usize % kinds.len()];
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let done = Arc::new(Mutex::new(Done::default()));
        simulate(n, image.store(), |bed| {
            let volume = writable(bed);
            let mut world = block_on(World::new(volume.clone(), n)).unwrap();
            done.lock().unwrap().dumps.push(world.model.dump());
            let (seen, mut rng) = (done.clone(), Rng::new(n));
            bed.device.observe(move |disk| {
                if !rng.one_in(4) {
                    return;
                }
                let states = disk.crash_states(rng.next());
                let count = states.len() as u64;
                let one = states.states().nth(rng.below(count) as usize);
                let store = states.store(one.expect("a state"));
                let mut done = seen.lock().unwrap();
                let (synced, begun) = (done.synced, done.dumps.len());
                done.lost.push((store, synced, begun));
            });
            for _ in 0..150 {
                block_on(world.steps(1, 60)).unwrap();
                done.lock().unwrap().dumps.push(world.model.dump());
                match world.rng.below(12) {
                    0 => {
                        let count = done.lock().unwrap().dumps.len();
                        block_on(world.ext4().sync()).unwrap().unwrap();
                        done.lock().unwrap().synced = count - 1;
                    }
                    1 => {
                        // The last change may be another directory's.
                        let some = world.some_dir();
                        let some = world.inodes[&some].clone();
                        block_on(world.ext4().sync_inode(&some)).unwrap().unwrap();
                    }
                    2 => block_on(upcall::sleep(Duration::from_secs(2))).unwrap(),
                    _ => {}
                }
            }
            block_on(world.let_go()).unwrap();
            drop(world);
            ended(bed, &volume);
        });
        let mut done = done.lock().unwrap();
        let lost = core::mem::take(&mut done.lost);
        for (store, synced, begun) in lost {
            let dumps = &done.dumps;
            states += 1;
            let store = simulate(states, store, |bed| {
                let volume = mount(bed);
                let tree = block_on(dump(&volume)).unwrap();
                // The one that was under way may be there.
                let end = (begun + 1).min(dumps.len());
                let found = dumps[synced..end].iter().position(|dump| *dump == tree);
                assert!(
                    found.is_some(),
                    "{options}: after {synced} to {begun} operations there is none with\n{tree}"
                );
                behind += usize::from(found != Some(0));
                // What was removed is deleted.
                block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
                assert_eq!(block_on(dump(&volume)).unwrap(), tree);
                machine::take_log();
                ended(bed, &volume)
            });
            if states % 3 == 0 {
                let after = Image::write(dir.path("after"), &store);
                assert_eq!(after.is_clean(), Ok(()), "{options}");
            }
        }
    }
    assert!(states > 100 && behind > 10, "{states} {behind}");
}

/// A tree for the operations of [`act`].
async fn prepare(volume: &Volume) {
    let ext4 = &volume.0;
    let root = ext4.iget(Ino::ROOT).await.unwrap();
    let (dir, file) = (new_inode(0o040_755), new_inode(0o100_600));
    let d = match ext4.lookup(&root, b"d").await.unwrap() {
        // In its inode, as its directories.
        Some(d) => d,
        None => {
            let d = ext4.create(&root, b"d", &dir).await.unwrap();
            ext4.create(&d, b"sub", &dir).await.unwrap();
            ext4.create(&d, b"sub2", &dir).await.unwrap();
            d
        }
    };
    let first = ext4.create(&root, b"file", &file).await.unwrap();
    let other = ext4.create(&root, b"other", &file).await.unwrap();
    ext4.link(&d, b"other too", &other, false).await.unwrap();
    let full = ext4.create(&root, b"full", &dir).await.unwrap();
    for n in 0..3 {
        let name = [b'0' + n; 250];
        ext4.link(&full, &name, &first, false).await.unwrap();
    }
    let indexed = ext4.create(&root, b"indexed", &dir).await.unwrap();
    for n in 0..40 {
        let mut name = format!("{n}-").into_bytes();
        name.resize(200, b'n');
        ext4.link(&indexed, &name, &first, false).await.unwrap();
    }
}

/// How many operations [`act`] knows.
const ACTS: usize = 21;

/// One of the operations, on a tree of [`prepare`].
async fn act(ext4: &Ext4, which: usize) -> Result {
    let root = ext4.iget(Ino::ROOT).await?;
    let find = async |dir: &InodeInfo, name: &[u8]| -> Result<InodeRef> {
        ext4.lookup(dir, name).await?.ok_or(ENOENT)
    };
    let d = find(&root, b"d").await?;
    let file = find(&root, b"file").await?;
    let other = find(&root, b"other").await?;
    let (new_file, new_dir) = (new_inode(0o100_600), new_inode(0o040_755));
    let plain = |to, new_name| Rename {
        from: &root,
        name: b"file",
        source: &file,
        to,
        new_name,
        target: None,
        exchange: false,
        whiteout: None,
    };
    match which {
        0 => ext4.create(&d, b"new", &new_file).await.map(drop),
        1 => ext4.create(&d, b"new", &new_dir).await.map(drop),
        2 => {
            let target = [b't'; 300];
            ext4.symlink(&d, b"new", &target, &new_file).await.map(drop)
        }
        3 => ext4
            .symlink(&d, b"new", b"short", &new_file)
            .await
            .map(drop),
        4 => ext4
            .create(&d, b"new", &new_inode(0o010_600))
            .await
            .map(drop),
        5 => ext4.link(&d, b"new", &file, false).await,
        6 => ext4.unlink(&root, b"other", &other).await,
        7 => {
            let too = b"other too";
            ext4.unlink(&root, b"other", &other).await?;
            // Half of it is no failure of the whole.
            ext4.unlink(&d, too, &other).await.or(Ok(()))
        }
        8 => {
            let sub = find(&d, b"sub").await?;
            ext4.rmdir(&d, b"sub", &sub).await
        }
        9 => ext4.rename(plain(&d, b"moved")).await,
        10 => ext4.rename(plain(&root, b"moved")).await,
        11 => {
            let mut ask = plain(&root, b"other");
            ask.target = Some(&other);
            ext4.rename(ask).await
        }
        12 => {
            let sub = find(&d, b"sub").await?;
            let mut ask = plain(&d, b"sub");
            ask.target = Some(&sub);
            ask.exchange = true;
            ext4.rename(ask).await
        }
        13 => {
            let mut ask = plain(&d, b"moved");
            let whiteout = new_inode(0o600);
            ask.whiteout = Some(&whiteout);
            ext4.rename(ask).await
        }
        14 => {
            // A directory, over an empty one.
            let (sub, sub2) = (find(&d, b"sub").await?, find(&d, b"sub2").await?);
            let mut ask = plain(&d, b"sub2");
            (ask.from, ask.name, ask.source) = (&d, b"sub", &sub);
            ask.target = Some(&sub2);
            ext4.rename(ask).await
        }
        15 => {
            let sub = find(&d, b"sub").await?;
            let mut ask = plain(&root, b"sub");
            (ask.from, ask.name, ask.source) = (&d, b"sub", &sub);
            ext4.rename(ask).await
        }
        16 => {
            let full = find(&root, b"full").await?;
            ext4.create(&full, &[b'9'; 250], &new_file).await.map(drop)
        }
        17 => {
            let indexed = find(&root, b"indexed").await?;
            ext4.create(&indexed, &[b'9'; 250], &new_file)
                .await
                .map(drop)
        }
        18 => {
            // The names that a split has room for, in both halves.
            let indexed = find(&root, b"indexed").await?;
            ext4.rename(plain(&indexed, &[b'8'; 255])).await
        }
        19 => {
            // It does not fit an inode.
            ext4.create(&d, &[b'7'; 200], &new_file).await.map(drop)
        }
        _ => {
            let made = ext4.tmpfile(&root, &new_file).await?;
            ext4.delete(made).await
        }
    }
}

/// What a test of [`act`] begins with: a disk with a tree, and the trees before and after each
/// operation.
fn acts_made(dir: &Scratch, options: &str) -> (Store, String, Vec<String>) {
    let mut options = options.to_string();
    if options.contains("inline_data") {
        let source = dir.path("source");
        for name in ["sub", "sub2"] {
            std::fs::create_dir_all(source.join("d").join(name)).expect("a directory");
        }
        options += &format!(" -d {}", source.display());
    }
    let image = Image::make(dir.path("image"), 8 << 20, &options);
    let (store, before) = simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        block_on(prepare(&volume)).unwrap();
        let before = block_on(dump(&volume)).unwrap();
        (ended(bed, &volume), before)
    });
    let after = (0..ACTS).map(|which| {
        simulate(2, store.clone(), |bed| {
            let volume = writable(bed);
            block_on(act(&volume.0, which)).unwrap().expect("it works");
            let after = block_on(dump(&volume)).unwrap();
            assert_eq!(after == before, which == ACTS - 1, "{which}");
            ended(bed, &volume);
            after
        })
    });
    let after = after.collect();
    (store, before, after)
}

/// The volume is made whole, also by a mount that deletes what was left.
fn settle(dir: &Scratch, store: Store, tree: &str, check: bool, what: &str) {
    let store = simulate(3, store, |bed| {
        let volume = writable(bed);
        assert_eq!(block_on(dump(&volume)).unwrap(), tree, "{what}");
        machine::take_log();
        ended(bed, &volume)
    });
    if check {
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{what}");
    }
}

const ACT_KINDS: [&str; 2] = ["-b 1024", "-b 1024 -I 256 -O ^extent,^64bit,inline_data"];

#[test]
fn every_allocation_failed_in_turn() {
    let dir = Scratch::new("names-memory");
    let mut failed = 0;
    for (options, which) in ACT_KINDS
        .iter()
        .flat_map(|o| (0..ACTS).map(move |w| (o, w)))
    {
        if *options == ACT_KINDS[1] && which % 3 != 1 {
            continue;
        }
        let (store, before, after) = acts_of(&dir, options);
        for nth in 0.. {
            let what = format!("{options}, operation {which}, allocation {nth}");
            let config = Config::new(nth);
            let (over, tree, store) = simulate_on(config, store.clone(), |bed| {
                let volume = writable(bed);
                volume.0.cache.shrink(100_000);
                machine::fail_allocations(Fail::Nth(nth));
                let result = match nth % 2 {
                    0 => block_on(act(&volume.0, which)).unwrap(),
                    _ => {
                        // On a worker it is waited for.
                        let other = volume.clone();
                        let task = async move { act(&other.0, which).await };
                        let task = bed.scope().spawn(task);
                        task.and_then(|task| block_on(task)?.map_err(|_| EINTR)?)
                    }
                };
                let hit = machine::allocations().1 != 0;
                machine::fail_allocations(Fail::Never);
                let tree = block_on(dump(&volume)).unwrap();
                match result {
                    Ok(()) => assert!(tree == after[which] || which == 7, "{what}"),
                    Err(error) => {
                        assert_eq!(error, ENOMEM, "{what}");
                        assert!(tree == before || which == 7, "{what}");
                        failed += 1;
                    }
                }
                machine::take_log();
                (!hit, tree, ended(bed, &volume))
            });
            if nth % 4 == 0 {
                settle(&dir, store, &tree, nth % 16 == 0, &what);
            }
            if over && nth % 2 == 0 {
                break;
            }
        }
    }
    assert!(failed > 100, "{failed}");
}

#[test]
fn every_read_failed_in_turn() {
    let dir = Scratch::new("names-reads");
    let mut failed = 0;
    for (options, which) in ACT_KINDS
        .iter()
        .flat_map(|o| (0..ACTS).map(move |w| (o, w)))
    {
        let (store, before, after) = acts_of(&dir, options);
        for nth in 0.. {
            let what = format!("{options}, operation {which}, read {nth}");
            let (over, tree, store) = simulate_on(Config::new(nth), store.clone(), |bed| {
                let volume = writable(bed);
                volume.0.cache.shrink(100_000);
                let first = bed.device.disk().counts().reads;
                bed.device.disk().faults.reads.insert(first + nth);
                let result = block_on(act(&volume.0, which)).unwrap();
                let over = bed.device.disk().counts().reads <= first + nth;
                bed.device.disk().faults.reads.clear();
                let tree = block_on(dump(&volume)).unwrap();
                match result {
                    Ok(()) => assert!(tree == after[which] || which == 7, "{what}"),
                    Err(_) => {
                        assert!(tree == before || which == 7, "{what}");
                        failed += 1;
                    }
                }
                machine::take_log();
                (over, tree, ended(bed, &volume))
            });
            settle(&dir, store, &tree, nth % 4 == 0, &what);
            if over {
                break;
            }
        }
    }
    assert!(failed > 50, "{failed}");
}

#[test]
fn every_future_dropped_at_each_poll() {
    let dir = Scratch::new("names-dropped");
    let mut dropped = 0;
    for (options, which) in ACT_KINDS
        .iter()
        .flat_map(|o| (0..ACTS).map(move |w| (o, w)))
    {
        let (store, before, after) = acts_of(&dir, options);
        for polls in 0.. {
            let what = format!("{options}, operation {which}, {polls} polls");
            let config = Config::new(polls as u64);
            let (over, tree, store) = simulate_on(config, store.clone(), |bed| {
                let volume = writable(bed);
                volume.0.cache.shrink(100_000);
                let result = block_on(dropped_after(polls, act(&volume.0, which))).unwrap();
                let tree = block_on(dump(&volume)).unwrap();
                match result {
                    Some(result) => {
                        assert_eq!(result, Ok(()), "{what}");
                        assert!(tree == after[which], "{what}");
                    }
                    None => {
                        let whole = tree == before || tree == after[which] || which == 7;
                        assert!(whole, "{what}");
                        dropped += 1;
                    }
                }
                machine::take_log();
                (result.is_some(), tree, ended(bed, &volume))
            });
            settle(&dir, store, &tree, polls % 4 == 0, &what);
            if over {
                break;
            }
        }
    }
    assert!(dropped > 100, "{dropped}");
}

/// [`acts_made`], once for each kind.
fn acts_of(dir: &Scratch, options: &str) -> (Store, String, Vec<String>) {
    type Acts = BTreeMap<String, (Store, String, Vec<String>)>;
    static MADE: Mutex<Acts> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    let acts = made.entry(options.to_string());
    acts.or_insert_with(|| acts_made(dir, options)).clone()
}
