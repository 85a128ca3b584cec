// SPDX-License-Identifier: GPL-2.0

//! The `ioctl`s for administrators: the volume's label, free blocks that the device is to forget,
//! and shutting the volume down.

use crate::fs::FileSystem;
use crate::inode::Inode;
use disk::{pinned, Level};
use kernel::error::to_result;
use kernel::ffi::{c_int, c_uint, c_ulong};
use kernel::prelude::*;
use kernel::uaccess::UserSlice;
use upcall::block_on;
use upcall_bindings as ub;

/// How long a label is, and a zero behind it.
const LABEL_MAX: usize = 16;

/// What `FITRIM` passes: start, length and shortest run.
const TRIM_RANGE: usize = 24;

/// Answers such a command; `None` if it is another one.
///
/// # Safety
///
/// `file` is an open file of a volume of type `F`.
pub(crate) unsafe fn ioctl<F: FileSystem>(
    file: *mut ub::file,
    command: c_uint,
    arg: c_ulong,
) -> Option<Result> {
    // SAFETY: By the function's contract.
    let inode = unsafe { Inode::<F>::new((*file).f_inode) };
    // SAFETY: Process context.
    let is_admin = || unsafe { ub::capable(ub::CAP_SYS_ADMIN as c_int) };
    let answer = |able: &dyn Fn() -> Result| match is_admin() {
        true => able(),
        false => Err(EPERM),
    };
    match command {
        // SAFETY: By the function's contract.
        ub::UPCALL_FS_IOC_SETFSLABEL => Some(answer(&|| unsafe { set_label(&inode, file, arg) })),
        ub::UPCALL_FITRIM => Some(answer(&|| trim(&inode, arg))),
        ub::UPCALL_EXT4_IOC_SHUTDOWN => Some(answer(&|| shut_down(&inode, arg))),
        _ => None,
    }
}

fn user(arg: c_ulong, len: usize) -> UserSlice {
    UserSlice::new(UserPtr::from_addr(arg), len)
}

/// `FS_IOC_SETFSLABEL`.
///
/// # Safety
///
/// `file` is open.
unsafe fn set_label<F: FileSystem>(
    inode: &Inode<'_, F>,
    file: *mut ub::file,
    arg: c_ulong,
) -> Result {
    let mut label = [0; LABEL_MAX + 1];
    user(arg, label.len()).reader().read_slice(&mut label)?;
    let len = label.iter().position(|&byte| byte == 0).ok_or(EINVAL)?;
    let label = label.get(..len).unwrap_or(&[]);
    // SAFETY: By the function's contract.
    to_result(unsafe { ub::mnt_want_write_file(file) })?;
    let result = pinned(|| inode.volume().set_label(label)).and_then(block_on);
    // SAFETY: The file is open, and `mnt_want_write_file` has succeeded.
    unsafe { ub::mnt_drop_write_file(file) };
    result?
}

/// `FITRIM`.
fn trim<F: FileSystem>(inode: &Inode<'_, F>, arg: c_ulong) -> Result {
    let mut range = [0; TRIM_RANGE];
    user(arg, TRIM_RANGE).reader().read_slice(&mut range)?;
    let word = |at: usize| {
        let bytes = range
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    };
    let (start, len, min) = (word(0), word(8), word(16));
    let trimmed = block_on(pinned(|| inode.volume().trim(start, len, min))?)??;
    let mut writer = user(arg, TRIM_RANGE).writer();
    writer.write_slice(&start.to_ne_bytes())?;
    writer.write_slice(&trimmed.to_ne_bytes())
}

/// `EXT4_IOC_SHUTDOWN`.
fn shut_down<F: FileSystem>(inode: &Inode<'_, F>, arg: c_ulong) -> Result {
    let mut how = [0; 4];
    user(arg, 4).reader().read_slice(&mut how)?;
    let how = u32::from_ne_bytes(how);
    if how > ub::EXT4_GOING_FLAGS_NOLOGFLUSH {
        return Err(EINVAL);
    }
    let volume = inode.volume();
    if volume.is_shut_down() {
        return Ok(());
    }
    volume
        .disk()
        .log(Level::Warning, format_args!("shut down requested ({how})"));
    let device = volume.disk().device().as_ptr().cast();
    match how {
        ub::EXT4_GOING_FLAGS_DEFAULT => {
            // SAFETY: The device is open as long as the file.
            to_result(unsafe { ub::bdev_freeze(device) })?;
            volume.shut_down();
            // SAFETY: The device is open as long as the file, and it was frozen here.
            unsafe { ub::bdev_thaw(device) };
        }
        ub::EXT4_GOING_FLAGS_LOGFLUSH => {
            // What cannot be made durable is lost, as with the others.
            let _ = block_on(pinned(|| volume.sync_fs())?)?;
            volume.shut_down();
        }
        _ => volume.shut_down(),
    }
    Ok(())
}
