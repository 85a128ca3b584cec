// SPDX-License-Identifier: GPL-2.0

//! Files for the VFS: `read`, `lseek` and `ioctl`.

use crate::fs::{FileSystem, FileSystemType};
use crate::inode::Inode;
use crate::{direct, pages, resize, write, writeback};
use core::marker::PhantomData;
use kernel::ffi::{c_int, c_long, c_uint, c_ulong};
use kernel::prelude::*;
use kernel::uaccess::UserSlice;
use upcall_bindings as ub;

/// What `file_operations` need of files.
#[vtable]
pub trait FileOperations: FileSystemType {
    /// Whether the file may be opened: fails with `EOPNOTSUPP` if its bytes need what is not supported.
    fn may_open(&self, inode: &Self::Inode) -> Result;
}

/// The handler for 32-bit programs: our commands' arguments are pointers.
pub(crate) const COMPAT_IOCTL: Option<
    unsafe extern "C" fn(*mut ub::file, c_uint, c_ulong) -> c_long,
> = {
    #[cfg(CONFIG_COMPAT)]
    {
        Some(ub::compat_ptr_ioctl)
    }
    #[cfg(not(CONFIG_COMPAT))]
    {
        None
    }
};

/// The size of the buffer that `FS_IOC_GETFSLABEL` fills.
const LABEL_MAX: usize = ub::FSLABEL_MAX as usize;

/// The number of bytes before the UUID in the buffer of `EXT4_IOC_GETFSUUID`: its size, and flags.
const UUID_HEADER: usize = 8;

/// Answers `EXT4_IOC_GETFSUUID`: how much room the UUID needs, if the buffer at `arg` says 0, or else the UUID.
fn uuid(uuid: &[u8; 16], arg: c_ulong) -> Result {
    let user = |len| UserSlice::new(UserPtr::from_addr(arg), len);
    let mut header = [0; UUID_HEADER];
    user(UUID_HEADER).reader().read_slice(&mut header)?;
    let (len, flags) = header.split_at(4);
    let size = uuid.len() as u32;
    if len == [0; 4] {
        return user(4).writer().write_slice(&size.to_ne_bytes());
    }
    let len = u32::from_ne_bytes(len.try_into().map_err(|_| EINVAL)?);
    if len < size || flags != [0; 4] {
        return Err(EINVAL);
    }
    let mut writer = user(UUID_HEADER + uuid.len()).writer();
    writer.write_slice(&size.to_ne_bytes())?;
    writer.write_slice(&[0; 4])?;
    writer.write_slice(uuid)
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn ioctl<F: FileSystem>(
    file: *mut ub::file,
    command: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: The VFS passes a file of ours.
    let inode = unsafe { Inode::<F>::new((*file).f_inode) };
    let to_user = |bytes: &[u8]| {
        UserSlice::new(UserPtr::from_addr(arg), bytes.len())
            .writer()
            .write_slice(bytes)
    };
    let result = match command {
        // The command is declared with `long`, and has always moved an `int`.
        ub::UPCALL_FS_IOC_GETVERSION | ub::UPCALL_FS_IOC32_GETVERSION => {
            to_user(&inode.volume().attr(inode.info()).generation.to_ne_bytes())
        }
        ub::UPCALL_FS_IOC_GETFSLABEL => {
            let mut label = [0; LABEL_MAX];
            for (to, from) in label
                .iter_mut()
                .zip(inode.volume().label())
                .take(LABEL_MAX - 1)
            {
                *to = *from;
            }
            to_user(&label)
        }
        ub::UPCALL_EXT4_IOC_GETFSUUID => uuid(&inode.volume().info().uuid, arg),
        _ => Err(ENOTTY),
    };
    match result {
        Ok(()) => 0,
        Err(error) => error.to_errno() as c_long,
    }
}

/// The functions that C calls.
struct Ops<F>(PhantomData<F>);

impl<F: FileSystem> Ops<F> {
    const OPERATIONS: &'static ub::file_operations = &ub::file_operations {
        llseek: Some(Self::llseek),
        read_iter: Some(Self::read_iter),
        write_iter: Some(write::write_iter::<F>),
        mmap_prepare: Some(write::mmap_prepare::<F>),
        open: Some(Self::open),
        fsync: Some(writeback::fsync::<F>),
        get_unmapped_area: Some(ub::thp_get_unmapped_area),
        splice_read: Some(ub::filemap_splice_read),
        fallocate: Some(resize::fallocate::<F>),
        splice_write: Some(ub::iter_file_splice_write),
        unlocked_ioctl: Some(ioctl::<F>),
        compat_ioctl: COMPAT_IOCTL,
        setlease: Some(ub::generic_setlease),
        fop_flags: ub::UPCALL_FOP_BUFFER_RASYNC
            | ub::UPCALL_FOP_BUFFER_WASYNC
            | ub::UPCALL_FOP_DIO_PARALLEL_WRITE
            | ub::UPCALL_FOP_DONTCACHE,
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    };

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn open(inode: *mut ub::inode, file: *mut ub::file) -> c_int {
        // SAFETY: The VFS passes an inode of ours and a file that is being opened.
        unsafe {
            let this = Inode::<F>::new(inode);
            if let Err(error) = this.volume().may_open(this.info()) {
                return error.to_errno();
            }
            ub::upcall_file_can_odirect(file);
            ub::generic_file_open(inode, file)
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn llseek(file: *mut ub::file, offset: i64, whence: c_int) -> i64 {
        // SAFETY: The VFS passes a file of ours.
        unsafe {
            let inode = (*file).f_inode;
            let max = (*(*inode).i_sb).s_maxbytes;
            let found = match whence as u32 {
                ub::SEEK_HOLE => Self::seek(inode, offset, ub::iomap_seek_hole),
                ub::SEEK_DATA => Self::seek(inode, offset, ub::iomap_seek_data),
                _ => {
                    return ub::generic_file_llseek_size(file, offset, whence, max, (*inode).i_size)
                }
            };
            if found < 0 {
                return found;
            }
            ub::vfs_setpos(file, found, max)
        }
    }

    /// # Safety
    ///
    /// `inode` is a regular file of ours.
    unsafe fn seek(
        inode: *mut ub::inode,
        offset: i64,
        seek: unsafe extern "C" fn(*mut ub::inode, i64, *const ub::iomap_ops) -> i64,
    ) -> i64 {
        // SAFETY: By the function's contract. The lock keeps the file as it is, as for a read.
        unsafe {
            ub::upcall_inode_lock_shared(inode, false);
            let found = seek(inode, offset, pages::reported(&Inode::<F>::new(inode)));
            ub::upcall_inode_unlock_shared(inode);
            found
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn read_iter(iocb: *mut ub::kiocb, to: *mut ub::iov_iter) -> isize {
        // SAFETY: The VFS passes a request to read a file of ours.
        unsafe {
            if (*iocb).ki_flags & ub::UPCALL_IOCB_DIRECT == 0 {
                return ub::generic_file_read_iter(iocb, to);
            }
            let inode = (*(*iocb).ki_filp).f_inode;
            let this = Inode::<F>::new(inode);
            if !this.volume().is_direct(this.info()) {
                (*iocb).ki_flags &= !ub::UPCALL_IOCB_DIRECT;
                return ub::generic_file_read_iter(iocb, to);
            }
            ub::upcall_file_accessed((*iocb).ki_filp);
            direct::read(&this, iocb, to)
        }
    }
}

pub(crate) fn operations<F: FileSystem>() -> &'static ub::file_operations {
    Ops::<F>::OPERATIONS
}
