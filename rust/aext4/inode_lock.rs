// SPDX-License-Identifier: GPL-2.0

//! The locks of several inodes at once, in the order of their numbers.

use crate::inode_info::InodeInfo;
use kernel::prelude::*;
use layout::sort;
use upcall::WriteGuard;

/// How many inodes an operation locks at most: two directories, and what is in them.
pub(crate) const LOCKS_MAX: usize = 4;

/// The locks of some inodes, held to write.
pub(crate) struct InodeLocks<'a> {
    _locks: [Option<WriteGuard<'a, ()>>; LOCKS_MAX],
}

/// Takes the locks of these inodes, to write. One may be there several times.
///
/// # Cancellation
///
/// None is held.
pub(crate) async fn lock_inodes<'a>(
    mut inodes: [Option<&'a InodeInfo>; LOCKS_MAX],
) -> Result<InodeLocks<'a>> {
    // Those that are not there go to the front.
    sort::sort_by_key(&mut inodes, |info| info.map_or(0, |info| info.ino.0));
    let mut locks = [const { None }; LOCKS_MAX];
    let mut last = None;
    for (slot, info) in locks.iter_mut().zip(inodes) {
        if let Some(info) = info.filter(|info| last != Some(info.ino)) {
            *slot = Some(info.rwsem.write().await.map_err(|_| EIO)?);
            last = Some(info.ino);
        }
    }
    Ok(InodeLocks { _locks: locks })
}
