// SPDX-License-Identifier: GPL-2.0

//! Numbers with a unit: the newtypes that keep block, inode and group numbers apart.

use core::fmt;

/// A block number on the volume, in file-system blocks from the start of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pblk(pub u64);

/// A block number in a file, in file-system blocks from the start of the file.
///
/// `u32::MAX` is no block of any file; it serves as an exclusive end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lblk(pub u32);

impl Lblk {
    /// The exclusive end of every file: one past the largest block that a file can have.
    pub const END: Lblk = Lblk(u32::MAX);
}

/// An inode number; the first inode of a volume is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u32);

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(2);
    /// The user quota file of volumes made before the superblock named it.
    pub const USR_QUOTA: Ino = Ino(3);
    /// The group quota file of volumes made before the superblock named it.
    pub const GRP_QUOTA: Ino = Ino(4);
    /// The boot loader's inode, which no directory names.
    pub const BOOT_LOADER: Ino = Ino(5);
    /// The inode that reserves blocks for the growth of the group descriptors.
    pub const RESIZE: Ino = Ino(7);
    /// The journal, unless the superblock names another.
    pub const JOURNAL: Ino = Ino(8);
}

/// A block group number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u32);

macro_rules! display_number {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$t> for u64 {
            fn from(v: $t) -> u64 {
                u64::from(v.0)
            }
        }
    )*};
}

display_number!(Pblk, Lblk, Ino, Group);

/// What an inode is, as its mode or a directory entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A symbolic link.
    Symlink,
}

impl FileType {
    /// Decodes the type bits of an inode's mode; `None` for a value that no file type has.
    pub const fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o010_000 => Self::Fifo,
            0o020_000 => Self::CharDevice,
            0o040_000 => Self::Directory,
            0o060_000 => Self::BlockDevice,
            0o100_000 => Self::Regular,
            0o120_000 => Self::Symlink,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// Decodes the type byte of a directory entry; `None` for "unknown" and for unassigned values.
    pub const fn from_dirent(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => return None,
        })
    }

    /// Returns the type byte that a directory entry has.
    pub const fn to_dirent(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }
}
