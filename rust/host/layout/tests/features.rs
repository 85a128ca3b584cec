// SPDX-License-Identifier: GPL-2.0

//! The same tree in images of every kind, compared with its source and with what e2fsprogs says.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;

use common::{host_names, run, scratch, source_tree, Image};
use layout_host::crc;
use layout_host::layout::*;
use layout_host::volume::{Disk, Volume};

/// The tree that all images are made from.
fn source() -> &'static Path {
    static SOURCE: OnceLock<std::path::PathBuf> = OnceLock::new();
    SOURCE.get_or_init(|| source_tree(&scratch("features-source")))
}

fn host_type(t: fs::FileType) -> FileType {
    match () {
        () if t.is_file() => FileType::Regular,
        () if t.is_dir() => FileType::Directory,
        () if t.is_symlink() => FileType::Symlink,
        () if t.is_fifo() => FileType::Fifo,
        () if t.is_socket() => FileType::Socket,
        () if t.is_char_device() => FileType::CharDevice,
        () => FileType::BlockDevice,
    }
}

/// Compares a directory and all below it with the host's; returns how many names that were.
fn compare<D: Disk>(volume: &Volume<D>, dir: &Inode, host: &Path, root: bool) -> usize {
    let mut expected = host_names(host);
    let mut subdirs = 0;
    if root {
        expected.push(b"lost+found".to_vec());
        subdirs += 1;
    }
    expected.extend([b".".to_vec(), b"..".to_vec()]);
    expected.sort();
    let listed = volume.list(dir).expect("the directory lists");
    let mut names: Vec<_> = listed.iter().map(|e| e.name.clone()).collect();
    names.sort();
    assert_eq!(names, expected, "{host:?}");

    if dir.is_indexed() {
        let hashed = volume.list_hashed(dir).expect("the index lists");
        let by_hash: BTreeSet<_> = hashed.iter().map(|(_, e)| e.clone()).collect();
        assert_eq!(by_hash, listed.iter().cloned().collect());
        assert_eq!(hashed.len(), listed.len());
        assert!(hashed.windows(2).all(|w| w[0].0 <= w[1].0), "hash order");
    }

    let mut count = 0;
    for name in host_names(host) {
        count += 1;
        let path = host.join(std::ffi::OsStr::from_bytes(&name));
        let meta = fs::symlink_metadata(&path).expect("metadata");
        let ino = volume.lookup(dir, &name).expect("the name is found");
        let inode = volume.inode(ino).expect("the inode reads");
        assert_eq!(inode.file_type, host_type(meta.file_type()), "{path:?}");
        assert_eq!(u32::from(inode.mode), meta.mode(), "{path:?}");
        assert_eq!((inode.uid, inode.gid), (meta.uid(), meta.gid()), "{path:?}");
        assert_eq!(inode.mtime.secs, meta.mtime(), "{path:?}");
        let entry = listed.iter().find(|e| e.name == name).expect("listed");
        assert_eq!(entry.ino, ino.0);
        if volume.geo().has_incompat(Incompat::FILETYPE) {
            let name = layout_host::volume::type_name(inode.file_type);
            assert_eq!(entry.file_type, Some(name));
        } else {
            assert_eq!(entry.file_type, None);
        }
        match inode.file_type {
            FileType::Directory => {
                subdirs += 1;
                count += compare(volume, &inode, &path, false);
                continue;
            }
            FileType::Regular => {
                assert_eq!(inode.size, meta.len(), "{path:?}");
                let data = volume.read(&inode, 0, usize::MAX).expect("the file reads");
                assert!(data == fs::read(&path).unwrap_or(data.clone()), "{path:?}");
                let middle = volume
                    .read(&inode, inode.size / 3, 777)
                    .expect("a part reads");
                assert_eq!(middle, data[data.len() / 3..][..middle.len()]);
            }
            FileType::Symlink => {
                let target = fs::read_link(&path).expect("a target");
                let found = volume.read(&inode, 0, usize::MAX).expect("the link reads");
                assert_eq!(found, target.as_os_str().as_bytes(), "{path:?}");
            }
            _ => assert_eq!(inode.size, 0),
        }
        assert_eq!(u64::from(inode.links), meta.nlink(), "{path:?}");
    }
    assert_eq!(u64::from(dir.links), 2 + subdirs, "links of {host:?}");
    for missing in [&b"no such name"[..], b"p", b""] {
        assert!(volume.lookup(dir, missing).is_err());
    }
    count
}

/// Compares the superblock with what `dumpe2fs -h` says.
fn compare_header<D: Disk>(volume: &Volume<D>, image: &Image) {
    let header = image.header();
    let text = |key: &str| header.get(key).map_or("", String::as_str);
    let number = |key: &str| text(key).parse::<u64>().ok();
    let (sb, geo) = (&volume.sb, volume.geo());
    assert_eq!(number("Block count"), Some(geo.blocks_count()));
    assert_eq!(number("Inode count"), Some(geo.inodes_count().into()));
    assert_eq!(number("Free blocks"), Some(sb.free_blocks));
    assert_eq!(number("Free inodes"), Some(sb.free_inodes.into()));
    assert_eq!(number("Reserved block count"), Some(sb.reserved_blocks));
    assert_eq!(number("First block"), Some(geo.first_data_block().0));
    assert_eq!(number("Block size"), Some(geo.block_size().into()));
    assert_eq!(
        number("Blocks per group"),
        Some(geo.blocks_per_group().get())
    );
    assert_eq!(
        number("Inodes per group"),
        Some(geo.inodes_per_group().get().into())
    );
    assert_eq!(
        number("Inode blocks per group"),
        Some(geo.inode_table_blocks().into())
    );
    assert_eq!(number("Inode size").unwrap_or(128), geo.inode_size().into());
    assert_eq!(
        number("Group descriptor size").unwrap_or(32),
        geo.desc_size().into()
    );
    let cluster = number("Cluster size").unwrap_or(geo.block_size().into());
    assert_eq!(
        cluster,
        u64::from(geo.cluster_blocks()) * u64::from(geo.block_size())
    );
    assert_eq!(
        number("Flex block group size").unwrap_or(1),
        sb.groups_per_flex.into()
    );
    assert_eq!(number("Journal inode"), sb.journal_ino.map(u64::from));
    assert_eq!(number("Orphan file inode"), sb.orphan_file.map(u64::from));
    assert_eq!(number("First inode").unwrap_or(11), geo.first_ino().into());
    let label = String::from_utf8_lossy(sb.label());
    assert_eq!(text("Filesystem volume name").replace("<none>", ""), label);
    assert_eq!(
        text("Filesystem state"),
        if sb.is_clean() { "clean" } else { "?" }
    );
    let hex: String = sb.uuid.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(text("Filesystem UUID").replace('-', ""), hex);

    if let Some(hash) = header.get("Default directory hash") {
        let version = geo.hash().default_version().expect("a version");
        assert_eq!((hash.as_str(), version.unsigned), ("half_md4", false));
        assert_eq!(version.algorithm, hash::HashAlgorithm::HalfMd4);
    }

    let features = geo.features();
    let names: BTreeSet<String> = features
        .compat
        .names()
        .chain(features.incompat.names())
        .chain(features.ro_compat.names())
        .map(|n| n.to_string())
        .collect();
    let told = text("Filesystem features").split_whitespace();
    let told: BTreeSet<String> = told.filter(|f| *f != "(none)").map(String::from).collect();
    assert_eq!(names, told);
}

/// Compares the group descriptors and bitmaps with what `dumpe2fs` says.
fn compare_groups<D: Disk>(volume: &Volume<D>, image: &Image) {
    let dump = run("dumpe2fs", &[image.str()], &[0]);
    let (_, groups) = dump.split_once("\nGroup 0:").expect("groups");
    let number = |text: &str, key: &str| -> Option<u64> {
        let (_, rest) = text.split_once(key)?;
        let digits = rest
            .trim_start()
            .split(|c: char| !c.is_ascii_digit())
            .next()?;
        digits.parse().ok()
    };
    let parts: Vec<_> = groups.split("\nGroup ").collect();
    assert_eq!(parts.len(), volume.geo().groups() as usize);
    for (i, part) in parts.into_iter().enumerate() {
        let group = Group(i as u32);
        let desc = volume.group(group).expect("the descriptor reads");
        assert_eq!(
            number(part, "(Blocks "),
            Some(volume.geo().group_first_block(group).0)
        );
        assert_eq!(number(part, "Block bitmap at "), Some(desc.block_bitmap.0));
        assert_eq!(number(part, "node bitmap at "), Some(desc.inode_bitmap.0));
        assert_eq!(number(part, "Inode table at "), Some(desc.inode_table.0));
        assert_eq!(
            part.contains("superblock at"),
            volume.geo().group_has_super(group)
        );
        let flags = [
            ("INODE_UNINIT", GroupDesc::INODE_UNINIT),
            ("BLOCK_UNINIT", GroupDesc::BLOCK_UNINIT),
            ("ITABLE_ZEROED", GroupDesc::INODE_ZEROED),
        ];
        for (name, flag) in flags {
            assert_eq!(
                part.contains(name),
                desc.has_flag(flag, volume.geo()),
                "{part}"
            );
        }
        // The counts stand before their names.
        let counts = part.lines().find(|l| l.contains(" free inodes, "));
        let counts: Vec<u64> = counts
            .expect("counts")
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse().ok())
            .collect();
        let ratio = u64::from(volume.geo().cluster_blocks());
        let ours = [desc.free_clusters, desc.free_inodes, desc.used_dirs];
        // dumpe2fs counts clusters in some versions, and blocks in others.
        assert!(counts[0] == u64::from(ours[0]) || counts[0] == u64::from(ours[0]) * ratio);
        assert_eq!(counts[1..3], [u64::from(ours[1]), u64::from(ours[2])]);
        let unused = counts.get(3).copied().unwrap_or(0);
        assert_eq!(u64::from(desc.itable_unused), unused, "{part}");
        let (clusters, inodes) = volume.check_bitmaps(group).expect("the bitmaps verify");
        assert_eq!(clusters, desc.free_clusters, "group {i}");
        assert_eq!(inodes, desc.free_inodes, "group {i}");
        for zone in desc.zones(volume.geo()) {
            assert!(zone.start.0 + zone.len <= volume.geo().blocks_count());
        }
    }
}

/// Asks debugfs where blocks of files lie.
fn compare_maps<D: Disk>(volume: &Volume<D>, image: &Image) {
    let mut asked = Vec::new();
    for path in [
        "/file-300000",
        "/sparse",
        "/all-hole",
        "/file-9000",
        "/many",
        "/link-1000",
    ] {
        let inode = volume.path(path).expect("the path resolves");
        if inode.data_map() == DataMap::Inline {
            continue;
        }
        let end = volume.blocks_of(&inode);
        let runs = volume.runs(&inode, end).expect("the map reads");
        let mut probes: Vec<u32> = (0..end.0).step_by(37).collect();
        for run in &runs {
            probes.extend([run.lblk.0, run.end().0 - 1, run.end().0]);
            probes.extend(run.lblk.0.checked_sub(1));
        }
        for lblk in probes.into_iter().filter(|&l| l < end.0) {
            let run = runs.iter().find_map(|r| r.from(Lblk(lblk)));
            let ours = run.and_then(|r| r.pblk()).map_or(0, |pblk| pblk.0);
            asked.push((format!("bmap {path} {lblk}"), ours));
        }
    }
    let commands: Vec<&str> = asked.iter().map(|(c, _)| c.as_str()).collect();
    for ((command, ours), theirs) in asked.iter().zip(image.ask(&commands)) {
        assert_eq!(theirs.trim(), ours.to_string(), "{command}");
    }
}

/// Opens the volume by each backup of its superblock.
fn compare_backups(volume: &Volume<fs::File>, image: &Image) -> usize {
    let geo = volume.geo();
    let expected = volume
        .list(&volume.path("").expect("the root"))
        .expect("the root lists");
    let mut backups = 0;
    for group in (1..geo.groups()).filter(|&g| geo.group_has_super(Group(g))) {
        let kib = geo.group_first_block(Group(group)).0 * u64::from(geo.block_size()) / 1024;
        let file = fs::File::open(&image.path).expect("the image opens");
        let backup = Volume::open_at(file, kib, crc::FNS).expect("the backup parses");
        let root = backup.path("").expect("the root");
        assert_eq!(backup.list(&root).expect("the root lists"), expected);
        backups += 1;
    }
    backups
}

/// Compares how much metadata takes with what mke2fs noted, whatever the superblock says now.
fn compare_overhead<D: Disk>(volume: &Volume<D>, image: &Image) {
    let header = image.header();
    let number = |key| header.get(key).and_then(|value| value.parse::<u64>().ok());
    let Some(noted) = number("Overhead clusters") else {
        return;
    };
    let bigalloc = volume.geo().has_ro_compat(RoCompat::BIGALLOC);
    // mke2fs counts what is reserved for descriptors, and the kernel does not.
    let reserved = match number("Reserved GDT blocks") {
        Some(blocks) if bigalloc => blocks / u64::from(volume.geo().cluster_blocks()) + 1,
        _ => 0,
    };
    assert_eq!(volume.overhead().expect("descriptors read"), noted);
    let copy = Image {
        path: image.path.with_extension("copy"),
    };
    fs::copy(&image.path, &copy.path).expect("a copy");
    for stale in [0, 1, 99_999_999] {
        copy.change(&[&format!("ssv overhead_clusters {stale}")]);
        let volume = copy.open();
        let overhead = volume.overhead().expect("descriptors read");
        if bigalloc && stale == 1 {
            assert_eq!(overhead, 1, "with bigalloc a number that can be is taken");
        } else {
            let range = noted - reserved..=noted;
            assert!(range.contains(&overhead), "{stale}: {overhead} of {noted}");
        }
    }
    fs::remove_file(&copy.path).expect("the copy");
}

/// Makes an image, lets debugfs change it, and compares everything.
fn check(name: &str, megabytes: u64, options: &str, changes: &[&str]) -> (Volume<fs::File>, Image) {
    let dir = scratch(&format!("features-{name}"));
    let image = Image::make(&dir, megabytes << 20, options, Some(source()));
    image.change(changes);
    image.index_dirs();
    let volume = image.open();
    compare_header(&volume, &image);
    compare_groups(&volume, &image);
    let root = volume.inode(Ino::ROOT).expect("the root reads");
    let names = compare(&volume, &root, source(), true);
    assert!(names > 350, "{names} names");
    compare_maps(&volume, &image);
    let many = volume.path("/many").expect("a directory");
    let indexed = volume.geo().has_compat(Compat::DIR_INDEX)
        && volume.blocks_of(&many).0 > 1
        && many.data_map() != DataMap::Inline;
    assert_eq!(many.is_indexed(), indexed);
    assert_eq!(volume.walk().expect("no limit"), 0, "all of it reads");
    compare_overhead(&volume, &image);
    let backups = compare_backups(&volume, &image);
    assert!(backups > 0 || volume.geo().groups() == 1 || name.contains("no-backup"));
    (volume, image)
}

macro_rules! matrix {
    ($($name:ident: $megabytes:literal, $options:literal $(, $extra:expr)?;)*) => {$(
        #[test]
        fn $name() {
            let (volume, _image) = check(stringify!($name), $megabytes, $options, &[]);
            $({
                let extra: fn(&Geometry) -> bool = $extra;
                assert!(extra(volume.geo()), stringify!($extra));
            })?
            let _ = fs::remove_dir_all(scratch(concat!("features-", stringify!($name))));
            drop(volume);
        }
    )*};
}

matrix! {
    ext2_1k: 20, "-t ext2 -b 1024 -I 128 -L label";
    ext2_4k_full_label: 20, "-t ext2 -b 4096 -I 256 -L sixteen-letters-";
    ext3_2k: 20, "-t ext3 -b 2048 -I 128 -J size=4";
    ext4_4k: 40, "-t ext4 -b 4096 -O 64bit,metadata_csum";
    ext4_1k: 40, "-t ext4 -b 1024 -I 256 -O 64bit,metadata_csum";
    ext4_32bit: 40, "-t ext4 -b 2048 -O ^64bit,metadata_csum";
    ext4_inode_128: 40, "-t ext4 -b 4096 -I 128 -O ^64bit,metadata_csum";
    ext4_crc16: 40, "-t ext4 -b 1024 -O ^64bit,^metadata_csum,uninit_bg";
    ext4_crc16_64bit: 40, "-t ext4 -b 1024 -O 64bit,^metadata_csum,uninit_bg";
    ext4_no_sums: 40, "-t ext4 -b 4096 -O ^metadata_csum,^uninit_bg";
    ext4_no_extents: 40, "-t ext4 -b 1024 -O ^extent,^64bit,metadata_csum";
    ext4_no_filetype: 40, "-t ext4 -b 4096 -O ^filetype";
    ext4_no_dir_index: 40, "-t ext4 -b 1024 -O ^dir_index";
    ext4_no_flex: 40, "-t ext4 -b 1024 -O ^flex_bg,metadata_csum";
    ext4_no_sparse: 40, "-t ext4 -b 1024 -g 1024 -O ^sparse_super,^resize_inode,metadata_csum";
    ext4_sparse_super2: 60, "-t ext4 -b 1024 -O sparse_super2,^resize_inode,metadata_csum";
    ext4_meta_bg: 40, "-t ext4 -b 1024 -g 256 -N 4096 -O meta_bg,^resize_inode,^flex_bg,64bit,metadata_csum",
        |g| g.desc_blocks() > 3;
    ext4_meta_bg_flex: 40, "-t ext4 -b 1024 -g 512 -N 4096 -O meta_bg,^resize_inode,flex_bg,64bit,metadata_csum";
    ext4_desc_128: 40, "-t ext4 -b 1024 -E desc_size=128 -O 64bit,metadata_csum", |g| g.desc_size() == 128;
    bigalloc_4k: 60, "-t ext4 -b 4096 -C 16384 -O bigalloc,metadata_csum", |g| g.cluster_blocks() == 4;
    bigalloc_1k: 60, "-t ext4 -b 1024 -C 8192 -O bigalloc,metadata_csum", |g| g.cluster_blocks() == 8;
    bigalloc_1k_meta_bg: 60, "-t ext4 -b 1024 -C 4096 -g 4096 -N 4096 -O bigalloc,meta_bg,^resize_inode,metadata_csum";
    inline_256: 40, "-t ext4 -b 4096 -I 256 -O inline_data,metadata_csum";
    inline_512: 40, "-t ext4 -b 1024 -I 512 -O inline_data,metadata_csum";
    inline_1024: 40, "-t ext4 -b 1024 -I 1024 -O inline_data,ea_inode,metadata_csum";
    csum_seed: 40, "-t ext4 -b 1024 -O metadata_csum_seed,metadata_csum";
    orphan_file: 40, "-t ext4 -b 4096 -O orphan_file,metadata_csum";
    quota_project: 40, "-t ext4 -b 4096 -O quota,project,metadata_csum";
    all_new: 40, "-t ext4 -b 4096 -O large_dir,ea_inode,verity,stable_inodes,metadata_csum_seed,inline_data";
    blocks_of_64k: 100, "-t ext4 -b 65536 -O metadata_csum", |g| g.block_bits() == 16;
    blocks_of_16k_no_backup: 60, "-t ext4 -b 16384 -O ^metadata_csum";
}

#[test]
fn ext2_rev0() {
    // The oldest volumes have neither features nor the fields for them.
    let changes = ["ssv rev_level 0", "ssv first_ino 0", "ssv inode_size 0"];
    let options = "-t ext2 -b 1024 -I 128 -O none";
    let (volume, _image) = check("ext2_rev0", 20, options, &changes);
    assert_eq!((volume.sb.revision, volume.geo().inode_size()), (0, 128));
    assert_eq!(volume.geo().first_ino(), Ino(11));
}

#[test]
fn uuid_changes_and_seed_stays() {
    let dir = scratch("features-new-uuid");
    let options = "-t ext4 -b 1024 -O metadata_csum_seed,metadata_csum";
    let image = Image::make(&dir, 20 << 20, options, None);
    let before = image.open().sb.uuid;
    run(
        "tune2fs",
        &["-U", "11111111-2222-4333-8444-555555555555", image.str()],
        &[0],
    );
    let volume = image.open();
    assert_ne!(volume.sb.uuid, before);
    assert_eq!(volume.walk().expect("no limit"), 0);
    compare_groups(&volume, &image);
}

#[test]
fn unsupported_features_are_refused_by_name() {
    for (feature, name) in [
        ("casefold", "casefold"),
        ("mmp", "mmp"),
        ("journal_dev", "journal_dev"),
    ] {
        let dir = scratch(&format!("features-refuse-{feature}"));
        let image = Image::make(&dir, 20 << 20, &format!("-b 1024 -O {feature}"), None);
        let error = image.try_open().err().expect("a refusal");
        assert_eq!(
            (error.kind, error.to_string().as_str()),
            (Kind::Feature, name)
        );
    }
}

#[test]
fn recovery_is_reported_and_not_refused() {
    let dir = scratch("features-recover");
    let image = Image::make(&dir, 20 << 20, "-t ext4 -b 1024", None);
    assert!(!image.open().sb.needs_recovery());
    image.change(&["feature needs_recovery"]);
    assert!(image.open().sb.needs_recovery());
}
