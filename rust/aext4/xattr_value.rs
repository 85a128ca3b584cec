// SPDX-License-Identifier: GPL-2.0

//! Values of attributes that have inodes of their own: making them, counting who refers to them, and
//! freeing them.
//!
//! Such an inode is in no directory, and counts references instead: from the entries of inodes, and
//! of blocks. Each inode that has the attribute counts the value's space as its own. What it holds is
//! metadata to the journal. Values that are the same are not merged here, but others do that, so that
//! one may have many references.
//!
//! # Concurrency
//!
//! Several files may refer to one value, and so to one count: who changes it has the mutex of
//! [`SharedXattrs`](crate::xattr_block::SharedXattrs), from the look at it until the transaction is
//! applied. The last reference is in a set that the one who takes it away has locked, so nobody
//! reads the value meanwhile.

use crate::alloc::inodes::Hint;
use crate::alloc::{FreePlan, Goal, InodeFree, InodeLoan, Loan, Space};
use crate::error::{corrupted, About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::{InodeInfo, InodeRef};
use crate::inode_plan::{InodePlan, Writable};
use crate::journal::{Credits, Transaction};
use crate::memory::{kept, pinned, room, room_for};
use disk::{gfp, vec_with_capacity, Planned};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::extent_edit::root_of;
use layout::inode_edit::{new_extra_isize, TimeField};
use layout::map::{self, ExtentState};
use layout::xattr_edit::{value_hash, NewValue};
use layout::{EaValue, Extent, Incompat, Inode, InodeEdit, InodeFlags, Lblk, Pblk, Step};

/// How many extents an inode has room for, and so how many runs of blocks a value may have.
const RUNS_MAX: usize = 4;

/// How many blocks an inode without extents points to itself. What a value has beyond them, one
/// block of pointers points to: even of 1 KiB it has room for the largest value.
const DIRECT: usize = layout::DIRECT as usize;

/// Type and permissions of an inode with a value.
const MODE: u16 = 0o100_600;

/// What happens to a value.
pub(crate) enum ValueStep {
    /// It has another number of references.
    Count {
        holder: InodeRef,
        plan: InodePlan,
        hash: u32,
        refs: u64,
    },
    /// It has none any more.
    Free {
        holder: InodeRef,
        plan: InodePlan,
        inode: InodeFree,
        runs: KVec<Run>,
    },
}

/// Blocks one behind the other that are freed.
pub(crate) struct Run {
    start: Pblk,
    len: u32,
    free: Option<FreePlan>,
}

/// A new inode with a value.
pub(crate) struct NewHolder {
    inode: InodeLoan,
    table: Planned,
    offset: u32,
    loans: KVec<Loan>,
    blocks: KVVec<Planned>,
    root: [u8; 60],
    /// The block of pointers of an inode without extents, and what is in it.
    pointers: Option<(Planned, KVVec<u8>)>,
    value: KVVec<u8>,
    hash: u32,
    owner: (u32, u32),
}

impl Ext4 {
    /// Plans a new inode that holds `value`, near the inode `near` and owned as it is.
    ///
    /// Fails with `ENOSPC` if there is no room, or in too many pieces.
    ///
    /// # Cancellation
    ///
    /// Nothing is taken.
    pub(crate) async fn plan_holder(
        &self,
        writable: &Writable,
        near: layout::Ino,
        owner: (u32, u32),
        value: &[u8],
    ) -> Result<KBox<NewHolder>> {
        let geo = &self.sb.geo;
        let allocator = writable.allocator(self);
        let inode = pinned(|| allocator.loan_inode(near, Hint::default()))
            .await?
            .await?;
        let mut goal = Goal::of_inode(geo, self.sb.groups_per_flex, inode.ino(), true);
        let block_size = geo.block_size() as usize;
        let count = u32::try_from(value.len().div_ceil(block_size)).map_err(|_| E2BIG)?;
        let by_extents = geo.has_incompat(Incompat::EXTENTS);
        let (mut loans, mut extents) = (KVec::<Loan>::new(), KVec::<Extent>::new());
        room_for(&mut loans, RUNS_MAX + 1).await?;
        room_for(&mut extents, RUNS_MAX).await?;
        let spawner = self.cache.spawner();
        let mut blocks = vec_with_capacity(spawner, count as usize).await?;
        let mut lblk = 0;
        while lblk < count {
            let left = count - lblk;
            let runs = u32::try_from(RUNS_MAX - loans.len()).unwrap_or(0);
            // So long that the runs suffice.
            let min = left.div_ceil(core::num::NonZero::new(runs).ok_or(ENOSPC)?.get());
            let mut space = Space::Caller;
            let loan = allocator.loan_blocks(goal, left, min, &mut space).await?;
            let (start, len) = (loan.start(), loan.len().min(left));
            for block in start.0..start.0 + u64::from(len) {
                let planned = self.cache.plan_new(block).await?;
                blocks.push_within_capacity(planned).map_err(|_| ENOMEM)?;
            }
            let extent = Extent {
                lblk: Lblk(lblk),
                len,
                state: ExtentState::Written(start),
            };
            extents.push(extent, gfp())?;
            loans.push(loan, gfp())?;
            lblk += len;
            goal = Goal::behind(Pblk(start.0 + u64::from(len) - 1));
        }
        let (root, pointers) = match by_extents {
            true => (root_of(&extents).ok_or(ENOSPC)?, None),
            false => {
                let pointers = match count as usize > DIRECT {
                    true => {
                        let loan = allocator
                            .loan_blocks(goal, 1, 1, &mut Space::Caller)
                            .await?;
                        let at = loan.start();
                        loans.push(loan, gfp())?;
                        Some((at, self.cache.plan_new(at.0).await?))
                    }
                    false => None,
                };
                let at = pointers.as_ref().map(|(at, _)| *at);
                let (root, behind) = pointers_to(&extents, at).ok_or(ENOSPC)?;
                let mut bytes = vec_with_capacity(spawner, behind.len()).await?;
                bytes.extend_from_slice(&behind, gfp())?;
                (root, pointers.map(|(_, planned)| (planned, bytes)))
            }
        };
        let mut bytes = vec_with_capacity(spawner, value.len()).await?;
        bytes.extend_from_slice(value, gfp())?;
        let (block, offset) = inode.place().ok_or(EIO)?;
        let table = self.plan_edit(block.0).await?;
        kept(NewHolder {
            inode,
            table,
            offset,
            loans,
            blocks,
            root,
            pointers,
            value: bytes,
            hash: value_hash(value, geo),
            owner,
        })
    }

    /// Plans to change the number of references to a value of `parent` by `delta`.
    ///
    /// Fails with `EUCLEAN` if there is no such value, which was reported.
    ///
    /// # Cancellation
    ///
    /// Nothing changes.
    pub(crate) async fn plan_value(
        &self,
        writable: &Writable,
        parent: &Inode,
        value: &EaValue,
        delta: i64,
    ) -> Result<ValueStep> {
        let geo = &self.sb.geo;
        let about = About::inode(parent.ino);
        let holder = self.value_holder(value.ino).await?;
        let inode = holder.inode();
        value.open(&inode, parent, geo).or_report(self, about)?;
        let (hash, refs) = EaValue::hash_and_refs(&inode);
        // In Lustre's form there is no count, and one parent.
        let Some(refs) = refs.max(1).checked_add_signed(delta) else {
            self.report(&format_args!(
                "{about}attribute value: inode {} has {refs} references",
                value.ino
            ));
            return Err(corrupted());
        };
        let plan = self.plan_inode(&holder).await?;
        if refs > 0 {
            return Ok(ValueStep::Count {
                holder,
                plan,
                hash,
                refs,
            });
        }
        let allocator = writable.allocator(self);
        let mut runs = self.blocks_of_value(&holder).await?;
        for run in runs.iter_mut() {
            run.free = Some(allocator.plan_free(run.start, run.len).await?);
        }
        let inode = allocator.plan_free_inode(holder.ino, false).await?;
        Ok(ValueStep::Free {
            holder,
            plan,
            inode,
            runs,
        })
    }

    /// How many sectors an inode counts as its own for a value of `size` bytes.
    pub(crate) fn value_sectors(&self, size: u32) -> i64 {
        let block_size = self.sb.geo.block_size();
        i64::from(size.next_multiple_of(block_size.max(1))) >> 9
    }

    /// How many sectors `parent` has counted as its own for `value`.
    pub(crate) async fn counted_for(&self, parent: &Inode, value: &EaValue) -> Result<i64> {
        let holder = self.value_holder(value.ino).await?;
        let opened = value.open(&holder.inode(), parent, &self.sb.geo);
        match opened.or_report(self, About::inode(parent.ino))? {
            value if value.is_lustre() => Ok(0),
            _ => Ok(self.value_sectors(value.size)),
        }
    }

    /// The inode of a value.
    pub(crate) async fn value_holder(&self, ino: layout::Ino) -> Result<InodeRef> {
        match self.iget(ino).await {
            Err(error) if error == ESTALE => {
                self.report(&format_args!("inode {ino}, attribute value: not in use"));
                Err(corrupted())
            }
            holder => holder,
        }
    }

    /// All blocks that an inode with a value has: those of the value, and those of its map.
    async fn blocks_of_value(&self, holder: &InodeInfo) -> Result<KVec<Run>> {
        let geo = &self.sb.geo;
        let inode = holder.inode();
        let end = inode.size.div_ceil(u64::from(geo.block_size()).max(1));
        let end = u32::try_from(end).map_err(|_| EFBIG)?;
        let mut runs: KVec<Run> = KVec::new();
        let mut lblk = Lblk(0);
        while lblk.0 < end {
            let mut about = About::inode(holder.ino);
            let mut step = map::start(&inode, lblk, geo).or_report(self, about)?;
            let extent = loop {
                match step {
                    Step::Descend(at) => {
                        add(&mut runs, at.pblk, 1).await?;
                        about = About::block(holder.ino, at.pblk.0);
                        let buffer = self.block(at.pblk).await?;
                        at.verify(buffer.data(), &holder.owner, geo)
                            .or_report(self, about)?;
                        step = at.step(buffer.data(), lblk, geo).or_report(self, about)?;
                    }
                    Step::Extent(extent) => break extent,
                    Step::Hole { until } => break Extent::hole(lblk, until),
                }
            };
            let Some(rest) = extent.from(lblk) else {
                self.report(&format_args!("{about}a map that contradicts itself"));
                return Err(corrupted());
            };
            if let Some(start) = rest.pblk() {
                add(&mut runs, start, rest.len).await?;
            }
            lblk = rest.end();
        }
        Ok(runs)
    }
}

/// The pointers of an inode without extents to the blocks of `extents`, and those that are in the
/// block `behind`. `None` if a block has a number that no pointer can have.
fn pointers_to(extents: &[Extent], behind: Option<Pblk>) -> Option<([u8; 60], KVec<u8>)> {
    let mut root = [0; 60];
    let mut more = KVec::new();
    let blocks = extents
        .iter()
        .filter_map(|extent| Some((extent.pblk()?, extent.len)));
    let blocks = blocks.flat_map(|(start, len)| start.0..start.0 + u64::from(len));
    for (n, block) in blocks.enumerate() {
        let pointer = u32::try_from(block).ok()?.to_le_bytes();
        match root.get_mut(4 * n..4 * n + 4) {
            Some(slot) if n < DIRECT => slot.copy_from_slice(&pointer),
            _ => more.extend_from_slice(&pointer, gfp()).ok()?,
        }
    }
    if let Some(behind) = behind {
        let pointer = u32::try_from(behind.0).ok()?.to_le_bytes();
        root.get_mut(4 * DIRECT..4 * DIRECT + 4)?
            .copy_from_slice(&pointer);
    }
    Some((root, more))
}

/// Notes a run of blocks, once.
async fn add(runs: &mut KVec<Run>, start: Pblk, len: u32) -> Result {
    if runs.iter().any(|run| run.start == start) {
        return Ok(());
    }
    room(runs).await?;
    let run = Run {
        start,
        len,
        free: None,
    };
    runs.push(run, gfp())?;
    Ok(())
}

impl ValueStep {
    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub(crate) fn credits(&self) -> Credits {
        match self {
            Self::Count { .. } => InodePlan::CREDITS,
            Self::Free { runs, .. } => {
                let mut all = InodePlan::CREDITS.and(InodeFree::CREDITS);
                for run in runs {
                    if let Some(free) = &run.free {
                        all = all.and(free.credits());
                        all.revokes = all.revokes.saturating_add(run.len);
                    }
                }
                all
            }
        }
    }

    /// The references are counted from here on. Does not sleep, and does not fail.
    pub(crate) fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>) {
        match self {
            Self::Count {
                holder,
                plan,
                hash,
                refs,
            } => plan.apply(volume, tx, &holder, |edit| edit.set_value_refs(hash, refs)),
            Self::Free {
                holder,
                plan,
                inode,
                mut runs,
            } => {
                for run in runs.iter_mut() {
                    let Some(free) = run.free.take() else {
                        continue;
                    };
                    for block in run.start.0..run.start.0 + u64::from(run.len) {
                        tx.revoke(&volume.cache, block);
                    }
                    free.apply(tx);
                }
                // A time that is 32 bits wide, as the inode has it.
                let now = volume.now().secs as u32;
                plan.clear(volume, tx, &holder, now);
                inode.apply(tx);
                let entry = volume.inodes.lock().remove(&holder);
                // Freed without the lock.
                drop(entry);
            }
        }
    }
}

impl NewHolder {
    /// What the entry of the attribute says.
    pub(crate) fn value(&self) -> NewValue<'static> {
        NewValue::Inode {
            ino: self.inode.ino(),
            size: self.size(),
            hash: self.hash,
        }
    }

    /// The size of the value in bytes.
    pub(crate) fn size(&self) -> u32 {
        u32::try_from(self.value.len()).unwrap_or(u32::MAX)
    }

    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub(crate) fn credits(&self) -> Credits {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let mut all = self.inode.credits();
        let more = count(self.blocks.len())
            .saturating_add(count(self.pointers.iter().len()))
            .saturating_add(1)
            .saturating_add(count(self.loans.len()).saturating_mul(Loan::CREDITS.blocks));
        all.blocks = all.blocks.saturating_add(more);
        all
    }

    /// The value is there, with one reference. Does not sleep, and does not fail.
    pub(crate) fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>) {
        let geo = &volume.sb.geo;
        let ino = self.inode.ino();
        self.inode.apply(tx);
        for loan in self.loans {
            loan.apply(tx);
        }
        let blocks = self.blocks.len() + self.pointers.iter().len();
        let sectors = (blocks as u64).saturating_mul(geo.block_size().into()) >> 9;
        let by_extents = geo.has_incompat(Incompat::EXTENTS);
        if let Some((planned, pointers)) = self.pointers {
            tx.edit(planned, |block| {
                // The others lead nowhere.
                if let Some(start) = block.get_mut(..pointers.len()) {
                    start.copy_from_slice(&pointers);
                }
            });
        }
        let pieces = self.value.chunks(geo.block_size().max(1) as usize);
        for (planned, piece) in self.blocks.into_iter().zip(pieces) {
            tx.edit(planned, |block| {
                // What is behind it is zero.
                if let Some(start) = block.get_mut(..piece.len()) {
                    start.copy_from_slice(piece);
                }
            });
        }
        let extra_isize = new_extra_isize(&volume.sb);
        let now = volume.now();
        let made = tx.edit(self.table, |block| {
            let raw = block.get_mut(self.offset as usize..)?;
            let mut edit = InodeEdit::init(raw, extra_isize, geo)?;
            edit.set_mode(MODE);
            edit.set_uid(self.owner.0);
            edit.set_gid(self.owner.1);
            edit.set_links(1);
            let extents = if by_extents { InodeFlags::EXTENTS.0 } else { 0 };
            edit.set_flags(InodeFlags(InodeFlags::EA_INODE.0 | extents));
            edit.set_generation(now.nanos);
            for field in [TimeField::Modify, TimeField::Create] {
                edit.set_time(field, now);
            }
            edit.set_value_refs(self.hash, 1);
            edit.set_size(self.value.len() as u64);
            edit.set_sectors(sectors)?;
            edit.set_block(&self.root);
            edit.seal(ino);
            Some(())
        });
        if made.is_none() {
            kernel::warn_on!(true);
        }
    }
}
