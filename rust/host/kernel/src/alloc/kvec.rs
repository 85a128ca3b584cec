// SPDX-License-Identifier: GPL-2.0

//! A vector.

use super::{AllocError, Flags};
use crate::machine;
use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};

/// A vector whose growing may fail.
pub struct Vec<T, A = super::allocator::Kmalloc>(std::vec::Vec<T>, PhantomData<A>);

/// Where the memory of a vector is, for the count.
fn place<T>(vec: &std::vec::Vec<T>) -> Option<usize> {
    (vec.capacity() != 0 && size_of::<T>() != 0).then(|| vec.as_ptr() as usize)
}

impl<T, A> Vec<T, A> {
    /// An empty one, without memory.
    pub const fn new() -> Self {
        Self(std::vec::Vec::new(), PhantomData)
    }

    /// An empty one with room for `capacity` elements.
    pub fn with_capacity(capacity: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut v = Self::new();
        v.reserve(capacity, flags)?;
        Ok(v)
    }

    /// `n` elements whose bytes are zero.
    pub fn zeroed(n: usize, flags: Flags) -> Result<Self, AllocError>
    where
        T: Zeroable,
    {
        let mut v = Self::with_capacity(n, flags)?;
        // SAFETY: The type may be zero.
        (0..n).for_each(|_| v.0.push(unsafe { core::mem::zeroed() }));
        Ok(v)
    }

    /// For how many elements there is room.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// The elements.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.0
    }

    /// What is not used yet.
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<T>] {
        self.0.spare_capacity_mut()
    }

    /// Counts `additional` elements more.
    ///
    /// # Safety
    ///
    /// There is room for them, and they were written.
    pub unsafe fn inc_len(&mut self, additional: usize) {
        // SAFETY: By the function's contract.
        unsafe { self.0.set_len(self.0.len() + additional) };
    }

    /// Makes room for `additional` elements more.
    pub fn reserve(&mut self, additional: usize, flags: Flags) -> Result<(), AllocError> {
        let (len, cap) = (self.0.len(), self.0.capacity());
        if cap - len >= additional || size_of::<T>() == 0 {
            return Ok(());
        }
        let want = len.checked_add(additional).ok_or(AllocError)?.max(cap * 2);
        let bytes = want.checked_mul(size_of::<T>()).ok_or(AllocError)?;
        if bytes > isize::MAX as usize {
            return Err(AllocError);
        }
        let what = core::any::type_name::<Self>();
        machine::may_allocate(bytes, flags, what)?;
        let old = place(&self.0);
        self.0
            .try_reserve_exact(want - len)
            .map_err(|_| AllocError)?;
        if let Some(old) = old {
            machine::freed(old);
        }
        machine::allocated(self.0.as_ptr() as usize, bytes, what);
        Ok(())
    }

    /// Appends `v`.
    pub fn push(&mut self, v: T, flags: Flags) -> Result<(), AllocError> {
        self.reserve(1, flags)?;
        self.0.push(v);
        Ok(())
    }

    /// Appends `v`, or gives it back if there is no room.
    pub fn push_within_capacity(&mut self, v: T) -> Result<(), PushError<T>> {
        if self.0.len() == self.0.capacity() {
            return Err(PushError(v));
        }
        self.0.push(v);
        Ok(())
    }

    /// Puts `element` in at `index`, or gives it back if there is no room or no such place.
    pub fn insert_within_capacity(
        &mut self,
        index: usize,
        element: T,
    ) -> Result<(), InsertError<T>> {
        if index > self.0.len() {
            return Err(InsertError::IndexOutOfBounds(element));
        }
        if self.0.len() == self.0.capacity() {
            return Err(InsertError::OutOfCapacity(element));
        }
        self.0.insert(index, element);
        Ok(())
    }

    /// Takes the last.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Takes the one at `i`.
    pub fn remove(&mut self, i: usize) -> Result<T, RemoveError> {
        if i >= self.0.len() {
            return Err(RemoveError);
        }
        Ok(self.0.remove(i))
    }

    /// Drops all, and keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Drops those from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Takes all, and keeps the memory.
    pub fn drain_all(&mut self) -> std::vec::Drain<'_, T> {
        self.0.drain(..)
    }

    /// Drops those for which `f` is false.
    pub fn retain(&mut self, f: impl FnMut(&mut T) -> bool) {
        self.0.retain_mut(f);
    }
}

impl<T: Clone, A> Vec<T, A> {
    /// Appends `n` times `value`.
    pub fn extend_with(&mut self, n: usize, value: T, flags: Flags) -> Result<(), AllocError> {
        if n == 0 {
            return Ok(());
        }
        self.reserve(n, flags)?;
        self.0.extend(core::iter::repeat_n(value, n));
        Ok(())
    }

    /// Appends clones of `other`.
    pub fn extend_from_slice(&mut self, other: &[T], flags: Flags) -> Result<(), AllocError> {
        self.reserve(other.len(), flags)?;
        self.0.extend_from_slice(other);
        Ok(())
    }

    /// `n` times `value`.
    pub fn from_elem(value: T, n: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut v = Self::with_capacity(n, flags)?;
        v.extend_with(n, value, flags)?;
        Ok(v)
    }

    /// Makes it `new_len` long, with `value` for what is new.
    pub fn resize(&mut self, new_len: usize, value: T, flags: Flags) -> Result<(), AllocError> {
        match new_len.checked_sub(self.0.len()) {
            Some(n) => self.extend_with(n, value, flags),
            None => {
                self.truncate(new_len);
                Ok(())
            }
        }
    }
}

impl<T, A> Drop for Vec<T, A> {
    fn drop(&mut self) {
        if let Some(place) = place(&self.0) {
            machine::freed(place);
        }
    }
}

impl<T, A> Default for Vec<T, A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, A> Deref for Vec<T, A> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, A> DerefMut for Vec<T, A> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T: fmt::Debug, A> fmt::Debug for Vec<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T, U, A> PartialEq<Vec<U, A>> for Vec<T, A>
where
    T: PartialEq<U>,
{
    fn eq(&self, other: &Vec<U, A>) -> bool {
        self.0 == other.0
    }
}

impl<T: Eq, A> Eq for Vec<T, A> {}

impl<T: PartialEq<U>, U, A> PartialEq<&[U]> for Vec<T, A> {
    fn eq(&self, other: &&[U]) -> bool {
        self.0 == *other
    }
}

impl<T: PartialEq<U>, U, A> PartialEq<[U]> for Vec<T, A> {
    fn eq(&self, other: &[U]) -> bool {
        self.0 == other
    }
}

impl<'a, T, A> IntoIterator for &'a Vec<T, A> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a, T, A> IntoIterator for &'a mut Vec<T, A> {
    type Item = &'a mut T;
    type IntoIter = core::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut()
    }
}

/// The elements of a vector by value; the memory goes with it.
pub struct IntoIter<T>(std::vec::IntoIter<T>, Option<usize>);

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<T> Drop for IntoIter<T> {
    fn drop(&mut self) {
        if let Some(place) = self.1 {
            machine::freed(place);
        }
    }
}

impl<T, A> IntoIterator for Vec<T, A> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        let place = place(&self.0);
        let mut this = core::mem::ManuallyDrop::new(self);
        IntoIter(core::mem::take(&mut this.0).into_iter(), place)
    }
}

/// There was no room; with what was to be pushed.
#[derive(Debug)]
pub struct PushError<T>(pub T);

impl<T> From<PushError<T>> for crate::error::Error {
    fn from(_: PushError<T>) -> Self {
        crate::error::code::EINVAL
    }
}

/// There was no room, or no such place; with what was to be put in.
#[derive(Debug)]
pub enum InsertError<T> {
    /// No such place.
    IndexOutOfBounds(T),
    /// No room.
    OutOfCapacity(T),
}

impl<T> From<InsertError<T>> for crate::error::Error {
    fn from(_: InsertError<T>) -> Self {
        crate::error::code::EINVAL
    }
}

/// There is no such element.
#[derive(Debug)]
pub struct RemoveError;

impl From<RemoveError> for crate::error::Error {
    fn from(_: RemoveError) -> Self {
        crate::error::code::EINVAL
    }
}

/// A type that may be all zeroes.
///
/// # Safety
///
/// Zeroes are a valid value.
pub unsafe trait Zeroable {}

macro_rules! zeroable {
    ($($t:ty),*) => {
        $(
            // SAFETY: Zero is a number.
            unsafe impl Zeroable for $t {}
        )*
    };
}
zeroable!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);
// SAFETY: As its elements.
unsafe impl<T: Zeroable, const N: usize> Zeroable for [T; N] {}
