// SPDX-License-Identifier: GPL-2.0

//! Changes that do not come by the VFS: appended by many, dropped at each poll, held off when the
//! volume becomes read-only; and inodes that a handle keeps.

use aext4::{Ext4, Handle, InodeRef};
use kernel::machine::{self, Config};
use kernel::prelude::*;
use layout::Ino;
use sim::e2fs::{Image, Scratch};
use sim::tree::{ended, new_inode, writable};
use sim::volume::Volume;
use sim::{dropped_after, simulate, simulate_on};
use std::time::Duration;
use upcall::{block_on, join_all, Block};

const KINDS: [&str; 3] = [
    "-b 4096 -I 256",
    "-b 1024 -O ^metadata_csum,^64bit",
    "-b 1024 -O ^has_journal,^extent,^metadata_csum,^64bit",
];

async fn made(volume: &Volume, name: &[u8]) -> InodeRef {
    let ext4 = &volume.0;
    let root = ext4.iget(Ino::ROOT).await.expect("the root");
    let made = ext4.create(&root, name, &new_inode(0o100_600)).await;
    made.expect("it is made")
}

async fn read(volume: &Volume, info: &InodeRef) -> Result<Vec<u8>> {
    let (mut bytes, mut block) = (Vec::new(), Block::vacant());
    loop {
        let count = volume.0.read(info, bytes.len() as u64, &mut block).await?;
        bytes.extend_from_slice(&block.as_slice()[..count]);
        if count < Block::SIZE {
            return Ok(bytes);
        }
    }
}

#[test]
fn what_many_append_is_all_there_and_none_of_it_is_torn() {
    let dir = Scratch::new("unattached-append");
    for (n, options) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let store = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            block_on(async {
                let file = made(&volume, b"log").await;
                let lines: Vec<Vec<u8>> =
                    (0..24u8).map(|n| vec![n; 100 + n as usize * 77]).collect();
                let appends = lines
                    .iter()
                    .map(|line| Ext4::append(&volume.0, &file, line, true));
                let appends = join_all(appends).unwrap().await.unwrap();
                let bytes = read(&volume, &file).await.unwrap();
                assert_eq!(bytes.len(), lines.iter().map(Vec::len).sum::<usize>());
                for (append, line) in appends.iter().zip(&lines) {
                    let (at, count) = append.expect("it is appended");
                    assert_eq!(count, line.len());
                    assert!(bytes[at as usize..][..count] == *line, "{options}: at {at}");
                }
            })
            .unwrap();
            ended(bed, &volume)
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
    }
}

/// What is done with the file, in this order.
async fn steps(volume: &Volume, file: &InodeRef) {
    let ext4 = &volume.0;
    Ext4::write_at(ext4, file, 0, &[1; 30_000], true)
        .await
        .unwrap();
    Ext4::resize(ext4, file, 5_000).await.unwrap();
    Ext4::append(ext4, file, &[2; 5_000], true).await.unwrap();
    Ext4::provide(ext4, file, 0..50_000, false).await.unwrap();
    Ext4::resize(ext4, file, 0).await.unwrap();
}

#[test]
fn what_is_dropped_at_any_poll_is_whole_or_absent() {
    let dir = Scratch::new("unattached-dropped");
    let image = Image::make(dir.path("image"), 16 << 20, KINDS[0]);
    let mut seen = std::collections::BTreeSet::new();
    for polls in 0.. {
        let (over, store) = simulate_on(Config::new(polls as u64), image.store(), |bed| {
            let volume = writable(bed);
            let over = block_on(async {
                let file = made(&volume, b"file").await;
                let over = dropped_after(polls, steps(&volume, &file)).await.is_some();
                // What has begun goes on.
                upcall::sleep(Duration::from_secs(5)).await;
                let bytes = read(&volume, &file).await.unwrap();
                let second = [vec![1; 5_000], vec![2; 5_000]].concat();
                let states = [
                    vec![],
                    vec![1; 30_000],
                    vec![1; 5_000],
                    second.clone(),
                    [second, vec![0; 40_000]].concat(),
                ];
                let state = states.iter().position(|state| *state == bytes);
                let state = state.unwrap_or_else(|| panic!("{} bytes of no state", bytes.len()));
                if over {
                    assert_eq!(state, 0);
                }
                seen.insert(state);
                over
            })
            .unwrap();
            (over, ended(bed, &volume))
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "dropped at poll {polls}");
        if over {
            break;
        }
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
}

#[test]
fn a_handle_keeps_an_inode_without_a_name() {
    let dir = Scratch::new("unattached-handle");
    for (n, options) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let store = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let ext4 = &volume.0;
            block_on(async {
                let free = || ext4.allocation_groups().unwrap().counters().free_inodes;
                let root = ext4.iget(Ino::ROOT).await.unwrap();
                let before = free();
                let file = made(&volume, b"file").await;
                let ino = file.ino;
                Ext4::write_at(ext4, &file, 0, b"kept", true).await.unwrap();
                let (first, second) = (Handle::new(file.clone()), Handle::new(file.clone()));
                // Noted before it is known whether the name goes, as for who may be dropped.
                let memory = ext4.leaving_memory().await.unwrap();
                ext4.unlink(&root, b"file", &file).await.unwrap();
                ext4.leave(&file, memory);
                drop((file, first));
                let file = ext4.iget_user(ino).await.unwrap();
                assert_eq!(read(&volume, &file).await, Ok(b"kept".to_vec()));
                assert_eq!(Ext4::append(ext4, &file, b" still", true).await, Ok((4, 6)));
                drop(second);
                assert_eq!(ext4.iget_user(ino).await.err(), Some(ESTALE));
                assert_eq!(free(), before - 1);
                drop(file);
                upcall::sleep(Duration::from_secs(2)).await;
                assert_eq!(free(), before, "{options}: it was not deleted");
            })
            .unwrap();
            ended(bed, &volume)
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
    }
}

#[test]
fn a_volume_becomes_read_only_between_changes() {
    let dir = Scratch::new("unattached-read-only");
    let image = Image::make(dir.path("image"), 16 << 20, KINDS[0]);
    for seed in 0..40 {
        let store = simulate(seed, image.store(), |bed| {
            let volume = writable(bed);
            let mut tasks = Vec::new();
            for n in 0..8u8 {
                let volume = volume.clone();
                let task = bed.scope().spawn(async move {
                    let ext4 = &volume.0;
                    let root = ext4.iget(Ino::ROOT).await.unwrap();
                    for round in 0.. {
                        let begun = ext4.begin_change().await;
                        let Ok(_permit) = begun else {
                            return (begun.err(), round);
                        };
                        let name = [b'a' + n, b'0' + (round % 10) as u8];
                        let new = new_inode(0o100_600);
                        match ext4.create(&root, &name, &new).await {
                            Err(EEXIST) => {
                                let found = ext4.lookup(&root, &name).await.unwrap().unwrap();
                                ext4.unlink(&root, &name, &found).await.unwrap();
                                let memory = ext4.leaving_memory().await.unwrap();
                                ext4.leave(&found, memory);
                            }
                            made => drop(made.expect("a change that was begun is finished")),
                        }
                    }
                    unreachable!()
                });
                tasks.push(task.unwrap());
            }
            block_on(upcall::sleep(Duration::from_millis(10 + seed * 7))).unwrap();
            let store = ended(bed, &volume);
            for task in tasks {
                let (error, rounds) = block_on(task).unwrap().unwrap();
                assert_eq!(error, Some(EROFS), "after {rounds}");
            }
            assert_eq!(machine::take_log(), Vec::<String>::new());
            store
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "seed {seed}");
    }
}
