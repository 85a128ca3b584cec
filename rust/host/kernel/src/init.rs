// SPDX-License-Identifier: GPL-2.0

//! Initialisation in place, which on the host is a value that is made and then put in its place:
//! nothing that the shim makes has a pointer to itself.

use crate::alloc::{AllocError, Flags};
use crate::error::{code::ENOMEM, Error};
use core::convert::Infallible;
use core::marker::PhantomData;

/// What makes a `T`.
pub trait PinInit<T, E = Infallible>: Sized {
    /// Makes it.
    fn __make(self) -> Result<T, E>;
}

/// What makes a `T` that may be moved.
pub trait Init<T, E = Infallible>: PinInit<T, E> {}
impl<T, E, I: PinInit<T, E>> Init<T, E> for I {}

impl<T, E> PinInit<T, E> for T {
    fn __make(self) -> Result<T, E> {
        Ok(self)
    }
}

/// The initializer that [`pin_init!`] makes.
#[doc(hidden)]
pub struct InitClosure<F, T: ?Sized, E>(F, PhantomData<(fn(*const E), Box<T>)>);

impl<F, T, E> InitClosure<F, T, E>
where
    F: FnOnce() -> Result<T, E>,
{
    #[doc(hidden)]
    pub fn new(f: F) -> Self {
        Self(f, PhantomData)
    }
}

impl<F, T, E> PinInit<T, E> for InitClosure<F, T, E>
where
    F: FnOnce() -> Result<T, E>,
{
    fn __make(self) -> Result<T, E> {
        (self.0)()
    }
}

/// The initializer that `f` is, of which nothing else is known.
#[doc(hidden)]
pub fn from_closure<T, E>(f: impl FnOnce() -> Result<T, E>) -> impl PinInit<T, E> {
    InitClosure::new(f)
}

/// Makes the value of one field.
#[doc(hidden)]
pub fn field<T, E>(init: impl PinInit<T, E>) -> Result<T, E> {
    init.__make()
}

/// Pointers that make memory for what an initializer makes.
pub trait InPlaceInit<T>: Sized {
    /// The pointer whose value stays where it is.
    type Pinned;

    /// Makes memory and then the value.
    fn try_pin_init<E: From<AllocError>>(
        init: impl PinInit<T, E>,
        flags: Flags,
    ) -> Result<Self::Pinned, E>;

    /// [`try_pin_init`](Self::try_pin_init), with an error number.
    fn pin_init<E>(init: impl PinInit<T, E>, flags: Flags) -> Result<Self::Pinned, Error>
    where
        Error: From<E>,
    {
        let init = InitClosure::new(|| init.__make().map_err(Failed::Init));
        Self::try_pin_init(init, flags).map_err(|failed| match failed {
            Failed::Memory => ENOMEM,
            Failed::Init(error) => error.into(),
        })
    }
}

enum Failed<E> {
    Memory,
    Init(E),
}

impl<E> From<AllocError> for Failed<E> {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

/// An initializer of a structure: `field: value`, or `field <- initializer`.
#[macro_export]
macro_rules! pin_init {
    ($t:ident $(::<$($g:ty),*>)? { $($body:tt)* } ? $err:ty) => {
        $crate::init::from_closure::<$t $(<$($g),*>)?, $err>(move || {
            $crate::__pin_init!([$t $(::<$($g),*>)?] $err; []; $($body)*)
        })
    };
    ($t:ident $(::<$($g:ty),*>)? { $($body:tt)* }) => {
        $crate::init::from_closure::<$t $(<$($g),*>)?, core::convert::Infallible>(move || {
            $crate::__pin_init!([$t $(::<$($g),*>)?] core::convert::Infallible; []; $($body)*)
        })
    };
}

/// [`pin_init!`], for fields that may fail with an error number.
#[macro_export]
macro_rules! try_pin_init {
    ($t:ident $(::<$($g:ty),*>)? { $($body:tt)* } ? $err:ty) => {
        $crate::pin_init!($t $(::<$($g),*>)? { $($body)* } ? $err)
    };
    ($t:ident $(::<$($g:ty),*>)? { $($body:tt)* }) => {
        $crate::pin_init!($t $(::<$($g),*>)? { $($body)* } ? $crate::error::Error)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __pin_init {
    ([$($t:tt)*] $err:ty; [$($done:tt)*]; $field:ident <- $value:expr, $($rest:tt)*) => {
        $crate::__pin_init!([$($t)*] $err;
            [$($done)* $field: $crate::init::field::<_, $err>($value)?,]; $($rest)*)
    };
    ([$($t:tt)*] $err:ty; [$($done:tt)*]; $field:ident <- $value:expr) => {
        $crate::__pin_init!([$($t)*] $err; [$($done)*]; $field <- $value,)
    };
    ([$($t:tt)*] $err:ty; [$($done:tt)*]; $field:ident : $value:expr, $($rest:tt)*) => {
        $crate::__pin_init!([$($t)*] $err; [$($done)* $field: $value,]; $($rest)*)
    };
    ([$($t:tt)*] $err:ty; [$($done:tt)*]; $field:ident : $value:expr) => {
        $crate::__pin_init!([$($t)*] $err; [$($done)*]; $field: $value,)
    };
    ([$($t:tt)*] $err:ty; [$($done:tt)*]; $field:ident, $($rest:tt)*) => {
        $crate::__pin_init!([$($t)*] $err; [$($done)* $field,]; $($rest)*)
    };
    ([$($t:tt)*] $err:ty; [$($done:tt)*]; $field:ident) => {
        $crate::__pin_init!([$($t)*] $err; [$($done)*]; $field,)
    };
    ([$($t:tt)*] $err:ty; [$($done:tt)*];) => {
        Ok::<_, $err>($($t)* { $($done)* })
    };
}
