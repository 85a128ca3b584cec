// SPDX-License-Identifier: GPL-2.0

//! What crate `vfs` needs of files that are written.

use crate::vfs_ops::Mounted;
use aext4::{Ext4, InodeRef, Mapping, MappingKind};
use kernel::prelude::*;
use vfs::{DataOperations, FileMap, FileMapKind};

/// A mapping, as the VFS has it.
fn file_map(map: &Mapping, sequence: u64) -> Result<FileMap> {
    Ok(FileMap {
        offset: map.offset,
        len: map.len,
        kind: match map.kind {
            MappingKind::Hole => FileMapKind::Hole,
            MappingKind::Data(addr) => FileMapKind::Data(addr),
            MappingKind::Unwritten(addr) => FileMapKind::Unwritten(addr),
            MappingKind::Inline(_) => return Err(EOPNOTSUPP),
        },
        sequence,
    })
}

impl DataOperations for Mounted {
    async fn write_begin(
        &self,
        info: &InodeRef,
        pos: u64,
        _len: u64,
        _nowait: bool,
    ) -> Result<FileMap> {
        self.writable()?;
        let map = file_map(&self.map_bytes(info, pos).await?, 0)?;
        match map.kind {
            FileMapKind::Data(_) => Ok(map),
            _ => Err(EOPNOTSUPP),
        }
    }

    async fn write_undo(&self, _info: &InodeRef, _pos: u64, _end: u64) {}

    fn map_sequence(&self, _info: &InodeRef) -> u64 {
        0
    }

    async fn map_delayed(&self, info: &InodeRef, pos: u64, _len: u64) -> Result<FileMap> {
        file_map(&self.map_bytes(info, pos).await?, 0)
    }

    async fn writeback_map(&self, info: &InodeRef, pos: u64, _end: u64) -> Result<FileMap> {
        file_map(&self.map_bytes(info, pos).await?, 0)
    }

    async fn direct_begin(
        &self,
        info: &InodeRef,
        pos: u64,
        _len: u64,
        _nowait: bool,
    ) -> Result<FileMap> {
        self.writable()?;
        file_map(&self.map_bytes(info, pos).await?, 0)
    }

    async fn write_done(
        &self,
        _info: &InodeRef,
        _pos: u64,
        _end: u64,
        _ok: bool,
        _size: u64,
    ) -> Result {
        Err(EOPNOTSUPP)
    }

    fn disk_size(&self, info: &InodeRef) -> u64 {
        info.size()
    }

    async fn truncate(&self, info: &InodeRef, size: u64) -> Result {
        Ext4::truncate(self, info, size).await
    }
}
