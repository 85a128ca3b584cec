// SPDX-License-Identifier: GPL-2.0

//! Runs of blocks, past the cache: what a log is read and written by, and metadata written home.
//!
//! # Concurrency
//!
//! The payload of a request has the versions, so that their memory stays until the device is done,
//! whatever becomes of the future. Those of a read are nobody else's until it is over. Those of a
//! write may have other users, and stay as they are: an edit of the block makes the next version.

use crate::cache::{Cache, RUN_BLOCKS_MAX};
use crate::gfp::vec_with_capacity;
use crate::version::Buf;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use upcall::bio::{submit_or_return, InFlight, Op, Payload, Segment};

/// The blocks of a request.
pub struct Run(KVVec<Buf>);

impl Payload for Run {}

impl Run {
    /// The memory of the blocks.
    fn segments(&self) -> Segments {
        Segments {
            at: self.0.as_ptr(),
            left: self.0.len(),
        }
    }
}

/// The memory of a run's blocks.
struct Segments {
    at: *const Buf,
    left: usize,
}

impl Iterator for Segments {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        self.left = self.left.checked_sub(1)?;
        // SAFETY: The vector of the run is not changed, nor freed, while the request is made of it,
        // and has `left` more elements from `at` on.
        unsafe {
            let buf = &*self.at;
            self.at = self.at.add(1);
            Some(buf.segment())
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Segments {}

/// A version that nobody else knows of, to be filled.
pub struct Draft(Buf);

impl Draft {
    /// The bytes, which are undefined at first.
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: The one reference is ours.
        unsafe { self.0.data_mut() }
    }

    /// The bytes.
    pub fn data(&self) -> &[u8] {
        self.0.data()
    }

    /// The version, which is not changed any more.
    pub fn freeze(self) -> Buf {
        self.0
    }
}

/// A write that is under way. Awaiting it gives its result.
///
/// # Cancellation
///
/// Dropping it lets the write finish alone.
#[must_use = "dropping it detaches the write"]
pub struct Writing(InFlight<Run>);

impl Writing {
    /// Waits for the device.
    pub async fn done(self) -> Result {
        self.0.await.0
    }
}

impl Cache {
    /// How many blocks a run has at most.
    pub const RUN_MAX: usize = RUN_BLOCKS_MAX;

    /// Memory for a version. Waits for it; on a worker it lets the blocking worker wait.
    ///
    /// Fails with `ENOMEM`, and with `ESHUTDOWN` once the scope of the volume is over.
    pub async fn draft(&self) -> Result<Draft> {
        Ok(Draft(self.spare().await?))
    }

    /// Reads `count` blocks from `first` on, in units of the block size, as the device has them:
    /// not from the cache, nor into it.
    ///
    /// At most [`RUN_MAX`](Self::RUN_MAX). Fails with `EINVAL` for more, and as
    /// [`read`](Self::read) does.
    ///
    /// # Cancellation
    ///
    /// Dropping the future lets the read finish alone.
    pub async fn read_run(&self, first: u64, count: usize) -> Result<KVVec<Buf>> {
        self.check_run(first, count)?;
        let mut bufs = vec_with_capacity(self.spawner(), count).await?;
        while bufs.len() < count {
            let version = self.spare().await?;
            bufs.push_within_capacity(version).map_err(|_| EIO)?;
        }
        loop {
            match self.submit_run(first, bufs, Op::ReadMeta) {
                Ok(io) => {
                    let (result, run) = io.await;
                    result?;
                    return Ok(run.ok_or(EIO)?.0);
                }
                // An upcall does not wait for reclaim in the allocation, but here.
                Err((ENOMEM, Some(run))) if upcall::on_worker() => {
                    bufs = run.0;
                    upcall::memory_freed().await;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Begins to write blocks from `first` on. Waits for memory, not for the device.
    ///
    /// At most [`RUN_MAX`](Self::RUN_MAX). Fails with `EINVAL` for more, with `EIO` for a block
    /// that is not on the device, with `ENOMEM`, and with `ESHUTDOWN` once the scope of the volume
    /// is over.
    ///
    /// # Cancellation
    ///
    /// Nothing was written.
    pub async fn write_run(&self, first: u64, mut bufs: KVVec<Buf>, op: Op) -> Result<Writing> {
        self.check_run(first, bufs.len())?;
        loop {
            match self.submit_run(first, bufs, op) {
                Ok(io) => return Ok(Writing(io)),
                // An upcall does not wait for reclaim in the allocation, but here.
                Err((ENOMEM, Some(run))) if upcall::on_worker() => {
                    bufs = run.0;
                    upcall::memory_freed().await;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// A copy of `buf`, to be changed. Fails as [`draft`](Self::draft) does.
    pub async fn draft_of(&self, buf: &Buf) -> Result<Draft> {
        let mut draft = self.draft().await?;
        draft.data_mut().copy_from_slice(buf.data());
        Ok(draft)
    }

    /// Writes one block, and waits for the device. Fails as [`write_run`](Self::write_run) does.
    ///
    /// # Cancellation
    ///
    /// A write that was begun finishes alone.
    pub async fn write_one(&self, block: u64, buf: Buf, op: Op) -> Result {
        let mut bufs = vec_with_capacity(self.spawner(), 1).await?;
        bufs.push_within_capacity(buf).map_err(|_| EIO)?;
        self.write_run(block, bufs, op).await?.done().await
    }

    /// Writes blocks where they belong, those next to each other in one request, and waits until
    /// the device has them all. They are in ascending order.
    ///
    /// Fails with the error of one of the writes, when all are over, and as
    /// [`write_run`](Self::write_run) does.
    ///
    /// # Cancellation
    ///
    /// Writes that were begun finish alone.
    pub async fn write_blocks(&self, blocks: KVVec<(u64, Buf)>) -> Result {
        let mut writes = vec_with_capacity(self.spawner(), blocks.len()).await?;
        let mut result = Ok(());
        let mut rest = &blocks[..];
        while let Some(&(first, _)) = rest.first() {
            let follows = |(place, (block, _)): &(usize, &(u64, Buf))| {
                *place < RUN_BLOCKS_MAX && *block == first + *place as u64
            };
            let len = rest.iter().enumerate().take_while(follows).count().max(1);
            let (run, behind) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            rest = behind;
            // There is room for one request a block. What was begun is waited for, whatever fails.
            match self.begin_run(first, run).await {
                Ok(write) => drop(writes.push_within_capacity(write)),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        while let Some(write) = writes.pop() {
            let write: Writing = write;
            result = result.and(write.done().await);
        }
        result
    }

    /// Begins to write a run of blocks.
    async fn begin_run(&self, first: u64, run: &[(u64, Buf)]) -> Result<Writing> {
        let mut bufs = vec_with_capacity(self.spawner(), run.len()).await?;
        for (_, buf) in run {
            bufs.push_within_capacity(buf.clone()).map_err(|_| EIO)?;
        }
        self.write_run(first, bufs, Op::WriteMeta).await
    }

    /// Brings what was written to stable media.
    ///
    /// Fails with the errors of the block layer.
    ///
    /// # Cancellation
    ///
    /// The flush goes on alone.
    pub async fn flush(&self) -> Result {
        self.device().flush().await
    }

    fn check_run(&self, first: u64, count: usize) -> Result {
        if count == 0 || count > RUN_BLOCKS_MAX {
            return Err(EINVAL);
        }
        match first.checked_add(count as u64) {
            Some(end) if end <= self.blocks() => Ok(()),
            _ => Err(EIO),
        }
    }

    /// Submits a request, or gives its blocks back.
    fn submit_run(
        &self,
        first: u64,
        bufs: KVVec<Buf>,
        op: Op,
    ) -> Result<InFlight<Run>, (Error, Option<Run>)> {
        let pos = first * u64::from(self.block_size());
        let run = Run(bufs);
        let segments = run.segments();
        // SAFETY: The versions stay until the payload is dropped or handed back, and their bytes
        // stay as they are: those of a read have no other user, others are not changed while the
        // payload has a reference.
        unsafe { submit_or_return(self.device(), op, pos, 0, segments, run) }
    }
}
