// SPDX-License-Identifier: GPL-2.0

//! Changing extended attributes and access control lists.
//!
//! A set that changes is written anew, beside the old one, when the change is planned ([`SetEdit`]);
//! the transaction copies it to the inode, or to the block. A block that several inodes share is not
//! changed: who changes his attributes gets a block of his own, and the shared one a reference less.
//!
//! # Concurrency
//!
//! Who changes attributes has the inode's `rwsem` to write, who reads them to read. Nobody else
//! writes to the area behind an inode's fields, or to a block that is not shared
//! ([`xattr_block`](crate::xattr_block)).

use crate::error::{corrupted, About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::{InodePlan, Writable};
use crate::journal::{Credits, Transaction};
use crate::memory::{kept, pinned, room};
use crate::set_attributes::{Edits, SetAttributes};
use crate::super_plan::SuperPlan;
use crate::xattr::VALUE_MAX;
use crate::xattr_block::{write_block, Contents, Fresh, Left};
use crate::xattr_value::{NewHolder, ValueStep};
use disk::{gfp, vec_with_capacity, Buf, Planned};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::acl::{encode, encoded_len};
use layout::inode_edit::TimeField;
use layout::xattr as format;
use layout::xattr_edit::{put_area, Home, Placement, NAME_MAX};
use layout::{
    AclEntry, EaValue, Ino, Inode, InodeEdit, NewValue, Pblk, SetEdit, Sets, XattrChange, XattrSet,
    XattrValue,
};
use upcall::MutexGuard;

/// Whether an attribute has to be there, or must not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XattrFlags {
    /// It must not be there.
    pub create: bool,
    /// It has to be there.
    pub replace: bool,
}

/// A change that somebody wants.
pub(crate) struct Request<'a> {
    pub(crate) index: u8,
    pub(crate) name: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) flags: XattrFlags,
    /// The attributes of the inode that change with it.
    pub(crate) set: Option<&'a SetAttributes>,
}

/// What happens to an inode's block of attributes.
enum BlockChange {
    Nothing,
    Edit(Pblk, Planned, Contents),
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
    edits: Option<Edits>,
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
            set: None,
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
        let set = SetAttributes {
            mode,
            ..SetAttributes::default()
        };
        let ask = Request {
            index,
            name: b"",
            value: value.as_deref(),
            flags: XattrFlags::default(),
            set: mode.is_some().then_some(&set),
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

    pub(crate) async fn change_xattr(&self, info: &InodeInfo, ask: &Request<'_>) -> Result {
        let _lock = info.rwsem.write().await.map_err(|_| EIO)?;
        self.change_xattr_locked(info, ask).await
    }

    /// A change, with the inode's `rwsem` held to write.
    pub(crate) async fn change_xattr_locked(&self, info: &InodeInfo, ask: &Request<'_>) -> Result {
        check(ask.name, ask.value)?;
        let writable = self.writable()?;
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
    pub(crate) async fn zeroed(&self, len: usize) -> Result<KVVec<u8>> {
        let mut bytes = vec_with_capacity(self.cache.spawner(), len).await?;
        bytes.extend_with(len, 0, gfp())?;
        Ok(bytes)
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
        let edits = match ask.set {
            Some(set) => Some(self.edits(&inode, set)?),
            None => None,
        };
        let mut plan = kept(XattrPlan {
            inode: Some(self.plan_inode(info).await?),
            area: None,
            block: BlockChange::Nothing,
            holder: None,
            values: KVec::new(),
            sectors: 0,
            edits,
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
            return Ok(ask.set.map(|_| plan));
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
        if moves.touch(Home::Block) || old_value.is_some() {
            plan._counts = Some(self.lock_counts().await?);
            if let Some((pblk, _)) = block.as_ref().filter(|_| moves.touch(Home::Block)) {
                // Others may have come or left meanwhile.
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

    /// What an inode has behind its fields, as a change of it will find it.
    pub(crate) async fn raw_area(&self, info: &InodeInfo) -> Result<KVVec<u8>> {
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
    pub(crate) fn sets<'a>(
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

    /// Plans what happens to the block at `pblk`, if there is one, which so many share. The caller
    /// has the mutex for that.
    async fn plan_block(
        &self,
        writable: &Writable,
        ino: Ino,
        edit: &SetEdit<'_>,
        pblk: Option<Pblk>,
        sharers: u32,
    ) -> Result<BlockChange> {
        let contents = match edit.is_empty() {
            true => None,
            false => {
                let mut bytes = self.zeroed(self.sb.geo.block_size() as usize).await?;
                edit.write(&mut bytes).or_report(self, About::inode(ino))?;
                Some(self.block_contents(bytes))
            }
        };
        let shared = match &contents {
            Some(contents) => self.plan_shared(contents, pblk).await?,
            None => None,
        };
        Ok(match (pblk, contents) {
            (Some(pblk), Some(contents)) if sharers == 1 && shared.is_none() => {
                BlockChange::Edit(pblk, self.plan_edit(pblk.0).await?, contents)
            }
            (pblk, contents) => {
                let fresh = match (shared, contents) {
                    (None, Some(contents)) => Some(self.plan_fresh(writable, ino, contents).await?),
                    (shared, _) => shared,
                };
                let left = match pblk {
                    Some(pblk) => Some(self.plan_leave(writable, pblk, sharers).await?),
                    None => None,
                };
                BlockChange::Move(fresh, left)
            }
        })
    }

    /// Plans to count references to values.
    pub(crate) async fn plan_values(
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
pub(crate) fn check(name: &[u8], value: Option<&[u8]>) -> Result {
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
pub(crate) fn own_value(value: &XattrValue<'_>) -> Option<EaValue> {
    match value {
        XattrValue::Inode(value) => Some(*value),
        XattrValue::Here(_) => None,
    }
}

/// Counts references to values, each inode once.
pub(crate) fn count(values: &mut KVec<(EaValue, i64)>, value: EaValue, delta: i64) -> Result {
    let known = values.iter_mut().find(|(other, _)| other.ino == value.ino);
    match known {
        Some((_, sum)) => *sum += delta,
        None => values.push((value, delta), gfp())?,
    }
    Ok(())
}

/// From where to where an attribute moves.
pub(crate) struct Moves {
    pub(crate) to: Option<Placement>,
    pub(crate) from: Option<Home>,
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
    pub(crate) fn edit<'a>(
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
            BlockChange::Edit(pblk, planned, contents) => {
                write_block(volume, tx, planned, pblk, &contents);
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
        let edits = self.edits.take();
        let wanted = edits.as_ref().and_then(|edits| edits.set.ctime);
        let now = wanted.unwrap_or_else(|| volume.stamp(info));
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
            if let Some(edits) = &edits {
                edits.apply(edit);
            }
            edit.set_time(TimeField::Change, now);
            edit.set_version(inode.version.wrapping_add(1));
        });
    }
}
