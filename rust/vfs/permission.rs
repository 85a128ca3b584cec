// SPDX-License-Identifier: GPL-2.0

//! What credentials permit: mode bits, access control lists and capabilities, without a VFS inode.
//!
//! The rules are those of the VFS's `generic_permission()` for a mount that maps no users, in the first user
//! namespace. C header: [`include/linux/cred.h`](srctree/include/linux/cred.h).

use crate::acl_entry::AclEntry;
use crate::attr::Attr;
use core::ptr::{from_ref, NonNull};
use kernel::cred::Credential;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use upcall_bindings as ub;

/// What is to be done with an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u32);

impl Access {
    /// Find names in a directory, or execute a file.
    pub const EXECUTE: Self = Self(1);
    /// Write, or change the names in a directory.
    pub const WRITE: Self = Self(2);
    /// Read, or list a directory.
    pub const READ: Self = Self(4);
}

/// The credentials of the calling thread.
pub fn current_credentials() -> ARef<Credential> {
    // SAFETY: A thread has credentials, and the reference that was taken is ours.
    unsafe {
        let cred = ub::upcall_get_current_cred().cast_mut();
        ARef::from_raw(NonNull::new_unchecked(cred.cast()))
    }
}

/// Whether `credentials` permit `access` to the inode with attributes `attr` and the list `acl`, if it has one.
///
/// Fails with `EACCES` if not. Does not sleep.
pub fn permitted(
    credentials: &Credential,
    attr: &Attr,
    acl: Option<&[AclEntry]>,
    access: Access,
) -> Result {
    let acl = acl.unwrap_or(&[]);
    // SAFETY: The credentials are valid, and the entries as many as it says. An `AclEntry` is laid out as its
    // C twin.
    let permitted = unsafe {
        ub::upcall_permitted(
            from_ref(credentials).cast(),
            attr.uid,
            attr.gid,
            attr.mode,
            acl.as_ptr().cast(),
            acl.len() as u32,
            access.0,
        )
    };
    if permitted {
        Ok(())
    } else {
        Err(EACCES)
    }
}

/// A capability, by its number in `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(c_int);

impl Capability {
    /// Give files to others.
    pub const CHOWN: Self = Self(ub::CAP_CHOWN as c_int);
    /// Do what only the owner may.
    pub const FOWNER: Self = Self(ub::CAP_FOWNER as c_int);
    /// Keep or set the bits that give the rights of a group one is not in.
    pub const FSETID: Self = Self(ub::CAP_FSETID as c_int);
    /// Make files immutable, or such that are only appended to.
    pub const LINUX_IMMUTABLE: Self = Self(ub::CAP_LINUX_IMMUTABLE as c_int);
    /// Make devices.
    pub const MKNOD: Self = Self(ub::CAP_MKNOD as c_int);
    /// Give capabilities to files.
    pub const SETFCAP: Self = Self(ub::CAP_SETFCAP as c_int);
    /// Administrate the system.
    pub const SYS_ADMIN: Self = Self(ub::CAP_SYS_ADMIN as c_int);
}

/// Whether `credentials` have a capability. Does not sleep.
pub fn capable(credentials: &Credential, capability: Capability) -> bool {
    // SAFETY: The credentials are valid.
    unsafe { ub::upcall_cred_capable(from_ref(credentials).cast(), capability.0) }
}

/// Whether a group is one of the credentials'. Does not sleep.
pub fn in_group(credentials: &Credential, gid: u32) -> bool {
    // SAFETY: The credentials are valid.
    unsafe { ub::upcall_cred_in_group(from_ref(credentials).cast(), gid) }
}

/// The owner and the group of what somebody with these credentials makes. Does not sleep.
pub fn owners(credentials: &Credential) -> (u32, u32) {
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: The credentials are valid.
    unsafe { ub::upcall_cred_owners(from_ref(credentials).cast(), &mut uid, &mut gid) };
    (uid, gid)
}

/// Whether `credentials` have the capability to administrate the system, which `trusted.` attributes need.
pub fn is_admin(credentials: &Credential) -> bool {
    capable(credentials, Capability::SYS_ADMIN)
}

const _: () = assert!(size_of::<AclEntry>() == size_of::<ub::upcall_acl_entry>());
