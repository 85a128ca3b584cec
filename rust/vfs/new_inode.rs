// SPDX-License-Identifier: GPL-2.0

//! What a new inode is to be.

use crate::acl_entry::AclEntry;
use crate::xattr_name::XattrNamespace;
use kernel::prelude::*;

const S_IFREG: u16 = 0o100_000;
const S_IFDIR: u16 = 0o040_000;

/// What a new inode is to be.
pub struct NewInode {
    /// Type and permissions, as `st_mode` has them.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// The access control list, if it says more than the permissions.
    pub acl: Option<KVec<AclEntry>>,
    /// The list for new files of a directory.
    pub default_acl: Option<KVec<AclEntry>>,
    /// Further extended attributes: security modules want them.
    pub xattrs: KVec<NewXattr>,
}

impl NewInode {
    /// Of root's, with nothing but this mode: type and permissions.
    pub fn with_mode(mode: u16) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            device: (0, 0),
            acl: None,
            default_acl: None,
            xattrs: KVec::new(),
        }
    }

    /// A file of root's with these permissions.
    pub fn file(permissions: u16) -> Self {
        Self::with_mode(S_IFREG | permissions)
    }

    /// A directory of root's with these permissions.
    pub fn directory(permissions: u16) -> Self {
        Self::with_mode(S_IFDIR | permissions)
    }

    /// A copy. Fails with `ENOMEM`.
    pub fn try_clone(&self) -> Result<Self> {
        fn copied<T: Clone>(from: &[T]) -> Result<KVec<T>> {
            let mut to = KVec::new();
            to.extend_from_slice(from, disk::gfp())?;
            Ok(to)
        }
        let mut xattrs = KVec::new();
        for xattr in self.xattrs.iter() {
            let xattr = NewXattr {
                namespace: xattr.namespace,
                name: copied(&xattr.name)?,
                value: copied(&xattr.value)?,
            };
            xattrs.push(xattr, disk::gfp())?;
        }
        Ok(Self {
            acl: self.acl.as_deref().map(copied).transpose()?,
            default_acl: self.default_acl.as_deref().map(copied).transpose()?,
            xattrs,
            ..*self
        })
    }

    /// The same of somebody's.
    pub fn owned_by(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }
}

/// An extended attribute of a new inode.
pub struct NewXattr {
    /// What its name begins with.
    pub namespace: XattrNamespace,
    /// The name without that.
    pub name: KVec<u8>,
    /// The value.
    pub value: KVec<u8>,
}
