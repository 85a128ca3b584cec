// SPDX-License-Identifier: GPL-2.0

//! Room for more names in a directory.
//!
//! | a directory that | gets |
//! |---|---|
//! | lies in its inode | a block, which its names go to |
//! | has one block and no index | an index, if the volume may have such, and two leaves |
//! | has no index | one more block |
//! | has an index | one more leaf: half of the names of the one where the new name belongs |
//!
//! All of it is a transaction of its own, after which the directory has the names that it had, and
//! room for the new one. So whoever then puts the name in needs no more than one block of it, and if
//! that comes to nothing, no harm is done.
//!
//! The caller has the directory's `rwsem` to write. The blocks are mapped under its `map_lock`, which
//! is taken here.

use crate::alloc::{Goal, Space};
use crate::dir::Holds;
use crate::dir_write::Leaf;
use crate::error::{About, OrReport};
use crate::ext4::Ext4;
use crate::inline_write::clear_inline;
use crate::inode_info::InodeInfo;
use crate::inode_plan::{InodePlan, Writable};
use crate::journal::{Credits, Transaction};
use crate::map_plan::{empty_root, MapPlan};
use crate::memory;
use disk::{vec_with_capacity, Buf, Planned};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::dir_edit::{self, Name};
use layout::dir_split::{self, split_entries, Full, Split, SplitEntry};
use layout::htree_edit::{self, fresh_blocks, IndexPlan};
use layout::{inline_dir_edit, Compat, DataMap, Incompat, InodeEdit, InodeFlags, Lblk};
use upcall::WriteGuard;

/// How many nodes of an index lead to a leaf at most.
const PATH_MAX: usize = 3;

/// A split, with the memory that it needs.
type Halves = Split<KVVec<SplitEntry>>;

/// Blocks that a directory is about to get at its end.
struct Fresh<'a> {
    map: MapPlan<'a>,
    blocks: KVec<Planned>,
    size: u64,
    inode: InodePlan,
    _lock: WriteGuard<'a, ()>,
}

impl Ext4 {
    /// Makes room for a name in a directory that has none, or a part of it: the directory is to be
    /// looked at again.
    ///
    /// Fails with `ENOSPC`, with `EUCLEAN` or `EBADMSG` if it is damaged, and with the errors of
    /// the block layer.
    ///
    /// # Cancellation
    ///
    /// The directory has the names that it had.
    pub(crate) async fn grow_dir(
        &self,
        writable: &Writable,
        dir: &InodeInfo,
        name: Name<'_>,
    ) -> Result {
        if dir.data_map() == DataMap::Inline {
            return self.move_to_block(writable, dir).await;
        }
        if dir.is_indexed() {
            return self.split_leaf(writable, dir, name).await;
        }
        let blocks = self.dir_blocks(dir)?;
        if blocks == 1 && self.sb.geo.has_compat(Compat::DIR_INDEX) {
            return self.make_index(writable, dir, name).await;
        }
        self.append_block(writable, dir, blocks).await
    }

    /// Plans blocks at the end of a directory, from block `first` on.
    async fn plan_fresh_blocks<'a>(
        &'a self,
        writable: &'a Writable,
        dir: &'a InodeInfo,
        first: Lblk,
        count: u32,
    ) -> Result<Fresh<'a>> {
        let geo = &self.sb.geo;
        let lock = dir.map_lock.write().await.map_err(|_| ESHUTDOWN)?;
        let extents = self.maps_by_extents(dir);
        let end = u64::from(first.0) + u64::from(count);
        let size = end << geo.block_bits();
        let wide = geo.has_incompat(Incompat::LARGEDIR);
        if size > geo.max_file_size(extents) || !wide && size > u64::from(u32::MAX) {
            return Err(ENOSPC);
        }
        let mut map = match dir.data_map() {
            DataMap::Inline => {
                let root = empty_root(extents);
                MapPlan::with_root(self, writable, dir, Space::Caller, extents, root).await?
            }
            _ => MapPlan::new(self, writable, dir, Space::Caller).await?,
        };
        let allocator = writable.allocator(self);
        let mut blocks = KVec::new();
        memory::room_for(&mut blocks, count as usize).await?;
        let mut goal = self.goal(dir, first).await?;
        let mut at = first;
        while let Some(left) = (first.0 + count).checked_sub(at.0).filter(|&left| left > 0) {
            let loan = allocator
                .loan_blocks(goal, left, 1, &mut Space::Caller)
                .await?;
            let (start, len) = (loan.start(), loan.len());
            for block in start.0..start.0 + u64::from(len) {
                let planned = self.cache.plan_new(block).await?;
                blocks.push_within_capacity(planned).map_err(|_| ENOMEM)?;
            }
            goal = Goal::behind(layout::Pblk(start.0 + u64::from(len) - 1));
            map.map_loan(at, loan, false).await?;
            at.0 += len;
        }
        // They are taken from the end.
        blocks.reverse();
        Ok(Fresh {
            map,
            blocks,
            size,
            inode: self.plan_inode(dir).await?,
            _lock: lock,
        })
    }

    /// Appends a block without names.
    async fn append_block(&self, writable: &Writable, dir: &InodeInfo, blocks: u32) -> Result {
        let plan = || self.plan_fresh_blocks(writable, dir, Lblk(blocks), 1);
        let fresh = memory::pinned(plan).await?.await?;
        let begun = writable.journal.begin(&self.cache, fresh.credits());
        let mut tx = begun.await?;
        fresh.apply(
            self,
            &mut tx,
            dir,
            |_| {},
            |tx, blocks| {
                edit_fresh(tx, blocks, |block| {
                    dir_edit::init_block(block, &self.sb.geo)?;
                    dir_edit::seal(block, &dir.owner, &self.sb.geo)
                })
            },
        );
        Ok(())
    }

    /// Gives the directory in an inode its first block.
    async fn move_to_block(&self, writable: &Writable, dir: &InodeInfo) -> Result {
        let geo = &self.sb.geo;
        let buffer = self.inode_buffer(dir).await?;
        let names = self.inline_dir(dir, &buffer)?;
        inline_dir_edit::check_to_block(&names, geo).or_report(self, About::inode(dir.ino))?;
        let area = self.area_without_data(dir).await?;
        let plan = || self.plan_fresh_blocks(writable, dir, Lblk(0), 1);
        let fresh = memory::pinned(plan).await?.await?;
        let begun = writable.journal.begin(&self.cache, fresh.credits());
        let mut tx = begun.await?;
        let extents = self.maps_by_extents(dir);
        let change = |edit: &mut InodeEdit<'_>| clear_inline(edit, extents, &area);
        fresh.apply(self, &mut tx, dir, change, |tx, blocks| {
            edit_fresh(tx, blocks, |block| {
                inline_dir_edit::to_block(&names, dir.ino, block, geo)?;
                dir_edit::seal(block, &dir.owner, geo)
            })
        });
        Ok(())
    }

    /// Memory for a split.
    async fn split_memory(&self) -> Result<KVVec<SplitEntry>> {
        let count = split_entries(&self.sb.geo);
        let mut memory = vec_with_capacity(self.cache.spawner(), count).await?;
        while memory.len() < count {
            let entry = SplitEntry::default();
            memory.push_within_capacity(entry).map_err(|_| ENOMEM)?;
        }
        Ok(memory)
    }

    /// Brings the names of a block together.
    async fn pack_block(&self, writable: &Writable, dir: &InodeInfo, block: u64) -> Result {
        let planned = self.plan_edit(block).await?;
        let credits = Credits::blocks(1);
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        let geo = &self.sb.geo;
        let packed = tx.edit(planned, |block| {
            dir_split::pack(block, geo)?;
            dir_edit::seal(block, &dir.owner, geo)
        });
        dir.set_changed_in(tx.tid());
        if packed.is_err() {
            kernel::warn_on!(true);
        }
        Ok(())
    }

    /// Makes the only block of a directory the root of an index.
    async fn make_index(&self, writable: &Writable, dir: &InodeInfo, name: Name<'_>) -> Result {
        let geo = &self.sb.geo;
        let (old, about) = self.dir_block(dir, Lblk(0), Holds::Entries, 0).await?;
        let block = about.block.ok_or(EIO)?;
        let memory = self.split_memory().await?;
        let full = dir_split::plan_linear(old.data(), dir.ino, name, memory, geo);
        let halves = match full.or_report(self, about)? {
            Full::Pack(_) => return self.pack_block(writable, dir, block).await,
            Full::Split(halves) => halves,
        };
        let plan = || self.plan_fresh_blocks(writable, dir, Lblk(1), 2);
        let fresh = memory::pinned(plan).await?.await?;
        let root = self.plan_edit(block).await?;
        let leaves = [Lblk(1), Lblk(2)];
        let credits = fresh.credits().and(Credits::blocks(1));
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        let index = |edit: &mut InodeEdit<'_>| {
            edit.set_flags(InodeFlags(edit.flags().0 | InodeFlags::INDEX.0));
        };
        fresh.apply(self, &mut tx, dir, index, |tx, blocks| {
            let seal = |block: &mut [u8]| dir_edit::seal(block, &dir.owner, geo);
            let lower = |block: &mut [u8]| {
                halves.lower(old.data(), block, geo)?;
                seal(block)
            };
            let upper = |block: &mut [u8]| {
                halves.upper(old.data(), block, geo)?;
                seal(block)
            };
            let made = edit_fresh(tx, blocks, lower) && edit_fresh(tx, blocks, upper);
            let rooted = tx.edit(root, |block| {
                halves.root(block, dir.ino, leaves, geo)?;
                htree_edit::seal(block, Lblk(0), &dir.owner, geo)
            });
            made && rooted.is_ok()
        });
        Ok(())
    }

    /// Splits the leaf of an index where a name belongs.
    async fn split_leaf(&self, writable: &Writable, dir: &InodeInfo, name: Name<'_>) -> Result {
        let geo = &self.sb.geo;
        let leaf = self.find_leaf(dir, name.bytes()).await?;
        let (old, about) = self.dir_block(dir, leaf.lblk, Holds::Entries, 0).await?;
        let block = about.block.ok_or(EIO)?;
        let memory = self.split_memory().await?;
        let full = dir_split::plan(old.data(), name, leaf.version, memory, geo);
        let halves = match full.or_report(self, about)? {
            Full::Pack(_) => return self.pack_block(writable, dir, block).await,
            Full::Split(halves) => halves,
        };
        let Some(count) = fresh_blocks(&leaf.path, geo) else {
            self.report(&format_args!(
                "inode {}, directory: its index is full",
                dir.ino
            ));
            return Err(ENOSPC);
        };
        let index = self.plan_index(dir, &leaf, &halves).await?;
        let first = Lblk(self.dir_blocks(dir)?);
        let plan = || self.plan_fresh_blocks(writable, dir, first, count);
        let fresh = memory::pinned(plan).await?.await?;
        let lower = self.plan_edit(block).await?;
        let mut credits = fresh.credits();
        credits.blocks += 1 + index.planned.len() as u32;
        let mut tx = writable.journal.begin(&self.cache, credits).await?;
        fresh.apply(
            self,
            &mut tx,
            dir,
            |_| {},
            |tx, blocks| {
                let mut made = edit_fresh(tx, blocks, |block| {
                    halves.upper(old.data(), block, geo)?;
                    dir_edit::seal(block, &dir.owner, geo)
                });
                let cut = tx.edit(lower, |block| {
                    halves.cut(block, geo)?;
                    dir_edit::seal(block, &dir.owner, geo)
                });
                made &= cut.is_ok();
                made & index.apply(tx, blocks, self, dir, first)
            },
        );
        Ok(())
    }

    /// Plans what becomes of the index when a leaf is split.
    async fn plan_index(
        &self,
        dir: &InodeInfo,
        leaf: &Leaf,
        halves: &Halves,
    ) -> Result<IndexEdits> {
        let geo = &self.sb.geo;
        let mut nodes = KVec::new();
        let mut planned = KVec::new();
        memory::room_for(&mut nodes, PATH_MAX).await?;
        memory::room_for(&mut planned, PATH_MAX).await?;
        let mut about = About::inode(dir.ino);
        for at in leaf.path.nodes() {
            let (buf, place) = self.dir_block(dir, at.lblk, Holds::Index, 0).await?;
            about = place;
            let block = place.block.ok_or(EIO)?;
            let node = (at.lblk, buf);
            nodes.push_within_capacity(node).map_err(|_| ENOMEM)?;
            let plan = (at.lblk, self.plan_edit(block).await?);
            planned.push_within_capacity(plan).map_err(|_| ENOMEM)?;
        }
        let mut bytes: [&[u8]; PATH_MAX] = [&[]; PATH_MAX];
        for (slot, (_, buf)) in bytes.iter_mut().zip(nodes.iter()) {
            *slot = buf.data();
        }
        let bytes = bytes.get(..nodes.len()).unwrap_or_default();
        let first = Lblk(self.dir_blocks(dir)?);
        let plan = IndexPlan::new(&leaf.path, bytes, halves.index_hash(), first, geo);
        let plan = plan.or_report(self, about)?;
        Ok(IndexEdits {
            plan,
            nodes,
            planned,
        })
    }
}

/// What becomes of an index.
struct IndexEdits {
    plan: IndexPlan,
    /// The nodes on the way to the leaf as they are, and to be changed.
    nodes: KVec<(Lblk, Buf)>,
    planned: KVec<(Lblk, Planned)>,
}

impl IndexEdits {
    /// Makes the changes. `blocks` are the fresh blocks behind `first`, the new leaf, from the end
    /// on. Returns whether all was as planned.
    fn apply(
        self,
        tx: &mut Transaction<'_>,
        blocks: &mut KVec<Planned>,
        volume: &Ext4,
        dir: &InodeInfo,
        first: Lblk,
    ) -> bool {
        let Self {
            plan,
            nodes,
            mut planned,
        } = self;
        let geo = &volume.sb.geo;
        let mut done = true;
        for edit in plan.edits() {
            let from = nodes.iter().find(|(lblk, _)| Some(*lblk) == edit.from);
            let from = from.map_or(&[][..], |(_, buf)| buf.data());
            // Fresh ones are in their order.
            let block = match edit.block > first {
                true => blocks.pop(),
                false => {
                    let at = planned.iter().position(|(lblk, _)| *lblk == edit.block);
                    at.and_then(|at| planned.remove(at).ok())
                        .map(|(_, planned)| planned)
                }
            };
            let Some(block) = block else {
                return false;
            };
            let edited = tx.edit(block, |block| {
                edit.apply(block, from, geo)?;
                htree_edit::seal(block, edit.block, &dir.owner, geo)
            });
            done &= edited.is_ok();
        }
        done
    }
}

/// Fills the next of some fresh blocks. Returns whether that was done.
fn edit_fresh(
    tx: &mut Transaction<'_>,
    blocks: &mut KVec<Planned>,
    fill: impl FnOnce(&mut [u8]) -> layout::Result<()>,
) -> bool {
    match blocks.pop() {
        Some(block) => tx.edit(block, fill).is_ok(),
        None => false,
    }
}

impl Fresh<'_> {
    /// What [`apply`](Self::apply) takes of the transaction's credits.
    fn credits(&self) -> Credits {
        let mut credits = self.map.credits().and(InodePlan::CREDITS);
        credits.blocks += self.blocks.len() as u32;
        credits
    }

    /// Gives the blocks to the directory, whose inode `change` changes before. `fill` fills them,
    /// and says whether all was as planned. Does not sleep, and does not fail.
    fn apply(
        mut self,
        volume: &Ext4,
        tx: &mut Transaction<'_>,
        dir: &InodeInfo,
        change: impl FnOnce(&mut InodeEdit<'_>),
        fill: impl FnOnce(&mut Transaction<'_>, &mut KVec<Planned>) -> bool,
    ) {
        let mapped = self.map.apply(tx);
        let filled = fill(tx, &mut self.blocks);
        let size = self.size;
        self.inode.apply(volume, tx, dir, |edit| {
            change(edit);
            mapped.put(edit);
            edit.set_size(size);
        });
        // Searches of the map go on.
        drop(mapped);
        if !filled || !self.blocks.is_empty() {
            kernel::warn_on!(true);
        }
    }
}
