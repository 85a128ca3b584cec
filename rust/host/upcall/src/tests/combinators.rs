// SPDX-License-Identifier: GPL-2.0

//! Contracts of what tasks are put together with: channels, locks, sets of tasks, joins, races,
//! chains and time. One thread; the interleavings are in `sync_models`.

use crate::harness::*;
use crate::sys;
use crate::{
    block_on, channel, interval, join, join_all, join_set::JoinSet, oneshot, pinned, race, run,
    select, sleep, sleep_until, timeout, try_join, try_join_all, yield_now, AcquireError, Budget,
    Cancelled, Closed, Either, Elapsed, Instant, Mutex, Notify, Semaphore, TryError,
};
use core::future::{pending, ready, Future};
use core::pin::{pin, Pin};
use core::task::{Poll, Waker};
use core::time::Duration;
use std::sync::Arc;

const MS: Duration = Duration::from_millis(1);

/// The output of a future that is ready at its next poll.
#[track_caller]
fn now<F: Future>(future: F) -> F::Output {
    match poll_once(pin!(future).as_mut()) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("not ready"),
    }
}

/// A future that was polled once, and has to wait.
#[track_caller]
fn queued<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    assert!(poll_once(future.as_mut()).is_pending());
    future
}

/// Never ready; holds `probe` from the beginning.
fn never(probe: Probe) -> impl Future<Output = ()> {
    async move {
        let _probe = probe;
        pending().await
    }
}

// Channels.

#[test]
fn a_channel_gives_values_in_the_order_of_sending() {
    session(|| {
        let (tx, mut rx) = channel(3).unwrap();
        // More than once around the ring.
        for round in 0..5 {
            for i in 0..3 {
                now(tx.send(3 * round + i)).unwrap();
            }
            for i in 0..3 {
                assert_eq!(now(rx.recv()), Some(3 * round + i));
            }
        }
        now(tx.send(15)).unwrap();
        now(tx.send(16)).unwrap();
        assert_eq!(now(rx.recv()), Some(15));
        now(tx.send(17)).unwrap();
        now(tx.send(18)).unwrap();
        assert_eq!([(); 3].map(|()| now(rx.recv()).unwrap()), [16, 17, 18]);
    });
}

#[test]
fn a_channel_holds_its_capacity_and_at_least_one() {
    session(|| {
        for (capacity, room) in [(0, 1), (1, 1), (2, 2), (7, 7)] {
            let (tx, mut rx) = channel(capacity).unwrap();
            for i in 0..room {
                tx.try_send(i).unwrap();
            }
            assert_eq!(tx.try_send(99), Err((TryError::Busy, 99)));
            assert_eq!(rx.try_recv(), Ok(0));
            tx.try_send(room).unwrap();
            assert_eq!(tx.try_send(99), Err((TryError::Busy, 99)));
        }
    });
}

#[test]
fn senders_that_wait_for_space_are_served_in_order_and_nobody_gets_past_them() {
    session(|| {
        let (tx, mut rx) = channel(1).unwrap();
        tx.try_send(0).unwrap();
        let other = tx.clone();
        let mut first = queued(tx.send(1));
        let mut second = queued(other.send(2));
        assert_eq!(rx.try_recv(), Ok(0));
        // The slot is the first waiter's, though it does not know.
        assert_eq!(tx.try_send(9), Err((TryError::Busy, 9)));
        assert!(poll_once(second.as_mut()).is_pending());
        assert_eq!(poll_once(first.as_mut()), Poll::Ready(Ok(())));
        assert_eq!(rx.try_recv(), Ok(1));
        assert_eq!(poll_once(second.as_mut()), Poll::Ready(Ok(())));
        assert_eq!(rx.try_recv(), Ok(2));
    });
}

#[test]
fn try_recv_says_empty_and_then_that_it_is_over() {
    session(|| {
        let (tx, mut rx) = channel(2).unwrap();
        assert_eq!(rx.try_recv(), Err(TryError::Busy));
        let other = tx.clone();
        other.try_send(1).unwrap();
        drop(tx);
        assert_eq!(rx.try_recv(), Ok(1));
        assert_eq!(rx.try_recv(), Err(TryError::Busy));
        drop(other);
        for _ in 0..3 {
            assert_eq!(rx.try_recv(), Err(TryError::Closed));
        }
    });
}

#[test]
fn a_channel_ends_when_the_last_sender_goes_after_what_was_sent() {
    session(|| {
        let (tx, mut rx) = channel(2).unwrap();
        let other = tx.clone();
        now(other.send(1)).unwrap();
        now(tx.send(2)).unwrap();
        drop(tx);
        drop(other);
        assert_eq!(now(rx.recv()), Some(1));
        assert_eq!(now(rx.recv()), Some(2));
        for _ in 0..3 {
            assert_eq!(now(rx.recv()), None);
        }
    });
}

#[test]
fn the_last_sender_that_goes_wakes_the_receiver() {
    session(|| {
        let (tx, mut rx) = channel::<u8>(1).unwrap();
        let count = Count::new();
        let mut recv = Box::pin(rx.recv());
        assert!(poll_with(recv.as_mut(), &Waker::from(count.clone())).is_pending());
        let other = tx.clone();
        drop(tx);
        assert_eq!(count.wakes(), 0);
        drop(other);
        assert_eq!(count.wakes(), 1);
        assert_eq!(poll_once(recv.as_mut()), Poll::Ready(None));
    });
}

#[test]
fn senders_find_the_channel_closed_when_the_receiver_goes() {
    session(|| {
        let probes = Probes::new();
        let (tx, rx) = channel(1).unwrap();
        tx.try_send(probes.probe()).ok().unwrap();
        let mut waits = queued(tx.send(probes.probe()));
        drop(rx);
        assert_eq!(probes.dropped(), 1, "what was not received is dropped");
        assert_eq!(poll_once(waits.as_mut()), Poll::Ready(Err(Closed)));
        assert_eq!(now(tx.send(probes.probe())), Err(Closed));
        let (error, value) = tx.try_send(probes.probe()).err().unwrap();
        assert_eq!(error, TryError::Closed);
        assert_eq!(probes.dropped(), 3, "`try_send` gives the value back");
        drop((value, waits));
        probes.check(4);
    });
}

#[test]
fn a_dropped_recv_loses_no_value() {
    session(|| {
        let (tx, mut rx) = channel(2).unwrap();
        let recv = queued(rx.recv());
        now(tx.send(1)).unwrap();
        // It was given the value's permit.
        drop(recv);
        assert_eq!(now(rx.recv()), Some(1));
        let recv = queued(rx.recv());
        drop(tx);
        drop(recv);
        assert_eq!(now(rx.recv()), None);
    });
}

#[test]
fn a_dropped_send_sends_nothing_and_keeps_no_space() {
    session(|| {
        let probes = Probes::new();
        let (tx, mut rx) = channel(1).unwrap();
        tx.try_send(probes.probe()).ok().unwrap();
        let waits = queued(tx.send(probes.probe()));
        let granted = queued(tx.send(probes.probe()));
        drop(waits);
        drop(rx.try_recv().ok().unwrap());
        // It has the space, and does not know.
        drop(granted);
        assert_eq!(rx.try_recv().err(), Some(TryError::Busy));
        tx.try_send(probes.probe()).ok().unwrap();
        drop((tx, rx));
        probes.check(4);
    });
}

#[test]
fn values_left_over_are_dropped_once() {
    session(|| {
        let probes = Probes::new();
        for receiver_first in [true, false] {
            let (tx, rx) = channel(4).unwrap();
            for _ in 0..3 {
                tx.try_send(probes.probe()).ok().unwrap();
            }
            if receiver_first {
                drop(rx);
                drop(tx);
            } else {
                drop(tx);
                drop(rx);
            }
        }
        probes.check(6);
    });
}

#[test]
fn a_value_that_holds_a_sender_keeps_no_channel_alive() {
    struct Letter(#[allow(dead_code)] channel::Sender<Letter>);
    session(|| {
        let (tx, rx) = channel(1).unwrap();
        tx.try_send(Letter(tx.clone())).ok().unwrap();
        drop(tx);
        drop(rx);
    });
}

#[test]
fn a_channel_without_memory_fails_and_leaves_nothing() {
    session(|| {
        for after in 0..4 {
            sys::fail_after(after);
            assert_eq!(channel::<u8>(3).err(), Some(sys::ENOMEM));
            assert!(!sys::cancel_failure());
        }
        sys::fail_after(4);
        assert!(channel::<u8>(3).is_ok());
        assert!(sys::cancel_failure());
    });
}

#[test]
fn a_channel_joins_two_tasks() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let (tx, mut rx) = channel(2).unwrap();
        drop(scope.spawn(async move {
            for i in 0..100 {
                tx.send(i).await.unwrap();
            }
        }));
        let handle = scope
            .spawn(async move {
                let mut sum = 0;
                while let Some(i) = rx.recv().await {
                    sum += i;
                }
                sum
            })
            .unwrap();
        host.pump();
        assert_eq!(now(handle), Ok(4950));
    });
}

// Oneshot.

#[test]
fn a_oneshot_gives_its_value() {
    session(|| {
        let (tx, rx) = oneshot().unwrap();
        assert!(!tx.is_closed());
        tx.send(7).unwrap();
        assert_eq!(now(rx), Ok(7));

        let (tx, mut rx) = oneshot().unwrap();
        let count = Count::new();
        assert!(poll_with(Pin::new(&mut rx), &Waker::from(count.clone())).is_pending());
        tx.send(8).unwrap();
        assert_eq!(count.wakes(), 1);
        assert_eq!(poll_once(Pin::new(&mut rx)), Poll::Ready(Ok(8)));
        // Given out once.
        assert_eq!(poll_once(Pin::new(&mut rx)), Poll::Pending);
        assert_eq!(sys::take_warnings().len(), 1);
    });
}

#[test]
fn a_oneshot_whose_sender_goes_unsent_is_closed() {
    session(|| {
        let (tx, mut rx) = oneshot::<u8>().unwrap();
        let count = Count::new();
        assert!(poll_with(Pin::new(&mut rx), &Waker::from(count.clone())).is_pending());
        drop(tx);
        assert_eq!(count.wakes(), 1);
        assert_eq!(poll_once(Pin::new(&mut rx)), Poll::Ready(Err(Closed)));
    });
}

#[test]
fn sending_to_a_receiver_that_is_gone_gives_the_value_back() {
    session(|| {
        let probes = Probes::new();
        let (tx, rx) = oneshot().unwrap();
        drop(queued(rx));
        assert!(tx.is_closed());
        let value = tx.send(probes.probe()).err().unwrap();
        assert_eq!(probes.dropped(), 0);
        drop(value);
        probes.check(1);
    });
}

#[test]
fn a_value_sent_and_not_received_goes_with_the_receiver() {
    session(|| {
        let probes = Probes::new();
        let (tx, mut rx) = oneshot().unwrap();
        assert!(poll_once(Pin::new(&mut rx)).is_pending());
        tx.send(probes.probe()).ok().unwrap();
        assert_eq!(probes.dropped(), 0);
        drop(rx);
        probes.check(1);
    });
}

#[test]
fn a_oneshot_is_sent_from_interrupt_context() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let (tx, rx) = oneshot().unwrap();
        let (unsent, closed) = oneshot::<u8>().unwrap();
        let value = probes.probe();
        let handle = scope
            .spawn(async move { (rx.await.is_ok(), closed.await) })
            .unwrap();
        host.pump();
        sys::interrupt(|| {
            tx.send(value).ok().unwrap();
            drop(unsent);
        });
        host.pump();
        assert_eq!(now(handle), Ok((true, Err(Closed))));
        probes.check(1);
    });
}

#[test]
fn a_oneshot_without_memory_fails() {
    session(|| {
        sys::fail_after(0);
        assert_eq!(oneshot::<u8>().err(), Some(sys::ENOMEM));
    });
}

// Notify.

#[test]
fn a_notification_is_stored_once() {
    session(|| {
        let notify = Notify::default();
        for _ in 0..3 {
            notify.notify_one();
        }
        assert_eq!(now(notify.notified()), Ok(()));
        drop(queued(notify.notified()));
    });
}

#[test]
fn notifications_go_to_waiters_in_order_one_each() {
    session(|| {
        let notify = Notify::new();
        let mut first = queued(notify.notified());
        let mut second = queued(notify.notified());
        notify.notify_one();
        assert!(poll_once(second.as_mut()).is_pending());
        assert_eq!(poll_once(first.as_mut()), Poll::Ready(Ok(())));
        let mut third = queued(notify.notified());
        notify.notify_one();
        notify.notify_one();
        assert_eq!(poll_once(second.as_mut()), Poll::Ready(Ok(())));
        assert_eq!(poll_once(third.as_mut()), Poll::Ready(Ok(())));
        drop(queued(notify.notified()));
    });
}

#[test]
fn a_notification_of_a_dropped_waiter_goes_to_the_next() {
    session(|| {
        let notify = Notify::new();
        let first = queued(notify.notified());
        let mut second = queued(notify.notified());
        notify.notify_one();
        drop(first);
        assert_eq!(poll_once(second.as_mut()), Poll::Ready(Ok(())));
        let waits = queued(notify.notified());
        notify.notify_one();
        drop(waits);
        assert_eq!(now(notify.notified()), Ok(()));
    });
}

#[test]
fn a_notification_given_back_beside_a_stored_one_is_one() {
    session(|| {
        let notify = Notify::new();
        let waits = queued(notify.notified());
        notify.notify_one();
        // Nobody waits for this one.
        notify.notify_one();
        drop(waits);
        assert_eq!(now(notify.notified()), Ok(()));
        drop(queued(notify.notified()));
    });
}

#[test]
fn a_closed_notify_wakes_all_and_lets_nobody_wait() {
    session(|| {
        let notify = Notify::new();
        // More than one batch of wakers.
        let count = Count::new();
        let waker = Waker::from(count.clone());
        let mut waiters: Vec<_> = (0..40).map(|_| Box::pin(notify.notified())).collect();
        for waiter in &mut waiters {
            assert!(poll_with(waiter.as_mut(), &waker).is_pending());
        }
        notify.close();
        assert_eq!(count.wakes(), 40);
        for waiter in &mut waiters {
            assert_eq!(poll_once(waiter.as_mut()), Poll::Ready(Err(Closed)));
        }
        notify.notify_one();
        assert_eq!(now(notify.notified()), Err(Closed));
    });
}

// Locks.

#[test]
fn a_mutex_has_one_holder_and_serves_in_order() {
    session(|| {
        let mutex = Mutex::new(0);
        let mut guard = now(mutex.lock()).unwrap();
        assert_eq!(mutex.try_lock().err(), Some(TryError::Busy));
        let mut first = queued(mutex.lock());
        let mut second = queued(mutex.lock());
        *guard = 1;
        drop(guard);
        assert_eq!(mutex.try_lock().err(), Some(TryError::Busy));
        assert!(poll_once(second.as_mut()).is_pending());
        let Poll::Ready(Ok(mut guard)) = poll_once(first.as_mut()) else {
            panic!("the lock was not handed over");
        };
        assert_eq!(core::mem::replace(&mut *guard, 2), 1);
        drop(guard);
        drop((first, second));
        assert_eq!(*mutex.lock_blocking().unwrap(), 2);
        assert_eq!(mutex.into_inner(), 2);
    });
}

#[test]
fn a_closed_mutex_is_refused_to_all_but_its_holder() {
    session(|| {
        let mutex = Mutex::new(0);
        let mut guard = mutex.try_lock().unwrap();
        let mut waits = queued(mutex.lock());
        mutex.close();
        assert!(matches!(
            poll_once(waits.as_mut()),
            Poll::Ready(Err(Closed))
        ));
        *guard += 1;
        drop(guard);
        assert_eq!(mutex.try_lock().err(), Some(TryError::Closed));
        assert_eq!(now(mutex.lock()).err(), Some(Closed));
        assert_eq!(mutex.lock_blocking().err(), Some(sys::ESHUTDOWN));
        drop(waits);
        assert_eq!(mutex.into_inner(), 1);
    });
}

#[test]
fn a_mutex_drops_its_value_once() {
    session(|| {
        let probes = Probes::new();
        drop(Mutex::new(probes.probe()));
        drop(Mutex::new(probes.probe()).into_inner());
        probes.check(2);
    });
}

#[test]
fn a_semaphore_counts_its_permits() {
    session(|| {
        let semaphore = Semaphore::new(3);
        let two = semaphore.try_acquire(2).unwrap();
        assert_eq!(semaphore.available(), 1);
        assert_eq!(semaphore.try_acquire(2).err(), Some(TryError::Busy));
        let one = now(semaphore.acquire(1)).unwrap();
        assert_eq!(semaphore.available(), 0);
        drop(semaphore.try_acquire(0).unwrap());
        drop((one, two));
        assert_eq!(semaphore.available(), 3);
        semaphore.release(2);
        drop(semaphore.try_acquire(5).unwrap());
    });
}

#[test]
fn one_who_wants_many_waits_for_all_and_nobody_gets_past() {
    session(|| {
        let semaphore = Semaphore::new(3);
        let one = semaphore.try_acquire(1).unwrap();
        let mut all = queued(semaphore.acquire(3));
        let mut few = queued(semaphore.acquire(1));
        assert_eq!(semaphore.available(), 2);
        drop(one);
        assert!(poll_once(few.as_mut()).is_pending());
        let Poll::Ready(Ok(permits)) = poll_once(all.as_mut()) else {
            panic!("no permits");
        };
        drop(permits);
        assert!(poll_once(few.as_mut()).is_ready());
        assert_eq!(semaphore.available(), 3);
    });
}

#[test]
fn a_dropped_first_waiter_lets_those_behind_be_looked_at() {
    session(|| {
        let semaphore = Semaphore::new(1);
        let many = queued(semaphore.acquire(2));
        let count = Count::new();
        let mut few = Box::pin(semaphore.acquire(1));
        assert!(poll_with(few.as_mut(), &Waker::from(count.clone())).is_pending());
        drop(many);
        assert_eq!(count.wakes(), 1);
        assert!(poll_once(few.as_mut()).is_ready());
        assert_eq!(semaphore.available(), 1);
    });
}

#[test]
fn a_closed_semaphore_gives_no_permits() {
    session(|| {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.try_acquire(1).unwrap();
        let mut waits = queued(semaphore.acquire(1));
        let dropped = queued(semaphore.acquire(1));
        assert!(!semaphore.is_closed());
        semaphore.close();
        semaphore.close();
        assert!(semaphore.is_closed());
        assert!(matches!(
            poll_once(waits.as_mut()),
            Poll::Ready(Err(AcquireError::Closed))
        ));
        drop(dropped);
        drop(permit);
        assert_eq!(semaphore.available(), 1);
        assert_eq!(semaphore.try_acquire(1).err(), Some(TryError::Closed));
        assert_eq!(now(semaphore.acquire(1)).err(), Some(AcquireError::Closed));
    });
}

#[test]
fn permits_handed_over_before_the_close_are_kept() {
    session(|| {
        let semaphore = Semaphore::new(0);
        let mut waits = queued(semaphore.acquire(1));
        semaphore.release(1);
        semaphore.close();
        assert!(matches!(poll_once(waits.as_mut()), Poll::Ready(Ok(_))));
        assert_eq!(semaphore.available(), 1);
    });
}

#[test]
fn forgotten_permits_stay_out() {
    session(|| {
        let semaphore = Semaphore::new(2);
        semaphore.try_acquire(2).unwrap().forget();
        assert_eq!(semaphore.available(), 0);
        let mut waits = queued(semaphore.acquire(1));
        semaphore.release(1);
        assert!(poll_once(waits.as_mut()).is_ready());
        assert_eq!(semaphore.available(), 1);
    });
}

#[test]
fn contended_counts_those_who_had_to_wait() {
    session(|| {
        let semaphore = Semaphore::new(1);
        drop(now(semaphore.acquire(1)));
        assert_eq!(semaphore.contended(), 0);
        let permit = semaphore.try_acquire(1).unwrap();
        assert!(semaphore.try_acquire(1).is_err());
        let mut first = queued(semaphore.acquire(1));
        assert!(poll_once(first.as_mut()).is_pending());
        drop(queued(semaphore.acquire(1)));
        assert_eq!(semaphore.contended(), 2);
        drop((permit, first));
        assert_eq!(semaphore.contended(), 2);
    });
}

#[test]
fn more_waiters_than_a_batch_of_wakers_are_all_woken() {
    session(|| {
        for count in [15, 16, 17, 32, 33] {
            let semaphore = Semaphore::new(0);
            let woken = Count::new();
            let waker = Waker::from(woken.clone());
            let mut waiters: Vec<_> = (0..count).map(|_| Box::pin(semaphore.acquire(1))).collect();
            for waiter in &mut waiters {
                assert!(poll_with(waiter.as_mut(), &waker).is_pending());
            }
            semaphore.release(count);
            assert_eq!(woken.wakes(), count);
            drop(waiters);
            assert_eq!(semaphore.available(), count);
        }
    });
}

#[test]
fn errors_have_numbers() {
    assert_eq!(sys::Error::from(Closed), sys::ESHUTDOWN);
    assert_eq!(sys::Error::from(TryError::Busy), sys::EAGAIN);
    assert_eq!(sys::Error::from(TryError::Closed), sys::ESHUTDOWN);
    assert_eq!(sys::Error::from(Elapsed), sys::ETIMEDOUT);
    assert_eq!(sys::Error::from(Cancelled), sys::ECANCELED);
}

// JoinSet.

fn set<T: Send>(host: &Host, limit: usize) -> JoinSet<T> {
    JoinSet::new(host.scope(), limit).unwrap()
}

#[test]
fn a_scope_of_another_executor_dropped_in_an_upcall_is_not_waited_for() {
    session(|| {
        let (a, b) = (Host::new(), Host::new());
        let (outer, inner) = (a.scope(), b.scope());
        let probes = Probes::new();
        let never = |leave| Never {
            wakers: Wakers::new(),
            leave,
            _probe: probes.probe(),
        };
        // One that waits, one that was not polled yet, and a request
        let waits = inner.spawn(never(0)).unwrap();
        b.pump();
        let ready = inner.spawn(never(0)).unwrap();
        let request = inner.spawner().enter().unwrap();
        let task = outer
            .spawn(async move {
                yield_now().await;
                drop(inner);
            })
            .unwrap();
        a.pump();
        assert!(task.is_finished() && waits.is_finished() && ready.is_finished());
        probes.check(2);
        // The outer scope ends after the request.
        let mut joined = Box::pin(outer.join());
        assert!(poll_once(joined.as_mut()).is_pending());
        drop(request);
        assert!(poll_once(joined.as_mut()).is_ready());
        b.pump();
    });
}

/// Drops `value` on the worker, and this thread is the worker.
fn drop_on_worker<T: Send + 'static>(host: &Host, value: T) {
    let scope = host.scope();
    drop(scope.spawn(async move { drop(value) }));
    host.pump();
}

#[test]
fn a_set_gives_outputs_in_the_order_of_finishing() {
    session(|| {
        let host = Host::new();
        let mut set = set(&host, 3);
        let signals = [(); 3].map(|()| Signal::new());
        for (i, signal) in signals.iter().enumerate() {
            let wait = signal.wait();
            set.try_spawn(async move {
                wait.await;
                i
            })
            .unwrap();
        }
        host.pump();
        assert_eq!(set.try_next(), Err(TryError::Busy));
        let mut next = Box::pin(set.next());
        assert!(poll_once(next.as_mut()).is_pending());
        for i in [2, 0, 1] {
            signals[i].fire();
            host.pump();
        }
        assert_eq!(poll_once(next.as_mut()), Poll::Ready(Some(Ok(2))));
        drop(next);
        assert_eq!(set.len(), 2);
        assert_eq!(set.try_next(), Ok(Ok(0)));
        assert_eq!(now(set.next()), Some(Ok(1)));
        assert!(set.is_empty());
        assert_eq!(now(set.next()), None);
        assert_eq!(set.try_next(), Err(TryError::Busy));
    });
}

#[test]
fn a_set_has_no_more_tasks_than_its_limit() {
    session(|| {
        let host = Host::new();
        for limit in [0, 1, 2, 5] {
            let mut set = set(&host, limit);
            let room = limit.max(1);
            for i in 0..room {
                assert_eq!(now(set.spawn(async move { i })), Ok(None));
            }
            assert_eq!(set.try_spawn(async { 99 }), Err(sys::EAGAIN));
            {
                let mut spawn = queued(set.spawn(async move { room }));
                host.pump();
                // The output that made room.
                assert_eq!(poll_once(spawn.as_mut()), Poll::Ready(Ok(Some(Ok(0)))));
            }
            assert_eq!(set.len(), room);
            // Finished tasks whose output was not taken count.
            host.pump();
            assert_eq!(set.try_spawn(async { 99 }), Err(sys::EAGAIN));
            for i in 1..=room {
                assert_eq!(now(set.next()), Some(Ok(i)));
            }
            assert!(set.is_empty());
        }
    });
}

#[test]
fn a_spawn_dropped_while_it_waits_spawns_nothing_and_takes_no_output() {
    session(|| {
        let host = Host::new();
        let probes = Probes::new();
        let mut set = set(&host, 1);
        set.try_spawn(async { 1 }).unwrap();
        let probe = probes.probe();
        let spawn = queued(set.spawn(async move {
            drop(probe);
            2
        }));
        host.pump();
        // It was given the permit.
        drop(spawn);
        probes.check(1);
        assert_eq!(set.len(), 1);
        assert_eq!(now(set.next()), Some(Ok(1)));
    });
}

#[test]
fn a_dropped_next_loses_no_output() {
    session(|| {
        let host = Host::new();
        let mut set = set(&host, 1);
        set.try_spawn(async { 1 }).unwrap();
        let next = queued(set.next());
        host.pump();
        drop(next);
        assert_eq!(set.len(), 1);
        assert_eq!(now(set.next()), Some(Ok(1)));
    });
}

#[test]
fn a_set_without_memory_for_a_task_loses_neither_output_nor_count() {
    session(|| {
        let host = Host::new();
        let probes = Probes::new();
        let mut set = set(&host, 2);
        let fails = |probe: Probe| async move {
            drop(probe);
            99
        };
        // With room.
        sys::fail_after(0);
        assert_eq!(set.try_spawn(fails(probes.probe())), Err(sys::ENOMEM));
        sys::fail_after(0);
        assert_eq!(now(set.spawn(fails(probes.probe()))), Err(sys::ENOMEM));
        assert!(set.is_empty());
        assert_eq!(set.try_next(), Err(TryError::Busy));
        assert_eq!(now(set.next()), None);
        // Full, with outputs.
        for i in 0..2 {
            set.try_spawn(async move { i }).unwrap();
        }
        host.pump();
        for _ in 0..3 {
            sys::fail_after(0);
            assert_eq!(now(set.spawn(fails(probes.probe()))), Err(sys::ENOMEM));
            assert_eq!(set.len(), 2);
        }
        probes.check(5);
        assert_eq!(now(set.next()), Some(Ok(0)));
        assert_eq!(now(set.next()), Some(Ok(1)));
        assert_eq!(now(set.next()), None);
        assert_eq!(set.try_next(), Err(TryError::Busy));
    });
}

#[test]
fn a_set_without_memory_is_not_made_and_its_scope_is_dropped() {
    session(|| {
        let host = Host::new();
        for after in 0..3 {
            let scope = host.scope();
            sys::fail_after(after);
            assert_eq!(JoinSet::<u8>::new(scope, 2).err(), Some(sys::ENOMEM));
        }
    });
}

#[test]
fn a_dropped_set_cancels_its_tasks_and_drops_its_outputs() {
    session(|| {
        let host = Host::new();
        let probes = Probes::new();
        let mut set = set(&host, 4);
        for _ in 0..2 {
            let probe = probes.probe();
            set.try_spawn(async move { probe }).unwrap();
            let probe = probes.probe();
            set.try_spawn(async move {
                pending::<()>().await;
                probe
            })
            .unwrap();
        }
        host.pump();
        assert_eq!(probes.dropped(), 0);
        drop_on_worker(&host, set);
        probes.check(4);
    });
}

#[test]
fn a_set_dropped_off_the_worker_waits_for_its_tasks() {
    session(|| {
        let host = Host::new();
        let probes = Probes::new();
        let worker = host.worker();
        let mut set = set(&host, 8);
        for _ in 0..8 {
            let probe = probes.probe();
            set.try_spawn(async move {
                pending::<()>().await;
                probe
            })
            .unwrap();
        }
        drop(set);
        probes.check(8);
        worker.stop();
    });
}

#[test]
fn a_set_in_a_task_runs_many_with_few_at_once() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let inner = host.scope();
        let handle = scope
            .spawn(async move {
                let mut set = JoinSet::new(inner, 4).unwrap();
                let mut sum = 0;
                for i in 0..100 {
                    let task = async move {
                        yield_now().await;
                        i
                    };
                    if let Some(output) = set.spawn(task).await.unwrap() {
                        sum += output.unwrap();
                    }
                    assert!(set.len() <= 4);
                }
                while let Some(output) = set.next().await {
                    sum += output.unwrap();
                }
                sum
            })
            .unwrap();
        host.pump();
        assert_eq!(now(handle), Ok(4950));
    });
}

// Joins.

#[test]
fn join_gives_values_of_all_types_in_order() {
    session(|| {
        let signals = [(); 2].map(|()| Signal::new());
        let mut all = Box::pin(async {
            join!(
                async {
                    signals[0].wait().await;
                    1
                },
                ready("two"),
                async {
                    signals[1].wait().await;
                    Box::new(3)
                },
            )
        });
        assert!(poll_once(all.as_mut()).is_pending());
        signals[1].fire();
        assert!(poll_once(all.as_mut()).is_pending());
        signals[0].fire();
        assert_eq!(
            poll_once(all.as_mut()),
            Poll::Ready((1, "two", Box::new(3)))
        );
        let r = ready;
        let six = now(async { join!(r(1), r(2), r(3), r(4), r(5), r(6)) });
        assert_eq!(six, (1, 2, 3, 4, 5, 6));
        assert_eq!(now(async { join!(r(1), r(2)) }), (1, 2));
    });
}

#[test]
fn a_dropped_join_drops_futures_and_outputs() {
    session(|| {
        let probes = Probes::new();
        let (done, open) = (probes.probe(), probes.probe());
        let join = queued(async { join!(ready(done), never(open)) });
        drop(join);
        probes.check(2);
    });
}

#[test]
fn a_future_of_a_join_is_dropped_when_it_is_done_and_not_polled_again() {
    session(|| {
        let probes = Probes::new();
        let probe = probes.probe();
        let mut polls = 0;
        let first = core::future::poll_fn(move |_| {
            let _ = &probe;
            polls += 1;
            assert_eq!(polls, 1);
            Poll::Ready(())
        });
        let mut join = Box::pin(async { join!(first, pending::<()>()) });
        assert!(poll_once(join.as_mut()).is_pending());
        probes.check(1);
        assert!(poll_once(join.as_mut()).is_pending());
    });
}

#[test]
fn try_join_gives_values_or_the_first_error_at_once() {
    session(|| {
        let ok = now(async { try_join!(ready(Ok::<_, u8>(1)), ready(Ok("two"))) });
        assert_eq!(ok, Ok((1, "two")));
        let probes = Probes::new();
        let (done, open) = (probes.probe(), probes.probe());
        let signal = Signal::new();
        let mut join = Box::pin(async {
            let result: Result<((), Probe, ()), u8> = try_join!(
                async {
                    never(open).await;
                    Ok(())
                },
                ready(Ok(done)),
                async {
                    signal.wait().await;
                    Err(7)
                },
            );
            // What is not done is dropped, and what is done too, before the caller goes on.
            assert_eq!(probes.dropped(), 2);
            result.err()
        });
        assert!(poll_once(join.as_mut()).is_pending());
        assert_eq!(probes.dropped(), 0);
        signal.fire();
        assert_eq!(poll_once(join.as_mut()), Poll::Ready(Some(7)));
        probes.check(2);
    });
}

#[test]
fn try_join_gives_the_first_error_in_the_order_of_polling_and_polls_no_further() {
    session(|| {
        let result = now(async {
            try_join!(ready(Err::<u8, _>(1)), async {
                panic!("polled") as Result<u8, i32>
            },)
        });
        assert_eq!(result, Err(1));
    });
}

#[test]
fn try_join_all_gives_all_values_in_order_or_the_first_error() {
    session(|| {
        let signals = [(); 3].map(|()| Signal::new());
        let start = |fails: Option<usize>, probes: &Probes| {
            let futures: Vec<_> = signals
                .iter()
                .cloned()
                .enumerate()
                .map(|(i, signal)| {
                    let probe = probes.probe();
                    async move {
                        signal.wait().await;
                        if fails == Some(i) {
                            return Err(sys::ECANCELED);
                        }
                        Ok((i, probe))
                    }
                })
                .collect();
            try_join_all(futures).unwrap()
        };
        let probes = Probes::new();
        let mut fails = Box::pin(start(Some(1), &probes));
        assert!(poll_once(fails.as_mut()).is_pending());
        signals[2].fire();
        assert!(poll_once(fails.as_mut()).is_pending());
        signals[1].fire();
        assert_eq!(
            poll_once(fails.as_mut()).map(|r| r.err()),
            Poll::Ready(Some(sys::ECANCELED))
        );
        drop(fails);
        probes.check(3);
        let probes = Probes::new();
        let mut all = Box::pin(start(None, &probes));
        assert!(poll_once(all.as_mut()).is_pending());
        signals[0].fire();
        let Poll::Ready(Ok(values)) = poll_once(all.as_mut()) else {
            panic!("not ready");
        };
        assert!(values.iter().map(|value| value.0).eq(0..3));
        drop(values);
        probes.check(3);
    });
}

#[test]
fn try_join_all_without_memory_fails_and_drops_all() {
    session(|| {
        for after in 0..4 {
            let probes = Probes::new();
            let futures: Vec<_> = (0..2)
                .map(|_| ready(Ok::<_, sys::Error>(probes.probe())))
                .collect();
            sys::fail_after(after);
            let error = match try_join_all(futures) {
                Ok(all) => now(all).err(),
                Err(error) => Some(error),
            };
            assert_eq!(error, Some(sys::ENOMEM));
            probes.check(2);
        }
    });
}

// Races.

#[test]
fn race_gives_the_first_and_the_left_of_two() {
    session(|| {
        assert_eq!(now(race(ready(1), ready("x"))), Either::Left(1));
        assert_eq!(now(race(pending::<u8>(), ready("x"))), Either::Right("x"));
        let probes = Probes::new();
        drop(queued(race(never(probes.probe()), never(probes.probe()))));
        probes.check(2);
        // A future that is lent goes on.
        let signal = Signal::new();
        let mut wait = pin!(signal.wait());
        assert_eq!(now(race(wait.as_mut(), ready(()))), Either::Right(()));
        signal.fire();
        now(wait);
    });
}

#[test]
fn select_polls_in_the_order_of_writing() {
    session(|| {
        let order = core::cell::RefCell::new(Vec::new());
        let step = |i: u8, done: bool| {
            let order = &order;
            async move {
                order.borrow_mut().push(i);
                if !done {
                    pending::<()>().await;
                }
                i
            }
        };
        let value = now(async {
            select! {
                a = step(1, false) => (1, a),
                b = step(2, false) => (2, b),
                c = step(3, true) => (3, c),
                d = step(4, true) => (4, d),
            }
        });
        assert_eq!(value, (3, 3));
        assert_eq!(
            *order.borrow(),
            [1, 2, 3],
            "polled beyond the first that is ready"
        );
        assert_eq!(
            now(async {
                select! { x = ready(1) => x }
            }),
            1
        );
    });
}

#[test]
fn select_drops_the_losers_before_the_arm() {
    session(|| {
        let probes = Probes::new();
        let (first, third) = (never(probes.probe()), never(probes.probe()));
        now(async {
            select! {
                () = first => unreachable!(),
                () = ready(()) => {
                    assert_eq!(probes.dropped(), 2);
                    yield_once().await;
                },
                () = third => unreachable!(),
            }
        });
        probes.check(2);
        let (first, second) = (never(probes.probe()), never(probes.probe()));
        drop(queued(async {
            select! {
                () = first => (),
                () = second => (),
            }
        }));
        probes.check(4);
    });
}

/// That an arm may `.await`.
async fn yield_once() {
    ready(()).await
}

#[test]
fn arms_of_select_return_break_continue_and_fail() {
    session(|| {
        async fn returns() -> u8 {
            select! {
                () = pending::<()>() => 0,
                value = ready(7) => return value,
            }
        }
        async fn fails() -> Result<u8, Closed> {
            let value = select! {
                value = ready(Err(Closed)) => value?,
                () = pending() => 1,
            };
            Ok(value)
        }
        assert_eq!(now(returns()), 7);
        assert_eq!(now(fails()), Err(Closed));
        let (tx, mut rx) = channel(8).unwrap();
        for i in 0..8 {
            tx.try_send(i).unwrap();
        }
        let stop = Signal::new();
        let sum = now(async {
            let mut sum = 0;
            loop {
                select! {
                    () = stop.wait() => break sum,
                    value = rx.recv() => match value {
                        Some(value) if value % 2 == 0 => continue,
                        Some(7) => {
                            // The arm has what the futures borrowed.
                            assert_eq!(rx.try_recv(), Err(TryError::Busy));
                            stop.fire();
                        }
                        Some(value) => sum += value,
                        None => unreachable!(),
                    },
                }
            }
        });
        assert_eq!(sum, 1 + 3 + 5);
    });
}

// Chains.

#[test]
fn a_chain_passes_values_on() {
    session(|| {
        let signal = Signal::new();
        let mut chain = Box::pin(
            run(async { Ok::<_, Closed>(1) })
                .then(|value| {
                    let signal = signal.clone();
                    async move {
                        signal.wait().await;
                        Ok(value + 1)
                    }
                })
                .then(|value| ready(Ok(format!("{value}!")))),
        );
        assert!(poll_once(chain.as_mut()).is_pending());
        signal.fire();
        assert_eq!(poll_once(chain.as_mut()), Poll::Ready(Ok("2!".to_string())));
    });
}

#[test]
fn the_first_error_ends_a_chain_and_later_steps_never_begin() {
    session(|| {
        let probes = Probes::new();
        let probe = probes.probe();
        let chain = run(async { Ok::<_, Closed>(1) })
            .then(|_| ready(Err::<u8, _>(Closed)))
            .then(move |value| {
                drop(probe);
                assert_eq!(value, 99, "a step after the error");
                ready(Ok(value))
            });
        assert_eq!(now(chain), Err(Closed));
        probes.check(1);
    });
}

#[test]
fn a_dropped_chain_drops_its_step_and_begins_no_other() {
    session(|| {
        let probes = Probes::new();
        let (first, second) = (probes.probe(), probes.probe());
        let chain = queued(
            run(async move {
                never(first).await;
                Ok::<_, Closed>(())
            })
            .then(move |()| async move {
                drop(second);
                panic!("begun") as Result<(), Closed>
            }),
        );
        drop(chain);
        probes.check(2);
    });
}

// Time.

#[test]
fn a_sleep_that_is_over_is_ready_at_once() {
    session(|| {
        now(sleep(Duration::ZERO));
        let start = Instant::now();
        sys::advance(MS);
        now(sleep_until(start));
        now(sleep_until(start + MS));
        // From the call, not from the first poll.
        let sleep = sleep(MS);
        sys::advance(MS);
        now(sleep);
        assert_eq!(sys::timers(), 0);
    });
}

#[test]
fn sleeps_fire_in_the_order_of_their_times_and_not_before() {
    session(|| {
        let counts = [Count::new(), Count::new()];
        let wakers = counts.clone().map(Waker::from);
        let mut long = Box::pin(sleep(3 * MS));
        let mut short = Box::pin(sleep(2 * MS));
        assert!(poll_with(long.as_mut(), &wakers[0]).is_pending());
        assert!(poll_with(short.as_mut(), &wakers[1]).is_pending());
        assert_eq!(sys::timers(), 2);
        sys::advance(2 * MS - Duration::from_nanos(1));
        assert!(poll_with(short.as_mut(), &wakers[1]).is_pending());
        sys::advance(Duration::from_nanos(1));
        assert_eq!((counts[0].wakes(), counts[1].wakes()), (0, 1));
        assert!(poll_with(long.as_mut(), &wakers[0]).is_pending());
        assert!(poll_with(short.as_mut(), &wakers[1]).is_ready());
        sys::advance(MS);
        assert_eq!((counts[0].wakes(), counts[1].wakes()), (1, 1));
        assert!(poll_with(long.as_mut(), &wakers[0]).is_ready());
        assert_eq!(sys::timers(), 0);
        drop((long, short, wakers));
        assert!(counts.iter().all(|count| Arc::strong_count(count) == 1));
    });
}

#[test]
fn a_sleep_polled_again_wakes_the_last_waker() {
    session(|| {
        let counts = [Count::new(), Count::new()];
        let mut sleep = Box::pin(sleep(MS));
        for count in &counts {
            assert!(poll_with(sleep.as_mut(), &Waker::from(count.clone())).is_pending());
        }
        assert_eq!(sys::timers(), 1);
        sys::advance(MS);
        assert_eq!((counts[0].wakes(), counts[1].wakes()), (0, 1));
    });
}

#[test]
fn a_dropped_sleep_cancels_its_timer() {
    session(|| {
        let count = Count::new();
        let mut sleeps = Box::pin(sleep(MS));
        assert!(poll_with(sleeps.as_mut(), &Waker::from(count.clone())).is_pending());
        assert_eq!(sys::timers(), 1);
        drop(sleeps);
        assert_eq!(sys::timers(), 0);
        assert_eq!(Arc::strong_count(&count), 1, "its waker went with it");
        sys::advance(MS);
        assert_eq!(count.wakes(), 0);
        // Never started.
        drop(sleep(MS));
        // Fired and not polled.
        let fired = queued(sleep(MS));
        sys::advance(MS);
        drop(fired);
    });
}

#[test]
fn a_task_sleeps_and_is_woken_by_the_interrupt() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let start = Instant::now();
        let handle = scope
            .spawn(async move {
                sleep(5 * MS).await;
                Instant::now().since(start)
            })
            .unwrap();
        host.pump();
        sys::advance(4 * MS);
        host.pump();
        assert!(!handle.is_finished());
        sys::advance(10 * MS);
        host.pump();
        assert_eq!(now(handle), Ok(14 * MS));
    });
}

#[test]
fn a_task_cancelled_in_its_sleep_leaves_no_timer() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        drop(scope.spawn(sleep(MS)));
        host.pump();
        assert_eq!(sys::timers(), 1);
        drop_on_worker(&host, scope);
        assert_eq!(sys::timers(), 0);
    });
}

#[test]
fn timeout_gives_the_output_or_drops_the_future() {
    session(|| {
        let probes = Probes::new();
        assert_eq!(now(timeout(MS, ready(1))), Ok(1));
        // The future goes first.
        assert_eq!(now(timeout(Duration::ZERO, ready(1))), Ok(1));
        assert_eq!(now(timeout(Duration::ZERO, pending::<()>())), Err(Elapsed));
        let mut late = queued(timeout(MS, never(probes.probe())));
        sys::advance(MS);
        assert_eq!(poll_once(late.as_mut()), Poll::Ready(Err(Elapsed)));
        assert_eq!(probes.dropped(), 1, "dropped before the caller goes on");
        let signal = Signal::new();
        let mut early = queued(timeout(2 * MS, signal.wait()));
        sys::advance(MS);
        assert!(poll_once(early.as_mut()).is_pending());
        signal.fire();
        assert_eq!(poll_once(early.as_mut()), Poll::Ready(Ok(())));
        assert_eq!(sys::timers(), 0, "the timer goes with the race");
        drop(queued(timeout(MS, never(probes.probe()))));
        assert_eq!(sys::timers(), 0);
        probes.check(2);
    });
}

#[test]
fn an_interval_ticks_at_once_and_then_every_period() {
    session(|| {
        let start = Instant::now();
        let mut ticks = interval(10 * MS);
        assert_eq!(now(ticks.tick()), start);
        for i in 1..4 {
            let mut tick = queued(ticks.tick());
            // A little late, which does not add up.
            sys::advance(10 * MS + if i == 1 { MS } else { Duration::ZERO });
            assert_eq!(poll_once(tick.as_mut()), Poll::Ready(start + i * 10 * MS));
        }
        assert_eq!(sys::timers(), 0);
    });
}

#[test]
fn a_tick_that_was_dropped_comes_again() {
    session(|| {
        let start = Instant::now();
        let mut ticks = interval(10 * MS);
        now(ticks.tick());
        drop(queued(ticks.tick()));
        assert_eq!(sys::timers(), 0);
        let fired = queued(ticks.tick());
        sys::advance(10 * MS);
        drop(fired);
        assert_eq!(now(ticks.tick()), start + 10 * MS);
    });
}

#[test]
fn missed_ticks_are_left_out() {
    session(|| {
        let start = Instant::now();
        let mut ticks = interval(10 * MS);
        now(ticks.tick());
        sys::advance(45 * MS);
        // The one that was waited for is given, late; 20, 30 and 40 are not.
        assert_eq!(now(ticks.tick()), start + 10 * MS);
        let mut tick = queued(ticks.tick());
        sys::advance(10 * MS);
        let Poll::Ready(due) = poll_once(tick.as_mut()) else {
            panic!("no tick within a period");
        };
        assert!(due > start + 45 * MS);
        assert!(due <= start + 55 * MS);
    });
}

#[test]
fn an_interval_of_no_length_does_not_stand_still() {
    session(|| {
        let start = Instant::now();
        let mut ticks = interval(Duration::ZERO);
        now(ticks.tick());
        let mut tick = queued(ticks.tick());
        sys::advance(Duration::from_micros(1));
        assert_eq!(
            poll_once(tick.as_mut()),
            Poll::Ready(start + Duration::from_micros(1))
        );
    });
}

#[test]
fn times_add_and_subtract_without_overflow() {
    session(|| {
        let start = Instant::now();
        let end = start + Duration::MAX;
        assert!(end > start + Duration::from_secs(1 << 32));
        assert_eq!(end + Duration::MAX, end);
        assert_eq!((start + MS).since(start), MS);
        assert_eq!(start.since(start + MS), Duration::ZERO);
        drop(queued(sleep(Duration::MAX)));
        assert_eq!(sys::timers(), 0);
    });
}

#[test]
fn what_ties_tasks_together_can_be_sent() {
    fn send<T: Send>(_: &T) {}
    fn sync<T: Sync>(_: &T) {}
    session(|| {
        // A value that is `Send` and not `Sync`.
        type Value = core::cell::Cell<u8>;
        let (tx, mut rx) = channel::<Value>(1).unwrap();
        send(&tx);
        sync(&tx);
        send(&tx.send(Value::new(0)));
        send(&rx.recv());
        let (tx, rx) = oneshot::<Value>().unwrap();
        send(&tx);
        send(&rx);
        let mutex = Mutex::new(Value::new(0));
        send(&mutex);
        sync(&mutex);
        send(&mutex.lock());
        send(&mutex.try_lock());
        let notify = Notify::new();
        sync(&notify);
        send(&notify.notified());
        send(&sleep(MS));
        send(&timeout(MS, ready(())));
        let host = Host::new();
        let mut set = set::<Value>(&host, 1);
        send(&set);
        send(&set.next());
    });
}

#[test]
fn block_on_takes_what_another_thread_sends() {
    session(|| {
        let (tx, mut rx) = channel(1).unwrap();
        let thread = std::thread::spawn(move || {
            for i in 0..1000 {
                block_on(tx.send(i)).unwrap().unwrap();
            }
        });
        for i in 0..1000 {
            assert_eq!(block_on(rx.recv()), Ok(Some(i)));
        }
        assert_eq!(block_on(rx.recv()), Ok(None));
        thread.join().unwrap();
    });
}

#[test]
fn an_aborted_set_gives_its_outputs_and_what_was_cancelled() {
    session(|| {
        let host = Host::new();
        let mut set = JoinSet::new(host.scope(), 4).unwrap();
        set.try_spawn(core::future::ready(1)).unwrap();
        set.try_spawn(core::future::pending()).unwrap();
        host.pump();
        set.abort_all();
        host.pump();
        assert_eq!(set.try_next(), Ok(Ok(1)));
        assert_eq!(set.try_next(), Ok(Err(Cancelled)));
        assert!(set.is_empty());
        assert_eq!(
            set.try_spawn(core::future::ready(2)).err(),
            Some(sys::ESHUTDOWN)
        );
        assert!(poll_once(pin!(set.next())).is_ready());
    });
}

#[test]
fn more_permits_than_there_can_be_are_refused_at_once() {
    session(|| {
        let semaphore = Semaphore::new(2);
        let too_many = [Semaphore::MAX + 1, usize::MAX];
        for count in too_many {
            assert_eq!(
                now(semaphore.acquire(count)).err(),
                Some(AcquireError::TooMany)
            );
            assert_eq!(semaphore.try_acquire(count).err(), Some(TryError::TooMany));
            // Behind one who waits, too, and in nobody's way
            let mut first = queued(semaphore.acquire(3));
            assert_eq!(
                now(semaphore.acquire(count)).err(),
                Some(AcquireError::TooMany)
            );
            semaphore.release(1);
            assert!(poll_once(first.as_mut()).is_ready());
            drop(first);
            assert!(semaphore.try_acquire(3).is_ok());
            semaphore.try_acquire(1).unwrap().forget();
        }
        assert!(semaphore.try_acquire(Semaphore::MAX).is_err());
        assert_eq!(sys::Error::from(AcquireError::TooMany), sys::EINVAL);
        assert_eq!(sys::Error::from(TryError::TooMany), sys::EINVAL);
        assert_eq!(sys::Error::from(AcquireError::Closed), sys::ESHUTDOWN);
    });
}

/// Polls `future`, which is ready, and again: it warns, each time, and is pending.
#[track_caller]
fn over<F: Future>(future: F) {
    let mut future = pin!(future);
    let output = poll_once(future.as_mut());
    assert!(output.is_ready(), "it is not ready");
    for _ in 0..2 {
        assert_eq!(sys::take_warnings(), <[&str; 0]>::default());
        let counts = Count::new();
        assert!(poll_with(future.as_mut(), &Waker::from(counts.clone())).is_pending());
        assert_eq!(
            sys::take_warnings(),
            ["a future was polled after it was ready"]
        );
        assert_eq!(counts.wakes(), 0);
        // It kept no waker.
        assert_eq!(Arc::strong_count(&counts), 1);
    }
}

/// A future that may be polled again when it is ready, and tells how often it was.
fn again(polls: &Arc<std::sync::atomic::AtomicUsize>) -> impl Future<Output = Result<u8, u8>> {
    let polls = polls.clone();
    core::future::poll_fn(move |_| {
        polls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Poll::Ready(Ok(1))
    })
}

#[test]
fn a_future_polled_after_it_was_ready_warns_and_is_pending() {
    session(|| {
        let polls = Arc::default();
        over(join_all([again(&polls), again(&polls)]).unwrap());
        over(join_all([again(&polls); 0]).unwrap());
        over(try_join_all([ready(Ok::<u8, Failed>(1))]).unwrap());
        let fails = |result: Result<u8, u8>| ready(result);
        over(try_join_all::<_, u8, Failed>([ready(Ok(1)), ready(Err(Failed))]).unwrap());
        over(crate::Join((
            crate::JoinMember::new(again(&polls)),
            crate::JoinMember::new(ready(2)),
        )));
        over(crate::TryJoin(
            (
                crate::JoinMember::new(again(&polls)),
                crate::JoinMember::new(fails(Ok(2))),
            ),
            core::marker::PhantomData::<u8>,
        ));
        // With one that is pending, and would be polled again
        over(crate::TryJoin(
            (
                crate::JoinMember::new(pending::<Result<u8, u8>>()),
                crate::JoinMember::new(fails(Err(2))),
            ),
            core::marker::PhantomData::<u8>,
        ));
        let before = polls.load(std::sync::atomic::Ordering::Relaxed);
        over(race(again(&polls), pending::<()>()));
        over(race(pending::<()>(), again(&polls)));
        over(timeout(MS, again(&polls)));
        let after = polls.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(after - before, 3, "a member was polled again");
        over(run(again(&polls)));
        over(run(again(&polls)).then(|n| ready(Ok::<u8, u8>(n))));
        over(run(fails(Err(1))).then(|n| ready(Ok::<u8, u8>(n))));
        over(sleep(Duration::ZERO));
        let (tx, rx) = oneshot::<u8>().unwrap();
        tx.send(1).unwrap();
        over(rx);
        let (tx, rx) = oneshot::<u8>().unwrap();
        drop(tx);
        over(rx);
        let semaphore = Semaphore::new(1);
        over(semaphore.acquire(1));
        over(semaphore.acquire(usize::MAX));
        let sem = crate::RwSemaphore::new(());
        over(sem.read());
        over(sem.write());
        let mutex = Mutex::new(());
        over(mutex.lock());
        let host = Host::new();
        let scope = host.scope();
        let handle = scope.spawn(async {}).unwrap();
        let aborted = scope.spawn(pending::<()>()).unwrap();
        aborted.abort();
        host.pump();
        assert!(handle.is_finished());
        over(handle);
        over(aborted);
    });
}

/// An error that also says that there is no memory.
#[derive(Debug)]
struct Failed;

impl From<sys::Error> for Failed {
    fn from(_: sys::Error) -> Self {
        Self
    }
}

#[test]
fn a_sleep_that_fired_is_over() {
    session(|| {
        let mut sleeps = pin!(sleep(MS));
        assert!(poll_once(sleeps.as_mut()).is_pending());
        sys::advance(MS);
        over(sleeps);
    });
}

#[test]
fn a_handle_whose_value_was_taken_is_finished_and_keeps_no_memory() {
    session(|| {
        let host = Host::new();
        let scope = host.scope();
        let mut handle = scope.spawn(async { 1 }).unwrap();
        host.pump();
        assert_eq!(sys::Ledger::tasks(), 1);
        assert_eq!(now(&mut handle), Ok(1));
        assert_eq!(sys::Ledger::tasks(), 0);
        assert!(handle.is_finished());
        handle.abort();
    });
}

/// Takes `cost` of the clock for each poll, and is ready at the last of `polls`.
fn slow(cost: Duration, polls: usize) -> impl Future<Output = ()> {
    let mut left = polls;
    core::future::poll_fn(move |cx| {
        sys::advance(cost);
        left -= 1;
        if left == 0 {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// How long the longest poll of `future` takes, and how many there are. It is polled when it was
/// woken.
fn longest<F: Future>(future: F) -> (Duration, usize) {
    let mut future = pin!(future);
    let counts = Count::new();
    let waker = Waker::from(counts.clone());
    let (mut longest, mut polls) = (Duration::ZERO, 0);
    loop {
        let wakes = counts.wakes();
        let start = Instant::now();
        polls += 1;
        let output = poll_with(future.as_mut(), &waker);
        longest = longest.max(Instant::now().since(start));
        if output.is_ready() {
            return (longest, polls);
        }
        assert!(counts.wakes() > wakes, "nobody wakes it");
        assert!(polls < 1_000_000, "it never ends");
    }
}

/// The bound of a [`Budget`], and a member's poll beyond it.
const BOUND: Duration = Duration::from_millis(2);

#[test]
fn no_poll_of_many_is_longer_than_its_longest_member_and_a_bound() {
    session(|| {
        // 200 ms in all, and 2 rounds
        let (time, polls) = longest(join_all((0..100).map(|_| slow(MS, 2))).unwrap());
        assert!(time <= BOUND, "{time:?}");
        assert!((100..=402).contains(&polls), "{polls}");
        let members = (0..1000).map(|_| async {
            slow(MS / 10, 3).await;
            Ok::<_, sys::Error>(())
        });
        let (time, polls) = longest(try_join_all::<_, _, sys::Error>(members).unwrap());
        assert!(time <= BOUND, "{time:?}");
        assert!(polls <= 602, "{polls}");
        // One that takes long is no fault of ours.
        let members = [slow(20 * MS, 1), slow(30 * MS, 1), slow(MS, 1)];
        let (time, polls) = longest(join_all(members).unwrap());
        assert_eq!((time, polls), (30 * MS, 3));
    });
}

#[test]
fn many_members_are_polled_in_turns_also_if_the_clock_stands_still() {
    session(|| {
        let (time, polls) = longest(join_all((0..10_000).map(|_| ready(()))).unwrap());
        assert_eq!(time, Duration::ZERO);
        assert!((2..100).contains(&polls), "{polls}");
    });
}

#[test]
fn a_wake_of_one_of_many_polls_that_one() {
    session(|| {
        let polls: Arc<std::sync::atomic::AtomicUsize> = Arc::default();
        let signals: Vec<_> = (0..50).map(|_| Signal::new()).collect();
        let members = signals.iter().map(|signal| {
            let (signal, polls) = (signal.clone(), polls.clone());
            let mut wait = Box::pin(signal.wait());
            core::future::poll_fn(move |cx| {
                polls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                wait.as_mut().poll(cx)
            })
        });
        let mut all = pin!(join_all(members).unwrap());
        let counts = Count::new();
        let waker = Waker::from(counts.clone());
        assert!(poll_with(all.as_mut(), &waker).is_pending());
        assert_eq!(counts.wakes(), 0);
        for (n, signal) in signals.iter().enumerate() {
            signal.fire();
            assert_eq!(counts.wakes(), n + 1);
            let done = poll_with(all.as_mut(), &waker).is_ready();
            assert_eq!(done, n == 49);
        }
        assert_eq!(polls.load(std::sync::atomic::Ordering::Relaxed), 100);
    });
}

#[test]
fn wakers_of_members_outlive_the_join() {
    session(|| {
        let wakers = Wakers::new();
        let leave = wakers.clone();
        let mut all = Box::pin(
            join_all([core::future::poll_fn(move |cx| {
                leave.leave(cx, 2);
                Poll::<()>::Pending
            })])
            .unwrap(),
        );
        let counts = Count::new();
        assert!(poll_with(all.as_mut(), &Waker::from(counts.clone())).is_pending());
        drop(all);
        assert_eq!(Arc::strong_count(&counts), 1, "the task is kept");
        sys::interrupt(|| {
            wakers.take().wake();
            drop(wakers.take());
        });
        assert_eq!(counts.wakes(), 0);
    });
}

#[test]
fn an_owner_of_a_set_that_finds_output_after_output_pauses() {
    session(|| {
        let host = Host::new();
        let mut set = set::<usize>(&host, 3000);
        for n in 0..3000 {
            set.try_spawn(async move { n }).unwrap();
        }
        host.pump();
        let (time, polls) = longest(async {
            while let Some(n) = set.next().await {
                n.unwrap();
                sys::advance(MS / 100);
            }
        });
        assert!(time <= BOUND, "{time:?}");
        assert!((10..100).contains(&polls), "{polls}");
        drop_on_worker(&host, set);
    });
}

#[test]
fn a_budget_pauses_when_its_time_or_its_steps_are_over_and_begins_anew() {
    session(|| {
        let step = |cost: Duration, steps: usize| {
            longest(async move {
                let mut budget = Budget::new();
                for _ in 0..steps {
                    sys::advance(cost);
                    budget.pause().await;
                }
            })
        };
        let (time, polls) = step(MS / 4, 100);
        assert!(time <= BOUND, "{time:?}");
        assert_eq!(polls, 26);
        let (_, polls) = step(Duration::ZERO, 10_000);
        assert_eq!(polls, 10);
    });
}

#[test]
fn a_boxed_future_stays_where_it_is_and_goes_with_its_box() {
    session(|| {
        let probes = Probes::new();
        let probe = probes.probe();
        let boxed = pinned(|| async move {
            let _probe = probe;
            // Across the wait it refers to itself.
            let values = [3; 200];
            let last = &values[199];
            yield_now().await;
            *last
        });
        let mut boxed = boxed.unwrap();
        assert!(poll_once(Pin::new(&mut boxed)).is_pending());
        // The box moves, and the future does not.
        let mut moved = Box::new(boxed);
        assert_eq!(poll_once(Pin::new(&mut *moved)), Poll::Ready(3));
        drop(moved);
        probes.check(1);
        let mut boxed = pinned(|| never(probes.probe())).unwrap();
        assert!(poll_once(Pin::new(&mut boxed)).is_pending());
        assert_eq!(probes.dropped(), 1);
        drop(boxed);
        probes.check(2);
    });
}
