// SPDX-License-Identifier: GPL-2.0

//! What an overlay does to its upper file system.

use super::nodes::Node;
use super::{is_whiteout, Overlay, RenameFlags, OPAQUE, OWN};
use crate::asynchronous::{AsyncStackable, Ino};
use crate::change::{Change, OpenInode};
use kernel::prelude::*;
use kernel::sync::Arc;
use vfs::{DirBatch, FileType, NewInode, XattrFlags};

/// A name changes what it leads to: the two are exchanged.
const EXCHANGE: RenameFlags = RenameFlags {
    no_replace: false,
    exchange: true,
    whiteout: false,
};

/// A name that is about to be changed.
struct Place {
    dir: Arc<Node>,
    /// The number of what is above, and whether it is a whiteout.
    above: Option<(Ino, bool)>,
    /// Whether something is below.
    below: bool,
    /// What the name leads to.
    node: Option<(Arc<Node>, FileType)>,
}

impl<L: AsyncStackable, U: AsyncStackable> Overlay<L, U> {
    /// The number above of what is to be written.
    pub(super) async fn to_write(&self, ino: Ino) -> Result<Ino> {
        let node = self.nodes.get(ino)?;
        if let Some(upper) = node.upper() {
            return Ok(upper);
        }
        let _lock = self.changes.lock().await.map_err(|_| ESHUTDOWN)?;
        self.copy_up(ino).await
    }

    pub(super) async fn make_tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        let dir = self.to_write(dir).await?;
        let made = self.upper.tmpfile(dir, new).await?;
        let node = self.nodes.add(Ino(0), b"", Some(made.ino()), None)?;
        OpenInode::new(node.ino, made)
    }

    pub(super) async fn make_change(&self, change: &Change<'_>) -> Result<Ino> {
        match *change {
            Change::SetXattr { name, .. } if name.starts_with(OWN) => Err(EOPNOTSUPP),
            Change::SetAttr { ino, .. }
            | Change::SetXattr { ino, .. }
            | Change::SetAcl { ino, .. }
            | Change::Truncate { ino, .. }
            | Change::Allocate { ino, .. } => {
                let upper = self.to_write(ino).await?;
                self.upper
                    .change(change.clone().with_inos(|_| upper))
                    .await?;
                Ok(ino)
            }
            Change::Create { dir, name, new } => self.make(dir, name, new, None, None).await,
            Change::Symlink {
                dir,
                name,
                target,
                new,
            } => self.make(dir, name, new, Some(target), None).await,
            Change::Link { dir, name, ino } => {
                let new = NewInode::with_mode(0);
                self.make(dir, name, &new, None, Some(ino)).await
            }
            Change::Unlink { dir, name } => self.remove(dir, name, false).await,
            Change::Rmdir { dir, name } => self.remove(dir, name, true).await,
            Change::Rename {
                from,
                name,
                to,
                new_name,
                flags,
            } => self.move_name((from, name), (to, new_name), flags).await,
        }
    }

    /// Looks at a name. The caller has the lock for changes.
    async fn look(&self, dir: Ino, name: &[u8]) -> Result<Place> {
        let dir = self.nodes.get(dir)?;
        let node = self.find(&dir, name).await?;
        let node = match node {
            Some(node) => {
                let file_type = self.stat(node.ino).await?.file_type;
                Some((node, file_type))
            }
            None => None,
        };
        let dots = name == b"." || name == b"..";
        let above = match dots {
            true => None,
            false => self.above(&dir, name).await?,
        };
        let below = !dots && self.below(&dir, name).await?.is_some();
        Ok(Place {
            dir,
            above: above.map(|(ino, attr)| (ino, is_whiteout(&attr))),
            below,
            node,
        })
    }

    /// Makes what is named, or one more name of `of`.
    async fn make(
        &self,
        dir: Ino,
        name: &[u8],
        new: &NewInode,
        target: Option<&[u8]>,
        of: Option<Ino>,
    ) -> Result<Ino> {
        let _lock = self.changes.lock().await.map_err(|_| ESHUTDOWN)?;
        let linked = match of {
            Some(ino) if self.stat(ino).await?.file_type == FileType::Directory => {
                return Err(EPERM);
            }
            Some(ino) => Some(self.copy_up(ino).await?),
            None => None,
        };
        if new.mode & 0o170_000 == 0o020_000 && new.device == (0, 0) {
            // It would be a whiteout.
            return Err(EPERM);
        }
        if linked.is_none() && target.is_none() {
            match FileType::from_dt((new.mode >> 12) as u8) {
                FileType::Unknown | FileType::Symlink => return Err(EINVAL),
                _ => {}
            }
        }
        let place = self.look(dir, name).await?;
        if place.node.is_some() {
            return Err(EEXIST);
        }
        let dir = self.copy_up(dir).await?;
        let make = async |dir: Ino, name: &[u8]| match (linked, target) {
            (Some(ino), _) => self.upper.link(dir, name, ino).await,
            (_, Some(target)) => self.make_link(dir, name, target, new).await,
            _ => self.upper.create(dir, name, new).await,
        };
        let made = match place.above {
            None => make(dir, name).await?,
            Some(_) => {
                let temp = self.work_name();
                let made = make(self.work, &temp).await?;
                let is_dir = linked.is_none() && new.mode & 0o170_000 == 0o040_000;
                self.put(made, &temp, (dir, name), is_dir && target.is_none())
                    .await?;
                made
            }
        };
        match of {
            Some(ino) => Ok(ino),
            None => Ok(self.nodes.add(place.dir.ino, name, Some(made), None)?.ino),
        }
    }

    /// Puts what was made in the work directory in the place of a whiteout, or of a directory.
    async fn put(&self, made: Ino, temp: &[u8], to: (Ino, &[u8]), is_dir: bool) -> Result {
        if !is_dir {
            let flags = RenameFlags::default();
            self.upper
                .rename(self.work, temp, to.0, to.1, flags)
                .await?;
            return Ok(());
        }
        self.hide_below(made).await?;
        self.swap(temp, to).await
    }

    /// A directory above hides what is below.
    async fn hide_below(&self, dir: Ino) -> Result {
        let flags = XattrFlags::default();
        self.upper
            .setxattr(dir, OPAQUE, b"y", flags)
            .await
            .map(drop)
    }

    /// Exchanges what is in the work directory with what has a name, which is removed.
    async fn swap(&self, temp: &[u8], to: (Ino, &[u8])) -> Result {
        self.upper
            .rename(self.work, temp, to.0, to.1, EXCHANGE)
            .await?;
        self.discard(temp).await
    }

    /// Removes something from the work directory.
    async fn discard(&self, temp: &[u8]) -> Result {
        if self.upper.unlink(self.work, temp).await != Err(EISDIR) {
            return Ok(());
        }
        let old = self.upper.lookup(self.work, temp).await?;
        disk::pinned(|| self.empty(old))?.await?;
        self.upper.rmdir(self.work, temp).await.map(drop)
    }

    /// Whether no names are left in a directory, above or below.
    async fn is_empty(&self, dir: Ino) -> Result<bool> {
        let (mut batch, mut pos) = (DirBatch::new(), 0);
        loop {
            batch.clear();
            self.list(dir, pos, &mut batch).await?;
            let mut names = batch.iter().map(|entry| entry.name);
            if names.any(|name| name != b"." && name != b"..") {
                return Ok(false);
            }
            match batch.next() {
                Some(next) => pos = next,
                None => return Ok(true),
            }
        }
    }

    async fn remove(&self, dir: Ino, name: &[u8], is_dir: bool) -> Result<Ino> {
        let _lock = self.changes.lock().await.map_err(|_| ESHUTDOWN)?;
        let place = self.look(dir, name).await?;
        let (node, file_type) = place.node.as_ref().ok_or(ENOENT)?;
        match (*file_type == FileType::Directory, is_dir) {
            (true, false) => return Err(EISDIR),
            (false, true) => return Err(ENOTDIR),
            _ => {}
        }
        if name == b"." || name == b".." {
            return Err(EINVAL);
        }
        if is_dir && !self.is_empty(node.ino).await? {
            return Err(ENOTEMPTY);
        }
        let upper = self.copy_up(dir).await?;
        match (place.above, place.below) {
            (None, _) => {
                let whiteout = NewInode::with_mode(0o020_000);
                self.upper.create(upper, name, &whiteout).await?;
            }
            (Some(_), true) => {
                let temp = self.work_name();
                let whiteout = NewInode::with_mode(0o020_000);
                self.upper.create(self.work, &temp, &whiteout).await?;
                self.swap(&temp, (upper, name)).await?;
            }
            (Some(_), false) if is_dir => {
                // There may be whiteouts in it.
                let (temp, flags) = (self.work_name(), RenameFlags::default());
                self.upper
                    .rename(upper, name, self.work, &temp, flags)
                    .await?;
                self.discard(&temp).await?;
            }
            (Some(_), false) => {
                self.upper.unlink(upper, name).await?;
            }
        }
        node.set_gone();
        Ok(node.ino)
    }

    /// Whether a directory that is above alone is `top`, or below it.
    async fn is_within(&self, dir: Ino, top: Ino) -> Result<bool> {
        let mut at = self.nodes.get(dir)?;
        while at.ino != top && at.ino != super::ROOT {
            at = self.find(&at, b"..").await?.ok_or(ESTALE)?;
        }
        Ok(at.ino == top)
    }

    async fn move_name(
        &self,
        (from, name): (Ino, &[u8]),
        (to, new_name): (Ino, &[u8]),
        flags: RenameFlags,
    ) -> Result<Ino> {
        let _lock = self.changes.lock().await.map_err(|_| ESHUTDOWN)?;
        self.nodes.get(to)?;
        let old = self.look(from, name).await?;
        let (source, kind) = old.node.as_ref().ok_or(ENOENT)?;
        let new = self.look(to, new_name).await?;
        if flags.no_replace && new.node.is_some() {
            return Err(EEXIST);
        }
        if flags.whiteout
            || [name, new_name]
                .iter()
                .any(|name| *name == b"." || *name == b"..")
        {
            return Err(EINVAL);
        }
        let is_dir = |kind: FileType| kind == FileType::Directory;
        let moves_below = |node: &Node, kind| is_dir(kind) && node.lower.is_some();
        if source.ino == to || is_dir(*kind) && self.is_within(to, source.ino).await? {
            return Err(EINVAL);
        }
        if let Some((target, target_kind)) = &new.node {
            if target.ino == source.ino {
                return Ok(source.ino);
            }
            let within = is_dir(*target_kind) && self.is_within(from, target.ino).await?;
            match (within, flags.exchange) {
                (true, true) => return Err(EINVAL),
                (true, false) => return Err(ENOTEMPTY),
                (false, true) if moves_below(target, *target_kind) => return Err(EXDEV),
                (false, true) => {}
                (false, false) => match (is_dir(*kind), is_dir(*target_kind)) {
                    (true, false) => return Err(ENOTDIR),
                    (false, true) => return Err(EISDIR),
                    (true, true) if !self.is_empty(target.ino).await? => return Err(ENOTEMPTY),
                    _ => {}
                },
            }
        } else if flags.exchange {
            return Err(ENOENT);
        }
        if moves_below(source, *kind) {
            return Err(EXDEV);
        }
        let moved = self.copy_up(source.ino).await?;
        let dirs = (self.copy_up(from).await?, self.copy_up(to).await?);
        if is_dir(*kind) && new.below {
            self.hide_below(moved).await?;
        }
        if flags.exchange {
            let (target, target_kind) = new.node.as_ref().ok_or(ENOENT)?;
            let other = self.copy_up(target.ino).await?;
            if is_dir(*target_kind) && old.below {
                self.hide_below(other).await?;
            }
            self.upper
                .rename(dirs.0, name, dirs.1, new_name, EXCHANGE)
                .await?;
            return Ok(source.ino);
        }
        match new.above {
            // A directory takes the place of a whiteout, which takes the old one.
            Some((_, true)) if is_dir(*kind) => {
                self.upper
                    .rename(dirs.0, name, dirs.1, new_name, EXCHANGE)
                    .await?;
                if !old.below {
                    self.upper.unlink(dirs.0, name).await?;
                }
                return Ok(source.ino);
            }
            // Only whiteouts are in it, and it cannot be replaced as long as they are.
            Some((target, false)) if is_dir(*kind) => {
                let temp = self.work_name();
                let attr = self.upper.stat(target).await?;
                let empty = NewInode::with_mode(attr.mode).owned_by(attr.uid, attr.gid);
                let made = self.upper.create(self.work, &temp, &empty).await?;
                self.copy_attributes(&self.upper, target, made, &attr)
                    .await?;
                self.put(made, &temp, (dirs.1, new_name), true).await?;
            }
            _ => {}
        }
        let flags = RenameFlags {
            whiteout: old.below,
            ..RenameFlags::default()
        };
        self.upper
            .rename(dirs.0, name, dirs.1, new_name, flags)
            .await?;
        if let Some((target, _)) = &new.node {
            target.set_gone();
        }
        Ok(source.ino)
    }
}
