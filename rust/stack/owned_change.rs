// SPDX-License-Identifier: GPL-2.0

//! [`OwnedChange`]: a change that a task keeps, which may outlive who wanted it.

use crate::asynchronous::Ino;
use crate::change::{Change, RenameFlags};
use core::ops::Range;
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use vfs::{AclEntry, NewInode, SetAttr, XattrFlags};

/// A [`Change`] with copies of what it leads to.
pub(crate) enum OwnedChange {
    Create(Ino, KVec<u8>, NewInode),
    Symlink(Ino, KVec<u8>, KVec<u8>, NewInode),
    Link(Ino, KVec<u8>, Ino),
    Unlink(Ino, KVec<u8>),
    Rmdir(Ino, KVec<u8>),
    Rename((Ino, KVec<u8>), (Ino, KVec<u8>), RenameFlags),
    SetAttr(Ino, SetAttr),
    SetXattr(Ino, KVec<u8>, Option<KVVec<u8>>, XattrFlags),
    SetAcl(Ino, bool, Option<KVec<AclEntry>>),
    Truncate(Ino, u64),
    Allocate(Ino, Range<u64>, bool),
}

/// A copy. Fails with `ENOMEM`.
pub(crate) fn owned<T: Clone>(from: &[T]) -> Result<KVec<T>> {
    let mut to = KVec::new();
    to.extend_from_slice(from, gfp())?;
    Ok(to)
}

/// A copy of what may be long. Fails with `ENOMEM`.
pub(crate) fn owned_bytes(from: &[u8]) -> Result<KVVec<u8>> {
    let mut to = KVVec::new();
    to.extend_from_slice(from, gfp())?;
    Ok(to)
}

impl OwnedChange {
    /// Copies a change. Fails with `ENOMEM`.
    pub(crate) fn new(change: &Change<'_>) -> Result<Self> {
        Ok(match change {
            Change::Create { dir, name, new } => Self::Create(*dir, owned(name)?, new.try_clone()?),
            Change::Symlink {
                dir,
                name,
                target,
                new,
            } => Self::Symlink(*dir, owned(name)?, owned(target)?, new.try_clone()?),
            Change::Link { dir, name, ino } => Self::Link(*dir, owned(name)?, *ino),
            Change::Unlink { dir, name } => Self::Unlink(*dir, owned(name)?),
            Change::Rmdir { dir, name } => Self::Rmdir(*dir, owned(name)?),
            Change::Rename {
                from,
                name,
                to,
                new_name,
                flags,
            } => Self::Rename((*from, owned(name)?), (*to, owned(new_name)?), *flags),
            Change::SetAttr { ino, set } => Self::SetAttr(*ino, **set),
            Change::SetXattr {
                ino,
                name,
                value,
                flags,
            } => {
                let value = value.map(owned_bytes).transpose()?;
                Self::SetXattr(*ino, owned(name)?, value, *flags)
            }
            Change::SetAcl {
                ino,
                default,
                entries,
            } => Self::SetAcl(*ino, *default, entries.map(owned).transpose()?),
            Change::Truncate { ino, size } => Self::Truncate(*ino, *size),
            Change::Allocate {
                ino,
                range,
                keep_size,
            } => Self::Allocate(*ino, range.clone(), *keep_size),
        })
    }

    /// The change.
    pub(crate) fn get(&self) -> Change<'_> {
        match self {
            Self::Create(dir, name, new) => Change::Create {
                dir: *dir,
                name,
                new,
            },
            Self::Symlink(dir, name, target, new) => Change::Symlink {
                dir: *dir,
                name,
                target,
                new,
            },
            Self::Link(dir, name, ino) => Change::Link {
                dir: *dir,
                name,
                ino: *ino,
            },
            Self::Unlink(dir, name) => Change::Unlink { dir: *dir, name },
            Self::Rmdir(dir, name) => Change::Rmdir { dir: *dir, name },
            Self::Rename((from, name), (to, new_name), flags) => Change::Rename {
                from: *from,
                name,
                to: *to,
                new_name,
                flags: *flags,
            },
            Self::SetAttr(ino, set) => Change::SetAttr { ino: *ino, set },
            Self::SetXattr(ino, name, value, flags) => Change::SetXattr {
                ino: *ino,
                name,
                value: value.as_deref(),
                flags: *flags,
            },
            Self::SetAcl(ino, default, entries) => Change::SetAcl {
                ino: *ino,
                default: *default,
                entries: entries.as_deref(),
            },
            Self::Truncate(ino, size) => Change::Truncate {
                ino: *ino,
                size: *size,
            },
            Self::Allocate(ino, range, keep_size) => Change::Allocate {
                ino: *ino,
                range: range.clone(),
                keep_size: *keep_size,
            },
        }
    }
}
