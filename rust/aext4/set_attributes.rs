// SPDX-License-Identifier: GPL-2.0

//! Changing the attributes of an inode, but for its size.

use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::InodePlan;
use crate::memory;
use crate::xattr_write::{Request, XattrFlags};
use kernel::prelude::*;
use layout::acl::set_permissions;
use layout::inode::Time;
use layout::inode_edit::TimeField;
use layout::{xattr, FileType, Inode, InodeEdit, InodeFlags, RoCompat};

/// The permission bits of a mode.
pub(crate) const PERMISSIONS: u16 = 0o7777;

/// The flags that a user may change, of those that ext4 lets change.
const MODIFIABLE: u32 = 0x7
    | InodeFlags::SYNC.0
    | InodeFlags::IMMUTABLE.0
    | InodeFlags::APPEND.0
    | InodeFlags::NODUMP.0
    | InodeFlags::NOATIME.0
    | InodeFlags::NOTAIL.0
    | InodeFlags::DIRSYNC.0
    | InodeFlags::TOPDIR.0
    | InodeFlags::PROJINHERIT.0;

/// The flags that ext4 lets change, and that need what there is not: data in the journal, another
/// map of a file, DAX, case folding.
const REFUSED: u32 =
    InodeFlags::JOURNAL_DATA.0 | InodeFlags::EXTENTS.0 | InodeFlags::DAX.0 | InodeFlags::CASEFOLD.0;

/// What only directories can have.
pub(crate) const OF_DIRECTORIES: u32 = InodeFlags::DIRSYNC.0
    | InodeFlags::TOPDIR.0
    | InodeFlags::CASEFOLD.0
    | InodeFlags::PROJINHERIT.0;

/// What all that are neither directories nor files can have.
pub(crate) const OF_ALL: u32 = InodeFlags::NODUMP.0 | InodeFlags::NOATIME.0;

/// Where the field for the project ends in an inode.
const PROJECT_END: u16 = 0xa0;

/// What the number of an owner becomes that does not fit, with the option for 16 bits.
const OVERFLOW_ID: u32 = 65534;

/// Attributes that are to change.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttributes {
    /// The permission bits; those of the type are ignored.
    pub mode: Option<u16>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The project.
    pub project: Option<u32>,
    /// The flags that a user sees.
    pub flags: Option<InodeFlags>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of the contents.
    pub mtime: Option<Time>,
    /// Last change of the inode.
    pub ctime: Option<Time>,
}

/// What is edited of an inode, as it is stored.
pub(crate) struct Edits {
    pub(crate) set: SetAttributes,
    version: Option<u64>,
}

impl Edits {
    pub(crate) fn apply(&self, edit: &mut InodeEdit<'_>) {
        let set = &self.set;
        if let Some(mode) = set.mode {
            edit.set_mode(mode);
        }
        if let Some(uid) = set.uid {
            edit.set_uid(uid);
        }
        if let Some(gid) = set.gid {
            edit.set_gid(gid);
        }
        if let Some(project) = set.project {
            edit.set_project(project);
        }
        if let Some(flags) = set.flags {
            edit.set_flags(flags);
        }
        let times = [
            (TimeField::Access, set.atime),
            (TimeField::Modify, set.mtime),
            (TimeField::Change, set.ctime),
        ];
        for (field, time) in times {
            if let Some(time) = time {
                edit.set_time(field, time);
            }
        }
        if let Some(version) = self.version {
            edit.set_version(version);
        }
    }
}

fn has_xattrs(inode: &Inode) -> bool {
    inode.xattr_offset.is_some() || inode.xattr_block.is_some()
}

impl Ext4 {
    /// Changes attributes of an inode, all or none. Times are kept as exactly as the inode can. The
    /// permission bits are also those of its access control list, if there is one, which changes in
    /// the same transaction.
    ///
    /// Fails with `EOPNOTSUPP` for a flag that cannot be changed, and for a project if the volume
    /// keeps none; with `EOVERFLOW` if the inode has no room for it; with `EROFS`, `EIO`, `ENOMEM`.
    ///
    /// # Cancellation
    ///
    /// Nothing was changed.
    pub async fn set_attributes(&self, info: &InodeInfo, set: &SetAttributes) -> Result {
        let _lock = info.rwsem.write().await.map_err(|_| EIO)?;
        if let Some(mode) = set.mode.filter(|_| info.look(has_xattrs)) {
            let change = || self.set_mode_of_acl(info, mode, set);
            if memory::pinned(change).await?.await? {
                return Ok(());
            }
        }
        self.set_attributes_locked(info, set).await
    }

    /// Changes attributes of an inode, and its access control list by the permission bits. Returns
    /// whether there is one: if not nothing was changed.
    async fn set_mode_of_acl(
        &self,
        info: &InodeInfo,
        mode: u16,
        set: &SetAttributes,
    ) -> Result<bool> {
        let Some(mut acl) = self.acl_locked(info, false).await? else {
            return Ok(false);
        };
        set_permissions(&mut acl, mode);
        let value = self.encode_acl(&acl).await?;
        let ask = Request {
            index: xattr::INDEX_POSIX_ACL_ACCESS,
            name: b"",
            value: Some(&value),
            flags: XattrFlags::default(),
            set: Some(set),
        };
        self.change_xattr_locked(info, &ask).await?;
        Ok(true)
    }

    /// As [`set_attributes`](Self::set_attributes), with the inode's `rwsem` held to write.
    pub(crate) async fn set_attributes_locked(
        &self,
        info: &InodeInfo,
        set: &SetAttributes,
    ) -> Result {
        let edits = info.look(|inode| self.edits(inode, set))?;
        self.edit_inode(info, &edits).await
    }

    /// Edits an inode in a transaction of its own, with its `rwsem` held to write.
    pub(crate) async fn edit_inode(&self, info: &InodeInfo, edits: &Edits) -> Result {
        let writable = self.writable()?;
        let plan = self.plan_inode(info).await?;
        let journal = &writable.journal;
        let mut tx = journal.begin(&self.cache, InodePlan::CREDITS).await?;
        plan.apply(self, &mut tx, info, |edit| edits.apply(edit));
        Ok(())
    }

    /// What a change of contents that is made now edits beside them. Holds as long as the inode's
    /// `rwsem` is held to write.
    pub(crate) fn touched(&self, info: &InodeInfo) -> Result<Edits> {
        let now = self.stamp(info);
        let set = SetAttributes {
            mtime: Some(now),
            ctime: Some(now),
            ..SetAttributes::default()
        };
        info.look(|inode| self.edits(inode, &set))
    }

    /// What a change of attributes edits of `inode`.
    pub(crate) fn edits(&self, inode: &Inode, set: &SetAttributes) -> Result<Edits> {
        let flags = match set.flags {
            Some(flags) => Some(self.settable_flags(inode, flags)?),
            None => None,
        };
        let project = set.project.filter(|project| *project != inode.project);
        if project.is_some() {
            self.check_project(inode)?;
        }
        let mode = set
            .mode
            .map(|mode| inode.mode & !PERMISSIONS | mode & PERMISSIONS);
        let is_version = set.mtime.is_some() || set.ctime.is_some();
        Ok(Edits {
            set: SetAttributes {
                mode,
                uid: set.uid.map(|id| self.stored_id(id)),
                gid: set.gid.map(|id| self.stored_id(id)),
                project,
                flags,
                ..*set
            },
            version: is_version.then_some(inode.version.wrapping_add(1)),
        })
    }

    /// The time of day, as inodes have it: not before any time that an inode was given. Any
    /// context.
    pub fn now(&self) -> Time {
        let now = self.disk.now();
        Time {
            secs: now.secs,
            nanos: now.nanos,
        }
    }

    /// The time for a change of an inode that is made now. If somebody has looked at the time that
    /// it has, it is a later one, so that he notices. Any context.
    pub fn stamp(&self, info: &InodeInfo) -> Time {
        match info.attached.stamp() {
            Some(stamp) => Time {
                secs: stamp.secs,
                nanos: stamp.nanos,
            },
            None => self.now(),
        }
    }

    /// What the volume keeps of an owner's number: with the option for 16 bits only one that fits.
    pub(crate) fn stored_id(&self, id: u32) -> u32 {
        match id {
            0x1_0000.. if self.flags().uid16() => OVERFLOW_ID,
            id => id,
        }
    }

    /// The flags that the inode has if a user wants it to have `wanted`: what he cannot change, or
    /// what such an inode cannot have, stays.
    fn settable_flags(&self, inode: &Inode, wanted: InodeFlags) -> Result<InodeFlags> {
        let changed = inode.flags.0 ^ wanted.0;
        let able = match inode.file_type {
            FileType::Directory => MODIFIABLE,
            FileType::Regular => MODIFIABLE & !OF_DIRECTORIES,
            _ => OF_ALL,
        };
        if changed & REFUSED != 0 {
            return Err(EOPNOTSUPP);
        }
        Ok(InodeFlags(inode.flags.0 ^ changed & able))
    }

    fn check_project(&self, inode: &Inode) -> Result {
        if !self.sb.geo.has_ro_compat(RoCompat::PROJECT) {
            return Err(EOPNOTSUPP);
        }
        if inode.extra_isize + 128 < PROJECT_END {
            return Err(EOVERFLOW);
        }
        Ok(())
    }
}
