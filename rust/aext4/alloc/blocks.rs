// SPDX-License-Identifier: GPL-2.0

//! [`Loan`]: a run of blocks that somebody is about to use.
//!
//! # Which blocks
//!
//! Right behind the file's last block, if they are free: a short run there makes no more extents
//! than a long one elsewhere. Else the first run that is long enough: from the goal on, in its
//! group, then in the groups that come next and may have one. For each group a length is known that
//! no run exceeds. It is exact once the bitmap was looked at, and grows when something is given
//! back. So most groups without such a run are passed over unread, and after a few that were read
//! in vain the longest run that was seen is taken.
//!
//! A file that grows has a [`Window`] behind its last block, which others leave to it.

use super::goal::Goal;
use super::groups::Groups;
use super::space::{Promise, Space};
use super::taken::{self, Kind, Node};
use super::window::{self, Run, Window, Windows};
use super::{surprised, Allocator, Plans, Which};
use crate::journal::{Credits, Transaction};
use disk::{gfp, vec_with_capacity};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::bitmap::{self, BitRun};
use layout::group_edit::{bitmap_sum, init_block_bitmap};
use layout::{Group, GroupDesc, GroupEdit, Pblk};

/// In how many groups a long run is looked for in vain, beside the goal's.
const TRIES: u32 = 3;

/// How often all groups are gone through, if others are faster.
const ROUNDS: u32 = 16;

/// A run of blocks that nobody else has.
///
/// # Cancellation
///
/// Dropping it gives the blocks back. Process context; does not sleep.
#[must_use = "dropping it gives the blocks back"]
pub struct Loan {
    groups: Arc<Groups>,
    group: Group,
    start: Pblk,
    len: u32,
    plans: Option<Plans>,
}

/// What is looked for in a group.
struct Ask {
    /// The bit where it should be.
    goal: u32,
    /// Whether a run right there is taken, however short.
    behind: bool,
    want: u32,
    min: u32,
    /// How long a run has to be.
    target: u32,
    /// Whether the longest run will do if none is so long.
    any: bool,
    /// How many blocks the window behind it is to have, and how long a run is then.
    room: u32,
    target_room: u32,
}

/// What was found in a group.
enum Found {
    Loan(Loan, Option<Run>),
    /// No run was long enough; this was the longest.
    Longest(u32),
}

/// A block bitmap that was never written, if the group has none.
pub(super) type Made = Option<KVVec<u8>>;

impl Allocator<'_> {
    /// Takes from `min` to `want` blocks, one behind the other in one group.
    ///
    /// Fails with `ENOSPC` if there is no such run, after a wait for blocks that were freed; with
    /// `EINVAL` if `min` is 0 or more than `want`; with `EIO`, `EUCLEAN` or `EBADMSG` if there
    /// might be one in a group whose bitmap cannot be read; with `ENOMEM`.
    ///
    /// # Cancellation
    ///
    /// Nothing is taken.
    pub async fn loan_blocks(
        &self,
        goal: Goal,
        want: u32,
        min: u32,
        space: &mut Space<'_>,
    ) -> Result<Loan> {
        let (loan, _) = self.loan_room(goal, want, min, space, 0).await?;
        Ok(loan)
    }

    /// As [`loan_blocks`](Self::loan_blocks), for a file that may grow: blocks behind its last one
    /// come with a window, which is given with the next call for this file.
    pub async fn loan_growing(
        &self,
        goal: Goal,
        want: u32,
        space: &mut Space<'_>,
        window: &mut Window,
    ) -> Result<Loan> {
        let room = window.next_room(self.groups, goal);
        let (loan, run) = self.loan_room(goal, want, 1, space, room).await?;
        window.open(run);
        Ok(loan)
    }

    async fn loan_room(
        &self,
        goal: Goal,
        want: u32,
        min: u32,
        space: &mut Space<'_>,
        room: u32,
    ) -> Result<(Loan, Option<Run>)> {
        if min == 0 || min > want {
            return Err(EINVAL);
        }
        let mut round = 0;
        loop {
            match self.try_loan(goal, want, min, space, room).await {
                Err(ENOSPC) if self.released(round).await? => round += 1,
                result => {
                    if let Ok((loan, _)) = &result {
                        let (goal, start) = (goal.block.0, loan.start.0);
                        disk::trace::allocate_blocks(self.cache, goal, want, start, loan.len);
                    }
                    return result;
                }
            }
        }
    }

    async fn try_loan(
        &self,
        goal: Goal,
        want: u32,
        min: u32,
        space: &mut Space<'_>,
        room: u32,
    ) -> Result<(Loan, Option<Run>)> {
        let mut promise = Promise::new(self.groups, self.watch, space, min)?;
        let (home, bit) = self.groups.place(goal.block).unwrap_or((Group(0), 0));
        let longest = self.groups.longest();
        let target_blocks = target(want, min, longest);
        let mut ask = Ask {
            goal: bit,
            behind: goal.behind,
            want,
            min,
            target: target_blocks,
            any: false,
            room,
            target_room: target(want.saturating_add(room), min, longest).max(target_blocks),
        };
        let mut failed = None;
        // The longest run that was seen, and where.
        let mut best = (0, home);
        let mut see = |len: u32, group| {
            if len > best.0 {
                best = (len, group);
            }
        };
        match self.look(home, &ask, &mut promise).await {
            Ok(Found::Loan(loan, run)) => return Ok((loan, run)),
            Ok(Found::Longest(len)) => see(len, home),
            Err(error) => failed = Some(passable(error)?),
        }
        ask.behind = false;
        ask.goal = 0;
        let groups = self.geo().groups();
        let (mut done, mut tries) = (1, 0);
        while let Some(group) = self.next(home, done, ask.target).filter(|_| tries < TRIES) {
            match self.look(group, &ask, &mut promise).await {
                Ok(Found::Loan(loan, run)) => return Ok((loan, run)),
                Ok(Found::Longest(len)) => see(len, group),
                Err(error) => failed = Some(passable(error)?),
            }
            done = self.groups.distance(home, group) + 1;
            tries += 1;
        }
        // The longest one that was seen, or the longest of the nearest group that has one.
        ask.target = min;
        ask.any = true;
        if best.0 >= min {
            match self.look(best.1, &ask, &mut promise).await {
                Ok(Found::Loan(loan, run)) => return Ok((loan, run)),
                Ok(Found::Longest(_)) => {}
                Err(error) => failed = Some(passable(error)?),
            }
        }
        for _ in 0..ROUNDS {
            let mut done = 0;
            while done < groups {
                let Some(group) = self.next(home, done, min) else {
                    break;
                };
                match self.look(group, &ask, &mut promise).await {
                    Ok(Found::Loan(loan, run)) => return Ok((loan, run)),
                    Ok(Found::Longest(_)) => {}
                    Err(error) => failed = Some(passable(error)?),
                }
                done = self.groups.distance(home, group) + 1;
            }
            if failed.is_some() || self.groups.longest() < min {
                break;
            }
        }
        Err(failed.unwrap_or(ENOSPC))
    }

    /// The next group after `done` ones from `home` on that may have a run of `least` blocks.
    fn next(&self, home: Group, done: u32, least: u32) -> Option<Group> {
        let left = self.geo().groups().checked_sub(done).filter(|&n| n > 0)?;
        let from = self.groups.behind(home, done);
        self.groups.with_run(from, left, least)
    }

    /// Looks for a run in a group.
    async fn look(&self, group: Group, ask: &Ask, promise: &mut Promise<'_, '_>) -> Result<Found> {
        let state = self.groups.state(group).ok_or(EINVAL)?;
        if state.longest() < ask.min {
            // It need not be read.
            return Ok(Found::Longest(0));
        }
        let plans = self.plan(group, Which::Blocks).await?;
        let made = match state.has(GroupDesc::BLOCK_UNINIT) {
            true => self.made(group).await?,
            false => None,
        };
        let node = self.groups.node().await?;
        let memory = match ask.room {
            0 => None,
            _ => Some(self.groups.window_memory().await?),
        };
        self.choose(group, ask, promise, plans, made, (node, memory))
    }

    /// The bitmap that a group would have that has none.
    pub(super) async fn made(&self, group: Group) -> Result<Made> {
        let state = self.groups.state(group).ok_or(EINVAL)?;
        if !state.has(GroupDesc::BLOCK_UNINIT) {
            return Ok(None);
        }
        let size = self.cache.block_size() as usize;
        let mut made = vec_with_capacity(self.cache.spawner(), size).await?;
        made.extend_with(size, 0, gfp())?;
        let desc = self.groups.desc(group).ok_or(EINVAL)?;
        let free = init_block_bitmap(&mut made, desc, self.geo());
        // Somebody else may have written the bitmap meanwhile, and taken something.
        let said = self.groups.state(group).ok_or(EINVAL)?;
        if said.has(GroupDesc::BLOCK_UNINIT) && free != Some(said.free) {
            self.set_bad(group, Which::Blocks);
            return Err(self.damaged(&format_args!(
                "group {group}: it has no bitmap yet, and {} of its blocks are free, not {}",
                free.unwrap_or(0),
                said.free
            )));
        }
        Ok(Some(made))
    }

    /// Chooses a run, and takes it. The memory is for it, and for the window behind it.
    fn choose(
        &self,
        group: Group,
        ask: &Ask,
        promise: &mut Promise<'_, '_>,
        plans: Plans,
        made: Made,
        (node, memory): (Node, Option<window::Memory>),
    ) -> Result<Found> {
        let geo = self.geo();
        let first = geo.group_first_block(group);
        let count = geo.group_clusters(group);
        let mut plans = Some(plans);
        let mut system = None;
        let chosen = self.groups.with(group, |view| {
            if view.state.bad_blocks {
                return Err(0);
            }
            // The version that is there now, since changes are made under this lock.
            let buf = plans.as_ref().and_then(|plans| plans.bitmap.buf());
            let bits = match (&made, &buf) {
                (Some(made), _) if view.state.has(GroupDesc::BLOCK_UNINIT) => &made[..],
                (_, Some(buf)) => buf.data(),
                _ => &[],
            };
            let blocks = &mut *view.blocks;
            let windows = &*view.windows;
            let longest = view.state.longest();
            // Whoever begins at the group's first block passes over what is in use only once.
            let least = taken::next_run(bits, blocks, first.0, view.state.first, count, 1);
            view.state.first = least.map_or(count, |run| run.start);
            let least = view.state.first;
            let found = search(ask, longest, windows, |ask, windows| {
                // More than is wanted is not looked at: most runs are as long as the group.
                let most = ask.want.max(ask.min);
                find(ask, least, count, |from, end| match windows {
                    Some(windows) => windows.next_run(bits, blocks, first.0, from, end, most),
                    None => taken::next_run(bits, blocks, first.0, from, end, most),
                })
            });
            let mut run = match found {
                Ok(run) => run,
                Err(longest) => {
                    view.state.bound = longest;
                    return Err(longest);
                }
            };
            if self
                .watch
                .is_system_block(Pblk(first.0 + u64::from(run.start)), run.len)
            {
                system = Some(run);
                view.state.bad_blocks = true;
                return Err(0);
            }
            let whole = run.len;
            run.len = whole.min(ask.want);
            run.len = promise.grow(run.len.saturating_sub(ask.min), false);
            view.settled = promise.settle();
            let start = first.0 + u64::from(run.start);
            taken::insert(view.blocks, node, start, run.len, Kind::Loaned);
            view.state.loaned += run.len;
            let room = whole.saturating_sub(run.len).min(ask.room);
            let behind = start + u64::from(run.len);
            let mut opened = (None, window::Freed::default());
            if let Some(memory) = memory.filter(|_| room > 0) {
                let last = behind + u64::from(room) - 1;
                opened = (
                    Some((behind, last)),
                    view.windows.insert(memory, behind, last),
                );
            }
            Ok((run, opened))
        });
        if let Some(run) = system {
            return Err(self.damaged(&format_args!(
                "group {group}: of {} blocks from {} on, which are free by the bitmap, some are metadata",
                run.len,
                first.0 + u64::from(run.start)
            )));
        }
        match chosen.ok_or(EINVAL)? {
            Ok((run, (window, freed))) => {
                for memory in freed {
                    self.groups.keep_window(memory);
                }
                let window = window.map(|(start, last)| Run { group, start, last });
                let loan = Loan {
                    groups: self.groups.clone(),
                    group,
                    start: Pblk(first.0 + u64::from(run.start)),
                    len: run.len,
                    plans: plans.take(),
                };
                Ok(Found::Loan(loan, window))
            }
            Err(longest) => Ok(Found::Longest(longest)),
        }
    }

    /// Takes the first `len` blocks off a loan, as one of its own.
    ///
    /// Fails with `EINVAL` unless both have blocks, and as [`loan_blocks`](Self::loan_blocks) does,
    /// but not for space.
    ///
    /// # Cancellation
    ///
    /// The loan stays as it is.
    pub async fn split(&self, loan: &mut Loan, len: u32) -> Result<Loan> {
        if len == 0 || len >= loan.len {
            return Err(EINVAL);
        }
        let plans = self.plan(loan.group, Which::Blocks).await?;
        let node = self.groups.node().await?;
        let front = Loan {
            groups: loan.groups.clone(),
            group: loan.group,
            start: loan.start,
            len,
            plans: Some(plans),
        };
        let last = loan.start.0 + u64::from(loan.len) - 1;
        loan.start.0 += u64::from(len);
        loan.len -= len;
        self.groups.with(loan.group, |view| {
            if let Some(rest) = view.blocks.get_mut(&last) {
                rest.start = loan.start.0;
            }
            taken::insert(view.blocks, node, front.start.0, len, Kind::Loaned);
        });
        Ok(front)
    }
}

/// How long a run has to be: as long as wanted, or as any group may have.
fn target(want: u32, min: u32, longest: u32) -> u32 {
    if want <= longest {
        return want;
    }
    // The longest of all may be far away: half of it will do.
    let power = longest.checked_ilog2().map_or(1, |bits| 1 << bits);
    min.max(power)
}

/// Finds a run by `find`: one with room for a window, or one outside of others' windows, or any. Or
/// says how long the longest is. None in the group is longer than `longest`.
fn search(
    ask: &Ask,
    longest: u32,
    windows: &Windows,
    mut find: impl FnMut(&Ask, Option<&Windows>) -> core::result::Result<BitRun, u32>,
) -> core::result::Result<BitRun, u32> {
    let windows = Some(windows).filter(|windows| !windows.is_empty());
    if ask.room > 0 && ask.target_room <= longest {
        let with_room = Ask {
            want: ask.want.saturating_add(ask.room),
            target: ask.target_room,
            any: false,
            ..*ask
        };
        if let Ok(run) = find(&with_room, windows) {
            return Ok(run);
        }
    }
    if windows.is_some() {
        if let Ok(run) = find(ask, windows) {
            return Ok(run);
        }
    }
    find(ask, None)
}

/// Finds a run of bits in `least..count`, or says how long the longest is.
fn find(
    ask: &Ask,
    least: u32,
    count: u32,
    mut next: impl FnMut(u32, u32) -> Option<BitRun>,
) -> core::result::Result<BitRun, u32> {
    let take = |run: BitRun| {
        Ok(BitRun {
            start: run.start,
            len: run.len.min(ask.want),
        })
    };
    let goal = if ask.goal < count { ask.goal } else { 0 };
    let goal = goal.max(least);
    let mut longest: Option<BitRun> = None;
    let mut at = goal;
    // From the goal on, and then all those that begin before it.
    for end in [count, goal] {
        while let Some(run) = next(at, count).filter(|run| run.start < end) {
            let here = ask.behind && run.start == ask.goal && run.len >= ask.min;
            if here || run.len >= ask.target {
                return take(run);
            }
            if longest.is_none_or(|longest| run.len > longest.len) {
                longest = Some(run);
            }
            at = run.end();
        }
        at = least;
    }
    match longest {
        Some(run) if ask.any && run.len >= ask.min => take(run),
        longest => Err(longest.map_or(0, |run| run.len)),
    }
}

/// An error of one group, which is no reason not to look at others.
pub(super) fn passable(error: Error) -> Result<Error> {
    match error == ENOMEM || error == ESHUTDOWN {
        true => Err(error),
        false => Ok(error),
    }
}

impl Loan {
    /// A run that was taken, by its group's lock.
    pub(super) fn new(
        groups: Arc<Groups>,
        group: Group,
        start: Pblk,
        len: u32,
        plans: Plans,
    ) -> Self {
        Self {
            groups,
            group,
            start,
            len,
            plans: Some(plans),
        }
    }

    /// The first block.
    pub fn start(&self) -> Pblk {
        self.start
    }

    /// How many blocks there are; at least 1.
    #[allow(clippy::len_without_is_empty)] // There is none without blocks.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Nobody else gets the blocks as long as the volume is there, and they stay free on the disk:
    /// the device may still write to them.
    pub fn abandon(mut self) {
        self.plans = None;
    }

    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub const CREDITS: Credits = Credits::blocks(2);

    /// The blocks are in use from here on. Does not sleep, and does not fail.
    pub fn apply(mut self, tx: &mut Transaction<'_>) {
        let Some(Plans {
            bitmap: plan,
            desc: plan_desc,
        }) = self.plans.take()
        else {
            return;
        };
        let (group, start, len) = (self.group, self.start, self.len);
        let geo = &self.groups.geo;
        let first = geo.group_first_block(group).0;
        let offset = geo.desc_location(group).map_or(0, |(_, offset)| offset);
        let desc = self.groups.desc(group);
        let removed = self.groups.with(group, |view| {
            let uninit = view.state.has(GroupDesc::BLOCK_UNINIT);
            let bit = u32::try_from(start.0 - first).unwrap_or(u32::MAX);
            let (was_free, sum) = tx.edit(plan, |bits| {
                if let Some(desc) = desc.filter(|_| uninit) {
                    let _ = init_block_bitmap(bits, desc, geo);
                }
                let was_free = bitmap::set_range(bits, bit, len).is_ok();
                (was_free, bitmap_sum(bits, geo.clusters_per_group(), geo))
            });
            view.state.flags &= !GroupDesc::BLOCK_UNINIT;
            view.state.free = view.state.free.saturating_sub(len);
            view.state.loaned = view.state.loaned.saturating_sub(len);
            let flags = view.state.flags;
            let counted = tx.edit(plan_desc, |block| {
                let raw = block.get_mut(offset as usize..)?;
                let mut edit = GroupEdit::new(raw, group, geo)?;
                edit.take_clusters(len)?;
                if uninit {
                    edit.set_flags(flags);
                }
                edit.seal_sums(sum, None)
            });
            if !was_free || counted.is_none() {
                surprised();
            }
            taken::remove(view.blocks, start.0, len)
        });
        self.groups.keep(removed.flatten());
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(plans) = self.plans.take() else {
            return;
        };
        let first = self.groups.geo.group_first_block(self.group).0;
        let bit = u32::try_from(self.start.0.saturating_sub(first)).unwrap_or(0);
        let removed = self.groups.with(self.group, |view| {
            view.state.loaned = view.state.loaned.saturating_sub(self.len);
            view.state.give_back(bit, self.len);
            taken::remove(view.blocks, self.start.0, self.len)
        });
        self.groups.keep(removed.flatten());
        drop(plans);
    }
}
