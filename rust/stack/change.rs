// SPDX-License-Identifier: GPL-2.0

//! [`Change`]: what can be changed of names and inodes, and what keeps an inode that has no name.
//!
//! All changes but that of contents are one operation of a layer,
//! [`AsyncStackable::change`](crate::AsyncStackable::change): so a layer that only passes them on,
//! counts them, or asks whether they are permitted, has one function for that. Callers use the
//! operations that are named after what they do ([`create`](crate::AsyncStackable::create) and so
//! on).

use crate::asynchronous::Ino;
use core::ops::Range;
use disk::gfp;
use kernel::prelude::*;
use vfs::{AclEntry, NewInode, SetAttr, XattrFlags};

/// A change of names, attributes or space.
#[derive(Clone)]
pub enum Change<'a> {
    /// A new file, directory, device, pipe or socket, by its mode.
    Create {
        /// The directory.
        dir: Ino,
        /// The name.
        name: &'a [u8],
        /// What is made.
        new: &'a NewInode,
    },
    /// A new symbolic link.
    Symlink {
        /// The directory.
        dir: Ino,
        /// The name.
        name: &'a [u8],
        /// Where it leads.
        target: &'a [u8],
        /// What is made: the type in its mode does not count.
        new: &'a NewInode,
    },
    /// One more name for what is no directory.
    Link {
        /// The directory.
        dir: Ino,
        /// The name.
        name: &'a [u8],
        /// What gets it.
        ino: Ino,
    },
    /// A name that is none of a directory goes.
    Unlink {
        /// The directory.
        dir: Ino,
        /// The name.
        name: &'a [u8],
    },
    /// A directory without names in it goes.
    Rmdir {
        /// The directory that it is in.
        dir: Ino,
        /// The name.
        name: &'a [u8],
    },
    /// Another name instead of one.
    Rename {
        /// The directory of the old name.
        from: Ino,
        /// The old name.
        name: &'a [u8],
        /// The directory of the new name.
        to: Ino,
        /// The new name.
        new_name: &'a [u8],
        /// What becomes of what has the new name.
        flags: RenameFlags,
    },
    /// Other attributes, all or none of them.
    SetAttr {
        /// Whose.
        ino: Ino,
        /// Which.
        set: &'a SetAttr,
    },
    /// Another value of an extended attribute, or none.
    SetXattr {
        /// Whose.
        ino: Ino,
        /// Its whole name.
        name: &'a [u8],
        /// The value.
        value: Option<&'a [u8]>,
        /// Whether it has to be there.
        flags: XattrFlags,
    },
    /// Another access control list, or none.
    SetAcl {
        /// Whose.
        ino: Ino,
        /// The list for new files of a directory.
        default: bool,
        /// The list.
        entries: Option<&'a [AclEntry]>,
    },
    /// Another size.
    Truncate {
        /// Whose.
        ino: Ino,
        /// In bytes.
        size: u64,
    },
    /// Space for what is a hole.
    Allocate {
        /// Whose.
        ino: Ino,
        /// In bytes.
        range: Range<u64>,
        /// Whether the size stays if the range goes beyond it.
        keep_size: bool,
    },
}

impl Change<'_> {
    /// The directories whose names change.
    pub fn dirs(&self) -> [Option<Ino>; 2] {
        match self {
            Self::Create { dir, .. }
            | Self::Symlink { dir, .. }
            | Self::Link { dir, .. }
            | Self::Unlink { dir, .. }
            | Self::Rmdir { dir, .. } => [Some(*dir), None],
            Self::Rename { from, to, .. } => [Some(*from), Some(*to)],
            _ => [None, None],
        }
    }

    /// The same change, of inodes whose numbers `f` gives.
    pub fn with_inos(self, f: impl Fn(Ino) -> Ino) -> Self {
        let mut change = self;
        match &mut change {
            Self::Create { dir, .. }
            | Self::Symlink { dir, .. }
            | Self::Unlink { dir, .. }
            | Self::Rmdir { dir, .. } => *dir = f(*dir),
            Self::Link { dir, ino, .. } => (*dir, *ino) = (f(*dir), f(*ino)),
            Self::Rename { from, to, .. } => (*from, *to) = (f(*from), f(*to)),
            Self::SetAttr { ino, .. }
            | Self::SetXattr { ino, .. }
            | Self::SetAcl { ino, .. }
            | Self::Truncate { ino, .. }
            | Self::Allocate { ino, .. } => *ino = f(*ino),
        }
        change
    }

    /// Whether contents change.
    pub fn is_of_contents(&self) -> bool {
        matches!(self, Self::Truncate { .. } | Self::Allocate { .. })
    }
}

/// What a rename does with the names, as `renameat2` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameFlags {
    /// The new name must not be there (`EEXIST`).
    pub no_replace: bool,
    /// What has the new name gets the old one.
    pub exchange: bool,
    /// The old name then leads to a whiteout, as overlayfs has them.
    pub whiteout: bool,
}

/// What is to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// All that was changed.
    All,
    /// An inode, and its contents.
    Inode(Ino),
    /// Contents, and what leads to them.
    Data(Ino),
}

/// An inode that stays as long as this lives, also if its last name goes.
///
/// It may be dropped in any context.
pub struct OpenInode {
    ino: Ino,
    _kept: KBox<dyn Kept>,
}

/// What keeps an inode: any type, whose destructor lets go of it.
pub trait Kept: Send + core::marker::Sync {}

impl<T: Send + core::marker::Sync> Kept for T {}

impl OpenInode {
    /// An inode that is kept by `kept`. Fails with `ENOMEM`.
    pub fn new(ino: Ino, kept: impl Kept + 'static) -> Result<Self> {
        Ok(Self {
            ino,
            _kept: KBox::new(kept, gfp())?,
        })
    }

    /// Its number, which operations take.
    pub fn ino(&self) -> Ino {
        self.ino
    }
}
