// SPDX-License-Identifier: GPL-2.0

//! [`RamFs`]: a file system in memory, as what lies below all layers.

use crate::asynchronous::{AsyncStackable, Asynchronous, Ino, Layer};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use upcall::Block;
use vfs::{AclEntry, Attr, DirBatch, DirEntry, FileType, StatFs};

/// A directory's entries, by name.
type Names = KVec<(KVec<u8>, Ino)>;

/// What an inode is.
enum Kind {
    Directory { parent: Ino, names: Names },
    File(KVVec<u8>),
    Link(KVec<u8>),
}

/// A tree of directories, files and symbolic links in memory.
///
/// It is built by `&mut`, and then only read: so no operation ever waits, and there is no lock.
///
/// ```
/// # use kernel::prelude::*;
/// # use stack::{AsyncStackable, RamFs};
/// # async fn example() -> Result {
/// let mut fs = RamFs::new()?;
/// let etc = fs.add_directory(fs.root(), b"etc")?;
/// fs.add_file(etc, b"motd", b"hello")?;
/// let ino = fs.walk(fs.root(), b"/etc/motd").await?;
/// assert!(fs.stat(ino).await?.size == 5);
/// # Ok(())
/// # }
/// ```
pub struct RamFs {
    /// Number `n` is at `n - 1`.
    inodes: KVVec<Kind>,
    bytes: u64,
}

/// The root is the first.
const ROOT: Ino = Ino(1);

impl RamFs {
    /// Makes an empty root directory. Fails with `ENOMEM`.
    pub fn new() -> Result<Self> {
        let mut inodes = KVVec::new();
        let root = Kind::Directory {
            parent: ROOT,
            names: KVec::new(),
        };
        inodes.push(root, GFP_KERNEL)?;
        Ok(Self { inodes, bytes: 0 })
    }

    /// Adds a directory. Fails with `EEXIST`, `ENOTDIR`, `EINVAL` for a name that is none, `ENAMETOOLONG`,
    /// `ENOSPC` when there are too many, and `ENOMEM`. So do the next two.
    pub fn add_directory(&mut self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let kind = Kind::Directory {
            parent: dir,
            names: KVec::new(),
        };
        self.add(dir, name, kind)
    }

    /// Adds a file with this content.
    pub fn add_file(&mut self, dir: Ino, name: &[u8], content: &[u8]) -> Result<Ino> {
        let mut bytes = KVVec::new();
        bytes.extend_from_slice(content, GFP_KERNEL)?;
        let ino = self.add(dir, name, Kind::File(bytes))?;
        self.bytes = self.bytes.saturating_add(content.len() as u64);
        Ok(ino)
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, dir: Ino, name: &[u8], target: &[u8]) -> Result<Ino> {
        let mut bytes = KVec::new();
        bytes.extend_from_slice(target, GFP_KERNEL)?;
        self.add(dir, name, Kind::Link(bytes))
    }

    fn add(&mut self, dir: Ino, name: &[u8], kind: Kind) -> Result<Ino> {
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(EINVAL);
        }
        if name.len() > 255 {
            return Err(ENAMETOOLONG);
        }
        let ino = u32::try_from(self.inodes.len() + 1).map_err(|_| ENOSPC)?;
        let mut owned = KVec::new();
        owned.extend_from_slice(name, GFP_KERNEL)?;
        self.inodes.reserve(1, GFP_KERNEL)?;
        let names = match self.inodes.get_mut(index(dir)) {
            Some(Kind::Directory { names, .. }) => names,
            Some(_) => return Err(ENOTDIR),
            None => return Err(ESTALE),
        };
        let Err(place) = find(names, name) else {
            return Err(EEXIST);
        };
        names.push((owned, Ino(ino)), GFP_KERNEL)?;
        if let Some(behind) = names.get_mut(place..) {
            behind.rotate_right(1);
        }
        // There is room.
        self.inodes.push(kind, GFP_KERNEL)?;
        Ok(Ino(ino))
    }

    fn kind(&self, ino: Ino) -> Result<&Kind> {
        self.inodes.get(index(ino)).ok_or(ESTALE)
    }

    fn directory(&self, dir: Ino) -> Result<(Ino, &Names)> {
        match self.kind(dir)? {
            Kind::Directory { parent, names } => Ok((*parent, names)),
            _ => Err(ENOTDIR),
        }
    }

    fn file_type(&self, ino: Ino) -> FileType {
        match self.kind(ino) {
            Ok(Kind::Directory { .. }) => FileType::Directory,
            Ok(Kind::File(_)) => FileType::Regular,
            Ok(Kind::Link(_)) => FileType::Symlink,
            Err(_) => FileType::Unknown,
        }
    }
}

fn index(ino: Ino) -> usize {
    (ino.0 as usize).wrapping_sub(1)
}

fn find(names: &Names, name: &[u8]) -> core::result::Result<usize, usize> {
    names.binary_search_by(|(other, _)| other.as_slice().cmp(name))
}

impl Layer for RamFs {
    type Kind = Asynchronous;
}

impl AsyncStackable for RamFs {
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let (parent, names) = self.directory(dir)?;
        match name {
            b"." => Ok(dir),
            b".." => Ok(parent),
            _ if name.len() > 255 => Err(ENAMETOOLONG),
            _ => {
                let place = find(names, name).map_err(|_| ENOENT)?;
                names.get(place).map(|(_, ino)| *ino).ok_or(ENOENT)
            }
        }
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        let (mode, size, nlink) = match self.kind(ino)? {
            Kind::Directory { names, .. } => {
                let directories = names
                    .iter()
                    .filter(|(_, ino)| self.file_type(*ino) == FileType::Directory);
                (0o040_755, 0, 2 + directories.count() as u32)
            }
            Kind::File(bytes) => (0o100_444, bytes.len() as u64, 1),
            Kind::Link(target) => (0o120_777, target.len() as u64, 1),
        };
        Ok(Attr {
            ino: ino.0,
            file_type: self.file_type(ino),
            mode,
            size,
            nlink,
            no_xattr: true,
            ..Attr::default()
        })
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let bytes = match self.kind(ino)? {
            Kind::File(bytes) => bytes,
            Kind::Directory { .. } => return Err(EISDIR),
            Kind::Link(_) => return Err(EINVAL),
        };
        block.fill_vacant()?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = bytes.get(offset..).unwrap_or(&[]);
        let count = bytes.len().min(Block::SIZE);
        let (head, tail) = block.as_mut_slice().split_at_mut(count);
        for (to, from) in head.iter_mut().zip(bytes) {
            *to = *from;
        }
        tail.fill(0);
        Ok(count)
    }

    async fn readlink(&self, ino: Ino) -> Result<KVec<u8>> {
        match self.kind(ino)? {
            Kind::Link(target) => {
                let mut bytes = KVec::new();
                bytes.extend_from_slice(target, GFP_KERNEL)?;
                Ok(bytes)
            }
            _ => Err(EINVAL),
        }
    }

    /// `.` is at 0, `..` at 1, and the names follow in order.
    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        /// How many entries one step gives.
        const STEP: usize = 64;
        let (parent, names) = self.directory(dir)?;
        let dots = [(&b"."[..], dir), (b"..", parent)];
        let names = names.iter().map(|(name, ino)| (name.as_slice(), *ino));
        let count = dots.len() + names.len();
        let all = Iterator::chain(dots.into_iter(), names);
        let first = usize::try_from(pos).unwrap_or(usize::MAX);
        for (n, (name, ino)) in all.enumerate().skip(first).take(STEP) {
            batch.push(&DirEntry {
                ino: ino.0,
                file_type: self.file_type(ino),
                next: n as u64 + 1,
                name,
            })?;
        }
        let next = first.saturating_add(STEP);
        if next < count {
            batch.go_on_at(next as u64);
        }
        Ok(())
    }

    async fn getxattr(&self, ino: Ino, _name: &[u8]) -> Result<KVec<u8>> {
        self.kind(ino)?;
        Err(ENODATA)
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        self.kind(ino)?;
        Ok(KVec::new())
    }

    async fn acl(&self, ino: Ino, _default: bool) -> Result<Option<KVec<AclEntry>>> {
        self.kind(ino)?;
        Ok(None)
    }

    async fn statfs(&self) -> Result<StatFs> {
        let blocks = self.bytes.div_ceil(Block::SIZE as u64);
        Ok(StatFs {
            blocks,
            free: 0,
            available: 0,
            files: self.inodes.len() as u64,
            free_files: 0,
        })
    }
}
