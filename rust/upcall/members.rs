// SPDX-License-Identifier: GPL-2.0

//! The members of a future that waits for many: which of them are to be polled.
//!
//! Each member has a waker of its own, which puts it on a list and wakes the task. So a wake costs
//! the poll of one member, and a poll that pauses knows which members are left.
//!
//! # Concurrency
//!
//! The future that has the members is the one consumer of the list. Wakers push, in any context up
//! to hard interrupt. `queued` is set by who pushes the member, and cleared by the consumer when it
//! has it off the list: the link has one owner at a time. Wakers and the future hold a reference
//! each on what they share; the last frees it, in any context. There is no code and no data of a
//! user's in it but the task's waker, which is gone when the future is.
//!
//! The slot of the task's waker has one owner at each moment, told by `state`:
//!
//! | state | who may touch the slot |
//! |---|---|
//! | `EMPTY` | the future |
//! | `ARMED` | whoever moves the state away from `ARMED` |
//! | `TAKING` | the waker that moved it there |
//!
//! No wake is lost: the future leaves the task's waker before it takes the list, so that a push
//! which comes after that finds an empty list, and an armed slot. A future that finds `TAKING`
//! wakes its task itself, since the waker that is being called may be an older one.
//!
//! Such a task is polled again and again until the slot is `EMPTY`. The thread that has the slot
//! does three steps in between, and is not preempted there: a real-time thread in
//! [`block_on`](super::block_on()) would otherwise keep it from the processor for ever.

use super::budget::Budget;
use super::ready::{Batch, Link, ReadyList};
use super::sys::{self, Acquire, Atomic, Cell, Full, KVec, Relaxed, Release};
use core::mem::ManuallyDrop;
use core::ptr::{null, NonNull};
use core::task::{Context, RawWaker, RawWakerVTable, Waker};

const EMPTY: usize = 0;
const ARMED: usize = 1;
const TAKING: usize = 2;

/// What the future and the wakers of its members share.
struct Shared {
    references: Atomic<usize>,
    ready: ReadyList,
    state: Atomic<usize>,
    waker: Cell<Option<Waker>>,
    entries: KVec<Entry>,
}

/// A member, as its waker knows it.
#[repr(C)]
struct Entry {
    /// The first field, so that a pointer to one is a pointer to the other.
    link: Link,
    /// It is on the list, or about to be.
    queued: Atomic<bool>,
    index: usize,
    /// Written before the first waker is made.
    shared: Cell<*const Shared>,
}

impl Shared {
    /// Leaves the task's waker for those of the members. Called by the future.
    fn register(&self, waker: &Waker) {
        loop {
            match self.state.load(Acquire) {
                EMPTY => break,
                ARMED if self.state.cmpxchg(ARMED, EMPTY, Full).is_ok() => break,
                TAKING => {
                    // For the few instructions that the other thread needs, which is not preempted.
                    sys::relax();
                    return waker.wake_by_ref();
                }
                _ => {}
            }
        }
        let new = waker.clone();
        // SAFETY: The state is `EMPTY` and we are the future, so the slot is ours.
        let old = self.waker.with_mut(|slot| unsafe { (*slot).replace(new) });
        self.state.xchg(ARMED, Full);
        drop(old);
    }

    /// Takes the task's waker back. Called by the future.
    fn unregister(&self) {
        if self.state.cmpxchg(ARMED, EMPTY, Full).is_ok() {
            // SAFETY: We moved the state away from `ARMED`, so the slot is ours.
            drop(self.waker.with_mut(|slot| unsafe { (*slot).take() }));
        }
    }

    /// Wakes the task, if it left its waker. Any context.
    fn wake(&self) {
        let waker = sys::not_preempted(|| {
            if self.state.cmpxchg(ARMED, TAKING, Full).is_err() {
                return None;
            }
            // SAFETY: We moved the state away from `ARMED`, so the slot is ours.
            let waker = self.waker.with_mut(|slot| unsafe { (*slot).take() });
            self.state.store(EMPTY, Release);
            waker
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Drops a reference. Any context.
    ///
    /// # Safety
    ///
    /// The caller has a reference, and loses it.
    unsafe fn put(this: NonNull<Self>) {
        // SAFETY: The caller has a reference.
        if unsafe { this.as_ref() }.references.fetch_sub(1, Full) == 1 {
            // SAFETY: It was the last. The memory comes from `Members::new`.
            unsafe {
                this.drop_in_place();
                sys::free(this.cast(), sys::Layout::new::<Self>(), None);
            }
        }
    }
}

/// The members, as the future knows them.
pub(crate) struct Members {
    shared: NonNull<Shared>,
    /// What was taken off the list, and is to be polled.
    batch: Batch,
    /// How many were polled for the first time.
    begun: usize,
}

// SAFETY: What is shared is made to be; the rest is the owner's.
unsafe impl Send for Members {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl Sync for Members {}

impl Members {
    /// Makes `count` members, none of which was polled. Fails with `ENOMEM`. May sleep.
    #[inline(never)] // Once, and not in each user's module.
    pub(crate) fn new(count: usize) -> sys::Result<Self> {
        let mut entries = KVec::new();
        for index in 0..count {
            let entry = Entry {
                link: Link::new(),
                queued: Atomic::new(false),
                index,
                shared: Cell::new(null()),
            };
            sys::push(&mut entries, entry)?;
        }
        let shared: NonNull<Shared> = sys::alloc(sys::Layout::new::<Shared>(), None)
            .ok_or(sys::ENOMEM)?
            .cast();
        for entry in entries.iter() {
            entry.shared.with_mut(|place| {
                // SAFETY: Nobody else knows of it.
                unsafe { *place = shared.as_ptr() }
            });
        }
        // SAFETY: The memory is fresh, large enough and aligned.
        unsafe {
            shared.write(Shared {
                references: Atomic::new(1),
                ready: ReadyList::new(),
                state: Atomic::new(EMPTY),
                waker: Cell::new(None),
                entries,
            })
        };
        Ok(Self {
            shared,
            batch: Batch::new(),
            begun: 0,
        })
    }

    fn shared(&self) -> &Shared {
        // SAFETY: We have a reference.
        unsafe { self.shared.as_ref() }
    }

    /// Calls `poll` for each member that is to be polled, with its number and a context of its own,
    /// until that returns `false`, or the budget is used up; the task is woken for what is left.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(usize, &mut Context<'_>) -> bool,
    ) {
        self.shared().register(cx.waker());
        if self.batch.is_empty() {
            self.batch = self.shared().ready.take();
        }
        let mut budget = Budget::new();
        while let Some((index, waker)) = self.next() {
            if !poll(index, &mut Context::from_waker(&waker)) {
                return;
            }
            if budget.step() {
                break;
            }
        }
        if self.has_more() {
            cx.waker().wake_by_ref();
        }
    }

    /// The next member to be polled, and its waker, which is borrowed: clones have references of
    /// their own.
    #[inline(never)] // The functions of the waker are not in a user's module.
    fn next(&mut self) -> Option<(usize, ManuallyDrop<Waker>)> {
        let entry = if self.begun < self.shared().entries.len() {
            self.begun += 1;
            NonNull::from(self.shared().entries.get(self.begun - 1)?)
        } else {
            let entry: NonNull<Entry> = self.batch.next()?.cast();
            // Before the poll: what happens from here on puts it on the list again.
            // SAFETY: The entries are there as long as we are.
            unsafe { entry.as_ref() }.queued.xchg(false, Full);
            entry
        };
        // SAFETY: As above, and the vtable keeps the contract of `RawWaker`.
        unsafe {
            Some((
                entry.as_ref().index,
                ManuallyDrop::new(Waker::from_raw(raw(entry))),
            ))
        }
    }

    /// Whether there are members to be polled, for which nobody will wake the task.
    #[inline(never)]
    fn has_more(&self) -> bool {
        self.begun < self.shared().entries.len()
            || !self.batch.is_empty()
            || !self.shared().ready.is_empty()
    }
}

impl Drop for Members {
    #[inline(never)]
    fn drop(&mut self) {
        self.shared().unregister();
        // SAFETY: The reference goes with us.
        unsafe { Shared::put(self.shared) };
    }
}

static MEMBER: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_waker);

fn raw(entry: NonNull<Entry>) -> RawWaker {
    RawWaker::new(entry.as_ptr().cast_const().cast(), &MEMBER)
}

/// What the entry of a waker is part of.
///
/// # Safety
///
/// `data` is an [`Entry`], and the caller has a reference on what is shared. So in the next four.
unsafe fn shared_of(data: *const ()) -> NonNull<Shared> {
    // SAFETY: By the function's contract. It was written before the first waker was made.
    unsafe {
        (*data.cast::<Entry>())
            .shared
            .with(|shared| NonNull::new_unchecked((*shared).cast_mut()))
    }
}

/// # Safety
///
/// As for [`shared_of`].
unsafe fn clone(data: *const ()) -> RawWaker {
    // SAFETY: By the function's contract.
    unsafe { shared_of(data).as_ref() }
        .references
        .fetch_add(1, Relaxed);
    RawWaker::new(data, &MEMBER)
}

/// # Safety
///
/// As for [`shared_of`]; the reference goes with the waker.
unsafe fn wake(data: *const ()) {
    // SAFETY: By the function's contract.
    unsafe {
        wake_by_ref(data);
        drop_waker(data);
    }
}

/// # Safety
///
/// As for [`shared_of`].
unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: By the function's contract.
    let (entry, shared) = unsafe { (&*data.cast::<Entry>(), shared_of(data)) };
    if entry.queued.xchg(true, Full) {
        return;
    }
    // SAFETY: `queued` gives us the right to push. The entry is there as long as the list.
    unsafe {
        let shared = shared.as_ref();
        if shared.ready.push(NonNull::from(entry).cast()) {
            shared.wake();
        }
    }
}

/// # Safety
///
/// As for [`shared_of`]; the reference goes with the waker.
unsafe fn drop_waker(data: *const ()) {
    // SAFETY: By the function's contract.
    unsafe { Shared::put(shared_of(data)) }
}
