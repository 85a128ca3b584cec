// SPDX-License-Identifier: GPL-2.0

//! [`Debug`](struct@Debug): a volume's directory in debugfs, `NAME/DEVICE/`.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h).
//!
//! # Concurrency
//!
//! As for the [counters](crate::sysfs): any number of threads read, from when the directory is made
//! until [`Debug`](struct@Debug) is dropped, which waits for those who are reading. A reader takes
//! no lock that the end of a volume is called with.

use crate::fs::FileSystem;
use crate::superblock::Seq;
use core::ptr::NonNull;
use kernel::ffi::c_void;
use kernel::prelude::*;
use upcall_bindings as ub;

/// A directory with the file `cache`. Without debugfs it is not there.
pub(crate) struct Debug<F: FileSystem> {
    raw: NonNull<ub::upcall_debugfs_volume>,
    /// Ours, and read by whoever reads a file.
    volume: NonNull<F>,
}

// SAFETY: The directory belongs to no thread, and the handle may be sent.
unsafe impl<F: FileSystem> Send for Debug<F> {}
// SAFETY: There is nothing to be done with a reference.
unsafe impl<F: FileSystem> Sync for Debug<F> {}

impl<F: FileSystem> Debug<F> {
    /// Makes the directory of `volume`. Fails with `ENOMEM`. May sleep.
    ///
    /// # Safety
    ///
    /// `sb` is a superblock with its device.
    pub(crate) unsafe fn new(volume: &F, sb: *const ub::super_block) -> Result<Self> {
        let volume = KBox::new(volume.clone(), GFP_KERNEL)?;
        let volume = NonNull::from(&mut *KBox::leak(volume));
        // SAFETY: The type is registered while something is mounted, and the volume is there until
        // the directory is not.
        let raw = unsafe {
            ub::upcall_debugfs_add(
                F::registration().debugfs(),
                sb,
                Some(show::<F>),
                volume.as_ptr().cast(),
            )
        };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw, volume }),
            None => {
                // SAFETY: It came from a box, and nobody has it.
                drop(unsafe { KBox::from_raw(volume.as_ptr()) });
                Err(ENOMEM)
            }
        }
    }
}

impl<F: FileSystem> Drop for Debug<F> {
    fn drop(&mut self) {
        // SAFETY: It is there until here. Nobody reads any more when it is destroyed, and the
        // volume came from a box.
        unsafe {
            ub::upcall_debugfs_destroy(self.raw.as_ptr());
            drop(KBox::from_raw(self.volume.as_ptr()));
        }
    }
}

/// # Safety
///
/// Called by C alone, with what [`Debug::new`] gave it, and a file that is being read.
unsafe extern "C" fn show<F: FileSystem>(volume: *const c_void, file: *mut ub::seq_file) {
    // SAFETY: By the function's contract.
    let volume = unsafe { &*volume.cast::<F>() };
    // What does not fit is asked for again, by C, with more memory.
    let _ = volume.show_cache(&mut Seq(file));
}
