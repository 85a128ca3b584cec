// SPDX-License-Identifier: GPL-2.0

//! The atomics of the `kernel` crate, as inline instructions.
//!
//! Theirs are calls of C functions, unless the kernel was built with its helpers inlined, which
//! no distribution's is: a dozen instructions for one, and a task that waits for a request takes
//! some twenty steps.
//!
//! On x86-64 the compiler's own are the instructions that C's macros are: a load is an acquire, a store a
//! release, and whatever reads and writes is locked, and thereby a full barrier. A failed `cmpxchg`
//! orders nothing by contract. Other architectures use the crate's.

use super::order::{AcquireOrRelaxed, Any, ReleaseOrRelaxed};
use core::cell::UnsafeCell;
use core::sync::atomic::{self as raw, Ordering};

/// An atomic variable, in memory like its value.
#[repr(transparent)]
pub struct Atomic<T>(UnsafeCell<T>);

// SAFETY: There are operations for numbers and pointers alone, and they are atomic.
unsafe impl<T> Send for Atomic<T> {}
// SAFETY: As above.
unsafe impl<T> Sync for Atomic<T> {}

impl<T> Atomic<T> {
    /// Makes a variable with a value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// A variable that C code has.
    ///
    /// # Safety
    ///
    /// `ptr` is valid and aligned for `'a`, and who else uses the variable does so by atomic
    /// accesses.
    pub const unsafe fn from_ptr<'a>(ptr: *mut T) -> &'a Self {
        // SAFETY: By the function's contract; the types have the same layout.
        unsafe { &*ptr.cast() }
    }
}

macro_rules! atomic {
    ([$($generics:tt)*] $type:ty, $raw:ty) => {
        #[allow(dead_code, reason = "not each type needs each operation")]
        impl<$($generics)*> Atomic<$type> {
            #[inline(always)]
            fn raw(&self) -> &$raw {
                // SAFETY: The type has the size and the alignment of its atomic.
                unsafe { <$raw>::from_ptr(self.0.get()) }
            }

            /// Reads.
            #[inline(always)]
            pub fn load<O: AcquireOrRelaxed>(&self, _: O) -> $type {
                self.raw().load(O::LOAD)
            }

            /// Writes.
            #[inline(always)]
            pub fn store<O: ReleaseOrRelaxed>(&self, value: $type, _: O) {
                self.raw().store(value, O::STORE)
            }

            /// Writes, and gives what was there.
            #[inline(always)]
            pub fn xchg<O: Any>(&self, value: $type, _: O) -> $type {
                self.raw().swap(value, O::EXCHANGE)
            }

            /// Writes `new` if `old` is there. Gives what was there, as an error if that was not `old`.
            #[inline(always)]
            pub fn cmpxchg<O: Any>(
                &self,
                old: $type,
                new: $type,
                _: O,
            ) -> Result<$type, $type> {
                self.raw().compare_exchange(old, new, O::EXCHANGE, Ordering::Relaxed)
            }
        }
    };
    ($($type:ty, $raw:ty);*) => { $(
        atomic!([] $type, $raw);

        #[allow(dead_code, reason = "not each type needs each operation")]
        impl Atomic<$type> {
            /// Adds, with wrapping, and gives what was there.
            #[inline(always)]
            pub fn fetch_add<O: Any>(&self, value: $type, _: O) -> $type {
                self.raw().fetch_add(value, O::EXCHANGE)
            }

            /// Subtracts, with wrapping, and gives what was there.
            #[inline(always)]
            pub fn fetch_sub<O: Any>(&self, value: $type, _: O) -> $type {
                self.raw().fetch_sub(value, O::EXCHANGE)
            }
        }
    )* };
}
atomic!(usize, raw::AtomicUsize; u64, raw::AtomicU64; u32, raw::AtomicU32; i32, raw::AtomicI32);
atomic!([] bool, raw::AtomicBool);
atomic!([P] *mut P, raw::AtomicPtr<P>);
