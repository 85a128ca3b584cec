// SPDX-License-Identifier: GPL-2.0

//! Entry points for fuzzers: each takes any bytes and must return.
//!
//! All but [`fuzz_superblock`] and [`fuzz_image`] parse one block of a volume whose shape the first
//! bytes choose.

use crate::crc;
use crate::layout::dir_split::{Full, SplitEntry};
use crate::layout::inline_dir_edit::InlineChains;
use crate::layout::*;
use crate::volume::Volume;

/// Makes the superblock of a small volume: `log_block` is 0 for blocks of 1 KiB.
///
/// It is without checksums, so that a mutated block gets past them.
pub fn plain_superblock(log_block: u8, incompat: Incompat, ro_compat: RoCompat) -> Vec<u8> {
    let mut sb = vec![0; 1024];
    let block_size = 1024u32 << log_block;
    let mut put32 = |at: usize, v: u32| sb[at..at + 4].copy_from_slice(&v.to_le_bytes());
    put32(0x00, 2048);
    put32(0x04, 8192);
    put32(0x14, u32::from(log_block == 0));
    put32(0x18, u32::from(log_block));
    put32(0x1c, u32::from(log_block));
    put32(0x20, block_size * 8);
    put32(0x24, block_size * 8);
    put32(0x28, 2048);
    put32(0x4c, 1);
    put32(0x54, 11);
    put32(0x5c, Compat::DIR_INDEX.0);
    put32(0x60, incompat.0);
    put32(0x64, ro_compat.0);
    let mut put16 = |at: usize, v: u16| sb[at..at + 2].copy_from_slice(&v.to_le_bytes());
    put16(0x38, superblock::MAGIC);
    put16(0x58, 256);
    put16(0xfe, 64);
    sb[0xfc] = 1;
    sb[0x175] = 1;
    sb
}

/// Chooses a volume by the first two bytes, and returns its shape and a block made of the rest.
fn shape(data: &[u8]) -> Option<(Geometry, Vec<u8>)> {
    let (&[size, features], rest) = data.split_first_chunk()?;
    let mut incompat = Incompat::FILETYPE
        .or(Incompat::EXTENTS)
        .or(Incompat::FLEX_BG);
    let mut ro_compat = RoCompat::HUGE_FILE.or(RoCompat::EXTRA_ISIZE);
    for (bit, feature) in [
        (1, Incompat::B64),
        (2, Incompat::LARGEDIR),
        (4, Incompat::INLINE_DATA),
        (8, Incompat::EA_INODE),
    ] {
        if features & bit != 0 {
            incompat = incompat.or(feature);
        }
    }
    if features & 16 != 0 {
        ro_compat = ro_compat.or(RoCompat::METADATA_CSUM);
    }
    // All sums are zero, so that those of a structure are checked and most often pass.
    let raw = plain_superblock(size % 7, incompat, ro_compat);
    let sb = SuperBlock::parse(&raw, 1, crc::NULL_FNS).ok()?;
    let mut block = rest.to_vec();
    block.resize(sb.geo.block_size() as usize, 0);
    Some((sb.geo, block))
}

/// Parses a superblock, and asks where things lie.
pub fn fuzz_superblock(data: &[u8]) {
    for fns in [crc::FNS, crc::NULL_FNS] {
        let sb = match SuperBlock::parse(data, 1, fns) {
            Ok(sb) => sb,
            Err(e) => {
                let _ = e.to_string();
                continue;
            }
        };
        let geo = &sb.geo;
        let _ = sb.label();
        assert!(i64::try_from(geo.bytes()).is_ok());
        for i in [
            0,
            1,
            2,
            geo.groups() / 2,
            geo.groups() - 1,
            geo.groups(),
            u32::MAX,
        ] {
            if let Ok((pblk, offset)) = geo.desc_location(Group(i)) {
                assert!(geo.contains(pblk, 1));
                assert!(offset + u32::from(geo.desc_size()) <= geo.block_size());
            }
            let _ = geo.base_meta_blocks(Group(i));
            assert!(geo.group_blocks(Group(i)) <= geo.blocks_per_group().get());
            let _ = geo.group_of(geo.group_first_block(Group(i)));
        }
        for i in [0, 1, 2, geo.inodes_count(), u32::MAX] {
            if let Ok((group, _)) = geo.inode_index(Ino(i)) {
                assert!(group.0 < geo.groups());
            }
        }
        let _ = geo.max_file_size(true).max(geo.max_file_size(false));
        let features = geo.features();
        let names = features.compat.names().chain(features.incompat.names());
        for name in names.chain(features.ro_compat.forbids_writing(RoCompat(0))) {
            let _ = name.to_string();
        }
    }
}

/// Parses a group descriptor.
pub fn fuzz_group(data: &[u8]) {
    let Some((geo, block)) = shape(data) else {
        return;
    };
    let _ = GroupDesc::verify(&block, Group(0), &geo);
    if let Ok(desc) = GroupDesc::parse(&block, Group(0), &geo) {
        let _ = desc.zones(&geo);
        let _ = desc.verify_block_bitmap(&block, &geo);
        let _ = desc.verify_inode_bitmap(&block, &geo);
        for i in [0, geo.inodes_per_group().get() - 1, u32::MAX] {
            if let Ok((pblk, offset)) = desc.inode_location(i, &geo) {
                assert!(geo.contains(pblk, 1) && offset < geo.block_size());
            }
        }
    }
}

/// Parses an inode, its attributes, its inline data and the root of its block map.
pub fn fuzz_inode(data: &[u8]) {
    let Some((geo, block)) = shape(data) else {
        return;
    };
    let Ok(inode) = Inode::parse_orphan(&block, Ino(12), &geo) else {
        return;
    };
    assert!(geo.file_blocks(inode.size).is_some());
    let _ = inode.fast_symlink();
    let _ = map::verify_root(&inode, &geo);
    for lblk in [0, 1, 11, 12, 300, 100_000, u32::MAX - 1] {
        check_step(map::start(&inode, Lblk(lblk), &geo), Lblk(lblk), &geo);
    }
    if let Ok(Some(set)) = XattrSet::in_inode(&block, &inode, &geo) {
        xattr_set(&set);
    }
    if let Ok(inline) = InlineData::parse(&block, &inode, &geo) {
        let mut buf = [0; 100];
        for offset in [0, 59, 60, 61, u64::MAX] {
            assert!(inline.read_at(&inode, offset, &mut buf) <= buf.len());
        }
        if let Ok(dir) = InlineDir::parse(&inline, &inode, &geo) {
            let _ = dir.find(b"x");
            assert!(dir.iter().count() < 100);
            fuzz_inline_edit(&block, &inline, &dir, &geo);
        }
    }
}

/// Changes an inline directory, and copies it to a block.
fn fuzz_inline_edit(raw: &[u8], data: &InlineData<'_>, dir: &InlineDir<'_>, geo: &Geometry) {
    let chains = InlineChains::of(data);
    let name = dir_edit::Name::new(b"new").expect("a name");
    let entries: Vec<_> = dir.iter().flatten().map(|e| (e.offset, e.ino)).collect();
    let mut raw = raw.to_vec();
    if let Ok(Some(slot)) = chains.room(&raw, name, geo) {
        slot.insert(&mut raw, name, Ino(12), FileType::Regular, geo)
            .expect("as planned");
        assert!(slot
            .insert(&mut raw, name, Ino(12), FileType::Regular, geo)
            .is_err());
    }
    for &(offset, ino) in &entries {
        chains
            .set_entry(&mut raw, offset, ino, Ino(13), FileType::Fifo, geo)
            .expect("it is there");
        chains
            .remove(&mut raw, offset, Ino(13), geo)
            .expect("it is there");
    }
    let before = raw.clone();
    for offset in [0, 3, 4, 59, 60, 61, 1000, u32::MAX] {
        if chains.remove(&mut raw, offset, Ino(12), geo).is_err() {
            assert_eq!(raw, before);
        }
        raw.copy_from_slice(&before);
    }
    let mut block = vec![0; geo.block_size() as usize];
    let fits = inline_dir_edit::check_to_block(dir, geo).is_ok();
    let done = inline_dir_edit::to_block(dir, Ino(12), &mut block, geo).is_ok();
    assert_eq!(done, fits);
    assert!(!done || sound(&block, geo));
}

fn check_step(step: Result<Step>, lblk: Lblk, geo: &Geometry) {
    match step {
        Ok(Step::Extent(run)) => {
            assert!(run.lblk <= lblk && lblk < run.end());
            assert!(geo.contains(run.pblk().expect("no hole"), u64::from(run.len)));
            assert!(run.from(lblk).is_some());
        }
        Ok(Step::Hole { until }) => assert!(until > lblk),
        Ok(Step::Descend(node)) => {
            assert!(node.first <= lblk && lblk < node.end && node.depth < 5);
            assert!(geo.contains(node.pblk, 1));
        }
        Err(e) => drop(e.to_string()),
    }
}

/// Parses a block of a block map, of either kind, at each depth.
pub fn fuzz_map(data: &[u8]) {
    let Some((geo, block)) = shape(data) else {
        return;
    };
    let owner = geo.csum().owner(Ino(12), 0);
    for tree in [map::Tree::Extents, map::Tree::Indirect] {
        for depth in 0..5u8 {
            let depth = match tree {
                map::Tree::Extents => depth,
                map::Tree::Indirect => depth.min(2),
            };
            let node = TreeBlock {
                pblk: Pblk(100),
                depth,
                first: Lblk(12),
                end: Lblk::END,
                tree,
            };
            let _ = node.verify(&block, &owner, &geo);
            for lblk in [0, 12, 13, 100, 100_000, u32::MAX - 1, u32::MAX] {
                check_step(node.step(&block, Lblk(lblk), &geo), Lblk(lblk), &geo);
            }
        }
    }
}

/// Parses a directory block: as entries, as the root of an index and as another node of it.
pub fn fuzz_dir(data: &[u8]) {
    let Some((geo, block)) = shape(data) else {
        return;
    };
    let owner = geo.csum().owner(Ino(12), 0);
    if let Ok(entries) = Dirents::block(&block, &geo) {
        let _ = entries.verify(&owner, &geo);
        let mut last = 0;
        for entry in entries.iter().flatten() {
            assert!(entry.next > entry.offset && entry.offset >= last);
            last = entry.next;
        }
        let _ = entries.find(b"name");
        assert!(entries.iter_from(100).flatten().all(|e| e.offset >= 100));
    }
    if let Ok(node) = DxNode::parse(&block, Lblk(1), &geo) {
        let _ = node.verify(&owner, &geo);
        let _ = node.search(0x1234_5678);
    }
    if let Ok(root) = DxRoot::parse(&block, &geo) {
        let _ = root.node.verify(&owner, &geo);
        let hash = geo.hash().hash(root.version, b"name").major;
        for start in [0, hash] {
            let Ok((mut cursor, mut step)) = DxCursor::start(&root, start, 1000) else {
                continue;
            };
            // A tree in which every node is this block must still come to an end.
            for turn in 0.. {
                assert!(turn < 10_000, "the walk does not end");
                step = match step {
                    DxStep::Leaf(_) => {
                        let _ = cursor.next_hash();
                        cursor.advance(Reach::Any)
                    }
                    DxStep::Node(lblk) => {
                        let next = DxNode::parse(&block, lblk, &geo);
                        match next.and_then(|node| cursor.feed(&node)) {
                            Ok(step) => step,
                            Err(_) => break,
                        }
                    }
                    DxStep::Done => break,
                };
            }
        }
    }
}

/// Returns whether all entries of a block are sound, whatever bytes their names have.
fn sound(block: &[u8], geo: &Geometry) -> bool {
    let entries = Dirents::block(block, geo).expect("a block");
    let ok = entries.encrypted(true).iter().all(|entry| entry.is_ok());
    ok
}

/// Changes a directory block in every way, and another one in the ways that were planned for the
/// first; a refusal leaves a block as it is, and what was sound stays so.
pub fn fuzz_dir_edit(data: &[u8]) {
    let Some((geo, block)) = shape(data) else {
        return;
    };
    let mut other = block.clone();
    let (at, byte) = match data.last_chunk() {
        Some(&[a, b, byte]) => (usize::from(u16::from_le_bytes([a, b])), byte),
        None => return,
    };
    let at = at % other.len();
    other[at] ^= byte;
    let check = |before: &[u8], change: &dyn Fn(&mut [u8]) -> Result<()>| {
        let mut after = before.to_vec();
        match change(&mut after) {
            Err(_) => assert_eq!(after, before, "a refusal leaves a block as it is"),
            Ok(()) => assert!(!sound(before, &geo) || sound(&after, &geo), "it was sound"),
        }
    };
    let owner = geo.csum().owner(Ino(12), 0);
    let name_bytes = [byte | 1; 255];
    for block in [&block, &other] {
        check(block, &|b| dir_edit::seal(b, &owner, &geo));
        check(block, &|b| dir_split::pack(b, &geo));
        for lblk in [Lblk(0), Lblk(1)] {
            check(block, &|b| htree_edit::seal(b, lblk, &owner, &geo));
            let _ = dir_edit::is_empty(block, lblk, Ino(12), &geo);
        }
        let entries = Dirents::block(block, &geo)
            .expect("a block")
            .encrypted(true);
        for entry in entries.iter().flatten() {
            for offset in [entry.offset, entry.offset + 4, u32::MAX] {
                let ino = entry.ino;
                check(block, &|b| dir_edit::remove(b, offset, ino, &geo));
                check(block, &|b| {
                    dir_edit::set_entry(b, offset, ino, Ino(13), FileType::Fifo, &geo)
                });
            }
        }
        for len in [1, 3, 9, 100, 255] {
            let name = dir_edit::Name::new(&name_bytes[..len]).expect("a name");
            if let Ok(Some(slot)) = dir_edit::room(block, name, &geo) {
                for block in [block, &other] {
                    check(block, &|b| {
                        dir_edit::insert(b, &slot, name, Ino(12), FileType::Regular, &geo)
                    });
                }
            }
            let dir = Dirents::block(block, &geo).expect("a block").iter().next();
            let dir = dir.and_then(|e| e.ok()).map_or(Ino(12), |e| e.ino);
            let map = || vec![SplitEntry::default(); dir_split::split_entries(&geo)];
            let version = HashVersion::decode(byte % 3, false).expect("a version");
            for plan in [
                dir_split::plan(block, name, version, map(), &geo),
                dir_split::plan_linear(block, dir, name, map(), &geo),
            ] {
                let Ok(Full::Split(split)) = plan else {
                    continue;
                };
                for old in [block, &other] {
                    let mut fresh = [vec![byte; old.len()], vec![byte; old.len()]];
                    let [lower, upper] = &mut fresh;
                    let halves = [split.lower(old, lower, &geo), split.upper(old, upper, &geo)];
                    for (half, done) in fresh.iter().zip(halves) {
                        assert!(done.is_err() || !sound(old, &geo) || sound(half, &geo));
                    }
                    check(old, &|b| split.cut(b, &geo));
                    check(old, &|b| split.root(b, dir, [Lblk(1), Lblk(2)], &geo));
                }
                assert!(split
                    .locate(split.slot().offset())
                    .is_none_or(|(_, at)| at < 1 << 16));
            }
        }
    }
}

fn xattr_set(set: &XattrSet<'_>) {
    for x in set.iter() {
        let _ = xattr::prefix(x.index);
        if let XattrValue::Here(value) = x.value {
            let _ = xattr::entry_hash(x.name, value, true);
            if let Ok(Some(acl)) = Acl::parse(value) {
                assert_eq!(acl.iter().count(), acl.count());
            }
        }
    }
    let _ = set.find(1, b"name");
}

/// Parses a block of extended attributes, and an access control list.
pub fn fuzz_xattr(data: &[u8]) {
    let Some((geo, block)) = shape(data) else {
        return;
    };
    let _ = XattrSet::verify_block(&block, Pblk(100), &geo);
    if let Ok(set) = XattrSet::in_block(&block, &geo) {
        xattr_set(&set);
    }
    let _ = xattr::split_name(data);
    if let Ok(Some(acl)) = Acl::parse(data) {
        assert_eq!(acl.iter().count(), acl.count());
    }
}

/// Hashes a name in every way.
pub fn fuzz_hash(data: &[u8]) {
    let params = hash::HashParams::new([1, 2, 3, 4], false, 1);
    for version in 0..=6 {
        if let Ok(version) = HashVersion::decode(version, false) {
            let hash = params.hash(version, data);
            assert_eq!(hash.major & 1, 0);
            assert!(hash.to_cookie() < NameHash::COOKIE_END);
            assert_eq!(NameHash::from_cookie(hash.to_cookie()), hash);
        }
    }
}

/// Reads everything in an image, and returns how many blocks that took.
///
/// `checked` says whether checksums and `verify` are on. The walk may take `limit` blocks; reaching
/// the limit is for the caller to judge.
pub fn fuzz_image(image: &[u8], checked: bool, limit: u64) -> u64 {
    let fns = if checked { crc::FNS } else { crc::NULL_FNS };
    let Ok(mut volume) = Volume::open(image.to_vec(), fns) else {
        return 0;
    };
    volume.limit = limit;
    volume.long = 500;
    volume.verify = checked;
    let _ = volume.walk();
    volume.reads.get()
}
