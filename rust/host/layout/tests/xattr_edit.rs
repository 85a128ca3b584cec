// SPDX-License-Identifier: GPL-2.0

//! Changed sets of attributes are what the parser takes them for, whatever was there before.

mod common;

use std::collections::BTreeMap;

use common::edit::{geo_with, Rng};
use layout_host::layout::xattr::{self, entry_hash};
use layout_host::layout::xattr_edit::*;
use layout_host::layout::*;

type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// A volume with inodes of `inode_size` bytes.
fn shape(log_block: u8, inode_size: u16, ea_inode: bool, sums: bool) -> Geometry {
    let mut incompat = Incompat::FILETYPE.or(Incompat::EXTENTS);
    if ea_inode {
        incompat = incompat.or(Incompat::EA_INODE);
    }
    let ro_compat = match sums {
        true => RoCompat::METADATA_CSUM,
        false => RoCompat(0),
    };
    geo_with(log_block, incompat, ro_compat, |raw| {
        raw[0x58..0x5a].copy_from_slice(&inode_size.to_le_bytes());
    })
}

/// Volumes of all block sizes, with inodes of all sizes that they can have.
fn shapes() -> Vec<(Geometry, bool)> {
    let mut shapes = Vec::new();
    for log_block in 0..=6 {
        let mut inode_size = 128u16;
        while inode_size <= 4096 && u32::from(inode_size) <= 1024 << log_block {
            for ea_inode in [false, true] {
                let sums = (inode_size / 128 + log_block as u16) % 2 == 0;
                shapes.push((shape(log_block, inode_size, ea_inode, sums), ea_inode));
            }
            inode_size *= 2;
        }
    }
    shapes
}

const PBLK: Pblk = Pblk(77);

/// What an inode has.
struct File {
    geo: Geometry,
    area: Vec<u8>,
    block: Option<Vec<u8>>,
    /// Values in inodes of their own, by number.
    values: BTreeMap<u32, Vec<u8>>,
}

impl File {
    fn new(geo: Geometry) -> Self {
        let len = usize::from(geo.inode_size()).saturating_sub(128 + 32);
        Self {
            geo,
            area: vec![0; len],
            block: None,
            values: BTreeMap::new(),
        }
    }

    fn sets(&self) -> Sets<'_> {
        let block = self.block.as_deref().map(|block| {
            XattrSet::verify_block(block, PBLK, &self.geo).expect("a sum");
            assert_eq!(XattrSet::block_refcount(block), Some(1));
            XattrSet::in_block(block, &self.geo).expect("a set")
        });
        Sets {
            area_len: self.area.len(),
            area: XattrSet::in_area(&self.area, &self.geo).expect("a set"),
            block,
        }
    }

    fn write(&mut self, home: Home, change: XattrChange<'_>) {
        let geo = self.geo;
        let sets = self.sets();
        let edit = SetEdit::new(home, sets.get(home), change);
        let empty = edit.is_empty();
        let mut buf = match home {
            Home::Inode => vec![0xaa; self.area.len()],
            Home::Block => vec![0xaa; geo.block_size() as usize],
        };
        assert!(edit.fits(buf.len()));
        edit.write(&mut buf).expect("it fits");
        match home {
            Home::Inode => {
                assert!(!empty || buf.iter().all(|&byte| byte == 0));
                put_area(&mut self.area, &buf).expect("an area");
            }
            Home::Block if empty => self.block = None,
            Home::Block => {
                let mut block = vec![0x55; buf.len()];
                put_block(&mut block, &buf, PBLK, &geo).expect("a block");
                self.block = Some(block);
            }
        }
    }

    /// As `setxattr` would; whether there was room.
    fn set(&mut self, index: u8, name: &[u8], value: &[u8], ino: u32) -> Option<Placement> {
        let sets = self.sets();
        let old = sets.find(index, name).map(|(home, _)| home);
        let placement = sets.place(index, name, value, &self.geo)?;
        let new = match placement.own_inode {
            true => {
                self.values.insert(ino, value.to_vec());
                NewValue::Inode {
                    ino: Ino(ino),
                    size: value.len() as u32,
                    hash: value_hash(value, &self.geo),
                }
            }
            false => NewValue::Here(value),
        };
        let change = XattrChange {
            index,
            name,
            value: Some(new),
        };
        self.write(placement.home, change);
        if let Some(old) = old.filter(|&old| old != placement.home) {
            let change = XattrChange {
                value: None,
                ..change
            };
            self.write(old, change);
        }
        Some(placement)
    }

    fn remove(&mut self, index: u8, name: &[u8]) {
        let home = self.sets().find(index, name).expect("it is there").0;
        let change = XattrChange {
            index,
            name,
            value: None,
        };
        self.write(home, change);
    }

    /// All attributes, each in one place, with hashes that are right.
    fn read(&self) -> Model {
        let mut all = Model::new();
        let sets = self.sets();
        for home in [Home::Inode, Home::Block] {
            let mut last = None;
            let mut hash = Some(0u32);
            for attr in sets.get(home).iter().flat_map(XattrSet::iter) {
                let value = match attr.value {
                    XattrValue::Here(value) => {
                        let wanted = match home {
                            Home::Block => entry_hash(attr.name, value, false),
                            Home::Inode => 0,
                        };
                        assert_eq!(attr.hash, wanted);
                        value.to_vec()
                    }
                    XattrValue::Inode(value) => {
                        let bytes = &self.values[&value.ino.0];
                        assert_eq!(value.size as usize, bytes.len());
                        let word = value_hash(bytes, &self.geo).to_le_bytes();
                        assert_eq!(attr.hash, entry_hash(attr.name, &word, false));
                        bytes.clone()
                    }
                };
                if home == Home::Block {
                    let key = (attr.index, attr.name.len(), attr.name);
                    assert!(last < Some(key), "not in order");
                    last = Some(key);
                    hash = hash
                        .filter(|_| attr.hash != 0)
                        .map(|hash| hash.rotate_left(16) ^ attr.hash);
                }
                let key = (attr.index, attr.name.to_vec());
                assert!(all.insert(key, value).is_none(), "it is there twice");
            }
            if let (Home::Block, Some(block)) = (home, &self.block) {
                assert!(last.is_some(), "a block for nothing");
                let stored = u32::from_le_bytes(block[12..16].try_into().expect("four bytes"));
                assert_eq!(stored, hash.unwrap_or(0));
            }
        }
        all
    }

    /// How many bytes are used by what is there, as ext4 counts them.
    fn used(&self, home: Home) -> usize {
        let set = self.sets().get(home);
        let attrs = set.iter().flat_map(XattrSet::iter);
        let sizes = attrs.map(|attr| {
            let value = match attr.value {
                XattrValue::Here(value) => value.len().next_multiple_of(4),
                XattrValue::Inode(_) => 0,
            };
            (16 + attr.name.len()).next_multiple_of(4) + value
        });
        sizes.sum()
    }
}

fn any_name(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(8) {
        0 => 0,
        1 => 255,
        2 => rng.below(256),
        _ => 1 + rng.below(3),
    };
    (0..len).map(|_| 0xfe + rng.below(2) as u8).collect()
}

#[test]
fn random_changes() {
    for (n, (geo, ea_inode)) in shapes().into_iter().enumerate() {
        let mut rng = Rng(n as u64);
        let mut file = File::new(geo);
        let mut model = Model::new();
        let block_size = u64::from(geo.block_size());
        let (mut full, mut homes) = (0, [0; 4]);
        for step in 0..400 {
            let index = [1, 4, 6][rng.below(3) as usize];
            let mut name = any_name(&mut rng);
            let key = (index, name.clone());
            if rng.one_in(3) && !model.is_empty() {
                let nth = rng.below(model.len() as u64) as usize;
                let (index, name) = model.keys().nth(nth).expect("one").clone();
                file.remove(index, &name);
                model.remove(&(index, name));
            } else {
                let len = match rng.below(10) {
                    0 => 0,
                    1 => rng.below(block_size + block_size / 2),
                    2 => rng.below(400),
                    _ => rng.below(30),
                };
                let value: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
                let before = (file.area.clone(), file.block.clone());
                match file.set(index, &name, &value, 1000 + step) {
                    Some(placement) => {
                        let own = usize::from(placement.own_inode);
                        homes[2 * own + usize::from(placement.home == Home::Block)] += 1;
                        model.insert(key, value);
                    }
                    None => {
                        full += 1;
                        assert_eq!(before, (file.area.clone(), file.block.clone()));
                        // There was none: neither for the value, nor for its entry.
                        let own = match ea_inode && len > 0 {
                            true => 0,
                            false => value.len().next_multiple_of(4),
                        };
                        let own = own + (16 + name.len()).next_multiple_of(4);
                        let old = model.get(&key).map_or(0, |old| old.len() + 272);
                        let used = file.used(Home::Block);
                        assert!(32 + used + 4 + own + old > block_size as usize);
                        let used = file.used(Home::Inode);
                        assert!(4 + used + 4 + own + old > file.area.len());
                    }
                }
            }
            name.clear();
            assert!(file.read() == model, "{n}: step {step}");
        }
        if geo.inode_size() > 256 {
            assert!(homes[0] > 0, "{n}: none in the inode");
        }
        if geo.inode_size() < 2048 && geo.block_size() < 4096 {
            assert!(homes[1] > 0, "{n}: none in the block");
        }
        if ea_inode {
            assert!(homes[2] + homes[3] > 0, "{n}: no value in an inode");
        }
        if geo.block_size() == 1024 {
            assert!(full > 0, "{n}: never full");
        }
        for (index, name) in model.keys() {
            file.remove(*index, name);
        }
        assert!(file.block.is_none() && file.area.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn what_fills_it_to_the_last_byte() {
    let geo = shape(0, 256, false, true);
    let mut file = File::new(geo);
    // The area has 96 bytes: 4 of the header, 4 of the end, 20 of the entry.
    let at = |home| {
        Some(Placement {
            home,
            own_inode: false,
        })
    };
    assert_eq!(file.set(1, b"abcd", &[7; 68], 0), at(Home::Inode));
    assert_eq!(file.set(1, b"abcd", &[7; 69], 0), at(Home::Block));
    assert_eq!(file.sets().area.map(|_| ()), None);
    assert_eq!(file.set(1, b"abcd", &[7; 65], 0), at(Home::Inode));
    assert!(file.block.is_none());
    // The block: 32, 4 and 20.
    assert_eq!(file.set(1, b"abcd", &[7; 1024 - 56], 0), at(Home::Block));
    assert_eq!(file.set(1, b"abcd", &[7; 1024 - 55], 0), None);
    // With values in inodes, the block keeps room for names.
    let mut file = File::new(shape(0, 128, true, true));
    assert_eq!(file.set(1, b"abcd", &[7; 896], 0), at(Home::Block));
    let own = Some(Placement {
        home: Home::Block,
        own_inode: true,
    });
    assert_eq!(file.set(1, b"abcd", &[7; 897], 100), own);
    assert_eq!(file.set(1, b"efgh", &[7; 969], 101), own);
    assert_eq!(file.set(1, b"efgh", &[], 2), at(Home::Block));
}

#[test]
fn a_shared_block_is_released_until_one_has_it() {
    let geo = shape(0, 128, false, true);
    let mut file = File::new(geo);
    file.set(1, b"a", b"value", 0).expect("room");
    let mut block = file.block.take().expect("a block");
    set_refcount(&mut block, 3).expect("a block");
    seal(&mut block, PBLK, &geo).expect("a block");
    XattrSet::verify_block(&block, PBLK, &geo).expect("a sum");
    assert_eq!(release(&mut block), Some(()));
    assert_eq!(release(&mut block), Some(()));
    assert_eq!(XattrSet::block_refcount(&block), Some(1));
    assert_eq!(release(&mut block), None);
    assert!(XattrSet::verify_block(&block, PBLK, &geo).is_err());
    set_refcount(&mut block, 0).expect("a block");
    assert_eq!(release(&mut block), None);
    assert_eq!(release(&mut []), None);
    assert_eq!(put_block(&mut [0; 1024], &[0; 1023], PBLK, &geo), None);
}

#[test]
fn names_that_cannot_be() {
    let geo = shape(0, 256, false, false);
    let mut buf = [0; 1024];
    let long = [b'n'; 256];
    for (name, good) in [
        (&b"a\0"[..], false),
        (&long[..], false),
        (&long[1..], true),
        (b"", true),
    ] {
        let change = XattrChange {
            index: 1,
            name,
            value: Some(NewValue::Here(b"v")),
        };
        let written = SetEdit::new(Home::Block, None, change).write(&mut buf);
        assert_eq!(written.is_ok(), good, "{} bytes", name.len());
        if good {
            let set = XattrSet::in_block(&buf, &geo).expect("a set");
            assert_eq!(set.find(1, name).expect("it is there").value.size(), 1);
        }
    }
}

#[test]
fn wrong_bytes_do_not_panic() {
    let mut changed = 0;
    for (n, (geo, _)) in shapes().into_iter().enumerate() {
        let mut rng = Rng(n as u64);
        let mut file = File::new(geo);
        for i in 0..20u32 {
            let name = any_name(&mut rng);
            let len = rng.below(100) as usize;
            file.set(1, &name, &vec![1; len], 1000 + i);
        }
        let whole = (file.area.clone(), file.block.clone());
        for _ in 0..200 {
            let (mut area, mut block) = whole.clone();
            if !area.is_empty() {
                rng.mutate(&mut area);
            }
            if let Some(block) = &mut block {
                rng.mutate(block);
            }
            let sets = Sets {
                area_len: area.len(),
                area: XattrSet::in_area(&area, &geo).ok().flatten(),
                block: block
                    .as_deref()
                    .and_then(|block| XattrSet::in_block(block, &geo).ok()),
            };
            let name = any_name(&mut rng);
            let value = vec![2; rng.below(300) as usize];
            let Some(placement) = sets.place(1, &name, &value, &geo) else {
                continue;
            };
            for value in [Some(NewValue::Here(&value)), None] {
                for home in [Home::Inode, Home::Block] {
                    let change = XattrChange {
                        index: 1,
                        name: &name,
                        value,
                    };
                    let edit = SetEdit::new(home, sets.get(home), change);
                    let mut to = match home {
                        Home::Inode => vec![0; area.len()],
                        Home::Block => vec![0; geo.block_size() as usize],
                    };
                    let written = edit.write(&mut to);
                    if !edit.is_empty() {
                        assert_eq!(written.is_ok(), edit.fits(to.len()));
                    }
                    if edit.fits(to.len()) && placement.home == home {
                        // What passes the checks can be written, and what was written passes them.
                        assert_eq!(written, Ok(()));
                        changed += 1;
                        match home {
                            Home::Inode => XattrSet::in_area(&to, &geo).map(drop),
                            Home::Block => XattrSet::in_block(&to, &geo).map(drop),
                        }
                        .expect("a set");
                    }
                }
            }
        }
    }
    assert!(changed > 1000, "{changed}");
}

#[test]
fn access_control_lists() {
    let entry = |tag, perm| AclEntry { tag, perm };
    let lists: [&[AclEntry]; 3] = [
        &[
            entry(AclTag::UserObj, 7),
            entry(AclTag::GroupObj, 5),
            entry(AclTag::Other, 0),
        ],
        &[
            entry(AclTag::UserObj, 6),
            entry(AclTag::User(0), 7),
            entry(AclTag::User(u32::MAX - 1), 1),
            entry(AclTag::GroupObj, 5),
            entry(AclTag::Group(70_000), 3),
            entry(AclTag::Mask, 7),
            entry(AclTag::Other, 4),
        ],
        &[],
    ];
    for list in lists {
        let mut value = vec![0xaa; acl::encoded_len(list)];
        assert_eq!(acl::encode(list, &mut value), Ok(()));
        let parsed = Acl::parse(&value).expect("a list");
        let parsed: Vec<AclEntry> = parsed.iter().flat_map(Acl::iter).collect();
        assert_eq!(parsed, list);
        let short = value.len() - 1;
        assert!(acl::encode(list, &mut value[..short]).is_err());
    }
    let incomplete = [entry(AclTag::UserObj, 7), entry(AclTag::Other, 0)];
    assert!(acl::encode(&incomplete, &mut [0; 12]).is_err());
    assert_eq!(xattr::prefix(2), Some("system.posix_acl_access"));
}
