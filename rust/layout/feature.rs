// SPDX-License-Identifier: GPL-2.0

//! The three feature words of the superblock.
//!
//! A reader may ignore `compat` and `ro_compat` bits that it does not know, and must refuse a
//! volume with an unknown `incompat` bit. A writer must know every `ro_compat` bit as well.

use core::fmt;

use super::error::{Error, Kind, Result};

macro_rules! feature_word {
    (
        $(#[$doc:meta])* $word:ident;
        $($(#[$bit_doc:meta])* $bit:ident = $value:literal, $name:literal;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $word(pub u32);

        impl $word {
            $($(#[$bit_doc])* pub const $bit: Self = Self($value);)*

            const NAMES: &'static [(u32, &'static str)] = &[$(($value, $name)),*];

            /// Returns whether all bits of `bits` are set.
            #[inline]
            pub const fn has(self, bits: Self) -> bool {
                self.0 & bits.0 == bits.0
            }

            /// Returns the bits set in either.
            pub const fn or(self, bits: Self) -> Self {
                Self(self.0 | bits.0)
            }

            /// Returns the bits that are set here and not in `bits`.
            pub const fn without(self, bits: Self) -> Self {
                Self(self.0 & !bits.0)
            }

            /// Returns the names of the bits that are set, from the lowest bit up.
            pub const fn names(self) -> Names {
                Names { left: self.0, table: Self::NAMES }
            }
        }
    };
}

feature_word! {
    /// Features that neither a reader nor a writer needs to know.
    Compat;
    /// Blocks are preallocated to directories.
    DIR_PREALLOC = 0x1, "dir_prealloc";
    /// AFS server inodes exist.
    IMAGIC_INODES = 0x2, "imagic_inodes";
    /// The volume has a journal.
    HAS_JOURNAL = 0x4, "has_journal";
    /// Extended attributes are in use.
    EXT_ATTR = 0x8, "ext_attr";
    /// Blocks are reserved for more group descriptors.
    RESIZE_INODE = 0x10, "resize_inode";
    /// Directories may carry a hash tree.
    DIR_INDEX = 0x20, "dir_index";
    /// The superblock has at most two backups, in groups that it names.
    SPARSE_SUPER2 = 0x200, "sparse_super2";
    /// The journal may hold fast commits.
    FAST_COMMIT = 0x400, "fast_commit";
    /// Inode numbers and the UUID never change.
    STABLE_INODES = 0x800, "stable_inodes";
    /// Orphan inodes are listed in a file.
    ORPHAN_FILE = 0x1000, "orphan_file";
}

feature_word! {
    /// Features without which a reader cannot make sense of the volume.
    Incompat;
    /// File contents may be compressed; no kernel supports it.
    COMPRESSION = 0x1, "compression";
    /// Directory entries record the file type.
    FILETYPE = 0x2, "filetype";
    /// The journal holds changes that must be replayed.
    RECOVER = 0x4, "needs_recovery";
    /// The device is an external journal and no file system.
    JOURNAL_DEV = 0x8, "journal_dev";
    /// Group descriptors lie in the groups that they describe.
    META_BG = 0x10, "meta_bg";
    /// Files may be mapped by extents.
    EXTENTS = 0x40, "extent";
    /// Block numbers have more than 32 bits.
    B64 = 0x80, "64bit";
    /// A block tells who has the volume mounted.
    MMP = 0x100, "mmp";
    /// Bitmaps and inode tables may lie outside their group.
    FLEX_BG = 0x200, "flex_bg";
    /// Large attribute values have inodes of their own.
    EA_INODE = 0x400, "ea_inode";
    /// Directory entries carry data; no kernel supports it.
    DIRDATA = 0x1000, "dirdata";
    /// The superblock keeps the seed of all checksums.
    CSUM_SEED = 0x2000, "metadata_csum_seed";
    /// Directories may exceed 2 GiB or have three index levels.
    LARGEDIR = 0x4000, "large_dir";
    /// Small files may lie in their inode.
    INLINE_DATA = 0x8000, "inline_data";
    /// Encrypted files exist.
    ENCRYPT = 0x10000, "encrypt";
    /// Directories may ignore case.
    CASEFOLD = 0x20000, "casefold";
}

feature_word! {
    /// Features that a reader may ignore and a writer must know.
    RoCompat;
    /// Only some groups hold a copy of the superblock.
    SPARSE_SUPER = 0x1, "sparse_super";
    /// Files larger than 2 GiB exist.
    LARGE_FILE = 0x2, "large_file";
    /// Never in use.
    BTREE_DIR = 0x4, "btree_dir";
    /// Block counts of files have 48 bits, and may count file-system blocks.
    HUGE_FILE = 0x8, "huge_file";
    /// Group descriptors carry a CRC-16, and their bitmaps may be uninitialised.
    GDT_CSUM = 0x10, "uninit_bg";
    /// Directories may have more than 65,000 sub-directories.
    DIR_NLINK = 0x20, "dir_nlink";
    /// Inodes are larger than 128 bytes and keep more fields there.
    EXTRA_ISIZE = 0x40, "extra_isize";
    /// Snapshots exist; no mainline kernel supports it.
    HAS_SNAPSHOT = 0x80, "has_snapshot";
    /// Quota files are hidden inodes.
    QUOTA = 0x100, "quota";
    /// Space is allocated in clusters of blocks.
    BIGALLOC = 0x200, "bigalloc";
    /// All metadata carries a CRC-32C.
    METADATA_CSUM = 0x400, "metadata_csum";
    /// Replicas are supported; no kernel does.
    REPLICA = 0x800, "replica";
    /// The volume must not be written.
    READONLY = 0x1000, "read-only";
    /// Inodes carry a project number, and project quotas are kept.
    PROJECT = 0x2000, "project";
    /// Files share blocks; no kernel writes it.
    SHARED_BLOCKS = 0x4000, "shared_blocks";
    /// Files with a Merkle tree exist.
    VERITY = 0x8000, "verity";
    /// The orphan file may be in use.
    ORPHAN_PRESENT = 0x10000, "orphan_present";
}

impl Incompat {
    /// What this parser reads.
    pub const SUPPORTED: Self = Self::FILETYPE
        .or(Self::RECOVER)
        .or(Self::META_BG)
        .or(Self::EXTENTS)
        .or(Self::B64)
        .or(Self::FLEX_BG)
        .or(Self::EA_INODE)
        .or(Self::CSUM_SEED)
        .or(Self::LARGEDIR)
        .or(Self::INLINE_DATA)
        .or(Self::ENCRYPT);

    /// Returns the names of the set bits that this parser does not read.
    pub const fn unsupported(self) -> Names {
        self.without(Self::SUPPORTED).names()
    }

    /// Refuses a word with an unsupported bit, by the name of the first one.
    ///
    /// [`RECOVER`](Self::RECOVER) passes: the caller replays the journal, refuses, or lets `noload`
    /// decide.
    ///
    /// # Errors
    ///
    /// [`Kind::Feature`].
    pub fn check(self) -> Result<()> {
        match self.unsupported().next() {
            None => Ok(()),
            Some(Name::Known(name)) => Err(Error::new(Kind::Feature, name)),
            Some(Name::Unknown(bits)) => {
                Err(Error::new(Kind::Feature, "unknown incompatible features {x}").with(bits, 0u64))
            }
        }
    }
}

impl RoCompat {
    /// Returns the names of the set bits that forbid writing to one who supports only `supported`.
    ///
    /// [`READONLY`](Self::READONLY) forbids it to all.
    pub const fn forbids_writing(self, supported: Self) -> Names {
        self.without(supported.without(Self::READONLY)).names()
    }
}

/// The three feature words of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Features that may be ignored.
    pub compat: Compat,
    /// Features that a reader must know.
    pub incompat: Incompat,
    /// Features that a writer must know.
    pub ro_compat: RoCompat,
}

/// A feature's name, as `dumpe2fs` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A bit with a name.
    Known(&'static str),
    /// All bits without one, together.
    Unknown(u32),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(name) => f.write_str(name),
            Self::Unknown(bits) => write!(f, "{bits:#x}"),
        }
    }
}

/// An iterator over the names of feature bits; bits without a name come last, as one item.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    left: u32,
    table: &'static [(u32, &'static str)],
}

impl Iterator for Names {
    type Item = Name;

    fn next(&mut self) -> Option<Name> {
        while let Some(((bit, name), rest)) = self.table.split_first() {
            self.table = rest;
            if self.left & bit != 0 {
                self.left &= !bit;
                return Some(Name::Known(name));
            }
        }
        match core::mem::take(&mut self.left) {
            0 => None,
            bits => Some(Name::Unknown(bits)),
        }
    }
}
