// SPDX-License-Identifier: GPL-2.0

//! [`Overlay`]: a layer that keeps changes in another file system.
//!
//! What is on the upper file system is as overlayfs has it: a name that is gone is a character
//! device 0:0 (a whiteout), and a directory that hides what is below has `trusted.overlay.opaque`.
//!
//! # Concurrency
//!
//! Whoever changes names, or copies something up, has `changes`, a mutex that is held across the
//! `.await` of both file systems: so one copies a file up, and the others wait and find it. What is
//! above already is written without it. Who reads takes no lock: names are looked up above, and
//! then below, so that during a change the one or the other is found.
//!
//! A future that is dropped leaves both file systems as they were, or the change as a whole: each
//! ends with one change of the upper file system that makes it visible. What it had made before
//! that is without a name, or in the work directory. The node of what was copied up may not know
//! that; then the next who copies it up finds that it is there. A directory that replaces another
//! one with whiteouts in it takes two steps: after the first an empty directory with the same
//! attributes is there. A directory that replaces a whiteout leaves one for a moment where
//! nothing is below, which is no name.

mod change;
mod copy_up;
mod nodes;

use self::nodes::{Node, Nodes, ROOT};
use crate::asynchronous::{AsyncStackable, Asynchronous, Ino, Layer};
use crate::change::{Change, OpenInode, RenameFlags, Sync as Durable};
use crate::owned_change::owned;
use crate::ram::RamFs;
use core::ops::Range;
use disk::gfp;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use upcall::{Block, Blocks, Mutex};
use vfs::{AclEntry, Attr, DirBatch, DirEntry, FileType, NewInode, StatFs};

/// What the names of overlayfs' own attributes begin with: they are not shown.
const OWN: &[u8] = b"trusted.overlay.";

/// The attribute of a directory that hides what is below, with the value `y`.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// The positions in a listing that are below.
const BELOW: u64 = 1 << 63;

/// A tree whose changes are kept in another one: the lower file system is never written.
///
/// What is changed is copied up first, as a whole: contents, owner, permissions, times and extended
/// attributes, but not the flags of `chattr`. So one changed byte takes the space of the file
/// above. The upper file system needs `trusted.` attributes, files without names, and `rename` with
/// its flags; a volume and [`RamFs`] have them. What it has then the kernel's overlayfs mounts,
/// with the same directories as `upperdir` and `workdir`; not both at the same time.
///
/// As overlayfs without `redirect_dir`, `index` and `metacopy`, a directory that is below is not
/// renamed (`EXDEV`), names of one file below part when it is copied up, and a directory that is
/// above and below has 1 link. `RENAME_WHITEOUT` fails with `EINVAL`. What was opened before it was
/// copied up is not kept by that when its last name goes.
///
/// Inodes have numbers of the overlay's own; it needs some memory for each that was found.
pub struct Overlay<L, U> {
    lower: L,
    upper: U,
    /// In the upper file system.
    work: Ino,
    nodes: Arc<Nodes>,
    changes: Mutex<()>,
    next: Atomic<u64>,
}

impl<L: AsyncStackable> Overlay<L, RamFs> {
    /// Makes the layer on `lower`, with changes that are kept in memory. Fails with `ENOMEM`.
    pub async fn in_memory(lower: L) -> Result<Self> {
        let upper = RamFs::new()?;
        let top = upper.mkdir(upper.root(), b"upper", 0o755).await?;
        let work = upper.mkdir(upper.root(), b"work", 0o755).await?;
        Self::new(lower, upper, top, work).await
    }
}

impl<L: AsyncStackable, U: AsyncStackable> Overlay<L, U> {
    /// Makes the layer of `lower`, and of the directory `dir` of `upper`, with the empty directory
    /// `work` of the same file system for what is not complete.
    ///
    /// What an overlay that was given up has left there is removed. Fails as changes of `upper` do.
    pub async fn new(lower: L, upper: U, dir: Ino, work: Ino) -> Result<Self> {
        let work = match upper.lookup(work, b"work").await {
            Err(ENOENT) => upper.mkdir(work, b"work", 0o700).await?,
            found => found?,
        };
        let nodes = Nodes::new(dir, lower.root())?;
        let overlay = Self {
            lower,
            upper,
            work,
            nodes,
            changes: Mutex::new(()),
            next: Atomic::new(0),
        };
        disk::pinned(|| overlay.empty(work))?.await?;
        Ok(overlay)
    }

    /// The file system below.
    pub fn lower(&self) -> &L {
        &self.lower
    }

    /// The file system that has the changes.
    pub fn upper(&self) -> &U {
        &self.upper
    }

    /// A name for something in the work directory.
    fn work_name(&self) -> [u8; 17] {
        let mut name = [b'#'; 17];
        let mut number = self.next.fetch_add(1, Relaxed);
        for digit in name.iter_mut().skip(1).rev() {
            *digit = b"0123456789abcdef"[(number & 15) as usize];
            number >>= 4;
        }
        name
    }

    /// Makes a symbolic link above.
    async fn make_link(&self, dir: Ino, name: &[u8], target: &[u8], new: &NewInode) -> Result<Ino> {
        let change = Change::Symlink {
            dir,
            name,
            target,
            new,
        };
        self.upper.change(change).await
    }

    /// Removes all that is in a directory above: whiteouts, and what was not completed.
    async fn empty(&self, top: Ino) -> Result {
        let mut dirs = KVec::new();
        dirs.push(top, gfp())?;
        while let Some(dir) = dirs.pop() {
            let mut names = KVec::new();
            let mut entries = self.upper.entries(dir, 0);
            while let Some(entry) = entries.next().await? {
                if entry.name != b"." && entry.name != b".." {
                    names.push(owned(entry.name)?, gfp())?;
                }
            }
            let mut below = KVec::new();
            for name in names.iter() {
                if self.upper.unlink(dir, name).await == Err(EISDIR) {
                    if let Err(error) = self.upper.rmdir(dir, name).await {
                        if error != ENOTEMPTY {
                            return Err(error);
                        }
                        below.push(name, gfp())?;
                    }
                }
            }
            if below.is_empty() {
                continue;
            }
            // Again, when what is in its directories is gone.
            dirs.push(dir, gfp())?;
            for name in below.iter() {
                let child = self.upper.lookup(dir, name).await?;
                dirs.push(child, gfp())?;
            }
        }
        Ok(())
    }

    /// Whether what is above stands for a name that is gone.
    async fn is_whiteout(&self, upper: Ino) -> Result<bool> {
        Ok(is_whiteout(&self.upper.stat(upper).await?))
    }

    /// What is above with a name, which may be a whiteout.
    async fn above(&self, dir: &Node, name: &[u8]) -> Result<Option<(Ino, Attr)>> {
        let Some(upper) = dir.upper() else {
            return Ok(None);
        };
        match self.upper.lookup(upper, name).await {
            Err(ENOENT) => Ok(None),
            found => {
                let ino = found?;
                Ok(Some((ino, self.upper.stat(ino).await?)))
            }
        }
    }

    /// What is below with a name.
    async fn below(&self, dir: &Node, name: &[u8]) -> Result<Option<(Ino, FileType)>> {
        let Some(lower) = dir.lower else {
            return Ok(None);
        };
        match self.lower.lookup(lower, name).await {
            Err(ENOENT) => Ok(None),
            found => {
                let ino = found?;
                let attr = self.lower.stat(ino).await?;
                Ok((!is_whiteout(&attr)).then_some((ino, attr.file_type)))
            }
        }
    }

    /// Finds a name; `None` if it leads nowhere.
    async fn find(&self, dir: &Node, name: &[u8]) -> Result<Option<Arc<Node>>> {
        let dots = name == b"." || name == b"..";
        if dots && self.stat(dir.ino).await?.file_type != FileType::Directory {
            return Err(ENOTDIR);
        }
        if name == b"." {
            return self.nodes.get(dir.ino).map(Some);
        }
        if name == b".." {
            let parent = match (dir.upper(), dir.lower) {
                // It may have moved.
                (Some(upper), None) => {
                    let up = self.upper.lookup(upper, b"..").await?;
                    self.nodes.of_upper(up).ok_or(ESTALE)?
                }
                _ => self.nodes.get(dir.parent)?,
            };
            return Ok(Some(parent));
        }
        let Some((upper, attr)) = self.above(dir, name).await? else {
            return match self.below(dir, name).await? {
                Some((lower, _)) => self.nodes.found(dir.ino, name, None, Some(lower)).map(Some),
                // It was copied up, or there is none.
                None => Ok(None),
            };
        };
        if is_whiteout(&attr) {
            return Ok(None);
        }
        let mut lower = None;
        if attr.file_type == FileType::Directory && self.nodes.of_upper(upper).is_none() {
            let opaque = match self.upper.getxattr(upper, OPAQUE).await {
                Err(ENODATA) => false,
                value => value?.as_slice() == b"y",
            };
            if !opaque {
                let below = self.below(dir, name).await?;
                lower = below
                    .filter(|(_, file_type)| *file_type == FileType::Directory)
                    .map(|(ino, _)| ino);
            }
        }
        self.nodes
            .found(dir.ino, name, Some(upper), lower)
            .map(Some)
    }

    /// Where an inode's contents and attributes are.
    fn place(&self, ino: Ino) -> Result<Place> {
        let node = self.nodes.get(ino)?;
        match (node.upper(), node.lower) {
            (Some(upper), _) => Ok(Place::Upper(upper)),
            (None, Some(lower)) => Ok(Place::Lower(lower)),
            (None, None) => Err(ESTALE),
        }
    }

    async fn list(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        let node = self.nodes.get(dir)?;
        let (upper, lower) = (node.upper(), node.lower);
        let mut found = DirBatch::new();
        let above = match upper {
            Some(upper) if pos & BELOW == 0 => {
                self.upper.read_dir(upper, pos, &mut found).await?;
                true
            }
            _ => match lower {
                Some(lower) => {
                    let pos = pos & !BELOW;
                    self.lower.read_dir(lower, pos, &mut found).await?;
                    false
                }
                None => return self.upper.read_dir(upper.ok_or(ESTALE)?, pos, batch).await,
            },
        };
        let mark = if above { 0 } else { BELOW };
        for entry in found.iter() {
            let dots = entry.name == b"." || entry.name == b"..";
            if !above && upper.is_some() {
                // Those that are above, or gone, were listed, or are not.
                if dots || self.above(&node, entry.name).await?.is_some() {
                    continue;
                }
            }
            let Some(child) = self.find(&node, entry.name).await? else {
                continue;
            };
            batch.push(&DirEntry {
                ino: child.ino.0,
                next: entry.next | mark,
                ..entry
            })?;
        }
        match found.next() {
            Some(next) => batch.go_on_at(next | mark),
            None if above && lower.is_some() => batch.go_on_at(BELOW),
            None => {}
        }
        Ok(())
    }
}

/// Where an inode is.
enum Place {
    Upper(Ino),
    Lower(Ino),
}

fn is_whiteout(attr: &Attr) -> bool {
    attr.file_type == FileType::CharDevice && attr.device == (0, 0)
}

/// Asks the file system that has an inode.
macro_rules! ask {
    ($this:expr, $ino:ident => $op:ident($($arg:expr),*)) => {
        match $this.place($ino)? {
            Place::Upper($ino) => $this.upper.$op($($arg),*).await,
            Place::Lower($ino) => $this.lower.$op($($arg),*).await,
        }
    };
}

impl<L, U> Layer for Overlay<L, U> {
    type Kind = Asynchronous;
}

impl<L: AsyncStackable, U: AsyncStackable> AsyncStackable for Overlay<L, U> {
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let node = self.nodes.get(dir)?;
        let found = disk::pinned(|| self.find(&node, name))?.await?;
        found.map(|node| node.ino).ok_or(ENOENT)
    }

    async fn stat(&self, ino: Ino) -> Result<Attr> {
        let own = ino.0;
        let mut attr = ask!(self, ino => stat(ino))?;
        attr.ino = own;
        let node = self.nodes.get(ino)?;
        if attr.file_type == FileType::Directory && node.lower.is_some() {
            attr.nlink = 1;
        }
        Ok(attr)
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        ask!(self, ino => read(ino, offset, block))
    }

    async fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        ask!(self, ino => read_at(ino, range, blocks))
    }

    async fn readlink(&self, ino: Ino) -> Result<KVec<u8>> {
        ask!(self, ino => readlink(ino))
    }

    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        disk::pinned(|| self.list(dir, pos, batch))?.await
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        if name.starts_with(OWN) {
            return Err(ENODATA);
        }
        ask!(self, ino => getxattr(ino, name))
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        let all = ask!(self, ino => listxattr(ino))?;
        let mut names = KVec::new();
        for name in all.split_inclusive(|byte| *byte == 0) {
            if !name.starts_with(OWN) {
                names.extend_from_slice(name, gfp())?;
            }
        }
        Ok(names)
    }

    async fn acl(&self, ino: Ino, default: bool) -> Result<Option<KVec<AclEntry>>> {
        ask!(self, ino => acl(ino, default))
    }

    async fn statfs(&self) -> Result<StatFs> {
        self.upper.statfs().await
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        disk::pinned(|| self.make_change(&change))?.await
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let upper = disk::pinned(|| self.to_write(ino))?.await?;
        self.upper.write_bytes(upper, pos, bytes).await
    }

    async fn make_durable(&self, what: Durable) -> Result {
        let of = |ino| match self.place(ino)? {
            Place::Upper(upper) => Ok::<_, Error>(Some(upper)),
            Place::Lower(_) => Ok(None),
        };
        let what = match what {
            Durable::All => Some(Durable::All),
            Durable::Inode(ino) => of(ino)?.map(Durable::Inode),
            Durable::Data(ino) => of(ino)?.map(Durable::Data),
        };
        match what {
            Some(what) => self.upper.make_durable(what).await,
            None => Ok(()),
        }
    }

    async fn open(&self, ino: Ino) -> Result<OpenInode> {
        let own = ino;
        let kept = ask!(self, ino => open(ino))?;
        OpenInode::new(own, kept)
    }

    async fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        disk::pinned(|| self.make_tmpfile(dir, new))?.await
    }
}
