// SPDX-License-Identifier: GPL-2.0

//! Keeping a volume mounted from Rust.

use crate::fs::FileSystem;
use crate::mount::SuperBlock;
use core::ops::Deref;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;
use upcall_bindings as ub;

/// A reference on a mounted volume.
///
/// While it lives, `umount` fails with `EBUSY`. Dropping it may sleep: if the mount was detached
/// in between, it is the last user and unmounts the volume.
pub struct Handle<F> {
    path: Opaque<ub::path>,
    volume: Arc<F>,
}

// SAFETY: A path may be released by any thread.
unsafe impl<F: FileSystem> Send for Handle<F> {}
// SAFETY: A shared handle gives access to the volume alone.
unsafe impl<F: FileSystem> Sync for Handle<F> {}

impl<F: FileSystem> Handle<F> {
    /// Opens the volume that is mounted at, or above, the directory `path`.
    ///
    /// The path is the calling thread's: kernel threads have no file system to walk. Fails with
    /// the errors of a path walk, and with `EINVAL` if another file system is there. May sleep.
    pub fn open(path: &CStr) -> Result<Self> {
        let found = Opaque::<ub::path>::uninit();
        let flags = ub::UPCALL_LOOKUP_FOLLOW | ub::UPCALL_LOOKUP_DIRECTORY;
        // SAFETY: `path` ends with a zero, and `found` is there to be filled.
        to_result(unsafe { ub::kern_path(path.as_char_ptr(), flags, found.get()) })?;
        // SAFETY: The path was filled, and we have a reference on it.
        let sb = unsafe { (*(*found.get()).dentry).d_sb };
        // SAFETY: The path keeps the superblock.
        if !unsafe { F::registration().is_type_of(sb) } {
            // SAFETY: The reference goes.
            unsafe { ub::path_put(found.get()) };
            return Err(EINVAL);
        }
        // SAFETY: The superblock is ours, and mounted.
        let volume = unsafe { SuperBlock::<F>::new(sb) }.volume().clone();
        Ok(Self {
            path: found,
            volume,
        })
    }
}

impl<F> Deref for Handle<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.volume
    }
}

impl<F> Drop for Handle<F> {
    fn drop(&mut self) {
        // SAFETY: We have a reference on the path, which goes.
        unsafe { ub::path_put(self.path.get()) }
    }
}
