// SPDX-License-Identifier: GPL-2.0

//! The attributes of an inode, as the VFS has them.

use upcall_bindings as ub;

/// A point in time.
#[derive(Clone, Copy, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub secs: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

impl Time {
    /// The time of day, by the clock that files are stamped with.
    pub fn now() -> Self {
        let mut now = ub::timespec64::default();
        // SAFETY: The structure is there to be filled.
        unsafe { ub::ktime_get_coarse_real_ts64(&mut now) };
        Self {
            secs: now.tv_sec,
            nanos: now.tv_nsec as u32,
        }
    }
}

/// What a directory entry or an inode is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum FileType {
    /// Not known without the inode.
    #[default]
    Unknown = 0,
    /// A named pipe.
    Fifo = 1,
    /// A character device.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileType {
    /// From the numbers of `d_type`.
    pub fn from_dt(dt: u8) -> Self {
        match dt {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => Self::Unknown,
        }
    }
}

/// What `statx` tells of an inode, and its VFS inode has not got.
pub struct StatAttr {
    /// Creation, if it is known.
    pub btime: Option<Time>,
    /// `FS_*_FL`, as `FS_IOC_GETFLAGS` reports them.
    pub flags: u32,
    /// Whether it is a regular file.
    pub is_regular: bool,
    /// The size of a regular file whose contents lie in the inode, and take no sectors.
    pub inline_size: Option<u64>,
}

/// The attributes of an inode.
#[derive(Clone, Default)]
pub struct Attr {
    /// The inode's number.
    pub ino: u32,
    /// The type.
    pub file_type: FileType,
    /// Type and permissions, as `st_mode` has them.
    pub mode: u16,
    /// Links.
    pub nlink: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The project.
    pub project: u32,
    /// The size in bytes.
    pub size: u64,
    /// Space taken, in 512-byte sectors.
    pub sectors: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation, if it is known.
    pub btime: Option<Time>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// The generation, for file handles.
    pub generation: u32,
    /// `FS_*_FL`, as `FS_IOC_GETFLAGS` reports them.
    pub flags: u32,
    /// Whether it is known that there are no extended attributes.
    pub no_xattr: bool,
    /// Whether the contents lie in the inode, and take no sectors.
    pub inline: bool,
}
