// SPDX-License-Identifier: GPL-2.0

//! The kernel's back end of [`sys`](super).

use crate::done::Done;
use crate::executor::Executor;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::task::{RawWaker, RawWakerVTable, Waker};
use kernel::alloc::allocator::Kmalloc;
use kernel::alloc::{Allocator, NumaNode};
use kernel::bindings;
use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;
use kernel::types::{NotThreadSafe, Opaque};
use upcall_bindings as ub;

pub(crate) use core::alloc::Layout;
pub(crate) use kernel::alloc::KVec;
pub(crate) use kernel::error::{Error, Result};
pub(crate) use kernel::prelude::{EAGAIN, ECANCELED, EDEADLK, ENOMEM, ESHUTDOWN, ETIMEDOUT};
pub(crate) use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed, Release};
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

/// Allocates memory, without reclaim from a file system that may be waiting for us. May sleep.
pub(crate) fn alloc(layout: Layout) -> Option<NonNull<u8>> {
    let _nofs = NoFs::enter();
    Kmalloc::alloc(layout, GFP_KERNEL, NumaNode::NO_NODE)
        .ok()
        .map(|memory| memory.cast())
}

/// Frees memory of [`alloc`]. Any context.
///
/// # Safety
///
/// `memory` comes from [`alloc`] with the same layout, and is not used any more.
pub(crate) unsafe fn free(memory: NonNull<u8>, layout: Layout) {
    // SAFETY: By the function's contract.
    unsafe { Kmalloc::free(memory, layout) };
}

/// Makes an `Arc`. May sleep.
pub(crate) fn new_arc<T>(value: T) -> Result<Arc<T>> {
    let _nofs = NoFs::enter();
    Ok(Arc::new(value, GFP_KERNEL)?)
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

/// Appends to a vector. May sleep.
pub(crate) fn push<T>(vec: &mut KVec<T>, value: T) -> Result {
    let _nofs = NoFs::enter();
    Ok(vec.push(value, GFP_KERNEL)?)
}

/// Warns once, with a stack trace, that a caller broke a rule.
macro_rules! warn_if {
    ($cond:expr, $message:literal) => {
        if $cond {
            kernel::prelude::pr_warn!("{}\n", $message);
            kernel::warn_on!(true);
        }
    };
}
pub(crate) use warn_if;

/// The identity of the calling thread; never 0.
pub(crate) fn current() -> usize {
    kernel::task::Task::current_raw() as usize
}

/// Whether the caller is the default executor's worker, inside a poll.
pub(crate) fn on_worker() -> bool {
    // SAFETY: The executor lives as long as the module.
    crate::module::executor().is_ok_and(|executor| unsafe { executor.as_ref() }.is_current())
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
pub(crate) fn with_plug(f: impl FnOnce()) {
    let plug = Opaque::<ub::blk_plug>::uninit();
    // SAFETY: The plug stays where it is until it is finished, on the same thread.
    unsafe { ub::blk_start_plug(plug.get()) };
    f();
    // SAFETY: As above.
    unsafe { ub::blk_finish_plug(plug.get()) };
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

/// What starts an executor's run: a work item on a workqueue of its own.
pub(crate) struct Bell {
    queue: *mut bindings::workqueue_struct,
    work: Opaque<bindings::work_struct>,
}

impl Bell {
    /// Makes a bell whose work goes to `queue`, an ordered workqueue that outlives it.
    pub(crate) fn new(queue: *mut bindings::workqueue_struct) -> Self {
        Self {
            queue,
            work: Opaque::uninit(),
        }
    }

    /// Initialises the work item, once the bell has its final address.
    ///
    /// # Safety
    ///
    /// The bell is that of a pinned [`Executor`], was not rung yet, and is hung once.
    pub(crate) unsafe fn hang(&self) {
        // SAFETY: The memory is ours and will not move; the work function fits the type.
        unsafe {
            bindings::init_work_with_key(
                self.work.get(),
                Some(Self::work),
                false,
                c"upcall".as_char_ptr(),
                kernel::sync::static_lock_class!().as_ptr(),
            )
        };
    }

    /// Starts a run, unless one is pending already. Any context.
    pub(crate) fn ring(&self) {
        // SAFETY: The work was initialised by `hang`, and the queue lives.
        unsafe {
            bindings::queue_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                self.queue,
                self.work.get(),
            )
        };
    }

    /// # Safety
    ///
    /// Called by the workqueue alone, for a work item that [`hang`](Self::hang) initialised.
    unsafe extern "C" fn work(work: *mut bindings::work_struct) {
        let offset = Executor::BELL_OFFSET + core::mem::offset_of!(Bell, work);
        // SAFETY: The work is embedded in a bell, and the bell in an executor. A work item of an
        // ordered queue never runs twice at the same time.
        unsafe { (*work.byte_sub(offset).cast::<Executor>()).run() };
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

    /// The count to pass to [`park`](Self::park), read before the condition is checked.
    pub(crate) fn token(&self) -> i32 {
        events(self.task.as_ptr().cast()).load(Acquire)
    }

    /// Sleeps until the count is no longer `token`.
    pub(crate) fn park(&self, token: i32) {
        let count = core::ptr::from_ref(events(self.task.as_ptr().cast()));
        // SAFETY: An `Atomic<i32>` is an `atomic_t`.
        unsafe { ub::upcall_park(count.cast_mut().cast(), token) };
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
