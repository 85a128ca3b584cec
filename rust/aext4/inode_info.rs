// SPDX-License-Identifier: GPL-2.0

//! [`InodeInfo`]: what the file system knows of an inode, and the table of them.
//!
//! It is light: the checked inode, what was found of its map, and for small files and links what
//! lies in the inode itself. Both interfaces share it; it needs no VFS inode.
//!
//! # Concurrency
//!
//! The inode changes with the bytes that a [`Transaction`](crate::journal::Transaction) edits:
//! [`InodeInfo::inode`] is a copy of what it is now, and whoever needs that it stays so has
//! [`rwsem`](InodeInfo::rwsem). The table has at most one
//! `InodeInfo` for an inode; two who read the same inode at the same time both make one, and the
//! second to come back takes the first's. It leaves the table only when it has no users, which is
//! told under the table's lock: a user can be added to one without users only there. Those without
//! users stay until there are many, the superblock's shrinker is asked for memory, or the volume
//! goes.
//!
//! How many have no users is counted beside the lock, since a user may leave in any context: an RCU
//! callback among them. The count may be off for a moment, and only says when to make room.

use crate::delete::LeavingMemory;
use crate::error::{corrupted, About, OrReport};
use crate::ext4::Ext4;
use crate::map::ExtentCache;
use crate::pending::Pending;
use core::ops::Deref;
use disk::{gfp, Attached, Buf, Level};
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use layout::{DataMap, FileType, InlineData, Ino, Inode, InodeFlags, Lblk, NokeyName, Owner};
use upcall::atomic::{Acquire, Atomic, Full, Relaxed, Release};
use upcall::RwSemaphore;

/// From how many inodes without users on the table makes room for each new one: some 32 MiB.
const UNUSED_INODES_MAX: usize = 1 << 16;

/// How many entries are examined under the table's lock at a time, to make room.
const SWEEP_INODES: usize = 16;

/// What the file system knows of an inode.
#[pin_data]
pub struct InodeInfo {
    /// The inode's number.
    pub ino: Ino,
    /// Its type.
    pub file_type: FileType,
    /// What the checksums of its blocks depend on.
    pub owner: Owner,
    /// Where the inode lies: a block of the volume, and the offset in it.
    pub place: (u64, u32),
    /// Inline data as it was read, or the target of a fast or an encrypted link with a zero at its
    /// end. A file whose data moves to blocks keeps it: somebody may look at it still.
    pub inline: KVec<u8>,
    /// Held to read for what looks at a directory's entries, at attributes, or at more than one
    /// field of the inode; to write for what changes any of them.
    pub rwsem: RwSemaphore<()>,
    /// Held to write for a change of the map, and of what is on its way to the device. Who looks at
    /// the map needs it only to wait for a change. Taken after `rwsem`, and after the locks of
    /// folios.
    pub map_lock: RwSemaphore<()>,
    /// The inode as it is now, and the number of the edit that made it so.
    #[pin]
    inode: SpinLock<(u64, Inode)>,
    /// Its size and flags once more: a read of the contents looks at them without the lock.
    size: Atomic<u64>,
    flags: Atomic<u32>,
    /// How often its bytes were edited.
    edits: Atomic<u64>,
    /// The last transaction that changed it, and 1 above its 32 bits; 0 if none did.
    changed_in: Atomic<u64>,
    /// The same of its map, or its size.
    map_changed_in: Atomic<u64>,
    /// What was found of its map.
    #[pin]
    pub extents: SpinLock<ExtentCache>,
    /// What was written and is not in its map.
    #[pin]
    pub(crate) pending: SpinLock<Pending>,
    /// How often its map, or what is pending, has changed.
    map_seq: Atomic<u32>,
    /// How often blocks were taken out of its map.
    unmaps: Atomic<u32>,
    /// It was emptied, so that what replaces its contents goes to the disk when it is closed.
    flush_on_close: Atomic<bool>,
    /// Its VFS inode, if it has one.
    pub attached: Attached,
    /// Handles of the Rust API, which keep it usable when it has no links any more.
    handles: Atomic<usize>,
    /// References but the table's.
    users: Atomic<usize>,
    /// How many inodes of the table have no users.
    unused: Arc<Unused>,
}

/// Makes one that is in no table, with one user.
///
/// Not in the caller, which is an `async fn` and so compiled into whatever module polls it: lockdep
/// would have the lock's name from there.
#[inline(never)]
fn new_inode_info(
    inode: Inode,
    place: (u64, u32),
    inline: KVec<u8>,
    unused: Arc<Unused>,
) -> Result<Arc<InodeInfo>> {
    Arc::pin_init(
        pin_init!(InodeInfo {
            ino: inode.ino,
            file_type: inode.file_type,
            owner: inode.owner,
            place,
            inline,
            rwsem: RwSemaphore::new(()),
            map_lock: RwSemaphore::new(()),
            size: Atomic::new(inode.size),
            flags: Atomic::new(inode.flags.0),
            inode <- new_spinlock!((0, inode)),
            edits: Atomic::new(0),
            changed_in: Atomic::new(0),
            map_changed_in: Atomic::new(0),
            extents <- new_spinlock!(ExtentCache::new()),
            pending <- new_spinlock!(Pending::new()),
            map_seq: Atomic::new(0),
            unmaps: Atomic::new(0),
            flush_on_close: Atomic::new(false),
            attached: Attached::new(),
            handles: Atomic::new(0),
            users: Atomic::new(1),
            unused,
        }),
        gfp(),
    )
}

impl InodeInfo {
    /// The inode as it is now.
    pub fn inode(&self) -> Inode {
        self.inode.lock().1
    }

    /// What `look` says of the inode as it is now. It is called under a spinlock.
    pub fn look<R>(&self, look: impl FnOnce(&Inode) -> R) -> R {
        look(&self.inode.lock().1)
    }

    /// It was emptied, and something may replace its contents.
    pub(crate) fn set_flush_on_close(&self) {
        self.flush_on_close.store(true, Release);
    }

    /// Whether it was emptied since this was asked last.
    pub fn take_flush_on_close(&self) -> bool {
        self.flush_on_close.xchg(false, Full)
    }

    /// The size in bytes. Any context.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size.load(Acquire)
    }

    /// The flags. Any context.
    #[inline]
    pub fn flags(&self) -> InodeFlags {
        InodeFlags(self.flags.load(Acquire))
    }

    /// Where the contents lie.
    pub fn data_map(&self) -> DataMap {
        self.look(Inode::data_map)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Whether it is a directory with an index.
    pub fn is_indexed(&self) -> bool {
        self.look(Inode::is_indexed)
    }

    /// Whether it is a link whose target is in [`inline`](Self::inline).
    pub fn has_fast_target(&self) -> bool {
        self.look(|inode| inode.fast_symlink().is_some() || inode.is_encrypted_link())
    }

    /// Whether nothing leads to it any more: it is deleted with its last user.
    pub fn is_deleted(&self) -> bool {
        self.look(|inode| inode.links == 0)
    }

    /// Whether somebody who has its number may use it: it has links, or somebody has a handle on it.
    #[inline]
    pub fn is_usable(&self) -> bool {
        self.handles.load(Acquire) > 0 || !self.is_deleted()
    }

    /// The sequence of its map: what was found of the map counts no more when this is another.
    pub fn map_seq(&self) -> u32 {
        self.map_seq.load(Acquire)
    }

    /// How often blocks were taken out of its map. Who reads from blocks past the page cache looks
    /// before it looks at the map, and again when it has read: if the number is another, what was
    /// read may be what others have written to them.
    #[inline]
    pub(crate) fn unmaps(&self) -> u32 {
        self.unmaps.load(Acquire)
    }

    /// Says that blocks are taken out of the map, before they are free.
    pub(crate) fn count_unmap(&self) {
        self.unmaps.fetch_add(1, Full);
    }

    /// Says that the map, or what is pending, has changed.
    pub(crate) fn bump_map_seq(&self) {
        self.map_seq.fetch_add(1, Full);
    }

    /// The number of an edit of its bytes. Taken under the lock of the block.
    pub(crate) fn next_edit(&self) -> u64 {
        self.edits.fetch_add(1, Relaxed) + 1
    }

    /// Makes `inode`, which the edit with that number made, what it is, unless a later one has.
    pub(crate) fn store(&self, edit: u64, inode: &Inode) {
        let mut now = self.inode.lock();
        if now.0 < edit {
            *now = (edit, *inode);
            self.size.store(inode.size, Release);
            self.flags.store(inode.flags.0, Release);
        }
    }

    /// The last transaction that changed it.
    pub(crate) fn changed_in(&self) -> Option<u32> {
        let changed = self.changed_in.load(Acquire);
        (changed != 0).then_some(changed as u32)
    }

    /// The last transaction that changed its map, or its size, or made it.
    pub(crate) fn map_changed_in(&self) -> Option<u32> {
        let changed = self.map_changed_in.load(Acquire);
        (changed != 0).then_some(changed as u32)
    }

    /// Says that an open transaction has changed its map or its size.
    pub(crate) fn set_map_changed_in(&self, tid: u32) {
        self.map_changed_in.store(u64::from(tid) | 1 << 32, Release);
    }

    /// Says that an open transaction has changed it.
    pub(crate) fn set_changed_in(&self, tid: u32) {
        self.changed_in.store(u64::from(tid) | 1 << 32, Release);
    }
}

/// A count of inodes without users.
pub(crate) struct Unused(Atomic<usize>);

impl Unused {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self(Atomic::new(0)), GFP_KERNEL)?)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        (self.0.load(Relaxed) as isize).max(0) as usize
    }
}

/// A reference on an inode that is, or was, in the table: a user.
///
/// # Invariants
///
/// It is counted in `users`.
pub struct InodeRef(Arc<InodeInfo>);

impl Deref for InodeRef {
    type Target = InodeInfo;

    fn deref(&self) -> &InodeInfo {
        &self.0
    }
}

impl InodeRef {
    fn new(info: Arc<InodeInfo>) -> Self {
        if info.users.fetch_add(1, Relaxed) == 0 {
            info.unused.0.fetch_sub(1, Relaxed);
        }
        // INVARIANT: We have counted.
        Self(info)
    }
}

impl Clone for InodeRef {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Full) == 1 {
            self.0.unused.0.fetch_add(1, Relaxed);
        }
    }
}

/// A handle on an inode: its number can be used as long as there is one, also if the inode has no
/// links any more. With the last user the inode is deleted then; who takes its last link away notes
/// that, so a handle may be dropped in any context.
pub struct Handle(InodeRef);

impl Handle {
    /// Makes one more handle on an inode that is [usable](InodeInfo::is_usable).
    pub fn new(info: InodeRef) -> Self {
        info.handles.fetch_add(1, Relaxed);
        Self(info)
    }
}

impl Deref for Handle {
    type Target = InodeRef;

    fn deref(&self) -> &InodeRef {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.handles.fetch_sub(1, Release);
    }
}

/// The inodes of a volume that are in memory, by number.
pub struct InodeTable {
    inodes: RBTree<u32, Arc<InodeInfo>>,
    len: usize,
    /// Where the next sweep begins.
    hand: u32,
    unused: Arc<Unused>,
    /// Inodes without links that have users still, by number: see [`delete`](crate::delete).
    leaving: RBTree<u32, ()>,
}

impl InodeTable {
    pub(crate) fn new(unused: Arc<Unused>) -> Self {
        Self {
            inodes: RBTree::new(),
            leaving: RBTree::new(),
            len: 0,
            hand: 0,
            unused,
        }
    }

    /// How many inodes there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn get(&self, ino: Ino) -> Option<InodeRef> {
        self.inodes
            .get(&ino.0)
            .map(|info| InodeRef::new(info.clone()))
    }

    /// Takes an inode without links out, if the caller has the one reference.
    pub(crate) fn remove_alone(
        &mut self,
        info: &InodeRef,
    ) -> Option<RBTreeNode<u32, Arc<InodeInfo>>> {
        let alone = info.0.users.load(Acquire) == 1 && info.is_deleted();
        alone.then(|| self.remove(info)).flatten()
    }

    /// Takes an inode out that a user has: the number is free, and may soon be another inode's.
    pub(crate) fn remove(&mut self, info: &InodeRef) -> Option<RBTreeNode<u32, Arc<InodeInfo>>> {
        let same = |other: &Arc<InodeInfo>| Arc::ptr_eq(other, &info.0);
        if !self.inodes.get(&info.ino.0).is_some_and(same) {
            return None;
        }
        let node = self.inodes.remove_node(&info.ino.0)?;
        self.len -= 1;
        // The last user to go counts it as one of the table.
        self.unused.0.fetch_sub(1, Relaxed);
        Some(node)
    }

    /// Notes that an inode without links is being left.
    pub(crate) fn set_leaving(&mut self, ino: Ino, memory: LeavingMemory) {
        self.leaving.insert(memory.into_node(ino.0, ()));
    }

    /// The first inode from number `from` on that is being left.
    pub(crate) fn next_leaving(&self, from: u32) -> Option<Ino> {
        let cursor = self.leaving.cursor_lower_bound(&from)?;
        Some(Ino(*cursor.current().0))
    }

    /// Looks at an inode that is being left: `None` if it is not any more, else a reference if
    /// nobody has one. It is not noted from then on unless somebody has. `freed` is for the caller
    /// to drop without the lock.
    pub(crate) fn look_leaving(
        &mut self,
        ino: Ino,
        freed: &mut Option<RBTreeNode<u32, ()>>,
    ) -> Option<Option<InodeRef>> {
        let info = self.inodes.get(&ino.0).filter(|info| info.is_deleted());
        let found = match info {
            Some(info) if info.users.load(Acquire) > 0 => return Some(None),
            info => info.map(|info| InodeRef::new(info.clone())),
        };
        *freed = self.leaving.remove_node(&ino.0);
        found.map(Some)
    }

    /// Takes those of the next few inodes out that have no users, for the caller to drop when it
    /// has released the lock.
    fn sweep(&mut self, unused: &mut [Option<RBTreeNode<u32, Arc<InodeInfo>>>; SWEEP_INODES]) {
        let mut cursor = self.inodes.cursor_lower_bound_mut(&self.hand);
        for slot in unused {
            let Some(at) = cursor else {
                self.hand = 0;
                return;
            };
            let (&ino, info) = at.current();
            self.hand = ino.saturating_add(1);
            // One without links is deleted, by who let go of it.
            cursor = if info.users.load(Acquire) == 0 && !info.is_deleted() {
                let (next, node) = at.remove_current();
                *slot = Some(node);
                self.len -= 1;
                self.unused.0.fetch_sub(1, Relaxed);
                // Behind the last it is the one before.
                next.filter(|next| *next.current().0 > ino)
            } else {
                at.move_next()
            };
        }
    }
}

/// What will be known of a new inode, which is in no table yet, and has one user.
pub(crate) struct NewInfo {
    info: Arc<InodeInfo>,
    entry: RBTreeNode<u32, Arc<InodeInfo>>,
}

impl Deref for NewInfo {
    type Target = InodeInfo;

    fn deref(&self) -> &InodeInfo {
        &self.info
    }
}

impl Ext4 {
    /// Makes the `InodeInfo` of a new inode, which will be at `place`.
    pub(crate) fn new_info(&self, inode: &Inode, place: (u64, u32)) -> Result<NewInfo> {
        let mut target = KVec::new();
        if let Some(fast) = inode.fast_symlink() {
            target.extend_from_slice(fast, gfp())?;
            target.push(0, gfp())?;
        }
        let info = new_inode_info(*inode, place, target, self.unused.clone())?;
        let entry = RBTreeNode::new(inode.ino.0, info.clone(), gfp())?;
        Ok(NewInfo { info, entry })
    }

    /// Enters a new inode into the table, unless somebody has read it since it is on the disk. Gives
    /// the one that is there. Does not sleep.
    pub(crate) fn enter(&self, new: NewInfo) -> InodeRef {
        let NewInfo { info, entry } = new;
        let mut unused = [const { None }; SWEEP_INODES];
        let mut table = self.inodes.lock();
        if let Some(first) = table.get(info.ino) {
            drop(table);
            return first;
        }
        table.inodes.insert(entry);
        table.len += 1;
        // INVARIANT: It was made with one user, which is this one.
        let info = InodeRef(info);
        if self.unused.count() > UNUSED_INODES_MAX {
            table.sweep(&mut unused);
        }
        // The lock goes before what was taken out.
        info
    }

    /// The `InodeInfo` of inode `ino`, from the table or from the disk.
    ///
    /// Fails with `ESTALE` if the inode is not in use.
    pub async fn iget(&self, ino: Ino) -> Result<InodeRef> {
        self.iget_as(ino, false).await
    }

    /// As [`iget`](Self::iget), for an inode on the list of orphans, which may have no links.
    pub(crate) async fn iget_orphan(&self, ino: Ino) -> Result<InodeRef> {
        self.iget_as(ino, true).await
    }

    /// The `InodeInfo` of inode `ino`, if it is in the table. Does not sleep.
    fn known(&self, ino: Ino) -> Option<InodeRef> {
        self.inodes.lock().get(ino)
    }

    async fn iget_as(&self, ino: Ino, orphan: bool) -> Result<InodeRef> {
        loop {
            if let Some(info) = self.known(ino) {
                return Ok(info);
            }
            match self.read_inode(ino, orphan).await {
                // An upcall does not wait for reclaim in the allocation, but here.
                Err(ENOMEM) if upcall::on_worker() => upcall::memory_freed().await,
                read => return read,
            }
        }
    }

    /// Reads an inode, and enters it into the table.
    async fn read_inode(&self, ino: Ino, orphan: bool) -> Result<InodeRef> {
        let (pblk, offset) = self.inode_place(ino).or_report(self, About::inode(ino))?;
        let around = self.inodes_around(ino, pblk);
        let buffer = self.block_ahead(pblk, around).await?;
        let info = self.parse_inode(ino, (pblk.0, offset), &buffer, orphan)?;
        let info = if info.look(Inode::is_encrypted_link) && info.inline.is_empty() {
            // Seldom: it is not to make every future larger.
            disk::pinned(|| self.with_target(&info))?.await?
        } else {
            info
        };
        if let Some(journal) = self.journal() {
            // Somebody may have changed it, and let go of it: who syncs it waits for that.
            let tid = journal.running_tid();
            info.set_changed_in(tid);
            info.set_map_changed_in(tid);
        }
        // Allocated, and freed, outside of the lock.
        let entry = RBTreeNode::new(ino.0, info.clone(), gfp())?;
        let mut unused = [const { None }; SWEEP_INODES];
        let mut table = self.inodes.lock();
        if let Some(first) = table.get(ino) {
            drop(table);
            return Ok(first);
        }
        table.inodes.insert(entry);
        table.len += 1;
        // INVARIANT: It was made with one user, which is this one.
        let info = InodeRef(info);
        if self.unused.count() > UNUSED_INODES_MAX {
            table.sweep(&mut unused);
        }
        // The lock goes before what was taken out.
        Ok(info)
    }

    /// The `InodeInfo` of inode `ino`, for one who was given the number: a name, a file handle, a
    /// user of the Rust API.
    ///
    /// Fails with `ESTALE` if the inode is not in use, or one that the volume keeps for itself, and
    /// with `EUCLEAN` if it holds the value of an attribute.
    pub async fn iget_user(&self, ino: Ino) -> Result<InodeRef> {
        match self.iget_user_cached(ino)? {
            Some(info) => Ok(info),
            None => self.check_user(self.iget_as(ino, false).await?),
        }
    }

    /// As [`iget_user`](Self::iget_user), from the table alone: `None` if it is not there. Does not
    /// sleep.
    ///
    /// A future that need not wait costs some 60 instructions, which is much beside a read.
    pub fn iget_user_cached(&self, ino: Ino) -> Result<Option<InodeRef>> {
        if !self.sb.geo.is_user_ino(ino) {
            return Err(ESTALE);
        }
        let known = self.known(ino);
        known.map(|info| self.check_user(info)).transpose()
    }

    /// Whether an inode is one for users, by its number or a name.
    #[inline]
    fn check_user(&self, info: InodeRef) -> Result<InodeRef> {
        if !info.is_usable() {
            return Err(ESTALE);
        }
        if info.flags().has(InodeFlags::EA_INODE) {
            let ino = info.ino;
            self.report(&format_args!(
                "inode {ino}: holds an attribute's value, and is no file"
            ));
            return Err(corrupted());
        }
        Ok(info)
    }

    /// The same with what stands for the target of an encrypted link, which lies in a block.
    async fn with_target(&self, info: &InodeInfo) -> Result<Arc<InodeInfo>> {
        let ino = info.ino;
        let extent = self.map(info, Lblk(0)).await?;
        let Some(pblk) = extent.written_at(Lblk(0)) else {
            self.report(&format_args!("inode {ino}: a link without a target"));
            return Err(corrupted());
        };
        let buffer = self.block(pblk).await?;
        let target = self.nokey_target(ino, buffer.data())?;
        new_inode_info(info.inode(), info.place, target, self.unused.clone())
    }

    /// What stands for the target of an encrypted link with the contents `data`, with a zero at its
    /// end.
    fn nokey_target(&self, ino: Ino, data: &[u8]) -> Result<KVec<u8>> {
        let name = NokeyName::of_link(data).or_report(self, About::inode(ino))?;
        let mut target = KVec::new();
        target.extend_from_slice(name.show().bytes(), gfp())?;
        target.push(0, gfp())?;
        Ok(target)
    }

    /// Whether the contents of a file can be vouched for: fails with `EOPNOTSUPP` for one with a
    /// Merkle tree, which is not checked, and with `ENOKEY` for one that is encrypted.
    pub fn check_readable(&self, info: &InodeInfo) -> Result {
        let flags = info.flags();
        if flags.has(InodeFlags::ENCRYPT) {
            return Err(ENOKEY);
        }
        if flags.has(InodeFlags::VERITY) {
            let ino = info.ino;
            self.disk.log_limited(
                Level::Error,
                format_args!("inode {ino}: verity is not supported"),
            );
            return Err(EOPNOTSUPP);
        }
        Ok(())
    }

    /// Frees up to about `count` inodes without users. Returns how many it freed. Does not sleep.
    pub fn shrink(&self, count: usize) -> usize {
        let mut freed = 0;
        let round = self.inodes.lock().len().div_ceil(SWEEP_INODES) + 1;
        for _ in 0..round {
            if freed >= count || self.unused.count() == 0 {
                break;
            }
            let mut unused = [const { None }; SWEEP_INODES];
            self.inodes.lock().sweep(&mut unused);
            freed += unused.iter().flatten().count();
        }
        freed
    }

    /// How many inodes in memory have no users. Does not sleep.
    pub fn unused_inodes(&self) -> usize {
        self.unused.count()
    }

    /// The `InodeInfo` of inode `ino`, which is at `place` in `buffer`.
    fn parse_inode(
        &self,
        ino: Ino,
        place: (u64, u32),
        buffer: &Buf,
        orphan: bool,
    ) -> Result<Arc<InodeInfo>> {
        let about = About::inode(ino);
        let geo = &self.sb.geo;
        let raw = buffer.data().get(place.1 as usize..).ok_or(EIO)?;
        let parsed = match orphan {
            false => Inode::parse(raw, ino, geo),
            true => Inode::parse_orphan(raw, ino, geo),
        };
        // A file handle may well name an inode that is gone; that is no damage.
        if let Err(error) = &parsed {
            if error.kind == layout::Kind::Stale {
                return Err(ESTALE);
            }
        }
        let inode = parsed.or_report(self, about)?;
        layout::map::verify_root(&inode, geo).or_report(self, about)?;
        let inline = self.inline_of(raw, &inode)?;
        new_inode_info(inode, place, inline, self.unused.clone())
    }

    /// Copies what lies in the inode.
    fn inline_of(&self, raw: &[u8], inode: &Inode) -> Result<KVec<u8>> {
        let mut bytes = KVec::new();
        if inode.is_encrypted_link() {
            if inode.data_map() == DataMap::FastSymlink {
                bytes = self.nokey_target(inode.ino, &inode.block)?;
            }
        } else if let Some(target) = inode.fast_symlink() {
            bytes.extend_from_slice(target, gfp())?;
            bytes.push(0, gfp())?;
        } else if inode.data_map() == DataMap::Inline && !inode.is_dir() {
            let about = About::inode(inode.ino);
            let data = InlineData::parse(raw, inode, &self.sb.geo).or_report(self, about)?;
            let (head, tail) = data.contents(inode);
            let len = (head.len() + tail.len()) as u64;
            // mke2fs makes inline files of those that are one hole; no other ends behind its data.
            if inode.size > len
                && [head, tail]
                    .iter()
                    .any(|part| part.iter().any(|&byte| byte != 0))
            {
                self.report(&format_args!("{about}inline data ends before the file"));
                return Err(corrupted());
            }
            // A power of two, so that the memory does not cross a page, which iomap wants.
            let size = (head.len() + tail.len()).max(inode.size.min(Self::INLINE_MAX) as usize);
            bytes.reserve(size.next_power_of_two(), gfp())?;
            bytes.extend_from_slice(head, gfp())?;
            bytes.extend_from_slice(tail, gfp())?;
            let rest = size - bytes.len();
            bytes.extend_with(rest, 0, gfp())?;
        }
        Ok(bytes)
    }
}
