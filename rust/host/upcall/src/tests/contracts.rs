// SPDX-License-Identifier: GPL-2.0

//! Contracts that need no interleaving: what an operation promises to one thread.

use crate::harness::*;
use crate::registry;
use crate::sys::{self, Ledger};
use crate::{block_on, join_all, Cancelled, JoinHandle, RwSemaphore};
use core::future::{pending, poll_fn, ready, Future};
use core::pin::{pin, Pin};
use core::task::{Poll, Waker};
use core::time::Duration;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The executor's budget. A test that needs it says so; it is no promise to users.
const BUDGET: usize = 256;

fn output<T>(handle: &mut JoinHandle<T>) -> Poll<Result<T, Cancelled>> {
    poll_once(Pin::new(handle))
}

fn never(probe: Probe) -> Never {
    Never {
        wakers: Wakers::new(),
        leave: 0,
        _probe: probe,
    }
}

#[test]
fn tasks_run_in_the_order_of_spawning() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let order = Arc::new(Mutex::new(Vec::new()));
        for i in 0..1000 {
            let order = order.clone();
            drop(scope.spawn(async move { order.lock().unwrap().push(i) }));
        }
        host.pump();
        assert!(order.lock().unwrap().iter().copied().eq(0..1000));
    });
}

#[test]
fn a_run_stops_at_its_budget_and_queues_itself_for_what_is_left() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let ran = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 * BUDGET + 10 {
            let ran = ran.clone();
            drop(scope.spawn(async move { ran.fetch_add(1, Ordering::Relaxed) }));
        }
        for expected in [BUDGET, 2 * BUDGET, 2 * BUDGET + 10] {
            assert!(host.try_run(), "nobody queued the work");
            assert_eq!(ran.load(Ordering::Relaxed), expected);
        }
        host.pump();
    });
}

#[test]
fn a_run_stops_when_its_time_is_over_and_queues_itself_for_what_is_left() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let ran = Arc::new(AtomicUsize::new(0));
        for _ in 0..10 {
            let ran = ran.clone();
            drop(scope.spawn(async move {
                sys::advance(Duration::from_micros(700));
                ran.fetch_add(1, Ordering::Relaxed);
            }));
        }
        // Of two milliseconds
        for expected in [3, 6, 9, 10] {
            assert!(host.try_run(), "nobody queued the work");
            assert_eq!(ran.load(Ordering::Relaxed), expected);
        }
        assert!(!host.try_run());
    });
}

#[test]
fn what_is_left_of_a_batch_goes_before_what_comes_later() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let order = Arc::new(Mutex::new(Vec::new()));
        for i in 0..BUDGET + 2 {
            let order = order.clone();
            drop(scope.spawn(async move { order.lock().unwrap().push(i) }));
        }
        assert!(host.try_run());
        let late = order.clone();
        drop(scope.spawn(async move { late.lock().unwrap().push(BUDGET + 2) }));
        host.pump();
        assert!(order.lock().unwrap().iter().copied().eq(0..BUDGET + 3));
    });
}

#[test]
fn tasks_that_wake_themselves_for_ever_starve_nobody() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let polls = Arc::new(AtomicUsize::new(0));
        for _ in 0..10 {
            let polls = polls.clone();
            drop(scope.spawn(async move {
                loop {
                    polls.fetch_add(1, Ordering::Relaxed);
                    yield_now().await;
                }
            }));
        }
        assert!(host.try_run());
        // The run ended, though there is always something ready.
        assert_eq!(polls.load(Ordering::Relaxed), BUDGET);
        let handle = scope.spawn(async {}).unwrap();
        assert!(host.try_run());
        assert!(handle.is_finished());
        // In place of a thread: the scope is dropped by the worker.
        let outer = host.scope();
        drop(outer.spawn(async move { drop(scope) }));
        host.pump();
    });
}

#[test]
fn an_idle_executor_is_queued_once_for_many() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        for _ in 0..10 {
            drop(scope.spawn(async {}));
        }
        assert_eq!(host.executor().work().queued_count(), 1);
        host.pump();
        assert_eq!(host.executor().work().queued_count(), 1);
    });
}

#[test]
fn many_wakes_are_one_poll() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let wakers = Wakers::new();
        let polls = Arc::new(AtomicUsize::new(0));
        let (leave, counts, probe) = (wakers.clone(), polls.clone(), probes.probe());
        drop(scope.spawn(poll_fn(move |cx| {
            let _ = &probe;
            counts.fetch_add(1, Ordering::Relaxed);
            leave.leave(cx, 1);
            Poll::<()>::Pending
        })));
        host.pump();
        let waker = wakers.take();
        for _ in 0..100 {
            waker.wake_by_ref();
        }
        host.pump();
        assert_eq!(polls.load(Ordering::Relaxed), 2);
        drop((waker, wakers.take()));
        end(&host, scope);
        probes.check(1);
    });
}

/// Drops `scope` on the worker, and this thread is the worker.
fn end(host: &Host, scope: crate::Scope) {
    let outer = host.scope();
    drop(outer.spawn(async move { drop(scope) }));
    host.pump();
}

#[test]
fn spawn_is_lazy_and_spawn_eager_is_not() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let mut lazy = scope.spawn(async { 1 }).unwrap();
        assert!(output(&mut lazy).is_pending());
        host.pump();
        let queued = host.executor().work().queued_count();
        let mut eager = scope
            .spawn_eager(async {
                assert!(sys::in_nofs());
                2
            })
            .unwrap();
        assert_eq!(output(&mut eager), Poll::Ready(Ok(2)));
        assert_eq!(
            host.executor().work().queued_count(),
            queued,
            "queued for nothing"
        );
        assert_eq!(output(&mut lazy), Poll::Ready(Ok(1)));
        let mut later = scope
            .spawn_eager(async {
                yield_now().await;
                3
            })
            .unwrap();
        assert!(output(&mut later).is_pending());
        host.pump();
        assert_eq!(output(&mut later), Poll::Ready(Ok(3)));
    });
}

#[test]
fn an_output_is_given_out_once() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let mut handle = scope.spawn(async { 1 }).unwrap();
        host.pump();
        assert_eq!(output(&mut handle), Poll::Ready(Ok(1)));
        assert_eq!(output(&mut handle), Poll::Pending);
        assert_eq!(sys::take_warnings().len(), 1);
    });
}

#[test]
fn a_task_aborted_before_its_first_poll_is_never_polled() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let probe = probes.probe();
        let mut handle = scope
            .spawn(async move {
                let _probe = probe;
                panic!("polled");
            })
            .unwrap();
        handle.abort();
        assert_eq!(probes.dropped(), 0, "dropped by the one who aborts");
        host.pump();
        assert_eq!(output(&mut handle), Poll::Ready(Err(Cancelled)));
        probes.check(1);
    });
}

#[test]
fn abort_after_complete_leaves_the_value() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let mut handle = scope.spawn(async { 1 }).unwrap();
        host.pump();
        handle.abort();
        host.pump();
        assert_eq!(output(&mut handle), Poll::Ready(Ok(1)));
    });
}

#[test]
fn a_task_that_aborts_itself_is_dropped_after_the_poll() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let mine: Arc<Mutex<Option<JoinHandle<()>>>> = Arc::default();
        let (handle, probe, check) = (mine.clone(), probes.probe(), probes.clone());
        let task = scope.spawn(async move {
            let _probe = probe;
            handle.lock().unwrap().take().unwrap().abort();
            assert_eq!(check.dropped(), 0);
            pending::<()>().await;
        });
        *mine.lock().unwrap() = Some(task.unwrap());
        host.pump();
        probes.check(1);
    });
}

#[test]
fn a_scope_dropped_in_an_upcall_cancels_ready_and_pending_tasks_at_once() {
    session(|| {
        let host = Host::new();
        let outer = host.scope();
        let inner = host.scope();
        let spawner = inner.spawner();
        let probes = Probes::new();
        let mut handles = vec![inner.spawn(never(probes.probe())).unwrap()];
        host.pump();
        let check = probes.clone();
        let done = outer
            .spawn(async move {
                drop(inner);
                check.check(4);
            })
            .unwrap();
        // Ready, behind the one that cancels them.
        handles.extend((0..3).map(|_| spawner.spawn(never(probes.probe())).unwrap()));
        let other = outer.spawn(async {}).unwrap();
        host.pump();
        assert!(done.is_finished() && other.is_finished());
        for handle in &mut handles {
            assert_eq!(output(handle), Poll::Ready(Err(Cancelled)));
        }
    });
}

#[test]
fn a_shielded_task_runs_to_its_end_and_its_scope_waits_for_it() {
    session(|| {
        let host = Host::new();
        let outer = host.scope();
        let inner = host.scope();
        let spawner = inner.spawner();
        let (probes, gone) = (Probes::new(), Probes::new());
        let mut left: Vec<_> = (0..3)
            .map(|n| {
                let probe = probes.probe();
                let task = async move {
                    let _probe = probe;
                    yield_now().await;
                    yield_now().await;
                    n
                };
                inner.shielded().spawn(task).unwrap()
            })
            .collect();
        let mut cancelled = inner.spawn(never(gone.probe())).unwrap();
        // Its own handle cancels a shielded one.
        let mut aborted = inner.shielded().spawn(never(gone.probe())).unwrap();
        aborted.abort();
        inner.cancel();
        assert_eq!(
            spawner.shielded().spawn(async {}).err(),
            Some(sys::ESHUTDOWN)
        );
        let check = gone.clone();
        drop(outer.spawn(async move {
            drop(inner);
            // Those that are not shielded are gone.
            check.check(2);
        }));
        let mut join = pin!(outer.join());
        assert!(poll_once(join.as_mut()).is_pending());
        host.pump();
        assert!(poll_once(join.as_mut()).is_ready());
        for (n, handle) in left.iter_mut().enumerate() {
            assert_eq!(output(handle), Poll::Ready(Ok(n)));
        }
        assert_eq!(output(&mut cancelled), Poll::Ready(Err(Cancelled)));
        assert_eq!(output(&mut aborted), Poll::Ready(Err(Cancelled)));
        probes.check(3);
    });
}

#[test]
fn a_task_cancelled_in_place_while_on_the_ready_list_is_skipped() {
    session(|| {
        let host = Host::new();
        let outer = host.scope();
        let inner = host.scope();
        let spawner = inner.spawner();
        let probes = Probes::new();
        let (probe, check) = (probes.probe(), probes.clone());
        let done = outer
            .spawn(async move {
                // On the list while the scope goes.
                let handle = spawner
                    .spawn(async move {
                        let _probe = probe;
                        panic!("polled");
                    })
                    .unwrap();
                drop(inner);
                check.check(1);
                assert_eq!(handle.await, Err::<(), _>(Cancelled));
                // The scope is over.
                assert_eq!(spawner.spawn(async {}).err(), Some(sys::ESHUTDOWN));
                assert!(spawner.enter().is_none());
            })
            .unwrap();
        host.pump();
        assert!(done.is_finished());
    });
}

#[test]
fn a_scope_with_a_request_dropped_in_an_upcall_keeps_the_outer_one() {
    session(|| {
        let host = Host::new();
        let outer = host.scope();
        let inner = host.scope();
        let member = inner.spawner().enter().unwrap();
        drop(outer.spawn(async move { drop(inner) }));
        host.pump();
        let mut join = pin!(outer.join());
        assert!(poll_once(join.as_mut()).is_pending());
        drop(member);
        assert!(poll_once(join.as_mut()).is_ready());
    });
}

/// Whether `future` is ready, now or at an earlier call. It is dropped when it is.
fn is_over<F: Future>(future: &mut Option<Pin<Box<F>>>) -> bool {
    if let Some(waits) = future {
        if poll_once(waits.as_mut()).is_pending() {
            return false;
        }
        *future = None;
    }
    true
}

#[test]
fn an_eager_first_poll_on_a_worker_is_one_of_its_own_task_and_scope() {
    session(|| {
        let (host, other) = (Host::new(), Host::new());
        let outer = host.scope();
        // Of another executor: what counts is who polls.
        let inner = other.scope();
        let spawner = inner.spawner();
        let scopes = [host.scope(), host.scope()];
        let requests = scopes
            .each_ref()
            .map(|scope| scope.spawner().enter().unwrap());
        drop(outer.spawn(async move {
            let [first, second] = scopes;
            drop(spawner.spawn_eager(async move { drop(first) }));
            // Again of the outer one
            drop(second);
        }));
        host.pump();
        let [first, second] = requests;
        let mut inner = Some(Box::pin(inner.join()));
        let mut outer = Some(Box::pin(outer.join()));
        let mut over = || (is_over(&mut outer), is_over(&mut inner));
        let before = over();
        drop(second);
        let between = over();
        drop(first);
        let after = over();
        assert_eq!(before, (false, false));
        assert_eq!(between, (true, false));
        assert_eq!(after, (true, true));
    });
}

#[test]
fn a_task_cancelled_in_place_drops_what_it_has_as_its_own_task() {
    session(|| {
        let host = Host::new();
        let outer = host.scope();
        let inner = host.scope();
        let innermost = host.scope();
        let request = innermost.spawner().enter().unwrap();
        let member = inner.spawner().enter().unwrap();
        let probes = Probes::new();
        let future = never(probes.probe());
        drop(inner.spawn(async move {
            let _innermost = innermost;
            future.await
        }));
        host.pump();
        drop(outer.spawn(async move { drop(inner) }));
        host.pump();
        probes.check(1);
        // The outer scope waits for the inner one, which waits for the innermost.
        let scopes = || {
            let mut count = 0;
            registry::for_each_scope(|_| count += 1);
            count
        };
        drop(member);
        let before = scopes();
        drop(request);
        assert_eq!((before, scopes()), (3, 1));
    });
}

#[test]
fn a_scope_that_its_own_task_drops_warns() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let spawner = scope.spawner();
        drop(spawner.spawn(async move { drop(scope) }));
        host.pump();
        assert_eq!(sys::take_warnings().len(), 1);
    });
}

#[test]
fn a_joined_scope_takes_no_more_tasks() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let spawner = scope.spawner();
        let probes = Probes::new();
        assert!(poll_once(pin!(scope.join())).is_ready());
        let probe = probes.probe();
        let error = spawner.spawn(async move { probe }).err();
        assert_eq!(error, Some(sys::ESHUTDOWN));
        probes.check(1);
        assert!(spawner.enter().is_none());
    });
}

#[test]
fn a_scope_is_joined_when_the_tasks_of_its_tasks_are_done() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let spawner = scope.spawner();
        let ran = Arc::new(AtomicUsize::new(0));
        let count = ran.clone();
        drop(scope.spawn(async move {
            yield_now().await;
            drop(spawner.spawn(async move {
                yield_now().await;
                count.fetch_add(1, Ordering::Relaxed);
            }));
        }));
        let mut join = pin!(scope.join());
        assert!(poll_once(join.as_mut()).is_pending());
        host.pump();
        assert!(poll_once(join.as_mut()).is_ready());
        assert_eq!(ran.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_walk_of_the_scopes_finds_each_once_and_keeps_the_one_it_is_at() {
    session(|| {
        let scopes = || {
            let mut count = 0;
            registry::for_each_scope(|_| count += 1);
            count
        };
        let host = Host::new();
        assert_eq!(scopes(), 0);
        let (first, second, third) = (host.scope(), host.scope(), host.scope());
        assert_eq!(scopes(), 3);
        let mut ending = [Some(Box::pin(first.join())), Some(Box::pin(second.join()))];
        let mut places = Vec::new();
        registry::for_each_scope(|scope| {
            places.push(core::ptr::from_ref(scope));
            // The walk is a member of the one it is at, which cannot end before it goes on.
            for place in &mut ending {
                if let Some(join) = place {
                    if poll_once(join.as_mut()).is_ready() {
                        *place = None;
                    }
                }
            }
        });
        // The newest is the first; those that ended before the walk came to them are not visited.
        assert_eq!(places.len(), 1);
        assert_eq!(scopes(), 1);
        drop(third);
        assert_eq!(scopes(), 0);
    });
}

#[test]
fn an_executor_is_in_the_list_until_its_last_handle_is_gone() {
    session(|| {
        let executors = || {
            let mut list = Vec::new();
            registry::find_executor(|core| {
                list.push(core::ptr::from_ref(core));
                None::<()>
            });
            list
        };
        let place = |host: &Host| core::ptr::from_ref(host.executor());
        assert_eq!(executors(), []);
        let (a, b, c) = (Host::new(), Host::new(), Host::new());
        assert_eq!(executors(), [place(&c), place(&b), place(&a)]);
        let scope = b.scope();
        drop(b);
        assert_eq!(executors().len(), 3, "a scope keeps its executor");
        drop(scope);
        assert_eq!(executors(), [place(&c), place(&a)]);
        assert_eq!(registry::find_executor(|_| Some(1)), Some(1));
        drop(c);
        assert_eq!(executors(), [place(&a)]);
        drop(a);
        assert_eq!(executors(), []);
    });
}

#[test]
fn a_thread_waits_for_io_in_block_on_and_not_for_locks_and_scopes() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let worker = host.worker();
        let sem = Shared::new(RwSemaphore::new(()));
        let sem = sem.get();
        // As long as the other thread parks at least once: wakes it, and only then.
        let woken = |count: fn([usize; 2]) -> usize, wait: &mut dyn FnMut()| {
            sys::take_parked();
            wait();
            let parked = sys::take_parked();
            assert!(count(parked) > 0 && parked.iter().sum::<usize>() == count(parked));
        };
        let later = |f: Box<dyn FnOnce() + Send>| {
            std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                f();
            })
        };
        let signal = Signal::new();
        let fires = signal.clone();
        let thread = later(Box::new(move || fires.fire()));
        woken(|parked| parked[1], &mut || {
            assert_eq!(block_on(signal.wait()), Ok(()));
        });
        thread.join().unwrap();
        let guard = sem.try_write().unwrap();
        let thread = later(Box::new(move || drop(guard)));
        woken(|parked| parked[0], &mut || drop(sem.read_blocking()));
        thread.join().unwrap();
        let member = scope.spawner().enter().unwrap();
        let thread = later(Box::new(move || drop(member)));
        let mut scope = Some(scope);
        woken(|parked| parked[0], &mut || drop(scope.take()));
        thread.join().unwrap();
        worker.stop();
    });
}

#[test]
#[should_panic(expected = "sleeping in interrupt context")]
fn block_on_in_an_interrupt_is_refused_also_if_the_future_is_ready() {
    session(|| sys::interrupt(|| assert!(block_on(ready(())).is_err())));
}

#[test]
fn block_on_in_an_upcall_is_refused() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let mut handle = scope
            .spawn(async { block_on(async { panic!("polled") }) })
            .unwrap();
        host.pump();
        assert_eq!(
            output(&mut handle),
            Poll::Ready(Ok(Err::<(), _>(sys::EDEADLK)))
        );
        assert_eq!(sys::take_warnings(), ["block_on() inside an upcall"]);
    });
}

#[test]
fn only_the_worker_is_current_and_only_in_a_run() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let inside = host.clone();
        assert!(!host.executor().is_current());
        let mut handle = scope
            .spawn(async move { inside.executor().is_current() })
            .unwrap();
        host.pump();
        assert!(!host.executor().is_current());
        assert_eq!(output(&mut handle), Poll::Ready(Ok(true)));
    });
}

#[test]
fn join_all_gives_outputs_in_order() {
    session(|| {
        let signals = [(); 3].map(|()| Signal::new());
        let mut all = pin!(join_all(signals.iter().enumerate().map(|(i, signal)| {
            let signal = signal.clone();
            async move {
                signal.wait().await;
                i
            }
        }))
        .unwrap());
        for i in [2, 0] {
            signals[i].fire();
            assert!(poll_once(all.as_mut()).is_pending());
        }
        signals[1].fire();
        assert_eq!(poll_once(all.as_mut()), Poll::Ready(Ok(vec![0, 1, 2])));
    });
}

#[test]
fn join_all_drops_what_is_pending_and_what_is_done() {
    session(|| {
        let probes = Probes::new();
        let mut all = Box::pin(
            join_all((0..4).map(|i| {
                let probe = probes.probe();
                async move {
                    if i % 2 == 0 {
                        pending::<()>().await;
                    }
                    probe
                }
            }))
            .unwrap(),
        );
        assert!(poll_once(all.as_mut()).is_pending());
        assert_eq!(probes.dropped(), 0);
        drop(all);
        probes.check(4);
    });
}

#[test]
fn join_all_without_memory_drops_all_futures_and_outputs() {
    session(|| {
        // For three slots, for what their wakers share, and for three outputs
        for step in 0..10 {
            let probes = Probes::new();
            sys::fail_after(step);
            let all = join_all((0..3).map(|_| ready(probes.probe())));
            if step < 7 {
                assert_eq!(all.err(), Some(sys::ENOMEM));
            } else {
                let mut all = Box::pin(all.unwrap());
                match poll_once(all.as_mut()) {
                    Poll::Ready(outputs) => assert_eq!(outputs.err(), Some(sys::ENOMEM)),
                    Poll::Pending => panic!("pending"),
                }
            }
            assert!(!sys::cancel_failure());
            assert_eq!(probes.made(), probes.dropped());
        }
    });
}

#[test]
fn spawn_without_memory_drops_the_future_and_leaves_the_scope_whole() {
    session(|| {
        let host = Host::new();
        sys::fail_after(0);
        assert_eq!(host.try_scope().err(), Some(sys::ENOMEM));
        let scope = host.scope();
        for eager in [false, true] {
            let probes = Probes::new();
            let probe = probes.probe();
            let future = async move { drop(probe) };
            sys::fail_after(0);
            let error = if eager {
                scope.spawn_eager(future).err()
            } else {
                scope.spawn(future).err()
            };
            assert_eq!(error, Some(sys::ENOMEM));
            probes.check(1);
            assert_eq!(Ledger::tasks(), 0);
        }
        drop(scope.spawn(async {}));
        host.pump();
        // Would wait for ever if a failed spawn were a member.
        assert!(poll_once(pin!(scope.join())).is_ready());
    });
}

#[test]
fn a_dropped_rwsem_future_that_was_never_polled_changes_nothing() {
    session(|| {
        let sem = RwSemaphore::new(1);
        drop((sem.read(), sem.write()));
        assert_eq!(*sem.try_write().unwrap(), 1);
        assert_eq!(sem.into_inner(), 1);
    });
}

#[test]
fn more_readers_than_a_wake_batch_are_let_in_at_once() {
    session(|| {
        let sem = RwSemaphore::new(());
        let guard = sem.try_write().unwrap();
        let counts: Vec<_> = (0..50).map(|_| Count::new()).collect();
        let mut readers: Vec<_> = counts
            .iter()
            .map(|count| {
                let mut future = Box::pin(sem.read());
                let waker = Waker::from(count.clone());
                assert!(poll_with(future.as_mut(), &waker).is_pending());
                future
            })
            .collect();
        let mut writer = Box::pin(sem.write());
        assert!(poll_once(writer.as_mut()).is_pending());
        drop(guard);
        assert!(counts.iter().all(|count| count.wakes() == 1));
        let guards: Vec<_> = readers
            .iter_mut()
            .map(|reader| poll_once(reader.as_mut()).is_ready())
            .collect();
        // Each guard was dropped at once, so that the writer is next.
        assert!(guards.iter().all(|ready| *ready));
        assert!(poll_once(writer.as_mut()).is_ready());
    });
}

#[test]
fn an_rwsem_future_polled_after_completion_warns_and_takes_nothing() {
    session(|| {
        let sem = RwSemaphore::new(());
        let mut read = pin!(sem.read());
        let first = poll_once(read.as_mut());
        assert!(first.is_ready());
        assert!(poll_once(read.as_mut()).is_pending());
        assert_eq!(sys::take_warnings().len(), 1);
        drop(first);
        assert!(sem.try_write().is_ok());
    });
}

#[test]
fn blocking_acquire_in_an_upcall_is_refused_only_if_it_had_to_wait() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let sem = Shared::new(RwSemaphore::new(()));
        let sem = sem.get();
        let mut handle = scope
            .spawn(async move {
                let read = sem.read_blocking().map(drop);
                let guard = sem.try_write();
                let refused = (
                    sem.read_blocking().map(drop),
                    sem.write_blocking().map(drop),
                );
                drop(guard);
                (read, refused, sem.write_blocking().map(drop))
            })
            .unwrap();
        host.pump();
        let refused = (Err(sys::EDEADLK), Err(sys::EDEADLK));
        assert_eq!(
            output(&mut handle),
            Poll::Ready(Ok((Ok(()), refused, Ok(()))))
        );
        assert_eq!(sys::take_warnings().len(), 2);
    });
}

#[test]
fn a_forgotten_waiter_leaks_and_harms_nobody_who_does_not_wait_behind_it() {
    session(|| {
        let sem = RwSemaphore::new(1);
        let guard = sem.try_write().unwrap();
        let mut waiter = Box::pin(sem.read());
        assert!(poll_once(waiter.as_mut()).is_pending());
        core::mem::forget(waiter);
        drop(guard);
        // It has the lock for ever, as a forgotten guard would.
        assert!(sem.try_read().is_ok());
        assert!(sem.try_write().is_err());
        let moved = sem;
        assert_eq!(moved.into_inner(), 1);
    });
}
