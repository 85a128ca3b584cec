// SPDX-License-Identifier: GPL-2.0

//! Making a volume writable, and read-only again.
//!
//! # What a loss of power leaves
//!
//! | after | there is |
//! |---|---|
//! | the log, which is empty, has a copy of the new superblock | a volume that is clean |
//! | a part of the superblock | a wrong checksum: the mount takes the copy |
//! | the superblock, which says that it needs recovery | a volume whose recovery finds nothing |
//! | the journal's superblock says where the log begins | the same |
//! | (changes, commits) | see [`journal`](crate::journal) |
//! | the log is home, and its superblock says that it is empty | a volume whose recovery finds nothing |
//! | the log has a copy of the new superblock | the same |
//! | a part of the superblock | a wrong checksum: the mount takes the copy |
//! | the superblock, which does not say that it needs recovery any more | a volume that is clean |
//!
//! The copy is that of [`doublewrite`]. Without a journal there is none, and the superblock says
//! that the volume is in use instead: e2fsck looks at it after a loss of power.

use crate::alloc::{Groups, Kept};
use crate::ext4::{kept_back, read_groups, Ext4};
use crate::journal::{doublewrite, Committed, Journal, Log};
use crate::super_write::SuperWrite;
use crate::task::TaskControl;
use crate::{memory, recovery};
use core::future::Future;
use core::time::Duration;
use disk::Level;
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::journal::JournalSuper;
use layout::super_edit::SuperEdit;
use layout::superblock::{super_offset, SUPER_KIB};
use layout::{Compat, Incompat, RoCompat, SuperBlock};
use upcall::JoinHandle;

/// The read-only compatible features that a volume may have and be written to.
const WRITABLE: RoCompat = RoCompat::SPARSE_SUPER
    .or(RoCompat::LARGE_FILE)
    .or(RoCompat::HUGE_FILE)
    .or(RoCompat::GDT_CSUM)
    .or(RoCompat::DIR_NLINK)
    .or(RoCompat::EXTRA_ISIZE)
    .or(RoCompat::METADATA_CSUM)
    .or(RoCompat::ORPHAN_PRESENT)
    .or(RoCompat::PROJECT);

/// What a volume has while it is writable.
pub struct Writing {
    /// The journal.
    pub journal: Arc<Journal>,
    /// What can be allocated.
    pub groups: Arc<Groups>,
    /// What commits, and what writes home.
    commits: JoinHandle<Result>,
    checkpoints: JoinHandle<Result>,
    /// What deletes inodes that were left, and what records errors.
    deletions: Option<JoinHandle<Result>>,
    recorder: Option<JoinHandle<Result>>,
    /// What tells the device which blocks are free again.
    discards: Option<JoinHandle<Result>>,
}

impl Ext4 {
    /// The journal, while the volume is writable.
    pub fn journal(&self) -> Option<Arc<Journal>> {
        let writing = self.writing.lock();
        writing.as_ref().map(|writing| writing.journal.clone())
    }

    /// What can be allocated, while the volume is writable.
    pub fn allocation_groups(&self) -> Option<Arc<Groups>> {
        let writing = self.writing.lock();
        writing.as_ref().map(|writing| writing.groups.clone())
    }

    /// Makes the volume writable: its journal starts, and the disk says that it is in use.
    ///
    /// Fails, with a line in the log that says why, with `EROFS` if the device or a feature of the
    /// volume forbids it, with `EINVAL` if an option does, and with the errors of the journal and
    /// of the block layer. Called once at a time, and not by an upcall of the volume's own scope
    /// that its end waits for.
    ///
    /// # Cancellation
    ///
    /// The disk may say that the volume is in use. Mounting it again sets that right.
    pub async fn make_writable(volume: &Arc<Self>) -> Result {
        if volume.journal().is_some() {
            return Ok(());
        }
        volume.check_writable()?;
        let geo = &volume.sb.geo;
        // A wrong checksum, which does not keep from reading, is refused now.
        let descs = read_groups(&volume.disk, &volume.cache, &volume.sb, true).await?;
        let kept = Kept {
            root: volume.sb.reserved_blocks,
            must: kept_back(geo),
        };
        let per_flex = volume.sb.groups_per_flex;
        let groups = Groups::load(&volume.cache, geo, descs, per_flex, kept).await?;
        let mut log = match recovery::journal_inode(&volume.cache, &volume.sb).await {
            Ok(None) => None,
            Ok(Some(inode)) => {
                let opened = Log::open(&volume.disk, &volume.cache, geo, &inode).await;
                Some(opened.map_err(|why| volume.refuse_journal(&why))?)
            }
            Err(why) => return Err(volume.refuse_journal(&why)),
        };
        if let Some(log) = log.as_mut().filter(|log| log.head.sb.needs_recovery()) {
            // The volume does not need what is there. Its transactions, a block each at least, do
            // not count again by a number that is given once more.
            let skip = |sb: &mut JournalSuper, raw: &mut [u8]| {
                let next = sb.sequence.wrapping_add(sb.len());
                sb.set_empty(raw, next, sb.first);
            };
            log.head.update(&volume.cache, skip).await?;
        }
        let wide = geo.has_incompat(Incompat::B64);
        let checksums = geo.csum().metadata();
        if let Some(log) = &mut log {
            log.head
                .update(&volume.cache, |sb, raw| {
                    let (next, head) = (sb.sequence.wrapping_add(1), sb.next_block());
                    sb.set_rules(raw, wide, checksums);
                    sb.set_empty(raw, next, head);
                })
                .await?;
        }
        memory::pinned(|| volume.mark_in_use(log.as_ref()))
            .await?
            .await?;
        let journal = Journal::start(log, &volume.cache, wide, checksums).await?;
        journal.set_barrier(volume.flags().barrier());
        volume.refresh_super().await?;
        let spawner = volume.disk.spawner();
        let (this, engine, released) = (volume.clone(), journal.clone(), groups.clone());
        let commits = spawner.spawn(async move {
            let interval = || this.commit_interval();
            let ended = |end: Committed<'_>| {
                for freed in &end.freed {
                    released.release(freed);
                }
                this.note_released(&end.freed);
                if this.writes_if_due().is_some() {
                    this.recorder.wake();
                }
            };
            let result = engine.commit_loop(&this.cache, interval, ended).await;
            this.journal_ended(&engine, "commit", result);
            result
        })?;
        let (this, engine) = (volume.clone(), journal.clone());
        let checkpoints = spawner.spawn(async move {
            let result = engine.checkpoint_loop(&this.cache).await;
            this.journal_ended(&engine, "checkpoint", result);
            result
        });
        let checkpoints = match checkpoints {
            Ok(checkpoints) => checkpoints,
            Err(error) => {
                journal.stop();
                let _ = commits.await;
                return Err(error);
            }
        };
        *volume.writing.lock() = Some(Writing {
            journal: journal.clone(),
            groups,
            commits,
            checkpoints,
            deletions: None,
            recorder: None,
            discards: None,
        });
        if let Err(error) = Self::start_tasks(volume, &journal) {
            let _ = volume.make_read_only().await;
            return Err(error);
        }
        let cleaned = match disk::pinned(|| volume.clean_orphans()) {
            Ok(clean) => clean.await,
            Err(error) => Err(error),
        };
        volume.gate.open();
        if cleaned.is_err() {
            // The error of this one says less.
            let _ = volume.make_read_only().await;
        }
        cleaned
    }

    /// What is still to be done after a recovery, if the volume stays read-only: orphans are
    /// cleaned up, and the superblock has the right sums, as with ext4. Volumes that have errors,
    /// or features that forbid writing, stay as they are.
    ///
    /// What fails is said in the log: the volume can be read without.
    ///
    /// # Cancellation
    ///
    /// Not to be dropped.
    pub async fn finish_recovery(volume: &Arc<Self>) {
        let forbidden = volume.sb.geo.features().ro_compat.forbids_writing(WRITABLE);
        let errors = volume.sb.state & SuperBlock::STATE_ERROR != 0;
        if !volume.was_recovered || errors || forbidden.count() > 0 {
            return;
        }
        let written = Self::make_writable(volume).await;
        let ended = volume.make_read_only().await;
        if let Err(error) = written.and(ended) {
            volume.disk.log(
                Level::Warning,
                format_args!(
                    "error {} after the recovery: orphans may be left",
                    error.to_errno()
                ),
            );
        }
    }

    /// Starts what changes the volume by itself.
    fn start_tasks(volume: &Arc<Self>, journal: &Arc<Journal>) -> Result {
        let this = volume.clone();
        let task = async move { this.delete_loop().await };
        volume.start_task(&volume.leaving, |writing| &mut writing.deletions, task)?;
        let (this, writable) = (volume.clone(), volume.writable()?);
        let task = async move { this.discard_loop(&writable).await };
        volume.start_task(&volume.discarder, |writing| &mut writing.discards, task)?;
        let (this, journal) = (volume.clone(), journal.clone());
        let task = async move { this.record_loop(&journal).await };
        volume.start_task(&volume.recorder, |writing| &mut writing.recorder, task)
    }

    fn start_task(
        &self,
        control: &TaskControl,
        place: fn(&mut Writing) -> &mut Option<JoinHandle<Result>>,
        task: impl Future<Output = Result> + Send + 'static,
    ) -> Result {
        control.start();
        let handle = self.disk.spawner().spawn(task)?;
        if let Some(writing) = &mut *self.writing.lock() {
            *place(writing) = Some(handle);
        }
        Ok(())
    }

    /// Makes the volume read-only: what was changed is committed and written home, the log is
    /// empty, and the disk says that the volume is not in use. The VFS lets nobody change anything
    /// any more; other changes that have begun are waited for, and later ones fail.
    ///
    /// Fails with the error for which the journal was aborted. Then the log has what it has, and
    /// the next mount recovers it.
    ///
    /// # Cancellation
    ///
    /// Not to be dropped.
    pub async fn make_read_only(&self) -> Result {
        self.gate.shut().await?;
        // What was left is deleted, and errors are recorded, while that is possible.
        let (deletions, recorder) = match &mut *self.writing.lock() {
            Some(writing) => (writing.deletions.take(), writing.recorder.take()),
            None => (None, None),
        };
        if let Some(deletions) = deletions {
            self.leaving.stop();
            deletions.await??;
        }
        if let Some(recorder) = recorder {
            self.recorder.stop();
            recorder.await??;
        }
        let Some(writing) = self.writing.lock().take() else {
            return Ok(());
        };
        let journal = &writing.journal;
        journal.stop();
        let commits = writing.commits.await?;
        let checkpoints = writing.checkpoints.await?;
        if let Some(discards) = writing.discards {
            self.discarder.stop();
            discards.await??;
        }
        let mut ended = commits.and(checkpoints);
        if ended.is_ok() {
            ended = journal.empty(&self.cache).await;
            if let Err(error) = ended {
                journal.abort(error);
                self.journal_ended(journal, "checkpoint", ended);
            }
        }
        self.keep_statfs(&writing.groups);
        if ended.is_err() {
            let record = memory::pinned(|| self.record_errors(journal)).await?;
            record.await;
            return ended;
        }
        let clean = memory::pinned(|| self.mark_clean(journal, &writing.groups)).await?;
        clean.await
    }

    /// Refuses volumes that cannot be written to, by name.
    fn check_writable(&self) -> Result {
        let geo = &self.sb.geo;
        if self.disk.is_read_only() {
            self.disk.log(
                Level::Error,
                format_args!("the device is read-only, so the volume is, too"),
            );
            return Err(EROFS);
        }
        let mut names = geo.features().ro_compat.forbids_writing(WRITABLE);
        if let Some(name) = names.next() {
            self.disk.log(
                Level::Error,
                format_args!("volumes with the feature {name} are not written to"),
            );
            return Err(EROFS);
        }
        if geo.has_compat(Compat::HAS_JOURNAL) && self.sb.journal_ino.is_none() {
            self.disk.log(
                Level::Error,
                format_args!("volumes with a journal on another device are not written to"),
            );
            return Err(EROFS);
        }
        if self.options().sb() != SUPER_KIB {
            self.disk.log(
                Level::Error,
                format_args!("a volume that is mounted by a backup superblock is not written to"),
            );
            return Err(EROFS);
        }
        if self.options().journals_data() {
            self.disk.log(
                Level::Error,
                format_args!("data=journal is not supported: use data=ordered"),
            );
            return Err(EINVAL);
        }
        if self.sb.needs_recovery() {
            self.disk.log(
                Level::Error,
                format_args!("the journal was not replayed, so the volume is not written to"),
            );
            return Err(EINVAL);
        }
        Ok(())
    }

    fn refuse_journal(&self, why: &crate::journal::Refused) -> Error {
        self.disk.log(
            Level::Error,
            format_args!("cannot write without the journal: {why}"),
        );
        why.errno()
    }

    /// Says on the disk that the volume is in use.
    async fn mark_in_use(&self, log: Option<&Log>) -> Result {
        let now = disk::time::now();
        let write = self
            .prepare_super(|edit| {
                edit.count_mount();
                edit.set_mount_time(u64::try_from(now.secs).unwrap_or(0));
                set_in_use(edit, log.is_some());
            })
            .await?;
        if let Some(log) = log.filter(|_| self.sb.geo.csum().metadata()) {
            let (cache, barrier) = (&self.cache, self.flags().barrier());
            let sb = &log.head.sb;
            doublewrite::write(cache, &log.blocks, sb, barrier, write.block, &write.buf).await?;
        }
        write.write(&self.disk).await
    }

    /// Says on the disk that the volume is in use again, after [`mark_clean`](Self::mark_clean),
    /// and that the log may have something.
    pub(crate) async fn mark_thawed(&self, journal: &Journal) -> Result {
        let write = self
            .prepare_super(|edit| set_in_use(edit, journal.has_log()))
            .await?;
        if self.sb.geo.csum().metadata() {
            journal
                .doublewrite(&self.cache, write.block, &write.buf)
                .await?;
        }
        write.write(&self.disk).await?;
        journal.resume(&self.cache).await
    }

    /// Says on the disk that the volume is not in use any more. The log is empty.
    pub(crate) async fn mark_clean(&self, journal: &Journal, groups: &Groups) -> Result {
        // What was found clean, and is without errors, is clean again.
        let clean = self.sb.state & SuperBlock::STATE_CLEAN;
        // The sums of the descriptors, which are home.
        let counters = groups.counters();
        let write = self
            .prepare_super(|edit| {
                edit.set_free_blocks(counters.free);
                edit.set_free_inodes(u32::try_from(counters.free_inodes).unwrap_or(u32::MAX));
                if journal.has_log() {
                    let mut features = edit.features();
                    features.incompat = features.incompat.without(Incompat::RECOVER);
                    edit.set_features(features);
                } else {
                    edit.set_state(edit.state() | clean);
                }
            })
            .await?;
        if self.sb.geo.csum().metadata() {
            journal
                .doublewrite(&self.cache, write.block, &write.buf)
                .await?;
        }
        write.write(&self.disk).await
    }

    /// The superblock, with a change, and what is to be said of writes.
    pub(crate) async fn prepare_super(
        &self,
        change: impl FnOnce(&mut SuperEdit<'_>),
    ) -> Result<SuperWrite> {
        let place = super_offset(SUPER_KIB).ok_or(EINVAL)?;
        let tell = self.writes_now();
        let change = |edit: &mut SuperEdit<'_>| {
            tell.apply(edit);
            change(edit);
        };
        let write =
            SuperWrite::prepare(&self.disk, &self.cache, &self.sb.geo, place, change).await?;
        self.writes_told(&tell);
        Ok(write)
    }

    fn commit_interval(&self) -> Duration {
        Duration::from_secs(self.options().commit_interval().into())
    }
}

fn set_in_use(edit: &mut SuperEdit<'_>, has_log: bool) {
    if has_log {
        let mut features = edit.features();
        features.incompat = features.incompat.or(Incompat::RECOVER);
        edit.set_features(features);
    } else {
        edit.set_state(edit.state() & !SuperBlock::STATE_CLEAN);
    }
}
