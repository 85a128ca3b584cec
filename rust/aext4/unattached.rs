// SPDX-License-Identifier: GPL-2.0

//! Changing the contents of files that no program has: writing, truncating, giving space.
//!
//! What is in the page cache, and the size that programs see, belong to the VFS inode. A file that
//! has one is changed by the VFS alone, and these operations fail with `EBUSY`, before they have
//! changed anything. For all others there is nothing but the disk, and the bytes go to the device
//! at once.
//!
//! # Concurrency
//!
//! Each operation has the file's `rwsem` to write, from the look for a VFS inode to its end; who
//! attaches one has it to read. So a file gets its VFS inode, and the size that it is given, before
//! such a change or after it.
//!
//! The device may write to blocks that were chosen for a file when nobody waits for that any more,
//! and they are not to be given to others. So each operation is a task of the volume's scope:
//! dropping the future lets it go on. It passes the gate, which keeps it out of a frozen volume,
//! and keeps the volume writable until it is over.

use crate::ext4::Ext4;
use crate::inode_info::{InodeInfo, InodeRef};
use crate::map::MappingKind;
use crate::memory;
use crate::set_attributes::SetAttributes;
use crate::write::WriteKind;
use core::future::Future;
use core::ops::Range;
use disk::{gfp, vec_with_capacity, Cache};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::bio::Op;
use upcall::{JoinHandle, WriteGuard};

impl Ext4 {
    /// Writes `bytes` at byte `pos` of a file. Returns how many bytes were written, which are fewer
    /// than there are only if something failed behind them.
    ///
    /// What was written is on the device, and the file has it; it is durable after
    /// [`sync_inode`](Self::sync_inode). `privileged` says whether it may take the space that is
    /// kept for those with privilege.
    ///
    /// Fails with `EBUSY` if the file has a VFS inode, with `EISDIR`, `EINVAL` for what has no
    /// bytes, `ENOSPC`, `EFBIG`, `EROFS`, and with the errors of damage and of the block layer.
    ///
    /// # Cancellation
    ///
    /// The write goes on alone, or does not begin.
    pub async fn write_at(
        volume: &Arc<Self>,
        info: &InodeRef,
        pos: u64,
        bytes: &[u8],
        privileged: bool,
    ) -> Result<usize> {
        let (_, count) = Self::write(volume, info, Some(pos), bytes, privileged).await?;
        Ok(count)
    }

    /// As [`write_at`](Self::write_at), at the file's end. Returns where that was, and how many
    /// bytes were written.
    pub async fn append(
        volume: &Arc<Self>,
        info: &InodeRef,
        bytes: &[u8],
        privileged: bool,
    ) -> Result<(u64, usize)> {
        Self::write(volume, info, None, bytes, privileged).await
    }

    async fn write(
        volume: &Arc<Self>,
        info: &InodeRef,
        pos: Option<u64>,
        bytes: &[u8],
        privileged: bool,
    ) -> Result<(u64, usize)> {
        let mut copy: KVVec<u8> = vec_with_capacity(volume.disk.spawner(), bytes.len()).await?;
        copy.extend_from_slice(bytes, gfp())?;
        let (this, file) = (volume.clone(), info.clone());
        let write = Self::detached(volume, move || async move {
            let _permit = this.begin_change().await?;
            let guard = this.lock_unattached(&file).await?;
            let pos = pos.unwrap_or_else(|| file.size());
            if copy.is_empty() {
                return Ok((pos, 0));
            }
            let write = || this.write_bytes(&file, pos, &copy, privileged);
            let written = memory::pinned(write).await?.await?;
            this.touch(&file).await?;
            drop(guard);
            Ok((pos, written))
        });
        write.await?.await.map_err(|_| ESHUTDOWN)?
    }

    /// Gives a file the size `size`: what is behind it is freed, and what is new reads as zeros.
    ///
    /// Fails as [`write_at`](Self::write_at).
    ///
    /// # Cancellation
    ///
    /// It goes on alone, or does not begin.
    pub async fn resize(volume: &Arc<Self>, info: &InodeRef, size: u64) -> Result {
        let (this, file) = (volume.clone(), info.clone());
        let resize = Self::detached(volume, move || async move {
            let _permit = this.begin_change().await?;
            let guard = this.lock_unattached(&file).await?;
            let resize = || this.truncate_locked(&file, size);
            memory::pinned(resize).await?.await?;
            let touched = this.touch(&file).await;
            drop(guard);
            touched
        });
        resize.await?.await.map_err(|_| ESHUTDOWN)?
    }

    /// Gives the holes of a range blocks that read as zeros. The file gets longer if it ends inside
    /// the range, unless `keep_size` is set.
    ///
    /// Fails as [`write_at`](Self::write_at) and [`allocate`](Self::allocate).
    ///
    /// # Cancellation
    ///
    /// It goes on alone, or does not begin.
    pub async fn provide(
        volume: &Arc<Self>,
        info: &InodeRef,
        range: Range<u64>,
        keep_size: bool,
    ) -> Result {
        let (this, file) = (volume.clone(), info.clone());
        let provide = Self::detached(volume, move || async move {
            let _permit = this.begin_change().await?;
            let guard = this.lock_unattached(&file).await?;
            if range.is_empty() {
                return Err(EINVAL);
            }
            let (pos, end) = (range.start, range.end);
            let allocate = || this.allocate(&file, pos, end, true);
            memory::pinned(allocate).await?.await?;
            if !keep_size && end > file.size() {
                let resize = || this.truncate_locked(&file, end);
                memory::pinned(resize).await?.await?;
            }
            let touched = this.touch(&file).await;
            drop(guard);
            touched
        });
        provide.await?.await.map_err(|_| ESHUTDOWN)?
    }

    /// Spawns the task of a change, when there is memory for it.
    async fn detached<F>(volume: &Self, change: impl FnOnce() -> F) -> Result<JoinHandle<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let boxed = memory::boxed(change).await?;
        volume.disk.spawner().spawn(KBox::into_pin(boxed))
    }

    /// The lock of a regular file that has no VFS inode.
    async fn lock_unattached<'a>(&self, file: &'a InodeInfo) -> Result<WriteGuard<'a, ()>> {
        self.check_regular(file)?;
        let guard = file.rwsem.write().await.map_err(|_| ESHUTDOWN)?;
        match file.attached.is_set() {
            true => Err(EBUSY),
            false => Ok(guard),
        }
    }

    /// The contents were changed now. The file's `rwsem` is held to write: a VFS inode that is
    /// attached later has these times.
    async fn touch(&self, file: &InodeInfo) -> Result {
        let now = self.stamp(file);
        let set = SetAttributes {
            mtime: Some(now),
            ctime: Some(now),
            ..SetAttributes::default()
        };
        let touch = memory::pinned(|| self.set_attributes_locked(file, &set)).await?;
        touch.await
    }

    /// Writes to a file that has no VFS inode, with its `rwsem` held to write. Returns how many
    /// bytes were written, which are fewer than there are only if something failed behind them.
    /// Blocks that the device may still write to are not to be given to others: not to be dropped.
    async fn write_bytes(
        &self,
        info: &InodeInfo,
        pos: u64,
        bytes: &[u8],
        privileged: bool,
    ) -> Result<usize> {
        let most = self.max_size(info).saturating_sub(pos);
        if most == 0 {
            return Err(EFBIG);
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let bytes = bytes.get(..most).unwrap_or(bytes);
        let end = pos + bytes.len() as u64;
        self.leave_inline(info, privileged).await?;
        let old = info.size();
        if pos > old {
            self.zero_tail(info, old).await?;
        }
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = pos + done as u64;
            match self.write_part(info, at, rest, privileged).await {
                Ok(count) => done += count,
                Err(error) => {
                    self.write_undo(
                        info,
                        at..end.next_multiple_of(self.sb.geo.block_size().into()),
                    )
                    .await?;
                    return match done {
                        0 => Err(error),
                        done => Ok(done),
                    };
                }
            }
        }
        Ok(done)
    }

    /// Writes as much as lies together. Returns how many bytes.
    async fn write_part(
        &self,
        info: &InodeInfo,
        pos: u64,
        bytes: &[u8],
        privileged: bool,
    ) -> Result<usize> {
        let len = bytes.len() as u64;
        let map = self.write_begin(info, pos, len, privileged, false).await?;
        let (start, end, keep, at) = match map.kind {
            WriteKind::Data(at) => (map.offset, map.offset + map.len, true, at),
            WriteKind::Unwritten(at) => (map.offset, map.offset + map.len, false, at),
            WriteKind::Delayed { .. } => {
                let (mapping, _) = self.writeback_map(info, pos, pos + len).await?;
                match mapping.kind {
                    MappingKind::Unwritten(at) => (mapping.offset, mapping.end(), false, at),
                    _ => return Err(EIO),
                }
            }
        };
        let count = len.min(end.saturating_sub(pos));
        let part = bytes.get(..count as usize).ok_or(EIO)?;
        let written = self
            .write_device(at + pos.saturating_sub(start), part, keep)
            .await;
        let size = pos + count;
        if let Err(error) = written {
            if !keep {
                self.write_done(info, pos, count, false, size).await?;
            }
            return Err(error);
        }
        if !keep || size > info.size() {
            self.write_done(info, pos, count, true, size).await?;
        }
        Ok(count as usize)
    }

    /// Writes bytes from position `at` of the device on. Of blocks of which they are a part the
    /// rest is kept, or zero.
    async fn write_device(&self, at: u64, bytes: &[u8], keep: bool) -> Result {
        let size = self.sb.geo.block_size() as usize;
        let bits = self.sb.geo.block_bits();
        let mut block = at >> bits;
        let mut skip = (at - (block << bits)) as usize;
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = (skip + rest.len()).div_ceil(size).min(Cache::RUN_MAX);
            let mut bufs = vec_with_capacity(self.cache.spawner(), count).await?;
            let first = block;
            while bufs.len() < count {
                let len = rest.len().min(size - skip);
                let (now, behind) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                let mut draft = match len < size && keep {
                    true => {
                        let mut old = self.cache.read_run(block, 1).await?;
                        self.cache.draft_of(&old.pop().ok_or(EIO)?).await?
                    }
                    false => {
                        let mut draft = self.cache.draft().await?;
                        if len < size {
                            draft.data_mut().fill(0);
                        }
                        draft
                    }
                };
                if let Some(to) = draft.data_mut().get_mut(skip..skip + len) {
                    to.copy_from_slice(now);
                }
                bufs.push_within_capacity(draft.freeze()).map_err(|_| EIO)?;
                rest = behind;
                skip = 0;
                block += 1;
            }
            let write = self.cache.write_run(first, bufs, Op::Write).await?;
            write.done().await?;
        }
        Ok(())
    }
}
