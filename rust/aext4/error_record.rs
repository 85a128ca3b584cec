// SPDX-License-Identifier: GPL-2.0

//! Errors of a volume: what is logged, what the superblock is told, and what `errors=` does.
//!
//! Whoever finds an error cannot wait, so he notes it. A task of the volume, the recorder, tells
//! the superblock: by a transaction, or, when the journal was aborted, in place, with the reason in
//! the journal's superblock. A recovery keeps both. A volume that is mounted read-only is told
//! nothing, but what was noted is recorded when it becomes writable. The recorder also tells the
//! superblock from time to time how much was written ([`counters`](crate::counters)).
//!
//! # Concurrency
//!
//! What was noted is under a spinlock. The recorder alone takes from it, and takes it away when it
//! is on the disk.

use crate::error::About;
use crate::ext4::Ext4;
use crate::journal::{Credits, Journal};
use crate::memory;
use crate::super_plan::SuperPlan;
use core::fmt;
use core::panic::Location;
use disk::Level;
use kernel::prelude::*;
use layout::super_edit::{padded, ErrorCode, ErrorRecord, SuperEdit};
use layout::superblock::OnError;
use layout::{Pblk, SuperBlock};

/// Errors that the superblock does not know of.
#[derive(Clone, Copy)]
pub(crate) struct Pending {
    first: Option<ErrorRecord>,
    last: Option<ErrorRecord>,
    count: u32,
}

/// What a volume knows of its errors.
pub(crate) struct ErrorLog {
    pending: Pending,
    /// What the superblock says.
    recorded: ErrorCounts,
}

/// What errors there were since e2fsck.
#[derive(Clone, Copy, Default)]
pub struct ErrorCounts {
    /// How many.
    pub count: u32,
    /// The first.
    pub first: ErrorRecord,
    /// The last.
    pub last: ErrorRecord,
}

impl ErrorCounts {
    /// With those of `pending`.
    fn with(mut self, pending: &Pending) -> Self {
        if let (Some(first), Some(last)) = (pending.first, pending.last) {
            self.count = self.count.saturating_add(pending.count);
            if self.first.time == 0 {
                self.first = first;
            }
            self.last = last;
        }
        self
    }
}

const NONE: Pending = Pending {
    first: None,
    last: None,
    count: 0,
};

impl ErrorLog {
    /// Begins with what the superblock says.
    pub(crate) fn new(sb: &SuperBlock) -> Self {
        Self {
            pending: NONE,
            recorded: ErrorCounts {
                count: sb.error_count,
                first: sb.first_error,
                last: sb.last_error,
            },
        }
    }

    fn note(&mut self, found: ErrorRecord) {
        let pending = &mut self.pending;
        pending.first.get_or_insert(found);
        pending.last = Some(found);
        pending.count = pending.count.saturating_add(1);
    }

    /// What was noted is recorded, as far as `recorded` had it.
    fn recorded(&mut self, recorded: &Pending) {
        self.recorded = self.recorded.with(recorded);
        let pending = &mut self.pending;
        pending.count = pending.count.saturating_sub(recorded.count);
        // Of those that came meanwhile only the last is known.
        pending.first = pending.last.filter(|_| pending.count > 0);
        pending.last = pending.first;
    }
}

impl Pending {
    fn apply(&self, edit: &mut SuperEdit<'_>) {
        let (Some(first), Some(last)) = (&self.first, &self.last) else {
            return;
        };
        edit.record_error(first);
        if let Some(more) = self.count.checked_sub(2) {
            edit.record_error(last);
            edit.count_errors(more);
        }
    }
}

impl Ext4 {
    /// As [`report_about`](Self::report_about), for damage of which no place is known.
    #[track_caller]
    pub fn report(&self, what: &dyn fmt::Display) {
        self.report_about(About::VOLUME, ErrorCode::Corrupted, what);
    }

    /// Logs a line, at most ten in five seconds, notes the error for the superblock, and does what
    /// `errors=` says: with `remount-ro` nothing is written any more; with `panic` the machine
    /// stops, after the superblock was told. Does nothing if nothing is written any more. Process
    /// context.
    #[track_caller]
    pub fn report_about(&self, about: About, code: ErrorCode, what: &dyn fmt::Display) {
        let journal = self.journal();
        if journal
            .as_ref()
            .is_some_and(|journal| journal.check().is_err())
        {
            return;
        }
        self.disk
            .log_limited(Level::Error, format_args!("{about}{what}"));
        self.note(about, code);
        match (self.on_error(), journal) {
            (OnError::Continue, _) => {}
            (OnError::ReadOnly, None) => {}
            (OnError::ReadOnly, Some(journal)) => {
                if journal.abort(EIO) {
                    self.disk.log(
                        Level::Error,
                        format_args!("errors=remount-ro: nothing is written any more"),
                    );
                }
            }
            // The recorder does it.
            (OnError::Panic, Some(journal)) if !self.recorder.should_stop() => {
                journal.abort(EIO);
            }
            (OnError::Panic, _) => self.disk.panic(),
        }
        self.recorder.wake();
    }

    /// Notes an error for the superblock.
    #[track_caller]
    fn note(&self, about: About, code: ErrorCode) {
        let now = disk::time::now();
        let at = Location::caller();
        let file = at.file();
        let found = ErrorRecord {
            // A time of 0 would count as none.
            time: u64::try_from(now.secs).unwrap_or(0).max(1),
            ino: about.ino,
            block: about.block.map(Pblk),
            func: padded(file.rsplit('/').next().unwrap_or(file).as_bytes()),
            line: at.line(),
            code: code as u8,
        };
        self.errors.lock().note(found);
    }

    /// Reports a block of metadata that cannot be read; other errors are no news.
    #[track_caller]
    pub(crate) fn report_unread(&self, block: u64, error: Error) {
        if error == EIO {
            let about = About {
                ino: None,
                block: Some(block),
            };
            self.report_about(about, ErrorCode::Io, &"cannot be read");
        }
    }

    /// One of the journal's loops is over; with an error of its own nothing is written any more.
    #[track_caller]
    pub(crate) fn journal_ended(&self, journal: &Journal, what: &str, result: Result) {
        if let Err(error) = result.map_err(|error| error.to_errno()) {
            // Others have aborted it, and said why.
            let others = journal.check().map_err(|other| other.to_errno());
            if others != Err(error) {
                self.disk.log(
                    Level::Error,
                    format_args!("error {error} in a {what}: nothing is written any more"),
                );
                self.note(About::VOLUME, ErrorCode::of(error));
            }
        }
        self.recorder.wake();
    }

    /// What errors there were, also if the superblock was not told yet. Process context.
    pub fn error_counts(&self) -> ErrorCounts {
        let errors = self.errors.lock();
        errors.recorded.with(&errors.pending)
    }

    /// Says what the superblock knows of errors, when the volume is mounted.
    pub(crate) fn log_errors(&self) {
        let ErrorCounts { count, first, last } = self.error_counts();
        if count > 0 {
            self.disk.log(
                Level::Warning,
                format_args!(
                    "error count since last fsck: {count}, the first at time {}, \
                     the last at time {}",
                    first.time, last.time
                ),
            );
        }
    }

    /// Records errors until the volume becomes read-only.
    pub(crate) async fn record_loop(&self, journal: &Journal) -> Result {
        loop {
            self.recorder.woken().await;
            let stopped = self.recorder.should_stop();
            self.record_errors(journal).await;
            if stopped {
                return Ok(());
            }
        }
    }

    /// Tells the superblock what was noted, if that is possible, and why the journal was aborted.
    pub(crate) async fn record_errors(&self, journal: &Journal) {
        let recorded = match journal.aborted() {
            None => self.record_by_transaction(journal).await,
            Some(ESHUTDOWN) => return,
            Some(_) => Err(EROFS),
        };
        // The journal may have been aborted meanwhile.
        let recorded = match (recorded, journal.aborted()) {
            (_, None) | (Ok(()), _) => recorded,
            (_, Some(why)) => self.record_in_place(journal, why).await,
        };
        if let Err(error) = recorded {
            self.disk.log_limited(
                Level::Error,
                format_args!("error {} recording errors", error.to_errno()),
            );
        }
        if journal.aborted().is_some() && self.on_error() == OnError::Panic {
            self.disk.panic();
        }
    }

    async fn record_by_transaction(&self, journal: &Journal) -> Result {
        let pending = self.errors.lock().pending;
        let tell = self.writes_if_due();
        if pending.count == 0 && tell.is_none() {
            return Ok(());
        }
        let tell = tell.unwrap_or_else(|| self.writes_now());
        let plan = self.plan_super().await?;
        let credits: Credits = SuperPlan::CREDITS;
        {
            let mut tx = journal.begin(&self.cache, credits).await?;
            plan.apply(self, &mut tx, |edit| {
                pending.apply(edit);
                tell.apply(edit);
            });
        }
        self.writes_told(&tell);
        self.errors.lock().recorded(&pending);
        Ok(())
    }

    /// The journal was aborted: nobody changes the superblock any more.
    async fn record_in_place(&self, journal: &Journal, why: Error) -> Result {
        let errno = memory::pinned(|| journal.record_errno(&self.cache, why)).await?;
        let errno = errno.await;
        let pending = self.errors.lock().pending;
        if pending.count > 0 {
            let write = memory::pinned(|| self.prepare_super(|edit| pending.apply(edit))).await?;
            write.await?.write(&self.disk).await?;
            self.errors.lock().recorded(&pending);
        }
        errno
    }
}
