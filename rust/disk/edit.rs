// SPDX-License-Identifier: GPL-2.0

//! [`Planned`]: a block that is going to be changed.
//!
//! A change is planned first: the block is read, pinned, and gets the memory for a next version.
//! All that may wait or fail happens then. The change itself is under a spinlock, needs no memory,
//! and does not fail.
//!
//! # Concurrency
//!
//! [`Planned::edit`] holds the lock of the block's shard, which whoever wants a reference on the block's version
//! needs, too. So if the cache has the one reference, nobody gets another while the bytes change,
//! and they are changed in place. If others have one, they keep what they have: the bytes are
//! copied to the memory that was set aside, and that is the block's version from then on.

use crate::cache::{Cache, Entry, Inner};
use crate::version::Buf;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A block that a change is planned for: it is in memory and stays there, and has memory for its
/// next version.
///
/// # Invariants
///
/// The entry has a version, and one of its pins is ours.
///
/// # Cancellation
///
/// Dropping it leaves the block as it is.
pub struct Planned {
    cache: Arc<Inner>,
    block: u64,
    entry: NonNull<Entry>,
    spare: Option<Buf>,
}

// SAFETY: The entry is reached under its shard's lock, and the pin keeps it.
unsafe impl Send for Planned {}
// SAFETY: As for `Send`.
unsafe impl Sync for Planned {}

impl Cache {
    /// Plans a change of block `block`: reads it if it is not in memory, and sets memory aside.
    ///
    /// Fails as [`read`](Self::read) does.
    ///
    /// # Cancellation
    ///
    /// The block stays as it is.
    pub async fn plan(&self, block: u64) -> Result<Planned> {
        let spare = self.spare().await?;
        loop {
            // The block is there, but it may leave before it is pinned.
            let held = self.read(block, block..block).await?;
            let pinned = {
                let shard = self.inner.shard(block);
                shard.entry(block).filter(|entry| {
                    // SAFETY: We have the lock of the entry's shard.
                    let entry = unsafe { &mut *entry.as_ptr() };
                    let present = entry.version.is_some();
                    entry.pins += u32::from(present);
                    present
                })
            };
            drop(held);
            if let Some(entry) = pinned {
                // INVARIANT: We have counted a pin of an entry with a version.
                return Ok(Planned {
                    cache: self.inner.clone(),
                    block,
                    entry,
                    spare: Some(spare),
                });
            }
        }
    }

    /// Memory for a version. Waits for it; on a worker it lets the blocking worker wait.
    pub(crate) async fn spare(&self) -> Result<Buf> {
        let pool = &self.inner.pool;
        if !upcall::on_worker() {
            return pool.get(true).ok_or(ENOMEM);
        }
        match pool.get(false) {
            Some(spare) => Ok(spare),
            None => {
                let pool = pool.clone();
                let get = self
                    .spawner()
                    .spawn_blocking(move || pool.get(true).ok_or(ENOMEM))?;
                get.await?
            }
        }
    }
}

impl Planned {
    /// The number of the block.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// The block's version as it is now. Does not sleep.
    pub fn buf(&self) -> Option<Buf> {
        let _shard = self.cache.shard(self.block);
        // SAFETY: We have the lock of the entry's shard. By the invariant the entry lives.
        unsafe { self.entry.as_ref() }.version.clone()
    }

    /// Changes the block by `change`, which sees all of its bytes. Does not sleep.
    ///
    /// `change` runs under a spinlock, with interrupts off: it looks up no other block, lets go of none, and is short. The new
    /// bytes count as verified. A second change of the same plan needs memory again if somebody
    /// took a reference in between; then, and only then, it fails, with `ENOMEM` and without a
    /// change.
    pub fn edit<R>(&mut self, change: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
        let mut old = None;
        let mut shard = self.cache.shard(self.block);
        // SAFETY: We have the lock of the entry's shard. By the invariant the entry lives.
        let entry = unsafe { self.entry.as_mut() };
        let Some(version) = entry.version.as_mut() else {
            return Err(EIO);
        };
        if !version.is_unique() {
            let mut next = self.spare.take().ok_or(ENOMEM)?;
            // SAFETY: Nobody else knows of the spare version.
            unsafe { next.data_mut() }.copy_from_slice(version.data());
            old = Some(core::mem::replace(version, next));
        }
        // SAFETY: The cache has the one reference, and the lock keeps others from taking one.
        let result = change(unsafe { version.data_mut() });
        version.set_verified();
        entry.dirty = true;
        let _ = &mut *shard;
        drop(shard);
        // The last reference, maybe: without the lock.
        drop(old);
        Ok(result)
    }
}

impl Drop for Planned {
    fn drop(&mut self) {
        let _shard = self.cache.shard(self.block);
        // SAFETY: We have the lock of the entry's shard. By the invariant the entry lives, with our
        // pin.
        unsafe { self.entry.as_mut() }.pins -= 1;
    }
}
