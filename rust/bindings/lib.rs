// SPDX-License-Identifier: GPL-2.0

//! C bindings that the `kernel` crate lacks.
//!
//! `bindings.h` lists the headers, and `bindgen_parameters` what is taken from them. `helpers.h`
//! declares functions of ours. Those that stand for the static inlines and macros of a header are in
//! a file of that name (`blkdev.c`, `fs.c`, `sched.c`, …).
//!
//! A C type that the `kernel` crate binds too has one layout and two Rust names. The crates above
//! use the names of this crate and cast pointers where they meet the `kernel` crate.

// The file is generated.
#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
#![cfg_attr(CONFIG_RUSTC_HAS_UNNECESSARY_TRANSMUTES, allow(unnecessary_transmutes))]

use kernel::ffi;
use pin_init::{MaybeZeroable, Zeroable};

// Blocked by the kernel's parameters, which map them so.
type __kernel_size_t = usize;
type __kernel_ssize_t = isize;
type __kernel_ptrdiff_t = isize;

// SAFETY: `__BindgenBitfieldUnit<Storage>` is a newtype around `Storage`.
unsafe impl<Storage> Zeroable for __BindgenBitfieldUnit<Storage> where Storage: Zeroable {}

include!(env!("UPCALL_BINDINGS"));

/// Whether somebody listens to the tracepoint with this key. One to which nobody does is a `nop`. Any
/// context.
#[macro_export]
macro_rules! listened {
    ($key:ident) => {{
        #[cfg(CONFIG_JUMP_LABEL)]
        // SAFETY: It is the key of a tracepoint, which C defined.
        unsafe {
            kernel::jump_label::arch_static_branch!($crate::$key, $crate::tracepoint, key, false)
        }
        #[cfg(not(CONFIG_JUMP_LABEL))]
        // SAFETY: As above. Without jump labels a key is a count, which changes at any time.
        unsafe {
            (&raw const $crate::$key.key.key.enabled.counter).read_volatile() > 0
        }
    }};
}

/// Calls a function of C, whose arguments are as it declares them, if somebody listens to the
/// tracepoint with this key.
#[macro_export]
macro_rules! trace {
    ($key:ident, $function:ident($($argument:expr),* $(,)?)) => {
        if $crate::listened!($key) {
            // SAFETY: The arguments are what the C declaration says.
            unsafe { $crate::$function($($argument),*) };
        }
    };
}
