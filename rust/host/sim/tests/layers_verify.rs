// SPDX-License-Identifier: GPL-2.0

//! A layer of checksums keeps them when contents change: whatever is done, whoever gives up, and
//! whenever the power goes.

use disk::checksum::crc32c;
use kernel::machine::{self, Config, Fail, Rng};
use kernel::prelude::*;
use kernel::sync::Arc;
use sim::e2fs::{Image, Scratch};
use sim::stacked::{dump, names, Both};
use sim::tree::{ended, writable};
use sim::{dropped_after, simulate_on, Bed};
use simdisk::Store;
use stack::verify::{ATTRIBUTE, OPEN};
use stack::{forward, AsyncStackable, Change, Ino, Layer, RamFs, Verify};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc as Shared, Mutex};
use std::time::Duration;
use upcall::{block_on, Block, Blocks};
use vfs::{Attr, FileType, NewInode};

type Below<L> = Verify<Arc<L>>;

fn over<L: AsyncStackable>(bed: &Bed, fs: L) -> (Below<L>, Arc<L>) {
    let below = Arc::new(fs, GFP_KERNEL).unwrap();
    let verify = Verify::new(below.clone(), bed.scope().spawner()).unwrap();
    (verify, below)
}

fn on_beds(seeds: u64, test: impl Fn(&Bed, u64)) {
    for seed in 0..sim::count("LAYERS_SEEDS", seeds) {
        let config = Config::new(seed);
        simulate_on(config, Store::zeroes(4096), |bed| test(bed, seed));
    }
}

fn sums_of(bytes: &[u8]) -> Vec<u8> {
    let sums = bytes.chunks(Block::SIZE).map(|page| !crc32c(!0, page));
    sums.flat_map(u32::to_le_bytes).collect()
}

async fn all<L: AsyncStackable>(fs: &L, ino: Ino) -> Result<Vec<u8>> {
    Ok(fs.read_to_end(ino, 1 << 24).await?.as_slice().to_vec())
}

/// A file of some bytes that has checksums.
async fn file<L: AsyncStackable + 'static>(
    fs: &Below<L>,
    name: &[u8],
    bytes: &[u8],
) -> Result<Ino> {
    let ino = fs.create(fs.root(), name, &NewInode::file(0o644)).await?;
    fs.write_bytes(ino, Some(0), bytes).await?;
    fs.seal(ino).await?;
    Ok(ino)
}

async fn value<L: AsyncStackable>(fs: &L, ino: Ino) -> Option<Vec<u8>> {
    match fs.getxattr(ino, ATTRIBUTE).await {
        Ok(value) => Some(value.as_slice().to_vec()),
        Err(error) => {
            assert!(error == ENODATA || error == EOPNOTSUPP, "{error:?}");
            None
        }
    }
}

/// Gives each new file checksums, and does not show them.
struct Summing<L>(Below<L>);

impl<L: Layer> Layer for Summing<L> {
    type Kind = L::Kind;
}

impl<L: AsyncStackable + 'static> AsyncStackable for Summing<L> {
    forward!(self, self.0; root, lookup, stat, read, readlink, read_dir, getxattr, acl, statfs);
    forward!(self, self.0; write_bytes, make_durable, open, tmpfile);

    async fn read_at(
        &self,
        ino: Ino,
        range: core::ops::Range<u64>,
        blocks: &mut Blocks,
    ) -> Result<usize> {
        self.0.read_at(ino, range, blocks).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        let mut shown = KVec::new();
        for name in self.0.listxattr(ino).await?.split_inclusive(|&b| b == 0) {
            if name.strip_suffix(b"\0") != Some(ATTRIBUTE) {
                shown.extend_from_slice(name, GFP_KERNEL)?;
            }
        }
        Ok(shown)
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        let made = matches!(change, Change::Create { .. });
        let ino = self.0.change(change).await?;
        if made && self.0.stat(ino).await?.file_type == FileType::Regular {
            self.0.seal(ino).await?;
        }
        if machine::random(12) == 0 {
            self.0.sync().await?;
        }
        Ok(ino)
    }
}

/// All files of a tree have the checksums of what they have, but for what was too long once. Returns
/// how many had.
async fn all_fit<L: AsyncStackable>(below: &L) -> Result<usize> {
    let (mut left, mut fit) = (vec![below.root()], 0);
    while let Some(dir) = left.pop() {
        for (_, ino, _) in names(below, dir).await? {
            match below.stat(ino).await?.file_type {
                FileType::Directory => left.push(ino),
                FileType::Regular => {
                    let sums = value(below, ino).await;
                    if let Some(sums) = sums.filter(|sums| sums != OPEN) {
                        assert_eq!(sums, sums_of(&all(below, ino).await?), "{ino:?}");
                        fit += 1;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(fit)
}

/// Random operations on a file system, and on another one with checksums. Returns how many files
/// have checksums in the end, and how many pages were compared.
async fn compared<L: AsyncStackable + 'static>(bed: &Bed, fs: L, seed: u64) -> (usize, u64) {
    let (verify, below) = over(bed, fs);
    let mut both = Both::new(RamFs::new().unwrap(), Summing(verify), seed);
    both.timely = false;
    let mut rng = Rng::new(seed);
    for _ in 0..200 {
        both.step().await;
        edit_both(&both.first, &both.second, &mut rng).await;
    }
    both.finish().await;
    both.second.sync().await.unwrap();
    let fs = &both.second.0;
    assert_eq!(fs.failed(), 0);
    let verified = fs.verified();
    let fit = all_fit(&*below).await.unwrap();
    // Read anew, by what is below alone.
    let again = Verify::new(below, bed.scope().spawner()).unwrap();
    let (one, other) = (dump(&both.first).await, dump(&Summing(again)).await);
    assert_eq!(one.unwrap(), other.unwrap());
    (fit, verified)
}

#[test]
fn whatever_changes_the_checksums_fit() {
    let dir = Scratch::new("layers-verify");
    let (mut fit, mut verified) = (0, 0);
    for seed in 0..sim::count("LAYERS_SEEDS", 16) {
        let image = Image::make(dir.path("image"), 16 << 20, "-b 4096");
        simulate_on(Config::new(seed), image.store(), |bed| {
            let mounted = writable(bed);
            let volume = volume::Volume::new(mounted.0.clone()).unwrap();
            let found = block_on(async {
                volume.rmdir(volume.root(), b"lost+found").await.unwrap();
                compared(bed, volume, seed).await
            })
            .unwrap();
            (fit, verified) = (fit + found.0, verified + found.1);
            ended(bed, &mounted);
            machine::take_log();
        });
    }
    assert!(fit > 30 && verified > 1000, "{fit} {verified}");
}

/// A change of a file's contents.
async fn edit<L: AsyncStackable>(fs: &L, ino: Ino, rng: &mut Rng) -> Result {
    let (pos, len) = (rng.below(20_000), 1 + rng.below(9000));
    let bytes = vec![1 + rng.below(255) as u8; len as usize];
    match rng.below(5) {
        0 => fs.append(ino, &bytes).await.map(drop),
        1 => fs.truncate(ino, pos).await.map(drop),
        2 => fs.fallocate(ino, pos..pos + len, false).await.map(drop),
        _ => fs.write_bytes(ino, Some(pos), &bytes).await.map(drop),
    }
}

/// Changes a file of both that is in the root directory.
async fn edit_both<A: AsyncStackable, B: AsyncStackable>(one: &A, other: &B, rng: &mut Rng) {
    for (name, ino, file_type) in names(one, one.root()).await.unwrap() {
        let twin = other.lookup(other.root(), &name).await.unwrap();
        let size = one.stat(ino).await.unwrap().size;
        if file_type == FileType::Regular && size < 100_000 && rng.one_in(3) {
            let mut same = rng.clone();
            edit(one, ino, rng).await.unwrap();
            edit(other, twin, &mut same).await.unwrap();
            assert_eq!(all(one, ino).await, all(other, twin).await);
            return;
        }
    }
}

/// A state that the power may leave, and the files' contents if nothing was changed since a sync.
struct Lost {
    store: Store,
    synced: Option<Vec<Vec<u8>>>,
}

/// Changes files until there are enough states that a loss of power may leave.
fn life(seed: u64, store: Store, files: usize) -> Vec<Lost> {
    let lost = Shared::new(Mutex::new(Vec::<Lost>::new()));
    // The contents that a sync has made durable, unless there was a change behind it.
    let synced = Shared::new(Mutex::new(None::<Vec<Vec<u8>>>));
    simulate_on(Config::new(seed), store, |bed| {
        let mounted = writable(bed);
        let volume = volume::Volume::new(mounted.0.clone()).unwrap();
        block_on(async {
            let (fs, _) = over(bed, volume);
            let (mut rng, mut inos) = (Rng::new(seed), Vec::new());
            for n in 0..files {
                let bytes = vec![n as u8 + 1; 5000 * n];
                inos.push(file(&fs, &[b'a' + n as u8], &bytes).await.unwrap());
            }
            fs.sync().await.unwrap();
            let (to, at, mut pick) = (lost.clone(), synced.clone(), Rng::new(seed ^ 1));
            bed.device.observe(move |disk| {
                let crashes = disk.crash_states(pick.next());
                let synced = at.lock().unwrap().clone();
                for crash in crashes.states() {
                    if pick.one_in(3) {
                        let (store, synced) = (crashes.store(crash), synced.clone());
                        to.lock().unwrap().push(Lost { store, synced });
                    }
                }
            });
            for _ in 0..40 {
                let ino = inos[rng.below(files as u64) as usize];
                if rng.one_in(3) {
                    match rng.below(3) {
                        0 => fs.fsync(ino).await.unwrap(),
                        1 => fs.fdatasync(ino).await.unwrap(),
                        _ => {
                            fs.sync().await.unwrap();
                            let mut now = Vec::new();
                            for ino in &inos {
                                now.push(all(&fs, *ino).await.unwrap());
                            }
                            *synced.lock().unwrap() = Some(now);
                        }
                    }
                } else {
                    *synced.lock().unwrap() = None;
                    edit(&fs, ino, &mut rng).await.unwrap();
                }
            }
            bed.device.observe(|_| {});
        })
        .unwrap();
        ended(bed, &mounted);
        machine::take_log();
    });
    let lost = core::mem::take(&mut *lost.lock().unwrap());
    lost
}

#[test]
fn no_loss_of_power_leaves_checksums_that_accuse() {
    let dir = Scratch::new("layers-verify-power");
    let (mut states, mut sealed, mut open) = (0, 0, 0);
    for seed in 0..sim::count("LAYERS_SEEDS", 8) {
        let options = ["-b 4096", "-b 1024"][seed as usize % 2];
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let files = 4;
        for lost in life(seed, image.store(), files) {
            states += 1;
            simulate_on(Config::new(seed), lost.store, |bed| {
                let mounted = sim::tree::mount(bed);
                let volume = volume::Volume::new(mounted.0.clone()).unwrap();
                block_on(async {
                    let (fs, below) = over(bed, volume);
                    for n in 0..files {
                        let ino = fs.walk(fs.root(), &[b'a' + n as u8]).await.unwrap();
                        let bytes = all(&fs, ino).await.unwrap_or_else(|error| {
                            panic!("seed {seed}, state {states}, file {n}: {error:?}")
                        });
                        let sums = value(&*below, ino).await.unwrap();
                        match sums == OPEN {
                            true => open += 1,
                            false => sealed += 1,
                        }
                        if let Some(synced) = &lost.synced {
                            assert_eq!(sums, sums_of(&synced[n]), "seed {seed}, file {n}");
                            assert!(bytes == synced[n]);
                        }
                    }
                })
                .unwrap();
                machine::take_log();
            });
        }
    }
    eprintln!("{states} states, {sealed} files sealed, {open} open");
    assert!(states > 500 && sealed > 500 && open > 500);
}

/// A file system that takes its time, and one of whose changes fails: before, behind, or half-way.
struct Rough {
    fs: RamFs,
    left: AtomicU64,
    how: u64,
}

impl Rough {
    fn new(fs: RamFs) -> Self {
        Self {
            fs,
            left: AtomicU64::new(u64::MAX),
            how: 0,
        }
    }

    async fn pass(&self) {
        upcall::sleep(Duration::from_micros(10)).await;
    }

    /// Whether this change fails.
    fn fails(&self) -> bool {
        self.left.fetch_sub(1, Relaxed) == 0
    }
}

impl Layer for Rough {
    type Kind = stack::Asynchronous;
}

impl AsyncStackable for Rough {
    forward!(self, self.fs; root, lookup, readlink, read_dir, listxattr, acl, statfs, open, tmpfile);

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        self.pass().await;
        self.fs.stat(ino).await
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        self.pass().await;
        self.fs.read(ino, offset, block).await
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        self.pass().await;
        self.fs.getxattr(ino, name).await
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        self.pass().await;
        let fails = self.fails();
        if fails && self.how == 0 {
            return Err(EIO);
        }
        let done = self.fs.change(change).await;
        self.pass().await;
        match fails {
            true => Err(EIO),
            false => done,
        }
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        self.pass().await;
        let fails = self.fails();
        let some = match (fails, self.how) {
            (true, 0) => return Err(EIO),
            (true, 1) => bytes.len(),
            (true, 2) => bytes.len() / 2,
            (true, _) => bytes.len() & !(Block::SIZE - 1),
            (false, _) => bytes.len(),
        };
        let done = self.fs.write_bytes(ino, pos, &bytes[..some]).await;
        self.pass().await;
        match fails && self.how < 3 {
            true => Err(EIO),
            false => done,
        }
    }

    async fn make_durable(&self, what: stack::Sync) -> Result {
        self.pass().await;
        match self.fails() {
            true => Err(EIO),
            false => self.fs.make_durable(what).await,
        }
    }
}

/// Each kind of change of a file of [`LEN`] bytes, one that grows it over a hole and one of whole
/// pages among them.
const KINDS: u64 = 7;
const LEN: usize = 10_000;

async fn edit_by<L: AsyncStackable>(fs: &L, ino: Ino, kind: u64) -> Result {
    match kind {
        0 => fs.append(ino, &[1; 9000]).await.map(drop),
        1 => fs.truncate(ino, 5000).await.map(drop),
        2 => fs.truncate(ino, 30_000).await.map(drop),
        3 => fs.fallocate(ino, 0..13_000, false).await.map(drop),
        4 => fs.write_bytes(ino, Some(100), &[2; 6000]).await.map(drop),
        5 => fs.write_bytes(ino, Some(0), &[3; 8192]).await.map(drop),
        _ => fs
            .write_bytes(ino, Some(40_000), &[4; 9000])
            .await
            .map(drop),
    }
}

/// What a change of a kind makes of a file.
async fn edited(kind: u64) -> Vec<u8> {
    let fs = RamFs::new().unwrap();
    let new = NewInode::file(0o644);
    let ino = fs.create(fs.root(), b"file", &new).await.unwrap();
    fs.append(ino, &[7; LEN]).await.unwrap();
    edit_by(&fs, ino, kind).await.unwrap();
    all(&fs, ino).await.unwrap()
}

/// What is below a layer of checksums: it refuses what a loss of power would turn into checksums that
/// accuse.
struct Strict {
    fs: RamFs,
    /// How long an attribute is at most.
    room: usize,
    /// Contents that are not durable, and the same for attributes that changed; files whose
    /// attribute is the mark or gone, and those of which it is durably.
    sets: Mutex<[BTreeSet<Ino>; 4]>,
}

impl Strict {
    fn contents_change(&self, ino: Ino) {
        let [contents, _, _, marked] = &mut *self.sets.lock().unwrap();
        assert!(
            marked.contains(&ino),
            "contents change before the mark is durable"
        );
        contents.insert(ino);
    }
}

impl Layer for Strict {
    type Kind = stack::Asynchronous;
}

impl AsyncStackable for Strict {
    forward!(self, self.fs; root, lookup, stat, read, readlink, read_dir, getxattr, listxattr, acl, statfs, open, tmpfile);

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        upcall::sleep(Duration::from_micros(machine::random(20))).await;
        match change {
            Change::SetXattr { ino, value, .. } => {
                if value.is_some_and(|value| value.len() > self.room) {
                    return Err(ENOSPC);
                }
                let [contents, attributes, marking, marked] = &mut *self.sets.lock().unwrap();
                if value.is_none_or(|value| value == OPEN) {
                    marking.insert(ino);
                } else {
                    assert!(!contents.contains(&ino), "checksums before the contents");
                    marking.remove(&ino);
                    marked.remove(&ino);
                }
                attributes.insert(ino);
            }
            // What leaves the size leaves the contents.
            Change::Truncate { ino, size } if size != self.fs.stat(ino).await?.size => {
                self.contents_change(ino);
            }
            Change::Allocate { ino, ref range, .. }
                if range.end > self.fs.stat(ino).await?.size =>
            {
                self.contents_change(ino);
            }
            _ => {}
        }
        let done = self.fs.change(change).await;
        upcall::sleep(Duration::from_micros(machine::random(20))).await;
        done
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        upcall::sleep(Duration::from_micros(machine::random(20))).await;
        self.contents_change(ino);
        self.fs.write_bytes(ino, pos, bytes).await
    }

    async fn make_durable(&self, what: stack::Sync) -> Result {
        let begun = self.sets.lock().unwrap().clone();
        upcall::sleep(Duration::from_micros(machine::random(20))).await;
        let [contents, attributes, marking, marked] = &mut *self.sets.lock().unwrap();
        let one = match what {
            stack::Sync::All => None,
            stack::Sync::Inode(ino) | stack::Sync::Data(ino) => Some(ino),
        };
        let is_it = |ino: &&Ino| one.is_none_or(|one| one == **ino);
        for ino in begun[0].iter().filter(is_it) {
            contents.remove(ino);
        }
        if let stack::Sync::Data(_) = what {
            return Ok(());
        }
        for ino in begun[1].iter().filter(is_it) {
            attributes.remove(ino);
        }
        for ino in begun[2].iter().filter(is_it) {
            if marking.contains(ino) {
                marked.insert(*ino);
            }
        }
        Ok(())
    }
}

#[test]
fn each_step_is_durable_before_the_next_one_begins() {
    on_beds(20, |bed, seed| {
        let fs = RamFs::new().unwrap();
        let inos: Vec<_> = (0..3)
            .map(|n| {
                let new = NewInode::file(0o644);
                block_on(fs.create(fs.root(), &[b'a' + n], &new)).unwrap()
            })
            .collect();
        let inos: Vec<_> = inos.into_iter().map(Result::unwrap).collect();
        let sets = Mutex::default();
        let room = usize::MAX;
        let (fs, below) = over(bed, Strict { fs, room, sets });
        let fs = Arc::new(fs, GFP_KERNEL).unwrap();
        for ino in &inos {
            block_on(fs.seal(*ino)).unwrap().unwrap();
        }
        let tasks: Vec<_> = (0..6)
            .map(|n| {
                let (fs, inos) = (fs.clone(), inos.clone());
                let task = async move {
                    let mut rng = Rng::new(seed * 10 + n);
                    for _ in 0..30 {
                        let ino = inos[rng.below(3) as usize];
                        let work = async {
                            match rng.below(5) {
                                0 => fs.sync().await.unwrap(),
                                1 => fs.fsync(ino).await.unwrap(),
                                2 => fs.fdatasync(ino).await.unwrap(),
                                3 => drop(all(&*fs, ino).await.unwrap()),
                                _ => edit(&*fs, ino, &mut rng).await.unwrap(),
                            }
                        };
                        // Some give up.
                        dropped_after(machine::random(12) as usize, work).await;
                    }
                };
                bed.scope().spawn(task).unwrap()
            })
            .collect();
        block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
            fs.sync().await.unwrap();
            assert_eq!(all_fit(&*below).await.unwrap(), 3);
            assert_eq!((fs.unknown(), fs.failed()), (0, 0));
            // All that was sealed is durable.
            assert!(below.sets.lock().unwrap()[1].is_empty());
        })
        .unwrap();
    });
}

#[test]
fn who_gives_up_leaves_a_change_whole_or_absent() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, Rough::new(RamFs::new().unwrap()));
            for kind in 0..KINDS {
                let after = edited(kind).await;
                for polls in 0.. {
                    let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
                    let work = async {
                        edit_by(&fs, ino, kind).await?;
                        fs.fsync(ino).await
                    };
                    let done = dropped_after(polls, work).await;
                    // What was given up goes on.
                    upcall::sleep(Duration::from_millis(10)).await;
                    let bytes = all(&fs, ino).await.unwrap();
                    assert!(bytes == [7; LEN] || bytes == after, "{kind}, {polls}");
                    fs.fsync(ino).await.unwrap();
                    assert_eq!(value(&*below, ino).await, Some(sums_of(&bytes)));
                    fs.unlink(fs.root(), b"file").await.unwrap();
                    if let Some(done) = done {
                        done.unwrap();
                        assert!(bytes == after && polls > 5, "{kind}, {polls}");
                        break;
                    }
                }
            }
            assert_eq!(fs.unknown(), 0);
        })
        .unwrap();
    });
}

#[test]
fn a_change_whose_scope_ends_leaves_nothing_that_accuses() {
    let mut open = 0;
    for n in 0..250 {
        simulate_on(Config::new(n), Store::zeroes(4096), |bed| {
            let scope = bed.runtime().scope().unwrap();
            let below = Arc::new(Rough::new(RamFs::new().unwrap()), GFP_KERNEL).unwrap();
            let fs = Verify::new(below.clone(), scope.spawner()).unwrap();
            let fs = Arc::new(fs, GFP_KERNEL).unwrap();
            let ino = block_on(file(&fs, b"file", &[7; LEN])).unwrap().unwrap();
            let there = fs.clone();
            let task = async move {
                edit_by(&*there, ino, n % KINDS).await?;
                there.fsync(ino).await
            };
            let task = bed.scope().spawn(task).unwrap();
            block_on(upcall::sleep(Duration::from_micros(n))).unwrap();
            drop(scope);
            block_on(async {
                if let Err(error) = task.await.unwrap() {
                    assert_eq!(error, ESHUTDOWN);
                }
                let bytes = all(&*fs, ino).await.unwrap();
                match value(&*below, ino).await.unwrap() {
                    sums if sums == OPEN => open += 1,
                    sums => assert_eq!(sums, sums_of(&bytes)),
                }
                assert!(all(&*fs, ino).await.unwrap() == bytes);
            })
            .unwrap();
        });
    }
    assert!(open > 20, "{open}");
}

#[test]
fn what_fails_below_leaves_checksums_that_fit_or_none() {
    let mut lost = 0;
    for (kind, how) in (0..KINDS).flat_map(|kind| (0..4).map(move |how| (kind, how))) {
        simulate_on(Config::new(kind), Store::zeroes(4096), |bed| {
            block_on(async {
                for left in 0..9 {
                    let mut rough = Rough::new(RamFs::new().unwrap());
                    rough.how = how;
                    let (fs, below) = over(bed, rough);
                    let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
                    below.left.store(left, Relaxed);
                    let done = match edit_by(&fs, ino, kind).await {
                        Ok(()) => fs.fsync(ino).await,
                        error => error,
                    };
                    below.left.store(u64::MAX, Relaxed);
                    let bytes = all(&fs, ino).await.unwrap();
                    fs.fsync(ino).await.unwrap();
                    match value(&*below, ino).await.unwrap() {
                        sums if sums == OPEN => lost += 1,
                        sums => assert_eq!(sums, sums_of(&bytes), "{kind} {how} {left} {done:?}"),
                    }
                    assert_eq!(fs.failed(), 0);
                    // And it can have them again.
                    fs.seal(ino).await.unwrap();
                    assert_eq!(value(&*below, ino).await.unwrap(), sums_of(&bytes));
                }
            })
            .unwrap();
            machine::take_log();
        });
    }
    // Those whose half was done.
    assert!((1..30).contains(&lost), "{lost}");
}

#[test]
fn a_change_without_memory_leaves_checksums_that_fit_or_none() {
    on_beds(KINDS, |bed, kind| {
        block_on(async {
            let (fs, below) = over(bed, RamFs::new().unwrap());
            for count in 0.. {
                let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
                machine::fail_allocations(Fail::From(count));
                let mut done = edit_by(&fs, ino, kind).await;
                if done.is_ok() {
                    done = fs.fsync(ino).await;
                }
                machine::fail_allocations(Fail::Never);
                let bytes = all(&fs, ino).await.unwrap();
                fs.fsync(ino).await.unwrap();
                let sums = value(&*below, ino).await.unwrap();
                assert!(sums == OPEN || sums == sums_of(&bytes), "{kind} {count}");
                fs.unlink(fs.root(), b"file").await.unwrap();
                if done.is_ok() {
                    assert!(bytes == edited(kind).await, "{kind} {count}");
                    assert!(count > 5, "{kind} {count}");
                    break;
                }
            }
        })
        .unwrap();
        machine::take_log();
    });
}

#[test]
fn what_is_damaged_below_is_found_and_not_made_good() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, RamFs::new().unwrap());
            let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
            fs.write_bytes(ino, Some(5000), b"changed").await.unwrap();
            for sealed in [false, true] {
                if sealed {
                    fs.fsync(ino).await.unwrap();
                }
                let good = all(&fs, ino).await.unwrap();
                below.write_bytes(ino, Some(6000), &[6]).await.unwrap();
                assert_eq!(all(&fs, ino).await, Err(EBADMSG));
                // The other pages are good.
                let mut block = Block::vacant();
                assert_eq!(fs.read(ino, 0, &mut block).await, Ok(Block::SIZE));
                // A part of the page is not changed, nor is the file cut there; the whole page is.
                let part = fs.write_bytes(ino, Some(7000), b"x").await;
                assert_eq!(part, Err(EBADMSG));
                assert_eq!(fs.truncate(ino, 7000).await, Err(EBADMSG));
                assert_eq!(all(&fs, ino).await, Err(EBADMSG));
                let page = &good[4096..8192];
                fs.write_bytes(ino, Some(4096), page).await.unwrap();
                assert_eq!(all(&fs, ino).await.unwrap(), good);
            }
            // One who changes the file and the attribute knows what he does.
            let other = Verify::new(below.clone(), bed.scope().spawner()).unwrap();
            fs.fsync(ino).await.unwrap();
            other.write_bytes(ino, Some(0), b"other").await.unwrap();
            other.fsync(ino).await.unwrap();
            let bytes = all(&fs, ino).await.unwrap();
            assert!(bytes.starts_with(b"other"));
            // A file that others have made longer has pages without checksums.
            below.append(ino, &[1; 9000]).await.unwrap();
            assert_eq!(fs.append(ino, b"x").await, Err(EBADMSG));
            fs.removexattr(ino, ATTRIBUTE).await.unwrap();
            fs.append(ino, b"x").await.unwrap();
            assert_eq!(value(&*below, ino).await, None);
            let unknown = fs.unknown();
            all(&fs, ino).await.unwrap();
            assert!(fs.unknown() > unknown);
        })
        .unwrap();
    });
}

#[test]
fn a_file_that_is_too_long_loses_its_checksums() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, RamFs::new().unwrap());
            let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
            assert_eq!(fs.truncate(ino, 64 << 20).await, Ok(ino));
            fs.fsync(ino).await.unwrap();
            assert_eq!(value(&*below, ino).await.unwrap().len(), 65_536);
            // What is refused changes nothing.
            let far = fs.write_bytes(ino, Some(1 << 62), b"x").await;
            assert_eq!(far, Err(EFBIG));
            fs.fsync(ino).await.unwrap();
            assert_eq!(value(&*below, ino).await.unwrap().len(), 65_536);
            assert_eq!(machine::take_log().len(), 0);
            fs.append(ino, b"x").await.unwrap();
            fs.fsync(ino).await.unwrap();
            assert_eq!(value(&*below, ino).await.unwrap(), OPEN);
            assert_eq!(machine::take_log().len(), 1);
            assert_eq!(fs.seal(ino).await, Err(EFBIG));
            fs.truncate(ino, 5000).await.unwrap();
            fs.seal(ino).await.unwrap();
            assert_eq!(value(&*below, ino).await.unwrap(), sums_of(&[7; 5000]));
        })
        .unwrap();
    });
}

#[test]
fn an_attribute_without_room_leaves_the_mark() {
    let dir = Scratch::new("layers-verify-room");
    let image = Image::make(dir.path("image"), 16 << 20, "-b 1024 -O ^ea_inode");
    simulate_on(Config::new(1), image.store(), |bed| {
        let mounted = writable(bed);
        let volume = volume::Volume::new(mounted.0.clone()).unwrap();
        block_on(async {
            let (fs, below) = over(bed, volume);
            let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
            // 512 pages have 2 KiB of checksums.
            fs.truncate(ino, 2 << 20).await.unwrap();
            fs.fsync(ino).await.unwrap();
            assert_eq!(value(&*below, ino).await.unwrap(), OPEN);
            let unknown = fs.unknown();
            fs.read_to_end(ino, 3 << 20).await.unwrap();
            assert!(fs.unknown() > unknown);
            fs.append(ino, b"x").await.unwrap();
        })
        .unwrap();
        ended(bed, &mounted);
        assert_eq!(machine::take_log().len(), 1);
    });
}

#[test]
fn many_files_are_open_at_once_and_those_that_go_are_forgotten() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, RamFs::new().unwrap());
            let mut inos = Vec::new();
            for n in 0u32..2500 {
                let ino = file(&fs, format!("{n}").as_bytes(), &n.to_le_bytes()).await;
                inos.push(ino.unwrap());
            }
            for ino in &inos {
                fs.append(*ino, b"more").await.unwrap();
            }
            let mut sealed = 0;
            for ino in &inos {
                sealed += usize::from(value(&*below, *ino).await.unwrap() != OPEN);
            }
            assert_eq!(sealed, 2500 - 1024);
            for n in 0u32..2000 {
                let name = format!("{n}");
                fs.unlink(fs.root(), name.as_bytes()).await.unwrap();
            }
            // Their numbers are others' now.
            for n in 0u32..1000 {
                upcall::sleep(Duration::from_millis(1)).await;
                let new = NewInode::file(0o644);
                let name = format!("new{n}");
                let made = fs.create(fs.root(), name.as_bytes(), &new).await;
                fs.append(made.unwrap(), b"new").await.unwrap();
            }
            fs.sync().await.unwrap();
            assert_eq!(all_fit(&*below).await.unwrap(), 500);
            assert_eq!((fs.failed(), machine::take_log().len()), (0, 0));
        })
        .unwrap();
    });
}

/// A file system that is told what to refuse: changes of the attribute, and being durable.
struct Told {
    fs: RamFs,
    refuse: Mutex<Box<dyn Fn(Ino, Asked<'_>) -> Option<Error> + Send>>,
}

/// What a file is asked for.
#[derive(Clone, Copy, PartialEq)]
enum Asked<'a> {
    Set(Option<&'a [u8]>),
    Durable,
}

impl Told {
    fn new() -> Self {
        Self {
            fs: RamFs::new().unwrap(),
            refuse: Mutex::new(Box::new(|_, _| None)),
        }
    }

    fn refuse(&self, refuse: impl Fn(Ino, Asked<'_>) -> Option<Error> + Send + 'static) {
        *self.refuse.lock().unwrap() = Box::new(refuse);
    }

    fn ask(&self, ino: Ino, what: Asked<'_>) -> Result {
        (self.refuse.lock().unwrap())(ino, what).map_or(Ok(()), Err)
    }
}

impl Layer for Told {
    type Kind = stack::Asynchronous;
}

impl AsyncStackable for Told {
    forward!(self, self.fs; root, lookup, stat, read, readlink, read_dir, getxattr, listxattr, acl);
    forward!(self, self.fs; statfs, write_bytes, open, tmpfile);

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        if let Change::SetXattr { ino, value, .. } = change {
            self.ask(ino, Asked::Set(value))?;
        }
        self.fs.change(change).await
    }

    async fn make_durable(&self, what: stack::Sync) -> Result {
        if let stack::Sync::Inode(ino) | stack::Sync::Data(ino) = what {
            self.ask(ino, Asked::Durable)?;
        }
        self.fs.make_durable(what).await
    }
}

/// A file system whose writes take their time, and go on alone.
struct Alone {
    fs: Arc<RamFs>,
    spawner: upcall::Spawner,
}

impl Layer for Alone {
    type Kind = stack::Asynchronous;
}

impl AsyncStackable for Alone {
    forward!(self, self.fs; root, lookup, stat, read, readlink, read_dir, getxattr, listxattr, acl);
    forward!(self, self.fs; statfs, change, make_durable, open, tmpfile);

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let (fs, bytes) = (self.fs.clone(), bytes.to_vec());
        let write = async move {
            upcall::sleep(Duration::from_micros(100)).await;
            fs.write_bytes(ino, pos, &bytes).await
        };
        self.spawner.spawn(write)?.await?
    }
}

#[test]
fn a_write_that_was_given_up_is_not_sealed_half_way() {
    on_beds(1, |bed, _| {
        block_on(async {
            for n in 0..30 {
                let (fs, spawner) = (RamFs::new().unwrap(), bed.scope().spawner());
                let fs = Arc::new(fs, GFP_KERNEL).unwrap();
                let (fs, _) = over(bed, Alone { fs, spawner });
                let fs = Arc::new(fs, GFP_KERNEL).unwrap();
                let new = NewInode::file(0o644);
                let ino = fs.create(fs.root(), b"file", &new).await.unwrap();
                fs.write_bytes(ino, Some(0), &[7; LEN]).await.unwrap();
                let there = fs.clone();
                let write = async move { there.write_bytes(ino, Some(0), &[8; 5000]).await };
                let write = bed.scope().spawn(write).unwrap();
                upcall::sleep(Duration::from_micros(n * 5)).await;
                write.abort();
                let _ = write.await;
                fs.seal(ino).await.unwrap();
                upcall::sleep(Duration::from_millis(1)).await;
                all(&*fs, ino).await.unwrap();
            }
        })
        .unwrap();
    });
}

#[test]
fn a_write_whose_scope_ends_is_not_sealed_half_way() {
    let mut refused = 0;
    for (n, sealed) in (0..150).flat_map(|n| [(n, false), (n, true)]) {
        simulate_on(Config::new(n), Store::zeroes(4096), |bed| {
            let scope = bed.runtime().scope().unwrap();
            let (fs, spawner) = (RamFs::new().unwrap(), bed.scope().spawner());
            let fs = Arc::new(fs, GFP_KERNEL).unwrap();
            let below = Arc::new(Alone { fs, spawner }, GFP_KERNEL).unwrap();
            let fs = Verify::new(below.clone(), scope.spawner()).unwrap();
            let fs = Arc::new(fs, GFP_KERNEL).unwrap();
            let ino = block_on(async {
                let new = NewInode::file(0o644);
                let ino = fs.create(fs.root(), b"file", &new).await.unwrap();
                fs.write_bytes(ino, Some(0), &[7; LEN]).await.unwrap();
                if sealed {
                    fs.seal(ino).await.unwrap();
                }
                ino
            })
            .unwrap();
            let there = fs.clone();
            let task = async move { there.write_bytes(ino, Some(0), &[8; 5000]).await };
            let task = bed.scope().spawn(task).unwrap();
            block_on(upcall::sleep(Duration::from_micros(n))).unwrap();
            drop(scope);
            block_on(async {
                refused += usize::from(fs.seal(ino).await == Err(ESHUTDOWN));
                let _ = task.await;
                upcall::sleep(Duration::from_millis(1)).await;
                all(&*fs, ino).await.unwrap();
                if let Some(sums) = value(&*below, ino).await.filter(|sums| sums != OPEN) {
                    assert_eq!(sums, sums_of(&all(&*below, ino).await.unwrap()));
                }
            })
            .unwrap();
        });
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn checksums_that_go_are_durably_gone_before_contents_change() {
    on_beds(20, |bed, seed| {
        let fs = RamFs::new().unwrap();
        let new = NewInode::file(0o644);
        let ino = block_on(fs.create(fs.root(), b"file", &new));
        let ino = ino.unwrap().unwrap();
        let sets = Mutex::default();
        // Sometimes the checksums of five pages are too long.
        let room = [usize::MAX, 16][seed as usize % 2];
        let below = Arc::new(Strict { fs, room, sets }, GFP_KERNEL).unwrap();
        // Nobody has given it any.
        below.sets.lock().unwrap()[3].insert(ino);
        let mut rng = Rng::new(seed);
        for _ in 0..20 {
            let scope = bed.runtime().scope().unwrap();
            let fs = Verify::new(below.clone(), scope.spawner()).unwrap();
            let fs = Arc::new(fs, GFP_KERNEL).unwrap();
            let (there, mut dice) = (fs.clone(), rng.clone());
            let task = async move {
                for _ in 0..6 {
                    let work = async {
                        match dice.below(4) {
                            0 => drop(there.removexattr(ino, ATTRIBUTE).await),
                            1 => there.seal(ino).await.unwrap(),
                            _ => drop(edit(&*there, ino, &mut dice).await),
                        }
                    };
                    dropped_after(machine::random(25) as usize, work).await;
                }
            };
            let task = bed.scope().spawn(task).unwrap();
            if rng.one_in(2) {
                // The scope ends in the middle of something.
                block_on(upcall::sleep(Duration::from_micros(rng.below(300)))).unwrap();
                task.abort();
            }
            let _ = block_on(task).unwrap();
            drop(scope);
        }
        machine::take_log();
    });
}

#[test]
fn checksums_that_another_layer_gave_are_found() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, RamFs::new().unwrap());
            let other = Verify::new(below.clone(), bed.scope().spawner()).unwrap();
            let new = NewInode::file(0o644);
            let ino = fs.create(fs.root(), b"file", &new).await.unwrap();
            fs.write_bytes(ino, Some(0), &[7; LEN]).await.unwrap();
            other.seal(ino).await.unwrap();
            for kind in [0, 4, 5, 6] {
                edit_by(&fs, ino, kind).await.unwrap();
                assert_eq!(value(&*below, ino).await.unwrap(), OPEN);
                fs.fsync(ino).await.unwrap();
                let bytes = all(&other, ino).await.unwrap();
                assert_eq!(value(&*below, ino).await.unwrap(), sums_of(&bytes));
                below.removexattr(ino, ATTRIBUTE).await.unwrap();
                edit_by(&fs, ino, kind).await.unwrap();
                other.seal(ino).await.unwrap();
            }
        })
        .unwrap();
    });
}

#[test]
fn of_what_two_layers_change_the_contents_stay_and_the_checksums_may_accuse() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, RamFs::new().unwrap());
            let other = Verify::new(below.clone(), bed.scope().spawner()).unwrap();
            let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
            let page = Block::SIZE as u64;
            fs.write_bytes(ino, Some(0), b"one").await.unwrap();
            // It finds the mark, and does not know that somebody has the checksums.
            other.write_bytes(ino, Some(page), b"two").await.unwrap();
            let mut wanted = vec![7; LEN];
            wanted[..3].copy_from_slice(b"one");
            wanted[Block::SIZE..][..3].copy_from_slice(b"two");
            // Those that the first one sets are of the file without the second one's change.
            fs.fsync(ino).await.unwrap();
            let mut block = Block::vacant();
            let differs = [Err(EBADMSG), Ok(Block::SIZE)];
            // The second one knows of none, until it looks at the attribute before a change.
            for (fs, differs) in [&fs, &other].into_iter().zip(differs) {
                assert_eq!(fs.read(ino, 0, &mut block).await, Ok(Block::SIZE));
                assert_eq!(fs.read(ino, page, &mut block).await, differs);
                assert_eq!(fs.append(ino, b"three").await.err(), None);
                fs.sync().await.unwrap();
                wanted.extend(b"three");
                assert_eq!(fs.read(ino, page, &mut block).await, Err(EBADMSG));
            }
            assert_eq!(fs.write_bytes(ino, Some(page), b"x").await, Err(EBADMSG));
            // All of it is there, and has checksums again when it is given some.
            assert!(all(&*below, ino).await.unwrap() == wanted);
            fs.removexattr(ino, ATTRIBUTE).await.unwrap();
            fs.seal(ino).await.unwrap();
            for fs in [&fs, &other] {
                assert!(all(fs, ino).await.unwrap() == wanted);
            }
            assert_eq!(value(&*below, ino).await.unwrap(), sums_of(&wanted));
        })
        .unwrap();
    });
}

#[test]
fn checksums_that_cannot_be_replaced_stay() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, Told::new());
            let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
            let new = NewInode::file(0o644);
            let none = fs.create(fs.root(), b"none", &new).await.unwrap();
            below.refuse(|_, what| (what != Asked::Durable).then_some(EROFS));
            assert_eq!(fs.write_bytes(ino, Some(0), b"x").await, Err(EROFS));
            assert_eq!(fs.seal(none).await, Err(EROFS));
            fs.fsync(ino).await.unwrap();
            fs.fsync(none).await.unwrap();
            fs.sync().await.unwrap();
            assert!(all(&fs, ino).await.unwrap() == [7; LEN]);
            below.refuse(|_, _| None);
            fs.write_bytes(ino, Some(0), b"x").await.unwrap();
            fs.seal(none).await.unwrap();
            fs.sync().await.unwrap();
            assert_eq!(all_fit(&*below).await.unwrap(), 2);
        })
        .unwrap();
    });
}

#[test]
fn a_file_that_cannot_be_sealed_keeps_no_other_from_it() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, Told::new());
            let mut inos = Vec::new();
            for n in 0..3 {
                let ino = file(&fs, &[b'a' + n], &[7; LEN]).await.unwrap();
                fs.write_bytes(ino, Some(0), b"x").await.unwrap();
                inos.push(ino);
            }
            let bad = inos[1];
            below.refuse(move |ino, _| (ino == bad).then_some(EDOM));
            assert_eq!(fs.sync().await, Err(EDOM));
            assert_eq!(all_fit(&*below).await.unwrap(), 2);
            below.refuse(|_, _| None);
            fs.sync().await.unwrap();
            assert_eq!(all_fit(&*below).await.unwrap(), 3);
        })
        .unwrap();
    });
}

#[test]
fn no_more_files_are_open_than_can_be() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, Told::new());
            let mut inos = Vec::new();
            for n in 0u32..1030 {
                let ino = file(&fs, format!("{n}").as_bytes(), &n.to_le_bytes()).await;
                inos.push(ino.unwrap());
            }
            below.refuse(|_, what| match what {
                Asked::Set(Some(OPEN)) | Asked::Durable => None,
                Asked::Set(_) => Some(EDOM),
            });
            for (n, ino) in inos.iter().enumerate() {
                let done = fs.append(*ino, b"more").await;
                assert_eq!(done.is_ok(), n < 1024, "{n} {done:?}");
            }
            // One that is open may be changed again.
            fs.append(inos[7], b"more").await.unwrap();
            assert_eq!(all_fit(&*below).await.unwrap(), 6);
            below.refuse(|_, _| None);
            fs.append(inos[1029], b"more").await.unwrap();
            fs.sync().await.unwrap();
            assert_eq!(all_fit(&*below).await.unwrap(), 1030);
        })
        .unwrap();
    });
}

#[test]
fn a_file_that_goes_meanwhile_does_not_fail_a_sync() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, Told::new());
            let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
            fs.write_bytes(ino, Some(0), b"x").await.unwrap();
            // The step that sets the attribute finds it gone, and that of the one behind.
            below.refuse(|_, what| (what != Asked::Durable).then_some(ESTALE));
            fs.sync().await.unwrap();
            below.refuse(|_, what| match what {
                Asked::Set(Some(OPEN)) => Some(ESTALE),
                Asked::Set(_) => Some(ENOSPC),
                Asked::Durable => None,
            });
            fs.write_bytes(ino, Some(0), b"x").await.unwrap();
            fs.sync().await.unwrap();
            assert_eq!(machine::take_log().len(), 0);
        })
        .unwrap();
    });
}

#[test]
fn readers_at_once_find_what_others_changed() {
    on_beds(20, |bed, _| {
        block_on(async {
            let (fs, below) = over(bed, Rough::new(RamFs::new().unwrap()));
            let fs = Arc::new(fs, GFP_KERNEL).unwrap();
            let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
            let other = Verify::new(below, bed.scope().spawner()).unwrap();
            for n in 0..10 {
                all(&*fs, ino).await.unwrap();
                other.write_bytes(ino, Some(0), &[n; 5000]).await.unwrap();
                other.fsync(ino).await.unwrap();
                let read = |_| {
                    let fs = fs.clone();
                    let read = async move { all(&*fs, ino).await };
                    bed.scope().spawn(read).unwrap()
                };
                let tasks: Vec<_> = (0..3).map(read).collect();
                for task in tasks {
                    assert!(task.await.unwrap().unwrap()[..5000] == [n; 5000]);
                }
            }
            assert_eq!(fs.failed(), 0);
        })
        .unwrap();
    });
}

#[test]
fn pages_behind_what_is_read_stay() {
    on_beds(1, |bed, _| {
        block_on(async {
            let (fs, _) = over(bed, RamFs::new().unwrap());
            let ino = file(&fs, b"file", &[7; LEN]).await.unwrap();
            let mut blocks = Blocks::new(3).unwrap();
            blocks.fill_vacant().unwrap();
            blocks.page_mut(1).fill(9);
            assert_eq!(fs.read_at(ino, 0..4096, &mut blocks).await, Ok(4096));
            assert!(blocks.page(0) == [7; 4096] && blocks.page(1) == [9; 4096]);
            assert_eq!(fs.read_at(ino, 0..100, &mut blocks).await, Ok(100));
            assert!(blocks.page(0)[..100] == [7; 100] && blocks.page(0)[100..] == [0; 3996]);
        })
        .unwrap();
    });
}
