// SPDX-License-Identifier: GPL-2.0

//! The sketches that the project began with, in today's words; `Documentation/sketches.md` has
//! both.
//!
//! The volume is mounted at `/mnt` and has a file `pages`, of which each page begins with the
//! number of another: 32 bits, little-endian. Page after page is read, in every way in which
//! upcalls can be put together; and written, of a file without a name. Logs what each sketch found;
//! the module does not load if one fails.

use kernel::prelude::*;
use kernel::sync::Arc;
use stack::AsyncStackable;
use upcall::{block_on, join_all, run, try_join, Block, Executor, Scope};
use vfs::NewInode;
use volume::{Ino, Volume};

module! {
    type: Sketches,
    name: "sketches",
    authors: ["The Upcall developers"],
    description: "Ways to put upcalls together",
    license: "GPL",
}

struct Sketches;

struct Pages {
    volume: Arc<Volume>,
    ino: Ino,
}

type File = Arc<Pages>;

/// Reads a page, and gives the number in it: the operation that everything here is made of.
async fn read(file: File, page: u32) -> Result<u32> {
    let mut block = Block::new()?;
    let offset = u64::from(page) * Block::SIZE as u64;
    file.volume.read(file.ino, offset, &mut block).await?;
    let word = block.as_slice().first_chunk().ok_or(ENODATA)?;
    Ok(u32::from_le_bytes(*word))
}

/// Writes a page that begins with a number, and gives the number.
async fn write(file: File, page: u32, number: u32) -> Result<u32> {
    let mut block = Block::new()?;
    let word = block.as_mut_slice().first_chunk_mut().ok_or(ENODATA)?;
    *word = number.to_le_bytes();
    let offset = u64::from(page) * Block::SIZE as u64;
    match file.volume.write(file.ino, offset, &mut block).await? {
        Block::SIZE => Ok(number),
        _ => Err(EIO),
    }
}

/// An upcall of an upcall: each level waits for the next, and passes a value on.
async fn upcall1(file: File, page: u32) -> Result<u32> {
    let value = read(file.clone(), page).await?;
    upcall2(file, value).await
}

async fn upcall2(file: File, page: u32) -> Result<u32> {
    read(file, page).await
}

fn nested(f: File, scope: &Scope) -> Result<KVec<u32>> {
    let task = scope.spawn(async move { upcall1(f.clone(), read(f, 0).await?).await })?;
    list([block_on(task)??])
}

/// Begun now; the caller goes on, and asks for the value when it wants it.
fn not_blocking(f: File, scope: &Scope) -> Result<KVec<u32>> {
    let begun = scope.spawn_eager(read(f.clone(), 1))?;
    let own = block_on(read(f, 2))?;
    list([block_on(begun)??, own])
}

fn join_array(f: File, _: &Scope) -> Result<KVec<u32>> {
    let upcalls = [0, 1, 2].map(|page| upcall1(f.clone(), page));
    list(block_on(join_all(upcalls)?)??)
}

fn join_not_blocking(f: File, scope: &Scope) -> Result<KVec<u32>> {
    let mut handles = KVec::new();
    for page in 0..3 {
        handles.push(scope.spawn(read(f.clone(), page))?, GFP_KERNEL)?;
    }
    list(
        block_on(join_all(handles)?)??
            .into_iter()
            .map(|ended| ended?),
    )
}

/// Fork-join: the scope ends when all are done.
fn run_not_blocking(f: File, _: &Scope) -> Result<KVec<u32>> {
    let inner = Scope::new()?;
    let a = inner.spawn(read(f.clone(), 3))?;
    let b = inner.spawn(read(f, 4))?;
    block_on(inner.join())?;
    list([block_on(a)??, block_on(b)??])
}

/// One after the other; the first begins on the caller's thread.
fn run_blocking(f: File, scope: &Scope) -> Result<KVec<u32>> {
    let task = scope.spawn_eager(async move {
        let a = read(f.clone(), 5).await?;
        let b = read(f.clone(), 6).await?;
        list([Ok(a), Ok(b), read(f, 7).await])
    })?;
    block_on(task)??
}

fn chain(f: File, _: &Scope) -> Result<KVec<u32>> {
    let (f1, f2, f3) = (f.clone(), f.clone(), f.clone());
    let chain = run(read(f, 0))
        .then(|value| read(f1, value))
        .then(|value| read(f2, value))
        .then(|value| read(f3, value));
    list([block_on(chain)?])
}

/// A page is written, and then another, at the place that the first one has; then what is durable
/// is read.
fn write_chain(f: File, _: &Scope) -> Result<KVec<u32>> {
    let (f1, f2, f3) = (f.clone(), f.clone(), f.clone());
    let chain = run(write(f, 0, 3))
        .then(|value| write(f1, value, 5))
        .then(|value| async move { f2.volume.fsync(f2.ino).await.map(|()| value) })
        .then(
            |value| async move { list([read(f3.clone(), 0).await, read(f3, 3).await, Ok(value)]) },
        );
    block_on(chain)?
}

/// All pages at once.
fn write_array(f: File, _: &Scope) -> Result<KVec<u32>> {
    let writes = [0, 1, 2].map(|page| write(f.clone(), page, page + 10));
    list(block_on(join_all(writes)?)??)?;
    let reads = [0, 1, 2].map(|page| read(f.clone(), page));
    list(block_on(join_all(reads)?)??)
}

/// Fork-join of writes: whoever goes on finds all of them.
fn write_not_blocking(f: File, _: &Scope) -> Result<KVec<u32>> {
    let inner = Scope::new()?;
    inner.spawn(write(f.clone(), 6, 60))?;
    inner.spawn(write(f.clone(), 7, 70))?;
    block_on(inner.join())?;
    list([block_on(read(f.clone(), 6))?, block_on(read(f, 7))?])
}

/// Nothing is read before the futures are waited for.
fn lazy(f: File, _: &Scope) -> Result<KVec<u32>> {
    let (t1, t2, t3) = (read(f.clone(), 1), read(f.clone(), 2), read(f, 3));
    let (a, b, c) = block_on(async { try_join!(t1, t2, t3) })??;
    list([Ok(a), Ok(b), Ok(c)])
}

fn spawn_async(f: File, scope: &Scope) -> Result<KVec<u32>> {
    let (t1, t2, t3) = (read(f.clone(), 6), read(f.clone(), 7), read(f, 0));
    let task = scope.spawn(async { list([Ok(t1.await?), Ok(t2.await?), t3.await]) })?;
    block_on(task)??
}

/// A thread of its own, as long as the scope.
fn own_runtime(f: File, _: &Scope) -> Result<KVec<u32>> {
    let scope = Executor::new(c"sketches")?.scope()?;
    let task = scope.named(c"a read").spawn(read(f, 2))?;
    list([block_on(task)??])
}

fn list(values: impl IntoIterator<Item = Result<u32>>) -> Result<KVec<u32>> {
    let mut all = KVec::new();
    for value in values {
        all.push(value?, GFP_KERNEL)?;
    }
    Ok(all)
}

type Sketch = fn(File, &Scope) -> Result<KVec<u32>>;

const SKETCHES: [(&str, Sketch); 10] = [
    ("c_async_b, c_await_b", nested),
    ("c_await_nb", not_blocking),
    ("join(array)", join_array),
    ("c_async_b_join", join_not_blocking),
    ("async_run, not blocking", run_not_blocking),
    ("async_run, blocking", run_blocking),
    ("run.then.then.then", chain),
    ("tokio::join", lazy),
    ("spawn(async)", spawn_async),
    ("runtime::new", own_runtime),
];

const CHANGING: [(&str, Sketch); 3] = [
    ("run(write).then.then.then", write_chain),
    ("join(array of writes)", write_array),
    ("async_run of writes", write_not_blocking),
];

impl kernel::Module for Sketches {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let volume = Arc::new(Volume::open(c"/mnt")?, GFP_KERNEL)?;
        let ino = block_on(volume.lookup(volume.root(), b"pages"))??;
        // Gone with the handle
        let written = block_on(volume.tmpfile(volume.root(), &NewInode::file(0o600)))??;
        let file = |ino| -> Result<File> {
            let volume = volume.clone();
            Ok(Arc::new(Pages { volume, ino }, GFP_KERNEL)?)
        };
        let scope = Scope::new()?;
        for (name, sketch) in SKETCHES {
            pr_info!("{}: {:?}\n", name, sketch(file(ino)?, &scope)?);
        }
        for (name, sketch) in CHANGING {
            pr_info!("{}: {:?}\n", name, sketch(file(written.ino())?, &scope)?);
        }
        Ok(Self)
    }
}
