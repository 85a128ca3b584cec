// SPDX-License-Identifier: GPL-2.0

//! What a volume counts and shows, and what its superblock is told of it.

use aext4::counters::COUNTERS;
use aext4::{Ext4, Options};
use core::time::Duration;
use kernel::machine;
use layout::Ino;
use sim::e2fs::{run, Image, Scratch};
use sim::simulate;
use sim::tree::new_inode;
use sim::volume::Volume;
use upcall::block_on;

fn shown(volume: &Volume, name: &str) -> String {
    let index = COUNTERS
        .iter()
        .position(|counter| counter.to_str() == Ok(name));
    let mut out = String::new();
    volume
        .0
        .show_counter(index.expect("a counter"), &mut out)
        .unwrap();
    assert_eq!(out.pop(), Some('\n'), "{name}");
    out
}

fn number(volume: &Volume, name: &str) -> u64 {
    let text = shown(volume, name);
    text.parse()
        .unwrap_or_else(|_| panic!("{name} is {text:?}"))
}

/// What dumpe2fs tells of a superblock.
fn field(image: &Image, name: &str) -> Option<String> {
    let (_, said) = run("dumpe2fs", &["-h", image.path().to_str().unwrap()]);
    let line = said.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn create(volume: &Volume, name: &[u8]) {
    block_on(async {
        let root = volume.0.iget(Ino::ROOT).await.unwrap();
        let new = new_inode(0o100_644);
        volume.0.create(&root, name, &new).await.unwrap();
        volume.0.sync().await.unwrap();
    })
    .unwrap();
    machine::settle();
}

fn kbytes(image: &Image) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&image.bytes()[1024 + 0x178..][..8]);
    u64::from_le_bytes(raw)
}

#[test]
fn the_superblock_knows_how_much_was_written() {
    let dir = Scratch::new("counters-written");
    for kind in ["-b 4096", "-b 1024 -O ^has_journal"] {
        let image = Image::make(dir.path("image"), 64 << 20, kind);
        let before = kbytes(&image);
        let (told, at_crash, done, end) = simulate(1, image.store(), |bed| {
            let volume = Volume(
                block_on(Ext4::mount(bed.disk().unwrap(), Options::default(), false))
                    .unwrap()
                    .unwrap(),
            );
            assert_eq!(number(&volume, "session_write_kbytes"), 0);
            assert_eq!(number(&volume, "lifetime_write_kbytes"), before);
            block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
            create(&volume, b"file");
            let file = block_on(volume.path(b"file")).unwrap().unwrap();
            let bytes = vec![7; 1 << 20];
            for at in 0..17u64 {
                block_on(Ext4::write_at(&volume.0, &file, at << 20, &bytes, true))
                    .unwrap()
                    .unwrap();
            }
            create(&volume, b"soon");
            // It is too early for another write of the superblock.
            let early = number(&volume, "lifetime_write_kbytes");
            assert!(early >= before + (17 << 10), "{early}");
            block_on(upcall::sleep(Duration::from_secs(3601))).unwrap();
            create(&volume, b"late");
            block_on(volume.0.sync()).unwrap().unwrap();
            let at_crash = bed.device.disk().durable().clone();
            let session = number(&volume, "session_write_kbytes");
            let lifetime = number(&volume, "lifetime_write_kbytes");
            assert_eq!(lifetime, before + session);
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            let end = number(&volume, "lifetime_write_kbytes");
            (early, at_crash, bed.device.disk().durable().clone(), end)
        });
        // What was told in between is there after a loss of power.
        let recovered = simulate(2, at_crash, |bed| {
            let volume = Volume(
                block_on(Ext4::mount(bed.disk().unwrap(), Options::default(), false))
                    .unwrap()
                    .unwrap(),
            );
            let lifetime = number(&volume, "lifetime_write_kbytes");
            let session = number(&volume, "session_write_kbytes");
            machine::take_log();
            lifetime - session
        });
        assert!(recovered >= told, "{kind}: {recovered} of {told}");
        // At the end it is all but the last writes of the superblock and its copy.
        let after = Image::write(dir.path("after"), &done);
        let last = kbytes(&after);
        assert!(
            last <= end && end - last <= 64,
            "{kind}: {last} instead of {end}"
        );
        assert_eq!(after.is_clean(), Ok(()));
        assert!(field(&after, "Lifetime writes").is_some());
    }
}

#[test]
fn errors_are_shown_as_they_are_found_and_as_they_were_recorded() {
    let dir = Scratch::new("counters-errors");
    let image = Image::make(dir.path("image"), 16 << 20, "-b 4096");
    let file = Image::file(&dir, "content", &[7; 9000]);
    image.debugfs(&format!(
        "write {} bad\nsif bad mode 0170644\n",
        file.display()
    ));
    let all = |volume: &Volume| -> Vec<String> {
        COUNTERS
            .iter()
            .filter(|name| name.to_bytes().windows(5).any(|part| part == b"error"))
            .map(|name| shown(volume, name.to_str().unwrap()))
            .collect()
    };
    let (done, was) = simulate(1, image.store(), |bed| {
        // Also if the superblock cannot be told.
        let volume = block_on(Volume::mount(bed, Options::default()))
            .unwrap()
            .unwrap();
        assert_eq!(number(&volume, "errors_count"), 0);
        assert_eq!(shown(&volume, "first_error_func"), "");
        assert!(block_on(volume.path(b"bad")).unwrap().is_err());
        assert_eq!(number(&volume, "errors_count"), 1);
        assert_eq!(number(&volume, "last_error_ino"), 12);
        block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
        machine::settle();
        for _ in 0..2 {
            assert!(block_on(volume.path(b"bad")).unwrap().is_err());
        }
        assert_eq!(number(&volume, "errors_count"), 3);
        assert_eq!(number(&volume, "first_error_errcode"), 5);
        assert!(shown(&volume, "last_error_func").ends_with(".rs"));
        assert!(number(&volume, "first_error_time") >= 1_700_000_000);
        assert!(number(&volume, "last_error_line") > 0);
        assert_eq!(number(&volume, "last_error_block"), 0);
        assert_eq!(shown(&volume, "journal_task"), "<none>");
        block_on(volume.0.make_read_only()).unwrap().unwrap();
        machine::take_log();
        let durable = bed.device.disk().durable().clone();
        (durable, all(&volume))
    });
    let is = simulate(2, done, |bed| {
        let volume = block_on(Volume::mount(bed, Options::default()))
            .unwrap()
            .unwrap();
        machine::take_log();
        all(&volume)
    });
    assert_eq!(is, was);
}

#[test]
fn what_is_promised_and_kept_is_shown() {
    let dir = Scratch::new("counters-space");
    let image = Image::make(dir.path("image"), 64 << 20, "-b 1024");
    simulate(1, image.store(), |bed| {
        let volume = block_on(Volume::mount(bed, Options::default()))
            .unwrap()
            .unwrap();
        assert_eq!(number(&volume, "delayed_allocation_blocks"), 0);
        // A fiftieth.
        assert_eq!(number(&volume, "reserved_clusters"), 65536 / 50);
        block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
        create(&volume, b"file");
        let file = block_on(volume.path(b"file")).unwrap().unwrap();
        let delayed = block_on(volume.0.write_begin(&file, 0, 10 << 10, true, false));
        delayed.unwrap().unwrap();
        // One more for the map.
        assert_eq!(number(&volume, "delayed_allocation_blocks"), 11);
        block_on(volume.0.write_undo(&file, 0..10 << 10))
            .unwrap()
            .unwrap();
        assert_eq!(number(&volume, "delayed_allocation_blocks"), 0);
        drop(file);
        block_on(volume.0.make_read_only()).unwrap().unwrap();
        machine::take_log();
    });
}
