// SPDX-License-Identifier: GPL-2.0

//! [`FileSystem`]: what a file system provides, and the types it speaks in.

use crate::data::FileData;
use crate::mount::{MountOption, Type};
use crate::pages::Iomap;
use core::future::Future;
use disk::Attached;
use disk::Disk;
use kernel::prelude::*;
use upcall_bindings as ub;

/// A mounted volume of a file system: a cheap handle on it.
///
/// Every operation that may wait is a future, which borrows no VFS object and can be dropped at any
/// point. Numbers of bytes and offsets are in bytes.
pub trait FileSystem:
    FileData<<Self as FileSystem>::Inode> + Clone + Send + Sync + 'static
{
    /// The name for `mount -t`.
    const NAME: &'static CStr;
    /// Mount options, as far as the VFS does not know them.
    type Options: Default + Send + Sync + 'static;
    /// What the file system knows of an inode: a cheap handle, which may be dropped in any context.
    type Inode: Clone + Send + Sync + 'static;
    /// Where a part of a file is.
    type Map: Send;

    /// The type, as it is registered.
    fn registration() -> &'static Type<Self>;

    /// Takes one mount option. Returns `false` if there is no such option.
    fn set_option(options: &mut Self::Options, option: MountOption<'_>) -> Result<bool>;

    /// Notes that the mount was asked for without `ro`. It is read-only nevertheless.
    fn asked_to_write(options: &mut Self::Options);

    /// Copies the options of a mounted volume, as the start of a remount.
    fn options(&self) -> Self::Options;

    /// Changes the options of a mounted volume; fails without a change if one cannot be changed.
    fn remount(&self, options: Self::Options) -> Result;

    /// Writes the options that differ from the default, each with a comma before it.
    fn show_options(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;

    /// Reads and checks the volume on `disk`.
    ///
    /// If the volume is refused, the reason was logged. `silent` asks for no log line if the
    /// device holds something else.
    fn mount(
        disk: Disk,
        options: Self::Options,
        silent: bool,
    ) -> impl Future<Output = Result<Self>> + Send;

    /// The device below.
    fn disk(&self) -> &Disk;

    /// What does not change while the volume is mounted.
    fn info(&self) -> VolumeInfo;

    /// Space and inodes, used and free.
    fn statfs(&self) -> StatFs;

    /// The volume's label, at most 255 bytes without zeros.
    fn label(&self) -> &[u8];

    /// Inode `ino`, from memory or from the disk.
    ///
    /// Fails with `ESTALE` if the inode is not in use, or not for users: a file handle may name any.
    fn iget(&self, ino: u32) -> impl Future<Output = Result<Self::Inode>> + Send;

    /// How many objects (inodes, blocks) are kept in memory. Does not sleep.
    fn nr_cached_objects(&self) -> usize;

    /// Looks at `count` of these objects and frees those that nobody uses. Returns how many
    /// it freed. Called when memory is short; does not wait for the disk.
    fn free_cached_objects(&self, count: usize) -> usize;

    /// The attributes of an inode.
    fn attr(&self, inode: &Self::Inode) -> Attr;

    /// Where the inode keeps its VFS inode.
    fn attached(inode: &Self::Inode) -> &Attached;

    /// Finds `name` in a directory; the inode is in use. Fails with `ENAMETOOLONG` if no name is so long.
    fn lookup(
        &self,
        dir: &Self::Inode,
        name: &[u8],
    ) -> impl Future<Output = Result<Option<u32>>> + Send;

    /// Lists a directory from position `pos` on, as far as it goes with little work; 0 is the start.
    ///
    /// Adds nothing if there is nothing more.
    fn read_dir(
        &self,
        dir: &Self::Inode,
        pos: u64,
        batch: &mut DirBatch,
    ) -> impl Future<Output = Result> + Send;

    /// Where the bytes of a file from `pos` on are: the map covers `pos` and at least one byte.
    fn map(
        &self,
        inode: &Self::Inode,
        pos: u64,
        len: u64,
    ) -> impl Future<Output = Result<Self::Map>> + Send;

    /// Whether the file may be opened: fails with `EOPNOTSUPP` if its bytes need what is not supported.
    fn may_open(&self, inode: &Self::Inode) -> Result;

    /// Where the extended attributes of an inode are, for `FIEMAP`; `None` if there are none.
    fn map_xattr(&self, inode: &Self::Inode) -> Option<Self::Map>;

    /// As [`map`](Self::map), from memory alone. Does not wait.
    fn map_cached(&self, inode: &Self::Inode, pos: u64, len: u64) -> Option<Self::Map>;

    /// The first byte behind what `map` is about.
    fn map_end(map: &Self::Map) -> u64;

    /// Tells iomap what `map` says. What lies in memory stays as long as the inode has users.
    fn fill_iomap(inode: &Self::Inode, map: &Self::Map, iomap: &mut Iomap<'_>);

    /// The target of a symbolic link that is kept with the inode, with the zero at its end.
    fn fast_link<'a>(&self, inode: &'a Self::Inode) -> Option<&'a CStr>;

    /// The value of an attribute, whose name comes without the prefix; `ENODATA` if there is none, `EOPNOTSUPP` if
    /// the namespace is not to be had.
    fn xattr(
        &self,
        inode: &Self::Inode,
        namespace: XattrNamespace,
        name: &[u8],
    ) -> impl Future<Output = Result<KVec<u8>>> + Send;

    /// Calls `each` for the name of every attribute in a namespace that is to be had.
    fn list_xattr(
        &self,
        inode: &Self::Inode,
        each: &mut (dyn FnMut(XattrNamespace, &[u8]) -> Result + Send),
    ) -> impl Future<Output = Result> + Send;

    /// An access control list, or nothing; the list for new files of a directory if `default`.
    fn acl(
        &self,
        inode: &Self::Inode,
        default: bool,
    ) -> impl Future<Output = Result<Option<KVec<AclEntry>>>> + Send;
}

/// What does not change while a volume is mounted.
pub struct VolumeInfo {
    /// The magic number that `statfs` reports.
    pub magic: u64,
    /// The size of a block, a power of two from 1024 to the page size.
    pub block_size: u32,
    /// The size of the largest file.
    pub max_bytes: u64,
    /// The first and the last second that an inode's times can hold.
    pub time_range: (i64, i64),
    /// The resolution of an inode's times, in nanoseconds.
    pub time_granularity: u32,
    /// The volume's UUID.
    pub uuid: [u8; 16],
    /// Whether access control lists are enforced.
    pub acl: bool,
    /// The inode of the root directory.
    pub root: u32,
    /// The longest name in bytes.
    pub name_max: u32,
}

/// Space and inodes of a volume.
#[derive(Clone, Copy)]
pub struct StatFs {
    /// Blocks that can hold data.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for users without privilege.
    pub available: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub free_files: u64,
}

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
    /// Whether direct IO reaches the device; otherwise it goes through the page cache.
    pub direct_io: bool,
}

/// A prefix of attribute names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrNamespace {
    /// `user.`
    User,
    /// `trusted.`
    Trusted,
    /// `security.`
    Security,
    /// `gnu.`, of the Hurd.
    Gnu,
    /// The name `system.posix_acl_access`.
    AclAccess,
    /// The name `system.posix_acl_default`.
    AclDefault,
    /// `system.`, which is not shown.
    System,
}

impl XattrNamespace {
    /// What names begin with; the whole name, for access control lists. Empty for those that are not shown.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::User => "user.",
            Self::Trusted => "trusted.",
            Self::Security => "security.",
            Self::Gnu => "gnu.",
            Self::AclAccess => "system.posix_acl_access",
            Self::AclDefault => "system.posix_acl_default",
            Self::System => "",
        }
    }

    /// The namespace of a whole name, and the name in it.
    pub fn of_name(name: &[u8]) -> Option<(Self, &[u8])> {
        let acl = [Self::AclAccess, Self::AclDefault]
            .into_iter()
            .find(|space| name == space.prefix().as_bytes());
        if let Some(space) = acl {
            return Some((space, b""));
        }
        [Self::User, Self::Trusted, Self::Security, Self::Gnu]
            .into_iter()
            .find_map(|space| {
                let name = name.strip_prefix(space.prefix().as_bytes())?;
                (!name.is_empty()).then_some((space, name))
            })
    }
}

/// An entry of an access control list.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AclEntry {
    /// `ACL_USER_OBJ` and so on.
    pub tag: u16,
    /// Read 4, write 2, execute 1.
    pub perm: u16,
    /// The user or group, for the tags that have one.
    pub id: u32,
}

impl AclEntry {
    /// A list as `getxattr` gives it: `POSIX_ACL_XATTR_VERSION` and the entries, little-endian.
    ///
    /// C header: [`include/uapi/linux/posix_acl_xattr.h`](srctree/include/uapi/linux/posix_acl_xattr.h).
    pub fn to_xattr(acl: &[Self]) -> Result<KVec<u8>> {
        let mut bytes = KVec::new();
        bytes.extend_from_slice(&2u32.to_le_bytes(), disk::gfp())?;
        for entry in acl {
            let named = matches!(u32::from(entry.tag), ub::ACL_USER | ub::ACL_GROUP);
            let id = if named { entry.id } else { u32::MAX };
            bytes.extend_from_slice(&entry.tag.to_le_bytes(), disk::gfp())?;
            bytes.extend_from_slice(&entry.perm.to_le_bytes(), disk::gfp())?;
            bytes.extend_from_slice(&id.to_le_bytes(), disk::gfp())?;
        }
        Ok(bytes)
    }
}

/// An entry of a directory listing.
pub struct DirEntry<'a> {
    /// The inode.
    pub ino: u32,
    /// The type, if the directory has it.
    pub file_type: FileType,
    /// The position behind the entry, from which a listing can go on.
    pub next: u64,
    /// The name.
    pub name: &'a [u8],
}

/// Directory entries, packed into one buffer.
#[derive(Default)]
pub struct DirBatch {
    /// What is behind `used` is there to be overwritten.
    bytes: KVec<u8>,
    used: usize,
    /// Where a listing goes on if it found nothing to add and is not at the end.
    next: Option<u64>,
    /// The end, if it is known.
    end: Option<u64>,
}

/// The bytes of an entry before its name.
const ENTRY_HEADER_LEN: usize = 14;

/// How many bytes a batch has for its first entries.
const BATCH_SIZE_MIN: usize = 512;

impl DirBatch {
    /// Makes an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets the entries and keeps the memory.
    pub fn clear(&mut self) {
        self.used = 0;
        self.next = None;
        self.end = None;
    }

    /// Makes room for `size` bytes more.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, size: usize) -> Result {
        let len = (self.used + size).next_power_of_two().max(BATCH_SIZE_MIN);
        let mut bytes = KVec::zeroed(len, disk::gfp())?;
        if let (Some(to), Some(from)) = (bytes.get_mut(..self.used), self.bytes.get(..self.used)) {
            to.copy_from_slice(from);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// The next `size` bytes of the buffer, which are used from then on.
    #[inline]
    fn room(&mut self, size: usize) -> Result<&mut [u8]> {
        let end = self.used + size;
        if end > self.bytes.len() {
            self.grow(size)?;
        }
        let room = self.bytes.get_mut(self.used..end).ok_or(EINVAL)?;
        self.used = end;
        Ok(room)
    }

    /// Adds an entry. Fails with `ENOMEM`, and with `EINVAL` for a name of more than 255 bytes.
    #[inline]
    pub fn push(&mut self, entry: &DirEntry<'_>) -> Result {
        let name_len = u8::try_from(entry.name.len()).map_err(|_| EINVAL)?;
        let room = self.room(ENTRY_HEADER_LEN + entry.name.len())?;
        let (head, name) = room
            .split_first_chunk_mut::<ENTRY_HEADER_LEN>()
            .ok_or(EINVAL)?;
        head[..4].copy_from_slice(&entry.ino.to_le_bytes());
        head[4..12].copy_from_slice(&entry.next.to_le_bytes());
        head[12] = entry.file_type as u8;
        head[13] = name_len;
        name.copy_from_slice(entry.name);
        Ok(())
    }

    /// Adds the entries of `other`, and goes on where it does. Fails with `ENOMEM`.
    pub fn append(&mut self, other: &Self) -> Result {
        let entries = other.bytes.get(..other.used).ok_or(EINVAL)?;
        self.room(entries.len())?.copy_from_slice(entries);
        self.next = other.next;
        self.end = other.end;
        Ok(())
    }

    /// Says that the listing goes on at `pos`, although there may be no entries.
    pub fn go_on_at(&mut self, pos: u64) {
        self.next = Some(pos);
    }

    /// Says that there are no more entries; a listing that goes on at `pos` finds none with the least work.
    pub fn end_at(&mut self, pos: u64) {
        self.end = Some(pos);
    }

    /// What [`end_at`](Self::end_at) was told.
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    /// How many bytes the entries have: where the one behind the last would begin.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Where the listing goes on after the entries; `None` at the end of the directory.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// The entry that begins at byte `at` of the buffer, and where the next one begins; 0 is the first.
    #[inline]
    pub fn entry_at(&self, at: usize) -> Option<(DirEntry<'_>, usize)> {
        let entries = self.bytes.get(..self.used)?;
        let (head, rest) = entries.get(at..)?.split_first_chunk::<ENTRY_HEADER_LEN>()?;
        let name = rest.get(..usize::from(head[13]))?;
        let entry = DirEntry {
            ino: u32::from_le_bytes(*head.first_chunk()?),
            next: u64::from_le_bytes(*head.get(4..)?.first_chunk()?),
            file_type: FileType::from_dt(head[12]),
            name,
        };
        Some((entry, at + ENTRY_HEADER_LEN + name.len()))
    }

    /// The entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = DirEntry<'_>> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let (entry, next) = self.entry_at(at)?;
            at = next;
            Some(entry)
        })
    }
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

/// An error number that the `kernel` crate has no name for.
pub(crate) fn errno(number: u32) -> Error {
    Error::from_errno(-(number as i32))
}
