// SPDX-License-Identifier: GPL-2.0

//! A futures-aware, fair reader-writer semaphore.
//!
//! The asynchronous relative of the kernel's `struct rw_semaphore`
//! ([`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)). Many readers or one writer hold it. Those
//! who come while it cannot be had wait in a queue, first come, first served: the lock is *handed*
//! to the first waiter (and, if it is a reader, to the readers right behind it), and nobody who
//! comes later gets past a waiter. So neither readers nor writers starve.
//!
//! # The algorithm
//!
//! One word has the number of readers, a bit for the writer, and a bit that says that the queue is
//! not empty. With that bit clear, taking and releasing is one atomic operation. With it set
//! nobody takes the lock by himself, and everything else happens under the queue's spinlock:
//!
//! * a waiter is appended, if the word says under the lock that it still has to wait;
//! * whoever releases the lock last *grants* it: it changes the word on behalf of the first
//!   waiters, marks them as granted, unlinks them and takes their wakers;
//! * the wakers are called after the spinlock was released.
//!
//! # Concurrency
//!
//! Poll, release and drop run in process context (a worker, or `block_on`), never in interrupt
//! context; wakers that are called may do what they like but sleep. A waiter lives inside the
//! future that waits, is pinned, and all its fields are protected by the spinlock, but for `granted`,
//! which its owner may read without: once it is set nobody else touches the waiter any more. A
//! future that is dropped unlinks its waiter under the spinlock, or, if the lock was granted in
//! the meantime, releases it. If it was the first of the queue, those behind it are looked at again.

use super::sys::{self, Acquire, Atomic, Cell, Full, Lock, Relaxed, Release};
use core::future::Future;
use core::marker::PhantomPinned;
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll, Waker};

/// The writer holds the lock.
const WRITER: usize = 1 << 0;
/// The queue is not empty. Changed under the queue's lock only.
const WAITERS: usize = 1 << 1;
/// One reader.
const READER: usize = 1 << 2;

/// How many wakers are collected before the spinlock is released to call them.
const WAKE_BATCH: usize = 16;

/// What a waiter waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

/// One who waits, inside the future.
struct Waiter {
    kind: Kind,
    /// Set, under the lock, when the lock was handed over. The granter touches nothing after it.
    granted: Atomic<bool>,
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
}

impl Queue {
    fn links<R>(&mut self, waiter: NonNull<Waiter>, f: impl FnOnce(&mut Links) -> R) -> R {
        // SAFETY: We hold the queue's lock, and a queued waiter is alive: its owner unlinks it,
        // under the lock, before it goes.
        unsafe { waiter.as_ref().links.with_mut(|links| f(&mut *links)) }
    }

    fn append(&mut self, waiter: NonNull<Waiter>, waker: Waker) {
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

/// A fair reader-writer semaphore whose waiters are futures.
///
/// Guards may be held across an `.await`. See the [module documentation](self).
pub struct RwSemaphore<T: ?Sized> {
    word: Atomic<usize>,
    queue: Lock<Queue>,
    value: Cell<T>,
}

// SAFETY: As for any reader-writer lock: the value moves with the lock.
unsafe impl<T: ?Sized + Send> Send for RwSemaphore<T> {}
// SAFETY: Readers share the value between threads, writers have it to themselves.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwSemaphore<T> {}
// SAFETY: The pointers are used under the lock that contains them.
unsafe impl Send for Queue {}

impl<T> RwSemaphore<T> {
    /// Makes an unlocked semaphore.
    pub fn new(value: T) -> Self {
        Self {
            word: Atomic::new(0),
            queue: sys::new_lock!(Queue {
                head: None,
                tail: None,
            }),
            value: Cell::new(value),
        }
    }

    /// Returns the value. Nobody can hold the lock.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> RwSemaphore<T> {
    /// Takes the lock for reading, if it is free for readers and nobody waits.
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        self.try_lock(Kind::Read).then(|| ReadGuard { sem: self })
    }

    /// Takes the lock for writing, if it is free and nobody waits.
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        self.try_lock(Kind::Write).then(|| WriteGuard { sem: self })
    }

    /// Takes the lock for reading.
    ///
    /// # Cancellation
    ///
    /// A waiting future that is dropped leaves the queue; a lock that was already handed to it goes
    /// to the next.
    pub fn read(&self) -> Read<'_, T> {
        Read(Acquiring::new(self, Kind::Read))
    }

    /// Takes the lock for writing.
    ///
    /// # Cancellation
    ///
    /// As for [`read`](Self::read).
    pub fn write(&self) -> Write<'_, T> {
        Write(Acquiring::new(self, Kind::Write))
    }

    /// Takes the lock for reading from synchronous code. May sleep.
    ///
    /// Fails with `EDEADLK` on an executor's worker if it would have to wait.
    pub fn read_blocking(&self) -> sys::Result<ReadGuard<'_, T>> {
        match self.try_read() {
            Some(guard) => Ok(guard),
            None => super::block_on(self.read()),
        }
    }

    /// Takes the lock for writing from synchronous code. May sleep.
    ///
    /// Fails with `EDEADLK` on an executor's worker if it would have to wait.
    pub fn write_blocking(&self) -> sys::Result<WriteGuard<'_, T>> {
        match self.try_write() {
            Some(guard) => Ok(guard),
            None => super::block_on(self.write()),
        }
    }

    /// What the word becomes when one more `kind` takes the lock; `None` if it cannot.
    fn taken(word: usize, kind: Kind) -> Option<usize> {
        match kind {
            Kind::Read if word & WRITER == 0 => Some(word + READER),
            Kind::Write if word & !WAITERS == 0 => Some(word | WRITER),
            _ => None,
        }
    }

    fn try_lock(&self, kind: Kind) -> bool {
        let mut word = self.word.load(Relaxed);
        loop {
            if word & WAITERS != 0 {
                return false;
            }
            let Some(new) = Self::taken(word, kind) else {
                return false;
            };
            match self.word.cmpxchg(word, new, Acquire) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Changes the word under the queue's lock, by what `f` makes of it.
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

    /// Queues `waiter`, or takes the lock for it if it is free by now. Returns whether it was taken.
    fn enqueue(&self, waiter: NonNull<Waiter>, kind: Kind, waker: &Waker) -> bool {
        let waker = waker.clone();
        let mut queue = self.queue.lock();
        let mut taken = false;
        self.update(|word| {
            let free = if word & WAITERS == 0 {
                Self::taken(word, kind)
            } else {
                None
            };
            taken = free.is_some();
            Some(free.unwrap_or(word | WAITERS))
        });
        if !taken {
            queue.append(waiter, waker);
        }
        taken
    }

    fn unlock(&self, kind: Kind) {
        match kind {
            Kind::Read => {
                let word = self.word.fetch_sub(READER, Release);
                if word & WAITERS != 0 && word < 2 * READER {
                    self.grant(|_| {});
                }
            }
            Kind::Write => {
                if self.word.cmpxchg(WRITER, 0, Release).is_err() {
                    self.grant(|this| {
                        this.update(|word| Some(word & !WRITER));
                    });
                }
            }
        }
    }

    /// Runs `first` under the queue's lock, then hands the lock to as many of the first waiters as
    /// can have it.
    fn grant(&self, first: impl FnOnce(&Self)) {
        let mut first = Some(first);
        loop {
            let mut wakers: [Option<Waker>; WAKE_BATCH] = [const { None }; WAKE_BATCH];
            let mut more = false;
            let mut queue = self.queue.lock();
            if let Some(first) = first.take() {
                first(self);
            }
            let mut wakers_left = wakers.iter_mut();
            while let Some(waiter) = queue.head {
                let Some(slot) = wakers_left.next() else {
                    more = true;
                    break;
                };
                // SAFETY: A queued waiter is alive. `kind` never changes.
                let kind = unsafe { waiter.as_ref() }.kind;
                if !self.update(|word| Self::taken(word, kind)) {
                    break;
                }
                *slot = queue.unlink(waiter);
                // SAFETY: As above; after the store its owner may free it.
                unsafe { waiter.as_ref() }.granted.store(true, Release);
            }
            if queue.head.is_none() {
                self.update(|word| Some(word & !WAITERS));
            }
            drop(queue);
            wakers.into_iter().flatten().for_each(Waker::wake);
            if !more {
                return;
            }
        }
    }
}

/// A future that acquires the lock, and gives it back if it is dropped in between.
struct Acquiring<'a, T: ?Sized> {
    sem: &'a RwSemaphore<T>,
    waiter: Waiter,
    step: Step,
    _pinned: PhantomPinned,
}

/// How far an [`Acquiring`] has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Not polled yet.
    New,
    /// The waiter was queued.
    Waiting,
    /// The guard was given out.
    Done,
}

// SAFETY: The waiter is reached through the queue's lock, by pointers that outlive no lock.
unsafe impl<T: ?Sized + Send + Sync> Send for Acquiring<'_, T> {}
// SAFETY: A shared reference to it gives access to nothing.
unsafe impl<T: ?Sized + Send + Sync> Sync for Acquiring<'_, T> {}

impl<'a, T: ?Sized> Acquiring<'a, T> {
    fn new(sem: &'a RwSemaphore<T>, kind: Kind) -> Self {
        Self {
            sem,
            waiter: Waiter {
                kind,
                granted: Atomic::new(false),
                links: Cell::new(Links {
                    prev: None,
                    next: None,
                    waker: None,
                }),
            },
            step: Step::New,
            _pinned: PhantomPinned,
        }
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<&'a RwSemaphore<T>> {
        // SAFETY: Nothing is moved out: the waiter stays where it is until it is unlinked.
        let this = unsafe { self.get_unchecked_mut() };
        let kind = this.waiter.kind;
        // Only shared references to the waiter from here on: the granter has a pointer to it.
        let waiter = NonNull::from(&this.waiter);
        let ready = match this.step {
            Step::New => this.sem.try_lock(kind) || this.sem.enqueue(waiter, kind, cx.waker()),
            Step::Waiting => {
                this.waiter.granted.load(Acquire) || {
                    let waker = cx.waker().clone();
                    let mut queue = this.sem.queue.lock();
                    // Under the lock: granted, or still in the queue.
                    let granted = this.waiter.granted.load(Relaxed);
                    let old = if granted {
                        Some(waker)
                    } else {
                        queue.links(waiter, |l| l.waker.replace(waker))
                    };
                    drop(queue);
                    // No waker's code runs under the lock.
                    drop(old);
                    granted
                }
            }
            Step::Done => {
                sys::warn_if!(true, "an rw-semaphore's future was polled after completion");
                return Poll::Pending;
            }
        };
        if ready {
            this.step = Step::Done;
            Poll::Ready(this.sem)
        } else {
            this.step = Step::Waiting;
            Poll::Pending
        }
    }
}

impl<T: ?Sized> Drop for Acquiring<'_, T> {
    fn drop(&mut self) {
        if self.step != Step::Waiting {
            return;
        }
        let mut queue = self.sem.queue.lock();
        if self.waiter.granted.load(Relaxed) {
            drop(queue);
            self.sem.unlock(self.waiter.kind);
        } else {
            let waker = queue.unlink(NonNull::from(&self.waiter));
            drop(queue);
            drop(waker);
            self.sem.grant(|_| {});
        }
    }
}

/// The future of [`RwSemaphore::read`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Read<'a, T: ?Sized>(Acquiring<'a, T>);

impl<'a, T: ?Sized> Future for Read<'a, T> {
    type Output = ReadGuard<'a, T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: The field is pinned with `self`.
        let inner = unsafe { self.map_unchecked_mut(|this| &mut this.0) };
        inner.poll(cx).map(|sem| ReadGuard { sem })
    }
}

/// The future of [`RwSemaphore::write`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Write<'a, T: ?Sized>(Acquiring<'a, T>);

impl<'a, T: ?Sized> Future for Write<'a, T> {
    type Output = WriteGuard<'a, T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: The field is pinned with `self`.
        let inner = unsafe { self.map_unchecked_mut(|this| &mut this.0) };
        inner.poll(cx).map(|sem| WriteGuard { sem })
    }
}

/// Shared access to the value. Dropping it releases the lock.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ReadGuard<'a, T: ?Sized> {
    sem: &'a RwSemaphore<T>,
}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: We hold the lock for reading, so nobody writes.
        self.sem.value.with(|value| unsafe { &*value })
    }
}

impl<T: ?Sized> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        self.sem.unlock(Kind::Read);
    }
}

/// Exclusive access to the value. Dropping it releases the lock.
#[must_use = "the lock is released when the guard is dropped"]
pub struct WriteGuard<'a, T: ?Sized> {
    sem: &'a RwSemaphore<T>,
}

impl<'a, T: ?Sized> WriteGuard<'a, T> {
    /// Goes on as a reader, without letting a writer in between. Readers that wait first in the
    /// queue are let in.
    pub fn downgrade(self) -> ReadGuard<'a, T> {
        let sem = self.sem;
        core::mem::forget(self);
        let reader = |word: usize| word - WRITER + READER;
        if sem.word.cmpxchg(WRITER, READER, Release).is_err() {
            sem.grant(|this| {
                this.update(|word| Some(reader(word)));
            });
        }
        ReadGuard { sem }
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: We hold the lock for writing.
        self.sem.value.with(|value| unsafe { &*value })
    }
}

impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: We hold the lock for writing.
        self.sem.value.with_mut(|value| unsafe { &mut *value })
    }
}

impl<T: ?Sized> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        self.sem.unlock(Kind::Write);
    }
}
