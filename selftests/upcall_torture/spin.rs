// SPDX-License-Identifier: GPL-2.0

//! Tasks that wake themselves for ever, and ordinary ones beside them.
//!
//! A task that is ready comes behind those that were ready before it, and nobody gets past it. So
//! between two turns of a task that stays ready every spinner has one turn, and not two: that is
//! counted, without a clock.

use crate::{each_cpu, replace, stopped, verify, Rng, Stats, Thread};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use upcall::{block_on, sleep, yield_now, Instant, Scope};

pub(crate) struct Spin {
    spinners: u64,
    /// Turns of the spinners.
    turns: Atomic<u64>,
    /// Turns of spinners between two of an ordinary task, at most.
    between: Atomic<u64>,
    ordinary: Atomic<u64>,
    /// From a thread to the executor and back, in microseconds.
    trip: Stats,
    ended: Atomic<u32>,
}

impl Spin {
    pub(crate) fn new(spinners: u32) -> Result<Arc<Self>> {
        Ok(Arc::new(
            Self {
                spinners: spinners.into(),
                turns: Atomic::new(0),
                between: Atomic::new(0),
                ordinary: Atomic::new(0),
                trip: Stats::new(),
                ended: Atomic::new(0),
            },
            GFP_KERNEL,
        )?)
    }

    /// The spinners are to come to an end.
    pub(crate) fn end(&self) {
        self.ended.store(1, Relaxed);
    }

    pub(crate) fn report(&self, long: bool) {
        let between = self.between.load(Relaxed);
        pr_info!(
            "spin: {} spinners had {} turns, at most {between} between two of {} ordinary ones\n",
            self.spinners,
            self.turns.load(Relaxed),
            self.ordinary.load(Relaxed)
        );
        pr_info!(
            "spin: {} trips from a thread to the executor and back, {}/{}/{} us\n",
            self.trip.count(),
            self.trip.min(),
            self.trip.average(),
            self.trip.max()
        );
        verify!(
            between <= self.spinners,
            "spinners got past an ordinary task"
        );
        verify!(
            !long || self.ordinary.load(Relaxed) > 1,
            "ordinary tasks starved"
        );
        verify!(
            !long || self.trip.count() > 1,
            "the executor did not answer a thread"
        );
    }
}

async fn spinner(spin: Arc<Spin>) {
    while spin.ended.load(Relaxed) == 0 {
        spin.turns.fetch_add(1, Relaxed);
        yield_now().await;
    }
}

async fn ordinary(spin: Arc<Spin>, mut rng: Rng) {
    while !stopped() {
        let before = spin.turns.load(Relaxed);
        yield_now().await;
        let between = spin.turns.load(Relaxed) - before;
        replace(&spin.between, between, |most| between > most);
        spin.ordinary.fetch_add(1, Relaxed);
        if rng.below(4) == 0 {
            sleep(rng.micros(1000)).await;
        }
    }
}

pub(crate) fn start(
    spin: &Arc<Spin>,
    scope: &Scope,
    threads: &mut KVec<Thread>,
    rng: &mut Rng,
    spinners: u32,
) -> Result {
    for _ in 0..8 {
        scope.spawn(ordinary(spin.clone(), rng.fork()))?;
    }
    for _ in 0..spinners {
        scope.spawn(spinner(spin.clone()))?;
    }
    each_cpu(|cpu| {
        let (spin, spawner) = (spin.clone(), scope.spawner());
        let thread = Thread::new(cpu, move || {
            while !stopped() {
                let began = Instant::now();
                let Ok(task) = spawner.spawn(async { 1 }) else {
                    // Short of memory, or the scope is over
                    continue;
                };
                let value = block_on(task);
                verify!(value.is_ok(), "a thread may block");
                spin.trip
                    .add(Instant::now().since(began).as_micros() as u64);
            }
        })?;
        Ok(threads.push(thread, GFP_KERNEL)?)
    })
}
