// SPDX-License-Identifier: GPL-2.0

//! Copies the tree of one volume into another, many files at the same time.
//!
//! The volumes are mounted at `/mnt` and at `/copy`, the second for writing. Load the module with `in_flight=N`: so many
//! files are copied at a time. It logs how far it is after every thousand files. All is durable when it is loaded.

use kernel::prelude::*;
use kernel::sync::Arc;
use stack::AsyncStackable;
use upcall::{block_on, Blocks, JoinSet, Scope};
use vfs::{Attr, FileType, NewInode, SetAttr, XattrFlags};
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

struct Copy {
    from: Volume,
    to: Volume,
}

impl Copy {
    /// Copies what lies beside the contents.
    async fn attributes(&self, from: Ino, attr: &Attr, to: Ino) -> Result {
        let names = self.from.listxattr(from).await?;
        for name in names
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
        {
            if name.starts_with(b"system.") {
                continue;
            }
            let value = self.from.getxattr(from, name).await?;
            self.to
                .setxattr(to, name, &value, XattrFlags::default())
                .await?;
        }
        for default in [false, true] {
            if let Some(acl) = self.from.acl(from, default).await? {
                self.to.set_acl(to, default, Some(&acl)).await?;
            }
        }
        let set = SetAttr {
            atime: Some(attr.atime),
            mtime: Some(attr.mtime),
            ..SetAttr::default()
        };
        self.to.set_attr(to, &set).await.map(drop)
    }

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
        self.attributes(from, &attr, to).await
    }

    /// Copies all. Returns how many directories and files there were.
    async fn all(self: Arc<Self>, in_flight: usize) -> Result<(usize, usize)> {
        let mut files = JoinSet::new(Scope::new()?, in_flight)?;
        let (mut count, mut next) = (0, 0);
        let mut dirs = KVec::new();
        dirs.push((self.from.root(), self.to.root()), GFP_KERNEL)?;
        while let Some(&(from, to)) = dirs.get(next) {
            next += 1;
            let mut entries = self.from.entries(from, 0);
            while let Some(entry) = entries.next().await? {
                if matches!(entry.name, b"." | b".." | b"lost+found") {
                    continue;
                }
                let mut name = KVec::new();
                name.extend_from_slice(entry.name, GFP_KERNEL)?;
                let ino = Ino(entry.ino);
                let attr = self.from.stat(ino).await?;
                if attr.file_type == FileType::Directory {
                    let new = NewInode::with_mode(attr.mode).owned_by(attr.uid, attr.gid);
                    let made = self.to.create(to, &name, &new).await?;
                    dirs.push((ino, made), GFP_KERNEL)?;
                    continue;
                }
                count += 1;
                if count % 1000 == 0 {
                    pr_info!("{next} directories, {count} files so far\n");
                }
                if let Some(ended) = files.spawn(self.clone().file(ino, attr, to, name)).await? {
                    ended??;
                }
            }
        }
        while let Some(ended) = files.next().await {
            ended??;
        }
        // What is put into a directory changes its times.
        for &(from, to) in dirs.iter() {
            let attr = self.from.stat(from).await?;
            self.attributes(from, &attr, to).await?;
        }
        self.to.sync().await?;
        Ok((dirs.len(), count))
    }
}

impl kernel::Module for CopyTree {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let (from, to) = (Volume::open(c"/mnt")?, Volume::open(c"/copy")?);
        let copy = Arc::new(Copy { from, to }, GFP_KERNEL)?;
        let in_flight = module_parameters::in_flight.value() as usize;
        let (dirs, files) = block_on(KBox::pin(copy.all(in_flight), GFP_KERNEL)?)??;
        pr_info!("{dirs} directories, {files} files\n");
        Ok(Self)
    }
}
