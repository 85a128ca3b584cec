// SPDX-License-Identifier: GPL-2.0

//! An entry of an access control list.

use kernel::prelude::*;

// The tags of entries, as the kernel has them.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// An entry of an access control list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AclEntry {
    /// `ACL_USER_OBJ` and so on.
    pub tag: u16,
    /// Read 4, write 2, execute 1.
    pub perm: u16,
    /// The user or group, for the tags that have one.
    pub id: u32,
}

impl AclEntry {
    /// A list as `getxattr` gives it: `POSIX_ACL_XATTR_VERSION` and the entries, little-endian.
    ///
    /// C header: [`include/uapi/linux/posix_acl_xattr.h`](srctree/include/uapi/linux/posix_acl_xattr.h).
    pub fn to_xattr(acl: &[Self]) -> Result<KVec<u8>> {
        let mut bytes = KVec::new();
        bytes.extend_from_slice(&2u32.to_le_bytes(), disk::gfp())?;
        for entry in acl {
            let id = if entry.is_named() { entry.id } else { u32::MAX };
            bytes.extend_from_slice(&entry.tag.to_le_bytes(), disk::gfp())?;
            bytes.extend_from_slice(&entry.perm.to_le_bytes(), disk::gfp())?;
            bytes.extend_from_slice(&id.to_le_bytes(), disk::gfp())?;
        }
        Ok(bytes)
    }

    /// Whether it is about the user or group with a number.
    pub fn is_named(&self) -> bool {
        matches!(self.tag, USER | GROUP)
    }

    /// Whether the entries of a list, which is not empty, are in order and complete.
    pub fn are_valid(acl: &[Self]) -> bool {
        let mut last = 0;
        let mut named = false;
        for entry in acl {
            let again = entry.is_named() && entry.tag == last;
            let known = entry.tag.is_power_of_two() && entry.tag <= OTHER;
            if !known || !(again || entry.tag > last) {
                return false;
            }
            last = entry.tag;
            named |= entry.is_named();
        }
        let has = |tag| acl.iter().any(|entry| entry.tag == tag);
        has(USER_OBJ) && has(GROUP_OBJ) && has(OTHER) && (has(MASK) || !named)
    }

    /// A list as it is when the permission bits become these: as `posix_acl_chmod` does it.
    pub fn with_permissions(mut acl: KVec<Self>, mode: u16) -> KVec<Self> {
        let has_mask = acl.iter().any(|entry| entry.tag == MASK);
        for entry in acl.iter_mut() {
            match entry.tag {
                USER_OBJ => entry.perm = mode >> 6 & 7,
                GROUP_OBJ if !has_mask => entry.perm = mode >> 3 & 7,
                MASK => entry.perm = mode >> 3 & 7,
                OTHER => entry.perm = mode & 7,
                _ => {}
            }
        }
        acl
    }

    /// The permission bits that stand for a list. Fails with `EINVAL` if it has not what each list
    /// has.
    pub fn permissions(acl: &[Self]) -> Result<u16> {
        let perm = |tag| {
            let entry = acl.iter().find(|entry| entry.tag == tag);
            entry.map(|entry| entry.perm & 7)
        };
        let (user, group, other) = (perm(USER_OBJ), perm(GROUP_OBJ), perm(OTHER));
        let group = perm(MASK).or(group).ok_or(EINVAL)?;
        Ok(user.ok_or(EINVAL)? << 6 | group << 3 | other.ok_or(EINVAL)?)
    }
}
