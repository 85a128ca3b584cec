// SPDX-License-Identifier: GPL-2.0

//! An inode in memory, and its attributes.
//!
//! What can be changed, and what such a change brings about, is as ext4 has it.

use super::contents::{Contents, Space};
use super::names::Names;
use crate::asynchronous::Ino;
use crate::owned_change::owned;
use disk::gfp;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use upcall::Block;
use vfs::{AclEntry, Attr, FileType, NewInode, SetAttr, Time, XattrFlags, XattrNamespace};

/// The bits of a mode that are no type.
const PERMISSIONS: u16 = 0o7777;

/// How long a value can be.
const VALUE_MAX: usize = 1 << 16;

// The flags of inodes, as `chattr` has them.
const OF_DIRECTORIES: u32 = 0x1_0000 | 0x2_0000 | 0x2000_0000;
const OF_ALL: u32 = 0x40 | 0x80;
const MODIFIABLE: u32 = 0x7 | 0x8 | 0x10 | 0x20 | OF_ALL | 0x8000 | OF_DIRECTORIES;
const INHERITED: u32 = 0x7 | 0x8 | OF_ALL | 0x400 | 0x8000 | 0x1_0000 | 0x2000_0000;
const REFUSED: u32 = 0x4000 | 0x8_0000 | 0x200_0000 | 0x4000_0000;

/// What an inode is.
pub(super) enum Kind {
    Directory {
        parent: Ino,
        names: Names,
    },
    File(Contents),
    Link(KVec<u8>),
    /// A device, a pipe or a socket.
    Other,
}

/// An attribute: its whole name, and its value.
struct Xattr {
    name: KVec<u8>,
    value: KVec<u8>,
}

/// An inode.
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) file_type: FileType,
    /// Names that lead to it, but for a directory, which has 1 unless it was removed.
    pub(super) links: u32,
    /// How many handles there are.
    pub(super) handles: Option<Arc<Atomic<u32>>>,
    mode: u16,
    uid: u32,
    gid: u32,
    flags: u32,
    device: (u32, u32),
    atime: Time,
    mtime: Time,
    ctime: Time,
    btime: Time,
    xattrs: KVec<Xattr>,
    acls: [Option<KVec<AclEntry>>; 2],
}

/// A list to be kept. Fails with `EINVAL` if it is none, and with `ENOMEM`.
fn checked(acl: &[AclEntry]) -> Result<KVec<AclEntry>> {
    if !AclEntry::are_valid(acl) {
        return Err(EINVAL);
    }
    let mut acl = owned(acl)?;
    for entry in acl.iter_mut().filter(|entry| !entry.is_named()) {
        entry.id = 0;
    }
    Ok(acl)
}

impl Inode {
    /// A new one in a directory whose inode has the flags `parent`. Fails with `EINVAL` for a mode
    /// without a type, and with `ENOMEM`.
    pub(super) fn new(new: &NewInode, kind: Kind, parent: u32) -> Result<Self> {
        let file_type = match FileType::from_dt((new.mode >> 12) as u8) {
            FileType::Unknown => return Err(EINVAL),
            file_type => file_type,
        };
        let inherits = match file_type {
            FileType::Directory => INHERITED,
            FileType::Regular => INHERITED & !OF_DIRECTORIES,
            _ => INHERITED & OF_ALL,
        };
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let now = Time::now();
        let mut inode = Self {
            kind,
            file_type,
            links: 1,
            handles: None,
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            flags: parent & inherits,
            device: if is_device { new.device } else { (0, 0) },
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            xattrs: KVec::new(),
            acls: [None, None],
        };
        for (to, acl) in inode.acls.iter_mut().zip([&new.acl, &new.default_acl]) {
            if let Some(acl) = acl {
                *to = Some(checked(acl)?);
            }
        }
        for xattr in new.xattrs.iter() {
            let mut name = owned(xattr.namespace.prefix().as_bytes())?;
            name.extend_from_slice(&xattr.name, gfp())?;
            let value = owned(&xattr.value)?;
            inode.xattrs.push(Xattr { name, value }, gfp())?;
        }
        Ok(inode)
    }

    pub(super) fn flags(&self) -> u32 {
        self.flags
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    /// Whether somebody has it, by a name or a handle.
    pub(super) fn is_used(&self) -> bool {
        let handles = self.handles.as_ref();
        self.links > 0 || handles.is_some_and(|handles| handles.load(Relaxed) > 0)
    }

    /// The bytes of a regular file. Fails with `EISDIR`, and `EINVAL` for what has none.
    pub(super) fn contents(&self) -> Result<&Contents> {
        match &self.kind {
            Kind::File(contents) => Ok(contents),
            Kind::Directory { .. } => Err(EISDIR),
            _ => Err(EINVAL),
        }
    }

    /// Changes the bytes of a regular file. It was modified then. Fails as
    /// [`contents`](Self::contents), and as `f`.
    pub(super) fn modify<T>(&mut self, f: impl FnOnce(&mut Contents) -> Result<T>) -> Result<T> {
        self.contents()?;
        let Kind::File(contents) = &mut self.kind else {
            return Err(EINVAL);
        };
        let done = f(contents)?;
        self.touch(true);
        Ok(done)
    }

    /// Frees the pages of what is deleted.
    pub(super) fn free(mut self, space: &mut Space) {
        if let Kind::File(contents) = &mut self.kind {
            // Nothing is too long that is shorter.
            let _ = contents.truncate(0, space);
        }
    }

    /// It was changed now, and its contents or names, too, if `modified`.
    pub(super) fn touch(&mut self, modified: bool) {
        self.ctime = Time::now();
        if modified {
            self.mtime = self.ctime;
        }
    }

    pub(super) fn attr(&self, ino: Ino) -> Attr {
        let (size, nlink, pages) = match &self.kind {
            Kind::Directory { names, .. } if self.links > 0 => (0, 2 + names.directories(), 0),
            Kind::Directory { .. } => (0, 0, 0),
            Kind::File(contents) => (contents.size(), self.links, contents.pages()),
            Kind::Link(target) => (target.len() as u64, self.links, 0),
            Kind::Other => (0, self.links, 0),
        };
        Attr {
            ino: ino.0,
            file_type: self.file_type,
            mode: self.mode,
            nlink,
            uid: self.uid,
            gid: self.gid,
            size,
            sectors: pages * (Block::SIZE as u64 >> 9),
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: Some(self.btime),
            device: self.device,
            flags: self.flags,
            no_xattr: self.xattrs.is_empty() && self.acls.iter().all(Option::is_none),
            ..Attr::default()
        }
    }

    /// Changes attributes. Fails with `EOPNOTSUPP` for a project, and for flags that cannot be
    /// changed.
    pub(super) fn set_attr(&mut self, set: &SetAttr) -> Result {
        let flags = match set.flags {
            Some(wanted) => {
                let changed = self.flags ^ wanted;
                if changed & REFUSED != 0 {
                    return Err(EOPNOTSUPP);
                }
                let able = match self.file_type {
                    FileType::Directory => MODIFIABLE,
                    FileType::Regular => MODIFIABLE & !OF_DIRECTORIES,
                    _ => OF_ALL,
                };
                self.flags ^ changed & able
            }
            None => self.flags,
        };
        if set.project.is_some_and(|project| project != 0) {
            return Err(EOPNOTSUPP);
        }
        if let Some(mode) = set.mode {
            self.mode = self.mode & !PERMISSIONS | mode & PERMISSIONS;
            let [acl, _] = &mut self.acls;
            *acl = acl.take().map(|acl| AclEntry::with_permissions(acl, mode));
        }
        self.flags = flags;
        self.uid = set.uid.unwrap_or(self.uid);
        self.gid = set.gid.unwrap_or(self.gid);
        self.atime = set.atime.unwrap_or(self.atime);
        self.mtime = set.mtime.unwrap_or(self.mtime);
        self.ctime = set.ctime.unwrap_or_else(Time::now);
        Ok(())
    }

    /// The access control list, or the default one.
    pub(super) fn acl(&self, default: bool) -> Result<Option<KVec<AclEntry>>> {
        let [access, of_new] = &self.acls;
        let acl = if default { of_new } else { access };
        acl.as_deref().map(owned).transpose()
    }

    /// Sets it. Fails with `EACCES` for a default list of what is no directory, `EINVAL` for a list
    /// that is none, `ENOMEM`.
    pub(super) fn set_acl(&mut self, default: bool, entries: Option<&[AclEntry]>) -> Result {
        if default && !self.is_dir() {
            return Err(EACCES);
        }
        let mode = match entries {
            Some(entries) if !default => Some(AclEntry::permissions(entries)?),
            _ => None,
        };
        let entries = entries.filter(|entries| !entries.is_empty());
        let acl = entries.map(checked).transpose()?;
        if let Some(mode) = mode {
            self.mode = self.mode & !0o777 | mode;
        }
        let [access, of_new] = &mut self.acls;
        let place = if default { of_new } else { access };
        if mode.is_some() || acl.as_deref() != place.as_deref() {
            self.ctime = Time::now();
        }
        *place = acl;
        Ok(())
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        let mut xattrs = self.xattrs.iter();
        xattrs.position(|xattr| xattr.name.as_slice() == name)
    }

    /// The value of an attribute. Fails with `ENODATA`.
    pub(super) fn xattr(&self, name: &[u8]) -> Result<KVec<u8>> {
        let found = self.find(name).and_then(|at| self.xattrs.get(at));
        owned(&found.ok_or(ENODATA)?.value)
    }

    /// The names of all attributes.
    pub(super) fn xattrs(&self) -> Result<KVec<u8>> {
        let mut names = KVec::new();
        let spaces = [XattrNamespace::AclAccess, XattrNamespace::AclDefault];
        for (acl, space) in self.acls.iter().zip(spaces) {
            if acl.is_some() {
                names.extend_from_slice(space.prefix().as_bytes(), gfp())?;
                names.push(0, gfp())?;
            }
        }
        for xattr in self.xattrs.iter() {
            names.extend_from_slice(&xattr.name, gfp())?;
            names.push(0, gfp())?;
        }
        Ok(names)
    }

    /// Sets an attribute, or removes it. Fails with `EEXIST` and `ENODATA` by the flags, `ERANGE`
    /// for a name and `E2BIG` for a value that is too long, `EINVAL`, `ENOMEM`.
    pub(super) fn set_xattr(
        &mut self,
        name: &[u8],
        value: Option<&[u8]>,
        flags: XattrFlags,
    ) -> Result {
        let (_, rest) = XattrNamespace::of_name(name).ok_or(EOPNOTSUPP)?;
        if rest.len() > 255 {
            return Err(ERANGE);
        }
        if rest.contains(&0) {
            return Err(EINVAL);
        }
        if value.is_some_and(|value| value.len() > VALUE_MAX) {
            return Err(E2BIG);
        }
        let value = value.map(owned).transpose()?;
        let found = self.find(name);
        match found {
            None if flags.replace => return Err(ENODATA),
            Some(_) if flags.create => return Err(EEXIST),
            _ => {}
        }
        match (found.and_then(|at| self.xattrs.get_mut(at)), value) {
            (None, None) => return Ok(()),
            (Some(old), Some(value)) if *old.value == *value => return Ok(()),
            (Some(old), Some(value)) => old.value = value,
            (None, Some(value)) => {
                let name = owned(name)?;
                self.xattrs.push(Xattr { name, value }, gfp())?;
            }
            (Some(_), None) => {
                self.xattrs.retain(|xattr| xattr.name.as_slice() != name);
            }
        }
        self.ctime = Time::now();
        Ok(())
    }
}
