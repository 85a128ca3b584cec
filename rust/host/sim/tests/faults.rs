// SPDX-License-Identifier: GPL-2.0

//! A session with a volume: each of its requests fails in turn, each allocation, and each of its
//! operations is dropped at each of its polls. What does not fail tells the same as without, and
//! nothing is left.

use aext4::Options;
use kernel::machine::{self, Config, Fail};
use kernel::prelude::*;
use layout::FileType;
use sim::image;
use sim::python::Sha1;
use sim::volume::Volume;
use sim::{dropped_after, simulate_on, Bed};
use std::sync::Arc;
use upcall::simulation::jitter;
use upcall::{block_on, join_all};

/// The images: with extents, with indirect blocks, with inline data, all kinds of inodes on each.
const IMAGES: [&str; 4] = [
    "hostile-csum",
    "hostile-indirect",
    "hostile-inline",
    "ea-inode-1k",
];

/// What a session asks, by path.
const PATHS: &[&str] = &[
    "",
    "plain",
    "fragments-360",
    "dir",
    "dir/a03",
    "dir/sub",
    "dir/no such name",
    "dir-420",
    "dir-420/n14",
    "fast",
    "slow",
    "xinode",
    "xblock",
    "acl",
    "inline",
    "inline dir",
    "inline dir/b1",
    "large xattrs",
    "xattrs/both",
];

/// Everything that a volume tells of a path; short enough to compare.
async fn tell(volume: &Volume, path: &str) -> Result<String> {
    let node = match volume.path(path.as_bytes()).await {
        Err(error) if error == ENOENT => return Ok("absent".to_string()),
        node => node?,
    };
    let attributes = volume.attributes(&node).await?;
    let mut text = format!("{} {:o} {attributes:?}", node.ino.0, node.inode().mode);
    match node.file_type {
        FileType::Directory => {
            let entries = volume.entries(&node).await?;
            text += &format!(" {} {:?}", entries.len(), entries.last());
        }
        FileType::Regular => {
            let mut sha1 = Sha1::default();
            volume
                .read(&node, 0, node.size(), |bytes| sha1.update(bytes))
                .await?;
            text += &format!(" {} {:?}", sha1.hex(), volume.segments(&node).await?);
        }
        FileType::Symlink => text += &format!(" {:?}", volume.0.readlink(&node).await?),
        _ => {}
    }
    Ok(text)
}

/// What each path gives.
type Told = Vec<Result<String>>;

/// Mounts, and asks for all paths in some tasks at the same time.
async fn session(bed: &Bed) -> Result<(Volume, Told)> {
    let volume = Volume::mount(bed, Options::default()).await?;
    let told = ask(bed, &volume).await?;
    Ok((volume, told))
}

async fn ask(bed: &Bed, volume: &Volume) -> Result<Told> {
    let mut tasks = Vec::new();
    for part in 0..3 {
        let volume = volume.clone();
        let work = async move {
            let mut told = Vec::new();
            for (n, path) in PATHS.iter().enumerate().filter(|(n, _)| n % 3 == part) {
                jitter().await;
                told.push((n, tell(&volume, path).await));
            }
            told
        };
        tasks.push(bed.scope().spawn(work)?);
    }
    let ends = join_all(tasks.into_iter())?.await?;
    let mut all = Vec::new();
    for end in ends {
        all.extend(end?);
    }
    all.sort_by_key(|(n, _)| *n);
    Ok(all.into_iter().map(|(_, told)| told).collect())
}

/// What a volume tells without faults.
fn baseline(name: &str) -> Told {
    let told = simulate_on(Config::new(0), image::open(name), |bed| {
        block_on(session(bed)).unwrap().unwrap().1
    });
    assert!(told.iter().all(Result::is_ok), "{told:?}");
    let there = told
        .iter()
        .filter(|told| **told != Ok("absent".to_string()));
    assert!(there.count() >= 2);
    told
}

/// Checks that each path gave what it should, or this error.
fn compare(name: &str, told: &Told, wanted: &Told, error: Error) -> usize {
    assert_eq!(told.len(), wanted.len());
    let mut failed = 0;
    for (n, (told, wanted)) in told.iter().zip(wanted).enumerate() {
        match told {
            Err(found) if *found == error => failed += 1,
            _ => assert_eq!(told, wanted, "{name}: {}", PATHS[n]),
        }
    }
    failed
}

fn each_image(what: &str, mut test: impl FnMut(&'static str, &Told)) {
    if image::directory().is_none() {
        return image::skip(what);
    }
    for name in IMAGES {
        test(name, &baseline(name));
    }
}

#[test]
fn every_request_failed_in_turn() {
    let mut hit = 0;
    each_image("requests that fail", |name, wanted| {
        for nth in 0.. {
            let over = simulate_on(Config::new(nth), image::open(name), |bed| {
                bed.device.disk().faults.all.insert(nth);
                let result = block_on(session(bed)).unwrap();
                let over = bed.device.disk().counts().all <= nth;
                bed.device.disk().faults.all.clear();
                match result {
                    Err(error) => assert_eq!(error, EIO, "{name}: the mount"),
                    Ok((volume, told)) => {
                        hit += compare(name, &told, wanted, EIO);
                        // A block that failed once is read again, and nothing bad was kept.
                        let again = block_on(ask(bed, &volume)).unwrap().unwrap();
                        assert_eq!(compare(name, &again, wanted, EIO), 0);
                    }
                }
                over
            });
            if over {
                break;
            }
        }
        println!("{name}: {hit} answers failed");
        assert!(hit > 0, "{name}: no failure was seen");
    });
}

#[test]
fn every_allocation_failed_in_turn() {
    let mut hit = 0;
    each_image("allocations that fail", |name, wanted| {
        // On one image each, on the others one in three: together they have all kinds.
        let step = if name == IMAGES[0] { 1 } else { 3 };
        for nth in (0..).step_by(step) {
            let over = machine::run(Config::new(nth), || {
                machine::fail_allocations(Fail::Nth(nth));
                let result = (|| {
                    let bed = Bed::new(image::open(name))?;
                    let (volume, told) = block_on(session(&bed))??;
                    let failed = machine::allocations().1 != 0;
                    machine::fail_allocations(Fail::Never);
                    let count = compare(name, &told, wanted, ENOMEM);
                    assert!(failed || count == 0);
                    hit += count;
                    if nth % 8 == 0 {
                        let again = block_on(ask(&bed, &volume))??;
                        assert_eq!(compare(name, &again, wanted, ENOMEM), 0);
                    }
                    Ok(!failed)
                })();
                machine::settle();
                let left = machine::live_by_type();
                assert!(left.is_empty(), "{name}, allocation {nth}: {left:#?}");
                result.unwrap_or_else(|error: Error| {
                    assert_eq!(error, ENOMEM, "{name}, allocation {nth}");
                    false
                })
            });
            if over {
                println!("{name}: {nth} allocations");
                break;
            }
        }
    });
    assert!(
        hit > 0 || image::directory().is_none(),
        "no failure was seen"
    );
}

#[test]
fn every_operation_dropped_at_every_poll() {
    let mut dropped = 0;
    each_image("operations that are dropped", |name, wanted| {
        for (n, path) in PATHS.iter().enumerate() {
            for polls in 0.. {
                let over = simulate_on(Config::new(polls as u64), image::open(name), |bed| {
                    block_on(async {
                        let volume = Volume::mount(bed, Options::default()).await.unwrap();
                        let task = {
                            let volume = volume.clone();
                            let work =
                                async move { dropped_after(polls, tell(&volume, path)).await };
                            bed.scope().spawn(work).unwrap()
                        };
                        // Somebody else asks the same at the same time, and is told.
                        let told = tell(&volume, path).await;
                        assert_eq!(told, wanted[n], "{name}: {path}, beside a dropped one");
                        let end = task.await.unwrap();
                        let over = end.is_some();
                        dropped += usize::from(!over);
                        if let Some(told) = end {
                            assert_eq!(told, wanted[n], "{name}: {path}");
                        }
                        over
                    })
                    .unwrap()
                });
                if over {
                    break;
                }
            }
        }
    });
    println!("{dropped} were dropped");
    assert!(dropped > 200 || image::directory().is_none(), "{dropped}");
}

#[test]
fn a_mount_dropped_at_every_poll() {
    each_image("mounts that are dropped", |name, wanted| {
        for polls in 0.. {
            let over = simulate_on(Config::new(polls as u64), image::open(name), |bed| {
                block_on(async {
                    let mount = Volume::mount(bed, Options::default());
                    let over = dropped_after(polls, mount).await.is_some();
                    let volume = Volume::mount(bed, Options::default()).await.unwrap();
                    let told = tell(&volume, PATHS[0]).await;
                    assert_eq!(told, wanted[0], "{name}: after a dropped mount");
                    over
                })
                .unwrap()
            });
            if over {
                assert!(polls > 2, "{name}: a mount of {polls} polls");
                break;
            }
        }
    });
}

#[test]
fn a_scope_that_ends_takes_all_with_it() {
    each_image("scopes that end", |name, _| {
        for seed in 0..150 {
            simulate_on(sim::varied(seed), image::open(name), |bed| {
                let volume = block_on(Volume::mount(bed, Options::default()));
                let volume = volume.unwrap().unwrap();
                let inner = bed.runtime().scope().unwrap();
                let volume = Arc::new(volume);
                for path in PATHS {
                    let volume = volume.clone();
                    let work = async move {
                        jitter().await;
                        tell(&volume, path).await.map(drop)
                    };
                    drop(inner.spawn(work).unwrap());
                }
                let pause = std::time::Duration::from_micros(machine::random(3000));
                block_on(upcall::sleep(pause)).unwrap();
                drop(inner);
                assert!(Arc::into_inner(volume).is_some(), "a task is still there");
            });
        }
    });
}

#[test]
fn a_disk_that_goes_away() {
    each_image("disks that go", |name, wanted| {
        for seed in 0..60 {
            simulate_on(Config::new(seed), image::open(name), |bed| {
                bed.device.disk().faults.gone = Some(seed * 2);
                if let Ok((_, told)) = block_on(session(bed)).unwrap() {
                    compare(name, &told, wanted, ENODEV);
                }
            });
        }
    });
}

#[test]
fn upcalls_do_not_wait_for_reclaim() {
    let mut waits = std::collections::BTreeSet::new();
    each_image("allocations in upcalls", |name, wanted| {
        simulate_on(Config::new(1), image::open(name), |bed| {
            let (_, told) = block_on(session(bed)).unwrap().unwrap();
            assert_eq!(compare(name, &told, wanted, ENOMEM), 0);
            waits.extend(machine::waiting_in_work());
        });
    });
    assert!(
        waits.is_empty(),
        "an upcall may wait for memory: {waits:#?}"
    );
}
