// SPDX-License-Identifier: GPL-2.0

//! Errors that a writer meets: what the superblock and the journal say of them, what a mount does
//! with that, and that e2fsck finds and clears it.

use aext4::{Ext4, NewInode, Options};
use kernel::machine::{self, Config};
use kernel::prelude::*;
use sim::e2fs::{run, Image, Scratch};
use sim::volume::Volume;
use sim::{simulate, simulate_on, Bed};
use simdisk::Store;
use upcall::block_on;

const KINDS: [&str; 3] = [
    "-b 4096",
    "-b 1024 -O ^metadata_csum,^64bit",
    "-b 1024 -O ^has_journal",
];

fn options(set: &[(&str, &str)]) -> Options {
    let mut options = Options::default();
    for (key, value) in set {
        let value = Some(*value).filter(|value| !value.is_empty());
        assert_eq!(options.set(key, value), Ok(true));
    }
    options
}

fn mount(bed: &Bed, set: &[(&str, &str)]) -> Volume {
    block_on(Volume::mount(bed, options(set))).unwrap().unwrap()
}

fn writable(bed: &Bed, set: &[(&str, &str)]) -> Volume {
    let volume = mount(bed, set);
    block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
    volume
}

fn create(volume: &Volume, name: &str) -> Result {
    block_on(async {
        let root = volume.path(b"").await?;
        let new = NewInode {
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            device: None,
            xattrs: &[],
        };
        volume.0.create(&root, name.as_bytes(), &new).await?;
        Ok(())
    })
    .unwrap()
}

fn shown(volume: &Volume) -> String {
    let mut out = String::new();
    volume.0.show_options(&mut out).unwrap();
    out
}

fn end(volume: &Volume) -> Result {
    block_on(volume.0.make_read_only()).unwrap()
}

fn durable(bed: &Bed) -> Store {
    bed.device.disk().durable().clone()
}

/// What dumpe2fs tells, if it does.
fn field(image: &Image, name: &str) -> Option<String> {
    let (_, said) = run("dumpe2fs", &["-h", image.path().to_str().unwrap()]);
    let line = said.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// An image with a file whose inode is damaged: its map leads nowhere.
fn damaged(dir: &Scratch, kind: &str) -> Image {
    let image = Image::make(dir.path("image"), 16 << 20, kind);
    let file = Image::file(dir, "content", &[7; 9000]);
    image.debugfs(&format!(
        "write {} bad\nsif bad mode 0170644\n",
        file.display()
    ));
    image
}

/// e2fsck finds what was recorded, repairs and forgets it.
fn repaired(image: &Image, kind: &str) {
    let (status, said) = run("e2fsck", &["-fy", image.path().to_str().unwrap()]);
    assert!(status <= 1, "{kind}: {said}");
    assert_eq!(field(image, "FS Error count"), None, "{kind}");
    assert_eq!(field(image, "First error time"), None, "{kind}");
    assert_eq!(field(image, "Filesystem state").unwrap(), "clean", "{kind}");
    assert_eq!(image.is_clean(), Ok(()), "{kind}");
}

#[test]
fn damage_is_counted_and_writing_goes_on() {
    let dir = Scratch::new("errors-continue");
    for kind in KINDS {
        let image = damaged(&dir, kind);
        let (used, done) = simulate(1, image.store(), |bed| {
            let volume = writable(bed, &[]);
            for _ in 0..3 {
                let found = block_on(volume.path(b"bad")).unwrap().err().unwrap();
                assert_eq!(found.to_errno(), -117);
            }
            create(&volume, "new").expect("writing goes on");
            assert_eq!(shown(&volume), "");
            machine::settle();
            block_on(volume.0.sync()).unwrap().unwrap();
            let used = durable(bed);
            assert_eq!(volume.0.error_counts().count, 3);
            end(&volume).unwrap();
            machine::take_log();
            (used, durable(bed))
        });
        // Without an orderly end the journal has it.
        let recovered = simulate(2, used, |bed| {
            drop(mount(bed, &[]));
            let lines = machine::take_log();
            let line = "error count since last fsck: 3";
            assert!(lines.iter().any(|l| l.contains(line)), "{lines:#?}");
            durable(bed)
        });
        for store in [done, recovered] {
            let image = Image::write(dir.path("after"), &store);
            assert_eq!(
                field(&image, "FS Error count").as_deref(),
                Some("3"),
                "{kind}"
            );
            let state = field(&image, "Filesystem state").unwrap();
            assert!(state.ends_with("with errors"), "{kind}: {state}");
            for which in ["First", "Last"] {
                let what = |name: &str| field(&image, &format!("{which} error {name}")).unwrap();
                assert!(what("function").ends_with(".rs"), "{}", what("function"));
                assert!(what("line #").parse::<u32>().unwrap() > 100);
                assert_eq!(what("inode #"), "12");
                assert_eq!(what("err"), "EFSCORRUPTED");
                assert!(what("time").contains("2023"), "{}", what("time"));
            }
            repaired(&image, kind);
        }
    }
}

#[test]
fn errors_remount_ro_ends_writing_and_says_so() {
    let dir = Scratch::new("errors-remount-ro");
    for kind in KINDS {
        let image = damaged(&dir, kind);
        let done = simulate(1, image.store(), |bed| {
            let volume = writable(bed, &[("errors", "remount-ro")]);
            create(&volume, "before").unwrap();
            block_on(volume.0.sync()).unwrap().unwrap();
            assert!(block_on(volume.path(b"bad")).unwrap().is_err());
            assert_eq!(create(&volume, "after"), Err(EROFS));
            assert_eq!(block_on(volume.0.sync()).unwrap(), Err(EROFS));
            assert!(
                shown(&volume).ends_with(",emergency_ro"),
                "{}",
                shown(&volume)
            );
            machine::settle();
            assert!(end(&volume).is_err());
            let lines = machine::take_log();
            for line in ["inode 12", "nothing is written any more"] {
                let count = lines.iter().filter(|l| l.contains(line)).count();
                assert_eq!(count, 1, "{line}: {lines:#?}");
            }
            durable(bed)
        });
        let image = Image::write(dir.path("after"), &done);
        assert_eq!(
            field(&image, "FS Error count").as_deref(),
            Some("1"),
            "{kind}"
        );
        if kind.contains("^has_journal") {
            repaired(&image, kind);
            continue;
        }
        let errno = field(&image, "Journal errno").unwrap_or_default();
        assert_eq!(errno, "-5", "{kind}");
        // A mount takes what it says over, also a read-only one.
        let recovered = simulate(2, image.store(), |bed| {
            let volume = mount(bed, &[]);
            assert!(block_on(volume.path(b"before")).unwrap().is_ok());
            let lines = machine::take_log();
            for line in [
                "error recorded from previous mount: IO failure",
                "marked fs in need of filesystem check",
                "error count since last fsck: 1",
            ] {
                assert!(lines.iter().any(|l| l.contains(line)), "{line}: {lines:#?}");
            }
            durable(bed)
        });
        let image = Image::write(dir.path("recovered"), &recovered);
        assert_eq!(field(&image, "Journal errno"), None, "{kind}");
        assert_eq!(
            field(&image, "FS Error count").as_deref(),
            Some("1"),
            "{kind}"
        );
        repaired(&image, kind);
    }
}

/// A write of the journal fails, the device is well again, and the volume is mounted once more.
#[test]
fn a_commit_that_fails_is_recorded() {
    let dir = Scratch::new("errors-commit");
    for kind in KINDS {
        let image = Image::make(dir.path("image"), 16 << 20, kind);
        let done = simulate_on(Config::new(3), image.store(), |bed| {
            let volume = writable(bed, &[]);
            create(&volume, "before").unwrap();
            block_on(volume.0.sync()).unwrap().unwrap();
            create(&volume, "lost").unwrap();
            {
                let mut disk = bed.device.disk();
                let next = disk.counts().writes;
                disk.faults.writes.insert(next);
            }
            assert_eq!(block_on(volume.0.sync()).unwrap(), Err(EIO));
            machine::settle();
            assert_eq!(create(&volume, "after"), Err(EROFS));
            assert_eq!(block_on(volume.0.sync()).unwrap(), Err(EROFS));
            assert!(
                shown(&volume).ends_with(",emergency_ro"),
                "{}",
                shown(&volume)
            );
            assert_eq!(end(&volume), Err(EIO));
            let lines = machine::take_log();
            let line = "error -5 in a commit: nothing is written any more";
            assert_eq!(
                lines
                    .iter()
                    .filter(|l| l.contains("nothing is written"))
                    .count(),
                1,
                "{lines:#?}"
            );
            assert!(lines.iter().any(|l| l.contains(line)), "{lines:#?}");
            durable(bed)
        });
        let image = Image::write(dir.path("after"), &done);
        assert_eq!(
            field(&image, "FS Error count").as_deref(),
            Some("1"),
            "{kind}"
        );
        assert_eq!(
            field(&image, "First error err").as_deref(),
            Some("EIO"),
            "{kind}"
        );
        if kind.contains("^has_journal") {
            continue;
        }
        let again = simulate(4, done, |bed| {
            let volume = writable(bed, &[]);
            assert!(block_on(volume.path(b"before")).unwrap().is_ok());
            create(&volume, "again").unwrap();
            end(&volume).unwrap();
            machine::take_log();
            durable(bed)
        });
        let image = Image::write(dir.path("again"), &again);
        let state = field(&image, "Filesystem state").unwrap();
        assert_eq!(state, "clean with errors", "{kind}");
        repaired(&image, kind);
    }
}

#[test]
fn errors_panic_stops_the_machine_when_it_is_recorded() {
    let dir = Scratch::new("errors-panic");
    let image = damaged(&dir, KINDS[0]);
    let done = simulate(1, image.store(), |bed| {
        let volume = writable(bed, &[("errors", "panic")]);
        assert!(block_on(volume.path(b"bad")).unwrap().is_err());
        machine::settle();
        let lines = machine::take_log();
        let line = "errors=panic";
        assert!(lines.iter().any(|l| l.contains(line)), "{lines:#?}");
        let done = durable(bed);
        let _ = end(&volume);
        machine::take_log();
        done
    });
    let image = Image::write(dir.path("after"), &done);
    assert_eq!(field(&image, "FS Error count").as_deref(), Some("1"));
}

/// A block of metadata that cannot be read is one, too.
#[test]
fn metadata_that_cannot_be_read_is_recorded() {
    let dir = Scratch::new("errors-read");
    let image = Image::make(dir.path("image"), 16 << 20, KINDS[0]);
    image.debugfs("mkdir dir\n");
    let block = image.blocks(12)[0];
    let done = simulate(1, image.store(), |bed| {
        let volume = writable(bed, &[]);
        let dir = block_on(volume.path(b"dir")).unwrap().unwrap();
        bed.device.disk().faults.bad_sectors.insert(block * 8);
        assert_eq!(block_on(volume.entries(&dir)).unwrap().err(), Some(EIO));
        machine::settle();
        end(&volume).unwrap();
        machine::take_log();
        durable(bed)
    });
    let image = Image::write(dir.path("after"), &done);
    assert_eq!(field(&image, "FS Error count").as_deref(), Some("1"));
    assert_eq!(field(&image, "Last error err").as_deref(), Some("EIO"));
    assert_eq!(field(&image, "Last error block #"), Some(block.to_string()));
}

/// After a shutdown nothing is recorded: it is no error.
#[test]
fn a_shutdown_is_no_error() {
    let dir = Scratch::new("errors-shutdown");
    let image = Image::make(dir.path("image"), 16 << 20, KINDS[0]);
    let done = simulate(1, image.store(), |bed| {
        let volume = writable(bed, &[("errors", "panic")]);
        create(&volume, "lost").unwrap();
        volume.0.shut_down();
        assert_eq!(create(&volume, "after"), Err(EIO));
        assert_eq!(block_on(volume.0.sync()).unwrap(), Err(EIO));
        assert!(shown(&volume).ends_with(",shutdown"), "{}", shown(&volume));
        machine::settle();
        assert!(end(&volume).is_err());
        let lines = machine::take_log();
        assert_eq!(lines, [] as [String; 0]);
        durable(bed)
    });
    let after = simulate(2, done, |bed| {
        let volume = writable(bed, &[]);
        end(&volume).unwrap();
        machine::take_log();
        durable(bed)
    });
    let image = Image::write(dir.path("after"), &after);
    assert_eq!(field(&image, "FS Error count"), None);
    assert_eq!(image.is_clean(), Ok(()));
}
