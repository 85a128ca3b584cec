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
    AclEntry, AddressSpaceOperations, Attr, ExportOperations, FileOperations, FileSystemType,
    InodeOperations, Iomap, MountOption, SetAttr, StatAttr, StatFs, SuperOperations, Type,
    VolumeInfo, XattrFlags, XattrNamespace, XattrOperations,
};

/// The type, as it is registered.
pub(crate) static TYPE: Type<Mounted> = Type::new();

/// A volume that is mounted, for crate `vfs`.
#[derive(Clone)]
pub(crate) struct Mounted(pub(crate) Arc<Ext4>);

impl Deref for Mounted {
    type Target = Ext4;

    fn deref(&self) -> &Ext4 {
        &self.0
    }
}

impl FileSystemType for Mounted {
    const NAME: &'static CStr = c"aext4";
    type Options = Options;
    type Inode = InodeRef;
    type Map = Mapping;

    fn registration() -> &'static Type<Self> {
        &TYPE
    }

    fn set_option(options: &mut Options, option: MountOption<'_>) -> Result<bool> {
        options.set(option.key, option.value)
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

    const COUNTERS: &'static [&'static CStr] = aext4::counters::COUNTERS;

    fn show_counter(&self, index: usize, out: &mut dyn Write) -> fmt::Result {
        self.0.show_counter(index, out)
    }

    fn show_cache(&self, out: &mut dyn Write) -> fmt::Result {
        write!(out, "{}", self.cache.stats())
    }
}

#[vtable]
impl SuperOperations for Mounted {
    fn options(&self) -> Options {
        self.0.options()
    }

    fn remount(&self, options: Options) -> Result {
        self.set_options(options)
    }

    async fn make_writable(&self) -> Result {
        Ext4::make_writable(&self.0).await
    }

    async fn finish_recovery(&self) {
        Ext4::finish_recovery(&self.0).await;
    }

    async fn make_read_only(&self) -> Result {
        self.0.make_read_only().await
    }

    async fn sync_fs(&self) -> Result {
        self.0.sync().await
    }

    async fn freeze(&self) -> Result {
        self.0.freeze().await
    }

    async fn thaw(&self) {
        self.0.thaw().await;
    }

    fn shut_down(&self) {
        self.0.shut_down();
    }

    async fn evict(&self, info: InodeRef) -> Result {
        self.0.delete(info).await
    }

    fn is_kept(&self, info: &InodeRef) -> bool {
        info.is_usable()
    }

    fn forget_inode(&self, info: &InodeRef) {
        self.0.close_window(info);
    }

    fn show_options(&self, out: &mut dyn Write) -> fmt::Result {
        self.0.show_options(out)
    }

    fn statfs(&self) -> StatFs {
        convert::statfs(self)
    }

    fn is_shut_down(&self) -> bool {
        self.0.is_shut_down()
    }

    fn label(&self) -> [u8; 16] {
        self.0.label()
    }

    async fn set_label(&self, label: &[u8]) -> Result {
        self.0.set_label(label).await
    }

    async fn trim(&self, start: u64, len: u64, min: u64) -> Result<u64> {
        self.0.trim(start, len, min).await
    }

    fn nr_cached_objects(&self) -> usize {
        self.unused_inodes() + self.cache.len()
    }

    fn free_cached_objects(&self, count: usize) -> usize {
        // Blocks after the inodes, which refer to some.
        let inodes = self.shrink(count);
        inodes + self.cache.shrink(count - inodes.min(count))
    }
}

#[vtable]
impl InodeOperations for Mounted {
    fn attr(&self, info: &InodeRef) -> Attr {
        convert::attr(self, info)
    }

    fn stat_attr(&self, info: &InodeRef) -> StatAttr {
        convert::stat_attr(info)
    }

    fn is_direct(&self, info: &InodeRef) -> bool {
        convert::is_direct(info)
    }

    async fn set_attributes(&self, info: &InodeRef, set: &SetAttr) -> Result {
        let set = convert::set_attributes(set);
        self.0.set_attributes(info, &set).await
    }

    async fn sync_inode(&self, info: &InodeRef, _datasync: bool) -> Result {
        self.0.sync_inode(info).await
    }

    async fn while_unchanged(&self, info: &InodeRef, attach: &mut (dyn FnMut() + Send)) -> Result {
        let _lock = info.rwsem.read().await.map_err(|_| ESHUTDOWN)?;
        attach();
        Ok(())
    }

    fn attached(info: &InodeRef) -> &Attached {
        &info.attached
    }

    fn fast_link<'a>(&self, info: &'a InodeRef) -> Option<&'a CStr> {
        if !info.has_fast_target() {
            return None;
        }
        CStr::from_bytes_with_nul(&info.inline).ok()
    }
}

#[vtable]
impl FileOperations for Mounted {
    fn may_open(&self, info: &InodeRef) -> Result {
        if self.0.is_shut_down() {
            return Err(EIO);
        }
        self.check_readable(info)
    }

    fn flush_on_close(&self, info: &InodeRef) -> bool {
        info.take_flush_on_close()
    }
}

#[vtable]
impl AddressSpaceOperations for Mounted {
    async fn map(&self, info: &InodeRef, pos: u64, _len: u64) -> Result<Mapping> {
        self.map_bytes(info, pos).await
    }

    fn map_cached(&self, info: &InodeRef, pos: u64, _len: u64) -> Option<Mapping> {
        self.map_bytes_cached(info, pos)
    }

    fn map_xattr(&self, info: &InodeRef) -> Option<Mapping> {
        self.map_attributes(info)
    }

    fn map_end(map: &Mapping) -> u64 {
        map.end()
    }

    fn fill_iomap(info: &InodeRef, map: &Mapping, iomap: &mut Iomap<'_>) {
        let (offset, len) = (map.offset, map.len);
        match map.kind {
            MappingKind::Hole => iomap.hole(offset, len),
            MappingKind::Data(addr) => iomap.mapped(offset, len, addr),
            MappingKind::Unwritten(addr) => iomap.unwritten(offset, len, addr),
            MappingKind::Inline(addr) => iomap.inline(offset, len, addr, &info.inline),
        }
    }
}

#[vtable]
impl XattrOperations for Mounted {
    async fn xattr(&self, info: &InodeRef, space: XattrNamespace, name: &[u8]) -> Result<KVec<u8>> {
        self.0.xattr(info, convert::prefix_index(space), name).await
    }

    async fn list_xattr(
        &self,
        info: &InodeRef,
        each: &mut (dyn FnMut(XattrNamespace, &[u8]) -> Result + Send),
    ) -> Result {
        let mut named = |index: u8, name: &[u8]| match convert::namespace(index) {
            Some(space) => each(space, name),
            None => Ok(()),
        };
        self.list_names(info, &mut named).await
    }

    async fn acl(&self, info: &InodeRef, default: bool) -> Result<Option<KVec<AclEntry>>> {
        self.get_acl(info, default)
            .await?
            .map(convert::acl)
            .transpose()
    }

    async fn set_xattr(
        &self,
        info: &InodeRef,
        space: XattrNamespace,
        name: &[u8],
        value: Option<&[u8]>,
        flags: XattrFlags,
    ) -> Result {
        let flags = aext4::XattrFlags {
            create: flags.create,
            replace: flags.replace,
        };
        let index = convert::prefix_index(space);
        self.0.set_xattr(info, index, name, value, flags).await
    }

    async fn set_acl(
        &self,
        info: &InodeRef,
        default: bool,
        entries: Option<&[AclEntry]>,
        mode: Option<u16>,
    ) -> Result {
        let entries = entries.map(convert::layout_acl).transpose()?;
        self.0
            .set_acl(info, default, entries.as_deref(), mode)
            .await
    }
}

#[vtable]
impl ExportOperations for Mounted {
    async fn iget(&self, ino: u32) -> Result<InodeRef> {
        self.iget_user(Ino(ino)).await
    }
}
