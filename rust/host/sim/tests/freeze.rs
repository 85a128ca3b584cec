// SPDX-License-Identifier: GPL-2.0

//! What the disk has while a volume is frozen, and after a recovery by a mount that is read-only:
//! a volume in which e2fsck finds nothing.

use aext4::{Ext4, InodeRef};
use kernel::machine::{self, Rng};
use layout::Ino;
use sim::e2fs::{run, Image, Scratch};
use sim::tree::{ended, mount, new_inode, writable};
use sim::volume::Volume;
use sim::{simulate, Bed};
use simdisk::Store;
use std::sync::{Arc, Mutex};
use upcall::block_on;

const KINDS: [&str; 4] = [
    "-b 4096",
    "-b 1024 -O ^metadata_csum,^64bit -J size=1",
    "-b 1024 -O orphan_file",
    "-b 1024 -O ^has_journal",
];

fn made(volume: &Volume, name: &[u8]) -> InodeRef {
    block_on(async {
        let ext4 = &volume.0;
        let root = ext4.iget(Ino::ROOT).await.expect("the root");
        let made = ext4.create(&root, name, &new_inode(0o100_600)).await;
        let made = made.expect("it is made");
        Ext4::append(ext4, &made, name, true)
            .await
            .expect("it is appended");
        made
    })
    .unwrap()
}

fn sync(volume: &Volume) {
    block_on(volume.0.sync()).unwrap().expect("it syncs");
}

fn freeze(volume: &Volume) {
    block_on(volume.0.freeze()).unwrap().expect("it freezes");
}

fn thaw(volume: &Volume) {
    block_on(volume.0.thaw()).unwrap();
}

fn durable(bed: &Bed) -> Store {
    bed.device.disk().durable().clone()
}

fn needs_recovery(image: &Image) -> bool {
    let (_, said) = run("dumpe2fs", &["-h", image.path().to_str().expect("a path")]);
    said.contains("needs_recovery")
}

#[test]
fn a_frozen_volume_is_as_one_that_was_unmounted() {
    let dir = Scratch::new("freeze");
    for (n, options) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let (frozen, used, end) = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let (mut frozen, mut used) = (Vec::new(), Vec::new());
            for round in 0..3u8 {
                drop(made(&volume, &[b'a' + round; 40]));
                freeze(&volume);
                frozen.push(durable(bed));
                thaw(&volume);
                drop(made(&volume, &[b'n' + round; 40]));
                sync(&volume);
                used.push(durable(bed));
            }
            (frozen, used, ended(bed, &volume))
        });
        for store in frozen.iter().chain([&end]) {
            let image = Image::write(dir.path("frozen"), store);
            assert_eq!(image.is_clean(), Ok(()), "{options}");
            assert!(!needs_recovery(&image), "{options}");
        }
        for (round, store) in used.into_iter().enumerate() {
            let image = Image::write(dir.path("used"), &store);
            assert_eq!(needs_recovery(&image), !options.contains("^has_journal"));
            if options.contains("^has_journal") {
                continue;
            }
            let after = simulate(n as u64, store, |bed| {
                let volume = writable(bed);
                machine::take_log();
                for round in 0..=round as u8 {
                    for letter in [b'a', b'n'] {
                        let name = [letter + round; 40];
                        let file = block_on(volume.path(&name)).unwrap();
                        assert_eq!(file.expect("it is there").size(), 40);
                    }
                }
                ended(bed, &volume)
            });
            let image = Image::write(dir.path("after"), &after);
            assert_eq!(image.is_clean(), Ok(()), "{options}");
        }
    }
}

#[test]
fn power_is_lost_while_a_volume_is_frozen_or_thawed() {
    let dir = Scratch::new("freeze-crash");
    let mut states = 0;
    for n in 0..6u64 {
        let options = KINDS[n as usize % 3];
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let lost = Arc::new(Mutex::new(Vec::<Store>::new()));
        simulate(n, image.store(), |bed| {
            let volume = writable(bed);
            drop(made(&volume, b"before"));
            sync(&volume);
            let (seen, mut rng) = (lost.clone(), Rng::new(n));
            bed.device.observe(move |disk| {
                let all = disk.crash_states(rng.next());
                let stores = all.iter().map(|(_, store)| store);
                // Some of them: a state takes a while.
                let stores = stores.filter(|_| rng.one_in(12));
                seen.lock().unwrap().extend(stores);
            });
            for name in [b"first", b"other"] {
                drop(made(&volume, name));
                freeze(&volume);
                thaw(&volume);
            }
            drop(made(&volume, b"last"));
            sync(&volume);
        });
        for store in core::mem::take(&mut *lost.lock().unwrap()) {
            states += 1;
            let after = simulate(states, store, |bed| {
                let volume = writable(bed);
                machine::take_log();
                let file = block_on(volume.path(b"before")).unwrap();
                assert_eq!(file.expect("it was synced").size(), 6, "{options}");
                ended(bed, &volume)
            });
            if states % 5 == 0 {
                let after = Image::write(dir.path("after"), &after);
                assert_eq!(after.is_clean(), Ok(()), "{options}, state {states}");
            }
        }
    }
    assert!(states > 60, "{states}");
}

#[test]
fn a_mount_that_stays_read_only_finishes_the_recovery() {
    let dir = Scratch::new("freeze-recovery");
    for (n, options) in KINDS[..3].iter().enumerate() {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let used = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            drop(made(&volume, b"kept"));
            let gone = made(&volume, b"gone");
            block_on(async {
                let root = volume.0.iget(Ino::ROOT).await.expect("the root");
                volume.0.unlink(&root, b"gone", &gone).await
            })
            .unwrap()
            .expect("it is removed");
            sync(&volume);
            // It is in use: an orphan.
            let used = durable(bed);
            drop(gone);
            used
        });
        let (after, free) = simulate(n as u64, used, |bed| {
            let volume = mount(bed);
            block_on(Ext4::finish_recovery(&volume.0)).unwrap();
            assert!(volume.0.journal().is_none());
            let lines = machine::take_log();
            let line = "orphans: 1 deleted";
            assert!(lines.iter().any(|l| l.contains(line)), "{lines:#?}");
            let file = block_on(volume.path(b"kept")).unwrap();
            assert_eq!(file.expect("it is there").size(), 4);
            (durable(bed), volume.0.statfs().free_files)
        });
        let after = Image::write(dir.path("after"), &after);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
        let (_, said) = run("dumpe2fs", &["-h", after.path().to_str().expect("a path")]);
        assert!(!said.contains("orphan_present"), "{said}");
        let line = said.lines().find(|line| line.starts_with("Free inodes:"));
        let told = line.and_then(|line| line.split_whitespace().last());
        assert_eq!(told, Some(free.to_string().as_str()), "{options}");
    }
}
