// SPDX-License-Identifier: GPL-2.0

//! [`copy_attributes`]: what lies beside the contents, from one file system to another.

use crate::asynchronous::{AsyncStackable, Ino};
use kernel::prelude::*;
use vfs::{Attr, FileType, SetAttr, XattrFlags};

/// Gives `to` the extended attributes that `from` has and `wanted` says yes to, its access control
/// lists, its mode and its times. `attr` is what `from` has; owners are those that `to` was made
/// with.
///
/// Fails with the errors of both file systems, but for one that has no lists.
///
/// # Cancellation
///
/// `to` has a part of them.
pub async fn copy_attributes<F: AsyncStackable, T: AsyncStackable>(
    (of, from): (&F, Ino),
    attr: &Attr,
    (on, to): (&T, Ino),
    wanted: impl Fn(&[u8]) -> bool + Send,
) -> Result {
    let names = match attr.no_xattr {
        true => KVec::new(),
        false => of.listxattr(from).await?,
    };
    for name in names.split(|byte| *byte == 0) {
        if name.is_empty() || name.starts_with(b"system.") || !wanted(name) {
            continue;
        }
        let value = of.getxattr(from, name).await?;
        let flags = XattrFlags::default();
        on.setxattr(to, name, &value, flags).await?;
    }
    for default in [false, true] {
        if default && attr.file_type != FileType::Directory || attr.no_xattr {
            continue;
        }
        let acl = match of.acl(from, default).await {
            Err(EOPNOTSUPP) => None,
            acl => acl?,
        };
        if let Some(acl) = acl {
            on.set_acl(to, default, Some(&acl)).await?;
        }
    }
    let set = SetAttr {
        mode: Some(attr.mode),
        atime: Some(attr.atime),
        mtime: Some(attr.mtime),
        ..SetAttr::default()
    };
    on.set_attr(to, &set).await.map(drop)
}
