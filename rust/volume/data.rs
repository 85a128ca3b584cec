// SPDX-License-Identifier: GPL-2.0

//! What crate `vfs` needs of files that are written.

use crate::vfs_ops::Mounted;
use aext4::write::WriteKind;
use aext4::{Ext4, InodeRef, Mapping, MappingKind};
use kernel::prelude::*;
use layout::DataMap;
use vfs::{DataOperations, FileMap, FileMapKind};

/// A mapping, as the VFS has it.
fn file_map(map: &Mapping, sequence: u32) -> Result<FileMap> {
    Ok(FileMap {
        offset: map.offset,
        len: map.len,
        kind: match map.kind {
            MappingKind::Hole => FileMapKind::Hole,
            MappingKind::Data(addr) => FileMapKind::Data(addr),
            MappingKind::Unwritten(addr) => FileMapKind::Unwritten(addr),
            // It has left the inode before anything is written.
            MappingKind::Inline(_) => return Err(EOPNOTSUPP),
        },
        sequence: sequence.into(),
    })
}

impl DataOperations for Mounted {
    fn may_use_reserve(&self) -> bool {
        self.0.may_use_reserve()
    }

    async fn write_begin(
        &self,
        info: &InodeRef,
        pos: u64,
        len: u64,
        privileged: bool,
        nowait: bool,
    ) -> Result<FileMap> {
        let inline = info.data_map() == DataMap::Inline;
        if inline && nowait {
            return Err(EAGAIN);
        }
        let _leaving = if inline {
            Some(info.rwsem.write().await.map_err(|_| ESHUTDOWN)?)
        } else {
            None
        };
        let map = Ext4::write_begin(self, info, pos, len, privileged, nowait).await?;
        Ok(FileMap {
            offset: map.offset,
            len: map.len,
            kind: match map.kind {
                WriteKind::Data(addr) => FileMapKind::Data(addr),
                WriteKind::Unwritten(addr) => FileMapKind::Unwritten(addr),
                WriteKind::Delayed { new } => FileMapKind::Delayed { new },
            },
            sequence: map.sequence.into(),
        })
    }

    async fn write_undo(&self, info: &InodeRef, pos: u64, end: u64) -> Result {
        Ext4::write_undo(self, info, pos..end).await
    }

    fn map_sequence(&self, info: &InodeRef) -> u64 {
        Ext4::map_sequence(self, info).into()
    }

    async fn map_delayed(&self, info: &InodeRef, pos: u64, _len: u64) -> Result<FileMap> {
        let sequence = Ext4::map_sequence(self, info);
        let place = self.place(info, pos).await?;
        let map = file_map(&place.mapping, sequence)?;
        if place.pending {
            let kind = FileMapKind::Delayed { new: false };
            return Ok(FileMap { kind, ..map });
        }
        Ok(map)
    }

    async fn writeback_map(&self, info: &InodeRef, pos: u64, end: u64) -> Result<FileMap> {
        let (map, sequence) = Ext4::writeback_map(self, info, pos, end).await?;
        file_map(&map, sequence)
    }

    fn direct_cached(&self, info: &InodeRef, pos: u64) -> Result<Option<FileMap>> {
        self.check_writing()?;
        let sequence = Ext4::map_sequence(self, info);
        let place = self.place_cached(info, pos).filter(|place| !place.pending);
        place
            .map(|place| file_map(&place.mapping, sequence))
            .transpose()
    }

    async fn direct_begin(
        &self,
        info: &InodeRef,
        pos: u64,
        len: u64,
        privileged: bool,
    ) -> Result<FileMap> {
        let map = self.map_delayed(info, pos, len).await?;
        if map.kind != FileMapKind::Hole || info.data_map() != DataMap::Extents {
            return Ok(map);
        }
        let allocated = DataOperations::allocate(self, info, pos, pos + len, privileged).await;
        let map = self.map_delayed(info, pos, len).await?;
        match map.kind {
            FileMapKind::Hole => allocated.and(Ok(map)),
            // A part is there.
            _ => Ok(map),
        }
    }

    async fn allocate(&self, info: &InodeRef, pos: u64, end: u64, privileged: bool) -> Result {
        Ext4::allocate(self, info, pos, end, privileged).await
    }

    async fn forget(&self, info: &InodeRef, pos: u64, end: u64) -> Result {
        Ext4::forget(self, info, pos, end).await
    }

    async fn leave_inline(&self, info: &InodeRef, privileged: bool) -> Result {
        if info.data_map() != DataMap::Inline {
            return Ok(());
        }
        let _guard = info.rwsem.write().await.map_err(|_| ESHUTDOWN)?;
        Ext4::leave_inline(self, info, privileged).await
    }

    async fn punch(&self, info: &InodeRef, pos: u64, end: u64) -> Result {
        Ext4::punch(self, info, pos, end).await
    }

    async fn zero(&self, info: &InodeRef, pos: u64, end: u64, privileged: bool) -> Result {
        Ext4::zero(self, info, pos, end, privileged).await
    }

    async fn collapse(&self, info: &InodeRef, pos: u64, len: u64, size: u64) -> Result {
        Ext4::collapse(self, info, pos, len, size).await
    }

    async fn insert(&self, info: &InodeRef, pos: u64, len: u64, size: u64) -> Result {
        Ext4::insert(self, info, pos, len, size).await
    }

    async fn write_done(&self, info: &InodeRef, pos: u64, end: u64, ok: bool, size: u64) -> Result {
        Ext4::write_done(self, info, pos, end - pos, ok, size).await
    }

    fn map_is_durable(&self, info: &InodeRef) -> bool {
        Ext4::map_is_durable(self, info)
    }

    fn disk_size(&self, info: &InodeRef) -> u64 {
        info.size()
    }

    async fn truncate(&self, info: &InodeRef, size: u64) -> Result {
        Ext4::truncate(self, info, size).await
    }
}
