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
//! A volume that becomes read-only takes all permits for a moment, and shuts the gate for changes.
//! What deletes inodes that were left passes it still.

use crate::ext4::Ext4;
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
    /// durable and home. The log is empty, but the disk says that the volume is in use.
    ///
    /// If it fails, with the errors of [`sync`](Self::sync), the volume is not frozen.
    ///
    /// # Cancellation
    ///
    /// The volume is not frozen.
    pub async fn freeze(&self) -> Result {
        let Some(journal) = self.journal() else {
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
        self.frozen.store(true, Release);
        permits.forget();
        Ok(())
    }

    /// Lets changes go on after a freeze. Any context.
    pub fn thaw(&self) {
        if self.frozen.xchg(false, Full) {
            self.gate.permits.release(ALL);
        }
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
