// SPDX-License-Identifier: GPL-2.0

//! Changes to directories in memory, against a model: whatever is done, the parser finds every name
//! and nothing else.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::Rng;
use layout_host::crc;
use layout_host::edit::Dir;
use layout_host::fuzz::plain_superblock;
use layout_host::layout::dir_edit::Name;
use layout_host::layout::dir_split::{self, Full, Half, SplitEntry};
use layout_host::layout::*;

const DIR: Ino = Ino(100);
const PARENT: Ino = Ino(50);

/// What sort of volume a directory is on.
#[derive(Clone, Copy, Debug)]
struct Shape {
    log_block: u8,
    csum: bool,
    file_types: bool,
    large_dir: bool,
    index: bool,
    hash: u8,
    unsigned: bool,
}

const SHAPE: Shape = Shape {
    log_block: 0,
    csum: true,
    file_types: true,
    large_dir: false,
    index: true,
    hash: 1,
    unsigned: false,
};

impl Shape {
    fn geo(self) -> Geometry {
        let mut incompat = Incompat::EXTENTS.or(Incompat::INLINE_DATA);
        if self.file_types {
            incompat = incompat.or(Incompat::FILETYPE);
        }
        if self.large_dir {
            incompat = incompat.or(Incompat::LARGEDIR);
        }
        let ro_compat = match self.csum {
            true => RoCompat::METADATA_CSUM,
            false => RoCompat(0),
        };
        let mut raw = plain_superblock(self.log_block, incompat, ro_compat);
        raw[0x5c] = if self.index { 0x20 } else { 0 };
        raw[0xfc] = self.hash;
        raw[0x160] = if self.unsigned { 2 } else { 1 };
        let sum = crc::crc32c(!0, &raw[..0x3fc]);
        raw[0x3fc..].copy_from_slice(&sum.to_le_bytes());
        SuperBlock::parse(&raw, 1, crc::FNS).expect("a volume").geo
    }
}

fn empty(geo: Geometry) -> Dir {
    Dir::new(geo, geo.csum().owner(DIR, 7), PARENT)
}

const TYPES: [FileType; 7] = [
    FileType::Regular,
    FileType::Directory,
    FileType::CharDevice,
    FileType::BlockDevice,
    FileType::Fifo,
    FileType::Socket,
    FileType::Symlink,
];

/// The type of the inode of a name; it never changes.
fn type_of(ino: Ino) -> FileType {
    TYPES[ino.0 as usize % TYPES.len()]
}

/// A directory with what should be in it.
struct Pair {
    dir: Dir,
    model: BTreeMap<Vec<u8>, Ino>,
}

impl Pair {
    fn new(shape: Shape) -> Self {
        Self {
            dir: empty(shape.geo()),
            model: BTreeMap::new(),
        }
    }

    /// Adds a name, or lets it lead elsewhere if it is there; `false` if the index is full.
    fn put(&mut self, name: &[u8], ino: Ino) -> bool {
        let found = self.dir.find(name).expect("a look-up");
        let done = match found {
            Some(found) => self.dir.set(&found, ino, type_of(ino)).map(|()| true),
            None => self.dir.add(name, ino, type_of(ino)),
        };
        let done = done.unwrap_or_else(|e| panic!("{e}"));
        if done {
            self.model.insert(name.to_vec(), ino);
        }
        done
    }

    fn remove(&mut self, name: &[u8]) {
        let found = self.dir.find(name).expect("a look-up");
        assert_eq!(
            found.map(|f| f.ino),
            self.model.remove(name).as_ref().copied()
        );
        if let Some(found) = found {
            self.dir.remove(&found).expect("a removal");
            assert_eq!(self.dir.find(name), Ok(None));
        }
    }

    /// Compares everything.
    fn check(&self) {
        let file_types = self.dir.geo.has_incompat(Incompat::FILETYPE);
        let type_of = |ino| file_types.then(|| type_of(ino));
        self.dir.verify().unwrap_or_else(|e| panic!("{e}"));
        let mut listed = BTreeMap::new();
        for (name, ino, file_type) in self.dir.list().expect("a listing") {
            match &name[..] {
                b"." => assert_eq!(ino, DIR),
                b".." => assert_eq!(ino, PARENT),
                _ => assert_eq!(file_type, type_of(ino)),
            }
            assert_eq!(listed.insert(name, ino), None, "a name twice");
        }
        assert!(listed.remove(&b"."[..]).is_some() && listed.remove(&b".."[..]).is_some());
        assert!(listed == self.model, "not the names of the model");
        for (name, &ino) in &self.model {
            let found = self.dir.find(name).expect("a look-up").expect("the name");
            assert_eq!((found.ino, found.file_type), (ino, type_of(ino)));
        }
        assert_eq!(self.dir.find(b"never added"), Ok(None));
        assert_eq!(self.dir.is_empty(), Ok(self.model.is_empty()));
    }
}

/// How long names are.
#[derive(Clone, Copy, Debug)]
enum Lengths {
    Short,
    Any,
    Long,
}

fn random_name(rng: &mut Rng, lengths: Lengths) -> Vec<u8> {
    let len = match lengths {
        Lengths::Short => 1 + rng.below(12),
        Lengths::Any => 1 + rng.below(255),
        Lengths::Long => 255 - rng.below(12),
    };
    let mut name: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
    // All bytes but two may be in a name.
    for byte in &mut name {
        if matches!(*byte, 0 | b'/') {
            *byte = b'x';
        }
    }
    match &name[..] {
        b"." | b".." => b"dots".to_vec(),
        _ => name,
    }
}

/// Grows and shrinks a directory at random, and empties it in the end.
fn storm(shape: Shape, lengths: Lengths, ops: usize, pool: &[Vec<u8>], seed: u64) -> Dir {
    let mut rng = Rng(seed);
    let mut pair = Pair::new(shape);
    let mut names: Vec<Vec<u8>> = vec![];
    for op in 0..ops {
        // Two thirds of the time it grows.
        let grows = rng.below(10) < if op % 3000 < 2000 { 8 } else { 3 };
        let ino = Ino(11 + rng.below(2000) as u32);
        if grows || names.is_empty() {
            let name = match rng.below(4) {
                0 if !pool.is_empty() => pool[rng.below(pool.len())].clone(),
                1 if !names.is_empty() => names[rng.below(names.len())].clone(),
                _ => random_name(&mut rng, lengths),
            };
            let known = pair.model.contains_key(&name);
            if pair.put(&name, ino) && !known {
                names.push(name);
            }
        } else {
            let name = names.swap_remove(rng.below(names.len()));
            pair.remove(&name);
        }
        if op % 1000 == 999 {
            pair.check();
        }
    }
    pair.check();
    let dir = pair.dir.clone();
    for name in names {
        pair.remove(&name);
    }
    pair.check();
    assert_eq!(pair.dir.is_empty(), Ok(true));
    dir
}

#[test]
fn directories_are_what_the_model_says() {
    let mut seed = 0;
    for log_block in 0..3 {
        for (csum, file_types) in [(true, true), (false, true), (true, false), (false, false)] {
            for lengths in [Lengths::Short, Lengths::Any, Lengths::Long] {
                seed += 1;
                let shape = Shape {
                    log_block,
                    csum,
                    file_types,
                    hash: (seed % 6) as u8,
                    unsigned: seed % 2 == 0,
                    ..SHAPE
                };
                let dir = storm(shape, lengths, 6000, &[], seed);
                assert!(dir.indexed, "{shape:?}");
            }
        }
    }
}

#[test]
fn directories_without_an_index_grow_by_blocks() {
    for (log_block, csum) in [(0, true), (1, false), (2, true)] {
        let shape = Shape {
            log_block,
            csum,
            index: false,
            ..SHAPE
        };
        let dir = storm(shape, Lengths::Any, 3000, &[], log_block.into());
        assert!(!dir.indexed && dir.blocks.len() > 10);
    }
}

#[test]
fn blocks_of_64_kib_have_lengths_that_do_not_fit() {
    for (csum, index) in [(true, true), (false, true), (false, false)] {
        let shape = Shape {
            log_block: 6,
            csum,
            index,
            ..SHAPE
        };
        let dir = storm(shape, Lengths::Long, 2000, &[], 1);
        assert!(dir.indexed == index && dir.blocks.len() > 3);
    }
    let shape = Shape {
        log_block: 6,
        csum: false,
        ..SHAPE
    };
    let mut block = vec![0; 1 << 16];
    dir_edit::init_block(&mut block, &shape.geo()).expect("a block");
    assert_eq!(block[..8], *b"\0\0\0\0\xff\xff\0\0");
}

/// Names of 240 times "x" and one of these have the same legacy hash.
const ONE_LEGACY_HASH: &str = "\
    aaaaaaa 26laacT w2hbaBJ TW8jaZC 8CikaFY tyflaO2 1NhmaKe k8Mnayu ZOwoaxx vldtanT 9p3uayV \
    -7rya8o pNTzamF O_PAaRs iqeDaUJ cmiDa9V 2-NDaB8 ogNFalP qN0Fa6V 244FaFA e1QGa4X dm6KaMK \
    YqjMa6l cgMOaNf Gf_Qab_ t5OVaT1 p4fYa2j 6wjYaBe GIp0a1l ia22axq A6W3aWt BLg7ain U-q7aq_ \
    4MY8a4i 5Hs9agA 24_cbuM uqPebxi wVvfbcC 2Omhbri QZBhbJD jj6hbyH X0ojb_e BoklbnE 7MOlb-7 \
    LLIobUJ Ut5obBc hohvbQt 8uSvbKJ";

fn one_legacy_hash() -> Vec<Vec<u8>> {
    let names = ONE_LEGACY_HASH.split_whitespace();
    names
        .map(|end| ["x".repeat(240).as_bytes(), end.as_bytes()].concat())
        .collect()
}

/// Finds names of 200 bytes of which at least two each have the same major hash.
fn equal_hashes(geo: &Geometry) -> Vec<Vec<u8>> {
    let version = geo.hash().new_index().expect("a version");
    let mut seen: HashMap<u32, u32> = HashMap::new();
    let mut found = vec![];
    let name = |i: u32| format!("{i:08}{}", "e".repeat(192)).into_bytes();
    for i in 0..400_000 {
        let hash = geo.hash().hash(version, &name(i)).major;
        if let Some(other) = seen.insert(hash, i) {
            found.extend([name(other), name(i)]);
        }
    }
    found
}

#[test]
fn equal_hashes_may_lie_in_several_leaves() {
    let names = one_legacy_hash();
    for log_block in 0..3 {
        for csum in [true, false] {
            let shape = Shape {
                log_block,
                csum,
                hash: 0,
                ..SHAPE
            };
            let mut pair = Pair::new(shape);
            let version = pair.dir.geo.hash().new_index().expect("a version");
            let hash = |name: &[u8]| pair.dir.geo.hash().hash(version, name).major;
            assert!(names.iter().all(|name| hash(name) == hash(&names[0])));
            for (i, name) in names.iter().enumerate() {
                assert!(pair.put(name, Ino(11 + i as u32)));
                pair.check();
            }
            assert!(pair.dir.continued > 0 && pair.dir.blocks.len() > 4);
            let dir = storm(shape, Lengths::Any, 6000, &names, 9);
            assert!(dir.continued > 0);
        }
    }
    for (hash, unsigned) in [(1, false), (1, true), (2, false), (2, true)] {
        let shape = Shape {
            hash,
            unsigned,
            ..SHAPE
        };
        let names = equal_hashes(&shape.geo());
        assert!(names.len() > 20, "{} names", names.len());
        let mut continued = 0;
        for seed in 0..4 {
            continued += storm(shape, Lengths::Long, 4000, &names, seed).continued;
        }
        assert!(continued > 0, "{shape:?}");
    }
}

#[test]
fn an_index_grows_to_its_last_level_and_then_is_full() {
    for (large_dir, csum, levels) in [(false, true, 2), (true, true, 3), (true, false, 3)] {
        let shape = Shape {
            large_dir,
            csum,
            ..SHAPE
        };
        let mut pair = Pair::new(shape);
        let mut rng = Rng(3);
        let mut seen = 0;
        // Two levels have room for some 20,000 names of that length, as nodes are half empty.
        for i in 0..40_000u32 {
            let now = pair.dir.levels().expect("a root");
            if now > seen {
                (seen, _) = (now, pair.check());
            }
            let name = random_name(&mut rng, Lengths::Long);
            if !pair.put(&name, Ino(11 + i % 2000)) {
                break;
            }
        }
        assert_eq!(pair.dir.levels(), Ok(levels));
        pair.check();
        let names: Vec<_> = pair.model.keys().cloned().collect();
        if large_dir {
            assert_eq!(names.len(), 40_000);
        } else {
            // The name that was refused has left no trace, and names that find room still come.
            assert!((15_000..30_000).contains(&names.len()), "{}", names.len());
            pair.remove(&names[7]);
            assert!(pair.put(&names[7], Ino(11)));
        }
        for name in names.iter().step_by(2) {
            pair.remove(name);
        }
        pair.check();
    }
}

#[test]
fn a_new_block_is_as_ext4_makes_it() {
    let geo = SHAPE.geo();
    let dir = empty(geo);
    let mut expected = vec![0; 1024];
    expected[..12].copy_from_slice(b"\x64\0\0\0\x0c\0\x01\x02.\0\0\0");
    expected[12..24].copy_from_slice(b"\x32\0\0\0\xe8\x03\x02\x02..\0\0");
    expected[1012..1020].copy_from_slice(b"\0\0\0\0\x0c\0\0\xde");
    let sum = crc::crc32c(dir.owner.seed, &expected[..1012]);
    expected[1020..].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(dir.blocks[0], expected);

    let geo = Shape {
        csum: false,
        file_types: false,
        ..SHAPE
    }
    .geo();
    let mut expected = vec![0; 1024];
    expected[..12].copy_from_slice(b"\x64\0\0\0\x0c\0\x01\0.\0\0\0");
    expected[12..24].copy_from_slice(b"\x32\0\0\0\xf4\x03\x02\0..\0\0");
    assert_eq!(empty(geo).blocks[0], expected);
    let mut block = vec![0xff; 1024];
    dir_edit::init_block(&mut block, &geo).expect("a block");
    assert_eq!(block[..8], *b"\0\0\0\0\0\x04\0\0");
    assert!(block[8..].iter().all(|&b| b == 0));
}

#[test]
fn what_is_removed_is_cleared_and_its_room_is_the_one_befores() {
    let mut pair = Pair::new(SHAPE);
    let empty = pair.dir.blocks[0].clone();
    for (i, name) in ["one", "second", "third"].into_iter().enumerate() {
        assert!(pair.put(name.as_bytes(), Ino(11 + i as u32)));
    }
    // 24: "one", 36: "second", 52: "third", which has the rest.
    let found = pair
        .dir
        .find(b"second")
        .expect("sound")
        .expect("it is there");
    assert_eq!(found.offset, 36);
    pair.remove(b"second");
    let block = &pair.dir.blocks[0];
    assert_eq!(block[24 + 4..24 + 6], [28, 0], "the room of both");
    assert!(block[36..52].iter().all(|&b| b == 0), "no trace");
    // A name that fits goes there.
    assert!(pair.put(b"again", Ino(20)));
    let found = pair
        .dir
        .find(b"again")
        .expect("sound")
        .expect("it is there");
    assert_eq!(found.offset, 36);
    for name in [&b"one"[..], b"third", b"again"] {
        pair.remove(name);
    }
    assert_eq!(pair.dir.blocks[0], empty);

    // The first entry of a block stays, unused.
    let geo = SHAPE.geo();
    let mut block = vec![0; 1024];
    dir_edit::init_block(&mut block, &geo).expect("a block");
    let unused = block.clone();
    let name = Name::new(b"name").expect("a name");
    let slot = dir_edit::room(&block, name, &geo)
        .expect("sound")
        .expect("room");
    let insert =
        |block: &mut [u8]| dir_edit::insert(block, &slot, name, Ino(12), FileType::Regular, &geo);
    insert(&mut block).expect("as planned");
    let used = block.clone();
    // Each refusal leaves the block as it is.
    assert!(insert(&mut block).is_err());
    assert!(dir_edit::remove(&mut block, 0, Ino(13), &geo).is_err());
    assert!(dir_edit::remove(&mut block, 4, Ino(12), &geo).is_err());
    assert!(dir_edit::remove(&mut block, 1012, Ino(0), &geo).is_err());
    let set = |block: &mut [u8], at, old, new| {
        dir_edit::set_entry(block, at, Ino(old), Ino(new), FileType::Fifo, &geo)
    };
    assert!(set(&mut block, 0, 13, 14).is_err());
    assert!(set(&mut block, 1012, 0, 14).is_err());
    assert_eq!(block, used);
    dir_edit::remove(&mut block, 0, Ino(12), &geo).expect("as planned");
    assert_eq!(block, unused);
}

#[test]
fn the_place_of_the_checksum_is_no_room() {
    let geo = SHAPE.geo();
    let mut block = vec![0; 1024];
    dir_edit::init_block(&mut block, &geo).expect("a block");
    let name = Name::new(&[b'n'; 255]).expect("a name");
    let insert = |block: &mut [u8], name| {
        let slot = dir_edit::room(block, name, &geo).expect("sound")?;
        dir_edit::insert(block, &slot, name, Ino(12), FileType::Regular, &geo).ok()
    };
    // Three names of 264 bytes, and one that takes the other 220.
    for _ in 0..3 {
        insert(&mut block, name).expect("room");
    }
    insert(&mut block, Name::new(&[b'l'; 212]).expect("a name")).expect("room");
    assert_eq!(insert(&mut block, Name::new(b"a").expect("a name")), None);
    let owner = geo.csum().owner(DIR, 7);
    dir_edit::seal(&mut block, &owner, &geo).expect("a place for it");
    let entries = Dirents::block(&block, &geo).expect("a block");
    entries.verify(&owner, &geo).expect("it verifies");
    // A block whose last entry covers that place is refused.
    let mut bad = block.clone();
    bad[1012 + 7] = 0;
    let name = Name::new(b"a").expect("a name");
    let kind = |e: Error| e.kind;
    assert_eq!(
        dir_edit::room(&bad, name, &geo).map_err(kind),
        Err(Kind::Checksum)
    );
    let before = bad.clone();
    assert!(dir_edit::seal(&mut bad, &owner, &geo).is_err());
    assert!(dir_edit::remove(&mut bad, 0, Ino(12), &geo).is_err());
    assert_eq!(bad, before);
}

#[test]
fn the_parent_of_a_directory_changes_with_or_without_an_index() {
    let mut pair = Pair::new(SHAPE);
    for i in 0..100u32 {
        let block = &mut pair.dir.blocks[0];
        let geo = pair.dir.geo;
        let entry = dir_edit::parent_entry(block, DIR, &geo).expect("two dots");
        assert_eq!((entry.ino, entry.offset), (PARENT, 12));
        dir_edit::set_entry(block, 12, PARENT, Ino(77), FileType::Directory, &geo)
            .expect("as planned");
        let entry = dir_edit::parent_entry(block, DIR, &geo).expect("two dots");
        assert_eq!((entry.ino, entry.name), (Ino(77), &b".."[..]));
        assert!(dir_edit::parent_entry(block, PARENT, &geo).is_err());
        dir_edit::set_entry(block, 12, Ino(77), PARENT, FileType::Directory, &geo)
            .expect("as planned");
        assert!(pair.put(format!("a longer name {i}").as_bytes(), Ino(11)));
    }
    assert!(pair.dir.indexed);
    pair.check();
}

#[test]
fn a_block_of_unused_pieces_is_packed() {
    let geo = SHAPE.geo();
    // 23 pieces of 44 bytes, all unused but one in the middle.
    let mut block = vec![0; 1024];
    dir_edit::init_block(&mut block, &geo).expect("a block");
    for at in (0..23 * 44).step_by(44) {
        block[at + 4..at + 6].copy_from_slice(&[44, 0]);
    }
    block[440..444].copy_from_slice(&[12, 0, 0, 0]);
    block[446..448].copy_from_slice(&[3, 1]);
    block[448..451].copy_from_slice(b"one");
    let long = Name::new(&[b'n'; 255]).expect("a name");
    assert_eq!(dir_edit::room(&block, long, &geo), Ok(None));
    let version = geo.hash().new_index().expect("a version");
    let map = vec![SplitEntry::default(); dir_split::split_entries(&geo)];
    let Ok(Full::Pack(slot)) = dir_split::plan(&block, long, version, map, &geo) else {
        panic!("it is packed");
    };
    dir_split::pack(&mut block, &geo).expect("sound");
    dir_edit::insert(&mut block, &slot, long, Ino(13), FileType::Regular, &geo)
        .expect("as planned");
    let names: Vec<_> = Dirents::block(&block, &geo)
        .expect("a block")
        .iter()
        .map(|e| e.expect("an entry").name.to_vec())
        .collect();
    assert_eq!(names, [b"one".to_vec(), long.bytes().to_vec()]);
}

#[test]
fn a_split_takes_the_upper_half_by_size() {
    let geo = Shape {
        csum: false,
        ..SHAPE
    }
    .geo();
    let version = geo.hash().new_index().expect("a version");
    let mut rng = Rng(5);
    let mut splits = [0; 2];
    for _ in 0..2000 {
        let mut block = vec![0; 1024];
        dir_edit::init_block(&mut block, &geo).expect("a block");
        let mut full = None;
        // A block of 1 KiB has at most 85 names.
        for _ in 0..100 {
            let name = random_name(&mut rng, Lengths::Any);
            let name = Name::new(&name).expect("a name");
            let Some(slot) = dir_edit::room(&block, name, &geo).expect("sound") else {
                let map = vec![SplitEntry::default(); dir_split::split_entries(&geo)];
                full = dir_split::plan(&block, name, version, map, &geo).ok();
                break;
            };
            dir_edit::insert(&mut block, &slot, name, Ino(12), FileType::Regular, &geo)
                .expect("as planned");
        }
        let Some(Full::Split(split)) = full else {
            panic!("it is split");
        };
        let (mut lower, mut upper) = (block.clone(), vec![0; 1024]);
        split.upper(&block, &mut upper, &geo).expect("as planned");
        split.cut(&mut lower, &geo).expect("as planned");
        splits[usize::from(split.half() == Half::Upper)] += 1;
        let entries = |data: &[u8]| {
            let entries = Dirents::block(data, &geo).expect("a block").iter();
            let hash = |name| geo.hash().hash(version, name).major;
            entries
                .map(|e| e.map(|e| (hash(e.name), e.next - e.offset)))
                .collect::<Result<Vec<_>>>()
                .expect("sound")
        };
        // Straight from the rule: from the top, as long as half of the next is in the upper half.
        let mut sorted = entries(&block);
        sorted.sort();
        let (mut size, mut moved) = (0, 0);
        for (_, len) in sorted.iter().rev() {
            if size + len / 2 > 512 {
                break;
            }
            size += len;
            moved += 1;
        }
        let moved = match moved == sorted.len() {
            true => sorted.len() - sorted.len() / 2,
            false => moved,
        };
        let hashes = |entries: &[(u32, u32)]| {
            let mut hashes: Vec<u32> = entries.iter().map(|e| e.0).collect();
            hashes.sort_unstable();
            hashes
        };
        let kept = sorted.len() - moved;
        assert_eq!(hashes(&entries(&lower)), hashes(&sorted[..kept]));
        assert_eq!(hashes(&entries(&upper)), hashes(&sorted[kept..]));
        // Another block than that of the plan is refused, and stays.
        let before = upper.clone();
        assert!(split.cut(&mut upper, &geo).is_err());
        assert_eq!(upper, before);
    }
    assert!(splits.iter().all(|&n| n > 500), "{splits:?}");
}
