// SPDX-License-Identifier: GPL-2.0

//! The host's back end of [`sys`](super).
//!
//! Beside what the core needs it checks what the kernel would only punish: a lock taken or memory
//! allocated in interrupt context, sleep or a queued work item under a spinlock, memory used after
//! it was freed, freed twice or never. The checks' state is one for the process, so tests that use
//! it run one after another (`harness::session`).

// The models order no failures.
#![cfg_attr(loom, allow(dead_code))]

pub use super::order::{Acquire, Full, Relaxed, Release};

use super::order::{AcquireOrRelaxed, Any, ReleaseOrRelaxed};
use crate::done::Done;
use crate::memory::Shortage;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::task::{RawWaker, RawWakerVTable, Waker};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

pub(crate) use core::alloc::Layout;
pub(crate) use std::vec::Vec as KVec;

/// What comes from loom in a model, and from std else.
pub(crate) mod rt {
    #[cfg(loom)]
    pub(crate) use loom::{
        cell::UnsafeCell,
        sync::{
            atomic::{AtomicBool, AtomicPtr, AtomicUsize},
            Arc, Condvar, Mutex, MutexGuard,
        },
        thread, thread_local,
    };
    #[cfg(not(loom))]
    pub(crate) use std::{
        sync::{
            atomic::{AtomicBool, AtomicPtr, AtomicUsize},
            Arc, Condvar, Mutex, MutexGuard,
        },
        thread, thread_local,
    };

    /// std's cell with the interface of loom's.
    #[cfg(not(loom))]
    pub(crate) struct UnsafeCell<T: ?Sized>(core::cell::UnsafeCell<T>);

    #[cfg(not(loom))]
    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner()
        }
    }

    #[cfg(not(loom))]
    impl<T: ?Sized> UnsafeCell<T> {
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

/// An error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(i32);

impl Error {
    /// The error of a negative error number.
    pub(crate) fn from_errno(errno: i32) -> Self {
        assert!(errno < 0);
        Self(-errno)
    }
}

pub(crate) const EINTR: Error = Error(4);
pub(crate) const EBADF: Error = Error(9);
pub(crate) const EAGAIN: Error = Error(11);
pub(crate) const ENOMEM: Error = Error(12);
pub(crate) const EINVAL: Error = Error(22);
pub(crate) const EDEADLK: Error = Error(35);
pub(crate) const ETIMEDOUT: Error = Error(110);
pub(crate) const ESHUTDOWN: Error = Error(108);
pub(crate) const ECANCELED: Error = Error(125);

/// `core`'s with the kernel's defaults.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

/// A type that [`Atomic`] can hold.
pub trait Value: Copy {
    type Repr;
    fn new(value: Self) -> Self::Repr;
    fn load(repr: &Self::Repr, order: Ordering) -> Self;
    fn store(repr: &Self::Repr, value: Self, order: Ordering);
    fn swap(repr: &Self::Repr, value: Self, order: Ordering) -> Self;
    fn exchange(repr: &Self::Repr, old: Self, new: Self, order: Ordering) -> Result<Self, Self>;
}

macro_rules! value {
    ([$($t:ident)?] $type:ty, $repr:ty) => {
        impl $(<$t>)? Value for $type {
            type Repr = $repr;
            fn new(value: Self) -> Self::Repr {
                <$repr>::new(value)
            }
            fn load(repr: &Self::Repr, order: Ordering) -> Self {
                repr.load(order)
            }
            fn store(repr: &Self::Repr, value: Self, order: Ordering) {
                repr.store(value, order)
            }
            fn swap(repr: &Self::Repr, value: Self, order: Ordering) -> Self {
                repr.swap(value, order)
            }
            fn exchange(
                repr: &Self::Repr,
                old: Self,
                new: Self,
                order: Ordering,
            ) -> Result<Self, Self> {
                // The kernel's cmpxchg promises no ordering when it fails.
                repr.compare_exchange(old, new, order, Ordering::Relaxed)
            }
        }
    };
}
value!([] usize, rt::AtomicUsize);
value!([] bool, rt::AtomicBool);
value!([T] *mut T, rt::AtomicPtr<T>);

/// An atomic variable with the kernel's interface.
pub struct Atomic<T: Value>(T::Repr);

impl<T: Value> Atomic<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(T::new(value))
    }

    pub(crate) fn load<O: AcquireOrRelaxed>(&self, _: O) -> T {
        T::load(&self.0, O::LOAD)
    }

    pub(crate) fn store<O: ReleaseOrRelaxed>(&self, value: T, _: O) {
        T::store(&self.0, value, O::STORE)
    }

    pub(crate) fn xchg<O: Any>(&self, value: T, _: O) -> T {
        T::swap(&self.0, value, O::EXCHANGE)
    }

    pub(crate) fn cmpxchg<O: Any>(&self, old: T, new: T, _: O) -> Result<T, T> {
        T::exchange(&self.0, old, new, O::EXCHANGE)
    }
}

impl Atomic<usize> {
    pub(crate) fn fetch_add<O: Any>(&self, value: usize, _: O) -> usize {
        self.0.fetch_add(value, O::EXCHANGE)
    }

    pub(crate) fn fetch_sub<O: Any>(&self, value: usize, _: O) -> usize {
        self.0.fetch_sub(value, O::EXCHANGE)
    }
}

pub(crate) use rt::UnsafeCell as Cell;

/// A count for which there would be little room.
pub(crate) type Small = usize;

// What the checks know.

/// How a byte of freed memory looks. As a state word it is a task that may be pushed, as a
/// pointer it faults, and as one of loom's objects it does not exist.
const POISON: u8 = 0xa0;

/// What was allocated and not freed, and what is to go wrong.
pub(crate) struct Ledger {
    live: BTreeMap<usize, Layout>,
    freed: Vec<(usize, Layout)>,
    arcs: usize,
    parkers: usize,
    warnings: Vec<&'static str>,
    /// How many more allocations succeed before one fails.
    fail_after: Option<usize>,
}

static LEDGER: std::sync::Mutex<Ledger> = std::sync::Mutex::new(Ledger {
    live: BTreeMap::new(),
    freed: Vec::new(),
    arcs: 0,
    parkers: 0,
    warnings: Vec::new(),
    fail_after: None,
});

fn ledger() -> std::sync::MutexGuard<'static, Ledger> {
    LEDGER
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Ledger {
    /// Starts anew. Freed memory goes back to the allocator; what leaked stays leaked.
    pub(crate) fn open() {
        let mut this = ledger();
        this.live.clear();
        for (address, layout) in core::mem::take(&mut this.freed) {
            // SAFETY: `free` left it to us.
            unsafe { std::alloc::dealloc(address as *mut u8, layout) };
        }
        this.arcs = 0;
        this.parkers = 0;
        this.warnings.clear();
        this.fail_after = None;
        drop(this);
        rcu::open();
    }

    /// Panics if something leaked, or if there was a warning that was not [taken](take_warnings).
    pub(crate) fn close() {
        rcu::close();
        let this = ledger();
        let (live, arcs, parkers) = (this.live.len(), this.arcs, this.parkers);
        let warnings = this.warnings.clone();
        drop(this);
        assert_eq!(live, 0, "tasks leaked");
        assert_eq!(arcs, 0, "`Arc`s leaked");
        assert_eq!(parkers, 0, "references on threads leaked");
        assert!(warnings.is_empty(), "unexpected warnings: {warnings:?}");
    }

    /// How many tasks exist.
    pub(crate) fn tasks() -> usize {
        ledger().live.len()
    }
}

/// Lets `count` allocations succeed, and then one fail.
pub(crate) fn fail_after(count: usize) {
    ledger().fail_after = Some(count);
}

/// Whether the failure that was ordered is still to come; takes the order back.
pub(crate) fn cancel_failure() -> bool {
    ledger().fail_after.take().is_some()
}

/// The warnings since the last call.
pub(crate) fn take_warnings() -> Vec<&'static str> {
    core::mem::take(&mut ledger().warnings)
}

pub(crate) fn warn(message: &'static str) {
    ledger().warnings.push(message);
}

macro_rules! warn_if {
    ($cond:expr, $message:literal) => {
        if $cond {
            $crate::sys::warn($message);
        }
    };
}
pub(crate) use warn_if;

/// What is known about the calling thread.
struct Here {
    id: usize,
    interrupt: core::cell::Cell<bool>,
    worker: core::cell::Cell<bool>,
    executor: core::cell::Cell<*mut crate::executor::Core>,
    locks: core::cell::Cell<usize>,
    nofs: core::cell::Cell<usize>,
    park: std::sync::Arc<Park>,
}

/// The number of the next thread. Not loom's: it orders nothing.
static NEXT_ID: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);

rt::thread_local! {
    static HERE: Here = Here {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        interrupt: core::cell::Cell::new(false),
        worker: core::cell::Cell::new(false),
        executor: core::cell::Cell::new(core::ptr::null_mut()),
        locks: core::cell::Cell::new(0),
        nofs: core::cell::Cell::new(0),
        park: std::sync::Arc::new(Park { count: rt::Mutex::new(0), woken: rt::Condvar::new() }),
    };
}

/// Runs `f` as an interrupt handler would.
pub(crate) fn interrupt<R>(f: impl FnOnce() -> R) -> R {
    struct Leave(bool);
    impl Drop for Leave {
        fn drop(&mut self) {
            HERE.with(|here| here.interrupt.set(self.0));
        }
    }
    let _leave = Leave(HERE.with(|here| here.interrupt.replace(true)));
    f()
}

/// Whether the caller is inside [`interrupt`].
pub(crate) fn in_interrupt() -> bool {
    HERE.with(|here| here.interrupt.get())
}

/// Whether the caller is inside a [`NoFs`] scope.
pub(crate) fn in_nofs() -> bool {
    HERE.with(|here| here.nofs.get()) != 0
}

/// Whether the caller holds a [`Lock`].
pub(crate) fn in_lock() -> bool {
    HERE.with(|here| here.locks.get()) != 0
}

pub(crate) fn might_sleep() {
    assert!(!in_interrupt(), "sleeping in interrupt context");
    assert!(!in_lock(), "sleeping under a spinlock");
}

/// Makes a [`Lock`].
macro_rules! new_lock {
    ($value:expr) => {
        $crate::sys::Lock::new($value)
    };
}
pub(crate) use new_lock;

/// A mutex that is never taken in interrupt context, as the kernel's spinlock.
pub(crate) struct Lock<T>(rt::Mutex<T>);

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(rt::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockGuard<'_, T> {
        assert!(
            !in_interrupt(),
            "a spinlock for process context is taken in interrupt context"
        );
        let guard = self.0.lock().unwrap();
        HERE.with(|here| here.locks.set(here.locks.get() + 1));
        LockGuard(guard)
    }
}

/// The guard of a [`Lock`].
pub(crate) struct LockGuard<'a, T>(rt::MutexGuard<'a, T>);

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

impl<T> Drop for LockGuard<'_, T> {
    fn drop(&mut self) {
        HERE.with(|here| here.locks.set(here.locks.get() - 1));
    }
}

/// Declares a static variable. In a model it is made anew for each execution.
macro_rules! global {
    ($(#[$doc:meta])* static $name:ident: $type:ty = $value:expr;) => {
        #[cfg(loom)]
        loom::lazy_static! {
            $(#[$doc])*
            static ref $name: $type = $value;
        }
        #[cfg(not(loom))]
        $(#[$doc])*
        static $name: std::sync::LazyLock<$type> = std::sync::LazyLock::new(|| $value);
    };
}
pub(crate) use global;

global! {
    /// The lock of the registry, which is for any context.
    static REGISTRY: rt::Mutex<()> = rt::Mutex::new(());
}

/// Runs `f` under the lock of the registry.
pub(crate) fn with_registry_lock<R>(f: impl FnOnce() -> R) -> R {
    let guard = REGISTRY.lock().unwrap();
    HERE.with(|here| here.locks.set(here.locks.get() + 1));
    let result = f();
    HERE.with(|here| here.locks.set(here.locks.get() - 1));
    drop(guard);
    result
}

/// Whether the next allocation is to fail.
fn fails() -> bool {
    might_sleep();
    if SHORT.load(Ordering::Relaxed) && on_worker() {
        return true;
    }
    let mut ledger = ledger();
    match &mut ledger.fail_after {
        Some(0) => {
            ledger.fail_after = None;
            true
        }
        Some(count) => {
            *count -= 1;
            false
        }
        None => false,
    }
}

/// Whether memory is short: others wait for reclaim, and upcalls do not get any.
static SHORT: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// How often reclaim was asked for.
static RECLAIMS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Those who wait for memory, if the test has a [`Shortage`].
static SHORTAGE: std::sync::atomic::AtomicPtr<Shortage> =
    std::sync::atomic::AtomicPtr::new(core::ptr::null_mut());

/// The default executor, if the test has one.
static EXECUTOR: std::sync::atomic::AtomicPtr<crate::executor::Core> =
    std::sync::atomic::AtomicPtr::new(core::ptr::null_mut());

/// Makes memory short, or not.
pub(crate) fn set_short(short: bool) {
    SHORT.store(short, Ordering::Relaxed);
}

pub(crate) fn set_shortage(shortage: *mut Shortage) {
    RECLAIMS.store(0, Ordering::Relaxed);
    SHORTAGE.store(shortage, Ordering::Relaxed);
}

pub(crate) fn shortage() -> Option<&'static Shortage> {
    // SAFETY: A test keeps it as long as its executors.
    unsafe { SHORTAGE.load(Ordering::Relaxed).as_ref() }
}

pub(crate) fn reclaim(_size: usize) {
    RECLAIMS.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn reclaims() -> usize {
    RECLAIMS.load(Ordering::Relaxed)
}

pub(crate) fn set_default_executor(core: *mut crate::executor::Core) {
    EXECUTOR.store(core, Ordering::Relaxed);
}

pub(crate) fn executor() -> Result<NonNull<crate::executor::Core>> {
    NonNull::new(EXECUTOR.load(Ordering::Relaxed)).ok_or(EINVAL)
}

pub(crate) const PAGE_SIZE: usize = 4096;

/// A page of memory.
pub(crate) struct Page(NonNull<blk::RawPage>);

// SAFETY: It owns its memory.
unsafe impl Send for Page {}
// SAFETY: A shared one gives an address.
unsafe impl Sync for Page {}

impl Page {
    pub(crate) fn as_ptr(&self) -> *mut blk::RawPage {
        self.0.as_ptr()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        assert!(!in_interrupt(), "a page is freed in interrupt context");
        // SAFETY: It was allocated so, by `new_page`.
        unsafe { free(self.0.cast(), Layout::new::<blk::RawPage>(), None) };
    }
}

pub(crate) fn new_page() -> Option<Page> {
    let page = alloc(Layout::new::<blk::RawPage>(), None)?;
    // SAFETY: It has this size.
    unsafe { page.as_ptr().write_bytes(0, PAGE_SIZE) };
    Some(Page(page.cast()))
}

pub(crate) fn page_address(page: &Page) -> *mut u8 {
    page.as_ptr().cast()
}

pub(crate) fn vec<T>(capacity: usize) -> Option<KVec<T>> {
    (!fails()).then(|| KVec::with_capacity(capacity))
}

#[path = "blk.rs"]
pub(crate) mod blk;
pub(crate) use blk::with_plug;

/// There are none on the host.
#[derive(Clone)]
pub struct Reserve;

/// Nobody checks the order of locks.
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

pub(crate) fn alloc(layout: Layout, _reserve: Option<&Reserve>) -> Option<NonNull<u8>> {
    if fails() {
        return None;
    }
    assert_ne!(layout.size(), 0);
    // SAFETY: The size is not zero.
    let memory = NonNull::new(unsafe { std::alloc::alloc(layout) })?;
    ledger().live.insert(memory.as_ptr() as usize, layout);
    Some(memory)
}

/// # Safety
///
/// `memory` comes from [`alloc`] with the same layout, and is not used any more.
pub(crate) unsafe fn free(memory: NonNull<u8>, layout: Layout, _reserve: Option<&Reserve>) {
    let mut ledger = ledger();
    assert_eq!(
        ledger.live.remove(&(memory.as_ptr() as usize)),
        Some(layout),
        "freed what is not allocated"
    );
    // SAFETY: The memory is allocated and nobody uses it.
    unsafe { memory.as_ptr().write_bytes(POISON, layout.size()) };
    // Not reused before the test is over, so that a late use finds the poison.
    ledger.freed.push((memory.as_ptr() as usize, layout));
}

/// Counts an `Arc` until its value is dropped.
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        ledger().arcs -= 1;
    }
}

/// A reference-counted value.
pub(crate) struct Arc<T>(rt::Arc<Inner<T>>);

struct Inner<T> {
    value: T,
    /// How many references there are. It orders nothing: the `Arc` does that.
    references: std::sync::atomic::AtomicUsize,
    _counted: Counted,
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        self.0.references.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        self.0.references.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Drops a reference, and gives it back if it was the last.
pub(crate) fn last_reference<T>(value: Arc<T>) -> Option<Arc<T>> {
    let value = core::mem::ManuallyDrop::new(value);
    let last = value.0.references.fetch_sub(1, Ordering::Relaxed) == 1;
    // SAFETY: The destructor does not run, so that the field is read once.
    let inner = unsafe { core::ptr::read(&value.0) };
    last.then(|| {
        inner.references.store(1, Ordering::Relaxed);
        Arc(inner)
    })
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

pub(crate) fn new_arc<T>(value: T) -> Result<Arc<T>> {
    if fails() {
        return Err(ENOMEM);
    }
    ledger().arcs += 1;
    Ok(Arc(rt::Arc::new(Inner {
        value,
        references: std::sync::atomic::AtomicUsize::new(1),
        _counted: Counted,
    })))
}

pub(crate) fn push<T>(vec: &mut KVec<T>, value: T) -> Result {
    if vec.len() == vec.capacity() {
        if fails() {
            return Err(ENOMEM);
        }
        // By one each time, so that a test can let each step of a vector's growth fail.
        vec.reserve_exact(1);
    }
    vec.push(value);
    Ok(())
}

/// Another thread needs a few instructions to get on.
pub(crate) fn relax() {
    rt::thread::yield_now();
}

/// In the kernel no other thread has the processor meanwhile.
pub(crate) fn not_preempted<R>(f: impl FnOnce() -> R) -> R {
    f()
}

pub(crate) fn current() -> usize {
    HERE.with(|here| here.id)
}

/// A figure for which there would be little room.
pub(crate) struct SmallCounter(std::sync::atomic::AtomicU32);

impl SmallCounter {
    pub(crate) const fn new(value: u32) -> Self {
        Self(std::sync::atomic::AtomicU32::new(value))
    }

    pub(crate) fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, value: u32) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }
}

/// A figure that orders nothing, also not in a model.
pub(crate) struct Counter(std::sync::atomic::AtomicU64);

impl Counter {
    pub(crate) const fn new(value: u64) -> Self {
        Self(std::sync::atomic::AtomicU64::new(value))
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, value: u64) {
        self.set(self.get() + value);
    }
}

pub(crate) fn start_of(string: &'static std::ffi::CStr) -> NonNull<u8> {
    NonNull::new(string.as_ptr().cast_mut().cast()).unwrap()
}

/// # Safety
///
/// It comes from [`start_of`].
pub(crate) unsafe fn static_cstr(start: NonNull<u8>) -> &'static std::ffi::CStr {
    // SAFETY: By the function's contract.
    unsafe { std::ffi::CStr::from_ptr(start.as_ptr().cast()) }
}

pub(crate) fn new_id() -> u64 {
    0
}

/// The clock of the counters: that of the timers.
pub(crate) fn stamp() -> u64 {
    now()
}

pub(crate) fn nanoseconds(stamps: u64) -> u64 {
    stamps
}

pub(crate) fn since(now: u64, then: u64) -> u64 {
    now.saturating_sub(then)
}

pub(crate) fn stamps(nanoseconds: u64) -> u64 {
    nanoseconds
}

pub(crate) fn poll_limit() -> u64 {
    u64::MAX
}

pub(crate) fn warn_long_poll(_name: &str, _took: u64) {}

/// Nobody traces.
pub(crate) mod trace {
    use super::NonNull;
    use crate::task::Header;

    pub(crate) fn spawn(_task: NonNull<Header>) {}
    pub(crate) fn wake(_task: NonNull<Header>) {}
    pub(crate) fn poll_begin(_task: NonNull<Header>) {}
    pub(crate) fn poll_end(_task: NonNull<Header>, _ready: bool) {}
    pub(crate) fn complete(_task: NonNull<Header>) {}
    pub(crate) fn cancel(_task: NonNull<Header>) {}
}

#[path = "rcu.rs"]
pub(crate) mod rcu;
pub(crate) use rcu::{after_grace_period, read_section, ReadSection};

/// The executor whose worker the caller is.
pub(crate) fn current_executor() -> Option<NonNull<crate::executor::Core>> {
    NonNull::new(HERE.with(|here| here.executor.get()))
}

/// The calling thread runs an executor, or does no longer.
pub(crate) fn set_executor(executor: *mut crate::executor::Core) {
    HERE.with(|here| here.executor.set(executor));
}

pub(crate) fn on_worker() -> bool {
    // SAFETY: It is there as long as it runs us.
    let blocking = |core: NonNull<crate::executor::Core>| unsafe { core.as_ref() }.is_blocking();
    HERE.with(|here| here.worker.get()) && !current_executor().is_some_and(blocking)
}

/// A scope in which the kernel would not recurse into a file system.
pub(crate) struct NoFs(PhantomData<*mut ()>);

impl NoFs {
    pub(crate) fn enter() -> Self {
        HERE.with(|here| here.nofs.set(here.nofs.get() + 1));
        Self(PhantomData)
    }
}

impl Drop for NoFs {
    fn drop(&mut self) {
        HERE.with(|here| here.nofs.set(here.nofs.get() - 1));
    }
}

/// A work item: [`queue`](Self::queue) makes it pending, and it is no longer pending when its
/// function starts.
///
/// Whoever starts it runs the executor: a thread that [waits](Self::wait), or a test that
/// [tries](Self::try_start).
pub(crate) struct Work {
    state: rt::Mutex<WorkState>,
    queued: rt::Condvar,
    /// The next in the list of executors.
    next: Atomic<*mut crate::executor::Core>,
    /// Whether the executor is there: not once it was taken down. Loom sees to it that what uses the
    /// executor comes before that, and is known to.
    there: rt::UnsafeCell<bool>,
}

struct WorkState {
    pending: bool,
    running: bool,
    closed: bool,
    queued_count: usize,
}

impl Work {
    pub(crate) fn new() -> Self {
        Self {
            state: rt::Mutex::new(WorkState {
                pending: false,
                running: false,
                closed: false,
                queued_count: 0,
            }),
            queued: rt::Condvar::new(),
            next: Atomic::new(core::ptr::null_mut()),
            there: rt::UnsafeCell::new(true),
        }
    }

    /// Somebody uses the executor.
    fn check(&self) {
        // SAFETY: It is not written at the same time, or loom says so.
        let there = self.there.with(|there| unsafe { *there });
        assert!(there, "an executor is used that was taken down");
    }

    /// The executor is taken down: what uses it from now on would use memory that was freed.
    #[cfg_attr(not(loom), allow(dead_code, reason = "only models take one down"))]
    pub(crate) fn end(&self) {
        // SAFETY: As in `check`.
        self.there.with_mut(|there| unsafe { *there = false });
    }

    /// The link of the list of executors.
    pub(crate) fn next(&self) -> &Atomic<*mut crate::executor::Core> {
        self.check();
        &self.next
    }

    pub(crate) fn queue(&self) {
        assert!(!in_lock(), "somebody is woken under a spinlock");
        self.check();
        let mut state = self.state.lock().unwrap();
        state.queued_count += 1;
        state.pending = true;
        drop(state);
        self.queued.notify_one();
    }

    /// How often it was queued.
    pub(crate) fn queued_count(&self) -> usize {
        self.state.lock().unwrap().queued_count
    }

    fn start(&self, state: &mut WorkState) {
        assert!(!state.running, "a run overlaps another");
        state.pending = false;
        state.running = true;
        HERE.with(|here| here.worker.set(true));
    }

    /// Waits until a run is due. Returns `false` if there will be none.
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        while !state.pending && !state.closed {
            state = self.queued.wait(state).unwrap();
        }
        let due = state.pending;
        if due {
            self.start(&mut state);
        }
        due
    }

    /// Starts a run if one is due, and returns whether it did.
    pub(crate) fn try_start(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let due = state.pending;
        if due {
            self.start(&mut state);
        }
        due
    }

    /// The run that [`wait`](Self::wait) or [`try_start`](Self::try_start) started is over.
    pub(crate) fn finish(&self) {
        self.state.lock().unwrap().running = false;
        HERE.with(|here| here.worker.set(false));
    }

    /// Lets the thread that waits go, once nothing is pending.
    pub(crate) fn close(&self) {
        self.state.lock().unwrap().closed = true;
        self.queued.notify_one();
    }
}

/// An event count.
pub(crate) type Token = usize;

/// The event count of a thread.
struct Park {
    count: rt::Mutex<usize>,
    woken: rt::Condvar,
}

/// How often a thread parked, but not for IO, and for IO.
static PARKED: [std::sync::atomic::AtomicUsize; 2] =
    [const { std::sync::atomic::AtomicUsize::new(0) }; 2];

/// How often a thread parked since the last call: not for IO, and for IO.
pub(crate) fn take_parked() -> [usize; 2] {
    PARKED
        .each_ref()
        .map(|count| count.swap(0, Ordering::Relaxed))
}

/// The calling thread, as somebody who can be woken.
pub(crate) struct Parker {
    park: std::sync::Arc<Park>,
    not_send: PhantomData<*mut ()>,
}

static PARKER: RawWakerVTable =
    RawWakerVTable::new(parker_clone, parker_wake, parker_wake_by_ref, parker_drop);

impl Parker {
    pub(crate) fn current() -> Self {
        Self {
            park: HERE.with(|here| here.park.clone()),
            not_send: PhantomData,
        }
    }

    /// A waker that holds no reference: not to be dropped, and its clones hold theirs.
    pub(crate) fn waker(&self) -> Waker {
        // SAFETY: The functions keep the contract of `RawWaker`.
        unsafe {
            Waker::from_raw(RawWaker::new(
                std::sync::Arc::as_ptr(&self.park).cast(),
                &PARKER,
            ))
        }
    }

    pub(crate) fn leave(&self) -> *mut () {
        let park = std::sync::Arc::as_ptr(&self.park);
        // SAFETY: It comes from an `Arc` that lives.
        unsafe { parker_clone(park.cast()) };
        park.cast_mut().cast()
    }

    /// # Safety
    ///
    /// `left` comes from [`leave`](Self::leave), and is taken once.
    pub(crate) unsafe fn take(left: *mut ()) -> Option<Waker> {
        // SAFETY: The functions keep the contract of `RawWaker`.
        (!left.is_null()).then(|| unsafe { Waker::from_raw(RawWaker::new(left, &PARKER)) })
    }

    pub(crate) fn token(&self) -> Token {
        *self.park.count.lock().unwrap()
    }

    /// Nobody is killed.
    pub(crate) fn park_killable(&self, token: Token) -> bool {
        self.park(token, true);
        true
    }

    pub(crate) fn park(&self, token: Token, io: bool) {
        might_sleep();
        PARKED[usize::from(io)].fetch_add(1, Ordering::Relaxed);
        assert!(!on_worker(), "a worker sleeps");
        blk::flush_plug();
        let mut count = self.park.count.lock().unwrap();
        while *count == token {
            count = self.park.woken.wait(count).unwrap();
        }
    }
}

/// # Safety
///
/// `park` comes from an `Arc` that lives. So in the next three.
unsafe fn parker_clone(park: *const ()) -> RawWaker {
    ledger().parkers += 1;
    // SAFETY: As above.
    unsafe { std::sync::Arc::increment_strong_count(park.cast::<Park>()) };
    RawWaker::new(park, &PARKER)
}

unsafe fn parker_wake(park: *const ()) {
    // SAFETY: As above; the reference goes with the waker.
    unsafe {
        parker_wake_by_ref(park);
        parker_drop(park);
    }
}

unsafe fn parker_wake_by_ref(park: *const ()) {
    assert!(!in_lock(), "somebody is woken under a spinlock");
    // SAFETY: As above.
    let park = unsafe { &*park.cast::<Park>() };
    *park.count.lock().unwrap() += 1;
    park.woken.notify_all();
}

unsafe fn parker_drop(park: *const ()) {
    ledger().parkers -= 1;
    // SAFETY: As above; the reference goes with the waker.
    unsafe { std::sync::Arc::decrement_strong_count(park.cast::<Park>()) };
}

/// The clock of the timers, and those that are started: it moves by [`advance`] alone.
static CLOCK: std::sync::Mutex<Clock> = std::sync::Mutex::new(Clock {
    now: 0,
    timers: Vec::new(),
});

struct Clock {
    now: u64,
    /// When, and the address of the [`Done`].
    timers: Vec<(u64, usize)>,
}

fn clock() -> std::sync::MutexGuard<'static, Clock> {
    CLOCK
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub(crate) fn now() -> u64 {
    clock().now
}

/// How many timers are started and did not fire.
pub(crate) fn timers() -> usize {
    clock().timers.len()
}

/// Moves the clock on, and fires what is due as an interrupt handler would, the earliest first. Not
/// for models: nothing waits for a handler that runs in another thread.
pub(crate) fn advance(duration: core::time::Duration) {
    let end = now() + duration.as_nanos() as u64;
    loop {
        let mut clock = clock();
        clock.timers.sort_unstable();
        let Some(&(at, done)) = clock.timers.first().filter(|timer| timer.0 <= end) else {
            clock.now = end;
            return;
        };
        clock.timers.remove(0);
        clock.now = clock.now.max(at);
        drop(clock);
        // SAFETY: A timer that is dropped is cancelled before.
        interrupt(|| unsafe { &*(done as *const Done) }.complete());
    }
}

/// A timer that completes a [`Done`].
pub(crate) struct Timer(Done);

impl Timer {
    pub(crate) fn new() -> Self {
        Self(Done::new())
    }

    pub(crate) fn done(&self) -> &Done {
        &self.0
    }

    pub(crate) unsafe fn start(&self, at: u64) {
        clock()
            .timers
            .push((at, core::ptr::from_ref(&self.0) as usize));
    }

    pub(crate) unsafe fn cancel(&self) {
        might_sleep();
        let done = core::ptr::from_ref(&self.0) as usize;
        clock().timers.retain(|timer| timer.1 != done);
    }
}
