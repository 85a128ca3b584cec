// SPDX-License-Identifier: GPL-2.0

//! Bitmaps against a model; descriptors and superblocks that were edited, against the parser,
//! e2fsck and images in which mke2fs has written every bitmap.

mod common;

use common::edit::{fsck, geo_with, Edited, Rng};
use common::{noise, run, scratch, write, Image};
use layout_host::crc;
use layout_host::layout::bitmap::*;
use layout_host::layout::group_edit::*;
use layout_host::layout::super_edit::*;
use layout_host::layout::*;

fn bytes_of(model: &[bool]) -> Vec<u8> {
    let mut bytes = vec![0; model.len() / 8];
    for (i, _) in model.iter().enumerate().filter(|(_, &set)| set) {
        bytes[i / 8] |= 1 << (i % 8);
    }
    bytes
}

/// The runs of clear bits in a part of the model.
fn model_runs(model: &[bool], from: usize, end: usize) -> Vec<BitRun> {
    let mut runs: Vec<BitRun> = Vec::new();
    for i in (from..end).filter(|&i| !model[i]) {
        match runs.last_mut() {
            Some(run) if run.end() as usize == i => run.len += 1,
            _ => runs.push(BitRun {
                start: i as u32,
                len: 1,
            }),
        }
    }
    runs
}

#[test]
fn searches_find_what_a_model_finds() {
    let mut rng = Rng(1);
    for _ in 0..4000 {
        let size = 8 * (1 + rng.below(60) as usize);
        let mut model = vec![rng.one_in(2); size];
        for _ in 0..rng.below(30) {
            let start = rng.below(size as u64) as usize;
            let end = (start + rng.below(130) as usize).min(size);
            let set = rng.one_in(2);
            model[start..end].fill(set);
        }
        let bytes = bytes_of(&model);
        let bits = size - rng.below(8) as usize;
        let (a, b) = (
            rng.below(bits as u64) as usize,
            rng.below(bits as u64) as usize,
        );
        let (from, end) = (a.min(b), a.max(b));
        let (from32, end32) = (from as u32, end as u32);

        let runs = model_runs(&model, from, end);
        assert_eq!(free_runs(&bytes, from32, end32).collect::<Vec<_>>(), runs);
        let free = (from..end).find(|&i| !model[i]).map(|i| i as u32);
        assert_eq!(next_free(&bytes, from32, end32), free);
        let used = (from..end).find(|&i| model[i]).unwrap_or(end) as u32;
        assert_eq!(next_used(&bytes, from32, end32), used);
        let count: u32 = runs.iter().map(|r| r.len).sum();
        let most = runs.iter().map(|r| r.len).max();
        let (longest, counted) = longest_free(&bytes, from32, end32);
        assert_eq!((longest.map(|r| r.len), counted), (most, count));
        let first = longest.and_then(|l| runs.iter().find(|r| r.len == l.len).copied());
        assert_eq!(first, longest);
        let all = model[..bits].iter().filter(|&&set| !set).count();
        assert_eq!(count_free(&bytes, bits as u32), all as u32);

        let (min, max) = (1 + rng.below(70) as u32, 1 + rng.below(100) as u32);
        let goal = rng.below(bits as u64 + 10) as u32;
        let at = if goal < bits as u32 { goal as usize } else { 0 };
        let expected = model_runs(&model, at, bits)
            .into_iter()
            .chain(
                model_runs(&model, 0, bits)
                    .into_iter()
                    .filter(|r| (r.start as usize) < at),
            )
            .find(|r| r.len >= min)
            .map(|r| BitRun {
                start: r.start,
                len: r.len.min(max.max(min)),
            });
        assert_eq!(find_free(&bytes, bits as u32, goal, min, max), expected);
    }
}

#[test]
fn ranges_that_are_not_as_expected_change_nothing() {
    let mut rng = Rng(2);
    for _ in 0..20_000 {
        let size = 8 * (1 + rng.below(30) as usize);
        let mut model = vec![rng.one_in(2); size];
        let start = rng.below(size as u64 + 4) as usize;
        let len = rng.below(70) as usize;
        if rng.one_in(2) {
            model[rng.below(size as u64) as usize] ^= true;
        }
        for set in [true, false] {
            let mut bytes = bytes_of(&model);
            let before = bytes.clone();
            let (start32, len32) = (start as u32, len as u32);
            let result = match set {
                true => set_range(&mut bytes, start32, len32),
                false => clear_range(&mut bytes, start32, len32),
            };
            if start + len > size {
                assert_eq!(result, Err(start.max(size) as u32));
                assert_eq!(bytes, before);
            } else if let Some(bad) = (start..start + len).find(|&i| model[i] == set) {
                assert_eq!(result, Err(bad as u32));
                assert_eq!(bytes, before);
            } else {
                let mut after = model.clone();
                after[start..start + len].fill(set);
                assert_eq!(result, Ok(()));
                assert_eq!(bytes, bytes_of(&after));
            }
        }
        let mut bytes = bytes_of(&model);
        mark_range(&mut bytes, start as u32, len as u32);
        pad(&mut bytes, size as u32 - 5);
        assert!(is_padded(&bytes, size as u32 - 5));
        let mut after = model.clone();
        after[start.min(size)..(start + len).min(size)].fill(true);
        after[size - 5..].fill(true);
        assert_eq!(bytes, bytes_of(&after));
    }
    let mut bytes = vec![0; 100];
    assert_eq!(set_range(&mut bytes, u32::MAX, u32::MAX), Err(u32::MAX));
    assert_eq!(set_range(&mut bytes, 0, u32::MAX), Err(800));
    mark_range(&mut bytes, 5, u32::MAX);
    assert_eq!(count_free(&bytes, u32::MAX), 5);
    assert_eq!(find_free(&[], 100, 50, 1, 1), None);
}

/// Shapes of which the descriptors have 32 or 64 bytes, and each kind of checksum.
fn shapes() -> Vec<Geometry> {
    let base = Incompat::FILETYPE.or(Incompat::FLEX_BG);
    let mut shapes = Vec::new();
    for incompat in [base, base.or(Incompat::B64)] {
        for ro_compat in [RoCompat(0), RoCompat::GDT_CSUM, RoCompat::METADATA_CSUM] {
            shapes.push(geo_with(0, incompat, ro_compat, |_| ()));
        }
    }
    shapes
}

#[test]
fn descriptors_round_trip() {
    let mut rng = Rng(3);
    for geo in shapes() {
        let size = usize::from(geo.desc_size());
        let base_bitmaps = [100u32, 101, 102];
        for round in 0..2000 {
            let mut raw = noise(round, size + 8);
            for (i, block) in base_bitmaps.into_iter().enumerate() {
                raw[i * 4..i * 4 + 4].copy_from_slice(&block.to_le_bytes());
                if size >= 64 {
                    raw[0x20 + i * 4..0x24 + i * 4].fill(0);
                }
            }
            let behind = raw[size..].to_vec();
            let blocks = noise(round + 1, 1024);
            let inodes = noise(round + 2, 1024);
            let (clusters, free, dirs, unused) = (
                rng.below(8192) as u32,
                rng.below(2049) as u32,
                rng.below(2049) as u32,
                rng.below(2049) as u32,
            );
            let flags = rng.below(8) as u16;
            let mut edit = GroupEdit::new(&mut raw, Group(0), &geo).expect("a descriptor");
            assert_eq!(edit.set_free_clusters(clusters), Some(clusters));
            assert_eq!(edit.set_free_inodes(free), Some(free));
            assert_eq!(edit.set_used_dirs(dirs), Some(dirs));
            assert_eq!(edit.set_itable_unused(unused), Some(unused));
            assert_eq!(edit.set_free_clusters(8192), None, "the group has 8,191");
            assert_eq!(edit.set_free_inodes(2049), None);
            edit.set_flags(flags);
            edit.seal(Some(&blocks), Some(&inodes))
                .expect("it is sealed");
            assert_eq!(raw[size..], behind);

            GroupDesc::verify(&raw, Group(0), &geo).expect("it verifies");
            let desc = GroupDesc::parse(&raw, Group(0), &geo).expect("it parses");
            assert_eq!(
                (desc.free_clusters, desc.free_inodes, desc.flags),
                (clusters, free, flags)
            );
            assert_eq!((desc.used_dirs, desc.itable_unused), (dirs, unused));
            desc.verify_block_bitmap(&blocks, &geo)
                .expect("it verifies");
            desc.verify_inode_bitmap(&inodes, &geo)
                .expect("it verifies");

            // Counts move, and never beyond what there is.
            let (take, back) = (rng.below(9000) as u32, rng.below(9000) as u32);
            let mut edit = GroupEdit::new(&mut raw, Group(0), &geo).expect("a descriptor");
            let left = clusters.checked_sub(take);
            assert_eq!(edit.take_clusters(take), left);
            let now = left.unwrap_or(clusters);
            let after = Some(now + back).filter(|&n| n <= 8191);
            assert_eq!(edit.return_clusters(back), after);
            edit.seal(None, None).expect("it is sealed");
            GroupDesc::verify(&raw, Group(0), &geo).expect("it verifies");
            let desc = GroupDesc::parse(&raw, Group(0), &geo).expect("it parses");
            assert_eq!(desc.free_clusters, after.unwrap_or(now));
            desc.verify_block_bitmap(&blocks, &geo)
                .expect("it verifies");
        }
        assert!(GroupEdit::new(&mut [0; 31], Group(0), &geo).is_none());
        assert!(GroupEdit::new(&mut [0; 64], Group(1), &geo).is_none());
    }
}

#[test]
fn taking_an_inode_grows_the_used_part_of_the_table() {
    for geo in shapes() {
        let mut raw = vec![0; 64];
        let flags = GroupDesc::INODE_UNINIT | GroupDesc::BLOCK_UNINIT;
        let mut edit = GroupEdit::new(&mut raw, Group(0), &geo).expect("a descriptor");
        edit.set_free_inodes(2048);
        edit.set_itable_unused(2048);
        edit.set_flags(flags);
        let kept = geo.csum().mode() != csum::Mode::None;
        let fresh = |start, end| {
            Some(if kept {
                FreshInodes { start, end }
            } else {
                none(end)
            })
        };
        assert_eq!(edit.take_inode(4, false), fresh(0, 5));
        assert_eq!(edit.take_inode(2, true), Some(none(3)));
        assert_eq!(edit.take_inode(5, true), fresh(5, 6));
        assert_eq!(edit.take_inode(2048, true), None);
        assert_eq!((edit.free_inodes(), edit.used_dirs()), (2045, 2));
        let (flags, unused) = match kept {
            true => (GroupDesc::BLOCK_UNINIT, 2042),
            false => (flags, 2048),
        };
        assert_eq!((edit.flags(), edit.itable_unused()), (flags, unused));
        assert_eq!(edit.return_inode(true), Some(()));
        assert_eq!(edit.return_inode(true), Some(()));
        assert_eq!(edit.return_inode(true), None);
        assert_eq!(edit.return_inode(false), Some(()));
        assert_eq!(edit.return_inode(false), None);
        assert_eq!(edit.free_inodes(), 2048);
        edit.set_free_inodes(0);
        assert_eq!(edit.take_inode(7, false), None);
    }
}

/// No inode that joins the used part of the table.
fn none(end: u32) -> FreshInodes {
    FreshInodes { start: end, end }
}

#[test]
fn superblocks_round_trip() {
    let mut rng = Rng(4);
    let geo = geo_with(
        0,
        Incompat::FILETYPE.or(Incompat::B64),
        RoCompat::METADATA_CSUM,
        |_| (),
    );
    let base = {
        let mut raw = layout_host::fuzz::plain_superblock(
            0,
            Incompat::FILETYPE.or(Incompat::B64),
            RoCompat::METADATA_CSUM,
        );
        raw.resize(1030, 7);
        raw
    };
    for _ in 0..2000 {
        let mut raw = base.clone();
        let time = |rng: &mut Rng| rng.wild() & 0xff_ffff_ffff;
        let (written, mounted) = (time(&mut rng), time(&mut rng));
        let (blocks, inodes, kbytes) = (rng.wild(), rng.u32(), rng.wild());
        let (state, orphan, overhead) = (rng.u32() as u16, rng.u32(), rng.u32());
        let mut edit = SuperEdit::new(&mut raw).expect("a superblock");
        edit.set_write_time(written);
        edit.set_mount_time(mounted);
        edit.set_free_blocks(blocks);
        edit.set_free_inodes(inodes);
        edit.set_kbytes_written(kbytes);
        edit.set_state(state);
        edit.set_last_orphan(Some(Ino(orphan)));
        edit.set_overhead_clusters(overhead);
        edit.set_label(b"0123456789abcdefgh");
        edit.set_last_mounted(&[b'm'; 100]);
        edit.count_mount();
        let mut features = edit.features();
        features.incompat = features.incompat.or(Incompat::RECOVER);
        features.ro_compat = features.ro_compat.or(RoCompat::LARGE_FILE);
        edit.set_features(features);
        edit.seal(geo.csum());
        let sb = SuperBlock::parse(&raw, 1, crc::FNS).expect("it parses");
        assert_eq!((sb.write_time, sb.mount_time), (written, mounted));
        assert_eq!((sb.free_blocks, sb.free_inodes), (blocks, inodes));
        assert_eq!((sb.kbytes_written, sb.state), (kbytes, state));
        assert_eq!(sb.last_orphan, Some(orphan).filter(|&n| n != 0).map(Ino));
        assert_eq!(sb.overhead_clusters, overhead);
        assert_eq!((sb.label(), sb.mount_count), (&b"0123456789abcdef"[..], 1));
        assert!(sb.needs_recovery());
        assert!(sb.geo.has_ro_compat(RoCompat::LARGE_FILE));
        assert_eq!(raw[1024..], [7; 6]);
        assert_eq!((raw[0x88], raw[0xc7], raw[0xc8]), (b'm', b'm', 0));
    }
    // A volume of revision 0 becomes one of revision 1 with its first feature.
    let mut raw = base.clone();
    raw[0x4c] = 0;
    raw[0x58..0x68].fill(0);
    let mut edit = SuperEdit::new(&mut raw).expect("a superblock");
    let mut features = edit.features();
    edit.set_features(features);
    features.ro_compat = RoCompat::LARGE_FILE;
    edit.set_features(features);
    let sb = SuperBlock::parse(&raw, 1, crc::FNS).expect("it parses");
    assert_eq!((sb.revision, sb.geo.inode_size()), (1, 128));
    assert!(SuperEdit::new(&mut raw[..1000]).is_none());
    raw[0x38] = 0;
    assert!(SuperEdit::new(&mut raw).is_none());
}

#[test]
fn dumpe2fs_tells_what_was_recorded() {
    let dir = scratch("super-edit");
    for options in ["-t ext4 -b 1024", "-t ext2 -b 4096"] {
        let image = Image::make(&dir, 16 << 20, options, None);
        let mut edited = Edited::load(&image);
        let csum = *edited.geo.csum();
        let mut edit = SuperEdit::new(&mut edited.bytes[1024..]).expect("a superblock");
        let mut record = ErrorRecord {
            time: 0x1_0000_1000,
            ino: Some(Ino(12)),
            block: Some(Pblk(0x1234)),
            func: padded(b"first_function"),
            line: 77,
            code: ErrorCode::Corrupted as u8,
        };
        let first = record;
        edit.record_error(&record);
        record.func = padded(b"last_function");
        record.time = 5_000_000_000;
        record.code = ErrorCode::BadChecksum as u8;
        record.block = None;
        edit.record_error(&record);
        edit.set_last_mounted(b"/mnt/here");
        edit.count_mount();
        edit.set_mount_time(1_000_000_000);
        edit.seal(&csum);
        let sb = SuperBlock::parse(&edited.bytes[1024..], 1, crc::FNS).expect("it parses");
        assert_eq!((sb.first_error, sb.last_error), (first, record));
        edited.save(&image);
        let header = image.header();
        // dumpe2fs leaves out the upper 8 bits of these two.
        assert_eq!(edited.bytes[1024 + 0x278..1024 + 0x27a], [1, 1]);
        for (name, value) in [
            ("FS Error count", "2"),
            ("First error time", "Thu Jan  1 01:08:16 1970"),
            ("First error function", "first_function"),
            ("First error line #", "77"),
            ("First error inode #", "12"),
            ("First error block #", "4660"),
            ("First error err", "EFSCORRUPTED"),
            ("Last error time", "Tue May  5 02:25:04 1992"),
            ("Last error function", "last_function"),
            ("Last error err", "EFSBADCRC"),
            ("Filesystem state", "clean with errors"),
            ("Last mounted on", "/mnt/here"),
            ("Mount count", "1"),
            ("Last mount time", "Sun Sep  9 01:46:40 2001"),
        ] {
            let found = header.get(name).map(String::as_str);
            assert_eq!(found, Some(value), "{options}: {name}");
        }
        fsck(&image);
    }
}

/// Bitmaps made from scratch are those that mke2fs writes where it may leave none out.
#[test]
fn bitmaps_from_scratch_are_those_of_a_twin() {
    let dir = scratch("group-uninit");
    let twin_dir = scratch("group-uninit-twin");
    for (size, options, twin) in [
        (100 << 20, "-t ext4 -b 1024", "^metadata_csum"),
        (
            100_000 << 10,
            "-t ext4 -b 1024 -O ^flex_bg",
            "^metadata_csum",
        ),
        (90_001 << 10, "-t ext4 -b 1024 -G 2", "^metadata_csum"),
        (400 << 20, "-t ext4 -b 4096", "^metadata_csum"),
        // Groups that do not fill their bitmap.
        (60 << 20, "-t ext4 -b 1024 -g 4096", "^metadata_csum"),
        (
            100 << 20,
            "-t ext4 -b 1024 -O ^flex_bg,meta_bg,^resize_inode",
            "^metadata_csum",
        ),
        (
            100 << 20,
            "-t ext4 -b 1024 -O ^flex_bg,sparse_super2",
            "^metadata_csum",
        ),
        (
            100 << 20,
            "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^flex_bg",
            "^uninit_bg",
        ),
        (
            200 << 20,
            "-t ext4 -b 1024 -C 8192 -O bigalloc,^flex_bg",
            "^metadata_csum",
        ),
        (
            120 << 20,
            "-t ext4 -b 1024 -C 4096 -O bigalloc",
            "^metadata_csum",
        ),
    ] {
        let image = Image::make(&dir, size, options, None);
        // A second -O adds to the first.
        let other = Image::make(&twin_dir, size, &format!("{options} -O {twin}"), None);
        let mut edited = Edited::load(&image);
        let other = Edited::load(&other);
        let geo = edited.geo;
        let (mut blocks_made, mut inodes_made) = (0, 0);
        for group in (0..geo.groups()).map(Group) {
            let desc = edited.desc(group);
            let theirs = other.desc(group);
            assert_eq!(desc.block_bitmap, theirs.block_bitmap, "the twin is none");
            let (mut made, mut nodes) = (None, None);
            if desc.has_flag(GroupDesc::BLOCK_UNINIT, &geo) {
                let mut bitmap = noise(1, geo.block_size() as usize);
                let free = init_block_bitmap(&mut bitmap, &desc, &geo).expect("a block");
                assert_eq!(free, desc.free_clusters, "{options}: group {group}");
                assert!(
                    bitmap == other.block(theirs.block_bitmap),
                    "{options}: group {group}"
                );
                edited.block_mut(desc.block_bitmap).copy_from_slice(&bitmap);
                made = Some(bitmap);
                blocks_made += 1;
            }
            if desc.has_flag(GroupDesc::INODE_UNINIT, &geo) {
                let mut bitmap = noise(1, geo.block_size() as usize);
                init_inode_bitmap(&mut bitmap, &geo).expect("a block");
                assert!(
                    bitmap == other.block(theirs.inode_bitmap),
                    "{options}: group {group}"
                );
                edited.block_mut(desc.inode_bitmap).copy_from_slice(&bitmap);
                nodes = Some(bitmap);
                inodes_made += 1;
            }
            let mut edit = GroupEdit::new(edited.desc_mut(group), group, &geo).expect("one");
            edit.set_flags(desc.flags & GroupDesc::INODE_ZEROED);
            edit.seal(made.as_deref(), nodes.as_deref())
                .expect("sealed");
        }
        assert!(
            blocks_made > 0 && inodes_made > 0,
            "{options}: {blocks_made} {inodes_made}"
        );
        edited.save(&image);
        fsck(&image);
        assert!(init_block_bitmap(&mut [0; 512], &edited.desc(Group(0)), &geo).is_none());
        assert!(init_inode_bitmap(&mut [0; 512], &geo).is_none());
    }
}

/// Blocks and an inode that are taken and given back leave a volume that e2fsck has nothing to say
/// of; one that was not given back is missed.
#[test]
fn e2fsck_agrees_with_the_counts() {
    let dir = scratch("group-edit");
    let src = dir.join("source");
    std::fs::create_dir(&src).expect("a directory");
    write(src.join("file"), &noise(1, 5000));
    for options in [
        "-t ext4 -b 1024",
        "-t ext4 -b 4096 -O ^metadata_csum,uninit_bg",
    ] {
        let image = Image::make(&dir, 16 << 20, options, Some(&src));
        let mut edited = Edited::load(&image);
        let geo = edited.geo;
        let desc = edited.desc(Group(0));
        let take = |edited: &mut Edited, back: bool| {
            let mut blocks = edited.block(desc.block_bitmap).to_vec();
            let mut inodes = edited.block(desc.inode_bitmap).to_vec();
            let run = find_free(&blocks, geo.group_clusters(Group(0)), 5000, 3, 9).expect("room");
            let index = next_free(&inodes, 0, 2048).expect("room");
            let mut edit =
                GroupEdit::new(edited.desc_mut(Group(0)), Group(0), &geo).expect("a descriptor");
            set_range(&mut blocks, run.start, run.len).expect("they are free");
            set_range(&mut inodes, index, 1).expect("it is free");
            edit.take_clusters(run.len).expect("they are free");
            edit.take_inode(index, true).expect("it is free");
            if back {
                clear_range(&mut blocks, run.start, run.len).expect("they are in use");
                clear_range(&mut inodes, index, 1).expect("it is in use");
                edit.return_clusters(run.len).expect("they are in use");
                edit.return_inode(true).expect("it is in use");
            }
            edit.seal(Some(&blocks), Some(&inodes))
                .expect("it is sealed");
            edited.block_mut(desc.block_bitmap).copy_from_slice(&blocks);
            edited.block_mut(desc.inode_bitmap).copy_from_slice(&inodes);
            edited.save(&image);
        };
        take(&mut edited, true);
        fsck(&image);
        take(&mut edited, false);
        let told = run("e2fsck", &["-fn", image.str()], &[4]);
        assert!(told.contains("Block bitmap differences") && told.contains("Inode bitmap"));
    }
}

#[test]
fn wrong_bytes_never_panic() {
    let mut rng = Rng(5);
    for geo in shapes() {
        for round in 0..3000 {
            let mut raw = noise(round, 64);
            rng.mutate(&mut raw);
            if let Ok(desc) = GroupDesc::parse(&raw, Group(0), &geo) {
                let mut bitmap = vec![0; 1024];
                init_block_bitmap(&mut bitmap, &desc, &geo);
            }
            let mut edit = GroupEdit::new(&mut raw, Group(0), &geo).expect("a descriptor");
            let _ = edit.take_clusters(rng.wild() as u32);
            let _ = edit.return_clusters(rng.wild() as u32);
            let _ = edit.take_inode(rng.wild() as u32, true);
            let _ = edit.return_inode(true);
            let short = noise(1, rng.below(1024) as usize);
            assert_eq!(edit.seal(Some(&short), None), None);
            let mut sb = noise(round, 1024);
            sb[0x38..0x3a].copy_from_slice(&0xef53u16.to_le_bytes());
            let mut edit = SuperEdit::new(&mut sb).expect("a superblock");
            edit.count_mount();
            let features = edit.features();
            edit.set_features(features);
            edit.seal(geo.csum());
        }
    }
}
