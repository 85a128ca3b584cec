// SPDX-License-Identifier: GPL-2.0

//! The machine that a simulation runs on.
//!
//! It decides by a seed what runs next: a thread that was woken, a work item that was queued, or an
//! event (a timer, a completion of the disk), which runs as an interrupt handler does. Its clock is
//! virtual, and goes on when something runs, or to the next event when nothing can. The same seed
//! gives the same run.
//!
//! # Concurrency
//!
//! One thread runs at a time: the one that has the *baton*. A thread that parks decides what is
//! next. Work items and events run on the thread that decides, as if on a CPU of their own; they
//! may not park. If another thread is next, it gets the baton, and the one that parks waits for it
//! as a thread of the host. So everything is as deterministic as on one thread, and a thread that
//! waits holds up no other.
//!
//! Threads are not preempted. Interrupts are taken where a spinlock is given back or memory is
//! allocated ([`interrupt_point`]), by the seed, and between all that is scheduled.
//!
//! A machine on which nothing can run, and nothing will, while a thread waits, is a deadlock: it is
//! reported with the seed, and the run ends. So is a run that takes too many steps.

mod memory;

use crate::alloc::{AllocError, Flags};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once};

pub use memory::Fail;
use memory::Memory;

/// How a machine is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// What all decisions follow.
    pub seed: u64,
    /// How long one step takes by the virtual clock, in nanoseconds.
    pub step: u64,
    /// After how many steps a run has no end.
    pub max_steps: u64,
    /// Whether interrupts are taken inside of what runs, too.
    pub interrupts: bool,
    /// How much memory there is, for those whose caches have a part of it, in bytes.
    pub memory: u64,
    /// Whether the kernel log also goes to the standard error output.
    pub verbose: bool,
}

impl Config {
    /// The usual one, with this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            step: 500,
            max_steps: 5_000_000,
            interrupts: true,
            memory: 1 << 30,
            verbose: false,
        }
    }
}

/// A machine.
pub struct Machine {
    config: Config,
    state: Mutex<State>,
    memory: Mutex<Memory>,
    locals: Mutex<BTreeMap<usize, Box<dyn std::any::Any + Send>>>,
}

/// Something that runs as an interrupt handler.
type Event = Box<dyn FnOnce() + Send>;

/// When an event is due: the time, a random number, and what makes it unique.
type Due = (u64, u64, u64);

struct State {
    rng: Rng,
    now: u64,
    steps: u64,
    /// Gives numbers to events, works and threads.
    last: u64,
    events: BTreeMap<Due, Event>,
    /// Queued, in the order in which they were.
    works: Vec<Arc<WorkItem>>,
    threads: Vec<Arc<Thread>>,
    context: Context,
    log: Vec<String>,
    warnings: Vec<String>,
    reporters: Vec<(u64, Reporter)>,
    /// What work items allocated so that they might wait.
    waiting_in_work: BTreeSet<&'static str>,
    /// Why the run was given up.
    failed: Option<String>,
    /// What a thread panicked with.
    panic: Option<Box<dyn std::any::Any + Send>>,
}

/// Tells what is outstanding, for the report of a deadlock.
type Reporter = Box<dyn Fn() -> String + Send>;

/// What whoever runs may do.
#[derive(Clone, Copy, Default)]
struct Context {
    /// The number of the thread or work item.
    current: u64,
    /// Inside a work item.
    work: bool,
    interrupt: bool,
    /// How many spinlocks and read sections.
    locks: i32,
    irqs_off: i32,
    /// What the one who runs has noted of himself.
    note: usize,
}

/// Where a thread of the host is.
struct Here {
    machine: Arc<Machine>,
    thread: Arc<Thread>,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

fn with<R>(f: impl FnOnce(&Arc<Machine>) -> R) -> Option<R> {
    // Memory that outlives the thread's own is not counted any more.
    HERE.try_with(|here| here.borrow().as_ref().map(|here| f(&here.machine)))
        .ok()
        .flatten()
}

/// The machine that the caller runs on.
pub fn current() -> Arc<Machine> {
    with(Arc::clone).expect("not on a machine")
}

/// A small random number generator (splitmix64).
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// One that follows `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number less than `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        (u128::from(self.next()) * u128::from(bound) >> 64) as u64
    }

    /// Whether something of probability `1 / n` happens.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Runs `f` as the first thread of a machine.
///
/// Panics, and says the seed, if `f` does, if there is a deadlock, or if there was a warning that
/// nobody [took](take_warnings). What was allocated and not freed is for [`live`] to tell.
pub fn run<R>(config: Config, f: impl FnOnce() -> R) -> R {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let old = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if let Some(seed) = with(|machine| machine.config.seed) {
                use std::io::Write;
                // Not by `eprintln`: what a test prints is lost when it aborts.
                let _ = writeln!(std::io::stderr(), "\nthe machine's seed is {seed}: {info}");
            }
            old(info);
        }));
    });
    let machine = Arc::new(Machine {
        state: Mutex::new(State {
            rng: Rng::new(config.seed),
            now: 1_000_000_000,
            steps: 0,
            last: 0,
            events: BTreeMap::new(),
            works: Vec::new(),
            threads: Vec::new(),
            context: Context::default(),
            log: Vec::new(),
            warnings: Vec::new(),
            reporters: Vec::new(),
            waiting_in_work: BTreeSet::new(),
            failed: None,
            panic: None,
        }),
        memory: Mutex::new(Memory::new(config.seed)),
        locals: Mutex::new(BTreeMap::new()),
        config,
    });
    let thread = machine.new_thread("main", Wait::Running);
    machine.state().context.current = thread.number;
    let outer = HERE.with(|here| {
        here.replace(Some(Here {
            machine: machine.clone(),
            thread: thread.clone(),
        }))
    });
    let result = catch_unwind(AssertUnwindSafe(f));
    // Only where nothing was broken off: else the threads that are left wait for ever.
    let result = result.and_then(|value| {
        catch_unwind(AssertUnwindSafe(|| {
            settle();
            machine.finish();
            value
        }))
    });
    // What is left may own what runs on the machine.
    let left = {
        let mut state = machine.state();
        (
            core::mem::take(&mut state.events),
            core::mem::take(&mut state.works),
            core::mem::take(&mut state.reporters),
        )
    };
    if result.is_ok() {
        drop(left);
    } else {
        core::mem::forget(left);
    }
    HERE.with(|here| here.replace(outer));
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn new_thread(&self, name: &str, wait: Wait) -> Arc<Thread> {
        let mut state = self.state();
        let thread = Arc::new(Thread {
            number: state.number(),
            name: name.to_string(),
            count: AtomicUsize::new(0),
            wait: Mutex::new(wait),
            baton: Mutex::new(false),
            passed: Condvar::new(),
        });
        state.threads.push(thread.clone());
        thread
    }

    /// Panics if something was left that should not be.
    fn finish(&self) {
        let mut state = self.state();
        let threads: Vec<_> = state.threads.iter().map(|t| t.name.clone()).collect();
        let warnings = core::mem::take(&mut state.warnings);
        drop(state);
        assert_eq!(threads, ["main"], "threads that did not end");
        assert!(warnings.is_empty(), "unexpected warnings: {warnings:#?}");
    }

    /// Decides what is next, and does it, until `me` is chosen, or for good if the caller ends.
    fn schedule(&self, me: Option<&Arc<Thread>>) {
        let saved = self.state().context;
        assert!(
            !saved.work && !saved.interrupt,
            "a work item or an interrupt handler parks"
        );
        loop {
            let mut state = self.state();
            if state.failed.is_some() || state.panic.is_some() {
                drop(state);
                return self.give_up(me);
            }
            state.steps += 1;
            if state.steps > self.config.max_steps {
                drop(state);
                self.fail("no end", me);
                continue;
            }
            state.now += self.config.step;
            match state.pick() {
                Pick::Thread(thread) => {
                    *thread.wait.lock().unwrap() = Wait::Running;
                    state.context = Context {
                        current: thread.number,
                        ..Context::default()
                    };
                    drop(state);
                    match me {
                        Some(me) if Arc::ptr_eq(me, &thread) => {}
                        Some(me) => {
                            thread.pass_baton();
                            me.wait_for_baton();
                            // Whoever passed it has chosen us, or gives up.
                            let state = self.state();
                            if state.failed.is_some() || state.panic.is_some() {
                                drop(state);
                                return self.give_up(Some(me));
                            }
                        }
                        None => return thread.pass_baton(),
                    }
                    if me.is_some() {
                        let mut state = self.state();
                        state.context = saved;
                    }
                    return;
                }
                Pick::Work(work) => {
                    state.context = Context {
                        current: work.number,
                        work: true,
                        ..Context::default()
                    };
                    drop(state);
                    work.pending.store(false, Ordering::Relaxed);
                    work.run();
                    self.state().context = saved;
                }
                Pick::Event(event) => self.interrupt(state, event),
                Pick::Nothing => {
                    drop(state);
                    self.fail("deadlock", me);
                }
            }
        }
    }

    /// Runs an interrupt handler.
    fn interrupt(&self, mut state: MutexGuard<'_, State>, event: Event) {
        let saved = state.context;
        state.context.interrupt = true;
        drop(state);
        event();
        self.state().context = saved;
    }

    fn fail(&self, what: &str, me: Option<&Arc<Thread>>) {
        let state = self.state();
        let mut report = format!(
            "{what} after {} steps, at {} ns, seed {}\n",
            state.steps, state.now, self.config.seed
        );
        for thread in &state.threads {
            let wait = *thread.wait.lock().unwrap();
            let here = if me.is_some_and(|me| Arc::ptr_eq(me, thread)) {
                " (here)"
            } else {
                ""
            };
            report += &format!("  thread {}{here}: {wait:?}\n", thread.name);
        }
        for work in &state.works {
            report += &format!("  work {}: queued\n", work.name);
        }
        report += &format!("  {} events\n", state.events.len());
        drop(state);
        let reporters = core::mem::take(&mut self.state().reporters);
        for (_, reporter) in &reporters {
            report += &reporter();
        }
        let log = self.state().log.clone();
        for line in log.iter().skip(log.len().saturating_sub(20)) {
            report += &format!("  log: {line}\n");
        }
        core::mem::forget(reporters);
        self.state().failed = Some(report);
    }

    /// Ends a run that has failed: the first thread panics, all others wait for ever.
    fn give_up(&self, me: Option<&Arc<Thread>>) {
        let main = self.state().threads.first().cloned();
        match (me, main) {
            (Some(me), Some(main)) if Arc::ptr_eq(me, &main) => {
                let (panic, failed) = {
                    let mut state = self.state();
                    (state.panic.take(), state.failed.clone())
                };
                if std::thread::panicking() {
                    // What the first panic's destructors wait for never comes.
                    use std::io::Write;
                    let _ = writeln!(std::io::stderr(), "{}", failed.unwrap_or_default());
                    std::process::abort();
                }
                if let Some(panic) = panic {
                    // What follows is no second failure.
                    self.state().failed = Some("a thread panicked".to_string());
                    resume_unwind(panic);
                }
                panic!("{}", failed.unwrap_or_default());
            }
            (me, Some(main)) => {
                main.pass_baton();
                if let Some(me) = me {
                    me.wait_for_baton();
                    unreachable!("a run that has failed goes on");
                }
            }
            (_, None) => {}
        }
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn pick(&mut self) -> Pick {
        let due = |state: &Self| state.events.keys().next().map(|due| due.0);
        let threads: Vec<_> = self
            .threads
            .iter()
            .filter(|thread| thread.is_ready())
            .cloned()
            .collect();
        let event = usize::from(due(self).is_some_and(|at| at <= self.now));
        let all = threads.len() + self.works.len() + event;
        if all == 0 {
            if let Some(at) = due(self) {
                self.now = at;
                return self.pop_event();
            }
            let idle = |thread: &&Arc<Thread>| *thread.wait.lock().unwrap() == Wait::Idle;
            return match self.threads.iter().find(idle) {
                Some(thread) => Pick::Thread(thread.clone()),
                None => Pick::Nothing,
            };
        }
        let n = self.rng.below(all as u64) as usize;
        if n < threads.len() {
            return Pick::Thread(threads[n].clone());
        }
        let n = n - threads.len();
        if n < self.works.len() {
            return Pick::Work(self.works.remove(n));
        }
        self.pop_event()
    }

    fn pop_event(&mut self) -> Pick {
        match self.events.pop_first() {
            Some((_, event)) => Pick::Event(event),
            None => Pick::Nothing,
        }
    }
}

enum Pick {
    Thread(Arc<Thread>),
    Work(Arc<WorkItem>),
    Event(Event),
    Nothing,
}

// Threads.

/// What a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    Running,
    /// For a wake that comes after the count was this.
    Parked(usize),
    /// For its turn.
    Ready,
    /// For nothing else to be left to run.
    Idle,
}

/// A thread, as somebody who can be woken.
pub struct Thread {
    number: u64,
    name: String,
    /// How often it was woken.
    count: AtomicUsize,
    wait: Mutex<Wait>,
    baton: Mutex<bool>,
    passed: Condvar,
}

impl Thread {
    fn is_ready(&self) -> bool {
        match *self.wait.lock().unwrap() {
            Wait::Ready => true,
            Wait::Parked(count) => self.count.load(Ordering::Relaxed) != count,
            Wait::Running | Wait::Idle => false,
        }
    }

    fn pass_baton(&self) {
        *self.baton.lock().unwrap() = true;
        self.passed.notify_one();
    }

    fn wait_for_baton(&self) {
        let mut baton = self.baton.lock().unwrap();
        while !core::mem::replace(&mut *baton, false) {
            baton = self.passed.wait(baton).unwrap();
        }
    }

    /// How often it was woken.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Wakes it. Any context.
    pub fn unpark(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The calling thread. Not for work items.
pub fn this_thread() -> Arc<Thread> {
    HERE.with(|here| {
        let here = here.borrow();
        here.as_ref().expect("not on a machine").thread.clone()
    })
}

/// Waits until the calling thread was woken since its [count](Thread::count) was `count`.
pub fn park(count: usize) {
    might_sleep();
    let thread = this_thread();
    wait(&thread, Wait::Parked(count));
}

fn wait(thread: &Arc<Thread>, what: Wait) {
    let machine = current();
    *thread.wait.lock().unwrap() = what;
    machine.schedule(Some(thread));
}

/// Lets others run. In a work item it does nothing.
pub fn yield_now() {
    if !current().state().context.work {
        might_sleep();
        wait(&this_thread(), Wait::Ready);
    }
}

/// Lets everything run until nothing is left to run, now or later.
pub fn settle() {
    might_sleep();
    wait(&this_thread(), Wait::Idle);
}

/// The right to wait for the end of a thread.
pub struct JoinHandle<T> {
    result: Arc<Mutex<Option<T>>>,
    over: Arc<AtomicBool>,
    waiter: Arc<Mutex<Option<Arc<Thread>>>>,
}

impl<T> JoinHandle<T> {
    /// Waits for the end of the thread, and gives its value.
    pub fn join(self) -> T {
        let thread = this_thread();
        loop {
            let count = thread.count();
            *self.waiter.lock().unwrap() = Some(thread.clone());
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            park(count);
        }
        let value = self.result.lock().unwrap().take();
        value.expect("a thread without a value")
    }
}

/// Starts a thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let machine = current();
    let thread = machine.new_thread(name, Wait::Ready);
    let handle = JoinHandle {
        result: Arc::new(Mutex::new(None)),
        over: Arc::new(AtomicBool::new(false)),
        waiter: Arc::new(Mutex::new(None)),
    };
    let (result, over, waiter) = (
        handle.result.clone(),
        handle.over.clone(),
        handle.waiter.clone(),
    );
    std::thread::spawn(move || {
        thread.wait_for_baton();
        HERE.with(|here| {
            here.replace(Some(Here {
                machine: machine.clone(),
                thread: thread.clone(),
            }))
        });
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(value) => *result.lock().unwrap() = Some(value),
            Err(panic) => {
                machine.state().panic.get_or_insert(panic);
            }
        }
        over.store(true, Ordering::Relaxed);
        if let Some(waiter) = waiter.lock().unwrap().take() {
            waiter.unpark();
        }
        // The last that this thread does on the machine. What `HERE` drops is counted by nobody
        // else.
        HERE.with(|here| here.replace(None));
        machine
            .state()
            .threads
            .retain(|other| !Arc::ptr_eq(other, &thread));
        machine.schedule_last();
    });
    handle
}

impl Machine {
    /// Passes the baton on, for a thread that ends.
    fn schedule_last(self: &Arc<Self>) {
        // Work items and events find the machine by the thread.
        let nobody = Arc::new(Thread {
            number: 0,
            name: "nobody".to_string(),
            count: AtomicUsize::new(0),
            wait: Mutex::new(Wait::Running),
            baton: Mutex::new(false),
            passed: Condvar::new(),
        });
        HERE.with(|here| {
            here.replace(Some(Here {
                machine: self.clone(),
                thread: nobody,
            }))
        });
        self.state().context = Context::default();
        // A panic here has nobody to tell it but the first thread.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.schedule(None))) {
            self.state().panic.get_or_insert(panic);
            self.give_up(None);
        }
        HERE.with(|here| here.replace(None));
    }
}

// Work items.

/// A work item: it runs once for all the times that it was queued before it starts, and never twice
/// at the same time.
pub struct Work(Arc<WorkItem>);

struct WorkItem {
    number: u64,
    name: String,
    pending: AtomicBool,
    function: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl WorkItem {
    fn run(&self) {
        // Taken out: it may end the work item.
        let function = self.function.lock().unwrap().take();
        if let Some(f) = function {
            f();
            self.function.lock().unwrap().get_or_insert(f);
        }
    }
}

impl Work {
    /// One that runs `f`.
    pub fn new(name: &str, f: impl Fn() + Send + 'static) -> Self {
        Self(Arc::new(WorkItem {
            number: current().state().number(),
            name: name.to_string(),
            pending: AtomicBool::new(false),
            function: Mutex::new(Some(Box::new(f))),
        }))
    }

    /// Queues it. Any context.
    pub fn queue(&self) {
        if !self.0.pending.swap(true, Ordering::Relaxed) {
            current().state().works.push(self.0.clone());
        }
    }

    /// Whether it is queued and did not start.
    pub fn is_pending(&self) -> bool {
        self.0.pending.load(Ordering::Relaxed)
    }
}

/// Runs `f` once, as a work item of its own. Any context.
pub fn defer(name: &str, f: impl FnOnce() + Send + 'static) {
    let once = Mutex::new(Some(f));
    let machine = current();
    let mut state = machine.state();
    let work = WorkItem {
        number: state.number(),
        name: name.to_string(),
        pending: AtomicBool::new(true),
        function: Mutex::new(Some(Box::new(move || {
            let f = once.lock().unwrap().take();
            if let Some(f) = f {
                f();
            }
        }))),
    };
    state.works.push(Arc::new(work));
}

impl Drop for Work {
    fn drop(&mut self) {
        with(|machine| {
            let mut state = machine.state();
            state.works.retain(|work| !Arc::ptr_eq(work, &self.0));
        });
    }
}

// Events.

/// An event that may be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId(Due);

/// Runs `f` as an interrupt handler at `time` by [`now`], or later. Any context.
pub fn at(time: u64, f: impl FnOnce() + Send + 'static) -> EventId {
    let machine = current();
    let mut state = machine.state();
    let due = (time, state.rng.next(), state.number());
    state.events.insert(due, Box::new(f));
    EventId(due)
}

/// Cancels an event. Returns whether it had not begun.
pub fn cancel(event: EventId) -> bool {
    with(|machine| {
        let event = machine.state().events.remove(&event.0);
        event.is_some()
    })
    .unwrap_or(false)
}

/// The virtual time, in nanoseconds.
pub fn now() -> u64 {
    current().state().now
}

/// A number less than `bound`, by the seed.
pub fn random(bound: u64) -> u64 {
    current().state().rng.below(bound)
}

/// Where an interrupt may come: by the seed, one that is due runs here, or, seldom, the next as if
/// it was due.
pub fn interrupt_point() {
    with(|machine| {
        let mut state = machine.state();
        let context = state.context;
        if !machine.config.interrupts
            || context.interrupt
            || context.irqs_off > 0
            || state.events.is_empty()
        {
            return;
        }
        let first = state.events.keys().next().map_or(u64::MAX, |due| due.0);
        let taken = if first <= state.now {
            state.rng.one_in(4)
        } else {
            state.rng.one_in(64)
        };
        if taken {
            state.now = state.now.max(first);
            if let Pick::Event(event) = state.pop_event() {
                machine.interrupt(state, event);
            }
        }
    });
}

// Contexts.

/// The number of the thread or work item that runs; never 0.
pub fn current_number() -> u64 {
    with(|machine| machine.state().context.current).unwrap_or(u64::MAX)
}

/// Whether the caller is an interrupt handler.
pub fn in_interrupt() -> bool {
    with(|machine| machine.state().context.interrupt).unwrap_or(false)
}

/// Whether the caller is a work item, or an interrupt handler that came while one ran.
pub fn in_work() -> bool {
    with(|machine| machine.state().context.work).unwrap_or(false)
}

/// What the one who runs has noted of himself.
pub fn note() -> usize {
    with(|machine| machine.state().context.note).unwrap_or(0)
}

/// Notes something about the one who runs, until he parks or ends.
pub fn set_note(note: usize) {
    with(|machine| machine.state().context.note = note);
}

/// What the machine has for a static variable at address `key`, made by `make` at first. It is
/// there as long as the machine.
pub fn local<T: Send + 'static>(key: usize, make: fn() -> T) -> *const T {
    let machine = current();
    let mut locals = machine.locals.lock().unwrap();
    let local = locals.entry(key).or_insert_with(|| Box::new(make()));
    local
        .downcast_ref::<T>()
        .expect("one type for one variable")
}

/// Counts spinlocks and read sections of the one who runs.
pub fn lock_depth(change: i32) {
    with(|machine| machine.state().context.locks += change);
}

/// Counts by how many the one who runs has switched interrupts off.
pub fn irqs_off(change: i32) {
    with(|machine| machine.state().context.irqs_off += change);
}

/// Panics if the caller may not sleep.
#[track_caller]
pub fn might_sleep() {
    let context = with(|machine| machine.state().context).unwrap_or_default();
    assert!(!context.interrupt, "sleeping in interrupt context");
    assert!(
        context.locks == 0 && context.irqs_off == 0,
        "sleeping under a spinlock or in a read section"
    );
}

// The log.

/// Adds a line to the kernel log.
pub fn log(level: &str, line: &str) {
    let logged = with(|machine| {
        if machine.config.verbose {
            eprintln!("{level}: {line}");
        }
        machine.state().log.push(format!("{level}: {line}"));
    });
    if logged.is_none() {
        eprintln!("{level}: {line}");
    }
}

/// The lines of the kernel log since the last call.
pub fn take_log() -> Vec<String> {
    core::mem::take(&mut current().state().log)
}

/// Warns of a broken rule: the run fails unless somebody expects it.
pub fn warn(message: &str) {
    let warned = with(|machine| machine.state().warnings.push(message.to_string()));
    assert!(warned.is_some(), "{message}");
}

/// The warnings since the last call.
pub fn take_warnings() -> Vec<String> {
    core::mem::take(&mut current().state().warnings)
}

/// Adds to the report of a deadlock, until the returned guard is dropped.
pub fn report_with(f: impl Fn() -> String + Send + 'static) -> Reporting {
    let machine = current();
    let mut state = machine.state();
    let number = state.number();
    state.reporters.push((number, Box::new(f)));
    Reporting(number)
}

/// The guard of [`report_with`].
pub struct Reporting(u64);

impl Drop for Reporting {
    fn drop(&mut self) {
        with(|machine| machine.state().reporters.retain(|(n, _)| *n != self.0));
    }
}

// Memory.

/// Whether an allocation may succeed. Any context that fits `flags`.
#[track_caller]
pub(crate) fn may_allocate(
    size: usize,
    flags: Flags,
    what: &'static str,
) -> Result<(), AllocError> {
    if flags.may_sleep() {
        might_sleep();
        with(|machine| {
            let mut state = machine.state();
            if state.context.work {
                state.waiting_in_work.insert(what);
            }
        });
    }
    let may = with(|machine| machine.memory().ask(size, flags, what)).unwrap_or(Ok(()));
    interrupt_point();
    may
}

/// Notes an allocation.
pub(crate) fn allocated(place: usize, size: usize, what: &'static str) {
    with(|machine| machine.memory().add(place, size, what));
}

/// Notes that memory was freed.
pub(crate) fn freed(place: usize) {
    with(|machine| machine.memory().remove(place));
}

/// Says which allocations fail from now on.
pub fn fail_allocations(fail: Fail) {
    current().memory().fail(fail);
}

/// Somebody waited for memory to become free.
pub fn reclaimed() {
    with(|machine| machine.memory().reclaimed());
}

/// How many allocations there were since [`fail_allocations`], and how many of them failed.
pub fn allocations() -> (u64, u64) {
    current().memory().counts()
}

/// What was allocated in work items, upcalls among them, in a way that may wait for memory to
/// become free: the names of the types.
pub fn waiting_in_work() -> Vec<&'static str> {
    current().state().waiting_in_work.iter().copied().collect()
}

/// How much memory there is.
pub fn memory_size() -> u64 {
    current().config.memory
}

/// What is allocated now: number and bytes.
pub fn live() -> (usize, usize) {
    current().memory().live()
}

/// What is allocated now, by type, for a report: number, bytes and name.
pub fn live_by_type() -> Vec<(usize, usize, &'static str)> {
    current().memory().by_type()
}
