// SPDX-License-Identifier: GPL-2.0

//! The layers, in memory and on volumes.

use crate::dump::{content, dump};
use crate::Text;
use core::future::Future;
use kernel::fmt::Write;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use stack::verify::{ATTRIBUTE, OPEN};
use stack::{
    AsyncStackable, Background, Blocking, Latency, Mirror, Overlay, RamFs, RenameFlags, Stackable,
    Subtree, Verify,
};
use upcall::{block_on, Block, Blocks, JoinHandle, Scope, Spawner};
use vfs::{FileType, NewInode, SetAttr};
use volume::{Ino, Volume};

/// Fails the command, and says where.
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            pr_err!("layers.rs, line {}: {}\n", line!(), stringify!($condition));
            return Err(EBADMSG);
        }
    };
}

/// [`block_on`] with the future on the heap: those of many layers are too large for a stack.
#[inline(never)]
fn wait<F: Future>(future: F) -> Result<F::Output> {
    block_on(KBox::pin(future, GFP_KERNEL)?)
}

const LONG: [u8; 10_000] = [b'x'; 10_000];

async fn file(fs: &RamFs, dir: Ino, name: &[u8], bytes: &[u8]) -> Result {
    let ino = fs.create(dir, name, &NewInode::file(0o644)).await?;
    fs.append(ino, bytes).await.map(drop)
}

async fn tree() -> Result<RamFs> {
    let fs = RamFs::new()?;
    let root = fs.root();
    let a = fs.mkdir(root, b"a", 0o755).await?;
    let b = fs.mkdir(a, b"b", 0o755).await?;
    file(&fs, b, b"file", b"content").await?;
    file(&fs, root, b"long", &LONG).await?;
    fs.symlink(b, b"up", b"../../long").await?;
    fs.symlink(a, b"top", b"/a/b").await?;
    fs.symlink(a, b"circle", b"circle").await?;
    fs.symlink(root, b"slash", b"a/b/").await?;
    for n in 0..200u32 {
        let name = CString::try_from_fmt(fmt!("n{n}"))?;
        file(&fs, a, name.to_bytes(), &n.to_le_bytes()).await?;
    }
    check!(file(&fs, root, b"a", b"").await == Err(EEXIST));
    check!(file(&fs, b, b"x/y", b"").await == Err(EINVAL));
    Ok(fs)
}

/// What is not found, and why.
fn refusal(result: Result<Ino>) -> i32 {
    result.map_or_else(|error| error.to_errno(), |_| 0)
}

async fn paths<L: AsyncStackable>(fs: &L) -> Result {
    let root = fs.root();
    let b = fs.walk(root, b"/a/b").await?;
    let file = fs.walk(root, b"a//b/./file").await?;
    let long = fs.walk(root, b"long").await?;
    check!(fs.walk(b, b"file").await? == file);
    check!(fs.walk(b, b"/").await? == root);
    check!(fs.walk(b, b"../../../../a/b").await? == b);
    check!(fs.walk(root, b"a/b/up").await? == long);
    check!(fs.walk(root, b"a/top/file").await? == file);
    check!(fs.walk(root, b"slash").await? == b);
    check!(fs.walk(root, b"slash/file").await? == file);
    check!(fs.walk(root, b"a/b/").await? == b);
    let link = fs.walk_nofollow(root, b"a/b/up").await?;
    check!(fs.stat(link).await?.file_type == FileType::Symlink);
    check!(fs.readlink(link).await?.as_slice() == b"../../long");
    check!(fs.walk_nofollow(root, b"a/top/").await? == b);
    let refused = |path: &'static [u8]| async move { refusal(fs.walk(root, path).await) };
    check!(refused(b"").await == ENOENT.to_errno());
    check!(refused(b"a/none").await == ENOENT.to_errno());
    check!(refused(b"long/").await == ENOTDIR.to_errno());
    check!(refused(b"long/.").await == ENOTDIR.to_errno());
    check!(refused(b"a/b/up/x").await == ENOTDIR.to_errno());
    check!(refused(b"a/circle").await == ELOOP.to_errno());
    check!(refusal(fs.walk(root, &[b'n'; 256]).await) == ENAMETOOLONG.to_errno());
    check!(refusal(fs.walk(root, &[b'/'; 4096]).await) == ENAMETOOLONG.to_errno());
    check!(fs.read(b, 0, &mut Block::vacant()).await == Err(EISDIR));
    let range = fs.read_at(long, 1..2, &mut Blocks::new(1)?).await;
    check!(range == Err(EINVAL));
    check!(content(fs, long).await?.0 == LONG.len() as u64);
    check!(content(fs, file).await?.0 == 7);
    Ok(())
}

async fn names<L: AsyncStackable>(fs: &L, dir: Ino) -> Result<usize> {
    let mut entries = fs.entries(dir, 0);
    let mut count = 0;
    while entries.next().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

async fn subtree() -> Result {
    let fs = Subtree::new(tree().await?, b"/a").await?;
    let root = fs.root();
    // What led out leads to the root, and what was absolute begins there
    check!(fs.walk(root, b"../../b").await? == fs.walk(root, b"/b").await?);
    check!(refusal(fs.walk(root, b"b/up").await) == ENOENT.to_errno());
    check!(names(&fs, root).await? == 2 + 3 + 200);
    let mut entries = fs.entries(root, 0);
    let mut parents = 0;
    while let Some(entry) = entries.next().await? {
        if entry.name == b"." || entry.name == b".." {
            check!(Ino(entry.ino) == root);
            parents += 1;
        }
    }
    check!(parents == 2);
    Ok(())
}

async fn written() -> Result {
    let fs = Overlay::in_memory(tree().await?).await?;
    let root = fs.root();
    let long = fs.walk(root, b"long").await?;
    let mut block = Block::vacant();
    let below = fs.lower().walk(fs.lower().root(), b"long").await?;
    fs.write_bytes(long, Some(4090), b"0123456789").await?;
    check!(fs.read(long, 4088, &mut block).await? == Block::SIZE);
    check!(block.as_slice().get(..14) == Some(b"xx0123456789xx"));
    check!(fs.stat(long).await?.size == 10_000);
    check!(fs.lower().stat(below).await?.size == 10_000);
    check!(fs.lower().read(below, 4088, &mut block).await? == Block::SIZE);
    check!(block.as_slice().get(..14) == Some(b"xxxxxxxxxxxxxx"));
    // Beyond the end, with a hole between; and cut, and longer again
    fs.write_bytes(long, Some(20_000), b"end").await?;
    check!(content(&fs, long).await?.0 == 20_003);
    check!(fs.read(long, 9_998, &mut block).await? == Block::SIZE);
    check!(block.as_slice().get(..4) == Some(b"xx\0\0"));
    fs.truncate(long, 4092).await?;
    fs.truncate(long, 12_000).await?;
    check!(fs.read(long, 4088, &mut block).await? == Block::SIZE);
    check!(block.as_slice().get(..6) == Some(b"xx01\0\0"));
    check!(block.as_slice().iter().skip(4).all(|&byte| byte == 0));
    check!(fs.read(long, 11_999, &mut block).await? == 1);
    check!(fs.write_bytes(root, Some(0), b"x").await == Err(EISDIR));
    check!(fs.write_bytes(long, Some(u64::MAX - 1), b"xx").await == Err(EFBIG));
    Ok(())
}

/// All of it without a device.
pub(crate) fn in_memory() -> Result {
    // As tasks: what futures of so many layers take is too much for a stack.
    let scope = Scope::new()?;
    let run = |task: JoinHandle<Result>| wait(task)??;
    run(scope.spawn(async { paths(&tree().await?).await })?)?;
    run(scope
        .spawn(async { paths(&Latency::new(Overlay::in_memory(tree().await?).await?)).await })?)?;
    let of_scope = scope.spawner();
    run(scope.spawn(async move {
        let view = Subtree::new(tree().await?, b"/").await?;
        paths(&Verify::new(view, of_scope.clone())?).await
    })?)?;
    let of_scope = scope.spawner();
    run(scope.spawn(async move {
        let spawner = of_scope.clone();
        let (one, other) = (tree().await?, RamFs::with_limit(1)?);
        check!(Mirror::new(one, other, spawner.clone()).await.is_err());
        let (one, other) = (tree().await?, Latency::new(tree().await?));
        let mirror = Mirror::paired(one, other, spawner).await?;
        paths(&mirror).await
    })?)?;
    run(scope.spawn(subtree())?)?;
    run(scope.spawn(written())?)?;
    // To the other side, and back
    let blocking = Latency::new(Blocking(wait(tree())??));
    let root = blocking.root();
    let file = blocking.walk(root, b"a/b/file")?;
    check!(blocking.read_to_end(file, 100)?.as_slice() == b"content");
    check!(blocking.read_to_end(file, 6) == Err(EFBIG));
    check!(blocking.read_at(file, 0..10, &mut Blocks::new(1)?)? == 7);
    check!(blocking.reads().total() == 3);
    let background = Background::new(blocking, scope.spawner())?;
    // In an upcall, where nothing may block
    wait(scope.spawn(async move { paths(&background).await })?)??
}

/// Reads a file by way of its checksums. Says how many pages were verified, failed, or have none.
pub(crate) fn verify(volume: &Arc<Volume>, path: &str, out: &mut Text) -> Result {
    let scope = Scope::new()?;
    let fs = Verify::new(volume.clone(), scope.spawner())?;
    let ino = wait(fs.walk(fs.root(), path.as_bytes()))??;
    let read = wait(content(&fs, ino))?;
    let errno = read.map_or_else(|error| error.to_errno(), |_| 0);
    let (good, bad, unknown) = (fs.verified(), fs.failed(), fs.unknown());
    writeln!(out, "{errno} {good} {bad} {unknown}")?;
    Ok(())
}

/// Changes a file that has checksums, at the same time as others, which get theirs here.
pub(crate) fn summed(volume: &Arc<Volume>, path: &str, out: &mut Text) -> Result {
    let scope = Scope::new()?;
    let fs = Verify::new(volume.clone(), scope.spawner())?;
    let fs = Arc::new(fs, GFP_KERNEL)?;
    let ino = wait(fs.walk(fs.root(), path.as_bytes()))??;
    by_task(&scope, change_summed(fs.clone(), ino))?;
    by_task(&scope, summed_at_once(fs.clone(), scope.spawner()))?;
    writeln!(out, "{} {}", fs.verified(), fs.failed())?;
    Ok(())
}

async fn change_summed(fs: Arc<Verify<Arc<Volume>>>, ino: Ino) -> Result {
    fs.write_bytes(ino, Some(5000), b"changed").await?;
    check!(fs.below().getxattr(ino, ATTRIBUTE).await?.as_slice() == OPEN);
    fs.append(ino, &LONG).await?;
    fs.truncate(ino, 21_000).await?;
    fs.truncate(ino, 20_000).await?;
    fs.fallocate(ino, 0..30_000, false).await?;
    content(&*fs, ino).await?;
    fs.fsync(ino).await?;
    let sums = fs.below().getxattr(ino, ATTRIBUTE).await?;
    check!(sums.len() == 30_000usize.div_ceil(Block::SIZE) * 4);
    content(&*fs, ino).await?;
    Ok(())
}

/// 50 files, each by a task; then all are durable by one sync.
async fn summed_at_once(fs: Arc<Verify<Arc<Volume>>>, spawner: Spawner) -> Result {
    let mut tasks = KVec::new();
    for n in 0..50u32 {
        let fs = fs.clone();
        let task = async move {
            let name = CString::try_from_fmt(fmt!("summed{n}"))?;
            let new = NewInode::file(0o644);
            let ino = fs.create(fs.root(), name.to_bytes(), &new).await?;
            fs.seal(ino).await?;
            for at in 0..5 {
                fs.write_bytes(ino, Some(at * 3000), &n.to_le_bytes())
                    .await?;
            }
            Ok::<(), Error>(())
        };
        tasks.push(spawner.spawn(task)?, GFP_KERNEL)?;
    }
    while let Some(task) = tasks.pop() {
        task.await??;
    }
    fs.sync().await
}

/// Changes a file in memory; the volume stays as it is.
pub(crate) fn overlay(volume: &Arc<Volume>, path: &str, out: &mut Text) -> Result {
    let fs = wait(Overlay::in_memory(volume.clone()))??;
    let ino = wait(fs.walk(fs.root(), path.as_bytes()))??;
    let before = wait(content(&fs, ino))??;
    wait(fs.write_bytes(ino, Some(5_000), b"changed"))??;
    let after = wait(content(&fs, ino))??;
    let below = wait(fs.lower().walk(fs.lower().root(), path.as_bytes()))??;
    check!(wait(content(fs.lower(), below))?? == before);
    writeln!(out, "{} {}", after.0, after.1)?;
    Ok(())
}

/// Two layers on two volumes: dumps the tree, and what it took.
pub(crate) fn mirror(devices: (&str, &str), out: &mut Text) -> Result {
    let volume = |name: &str| -> Result<Volume> {
        Volume::mount(&CString::try_from_fmt(fmt!("{name}"))?, c"")
    };
    let (first, second) = (volume(devices.0)?, volume(devices.1)?);
    mirror_of(first, second, out)
}

type Mirrored = Latency<Mirror<Verify<Volume>, Verify<Volume>>>;

async fn mirrored(first: Volume, second: Volume, spawner: Spawner) -> Result<Arc<Mirrored>> {
    let first = Verify::new(first, spawner.clone())?;
    let second = Verify::new(second, spawner.clone())?;
    let mirror = Mirror::new(first, second, spawner).await?;
    Ok(Arc::new(Latency::new(mirror), GFP_KERNEL)?)
}

/// Each step is a task and a function of its own: futures of so many layers, beside those of the
/// step before, are too much for a stack that has a system call above and a driver below.
#[inline(never)]
fn mirror_of(first: Volume, second: Volume, out: &mut Text) -> Result {
    let scope = Scope::new()?;
    let fs = by_task(&scope, mirrored(first, second, scope.spawner()))?;
    dump_of(&fs, out)?;
    let all = fs.reads().total();
    let layers = fs.clone();
    let names = by_task(&scope, async move { names(&*layers, layers.root()).await })?;
    check!(names > 2);
    // Through the VFS, once more
    let (file, whole) = whole(&Blocking(fs.clone()), b"file0")?;
    let layers = fs.clone();
    let read = by_task(&scope, async move { content(&*layers, file).await })?;
    check!(whole == read);
    check!(fs.reads().total() > all);
    Ok(())
}

#[inline(never)]
fn by_task<T: Send + 'static>(
    scope: &Scope,
    task: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    wait(scope.spawn(task)?)??
}

#[inline(never)]
fn dump_of(fs: &Arc<Mirrored>, out: &mut Text) -> Result {
    dump(fs, 32, out)?;
    let failovers = fs.below().failovers();
    writeln!(out, "failovers {failovers} reads {}", fs.reads().total())?;
    Ok(())
}

/// The length and the checksum of a file, read by a thread.
#[inline(never)]
fn whole(fs: &Blocking<Arc<Mirrored>>, path: &[u8]) -> Result<(Ino, (u64, u32))> {
    let file = fs.walk(fs.root(), path)?;
    let bytes = fs.read_to_end(file, 1 << 24)?;
    Ok((file, (bytes.len() as u64, disk::checksum::crc32(0, &bytes))))
}

/// Changes a tree by an overlay: its directories are `lower`, `upper` and `work` of the volume.
pub(crate) fn overlaid(volume: &Arc<Volume>, out: &mut Text) -> Result {
    let scope = Scope::new()?;
    let volume = volume.clone();
    by_task(&scope, change_overlaid(volume))?;
    writeln!(out, "done")?;
    Ok(())
}

async fn change_overlaid(volume: Arc<Volume>) -> Result {
    let at = |path: &'static [u8]| volume.walk(volume.root(), path);
    let (top, work) = (at(b"upper").await?, at(b"work").await?);
    let lower = Subtree::new(volume.clone(), b"/lower").await?;
    let fs = Overlay::new(lower, volume.clone(), top, work).await?;
    let root = fs.root();
    let (a, gone) = (fs.walk(root, b"a").await?, fs.walk(root, b"gone").await?);
    // Copied up to be changed, in a directory that is, too
    let file = fs.walk(root, b"a/b/file").await?;
    fs.append(file, b" and more").await?;
    let mode = SetAttr {
        mode: Some(0o640),
        ..SetAttr::default()
    };
    fs.set_attr(fs.walk(root, b"a/touched").await?, &mode)
        .await?;
    // Whiteouts, of a file and of a directory; and a directory that hides what it was
    fs.unlink(a, b"away").await?;
    fs.unlink(gone, b"one").await?;
    fs.rmdir(root, b"gone").await?;
    fs.unlink(fs.walk(root, b"again").await?, b"old").await?;
    fs.rmdir(root, b"again").await?;
    let again = fs.mkdir(root, b"again", 0o755).await?;
    fs.create(again, b"new", &NewInode::file(0o600)).await?;
    // What is below moves as a file, and not as a directory
    let flags = RenameFlags::default();
    fs.rename(a, b"moves", root, b"moved", flags).await?;
    check!(fs.rename(root, b"a", root, b"c", flags).await == Err(EXDEV));
    let link = fs.link(root, b"second", file).await?;
    check!(link == file);
    fs.sync().await
}
