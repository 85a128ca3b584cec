// SPDX-License-Identifier: GPL-2.0

//! [`AsyncStackable`]: file operations as futures.

use crate::change::{Change, OpenInode, RenameFlags, Sync as Durable};
use crate::forward;
use crate::page::{self, bytes_of, ReadPage};
use crate::path;
use crate::stream::{Entries, Pages};
use core::future::Future;
use core::ops::Range;
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::{Block, Blocks};
use vfs::{AclEntry, Attr, DirBatch, NewInode, SetAttr, StatFs, XattrFlags};

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
/// Each operation runs in any task, and under [`block_on`](upcall::block_on); none sleeps. All fail
/// with `EIO` if the device does, `ENOMEM`, `ESHUTDOWN` once the volume was shut down, `ESTALE` for
/// an inode that is not in use, and as their file system says it is damaged (`EUCLEAN`, `EBADMSG`).
/// What changes something fails with `EROFS` if the volume, the mount or the layer lets nobody, and
/// waits while the volume is frozen.
///
/// # Cancellation
///
/// Each operation may be dropped at any point. What is left then depends on its class:
///
/// | class | operations | when its future is dropped |
/// |---|---|---|
/// | query | `lookup`, `stat`, `read`, `read_dir`, `getxattr`, … | nothing is left but a vacant [`Block`] |
/// | data | `write`, `write_at`, `append`, `truncate`, `fallocate` | it has not begun, or goes on alone to its end |
/// | change | `create`, `unlink`, `rename`, `set_attr`, … | all of it was done, or nothing |
/// | durability | `fsync`, `sync` | what it began is finished; nobody is told |
///
/// Who must know whether a change was done spawns it as a task and keeps the handle: dropping the
/// handle does not cancel the task ([`Spawner::spawn`](upcall::Spawner::spawn)).
///
/// # Durability
///
/// A change is durable when [`fsync`](Self::fsync) of what it changed, or [`sync`](Self::sync), has
/// returned that began after it. A name is durable with its directory. Many changes at once and one
/// `sync` behind them are the fast form: they share a commit of the journal.
///
/// Operations run as the kernel: nobody asks for permissions, but for a layer that does
/// ([`Permitted`](crate::Permitted)).
///
/// A type that is synchronous cannot have it too: it has one [`Layer::Kind`], and the compiler says
/// "type mismatch resolving `<Both as Layer>::Kind == Asynchronous`".
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
    /// Returns how many bytes there are: [`Block::SIZE`], fewer at the end of the file, 0 behind
    /// it. The rest of the block is zero. Fails with `EISDIR`, and with `EINVAL` for what has no
    /// bytes.
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

    /// Reads bytes `range.start` to `range.end` of a regular file, which is not included, to the
    /// start of `blocks`.
    ///
    /// Returns how many bytes there are; fewer than the range has at the end of the file. The rest
    /// of the last page is zero. The range starts at a multiple of [`Block::SIZE`] and fits the
    /// blocks; fails with `EINVAL` if not, and as [`read`](Self::read). This one reads page after
    /// page; volumes read at once what lies together.
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

    /// The target of a symbolic link, without a zero at the end. Fails with `EINVAL` for what is
    /// none.
    fn readlink(&self, ino: Ino) -> impl Future<Output = Result<KVec<u8>>> + Send;

    /// Adds entries of directory `dir` from position `pos` on to `batch`, as far as it goes with
    /// little work.
    ///
    /// 0 is the start; where it goes on [`DirBatch::next`] says, which is `None` at the end. A
    /// position stays good for as long as the directory does not change. [`entries`](Self::entries)
    /// is a stream of it. Fails with `ENOTDIR`.
    fn read_dir(
        &self,
        dir: Ino,
        pos: u64,
        batch: &mut DirBatch,
    ) -> impl Future<Output = Result> + Send;

    /// The value of the extended attribute `name`, such as `user.mime_type`.
    ///
    /// Fails with `ENODATA` if there is none, and with `EOPNOTSUPP` for a name without a known
    /// prefix.
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

    /// Changes names, attributes or space: what [`create`](Self::create) and the others that are
    /// named after what they do are made of.
    ///
    /// Returns the inode that was made, or that the change was about: what lost a name, or got
    /// another. Without an implementation the layer is read-only: `EROFS`.
    fn change(&self, change: Change<'_>) -> impl Future<Output = Result<Ino>> + Send {
        let _ = change;
        async { Err(EROFS) }
    }

    /// Writes `bytes` at byte `pos` of a regular file, or at its end without one. Returns where,
    /// and how many bytes were written, which are fewer than there are only if something failed
    /// behind them.
    ///
    /// Fails with `EISDIR`, `EINVAL` for what has no bytes, `ENOSPC`, `EFBIG`, and with `ETXTBSY`
    /// for a program that runs. Without an implementation the layer is read-only: `EROFS`.
    fn write_bytes(
        &self,
        ino: Ino,
        pos: Option<u64>,
        bytes: &[u8],
    ) -> impl Future<Output = Result<(u64, usize)>> + Send {
        let _ = (ino, pos, bytes);
        async { Err(EROFS) }
    }

    /// Waits until what was changed is durable. Without an implementation there is nothing to wait
    /// for.
    fn make_durable(&self, what: Durable) -> impl Future<Output = Result> + Send {
        let _ = what;
        async { Ok(()) }
    }

    /// Keeps an inode, also if its last name goes: whoever lets go of it last, here or on the
    /// mount, deletes it.
    fn open(&self, ino: Ino) -> impl Future<Output = Result<OpenInode>> + Send {
        let _ = ino;
        async { Err(EOPNOTSUPP) }
    }

    /// Makes a file without a name, which is as if it were in `dir`. It goes with the handle,
    /// unless [`link`](Self::link) gives it a name.
    fn tmpfile(&self, dir: Ino, new: &NewInode) -> impl Future<Output = Result<OpenInode>> + Send {
        let _ = (dir, new);
        async { Err(EROFS) }
    }

    /// Makes a file, or what else the mode of `new` says.
    ///
    /// Fails with `EEXIST`, `ENOENT` in a directory that was removed, `ENOTDIR`, `ENAMETOOLONG`,
    /// `ENOSPC`, `EMLINK`.
    fn create(
        &self,
        dir: Ino,
        name: &[u8],
        new: &NewInode,
    ) -> impl Future<Output = Result<Ino>> + Send {
        async move { self.change(Change::Create { dir, name, new }).await }
    }

    /// Makes a directory with these permissions, of root's. Fails as [`create`](Self::create).
    fn mkdir(&self, dir: Ino, name: &[u8], mode: u16) -> impl Future<Output = Result<Ino>> + Send {
        async move { self.create(dir, name, &NewInode::directory(mode)).await }
    }

    /// Makes a device, a pipe or a socket, of root's: `mode` has the type. Fails as
    /// [`create`](Self::create).
    fn mknod(
        &self,
        dir: Ino,
        name: &[u8],
        mode: u16,
        device: (u32, u32),
    ) -> impl Future<Output = Result<Ino>> + Send {
        async move {
            let mut new = NewInode::with_mode(mode);
            new.device = device;
            self.create(dir, name, &new).await
        }
    }

    /// Makes a symbolic link to `target`, of root's. Fails as [`create`](Self::create), and with
    /// `ENOENT` for an empty target.
    fn symlink(
        &self,
        dir: Ino,
        name: &[u8],
        target: &[u8],
    ) -> impl Future<Output = Result<Ino>> + Send {
        async move {
            let new = &NewInode::with_mode(0o777);
            let change = Change::Symlink {
                dir,
                name,
                target,
                new,
            };
            self.change(change).await
        }
    }

    /// Gives an inode one more name. Fails as [`create`](Self::create), and with `EPERM` for a
    /// directory.
    fn link(&self, dir: Ino, name: &[u8], ino: Ino) -> impl Future<Output = Result<Ino>> + Send {
        self.change(Change::Link { dir, name, ino })
    }

    /// Takes a name from what is no directory; `EISDIR` for one. Without names it is deleted with
    /// its last user.
    fn unlink(&self, dir: Ino, name: &[u8]) -> impl Future<Output = Result<Ino>> + Send {
        self.change(Change::Unlink { dir, name })
    }

    /// Removes a directory; `ENOTEMPTY` if there are names in it, `ENOTDIR` for what is none.
    fn rmdir(&self, dir: Ino, name: &[u8]) -> impl Future<Output = Result<Ino>> + Send {
        self.change(Change::Rmdir { dir, name })
    }

    /// Gives what `name` leads to another name, in one step: at any time there is the old one or
    /// the new one.
    ///
    /// What has the new name loses it. Fails as [`create`](Self::create) and
    /// [`rmdir`](Self::rmdir), with `ENOENT`, and with `EINVAL` for a directory that would be moved
    /// into itself.
    fn rename(
        &self,
        from: Ino,
        name: &[u8],
        to: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> impl Future<Output = Result<Ino>> + Send {
        async move {
            let change = Change::Rename {
                from,
                name,
                to,
                new_name,
                flags,
            };
            self.change(change).await
        }
    }

    /// Changes attributes, all or none. Permissions change the access control list, too, if there
    /// is one.
    fn set_attr(&self, ino: Ino, set: &SetAttr) -> impl Future<Output = Result<Ino>> + Send {
        self.change(Change::SetAttr { ino, set })
    }

    /// Sets an extended attribute. Fails with `EOPNOTSUPP` for a name without a known prefix and
    /// for access control lists, which [`set_acl`](Self::set_acl) sets; with `EEXIST` and `ENODATA`
    /// by the flags; with `ENOSPC`, `ERANGE`.
    fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> impl Future<Output = Result<Ino>> + Send {
        async move {
            let change = Change::SetXattr {
                ino,
                name,
                value: Some(value),
                flags,
            };
            self.change(change).await
        }
    }

    /// Removes an extended attribute. Fails with `ENODATA` if there is none.
    fn removexattr(&self, ino: Ino, name: &[u8]) -> impl Future<Output = Result<Ino>> + Send {
        self.change(Change::SetXattr {
            ino,
            name,
            value: None,
            flags: XattrFlags {
                create: false,
                replace: true,
            },
        })
    }

    /// Sets the access control list, or that for new files of a directory if `default`; without
    /// entries it goes.
    fn set_acl(
        &self,
        ino: Ino,
        default: bool,
        entries: Option<&[AclEntry]>,
    ) -> impl Future<Output = Result<Ino>> + Send {
        self.change(Change::SetAcl {
            ino,
            default,
            entries,
        })
    }

    /// Gives a file this size: what is behind it goes, what is new reads as zeros.
    fn truncate(&self, ino: Ino, size: u64) -> impl Future<Output = Result<Ino>> + Send {
        self.change(Change::Truncate { ino, size })
    }

    /// Gives the holes of a range space that reads as zeros. The file gets longer if it ends in the
    /// range, unless `keep_size` is set. Fails with `EOPNOTSUPP` for a file that can have no such
    /// space.
    fn fallocate(
        &self,
        ino: Ino,
        range: Range<u64>,
        keep_size: bool,
    ) -> impl Future<Output = Result<Ino>> + Send {
        self.change(Change::Allocate {
            ino,
            range,
            keep_size,
        })
    }

    /// Writes a block, which is not vacant, at byte `offset` of a regular file. Returns how many
    /// bytes were written. Fails as [`write_bytes`](Self::write_bytes).
    ///
    /// A file system may take the page along, and put it back when it is done: then nothing is
    /// copied, and once its scope is over the block may be left vacant. Without an implementation
    /// the bytes are written.
    ///
    /// # Cancellation
    ///
    /// The write goes on, or does not begin; the block may be vacant.
    fn write(
        &self,
        ino: Ino,
        offset: u64,
        block: &mut Block,
    ) -> impl Future<Output = Result<usize>> + Send {
        async move {
            let (_, count) = self
                .write_bytes(ino, Some(offset), block.as_slice())
                .await?;
            Ok(count)
        }
    }

    /// Writes bytes `range.start` to `range.end`, which is not included, from the start of `blocks`
    /// on, which are zeros where these are vacant. Returns how many bytes were written. The range
    /// starts at a multiple of [`Block::SIZE`] and fits the blocks; fails with `EINVAL` if not, and
    /// as [`write_bytes`](Self::write_bytes). What [`write`](Self::write) says of the page is true
    /// of these pages.
    fn write_at(
        &self,
        ino: Ino,
        range: Range<u64>,
        blocks: &mut Blocks,
    ) -> impl Future<Output = Result<usize>> + Send {
        async move {
            let len = blocks.check_range(&range)?;
            blocks.fill_vacant()?;
            let bytes = bytes_of(blocks, len)?;
            let (_, count) = self.write_bytes(ino, Some(range.start), &bytes).await?;
            Ok(count)
        }
    }

    /// Writes bytes at the end of a regular file. Returns where that was. Fails as
    /// [`write_bytes`](Self::write_bytes); if fewer bytes were written than there are, with `EIO`.
    fn append(&self, ino: Ino, bytes: &[u8]) -> impl Future<Output = Result<u64>> + Send {
        async move {
            match self.write_bytes(ino, None, bytes).await? {
                (at, count) if count == bytes.len() => Ok(at),
                _ => Err(EIO),
            }
        }
    }

    /// Waits until an inode and its contents are durable.
    fn fsync(&self, ino: Ino) -> impl Future<Output = Result> + Send {
        self.make_durable(Durable::Inode(ino))
    }

    /// Waits until contents, and what leads to them, are durable.
    fn fdatasync(&self, ino: Ino) -> impl Future<Output = Result> + Send {
        self.make_durable(Durable::Data(ino))
    }

    /// Waits until all that was changed is durable, by whomever.
    fn sync(&self) -> impl Future<Output = Result> + Send {
        self.make_durable(Durable::All)
    }

    /// Walks `path` from directory `dir` on, or from the root if it begins with a slash.
    ///
    /// Symbolic links are followed, the last component's too, as often as the VFS does: 40 times.
    /// `..` at the root is the root, which is where a link that begins with a slash leads. A slash
    /// at the end wants a directory. Fails with `ELOOP`, `ENAMETOOLONG` for a path of 4,096 bytes
    /// or more, `ENOENT` for an empty path or component that is not there, and `ENOTDIR`.
    fn walk(&self, dir: Ino, path: &[u8]) -> impl Future<Output = Result<Ino>> + Send {
        path::walk(self, dir, path, true)
    }

    /// As [`walk`](Self::walk), but a link as the last component is what is found, as with
    /// `O_NOFOLLOW`.
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

    /// The pages of a file from byte `offset` on, a multiple of [`Block::SIZE`], of which `ahead`
    /// are read at a time.
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
    forward!(self, (**self); change, write_bytes, write, write_at, make_durable, open, tmpfile);
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
