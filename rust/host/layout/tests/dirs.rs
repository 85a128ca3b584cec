// SPDX-License-Identifier: GPL-2.0

//! Hashed directories: hash functions against debugfs, trees by e2fsck, and trees that it does not
//! make.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use common::{scratch, write, Image};
use layout_host::crc;
use layout_host::fuzz::plain_superblock;
use layout_host::layout::*;

/// What stands for the default seed.
const NO_SEED: &str = "00000000-0000-0000-0000-000000000000";

const SEED: &str = "01234567-89ab-cdef-0011-223344556677";

/// The seed's words as the superblock would have them: its bytes in order, little-endian.
fn seed_words(seed: &str) -> [u32; 4] {
    let hex: String = seed.chars().filter(|c| *c != '-').collect();
    let mut words = [0; 4];
    for (i, word) in words.iter_mut().enumerate() {
        let bytes = u32::from_str_radix(&hex[i * 8..][..8], 16).expect("hex");
        *word = bytes.swap_bytes();
    }
    words
}

#[test]
fn hashes_are_those_of_debugfs() {
    let dir = scratch("dirs-hash");
    let image = Image::make(&dir, 2 << 20, "-t ext2 -b 1024", None);
    let mut names: Vec<String> = [
        "a",
        "ab",
        "abc",
        "abcd",
        "hello",
        "\u{e4}",
        "h\u{e4}llo w\u{f6}rld",
    ]
    .map(String::from)
    .to_vec();
    for len in [15usize, 16, 17, 31, 32, 33, 63, 64, 65, 100, 254, 255] {
        names.push(
            (0..len)
                .map(|i| char::from(b'!' + (i * 7 % 90) as u8))
                .collect(),
        );
        names.push("\u{e9}".repeat(len / 2));
    }
    // These would be taken for an option, a comment or a quote.
    names.retain(|n| !n.starts_with('-') && !n.contains(['#', '"', '\\', '\'']));
    assert!(names.len() > 10);

    let mut commands = Vec::new();
    let mut ours = Vec::new();
    for (version, seed) in (0..6u8).flat_map(|v| [(v, NO_SEED), (v, SEED)]) {
        let params = hash::HashParams::new(seed_words(seed), false, 1);
        let decoded = HashVersion::decode(version, false).expect("a version");
        for name in &names {
            commands.push(format!("dx_hash -h {version} -s {seed} \"{name}\""));
            ours.push(params.hash(decoded, name.as_bytes()));
        }
    }
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let answers = image.ask(&commands);
    for ((command, hash), answer) in commands.iter().zip(ours).zip(answers) {
        let expected = format!("is {:#x} (minor {:#x})", hash.major, hash.minor);
        assert!(
            answer.contains(&expected),
            "{command}: {answer} but {expected}"
        );
    }
}

#[test]
fn the_end_of_a_directory_is_no_hash() {
    let params = hash::HashParams::new([0; 4], false, 1);
    assert!(params.default_version().is_ok());
    assert!(HashVersion::decode(6, false).is_err());
    assert_eq!(NameHash::new(0x1235, 7).major, 0x1234);
    let last = NameHash::new(u32::MAX, u32::MAX);
    assert_eq!(last.major, 0xffff_fffc);
    assert!(last.to_cookie() < NameHash::COOKIE_END);
    assert_eq!(NameHash::from_cookie(last.to_cookie()), last);
}

/// Lists and looks up everything in a directory that e2fsck indexed.
fn check_big(image: &Image, names: &BTreeSet<Vec<u8>>) -> u8 {
    let volume = image.open();
    let dir = volume.path("/big").expect("the directory");
    assert!(dir.is_indexed());
    let mut by_name = BTreeMap::new();
    for entry in volume.list(&dir).expect("it lists") {
        by_name.insert(entry.name, entry.ino);
    }
    for dot in [&b"."[..], b".."] {
        assert!(by_name.remove(dot).is_some());
    }
    assert_eq!(by_name.keys().cloned().collect::<BTreeSet<_>>(), *names);
    for (name, ino) in &by_name {
        assert_eq!(volume.lookup(&dir, name), Ok(Ino(*ino)));
    }
    assert!(volume.lookup(&dir, b"no such name").is_err());
    let hashed = volume.list_hashed(&dir).expect("the index lists");
    assert_eq!(hashed.len(), names.len() + 2);
    assert!(hashed.windows(2).all(|w| w[0].0 <= w[1].0));

    let Step::Extent(run) = volume.map(&dir, Lblk(0)).expect("it maps") else {
        panic!("no first block");
    };
    let data = volume
        .block(run.pblk().expect("no hole"))
        .expect("it reads");
    let root = DxRoot::parse(&data, volume.geo()).expect("a root");
    root.node
        .verify(&dir.owner, volume.geo())
        .expect("it verifies");
    root.levels
}

#[test]
fn indexes_of_two_levels_with_every_hash() {
    let dir = scratch("dirs-big");
    let src = dir.join("source");
    fs::create_dir_all(src.join("big")).expect("a directory");
    let mut names = BTreeSet::new();
    write(src.join("big/original"), b"");
    names.insert(b"original".to_vec());
    for i in 0..900 {
        // Long names for many blocks, some with bytes beyond ASCII, as links to save inodes.
        let name = format!(
            "{i}-{}",
            if i % 3 == 0 { "\u{fc}" } else { "uu" }.repeat(90)
        );
        fs::hard_link(src.join("big/original"), src.join("big").join(&name)).expect("a link");
        names.insert(name.into_bytes());
    }
    let options = "-t ext4 -b 1024 -O ^has_journal";
    for (hash, flags) in [("half_md4", 1), ("tea", 2), ("legacy", 1), ("half_md4", 2)] {
        let image = Image::make(&dir, 8 << 20, options, Some(&src));
        common::run(
            "tune2fs",
            &["-E", &format!("hash_alg={hash}"), image.str()],
            &[0],
        );
        image.change(&[&format!("ssv flags {flags}")]);
        image.index_dirs();
        assert_eq!(image.open().geo().hash().unsigned(), flags == 2);
        assert_eq!(check_big(&image, &names), 1, "{hash} {flags}");
    }
}

/// A volume with blocks of 1 KiB, no checksums and deep indexes.
fn plain() -> Geometry {
    let incompat = Incompat::FILETYPE
        .or(Incompat::EXTENTS)
        .or(Incompat::LARGEDIR);
    let raw = plain_superblock(0, incompat.or(Incompat::INLINE_DATA), RoCompat(0));
    SuperBlock::parse(&raw, 1, crc::FNS).expect("a volume").geo
}

fn put16(block: &mut [u8], at: usize, v: u16) {
    block[at..at + 2].copy_from_slice(&v.to_le_bytes());
}

fn put32(block: &mut [u8], at: usize, v: u32) {
    block[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

/// Builds a node from entries of (hash, block).
fn node(entries: &[(u32, u32)], levels: Option<u8>) -> Vec<u8> {
    let mut block = vec![0; 1024];
    let start = match levels {
        Some(levels) => {
            put32(&mut block, 0, 2);
            put16(&mut block, 4, 12);
            put32(&mut block, 12, 2);
            put16(&mut block, 16, 1012);
            block[28] = 1;
            block[29] = 8;
            block[30] = levels;
            32
        }
        None => {
            put16(&mut block, 4, 1024);
            8
        }
    };
    for (i, &(hash, child)) in entries.iter().enumerate() {
        put32(&mut block, start + i * 8, hash);
        put32(&mut block, start + i * 8 + 4, child);
    }
    put16(&mut block, start, ((1024 - start) / 8) as u16);
    put16(&mut block, start + 2, entries.len() as u16);
    block
}

/// Walks a made-up tree; returns the leaves with the hashes that they start with.
fn walk(
    blocks: &BTreeMap<u32, Vec<u8>>,
    hash: u32,
    reach: Reach,
    dir_blocks: u32,
) -> Result<Vec<(u32, u32)>> {
    let geo = plain();
    let root = DxRoot::parse(&blocks[&0], &geo)?;
    let (mut cursor, mut step) = DxCursor::start(&root, hash, dir_blocks)?;
    let mut leaves = Vec::new();
    loop {
        step = match step {
            DxStep::Node(lblk) => {
                let node = DxNode::parse(&blocks[&lblk.0], lblk, &geo)?;
                cursor.feed(&node)?
            }
            DxStep::Leaf(leaf) => {
                leaves.push((leaf.lblk.0, leaf.first_hash));
                cursor.advance(reach)
            }
            DxStep::Done => return Ok(leaves),
        }
    }
}

/// A tree of three levels in which the hash 40 goes on over four leaves.
fn deep_tree() -> BTreeMap<u32, Vec<u8>> {
    BTreeMap::from([
        (0, node(&[(0, 1), (41, 2)], Some(2))),
        (1, node(&[(0, 3), (20, 4)], None)),
        (2, node(&[(0, 5)], None)),
        (3, node(&[(0, 10), (10, 11)], None)),
        (4, node(&[(0, 12), (30, 13), (40, 14), (41, 15)], None)),
        (5, node(&[(0, 16), (41, 17), (60, 18)], None)),
    ])
}

#[test]
fn a_walk_of_three_levels_sees_each_leaf_once_in_order() {
    let leaves = walk(&deep_tree(), 0, Reach::Any, 100).expect("a walk");
    let expected = [
        (10, 0),
        (11, 10),
        (12, 20),
        (13, 30),
        (14, 40),
        (15, 40),
        (16, 40),
        (17, 40),
        (18, 60),
    ];
    assert_eq!(leaves, expected);
    // A listing that resumes starts with the leaf in charge.
    let leaves = walk(&deep_tree(), 24, Reach::Any, 100).expect("a walk");
    assert_eq!(leaves, expected[2..]);
}

#[test]
fn a_look_up_follows_a_hash_over_leaves_and_nodes() {
    for (hash, expected) in [
        (2, &[10][..]),
        (10, &[11]),
        (38, &[13]),
        (40, &[14, 15, 16, 17]),
        (44, &[17]),
        (60, &[18]),
        (u32::MAX - 1, &[18]),
    ] {
        let leaves = walk(&deep_tree(), hash, Reach::SameHash, 100).expect("a walk");
        let leaves: Vec<u32> = leaves.into_iter().map(|(l, _)| l).collect();
        assert_eq!(leaves, expected, "hash {hash}");
    }
}

#[test]
fn bad_trees_are_refused() {
    let bad = |change: fn(&mut BTreeMap<u32, Vec<u8>>), dir_blocks| {
        let mut tree = deep_tree();
        change(&mut tree);
        let error = walk(&tree, 0, Reach::Any, dir_blocks).expect_err("a refusal");
        assert_eq!(error.kind, Kind::Corrupt);
        error.to_string()
    };
    let cases = [
        bad(|_| {}, 18),
        bad(|t| drop(t.insert(3, node(&[(0, 1)], None))), 100),
        bad(|t| drop(t.insert(3, node(&[(0, 0)], None))), 100),
        bad(|t| drop(t.insert(3, node(&[(0, 3)], None))), 100),
        bad(|t| drop(t.insert(0, node(&[(0, 1)], Some(3)))), 100),
        bad(|t| drop(t.insert(1, node(&[], None))), 100),
        bad(|t| t.get_mut(&0).expect("a root")[28] = 6, 100),
        bad(|t| t.get_mut(&0).expect("a root")[29] = 16, 100),
        bad(|t| t.get_mut(&0).expect("a root")[31] = 1, 100),
        bad(|t| t.get_mut(&3).expect("a node")[8] = 100, 100),
        bad(|t| t.get_mut(&3).expect("a node")[0] = 1, 100),
    ];
    assert!(cases[0].contains("past the end"), "{}", cases[0]);
    assert!(cases[1].contains("points back to 1"), "{}", cases[1]);
    // Nodes that share children make no walk longer than the directory.
    let shared: Vec<_> = (0..100).map(|i| (i * 2, 1)).collect();
    let leaves: Vec<_> = (0..100).map(|i| (i * 2, 10)).collect();
    let tree = BTreeMap::from([(0, node(&shared, Some(1))), (1, node(&leaves, None))]);
    let error = walk(&tree, 0, Reach::Any, 50).expect_err("a refusal");
    assert!(
        error.to_string().contains("more leaves than the 50"),
        "{error}"
    );
    // Entries that are out of order are found when the node is verified.
    let geo = plain();
    let block = node(&[(0, 1), (8, 2), (6, 3)], None);
    let owner = geo.csum().owner(Ino(12), 0);
    let node = DxNode::parse(&block, Lblk(7), &geo).expect("a node");
    assert!(node.verify(&owner, &geo).is_err());
}

/// Builds a chain of entries of (inode, name) that fills `size` bytes.
fn chain(entries: &[(u32, &str)], size: usize) -> Vec<u8> {
    let mut data = vec![0; size];
    let mut at = 0;
    for (i, (ino, name)) in entries.iter().enumerate() {
        let used = (8 + name.len()).next_multiple_of(4).max(12);
        let len = if i + 1 == entries.len() {
            size - at
        } else {
            used
        };
        put32(&mut data, at, *ino);
        put16(&mut data, at + 4, len as u16);
        data[at + 6] = name.len() as u8;
        data[at + 7] = 1;
        data[at + 8..at + 8 + name.len()].copy_from_slice(name.as_bytes());
        at += len;
    }
    data
}

#[test]
fn a_listing_resumes_at_any_offset() {
    let geo = plain();
    let data = chain(
        &[(12, "one"), (0, "gone"), (13, "three"), (14, "four")],
        1024,
    );
    let block = Dirents::block(&data, &geo).expect("a block");
    let all: Vec<_> = block.iter().map(|e| e.expect("an entry")).collect();
    let names: Vec<_> = all.iter().map(|e| e.name).collect();
    assert_eq!(names, [&b"one"[..], b"three", b"four"]);
    assert_eq!(all[2].next, 1024);
    for entry in &all {
        for offset in entry.offset.saturating_sub(3)..=entry.offset {
            let found = block
                .iter_from(offset)
                .next()
                .expect("one")
                .expect("an entry");
            assert_eq!(found, *entry);
        }
    }
    assert!(block.iter_from(1024).next().is_none());
    assert!(block.iter_from(u32::MAX).next().is_none());
    assert_eq!(
        block.find(b"four").expect("sound").map(|e| e.ino),
        Some(Ino(14))
    );
    assert_eq!(block.find(b"gone").expect("sound"), None);
}

/// A change to a block.
type Change = fn(&mut Vec<u8>);

#[test]
fn bad_entries_are_refused() {
    let geo = plain();
    let good = chain(&[(12, "one"), (13, "two")], 1024);
    let cases: [(Change, &str); 8] = [
        (|b| put16(b, 4, 8), "bad length"),
        (|b| put16(b, 4, 14), "bad length"),
        (|b| put16(b, 4, 0), "bad length"),
        (|b| b[6] = 5, "too short for its name"),
        (|b| put16(b, 16, 1016), "runs over the end"),
        (|b| put16(b, 16, 1004), "too close to the end"),
        (|b| put32(b, 0, 5000), "inode number"),
        (|b| b[9] = b'/', "bad name"),
    ];
    for (change, reason) in cases {
        let mut data = good.clone();
        change(&mut data);
        let block = Dirents::block(&data, &geo).expect("a block");
        let mut iter = block.iter();
        let error = iter.find_map(|e| e.err()).expect(reason);
        assert!(error.to_string().contains(reason), "{error}");
        assert!(iter.next().is_none(), "an iterator ends after an error");
    }
    let dot = chain(&[(12, ".")], 1024);
    let block = Dirents::block(&dot, &geo).expect("a block");
    assert!(block.iter().next().is_some_and(|e| e.is_err()));
    assert!(Dirents::block(&good[..1000], &geo).is_err());
}

#[test]
fn inline_directories_use_both_parts_of_the_inode() {
    let geo = plain();
    let mut raw = vec![0; 256];
    put16(&mut raw, 0, 0o040_755);
    put16(&mut raw, 0x1a, 2);
    put32(&mut raw, 0x20, InodeFlags::INLINE_DATA.0);
    put16(&mut raw, 0x80, 32);
    put32(&mut raw, 0x28, 2);
    raw[0x2c..0x64].copy_from_slice(&chain(&[(12, "first"), (13, "second")], 56));
    // The attribute "system.data" with 48 bytes at the inode's end.
    put32(&mut raw, 160, 0xea02_0000);
    raw[164] = 4;
    raw[165] = 7;
    put16(&mut raw, 166, 208 - 164);
    put32(&mut raw, 172, 48);
    raw[180..184].copy_from_slice(b"data");
    raw[208..].copy_from_slice(&chain(&[(14, "third"), (15, "fourth")], 48));
    put32(&mut raw, 4, 108);

    let inode = Inode::parse(&raw, Ino(20), &geo).expect("an inode");
    assert_eq!(inode.data_map(), DataMap::Inline);
    let data = InlineData::parse(&raw, &inode, &geo).expect("inline data");
    let dir = InlineDir::parse(&data, &inode, &geo).expect("a directory");
    assert_eq!(dir.parent, Ino::ROOT);
    let all: Vec<_> = dir.iter().map(|e| e.expect("an entry")).collect();
    let found: Vec<_> = all.iter().map(|e| (e.offset, e.next, e.ino.0)).collect();
    assert_eq!(
        found,
        [(4, 20, 12), (20, 60, 13), (60, 76, 14), (76, 108, 15)]
    );
    assert_eq!(
        dir.find(b"fourth").expect("sound").map(|e| e.ino),
        Some(Ino(15))
    );
    assert_eq!(dir.iter_from(60).count(), 2);
}
