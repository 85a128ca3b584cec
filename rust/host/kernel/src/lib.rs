// SPDX-License-Identifier: GPL-2.0

//! The `kernel` crate, as far as Upcall's crates use it, on the host.
//!
//! Names, signatures and fallibility are those of the kernel, so that the shipping sources are
//! compiled as they are. What allocates may fail, and does when a test says so; what may sleep
//! complains in a context where it may not.
//!
//! Behind it is the [`machine`], which the kernel does not have: it decides by a seed what runs
//! next, keeps a virtual clock, and counts what was allocated.

#![feature(coerce_unsized, unsize)]

pub mod alloc;
pub mod block;
pub mod error;
pub mod init;
pub mod machine;
pub mod page;
pub mod prelude;
pub mod print;
pub mod rbtree;
pub mod str;
pub mod sync;
pub mod types;

pub use core::fmt;
pub use kernel_macros as macros;

/// C types, as the kernel has them.
pub mod ffi {
    pub use core::ffi::{c_int, c_long, c_uint, c_ulong, c_void, CStr};
    /// Unsigned, as everywhere in the kernel.
    #[allow(non_camel_case_types)]
    pub type c_char = u8;
}

/// C types that are looked at through pointers alone.
pub mod bindings {
    pub use crate::block::block_device;
    pub use crate::page::page;

    /// `log2` of the size of a sector.
    pub const SECTOR_SHIFT: u32 = 9;
}
