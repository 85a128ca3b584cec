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
//! and keeps the volume writable until it is over. If the scope ends before that, the blocks stay
//! taken until the volume is gone.
//!
//! # After a loss of power
//!
//! Bytes go to blocks that the file does not have, or to those that it has. Then one transaction
//! maps what is new, and sets the size and the times: before it the file is as it was, but for what
//! was overwritten in place.

use crate::alloc::{Loan, Space, Window};
use crate::ext4::Ext4;
use crate::inode_info::{InodeInfo, InodeRef};
use crate::map_plan::MapPlan;
use crate::memory;
use crate::set_attributes::Edits;
use core::future::Future;
use core::mem::replace;
use core::ops::Range;
use disk::{gfp, vec_with_capacity, Cache};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::{ExtentState, InodeEdit, Lblk};
use upcall::bio::Op;
use upcall::oneshot::{oneshot, Sender};
use upcall::{Block, Blocks, JoinHandle, WriteGuard};

/// Pages that are written: what is whole blocks goes from them to the device.
pub enum Pages<'a> {
    /// A block. One that is vacant has no bytes.
    One(&'a mut Block),
    /// So many bytes from the start of blocks on; zeros for what is vacant.
    Many(&'a mut Blocks, usize),
}

impl Pages<'_> {
    /// Moves them to the task that `sender` leads to, or leaves them.
    fn send(&mut self, sender: Sender<Source>) -> Result {
        let source = match self {
            Self::One(block) => Source::Page(replace(block, Block::vacant())),
            Self::Many(blocks, len) => {
                blocks.fill_vacant()?;
                let vacant = Blocks::vacant(blocks.len() / Block::SIZE)?;
                Source::Pages(replace(blocks, vacant), *len)
            }
        };
        if let Err(source) = sender.send(source) {
            self.put(source);
        }
        Ok(())
    }

    /// Puts back what [`send`](Self::send) took.
    fn put(&mut self, source: Source) {
        match (self, source) {
            (Self::One(block), Source::Page(page)) => **block = page,
            (Self::Many(blocks, _), Source::Pages(pages, _)) => **blocks = pages,
            _ => {}
        }
    }
}

/// What is written.
enum Source {
    Bytes(KVVec<u8>),
    Page(Block),
    /// The file has it from a multiple of the size of a page on.
    Pages(Blocks, usize),
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Page(block) => block.as_slice().len(),
            Self::Pages(_, len) => *len,
        }
    }

    /// The bytes of a part, or those up to the end of a block of the volume.
    fn bytes(&self, part: Range<usize>) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => bytes.get(part),
            Self::Page(block) => block.as_slice().get(part),
            Self::Pages(blocks, _) => {
                let at = part.start / Block::SIZE * Block::SIZE;
                let end = part.end.min(at + Block::SIZE);
                let page = blocks.page(part.start / Block::SIZE);
                page.get(part.start - at..end.checked_sub(at)?)
            }
        }
    }
}

/// What is under the bytes that are written.
enum Under {
    /// Blocks that the file has, and that were written before.
    Written,
    /// Blocks that the file has, and that read as zeros.
    Unwritten,
    /// Blocks that it will have.
    Hole(Lent),
}

/// A loan that the device writes to. Dropping it keeps the blocks from others.
struct Lent(Option<Loan>);

impl Lent {
    /// The device is done.
    fn done(mut self) -> Result<Loan> {
        self.0.take().ok_or(EIO)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(loan) = self.0.take() {
            loan.abandon();
        }
    }
}

impl Ext4 {
    /// Writes `bytes` at byte `pos` of a file. Returns how many bytes were written, which are fewer
    /// than there are only if something failed behind them.
    ///
    /// What was written is on the device, and the file has it; it is durable after
    /// [`sync_inode`](Self::sync_inode). `privileged` says whether it may take the space that is
    /// kept for those with privilege.
    ///
    /// Fails with `EBUSY` if the file has a VFS inode, with `ESTALE` if it was deleted, with
    /// `EISDIR`, `EINVAL` for what has no bytes, `ENOSPC`, `EFBIG`, `EROFS`, and with the errors of damage and of the block layer.
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
        let (_, count) = Self::write_copy(volume, info, Some(pos), bytes, privileged).await?;
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
        Self::write_copy(volume, info, None, bytes, privileged).await
    }

    /// As [`write_at`](Self::write_at), of pages: what is whole blocks of the volume goes from them
    /// to the device. They are back when the future is ready. Of many `pos` is a multiple of
    /// [`Block::SIZE`].
    ///
    /// If the scope of the volume ends meanwhile it fails with `ESHUTDOWN`, and they may be vacant.
    ///
    /// # Cancellation
    ///
    /// The write goes on alone, and they are vacant; or it does not begin.
    pub async fn write_pages(
        volume: &Arc<Self>,
        info: &InodeRef,
        pos: u64,
        mut pages: Pages<'_>,
        privileged: bool,
    ) -> Result<usize> {
        // They go to a task that is there, or stay.
        let (sender, receiver) = oneshot()?;
        let (this, file) = (volume.clone(), info.clone());
        let write = Self::detached(volume, move || async move {
            let mut source: Source = receiver.await.map_err(|_| ECANCELED)?;
            let write = this.write_source(&file, Some(pos), &mut source, privileged);
            let written = write.await;
            Ok((written, source))
        });
        let write = write.await?;
        pages.send(sender)?;
        let written: Result<_> = write.await.map_err(|_| ESHUTDOWN)?;
        let (written, source) = written?;
        pages.put(source);
        written.map(|(_, count)| count)
    }

    async fn write_copy(
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
            let mut source = Source::Bytes(copy);
            this.write_source(&file, pos, &mut source, privileged).await
        });
        write.await?.await.map_err(|_| ESHUTDOWN)?
    }

    async fn write_source(
        &self,
        file: &InodeInfo,
        pos: Option<u64>,
        source: &mut Source,
        privileged: bool,
    ) -> Result<(u64, usize)> {
        let _permit = self.begin_change().await?;
        let _guard = self.lock_unattached(file).await?;
        let pos = pos.unwrap_or_else(|| file.size());
        if source.len() == 0 {
            return Ok((pos, 0));
        }
        let written = self.write_bytes(file, pos, source, privileged).await?;
        Ok((pos, written))
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

    /// The lock of a regular file that has no VFS inode. What was reserved for its page cache, and
    /// has come to nothing, is given back: there are no pages any more.
    async fn lock_unattached<'a>(&self, file: &'a InodeInfo) -> Result<WriteGuard<'a, ()>> {
        self.check_regular(file)?;
        let guard = file.rwsem.write().await.map_err(|_| ESHUTDOWN)?;
        if file.attached.is_set() {
            return Err(EBUSY);
        }
        if !file.is_usable() {
            // The VFS may be letting go of it, with pages that are on their way to the device.
            return Err(ESTALE);
        }
        if file.pending.lock().blocks() > 0 {
            let range = 0..self.max_size(file);
            memory::pinned(|| self.write_undo(file, range.clone()))
                .await?
                .await?;
        }
        Ok(guard)
    }

    /// The contents were changed now. The file's `rwsem` is held to write: a VFS inode that is
    /// attached later has these times.
    async fn touch(&self, file: &InodeInfo) -> Result {
        let touched = self.touched(file)?;
        let touch = memory::pinned(|| self.edit_inode(file, &touched)).await?;
        touch.await
    }

    /// Writes to a file that has no VFS inode, with its `rwsem` held to write. Returns how many
    /// bytes were written, which are fewer than there are only if something failed behind them.
    async fn write_bytes(
        &self,
        info: &InodeInfo,
        pos: u64,
        source: &mut Source,
        privileged: bool,
    ) -> Result<usize> {
        let most = self.max_size(info).saturating_sub(pos);
        if most == 0 {
            return Err(EFBIG);
        }
        let len = source.len();
        let len = usize::try_from(most).map_or(len, |most| len.min(most));
        self.leave_inline(info, privileged).await?;
        let old = info.size();
        if pos > old {
            memory::pinned(|| self.zero_tail(info, old)).await?.await?;
        }
        let touched = self.touched(info)?;
        let (mut done, mut told) = (0, false);
        while done < len {
            match self
                .write_part(info, pos, source, done..len, privileged, &touched)
                .await
            {
                Ok((count, now)) => {
                    done += count;
                    told = now;
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if !told {
            // Behind the last byte, so that the commit of it brings all to stable media.
            let touch = memory::pinned(|| self.edit_inode(info, &touched)).await?;
            touch.await?;
        }
        Ok(done)
    }

    /// Writes as much of a part of what is to be at `pos` as lies together. Returns how many bytes,
    /// and whether the inode was edited, too.
    async fn write_part(
        &self,
        info: &InodeInfo,
        pos: u64,
        source: &mut Source,
        part: Range<usize>,
        privileged: bool,
        touched: &Edits,
    ) -> Result<(usize, bool)> {
        let bits = self.sb.geo.block_bits();
        let (at, end) = (pos + part.start as u64, pos + part.end as u64);
        let (first, until) = self.blocks_of(at, end)?;
        let extent = self.map(info, Lblk(first)).await?;
        let (skip, left) = (first - extent.lblk.0, extent.end().0 - first);
        let (start, blocks, under) = match extent.state {
            ExtentState::Written(start) => (start.0 + u64::from(skip), left, Under::Written),
            ExtentState::Unwritten(start) => (start.0 + u64::from(skip), left, Under::Unwritten),
            ExtentState::Hole => {
                let want = (until - first).min(left);
                let loan = memory::pinned(|| self.lend(info, Lblk(first), want, privileged));
                let loan = loan.await?.await?;
                (loan.start().0, loan.len(), Under::Hole(Lent(Some(loan))))
            }
        };
        let before = at - (u64::from(first) << bits);
        let count = (end - at).min((u64::from(blocks) << bits) - before) as usize;
        let part = part.start..part.start + count;
        let keep = matches!(under, Under::Written);
        let written = self.write_device((start << bits) + before, source, part, keep);
        let written = written.await;
        let size = at + count as u64;
        if keep && (written.is_err() || size <= info.size()) {
            return written.map(|()| (count, false));
        }
        let loan = match under {
            Under::Hole(lent) => Some(lent.done()?),
            _ => None,
        };
        written?;
        let range = Lblk(first)..self.first_behind(size);
        let map = || self.map_written(info, (loan, range, keep), size, privileged, touched);
        KBox::into_pin(memory::boxed(map).await?).await?;
        Ok((count, true))
    }

    /// Takes blocks for a hole from `lblk` on, at most `want`.
    async fn lend(
        &self,
        info: &InodeInfo,
        lblk: Lblk,
        want: u32,
        privileged: bool,
    ) -> Result<Loan> {
        let writable = self.writable()?;
        let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
        let goal = self.goal(info, lblk).await?;
        // If that fails the file goes without a window.
        let mut window = info.pending.lock().replace_window(Window::default());
        let mut space = Space::of(privileged);
        let loan = writable
            .allocator(self)
            .loan_growing(goal, want, &mut space, &mut window)
            .await?;
        info.pending.lock().replace_window(window);
        Ok(loan)
    }

    /// Blocks of a range were written: maps them, in one transaction with the size and what else of
    /// the inode changes. With `known` they were mapped, and written, before.
    async fn map_written(
        &self,
        info: &InodeInfo,
        (loan, range, known): (Option<Loan>, Range<Lblk>, bool),
        size: u64,
        privileged: bool,
        touched: &Edits,
    ) -> Result {
        let writable = self.writable()?;
        let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
        let space = Space::of(privileged);
        let mut plan = MapPlan::new(self, &writable, info, space).await?;
        match loan {
            Some(loan) => plan.map_loan(range.start, loan, false).await?,
            None if known => {}
            None => {
                let len = range.end.0 - range.start.0;
                plan.convert(range.start, len, false).await?;
            }
        }
        let grow = |edit: &mut InodeEdit<'_>| {
            edit.set_size(edit.size().max(size));
            touched.apply(edit);
        };
        self.change_with(&writable, info, plan, grow).await
    }

    /// Writes a part of what is to be written from position `at` of the device on. Of blocks of
    /// which they are a part the rest is kept, or zero.
    async fn write_device(
        &self,
        at: u64,
        source: &mut Source,
        part: Range<usize>,
        keep: bool,
    ) -> Result {
        let mask = self.sb.geo.block_size() as usize - 1;
        let device = self.disk.device();
        let mut done = 0;
        while done < part.len() {
            let (at, from) = (at + done as u64, part.start + done);
            let left = part.end - from;
            let whole = match (at as usize | from) & mask {
                0 => left & !mask,
                _ => 0,
            };
            done += match &mut *source {
                Source::Page(block) if whole > 0 => {
                    block.write(device, at, from, whole, false).await?;
                    whole
                }
                Source::Pages(blocks, _) if whole > 0 => {
                    let write = memory::boxed(|| blocks.write(device, at, from, whole, false));
                    KBox::into_pin(write.await?).await?;
                    whole
                }
                source => {
                    let bytes = source.bytes(from..part.end).ok_or(EIO)?;
                    let copy = memory::pinned(|| self.write_copies(at, bytes, keep)).await?;
                    copy.await?;
                    bytes.len()
                }
            };
        }
        Ok(())
    }

    /// Writes bytes from position `at` of the device on. Of blocks of which they are a part the
    /// rest is kept, or zero.
    async fn write_copies(&self, at: u64, bytes: &[u8], keep: bool) -> Result {
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
