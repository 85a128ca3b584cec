// SPDX-License-Identifier: GPL-2.0

//! A volume whose orphan file has entries is mounted for writing, on a disk that loses power.

use aext4::{Ext4, Options};
use kernel::machine::{self, Rng};
use kernel::prelude::*;
use sim::e2fs::{Image, Scratch};
use sim::simulate;
use sim::volume::Volume;
use simdisk::Store;
use std::sync::{Arc, Mutex};
use upcall::block_on;

const KINDS: [&str; 2] = [
    "-b 1024 -O orphan_file",
    "-b 4096 -O orphan_file,^metadata_csum,^64bit",
];

fn crc32c(seed: u32, data: &[u8]) -> u32 {
    data.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (crc & 1) * 0x82f6_3b78
        })
    })
}

/// What `stat` of debugfs says of a path.
fn stat(image: &Image, path: &str) -> String {
    image.debugfs(&format!("stat {path}\n"))
}

fn number(said: &str, before: &str) -> u32 {
    let rest = said
        .split_once(before)
        .unwrap_or_else(|| panic!("{before}: {said}"))
        .1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// An image with `count` orphans in its file: files that no name leads to, and one that is longer
/// than it says.
fn image(dir: &Scratch, options: &str, count: usize) -> Image {
    let image = Image::make(dir.path("image"), 16 << 20, options);
    let bytes = vec![7; 100_000];
    let content = Image::file(dir, "content", &bytes);
    let mut orphans = Vec::new();
    for n in 0..count {
        image.debugfs(&format!("write {} f{n}\n", content.display()));
        orphans.push(number(&stat(&image, &format!("f{n}")), "Inode: "));
        match n {
            // Truncated, but its blocks are not free yet.
            0 => image.debugfs(&format!("sif f{n} size 5000\n")),
            _ => image.debugfs(&format!("sif f{n} links_count 0\nunlink f{n}\n")),
        };
    }
    image.debugfs("feature orphan_present\n");
    let file = number(
        &image.debugfs("show_super_stats -h\n"),
        "Orphan file inode:",
    );
    let said = stat(&image, &format!("<{file}>"));
    let generation = number(&said, "Generation: ");
    let block = image.blocks(file)[1];
    let size = if options.contains("4096") { 4096 } else { 1024 };
    let mut bytes = image.bytes();
    let uuid: [u8; 16] = bytes[1024 + 0x68..1024 + 0x78].try_into().unwrap();
    let at = block as usize * size;
    for (i, ino) in orphans.iter().enumerate() {
        // Not one behind the other.
        bytes[at + 8 * i + 4..at + 8 * i + 8].copy_from_slice(&ino.to_le_bytes());
    }
    let seed = crc32c(!0, &uuid);
    let seed = crc32c(seed, &file.to_le_bytes());
    let seed = crc32c(seed, &generation.to_le_bytes());
    let seed = crc32c(seed, &block.to_le_bytes());
    let sum = crc32c(seed, &bytes[at..at + size - 8]);
    if !options.contains("^metadata_csum") {
        bytes[at + size - 4..at + size].copy_from_slice(&sum.to_le_bytes());
    }
    std::fs::write(image.path(), &bytes).unwrap();
    image
}

fn judge(dir: &Scratch, store: &Store, options: &str) {
    let after = Image::write(dir.path("after"), store);
    assert_eq!(after.is_clean(), Ok(()), "{options}");
    let features = after.debugfs("features\n");
    assert!(
        !features.contains("orphan_present"),
        "{options}: {features}"
    );
    assert!(features.contains("orphan_file"), "{options}: {features}");
    let left = stat(&after, "f0");
    assert!(left.contains("Size: 5000"), "{left}");
}

#[test]
fn orphans_of_the_file_are_cleaned_up() {
    let dir = Scratch::new("orphan-file");
    for options in KINDS {
        let image = image(&dir, options, 5);
        let (log, store) = simulate(1, image.store(), |bed| {
            let volume = block_on(Volume::mount(bed, Options::default()))
                .unwrap()
                .unwrap();
            block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            (machine::take_log(), bed.device.disk().durable().clone())
        });
        let said = log
            .iter()
            .any(|line| line.contains("orphans: 4 deleted, 1 truncated"));
        assert!(said, "{options}: {log:?}");
        judge(&dir, &store, options);
    }
}

#[test]
fn a_loss_of_power_leaves_orphans_in_the_one_place_or_the_other() {
    let dir = Scratch::new("orphan-file-crash");
    let image = image(&dir, KINDS[0], 4);
    let lost = Arc::new(Mutex::new(Vec::<Store>::new()));
    simulate(2, image.store(), |bed| {
        let (lost, mut rng) = (lost.clone(), Rng::new(2));
        bed.device.observe(move |disk| {
            let states = disk.crash_states(rng.next());
            lost.lock()
                .unwrap()
                .extend(states.iter().map(|(_, store)| store));
        });
        let volume = block_on(Volume::mount(bed, Options::default()))
            .unwrap()
            .unwrap();
        block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
        block_on(volume.0.sync()).unwrap().unwrap();
        block_on(volume.0.make_read_only()).unwrap().unwrap();
    });
    let states = core::mem::take(&mut *lost.lock().unwrap());
    assert!(states.len() > 30, "{}", states.len());
    for (n, store) in states.into_iter().enumerate() {
        let after = simulate(n as u64, store, |bed| {
            let volume = block_on(Volume::mount(bed, Options::default()))
                .unwrap()
                .unwrap();
            let writable = block_on(Ext4::make_writable(&volume.0)).unwrap();
            assert_eq!(writable, Ok(()), "{:?}", machine::take_log());
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            machine::take_log();
            bed.device.disk().durable().clone()
        });
        if n % 10 == 0 {
            judge(&dir, &after, KINDS[0]);
        }
    }
}

#[test]
fn a_file_with_a_wrong_checksum_is_refused() {
    let dir = Scratch::new("orphan-file-damage");
    let image = image(&dir, KINDS[0], 2);
    let mut bytes = image.bytes();
    let said = number(
        &image.debugfs("show_super_stats -h\n"),
        "Orphan file inode:",
    );
    let at = image.blocks(said)[0] as usize * 1024;
    bytes[at] ^= 1;
    std::fs::write(image.path(), &bytes).unwrap();
    simulate(3, image.store(), |bed| {
        let volume = block_on(Volume::mount(bed, Options::default()))
            .unwrap()
            .unwrap();
        let result = block_on(Ext4::make_writable(&volume.0)).unwrap();
        assert_eq!(result, Err(EBADMSG));
        assert!(volume.0.journal().is_none());
        let log = machine::take_log();
        assert!(log.iter().any(|line| line.contains("checksum")), "{log:?}");
    });
}
