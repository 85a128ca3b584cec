// SPDX-License-Identifier: GPL-2.0

//! Changed directories in images of mke2fs, judged by e2fsck and debugfs.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use common::{run, scratch, write, Image, Rng};
use layout_host::edit::Dir;
use layout_host::layout::dir_edit::Name;
use layout_host::layout::inline_dir_edit::{self, InlineChains};
use layout_host::layout::*;
use layout_host::volume::Volume;

/// Returns the blocks of a directory of the volume.
fn blocks_of(volume: &Volume<File>, dir: &Inode) -> Vec<Pblk> {
    let runs = volume.runs(dir, volume.blocks_of(dir)).expect("it maps");
    let blocks = runs.iter().flat_map(|run| {
        let start = run.pblk().expect("no hole").0;
        (0..u64::from(run.len)).map(move |i| Pblk(start + i))
    });
    blocks.collect()
}

/// Writes a block of a directory.
fn write_at(image: &Image, offset: u64, data: &[u8]) {
    let file = File::options().write(true).open(&image.path);
    file.and_then(|f| f.write_all_at(data, offset))
        .expect("a write");
}

/// Returns the names and inodes in a directory as debugfs lists them.
fn listed(image: &Image, path: &str) -> BTreeMap<String, u32> {
    let answers = image.ask(&[&format!("ls -p {path}")]);
    let lines = answers.iter().flat_map(|text| text.lines());
    let lines = lines.filter(|line| line.starts_with('/'));
    let entries = lines.map(|line| {
        let fields: Vec<&str> = line.split('/').collect();
        (fields[5].to_string(), fields[1].parse().expect("a number"))
    });
    // Unused entries are listed with the number 0.
    let mut entries: BTreeMap<_, _> = entries.filter(|&(_, ino)| ino != 0).collect();
    assert!(entries.remove(".").is_some() && entries.remove("..").is_some());
    entries
}

/// Lets e2fsck look at everything; it has nothing to say.
fn judge(image: &Image) {
    run("e2fsck", &["-fn", image.str()], &[0]);
}

/// Replaces what is in the directory "big" of a new image by `grow` names of which some have come
/// and gone; returns how many levels its index has.
fn rewrite(name: &str, options: &str, size: u64, tune: Option<&str>, grow: usize) -> u8 {
    let dir = scratch(name);
    let src = dir.join("source");
    fs::create_dir_all(src.join("big")).expect("a directory");
    write(src.join("big/original"), b"contents");
    let image = Image::make(&dir, size, options, Some(&src));
    if let Some(tune) = tune {
        run("tune2fs", &["-E", tune, image.str()], &[0]);
    }
    let volume = image.open();
    let inode = volume.path("big").expect("the directory");
    let original = volume.path("big/original").expect("the file").ino;

    let mut rng = Rng(grow as u64);
    let mut big = Dir::new(*volume.geo(), inode.owner, Ino::ROOT);
    let mut names = BTreeSet::new();
    for i in 0..grow {
        let mut name = format!("{i}-{}", "\u{fc}".repeat(rng.below(120)));
        if rng.below(3) > 0 {
            name += &"n".repeat(250 - name.len().min(250));
        }
        let added = big.add(name.as_bytes(), original, FileType::Regular);
        assert_eq!(added, Ok(true));
        names.insert(name);
        if rng.below(4) == 0 {
            let name = format!("{}-", rng.below(i + 1));
            if let Some(name) = names.range(name..).next().cloned() {
                let found = big.find(name.as_bytes()).expect("a look-up");
                big.remove(&found.expect("the name")).expect("a removal");
                names.remove(&name);
            }
        }
    }
    big.verify().expect("it verifies");

    let expand = blocks_of(&volume, &inode).len()..big.blocks.len();
    image.change(&vec!["expand_dir /big"; expand.len()]);
    let volume = image.open();
    let inode = volume.path("big").expect("the directory");
    let places = blocks_of(&volume, &inode);
    assert_eq!(places.len(), big.blocks.len());
    for (place, block) in places.iter().zip(&big.blocks) {
        write_at(&image, place.0 << volume.geo().block_bits(), block);
    }
    let flags = match big.indexed {
        true => inode.flags.0 | InodeFlags::INDEX.0,
        false => inode.flags.0,
    };
    image.change(&[
        &format!("sif <{original}> links_count {}", names.len()),
        &format!("sif /big flags {flags:#x}"),
    ]);

    judge(&image);
    let list = listed(&image, "/big");
    let list_names: BTreeSet<String> = list.keys().cloned().collect();
    assert!(list_names == names, "{options}: not the names");
    assert!(list.values().all(|&ino| ino == original.0));
    // The reader, too.
    let volume = image.open();
    let inode = volume.path("big").expect("the directory");
    assert_eq!(inode.is_indexed(), big.indexed);
    let by_scan = volume.list(&inode).expect("it lists");
    assert_eq!(by_scan.len(), names.len() + 2);
    if inode.is_indexed() {
        let by_hash = volume.list_hashed(&inode).expect("the index lists");
        assert_eq!(by_hash.len(), names.len() + 2);
    }
    for name in names.iter().step_by(1 + names.len() / 500) {
        assert_eq!(volume.lookup(&inode, name.as_bytes()), Ok(original));
    }
    big.levels().expect("a root")
}

#[test]
fn e2fsck_accepts_what_was_rewritten() {
    let ext4 = "-t ext4 -O ^has_journal";
    let cases = [
        // One block, then one level, in each block size, with checksums and without.
        (format!("{ext4} -b 1024"), None, 3, 0),
        (format!("{ext4} -b 1024"), None, 200, 1),
        (format!("{ext4},^metadata_csum -b 1024"), None, 200, 1),
        (format!("{ext4} -b 2048"), None, 600, 1),
        (format!("{ext4} -b 4096"), None, 1500, 1),
        (format!("{ext4},^metadata_csum -b 4096"), None, 1500, 1),
        // Two levels, with each hash.
        (
            format!("{ext4} -b 1024"),
            Some("hash_alg=half_md4"),
            1500,
            2,
        ),
        (format!("{ext4} -b 1024"), Some("hash_alg=tea"), 1500, 2),
        (format!("{ext4} -b 1024"), Some("hash_alg=legacy"), 1500, 2),
        ("-t ext2 -b 1024".into(), None, 1500, 2),
        ("-t ext2 -b 1024 -O ^filetype".into(), None, 300, 1),
        // No index at all.
        (format!("{ext4},^dir_index -b 1024"), None, 300, 0),
    ];
    for (options, tune, grow, levels) in cases {
        let found = rewrite("dir-edit-image", &options, 16 << 20, tune, grow);
        assert_eq!(found, levels, "{options}");
    }
}

#[test]
fn e2fsck_accepts_three_levels() {
    let options = "-t ext4 -b 1024 -O ^has_journal,large_dir";
    let levels = rewrite("dir-edit-deep", options, 64 << 20, None, 50_000);
    assert_eq!(levels, 3);
}

#[test]
fn e2fsck_accepts_changed_inline_directories() {
    let dir = scratch("dir-edit-inline");
    let src = dir.join("source");
    fs::create_dir_all(src.join("some")).expect("a directory");
    for i in 0..3 {
        write(src.join(format!("some/file-{i}")), b"x");
    }
    // Without checksums, as inodes have theirs from elsewhere.
    let options = "-t ext4 -b 1024 -I 512 -O ^has_journal,^metadata_csum,inline_data";
    let image = Image::make(&dir, 4 << 20, options, Some(&src));
    let volume = image.open();
    let geo = *volume.geo();
    let inode = volume.path("some").expect("the directory");
    assert_eq!(inode.data_map(), DataMap::Inline);
    let mut model = listed(&image, "/some");
    assert_eq!(model.len(), 3);

    // "system.data" is the only attribute, and empty. It gets the last 128 bytes, and in them one
    // unused entry, as ext4 does it.
    let mut raw = volume.raw_inode(inode.ino).expect("an inode");
    let entry = usize::from(inode.xattr_offset.expect("attributes")) + 4;
    assert_eq!(raw[entry..entry + 2], [4, 7]);
    raw[entry + 2..entry + 4].copy_from_slice(&((512 - 128 - entry) as u16).to_le_bytes());
    raw[entry + 8] = 128;
    raw[512 - 124] = 128;
    raw[4] = 60 + 128;
    let inode = Inode::parse(&raw, inode.ino, &geo).expect("an inode");
    let find = |raw: &[u8], name: &str| {
        let data = InlineData::parse(raw, &inode, &geo).expect("inline data");
        let dir = InlineDir::parse(&data, &inode, &geo).expect("a directory");
        let found = dir.find(name.as_bytes()).expect("sound")?;
        Some((found.offset, found.ino))
    };
    let data = InlineData::parse(&raw, &inode, &geo).expect("inline data");
    let chains = InlineChains::of(&data);
    let mut rng = Rng(1);
    let (mut full, mut moved) = (0, BTreeSet::new());
    for round in 0..500 {
        let names: Vec<String> = model.keys().cloned().collect();
        let old = &names[rng.below(names.len())];
        let (offset, ino) = find(&raw, old).expect("the name is there");
        // Renames the file, by ways that all end in one name for it.
        let new = format!("{round}{}", "r".repeat(rng.below(30)));
        let name = Name::new(new.as_bytes()).expect("a name");
        let before = raw.clone();
        assert!(chains
            .remove(&mut raw, offset, Ino(ino.0 + 1), &geo)
            .is_err());
        assert!(chains.remove(&mut raw, offset + 4, ino, &geo).is_err());
        assert!(chains.remove(&mut raw, 9999, ino, &geo).is_err());
        assert_eq!(raw, before);
        if let Some(slot) = chains.room(&raw, name, &geo).expect("sound") {
            slot.insert(&mut raw, name, ino, FileType::Regular, &geo)
                .expect("as planned");
            chains
                .remove(&mut raw, offset, ino, &geo)
                .expect("it is there");
            model.remove(old);
            model.insert(new.clone(), ino.0);
            let (at, _) = find(&raw, &new).expect("the name is there");
            moved.insert(at >= 60);
        } else {
            full += 1;
            // An exchange with another.
            let other = &names[rng.below(names.len())];
            let (at, other_ino) = find(&raw, other).expect("the name is there");
            for (at, old, new) in [(offset, ino, other_ino), (at, other_ino, ino)] {
                chains
                    .set_entry(&mut raw, at, old, new, FileType::Regular, &geo)
                    .expect("it is there");
            }
            model.insert(old.clone(), other_ino.0);
            model.insert(other.clone(), ino.0);
        }
        for (name, &ino) in &model {
            assert_eq!(find(&raw, name).map(|f| f.1), Some(Ino(ino)));
        }
    }
    assert!(full > 10 && moved.len() == 2, "{full} {moved:?}");
    let data = InlineData::parse(&raw, &inode, &geo).expect("inline data");
    let small = InlineDir::parse(&data, &inode, &geo).expect("a directory");
    assert_eq!(small.iter().count(), model.len());
    assert_eq!(inline_dir_edit::is_empty(&small), Ok(false));

    // The same names in a block.
    inline_dir_edit::check_to_block(&small, &geo).expect("it fits");
    let mut block = vec![0xa5; 1024];
    inline_dir_edit::to_block(&small, inode.ino, &mut block, &geo).expect("as checked");
    let dotdot = dir_edit::parent_entry(&block, inode.ino, &geo).expect("two dots");
    assert_eq!(dotdot.ino, Ino::ROOT);
    let entries = Dirents::block(&block, &geo).expect("a block").iter_from(24);
    let entries: BTreeMap<String, u32> = entries
        .map(|e| e.expect("an entry"))
        .inspect(|e| assert_eq!(e.file_type, Some(FileType::Regular)))
        .map(|e| (String::from_utf8_lossy(e.name).into_owned(), e.ino.0))
        .collect();
    assert_eq!(entries, model);

    let (group, index) = geo.inode_index(inode.ino).expect("it is on the volume");
    let desc = volume.group(group).expect("a descriptor");
    let (pblk, offset) = desc.inode_location(index, &geo).expect("it is there");
    write_at(&image, (pblk.0 << 10) + u64::from(offset), &raw);
    judge(&image);
    assert_eq!(listed(&image, "/some"), model);

    // Another parent, and a new directory.
    let [_, tail] = data.ranges();
    let before = raw.clone();
    assert!(inline_dir_edit::set_parent(&mut raw, Ino(12), Ino(13)).is_err());
    assert_eq!(raw, before);
    inline_dir_edit::set_parent(&mut raw, Ino::ROOT, Ino(13)).expect("it is the root");
    let parent = |raw: &[u8]| {
        let data = InlineData::parse(raw, &inode, &geo).expect("inline data");
        let dir = InlineDir::parse(&data, &inode, &geo).expect("a directory");
        (dir.parent, inline_dir_edit::is_empty(&dir))
    };
    assert_eq!(parent(&raw), (Ino(13), Ok(false)));
    inline_dir_edit::init(&mut raw, Ino(14)).expect("an inode");
    raw[tail.clone()].fill(0);
    raw[tail.start + 4..tail.start + 6].copy_from_slice(&(tail.len() as u16).to_le_bytes());
    assert_eq!(parent(&raw), (Ino(14), Ok(true)));
    assert!(tail.len() > 100, "{tail:?}");
    // The head has room for the first, the tail for the second.
    for (i, len) in [40, 80].into_iter().enumerate() {
        let name = vec![b'n'; len];
        let name = Name::new(&name).expect("a name");
        let slot = chains.room(&raw, name, &geo).expect("sound").expect("room");
        slot.insert(&mut raw, name, Ino(15), FileType::Fifo, &geo)
            .expect("as planned");
        let data = InlineData::parse(&raw, &inode, &geo).expect("inline data");
        let dir = InlineDir::parse(&data, &inode, &geo).expect("a directory");
        let entry = dir.find(name.bytes()).expect("sound").expect("the name");
        assert_eq!(entry.offset, [4, 60][i]);
        assert_eq!(entry.file_type, Some(FileType::Fifo));
    }
}
