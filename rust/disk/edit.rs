// SPDX-License-Identifier: GPL-2.0

//! [`Pin`] and [`Planned`]: blocks that stay in the cache, and are changed.
//!
//! A change is planned first: the block is read, pinned, and gets the memory for a next version.
//! All that may wait or fail happens then. The change itself is under a spinlock, needs no memory,
//! and does not fail.
//!
//! # What is not on the disk yet
//!
//! A block that was changed is *edited* until somebody takes its version by
//! [`take_edited`](Pin::take_edited), to write it: to a log, or home. A version that a log has, and
//! that is not home, is the block's *logged* one, by the number of its transaction. A newer one
//! replaces it. The block may be edited all the while: that makes versions of its own.
//!
//! # Concurrency
//!
//! [`Planned::edit`] holds the lock of the block's shard, which whoever wants a reference on the
//! block's version needs, too. So if the cache has the one reference, nobody gets another while the
//! bytes change, and they are changed in place. If others have one, they keep what they have: the
//! bytes are copied to the memory that was set aside, and that is the block's version from then on.
//! It comes from the pool, without the shard's lock: then it is looked at once more.

use crate::cache::{Cache, Entry, Inner};
use crate::gfp::in_blocking;
use crate::run::Draft;
use crate::version::Buf;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A reference that keeps a block in the cache.
///
/// # Invariants
///
/// The entry has a version, and one of its pins is ours.
pub struct Pin {
    cache: Arc<Inner>,
    block: u64,
    entry: NonNull<Entry>,
}

// SAFETY: The entry is reached under its shard's lock, and the pin keeps it.
unsafe impl Send for Pin {}
// SAFETY: As for `Send`.
unsafe impl Sync for Pin {}

impl Pin {
    /// The number of the block.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// Calls `f` with the entry, under its shard's lock.
    fn entry<R>(&self, f: impl FnOnce(&mut Entry) -> R) -> R {
        let _shard = self.cache.shard(self.block);
        // SAFETY: We have the lock of the entry's shard. By the invariant the entry lives.
        f(unsafe { &mut *self.entry.as_ptr() })
    }

    /// The block's version as it is now. Does not sleep.
    pub fn buf(&self) -> Option<Buf> {
        self.entry(|entry| entry.version.clone())
    }

    /// The block's version as it is now, if the block was edited. From here on it is not, until the
    /// next edit. Does not sleep.
    pub fn take_edited(&self) -> Option<Buf> {
        self.entry(|entry| {
            if core::mem::take(&mut entry.edited) {
                entry.version.clone()
            } else {
                None
            }
        })
    }

    /// Makes `buf` the version that the log has, in transaction `tid`. Does not sleep.
    pub fn set_logged(&self, tid: u32, buf: Buf) {
        let old = self.entry(|entry| entry.logged.replace((tid, buf)));
        // The last reference, maybe: without the lock.
        drop(old);
    }

    /// The version that the log has, if it is of transaction `tid`. Does not sleep.
    pub fn logged(&self, tid: u32) -> Option<Buf> {
        self.entry(|entry| match &entry.logged {
            Some((logged, buf)) if *logged == tid => Some(buf.clone()),
            _ => None,
        })
    }

    /// What transaction `tid` logged is home, or not needed any more. Does not sleep.
    pub fn clear_logged(&self, tid: u32) {
        let old = self.entry(|entry| match &entry.logged {
            Some((logged, _)) if *logged == tid => entry.logged.take(),
            _ => None,
        });
        drop(old);
    }

    /// What transactions before `tid` logged is not needed any more. Does not sleep.
    pub fn clear_logged_before(&self, tid: u32) {
        let old = self.entry(|entry| match &entry.logged {
            Some((logged, _)) if *logged != tid => entry.logged.take(),
            _ => None,
        });
        drop(old);
    }

    /// The version could not be written: the block stays in memory. Does not sleep.
    pub fn set_edited(&self) {
        self.entry(|entry| entry.edited = true);
    }

    /// What was edited is not to be written: the block is free. Does not sleep.
    pub fn clear_edited(&self) {
        self.entry(|entry| entry.edited = false);
    }

    /// One more reference. Does not sleep.
    fn again(&self) -> Self {
        self.entry(|entry| entry.pins += 1);
        // INVARIANT: We have counted a pin of an entry with a version.
        Self {
            cache: self.cache.clone(),
            block: self.block,
            entry: self.entry,
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.entry(|entry| entry.pins -= 1);
    }
}

/// A block that a change is planned for: it is in memory and stays there, and has memory for its
/// next version.
///
/// # Cancellation
///
/// Dropping it leaves the block as it is.
///
/// # Invariants
///
/// A version of the cache's pool is set aside for it, if `reserved`.
pub struct Planned {
    pin: Pin,
    reserved: bool,
    /// Whether the block is new, and its bytes are zero before the first edit.
    fresh: bool,
}

impl Cache {
    /// Plans a change of block `block`: reads it if it is not in memory, and sets memory aside.
    ///
    /// Fails as [`read`](Self::read) does.
    ///
    /// # Cancellation
    ///
    /// The block stays as it is.
    pub async fn plan(&self, block: u64) -> Result<Planned> {
        let mut found = self.pin(block);
        if found.is_some() {
            self.inner.count_hit();
        }
        let pin = loop {
            match found {
                Some(pin) => break pin,
                // It is there then, but it may leave before it is pinned.
                None => drop(self.read(block, block..block).await?),
            }
            found = self.pin(block);
        };
        self.reserve().await?;
        Ok(Planned::new(pin, false))
    }

    /// Plans to make block `block`, which is free, one of metadata: it is not read, and the first
    /// edit finds zeroes.
    ///
    /// Fails as [`read`](Self::read) does, but for the device's errors.
    ///
    /// # Cancellation
    ///
    /// The block stays as it is.
    pub async fn plan_new(&self, block: u64) -> Result<Planned> {
        if block >= self.blocks() {
            return Err(EIO);
        }
        let pin = loop {
            match self.pin(block) {
                Some(pin) => break pin,
                None => self.enter_zeroed(block).await?,
            }
        };
        self.reserve().await?;
        Ok(Planned::new(pin, true))
    }

    /// Pins block `block` if it is present. Does not sleep.
    pub fn pin(&self, block: u64) -> Option<Pin> {
        let shard = self.inner.shard(block);
        let entry = shard.entry(block).filter(|entry| {
            // SAFETY: We have the lock of the entry's shard.
            let entry = unsafe { &mut *entry.as_ptr() };
            let present = entry.version.is_some();
            entry.pins += u32::from(present);
            entry.marked = true;
            present
        })?;
        drop(shard);
        // INVARIANT: We have counted a pin of an entry with a version.
        Some(Pin {
            cache: self.inner.clone(),
            block,
            entry,
        })
    }

    /// Memory for a version. Waits for it; on a worker it lets the blocking worker wait.
    pub(crate) async fn spare(&self) -> Result<Buf> {
        let pool = &self.inner.pool;
        match pool.get(false) {
            Some(spare) => Ok(spare),
            None if !upcall::on_worker() => pool.get(true).ok_or(ENOMEM),
            None => {
                let pool = pool.clone();
                in_blocking(self.spawner(), move || pool.get(true).ok_or(ENOMEM)).await
            }
        }
    }

    /// Sets memory aside for a version, for [`Planned::new`].
    async fn reserve(&self) -> Result {
        let pool = &self.inner.pool;
        if !pool.reserve() {
            pool.reserve_as(self.spare().await?);
        }
        Ok(())
    }
}

/// Changes the version of an entry, whose shard is locked: in place if nobody else has it, else in
/// `copy`, which is the old version then. Gives the result, and whether the block was edited
/// before; or `change` back, if a copy is needed and is not there.
fn try_edit<R, C: FnOnce(&mut [u8]) -> R>(
    entry: &mut Entry,
    fresh: bool,
    copy: &mut Option<Buf>,
    change: C,
) -> Result<(R, bool), C> {
    let Some(version) = &mut entry.version else {
        // By the pin's invariant this is not so.
        return Ok((change(&mut []), true));
    };
    if !version.is_unique() {
        let Some(copy) = copy else {
            return Err(change);
        };
        // SAFETY: Nobody else knows of the copy.
        unsafe { copy.data_mut() }.copy_from_slice(version.data());
        core::mem::swap(version, copy);
    }
    // SAFETY: The cache has the one reference, and the lock keeps others from taking one.
    let bytes = unsafe { version.data_mut() };
    if fresh {
        bytes.fill(0);
    }
    let result = change(bytes);
    version.set_verified();
    Ok((result, core::mem::replace(&mut entry.edited, true)))
}

impl Drop for Planned {
    fn drop(&mut self) {
        if self.reserved {
            self.pin.cache.pool.cancel();
        }
    }
}

impl Planned {
    /// The caller has set a version aside.
    fn new(pin: Pin, fresh: bool) -> Self {
        // INVARIANT: It is ours.
        Self {
            pin,
            reserved: true,
            fresh,
        }
    }

    /// The number of the block.
    pub fn block(&self) -> u64 {
        self.pin.block
    }

    /// The block's version as it is now. Does not sleep.
    pub fn buf(&self) -> Option<Buf> {
        self.pin.buf()
    }

    /// Whether the block is new.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Changes the block by `change`, which sees all of its bytes, as others will from now on. Does
    /// not sleep, and does not fail.
    ///
    /// `change` runs under a spinlock, with interrupts off: it looks up no other block, lets go of
    /// none, and is short. The new bytes count as verified. Who changes a block twice plans it
    /// twice.
    ///
    /// Gives a pin if the block was not edited before: it is the caller's to see that it is
    /// written.
    pub fn edit<R>(mut self, change: impl FnOnce(&mut [u8]) -> R) -> (R, Option<Pin>) {
        let (fresh, mut copy) = (self.fresh, None);
        let tried = self
            .pin
            .entry(|entry| try_edit(entry, fresh, &mut copy, change));
        let (result, before) = tried.unwrap_or_else(|change| {
            // Others have the version. Without the lock of the shard: the pool has its own.
            self.reserved = false;
            copy = self.pin.cache.pool.take_reserved();
            let tried = self
                .pin
                .entry(|entry| try_edit(entry, fresh, &mut copy, change));
            // By our invariant there is a copy.
            tried.unwrap_or_else(|change| (change(&mut []), true))
        });
        // What is not used any more, without the lock.
        drop(copy);
        let first = (!before).then(|| self.pin.again());
        (result, first)
    }

    /// As [`edit`](Self::edit), of all bytes: those of `draft`, which are not copied.
    pub fn replace(self, draft: Draft) -> Option<Pin> {
        let new = draft.freeze();
        new.set_verified();
        let (old, before) = self.pin.entry(|entry| {
            let old = entry.version.replace(new);
            (old, core::mem::replace(&mut entry.edited, true))
        });
        drop(old);
        (!before).then(|| self.pin.again())
    }
}
