// SPDX-License-Identifier: GPL-2.0

//! Names come, go and move, on volumes of all kinds: the tree is what a model says.

use aext4::{Ext4, InodeInfo, Rename, XattrFlags};
use kernel::machine::{self, Rng};
use kernel::prelude::*;
use layout::{DataMap, Ino};
use sim::e2fs::{run, Image, Scratch};
use sim::tree::{dump, ended, mount, new_inode, writable, Kind, World, KINDS};
use sim::volume::Volume;
use sim::{dropped_after, simulate};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use upcall::block_on;
use upcall::simulation::jitter;

const CRC: layout::CrcFns = layout::CrcFns {
    crc32c: disk::checksum::crc32c,
    crc16: disk::checksum::crc16,
};

#[test]
fn names_are_what_a_model_says_on_every_kind_of_volume() {
    let dir = Scratch::new("names");
    let count = sim::count("NAMES_STEPS", 300);
    let mut seen = BTreeMap::new();
    for (n, options) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let (model, store) = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let mut world = block_on(World::new(volume.clone(), n as u64)).unwrap();
            block_on(world.steps(count, 40)).unwrap();
            block_on(world.let_go()).unwrap();
            let model = world.model.dump();
            assert_eq!(block_on(dump(&volume)).unwrap(), model, "{options}");
            for (what, times) in core::mem::take(&mut world.seen) {
                *seen.entry(what).or_insert(0) += times;
            }
            drop(world);
            let store = ended(bed, &volume);
            assert_eq!(machine::take_log(), Vec::<String>::new(), "{options}");
            (model, store)
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
        simulate(n as u64, store, |bed| {
            let volume = mount(bed);
            assert_eq!(block_on(dump(&volume)).unwrap(), model, "{options}");
        });
    }
    eprintln!("{seen:#?}");
    assert!(seen.len() > 10, "{seen:#?}");
}

/// What comes of a future within a second.
async fn timeout<T>(future: impl Future<Output = Option<T>>) -> Option<T> {
    let within = upcall::timeout(Duration::from_secs(1), future).await;
    within.ok().flatten()
}

/// How many levels the index of a directory has: 0 without one.
async fn levels(volume: &Volume, dir: &InodeInfo) -> u8 {
    if !dir.is_indexed() {
        return 0;
    }
    let extent = volume.0.map(dir, layout::Lblk(0)).await.expect("a map");
    let pblk = extent.pblk().expect("a block");
    let block = volume.0.block(pblk).await.expect("a block");
    let root = layout::DxRoot::parse(block.data(), &volume.0.sb.geo);
    root.expect("a root").levels + 1
}

/// Lets a directory have `count` names of one file, with some removed on the way. Gives the names.
async fn crowd(volume: &Volume, dir: &InodeInfo, count: usize, len: usize) -> BTreeSet<Vec<u8>> {
    let ext4 = &volume.0;
    let mut rng = Rng::new(count as u64);
    let file = ext4.create(dir, b"the file", &new_inode(0o100_600)).await;
    let file = file.expect("it is made");
    let mut names = BTreeSet::from([b"the file".to_vec()]);
    for n in 0..count {
        let mut name = format!("{n}-").into_bytes();
        name.resize(
            len.max(name.len()) - rng.below(len as u64 / 2) as usize,
            b'n',
        );
        ext4.link(dir, &name, &file, false)
            .await
            .expect("there is room");
        assert_eq!(ext4.link(dir, &name, &file, false).await, Err(EEXIST));
        names.insert(name);
        if rng.one_in(7) {
            let at = rng.below(names.len() as u64) as usize;
            let name = names.iter().nth(at).expect("a name").clone();
            ext4.unlink(dir, &name, &file).await.expect("it goes");
            assert_eq!(ext4.unlink(dir, &name, &file).await, Err(ENOENT));
            names.remove(&name);
        }
    }
    assert_eq!(file.inode().links as usize, names.len());
    names
}

async fn listed(volume: &Volume, dir: &InodeInfo) -> BTreeSet<Vec<u8>> {
    let entries = volume.entries(dir).await.expect("a listing");
    let names = entries.into_iter().map(|(name, _, _)| name);
    names.filter(|name| name != b"." && name != b"..").collect()
}

/// Directories grow, on volumes made so, to so many levels of an index; and shrink.
fn grows(options: &str, size: u64, count: usize, len: usize, deep: u8) {
    let dir = Scratch::new(&format!("names-grow-{deep}-{count}-{}", options.len()));
    let image = Image::make(dir.path("image"), size, options);
    let (names, store) = simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        let names = block_on(async {
            let root = volume.0.iget(Ino::ROOT).await.unwrap();
            let new = new_inode(0o040_755);
            let dir = volume.0.create(&root, b"crowd", &new).await.unwrap();
            let names = crowd(&volume, &dir, count, len).await;
            assert_eq!(levels(&volume, &dir).await, deep, "{options}");
            assert!(listed(&volume, &dir).await == names, "{options}");
            names
        });
        (names.unwrap(), ended(bed, &volume))
    });
    let after = Image::write(dir.path("after"), &store);
    assert_eq!(after.is_clean(), Ok(()), "{options}");
    let store = simulate(2, store, |bed| {
        let volume = writable(bed);
        block_on(async {
            let dir = volume.path(b"crowd").await.unwrap();
            assert!(listed(&volume, &dir).await == names, "{options}");
            let file = volume.0.lookup(&dir, b"the file").await.unwrap();
            let file = match file {
                Some(file) => file,
                None => {
                    let name = names.first().unwrap();
                    volume.0.lookup(&dir, name).await.unwrap().unwrap()
                }
            };
            let root = volume.0.iget(Ino::ROOT).await.unwrap();
            assert_eq!(volume.0.rmdir(&root, b"crowd", &dir).await, Err(ENOTEMPTY));
            for name in &names {
                let found = volume.0.lookup(&dir, name).await.unwrap();
                assert_eq!(found.expect("it is there").ino, file.ino);
                volume.0.unlink(&dir, name, &file).await.expect("it goes");
            }
            assert!(listed(&volume, &dir).await.is_empty());
            volume.0.rmdir(&root, b"crowd", &dir).await.unwrap();
            for left in [file, dir] {
                assert!(left.is_deleted());
                volume.0.delete(left).await.unwrap();
            }
        })
        .unwrap();
        ended(bed, &volume)
    });
    let after = Image::write(dir.path("after"), &store);
    assert_eq!(after.is_clean(), Ok(()), "{options}");
}

#[test]
fn directories_grow_to_an_index_of_two_levels() {
    for (options, count, len, deep) in [
        ("-b 1024", 2500, 100, 2),
        ("-b 1024 -O ^metadata_csum,^64bit,^extent", 2500, 100, 2),
        ("-b 1024 -r 0 -O none", 500, 100, 0),
        ("-b 1024 -O ^dir_index", 2200, 60, 0),
        ("-b 4096", 3000, 100, 1),
        (
            "-b 4096 -O ^has_journal,^filetype,^metadata_csum",
            2000,
            100,
            1,
        ),
        ("-b 1024 -I 512 -O inline_data", 2500, 100, 2),
    ] {
        grows(options, 16 << 20, count, len, deep);
    }
}

#[test]
fn directories_grow_to_an_index_of_three_levels() {
    grows("-b 1024 -O large_dir", 96 << 20, 50_000, 250, 3);
}

/// Names of 240 times "x" and one of these have the same legacy hash.
const ONE_LEGACY_HASH: &str = "\
    aaaaaaa 26laacT w2hbaBJ TW8jaZC 8CikaFY tyflaO2 1NhmaKe k8Mnayu ZOwoaxx vldtanT 9p3uayV";

#[test]
fn a_name_whose_hash_goes_on_in_the_next_leaf_is_not_made_twice() {
    let dir = Scratch::new("names-hash");
    let image = Image::make(dir.path("image"), 16 << 20, "-b 1024");
    let path = image.path().to_str().expect("UTF-8");
    let (status, said) = run("tune2fs", &["-E", "hash_alg=legacy", path]);
    assert_eq!(status, 0, "{said}");
    let names = ONE_LEGACY_HASH.split_whitespace();
    let names: BTreeSet<Vec<u8>> = names
        .map(|end| ["x".repeat(240).as_bytes(), end.as_bytes()].concat())
        .collect();
    let store = simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        block_on(async {
            let ext4 = &volume.0;
            let root = ext4.iget(Ino::ROOT).await.unwrap();
            let new = new_inode(0o040_755);
            let dir = ext4.create(&root, b"crowd", &new).await.unwrap();
            let new = new_inode(0o100_600);
            for name in &names {
                ext4.create(&dir, name, &new).await.unwrap();
            }
            // A leaf has three.
            assert_eq!(levels(&volume, &dir).await, 1);
            for name in &names {
                assert_eq!(ext4.create(&dir, name, &new).await.err(), Some(EEXIST));
            }
            assert!(listed(&volume, &dir).await == names);
        })
        .unwrap();
        ended(bed, &volume)
    });
    let after = Image::write(dir.path("after"), &store);
    assert_eq!(after.is_clean(), Ok(()));
}

#[test]
fn what_lost_its_last_name_meanwhile_gets_no_other() {
    let dir = Scratch::new("names-last");
    let image = Image::make(dir.path("image"), 8 << 20, "-b 1024");
    let store = simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        block_on(async {
            let ext4 = &volume.0;
            let root = ext4.iget(Ino::ROOT).await.unwrap();
            let new = new_inode(0o100_600);
            let file = ext4.create(&root, b"file", &new).await.unwrap();
            ext4.unlink(&root, b"file", &file).await.unwrap();
            let linked = ext4.link(&root, b"again", &file, true).await;
            assert_eq!(linked, Err(ESTALE));
            assert!(ext4.lookup(&root, b"again").await.unwrap().is_none());
            // Who says that it may.
            ext4.link(&root, b"again", &file, false).await.unwrap();
            let found = ext4.lookup(&root, b"again").await.unwrap();
            assert_eq!(found.unwrap().ino, file.ino);
        })
        .unwrap();
        ended(bed, &volume)
    });
    let after = Image::write(dir.path("after"), &store);
    assert_eq!(after.is_clean(), Ok(()));
}

#[test]
fn an_index_that_is_full_is_no_space() {
    // Without large_dir it has two levels.
    let dir = Scratch::new("names-full");
    let image = Image::make(dir.path("image"), 96 << 20, "-b 1024");
    let store = simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        let made = block_on(async {
            let root = volume.0.iget(Ino::ROOT).await.unwrap();
            let new = new_inode(0o040_755);
            let dir = volume.0.create(&root, b"crowd", &new).await.unwrap();
            let new = new_inode(0o100_600);
            let file = volume.0.create(&dir, b"file", &new).await.unwrap();
            for n in 0..65_000 {
                let mut name = format!("{n}-").into_bytes();
                name.resize(250, b'n');
                match volume.0.link(&dir, &name, &file, false).await {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error, ENOSPC);
                        let names = listed(&volume, &dir).await;
                        assert_eq!(names.len(), n + 1);
                        return n;
                    }
                }
            }
            panic!("there is always room");
        });
        assert!(made.unwrap() > 10_000);
        machine::take_log();
        ended(bed, &volume)
    });
    let after = Image::write(dir.path("after"), &store);
    assert_eq!(after.is_clean(), Ok(()));
}

#[test]
fn links_are_counted_as_far_as_they_can_be() {
    let dir = Scratch::new("names-links");
    // Without dir_nlink directories are counted to the end.
    for (n, nlink) in ["", " -O ^dir_nlink"].iter().enumerate() {
        let options = format!("-b 1024{nlink}");
        let image = Image::make(dir.path("image"), 16 << 20, &options);
        // As if there were almost as many as there can be.
        image.debugfs("mkdir dirs\nsif dirs links_count 64990\n");
        let store = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            block_on(async {
                let dir = volume.path(b"dirs").await.unwrap();
                let new = new_inode(0o040_755);
                let mut results = Vec::new();
                for n in 0..20u8 {
                    let made = volume.0.create(&dir, &[b'a' + n; 250], &new).await;
                    results.push(made.map(drop));
                }
                assert!(dir.is_indexed());
                let (fits, more) = results.split_at(10);
                assert!(fits.iter().all(|result| result.is_ok()), "{results:?}");
                if nlink.is_empty() {
                    assert!(more.iter().all(|result| result.is_ok()), "{results:?}");
                    assert_eq!(dir.inode().links, 1);
                    let name = [b'b'; 250];
                    let gone = volume.0.lookup(&dir, &name).await.unwrap().unwrap();
                    volume.0.rmdir(&dir, &name, &gone).await.unwrap();
                    volume.0.delete(gone).await.unwrap();
                    assert_eq!(dir.inode().links, 1);
                } else {
                    let full = |result: &Result| *result == Err(EMLINK);
                    assert!(more.iter().all(full), "{results:?}");
                    assert_eq!(dir.inode().links, 65_000);
                    // Neither can a directory move here.
                    let root = volume.0.iget(Ino::ROOT).await.unwrap();
                    let other = volume.0.create(&root, b"other", &new).await.unwrap();
                    let ask = Rename {
                        from: &root,
                        name: b"other",
                        source: &other,
                        to: &dir,
                        new_name: b"other",
                        target: None,
                        exchange: false,
                        whiteout: None,
                    };
                    assert_eq!(volume.0.rename(ask).await, Err(EMLINK));
                }
                let root = volume.0.iget(Ino::ROOT).await.unwrap();
                let file = volume.0.create(&root, b"file", &new_inode(0o100_600)).await;
                drop(file.expect("it is made"));
            })
            .unwrap();
            ended(bed, &volume)
        });
        let after = Image::write(dir.path("after"), &store);
        if !nlink.is_empty() {
            after.debugfs("sif dirs links_count 12\n");
        }
        assert_eq!(after.is_clean(), Ok(()), "{options}");
    }
    // A file has as many names as it may.
    let image = Image::make(dir.path("image"), 16 << 20, "-b 1024");
    image.debugfs("mkdir dirs\nsymlink dirs/link target\nsif dirs/link links_count 64999\n");
    let store = simulate(5, image.store(), |bed| {
        let volume = writable(bed);
        block_on(async {
            let (dir, link) = (volume.path(b"dirs").await, volume.path(b"dirs/link").await);
            let (dir, link) = (dir.unwrap(), link.unwrap());
            assert_eq!(volume.0.link(&dir, b"more", &link, false).await, Ok(()));
            assert_eq!(
                volume.0.link(&dir, b"too many", &link, false).await,
                Err(EMLINK)
            );
        })
        .unwrap();
        ended(bed, &volume)
    });
    let after = Image::write(dir.path("after"), &store);
    after.debugfs("sif dirs/link links_count 2\n");
    assert_eq!(after.is_clean(), Ok(()));
}

/// The names of the directories that tasks have in common.
const COMMON: [&[u8]; 3] = [b"common-0", b"common-1", b"common-2"];

#[test]
fn several_tasks_change_the_same_directories() {
    let dir = Scratch::new("names-tasks");
    for (n, options) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 32 << 20, options);
        let (models, store) = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let root = block_on(volume.0.iget(Ino::ROOT)).unwrap().unwrap();
            for name in COMMON {
                let new = new_inode(0o040_755);
                let made = volume.0.create(&root, name, &new);
                block_on(made).unwrap().unwrap();
            }
            drop(root);
            let mut tasks = Vec::new();
            for (at, prefix) in ["t0.", "t1.", "t2.", "t3."].iter().enumerate() {
                let volume = volume.clone();
                let seed = (n * 10 + at) as u64;
                let work = async move {
                    let mut world = World::new(volume.clone(), seed).await;
                    world.prefix = prefix;
                    for name in COMMON {
                        let id = world.model.add(0, name, Kind::Dir(BTreeMap::new()));
                        let node = volume.path(name).await.expect("it is there");
                        world.inodes.insert(id, node);
                    }
                    world.shared = 2 + COMMON.len();
                    for _ in 0..40 {
                        jitter().await;
                        world.steps(10, 120).await;
                    }
                    world.let_go().await;
                    world.model.dump()
                };
                tasks.push(bed.scope().spawn(work).expect("a task"));
            }
            let mut models = Vec::new();
            for task in tasks {
                models.push(block_on(task).unwrap().expect("it ends"));
            }
            let all = block_on(dump(&volume)).unwrap();
            for (at, model) in models.iter().enumerate() {
                assert_eq!(of_task(&all, at), of_task(model, at), "{options}");
            }
            (models, ended(bed, &volume))
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
        let all = simulate(n as u64, store, |bed| block_on(dump(&mount(bed))).unwrap());
        for (at, model) in models.iter().enumerate() {
            assert_eq!(of_task(&all, at), of_task(model, at), "{options}");
        }
    }
}

/// The lines of a tree that are of a task.
fn of_task(dump: &str, task: usize) -> Vec<&str> {
    let own = format!("/t{task}.");
    let path = |line: &str| line.split(": ").next().unwrap_or("").contains(&own);
    dump.lines().filter(|line| path(line)).collect()
}

#[test]
fn names_in_an_inode_move_to_a_block_when_they_are_too_many() {
    let dir = Scratch::new("names-inline");
    let source = dir.path("source");
    for name in COMMON {
        let path = source.join(std::str::from_utf8(name).unwrap());
        std::fs::create_dir_all(path).expect("a directory");
    }
    let from = source.to_str().unwrap();
    let (mut stayed, mut moved) = (0, 0);
    for n in 0..sim::count("NAMES_INLINE", 24) {
        let size = [256, 512, 1024][n as usize % 3];
        let more = ["", ",^metadata_csum", ",^extent,^64bit", ",^filetype"][n as usize % 4];
        let options = format!("-b 1024 -I {size} -O inline_data{more} -d {from}");
        let image = Image::make(dir.path("image"), 8 << 20, &options);
        let (model, store) = simulate(n, image.store(), |bed| {
            let volume = writable(bed);
            let mut world = block_on(World::new(volume.clone(), n)).unwrap();
            for name in COMMON {
                let id = world.model.add(0, name, Kind::Dir(BTreeMap::new()));
                let node = block_on(volume.path(name)).unwrap().expect("it is there");
                assert_eq!(node.data_map(), DataMap::Inline, "{options}");
                if n % 2 == 0 {
                    let value = [b'v'; 20];
                    let flags = XattrFlags::default();
                    let set = volume.0.set_xattr(&node, 1, b"kept", Some(&value), flags);
                    block_on(set).unwrap().expect("it is set");
                }
                world.inodes.insert(id, node);
            }
            world.shared = 2 + COMMON.len();
            block_on(world.steps(30 + n * 4, 30)).unwrap();
            for id in 2..world.shared {
                let node = &world.inodes[&id];
                match node.data_map() {
                    DataMap::Inline => stayed += 1,
                    _ => moved += 1,
                }
                if n % 2 == 0 {
                    let value = block_on(volume.0.xattr(node, 1, b"kept")).unwrap();
                    assert_eq!(&value.expect("it is kept")[..], [b'v'; 20]);
                }
            }
            block_on(world.let_go()).unwrap();
            let model = world.model.dump();
            assert_eq!(block_on(dump(&volume)).unwrap(), model, "{options}");
            drop(world);
            (model, ended(bed, &volume))
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
        let tree = simulate(n, store, |bed| block_on(dump(&mount(bed))).unwrap());
        assert_eq!(tree, model, "{options}");
    }
    assert!(stayed > 5 && moved > 5, "{stayed} {moved}");
}

#[test]
fn a_look_up_beside_a_split_finds_what_is_there() {
    let dir = Scratch::new("names-beside");
    // Without a journal what was changed is soon home, and leaves the memory.
    for (n, options) in [
        "-b 1024",
        "-b 1024 -O ^dir_index",
        "-b 1024 -O ^has_journal",
    ]
    .iter()
    .enumerate()
    {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let store = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let root = block_on(volume.0.iget(Ino::ROOT)).unwrap().unwrap();
            let new = new_inode(0o100_600);
            let file = block_on(volume.0.create(&root, b"file", &new))
                .unwrap()
                .unwrap();
            let new = new_inode(0o040_755);
            let dir = block_on(volume.0.create(&root, b"dir", &new))
                .unwrap()
                .unwrap();
            {
                // Who looks waits for who changes.
                let lock = dir.rwsem.try_write().expect("it is free");
                let look = dropped_after(5, volume.0.lookup(&dir, b"name"));
                assert!(block_on(timeout(look)).unwrap().is_none());
                let list = dropped_after(5, volume.entries(&dir));
                assert!(block_on(timeout(list)).unwrap().is_none());
                drop(lock);
            }
            let known = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
            let (made, ext4) = (known.clone(), volume.0.clone());
            let (to, ino) = (dir.clone(), file.ino);
            let adds = bed.scope().spawn(async move {
                for n in 0..400 {
                    let mut name = format!("{n}-").into_bytes();
                    name.resize(120, b'n');
                    ext4.link(&to, &name, &file, false)
                        .await
                        .expect("there is room");
                    made.lock().unwrap().push(name);
                    jitter().await;
                    if n % 3 == 0 {
                        ext4.sync().await.expect("it is durable");
                    }
                }
            });
            let mut tasks = vec![adds.expect("a task")];
            for at in 0..3u64 {
                let (known, ext4, dir) = (known.clone(), volume.0.clone(), dir.clone());
                let looks = async move {
                    let mut rng = Rng::new(at);
                    for _ in 0..1500 {
                        jitter().await;
                        ext4.cache.shrink(1000);
                        let name = {
                            let known = known.lock().unwrap();
                            let count = known.len() as u64;
                            known.get(rng.below(count.max(1)) as usize).cloned()
                        };
                        let Some(name) = name else {
                            continue;
                        };
                        let found = ext4.lookup(&dir, &name).await.expect("a look-up");
                        assert_eq!(found.expect("it is there").ino, ino);
                    }
                };
                tasks.push(bed.scope().spawn(looks).expect("a task"));
            }
            for task in tasks {
                block_on(task).unwrap().expect("it ends");
            }
            drop((root, dir));
            ended(bed, &volume)
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
    }
}

#[test]
fn a_volume_that_is_made_writable_again_has_its_own_superblock() {
    let dir = Scratch::new("names-super");
    for (n, options) in ["-b 4096", "-b 1024", "-b 1024 -O ^has_journal"]
        .iter()
        .enumerate()
    {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let store = simulate(n as u64, image.store(), |bed| {
            let volume = mount(bed);
            let root = block_on(volume.0.iget(Ino::ROOT)).unwrap().unwrap();
            for _ in 0..5 {
                block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
                let new = new_inode(0o100_600);
                let made = block_on(volume.0.tmpfile(&root, &new)).unwrap().unwrap();
                block_on(volume.0.sync()).unwrap().unwrap();
                block_on(volume.0.delete(made)).unwrap().unwrap();
                block_on(volume.0.make_read_only()).unwrap().unwrap();
            }
            bed.device.disk().durable().clone()
        });
        let sb = layout::SuperBlock::parse(&store.get(1024, 1024), 1, CRC).expect("it is sound");
        assert_eq!(sb.last_orphan, None);
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
        let (_, said) = run("dumpe2fs", &["-h", after.path().to_str().expect("a path")]);
        let count = said.lines().find(|line| line.starts_with("Mount count"));
        let count = count.and_then(|line| line.split_whitespace().last());
        assert_eq!(count, Some("5"), "{options}: {said}");
    }
}
