// SPDX-License-Identifier: GPL-2.0

//! A mounted superblock, and its operations.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h).

use crate::attr::StatFs;
use crate::debugfs::Debug;
use crate::fs::{FileSystem, FileSystemType};
use crate::inode;
use crate::ioends::IoEnds;
use crate::sysfs::Counters;
use core::future::Future;
use core::marker::PhantomData;
use core::ptr::NonNull;
use disk::Level;
use kernel::error::{from_result, VTABLE_DEFAULT_ERROR};
use kernel::ffi::{c_int, c_long, c_void};
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::{block_on, Scope};
use upcall_bindings as ub;

/// What `super_operations` and `fs_context_operations` need of a mounted volume.
#[vtable]
pub trait SuperOperations: FileSystemType {
    /// Copies the options of a mounted volume, as the start of a remount.
    fn options(&self) -> Self::Options;

    /// Changes the options of a mounted volume; fails without a change if one cannot be changed.
    fn remount(&self, options: Self::Options) -> Result;

    /// Makes the volume writable. Fails, with a line in the log, if that cannot be.
    ///
    /// `EROFS` is for volumes that can be read only: a mount becomes read-only for it, a remount
    /// fails. Called with the superblock locked, and while nobody can ask for a change.
    fn make_writable(&self) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Called for a mount that is read-only, before it is seen: what a recovery has left to do.
    fn finish_recovery(&self) -> impl Future<Output = ()> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Makes the volume read-only again, and leaves the disk in order. Not to be dropped.
    ///
    /// Called with the superblock locked, when nobody changes anything any more.
    fn make_read_only(&self) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Waits until all changes are durable.
    fn sync_fs(&self) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Stops all changes, when what was changed is on the disk, at its place.
    fn freeze(&self) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Lets changes go on after [`freeze`](Self::freeze).
    fn thaw(&self) -> impl Future<Output = ()> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Stops all writing at once: what was changed and is not durable yet is lost. Does not wait.
    fn shut_down(&self) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Deletes an inode that has no links, when nobody uses it any more. The VFS does not, and has
    /// nothing of it in the page cache.
    fn evict(&self, _inode: Self::Inode) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Whether somebody who is not the VFS may still read an inode that has no links. Does not sleep.
    fn is_kept(&self, _inode: &Self::Inode) -> bool {
        false
    }

    /// The VFS has the inode in memory no more. Its handle may live on, and be dropped in any
    /// context.
    fn forget_inode(&self, _inode: &Self::Inode) {}

    /// Writes the options that differ from the default, each with a comma before it.
    fn show_options(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;

    /// Space and inodes, used and free.
    fn statfs(&self) -> StatFs;

    /// Whether [`shut_down`](Self::shut_down) was called.
    fn is_shut_down(&self) -> bool {
        false
    }

    /// The volume's label, with zeros behind it.
    fn label(&self) -> [u8; 16];

    /// Changes the label.
    fn set_label(&self, _label: &[u8]) -> impl Future<Output = Result> {
        async { Err(ENOTTY) }
    }

    /// Lets the device forget the free bytes among `len` from `start` on, in runs of at least
    /// `min`. Returns how many these were.
    fn trim(&self, _start: u64, _len: u64, _min: u64) -> impl Future<Output = Result<u64>> {
        async { Err(ENOTTY) }
    }

    /// How many objects (inodes, blocks) are kept in memory. Does not sleep.
    fn nr_cached_objects(&self) -> usize;

    /// Looks at `count` of these objects and frees those that nobody uses. Returns how many
    /// it freed. Called when memory is short; does not wait for the disk.
    fn free_cached_objects(&self, count: usize) -> usize;
}

/// What `s_fs_info` points to.
pub(crate) struct Mounted<F: FileSystem> {
    pub(crate) fs: F,
    pub(crate) scope: Option<Scope>,
    /// For changes past the VFS that need it: its blocking work may wait for what the other scope
    /// does.
    pub(crate) door: Option<Scope>,
    pub(crate) cache: *mut ub::kmem_cache,
    /// Behind `scope`, whose upcall uses it.
    pub(crate) ioends: Arc<IoEnds>,
    pub(crate) counters: Option<Counters<F>>,
    pub(crate) debug: Option<Debug<F>>,
}

impl<F: FileSystem> Mounted<F> {
    /// Leaves the disk in order, and ends the scope. Nobody uses the volume any more, and the
    /// device is open.
    pub(crate) fn end(&mut self) {
        self.debug = None;
        self.counters = None;
        self.door = None;
        if F::HAS_MAKE_READ_ONLY && self.scope.is_some() {
            // Inodes that were evicted are free after a grace period, and those without links are
            // deleted then.
            // SAFETY: May sleep.
            unsafe { ub::rcu_barrier() };
            // What kept it from that was logged, and the next mount recovers the volume.
            let _ = block_on(self.fs.make_read_only());
        }
        self.scope = None;
    }
}

/// A mounted superblock, borrowed.
pub(crate) struct SuperBlock<'a, F: FileSystem> {
    pub(crate) raw: NonNull<ub::super_block>,
    fs: PhantomData<&'a Mounted<F>>,
}

impl<'a, F: FileSystem> SuperBlock<'a, F> {
    /// # Safety
    ///
    /// `sb` is a superblock of our type whose volume was mounted, for as long as `'a`.
    pub(crate) unsafe fn new(sb: *mut ub::super_block) -> Self {
        Self {
            // SAFETY: By the function's contract.
            raw: unsafe { NonNull::new_unchecked(sb) },
            fs: PhantomData,
        }
    }

    pub(crate) fn mounted(&self) -> &'a Mounted<F> {
        // SAFETY: `s_fs_info` was set by `fill_super`, and lives as long as the superblock.
        unsafe { &*(*self.raw.as_ptr()).s_fs_info.cast::<Mounted<F>>() }
    }

    /// The volume.
    pub(crate) fn volume(&self) -> &'a F {
        &self.mounted().fs
    }
}

/// The functions that C calls.
struct Ops<F>(PhantomData<F>);

impl<F: FileSystem> Ops<F> {
    const SUPER: &'static ub::super_operations = &ub::super_operations {
        alloc_inode: Some(inode::alloc::<F>),
        free_inode: Some(inode::free::<F>),
        evict_inode: Some(inode::evict::<F>),
        put_super: Some(Self::put_super),
        sync_fs: present!(F::HAS_SYNC_FS, Self::sync_fs),
        shutdown: present!(F::HAS_SHUT_DOWN, Self::shutdown),
        umount_begin: Some(Self::umount_begin),
        freeze_fs: Some(Self::freeze_fs),
        unfreeze_fs: Some(Self::unfreeze_fs),
        statfs: Some(Self::statfs),
        show_options: Some(Self::show_options),
        nr_cached_objects: Some(Self::nr_cached_objects),
        free_cached_objects: Some(Self::free_cached_objects),
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    };

    /// `FIFREEZE`. A volume that cannot be written to can be frozen, too: the VFS counts who holds
    /// it.
    ///
    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn freeze_fs(sb: *mut ub::super_block) -> c_int {
        from_result(|| {
            if F::HAS_FREEZE {
                // SAFETY: The VFS passes a mounted superblock of ours.
                block_on(unsafe { SuperBlock::<F>::new(sb) }.volume().freeze())??;
            }
            Ok(0)
        })
    }

    /// `FITHAW`.
    ///
    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn unfreeze_fs(sb: *mut ub::super_block) -> c_int {
        from_result(|| {
            if F::HAS_THAW {
                // SAFETY: The VFS passes a mounted superblock of ours.
                block_on(unsafe { SuperBlock::<F>::new(sb) }.volume().thaw())?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn sync_fs(sb: *mut ub::super_block, wait: c_int) -> c_int {
        from_result(|| {
            if wait != 0 {
                // SAFETY: The VFS passes a mounted superblock of ours.
                block_on(unsafe { SuperBlock::<F>::new(sb) }.volume().sync_fs())??;
            }
            Ok(0)
        })
    }

    /// The device is gone.
    ///
    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn shutdown(sb: *mut ub::super_block) {
        // SAFETY: The VFS passes a mounted superblock of ours.
        unsafe { SuperBlock::<F>::new(sb) }.volume().shut_down();
    }

    /// `umount -f`: what is under way ends as the device ends it, and what needs the device later
    /// fails with `ESHUTDOWN`.
    ///
    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn umount_begin(sb: *mut ub::super_block) {
        // SAFETY: The VFS passes a mounted superblock of ours, and keeps it meanwhile.
        let sb = unsafe { SuperBlock::<F>::new(sb) };
        if let Some(scope) = &sb.mounted().scope {
            sb.volume()
                .disk()
                .log(Level::Warning, format_args!("shut down by umount -f"));
            if F::HAS_SHUT_DOWN {
                // Before what commits is cancelled, so that nobody waits for it.
                sb.volume().shut_down();
            }
            scope.cancel();
            if let Some(door) = &sb.mounted().door {
                door.cancel();
            }
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn put_super(sb: *mut ub::super_block) {
        // SAFETY: Called once, after the inodes were evicted; nobody else uses `s_fs_info`. The
        // device is open.
        unsafe {
            (*(*sb).s_fs_info.cast::<Mounted<F>>()).end();
            // What programs read of the device meanwhile is what they find on the disk from now on.
            ub::upcall_invalidate_bdev((*sb).s_bdev);
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn nr_cached_objects(
        sb: *mut ub::super_block,
        sc: *mut ub::shrink_control,
    ) -> c_long {
        // SAFETY: The shrinker passes a mounted superblock of ours. What is cached is charged to no
        // group.
        unsafe {
            if ub::upcall_shrinks_all(sc) {
                SuperBlock::<F>::new(sb).volume().nr_cached_objects() as c_long
            } else {
                0
            }
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn free_cached_objects(
        sb: *mut ub::super_block,
        sc: *mut ub::shrink_control,
    ) -> c_long {
        // SAFETY: As above.
        unsafe {
            let volume = SuperBlock::<F>::new(sb).volume();
            volume.free_cached_objects((*sc).nr_to_scan) as c_long
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn statfs(dentry: *mut ub::dentry, out: *mut ub::kstatfs) -> c_int {
        // SAFETY: The VFS passes a dentry of ours and a structure to fill.
        unsafe {
            let sb = SuperBlock::<F>::new((*dentry).d_sb);
            let volume = sb.volume();
            let (info, st) = (volume.info(), volume.statfs());
            (*out).f_type = info.magic as c_long;
            (*out).f_bsize = info.block_size as c_long;
            (*out).f_blocks = st.blocks;
            (*out).f_bfree = st.free;
            (*out).f_bavail = st.available;
            (*out).f_files = st.files;
            (*out).f_ffree = st.free_files;
            (*out).f_namelen = info.name_max as c_long;
            ub::upcall_statfs_fsid(out, sb.raw.as_ptr());
        }
        0
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn show_options(seq: *mut ub::seq_file, root: *mut ub::dentry) -> c_int {
        // SAFETY: The VFS passes a sequence file and the root of a mounted superblock.
        unsafe {
            let sb = SuperBlock::<F>::new((*root).d_sb);
            // What does not fit is noticed by the sequence file itself, which tries again.
            let _ = sb.volume().show_options(&mut Seq(seq));
        }
        0
    }
}

pub(crate) fn operations<F: FileSystem>() -> &'static ub::super_operations {
    Ops::<F>::SUPER
}

/// Writes into a sequence file.
pub(crate) struct Seq(pub(crate) *mut ub::seq_file);

impl core::fmt::Write for Seq {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        // SAFETY: The sequence file is valid while it is shown.
        unsafe { ub::seq_write(self.0, s.as_ptr().cast::<c_void>(), s.len()) };
        Ok(())
    }
}
