// SPDX-License-Identifier: GPL-2.0

//! [`Verify`]: a layer that compares checksums of contents, and keeps them when contents change.
//!
//! # Concurrency
//!
//! What is known of a file is in a [`RwSemaphore`](upcall::RwSemaphore). Who reads shares it from
//! before the bytes are read until they were compared. A change of contents has it alone, and so
//! has the step that sets the attribute: both are held across the `.await` of what is below. Nobody
//! holds those of two files. A file without checksums is changed by any number of callers at once,
//! who share it until what is below is done: so nobody reads contents to get checksums of them
//! while they change.
//!
//! A change is a task of the layer's scope, which has the lock: a caller who gives up leaves the
//! change whole, and the file locked until then. If the scope ends in the middle, what the layer
//! knows of the file is that its checksums are unknown: they are taken away before the contents
//! change, and put back behind it. What is below may go on with a change that was cut off, and
//! nobody knows how long: from then on the layer gives no file checksums ([`Verify::seal`]).
//!
//! What the layer knows may be old, as others change attributes below it. Before each change it is
//! compared with the attribute, but for an open file. That is no lock: a file that is sealed
//! through two layers at once, or by one while the other changes it, may get checksums that accuse.
//!
//! # What a loss of power leaves
//!
//! A file with checksums is *sealed*, *open* or *unknown*, and its attribute says which: the
//! checksums, or the mark [`OPEN`] for the other two. While the file is open the checksums are in
//! memory. These steps follow each other, each durable before the next one begins:
//!
//! | step | who | a loss of power behind it leaves |
//! |---|---|---|
//! | | | the checksums, and the contents that they are of |
//! | the mark replaces the checksums | the first change | the mark: contents are read as they are |
//! | contents change, once or often | each change | the mark, and any part of the changes |
//! | contents are durable | `fsync`, `fdatasync`, `sync` | the mark, and the contents |
//! | the checksums replace the mark | the same | the checksums, and the contents that they are of |
//!
//! A file whose attribute has the mark may have it since a moment ago: because a change was cut off
//! between the first two steps, or because the checksums found no room. Whoever finds the mark
//! waits until it is durable before contents change for the first time. Whoever removes the
//! attribute by the layer waits until the mark is durable in its place, and then removes that:
//! where there is no attribute, there was the mark before, or nothing.
//!
//! So no loss of power leaves checksums that accuse good contents. What it can take away is the
//! checksums: a file that has the mark counts as one without, until [`Verify::seal`]. The step from
//! the mark to the checksums is one change of an attribute, which is whole or absent.
//!
//! A layer that is dropped leaves what is open marked. Whoever wants the checksums kept calls
//! `sync` before.
//!
//! # Failures
//!
//! A page that is changed in part is read and compared first: a change does not make a damaged page
//! good. If the change fails below, or does a part, each page that it was about is read again, and
//! has to be as it was, or as it was to be; otherwise the file's checksums are unknown. So they are
//! when the file has more pages than an attribute holds, and when the attribute finds no room. A
//! line in the log says so.
//!
//! A file whose mark cannot be set stays sealed, and the change fails. A file whose checksums
//! cannot be set stays open, and `fsync` and `sync` fail, the latter when it has gone through all
//! files. A file that is deleted meanwhile fails neither.

mod change;
mod files;
mod seal;
mod sums;

use self::files::{Files, Identity, Known, State, Used};
use self::sums::{sum_of, Edit, Sums, PAGE};
use crate::asynchronous::{AsyncStackable, Ino, Layer};
use crate::change::{Change, Sync as Durable};
use crate::forward;
use crate::owned_change::{owned, owned_bytes};
use crate::page::{self, ReadPage};
use core::ops::Range;
use disk::gfp;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use upcall::{Block, Blocks, ReadGuard, Spawner};

/// The attribute that has the checksums of a file: one for each page, 32 bits, little-endian.
/// CRC-32C of the page's bytes, of which the last page has those of the file.
pub const ATTRIBUTE: &[u8] = b"user.crc32c";

/// What the attribute has while the checksums are in memory, and when they are unknown.
pub const OPEN: &[u8] = b"?";

/// How many pages were compared.
struct Counts {
    verified: Atomic<u64>,
    unknown: Atomic<u64>,
    failed: Atomic<u64>,
}

/// What the tasks of the layer share.
struct Summed<L> {
    below: L,
    files: Arc<Files>,
    counts: Counts,
    /// The scope's end has cut off a change, which may go on below.
    cut_off: Atomic<bool>,
}

/// Compares the contents of files with the checksums that they have in their attribute
/// [`ATTRIBUTE`], and keeps these when contents are changed by it.
///
/// A page that differs fails with `EBADMSG`; a page without a checksum, in a file that has some,
/// does so too. Files without the attribute are read as they are, and counted.
///
/// Changes go to the layer below. The first change of a file that has checksums waits until the
/// mark [`OPEN`] is durable in their place. They are set again by `fsync`, `fdatasync` and `sync`;
/// see the [module](self) for what a loss of power leaves. Until then they are in memory, of at
/// most 1,024 files: a change of one more has to wait until another one is durable, and fails as
/// that does. The checksums of a file of more than 64 MiB, or more than the file system has room
/// for in an attribute, become unknown.
///
/// What others change below the layer is found to differ, unless they change the attribute, too. A
/// file that was changed so that it has more pages than checksums, or fewer, cannot be changed
/// (`EBADMSG`) until the attribute is removed.
///
/// A file is to be changed by one such layer at a time. Of two each keeps checksums in memory of
/// its own, and nobody refuses the second one: what it changes between the first one's changes and
/// their `fsync` differs then, for both (`EBADMSG`), though the contents below are whole. They are
/// right again when the attribute was removed and the file was [sealed](Self::seal). One layer may
/// change what another one has made durable.
///
/// # Cancellation
///
/// A change of contents has not begun, or goes on alone to its end. Changes fail with `ESHUTDOWN`
/// once the scope ends that they are tasks of, also those that it ends in the middle.
pub struct Verify<L> {
    summed: Arc<Summed<L>>,
    spawner: Spawner,
}

impl<L: AsyncStackable> Verify<L> {
    /// Makes the layer on `below`. Its changes are tasks of the scope of `spawner`. Fails with
    /// `ENOMEM`.
    pub fn new(below: L, spawner: Spawner) -> Result<Self> {
        let summed = Summed {
            below,
            files: Files::new()?,
            counts: Counts {
                verified: Atomic::new(0),
                unknown: Atomic::new(0),
                failed: Atomic::new(0),
            },
            cut_off: Atomic::new(false),
        };
        let summed = Arc::new(summed, gfp())?;
        Ok(Self { summed, spawner })
    }

    /// The layer below.
    pub fn below(&self) -> &L {
        &self.summed.below
    }

    /// How many pages were found to be as they should.
    pub fn verified(&self) -> u64 {
        self.summed.counts.verified.load(Relaxed)
    }

    /// How many pages had no checksum to be compared with.
    pub fn unknown(&self) -> u64 {
        self.summed.counts.unknown.load(Relaxed)
    }

    /// How many pages differed.
    pub fn failed(&self) -> u64 {
        self.summed.counts.failed.load(Relaxed)
    }

    /// Gives a regular file checksums of what it has now, and waits until both are durable.
    ///
    /// A file that has some keeps them. Fails with `EFBIG` for a file of more than 64 MiB, with
    /// `ESHUTDOWN` if the scope has ended in the middle of a change, of whatever file, and as
    /// reading and [`setxattr`](AsyncStackable::setxattr) do.
    ///
    /// # Cancellation
    ///
    /// The file has its checksums, or none, or they are set by the next `fsync`.
    pub async fn seal(&self, ino: Ino) -> Result {
        disk::pinned(|| self.summed.give(ino))?.await
    }
}

impl<L: AsyncStackable + 'static> Verify<L> {
    /// Changes the contents of a file, by a task: its lock is held until what is below is done.
    async fn edit(&self, ino: Ino, edit: Edit) -> Result<(u64, usize)> {
        let summed = self.summed.clone();
        let task = async move { disk::pinned(|| summed.edit(ino, &edit))?.await };
        self.spawner.spawn(task)?.await.map_err(|_| ESHUTDOWN)?
    }
}

impl<L: AsyncStackable> Summed<L> {
    /// What is known of a file, which was read if it had to be.
    async fn look<'a>(&self, ino: Ino, file: &'a Used) -> Result<ReadGuard<'a, State>> {
        let state = file.state.read().await.map_err(|_| ESHUTDOWN)?;
        if !matches!(state.known, Known::Unread) {
            return Ok(state);
        }
        drop(state);
        disk::pinned(|| self.look_first(ino, file))?.await
    }

    #[cold]
    async fn look_first<'a>(&self, ino: Ino, file: &'a Used) -> Result<ReadGuard<'a, State>> {
        let mut state = file.state.write().await.map_err(|_| ESHUTDOWN)?;
        let attr = self.below.stat(ino).await?;
        self.load(ino, file, &mut state, Identity::from(&attr))
            .await?;
        Ok(state.downgrade())
    }

    /// What the attribute has, if there is one.
    async fn attribute(&self, ino: Ino) -> Result<Option<KVec<u8>>> {
        match self.below.getxattr(ino, ATTRIBUTE).await {
            Err(ENODATA | EOPNOTSUPP) => Ok(None),
            value => value.map(Some),
        }
    }

    /// Reads what the attribute has, unless it is known of this file.
    async fn load(&self, ino: Ino, file: &Used, state: &mut State, now: Identity) -> Result {
        if state.of == now && !matches!(state.known, Known::Unread) {
            return Ok(());
        }
        self.files.put(file, state, Known::Unread);
        state.loads = state.loads.wrapping_add(1);
        let known = match self.attribute(ino).await? {
            // Nobody knows whether it is durable, nor what was there before.
            Some(value) if value.as_slice() == OPEN => Known::Unknown {
                marked: true,
                settled: false,
            },
            Some(value) => Known::Sealed(Sums::new(&value)?),
            None => Known::Unknown {
                marked: false,
                settled: true,
            },
        };
        state.of = now;
        self.files.put(file, state, known);
        Ok(())
    }

    /// Reads what the attribute has, unless the file is open: others may have set or removed it.
    async fn load_anew(&self, ino: Ino, file: &Used, state: &mut State, now: Identity) -> Result {
        if let Known::Sealed(_) | Known::Unknown { .. } = state.known {
            self.files.put(file, state, Known::Unread);
        }
        self.load(ino, file, state, now).await
    }

    /// Whether something else is known of a file than when `loads` was seen, by one for whom a page
    /// differed: it is another one by now, or others have changed the attribute.
    #[cold]
    async fn has_changed(&self, ino: Ino, file: &Used, loads: u64) -> Result<bool> {
        let mut state = file.state.write().await.map_err(|_| ESHUTDOWN)?;
        let none = matches!(state.known, Known::Unread | Known::Unknown { .. });
        if none || state.loads != loads {
            return Ok(true);
        }
        let now = Identity::from(&self.below.stat(ino).await?);
        let before = match &state.known {
            Known::Sealed(sums) => Some(Sums::new(sums.value())?),
            _ if state.of != now => None,
            _ => return Ok(false),
        };
        let same = state.of == now;
        self.files.put(file, &mut state, Known::Unread);
        self.load(ino, file, &mut state, now).await?;
        let same = match (&state.known, &before) {
            (Known::Sealed(sums), Some(before)) => same && sums.value() == before.value(),
            _ => false,
        };
        if same {
            // So that each of many readers finds out at once.
            state.loads = loads;
        }
        Ok(!same)
    }
}

/// Whether a page, number `page` of the file, is as its checksum says; nothing if it has none.
fn fits(state: &State, page: u64, bytes: &[u8]) -> Option<bool> {
    match &state.known {
        Known::Sealed(sums) | Known::Open { sums, .. } => {
            Some(sums.get(page) == Some(sum_of(bytes)))
        }
        Known::Unread | Known::Unknown { .. } => None,
    }
}

impl Counts {
    fn add(&self, fits: Option<bool>) {
        match fits {
            Some(true) => self.verified.fetch_add(1, Relaxed),
            Some(false) => self.failed.fetch_add(1, Relaxed),
            None => self.unknown.fetch_add(1, Relaxed),
        };
    }
}

impl<L: AsyncStackable> ReadPage for Summed<L> {
    async fn read_page(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let file = self.files.get(ino)?;
        loop {
            let state = self.look(ino, &file).await?;
            let count = self.below.read(ino, offset, block).await?;
            if count == 0 {
                return Ok(0);
            }
            let bytes = block.as_slice().get(..count).ok_or(EIO)?;
            let (fits, loads) = (fits(&state, offset / PAGE, bytes), state.loads);
            drop(state);
            if fits == Some(false) && disk::pinned(|| self.has_changed(ino, &file, loads))?.await? {
                continue;
            }
            self.counts.add(fits);
            return match fits {
                Some(false) => Err(EBADMSG),
                _ => Ok(count),
            };
        }
    }
}

impl<L: AsyncStackable> Summed<L> {
    /// Reads pages, the last one as a whole, and compares them. Returns how many bytes there are.
    async fn read_pages(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        let file = self.files.get(ino)?;
        loop {
            let state = self.look(ino, &file).await?;
            let count = self.below.read_at(ino, range.clone(), blocks).await?;
            let mut bad = None;
            for n in 0..count.div_ceil(Block::SIZE) {
                let len = (count - n * Block::SIZE).min(Block::SIZE);
                let bytes = blocks.page(n).get(..len).ok_or(EIO)?;
                match fits(&state, range.start / PAGE + n as u64, bytes) {
                    Some(false) => {
                        bad = Some(false);
                        break;
                    }
                    fits => self.counts.add(fits),
                }
            }
            let loads = state.loads;
            drop(state);
            if bad.is_none() {
                return Ok(count);
            }
            if !disk::pinned(|| self.has_changed(ino, &file, loads))?.await? {
                self.counts.add(bad);
                return Err(EBADMSG);
            }
        }
    }
}

impl<L: Layer> Layer for Verify<L> {
    type Kind = L::Kind;
}

impl<L: AsyncStackable + 'static> AsyncStackable for Verify<L> {
    forward!(self, self.summed.below; root, lookup, stat, readlink, read_dir, listxattr, acl, statfs);
    forward!(self, self.summed.below; open, tmpfile);

    /// [`ATTRIBUTE`] of a file that is open has what it will have.
    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        if name == ATTRIBUTE {
            if let Some(file) = self.summed.files.find(ino) {
                let state = file.state.read().await.map_err(|_| ESHUTDOWN)?;
                if let Known::Open { sums, .. } = &state.known {
                    return owned(sums.value());
                }
            }
        }
        self.summed.below.getxattr(ino, name).await
    }

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        let (ino, edit) = match change {
            Change::Truncate { ino, size } => (ino, Edit::Truncate(size)),
            Change::Allocate {
                ino,
                ref range,
                keep_size,
            } => (ino, Edit::Allocate(range.clone(), keep_size)),
            Change::SetXattr { ino, name, .. } if name == ATTRIBUTE => {
                return disk::pinned(|| self.summed.set_attribute(ino, change))?.await;
            }
            _ => return self.summed.below.change(change).await,
        };
        self.edit(ino, edit).await?;
        Ok(ino)
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        self.edit(ino, Edit::Write(pos, owned_bytes(bytes)?)).await
    }

    /// The checksums of what was changed before are durable with it.
    async fn make_durable(&self, what: Durable) -> Result {
        disk::pinned(|| self.summed.make_durable(what))?.await
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        // What was not asked for of the pages is compared, too.
        page::read(&*self.summed, ino, offset, block).await
    }

    async fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        let want = blocks.check_range(&range)?;
        // The last page as a whole, as its checksum is.
        let end = range.end.checked_next_multiple_of(PAGE).ok_or(EFBIG)?;
        let count = self
            .summed
            .read_pages(ino, range.start..end, blocks)
            .await?;
        let count = count.min(want);
        if count % Block::SIZE != 0 {
            let tail = blocks.page_mut(count / Block::SIZE);
            if let Some(tail) = tail.get_mut(count % Block::SIZE..) {
                tail.fill(0);
            }
        }
        Ok(count)
    }
}
