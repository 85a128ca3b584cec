// SPDX-License-Identifier: GPL-2.0

//! All that the Rust API tells of a tree, as lines that a program can tell too.

use crate::Text;
use core::ops::Range;
use disk::checksum::crc32;
use kernel::fmt::Write;
use kernel::prelude::*;
use kernel::sync::Arc;
use stack::{walk_tree, AsyncStackable, Found, Visitor};
use upcall::{block_on, Block, Blocks, Mutex};
use vfs::{Attr, FileType, Time};
use volume::MappingKind;
use volume::{Ino, Volume};

/// Writes bytes as hexadecimal digits.
fn hex(out: &mut Text, bytes: &[u8]) -> Result {
    for byte in bytes {
        write!(out, "{byte:02x}")?;
    }
    Ok(())
}

/// The size and the checksum of a file's content, read in several ways, which are to agree.
pub(crate) async fn content<L: AsyncStackable>(layer: &L, ino: Ino) -> Result<(u64, u32)> {
    let (mut size, mut sum) = (0, 0);
    let mut block = Block::vacant();
    loop {
        let count = layer.read(ino, size, &mut block).await?;
        sum = crc32(sum, block.as_slice().get(..count).ok_or(EIO)?);
        size += count as u64;
        if count < Block::SIZE {
            break;
        }
    }
    // As a stream, whose batches are no divisor of anything
    let mut pages = layer.pages(ino, 0, 7);
    let (mut len, mut again) = (0, 0);
    while let Some(page) = pages.next().await? {
        again = crc32(again, page);
        len += page.len() as u64;
    }
    if (len, again) != (size, sum) {
        pr_err!("inode {}: {len} bytes as a stream, {size} by page\n", ino.0);
        return Err(EBADMSG);
    }
    // Several blocks at once, at an offset that is a multiple of nothing, and the same as one range
    const SKIP: u64 = 1000;
    let mut blocks = [Block::vacant(), Block::vacant(), Block::vacant()];
    let count = layer.read_vectored(ino, SKIP, &mut blocks).await?;
    let all = (size.saturating_sub(SKIP) as usize).min(3 * Block::SIZE);
    let mut range = Blocks::new(4)?;
    layer
        .read_at(ino, 0..4 * Block::SIZE as u64, &mut range)
        .await?;
    let mut differ = count != all;
    for at in 0..count {
        let one = blocks
            .get(at / Block::SIZE)
            .and_then(|block| block.as_slice().get(at % Block::SIZE));
        let place = at + SKIP as usize;
        let other = range.page(place / Block::SIZE).get(place % Block::SIZE);
        differ |= one != other;
    }
    if differ {
        pr_err!(
            "inode {}: {count} of {all} bytes by several blocks\n",
            ino.0
        );
        return Err(EBADMSG);
    }
    Ok((size, sum))
}

/// A file that is larger is not read.
const LARGE: u64 = 64 << 20;

/// Adds a line for each entry.
struct Dump(Mutex<Text>);

fn time(out: &mut Text, time: Time) -> Result {
    Ok(write!(out, " {}.{:09}", time.secs, time.nanos)?)
}

impl<L: AsyncStackable> Visitor<L> for Dump {
    async fn visit(&self, layer: &L, found: Found<'_>) -> Result<bool> {
        let Attr {
            file_type,
            mode,
            nlink,
            uid,
            gid,
            size,
            mut sectors,
            ..
        } = *found.attr;
        if file_type == FileType::Regular && found.attr.inline {
            // As `stat` has it
            sectors += size.div_ceil(512);
        }
        let mut line = Text::default();
        write!(line, "{} ", found.dir.0)?;
        hex(&mut line, found.name)?;
        write!(
            line,
            " {} {mode:o} {nlink} {uid} {gid} {size} {sectors}",
            found.ino.0
        )?;
        write!(line, " {}:{}", found.attr.device.0, found.attr.device.1)?;
        time(&mut line, found.attr.atime)?;
        time(&mut line, found.attr.mtime)?;
        time(&mut line, found.attr.ctime)?;
        match file_type {
            FileType::Regular if size > LARGE => write!(line, " large")?,
            FileType::Regular => match content(layer, found.ino).await {
                Ok((size, sum)) => write!(line, " {size}:{sum}")?,
                Err(error) => write!(line, " {}", error.to_errno())?,
            },
            FileType::Symlink => {
                write!(line, " ")?;
                hex(&mut line, &layer.readlink(found.ino).await?)?;
            }
            _ => write!(line, " -")?,
        }
        for name in layer.listxattr(found.ino).await?.split(|&byte| byte == 0) {
            if !name.is_empty() {
                let value = layer.getxattr(found.ino, name).await?;
                write!(line, " ")?;
                hex(&mut line, name)?;
                write!(line, "={}:{}", value.len(), crc32(0, &value))?;
            }
        }
        writeln!(line)?;
        // The walk and the look-up agree
        if layer.lookup(found.dir, found.name).await? != found.ino {
            pr_err!("inode {}: not found by its name\n", found.ino.0);
            return Err(EBADMSG);
        }
        let mut text = self.0.lock().await?;
        text.0.extend_from_slice(&line.0, GFP_KERNEL)?;
        Ok(true)
    }
}

/// Dumps a whole tree, by so many tasks.
pub(crate) fn dump<L: AsyncStackable + 'static>(
    layer: &Arc<L>,
    in_flight: usize,
    out: &mut Text,
) -> Result {
    let dump = Arc::new(Dump(Mutex::new(Text::default())), GFP_KERNEL)?;
    let visited = block_on(walk_tree(layer, layer.root(), in_flight, &dump))??;
    writeln!(out, "{} {}", visited.directories, visited.entries)?;
    let text = dump.0.lock_blocking()?;
    out.0.extend_from_slice(&text.0, GFP_KERNEL)?;
    Ok(())
}

/// The entries of a directory from a position on, each with where the listing is after it.
pub(crate) async fn list<L: AsyncStackable>(
    layer: &L,
    dir: Ino,
    pos: u64,
    out: &mut Text,
) -> Result {
    let mut entries = layer.entries(dir, pos);
    loop {
        {
            let Some(entry) = entries.next().await? else {
                return Ok(());
            };
            write!(out, "{} {} ", entry.ino, entry.file_type as u8)?;
            hex(out, entry.name)?;
        }
        writeln!(out, " {}", entries.position())?;
    }
}

pub(crate) async fn extents(
    volume: &Volume,
    ino: Ino,
    range: Range<u64>,
    out: &mut Text,
) -> Result {
    let mut extents = volume.extents(ino, range);
    while let Some(piece) = extents.next().await? {
        let (kind, pos) = match piece.kind {
            MappingKind::Hole => ("hole", 0),
            MappingKind::Data(pos) => ("data", pos),
            MappingKind::Unwritten(pos) => ("unwritten", pos),
            MappingKind::Inline(pos) => ("inline", pos),
        };
        writeln!(out, "{} {} {kind} {pos}", piece.offset, piece.len)?;
    }
    Ok(())
}
