// SPDX-License-Identifier: GPL-2.0

//! Block maps, inode fields, attributes and inline data, one property at a time.

mod common;

use std::fs;

use common::{noise, scratch, sparse, write, Image};
use layout_host::layout::*;

/// Asks debugfs for the blocks of a file and compares them with ours; returns how many are mapped.
fn compare_bmap(image: &Image, path: &str, probes: &[u32]) -> usize {
    let volume = image.open();
    let inode = volume.path(path).expect("the path resolves");
    let commands: Vec<String> = probes.iter().map(|l| format!("bmap {path} {l}")).collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let mut mapped = 0;
    for (&lblk, theirs) in probes.iter().zip(image.ask(&commands)) {
        let ours = match volume.map(&inode, Lblk(lblk)).expect("the map reads") {
            Step::Extent(run) => {
                mapped += 1;
                let run = run.from(Lblk(lblk)).expect("the run holds the block");
                let mark = if run.is_unwritten() { " (uninit)" } else { "" };
                format!("{}{mark}", run.pblk().expect("no hole"))
            }
            _ => "0".to_string(),
        };
        assert_eq!(theirs.trim(), ours, "{path} block {lblk}");
    }
    mapped
}

#[test]
fn files_beyond_4_gib() {
    let dir = scratch("files-large");
    let src = dir.join("source");
    fs::create_dir(&src).expect("a directory");
    let far = 5 << 30;
    let pieces = sparse(
        &src.join("large"),
        far + 123_456,
        &[
            (0, 5000),
            (4 << 30, 70_000),
            ((4 << 30) - 3000, 2000),
            (far, 123_456),
        ],
    );
    for options in [
        "-t ext4 -b 4096",
        "-t ext2 -b 4096",
        "-t ext4 -b 1024 -O ^extent,^64bit",
    ] {
        let image = Image::make(&dir, 64 << 20, options, Some(&src));
        let volume = image.open();
        let inode = volume.path("/large").expect("the file");
        assert_eq!(inode.size, far + 123_456, "{options}");
        for (at, data) in &pieces {
            let read = volume
                .read(&inode, *at, data.len())
                .expect("the piece reads");
            assert!(read == *data, "{options} at {at}");
        }
        let hole = volume
            .read(&inode, 1 << 30, 100_000)
            .expect("the hole reads");
        assert!(hole.iter().all(|&b| b == 0));
        let blocks = |bytes: u64| (bytes >> volume.geo().block_bits()) as u32;
        let probes = [
            0,
            1,
            20,
            blocks(1 << 30),
            blocks(4 << 30),
            blocks(far),
            blocks(far) - 1,
        ];
        assert!(compare_bmap(&image, "/large", &probes) >= 3);
    }
}

#[test]
fn indirect_maps_of_every_depth() {
    let dir = scratch("files-indirect");
    let src = dir.join("source");
    fs::create_dir(&src).expect("a directory");
    // With blocks of 1 KiB the trees start at blocks 12, 268 and 65,804.
    let edges = [
        0u32, 11, 12, 13, 267, 268, 269, 523, 524, 65_803, 65_804, 66_059, 66_060, 131_340,
    ];
    let far = [131_341u32, 1_000_000, 4_000_000];
    let pieces: Vec<(u64, usize)> = edges
        .iter()
        .chain(&far)
        .map(|&b| (u64::from(b) * 1024, if b == 12 { 3000 } else { 1024 }))
        .collect();
    let size = 4_000_001 * 1024;
    let data = sparse(&src.join("file"), size, &pieces);
    let image = Image::make(&dir, 16 << 20, "-t ext2 -b 1024", Some(&src));
    let volume = image.open();
    let inode = volume.path("/file").expect("the file");
    assert_eq!(inode.data_map(), DataMap::Indirect);
    for (at, data) in data.iter().rev().skip(3) {
        // The third piece overlaps its neighbour on purpose.
        if *at != 12 * 1024 {
            assert!(volume.read(&inode, *at, data.len()).expect("it reads") == *data);
        }
    }
    let mut probes: Vec<u32> = edges.iter().chain(&far).copied().collect();
    probes.extend([14, 15, 100, 266, 525, 60_000, 65_802, 66_061, 3_999_999]);
    assert!(compare_bmap(&image, "/file", &probes) >= edges.len() + far.len());

    // A hole is told as a whole, over pointers that are missing at any level.
    match volume.map(&inode, Lblk(1_000_001)).expect("it maps") {
        Step::Hole { until } => assert!(until.0 > 1_000_100 && until.0 <= 4_000_000),
        step => panic!("{step:?}"),
    }
    // All holes and runs together take few steps, however large the file may be.
    volume.reads.set(0);
    let runs = volume.runs(&inode, Lblk::END).expect("the map reads");
    assert!(volume.reads.get() < 300, "{} reads", volume.reads.get());
    assert!(runs.iter().map(|r| r.len).sum::<u32>() >= 17);
}

#[test]
fn a_run_of_direct_and_indirect_blocks_is_one_step() {
    let dir = scratch("files-contiguous");
    let src = dir.join("source");
    fs::create_dir(&src).expect("a directory");
    write(src.join("file"), &noise(3, 200 << 10));
    let image = Image::make(&dir, 16 << 20, "-t ext2 -b 1024", Some(&src));
    let volume = image.open();
    let inode = volume.path("/file").expect("the file");
    for (lblk, least) in [(0u32, 12u32), (12, 100), (50, 100)] {
        match volume.map(&inode, Lblk(lblk)).expect("it maps") {
            Step::Extent(run) => assert!(run.from(Lblk(lblk)).is_some_and(|r| r.len >= least)),
            step => panic!("{step:?}"),
        }
    }
}

#[test]
fn extent_trees_of_several_levels() {
    let dir = scratch("files-extents");
    let src = dir.join("source");
    fs::create_dir(&src).expect("a directory");
    // Every other block, so that each is an extent of its own.
    let pieces: Vec<(u64, usize)> = (0..12_000u64).map(|i| (i * 2048, 1024)).collect();
    let data = sparse(&src.join("file"), 12_000 * 2048, &pieces);
    let image = Image::make(
        &dir,
        40 << 20,
        "-t ext4 -b 1024 -O ^has_journal",
        Some(&src),
    );
    let volume = image.open();
    let inode = volume.path("/file").expect("the file");
    let depth = extent::ExtentNode::root(&inode.block)
        .expect("a root")
        .depth();
    assert!(depth >= 2, "depth {depth}");
    let all = volume.read(&inode, 0, usize::MAX).expect("it reads");
    for (at, data) in &data {
        assert!(all[*at as usize..][..1024] == *data, "at {at}");
        assert!(all[*at as usize + 1024..][..1024].iter().all(|&b| b == 0));
    }
    let probes: Vec<u32> = (0..24_000).step_by(997).collect();
    assert!(compare_bmap(&image, "/file", &probes) > 10);
    match volume.map(&inode, Lblk(24_001)).expect("it maps") {
        Step::Hole { until } => assert_eq!(until, Lblk::END),
        step => panic!("{step:?}"),
    }
}

#[test]
fn unwritten_extents_read_as_zeros() {
    let dir = scratch("files-unwritten");
    let src = dir.join("source");
    fs::create_dir(&src).expect("a directory");
    write(src.join("file"), &noise(1, 10_000));
    let image = Image::make(&dir, 16 << 20, "-t ext4 -b 1024", Some(&src));
    image.change(&["fallocate /file 20 60", "sif /file size 61000"]);
    let volume = image.open();
    let inode = volume.path("/file").expect("the file");
    let data = volume.read(&inode, 0, usize::MAX).expect("it reads");
    assert_eq!(data.len(), 61_000);
    assert!(data[..10_000] == noise(1, 10_000) && data[10_000..].iter().all(|&b| b == 0));
    let unwritten = volume.runs(&inode, Lblk(70)).expect("the map reads");
    assert!(unwritten
        .iter()
        .any(|r| r.is_unwritten() && r.lblk == Lblk(20) && r.len == 41));
    compare_bmap(&image, "/file", &[0, 9, 10, 19, 20, 60, 61]);
}

#[test]
fn times_owners_and_numbers() {
    let dir = scratch("files-fields");
    let src = dir.join("source");
    fs::create_dir(&src).expect("a directory");
    for name in ["a", "b", "c", "d"] {
        write(src.join(name), b"x");
    }
    let options = "-t ext4 -b 1024 -O quota,project,metadata_csum";
    let image = Image::make(&dir, 16 << 20, options, Some(&src));
    image.change(&[
        // The first time beyond 32 bits, with nanoseconds.
        "sif a mtime 0x80000000",
        "sif a mtime_extra 0x1d6f3455",
        "sif a atime 0xffffffff",
        "sif a atime_extra 0x0",
        "sif a ctime 0x7fffffff",
        "sif a ctime_extra 0x3",
        "sif a crtime 0x12345678",
        "sif a crtime_extra 0xffffffff",
        "sif a uid 70001",
        "sif a gid 4000000000",
        "sif a projid 12345",
        "sif a generation 0xcafe1234",
        "sif a links_count 17",
        // The version's name is that of its low half.
        "sif a version 0x55667788",
        "sif a version_hi 0x11223344",
        // Space in file-system blocks, and in sectors with 48 bits.
        "sif b flags 0xc0000",
        "sif b blocks 10",
        "sif c blocks 0x123",
        "sif c blocks_hi 0x2",
        "sif d file_acl 0",
    ]);
    let volume = image.open();
    let a = volume.path("/a").expect("the file");
    assert_eq!(
        a.mtime,
        Time {
            secs: 0x8000_0000,
            nanos: 0x1d6f_3455 >> 2
        }
    );
    assert_eq!(a.atime, Time { secs: -1, nanos: 0 });
    assert_eq!(
        a.ctime,
        Time {
            secs: 0x3_7fff_ffff,
            nanos: 0
        }
    );
    let crtime = Time {
        secs: 0x3_1234_5678,
        nanos: 999_999_999,
    };
    assert_eq!(a.crtime, Some(crtime));
    assert_eq!((a.uid, a.gid, a.project), (70_001, 4_000_000_000, 12_345));
    assert_eq!((a.generation, a.links), (0xcafe_1234, 17));
    assert_eq!(a.version, 0x1122_3344_5566_7788);
    assert_eq!(volume.path("/b").expect("the file").sectors, 20);
    assert_eq!(volume.path("/c").expect("the file").sectors, 0x2_0000_0123);
    assert_eq!(volume.path("/d").expect("the file").project, 0);
}

/// tune2fs and old tools make inodes larger and leave the size of the extra fields 0. ext4 then
/// takes the fields that it knows for used, and looks for no attributes behind them.
#[test]
fn extra_fields_of_unknown_size() {
    let dir = scratch("files-extra-size-0");
    let src = dir.join("source");
    fs::create_dir(&src).expect("a directory");
    write(src.join("a"), b"x");
    let options = "-t ext4 -b 1024 -O project,^metadata_csum";
    let image = Image::make(&dir, 16 << 20, options, Some(&src));
    image.change(&[
        "sif a mtime 0x01000000",
        "sif a mtime_extra 0x781",
        "sif a crtime 0x12345678",
        "sif a crtime_extra 0x2",
        "sif a projid 12345",
        "sif a version 0x55667788",
        "sif a version_hi 0x11223344",
        "sif a extra_isize 0",
    ]);
    let a = image.open().path("/a").expect("the file");
    let (secs, nanos) = (0x1_0100_0000, 0x1e0);
    assert_eq!(a.mtime, Time { secs, nanos });
    let (secs, nanos) = (0x2_1234_5678, 0);
    assert_eq!(a.crtime, Some(Time { secs, nanos }));
    assert_eq!(a.version, 0x1122_3344_5566_7788);
    assert_eq!((a.project, a.extra_isize), (0, 32));
    assert_eq!(a.xattr_offset, None);
}

#[test]
fn devices_in_both_encodings() {
    let dir = scratch("files-devices");
    let image = Image::make(&dir, 16 << 20, "-t ext4 -b 1024", None);
    image.change(&[
        "mknod small c 4 65",
        "mknod middle b 300 65000",
        "mknod large b 1 256",
        // Major 4,095 and minor 1,048,575: all bits of the new encoding.
        "sif large block[1] 0xffffffff",
        "mknod pipe p",
        "mknod zero c 0 0",
    ]);
    let volume = image.open();
    let get = |name: &str| volume.path(name).expect("the device");
    assert_eq!(
        get("small").device,
        Some(Device {
            major: 4,
            minor: 65
        })
    );
    assert_eq!(get("small").file_type, FileType::CharDevice);
    assert_eq!(
        get("middle").device,
        Some(Device {
            major: 300,
            minor: 65_000
        })
    );
    assert_eq!(
        get("large").device,
        Some(Device {
            major: 4095,
            minor: 0xf_ffff
        })
    );
    assert_eq!(get("large").file_type, FileType::BlockDevice);
    assert_eq!(get("zero").device, Some(Device { major: 0, minor: 0 }));
    assert_eq!(
        (get("pipe").file_type, get("pipe").device),
        (FileType::Fifo, None)
    );
    assert_eq!(get("pipe").data_map(), DataMap::None);
    assert_eq!(
        map::start(&get("pipe"), Lblk(0), volume.geo()).map_err(|e| e.kind),
        Err(Kind::Corrupt)
    );
}

#[test]
fn attributes_in_inode_block_and_other_inodes() {
    let dir = scratch("files-xattrs");
    let src = dir.join("source");
    fs::create_dir(&src).expect("a directory");
    for name in ["file", "lonely", "other"] {
        write(src.join(name), b"x");
    }
    let values = [
        ("user.small", noise(1, 10)),
        ("user.empty", Vec::new()),
        ("user.middle", noise(2, 60)),
        ("trusted.block", noise(3, 400)),
        ("security.more", noise(4, 300)),
        ("user.one-block", noise(5, 4000)),
        ("user.large", noise(6, 20_000)),
        ("user.n\u{e4}me", noise(7, 3900)),
    ];
    for (options, how_many) in [
        ("-t ext4 -b 1024 -O ea_inode,metadata_csum", 8),
        (
            "-t ext4 -b 4096 -O ea_inode,metadata_csum_seed,inline_data",
            8,
        ),
        ("-t ext4 -b 4096 -O ea_inode,^metadata_csum", 8),
        ("-t ext4 -b 1024 -I 512 -O metadata_csum", 5),
        ("-t ext2 -b 1024 -I 128", 4),
    ] {
        let image = Image::make(&dir, 16 << 20, options, Some(&src));
        // debugfs reads no more than a block of a value.
        let block_size = image.open().geo().block_size() as usize;
        let cut = |value: &[u8]| value[..value.len().min(block_size)].to_vec();
        for (i, (name, value)) in values.iter().take(how_many).enumerate() {
            let file = dir.join(format!("value-{i}"));
            write(file.clone(), value);
            image.change(&[&format!("ea_set -f {} file {name}", file.display())]);
        }
        let volume = image.open();
        let mut found = volume
            .xattrs(&volume.path("/file").expect("the file"))
            .expect("they read");
        found.retain(|(name, _)| name != "system.data");
        found.sort();
        let mut expected: Vec<(String, Vec<u8>)> = values[..how_many]
            .iter()
            .map(|(n, v)| (n.to_string(), cut(v)))
            .collect();
        expected.sort();
        let sizes: Vec<_> = found.iter().map(|(n, v)| (n, v.len())).collect();
        assert!(found == expected, "{options}: {sizes:?}");
        let lonely = volume.path("/lonely").expect("the file");
        let lonely = volume.xattrs(&lonely).expect("they read");
        assert!(lonely.iter().all(|(name, _)| name == "system.data"));
        assert_eq!(volume.walk().expect("no limit"), 0, "{options}");

        // Those that did not fit are in inodes of their own.
        let inode = volume.path("/file").expect("the file");
        let raw = volume.raw_inode(inode.ino).expect("it reads");
        let block = volume
            .block(inode.xattr_block.expect("a block"))
            .expect("it reads");
        let in_inode = XattrSet::in_inode(&raw, &inode, volume.geo()).expect("it parses");
        let in_block = XattrSet::in_block(&block, volume.geo()).expect("it parses");
        let all = in_inode
            .iter()
            .flat_map(|set| set.iter())
            .chain(in_block.iter());
        let elsewhere = all.filter(|x| matches!(x.value, XattrValue::Inode(_)));
        let feature = volume.geo().has_incompat(Incompat::EA_INODE);
        assert_eq!(elsewhere.count() > 0, feature, "{options}");
    }
}

#[test]
fn names_split_at_their_prefix() {
    for (full, split) in [
        (&b"user.x"[..], Some((xattr::INDEX_USER, &b"x"[..]))),
        (b"user.", Some((xattr::INDEX_USER, b""))),
        (
            b"security.selinux",
            Some((xattr::INDEX_SECURITY, b"selinux")),
        ),
        (
            b"system.posix_acl_access",
            Some((xattr::INDEX_POSIX_ACL_ACCESS, b"")),
        ),
        (
            b"system.posix_acl_default",
            Some((xattr::INDEX_POSIX_ACL_DEFAULT, b"")),
        ),
        (
            b"system.posix_acl_accessx",
            Some((xattr::INDEX_SYSTEM, b"posix_acl_accessx")),
        ),
        (b"system.data", Some((xattr::INDEX_SYSTEM, b"data"))),
        (b"nothing.x", None),
        (b"user", None),
    ] {
        assert_eq!(xattr::split_name(full), split);
    }
    assert_eq!(xattr::prefix(4), Some("trusted."));
    assert_eq!(xattr::prefix(99), None);
}

#[test]
fn access_control_lists() {
    let dir = scratch("files-acl");
    let src = dir.join("source");
    fs::create_dir(&src).expect("a directory");
    write(src.join("file"), b"x");
    let image = Image::make(&dir, 16 << 20, "-t ext4 -b 1024", Some(&src));
    // What user space hands over: version 2, and entries of eight bytes.
    let entries: [(u16, u16, u32); 6] = [
        (0x01, 6, u32::MAX),
        (0x02, 4, 1000),
        (0x02, 7, 70_000),
        (0x04, 5, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    let file = dir.join("acl");
    write(file.clone(), &value);
    image.change(&[&format!(
        "ea_set -f {} file system.posix_acl_access",
        file.display()
    )]);

    let volume = image.open();
    let inode = volume.path("/file").expect("the file");
    let xattrs = volume.xattrs(&inode).expect("they read");
    assert_eq!(xattrs[0].0, "system.posix_acl_access");
    let acl = Acl::parse(&xattrs[0].1)
        .expect("it parses")
        .expect("it is not empty");
    assert_eq!(acl.count(), 6);
    let entry = |tag, perm| AclEntry { tag, perm };
    let expected = [
        entry(AclTag::UserObj, 6),
        entry(AclTag::User(1000), 4),
        entry(AclTag::User(70_000), 7),
        entry(AclTag::GroupObj, 5),
        entry(AclTag::Mask, 7),
        entry(AclTag::Other, 0),
    ];
    assert_eq!(acl.iter().collect::<Vec<_>>(), expected);
    let codes: Vec<u16> = acl.iter().map(|e| e.tag.code()).collect();
    assert_eq!(codes, entries.map(|e| e.0));

    let disk = |entries: &[(u16, u16)]| {
        let mut value = 1u32.to_le_bytes().to_vec();
        for &(tag, perm) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(perm.to_le_bytes());
            if tag == 2 || tag == 8 {
                value.extend(7u32.to_le_bytes());
            }
        }
        value
    };
    assert!(Acl::parse(&disk(&[(1, 7), (4, 5), (0x20, 1)])).is_ok_and(|a| a.is_some()));
    assert!(Acl::parse(&disk(&[])).is_ok_and(|a| a.is_none()));
    for bad in [
        disk(&[(1, 7), (4, 5)]),
        disk(&[(1, 7), (2, 5), (4, 5), (0x20, 1)]),
        disk(&[(1, 8), (4, 5), (0x20, 1)]),
        disk(&[(4, 5), (1, 7), (0x20, 1)]),
        disk(&[(1, 7), (4, 5), (0x20, 1), (0x20, 1)]),
        disk(&[(1, 7), (4, 5), (0x40, 1)]),
        vec![1, 0, 0, 0, 1, 0, 7],
        vec![2, 0, 0, 0],
        vec![],
    ] {
        assert_eq!(
            Acl::parse(&bad).map_err(|e| e.kind).err(),
            Some(Kind::Corrupt)
        );
    }
}

#[test]
fn inline_files_and_directories() {
    let dir = scratch("files-inline");
    let src = dir.join("source");
    fs::create_dir(&src).expect("a directory");
    for size in [0usize, 10, 59, 60, 61, 90, 130, 300, 500, 800, 2000] {
        write(src.join(format!("f{size}")), &noise(size as u64, size));
    }
    std::os::unix::fs::symlink("x".repeat(70), src.join("link")).expect("a link");
    for (name, count) in [("d0", 0), ("d3", 3), ("d8", 8), ("d30", 30)] {
        fs::create_dir(src.join(name)).expect("a directory");
        for i in 0..count {
            write(src.join(format!("{name}/{i}")), b"");
        }
    }
    for (options, inline_dirs) in [
        ("-t ext4 -b 4096 -I 256 -O inline_data", 2),
        ("-t ext4 -b 1024 -I 1024 -O inline_data", 2),
    ] {
        let image = Image::make(&dir, 16 << 20, options, Some(&src));
        let volume = image.open();
        let (mut inline, mut spilled, mut dirs) = (0, 0, 0);
        let root = volume.path("").expect("the root");
        for name in common::host_names(&src) {
            let inode = volume
                .inode(volume.lookup(&root, &name).expect("found"))
                .expect("reads");
            let path = src.join(String::from_utf8(name).expect("a plain name"));
            if inode.data_map() == DataMap::Inline {
                inline += 1;
                spilled += u32::from(inode.size > 60);
                dirs += u32::from(inode.is_dir());
            }
            if inode.is_dir() {
                let mut names: Vec<_> = volume.list(&inode).expect("it lists");
                names.retain(|e| e.name != b"." && e.name != b"..");
                names.sort();
                let ours: Vec<_> = names.into_iter().map(|e| e.name).collect();
                assert_eq!(ours, common::host_names(&path));
                assert_eq!(volume.lookup(&inode, b".."), Ok(Ino::ROOT));
            } else if inode.file_type == FileType::Regular {
                let data = volume.read(&inode, 0, usize::MAX).expect("it reads");
                assert!(data == fs::read(&path).expect("the source"), "{path:?}");
                for (at, n) in [(0u64, 7), (55, 10), (60, 100), (65, 3), (1 << 40, 5)] {
                    let part = volume
                        .read(&inode, at.min(inode.size), n)
                        .expect("a part reads");
                    let rest = &data[at.min(inode.size) as usize..];
                    assert_eq!(part, rest[..n.min(rest.len())]);
                }
            } else {
                assert_eq!(volume.read(&inode, 0, 100).expect("it reads"), [b'x'; 70]);
            }
        }
        assert!(inline >= 9 && spilled >= 3, "{options}: {inline} {spilled}");
        assert!(dirs >= inline_dirs, "{options}: {dirs} directories");
    }
}
