// SPDX-License-Identifier: GPL-2.0

//! Requests, and the metadata cache, on a disk that fails and reorders.

use core::future::Future;
use core::pin::pin;
use core::task::Poll;
use disk::cache::CacheStats;
use disk::Cache;
use kernel::machine::{self, Config, Fail, Rng};
use kernel::prelude::*;
use sim::{dropped_after, simulate, simulate_on, Bed};
use simdisk::{Latency, Request, Store};
use std::sync::Arc;
use upcall::simulation::jitter;
use upcall::{block_on, join_all, Block};

const BLOCKS: u64 = 512;

/// A disk whose blocks of 1 KiB tell their numbers.
fn numbered() -> Store {
    let mut bytes = Vec::new();
    for block in 0..BLOCKS {
        bytes.extend(content(block));
    }
    Store::bytes(Arc::new(bytes))
}

fn content(block: u64) -> Vec<u8> {
    let mut rng = Rng::new(block);
    (0..128).flat_map(|_| rng.next().to_le_bytes()).collect()
}

fn cache(bed: &Bed) -> Result<Cache> {
    Cache::new(&bed.disk()?, 1024)
}

#[test]
fn blocks_are_read_written_and_flushed() {
    for seed in 0..100 {
        simulate(seed, Store::zeroes(1 << 20), |bed| {
            let device = bed.upcall_device().unwrap();
            block_on(async {
                let mut block = Block::new().unwrap();
                block.as_mut_slice().fill(7);
                block.write(&device, 8192, 512, 1024, false).await.unwrap();
                block.as_mut_slice().fill(8);
                block.write(&device, 0, 0, 512, true).await.unwrap();
                let durable = |pos| bed.device.disk().durable().get(pos, 1)[0];
                assert_eq!((durable(0), durable(8192)), (8, 0));
                device.flush().await.unwrap();
                assert_eq!(durable(8192), 7);
                let mut again = Block::new().unwrap();
                again.read(&device, 8192, 0, 2048).await.unwrap();
                assert_eq!(again.as_slice()[..1024], [7; 1024]);
                assert_eq!(again.as_slice()[1024..], [0; 3072]);
                device.write_zeroes(8192, 512).await.unwrap();
                again.read(&device, 8192, 0, 1024).await.unwrap();
                assert_eq!(again.as_slice()[..512], [0; 512]);
                assert_eq!(again.as_slice()[512..1024], [7; 512]);
            })
            .unwrap();
        });
    }
}

/// Some who read blocks here and there, each from a place of his own; what they got.
async fn readers(bed: &Bed, cache: &Arc<Cache>, seed: u64) -> Result<Vec<Result<()>>> {
    let mut tasks = Vec::new();
    for reader in 0..4 {
        let cache = cache.clone();
        let task = bed.scope().spawn(async move {
            let mut rng = Rng::new(seed * 10 + reader);
            let mut result = Ok(());
            for _ in 0..20 {
                jitter().await;
                let block = rng.below(40) * if rng.one_in(3) { 12 } else { 1 };
                let first = block - rng.below(4).min(block);
                let ahead = first..(first + rng.below(16)).min(BLOCKS);
                let read = cache.read(block, ahead);
                match rng.one_in(6) {
                    true => drop(dropped_after(rng.below(3) as usize, read).await),
                    false => match read.await {
                        Ok(buf) => assert_eq!(buf.data(), content(block), "block {block}"),
                        Err(error) => result = Err(error),
                    },
                }
            }
            result
        })?;
        tasks.push(task);
    }
    let ends = join_all(tasks.into_iter())?.await?;
    ends.into_iter().map(|end| Ok(end?)).collect()
}

#[test]
fn all_readers_get_their_blocks() {
    let mut reads = 0;
    for seed in 0..400 {
        simulate(seed, numbered(), |bed| {
            let cache = Arc::new(cache(bed).unwrap());
            let ends = block_on(readers(bed, &cache, seed)).unwrap().unwrap();
            assert!(ends.iter().all(Result::is_ok), "{ends:?}");
            reads += bed.device.disk().counts().reads;
        });
    }
    // Of 32,000 look-ups; readers share what they read, and neighbours come with it.
    assert!((5_000..20_000).contains(&reads), "{reads}");
}

#[test]
fn a_bad_block_fails_for_those_who_ask_for_it() {
    for seed in 0..200 {
        simulate(seed, numbered(), |bed| {
            let bad = Rng::new(seed).below(40);
            bed.device.disk().faults.bad_sectors.insert(2 * bad + 1);
            let cache = Arc::new(cache(bed).unwrap());
            let all = (0..40).map(|block| {
                let cache = cache.clone();
                async move {
                    jitter().await;
                    let first = block - block % 8;
                    cache.read(block, first..first + 8).await
                }
            });
            let ends = block_on(join_all(all).unwrap()).unwrap().unwrap();
            for (block, end) in ends.into_iter().enumerate() {
                match end {
                    Ok(buf) => assert_eq!(buf.data(), content(block as u64)),
                    Err(error) => assert_eq!((block as u64, error), (bad, EIO)),
                }
                assert_ne!(block as u64 == bad, cache.get(block as u64).is_some());
            }
            // Once it was written over it is good again.
            let mut disk = bed.device.disk();
            let id = disk.submit(Request::write(bad * 1024, vec![1; 1024]));
            disk.complete(id).unwrap();
            drop(disk);
            let buf = block_on(cache.read(bad, bad..bad)).unwrap().unwrap();
            assert_eq!(buf.data(), [1; 1024]);
        });
    }
}

#[test]
fn every_read_failed_in_turn() {
    for seed in 0..10 {
        for nth in 0.. {
            let last = simulate(seed, numbered(), |bed| {
                bed.device.disk().faults.reads.insert(nth);
                let cache = Arc::new(cache(bed).unwrap());
                let ends = block_on(readers(bed, &cache, seed)).unwrap().unwrap();
                assert!(ends.iter().all(|end| *end == Ok(()) || *end == Err(EIO)));
                // What failed once can be read again.
                let late = bed.device.disk().counts().reads <= nth;
                bed.device.disk().faults.reads.clear();
                let all = (0..40).map(|block| cache.read(block, block..block));
                let ends = block_on(join_all(all).unwrap()).unwrap().unwrap();
                assert!(ends.into_iter().all(|end| end.is_ok()));
                late
            });
            if last {
                break;
            }
        }
    }
}

#[test]
fn every_allocation_failed_in_turn() {
    let mut failed = 0;
    for seed in 0..3 {
        for nth in 0.. {
            let last = machine::run(sim::varied(seed), || {
                machine::fail_allocations(Fail::Nth(nth));
                let run = || {
                    let bed = Bed::new(numbered())?;
                    let cache = Arc::new(cache(&bed)?);
                    let ends = block_on(readers(&bed, &cache, seed))??;
                    ends.into_iter().collect::<Result<()>>()
                };
                let result = run();
                machine::settle();
                let hit = machine::allocations().1 != 0;
                if let Err(error) = result {
                    assert!(hit && error == ENOMEM, "{error:?}");
                }
                let left = machine::live_by_type();
                assert!(left.is_empty(), "allocation {nth}: {left:#?}");
                !hit
            });
            if last {
                break;
            }
            failed += 1;
        }
    }
    assert!(failed > 300, "{failed}");
}

#[test]
fn upcalls_get_on_when_memory_is_short() {
    for seed in 0..100 {
        let fail = match seed % 2 {
            0 => Fail::Atomic(2),
            _ => Fail::Short(3),
        };
        simulate(seed, numbered(), |bed| {
            let cache = Arc::new(cache(bed).unwrap());
            machine::fail_allocations(fail);
            let ends = block_on(readers(bed, &cache, seed)).unwrap().unwrap();
            machine::fail_allocations(Fail::Never);
            for end in ends {
                assert!(end.is_ok() || end == Err(ENOMEM), "{end:?}");
            }
        });
    }
}

#[test]
fn edits_leave_readers_what_they_have() {
    for seed in 0..100 {
        simulate(seed, numbered(), |bed| {
            let cache = Arc::new(cache(bed).unwrap());
            let mut tasks = Vec::new();
            for writer in 0..3u8 {
                let cache = cache.clone();
                let work = async move {
                    for _ in 0..10 {
                        jitter().await;
                        let planned = cache.plan(7).await.unwrap();
                        jitter().await;
                        let held = machine::random(2) == 0;
                        let before = held.then(|| cache.get(7).unwrap());
                        let old = before.as_ref().map(|buf| buf.data().to_vec());
                        planned.edit(|bytes| bytes.fill(writer));
                        if let (Some(before), Some(old)) = (before, old) {
                            assert_eq!(before.data(), old);
                        }
                        let now = cache.get(7).unwrap();
                        assert!(now.data().iter().all(|byte| *byte == writer));
                    }
                };
                tasks.push(bed.scope().spawn(work).unwrap());
            }
            let reader = cache.clone();
            let work = async move {
                for _ in 0..20 {
                    let buf = reader.read(7, 0..16).await.unwrap();
                    let seen = buf.data().to_vec();
                    jitter().await;
                    assert_eq!(buf.data(), seen);
                }
            };
            tasks.push(bed.scope().spawn(work).unwrap());
            let ends = block_on(join_all(tasks.into_iter()).unwrap())
                .unwrap()
                .unwrap();
            assert!(ends.into_iter().all(|end| end.is_ok()));
        });
    }
}

#[test]
fn what_is_needed_is_not_evicted() {
    let mut evicted = 0;
    for seed in 0..200 {
        // So little memory that the cache is full with 256 blocks.
        let config = Config {
            memory: 1 << 20,
            ..Config::new(seed)
        };
        simulate_on(config, Store::zeroes(2048 * 1024), |bed| {
            let cache = Arc::new(cache(bed).unwrap());
            let mut tasks = Vec::new();
            for writer in 0..4u64 {
                let cache = cache.clone();
                let work = async move {
                    for round in 1..6u8 {
                        let block = writer + 64 * machine::random(30);
                        let planned = cache.plan(block).await.unwrap();
                        let before = planned.buf().unwrap().data().to_vec();
                        for _ in 0..machine::random(4) {
                            jitter().await;
                            cache.shrink(machine::random(300) as usize);
                        }
                        assert_eq!(planned.buf().unwrap().data(), before);
                        planned.edit(|bytes| bytes.fill(round));
                        cache.shrink(300);
                        // It is not on the disk, so it has to be here.
                        let now = cache.read(block, block..block).await.unwrap();
                        assert_eq!(now.data(), [round; 1024]);
                    }
                };
                tasks.push(bed.scope().spawn(work).unwrap());
            }
            let reader = cache.clone();
            let work = async move {
                for _ in 0..200 {
                    let block = 4 + machine::random(60) + 64 * machine::random(30);
                    let buf = reader.read(block, block..block + 40).await.unwrap();
                    jitter().await;
                    assert_eq!(buf.data(), [0; 1024]);
                }
            };
            tasks.push(bed.scope().spawn(work).unwrap());
            let ends = block_on(join_all(tasks.into_iter()).unwrap())
                .unwrap()
                .unwrap();
            assert!(ends.into_iter().all(|end| end.is_ok()));
            let stats = cache.stats();
            evicted += stats.evicted + stats.reclaimed;
        });
    }
    assert!(evicted > 10_000, "{evicted}");
}

#[test]
fn what_is_done_is_counted() {
    // The device is done when somebody waits for it, and not before.
    let config = Config {
        interrupts: false,
        ..Config::new(1)
    };
    simulate_on(config, numbered(), |bed| {
        bed.device.set_latency(Latency {
            at_once: 0,
            ..Latency::default()
        });
        let cache = cache(bed).unwrap();
        let cache = &cache;
        let mut told = CacheStats::default();
        block_on(async {
            assert_eq!(cache.stats(), told);
            cache.read(3, 0..8).await.unwrap();
            (told.blocks, told.reads, told.ahead) = (8, 1, 7);
            assert_eq!(cache.stats(), told);
            // Those that came along are found as well.
            cache.read(5, 0..8).await.unwrap();
            told.hits = 1;
            assert_eq!(cache.stats(), told);
            let mut read = pin!(cache.read(100, 100..100));
            let early =
                core::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx).is_ready())).await;
            assert!(!early);
            (told.blocks, told.reading, told.reads) = (9, 1, 2);
            assert_eq!(cache.stats(), told);
            read.await.unwrap();
            told.reading = 0;
            assert_eq!(cache.stats(), told);
            // Of two who want it one reads, and the other waits until it is there.
            let both = [(); 2].map(|()| cache.read(101, 101..101));
            for end in join_all(both.into_iter()).unwrap().await.unwrap() {
                end.unwrap();
            }
            (told.blocks, told.reads, told.waits, told.hits) = (10, 3, 1, 2);
            assert_eq!(cache.stats(), told);
            // A change finds its block, or does not.
            let ((), pin) = cache.plan(3).await.unwrap().edit(|bytes| bytes.fill(1));
            let ((), other) = cache.plan(102).await.unwrap().edit(|bytes| bytes.fill(1));
            (told.blocks, told.reads, told.hits, told.dirty) = (11, 4, 3, 2);
            assert_eq!(cache.stats(), told);
            let pin = pin.unwrap();
            pin.set_logged(7, pin.take_edited().unwrap());
            (told.dirty, told.logged) = (1, 1);
            assert_eq!(cache.stats(), told);
            pin.clear_logged(7);
            told.logged = 0;
            assert_eq!(cache.stats(), told);
            // What is pinned or dirty stays.
            assert_eq!(cache.shrink(1000), 9);
            (told.blocks, told.reclaimed) = (2, 9);
            assert_eq!(cache.stats(), told);
            drop((pin, other));
            assert_eq!(cache.shrink(1000), 1);
            (told.blocks, told.reclaimed) = (1, 10);
            assert_eq!(cache.stats(), told);
        })
        .unwrap();
        let text = told.to_string();
        assert_eq!(text.lines().count(), 10, "{text}");
        assert!(text.contains("\nhits 3\nreads 4\n"), "{text}");
    });
}

#[test]
fn blocks_that_make_room_are_counted() {
    let config = Config {
        memory: 1 << 20,
        ..Config::new(1)
    };
    simulate_on(config, Store::zeroes(2048 * 1024), |bed| {
        let cache = cache(bed).unwrap();
        for block in 0..1000 {
            block_on(cache.read(block, block..block)).unwrap().unwrap();
        }
        let stats = cache.stats();
        assert!(stats.evicted >= 700, "{stats:?}");
        assert_eq!((stats.reads, stats.reclaimed), (1000, 0));
        assert_eq!(stats.blocks, 1000 - stats.evicted);
    });
}
