// SPDX-License-Identifier: GPL-2.0

//! [`Stackable`]: file operations that block, and the adapters between both kinds.

use crate::asynchronous::{AsyncStackable, Asynchronous, Ino, Layer};
use crate::change::{Change, OpenInode, RenameFlags, Sync as Durable};
use crate::owned_change::{owned, owned_bytes, OwnedChange};
use core::future::{ready, Future};
use core::ops::Range;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::{block_on, Block, Blocks, Spawner};
use vfs::{AclEntry, Attr, DirBatch, NewInode, SetAttr, StatFs, XattrFlags};

/// The kind of layers whose operations block the calling thread.
pub enum Synchronous {}

/// Synchronous file operations: those of [`AsyncStackable`], each of which returns when it is done.
///
/// Process context, and not inside an upcall: they sleep. What is not said here is as there.
///
/// A type that is asynchronous cannot have it too.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no synchronous file operations",
    label = "not `Stackable`",
    note = "`stack::Blocking` makes a synchronous layer of an asynchronous one"
)]
pub trait Stackable: Layer<Kind = Synchronous> + Send + Sync {
    /// The root directory.
    fn root(&self) -> Ino;

    /// See [`AsyncStackable::lookup`].
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino>;

    /// See [`AsyncStackable::stat`].
    fn stat(&self, ino: Ino) -> Result<Attr>;

    /// See [`AsyncStackable::read`].
    fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize>;

    /// See [`AsyncStackable::read_at`].
    fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        block_on(Direct(self).read_at(ino, range, blocks))?
    }

    /// See [`AsyncStackable::readlink`].
    fn readlink(&self, ino: Ino) -> Result<KVec<u8>>;

    /// See [`AsyncStackable::read_dir`].
    fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result;

    /// See [`AsyncStackable::getxattr`].
    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>>;

    /// See [`AsyncStackable::listxattr`].
    fn listxattr(&self, ino: Ino) -> Result<KVec<u8>>;

    /// See [`AsyncStackable::acl`].
    fn acl(&self, ino: Ino, default: bool) -> Result<Option<KVec<AclEntry>>>;

    /// See [`AsyncStackable::statfs`].
    fn statfs(&self) -> Result<StatFs>;

    /// See [`AsyncStackable::change`].
    fn change(&self, change: Change<'_>) -> Result<Ino> {
        let _ = change;
        Err(EROFS)
    }

    /// See [`AsyncStackable::write_bytes`].
    fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let _ = (ino, pos, bytes);
        Err(EROFS)
    }

    /// See [`AsyncStackable::make_durable`].
    fn make_durable(&self, what: Durable) -> Result {
        let _ = what;
        Ok(())
    }

    /// See [`AsyncStackable::open`].
    fn open(&self, ino: Ino) -> Result<OpenInode> {
        let _ = ino;
        Err(EOPNOTSUPP)
    }

    /// See [`AsyncStackable::tmpfile`].
    fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        let _ = (dir, new);
        Err(EROFS)
    }

    /// See [`AsyncStackable::create`].
    fn create(&self, dir: Ino, name: &[u8], new: &NewInode) -> Result<Ino> {
        block_on(Direct(self).create(dir, name, new))?
    }

    /// See [`AsyncStackable::mkdir`].
    fn mkdir(&self, dir: Ino, name: &[u8], mode: u16) -> Result<Ino> {
        block_on(Direct(self).mkdir(dir, name, mode))?
    }

    /// See [`AsyncStackable::mknod`].
    fn mknod(&self, dir: Ino, name: &[u8], mode: u16, device: (u32, u32)) -> Result<Ino> {
        block_on(Direct(self).mknod(dir, name, mode, device))?
    }

    /// See [`AsyncStackable::symlink`].
    fn symlink(&self, dir: Ino, name: &[u8], target: &[u8]) -> Result<Ino> {
        block_on(Direct(self).symlink(dir, name, target))?
    }

    /// See [`AsyncStackable::link`].
    fn link(&self, dir: Ino, name: &[u8], ino: Ino) -> Result<Ino> {
        self.change(Change::Link { dir, name, ino })
    }

    /// See [`AsyncStackable::unlink`].
    fn unlink(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        self.change(Change::Unlink { dir, name })
    }

    /// See [`AsyncStackable::rmdir`].
    fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        self.change(Change::Rmdir { dir, name })
    }

    /// See [`AsyncStackable::rename`].
    fn rename(
        &self,
        from: Ino,
        name: &[u8],
        to: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<Ino> {
        block_on(Direct(self).rename(from, name, to, new_name, flags))?
    }

    /// See [`AsyncStackable::set_attr`].
    fn set_attr(&self, ino: Ino, set: &SetAttr) -> Result<Ino> {
        self.change(Change::SetAttr { ino, set })
    }

    /// See [`AsyncStackable::setxattr`].
    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<Ino> {
        block_on(Direct(self).setxattr(ino, name, value, flags))?
    }

    /// See [`AsyncStackable::removexattr`].
    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<Ino> {
        block_on(Direct(self).removexattr(ino, name))?
    }

    /// See [`AsyncStackable::set_acl`].
    fn set_acl(&self, ino: Ino, default: bool, entries: Option<&[AclEntry]>) -> Result<Ino> {
        block_on(Direct(self).set_acl(ino, default, entries))?
    }

    /// See [`AsyncStackable::truncate`].
    fn truncate(&self, ino: Ino, size: u64) -> Result<Ino> {
        self.change(Change::Truncate { ino, size })
    }

    /// See [`AsyncStackable::fallocate`].
    fn fallocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Ino> {
        block_on(Direct(self).fallocate(ino, range, keep_size))?
    }

    /// See [`AsyncStackable::write`].
    fn write(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        block_on(Direct(self).write(ino, offset, block))?
    }

    /// See [`AsyncStackable::write_at`].
    fn write_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        block_on(Direct(self).write_at(ino, range, blocks))?
    }

    /// See [`AsyncStackable::append`].
    fn append(&self, ino: Ino, bytes: &[u8]) -> Result<u64> {
        block_on(Direct(self).append(ino, bytes))?
    }

    /// See [`AsyncStackable::fsync`].
    fn fsync(&self, ino: Ino) -> Result {
        self.make_durable(Durable::Inode(ino))
    }

    /// See [`AsyncStackable::fdatasync`].
    fn fdatasync(&self, ino: Ino) -> Result {
        self.make_durable(Durable::Data(ino))
    }

    /// See [`AsyncStackable::sync`].
    fn sync(&self) -> Result {
        self.make_durable(Durable::All)
    }

    /// See [`AsyncStackable::walk`].
    fn walk(&self, dir: Ino, path: &[u8]) -> Result<Ino> {
        block_on(Direct(self).walk(dir, path))?
    }

    /// See [`AsyncStackable::walk_nofollow`].
    fn walk_nofollow(&self, dir: Ino, path: &[u8]) -> Result<Ino> {
        block_on(Direct(self).walk_nofollow(dir, path))?
    }

    /// See [`AsyncStackable::read_to_end`].
    fn read_to_end(&self, ino: Ino, limit: usize) -> Result<KVVec<u8>> {
        block_on(Direct(self).read_to_end(ino, limit))?
    }
}

/// A synchronous layer as futures that block when they are polled: for a thread that may block, to
/// use what is written for the other kind.
struct Direct<'a, S: ?Sized>(&'a S);

impl<S: ?Sized> Layer for Direct<'_, S> {
    type Kind = Asynchronous;
}

impl<S: Stackable + ?Sized> AsyncStackable for Direct<'_, S> {
    fn root(&self) -> Ino {
        self.0.root()
    }

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        self.0.lookup(dir, name)
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        self.0.stat(ino)
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        self.0.read(ino, offset, block)
    }

    async fn readlink(&self, ino: Ino) -> Result<KVec<u8>> {
        self.0.readlink(ino)
    }

    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        self.0.read_dir(dir, pos, batch)
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        self.0.getxattr(ino, name)
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        self.0.listxattr(ino)
    }

    async fn acl(&self, ino: Ino, default: bool) -> Result<Option<KVec<AclEntry>>> {
        self.0.acl(ino, default)
    }

    fn statfs(&self) -> impl Future<Output = Result<StatFs>> + Send {
        ready(self.0.statfs())
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        self.0.change(change)
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        self.0.write_bytes(ino, pos, bytes)
    }

    async fn make_durable(&self, what: Durable) -> Result {
        self.0.make_durable(what)
    }

    async fn open(&self, ino: Ino) -> Result<OpenInode> {
        self.0.open(ino)
    }

    async fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        self.0.tmpfile(dir, new)
    }
}

/// A synchronous layer of an asynchronous one: each operation is awaited on the calling thread.
///
/// What is in memory costs a poll and no more; for what is not the thread sleeps until the device
/// is done, and is woken once. Inside an upcall every operation fails with `EDEADLK`, with a
/// warning.
pub struct Blocking<L>(pub L);

impl<L> Layer for Blocking<L> {
    type Kind = Synchronous;
}

impl<L: AsyncStackable> Stackable for Blocking<L> {
    fn root(&self) -> Ino {
        self.0.root()
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        block_on(self.0.lookup(dir, name))?
    }

    fn stat(&self, ino: Ino) -> Result<Attr> {
        block_on(self.0.stat(ino))?
    }

    fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        block_on(self.0.read(ino, offset, block))?
    }

    fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        block_on(self.0.read_at(ino, range, blocks))?
    }

    fn readlink(&self, ino: Ino) -> Result<KVec<u8>> {
        block_on(self.0.readlink(ino))?
    }

    fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        block_on(self.0.read_dir(dir, pos, batch))?
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        block_on(self.0.getxattr(ino, name))?
    }

    fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        block_on(self.0.listxattr(ino))?
    }

    fn acl(&self, ino: Ino, default: bool) -> Result<Option<KVec<AclEntry>>> {
        block_on(self.0.acl(ino, default))?
    }

    fn statfs(&self) -> Result<StatFs> {
        block_on(self.0.statfs())?
    }

    fn change(&self, change: Change<'_>) -> Result<Ino> {
        block_on(self.0.change(change))?
    }

    fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        block_on(self.0.write_bytes(ino, pos, bytes))?
    }

    fn make_durable(&self, what: Durable) -> Result {
        block_on(self.0.make_durable(what))?
    }

    fn open(&self, ino: Ino) -> Result<OpenInode> {
        block_on(self.0.open(ino))?
    }

    fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        block_on(self.0.tmpfile(dir, new))?
    }
}

/// An asynchronous layer of a synchronous one: each operation is a task of the blocking worker of a
/// scope.
///
/// An operation costs a task, two switches of threads, and a copy of the name or a `Block` that
/// changes hands. The blocking worker is one thread: what blocks there keeps the next waiting. A
/// change that was begun is made, whether somebody waits for it or not.
pub struct Background<S> {
    below: Arc<S>,
    spawner: Spawner,
}

impl<S> Layer for Background<S> {
    type Kind = Asynchronous;
}

impl<S: Stackable + 'static> Background<S> {
    /// Makes the layer of `below`, whose operations belong to the scope of `spawner`.
    pub fn new(below: S, spawner: Spawner) -> Result<Self> {
        Ok(Self {
            below: Arc::new(below, GFP_KERNEL)?,
            spawner,
        })
    }

    /// Runs `f` on the blocking worker. Fails with `ESHUTDOWN` once the scope is over.
    ///
    /// # Cancellation
    ///
    /// What was begun goes on, and its outcome is lost.
    async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&S) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let below = self.below.clone();
        self.spawner.spawn_blocking(move || f(&below))?.await?
    }
}

impl<S: Stackable + 'static> AsyncStackable for Background<S> {
    fn root(&self) -> Ino {
        self.below.root()
    }

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let name = owned(name)?;
        self.run(move |below| below.lookup(dir, &name)).await
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        self.run(move |below| below.stat(ino)).await
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let mut taken = core::mem::replace(block, Block::vacant());
        let read = self.run(move |below| {
            let result = below.read(ino, offset, &mut taken);
            Ok((result, taken))
        });
        let (result, back) = read.await?;
        *block = back;
        result
    }

    async fn readlink(&self, ino: Ino) -> Result<KVec<u8>> {
        self.run(move |below| below.readlink(ino)).await
    }

    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        let list = self.run(move |below| {
            let mut batch = DirBatch::new();
            below.read_dir(dir, pos, &mut batch)?;
            Ok(batch)
        });
        batch.append(&list.await?)
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        let name = owned(name)?;
        self.run(move |below| below.getxattr(ino, &name)).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        self.run(move |below| below.listxattr(ino)).await
    }

    async fn acl(&self, ino: Ino, default: bool) -> Result<Option<KVec<AclEntry>>> {
        self.run(move |below| below.acl(ino, default)).await
    }

    async fn statfs(&self) -> Result<StatFs> {
        self.run(|below| below.statfs()).await
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        let change = OwnedChange::new(&change)?;
        self.run(move |below| below.change(change.get())).await
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let bytes = owned_bytes(bytes)?;
        self.run(move |below| below.write_bytes(ino, pos, &bytes))
            .await
    }

    async fn make_durable(&self, what: Durable) -> Result {
        self.run(move |below| below.make_durable(what)).await
    }

    async fn open(&self, ino: Ino) -> Result<OpenInode> {
        self.run(move |below| below.open(ino)).await
    }

    async fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        let new = new.try_clone()?;
        self.run(move |below| below.tmpfile(dir, &new)).await
    }
}
