// SPDX-License-Identifier: GPL-2.0

//! What was allocated, and what is to fail.

use super::Rng;
use crate::alloc::{AllocError, Flags};
use std::collections::{BTreeMap, HashMap};

/// Which allocations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// None.
    Never,
    /// The one with this number, counted from 0.
    Nth(u64),
    /// Those from this number on.
    From(u64),
    /// One in so many of those that may not wait.
    Atomic(u64),
    /// All that may not wait, until somebody waits for reclaim: then so many succeed.
    Short(u64),
}

pub(super) struct Memory {
    live: HashMap<usize, (usize, &'static str)>,
    bytes: usize,
    fail: Fail,
    asked: u64,
    failed: u64,
    /// How many that may not wait succeed.
    left: u64,
    rng: Rng,
}

impl Memory {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            live: HashMap::new(),
            bytes: 0,
            fail: Fail::Never,
            asked: 0,
            failed: 0,
            left: 0,
            rng: Rng::new(!seed),
        }
    }

    pub(super) fn fail(&mut self, fail: Fail) {
        (self.fail, self.asked, self.failed) = (fail, 0, 0);
    }

    pub(super) fn reclaimed(&mut self) {
        if let Fail::Short(left) = self.fail {
            self.left = left;
        }
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        (self.asked, self.failed)
    }

    pub(super) fn ask(
        &mut self,
        _size: usize,
        flags: Flags,
        _what: &'static str,
    ) -> Result<(), AllocError> {
        let n = self.asked;
        self.asked += 1;
        let fails = match self.fail {
            Fail::Never => false,
            Fail::Nth(nth) => n == nth,
            Fail::From(first) => n >= first,
            Fail::Atomic(odds) => !flags.may_sleep() && self.rng.one_in(odds),
            Fail::Short(_) if flags.may_sleep() => false,
            Fail::Short(_) => match self.left.checked_sub(1) {
                Some(left) => {
                    self.left = left;
                    false
                }
                None => true,
            },
        };
        self.failed += u64::from(fails);
        if fails {
            Err(AllocError)
        } else {
            Ok(())
        }
    }

    pub(super) fn add(&mut self, place: usize, size: usize, what: &'static str) {
        let old = self.live.insert(place, (size, what));
        assert!(old.is_none(), "{what}: memory that is allocated already");
        self.bytes += size;
    }

    /// Memory that was allocated before the machine was there is not known.
    pub(super) fn remove(&mut self, place: usize) {
        if let Some((size, _)) = self.live.remove(&place) {
            self.bytes -= size;
        }
    }

    pub(super) fn live(&self) -> (usize, usize) {
        (self.live.len(), self.bytes)
    }

    pub(super) fn by_type(&self) -> Vec<(usize, usize, &'static str)> {
        let mut all: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
        for &(size, what) in self.live.values() {
            let entry = all.entry(what).or_default();
            entry.0 += 1;
            entry.1 += size;
        }
        all.into_iter()
            .map(|(name, (n, size))| (n, size, name))
            .collect()
    }
}
