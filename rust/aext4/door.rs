// SPDX-License-Identifier: GPL-2.0

//! The Rust door: file operations for other modules, as futures.
//!
//! ```ignore
//! let volume = Volume::open(c"/mnt")?;
//! let dir = volume.lookup(volume.root(), b"etc").await?;
//! let file = volume.lookup(dir, b"passwd").await?;
//! let mut block = Block::new()?;
//! let n = volume.read(file, 0, &mut block).await?;
//! ```
//!
//! Operations need neither VFS inodes nor dentries, and take no VFS lock. They run in any task or
//! under [`block_on`](upcall::block_on), as the kernel: permissions are not checked. Every one of them can be
//! dropped at any point, without harm to the volume or to memory.
//!
//! All fail with `EIO` if the device does, `ENOMEM`, `EUCLEAN` if the volume is damaged, `EBADMSG` if a
//! checksum says so, and `ESTALE` for an inode that is not in use.

use crate::fs;
use crate::layout::Ino as Number;
use crate::node::Node;
use crate::volume;
use kernel::prelude::*;
use upcall::Block;
use vfs::{Attr, Handle, MappingKind};

/// The number of an inode, unique on its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u32);

/// A mounted volume, for Rust callers.
///
/// While it lives, `umount` fails with `EBUSY`.
pub struct Volume(Handle<volume::Volume>);

impl Volume {
    /// Opens the volume that is mounted at, or above, the directory `path`.
    ///
    /// The path is the calling thread's: of the process that loads the module, for example. Fails with
    /// the errors of a path walk, and with `EINVAL` if it is no aext4 volume. May sleep.
    pub fn open(path: &CStr) -> Result<Self> {
        Ok(Self(Handle::open(path)?))
    }

    /// The root directory.
    pub fn root(&self) -> Ino {
        Ino(Number::ROOT.0)
    }

    /// Finds `name` in directory `dir`.
    ///
    /// `name` is one component, of 1 to 255 bytes; `.` and `..` are found too. Fails with `ENOENT`,
    /// `ENOTDIR` and `ENAMETOOLONG`.
    pub async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        if name.len() > 255 {
            return Err(ENAMETOOLONG);
        }
        let dir = self.0.get_node(Number(dir.0)).await?;
        match self.0.find(&dir, name).await? {
            Some(ino) => Ok(Ino(ino.0)),
            None => Err(ENOENT),
        }
    }

    /// The attributes of inode `ino`.
    pub async fn stat(&self, ino: Ino) -> Result<Attr> {
        let node = self.0.get_node(Number(ino.0)).await?;
        Ok(fs::attr(&node))
    }

    /// Reads from byte `offset` of a file on into `block`.
    ///
    /// Returns how many bytes there are: [`Block::SIZE`], less at the end of the file, 0 behind it. What
    /// lies behind them in the block is zero. Any `offset` is good; multiples of the block size need one read
    /// where others need two. Fails with `EISDIR`, and with `EINVAL` for what has no bytes.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while the device reads, the block is left vacant.
    pub async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let node = self.0.get_node(Number(ino.0)).await?;
        self.0.read(&node, offset, block).await
    }
}

impl volume::Volume {
    /// Reads from byte `offset` of a file on into `block`; see [`Volume::read`].
    pub(crate) async fn read(&self, node: &Node, offset: u64, block: &mut Block) -> Result<usize> {
        if node.inode.is_dir() {
            return Err(EISDIR);
        }
        if node.inode.file_type != crate::layout::FileType::Regular {
            return Err(EINVAL);
        }
        self.check_readable(node)?;
        block.fill_vacant()?;
        let page = Block::SIZE as u64;
        let left = node.inode.size.saturating_sub(offset);
        let count = left.min(page) as usize;
        let skip = (offset % page) as usize;
        if count == 0 {
            block.as_mut_slice().fill(0);
        } else if skip == 0 {
            self.read_page(node, offset, block).await?;
        } else {
            let mut bounce = Block::vacant();
            let first = offset - skip as u64;
            let split = Block::SIZE - skip;
            self.read_page(node, first, &mut bounce).await?;
            copy(block, ..split, &bounce, skip..);
            block.as_mut_slice().split_at_mut(split).1.fill(0);
            if count > split {
                self.read_page(node, first + page, &mut bounce).await?;
                copy(block, split.., &bounce, ..skip);
            }
        }
        Ok(count)
    }

    /// Reads the page of a file that begins at byte `pos`, a multiple of the page's size; zeros behind
    /// the file's end.
    async fn read_page(&self, node: &Node, pos: u64, block: &mut Block) -> Result {
        let page = Block::SIZE as u64;
        let unit = u64::from(self.sb.geo.block_size());
        let end = node.inode.size.min(pos + page);
        // In whole blocks: the device reads no less.
        let stop = end.next_multiple_of(unit);
        block.fill_vacant()?;
        let mut at = pos;
        while at < stop {
            let mapping = self.map_bytes(node, at).await?;
            let skip = at - mapping.offset;
            let len = (mapping.len - skip).min(stop - at);
            let to = (at - pos) as usize;
            match mapping.kind {
                MappingKind::Data(start) => {
                    block
                        .read(self.disk.device(), start + skip, to, len as usize)
                        .await?;
                }
                MappingKind::Hole | MappingKind::Unwritten(_) => fill(block, to, len as usize),
                MappingKind::Inline(_) => {
                    let from = node.inline.get(skip as usize..).unwrap_or(&[]);
                    let bytes = block.as_mut_slice().get_mut(to..).unwrap_or(&mut []);
                    for (to, from) in bytes.iter_mut().zip(from) {
                        *to = *from;
                    }
                }
            }
            at += len;
        }
        let valid = end.saturating_sub(pos) as usize;
        fill(block, valid, Block::SIZE - valid);
        Ok(())
    }
}

/// Zeroes `len` bytes of a block from `offset` on.
fn fill(block: &mut Block, offset: usize, len: usize) {
    if let Some(bytes) = block.as_mut_slice().get_mut(offset..offset + len) {
        bytes.fill(0);
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
