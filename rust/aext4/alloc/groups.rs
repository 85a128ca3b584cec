// SPDX-License-Identifier: GPL-2.0

//! [`Groups`]: what each group has, and what all of them have.
//!
//! The descriptors say it when the volume is mounted. From then on the numbers change with each
//! loan and each transaction, so that a group is chosen without reading anything.

use super::index::Index;
use super::orlov::Flex;
use super::taken::{self, Kind, Node, Removed, Taken, Tree};
use super::window::{self, Windows};
use crate::journal::Freed;
use crate::memory::{self, Spares};
use core::num::NonZeroU32;
use disk::{gfp, vec_with_capacity, Cache};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::rbtree::RBTreeNode;
use kernel::sync::{new_spinlock, Arc, SpinLock};
use layout::csum::Mode;
use layout::{Geometry, Group, GroupDesc, Pblk};
use upcall::Mutex;

/// How many locks there are: neighbours among the groups have different ones.
const SHARDS: usize = 16;

/// What a group has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupState {
    /// Blocks whose bits are clear.
    pub(super) free: u32,
    /// Of them, those that somebody is about to use.
    pub(super) loaned: u32,
    /// Of them, those that were freed by a transaction that is not durable.
    pub(super) held: u32,
    /// No run of blocks that can be had is longer.
    pub(super) bound: u32,
    /// No block before this bit can be had.
    pub(super) first: u32,
    /// Inodes whose bits are clear.
    pub(super) free_inodes: u32,
    /// Of them, those that somebody is about to use.
    pub(super) loaned_inodes: u32,
    /// Directories.
    pub(super) used_dirs: u32,
    /// How many inodes at the table's end were never in use.
    pub(super) itable_unused: u32,
    /// The descriptor's flags; 0 if the volume uses none.
    pub(super) flags: u16,
    /// In runs of how many blocks, at least, the device has forgotten all that is free; 0 if not.
    pub(super) trimmed: u32,
    /// The block bitmap is damaged: nothing is taken from it.
    pub(super) bad_blocks: bool,
    /// The inode bitmap is damaged: nothing is taken from it.
    pub(super) bad_inodes: bool,
}

impl GroupState {
    fn new(desc: &GroupDesc, geo: &Geometry) -> Self {
        let inodes = geo.inodes_per_group().get();
        let uses_flags = geo.csum().mode() != Mode::None;
        Self {
            free: desc.free_clusters,
            loaned: 0,
            held: 0,
            bound: desc.free_clusters,
            first: 0,
            free_inodes: desc.free_inodes,
            loaned_inodes: 0,
            used_dirs: desc.used_dirs,
            itable_unused: if uses_flags { desc.itable_unused } else { 0 },
            flags: if uses_flags { desc.flags } else { 0 },
            trimmed: 0,
            bad_blocks: desc.free_clusters > geo.group_clusters(desc.group),
            bad_inodes: desc.free_inodes > inodes
                || desc.used_dirs > inodes
                || desc.itable_unused > inodes,
        }
    }

    /// Blocks that can be had.
    pub(super) fn usable(&self) -> u32 {
        match self.bad_blocks {
            true => 0,
            false => self.free.saturating_sub(self.loaned + self.held),
        }
    }

    /// Inodes that can be had.
    pub(super) fn usable_inodes(&self) -> u32 {
        match self.bad_inodes {
            true => 0,
            false => self.free_inodes.saturating_sub(self.loaned_inodes),
        }
    }

    /// No run of blocks that can be had is longer.
    pub(super) fn longest(&self) -> u32 {
        self.usable().min(self.bound)
    }

    /// A run of blocks from `bit` on can be had again.
    pub(super) fn give_back(&mut self, bit: u32, len: u32) {
        self.first = self.first.min(bit);
        // It may have one of the longest on either side.
        self.bound = self.bound.saturating_mul(2).saturating_add(len);
        self.bound = self.longest();
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// How many inodes of the table were in use at some time.
    pub(super) fn table_used(&self, geo: &Geometry) -> u32 {
        match self.has(GroupDesc::INODE_UNINIT) {
            true => 0,
            false => geo
                .inodes_per_group()
                .get()
                .saturating_sub(self.itable_unused),
        }
    }
}

/// The groups of one lock: every [`SHARDS`]th.
#[pin_data]
struct Shard {
    #[pin]
    state: SpinLock<ShardState>,
}

struct ShardState {
    groups: KVVec<GroupState>,
    blocks: Tree,
    inodes: Tree,
    windows: Windows,
}

/// A group, under its lock.
pub(super) struct View<'a> {
    pub(super) state: &'a mut GroupState,
    /// The runs of blocks that are taken, of this group and others.
    pub(super) blocks: &'a mut Tree,
    /// The inodes that are taken, of this group and others.
    pub(super) inodes: &'a mut Tree,
    /// The windows of files that grow.
    pub(super) windows: &'a mut Windows,
    /// How many of the blocks that were promised are loaned now.
    pub(super) settled: u64,
}

/// What all groups have.
pub(super) struct Sums {
    free: u64,
    loaned: u64,
    held: u64,
    /// Blocks that can be had, from groups that are not damaged.
    pub(super) usable: u64,
    /// Of them, those that were promised.
    pub(super) promised: u64,
    free_inodes: u64,
    usable_inodes: u64,
    dirs: u64,
    /// For each group, the longest run that it may have.
    runs: Index,
    /// For each group, the inodes that can be had.
    inodes: Index,
    /// What those groups have together whose metadata is in one place.
    pub(super) flex: KVVec<Flex>,
    pub(super) groups_per_flex: NonZeroU32,
}

impl Sums {
    fn change(&mut self, group: u32, old: &GroupState, new: &GroupState) {
        self.add(group, old, new);
        self.runs.set(group, new.longest());
        self.inodes.set(group, new.usable_inodes());
    }

    fn add(&mut self, group: u32, old: &GroupState, new: &GroupState) {
        fn add(sum: &mut u64, old: u32, new: u32) {
            *sum = sum.wrapping_add(new.into()).wrapping_sub(old.into());
        }
        add(&mut self.free, old.free, new.free);
        add(&mut self.loaned, old.loaned, new.loaned);
        add(&mut self.held, old.held, new.held);
        add(&mut self.usable, old.usable(), new.usable());
        add(&mut self.free_inodes, old.free_inodes, new.free_inodes);
        add(
            &mut self.usable_inodes,
            old.usable_inodes(),
            new.usable_inodes(),
        );
        add(&mut self.dirs, old.used_dirs, new.used_dirs);
        let flex = (group / self.groups_per_flex) as usize;
        if let Some(flex) = self.flex.get_mut(flex) {
            add(&mut flex.blocks, old.usable(), new.usable());
            add(&mut flex.inodes, old.usable_inodes(), new.usable_inodes());
            add(&mut flex.dirs, old.used_dirs, new.used_dirs);
        }
    }

    /// The first group in `from..end` with an inode that can be had.
    pub(super) fn next_inode(&self, from: u32, end: u32) -> Option<u32> {
        self.inodes.next(from, end, 1)
    }

    /// What all groups have together.
    pub(super) fn totals(&self) -> Flex {
        Flex {
            blocks: self.usable,
            inodes: self.usable_inodes,
            dirs: self.dirs,
        }
    }
}

/// What a volume keeps back, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// For those with privilege, as the superblock says.
    pub root: u64,
    /// For what must not fail, whoever asks.
    pub must: u64,
}

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks that are free by the bitmaps.
    pub free: u64,
    /// Of them, those that somebody is about to use.
    pub loaned: u64,
    /// Of them, those that were freed by transactions that are not durable.
    pub held: u64,
    /// Of them, those that can be had: not of the two kinds above, nor in damaged groups.
    pub usable: u64,
    /// Of these, those that were promised to somebody.
    pub promised: u64,
    /// Inodes that are free by the bitmaps.
    pub free_inodes: u64,
    /// Of them, those that can be had: that nobody is about to use, and not in damaged groups.
    pub usable_inodes: u64,
    /// Directories.
    pub dirs: u64,
}

/// The groups of a volume that is mounted for writing.
///
/// # Locks
///
/// The lock of a shard → that of the sums, those of the cache, that of what runs in the journal. No
/// other one is held with it; that of the spares is taken alone. All are spinlocks for process
/// context, and nothing waits with them held.
#[pin_data]
pub struct Groups {
    /// The volume's shape.
    pub geo: Geometry,
    descs: KVVec<GroupDesc>,
    shards: KVec<Arc<Shard>>,
    /// What is kept back.
    pub kept: Kept,
    /// Held while the device forgets a run of blocks, which nobody can take meanwhile.
    pub(super) trimming: Mutex<()>,
    #[pin]
    sums: SpinLock<Sums>,
    #[pin]
    spares: SpinLock<GroupSpares>,
}

/// Memory of the trees of shards that nobody uses now.
struct GroupSpares {
    taken: Spares<u64, Taken>,
    windows: Spares<u64, u64>,
}

impl Groups {
    /// Takes over what the descriptors say. `groups_per_flex` is as in the superblock.
    ///
    /// Fails with `EOPNOTSUPP` for volumes with `bigalloc`, with `EINVAL` unless there is one
    /// descriptor for each group, and with `ENOMEM`.
    pub async fn load(
        cache: &Cache,
        geo: &Geometry,
        descs: KVVec<GroupDesc>,
        groups_per_flex: u32,
        kept: Kept,
    ) -> Result<Arc<Self>> {
        if geo.cluster_blocks() != 1 {
            return Err(EOPNOTSUPP);
        }
        if descs.len() != geo.groups() as usize {
            return Err(EINVAL);
        }
        let groups_per_flex = NonZeroU32::new(groups_per_flex).unwrap_or(NonZeroU32::MIN);
        let state = |group| match descs.get(group as usize) {
            Some(desc) => GroupState::new(desc, geo),
            None => GroupState::default(),
        };
        let mut sums = Sums {
            free: 0,
            loaned: 0,
            held: 0,
            usable: 0,
            promised: 0,
            free_inodes: 0,
            usable_inodes: 0,
            dirs: 0,
            runs: Index::new(cache, geo.groups(), |group| state(group).longest()).await?,
            inodes: Index::new(cache, geo.groups(), |group| state(group).usable_inodes()).await?,
            flex: zeroed(cache, geo.groups().div_ceil(groups_per_flex.get()) as usize).await?,
            groups_per_flex,
        };
        let mut shards = KVec::with_capacity(SHARDS, gfp())?;
        for first in 0..SHARDS {
            let count = descs.len().saturating_sub(first).div_ceil(SHARDS);
            let mut groups = vec_with_capacity(cache.spawner(), count).await?;
            for group in (0..geo.groups()).skip(first).step_by(SHARDS) {
                let state = state(group);
                sums.add(group, &GroupState::default(), &state);
                groups.push_within_capacity(state).map_err(|_| ENOMEM)?;
            }
            shards.push(make_shard(groups)?, gfp())?;
        }
        make_groups(*geo, descs, shards, kept, sums)
    }

    /// Where the metadata of a group is. The counts and checksums in it are those of the mount.
    pub fn desc(&self, group: Group) -> Option<&GroupDesc> {
        self.descs.get(group.0 as usize)
    }

    /// All of them.
    pub fn descs(&self) -> &[GroupDesc] {
        &self.descs
    }

    /// How much there is.
    pub fn counters(&self) -> Counters {
        let sums = self.sums.lock();
        Counters {
            free: sums.free,
            loaned: sums.loaned,
            held: sums.held,
            usable: sums.usable,
            promised: sums.promised,
            free_inodes: sums.free_inodes,
            usable_inodes: sums.usable_inodes,
            dirs: sums.dirs,
        }
    }

    /// Memory for a run that is taken. On a worker it waits for it.
    pub(super) async fn node(&self) -> Result<Node> {
        let spare = self.spares.lock().taken.take();
        match spare {
            Some(node) => Ok(node),
            None => memory::tree_node().await,
        }
    }

    /// Takes memory of a run that was taken out back. Not with a shard's lock held.
    pub(super) fn keep(&self, removed: Option<Removed>) {
        let rest = removed.and_then(|node| self.spares.lock().taken.keep(node));
        drop(rest);
    }

    /// As [`node`](Self::node), for a window.
    pub(super) async fn window_memory(&self) -> Result<window::Memory> {
        let spare = self.spares.lock().windows.take();
        match spare {
            Some(memory) => Ok(memory),
            None => memory::tree_node().await,
        }
    }

    /// As [`keep`](Self::keep), for a window.
    pub(super) fn keep_window(&self, removed: Option<RBTreeNode<u64, u64>>) {
        let rest = removed.and_then(|node| self.spares.lock().windows.keep(node));
        drop(rest);
    }

    /// Calls `f` with a group, under its lock; gives `None` if there is no such group.
    pub(super) fn with<R>(&self, group: Group, f: impl FnOnce(&mut View<'_>) -> R) -> Option<R> {
        let index = group.0 as usize;
        let mut shard = self.shards.get(index % SHARDS)?.state.lock();
        let ShardState {
            groups,
            blocks,
            inodes,
            windows,
        } = &mut *shard;
        let state = groups.get_mut(index / SHARDS)?;
        let before = *state;
        let mut view = View {
            state,
            blocks,
            inodes,
            windows,
            settled: 0,
        };
        let result = f(&mut view);
        let (after, settled) = (*view.state, view.settled);
        if after != before || settled > 0 {
            let mut sums = self.sums.lock();
            sums.change(group.0, &before, &after);
            sums.promised = sums.promised.saturating_sub(settled);
        }
        Some(result)
    }

    /// What a group has now.
    pub(super) fn state(&self, group: Group) -> Option<GroupState> {
        self.with(group, |view| *view.state)
    }

    /// Calls `f` with what all groups have.
    pub(super) fn sums<R>(&self, f: impl FnOnce(&mut Sums) -> R) -> R {
        f(&mut self.sums.lock())
    }

    /// The first of the `left` groups from `from` on, and then from the first one on, that may have
    /// a run of `least` blocks.
    pub(super) fn with_run(&self, from: Group, left: u32, least: u32) -> Option<Group> {
        let sums = self.sums.lock();
        self.cyclic(&sums.runs, from, left, least)
    }

    /// As [`with_run`](Self::with_run), for inodes.
    pub(super) fn with_inode(&self, from: Group, left: u32) -> Option<Group> {
        let sums = self.sums.lock();
        self.cyclic(&sums.inodes, from, left, 1)
    }

    /// The length that no run exceeds.
    pub(super) fn longest(&self) -> u32 {
        self.sums.lock().runs.max()
    }

    fn cyclic(&self, index: &Index, from: Group, left: u32, least: u32) -> Option<Group> {
        let groups = self.geo.groups();
        let from = if from.0 < groups { from.0 } else { 0 };
        let end = from.saturating_add(left).min(groups);
        let rest = left.saturating_sub(end - from).min(from);
        let least = least.max(1);
        let found = index.next(from, end, least);
        found.or_else(|| index.next(0, rest, least)).map(Group)
    }

    /// The group that comes `count` groups behind `from`, where the first one follows the last.
    pub(super) fn behind(&self, from: Group, count: u32) -> Group {
        let groups = self.geo.groups();
        match groups.saturating_sub(from.0) {
            left if count < left => Group(from.0 + count),
            left => Group(count - left),
        }
    }

    /// How many groups there are from `from` to `to`, counted as [`with_run`](Self::with_run) goes.
    pub(super) fn distance(&self, from: Group, to: Group) -> u32 {
        match to.0.checked_sub(from.0) {
            Some(distance) => distance,
            None => to.0 + self.geo.groups().saturating_sub(from.0),
        }
    }

    /// The group and the bit of a block that lies in one.
    pub(super) fn place(&self, block: Pblk) -> Option<(Group, u32)> {
        let group = self.geo.group_of(block)?;
        let bit = block.0 - self.geo.group_first_block(group).0;
        Some((group, u32::try_from(bit).ok()?))
    }

    /// What a transaction freed is durable: it can be had again. Process context.
    pub fn release(&self, freed: &Freed) {
        let (mut at, end) = (freed.start, freed.start.saturating_add(freed.count.into()));
        while let Some(group) = self.geo.group_of(Pblk(at)).filter(|_| at < end) {
            let next = self.geo.group_first_block(Group(group.0 + 1)).0;
            let base = self.geo.group_first_block(group).0;
            let removed = self.with(group, |view| release_one(view, base, at, end.min(next)));
            at = match removed.flatten() {
                Some((last, removed)) => {
                    self.keep(Some(removed));
                    last + 1
                }
                None => next,
            };
        }
    }
}

/// Releases the first run in `at..end` that is held, of the group that begins with block `base`.
/// Gives its last block, and its memory.
fn release_one(view: &mut View<'_>, base: u64, mut at: u64, end: u64) -> Option<(u64, Removed)> {
    loop {
        let (start, last, kind) = taken::first(view.blocks, at)?;
        if last >= end {
            return None;
        }
        if kind == Kind::Held && start >= at {
            let len = u32::try_from(last - start + 1).ok()?;
            let removed = taken::remove(view.blocks, start, len)?;
            view.state.held = view.state.held.saturating_sub(len);
            view.state.trimmed = 0;
            let bit = u32::try_from(start.saturating_sub(base)).unwrap_or(0);
            view.state.give_back(bit, len);
            return Some((last, removed));
        }
        at = last + 1;
    }
}

/// A vector of `len` zeroes.
async fn zeroed<T: Default + Send + 'static>(cache: &Cache, len: usize) -> Result<KVVec<T>> {
    let mut vec = vec_with_capacity(cache.spawner(), len).await?;
    while vec.len() < len {
        vec.push_within_capacity(T::default()).map_err(|_| ENOMEM)?;
    }
    Ok(vec)
}

/// Not in `load`, which is compiled into whatever module polls it: lockdep would have the locks'
/// names from there.
#[inline(never)]
fn make_shard(groups: KVVec<GroupState>) -> Result<Arc<Shard>> {
    let state = ShardState {
        groups,
        blocks: Tree::new(),
        inodes: Tree::new(),
        windows: Windows::default(),
    };
    Arc::pin_init(
        pin_init!(Shard {
            state <- new_spinlock!(state),
        }),
        gfp(),
    )
}

/// As [`make_shard`].
#[inline(never)]
fn make_groups(
    geo: Geometry,
    descs: KVVec<GroupDesc>,
    shards: KVec<Arc<Shard>>,
    kept: Kept,
    sums: Sums,
) -> Result<Arc<Groups>> {
    Arc::pin_init(
        pin_init!(Groups {
            geo,
            descs,
            shards,
            kept,
            trimming: Mutex::new(()),
            sums <- new_spinlock!(sums),
            spares <- new_spinlock!(GroupSpares {
                taken: Spares::new(),
                windows: Spares::new(),
            }),
        }),
        gfp(),
    )
}
