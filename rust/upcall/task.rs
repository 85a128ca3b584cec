// SPDX-License-Identifier: GPL-2.0

//! A task: one allocation with a header, the future, and later its output.
//!
//! # Access rules
//!
//! 1. `state` is atomic; [`state`] has one paragraph for each bit.
//! 2. `stage` (the future, then the output) is touched by the owner of `RUNNING`; after `COMPLETE`
//!    by the `JoinHandle` if there is one, else by the one who completed the task.
//! 3. `runnable` (the ready link) is owned by whoever moved `SCHEDULED` from 0 to 1, then by the
//!    ready list, then by the executor.
//! 4. `siblings` is protected by the scope's lock.
//! 5. `scope` and `vtable` are constant. What they point to is there until the task is complete; after
//!    that `vtable` is used by the `JoinHandle` only, and `scope` by nobody.
//!
//! # Concurrency
//!
//! Wakers run in any context, up to hard interrupt. They change the state word, push on the ready
//! list, queue the executor's work item, and drop references; the last reference frees the memory and nothing else,
//! because the future is gone by then: a scope keeps every task that is not complete. So no
//! destructor of a user runs in a waker.
//!
//! A user module's code is behind `vtable` (`poll`, and the destructors). It is called before
//! [`ScopeInner::leave`] by the one who runs the task, and through the `JoinHandle` by the module
//! itself; never by a waker. A module that dropped its scopes and handles can be removed, while wakers
//! of its tasks still exist.

use super::done::Done;
use super::executor::{Core, Runnable};
use super::scope::ScopeInner;
use super::state::{self, Next, State};
use super::stats::{Stats, Wait};
use super::sys::{self, Cell, Counter, Reserve, SmallCounter};
use core::ffi::CStr;
use core::future::Future;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

/// The task was dropped before its future returned: by [`JoinHandle::abort`] or by its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;

impl From<Cancelled> for sys::Error {
    fn from(_: Cancelled) -> Self {
        sys::ECANCELED
    }
}

/// What every task begins with, whatever its future.
#[repr(C)]
pub(crate) struct Header {
    runnable: Runnable,
    pub(crate) state: State,
    done: Done,
    pub(crate) executor: NonNull<Core>,
    scope: NonNull<ScopeInner>,
    pub(crate) siblings: Cell<Siblings>,
    vtable: &'static VTable,
    /// Where the memory is from. Taken out when the memory is freed.
    reserve: Option<Reserve>,
    /// The start of the name that was given.
    given_name: Option<NonNull<u8>>,
    /// Its number.
    pub(crate) id: u64,
    /// When it last became ready, by [`sys::stamp`].
    woken: Counter,
    /// When it was spawned, by the same clock.
    pub(crate) spawned: u64,
    /// Size and alignment of its memory.
    memory: (u32, u32),
    pub(crate) polls: SmallCounter,
    /// What it waits for: the number of a [`Wait`].
    pub(crate) waits: SmallCounter,
}

impl Header {
    /// The name that it was spawned with, or the type of its future. In the text of the user's
    /// module: only for callers that know that the task is not complete.
    pub(crate) fn name(&self) -> &'static str {
        match self.given_name {
            Some(name) => {
                // SAFETY: It was a `&'static CStr`.
                let name = unsafe { sys::static_cstr(name) };
                name.to_str().unwrap_or("?")
            }
            None => (self.vtable.name)(),
        }
    }
}

/// Notes that the task whose context this is, if it is a task's, waits for `what`.
pub(crate) fn waits(cx: &Context<'_>, what: Wait) {
    if let Some(header) = of_waker(cx.waker()) {
        // SAFETY: The waker holds or borrows a reference.
        unsafe { header.as_ref() }.waits.set(what as u32);
    }
}

/// The task that `waker` wakes, if it is a task's.
fn of_waker(waker: &Waker) -> Option<NonNull<Header>> {
    if !core::ptr::eq(waker.vtable(), &WAKER) {
        return None;
    }
    // SAFETY: The data of a task's waker is the task.
    Some(unsafe { NonNull::new_unchecked(waker.data().cast_mut().cast()) })
}

/// A clone of a waker, which is no call if it is a task's.
pub(crate) fn clone_waker(waker: &Waker) -> Waker {
    match of_waker(waker) {
        // SAFETY: The data is that of a task's waker, and the vtable keeps the contract of `RawWaker`.
        Some(_) => unsafe { Waker::from_raw(waker_clone(waker.data())) },
        None => waker.clone(),
    }
}

/// Wakes, inside a read section: without another one if the waker is a task's. Any context.
#[cfg_attr(not(MODULE), allow(dead_code, reason = "the host has no devices"))]
pub(crate) fn wake_in(waker: Waker, section: &sys::ReadSection) {
    match of_waker(&waker) {
        Some(header) => {
            core::mem::forget(waker);
            // SAFETY: The waker had a reference.
            unsafe { wake_and_put(header, section) }
        }
        None => waker.wake(),
    }
}

/// The neighbours of a task in its scope's list.
pub(crate) struct Siblings {
    pub(crate) prev: Option<NonNull<Header>>,
    pub(crate) next: Option<NonNull<Header>>,
    pub(crate) listed: bool,
    /// Whether it is among those that are not cancelled with their scope.
    pub(crate) shielded: bool,
}

/// What depends on the type of the future.
struct VTable {
    /// Polls the future; stores the output in its place and returns `true` if it is ready.
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> bool,
    /// Drops whatever is in `stage`.
    clear: unsafe fn(NonNull<Header>),
    /// Moves the output, if any, to an `Option<F::Output>`.
    take: unsafe fn(NonNull<Header>, *mut ()),
    /// The name of the type.
    name: fn() -> &'static str,
}

#[repr(C)]
struct Task<F: Future> {
    header: Header,
    stage: Cell<Stage<F>>,
}

enum Stage<F: Future> {
    Future(F),
    Output(F::Output),
    Empty,
}

impl<F: Future> Task<F> {
    const VTABLE: VTable = VTable {
        name: core::any::type_name::<F>,
        poll: Self::poll,
        clear: Self::clear,
        take: Self::take,
    };

    fn with<R>(header: NonNull<Header>, f: impl FnOnce(*mut Stage<F>) -> R) -> R {
        let task: NonNull<Self> = header.cast();
        // SAFETY: A header with our vtable is the first field of a `Task<F>`, and the callers
        // hold a reference.
        unsafe { task.as_ref() }.stage.with_mut(f)
    }

    /// # Safety
    ///
    /// The caller owns `stage`, by the access rules of the module.
    unsafe fn poll(header: NonNull<Header>, cx: &mut Context<'_>) -> bool {
        Self::with(header, |stage| {
            // SAFETY: The caller owns `RUNNING` (rule 2).
            let Stage::Future(future) = (unsafe { &mut *stage }) else {
                return false;
            };
            // SAFETY: A task never moves and its future is dropped in place.
            match unsafe { Pin::new_unchecked(future) }.poll(cx) {
                Poll::Pending => false,
                Poll::Ready(output) => {
                    // SAFETY: As above. The assignment drops the future in place.
                    unsafe { *stage = Stage::Output(output) };
                    true
                }
            }
        })
    }

    /// # Safety
    ///
    /// The caller owns `stage`, by the access rules of the module.
    unsafe fn clear(header: NonNull<Header>) {
        // SAFETY: The caller owns `stage` (rule 2). The assignment drops in place.
        Self::with(header, |stage| unsafe { *stage = Stage::Empty });
    }

    /// # Safety
    ///
    /// The caller owns `stage`, by the access rules of the module.
    unsafe fn take(header: NonNull<Header>, output: *mut ()) {
        Self::with(header, |stage| {
            // SAFETY: The caller owns `stage` (rule 2), which holds no future any more.
            let stage = unsafe { core::mem::replace(&mut *stage, Stage::Empty) };
            if let Stage::Output(value) = stage {
                // SAFETY: The caller passes a pointer to an `Option<F::Output>`.
                unsafe { *output.cast::<Option<F::Output>>() = Some(value) };
            }
        })
    }
}

/// What a spawner says of its tasks.
#[derive(Clone, Default)]
pub(crate) struct SpawnOptions {
    pub(crate) name: Option<&'static CStr>,
    pub(crate) reserve: Option<Reserve>,
    /// The scope waits for it instead of cancelling it.
    pub(crate) shielded: bool,
}

/// Makes a task of `future` with `bits` set, and three references: the caller's `JoinHandle`, the
/// scope's, and one for the list or the poller.
pub(crate) fn new<F>(
    future: F,
    options: &SpawnOptions,
    executor: NonNull<Core>,
    scope: NonNull<ScopeInner>,
    bits: usize,
) -> sys::Result<NonNull<Header>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let memory = sys::Layout::new::<Task<F>>();
    let small = |n: usize| u32::try_from(n).map_err(|_| sys::ENOMEM);
    let sizes = (small(memory.size())?, small(memory.align())?);
    let task: NonNull<Task<F>> = sys::alloc(memory, options.reserve.as_ref())
        .ok_or(sys::ENOMEM)?
        .cast();
    let now = sys::stamp();
    let header = Header {
        runnable: Runnable::new(run),
        state: State::new(bits | state::HANDLE | 3 * state::REF),
        done: Done::new(),
        executor,
        scope,
        siblings: Cell::new(Siblings {
            prev: None,
            next: None,
            listed: false,
            shielded: options.shielded,
        }),
        vtable: &Task::<F>::VTABLE,
        memory: sizes,
        reserve: options.reserve.clone(),
        given_name: options.name.map(sys::start_of),
        spawned: now,
        id: sys::new_id(),
        woken: Counter::new(now),
        polls: SmallCounter::new(0),
        waits: SmallCounter::new(Wait::Other as u32),
    };
    // SAFETY: The memory is fresh, large enough and aligned.
    unsafe {
        task.write(Task {
            header,
            stage: Cell::new(Stage::Future(future)),
        })
    };
    Ok(task.cast())
}

/// Frees a task that was never published, with its future.
///
/// # Safety
///
/// `header` comes from [`new`] and nobody else knows of it.
pub(crate) unsafe fn discard(header: NonNull<Header>) {
    // SAFETY: We are the only one, so all of it is ours.
    unsafe {
        (header.as_ref().vtable.clear)(header);
        free(header);
    }
}

/// # Safety
///
/// The caller has the last reference, and the stage is empty.
unsafe fn free(header: NonNull<Header>) {
    // SAFETY: By the above nobody uses the memory any more. What the header owns beside the stage
    // is a waker in `done`, which the `JoinHandle` or the completer took out.
    unsafe {
        let reserve = (*header.as_ptr()).reserve.take();
        let (size, align) = header.as_ref().memory;
        let memory = sys::Layout::from_size_align_unchecked(size as usize, align as usize);
        sys::free(header.cast(), memory, reserve.as_ref())
    }
}

/// Drops a reference. Any context.
///
/// # Safety
///
/// The caller has a reference, and loses it.
pub(crate) unsafe fn put(header: NonNull<Header>) {
    // SAFETY: The caller has a reference.
    if unsafe { header.as_ref() }.state.put() {
        // SAFETY: It was the last. Whoever completes a task clears the stage or leaves it to the
        // `JoinHandle`, which clears it; and no task loses its last reference before.
        unsafe { free(header) }
    }
}

/// # Safety
///
/// The state machine told the caller to push, with a reference. The caller is in a read section of
/// RCU that began before, or else keeps the executor (`executor`'s *Lifetime*).
unsafe fn push(header: NonNull<Header>) {
    // SAFETY: The caller has a reference, by which the executor is there: it is the worker, or holds
    // the scope, or was in the read section before the task could be complete.
    unsafe {
        let this = header.as_ref();
        this.woken.set(sys::stamp());
        this.executor.as_ref().push(header.cast())
    }
}

/// Runs a task that the executor took from the ready list.
///
/// # Safety
///
/// `runnable` is the first field of a header, and the caller passes on a reference.
#[inline(never)] // Its address is taken in generic code, and must be that of the runtime's own text.
unsafe fn run(runnable: NonNull<Runnable>) {
    let header: NonNull<Header> = runnable.cast();
    // SAFETY: We have a reference.
    let this = unsafe { header.as_ref() };
    let next = this.state.begin();
    match next {
        Next::Poll | Next::Cancel => {
            // SAFETY: The executor outlives its tasks, and its worker calls us. `begin` made us the owner
            // of `RUNNING`, so the task is a member of its scope until `complete` has called the user's
            // code for the last time.
            unsafe {
                this.executor
                    .as_ref()
                    .within(this.scope.as_ptr(), header.as_ptr(), || {
                        let stats = this.executor.as_ref().stats();
                        // We own `RUNNING`, and the reference is ours.
                        if let Next::Poll = next {
                            stats.poll(this.woken.get());
                            poll(header, Some(stats))
                        } else {
                            cancel(header);
                            stats.tick();
                        }
                    })
            }
        }
        // A scope cancelled it in place while it was on the list.
        // SAFETY: The reference is ours.
        _ => unsafe { put(header) },
    }
}

/// Polls the future once and acts on what comes of it. The worker brings its `stats`.
///
/// # Safety
///
/// The caller owns `RUNNING` and passes on a reference. Unless it is the worker it keeps the executor.
#[inline(always)] // Once for the worker, and once for `spawn_eager`.
pub(crate) unsafe fn poll(header: NonNull<Header>, stats: Option<&Stats>) {
    // SAFETY: We have a reference.
    let this = unsafe { header.as_ref() };
    this.polls.add(1);
    this.waits.set(Wait::Other as u32);
    sys::trace::poll_begin(header);
    // The waker borrows our reference.
    // SAFETY: The vtable keeps the contract of `RawWaker`, and the waker does not outlive the
    // reference: it is not dropped, and clones take references of their own.
    let waker = ManuallyDrop::new(unsafe { Waker::from_raw(raw_waker(header)) });
    // SAFETY: We own `RUNNING`.
    let ready = unsafe { (this.vtable.poll)(header, &mut Context::from_waker(&waker)) };
    if let Some(took) = stats.and_then(Stats::polled) {
        // The executor runs us.
        // SAFETY: As above. Blocking work may take its time.
        if took > sys::poll_limit() && !unsafe { this.executor.as_ref() }.is_blocking() {
            // The task is not complete, so the name is there.
            sys::warn_long_poll(this.name(), took);
        }
    }
    sys::trace::poll_end(header, ready);
    if ready {
        // SAFETY: As above; the stage holds the output.
        return unsafe { complete(header) };
    }
    let next = this.state.pending();
    if next == Next::Nothing {
        // The reference is gone.
        return;
    }
    match next {
        // SAFETY: `pending` left `RUNNING` to us.
        Next::Cancel => unsafe { cancel(header) },
        // SAFETY: `pending` tells us to push, with our reference.
        Next::Push => unsafe { push(header) },
        // SAFETY: The reference was the last.
        Next::Free => unsafe { free(header) },
        _ => {}
    }
}

/// Drops the future unfinished and completes the task.
///
/// # Safety
///
/// The caller owns `RUNNING` and passes on a reference.
pub(crate) unsafe fn cancel(header: NonNull<Header>) {
    sys::trace::cancel(header);
    // SAFETY: We own `RUNNING`.
    unsafe {
        (header.as_ref().vtable.clear)(header);
        complete(header);
    }
}

/// Completes a task whose future is gone.
///
/// # Safety
///
/// The caller owns `RUNNING` and passes on a reference.
unsafe fn complete(header: NonNull<Header>) {
    // SAFETY: We have a reference.
    let this = unsafe { header.as_ref() };
    // SAFETY: We own `RUNNING`, so the task is not complete, and the scope is there (rule 5).
    unsafe { this.scope.as_ref() }.unlist(header);
    if !this.state.complete() {
        // SAFETY: There is no `JoinHandle`, and will be none, so the stage is ours.
        unsafe { (this.vtable.clear)(header) };
    }
    sys::trace::complete(header);
    this.done.complete();
    // From here on no code and no data of the user's module is touched.
    // SAFETY: The task is a member, once. The reference is ours.
    unsafe {
        ScopeInner::leave(this.scope);
        put(header);
    }
}

/// Asks for the future to be dropped. Any context.
///
/// # Safety
///
/// The caller has a reference.
pub(crate) unsafe fn abort(header: NonNull<Header>) {
    let _rcu = sys::read_section();
    // SAFETY: We have a reference.
    if unsafe { header.as_ref() }.state.abort() == Next::Push {
        // SAFETY: `abort` tells us to.
        unsafe { push(header) }
    }
}

static WAKER: RawWakerVTable =
    RawWakerVTable::new(waker_clone, waker_wake, waker_wake_by_ref, waker_drop);

fn raw_waker(header: NonNull<Header>) -> RawWaker {
    RawWaker::new(header.as_ptr().cast(), &WAKER)
}

/// # Safety
///
/// `data` comes from [`raw_waker`] and is backed by a reference. So in the next three.
unsafe fn waker_clone(data: *const ()) -> RawWaker {
    // SAFETY: A waker has a reference.
    let header = unsafe { NonNull::new_unchecked(data.cast_mut().cast::<Header>()) };
    // SAFETY: As above.
    unsafe { header.as_ref() }.state.get();
    raw_waker(header)
}

/// # Safety
///
/// As for the function above.
unsafe fn waker_wake(data: *const ()) {
    // SAFETY: As in `waker_clone`; the reference goes with the waker.
    let header = unsafe { NonNull::new_unchecked(data.cast_mut().cast::<Header>()) };
    // SAFETY: As above.
    unsafe { wake_and_put(header, &sys::read_section()) }
}

/// Makes a task ready, by a reference of the caller's.
///
/// # Safety
///
/// The caller has a reference, and loses it.
#[inline(always)] // Into the waker, and into the completion of a request.
unsafe fn wake_and_put(header: NonNull<Header>, _section: &sys::ReadSection) {
    // SAFETY: The caller has a reference.
    let next = unsafe { header.as_ref() }.state.wake_and_put();
    if next == Next::Push {
        sys::trace::wake(header);
        // SAFETY: `wake_and_put` tells us to, with the caller's reference.
        unsafe { push(header) }
    } else if next == Next::Free {
        // SAFETY: The reference was the last.
        unsafe { free(header) }
    }
}

/// # Safety
///
/// As for the function above.
unsafe fn waker_wake_by_ref(data: *const ()) {
    // SAFETY: A waker has a reference.
    let header = unsafe { NonNull::new_unchecked(data.cast_mut().cast::<Header>()) };
    let _rcu = sys::read_section();
    // SAFETY: As above.
    if unsafe { header.as_ref() }.state.wake() == Next::Push {
        sys::trace::wake(header);
        // SAFETY: `wake` tells us to.
        unsafe { push(header) }
    }
}

/// # Safety
///
/// As for the function above.
unsafe fn waker_drop(data: *const ()) {
    // SAFETY: A waker has a reference, which goes with it.
    unsafe { put(NonNull::new_unchecked(data.cast_mut().cast::<Header>())) }
}

/// The right to a task's value.
///
/// A future of `Result<T, Cancelled>`. Dropping it lets the task go on, inside its scope, and its
/// value is dropped when it comes. The task's memory is given back with the value.
///
/// # Cancellation
///
/// Dropping the handle while it is awaited is the same: the task goes on.
pub struct JoinHandle<T> {
    /// The task, until its value was given out.
    header: Option<NonNull<Header>>,
    output: PhantomData<T>,
}

// SAFETY: The handle gives access to the output alone, which is `Send`, and to atomics.
unsafe impl<T: Send> Send for JoinHandle<T> {}
// SAFETY: Through a shared handle only atomics are reached.
unsafe impl<T: Send> Sync for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    /// # Safety
    ///
    /// `header` is a task with output `T` whose `HANDLE` bit and reference are passed on.
    pub(crate) unsafe fn new(header: NonNull<Header>) -> Self {
        Self {
            header: Some(header),
            output: PhantomData,
        }
    }

    /// Gives the task back.
    fn let_go(&mut self) {
        let Some(header) = self.header.take() else {
            return;
        };
        // SAFETY: We have a reference.
        let this = unsafe { header.as_ref() };
        // SAFETY: `&mut self` makes us the one waiter.
        unsafe { this.done.disarm() };
        if this.state.detach() {
            // SAFETY: The task is complete and we are its handle, so the stage is ours (rule 2).
            unsafe { (this.vtable.clear)(header) };
        }
        // SAFETY: The reference goes with the handle.
        unsafe { put(header) };
    }

    /// Asks for the task's future to be dropped. Any context.
    ///
    /// The executor drops it soon. If it returns its value first, the value stays.
    pub fn abort(&self) {
        if let Some(header) = self.header {
            // SAFETY: We have a reference.
            unsafe { abort(header) }
        }
    }

    /// Whether the value is there, or the task was cancelled.
    pub fn is_finished(&self) -> bool {
        self.header.is_none_or(|header| {
            // SAFETY: We have a reference.
            unsafe { header.as_ref() }.done.is_done()
        })
    }
}

impl<T> Unpin for JoinHandle<T> {}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Cancelled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(header) = this.header else {
            return sys::polled_again();
        };
        // SAFETY: We have a reference, and `&mut self` makes us the one waiter.
        if unsafe { header.as_ref().done.poll(cx, Wait::Task) }.is_pending() {
            return Poll::Pending;
        }
        let mut output: MaybeUninit<Option<T>> = MaybeUninit::new(None);
        // SAFETY: The task is complete and we are its handle, so the stage is ours (rule 2), and
        // its output is a `T`. `output` was initialised.
        let output = unsafe {
            (header.as_ref().vtable.take)(header, output.as_mut_ptr().cast());
            output.assume_init()
        };
        this.let_go();
        Poll::Ready(output.ok_or(Cancelled))
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        self.let_go();
    }
}
