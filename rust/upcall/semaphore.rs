// SPDX-License-Identifier: GPL-2.0

//! A fair counting semaphore whose waiters are futures; what [`RwSemaphore`](super::RwSemaphore),
//! [`Mutex`](super::Mutex) and [`channel`](super::channel()) are made of.
//!
//! The asynchronous relative of the kernel's `struct semaphore`
//! ([`include/linux/semaphore.h`](srctree/include/linux/semaphore.h)). It has permits; whoever wants
//! some takes them or waits in a queue, first come, first served: permits are *handed* to the first
//! waiter once there are as many as it wants, and nobody who comes later gets past a waiter. So
//! neither those who want few nor those who want many starve.
//!
//! # The algorithm
//!
//! One word has the number of free permits, a bit that says that the queue is not empty, and one
//! that says that the semaphore is closed. With both bits clear, taking is one atomic operation.
//! With one set nobody takes permits by himself. Giving permits back is one atomic operation too,
//! and then, if the queue is not empty, a *grant*. All else happens under the queue's spinlock:
//!
//! * a waiter is appended, if the word says under the lock that it still has to wait;
//! * a grant takes permits on behalf of the first waiters, as long as there are enough for the
//!   next, marks them as granted, unlinks them and takes their wakers;
//! * closing marks and unlinks all of them;
//! * the wakers are called after the spinlock was released.
//!
//! # Concurrency
//!
//! Poll, release and drop run in process context (a worker, or `block_on`), never in interrupt
//! context; wakers that are called may do what they like but sleep. A waiter lives inside the
//! future that waits, is pinned, and all its fields are protected by the spinlock, but for `verdict`,
//! which its owner may read without: once it is there nobody else touches the waiter any more. A
//! future that is dropped unlinks its waiter under the spinlock, or, if it was granted permits in the
//! meantime, gives them back. If it was the first of the queue, those behind it are looked at again.
//!
//! A release touches the semaphore after the permits are free, but it borrows the semaphore until
//! it returns, so that nobody frees it meanwhile.

use super::stats::Wait;
use super::sys::{self, Acquire, Atomic, Cell, Full, Lock, Relaxed, Release};
use super::task;
use core::future::Future;
use core::marker::PhantomPinned;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll, Waker};

/// The queue is not empty. Changed under the queue's lock only.
const WAITERS: usize = 1 << 0;
/// Nobody gets permits any more. Set under the queue's lock.
const CLOSED: usize = 1 << 1;
/// One free permit.
const PERMIT: usize = 1 << 2;

/// How many wakers are collected before the spinlock is released to call them.
const WAKE_BATCH: usize = 16;

/// The verdicts on a waiter.
const WAITS: usize = 0;
const GRANTED: usize = 1;
const REFUSED: usize = 2;

/// What was waited for is closed, and will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl From<Closed> for sys::Error {
    fn from(_: Closed) -> Self {
        sys::ESHUTDOWN
    }
}

/// Why [`Semaphore::acquire`] gives no permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcquireError {
    /// As [`Closed`].
    Closed,
    /// More than [`Semaphore::MAX`] permits are wanted, which there never are.
    TooMany,
}

impl From<Closed> for AcquireError {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<AcquireError> for sys::Error {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Closed => sys::ESHUTDOWN,
            AcquireError::TooMany => sys::EINVAL,
        }
    }
}

/// Why nothing was had without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryError {
    /// It would have had to wait.
    Busy,
    /// As [`Closed`].
    Closed,
    /// As [`AcquireError::TooMany`].
    TooMany,
}

impl From<TryError> for sys::Error {
    fn from(error: TryError) -> Self {
        match error {
            TryError::Busy => sys::EAGAIN,
            TryError::Closed => sys::ESHUTDOWN,
            TryError::TooMany => sys::EINVAL,
        }
    }
}

/// One who waits, inside the future.
struct Waiter {
    wants: usize,
    /// Set, under the lock, when the waiter leaves the queue. The setter touches nothing after it.
    verdict: Atomic<usize>,
    links: Cell<Links>,
}

/// The fields of a [`Waiter`] that the queue's lock protects.
struct Links {
    prev: Option<NonNull<Waiter>>,
    next: Option<NonNull<Waiter>>,
    waker: Option<Waker>,
}

/// The queue of waiters, oldest first.
struct Queue {
    head: Option<NonNull<Waiter>>,
    tail: Option<NonNull<Waiter>>,
    /// How many ever had to wait.
    waited: u64,
}

impl Queue {
    fn links<R>(&mut self, waiter: NonNull<Waiter>, f: impl FnOnce(&mut Links) -> R) -> R {
        // SAFETY: We hold the queue's lock, and a queued waiter is alive: its owner unlinks it,
        // under the lock, before it goes.
        unsafe { waiter.as_ref().links.with_mut(|links| f(&mut *links)) }
    }

    fn append(&mut self, waiter: NonNull<Waiter>, waker: Waker) {
        self.waited += 1;
        let prev = self.tail.replace(waiter);
        self.links(waiter, |l| {
            *l = Links {
                prev,
                next: None,
                waker: Some(waker),
            }
        });
        match prev {
            Some(prev) => self.links(prev, |l| l.next = Some(waiter)),
            None => self.head = Some(waiter),
        }
    }

    /// Unlinks a queued waiter and returns its waker.
    fn unlink(&mut self, waiter: NonNull<Waiter>) -> Option<Waker> {
        let (prev, next, waker) = self.links(waiter, |l| (l.prev, l.next, l.waker.take()));
        match prev {
            Some(prev) => self.links(prev, |l| l.next = next),
            None => self.head = next,
        }
        match next {
            Some(next) => self.links(next, |l| l.prev = prev),
            None => self.tail = prev,
        }
        waker
    }
}

/// A fair counting semaphore whose waiters are futures. See the [module documentation](self).
///
/// ```
/// # use kernel::prelude::*;
/// # use upcall::Semaphore;
/// # async fn example(in_flight: &Semaphore) -> Result {
/// // At most as many of these as there are permits
/// let permit = in_flight.acquire(1).await?;
/// # let request = async { Ok::<_, Error>(()) };
/// request.await?;
/// drop(permit);
/// # Ok(())
/// # }
/// ```
pub struct Semaphore {
    word: Atomic<usize>,
    queue: Lock<Queue>,
    /// There is never more than one free permit: giving back one that is there already is nothing.
    binary: bool,
}

// SAFETY: The pointers are used under the lock that contains them.
unsafe impl Send for Queue {}

impl Semaphore {
    /// The largest number of permits.
    pub const MAX: usize = usize::MAX / (2 * PERMIT);

    /// Makes a semaphore with `permits` free permits, at most [`MAX`](Self::MAX).
    pub fn new(permits: usize) -> Self {
        Self::make(permits, false)
    }

    /// Makes a semaphore that has at most one free permit, and none yet.
    pub(crate) fn binary() -> Self {
        Self::make(0, true)
    }

    fn make(permits: usize, binary: bool) -> Self {
        Self {
            word: Atomic::new(permits.min(Self::MAX) * PERMIT),
            queue: sys::new_lock!(Queue {
                head: None,
                tail: None,
                waited: 0,
            }),
            binary,
        }
    }

    /// Takes `count` permits, if they are free and nobody waits, or did a moment ago.
    ///
    /// Fails with [`TryError::TooMany`] (`EINVAL`) if `count` is above [`MAX`](Self::MAX).
    pub fn try_acquire(&self, count: usize) -> Result<Permit<'_>, TryError> {
        if count > Self::MAX {
            return Err(TryError::TooMany);
        }
        self.try_take(count)?;
        Ok(Permit {
            semaphore: self,
            count,
        })
    }

    /// Takes `count` permits, all at once.
    ///
    /// Fails with [`AcquireError::Closed`] (`ESHUTDOWN`) once the semaphore is closed, and at once with
    /// [`AcquireError::TooMany`] (`EINVAL`) if `count` is above [`MAX`](Self::MAX). Who wants more than
    /// others will ever release waits until the semaphore is closed, and so do those who come later.
    ///
    /// # Cancellation
    ///
    /// A waiting future that is dropped leaves the queue; permits that were already handed to it go
    /// to the next.
    pub fn acquire(&self, count: usize) -> Acquiring<'_> {
        Acquiring(self.acquire_as(count, Wait::Semaphore))
    }

    /// [`acquire`](Self::acquire) of at most [`MAX`](Self::MAX), shown as waiting for `what`.
    pub(crate) fn acquire_as(&self, count: usize, what: Wait) -> Taking<'_> {
        Taking {
            semaphore: self,
            waiter: Waiter {
                wants: count,
                verdict: Atomic::new(WAITS),
                links: Cell::new(Links {
                    prev: None,
                    next: None,
                    waker: None,
                }),
            },
            step: Step::New,
            what,
            _pinned: PhantomPinned,
        }
    }

    /// Adds `count` free permits. Process context.
    ///
    /// There may never be more than [`MAX`](Self::MAX).
    pub fn release(&self, count: usize) {
        if self.binary {
            return self.notify();
        }
        let count = count.min(Self::MAX);
        let word = self.word.fetch_add(count * PERMIT, Release);
        sys::warn_if!(
            word / PERMIT + count > Self::MAX,
            "a semaphore has more permits than it may have"
        );
        if word & WAITERS != 0 {
            self.grant();
        }
    }

    /// Gives a permit to the first who waits, or else adds a free one, unless there is one.
    ///
    /// Whoever takes the permit that was there sees what the caller did before: the word is
    /// exchanged even if it does not change.
    fn notify(&self) {
        let add = |word: usize| if word < PERMIT { word + PERMIT } else { word };
        let mut word = self.word.load(Relaxed);
        while word & WAITERS == 0 {
            match self.word.cmpxchg(word, add(word), Full) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
        // Not by the number of free permits: one that is free now may be promised already.
        let mut given = false;
        self.answer(|this, queue| {
            if core::mem::replace(&mut given, true) {
                return None;
            }
            if queue.head.is_none() {
                this.update(|word| Some(add(word)));
            }
            queue.head.map(|waiter| (waiter, GRANTED))
        });
    }

    /// Refuses permits to all who wait and to all who come. Permits that are out stay out.
    pub fn close(&self) {
        let mut close = true;
        while self.answer(|this, queue| {
            if core::mem::take(&mut close) {
                this.update(|word| Some(word | CLOSED));
            }
            queue.head.map(|waiter| (waiter, REFUSED))
        }) {}
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.word.load(Acquire) & CLOSED != 0
    }

    /// How many permits are free; an estimate, while others use the semaphore.
    pub fn available(&self) -> usize {
        self.word.load(Relaxed) / PERMIT
    }

    /// How often somebody had to wait, since the semaphore was made. May spin for the queue's lock.
    pub fn contended(&self) -> u64 {
        self.queue.lock().waited
    }

    pub(crate) fn try_take(&self, count: usize) -> Result<(), TryError> {
        let mut word = self.word.load(Relaxed);
        loop {
            // The second look sees what was done before the close.
            if word & CLOSED != 0 && self.is_closed() {
                return Err(TryError::Closed);
            }
            if word & WAITERS != 0 || word / PERMIT < count {
                return Err(TryError::Busy);
            }
            match self.word.cmpxchg(word, word - count * PERMIT, Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// Changes the word by what `f` makes of it. Returns whether it did.
    fn update(&self, mut f: impl FnMut(usize) -> Option<usize>) -> bool {
        let mut word = self.word.load(Relaxed);
        while let Some(new) = f(word) {
            match self.word.cmpxchg(word, new, Full) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Queues `waiter`, unless its verdict is clear by now. Returns the verdict.
    fn enqueue(&self, waiter: NonNull<Waiter>, wants: usize, waker: &Waker) -> usize {
        let waker = waker.clone();
        let mut queue = self.queue.lock();
        let mut verdict = WAITS;
        self.update(|word| {
            let (next, new) = if word & CLOSED != 0 {
                (REFUSED, word)
            } else if word & WAITERS == 0 && word / PERMIT >= wants {
                (GRANTED, word - wants * PERMIT)
            } else {
                (WAITS, word | WAITERS)
            };
            verdict = next;
            Some(new)
        });
        if verdict == WAITS {
            queue.append(waiter, waker);
        }
        verdict
    }

    /// Hands free permits to as many of the first waiters as there are enough for.
    fn grant(&self) {
        while self.answer(|this, queue| {
            let waiter = queue.head?;
            // SAFETY: A queued waiter is alive. `wants` never changes.
            let wants = unsafe { waiter.as_ref() }.wants;
            let granted = this
                .update(|word| (word / PERMIT >= wants).then(|| word.wrapping_sub(wants * PERMIT)));
            granted.then_some((waiter, GRANTED))
        }) {}
    }

    /// Takes those off the queue whom `next` names under its lock, with its verdict, and wakes them
    /// afterwards. Returns whether it stopped before `next` was through.
    fn answer(
        &self,
        mut next: impl FnMut(&Self, &mut Queue) -> Option<(NonNull<Waiter>, usize)>,
    ) -> bool {
        let mut wakers: [Option<Waker>; WAKE_BATCH] = [const { None }; WAKE_BATCH];
        let mut more = true;
        let mut queue = self.queue.lock();
        for slot in &mut wakers {
            let Some((waiter, verdict)) = next(self, &mut queue) else {
                more = false;
                break;
            };
            *slot = queue.unlink(waiter);
            // SAFETY: As above; after the store its owner may free it.
            unsafe { waiter.as_ref() }.verdict.store(verdict, Release);
        }
        if queue.head.is_none() {
            self.update(|word| Some(word & !WAITERS));
        }
        drop(queue);
        wakers.into_iter().flatten().for_each(Waker::wake);
        more
    }
}

/// The future of [`Semaphore::acquire`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Acquiring<'a>(Taking<'a>);

impl<'a> Future for Acquiring<'a> {
    type Output = Result<Permit<'a>, AcquireError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: The field is pinned with `self`, and is not moved.
        let this = unsafe { &mut self.get_unchecked_mut().0 };
        if this.step == Step::New && this.waiter.wants > Semaphore::MAX {
            this.step = Step::Done;
            return Poll::Ready(Err(AcquireError::TooMany));
        }
        // SAFETY: As above.
        let acquired = unsafe { Pin::new_unchecked(this) }.poll(cx);
        acquired.map_err(AcquireError::from)
    }
}

/// The future of [`Semaphore::acquire_as`].
#[must_use = "a future does nothing unless it is awaited"]
pub(crate) struct Taking<'a> {
    semaphore: &'a Semaphore,
    waiter: Waiter,
    step: Step,
    what: Wait,
    _pinned: PhantomPinned,
}

/// How far a [`Taking`] has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Not polled yet.
    New,
    /// The waiter was queued.
    Waiting,
    /// The permit was given out, or refused.
    Done,
}

// SAFETY: The waiter is reached through the queue's lock, by pointers that outlive no lock.
unsafe impl Send for Taking<'_> {}
// SAFETY: A shared reference to it gives access to nothing.
unsafe impl Sync for Taking<'_> {}

impl<'a> Future for Taking<'a> {
    type Output = Result<Permit<'a>, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: Nothing is moved out: the waiter stays where it is until it is unlinked.
        let this = unsafe { self.get_unchecked_mut() };
        let wants = this.waiter.wants;
        // Only shared references to the waiter from here on: the granter has a pointer to it.
        let waiter = NonNull::from(&this.waiter);
        let verdict = match this.step {
            Step::New => match this.semaphore.try_take(wants) {
                Ok(()) => GRANTED,
                Err(TryError::Closed) => REFUSED,
                // `wants` is not too many.
                Err(_) => this.semaphore.enqueue(waiter, wants, cx.waker()),
            },
            Step::Waiting => match this.waiter.verdict.load(Acquire) {
                WAITS => {
                    let waker = cx.waker().clone();
                    let mut queue = this.semaphore.queue.lock();
                    // Under the lock: there is a verdict, or the waiter is still in the queue.
                    let verdict = this.waiter.verdict.load(Relaxed);
                    let old = if verdict != WAITS {
                        Some(waker)
                    } else {
                        queue.links(waiter, |l| l.waker.replace(waker))
                    };
                    drop(queue);
                    // No waker's code runs under the lock.
                    drop(old);
                    verdict
                }
                verdict => verdict,
            },
            Step::Done => return sys::polled_again(),
        };
        if verdict == WAITS {
            this.step = Step::Waiting;
            task::waits(cx, this.what);
            return Poll::Pending;
        }
        this.step = Step::Done;
        Poll::Ready(if verdict == GRANTED {
            Ok(Permit {
                semaphore: this.semaphore,
                count: wants,
            })
        } else {
            Err(Closed)
        })
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        if self.step != Step::Waiting {
            return;
        }
        let mut queue = self.semaphore.queue.lock();
        match self.waiter.verdict.load(Relaxed) {
            WAITS => {
                let waker = queue.unlink(NonNull::from(&self.waiter));
                drop(queue);
                drop(waker);
                self.semaphore.grant();
            }
            verdict => {
                drop(queue);
                if verdict == GRANTED {
                    self.semaphore.release(self.waiter.wants);
                }
            }
        }
    }
}

/// Permits that are out. Dropping it gives them back.
#[must_use = "the permits are given back when it is dropped"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    count: usize,
}

impl Permit<'_> {
    /// Keeps the permits out: somebody else calls [`Semaphore::release`], or nobody.
    pub fn forget(self) {
        core::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.semaphore.release(self.count);
    }
}
