// SPDX-License-Identifier: GPL-2.0

//! [`MapPlan`]: a change of an inode's map, planned before a transaction and applied by it.
//!
//! The blocks of the tree are changed in copies: each step of a plan finds there what the steps
//! before it have done. So one plan may map, convert and unmap as much as a transaction has room
//! for, in as many leaves as it takes, and what is left for the transaction is to put the copies
//! in the place of the blocks.
//!
//! ```text
//! let guard = info.map_lock.write().await?;
//! let mut plan = MapPlan::new(volume, &writable, info, Space::User).await?;
//! plan.map_loan(lblk, loan, false).await?;
//! let inode = volume.plan_inode(info).await?;
//! let credits = plan.credits().and(InodePlan::CREDITS);
//! let mut tx = writable.journal.begin(&volume.cache, credits).await?;
//! let change = plan.apply(&mut tx);
//! inode.apply(volume, &mut tx, info, |edit| change.put(edit));
//! drop((change, tx, guard));
//! ```
//!
//! # Concurrency
//!
//! Who plans holds the inode's `map_lock` to write, from before the plan until the
//! [`MapChange`] is dropped; a directory's also its `rwsem`. Who searches the map meanwhile sees it
//! as it was, until the transaction: see [`map`](crate::map).

use crate::alloc::{FreePlan, Goal, Loan, Space};
use crate::error::{corrupted, errno, About, OrReport};
use crate::ext4::Ext4;
use crate::freed::{Freed, STEP_REVOKES};
use crate::inode_info::InodeInfo;
use crate::inode_plan::Writable;
use crate::journal::{Credits, Transaction};
use crate::map::Change;
use crate::memory;
use disk::run::Draft;
use disk::{Buf, Planned};
use kernel::prelude::*;
use layout::bytes::{get_u16, put_u32};
use layout::extent::EMPTY_ROOT;
use layout::extent_edit::{self, root_of, Target};
use layout::inode::I_BLOCK_SIZE;
use layout::inode_edit::SMALL_FILE_MAX;
use layout::{
    extent_path, indirect_edit, DataMap, Extent, ExtentPath, ExtentPlan, ExtentState, FileType,
    Geometry, Incompat, IndirectPath, IndirectPlan, InodeEdit, InodeFlags, Lblk, Pblk, RoCompat,
    TreeBlock,
};

/// The most levels below a root.
const DEPTH_MAX: usize = extent_path::MAX_LEVELS - 1;

/// How many blocks a transaction that changes a map edits at most, about.
pub(crate) const CREDITS_MAX: u32 = 96;

/// How many runs one step of a plan unmaps at most.
const STEP_RUNS: u16 = 8;

/// The size of `i_block`.
pub(crate) type Root = [u8; I_BLOCK_SIZE];

/// A change of an inode's map.
///
/// # Cancellation
///
/// Dropping it leaves everything as it is. After an error it can only be dropped.
pub struct MapPlan<'a> {
    volume: &'a Ext4,
    writable: &'a Writable,
    info: &'a InodeInfo,
    /// Out of which space the blocks of the tree come.
    space: Space<'a>,
    /// Whether they come out of what is kept back if there is no other.
    must: bool,
    extents: bool,
    root: Root,
    /// Blocks of the tree that were read, or made.
    nodes: KVec<Node>,
    /// Which of them lead to the leaf in charge, and how many these are.
    path: [usize; DEPTH_MAX],
    depth: usize,
    /// There from the first step on that takes more than an edit of the root.
    step: Option<KBox<Step>>,
    /// What the step unmaps.
    runs: KVec<Extent>,
    loans: KVec<Loan>,
    freed: Freed,
    /// How many blocks the inode has more.
    blocks: i64,
    /// Whether there is a step.
    changed: bool,
    /// Whether blocks that are mapped get other places in the file.
    moved: bool,
    /// What applying it takes.
    credits: Credits,
}

/// A block of a tree.
struct Node {
    block: u64,
    /// As it was found; none if it is fresh.
    old: Option<Buf>,
    /// As it will be, if it changes.
    new: Option<(Planned, Draft)>,
    /// There if it is fresh.
    loan: Option<Loan>,
    /// There if it is in use no more.
    free: Option<FreePlan>,
}

/// One step of a plan, which is large.
#[allow(
    clippy::large_enum_variant,
    reason = "a plan has one on the heap, for all its steps"
)]
enum Step {
    None,
    Extents(ExtentPlan),
    Indirect(IndirectPlan),
}

/// What a step does.
#[derive(Clone, Copy)]
pub(crate) enum Do {
    Map(u32, Pblk, bool),
    Convert(u32, bool),
    Unmap(Lblk, Lblk),
    /// Cut the extent that has the block in two.
    Split,
    /// Join the extent that starts with the block with the one before.
    Merge,
    /// Move what the leaf has from a block on by so many.
    Shift(Lblk, i64),
    /// Move the only node below the root into it, if it fits.
    Shrink,
}

impl Node {
    fn data(&self) -> &[u8] {
        match (&self.new, &self.old) {
            (Some((_, draft)), _) => draft.data(),
            (None, Some(buf)) => buf.data(),
            (None, None) => &[],
        }
    }
}

/// The nodes of a path.
fn path_nodes<'n>(
    root: &'n Root,
    nodes: &'n [Node],
    path: &[usize],
) -> ([&'n [u8]; DEPTH_MAX + 1], usize) {
    let mut found: [&[u8]; DEPTH_MAX + 1] = [&[]; DEPTH_MAX + 1];
    let below = path
        .iter()
        .map(|i| nodes.get(*i).map_or(&[][..], Node::data));
    let all = Iterator::chain(core::iter::once(&root[..]), below);
    for (slot, data) in found.iter_mut().zip(all) {
        *slot = data;
    }
    (found, path.len() + 1)
}

impl<'a> MapPlan<'a> {
    /// Begins a plan that changes nothing. Blocks of the tree will come out of `space`.
    ///
    /// Fails with `EUCLEAN` for an inode without a map, and with `ENOMEM`.
    pub async fn new(
        volume: &'a Ext4,
        writable: &'a Writable,
        info: &'a InodeInfo,
        space: Space<'a>,
    ) -> Result<Self> {
        let (map, root) = info.look(|inode| (inode.data_map(), inode.block));
        let extents = match map {
            DataMap::Extents => true,
            DataMap::Indirect => false,
            _ => {
                volume.report(&format_args!("inode {}: it has no map to change", info.ino));
                return Err(corrupted());
            }
        };
        Self::with_root(volume, writable, info, space, extents, root).await
    }

    /// Begins a plan for an inode that is to have a map, and has none: this one.
    pub(crate) async fn with_root(
        volume: &'a Ext4,
        writable: &'a Writable,
        info: &'a InodeInfo,
        space: Space<'a>,
        extents: bool,
        root: Root,
    ) -> Result<Self> {
        Ok(Self {
            volume,
            writable,
            info,
            space,
            must: false,
            extents,
            root,
            nodes: KVec::new(),
            path: [0; DEPTH_MAX],
            depth: 0,
            step: None,
            runs: KVec::new(),
            loans: KVec::new(),
            freed: Freed::new(),
            blocks: 0,
            changed: false,
            moved: false,
            credits: Credits::default(),
        })
    }

    /// Blocks of the tree come out of what is kept back, if there are no others: for what must not
    /// fail.
    pub fn set_must(&mut self) {
        self.must = true;
    }

    fn geo(&self) -> &'a Geometry {
        &self.volume.sb.geo
    }

    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub fn credits(&self) -> Credits {
        self.credits
    }

    /// Whether nothing was planned.
    pub fn is_empty(&self) -> bool {
        !self.changed
    }

    /// Plans to map the blocks from `lblk` on, which are a hole, to those of a loan.
    ///
    /// Fails with `ENOSPC`, `EFBIG`, and with the errors of damage and of the block layer.
    pub async fn map_loan(&mut self, lblk: Lblk, loan: Loan, unwritten: bool) -> Result {
        memory::room(&mut self.loans).await?;
        self.map(lblk, loan.start(), loan.len(), unwritten).await?;
        self.credits = self.credits.and(Loan::CREDITS);
        self.loans.push_within_capacity(loan).map_err(|_| ENOMEM)
    }

    /// As [`map_loan`](Self::map_loan), for blocks from `start` on whose loan the caller applies.
    pub async fn map(&mut self, lblk: Lblk, start: Pblk, len: u32, unwritten: bool) -> Result {
        let mut done = 0;
        self.blocks += i64::from(len);
        while done < len {
            let pblk = Pblk(start.0 + u64::from(done));
            let what = Do::Map(len - done, pblk, unwritten);
            let range = self.run(Lblk(lblk.0.saturating_add(done)), what).await?;
            done += self.count(range)?;
        }
        self.check_space()
    }

    /// Plans to make blocks written that are mapped, and not written; or the other way round.
    ///
    /// Fails as [`map_loan`](Self::map_loan) does.
    pub async fn convert(&mut self, lblk: Lblk, len: u32, unwritten: bool) -> Result {
        let mut done = 0;
        while done < len {
            let what = Do::Convert(len - done, unwritten);
            let range = self.run(Lblk(lblk.0.saturating_add(done)), what).await?;
            done += self.count(range)?;
        }
        self.check_space()
    }

    /// Plans to unmap and free the blocks from `from` up to `until`, exclusive, from the end on,
    /// until applying the plan takes more than `limit` blocks. Returns from where on they are
    /// unmapped.
    ///
    /// Blocks of directories and links are revoked. Fails as [`map_loan`](Self::map_loan) does.
    pub async fn unmap(&mut self, from: Lblk, until: Lblk, limit: u32) -> Result<Lblk> {
        let mut until = until.min(self.end());
        let metadata = self.volume.has_metadata_blocks(self.info);
        while until > from {
            if self.weight() > limit {
                break;
            }
            let low = match metadata {
                true => from.max(Lblk(until.0.saturating_sub(STEP_REVOKES))),
                false => from,
            };
            memory::room_for(&mut self.runs, STEP_RUNS.into()).await?;
            let range = self
                .run(Lblk(until.0.saturating_sub(1)), Do::Unmap(low, until))
                .await?;
            while let Some(run) = self.runs.pop() {
                let (volume, writable) = (self.volume, self.writable);
                let credits = self.freed.add(volume, writable, &run, metadata).await?;
                self.credits = self.credits.and(credits);
                if run.pblk().is_some() {
                    self.blocks -= i64::from(run.len);
                }
            }
            if range.0 >= until {
                return Err(self.damaged());
            }
            until = range.0.max(from);
        }
        if until <= from && self.extents && self.depth > 0 {
            self.run(from, Do::Shrink).await?;
        }
        Ok(until.max(from))
    }

    /// How much applying the plan takes of the journal, about, in blocks.
    pub(crate) fn weight(&self) -> u32 {
        let credits = self.credits;
        credits.blocks.saturating_add(credits.revokes / 64)
    }

    /// The end of what is mapped. Of a file with extents.
    pub(crate) async fn mapped_end(&mut self) -> Result<Lblk> {
        let last = Lblk(Lblk::END.0 - 1);
        self.find(last).await?;
        let path = self.path.get(..self.depth).unwrap_or_default();
        let (nodes, len) = path_nodes(&self.root, &self.nodes, path);
        let nodes = nodes.get(..len).unwrap_or_default();
        let end = ExtentPath::new(nodes, last, self.geo()).and_then(|path| path.mapped_end());
        end.or_report(self.volume, About::inode(self.info.ino))
    }

    /// The end of what the map has a place for.
    fn end(&self) -> Lblk {
        if self.extents {
            return Lblk::END;
        }
        let pointers = u64::from(self.geo().block_size() / 4);
        let blocks = 12 + pointers * (1 + pointers * (1 + pointers));
        u32::try_from(blocks).map_or(Lblk::END, Lblk)
    }

    /// How many blocks a step covers.
    fn count(&self, range: (Lblk, Lblk)) -> Result<u32> {
        match range.1 .0.checked_sub(range.0 .0) {
            Some(count) if count > 0 => Ok(count),
            _ => Err(self.damaged()),
        }
    }

    #[cold]
    fn damaged(&self) -> Error {
        let ino = self.info.ino;
        self.volume
            .report(&format_args!("inode {ino}: a map that cannot be changed"));
        corrupted()
    }

    /// Whether the inode can say how much space it takes.
    fn check_space(&self) -> Result {
        let had = self.info.look(|inode| inode.sectors);
        let has = had.saturating_add_signed(self.sectors());
        // With the feature every count of blocks of a volume fits.
        match has >> 32 == 0 || self.geo().has_ro_compat(RoCompat::HUGE_FILE) {
            true => Ok(()),
            false => Err(EFBIG),
        }
    }

    fn sectors(&self) -> i64 {
        let bits = u32::from(self.geo().block_bits().saturating_sub(9));
        self.blocks << bits
    }

    /// Plans one step, in the leaf in charge of `lblk`. Returns what it covers.
    pub(crate) async fn run(&mut self, lblk: Lblk, what: Do) -> Result<(Lblk, Lblk)> {
        self.changed = true;
        self.moved |= matches!(what, Do::Shift(..));
        if let Some(range) = self.edit_root(lblk, what)? {
            return Ok(range);
        }
        if self.step.is_none() {
            self.step = Some(memory::boxed(|| Step::None).await?);
        }
        self.find(lblk).await?;
        let range = self.plan(lblk, what)?;
        self.take_blocks().await?;
        self.take_copies().await?;
        if self.edit().is_none() {
            return Err(self.damaged());
        }
        self.drop_nodes().await?;
        Ok(range)
    }

    /// Does what is only an edit of the root, as it is for most files. Returns what it covers;
    /// `None` if it takes a step. Not in the caller, whose future has no room for it.
    #[inline(never)]
    fn edit_root(&mut self, lblk: Lblk, what: Do) -> Result<Option<(Lblk, Lblk)>> {
        if !self.extents || get_u16(&self.root, 6) != Some(0) {
            return Ok(None);
        }
        let change = match (&ExtentPath::new(&[&self.root], lblk, self.geo()), what) {
            (Ok(path), Do::Map(len, pblk, unwritten)) => path.map_in_root(len, pblk, unwritten),
            (Ok(path), Do::Convert(len, unwritten)) => path.convert_in_root(len, unwritten),
            // The general way says what is wrong, if something is.
            _ => return Ok(None),
        };
        let Some((edit, range)) = change.map_err(|error| self.failed(error))? else {
            return Ok(None);
        };
        match edit.apply(&mut self.root) {
            Some(()) => Ok(Some(range)),
            None => Err(self.damaged()),
        }
    }

    fn failed(&self, error: layout::Error) -> Error {
        let ino = self.info.ino;
        self.volume.report(&format_args!("inode {ino}: {error}"));
        errno(error.kind)
    }

    /// Reads the way to the leaf in charge of `lblk`.
    async fn find(&mut self, lblk: Lblk) -> Result {
        self.depth = 0;
        while let Some(at) = self.next(lblk)? {
            let known = |node: &Node| node.block == at.pblk.0 && node.free.is_none();
            let place = match self.nodes.iter().position(known) {
                Some(place) => place,
                None => self.read(&at).await?,
            };
            *self.path.get_mut(self.depth).ok_or_else(corrupted)? = place;
            self.depth += 1;
        }
        Ok(())
    }

    fn next(&self, lblk: Lblk) -> Result<Option<TreeBlock>> {
        let path = self.path.get(..self.depth).unwrap_or_default();
        let (nodes, len) = path_nodes(&self.root, &self.nodes, path);
        let nodes = nodes.get(..len).unwrap_or_default();
        let next = match self.extents {
            true => extent_path::next_block(nodes, lblk, self.geo()),
            false => indirect_edit::next_block(nodes, lblk, self.geo()),
        };
        next.or_report(self.volume, About::inode(self.info.ino))
    }

    async fn read(&mut self, at: &TreeBlock) -> Result<usize> {
        memory::room(&mut self.nodes).await?;
        let about = About::block(self.info.ino, at.pblk.0);
        if self.volume.is_system_block(at.pblk, 1) {
            self.volume
                .report(&format_args!("{about}a map that leads to metadata"));
            return Err(corrupted());
        }
        let buf = self.volume.block(at.pblk).await?;
        if !buf.is_verified() {
            at.verify(buf.data(), &self.info.owner, self.geo())
                .or_report(self.volume, about)?;
            buf.set_verified();
        }
        let node = Node {
            block: at.pblk.0,
            old: Some(buf),
            new: None,
            loan: None,
            free: None,
        };
        self.nodes.push_within_capacity(node).map_err(|_| ENOMEM)?;
        Ok(self.nodes.len() - 1)
    }

    /// Plans the step. Not in the caller, whose future has no room for it.
    #[inline(never)]
    fn plan(&mut self, lblk: Lblk, what: Do) -> Result<(Lblk, Lblk)> {
        let geo = self.geo();
        let path = self.path.get(..self.depth).unwrap_or_default();
        let (nodes, len) = path_nodes(&self.root, &self.nodes, path);
        let nodes = nodes.get(..len).unwrap_or_default();
        self.runs.clear();
        let step = self.step.as_deref_mut().ok_or(EINVAL)?;
        let planned = match self.extents {
            true => plan_extents(nodes, lblk, geo, what, step, &mut self.runs),
            false => plan_indirect(nodes, lblk, geo, what, step, &mut self.runs),
        };
        planned.map_err(|error| self.failed(error))
    }

    fn step(&self) -> &Step {
        self.step.as_deref().unwrap_or(&Step::None)
    }

    /// Takes the blocks that the step needs for the tree, and says where they are.
    async fn take_blocks(&mut self) -> Result {
        let count = match self.step() {
            Step::None => 0,
            Step::Extents(plan) => plan.new_blocks(),
            Step::Indirect(plan) => plan.new_blocks(),
        };
        let first = self.nodes.len();
        memory::room_for(&mut self.nodes, count.into()).await?;
        for _ in 0..count {
            let loan = self.take_block().await?;
            let block = loan.start().0;
            let planned = self.volume.cache.plan_new(block).await?;
            let draft = self.volume.cache.draft().await?;
            let node = Node {
                block,
                old: None,
                new: Some((planned, draft)),
                loan: Some(loan),
                free: None,
            };
            self.nodes.push_within_capacity(node).map_err(|_| ENOMEM)?;
            let one = Credits::blocks(1).and(Loan::CREDITS);
            self.credits = self.credits.and(one);
            self.blocks += 1;
        }
        let mut blocks = [Pblk(0); DEPTH_MAX + 1];
        let fresh = self.nodes.get(first..).unwrap_or_default();
        for (block, node) in blocks.iter_mut().zip(fresh) {
            *block = Pblk(node.block);
        }
        let blocks = blocks.get(..fresh.len()).unwrap_or_default();
        let placed = match self.step.as_deref_mut() {
            None | Some(Step::None) => Some(()),
            Some(Step::Extents(plan)) => plan.place(blocks),
            Some(Step::Indirect(plan)) => plan.place(blocks),
        };
        placed.ok_or(ENOSPC)
    }

    /// Takes a block for the tree: with the metadata of the inode's group, out of the way of what
    /// the file holds.
    async fn take_block(&mut self) -> Result<Loan> {
        let sb = &self.volume.sb;
        let goal = Goal::of_inode(&sb.geo, sb.groups_per_flex, self.info.ino, false);
        let allocator = self.writable.allocator(self.volume);
        match allocator.loan_blocks(goal, 1, 1, &mut self.space).await {
            Err(ENOSPC) if self.must => allocator.loan_blocks(goal, 1, 1, &mut Space::Must).await,
            result => result,
        }
    }

    /// Copies the blocks that the step changes.
    async fn take_copies(&mut self) -> Result {
        let levels = match self.step() {
            Step::None => 0,
            Step::Extents(plan) => levels(plan.edits().map(|edit| edit.target)),
            Step::Indirect(plan) => levels(plan.edits().map(|edit| edit.target)),
        };
        for level in 0..self.depth {
            if levels & 2 << level == 0 {
                continue;
            }
            let place = self.path.get(level).copied().ok_or(EINVAL)?;
            let node = self.nodes.get_mut(place).ok_or(EINVAL)?;
            if let (None, Some(old)) = (&node.new, &node.old) {
                let planned = self.volume.plan_edit(node.block).await?;
                let draft = self.volume.cache.draft_of(old).await?;
                node.new = Some((planned, draft));
                self.credits = self.credits.and(Credits::blocks(1));
            }
        }
        Ok(())
    }

    /// Makes the step's edits in the copies. `None` if one of them does not fit.
    #[inline(never)]
    fn edit(&mut self) -> Option<()> {
        let path = self.path.get(..self.depth)?;
        match self.step.as_deref()? {
            Step::None => {}
            Step::Extents(plan) => {
                let first = self.nodes.len().checked_sub(plan.new_blocks().into())?;
                // What is made of others is made of them as they were.
                for edit in plan.edits() {
                    let Target::Fresh(n) = edit.target else {
                        continue;
                    };
                    let place = first + usize::from(n);
                    let mut new = self.nodes.get_mut(place)?.new.take()?;
                    let (sources, _) = path_nodes(&self.root, &self.nodes, path);
                    let source = sources.get(usize::from(edit.source))?;
                    edit.make(source, new.1.data_mut())?;
                    self.nodes.get_mut(place)?.new = Some(new);
                }
                for edit in plan.edits() {
                    if let Target::Level(level) = edit.target {
                        let bytes = target(&mut self.root, &mut self.nodes, path, level)?;
                        edit.apply(bytes)?;
                    }
                }
            }
            Step::Indirect(plan) => {
                let first = self.nodes.len().checked_sub(plan.new_blocks().into())?;
                for edit in plan.edits() {
                    match edit.target {
                        Target::Fresh(n) => {
                            let node = self.nodes.get_mut(first + usize::from(n))?;
                            edit.make(node.new.as_mut()?.1.data_mut())?;
                        }
                        Target::Level(level) => {
                            let bytes = target(&mut self.root, &mut self.nodes, path, level)?;
                            edit.apply(bytes)?;
                        }
                    }
                }
            }
        }
        Some(())
    }

    /// Plans to free the blocks that the step takes out of the tree.
    async fn drop_nodes(&mut self) -> Result {
        let mut gone = [None; extent_path::MAX_LEVELS];
        let fill = |gone: &mut [Option<Pblk>], all: &mut dyn Iterator<Item = Pblk>| {
            for (slot, pblk) in gone.iter_mut().zip(all) {
                *slot = Some(pblk);
            }
        };
        match self.step() {
            Step::None => {}
            Step::Extents(plan) => fill(&mut gone, &mut plan.freed_nodes()),
            Step::Indirect(plan) => fill(&mut gone, &mut plan.freed_nodes()),
        }
        for pblk in gone.into_iter().flatten() {
            let known = |node: &Node| node.block == pblk.0 && node.free.is_none();
            let place = self.nodes.iter().position(known).ok_or(EINVAL)?;
            self.blocks -= 1;
            let node = self.nodes.get_mut(place).ok_or(EINVAL)?;
            node.new = None;
            if node.loan.is_some() {
                // It was of this plan. Its credits stay, which does no harm.
                drop(self.nodes.remove(place));
                continue;
            }
            let allocator = self.writable.allocator(self.volume);
            let free = allocator.plan_free(pblk, 1).await?;
            self.credits = self.credits.and(free.credits());
            self.credits.revokes = self.credits.revokes.saturating_add(1);
            node.free = Some(free);
        }
        Ok(())
    }

    /// Changes the blocks of the map, and takes and frees what it has more and less. Does not
    /// sleep, and does not fail.
    ///
    /// The inode is changed after this, in the same transaction, by [`MapChange::put`]; and only
    /// then the change is dropped.
    pub fn apply(self, tx: &mut Transaction<'_>) -> MapChange<'a> {
        let change = Change::begin(self.info);
        self.info.set_map_changed_in(tx.tid());
        if self.moved || !self.freed.is_empty() {
            self.info.count_unmap();
        }
        let sectors = self.sectors();
        let (geo, cache, volume) = (self.geo(), &self.volume.cache, self.volume);
        let Self {
            info,
            extents,
            root,
            mut nodes,
            mut loans,
            freed,
            ..
        } = self;
        while let Some(node) = nodes.pop() {
            if let Some(free) = node.free {
                tx.revoke(cache, node.block);
                free.apply(tx);
                continue;
            }
            if let Some(loan) = node.loan {
                loan.apply(tx);
            }
            let Some((planned, mut draft)) = node.new else {
                continue;
            };
            if extents && extent_edit::seal(draft.data_mut(), &info.owner, geo).is_none() {
                kernel::warn_on!(true);
            }
            tx.replace(planned, draft);
        }
        while let Some(loan) = loans.pop() {
            loan.apply(tx);
        }
        freed.apply(volume, tx);
        MapChange {
            block: root,
            sectors,
            _change: change,
        }
    }
}

/// The levels of a path that edits are for, a bit each.
fn levels(targets: impl Iterator<Item = Target>) -> u32 {
    targets.fold(0, |all, target| match target {
        Target::Level(level) => all | 1 << (u32::from(level) & 31),
        Target::Fresh(_) => all,
    })
}

/// The bytes of a level of the path, to be changed.
fn target<'n>(
    root: &'n mut Root,
    nodes: &'n mut [Node],
    path: &[usize],
    level: u8,
) -> Option<&'n mut [u8]> {
    let Some(below) = usize::from(level).checked_sub(1) else {
        return Some(&mut root[..]);
    };
    let node = nodes.get_mut(*path.get(below)?)?;
    Some(node.new.as_mut()?.1.data_mut())
}

#[inline(never)]
fn plan_extents(
    nodes: &[&[u8]],
    lblk: Lblk,
    geo: &Geometry,
    what: Do,
    step: &mut Step,
    runs: &mut KVec<Extent>,
) -> layout::Result<(Lblk, Lblk)> {
    let path = ExtentPath::new(nodes, lblk, geo)?;
    *step = Step::Extents(ExtentPlan::EMPTY);
    let Step::Extents(plan) = step else {
        return Ok((lblk, lblk));
    };
    match what {
        Do::Map(len, pblk, unwritten) => path.map(len, pblk, unwritten, plan)?,
        Do::Convert(len, unwritten) => path.convert(len, unwritten, plan)?,
        Do::Unmap(from, until) => path.unmap(from, until, STEP_RUNS, plan)?,
        Do::Split => path.split_at(plan)?,
        Do::Merge => path.merge_at(plan)?,
        Do::Shift(from, delta) => path.shift(from, delta, plan)?,
        Do::Shrink => drop(path.shrink(plan)?),
    }
    let range = plan.range();
    if let Do::Unmap(..) = what {
        for run in path.extents(range.0, range.1) {
            push_run(runs, run?)?;
        }
    }
    Ok(range)
}

#[inline(never)]
fn plan_indirect(
    nodes: &[&[u8]],
    lblk: Lblk,
    geo: &Geometry,
    what: Do,
    step: &mut Step,
    runs: &mut KVec<Extent>,
) -> layout::Result<(Lblk, Lblk)> {
    let path = IndirectPath::new(nodes, lblk, geo)?;
    let plan = match what {
        Do::Map(len, pblk, false) => path.map(len, pblk)?,
        Do::Unmap(from, until) => path.unmap(from, until, STEP_RUNS)?,
        _ => {
            let what = "block map: only extents can do what is to be done to it";
            return Err(layout::Error::corrupt1(what, lblk));
        }
    };
    let range = plan.range();
    if let Do::Unmap(..) = what {
        for run in path.extents(range.0, range.1) {
            push_run(runs, run?)?;
        }
    }
    *step = Step::Indirect(plan);
    Ok(range)
}

/// There is room for as many as a step has.
fn push_run(runs: &mut KVec<Extent>, run: Extent) -> layout::Result<()> {
    let what = "block map: it has more runs than it said";
    runs.push_within_capacity(run)
        .map_err(|_| layout::Error::corrupt(what))
}

/// What becomes of the inode whose map a transaction has changed.
///
/// Who searches the map waits for its drop, which is after the inode was changed.
#[must_use = "the inode is to be changed, too"]
pub struct MapChange<'a> {
    /// What `i_block` holds from now on.
    pub block: Root,
    /// By how many sectors of 512 bytes the inode takes more space.
    pub sectors: i64,
    _change: Change<'a>,
}

impl MapChange<'_> {
    /// Changes the inode. Called within [`InodePlan::apply`](crate::inode_plan::InodePlan::apply).
    pub fn put(&self, edit: &mut InodeEdit<'_>) {
        edit.set_block(&self.block);
        // That it fits was checked by the plan.
        let _ = edit.add_sectors(self.sectors);
    }
}

/// The `i_block` of an inode without blocks.
pub(crate) fn empty_root(extents: bool) -> Root {
    match extents {
        true => EMPTY_ROOT,
        false => [0; I_BLOCK_SIZE],
    }
}

/// The `i_block` of an inode whose only block, number 0, is at `pblk`; `None` if there is none such.
pub fn first_block(extents: bool, pblk: Pblk) -> Option<Root> {
    if extents {
        // Not by a plan, which is large: the caller is deep in the kernel's stack.
        return root_of(&[Extent {
            lblk: Lblk(0),
            len: 1,
            state: ExtentState::Written(pblk),
        }]);
    }
    let mut root = [0; I_BLOCK_SIZE];
    put_u32(&mut root, 0, u32::try_from(pblk.0).ok()?)?;
    Some(root)
}

impl Ext4 {
    /// Where block `lblk` of a file should be: behind the block in front of it, if that is mapped.
    pub async fn goal(&self, info: &InodeInfo, lblk: Lblk) -> Result<Goal> {
        if let Some(before) = lblk.0.checked_sub(1).map(Lblk) {
            let extent = self.map(info, before).await?;
            let at = extent.from(before).and_then(|extent| extent.pblk());
            if let Some(at) = at {
                return Ok(Goal::near(before, at, lblk));
            }
        }
        Ok(self.first_goal(info))
    }

    /// Where the first block of a file should be.
    pub(crate) fn first_goal(&self, info: &InodeInfo) -> Goal {
        let regular = info.file_type == FileType::Regular;
        let per_flex = self.sb.groups_per_flex;
        Goal::of_inode(&self.sb.geo, per_flex, info.ino, regular)
    }

    /// Whether extents map an inode, or will when its data has left it.
    pub(crate) fn maps_by_extents(&self, info: &InodeInfo) -> bool {
        match info.data_map() {
            DataMap::Inline => self.sb.geo.has_incompat(Incompat::EXTENTS),
            map => map == DataMap::Extents,
        }
    }

    /// The largest size that a file can have, with the features that the volume has.
    pub fn max_size(&self, info: &InodeInfo) -> u64 {
        let geo = &self.sb.geo;
        let most = geo.max_file_size(self.maps_by_extents(info));
        match geo.has_ro_compat(RoCompat::LARGE_FILE) {
            true => most,
            false => most.min(SMALL_FILE_MAX),
        }
    }

    /// Whether what the inode's map leads to is metadata, which the journal has.
    pub(crate) fn has_metadata_blocks(&self, info: &InodeInfo) -> bool {
        info.file_type != FileType::Regular || info.flags().has(InodeFlags::EA_INODE)
    }
}
