// SPDX-License-Identifier: GPL-2.0

//! Mutations with fixed seeds: no parser panics, and no image keeps a reader busy for ever.
//!
//! `LAYOUT_FUZZ_ROUNDS` multiplies the number of rounds, for a longer run.

mod common;

use std::fs;

use common::{noise, scratch, write, Image, Rng};
use layout_host::crc;
use layout_host::edit::Dir;
use layout_host::fuzz::*;
use layout_host::layout::*;
use layout_host::volume::Volume;

fn rounds(n: usize) -> usize {
    let factor = std::env::var("LAYOUT_FUZZ_ROUNDS");
    n * factor.ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// Makes a small image that has all sorts of metadata.
fn image(name: &str, options: &str) -> Image {
    let dir = scratch(name);
    let src = dir.join("source");
    fs::create_dir_all(src.join("dir/sub")).expect("a directory");
    for i in 0..60 {
        write(src.join(format!("dir/{i}-{}", "n".repeat(60))), b"x");
    }
    for (i, size) in [10, 70, 200, 1500, 30_000].into_iter().enumerate() {
        write(src.join(format!("file{i}")), &noise(9, size));
    }
    let pieces: Vec<(u64, usize)> = (0..30).map(|i| (i * 3072, 1000)).collect();
    common::sparse(&src.join("sparse"), 1 << 20, &pieces);
    for len in [10, 80] {
        std::os::unix::fs::symlink("t".repeat(len), src.join(format!("link{len}")))
            .expect("a link");
    }
    let image = Image::make(&dir, 1 << 20, options, Some(&src));
    for (i, size) in [20, 300, 900].into_iter().enumerate() {
        let value = dir.join("value");
        write(value.clone(), &noise(5, size));
        image.change(&[
            &format!("ea_set -f {} file0 user.n{i}", value.display()),
            &format!("ea_set -f {} dir user.n{i}", value.display()),
        ]);
    }
    image.index_dirs();
    image
}

const PLAIN: &str = "-t ext4 -b 1024 -N 128 -O ^has_journal,^resize_inode";

/// Returns the blocks of the image that hold metadata, the superblock first.
fn metadata(image: &Image) -> Vec<Vec<u8>> {
    let volume = image.open();
    let bytes = image.bytes();
    let mut found: Vec<u64> = vec![1, 2];
    let desc = volume.group(Group(0)).expect("a descriptor");
    found.extend(desc.inode_table.0..desc.inode_table.0 + 32);
    for path in ["", "dir", "file0", "sparse", "link80"] {
        let inode = volume.path(path).expect("the path resolves");
        found.extend(inode.xattr_block.map(|b| b.0));
        if let Ok(Step::Descend(node)) = map::start(&inode, Lblk(12), volume.geo()) {
            found.push(node.pblk.0);
        }
        if inode.is_dir() {
            let runs = volume.runs(&inode, volume.blocks_of(&inode));
            for run in runs.expect("the map reads") {
                found.extend((0..run.len).map(|i| run.pblk().expect("no hole").0 + u64::from(i)));
            }
        }
    }
    let block = |n: u64| bytes[n as usize * 1024..][..1024].to_vec();
    found.into_iter().map(block).collect()
}

#[test]
fn parsers_take_any_bytes() {
    let corpus = [
        image("fuzz-extents", &format!("{PLAIN},^metadata_csum")),
        image(
            "fuzz-indirect",
            &format!("{PLAIN},^metadata_csum,^extent,^64bit"),
        ),
        image(
            "fuzz-inline",
            &format!("{PLAIN},^metadata_csum,inline_data,ea_inode"),
        ),
    ];
    let blocks: Vec<_> = corpus.iter().flat_map(metadata).collect();
    assert!(blocks.len() > 100);
    let mut rng = Rng(1);
    for round in 0..rounds(400) {
        for block in &blocks {
            // Two bytes choose the volume: its block size and its features.
            let mut data = vec![(rng.below(10)) as u8, rng.next() as u8];
            if rng.below(2) == 0 {
                data[0] = 0;
            }
            data.extend_from_slice(block);
            if round > 0 {
                // Inodes start anywhere in a block of them.
                let skip = 256 * rng.below(4);
                data.drain(2..2 + skip);
                rng.mutate(&mut data[2..]);
            }
            fuzz_group(&data);
            fuzz_inode(&data);
            fuzz_map(&data);
            fuzz_dir(&data);
            fuzz_dir_edit(&data);
            fuzz_xattr(&data);
            fuzz_hash(&data[..data.len().min(258)]);
        }
    }
    for len in 0..64 {
        for f in [
            fuzz_group,
            fuzz_inode,
            fuzz_map,
            fuzz_dir,
            fuzz_dir_edit,
            fuzz_xattr,
            fuzz_hash,
        ] {
            f(&noise(len as u64, len));
        }
        fuzz_superblock(&noise(len as u64, len));
    }
}

#[test]
fn superblocks_take_any_bytes() {
    let mut corpus: Vec<Vec<u8>> = vec![metadata(&image("fuzz-super", PLAIN))[0].clone()];
    for log_block in 0..7 {
        for incompat in [Incompat(0x42), Incompat(0x2d2), Incompat(0x82)] {
            corpus.push(plain_superblock(
                log_block,
                incompat,
                RoCompat(0x200 | 0x40),
            ));
            corpus.push(plain_superblock(log_block, incompat, RoCompat(0)));
        }
    }
    let mut rng = Rng(2);
    for _ in 0..rounds(4000) {
        for sb in &corpus {
            let mut sb = sb.clone();
            // Most of what matters is in the first part.
            let end = [0x70, 0x180, 1024][rng.below(3)];
            rng.mutate(&mut sb[..end]);
            fuzz_superblock(&sb);
        }
    }
}

#[test]
fn images_are_walked_in_bounded_time() {
    let plain = format!("{PLAIN},^metadata_csum,^uninit_bg");
    let sets = [
        ("fuzz-walk-extents", plain.clone(), false),
        (
            "fuzz-walk-indirect",
            format!("{plain},^extent,^64bit"),
            false,
        ),
        (
            "fuzz-walk-inline",
            format!("{plain},inline_data,ea_inode,large_dir"),
            false,
        ),
        ("fuzz-walk-sums", PLAIN.to_string(), true),
    ];
    let mut rng = Rng(3);
    let limit = 200_000;
    for (name, options, checked) in sets {
        let image = image(name, &options);
        let bytes = image.bytes();
        let baseline = fuzz_image(&bytes, checked, limit);
        assert!((500..limit / 4).contains(&baseline), "{name}: {baseline}");
        let volume = Volume::open(bytes.clone(), crc::FNS).expect("a volume");
        assert_eq!(volume.walk(), Ok(0), "{name}");

        let used: Vec<usize> = (0..bytes.len() / 1024)
            .filter(|i| bytes[i * 1024..][..1024].iter().any(|&b| b != 0))
            .collect();
        let (mut worst, mut reached) = (0, 0);
        for _ in 0..rounds(250) {
            let mut changed = bytes.clone();
            for _ in 0..1 + rng.below(8) {
                // Mostly the first blocks, where the metadata is.
                let pick = if rng.below(3) > 0 {
                    used.len().min(60)
                } else {
                    used.len()
                };
                let block = used[rng.below(pick)];
                rng.mutate(&mut changed[block * 1024..][..1024]);
            }
            let reads = fuzz_image(&changed, checked, limit);
            worst = worst.max(reads);
            reached += usize::from(reads > 20);
        }
        assert!(worst < limit, "{name}: a walk of {worst} blocks");
        assert!(
            reached > 100,
            "{name}: {reached} images got past the superblock"
        );
    }
}

#[test]
fn corrupt_directories_are_changed_or_refused() {
    let mut rng = Rng(4);
    for (incompat, ro_compat, names, n) in [
        (Incompat::FILETYPE, RoCompat(0), 300, 1000),
        (Incompat::FILETYPE, RoCompat::METADATA_CSUM, 3000, 300),
        (Incompat::LARGEDIR, RoCompat::METADATA_CSUM, 25_000, 60),
    ] {
        let raw = plain_superblock(0, incompat, ro_compat);
        // All sums are zero, so that changed blocks are met.
        let geo = SuperBlock::parse(&raw, 1, crc::NULL_FNS)
            .expect("a volume")
            .geo;
        let mut dir = Dir::new(geo, geo.csum().owner(Ino(12), 0), Ino::ROOT);
        let name = |i: usize| format!("{i:06}{}", "n".repeat(200 + i % 49)).into_bytes();
        for i in 0..names {
            let done = dir.add(&name(i), Ino(11), FileType::Regular);
            assert_eq!(done, Ok(true));
        }
        dir.corrupt = true;
        let index: Vec<usize> = (1..dir.blocks.len())
            .filter(|&i| dir::is_index_block(&dir.blocks[i], Lblk(i as u32), &geo))
            .chain([0])
            .collect();
        let (mut changed, mut refused) = (0, 0);
        for _ in 0..rounds(n) {
            let mut copy = dir.clone();
            for _ in 0..1 + rng.below(3 + dir.blocks.len() / 20) {
                let i = match rng.below(3) {
                    0 => rng.below(copy.blocks.len()),
                    _ => index[rng.below(index.len())],
                };
                rng.mutate(&mut copy.blocks[i]);
            }
            for _ in 0..20 {
                let old = copy.find(&name(rng.below(names)));
                let results = [
                    copy.add(&name(names + rng.below(names)), Ino(13), FileType::Fifo)
                        .map(drop),
                    old.and_then(|old| old.map_or(Ok(()), |old| copy.remove(&old))),
                    copy.is_empty().map(drop),
                ];
                for result in results {
                    match result {
                        Ok(()) => changed += 1,
                        Err(_) => refused += 1,
                    }
                }
            }
        }
        assert!(changed > 100 && refused > 50, "{changed} {refused}");
    }
}
