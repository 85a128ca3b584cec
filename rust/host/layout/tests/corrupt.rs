// SPDX-License-Identifier: GPL-2.0

//! Volumes with one thing wrong each: the refusal has the right kind and a telling line.

mod common;

use common::{noise, scratch, write, Image};
use layout_host::crc;
use layout_host::fuzz::plain_superblock;
use layout_host::layout::*;
use layout_host::volume::{Fail, Volume};

fn put16(block: &mut [u8], at: usize, v: u16) {
    block[at..at + 2].copy_from_slice(&v.to_le_bytes());
}

fn put32(block: &mut [u8], at: usize, v: u32) {
    block[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

fn put64(block: &mut [u8], at: usize, v: u64) {
    block[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

/// A change to a structure.
type Change = fn(&mut Vec<u8>);

/// A volume with blocks of 1 KiB, of which there are 8,192, and no checksums.
fn plain() -> Geometry {
    let incompat = Incompat::FILETYPE
        .or(Incompat::EXTENTS)
        .or(Incompat::FLEX_BG);
    let raw = plain_superblock(0, incompat, RoCompat::HUGE_FILE);
    SuperBlock::parse(&raw, 1, crc::FNS).expect("a volume").geo
}

#[test]
fn errors_print_as_one_line() {
    let e = Error::corrupt1("extent header: bad magic {x}", 0x1234u16);
    assert_eq!(e.to_string(), "extent header: bad magic 0x1234");
    let e = Error::corrupt2("a {} b {x} c", 7u8, 255u64);
    assert_eq!(e.to_string(), "a 7 b 0xff c");
    assert_eq!(Error::corrupt("plain").to_string(), "plain");
    assert_eq!(Error::corrupt("odd {").to_string(), "odd ");
}

#[test]
fn writes_are_little_endian_and_stay_in_the_buffer() {
    use bytes::{put_bytes, put_u16, put_u32, put_u64, put_u8};
    let mut buf = [0xff; 16];
    assert_eq!(put_u8(&mut buf, 0, 1), Some(()));
    assert_eq!(put_u16(&mut buf, 1, 0x0203), Some(()));
    assert_eq!(put_u32(&mut buf, 3, 0x0405_0607), Some(()));
    assert_eq!(put_u64(&mut buf, 7, 0x0809_0a0b_0c0d_0e0f), Some(()));
    assert_eq!(put_bytes(&mut buf, 16, &[]), Some(()));
    let written = *b"\x01\x03\x02\x07\x06\x05\x04\x0f\x0e\x0d\x0c\x0b\x0a\x09\x08\xff";
    assert_eq!(buf, written);
    for off in [9, 13, 15, 16, usize::MAX] {
        assert_eq!(put_u64(&mut buf, off, 0), None);
        assert_eq!(put_bytes(&mut buf, off, &[0; 8]), None);
    }
    assert_eq!(put_u32(&mut buf, 13, 0), None);
    assert_eq!(put_u16(&mut buf, 15, 0), None);
    assert_eq!(put_u8(&mut buf, 16, 0), None);
    assert_eq!(buf, written);
}

#[test]
fn feature_words_name_what_is_in_the_way() {
    let refuse = |bits| Incompat(bits).check().map_err(|e| e.to_string());
    assert_eq!(refuse(Incompat::SUPPORTED.0), Ok(()));
    assert_eq!(refuse(0x1 | 0x2), Err("compression".into()));
    assert_eq!(refuse(0x1000 | 0x4000_0000), Err("dirdata".into()));
    let unknown = "unknown incompatible features 0x40800000";
    assert_eq!(refuse(0x4080_0000 | 0x40), Err(unknown.into()));
    let names = |word: RoCompat, known| {
        let names = word.forbids_writing(known).map(|n| n.to_string());
        names.collect::<Vec<_>>().join(" ")
    };
    let known = RoCompat::SPARSE_SUPER
        .or(RoCompat::LARGE_FILE)
        .or(RoCompat::READONLY);
    assert_eq!(names(RoCompat(0x3), known), "");
    assert_eq!(names(RoCompat(0x1203), known), "bigalloc read-only");
    assert_eq!(names(RoCompat(0x8010_0000), known), "0x80100000");
}

#[test]
fn superblocks_that_make_no_volume() {
    let good = plain_superblock(0, Incompat::FILETYPE.or(Incompat::B64), RoCompat(0));
    assert!(SuperBlock::parse(&good, 1, crc::FNS).is_ok());
    let cases: [(Change, Kind, &str); 22] = [
        (|b| b.truncate(1000), Kind::NotExt4, "too short"),
        (|b| put16(b, 0x38, 0xef52), Kind::NotExt4, "magic"),
        (|b| put32(b, 0x60, 0x20000), Kind::Feature, "casefold"),
        (|b| put32(b, 0x18, 7), Kind::Geometry, "block size is 7"),
        (|b| put32(b, 0x1c, 1), Kind::Geometry, "cluster size"),
        (|b| put32(b, 0x20, 8184), Kind::Geometry, "per group"),
        (|b| put32(b, 0x24, 0), Kind::Geometry, "per group"),
        (|b| put32(b, 0x14, 0), Kind::Geometry, "first data block"),
        (|b| put32(b, 0x4, 1), Kind::Geometry, "1 blocks"),
        (|b| put32(b, 0x150, u32::MAX), Kind::Geometry, "blocks"),
        (|b| put32(b, 0x4, 20_000), Kind::Geometry, "inodes in"),
        (|b| put16(b, 0x58, 100), Kind::Geometry, "inode size 100"),
        (|b| put16(b, 0x58, 2048), Kind::Geometry, "inode size 2048"),
        (|b| put32(b, 0x54, 3), Kind::Geometry, "first inode is 3"),
        (|b| put16(b, 0xfe, 32), Kind::Geometry, "descriptor size 32"),
        (|b| put16(b, 0xfe, 96), Kind::Geometry, "descriptor size 96"),
        (|b| put16(b, 0xfe, 0), Kind::Geometry, "descriptor size 0"),
        (|b| put32(b, 0x28, 0), Kind::Geometry, "0 inodes per group"),
        (|b| put32(b, 0x28, 2052), Kind::Geometry, "inodes per group"),
        (
            |b| put16(b, 0xce, 257),
            Kind::Geometry,
            "reserved descriptor",
        ),
        (
            |b| {
                put32(b, 0x60, 0x10);
                put32(b, 0x104, 2);
            },
            Kind::Geometry,
            "first meta block group",
        ),
        (
            |b| {
                put32(b, 0x64, 0x400);
                b[0x175] = 9;
            },
            Kind::Feature,
            "checksum algorithm 9",
        ),
    ];
    for (change, kind, reason) in cases {
        let mut raw = good.clone();
        change(&mut raw);
        let e = SuperBlock::parse(&raw, 1, crc::FNS).expect_err(reason);
        assert_eq!(e.kind, kind, "{e}");
        assert!(e.to_string().contains(reason), "{e} but {reason}");
    }
    let e = SuperBlock::parse(&good, 1 << 40, crc::FNS).expect_err("sb= out of range");
    assert_eq!(e.kind, Kind::Geometry);
    let sb = SuperBlock::parse(&good, 1, crc::FNS).expect("a volume");
    assert_eq!(sb.check_device(8 << 20), Ok(()));
    assert_eq!(
        sb.check_device((8 << 20) - 1).map_err(|e| e.kind),
        Err(Kind::Geometry)
    );
}

/// Files can be rescued from a volume whose group descriptors have wrong checksums.
#[test]
fn a_group_with_a_wrong_checksum_can_be_read() {
    let dir = scratch("corrupt-group-sum");
    let src = dir.join("source");
    std::fs::create_dir_all(&src).expect("a directory");
    write(src.join("file"), b"rescued");
    let image = Image::make(&dir, 8 << 20, "-t ext4 -b 1024", Some(&src));
    let mut bytes = image.bytes();
    let (block, offset) = image.open().geo().desc_location(Group(0)).expect("a place");
    let at = block.0 as usize * 1024 + offset as usize;
    bytes[at + 0x1e] ^= 1;
    let raw = bytes[at..at + 64].to_vec();
    let mut volume = Volume::open(bytes, crc::FNS).expect("the volume opens");
    let e = GroupDesc::verify(&raw, Group(0), volume.geo()).expect_err("a wrong checksum");
    assert_eq!(e.kind, Kind::Checksum);
    volume.verify = false;
    let file = volume.path("/file").expect("the file");
    assert_eq!(volume.read(&file, 0, 100).expect("its bytes"), b"rescued");
}

/// Each kind of metadata, changed by one bit, is found by its checksum and by nothing else.
#[test]
fn every_checksum_catches_a_flipped_bit() {
    let dir = scratch("corrupt-sums");
    let src = dir.join("source");
    std::fs::create_dir_all(src.join("big")).expect("a directory");
    let pieces: Vec<(u64, usize)> = (0..20).map(|i| (i * 4096, 1024)).collect();
    common::sparse(&src.join("file"), 20 * 4096, &pieces);
    for i in 0..100 {
        write(src.join(format!("big/{i}-{}", "x".repeat(100))), b"");
    }
    let image = Image::make(&dir, 8 << 20, "-t ext4 -b 1024 -O ^has_journal", Some(&src));
    let value = dir.join("value");
    write(value.clone(), &noise(1, 500));
    image.change(&[&format!("ea_set -f {} file user.x", value.display())]);
    image.index_dirs();

    let volume = image.open();
    let geo = *volume.geo();
    let bytes = image.bytes();
    let at = |pblk: Pblk, offset: u32| (pblk.0 * 1024) as usize + offset as usize;
    let inode_at = |ino: Ino| {
        let (group, index) = geo.inode_index(ino).expect("in range");
        let desc = volume.group(group).expect("a descriptor");
        let (pblk, offset) = desc.inode_location(index, &geo).expect("in range");
        at(pblk, offset)
    };
    let file = volume.path("/file").expect("the file");
    let big = volume.path("/big").expect("the directory");
    let leaf = |lblk: u32| match volume.map(&big, Lblk(lblk)).expect("it maps") {
        Step::Extent(run) => at(
            run.from(Lblk(lblk))
                .and_then(|run| run.pblk())
                .expect("in the run"),
            0,
        ),
        step => panic!("{step:?}"),
    };
    let Ok(Step::Descend(extents)) = map::start(&file, Lblk(0), &geo) else {
        panic!("no extent block");
    };
    let desc = volume.group(Group(0)).expect("a descriptor");
    let (desc_block, _) = geo.desc_location(Group(0)).expect("in range");

    type Read = fn(&Volume<Vec<u8>>) -> std::result::Result<(), Fail>;
    let list: Read = |v| v.list(&v.path("/big")?).map(drop);
    let cases: [(&str, usize, Read); 10] = [
        ("superblock", 1024 + 0x30, |_| Ok(())),
        ("group descriptor", at(desc_block, 0xc), |v| {
            v.group(Group(0)).map(drop)
        }),
        ("block bitmap", at(desc.block_bitmap, 7), |v| {
            v.check_bitmaps(Group(0)).map(drop)
        }),
        ("inode bitmap", at(desc.inode_bitmap, 7), |v| {
            v.check_bitmaps(Group(0)).map(drop)
        }),
        ("inode", inode_at(file.ino) + 0x10, |v| {
            v.path("/file").map(drop)
        }),
        ("inode", inode_at(file.ino) + 0x88, |v| {
            v.path("/file").map(drop)
        }),
        ("extent node", at(extents.pblk, 900), |v| {
            v.map(&v.path("/file")?, Lblk(0)).map(drop)
        }),
        ("directory block", leaf(3) + 8, list),
        ("directory index", leaf(0) + 40, |v| {
            v.list_hashed(&v.path("/big")?).map(drop)
        }),
        (
            "attribute block",
            at(file.xattr_block.expect("a block"), 500),
            |v| v.xattrs(&v.path("/file")?).map(drop),
        ),
    ];
    for (name, offset, read) in cases {
        let mut changed = bytes.clone();
        changed[offset] ^= 0x10;
        let result = Volume::open(changed, crc::FNS).and_then(|v| read(&v));
        match result {
            Err(Fail::Layout(e)) => {
                assert_eq!(e.kind, Kind::Checksum, "{name}: {e}");
                assert!(e.to_string().starts_with(name), "{name}: {e}");
            }
            other => panic!("{name}: {other:?}"),
        }
        let good = Volume::open(bytes.clone(), crc::FNS).and_then(|v| read(&v));
        assert_eq!(good, Ok(()), "{name}");
    }
}

/// Builds a node of an extent tree from its header's numbers and raw entries.
fn extents(size: usize, header: [u16; 4], entries: &[[u32; 3]]) -> Vec<u8> {
    let mut data = vec![0; size];
    for (i, v) in header.into_iter().enumerate() {
        put16(&mut data, i * 2, v);
    }
    for (i, entry) in entries.iter().enumerate() {
        for (j, v) in entry.iter().enumerate() {
            put32(&mut data, 12 + i * 12 + j * 4, *v);
        }
    }
    data
}

#[test]
fn bad_extents_are_refused() {
    let geo = plain();
    let owner = geo.csum().owner(Ino(12), 0);
    let magic = 0xf30a;
    let at = |depth| TreeBlock {
        pblk: Pblk(50),
        depth,
        first: Lblk(10),
        end: Lblk(100),
        tree: map::Tree::Extents,
    };
    // Length and block of an extent, and block of an index entry.
    let leaf = |lblk: u32, len: u32, pblk: u32| [lblk, len, pblk];
    let good = extents(
        1024,
        [magic, 2, 84, 0],
        &[leaf(10, 5, 100), leaf(20, 80, 200)],
    );
    let node = extent::ExtentNode::block(&good, &at(0), &geo).expect("a node");
    node.verify(&owner, &geo).expect("it verifies");
    let step = |lblk| at(0).step(&good, Lblk(lblk), &geo).expect("it maps");
    assert!(matches!(step(14), Step::Extent(r) if r.pblk() == Some(Pblk(100)) && r.len == 5));
    assert_eq!(step(15), Step::Hole { until: Lblk(20) });
    assert!(matches!(step(99), Step::Extent(r) if r.from(Lblk(99)).is_some_and(|r| r.len == 1)));
    assert!(at(0).step(&good, Lblk(100), &geo).is_err());
    assert!(at(0).step(&good, Lblk(9), &geo).is_err());

    let index = |lblk: u32, pblk: u32| [lblk, pblk, 0];
    let cases = [
        (0, [1, 1, 84, 0], vec![], "bad magic 0x1"),
        (0, [magic, 1, 84, 1], vec![], "depth 1, not 0"),
        (0, [magic, 1, 0, 0], vec![], "room for 0"),
        (0, [magic, 1, 85, 0], vec![], "room for 85"),
        (0, [magic, 85, 84, 0], vec![], "85 entries with room for 84"),
        (1, [magic, 0, 84, 1], vec![], "no entries at depth 1"),
        (
            0,
            [magic, 1, 84, 0],
            vec![leaf(11, 1, 100)],
            "its parent says 10",
        ),
        (0, [magic, 1, 84, 0], vec![leaf(10, 0, 100)], "0 blocks"),
        (
            0,
            [magic, 1, 84, 0],
            vec![leaf(10, 5, 0)],
            "not on the volume",
        ),
        (
            0,
            [magic, 1, 84, 0],
            vec![leaf(10, 5, 1)],
            "not on the volume",
        ),
        (
            0,
            [magic, 1, 84, 0],
            vec![leaf(10, 5, 8188)],
            "not on the volume",
        ),
        (
            0,
            [magic, 1, 84, 0],
            vec![leaf(10, 0x1_0005, 100)],
            "not on the volume",
        ),
        (0, [magic, 1, 84, 0], vec![leaf(10, 91, 100)], "past 100"),
        (
            0,
            [magic, 2, 84, 0],
            vec![leaf(10, 5, 100), leaf(14, 5, 200)],
            "14 where 15 is",
        ),
        (
            0,
            [magic, 2, 84, 0],
            vec![leaf(10, 5, 100), leaf(100, 5, 200)],
            "entry for block 100",
        ),
        (
            1,
            [magic, 1, 84, 1],
            vec![index(10, 9000)],
            "not on the volume",
        ),
        (
            1,
            [magic, 2, 84, 1],
            vec![index(10, 100), index(10, 101)],
            "10 where 11 is",
        ),
    ];
    for (depth, header, entries, reason) in cases {
        let data = extents(1024, header, &entries);
        let e = at(depth).verify(&data, &owner, &geo).expect_err(reason);
        assert_eq!(e.kind, Kind::Corrupt);
        assert!(e.to_string().contains(reason), "{e} but {reason}");
    }
    let mut inode = [0; 60];
    inode.copy_from_slice(&extents(60, [magic, 1, 4, 6], &[index(0, 100)]));
    assert!(extent::ExtentNode::root(&inode).is_err(), "too deep");
}

#[test]
fn five_levels_of_index_are_followed_and_no_more() {
    let geo = plain();
    let magic = 0xf30a;
    let mut block = [0; 60];
    block.copy_from_slice(&extents(60, [magic, 1, 4, 5], &[[0, 100, 0]]));
    let mut raw = vec![0; 256];
    put16(&mut raw, 0, 0o100_644);
    put16(&mut raw, 0x1a, 1);
    put32(&mut raw, 0x20, InodeFlags::EXTENTS.0);
    raw[0x28..0x64].copy_from_slice(&block);
    let inode = Inode::parse(&raw, Ino(12), &geo).expect("an inode");
    let mut step = map::start(&inode, Lblk(7), &geo).expect("a step");
    let mut levels = 0;
    while let Step::Descend(node) = step {
        levels += 1;
        let data = match node.depth {
            0 => extents(1024, [magic, 1, 84, 0], &[[0, 9, 300]]),
            // Every node points to itself, which the depth forbids to matter.
            depth => extents(1024, [magic, 1, 84, depth.into()], &[[0, 100, 0]]),
        };
        step = node.step(&data, Lblk(7), &geo).expect("a step");
    }
    assert_eq!(levels, 5);
    assert!(matches!(step, Step::Extent(r) if r.pblk() == Some(Pblk(300))));
}

#[test]
fn bad_inodes_are_refused() {
    let geo = plain();
    let mut good = vec![0; 256];
    put16(&mut good, 0, 0o100_644);
    put16(&mut good, 0x1a, 1);
    put16(&mut good, 0x80, 32);
    assert!(Inode::parse(&good, Ino(12), &geo).is_ok());
    let cases: [(Change, Kind, &str); 14] = [
        (|b| b.fill(0), Kind::Stale, "not in use"),
        (|b| put16(b, 0x1a, 0), Kind::Stale, "not in use"),
        (|b| put16(b, 0, 0o170_000), Kind::Corrupt, "mode 0xf000"),
        (|b| put16(b, 0x80, 132), Kind::Corrupt, "extra size 132"),
        (|b| put16(b, 0x80, 30), Kind::Corrupt, "extra size 30"),
        (|b| put64(b, 0x6c, 0xffff_ffff), Kind::Corrupt, "size"),
        (
            |b| put32(b, 0x68, 8192),
            Kind::Corrupt,
            "attribute block 8192",
        ),
        (
            |b| put32(b, 0x20, 0x1008_0000),
            Kind::Corrupt,
            "both inline data",
        ),
        (
            |b| put32(b, 0x20, 0x1000_0000),
            Kind::Corrupt,
            "without the feature",
        ),
        (|b| put32(b, 0x20, 0x4000_0000), Kind::Corrupt, "casefolded"),
        (|b| put32(b, 0x20, 0x800), Kind::Corrupt, "encrypted"),
        (
            |b| put16(b, 0, 0o120_777),
            Kind::Corrupt,
            "symbolic link of 0 bytes",
        ),
        (
            |b| {
                put16(b, 0, 0o120_777);
                put32(b, 4, 3);
                b[0x28] = b'x';
            },
            Kind::Corrupt,
            "symbolic link of 3 bytes",
        ),
        (
            |b| {
                put16(b, 0, 0o120_777);
                put32(b, 4, 20);
                b[0x28..0x28 + 30].fill(b'x');
            },
            Kind::Corrupt,
            "symbolic link of 20 bytes",
        ),
    ];
    for (change, kind, reason) in cases {
        let mut raw = good.clone();
        change(&mut raw);
        let e = Inode::parse(&raw, Ino(12), &geo).expect_err(reason);
        assert_eq!(e.kind, kind, "{e}");
        assert!(e.to_string().contains(reason), "{e} but {reason}");
    }
    let mut orphan = good.clone();
    put16(&mut orphan, 0x1a, 0);
    assert!(Inode::parse_orphan(&orphan, Ino(12), &geo).is_ok());
    for ino in [0, 2049, u32::MAX] {
        let e = Inode::parse(&good, Ino(ino), &geo).expect_err("out of range");
        assert!(e.to_string().contains("out of range"));
    }
    assert!(Inode::parse(&good[..255], Ino(12), &geo).is_err());
}

#[test]
fn bad_group_descriptors_are_refused() {
    let geo = plain();
    let mut good = vec![0; 32];
    put32(&mut good, 0, 100);
    put32(&mut good, 4, 101);
    put32(&mut good, 8, 102);
    assert!(GroupDesc::parse(&good, Group(0), &geo).is_ok());
    for (at, value, reason) in [
        (0, 1, "block bitmap at block 1"),
        (0, 8192, "block bitmap"),
        (4, 0, "inode bitmap"),
        (8, 8192 - 511, "inode table"),
        (8, u32::MAX, "inode table"),
    ] {
        let mut raw = good.clone();
        put32(&mut raw, at, value);
        let e = GroupDesc::parse(&raw, Group(0), &geo).expect_err(reason);
        assert!(e.to_string().contains(reason), "{e}");
    }
    let desc = GroupDesc::parse(&good, Group(0), &geo).expect("a descriptor");
    assert!(desc.inode_location(2048, &geo).is_err());
    assert_eq!(desc.inode_location(5, &geo), Ok((Pblk(103), 256)));
    assert!(geo.desc_location(Group(1)).is_err());
}

#[test]
fn bad_attributes_are_refused() {
    let geo = plain();
    let mut good = vec![0; 1024];
    put32(&mut good, 0, 0xea02_0000);
    put32(&mut good, 4, 1);
    put32(&mut good, 8, 1);
    // "user.name" with eight bytes at the end.
    good[32] = 4;
    good[33] = 1;
    put16(&mut good, 34, 1016);
    put32(&mut good, 40, 8);
    good[48..52].copy_from_slice(b"name");
    let set = XattrSet::in_block(&good, &geo).expect("a set");
    let x = set.find(xattr::INDEX_USER, b"name").expect("it is there");
    assert_eq!(x.value, XattrValue::Here(&[0; 8]));
    let cases: [Change; 11] = [
        |b| put32(b, 0, 1),
        |b| put32(b, 8, 2),
        |b| b[50] = 0,
        |b| put16(b, 34, 1018),
        |b| put16(b, 34, 1024),
        |b| put16(b, 34, 52),
        |b| put32(b, 40, 9),
        |b| put32(b, 40, (1 << 24) + 1),
        |b| put32(b, 36, 13),
        |b| b[32..].fill(1),
        |b| b.truncate(1000),
    ];
    for (i, change) in cases.into_iter().enumerate() {
        let mut raw = good.clone();
        change(&mut raw);
        let e = XattrSet::in_block(&raw, &geo).expect_err("a refusal");
        assert_eq!(e.kind, Kind::Corrupt, "case {i}");
    }
}
