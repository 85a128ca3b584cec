// SPDX-License-Identifier: GPL-2.0

//! Space for contents that come later: for `fallocate`, and for what is written past the page cache.
//!
//! A hole is reserved, and loaned, as for contents that are in memory; then it is mapped at once, and
//! unwritten. So whoever writes to it meanwhile, through the page cache, finds either.

use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::write::WriteKind;
use disk::pinned;
use kernel::prelude::*;
use layout::DataMap;

impl Ext4 {
    /// Gives the holes from `pos` to `end` blocks, which read as zeros until they are written. The
    /// size stays. `privileged` says whether that may be space that is kept for those with
    /// privilege.
    ///
    /// Fails with `EOPNOTSUPP` for a file without extents, which has no blocks that read as zeros;
    /// with `ENOSPC`, `EFBIG`, `EROFS`, and with the errors of damage and of the block layer. Then
    /// there may be blocks for a part of it. Unless it was for lack of space a part may stay
    /// reserved until the file becomes shorter: it is not known whether somebody has written to it
    /// meanwhile.
    ///
    /// # Cancellation
    ///
    /// As when it fails.
    pub async fn allocate(&self, info: &InodeInfo, pos: u64, end: u64, privileged: bool) -> Result {
        if info.data_map() != DataMap::Extents {
            return Err(EOPNOTSUPP);
        }
        let mut at = pos;
        while at < end {
            let map = self.write_begin(info, at, end - at, privileged, false);
            let map = map.await?;
            let behind = map.offset.saturating_add(map.len);
            match map.kind {
                WriteKind::Delayed { new: true } => {
                    let until = behind.min(end);
                    while at < until {
                        at = pinned(|| self.map_unwritten(info, at, until))?.await?;
                    }
                }
                _ => at = behind,
            }
        }
        Ok(())
    }
}
