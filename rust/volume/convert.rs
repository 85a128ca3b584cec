// SPDX-License-Identifier: GPL-2.0

//! The types of `aext4` and `layout`, as the two interfaces have them.

use aext4::{DirContext, Ext4, InodeInfo, SetAttributes};
use disk::gfp;
use kernel::prelude::*;
use layout::dir::NAME_MAX;
use layout::xattr as format;
use layout::{AclTag, DataMap, Ino, InodeFlags};
use vfs::{
    AclEntry, Attr, DirBatch, DirEntry, FileType, SetAttr, StatAttr, StatFs, Time, VolumeInfo,
    XattrNamespace,
};

/// The magic number that `statfs` reports, the same as ext4's.
const MAGIC: u64 = 0xef53;

/// The flags that `FS_IOC_GETFLAGS` shows: ext4's `EXT4_FL_USER_VISIBLE`.
const VISIBLE: u32 = 0x725b_dfff;

/// The file type of the layout, as the VFS has it.
pub(crate) fn file_type(from: layout::FileType) -> FileType {
    match from {
        layout::FileType::Regular => FileType::Regular,
        layout::FileType::Directory => FileType::Directory,
        layout::FileType::CharDevice => FileType::CharDevice,
        layout::FileType::BlockDevice => FileType::BlockDevice,
        layout::FileType::Fifo => FileType::Fifo,
        layout::FileType::Socket => FileType::Socket,
        layout::FileType::Symlink => FileType::Symlink,
    }
}

/// A time.
pub(crate) fn time(t: layout::Time) -> Time {
    Time {
        secs: t.secs,
        nanos: t.nanos,
    }
}

/// The attributes of an inode.
pub(crate) fn attr(volume: &Ext4, info: &InodeInfo) -> Attr {
    // With the option nouid32 the upper halves, which Linux 2.2 did not know, do not count.
    let ids = if volume.flags().uid16() { 0xffff } else { !0 };
    let pending = volume.pending_sectors(info);
    info.look(|inode| Attr {
        ino: inode.ino.0,
        file_type: file_type(inode.file_type),
        mode: inode.mode,
        nlink: inode.links.into(),
        uid: inode.uid & ids,
        gid: inode.gid & ids,
        project: inode.project,
        size: if inode.is_encrypted_link() {
            // That of what stands for the target, without the zero.
            info.inline.len().saturating_sub(1) as u64
        } else {
            inode.size
        },
        sectors: inode.sectors + pending,
        atime: time(inode.atime),
        mtime: time(inode.mtime),
        ctime: time(inode.ctime),
        btime: inode.crtime.map(time),
        device: inode
            .device
            .map_or((0, 0), |device| (device.major, device.minor)),
        generation: inode.generation,
        flags: inode.flags.0 & VISIBLE,
        inline: inode.data_map() == DataMap::Inline,
        no_xattr: inode.xattr_offset.is_none() && inode.xattr_block.is_none(),
    })
}

/// What `statx` tells of an inode beside what its VFS inode has.
pub(crate) fn stat_attr(info: &InodeInfo) -> StatAttr {
    let is_regular = info.file_type == layout::FileType::Regular;
    info.look(|inode| StatAttr {
        btime: inode.crtime.map(time),
        flags: inode.flags.0 & VISIBLE,
        is_regular,
        inline_size: (is_regular && inode.data_map() == DataMap::Inline).then_some(inode.size),
    })
}

/// Whether a file is read and written past the page cache if somebody wants that.
pub(crate) fn is_direct(info: &InodeInfo) -> bool {
    info.look(|inode| {
        inode.data_map() != DataMap::Inline
            && !inode.flags.has(InodeFlags::JOURNAL_DATA)
            && !inode.flags.has(InodeFlags::VERITY)
    })
}

/// The attributes that are to change.
pub(crate) fn set_attributes(set: &SetAttr) -> SetAttributes {
    let time = |t: Time| layout::Time {
        secs: t.secs,
        nanos: t.nanos,
    };
    SetAttributes {
        mode: set.mode,
        uid: set.uid,
        gid: set.gid,
        project: set.project,
        flags: set.flags.map(InodeFlags),
        atime: set.atime.map(time),
        mtime: set.mtime.map(time),
        ctime: set.ctime.map(time),
    }
}

/// What does not change while a volume is mounted.
pub(crate) fn info(volume: &Ext4) -> VolumeInfo {
    let geo = &volume.sb.geo;
    // Inodes of more than 128 bytes have room for two more bits of the seconds, and nanoseconds.
    let large = geo.inode_size() > 128;
    let last = if large {
        i64::from(i32::MAX) + (3 << 32)
    } else {
        i32::MAX.into()
    };
    VolumeInfo {
        magic: MAGIC,
        block_size: geo.block_size(),
        max_bytes: geo.max_file_size(geo.has_incompat(layout::Incompat::EXTENTS)),
        time_range: (i32::MIN.into(), last),
        time_granularity: if large { 1 } else { 1_000_000_000 },
        uuid: volume.sb.uuid,
        acl: volume.flags().acl(),
        root: Ino::ROOT.0,
        name_max: NAME_MAX as u32,
    }
}

/// Space and inodes.
pub(crate) fn statfs(volume: &Ext4) -> StatFs {
    let st = volume.statfs();
    StatFs {
        blocks: st.blocks,
        free: st.free,
        available: st.available,
        files: st.files,
        free_files: st.free_files,
    }
}

/// The entries of an access control list.
pub(crate) fn acl(entries: KVec<layout::AclEntry>) -> Result<KVec<AclEntry>> {
    let mut acl = KVec::with_capacity(entries.len(), gfp())?;
    for entry in entries.iter() {
        let id = match entry.tag {
            AclTag::User(id) | AclTag::Group(id) => id,
            _ => 0,
        };
        let entry = AclEntry {
            tag: entry.tag.code(),
            perm: entry.perm,
            id,
        };
        acl.push(entry, gfp())?;
    }
    Ok(acl)
}

/// The entries of an access control list, as the disk has them. Fails with `EINVAL` for a tag that
/// there is not.
pub(crate) fn layout_acl(entries: &[AclEntry]) -> Result<KVec<layout::AclEntry>> {
    let mut acl = KVec::with_capacity(entries.len(), gfp())?;
    for entry in entries {
        let tags = [
            AclTag::UserObj,
            AclTag::User(entry.id),
            AclTag::GroupObj,
            AclTag::Group(entry.id),
            AclTag::Mask,
            AclTag::Other,
        ];
        let tag = tags.into_iter().find(|tag| tag.code() == entry.tag);
        let entry = layout::AclEntry {
            tag: tag.ok_or(EINVAL)?,
            perm: entry.perm,
        };
        acl.push(entry, gfp())?;
    }
    Ok(acl)
}

/// The namespace for a prefix's number; `None` for those that are not shown.
pub(crate) fn namespace(index: u8) -> Option<XattrNamespace> {
    Some(match index {
        format::INDEX_USER => XattrNamespace::User,
        format::INDEX_POSIX_ACL_ACCESS => XattrNamespace::AclAccess,
        format::INDEX_POSIX_ACL_DEFAULT => XattrNamespace::AclDefault,
        format::INDEX_TRUSTED => XattrNamespace::Trusted,
        format::INDEX_SECURITY => XattrNamespace::Security,
        format::INDEX_SYSTEM => XattrNamespace::System,
        format::INDEX_HURD => XattrNamespace::Gnu,
        _ => return None,
    })
}

/// The number of a namespace's prefix.
pub(crate) fn prefix_index(namespace: XattrNamespace) -> u8 {
    match namespace {
        XattrNamespace::User => format::INDEX_USER,
        XattrNamespace::AclAccess => format::INDEX_POSIX_ACL_ACCESS,
        XattrNamespace::AclDefault => format::INDEX_POSIX_ACL_DEFAULT,
        XattrNamespace::Trusted => format::INDEX_TRUSTED,
        XattrNamespace::Security => format::INDEX_SECURITY,
        XattrNamespace::System => format::INDEX_SYSTEM,
        XattrNamespace::Gnu => format::INDEX_HURD,
    }
}

/// Where a listing of `aext4` goes.
pub(crate) struct Batch<'a>(pub(crate) &'a mut DirBatch);

impl DirContext for Batch<'_> {
    #[inline]
    fn emit(&mut self, entry: &layout::DirEntry<'_>, next: u64) -> Result {
        self.0.push(&DirEntry {
            ino: entry.ino.0,
            file_type: entry.file_type.map_or(FileType::Unknown, file_type),
            next,
            name: entry.name,
        })
    }

    fn go_on_at(&mut self, pos: u64) {
        self.0.go_on_at(pos);
    }

    fn end_at(&mut self, pos: u64) {
        self.0.end_at(pos);
    }
}
