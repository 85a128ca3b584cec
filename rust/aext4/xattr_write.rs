// SPDX-License-Identifier: GPL-2.0

//! Changing extended attributes and access control lists.
//!
//! A set that changes is written anew, beside the old one, when the change is planned ([`SetEdit`]);
//! the transaction copies it to the inode, or to the block. A block that several inodes share is not
//! changed: who changes his attributes gets a block of his own, and the shared one a reference less.
//! Blocks are not shared here, but ext4 does.
//!
//! # Concurrency
//!
//! Who changes attributes has the inode's `rwsem` to write, who reads them to read. Nobody else
//! writes to the area behind an inode's fields, or to a block that is not shared. The number of
//! those who share a block is under the mutex of [`SharedXattrs`] from the look at it until the
//! transaction is applied, so that of two who leave it, one is the last; it is taken behind the
//! `rwsem`. It never grows here, so that a block that one inode has stays that inode's.

use crate::alloc::{FreePlan, Goal, Loan, Space};
use crate::dir_write::now;
use crate::error::{corrupted, About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::{InodePlan, Writable};
use crate::journal::{Credits, Transaction};
use crate::memory::{kept, pinned, room};
use crate::set_attributes::PERMISSIONS;
use crate::super_plan::SuperPlan;
use crate::xattr::VALUE_MAX;
use crate::xattr_value::{NewHolder, ValueStep};
use disk::{gfp, vec_with_capacity, Buf, Planned};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::acl::{encode, encoded_len};
use layout::inode_edit::{new_extra_isize, TimeField};
use layout::xattr as format;
use layout::xattr_edit::{put_area, put_block, release, seal, Home, Placement, NAME_MAX};
use layout::{
    AclEntry, Compat, EaValue, Incompat, Ino, Inode, InodeEdit, NewValue, Pblk, SetEdit, Sets,
    XattrChange, XattrSet, XattrValue,
};
use upcall::atomic::{Atomic, Relaxed};
use upcall::{Mutex, MutexGuard};

/// Whether an attribute has to be there, or must not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XattrFlags {
    /// It must not be there.
    pub create: bool,
    /// It has to be there.
    pub replace: bool,
}

/// What is known of attributes that several inodes share.
pub(crate) struct SharedXattrs {
    /// For the number of those who share something.
    counts: Mutex<()>,
    /// Whether the superblock says that there are attributes.
    told: Atomic<u32>,
}

impl SharedXattrs {
    pub(crate) fn new() -> Self {
        Self {
            counts: Mutex::new(()),
            told: Atomic::new(0),
        }
    }
}

/// A change that somebody wants.
struct Request<'a> {
    index: u8,
    name: &'a [u8],
    value: Option<&'a [u8]>,
    flags: XattrFlags,
    /// The permission bits that the inode gets with it.
    mode: Option<u16>,
}

/// A block of attributes that an inode leaves.
enum Left {
    /// Nobody else has it.
    Free(Pblk, FreePlan),
    /// Others have it.
    Shared(Pblk, Planned),
}

/// A block of attributes that an inode gets.
struct Fresh {
    loan: Loan,
    planned: Planned,
    bytes: KVVec<u8>,
}

/// What happens to an inode's block of attributes.
enum BlockChange {
    Nothing,
    Edit(Pblk, Planned, KVVec<u8>),
    Move(Option<Fresh>, Option<Left>),
}

/// A change of attributes, planned.
///
/// # Cancellation
///
/// Dropping it leaves them as they are.
struct XattrPlan<'a> {
    inode: Option<InodePlan>,
    area: Option<KVVec<u8>>,
    block: BlockChange,
    holder: Option<KBox<NewHolder>>,
    values: KVec<ValueStep>,
    /// How many sectors more the inode has for values with inodes of their own.
    sectors: i64,
    mode: Option<u16>,
    told: Option<SuperPlan>,
    /// Released when the change is applied.
    _counts: Option<MutexGuard<'a, ()>>,
}

impl Ext4 {
    /// Sets an attribute with the prefix of number `index` ([`layout::xattr`]), or removes it if
    /// there is no value.
    ///
    /// Fails with `EOPNOTSUPP` if the namespace is not to be had; `ERANGE` for a name of more than
    /// 255 bytes, `EINVAL` for one with a zero; `E2BIG` for a value of more than 64 KiB, and
    /// `ENOSPC` if there is no room for it, also for one that is larger than the volume's format
    /// allows; `EEXIST` and `ENODATA` as the flags say; `EROFS`, `EIO`, `ENOMEM`, and `EUCLEAN` or
    /// `EBADMSG` if the attributes are damaged.
    ///
    /// # Cancellation
    ///
    /// Nothing was changed.
    pub async fn set_xattr(
        &self,
        info: &InodeInfo,
        index: u8,
        name: &[u8],
        value: Option<&[u8]>,
        flags: XattrFlags,
    ) -> Result {
        if !self.has_namespace(index) {
            return Err(EOPNOTSUPP);
        }
        let ask = Request {
            index,
            name,
            value,
            flags,
            mode: None,
        };
        self.change_xattr(info, &ask).await
    }

    /// Sets an access control list, or removes it if there are no entries; and with it the
    /// permission bits, if there is a `mode`. The entries are in order and complete, or it fails
    /// with `EINVAL`.
    ///
    /// Fails with `EACCES` for a default list of something that is no directory, and otherwise as
    /// [`set_xattr`](Self::set_xattr) does.
    ///
    /// # Cancellation
    ///
    /// Nothing was changed.
    pub async fn set_acl(
        &self,
        info: &InodeInfo,
        default: bool,
        entries: Option<&[AclEntry]>,
        mode: Option<u16>,
    ) -> Result {
        let index = match default {
            true => format::INDEX_POSIX_ACL_DEFAULT,
            false => format::INDEX_POSIX_ACL_ACCESS,
        };
        if !self.has_namespace(index) {
            return Err(EOPNOTSUPP);
        }
        let entries = entries.filter(|entries| !entries.is_empty());
        if default && !info.is_dir() {
            return match entries {
                Some(_) => Err(EACCES),
                None => Ok(()),
            };
        }
        let value = match entries {
            Some(entries) => Some(self.encode_acl(entries).await?),
            None => None,
        };
        let ask = Request {
            index,
            name: b"",
            value: value.as_deref(),
            flags: XattrFlags::default(),
            mode,
        };
        self.change_xattr(info, &ask).await
    }

    /// The value of the attribute that has an access control list.
    ///
    /// Fails with `EINVAL` if the entries are not in order, or not complete.
    pub async fn encode_acl(&self, entries: &[AclEntry]) -> Result<KVVec<u8>> {
        let mut value = self.zeroed(encoded_len(entries)).await?;
        encode(entries, &mut value).map_err(|_| EINVAL)?;
        Ok(value)
    }

    async fn change_xattr(&self, info: &InodeInfo, ask: &Request<'_>) -> Result {
        check(ask.name, ask.value)?;
        let writable = self.writable()?;
        let _lock = info.rwsem.write().await.map_err(|_| EIO)?;
        let plan = pinned(|| self.plan_xattr(&writable, info, ask)).await?;
        let plan = plan.await?;
        let Some(mut plan) = plan else {
            return Ok(());
        };
        let journal = &writable.journal;
        let mut tx = journal.begin(&self.cache, plan.credits()).await?;
        plan.apply(self, &mut tx, info);
        Ok(())
    }

    /// So many zeroes.
    async fn zeroed(&self, len: usize) -> Result<KVVec<u8>> {
        let mut bytes = vec_with_capacity(self.cache.spawner(), len).await?;
        bytes.extend_with(len, 0, gfp())?;
        Ok(bytes)
    }

    /// Plans that the superblock says that there are attributes, unless it does.
    async fn plan_told(&self) -> Result<Option<SuperPlan>> {
        let told = self.shared_xattrs.told.load(Relaxed) != 0;
        if told || self.sb.geo.has_compat(Compat::EXT_ATTR) {
            return Ok(None);
        }
        Ok(Some(self.plan_super().await?))
    }

    /// The superblock says that there are attributes, if that was planned.
    fn tell(&self, tx: &mut Transaction<'_>, told: Option<SuperPlan>) {
        let Some(plan) = told else {
            return;
        };
        plan.apply(self, tx, |edit| {
            let mut features = edit.features();
            features.compat = features.compat.or(Compat::EXT_ATTR);
            edit.set_features(features);
        });
        self.shared_xattrs.told.store(1, Relaxed);
    }

    /// Plans a change; `None` if all is as it is to be.
    async fn plan_xattr<'a>(
        &'a self,
        writable: &Writable,
        info: &InodeInfo,
        ask: &Request<'_>,
    ) -> Result<Option<KBox<XattrPlan<'a>>>> {
        let geo = &self.sb.geo;
        let inode = info.inode();
        let mut plan = kept(XattrPlan {
            inode: Some(self.plan_inode(info).await?),
            area: None,
            block: BlockChange::Nothing,
            holder: None,
            values: KVec::new(),
            sectors: 0,
            mode: ask.mode,
            told: None,
            _counts: None,
        })?;
        let raw = self.raw_area(info).await?;
        let block = match inode.xattr_block {
            Some(pblk) => Some((pblk, self.xattr_block(info, pblk).await?)),
            None => None,
        };
        let sets = self.sets(&inode, &raw, block.as_ref())?;
        let found = sets.find(ask.index, ask.name);
        match found {
            None if ask.flags.replace => return Err(ENODATA),
            Some(_) if ask.flags.create => return Err(EEXIST),
            _ => {}
        }
        let same = match (&found, ask.value) {
            (Some((_, attr)), Some(value)) => attr.value == XattrValue::Here(value),
            (None, None) => true,
            _ => false,
        };
        if same {
            return Ok(ask.mode.map(|_| plan));
        }
        plan.told = self.plan_told().await?;
        let placement = match ask.value {
            Some(value) => Some(sets.place(ask.index, ask.name, value, geo).ok_or(ENOSPC)?),
            None => None,
        };
        let old_value = found.and_then(|(_, attr)| own_value(&attr.value));
        let old_home = found.map(|(home, _)| home);
        let moves = Moves {
            to: placement,
            from: old_home,
        };
        let about = |pblk: Pblk| About::block(info.ino, pblk.0);
        let mut sharers = 0;
        if let Some((pblk, buf)) = block.as_ref().filter(|_| moves.touch(Home::Block)) {
            sharers = self.sharers(about(*pblk), buf)?;
        }
        if sharers > 1 || old_value.is_some() {
            plan._counts = Some(self.lock_counts().await?);
            if let Some((pblk, _)) = block.as_ref().filter(|_| sharers > 1) {
                // Others may have left it meanwhile.
                let buf = self.block(*pblk).await?;
                sharers = self.sharers(about(*pblk), &buf)?;
            }
        }
        if let Some(value) = ask.value.filter(|_| moves.own_inode()) {
            let owner = (inode.uid, inode.gid);
            let holder = pinned(|| self.plan_holder(writable, info.ino, owner, value))
                .await?
                .await?;
            plan.sectors += self.value_sectors(holder.size());
            plan.holder = Some(holder);
        }
        if let Some(value) = &old_value {
            plan.sectors -= pinned(|| self.counted_for(&inode, value)).await?.await?;
        }
        let new_value = match &plan.holder {
            Some(holder) => Some(holder.value()),
            None => ask.value.map(NewValue::Here),
        };
        let edit = |home| moves.edit(home, &sets, ask.index, ask.name, new_value);
        if let Some(edit) = edit(Home::Inode) {
            let mut area = self.zeroed(raw.len()).await?;
            edit.write(&mut area)
                .or_report(self, About::inode(info.ino))?;
            plan.area = Some(area);
        }
        if let Some(edit) = edit(Home::Block) {
            let pblk = block.as_ref().map(|(pblk, _)| *pblk);
            plan.block = pinned(|| self.plan_block(writable, info.ino, &edit, pblk, sharers))
                .await?
                .await?;
        }
        let mut values: KVec<(EaValue, i64)> = KVec::new();
        if sharers > 1 {
            // The block has a copy, and so have the references in it.
            for attr in sets.block.iter().flat_map(XattrSet::iter) {
                let asked = attr.index == ask.index && attr.name == ask.name;
                if let Some(value) = own_value(&attr.value).filter(|_| !asked) {
                    count(&mut values, value, 1)?;
                }
            }
        }
        let leaves = !(old_home == Some(Home::Block) && sharers > 1);
        if let Some(value) = old_value.filter(|_| leaves) {
            count(&mut values, value, -1)?;
        }
        self.plan_values(writable, &inode, &values, &mut plan.values)
            .await?;
        Ok(Some(plan))
    }

    async fn lock_counts(&self) -> Result<MutexGuard<'_, ()>> {
        self.shared_xattrs.counts.lock().await.map_err(|_| EIO)
    }

    /// How many inodes share a block of attributes; not 0.
    fn sharers(&self, about: About, buf: &Buf) -> Result<u32> {
        match XattrSet::block_refcount(buf.data()) {
            Some(count) if count > 0 => Ok(count),
            _ => {
                self.report(&format_args!("{about}attributes that nobody has"));
                Err(corrupted())
            }
        }
    }

    /// What an inode has behind its fields, as a change of it will find it.
    async fn raw_area(&self, info: &InodeInfo) -> Result<KVVec<u8>> {
        let geo = &self.sb.geo;
        let size = usize::from(geo.inode_size());
        let mut raw = vec_with_capacity(self.cache.spawner(), size).await?;
        let buffer = self.inode_buffer(info).await?;
        let from = info.place.1 as usize;
        let bytes = buffer.data().get(from..).and_then(|raw| raw.get(..size));
        raw.extend_from_slice(bytes.ok_or(EIO)?, gfp())?;
        let mut edit = InodeEdit::new(&mut raw, geo).ok_or_else(corrupted)?;
        let len = edit.xattr_area().len();
        let start = size - len;
        raw.copy_within(start.., 0);
        raw.truncate(len);
        Ok(raw)
    }

    /// The attributes of an inode that has `area` behind its fields.
    fn sets<'a>(
        &self,
        inode: &Inode,
        area: &'a [u8],
        block: Option<&'a (Pblk, Buf)>,
    ) -> Result<Sets<'a>> {
        let geo = &self.sb.geo;
        let about = About::inode(inode.ino);
        let in_block = match block {
            Some((pblk, buf)) => Some(
                XattrSet::in_block(buf.data(), geo)
                    .or_report(self, About::block(inode.ino, pblk.0))?,
            ),
            None => None,
        };
        Ok(Sets {
            area_len: area.len(),
            area: match inode.xattr_offset {
                Some(_) => XattrSet::in_area(area, geo).or_report(self, about)?,
                None => None,
            },
            block: in_block,
        })
    }

    /// Plans what happens to the block at `pblk`, if there is one, which so many share.
    async fn plan_block(
        &self,
        writable: &Writable,
        ino: Ino,
        edit: &SetEdit<'_>,
        pblk: Option<Pblk>,
        sharers: u32,
    ) -> Result<BlockChange> {
        let bytes = match edit.is_empty() {
            true => None,
            false => {
                let mut bytes = self.zeroed(self.sb.geo.block_size() as usize).await?;
                edit.write(&mut bytes).or_report(self, About::inode(ino))?;
                Some(bytes)
            }
        };
        Ok(match (pblk, bytes) {
            (Some(pblk), Some(bytes)) if sharers == 1 => {
                BlockChange::Edit(pblk, self.plan_edit(pblk.0).await?, bytes)
            }
            (pblk, bytes) => {
                let fresh = match bytes {
                    Some(bytes) => Some(self.plan_fresh(writable, ino, bytes).await?),
                    None => None,
                };
                let left = match pblk {
                    Some(pblk) => Some(self.plan_leave(writable, pblk, sharers).await?),
                    None => None,
                };
                BlockChange::Move(fresh, left)
            }
        })
    }

    /// Plans a new block with these bytes for inode `ino`.
    async fn plan_fresh(&self, writable: &Writable, ino: Ino, bytes: KVVec<u8>) -> Result<Fresh> {
        let goal = Goal::of_inode(&self.sb.geo, self.sb.groups_per_flex, ino, false);
        let loan = writable
            .allocator(self)
            .loan_blocks(goal, 1, 1, &mut Space::User)
            .await?;
        let planned = self.cache.plan_new(loan.start().0).await?;
        Ok(Fresh {
            loan,
            planned,
            bytes,
        })
    }

    /// Plans to leave the block at `pblk`, which so many share.
    async fn plan_leave(&self, writable: &Writable, pblk: Pblk, sharers: u32) -> Result<Left> {
        if sharers > 1 {
            return Ok(Left::Shared(pblk, self.plan_edit(pblk.0).await?));
        }
        let free = writable.allocator(self).plan_free(pblk, 1).await?;
        Ok(Left::Free(pblk, free))
    }

    /// Plans to count references to values.
    async fn plan_values(
        &self,
        writable: &Writable,
        inode: &Inode,
        values: &[(EaValue, i64)],
        steps: &mut KVec<ValueStep>,
    ) -> Result {
        for (value, delta) in values.iter().filter(|(_, delta)| *delta != 0) {
            let step = pinned(|| self.plan_value(writable, inode, value, *delta))
                .await?
                .await?;
            room(steps).await?;
            steps.push(step, gfp())?;
        }
        Ok(())
    }
}

/// Checks name and value of an attribute.
fn check(name: &[u8], value: Option<&[u8]>) -> Result {
    if name.len() > NAME_MAX {
        return Err(ERANGE);
    }
    if name.contains(&0) {
        return Err(EINVAL);
    }
    match value {
        Some(value) if value.len() > VALUE_MAX as usize => Err(E2BIG),
        _ => Ok(()),
    }
}

/// A value with an inode of its own.
fn own_value(value: &XattrValue<'_>) -> Option<EaValue> {
    match value {
        XattrValue::Inode(value) => Some(*value),
        XattrValue::Here(_) => None,
    }
}

/// Counts references to values, each inode once.
fn count(values: &mut KVec<(EaValue, i64)>, value: EaValue, delta: i64) -> Result {
    let known = values.iter_mut().find(|(other, _)| other.ino == value.ino);
    match known {
        Some((_, sum)) => *sum += delta,
        None => values.push((value, delta), gfp())?,
    }
    Ok(())
}

/// From where to where an attribute moves.
struct Moves {
    to: Option<Placement>,
    from: Option<Home>,
}

impl Moves {
    fn goes_to(&self, home: Home) -> bool {
        self.to.is_some_and(|to| to.home == home)
    }

    fn touch(&self, home: Home) -> bool {
        self.goes_to(home) || self.from == Some(home)
    }

    fn own_inode(&self) -> bool {
        self.to.is_some_and(|to| to.own_inode)
    }

    /// The change of the set in `home`, if that changes.
    fn edit<'a>(
        &self,
        home: Home,
        sets: &Sets<'a>,
        index: u8,
        name: &'a [u8],
        value: Option<NewValue<'a>>,
    ) -> Option<SetEdit<'a>> {
        let change = XattrChange {
            index,
            name,
            value: value.filter(|_| self.goes_to(home)),
        };
        self.touch(home)
            .then(|| SetEdit::new(home, sets.get(home), change))
    }
}

impl Fresh {
    const CREDITS: Credits = Credits::blocks(Loan::CREDITS.blocks + 1);

    fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>) -> Pblk {
        let pblk = self.loan.start();
        self.loan.apply(tx);
        write_block(volume, tx, self.planned, pblk, &self.bytes);
        pblk
    }
}

fn write_block(
    volume: &Ext4,
    tx: &mut Transaction<'_>,
    planned: Planned,
    pblk: Pblk,
    bytes: &[u8],
) {
    let put = tx.edit(planned, |block| {
        put_block(block, bytes, pblk, &volume.sb.geo)
    });
    if put.is_none() {
        kernel::warn_on!(true);
    }
}

impl Left {
    fn credits(&self) -> Credits {
        match self {
            Self::Shared(..) => Credits::blocks(1),
            Self::Free(_, free) => Credits {
                revokes: 1,
                ..free.credits()
            },
        }
    }

    fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>) {
        match self {
            Self::Free(pblk, free) => {
                tx.revoke(&volume.cache, pblk.0);
                free.apply(tx);
            }
            Self::Shared(pblk, planned) => {
                let left = tx.edit(planned, |block| {
                    release(block)?;
                    seal(block, pblk, &volume.sb.geo)
                });
                if left.is_none() {
                    kernel::warn_on!(true);
                }
            }
        }
    }
}

impl XattrPlan<'_> {
    fn credits(&self) -> Credits {
        let mut all = InodePlan::CREDITS;
        match &self.block {
            BlockChange::Nothing => {}
            BlockChange::Edit(..) => all = all.and(Credits::blocks(1)),
            BlockChange::Move(fresh, left) => {
                if fresh.is_some() {
                    all = all.and(Fresh::CREDITS);
                }
                if let Some(left) = left {
                    all = all.and(left.credits());
                }
            }
        }
        if let Some(holder) = &self.holder {
            all = all.and(holder.credits());
        }
        for step in self.values.iter() {
            all = all.and(step.credits());
        }
        if self.told.is_some() {
            all = all.and(SuperPlan::CREDITS);
        }
        all
    }

    /// The attributes are as planned from here on. Does not sleep, and does not fail.
    fn apply(&mut self, volume: &Ext4, tx: &mut Transaction<'_>, info: &InodeInfo) {
        volume.tell(tx, self.told.take());
        if let Some(holder) = self.holder.take() {
            KBox::into_inner(holder).apply(volume, tx);
        }
        // The block that the inode has from now on, and how many more or fewer it has.
        let mut block = None;
        let mut more = 0;
        match core::mem::replace(&mut self.block, BlockChange::Nothing) {
            BlockChange::Nothing => {}
            BlockChange::Edit(pblk, planned, bytes) => {
                write_block(volume, tx, planned, pblk, &bytes);
            }
            BlockChange::Move(fresh, left) => {
                let fresh = fresh.map(|fresh| fresh.apply(volume, tx));
                more = i64::from(fresh.is_some()) - i64::from(left.is_some());
                if let Some(left) = left {
                    left.apply(volume, tx);
                }
                block = Some(fresh);
            }
        }
        for step in core::mem::take(&mut self.values) {
            step.apply(volume, tx);
        }
        let sectors = self.sectors + more * (i64::from(volume.sb.geo.block_size()) >> 9);
        let inode = info.inode();
        let now = now();
        let Some(plan) = self.inode.take() else {
            return;
        };
        plan.apply(volume, tx, info, |edit| {
            if let Some(area) = &self.area {
                let _ = put_area(edit.xattr_area(), area);
            }
            if let Some(block) = block {
                edit.set_xattr_block(block);
            }
            if sectors != 0 {
                let _ = edit.add_sectors(sectors);
            }
            if let Some(mode) = self.mode {
                edit.set_mode(inode.mode & !PERMISSIONS | mode & PERMISSIONS);
            }
            edit.set_time(TimeField::Change, now);
            edit.set_version(inode.version.wrapping_add(1));
        });
    }
}

/// An attribute that a new inode has from the start.
#[derive(Clone, Copy, Debug)]
pub struct NewXattr<'a> {
    /// The number of its prefix ([`layout::xattr`]).
    pub index: u8,
    /// Its name without the prefix.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// The attributes of a new inode, planned.
///
/// The transaction calls [`apply`](Self::apply) where it makes the inode, and
/// [`fill`](Self::fill) where it writes the inode's bytes, after all else that it writes there.
///
/// # Cancellation
///
/// Dropping it takes nothing.
pub struct InitialXattrs {
    area: KVVec<u8>,
    pblk: Option<Pblk>,
    fresh: Option<Fresh>,
    holders: KVec<KBox<NewHolder>>,
    told: Option<SuperPlan>,
    /// How much of the space that the inode takes is theirs.
    sectors: i64,
}

impl InitialXattrs {
    /// Plans the attributes `attrs` of the new inode `ino`, which is owned by user and group
    /// `owner`.
    ///
    /// Fails as [`Ext4::set_xattr`] does.
    ///
    /// # Cancellation
    ///
    /// Nothing is taken.
    pub async fn plan(
        volume: &Ext4,
        writable: &Writable,
        ino: Ino,
        owner: (u32, u32),
        attrs: &[NewXattr<'_>],
    ) -> Result<KBox<Self>> {
        let geo = &volume.sb.geo;
        let used = 128 + usize::from(new_extra_isize(&volume.sb));
        let area_len = usize::from(geo.inode_size()).saturating_sub(used);
        let mut area = volume.zeroed(area_len).await?;
        let mut plan = kept(Self {
            area: KVVec::new(),
            pblk: None,
            fresh: None,
            holders: KVec::new(),
            told: None,
            sectors: 0,
        })?;
        let mut block: Option<KVVec<u8>> = None;
        for attr in attrs {
            check(attr.name, Some(attr.value))?;
            let (mut next_area, mut next_block) = (None, None);
            {
                let about = About::inode(ino);
                let in_block = match &block {
                    Some(block) => Some(XattrSet::in_block(block, geo).or_report(volume, about)?),
                    None => None,
                };
                let sets = Sets {
                    area_len,
                    area: XattrSet::in_area(&area, geo).or_report(volume, about)?,
                    block: in_block,
                };
                let to = sets.place(attr.index, attr.name, attr.value, geo);
                let to = to.ok_or(ENOSPC)?;
                let value = match to.own_inode {
                    true => {
                        let holder =
                            pinned(|| volume.plan_holder(writable, ino, owner, attr.value)).await?;
                        let holder = holder.await?;
                        let value = holder.value();
                        plan.sectors += volume.value_sectors(holder.size());
                        room(&mut plan.holders).await?;
                        plan.holders.push(holder, gfp())?;
                        value
                    }
                    false => NewValue::Here(attr.value),
                };
                if sets.find(attr.index, attr.name).is_some() {
                    return Err(EEXIST);
                }
                let moves = Moves {
                    to: Some(to),
                    from: None,
                };
                let edit = |home| moves.edit(home, &sets, attr.index, attr.name, Some(value));
                for (home, len, next) in [
                    (Home::Inode, area_len, &mut next_area),
                    (Home::Block, geo.block_size() as usize, &mut next_block),
                ] {
                    if let Some(edit) = edit(home) {
                        let mut bytes = volume.zeroed(len).await?;
                        edit.write(&mut bytes).or_report(volume, about)?;
                        *next = Some(bytes);
                    }
                }
            }
            area = next_area.unwrap_or(area);
            block = next_block.or(block);
        }
        plan.area = area;
        if let Some(bytes) = block {
            let fresh = volume.plan_fresh(writable, ino, bytes).await?;
            plan.pblk = Some(fresh.loan.start());
            plan.sectors += i64::from(geo.block_size()) >> 9;
            plan.fresh = Some(fresh);
        }
        if !attrs.is_empty() {
            plan.told = volume.plan_told().await?;
        }
        Ok(plan)
    }

    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub fn credits(&self) -> Credits {
        let mut all = Credits::default();
        if self.fresh.is_some() {
            all = all.and(Fresh::CREDITS);
        }
        for holder in self.holders.iter() {
            all = all.and(holder.credits());
        }
        if self.told.is_some() {
            all = all.and(SuperPlan::CREDITS);
        }
        all
    }

    /// Writes them into the new inode, and adds to the space that it takes. Does not sleep; may run
    /// under a spinlock.
    pub fn fill(&self, edit: &mut InodeEdit<'_>) {
        let _ = put_area(edit.xattr_area(), &self.area);
        if self.pblk.is_some() {
            edit.set_xattr_block(self.pblk);
        }
        let _ = edit.add_sectors(self.sectors);
    }

    /// What of them is not in the inode is there from here on. Does not sleep, and does not fail.
    pub fn apply(&mut self, volume: &Ext4, tx: &mut Transaction<'_>) {
        volume.tell(tx, self.told.take());
        if let Some(fresh) = self.fresh.take() {
            fresh.apply(volume, tx);
        }
        for holder in core::mem::take(&mut self.holders) {
            KBox::into_inner(holder).apply(volume, tx);
        }
    }
}

/// What an inode that is deleted leaves of its attributes, planned.
///
/// # Cancellation
///
/// Dropping it leaves them as they are.
pub struct XattrRelease<'a> {
    block: Option<Left>,
    values: KVec<ValueStep>,
    /// Released when this is applied.
    _counts: Option<MutexGuard<'a, ()>>,
}

impl Ext4 {
    /// Removes the attributes of an inode that nobody uses any more, as far as each needs a
    /// transaction of its own: those whose values are elsewhere.
    /// [`plan_release_xattrs`](Self::plan_release_xattrs) does the rest.
    ///
    /// # Cancellation
    ///
    /// Some are removed, some are not.
    pub async fn drop_xattr_values(&self, info: &InodeInfo) -> Result {
        if !self.sb.geo.has_incompat(Incompat::EA_INODE) {
            return Ok(());
        }
        loop {
            let inode = info.inode();
            let raw = self.raw_area(info).await?;
            let block = match inode.xattr_block {
                Some(pblk) => Some((pblk, self.xattr_block(info, pblk).await?)),
                None => None,
            };
            let mut name = KVec::new();
            let index = {
                let mut sets = self.sets(&inode, &raw, block.as_ref())?;
                // A block that others have keeps what it refers to.
                let shared =
                    |(_, buf): &(Pblk, Buf)| XattrSet::block_refcount(buf.data()) > Some(1);
                sets.block = sets.block.filter(|_| !block.as_ref().is_some_and(shared));
                let mut all =
                    Iterator::chain(sets.area.iter(), &sets.block).flat_map(XattrSet::iter);
                let Some(attr) = all.find(|attr| own_value(&attr.value).is_some()) else {
                    return Ok(());
                };
                name.extend_from_slice(attr.name, gfp())?;
                attr.index
            };
            drop(block);
            let ask = Request {
                index,
                name: &name,
                value: None,
                flags: XattrFlags::default(),
                mode: None,
            };
            pinned(|| self.change_xattr(info, &ask)).await?.await?;
        }
    }

    /// Plans what the transaction has to do that frees an inode: its block of attributes is freed,
    /// or has a sharer less, and values that only it refers to are freed.
    ///
    /// The caller has `rwsem` to write, or is the last user. What is in the inode goes with it.
    ///
    /// # Cancellation
    ///
    /// Nothing changes.
    pub async fn plan_release_xattrs<'a>(
        &'a self,
        writable: &Writable,
        info: &InodeInfo,
    ) -> Result<XattrRelease<'a>> {
        let mut plan = XattrRelease {
            block: None,
            values: KVec::new(),
            _counts: None,
        };
        let inode = info.inode();
        let own_values = self.sb.geo.has_incompat(Incompat::EA_INODE);
        let has_some = inode.xattr_block.is_some() || inode.xattr_offset.is_some() && own_values;
        if !has_some {
            return Ok(plan);
        }
        let mut block = match inode.xattr_block {
            Some(pblk) => Some((pblk, self.xattr_block(info, pblk).await?)),
            None => None,
        };
        let sharers = |block: Option<&(Pblk, Buf)>| match block {
            Some((pblk, buf)) => self.sharers(About::block(info.ino, pblk.0), buf),
            None => Ok(0),
        };
        if own_values || sharers(block.as_ref())? > 1 {
            plan._counts = Some(self.lock_counts().await?);
            if let Some((pblk, buf)) = &mut block {
                // Others may have left it meanwhile.
                *buf = self.block(*pblk).await?;
            }
        }
        let sharers = sharers(block.as_ref())?;
        if own_values {
            let raw = self.raw_area(info).await?;
            let mut values: KVec<(EaValue, i64)> = KVec::new();
            {
                let mut sets = self.sets(&inode, &raw, block.as_ref())?;
                sets.block = sets.block.filter(|_| sharers == 1);
                for attr in Iterator::chain(sets.area.iter(), &sets.block).flat_map(XattrSet::iter)
                {
                    if let Some(value) = own_value(&attr.value) {
                        count(&mut values, value, -1)?;
                    }
                }
            }
            self.plan_values(writable, &inode, &values, &mut plan.values)
                .await?;
        }
        if let Some((pblk, _)) = block {
            plan.block = Some(self.plan_leave(writable, pblk, sharers).await?);
        }
        Ok(plan)
    }
}

impl XattrRelease<'_> {
    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub fn credits(&self) -> Credits {
        let mut all = Credits::default();
        if let Some(left) = &self.block {
            all = left.credits();
        }
        for step in self.values.iter() {
            all = all.and(step.credits());
        }
        all
    }

    /// The inode has no attributes from here on, but for what is in its bytes. Does not sleep, and
    /// does not fail.
    pub fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>) {
        if let Some(left) = self.block {
            left.apply(volume, tx);
        }
        for step in self.values {
            step.apply(volume, tx);
        }
    }
}
