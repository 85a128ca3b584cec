// SPDX-License-Identifier: GPL-2.0

//! Models of what passes values and news between tasks: one-shots, channels, notifications, sets of
//! tasks, the mutex.
//!
//! A lost wake-up shows as a deadlock, which loom reports. What one side publishes for the other is
//! a relaxed store, so that only the primitive itself orders it.

use crate::harness::*;
use crate::sys::{self, rt::thread, Atomic, Relaxed};
use crate::{
    block_on, channel, join_all, oneshot, Closed, JoinSet, Mutex, Notify, Semaphore, TryError,
};
use core::future::Future;
use core::pin::Pin;
use core::task::{Poll, Waker};
use std::sync::Arc;

/// Queues `future`, which has to wait.
#[track_caller]
fn queued<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    assert!(poll_once(future.as_mut()).is_pending());
    future
}

// Oneshot.

#[test]
fn oneshot_send_against_drop_of_the_receiver() {
    model(3, || {
        let probes = Probes::new();
        let (tx, mut rx) = oneshot().unwrap();
        let count = Count::new();
        let waker = Waker::from(count.clone());
        assert!(poll_with(Pin::new(&mut rx), &waker).is_pending());
        let value = probes.probe();
        let thread = thread::spawn(move || drop(tx.send(value)));
        drop(rx);
        thread.join().unwrap();
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1, "a waker was left");
        probes.check(1);
    });
}

#[test]
fn oneshot_send_in_an_interrupt_against_drop_of_the_receiver() {
    model(3, || {
        // No destructor may be needed here: the value goes with the last of both.
        let (tx, rx) = oneshot().unwrap();
        let thread = thread::spawn(move || sys::interrupt(|| tx.send(7)));
        drop(rx);
        if let Err(value) = thread.join().unwrap() {
            assert_eq!(value, 7);
        }
    });
}

#[test]
fn oneshot_send_against_poll() {
    model(3, || {
        let (tx, rx) = oneshot().unwrap();
        let data = Arc::new(Atomic::new(0));
        let writes = data.clone();
        let thread = thread::spawn(move || {
            writes.store(1, Relaxed);
            sys::interrupt(|| tx.send(7)).unwrap();
        });
        assert_eq!(block_on(rx), Ok(Ok(7)));
        assert_eq!(data.load(Relaxed), 1);
        thread.join().unwrap();
    });
}

#[test]
fn oneshot_send_against_poll_with_another_waker() {
    model(3, || {
        let (tx, mut rx) = oneshot().unwrap();
        let counts = [Count::new(), Count::new()];
        let wakers = counts.clone().map(Waker::from);
        assert!(poll_with(Pin::new(&mut rx), &wakers[0]).is_pending());
        let thread = thread::spawn(move || tx.send(7).unwrap());
        let polled = poll_with(Pin::new(&mut rx), &wakers[1]);
        thread.join().unwrap();
        if polled.is_pending() {
            assert_eq!(counts[1].wakes(), 1, "the last waker counts");
            assert_eq!(poll_once(Pin::new(&mut rx)), Poll::Ready(Ok(7)));
        }
        drop((wakers, rx));
        assert!(counts.iter().all(|count| Arc::strong_count(count) == 1));
    });
}

#[test]
fn oneshot_sender_dropped_against_poll() {
    model(3, || {
        let (tx, rx) = oneshot::<u8>().unwrap();
        let thread = thread::spawn(move || sys::interrupt(|| drop(tx)));
        assert_eq!(block_on(rx), Ok(Err(Closed)));
        thread.join().unwrap();
    });
}

// Channels.

#[test]
fn channel_send_against_recv() {
    model(3, || {
        let (tx, mut rx) = channel(1).unwrap();
        let data = Arc::new(Atomic::new(0));
        let writes = data.clone();
        let thread = thread::spawn(move || {
            writes.store(1, Relaxed);
            block_on(tx.send(7)).unwrap().unwrap();
            tx
        });
        assert_eq!(block_on(rx.recv()), Ok(Some(7)));
        assert_eq!(data.load(Relaxed), 1);
        let tx = thread.join().unwrap();
        assert_eq!(rx.try_recv(), Err(TryError::Busy));
        tx.try_send(8).unwrap();
        assert_eq!(tx.try_send(9), Err((TryError::Busy, 9)));
    });
}

#[test]
fn two_channel_senders_for_one_slot_against_recv() {
    model(2, || {
        let (tx, mut rx) = channel(1).unwrap();
        let threads = [1, 2].map(|i| {
            let tx = tx.clone();
            thread::spawn(move || block_on(tx.send(i)).unwrap().unwrap())
        });
        drop(tx);
        let mut sum = 0;
        while let Some(i) = block_on(rx.recv()).unwrap() {
            sum += i;
        }
        assert_eq!(sum, 3);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn drop_of_the_last_channel_sender_against_recv() {
    model(3, || {
        let (tx, mut rx) = channel(2).unwrap();
        let thread = thread::spawn(move || {
            tx.try_send(1).unwrap();
            drop(tx);
        });
        assert_eq!(block_on(rx.recv()), Ok(Some(1)));
        assert_eq!(block_on(rx.recv()), Ok(None));
        assert_eq!(rx.try_recv(), Err(TryError::Closed));
        thread.join().unwrap();
    });
}

#[test]
fn two_channel_senders_go_at_once() {
    model(3, || {
        let (tx, mut rx) = channel::<u8>(1).unwrap();
        let other = tx.clone();
        let thread = thread::spawn(move || drop(other));
        drop(tx);
        assert_eq!(block_on(rx.recv()), Ok(None));
        thread.join().unwrap();
    });
}

#[test]
fn drop_of_the_channel_receiver_against_a_waiting_send() {
    model(3, || {
        let probes = Probes::new();
        let (tx, rx) = channel(1).unwrap();
        tx.try_send(probes.probe()).ok().unwrap();
        let value = probes.probe();
        let thread = thread::spawn(move || {
            assert_eq!(block_on(tx.send(value)), Ok(Err(Closed)));
        });
        drop(rx);
        thread.join().unwrap();
        probes.check(2);
    });
}

#[test]
fn recv_and_drop_of_the_channel_receiver_against_a_waiting_send() {
    model(2, || {
        let probes = Probes::new();
        let (tx, mut rx) = channel(1).unwrap();
        tx.try_send(probes.probe()).ok().unwrap();
        let value = probes.probe();
        // Sent for nothing or refused.
        let thread = thread::spawn(move || block_on(tx.send(value)).unwrap().is_ok());
        drop(rx.try_recv().ok().unwrap());
        drop(rx);
        thread.join().unwrap();
        probes.check(2);
    });
}

/// A value that keeps its channel alive.
struct Letter(#[allow(dead_code)] channel::Sender<Letter>);

#[test]
fn drop_of_the_channel_receiver_against_the_send_of_a_sender() {
    model(3, || {
        let (tx, rx) = channel(1).unwrap();
        let thread = thread::spawn(move || {
            let letter = Letter(tx.clone());
            drop(tx.try_send(letter));
        });
        drop(rx);
        thread.join().unwrap();
        // The ledger says whether the channel is gone.
    });
}

#[test]
fn drop_of_a_recv_against_send() {
    model(3, || {
        let (tx, mut rx) = channel(1).unwrap();
        let recv = queued(rx.recv());
        let thread = thread::spawn(move || {
            tx.try_send(7).unwrap();
            tx
        });
        drop(recv);
        assert_eq!(block_on(rx.recv()), Ok(Some(7)));
        drop(thread.join().unwrap());
        assert_eq!(rx.try_recv(), Err(TryError::Closed));
    });
}

#[test]
fn drop_of_a_waiting_send_against_recv() {
    model(3, || {
        let (tx, mut rx) = channel(1).unwrap();
        let tx = Shared::new(tx);
        let sends = tx.get();
        sends.try_send(1).unwrap();
        let send = queued(sends.send(2));
        let thread = thread::spawn(move || drop(send));
        assert_eq!(rx.try_recv(), Ok(1));
        thread.join().unwrap();
        // The space was not lost with it.
        sends.try_send(3).unwrap();
        assert_eq!(rx.try_recv(), Ok(3));
    });
}

// Notify.

#[test]
fn who_is_notified_sees_what_was_done_before() {
    model(3, || {
        let notify = Shared::new(Notify::new());
        let data = Arc::new(Atomic::new(0));
        let (notifies, writes) = (notify.get(), data.clone());
        let thread = thread::spawn(move || {
            writes.store(1, Relaxed);
            notifies.notify_one();
        });
        assert_eq!(block_on(notify.get().notified()), Ok(Ok(())));
        assert_eq!(data.load(Relaxed), 1);
        thread.join().unwrap();
    });
}

#[test]
fn the_last_of_two_notifiers_is_not_lost() {
    model(3, || {
        let notify = Shared::new(Notify::new());
        let data = [(); 2].map(|()| Arc::new(Atomic::new(0)));
        let threads = data.clone().map(|data| {
            let notify = notify.get();
            thread::spawn(move || {
                data.store(1, Relaxed);
                notify.notify_one();
            })
        });
        // Notifications that came together are one, but then both are seen.
        while data.iter().any(|data| data.load(Relaxed) == 0) {
            block_on(notify.get().notified()).unwrap().unwrap();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn two_notifiers_wake_two_who_wait() {
    model(3, || {
        let notify = Shared::new(Notify::new());
        let mut waiters = [(); 2].map(|()| queued(notify.get().notified()));
        let threads = [(); 2].map(|()| {
            let notify = notify.get();
            thread::spawn(move || notify.notify_one())
        });
        for thread in threads {
            thread.join().unwrap();
        }
        for waiter in &mut waiters {
            assert_eq!(poll_once(waiter.as_mut()), Poll::Ready(Ok(())));
        }
    });
}

#[test]
fn notify_against_drop_of_one_who_waits() {
    model(3, || {
        let notify = Shared::new(Notify::new());
        let first = queued(notify.get().notified());
        let mut second = queued(notify.get().notified());
        let thread = thread::spawn(move || drop(first));
        notify.get().notify_one();
        thread.join().unwrap();
        assert_eq!(poll_once(second.as_mut()), Poll::Ready(Ok(())));
    });
}

#[test]
fn close_against_notified() {
    model(3, || {
        let notify = Shared::new(Notify::new());
        let closes = notify.get();
        let thread = thread::spawn(move || closes.close());
        assert_eq!(block_on(notify.get().notified()), Ok(Err(Closed)));
        thread.join().unwrap();
    });
}

#[test]
fn who_finds_it_closed_sees_what_was_done_before() {
    model(3, || {
        let notify = Shared::new(Notify::new());
        let data = Arc::new(Atomic::new(0));
        let (closes, writes) = (notify.get(), data.clone());
        let thread = thread::spawn(move || {
            writes.store(1, Relaxed);
            closes.close();
        });
        assert_eq!(block_on(notify.get().notified()), Ok(Err(Closed)));
        assert_eq!(data.load(Relaxed), 1, "a last notification orders nothing");
        thread.join().unwrap();
    });
}

#[test]
fn release_against_acquire_of_a_semaphore() {
    model(3, || {
        let semaphore = Shared::new(Semaphore::new(0));
        let data = Arc::new(Atomic::new(0));
        let (releases, writes) = (semaphore.get(), data.clone());
        let thread = thread::spawn(move || {
            writes.store(1, Relaxed);
            releases.release(1);
        });
        block_on(semaphore.get().acquire(1))
            .unwrap()
            .unwrap()
            .forget();
        assert_eq!(data.load(Relaxed), 1);
        thread.join().unwrap();
        assert_eq!(semaphore.get().available(), 0);
    });
}

// JoinSet.

#[test]
fn a_task_finishes_against_next() {
    model(2, || {
        let host = Host::new();
        let worker = host.worker();
        let mut set = JoinSet::new(host.scope(), 1).unwrap();
        let data = Arc::new(Atomic::new(0));
        let writes = data.clone();
        set.try_spawn(async move {
            writes.store(1, Relaxed);
            7
        })
        .unwrap();
        assert_eq!(block_on(set.next()), Ok(Some(Ok(7))));
        assert_eq!(data.load(Relaxed), 1);
        assert!(set.is_empty());
        drop(set);
        worker.stop();
    });
}

#[test]
fn a_task_finishes_against_drop_of_next() {
    model(2, || {
        let host = Host::new();
        let mut set = JoinSet::new(host.scope(), 1).unwrap();
        set.try_spawn(async { 7 }).unwrap();
        let next = queued(set.next());
        let worker = host.worker();
        drop(next);
        assert_eq!(block_on(set.next()), Ok(Some(Ok(7))));
        drop(set);
        worker.stop();
    });
}

#[test]
fn a_task_finishes_against_a_spawn_that_waits_for_it() {
    model(2, || {
        let host = Host::new();
        let mut set = JoinSet::new(host.scope(), 1).unwrap();
        set.try_spawn(async { 1 }).unwrap();
        let worker = host.worker();
        // The second task may be over before the first one's output was taken.
        assert_eq!(block_on(set.spawn(async { 2 })), Ok(Ok(Some(Ok(1)))));
        assert_eq!(block_on(set.next()), Ok(Some(Ok(2))));
        drop(set);
        worker.stop();
    });
}

#[test]
fn a_task_finishes_against_drop_of_the_set() {
    model(2, || {
        let host = Host::new();
        let probes = Probes::new();
        let mut set = JoinSet::new(host.scope(), 1).unwrap();
        let probe = probes.probe();
        set.try_spawn(async move { probe }).unwrap();
        let worker = host.worker();
        drop(set);
        probes.check(1);
        worker.stop();
    });
}

// Mutex.

#[test]
fn two_holders_of_a_mutex_exclude_each_other() {
    model(3, || {
        let shared = Shared::new(Mutex::new(0));
        let mutex = shared.get();
        let thread = thread::spawn(move || *block_on(mutex.lock()).unwrap().unwrap() += 1);
        *block_on(mutex.lock()).unwrap().unwrap() += 1;
        thread.join().unwrap();
        assert_eq!(*mutex.try_lock().unwrap(), 2);
    });
}

#[test]
fn try_lock_of_a_mutex_excludes_and_publishes() {
    model(3, || {
        let shared = Shared::new(Mutex::new(0));
        let mutex = shared.get();
        let thread = thread::spawn(move || match mutex.try_lock() {
            Ok(mut guard) => {
                *guard += 1;
                1
            }
            Err(_) => 0,
        });
        *block_on(mutex.lock()).unwrap().unwrap() += 1;
        let sum = 1 + thread.join().unwrap();
        assert_eq!(*mutex.try_lock().unwrap(), sum);
    });
}

#[test]
fn unlock_of_a_mutex_against_drop_of_one_who_waits() {
    model(3, || {
        let shared = Shared::new(Mutex::new(0));
        let mutex = shared.get();
        let guard = mutex.try_lock().unwrap();
        let waits = queued(mutex.lock());
        let dropper = thread::spawn(move || drop(waits));
        drop(guard);
        *block_on(mutex.lock()).unwrap().unwrap() += 1;
        dropper.join().unwrap();
        assert_eq!(*mutex.try_lock().unwrap(), 1);
    });
}

// Many members in one task.

#[test]
fn two_members_are_woken_at_once() {
    model(2, || {
        let signals = [Signal::new(), Signal::new()];
        let threads = signals
            .clone()
            .map(|signal| thread::spawn(move || signal.fire()));
        let all = join_all(signals.iter().map(|signal| signal.wait())).unwrap();
        assert_eq!(block_on(all).unwrap().map(|outputs| outputs.len()), Ok(2));
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_member_is_woken_against_a_poll_with_another_waker() {
    model(3, || {
        let signal = Signal::new();
        let fires = signal.clone();
        let mut all = Box::pin(join_all([signal.wait()]).unwrap());
        let counts = [Count::new(), Count::new()];
        let poll = |all: &mut Pin<Box<_>>, count: &Arc<Count>| {
            let waker = Waker::from(count.clone());
            poll_with(Pin::as_mut(all), &waker).is_ready()
        };
        assert!(!poll(&mut all, &counts[0]));
        let thread = thread::spawn(move || fires.fire());
        let ready = poll(&mut all, &counts[1]);
        thread.join().unwrap();
        // Whoever polled last is woken, unless it had the output.
        assert!(ready || counts[1].wakes() > 0);
        assert!(ready || poll(&mut all, &counts[1]));
        drop(all);
        assert!(
            counts.iter().all(|count| Arc::strong_count(count) == 1),
            "a waker was left"
        );
    });
}

#[test]
fn a_member_is_woken_against_the_drop_of_all() {
    model(3, || {
        let (wakers, count) = (Wakers::new(), Count::new());
        let leave = wakers.clone();
        let mut all = Box::pin(
            join_all([core::future::poll_fn(move |cx| {
                leave.leave(cx, 1);
                Poll::<()>::Pending
            })])
            .unwrap(),
        );
        assert!(poll_with(all.as_mut(), &Waker::from(count.clone())).is_pending());
        let waker = wakers.take();
        let thread = thread::spawn(move || sys::interrupt(|| waker.wake()));
        drop(all);
        thread.join().unwrap();
        assert_eq!(Arc::strong_count(&count), 1, "a waker was left");
    });
}
