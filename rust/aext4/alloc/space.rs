// SPDX-License-Identifier: GPL-2.0

//! Space by number: what is kept back, reserved, and promised.
//!
//! A loan is first promised its least, and then made as long as what was found, as far as there is
//! that much. So whoever is told that there is no space is told the truth: nobody has promised more
//! to others than they use.

use super::groups::{Groups, Sums};
use super::{Allocator, Watch};
use kernel::prelude::*;
use kernel::sync::Arc;

/// Out of which space blocks are taken.
pub enum Space<'a> {
    /// What everybody may have.
    User,
    /// What those with privilege may have.
    Root,
    /// What the thread may have that asks: as `User`, and if there is too little and it has the
    /// privilege, as `Root`. Workers of the kernel have it.
    Caller,
    /// All that there is: for what must not fail.
    Must,
    /// What was reserved. It becomes less by what is loaned.
    Reserved(&'a mut Reservation),
}

impl Space<'_> {
    /// What somebody may have, with privilege or without.
    pub fn of(privileged: bool) -> Self {
        match privileged {
            true => Self::Root,
            false => Self::User,
        }
    }
}

/// Blocks that are promised, and not chosen. Given back by drop, in process context.
pub struct Reservation {
    groups: Arc<Groups>,
    count: u64,
}

impl Allocator<'_> {
    /// Reserves `count` blocks out of `space`, which is no other reservation.
    ///
    /// Fails with `ENOSPC`. Process context; does not sleep.
    pub fn reserve(&self, count: u64, space: &Space<'_>) -> Result<Reservation> {
        let floor = self.groups.floor(space);
        self.groups.sums(|sums| match room(sums, floor) >= count {
            true => {
                sums.promised += count;
                Ok(())
            }
            false => Err(ENOSPC),
        })?;
        Ok(Reservation {
            groups: self.groups.clone(),
            count,
        })
    }

    /// As [`reserve`](Self::reserve), after a wait for blocks that were freed.
    ///
    /// Fails with `ENOSPC` if these are too few, too; with the error of the commit.
    ///
    /// # Cancellation
    ///
    /// Nothing is reserved.
    pub async fn reserve_freed(&self, count: u64, space: &Space<'_>) -> Result<Reservation> {
        let mut round = 0;
        loop {
            match self.reserve(count, space) {
                Err(error) if error == ENOSPC && self.released(round).await? => round += 1,
                result => return result,
            }
        }
    }
}

impl Groups {
    /// What is not to be touched, in blocks.
    fn floor(&self, space: &Space<'_>) -> u64 {
        match space {
            Space::User | Space::Caller => self.kept.root.saturating_add(self.kept.must),
            Space::Root => self.kept.must,
            Space::Must => 0,
            Space::Reserved(_) => u64::MAX,
        }
    }
}

/// How many blocks can be promised.
fn room(sums: &Sums, floor: u64) -> u64 {
    sums.usable
        .saturating_sub(sums.promised)
        .saturating_sub(floor)
}

impl Reservation {
    /// How many blocks are left.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds another one to it.
    pub fn merge(&mut self, mut other: Reservation) {
        self.count += core::mem::take(&mut other.count);
    }

    /// Takes `count` blocks off, or all that there are.
    pub fn split(&mut self, count: u64) -> Reservation {
        let count = count.min(self.count);
        self.count -= count;
        Reservation {
            groups: self.groups.clone(),
            count,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.count > 0 {
            self.groups.sums(|sums| sums.promised -= self.count);
        }
    }
}

/// Blocks that somebody will have, whichever they are. Given back by drop.
pub(super) struct Promise<'a, 'b> {
    groups: &'a Groups,
    space: &'a mut Space<'b>,
    count: u64,
}

impl<'a, 'b> Promise<'a, 'b> {
    /// Promises `count` blocks, or fails with `ENOSPC`.
    pub(super) fn new(
        groups: &'a Groups,
        watch: &dyn Watch,
        space: &'a mut Space<'b>,
        count: u32,
    ) -> Result<Self> {
        let mut promise = Self {
            groups,
            space,
            count: 0,
        };
        if promise.grow(count, true) > 0 || count == 0 {
            return Ok(promise);
        }
        if matches!(promise.space, Space::Caller) && watch.may_use_reserve() {
            *promise.space = Space::Root;
            if promise.grow(count, true) > 0 {
                return Ok(promise);
            }
        }
        Err(ENOSPC)
    }

    /// Promises as many of `more` blocks as there are, or all of them or none if `all`. Returns how
    /// many it has. May be called with a shard's lock held.
    pub(super) fn grow(&mut self, more: u32, all: bool) -> u32 {
        let floor = self.groups.floor(self.space);
        let enough = |room: u64| match all && room < more.into() {
            true => 0,
            false => room.min(more.into()),
        };
        let got = match &mut *self.space {
            Space::Reserved(reservation) => {
                let got = enough(reservation.count);
                reservation.count -= got;
                got
            }
            _ => self.groups.sums(|sums| {
                let got = enough(room(sums, floor));
                sums.promised += got;
                got
            }),
        };
        self.count += got;
        u32::try_from(self.count).unwrap_or(u32::MAX)
    }

    /// The blocks are loaned from here on, by who returns this number in `settled`.
    pub(super) fn settle(&mut self) -> u64 {
        core::mem::take(&mut self.count)
    }
}

impl Drop for Promise<'_, '_> {
    fn drop(&mut self) {
        match &mut *self.space {
            Space::Reserved(reservation) => reservation.count += self.count,
            _ if self.count > 0 => self.groups.sums(|sums| sums.promised -= self.count),
            _ => {}
        }
    }
}
