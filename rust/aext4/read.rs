// SPDX-License-Identifier: GPL-2.0

//! Reading contents past the VFS: from the page cache where a VFS inode has the page, else from the
//! device.
//!
//! # Concurrency
//!
//! Readers take no lock. What they find of a page is what it was at some time while they read. The
//! page cache is asked first, without a wait: if it has nothing of a page that the device has not, the
//! device has it. If it has a part of it that is not to be had at once, `EBUSY` says that the VFS has
//! to read it.

use crate::error::corrupted;
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::map::{Mapping, MappingKind};
use core::ops::Range;
use disk::{gfp, Cached};
use kernel::prelude::*;
use layout::FileType;
use upcall::{Block, Blocks};

const PAGE: u64 = Block::SIZE as u64;

/// The longest target of a symbolic link.
const LINK_MAX: u64 = PAGE - 1;

impl Ext4 {
    /// Whether `info` is a regular file that can be read.
    #[inline]
    pub fn check_regular(&self, info: &InodeInfo) -> Result {
        match info.file_type {
            FileType::Regular => self.check_readable(info),
            FileType::Directory => Err(EISDIR),
            _ => Err(EINVAL),
        }
    }

    /// The size of a regular file as those who read it see it: with what programs wrote and the
    /// disk does not know yet.
    #[inline]
    pub fn visible_size(&self, info: &InodeInfo) -> u64 {
        let attached = match info.file_type {
            FileType::Regular => info.attached.size(),
            _ => None,
        };
        attached.unwrap_or_else(|| info.size())
    }

    /// Reads from byte `offset` of a file on into `block`. Returns how many bytes there are; what
    /// is behind them is zero. Fails with `EBUSY` if the VFS has to read it.
    pub async fn read(&self, info: &InodeInfo, offset: u64, block: &mut Block) -> Result<usize> {
        self.check_regular(info)?;
        block.fill_vacant()?;
        let size = self.visible_size(info);
        let count = size.saturating_sub(offset).min(PAGE) as usize;
        let skip = (offset % PAGE) as usize;
        if count == 0 {
            block.as_mut_slice().fill(0);
        } else if skip == 0 {
            self.read_page(info, size, offset, block).await?;
        } else {
            // Seldom, and needs memory anyway: it is not to make the future of every read larger.
            disk::pinned(|| self.read_unaligned(info, size, offset, block))?.await?;
        }
        Ok(count)
    }

    /// As [`read`](Self::read), for an offset inside a page that is before `size`, the file's: by
    /// way of whole pages.
    async fn read_unaligned(
        &self,
        info: &InodeInfo,
        size: u64,
        offset: u64,
        block: &mut Block,
    ) -> Result {
        let skip = (offset % PAGE) as usize;
        let mut bounce = Block::new()?;
        let first = offset - skip as u64;
        let split = Block::SIZE - skip;
        self.read_page(info, size, first, &mut bounce).await?;
        copy(block, ..split, &bounce, skip..);
        block.as_mut_slice().split_at_mut(split).1.fill(0);
        if size - first > PAGE {
            self.read_page(info, size, first + PAGE, &mut bounce)
                .await?;
            copy(block, split.., &bounce, ..skip);
        }
        Ok(())
    }

    /// Reads the page of a file of `size` bytes that begins at byte `pos`, a multiple of the page's
    /// size, into `block`, which is not vacant; zeros behind the file's end.
    async fn read_page(&self, info: &InodeInfo, size: u64, pos: u64, block: &mut Block) -> Result {
        let end = size.min(pos + PAGE);
        let valid = end.saturating_sub(pos) as usize;
        let bytes = block.as_mut_slice().get_mut(..valid);
        let cached = bytes.map_or(Cached::Nothing, |bytes| info.attached.copy(pos, bytes));
        if cached == Cached::InPart {
            return Err(EBUSY);
        }
        if cached == Cached::Nothing {
            // In whole blocks: the device reads no less.
            let stop = end.next_multiple_of(u64::from(self.sb.geo.block_size()));
            let mut at = pos;
            while at < stop {
                let unmaps = info.unmaps();
                let mapping = match self.map_bytes_cached(info, at) {
                    Some(mapping) => mapping,
                    None => self.map_bytes(info, at).await?,
                };
                let skip = at - mapping.offset;
                let len = (mapping.len - skip).min(stop - at);
                let to = (at - pos) as usize;
                match mapping.kind {
                    MappingKind::Data(start) => {
                        block
                            .read(self.disk.device(), start + skip, to, len as usize)
                            .await?;
                        if info.unmaps() != unmaps {
                            // The blocks may be others' by now.
                            continue;
                        }
                    }
                    _ => {
                        let bytes = block.as_mut_slice().get_mut(to..to + len as usize);
                        fill(info, &mapping, skip, bytes.unwrap_or(&mut []));
                    }
                }
                at += len;
            }
        }
        if valid < Block::SIZE {
            block.as_mut_slice().split_at_mut(valid).1.fill(0);
        }
        Ok(())
    }

    /// Reads a range of a file, which starts at a page, to the start of `blocks`. Returns how many
    /// bytes there are. Fails with `EBUSY` if the VFS has to read some of it.
    pub async fn read_at(
        &self,
        info: &InodeInfo,
        range: Range<u64>,
        blocks: &mut Blocks,
    ) -> Result<usize> {
        let want = blocks.check_range(&range)?;
        self.check_regular(info)?;
        blocks.fill_vacant()?;
        let start = range.start;
        let count = (want as u64).min(self.visible_size(info).saturating_sub(start));
        if count == 0 {
            return Ok(0);
        }
        // In whole blocks, which the pages have room for.
        let stop = (start + count).next_multiple_of(u64::from(self.sb.geo.block_size()));
        let mut at = start;
        while at < stop {
            let to = (at - start) as usize;
            let cached = info.attached.has_pages();
            if cached && at % PAGE == 0 {
                let len = (start + count).saturating_sub(at).min(PAGE) as usize;
                let page = blocks.page_mut(to / Block::SIZE).get_mut(..len);
                match page.map_or(Cached::Nothing, |bytes| info.attached.copy(at, bytes)) {
                    Cached::Copied => {
                        at += PAGE;
                        continue;
                    }
                    Cached::InPart => return Err(EBUSY),
                    Cached::Nothing => {}
                }
            }
            let unmaps = info.unmaps();
            let mapping = self.map_bytes(info, at).await?;
            let skip = at - mapping.offset;
            let mut len = (mapping.len - skip).min(stop - at);
            if cached {
                // The next page may be there.
                len = len.min(PAGE - at % PAGE);
            }
            match mapping.kind {
                MappingKind::Data(place) => {
                    blocks
                        .read(self.disk.device(), place + skip, to, len as usize)
                        .await?;
                    if info.unmaps() != unmaps {
                        // The blocks may be others' by now.
                        continue;
                    }
                }
                _ => {
                    let (mut done, len) = (0, len as usize);
                    while done < len {
                        let inside = (to + done) % Block::SIZE;
                        let part = (Block::SIZE - inside).min(len - done);
                        let page = blocks.page_mut((to + done) / Block::SIZE);
                        let bytes = page.get_mut(inside..inside + part);
                        fill(info, &mapping, skip + done as u64, bytes.unwrap_or(&mut []));
                        done += part;
                    }
                }
            }
            at += len;
        }
        let count = count as usize;
        if let Some(tail) = blocks
            .page_mut(count / Block::SIZE)
            .get_mut(count % Block::SIZE..)
        {
            tail.fill(0);
        }
        Ok(count)
    }

    /// The target of a symbolic link.
    pub async fn readlink(&self, info: &InodeInfo) -> Result<KVec<u8>> {
        if info.file_type != FileType::Symlink {
            return Err(EINVAL);
        }
        let mut block = Block::vacant();
        let bytes = if info.has_fast_target() {
            &info.inline
        } else {
            block.fill_vacant()?;
            self.read_page(info, info.size(), 0, &mut block).await?;
            let len = info.size().min(LINK_MAX) as usize;
            block.as_slice().get(..len).unwrap_or(&[])
        };
        // As C has it.
        let len = bytes.iter().take_while(|&&byte| byte != 0).count();
        if len == 0 {
            self.report(&format_args!("inode {}: a link without a target", info.ino));
            return Err(corrupted());
        }
        let mut target = KVec::new();
        target.extend_from_slice(bytes.get(..len).unwrap_or(&[]), gfp())?;
        Ok(target)
    }
}

/// Fills `bytes` with what is `skip` bytes behind the start of a mapping that has no place on the
/// device.
fn fill(info: &InodeInfo, mapping: &Mapping, skip: u64, bytes: &mut [u8]) {
    bytes.fill(0);
    if let MappingKind::Inline(_) = mapping.kind {
        let from = info.inline.get(skip as usize..).unwrap_or(&[]);
        for (to, from) in bytes.iter_mut().zip(from) {
            *to = *from;
        }
    }
}

/// Copies a part of `from` to a part of `to` of the same length.
fn copy<T, F>(to: &mut Block, into: T, from: &Block, of: F)
where
    T: core::slice::SliceIndex<[u8], Output = [u8]>,
    F: core::slice::SliceIndex<[u8], Output = [u8]>,
{
    if let (Some(to), Some(from)) = (to.as_mut_slice().get_mut(into), from.as_slice().get(of)) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
    }
}
