// SPDX-License-Identifier: GPL-2.0

//! Who may use blocks that are kept for those with privilege.

use upcall_bindings as ub;

/// Whether the calling thread is of the user `uid`, or of the group `gid` unless that is root's, or
/// has `CAP_SYS_RESOURCE`. Threads of the kernel have. Process context.
///
/// C header: [`include/linux/capability.h`](srctree/include/linux/capability.h).
pub fn may_use_reserve(uid: u32, gid: u32) -> bool {
    // SAFETY: Process context.
    unsafe { ub::upcall_may_use_reserve(uid, gid) }
}
