// SPDX-License-Identifier: GPL-2.0

//! Stopping all changes of a volume for a while, for a snapshot of the device; and for ever.
//!
//! # Concurrency
//!
//! The VFS holds off who changes a volume by its calls before it asks for a freeze, and those who
//! have begun are done. What the VFS does not know of passes the gate: it holds one permit of a
//! semaphore for as long as it changes something. A freeze takes all permits, and keeps them. Who
//! passes the gate has no lock that the freeze, or the thread that thaws, waits for, and no permit: a
//! freeze that waits in between would wait for ever.
//!
//! # What a frozen volume has on its device
//!
//! All is home, the log is empty, and the superblock does not say that it needs recovery: a copy of
//! the device is a volume that was unmounted. A thaw says that it is in use again, before anything
//! changes. The log is then as at a mount for writing: see [`remount`](crate::remount).
//!
//! A volume that becomes read-only takes all permits for a moment, and shuts the gate for changes.
//! What deletes inodes that were left passes it still.

use crate::alloc::Groups;
use crate::ext4::Ext4;
use crate::journal::Journal;
use crate::memory;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Full, Release};
use upcall::{Permit, Semaphore};

/// What a freeze takes.
const ALL: usize = Semaphore::MAX;

/// The gate of a volume.
pub(crate) struct Gate {
    permits: Semaphore,
    /// Shut for changes: the volume becomes read-only, or is.
    shut: Atomic<bool>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            permits: Semaphore::new(ALL),
            shut: Atomic::new(true),
        }
    }

    /// Lets changes pass.
    pub(crate) fn open(&self) {
        self.shut.store(false, Release);
    }

    /// Lets no more changes pass, and waits for those that have.
    pub(crate) async fn shut(&self) -> Result {
        self.shut.store(true, Release);
        let all = self.permits.acquire(ALL).await;
        all.map(drop).map_err(|_| ESHUTDOWN)
    }
}

impl Ext4 {
    /// Waits while the volume is frozen. It is not until the permit is dropped.
    ///
    /// # Cancellation
    ///
    /// Nobody waits any more.
    pub async fn pass_gate(&self) -> Result<Permit<'_>> {
        self.gate.permits.acquire(1).await.map_err(|_| ESHUTDOWN)
    }

    /// As [`pass_gate`](Self::pass_gate), for a change that does not come by the VFS. The volume does
    /// not become read-only until the permit is dropped. Fails with `EROFS` if it is.
    ///
    /// # Cancellation
    ///
    /// Nobody waits any more.
    pub async fn begin_change(&self) -> Result<Permit<'_>> {
        let permit = self.pass_gate().await?;
        match self.gate.shut.load(Acquire) {
            true => Err(EROFS),
            false => Ok(permit),
        }
    }

    /// Stops all changes until [`thaw`](Self::thaw) is called, after all that was changed is
    /// durable and home. The disk says that the volume is not in use.
    ///
    /// If it fails, with the errors of [`sync`](Self::sync), the volume is not frozen.
    ///
    /// # Cancellation
    ///
    /// Not to be dropped.
    pub async fn freeze(&self) -> Result {
        let (Some(journal), Some(groups)) = (self.journal(), self.allocation_groups()) else {
            return Ok(());
        };
        let permits = self
            .gate
            .permits
            .acquire(ALL)
            .await
            .map_err(|_| ESHUTDOWN)?;
        self.sync().await?;
        journal.checkpoint_all(&self.cache).await?;
        let rest = memory::pinned(|| self.mark_frozen(&journal, &groups)).await?;
        if let Err(error) = rest.await {
            // Nobody knows what the disk says.
            journal.abort(error);
            self.journal_ended(&journal, "freeze", Err(error));
            return Err(error);
        }
        self.frozen.store(true, Release);
        permits.forget();
        Ok(())
    }

    async fn mark_frozen(&self, journal: &Journal, groups: &Groups) -> Result {
        journal.empty(&self.cache).await?;
        self.mark_clean(journal, groups).await
    }

    /// Lets changes go on after a freeze. If the disk cannot be told, nothing is written any more,
    /// and changes fail with `EROFS`.
    ///
    /// # Cancellation
    ///
    /// Not to be dropped.
    pub async fn thaw(&self) {
        if !self.frozen.xchg(false, Full) {
            return;
        }
        // What was shut down meanwhile stays as it is.
        if let Some(journal) = self.journal().filter(|journal| journal.check().is_ok()) {
            let resumed = match memory::pinned(|| self.mark_thawed(&journal)).await {
                Ok(resume) => resume.await,
                Err(error) => Err(error),
            };
            if let Err(error) = resumed {
                journal.abort(error);
                self.journal_ended(&journal, "thaw", Err(error));
            }
        }
        self.gate.permits.release(ALL);
    }

    /// Nothing is read or written any more, as if the power were off: who waits for a change to
    /// become durable fails. Process context.
    pub fn shut_down(&self) {
        self.shut_down.store(true, Release);
        if let Some(journal) = self.journal() {
            journal.abort(ESHUTDOWN);
        }
    }

    /// Whether the volume was shut down.
    pub fn is_shut_down(&self) -> bool {
        self.shut_down.load(Acquire)
    }
}
