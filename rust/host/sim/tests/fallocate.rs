// SPDX-License-Identifier: GPL-2.0

//! Ranges of files are allocated, punched, zeroed, taken out and put in: as a model says, on a
//! device that fails, and after a loss of power.

use aext4::{Ext4, InodeRef, Options};
use kernel::machine::{self, Config, Fail, Rng};
use kernel::prelude::*;
use layout::{DataMap, Lblk};
use sim::e2fs::{run, Image, Scratch};
use sim::volume::Volume;
use sim::{count, dropped_after, simulate, simulate_on, Bed};
use simdisk::Store;
use std::future::Future;
use std::sync::{Arc, Mutex};
use upcall::block_on;

const KINDS: [&str; 6] = [
    "-b 4096 -I 256",
    "-b 1024",
    "-b 1024 -O ^metadata_csum,^64bit",
    "-b 2048 -I 128",
    "-b 1024 -O ^has_journal,^extent,^metadata_csum,^64bit",
    "-b 4096 -O ^extent,^metadata_csum,^64bit",
];

/// What free blocks hold.
const OLD: u8 = 0xdd;

fn writable(bed: &Bed) -> Volume {
    let volume = block_on(Volume::mount(bed, Options::default()));
    let volume = volume.expect("no deadlock").expect("it mounts");
    block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
    volume
}

/// Nothing is promised or loaned any more. The volume becomes read-only, and all is durable.
fn end(bed: &Bed, volume: &Volume) -> Store {
    let counters = volume.0.allocation_groups().unwrap().counters();
    assert_eq!((counters.loaned, counters.promised), (0, 0));
    block_on(volume.0.make_read_only()).unwrap().unwrap();
    machine::take_log();
    bed.device.disk().durable().clone()
}

/// An image with an empty file `f`, whose free blocks hold something that nobody is to see.
fn image(dir: &Scratch, size: u64, options: &str) -> Image {
    let image = Image::make(dir.path("image"), size, options);
    let empty = Image::file(dir, "empty", b"");
    image.debugfs(&format!("write {} f\n", empty.to_str().unwrap()));
    let (_, said) = run("dumpe2fs", &[image.path().to_str().unwrap()]);
    let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
    let size = said.lines().find(|line| line.starts_with("Block size:"));
    let size = number(size.unwrap());
    let mut bytes = image.bytes();
    let lists = said
        .lines()
        .filter_map(|l| l.strip_prefix("  Free blocks: "));
    for range in lists.flat_map(|l| l.split(", ")).filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        bytes[first * size..(last + 1) * size].fill(OLD);
    }
    std::fs::write(image.path(), bytes).unwrap();
    image
}

fn judge(dir: &Scratch, store: &Store, model: Option<&[u8]>, about: &str) {
    let image = Image::write(dir.path("after"), store);
    assert_eq!(image.is_clean(), Ok(()), "{about}");
    if let Some(model) = model {
        let out = dir.path("dumped");
        let command = format!("dump f {}", out.to_str().unwrap());
        run("debugfs", &["-R", &command, image.path().to_str().unwrap()]);
        assert!(std::fs::read(&out).unwrap() == model, "{about}");
    }
}

async fn read(volume: &Volume, info: &InodeRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    let each = |part: &[u8]| bytes.extend_from_slice(part);
    volume.read(info, 0, info.size(), each).await.unwrap();
    bytes
}

/// Bytes that are neither zeros nor [`OLD`].
fn some_bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| 1 + (rng.next() % 200) as u8).collect()
}

/// An operation. Positions are in bytes.
#[derive(Clone, Debug)]
enum Op {
    Write(usize, Vec<u8>),
    Truncate(usize),
    Allocate(usize, usize),
    Punch(usize, usize),
    Zero(usize, usize),
    Collapse(usize, usize),
    Insert(usize, usize),
}

impl Op {
    /// One at random, for a file of `size` bytes. What takes a range out or puts one in is aligned
    /// and inside the file.
    fn some(rng: &mut Rng, size: usize, block: usize, most: usize) -> Self {
        let pos = rng.below(most as u64) as usize;
        let len = [1, 700, 4096, 20_000, 100_000][rng.below(5) as usize];
        let len = 1 + rng.below(len) as usize;
        let end = (pos + len).min(most);
        let aligned = |n: usize| n / block * block;
        match rng.below(12) {
            0..=3 => Self::Write(pos, some_bytes(rng, end - pos)),
            4 => Self::Truncate(pos),
            5 => Self::Allocate(pos, end),
            6 | 7 => Self::Punch(pos, end),
            8 => Self::Zero(pos, end),
            kind => {
                let pos = aligned(pos % size.max(1));
                let len = aligned(len).max(block);
                match kind {
                    9 | 10 if pos + len < size => Self::Collapse(pos, len),
                    11 if pos < size && size + len <= most => Self::Insert(pos, len),
                    _ => Self::Write(size.min(most - 1), some_bytes(rng, 1)),
                }
            }
        }
    }

    /// Does it to the file.
    async fn run(&self, volume: &Volume, info: &InodeRef) -> Result {
        let size = info.size();
        let (at, to) = (|n: &usize| *n as u64, |n: &usize| *n as u64);
        match self {
            Self::Write(pos, bytes) => {
                let done = Ext4::write_at(&volume.0, info, at(pos), bytes, true).await?;
                assert_eq!(done, bytes.len());
                Ok(())
            }
            Self::Truncate(size) => volume.0.truncate(info, to(size)).await,
            Self::Allocate(pos, end) => volume.0.allocate(info, at(pos), to(end), true).await,
            Self::Punch(pos, end) => volume.0.punch(info, at(pos), to(end)).await,
            Self::Zero(pos, end) => volume.0.zero(info, at(pos), to(end), true).await,
            Self::Collapse(pos, len) => volume.0.collapse(info, at(pos), to(len), size).await,
            Self::Insert(pos, len) => volume.0.insert(info, at(pos), to(len), size).await,
        }
    }

    /// Does it to the model.
    fn model(&self, model: &mut Vec<u8>) {
        match self {
            Self::Write(pos, bytes) => {
                model.resize(model.len().max(pos + bytes.len()), 0);
                model[*pos..pos + bytes.len()].copy_from_slice(bytes);
            }
            Self::Truncate(size) => model.resize(*size, 0),
            Self::Allocate(..) => {}
            Self::Punch(pos, end) | Self::Zero(pos, end) => {
                let end = *end.min(&model.len());
                model[end.min(*pos)..end].fill(0);
            }
            Self::Collapse(pos, len) => drop(model.drain(pos..&(pos + len))),
            Self::Insert(pos, len) => {
                drop(model.splice(pos..pos, std::iter::repeat_n(0, *len)));
            }
        }
    }

    fn needs_extents(&self) -> bool {
        !matches!(self, Self::Write(..) | Self::Truncate(_) | Self::Punch(..))
    }

    /// What is left of a punched range has no blocks, and what is zeroed has some, but unwritten.
    async fn check(&self, volume: &Volume, info: &InodeRef) {
        let bits = volume.0.sb.geo.block_bits();
        let (pos, end, wanted) = match self {
            Self::Punch(pos, end) => (*pos, *end, false),
            Self::Zero(pos, end) => (*pos, *end, true),
            _ => return,
        };
        let first = pos.div_ceil(1 << bits);
        for block in first..end >> bits {
            let extent = volume.0.map(info, Lblk(block as u32)).await.unwrap();
            assert_eq!(extent.is_unwritten(), wanted, "{self:?}: block {block}");
            assert_eq!(extent.pblk().is_some(), wanted, "{self:?}: block {block}");
        }
    }
}

fn block_size(volume: &Volume) -> usize {
    volume.0.sb.geo.block_size() as usize
}

async fn random(seed: u64, volume: &Volume) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let info = volume.path(b"f").await.unwrap();
    let most = [50_000, 1_500_000][rng.below(2) as usize];
    let mut model = Vec::new();
    let mut log = Vec::new();
    for _ in 0..120 {
        let op = Op::some(&mut rng, model.len(), block_size(volume), most);
        log.push(match &op {
            Op::Write(pos, bytes) => format!("write {pos}+{}", bytes.len()),
            op => format!("{op:?}"),
        });
        let extents = matches!(info.data_map(), DataMap::Extents);
        let result = op.run(volume, &info).await;
        if op.needs_extents() && !extents {
            assert_eq!(result, Err(EOPNOTSUPP), "{log:?}");
            continue;
        }
        assert_eq!(
            result,
            Ok(()),
            "seed {seed}: {log:?}, {:?}",
            machine::take_log()
        );
        op.model(&mut model);
        op.check(volume, &info).await;
        assert_eq!(info.size(), model.len() as u64, "seed {seed}: {log:?}");
        if rng.one_in(4) {
            assert!(read(volume, &info).await == model, "seed {seed}: {log:?}");
        }
        if rng.one_in(20) {
            volume.0.cache.shrink(1000);
        }
    }
    assert!(read(volume, &info).await == model, "seed {seed}: {log:?}");
    model
}

#[test]
fn ranges_change_as_the_model_does() {
    let dir = Scratch::new("fallocate-random");
    for seed in count("SIM_FIRST", 0)..count("SIM_RANGES", 24) {
        let options = KINDS[(seed % 6) as usize];
        let image = image(&dir, 24 << 20, options);
        let (store, model) = simulate(seed, image.store(), |bed| {
            let volume = writable(bed);
            let model = block_on(random(seed, &volume)).unwrap();
            (end(bed, &volume), model)
        });
        judge(
            &dir,
            &store,
            Some(&model),
            &format!("seed {seed}, {options}"),
        );
    }
}

/// What may be seen of a file after a loss of power: what it was, is to become, and zeros.
#[derive(Clone, Default)]
struct Seen(Vec<Vec<u8>>);

impl Seen {
    fn check(&self, found: &[u8]) -> std::result::Result<(), String> {
        // A write grows a file part by part.
        let sizes = self.0.iter().map(Vec::len);
        let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
        if !(least..=most).contains(&found.len()) {
            return Err(format!("{} bytes", found.len()));
        }
        let wrong = found.iter().enumerate().find(|(at, byte)| {
            **byte != 0 && !self.0.iter().any(|version| version.get(*at) == Some(byte))
        });
        match wrong {
            None => Ok(()),
            Some((at, byte)) => Err(format!("byte {at} is {byte:#x}")),
        }
    }
}

type Lost = Arc<Mutex<Vec<(Store, Seen)>>>;

/// Does what `work` does, and returns what losses of power leave of it.
fn losses(
    seed: u64,
    store: Store,
    share: u64,
    work: impl AsyncFnOnce(&Volume, &Mutex<Seen>),
) -> Vec<(Store, Seen)> {
    let lost = Lost::default();
    simulate_on(Config::new(seed), store, |bed| {
        let volume = writable(bed);
        let now = Arc::new(Mutex::new(Seen::default()));
        let (lost, seen, mut rng) = (lost.clone(), now.clone(), Rng::new(seed));
        bed.device.observe(move |disk| {
            let seen = seen.lock().unwrap().clone();
            if seen.0.is_empty() || !rng.one_in(share) {
                return;
            }
            let all = disk.crash_states(rng.next());
            let share = all.len() as u64 / 3 + 1;
            for crash in all.states().filter(|_| rng.one_in(share)) {
                lost.lock().unwrap().push((all.store(crash), seen.clone()));
            }
        });
        block_on(work(&volume, &now)).unwrap();
        bed.device.observe(|_| ());
        end(bed, &volume);
    });
    let lost = core::mem::take(&mut *lost.lock().unwrap());
    lost
}

/// The file is as it may be, and the volume is whole. Returns how often it was in between.
fn check_lost(dir: &Scratch, all: Vec<(Store, Seen)>, every: usize, about: &str) -> usize {
    let mut between = 0;
    for (n, (store, seen)) in all.into_iter().enumerate() {
        let after = simulate_on(Config::new(n as u64), store, |bed| {
            let volume = writable(bed);
            let found = block_on(async {
                let info = volume.path(b"f").await.unwrap();
                read(&volume, &info).await
            });
            let found = found.unwrap();
            assert_eq!(seen.check(&found), Ok(()), "{about}, state {n}");
            between += usize::from(!seen.0.contains(&found));
            end(bed, &volume)
        });
        if n % every == 0 {
            judge(dir, &after, None, &format!("{about}, state {n}"));
        }
    }
    between
}

#[test]
fn a_loss_of_power_leaves_the_file_before_or_after() {
    let dir = Scratch::new("fallocate-crash");
    let mut states = 0;
    for seed in 0..count("SIM_CRASH", 12) {
        // Without a journal a loss of power may leave anything.
        let options = KINDS[[0, 1, 2, 3, 5][(seed % 5) as usize]];
        let image = image(&dir, 16 << 20, options);
        let all = losses(seed, image.store(), 3, async |volume, now| {
            let mut rng = Rng::new(seed);
            let info = volume.path(b"f").await.unwrap();
            let mut model = Vec::new();
            for _ in 0..24 {
                let op = Op::some(&mut rng, model.len(), block_size(volume), 80_000);
                if op.needs_extents() && info.data_map() != DataMap::Extents {
                    continue;
                }
                let before = model.clone();
                op.model(&mut model);
                *now.lock().unwrap() = Seen(vec![before, model.clone()]);
                op.run(volume, &info).await.unwrap();
                volume.0.sync_inode(&info).await.unwrap();
                *now.lock().unwrap() = Seen(vec![model.clone()]);
            }
        });
        states += all.len();
        check_lost(&dir, all, 6, &format!("seed {seed}, {options}"));
    }
    assert!(states > 100, "{states}");
}

/// A file with so many extents that no transaction has all leaves of its tree.
#[test]
fn a_loss_of_power_in_the_middle_leaves_a_valid_file() {
    const EXTENTS: usize = 8500;
    const KIB: usize = 1 << 10;
    let dir = Scratch::new("fallocate-middle");
    let image = image(&dir, 40 << 20, KINDS[1]);
    let mut model = Vec::new();
    let store = simulate_on(Config::new(1), image.store(), |bed| {
        let volume = writable(bed);
        block_on(async {
            let info = volume.path(b"f").await.unwrap();
            let mut rng = Rng::new(1);
            for n in 0..EXTENTS {
                let op = Op::Write(n * 2 * KIB, some_bytes(&mut rng, KIB));
                op.run(&volume, &info).await.unwrap();
                op.model(&mut model);
            }
        })
        .unwrap();
        end(bed, &volume)
    });
    let all = [
        Op::Insert(KIB * 100, KIB * 10),
        Op::Collapse(KIB * 99, KIB * 3),
        Op::Punch(KIB + 5, KIB * 200),
    ];
    for op in all {
        let (mut after, about) = (model.clone(), format!("{op:?}"));
        op.model(&mut after);
        let seen = vec![model.clone(), after.clone()];
        let mut commits = 0;
        let mut all = losses(7, store.clone(), 1, async |volume, now| {
            let info = volume.path(b"f").await.unwrap();
            let journal = volume.0.journal().unwrap();
            *now.lock().unwrap() = Seen(seen);
            let first = journal.running_tid();
            // Between two transactions there is a commit.
            let over = std::cell::Cell::new(false);
            let work = async {
                op.run(volume, &info).await.unwrap();
                over.set(true);
            };
            let syncs = async {
                while !over.get() {
                    let guard = info.map_lock.write().await.unwrap();
                    volume.0.sync().await.unwrap();
                    drop(guard);
                    upcall::yield_now().await;
                }
            };
            futures_join(work, syncs).await;
            commits = journal.running_tid().wrapping_sub(first);
            now.lock().unwrap().0.clear();
            assert!(read(volume, &info).await == after, "{about}");
        });
        assert!(commits > 0, "{about}");
        // Reading so many extents takes its time.
        let step = all.len() / 10 + 1;
        let mut n = 0;
        all.retain(|_| {
            n += 1;
            n % step == 0
        });
        let states = all.len();
        let between = check_lost(&dir, all, 3, &about);
        println!("{about}: {between} of {states} states are in between");
        assert!(between > 0, "{about}");
    }
}

/// Polls both until both are ready.
async fn futures_join(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (Box::pin(a), Box::pin(b));
    let (mut done_a, mut done_b) = (false, false);
    std::future::poll_fn(|cx| {
        done_a = done_a || a.as_mut().poll(cx).is_ready();
        done_b = done_b || b.as_mut().poll(cx).is_ready();
        match done_a && done_b {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}

#[test]
fn what_cannot_be_is_refused() {
    let dir = Scratch::new("fallocate-refused");
    let image = image(&dir, 16 << 20, "-b 1024");
    simulate_on(Config::new(1), image.store(), |bed| {
        let volume = writable(bed);
        block_on(async {
            let info = volume.path(b"f").await.unwrap();
            let fs = &volume.0;
            Ext4::write_at(fs, &info, 0, &[7; 10_000], true)
                .await
                .unwrap();
            for (pos, len) in [(512, 1024), (1024, 1000), (1024, 0)] {
                assert_eq!(fs.collapse(&info, pos, len, 10_000).await, Err(EINVAL));
                assert_eq!(fs.insert(&info, pos, len, 10_000).await, Err(EINVAL));
            }
            // Up to the end of the file it is truncate's work.
            assert_eq!(
                fs.collapse(&info, 1024, 9 * 1024, 10_000).await,
                Err(EINVAL)
            );
            assert_eq!(fs.insert(&info, 10 * 1024, 1024, 10_000).await, Err(EINVAL));
            let most = fs.max_size(&info);
            let far = most - 10_000;
            let far = far - far % 1024 + 1024;
            assert_eq!(fs.insert(&info, 0, far, 10_000).await, Err(EFBIG));
            // A block behind the end of the file would leave it.
            fs.allocate(&info, most - 1, most, true).await.unwrap();
            assert_eq!(fs.insert(&info, 0, 1024, 10_000).await, Err(EINVAL));
            assert_eq!(read(&volume, &info).await, [7; 10_000]);
        })
        .unwrap();
        judge(&dir, &end(bed, &volume), None, "refused");
    });
}

#[test]
fn what_is_put_in_and_taken_out_leaves_one_extent() {
    let dir = Scratch::new("fallocate-merged");
    let image = image(&dir, 16 << 20, "-b 1024");
    simulate_on(Config::new(1), image.store(), |bed| {
        let volume = writable(bed);
        block_on(async {
            let info = volume.path(b"f").await.unwrap();
            let fs = &volume.0;
            Ext4::write_at(fs, &info, 0, &[7; 64 << 10], true)
                .await
                .unwrap();
            assert_eq!(fs.map(&info, Lblk(0)).await.unwrap().len, 64);
            for n in 1..60 {
                let pos = n * 1024;
                fs.insert(&info, pos, 2048, 64 << 10).await.unwrap();
                assert_eq!(fs.map(&info, Lblk(0)).await.unwrap().len, n as u32);
                fs.collapse(&info, pos, 2048, 66 << 10).await.unwrap();
            }
            assert_eq!(fs.map(&info, Lblk(0)).await.unwrap().len, 64);
            assert!(read(&volume, &info).await == [7; 64 << 10]);
        })
        .unwrap();
        judge(&dir, &end(bed, &volume), None, "merged");
    });
}

#[test]
fn a_tree_of_few_extents_goes_back_into_its_inode() {
    let dir = Scratch::new("fallocate-shrunk");
    let image = image(&dir, 16 << 20, "-b 1024");
    simulate_on(Config::new(1), image.store(), |bed| {
        let volume = writable(bed);
        block_on(async {
            let info = volume.path(b"f").await.unwrap();
            for n in 0..9 {
                let written = Ext4::write_at(&volume.0, &info, n * 2048, &[7; 1024], true);
                written.await.unwrap();
            }
            assert_eq!(volume.0.sectors(&info), (9 + 1) * 2);
            volume.0.punch(&info, 4096, 16 << 10).await.unwrap();
            assert_eq!(volume.0.sectors(&info), 3 * 2);
            assert_eq!(read(&volume, &info).await[..1024], [7; 1024]);
        })
        .unwrap();
        judge(&dir, &end(bed, &volume), None, "shrunk");
    });
}

#[test]
fn zeroing_needs_no_space_where_there_is_some() {
    let dir = Scratch::new("fallocate-full");
    let image = image(&dir, 8 << 20, "-b 1024");
    simulate_on(Config::new(1), image.store(), |bed| {
        let volume = writable(bed);
        block_on(async {
            let info = volume.path(b"f").await.unwrap();
            let fs = &volume.0;
            let mut size = 0;
            loop {
                match Ext4::write_at(fs, &info, size, &[7; 10_000], true).await {
                    Ok(done) => size += done as u64,
                    Err(error) => break assert_eq!(error, ENOSPC),
                }
            }
            fs.zero(&info, 5000, size - 5000, false).await.unwrap();
            let bytes = read(&volume, &info).await;
            assert!(bytes[..5000] == [7; 5000] && bytes[size as usize - 5000..] == [7; 5000]);
            assert!(bytes[5000..size as usize - 5000]
                .iter()
                .all(|byte| *byte == 0));
            assert_eq!(
                fs.zero(&info, 0, size + (1 << 20), false).await,
                Err(ENOSPC)
            );
            assert_eq!(read(&volume, &info).await[0], 7, "nothing was zeroed");
        })
        .unwrap();
        judge(&dir, &end(bed, &volume), None, "full");
    });
}

/// What a session does, and how the file is before each operation.
fn steps() -> Vec<(Op, Vec<u8>)> {
    let mut rng = Rng::new(5);
    let ops = [
        Op::Write(0, some_bytes(&mut rng, 30_000)),
        Op::Write(50_000, some_bytes(&mut rng, 30_000)),
        Op::Allocate(35_000, 45_000),
        Op::Punch(10_000, 20_000),
        Op::Zero(55_000, 65_000),
        Op::Collapse(4096, 8192),
        Op::Insert(16 << 10, 12 << 10),
    ];
    let mut model = Vec::new();
    let mut all = Vec::new();
    for op in ops {
        let before = model.clone();
        op.model(&mut model);
        all.push((op, before));
    }
    all.push((Op::Allocate(0, 0), model));
    all
}

async fn session(volume: &Volume, done: &Mutex<usize>) -> Result {
    let info = volume.path(b"f").await?;
    for (op, _) in steps() {
        op.run(volume, &info).await?;
        *done.lock().unwrap() += 1;
    }
    Ok(())
}

/// Nothing is kept back in memory; and what is on the device is whole.
fn whole(dir: &Scratch, bed: &Bed, volume: &Volume, done: usize, about: &str) {
    machine::settle();
    if let Some(groups) = volume.0.allocation_groups() {
        let counters = groups.counters();
        assert_eq!((counters.loaned, counters.promised), (0, 0), "{about}");
    }
    let _ = block_on(volume.0.make_read_only()).unwrap();
    machine::take_log();
    let store = bed.device.disk().current().clone();
    let steps = steps();
    // What is done may be lost if nothing was synced.
    let seen = Seen(steps.into_iter().map(|(_, before)| before).collect());
    let _ = done;
    let after = simulate_on(Config::new(9), store, |bed| {
        let volume = writable(bed);
        let found = block_on(async {
            let info = volume.path(b"f").await.unwrap();
            let bytes = read(&volume, &info).await;
            (info.size(), bytes)
        });
        let (_, bytes) = found.unwrap();
        let stale = bytes.iter().position(|byte| *byte == OLD);
        assert_eq!(stale, None, "{about}");
        let known = |len: usize| seen.0.iter().any(|version| version.len() == len);
        // A write that failed in its middle has a size of its own.
        assert!(known(bytes.len()) || done < 2, "{about}: {}", bytes.len());
        end(bed, &volume)
    });
    judge(dir, &after, None, about);
}

#[test]
fn each_request_fails_in_turn() {
    let dir = Scratch::new("fallocate-faults");
    let image = image(&dir, 16 << 20, KINDS[0]);
    let mut failed = 0;
    for nth in 0.. {
        let more = simulate_on(Config::new(nth), image.store(), |bed| {
            let volume = writable(bed);
            let before = bed.device.disk().counts().all;
            bed.device.disk().faults.all.insert(before + nth);
            let done = Mutex::new(0);
            let result = block_on(session(&volume, &done)).unwrap();
            failed += u64::from(result.is_err());
            let more = bed.device.disk().counts().all > before + nth;
            let done = *done.lock().unwrap();
            whole(
                &dir,
                bed,
                &volume,
                done,
                &format!("request {nth}: {result:?}"),
            );
            more
        });
        if !more {
            break;
        }
    }
    assert!(failed > 5, "{failed}");
}

#[test]
fn each_allocation_fails_in_turn() {
    let dir = Scratch::new("fallocate-memory");
    let image = image(&dir, 16 << 20, KINDS[0]);
    let mut failed = 0;
    for nth in (0..).step_by(count("SIM_MEMORY", 3) as usize) {
        let hit = simulate_on(Config::new(nth), image.store(), |bed| {
            let volume = writable(bed);
            machine::fail_allocations(Fail::Nth(nth));
            let done = Mutex::new(0);
            let result = block_on(session(&volume, &done)).unwrap();
            failed += u64::from(result.is_err());
            let hit = machine::allocations().1 != 0;
            machine::fail_allocations(Fail::Never);
            let done = *done.lock().unwrap();
            whole(
                &dir,
                bed,
                &volume,
                done,
                &format!("allocation {nth}: {result:?}"),
            );
            hit
        });
        if !hit {
            break;
        }
    }
    assert!(failed > 12, "{failed}");
}

#[test]
fn a_future_is_dropped_at_each_poll() {
    let dir = Scratch::new("fallocate-dropped");
    let image = image(&dir, 16 << 20, KINDS[0]);
    for polls in 0.. {
        let over = simulate_on(Config::new(polls as u64), image.store(), |bed| {
            let volume = writable(bed);
            let done = Mutex::new(0);
            let result = block_on(dropped_after(polls, session(&volume, &done))).unwrap();
            let done = *done.lock().unwrap();
            whole(
                &dir,
                bed,
                &volume,
                done,
                &format!("dropped at poll {polls}"),
            );
            result.is_some()
        });
        if over {
            assert!(polls > 7, "{polls}");
            break;
        }
    }
}
