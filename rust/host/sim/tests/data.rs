// SPDX-License-Identifier: GPL-2.0

//! Contents are written: they are what a model says, on the disk too, and after a loss of power.

use aext4::unattached::Pages;
use aext4::write::WriteKind;
use aext4::{Ext4, InodeRef, MappingKind, Options};
use kernel::machine::{self, Config, Fail, Rng};
use kernel::prelude::*;
use layout::{ExtentState, Ino, Lblk};
use sim::e2fs::{run, Image, Scratch};
use sim::tree::new_inode;
use sim::volume::Volume;
use sim::{count, dropped_after, simulate, simulate_on, Bed};
use simdisk::Store;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use upcall::simulation::jitter;
use upcall::{block_on, Block, Blocks};

const KINDS: [&str; 7] = [
    "-b 4096 -I 256",
    "-b 1024",
    "-b 1024 -O ^metadata_csum,^64bit",
    "-b 1024 -O ^has_journal,^extent,^metadata_csum,^64bit",
    "-b 4096 -O ^extent,^metadata_csum,^64bit",
    "-b 2048 -r 0 -O none",
    "-b 4096 -I 512 -O inline_data",
];

fn mount(bed: &Bed) -> Volume {
    let volume = block_on(Volume::mount(bed, Options::default()));
    volume.expect("no deadlock").expect("it mounts")
}

fn writable(bed: &Bed) -> Volume {
    let volume = mount(bed);
    block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
    volume
}

/// Nothing is promised or loaned any more. The volume becomes read-only, and all is durable.
fn end(_bed: &Bed, volume: &Volume) {
    let counters = volume.0.allocation_groups().unwrap().counters();
    assert_eq!((counters.loaned, counters.promised), (0, 0));
    block_on(volume.0.sync()).unwrap().unwrap();
    block_on(volume.0.make_read_only()).unwrap().unwrap();
}

/// An image with files `a`, `b` and so on: `b` and every second have 200 bytes.
fn image(dir: &Scratch, size: u64, options: &str, files: u32) -> Image {
    let image = Image::make(dir.path("image"), size, options);
    let empty = Image::file(dir, "empty", b"");
    let mut bytes = first_bytes();
    let size = bytes.len();
    if !options.contains("inline_data") {
        // Behind the end is what nobody is to see, as a mapping may leave it.
        bytes.resize(1024, 0x77);
    }
    let some = Image::file(dir, "some", &bytes);
    let mut commands = String::new();
    for n in 0..files {
        let name = char::from(b'a' + n as u8);
        let from = if n % 2 == 0 { &empty } else { &some };
        commands += &format!("write {} {name}\n", from.to_str().unwrap());
        if n % 2 == 1 {
            commands += &format!("set_inode_field {name} size {size}\n");
        }
    }
    image.debugfs(&commands);
    image
}

/// What the second file has at first.
fn first_bytes() -> Vec<u8> {
    (0..200).map(|n| n as u8 ^ 0x5a).collect()
}

/// Bytes that tell writes apart.
fn some_bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend((rng.next() | 1).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

async fn read(volume: &Volume, info: &InodeRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    let size = info.size();
    let each = |part: &[u8]| bytes.extend_from_slice(part);
    volume.read(info, 0, size, each).await.unwrap();
    bytes
}

/// Writes bytes: a page of them as a block, and what is at a page as blocks, all of which are as
/// before then.
async fn write(volume: &Volume, info: &InodeRef, pos: u64, bytes: &[u8]) -> Result<usize> {
    let len = bytes.len();
    if len == Block::SIZE {
        let mut block = Block::new()?;
        block.as_mut_slice().copy_from_slice(bytes);
        let written = Ext4::write_pages(&volume.0, info, pos, Pages::One(&mut block), false).await;
        assert!(block.as_slice() == bytes, "{written:?}");
        return written;
    }
    if pos % Block::SIZE as u64 != 0 {
        return Ext4::write_at(&volume.0, info, pos, bytes, false).await;
    }
    // What is behind the bytes is not to be written.
    let mut blocks = Blocks::new(len.div_ceil(Block::SIZE))?;
    let mut whole = bytes.to_vec();
    whole.resize(blocks.len(), 0x99);
    for (n, page) in whole.chunks(Block::SIZE).enumerate() {
        blocks.page_mut(n).copy_from_slice(page);
    }
    let pages = Pages::Many(&mut blocks, len);
    let written = Ext4::write_pages(&volume.0, info, pos, pages, false).await;
    let pages = 0..whole.len() / Block::SIZE;
    let left: Vec<u8> = pages.flat_map(|n| blocks.page(n).to_vec()).collect();
    assert!(left == whole, "{written:?}");
    written
}

fn put(model: &mut Vec<u8>, pos: usize, bytes: &[u8]) {
    if model.len() < pos + bytes.len() {
        model.resize(pos + bytes.len(), 0);
    }
    model[pos..pos + bytes.len()].copy_from_slice(bytes);
}

async fn random(seed: u64, volume: &Volume) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    let files = [
        volume.path(b"a").await.unwrap(),
        volume.path(b"b").await.unwrap(),
    ];
    let mut models = [Vec::new(), first_bytes()];
    for _ in 0..80 {
        let which = rng.below(2) as usize;
        let (info, model) = (&files[which], &mut models[which]);
        match rng.below(8) {
            0 => {
                let size = [0, 100, 5000, 300_000, 2_000_000][rng.below(5) as usize];
                let size = size + rng.below(300);
                volume.0.truncate(info, size).await.unwrap();
                model.resize(size as usize, 0);
            }
            1 => assert_eq!(&read(volume, info).await, model, "seed {seed}"),
            _ => {
                let far = [100, 5000, 100_000, 1_500_000][rng.below(4) as usize];
                let pos = match rng.below(3) {
                    0 => model.len() as u64,
                    1 => rng.below(far) / 1024 * 1024,
                    _ => rng.below(far),
                };
                let len = [2, 701, Block::SIZE, 30_001, 300_001][rng.below(5) as usize];
                let bytes = some_bytes(&mut rng, len);
                if pos as usize + bytes.len() > 3_000_000 {
                    continue;
                }
                let done = write(volume, info, pos, &bytes).await;
                assert_eq!(
                    done,
                    Ok(bytes.len()),
                    "seed {seed}: {:#?}",
                    kernel::machine::take_log()
                );
                put(model, pos as usize, &bytes);
                assert_eq!(volume.0.sectors(info), info.inode().sectors);
            }
        }
    }
    for (info, model) in files.iter().zip(&models) {
        assert!(&read(volume, info).await == model, "seed {seed}");
    }
    models.to_vec()
}

/// What is free by memory is what e2fsck counts: it is clean, and so the sums are right.
fn judge(dir: &Scratch, store: &Store, models: &[Vec<u8>], about: &str) {
    let image = Image::write(dir.path("after"), store);
    assert_eq!(image.is_clean(), Ok(()), "{about}");
    for (n, model) in models.iter().enumerate() {
        let name = char::from(b'a' + n as u8);
        let out = dir.path("dumped");
        let command = format!("dump {name} {}", out.to_str().unwrap());
        run("debugfs", &["-R", &command, image.path().to_str().unwrap()]);
        let dumped = std::fs::read(&out).unwrap();
        let differs = dumped.iter().zip(model).position(|(a, b)| a != b);
        let sizes = (dumped.len(), model.len());
        assert!(&dumped == model, "{about}, {name}: {sizes:?}, {differs:?}");
    }
}

#[test]
fn contents_are_what_the_model_has() {
    let dir = Scratch::new("data-random");
    for seed in count("SIM_FIRST", 0)..count("SIM_DATA", 28) {
        let options = KINDS[(seed % 7) as usize];
        let image = image(&dir, 24 << 20, options, 2);
        if seed % 7 < 3 {
            // Space that was never written.
            image.debugfs("fallocate b 2 30\nfallocate a 100 130\n");
        }
        let (store, models) = simulate(seed, image.store(), |bed| {
            let volume = writable(bed);
            let models = block_on(random(seed, &volume)).unwrap();
            end(bed, &volume);
            (bed.device.disk().durable().clone(), models)
        });
        judge(&dir, &store, &models, &format!("seed {seed}, {options}"));
        simulate(seed, store, |bed| {
            let volume = mount(bed);
            for (name, model) in [b"a", b"b"].into_iter().zip(&models) {
                let same = block_on(async {
                    let info = volume.path(name).await.unwrap();
                    &read(&volume, &info).await == model
                });
                assert!(same.unwrap(), "seed {seed}, {options}");
            }
        });
    }
}

#[test]
fn a_large_file_has_few_extents() {
    const GIB: u64 = 1 << 30;
    let dir = Scratch::new("data-large");
    let image = Image::make(dir.path("image"), GIB + GIB / 4, "-b 4096 -I 256");
    let empty = Image::file(&dir, "empty", b"");
    image.debugfs(&format!("write {} a\n", empty.to_str().unwrap()));
    let store = Store::open(image.path()).unwrap();
    let store = simulate_on(Config::new(1), store, |bed| {
        let volume = writable(bed);
        let extents = block_on(async {
            let info = volume.path(b"a").await.unwrap();
            let bytes = vec![7; 4 << 20];
            for pos in (0..GIB).step_by(bytes.len()) {
                let done = Ext4::write_at(&volume.0, &info, pos, &bytes, false).await;
                assert_eq!(done, Ok(bytes.len()));
            }
            let (mut at, mut extents) = (0, 0);
            while u64::from(at) << 12 < GIB {
                let extent = volume.0.map(&info, Lblk(at)).await.unwrap();
                assert!(matches!(extent.state, ExtentState::Written(_)));
                at = extent.end().0;
                extents += 1;
            }
            extents
        });
        let extents = extents.unwrap();
        assert!((8..=20).contains(&extents), "{extents} extents");
        end(bed, &volume);
        bed.device.disk().durable().clone()
    });
    let after = Image::write(dir.path("after"), &store);
    assert_eq!(after.is_clean(), Ok(()));
}

/// What was accepted of a file: the tag of each of its blocks.
type Tags = BTreeMap<u32, u64>;

/// The bytes of a block with a tag.
fn tagged(tag: u64, size: usize) -> Vec<u8> {
    tag.to_le_bytes().repeat(size / 8)
}

/// Reserves what is to be written to `first..until`, as far as there is space. Returns up to where.
async fn accept(volume: &Ext4, info: &InodeRef, first: u32, until: u32) -> Result<u32> {
    let bits = volume.sb.geo.block_bits();
    let (mut at, end) = (u64::from(first) << bits, u64::from(until) << bits);
    while at < end {
        let map = volume.write_begin(info, at, end - at, false, false).await;
        match map {
            Ok(map) => {
                assert!(map.offset <= at && map.offset + map.len > at);
                if machine::random(8) == 0 {
                    jitter().await;
                }
                at = map.offset + map.len;
            }
            Err(ENOSPC) => break,
            Err(error) => return Err(error),
        }
    }
    Ok((at.min(end) >> bits) as u32)
}

/// Writes what was accepted, in parts that have nothing to do with how it was.
async fn write_back(volume: &Ext4, info: &InodeRef, tags: &Tags, dirty: &mut Vec<u32>) -> Result {
    let bits = volume.sb.geo.block_bits();
    let size = volume.sb.geo.block_size() as usize;
    dirty.sort();
    dirty.dedup();
    let mut todo = &dirty[..];
    while let Some(&first) = todo.first() {
        let pos = u64::from(first) << bits;
        let (mapping, _) = volume.writeback_map(info, pos, pos + size as u64).await?;
        let (place, done) = match mapping.kind {
            MappingKind::Data(place) => (place, false),
            MappingKind::Unwritten(place) => (place, true),
            kind => panic!("block {first} was accepted, and is {kind:?}"),
        };
        let most = 1 + machine::random(9) as usize;
        let together = |(n, block): &(usize, &u32)| {
            let pos = u64::from(**block) << bits;
            *n < most && **block == first + *n as u32 && pos < mapping.end()
        };
        let count = todo.iter().enumerate().take_while(together).count();
        for block in &todo[..count] {
            let at = (place + (u64::from(*block) << bits) - mapping.offset) >> bits;
            let mut draft = volume.cache.draft().await?;
            draft.data_mut().copy_from_slice(&tagged(tags[block], size));
            let op = upcall::bio::Op::Write;
            volume.cache.write_one(at, draft.freeze(), op).await?;
        }
        let end = u64::from(first + count as u32) << bits;
        if done || end > info.size() {
            volume
                .write_done(info, pos, end - pos, true, u64::MAX)
                .await?;
            if done && mapping.end() > end {
                // What is behind is not on the device yet.
                let behind = Lblk(first + count as u32);
                assert_eq!(volume.map(info, behind).await?.pblk(), None);
            }
        }
        todo = &todo[count..];
    }
    dirty.clear();
    Ok(())
}

/// One of those who fill a volume. Returns what it was told that there is space for.
async fn fill(volume: Volume, name: &'static [u8], seed: u64) -> Result<Tags> {
    let mut rng = Rng::new(seed);
    let ext4 = &volume.0;
    let info = volume.path(name).await?;
    let (mut tags, mut dirty) = (Tags::new(), Vec::new());
    let (mut refused, mut version) = (0, seed << 40 | 1);
    while refused < 12 {
        let most = ext4.max_size(&info) >> ext4.sb.geo.block_bits();
        let first = rng.below(40_000.min(most - 300)) as u32;
        let until = first + 1 + rng.below(200) as u32;
        let to = accept(ext4, &info, first, until).await?;
        refused += u32::from(to < until);
        for block in first..to {
            version += 1;
            tags.insert(block, version);
            dirty.push(block);
        }
        if rng.one_in(4) || refused > 0 {
            write_back(ext4, &info, &tags, &mut dirty).await?;
        }
    }
    write_back(ext4, &info, &tags, &mut dirty).await?;
    Ok(tags)
}

#[test]
fn what_was_accepted_arrives_on_a_full_volume() {
    let dir = Scratch::new("data-full");
    for seed in 0..count("SIM_FULL", 12) {
        // Nothing is kept for those with privilege.
        let options = &format!("{} -m 0", KINDS[(seed % 6) as usize]);
        let image = image(&dir, 16 << 20, options, 5);
        let store = simulate(seed, image.store(), |bed| {
            let volume = writable(bed);
            let names: [&'static [u8]; 3] = [b"a", b"c", b"e"];
            let tasks: Vec<_> = names
                .into_iter()
                .enumerate()
                .map(|(n, name)| {
                    let task = fill(volume.clone(), name, seed * 8 + n as u64);
                    (name, bed.scope().spawn(task).unwrap())
                })
                .collect();
            let mut blocks = 0;
            for (name, task) in tasks {
                let tags = block_on(task).unwrap().unwrap().unwrap();
                blocks += tags.len();
                block_on(async {
                    let info = volume.path(name).await.unwrap();
                    let size = volume.0.sb.geo.block_size() as usize;
                    let bytes = read(&volume, &info).await;
                    for (block, found) in bytes.chunks(size).enumerate() {
                        let tag = tags.get(&(block as u32)).copied().unwrap_or(0);
                        assert!(found == tagged(tag, size), "seed {seed}, block {block}");
                    }
                    let last = tags.last_key_value().map_or(0, |(block, _)| block + 1);
                    assert_eq!(bytes.len(), last as usize * size);
                })
                .unwrap();
            }
            let free = volume.0.statfs().available as usize;
            assert!(
                free < blocks / 20,
                "{free} blocks are free, {blocks} in use"
            );
            end(bed, &volume);
            bed.device.disk().durable().clone()
        });
        judge(&dir, &store, &[], &format!("seed {seed}, {options}"));
    }
}

/// What may be seen of a file after a loss of power: what it was when it was synced, and all that it
/// has been since.
#[derive(Clone, Default)]
struct History(Vec<Vec<u8>>);

impl History {
    /// Checks what a recovered volume has.
    fn check(&self, found: &[u8]) -> std::result::Result<(), String> {
        let longest = self.0.iter().map(Vec::len).max().unwrap();
        let shortest = self.0.iter().map(Vec::len).min().unwrap();
        if !(shortest..=longest).contains(&found.len()) {
            return Err(format!("{} bytes: {shortest} to {longest}", found.len()));
        }
        for (at, byte) in found.iter().enumerate() {
            let known = |version: &Vec<u8>| version.get(at).copied().unwrap_or(0) == *byte;
            if !self.0.iter().any(known) {
                return Err(format!("byte {at} is {byte:#x}"));
            }
        }
        Ok(())
    }
}

/// What free blocks hold.
const OLD: u8 = 0xdd;

/// One of those who write to the same blocks of a file, at the same time as others.
async fn share(volume: Volume, info: InodeRef, seed: u64) -> Result {
    let mut rng = Rng::new(seed);
    let ext4 = &volume.0;
    let bits = ext4.sb.geo.block_bits();
    let size = ext4.sb.geo.block_size() as usize;
    for round in 0..40 {
        let first = round * 5 + rng.below(3) as u32;
        let until = first + 1 + rng.below(4) as u32;
        assert_eq!(accept(ext4, &info, first, until).await, Ok(until));
        for block in first..until {
            let pos = u64::from(block) << bits;
            let (mapping, _) = ext4.writeback_map(&info, pos, pos + 1).await?;
            let (place, done) = match mapping.kind {
                MappingKind::Data(place) => (place, false),
                MappingKind::Unwritten(place) => (place, true),
                kind => panic!("block {block} was accepted, and is {kind:?}"),
            };
            let mut draft = ext4.cache.draft().await?;
            draft.data_mut().copy_from_slice(&tagged(1, size));
            let at = (place + pos - mapping.offset) >> bits;
            ext4.cache
                .write_one(at, draft.freeze(), upcall::bio::Op::Write)
                .await?;
            let end = pos + size as u64;
            if done || end > info.size() {
                ext4.write_done(&info, pos, size as u64, true, end).await?;
            }
        }
    }
    Ok(())
}

#[test]
fn several_who_write_to_one_hole_have_one_block_for_it() {
    let dir = Scratch::new("data-share");
    for seed in 0..count("SIM_SHARE", 60) {
        let options = KINDS[(seed % 2) as usize];
        let image = image(&dir, 16 << 20, options, 1);
        let store = simulate(seed, image.store(), |bed| {
            let volume = writable(bed);
            let info = block_on(volume.path(b"a")).unwrap().unwrap();
            // Who looks for memory does so between its look at the map and its entry.
            machine::fail_allocations(Fail::Atomic(3));
            let tasks: Vec<_> = (0..3)
                .map(|n| {
                    let task = share(volume.clone(), info.clone(), 1 + seed * 8 + n);
                    bed.scope().spawn(task).unwrap()
                })
                .collect();
            for task in tasks {
                let done = block_on(task).expect("no deadlock");
                assert_eq!(done.expect("not cancelled"), Ok(()), "seed {seed}");
            }
            machine::fail_allocations(Fail::Never);
            drop(info);
            end(bed, &volume);
            bed.device.disk().durable().clone()
        });
        judge(&dir, &store, &[], &format!("seed {seed}, {options}"));
    }
}

/// Polls a write that has no memory, writes the same hole, and goes on.
async fn overtaken(volume: Volume, info: InodeRef) -> Result<WriteKind> {
    let ext4 = &volume.0;
    let size = u64::from(ext4.sb.geo.block_size());
    ext4.map(&info, Lblk(0)).await?;
    let mut slow = Box::pin(ext4.write_begin(&info, 0, size, false, false));
    machine::fail_allocations(Fail::From(0));
    let first = core::future::poll_fn(|cx| Poll::Ready(slow.as_mut().poll(cx))).await;
    machine::fail_allocations(Fail::Never);
    assert!(first.is_pending(), "it waits for memory");
    let tags: Tags = [(0, 1)].into();
    accept(ext4, &info, 0, 1).await?;
    write_back(ext4, &info, &tags, &mut vec![0]).await?;
    Ok(slow.await?.kind)
}

#[test]
fn a_write_that_was_overtaken_sees_the_block_of_the_other() {
    let dir = Scratch::new("data-overtaken");
    for options in &KINDS[..2] {
        let image = image(&dir, 16 << 20, options, 1);
        let store = simulate_on(Config::new(1), image.store(), |bed| {
            let volume = writable(bed);
            let info = block_on(volume.path(b"a")).unwrap().unwrap();
            let task = bed.scope().spawn(overtaken(volume.clone(), info));
            let kind = block_on(task.unwrap()).unwrap().unwrap();
            assert!(matches!(kind, Ok(WriteKind::Data(_))), "{kind:?}");
            end(bed, &volume);
            bed.device.disk().durable().clone()
        });
        judge(&dir, &store, &[], options);
    }
}

#[test]
fn an_inode_that_was_forgotten_is_synced_as_one_that_was_not() {
    let dir = Scratch::new("data-forgotten");
    let image = image(&dir, 16 << 20, KINDS[0], 1);
    let store = simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        block_on(async {
            let info = volume.path(b"a").await.unwrap();
            let written = Ext4::write_at(&volume.0, &info, 0, &[7; 5000], false).await;
            assert_eq!(written, Ok(5000));
            drop(info);
            assert!(volume.0.shrink(100) > 0);
            let info = volume.path(b"a").await.unwrap();
            volume.0.sync_inode(&info).await.unwrap();
        })
        .unwrap();
        // The power goes.
        let lost = bed.device.disk().durable().clone();
        end(bed, &volume);
        lost
    });
    simulate(2, store, |bed| {
        let volume = mount(bed);
        let info = block_on(volume.path(b"a")).unwrap().unwrap();
        assert!(block_on(read(&volume, &info)).unwrap() == [7; 5000]);
        machine::take_log();
    });
}

/// Metadata whose blocks are freed.
#[derive(Clone, Copy, Debug)]
enum Freed {
    Map,
    Directory,
}

/// Blocks of metadata become data of a file. How many bytes it has, and what is on the disk then.
fn becomes_data(dir: &Scratch, options: &str, freed: Freed) -> (u64, Store) {
    let image = image(dir, 16 << 20, options, 3);
    simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        let bytes = block_on(async {
            // The log has the blocks, and then that they are free.
            match freed {
                Freed::Map => {
                    let info = volume.path(b"a").await.unwrap();
                    for n in 0..1500 {
                        let written = Ext4::write_at(&volume.0, &info, n * 2048, &[7; 1024], false);
                        assert_eq!(written.await, Ok(1024));
                    }
                    volume.0.sync().await.unwrap();
                    volume.0.truncate(&info, 0).await.unwrap();
                }
                Freed::Directory => remove_directory(&volume).await,
            }
            volume.0.sync().await.unwrap();
            let info = volume.path(b"c").await.unwrap();
            let mut bytes = 0;
            let why = loop {
                match Ext4::write_at(&volume.0, &info, bytes, &[9; 1 << 17], false).await {
                    Ok(count) => bytes += count as u64,
                    Err(why) => break why,
                }
            };
            assert_eq!(why, ENOSPC);
            volume.0.sync().await.unwrap();
            bytes
        })
        .unwrap();
        // The power goes.
        let lost = bed.device.disk().durable().clone();
        end(bed, &volume);
        (bytes, lost)
    })
}

/// Makes a directory of many blocks, syncs, and removes it.
async fn remove_directory(volume: &Volume) {
    let ext4 = &volume.0;
    let root = ext4.iget(Ino::ROOT).await.unwrap();
    let (file, new) = (volume.path(b"a").await.unwrap(), new_inode(0o040_700));
    let dir = ext4.create(&root, b"d", &new).await.unwrap();
    let name = |n: u32| format!("{n:0200}").into_bytes();
    for n in 0..200 {
        ext4.link(&dir, &name(n), &file, false).await.unwrap();
    }
    ext4.sync().await.unwrap();
    for n in 0..200 {
        ext4.unlink(&dir, &name(n), &file).await.unwrap();
    }
    let before = ext4.allocation_groups().unwrap().counters().free_inodes;
    ext4.rmdir(&root, b"d", &dir).await.unwrap();
    ext4.delete(dir).await.unwrap();
    assert_eq!(
        ext4.allocation_groups().unwrap().counters().free_inodes,
        before + 1
    );
}

#[test]
fn a_block_of_a_map_that_becomes_one_of_data_is_left_by_a_recovery() {
    data_is_left_by_a_recovery(Freed::Map, "data-revoked-map");
}

#[test]
fn a_block_of_a_directory_that_becomes_one_of_data_is_left_by_a_recovery() {
    data_is_left_by_a_recovery(Freed::Directory, "data-revoked-dir");
}

fn data_is_left_by_a_recovery(freed: Freed, name: &str) {
    let dir = Scratch::new(name);
    for options in ["-b 1024", "-b 1024 -O ^extent,^64bit"] {
        let (bytes, store) = becomes_data(&dir, options, freed);
        assert!(bytes > 10 << 20, "{bytes}");
        simulate(2, store, |bed| {
            let volume = mount(bed);
            let info = block_on(volume.path(b"c")).unwrap().unwrap();
            let found = block_on(read(&volume, &info)).unwrap();
            assert_eq!(found.len() as u64, bytes);
            let wrong = found.iter().position(|byte| *byte != 9);
            assert_eq!(wrong, None, "of {bytes}, {options}");
            machine::take_log();
        });
    }
}

/// Fills the free blocks of an image with something that nobody is to see.
fn soil(image: &Image, size: usize) {
    let (_, said) = run("dumpe2fs", &[image.path().to_str().unwrap()]);
    let mut bytes = image.bytes();
    for line in said
        .lines()
        .filter_map(|l| l.strip_prefix("  Free blocks: "))
    {
        for range in line.split(", ").filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let first: usize = first.parse().unwrap();
            let last: usize = last.parse().unwrap();
            bytes[first * size..(last + 1) * size].fill(OLD);
        }
    }
    std::fs::write(image.path(), bytes).unwrap();
}

type Lost = Arc<Mutex<Vec<(Store, History)>>>;

/// Writes, cuts and syncs a file, while `now` has what may be seen of it.
async fn changes(seed: u64, volume: &Volume, now: &Mutex<History>) {
    let mut rng = Rng::new(seed);
    let info = volume.path(b"a").await.unwrap();
    let mut model = Vec::new();
    *now.lock().unwrap() = History(vec![model.clone()]);
    for _ in 0..14 {
        let pos = match rng.below(3) {
            0 => model.len(),
            _ => rng.below(60_000) as usize,
        };
        match rng.below(6) {
            0 => {
                volume.0.sync_inode(&info).await.unwrap();
                *now.lock().unwrap() = History(vec![model.clone()]);
            }
            1 => {
                model.resize(pos, 0);
                now.lock().unwrap().0.push(model.clone());
                volume.0.truncate(&info, pos as u64).await.unwrap();
            }
            _ => {
                let len = [10, Block::SIZE, 5000, 40_000][rng.below(4) as usize];
                let mut bytes = some_bytes(&mut rng, len);
                bytes.iter_mut().for_each(|byte| *byte = *byte % 200 + 1);
                put(&mut model, pos, &bytes);
                now.lock().unwrap().0.push(model.clone());
                let done = write(volume, &info, pos as u64, &bytes).await;
                assert_eq!(done, Ok(bytes.len()));
            }
        }
    }
}

#[test]
fn a_loss_of_power_leaves_what_was_synced_and_nothing_old() {
    let dir = Scratch::new("data-crash");
    let mut states = 0u64;
    for seed in 0..count("SIM_CRASH", 12) {
        let kind = [0, 1, 2, 4][(seed % 4) as usize];
        let options = KINDS[kind];
        let image = image(&dir, 16 << 20, options, 1);
        soil(&image, [4096, 1024, 1024, 0, 4096][kind]);
        let lost = Lost::default();
        simulate(seed, image.store(), |bed| {
            let volume = writable(bed);
            let now = Arc::new(Mutex::new(History(vec![Vec::new()])));
            let (lost, seen, mut rng) = (lost.clone(), now.clone(), Rng::new(seed));
            bed.device.observe(move |disk| {
                if rng.one_in(12) {
                    let all = disk.crash_states(rng.next());
                    let share = all.len() as u64 / 3 + 1;
                    for crash in all.states().filter(|_| rng.one_in(share)) {
                        let history = seen.lock().unwrap().clone();
                        lost.lock().unwrap().push((all.store(crash), history));
                    }
                }
            });
            block_on(changes(seed, &volume, &now)).unwrap();
            bed.device.observe(|_| ());
            end(bed, &volume);
        });
        for (store, history) in core::mem::take(&mut *lost.lock().unwrap()) {
            states += 1;
            let after = simulate_on(Config::new(states), store, |bed| {
                let volume = writable(bed);
                let found = block_on(async {
                    let info = volume.path(b"a").await.unwrap();
                    read(&volume, &info).await
                });
                let checked = history.check(&found.unwrap());
                assert_eq!(checked, Ok(()), "seed {seed}, state {states}, {options}");
                end(bed, &volume);
                machine::take_log();
                bed.device.disk().durable().clone()
            });
            if states % 10 == 0 {
                judge(&dir, &after, &[], &format!("state {states}, {options}"));
            }
        }
    }
    assert!(states > 100, "{states}");
}

/// All that this part does, once.
async fn session(volume: &Volume) -> Result {
    let info = volume.path(b"b").await?;
    let done = Ext4::write_at(&volume.0, &info, 50_000, &[1; 30_000], false).await?;
    if done < 30_000 {
        return Err(EIO);
    }
    Ext4::write_at(&volume.0, &info, 3000, &[2; 2000], false).await?;
    write(volume, &info, 8192, &[4; Block::SIZE]).await?;
    write(volume, &info, 12_288, &[5; 9000]).await?;
    volume.0.truncate(&info, 60_001).await?;
    volume.0.truncate(&info, 61_000).await?;
    let root = volume.0.iget(Ino::ROOT).await?;
    let gone = volume.path(b"a").await?;
    Ext4::write_at(&volume.0, &gone, 0, &[3; 9000], false).await?;
    volume.0.unlink(&root, b"a", &gone).await?;
    volume.0.delete(gone).await
}

/// After a session that failed, or not, on a device that is well: the volume is whole.
fn whole(dir: &Scratch, store: Store, about: &str) {
    let (orphans, after) = simulate_on(Config::new(9), store, |bed| {
        let volume = writable(bed);
        let ok = block_on(async {
            let info = volume.path(b"b").await.unwrap();
            read(&volume, &info).await
        });
        let mut model = first_bytes();
        let mut versions = vec![model.clone()];
        put(&mut model, 50_000, &[1; 30_000]);
        versions.push(model.clone());
        put(&mut model, 3000, &[2; 2000]);
        versions.push(model.clone());
        put(&mut model, 8192, &[4; Block::SIZE]);
        versions.push(model.clone());
        put(&mut model, 12_288, &[5; 9000]);
        versions.push(model.clone());
        model.resize(60_001, 0);
        versions.push(model.clone());
        model.resize(61_000, 0);
        versions.push(model);
        let history = History(versions);
        assert_eq!(history.check(&ok.unwrap()), Ok(()), "{about}");
        end(bed, &volume);
        let log = machine::take_log();
        let orphans = log
            .iter()
            .any(|line| line.contains("orphans are not cleaned up"));
        (orphans, bed.device.disk().durable().clone())
    });
    let image = Image::write(dir.path("checked"), &after);
    if orphans {
        // That is left to e2fsck, since an error was recorded.
        image.preen();
    }
    judge(dir, &image.store(), &[], about);
}

/// The volume as it is after what happened: nothing is kept back in memory, and it can be ended.
fn leave(bed: &Bed, volume: &Volume) -> Store {
    machine::settle();
    if let Some(groups) = volume.0.allocation_groups() {
        let counters = groups.counters();
        assert_eq!((counters.loaned, counters.promised), (0, 0));
    }
    let _ = block_on(volume.0.make_read_only()).unwrap();
    machine::take_log();
    bed.device.disk().current().clone()
}

#[test]
fn each_request_fails_in_turn() {
    let dir = Scratch::new("data-faults");
    for options in [KINDS[6], KINDS[1], KINDS[4]] {
        let image = image(&dir, 16 << 20, options, 2);
        let mut failed = 0;
        for nth in 0.. {
            let (result, more, store) = simulate_on(Config::new(nth), image.store(), |bed| {
                let volume = writable(bed);
                let before = bed.device.disk().counts().all;
                bed.device.disk().faults.all.insert(before + nth);
                let result = block_on(session(&volume)).unwrap();
                let more = bed.device.disk().counts().all > before + nth;
                (result, more, leave(bed, &volume))
            });
            failed += u64::from(result.is_err());
            whole(
                &dir,
                store,
                &format!("{options}, request {nth}: {result:?}"),
            );
            if !more {
                assert_eq!(result, Ok(()));
                break;
            }
        }
        assert!(failed > 8, "{failed}");
    }
}

#[test]
fn each_allocation_fails_in_turn() {
    let dir = Scratch::new("data-memory");
    let image = image(&dir, 16 << 20, KINDS[6], 2);
    let mut failed = 0;
    for nth in (0..).step_by(count("SIM_MEMORY", 3) as usize) {
        let (result, hit, store) = simulate_on(Config::new(nth), image.store(), |bed| {
            let volume = writable(bed);
            machine::fail_allocations(Fail::Nth(nth));
            let result = block_on(session(&volume)).unwrap();
            let hit = machine::allocations().1 != 0;
            machine::fail_allocations(Fail::Never);
            (result, hit, leave(bed, &volume))
        });
        failed += u64::from(result.is_err());
        whole(&dir, store, &format!("allocation {nth}: {result:?}"));
        if !hit {
            assert_eq!(result, Ok(()));
            break;
        }
    }
    assert!(failed > 12, "{failed}");
}

#[test]
fn a_future_is_dropped_at_each_poll() {
    let dir = Scratch::new("data-dropped");
    let image = image(&dir, 16 << 20, KINDS[6], 2);
    let mut dropped = 0;
    for polls in 0.. {
        let (over, store) = simulate_on(Config::new(polls as u64), image.store(), |bed| {
            let volume = writable(bed);
            let result = block_on(dropped_after(polls, session(&volume))).unwrap();
            (result.is_some(), leave(bed, &volume))
        });
        whole(&dir, store, &format!("dropped at poll {polls}"));
        if over {
            break;
        }
        dropped += 1;
    }
    assert!(dropped > 7, "{dropped}");
}

#[test]
fn the_last_user_deletes() {
    let dir = Scratch::new("data-delete");
    for options in [KINDS[0], KINDS[1], KINDS[3]] {
        let image = image(&dir, 16 << 20, options, 2);
        let store = simulate(5, image.store(), |bed| {
            let volume = writable(bed);
            let ext4 = &volume.0;
            block_on(async {
                let root = ext4.iget(Ino::ROOT).await.unwrap();
                let free = || ext4.allocation_groups().unwrap().counters();
                let before = free();
                let info = volume.path(b"a").await.unwrap();
                let ino = info.ino;
                let written = Ext4::write_at(ext4, &info, 0, &[5; 700_000], false).await;
                assert_eq!(written, Ok(700_000));
                ext4.unlink(&root, b"a", &info).await.unwrap();
                assert_eq!(ext4.iget_user(ino).await.err(), Some(ESTALE));
                let other = info.clone();
                ext4.delete(info).await.unwrap();
                // The other user reads it still.
                assert!(read(&volume, &other).await == [5; 700_000]);
                assert!(free().free < before.free);
                assert!(ext4.is_orphan(ino).await.unwrap());
                drop(other);
                for _ in 0..200 {
                    if free().free_inodes > before.free_inodes {
                        break;
                    }
                    upcall::sleep(Duration::from_millis(20)).await;
                }
                let after = free();
                assert_eq!(after.free_inodes, before.free_inodes + 1);
                assert_eq!(after.free, before.free);
                assert!(!ext4.is_orphan(ino).await.unwrap());
                assert_eq!(ext4.iget(ino).await.err(), Some(ESTALE));
            })
            .unwrap();
            end(bed, &volume);
            bed.device.disk().durable().clone()
        });
        let image = Image::write(dir.path("after"), &store);
        assert_eq!(image.is_clean(), Ok(()), "{options}");
    }
}

/// A loan that the device writes to when the scope ends stays nobody else's.
#[test]
fn blocks_that_the_device_writes_to_stay_taken_when_the_scope_ends() {
    let dir = Scratch::new("data-scope");
    let image = image(&dir, 16 << 20, KINDS[0], 1);
    let mut kept = 0;
    for seed in 1..20 {
        let store = simulate_on(Config::new(seed), image.store(), |bed| {
            let volume = writable(bed);
            let info = block_on(volume.path(b"a")).unwrap().unwrap();
            let writes = || bed.device.disk().counts().writes;
            let before = writes();
            let (on, to) = (volume.clone(), info.clone());
            let write = async move { write(&on, &to, 0, &[6; Block::SIZE]).await };
            drop(bed.scope().spawn(write).unwrap());
            let begun = async {
                while writes() == before {
                    upcall::sleep(Duration::from_nanos(50)).await;
                }
            };
            block_on(begun).unwrap();
            bed.scope().cancel();
            machine::settle();
            kept += volume.0.allocation_groups().unwrap().counters().loaned;
            machine::take_log();
            bed.device.disk().current().clone()
        });
        judge(&dir, &store, &[], &format!("seed {seed}"));
    }
    assert!(kept > 3, "{kept}");
}
