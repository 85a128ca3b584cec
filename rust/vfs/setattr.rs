// SPDX-License-Identifier: GPL-2.0

//! Changing the attributes of an inode: `setattr`, `update_time`, and what `chattr` does.
//!
//! The file system's inode is the truth, and the VFS inode its mirror: an operation changes the first,
//! and copies the attributes into the second when it is done ([`refresh`]). Times are no exception:
//! every change of one is a transaction, which costs no IO of its own. So there is nothing in a VFS
//! inode that has yet to be written, and `lazytime` has no effect.
//!
//! # Concurrency
//!
//! The caller has the inode's lock, but for `update_time`, which comes with or without it. Two who
//! copy attributes at the same time do so one after the other: each reads them under `i_lock`.

use crate::attr::Time;
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
use upcall::block_on;
use upcall_bindings as ub;

/// Attributes that are to change.
#[derive(Clone, Copy, Default)]
pub struct SetAttr {
    /// Permissions; the bits of the type do not count.
    pub mode: Option<u16>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The project.
    pub project: Option<u32>,
    /// `FS_*_FL`.
    pub flags: Option<u32>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of the contents.
    pub mtime: Option<Time>,
    /// Last change of the inode.
    pub ctime: Option<Time>,
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
        let now = unsafe { now(inode.as_ptr()) };
        let mut set = SetAttr {
            mode: has(ub::ATTR_MODE).then_some(wanted.mode),
            uid: has(ub::ATTR_UID).then_some(wanted.uid),
            gid: has(ub::ATTR_GID).then_some(wanted.gid),
            atime: has(ub::ATTR_ATIME).then_some(time(wanted.atime)),
            mtime: has(ub::ATTR_MTIME).then_some(time(wanted.mtime)),
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
        block_on(pinned(|| {
            inode.volume().set_attributes(inode.info(), &set)
        })?)??;
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
        let (inode, now) = unsafe { (Inode::<F>::new(inode), now(inode)) };
        let set = match what {
            ub::fs_update_time_FS_UPD_ATIME => SetAttr {
                atime: Some(now),
                ..SetAttr::default()
            },
            _ => SetAttr {
                mtime: Some(now),
                ctime: Some(now),
                ..SetAttr::default()
            },
        };
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
            ctime: Some(unsafe { now(inode.as_ptr()) }),
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
