// SPDX-License-Identifier: GPL-2.0

//! A disk that reorders, tears, fails and loses power.
//!
//! [`SimDisk`] has no clock and no order of its own: whoever drives it says when a request that was
//! [submitted](SimDisk::submit) [completes](SimDisk::complete). [`Device`] drives one by the seed
//! of a [machine](kernel::machine).
//!
//! # What is where
//!
//! A disk has a volatile cache. A write is in the cache from its completion on, and reads see it.
//! It is
//! *durable*, safe from a loss of power, when
//!
//! - it was submitted with FUA, and has completed;
//! - or it had completed before a flush (or a write with PREFLUSH) was submitted that has completed.
//!
//! What a flush guarantees is no more than that: a write that completes while a flush is under way
//! is not durable by it. A write that replaces an older one also does so on the medium: once it is
//! durable, the older one does not come back.
//!
//! When the power goes, any of the writes that are not durable may have reached the medium, also
//! those that have not completed, in any part: sectors are whole, requests are not. Of a write with
//! PREFLUSH nothing is there before what its flush makes durable. A write that failed may be there
//! too, and a flush does not change that. [`SimDisk::crash_states`] lists the states that the
//! medium may then be in.

mod crash;
mod device;
mod store;

pub use crash::{Crash, Crashes};
pub use device::{Device, Latency};
pub use store::Store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The size of what the medium writes whole, in bytes.
pub const SECTOR: u64 = 512;

/// What is asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Bytes come from the disk.
    Read,
    /// Bytes go to the disk.
    Write,
    /// What has completed becomes durable.
    Flush,
    /// The content is needed no more.
    Discard,
    /// Zeroes go to the disk.
    WriteZeroes,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked.
    pub op: Op,
    /// Where it begins, in bytes: a multiple of [`SECTOR`].
    pub pos: u64,
    /// For how many bytes: a multiple of [`SECTOR`].
    pub len: u64,
    /// The bytes to write, if it is a write.
    pub data: Vec<u8>,
    /// Durable when it completes.
    pub fua: bool,
    /// A flush comes before it.
    pub preflush: bool,
}

impl Request {
    /// A read.
    pub fn read(pos: u64, len: u64) -> Self {
        Self {
            op: Op::Read,
            pos,
            len,
            data: Vec::new(),
            fua: false,
            preflush: false,
        }
    }

    /// A write.
    pub fn write(pos: u64, data: Vec<u8>) -> Self {
        Self {
            op: Op::Write,
            len: data.len() as u64,
            data,
            ..Self::read(pos, 0)
        }
    }

    /// A flush.
    pub fn flush() -> Self {
        Self {
            op: Op::Flush,
            ..Self::read(0, 0)
        }
    }

    /// A discard.
    pub fn discard(pos: u64, len: u64) -> Self {
        Self {
            op: Op::Discard,
            ..Self::read(pos, len)
        }
    }

    /// A write of zeroes.
    pub fn write_zeroes(pos: u64, len: u64) -> Self {
        Self {
            op: Op::WriteZeroes,
            ..Self::read(pos, len)
        }
    }

    /// The same, durable when it completes.
    pub fn with_fua(self) -> Self {
        Self { fua: true, ..self }
    }

    /// The same, after a flush.
    pub fn with_preflush(self) -> Self {
        Self {
            preflush: true,
            ..self
        }
    }

    fn changes(&self) -> bool {
        matches!(self.op, Op::Write | Op::Discard | Op::WriteZeroes)
    }
}

/// The number of a request.
pub type Id = u64;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error of the medium.
    Io,
    /// The disk is gone.
    Gone,
    /// It is no request for this disk: out of range, or not aligned.
    Invalid,
}

/// What a discard leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// Zeroes.
    Zeroes,
    /// What was there.
    Old,
    /// Bytes that nobody wrote.
    Garbage,
}

/// What is to go wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The reads that fail, by their number, counted from 0 by when they complete.
    pub reads: BTreeSet<u64>,
    /// The writes that fail.
    pub writes: BTreeSet<u64>,
    /// The flushes that fail, those of PREFLUSH among them.
    pub flushes: BTreeSet<u64>,
    /// The requests that fail, of whatever kind.
    pub all: BTreeSet<u64>,
    /// Sectors that cannot be read until they are written.
    pub bad_sectors: BTreeSet<u64>,
    /// From this request on all fail: the disk is gone.
    pub gone: Option<u64>,
}

/// How many requests of each kind have completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes, of zeroes and discards too.
    pub writes: u64,
    /// Flushes, those of PREFLUSH among them.
    pub flushes: u64,
    /// All.
    pub all: u64,
}

/// What a write puts in a range.
#[derive(Clone, Debug)]
enum Content {
    Bytes(Arc<Vec<u8>>),
    /// The same byte everywhere.
    Fill(u8),
    /// The range stays as it is.
    Nothing,
}

/// A write that is not durable.
#[derive(Clone, Debug)]
struct Write {
    pos: u64,
    len: u64,
    content: Content,
    /// By when it completed, among all; those that have not are later than all that have.
    order: Option<u64>,
    /// Sectors of it that a later write has replaced on the medium.
    replaced: BTreeSet<u64>,
    /// It failed: no flush brings it to the medium, though some of it may be there.
    failed: bool,
    /// What its flush brings to the medium before it.
    after: Vec<Id>,
}

impl Write {
    fn sectors(&self) -> core::ops::Range<u64> {
        self.pos / SECTOR..(self.pos + self.len) / SECTOR
    }

    /// Writes sectors that `which` chooses.
    fn apply(&self, store: &mut Store, which: impl Fn(u64) -> bool) {
        for sector in self.sectors() {
            if !self.replaced.contains(&sector) && which(sector) {
                let skip = (sector * SECTOR - self.pos) as usize;
                match &self.content {
                    Content::Bytes(bytes) => {
                        store.write(sector * SECTOR, &bytes[skip..skip + SECTOR as usize]);
                    }
                    Content::Fill(byte) => {
                        store.write(sector * SECTOR, &[*byte; SECTOR as usize]);
                    }
                    Content::Nothing => {}
                }
            }
        }
    }
}

/// A request that was submitted and has not completed.
struct InFlight {
    request: Request,
    /// The writes that its flush makes durable.
    flushes: Vec<Id>,
}

/// A disk.
pub struct SimDisk {
    /// What survives a loss of power.
    durable: Store,
    /// What reads see.
    current: Store,
    /// By their numbers.
    unflushed: BTreeMap<Id, Write>,
    in_flight: BTreeMap<Id, InFlight>,
    last: Id,
    completions: u64,
    counts: Counts,
    /// What is to go wrong.
    pub faults: Faults,
    /// What a discard leaves.
    pub discarded: Discarded,
}

impl SimDisk {
    /// A disk with this content.
    pub fn new(store: Store) -> Self {
        Self {
            durable: store.clone(),
            current: store,
            unflushed: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            last: 0,
            completions: 0,
            counts: Counts::default(),
            faults: Faults::default(),
            discarded: Discarded::Zeroes,
        }
    }

    /// The size, in bytes.
    pub fn size(&self) -> u64 {
        self.current.size()
    }

    /// What reads see.
    pub fn current(&self) -> &Store {
        &self.current
    }

    /// What survives a loss of power.
    pub fn durable(&self) -> &Store {
        &self.durable
    }

    /// How many requests have completed.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many requests have not completed.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How many writes are not durable.
    pub fn unflushed(&self) -> usize {
        self.unflushed.len()
    }

    /// Takes a request on.
    ///
    /// The bytes to write are those of this moment; the caller is to tell a writer who changes them
    /// before the request completes.
    pub fn submit(&mut self, request: Request) -> Id {
        self.last += 1;
        let id = self.last;
        let flushes = if request.preflush || request.op == Op::Flush {
            // What has completed by now, and no more.
            let done = |write: &Write| write.order.is_some() && !write.failed;
            self.unflushed
                .iter()
                .filter_map(|(id, write)| done(write).then_some(*id))
                .collect()
        } else {
            Vec::new()
        };
        if request.changes() && self.is_valid(&request) {
            let content = match request.op {
                Op::Write => Content::Bytes(Arc::new(request.data.clone())),
                Op::WriteZeroes => Content::Fill(0),
                _ => match self.discarded {
                    Discarded::Zeroes => Content::Fill(0),
                    Discarded::Old => Content::Nothing,
                    Discarded::Garbage => Content::Fill(0xdc),
                },
            };
            self.unflushed.insert(
                id,
                Write {
                    pos: request.pos,
                    len: request.len,
                    content,
                    order: None,
                    replaced: BTreeSet::new(),
                    failed: false,
                    after: flushes.clone(),
                },
            );
        }
        self.in_flight.insert(id, InFlight { request, flushes });
        id
    }

    fn is_valid(&self, request: &Request) -> bool {
        let aligned = request.pos % SECTOR == 0 && request.len % SECTOR == 0;
        let end = request.pos.checked_add(request.len);
        aligned && end.is_some_and(|end| end <= self.size())
    }

    /// The request takes effect, and ends. Gives the bytes of a read.
    ///
    /// Panics if there is no such request.
    pub fn complete(&mut self, id: Id) -> Result<Vec<u8>, Fault> {
        let InFlight { request, flushes } = self
            .in_flight
            .remove(&id)
            .expect("a request that is in flight");
        let valid = self.is_valid(&request);
        let fault = self.fault(&request, !flushes.is_empty() || request.preflush);
        if !valid || fault.is_some() {
            if let Some(write) = self.unflushed.get_mut(&id) {
                // Nobody knows what of it is in the cache: reads see the old, and the medium may
                // get some.
                self.completions += 1;
                write.order = Some(self.completions);
                write.failed = true;
            }
            return Err(if valid {
                fault.unwrap_or(Fault::Io)
            } else {
                Fault::Invalid
            });
        }
        for flushed in flushes {
            self.make_durable(flushed);
        }
        match request.op {
            Op::Read => {
                let mut data = vec![0; request.len as usize];
                self.current.read(request.pos, &mut data);
                return Ok(data);
            }
            Op::Flush => {}
            Op::Write | Op::Discard | Op::WriteZeroes => {
                self.completions += 1;
                if let Some(write) = self.unflushed.get_mut(&id) {
                    write.order = Some(self.completions);
                    write.apply(&mut self.current, |_| true);
                    for sector in write.sectors() {
                        self.faults.bad_sectors.remove(&sector);
                    }
                }
                if request.fua {
                    self.make_durable(id);
                }
            }
        }
        Ok(Vec::new())
    }

    /// Counts a request that completes, and tells whether it is to fail.
    fn fault(&mut self, request: &Request, flushes: bool) -> Option<Fault> {
        let counts = self.counts;
        let faults = &self.faults;
        let mut fails = faults.all.contains(&counts.all);
        self.counts.all += 1;
        if flushes || request.op == Op::Flush {
            self.counts.flushes += 1;
            fails |= faults.flushes.contains(&counts.flushes);
        }
        if request.op == Op::Read {
            self.counts.reads += 1;
            let sectors = request.pos / SECTOR..(request.pos + request.len).div_ceil(SECTOR);
            fails |= faults.reads.contains(&counts.reads);
            fails |= faults.bad_sectors.range(sectors).next().is_some();
        } else if request.changes() {
            self.counts.writes += 1;
            fails |= faults.writes.contains(&counts.writes);
        }
        if faults.gone.is_some_and(|from| counts.all >= from) {
            return Some(Fault::Gone);
        }
        fails.then_some(Fault::Io)
    }

    /// A write reaches the medium. What it replaces does not come back.
    fn make_durable(&mut self, id: Id) {
        let Some(write) = self.unflushed.remove(&id) else {
            return;
        };
        write.apply(&mut self.durable, |_| true);
        let range = write.sectors();
        for older in self.unflushed.values_mut() {
            // One that has not completed may still come after.
            if older.order.is_some_and(|order| Some(order) < write.order) {
                let both = older.sectors();
                let both = both.start.max(range.start)..both.end.min(range.end);
                older.replaced.extend(both);
            }
        }
        self.unflushed
            .retain(|_, older| !older.sectors().all(|s| older.replaced.contains(&s)));
    }
}

#[cfg(test)]
mod tests;
