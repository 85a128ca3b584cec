// SPDX-License-Identifier: GPL-2.0

//! Strings of C.

use core::ffi::CStr;

/// What the kernel adds to `core`'s `CStr`.
pub trait CStrExt {
    /// Wraps a C string.
    ///
    /// # Safety
    ///
    /// `ptr` points to a string with a zero at its end, which stays as it is for the lifetime.
    unsafe fn from_char_ptr<'a>(ptr: *const u8) -> &'a Self;

    /// The start of the string.
    fn as_char_ptr(&self) -> *const u8;
}

impl CStrExt for CStr {
    unsafe fn from_char_ptr<'a>(ptr: *const u8) -> &'a Self {
        // SAFETY: By the function's contract.
        unsafe { CStr::from_ptr(ptr.cast()) }
    }

    fn as_char_ptr(&self) -> *const u8 {
        self.as_ptr().cast()
    }
}

/// A string literal of C.
#[macro_export]
macro_rules! c_str {
    ($str:literal) => {{
        const S: &str = concat!($str, "\0");
        const C: &core::ffi::CStr = match core::ffi::CStr::from_bytes_with_nul(S.as_bytes()) {
            Ok(v) => v,
            Err(_) => panic!("a zero in a C string"),
        };
        C
    }};
}
