// SPDX-License-Identifier: GPL-2.0

//! What the crate takes from its surroundings, so that the same source runs in the kernel and on
//! the host.
//!
//! | item | in the kernel | on the host |
//! |---|---|---|
//! | [`IrqLock`] | `spinlock_t`, taken with interrupts off | a mutex |
//! | [`alloc_block`], [`free_block`] | a page, or a part of one from `kmalloc` | the global allocator |
//! | [`segment`] | the page that memory lies in | the memory |
//! | [`print`] | `printk` | the standard error output |
//! | [`RateLimit`] | `struct ratelimit_state` | no limit |

#[cfg(MODULE)]
mod linux;
#[cfg(MODULE)]
pub(crate) use linux::*;

#[cfg(not(MODULE))]
#[path = "../../host/disk/src/sys.rs"]
mod host;
#[cfg(not(MODULE))]
pub(crate) use host::*;
