// SPDX-License-Identifier: GPL-2.0

//! [`Log`]: where the journal's blocks are on the device, and its superblock.

use crate::error::{corrupted, errno};
use core::fmt;
use core::ops::Range;
use disk::{vec_with_capacity, Buf, Cache, Disk};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::journal::JournalSuper;
use layout::{map, Extent, Geometry, Inode, Lblk, Step};
use upcall::bio::Op;

/// How many blocks of the log are read at once.
const READ_BATCH: usize = 64;

/// The journal of a volume, which lies in an inode.
pub struct Log {
    /// Its blocks.
    pub blocks: LogBlocks,
    /// Its superblock.
    pub head: LogSuper,
}

/// Where the blocks of a journal are on the device.
pub struct LogBlocks {
    /// In their order, without a gap.
    runs: KVVec<Extent>,
}

/// The superblock of a journal.
pub struct LogSuper {
    /// What it says.
    pub sb: JournalSuper,
    /// The block that has it, and which one of the device it is.
    raw: Buf,
    pblk: u64,
}

/// Why a journal cannot be used.
pub enum Refused {
    /// It is not what it should be.
    Format(layout::Error),
    /// The device failed, or there was no memory.
    Io(Error),
}

impl Refused {
    /// The error number.
    pub fn errno(&self) -> Error {
        match self {
            Self::Format(error) => errno(error.kind),
            Self::Io(error) => *error,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(error) => fmt::Display::fmt(error, f),
            Self::Io(error) => write!(f, "error {}", error.to_errno()),
        }
    }
}

impl From<layout::Error> for Refused {
    fn from(error: layout::Error) -> Self {
        Self::Format(error)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Io(error)
    }
}

impl Log {
    /// Finds the blocks of the journal that lies in `inode`, and reads its superblock.
    pub async fn open(
        disk: &Disk,
        cache: &Cache,
        geo: &Geometry,
        inode: &Inode,
    ) -> Result<Self, Refused> {
        let size = inode.size >> geo.block_bits();
        let len =
            u32::try_from(size).map_err(|_| layout::Error::corrupt1("journal: {} blocks", size))?;
        let mut runs: KVVec<Extent> = KVVec::new();
        let mut lblk = Lblk(0);
        while lblk.0 < len {
            let extent = find(cache, geo, inode, lblk).await?;
            let run = extent
                .from(lblk)
                .filter(|run| run.written_at(lblk).is_some());
            let Some(mut run) = run else {
                return Err(layout::Error::corrupt1("journal: block {} is a hole", lblk).into());
            };
            run.len = run.len.min(len - lblk.0);
            lblk = run.end();
            if runs.len() == runs.capacity() {
                let mut more = vec_with_capacity(disk.spawner(), (2 * runs.len()).max(8)).await?;
                for run in &runs {
                    more.push_within_capacity(*run).map_err(|_| EIO)?;
                }
                runs = more;
            }
            runs.push_within_capacity(run).map_err(|_| EIO)?;
        }
        let first = runs.first().and_then(|run| run.pblk());
        let first = first.ok_or(layout::Error::corrupt("journal: it is empty"))?;
        let bufs = cache.read_run(first.0, 1).await?;
        let raw = bufs.into_iter().next().ok_or(EIO)?;
        let sb = JournalSuper::parse(raw.data(), geo.block_size(), len, disk::checksum::crc32c)?;
        Ok(Self {
            blocks: LogBlocks { runs },
            head: LogSuper {
                sb,
                raw,
                pblk: first.0,
            },
        })
    }
}

impl LogBlocks {
    /// Where block `block` of the journal is on the device, and how many behind it follow there.
    pub fn place(&self, block: u32) -> Option<(u64, u32)> {
        let behind = self.runs.partition_point(|run| run.lblk.0 <= block);
        let run = self.runs.get(behind.checked_sub(1)?)?;
        let rest = run.from(Lblk(block))?;
        Some((rest.pblk()?.0, rest.len - 1))
    }

    /// Whether a block of the volume is one of the journal's.
    pub fn has(&self, pblk: u64) -> bool {
        self.runs.iter().any(|run| {
            run.pblk()
                .is_some_and(|first| (first.0..first.0 + u64::from(run.len)).contains(&pblk))
        })
    }
}

impl LogSuper {
    /// Changes the superblock, and waits until it is on stable media, with all that was written
    /// before.
    ///
    /// Fails with the errors of the block layer. Then nobody knows what is there.
    pub async fn update(
        &mut self,
        cache: &Cache,
        change: impl FnOnce(&mut JournalSuper, &mut [u8]),
    ) -> Result {
        let mut next = cache.draft_of(&self.raw).await?;
        let mut sb = self.sb;
        change(&mut sb, next.data_mut());
        let next = next.freeze();
        cache
            .write_one(self.pblk, next.clone(), Op::WriteMetaFlushFua)
            .await?;
        (self.sb, self.raw) = (sb, next);
        Ok(())
    }
}

/// The extent of the journal's inode that has `lblk`.
async fn find(cache: &Cache, geo: &Geometry, inode: &Inode, lblk: Lblk) -> Result<Extent, Refused> {
    let mut step = map::start(inode, lblk, geo)?;
    loop {
        match step {
            Step::Descend(at) => {
                let buf = cache.read(at.pblk.0, at.pblk.0..at.pblk.0).await?;
                at.verify(buf.data(), &inode.owner, geo)?;
                step = at.step(buf.data(), lblk, geo)?;
            }
            Step::Extent(extent) => return Ok(extent),
            Step::Hole { until } => return Ok(Extent::hole(lblk, until)),
        }
    }
}

/// Reads the log in its order, several blocks at a time.
pub struct Reader<'a> {
    log: &'a Log,
    cache: &'a Cache,
    bufs: KVVec<Buf>,
    /// Which blocks they are.
    range: Range<u32>,
}

impl<'a> Reader<'a> {
    /// Has read nothing.
    pub fn new(log: &'a Log, cache: &'a Cache) -> Self {
        Self {
            log,
            cache,
            bufs: KVVec::new(),
            range: 0..0,
        }
    }

    /// Block `block` of the log.
    pub async fn get(&mut self, block: u32) -> Result<Buf> {
        if !self.range.contains(&block) {
            let (first, behind) = self.log.blocks.place(block).ok_or_else(corrupted)?;
            // Not beyond the end of the log, where the ring goes on at its beginning.
            let left = self.log.head.sb.end.saturating_sub(block).max(1);
            let count = (behind + 1).min(left).min(READ_BATCH as u32);
            self.bufs = self.cache.read_run(first, count as usize).await?;
            self.range = block..block + count;
        }
        let index = (block - self.range.start) as usize;
        self.bufs.get(index).cloned().ok_or(EIO)
    }
}
