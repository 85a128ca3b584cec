// SPDX-License-Identifier: GPL-2.0

//! What a test does with a volume: the operations of [`Ext4`] as a program would use them.

use crate::Bed;
use aext4::{DirContext, Ext4, InodeInfo, InodeRef, MappingKind, Options};
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::xattr as format;
use layout::{AclTag, FileType, Ino};
use upcall::{Block, Blocks};

/// An entry of a directory: name, inode, and type as `readdir` has it.
pub type Entry = (Vec<u8>, u32, u8);

/// A mounted volume.
#[derive(Clone)]
pub struct Volume(pub Arc<Ext4>);

/// How many pages are read at once.
const PAGES: usize = 16;

impl Volume {
    /// Mounts what is on the disk of a test bed.
    pub async fn mount(bed: &Bed, options: Options) -> Result<Self> {
        Ok(Self(Ext4::mount(bed.disk()?, options, false).await?))
    }

    /// The inode at `path`, without following links.
    pub async fn path(&self, path: &[u8]) -> Result<InodeRef> {
        let mut node = self.0.iget(Ino::ROOT).await?;
        for name in path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
        {
            node = self.0.lookup(&node, name).await?.ok_or(ENOENT)?;
        }
        Ok(node)
    }

    /// All entries of a directory, in its order.
    pub async fn entries(&self, dir: &InodeInfo) -> Result<Vec<Entry>> {
        let mut listing = Listing::default();
        loop {
            let before = listing.pos;
            self.0.list(dir, before, &mut listing).await?;
            if listing.over || listing.pos == before {
                return Ok(listing.entries);
            }
        }
    }

    /// Calls `each` for the bytes from `start` to `end`, or to the end of the file.
    pub async fn read(
        &self,
        node: &InodeInfo,
        start: u64,
        end: u64,
        mut each: impl FnMut(&[u8]),
    ) -> Result<u64> {
        let mut blocks = Blocks::new(PAGES)?;
        let size = Block::SIZE as u64;
        let mut at = start - start % size;
        let mut skip = start % size;
        let mut total = 0;
        while at < end {
            let stop = (at + PAGES as u64 * size).min(end.next_multiple_of(size));
            let count = self.0.read_at(node, at..stop, &mut blocks).await? as u64;
            let count = count.min(end - at);
            for page in 0..count.div_ceil(size) {
                let valid = (count - page * size).min(size) as usize;
                let bytes = &blocks.page(page as usize)[..valid];
                let behind = &blocks.page(page as usize)[valid..];
                let whole = at + page * size + valid as u64 >= node.size();
                assert!(
                    !whole || behind.iter().all(|byte| *byte == 0),
                    "bytes behind the end"
                );
                let bytes = bytes.get(skip as usize..).unwrap_or(&[]);
                skip = 0;
                total += bytes.len() as u64;
                each(bytes);
            }
            if count < stop.min(end) - at {
                break;
            }
            at = stop;
        }
        Ok(total)
    }

    /// Where a file has data: as `SEEK_DATA` and `SEEK_HOLE` tell, in order and merged.
    pub async fn segments(&self, node: &InodeInfo) -> Result<Vec<(u64, u64)>> {
        let size = node.size();
        let mut segments: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        while at < size {
            let mapping = self.0.map_bytes(node, at).await?;
            let end = mapping.end().min(size);
            if end <= at {
                return Err(EUCLEAN);
            }
            if matches!(mapping.kind, MappingKind::Data(_) | MappingKind::Inline(_)) {
                match segments.last_mut() {
                    Some(last) if last.1 == at => last.1 = end,
                    _ => segments.push((at, end)),
                }
            }
            at = end;
        }
        Ok(segments)
    }

    /// The whole names of the attributes that are shown, with their values.
    pub async fn attributes(&self, node: &InodeInfo) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut names = Vec::new();
        let mut add = |index: u8, name: &[u8]| {
            names.push((index, name.to_vec()));
            Ok(())
        };
        self.0.list_names(node, &mut add).await?;
        let mut attributes = Vec::new();
        for (index, name) in names {
            let prefix: &[u8] = match index {
                format::INDEX_USER => b"user.",
                format::INDEX_TRUSTED => b"trusted.",
                format::INDEX_SECURITY => b"security.",
                format::INDEX_HURD => b"gnu.",
                format::INDEX_POSIX_ACL_ACCESS => b"system.posix_acl_access",
                format::INDEX_POSIX_ACL_DEFAULT => b"system.posix_acl_default",
                _ => continue,
            };
            let value = match index {
                format::INDEX_POSIX_ACL_ACCESS | format::INDEX_POSIX_ACL_DEFAULT => {
                    let default = index == format::INDEX_POSIX_ACL_DEFAULT;
                    self.acl(node, default).await?.ok_or(ENODATA)?
                }
                _ => self.0.xattr(node, index, &name).await?.as_slice().to_vec(),
            };
            attributes.push(([prefix, &name].concat(), value));
        }
        attributes.sort();
        Ok(attributes)
    }

    /// An access control list, as `getxattr` gives it.
    pub async fn acl(&self, node: &InodeInfo, default: bool) -> Result<Option<Vec<u8>>> {
        let Some(acl) = self.0.get_acl(node, default).await? else {
            return Ok(None);
        };
        let mut value = 2u32.to_le_bytes().to_vec();
        for entry in acl.iter() {
            let id = match entry.tag {
                AclTag::User(id) | AclTag::Group(id) => id,
                _ => u32::MAX,
            };
            value.extend(entry.tag.code().to_le_bytes());
            value.extend(entry.perm.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        Ok(Some(value))
    }
}

/// Collects a listing.
#[derive(Default)]
struct Listing {
    entries: Vec<Entry>,
    pos: u64,
    over: bool,
}

impl DirContext for Listing {
    fn emit(&mut self, entry: &layout::DirEntry<'_>, next: u64) -> Result {
        self.entries.push((
            entry.name.to_vec(),
            entry.ino.0,
            entry.file_type.map_or(0, file_type),
        ));
        self.pos = next;
        Ok(())
    }

    fn go_on_at(&mut self, pos: u64) {
        self.pos = pos;
    }

    fn end_at(&mut self, pos: u64) {
        self.pos = pos;
        self.over = true;
    }
}

/// The type as `readdir` has it.
pub fn file_type(from: FileType) -> u8 {
    match from {
        FileType::Fifo => 1,
        FileType::CharDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::Regular => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
    }
}
