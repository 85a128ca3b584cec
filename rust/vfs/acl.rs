// SPDX-License-Identifier: GPL-2.0

//! Access control lists for the VFS.

use crate::fs::FileSystem;
use crate::inode::{refresh, result_pointer, Inode};
use crate::namei::entries;
use crate::setattr::sync_if_asked;
use core::ptr::null_mut;
use disk::pinned;
use kernel::error::{from_result, to_result};
use kernel::ffi::c_int;
use kernel::prelude::*;
use upcall::block_on;
use upcall_bindings as ub;

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn get_inode_acl<F: FileSystem>(
    inode: *mut ub::inode,
    kind: c_int,
    rcu: bool,
) -> *mut ub::posix_acl {
    if rcu {
        // A path walk that must not sleep comes again.
        return ECHILD.to_ptr();
    }
    // SAFETY: The VFS passes an inode of ours.
    let inode = unsafe { Inode::<F>::new(inode) };
    result_pointer((|| {
        let default = kind as u32 == ub::ACL_TYPE_DEFAULT;
        let Some(entries) = block_on(inode.volume().acl(inode.info(), default))?? else {
            return Ok(null_mut());
        };
        // SAFETY: The list is ours until it is returned, and has room for all entries.
        unsafe {
            let acl = ub::posix_acl_alloc(entries.len() as u32, ub::UPCALL_GFP_NOFS);
            if acl.is_null() {
                return Err(ENOMEM);
            }
            for (i, entry) in entries.iter().enumerate() {
                ub::upcall_acl_set(acl, i as u32, entry.tag as i16, entry.perm, entry.id);
            }
            Ok(acl)
        }
    })())
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn set_acl<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    dentry: *mut ub::dentry,
    acl: *mut ub::posix_acl,
    kind: c_int,
) -> c_int {
    from_result(|| {
        let default = kind as u32 == ub::ACL_TYPE_DEFAULT;
        // SAFETY: The VFS passes a dentry of ours, whose inode is locked.
        let raw = unsafe { (*dentry).d_inode };
        // SAFETY: As above.
        let inode = unsafe { Inode::<F>::new(raw) };
        let (mut acl, mut mode) = (acl, None);
        if !default && !acl.is_null() {
            // A list that the permission bits can stand for is not kept.
            // SAFETY: The inode is locked, and the list is valid.
            unsafe {
                let (was, mut now) = ((*raw).i_mode, 0);
                to_result(ub::posix_acl_update_mode(idmap, raw, &mut now, &mut acl))?;
                mode = (now != was).then_some(now);
            }
        }
        // SAFETY: The list is valid.
        let entries = unsafe { entries(acl) }?;
        let (volume, info) = (inode.volume(), inode.info());
        let set = pinned(|| volume.set_acl(info, default, entries.as_deref(), mode))?;
        block_on(set)??;
        // SAFETY: The inode is locked, and the list is valid.
        unsafe { ub::set_cached_acl(raw, kind, acl) };
        refresh(&inode);
        sync_if_asked(&inode)?;
        Ok(0)
    })
}
