// SPDX-License-Identifier: GPL-2.0

//! Waves of tasks that wait in every way, are woken from every context, and are cancelled at any
//! moment in every way.
//!
//! Each future has a [`Token`], which tells how the future ended, and that it ended once. A wave
//! has a scope of its own and keeps handles of its tasks; how many were spawned, refused for want of
//! memory, finished and cancelled must agree, exactly, with what handles and `spawn` said.
//!
//! Waves run in both ways: on the executor, where the drop of a scope cancels in place, and in
//! threads bound to each CPU, which spawn, wake and abort from there while the executor runs.

use crate::{each_cpu, stopped, tolerable, verify, Rng, Stats, Thread};
use core::time::Duration;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Full, Relaxed};
use kernel::sync::Arc;
use kernel::types::Opaque;
use upcall::{
    block_on, channel, join, oneshot, race, select, sleep, timeout, yield_now, Block, Device,
    Instant, JoinHandle, JoinSet, Notify, Scope, Semaphore, Spawner,
};

/// How the futures of a wave ended.
#[derive(Default)]
struct Tally {
    made: Counter,
    finished: Counter,
    dropped: Counter,
}

struct Counter(Atomic<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn add(&self, value: u64) {
        // Ordered with what it counts: who waits for a task then sees it.
        self.0.fetch_add(value, Full);
    }
}

impl Tally {
    fn complete(&self) -> bool {
        self.made.get() == self.finished.get() + self.dropped.get()
    }
}

/// What every future owns.
struct Token {
    tally: Arc<Tally>,
    alive: u64,
    finished: bool,
}

const ALIVE: u64 = 0x616c_6976_6500_0000;

impl Token {
    fn new(tally: &Arc<Tally>) -> Self {
        tally.made.add(1);
        Self {
            tally: tally.clone(),
            alive: ALIVE,
            finished: false,
        }
    }

    /// The future came to its end.
    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let alive = core::mem::replace(&mut self.alive, 0);
        verify!(alive == ALIVE, "a future was dropped that is not there");
        let ended = if self.finished {
            &self.tally.finished
        } else {
            &self.tally.dropped
        };
        ended.add(1);
    }
}

/// How many permits all tasks share.
const PERMITS: usize = 4;

/// What all waves share.
pub(crate) struct Env {
    semaphore: Semaphore,
    notify: Notify,
    disks: [Option<Device>; 2],
    /// Of what tasks of waves spawn.
    inner: Arc<Tally>,
    /// Of all waves.
    total: Tally,
    refused: Counter,
    cancelled: Counter,
    waves: Counter,
    /// How often each kind of task finished.
    kinds: [Counter; KINDS as usize],
    alarms: Counter,
    took: Stats,
}

impl Env {
    pub(crate) fn new(scope: &Scope, disks: bool) -> Result<Arc<Self>> {
        let open = |path| Device::open(path, false, scope);
        Ok(Arc::new(
            Self {
                semaphore: Semaphore::new(PERMITS),
                notify: Notify::new(),
                disks: if disks {
                    [
                        Some(open(c"/dev/upcall_torture0")?),
                        Some(open(c"/dev/upcall_torture1")?),
                    ]
                } else {
                    [None, None]
                },
                inner: Arc::new(Tally::default(), GFP_KERNEL)?,
                total: Tally::default(),
                refused: Counter::default(),
                cancelled: Counter::default(),
                waves: Counter::default(),
                kinds: core::array::from_fn(|_| Counter::default()),
                alarms: Counter::default(),
                took: Stats::new(),
            },
            GFP_KERNEL,
        )?)
    }

    /// Checks what is left when all tasks are gone, and says what was done.
    pub(crate) fn report(&self, long: bool) {
        let (total, inner) = (&self.total, &self.inner);
        verify!(inner.complete(), "tasks of tasks are left");
        verify!(
            self.semaphore.available() == PERMITS,
            "{} of {PERMITS} permits are left",
            self.semaphore.available()
        );
        pr_info!(
            "tasks: {} waves, {} spawned = {} finished + {} cancelled + {} refused\n",
            self.waves.get(),
            total.made.get(),
            total.finished.get(),
            self.cancelled.get(),
            self.refused.get()
        );
        pr_info!(
            "tasks: {} spawned by tasks = {} finished + {} dropped; {} alarms; waves took {}/{}/{} ms\n",
            inner.made.get(),
            inner.finished.get(),
            inner.dropped.get(),
            self.alarms.get(),
            self.took.min(),
            self.took.average(),
            self.took.max()
        );
        for (kind, count) in self.kinds.iter().enumerate() {
            let never = kind as u32 == NEVER || (self.disks[0].is_none() && matches!(kind, 5 | 6));
            verify!(
                !long || never || count.get() > 0,
                "no task of kind {kind} finished"
            );
        }
    }
}

// ---- wakes and aborts from interrupts ----

/// A timer that sends a value, or aborts a task, in an interrupt.
struct Alarm {
    timer: Opaque<bindings::hrtimer>,
    /// Taken by the callback.
    sender: Option<oneshot::Sender<u32>>,
    victim: Option<JoinHandle<u32>>,
    started: bool,
}

impl Alarm {
    fn new() -> Result<KBox<Self>> {
        Ok(KBox::new(
            Self {
                timer: Opaque::uninit(),
                sender: None,
                victim: None,
                started: false,
            },
            GFP_KERNEL,
        )?)
    }

    /// Starts it; in hard or in soft interrupt context. Once. It stays in its box until it is dropped.
    fn start(self: &mut KBox<Self>, after: Duration, soft: bool) {
        let mode = if soft {
            bindings::hrtimer_mode_HRTIMER_MODE_REL_SOFT
        } else {
            bindings::hrtimer_mode_HRTIMER_MODE_REL_HARD
        };
        self.started = true;
        let timer = self.timer.get();
        // SAFETY: The timer does not move, and is cancelled before it goes.
        unsafe {
            bindings::hrtimer_setup(
                timer,
                Some(Self::fire),
                bindings::CLOCK_MONOTONIC as bindings::clockid_t,
                mode,
            );
            bindings::hrtimer_start_range_ns(timer, after.as_nanos() as i64, 0, mode);
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, for a timer that was started, once.
    unsafe extern "C" fn fire(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        // SAFETY: The timer lies in an alarm, which is nobody else's from `start` to `stop`.
        let this = unsafe {
            &mut *timer
                .byte_sub(core::mem::offset_of!(Alarm, timer))
                .cast::<Alarm>()
        };
        if let Some(sender) = this.sender.take() {
            let _ = sender.send(MAGIC);
        }
        if let Some(victim) = &this.victim {
            victim.abort();
        }
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }

    /// Waits for the callback, and gives the victim back.
    fn stop(&mut self) -> Option<JoinHandle<u32>> {
        if core::mem::take(&mut self.started) {
            // SAFETY: It was started.
            unsafe { bindings::hrtimer_cancel(self.timer.get()) };
        }
        self.victim.take()
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.stop();
    }
}

// SAFETY: A timer may be started and cancelled by any thread; the rest may be sent.
unsafe impl Send for Alarm {}

// ---- the tasks ----

const MAGIC: u32 = 0x7570_6361;

const KINDS: u32 = 14;
/// The kind that is never ready.
const NEVER: u32 = 13;

async fn work(env: Arc<Env>, spawner: Spawner, mut rng: Rng, token: Token, kind: u32) -> u32 {
    let rng = &mut rng;
    let result = match kind {
        // Woken by a hard interrupt
        0 => {
            sleep(rng.micros(2000)).await;
            Ok(())
        }
        1 => {
            for _ in 0..rng.below(4) {
                yield_now().await;
            }
            Ok(())
        }
        // Woken by whoever gives a permit back, on any CPU
        2 | 3 => match env.semaphore.acquire(1 + rng.below(2) as usize).await {
            Ok(permit) => {
                yield_now().await;
                drop(permit);
                Ok(())
            }
            Err(_) => Err(EINVAL),
        },
        4 => {
            env.notify.notify_one();
            // Somebody else may have taken it.
            let _ = timeout(rng.micros(500), env.notify.notified()).await;
            Ok(())
        }
        // Woken by the device, in a soft or a hard interrupt
        5 | 6 => read(&env, rng, kind as usize - 5).await,
        7 => alarm(&env, rng).await,
        8 => {
            let far = async { sleep(Duration::from_secs(1000)).await };
            select! {
                () = far => Err(EINVAL),
                permit = env.semaphore.acquire(PERMITS) => permit.map(drop).map_err(Error::from),
                () = sleep(rng.micros(500)) => Ok(()),
            }
        }
        9 => queue(rng).await,
        10 => blocking(&env, &spawner).await,
        11 => boxed(nest(env.clone(), rng.fork())).await,
        12 => boxed(set(env.clone(), rng.fork())).await,
        _ => core::future::pending().await,
    };
    verify!(tolerable(result), "kind {kind}: {result:?}");
    if let Some(count) = env.kinds.get(kind as usize) {
        count.add(1);
    }
    token.finish();
    MAGIC
}

/// Large futures have memory of their own, so that not every task is as large as they are.
async fn boxed(future: impl core::future::Future<Output = Result>) -> Result {
    KBox::pin(future, GFP_KERNEL)?.await
}

async fn read(env: &Env, rng: &mut Rng, disk: usize) -> Result {
    let Some(disk) = env.disks.get(disk).and_then(Option::as_ref) else {
        return Ok(());
    };
    let mut block = Block::vacant();
    let pos = u64::from(rng.below(1024)) * Block::SIZE as u64;
    let read = block.read(disk, pos, 0, Block::SIZE);
    if rng.below(4) != 0 {
        return read.await;
    }
    // Given up, maybe, while the device has the page
    timeout(rng.micros(100), read).await.unwrap_or(Ok(()))
}

async fn alarm(env: &Env, rng: &mut Rng) -> Result {
    let (tx, rx) = oneshot()?;
    let mut alarm = Alarm::new()?;
    alarm.sender = Some(tx);
    alarm.start(rng.micros(1000), rng.below(2) == 0);
    verify!(rx.await == Ok(MAGIC), "an alarm's value");
    env.alarms.add(1);
    Ok(())
}

async fn queue(rng: &mut Rng) -> Result {
    let (tx, mut rx) = channel(1 + rng.below(2) as usize)?;
    let send = async move {
        for value in 0..4u32 {
            if tx.send(value).await.is_err() {
                return;
            }
        }
    };
    let receive = async {
        let mut sum = 0;
        while let Some(value) = rx.recv().await {
            sum += value;
        }
        sum
    };
    let ((), sum) = join!(send, receive);
    verify!(sum == 6, "a channel lost a value");
    Ok(())
}

async fn blocking(env: &Env, spawner: &Spawner) -> Result {
    let token = Token::new(&env.inner);
    let slept = spawner.spawn_blocking(move || {
        kernel::time::delay::fsleep(kernel::time::Delta::from_micros(50));
        token.finish();
        MAGIC
    });
    match slept {
        Ok(handle) => {
            // The scope may have been cancelled in between.
            let value = handle.await;
            verify!(
                value.unwrap_or(MAGIC) == MAGIC,
                "the value of blocking work"
            );
            Ok(())
        }
        // Likewise
        Err(error) if error == ESHUTDOWN => Ok(()),
        Err(error) => Err(error),
    }
}

/// What tasks spawn.
async fn leaf(env: Arc<Env>, mut rng: Rng, token: Token) -> u32 {
    match rng.below(4) {
        0 => sleep(rng.micros(500)).await,
        1 => drop(env.semaphore.acquire(1).await),
        2 => core::future::pending().await,
        _ => yield_now().await,
    }
    token.finish();
    MAGIC
}

/// A scope in a task: fork-join there, and dropped on the worker with its tasks in any state.
async fn nest(env: Arc<Env>, mut rng: Rng) -> Result {
    let tally = Arc::new(Tally::default(), GFP_KERNEL)?;
    let scope = Scope::new()?;
    for _ in 0..rng.below(8) {
        drop(scope.spawn(leaf(env.clone(), rng.fork(), Token::new(&tally)))?);
        if rng.below(4) == 0 {
            yield_now().await;
        }
    }
    match rng.below(3) {
        0 => drop(scope),
        1 => {
            scope.cancel();
            scope.join().await;
        }
        // Dropped in the middle of joining, perhaps
        _ => {
            let _ = race(scope.join(), sleep(rng.micros(600))).await;
        }
    }
    // Its tasks are no other worker's, so that they go at once.
    verify!(tally.complete(), "tasks of a scope are left after it");
    Ok(())
}

async fn set(env: Arc<Env>, mut rng: Rng) -> Result {
    let mut set = JoinSet::new(Scope::new()?, 3)?;
    let (mut spawned, mut ended) = (0, 0);
    for _ in 0..6 {
        let task = leaf(env.clone(), rng.fork(), Token::new(&env.inner));
        if set.len() < 3 {
            set.try_spawn(task)?;
        } else {
            // One that is never ready may be in the way.
            match timeout(rng.micros(1000), set.spawn(task)).await {
                Ok(result) => ended += u32::from(result?.is_some()),
                Err(_) => continue,
            }
        }
        spawned += 1;
    }
    if rng.below(4) == 0 {
        return Ok(());
    }
    set.abort_all();
    while let Some(result) = set.next().await {
        verify!(
            result.unwrap_or(MAGIC) == MAGIC,
            "the value of a set's task"
        );
        ended += 1;
    }
    verify!(spawned == ended, "{spawned} in a set, {ended} out of it");
    Ok(())
}

// ---- the waves ----

/// A task that a wave keeps the handle of.
struct Kept {
    handle: JoinHandle<u32>,
    never: bool,
}

/// How a wave ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Waits for each task, then for the scope.
    Await,
    Join,
    Cancel,
    Drop,
}

/// Spawns `count` tasks, aborts some, and accounts for all of them.
async fn wave(env: Arc<Env>, mut rng: Rng, count: usize) -> Result {
    let began = Instant::now();
    let end = match rng.below(4) {
        0 => End::Await,
        1 => End::Join,
        2 => End::Cancel,
        _ => End::Drop,
    };
    let tally = Arc::new(Tally::default(), GFP_KERNEL)?;
    let mut kept: KVVec<Kept> = KVVec::with_capacity(count, GFP_KERNEL)?;
    let mut alarms: KVec<KBox<Alarm>> = KVec::new();
    let scope = Scope::new()?;
    let (mut refused, mut detached) = (0, 0);
    for _ in 0..count {
        let kind = rng.below(KINDS);
        let never = kind == NEVER;
        let future = work(
            env.clone(),
            scope.spawner(),
            rng.fork(),
            Token::new(&tally),
            kind,
        );
        let spawned = if rng.below(8) == 0 {
            scope.spawn_eager(future)
        } else {
            scope.spawn(future)
        };
        let handle = match spawned {
            Ok(handle) => handle,
            Err(error) => {
                verify!(error == ENOMEM && tolerable(Err(error)), "spawn: {error:?}");
                refused += 1;
                continue;
            }
        };
        match rng.below(16) {
            // Somebody has to abort it before the wave is joined.
            0..=3 if !(never && matches!(end, End::Await | End::Join)) => {
                drop(handle);
                detached += 1;
            }
            fate => {
                if fate == 4 {
                    handle.abort();
                }
                kept.push(Kept { handle, never }, GFP_KERNEL)?;
            }
        }
        match rng.below(32) {
            0..=3 => {
                let any = rng.below(kept.len() as u32) as usize;
                kept.get(any).inspect(|kept| kept.handle.abort());
            }
            4 => yield_now().await,
            5 => drop(abort_later(&mut kept, &mut alarms, &mut rng)),
            6 => env.notify.notify_one(),
            _ => {}
        }
    }
    finish(
        &env,
        &mut rng,
        end,
        scope,
        kept,
        alarms,
        &tally,
        (refused, detached),
    )
    .await;
    env.waves.add(1);
    env.took.add(Instant::now().since(began).as_millis() as u64);
    Ok(())
}

/// The last of the kept tasks is aborted by an interrupt.
fn abort_later(kept: &mut KVVec<Kept>, alarms: &mut KVec<KBox<Alarm>>, rng: &mut Rng) -> Result {
    let mut alarm = Alarm::new()?;
    alarms.reserve(1, GFP_KERNEL)?;
    // One that is never ready stays where it is found again.
    if let Some(Kept { handle, .. }) = kept.pop_if_ready() {
        alarm.victim = Some(handle);
        alarm.start(rng.micros(1000), rng.below(2) == 0);
        alarms.push(alarm, GFP_KERNEL)?;
    }
    Ok(())
}

/// Ends a wave and counts.
#[expect(clippy::too_many_arguments, reason = "all of a wave")]
async fn finish(
    env: &Env,
    rng: &mut Rng,
    end: End,
    scope: Scope,
    mut kept: KVVec<Kept>,
    mut alarms: KVec<KBox<Alarm>>,
    tally: &Tally,
    (refused, detached): (u64, u64),
) {
    let (mut finished, mut cancelled) = (0, 0);
    let mut count = |value: Result<u32, upcall::Cancelled>| match value {
        Ok(value) => {
            verify!(value == MAGIC, "a task's value is {value:#x}");
            finished += 1;
        }
        Err(_) => cancelled += 1,
    };
    if matches!(end, End::Await | End::Join) {
        for kept in kept.iter().filter(|kept| kept.never) {
            kept.handle.abort();
        }
    }
    // The victims are aborted, or finish; those whose alarm is taken away finish.
    let mut victims = 0u64;
    let mut scope = Some(scope);
    if end != End::Await {
        let scope = scope.take();
        match (end, scope) {
            (End::Join, Some(scope)) => scope.join().await,
            (End::Cancel, Some(scope)) => {
                scope.cancel();
                let refusal = scope.spawn(async {});
                let why = refusal.err();
                verify!(
                    why == Some(ESHUTDOWN) || why == Some(ENOMEM) && tolerable(Err(ENOMEM)),
                    "spawn in a cancelled scope: {why:?}"
                );
                scope.join().await;
            }
            (_, scope) => drop(scope),
        }
    }
    while let Some(mut alarm) = alarms.pop() {
        // Some are still to fire.
        if end == End::Await && rng.below(2) == 0 {
            yield_now().await;
        }
        if let Some(handle) = alarm.stop() {
            victims += 1;
            verify!(
                end == End::Await || handle.is_finished(),
                "a victim is left"
            );
            count(handle.await);
        }
    }
    let mut handles = 0u64;
    while let Some(Kept { handle, .. }) = kept.pop() {
        handles += 1;
        verify!(
            end == End::Await || handle.is_finished(),
            "a task is left after its scope"
        );
        count(handle.await);
    }
    if let Some(scope) = scope {
        scope.join().await;
    }
    let made = tally.made.get();
    verify!(
        tally.complete(),
        "{} of {made} futures were not dropped",
        made - tally.finished.get() - tally.dropped.get()
    );
    verify!(made == refused + detached + victims + handles, "tasks made");
    let gone = tally.dropped.get() - refused;
    if matches!(end, End::Await | End::Join) {
        // Those without a handle were aborted by nobody.
        verify!(
            gone == cancelled,
            "{gone} cancelled, handles say {cancelled}"
        );
        verify!(
            tally.finished.get() == finished + detached,
            "tasks finished"
        );
    } else {
        verify!(
            (cancelled..=cancelled + detached).contains(&gone),
            "tasks cancelled"
        );
    }
    env.total.made.add(made);
    env.total.finished.add(tally.finished.get());
    env.cancelled.add(gone);
    env.refused.add(refused);
}

trait PopIfReady {
    fn pop_if_ready(&mut self) -> Option<Kept>;
}

impl PopIfReady for KVVec<Kept> {
    fn pop_if_ready(&mut self) -> Option<Kept> {
        if self.last()?.never {
            return None;
        }
        self.pop()
    }
}

/// One large wave.
pub(crate) async fn many(env: Arc<Env>, rng: Rng, count: usize) -> Result {
    boxed(wave(env, rng, count)).await
}

pub(crate) fn start(
    env: &Arc<Env>,
    scope: &Scope,
    threads: &mut KVec<Thread>,
    rng: &mut Rng,
    most: u32,
) -> Result {
    for _ in 0..2 {
        let (env, mut rng) = (env.clone(), rng.fork());
        scope.spawn(async move {
            while !stopped() {
                let count = rng.below(most) as usize + 1;
                let done = boxed(wave(env.clone(), rng.fork(), count)).await;
                verify!(tolerable(done), "a wave on the executor: {done:?}");
                yield_now().await;
            }
        })?;
    }
    each_cpu(|cpu| {
        let (env, mut rng) = (env.clone(), rng.fork());
        let thread = Thread::new(cpu, move || {
            while !stopped() {
                let count = rng.below(most) as usize + 1;
                // Not on the stack
                let wave = KBox::pin(wave(env.clone(), rng.fork(), count), GFP_KERNEL);
                let done = wave.map_err(Error::from).and_then(|wave| block_on(wave)?);
                verify!(tolerable(done), "a wave in a thread: {done:?}");
            }
        })?;
        Ok(threads.push(thread, GFP_KERNEL)?)
    })
}
