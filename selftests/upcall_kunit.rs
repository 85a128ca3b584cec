// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of crate `upcall`: what each public item promises, its errors included.
//!
//! `selftests/torture` loads this module on a kernel with KUnit, and has KUnit run it: the kernel
//! finds the suite in the section `.kunit_test_suites`, which `#[kunit_tests]` fills in a module of any
//! kind. KUnit calls each test on a thread of its own; most are done twice, there by `block_on` and
//! as a task of the executor.
//!
//! A check that fails returns an error, through all destructors. The `assert!` that `#[kunit_tests]`
//! offers would end the thread where it is, with futures on its stack that others still point to.
//!
//! A test's thread has no file system of its own to walk through, so loading the module opens the
//! device that the tests of [`upcall::bio`] use.

use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Release};
use upcall::{Device, Scope};

module! {
    type: Tests,
    name: "upcall_kunit",
    authors: ["The Upcall developers"],
    description: "KUnit tests of the runtime",
    license: "GPL",
}

struct Tests {
    /// Dropped first: it waits for the device's requests.
    _scope: Scope,
    device: *mut Device,
}

// SAFETY: The pointer is that of a box that we own.
unsafe impl Send for Tests {}
// SAFETY: As above.
unsafe impl Sync for Tests {}

/// What the tests write to: of 16 MiB at least, with nothing on it that is needed.
static DEVICE: Atomic<*mut Device> = Atomic::new(core::ptr::null_mut());

impl kernel::Module for Tests {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let scope = Scope::new()?;
        let device = Device::open(c"/dev/upcall_kunit", true, &scope)?;
        let device = KBox::into_raw(KBox::new(device, GFP_KERNEL)?);
        DEVICE.store(device, Release);
        Ok(Self {
            _scope: scope,
            device,
        })
    }
}

impl Drop for Tests {
    fn drop(&mut self) {
        DEVICE.store(core::ptr::null_mut(), Release);
        // SAFETY: It comes from a box. KUnit runs no test of a module that goes.
        drop(unsafe { KBox::from_raw(self.device) });
    }
}

#[kunit_tests(upcall)]
mod tests {
    use super::DEVICE;
    use core::future::{pending, Future};
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};
    use core::time::Duration;
    use kernel::prelude::*;
    use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed};
    use kernel::sync::Arc;
    use upcall::bio::{self, Op, Payload, Segment};
    use upcall::{lock_class, *};

    const MS: Duration = Duration::from_millis(1);
    /// Not over before the test is.
    const LONG: Duration = Duration::from_secs(1_000_000);

    macro_rules! ensure {
        ($condition:expr) => {
            if !$condition {
                pr_err!("{}:{}: {}\n", file!(), line!(), stringify!($condition));
                return Err(EINVAL);
            }
        };
    }

    /// The device.
    fn device() -> Result<&'static Device> {
        // SAFETY: It is there as long as the module, which outlives its tests.
        unsafe { DEVICE.load(Acquire).as_ref() }.ok_or(ENODEV)
    }

    /// On this thread, and as a task.
    fn both<F: Future<Output = Result> + Send + 'static>(make: impl Fn() -> F) -> Result {
        block_on(make())??;
        let scope = Scope::new()?;
        block_on(scope.spawn(make())?)??
    }

    /// Polls once, for a waker that nobody wants.
    fn poll<F: Future>(future: core::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Counts how often it is dropped.
    struct Dropped(Arc<Atomic<u32>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Full);
        }
    }

    fn counter() -> Result<Arc<Atomic<u32>>> {
        Ok(Arc::new(Atomic::new(0), GFP_KERNEL)?)
    }

    // ---- block_on, on_worker ----

    #[test]
    fn block_on_gives_the_output() -> Result {
        ensure!(block_on(async { 7 })? == 7);
        ensure!(
            block_on(async {
                yield_now().await;
                8
            })? == 8
        );
        Ok(())
    }

    #[test]
    fn on_worker_tells_tasks_from_threads() -> Result {
        ensure!(!on_worker());
        let scope = Scope::new()?;
        ensure!(block_on(scope.spawn(async { on_worker() })?)??);
        // The first poll is here
        ensure!(!block_on(scope.spawn_eager(async { on_worker() })?)??);
        // And the blocking worker is another worker
        let slept = scope.spawner().spawn_blocking(on_worker)?;
        ensure!(!block_on(slept)??);
        Ok(())
    }

    // ---- Scope, Spawner, Member, JoinHandle, Cancelled ----

    #[test]
    fn spawn_gives_the_output_by_its_handle() -> Result {
        let scope = Scope::new()?;
        let handle = scope.spawn(async { 3 })?;
        while !handle.is_finished() {
            kernel::time::delay::fsleep(kernel::time::Delta::from_micros(100));
        }
        ensure!(block_on(handle)? == Ok(3));
        Ok(())
    }

    #[test]
    fn spawn_eager_polls_here() -> Result {
        let scope = Scope::new()?;
        let handle = scope.spawn_eager(async { 4 })?;
        ensure!(handle.is_finished());
        ensure!(block_on(handle)? == Ok(4));
        let handle = scope.spawner().spawn_eager(async {
            yield_now().await;
            5
        })?;
        ensure!(block_on(handle)? == Ok(5));
        Ok(())
    }

    #[test]
    fn abort_drops_the_future_once() -> Result {
        let scope = Scope::new()?;
        let drops = counter()?;
        let dropped = Dropped(drops.clone());
        let handle = scope.spawn(async move {
            let _dropped = dropped;
            pending::<()>().await
        })?;
        ensure!(!handle.is_finished());
        handle.abort();
        handle.abort();
        ensure!(block_on(handle)? == Err(Cancelled));
        ensure!(drops.load(Relaxed) == 1);
        ensure!(Error::from(Cancelled) == ECANCELED);
        // Too late
        let handle = scope.spawn_eager(async { 1 })?;
        handle.abort();
        ensure!(block_on(handle)? == Ok(1));
        Ok(())
    }

    #[test]
    fn dropped_handle_lets_the_task_go_on() -> Result {
        let scope = Scope::new()?;
        let drops = counter()?;
        let dropped = Dropped(drops.clone());
        drop(scope.spawn(async move {
            sleep(MS).await;
            // Its output, too, is dropped
            dropped
        })?);
        block_on(scope.join())?;
        ensure!(drops.load(Relaxed) == 1);
        Ok(())
    }

    #[test]
    fn dropped_scope_cancels() -> Result {
        let drops = counter()?;
        let scope = Scope::new()?;
        let spawner = scope.spawner();
        for _ in 0..10 {
            let dropped = Dropped(drops.clone());
            drop(scope.spawn(async move {
                sleep(LONG).await;
                drop(dropped);
            })?);
        }
        drop(scope);
        ensure!(drops.load(Relaxed) == 10);
        let dropped = Dropped(drops.clone());
        ensure!(spawner.spawn(async move { drop(dropped) }).err() == Some(ESHUTDOWN));
        ensure!(drops.load(Relaxed) == 11);
        ensure!(spawner.clone().spawn_eager(async {}).err() == Some(ESHUTDOWN));
        ensure!(spawner.spawn_blocking(|| ()).err() == Some(ESHUTDOWN));
        ensure!(spawner.enter().is_none());
        Ok(())
    }

    #[test]
    fn cancelled_scope_takes_no_more() -> Result {
        let scope = Scope::new()?;
        let handle = scope.spawn(pending::<()>())?;
        scope.cancel();
        ensure!(scope.spawn(async {}).err() == Some(ESHUTDOWN));
        block_on(scope.join())?;
        ensure!(block_on(handle)? == Err(Cancelled));
        Ok(())
    }

    #[test]
    fn member_keeps_the_scope_from_ending() -> Result {
        let scope = Scope::new()?;
        let member: Member = scope.spawner().enter().ok_or(EINVAL)?;
        let mut join = KBox::pin(scope.join(), GFP_KERNEL)?;
        ensure!(poll(join.as_mut()).is_pending());
        drop(member);
        block_on(join)
    }

    #[test]
    fn scope_in_a_task_cancels_in_place() -> Result {
        let drops = counter()?;
        let inner = drops.clone();
        let scope = Scope::new()?;
        let handle = scope.spawn(async move {
            let scope = Scope::new()?;
            let dropped = Dropped(inner.clone());
            drop(scope.spawn(async move {
                pending::<()>().await;
                drop(dropped);
            })?);
            drop(scope);
            Ok::<_, Error>(inner.load(Relaxed))
        })?;
        ensure!(block_on(handle)??? == 1);
        Ok(())
    }

    // ---- Executor, BlockingWorker, Current, Reserve, block_on_killable ----

    #[test]
    fn a_blocking_worker_runs_what_sleeps() -> Result {
        let worker: BlockingWorker = Executor::blocking(c"upcall_kunit")?;
        let inside = worker.clone();
        let scope = Scope::on(&Executor::shared()?, &worker)?;
        let slept = scope.spawner().spawn_blocking(move || {
            kernel::time::delay::fsleep(kernel::time::Delta::from_millis(1));
            inside.is_current() && !on_worker()
        })?;
        ensure!(block_on(slept)? == Ok(true));
        Ok(())
    }

    #[test]
    fn executors_that_go_do_not_hold_up_blocking_work() -> Result {
        let scope = Scope::new()?;
        for _ in 0..30 {
            drop(Executor::new(c"upcall_kunit")?);
        }
        // Each waits for a grace period, of some ten milliseconds here. The worker is the shared one.
        let start = Instant::now();
        ensure!(block_on(scope.spawner().spawn_blocking(|| 1)?)? == Ok(1));
        let took = Instant::now().since(start);
        pr_info!(
            "30 executors went, and work was done after {} us\n",
            took.as_micros()
        );
        ensure!(took < Duration::from_millis(100));
        Ok(())
    }

    #[test]
    fn an_executor_of_ones_own_runs_the_tasks_of_its_scopes() -> Result {
        let own = Executor::new(c"upcall_kunit")?;
        let scope = own.scope()?;
        let inside = own.clone();
        let task = scope.spawn(async move { inside.is_current() && on_worker() })?;
        ensure!(block_on(task)? == Ok(true));
        ensure!(!own.is_current() && !Executor::shared()?.is_current());
        // The scope keeps the executor.
        drop(own);
        ensure!(block_on(scope.spawn(yield_now())?)? == Ok(()));
        Ok(())
    }

    #[test]
    fn a_task_knows_its_name() -> Result {
        ensure!(current().is_none());
        let scope = Scope::new()?;
        let task = scope.named(c"kunit").spawn(async {
            yield_now().await;
            current().map(|me| (me.name == "kunit", me.polls, me.id > 0))
        })?;
        ensure!(block_on(task)? == Ok(Some((true, 2, true))));
        let unnamed =
            scope.spawn(async { current().map(|me| me.name.contains("upcall_kunit")) })?;
        ensure!(block_on(unnamed)? == Ok(Some(true)));
        Ok(())
    }

    #[test]
    fn a_reserve_is_for_what_fits_and_serves_again_and_again() -> Result {
        ensure!(Reserve::new(0, 512).is_err());
        let reserve = Reserve::new(1, Reserve::OVERHEAD + 64)?;
        let scope = Scope::new()?;
        let reserved = scope.spawner().reserved(&reserve);
        let large = [0u64; 64];
        ensure!(reserved.spawn(async move { large.len() }).err() == Some(ENOMEM));
        for n in 0..100u32 {
            ensure!(block_on(reserved.spawn(async move { n })?)? == Ok(n));
        }
        Ok(())
    }

    #[test]
    fn block_on_killable_gives_the_output_of_who_is_not_killed() -> Result {
        ensure!(block_on_killable(async { 5 })? == 5);
        ensure!(block_on_killable(sleep(MS)).is_ok());
        Ok(())
    }

    #[test]
    fn a_lock_with_a_class_is_taken_by_threads() -> Result {
        let outer = RwSemaphore::new(1).with_class(lock_class!(c"kunit outer"));
        let inner = Mutex::new(2).with_class(lock_class!(c"kunit inner"));
        for _ in 0..2 {
            let mut a = outer.write_blocking()?;
            let b = inner.lock_blocking()?;
            *a += *b;
            let a = a.downgrade();
            drop(b);
            ensure!(outer.try_read().is_ok() && *a > 2);
        }
        Ok(())
    }

    // ---- join, race, select, chains ----

    #[test]
    fn join_all_keeps_the_order() -> Result {
        both(|| async {
            let later = |n: u32| async move {
                for _ in n..3 {
                    yield_now().await;
                }
                n
            };
            let all = join_all((0..3).map(later))?.await?;
            ensure!(all.as_slice() == [0, 1, 2]);
            ensure!(join_all(core::iter::empty::<core::future::Ready<u8>>())?
                .await?
                .is_empty());
            Ok(())
        })
    }

    #[test]
    fn try_join_all_gives_the_first_error() -> Result {
        both(|| async {
            let step = |n: u32| async move {
                yield_now().await;
                if n == 1 {
                    return Err(EAGAIN);
                }
                Ok(n)
            };
            ensure!(try_join_all((0..3).map(step))?.await.err() == Some(EAGAIN));
            ensure!(try_join_all((2..4).map(step))?.await?.as_slice() == [2, 3]);
            Ok(())
        })
    }

    #[test]
    fn join_macros() -> Result {
        both(|| async {
            ensure!(join!(async { 1 }, async { yield_now().await }, async { "a" }) == (1, (), "a"));
            let good = async { Ok::<_, Error>(1) };
            ensure!(try_join!(good, async { Ok(2) }) == Ok((1, 2)));
            let never = pending::<Result<u8>>();
            ensure!(try_join!(never, async { Err::<u8, _>(EIO) }).err() == Some(EIO));
            Ok(())
        })
    }

    #[test]
    fn race_gives_the_first() -> Result {
        both(|| async {
            ensure!(race(async { 1 }, async { 2 }).await == Either::Left(1));
            ensure!(race(pending::<u8>(), async { 2 }).await == Either::Right(2));
            let drops = counter()?;
            let dropped = Dropped(drops.clone());
            let slow = async move {
                pending::<()>().await;
                drop(dropped);
            };
            ensure!(race(slow, yield_now()).await == Either::Right(()));
            ensure!(drops.load(Relaxed) == 1);
            Ok(())
        })
    }

    #[test]
    fn select_goes_on_in_an_arm() -> Result {
        both(|| async {
            let got = select! {
                () = pending() => 0,
                n = async { 5 } => n + 1,
                () = sleep(LONG) => return Err(ETIMEDOUT),
            };
            ensure!(got == 6);
            Ok(())
        })
    }

    #[test]
    fn chain_ends_with_the_first_error() -> Result {
        both(|| async {
            let chain = run(async { Ok::<_, Error>(1) })
                .then(|n| async move { Ok(n + 1) })
                .then(|n| async move {
                    yield_now().await;
                    Ok(n * 10)
                });
            ensure!(chain.await == Ok(20));
            let called = counter()?;
            let late = called.clone();
            let chain = run(async { Err::<u32, _>(EIO) }).then(|n| {
                late.fetch_add(1, Relaxed);
                async move { Ok(n) }
            });
            ensure!(chain.await == Err(EIO) && called.load(Relaxed) == 0);
            Ok(())
        })
    }

    #[test]
    fn yield_now_lets_others_go_first() -> Result {
        let scope = Scope::new()?;
        let handle = scope.spawn(async {
            let inner = Scope::new()?;
            let other = inner.spawn(async {})?;
            ensure!(!other.is_finished());
            yield_now().await;
            ensure!(other.is_finished());
            Ok(())
        })?;
        block_on(handle)??
    }

    // ---- JoinSet ----

    #[test]
    fn join_set_gives_outputs_and_keeps_its_limit() -> Result {
        both(|| async {
            let mut set = JoinSet::new(Scope::new()?, 2)?;
            ensure!(set.is_empty() && set.next().await.is_none());
            ensure!(set.spawn(async { 1 }).await?.is_none());
            set.try_spawn(async { 2 })?;
            ensure!(set.len() == 2 && set.try_spawn(async { 3 }).err() == Some(EAGAIN));
            // Waits for one of them
            let first = set.spawn(async { 4 }).await?.ok_or(EINVAL)??;
            let (second, third) = (
                set.next().await.ok_or(EINVAL)??,
                set.next().await.ok_or(EINVAL)??,
            );
            ensure!(first + second + third == 7 && set.is_empty());
            ensure!(set.try_next() == Err(TryError::Busy));
            Ok(())
        })
    }

    #[test]
    fn join_set_aborts_all() -> Result {
        both(|| async {
            let mut set = JoinSet::new(Scope::new()?, 4)?;
            set.try_spawn(pending::<u8>())?;
            set.try_spawn(pending::<u8>())?;
            set.abort_all();
            ensure!(set.next().await == Some(Err(Cancelled)));
            ensure!(set.next().await == Some(Err(Cancelled)));
            ensure!(set.next().await.is_none());
            ensure!(set.try_spawn(pending::<u8>()).err() == Some(ESHUTDOWN));
            Ok(())
        })
    }

    // ---- Semaphore, Permit, Acquiring, AcquireError, Closed, TryError ----

    #[test]
    fn semaphore_counts() -> Result {
        both(|| async {
            let semaphore = Semaphore::new(3);
            let two: Permit<'_> = semaphore.acquire(2).await?;
            ensure!(semaphore.available() == 1);
            ensure!(semaphore.try_acquire(2).err() == Some(TryError::Busy));
            semaphore.try_acquire(1)?.forget();
            drop(two);
            ensure!(semaphore.available() == 2);
            semaphore.release(1);
            ensure!(semaphore.try_acquire(3).is_ok());
            ensure!(semaphore.contended() == 0);
            Ok(())
        })
    }

    #[test]
    fn semaphore_is_fair() -> Result {
        let semaphore = Semaphore::new(2);
        let held = semaphore.try_acquire(1)?;
        {
            let mut many: core::pin::Pin<&mut Acquiring<'_>> = pin!(semaphore.acquire(2));
            ensure!(poll(many.as_mut()).is_pending());
            // There is one, but somebody is before us.
            ensure!(semaphore.try_acquire(1).err() == Some(TryError::Busy));
            let mut few = pin!(semaphore.acquire(1));
            ensure!(poll(few.as_mut()).is_pending());
            drop(held);
            ensure!(poll(few.as_mut()).is_pending());
            let Poll::Ready(Ok(permit)) = poll(many.as_mut()) else {
                return Err(EINVAL);
            };
            drop(permit);
            ensure!(poll(few.as_mut()).is_ready());
        }
        ensure!(semaphore.available() == 2 && semaphore.contended() == 2);
        Ok(())
    }

    #[test]
    fn dropped_waiter_loses_no_permit() -> Result {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire(1)?;
        {
            let mut granted = pin!(semaphore.acquire(1));
            ensure!(poll(granted.as_mut()).is_pending());
            drop(held);
            ensure!(semaphore.available() == 0);
            // It has the permit, and does not know.
        }
        ensure!(semaphore.available() == 1);
        Ok(())
    }

    #[test]
    fn closed_semaphore_refuses() -> Result {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire(1)?;
        let mut waiting = pin!(semaphore.acquire(1));
        ensure!(poll(waiting.as_mut()).is_pending() && !semaphore.is_closed());
        semaphore.close();
        ensure!(semaphore.is_closed());
        ensure!(matches!(
            poll(waiting.as_mut()),
            Poll::Ready(Err(AcquireError::Closed))
        ));
        drop(held);
        ensure!(semaphore.try_acquire(1).err() == Some(TryError::Closed));
        ensure!(block_on(semaphore.acquire(1))?.err() == Some(AcquireError::Closed));
        ensure!(Error::from(Closed) == ESHUTDOWN);
        ensure!(Error::from(TryError::Closed) == ESHUTDOWN);
        ensure!(Error::from(TryError::Busy) == EAGAIN);
        Ok(())
    }

    // ---- RwSemaphore, Mutex, their guards and futures ----

    #[test]
    fn readers_share_and_writers_do_not() -> Result {
        both(|| async {
            let lock = RwSemaphore::new(1);
            let (one, two): (ReadGuard<'_, _>, ReadGuard<'_, _>) =
                (lock.read().await?, lock.try_read()?);
            ensure!(*one + *two == 2 && lock.try_write().err() == Some(TryError::Busy));
            drop((one, two));
            let mut writer: WriteGuard<'_, _> = lock.write().await?;
            *writer = 5;
            ensure!(lock.try_read().err() == Some(TryError::Busy));
            drop(writer);
            ensure!(lock.contended() == 0 && lock.into_inner() == 5);
            Ok(())
        })
    }

    #[test]
    fn downgrade_lets_readers_in_and_no_writer() -> Result {
        let lock = RwSemaphore::new(0);
        let mut writer = lock.try_write()?;
        let mut reads: core::pin::Pin<&mut Read<'_, _>> = pin!(lock.read());
        ensure!(poll(reads.as_mut()).is_pending());
        let mut writes: core::pin::Pin<&mut Write<'_, _>> = pin!(lock.write());
        ensure!(poll(writes.as_mut()).is_pending());
        *writer = 9;
        let reader = writer.downgrade();
        let Poll::Ready(Ok(other)) = poll(reads.as_mut()) else {
            return Err(EINVAL);
        };
        ensure!(*reader + *other == 18 && poll(writes.as_mut()).is_pending());
        drop((reader, other));
        ensure!(poll(writes.as_mut()).is_ready() && lock.contended() == 2);
        Ok(())
    }

    #[test]
    fn rw_semaphore_for_threads() -> Result {
        let lock = Arc::new(RwSemaphore::new(0), GFP_KERNEL)?;
        *lock.write_blocking()? += 1;
        ensure!(*lock.read_blocking()? == 1);
        // Has to wait
        let (holds, held) = oneshot()?;
        let theirs = lock.clone();
        let scope = Scope::new()?;
        drop(scope.spawn(async move {
            let mut guard = theirs.write().await?;
            let _ = holds.send(());
            sleep(MS).await;
            *guard += 1;
            Ok::<_, Error>(())
        })?);
        block_on(held)??;
        ensure!(*lock.read_blocking()? == 2);
        lock.close();
        ensure!(lock.read_blocking().err() == Some(ESHUTDOWN));
        ensure!(lock.write_blocking().err() == Some(ESHUTDOWN));
        ensure!(block_on(lock.read())?.err() == Some(Closed));
        ensure!(lock.try_write().err() == Some(TryError::Closed));
        Ok(())
    }

    #[test]
    fn mutex_excludes() -> Result {
        both(|| async {
            let mutex = Arc::new(Mutex::new(0), GFP_KERNEL)?;
            let theirs = mutex.clone();
            let count = || async {
                for _ in 0..100 {
                    let mut guard: MutexGuard<'_, _> = theirs.lock().await?;
                    let before = *guard;
                    yield_now().await;
                    *guard = before + 1;
                }
                Ok::<_, Error>(())
            };
            try_join!(count(), count(), count())?;
            ensure!(*mutex.try_lock()? == 300);
            Ok(())
        })
    }

    #[test]
    fn mutex_for_threads_and_closed() -> Result {
        let mutex = Mutex::new(1);
        let guard = mutex.lock_blocking()?;
        ensure!(mutex.try_lock().err() == Some(TryError::Busy));
        let mut waiting: core::pin::Pin<&mut Locking<'_, _>> = pin!(mutex.lock());
        ensure!(poll(waiting.as_mut()).is_pending());
        mutex.close();
        ensure!(matches!(poll(waiting.as_mut()), Poll::Ready(Err(Closed))));
        drop(guard);
        ensure!(mutex.lock_blocking().err() == Some(ESHUTDOWN));
        ensure!(Mutex::new(3).into_inner() == 3);
        Ok(())
    }

    // ---- channel, oneshot, Notify ----

    #[test]
    fn channel_keeps_order_and_capacity() -> Result {
        both(|| async {
            let (tx, mut rx) = channel(2)?;
            ensure!(rx.try_recv() == Err(TryError::Busy));
            tx.send(1).await?;
            tx.clone().try_send(2).map_err(|(error, _)| error)?;
            ensure!(tx.try_send(3) == Err((TryError::Busy, 3)));
            ensure!(rx.recv().await == Some(1) && rx.recv().await == Some(2));
            let (sent, got) = join!(tx.send(4), rx.recv());
            ensure!(sent.is_ok() && got == Some(4));
            tx.send(5).await?;
            drop(tx);
            ensure!(rx.recv().await == Some(5));
            ensure!(rx.recv().await.is_none() && rx.recv().await.is_none());
            ensure!(rx.try_recv() == Err(TryError::Closed));
            Ok(())
        })
    }

    #[test]
    fn channel_without_receiver_drops_values() -> Result {
        both(|| async {
            let drops = counter()?;
            let (tx, rx) = channel(2)?;
            tx.send(Dropped(drops.clone())).await?;
            drop(rx);
            ensure!(drops.load(Relaxed) == 1);
            ensure!(tx.send(Dropped(drops.clone())).await == Err(Closed));
            ensure!(drops.load(Relaxed) == 2);
            let refused = tx.try_send(Dropped(drops.clone()));
            ensure!(matches!(refused, Err((TryError::Closed, _))));
            Ok(())
        })
    }

    #[test]
    fn oneshot_sends_once() -> Result {
        both(|| async {
            let (tx, rx) = oneshot()?;
            ensure!(!tx.is_closed());
            let (sent, got) = join!(async { tx.send(1) }, rx);
            ensure!(sent == Ok(()) && got == Ok(1));
            let (tx, rx) = oneshot::<u8>()?;
            drop(tx);
            ensure!(rx.await == Err(Closed));
            let (tx, rx) = oneshot()?;
            drop(rx);
            ensure!(tx.is_closed() && tx.send(2) == Err(2));
            Ok(())
        })
    }

    #[test]
    fn notify_remembers_one() -> Result {
        both(|| async {
            let notify = Notify::default();
            notify.notify_one();
            notify.notify_one();
            notify.notified().await?;
            ensure!(timeout(MS, notify.notified()).await == Err(Elapsed));
            let (woken, ()) = join!(notify.notified(), async { notify.notify_one() });
            ensure!(woken == Ok(()));
            notify.close();
            ensure!(notify.notified().await == Err(Closed));
            Ok(())
        })
    }

    // ---- time ----

    #[test]
    fn sleep_is_not_shorter() -> Result {
        both(|| async {
            let start = Instant::now();
            sleep(2 * MS).await;
            ensure!(Instant::now().since(start) >= 2 * MS);
            sleep_until(start).await;
            let later = start + 5 * MS;
            let until: Sleep = sleep_until(later);
            until.await;
            ensure!(Instant::now() >= later && later.since(start) == 5 * MS);
            ensure!(start.since(later) == Duration::ZERO);
            ensure!(start + Duration::MAX > later);
            Ok(())
        })
    }

    #[test]
    fn timeout_drops_what_is_late() -> Result {
        both(|| async {
            let drops = counter()?;
            let dropped = Dropped(drops.clone());
            let late = async move {
                pending::<()>().await;
                drop(dropped);
            };
            ensure!(timeout(MS, late).await == Err(Elapsed));
            ensure!(drops.load(Relaxed) == 1);
            ensure!(timeout(LONG, async { 1 }).await == Ok(1));
            ensure!(Error::from(Elapsed) == ETIMEDOUT);
            Ok(())
        })
    }

    #[test]
    fn interval_ticks_and_skips() -> Result {
        both(|| async {
            // Two milliseconds, as a power of two
            const PERIOD: u64 = 1 << 21;
            let mut ticks: Interval = interval(Duration::from_nanos(PERIOD));
            let first = ticks.tick().await;
            let mut before = first;
            for _ in 0..3 {
                let tick = ticks.tick().await;
                // Later if some were missed, but never in between.
                let passed = tick.since(before).as_nanos() as u64;
                ensure!(passed >= PERIOD && passed & (PERIOD - 1) == 0);
                before = tick;
            }
            sleep(5 * MS).await;
            ticks.tick().await;
            // What was missed does not come now, all at once.
            ensure!(ticks.tick().await.since(before) >= 5 * MS);
            Ok(())
        })
    }

    // ---- Block, bio ----

    const SIZE: usize = Block::SIZE;

    #[test]
    fn block_is_a_page_or_vacant() -> Result {
        let mut block = Block::vacant();
        ensure!(block.as_slice().is_empty() && block.as_mut_slice().is_empty());
        block.fill_vacant()?;
        ensure!(block.as_slice().len() == SIZE && block.as_slice().iter().all(|&b| b == 0));
        let mut block = Block::new()?;
        block.as_mut_slice().fill(7);
        block.fill_vacant()?;
        ensure!(block.as_slice().iter().all(|&b| b == 7));
        Ok(())
    }

    #[test]
    fn block_is_written_and_read() -> Result {
        both(|| async {
            let device = device()?;
            let mut block = Block::new()?;
            for (pos, fua) in [(0, false), (SIZE as u64, true)] {
                block.as_mut_slice().fill(pos as u8 + 3);
                block.write(device, pos, 0, SIZE, fua).await?;
                block.as_mut_slice().fill(0);
                block.read(device, pos, 0, SIZE).await?;
                ensure!(block.as_slice().iter().all(|&b| b == pos as u8 + 3));
            }
            // A part, into the middle
            let mut block = Block::vacant();
            block.read(device, 0, 512, 512).await?;
            let (before, rest) = block.as_slice().split_at(512);
            ensure!(before.iter().all(|&b| b == 0));
            ensure!(rest.iter().take(512).all(|&b| b == 3));
            Ok(())
        })
    }

    #[test]
    fn a_block_goes_from_device_to_device() -> Result {
        both(|| async {
            let device = device()?;
            // For one request at a time: a block that kept it would leave none for the other.
            let reserve = Reserve::new(1, Reserve::OVERHEAD + 64)?;
            let ways = [
                device.clone(),
                device.clone().reserved(&reserve),
                device.clone().without_merging(),
                device.clone().with_priority(Priority::idle()),
            ];
            let (mut from, mut to) = (Block::new()?, Block::vacant());
            let mut byte = 0;
            for writes in &ways {
                for reads in &ways {
                    byte += 1;
                    from.as_mut_slice().fill(byte);
                    from.write(writes, 0, 0, SIZE, false).await?;
                    to.read(reads, 0, 0, SIZE).await?;
                    ensure!(to.as_slice().iter().all(|&b| b == byte));
                    ensure!(from.as_slice() == to.as_slice());
                    // Gone with the request, and not for the next
                    drop(timeout(Duration::ZERO, to.read(device, 0, 0, SIZE)).await);
                }
            }
            // What cannot be begun changes nothing.
            ensure!(from.read(device, 1, 0, SIZE).await == Err(EINVAL));
            ensure!(from.as_slice().iter().all(|&b| b == byte));
            Ok(())
        })
    }

    #[test]
    fn block_refuses_what_does_not_fit() -> Result {
        both(|| async {
            let device = device()?;
            let mut block = Block::new()?;
            ensure!(block.read(device, 1, 0, SIZE).await == Err(EINVAL));
            ensure!(block.read(device, 0, 512, SIZE).await == Err(EINVAL));
            ensure!(block.write(device, 0, 0, 13, false).await == Err(EINVAL));
            ensure!(block.read(device, 0, 0, 0).await == Ok(()));
            ensure!(block.read(device, device.size()?, 0, SIZE).await == Err(EIO));
            // The device has the page, for a while.
            drop(timeout(Duration::ZERO, block.read(device, 0, 0, SIZE)).await);
            block.read(device, 0, 0, SIZE).await
        })
    }

    #[test]
    fn blocks_are_written_and_read_across_requests() -> Result {
        both(|| async {
            let device = device()?;
            let (pages, base) = (300, 1 << 20);
            let mut blocks = Blocks::new(pages)?;
            ensure!(blocks.len() == pages * SIZE && !blocks.is_empty());
            for page in 0..pages {
                blocks.page_mut(page).fill(page as u8);
            }
            blocks.write(device, base, 0, pages * SIZE, false).await?;
            let mut half = Blocks::new(pages)?;
            let (from, len) = (255 * SIZE + 512, 2 * SIZE);
            half.read(device, base + from as u64, from, len).await?;
            ensure!(half.page(255)[511] == 0 && half.page(255)[512] == 255);
            ensure!(half.page(256)[0] == 0 && half.page(257)[511] == 1);
            ensure!(half.page(257)[512] == 0 && half.page(pages).is_empty());
            ensure!(half.read(device, base, SIZE, pages * SIZE).await == Err(EINVAL));
            ensure!(half.read(device, 1, 0, SIZE).await == Err(EINVAL));
            ensure!(half.read(device, device.size()?, 0, SIZE).await == Err(EIO));
            ensure!(half.page(0).len() == SIZE);
            Ok(())
        })
    }

    #[test]
    fn device_tells_of_itself() -> Result {
        let device = device()?;
        ensure!(device.size()? >= 16 << 20);
        ensure!(device.logical_block_size().is_power_of_two());
        ensure!(!device.as_ptr().is_null());
        let scope = Scope::new()?;
        ensure!(Device::open(c"/dev/no such device", false, &scope).is_err());
        Ok(())
    }

    #[test]
    fn device_flushes_discards_and_zeroes() -> Result {
        both(|| async {
            let device = device()?;
            device.flush().await?;
            ensure!(device.discard(1, 512).await == Err(EINVAL));
            ensure!(device.write_zeroes(0, 13).await == Err(EINVAL));
            ensure!(device.discard(u64::MAX, 512).await == Err(EINVAL));
            let mut block = Block::new()?;
            block.as_mut_slice().fill(1);
            let pos = 8 * SIZE as u64;
            block.write(device, pos, 0, SIZE, false).await?;
            for result in [
                device.discard(pos, SIZE as u64).await,
                device.write_zeroes(pos, SIZE as u64).await,
            ] {
                ensure!(matches!(result, Ok(()) | Err(EOPNOTSUPP)));
            }
            Ok(())
        })
    }

    #[test]
    fn device_of_an_ended_scope_refuses() -> Result {
        let scope = Scope::new()?;
        let bdev = core::ptr::NonNull::new(device()?.as_ptr()).ok_or(EINVAL)?;
        // SAFETY: The device is open as long as the module is loaded.
        let device = unsafe { Device::new(bdev, &scope) }?;
        let mut block = Block::new()?;
        block_on(block.read(&device, 0, 0, SIZE))??;
        drop(scope);
        ensure!(block_on(block.read(&device, 0, 0, SIZE))? == Err(ESHUTDOWN));
        // What could not be written is still there, to be written again.
        block.as_mut_slice().fill(0x77);
        ensure!(block_on(block.write(&device, 0, 0, SIZE, false))? == Err(ESHUTDOWN));
        ensure!(block.as_slice().len() == SIZE && block.as_slice()[0] == 0x77);
        let mut blocks = Blocks::new(300)?;
        blocks.page_mut(299).fill(0x88);
        let all = blocks.len();
        ensure!(block_on(blocks.write(&device, 0, 0, all, false))? == Err(ESHUTDOWN));
        ensure!(blocks.page(299).first() == Some(&0x88) && blocks.page(0).len() == SIZE);
        Ok(())
    }

    /// Pages of our own, and who is told when the device is done.
    struct Pages([kernel::page::Page; 2], Arc<Atomic<u32>>);

    impl Payload for Pages {
        const END: Option<fn(&mut Self, Result)> = Some(|pages, result| {
            if result.is_ok() {
                pages.1.fetch_add(1, Full);
            }
        });
    }

    /// Reads two pages with one request.
    fn submit_pages(
        device: &Device,
        op: Op,
        ended: &Arc<Atomic<u32>>,
    ) -> Result<bio::InFlight<Pages>> {
        let page = || kernel::page::Page::alloc_page(GFP_KERNEL);
        let pages = [page()?, page()?];
        let segment = |page: &kernel::page::Page| Segment {
            // SAFETY: A page's pointer is never null.
            page: unsafe { core::ptr::NonNull::new_unchecked(page.as_ptr()) },
            offset: 0,
            len: SIZE as u32,
        };
        let segments = [segment(&pages[0]), segment(&pages[1])];
        let pages = Pages(pages, ended.clone());
        // SAFETY: The pages go along.
        unsafe { bio::submit(device, op, 0, segments.into_iter(), pages) }
    }

    #[test]
    fn bio_tells_its_payload_and_gives_it_back() -> Result {
        both(|| async {
            let (device, ended) = (device()?, counter()?);
            let (result, pages) = submit_pages(device, Op::ReadMeta, &ended)?.await;
            result?;
            ensure!(ended.load(Relaxed) == 1 && pages.is_some_and(|pages| pages.0.len() == 2));
            Ok(())
        })
    }

    #[test]
    fn bio_dropped_goes_on_and_plugged_goes_out_together() -> Result {
        let (device, ended) = (device()?, counter()?);
        let (mut first, mut second) = (None, None);
        bio::plugged(|| {
            first = submit_pages(device, Op::Read, &ended).ok();
            second = submit_pages(device, Op::Read, &ended).ok();
        });
        drop(first);
        block_on(second.ok_or(ENOMEM)?)?.0?;
        // The first one ends too.
        while ended.load(Relaxed) < 2 {
            kernel::time::delay::fsleep(kernel::time::Delta::from_micros(100));
        }
        Ok(())
    }
}
