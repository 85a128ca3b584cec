// SPDX-License-Identifier: GPL-2.0

//! Dentries that changes past the VFS have made wrong.
//!
//! A directory's VFS inode has a version, which changes whenever somebody changed the directory's
//! names who does not come by the VFS. A dentry keeps the version that the directory had before it
//! was searched for the name. As long as both are the same the dentry is right: the cost is a
//! comparison. Otherwise the name is looked up again, and if it leads where the dentry leads that
//! keeps the new version.
//!
//! # Concurrency
//!
//! The version changes after the names have, and before the change is over for its caller. A search
//! that began before either finds the new names or has kept the old version. What the VFS itself
//! changes is right in its dentries: it holds the locks of both, and the file system finds each
//! name again, and fails with `ESTALE` if it does not lead where the dentry does. Then the VFS
//! comes again with `LOOKUP_REVAL`, which asks for a look-up whatever the version is.
//!
//! A path walk under RCU may have a directory that is being evicted: it uses nothing but the VFS
//! inode's memory, and leaves a search to the walk with references.

use crate::dir::name_bytes;
use crate::fs::FileSystem;
use crate::inode::Inode;
use core::marker::PhantomData;
use kernel::container_of;
use kernel::ffi::{c_int, c_uint, c_ulong};
use kernel::prelude::*;
use upcall::atomic::{Acquire, Atomic, Relaxed};
use upcall::block_on;
use upcall_bindings as ub;

/// The version that the names of a directory have, before it is searched.
///
/// # Safety
///
/// `dir` is a directory of ours whose memory stays.
#[inline(always)]
pub(crate) unsafe fn names_version(dir: *mut ub::inode) -> c_ulong {
    let dir = container_of!(dir, ub::upcall_inode, inode);
    // SAFETY: By the function's contract. C writes the field in one go.
    unsafe { Atomic::from_ptr(&raw mut (*dir).names) }.load(Acquire)
}

/// The functions that C calls.
struct Ops<F>(PhantomData<F>);

impl<F: FileSystem> Ops<F> {
    const OPERATIONS: &'static ub::dentry_operations = &ub::dentry_operations {
        d_revalidate: Some(Self::revalidate),
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    };

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn revalidate(
        dir: *mut ub::inode,
        name: *const ub::qstr,
        dentry: *mut ub::dentry,
        flags: c_uint,
    ) -> c_int {
        // SAFETY: The VFS passes a directory of ours, whose memory RCU or a reference keeps, and a
        // dentry in it.
        unsafe {
            let version = names_version(dir);
            let kept = Atomic::from_ptr(&raw mut (*dentry).d_time).load(Relaxed);
            let fresh = kept == version;
            if fresh && flags & ub::LOOKUP_REVAL as c_uint == 0 {
                return 1;
            }
            if flags & ub::LOOKUP_RCU as c_uint != 0 {
                return ECHILD.to_errno();
            }
            Self::search(dir, name, dentry, version)
        }
    }

    /// Looks a name up again. Not in the caller, which would have the frame of the look-up on every
    /// step of a path walk.
    ///
    /// # Safety
    ///
    /// As [`revalidate`](Self::revalidate), with references instead of RCU, and the version that
    /// the directory had before.
    #[inline(never)]
    unsafe fn search(
        dir: *mut ub::inode,
        name: *const ub::qstr,
        dentry: *mut ub::dentry,
        version: c_ulong,
    ) -> c_int {
        // SAFETY: By the function's contract.
        unsafe {
            let dir = Inode::<F>::new(dir);
            let found = block_on(dir.volume().lookup(dir.info(), name_bytes(name)));
            match found.and_then(|found| found) {
                Ok(found) if found.map_or(0, u64::from) == ub::upcall_dentry_ino(dentry) => {
                    ub::upcall_dentry_set_version(dentry, version);
                    1
                }
                Ok(_) => 0,
                Err(error) => error.to_errno(),
            }
        }
    }
}

pub(crate) fn operations<F: FileSystem>() -> &'static ub::dentry_operations {
    Ops::<F>::OPERATIONS
}
