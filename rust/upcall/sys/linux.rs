// SPDX-License-Identifier: GPL-2.0

//! The kernel's back end of [`sys`](super).

use crate::done::Done;
use crate::executor::Core;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::task::{RawWaker, RawWakerVTable, Waker};
use kernel::alloc::allocator::Kmalloc;
use kernel::alloc::{Allocator, Flags, NumaNode};
use kernel::bindings;
use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;
use kernel::types::{NotThreadSafe, Opaque};
use upcall_bindings as ub;

pub(crate) use core::alloc::Layout;
pub(crate) use kernel::alloc::KVec;
pub(crate) use kernel::error::{Error, Result};
pub(crate) use kernel::page::{Page, PAGE_SIZE};
pub(crate) use kernel::prelude::{
    EAGAIN, EBADF, ECANCELED, EDEADLK, EINTR, EINVAL, ENOMEM, ESHUTDOWN, ETIMEDOUT,
};
#[cfg(not(CONFIG_X86_64))]
pub use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed, Release};

#[cfg(CONFIG_X86_64)]
pub use super::{
    atomic::Atomic,
    order::{Acquire, Full, Relaxed, Release},
};
pub(crate) use kernel::sync::{Arc, UniqueArc};

pub(crate) use crate::debugfs::poll_limit;
pub(crate) use crate::module::{after_grace_period, executor, shortage};
pub(crate) use crate::reserve::Reserve;

/// A count for which there is little room.
pub(crate) type Small = u32;

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
    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Makes a [`Lock`] with a lockdep class of its own.
macro_rules! new_lock {
    ($value:expr) => {
        $crate::sys::Lock::new($value, kernel::sync::static_lock_class!())
    };
}
pub(crate) use new_lock;

/// A `spinlock_t` for process context.
///
/// Unlike the `kernel` crate's it is made by value: a spinlock that was never taken is plain data,
/// which may be moved. That lets the portable core embed one without pinned initialisation.
pub(crate) struct Lock<T> {
    raw: Opaque<bindings::spinlock_t>,
    value: UnsafeCell<T>,
}

// SAFETY: The lock gives the value to one thread at a time.
unsafe impl<T: Send> Send for Lock<T> {}
// SAFETY: As above.
unsafe impl<T: Send> Sync for Lock<T> {}

/// One for all, and not a literal: [`Lock::new`] may be compiled into a user's module, whose
/// literals are others, and go with it. Lockdep keeps the pointer as long as the class.
static LOCK_NAME: [kernel::ffi::c_char; 7] = *b"upcall\0";

impl<T> Lock<T> {
    pub(crate) fn new(value: T, class: Pin<&'static kernel::sync::LockClassKey>) -> Self {
        let raw = Opaque::uninit();
        // SAFETY: `raw` is fresh memory; name and class are static. No initialised spinlock points
        // to itself on a kernel that is not PREEMPT_RT, and there we do not build (`lib.rs`).
        unsafe {
            bindings::__spin_lock_init(raw.get(), LOCK_NAME.as_ptr(), class.as_ptr());
        }
        Self {
            raw,
            value: UnsafeCell::new(value),
        }
    }

    pub(crate) fn lock(&self) -> LockGuard<'_, T> {
        // SAFETY: It was initialised.
        unsafe { bindings::spin_lock(self.raw.get()) };
        LockGuard {
            lock: self,
            not_send: PhantomData,
        }
    }
}

/// The guard of a [`Lock`].
pub(crate) struct LockGuard<'a, T> {
    lock: &'a Lock<T>,
    not_send: PhantomData<*mut ()>,
}

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: We hold the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: We hold the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for LockGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: We hold the lock.
        unsafe { bindings::spin_unlock(self.lock.raw.get()) };
    }
}

/// Declares a static variable that is made when the module is loaded.
macro_rules! global {
    ($(#[$doc:meta])* static $name:ident: $type:ty = $value:expr;) => {
        $(#[$doc])*
        static $name: $type = $value;
    };
}
pub(crate) use global;

/// Runs `f` under the lock of the registry, with interrupts off. Any context.
pub(crate) fn with_registry_lock<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: Taken and released on the same thread, and `f` does not sleep.
    let flags = unsafe { ub::upcall_registry_lock() };
    let result = f();
    // SAFETY: The lock is held since the call above, which gave the flags.
    unsafe { ub::upcall_registry_unlock(flags) };
    result
}

/// The sizes of the caches: so many in steps of as many bytes, and then so many in larger ones.
const STEP: usize = 64;
const SMALL: usize = 8;
const LARGE_STEP: usize = 256;
const LARGE: usize = 8;
const CACHES: usize = SMALL + LARGE;

/// The largest size that is served by the small caches.
const SMALL_MAX: usize = SMALL * STEP;

/// The cache for memory of `size` bytes, if there is one.
const fn class_of(size: usize) -> Option<usize> {
    let class = match size {
        0..=SMALL_MAX => size.wrapping_sub(1) / STEP,
        _ => SMALL + (size - SMALL_MAX - 1) / LARGE_STEP,
    };
    if class < CACHES {
        Some(class)
    } else {
        None
    }
}

/// The size of what a cache has.
const fn size_of_class(class: usize) -> usize {
    if class < SMALL {
        (class + 1) * STEP
    } else {
        SMALL_MAX + (class - SMALL + 1) * LARGE_STEP
    }
}

/// Memory for tasks, requests and boxed futures: less is wasted than by `kmalloc`, and it is not
/// cleared first.
static CACHE: [Atomic<*mut ub::kmem_cache>; CACHES] =
    [const { Atomic::new(core::ptr::null_mut()) }; CACHES];

/// Makes the caches. Called once, before there is anything to allocate.
pub(crate) fn make_caches() -> Result {
    for (n, cache) in CACHE.iter().enumerate() {
        // SAFETY: Process context.
        let raw = unsafe { ub::upcall_cache_create(size_of_class(n) as c_uint) };
        if raw.is_null() {
            destroy_caches();
            return Err(ENOMEM);
        }
        cache.store(raw, Relaxed);
    }
    Ok(())
}

/// Destroys the caches, when all that came from them is free.
pub(crate) fn destroy_caches() {
    for cache in &CACHE {
        // SAFETY: It was made by `make_caches`, or is null, which is allowed.
        unsafe { ub::kmem_cache_destroy(cache.xchg(core::ptr::null_mut(), Full)) };
    }
}

/// Calls `allocate`: first for an allocation that does not wait, and then, but not in an upcall, for one
/// that may wait for reclaim, though not from a file system that may be waiting for us.
fn patient<T>(allocate: impl Fn(Flags) -> Option<T>) -> Option<T> {
    allocate(GFP_NOWAIT | __GFP_NOWARN).or_else(|| {
        if on_worker() {
            return None;
        }
        let _nofs = NoFs::enter();
        allocate(GFP_KERNEL)
    })
}

/// Allocates memory, from the reserve if there is one. May sleep, but in an upcall.
pub(crate) fn alloc(layout: Layout, reserve: Option<&Reserve>) -> Option<NonNull<u8>> {
    if let Some(reserve) = reserve {
        return reserve.alloc(layout);
    }
    let class = class_of(layout.size()).filter(|_| layout.align() <= align_of::<u64>());
    if let Some(class) = class {
        let cache = CACHE[class].load(Relaxed);
        // SAFETY: The cache was made when the module was loaded.
        let mut memory = unsafe { ub::upcall_cache_alloc_nowait(cache) };
        if memory.is_null() && !on_worker() {
            // SAFETY: As above.
            memory = unsafe { ub::upcall_cache_alloc(cache) };
        }
        return NonNull::new(memory.cast());
    }
    let allocate = |flags| Kmalloc::alloc(layout, flags, NumaNode::NO_NODE).ok();
    patient(allocate).map(|memory| memory.cast())
}

/// A page filled with zeroes. May sleep, but in an upcall.
pub(crate) fn new_page() -> Option<Page> {
    patient(|flags| Page::alloc_page(flags | __GFP_ZERO).ok())
}

/// The bytes of a page.
pub(crate) fn page_address(page: &Page) -> *mut u8 {
    // SAFETY: The page is allocated, and without highmem it is always mapped.
    unsafe { ub::upcall_page_address(page.as_ptr().cast::<ub::page>()).cast() }
}

#[cfg(CONFIG_HIGHMEM)]
compile_error!("upcall addresses pages directly, which needs a kernel without highmem");

// The pointer types of the two binding crates name the same C type.
const _: () = assert!(size_of::<bindings::page>() == size_of::<ub::page>());

/// Asks for reclaim of as much as `size` bytes in one piece, by a thread that may wait; then
/// [`Shortage::over`](crate::memory::Shortage::over) is called. Any context.
pub(crate) fn reclaim(size: usize) {
    // SAFETY: Whoever is in an upcall has the module, whose exit waits for the work.
    unsafe { ub::upcall_reclaim(size) };
}

/// Frees memory of [`alloc`]. Any context.
///
/// # Safety
///
/// `memory` comes from [`alloc`] with the same layout and reserve, and is not used any more.
pub(crate) unsafe fn free(memory: NonNull<u8>, layout: Layout, reserve: Option<&Reserve>) {
    // SAFETY: By the function's contract. `kfree` also frees what is from a cache.
    unsafe {
        match reserve {
            Some(reserve) => reserve.free(memory),
            None => Kmalloc::free(memory, layout),
        }
    }
}

/// Makes an `Arc`. May sleep, but in an upcall.
pub(crate) fn new_arc<T>(value: T) -> Result<Arc<T>> {
    let place = patient(|flags| UniqueArc::<T>::new_uninit(flags).ok()).ok_or(ENOMEM)?;
    Ok(place.write(value).into())
}

/// One more reference on what is in an `Arc`. Any context.
///
/// # Safety
///
/// `value` comes from [`Arc::as_ptr`], and somebody holds a reference during the call.
pub(crate) unsafe fn share<T>(value: *const T) -> Arc<T> {
    // SAFETY: By the function's contract. The reference that this is made from is not ours to drop.
    let borrowed = core::mem::ManuallyDrop::new(unsafe { Arc::from_raw(value) });
    Arc::clone(&borrowed)
}

/// An empty vector with room for `capacity` elements. May sleep, but in an upcall.
pub(crate) fn vec<T>(capacity: usize) -> Option<KVec<T>> {
    patient(|flags| KVec::with_capacity(capacity, flags).ok())
}

/// Appends to a vector. May sleep, but in an upcall.
pub(crate) fn push<T>(vec: &mut KVec<T>, value: T) -> Result {
    if vec.len() == vec.capacity() && vec.reserve(1, GFP_NOWAIT | __GFP_NOWARN).is_err() {
        if on_worker() {
            return Err(ENOMEM);
        }
        let _nofs = NoFs::enter();
        vec.reserve(1, GFP_KERNEL)?;
    }
    vec.push_within_capacity(value).map_err(|_| ENOMEM)
}

/// Warns, with a stack trace, that a caller broke a rule; not each time, if that comes often.
macro_rules! warn_if {
    ($cond:expr, $message:literal) => {
        if $cond {
            $crate::sys::warn($message);
        }
    };
}
pub(crate) use warn_if;

/// The warning of [`warn_if`].
#[cold]
#[inline(never)] // Once, and not in each user's module.
pub(crate) fn warn(message: &'static str) {
    // SAFETY: The message has this length.
    unsafe { ub::upcall_warn_rule(message.as_ptr().cast(), message.len() as c_uint) };
}

pub(crate) use kernel::task::might_sleep;

/// Another thread or an interrupt needs a few instructions to get on.
pub(crate) fn relax() {
    core::hint::spin_loop();
}

/// Calls `f`, which does not sleep, and lets no other thread have the processor meanwhile.
pub(crate) fn not_preempted<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: The two are a pair, and `f` does not sleep.
    unsafe { ub::upcall_preempt_disable() };
    let result = f();
    // SAFETY: As above.
    unsafe { ub::upcall_preempt_enable() };
    result
}

/// The identity of the calling thread; never 0.
pub(crate) fn current() -> usize {
    kernel::task::Task::current_raw() as usize
}

/// The executor whose worker the caller is, inside a poll.
pub(crate) fn current_executor() -> Option<NonNull<Core>> {
    // SAFETY: No conditions.
    if !unsafe { ub::upcall_is_kworker() } {
        return None;
    }
    crate::registry::find_executor(|core| core.is_current().then(|| NonNull::from(core)))
}

/// Whether the caller is the worker of an executor whose runnables may not sleep, inside a poll.
pub(crate) fn on_worker() -> bool {
    // SAFETY: It is there as long as it runs us.
    current_executor().is_some_and(|core| !unsafe { core.as_ref() }.is_blocking())
}

/// Drops a reference, and gives it back if it was the last.
pub(crate) fn last_reference<T>(value: Arc<T>) -> Option<Arc<T>> {
    Arc::into_unique_or_drop(value).map(Arc::from)
}

/// The guard of a [`read_section`].
pub(crate) type ReadSection = kernel::sync::rcu::Guard;

/// A read section: what was found in it is not freed before it ends, if freed under RCU.
pub(crate) fn read_section() -> ReadSection {
    kernel::sync::rcu::read_lock()
}

/// Declares a figure that orders nothing, and that one thread at a time changes.
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

/// The time by the cheapest clock, in units of its own; differences are for [`nanoseconds`]. Not quite the same on all
/// CPUs.
pub(crate) fn stamp() -> u64 {
    #[cfg(CONFIG_X86_64)]
    // SAFETY: Every such processor has the instruction, and the kernel may use it.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(CONFIG_X86_64))]
    // SAFETY: No conditions.
    unsafe {
        ub::local_clock()
    }
}

/// The difference of two [`stamp`]s, or 0 if it is negative: that of a faster CPU may be a little ahead.
pub(crate) fn since(now: u64, then: u64) -> u64 {
    now.saturating_sub(then)
}

/// How much time a difference of [`stamp`]s is; nothing, if the clock has no known speed.
pub(crate) fn nanoseconds(stamps: u64) -> u64 {
    stamps.wrapping_mul(STAMP.load(Relaxed)) >> STAMP_SHIFT
}

/// What difference of [`stamp`]s is at most so much time: [`nanoseconds`] backwards.
pub(crate) fn stamps(nanoseconds: u64) -> u64 {
    match nanoseconds.checked_div(STAMP.load(Relaxed)) {
        Some(stamps) => stamps.saturating_mul(1 << STAMP_SHIFT),
        None => u64::MAX,
    }
}

/// How many `2^-STAMP_SHIFT` nanoseconds a unit of [`stamp`] is.
static STAMP: Atomic<u64> = Atomic::new(0);

/// Differences of up to `2^(63 - 12)` units at a gigahertz or more can be told: days.
const STAMP_SHIFT: u32 = 12;

/// Learns the speed of the clock. Called once, when the module is loaded.
pub(crate) fn calibrate() {
    // SAFETY: No conditions.
    STAMP.store(unsafe { ub::upcall_stamp_scale(STAMP_SHIFT) }, Relaxed);
}

/// The start of a string.
pub(crate) fn start_of(string: &'static CStr) -> NonNull<u8> {
    // SAFETY: A string is not at the null address.
    unsafe { NonNull::new_unchecked(string.as_char_ptr().cast_mut()) }
}

/// The string of [`start_of`].
///
/// # Safety
///
/// The string's module is there.
pub(crate) unsafe fn static_cstr(start: NonNull<u8>) -> &'static CStr {
    // SAFETY: By the function's contract.
    unsafe { CStr::from_char_ptr(start.as_ptr()) }
}

/// The number of a task.
pub(crate) fn new_id() -> u64 {
    static LAST: Atomic<u64> = Atomic::new(0);
    LAST.fetch_add(1, Relaxed).wrapping_add(1)
}

/// Logs that one poll of task `name` took `took` nanoseconds; not each time, if that comes often.
#[cold]
pub(crate) fn warn_long_poll(name: &str, took: u64) {
    // SAFETY: The name has this length.
    unsafe { ub::upcall_warn_long_poll(name.as_ptr().cast(), name.len() as c_uint, took) };
}

/// A scope in which no allocation recurses into a file system.
pub(crate) struct NoFs(c_uint, PhantomData<NotThreadSafe>);

impl NoFs {
    pub(crate) fn enter() -> Self {
        // SAFETY: The scope is left on the same thread, since the guard does not leave it.
        Self(unsafe { ub::upcall_memalloc_nofs_save() }, PhantomData)
    }
}

impl Drop for NoFs {
    fn drop(&mut self) {
        // SAFETY: `self.0` comes from the matching save.
        unsafe { ub::upcall_memalloc_nofs_restore(self.0) };
    }
}

/// Runs `f` with the block layer's plug in place, so that what it submits goes out in one batch.
pub(crate) fn with_plug<R>(f: impl FnOnce() -> R) -> R {
    let plug = Opaque::<ub::blk_plug>::uninit();
    // SAFETY: The plug stays where it is until it is finished, on the same thread.
    unsafe { ub::blk_start_plug(plug.get()) };
    let result = f();
    // SAFETY: As above.
    unsafe { ub::blk_finish_plug(plug.get()) };
    result
}

/// The time of the monotonic clock, in nanoseconds. Any context.
pub(crate) fn now() -> u64 {
    // SAFETY: No conditions.
    unsafe { ub::upcall_now() }
}

/// A timer that completes a [`Done`] in interrupt context.
pub(crate) struct Timer {
    raw: Opaque<ub::hrtimer>,
    done: Done,
}

// SAFETY: The kernel's timers are made to be started and cancelled by any thread.
unsafe impl Send for Timer {}
// SAFETY: As above.
unsafe impl Sync for Timer {}

impl Timer {
    pub(crate) fn new() -> Self {
        Self {
            raw: Opaque::uninit(),
            done: Done::new(),
        }
    }

    /// What it completes.
    pub(crate) fn done(&self) -> &Done {
        &self.done
    }

    /// Starts it, to fire at `at` by [`now`].
    ///
    /// # Safety
    ///
    /// Called once. The timer stays where it is until it was [cancelled](Self::cancel).
    pub(crate) unsafe fn start(&self, at: u64) {
        // SAFETY: By the function's contract; the function fits the type.
        unsafe { ub::upcall_timer_start(self.raw.get(), Some(Self::fire), at) };
    }

    /// Cancels it, and waits for a handler that is running. Process context.
    ///
    /// # Safety
    ///
    /// It was started, and is cancelled once, by the thread that started it if it lies on a stack.
    pub(crate) unsafe fn cancel(&self) {
        // SAFETY: By the function's contract.
        unsafe { ub::upcall_timer_cancel(self.raw.get()) };
    }

    /// # Safety
    ///
    /// Called by the kernel alone, in interrupt context, for a timer that [`start`](Self::start) started.
    unsafe extern "C" fn fire(raw: *mut ub::hrtimer) -> ub::hrtimer_restart {
        // SAFETY: The hrtimer is embedded in a timer, which stays until `cancel` saw us return.
        let this = unsafe {
            &*raw
                .byte_sub(core::mem::offset_of!(Timer, raw))
                .cast::<Timer>()
        };
        this.done.complete();
        ub::hrtimer_restart::HRTIMER_NORESTART
    }
}

/// The longest name of an executor, with the zero at its end.
pub(crate) const NAME_LEN: usize = 24;

/// What starts an executor's run: a work item on a workqueue of its own.
pub(crate) struct Work {
    /// Null once it was destroyed.
    wq: Atomic<*mut bindings::workqueue_struct>,
    item: Opaque<bindings::work_struct>,
    /// What ends the thread when nobody has a handle any more.
    retirement: Opaque<ub::rcu_work>,
    /// Ends with a zero.
    name: [u8; NAME_LEN],
    /// The next in the list of executors.
    next: Atomic<*mut Core>,
    /// The last run ended because its budget was used up. Touched by the worker alone.
    busy: Atomic<bool>,
}

impl Work {
    /// Makes a work item with an ordered workqueue of that name, of which the first bytes are used.
    ///
    /// Fails with `ENOMEM`.
    pub(crate) fn new(name: &CStr, flags: u32) -> Result<Self> {
        let mut bytes = [0; NAME_LEN];
        for (to, from) in bytes[..NAME_LEN - 1].iter_mut().zip(name.to_bytes()) {
            *to = *from;
        }
        // SAFETY: The name ends with a zero, and is copied.
        let wq = unsafe { ub::upcall_alloc_ordered_workqueue(bytes.as_ptr().cast(), flags) };
        if wq.is_null() {
            return Err(ENOMEM);
        }
        Ok(Self {
            wq: Atomic::new(wq.cast()),
            item: Opaque::uninit(),
            retirement: Opaque::uninit(),
            name: bytes,
            next: Atomic::new(core::ptr::null_mut()),
            busy: Atomic::new(false),
        })
    }

    /// The executor's name.
    pub(crate) fn name(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.name).unwrap_or(c"")
    }

    /// The name, with at least one zero at its end.
    pub(crate) fn name_bytes(&self) -> &[u8; NAME_LEN] {
        &self.name
    }

    /// The link of the list of executors.
    pub(crate) fn next(&self) -> &Atomic<*mut Core> {
        &self.next
    }

    /// Initialises the work item, of the class of `key`, once it has its final address.
    ///
    /// # Safety
    ///
    /// The work item is that of a pinned [`Core`], was not queued yet, and is initialised once.
    pub(crate) unsafe fn init(&self, key: Pin<&'static kernel::sync::LockClassKey>) {
        // SAFETY: The memory is ours and will not move; the work function fits the type.
        unsafe {
            bindings::init_work_with_key(
                self.item.get(),
                Some(Self::run),
                false,
                LOCK_NAME.as_ptr(),
                key.as_ptr(),
            )
        };
    }

    /// Ends the thread. A run that is pending or in progress is finished before, and so are those for
    /// which a run queues the item again. May sleep.
    ///
    /// # Safety
    ///
    /// Nobody queues it any more but the run itself. Not called by it, nor twice at the same time.
    pub(crate) unsafe fn take_down(&self) {
        let wq = self.wq.load(Relaxed);
        if !wq.is_null() {
            // SAFETY: The workqueue is ours.
            unsafe { bindings::destroy_workqueue(wq) };
            self.wq.store(core::ptr::null_mut(), Relaxed);
        }
    }

    /// Has the executor taken down by `wq`, after a grace period of RCU. Any context.
    ///
    /// # Safety
    ///
    /// The work item is that of a pinned [`Core`], of which the caller has the only reference and passes it
    /// on. Called once. `wq` stays until the executor was taken down.
    pub(crate) unsafe fn retire(&self, wq: *mut bindings::workqueue_struct) {
        // SAFETY: The memory is there until the work frees it; the work function fits the type.
        unsafe { ub::upcall_queue_rcu_work(wq.cast(), self.retirement.get(), Some(Self::retired)) };
    }

    /// # Safety
    ///
    /// Called by the workqueue alone, for the work item that [`retire`](Self::retire) queued.
    unsafe extern "C" fn retired(work: *mut ub::work_struct) {
        let offset = Core::WORK_OFFSET
            + core::mem::offset_of!(Work, retirement)
            + core::mem::offset_of!(ub::rcu_work, work);
        // SAFETY: The work is embedded in an executor, whose only reference `retire` was given.
        // The grace period is over.
        unsafe { crate::module::take_down(NonNull::new_unchecked(work.byte_sub(offset).cast())) };
    }

    /// Makes a run pending, unless one is already. Any context.
    pub(crate) fn queue(&self) {
        // SAFETY: The work was initialised by `init`, and the workqueue lives.
        unsafe {
            bindings::queue_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                self.wq.load(Relaxed),
                self.item.get(),
            )
        };
    }

    /// # Safety
    ///
    /// Called by the workqueue alone, for a work item that [`init`](Self::init) initialised.
    unsafe extern "C" fn run(work: *mut bindings::work_struct) {
        let offset = Core::WORK_OFFSET + core::mem::offset_of!(Work, item);
        // SAFETY: The item is embedded in an executor, which stays until we return.
        let core = unsafe { &*work.byte_sub(offset).cast::<Core>() };
        let busy = &core.work().busy;
        let nice = if busy.load(Relaxed) {
            // SAFETY: Process context, without any lock.
            Some(unsafe { ub::upcall_busy_begin() })
        } else {
            None
        };
        // SAFETY: A work item of an ordered queue never runs twice at the same time.
        busy.store(unsafe { core.run() }, Relaxed);
        if let Some(nice) = nice {
            // SAFETY: Process context, without any lock.
            unsafe { ub::upcall_busy_end(nice) };
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: An executor that ran was taken down before; one that was never used has no run.
        unsafe { self.take_down() };
    }
}

/// The calling thread, as somebody who can be woken.
///
/// Threads that park share a table of event counts, hashed by thread. A wake counts up and then wakes
/// the thread; a thread parks only while the count is what it was. A collision costs a spurious
/// poll. So a waker needs no memory of its own: it is a reference on the thread.
pub(crate) struct Parker {
    task: NonNull<bindings::task_struct>,
    not_send: PhantomData<NotThreadSafe>,
}

/// An event count.
pub(crate) type Token = i32;

const EVENT_COUNTS: usize = 64;

static EVENTS: [Atomic<i32>; EVENT_COUNTS] = [const { Atomic::new(0) }; EVENT_COUNTS];

static PARKER: RawWakerVTable =
    RawWakerVTable::new(parker_clone, parker_wake, parker_wake_by_ref, parker_drop);

/// The event count of the thread at `task`.
fn events(task: *const ()) -> &'static Atomic<i32> {
    // The low bits of the address are always zero.
    &EVENTS[(task as usize >> 10) % EVENT_COUNTS]
}

impl Parker {
    /// The parker of the calling thread.
    pub(crate) fn current() -> Self {
        Self {
            // SAFETY: `current` is never null.
            task: unsafe { NonNull::new_unchecked(kernel::task::Task::current_raw()) },
            not_send: PhantomData,
        }
    }

    /// A waker that holds no reference: not to be dropped, and its clones hold theirs.
    pub(crate) fn waker(&self) -> Waker {
        // SAFETY: The functions keep the contract of `RawWaker`.
        unsafe { Waker::from_raw(RawWaker::new(self.task.as_ptr().cast(), &PARKER)) }
    }

    /// The thread as a pointer that holds a reference, for [`take`](Self::take).
    pub(crate) fn leave(&self) -> *mut () {
        // SAFETY: The thread is the current one.
        unsafe { parker_clone(self.task.as_ptr().cast()) };
        self.task.as_ptr().cast()
    }

    /// The waker of a thread that [`leave`](Self::leave) left; none for null.
    ///
    /// # Safety
    ///
    /// `left` comes from `leave`, and is taken once.
    pub(crate) unsafe fn take(left: *mut ()) -> Option<Waker> {
        // SAFETY: The functions keep the contract of `RawWaker`, and the reference goes with the waker.
        (!left.is_null()).then(|| unsafe { Waker::from_raw(RawWaker::new(left, &PARKER)) })
    }

    /// The count to pass to [`park`](Self::park), read before the condition is checked.
    pub(crate) fn token(&self) -> Token {
        events(self.task.as_ptr().cast()).load(Acquire)
    }

    /// Sleeps until the count is no longer `token`; as a wait for IO if `io`.
    pub(crate) fn park(&self, token: Token, io: bool) {
        let count = core::ptr::from_ref(events(self.task.as_ptr().cast()));
        // SAFETY: An `Atomic<i32>` is an `atomic_t`.
        unsafe { ub::upcall_park(count.cast_mut().cast(), token, io) };
    }

    /// [`park`](Self::park) for IO. Returns `false` if the thread was killed before.
    pub(crate) fn park_killable(&self, token: Token) -> bool {
        let count = core::ptr::from_ref(events(self.task.as_ptr().cast()));
        // SAFETY: As above.
        unsafe { ub::upcall_park_killable(count.cast_mut().cast(), token) }
    }
}

/// # Safety
///
/// `task` is a thread on which the waker holds a reference, or the current one. So in the next three.
unsafe fn parker_clone(task: *const ()) -> RawWaker {
    // SAFETY: As above.
    unsafe { bindings::get_task_struct(task.cast_mut().cast()) };
    RawWaker::new(task, &PARKER)
}

/// # Safety
///
/// As for the function above.
unsafe fn parker_wake(task: *const ()) {
    // SAFETY: As above.
    unsafe {
        parker_wake_by_ref(task);
        parker_drop(task);
    }
}

/// # Safety
///
/// As for the function above.
unsafe fn parker_wake_by_ref(task: *const ()) {
    events(task).fetch_add(1, Full);
    // SAFETY: As above.
    unsafe { bindings::wake_up_process(task.cast_mut().cast()) };
}

/// # Safety
///
/// As for the function above.
unsafe fn parker_drop(task: *const ()) {
    // SAFETY: As above; the reference goes with the waker.
    unsafe { bindings::put_task_struct(task.cast_mut().cast()) };
}
