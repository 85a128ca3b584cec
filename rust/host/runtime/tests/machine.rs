// SPDX-License-Identifier: GPL-2.0

//! The runtime on the machine: what the simulation promises of it.

use core::future::pending;
use core::time::Duration;
use kernel::machine::{self, Config, Fail};
use kernel::prelude::*;
use std::collections::BTreeSet;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex};
use upcall::simulation::{jitter, Runtime};
use upcall::{
    block_on, channel, join_all, sleep, timeout, yield_now, Instant, Notify, RwSemaphore,
};

/// Runs `f` with a runtime, and checks that nothing is left.
fn simulate<R>(seed: u64, f: impl FnOnce(&Runtime) -> R) -> R {
    machine::run(Config::new(seed), || {
        let runtime = Runtime::new().unwrap();
        let result = f(&runtime);
        drop(runtime);
        machine::settle();
        assert_eq!(machine::live(), (0, 0), "{:?}", machine::live_by_type());
        result
    })
}

/// What a run panics with.
fn failure(seed: u64, f: impl FnOnce(&Runtime)) -> String {
    let result = catch_unwind(AssertUnwindSafe(|| {
        machine::run(
            Config {
                max_steps: 20_000,
                ..Config::new(seed)
            },
            || {
                let runtime = Runtime::new().unwrap();
                // Not dropped where it fails: that would wait for what is never over.
                let runtime = core::mem::ManuallyDrop::new(runtime);
                f(&runtime);
            },
        )
    }));
    let panic = result.expect_err("the run is to fail");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast::<&str>()
            .map_or(String::new(), |s| s.to_string()),
    }
}

/// The order in which some tasks, a thread and timers come to their steps.
fn order(seed: u64) -> Vec<u32> {
    simulate(seed, |runtime| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let scope = runtime.scope().unwrap();
        for task in 0..4 {
            let log = log.clone();
            let work = async move {
                for step in 0..3 {
                    jitter().await;
                    log.lock().unwrap().push(task * 10 + step);
                    sleep(Duration::from_micros(1 + machine::random(5))).await;
                }
            };
            drop(scope.spawn(work).unwrap());
        }
        let other = log.clone();
        let thread = machine::spawn("other", move || {
            for step in 0..3 {
                other.lock().unwrap().push(100 + step);
                machine::yield_now();
            }
        });
        block_on(scope.join()).unwrap();
        thread.join();
        let log = log.lock().unwrap().clone();
        log
    })
}

#[test]
fn a_seed_gives_one_order_and_others_give_others() {
    let orders: BTreeSet<_> = (0..100).map(order).collect();
    assert!(orders.len() > 80, "{}", orders.len());
    for seed in 0..20 {
        assert_eq!(order(seed), order(seed));
    }
}

#[test]
fn the_seed_decides_which_thread_is_next() {
    let orders: BTreeSet<_> = (0..50)
        .map(|seed| {
            simulate(seed, |_| {
                let log = Arc::new(Mutex::new(Vec::new()));
                let threads: Vec<_> = (0..3)
                    .map(|n| {
                        let log = log.clone();
                        machine::spawn("racer", move || log.lock().unwrap().push(n))
                    })
                    .collect();
                threads.into_iter().for_each(machine::JoinHandle::join);
                let log = log.lock().unwrap().clone();
                log
            })
        })
        .collect();
    assert_eq!(orders.len(), 6);
}

#[test]
fn time_is_virtual() {
    simulate(1, |runtime| {
        let start = std::time::Instant::now();
        let scope = runtime.scope().unwrap();
        let ends: Vec<_> = [3u64, 1, 2]
            .into_iter()
            .map(|hours| {
                scope
                    .spawn(async move {
                        sleep(Duration::from_secs(3600 * hours)).await;
                        Instant::now()
                    })
                    .unwrap()
            })
            .collect();
        let begin = Instant::now();
        let ends = block_on(join_all(ends.into_iter()).unwrap())
            .unwrap()
            .unwrap();
        let hours: Vec<u64> = ends
            .into_iter()
            .map(|end| end.unwrap().since(begin).as_secs() / 3600)
            .collect();
        assert_eq!(hours, [3, 1, 2]);
        block_on(async {
            assert!(timeout(Duration::from_secs(9), pending::<()>())
                .await
                .is_err());
        })
        .unwrap();
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn what_can_never_go_on_is_a_deadlock() {
    let text = failure(7, |_| block_on(pending::<()>()).unwrap());
    assert!(
        text.contains("deadlock") && text.contains("seed 7"),
        "{text}"
    );
    // Two that wait for each other.
    let text = failure(8, |runtime| {
        let locks = Arc::new((RwSemaphore::new(()), RwSemaphore::new(())));
        let scope = core::mem::ManuallyDrop::new(runtime.scope().unwrap());
        let tasks: Vec<_> = [false, true]
            .into_iter()
            .map(|swap| {
                let locks = locks.clone();
                let work = async move {
                    let (a, b) = if swap {
                        (&locks.1, &locks.0)
                    } else {
                        (&locks.0, &locks.1)
                    };
                    let _a = a.write().await.unwrap();
                    sleep(Duration::from_millis(1)).await;
                    let _b = b.write().await.unwrap();
                };
                scope.spawn(work).unwrap()
            })
            .collect();
        core::mem::forget(block_on(join_all(tasks.into_iter()).unwrap()));
    });
    assert!(text.contains("deadlock"), "{text}");
}

#[test]
fn what_never_ends_is_reported() {
    let text = failure(9, |runtime| {
        let scope = core::mem::ManuallyDrop::new(runtime.scope().unwrap());
        let forever = async {
            loop {
                yield_now().await;
            }
        };
        drop(scope.spawn(forever).unwrap());
        block_on(pending::<()>()).unwrap();
    });
    assert!(text.contains("no end") && text.contains("seed 9"), "{text}");
}

#[test]
fn a_panic_of_another_thread_ends_the_run() {
    let text = failure(3, |_| {
        machine::spawn("broken", || panic!("this thread is broken")).join();
    });
    assert!(text.contains("this thread is broken"), "{text}");
}

#[test]
fn a_thread_that_waits_holds_up_no_other() {
    for seed in 0..50 {
        simulate(seed, |runtime| {
            let scope = runtime.scope().unwrap();
            let spawner = scope.spawner();
            let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            // The blocking worker waits for a thread, that for a task, and that for us.
            let (tell, wait) = (first.clone(), second.clone());
            let blocking = spawner
                .spawn_blocking(move || {
                    tell.notify_one();
                    block_on(async { wait.notified().await }).unwrap().unwrap();
                    7
                })
                .unwrap();
            let (wait, tell) = (first.clone(), second.clone());
            let thread = machine::spawn("between", move || {
                block_on(async { wait.notified().await }).unwrap().unwrap();
                tell.notify_one();
            });
            assert_eq!(block_on(blocking).unwrap(), Ok(7));
            thread.join();
            block_on(scope.join()).unwrap();
        });
    }
}

#[test]
fn block_on_is_refused_in_an_upcall() {
    simulate(1, |runtime| {
        let scope = runtime.scope().unwrap();
        let task = scope.spawn(async { block_on(async {}).is_err() }).unwrap();
        assert_eq!(block_on(task).unwrap(), Ok(true));
        assert_eq!(machine::take_warnings().len(), 1);
        drop(scope);
    });
}

/// Tasks that send to each other, sleep, block and are cancelled.
fn traffic(runtime: &Runtime) -> Result {
    let scope = runtime.scope()?;
    let (sender, mut receiver) = channel::<u64>(2)?;
    let mut tasks = Vec::new();
    for task in 0..3 {
        let sender = sender.clone();
        tasks.push(scope.spawn(async move {
            for n in 0..4 {
                jitter().await;
                if sender.send(task * 100 + n).await.is_err() {
                    break;
                }
                sleep(Duration::from_micros(n)).await;
            }
        })?);
    }
    drop(sender);
    let sum = scope.spawn(async move {
        let mut sum = 0;
        while let Some(n) = receiver.recv().await {
            sum += n;
        }
        sum
    })?;
    let blocking = scope.spawner().spawn_blocking(|| machine::random(2) == 0)?;
    if machine::random(3) == 0 {
        drop(scope);
        return Ok(());
    }
    if block_on(blocking)?? {
        scope.cancel();
    } else {
        assert_eq!(block_on(sum)?, Ok(1218));
    }
    block_on(scope.join())
}

#[test]
fn nothing_is_left_behind() {
    for seed in 0..300 {
        simulate(seed, |runtime| traffic(runtime).unwrap());
    }
}

#[test]
fn every_allocation_failed_in_turn() {
    let mut failed = 0;
    for seed in 0..5 {
        for nth in 0.. {
            let last = machine::run(Config::new(seed), || {
                machine::fail_allocations(Fail::Nth(nth));
                let run = || {
                    let runtime = Runtime::new()?;
                    traffic(&runtime)
                };
                let result = run();
                machine::settle();
                assert_eq!(machine::live(), (0, 0), "{:?}", machine::live_by_type());
                let hit = machine::allocations().1 != 0;
                if let Err(error) = result {
                    assert!(hit && (error == ENOMEM || error == ECANCELED), "{error:?}");
                }
                !hit
            });
            if last {
                break;
            }
            failed += 1;
        }
    }
    assert!(failed > 40, "{failed}");
}

#[test]
fn interrupts_come_where_memory_is_allocated() {
    // A timer fires inside of a task that does not wait for it.
    let hits = (0..50)
        .filter(|&seed| {
            simulate(seed, |_| {
                let (seen, now) = (Arc::new(Mutex::new(false)), machine::now());
                let flag = seen.clone();
                machine::at(now + 1, move || {
                    assert!(machine::in_interrupt());
                    *flag.lock().unwrap() = true;
                });
                let mut hit = false;
                for _ in 0..100 {
                    drop(KBox::new(1, GFP_KERNEL));
                    hit |= *seen.lock().unwrap();
                }
                hit
            })
        })
        .count();
    assert!(hits > 10, "{hits}");
}

#[test]
fn sleeping_where_one_may_not_is_found() {
    let text = failure(1, |_| {
        let lock = kernel::sync::SpinLock::new(());
        let _guard = lock.lock();
        drop(KBox::new(1, GFP_KERNEL));
    });
    assert!(text.contains("sleeping under a spinlock"), "{text}");
    let text = failure(1, |_| {
        machine::at(machine::now() + 1, || drop(KBox::new(1, GFP_KERNEL)));
        machine::settle();
    });
    assert!(text.contains("sleeping in interrupt context"), "{text}");
}
