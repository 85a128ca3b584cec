// SPDX-License-Identifier: GPL-2.0

//! Extended attributes for the VFS.

use crate::acl_entry::AclEntry;
use crate::fs::{FileSystem, FileSystemType};
use crate::inode::{refresh, Inode};
use crate::setattr::sync_if_asked;
use crate::xattr_name::{XattrFlags, XattrNamespace};
use core::future::Future;
use core::marker::PhantomData;
use disk::pinned;
use kernel::error::{from_result, VTABLE_DEFAULT_ERROR};
use kernel::ffi::{c_char, c_int, c_void};
use kernel::prelude::*;
use upcall::block_on;
use upcall_bindings as ub;

/// What `xattr_handler` and access control lists need.
#[vtable]
pub trait XattrOperations: FileSystemType {
    /// The value of an attribute, whose name comes without the prefix; `ENODATA` if there is none, `EOPNOTSUPP` if
    /// the namespace is not to be had.
    fn xattr(
        &self,
        inode: &Self::Inode,
        namespace: XattrNamespace,
        name: &[u8],
    ) -> impl Future<Output = Result<KVec<u8>>> + Send;

    /// Calls `each` for the name of every attribute in a namespace that is to be had.
    fn list_xattr(
        &self,
        inode: &Self::Inode,
        each: &mut (dyn FnMut(XattrNamespace, &[u8]) -> Result + Send),
    ) -> impl Future<Output = Result> + Send;

    /// An access control list, or nothing; the list for new files of a directory if `default`.
    fn acl(
        &self,
        inode: &Self::Inode,
        default: bool,
    ) -> impl Future<Output = Result<Option<KVec<AclEntry>>>> + Send;

    /// Sets an attribute, or removes it if there is no value. The inode is locked by the caller.
    fn set_xattr(
        &self,
        _inode: &Self::Inode,
        _namespace: XattrNamespace,
        _name: &[u8],
        _value: Option<&[u8]>,
        _flags: XattrFlags,
    ) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Sets an access control list, or removes it if there are no entries, and the permission bits
    /// with it if there is a `mode`. The inode is locked by the caller.
    fn set_acl(
        &self,
        _inode: &Self::Inode,
        _default: bool,
        _entries: Option<&[AclEntry]>,
        _mode: Option<u16>,
    ) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }
}

/// The namespace of a handler.
fn namespace_of(flags: c_int) -> XattrNamespace {
    match flags {
        f if f == XattrNamespace::User as c_int => XattrNamespace::User,
        f if f == XattrNamespace::Trusted as c_int => XattrNamespace::Trusted,
        f if f == XattrNamespace::Gnu as c_int => XattrNamespace::Gnu,
        _ => XattrNamespace::Security,
    }
}

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
            set: present!(F::HAS_SET_XATTR, Self::set),
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
            let namespace = namespace_of(flags);
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

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn set(
        handler: *const ub::xattr_handler,
        _idmap: *mut ub::mnt_idmap,
        _dentry: *mut ub::dentry,
        inode: *mut ub::inode,
        name: *const c_char,
        value: *const c_void,
        size: usize,
        flags: c_int,
    ) -> c_int {
        from_result(|| {
            // SAFETY: The VFS passes an inode of ours that is locked, one of our handlers, a name,
            // and a value of `size` bytes or none.
            let (inode, namespace, name, value) = unsafe {
                let bytes = || core::slice::from_raw_parts(value.cast::<u8>(), size);
                (
                    Inode::<F>::new(inode),
                    namespace_of((*handler).flags),
                    CStr::from_char_ptr(name),
                    (!value.is_null()).then(bytes),
                )
            };
            let has = |flag: u32| flags & flag as c_int != 0;
            let flags = XattrFlags {
                create: has(ub::XATTR_CREATE),
                replace: has(ub::XATTR_REPLACE),
            };
            let (volume, info) = (inode.volume(), inode.info());
            let name = name.to_bytes();
            block_on(pinned(|| {
                volume.set_xattr(info, namespace, name, value, flags)
            })?)??;
            refresh(&inode);
            sync_if_asked(&inode)?;
            Ok(0)
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
