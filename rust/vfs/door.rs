// SPDX-License-Identifier: GPL-2.0

//! What the VFS is told of changes that do not come by it, and what it does for who makes them.
//!
//! An inode that programs use has a VFS inode, with copies of its attributes, dentries, and pages.
//! Whoever changes the file system's inode in another way calls [`refresh_attached`], and for the
//! names of a directory [`names_changed`], when the change was made: neither sleeps, so that a
//! destructor can do it also if the caller's future is dropped. Before the change it gets leases
//! and delegations back, by [`MountRef::break_leases`]. What has pages is changed by the
//! VFS itself, as a program would do it: see [`MountRef::with_file`].
//!
//! # Concurrency
//!
//! A VFS inode is found by the file system's under RCU, and is used in the read section, or with a
//! reference that is taken there unless it is being evicted. What may sleep is a closure of the
//! volume's second blocking worker: the first writes for devices that sleep, and what waits for the
//! disk must not keep that waiting. A closure holds the mount, so that nothing is unmounted under
//! it; the last reference on it goes in another thread.
//!
//! Locks of the VFS are taken by these closures alone, without any lock of the file system's.

use crate::fs::FileSystem;
use crate::inode::{get, refresh_by, InodeRef};
use crate::mount_ref::MountRef;
use core::ptr::NonNull;
use core::time::Duration;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::{Instant, Monotonic};
use upcall_bindings as ub;

/// Copies the attributes of an inode into its VFS inode, if it has one, but for the size of a
/// regular file. What the VFS has worked out of them is forgotten. Does not sleep.
pub fn refresh_attached<F: FileSystem>(volume: &F, info: &F::Inode) {
    F::attached(info).look(|inode| {
        // SAFETY: The read section keeps the VFS inode.
        unsafe {
            refresh_by(volume, info, inode.as_ptr());
            ub::upcall_inode_forget(inode.as_ptr());
        }
    });
}

/// Says that the names of a directory have changed. Does not sleep.
pub fn names_changed<F: FileSystem>(dir: &F::Inode) {
    // SAFETY: The read section keeps the VFS inode, which is in a box of ours.
    F::attached(dir).look(|inode| unsafe { ub::upcall_names_changed(inode.as_ptr()) });
}

/// The VFS inode of an inode, unless it is being evicted.
fn grab<F: FileSystem>(info: &F::Inode) -> Option<InodeRef> {
    // SAFETY: The read section keeps the VFS inode.
    let inode = F::attached(info).look(|inode| unsafe { ub::igrab(inode.as_ptr()) })?;
    // SAFETY: The reference is ours.
    NonNull::new(inode).map(|inode| unsafe { InodeRef::from_raw(inode) })
}

/// What is to be done to an inode that others may have leases of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its contents are read: nobody else may be the only one who writes.
    Read,
    /// Something else than contents is changed: nobody has a delegation then. Whoever changes
    /// contents opens the file: see [`MountRef::with_file`].
    Change,
}

/// Whether programs or NFS clients have leases or delegations of an inode that may be in the way.
/// Does not sleep.
#[inline]
pub fn has_leases<F: FileSystem>(info: &F::Inode, access: Access) -> bool {
    F::attached(info).is_set() && look_for_leases::<F>(info, access)
}

#[cold]
fn look_for_leases<F: FileSystem>(info: &F::Inode, access: Access) -> bool {
    let to_read = access == Access::Read;
    let look = |inode: NonNull<ub::inode>| {
        // SAFETY: The read section keeps the VFS inode.
        unsafe { ub::upcall_has_leases(inode.as_ptr(), to_read) }
    };
    F::attached(info).look(look).unwrap_or(false)
}

/// How long to wait before looking again whether leases are back.
const LEASE_LOOK_FIRST: Duration = Duration::from_millis(1);
const LEASE_LOOK_LAST: Duration = Duration::from_millis(128);

/// Waits longer each time.
struct Patience(Duration);

impl Patience {
    fn new() -> Self {
        Self(LEASE_LOOK_FIRST)
    }

    async fn wait(&mut self) {
        upcall::sleep(self.0).await;
        self.0 = LEASE_LOOK_LAST.min(self.0 * 2);
    }
}

/// For what a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFor {
    /// To be read.
    Reading,
    /// To be changed.
    Writing,
    /// To be written to at its end.
    Appending,
}

/// A file of the VFS, open for as long as a closure runs.
pub struct OpenFile(NonNull<ub::file>);

impl OpenFile {
    /// Writes at byte `pos`, or wherever the end is of a file that was opened for appending.
    /// Returns where, and how many bytes. May sleep.
    pub fn write(&self, pos: u64, bytes: &[u8]) -> Result<(u64, usize)> {
        let mut at = i64::try_from(pos).map_err(|_| EFBIG)?;
        let (file, from) = (self.0.as_ptr(), bytes.as_ptr().cast());
        // SAFETY: The file is open for writing, and the bytes are as many as it says.
        let count = unsafe { ub::kernel_write(file, from, bytes.len(), &mut at) };
        to_result(count.min(0) as c_int)?;
        Ok((at as u64 - count as u64, count as usize))
    }

    /// Reads from byte `pos` on, as much as there is. May sleep.
    pub fn read(&self, pos: u64, bytes: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let mut at = i64::try_from(pos + done as u64).map_err(|_| EINVAL)?;
            let (to, len) = (rest.as_mut_ptr().cast(), rest.len());
            // SAFETY: The file is open, and the buffer as long as it says.
            let count = unsafe { ub::kernel_read(self.0.as_ptr(), to, len, &mut at) };
            to_result(count.min(0) as c_int)?;
            if count == 0 {
                break;
            }
            done += count as usize;
        }
        Ok(done)
    }

    /// Gives the file this size. May sleep.
    pub fn truncate(&self, size: u64) -> Result {
        let size = i64::try_from(size).map_err(|_| EFBIG)?;
        // SAFETY: The file is open.
        to_result(unsafe { ub::upcall_file_truncate(self.0.as_ptr(), size) })
    }

    /// Gives holes space. May sleep.
    pub fn allocate(&self, pos: u64, len: u64, keep_size: bool) -> Result {
        let narrow = |n| i64::try_from(n).map_err(|_| EFBIG);
        let (pos, len) = (narrow(pos)?, narrow(len)?);
        let mode = if keep_size {
            ub::FALLOC_FL_KEEP_SIZE
        } else {
            0
        };
        // SAFETY: The file is open for writing.
        to_result(unsafe { ub::vfs_fallocate(self.0.as_ptr(), mode as c_int, pos, len) })
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // SAFETY: The reference is ours, and the thread may sleep.
        unsafe { ub::upcall_close_inode(self.0.as_ptr()) }
    }
}

impl<F: FileSystem> MountRef<F> {
    /// Fails with `EROFS` if nothing may be changed by this mount. Does not sleep.
    pub fn check_writable(&self) -> Result {
        // SAFETY: The mount is held.
        match unsafe { ub::__mnt_is_readonly(self.vfsmount()) } {
            true => Err(EROFS),
            false => Ok(()),
        }
    }

    /// Runs `work`, which may sleep, on a thread for that, and keeps the mount until then.
    ///
    /// # Cancellation
    ///
    /// What has begun goes on.
    async fn blocking<T: Send + 'static>(
        this: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T> {
        let held = this.clone();
        let spawner = this.superblock().mounted().door.as_ref().ok_or(ESHUTDOWN)?;
        let job = spawner.spawner().spawn_blocking(move || work(&held))?;
        // `umount -f` cancels what has not begun.
        job.await.map_err(|_| ESHUTDOWN)
    }

    /// Asks whoever has leases or delegations of an inode for those back that are in the way, as
    /// the VFS does, and waits until they are back, or for as long as `limit` says. The VFS takes
    /// them away after `/proc/sys/fs/lease-break-time` seconds, if that is not 0. Nobody else waits
    /// meanwhile. The caller has no lock, and no permit: whoever gives a lease back may write
    /// first.
    ///
    /// # Cancellation
    ///
    /// Those that were asked for are given back.
    pub async fn break_leases(
        this: &Arc<Self>,
        info: &F::Inode,
        access: Access,
        limit: Duration,
    ) -> Result {
        let to_read = access == Access::Read;
        let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let start = Instant::<Monotonic>::now();
        let mut patience = Patience::new();
        while has_leases::<F>(info, access) {
            let held = info.clone();
            let job = Self::blocking(this, move |_| {
                let Some(inode) = grab::<F>(&held) else {
                    return Ok(());
                };
                // SAFETY: We have a reference.
                to_result(unsafe { ub::upcall_break_leases(inode.as_ptr(), to_read) })
            });
            match job.await? {
                Err(EAGAIN) if start.elapsed().as_millis() < limit => {}
                done => return done,
            }
            patience.wait().await;
        }
        Ok(())
    }

    /// Opens a regular file, and calls `work` with it, on a thread for what may sleep. Whatever it
    /// does is done as by a program, with the rights of the kernel. If others have leases that are
    /// in the way, these are asked for, and waited for without that thread.
    ///
    /// Fails with the errors of `open`, and with `EROFS`.
    ///
    /// # Cancellation
    ///
    /// What has begun goes on.
    pub async fn with_file<T: Send + 'static>(
        this: &Arc<Self>,
        ino: u32,
        how: OpenFor,
        work: impl FnOnce(&OpenFile) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let flags = match how {
            OpenFor::Reading => ub::O_RDONLY,
            OpenFor::Writing => ub::O_RDWR,
            OpenFor::Appending => ub::O_RDWR | ub::O_APPEND,
        };
        let (mut work, mut patience) = (work, Patience::new());
        loop {
            let job = Self::blocking(this, move |this| {
                let inode = match get(&this.superblock(), ino) {
                    Ok(inode) => inode.into_raw(),
                    Err(error) => return Ok(Err(error)),
                };
                // SAFETY: The mount is held, and the reference on the inode goes along.
                let file = unsafe { ub::upcall_open_inode(this.vfsmount(), inode, flags as c_int) };
                match from_err_ptr(file).map(NonNull::new) {
                    Ok(Some(file)) => Ok(work(&OpenFile(file))),
                    Ok(None) => Ok(Err(EIO)),
                    Err(EAGAIN) => Err(work),
                    Err(error) => Ok(Err(error)),
                }
            });
            match job.await? {
                Ok(done) => return done,
                Err(again) => work = again,
            }
            patience.wait().await;
        }
    }

    /// Writes what programs have changed of a file to the device, and waits for it.
    pub async fn write_back(this: &Arc<Self>, info: &F::Inode) -> Result {
        let info = info.clone();
        let job = Self::blocking(this, move |_| {
            let Some(inode) = grab::<F>(&info) else {
                // Who evicts it has written it.
                return Ok(());
            };
            // SAFETY: We have a reference.
            to_result(unsafe {
                ub::filemap_write_and_wait_range((*inode.as_ptr()).i_mapping, 0, i64::MAX)
            })
        });
        job.await?
    }

    /// The same of all files.
    pub async fn write_back_all(this: &Arc<Self>) -> Result {
        Self::blocking(this, |this| {
            // SAFETY: The mount keeps the superblock.
            unsafe { ub::upcall_write_inodes(this.superblock().raw.as_ptr()) }
        })
        .await
    }

    /// Lets go of an inode that nothing leads to any more, as far as no program uses it: on a
    /// thread for what may sleep. Without memory the VFS does when it needs some.
    ///
    /// # Cancellation
    ///
    /// It goes on.
    pub async fn prune(this: &Arc<Self>, info: &F::Inode) -> Result {
        if !F::attached(info).is_set() {
            return Ok(());
        }
        let info = info.clone();
        Self::blocking(this, move |_| {
            if let Some(inode) = grab::<F>(&info) {
                // SAFETY: The reference goes along.
                unsafe { ub::upcall_prune(inode.into_raw()) }
            }
        })
        .await
    }
}
