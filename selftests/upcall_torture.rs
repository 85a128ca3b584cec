// SPDX-License-Identifier: GPL-2.0

//! The runtime's torture module, loaded by `selftests/torture`.
//!
//! It puts the runtime under load from all sides at once, as the kernel's `locktorture` and
//! `rcutorture` do with theirs, and checks what must hold however the threads interleave:
//!
//! | load | module | what must hold |
//! |---|---|---|
//! | `locks` | [`locks`] | exclusion, the order of the queue, no permit is lost |
//! | `tasks`, `many` | [`tasks`] | every future is dropped once, and its handle tells how |
//! | `spinners` | [`spin`] | tasks that wake themselves for ever let others have their turn |
//!
//! With `seconds` it runs for so long while it is loaded, ends in order, checks, and stays loaded
//! with nothing to do; the load fails if a check did. Without, it returns at once, and is ended by its
//! removal, in the middle of all that. The figures and what failed are in the kernel's log.
//!
//! Who runs where: tasks on the executor's worker, or the blocking worker's; [`Thread`]s are kernel
//! threads, bound to one CPU each, that use `block_on`; alarms ([`tasks`]) are called by hrtimers,
//! in hard and in soft interrupts; null_blk completes requests in both.

#[path = "upcall_torture/locks.rs"]
mod locks;
#[path = "upcall_torture/spin.rs"]
mod spin;
#[path = "upcall_torture/tasks.rs"]
mod tasks;

use core::ptr::NonNull;
use core::time::Duration;
use kernel::bindings;
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel::time::{delay::fsleep, Delta};
use upcall::{block_on, Instant, Scope};

module! {
    type: Torture,
    name: "upcall_torture",
    authors: ["The Upcall developers"],
    description: "Tortures the runtime",
    license: "GPL",
    params: {
        seconds: u32 {
            default: 0,
            description: "How long the load runs; 0: until removal",
        },
        seed: u64 {
            default: 1,
            description: "Where the random numbers begin",
        },
        locks: u32 {
            default: 0,
            description: "How many tasks, and how many threads, of each kind use a lock",
        },
        tasks: u32 {
            default: 0,
            description: "How many tasks a wave has at most",
        },
        many: u32 {
            default: 0,
            description: "How many tasks there are at once, in one large wave before all else",
        },
        spinners: u32 {
            default: 0,
            description: "How many tasks wake themselves for ever",
        },
        disks: u32 {
            default: 0,
            description: "1: read from /dev/upcall_torture0 and 1",
        },
        faults: u32 {
            default: 0,
            description: "1: memory may be short, as somebody injects it",
        },
    },
}

/// The random numbers of one actor: xorshift64*.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        // Neighbours get far apart, and none gets 0, where the generator would stay.
        let mut rng = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    fn below(&mut self, end: u32) -> u32 {
        (((self.next() >> 32) * u64::from(end)) >> 32) as u32
    }

    fn micros(&mut self, end: u32) -> Duration {
        Duration::from_micros(u64::from(self.below(end)))
    }

    /// The generator of somebody else.
    fn fork(&mut self) -> Self {
        Self::new(self.next())
    }
}

/// The actors are to come to an end.
static STOP: Atomic<u32> = Atomic::new(0);
/// Scopes are being dropped: requests and spawning are refused.
static REMOVED: Atomic<u32> = Atomic::new(0);
/// How many checks failed.
static FAILURES: Atomic<u64> = Atomic::new(0);

fn stopped() -> bool {
    STOP.load(Relaxed) != 0
}

/// Logs the first failures, and counts all.
macro_rules! verify {
    ($condition:expr, $($what:tt)+) => {
        if !$condition && $crate::FAILURES.fetch_add(1, Relaxed) < 20 {
            pr_err!("FAILED in line {} of {}: {}\n", line!(), module_path!(), format_args!($($what)+));
        }
    };
}
pub(crate) use verify;

/// Whether an operation may end so: short memory, if somebody makes it so, and removal.
fn tolerable(result: Result) -> bool {
    match result {
        Ok(()) => true,
        Err(error) if error == ENOMEM => module_parameters::faults.value() != 0,
        Err(error) if error == ESHUTDOWN => REMOVED.load(Relaxed) != 0,
        Err(_) => false,
    }
}

/// The largest, the smallest, the sum and the number of values.
struct Stats {
    count: Atomic<u64>,
    sum: Atomic<u64>,
    min: Atomic<u64>,
    max: Atomic<u64>,
}

impl Stats {
    const fn new() -> Self {
        Self {
            count: Atomic::new(0),
            sum: Atomic::new(0),
            min: Atomic::new(u64::MAX),
            max: Atomic::new(0),
        }
    }

    fn add(&self, value: u64) {
        self.count.fetch_add(1u64, Relaxed);
        self.sum.fetch_add(value, Relaxed);
        replace(&self.min, value, |min| value < min);
        replace(&self.max, value, |max| value > max);
    }

    fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    fn min(&self) -> u64 {
        self.min.load(Relaxed).min(self.max())
    }

    fn average(&self) -> u64 {
        let sum = self.sum.load(Relaxed);
        sum.checked_div(self.count()).unwrap_or(0)
    }
}

fn replace(value: &Atomic<u64>, by: u64, if_so: impl Fn(u64) -> bool) {
    let mut old = value.load(Relaxed);
    while if_so(old) {
        match value.cmpxchg(old, by, Relaxed) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

/// A kernel thread, which is waited for when it is dropped.
struct Thread {
    task: NonNull<bindings::task_struct>,
    closure: *mut c_void,
    drop_closure: unsafe fn(*mut c_void),
}

// SAFETY: A thread may be stopped by any other.
unsafe impl Send for Thread {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl Sync for Thread {}

impl Thread {
    /// Starts a thread on `cpu`, which may go offline later.
    fn new<F: FnOnce() + Send + 'static>(cpu: u32, closure: F) -> Result<Self> {
        let closure = KBox::into_raw(KBox::new(closure, GFP_KERNEL)?).cast::<c_void>();
        // SAFETY: `run::<F>` gets the closure that it is made for, and takes it over if it is called.
        let task = kernel::error::from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(Self::run::<F>),
                closure,
                bindings::NUMA_NO_NODE,
                c"upcall_torture/%u".as_char_ptr(),
                cpu,
            )
        });
        // SAFETY: The thread was not woken, and does not know the closure.
        let task = task.inspect_err(|_| unsafe { Self::drop_closure::<F>(closure) })?;
        // SAFETY: The thread is there until it is woken. The reference is given back by
        // `kthread_stop_put`.
        unsafe {
            bindings::kthread_bind(task, cpu);
            bindings::get_task_struct(task);
            bindings::wake_up_process(task);
            Ok(Self {
                task: NonNull::new_unchecked(task),
                closure,
                drop_closure: Self::drop_closure::<F>,
            })
        }
    }

    /// # Safety
    ///
    /// Called by the new thread alone, with a closure of that type in a box.
    unsafe extern "C" fn run<F: FnOnce() + Send + 'static>(closure: *mut c_void) -> c_int {
        // SAFETY: By the function's contract.
        let closure = unsafe { KBox::<F>::from_raw(closure.cast()) };
        KBox::into_inner(closure)();
        0
    }

    /// # Safety
    ///
    /// The thread did not take the closure, and will not.
    unsafe fn drop_closure<F>(closure: *mut c_void) {
        // SAFETY: By the function's contract.
        drop(unsafe { KBox::<F>::from_raw(closure.cast()) });
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: We have a reference, and nobody else stops the thread.
        let result = unsafe { bindings::kthread_stop_put(self.task.as_ptr()) };
        if result == EINTR.to_errno() {
            // SAFETY: The thread was stopped before it began.
            unsafe { (self.drop_closure)(self.closure) };
        }
    }
}

/// Calls `f` with the number of each CPU.
fn each_cpu(f: impl FnMut(u32) -> Result) -> Result {
    (0..kernel::cpu::nr_cpu_ids().min(4)).try_for_each(f)
}

struct Torture {
    /// Dropped first: its tasks use the rest. So do the threads, which come to an end by themselves.
    scope: Option<Scope>,
    threads: KVec<Thread>,
    locks: Option<Arc<locks::Locks>>,
    tasks: Option<Arc<tasks::Env>>,
    spin: Option<Arc<spin::Spin>>,
    started: Instant,
}

impl Torture {
    fn start() -> Result<Self> {
        let mut rng = Rng::new(module_parameters::seed.value());
        let mut this = Self {
            scope: None,
            threads: KVec::new(),
            locks: None,
            tasks: None,
            spin: None,
            started: Instant::now(),
        };
        // From here on a failure drops `this`, which ends what was begun.
        let scope = this.scope.insert(Scope::new()?);
        let threads = &mut this.threads;
        let many = module_parameters::many.value();
        let tasks = module_parameters::tasks.value();
        if many > 0 || tasks > 0 {
            let disks = module_parameters::disks.value() != 0;
            let env = this.tasks.insert(tasks::Env::new(scope, disks)?);
            if many > 0 {
                let began = Instant::now();
                block_on(tasks::many(env.clone(), rng.fork(), many as usize))??;
                let took = Instant::now().since(began).as_millis() as u64;
                pr_info!("tasks: {many} at once took {took} ms\n");
            }
            if tasks > 0 {
                tasks::start(env, scope, threads, &mut rng, tasks)?;
            }
        }
        let locks = module_parameters::locks.value();
        if locks > 0 {
            let shared = this.locks.insert(locks::Locks::new(locks)?);
            locks::start(shared, scope, threads, &mut rng, locks)?;
        }
        let spinners = module_parameters::spinners.value();
        if spinners > 0 {
            let shared = this.spin.insert(spin::Spin::new(spinners)?);
            spin::start(shared, scope, threads, &mut rng, spinners)?;
        }
        Ok(this)
    }

    /// Ends everything, in order or as removal does, and checks what is left.
    fn end(&mut self, in_order: bool) {
        let Some(scope) = self.scope.take() else {
            return;
        };
        let ending = Instant::now();
        STOP.store(1, Relaxed);
        if in_order {
            if let Some(spin) = &self.spin {
                spin.end();
            }
            // One by one: who is waited for still needs the scope.
            self.threads.clear();
            verify!(block_on(scope.join()).is_ok(), "joining");
        } else {
            REMOVED.store(1, Relaxed);
            drop(scope);
            if let Some(spin) = &self.spin {
                spin.end();
            }
            self.threads.clear();
        }
        let took = Instant::now().since(ending).as_millis() as u64;
        let long = module_parameters::seconds.value() >= 5;
        if let Some(locks) = self.locks.take() {
            locks.report(long);
        }
        if let Some(tasks) = self.tasks.take() {
            tasks.report(long);
        }
        if let Some(spin) = self.spin.take() {
            spin.report(long);
        }
        let ran = Instant::now().since(self.started).as_millis() as u64;
        let failures = FAILURES.load(Relaxed);
        pr_info!("ended after {ran} ms, the end took {took} ms, {failures} failures\n");
    }
}

impl Drop for Torture {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl kernel::Module for Torture {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("seed {}\n", module_parameters::seed.value());
        let mut this = Self::start()?;
        pr_info!("running\n");
        let seconds = module_parameters::seconds.value();
        if seconds > 0 {
            let long = Duration::from_secs(u64::from(seconds));
            while Instant::now().since(this.started) < long {
                fsleep(Delta::from_millis(50));
            }
            this.end(true);
            if FAILURES.load(Relaxed) > 0 {
                return Err(EIO);
            }
        }
        Ok(this)
    }
}
