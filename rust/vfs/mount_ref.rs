// SPDX-License-Identifier: GPL-2.0

//! Keeping a volume mounted from Rust.
//!
//! # Letting go
//!
//! The last reference on a mount that is at no place unmounts the volume in the thread that drops
//! it. That waits for requests, and for readahead, which an executor has to run. So when a
//! [`MountRef`] is dropped on the thread of an executor, in an upcall or in blocking work, a work
//! item drops the reference. Its memory was allocated with the [`MountRef`]. The exit of
//! `upcall.ko` waits for such work, and until it is over the mount keeps `aext4.ko`. A mount of the
//! same device waits for an unmount that has begun. Any other thread drops the reference itself.

use crate::fs::FileSystem;
use crate::superblock::SuperBlock;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::c_int;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::types::Opaque;
use upcall::{on_executor, on_worker};
use upcall_bindings as ub;

/// A reference on a mounted volume.
///
/// While it lives, `umount` fails with `EBUSY`. Dropping it may sleep: if the mount was detached in
/// between, it is the last user and unmounts the volume. On the thread of an executor that happens
/// later, in another thread.
pub struct MountRef<F> {
    /// The path, and the work item that may let go of it. Goes with the destructor.
    held: NonNull<ub::upcall_held_path>,
    volume: F,
}

// SAFETY: A path may be released by any thread.
unsafe impl<F: FileSystem> Send for MountRef<F> {}
// SAFETY: A shared reference gives access to the volume alone.
unsafe impl<F: FileSystem> Sync for MountRef<F> {}

impl<F: FileSystem> MountRef<F> {
    /// Opens the volume that is mounted at, or above, the directory `path`.
    ///
    /// The path is the calling thread's: kernel threads have no file system to walk. Fails with
    /// the errors of a path walk, and with `EINVAL` if another file system is there. May sleep.
    pub fn open(path: &CStr) -> Result<Self> {
        let found = Opaque::<ub::path>::uninit();
        let flags = ub::UPCALL_LOOKUP_FOLLOW | ub::UPCALL_LOOKUP_DIRECTORY;
        // SAFETY: `path` ends with a zero, and `found` is there to be filled.
        to_result(unsafe { ub::kern_path(path.as_char_ptr(), flags, found.get()) })?;
        // SAFETY: The path was filled, and the reference on it is ours.
        unsafe { Self::of_path(found) }
    }

    /// Opens the volume that `file` is on.
    ///
    /// Fails with `EINVAL` if that is of another file system, and with `ENOMEM`. May sleep, but in
    /// an upcall if it succeeds.
    pub fn of_file(file: &File) -> Result<Self> {
        let found = Opaque::<ub::path>::uninit();
        // SAFETY: An open file has a path, on which we take a reference.
        unsafe {
            let file: *mut ub::file = file.as_ptr().cast();
            found.get().write(*ub::upcall_file_path(file));
            ub::path_get(found.get());
            Self::of_path(found)
        }
    }

    /// Mounts the volume on the block device `device` at no place: no program sees it.
    ///
    /// `options` are those of `mount -o`; the volume is mounted read-only if they do not have `rw`. The path of the device is the calling thread's. A device
    /// that is mounted already is mounted once more, as by `mount`. Dropping the last reference
    /// unmounts the volume. Fails with the errors of `mount`. May sleep.
    pub fn mount(device: &CStr, options: &CStr) -> Result<Self> {
        // They are parsed in place.
        let mut parsed = KVec::new();
        parsed.extend_from_slice(options.to_bytes_with_nul(), GFP_KERNEL)?;
        // SAFETY: The type is registered, as this module was loaded; the strings end with a zero.
        let mount = unsafe {
            ub::vfs_kern_mount(
                F::registration().as_ptr(),
                (ub::UPCALL_SB_KERNMOUNT | ub::UPCALL_SB_RDONLY) as c_int,
                device.as_char_ptr(),
                parsed.as_mut_ptr().cast(),
            )
        };
        let mount = from_err_ptr(mount)?;
        let found = Opaque::<ub::path>::uninit();
        // SAFETY: The reference on the mount is ours; we take one on its root.
        unsafe {
            found.get().write(ub::path {
                mnt: mount,
                dentry: ub::upcall_dget((*mount).mnt_root),
            });
            Self::of_path(found)
        }
    }

    /// The mount.
    pub(crate) fn vfsmount(&self) -> *mut ub::vfsmount {
        // SAFETY: The path is held.
        unsafe { ub::upcall_held_mount(self.held.as_ptr()) }
    }

    /// The superblock that the mount is of.
    pub(crate) fn superblock(&self) -> SuperBlock<'_, F> {
        // SAFETY: The mount is one of ours, and keeps the superblock.
        unsafe { SuperBlock::new((*self.vfsmount()).mnt_sb) }
    }

    /// # Safety
    ///
    /// The path is valid, and the caller passes on a reference on it.
    unsafe fn of_path(path: Opaque<ub::path>) -> Result<Self> {
        // SAFETY: By the function's contract. The path keeps the superblock.
        let sb = unsafe { (*(*path.get()).dentry).d_sb };
        // SAFETY: As above.
        if !unsafe { F::registration().is_type_of(sb) } {
            // SAFETY: The reference goes.
            unsafe { ub::path_put(path.get()) };
            return Err(EINVAL);
        }
        // SAFETY: The path is valid, and its reference goes along if there is memory.
        let held = unsafe { ub::upcall_hold_path(path.get(), !on_worker()) };
        let Some(held) = NonNull::new(held) else {
            // SAFETY: As above.
            unsafe { ub::path_put(path.get()) };
            return Err(ENOMEM);
        };
        // SAFETY: The superblock is ours, and mounted.
        let volume = unsafe { SuperBlock::<F>::new(sb) }.volume().clone();
        Ok(Self { held, volume })
    }
}

impl<F> Deref for MountRef<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.volume
    }
}

impl<F> Drop for MountRef<F> {
    fn drop(&mut self) {
        // SAFETY: It was held by `of_path`, and goes. A thread of an executor may not wait.
        unsafe { ub::upcall_let_go(self.held.as_ptr(), on_executor()) }
    }
}
