// SPDX-License-Identifier: GPL-2.0

//! The file system under simulation: what its tests have in common.
//!
//! A test runs on a [`machine`] with a disk. [`simulate`] makes both by a seed, and checks when the
//! test is over that nothing was left: no task, no request, no memory, no warning.

pub mod changer;
pub mod e2fs;
pub mod hostile;
pub mod image;
pub mod lives;
pub mod python;
pub mod stacked;
pub mod tree;
pub mod volume;

use kernel::machine::{self, Config, Rng};
use kernel::prelude::*;
use simdisk::{Device, Latency, SimDisk, Store};
use std::future::Future;
use std::task::{Context, Poll};
use upcall::simulation::Runtime;
use upcall::Scope;

/// What a simulated volume is on.
pub struct Bed {
    /// The device.
    pub device: Device,
    /// The volume's scope: it ends before the device goes.
    scope: Option<Scope>,
    runtime: Option<Runtime>,
}

impl Bed {
    /// Makes a runtime, a scope and a device with this content.
    pub fn new(store: Store) -> Result<Self> {
        Self::with_latency(store, Latency::default())
    }

    /// [`new`](Self::new), on a device that is as fast as `latency` says.
    pub fn with_latency(store: Store, latency: Latency) -> Result<Self> {
        let runtime = Runtime::new()?;
        let scope = runtime.scope()?;
        Ok(Self {
            device: Device::new(SimDisk::new(store), latency),
            scope: Some(scope),
            runtime: Some(runtime),
        })
    }

    /// The scope.
    pub fn scope(&self) -> &Scope {
        self.scope.as_ref().expect("a scope that is not over")
    }

    /// The runtime.
    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("a runtime")
    }

    /// The device, as requests of the scope have it.
    pub fn upcall_device(&self) -> Result<upcall::Device> {
        // SAFETY: The scope ends before the device goes.
        unsafe { upcall::Device::new(self.device.bdev(), self.scope()) }
    }

    /// A disk of a volume on the device.
    pub fn disk(&self) -> Result<disk::Disk> {
        let device = self.upcall_device()?;
        let label = disk::Label::new(c"aext4", b"sim");
        Ok(disk::Disk::new(device, self.scope().spawner(), label))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What is left waits for a machine that does not run any more.
            core::mem::forget((self.scope.take(), self.runtime.take(), self.device.clone()));
            return;
        }
        self.scope = None;
        self.runtime = None;
    }
}

/// Runs `f` on a machine with a disk of this content.
pub fn simulate<R>(seed: u64, store: Store, f: impl FnOnce(&Bed) -> R) -> R {
    simulate_on(varied(seed), store, f)
}

/// A machine by this seed, some of which have little memory.
pub fn varied(seed: u64) -> Config {
    let memory = [1 << 30, 1 << 20, 1 << 24][Rng::new(seed).below(3) as usize];
    Config {
        memory,
        ..Config::new(seed)
    }
}

/// [`simulate`], on a machine that is run as `config` says.
pub fn simulate_on<R>(config: Config, store: Store, f: impl FnOnce(&Bed) -> R) -> R {
    machine::run(config, || {
        let bed = Bed::new(store).expect("a test bed");
        let result = f(&bed);
        drop(bed);
        machine::settle();
        let left = machine::live_by_type();
        assert!(left.is_empty(), "memory was left: {left:#?}");
        result
    })
}

/// A future that is dropped at its poll number `polls`, counted from 0, instead of being polled.
/// Its output is `None` if it was.
pub fn dropped_after<F: Future>(polls: usize, future: F) -> DroppedAfter<F> {
    DroppedAfter {
        left: polls,
        future: Some(Box::pin(future)),
    }
}

/// The future of [`dropped_after`].
pub struct DroppedAfter<F> {
    left: usize,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for DroppedAfter<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            self.future = None;
        }
        self.left = self.left.wrapping_sub(1);
        let Some(future) = &mut self.future else {
            return Poll::Ready(None);
        };
        let poll = future.as_mut().poll(cx);
        if poll.is_ready() {
            self.future = None;
        }
        poll.map(Some)
    }
}

/// How many times a test does what it does: `usual`, unless the environment says otherwise.
pub fn count(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(count) => count.parse().expect("a number"),
        Err(_) => usual,
    }
}
