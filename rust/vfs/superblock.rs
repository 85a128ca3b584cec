// SPDX-License-Identifier: GPL-2.0

//! A mounted superblock, and its operations.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h).

use crate::fs::{FileSystem, FileSystemType};
use crate::inode;
use core::marker::PhantomData;
use core::ptr::NonNull;
use disk::Level;
use kernel::ffi::{c_int, c_long, c_void};
use kernel::prelude::*;
use upcall::Scope;
use upcall_bindings as ub;

/// What `super_operations` and `fs_context_operations` need of a mounted volume.
#[vtable]
pub trait SuperOperations: FileSystemType {
    /// Copies the options of a mounted volume, as the start of a remount.
    fn options(&self) -> Self::Options;

    /// Changes the options of a mounted volume; fails without a change if one cannot be changed.
    fn remount(&self, options: Self::Options) -> Result;

    /// Writes the options that differ from the default, each with a comma before it.
    fn show_options(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;

    /// Space and inodes, used and free.
    fn statfs(&self) -> StatFs;

    /// The volume's label, at most 255 bytes without zeros.
    fn label(&self) -> &[u8];

    /// How many objects (inodes, blocks) are kept in memory. Does not sleep.
    fn nr_cached_objects(&self) -> usize;

    /// Looks at `count` of these objects and frees those that nobody uses. Returns how many
    /// it freed. Called when memory is short; does not wait for the disk.
    fn free_cached_objects(&self, count: usize) -> usize;
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

/// What `s_fs_info` points to.
pub(crate) struct Mounted<F> {
    pub(crate) fs: F,
    pub(crate) scope: Option<Scope>,
    pub(crate) cache: *mut ub::kmem_cache,
}

/// A mounted superblock, borrowed.
pub(crate) struct SuperBlock<'a, F> {
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
        umount_begin: Some(Self::umount_begin),
        freeze_fs: Some(Self::freeze_fs),
        unfreeze_fs: Some(Self::freeze_fs),
        statfs: Some(Self::statfs),
        show_options: Some(Self::show_options),
        nr_cached_objects: Some(Self::nr_cached_objects),
        free_cached_objects: Some(Self::free_cached_objects),
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    };

    /// `FIFREEZE` and `FITHAW`. Nobody writes: the VFS counts who holds the volume, and there is nothing to stop.
    ///
    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn freeze_fs(_sb: *mut ub::super_block) -> c_int {
        0
    }

    /// `umount -f`: what is under way ends as the device ends it, and what needs the device later fails with
    /// `ESHUTDOWN`.
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
            scope.cancel();
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn put_super(sb: *mut ub::super_block) {
        // SAFETY: Called once, after the inodes were evicted; nobody else uses `s_fs_info`. The device is open.
        unsafe {
            (*(*sb).s_fs_info.cast::<Mounted<F>>()).scope = None;
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
        // SAFETY: The shrinker passes a mounted superblock of ours. What is cached is charged to no group.
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
struct Seq(*mut ub::seq_file);

impl core::fmt::Write for Seq {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        // SAFETY: The sequence file is valid while it is shown.
        unsafe { ub::seq_write(self.0, s.as_ptr().cast::<c_void>(), s.len()) };
        Ok(())
    }
}
