// SPDX-License-Identifier: GPL-2.0

//! The Rust API: changes.
//!
//! # Concurrency
//!
//! A change is made by the same function of [`Ext4`] as one that comes by the VFS, in one
//! transaction, under the locks of the inodes alone. It needs no lock of the VFS. Before it begins
//! it passes the volume's gate, which holds it off while the volume is frozen, and keeps the volume
//! writable until it is over.
//!
//! Names lead to inodes, which the caller does not name: they are looked up, and the change fails
//! with `ESTALE` if the name has come to lead elsewhere before the locks were had. Then it is
//! looked up again.
//!
//! What programs use has dentries and VFS inodes. [`About`] tells them, in its destructor: so that
//! happens when the change was made, and also if the future is dropped right behind it. It neither
//! sleeps nor fails: the memory for noting that an inode has no names any more is had before.
//!
//! Deleting an inode, which takes as long as it takes, is a task of the volume. If the future is
//! dropped before that is spawned, the task that looks at inodes that are being left deletes it.
//!
//! Leases of programs and delegations of NFS clients are asked back before a change, as the VFS
//! does. Nothing keeps others from being given between that and the change; so they are asked back
//! once more when it was made. So whoever has one is asked before the change is over for its
//! caller, unless the caller's future is dropped right behind it.
//!
//! Contents of a file with a VFS inode are changed by the VFS, on a thread for what may sleep; see
//! [`unattached`](aext4::unattached) for all others, and for how the one excludes the other.

use crate::api::Volume;
use crate::convert;
use crate::prepared::Prepared;
use crate::vfs_ops::Mounted;
use aext4::delete::LeavingMemory;
use aext4::unattached::Pages;
use aext4::{Ext4, Handle, InodeRef, Rename};
use core::ops::Range;
use core::time::Duration;
use disk::{gfp, vec_with_capacity};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use stack::{bytes_of, Change, Ino, OpenInode, RenameFlags, Sync as Durable};
use upcall::{Block, Blocks, Permit};
use vfs::door::{has_leases, names_changed, refresh_attached, Access, OpenFor};
use vfs::{AclEntry, MountRef, NewInode, SetAttr, XattrFlags, XattrNamespace};

/// The bits of a mode that access control lists have, too.
const PERMISSIONS: u16 = 0o777;

/// How long a change that was made waits for delegations that were given meanwhile.
const LAST_RECALL: Duration = Duration::from_secs(1);

/// What a change is about. When it goes, behind the change or instead of it, the VFS is told.
struct About<'a> {
    volume: &'a Mounted,
    /// The directories whose names change.
    dirs: [Option<&'a InodeRef>; 2],
    /// What else changes.
    inodes: [Option<&'a InodeRef>; 2],
    /// For the one of these that may lose its last name.
    memory: Option<LeavingMemory>,
}

impl Drop for About<'_> {
    fn drop(&mut self) {
        for dir in self.dirs.into_iter().flatten() {
            names_changed::<Mounted>(dir);
            refresh_attached(self.volume, dir);
        }
        for inode in self.inodes.into_iter().flatten() {
            refresh_attached(self.volume, inode);
            if inode.is_deleted() {
                if let Some(memory) = self.memory.take() {
                    self.volume.leave(inode, memory);
                }
            }
        }
    }
}

/// Whether somebody has a lease or a delegation of one of these.
fn leased(inodes: &[Option<&InodeRef>]) -> bool {
    let mut inodes = inodes.iter().flatten();
    inodes.any(|inode| has_leases::<Mounted>(inode, Access::Change))
}

impl Volume {
    /// Gets delegations back that are in the way of a change: see [`MountRef::break_leases`]. Fails
    /// with `EROFS` at once.
    async fn recall(&self, inodes: &[Option<&InodeRef>]) -> Result {
        self.0.check_writable()?;
        self.recall_for(inodes, Duration::MAX).await
    }

    async fn recall_for(&self, inodes: &[Option<&InodeRef>], limit: Duration) -> Result {
        for n in 0..inodes.len() {
            let Some(inode) = inodes.get(n).copied().flatten() else {
                continue;
            };
            if has_leases::<Mounted>(inode, Access::Change) {
                let back = || MountRef::break_leases(&self.0, inode, Access::Change, limit);
                disk::pinned(back)?.await?;
            }
        }
        Ok(())
    }

    /// Gets leases back of whoever may write what is about to be read.
    pub(crate) async fn recall_to_read(&self, file: &InodeRef) -> Result {
        MountRef::break_leases(&self.0, file, Access::Read, Duration::MAX).await
    }

    /// Ends a change: tells the VFS, and gets the delegations back that somebody got while it was
    /// made.
    async fn end(&self, about: About<'_>, permit: Permit<'_>) {
        let [a, b] = about.dirs;
        let [c, d] = about.inodes;
        drop((about, permit));
        // The change is made, whatever they do.
        let _ = self.recall_for(&[a, b, c, d], LAST_RECALL).await;
    }

    /// Begins a change.
    async fn begin(&self) -> Result<Permit<'_>> {
        self.0.check_writable()?;
        self.0.begin_change().await
    }

    fn about<'a>(
        &'a self,
        dirs: [Option<&'a InodeRef>; 2],
        inode: Option<&'a InodeRef>,
    ) -> About<'a> {
        About {
            volume: &self.0,
            dirs,
            inodes: [inode, None],
            memory: None,
        }
    }

    /// Each change is in memory of its own, which is as large as that one needs.
    pub(crate) async fn make_change(&self, change: Change<'_>) -> Result<Ino> {
        match change {
            Change::Create { dir, name, new } => {
                disk::pinned(|| self.make(dir, name, new, None))?.await
            }
            Change::Symlink {
                dir,
                name,
                target,
                new,
            } => disk::pinned(|| self.make(dir, name, new, Some(target)))?.await,
            Change::Link { dir, name, ino } => {
                disk::pinned(|| self.make_link(dir, name, ino))?.await
            }
            Change::Unlink { dir, name } => disk::pinned(|| self.remove(dir, name, false))?.await,
            Change::Rmdir { dir, name } => disk::pinned(|| self.remove(dir, name, true))?.await,
            Change::Rename {
                from,
                name,
                to,
                new_name,
                flags,
            } => disk::pinned(|| self.move_name((from, name), (to, new_name), flags))?.await,
            Change::SetAttr { ino, set } => disk::pinned(|| self.change_attr(ino, set))?.await,
            Change::SetXattr {
                ino,
                name,
                value,
                flags,
            } => disk::pinned(|| self.change_xattr(ino, name, value, flags))?.await,
            Change::SetAcl {
                ino,
                default,
                entries,
            } => disk::pinned(|| self.change_acl(ino, default, entries))?.await,
            Change::Truncate { ino, size } => disk::pinned(|| self.resize(ino, size))?.await,
            Change::Allocate {
                ino,
                range,
                keep_size,
            } => disk::pinned(|| self.provide(ino, range, keep_size))?.await,
        }
    }

    async fn make(
        &self,
        dir: Ino,
        name: &[u8],
        new: &NewInode,
        target: Option<&[u8]>,
    ) -> Result<Ino> {
        let dir = self.iget(dir).await?;
        self.recall(&[Some(&dir)]).await?;
        let permit = self.begin().await?;
        let prepared = Prepared::new(&self.0, new).await?;
        let xattrs = prepared.xattrs()?;
        let new = prepared.inode(&xattrs);
        let about = self.about([Some(&dir), None], None);
        let volume: &Ext4 = &self.0;
        let made = match target {
            Some(target) => volume.symlink(&dir, name, target, &new).await?,
            None => volume.create(&dir, name, &new).await?,
        };
        self.end(about, permit).await;
        Ok(Ino(made.ino.0))
    }

    pub(crate) async fn make_tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        let dir = self.iget(dir).await?;
        let _permit = self.begin().await?;
        let memory = self.0.leaving_memory().await?;
        let prepared = Prepared::new(&self.0, new).await?;
        let xattrs = prepared.xattrs()?;
        let volume: &Ext4 = &self.0;
        let made = Handle::new(volume.tmpfile(&dir, &prepared.inode(&xattrs)).await?);
        volume.leave(&made, memory);
        self.handle(made)
    }

    pub(crate) async fn keep(&self, ino: Ino) -> Result<OpenInode> {
        self.handle(Handle::new(self.iget(ino).await?))
    }

    /// The handle goes before the mount.
    fn handle(&self, inode: Handle) -> Result<OpenInode> {
        let ino = Ino(inode.ino.0);
        OpenInode::new(ino, (inode, self.0.clone()))
    }

    async fn make_link(&self, dir: Ino, name: &[u8], ino: Ino) -> Result<Ino> {
        let (dir, inode) = (self.iget(dir).await?, self.iget(ino).await?);
        self.recall(&[Some(&dir), Some(&inode)]).await?;
        let permit = self.begin().await?;
        let about = self.about([Some(&dir), None], Some(&inode));
        let volume: &Ext4 = &self.0;
        volume.link(&dir, name, &inode, true).await?;
        self.end(about, permit).await;
        Ok(ino)
    }

    async fn remove(&self, dir: Ino, name: &[u8], is_dir: bool) -> Result<Ino> {
        let dir = self.iget(dir).await?;
        let volume: &Ext4 = &self.0;
        let mut recalled = false;
        loop {
            let permit = self.begin().await?;
            let memory = volume.leaving_memory().await?;
            let child = volume.lookup(&dir, name).await?.ok_or(ENOENT)?;
            let found = [Some(&dir), Some(&child)];
            if !recalled && leased(&found) {
                drop(permit);
                self.recall(&found).await?;
                recalled = true;
                continue;
            }
            let mut about = self.about([Some(&dir), None], Some(&child));
            about.memory = Some(memory);
            let done = match is_dir {
                true => volume.rmdir(&dir, name, &child).await,
                false => volume.unlink(&dir, name, &child).await,
            };
            self.end(about, permit).await;
            match done {
                Err(ESTALE) => {
                    recalled = false;
                    continue;
                }
                done => done?,
            }
            let ino = Ino(child.ino.0);
            self.let_go(child).await;
            return Ok(ino);
        }
    }

    async fn move_name(
        &self,
        (from, name): (Ino, &[u8]),
        (to, new_name): (Ino, &[u8]),
        flags: RenameFlags,
    ) -> Result<Ino> {
        let (from, to) = (self.iget(from).await?, self.iget(to).await?);
        let whiteout = NewInode::with_mode(0);
        let whiteout = match flags.whiteout {
            true => Some(Prepared::new(&self.0, &whiteout).await?),
            false => None,
        };
        let whiteout = whiteout.as_ref().map(|prepared| prepared.inode(&[]));
        let volume: &Ext4 = &self.0;
        let mut recalled = false;
        loop {
            let permit = self.begin().await?;
            let memory = volume.leaving_memory().await?;
            let source = volume.lookup(&from, name).await?.ok_or(ENOENT)?;
            let target = volume.lookup(&to, new_name).await?;
            if flags.no_replace && target.is_some() {
                return Err(EEXIST);
            }
            let found = [Some(&from), Some(&to), Some(&source), target.as_ref()];
            if !recalled && leased(&found) {
                drop(permit);
                self.recall(&found).await?;
                recalled = true;
                continue;
            }
            let mut about = self.about([Some(&from), Some(&to)], Some(&source));
            about.inodes[1] = target.as_ref();
            about.memory = Some(memory);
            let rename = Rename {
                from: &from,
                name,
                source: &source,
                to: &to,
                new_name,
                target: target.as_deref(),
                exchange: flags.exchange,
                whiteout: whiteout.as_ref(),
            };
            let done = volume.rename(rename).await;
            self.end(about, permit).await;
            match done {
                // Somebody else has changed one of the names since it was looked up.
                Err(ESTALE | EEXIST) => {
                    recalled = false;
                    continue;
                }
                done => done?,
            }
            let ino = Ino(source.ino.0);
            drop(source);
            if let Some(target) = target {
                self.let_go(target).await;
            }
            return Ok(ino);
        }
    }

    /// Deletes an inode if it has no links and nobody uses it.
    async fn let_go(&self, inode: InodeRef) {
        if !inode.is_deleted() {
            return;
        }
        // If this fails the VFS lets go of it when it needs memory, and then it is deleted.
        let _ = MountRef::prune(&self.0, &inode).await;
        let volume = self.ext4().clone();
        let delete = self
            .0
            .disk
            .spawner()
            .spawn(async move { volume.delete(inode).await });
        if let Ok(deleted) = delete {
            // If it fails the inode stays on the disk's list of those to delete.
            let _ = deleted.await;
        }
    }

    async fn change_attr(&self, ino: Ino, set: &SetAttr) -> Result<Ino> {
        let inode = self.iget(ino).await?;
        self.recall(&[Some(&inode)]).await?;
        let permit = self.begin().await?;
        let about = self.about([None, None], Some(&inode));
        let volume: &Ext4 = &self.0;
        let mut set = *set;
        set.ctime = set.ctime.or(Some(convert::time(self.0.stamp(&inode))));
        let set = convert::set_attributes(&set);
        volume.set_attributes(&inode, &set).await?;
        self.end(about, permit).await;
        Ok(ino)
    }

    async fn change_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: Option<&[u8]>,
        flags: XattrFlags,
    ) -> Result<Ino> {
        let (space, name) = XattrNamespace::of_name(name).ok_or(EOPNOTSUPP)?;
        if matches!(
            space,
            XattrNamespace::AclAccess | XattrNamespace::AclDefault
        ) {
            return Err(EOPNOTSUPP);
        }
        let inode = self.iget(ino).await?;
        self.recall(&[Some(&inode)]).await?;
        let permit = self.begin().await?;
        let about = self.about([None, None], Some(&inode));
        let flags = aext4::XattrFlags {
            create: flags.create,
            replace: flags.replace,
        };
        let index = convert::prefix_index(space);
        let volume: &Ext4 = &self.0;
        volume.set_xattr(&inode, index, name, value, flags).await?;
        self.end(about, permit).await;
        Ok(ino)
    }

    async fn change_acl(
        &self,
        ino: Ino,
        default: bool,
        entries: Option<&[AclEntry]>,
    ) -> Result<Ino> {
        let inode = self.iget(ino).await?;
        if default && !inode.is_dir() {
            return Err(EACCES);
        }
        self.recall(&[Some(&inode)]).await?;
        let permit = self.begin().await?;
        let about = self.about([None, None], Some(&inode));
        let mode = match entries {
            Some(entries) if !default => {
                let was = inode.look(|inode| inode.mode);
                Some(was & !PERMISSIONS | AclEntry::permissions(entries)?)
            }
            _ => None,
        };
        let entries = entries.map(convert::layout_acl).transpose()?;
        let volume: &Ext4 = &self.0;
        volume
            .set_acl(&inode, default, entries.as_deref(), mode)
            .await?;
        self.end(about, permit).await;
        Ok(ino)
    }

    async fn resize(&self, ino: Ino, size: u64) -> Result<Ino> {
        let inode = self.iget(ino).await?;
        self.0.check_writable()?;
        match Ext4::resize(self.ext4(), &inode, size).await {
            Err(EBUSY) => {}
            done => return done.map(|()| ino),
        }
        MountRef::with_file(&self.0, ino.0, OpenFor::Writing, move |file| {
            file.truncate(size)
        })
        .await?;
        Ok(ino)
    }

    async fn provide(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Ino> {
        let inode = self.iget(ino).await?;
        self.0.check_writable()?;
        match Ext4::provide(self.ext4(), &inode, range.clone(), keep_size).await {
            Err(EBUSY) => {}
            done => return done.map(|()| ino),
        }
        let (pos, len) = (range.start, range.end.saturating_sub(range.start));
        MountRef::with_file(&self.0, ino.0, OpenFor::Writing, move |file| {
            file.allocate(pos, len, keep_size)
        })
        .await?;
        Ok(ino)
    }

    pub(crate) async fn put_bytes(
        &self,
        ino: Ino,
        pos: Option<u64>,
        bytes: &[u8],
    ) -> Result<(u64, usize)> {
        let inode = self.iget(ino).await?;
        self.0.check_writable()?;
        let volume = self.ext4();
        let written = match pos {
            Some(pos) => Ext4::write_at(volume, &inode, pos, bytes, true)
                .await
                .map(|count| (pos, count)),
            None => Ext4::append(volume, &inode, bytes, true).await,
        };
        match written {
            Err(EBUSY) => self.put_by_vfs(ino, pos, bytes).await,
            written => written,
        }
    }

    pub(crate) async fn put_block(&self, ino: Ino, pos: u64, block: &mut Block) -> Result<usize> {
        let inode = self.iget(ino).await?;
        self.0.check_writable()?;
        let pages = Pages::One(block);
        match Ext4::write_pages(self.ext4(), &inode, pos, pages, true).await {
            Err(EBUSY) => {
                let (_, count) = self.put_by_vfs(ino, Some(pos), block.as_slice()).await?;
                Ok(count)
            }
            written => written,
        }
    }

    pub(crate) async fn put_blocks(
        &self,
        ino: Ino,
        range: Range<u64>,
        blocks: &mut Blocks,
    ) -> Result<usize> {
        let len = blocks.check_range(&range)?;
        let inode = self.iget(ino).await?;
        self.0.check_writable()?;
        let pages = Pages::Many(blocks, len);
        match Ext4::write_pages(self.ext4(), &inode, range.start, pages, true).await {
            Err(EBUSY) => {
                let bytes = bytes_of(blocks, len)?;
                let (_, count) = self.put_by_vfs(ino, Some(range.start), &bytes).await?;
                Ok(count)
            }
            written => written,
        }
    }

    /// Writes to a file that has a VFS inode.
    async fn put_by_vfs(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let mut copy: KVVec<u8> = vec_with_capacity(self.0.disk.spawner(), bytes.len()).await?;
        copy.extend_from_slice(bytes, gfp())?;
        let how = match pos {
            Some(_) => OpenFor::Writing,
            None => OpenFor::Appending,
        };
        MountRef::with_file(&self.0, ino.0, how, move |file| {
            file.write(pos.unwrap_or(0), &copy)
        })
        .await
    }

    /// Reads by the VFS what the page cache has in part.
    pub(crate) async fn read_by_vfs(&self, ino: Ino, pos: u64, len: usize) -> Result<KVVec<u8>> {
        let mut bytes: KVVec<u8> = vec_with_capacity(self.0.disk.spawner(), len).await?;
        bytes.resize(len, 0, gfp())?;
        MountRef::with_file(&self.0, ino.0, OpenFor::Reading, move |file| {
            let count = file.read(pos, &mut bytes)?;
            bytes.truncate(count);
            Ok(bytes)
        })
        .await
    }

    pub(crate) async fn wait_durable(&self, what: Durable) -> Result {
        let volume: &Ext4 = &self.0;
        match what {
            Durable::All => {
                MountRef::write_back_all(&self.0).await?;
                volume.sync().await
            }
            Durable::Inode(ino) | Durable::Data(ino) => {
                let inode = self.iget(ino).await?;
                if inode.attached.has_dirty() {
                    MountRef::write_back(&self.0, &inode).await?;
                }
                volume.sync_inode(&inode).await
            }
        }
    }
}

/// Copies what the VFS has read to the start of a block. Returns how many bytes there are.
pub(crate) fn into_block(bytes: &[u8], block: &mut Block) -> Result<usize> {
    block.fill_vacant()?;
    into_page(bytes, block.as_mut_slice());
    Ok(bytes.len())
}

/// As [`into_block`], to many pages.
pub(crate) fn into_blocks(bytes: &[u8], blocks: &mut Blocks) -> Result<usize> {
    blocks.fill_vacant()?;
    for (n, part) in bytes.chunks(Block::SIZE).enumerate() {
        into_page(part, blocks.page_mut(n));
    }
    Ok(bytes.len())
}

fn into_page(bytes: &[u8], page: &mut [u8]) {
    let rest = Iterator::chain(bytes.iter().copied(), core::iter::repeat(0));
    for (to, from) in page.iter_mut().zip(rest) {
        *to = from;
    }
}
