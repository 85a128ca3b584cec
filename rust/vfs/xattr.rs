// SPDX-License-Identifier: GPL-2.0

//! Extended attributes and access control lists for the VFS.

use crate::fs::{FileSystem, XattrNamespace};
use crate::inode::{result_pointer, Inode};
use core::marker::PhantomData;
use core::ptr::null_mut;
use kernel::error::from_result;
use kernel::ffi::{c_char, c_int, c_void};
use kernel::prelude::*;
use upcall::block_on;
use upcall_bindings as ub;

/// A table of pointers to handlers, which ends with a null pointer.
struct Table<const N: usize>([*const ub::xattr_handler; N]);

// SAFETY: The table and what it points to are constant.
unsafe impl<const N: usize> Sync for Table<N> {}

/// The functions that C calls.
struct Ops<F>(PhantomData<F>);

impl<F: FileSystem> Ops<F> {
    const fn handler(prefix: &'static CStr, namespace: XattrNamespace) -> ub::xattr_handler {
        ub::xattr_handler {
            prefix: prefix.to_bytes_with_nul().as_ptr(),
            flags: namespace as c_int,
            get: Some(Self::get),
            // SAFETY: Zero is what the C initialisers leave there.
            ..unsafe { core::mem::zeroed() }
        }
    }

    const USER: &'static ub::xattr_handler = &Self::handler(c"user.", XattrNamespace::User);
    const TRUSTED: &'static ub::xattr_handler =
        &Self::handler(c"trusted.", XattrNamespace::Trusted);
    const SECURITY: &'static ub::xattr_handler =
        &Self::handler(c"security.", XattrNamespace::Security);
    const GNU: &'static ub::xattr_handler = &Self::handler(c"gnu.", XattrNamespace::Gnu);

    const HANDLERS: &'static Table<5> = &Table([
        Self::USER,
        Self::TRUSTED,
        Self::SECURITY,
        Self::GNU,
        core::ptr::null(),
    ]);

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn get(
        handler: *const ub::xattr_handler,
        _dentry: *mut ub::dentry,
        inode: *mut ub::inode,
        name: *const c_char,
        buffer: *mut c_void,
        size: usize,
    ) -> c_int {
        from_result(|| {
            // SAFETY: The VFS passes an inode of ours, one of our handlers, and a name.
            let (inode, flags, name) = unsafe {
                (
                    Inode::<F>::new(inode),
                    (*handler).flags,
                    CStr::from_char_ptr(name),
                )
            };
            let namespace = match flags {
                f if f == XattrNamespace::User as c_int => XattrNamespace::User,
                f if f == XattrNamespace::Trusted as c_int => XattrNamespace::Trusted,
                f if f == XattrNamespace::Gnu as c_int => XattrNamespace::Gnu,
                _ => XattrNamespace::Security,
            };
            let volume = inode.volume();
            let value = block_on(volume.xattr(inode.info(), namespace, name.to_bytes()))??;
            if !buffer.is_null() {
                if value.len() > size {
                    return Err(ERANGE);
                }
                // SAFETY: The VFS passes a buffer of `size` bytes.
                unsafe {
                    core::ptr::copy_nonoverlapping(value.as_ptr(), buffer.cast(), value.len())
                };
            }
            Ok(c_int::try_from(value.len())?)
        })
    }
}

pub(crate) fn handlers<F: FileSystem>() -> *const *const ub::xattr_handler {
    Ops::<F>::HANDLERS.0.as_ptr()
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn list<F: FileSystem>(
    dentry: *mut ub::dentry,
    buffer: *mut c_char,
    size: usize,
) -> isize {
    let result = (|| {
        // SAFETY: The VFS passes a dentry of ours.
        let inode = unsafe { Inode::<F>::new((*dentry).d_inode) };
        let volume = inode.volume();
        // SAFETY: Only looks at the current thread's credentials.
        let trusted = unsafe { ub::capable(ub::CAP_SYS_ADMIN as c_int) };
        let mut names = KVec::<u8>::new();
        block_on(volume.list_xattr(inode.info(), &mut |namespace, name| {
            if trusted || namespace != XattrNamespace::Trusted {
                names.extend_from_slice(namespace.prefix().as_bytes(), GFP_KERNEL)?;
                names.extend_from_slice(name, GFP_KERNEL)?;
                names.push(0, GFP_KERNEL)?;
            }
            Ok(())
        }))??;
        if !buffer.is_null() {
            if names.len() > size {
                return Err(ERANGE);
            }
            // SAFETY: The VFS passes a buffer of `size` bytes.
            unsafe { core::ptr::copy_nonoverlapping(names.as_ptr(), buffer.cast(), names.len()) };
        }
        Ok(names.len() as isize)
    })();
    result.unwrap_or_else(|error| error.to_errno() as isize)
}

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
