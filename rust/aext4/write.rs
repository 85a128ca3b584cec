// SPDX-License-Identifier: GPL-2.0

//! Writing contents: where what is written goes, and what becomes of the file when it is there.
//!
//! Whoever writes asks [`Ext4::write_begin`] first: the place is mapped, or it is reserved, and a
//! later failure for lack of space is excluded. When the data is to go to the device
//! [`Ext4::writeback_map`] says where to, and when it is there, or is not, [`Ext4::write_done`].
//! See [`pending`].
//!
//! # What a look is worth
//!
//! What these functions return holds as long as [`Ext4::map_sequence`] is what came with it: a look
//! at the number, with what is to be written locked, says whether it holds still.
//!
//! # Concurrency
//!
//! `write_begin` takes no lock that others hold while they wait, but for a file whose data is in
//! its inode: whoever writes to such a one has `rwsem` to write. It is called with folios locked,
//! as `writeback_map` is. That, and `write_done`, take the `map_lock`; whoever has it waits for the
//! device, for memory and for the journal, never for a folio.

use crate::alloc::{Allocator, Goal, Loan, Reservation, Space, Window};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::InodePlan;
use crate::map::{Mapping, MappingKind};
use crate::map_plan::{MapPlan, CREDITS_MAX};
use crate::memory;
use crate::pending::{self, Found, Memory, Shape};
use core::ops::Range;
use disk::pinned;
use kernel::prelude::*;
use layout::{DataMap, Extent, ExtentState, Lblk};

/// How many runs that were on their way one transaction maps at most.
const STEP_RUNS: usize = 16;

/// Where something is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteMap {
    /// The first byte in the file, at or before what was asked for.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// What is there.
    pub kind: WriteKind,
    /// For [`Ext4::map_sequence`] to compare.
    pub sequence: u32,
}

/// What is at a [`WriteMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// Bytes from this position of the device on.
    Data(u64),
    /// Space from this position of the device on that was never written: reads as zeros.
    Unwritten(u64),
    /// Nothing yet, but space is reserved for it.
    Delayed {
        /// Whether it was a hole before.
        new: bool,
    },
}

/// What is at a place of a file, with what is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it is. What is pending is [`Unwritten`](MappingKind::Unwritten) if it is on its way to
    /// the device, else a hole.
    pub mapping: Mapping,
    /// Whether it is pending.
    pub pending: bool,
}

/// A part of what is promised for a file, for an allocation. What is left is given back by drop.
struct Lent<'a> {
    info: &'a InodeInfo,
    reservation: Option<Reservation>,
}

impl<'a> Lent<'a> {
    /// Of what is promised for data.
    fn data(info: &'a InodeInfo, count: u64) -> Self {
        let reservation = info.pending.lock().lend(count);
        Self { info, reservation }
    }

    /// Of what is promised for the map: all of it.
    fn allowance(info: &'a InodeInfo) -> Self {
        let reservation = info.pending.lock().lend_allowance();
        Self { info, reservation }
    }

    fn space(&mut self) -> Space<'_> {
        match &mut self.reservation {
            Some(reservation) if reservation.count() > 0 => Space::Reserved(reservation),
            _ => Space::Must,
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            let freed = self.info.pending.lock().give_back(reservation);
            drop(freed);
        }
    }
}

/// A loan that is being cut. Dropping it puts the loan back.
struct Cutting<'a> {
    info: &'a InodeInfo,
    last: u32,
    loan: Option<Loan>,
}

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take() {
            self.info.pending.lock().put_loan(self.last, loan);
        }
    }
}

impl Ext4 {
    /// The sequence of a file's map. What was said of the map before it changed does not hold any
    /// more. Any context.
    pub fn map_sequence(&self, info: &InodeInfo) -> u32 {
        info.map_seq()
    }

    /// The space that a file takes, in sectors of 512 bytes, with what is pending. Does not sleep.
    pub fn sectors(&self, info: &InodeInfo) -> u64 {
        let pending = self.pending_sectors(info);
        info.look(|inode| inode.sectors) + pending
    }

    /// The same of what is pending alone.
    pub fn pending_sectors(&self, info: &InodeInfo) -> u64 {
        let pending = info.pending.lock().blocks();
        pending << self.sb.geo.block_bits().saturating_sub(9)
    }

    fn shape(&self, info: &InodeInfo) -> Shape {
        Shape {
            bits: self.sb.geo.block_bits().into(),
            extents: info.data_map() == DataMap::Extents,
        }
    }

    /// The blocks that have bytes of a range.
    pub(crate) fn blocks_of(&self, pos: u64, end: u64) -> Result<(u32, u32)> {
        let first = u32::try_from(pos >> self.sb.geo.block_bits()).map_err(|_| EFBIG)?;
        let until = self.first_behind(end).0;
        match first < until {
            true => Ok((first, until)),
            false => Err(EFBIG),
        }
    }

    /// Says where bytes from `pos` on are to be written, at most `len`: where they are, or that
    /// there will be space for them, which is reserved. `privileged` says whether that may be what
    /// is kept for those with privilege.
    ///
    /// Fails with `ENOSPC`; with `EFBIG` behind the largest size; with `EAGAIN` if `nowait` is set
    /// and it would have to wait; with `EROFS`; and with the errors of damage and of the block
    /// layer. A file whose data is in its inode gets blocks first: its `rwsem` has to be held to
    /// write.
    ///
    /// # Cancellation
    ///
    /// Nothing is reserved.
    pub async fn write_begin(
        &self,
        info: &InodeInfo,
        pos: u64,
        len: u64,
        privileged: bool,
        nowait: bool,
    ) -> Result<WriteMap> {
        let most = self.max_size(info);
        if pos >= most || len == 0 {
            return Err(EFBIG);
        }
        if info.data_map() == DataMap::Inline {
            if nowait {
                return Err(EAGAIN);
            }
            self.leave_inline(info, privileged).await?;
        }
        let (first, until) = self.blocks_of(pos, pos.saturating_add(len).min(most))?;
        loop {
            let sequence = info.map_seq();
            let found = info.pending.lock().find(first);
            if let Some(found) = found {
                return Ok(self.delayed((found.first, found.last), false, sequence));
            }
            let (generation, extent) = self.look(info, Lblk(first), nowait).await?;
            let bits = self.sb.geo.block_bits();
            let kind = match extent.state {
                ExtentState::Written(at) => WriteKind::Data(at.0 << bits),
                ExtentState::Unwritten(at) => WriteKind::Unwritten(at.0 << bits),
                ExtentState::Hole => {
                    let last = extent.end().0.min(until).saturating_sub(1);
                    let range = (first, last.max(first));
                    let reserve = self.reserve(info, generation, range, privileged, nowait);
                    match reserve.await? {
                        Some(map) => return Ok(map),
                        None => continue,
                    }
                }
            };
            return Ok(WriteMap {
                offset: u64::from(extent.lblk.0) << bits,
                len: u64::from(extent.len) << bits,
                kind,
                sequence,
            });
        }
    }

    fn delayed(&self, (first, last): (u32, u32), new: bool, sequence: u32) -> WriteMap {
        let bits = self.sb.geo.block_bits();
        WriteMap {
            offset: u64::from(first) << bits,
            len: (u64::from(last - first) + 1) << bits,
            kind: WriteKind::Delayed { new },
            sequence,
        }
    }

    /// Looks at the map; the result counts if the generation is still this one.
    async fn look(&self, info: &InodeInfo, lblk: Lblk, nowait: bool) -> Result<(u32, Extent)> {
        loop {
            let generation = info.extents.lock().generation();
            let Some(generation) = generation else {
                if nowait {
                    return Err(EAGAIN);
                }
                drop(info.map_lock.read().await);
                upcall::yield_now().await;
                continue;
            };
            let extent = match self.map_cached(info, lblk) {
                Some(extent) => extent,
                None if nowait => return Err(EAGAIN),
                None => self.map(info, lblk).await?,
            };
            return Ok((generation, extent));
        }
    }

    /// Reserves a part of a hole, from its first block on; `None` if that is not a hole any more.
    async fn reserve(
        &self,
        info: &InodeInfo,
        generation: u32,
        (first, mut last): (u32, u32),
        privileged: bool,
        nowait: bool,
    ) -> Result<Option<WriteMap>> {
        let (writable, shape) = (self.writable()?, self.shape(info));
        let next = info.pending.lock().next(first);
        if let Some(next) = next.filter(|next| next.first <= last) {
            last = match next.first.checked_sub(1) {
                Some(before) if before >= first => before,
                _ => return Ok(None),
            };
        }
        let space = Space::of(privileged);
        let allocator = writable.allocator(self);
        let memory = pending::memory().await?;
        let reservation = loop {
            let need = u64::from(last - first) + 1 + shape.allowance(first, last);
            match allocator.reserve(need, &space) {
                // A part will do.
                Err(ENOSPC) if last > first => last = first + (last - first) / 2,
                Err(ENOSPC) if nowait => return Err(EAGAIN),
                Err(ENOSPC) => break allocator.reserve_freed(need, &space).await?,
                reserved => break reserved?,
            }
        };
        let entered = enter(info, shape, generation, (first, last), memory, reservation);
        Ok(entered.map(|sequence| self.delayed((first, last), true, sequence)))
    }

    /// Gives back what was reserved of a range, and is not written: of blocks that are inside.
    ///
    /// Fails with `ENOMEM`.
    ///
    /// # Cancellation
    ///
    /// Nothing, or all of it is given back.
    pub async fn write_undo(&self, info: &InodeInfo, range: Range<u64>) -> Result {
        let from = self.first_behind(range.start).0;
        let bits = self.sb.geo.block_bits();
        let until = u32::try_from(range.end >> bits).unwrap_or(u32::MAX);
        if from < until {
            self.unreserve(info, from, until).await?;
        }
        Ok(())
    }

    async fn unreserve(&self, info: &InodeInfo, from: u32, until: u32) -> Result {
        let shape = self.shape(info);
        let mut memory: [Option<Memory>; 2] = [None, None];
        loop {
            for slot in &mut memory {
                if slot.is_none() {
                    *slot = Some(pending::memory().await?);
                }
            }
            // One by one: what is freed is freed without the lock. Cut each time: whoever reserves
            // meanwhile joins what is left with what is outside of the range.
            let mut pending = info.pending.lock();
            for (slot, at) in memory.iter_mut().zip([from, until]) {
                pending.cut(shape, at, slot);
            }
            let freed = pending.remove_reserved(shape, from, until);
            drop(pending);
            info.bump_map_seq();
            if freed.is_none() {
                return Ok(());
            }
        }
    }

    /// Drops what is pending of a range of blocks, with the `map_lock` held to write. Nothing of it
    /// is on its way to the device.
    pub(crate) async fn drop_pending(&self, info: &InodeInfo, range: Range<Lblk>) -> Result {
        let (from, until) = (range.start.0, range.end.0);
        let next = info.pending.lock().next(from);
        if next.is_none_or(|next| next.first >= until) {
            return Ok(());
        }
        self.cut_loans(info, from, until).await?;
        self.unreserve(info, from, until).await?;
        self.drop_loans(info, from, until);
        Ok(())
    }

    /// Gives the loans of a range back.
    fn drop_loans(&self, info: &InodeInfo, from: u32, until: u32) {
        let shape = self.shape(info);
        let mut at = from;
        loop {
            let next = info.pending.lock().next(at);
            let Some(found) = next.filter(|found| found.last < until) else {
                break;
            };
            at = found.last.saturating_add(1);
            if found.at.is_some() && found.first >= from {
                let removed = info.pending.lock().remove_loaned(shape, found.last);
                drop(removed);
            }
        }
        let freed = info.pending.lock().trim();
        drop(freed);
        info.bump_map_seq();
    }

    /// Cuts the loan that has block `at` and the one before, with the `map_lock` held to write.
    async fn cut_loan(&self, info: &InodeInfo, at: u32) -> Result {
        let found = info.pending.lock().find(at);
        let Some(found) = found.filter(|found| found.first < at && found.at.is_some()) else {
            return Ok(());
        };
        let memory = pending::memory().await?;
        let writable = self.writable()?;
        let loan = info.pending.lock().take_loan(found.last);
        let mut cutting = Cutting {
            info,
            last: found.last,
            loan,
        };
        let loan = cutting.loan.as_mut().ok_or(EIO)?;
        let allocator = writable.allocator(self);
        let front = allocator.split(loan, at - found.first).await?;
        if let Some(rest) = cutting.loan.take() {
            let shape = self.shape(info);
            let mut pending = info.pending.lock();
            pending.put_cut(shape, found.last, at, front, rest, memory);
        }
        Ok(())
    }

    /// Says where the data of a file from `pos` on is to go, and the sequence with which that
    /// holds. Blocks are chosen for what is reserved, as many as there are together, and nothing is
    /// there for a hole. What is reserved comes out as [`Unwritten`](MappingKind::Unwritten): when
    /// it is written, [`write_done`](Self::write_done) has to be told.
    ///
    /// Fails with the errors of damage and of the block layer, and waits for memory as long as
    /// there is none. If it fails the data cannot be written: the caller gives up what is reserved
    /// for it.
    ///
    /// # Cancellation
    ///
    /// Nothing is chosen.
    pub async fn writeback_map(
        &self,
        info: &InodeInfo,
        pos: u64,
        end: u64,
    ) -> Result<(Mapping, u32)> {
        let (lblk, _) = self.blocks_of(pos, end.max(pos.saturating_add(1)))?;
        loop {
            match self.writeback_look(info, pos, lblk).await {
                Err(ENOMEM) => memory::pause().await,
                found => return found,
            }
        }
    }

    async fn writeback_look(
        &self,
        info: &InodeInfo,
        pos: u64,
        lblk: u32,
    ) -> Result<(Mapping, u32)> {
        loop {
            let sequence = info.map_seq();
            let found = info.pending.lock().find(lblk);
            match found {
                Some(found) if found.at.is_some() => {
                    let mapping = self.on_its_way(&found);
                    self.trace_writeback(info, pos, &mapping);
                    return Ok((mapping, sequence));
                }
                Some(_) => {
                    // Large, and for a run of blocks.
                    memory::pinned(|| self.choose(info, lblk)).await?.await?;
                }
                None => {
                    let mapping = self.map_bytes(info, pos).await?;
                    let next = info.pending.lock().next(lblk);
                    let mapping = self.before(mapping, next);
                    self.trace_writeback(info, pos, &mapping);
                    return Ok((mapping, sequence));
                }
            }
        }
    }

    fn trace_writeback(&self, info: &InodeInfo, pos: u64, mapping: &Mapping) {
        let at = match mapping.kind {
            MappingKind::Data(addr) => (addr, true),
            MappingKind::Unwritten(addr) => (addr, false),
            _ => (0, false),
        };
        let range = (mapping.offset, mapping.len);
        disk::trace::writeback_map(&self.cache, info.ino.0, pos, range, at);
    }

    /// Where a run is that is loaned.
    fn on_its_way(&self, found: &Found) -> Mapping {
        let bits = self.sb.geo.block_bits();
        Mapping {
            offset: u64::from(found.first) << bits,
            len: u64::from(found.len()) << bits,
            kind: match found.at {
                Some(at) => MappingKind::Unwritten(at.0 << bits),
                None => MappingKind::Hole,
            },
        }
    }

    /// The part of a mapping that is before what is pending.
    fn before(&self, mapping: Mapping, next: Option<Found>) -> Mapping {
        let bits = self.sb.geo.block_bits();
        let end = next.map_or(u64::MAX, |next| u64::from(next.first) << bits);
        Mapping {
            len: mapping.len.min(end.saturating_sub(mapping.offset)),
            ..mapping
        }
    }

    /// Where byte `pos` of a file is, with what is pending: for who tells users about it.
    pub async fn place(&self, info: &InodeInfo, pos: u64) -> Result<Place> {
        loop {
            let (sequence, next) = self.look_pending(info, pos);
            let mapping = match self.pending_at(pos, &next) {
                Some(place) => return Ok(place),
                None => self.map_bytes(info, pos).await?,
            };
            if info.map_seq() == sequence {
                return Ok(self.not_pending(mapping, next));
            }
        }
    }

    /// As [`place`](Self::place), with what is in memory alone. Does not wait.
    pub fn place_cached(&self, info: &InodeInfo, pos: u64) -> Option<Place> {
        let (sequence, next) = self.look_pending(info, pos);
        if let Some(place) = self.pending_at(pos, &next) {
            return Some(place);
        }
        let mapping = self.map_bytes_cached(info, pos)?;
        (info.map_seq() == sequence).then(|| self.not_pending(mapping, next))
    }

    /// The first run that is pending and has byte `pos`, or is behind it, and the sequence before.
    fn look_pending(&self, info: &InodeInfo, pos: u64) -> (u32, Option<Found>) {
        let lblk = u32::try_from(pos >> self.sb.geo.block_bits()).unwrap_or(u32::MAX);
        let sequence = info.map_seq();
        let next = info.pending.lock().next(lblk);
        (sequence, next)
    }

    fn pending_at(&self, pos: u64, next: &Option<Found>) -> Option<Place> {
        let lblk = pos >> self.sb.geo.block_bits();
        let found = next.as_ref().filter(|next| u64::from(next.first) <= lblk)?;
        Some(Place {
            mapping: self.on_its_way(found),
            pending: true,
        })
    }

    fn not_pending(&self, mapping: Mapping, next: Option<Found>) -> Place {
        Place {
            mapping: self.before(mapping, next),
            pending: false,
        }
    }

    /// Chooses blocks for what is reserved from `lblk` on.
    async fn choose(&self, info: &InodeInfo, lblk: u32) -> Result {
        let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
        let writable = self.writable()?;
        let found = info.pending.lock().find(lblk);
        let Some(found) = found.filter(|found| found.at.is_none()) else {
            // Somebody else was faster.
            return Ok(());
        };
        let cuts = [pending::memory().await?, pending::memory().await?];
        let goal = self.goal_behind(info, lblk).await?;
        let want = found.last - lblk + 1;
        let mut lent = Lent::data(info, want.into());
        let allocator: Allocator<'_> = writable.allocator(self);
        let mut space = lent.space();
        // If that fails the file goes without a window.
        let mut window = info.pending.lock().replace_window(Window::default());
        let loan = allocator
            .loan_growing(goal, want, &mut space, &mut window)
            .await?;
        info.pending.lock().replace_window(window);
        enter_loan(info, self.shape(info), lblk, loan, cuts);
        drop(lent);
        Ok(())
    }

    /// The VFS has the file in memory no more: it does not grow for now. Process context.
    pub fn close_window(&self, info: &InodeInfo) {
        let mut window = info.pending.lock().replace_window(Window::default());
        if let Some(groups) = self.allocation_groups() {
            window.close(&groups);
        }
    }

    /// Where block `lblk` of a file should be, with a look at what is on its way.
    async fn goal_behind(&self, info: &InodeInfo, lblk: u32) -> Result<Goal> {
        let before = lblk.checked_sub(1);
        let found = before.and_then(|before| info.pending.lock().find(before));
        let at = found
            .zip(before)
            .and_then(|(found, before)| found.at(before));
        match (at, before) {
            (Some(at), Some(before)) => Ok(Goal::near(Lblk(before), at, Lblk(lblk))),
            _ => self.goal(info, Lblk(lblk)).await,
        }
    }

    /// Data from `pos` on was written, or (`!ok`) could not be. What was on its way is mapped, and
    /// what was unwritten is written from now on, in one transaction, or a few if there are very
    /// many parts; `size` is what the file's size was when the data was submitted, and the size on
    /// the disk becomes as much of it as there is now. What could not be written stays a hole.
    ///
    /// Fails with `EROFS` if the journal was aborted, and with the errors of damage and of the
    /// block layer; waits for memory as long as there is none. If it fails the file is as it was,
    /// or a part of what was written is mapped; the rest stays a hole.
    ///
    /// # Cancellation
    ///
    /// As when it fails.
    pub async fn write_done(
        &self,
        info: &InodeInfo,
        pos: u64,
        len: u64,
        ok: bool,
        size: u64,
    ) -> Result {
        loop {
            match memory::pinned(|| self.done(info, pos, len, ok, size)).await {
                Err(ENOMEM) => memory::pause().await,
                done => return done?.await,
            }
        }
    }

    async fn done(&self, info: &InodeInfo, pos: u64, len: u64, ok: bool, size: u64) -> Result {
        let end = pos.saturating_add(len);
        let (first, until) = self.blocks_of(pos, end)?;
        let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
        let mut at = first;
        let result = loop {
            let result = match ok {
                true => self.map_done(info, &mut at, until, end.min(size)).await,
                false => self.cut_loans(info, first, until).await,
            };
            match result {
                // The data is there: want of memory is no reason to give it up.
                Err(ENOMEM) => memory::pause().await,
                result => break result,
            }
        };
        if !ok || result.is_err() {
            self.drop_loans(info, at, until);
        }
        result
    }

    async fn cut_loans(&self, info: &InodeInfo, first: u32, until: u32) -> Result {
        self.cut_loan(info, first).await?;
        self.cut_loan(info, until).await
    }

    /// Maps what was written from `at` on, which is moved with each transaction.
    async fn map_done(&self, info: &InodeInfo, at: &mut u32, until: u32, size: u64) -> Result {
        self.cut_loans(info, *at, until).await?;
        while *at < until {
            *at = self.done_step(info, *at..until, size, false).await?;
        }
        Ok(())
    }

    /// Chooses blocks for what is reserved from `pos` on, and maps them, unwritten, at most to
    /// `end`. Returns up to where it did.
    pub(crate) async fn map_unwritten(&self, info: &InodeInfo, pos: u64, end: u64) -> Result<u64> {
        let (lblk, until) = self.blocks_of(pos, end)?;
        pinned(|| self.choose(info, lblk))?.await?;
        let _guard = info.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
        let found = info.pending.lock().find(lblk);
        let Some(found) = found.filter(|found| found.at.is_some()) else {
            // It was written, or given up, meanwhile.
            return Ok(end);
        };
        let until = until.min(found.last.saturating_add(1));
        self.cut_loans(info, lblk, until).await?;
        let done = self.done_step(info, lblk..until, 0, true).await?;
        Ok(u64::from(done) << self.sb.geo.block_bits())
    }

    /// One transaction of [`write_done`](Self::write_done). Returns up to where the file is now as
    /// it should be.
    ///
    /// With `unwritten` what was on its way is mapped as if it were not written, and the rest
    /// stays.
    async fn done_step(
        &self,
        info: &InodeInfo,
        range: Range<u32>,
        size: u64,
        unwritten: bool,
    ) -> Result<u32> {
        let writable = self.writable()?;
        let mut lent = Lent::allowance(info);
        let mut plan = MapPlan::new(self, &writable, info, lent.space()).await?;
        plan.set_must();
        // The last blocks of the runs that are mapped.
        let (mut runs, mut count) = ([0; STEP_RUNS], 0);
        let loans = |count| Loan::CREDITS.times(u32::try_from(count).unwrap_or(u32::MAX));
        let mut at = range.start;
        while at < range.end {
            if count == STEP_RUNS || plan.credits().and(loans(count)).blocks > CREDITS_MAX {
                break;
            }
            let next = info.pending.lock().next(at);
            let next = next.filter(|next| next.first < range.end);
            match next.filter(|next| next.first <= at) {
                Some(found) => {
                    if let Some(pblk) = found.at {
                        plan.map(Lblk(at), pblk, found.len(), unwritten).await?;
                        *runs.get_mut(count).ok_or(EINVAL)? = found.last;
                        count += 1;
                    }
                    at = found.last.saturating_add(1);
                }
                None => {
                    let stop = next.map_or(range.end, |next| next.first);
                    let extent = self.map(info, Lblk(at)).await?;
                    let stop = extent.end().0.min(stop);
                    if extent.is_unwritten() && !unwritten {
                        plan.convert(Lblk(at), stop - at, false).await?;
                    }
                    at = stop;
                }
            }
        }
        let at = at.min(range.end);
        let reached = match at < range.end {
            true => size.min(u64::from(at) << self.sb.geo.block_bits()),
            false => size,
        };
        if plan.is_empty() && reached <= info.size() {
            return Ok(at);
        }
        let inode = self.plan_inode(info).await?;
        let credits = plan.credits().and(loans(count)).and(InodePlan::CREDITS);
        let shape = self.shape(info);
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        let change = plan.apply(&mut tx);
        for last in runs.iter().take(count) {
            let (loan, freed) = info.pending.lock().remove_loaned(shape, *last);
            drop(freed);
            match loan {
                Some(loan) => loan.apply(&mut tx),
                // It was there when this was planned, and only we take it.
                None => {
                    kernel::warn_on!(true);
                }
            }
        }
        inode.apply(self, &mut tx, info, |edit| {
            change.put(edit);
            edit.set_size(edit.size().max(reached));
        });
        drop((change, tx));
        drop(lent);
        let freed = info.pending.lock().trim();
        drop(freed);
        Ok(at)
    }
}

/// Enters what was reserved, unless the hole is none any more. Returns the sequence.
fn enter(
    info: &InodeInfo,
    shape: Shape,
    generation: u32,
    range: (u32, u32),
    memory: Memory,
    reservation: Reservation,
) -> Option<u32> {
    let mut pending = info.pending.lock();
    let free = pending
        .next(range.0)
        .is_none_or(|next| next.first > range.1);
    if !free || !info.extents.lock().is_valid(generation) {
        drop(pending);
        return None;
    }
    let freed = pending.reserve(shape, range, memory, reservation);
    info.bump_map_seq();
    let sequence = info.map_seq();
    drop(pending);
    drop(freed);
    Some(sequence)
}

/// Enters a loan for what is reserved from `lblk` on. If it is not any more the loan is given back.
fn enter_loan(info: &InodeInfo, shape: Shape, lblk: u32, loan: Loan, cuts: [Memory; 2]) {
    let until = lblk + loan.len();
    let mut cuts = cuts.map(Some);
    let mut pending = info.pending.lock();
    for (slot, at) in cuts.iter_mut().zip([lblk, until]) {
        pending.cut(shape, at, slot);
    }
    let back = pending.set_loaned(until - 1, loan);
    info.bump_map_seq();
    drop(pending);
    // Freed without the lock.
    drop((cuts, back));
}
