// SPDX-License-Identifier: GPL-2.0

//! Changing the attributes of an inode: `setattr`, `update_time`, and what `chattr` does.
//!
//! The file system's inode is the truth, and the VFS inode its mirror: an operation changes the
//! first, and copies the attributes into the second when it is done ([`refresh`]). Times are no
//! exception: every change of one is a transaction, which costs no IO of its own.
//!
//! With `lazytime` the VFS inode alone has a time that reading and writing give it, and
//! `sync_lazytime` tells the file system's: when the VFS thinks that it is time, which is at
//! `sync`, `fsync`, after half a day, and when the inode goes out of memory. Until then the later
//! time counts where attributes are copied. `setattr` writes it along.
//!
//! A change gets its time from the VFS inode ([`stamp`]): if somebody has looked at the one that it
//! has, it gets a finer one, so that he notices.
//!
//! # Concurrency
//!
//! The caller has the inode's lock, but for `update_time` and `sync_lazytime`, which come with or
//! without it. Two who
//! copy attributes at the same time do so one after the other: each reads them under `i_lock`.

use crate::attr::{SetAttr, Time};
use crate::fs::FileSystem;
use crate::inode::{refresh, Inode};
use crate::resize;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use disk::pinned;
use kernel::error::{from_result, to_result};
use kernel::ffi::{c_int, c_long, c_uint};
use kernel::prelude::*;
use upcall::{block_on, block_on_nofs};
use upcall_bindings as ub;

/// The time for a change of the inode that is made now.
///
/// # Safety
///
/// `inode` is a valid VFS inode.
unsafe fn stamp(inode: *mut ub::inode) -> Time {
    let mut now = ub::timespec64::default();
    // SAFETY: By the function's contract.
    unsafe { ub::upcall_inode_stamp(inode, &mut now) };
    time(now)
}

/// The times of a VFS inode.
///
/// # Safety
///
/// `inode` is a valid VFS inode.
unsafe fn times(inode: *mut ub::inode) -> [Time; 3] {
    let mut times = ub::upcall_times::default();
    // SAFETY: By the function's contract.
    unsafe { ub::upcall_inode_times(inode, &mut times) };
    [time(times.atime), time(times.mtime), time(times.ctime)]
}

/// The time of day, as the inode can have it.
///
/// # Safety
///
/// `inode` is a valid VFS inode.
pub(crate) unsafe fn now(inode: *mut ub::inode) -> Time {
    let mut now = ub::timespec64::default();
    // SAFETY: By the function's contract.
    unsafe { ub::upcall_current_time(inode, &mut now) };
    time(now)
}

fn time(from: ub::timespec64) -> Time {
    Time {
        secs: from.tv_sec,
        nanos: from.tv_nsec as u32,
    }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn setattr<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    dentry: *mut ub::dentry,
    attr: *mut ub::iattr,
) -> c_int {
    from_result(|| {
        let mut wanted = ub::upcall_setattr::default();
        // SAFETY: The VFS passes a dentry of ours, whose inode is locked, and what is wanted of it.
        let inode = unsafe {
            to_result(ub::upcall_setattr_prepare(idmap, dentry, attr, &mut wanted))?;
            Inode::<F>::new((*dentry).d_inode)
        };
        let has = |what: u32| wanted.valid & what != 0;
        // SAFETY: The inode is valid.
        let now = unsafe { stamp(inode.as_ptr()) };
        let given = |set: u32, at: ub::timespec64| if has(set) { time(at) } else { now };
        let mut set = SetAttr {
            mode: has(ub::ATTR_MODE).then_some(wanted.mode),
            uid: has(ub::ATTR_UID).then_some(wanted.uid),
            gid: has(ub::ATTR_GID).then_some(wanted.gid),
            atime: has(ub::ATTR_ATIME).then_some(given(ub::ATTR_ATIME_SET, wanted.atime)),
            mtime: has(ub::ATTR_MTIME).then_some(given(ub::ATTR_MTIME_SET, wanted.mtime)),
            // A ctime of the caller's choice is for the kernel's own NFS server with delegations.
            ctime: has(ub::ATTR_CTIME).then_some(now),
            ..SetAttr::default()
        };
        if has(ub::ATTR_SIZE) {
            // SAFETY: The inode is locked by the caller.
            let changed = unsafe { resize::set_size::<F>(inode.as_ptr(), wanted.size) }?;
            if changed {
                set.mtime = set.mtime.or(Some(now));
                set.ctime = Some(now);
            }
        }
        // SAFETY: The inode is valid.
        let lazy = unsafe { ub::upcall_lazy_take(inode.as_ptr()) };
        if lazy {
            // SAFETY: As above.
            let [atime, mtime, _] = unsafe { times(inode.as_ptr()) };
            set.atime = set.atime.or(Some(atime));
            set.mtime = set.mtime.or(Some(mtime));
        }
        let changed = set_attributes(&inode, &set);
        if changed.is_err() && lazy {
            // SAFETY: As above.
            unsafe { ub::upcall_lazy_put(inode.as_ptr()) };
        }
        changed?;
        refresh(&inode);
        if has(ub::ATTR_MODE) && F::HAS_SET_ACL {
            // An access control list has the permission bits, too.
            // SAFETY: The inode is locked by the caller.
            to_result(unsafe { ub::posix_acl_chmod(idmap, dentry, (*inode.as_ptr()).i_mode) })?;
        }
        sync_if_asked(&inode)?;
        Ok(0)
    })
}

/// Changes attributes of the file system's inode. In a frame of its own, which the rest of a
/// `setattr` does not lie on: the future is there, since `tar` changes attributes three times for
/// each file, and memory for a future costs as much as the change.
#[inline(never)]
fn set_attributes<F: FileSystem>(inode: &Inode<'_, F>, set: &SetAttr) -> Result {
    block_on(inode.volume().set_attributes(inode.info(), set))?
}

/// Waits for the disk, if the inode was mounted or marked for that.
pub(crate) fn sync_if_asked<F: FileSystem>(inode: &Inode<'_, F>) -> Result {
    // SAFETY: The inode is valid.
    if unsafe { ub::upcall_inode_is_sync(inode.as_ptr()) } {
        block_on(inode.volume().sync_inode(inode.info(), false))??;
    }
    Ok(())
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn update_time<F: FileSystem>(
    inode: *mut ub::inode,
    what: ub::fs_update_time,
    flags: c_uint,
) -> c_int {
    from_result(|| {
        // SAFETY: The VFS passes an inode of ours.
        match unsafe { ub::upcall_lazy_time(inode, what, flags) } {
            0 => {}
            lazy => return to_result(lazy.min(0)).map(|()| 0),
        }
        // SAFETY: As above.
        let set = unsafe {
            match what {
                ub::fs_update_time_FS_UPD_ATIME => SetAttr {
                    atime: Some(now(inode)),
                    ..SetAttr::default()
                },
                _ => {
                    let now = stamp(inode);
                    SetAttr {
                        mtime: Some(now),
                        ctime: Some(now),
                        ..SetAttr::default()
                    }
                }
            }
        };
        // SAFETY: As above.
        let inode = unsafe { Inode::<F>::new(inode) };
        let change = pinned(|| inode.volume().set_attributes(inode.info(), &set))?;
        if flags & ub::UPCALL_IOCB_NOWAIT as c_uint != 0 {
            at_once(change).ok_or(EAGAIN)??;
        } else {
            block_on(change)??;
        }
        refresh(&inode);
        Ok(0)
    })
}

/// Writes times that the VFS inode alone has. Process context, also from memory reclaim.
///
/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn sync_lazytime<F: FileSystem>(inode: *mut ub::inode) {
    // SAFETY: The VFS passes an inode of ours, with a reference.
    let (inode, [atime, mtime, ctime]) = unsafe { (Inode::<F>::new(inode), times(inode)) };
    let set = SetAttr {
        atime: Some(atime),
        mtime: Some(mtime),
        ctime: Some(ctime),
        ..SetAttr::default()
    };
    // Nobody is told of an error: the times are lost, as they would be by a loss of power.
    let change = pinned(|| inode.volume().set_attributes(inode.info(), &set));
    let _ = change.map(block_on_nofs);
}

/// The result of a future, if it is there without a wait; otherwise the future is dropped.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn fileattr_set<F: FileSystem>(
    _idmap: *mut ub::mnt_idmap,
    dentry: *mut ub::dentry,
    fa: *mut ub::file_kattr,
) -> c_int {
    from_result(|| {
        // SAFETY: The VFS passes a dentry of ours, whose inode is locked, and what is wanted of it.
        let (inode, flags, project) = unsafe {
            let raw = (*dentry).d_inode;
            (Inode::<F>::new(raw), (*fa).flags, (*fa).fsx_projid)
        };
        let set = SetAttr {
            flags: Some(flags),
            project: Some(project),
            // SAFETY: The inode is valid.
            ctime: Some(unsafe { stamp(inode.as_ptr()) }),
            ..SetAttr::default()
        };
        block_on(pinned(|| {
            inode.volume().set_attributes(inode.info(), &set)
        })?)??;
        refresh(&inode);
        sync_if_asked(&inode)?;
        Ok(0)
    })
}

/// A time for C.
pub(crate) fn timespec(time: Time) -> ub::timespec64 {
    ub::timespec64 {
        tv_sec: time.secs,
        tv_nsec: time.nanos as c_long,
    }
}
