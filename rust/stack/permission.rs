// SPDX-License-Identifier: GPL-2.0

//! [`Permitted`]: a layer that asks what credentials permit.

use crate::asynchronous::{AsyncStackable, Ino, Layer};
use crate::change::{Change, OpenInode};
use crate::forward;
use core::ops::Range;
use disk::gfp;
use kernel::cred::Credential;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use upcall::{Block, Blocks};
use vfs::permission::{capable, in_group, is_admin, owners, permitted, Access, Capability};
use vfs::{AclEntry, Attr, DirBatch, FileType, NewInode, SetAttr};

const S_ISUID: u16 = 0o4000;
const S_ISGID: u16 = 0o2000;
const S_ISVTX: u16 = 0o1000;
const S_IXGRP: u16 = 0o010;

// The flags of inodes, as `chattr` has them.
const IMMUTABLE: u32 = 0x10;
const APPEND: u32 = 0x20;

// The tags of entries of access control lists, as the kernel has them.
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Does what credentials permit, as the VFS would: by mode bits, access control lists and
/// capabilities.
///
/// Finding a name needs the right to execute the directory, listing it and reading a file, a
/// `user.` or a `gnu.` attribute the right to read, and `trusted.` attributes `CAP_SYS_ADMIN`,
/// without which they are not listed. Every operation asks anew: there is no open file that once
/// was permitted. What is refused fails with `EACCES`.
///
/// Changing names needs the right to write to the directory, and, with the sticky bit, to own it or
/// what is changed; changing contents that to write; changing attributes to own the inode. What is
/// new belongs to the credentials, and inherits group and access control list of its directory.
/// What is immutable or only appended to stays so: `EPERM`, as for all that needs a capability.
/// What was permitted is done a moment later: whoever takes a right away in between may be too
/// late.
pub struct Permitted<L> {
    below: L,
    credentials: ARef<Credential>,
    umask: u16,
}

impl<L: AsyncStackable> Permitted<L> {
    /// Makes the layer on `below`, for somebody with these credentials: those of a
    /// [`File`](kernel::fs::File), or of the calling thread
    /// ([`current_credentials`](vfs::permission::current_credentials)).
    pub fn new(below: L, credentials: ARef<Credential>) -> Self {
        Self {
            below,
            credentials,
            umask: 0,
        }
    }

    /// The same with permissions that new files do not get, unless the directory has a list for
    /// them.
    pub fn with_umask(self, umask: u16) -> Self {
        Self { umask, ..self }
    }

    /// The layer below.
    pub fn below(&self) -> &L {
        &self.below
    }

    /// Fails with `EACCES` if the credentials do not permit `access` to `ino`, and with `EPERM` if
    /// that is immutable.
    pub async fn check(&self, ino: Ino, access: Access) -> Result {
        let attr = self.below.stat(ino).await?;
        self.check_attr(ino, &attr, access).await
    }

    async fn check_attr(&self, ino: Ino, attr: &Attr, access: Access) -> Result {
        if access == Access::WRITE {
            forbid(attr, IMMUTABLE)?;
        }
        let acl = if attr.no_xattr {
            None
        } else {
            self.below.acl(ino, false).await?
        };
        permitted(&self.credentials, attr, acl.as_deref(), access)
    }

    fn capable(&self, capability: Capability) -> bool {
        capable(&self.credentials, capability)
    }

    fn owns(&self, attr: &Attr) -> bool {
        owners(&self.credentials).0 == attr.uid || self.capable(Capability::FOWNER)
    }

    /// Names may be put into a directory.
    async fn may_create(&self, dir: Ino) -> Result<Attr> {
        let attr = self.below.stat(dir).await?;
        self.check_attr(dir, &attr, Access::WRITE).await?;
        self.check_attr(dir, &attr, Access::EXECUTE).await?;
        Ok(attr)
    }

    /// A name may be taken from what it leads to.
    async fn may_delete(&self, dir: Ino, child: Ino) -> Result<Attr> {
        let parent = self.may_create(dir).await?;
        let attr = self.below.stat(child).await?;
        forbid(&parent, APPEND)?;
        let mine = owners(&self.credentials).0;
        let sticky = parent.mode & S_ISVTX != 0 && mine != attr.uid && mine != parent.uid;
        if sticky && !self.capable(Capability::FOWNER) {
            return Err(EPERM);
        }
        forbid(&attr, IMMUTABLE | APPEND)?;
        Ok(attr)
    }

    /// What is found where a name is about to be changed.
    async fn found(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>> {
        match self.below.lookup(dir, name).await {
            Err(ENOENT) => Ok(None),
            found => found.map(Some),
        }
    }

    async fn may_remove(&self, dir: Ino, name: &[u8]) -> Result {
        let child = self.lookup(dir, name).await?;
        self.may_delete(dir, child).await.map(drop)
    }

    async fn may_rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), exchange: bool) -> Result {
        let source = self.lookup(from.0, from.1).await?;
        let moved = self.may_delete(from.0, source).await?;
        let across = from.0 != to.0;
        if moved.file_type == FileType::Directory && across {
            self.check_attr(source, &moved, Access::WRITE).await?;
        }
        match self.found(to.0, to.1).await? {
            None => self.may_create(to.0).await.map(drop),
            Some(target) => {
                let attr = self.may_delete(to.0, target).await?;
                if exchange && attr.file_type == FileType::Directory && across {
                    self.check_attr(target, &attr, Access::WRITE).await?;
                }
                Ok(())
            }
        }
    }

    /// What a new inode is to be in a directory: the credentials', by the directory's rules.
    async fn inherit(&self, dir: Ino, wanted: &NewInode) -> Result<NewInode> {
        let parent = self.may_create(dir).await?;
        if wanted.acl.is_some() || wanted.default_acl.is_some() || !wanted.xattrs.is_empty() {
            return Err(EINVAL);
        }
        let is_device = matches!(wanted.mode & 0o170_000, 0o020_000 | 0o060_000);
        if is_device && wanted.device != (0, 0) && !self.capable(Capability::MKNOD) {
            return Err(EPERM);
        }
        let (uid, gid) = owners(&self.credentials);
        let is_dir = wanted.mode & 0o170_000 == 0o040_000;
        let is_link = wanted.mode & 0o170_000 == 0o120_000;
        let mut new = NewInode::with_mode(wanted.mode).owned_by(uid, gid);
        new.device = wanted.device;
        if parent.mode & S_ISGID != 0 {
            new.gid = parent.gid;
            if is_dir {
                new.mode |= S_ISGID;
            } else if new.mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP
                && !self.may_setgid(new.gid)
            {
                new.mode &= !S_ISGID;
            }
        }
        if is_link {
            return Ok(new);
        }
        let default = match self.below.acl(dir, true).await {
            Err(EOPNOTSUPP) => None,
            acl => acl?,
        };
        match default {
            None => new.mode &= !(self.umask & 0o777),
            Some(default) => {
                let (acl, mode) = masked(&default, new.mode)?;
                (new.acl, new.mode) = (acl, mode);
                new.default_acl = is_dir.then_some(default);
            }
        }
        Ok(new)
    }

    fn may_setgid(&self, gid: u32) -> bool {
        in_group(&self.credentials, gid) || self.capable(Capability::FSETID)
    }

    /// What becomes of attributes that somebody wants to set.
    async fn settable(&self, ino: Ino, set: &SetAttr) -> Result<SetAttr> {
        let attr = self.below.stat(ino).await?;
        let (mut set, mine) = (*set, owners(&self.credentials).0 == attr.uid);
        forbid(&attr, IMMUTABLE)?;
        let touched = set.atime.is_some() || set.mtime.is_some();
        if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() || touched {
            forbid(&attr, APPEND)?;
        }
        let may_chown = self.capable(Capability::CHOWN);
        if set.uid.is_some_and(|uid| !(mine && uid == attr.uid)) && !may_chown {
            return Err(EPERM);
        }
        let to_own = |gid: u32| mine && (gid == attr.gid || in_group(&self.credentials, gid));
        if set.gid.is_some_and(|gid| !to_own(gid)) && !may_chown {
            return Err(EPERM);
        }
        if (set.mode.is_some() || set.flags.is_some() || touched) && !self.owns(&attr) {
            return Err(EPERM);
        }
        if set.project.is_some_and(|project| project != attr.project) && !self.owns(&attr) {
            return Err(EPERM);
        }
        let protected = IMMUTABLE | APPEND;
        let changed = set.flags.map_or(0, |flags| flags ^ attr.flags);
        if changed & protected != 0 && !self.capable(Capability::LINUX_IMMUTABLE) {
            return Err(EPERM);
        }
        if let Some(mode) = set.mode {
            if mode & S_ISGID != 0 && !self.may_setgid(set.gid.unwrap_or(attr.gid)) {
                set.mode = Some(mode & !S_ISGID);
            }
        }
        let chown = set.uid.is_some() || set.gid.is_some();
        if chown && attr.file_type != FileType::Directory {
            let mode = set.mode.unwrap_or(attr.mode & 0o7777);
            let kept = without_privileges(mode);
            set.mode = set
                .mode
                .or((kept != mode).then_some(kept))
                .map(without_privileges);
        }
        Ok(set)
    }

    /// Somebody writes to a file: it loses what would give others its owner's rights.
    async fn may_write(&self, ino: Ino, append: bool) -> Result {
        let attr = self.below.stat(ino).await?;
        if attr.file_type == FileType::Directory {
            return Err(EISDIR);
        }
        self.check_attr(ino, &attr, Access::WRITE).await?;
        if !append {
            forbid(&attr, APPEND)?;
        }
        let kept = without_privileges(attr.mode);
        if kept != attr.mode && !self.capable(Capability::FSETID) {
            let set = SetAttr {
                mode: Some(kept & 0o7777),
                ..SetAttr::default()
            };
            self.below.set_attr(ino, &set).await?;
        }
        Ok(())
    }

    async fn may_set_xattr(&self, ino: Ino, name: &[u8]) -> Result {
        let attr = self.below.stat(ino).await?;
        forbid(&attr, IMMUTABLE | APPEND)?;
        if name.starts_with(b"security.") {
            let wanted = match name {
                b"security.capability" => Capability::SETFCAP,
                _ => Capability::SYS_ADMIN,
            };
            return self.capable(wanted).then_some(()).ok_or(EPERM);
        }
        if name.starts_with(b"trusted.") {
            return is_admin(&self.credentials).then_some(()).ok_or(EPERM);
        }
        let is_dir = attr.file_type == FileType::Directory;
        if name.starts_with(b"user.") {
            if !is_dir && attr.file_type != FileType::Regular {
                return Err(EPERM);
            }
            if is_dir && attr.mode & S_ISVTX != 0 && !self.owns(&attr) {
                return Err(EPERM);
            }
        }
        self.check_attr(ino, &attr, Access::WRITE).await
    }

    /// Asks for a change that makes no inode and sets no attributes.
    async fn may_change(&self, change: &Change<'_>) -> Result {
        match *change {
            Change::Link { dir, ino, .. } => {
                self.may_create(dir).await?;
                forbid(&self.below.stat(ino).await?, IMMUTABLE | APPEND)
            }
            Change::Unlink { dir, name } | Change::Rmdir { dir, name } => {
                self.may_remove(dir, name).await
            }
            Change::Rename {
                from,
                name,
                to,
                new_name,
                flags,
            } => {
                self.may_rename((from, name), (to, new_name), flags.exchange)
                    .await
            }
            Change::SetXattr { ino, name, .. } => self.may_set_xattr(ino, name).await,
            Change::SetAcl { ino, .. } => {
                let attr = self.below.stat(ino).await?;
                forbid(&attr, IMMUTABLE | APPEND)?;
                self.owns(&attr).then_some(()).ok_or(EPERM)
            }
            Change::Truncate { ino, .. } => self.may_write(ino, false).await,
            Change::Allocate { ino, .. } => self.may_write(ino, true).await,
            Change::Create { .. } | Change::Symlink { .. } | Change::SetAttr { .. } => Ok(()),
        }
    }
}

/// Fails with `EPERM` if an inode has one of these flags.
fn forbid(attr: &Attr, flags: u32) -> Result {
    match attr.flags & flags {
        0 => Ok(()),
        _ => Err(EPERM),
    }
}

/// A mode without what gives others the rights of the owner, or of the group.
fn without_privileges(mode: u16) -> u16 {
    match mode & S_IXGRP {
        0 => mode & !S_ISUID,
        _ => mode & !(S_ISUID | S_ISGID),
    }
}

/// The list of a new inode in a directory with the list `default`, if it says more than the mode
/// does, and that mode: as `posix_acl_create` does it.
fn masked(default: &[AclEntry], mut mode: u16) -> Result<(Option<KVec<AclEntry>>, u16)> {
    let has_mask = default.iter().any(|entry| entry.tag == MASK);
    let mut acl = KVec::with_capacity(default.len(), gfp())?;
    let mut says_more = false;
    for entry in default {
        let mut entry = *entry;
        let shift = match entry.tag {
            USER_OBJ => Some(6),
            GROUP_OBJ if !has_mask => Some(3),
            MASK => Some(3),
            OTHER => Some(0),
            _ => None,
        };
        if let Some(shift) = shift {
            entry.perm &= mode >> shift & 7;
            mode &= !(7 << shift) | entry.perm << shift;
        }
        says_more |= !matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER);
        acl.push(entry, gfp())?;
    }
    Ok((says_more.then_some(acl), mode))
}

impl<L: Layer> Layer for Permitted<L> {
    type Kind = L::Kind;
}

impl<L: AsyncStackable> AsyncStackable for Permitted<L> {
    forward!(self, self.below; root, stat, readlink, acl, statfs, make_durable, open);

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        self.check(dir, Access::EXECUTE).await?;
        self.below.lookup(dir, name).await
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        self.check(ino, Access::READ).await?;
        self.below.read(ino, offset, block).await
    }

    async fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        self.check(ino, Access::READ).await?;
        self.below.read_at(ino, range, blocks).await
    }

    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        self.check(dir, Access::READ).await?;
        self.below.read_dir(dir, pos, batch).await
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        if name.starts_with(b"trusted.") && !is_admin(&self.credentials) {
            return Err(ENODATA);
        }
        if name.starts_with(b"user.") || name.starts_with(b"gnu.") {
            self.check(ino, Access::READ).await?;
        }
        self.below.getxattr(ino, name).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        let all = self.below.listxattr(ino).await?;
        if is_admin(&self.credentials) {
            return Ok(all);
        }
        let mut names = KVec::new();
        for name in all.split_inclusive(|&byte| byte == 0) {
            if !name.starts_with(b"trusted.") {
                names.extend_from_slice(name, gfp())?;
            }
        }
        Ok(names)
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        match change {
            Change::Create { dir, name, new } => {
                let new = &disk::pinned(|| self.inherit(dir, new))?.await?;
                self.below.change(Change::Create { dir, name, new }).await
            }
            Change::Symlink {
                dir,
                name,
                target,
                new,
            } => {
                let mut wanted = NewInode::with_mode(0o120_777);
                wanted.device = new.device;
                let new = &disk::pinned(|| self.inherit(dir, &wanted))?.await?;
                let change = Change::Symlink {
                    dir,
                    name,
                    target,
                    new,
                };
                self.below.change(change).await
            }
            Change::SetAttr { ino, set } => {
                let set = &disk::pinned(|| self.settable(ino, set))?.await?;
                self.below.change(Change::SetAttr { ino, set }).await
            }
            change => {
                disk::pinned(|| self.may_change(&change))?.await?;
                self.below.change(change).await
            }
        }
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        disk::pinned(|| self.may_write(ino, pos.is_none()))?.await?;
        self.below.write_bytes(ino, pos, bytes).await
    }

    async fn write(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        disk::pinned(|| self.may_write(ino, false))?.await?;
        self.below.write(ino, offset, block).await
    }

    async fn write_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        disk::pinned(|| self.may_write(ino, false))?.await?;
        self.below.write_at(ino, range, blocks).await
    }

    async fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        let new = disk::pinned(|| self.inherit(dir, new))?.await?;
        self.below.tmpfile(dir, &new).await
    }
}
