// SPDX-License-Identifier: GPL-2.0

//! Models of tasks, their wakers, handles and scopes, the ready list and the executor.
//!
//! Where the main thread can be the worker it is: fewer threads, fewer interleavings. A lost
//! wake-up shows as a deadlock, which loom reports.

use crate::done::Done;
use crate::executor::Runnable;
use crate::harness::*;
use crate::ready::{Link, ReadyList};
use crate::registry;
use crate::stats::Wait;
use crate::sys::{self, rt, Acquire, Atomic, Cell, Full, Relaxed};
use crate::{block_on, Cancelled, JoinHandle};
use core::future::{poll_fn, Future};
use core::pin::{pin, Pin};
use core::ptr::NonNull;
use core::task::{Poll, Waker};
use rt::thread;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// The worker is the caller: runs until the task is finished.
fn finish<T>(host: &Host, handle: &JoinHandle<T>) {
    while !handle.is_finished() {
        host.run_once();
    }
}

fn output<T>(mut handle: JoinHandle<T>) -> Result<T, Cancelled> {
    match poll_once(Pin::new(&mut handle)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a finished task is pending"),
    }
}

/// Spawns a [`Never`] whose first poll is over, with `count` wakers left.
fn started(
    host: &Host,
    scope: &crate::Scope,
    probe: Probe,
    count: usize,
) -> (JoinHandle<()>, Wakers) {
    let wakers = Wakers::new();
    let handle = scope
        .spawn(Never {
            wakers: wakers.clone(),
            leave: count,
            _probe: probe,
        })
        .unwrap();
    host.pump();
    (handle, wakers)
}

#[test]
fn wake_during_poll() {
    model(3, || {
        let host = Host::new();
        let scope = host.scope();
        let signal = Signal::new();
        let waits = signal.clone();
        let handle = scope
            .spawn(async move {
                waits.wait().await;
                7
            })
            .unwrap();
        let thread = thread::spawn(move || signal.fire());
        finish(&host, &handle);
        assert_eq!(output(handle), Ok(7));
        thread.join().unwrap();
        host.pump();
    });
}

#[test]
fn wake_after_complete() {
    model(3, || {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let wakers = Wakers::new();
        let (probe, leave) = (probes.probe(), wakers.clone());
        let mut polls = 0;
        let handle = scope
            .spawn(poll_fn(move |cx| {
                let _ = &probe;
                polls += 1;
                match polls {
                    1 => {
                        leave.leave(cx, 2);
                        Poll::Pending
                    }
                    // The late wake may come in between.
                    2 => Poll::Ready(()),
                    _ => panic!("a finished future is polled"),
                }
            }))
            .unwrap();
        host.pump();
        let late = wakers.take();
        let thread = thread::spawn(move || {
            sys::interrupt(|| {
                late.wake_by_ref();
                late.clone().wake();
                drop(late);
            })
        });
        wakers.take().wake();
        finish(&host, &handle);
        let queued = host.executor().work().queued_count();
        assert_eq!(output(handle), Ok(()));
        drop(scope);
        thread.join().unwrap();
        host.pump();
        // Nothing was pushed by a wake of a finished task.
        assert_eq!(host.executor().work().queued_count(), queued);
        probes.check(1);
    });
}

#[test]
fn two_wakers_at_once() {
    // Each waker's news is seen by a poll, also that of the one who found the task scheduled.
    model(2, || {
        let host = Host::new();
        let scope = host.scope();
        let news = Arc::new([Atomic::new(false), Atomic::new(false)]);
        let wakers = Wakers::new();
        let (seen, leave) = (news.clone(), wakers.clone());
        let mut first = true;
        let handle = scope
            .spawn(poll_fn(move |cx| {
                if core::mem::take(&mut first) {
                    leave.leave(cx, 2);
                }
                if seen.iter().all(|n| n.load(Relaxed)) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            }))
            .unwrap();
        host.pump();
        let threads = [0, 1].map(|i| {
            let (news, waker) = (news.clone(), wakers.take());
            thread::spawn(move || {
                news[i].store(true, Relaxed);
                sys::interrupt(|| match i {
                    0 => waker.wake_by_ref(),
                    _ => waker.wake(),
                });
            })
        });
        finish(&host, &handle);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn abort_during_poll() {
    model(3, || {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let handle = scope
            .spawn(Never {
                wakers: Wakers::new(),
                leave: 0,
                _probe: probes.probe(),
            })
            .unwrap();
        let handle = Arc::new(handle);
        let aborts = handle.clone();
        let thread = thread::spawn(move || sys::interrupt(|| aborts.abort()));
        finish(&host, &handle);
        thread.join().unwrap();
        probes.check(1);
        assert_eq!(output(Arc::into_inner(handle).unwrap()), Err(Cancelled));
        host.pump();
    });
}

#[test]
fn abort_against_wake() {
    model(3, || {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let signal = Signal::new();
        let (waits, probe) = (signal.clone(), probes.probe());
        let handle = scope
            .spawn(async move {
                let _probe = probe;
                waits.wait().await;
            })
            .unwrap();
        host.pump();
        let handle = Arc::new(handle);
        let aborts = handle.clone();
        let threads = [
            thread::spawn(move || aborts.abort()),
            thread::spawn(move || signal.fire()),
        ];
        finish(&host, &handle);
        for thread in threads {
            thread.join().unwrap();
        }
        probes.check(1);
        drop(handle);
        host.pump();
    });
}

#[test]
fn last_reference_dropped_by_a_waker() {
    model(2, || {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let (handle, wakers) = started(&host, &scope, probes.probe(), 2);
        let threads = [(); 2].map(|()| {
            let waker = wakers.take();
            thread::spawn(move || sys::interrupt(|| drop(waker)))
        });
        handle.abort();
        host.pump();
        probes.check(1);
        drop(handle);
        drop(scope);
        for thread in threads {
            thread.join().unwrap();
        }
        // That it is freed, and once, is checked at the end of each session.
    });
}

#[test]
fn last_reference_dropped_by_a_wake_after_complete() {
    model(2, || {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let (handle, wakers) = started(&host, &scope, probes.probe(), 1);
        let waker = wakers.take();
        let thread = thread::spawn(move || sys::interrupt(|| waker.wake()));
        drop(handle);
        host.try_run();
        // Cancels on the worker's thread, but outside a run: the worker has to be another.
        let worker = host.worker();
        drop(scope);
        thread.join().unwrap();
        worker.stop();
        probes.check(1);
    });
}

#[test]
fn join_against_complete() {
    model(3, || {
        let host = Host::new();
        let scope = host.scope();
        let worker = host.worker();
        // Boxed: what the task wrote is read here, without an atomic operation of its own.
        let value = Cell::new(1);
        let handle = scope
            .spawn(async move {
                // SAFETY: Nobody else has it.
                value.with_mut(|v| unsafe { *v += 1 });
                value
            })
            .unwrap();
        let value = block_on(handle).unwrap().unwrap();
        // SAFETY: As above.
        assert_eq!(value.with(|v| unsafe { *v }), 2);
        drop(scope);
        worker.stop();
    });
}

#[test]
fn join_of_a_borrowed_handle_against_complete() {
    // The handle goes while the completer may still be busy with the task.
    model(3, || {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let probe = probes.probe();
        let mut handle = scope.spawn(async move { probe }).unwrap();
        let thread = thread::spawn(move || {
            let first = poll_with(Pin::new(&mut handle), Waker::noop());
            // Another waker: the slot is taken back.
            let second = match first {
                Poll::Pending => poll_with(Pin::new(&mut handle), &Count::new().into()),
                ready => ready,
            };
            drop(second);
            drop(handle);
        });
        host.run_once();
        thread.join().unwrap();
        drop(scope);
        probes.check(1);
    });
}

#[test]
fn handle_dropped_against_complete() {
    model(3, || {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let probe = probes.probe();
        let handle = scope.spawn(async move { probe }).unwrap();
        let thread = thread::spawn(move || drop(handle));
        host.run_once();
        thread.join().unwrap();
        // The output is dropped by one of the two.
        probes.check(1);
        drop(scope);
    });
}

#[test]
fn awaited_handle_dropped_against_complete() {
    model(3, || {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let probe = probes.probe();
        let mut handle = scope.spawn(async move { probe }).unwrap();
        let count = Count::new();
        let waker = Waker::from(count.clone());
        assert!(poll_with(Pin::new(&mut handle), &waker).is_pending());
        let thread = thread::spawn(move || drop(handle));
        host.run_once();
        thread.join().unwrap();
        probes.check(1);
        drop(scope);
        // The waker that was left is gone: woken or dropped.
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1);
    });
}

#[test]
fn detached_task_goes_on_and_its_scope_joins_it() {
    model(2, || {
        let host = Host::new();
        let scope = host.scope();
        let worker = host.worker();
        let probes = Probes::new();
        let signal = Signal::new();
        let (waits, probe) = (signal.clone(), probes.probe());
        drop(scope.spawn(async move {
            waits.wait().await;
            probe
        }));
        let thread = thread::spawn(move || signal.fire());
        block_on(scope.join()).unwrap();
        probes.check(1);
        thread.join().unwrap();
        worker.stop();
    });
}

#[repr(C)]
struct Item {
    link: Link,
    from: usize,
    number: usize,
}

#[test]
fn ready_list_is_fifo_per_producer_and_tells_who_found_it_empty() {
    model(3, || {
        let list = Arc::new(ReadyList::new());
        let found_empty = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let threads = [0, 1].map(|from| {
            let (list, found_empty) = (list.clone(), found_empty.clone());
            thread::spawn(move || {
                for number in 0..2 {
                    let item = Box::leak(Box::new(Item {
                        link: Link::new(),
                        from,
                        number,
                    }));
                    // SAFETY: The item is new, and lives until it is taken.
                    if unsafe { list.push(NonNull::from(item).cast()) } {
                        found_empty.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            })
        });
        let mut next = [0, 0];
        let mut batches = 0;
        let mut take = || {
            let mut batch = list.take();
            batches += usize::from(!batch.is_empty());
            for link in &mut batch {
                // SAFETY: Only items are pushed, and what was taken is ours.
                let item = unsafe { Box::from_raw(link.cast::<Item>().as_ptr()) };
                assert_eq!(item.number, next[item.from], "not in the order of pushing");
                next[item.from] += 1;
            }
        };
        take();
        for thread in threads {
            thread.join().unwrap();
        }
        take();
        assert!(list.is_empty());
        assert_eq!(next, [2, 2]);
        // Whoever pushes on an empty list is told so, and nobody else is.
        assert_eq!(
            found_empty.load(std::sync::atomic::Ordering::Relaxed),
            batches
        );
    });
}

// SAFETY: The list is made to be shared; in the kernel `Executor` says so.
unsafe impl Send for ReadyList {}
// SAFETY: As above.
unsafe impl Sync for ReadyList {}

#[repr(C)]
struct Job {
    runnable: Runnable,
    ran: Arc<std::sync::atomic::AtomicUsize>,
    data: Cell<usize>,
}

unsafe fn run_job(runnable: NonNull<Runnable>) {
    // SAFETY: Only jobs have this function, and their box was passed along.
    let job = unsafe { Box::from_raw(runnable.cast::<Job>().as_ptr()) };
    // SAFETY: The box is ours.
    assert_eq!(job.data.with(|data| unsafe { *data }), 1);
    job.ran.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

#[test]
fn push_against_end_of_run_is_not_lost() {
    model(3, || {
        let host = Host::new();
        let ran = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let threads = [(); 2].map(|()| {
            let (host, ran) = (host.clone(), ran.clone());
            thread::spawn(move || {
                let job = Box::new(Job {
                    runnable: Runnable::new(run_job),
                    ran,
                    data: Cell::new(0),
                });
                // SAFETY: The job is ours until it is pushed.
                job.data.with_mut(|data| unsafe { *data = 1 });
                // SAFETY: The job is new, and its box is passed along.
                unsafe { host.executor().push(NonNull::from(Box::leak(job)).cast()) };
            })
        });
        while ran.load(std::sync::atomic::Ordering::Relaxed) < 2 {
            host.run_once();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        host.pump();
    });
}

/// A completion and what it publishes.
struct Published {
    done: Done,
    value: Cell<usize>,
}

// SAFETY: `value` is written before `done` is complete, and read after.
unsafe impl Sync for Published {}
// SAFETY: As above.
unsafe impl Send for Published {}

impl Published {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            done: Done::new(),
            value: Cell::new(0),
        })
    }

    fn complete(&self) {
        // SAFETY: We are the one who completes, and have not.
        self.value.with_mut(|value| unsafe { *value = 1 });
        sys::interrupt(|| self.done.complete());
    }

    /// Panics if the value is not there, though `Done` says so.
    fn check(&self) {
        // SAFETY: It is done.
        assert_eq!(self.value.with(|value| unsafe { *value }), 1);
    }
}

#[test]
fn done_publishes_to_a_poll() {
    model(3, || {
        let published = Published::new();
        let completes = published.clone();
        let thread = thread::spawn(move || completes.complete());
        let count = Count::new();
        let waker = Waker::from(count.clone());
        // SAFETY: We are the one waiter.
        let poll = poll_fn(|cx| unsafe { published.done.poll(cx, Wait::Other) });
        let ready = poll_with(pin!(poll), &waker).is_ready();
        if ready {
            published.check();
        }
        thread.join().unwrap();
        // Pending is a promise to wake.
        assert!(ready || count.wakes() == 1);
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1);
    });
}

#[test]
fn done_publishes_to_a_poll_with_another_waker() {
    model(3, || {
        let published = Published::new();
        let counts = [Count::new(), Count::new()];
        let wakers = counts.clone().map(Waker::from);
        // SAFETY: We are the one waiter.
        let poll = || poll_fn(|cx| unsafe { published.done.poll(cx, Wait::Other) });
        assert!(poll_with(pin!(poll()), &wakers[0]).is_pending());
        let completes = published.clone();
        let thread = thread::spawn(move || completes.complete());
        let ready = poll_with(pin!(poll()), &wakers[1]).is_ready();
        if ready {
            published.check();
        }
        thread.join().unwrap();
        // The last waker is the one that counts.
        assert!(ready || counts[1].wakes() == 1);
        drop(wakers);
        assert!(counts.iter().all(|count| Arc::strong_count(count) == 1));
    });
}

#[test]
fn done_publishes_to_a_poll_with_the_same_waker() {
    model(3, || {
        let published = Published::new();
        let count = Count::new();
        let waker = Waker::from(count.clone());
        // SAFETY: We are the one waiter.
        let poll = || poll_fn(|cx| unsafe { published.done.poll(cx, Wait::Other) });
        assert!(poll_with(pin!(poll()), &waker).is_pending());
        let completes = published.clone();
        let thread = thread::spawn(move || completes.complete());
        let ready = poll_with(pin!(poll()), &waker).is_ready();
        if ready {
            published.check();
        }
        thread.join().unwrap();
        assert!(ready || count.wakes() == 1);
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1);
    });
}

#[test]
fn done_against_disarm() {
    model(3, || {
        let published = Published::new();
        let count = Count::new();
        let waker = Waker::from(count.clone());
        // SAFETY: We are the one waiter.
        let poll = poll_fn(|cx| unsafe { published.done.poll(cx, Wait::Other) });
        assert!(poll_with(pin!(poll), &waker).is_pending());
        let completes = published.clone();
        let thread = thread::spawn(move || completes.complete());
        // SAFETY: As above.
        unsafe { published.done.disarm() };
        if published.done.is_done() {
            published.check();
        }
        thread.join().unwrap();
        assert!(published.done.is_done());
        assert!(count.wakes() <= 1);
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1);
    });
}

#[test]
fn done_by_two_completers() {
    model(3, || {
        let done = Arc::new(Done::new());
        let count = Count::new();
        let waker = Waker::from(count.clone());
        // SAFETY: We are the one waiter.
        assert!(poll_with(
            pin!(poll_fn(|cx| unsafe { done.poll(cx, Wait::Other) })),
            &waker
        )
        .is_pending());
        let threads = [(); 2].map(|()| {
            let done = done.clone();
            thread::spawn(move || done.complete())
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(count.wakes(), 1);
    });
}

/// Like a request: the completer has a reference from its last look at `done` on, and who finds
/// itself alone with it uses it again.
#[test]
fn done_is_used_again_when_its_completer_has_let_go() {
    struct Request {
        done: Done,
        refs: Atomic<usize>,
        value: Cell<u32>,
    }
    // SAFETY: The value is the completer's until it lets go, and then the waiter's.
    unsafe impl Sync for Request {}
    // SAFETY: As above.
    unsafe impl Send for Request {}

    fn end(request: &Request) {
        // SAFETY: We are the completer.
        request.value.with_mut(|value| unsafe { *value += 1 });
        sys::interrupt(|| {
            request.done.complete_in(&sys::read_section());
            request.refs.fetch_sub(1, Full);
        });
    }

    let reused = Arc::new(AtomicBool::new(false));
    let seen = reused.clone();
    model(3, move || {
        let request = Arc::new(Request {
            done: Done::new(),
            refs: Atomic::new(2),
            value: Cell::new(0),
        });
        let spawn = || {
            let request = request.clone();
            thread::spawn(move || end(&request))
        };
        let count = Count::new();
        let waker = Waker::from(count.clone());
        // SAFETY: We are the one waiter.
        let poll = || poll_fn(|cx| unsafe { request.done.poll(cx, Wait::Other) });
        let first = spawn();
        if poll_with(pin!(poll()), &waker).is_ready() && request.refs.load(Acquire) == 1 {
            seen.store(true, Ordering::Relaxed);
            // SAFETY: The completer has let go.
            unsafe {
                request.value.with_mut(|value| *value += 1);
                request.refs.store(2, Relaxed);
                request.done.reset();
            }
            let second = spawn();
            let ready = poll_with(pin!(poll()), &waker).is_ready();
            second.join().unwrap();
            assert!(ready || count.wakes() == 1);
            assert!(poll_with(pin!(poll()), &waker).is_ready());
            // SAFETY: Both have been joined.
            assert_eq!(request.value.with(|value| unsafe { *value }), 3);
        }
        first.join().unwrap();
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1);
    });
    assert!(reused.load(Ordering::Relaxed));
}

#[test]
fn scope_dropped_against_a_running_task() {
    model(2, || {
        let host = Host::new();
        let scope = host.scope();
        let worker = host.worker();
        let probes = Probes::new();
        let probe = probes.probe();
        let handle = scope
            .spawn(async move {
                let _probe = probe;
                yield_now().await;
            })
            .unwrap();
        drop(scope);
        // It returned or was cancelled, but is gone.
        probes.check(1);
        assert!(handle.is_finished());
        drop(handle);
        worker.stop();
    });
}

#[test]
fn scope_dropped_against_shielded_tasks() {
    model(2, || {
        let host = Host::new();
        let scope = host.scope();
        let worker = host.worker();
        let probes = Probes::new();
        let spawn = |n| {
            let probe = probes.probe();
            let task = async move {
                let _probe = probe;
                yield_now().await;
                n
            };
            scope.shielded().spawn(task).unwrap()
        };
        let handles = [spawn(0), spawn(1)];
        drop(scope);
        probes.check(2);
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(block_on(handle).unwrap(), Ok(n));
        }
        worker.stop();
    });
}

#[test]
fn scope_dropped_against_a_waker() {
    model(2, || {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let (handle, wakers) = started(&host, &scope, probes.probe(), 1);
        drop(handle);
        let waker = wakers.take();
        let thread = thread::spawn(move || sys::interrupt(|| waker.wake()));
        let worker = host.worker();
        drop(scope);
        probes.check(1);
        thread.join().unwrap();
        worker.stop();
    });
}

#[test]
fn scope_dropped_inside_an_upcall() {
    model(2, || {
        let host = Host::new();
        let outer = host.scope();
        let inner = host.scope();
        let probes = Probes::new();
        let (handle, wakers) = started(&host, &inner, probes.probe(), 2);
        let wakes = wakers.take();
        let aborts = Arc::new(handle);
        let handle = aborts.clone();
        let thread = thread::spawn(move || {
            sys::interrupt(|| {
                wakes.wake();
                aborts.abort();
            });
            drop(aborts);
        });
        let check = probes.clone();
        let done = outer
            .spawn(async move {
                drop(inner);
                // In place: there is nobody to wait for.
                check.check(1);
            })
            .unwrap();
        finish(&host, &done);
        thread.join().unwrap();
        host.pump();
        assert!(handle.is_finished());
        drop((handle, done, outer, wakers));
    });
}

/// A request of `scope`, and the thread whose interrupt ends it; the flag says that it did.
fn request(scope: &crate::Scope) -> (Arc<AtomicBool>, thread::JoinHandle<()>) {
    let member = scope.spawner().enter().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let thread = thread::spawn(move || {
        sys::interrupt(|| {
            over.store(true, Ordering::Relaxed);
            drop(member);
        })
    });
    (is_over, thread)
}

#[test]
fn scope_dropped_inside_an_upcall_with_a_request() {
    // The drop cannot wait for the request, so the scope around it does.
    model(2, || {
        let host = Host::new();
        let outer = host.scope();
        let inner = host.scope();
        let worker = host.worker();
        let (is_over, thread) = request(&inner);
        drop(outer.spawn(async move { drop(inner) }).unwrap());
        block_on(outer.join()).unwrap();
        assert!(is_over.load(Ordering::Relaxed));
        thread.join().unwrap();
        worker.stop();
    });
}

#[test]
fn join_dropped_inside_an_upcall_against_the_last_member() {
    model(2, || {
        let host = Host::new();
        let outer = host.scope();
        let inner = host.scope();
        let worker = host.worker();
        let (is_over, thread) = request(&inner);
        let task = outer
            .spawn(async move {
                let mut join = Box::pin(inner.join());
                // Polled once, so that it left the scope and waits, and then dropped.
                poll_fn(|cx| {
                    let _ = join.as_mut().poll(cx);
                    Poll::Ready(())
                })
                .await;
            })
            .unwrap();
        drop(task);
        block_on(outer.join()).unwrap();
        assert!(is_over.load(Ordering::Relaxed));
        thread.join().unwrap();
        worker.stop();
    });
}

#[test]
fn spawn_against_scope_drop() {
    model(2, || {
        let host = Host::new();
        let scope = host.scope();
        let worker = host.worker();
        let spawner = scope.spawner();
        let probes = Probes::new();
        let probe = probes.probe();
        let thread = thread::spawn(move || {
            let never = Never {
                wakers: Wakers::new(),
                leave: 0,
                _probe: probe,
            };
            match spawner.spawn(never) {
                Ok(handle) => assert_eq!(block_on(handle).unwrap(), Err(Cancelled)),
                Err(error) => assert_eq!(error, sys::ESHUTDOWN),
            }
        });
        drop(scope);
        thread.join().unwrap();
        probes.check(1);
        worker.stop();
    });
}

#[test]
fn spawn_against_scope_drop_inside_an_upcall() {
    // The task may be cancelled in place before its spawner has pushed it.
    model(2, || {
        let host = Host::new();
        let outer = host.scope();
        let inner = host.scope();
        let spawner = inner.spawner();
        let probes = Probes::new();
        let probe = probes.probe();
        let thread = thread::spawn(move || {
            let never = Never {
                wakers: Wakers::new(),
                leave: 0,
                _probe: probe,
            };
            match spawner.spawn(never) {
                Ok(handle) => drop(handle),
                Err(error) => assert_eq!(error, sys::ESHUTDOWN),
            }
        });
        let done = outer.spawn(async move { drop(inner) }).unwrap();
        finish(&host, &done);
        thread.join().unwrap();
        host.pump();
        probes.check(1);
    });
}

#[test]
fn eager_spawn_against_scope_drop() {
    model(2, || {
        let host = Host::new();
        let scope = host.scope();
        let worker = host.worker();
        let spawner = scope.spawner();
        let probes = Probes::new();
        let probe = probes.probe();
        let thread = thread::spawn(move || {
            let never = Never {
                wakers: Wakers::new(),
                leave: 0,
                _probe: probe,
            };
            match spawner.spawn_eager(never) {
                Ok(handle) => drop(handle),
                Err(error) => assert_eq!(error, sys::ESHUTDOWN),
            }
        });
        drop(scope);
        thread.join().unwrap();
        probes.check(1);
        worker.stop();
    });
}

#[test]
fn member_leaves_against_scope_drop() {
    model(3, || {
        let host = Host::new();
        let scope = host.scope();
        let member = scope.spawner().enter().unwrap();
        let left = Flag::new();
        let leaves = left.clone();
        let thread = thread::spawn(move || {
            sys::interrupt(|| {
                leaves.set();
                drop(member);
            })
        });
        drop(scope);
        assert!(left.is_set());
        thread.join().unwrap();
    });
}

#[test]
fn a_walk_of_the_scopes_against_the_last_member() {
    model(3, || {
        let host = Host::new();
        let scope = host.scope();
        let spawner = scope.spawner();
        // As a read of debugfs does, while the scope ends.
        let walker = thread::spawn(|| registry::for_each_scope(|_| {}));
        // Closed: what is taken from a count of zero then is a large one without the mark.
        scope.cancel();
        let mut join = pin!(scope.join());
        let joined = poll_once(join.as_mut()).is_ready();
        walker.join().unwrap();
        assert!(joined || poll_once(join.as_mut()).is_ready());
        // The scope is over, and stays so.
        assert!(spawner.enter().is_none());
        assert_eq!(spawner.spawn(async {}).err(), Some(sys::ESHUTDOWN));
    });
}

#[test]
fn eager_task_is_pending_and_woken_from_elsewhere() {
    model(2, || {
        let host = Host::new();
        let scope = host.scope();
        let worker = host.worker();
        let signal = Signal::new();
        let fires = signal.clone();
        let thread = thread::spawn(move || fires.fire());
        let handle = scope
            .spawn_eager(async move {
                signal.wait().await;
                5
            })
            .unwrap();
        assert_eq!(block_on(handle), Ok(Ok(5)));
        drop(scope);
        thread.join().unwrap();
        worker.stop();
    });
}

#[test]
fn block_on_parks_against_a_wake() {
    model(3, || {
        let signal = Signal::new();
        let fires = signal.clone();
        let thread = thread::spawn(move || fires.fire());
        block_on(signal.wait()).unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn block_on_sees_a_wake_that_was_meant_for_an_earlier_call() {
    model(3, || {
        let signals = [Signal::new(), Signal::new()];
        let fires = signals.clone();
        let late = Wakers::new();
        let leave = late.clone();
        // The first call leaves a waker of this thread behind.
        block_on(poll_fn(|cx| {
            leave.leave(cx, 1);
            Poll::Ready(())
        }))
        .unwrap();
        let waker = late.take();
        let thread = thread::spawn(move || {
            waker.wake();
            fires[0].fire();
            fires[1].fire();
        });
        block_on(signals[0].wait()).unwrap();
        block_on(signals[1].wait()).unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn state_word_has_one_pusher() {
    // Of all who wake and abort an idle task at once one is told to push.
    use crate::state::{Next, State, HANDLE, REF};
    model(3, || {
        let state = Arc::new(State::new(HANDLE | REF));
        let pushers = Arc::new(Atomic::new(0));
        let threads = [false, true].map(|abort| {
            let (state, pushers) = (state.clone(), pushers.clone());
            thread::spawn(move || {
                let next = if abort { state.abort() } else { state.wake() };
                if next == Next::Push {
                    pushers.fetch_add(1, Full);
                }
            })
        });
        let main = state.wake() == Next::Push;
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(
            pushers.fetch_add(usize::from(main), Full) + usize::from(main),
            1
        );
        // The abort is not lost, whoever pushed.
        assert_eq!(state.begin(), Next::Cancel);
    });
}
