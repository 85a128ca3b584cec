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
    block_on, block_on_killable, channel, current, interval, join, memory_freed, on_worker,
    oneshot, run, select, sleep, sleep_until, timeout, try_join, yield_now, Block, Blocks, Closed,
    Device, Executor, Instant, JoinSet, Mutex, Notify, Priority, Reserve, RwSemaphore, Scope,
    Semaphore,
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
        hang: u32 {
            default: 0,
            description: "1: wait until the thread is killed",
        },
        starve: u32 {
            default: 0,
            description: "1: memory that was set aside is all there is",
        },
        device: u32 {
            default: 0,
            description: "1: write to /dev/upcall_test, of 64 MiB",
        },
        late_ms: u32 {
            default: 0,
            description: "Write to /dev/upcall_test beside a task that must not be later than this",
        },
        hungry_ms: u32 {
            default: 0,
            description: "Allocate for so long beside a task that must not be late",
        },
    },
}

struct UpcallTest {
    /// Tasks on an executor of its own wait too.
    _own: Scope,
    /// Dropped first: its tasks wait for the rest.
    _scope: Scope,
    _never: Arc<Never>,
}

const MS: Duration = Duration::from_millis(1);
/// Not over before the test is, also on a machine that is emulated and busy.
const LONG: Duration = Duration::from_secs(1_000_000);

/// Fails the load, and says where.
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            pr_err!("{}:{}: {}\n", file!(), line!(), stringify!($condition));
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
    check!(timeout(LONG, sleep(MS)).await.is_ok());
    let mut ticks = interval(5 * MS);
    let first = ticks.tick().await;
    check!(ticks.tick().await.since(first) >= 5 * MS);
    let slower = async { sleep(LONG).await };
    let first = select! {
        () = slower => "slower",
        () = sleep(5 * MS) => "faster",
    };
    check!(first == "faster");
    // Dropped before it fires
    let _ = join!(timeout(MS, sleep(LONG)), yield_now());
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

/// Executors of our own, beside the default one.
fn executors() -> Result {
    check!(current().is_none());
    let own = Executor::new(c"upcall_test_own")?;
    let scope = own.scope()?;
    let inside = own.clone();
    let ours = scope.named(c"test: inside").spawn(async move {
        yield_now().await;
        let me = current().ok_or(EINVAL)?;
        check!(me.name == "test: inside" && me.polls == 2 && me.id > 0);
        check!(inside.is_current() && on_worker());
        check!(!Executor::shared()?.is_current());
        Ok(())
    })?;
    block_on(ours)???;
    let blocking = own.clone();
    let blocking = scope.spawner().spawn_blocking(move || {
        // SAFETY: We may sleep.
        unsafe { kernel::bindings::msleep(1) };
        !blocking.is_current() && !on_worker()
    })?;
    check!(block_on(blocking)??);

    // Two threads that wake each other
    let pair = Arc::new((Notify::new(), Notify::new()), GFP_KERNEL)?;
    let default = Scope::new()?;
    let (a, b) = (pair.clone(), pair);
    let ping = scope.spawn(async move {
        for _ in 0..1000 {
            a.0.notify_one();
            a.1.notified().await?;
        }
        Ok::<_, Closed>(())
    })?;
    let pong = default.spawn(async move {
        for _ in 0..1000 {
            b.0.notified().await?;
            b.1.notify_one();
        }
        Ok::<_, Closed>(())
    })?;
    block_on(ping)???;
    block_on(pong)???;

    // The handle goes before the scope, and the scope's last reference by the executor itself
    drop(own);
    block_on(scope.spawn(yield_now())?)??;
    drop(scope);
    for n in 0..8u32 {
        // The handles go before the scope.
        let own = Executor::new(c"short")?;
        let scope = if n & 1 == 0 {
            own.scope()?
        } else {
            Scope::on(&own, &Executor::blocking(c"short_blocking")?)?
        };
        drop(own);
        scope.spawn(sleep(LONG))?;
        scope.spawn(async {
            loop {
                yield_now().await;
            }
        })?;
        // A scope that only its tasks have
        let spawner = scope.spawner();
        scope.spawn(async move {
            sleep(LONG).await;
            drop(spawner);
        })?;
        if n & 2 == 0 {
            block_on(scope.spawn(yield_now())?)??;
        }
    }
    Ok(())
}

/// Writes pages at the same time, in no order, and reads them back.
async fn device(scope: Scope, disk: Device) -> Result {
    const PAGES: u64 = 256;
    const SIZE: usize = Block::SIZE;
    check!(disk.size() == Ok(64 << 20));
    let mut set = JoinSet::new(scope, 32)?;
    for n in 0..PAGES {
        let disk = disk.clone();
        let write = async move {
            let page = n.wrapping_mul(37) & (PAGES - 1);
            let mut block = Block::new()?;
            block.as_mut_slice().fill(page as u8);
            let pos = page * SIZE as u64;
            block.write(&disk, pos, 0, SIZE, page % 2 == 0).await
        };
        set.spawn(write).await?.transpose()?.transpose()?;
    }
    while let Some(ended) = set.next().await {
        ended??;
    }
    disk.flush().await?;
    let mut block = Block::new()?;
    for page in 0..PAGES {
        block.as_mut_slice().fill(0xee);
        block.read(&disk, page * SIZE as u64, 0, SIZE).await?;
        check!(block.as_slice().iter().all(|&byte| byte == page as u8));
    }
    check!(block.write(&disk, 3, 0, SIZE, false).await == Err(EINVAL));
    check!(block.write(&disk, 64 << 20, 0, SIZE, false).await.is_err());
    check!(disk.discard(1, 512).await == Err(EINVAL));
    disk.discard(SIZE as u64, 4 * SIZE as u64).await?;
    for (page, byte) in [(0, 0), (1, 0), (4, 0), (5, 5)] {
        block.read(&disk, page * SIZE as u64, 0, SIZE).await?;
        check!(block.as_slice().iter().all(|&b| b == byte));
    }
    // Not every kernel's null_blk can
    match disk.write_zeroes(5 * SIZE as u64, SIZE as u64).await {
        Err(error) => check!(error == EOPNOTSUPP),
        Ok(()) => {
            block.read(&disk, 5 * SIZE as u64, 0, SIZE).await?;
            check!(block.as_slice().iter().all(|&b| b == 0));
        }
    }
    // Given up while the device writes
    let soon = Duration::from_micros(1);
    let _ = timeout(soon, block.write(&disk, 0, 0, SIZE, true)).await;
    Ok(())
}

/// How often a task that wakes each millisecond was later than `limit`, while 64 others write and discard.
async fn late(scope: Scope, disk: Device, limit: Duration) -> Result<u64> {
    const WRITERS: u64 = 64;
    const ROUNDS: u64 = 30;
    let mut set = JoinSet::new(scope, WRITERS as usize + 1)?;
    let writing = Arc::new(Atomic::<u64>::new(WRITERS), GFP_KERNEL)?;
    for n in 0..WRITERS {
        let (disk, writing) = (disk.clone(), writing.clone());
        let write = async move {
            let mut block = Block::new()?;
            for round in 0..ROUNDS {
                let pos = (n * ROUNDS + round) * Block::SIZE as u64;
                block.write(&disk, pos, 0, Block::SIZE, false).await?;
                if let Err(error) = disk.discard(pos, Block::SIZE as u64).await {
                    check!(error == EOPNOTSUPP);
                }
                disk.flush().await?;
            }
            writing.fetch_sub(1, Relaxed);
            Ok(0)
        };
        set.spawn(write).await?.transpose()?.transpose()?;
    }
    let tick = async move {
        let mut count = 0u64;
        while writing.load(Relaxed) != 0 {
            let start = Instant::now();
            sleep(MS).await;
            count += u64::from(Instant::now().since(start) > MS + limit);
        }
        Ok(count)
    };
    set.spawn(tick).await?.transpose()?.transpose()?;
    let mut count = 0;
    while let Some(ended) = set.next().await {
        count += ended??;
    }
    Ok(count)
}

/// What [`hungry`] counts.
#[derive(Clone, Copy, Default)]
struct Hunger {
    /// How often the task that wakes each millisecond was later than the limit.
    late: u64,
    /// How often others got the memory that they asked for, and how often they had to wait for it.
    got: u64,
    refused: u64,
}

/// Tasks that allocate for so long, and wait when there is no memory; beside them one that is not to
/// be later than `limit`.
async fn hungry(scope: Scope, time: Duration, limit: Duration) -> Result<Hunger> {
    const EATERS: usize = 4;
    // 16 MiB in all
    const HELD: usize = 16;
    const PAGES: usize = 64;
    let mut set = JoinSet::new(scope, EATERS + 1)?;
    let start = Instant::now();
    for _ in 0..EATERS {
        let eat = async move {
            let mut count = Hunger::default();
            let mut held = [const { None }; HELD];
            for slot in (0..HELD).cycle() {
                if Instant::now().since(start) >= time {
                    break;
                }
                held[slot] = None;
                match Blocks::new(PAGES) {
                    Ok(blocks) => {
                        held[slot] = Some(blocks);
                        count.got += 1;
                        sleep(MS).await;
                    }
                    Err(error) => {
                        check!(error == ENOMEM);
                        count.refused += 1;
                        memory_freed().await;
                    }
                }
            }
            Ok(count)
        };
        set.spawn(eat).await?.transpose()?.transpose()?;
    }
    let tick = async move {
        let mut count = Hunger::default();
        while Instant::now().since(start) < time {
            let last = Instant::now();
            sleep(MS).await;
            count.late += u64::from(Instant::now().since(last) > MS + limit);
        }
        Ok(count)
    };
    set.spawn(tick).await?.transpose()?.transpose()?;
    let mut sum = Hunger::default();
    while let Some(ended) = set.next().await {
        let count = ended??;
        sum.late += count.late;
        sum.got += count.got;
        sum.refused += count.refused;
    }
    Ok(sum)
}

/// Many pages at once, across the borders of requests, with a priority and memory that was set aside.
async fn many(disk: Device) -> Result {
    const PAGES: usize = 600;
    let reserve = Reserve::new(4, 8192)?;
    let disk = disk
        .with_priority(Priority::best_effort(0))
        .reserved(&reserve);
    let base = 8u64 << 20;
    let mut blocks = Blocks::new(PAGES)?;
    check!(blocks.len() == PAGES << 12 && !blocks.is_empty());
    for n in 0..PAGES {
        blocks.page_mut(n).fill(n as u8);
    }
    let len = blocks.len();
    blocks.write(&disk, base, 0, len, true).await?;
    for n in 0..PAGES {
        blocks.page_mut(n).fill(0);
    }
    // All but half a page at each end
    blocks.read(&disk, base + 2048, 2048, len - 4096).await?;
    for n in 0..PAGES {
        let whole = n > 0 && n < PAGES - 1;
        let (first, last) = if n == 0 { (0, n as u8) } else { (n as u8, 0) };
        let page = blocks.page(n);
        check!(page.len() == 4096);
        check!(whole || (page[0] == first && page[4095] == last));
        check!(!whole || page.iter().all(|&byte| byte == n as u8));
    }
    check!(blocks.page(PAGES).is_empty());
    check!(blocks.read(&disk, base, 512, len).await == Err(EINVAL));
    check!(blocks.read(&disk, base + 1, 0, 512).await == Err(EINVAL));
    check!(blocks.read(&disk, u64::MAX - 511, 0, 512).await.is_err());
    check!(blocks.read(&disk, 64 << 20, 0, 4096).await.is_err());
    check!(blocks.page(0).len() == 4096);
    check!(blocks.read(&disk, base, 0, 0).await.is_ok());
    // Given up, and then read again
    let soon = Duration::from_micros(1);
    let _ = timeout(soon, blocks.read(&disk, base, 0, len)).await;
    blocks.read(&disk, base, 0, len).await?;
    for n in 0..PAGES {
        check!(blocks.page(n).iter().all(|&byte| byte == n as u8));
    }
    Ok(())
}

/// Memory that was set aside serves when there is no other.
fn reserves(disk: &Device, starve: bool) -> Result {
    check!(Reserve::new(0, 512).is_err());
    let reserve = Reserve::new(2, Reserve::OVERHEAD + 256)?;
    let scope = Scope::new()?;
    let spawner = scope.spawner().reserved(&reserve);
    let large = [0u8; 1024];
    check!(spawner.spawn(async move { large.len() }).err() == Some(ENOMEM));
    let disk = disk.clone().reserved(&reserve);
    let mut block = Block::new()?;
    let starved = Starved::new(starve);
    if starve {
        check!(scope.spawn(async {}).err() == Some(ENOMEM));
    }
    for n in 0..100u32 {
        let task = spawner.spawn(async move { n })?;
        check!(block_on(task)?? == n);
        block_on(block.write(&disk, 0, 0, 4096, false))??;
        block_on(block.read(&disk, 0, 0, 4096))??;
    }
    // All of it, if there was no other
    let held = [spawner.spawn(sleep(LONG))?, spawner.spawn(sleep(LONG))?];
    drop(starved);
    // Inside an upcall nobody waits for memory, and it all comes back
    let inner = spawner.clone();
    let refused = scope.spawn(async move {
        let _few = Starved::new(starve);
        inner.spawn(async {}).err()
    })?;
    let refused = block_on(refused)??;
    check!(!starve || refused == Some(ENOMEM));
    for task in held {
        task.abort();
        check!(block_on(task)?.is_err());
    }
    Ok(())
}

/// Lets the thread's allocations fail, as `failslab` is set up by the test.
struct Starved;

impl Starved {
    fn new(starve: bool) -> Self {
        set_starved(starve);
        Self
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        set_starved(false);
    }
}

fn set_starved(_starve: bool) {
    #[cfg(CONFIG_FAULT_INJECTION)]
    // SAFETY: The flag is the thread's own.
    unsafe {
        (*kernel::task::Task::current_raw()).make_it_fail = _starve.into()
    };
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
    let aborted = scope.spawn(sleep(LONG))?;
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
        scope.spawn(sleep(LONG + i * MS))?;
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
            sleep(LONG).await;
            tx.send(1)
        })?;
    }
    scope.spawn(receiver)?;
    scope.spawn(aborted)?;
    scope.spawn(async move {
        sleep(LONG).await;
        tx.send(1).await
    })?;
    Ok(())
}

impl kernel::Module for UpcallTest {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        if module_parameters::hang.value() != 0 {
            check!(block_on_killable(yield_now()).is_ok());
            return Err(block_on_killable(sleep(LONG)).err().unwrap_or(EINVAL));
        }
        let scope = Scope::new()?;
        block_on(timers())??;
        block_on(scope.spawn(timers())?)???;
        executors()?;
        block_on(values())??;
        block_on(scope.spawn(values())?)???;
        let set = Arc::new(Mutex::new(JoinSet::new(Scope::new()?, 2)?), GFP_KERNEL)?;
        block_on(pipeline(set))??;
        block_on(scope.spawn(locks(Scope::new()?))?)???;
        if module_parameters::device.value() != 0 {
            // By the path of this thread: the executor's has no file system.
            check!(Device::open(c"/dev/no such", false, &scope).err() == Some(ENOENT));
            let open = |scope: &Scope| Device::open(c"/dev/upcall_test", true, scope);
            let inner = Scope::new()?;
            let disk = open(&inner)?;
            block_on(device(inner, disk))??;
            let again = Scope::new()?;
            let disk = open(&again)?;
            block_on(many(disk.clone()))??;
            reserves(&disk, module_parameters::starve.value() != 0)?;
            block_on(again.spawn(many(disk))?)???;
            let inner = Scope::new()?;
            let disk = open(&inner)?;
            block_on(scope.spawn(device(inner, disk))?)???;
        }
        let limit = module_parameters::late_ms.value();
        if limit != 0 {
            let inner = Scope::new()?;
            let disk = Device::open(c"/dev/upcall_test", true, &inner)?;
            let limit = Duration::from_millis(limit.into());
            let count = block_on(scope.spawn(late(inner, disk, limit))?)???;
            pr_info!("{count} times late\n");
            // A machine that is emulated stands still now and then.
            check!(count <= 2);
        }
        let time = module_parameters::hungry_ms.value();
        if time != 0 {
            let time = Duration::from_millis(time.into());
            pr_info!("allocating\n");
            let sum = block_on(scope.spawn(hungry(Scope::new()?, time, 250 * MS))?)???;
            let Hunger { late, got, refused } = sum;
            pr_info!("{late} times late, {got} allocations, {refused} refused\n");
            check!(got > 0 && refused > 0);
            check!(late <= 2);
        }
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
        let own = Executor::new(c"upcall_test")?.scope()?;
        for _ in 0..module_parameters::pending.value() {
            own.named(c"test: on its own").spawn(sleep(LONG))?;
            own.spawner().spawn_blocking(|| ())?;
        }
        Ok(Self {
            _own: own,
            _scope: scope,
            _never: never,
        })
    }
}
