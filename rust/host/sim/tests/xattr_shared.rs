// SPDX-License-Identifier: GPL-2.0

//! Inodes with the same attributes share a block of them, until one of them changes his own.

use aext4::new_inode::NewInode;
use aext4::{Ext4, InodeRef, NewXattr, XattrFlags};
use kernel::machine::{self, Rng};
use kernel::prelude::*;
use layout::{Ino, XattrSet};
use sim::e2fs::{Image, Scratch};
use sim::tree::{ended, new_inode, writable};
use sim::volume::Volume;
use sim::{simulate, Bed};
use simdisk::Store;
use std::collections::{BTreeMap, BTreeSet};
use upcall::block_on;

const USER: u8 = layout::xattr::INDEX_USER;

const KINDS: [&str; 4] = [
    "-b 1024 -I 128",
    "-b 1024 -I 128 -O ^metadata_csum,^64bit",
    "-b 2048 -O ^has_journal -I 128",
    "-b 1024 -O ea_inode",
];

fn ends(volume: &Volume, bed: &Bed) -> Store {
    let disk = ended(bed, volume);
    machine::take_log();
    disk
}

fn create(volume: &Volume, name: &str) -> InodeRef {
    let new = new_inode(0o100_644);
    block_on(async {
        let root = volume.0.iget(Ino::ROOT).await?;
        volume.0.create(&root, name.as_bytes(), &new).await
    })
    .unwrap()
    .unwrap()
}

fn set(volume: &Volume, file: &InodeRef, name: &[u8], value: Option<&[u8]>) -> Result {
    let flags = XattrFlags::default();
    block_on(volume.0.set_xattr(file, USER, name, value, flags)).unwrap()
}

/// Takes the name of a file, and deletes it.
fn delete(volume: &Volume, name: &str, file: InodeRef) {
    block_on(async {
        let root = volume.0.iget(Ino::ROOT).await?;
        volume.0.unlink(&root, name.as_bytes(), &file).await?;
        volume.0.delete(file).await
    })
    .unwrap()
    .unwrap();
}

/// The block that a file has, and how many share it.
fn block(volume: &Volume, file: &InodeRef) -> Option<(u64, u32)> {
    let pblk = file.inode().xattr_block?;
    let buf = block_on(volume.0.block(pblk)).unwrap().unwrap();
    Some((pblk.0, XattrSet::block_refcount(buf.data()).unwrap()))
}

fn free(volume: &Volume) -> u64 {
    block_on(volume.0.sync()).unwrap().unwrap();
    volume.0.allocation_groups().unwrap().counters().free
}

fn judge(dir: &Scratch, store: &Store, kind: &str) {
    assert_eq!(
        Image::write(dir.path("after"), store).is_clean(),
        Ok(()),
        "{kind}"
    );
}

#[test]
fn what_new_inodes_begin_with_is_one_block() {
    let dir = Scratch::new("xattr-shared-new");
    for (n, kind) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 16 << 20, kind);
        let value = vec![7; 300];
        let done = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let xattrs = [NewXattr {
                index: USER,
                name: b"name",
                value: &value,
            }];
            let new = NewInode {
                xattrs: &xattrs,
                ..new_inode(0o100_644)
            };
            let before = free(&volume);
            let mut files = Vec::new();
            for n in 0..5 {
                let made = block_on(async {
                    let root = volume.0.iget(Ino::ROOT).await?;
                    let name = n.to_string();
                    volume.0.create(&root, name.as_bytes(), &new).await
                });
                files.push(made.unwrap().unwrap());
            }
            let shared = block(&volume, &files[0]).unwrap();
            assert_eq!(shared.1, 5, "{kind}");
            assert_eq!(before - free(&volume), 1, "{kind}");
            for file in &files {
                assert_eq!(block(&volume, file), Some(shared));
                let found = block_on(volume.0.xattr(file, USER, b"name")).unwrap();
                assert_eq!(&found.unwrap()[..], &value[..], "{kind}");
            }
            // The last one that goes takes the block along.
            for (n, file) in files.into_iter().enumerate() {
                delete(&volume, &n.to_string(), file);
            }
            assert_eq!(before, free(&volume), "{kind}");
            ends(&volume, bed)
        });
        judge(&dir, &done, kind);
    }
}

#[test]
fn the_same_attributes_are_one_block() {
    let dir = Scratch::new("xattr-shared");
    for (n, kind) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 16 << 20, kind);
        let (value, other) = (vec![7; 300], vec![8; 300]);
        let done = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let files: Vec<InodeRef> = (0..6).map(|n| create(&volume, &n.to_string())).collect();
            let before = free(&volume);
            for file in &files {
                set(&volume, file, b"name", Some(&value)).unwrap();
            }
            assert_eq!(before - free(&volume), 1, "{kind}");
            let shared = block(&volume, &files[0]).unwrap();
            assert_eq!(shared.1, 6);
            assert!(files
                .iter()
                .all(|file| block(&volume, file) == Some(shared)));
            // One changes: the others keep what they have.
            set(&volume, &files[0], b"name", Some(&other)).unwrap();
            assert_ne!(block(&volume, &files[0]).unwrap().0, shared.0);
            assert_eq!(block(&volume, &files[1]), Some((shared.0, 5)));
            for file in &files[1..] {
                let found = block_on(volume.0.xattr(file, USER, b"name")).unwrap();
                assert_eq!(&found.unwrap()[..], &value[..], "{kind}");
            }
            // He comes back, from a block of his own, which is freed.
            set(&volume, &files[0], b"name", Some(&value)).unwrap();
            assert_eq!(block(&volume, &files[0]), Some((shared.0, 6)));
            assert_eq!(before - free(&volume), 1, "{kind}");
            // The last one changes in place, and nobody shares what was there before.
            for file in &files[1..] {
                set(&volume, file, b"name", None).unwrap();
            }
            assert_eq!(block(&volume, &files[0]), Some((shared.0, 1)));
            set(&volume, &files[0], b"name", Some(&other)).unwrap();
            assert_eq!(block(&volume, &files[0]), Some((shared.0, 1)));
            set(&volume, &files[1], b"name", Some(&value)).unwrap();
            assert_ne!(block(&volume, &files[1]).unwrap().0, shared.0);
            set(&volume, &files[2], b"name", Some(&other)).unwrap();
            assert_eq!(block(&volume, &files[2]), Some((shared.0, 2)));
            // What is freed is not shared any more, whoever has the block next.
            for file in &files {
                set(&volume, file, b"name", None).unwrap();
            }
            assert_eq!(before, free(&volume), "{kind}");
            let data = vec![0x11; 1 << 20];
            block_on(Ext4::write_at(&volume.0, &files[3], 0, &data, true))
                .unwrap()
                .unwrap();
            set(&volume, &files[4], b"name", Some(&value)).unwrap();
            assert_eq!(block(&volume, &files[4]).unwrap().1, 1);
            ends(&volume, bed)
        });
        judge(&dir, &done, kind);
    }
}

#[test]
fn a_block_has_so_many_sharers_and_no_more() {
    let dir = Scratch::new("xattr-shared-most");
    let image = Image::make(dir.path("image"), 32 << 20, "-b 1024 -I 128 -N 4096");
    let done = simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        let value = vec![3; 500];
        let files: Vec<InodeRef> = (0..1030).map(|n| create(&volume, &n.to_string())).collect();
        for file in &files {
            set(&volume, file, b"name", Some(&value)).unwrap();
        }
        assert_eq!(block(&volume, &files[0]).unwrap().1, 1024);
        assert_eq!(block(&volume, &files[1023]), block(&volume, &files[0]));
        assert_eq!(block(&volume, &files[1024]).unwrap().1, 6);
        assert_eq!(block(&volume, &files[1029]), block(&volume, &files[1024]));
        ends(&volume, bed)
    });
    judge(&dir, &done, "most");
}

/// Files with a few sets of attributes come, change and go, by several tasks, and power is lost.
#[test]
fn tasks_that_share() {
    let dir = Scratch::new("xattr-shared-tasks");
    for (n, kind) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 16 << 20, kind);
        let (done, lost) = simulate(20 + n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let tasks: Vec<_> = (0..4u64)
                .map(|task| {
                    let volume = volume.clone();
                    machine::spawn(&format!("task {task}"), move || {
                        let mut rng = Rng::new(task + 100 * n as u64);
                        let mut files: BTreeMap<String, (InodeRef, Option<u64>)> = BTreeMap::new();
                        for step in 0..150u64 {
                            let name = format!("{task}-{}", rng.below(6));
                            if rng.one_in(6) {
                                if let Some((file, _)) = files.remove(&name) {
                                    delete(&volume, &name, file);
                                }
                                continue;
                            }
                            let entry = files
                                .entry(name.clone())
                                .or_insert_with(|| (create(&volume, &name), None));
                            let which = (!rng.one_in(5)).then(|| rng.below(3));
                            let value = which.map(|which| vec![which as u8; 400]);
                            set(&volume, &entry.0, b"name", value.as_deref()).unwrap();
                            entry.1 = which;
                            if step % 40 == 0 {
                                block_on(volume.0.sync()).unwrap().unwrap();
                            }
                            for (file, which) in files.values() {
                                let found = block_on(volume.0.xattr(file, USER, b"name")).unwrap();
                                let found = found.ok().map(|value| u64::from(value[0]));
                                assert_eq!(found, *which);
                            }
                        }
                        files
                            .into_values()
                            .map(|(file, _)| file)
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            let files: Vec<InodeRef> = tasks.into_iter().flat_map(|task| task.join()).collect();
            let blocks: BTreeSet<_> = files
                .iter()
                .filter_map(|file| block(&volume, file))
                .collect();
            let users = files
                .iter()
                .filter(|file| file.inode().xattr_block.is_some());
            assert_eq!(
                blocks
                    .iter()
                    .map(|(_, count)| *count as usize)
                    .sum::<usize>(),
                users.count()
            );
            assert!(blocks.len() < 10, "{blocks:?}");
            block_on(volume.0.sync()).unwrap().unwrap();
            let lost = bed.device.disk().durable().clone();
            drop(files);
            (ends(&volume, bed), lost)
        });
        judge(&dir, &done, kind);
        if !kind.contains("^has_journal") {
            let image = Image::write(dir.path("lost"), &lost);
            image.replay();
            assert_eq!(image.is_clean(), Ok(()), "{kind}");
        }
    }
}
