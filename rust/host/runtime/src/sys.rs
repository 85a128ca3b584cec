// SPDX-License-Identifier: GPL-2.0

//! The simulation's back end of what the runtime takes from its surroundings: the bottom is the
//! [`machine`].
//!
//! # Concurrency
//!
//! The machine lets one thread run at a time, so that a cell needs no lock. An executor's run is a
//! work item, which the machine never runs twice at the same time; that of an executor whose
//! runnables may sleep is a thread. Timers complete in interrupt context. An executor whose last
//! handle is gone is taken down by a work item: when that runs no read section is under way, so
//! that nobody pushes any more.

use crate::done::Done;
use crate::executor::Core;
use crate::memory::Shortage;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::task::{RawWaker, RawWakerVTable, Waker};
use kernel::alloc::{allocate, release, Flags};
use kernel::machine;
use kernel::prelude::*;
use std::sync::Arc as StdArc;

pub(crate) use core::alloc::Layout;
pub(crate) use kernel::alloc::KVec;
pub(crate) use kernel::error::{Error, Result};
pub(crate) use kernel::machine::might_sleep;
pub(crate) use kernel::page::{Page, PAGE_SIZE};
pub(crate) use kernel::prelude::{
    EAGAIN, EBADF, ECANCELED, EDEADLK, EINTR, EINVAL, ENOMEM, ESHUTDOWN, ETIMEDOUT,
};
pub use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed, Release};
pub(crate) use kernel::sync::Arc;

/// `UnsafeCell` with the interface of loom's.
pub(crate) struct Cell<T: ?Sized>(UnsafeCell<T>);

impl<T> Cell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: ?Sized> Cell<T> {
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Makes a [`Lock`].
macro_rules! new_lock {
    ($value:expr) => {
        $crate::sys::Lock::new($value)
    };
}
pub(crate) use new_lock;

/// A spinlock for process context.
pub(crate) struct Lock<T>(kernel::sync::SpinLock<T>);

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(kernel::sync::SpinLock::new(value))
    }

    pub(crate) fn lock(&self) -> LockGuard<'_, T> {
        LockGuard(self.0.lock())
    }
}

/// The guard of a [`Lock`].
pub(crate) struct LockGuard<'a, T>(kernel::sync::Guard<'a, T>);

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A static variable of which each machine has its own.
pub(crate) struct Global<T>(pub(crate) fn() -> T);

impl<T: Send + 'static> Deref for Global<T> {
    type Target = T;

    fn deref(&self) -> &T {
        let place = machine::local(self as *const Self as usize, self.0);
        // SAFETY: It is there as long as the machine, which is there as long as anybody runs on it.
        unsafe { &*place }
    }
}

/// Declares a static variable, which is made when a machine first uses it.
macro_rules! global {
    ($(#[$doc:meta])* static $name:ident: $type:ty = $value:expr;) => {
        $(#[$doc])*
        static $name: $crate::sys::Global<$type> = $crate::sys::Global(|| $value);
    };
}
pub(crate) use global;

/// Runs `f` under the lock of the registry, with interrupts off. Any context.
pub(crate) fn with_registry_lock<R>(f: impl FnOnce() -> R) -> R {
    machine::irqs_off(1);
    let result = f();
    machine::irqs_off(-1);
    result
}

/// How the caller may ask for memory: on a worker nobody waits for it.
fn flags() -> Flags {
    if on_worker() {
        GFP_NOWAIT
    } else {
        GFP_NOFS
    }
}

/// Sets memory aside: on the host it merely counts.
#[derive(Clone)]
pub struct Reserve;

/// Allocates memory. May sleep, but on a worker.
pub(crate) fn alloc(layout: Layout, _reserve: Option<&Reserve>) -> Option<NonNull<u8>> {
    allocate(layout, flags(), "task or request").ok()
}

/// # Safety
///
/// `memory` comes from [`alloc`] with the same layout, and is not used any more.
pub(crate) unsafe fn free(memory: NonNull<u8>, layout: Layout, _reserve: Option<&Reserve>) {
    // SAFETY: By the function's contract.
    unsafe { release(memory, layout) };
}

pub(crate) fn new_arc<T>(value: T) -> Result<Arc<T>> {
    Ok(Arc::new(value, flags())?)
}

/// A page filled with zeroes. May sleep, but on a worker.
pub(crate) fn new_page() -> Option<Page> {
    Page::alloc_page(flags() | __GFP_ZERO).ok()
}

pub(crate) fn page_address(page: &Page) -> *mut u8 {
    page.as_ptr().cast()
}

/// An empty vector with room for `capacity` elements. May sleep, but on a worker.
pub(crate) fn vec<T>(capacity: usize) -> Option<KVec<T>> {
    KVec::with_capacity(capacity, flags()).ok()
}

/// A count for which there is little room.
pub(crate) type Small = u32;

global! {
    /// The default executor, while there is a runtime.
    static EXECUTOR: Atomic<*mut Core> = Atomic::new(core::ptr::null_mut());
}
global! {
    /// Those who wait for memory, while there is a runtime.
    static SHORTAGE: Atomic<*mut Shortage> = Atomic::new(core::ptr::null_mut());
}

/// Makes the defaults, or takes them away.
pub(crate) fn set_defaults(executor: *mut Core, shortage: *mut Shortage) {
    EXECUTOR.store(executor, Relaxed);
    SHORTAGE.store(shortage, Relaxed);
}

/// The default executor.
pub(crate) fn executor() -> Result<NonNull<Core>> {
    NonNull::new(EXECUTOR.load(Relaxed)).ok_or(EINVAL)
}

/// Those who wait for memory.
pub(crate) fn shortage() -> Option<&'static Shortage> {
    // SAFETY: It is there as long as the default executor, and whoever asks is in an upcall.
    unsafe { SHORTAGE.load(Relaxed).as_ref() }
}

/// Some memory is made free, by and by.
pub(crate) fn reclaim(_size: usize) {
    machine::defer("reclaim", || {
        machine::reclaimed();
        if let Some(shortage) = shortage() {
            shortage.over();
        }
    });
}

#[path = "blk.rs"]
pub(crate) mod blk;

/// # Safety
///
/// `value` comes from [`Arc::as_ptr`], and somebody holds a reference during the call.
pub(crate) unsafe fn share<T>(value: *const T) -> Arc<T> {
    // SAFETY: By the function's contract. The reference that this is made from is not ours to drop.
    let borrowed = core::mem::ManuallyDrop::new(unsafe { Arc::from_raw(value) });
    Arc::clone(&borrowed)
}

pub(crate) fn push<T>(vec: &mut KVec<T>, value: T) -> Result {
    Ok(vec.push(value, flags())?)
}

/// Warns that a caller broke a rule.
macro_rules! warn_if {
    ($cond:expr, $message:literal) => {
        if $cond {
            kernel::machine::warn($message);
        }
    };
}
pub(crate) use warn_if;

/// What a future gives that was polled after it was ready, as in the kernel: it takes no waker.
#[cold]
pub(crate) fn polled_again<T>() -> core::task::Poll<T> {
    warn_if!(true, "a future was polled after it was ready");
    core::task::Poll::Pending
}

/// Another thread needs a few instructions to get on. None is between two of them here.
pub(crate) fn relax() {
    machine::interrupt_point();
}

/// In the kernel no other thread has the processor meanwhile.
pub(crate) fn not_preempted<R>(f: impl FnOnce() -> R) -> R {
    f()
}

pub(crate) fn current() -> usize {
    machine::current_number() as usize
}

pub(crate) fn current_executor() -> Option<NonNull<Core>> {
    NonNull::new(machine::note() as *mut Core)
}

pub(crate) fn on_worker() -> bool {
    // SAFETY: It is there as long as it runs us.
    current_executor().is_some_and(|core| !unsafe { core.as_ref() }.is_blocking())
}

/// The guard of a [`read_section`].
pub(crate) type ReadSection = kernel::sync::rcu::Guard;

pub(crate) fn read_section() -> ReadSection {
    kernel::sync::rcu::read_lock()
}

/// Declares a figure that orders nothing.
macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $type:ty) => {
        $(#[$doc])*
        pub(crate) struct $name(Atomic<$type>);

        impl $name {
            pub(crate) const fn new(value: $type) -> Self {
                Self(Atomic::new(value))
            }

            pub(crate) fn get(&self) -> $type {
                self.0.load(Relaxed)
            }

            pub(crate) fn set(&self, value: $type) {
                self.0.store(value, Relaxed);
            }

            pub(crate) fn add(&self, value: $type) {
                self.set(self.get().wrapping_add(value));
            }
        }
    };
}
counter!(
    /// A figure.
    Counter,
    u64
);
counter!(
    /// A figure for which there is little room.
    SmallCounter,
    u32
);

pub(crate) fn start_of(string: &'static CStr) -> NonNull<u8> {
    NonNull::new(string.as_ptr().cast_mut().cast()).expect("a string has an address")
}

/// # Safety
///
/// It comes from [`start_of`].
pub(crate) unsafe fn static_cstr(start: NonNull<u8>) -> &'static CStr {
    // SAFETY: By the function's contract.
    unsafe { CStr::from_ptr(start.as_ptr().cast()) }
}

pub(crate) fn new_id() -> u64 {
    0
}

/// The clock of the counters.
pub(crate) fn stamp() -> u64 {
    machine::now()
}

pub(crate) fn since(now: u64, then: u64) -> u64 {
    now.saturating_sub(then)
}

pub(crate) fn nanoseconds(stamps: u64) -> u64 {
    stamps
}

pub(crate) fn stamps(nanoseconds: u64) -> u64 {
    nanoseconds
}

/// A poll takes as long as the interrupts that come in between, by the virtual clock.
pub(crate) fn poll_limit() -> u64 {
    u64::MAX
}

pub(crate) fn warn_long_poll(_name: &str, _took: u64) {}

/// Nobody traces: but between two polls an interrupt may come.
pub(crate) mod trace {
    use super::{machine::interrupt_point, NonNull};
    use crate::task::Header;

    pub(crate) fn spawn(_task: NonNull<Header>) {
        interrupt_point();
    }
    pub(crate) fn wake(_task: NonNull<Header>) {}
    pub(crate) fn poll_begin(_task: NonNull<Header>) {
        interrupt_point();
    }
    pub(crate) fn poll_end(_task: NonNull<Header>, _ready: bool) {
        interrupt_point();
    }
    pub(crate) fn complete(_task: NonNull<Header>) {}
    pub(crate) fn cancel(_task: NonNull<Header>) {}
}

/// Nobody checks the order of locks: a deadlock is found when it happens.
#[derive(Clone, Copy)]
pub struct LockClass;

/// A lock, as nobody sees it.
pub(crate) struct DepMap;

impl DepMap {
    pub(crate) fn new(_class: Option<LockClass>) -> Self {
        Self
    }

    pub(crate) fn read(&self) -> Held<'_> {
        Held(PhantomData)
    }

    pub(crate) fn write(&self) -> Held<'_> {
        Held(PhantomData)
    }
}

/// The calling thread holds a lock.
pub(crate) struct Held<'a>(PhantomData<(&'a (), *mut ())>);

impl Held<'_> {
    pub(crate) fn downgrade(&self) {}
}

/// A scope in which the kernel would not recurse into a file system.
pub(crate) struct NoFs(PhantomData<*mut ()>);

impl NoFs {
    pub(crate) fn enter() -> Self {
        Self(PhantomData)
    }
}

/// The machine's disks get each request as it is submitted.
pub(crate) fn with_plug<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// What runs an executor when it was queued.
pub(crate) enum Work {
    /// A work item, once it is initialised.
    Item(Cell<Option<machine::Work>>, String, Next),
    Thread(StdArc<Sleeping>, Next),
}

/// The link of the list of executors.
type Next = Atomic<*mut Core>;

/// A thread that runs an executor whose runnables may sleep.
pub(crate) struct Sleeping {
    name: String,
    thread: Cell<Option<StdArc<machine::Thread>>>,
    queued: Cell<bool>,
    /// Given by the last one who had a handle: the thread drops it, and ends.
    last: Cell<Option<Arc<Core>>>,
}

// SAFETY: The machine lets one thread run at a time.
unsafe impl Send for Sleeping {}
// SAFETY: As above.
unsafe impl Sync for Sleeping {}

/// The address of an executor that lives as long as what uses it.
struct Run(NonNull<Core>);

// SAFETY: An executor may be used by any thread.
unsafe impl Send for Run {}

impl Run {
    /// # Safety
    ///
    /// The executor is there, and is run by nobody else.
    unsafe fn run(&self) {
        machine::set_note(self.0.as_ptr() as usize);
        // SAFETY: By the function's contract.
        unsafe { self.0.as_ref().run() };
        machine::set_note(0);
    }
}

impl Work {
    pub(crate) fn new(name: &str, blocking: bool) -> Self {
        let next = Next::new(core::ptr::null_mut());
        if !blocking {
            return Self::Item(Cell::new(None), name.to_string(), next);
        }
        let sleeping = Sleeping {
            name: name.to_string(),
            thread: Cell::new(None),
            queued: Cell::new(false),
            last: Cell::new(None),
        };
        Self::Thread(StdArc::new(sleeping), next)
    }

    /// The link of the list of executors.
    pub(crate) fn next(&self) -> &Next {
        match self {
            Self::Item(_, _, next) | Self::Thread(_, next) => next,
        }
    }

    /// The executor has its final address.
    pub(crate) fn init(&self, core: NonNull<Core>) {
        let run = Run(core);
        match self {
            Self::Item(work, name, _) => {
                // SAFETY: The work item goes with the executor, and runs once at a time.
                let item = machine::Work::new(name, move || unsafe { run.run() });
                // SAFETY: Nobody queues it yet.
                work.with_mut(|work| unsafe { *work = Some(item) });
            }
            Self::Thread(sleeping, _) => {
                let this = sleeping.clone();
                machine::spawn(&sleeping.name, move || this.main(run));
            }
        }
    }

    /// Any context.
    pub(crate) fn queue(&self) {
        match self {
            // SAFETY: It is initialised, and not changed any more.
            Self::Item(work, _, _) => work.with(|work| unsafe {
                (*work)
                    .as_ref()
                    .expect("a work item that is initialised")
                    .queue();
            }),
            Self::Thread(sleeping, _) => sleeping.wake(),
        }
    }
}

impl Sleeping {
    fn wake(&self) {
        // SAFETY: One thread runs at a time.
        unsafe {
            self.queued.with_mut(|queued| *queued = true);
            if let Some(thread) = self.thread.with(|thread| (*thread).clone()) {
                thread.unpark();
            }
        }
    }

    fn main(&self, run: Run) {
        let thread = machine::this_thread();
        // SAFETY: One thread runs at a time. So below.
        self.thread
            .with_mut(|slot| unsafe { *slot = Some(thread.clone()) });
        loop {
            let count = thread.count();
            if self
                .queued
                .with_mut(|queued| unsafe { core::mem::take(&mut *queued) })
            {
                // SAFETY: The executor is there until we drop it, and nobody else runs it.
                unsafe { run.run() };
                machine::yield_now();
            } else if let Some(core) = self.last.with_mut(|last| unsafe { (*last).take() }) {
                drop(core);
                break;
            } else {
                machine::park(count);
            }
        }
        self.thread.with_mut(|slot| unsafe { *slot = None });
    }
}

/// Drops a reference, and gives it back if it was the last.
pub(crate) fn last_reference<T>(value: Arc<T>) -> Option<Arc<T>> {
    Arc::into_unique_or_drop(value).map(Into::into)
}

/// Has an executor taken down that nobody has a handle on any more. Any context.
pub(crate) fn after_grace_period(core: Arc<Core>) {
    take_down(core);
}

fn take_down(core: Arc<Core>) {
    machine::defer("retire", move || {
        let pending = match core.work() {
            // SAFETY: It is initialised, and not changed any more.
            Work::Item(work, _, _) => {
                work.with(|work| unsafe { (*work).as_ref().is_some_and(machine::Work::is_pending) })
            }
            Work::Thread(sleeping, _) => {
                let sleeping = sleeping.clone();
                // SAFETY: One thread runs at a time.
                sleeping.last.with_mut(|last| unsafe { *last = Some(core) });
                if let Some(thread) = sleeping.thread.with(|thread| unsafe { (*thread).clone() }) {
                    thread.unpark();
                }
                return;
            }
        };
        if pending {
            // What was pushed before runs first.
            take_down(core);
        }
    });
}

/// An event count.
pub(crate) type Token = usize;

/// The calling thread, as somebody who can be woken.
pub(crate) struct Parker {
    thread: StdArc<machine::Thread>,
    not_send: PhantomData<*mut ()>,
}

static PARKER: RawWakerVTable =
    RawWakerVTable::new(parker_clone, parker_wake, parker_wake_by_ref, parker_drop);

impl Parker {
    pub(crate) fn current() -> Self {
        Self {
            thread: machine::this_thread(),
            not_send: PhantomData,
        }
    }

    /// A waker that holds no reference: not to be dropped, and its clones hold theirs.
    pub(crate) fn waker(&self) -> Waker {
        // SAFETY: The functions keep the contract of `RawWaker`.
        unsafe { Waker::from_raw(RawWaker::new(StdArc::as_ptr(&self.thread).cast(), &PARKER)) }
    }

    /// The thread as a pointer that holds a reference, for [`take`](Self::take).
    pub(crate) fn leave(&self) -> *mut () {
        StdArc::into_raw(self.thread.clone()).cast_mut().cast()
    }

    /// # Safety
    ///
    /// `left` comes from [`leave`](Self::leave), and is taken once.
    pub(crate) unsafe fn take(left: *mut ()) -> Option<Waker> {
        // SAFETY: The functions keep the contract of `RawWaker`, and the reference goes with the
        // waker.
        (!left.is_null()).then(|| unsafe { Waker::from_raw(RawWaker::new(left, &PARKER)) })
    }

    pub(crate) fn token(&self) -> Token {
        self.thread.count()
    }

    /// Nobody is killed.
    pub(crate) fn park_killable(&self, token: Token) -> bool {
        self.park(token, true);
        true
    }

    pub(crate) fn park(&self, token: Token, _io: bool) {
        while self.thread.count() == token {
            machine::park(token);
        }
    }
}

/// # Safety
///
/// `thread` comes from an `Arc` that lives. So in the next three.
unsafe fn parker_clone(thread: *const ()) -> RawWaker {
    // SAFETY: By the function's contract.
    unsafe { StdArc::increment_strong_count(thread.cast::<machine::Thread>()) };
    RawWaker::new(thread, &PARKER)
}

/// # Safety
///
/// As above; the reference goes with the waker.
unsafe fn parker_wake(thread: *const ()) {
    // SAFETY: By the function's contract.
    unsafe {
        parker_wake_by_ref(thread);
        parker_drop(thread);
    }
}

/// # Safety
///
/// As above.
unsafe fn parker_wake_by_ref(thread: *const ()) {
    // SAFETY: By the function's contract.
    unsafe { &*thread.cast::<machine::Thread>() }.unpark();
}

/// # Safety
///
/// As above; the reference goes with the waker.
unsafe fn parker_drop(thread: *const ()) {
    // SAFETY: By the function's contract.
    unsafe { StdArc::decrement_strong_count(thread.cast::<machine::Thread>()) };
}

pub(crate) fn now() -> u64 {
    machine::now()
}

/// A timer that completes a [`Done`] in interrupt context.
pub(crate) struct Timer {
    done: Done,
    event: Cell<Option<machine::EventId>>,
}

// SAFETY: The machine lets one thread run at a time.
unsafe impl Send for Timer {}
// SAFETY: As above.
unsafe impl Sync for Timer {}

/// The address of a timer's [`Done`].
struct Fire(NonNull<Done>);

// SAFETY: A `Done` may be completed by any thread.
unsafe impl Send for Fire {}

impl Fire {
    /// # Safety
    ///
    /// The timer is there.
    unsafe fn fire(&self) {
        // SAFETY: By the function's contract.
        unsafe { self.0.as_ref() }.complete();
    }
}

impl Timer {
    pub(crate) fn new() -> Self {
        Self {
            done: Done::new(),
            event: Cell::new(None),
        }
    }

    pub(crate) fn done(&self) -> &Done {
        &self.done
    }

    /// # Safety
    ///
    /// Called once. The timer stays where it is until it was cancelled.
    pub(crate) unsafe fn start(&self, at: u64) {
        let fire = Fire(NonNull::from(&self.done));
        // SAFETY: By the function's contract.
        let event = machine::at(at, move || unsafe { fire.fire() });
        // SAFETY: One thread runs at a time.
        self.event.with_mut(|slot| unsafe { *slot = Some(event) });
    }

    /// # Safety
    ///
    /// It was started.
    pub(crate) unsafe fn cancel(&self) {
        might_sleep();
        // SAFETY: One thread runs at a time.
        if let Some(event) = self.event.with_mut(|slot| unsafe { (*slot).take() }) {
            machine::cancel(event);
        }
    }
}
