// SPDX-License-Identifier: GPL-2.0

//! Models of the rw-semaphore.
//!
//! The value is in one of loom's cells: an access that is not ordered after the last conflicting
//! one fails the model, whether or not the two overlap in it.

use crate::harness::*;
use crate::sys::rt::thread;
use crate::{block_on, Closed, RwSemaphore, Semaphore, TryError};
use core::future::Future;
use core::pin::Pin;
use core::task::{Poll, Waker};
use std::sync::Arc;

type Sem = RwSemaphore<u64>;

fn sem() -> Shared<Sem> {
    Shared::new(RwSemaphore::new(0))
}

fn add_one(sem: &Sem) {
    *block_on(sem.write()).unwrap().unwrap() += 1;
}

/// Queues `future`, which has to wait.
fn queued<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    assert!(poll_once(future.as_mut()).is_pending());
    future
}

fn granted<F: Future>(mut future: Pin<Box<F>>) -> F::Output {
    match poll_once(future.as_mut()) {
        Poll::Ready(guard) => guard,
        Poll::Pending => panic!("the lock was not handed over"),
    }
}

/// Nobody holds the lock and nobody waits.
#[track_caller]
fn check_free(sem: &Sem, value: u64) {
    assert_eq!(*sem.try_write().expect("a permit was lost"), value);
}

#[test]
fn two_writers_exclude_each_other() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let thread = thread::spawn(move || add_one(sem));
        add_one(sem);
        thread.join().unwrap();
        check_free(sem, 2);
    });
}

#[test]
fn writers_and_readers_exclude_each_other() {
    model(2, || {
        let shared = sem();
        let sem = shared.get();
        let writers = [(); 2].map(|()| thread::spawn(move || add_one(sem)));
        let value = *block_on(sem.read()).unwrap().unwrap();
        assert!(value <= 2);
        for writer in writers {
            writer.join().unwrap();
        }
        check_free(sem, 2);
    });
}

#[test]
fn try_lock_excludes_and_publishes() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let threads = [(); 2].map(|()| {
            thread::spawn(move || match sem.try_write() {
                Ok(mut guard) => {
                    *guard += 1;
                    1
                }
                Err(_) => 0,
            })
        });
        if let Ok(guard) = sem.try_read() {
            assert!(*guard <= 2);
        }
        let sum = threads.map(|thread| thread.join().unwrap()).iter().sum();
        check_free(sem, sum);
    });
}

#[test]
fn writer_hands_its_data_to_a_writer() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let mut guard = sem.try_write().unwrap();
        let thread = thread::spawn(move || {
            let mut guard = block_on(sem.write()).unwrap().unwrap();
            assert_eq!(*guard, 7);
            *guard = 8;
        });
        *guard = 7;
        drop(guard);
        thread.join().unwrap();
        check_free(sem, 8);
    });
}

fn hand_off_against_drop(write: bool) {
    model(3, move || {
        let shared = sem();
        let sem = shared.get();
        let mut guard = sem.try_write().unwrap();
        let waiter: Pin<Box<dyn Future<Output = ()> + Send>> = if write {
            queued(async { *sem.write().await.unwrap() += 1 })
        } else {
            queued(async { assert_eq!(*sem.read().await.unwrap(), 1) })
        };
        // Somebody behind, to whom the lock goes in the end.
        let behind = thread::spawn(move || add_one(sem));
        let dropper = thread::spawn(move || drop(waiter));
        *guard += 1;
        drop(guard);
        dropper.join().unwrap();
        behind.join().unwrap();
        check_free(sem, 2);
    });
}

#[test]
fn hand_off_against_drop_of_a_waiting_reader() {
    hand_off_against_drop(false);
}

#[test]
fn hand_off_against_drop_of_a_waiting_writer() {
    hand_off_against_drop(true);
}

#[test]
fn granted_but_unobserved_lock_goes_to_the_next() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guard = sem.try_write().unwrap();
        let first = queued(sem.write());
        let second = queued(async { *sem.write().await.unwrap() += 1 });
        drop(guard);
        // `first` has the lock and does not know.
        let thread = thread::spawn(move || {
            let mut second = second;
            block_on(second.as_mut()).unwrap();
        });
        drop(first);
        thread.join().unwrap();
        check_free(sem, 1);
    });
}

#[test]
fn hand_off_against_poll_with_another_waker() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guard = sem.try_write().unwrap();
        let counts = [Count::new(), Count::new()];
        let wakers = counts.clone().map(Waker::from);
        let mut waiter = Box::pin(sem.read());
        assert!(poll_with(waiter.as_mut(), &wakers[0]).is_pending());
        let thread = thread::spawn(move || drop(guard));
        let ready = poll_with(waiter.as_mut(), &wakers[1]);
        thread.join().unwrap();
        match ready {
            Poll::Ready(guard) => drop(guard),
            Poll::Pending => {
                assert_eq!(counts[1].wakes(), 1, "the last waker counts");
                drop(granted(waiter));
            }
        }
        drop(wakers);
        assert!(counts.iter().all(|count| Arc::strong_count(count) == 1));
        check_free(sem, 0);
    });
}

#[test]
fn drop_of_the_first_waiting_writer_lets_in_the_readers_behind() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guard = sem.try_read().unwrap();
        let writer = queued(sem.write());
        let readers =
            [(); 2].map(|()| thread::spawn(move || drop(block_on(sem.read()).unwrap().unwrap())));
        drop(writer);
        // They do not wait for us.
        for reader in readers {
            reader.join().unwrap();
        }
        drop(guard);
        check_free(sem, 0);
    });
}

#[test]
fn drop_of_a_waiter_against_enqueue() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guard = sem.try_read().unwrap();
        let writer = queued(async { *sem.write().await.unwrap() += 1 });
        let unlocks = thread::spawn(move || drop(guard));
        let drops = thread::spawn(move || drop(writer));
        add_one(sem);
        unlocks.join().unwrap();
        drops.join().unwrap();
        check_free(sem, 1);
    });
}

#[test]
fn reader_unlocks_against_enqueue_of_a_writer() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guard = sem.try_read().unwrap();
        let thread = thread::spawn(move || add_one(sem));
        drop(guard);
        thread.join().unwrap();
        check_free(sem, 1);
    });
}

#[test]
fn two_readers_unlock_against_a_queued_writer() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guards = [sem.try_read().unwrap(), sem.try_read().unwrap()];
        let mut writer = queued(async { *sem.write().await.unwrap() += 1 });
        let threads = guards.map(|guard| {
            thread::spawn(move || {
                assert_eq!(*guard, 0);
                drop(guard);
            })
        });
        block_on(writer.as_mut()).unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        check_free(sem, 1);
    });
}

#[test]
fn two_readers_unlock_against_enqueue_of_a_writer() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guards = [sem.try_read().unwrap(), sem.try_read().unwrap()];
        let threads = guards.map(|guard| {
            thread::spawn(move || {
                assert_eq!(*guard, 0);
                drop(guard);
            })
        });
        add_one(sem);
        for thread in threads {
            thread.join().unwrap();
        }
        check_free(sem, 1);
    });
}

#[test]
fn downgrade_lets_in_the_readers_before_a_writer_and_not_the_writer() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let mut guard = sem.try_write().unwrap();
        let reader = queued(sem.read());
        let mut writer = queued(async { *sem.write().await.unwrap() += 1 });
        let behind = queued(sem.read());
        let thread = thread::spawn(move || block_on(writer.as_mut()).unwrap());
        *guard = 1;
        let guard = guard.downgrade();
        let reader = granted(reader).unwrap();
        assert_eq!((*reader, *guard), (1, 1), "a writer came in between");
        let mut behind = behind;
        assert!(
            poll_once(behind.as_mut()).is_pending(),
            "a reader got past a writer"
        );
        drop((reader, guard));
        assert_eq!(*block_on(behind.as_mut()).unwrap().unwrap(), 2);
        drop(behind);
        thread.join().unwrap();
        check_free(sem, 2);
    });
}

#[test]
fn downgrade_against_enqueue() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let mut guard = sem.try_write().unwrap();
        let reader = thread::spawn(move || assert_eq!(*block_on(sem.read()).unwrap().unwrap(), 1));
        *guard = 1;
        let guard = guard.downgrade();
        // The reader comes in beside us.
        reader.join().unwrap();
        drop(guard);
        check_free(sem, 1);
    });
}

#[test]
fn nobody_gets_past_a_waiter() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guard = sem.try_read().unwrap();
        let writer = queued(sem.write());
        let thread = thread::spawn(move || {
            assert!(sem.try_read().is_err(), "a reader got past a writer");
            assert!(sem.try_write().is_err(), "a writer got past a writer");
        });
        drop(guard);
        // The writer has the lock, and does not know.
        thread.join().unwrap();
        drop(granted(writer));
        check_free(sem, 0);
    });
}

#[test]
fn close_against_acquire() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guard = sem.try_write().unwrap();
        let thread = thread::spawn(move || match block_on(sem.write()).unwrap() {
            Ok(mut guard) => *guard += 1,
            Err(Closed) => assert_eq!(sem.try_read().err(), Some(TryError::Closed)),
        });
        let closer = thread::spawn(move || sem.close());
        drop(guard);
        thread.join().unwrap();
        closer.join().unwrap();
        assert_eq!(
            poll_once(Box::pin(sem.read()).as_mut()).map(|r| r.err()),
            Poll::Ready(Some(Closed))
        );
    });
}

#[test]
fn close_against_one_who_comes_to_wait() {
    // Nobody gives the lock back before the waiter was refused.
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guard = sem.try_write().unwrap();
        let thread = thread::spawn(move || block_on(sem.write()).unwrap().err());
        sem.close();
        assert_eq!(thread.join().unwrap(), Some(Closed));
        drop(guard);
    });
}

#[test]
fn close_against_drop_of_a_waiter() {
    model(3, || {
        let shared = sem();
        let sem = shared.get();
        let guard = sem.try_read().unwrap();
        let waiter = queued(sem.write());
        let behind = queued(sem.read());
        let dropper = thread::spawn(move || drop(waiter));
        sem.close();
        dropper.join().unwrap();
        // Let in by the drop, or refused by the close.
        drop(granted(behind));
        drop(guard);
    });
}

#[test]
fn permits_go_to_the_first_who_wants_many() {
    model(3, || {
        let shared = Shared::new(Semaphore::new(2));
        let semaphore = shared.get();
        let one = semaphore.try_acquire(1).unwrap();
        let many = queued(semaphore.acquire(2));
        assert_eq!(semaphore.try_acquire(1).err(), Some(TryError::Busy));
        let thread = thread::spawn(move || drop(block_on(semaphore.acquire(1)).unwrap().unwrap()));
        drop(one);
        drop(granted(many).unwrap());
        thread.join().unwrap();
        assert_eq!(semaphore.available(), 2);
    });
}

#[test]
fn release_against_drop_of_one_who_wants_many() {
    model(3, || {
        let shared = Shared::new(Semaphore::new(0));
        let semaphore = shared.get();
        let many = queued(semaphore.acquire(2));
        let few = thread::spawn(move || block_on(semaphore.acquire(1)).unwrap().unwrap().forget());
        let dropper = thread::spawn(move || drop(many));
        semaphore.release(1);
        dropper.join().unwrap();
        few.join().unwrap();
        assert_eq!(semaphore.available(), 0);
    });
}
