// SPDX-License-Identifier: GPL-2.0

//! What everybody imports.

pub use crate::alloc::{flags::*, KBox, KVBox, KVVec, KVec, VBox, VVec};
pub use crate::error::{code::*, Error, Result};
pub use crate::init::{InPlaceInit, Init, PinInit};
pub use crate::str::CStrExt as _;
pub use crate::{
    build_assert, fmt, pin_init, pr_debug, pr_err, pr_info, pr_notice, pr_warn, static_assert,
    try_pin_init,
};
pub use core::ffi::{c_int, c_long, c_uint, c_ulong, c_void, CStr};
pub use core::mem::{align_of, align_of_val, size_of, size_of_val};
pub use core::pin::Pin;
pub use kernel_macros::{pin_data, vtable};
