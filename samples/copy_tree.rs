// SPDX-License-Identifier: GPL-2.0

//! Copies the tree of one volume into another, many files at the same time.
//!
//! The volumes are mounted at `/mnt` and at `/copy`, the second for writing. Load the module with `in_flight=N`: so many
//! files are copied at a time. It logs how far it is after every thousand files. All is durable when it is loaded.

use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::Arc;
use stack::{copy_attributes, walk_tree, AsyncStackable, Found, Visitor};
use upcall::{block_on, Blocks, JoinSet, Mutex, Scope};
use vfs::{Attr, FileType, NewInode};
use volume::{Ino, Volume};

module! {
    type: CopyTree,
    name: "copy_tree",
    authors: ["The Upcall developers"],
    description: "Copies a tree, many files at the same time",
    license: "GPL",
    params: {
        in_flight: u32 {
            default: 64,
            description: "How many files are copied at the same time",
        },
    },
}

struct CopyTree;

/// How many pages of a file are in memory at once.
const PAGES: usize = 32;

/// How many tasks walk the tree.
const WALKERS: usize = 64;

struct Copy {
    from: Arc<Volume>,
    to: Volume,
}

impl Copy {
    /// Copies a file, a link or a device.
    async fn file(self: Arc<Self>, from: Ino, attr: Attr, dir: Ino, name: KVec<u8>) -> Result {
        let mut new = NewInode::with_mode(attr.mode).owned_by(attr.uid, attr.gid);
        new.device = attr.device;
        if attr.file_type == FileType::Symlink {
            let target = self.from.readlink(from).await?;
            return self.to.symlink(dir, &name, &target).await.map(drop);
        }
        let to = self.to.create(dir, &name, &new).await?;
        if attr.file_type == FileType::Regular {
            let mut blocks = Blocks::new(PAGES)?;
            let mut at = 0;
            while at < attr.size {
                let end = (at + blocks.len() as u64).min(attr.size);
                let count = self.from.read_at(from, at..end, &mut blocks).await? as u64;
                if count == 0
                    || self.to.write_at(to, at..at + count, &mut blocks).await? as u64 != count
                {
                    return Err(EIO);
                }
                at += count;
            }
        }
        copy_attributes((&*self.from, from), &attr, (&self.to, to), |_| true).await
    }
}

/// What the tasks share that walk the source.
struct Walk {
    copy: Arc<Copy>,
    files: Mutex<(JoinSet<Result>, usize)>,
    /// Which directory of the target is that of the source.
    dirs: Mutex<RBTree<Ino, Ino>>,
}

impl Visitor<Volume> for Walk {
    async fn visit(&self, _: &Volume, found: Found<'_>) -> Result<bool> {
        let Found { ino, name, .. } = found;
        if name == b"lost+found" {
            return Ok(false);
        }
        let to = *self.dirs.lock().await?.get(&found.dir).ok_or(EIO)?;
        if found.attr.file_type == FileType::Directory {
            let attr = found.attr;
            let new = NewInode::with_mode(attr.mode).owned_by(attr.uid, attr.gid);
            let made = self.copy.to.create(to, name, &new).await?;
            let mut dirs = self.dirs.lock().await?;
            dirs.try_create_and_insert(ino, made, disk::gfp())?;
            return Ok(true);
        }
        let mut copy = KVec::new();
        copy.extend_from_slice(name, disk::gfp())?;
        // Large, and not to be a part of each walker.
        let (from, attr) = (self.copy.clone(), found.attr.clone());
        let file = disk::pinned(|| from.file(ino, attr, to, copy))?;
        let mut files = self.files.lock().await?;
        files.1 += 1;
        if files.1 % 1000 == 0 {
            pr_info!("{} files so far\n", files.1);
        }
        // It waits here while as many are copied as may be.
        if let Some(ended) = files.0.spawn(file).await? {
            ended??;
        }
        Ok(false)
    }
}

/// Copies all. Returns how many directories and files there were.
async fn copy_all(copy: Arc<Copy>, in_flight: usize) -> Result<(u64, usize)> {
    let (from, root) = (copy.from.clone(), copy.from.root());
    let mut dirs = RBTree::new();
    dirs.try_create_and_insert(root, copy.to.root(), GFP_KERNEL)?;
    let walk = Walk {
        copy: copy.clone(),
        files: Mutex::new((JoinSet::new(Scope::new()?, in_flight)?, 0)),
        dirs: Mutex::new(dirs),
    };
    let walk = Arc::new(walk, GFP_KERNEL)?;
    let visited = walk_tree(&from, root, WALKERS, &walk).await?;
    let mut files = walk.files.lock().await?;
    while let Some(ended) = files.0.next().await {
        ended??;
    }
    // What is put into a directory changes its times.
    for (&from, &to) in walk.dirs.lock().await?.iter() {
        let attr = copy.from.stat(from).await?;
        copy_attributes((&*copy.from, from), &attr, (&copy.to, to), |_| true).await?;
    }
    copy.to.sync().await?;
    Ok((visited.directories, files.1))
}

impl kernel::Module for CopyTree {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let from = Arc::new(Volume::open(c"/mnt")?, GFP_KERNEL)?;
        let to = Volume::open(c"/copy")?;
        let copy = Arc::new(Copy { from, to }, GFP_KERNEL)?;
        let in_flight = module_parameters::in_flight.value() as usize;
        let (dirs, files) = block_on(KBox::pin(copy_all(copy, in_flight), GFP_KERNEL)?)??;
        pr_info!("{dirs} directories, {files} files\n");
        Ok(Self)
    }
}
