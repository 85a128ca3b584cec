// SPDX-License-Identifier: GPL-2.0

//! The Rust API's side of `bench/door` and of `bench/changes`; `files.c` and `changes.c` have the
//! other.
//!
//! Writing `WORKLOAD ARGUMENTS` to the debugfs file `upcall_door_bench/run` runs the workload for
//! the writer's thread, on the volume that is mounted at `/mnt`. Reading the file gives `ns=..
//! ops=..` of the last one.

use core::future::Future;
use kernel::debugfs::{Dir, File, Reader, Writer};
use kernel::fmt::Write;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel::time::{Instant, Monotonic};
use kernel::uaccess::UserSliceReader;
use kernel::{fmt, InPlaceModule};
use stack::{walk_tree, AsyncStackable, Found, Subtree, Visitor};
use upcall::{block_on, Block, Mutex, Scope};
use vfs::{DirBatch, NewInode};
use volume::{Ino, Volume};

module! {
    type: DoorBench,
    name: "door_bench",
    authors: ["The Upcall developers"],
    description: "The Rust API's side of its benchmark",
    license: "GPL",
}

#[pin_data]
struct DoorBench {
    #[pin]
    file: File<Runner>,
    /// Goes after the file.
    dir: Dir,
}

impl InPlaceModule for DoorBench {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let dir = Dir::new(c"upcall_door_bench");
        try_pin_init!(Self {
            file <- dir.read_write_file(c"run", Runner(Mutex::new(State::default()))),
            dir,
        })
    }
}

/// In how many directories files are made, as in `changes.c`.
const DIRS: usize = 256;

/// What the file does.
struct Runner(Mutex<State>);

#[derive(Default)]
struct State {
    ns: u64,
    ops: u64,
    /// What else was found.
    extra: u64,
    held: Option<Held>,
}

impl Writer for Runner {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock_blocking().map_err(|_| fmt::Error)?;
        writeln!(f, "ns={} ops={} extra={}", state.ns, state.ops, state.extra)
    }
}

impl Reader for Runner {
    fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
        let mut line = [0; 128];
        let line = line.get_mut(..reader.len()).ok_or(EINVAL)?;
        reader.read_slice(line)?;
        let line = core::str::from_utf8(line).map_err(|_| EINVAL)?;
        self.0.lock_blocking()?.run(line)
    }
}

fn number(word: Option<&str>) -> Result<u64> {
    word.ok_or(EINVAL)?.parse().map_err(|_| EINVAL)
}

impl State {
    fn run(&mut self, line: &str) -> Result {
        let mut words = line.split_whitespace();
        let name = words.next().ok_or(EINVAL)?;
        if name == "release" {
            (self.ns, self.ops, self.extra) = (0, 1, 0);
            return self.held.take().ok_or(EINVAL)?.release();
        }
        let volume = Arc::new(Volume::open(c"/mnt")?, GFP_KERNEL)?;
        let tasks = number(words.next())?;
        self.extra = 0;
        if name == "tree" {
            let visitor = Arc::new(Nothing, GFP_KERNEL)?;
            let start = Instant::<Monotonic>::now();
            let visited = block_on(walk_tree(&volume, volume.root(), tasks as usize, &visitor))??;
            self.ns = start.elapsed().as_nanos() as u64;
            (self.ops, self.extra) = (visited.directories, visited.entries);
            return Ok(());
        }
        self.ops = number(words.next())?;
        if name == "hold" {
            self.held = Some(Held::new(volume, tasks, self.ops)?);
            return Ok(());
        }
        if name == "prepare_changes" {
            return inodes(&volume, tasks, self.ops).map(drop);
        }
        if name == "hold_changes" {
            self.held = Some(Held::changes(volume, tasks, self.ops)?);
            return Ok(());
        }
        if name == "fair" {
            let held = self.held.as_ref().ok_or(EINVAL)?;
            self.ns = held.one_more(tasks, self.ops)?;
            self.ops = 1;
            return Ok(());
        }
        let work = Arc::new(Work::new(volume, self.ops), GFP_KERNEL)?;
        self.ns = match name {
            "stat" => work.by(tasks, |work| work.stat())?,
            "read" => work.by(tasks, |work| work.read())?,
            "list" => work.by(tasks, |work| work.list())?,
            "write" => work.by(tasks, |work| work.write())?,
            "create" => work.by(tasks, |work| work.create())? + work.sync()?,
            "unlink" => work.by(tasks, |work| work.unlink())? + work.sync()?,
            "reads" => {
                let (step, pages) = (number(words.next())?, number(words.next())?);
                let file = words.next().ok_or(EINVAL)?.as_bytes();
                let volume = &work.volume;
                let ino = block_on(volume.lookup(volume.root(), file))??;
                work.by(tasks, |work| work.reads(ino, step, pages))?
            }
            // The same file again and again: by itself, and by way of a layer that only forwards
            "direct" => block_on(again(&*work.volume, self.ops))??,
            "layer" => {
                let layer = block_on(Subtree::new(work.volume.clone(), b"/"))??;
                block_on(again(&layer, self.ops))??
            }
            "arc" => block_on(again(&work.volume, self.ops))??,
            _ => return Err(EINVAL),
        };
        if work.errors.load(Relaxed) > 0 {
            return Err(EIO);
        }
        Ok(())
    }
}

/// A visitor that wants nothing but the walk, which reads each entry's attributes.
struct Nothing;

impl<L: AsyncStackable> Visitor<L> for Nothing {
    async fn visit(&self, _: &L, _: Found<'_>) -> Result<bool> {
        Ok(true)
    }
}

/// What tasks share that take the next of `count` operations.
struct Work {
    volume: Arc<Volume>,
    count: u64,
    next: Atomic<u64>,
    errors: Atomic<u64>,
    /// The numbers of the directories that files are made in, as far as they were looked up.
    dirs: [Atomic<u32>; DIRS],
}

/// A name made of a letter and digits, as `files.c` makes them.
struct Name {
    bytes: [u8; 8],
    len: usize,
}

impl Write for Name {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for &byte in s.as_bytes() {
            *self.bytes.get_mut(self.len).ok_or(fmt::Error)? = byte;
            self.len += 1;
        }
        Ok(())
    }
}

fn name(args: fmt::Arguments<'_>) -> Result<Name> {
    let mut name = Name {
        bytes: [0; 8],
        len: 0,
    };
    name.write_fmt(args)?;
    Ok(name)
}

impl Name {
    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

/// Which file of a directory: splitmix64, as in `files.c`.
fn pick(n: u64) -> u64 {
    let z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)) & 15
}

/// The position of the `n`-th read, as in `direct.c` and `peer.c`: of every `step`-th page in
/// order, or at random of `pages` of them, which is a power of two.
fn place(n: u64, step: u64, pages: u64) -> u64 {
    let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let page = match pages {
        0 => n,
        _ => (z ^ (z >> 31)) & (pages - 1),
    };
    page * step * Block::SIZE as u64
}

impl Work {
    fn new(volume: Arc<Volume>, count: u64) -> Self {
        Self {
            volume,
            count,
            next: Atomic::new(0),
            errors: Atomic::new(0),
            dirs: [const { Atomic::new(0) }; DIRS],
        }
    }

    fn next(&self) -> Option<u64> {
        let n = self.next.fetch_add(1u64, Relaxed);
        (n < self.count).then_some(n)
    }

    /// Runs as many tasks. Returns the nanoseconds that they took.
    fn by<F>(self: &Arc<Self>, tasks: u64, task: impl Fn(Arc<Self>) -> F) -> Result<u64>
    where
        F: Future<Output = Result> + Send + 'static,
    {
        let scope = Scope::new()?;
        let start = Instant::<Monotonic>::now();
        for _ in 0..tasks {
            let work = self.clone();
            let future = task(self.clone());
            scope.spawn(async move {
                if future.await.is_err() {
                    work.errors.add(1u64, Relaxed);
                }
            })?;
        }
        block_on(scope.join())?;
        Ok(start.elapsed().as_nanos() as u64)
    }

    async fn file(&self, n: u64) -> Result<Ino> {
        let dir = name(fmt!("d{n}"))?;
        let dir = self
            .volume
            .lookup(self.volume.root(), dir.as_bytes())
            .await?;
        let file = name(fmt!("f{}", pick(n)))?;
        self.volume.lookup(dir, file.as_bytes()).await
    }

    async fn stat(self: Arc<Self>) -> Result {
        while let Some(n) = self.next() {
            let file = self.file(n).await?;
            self.volume.stat(file).await?;
        }
        Ok(())
    }

    async fn read(self: Arc<Self>) -> Result {
        let mut block = Block::new()?;
        while let Some(n) = self.next() {
            let file = self.file(n).await?;
            if self.volume.read(file, 0, &mut block).await? != Block::SIZE {
                return Err(EIO);
            }
        }
        Ok(())
    }

    /// The directory in which file `n` is made, as in `changes.c`: looked up once, as the dcache
    /// does for programs.
    async fn dir(&self, n: u64) -> Result<Ino> {
        let n = n as usize % DIRS;
        let known = self.dirs.get(n).ok_or(EINVAL)?;
        let ino = known.load(Relaxed);
        if ino != 0 {
            return Ok(Ino(ino));
        }
        let dir = name(fmt!("d{n}"))?;
        let found = self
            .volume
            .lookup(self.volume.root(), dir.as_bytes())
            .await?;
        known.store(found.0, Relaxed);
        Ok(found)
    }

    /// Makes file `n`.
    async fn make(&self, n: u64) -> Result<Ino> {
        let (dir, file) = (self.dir(n).await?, name(fmt!("f{n}"))?);
        let new = NewInode::with_mode(0o100_644);
        self.volume.create(dir, file.as_bytes(), &new).await
    }

    async fn create(self: Arc<Self>) -> Result {
        while let Some(n) = self.next() {
            self.make(n).await?;
        }
        Ok(())
    }

    async fn unlink(self: Arc<Self>) -> Result {
        while let Some(n) = self.next() {
            let (dir, file) = (self.dir(n).await?, name(fmt!("f{n}"))?);
            self.volume.unlink(dir, file.as_bytes()).await?;
        }
        Ok(())
    }

    /// Makes files with a page in each, which are durable.
    async fn write(self: Arc<Self>) -> Result {
        let mut block = Block::new()?;
        block.as_mut_slice().fill(b'w');
        while let Some(n) = self.next() {
            let file = self.make(n).await?;
            if self.volume.write(file, 0, &mut block).await? != Block::SIZE {
                return Err(EIO);
            }
            self.volume.fsync(file).await?;
        }
        Ok(())
    }

    /// Makes all durable. Returns the nanoseconds that it took.
    fn sync(&self) -> Result<u64> {
        let start = Instant::<Monotonic>::now();
        block_on(self.volume.sync())??;
        Ok(start.elapsed().as_nanos() as u64)
    }

    /// Pages of one file.
    async fn reads(self: Arc<Self>, file: Ino, step: u64, pages: u64) -> Result {
        let mut block = Block::new()?;
        while let Some(n) = self.next() {
            let at = place(n, step, pages);
            if self.volume.read(file, at, &mut block).await? != Block::SIZE {
                return Err(EIO);
            }
        }
        Ok(())
    }

    async fn list(self: Arc<Self>) -> Result {
        let mut batch = DirBatch::new();
        while let Some(n) = self.next() {
            let dir = name(fmt!("d{n}"))?;
            let dir = self
                .volume
                .lookup(self.volume.root(), dir.as_bytes())
                .await?;
            let (mut pos, mut count) = (Some(0), 0);
            while let Some(at) = pos {
                batch.clear();
                self.volume.read_dir(dir, at, &mut batch).await?;
                count += batch.iter().count();
                pos = batch.next();
            }
            if count != 18 {
                return Err(EIO);
            }
        }
        Ok(())
    }
}

/// Reads the first page of one file `count` times. Returns the nanoseconds.
async fn again<L: AsyncStackable>(layer: &L, count: u64) -> Result<u64> {
    let ino = layer.walk(layer.root(), b"d0/f0").await?;
    let mut block = Block::new()?;
    layer.read(ino, 0, &mut block).await?;
    let start = Instant::<Monotonic>::now();
    for _ in 0..count {
        layer.read(ino, 0, &mut block).await?;
    }
    Ok(start.elapsed().as_nanos() as u64)
}

/// What is in memory before a change is held: the inode of the directory, its content too, or the
/// file.
async fn prepared(volume: &Volume, dir: Name, stage: u64) -> Result<Ino> {
    let dir = volume.lookup(volume.root(), dir.as_bytes()).await?;
    match stage {
        0 => Ok(dir),
        1 => match volume.lookup(dir, b"new").await {
            Err(ENOENT) => Ok(dir),
            found => found,
        },
        _ => volume.lookup(dir, b"file").await,
    }
}

/// What `tasks` changes are made of.
fn inodes(volume: &Arc<Volume>, tasks: u64, stage: u64) -> Result<KVVec<Ino>> {
    let (scope, mut inos) = (Scope::new()?, KVVec::new());
    for n in 0..tasks {
        let (volume, dir) = (volume.clone(), name(fmt!("d{n}"))?);
        scope.spawn(async move { prepared(&volume, dir, stage).await.map(drop) })?;
    }
    block_on(scope.join())?;
    // All is in memory now.
    for n in 0..tasks {
        let dir = name(fmt!("d{n}"))?;
        inos.push(block_on(prepared(volume, dir, stage))??, GFP_KERNEL)?;
    }
    Ok(inos)
}

/// A new file, in a directory that was not read yet (0) or that was (1); a page that is written to
/// a file (2), and its `fsync` (3).
async fn held_change(volume: &Volume, ino: Ino, stage: u64) -> Result {
    match stage {
        0 | 1 => {
            let new = NewInode::with_mode(0o100_644);
            volume.create(ino, b"new", &new).await.map(drop)
        }
        2 => {
            let mut block = Block::new()?;
            volume.write(ino, 0, &mut block).await.map(drop)
        }
        _ => volume.fsync(ino).await,
    }
}

/// Reads of a slow device that are all in flight at the same time, or that are, so many, again and
/// again.
struct Held {
    /// Goes first: its tasks use the rest.
    scope: Scope,
    stop: Arc<Atomic<u64>>,
    volume: Arc<Volume>,
}

impl Held {
    /// `tasks` reads in flight: once, or until they are released if `again` is not 0.
    fn new(volume: Arc<Volume>, tasks: u64, again: u64) -> Result<Self> {
        let scope = Scope::new()?;
        let stop = Arc::new(Atomic::<u64>::new(again ^ 1), GFP_KERNEL)?;
        let work = Arc::new(Work::new(volume.clone(), tasks), GFP_KERNEL)?;
        // The maps and inodes are to be known: what is held is the read.
        let files = work.clone();
        block_on(scope.spawn(async move {
            for n in 0..tasks {
                files.file(n).await.map(drop)?;
            }
            Ok::<_, Error>(())
        })?)???;
        let mut inos = KVVec::new();
        for n in 0..tasks {
            inos.push(block_on(work.file(n))??, GFP_KERNEL)?;
        }
        for ino in inos {
            let (volume, stop) = (volume.clone(), stop.clone());
            scope.spawn(async move {
                let mut block = Block::vacant();
                loop {
                    let _ = volume.read(ino, 0, &mut block).await;
                    if stop.load(Relaxed) != 0 {
                        return;
                    }
                }
            })?;
        }
        // Until all have been polled: the executor takes the tasks in turn.
        block_on(scope.spawn(async {})?)??;
        Ok(Self {
            scope,
            stop,
            volume,
        })
    }

    /// `tasks` changes in flight, each in a directory of its own.
    fn changes(volume: Arc<Volume>, tasks: u64, stage: u64) -> Result<Self> {
        let scope = Scope::new()?;
        for ino in inodes(&volume, tasks, stage)? {
            let volume = volume.clone();
            scope.spawn(async move { held_change(&volume, ino, stage).await })?;
        }
        block_on(scope.spawn(async {})?)??;
        let stop = Arc::new(Atomic::<u64>::new(1), GFP_KERNEL)?;
        Ok(Self {
            scope,
            stop,
            volume,
        })
    }

    /// One read more, of directory `n`, begun in one of three ways. Returns the nanoseconds that it
    /// took.
    fn one_more(&self, n: u64, way: u64) -> Result<u64> {
        let work = Work::new(self.volume.clone(), 1);
        let ino = block_on(work.file(n))??;
        let volume = self.volume.clone();
        let read = async move {
            let mut block = Block::vacant();
            volume.read(ino, 0, &mut block).await.map(drop)
        };
        let start = Instant::<Monotonic>::now();
        match way {
            0 => block_on(self.scope.spawn(read)?)???,
            1 => block_on(self.scope.spawn_eager(read)?)???,
            _ => block_on(read)??,
        }
        Ok(start.elapsed().as_nanos() as u64)
    }

    fn release(self) -> Result {
        self.stop.store(1, Relaxed);
        block_on(self.scope.join())
    }
}
