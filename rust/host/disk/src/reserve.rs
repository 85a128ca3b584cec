// SPDX-License-Identifier: GPL-2.0

//! Everybody is the user 0 here, without capabilities.

/// Whether the calling thread may use blocks that are kept for `uid`.
pub fn may_use_reserve(uid: u32, _gid: u32) -> bool {
    uid == 0
}
