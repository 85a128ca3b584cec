// SPDX-License-Identifier: GPL-2.0

//! Changed attributes in images of mke2fs, judged by e2fsck and debugfs.

mod common;

use std::collections::BTreeMap;

use common::edit::{fsck, Edited, Rng};
use common::{scratch, write, Image};
use layout_host::layout::xattr_edit::*;
use layout_host::layout::*;

type Model = BTreeMap<String, Vec<u8>>;

/// Changes an attribute in the bytes of the image; `false` if there is no room.
fn change(image: &mut Edited, ino: Ino, name: &str, value: Option<&[u8]>) -> bool {
    let geo = image.geo;
    let inode = image.inode(ino);
    let mut raw = image.inode_mut(ino).to_vec();
    let mut edit = InodeEdit::new(&mut raw, &geo).expect("an inode");
    let area = edit.xattr_area().to_vec();
    // Large inodes may have no block: then there is room in them only.
    let pblk = inode.xattr_block;
    let block = pblk.map(|pblk| image.block(pblk).to_vec());
    let sets = Sets {
        area_len: area.len(),
        area: XattrSet::in_area(&area, &geo).expect("a set"),
        block: block
            .as_deref()
            .map(|block| XattrSet::in_block(block, &geo).expect("a set")),
    };
    let found = sets.find(1, name.as_bytes()).map(|(home, _)| home);
    let target = match value {
        Some(value) => match sets.place(1, name.as_bytes(), value, &geo) {
            Some(Placement { home, .. }) if home == Home::Inode || pblk.is_some() => Some(home),
            _ => return false,
        },
        None => None,
    };
    for home in [Home::Inode, Home::Block] {
        let value = value.filter(|_| target == Some(home)).map(NewValue::Here);
        if value.is_none() && found != Some(home) {
            continue;
        }
        let name = name.as_bytes();
        let change = XattrChange {
            index: 1,
            name,
            value,
        };
        let set = SetEdit::new(home, sets.get(home), change);
        let len = match home {
            Home::Inode => area.len(),
            Home::Block => geo.block_size() as usize,
        };
        let mut to = vec![0xaa; len];
        set.write(&mut to).expect("it fits");
        match home {
            Home::Inode => {
                let bytes = image.inode_mut(ino);
                let mut edit = InodeEdit::new(bytes, &geo).expect("an inode");
                put_area(edit.xattr_area(), &to).expect("the area");
                edit.seal(ino);
            }
            Home::Block => {
                let pblk = pblk.expect("a block");
                put_block(image.block_mut(pblk), &to, pblk, &geo).expect("the block");
            }
        }
    }
    true
}

/// Rewrites the attributes of a file; returns how often there was no room.
fn rewrite(name: &str, options: &str) -> u32 {
    let dir = scratch(name);
    let src = dir.join("source");
    std::fs::create_dir_all(&src).expect("a directory");
    write(src.join("file"), b"contents");
    let image = Image::make(&dir, 8 << 20, options, Some(&src));
    let large = dir.join("large");
    write(large.clone(), &[b'x'; 500]);
    image.change(&[
        &format!("ea_set -f {} /file user.keep", large.display()),
        "ea_set /file user.small 1234",
    ]);
    let ino = image.open().path("file").expect("the file").ino;
    let mut edited = Edited::load(&image);
    let mut model = Model::new();
    model.insert("user.keep".into(), vec![b'x'; 500]);
    model.insert("user.small".into(), b"1234".to_vec());
    let mut rng = Rng(options.len() as u64);
    let mut full = 0;
    for round in 0..8 {
        for _ in 0..40 {
            let name = format!("{}{}", "n".repeat(rng.below(40) as usize), rng.below(5));
            let full_name = format!("user.{name}");
            if model.contains_key(&full_name) && rng.one_in(2) {
                assert!(change(&mut edited, ino, &name, None));
                model.remove(&full_name);
                continue;
            }
            let len = [0, rng.below(8), rng.below(80), rng.below(600)][rng.below(4) as usize];
            let value: Vec<u8> = (0..len).map(|_| b'a' + rng.below(26) as u8).collect();
            match change(&mut edited, ino, &name, Some(&value)) {
                true => drop(model.insert(full_name, value)),
                false => full += 1,
            }
        }
        edited.save(&image);
        fsck(&image);
        let volume = image.open();
        let file = volume.path("file").expect("the file");
        let read: Model = volume
            .xattrs(&file)
            .expect("they read")
            .into_iter()
            .collect();
        assert!(read == model, "{options}: round {round}");
        let names: Vec<&String> = model.keys().collect();
        let commands: Vec<String> = names
            .iter()
            .map(|name| format!("ea_get -V /file {name}"))
            .collect();
        let commands: Vec<&str> = commands.iter().map(|command| &command[..]).collect();
        for (name, said) in names.iter().zip(image.ask(&commands)) {
            let value = String::from_utf8_lossy(&model[*name]).into_owned();
            assert_eq!(said.trim_end_matches('\n'), value, "{options}: {name}");
        }
    }
    full
}

#[test]
fn e2fsck_accepts_what_was_rewritten() {
    let ext4 = "-t ext4 -O ^has_journal";
    let cases = [
        format!("{ext4} -b 1024 -I 128"),
        format!("{ext4} -b 1024 -I 256"),
        format!("{ext4},^metadata_csum -b 1024 -I 256"),
        format!("{ext4} -b 1024 -I 1024"),
        format!("{ext4},^metadata_csum -b 2048 -I 512"),
        format!("{ext4} -b 4096 -I 256"),
        format!("{ext4} -b 4096 -I 4096"),
        "-t ext2 -b 1024 -I 128".to_string(),
    ];
    let mut full = 0;
    for (n, options) in cases.iter().enumerate() {
        full += rewrite(&format!("xattr-edit-{n}"), options);
    }
    assert!(full > 0);
}
