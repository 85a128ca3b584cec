// SPDX-License-Identifier: GPL-2.0

//! A futures-aware, fair reader-writer semaphore, and a mutex.
//!
//! [`RwSemaphore`] is the asynchronous relative of the kernel's `struct rw_semaphore`
//! ([`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)). Many readers or one writer hold it:
//! it is a [`Semaphore`] of [`ALL`] permits, of which a reader has one and a writer all. What is said
//! there of fairness, contexts and dropped futures holds here. In particular a writer that waits
//! keeps readers that come later behind it, and a lock that becomes free is handed to all readers
//! that are first in the queue.
//!
//! [`Mutex`] is the asynchronous relative of `struct mutex`: a semaphore of one permit.

use super::block_on;
use super::semaphore::{Closed, Semaphore, Taking, TryError};
use super::stats::Wait;
use super::sys::{self, Cell, DepMap, Held, LockClass};
use core::future::Future;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use core::task::{ready, Context, Poll};

/// The permits of a writer.
const ALL: usize = Semaphore::MAX;

/// A fair reader-writer semaphore whose waiters are futures.
///
/// Guards may be held across an `.await`. See the [module documentation](self).
pub struct RwSemaphore<T: ?Sized> {
    semaphore: Semaphore,
    dep: DepMap,
    value: Cell<T>,
}

// SAFETY: As for any reader-writer lock: the value moves with the lock.
unsafe impl<T: ?Sized + Send> Send for RwSemaphore<T> {}
// SAFETY: Readers share the value between threads, writers have it to themselves.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwSemaphore<T> {}

impl<T> RwSemaphore<T> {
    /// Makes an unlocked semaphore.
    pub fn new(value: T) -> Self {
        Self {
            semaphore: Semaphore::new(ALL),
            dep: DepMap::new(None),
            value: Cell::new(value),
        }
    }

    /// Lets lockdep check its order to other locks, where threads take it by its blocking
    /// functions.
    ///
    /// See [`lock_class!`](crate::lock_class).
    pub fn with_class(mut self, class: LockClass) -> Self {
        self.dep = DepMap::new(Some(class));
        self
    }

    /// Returns the value. Nobody can hold the lock.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> RwSemaphore<T> {
    /// Takes the lock for reading, if it is free for readers and nobody waits.
    pub fn try_read(&self) -> Result<ReadGuard<'_, T>, TryError> {
        self.semaphore.try_take(1)?;
        Ok(ReadGuard::new(self))
    }

    /// Takes the lock for writing, if it is free and nobody waits.
    pub fn try_write(&self) -> Result<WriteGuard<'_, T>, TryError> {
        self.semaphore.try_take(ALL)?;
        Ok(WriteGuard::new(self))
    }

    /// Takes the lock for reading. Fails with [`Closed`] once the lock is closed.
    ///
    /// # Cancellation
    ///
    /// A waiting future that is dropped leaves the queue; a lock that was already handed to it goes
    /// to the next.
    pub fn read(&self) -> Read<'_, T> {
        Read {
            sem: self,
            acquiring: self.semaphore.acquire_as(1, Wait::Lock),
        }
    }

    /// Takes the lock for writing. Fails with [`Closed`] once the lock is closed.
    ///
    /// # Cancellation
    ///
    /// As for [`read`](Self::read).
    pub fn write(&self) -> Write<'_, T> {
        Write {
            sem: self,
            acquiring: self.semaphore.acquire_as(ALL, Wait::Lock),
        }
    }

    /// Takes the lock for reading from synchronous code. May sleep.
    ///
    /// Fails with `ESHUTDOWN` once the lock is closed, and with `EDEADLK` on an executor's worker if
    /// it would have to wait.
    pub fn read_blocking(&self) -> sys::Result<Blocking<'_, ReadGuard<'_, T>>> {
        blocking(self.dep.read(), self.try_read(), self.read())
    }

    /// Takes the lock for writing from synchronous code. May sleep.
    ///
    /// Fails as [`read_blocking`](Self::read_blocking) does.
    pub fn write_blocking(&self) -> sys::Result<Blocking<'_, WriteGuard<'_, T>>> {
        blocking(self.dep.write(), self.try_write(), self.write())
    }

    /// Refuses the lock to all who wait and to all who come; those who hold it go on.
    pub fn close(&self) {
        self.semaphore.close();
    }

    /// How often somebody had to wait, since the lock was made.
    pub fn contended(&self) -> u64 {
        self.semaphore.contended()
    }
}

/// Declares the future of a way to take a lock.
macro_rules! locking {
    ($(#[$doc:meta])* $name:ident, $lock:ident, $guard:ident) => {
        $(#[$doc])*
        #[must_use = "a future does nothing unless it is awaited"]
        pub struct $name<'a, T: ?Sized> {
            sem: &'a $lock<T>,
            acquiring: Taking<'a>,
        }

        impl<'a, T: ?Sized> Future for $name<'a, T> {
            type Output = Result<$guard<'a, T>, Closed>;

            fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                let sem = self.sem;
                // SAFETY: The field is pinned with `self`.
                let acquiring = unsafe { self.map_unchecked_mut(|this| &mut this.acquiring) };
                // The guard gives the permits back.
                ready!(acquiring.poll(cx))?.forget();
                Poll::Ready(Ok($guard::new(sem)))
            }
        }
    };
}

locking!(
    /// The future of [`RwSemaphore::read`].
    Read, RwSemaphore, ReadGuard
);
locking!(
    /// The future of [`RwSemaphore::write`].
    Write, RwSemaphore, WriteGuard
);
locking!(
    /// The future of [`Mutex::lock`].
    Locking, Mutex, MutexGuard
);

/// Shared access to the value. Dropping it releases the lock.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ReadGuard<'a, T: ?Sized> {
    sem: &'a RwSemaphore<T>,
}

impl<'a, T: ?Sized> ReadGuard<'a, T> {
    /// The caller has one permit, which is now the guard's.
    fn new(sem: &'a RwSemaphore<T>) -> Self {
        Self { sem }
    }
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
        self.sem.semaphore.release(1);
    }
}

/// Exclusive access to the value. Dropping it releases the lock.
#[must_use = "the lock is released when the guard is dropped"]
pub struct WriteGuard<'a, T: ?Sized> {
    sem: &'a RwSemaphore<T>,
}

impl<'a, T: ?Sized> WriteGuard<'a, T> {
    /// The caller has all permits, which are now the guard's.
    fn new(sem: &'a RwSemaphore<T>) -> Self {
        Self { sem }
    }

    /// Goes on as a reader, without letting a writer in between. Readers that wait first in the
    /// queue are let in.
    pub fn downgrade(self) -> ReadGuard<'a, T> {
        let sem = self.sem;
        core::mem::forget(self);
        sem.semaphore.release(ALL - 1);
        ReadGuard::new(sem)
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
        self.sem.semaphore.release(ALL);
    }
}

/// A guard that the calling thread got by a blocking function, and keeps: lockdep follows it.
///
/// Dropping it releases the lock. It is not [`Send`], so that nobody holds it across an `.await` in a task.
#[must_use = "the lock is released when the guard is dropped"]
pub struct Blocking<'a, G> {
    /// Dropped first, as the kernel's locks tell before they do.
    held: Held<'a>,
    guard: G,
}

/// What blocking functions do: waits for `lock` if the lock was not there for the taking.
fn blocking<'a, G>(
    held: Held<'a>,
    tried: Result<G, TryError>,
    lock: impl Future<Output = Result<G, Closed>>,
) -> sys::Result<Blocking<'a, G>> {
    let guard = match tried {
        Err(TryError::Busy) => block_on::block_on_others(lock)??,
        result => result?,
    };
    Ok(Blocking { held, guard })
}

impl<'a, T: ?Sized> Blocking<'a, WriteGuard<'a, T>> {
    /// [`WriteGuard::downgrade`].
    pub fn downgrade(self) -> Blocking<'a, ReadGuard<'a, T>> {
        self.held.downgrade();
        Blocking {
            held: self.held,
            guard: self.guard.downgrade(),
        }
    }
}

impl<G: Deref> Deref for Blocking<'_, G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Blocking<'_, G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

/// A fair mutex whose waiters are futures.
///
/// The guard may be held across an `.await`.
pub struct Mutex<T: ?Sized> {
    semaphore: Semaphore,
    dep: DepMap,
    value: Cell<T>,
}

// SAFETY: The value moves with the lock.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: Only the holder of the lock gets at the value.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// Makes an unlocked mutex.
    pub fn new(value: T) -> Self {
        Self {
            semaphore: Semaphore::new(1),
            dep: DepMap::new(None),
            value: Cell::new(value),
        }
    }

    /// Lets lockdep check its order to other locks, where threads take it by its blocking
    /// functions.
    ///
    /// See [`lock_class!`](crate::lock_class).
    pub fn with_class(mut self, class: LockClass) -> Self {
        self.dep = DepMap::new(Some(class));
        self
    }

    /// Returns the value. Nobody can hold the lock.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the lock, if it is free and nobody waits.
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T>, TryError> {
        self.semaphore.try_take(1)?;
        Ok(MutexGuard::new(self))
    }

    /// Takes the lock. Fails with [`Closed`] once the mutex is closed.
    ///
    /// # Cancellation
    ///
    /// As for [`RwSemaphore::read`].
    pub fn lock(&self) -> Locking<'_, T> {
        Locking {
            sem: self,
            acquiring: self.semaphore.acquire_as(1, Wait::Lock),
        }
    }

    /// Takes the lock from synchronous code. May sleep. Fails as [`RwSemaphore::read_blocking`] does.
    pub fn lock_blocking(&self) -> sys::Result<Blocking<'_, MutexGuard<'_, T>>> {
        blocking(self.dep.write(), self.try_lock(), self.lock())
    }

    /// Refuses the lock to all who wait and to all who come; whoever holds it goes on.
    pub fn close(&self) {
        self.semaphore.close();
    }
}

/// Exclusive access to the value. Dropping it releases the lock.
#[must_use = "the lock is released when the guard is dropped"]
pub struct MutexGuard<'a, T: ?Sized> {
    sem: &'a Mutex<T>,
    /// Shared between threads only if the value may be.
    value: PhantomData<&'a mut T>,
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// The caller has the permit, which is now the guard's.
    fn new(sem: &'a Mutex<T>) -> Self {
        Self {
            sem,
            value: PhantomData,
        }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: We hold the lock.
        self.sem.value.with(|value| unsafe { &*value })
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: We hold the lock.
        self.sem.value.with_mut(|value| unsafe { &mut *value })
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.sem.semaphore.release(1);
    }
}
