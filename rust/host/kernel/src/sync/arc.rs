// SPDX-License-Identifier: GPL-2.0

//! Reference-counted values.

use crate::alloc::{AllocError, Flags};
use crate::init::{InPlaceInit, PinInit};
use crate::machine;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use std::sync::Arc as Std;

/// A reference on a shared value.
pub struct Arc<T: ?Sized>(ManuallyDrop<Std<T>>);

impl<T> Arc<T> {
    /// Allocates memory for `contents`, and moves it there.
    pub fn new(contents: T, flags: Flags) -> Result<Self, AllocError> {
        let what = core::any::type_name::<Self>();
        // Two counters are before the value.
        let size = size_of::<T>() + 2 * size_of::<usize>();
        machine::may_allocate(size, flags, what)?;
        let arc = Std::new(contents);
        machine::allocated(Std::as_ptr(&arc) as usize, size, what);
        Ok(Self(ManuallyDrop::new(arc)))
    }
}

impl<T: ?Sized> Arc<T> {
    /// Gives the reference away.
    pub fn into_raw(self) -> *const T {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: Nobody uses the field after.
        Std::into_raw(unsafe { ManuallyDrop::take(&mut this.0) })
    }

    /// Where the value is.
    pub fn as_ptr(this: &Self) -> *const T {
        Std::as_ptr(&this.0)
    }

    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `ptr` comes from [`into_raw`](Self::into_raw), and is used for this once.
    pub unsafe fn from_raw(ptr: *const T) -> Self {
        // SAFETY: By the function's contract.
        Self(ManuallyDrop::new(unsafe { Std::from_raw(ptr) }))
    }

    /// A borrowed reference.
    pub fn as_arc_borrow(&self) -> ArcBorrow<'_, T> {
        ArcBorrow(self)
    }

    /// Whether both are references on one value.
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        Std::ptr_eq(&this.0, &other.0)
    }

    /// The value, if nobody else has a reference; else the reference is dropped.
    pub fn into_unique_or_drop(this: Self) -> Option<Pin<UniqueArc<T>>> {
        if Std::strong_count(&this.0) != 1 {
            return None;
        }
        // SAFETY: The value does not move when the reference does.
        Some(unsafe { Pin::new_unchecked(UniqueArc(this)) })
    }
}

impl<T: ?Sized> Clone for Arc<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> Drop for Arc<T> {
    fn drop(&mut self) {
        if Std::strong_count(&self.0) == 1 {
            machine::freed(Std::as_ptr(&self.0).cast::<()>() as usize);
        }
        // SAFETY: The destructor runs once, and nothing uses the field after.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

impl<T: ?Sized> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> AsRef<T> for Arc<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Arc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> InPlaceInit<T> for Arc<T> {
    type Pinned = Self;

    fn try_pin_init<E: From<AllocError>>(
        init: impl PinInit<T, E>,
        flags: Flags,
    ) -> Result<Self, E> {
        Ok(Self::new(init.__make()?, flags)?)
    }
}

/// A borrowed reference on a shared value.
pub struct ArcBorrow<'a, T: ?Sized>(&'a Arc<T>);

impl<T: ?Sized> Clone for ArcBorrow<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for ArcBorrow<'_, T> {}

impl<T: ?Sized> From<ArcBorrow<'_, T>> for Arc<T> {
    fn from(b: ArcBorrow<'_, T>) -> Self {
        b.0.clone()
    }
}

impl<T: ?Sized> Deref for ArcBorrow<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}

/// The one reference on a value that will be shared.
pub struct UniqueArc<T: ?Sized>(Arc<T>);

impl<T> UniqueArc<T> {
    /// Allocates memory for `value`, and moves it there.
    pub fn new(value: T, flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(Arc::new(value, flags)?))
    }
}

impl<T: ?Sized> From<UniqueArc<T>> for Arc<T> {
    fn from(unique: UniqueArc<T>) -> Self {
        unique.0
    }
}

impl<T: ?Sized> From<Pin<UniqueArc<T>>> for Arc<T> {
    fn from(unique: Pin<UniqueArc<T>>) -> Self {
        // SAFETY: A shared value does not move.
        unsafe { Pin::into_inner_unchecked(unique) }.0
    }
}

impl<T: ?Sized> Deref for UniqueArc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for UniqueArc<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: It is the one reference.
        unsafe { &mut *Std::as_ptr(&self.0 .0).cast_mut() }
    }
}
