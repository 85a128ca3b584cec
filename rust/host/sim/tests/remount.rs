// SPDX-License-Identifier: GPL-2.0

//! A volume is made writable, and read-only again, on a disk that fails and loses power.

use aext4::{Ext4, Options};
use kernel::machine::{self, Config, Rng};
use kernel::prelude::*;
use sim::e2fs::{run, Image, Scratch};
use sim::volume::Volume;
use sim::{simulate, simulate_on, Bed};
use simdisk::Store;
use std::sync::{Arc, Mutex};
use upcall::block_on;

const KINDS: [&str; 5] = [
    "-b 4096",
    "-b 1024 -O ^metadata_csum,^64bit",
    "-b 1024 -O ^has_journal",
    "-b 2048 -O ^extent,^metadata_csum,^64bit",
    "-b 1024 -r 0 -O none",
];

fn mount(bed: &Bed) -> Result<Volume> {
    block_on(Volume::mount(bed, Options::default())).expect("no deadlock")
}

fn cycle(bed: &Bed) -> Result {
    let volume = mount(bed)?;
    let written = block_on(Ext4::make_writable(&volume.0)).expect("no deadlock");
    let ended = block_on(volume.0.make_read_only()).expect("no deadlock");
    written.and(ended)
}

/// What dumpe2fs tells of the superblock.
fn field(image: &Image, name: &str) -> String {
    let (_, said) = run("dumpe2fs", &["-h", image.path().to_str().expect("a path")]);
    let line = said.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name}: {said}"));
    let value = line.split_once(':').expect("a value").1;
    value.trim().to_string()
}

#[test]
fn the_disk_says_whether_the_volume_is_in_use() {
    let dir = Scratch::new("remount");
    for (n, options) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let has_journal = field(&image, "Filesystem features").contains("has_journal");
        let count = field(&image, "Mount count");
        let mut store = image.store();
        let mut last = 0;
        for round in 1..4 {
            let (used, done) = simulate((n * 10 + round) as u64, store, |bed| {
                let volume = mount(bed).expect("it mounts");
                let before = volume.0.statfs();
                block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
                assert!(volume.0.journal().is_some());
                // What is free is counted in another way, with the same result.
                let statfs = volume.0.statfs();
                assert_eq!(
                    (statfs.free, statfs.available, statfs.free_files),
                    (before.free, before.available, before.free_files)
                );
                let used = bed.device.disk().durable().clone();
                block_on(volume.0.make_read_only()).unwrap().unwrap();
                assert!(volume.0.journal().is_none());
                (used, bed.device.disk().durable().clone())
            });
            let used = Image::write(dir.path("used"), &used);
            let features = field(&used, "Filesystem features");
            assert_eq!(
                features.contains("needs_recovery"),
                has_journal,
                "{options}"
            );
            let state = field(&used, "Filesystem state");
            assert_eq!(state == "clean", has_journal, "{options}: {state}");
            let done_image = Image::write(dir.path("done"), &done);
            assert!(!field(&done_image, "Filesystem features").contains("needs_recovery"));
            assert_eq!(field(&done_image, "Filesystem state"), "clean", "{options}");
            let counted: u32 = field(&done_image, "Mount count").parse().expect("a number");
            assert_eq!(
                counted,
                count.parse::<u32>().expect("a number") + round as u32
            );
            if has_journal {
                let sequence = field(&done_image, "Journal sequence");
                let sequence = u32::from_str_radix(&sequence[2..], 16).expect("a number");
                let before = core::mem::replace(&mut last, sequence);
                assert!(before < sequence, "{options}: {before}, {sequence}");
            }
            assert_eq!(done_image.is_clean(), Ok(()), "{options}");
            store = done;
        }
    }
}

#[test]
fn a_loss_of_power_between_leaves_a_volume_that_is_clean() {
    let dir = Scratch::new("remount-crash");
    let mut states = 0;
    for n in 0..20 {
        let options = KINDS[n % 2];
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let lost = Arc::new(Mutex::new(Vec::<Store>::new()));
        simulate(n as u64, image.store(), |bed| {
            let (lost, mut rng) = (lost.clone(), Rng::new(n as u64));
            bed.device.observe(move |disk| {
                let all = disk.crash_states(rng.next());
                if disk.counts().writes > 0 {
                    lost.lock()
                        .unwrap()
                        .extend(all.iter().map(|(_, store)| store));
                }
            });
            cycle(bed).expect("it works");
        });
        for store in core::mem::take(&mut *lost.lock().unwrap()) {
            let after = simulate(states, store, |bed| {
                drop(mount(bed).expect("it mounts"));
                machine::take_log();
                bed.device.disk().durable().clone()
            });
            states += 1;
            if states % 5 == 0 {
                let after = Image::write(dir.path("after"), &after);
                assert_eq!(after.is_clean(), Ok(()), "{options}");
            }
        }
    }
    assert!(states > 20, "{states}");
}

/// The sectors of the superblock.
const SUPER: [u64; 2] = [1024, 1536];

/// Notes the states that a loss of power leaves that hits a write of the superblock: one sector is
/// new, and the other old.
fn note_torn(bed: &Bed, noted: Arc<Mutex<Vec<Store>>>) {
    let mut before = bed.device.disk().durable().clone();
    bed.device.observe(move |disk| {
        let now = disk.durable().clone();
        let changed = |pos: &u64| before.get(*pos, 512) != now.get(*pos, 512);
        if SUPER.iter().filter(|pos| changed(pos)).count() == 2 {
            for pos in SUPER {
                let mut torn = before.clone();
                torn.write(pos, &now.get(pos, 512));
                noted.lock().unwrap().push(torn);
            }
        }
        before = now;
    });
}

/// All that is to be seen of a volume that lost power, twice, while its superblock was written: it
/// mounts, it can be written to, and e2fsck is content.
#[test]
fn a_superblock_that_is_written_in_part_is_whole_again() {
    let dir = Scratch::new("remount-torn");
    let mut states = 0;
    for options in ["-b 4096", "-b 1024", "-b 2048 -O ^64bit -J size=4"] {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        // Mounted, and read-only again; then a volume that was in use is recovered.
        let noted = Arc::new(Mutex::new(Vec::new()));
        let used = simulate(1, image.store(), |bed| {
            note_torn(bed, noted.clone());
            let volume = mount(bed).expect("it mounts");
            block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
            let used = bed.device.disk().durable().clone();
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            used
        });
        assert_eq!(noted.lock().unwrap().len(), 4, "{options}");
        simulate(2, used, |bed| {
            note_torn(bed, noted.clone());
            drop(mount(bed).expect("it mounts"));
            machine::take_log();
        });
        assert_eq!(noted.lock().unwrap().len(), 6, "{options}");
        let first = core::mem::take(&mut *noted.lock().unwrap());
        for (n, store) in first.into_iter().enumerate() {
            let again = Arc::new(Mutex::new(Vec::new()));
            let mut ends = vec![simulate(n as u64, store, |bed| {
                note_torn(bed, again.clone());
                cycle(bed).unwrap_or_else(|error| panic!("{options}, state {n}: {error:?}"));
                let lines = machine::take_log();
                let line = "looking for it in the journal";
                assert!(lines.iter().any(|l| l.contains(line)), "{lines:#?}");
                bed.device.disk().durable().clone()
            })];
            for store in core::mem::take(&mut *again.lock().unwrap()) {
                ends.push(simulate(states, store, |bed| {
                    cycle(bed).unwrap_or_else(|error| panic!("{options}, after {n}: {error:?}"));
                    machine::take_log();
                    bed.device.disk().durable().clone()
                }));
                states += 1;
            }
            for end in ends {
                let after = Image::write(dir.path("after"), &end);
                assert_eq!(after.is_clean(), Ok(()), "{options}, state {n}");
            }
        }
    }
    assert!(states >= 60, "{states}");
}

#[test]
fn every_request_failed_in_turn() {
    let dir = Scratch::new("remount-faults");
    let image = Image::make(dir.path("image"), 16 << 20, KINDS[0]);
    let mut failed = 0;
    for nth in 0.. {
        let (result, all, store) = simulate_on(Config::new(nth), image.store(), |bed| {
            bed.device.disk().faults.all.insert(nth);
            let result = cycle(bed);
            machine::settle();
            machine::take_log();
            let disk = bed.device.disk();
            (result, disk.counts().all, disk.durable().clone())
        });
        if all <= nth {
            assert_eq!(result, Ok(()));
            break;
        }
        failed += u64::from(result.is_err());
        // The device is well again.
        let after = simulate(nth, store, |bed| {
            cycle(bed).expect("it works");
            machine::take_log();
            bed.device.disk().durable().clone()
        });
        let after = Image::write(dir.path("after"), &after);
        assert_eq!(after.is_clean(), Ok(()), "request {nth}");
    }
    assert!(failed > 5, "{failed}");
}

#[test]
fn what_cannot_be_written_to_is_refused_by_name() {
    let dir = Scratch::new("remount-refused");
    for (options, name) in [
        ("-b 4096 -O quota", "quota"),
        ("-b 4096 -O bigalloc", "bigalloc"),
        ("-b 4096 -O verity", "verity"),
    ] {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        simulate(0, image.store(), |bed| {
            let volume = mount(bed).expect("it mounts");
            machine::take_log();
            let refused = block_on(Ext4::make_writable(&volume.0)).unwrap();
            assert_eq!(refused, Err(EROFS));
            let lines = machine::take_log();
            assert!(lines.iter().any(|line| line.contains(name)), "{lines:#?}");
            assert_eq!(bed.device.disk().counts().writes, 0);
        });
    }
}
