// SPDX-License-Identifier: GPL-2.0

//! The module: makes the default executor, and takes executors down.
//!
//! # Executors
//!
//! An executor is an ordered workqueue with one work item. The queue has a rescuer
//! (`WQ_MEM_RECLAIM`), so that the executor runs also when no thread can be made: it may be what frees memory. It is not
//! freezable: while the system goes to sleep others still read and write files, until the devices
//! stop, and a task that waits for them waits as long as they do. Its thread
//! is bound to no CPU, so that one that goes away takes nothing along: the workqueue moves the thread,
//! and the kernel moves the timers.

use crate::bio;
use crate::debugfs;
use crate::executor::{BlockingWorker, Core, Executor, InPlug};
use crate::memory::Shortage;
use crate::registry;
use crate::scope::Scope;
use crate::sys::{self, Acquire, Atomic, Full, Release, Work};
use core::ptr::{null_mut, NonNull};
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::{static_lock_class, Arc};
use upcall_bindings as ub;

/// The default executor. Set before any user of the module can be loaded, cleared after the last
/// was removed; so is the blocking worker.
static EXECUTOR: Atomic<*mut Core> = Atomic::new(null_mut());

/// The default blocking worker: runs what must wait in the kernel, so that the executor need not.
static BLOCKING: Atomic<*mut Core> = Atomic::new(null_mut());

/// Those who wait for memory: there as long as the default executor.
static SHORTAGE: Atomic<*mut Shortage> = Atomic::new(null_mut());

/// Those who wait for memory.
pub(crate) fn shortage() -> Option<&'static Shortage> {
    // SAFETY: It is there as long as the module has users, none of whom is in an upcall after.
    unsafe { SHORTAGE.load(Acquire).as_ref() }
}

/// Called by C when reclaim made memory free, or tried to.
#[no_mangle]
extern "C" fn upcall_rs_memory_freed() {
    if let Some(shortage) = shortage() {
        shortage.over();
    }
}

/// Takes down executors, several at a time.
static RETIREMENT: Atomic<*mut bindings::workqueue_struct> = Atomic::new(null_mut());

/// How many executors there are beside these two.
static OTHERS: Atomic<i32> = Atomic::new(0);

fn others() -> *mut bindings::atomic_t {
    // An `Atomic<i32>` is an `atomic_t`.
    core::ptr::from_ref(&OTHERS).cast_mut().cast()
}

/// The default executor.
pub(crate) fn executor() -> Result<NonNull<Core>> {
    NonNull::new(EXECUTOR.load(Acquire)).ok_or(ENODEV)
}

/// The default blocking worker.
pub(crate) fn blocking() -> Result<NonNull<Core>> {
    NonNull::new(BLOCKING.load(Acquire)).ok_or(ENODEV)
}

/// Whether the caller runs on the thread of an executor: in an upcall, or in blocking work, or in the destructor
/// of what one of them left.
pub fn on_executor() -> bool {
    sys::current_executor().is_some()
}

impl Scope {
    /// Makes an empty scope on the default executor.
    ///
    /// Fails with `ENOMEM`. May sleep.
    pub fn new() -> Result<Self> {
        Scope::on(&Executor::shared()?, &Executor::shared_blocking()?)
    }
}

impl Executor {
    /// Makes an executor with a thread of its own. Its tasks may not sleep.
    ///
    /// The name, of at most 23 bytes, is seen in the thread's name and in debugfs. Fails with `ENOMEM`. May sleep.
    pub fn new(name: &CStr) -> Result<Self> {
        Self::other(name, bindings::wq_flags_WQ_HIGHPRI, false)
    }

    /// Makes a thread for work that may sleep, which does one piece after the other.
    ///
    /// A volume whose device may keep a thread waiting has one of its own, for others not to wait too.
    /// Otherwise as [`new`](Self::new).
    pub fn blocking(name: &CStr) -> Result<BlockingWorker> {
        Ok(BlockingWorker::of(Self::other(name, 0, true)?))
    }

    /// The default executor. All who need none of their own share it.
    pub fn shared() -> Result<Self> {
        // SAFETY: The module's data has a handle, and is there as long as it has users.
        Ok(Self::from_core(unsafe { sys::share(executor()?.as_ptr()) }))
    }

    /// The default blocking worker. All who need none of their own share it.
    pub fn shared_blocking() -> Result<BlockingWorker> {
        // SAFETY: The module's data has a handle, and is there as long as it has users.
        let executor = Self::from_core(unsafe { sys::share(blocking()?.as_ptr()) });
        Ok(BlockingWorker::of(executor))
    }

    /// Makes an empty scope on this executor, and on the default blocking worker.
    ///
    /// Fails with `ENOMEM`. May sleep.
    pub fn scope(&self) -> Result<Scope> {
        Scope::on(self, &Self::shared_blocking()?)
    }

    fn other(name: &CStr, flags: u32, blocking: bool) -> Result<Self> {
        let this = Self::build(name, flags, blocking)?;
        // SAFETY: It is a count.
        unsafe { ub::upcall_users_enter(others().cast()) };
        Ok(this)
    }

    fn build(name: &CStr, flags: u32, blocking: bool) -> Result<Self> {
        let flags = flags | bindings::wq_flags_WQ_MEM_RECLAIM;
        let in_plug = blocking.then_some(bio::is_request as InPlug);
        let this = Self::with_work(Work::new(name, flags)?, in_plug)?;
        // SAFETY: The executor has its final address, and nobody knows of it yet.
        unsafe { this.core().work().init(static_lock_class!()) };
        registry::add(this.core());
        Ok(this)
    }
}

/// Has an executor taken down after a grace period. Any context.
///
/// The reference is the only one, and nobody finds the executor any more who does not know it.
pub(crate) fn after_grace_period(core: Arc<Core>) {
    let core = Arc::into_raw(core);
    // SAFETY: The core stays until `take_down`, which gets the reference. It was counted in `OTHERS`, so the
    // workqueue is there.
    unsafe { (*core).work().retire(RETIREMENT.load(Acquire)) };
}

/// Takes down an executor that [`after_grace_period`] was given, a grace period ago.
///
/// # Safety
///
/// `core` is its only reference, which is passed on. Process context, and not the executor's own.
pub(crate) unsafe fn take_down(core: NonNull<Core>) {
    // SAFETY: By the function's contract. Nobody queues it but the last run: wakers have left their read
    // sections, and others had handles.
    unsafe {
        let core = Arc::from_raw(core.as_ptr());
        core.work().take_down();
        drop(core);
        ub::upcall_users_leave(others().cast());
    }
}

/// Ends the thread of an executor. What is on its list is run before.
///
/// # Safety
///
/// Nobody has a handle but the caller. Process context, and not the executor's own.
unsafe fn end(core: &Arc<Core>) {
    registry::remove(core);
    // SAFETY: We may sleep.
    unsafe { bindings::synchronize_rcu() };
    // SAFETY: Nobody pushes any more: wakers have left their read sections, and others had handles.
    unsafe { core.work().take_down() };
}

/// The module's data.
pub(crate) struct Runtime {
    /// Dropped first: it looks at all else.
    _debugfs: debugfs::Directory,
    _defaults: Defaults,
}

impl kernel::Module for Runtime {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let defaults = Defaults::new()?;
        Ok(Self {
            _debugfs: debugfs::Directory::create(),
            _defaults: defaults,
        })
    }
}

/// What is there as long as the module: the caches, the default executor and the default blocking
/// worker.
struct Defaults {
    /// The default executor, and the default blocking worker.
    executors: [Option<Executor>; 2],
}

impl Defaults {
    fn new() -> Result<Self> {
        sys::calibrate();
        sys::make_caches()?;
        let mut this = Self {
            executors: [None, None],
        };
        let shortage = KBox::into_raw(KBox::new(Shortage::new(), GFP_KERNEL)?);
        SHORTAGE.store(shortage, Release);
        // SAFETY: Called once.
        to_result(unsafe { ub::upcall_queues_open() })?;
        // SAFETY: The name ends with a zero.
        let retirement = unsafe { ub::upcall_alloc_workqueue(c"upcall_retire".as_char_ptr()) };
        if retirement.is_null() {
            return Err(ENOMEM);
        }
        RETIREMENT.store(retirement.cast(), Release);
        let blocking = Executor::build(c"upcall_blocking", 0, true)?;
        BLOCKING.store(blocking.as_ptr().as_ptr(), Release);
        this.executors[1] = Some(blocking);
        let flags = bindings::wq_flags_WQ_HIGHPRI;
        let executor = Executor::build(c"upcall", flags, false)?;
        EXECUTOR.store(executor.as_ptr().as_ptr(), Release);
        this.executors[0] = Some(executor);
        Ok(this)
    }
}

impl Drop for Defaults {
    fn drop(&mut self) {
        // Every user's scopes are gone, and with them all tasks and requests; but the completion
        // that let the last of them go may still be in its last instructions.
        // SAFETY: Process context, without any lock.
        unsafe { ub::upcall_wait_for_completions() };
        // Executors whose last handle was just dropped.
        // SAFETY: As above.
        unsafe { ub::upcall_users_wait(others().cast()) };
        let retirement = RETIREMENT.xchg(null_mut(), Full);
        if !retirement.is_null() {
            // SAFETY: Nobody queues any more. The last work may be in its last instructions, for which
            // this waits.
            unsafe { bindings::destroy_workqueue(retirement) };
        }
        EXECUTOR.store(null_mut(), Release);
        for executor in &mut self.executors {
            let Some(executor) = executor.take() else {
                continue;
            };
            match sys::last_reference(executor.into_core()) {
                // SAFETY: It is the last handle, and this is the thread that removes the module.
                Some(core) => unsafe { end(&core) },
                None => sys::warn_if!(true, "an executor has a user that is gone"),
            }
        }
        BLOCKING.store(null_mut(), Release);
        // SAFETY: Nobody asks any more. The work is over when it returns.
        unsafe { ub::upcall_queues_close() };
        let shortage = SHORTAGE.xchg(null_mut(), Full);
        if !shortage.is_null() {
            // SAFETY: It came from a box, and nobody knows of it any more.
            drop(unsafe { KBox::from_raw(shortage) });
        }
        sys::destroy_caches();
    }
}
