// SPDX-License-Identifier: GPL-2.0

//! Many real threads and random operations, for a bounded time.

use crate::harness::*;
use crate::sys;
use crate::{block_on, join_all, Cancelled, JoinHandle, RwSemaphore, Spawner};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_millis(1500);

/// A future of a random kind, all of which end or can be cancelled.
async fn work(
    host: Host,
    spawner: Spawner,
    probes: Probes,
    signal: Arc<Signal>,
    seed: u64,
) -> Probe {
    let mut random = Random::new(seed);
    let probe = probes.probe();
    match random.below(6) {
        0 => {}
        1 => {
            for _ in 0..random.below(5) {
                yield_now().await;
            }
        }
        2 | 3 => signal.wait().await,
        4 => {
            // Children in a scope of their own, some of them for ever.
            let scope = host.scope();
            let handles: Vec<_> = (0..1 + random.below(4))
                .filter_map(|_| {
                    let (probe, n) = (probes.probe(), random.below(4));
                    let child = async move {
                        for _ in 0..n {
                            yield_now().await;
                        }
                        if n == 0 {
                            core::future::pending::<()>().await;
                        }
                        probe
                    };
                    if n == 2 {
                        scope.spawn_eager(child).ok()
                    } else {
                        scope.spawn(child).ok()
                    }
                })
                .collect();
            if random.one_in(2) {
                yield_now().await;
                drop(scope);
                let outputs = join_all(handles).unwrap().await.unwrap();
                assert!(outputs
                    .iter()
                    .all(|o| o.is_ok() || o.as_ref().err() == Some(&Cancelled)));
            }
        }
        _ => {
            // A sibling, which may come too late.
            let probe = probes.probe();
            let sibling = async move { probe };
            match if random.one_in(2) {
                spawner.spawn(sibling)
            } else {
                spawner.spawn_eager(sibling)
            } {
                Ok(handle) => drop(handle.await),
                Err(error) => assert_eq!(error, sys::ESHUTDOWN),
            }
        }
    }
    probe
}

#[test]
fn random_tasks_scopes_aborts_and_wakes_on_threads() {
    session(|| {
        let host = Host::new();
        let worker = host.worker();
        let end = Instant::now() + TIME;
        let probes = Probes::new();
        thread::scope(|threads| {
            for id in 0..3_u64 {
                let (host, probes) = (host.clone(), probes.clone());
                threads.spawn(move || {
                    let mut random = Random::new(id + 1);
                    let mut seed = id << 32;
                    while Instant::now() < end {
                        round(&host, &probes, &mut random, &mut seed);
                    }
                });
            }
        });
        worker.stop();
        assert!(probes.made() > 1000);
        probes.check(probes.made());
    });
}

fn round(host: &Host, probes: &Probes, random: &mut Random, seed: &mut u64) {
    let scope = host.scope();
    let mut handles: Vec<(JoinHandle<Probe>, Arc<Signal>)> = Vec::new();
    let mut detached: Vec<Arc<Signal>> = Vec::new();
    thread::scope(|threads| {
        for _ in 0..random.below(20) {
            *seed += 1;
            let signal = Signal::new();
            let work = work(
                host.clone(),
                scope.spawner(),
                probes.clone(),
                signal.clone(),
                *seed,
            );
            let handle = if random.one_in(3) {
                scope.spawn_eager(work)
            } else {
                scope.spawn(work)
            };
            handles.push((handle.unwrap(), signal));
        }
        // A second thread drops and awaits handles, while we fire and abort.
        let mut theirs = Vec::new();
        for (handle, signal) in handles.drain(..) {
            match random.below(5) {
                0 => {
                    handle.abort();
                    signal.fire();
                    theirs.push(handle);
                }
                1 => handle.abort(),
                2 => {
                    theirs.push(handle);
                    detached.push(signal);
                }
                3 => detached.push(signal),
                _ => {
                    signal.fire();
                    drop(block_on(handle).unwrap());
                }
            }
        }
        threads.spawn(move || {
            let mut even = false;
            for handle in theirs {
                even = !even;
                if even {
                    drop(block_on(handle).unwrap());
                } else {
                    drop(handle);
                }
            }
        });
        for signal in &detached {
            signal.fire();
        }
    });
    if random.one_in(2) {
        drop(scope);
    } else {
        block_on(scope.join()).unwrap();
    }
}

/// Two words that a writer keeps equal.
struct Pair([AtomicUsize; 2]);

impl Pair {
    fn write(&self) {
        let old = self.0[0].load(Ordering::Relaxed);
        self.0[0].store(old + 1, Ordering::Relaxed);
        thread::yield_now();
        assert_eq!(self.0[1].swap(old + 1, Ordering::Relaxed), old);
    }

    fn read(&self) {
        let first = self.0[0].load(Ordering::Relaxed);
        thread::yield_now();
        assert_eq!(self.0[1].load(Ordering::Relaxed), first);
    }
}

#[test]
fn rwsem_torture_by_tasks_and_threads() {
    session(|| {
        let sem = Arc::new(RwSemaphore::new(Pair([0, 1].map(|_| AtomicUsize::new(0)))));
        let host = Host::new();
        let worker = host.worker();
        let scope = host.scope();
        let stop = Arc::new(AtomicBool::new(false));
        let end = Instant::now() + TIME;
        let tasks: Vec<_> = (0..4)
            .map(|id| {
                let (sem, stop) = (sem.clone(), stop.clone());
                scope
                    .spawn(async move {
                        let mut random = Random::new(100 + id);
                        let mut writes = 0;
                        while !stop.load(Ordering::Relaxed) {
                            writes += step(&sem, &mut random).await;
                            yield_now().await;
                        }
                        writes
                    })
                    .unwrap()
            })
            .collect();
        let writes: usize = thread::scope(|threads| {
            let threads: Vec<_> = (0..3)
                .map(|id| {
                    let sem = &sem;
                    threads.spawn(move || {
                        let mut random = Random::new(id);
                        let mut writes = 0;
                        while Instant::now() < end {
                            writes += block_on(step(sem, &mut random)).unwrap();
                        }
                        writes
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        stop.store(true, Ordering::Relaxed);
        let tasks = block_on(join_all(tasks).unwrap()).unwrap().unwrap();
        let writes = writes + tasks.into_iter().map(Result::unwrap).sum::<usize>();
        drop(scope);
        worker.stop();
        let guard = sem.try_write().expect("a permit was lost");
        assert!(writes > 100);
        assert_eq!(guard.0[0].load(Ordering::Relaxed), writes);
    });
}

/// One random acquisition. Returns the number of writes.
async fn step(sem: &RwSemaphore<Pair>, random: &mut Random) -> usize {
    match random.below(8) {
        0..=2 => sem.read().await.unwrap().read(),
        3 => {
            if let Ok(guard) = sem.try_read() {
                guard.read();
            }
        }
        4 | 5 => {
            let guard = sem.write().await.unwrap();
            guard.write();
            if random.one_in(2) {
                let guard = guard.downgrade();
                guard.read();
                yield_now().await;
                guard.read();
            }
            return 1;
        }
        // Waits for a while and goes away.
        n => {
            let mut polls = random.below(3);
            let mut read = Box::pin(sem.read());
            let mut write = Box::pin(sem.write());
            core::future::poll_fn(|cx| {
                let ready = if n == 6 {
                    poll_with(read.as_mut(), cx.waker()).map(|guard| guard.unwrap().read())
                } else {
                    poll_with(write.as_mut(), cx.waker()).map(|guard| guard.unwrap().read())
                };
                if ready.is_ready() || polls == 0 {
                    return core::task::Poll::Ready(());
                }
                polls -= 1;
                cx.waker().wake_by_ref();
                core::task::Poll::Pending
            })
            .await;
        }
    }
    0
}
