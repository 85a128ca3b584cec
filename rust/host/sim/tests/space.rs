// SPDX-License-Identifier: GPL-2.0

//! What is kept of a volume's space for those with privilege, also for metadata; and what the device
//! is told of it at the end.

use aext4::{Ext4, XattrFlags};
use kernel::machine;
use kernel::prelude::*;
use layout::Ino;
use sim::e2fs::{Image, Scratch};
use sim::simulate;
use sim::tree::{new_inode, writable, writable_with};
use sim::volume::Volume;
use simdisk::{Discarded, Store};
use upcall::block_on;

/// Makes directories until there is no space, and returns how many.
async fn fill(volume: &Volume, round: &str) -> Result<u32> {
    let new = new_inode(0o040_755);
    let root = volume.0.iget(Ino::ROOT).await?;
    for n in 0.. {
        match volume
            .0
            .create(&root, format!("{round}-{n}").as_bytes(), &new)
            .await
        {
            Ok(_) => {}
            Err(ENOSPC) => return Ok(n),
            Err(error) => return Err(error),
        }
    }
    Ok(0)
}

/// The user 0 makes them here, without capabilities.
#[test]
fn metadata_of_users_leaves_the_reserve() {
    let dir = Scratch::new("space-reserve");
    let kinds = [
        ("-b 4096 -m 20 -N 4096", 16),
        ("-b 1024 -m 20 -N 8192 -O ^has_journal", 8),
    ];
    for (kind, megabytes) in kinds {
        let image = Image::make(dir.path("image"), megabytes << 20, kind);
        let done = simulate(1, image.store(), |bed| {
            let volume = writable_with(bed, &[("resuid", Some("1000"))]);
            let reserve = volume.0.sb.reserved_blocks;
            let many = block_on(fill(&volume, "user")).unwrap().unwrap();
            assert!(many > 100, "{kind}: {many}");
            let full = volume.0.statfs();
            assert_eq!(full.available, 0, "{kind}");
            assert!(full.free >= reserve, "{kind}: {} of {reserve}", full.free);
            // Nor do attributes and their values take it.
            let root = block_on(volume.0.iget(Ino::ROOT)).unwrap().unwrap();
            let large = vec![1; 900];
            let set = volume
                .0
                .set_xattr(&root, 1, b"name", Some(&large), XattrFlags::default());
            assert_eq!(block_on(set).unwrap(), Err(ENOSPC), "{kind}");
            drop(root);
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            // Without the option it is kept for the user 0.
            let volume = writable(bed);
            let more = block_on(fill(&volume, "root")).unwrap().unwrap();
            assert!(u64::from(more) * 2 > reserve, "{kind}: {more} of {reserve}");
            assert!(volume.0.statfs().free < reserve, "{kind}");
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            machine::take_log();
            bed.device.disk().durable().clone()
        });
        let after = Image::write(dir.path("after"), &done);
        assert_eq!(after.is_clean(), Ok(()), "{kind}");
    }
}

/// What the last commit frees the device forgets, too.
#[test]
fn the_last_commit_is_discarded() {
    let dir = Scratch::new("space-discard");
    for kind in ["-b 4096", "-b 1024"] {
        let image = Image::make(dir.path("image"), 16 << 20, kind);
        let done = simulate(2, image.store(), |bed| {
            bed.device.disk().discarded = Discarded::Garbage;
            let volume = writable_with(bed, &[("discard", None)]);
            let new = new_inode(0o100_644);
            block_on(async {
                let root = volume.0.iget(Ino::ROOT).await?;
                let file = volume.0.create(&root, b"file", &new).await?;
                Ext4::write_at(&volume.0, &file, 0, &[0x5a; 200_000], true).await?;
                volume.0.sync().await?;
                volume.0.unlink(&root, b"file", &file).await?;
                volume.0.delete(file).await
            })
            .unwrap()
            .unwrap();
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            machine::take_log();
            bed.device.disk().durable().clone()
        });
        let after = Image::write(dir.path("after"), &done);
        assert_eq!(after.is_clean(), Ok(()), "{kind}");
        let left = after
            .bytes()
            .chunks(1024)
            .filter(|c| c.iter().all(|&b| b == 0x5a))
            .count();
        assert_eq!(left, 0, "{kind}");
    }
}

#[test]
fn the_backups_of_the_superblock_have_the_label() {
    let dir = Scratch::new("space-label");
    for kind in [
        "-b 1024",
        "-b 1024 -O ^metadata_csum,^64bit,sparse_super2",
        "-b 1024 -O ^has_journal",
    ] {
        let image = Image::make(dir.path("image"), 64 << 20, kind);
        let done = simulate(3, image.store(), |bed| {
            let volume = writable(bed);
            block_on(volume.0.set_label(b"sixteen letters!"))
                .unwrap()
                .unwrap();
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            machine::take_log();
            bed.device.disk().durable().clone()
        });
        let after = Image::write(dir.path("after"), &done);
        assert_eq!(after.is_clean(), Ok(()), "{kind}");
        let bytes = after.bytes();
        let labels: Vec<&[u8]> = (0..8)
            .map(|group| &bytes[(group * 8192 + 1) << 10..])
            .filter(|raw| raw[0x38..0x3a] == [0x53, 0xef])
            .map(|raw| &raw[0x78..0x88])
            .collect();
        assert!(labels.len() > 2, "{kind}: {}", labels.len());
        assert!(
            labels.iter().all(|label| *label == b"sixteen letters!"),
            "{kind}"
        );
        if kind.contains("^") {
            continue;
        }
        // One that is damaged stays as it is.
        let at = (5 * 8192 + 1) << 10;
        let mut damaged = image.bytes();
        damaged[at + 0x78] ^= 1;
        let store = Store::bytes(std::sync::Arc::new(damaged));
        let done = simulate(4, store, |bed| {
            let volume = writable(bed);
            block_on(volume.0.set_label(b"other")).unwrap().unwrap();
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            let lines = machine::take_log();
            assert!(
                lines.iter().any(|line| line.contains("damaged backup")),
                "{lines:?}"
            );
            bed.device.disk().durable().clone()
        });
        let bytes = Image::write(dir.path("after"), &done).bytes();
        assert_ne!(&bytes[at + 0x78..][..5], b"other", "{kind}");
        assert_eq!(
            &bytes[((3 * 8192 + 1) << 10) + 0x78..][..5],
            b"other",
            "{kind}"
        );
    }
}
