// SPDX-License-Identifier: GPL-2.0

//! Removes a directory with all that is below, many names at the same time.
//!
//! The volume is mounted at `/mnt` for writing, and has a file `.bulk_rm` with the path of the directory. Load the module
//! with `in_flight=N`: so many names go at a time. All is durable when it is loaded.

use kernel::prelude::*;
use kernel::sync::Arc;
use stack::AsyncStackable;
use upcall::{block_on, JoinSet, Scope};
use vfs::FileType;
use volume::{Ino, Volume};

module! {
    type: BulkRm,
    name: "bulk_rm",
    authors: ["The Upcall developers"],
    description: "Removes a tree, many names at the same time",
    license: "GPL",
    params: {
        in_flight: u32 {
            default: 256,
            description: "How many names go at the same time",
        },
    },
}

struct BulkRm;

/// A directory that is to go, and where its name is.
struct Directory {
    parent: Ino,
    name: KVec<u8>,
    ino: Ino,
}

fn copy(bytes: &[u8]) -> Result<KVec<u8>> {
    let mut copy = KVec::new();
    copy.extend_from_slice(bytes, GFP_KERNEL)?;
    Ok(copy)
}

async fn unlink(volume: Arc<Volume>, dir: Ino, name: KVec<u8>) -> Result {
    volume.unlink(dir, &name).await.map(drop)
}

/// Removes the tree. Returns how many directories and other names there were.
async fn remove(volume: Arc<Volume>, top: Directory, in_flight: usize) -> Result<(usize, usize)> {
    let mut going = JoinSet::new(Scope::new()?, in_flight)?;
    let (mut count, mut next) = (0, 0);
    let mut dirs = KVec::new();
    dirs.push(top, GFP_KERNEL)?;
    while let Some(ino) = dirs.get(next).map(|dir| dir.ino) {
        next += 1;
        // Names that go change where others are listed: all of them are known first.
        let mut names = KVec::new();
        let mut entries = volume.entries(ino, 0);
        while let Some(entry) = entries.next().await? {
            let name = copy(entry.name)?;
            let kind = match entry.file_type {
                FileType::Unknown => volume.stat(Ino(entry.ino)).await?.file_type,
                kind => kind,
            };
            match (entry.name, kind) {
                (b"." | b"..", _) => {}
                (_, FileType::Directory) => {
                    let (parent, ino) = (ino, Ino(entry.ino));
                    dirs.push(Directory { parent, name, ino }, GFP_KERNEL)?;
                }
                _ => names.push(name, GFP_KERNEL)?,
            }
        }
        count += names.len();
        while let Some(name) = names.pop() {
            if let Some(ended) = going.spawn(unlink(volume.clone(), ino, name)).await? {
                ended??;
            }
        }
    }
    while let Some(ended) = going.next().await {
        ended??;
    }
    // Those below come behind those above.
    for dir in dirs.iter().rev() {
        volume.rmdir(dir.parent, &dir.name).await?;
    }
    volume.sync().await?;
    Ok((dirs.len(), count))
}

impl kernel::Module for BulkRm {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let volume = Arc::new(Volume::open(c"/mnt")?, GFP_KERNEL)?;
        let list = block_on(volume.walk(volume.root(), b".bulk_rm"))??;
        let path = block_on(volume.read_to_end(list, 4096))??;
        let path = path.trim_ascii();
        let slash = path.iter().rposition(|&byte| byte == b'/');
        let (above, name) = match slash {
            Some(at) => path.split_at_checked(at + 1).ok_or(EINVAL)?,
            None => (&b"/"[..], path),
        };
        let parent = block_on(volume.walk(volume.root(), above))??;
        let ino = block_on(volume.lookup(parent, name))??;
        let name = copy(name)?;
        let top = Directory { parent, name, ino };
        let in_flight = module_parameters::in_flight.value() as usize;
        let removed = remove(volume, top, in_flight);
        let (dirs, names) = block_on(KBox::pin(removed, GFP_KERNEL)?)??;
        pr_info!("{dirs} directories, {names} other names\n");
        Ok(Self)
    }
}
