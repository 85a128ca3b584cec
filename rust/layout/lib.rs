// SPDX-License-Identifier: GPL-2.0

//! The on-disk format of ext2, ext3 and ext4.
//!
//! The parsers here take bytes of one block and say what is in it, or what to read next; the
//! editors change the bytes of one block. They do no IO, allocate nothing, know no kernel type, and
//! are built for a module and for the host from the same source.
//!
//! * **A raw structure becomes a checked one once.** `parse` takes bytes and a [`Geometry`], and
//!   returns a checked structure or an [`Error`]. Every block number that leaves a parser lies on
//!   the volume, with all the blocks that belong to it. Holes are no block numbers.
//! * **`verify` is separate** where a block may stay in a cache: it compares the checksum and looks
//!   at every entry, and is to be called once when the block was read. What a look-up returns was
//!   checked by itself, so that a forgotten `verify` costs trust in the disk, not safety.
//! * **A change is planned, then applied.** A plan looks at every block that will change, and is
//!   refused if their bytes are wrong. What is applied then takes one block at a time and cannot
//!   fail: `None` from it says that the bytes are not those of the plan, and that none was changed.
//! * **Nothing panics**, whatever the bytes are: reads are bounds-checked, divisors are `NonZero`,
//!   loops are bounded by the size of a block, trees by a depth that falls and directory indexes by
//!   the directory's size.
//!
//! | module | structures |
//! |---|---|
//! | [`superblock`], [`super_edit`] | the superblock, from which everything else gets its [`Geometry`] |
//! | [`geometry`] | sizes and counts; where things lie; which block numbers are valid |
//! | [`feature`] | the three feature words, by name |
//! | [`csum`] | checksums, over primitives that the caller lends |
//! | [`group`], [`group_edit`] | group descriptors |
//! | [`bitmap`] | bitmaps of blocks and inodes |
//! | [`inode`], [`inode_edit`] | inodes |
//! | [`map`] | from a file's block to the volume's, by [`extent`]s or `indirect` blocks |
//! | [`indirect_edit`] | changes of an indirect map |
//! | [`extent_plan`], [`extent_path`], `extent_change` | changes of an extent tree |
//! | [`extent_edit`] | changes of one node of an extent tree |
//! | [`dir`] | directory entries in blocks and inodes |
//! | [`htree`], [`hash`] | the index of a directory |
//! | [`dir_edit`], [`inline_dir_edit`] | putting names in and taking them out |
//! | [`dir_split`], [`htree_edit`] | splitting a full block; the growth of an index |
//! | [`inline`] | contents that lie in the inode |
//! | [`nokey`], [`sha256`] | what stands for encrypted names |
//! | [`orphan_file`] | inodes of which something is still to be freed |
//! | [`xattr`], [`acl`] | extended attributes, and the access control lists in them |
//! | [`xattr_edit`] | changes of sets of attributes |
//! | [`journal`] | the journal, in jbd2's format |
//! | [`sort`] | sorting in little stack |
//! | [`bytes`], [`units`], [`error`] | bounds-checked reads and writes, numbers with a unit, refusals |
//!
//! Not here: the contents of quota files, and Merkle trees. Their inodes are
//! told (see [`SuperBlock`] and [`InodeFlags`]).
//!
//! The format is described in the kernel's `Documentation/filesystems/ext4/`. What an
//! implementation has to accept, or must refuse, is what `fs/ext4` and e2fsprogs do.

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]

pub mod acl;
pub mod bitmap;
pub mod bytes;
pub mod csum;
pub mod dir;
pub mod dir_edit;
pub mod dir_split;
pub mod error;
pub mod extent;
mod extent_change;
pub mod extent_edit;
pub mod extent_path;
pub mod extent_plan;
pub mod feature;
pub mod geometry;
pub mod group;
pub mod group_edit;
pub mod hash;
pub mod htree;
pub mod htree_edit;
mod indirect;
pub mod indirect_edit;
pub mod inline;
pub mod inline_dir_edit;
pub mod inode;
pub mod inode_edit;
pub mod journal;
pub mod map;
pub mod nokey;
pub mod orphan_file;
pub mod sha256;
pub mod sort;
pub mod super_edit;
pub mod superblock;
pub mod units;
pub mod xattr;
pub mod xattr_edit;

pub use acl::{Acl, AclEntry, AclTag};
pub use csum::{Crc16, Crc32c, CrcFns, Csum, Owner};
pub use dir::{DirEntry, Dirents, InlineDir};
pub use error::{Error, Kind, Result};
pub use extent_change::RootChange;
pub use extent_path::ExtentPath;
pub use extent_plan::ExtentPlan;
pub use feature::{Compat, Features, Incompat, RoCompat};
pub use geometry::Geometry;
pub use group::GroupDesc;
pub use group_edit::GroupEdit;
pub use hash::{HashVersion, NameHash};
pub use htree::{DxCursor, DxLeaf, DxNode, DxPath, DxPathNode, DxRoot, DxStep, Reach};
pub use indirect::DIRECT;
pub use indirect_edit::{IndirectPath, IndirectPlan};
pub use inline::InlineData;
pub use inode::{DataMap, Device, Inode, InodeFlags, Time};
pub use inode_edit::InodeEdit;
pub use map::{Extent, ExtentState, Step, TreeBlock};
pub use nokey::NokeyName;
pub use super_edit::SuperEdit;
pub use superblock::SuperBlock;
pub use units::{FileType, Group, Ino, Lblk, Pblk};
pub use xattr::{EaHasher, EaValue, Xattr, XattrSet, XattrValue};
pub use xattr_edit::{NewValue, SetEdit, Sets, XattrChange};
