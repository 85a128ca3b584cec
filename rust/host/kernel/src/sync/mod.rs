// SPDX-License-Identifier: GPL-2.0

//! Synchronisation.
//!
//! One thread runs at a time, and none is preempted by another: a spinlock that is found taken was
//! taken by the caller. Interrupt handlers do run in between, where a lock is given back.

mod arc;
pub mod atomic;
mod lock;

pub use crate::{new_spinlock, static_lock_class};
pub use arc::{Arc, ArcBorrow, UniqueArc};
pub use lock::{Guard, SpinLock, SpinLockGuard};

/// Memory barriers, of which one thread needs none.
pub mod barrier {
    /// A full barrier.
    pub fn smp_mb() {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
}

/// Read-copy-update. Nobody is preempted in a read section, so that a grace period is over when all
/// that runs has come to its end.
pub mod rcu {
    use crate::machine;
    use crate::types::NotThreadSafe;

    /// A read section.
    pub struct Guard(NotThreadSafe);

    impl Guard {
        /// Begins one.
        #[allow(clippy::new_without_default)]
        pub fn new() -> Self {
            machine::lock_depth(1);
            Self(NotThreadSafe)
        }

        /// Ends it.
        pub fn unlock(self) {}
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            machine::lock_depth(-1);
        }
    }

    /// Begins a read section.
    pub fn read_lock() -> Guard {
        Guard::new()
    }

    /// Waits for a grace period.
    pub fn synchronize_rcu() {
        machine::might_sleep();
        machine::yield_now();
    }
}

/// References that C counts.
pub mod aref {
    use core::marker::PhantomData;
    use core::mem::ManuallyDrop;
    use core::ops::Deref;
    use core::ptr::NonNull;

    /// What counts its references itself.
    ///
    /// # Safety
    ///
    /// It is there as long as there are references.
    pub unsafe trait AlwaysRefCounted {
        /// One more.
        fn inc_ref(&self);

        /// One less.
        ///
        /// # Safety
        ///
        /// The reference is the caller's, and is used no more.
        unsafe fn dec_ref(obj: NonNull<Self>);
    }

    /// An owned reference.
    pub struct ARef<T: AlwaysRefCounted>(NonNull<T>, PhantomData<T>);

    // SAFETY: As a shared reference.
    unsafe impl<T: AlwaysRefCounted + Sync + Send> Send for ARef<T> {}
    // SAFETY: As a shared reference.
    unsafe impl<T: AlwaysRefCounted + Sync + Send> Sync for ARef<T> {}

    impl<T: AlwaysRefCounted> ARef<T> {
        /// Takes over a reference.
        ///
        /// # Safety
        ///
        /// The reference is the caller's.
        pub unsafe fn from_raw(ptr: NonNull<T>) -> Self {
            Self(ptr, PhantomData)
        }

        /// Gives the reference away.
        pub fn into_raw(me: Self) -> NonNull<T> {
            ManuallyDrop::new(me).0
        }
    }

    impl<T: AlwaysRefCounted> Clone for ARef<T> {
        fn clone(&self) -> Self {
            self.inc_ref();
            Self(self.0, PhantomData)
        }
    }

    impl<T: AlwaysRefCounted> Deref for ARef<T> {
        type Target = T;

        fn deref(&self) -> &T {
            // SAFETY: We have a reference.
            unsafe { self.0.as_ref() }
        }
    }

    impl<T: AlwaysRefCounted> Drop for ARef<T> {
        fn drop(&mut self) {
            // SAFETY: We have a reference, which goes.
            unsafe { T::dec_ref(self.0) };
        }
    }
}

/// The class of a lock, for who checks the order of locks: nobody on the host.
pub struct LockClassKey;

/// A class of its own for each use.
#[macro_export]
macro_rules! static_lock_class {
    () => {
        ::core::pin::Pin::new(&$crate::sync::LockClassKey)
    };
}
