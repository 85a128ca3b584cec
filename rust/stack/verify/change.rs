// SPDX-License-Identifier: GPL-2.0

//! Changes of the contents of files that have checksums.

use super::files::{Identity, Known, State, Used};
use super::sums::{len_of, sum_of, Edit, Effect, Sums, PAGE, PAGES_MAX};
use super::{Summed, ATTRIBUTE, OPEN};
use crate::asynchronous::{AsyncStackable, Ino};
use crate::change::{Change, Sync as Durable};
use crate::page;
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use upcall::{Block, Budget};
use vfs::XattrFlags;

/// How many files are open at most: those that are kept in memory alone.
const OPEN_MAX: usize = 1024;

/// How many files one tries to seal that another one may be open.
const ROOM_TRIES: usize = 4;

/// The checksums that a change makes.
struct Plan {
    /// Of the first pages that change.
    first: u64,
    sums: KVVec<u32>,
    /// How many pages there are behind the change.
    pages: u64,
}

/// A change that what is below is at. If this is dropped it may go on alone.
struct UnderWay<'a>(&'a Atomic<bool>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl<L: AsyncStackable> Summed<L> {
    /// Changes the attribute itself: whoever does knows what is in the file.
    ///
    /// Before the checksums go the mark is durable in their place: so whoever finds no attribute
    /// knows that no loss of power brings them back.
    pub(super) async fn set_attribute(&self, ino: Ino, change: Change<'_>) -> Result<Ino> {
        let file = self.files.get(ino)?;
        let mut state = file.state.write().await.map_err(|_| ESHUTDOWN)?;
        let mut known = self.files.put(&file, &mut state, Known::Unread);
        let mut done = Ok(ino);
        if let Change::SetXattr { value: None, .. } = change {
            done = self.set_before_removal(ino).await.map(|()| ino);
        }
        if done.is_ok() {
            done = self.below.change(change).await;
        }
        if done.is_err() {
            if let Known::Open { marked, .. } = &mut known {
                *marked = false;
            }
            self.files.put(&file, &mut state, known);
        }
        done
    }

    /// The mark is durable in place of the checksums, if there are some.
    async fn set_before_removal(&self, ino: Ino) -> Result {
        match self.below.getxattr(ino, ATTRIBUTE).await {
            Ok(value) if value.as_slice() == OPEN => {}
            Ok(_) => self.set(ino, OPEN).await?,
            // The removal says what is wrong.
            Err(_) => return Ok(()),
        }
        self.below.make_durable(Durable::Inode(ino)).await
    }

    /// Changes the contents of a file. Returns what a write does.
    pub(super) async fn edit(&self, ino: Ino, edit: &Edit) -> Result<(u64, usize)> {
        let file = self.files.get(ino)?;
        {
            let state = file.state.read().await.map_err(|_| ESHUTDOWN)?;
            if self.is_unknown(ino, &state).await? {
                return self.apply(ino, edit).await;
            }
        }
        let room = self.make_room().await;
        let mut state = file.state.write().await.map_err(|_| ESHUTDOWN)?;
        let attr = self.below.stat(ino).await?;
        if !self.is_unknown(ino, &state).await? {
            self.load_anew(ino, &file, &mut state, Identity::from(&attr))
                .await?;
        }
        if let Known::Unknown { marked, settled } = state.known {
            if !settled {
                self.below.make_durable(Durable::Inode(ino)).await?;
                let settled = true;
                let known = Known::Unknown { marked, settled };
                self.files.put(&file, &mut state, known);
            }
            return self.apply(ino, edit).await;
        }
        let Some(effect) = edit.effect(attr.size) else {
            return self.apply(ino, edit).await;
        };
        let plan = match &state.known {
            Known::Unread | Known::Unknown { .. } => return Err(EIO),
            Known::Sealed(sums) | Known::Open { sums, .. } => {
                disk::pinned(|| self.plan(ino, sums, &effect))?.await?
            }
        };
        if let Known::Sealed(_) = state.known {
            room?;
        }
        self.mark(ino, &file, &mut state, &plan).await?;
        // From here on until they are put back they are unknown, also to who comes if we are
        // dropped.
        let unknown = Known::Unknown {
            marked: true,
            settled: true,
        };
        let known = self.files.put(&file, &mut state, unknown);
        let Known::Open { mut sums, .. } = known else {
            return Err(EIO);
        };
        let done = self.apply(ino, edit).await;
        let whole = match &done {
            Ok((at, count)) => {
                effect.bytes.is_empty() || (*at, *count) == (effect.start, effect.bytes.len())
            }
            Err(_) => false,
        };
        let kept = match (&plan, whole) {
            (Some(plan), true) => {
                sums.replace(plan.first, &plan.sums, plan.pages);
                true
            }
            (None, true) => false,
            (plan, false) => {
                let settled = self.settle(ino, &mut sums, &effect, plan.as_ref());
                settled.await.unwrap_or(false)
            }
        };
        if kept {
            let open = Known::Open {
                sums,
                version: self.files.version(),
                marked: true,
            };
            self.files.put(&file, &mut state, open);
        } else {
            self.report(ino, if plan.is_none() { EFBIG } else { EIO });
        }
        done
    }

    /// Whether a file has no checksums, as it had none before, and no loss of power brings some
    /// back.
    async fn is_unknown(&self, ino: Ino, state: &State) -> Result<bool> {
        let Known::Unknown { marked, settled } = state.known else {
            return Ok(false);
        };
        if !settled || Identity::from(&self.below.stat(ino).await?) != state.of {
            return Ok(false);
        }
        // Others may have given it some.
        Ok(match self.attribute(ino).await? {
            Some(value) => marked && value.as_slice() == OPEN,
            None => !marked,
        })
    }

    /// Seals another file if as many are open as can be. Fails if none could be.
    pub(super) async fn make_room(&self) -> Result {
        let mut done = Ok(());
        // Another one each time: what is wrong with one need not be with the next.
        for _ in 0..ROOM_TRIES {
            if self.files.open() < OPEN_MAX {
                return Ok(());
            }
            let Some((other, file)) = self.files.some_open() else {
                return Ok(());
            };
            done = self.seal_alone(other, &file).await;
            if done.is_ok() {
                break;
            }
        }
        done
    }

    /// The checksums of a file are not known any more.
    #[cold]
    pub(super) fn report(&self, ino: Ino, error: Error) {
        pr_warn!(
            "verify: inode {} has lost its checksums ({error:?})\n",
            ino.0
        );
    }

    /// Makes the change below.
    async fn apply(&self, ino: Ino, edit: &Edit) -> Result<(u64, usize)> {
        let under_way = UnderWay(&self.cut_off);
        let change = match edit {
            Edit::Write(pos, bytes) => {
                let done = self.below.write_bytes(ino, *pos, bytes).await;
                core::mem::forget(under_way);
                return done;
            }
            Edit::Truncate(size) => Change::Truncate { ino, size: *size },
            Edit::Allocate(range, keep_size) => Change::Allocate {
                ino,
                range: range.clone(),
                keep_size: *keep_size,
            },
        };
        let done = self.below.change(change).await;
        core::mem::forget(under_way);
        done.map(|_| (0, 0))
    }

    /// Opens a sealed file: the mark is durable before contents change. There is room for the
    /// checksums that a change makes.
    async fn mark(&self, ino: Ino, file: &Used, state: &mut State, plan: &Option<Plan>) -> Result {
        let (Known::Sealed(sums) | Known::Open { sums, .. }) = &mut state.known else {
            return Err(EIO);
        };
        if let Some(plan) = plan {
            sums.reserve(plan.pages)?;
        }
        if let Known::Sealed(_) = state.known {
            // Open before the attribute changes: so it is set again whatever happens here.
            if let Known::Sealed(sums) = self.files.put(file, state, Known::Unread) {
                let open = Known::Open {
                    sums,
                    version: self.files.version(),
                    marked: false,
                };
                self.files.put(file, state, open);
            }
        }
        if let Known::Open { marked: true, .. } = state.known {
            return Ok(());
        }
        if let Err(error) = self.set(ino, OPEN).await {
            self.unmark(ino, file, state).await;
            return Err(error);
        }
        self.below.make_durable(Durable::Inode(ino)).await?;
        if let Known::Open { marked, .. } = &mut state.known {
            *marked = true;
        }
        Ok(())
    }

    /// Behind a mark that failed: the file is sealed if the attribute still has its checksums.
    #[cold]
    async fn unmark(&self, ino: Ino, file: &Used, state: &mut State) {
        let value = self.below.getxattr(ino, ATTRIBUTE).await;
        let known = match self.files.put(file, state, Known::Unread) {
            Known::Open { sums, .. } if value.is_ok_and(|value| *value == *sums.value()) => {
                Known::Sealed(sums)
            }
            known => known,
        };
        self.files.put(file, state, known);
    }

    /// Sets the attribute.
    pub(super) async fn set(&self, ino: Ino, value: &[u8]) -> Result {
        let change = Change::SetXattr {
            ino,
            name: ATTRIBUTE,
            value: Some(value),
            flags: XattrFlags::default(),
        };
        self.below.change(change).await.map(drop)
    }

    /// The checksums that a change makes of `sums`; nothing if there are too many pages. Fails with
    /// `EBADMSG` if a page that changes in part is not as it should be.
    async fn plan(&self, ino: Ino, sums: &Sums, effect: &Effect<'_>) -> Result<Option<Plan>> {
        if !sums.fits(effect.before) {
            return Err(EBADMSG);
        }
        let (range, pages) = (effect.pages(), effect.size.div_ceil(PAGE));
        if pages > PAGES_MAX {
            return Ok(None);
        }
        let mut plan = Plan {
            first: range.start,
            sums: KVVec::with_capacity((range.end - range.start) as usize, gfp())?,
            pages,
        };
        let (mut block, mut budget) = (Block::vacant(), Budget::new());
        let mut zeros = None;
        for page in range {
            budget.pause().await;
            let (was, is) = (len_of(page, effect.before), len_of(page, effect.size));
            let (place, bytes) = effect.written(page);
            let sum = if bytes.len() == is {
                sum_of(bytes)
            } else if let (0, true, Block::SIZE, Some(sum)) = (was, bytes.is_empty(), is, zeros) {
                sum
            } else {
                if was > 0 {
                    let read = self.below.read(ino, page * PAGE, &mut block).await?;
                    let old = block.as_slice().get(..was).ok_or(EIO)?;
                    if read != was || sums.get(page) != Some(sum_of(old)) {
                        return Err(EBADMSG);
                    }
                } else {
                    block.fill_vacant()?;
                }
                let all = block.as_mut_slice();
                if let Some(behind) = all.get_mut(was..) {
                    behind.fill(0);
                }
                page::copy(all, place.start, bytes, 0, bytes.len());
                let sum = sum_of(all.get(..is).ok_or(EIO)?);
                if (was, bytes.len(), is) == (0, 0, Block::SIZE) {
                    zeros = Some(sum);
                }
                sum
            };
            plan.sums.push(sum, gfp())?;
        }
        Ok(Some(plan))
    }

    /// After a change that failed, or did a part: finds the checksums of what there is. Each page
    /// is as it was, or as it was to be; returns whether that is so.
    async fn settle(
        &self,
        ino: Ino,
        sums: &mut Sums,
        effect: &Effect<'_>,
        plan: Option<&Plan>,
    ) -> Result<bool> {
        let size = self.below.stat(ino).await?.size;
        if size == effect.before && effect.start >= effect.before {
            // Nothing of what there was is different.
            return Ok(true);
        }
        let Some(plan) = plan else {
            return Ok(false);
        };
        let grown = effect.before < size && size < effect.size;
        if size != effect.before && size != effect.size && !grown {
            return Ok(false);
        }
        let mut found = KVVec::new();
        let mut block = Block::vacant();
        for (page, new) in (plan.first..size.div_ceil(PAGE)).zip(plan.sums.iter()) {
            let len = self.below.read(ino, page * PAGE, &mut block).await?;
            let sum = sum_of(block.as_slice().get(..len).ok_or(EIO)?);
            let old = len == len_of(page, effect.before) && sums.get(page) == Some(sum);
            let new = len == len_of(page, effect.size) && *new == sum;
            if len != len_of(page, size) || !old && !new {
                return Ok(false);
            }
            found.push(sum, gfp())?;
        }
        sums.replace(plan.first, &found, size.div_ceil(PAGE));
        Ok(sums.fits(size))
    }
}
