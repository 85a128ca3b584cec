// SPDX-License-Identifier: GPL-2.0

//! [`Index`]: which group has so much, without a look at all of them.

use disk::{vec_with_capacity, Cache};
use kernel::alloc::KVVec;
use kernel::prelude::*;

/// How many values of a level have one above.
const FAN: usize = 64;

/// How many levels there are at most: enough for 2^32 groups.
const LEVELS: usize = 6;

/// A number for each group, and above them the largest of each 64, as often as needed.
///
/// A search looks at a few times 64 numbers, however many groups there are.
pub(super) struct Index {
    levels: [KVVec<u32>; LEVELS],
}

impl Index {
    /// What `value` says of each of `groups` groups.
    pub(super) async fn new(
        cache: &Cache,
        groups: u32,
        mut value: impl FnMut(u32) -> u32,
    ) -> Result<Self> {
        let mut levels = [const { KVVec::new() }; LEVELS];
        let mut values = vec_with_capacity(cache.spawner(), groups as usize).await?;
        for group in 0..groups {
            let value = value(group);
            values.push_within_capacity(value).map_err(|_| ENOMEM)?;
        }
        for level in &mut levels {
            *level = values;
            let len = level.len().div_ceil(FAN);
            values = match level.len() {
                0 | 1 => KVVec::new(),
                _ => vec_with_capacity(cache.spawner(), len).await?,
            };
            while values.len() < values.capacity().min(len) {
                let value = max_at(level, values.len());
                values.push_within_capacity(value).map_err(|_| ENOMEM)?;
            }
        }
        Ok(Self { levels })
    }

    /// The largest number of all.
    pub(super) fn max(&self) -> u32 {
        let top = self.levels.iter().rfind(|level| !level.is_empty());
        top.and_then(|level| level.first()).copied().unwrap_or(0)
    }

    /// Sets the number of a group.
    pub(super) fn set(&mut self, group: u32, value: u32) {
        let (mut at, mut value) = (group as usize, value);
        let mut below: &[u32] = &[];
        for level in &mut self.levels {
            if !below.is_empty() {
                value = max_at(below, at);
            }
            match level.get_mut(at) {
                Some(old) if *old != value => *old = value,
                _ => return,
            }
            below = level;
            at /= FAN;
        }
    }

    /// The first group in `from..end` with a number of at least `least`, which is not 0.
    pub(super) fn next(&self, from: u32, end: u32, least: u32) -> Option<u32> {
        let (mut at, end) = (from as usize, end as usize);
        while at < end {
            let (mut step, mut index) = (1, at);
            for (n, level) in self.levels.iter().enumerate() {
                match level.get(index) {
                    Some(max) if *max < least => {}
                    Some(_) if n == 0 => return u32::try_from(at).ok(),
                    _ => break,
                }
                // All that the number is of has too little.
                step = FAN.pow(n as u32);
                if index % FAN != 0 {
                    break;
                }
                index /= FAN;
            }
            at += step;
        }
        None
    }
}

/// The largest of those numbers of a level that number `at` of the next one is of.
fn max_at(level: &[u32], at: usize) -> u32 {
    let kids = level.get(at * FAN..).unwrap_or(&[]);
    kids.iter().take(FAN).copied().max().unwrap_or(0)
}
