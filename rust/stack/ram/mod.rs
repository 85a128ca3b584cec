// SPDX-License-Identifier: GPL-2.0

//! [`RamFs`]: a file system in memory, as what lies below all layers.
//!
//! # Concurrency
//!
//! All of it is under one [`RwSemaphore`]: who looks has it to read, who changes to write. Nobody
//! awaits anything while he has it, so it is held for as long as it takes to copy what is read or
//! written, and a change is whole or absent, whenever its future is dropped: before it has the
//! lock, or behind its end. It is no spinlock, since changes allocate under it, which may sleep in
//! a thread.
//!
//! A handle counts in an atomic variable of its own, beside the inode, and its destructor takes no
//! lock: it may run in any context. An inode without names is on a list; each change begins with
//! deleting those on it whose last handle is gone, and nobody finds them in between (`ESTALE`).

mod contents;
mod inode;
mod names;
mod tree;

use self::inode::Kind;
use self::tree::{Tree, ROOT};
use crate::asynchronous::{AsyncStackable, Asynchronous, Ino, Layer};
use crate::change::{Change, OpenInode, Sync as Durable};
use crate::owned_change::owned;
use core::ops::Range;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use upcall::{Block, Blocks, ReadGuard, RwSemaphore, WriteGuard};
use vfs::{AclEntry, Attr, DirBatch, NewInode, StatFs, XattrNamespace};

/// A tree of files in memory, with all operations.
///
/// Errors, times, links and limits are as those of an ext4 volume with blocks of 4 KiB, but for
/// these: attributes have no bound but memory, there are no projects (`EOPNOTSUPP`), and a
/// directory has the size 0. What has no memory fails with `ENOMEM` at once. There is nothing to
/// make durable.
///
/// The memory of a file that lost its name is free when the last handle is gone and something else
/// is changed.
///
/// ```
/// # use kernel::prelude::*;
/// # use stack::{AsyncStackable, RamFs};
/// # use vfs::NewInode;
/// # async fn example() -> Result {
/// let fs = RamFs::new()?;
/// let etc = fs.mkdir(fs.root(), b"etc", 0o755).await?;
/// let motd = fs.create(etc, b"motd", &NewInode::file(0o644)).await?;
/// fs.append(motd, b"hello").await?;
/// let ino = fs.walk(fs.root(), b"/etc/motd").await?;
/// assert!(fs.stat(ino).await?.size == 5);
/// # Ok(())
/// # }
/// ```
pub struct RamFs {
    tree: RwSemaphore<Tree>,
}

/// Counts a handle.
struct Handle(Arc<Atomic<u32>>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl RamFs {
    /// Makes an empty root directory. Fails with `ENOMEM`.
    pub fn new() -> Result<Self> {
        Self::with_limit(u32::MAX.into())
    }

    /// The same, with room for so many pages of contents; `ENOSPC` for more.
    pub fn with_limit(pages: u64) -> Result<Self> {
        Ok(Self {
            tree: RwSemaphore::new(Tree::new(pages)?),
        })
    }

    async fn look(&self) -> Result<ReadGuard<'_, Tree>> {
        self.tree.read().await.map_err(|_| ESHUTDOWN)
    }

    async fn begin(&self) -> Result<WriteGuard<'_, Tree>> {
        let mut tree = self.tree.write().await.map_err(|_| ESHUTDOWN)?;
        tree.reap();
        Ok(tree)
    }
}

impl Layer for RamFs {
    type Kind = Asynchronous;
}

impl AsyncStackable for RamFs {
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let found = self.look().await?.find(dir, name)?;
        found.map(|(ino, _)| ino).ok_or(ENOENT)
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        Ok(self.look().await?.get(ino)?.attr(ino))
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let tree = self.look().await?;
        let contents = tree.get(ino)?.contents()?;
        block.fill_vacant()?;
        Ok(contents.read(offset, block.as_mut_slice()))
    }

    async fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        let want = blocks.check_range(&range)?;
        let tree = self.look().await?;
        let contents = tree.get(ino)?.contents()?;
        blocks.fill_vacant()?;
        let mut done = 0;
        while done < want {
            let page = blocks.page_mut(done / Block::SIZE);
            let count = contents
                .read(range.start.saturating_add(done as u64), page)
                .min(want - done);
            if let Some(tail) = page.get_mut(count..) {
                tail.fill(0);
            }
            done += count;
            if count < Block::SIZE {
                break;
            }
        }
        Ok(done)
    }

    async fn readlink(&self, ino: Ino) -> Result<KVec<u8>> {
        match &self.look().await?.get(ino)?.kind {
            Kind::Link(target) => owned(target),
            _ => Err(EINVAL),
        }
    }

    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        let tree = self.look().await?;
        let (parent, names) = tree.directory(dir)?;
        names.list(dir, parent, pos, batch)
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        let (space, _) = XattrNamespace::of_name(name).ok_or(EOPNOTSUPP)?;
        let tree = self.look().await?;
        let inode = tree.get(ino)?;
        match space {
            XattrNamespace::AclAccess | XattrNamespace::AclDefault => {
                let acl = inode.acl(space == XattrNamespace::AclDefault)?;
                AclEntry::to_xattr(&acl.ok_or(ENODATA)?)
            }
            _ => inode.xattr(name),
        }
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        self.look().await?.get(ino)?.xattrs()
    }

    async fn acl(&self, ino: Ino, default: bool) -> Result<Option<KVec<AclEntry>>> {
        self.look().await?.get(ino)?.acl(default)
    }

    async fn statfs(&self) -> Result<StatFs> {
        let tree = self.look().await?;
        let free = tree.space.limit.saturating_sub(tree.space.used);
        let files = u64::from(u32::MAX);
        Ok(StatFs {
            blocks: tree.space.limit,
            free,
            available: free,
            files,
            free_files: files - tree.count(),
        })
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        self.begin().await?.change(&change)
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let mut tree = self.begin().await?;
        let pos = match pos {
            Some(pos) => pos,
            None => tree.get(ino)?.contents()?.size(),
        };
        if bytes.is_empty() {
            tree.get(ino)?.contents()?;
            return Ok((pos, 0));
        }
        let count = tree.modify(ino, |contents, space| contents.write(pos, bytes, space))?;
        Ok((pos, count))
    }

    /// It is as durable as it gets.
    async fn make_durable(&self, what: Durable) -> Result {
        match what {
            Durable::All => Ok(()),
            Durable::Inode(ino) | Durable::Data(ino) => self.look().await?.get(ino).map(drop),
        }
    }

    async fn open(&self, ino: Ino) -> Result<OpenInode> {
        let handles = self.begin().await?.keep(ino)?;
        OpenInode::new(ino, Handle(handles))
    }

    async fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        let (ino, handles) = self.begin().await?.tmpfile(dir, new)?;
        OpenInode::new(ino, Handle(handles))
    }
}
