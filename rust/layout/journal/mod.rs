// SPDX-License-Identifier: GPL-2.0

//! The journal: jbd2's format, to be read and to be written.
//!
//! The log is a ring of blocks, from [`JournalSuper::first`] to [`JournalSuper::end`]. A
//! transaction in it is
//!
//! ```text
//! revoke blocks, { descriptor, the blocks that its tags name }*, commit block
//! ```
//!
//! and counts when its commit block is there. Numbers are big endian.
//!
//! | module | what it has |
//! |---|---|
//! | [`superblock`] | the first block: where the log begins, and its [`Rules`] |
//! | [`block`] | the header of a block of the log, commit blocks, checksums |
//! | [`tags`] | descriptors: which blocks follow, and where they belong |
//! | [`revoke`] | blocks that earlier transactions may not bring back |
//! | [`scan`] | which transactions count, and where the log ends |
//! | [`fast_commit`] | whether there are fast commits behind the log |
//!
//! C header: [`include/linux/jbd2.h`](srctree/include/linux/jbd2.h).

pub mod block;
pub mod fast_commit;
pub mod revoke;
pub mod scan;
pub mod superblock;
pub mod tags;

pub use block::BlockType;
pub use revoke::{RevokeWriter, Revokes};
pub use scan::{Found, Scan};
pub use superblock::{Checksums, JournalSuper, Rules};
pub use tags::{Tag, TagWriter, Tags};

/// Whether transaction number `a` is later than `b`: they wrap around.
pub fn is_later(a: u32, b: u32) -> bool {
    let distance = a.wrapping_sub(b);
    distance != 0 && distance < 1 << 31
}
