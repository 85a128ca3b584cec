// SPDX-License-Identifier: GPL-2.0

//! Both copies of a mirror have each change, whatever their inodes' numbers are, and whoever gives
//! up; and one is enough.

use kernel::machine::{self, Config, Rng};
use kernel::prelude::*;
use kernel::sync::Arc;
use sim::stacked::{dump, Both};
use sim::{dropped_after, simulate_on, Bed};
use simdisk::Store;
use stack::{forward, AsyncStackable, Change, Ino, Layer, Mirror, RamFs, RenameFlags, Side};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use upcall::{block_on, Block, Scope};
use vfs::{Attr, NewInode};

/// A file system that takes its time, and that fails from some change on.
struct Rough {
    fs: RamFs,
    left: AtomicU64,
}

impl Rough {
    async fn pass(&self) -> Result {
        if machine::random(2) == 0 {
            upcall::sleep(Duration::from_micros(machine::random(200))).await;
        }
        match self.left.load(Relaxed) {
            0 => Err(EIO),
            _ => Ok(()),
        }
    }
}

impl Layer for Rough {
    type Kind = stack::Asynchronous;
}

impl AsyncStackable for Rough {
    forward!(self, self.fs; root, readlink, read_dir, getxattr, listxattr, acl, statfs, make_durable, open, tmpfile);

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        self.pass().await?;
        self.fs.lookup(dir, name).await
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        self.pass().await?;
        self.fs.stat(ino).await
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        self.pass().await?;
        self.fs.read(ino, offset, block).await
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        self.pass().await?;
        self.left.fetch_sub(1, Relaxed);
        self.fs.change(change).await
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        self.pass().await?;
        self.left.fetch_sub(1, Relaxed);
        self.fs.write_bytes(ino, pos, bytes).await
    }
}

/// A file system whose numbers begin with another one.
async fn rough(skip: u64, left: u64) -> Rough {
    let fs = RamFs::new().unwrap();
    for _ in 0..skip {
        fs.create(fs.root(), b"x", &NewInode::file(0o644))
            .await
            .unwrap();
        fs.unlink(fs.root(), b"x").await.unwrap();
    }
    let left = AtomicU64::new(left);
    Rough { fs, left }
}

type Copied = Mirror<Arc<Rough>, Arc<Rough>>;

async fn mirror(scope: &Scope, skip: [u64; 2], left: [u64; 2]) -> (Copied, [Arc<Rough>; 2]) {
    let one = Arc::new(rough(skip[0], left[0]).await, GFP_KERNEL).unwrap();
    let other = Arc::new(rough(skip[1], left[1]).await, GFP_KERNEL).unwrap();
    let spawner = scope.spawner();
    let mirror = Mirror::new(one.clone(), other.clone(), spawner)
        .await
        .unwrap();
    (mirror, [one, other])
}

fn on_beds(test: impl Fn(&Bed, u64)) {
    for seed in 0..sim::count("LAYERS_SEEDS", 12) {
        simulate_on(Config::new(seed), Store::zeroes(4096), |bed| {
            test(bed, seed)
        });
    }
}

#[test]
fn both_copies_have_each_change() {
    on_beds(|bed, seed| {
        block_on(async {
            let (copied, copies) = mirror(bed.scope(), [seed, 7 - seed % 7], [u64::MAX; 2]).await;
            let mut both = Both::new(RamFs::new().unwrap(), copied, seed);
            for _ in 0..200 {
                both.step().await;
            }
            both.finish().await;
            assert_eq!(both.second.out(), None);
            let wanted = dump(&both.first).await.unwrap();
            for copy in &copies {
                assert_eq!(dump(&copy.fs).await.unwrap(), wanted);
            }
            // Their numbers differ: the mirror of them that is made anew goes by the names.
            let [one, other] = copies;
            let again = Mirror::paired(one.clone(), other, bed.scope().spawner()).await;
            assert_eq!(dump(&again.unwrap()).await.unwrap(), wanted);
            let stranger = Arc::new(rough(0, u64::MAX).await, GFP_KERNEL).unwrap();
            let refused = Mirror::paired(one, stranger, bed.scope().spawner()).await;
            assert_eq!(refused.err(), Some(EINVAL));
        })
        .unwrap();
    });
}

#[test]
fn a_copy_that_fails_is_out_and_the_other_goes_on() {
    on_beds(|bed, seed| {
        block_on(async {
            let which = seed as usize % 2;
            let mut left = [u64::MAX; 2];
            left[which] = 5 + seed % 20 * 3;
            let (copied, copies) = mirror(bed.scope(), [3, seed], left).await;
            let mut both = Both::new(RamFs::new().unwrap(), copied, seed);
            // The copies' clocks are not the same.
            both.timely = false;
            for _ in 0..200 {
                both.step().await;
            }
            both.finish().await;
            let side = [Side::First, Side::Second][which];
            assert_eq!(both.second.out(), Some(side));
            let wanted = dump(&both.first).await.unwrap();
            assert_eq!(dump(&copies[1 - which].fs).await.unwrap(), wanted);
            let log = machine::take_log();
            assert_eq!(log.len(), 1, "{log:?}");
            // And when both fail the error is returned.
            copies[1 - which].left.store(0, Relaxed);
            let root = both.second.root();
            assert_eq!(both.second.mkdir(root, b"new", 0o755).await, Err(EIO));
        })
        .unwrap();
    });
}

/// Something is done to one of a few names, by one of many, who may give up.
async fn meddle(fs: &Copied, rng: &mut Rng) {
    let root = fs.root();
    let name = |rng: &mut Rng| [b'n', b'0' + rng.below(5) as u8];
    let (one, other) = (name(rng), name(rng));
    let dir = match fs.lookup(root, &name(rng)).await {
        Ok(dir) if rng.one_in(2) => dir,
        _ => root,
    };
    let work = async {
        match rng.below(7) {
            0 => drop(fs.mkdir(dir, &one, 0o755).await),
            1 => drop(fs.create(dir, &one, &NewInode::file(0o644)).await),
            2 => drop(fs.unlink(dir, &one).await),
            3 => drop(fs.rmdir(dir, &one).await),
            4 => drop(
                fs.rename(root, &one, dir, &other, RenameFlags::default())
                    .await,
            ),
            5 => {
                if let Ok(ino) = fs.lookup(dir, &one).await {
                    let _ = fs.link(root, &other, ino).await;
                }
            }
            _ => {
                if let Ok(ino) = fs.lookup(dir, &one).await {
                    let _ = fs.append(ino, &one).await;
                }
            }
        }
    };
    dropped_after(machine::random(12) as usize, work).await;
}

#[test]
fn copies_stay_the_same_when_many_change_them_and_give_up() {
    on_beds(|bed, seed| {
        let (copied, copies) = block_on(mirror(bed.scope(), [0, seed], [u64::MAX; 2])).unwrap();
        let copied = Arc::new(copied, GFP_KERNEL).unwrap();
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let fs = copied.clone();
                let task = async move {
                    let mut rng = Rng::new(seed * 100 + n);
                    for _ in 0..60 {
                        meddle(&fs, &mut rng).await;
                    }
                };
                bed.scope().spawn(task).unwrap()
            })
            .collect();
        block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
            // What was given up goes on.
            upcall::sleep(Duration::from_secs(1)).await;
            assert_eq!(copied.out(), None);
            let wanted = dump(&*copied).await.unwrap();
            for copy in &copies {
                assert_eq!(dump(&copy.fs).await.unwrap(), wanted);
            }
        })
        .unwrap();
    });
}

#[test]
fn the_end_of_its_scope_leaves_each_change_whole_or_absent() {
    let (mut made, mut refused) = (0, 0);
    for seed in 0..sim::count("LAYERS_SEEDS", 12) {
        simulate_on(Config::new(seed), Store::zeroes(4096), |bed| {
            let scope = bed.runtime().scope().unwrap();
            let (copied, copies) = block_on(mirror(&scope, [0, seed], [u64::MAX; 2])).unwrap();
            let copied = Arc::new(copied, GFP_KERNEL).unwrap();
            let change = |n: u8, fs: Arc<Copied>| async move {
                let (root, mut done) = (fs.root(), Vec::new());
                for round in b'0'..b'9' {
                    let made = fs.create(root, &[n, round], &NewInode::file(0o644)).await;
                    done.push(made);
                    if let Ok(made) = made {
                        done.push(fs.append(made, b"line").await.map(|_| made));
                        let (name, new) = ([n, round], [n, round, b'x']);
                        let flags = RenameFlags::default();
                        done.push(fs.rename(root, &name, root, &new, flags).await);
                        let kept = fs.tmpfile(root, &NewInode::file(0o600)).await;
                        done.push(kept.map(|kept| kept.ino()));
                    }
                }
                done
            };
            let tasks: Vec<_> = (b'a'..b'i')
                .map(|n| bed.scope().spawn(change(n, copied.clone())).unwrap())
                .collect();
            block_on(upcall::sleep(Duration::from_micros(300 + seed * 150))).unwrap();
            drop(scope);
            for task in tasks {
                for done in block_on(task).unwrap().unwrap() {
                    match done {
                        Ok(_) => made += 1,
                        Err(error) => {
                            assert_eq!(error, ESHUTDOWN, "seed {seed}");
                            refused += 1;
                        }
                    }
                }
            }
            assert_eq!(copied.out(), None);
            let dumps = copies.map(|copy| block_on(dump(&copy.fs)).unwrap().unwrap());
            assert!(dumps[0] == dumps[1], "seed {seed}");
        });
    }
    assert!(made > 100 && refused > 100, "{made} {refused}");
}
