// SPDX-License-Identifier: GPL-2.0

//! Inodes that were edited are what the parser, debugfs and e2fsck take them for.

mod common;

use common::edit::{fsck, geo, geo_with, Edited, Rng};
use common::{noise, scratch, write, Image};
use layout_host::layout::inode_edit::*;
use layout_host::layout::*;

/// Volumes that differ in what their inodes can keep.
fn shapes() -> Vec<Geometry> {
    let incompat = Incompat::FILETYPE
        .or(Incompat::EXTENTS)
        .or(Incompat::FLEX_BG);
    let all = RoCompat::HUGE_FILE
        .or(RoCompat::EXTRA_ISIZE)
        .or(RoCompat::PROJECT)
        .or(RoCompat::METADATA_CSUM);
    vec![
        geo(0, incompat, RoCompat(0)),
        geo(2, incompat, all),
        geo(0, incompat.or(Incompat::B64), all),
        geo(6, incompat.or(Incompat::B64), RoCompat::HUGE_FILE),
        // Inodes of 128 bytes, and large ones.
        geo_with(0, incompat, all.without(RoCompat::EXTRA_ISIZE), |raw| {
            raw[0x58] = 128;
            raw[0x59] = 0;
        }),
        geo_with(2, incompat, all, |raw| {
            raw[0x58] = 0;
            raw[0x59] = 2;
        }),
    ]
}

fn any_time(rng: &mut Rng) -> Time {
    Time {
        secs: match rng.below(3) {
            0 => rng.wild() as i64,
            1 => -(rng.wild() as i64 >> 1),
            _ => rng.below(1 << 34) as i64,
        },
        nanos: rng.below(1_000_000_000) as u32,
    }
}

/// What an inode keeps of a time.
fn kept(time: Time, wide: bool) -> Time {
    let max = if wide { 0x3_7fff_ffff } else { 0x7fff_ffff };
    let secs = time.secs.clamp(-0x8000_0000, max);
    Time {
        secs,
        nanos: if wide && secs == time.secs {
            time.nanos
        } else {
            0
        },
    }
}

#[test]
fn what_is_set_is_parsed() {
    let mut rng = Rng(1);
    for geo in shapes() {
        let size = usize::from(geo.inode_size());
        let room = geo.inode_size() - 128;
        for round in 0..3000 {
            let mut raw = noise(round, size + 16);
            let behind = raw[size..].to_vec();
            let extra = match rng.below(3) {
                _ if room == 0 => 0,
                0 => 32,
                1 => rng.below(u64::from(room / 4)) as u16 * 4 + 4,
                _ => 4,
            };
            let ino = Ino(1 + rng.below(2048) as u32);
            let dir = rng.one_in(3);
            let mode = if dir { 0o040_000 } else { 0o100_000 } | rng.below(0o10_000) as u16;
            let (uid, gid, project) = (rng.u32(), rng.u32(), rng.u32());
            let max = geo.max_file_size(true);
            let file_size = match dir {
                true => rng.wild() & 0xffff_ffff,
                false => rng.wild(),
            }
            .min(max);
            let limit = match geo.has_ro_compat(RoCompat::HUGE_FILE) {
                true => 48 + u32::from(geo.block_bits()) - 9,
                false => 32,
            };
            let sectors = (rng.wild() & ((1 << limit) - 1)) >> 7 << 7;
            let flags = InodeFlags::EXTENTS.0 | InodeFlags::NOATIME.0 | InodeFlags::HUGE_FILE.0;
            let times: Vec<Time> = (0..4).map(|_| any_time(&mut rng)).collect();
            let (dtime, generation, version) = (rng.u32(), rng.u32(), rng.next());
            let links = 1 + rng.below(65_000) as u16;
            let xattr_block = rng.one_in(2).then(|| Pblk(2 + rng.below(8190)));
            let block: [u8; 60] = noise(round + 7, 60).try_into().expect("60 bytes");

            let mut edit = InodeEdit::init(&mut raw, extra, &geo).expect("an inode");
            edit.set_mode(mode);
            edit.set_uid(uid);
            edit.set_gid(gid);
            edit.set_size(file_size);
            edit.set_sectors(sectors).expect("it can be kept");
            edit.set_flags(InodeFlags(flags));
            edit.set_time(TimeField::Access, times[0]);
            edit.set_time(TimeField::Modify, times[1]);
            edit.set_time(TimeField::Change, times[2]);
            edit.set_time(TimeField::Create, times[3]);
            edit.set_dtime(dtime);
            edit.set_generation(generation);
            edit.set_version(version);
            edit.set_links(links);
            edit.set_xattr_block(xattr_block);
            edit.set_block(&block);
            let has_project = edit.set_project(project);
            edit.seal(ino);
            assert_eq!(raw[size..], behind, "nothing behind the inode changes");

            let inode = Inode::parse(&raw, ino, &geo).expect("it parses");
            let has = |end: u16| extra + 128 >= end;
            assert_eq!((inode.mode, inode.links), (mode, links));
            assert_eq!((inode.uid, inode.gid), (uid, gid));
            assert_eq!(inode.size, file_size);
            assert_eq!(inode.sectors, sectors, "{limit}");
            let huge = sectors >= 1 << 48;
            assert_eq!(inode.flags.has(InodeFlags::HUGE_FILE), huge);
            assert_eq!(inode.flags.0 | InodeFlags::HUGE_FILE.0, flags);
            assert_eq!(inode.atime, kept(times[0], has(0x90)));
            assert_eq!(inode.mtime, kept(times[1], has(0x8c)));
            assert_eq!(inode.ctime, kept(times[2], has(0x88)));
            let crtime = has(0x94).then(|| kept(times[3], has(0x98)));
            assert_eq!(inode.crtime, crtime);
            assert_eq!((inode.dtime, inode.generation), (dtime, generation));
            let mask = if has(0x9c) { u64::MAX } else { 0xffff_ffff };
            assert_eq!(inode.version, version & mask);
            assert_eq!(inode.xattr_block, xattr_block);
            assert_eq!(inode.block, block);
            assert_eq!(
                has_project,
                has(0xa0) && geo.has_ro_compat(RoCompat::PROJECT)
            );
            assert_eq!(inode.project, if has_project { project } else { 0 });
            assert_eq!(inode.extra_isize, extra);

            // A second edit changes what it says and nothing else.
            let mut edit = InodeEdit::new(&mut raw, &geo).expect("an inode");
            edit.set_uid(!uid);
            edit.seal(ino);
            let again = Inode::parse(&raw, ino, &geo).expect("it parses");
            assert_eq!((again.uid, again.gid, again.size), (!uid, gid, inode.size));
            assert_eq!((again.sectors, again.block), (sectors, block));
        }
    }
}

#[test]
fn sectors_that_cannot_be_kept_change_nothing() {
    let shapes = shapes();
    for (geo, most) in [(&shapes[0], u64::from(u32::MAX)), (&shapes[2], 1 << 48)] {
        let mut raw = vec![0; 256];
        let mut edit = InodeEdit::init(&mut raw, 32, geo).expect("an inode");
        edit.set_sectors(most & !1).expect("it can be kept");
        let before = edit.flags();
        assert_eq!(edit.set_sectors(most << 2), None);
        assert_eq!(edit.flags(), before);
    }
}

#[test]
fn devices_round_trip() {
    let geo = shapes()[1];
    let mut rng = Rng(3);
    for _ in 0..10_000 {
        let device = Device {
            major: rng.wild() as u32 & 0xfff,
            minor: rng.wild() as u32 & 0xf_ffff,
        };
        let mut raw = vec![0xff; 256];
        let mut edit = InodeEdit::init(&mut raw, 32, &geo).expect("an inode");
        edit.set_mode(0o060_600);
        edit.set_links(1);
        edit.set_block(&[0xff; 60]);
        edit.set_device(device);
        edit.seal(Ino(12));
        let inode = Inode::parse(&raw, Ino(12), &geo).expect("it parses");
        assert_eq!(inode.device, Some(device));
    }
}

#[test]
fn links_of_directories_stop_being_counted() {
    let dir_nlink = geo(0, Incompat::FILETYPE, RoCompat::DIR_NLINK);
    let counted = geo(0, Incompat::FILETYPE, RoCompat(0));
    for geo in [&dir_nlink, &counted] {
        assert_eq!(links_after_link(2, true, false, geo), Some(3));
        assert_eq!(links_after_link(64_999, true, true, geo), Some(65_000));
        assert_eq!(links_after_link(65_000, true, false, geo), None);
        assert_eq!(links_after_link(65_000, false, false, geo), None);
        assert_eq!(links_after_link(u16::MAX, false, false, geo), None);
        assert_eq!(links_after_link(1, true, false, geo), Some(1));
        assert_eq!(links_after_link(1, false, false, geo), Some(2));
        assert_eq!(links_after_link(0, false, false, geo), Some(1));
    }
    assert_eq!(links_after_link(65_000, true, true, &dir_nlink), Some(1));
    assert_eq!(links_after_link(65_000, true, true, &counted), None);
    for (before, dir, after) in [
        (3, true, 2),
        (2, true, 2),
        (1, true, 1),
        (2, false, 1),
        (1, false, 0),
        (0, false, 0),
    ] {
        assert_eq!(links_after_unlink(before, dir), after);
    }
}

#[test]
fn fields_grow_unless_attributes_are_in_the_way() {
    let geo = shapes()[2];
    let mut raw = vec![0; 256];
    let mut edit = InodeEdit::init(&mut raw, 4, &geo).expect("an inode");
    edit.set_mode(0o100_644);
    edit.set_links(1);
    edit.xattr_area().fill(0x55);
    assert_eq!(edit.xattr_area().len(), 124);
    assert!(edit.grow_extra_isize(32));
    assert!(!edit.grow_extra_isize(132) && !edit.grow_extra_isize(34));
    let time = Time {
        secs: 1 << 33,
        nanos: 5,
    };
    edit.set_time(TimeField::Create, time);
    edit.seal(Ino(20));
    let inode = Inode::parse(&raw, Ino(20), &geo).expect("it parses");
    assert_eq!((inode.extra_isize, inode.crtime), (32, Some(time)));
    assert_eq!((inode.project, inode.version), (0, 0));
    assert!(raw[160..].iter().all(|&b| b == 0x55));

    let mut edit = InodeEdit::new(&mut raw, &geo).expect("an inode");
    edit.xattr_area()[..4].copy_from_slice(&0xea02_0000u32.to_le_bytes());
    assert!(!edit.grow_extra_isize(64));
    assert_eq!(edit.extra_isize(), 32);

    // An inode that says 0 uses all fields from its first edit on.
    raw[0x80] = 0;
    let edit = InodeEdit::new(&mut raw, &geo).expect("an inode");
    assert_eq!(edit.extra_isize(), 32);
    edit.seal(Ino(20));
    assert!(Inode::parse(&raw, Ino(20), &geo).is_ok());
}

#[test]
fn wrong_bytes_are_left_alone() {
    let geo = shapes()[1];
    for (at, value) in [(0x80, 132), (0x80, 30), (0x81, 1)] {
        let mut raw = vec![0; 256];
        raw[at] = value;
        let before = raw.clone();
        assert!(InodeEdit::new(&mut raw, &geo).is_none());
        assert_eq!(raw, before);
    }
    let mut short = vec![1; 255];
    assert!(InodeEdit::new(&mut short, &geo).is_none());
    assert!(InodeEdit::init(&mut short, 32, &geo).is_none());
    assert!(InodeEdit::init(&mut [1; 256], 132, &geo).is_none());
    assert!(seal(&mut short, Ino(1), &geo).is_none());
    assert_eq!(short, vec![1; 255]);
    let mut rng = Rng(4);
    for geo in shapes() {
        for round in 0..2000 {
            let mut raw = noise(round, usize::from(geo.inode_size()));
            rng.mutate(&mut raw);
            let _ = seal(&mut raw, Ino(rng.u32()), &geo);
            let Some(mut edit) = InodeEdit::new(&mut raw, &geo) else {
                continue;
            };
            edit.set_time(TimeField::Create, any_time(&mut rng));
            let _ = edit.set_sectors(rng.wild());
            edit.grow_extra_isize(rng.u32() as u16);
            edit.clear(0);
            edit.seal(Ino(rng.u32()));
        }
    }
}

/// Returns the number of the inode that a path leads to.
fn ino(image: &Image, path: &str) -> Ino {
    image.open().path(path).expect("the path resolves").ino
}

#[test]
fn debugfs_and_e2fsck_agree() {
    let dir = scratch("inode-edit");
    let src = dir.join("source");
    std::fs::create_dir(&src).expect("a directory");
    for name in ["a", "b"] {
        write(src.join(name), &noise(1, 5000));
    }
    for options in [
        "-t ext4 -b 1024",
        "-t ext4 -b 4096 -I 512 -O ^metadata_csum",
        "-t ext4 -b 4096 -I 128",
        "-t ext2 -b 1024",
    ] {
        let image = Image::make(&dir, 16 << 20, options, Some(&src));
        let a = ino(&image, "/a");
        let mut edited = Edited::load(&image);
        let geo = edited.geo;
        let mut edit = InodeEdit::new(edited.inode_mut(a), &geo).expect("an inode");
        edit.set_mode(0o100_751);
        let time = Time {
            secs: 0x1_0000_0000,
            nanos: 500_000_000,
        };
        edit.set_time(TimeField::Modify, time);
        edit.set_time(TimeField::Create, time);
        edit.set_version(0x1234_5678);
        edit.seal(a);
        edited.save(&image);
        fsck(&image);
        let [stat] = &image.ask(&["stat a"])[..] else {
            panic!("one answer");
        };
        assert!(stat.contains("Mode:  0751"), "{stat}");
        // Inodes of 128 bytes keep the latest time that 32 bits can tell.
        let expected = match geo.inode_size() {
            128 => "mtime: 0x7fffffff",
            _ => "mtime: 0x00000000:77359401",
        };
        assert!(stat.contains(expected), "{stat}");
        if geo.inode_size() > 128 {
            assert!(stat.contains("crtime: 0x00000000:77359401"), "{stat}");
        }
        assert!(stat.contains("12345678"), "{stat}");

        // A wrong checksum is what e2fsck would tell, if it were not sealed.
        if geo.csum().metadata() {
            edited.inode_mut(a)[0x10] ^= 1;
            edited.save(&image);
            common::run("e2fsck", &["-fn", image.str()], &[4]);
        }
    }
}
