// SPDX-License-Identifier: GPL-2.0

//! [`DataOperations`]: what a file system provides for files that are written.
//!
//! A write reserves space ([`write_begin`](DataOperations::write_begin)) and leaves the bytes in
//! the page cache. Writeback asks for a place ([`writeback_map`](DataOperations::writeback_map)),
//! sends the bytes there, and says when they are there
//! ([`write_done`](DataOperations::write_done)): only then does the file's map lead to them.

use crate::fs::FileSystemType;
use core::future::Future;
use kernel::prelude::*;

/// What is at a part of a file, now or in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileMapKind {
    /// Nothing: reads as zeros.
    Hole,
    /// Bytes, from this position of the device on.
    Data(u64),
    /// Space from this position of the device on, that becomes part of the file's contents when
    /// [`write_done`](DataOperations::write_done) says so.
    Unwritten(u64),
    /// Bytes in the page cache, for which space is reserved, or being written.
    Delayed {
        /// It was reserved by this very call.
        new: bool,
    },
}

/// Where a part of a file is, now or in time.
#[derive(Clone, Copy, Debug)]
pub struct FileMap {
    /// The first byte in the file.
    pub offset: u64,
    /// How many bytes; at least 1.
    pub len: u64,
    /// What is there.
    pub kind: FileMapKind,
    /// What [`map_sequence`](DataOperations::map_sequence) was when this was so.
    pub sequence: u64,
}

/// What `file_operations` and `address_space_operations` need of files that are written.
///
/// Positions are in bytes; those of `write_undo`, `writeback_map` and `write_done` are multiples of
/// the block size. The futures can be dropped at any point, and what they were to do then has not
/// begun, or goes on. They take no lock of the VFS, and wait for no folio: callers have folios
/// locked.
pub trait DataOperations: FileSystemType {
    /// Whether the calling thread may use space that is kept for those with privilege.
    fn may_use_reserve(&self) -> bool;

    /// The map of what is written to from `pos` on, at most `len` bytes: space is reserved where
    /// the file has none. The kind is never a hole.
    ///
    /// `privileged` says whether that may be space that is kept for those with privilege. With
    /// `nowait` it fails with `EAGAIN` where it would wait for the disk. Fails with `ENOSPC`,
    /// `EFBIG`, `EROFS`.
    fn write_begin(
        &self,
        inode: &Self::Inode,
        pos: u64,
        len: u64,
        privileged: bool,
        nowait: bool,
    ) -> impl Future<Output = Result<FileMap>>;

    /// Gives back what is reserved from `pos` to `end`, and not being written: nothing will be.
    /// What it could not give back is reserved until the file becomes shorter.
    fn write_undo(&self, inode: &Self::Inode, pos: u64, end: u64) -> impl Future<Output = Result>;

    /// A number that changes with the file's map, and with what is reserved. Does not sleep.
    fn map_sequence(&self, inode: &Self::Inode) -> u64;

    /// The map from `pos` on as it is, with what is delayed. Reserves nothing.
    fn map_delayed(
        &self,
        inode: &Self::Inode,
        pos: u64,
        len: u64,
    ) -> impl Future<Output = Result<FileMap>>;

    /// Where the bytes from `pos` on are to be written, at most to `end`: what is reserved gets
    /// space. A hole if nothing is reserved; never delayed.
    fn writeback_map(
        &self,
        inode: &Self::Inode,
        pos: u64,
        end: u64,
    ) -> impl Future<Output = Result<FileMap>>;

    /// As [`direct_begin`](Self::direct_begin), with what is in memory alone: `None` if that is not
    /// enough. Fails with `EROFS`. Does not sleep.
    fn direct_cached(&self, inode: &Self::Inode, pos: u64) -> Result<Option<FileMap>>;

    /// As [`write_begin`](Self::write_begin), for bytes that go past the page cache: holes get
    /// unwritten space if the file can have any. What is a hole still, or delayed, is for the
    /// caller to write through the page cache. Called after [`direct_cached`](Self::direct_cached).
    fn direct_begin(
        &self,
        inode: &Self::Inode,
        pos: u64,
        len: u64,
        privileged: bool,
    ) -> impl Future<Output = Result<FileMap>>;

    /// Gives the holes from `pos` to `end` unwritten space. The size stays. Fails with `EOPNOTSUPP`
    /// if the file can have none. After another error a part of it may be reserved, of which
    /// somebody may have made use meanwhile: see [`forget`](Self::forget).
    fn allocate(
        &self,
        inode: &Self::Inode,
        pos: u64,
        end: u64,
        privileged: bool,
    ) -> impl Future<Output = Result>;

    /// Gives back what is reserved from `pos` to `end`, and what it got for that: the page cache has
    /// nothing of it, and nothing of it is being written.
    fn forget(&self, inode: &Self::Inode, pos: u64, end: u64) -> impl Future<Output = Result>;

    /// Moves the data of a file out of its inode, if it is there. Fails with `ENOSPC`.
    fn leave_inline(&self, inode: &Self::Inode, privileged: bool) -> impl Future<Output = Result>;

    /// Makes a hole of the whole blocks from `pos` to `end`. The size stays.
    ///
    /// For this and the next three: the page cache has nothing of what they change, and nothing of
    /// it is being written. They fail with `EROFS`, too, and with the errors of the disk.
    fn punch(&self, inode: &Self::Inode, pos: u64, end: u64) -> impl Future<Output = Result>;

    /// Gives what is from `pos` to `end` space, and makes the whole blocks read as zeros. The size
    /// stays. Fails with `EOPNOTSUPP` as [`allocate`](Self::allocate) does, and with `ENOSPC`
    /// before anything is changed.
    fn zero(
        &self,
        inode: &Self::Inode,
        pos: u64,
        end: u64,
        privileged: bool,
    ) -> impl Future<Output = Result>;

    /// Takes `len` bytes from `pos` on out of a file of `size` bytes: what is behind them moves to
    /// their place. Fails with `EINVAL` unless they are whole blocks before the end of the file,
    /// and with `EOPNOTSUPP`.
    fn collapse(
        &self,
        inode: &Self::Inode,
        pos: u64,
        len: u64,
        size: u64,
    ) -> impl Future<Output = Result>;

    /// Puts a hole of `len` bytes into a file of `size` bytes: what is from `pos` on moves behind
    /// it. Fails as [`collapse`](Self::collapse) does, and with `EFBIG`. When it fails in the
    /// middle the size on the disk is the new one.
    fn insert(
        &self,
        inode: &Self::Inode,
        pos: u64,
        len: u64,
        size: u64,
    ) -> impl Future<Output = Result>;

    /// The bytes from `pos` to `end` have been written, if `ok`, to where one of the calls above
    /// said: the map leads to them, and the size on the disk is at least the smaller of `size` and
    /// `end`. Otherwise their space is given back.
    ///
    /// What is mapped already stays.
    fn write_done(
        &self,
        inode: &Self::Inode,
        pos: u64,
        end: u64,
        ok: bool,
        size: u64,
    ) -> impl Future<Output = Result> + Send;

    /// The size that the disk knows, or will with the next commit. Does not sleep.
    fn disk_size(&self, inode: &Self::Inode) -> u64;

    /// Whether a loss of power leaves the file's map, and its size, as they are: so what is written
    /// to where it leads is durable when the device has it. Does not sleep.
    fn map_is_durable(&self, inode: &Self::Inode) -> bool;

    /// Gives the file this size: what is behind it, reserved or mapped, is freed. The page cache
    /// has none of it any more, and none of it is being written.
    fn truncate(&self, inode: &Self::Inode, size: u64) -> impl Future<Output = Result>;
}
