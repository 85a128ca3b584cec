// SPDX-License-Identifier: GPL-2.0

//! The device is told which blocks are free, by `FITRIM` and by the option `discard`, while names
//! come and go. What it forgets is garbage: whatever is still in use must not be among it.

use kernel::machine::{self, Rng};
use kernel::prelude::*;
use sim::e2fs::{Image, Scratch};
use sim::tree::{self, new_inode, writable_with};
use sim::volume::Volume;
use sim::{simulate, Bed};
use simdisk::{Discarded, Store};
use upcall::block_on;

fn writable(bed: &Bed, discard: bool) -> Volume {
    match discard {
        true => writable_with(bed, &[("discard", None)]),
        false => tree::writable(bed),
    }
}

/// Makes directories, and deletes them but for every fourth.
async fn churn(volume: &Volume, rng: &mut Rng, round: u32) -> Result {
    let new = new_inode(0o040_755);
    let root = volume.path(b"").await?;
    for n in 0..40 {
        let name = format!("{round}-{n}-{}", "x".repeat(rng.below(200) as usize));
        let dir = volume.0.create(&root, name.as_bytes(), &new).await?;
        if n % 4 != 0 {
            volume.0.rmdir(&root, name.as_bytes(), &dir).await?;
            volume.0.delete(dir).await?;
        }
    }
    Ok(())
}

/// e2fsck finds nothing.
fn judge(dir: &Scratch, store: &Store) {
    let image = Image::write(dir.path("after"), store);
    assert_eq!(image.is_clean(), Ok(()));
}

#[test]
fn only_free_blocks_are_forgotten() {
    let dir = Scratch::new("discard");
    for (n, kind) in ["-b 1024", "-b 4096", "-b 1024 -O ^has_journal"]
        .iter()
        .enumerate()
    {
        for discard in [false, true] {
            let image = Image::make(dir.path("image"), 24 << 20, kind);
            let done = simulate(n as u64, image.store(), |bed| {
                bed.device.disk().discarded = Discarded::Garbage;
                let volume = writable(bed, discard);
                let mut rng = Rng::new(n as u64);
                for round in 0..6 {
                    block_on(churn(&volume, &mut rng, round)).unwrap().unwrap();
                    if !discard {
                        let trimmed = block_on(volume.0.trim(0, u64::MAX, 0)).unwrap().unwrap();
                        assert!(trimmed > 0 || round > 0, "{kind}");
                    }
                    if round % 2 == 1 {
                        block_on(volume.0.sync()).unwrap().unwrap();
                    }
                }
                machine::settle();
                block_on(volume.0.make_read_only()).unwrap().unwrap();
                machine::take_log();
                bed.device.disk().durable().clone()
            });
            judge(&dir, &done);
        }
    }
}

/// What was deleted before a sync is forgotten by the first `FITRIM` behind it, also while the
/// upcall that commits goes on.
#[test]
fn what_a_sync_has_freed_is_forgotten_at_once() {
    let dir = Scratch::new("discard-sync");
    for kind in ["-b 1024 -J size=1", "-b 1024 -O ^has_journal"] {
        let image = Image::make(dir.path("image"), 24 << 20, kind);
        for seed in 0..10 {
            simulate(seed, image.store(), |bed| {
                let volume = tree::writable(bed);
                let mut rng = Rng::new(seed);
                let trim = || block_on(volume.0.trim(0, u64::MAX, 0)).unwrap().unwrap();
                let mut churns = 0..;
                for round in 0..40 {
                    // So that a commit finds that others are being written home.
                    while !rng.one_in(3) {
                        let churned = block_on(churn(&volume, &mut rng, churns.next().unwrap()));
                        churned.unwrap().unwrap();
                        let journal = volume.0.journal().unwrap();
                        let tid = journal.running_tid();
                        block_on(journal.sync(tid)).unwrap().unwrap();
                    }
                    trim();
                    machine::settle();
                    assert_eq!(trim(), 0, "{kind}, seed {seed}, round {round}");
                }
                block_on(volume.0.make_read_only()).unwrap().unwrap();
                machine::take_log();
            });
        }
    }
}

/// Blocks that were freed are forgotten when their transaction is durable, and not before: a loss
/// of power may bring back what used them.
#[test]
fn a_loss_of_power_finds_what_it_needs() {
    let dir = Scratch::new("discard-crash");
    let image = Image::make(dir.path("image"), 24 << 20, "-b 1024");
    let lost = std::sync::Arc::new(std::sync::Mutex::new(Vec::<Store>::new()));
    simulate(7, image.store(), |bed| {
        bed.device.disk().discarded = Discarded::Garbage;
        let volume = writable(bed, true);
        let (lost, mut at) = (lost.clone(), 0);
        bed.device.observe(move |disk| {
            at += 1;
            if at % 23 == 0 {
                lost.lock().unwrap().push(disk.durable().clone());
            }
        });
        let mut rng = Rng::new(7);
        for round in 0..6 {
            block_on(churn(&volume, &mut rng, round)).unwrap().unwrap();
            block_on(volume.0.sync()).unwrap().unwrap();
            machine::settle();
        }
        machine::take_log();
    });
    let lost = core::mem::take(&mut *lost.lock().unwrap());
    assert!(lost.len() > 5, "{}", lost.len());
    for (n, store) in lost.into_iter().enumerate() {
        let after = simulate(n as u64, store, |bed| {
            let volume = writable(bed, false);
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            machine::take_log();
            bed.device.disk().durable().clone()
        });
        judge(&dir, &after);
    }
}
