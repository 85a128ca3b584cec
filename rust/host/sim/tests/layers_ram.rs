// SPDX-License-Identifier: GPL-2.0

//! A file system in memory does what a volume does, whatever is done.

use kernel::machine::{self, Config, Fail};
use kernel::prelude::*;
use sim::e2fs::{Image, Scratch};
use sim::simulate_on;
use sim::stacked::{dump, Both};
use sim::tree::{ended, writable};
use simdisk::Store;
use stack::{forward, AsyncStackable, Change, Ino, Layer, RamFs};
use upcall::block_on;

#[test]
fn in_memory_and_on_a_volume_all_operations_do_the_same() {
    let dir = Scratch::new("layers-ram");
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..sim::count("LAYERS_SEEDS", 20) {
        let image = Image::make(dir.path("image"), 16 << 20, "-b 4096");
        let store = simulate_on(Config::new(seed), image.store(), |bed| {
            let mounted = writable(bed);
            let volume = volume::Volume::new(mounted.0.clone()).unwrap();
            block_on(async {
                volume.rmdir(volume.root(), b"lost+found").await.unwrap();
                let mut both = Both::new(volume, RamFs::new().unwrap(), seed);
                for _ in 0..sim::count("LAYERS_STEPS", 250) {
                    both.step().await;
                }
                both.finish().await;
                for (what, times) in core::mem::take(&mut both.seen) {
                    *seen.entry(what).or_insert(0) += times;
                }
            })
            .unwrap();
            let store = ended(bed, &mounted);
            assert_eq!(machine::take_log(), Vec::<String>::new());
            store
        });
        let after = Image::write(dir.path("after"), &store);
        after.preen();
    }
    eprintln!("{seen:#?}");
    assert!(seen.len() > 60, "{seen:#?}");
}

/// A layer whose changes find no memory at first. Then nothing was changed, and they are tried
/// again.
struct Short<L>(L);

impl<L: Layer> Layer for Short<L> {
    type Kind = L::Kind;
}

impl<L: AsyncStackable> AsyncStackable for Short<L> {
    forward!(self, self.0; root, lookup, stat, read, readlink, read_dir, getxattr, listxattr, acl, statfs);
    forward!(self, self.0; write_bytes, make_durable, open, tmpfile);

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        let before = dump(&self.0).await?;
        let inodes = self.0.statfs().await?.free_files;
        for count in 0.. {
            machine::fail_allocations(Fail::From(count));
            let done = self.0.change(change.clone()).await;
            machine::fail_allocations(Fail::Never);
            if done != Err(ENOMEM) {
                return done;
            }
            assert_eq!(dump(&self.0).await?, before);
            assert!(self.0.statfs().await?.free_files >= inodes);
        }
        Err(ENOMEM)
    }
}

#[test]
fn in_memory_a_change_without_memory_has_done_nothing() {
    for seed in 0..sim::count("LAYERS_SEEDS", 20) {
        simulate_on(Config::new(seed), Store::zeroes(4096), |_| {
            block_on(async {
                let (one, other) = (RamFs::new().unwrap(), RamFs::new().unwrap());
                let mut both = Both::new(one, Short(other), seed);
                for _ in 0..150 {
                    both.step().await;
                }
                both.finish().await;
            })
            .unwrap();
        });
    }
}
