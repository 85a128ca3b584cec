// SPDX-License-Identifier: GPL-2.0

//! The whole of a volume that is written to: names, contents, attributes, on a disk that loses power
//! again and again. What was synced is there, and all else is as it was after some change.

use kernel::machine::{self, Rng};
use sim::changer::Changer;
use sim::lives::{self, make_writable, may_be, mount, read, record, Kind, Lost, Story, Tree};
use sim::{simulate_on, varied};
use simdisk::Store;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use upcall::block_on;

/// How many changes are made between two losses of power.
const CHANGES: usize = 24;

/// How many of the states that a loss of power may leave are looked at, for each time that is one.
const STATES: usize = 12;

/// What was changed since the last loss of power.
#[derive(Default)]
struct Log {
    /// The tree after each change, what that was, and the tree in words.
    trees: Vec<(Tree, String, String)>,
}

impl Log {
    fn push(&mut self, tree: Tree, what: String) {
        let dump = tree.dump();
        self.trees.push((tree, what, dump));
    }
}

/// How many changes there may be at most, and at least.
#[derive(Clone, Copy, Default)]
struct Bounds {
    begun: usize,
    synced: usize,
}

impl Story for Log {
    type Bounds = Bounds;

    fn live(&mut self, seed: u64, store: Store) -> Vec<Lost<Bounds>> {
        simulate_on(varied(seed), store, |bed| {
            let volume = mount(bed);
            let (tree, _) = block_on(read(&volume)).expect("no deadlock");
            make_writable(&volume);
            machine::take_log();
            let now = Arc::new(Mutex::new(Bounds::default()));
            let lost = record(bed, seed ^ 1, STATES, &now);
            let mut changer = Changer {
                volume: &volume,
                rng: Rng::new(seed ^ 2),
                tree,
                next: (seed % 100_000) as usize * 1000,
            };
            self.trees.clear();
            self.push(changer.tree.clone(), "before".to_string());
            let mut made = 0;
            while made < CHANGES {
                now.lock().unwrap().begun = made + 1;
                let what = block_on(changer.change()).expect("no deadlock");
                if what.is_empty() {
                    continue;
                }
                made += 1;
                self.push(changer.tree.clone(), what);
                if changer.rng.below(4) == 0 {
                    block_on(volume.0.sync()).unwrap().expect("synced");
                    now.lock().unwrap().synced = made;
                }
            }
            block_on(volume.0.sync()).unwrap().expect("synced");
            now.lock().unwrap().synced = made;
            let (got, _) = block_on(read(&volume)).expect("no deadlock");
            assert_eq!(got.dump(), changer.tree.dump());
            block_on(volume.0.make_read_only()).unwrap().expect("ended");
            let lost = core::mem::take(&mut *lost.lock().unwrap());
            lost
        })
    }

    /// After one of the changes the tree is as it is here.
    fn check(&self, got: &Tree, bounds: &Bounds) -> Result<(), String> {
        // The last change that was begun may not have ended.
        let most = bounds.begun.min(self.trees.len() - 1);
        let may = &self.trees[bounds.synced.min(most)..=most];
        let dump = got.dump();
        let mut why = String::new();
        for (tree, ..) in may.iter().filter(|(.., wanted)| *wanted == dump) {
            let wrong = got.paths.iter().find(|(path, id)| {
                let Kind::File(bytes) = &got.nodes[id].kind else {
                    return false;
                };
                // A file by its node: its name may be another's later.
                let node = tree.paths[*path];
                let versions: Vec<&[u8]> = may
                    .iter()
                    .filter_map(|(tree, ..)| match &tree.nodes.get(&node)?.kind {
                        Kind::File(bytes) => Some(&bytes[..]),
                        _ => None,
                    })
                    .collect();
                !may_be(bytes, &versions)
            });
            match wrong {
                None => return Ok(()),
                Some((path, _)) => why = format!("contents of {}", String::from_utf8_lossy(path)),
            }
        }
        let mut out = format!("{why}\n{dump}\nis none of these:\n");
        for (_, what, dump) in may {
            writeln!(out, "{what}:\n{dump}").unwrap();
        }
        Err(out)
    }
}

#[test]
fn a_volume_survives_one_loss_of_power_after_the_other() {
    let runs = sim::count("UPCALL_WHOLE", 130);
    let began = Instant::now();
    let (runs, states) = lives::all::<Log>("whole", runs);
    println!("{states} states in {:?}", began.elapsed());
    assert!(states > 200 * runs, "{states}");
}
