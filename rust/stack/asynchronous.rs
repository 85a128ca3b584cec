// SPDX-License-Identifier: GPL-2.0

//! [`AsyncStackable`]: file operations as futures.

use crate::forward;
use crate::page::{self, ReadPage};
use crate::path;
use crate::stream::{Entries, Pages};
use core::future::Future;
use core::ops::Range;
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::{Block, Blocks};
use vfs::{AclEntry, Attr, DirBatch, StatFs};

/// The number of an inode, unique in what is below.
///
/// 32 bits, as in every ext4 volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u32);

/// The kind of layers whose operations are futures.
pub enum Asynchronous {}

/// What is asynchronous or synchronous, and not both.
pub trait Layer {
    /// [`Asynchronous`], or [`Synchronous`](crate::Synchronous). A layer on another has that one's.
    type Kind;
}

/// Asynchronous file operations: of a volume, or of a layer on others.
///
/// Each operation may be dropped at any point, without harm to anything but a vacant [`Block`]. Each runs
/// in any task, and under [`block_on`](upcall::block_on); none sleeps. All fail with `EIO` if the device
/// does, `ENOMEM`, `ESHUTDOWN` once the volume was shut down, `ESTALE` for an inode that is not in use, and as their
/// file system says it is damaged (`EUCLEAN`, `EBADMSG`).
///
/// Operations run as the kernel: nobody asks for permissions, but for a layer that does
/// ([`Permitted`](crate::Permitted)).
///
/// A type that is synchronous cannot have it too: it has one [`Layer::Kind`], and the compiler says "type mismatch
/// resolving `<Both as Layer>::Kind == Asynchronous`".
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no asynchronous file operations",
    label = "not `AsyncStackable`",
    note = "`stack::Background` makes an asynchronous layer of a synchronous one"
)]
pub trait AsyncStackable: Layer<Kind = Asynchronous> + Send + Sync {
    /// The root directory.
    fn root(&self) -> Ino;

    /// Finds `name`, of 1 to 255 bytes, in directory `dir`; `.` and `..` are found too.
    ///
    /// Fails with `ENOENT`, `ENOTDIR` and `ENAMETOOLONG`.
    fn lookup(&self, dir: Ino, name: &[u8]) -> impl Future<Output = Result<Ino>> + Send;

    /// The attributes of an inode.
    fn stat(&self, ino: Ino) -> impl Future<Output = Result<Attr>> + Send;

    /// Reads from byte `offset` of a regular file on into `block`.
    ///
    /// Returns how many bytes there are: [`Block::SIZE`], fewer at the end of the file, 0 behind it. The
    /// rest of the block is zero. Fails with `EISDIR`, and with `EINVAL` for what has no bytes.
    ///
    /// # Cancellation
    ///
    /// A future that is dropped while the device reads leaves the block vacant.
    fn read(
        &self,
        ino: Ino,
        offset: u64,
        block: &mut Block,
    ) -> impl Future<Output = Result<usize>> + Send;

    /// Reads bytes `range.start` to `range.end` of a regular file, which is not included, to the start of `blocks`.
    ///
    /// Returns how many bytes there are; fewer than the range has at the end of the file. The rest of the last page is zero.
    /// The range starts at a multiple of [`Block::SIZE`] and fits the blocks; fails with `EINVAL` if
    /// not, and as [`read`](Self::read). This one reads page after page; volumes read at once what lies together.
    ///
    /// # Cancellation
    ///
    /// Pages of the blocks may be left vacant.
    fn read_at(
        &self,
        ino: Ino,
        range: Range<u64>,
        blocks: &mut Blocks,
    ) -> impl Future<Output = Result<usize>> + Send {
        async move { page::read_at(&Whole(self), ino, range, blocks).await }
    }

    /// The target of a symbolic link, without a zero at the end. Fails with `EINVAL` for what is none.
    fn readlink(&self, ino: Ino) -> impl Future<Output = Result<KVec<u8>>> + Send;

    /// Adds entries of directory `dir` from position `pos` on to `batch`, as far as it goes with little work.
    ///
    /// 0 is the start; where it goes on [`DirBatch::next`] says, which is `None` at the end. A
    /// position stays good for as long as the directory does not change. [`entries`](Self::entries) is a
    /// stream of it. Fails with `ENOTDIR`.
    fn read_dir(
        &self,
        dir: Ino,
        pos: u64,
        batch: &mut DirBatch,
    ) -> impl Future<Output = Result> + Send;

    /// The value of the extended attribute `name`, such as `user.mime_type`.
    ///
    /// Fails with `ENODATA` if there is none, and with `EOPNOTSUPP` for a name without a known prefix.
    fn getxattr(&self, ino: Ino, name: &[u8]) -> impl Future<Output = Result<KVec<u8>>> + Send;

    /// The names of all extended attributes, each with a zero at its end.
    fn listxattr(&self, ino: Ino) -> impl Future<Output = Result<KVec<u8>>> + Send;

    /// The access control list, or that for new files of a directory if `default`.
    fn acl(
        &self,
        ino: Ino,
        default: bool,
    ) -> impl Future<Output = Result<Option<KVec<AclEntry>>>> + Send;

    /// Space and inodes, used and free.
    fn statfs(&self) -> impl Future<Output = Result<StatFs>> + Send;

    /// Walks `path` from directory `dir` on, or from the root if it begins with a slash.
    ///
    /// Symbolic links are followed, the last component's too, as often as the VFS does: 40 times.
    /// `..` at the root is the root, which is where a link that begins with a slash leads. A slash at the end
    /// wants a directory. Fails with `ELOOP`, `ENAMETOOLONG` for a path of 4,096 bytes or more, `ENOENT` for an empty path
    /// or component that is not there, and `ENOTDIR`.
    fn walk(&self, dir: Ino, path: &[u8]) -> impl Future<Output = Result<Ino>> + Send {
        path::walk(self, dir, path, true)
    }

    /// As [`walk`](Self::walk), but a link as the last component is what is found, as with `O_NOFOLLOW`.
    fn walk_nofollow(&self, dir: Ino, path: &[u8]) -> impl Future<Output = Result<Ino>> + Send {
        path::walk(self, dir, path, false)
    }

    /// Reads into several blocks at once: from byte `offset` on, [`Block::SIZE`] bytes each.
    ///
    /// Returns how many bytes there are. Fails as [`read`](Self::read), with the first error.
    ///
    /// # Cancellation
    ///
    /// As of [`read`](Self::read).
    fn read_vectored(
        &self,
        ino: Ino,
        offset: u64,
        blocks: &mut [Block],
    ) -> impl Future<Output = Result<usize>> + Send {
        async move {
            let mut at = offset;
            let reads = upcall::try_join_all(blocks.iter_mut().map(|block| {
                let pos = at;
                at = at.saturating_add(Block::SIZE as u64);
                self.read(ino, pos, block)
            }))?;
            Ok(reads.await?.iter().sum())
        }
    }

    /// Reads a whole file into memory. Fails with `EFBIG` if it has more than `limit` bytes.
    fn read_to_end(
        &self,
        ino: Ino,
        limit: usize,
    ) -> impl Future<Output = Result<KVVec<u8>>> + Send {
        async move {
            let mut bytes = KVVec::new();
            let mut block = Block::vacant();
            loop {
                let count = self.read(ino, bytes.len() as u64, &mut block).await?;
                if bytes.len() + count > limit {
                    return Err(EFBIG);
                }
                bytes.extend_from_slice(block.as_slice().get(..count).ok_or(EIO)?, gfp())?;
                if count < Block::SIZE {
                    return Ok(bytes);
                }
            }
        }
    }

    /// The pages of a file from byte `offset` on, a multiple of [`Block::SIZE`], of which `ahead` are read at a time.
    fn pages(&self, ino: Ino, offset: u64, ahead: usize) -> Pages<'_, Self>
    where
        Self: Sized,
    {
        Pages::new(self, ino, offset, ahead)
    }

    /// The entries of a directory from position `pos` on; 0 is the start.
    fn entries(&self, dir: Ino, pos: u64) -> Entries<'_, Self>
    where
        Self: Sized,
    {
        Entries::new(self, dir, pos)
    }
}

impl<L: Layer> Layer for Arc<L> {
    type Kind = L::Kind;
}

/// Shared, for several layers or tasks.
impl<L: AsyncStackable> AsyncStackable for Arc<L> {
    forward!(self, (**self); root, lookup, stat, read, read_at, readlink, read_dir, getxattr, listxattr, acl, statfs);
}

/// The pages of a layer that has its own way with offsets.
struct Whole<'a, L: ?Sized>(&'a L);

impl<L: AsyncStackable + ?Sized> ReadPage for Whole<'_, L> {
    fn read_page(
        &self,
        ino: Ino,
        offset: u64,
        block: &mut Block,
    ) -> impl Future<Output = Result<usize>> + Send {
        self.0.read(ino, offset, block)
    }
}
