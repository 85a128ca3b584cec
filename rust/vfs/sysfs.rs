// SPDX-License-Identifier: GPL-2.0

//! [`Counters`]: a volume's directory in `/sys/fs/NAME/`.
//!
//! C header: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h).
//!
//! # Concurrency
//!
//! Any number of threads read, from when the directory is made until [`Counters`] is dropped, which
//! waits for those who are reading. That is before the volume's scope ends, and the device is
//! closed. A reader has the handle on the volume that the directory keeps. He takes no lock that
//! the end of a volume is called with.

use crate::fs::FileSystem;
use core::ptr::NonNull;
use kernel::error::from_err_ptr;
use kernel::ffi::{c_uint, c_void};
use kernel::prelude::*;
use upcall_bindings as ub;

/// A directory of files with a number each.
pub(crate) struct Counters<F: FileSystem> {
    raw: NonNull<ub::upcall_sysfs>,
    /// Ours, and read by whoever reads a file.
    volume: NonNull<F>,
}

// SAFETY: The directory belongs to no thread, and the handle may be sent.
unsafe impl<F: FileSystem> Send for Counters<F> {}
// SAFETY: There is nothing to be done with a reference.
unsafe impl<F: FileSystem> Sync for Counters<F> {}

impl<F: FileSystem> Counters<F> {
    /// Makes the directory of `volume`. Fails with `ENOMEM`, and with `EEXIST` if there is one, of
    /// a volume whose device is gone. May sleep.
    ///
    /// # Safety
    ///
    /// `sb` is a superblock with its device.
    pub(crate) unsafe fn new(volume: &F, sb: *const ub::super_block) -> Result<Self> {
        let mut names = KVec::with_capacity(F::COUNTERS.len(), GFP_KERNEL)?;
        for name in F::COUNTERS {
            names.push(name.as_char_ptr(), GFP_KERNEL)?;
        }
        let volume = KBox::new(volume.clone(), GFP_KERNEL)?;
        let volume = NonNull::from(&mut *KBox::leak(volume));
        // SAFETY: The type is registered while something is mounted; the names are static, and the
        // volume is there until the directory is not.
        let raw = from_err_ptr(unsafe {
            ub::upcall_sysfs_create(
                F::registration().sysfs(),
                sb,
                names.as_ptr(),
                names.len() as c_uint,
                Some(show::<F>),
                volume.as_ptr().cast(),
            )
        });
        match raw.map(NonNull::new) {
            Ok(Some(raw)) => Ok(Self { raw, volume }),
            failed => {
                // SAFETY: It came from a box, and nobody has it.
                drop(unsafe { KBox::from_raw(volume.as_ptr()) });
                Err(failed.err().unwrap_or(ENOMEM))
            }
        }
    }
}

impl<F: FileSystem> Drop for Counters<F> {
    fn drop(&mut self) {
        // SAFETY: It is there until here. Nobody reads any more when it is destroyed, and the
        // volume came from a box.
        unsafe {
            ub::upcall_sysfs_destroy(self.raw.as_ptr());
            drop(KBox::from_raw(self.volume.as_ptr()));
        }
    }
}

/// # Safety
///
/// Called by C alone, with what [`Counters::new`] gave it, and a page.
unsafe extern "C" fn show<F: FileSystem>(
    volume: *const c_void,
    index: c_uint,
    page: *mut u8,
    size: usize,
) -> isize {
    // SAFETY: By the function's contract. The page is zeroed, and nobody else's.
    let (volume, page) = unsafe {
        (
            &*volume.cast::<F>(),
            core::slice::from_raw_parts_mut(page, size),
        )
    };
    let mut out = Page { page, len: 0 };
    match volume.show_counter(index as usize, &mut out) {
        Ok(()) => out.len as isize,
        Err(_) => EIO.to_errno() as isize,
    }
}

/// Writes to a page.
struct Page<'a> {
    page: &'a mut [u8],
    len: usize,
}

impl core::fmt::Write for Page<'_> {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let end = self.len.checked_add(s.len()).ok_or(core::fmt::Error)?;
        let room = self.page.get_mut(self.len..end).ok_or(core::fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}
