// SPDX-License-Identifier: GPL-2.0

//! A value in memory of its own.

use super::{allocate, release, AllocError, Flags};
use crate::init::{InPlaceInit, PinInit};
use core::alloc::Layout;
use core::fmt;
use core::marker::{PhantomData, Unsize};
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ops::{CoerceUnsized, Deref, DerefMut};
use core::pin::Pin;
use core::ptr::NonNull;

/// An owned value in memory of its own.
pub struct Box<T: ?Sized, A = super::allocator::Kmalloc>(NonNull<T>, PhantomData<A>);

impl<T: ?Sized + Unsize<U>, U: ?Sized, A> CoerceUnsized<Box<U, A>> for Box<T, A> {}

// SAFETY: It owns the value.
unsafe impl<T: Send + ?Sized, A> Send for Box<T, A> {}
// SAFETY: A shared one gives shared access to the value.
unsafe impl<T: Sync + ?Sized, A> Sync for Box<T, A> {}

impl<T, A> Box<T, A> {
    /// Allocates memory for `x`, and moves it there.
    pub fn new(x: T, flags: Flags) -> Result<Self, AllocError> {
        Ok(Box::<MaybeUninit<T>, A>::write(Self::new_uninit(flags)?, x))
    }

    /// Allocates memory without a value.
    pub fn new_uninit(flags: Flags) -> Result<Box<MaybeUninit<T>, A>, AllocError> {
        let layout = Layout::new::<T>();
        let ptr = if layout.size() == 0 {
            NonNull::dangling()
        } else {
            allocate(layout, flags, core::any::type_name::<T>())?.cast()
        };
        Ok(Box(ptr, PhantomData))
    }

    /// [`new`](Self::new), for a value that stays where it is.
    pub fn pin(x: T, flags: Flags) -> Result<Pin<Self>, AllocError> {
        Ok(Self::into_pin(Self::new(x, flags)?))
    }

    /// The value stays where it is from now on.
    pub fn into_pin(this: Self) -> Pin<Self> {
        // SAFETY: The value does not move when the box does.
        unsafe { Pin::new_unchecked(this) }
    }

    /// Gives the memory away.
    pub fn into_raw(b: Self) -> *mut T {
        ManuallyDrop::new(b).0.as_ptr()
    }

    /// The box of [`into_raw`](Self::into_raw).
    ///
    /// # Safety
    ///
    /// `raw` comes from [`into_raw`](Self::into_raw), and is used for this once.
    pub unsafe fn from_raw(raw: *mut T) -> Self {
        // SAFETY: By the function's contract.
        Self(unsafe { NonNull::new_unchecked(raw) }, PhantomData)
    }

    /// Leaves the memory to nobody.
    pub fn leak<'a>(b: Self) -> &'a mut T {
        // SAFETY: Nobody frees it any more.
        unsafe { &mut *Self::into_raw(b) }
    }

    /// Drops the value, and keeps the memory.
    pub fn drop_contents(this: Self) -> Box<MaybeUninit<T>, A> {
        let this = ManuallyDrop::new(this);
        // SAFETY: The value is dropped once: the memory is without one from here on.
        unsafe { this.0.as_ptr().drop_in_place() };
        Box(this.0.cast(), PhantomData)
    }

    /// Takes the value out.
    pub fn into_inner(b: Self) -> T {
        let this = ManuallyDrop::new(b);
        // SAFETY: The value is read once, and the memory freed.
        unsafe {
            let value = this.0.as_ptr().read();
            free(this.0);
            value
        }
    }
}

impl<T, A> Box<MaybeUninit<T>, A> {
    /// Gives it a value.
    pub fn write(self, value: T) -> Box<T, A> {
        let this = ManuallyDrop::new(self);
        let ptr: NonNull<T> = this.0.cast();
        // SAFETY: The memory is ours and large enough.
        unsafe { ptr.as_ptr().write(value) };
        Box(ptr, PhantomData)
    }
}

/// # Safety
///
/// The memory is a box's, and without a value.
unsafe fn free<T>(ptr: NonNull<T>) {
    // SAFETY: By the function's contract.
    unsafe { free_layout(ptr.cast(), Layout::new::<T>()) };
}

/// # Safety
///
/// The memory is a box's of such a value, and without it.
unsafe fn free_layout(ptr: NonNull<u8>, layout: Layout) {
    if layout.size() != 0 {
        // SAFETY: By the function's contract.
        unsafe { release(ptr, layout) };
    }
}

impl<T: ?Sized, A> Drop for Box<T, A> {
    fn drop(&mut self) {
        let layout = Layout::for_value(&**self);
        // SAFETY: The value is ours, and dropped once.
        unsafe {
            core::ptr::drop_in_place(self.0.as_ptr());
            free_layout(self.0.cast(), layout);
        }
    }
}

impl<T: ?Sized, A> Deref for Box<T, A> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The value is ours.
        unsafe { self.0.as_ref() }
    }
}

impl<T: ?Sized, A> DerefMut for Box<T, A> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The value is ours.
        unsafe { self.0.as_mut() }
    }
}

impl<T, A> From<Box<T, A>> for Pin<Box<T, A>> {
    fn from(b: Box<T, A>) -> Self {
        Box::into_pin(b)
    }
}

impl<T: fmt::Debug + ?Sized, A> fmt::Debug for Box<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T, A> InPlaceInit<T> for Box<T, A> {
    type Pinned = Pin<Self>;

    fn try_pin_init<E: From<AllocError>>(
        init: impl PinInit<T, E>,
        flags: Flags,
    ) -> Result<Self::Pinned, E> {
        // Memory first, as in the kernel: what `init` does is not undone then.
        let place = Self::new_uninit(flags)?;
        Ok(Self::into_pin(place.write(init.__make()?)))
    }
}
