// SPDX-License-Identifier: GPL-2.0

//! The recovery of logs that e2fsprogs wrote, beside that of e2fsck.

use aext4::Options;
use kernel::machine::{self, Rng};
use kernel::prelude::*;
use sim::e2fs::{Image, Scratch};
use sim::volume::Volume;
use sim::{dropped_after, simulate, Bed};
use simdisk::Store;
use upcall::block_on;

/// An image with a log, and where its blocks are that may differ after a recovery.
struct Case {
    image: Image,
    block_size: usize,
    /// The journal's blocks, of which the recovery uses some for the superblock.
    journal: Vec<u64>,
    /// How many blocks the log has, at least.
    logged: u64,
}

impl Case {
    /// Makes an image and lets debugfs log transactions: each writes and revokes blocks.
    fn make(dir: &Scratch, name: &str, options: &str, open: &str, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let image = Image::make(dir.path(&format!("{name}.img")), 32 << 20, options);
        let block_size = match options.split_whitespace().skip_while(|o| *o != "-b").nth(1) {
            Some(size) => size.parse().expect("a size"),
            None => 4096,
        };
        let blocks = (32 << 20) / block_size as u64;
        // Free blocks, at the end of the volume.
        let first = blocks - 200;
        let mut commands = format!("jo {open}\n");
        let mut logged = 0;
        for transaction in 0..1 + rng.below(12) {
            let count = 1 + rng.below(40);
            logged += count + 2;
            let mut bytes = Vec::new();
            for _ in 0..count {
                let mut block: Vec<u8> = (0..block_size).map(|_| rng.next() as u8).collect();
                if rng.one_in(3) {
                    // What looks like a block of the log's own.
                    block[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
                }
                bytes.extend(block);
            }
            let file = Image::file(dir, &format!("{name}.{transaction}"), &bytes);
            let start = first + rng.below(200 - count);
            let end = start + count - 1;
            commands += &format!("jw -b {start}-{end} {}\n", file.display());
            // debugfs counts revoke blocks in checksums of version 1; the kernel and e2fsck do not.
            if !open.ends_with("-v 1") && rng.one_in(2) {
                let revoked = first + rng.below(190);
                commands += &format!("jw -r {revoked}-{}\n", revoked + rng.below(10));
            }
        }
        let said = image.debugfs(&(commands + "jc\n"));
        assert!(!said.contains("rror"), "{said}");
        let journal = image.blocks(8);
        Self {
            image,
            block_size,
            journal,
            logged,
        }
    }

    /// Blocks that are not the same in both, but for the superblock and the journal.
    fn differences(&self, ours: &Store, theirs: &[u8]) -> Vec<usize> {
        let ours = ours.get(0, theirs.len());
        let super_block = 1024 / self.block_size;
        ours.chunks(self.block_size)
            .zip(theirs.chunks(self.block_size))
            .enumerate()
            .filter(|(n, (a, b))| {
                a != b && *n != super_block && !self.journal.contains(&(*n as u64))
            })
            .map(|(n, _)| n)
            .collect()
    }
}

const KINDS: [(&str, &str, &str); 8] = [
    ("plain", "-b 4096 -O ^metadata_csum,^64bit", ""),
    ("wide", "-b 4096 -O ^metadata_csum,64bit", ""),
    ("small", "-b 1024 -O ^metadata_csum,^64bit", ""),
    ("v1", "-b 1024 -O ^metadata_csum,64bit", "-c -v 1"),
    ("v2", "-b 1024 -O metadata_csum,^64bit", "-c -v 2"),
    ("v2-wide", "-b 4096 -O metadata_csum,64bit", "-c -v 2"),
    ("v3", "-b 2048 -O metadata_csum,64bit", "-c -v 3"),
    ("indirect", "-b 1024 -O ^extent,^64bit,^metadata_csum", ""),
];

fn mount(bed: &Bed) -> Result<Volume> {
    block_on(Volume::mount(bed, Options::default())).expect("no deadlock")
}

/// Mounts what is on the disk, and gives what the disk has then.
fn recovered(seed: u64, store: Store) -> (Store, Result<()>) {
    simulate(seed, store, |bed| {
        let result = mount(bed).map(drop);
        machine::settle();
        let lines = machine::take_log();
        if result.is_ok() {
            assert!(
                lines.iter().any(|line| line.contains("recovery complete")),
                "{lines:#?}"
            );
        }
        assert_eq!(bed.device.disk().in_flight(), 0);
        let store = bed.device.disk().durable().clone();
        (store, result)
    })
}

#[test]
fn logs_of_every_kind_are_replayed_as_e2fsck_does() {
    let dir = Scratch::new("replay-kinds");
    let mut replayed = 0;
    for (name, options, open) in KINDS {
        for seed in 0..6 {
            let name = format!("{name}-{seed}");
            let case = Case::make(&dir, &name, options, open, seed);
            let theirs = case.image.copy(dir.path("theirs.img"));
            let said = theirs.replay();
            assert!(said.contains("recovering journal"), "{said}");
            let (ours, result) = recovered(seed, case.image.store());
            assert_eq!(result, Ok(()), "{name}");
            let changed = case.differences(&case.image.store(), &theirs.bytes());
            replayed += changed.len();
            assert_eq!(case.differences(&ours, &theirs.bytes()), [], "{name}");
            let image = Image::write(dir.path("ours.img"), &ours);
            // Nothing is left to recover, for us or for others.
            let said = image.replay();
            assert!(!said.contains("recovering"), "{name}: {said}");
            let said = image.debugfs("features\n");
            assert!(!said.contains("needs_recovery"), "{name}: {said}");
            simulate(seed, ours, |bed| {
                drop(mount(bed).expect("it mounts"));
                assert_eq!(bed.device.disk().counts().writes, 0);
            });
        }
    }
    assert!(replayed > 1000, "{replayed}");
}

/// After a recovery that was interrupted, by a loss of power or a failure, the next one brings all
/// home.
#[test]
fn an_interrupted_recovery_is_done_again() {
    let dir = Scratch::new("replay-crash");
    let (mut states, mut fewer) = (0, 0);
    for (n, (name, options, open)) in KINDS.iter().enumerate() {
        let case = Case::make(&dir, name, options, open, 100 + n as u64);
        let theirs = case.image.copy(dir.path("theirs.img"));
        theirs.replay();
        let theirs = theirs.bytes();
        let whole = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        simulate(n as u64, case.image.store(), |bed| {
            let states = whole.clone();
            let mut rng = Rng::new(n as u64);
            bed.device.observe(move |disk| {
                if rng.one_in(2) {
                    let all = disk.crash_states(rng.next());
                    let chosen = all.iter().filter(|_| rng.one_in(4));
                    states
                        .lock()
                        .unwrap()
                        .extend(chosen.map(|(_, store)| store));
                }
            });
            drop(mount(bed).expect("it mounts"));
        });
        let stores = core::mem::take(&mut *whole.lock().unwrap());
        for store in stores {
            let before = case.differences(&store, &theirs).len();
            let after = simulate(states, store, |bed| {
                drop(mount(bed).expect("it mounts"));
                machine::settle();
                bed.device.disk().durable().clone()
            });
            assert_eq!(case.differences(&after, &theirs), [], "{name}");
            states += 1;
            fewer += u64::from(before > 0);
        }
    }
    assert!(states > 300 && fewer > 250, "{states} {fewer}");
}

#[test]
fn every_request_of_a_recovery_failed_in_turn() {
    let dir = Scratch::new("replay-faults");
    let case = Case::make(&dir, "v3", KINDS[6].1, KINDS[6].2, 7);
    let theirs = case.image.copy(dir.path("theirs.img"));
    theirs.replay();
    let theirs = theirs.bytes();
    let mut failed = 0;
    for nth in 0.. {
        let (result, store, all) = simulate(nth, case.image.store(), |bed| {
            bed.device.disk().faults.all.insert(nth);
            let result = mount(bed).map(drop);
            machine::settle();
            machine::take_log();
            let disk = bed.device.disk();
            (result, disk.durable().clone(), disk.counts().all)
        });
        if all <= nth {
            break;
        }
        failed += u64::from(result == Err(EIO));
        // What is on the medium now is recovered when the device is well again.
        let after = simulate(nth, store, |bed| {
            drop(mount(bed).expect("it mounts"));
            machine::settle();
            machine::take_log();
            bed.device.disk().durable().clone()
        });
        assert_eq!(case.differences(&after, &theirs), [], "request {nth}");
    }
    assert!(failed > 10, "{failed}");
}

#[test]
fn a_recovery_dropped_at_every_await() {
    let dir = Scratch::new("replay-drop");
    let case = Case::make(&dir, "v3", KINDS[6].1, KINDS[6].2, 8);
    let theirs = case.image.copy(dir.path("theirs.img"));
    theirs.replay();
    let theirs = theirs.bytes();
    for polls in 0.. {
        let (done, store) = simulate(polls, case.image.store(), |bed| {
            let mount = dropped_after(polls as usize, Volume::mount(bed, Options::default()));
            let done = block_on(mount).expect("no deadlock").is_some();
            machine::settle();
            machine::take_log();
            (done, bed.device.disk().current().clone())
        });
        let after = simulate(polls, store, |bed| {
            drop(mount(bed).expect("it mounts"));
            machine::settle();
            machine::take_log();
            bed.device.disk().durable().clone()
        });
        assert_eq!(case.differences(&after, &theirs), [], "poll {polls}");
        if done {
            assert!(polls > 10);
            break;
        }
    }
}

/// What a log says when a byte of it is wrong: it is refused, and nothing is written.
#[test]
fn a_corrupt_log_is_refused_and_nothing_written() {
    let dir = Scratch::new("replay-corrupt");
    let case = Case::make(&dir, "v3", KINDS[6].1, KINDS[6].2, 9);
    let blocks = case.image.blocks(8);
    let mut rng = Rng::new(1);
    let mut refused = 0;
    for seed in 0..300 {
        let mut store = case.image.store();
        // In the first transactions, of which all are complete.
        let block = blocks[(1 + rng.below(case.logged)) as usize];
        let at = block * case.block_size as u64 + rng.below(case.block_size as u64);
        let byte = store.get(at, 1)[0] ^ (1 << rng.below(8));
        let whole = store.get(at - at % 512, 512);
        let mut sector = whole;
        sector[(at % 512) as usize] = byte;
        store.write(at - at % 512, &sector);
        let (writes, result) = simulate(seed, store, |bed| {
            let result = mount(bed).map(drop);
            machine::settle();
            machine::take_log();
            let writes = bed.device.disk().counts().writes;
            (writes, result)
        });
        if let Err(error) = result {
            assert_eq!(writes, 0, "{error:?}");
            refused += 1;
        }
    }
    // The others hit a header, which then ends the log, or bytes that no checksum covers.
    assert!(refused > 150, "{refused}");
}

/// The power went while a descriptor was written to a log that is nearly full: what of its sectors
/// is older announces more blocks than there are. It does not count, and all before it does.
#[test]
fn a_torn_descriptor_at_the_end_of_a_full_log_ends_it() {
    let dir = Scratch::new("replay-full");
    let options = "-b 1024 -J size=1 -O metadata_csum,64bit";
    let image = Image::make(dir.path("full.img"), 16 << 20, options);
    let bytes: Vec<u8> = (0..325 * 1024).map(|n| (n / 7) as u8).collect();
    let file = Image::file(&dir, "blocks", &bytes);
    let mut commands = "jo -c -v 3\n".to_string();
    for first in [15000, 15100, 15200] {
        commands += &format!("jw -b {first}-{} {}\n", first + 324, file.display());
    }
    image.debugfs(&(commands + "jc\n"));
    let theirs = image.copy(dir.path("theirs.img"));
    theirs.replay();
    let mut store = image.store();
    let blocks = image.blocks(8);
    let commit = |block: &u64| {
        let raw = store.get(block * 1024, 12);
        raw.starts_with(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2])
            .then(|| raw[8..].to_vec())
    };
    let (last, tid) = (1..blocks.len())
        .filter_map(|at| Some((at, commit(&blocks[at])?)))
        .next_back()
        .expect("a commit block");
    assert!(last > 960 && last < 1020, "{last}");
    let tid = u32::from_be_bytes(tid.try_into().unwrap()) + 1;
    let mut torn = [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 1].to_vec();
    torn.extend(tid.to_be_bytes());
    // Tags without an end.
    torn.extend([0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0].repeat(64));
    store.write(blocks[last + 1] * 1024, &torn[..1024]);
    let (ours, result) = recovered(0, store);
    assert_eq!(result, Ok(()));
    let at = 15000 * 1024;
    assert!(ours.get(at, 600 * 1024) == theirs.bytes()[at as usize..][..600 * 1024]);
}

#[test]
fn a_device_that_cannot_be_written_is_not_recovered() {
    let dir = Scratch::new("replay-ro");
    let case = Case::make(&dir, "v3", KINDS[6].1, KINDS[6].2, 10);
    simulate(0, case.image.store(), |bed| {
        bed.device.set_read_only();
        assert_eq!(mount(bed).map(drop), Err(EROFS));
        let mut options = Options::default();
        assert_eq!(options.set("norecovery", None), Ok(true));
        let volume = block_on(Volume::mount(bed, options)).expect("no deadlock");
        assert!(volume.is_ok());
        machine::take_log();
    });
}
