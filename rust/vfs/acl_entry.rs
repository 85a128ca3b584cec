// SPDX-License-Identifier: GPL-2.0

//! An entry of an access control list.

use kernel::prelude::*;

// The tags of entries that have a number.
const USER: u16 = 0x02;
const GROUP: u16 = 0x08;

/// An entry of an access control list.
#[derive(Clone, Copy)]
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
            let named = matches!(entry.tag, USER | GROUP);
            let id = if named { entry.id } else { u32::MAX };
            bytes.extend_from_slice(&entry.tag.to_le_bytes(), disk::gfp())?;
            bytes.extend_from_slice(&entry.perm.to_le_bytes(), disk::gfp())?;
            bytes.extend_from_slice(&id.to_le_bytes(), disk::gfp())?;
        }
        Ok(bytes)
    }
}
