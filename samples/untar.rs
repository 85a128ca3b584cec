// SPDX-License-Identifier: GPL-2.0

//! Unpacks a tar archive into a tree of the same volume, many files at the same time.
//!
//! The volume is mounted at `/mnt` for writing, and has a file `.untar` with two lines: the path of the archive (ustar)
//! and that of the directory. Load the module with `in_flight=N`: so many files are written at a time. All is durable
//! when it is loaded: one `sync` behind thousands of changes costs a commit or two.

use kernel::prelude::*;
use kernel::sync::Arc;
use stack::AsyncStackable;
use upcall::{block_on, Block, JoinSet, Scope};
use vfs::{NewInode, SetAttr, Time};
use volume::{Ino, Volume};

module! {
    type: Untar,
    name: "untar",
    authors: ["The Upcall developers"],
    description: "Unpacks a tar archive, many files at the same time",
    license: "GPL",
    params: {
        in_flight: u32 { default: 64, description: "How many files are written at a time", },
    },
}

struct Untar;

/// The unit of an archive, in bytes.
const UNIT: u64 = 512;

/// A number of a header: octal digits.
fn number(field: &[u8]) -> Result<u64> {
    let digits = core::str::from_utf8(field).map_err(|_| EINVAL)?;
    let digits = digits.trim_matches(|c| c == ' ' || c == '\0');
    u64::from_str_radix(digits, 8).map_err(|_| EINVAL)
}

/// A text of a header: up to the first zero.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(&[])
}

/// Writes one file, whose contents begin at byte `at` of the archive.
async fn unpack(
    volume: Arc<Volume>,
    (archive, at): (Ino, u64),
    size: u64,
    file: Ino,
    mtime: i64,
) -> Result {
    let (mut block, mut done) = (Block::vacant(), 0);
    while done < size {
        let count = volume.read(archive, at + done, &mut block).await? as u64;
        let part = block.as_slice().get(..count.min(size - done) as usize);
        let part = part.filter(|part| !part.is_empty()).ok_or(EINVAL)?;
        done += volume.write_bytes(file, Some(done), part).await?.1 as u64;
    }
    let (secs, mut set) = (mtime, SetAttr::default());
    set.mtime = Some(Time { secs, nanos: 0 });
    volume.set_attr(file, &set).await.map(drop)
}

/// Unpacks all of it. Returns how many files there were.
async fn unpack_all(
    volume: Arc<Volume>,
    archive: Ino,
    top: Ino,
    in_flight: usize,
) -> Result<usize> {
    let mut files = JoinSet::new(Scope::new()?, in_flight)?;
    let (mut header, mut at, mut count) = (Block::vacant(), 0, 0);
    // The end is a unit of zeros, or that of the archive.
    while volume.read(archive, at, &mut header).await? >= UNIT as usize {
        let bytes = header.as_slice();
        let field = |at: usize, len: usize| bytes.get(at..at + len).unwrap_or(&[]);
        if field(0, 1) == [0] {
            break;
        }
        let mut path = KVec::new();
        path.extend_from_slice(text(field(345, 155)), GFP_KERNEL)?;
        if !path.is_empty() {
            path.push(b'/', GFP_KERNEL)?;
        }
        path.extend_from_slice(text(field(0, 100)), GFP_KERNEL)?;
        let size = number(field(124, 12))?;
        let mode = number(field(100, 8))? as u16 & 0o7777;
        let mtime = number(field(136, 12))? as i64;
        let (uid, gid) = (number(field(108, 8))? as u32, number(field(116, 8))? as u32);
        let (kind, target) = (field(156, 1), text(field(157, 100)));
        while path.last() == Some(&b'/') {
            path.pop();
        }
        let slash = path.iter().rposition(|&byte| byte == b'/');
        let split = slash.and_then(|slash| path.split_at_checked(slash));
        let (parent, name) = split.unwrap_or((b"", &path));
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let dir = match parent {
            b"" | b"." => top,
            parent => volume.walk(top, parent).await?,
        };
        match kind {
            _ if name == b"." => {}
            b"5" => drop(
                volume
                    .create(dir, name, &NewInode::directory(mode).owned_by(uid, gid))
                    .await?,
            ),
            b"2" => drop(volume.symlink(dir, name, target).await?),
            b"1" => {
                let other = volume.walk(top, target).await?;
                volume.link(dir, name, other).await?;
            }
            b"0" | b"\0" => {
                let new = NewInode::file(mode).owned_by(uid, gid);
                let file = volume.create(dir, name, &new).await?;
                let unpack = unpack(volume.clone(), (archive, at + UNIT), size, file, mtime);
                count += 1;
                if let Some(ended) = files.spawn(unpack).await? {
                    ended??;
                }
            }
            _ => return Err(EOPNOTSUPP),
        }
        at += UNIT + size.next_multiple_of(UNIT);
    }
    while let Some(ended) = files.next().await {
        ended??;
    }
    volume.sync().await?;
    Ok(count)
}

impl kernel::Module for Untar {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let volume = Arc::new(Volume::open(c"/mnt")?, GFP_KERNEL)?;
        let list = block_on(volume.walk(volume.root(), b".untar"))??;
        let list = block_on(volume.read_to_end(list, 8192))??;
        let mut lines = list.split(|&byte| byte == b'\n');
        let mut next = || block_on(volume.walk(volume.root(), lines.next().ok_or(EINVAL)?))?;
        let (archive, top) = (next()?, next()?);
        let in_flight = module_parameters::in_flight.value() as usize;
        let unpack = KBox::pin(unpack_all(volume, archive, top, in_flight), GFP_KERNEL)?;
        let count = block_on(unpack)??;
        pr_info!("{count} files\n");
        Ok(Self)
    }
}
