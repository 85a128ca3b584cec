// SPDX-License-Identifier: GPL-2.0

//! Scopes: fork-join, and what makes unloading a module safe.
//!
//! Every task and every request that calls back into a user's module belongs to a scope. A scope
//! ends in one of two ways: [`Scope::join`] waits until all of them are done; dropping the scope
//! cancels the tasks and waits until they are gone. A module that holds its scopes in its own data
//! can therefore be removed at any moment: when its destructor returns, none of its code runs or will.
//!
//! # Concurrency
//!
//! `members` counts what is alive: tasks, requests, and one for the `Scope` itself; its highest bit says that
//! the scope was cancelled. All of them together have one reference, so that a member costs the count alone.
//! Whoever brings it to zero drops that reference, after it has completed `empty`, once. Nobody joins from zero. The list of tasks is protected by a
//! lock; each listed task is kept alive by one reference that the list owns. Cancelling takes the
//! tasks off the list one by one, so the lock is never held while a future is dropped. Shielded tasks
//! are in a list of their own, which nobody cancels: as members they keep the scope from ending.
//!
//! On a worker, of whatever executor, nothing waits: others may need it in order to end. There the drop of a scope
//! cancels in place: it may take `RUNNING` of any task that nobody runs, and drop the future at once. What is left then (requests, tasks that another thread runs)
//! becomes a matter of the scope whose member the worker is running: the dropped scope becomes a
//! member of that one, which ends only after it. `parent` is written while the writer is a member, and
//! taken by the one who brings `members` to zero.
//!
//! # Leaks
//!
//! A scope that is leaked (`mem::forget`), or owned by one of its own tasks, waits for nobody; the
//! module that did so may not be removed.

use super::executor::{BlockingWorker, Core, Executor};
use super::registry::{self, Registered};
use super::stats::Wait;
use super::sys::{self, Arc, Atomic, Cell, Full, Lock, Relaxed};
use super::task::{self, Header, JoinHandle, Siblings, SpawnOptions};
use super::{block_on, done::Done, state};
use core::ffi::CStr;
use core::future::Future;
use core::ptr::NonNull;

/// In `members`: nothing may be added any more, the scope was cancelled.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// What the handles and the members of a scope share.
pub(crate) struct ScopeInner {
    members: Atomic<usize>,
    /// The one reference that all members have together. Written before the scope is shared, taken out by
    /// the last to leave.
    keep: Cell<Option<Arc<ScopeInner>>>,
    empty: Done,
    tasks: Lock<TaskList>,
    /// What a scope that was dropped on a worker is a member of.
    parent: Cell<Option<Member>>,
    executor: Executor,
    /// Runs what may sleep.
    blocking: Executor,
    /// Its place in the list of all scopes.
    pub(crate) registered: Registered,
}

// SAFETY: All of it is made to be shared.
unsafe impl Send for ScopeInner {}
// SAFETY: As above.
unsafe impl Sync for ScopeInner {}

/// The tasks of a scope that are not complete.
struct TaskList {
    first: Option<NonNull<Header>>,
    /// The first of those that are shielded.
    shielded: Option<NonNull<Header>>,
}

impl TaskList {
    fn siblings<R>(&mut self, task: NonNull<Header>, f: impl FnOnce(&mut Siblings) -> R) -> R {
        // SAFETY: We hold the scope's lock (rule 4 of `task`), and the list keeps its tasks alive.
        unsafe { task.as_ref().siblings.with_mut(|s| f(&mut *s)) }
    }

    /// Where the list begins that a task is in, by whether it is shielded.
    fn head(&mut self, shielded: bool) -> &mut Option<NonNull<Header>> {
        match shielded {
            true => &mut self.shielded,
            false => &mut self.first,
        }
    }

    fn insert(&mut self, task: NonNull<Header>) {
        let shielded = self.siblings(task, |s| s.shielded);
        let next = self.head(shielded).replace(task);
        self.siblings(task, |s| {
            *s = Siblings {
                prev: None,
                next,
                listed: true,
                shielded,
            }
        });
        if let Some(next) = next {
            self.siblings(next, |s| s.prev = Some(task));
        }
    }

    /// Takes `task` off. Returns whether it was on, and with it the list's reference.
    fn remove(&mut self, task: NonNull<Header>) -> bool {
        let (prev, next, listed, shielded) = self.siblings(task, |s| {
            let listed = core::mem::replace(&mut s.listed, false);
            (s.prev, s.next, listed, s.shielded)
        });
        if !listed {
            return false;
        }
        match prev {
            Some(prev) => self.siblings(prev, |s| s.next = next),
            None => *self.head(shielded) = next,
        }
        if let Some(next) = next {
            self.siblings(next, |s| s.prev = prev);
        }
        true
    }
}

impl ScopeInner {
    /// Adds a member, unless the scope is over.
    pub(crate) fn enter(&self) -> bool {
        self.enter_if(|members| members & !CLOSED != 0)
    }

    /// Adds a member, unless the scope is over or closed.
    fn enter_open(&self) -> bool {
        self.enter_if(|members| members != 0 && members < CLOSED)
    }

    fn enter_if(&self, may: impl Fn(usize) -> bool) -> bool {
        let mut members = self.members.load(Relaxed);
        while may(members) {
            match self.members.cmpxchg(members, members.wrapping_add(1), Full) {
                Ok(_) => return true,
                Err(now) => members = now,
            }
        }
        false
    }

    /// Nobody enters any more by [`enter_open`](Self::enter_open).
    fn close(&self) {
        let mut members = self.members.load(Relaxed);
        while members & CLOSED == 0 {
            match self.members.cmpxchg(members, members | CLOSED, Full) {
                Ok(_) => return,
                Err(now) => members = now,
            }
        }
    }

    /// Takes a member away. Any context.
    ///
    /// # Safety
    ///
    /// The caller is a member, and is none any more. The scope may be gone with it.
    #[inline]
    pub(crate) unsafe fn leave(scope: NonNull<Self>) {
        // SAFETY: The caller was a member, and the members keep the scope.
        let this = unsafe { scope.as_ref() };
        let members = this.members.fetch_sub(1, Full) & !CLOSED;
        debug_assert!(members != 0, "a scope was left by who was no member");
        if members == 1 {
            // SAFETY: The caller was the last.
            unsafe { this.end() };
        }
    }

    /// Ends the scope, whose last member has left.
    ///
    /// # Safety
    ///
    /// Called once. The scope may be gone with it.
    #[cold]
    unsafe fn end(&self) {
        // SAFETY: Nobody joins from zero, so `parent` and `keep` are ours.
        let (parent, keep) = unsafe {
            (
                self.parent.with_mut(|parent| (*parent).take()),
                self.keep.with_mut(|keep| (*keep).take()),
            )
        };
        registry::unregister(self);
        self.empty.complete();
        drop(parent);
        drop(keep);
    }

    /// The executor that runs what may sleep.
    pub(crate) fn blocking(&self) -> &Core {
        self.blocking.core()
    }

    /// Takes a task off the list before it is complete.
    pub(crate) fn unlist(&self, task: NonNull<Header>) {
        let listed = self.tasks.lock().remove(task);
        if listed {
            // SAFETY: The list's reference is now ours.
            unsafe { task::put(task) };
        }
    }

    /// Calls `f` for each task that is not complete, under the list's lock.
    #[cfg(MODULE)]
    pub(crate) fn for_each(&self, mut f: impl FnMut(&Header)) {
        let mut tasks = self.tasks.lock();
        for mut next in [tasks.first, tasks.shielded] {
            while let Some(task) = next {
                // SAFETY: The list keeps its tasks alive.
                f(unsafe { task.as_ref() });
                next = tasks.siblings(task, |s| s.next);
            }
        }
    }

    /// Becomes a member of `parent`, for the caller's own membership, until the last member leaves.
    ///
    /// # Safety
    ///
    /// The caller is a member, calls this once, and leaves.
    unsafe fn adopted_by(&self, parent: Member) {
        // SAFETY: Whoever takes `parent` out does so after the caller has left.
        self.parent.with_mut(|p| unsafe { *p = Some(parent) });
    }

    /// Cancels all tasks that are not shielded; in place if the caller is on a worker, `here`.
    fn cancel(&self, here: Option<&Core>) {
        loop {
            let mut tasks = self.tasks.lock();
            self.close();
            let Some(task) = tasks.first else { return };
            tasks.remove(task);
            drop(tasks);
            // SAFETY: The list's reference is now ours, and is passed on or dropped. A claimed task is a
            // member until `task::cancel` has dropped its future.
            unsafe {
                match here {
                    Some(worker) if task.as_ref().state.claim() => {
                        worker.within(self, task.as_ptr(), || task::cancel(task));
                    }
                    _ => {
                        task::abort(task);
                        task::put(task);
                    }
                }
            }
        }
    }
}

/// The owner of a set of tasks, none of which outlives it.
///
/// Dropping a scope cancels its tasks, but those that are [shielded](Self::shielded), and waits until
/// the last is gone. It may sleep. Not from interrupt context.
///
/// Inside an upcall it does not wait: the tasks are cancelled in place, and what cannot be (requests,
/// work that a blocking worker is at) then keeps the scope of that upcall from ending.
pub struct Scope {
    inner: Arc<ScopeInner>,
    /// [`Scope::join`] took our own membership away.
    left: bool,
}

impl Scope {
    /// Makes an empty scope whose tasks run on `executor`, and whose blocking work on `blocking`.
    ///
    /// It keeps both. Fails with `ENOMEM`. May sleep.
    pub fn on(executor: &Executor, blocking: &BlockingWorker) -> sys::Result<Self> {
        let inner = sys::new_arc(ScopeInner {
            members: Atomic::new(1),
            keep: Cell::new(None),
            empty: Done::new(),
            tasks: sys::new_lock!(TaskList {
                first: None,
                shielded: None,
            }),
            parent: Cell::new(None),
            executor: executor.clone(),
            blocking: blocking.executor().clone(),
            registered: Registered::new(),
        })?;
        let keep = Some(inner.clone());
        // SAFETY: Nobody else knows of it.
        inner.keep.with_mut(|place| unsafe { *place = keep });
        registry::register(&inner);
        Ok(Self { inner, left: false })
    }

    /// Gives a handle that spawns into this scope and can be cloned into its tasks.
    pub fn spawner(&self) -> Spawner {
        Spawner {
            inner: self.inner.clone(),
            options: SpawnOptions::default(),
        }
    }

    /// [`spawner`](Self::spawner), whose tasks are called `name`. See [`Spawner::named`].
    pub fn named(&self, name: &'static CStr) -> Spawner {
        self.spawner().named(name)
    }

    /// [`spawner`](Self::spawner), whose tasks are not cancelled when the scope ends. See
    /// [`Spawner::shielded`].
    pub fn shielded(&self) -> Spawner {
        self.spawner().shielded()
    }

    /// Queues `future` for the executor. See [`Spawner::spawn`].
    pub fn spawn<F>(&self, future: F) -> sys::Result<JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn(
            &self.inner,
            &self.inner.executor,
            &SpawnOptions::default(),
            future,
            false,
        )
    }

    /// Polls `future` once here, and queues it only if it is pending. See [`Spawner::spawn_eager`].
    pub fn spawn_eager<F>(&self, future: F) -> sys::Result<JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn(
            &self.inner,
            &self.inner.executor,
            &SpawnOptions::default(),
            future,
            true,
        )
    }

    /// Cancels the tasks that are not shielded, and takes no more. Any that is running is cancelled
    /// after its poll.
    pub fn cancel(&self) {
        self.inner.cancel(None);
    }

    /// Waits until every member of the scope is done: the join of fork-join.
    ///
    /// # Cancellation
    ///
    /// Dropping the future drops the scope, which cancels what is left.
    pub async fn join(mut self) {
        self.left = true;
        // SAFETY: It is our own membership.
        unsafe { ScopeInner::leave(NonNull::from(&*self.inner)) };
        // SAFETY: The scope is ours, and so is the waiting side of `empty`.
        core::future::poll_fn(|cx| unsafe { self.inner.empty.poll(cx, Wait::Scope) }).await;
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.inner.empty.is_done() {
            return;
        }
        let inner = &self.inner;
        // SAFETY: It is our own membership, and is given up once.
        let leave = || unsafe { ScopeInner::leave(NonNull::from(&**inner)) };
        // Any executor's: what is left of the scope may need its worker, be it to release a request.
        let Some(worker) = sys::current_executor() else {
            inner.cancel(None);
            if !self.left {
                leave();
            }
            // SAFETY: The scope is ours, and so is the waiting side of `empty`.
            let ended = core::future::poll_fn(|cx| unsafe { inner.empty.poll(cx, Wait::Scope) });
            return block_on::wait(ended, false);
        };
        // SAFETY: It is there as long as it runs us.
        let worker = unsafe { worker.as_ref() };
        inner.cancel(Some(worker));
        // SAFETY: The scope is ours, and so is the waiting side of `empty`.
        unsafe { inner.empty.disarm() };
        if self.left && !inner.enter() {
            return;
        }
        match worker.current_scope() {
            // What the worker runs is a member, so the scope has not ended.
            Some(parent) if parent != NonNull::from(&**inner) => {
                // SAFETY: What the worker runs is a member, and keeps it.
                match unsafe { Member::join(parent) } {
                    // SAFETY: We are a member, and the scope is dropped once.
                    Some(member) => unsafe { inner.adopted_by(member) },
                    None => sys::warn_if!(true, "a scope outlived its members"),
                }
            }
            _ => sys::warn_if!(true, "a scope was dropped by a task of its own"),
        }
        leave();
    }
}

/// The right to spawn into a scope, without owning it.
#[derive(Clone)]
pub struct Spawner {
    inner: Arc<ScopeInner>,
    options: SpawnOptions,
}

impl Spawner {
    /// Gives its tasks a name, for those who look. Without one a task has the type of its future.
    pub fn named(mut self, name: &'static CStr) -> Self {
        self.options.name = Some(name);
        self
    }

    /// Its tasks run to their end, also if the scope is cancelled or dropped, which then waits for
    /// them: for changes that are not to be left half-way.
    ///
    /// They must come to an end by themselves, and not wait for tasks of the scope that are
    /// cancelled, or for who drops it.
    ///
    /// # Cancellation
    ///
    /// Dropping the [`JoinHandle`] does not cancel a task, shielded or not: whoever has it can wait
    /// for what was begun. [`JoinHandle::abort`] cancels a shielded task, too.
    pub fn shielded(mut self) -> Self {
        self.options.shielded = true;
        self
    }

    /// Gives its tasks memory that was set aside. `ENOMEM` then also means that the future does not
    /// fit, or, inside an upcall, that the reserve is used up.
    #[cfg(MODULE)]
    pub fn reserved(mut self, reserve: &sys::Reserve) -> Self {
        self.options.reserve = Some(reserve.clone());
        self
    }

    /// Queues `future` for the executor.
    ///
    /// The future runs even if the returned handle is dropped. Fails with `ENOMEM`, and with
    /// `ESHUTDOWN` once the scope ends; the future is then dropped here. May sleep for memory; not
    /// from interrupt context.
    pub fn spawn<F>(&self, future: F) -> sys::Result<JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn(
            &self.inner,
            &self.inner.executor,
            &self.options,
            future,
            false,
        )
    }

    /// Polls `future` once on the caller's thread, and queues it only if it is pending.
    ///
    /// A first step that needs no wait costs no hand-over. Inside an upcall the first poll runs as one of
    /// this task and its scope, as every other. Otherwise as [`spawn`](Self::spawn).
    pub fn spawn_eager<F>(&self, future: F) -> sys::Result<JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn(
            &self.inner,
            &self.inner.executor,
            &self.options,
            future,
            true,
        )
    }

    /// Runs `work`, which may sleep, on the scope's [`BlockingWorker`]: a thread of its own, which does one
    /// thing after the other.
    ///
    /// Fails as [`spawn`](Self::spawn) does. Work that has not begun when the handle aborts it is
    /// dropped, and so is what has not begun when the scope ends, unless it is
    /// [shielded](Self::shielded): that is still done, and the scope waits for it.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> sys::Result<JoinHandle<T>> {
        let work = async move { work() };
        spawn(
            &self.inner,
            &self.inner.blocking,
            &self.options,
            work,
            false,
        )
    }

    /// Counts something as a member of the scope that is no task, until the guard is dropped.
    ///
    /// Returns `None` once the scope ends. Process context.
    pub fn enter(&self) -> Option<Member> {
        let entered = self.inner.enter_open();
        // INVARIANT: We have entered.
        entered.then(|| Member(NonNull::from(&*self.inner)))
    }
}

/// Something that is no task and keeps its scope from ending: a request with a callback.
///
/// # Invariants
///
/// It is counted in the scope's `members`, which keep the scope.
pub struct Member(NonNull<ScopeInner>);

// SAFETY: A scope is made to be shared.
unsafe impl Send for Member {}
// SAFETY: As above.
unsafe impl Sync for Member {}

impl Member {
    /// Becomes a member of a scope, unless it is over.
    ///
    /// # Safety
    ///
    /// Somebody keeps the scope during the call.
    pub(crate) unsafe fn join(scope: NonNull<ScopeInner>) -> Option<Self> {
        // SAFETY: By the function's contract.
        let entered = unsafe { scope.as_ref() }.enter();
        // Lazily: a member that is made and dropped leaves a scope that it never entered.
        // INVARIANT: We have entered.
        entered.then(|| Self(scope))
    }

    /// Whose member it is.
    pub(crate) fn scope(&self) -> &ScopeInner {
        // SAFETY: By the invariant.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // SAFETY: By the invariant, and nobody uses it after.
        unsafe { ScopeInner::leave(self.0) };
    }
}

fn spawn<F>(
    scope: &Arc<ScopeInner>,
    executor: &Executor,
    options: &SpawnOptions,
    future: F,
    eager: bool,
) -> sys::Result<JoinHandle<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let bits = if eager {
        state::RUNNING
    } else {
        state::SCHEDULED
    };
    let scope = NonNull::from(&**scope);
    let task = task::new(future, options, executor.as_ptr(), scope, bits)?;
    // SAFETY: `task::new` made one reference for the handle, one for the list and one for the
    // poller; `bits` gives the right to do what is done with it. The caller keeps the scope.
    unsafe {
        begin(scope.as_ref(), task, eager)?;
        Ok(JoinHandle::new(task))
    }
}

/// Adds a new task to the scope, and polls it if `eager`, or else queues it.
///
/// # Safety
///
/// The task was made for the scope and for what is done with it, and nobody else knows of it. The
/// references of list and poller are passed on.
unsafe fn begin(scope: &ScopeInner, task: NonNull<Header>, eager: bool) -> sys::Result<()> {
    {
        let mut tasks = scope.tasks.lock();
        // Under the lock, where the scope is closed: what is in the list then is all that will be.
        if !scope.enter_open() {
            drop(tasks);
            // SAFETY: The task is not on any list.
            unsafe { task::discard(task) };
            return Err(sys::ESHUTDOWN);
        }
        tasks.insert(task);
    }
    sys::trace::spawn(task);
    // SAFETY: By the function's contract. The caller has the handle's reference, and the scope.
    unsafe {
        if eager {
            let _nofs = sys::NoFs::enter();
            match sys::current_executor() {
                // Not as a member of what the worker runs. The worker is there as long as it runs us.
                Some(worker) => worker
                    .as_ref()
                    .within(scope, task.as_ptr(), || task::poll(task, None)),
                None => task::poll(task, None),
            }
        } else {
            task.as_ref().executor.as_ref().push(task.cast());
        }
    }
    Ok(())
}
