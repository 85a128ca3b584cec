// SPDX-License-Identifier: GPL-2.0

//! What may be on the medium when the power goes.

use crate::{Id, SimDisk, Store, Write};
use kernel::machine::Rng;

/// Up to so many writes all their subsets are listed.
const ALL_SUBSETS: usize = 12;

/// How many random states there are for more writes.
const RANDOM: usize = 200;

/// Of the subsets of few writes, how many are listed with torn writes too.
const TORN: usize = 64;

/// What of one write has reached the medium.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    All,
    /// The first sectors, so many.
    First(u64),
    /// All but the first sectors, so many.
    Last(u64),
    /// Each with probability one half.
    Some(u64),
}

/// A state that the medium may be in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crash {
    parts: Vec<(Id, Part)>,
}

impl Crash {
    /// How many of the writes have reached the medium, at least in part.
    pub fn writes(&self) -> usize {
        self.parts.len()
    }
}

/// The states that the medium may be in.
pub struct Crashes {
    durable: Store,
    /// In the order in which they reach the medium.
    writes: Vec<(Id, Write)>,
    states: Vec<Crash>,
}

impl Crashes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there is none, which is never.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The states, and the contents of the medium in them.
    pub fn iter(&self) -> impl Iterator<Item = (&Crash, Store)> {
        self.states.iter().map(|crash| (crash, self.store(crash)))
    }

    /// The content of the medium in a state.
    pub fn store(&self, crash: &Crash) -> Store {
        let mut store = self.durable.clone();
        for (id, write) in &self.writes {
            let Some((_, part)) = crash.parts.iter().find(|(other, _)| other == id) else {
                continue;
            };
            let first = write.sectors().start;
            match part {
                Part::All => write.apply(&mut store, |_| true),
                Part::First(n) => write.apply(&mut store, |sector| sector < first + n),
                Part::Last(n) => write.apply(&mut store, |sector| sector >= first + n),
                Part::Some(seed) => write.apply(&mut store, |sector| {
                    Rng::new(seed.wrapping_add(sector)).one_in(2)
                }),
            }
        }
        store
    }
}

impl SimDisk {
    /// The states that the medium may be in when the power goes now.
    ///
    /// With up to 12 writes that are not durable these are all their subsets, with whole writes,
    /// and some of them with torn ones. With more: none, all, each one missing, each one alone,
    /// each prefix in the order of completion, and 200 random ones, by `seed`, with torn writes.
    pub fn crash_states(&self, seed: u64) -> Crashes {
        let mut writes: Vec<(Id, Write)> = self
            .unflushed
            .iter()
            .map(|(id, write)| (*id, write.clone()))
            .collect();
        writes.sort_by_key(|(id, write)| (write.order.unwrap_or(u64::MAX), *id));
        let mut rng = Rng::new(seed);
        let mut states = Vec::new();
        let n = writes.len();
        let whole = |which: &dyn Fn(usize) -> bool| Crash {
            parts: (0..n)
                .filter(|&i| which(i))
                .map(|i| (writes[i].0, Part::All))
                .collect(),
        };
        if n <= ALL_SUBSETS {
            for mask in 0..1u32 << n {
                states.push(whole(&|i| mask & 1 << i != 0));
            }
            for _ in 0..TORN {
                let mask = rng.next();
                let mut crash = whole(&|i| mask & 1 << i != 0);
                if tear(&mut crash, &writes, &mut rng, 1) {
                    states.push(crash);
                }
            }
        } else {
            states.push(whole(&|_| false));
            states.push(whole(&|_| true));
            for one in 0..n {
                states.push(whole(&|i| i != one));
                states.push(whole(&|i| i == one));
                if one > 1 {
                    states.push(whole(&|i| i < one));
                }
            }
            for _ in 0..RANDOM {
                let odds = 1 + rng.below(7);
                let chosen: Vec<bool> = (0..n).map(|_| rng.below(8) < odds).collect();
                let mut crash = whole(&|i| chosen[i]);
                tear(&mut crash, &writes, &mut rng, 3);
                states.push(crash);
            }
        }
        for crash in &mut states {
            flushes_first(crash, &writes);
        }
        states.sort();
        states.dedup();
        Crashes {
            durable: self.durable.clone(),
            writes,
            states,
        }
    }
}

/// Tears one in `odds` of the writes of more than one sector, and tells whether there was one.
fn tear(crash: &mut Crash, writes: &[(Id, Write)], rng: &mut Rng, odds: u64) -> bool {
    let mut torn = false;
    for (id, part) in &mut crash.parts {
        let write = writes.iter().find(|(other, _)| other == id);
        let sectors = write.map_or(0, |(_, write)| write.len / crate::SECTOR);
        if sectors > 1 && rng.one_in(odds) {
            torn = true;
            *part = match rng.below(3) {
                0 => Part::First(1 + rng.below(sectors - 1)),
                1 => Part::Last(1 + rng.below(sectors - 1)),
                _ => Part::Some(rng.next()),
            };
        }
    }
    torn
}

/// Adds, whole, what the flushes of the writes with PREFLUSH have made durable before.
fn flushes_first(crash: &mut Crash, writes: &[(Id, Write)]) {
    let mut next = 0;
    while next < crash.parts.len() {
        let id = crash.parts[next].0;
        let write = writes.iter().find(|(other, _)| *other == id);
        for before in write.map_or(&[][..], |(_, write)| &write.after) {
            if !writes.iter().any(|(other, _)| other == before) {
                continue;
            }
            match crash.parts.iter_mut().find(|(other, _)| other == before) {
                Some((_, part)) => *part = Part::All,
                None => crash.parts.push((*before, Part::All)),
            }
        }
        next += 1;
    }
    crash.parts.sort();
}

#[cfg(test)]
impl Crashes {
    pub(crate) fn states_for_test(&self) -> Vec<Crash> {
        self.states.clone()
    }
}
