// SPDX-License-Identifier: GPL-2.0

//! All operations go through both adapters, to the other side and back.

use kernel::machine::Config;
use sim::simulate_on;
use sim::stacked::Both;
use simdisk::Store;
use stack::{Background, Blocking, RamFs};
use upcall::block_on;

#[test]
fn all_operations_go_to_the_other_side_and_back() {
    for seed in 0..sim::count("LAYERS_SEEDS", 8) {
        simulate_on(Config::new(seed), Store::zeroes(4096), |bed| {
            block_on(async {
                let there = Blocking(RamFs::new().unwrap());
                let and_back = Background::new(there, bed.scope().spawner()).unwrap();
                let mut both = Both::new(RamFs::new().unwrap(), and_back, seed);
                for _ in 0..200 {
                    both.step().await;
                }
                both.finish().await;
            })
            .unwrap();
        });
    }
}
