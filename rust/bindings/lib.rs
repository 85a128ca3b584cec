// SPDX-License-Identifier: GPL-2.0

//! C bindings that the `kernel` crate lacks.
//!
//! `bindings.h` lists the headers, `bindgen_parameters` what is taken from them, and `helpers.c`
//! the static inlines and macros that have no symbol of their own.
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
