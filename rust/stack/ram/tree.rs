// SPDX-License-Identifier: GPL-2.0

//! The inodes of a file system in memory, and what changes their names.
//!
//! Each function does all that it is for, or fails and has done nothing: what needs memory comes
//! first. The errors, and their order, are those of a volume.

use super::contents::{Contents, Space};
use super::inode::{Inode, Kind};
use super::names::Names;
use crate::asynchronous::Ino;
use crate::change::{Change, RenameFlags};
use crate::owned_change::owned;
use disk::gfp;
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use vfs::{FileType, NewInode, XattrNamespace};

/// The root is the first.
pub(super) const ROOT: Ino = Ino(1);

/// How many names a file can have, as on a volume.
const LINK_MAX: u32 = 65_000;

/// How long the target of a link is at most, with a zero behind it.
const TARGET_MAX: usize = 4096;

/// All of it.
pub(super) struct Tree {
    inodes: RBTree<u32, Inode>,
    count: u64,
    /// The number of the next inode, if it is free.
    next: u32,
    pub(super) space: Space,
    /// Inodes that lost their last name while somebody had a handle.
    left: KVec<Ino>,
}

/// What a name leads to, and what that is.
type Found = (Ino, FileType);

fn check_name(name: &[u8]) -> Result {
    if name.len() > 255 {
        return Err(ENAMETOOLONG);
    }
    if name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(EINVAL);
    }
    match name {
        [] => Err(ENOENT),
        _ => Ok(()),
    }
}

/// What is made in the directory `dir` by a mode, which is not that of a link.
fn kind_of(dir: Ino, new: &NewInode) -> Result<Kind> {
    Ok(match FileType::from_dt((new.mode >> 12) as u8) {
        FileType::Unknown | FileType::Symlink => return Err(EINVAL),
        FileType::Directory => Kind::Directory {
            parent: dir,
            names: Names::new(),
        },
        FileType::Regular => Kind::File(Contents::new()),
        _ => Kind::Other,
    })
}

impl Tree {
    /// An empty root directory.
    pub(super) fn new(limit: u64) -> Result<Self> {
        let mut inodes = RBTree::new();
        let kind = Kind::Directory {
            parent: ROOT,
            names: Names::new(),
        };
        let root = Inode::new(&NewInode::directory(0o755), kind, 0)?;
        inodes.try_create_and_insert(ROOT.0, root, gfp())?;
        Ok(Self {
            inodes,
            count: 1,
            next: ROOT.0 + 1,
            space: Space { limit, used: 0 },
            left: KVec::new(),
        })
    }

    /// How many inodes there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Fails with `ESTALE` for a number that is not in use.
    pub(super) fn get(&self, ino: Ino) -> Result<&Inode> {
        let inode = self.inodes.get(&ino.0);
        inode.filter(|inode| inode.is_used()).ok_or(ESTALE)
    }

    fn get_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        let inode = self.inodes.get_mut(&ino.0);
        inode.filter(|inode| inode.is_used()).ok_or(ESTALE)
    }

    /// A directory's parent and names. Fails with `ENOTDIR`.
    pub(super) fn directory(&self, dir: Ino) -> Result<(Ino, &Names)> {
        match &self.get(dir)?.kind {
            Kind::Directory { parent, names } => Ok((*parent, names)),
            _ => Err(ENOTDIR),
        }
    }

    fn names(&mut self, dir: Ino) -> Result<&mut Names> {
        match &mut self.get_mut(dir)?.kind {
            Kind::Directory { names, .. } => Ok(names),
            _ => Err(ENOTDIR),
        }
    }

    /// Looks a name up. Fails with `ENAMETOOLONG` and `ENOTDIR`.
    pub(super) fn find(&self, dir: Ino, name: &[u8]) -> Result<Option<Found>> {
        self.get(dir)?;
        if name.len() > 255 {
            return Err(ENAMETOOLONG);
        }
        let (parent, names) = self.directory(dir)?;
        Ok(match name {
            b"." => Some((dir, FileType::Directory)),
            b".." => Some((parent, FileType::Directory)),
            _ => match names.find(name) {
                Some(ino) => Some((ino, self.get(ino)?.file_type)),
                None => None,
            },
        })
    }

    /// Deletes what has no names, and no handles any more.
    pub(super) fn reap(&mut self) {
        let Self {
            left,
            inodes,
            space,
            count,
            ..
        } = self;
        left.retain(|ino| {
            let inode = inodes.get(&ino.0);
            if inode.is_some_and(Inode::is_used) {
                // It may have got a name again.
                return inode.is_some_and(|inode| inode.links == 0);
            }
            if let Some(inode) = inodes.remove(&ino.0) {
                inode.free(space);
                *count -= 1;
            }
            false
        });
    }

    /// Takes one name from an inode, which is deleted with its last user. There is room for it
    /// among those that are left.
    fn unname(&mut self, ino: Ino) -> Result {
        let inode = self.get_mut(ino)?;
        inode.links -= 1;
        inode.touch(false);
        if inode.links == 0 {
            self.left.push(ino, gfp())?;
        }
        Ok(())
    }

    /// A number for a new inode. Fails with `ENOSPC`.
    fn number(&mut self) -> Result<Ino> {
        for _ in 0..=self.count {
            let ino = self.next;
            self.next = ino.checked_add(1).unwrap_or(ROOT.0);
            if ino != 0 && self.inodes.get(&ino).is_none() {
                return Ok(Ino(ino));
            }
        }
        Err(ENOSPC)
    }

    fn add(&mut self, inode: Inode) -> Result<Ino> {
        let ino = self.number()?;
        self.inodes.try_create_and_insert(ino.0, inode, gfp())?;
        self.count += 1;
        Ok(ino)
    }

    /// Undoes [`add`](Self::add).
    fn forget(&mut self, ino: Ino) {
        if self.inodes.remove(&ino.0).is_some() {
            self.count -= 1;
        }
    }

    /// Checks that names of a directory can be changed.
    fn check_dir(&self, dir: Ino) -> Result {
        self.directory(dir)?;
        match self.get(dir)?.links {
            0 => Err(ENOENT),
            _ => Ok(()),
        }
    }

    fn check_new(&self, dir: Ino, name: &[u8]) -> Result {
        self.check_dir(dir)?;
        if name == b"." || name == b".." {
            return Err(EEXIST);
        }
        check_name(name)?;
        match self.find(dir, name)? {
            Some(_) => Err(EEXIST),
            None => Ok(()),
        }
    }

    /// A handle's counter of an inode, which counts it already.
    pub(super) fn keep(&mut self, ino: Ino) -> Result<Arc<Atomic<u32>>> {
        let inode = self.get_mut(ino)?;
        let handles = match &inode.handles {
            Some(handles) => handles.clone(),
            None => inode
                .handles
                .insert(Arc::new(Atomic::new(0), gfp())?)
                .clone(),
        };
        handles.fetch_add(1, Relaxed);
        Ok(handles)
    }

    /// Makes a file without a name.
    pub(super) fn tmpfile(&mut self, dir: Ino, new: &NewInode) -> Result<(Ino, Arc<Atomic<u32>>)> {
        let flags = self.get(dir)?.flags();
        let kind = match kind_of(dir, new)? {
            Kind::Directory { .. } => return Err(EINVAL),
            kind => kind,
        };
        self.check_dir(dir)?;
        let mut inode = Inode::new(new, kind, flags)?;
        inode.links = 0;
        let handles = Arc::new(Atomic::new(1), gfp())?;
        inode.handles = Some(handles.clone());
        self.left.reserve(1, gfp())?;
        let ino = self.add(inode)?;
        self.left.push(ino, gfp())?;
        Ok((ino, handles))
    }

    /// Makes a change.
    pub(super) fn change(&mut self, change: &Change<'_>) -> Result<Ino> {
        match *change {
            Change::Create { dir, name, new } => {
                self.get(dir)?;
                self.make(dir, name, new, kind_of(dir, new)?)
            }
            Change::Symlink {
                dir,
                name,
                target,
                new,
            } => {
                self.get(dir)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(ENOENT);
                }
                if target.len() >= TARGET_MAX {
                    return Err(ENAMETOOLONG);
                }
                let mut link = NewInode::with_mode(0o120_000 | new.mode & 0o7777);
                (link.uid, link.gid) = (new.uid, new.gid);
                self.make(dir, name, &link, Kind::Link(owned(target)?))
            }
            Change::Link { dir, name, ino } => self.link(dir, name, ino),
            Change::Unlink { dir, name } => self.remove(dir, name, false),
            Change::Rmdir { dir, name } => self.remove(dir, name, true),
            Change::Rename {
                from,
                name,
                to,
                new_name,
                flags,
            } => self.rename((from, name), (to, new_name), flags),
            Change::SetAttr { ino, set } => {
                self.get_mut(ino)?.set_attr(set)?;
                Ok(ino)
            }
            Change::SetXattr {
                ino,
                name,
                value,
                flags,
            } => {
                match XattrNamespace::of_name(name) {
                    None | Some((XattrNamespace::AclAccess | XattrNamespace::AclDefault, _)) => {
                        return Err(EOPNOTSUPP);
                    }
                    Some(_) => {}
                }
                self.get_mut(ino)?.set_xattr(name, value, flags)?;
                Ok(ino)
            }
            Change::SetAcl {
                ino,
                default,
                entries,
            } => {
                self.get_mut(ino)?.set_acl(default, entries)?;
                Ok(ino)
            }
            Change::Truncate { ino, size } => {
                self.modify(ino, |contents, space| contents.truncate(size, space))?;
                Ok(ino)
            }
            Change::Allocate {
                ino,
                ref range,
                keep_size,
            } => {
                self.modify(ino, |contents, space| {
                    contents.allocate(range.clone(), keep_size, space)
                })?;
                Ok(ino)
            }
        }
    }

    /// Changes the contents of a file.
    pub(super) fn modify<T>(
        &mut self,
        ino: Ino,
        f: impl FnOnce(&mut Contents, &mut Space) -> Result<T>,
    ) -> Result<T> {
        let Self { inodes, space, .. } = self;
        let inode = inodes.get_mut(&ino.0).filter(|inode| inode.is_used());
        inode.ok_or(ESTALE)?.modify(|contents| f(contents, space))
    }

    fn make(&mut self, dir: Ino, name: &[u8], new: &NewInode, kind: Kind) -> Result<Ino> {
        self.check_new(dir, name)?;
        let inode = Inode::new(new, kind, self.get(dir)?.flags())?;
        let file_type = inode.file_type;
        let ino = self.add(inode)?;
        if let Err(error) = self.names(dir)?.insert(name, ino, file_type) {
            self.forget(ino);
            return Err(error);
        }
        self.get_mut(dir)?.touch(true);
        Ok(ino)
    }

    fn link(&mut self, dir: Ino, name: &[u8], ino: Ino) -> Result<Ino> {
        self.get(dir)?;
        let inode = self.get(ino)?;
        if inode.is_dir() {
            return Err(EPERM);
        }
        let (file_type, links) = (inode.file_type, inode.links);
        self.check_new(dir, name)?;
        if links >= LINK_MAX {
            return Err(EMLINK);
        }
        self.names(dir)?.insert(name, ino, file_type)?;
        self.get_mut(dir)?.touch(true);
        let inode = self.get_mut(ino)?;
        inode.links += 1;
        inode.touch(false);
        Ok(ino)
    }

    fn remove(&mut self, dir: Ino, name: &[u8], is_dir: bool) -> Result<Ino> {
        let (ino, file_type) = self.find(dir, name)?.ok_or(ENOENT)?;
        match (file_type == FileType::Directory, is_dir) {
            (true, false) => return Err(EISDIR),
            (false, true) => return Err(ENOTDIR),
            _ => {}
        }
        if ino == dir {
            return Err(EINVAL);
        }
        self.check_dir(dir)?;
        check_name(name)?;
        if is_dir && !self.directory(ino)?.1.is_empty() {
            return Err(ENOTEMPTY);
        }
        self.left.reserve(1, gfp())?;
        self.names(dir)?.remove(name);
        self.get_mut(dir)?.touch(true);
        self.unname(ino)?;
        Ok(ino)
    }

    /// Whether a directory is `top`, or below it.
    fn is_below(&self, dir: Ino, top: Ino) -> Result<bool> {
        let mut at = dir;
        while at != top && at != ROOT {
            at = self.directory(at)?.0;
        }
        Ok(at == top)
    }

    fn rename(
        &mut self,
        (from, name): (Ino, &[u8]),
        (to, new_name): (Ino, &[u8]),
        flags: RenameFlags,
    ) -> Result<Ino> {
        self.get(from)?;
        self.get(to)?;
        let source = self.find(from, name)?.ok_or(ENOENT)?;
        let target = self.find(to, new_name)?;
        if flags.no_replace && target.is_some() {
            return Err(EEXIST);
        }
        check_name(name)?;
        check_name(new_name)?;
        if flags.exchange && flags.whiteout {
            return Err(EINVAL);
        }
        if flags.exchange && target.is_none() {
            return Err(ENOENT);
        }
        self.check_loop(from, source, to, target, flags.exchange)?;
        self.check_dir(from)?;
        self.check_dir(to)?;
        match target {
            Some((target, _)) if target == source.0 => {}
            Some(target) if flags.exchange => {
                self.exchange((from, name, source), (to, new_name, target))?;
            }
            _ => self.replace((from, name, source), (to, new_name, target), flags)?,
        }
        Ok(source.0)
    }

    /// Checks that no directory would be moved into itself.
    fn check_loop(
        &self,
        from: Ino,
        (source, kind): Found,
        to: Ino,
        target: Option<Found>,
        exchange: bool,
    ) -> Result {
        if source == to || source == from {
            return Err(EINVAL);
        }
        let target = target.filter(|(_, kind)| *kind == FileType::Directory);
        if target.is_some_and(|(target, _)| target == from || target == to) {
            return Err(if exchange { EINVAL } else { ENOTEMPTY });
        }
        if from == to {
            return Ok(());
        }
        if kind == FileType::Directory && self.is_below(to, source)? {
            return Err(EINVAL);
        }
        match target {
            Some((target, _)) if exchange && self.is_below(from, target)? => Err(EINVAL),
            _ => Ok(()),
        }
    }

    /// A directory has another parent.
    fn set_parent(&mut self, ino: Ino, to: Ino) {
        if let Ok(Inode {
            kind: Kind::Directory { parent, .. },
            ..
        }) = self.get_mut(ino)
        {
            *parent = to;
        }
    }

    /// Two names change places: nothing needs memory.
    fn exchange(&mut self, a: (Ino, &[u8], Found), b: (Ino, &[u8], Found)) -> Result {
        let ((from, name, source), (to, new_name, target)) = (a, b);
        self.names(from)?.lead(name, target.0, target.1);
        self.names(to)?.lead(new_name, source.0, source.1);
        self.set_parent(source.0, to);
        self.set_parent(target.0, from);
        self.get_mut(from)?.touch(true);
        self.get_mut(to)?.touch(true);
        self.get_mut(source.0)?.touch(false);
        self.get_mut(target.0)?.touch(false);
        Ok(())
    }

    /// What is renamed gets the new name, and what had it loses it.
    fn replace(
        &mut self,
        (from, name, source): (Ino, &[u8], Found),
        (to, new_name, target): (Ino, &[u8], Option<Found>),
        flags: RenameFlags,
    ) -> Result {
        if let Some((target, kind)) = target {
            let moved = source.1 == FileType::Directory;
            match (moved, kind == FileType::Directory) {
                (true, false) => return Err(ENOTDIR),
                (false, true) => return Err(EISDIR),
                (true, true) if !self.directory(target)?.1.is_empty() => return Err(ENOTEMPTY),
                _ => {}
            }
        }
        self.left.reserve(1, gfp())?;
        let whiteout = match flags.whiteout {
            true => {
                let new = NewInode::with_mode(0o020_000);
                let flags = self.get(from)?.flags();
                Some(self.add(Inode::new(&new, Kind::Other, flags)?)?)
            }
            false => None,
        };
        match target {
            Some((target, _)) => {
                self.names(to)?.lead(new_name, source.0, source.1);
                self.unname(target)?;
            }
            None => {
                if let Err(error) = self.names(to)?.insert(new_name, source.0, source.1) {
                    if let Some(whiteout) = whiteout {
                        self.forget(whiteout);
                    }
                    return Err(error);
                }
            }
        }
        match whiteout {
            Some(whiteout) => self.names(from)?.lead(name, whiteout, FileType::CharDevice),
            None => self.names(from)?.remove(name),
        }
        self.set_parent(source.0, to);
        self.get_mut(from)?.touch(true);
        self.get_mut(to)?.touch(true);
        self.get_mut(source.0)?.touch(false);
        Ok(())
    }
}
