// SPDX-License-Identifier: GPL-2.0

//! What crate `vfs` makes the C tables of.

use crate::convert;
use aext4::{Ext4, InodeRef, Mapping, MappingKind, Options};
use core::fmt::{self, Write};
use core::ops::Deref;
use disk::{Attached, Disk};
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::Ino;
use vfs::{
    AclEntry, Attr, DirBatch, FileSystem, Iomap, MountOption, StatFs, Type, VolumeInfo,
    XattrNamespace,
};

/// The type, as it is registered.
pub(crate) static TYPE: Type<Mounted> = Type::new();

/// A volume that is mounted, for crate `vfs`.
#[derive(Clone)]
pub(crate) struct Mounted(Arc<Ext4>);

impl Deref for Mounted {
    type Target = Ext4;

    fn deref(&self) -> &Ext4 {
        &self.0
    }
}

impl FileSystem for Mounted {
    const NAME: &'static CStr = c"aext4";
    type Options = Options;
    type Node = InodeRef;
    type Map = Mapping;

    fn registration() -> &'static Type<Self> {
        &TYPE
    }

    fn set_option(options: &mut Options, option: MountOption<'_>) -> Result<bool> {
        options.set(option.key, option.value)
    }

    fn asked_to_write(options: &mut Options) {
        options.for_writing = true;
    }

    fn options(&self) -> Options {
        self.0.options()
    }

    fn remount(&self, options: Options) -> Result {
        self.set_options(options)
    }

    fn show_options(&self, out: &mut dyn Write) -> fmt::Result {
        self.0.show_options(out)
    }

    async fn mount(disk: Disk, options: Options, silent: bool) -> Result<Self> {
        Ok(Self(Ext4::mount(disk, options, silent).await?))
    }

    fn disk(&self) -> &Disk {
        &self.disk
    }

    fn info(&self) -> VolumeInfo {
        convert::info(self)
    }

    fn statfs(&self) -> StatFs {
        convert::statfs(self)
    }

    fn label(&self) -> &[u8] {
        self.sb.label()
    }

    async fn node(&self, ino: u32) -> Result<InodeRef> {
        self.iget_user(Ino(ino)).await
    }

    fn cached_nodes(&self) -> usize {
        self.unused_inodes() + self.cache.len()
    }

    fn drop_cached_nodes(&self, count: usize) -> usize {
        // Blocks after the inodes, which refer to some.
        let inodes = self.shrink(count);
        inodes + self.cache.shrink(count - inodes.min(count))
    }

    fn attr(&self, node: &InodeRef) -> Attr {
        convert::attr(self, node)
    }

    fn attached(node: &InodeRef) -> &Attached {
        &node.attached
    }

    async fn lookup(&self, dir: &InodeRef, name: &[u8]) -> Result<Option<u32>> {
        let found = self.0.lookup(dir, name).await?;
        Ok(found.map(|node| node.inode.ino.0))
    }

    async fn read_dir(&self, dir: &InodeRef, pos: u64, batch: &mut DirBatch) -> Result {
        self.list(dir, pos, &mut convert::Batch(batch)).await
    }

    async fn map(&self, node: &InodeRef, pos: u64, _len: u64) -> Result<Mapping> {
        self.map_bytes(node, pos).await
    }

    fn may_open(&self, node: &InodeRef) -> Result {
        self.check_readable(node)
    }

    fn map_xattr(&self, node: &InodeRef) -> Option<Mapping> {
        self.map_attributes(node)
    }

    fn map_cached(&self, node: &InodeRef, pos: u64, _len: u64) -> Option<Mapping> {
        self.map_bytes_cached(node, pos)
    }

    fn map_end(map: &Mapping) -> u64 {
        map.end()
    }

    fn fill_iomap(node: &InodeRef, map: &Mapping, iomap: &mut Iomap<'_>) {
        let (offset, len) = (map.offset, map.len);
        match map.kind {
            MappingKind::Hole => iomap.hole(offset, len),
            MappingKind::Data(addr) => iomap.mapped(offset, len, addr),
            MappingKind::Unwritten(addr) => iomap.unwritten(offset, len, addr),
            MappingKind::Inline(addr) => iomap.inline(offset, len, addr, &node.inline),
        }
    }

    fn fast_link<'a>(&self, node: &'a InodeRef) -> Option<&'a CStr> {
        if node.inode.fast_symlink().is_none() && !node.inode.is_encrypted_link() {
            return None;
        }
        CStr::from_bytes_with_nul(&node.inline).ok()
    }

    async fn xattr(&self, node: &InodeRef, space: XattrNamespace, name: &[u8]) -> Result<KVec<u8>> {
        self.0.xattr(node, convert::prefix_index(space), name).await
    }

    async fn list_xattr(
        &self,
        node: &InodeRef,
        each: &mut (dyn FnMut(XattrNamespace, &[u8]) -> Result + Send),
    ) -> Result {
        let mut named = |index: u8, name: &[u8]| match convert::namespace(index) {
            Some(space) => each(space, name),
            None => Ok(()),
        };
        self.list_names(node, &mut named).await
    }

    async fn acl(&self, node: &InodeRef, default: bool) -> Result<Option<KVec<AclEntry>>> {
        self.get_acl(node, default)
            .await?
            .map(convert::acl)
            .transpose()
    }
}
