// SPDX-License-Identifier: GPL-2.0

//! The `kernel` crate of a tree that is older than what our crates are written for.
//!
//! Our crates are written for the `kernel` crate of the newest series. `compat.mk` looks at the
//! tree for what they use and an older one lacks, and sets a cfg for each (`lacks_errno` and so on).
//! If anything is lacking, this crate is built, and the others are given it under the name `kernel`:
//! it is the tree's own, with these few items added or changed. With the newest series it is not
//! built at all.

pub use ::kernel::*;

/// As `kernel::error`, with the constants that it lacks.
#[cfg(lacks_errno)]
pub mod error {
    pub use ::kernel::error::*;

    /// As `kernel::error::code`, with the constants that it lacks.
    pub mod code {
        pub use ::kernel::error::code::*;

        use ::kernel::bindings;
        use ::kernel::error::Error;
        use core::mem::transmute;
        use core::num::NonZeroI32;

        /// An error in a constant, for which the crate has no public function.
        const fn error(errno: u32) -> Error {
            let Some(errno) = NonZeroI32::new(-(errno as i32)) else {
                panic!("no error has the number 0");
            };
            // SAFETY: `Error` is a structure of one `NonZeroI32`, which is the negative number: were it
            // larger or smaller, this would not compile, and the assertion below looks at a value.
            unsafe { transmute::<NonZeroI32, Error>(errno) }
        }

        const _: () = {
            // SAFETY: `Error` is a structure of one `NonZeroI32`.
            let number = unsafe { transmute::<Error, NonZeroI32>(EINVAL) };
            assert!(number.get() == -(bindings::EINVAL as i32));
        };

        macro_rules! declare {
            ($($name:ident = $number:ident: $doc:literal;)*) => {
                $(
                    #[doc = $doc]
                    pub const $name: Error = error(bindings::$number);
                )*
            };
        }

        declare! {
            EBADMSG = EBADMSG: "Not a data message.";
            ECANCELED = ECANCELED: "Operation canceled.";
            EDEADLK = EDEADLK: "Resource deadlock would occur.";
            EDQUOT = EDQUOT: "Quota exceeded.";
            EFSBADCRC = EBADMSG: "Bad CRC detected.";
            EFSCORRUPTED = EUCLEAN: "Filesystem is corrupted.";
            EILSEQ = EILSEQ: "Illegal byte sequence.";
            ELOOP = ELOOP: "Too many symbolic links encountered.";
            ENAMETOOLONG = ENAMETOOLONG: "File name too long.";
            ENODATA = ENODATA: "No data available.";
            ENOKEY = ENOKEY: "Required key not available.";
            ENOLINK = ENOLINK: "Link has been severed.";
            ENOSYS = ENOSYS: "Invalid system call number.";
            ENOTEMPTY = ENOTEMPTY: "Directory not empty.";
            EOPNOTSUPP = EOPNOTSUPP: "Operation not supported on transport endpoint.";
            EREMOTEIO = EREMOTEIO: "Remote I/O error.";
            ESHUTDOWN = ESHUTDOWN: "Cannot send after transport endpoint shutdown.";
            ESTALE = ESTALE: "Stale file handle.";
            EUCLEAN = EUCLEAN: "Structure needs cleaning.";
        }
    }
}

/// As `kernel::prelude`, with what it lacks.
pub mod prelude {
    #[cfg(lacks_errno)]
    pub use super::error::code::*;
    #[cfg(lacks_restart)]
    pub use super::hrtimer_restart as _;
    #[cfg(lacks_zeroed)]
    pub use super::Zeroed as _;
    pub use ::kernel::prelude::*;
}

/// The constants of `bindings::hrtimer_restart`, which is a number and not a type of its own.
#[cfg(lacks_restart)]
#[expect(non_camel_case_types)]
pub trait hrtimer_restart {
    /// The timer is not started again.
    const HRTIMER_NORESTART: Self;
    /// It is.
    const HRTIMER_RESTART: Self;
}

#[cfg(lacks_restart)]
impl hrtimer_restart for ::kernel::bindings::hrtimer_restart {
    const HRTIMER_NORESTART: Self = ::kernel::bindings::hrtimer_restart_HRTIMER_NORESTART;
    const HRTIMER_RESTART: Self = ::kernel::bindings::hrtimer_restart_HRTIMER_RESTART;
}

/// `KVec::zeroed`.
#[cfg(lacks_zeroed)]
pub trait Zeroed: Sized {
    /// A vector of `n` zeroes.
    ///
    /// # Errors
    ///
    /// `AllocError` if there is no memory.
    fn zeroed(
        n: usize,
        flags: ::kernel::alloc::Flags,
    ) -> core::result::Result<Self, ::kernel::alloc::AllocError>;
}

#[cfg(lacks_zeroed)]
impl<T, A> Zeroed for ::kernel::alloc::Vec<T, A>
where
    T: ::kernel::prelude::Zeroable,
    A: ::kernel::alloc::Allocator,
{
    fn zeroed(
        n: usize,
        flags: ::kernel::alloc::Flags,
    ) -> core::result::Result<Self, ::kernel::alloc::AllocError> {
        let mut v = Self::with_capacity(n, flags | ::kernel::alloc::flags::__GFP_ZERO)?;
        // SAFETY: There is capacity for `n`, the length is 0, and the memory is zeroes, which are valid.
        unsafe { v.inc_len(n) };
        Ok(v)
    }
}

/// As `kernel::sync`, with barriers that are told their ordering.
#[cfg(lacks_ordering)]
pub mod sync {
    pub use ::kernel::sync::*;

    /// As `kernel::sync::barrier`.
    pub mod barrier {
        pub use ::kernel::sync::atomic::ordering::Full;
        pub use ::kernel::sync::barrier::{smp_rmb, smp_wmb};

        /// A barrier between CPUs. The only ordering that our crates ask for is [`Full`].
        #[inline(always)]
        pub fn smp_mb(_: Full) {
            ::kernel::sync::barrier::smp_mb();
        }
    }
}

/// As `kernel::module_param`, whose `value()` is a copy.
#[cfg(lacks_value)]
pub mod module_param {
    pub use ::kernel::module_param::*;

    /// A parameter of a module, made by `module!`.
    // The kernel writes to a parameter through a pointer to the tree's own type.
    #[repr(transparent)]
    pub struct ModuleParamAccess<T>(::kernel::module_param::ModuleParamAccess<T>);

    impl<T> ModuleParamAccess<T> {
        #[doc(hidden)]
        pub const fn new(default: T) -> Self {
            Self(::kernel::module_param::ModuleParamAccess::new(default))
        }

        /// The value that was given when the module was loaded, or the default.
        pub fn value(&self) -> T
        where
            T: Copy,
        {
            *self.0.value()
        }

        /// A reference to it.
        pub fn value_ref(&self) -> &T {
            self.0.value()
        }

        #[doc(hidden)]
        pub const fn as_void_ptr(&self) -> *mut ::kernel::ffi::c_void {
            self.0.as_void_ptr()
        }
    }
}
