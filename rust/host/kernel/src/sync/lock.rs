// SPDX-License-Identifier: GPL-2.0

//! Spinlocks.

use crate::machine;
use crate::types::NotThreadSafe;
use core::cell::{Cell, UnsafeCell};
use core::ops::{Deref, DerefMut};

/// A spinlock for process context.
pub struct SpinLock<T> {
    locked: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: The lock gives the value to one thread at a time. `locked` is touched by the one thread
// that the machine lets run.
unsafe impl<T: Send> Send for SpinLock<T> {}
// SAFETY: As above.
unsafe impl<T: Send> Sync for SpinLock<T> {}

/// The guard of a lock.
pub struct Guard<'a, T> {
    lock: &'a SpinLock<T>,
    _not_send: NotThreadSafe,
}

/// The guard of a [`SpinLock`].
pub type SpinLockGuard<'a, T> = Guard<'a, T>;

impl<T> SpinLock<T> {
    /// Makes one; see [`new_spinlock!`](crate::new_spinlock).
    #[doc(hidden)]
    pub fn new(value: T) -> Self {
        Self {
            locked: Cell::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes it.
    #[track_caller]
    pub fn lock(&self) -> Guard<'_, T> {
        assert!(
            !machine::in_interrupt(),
            "a spinlock for process context is taken in interrupt context"
        );
        self.try_lock().expect("a spinlock is taken twice")
    }

    /// Takes it, if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        if self.locked.replace(true) {
            return None;
        }
        machine::lock_depth(1);
        Some(Guard {
            lock: self,
            _not_send: NotThreadSafe,
        })
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: We hold the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: We hold the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.locked.set(false);
        machine::lock_depth(-1);
        machine::interrupt_point();
    }
}

/// Makes a spinlock.
#[macro_export]
macro_rules! new_spinlock {
    ($inner:expr $(, $name:literal)? $(,)?) => {
        $crate::sync::SpinLock::new($inner)
    };
}
