// SPDX-License-Identifier: GPL-2.0

//! The runtime's test module, loaded by `selftests/runtime`.
//!
//! Loading it runs checks of what only the kernel can show: timers, and all parts on real threads.
//! It then leaves `pending` tasks behind in each state in which a task can wait, for its removal to
//! take away.

use core::time::Duration;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use upcall::{
    block_on, channel, interval, join, oneshot, run, select, sleep, sleep_until, timeout, try_join,
    yield_now, Closed, Instant, JoinSet, Mutex, Notify, RwSemaphore, Scope, Semaphore,
};

module! {
    type: UpcallTest,
    name: "upcall_test",
    authors: ["The Upcall developers"],
    description: "Tests the runtime",
    license: "GPL",
    params: {
        pending: u32 {
            default: 100,
            description: "How many tasks are left waiting in each way",
        },
    },
}

struct UpcallTest {
    /// Dropped first: its tasks wait for the rest.
    _scope: Scope,
    _never: Arc<Never>,
}

const MS: Duration = Duration::from_millis(1);

/// Fails the load, and says where.
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            pr_err!("line {}: {}\n", line!(), stringify!($condition));
            return Err(EINVAL);
        }
    };
}

/// On the calling thread and in a task: each of them has its own kind of memory for the timer.
async fn timers() -> Result {
    let start = Instant::now();
    sleep(20 * MS).await;
    check!(Instant::now().since(start) >= 20 * MS);
    sleep_until(start).await;
    check!(timeout(20 * MS, core::future::pending::<()>())
        .await
        .is_err());
    check!(timeout(10_000 * MS, sleep(MS)).await.is_ok());
    let mut ticks = interval(5 * MS);
    let first = ticks.tick().await;
    check!(ticks.tick().await.since(first) >= 5 * MS);
    let slower = async { sleep(50 * MS).await };
    let first = select! {
        () = slower => "slower",
        () = sleep(5 * MS) => "faster",
    };
    check!(first == "faster");
    // Dropped before it fires
    let _ = join!(timeout(MS, sleep(10_000 * MS)), yield_now());
    Ok(())
}

/// Two producers, one consumer, a channel that is mostly full.
async fn pipeline(scope: Arc<Mutex<JoinSet<Result<(), Closed>>>>) -> Result {
    let (tx, mut rx) = channel(4)?;
    for first in [0u64, 1000] {
        let tx = tx.clone();
        scope.lock().await?.try_spawn(async move {
            for value in first..first + 1000 {
                tx.send(value).await?;
            }
            Ok(())
        })?;
    }
    drop(tx);
    let mut sum = 0;
    while let Some(value) = rx.recv().await {
        sum += value;
    }
    check!(sum == 1999 * 2000 / 2);
    Ok(())
}

/// Counts with every kind of lock, from many tasks.
async fn locks(scope: Scope) -> Result {
    const TASKS: usize = 64;
    let counters = Arc::new(
        (
            Mutex::new(0usize),
            RwSemaphore::new(0usize),
            Semaphore::new(2),
        ),
        GFP_KERNEL,
    )?;
    let inside = Arc::new(Atomic::<usize>::new(0), GFP_KERNEL)?;
    let mut set = JoinSet::new(scope, 16)?;
    for n in 0..TASKS {
        let (counters, inside) = (counters.clone(), inside.clone());
        set.spawn(async move {
            *counters.0.lock().await? += 1;
            *counters.1.write().await? += 1;
            let permit = counters.2.acquire(1).await?;
            check!(inside.fetch_add(1, Relaxed) < 2);
            sleep(Duration::from_micros(100 * (n as u64 & 3))).await;
            inside.fetch_sub(1, Relaxed);
            drop(permit);
            check!(*counters.1.read().await? > 0);
            Ok(())
        })
        .await?
        .transpose()?
        .transpose()?;
    }
    while let Some(ended) = set.next().await {
        ended??;
    }
    check!(*counters.0.lock().await? == TASKS && *counters.1.write().await? == TASKS);
    Ok(())
}

async fn values() -> Result {
    let (tx, rx) = oneshot()?;
    let (sent, received) = join!(async { tx.send(7) }, rx);
    check!(sent.is_ok() && received == Ok(7));
    let (a, b) = try_join!(async { Ok::<_, Error>(1) }, async { Ok(2) })?;
    check!(a + b == 3);
    let chain = run(async { Ok::<_, Error>(1) })
        .then(|n| async move { Ok(n + 1) })
        .then(|n| async move { Err::<u32, _>(if n == 2 { EAGAIN } else { EINVAL }) });
    check!(chain.await == Err(EAGAIN));
    let notify = Notify::new();
    notify.notify_one();
    notify.notified().await?;
    Ok(())
}

/// What is never to be had.
struct Never {
    lock: RwSemaphore<()>,
    mutex: Mutex<()>,
    semaphore: Semaphore,
    notify: Notify,
}

fn leave_pending(scope: &Scope, never: &Arc<Never>, count: u32) -> Result {
    // Whoever holds the locks waits too
    let n = never.clone();
    scope.spawn(async move {
        let _guards = (n.lock.write().await, n.mutex.lock().await);
        core::future::pending::<()>().await;
    })?;
    let (tx, mut rx) = channel::<u32>(1)?;
    let receiver = scope.spawn(async move { rx.recv().await })?;
    let aborted = scope.spawn(sleep(3_600_000 * MS))?;
    for i in 0..count {
        let n = || never.clone();
        let (a, b, c, d, e) = (n(), n(), n(), n(), n());
        scope.spawn(async move { drop(a.lock.read().await) })?;
        scope.spawn(async move { drop(b.mutex.lock().await) })?;
        scope.spawn(async move { drop(c.semaphore.acquire(1).await) })?;
        scope.spawn(async move {
            let _ = d.notify.notified().await;
        })?;
        scope.spawn(async move {
            let _ = e.lock.write().await;
        })?;
        scope.spawn(sleep(3_600_000 * MS + i * MS))?;
        // Always ready
        if i < 10 {
            scope.spawn(async {
                loop {
                    yield_now().await;
                }
            })?;
        }
        let (tx, rx) = oneshot::<u32>()?;
        scope.spawn(rx)?;
        scope.spawn(async move {
            sleep(3_600_000 * MS).await;
            tx.send(1)
        })?;
    }
    scope.spawn(receiver)?;
    scope.spawn(aborted)?;
    scope.spawn(async move {
        sleep(3_600_000 * MS).await;
        tx.send(1).await
    })?;
    Ok(())
}

impl kernel::Module for UpcallTest {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let scope = Scope::new()?;
        block_on(timers())??;
        block_on(scope.spawn(timers())?)???;
        block_on(values())??;
        block_on(scope.spawn(values())?)???;
        let set = Arc::new(Mutex::new(JoinSet::new(Scope::new()?, 2)?), GFP_KERNEL)?;
        block_on(pipeline(set))??;
        block_on(scope.spawn(locks(Scope::new()?))?)???;
        let never = Arc::new(
            Never {
                lock: RwSemaphore::new(()),
                mutex: Mutex::new(()),
                semaphore: Semaphore::new(0),
                notify: Notify::new(),
            },
            GFP_KERNEL,
        )?;
        leave_pending(&scope, &never, module_parameters::pending.value())?;
        Ok(Self {
            _scope: scope,
            _never: never,
        })
    }
}
