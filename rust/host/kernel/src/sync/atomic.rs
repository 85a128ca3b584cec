// SPDX-License-Identifier: GPL-2.0

//! Atomic variables, with the kernel's names.

use core::cell::UnsafeCell;
use core::sync::atomic as std;

pub use ordering::{Acquire, Full, Relaxed, Release};

/// The orderings, as types.
pub mod ordering {
    use core::sync::atomic::Ordering;

    /// No ordering.
    pub struct Relaxed;
    /// What comes later stays later.
    pub struct Acquire;
    /// What comes earlier stays earlier.
    pub struct Release;
    /// Both, and among all of them.
    pub struct Full;

    /// The orderings of an exchange.
    pub trait Any {
        /// `core`'s.
        const EXCHANGE: Ordering;
    }
    /// The orderings of a load.
    pub trait AcquireOrRelaxed {
        /// `core`'s.
        const LOAD: Ordering;
    }
    /// The orderings of a store.
    pub trait ReleaseOrRelaxed {
        /// `core`'s.
        const STORE: Ordering;
    }

    impl Any for Relaxed {
        const EXCHANGE: Ordering = Ordering::Relaxed;
    }
    impl Any for Acquire {
        const EXCHANGE: Ordering = Ordering::Acquire;
    }
    impl Any for Release {
        const EXCHANGE: Ordering = Ordering::Release;
    }
    impl Any for Full {
        const EXCHANGE: Ordering = Ordering::SeqCst;
    }
    impl AcquireOrRelaxed for Relaxed {
        const LOAD: Ordering = Ordering::Relaxed;
    }
    impl AcquireOrRelaxed for Acquire {
        const LOAD: Ordering = Ordering::Acquire;
    }
    impl ReleaseOrRelaxed for Relaxed {
        const STORE: Ordering = Ordering::Relaxed;
    }
    impl ReleaseOrRelaxed for Release {
        const STORE: Ordering = Ordering::Release;
    }
}

use ordering::{AcquireOrRelaxed, Any, ReleaseOrRelaxed};

/// An atomic variable.
#[repr(transparent)]
pub struct Atomic<T>(UnsafeCell<T>);

// SAFETY: It is a number or a pointer, and is accessed by atomic operations alone.
unsafe impl<T: AtomicType> Send for Atomic<T> {}
// SAFETY: As above.
unsafe impl<T: AtomicType> Sync for Atomic<T> {}

impl<T> Atomic<T> {
    /// One with this value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// The value, for who has it to himself.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

/// A type of atomic variables.
pub trait AtomicType: Copy {
    #[doc(hidden)]
    type Repr;
    #[doc(hidden)]
    fn repr(atomic: &Atomic<Self>) -> &Self::Repr;
    #[doc(hidden)]
    fn load(repr: &Self::Repr, order: std::Ordering) -> Self;
    #[doc(hidden)]
    fn store(repr: &Self::Repr, value: Self, order: std::Ordering);
    #[doc(hidden)]
    fn swap(repr: &Self::Repr, value: Self, order: std::Ordering) -> Self;
    #[doc(hidden)]
    fn exchange(
        repr: &Self::Repr,
        old: Self,
        new: Self,
        order: std::Ordering,
    ) -> Result<Self, Self>;
}

macro_rules! atomic_type {
    ($([$($g:ident)?] $t:ty: $repr:ty,)*) => {
        $(
            impl $(<$g>)? AtomicType for $t {
                type Repr = $repr;
                fn repr(atomic: &Atomic<Self>) -> &$repr {
                    // SAFETY: The types have one representation, and nobody accesses it otherwise.
                    unsafe { <$repr>::from_ptr(atomic.0.get()) }
                }
                fn load(repr: &$repr, order: std::Ordering) -> Self {
                    repr.load(order)
                }
                fn store(repr: &$repr, value: Self, order: std::Ordering) {
                    repr.store(value, order)
                }
                fn swap(repr: &$repr, value: Self, order: std::Ordering) -> Self {
                    repr.swap(value, order)
                }
                fn exchange(
                    repr: &$repr,
                    old: Self,
                    new: Self,
                    order: std::Ordering,
                ) -> Result<Self, Self> {
                    repr.compare_exchange(old, new, order, std::Ordering::Relaxed)
                }
            }
        )*
    };
}
atomic_type! {
    [] bool: std::AtomicBool,
    [] i8: std::AtomicI8,
    [] i16: std::AtomicI16,
    [] i32: std::AtomicI32,
    [] i64: std::AtomicI64,
    [] isize: std::AtomicIsize,
    [] u8: std::AtomicU8,
    [] u16: std::AtomicU16,
    [] u32: std::AtomicU32,
    [] u64: std::AtomicU64,
    [] usize: std::AtomicUsize,
    [T] *mut T: std::AtomicPtr<T>,
}

impl<T: AtomicType> Atomic<T> {
    /// The value.
    pub fn load<O: AcquireOrRelaxed>(&self, _: O) -> T {
        T::load(T::repr(self), O::LOAD)
    }

    /// Sets the value.
    pub fn store<O: ReleaseOrRelaxed>(&self, value: T, _: O) {
        T::store(T::repr(self), value, O::STORE)
    }

    /// Sets the value; gives what was there.
    pub fn xchg<O: Any>(&self, value: T, _: O) -> T {
        T::swap(T::repr(self), value, O::EXCHANGE)
    }

    /// Sets the value if it is `old`; gives what was there.
    pub fn cmpxchg<O: Any>(&self, old: T, new: T, _: O) -> Result<T, T> {
        T::exchange(T::repr(self), old, new, O::EXCHANGE)
    }
}

macro_rules! arithmetic {
    ($($t:ty),*) => {
        $(
            impl Atomic<$t> {
                /// Adds.
                pub fn add<O: Any>(&self, value: $t, _: O) {
                    <$t>::repr(self).fetch_add(value, O::EXCHANGE);
                }

                /// Adds; gives what was there.
                pub fn fetch_add<O: Any>(&self, value: $t, _: O) -> $t {
                    <$t>::repr(self).fetch_add(value, O::EXCHANGE)
                }

                /// Subtracts; gives what was there.
                pub fn fetch_sub<O: Any>(&self, value: $t, _: O) -> $t {
                    <$t>::repr(self).fetch_sub(value, O::EXCHANGE)
                }

                /// Sets bits; gives what was there.
                pub fn fetch_or<O: Any>(&self, value: $t, _: O) -> $t {
                    <$t>::repr(self).fetch_or(value, O::EXCHANGE)
                }

                /// Keeps bits; gives what was there.
                pub fn fetch_and<O: Any>(&self, value: $t, _: O) -> $t {
                    <$t>::repr(self).fetch_and(value, O::EXCHANGE)
                }
            }
        )*
    };
}
arithmetic!(i32, i64, isize, u32, u64, usize);
