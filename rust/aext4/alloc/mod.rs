// SPDX-License-Identifier: GPL-2.0

//! Allocation: which blocks and inodes are given to whom.
//!
//! | module | what it has |
//! |---|---|
//! | [`groups`] | [`Groups`]: what each group has, in memory, and what all of them have |
//! | `index` | which group has so much, without a look at all of them |
//! | `taken` | what is loaned, or held |
//! | [`space`] | what is promised before it is chosen, and what is kept back |
//! | [`goal`] | where a file's next block should be |
//! | [`blocks`], [`free`] | taking and freeing blocks |
//! | [`window`] | where a file that grows goes on |
//! | [`trim`] | telling the device which blocks are free |
//! | [`inodes`], `orlov` | taking and freeing inodes, and in which group |
//!
//! # How something is taken
//!
//! 1. It is *loaned*: a group is chosen by the numbers in memory, its bitmap is read, and bits are chosen
//!    that are clear, and that nobody else has. A run of memory says that they are taken. Dropping the loan
//!    gives them back, and leaves no trace: not on the disk, and not in memory.
//! 2. A transaction applies it: the bits are set, and the descriptor counts them. This does not fail.
//!
//! # How something is freed
//!
//! 1. It is planned: the bits are checked, so that a damaged volume fails here.
//! 2. A transaction applies it: the bits are clear from then on, but blocks are *held* until the
//!    transaction is durable. [`Groups::release`] is told when it is. The disk has a volume until then that
//!    uses them.
//!
//! # Concurrency
//!
//! Anybody may do any of this at the same time, upcalls and threads. A bitmap and its descriptor
//! are changed together, under the lock of the group's shard, so that the checksum in the
//! descriptor is that of the bitmap. Who chooses looks at the bitmap under the same lock. What a
//! loan has done is undone, or made real, in process context only.

pub mod blocks;
pub mod free;
pub mod goal;
pub mod groups;
mod index;
pub mod inodes;
mod orlov;
pub mod space;
mod taken;
pub mod trim;
pub mod window;

pub use blocks::Loan;
pub use free::FreePlan;
pub use goal::Goal;
pub use groups::{Counters, Groups, Kept};
pub use inodes::{InodeFree, InodeLoan};
pub use space::{Reservation, Space};
pub use window::Window;

use crate::error::{corrupted, errno};
use crate::journal::Journal;
use core::fmt;
use disk::{Buf, Cache, Planned};
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::bitmap;
use layout::{Geometry, Group, GroupDesc, Pblk};

/// How often a commit is waited for, for the blocks that it releases.
const COMMITS_MAX: u32 = 3;

/// What the volume has to say about an allocation.
pub trait Watch: Send + Sync {
    /// Whether one of `len` blocks from `start` on holds metadata of fixed place. Called with a
    /// spinlock held.
    fn is_system_block(&self, start: Pblk, len: u32) -> bool;

    /// Whether the calling thread may have the blocks that are kept for those with privilege.
    fn may_use_reserve(&self) -> bool;

    /// Says that the volume is damaged.
    fn report(&self, what: &dyn fmt::Display);

    /// Says that a block of metadata cannot be read; other errors are no news.
    fn report_unread(&self, block: u64, error: Error);
}

/// Who allocates: what it needs of the volume.
#[derive(Clone, Copy)]
pub struct Allocator<'a> {
    /// The metadata that is in memory.
    pub cache: &'a Cache,
    /// The groups.
    pub groups: &'a Arc<Groups>,
    /// The journal, whose commit releases blocks if there are no others. `None` in a test.
    pub journal: Option<&'a Journal>,
    /// The volume.
    pub watch: &'a dyn Watch,
}

/// Which of a group's bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Blocks,
    Inodes,
}

/// A bitmap and its descriptor, to be changed.
struct Plans {
    bitmap: Planned,
    desc: Planned,
}

impl<'a> Allocator<'a> {
    fn geo(&self) -> &'a Geometry {
        &self.groups.geo
    }

    /// Plans to change a group's bitmap and descriptor, and verifies the bitmap.
    ///
    /// Fails with `EUCLEAN` or `EBADMSG` if it is damaged, which was reported. Nothing is taken
    /// from the group from then on.
    async fn plan(&self, group: Group, which: Which) -> Result<Plans> {
        let place = self.groups.desc(group).ok_or(EINVAL)?;
        let (block, uninit) = match which {
            Which::Blocks => (place.block_bitmap, GroupDesc::BLOCK_UNINIT),
            Which::Inodes => (place.inode_bitmap, GroupDesc::INODE_UNINIT),
        };
        let (desc, offset) = self.geo().desc_location(group).map_err(|_| EINVAL)?;
        let state = self.groups.state(group).ok_or(EINVAL)?;
        let bitmap = match state.has(uninit) {
            true => self.plan_unread(block).await?,
            false => self.plan_read(block).await?,
        };
        let desc = self.plan_read(desc).await?;
        let plans = Plans { bitmap, desc };
        let unread = plans.bitmap.buf().filter(|buf| !buf.is_verified());
        if let Some(buf) = unread.filter(|_| !state.has(uninit)) {
            match self.verify(&plans, &buf, group, which, offset) {
                Ok(()) => buf.set_verified(),
                // Somebody has changed both since, and that counts as verified.
                Err(_) if plans.bitmap.buf().is_some_and(|buf| buf.is_verified()) => {}
                Err(error) => {
                    self.set_bad(group, which);
                    self.watch
                        .report(&format_args!("group {group}, block {block}: {error}"));
                    return Err(errno(error.kind));
                }
            }
        }
        Ok(plans)
    }

    async fn plan_read(&self, block: Pblk) -> Result<Planned> {
        let planned = self.cache.plan(block.0).await;
        planned.inspect_err(|error| self.watch.report_unread(block.0, *error))
    }

    /// Plans to change a block whose bytes on the disk do not count. It may be that somebody has
    /// changed it already, so that it is not to be zeroed by whoever comes next.
    async fn plan_unread(&self, block: Pblk) -> Result<Planned> {
        let fresh = self.cache.plan_new(block.0).await?;
        // It is in memory, so nothing is read.
        let planned = self.cache.plan(block.0).await;
        drop(fresh);
        planned
    }

    fn verify(
        &self,
        plans: &Plans,
        bitmap: &Buf,
        group: Group,
        which: Which,
        offset: u32,
    ) -> layout::Result<()> {
        let geo = self.geo();
        let short = || layout::Error::corrupt("group descriptor: it is not in memory");
        let desc = plans.desc.buf().ok_or_else(short)?;
        let raw = desc.data().get(offset as usize..).ok_or_else(short)?;
        GroupDesc::verify(raw, group, geo)?;
        let desc = GroupDesc::parse(raw, group, geo)?;
        let (said, bits) = match which {
            Which::Blocks => {
                desc.verify_block_bitmap(bitmap.data(), geo)?;
                (desc.free_clusters, geo.group_clusters(group))
            }
            Which::Inodes => {
                desc.verify_inode_bitmap(bitmap.data(), geo)?;
                (desc.free_inodes, geo.inodes_per_group().get())
            }
        };
        let found = bitmap::count_free(bitmap.data(), bits);
        if found != said {
            let what = "bitmap: {} bits are clear, but the descriptor says {}";
            return Err(layout::Error::corrupt2(what, found, said));
        }
        Ok(())
    }

    /// Nothing is taken from the group any more.
    fn set_bad(&self, group: Group, which: Which) {
        self.groups.with(group, |view| match which {
            Which::Blocks => view.state.bad_blocks = true,
            Which::Inodes => view.state.bad_inodes = true,
        });
    }

    /// Reports that a file's map, or a bitmap, names blocks that no file has.
    fn damaged(&self, what: &dyn fmt::Display) -> Error {
        self.watch.report(what);
        corrupted()
    }

    /// Waits for the commit that releases blocks, if there are such, and for those that the device
    /// is forgetting. Returns whether it is worth another try.
    async fn released(&self, round: u32) -> Result<bool> {
        if self.groups.trimming.try_lock().is_err() {
            drop(self.groups.trimming.lock().await);
            return Ok(true);
        }
        let held = self.groups.counters().held;
        let Some(journal) = self.journal.filter(|_| held > 0 && round < COMMITS_MAX) else {
            return Ok(false);
        };
        journal.sync(journal.running_tid()).await?;
        journal.released().await?;
        Ok(true)
    }
}

/// Says that what a plan has made sure of is not so. The change goes on: it would be worse to leave
/// it half done.
#[cold]
fn surprised() {
    kernel::warn_on!(true);
}
