// SPDX-License-Identifier: GPL-2.0

//! A read of blocks of the [cache](crate::cache) that follow each other, in one request.

use crate::cache::{Entry, Inner};
use crate::sys;
use crate::version::{Buf, Pool, Version};
use crate::wait::Outcome;
use core::ptr::{null_mut, NonNull};
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::atomic::Relaxed;
use upcall::bio::{submit, InFlight, Op, Payload};
use upcall::Device;

/// What is needed to enter a block.
pub(crate) struct Fresh {
    pub(crate) entry: KBox<Entry>,
    pub(crate) version: Buf,
}

impl Fresh {
    /// Allocates it; with `wait` the allocation may wait for reclaim.
    pub(crate) fn new(pool: &Arc<Pool>, block: u64, wait: bool) -> Result<Self> {
        // What is waited for is not to wait for what a file system does to free memory.
        let _nofs = wait.then(sys::NoFs::enter);
        let flags = if wait { GFP_KERNEL } else { sys::GFP_NOWAIT };
        Ok(Self {
            entry: KBox::new(Entry::new(block), flags)?,
            version: pool.get(wait).ok_or(ENOMEM)?,
        })
    }
}

/// The payload of a read: versions of blocks that follow each other, whose entries say that they
/// are being read.
pub(crate) struct Reading {
    cache: Arc<Inner>,
    /// The versions, in the order of their blocks. One reference of each is the list's.
    first: *mut Version,
    last: *mut Version,
    pub(crate) count: usize,
    /// The number of the first block.
    block: u64,
    /// The version that is waited for.
    pub(crate) wanted: Option<Buf>,
}

// SAFETY: The versions are the payload's, and the entries are reached under their locks.
unsafe impl Send for Reading {}

impl Payload for Reading {
    const END: Option<fn(&mut Self, Result)> = Some(Self::end);
}

impl Reading {
    pub(crate) fn new(cache: &Arc<Inner>) -> Self {
        Self {
            cache: cache.clone(),
            first: null_mut(),
            last: null_mut(),
            count: 0,
            block: 0,
            wanted: None,
        }
    }

    /// Enters a block as being read, at the end of the run, or before its first if that is the one
    /// behind.
    ///
    /// Returns `false` if the block is no longer absent.
    pub(crate) fn enter(&mut self, cache: &Inner, fresh: Fresh, wanted: bool) -> bool {
        let block = fresh.entry.block;
        let mut shard = cache.shard(block);
        if shard.entry(block).is_some() {
            // What is not needed is freed without the lock.
            drop(shard);
            return false;
        }
        let Fresh { entry, version } = fresh;
        // SAFETY: A box is not null.
        let entry = unsafe { NonNull::new_unchecked(KBox::into_raw(entry)) };
        if wanted {
            self.wanted = Some(version.clone());
        }
        let version = version.into_raw().as_ptr();
        // SAFETY: The version is ours: nobody else knows of it. So are those of the list.
        unsafe {
            (*version).entry = entry.as_ptr();
            if self.first.is_null() {
                self.first = version;
                self.last = version;
                self.block = block;
            } else if block < self.block {
                (*version).next = self.first;
                self.first = version;
                self.block = block;
            } else {
                (*self.last).next = version;
                self.last = version;
            }
        }
        self.count += 1;
        shard.insert(entry);
        drop(shard);
        cache.len.fetch_add(1, Relaxed);
        true
    }

    /// Submits the read. If that fails the blocks are absent again.
    pub(crate) fn submit(self, device: &Device) -> Result<InFlight<Self>> {
        let pos = self.block * u64::from(self.cache.pool.size());
        let segments = Segments {
            at: self.first,
            left: self.count,
        };
        // SAFETY: The versions stay until the payload lets go of them, which is when the device is
        // done. Nobody touches their bytes before.
        unsafe { submit(device, Op::ReadMeta, pos, segments, self) }
    }

    /// The device is done. Any context.
    fn end(&mut self, result: Result) {
        let mut at = core::mem::replace(&mut self.first, null_mut());
        let several = self.count > 1;
        // The versions are those of blocks that follow each other.
        let mut blocks = self.block..;
        while let Some(version) = NonNull::new(at) {
            // SAFETY: The versions of the list are ours, with a reference each.
            let (buf, entry) = unsafe {
                let this = &mut *version.as_ptr();
                at = core::mem::replace(&mut this.next, null_mut());
                let entry = core::mem::replace(&mut this.entry, null_mut());
                (Buf::from_raw(version), entry)
            };
            let Some(block) = blocks.next() else { return };
            let mut shard = self.cache.shard(block);
            match result {
                Ok(()) => {
                    // SAFETY: We have the lock of the entry's shard, and the entry lives while it
                    // is being read.
                    unsafe {
                        (*entry).version = Some(buf);
                        shard.wake_all(entry, Outcome::Again);
                    }
                }
                Err(error) => {
                    let gone = shard.remove(block);
                    let outcome = if several {
                        Outcome::Again
                    } else {
                        Outcome::Failed(error)
                    };
                    // SAFETY: The entry was in the chain until now.
                    unsafe { shard.wake_all(entry, outcome) };
                    drop(shard);
                    self.cache.len.fetch_sub(1, Relaxed);
                    drop((gone, buf));
                }
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // It was never submitted.
        if !self.first.is_null() {
            self.count = 2;
            self.end(Err(EIO));
        }
    }
}

/// The memory of a request's blocks.
struct Segments {
    at: *mut Version,
    left: usize,
}

impl Iterator for Segments {
    type Item = upcall::bio::Segment;

    fn next(&mut self) -> Option<Self::Item> {
        let version = NonNull::new(self.at)?;
        self.left -= 1;
        // SAFETY: The list is not changed while the request is made.
        unsafe {
            self.at = (*version.as_ptr()).next;
            Some(core::mem::ManuallyDrop::new(Buf::from_raw(version)).segment())
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Segments {}
