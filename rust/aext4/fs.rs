// SPDX-License-Identifier: GPL-2.0

//! The VFS door: what the `vfs` crate asks of a file system, by the operations of [`Volume`].

use crate::node::NodeRef;
use crate::options::Options;
use crate::volume::Volume;
use core::fmt::{self, Write};
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::{DataMap, Ino, InodeFlags};
use vfs::{
    AclEntry, Attached, Attr, DirBatch, Disk, FileSystem, FileType, Mapping, MountOption, StatFs,
    Time, Type, VolumeInfo, XattrNamespace,
};

/// The type, as it is registered.
pub(crate) static TYPE: Type<Volume> = Type::new();

/// The flags that `FS_IOC_GETFLAGS` shows: ext4's `EXT4_FL_USER_VISIBLE`.
const VISIBLE: u32 = 0x725b_dfff;

impl FileSystem for Volume {
    const NAME: &'static CStr = c"aext4";
    type Options = Options;
    type Node = NodeRef;

    fn registration() -> &'static Type<Self> {
        &TYPE
    }

    fn set_option(options: &mut Options, option: MountOption<'_>) -> Result<bool> {
        options.set(option)
    }

    fn asked_to_write(options: &mut Options) {
        options.for_writing = true;
    }

    fn options(&self) -> Options {
        self.options()
    }

    fn remount(&self, options: Options) -> Result {
        self.set_options(options)
    }

    fn show_options(&self, out: &mut dyn Write) -> fmt::Result {
        self.show_options(out)
    }

    async fn mount(disk: Disk, options: Options, silent: bool) -> Result<Arc<Self>> {
        Self::mount(disk, options, silent).await
    }

    fn disk(&self) -> &Disk {
        &self.disk
    }

    fn info(&self) -> VolumeInfo {
        self.info()
    }

    fn statfs(&self) -> StatFs {
        self.statfs()
    }

    fn label(&self) -> &[u8] {
        self.sb.label()
    }

    async fn node(&self, ino: u32) -> Result<NodeRef> {
        self.get_user_node(Ino(ino)).await
    }

    fn cached_nodes(&self) -> usize {
        self.nodes.lock().len()
    }

    fn drop_cached_nodes(&self, count: usize) -> usize {
        self.shrink(count)
    }

    fn attr(&self, node: &NodeRef) -> Attr {
        attr(self, node)
    }

    fn attached(node: &NodeRef) -> &Attached {
        &node.attached
    }

    async fn lookup(&self, dir: &NodeRef, name: &[u8]) -> Result<Option<u32>> {
        let found = self.lookup(dir, name).await?;
        Ok(found.map(|node| node.inode.ino.0))
    }

    async fn read_dir(&self, dir: &NodeRef, pos: u64, batch: &mut DirBatch) -> Result {
        self.list(dir, pos, batch).await
    }

    async fn map(&self, node: &NodeRef, pos: u64, _len: u64) -> Result<Mapping> {
        self.map_bytes(node, pos).await
    }

    fn may_open(&self, node: &NodeRef) -> Result {
        self.check_readable(node)
    }

    fn map_xattr(&self, node: &NodeRef) -> Option<Mapping> {
        self.map_attributes(node)
    }

    fn map_cached(&self, node: &NodeRef, pos: u64, _len: u64) -> Option<Mapping> {
        self.map_bytes_cached(node, pos)
    }

    fn inline_data<'a>(&self, node: &'a NodeRef) -> &'a [u8] {
        &node.inline
    }

    fn fast_link<'a>(&self, node: &'a NodeRef) -> Option<&'a CStr> {
        if node.inode.fast_symlink().is_none() && !node.inode.is_encrypted_link() {
            return None;
        }
        CStr::from_bytes_with_nul(&node.inline).ok()
    }

    async fn xattr(&self, node: &NodeRef, space: XattrNamespace, name: &[u8]) -> Result<KVec<u8>> {
        self.xattr(node, space, name).await
    }

    async fn list_xattr(
        &self,
        node: &NodeRef,
        each: &mut (dyn FnMut(XattrNamespace, &[u8]) -> Result + Send),
    ) -> Result {
        self.list_names(node, each).await
    }

    async fn acl(&self, node: &NodeRef, default: bool) -> Result<Option<KVec<AclEntry>>> {
        self.get_acl(node, default).await
    }
}

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

/// The attributes of a node.
pub(crate) fn attr(volume: &Volume, node: &NodeRef) -> Attr {
    let inode = &node.inode;
    // With the option nouid32 the upper halves, which Linux 2.2 did not know, do not count.
    let ids = if volume.flags().uid16() { 0xffff } else { !0 };
    let time = |t: layout::Time| Time {
        secs: t.secs,
        nanos: t.nanos,
    };
    Attr {
        ino: inode.ino.0,
        file_type: file_type(inode.file_type),
        mode: inode.mode,
        nlink: inode.links.into(),
        uid: inode.uid & ids,
        gid: inode.gid & ids,
        project: inode.project,
        size: if inode.is_encrypted_link() {
            // That of what stands for the target, without the zero.
            node.inline.len().saturating_sub(1) as u64
        } else {
            inode.size
        },
        sectors: inode.sectors,
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
        direct_io: inode.data_map() != DataMap::Inline
            && !inode.flags.has(InodeFlags::JOURNAL_DATA)
            && !inode.flags.has(InodeFlags::VERITY),
        no_xattr: inode.xattr_offset.is_none() && inode.xattr_block.is_none(),
    }
}
