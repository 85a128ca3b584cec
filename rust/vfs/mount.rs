// SPDX-License-Identifier: GPL-2.0

//! Registration, mount options, mount, remount and unmount.
//!
//! C headers: [`include/linux/fs_context.h`](srctree/include/linux/fs_context.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h).
//!
//! # Life of a volume
//!
//! `fill_super` makes a [`Scope`] for the volume's requests and upcalls, reads the volume with
//! `block_on`, and leaves a [`Mounted`] in `s_fs_info`. From then on the volume is in sysfs and
//! debugfs, also while it is made writable, until it ends. Unmounting evicts the inodes, and with
//! them waits for their readahead; then `put_super` makes the volume read-only, which commits what
//! was changed, and drops the scope, which waits for whatever is left, before the device is closed.
//! What commits is in that scope, and so is every request. `Mounted` itself goes when the
//! superblock is dead, since what is attached to evicted inodes is freed after an RCU grace period,
//! and they refer to nothing in it.

use crate::debugfs::Debug;
use crate::fs::FileSystem;
use crate::inode::{self, InodeBox};
use crate::ioends::IoEnds;
use crate::superblock::{self, Mounted, SuperBlock};
use crate::sysfs::Counters;
use crate::{export, revalidate, xattr};
use core::marker::PhantomData;
use core::ptr::{null_mut, NonNull};
use disk::{pinned, Disk, Label, Level};
use kernel::error::{from_result, to_result};
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Release};
use kernel::types::Opaque;
use upcall::{block_on, Device, Executor, Scope};
use upcall_bindings as ub;

/// The registration of a file system type. Lives in a `static`, since lockdep classes are in it.
pub struct Type<F> {
    raw: Opaque<ub::file_system_type>,
    /// The slab cache of [`InodeBox`]es, from registration on.
    cache: Atomic<*mut ub::kmem_cache>,
    /// The directory in sysfs, from registration on.
    sysfs: Atomic<*mut ub::kobject>,
    /// The directory in debugfs, from registration on; null or an error without debugfs.
    debugfs: Atomic<*mut ub::dentry>,
    fs: PhantomData<fn() -> F>,
}

// SAFETY: The kernel locks what it changes in the C type.
unsafe impl<F> Sync for Type<F> {}

/// A registered type; dropping it takes the registration back.
pub struct Registration<F: FileSystem>(&'static Type<F>);

impl<F: FileSystem> Default for Type<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: FileSystem> Type<F> {
    /// Makes the type, to be put into a `static`.
    pub const fn new() -> Self {
        let raw = ub::file_system_type {
            name: F::NAME.to_bytes_with_nul().as_ptr(),
            fs_flags: (ub::FS_REQUIRES_DEV | ub::FS_ALLOW_IDMAP | ub::FS_MGTIME) as c_int,
            init_fs_context: Some(Ops::<F>::init_fs_context),
            kill_sb: Some(Ops::<F>::kill_sb),
            // SAFETY: Zero is what the C initialisers leave there.
            ..unsafe { core::mem::zeroed() }
        };
        Self {
            raw: Opaque::new(raw),
            cache: Atomic::new(null_mut()),
            sysfs: Atomic::new(null_mut()),
            debugfs: Atomic::new(null_mut()),
            fs: PhantomData,
        }
    }

    /// Registers the type.
    pub fn register(&'static self, module: &'static ThisModule) -> Result<Registration<F>> {
        // SAFETY: The name is static; the constructor fits the size.
        let cache = unsafe {
            ub::upcall_inode_cache(
                F::NAME.as_char_ptr(),
                size_of::<InodeBox<F::Inode>>() as u32,
                align_of::<InodeBox<F::Inode>>() as u32,
                Some(inode::construct::<F::Inode>),
            )
        };
        if cache.is_null() {
            return Err(ENOMEM);
        }
        self.cache.store(cache, Release);
        // SAFETY: The name is a string. Without memory for the directory there are no mounts.
        let sysfs = unsafe { ub::upcall_sysfs_root(F::NAME.as_char_ptr()) };
        self.sysfs.store(sysfs, Release);
        // SAFETY: As for the line before, but mounts do not need it.
        let debugfs = unsafe { ub::upcall_debugfs_root(F::NAME.as_char_ptr()) };
        self.debugfs.store(debugfs, Release);
        let result = match sysfs.is_null() {
            true => Err(ENOMEM),
            // SAFETY: The type is static, and nobody else knows of it yet.
            false => to_result(unsafe {
                (*self.raw.get()).owner = module.as_ptr().cast();
                ub::register_filesystem(self.raw.get())
            }),
        };
        if let Err(error) = result {
            // SAFETY: There are no mounts, and no inodes. The directories may be null.
            unsafe {
                ub::upcall_debugfs_remove_root(debugfs);
                ub::kobject_put(sysfs);
                ub::kmem_cache_destroy(cache);
            }
            return Err(error);
        }
        Ok(Registration(self))
    }
}

impl<F> Type<F> {
    /// The C type.
    pub(crate) fn as_ptr(&self) -> *mut ub::file_system_type {
        self.raw.get()
    }

    /// The directory in sysfs, while the type is registered.
    pub(crate) fn sysfs(&self) -> *mut ub::kobject {
        self.sysfs.load(Acquire)
    }

    /// The directory in debugfs, while the type is registered.
    pub(crate) fn debugfs(&self) -> *mut ub::dentry {
        self.debugfs.load(Acquire)
    }

    /// Whether `sb` is a superblock of this type.
    ///
    /// # Safety
    ///
    /// The caller has a reference on the superblock.
    pub(crate) unsafe fn is_type_of(&self, sb: *mut ub::super_block) -> bool {
        // SAFETY: By the function's contract.
        core::ptr::eq(unsafe { (*sb).s_type }, self.raw.get())
    }
}

impl<F: FileSystem> Drop for Registration<F> {
    fn drop(&mut self) {
        // SAFETY: It was registered, and as the module is going there is no mount.
        unsafe {
            ub::unregister_filesystem(self.0.raw.get());
            ub::upcall_debugfs_remove_root(self.0.debugfs.load(Acquire));
            ub::kobject_put(self.0.sysfs.load(Acquire));
            // Inodes are freed by RCU callbacks, in our text.
            ub::rcu_barrier();
            ub::kmem_cache_destroy(self.0.cache.load(Acquire));
        }
    }
}

/// A mount option.
pub struct MountOption<'a> {
    /// The name.
    pub key: &'a str,
    /// What comes behind `=`, if anything.
    pub value: Option<&'a str>,
}

/// The functions that C calls.
struct Ops<F>(PhantomData<F>);

impl<F: FileSystem> Ops<F> {
    const CONTEXT: &'static ub::fs_context_operations = &ub::fs_context_operations {
        free: Some(Self::free),
        parse_param: Some(Self::parse_param),
        get_tree: Some(Self::get_tree),
        reconfigure: Some(Self::reconfigure),
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    };

    /// What log lines begin with before there is a superblock.
    ///
    /// # Safety
    ///
    /// `fc` is a context of ours.
    unsafe fn label(fc: *mut ub::fs_context) -> Label {
        // SAFETY: By the function's contract; the source, if there is one, ends with a zero.
        let name = unsafe {
            match (*fc).source {
                source if source.is_null() => None,
                source => {
                    let source = CStr::from_char_ptr(source).to_bytes();
                    source.rsplit(|&byte| byte == b'/').next()
                }
            }
        };
        Label::new(F::NAME, name.unwrap_or(b"?"))
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn init_fs_context(fc: *mut ub::fs_context) -> c_int {
        from_result(|| {
            let mut options = KBox::new(F::Options::default(), GFP_KERNEL)?;
            // SAFETY: The VFS passes a context that is ours to fill. In a remount it has a root.
            unsafe {
                if (*fc).purpose() == ub::fs_context_purpose_FS_CONTEXT_FOR_RECONFIGURE {
                    *options = SuperBlock::<F>::new((*(*fc).root).d_sb).volume().options();
                }
                (*fc).fs_private = KBox::into_raw(options).cast();
                (*fc).ops = Self::CONTEXT;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn free(fc: *mut ub::fs_context) {
        // SAFETY: `fs_private` is what `init_fs_context` left, or null if it was taken.
        unsafe {
            let options: *mut F::Options = (*fc).fs_private.cast();
            if !options.is_null() {
                drop(KBox::from_raw(options));
            }
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn parse_param(
        fc: *mut ub::fs_context,
        param: *mut ub::fs_parameter,
    ) -> c_int {
        from_result(|| {
            // SAFETY: The VFS passes a context of ours and a parameter; the strings end with a
            // zero.
            let (options, key, value) = unsafe {
                let value = match (*param).type_() {
                    ub::fs_value_type_fs_value_is_string => {
                        Some(CStr::from_char_ptr((*param).__bindgen_anon_1.string))
                    }
                    ub::fs_value_type_fs_value_is_flag => None,
                    // A file or a blob: not for any option of ours.
                    _ => return Err(crate::fs::errno(ub::ENOPARAM)),
                };
                let key = CStr::from_char_ptr((*param).key);
                (&mut *(*fc).fs_private.cast::<F::Options>(), key, value)
            };
            let option = MountOption {
                key: key.to_str().map_err(|_| EINVAL)?,
                // What is not UTF-8 is no value of ours; a device's name may be.
                value: value.map(|v| v.to_str().unwrap_or("\u{fffd}")),
            };
            let known = F::set_option(options, option).inspect_err(|_| {
                // SAFETY: As above.
                let label = unsafe { Self::label(fc) };
                label.log(
                    Level::Error,
                    format_args!("bad value of mount option {key:?}"),
                );
            })?;
            if known {
                Ok(0)
            } else {
                // The VFS says which it was.
                Err(crate::fs::errno(ub::ENOPARAM))
            }
        })
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn get_tree(fc: *mut ub::fs_context) -> c_int {
        // SAFETY: The VFS passes a context of ours.
        unsafe { ub::get_tree_bdev(fc, Some(Self::fill_super)) }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn fill_super(sb: *mut ub::super_block, fc: *mut ub::fs_context) -> c_int {
        from_result(|| {
            // SAFETY: The VFS passes a new superblock with an open device, and our context.
            unsafe { Self::fill(sb, fc) }?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// As [`fill_super`](Self::fill_super).
    unsafe fn fill(sb: *mut ub::super_block, fc: *mut ub::fs_context) -> Result {
        // SAFETY: As in `fill_super`.
        let (options, silent) = unsafe {
            let options = core::mem::replace(&mut (*fc).fs_private, null_mut());
            let options = KBox::from_raw(options.cast::<F::Options>());
            (
                KBox::into_inner(options),
                (*fc).sb_flags & ub::UPCALL_SB_SILENT != 0,
            )
        };
        // Before the scope, whose end it outlives.
        let ioends = IoEnds::new()?;
        let scope = Scope::on(&Executor::shared()?, &Executor::blocking(F::NAME)?)?;
        let door = Scope::on(&Executor::shared()?, &Executor::blocking(F::NAME)?)?;
        // SAFETY: The device is open until `kill_sb`, and the scope ends before.
        let disk = unsafe {
            // What programs wrote to the device is to be seen by requests too.
            to_result(ub::sync_blockdev((*sb).s_bdev))?;
            // Buffers that were verified for an earlier mount may have changed since.
            ub::upcall_invalidate_bdev((*sb).s_bdev);
            let device = Device::new(NonNull::new_unchecked((*sb).s_bdev).cast(), &scope)?;
            let name = CStr::from_char_ptr((&raw const (*sb).s_id).cast());
            Disk::new(
                device,
                scope.spawner(),
                Label::new(F::NAME, name.to_bytes()),
            )
        };
        let fs = block_on(pinned(|| F::mount(disk, options, silent))?)??;
        IoEnds::start(&ioends, &fs, &scope.spawner())?;
        let info = fs.info();
        let root = info.root;
        // SAFETY: The superblock is ours to fill.
        unsafe {
            if ub::sb_set_blocksize(sb, info.block_size as c_int) == 0 {
                return Err(EINVAL);
            }
            ub::upcall_sb_fill(
                sb,
                &ub::upcall_volume_info {
                    magic: info.magic,
                    max_bytes: info.max_bytes,
                    time_min: info.time_range.0,
                    time_max: info.time_range.1,
                    time_gran: info.time_granularity,
                    uuid: info.uuid,
                    posix_acl: info.acl,
                },
            );
            (*sb).s_op = superblock::operations::<F>();
            (*sb).s_xattr = xattr::handlers::<F>();
            (*sb).s_export_op = export::operations::<F>();
            ub::set_default_d_op(sb, revalidate::operations::<F>());
            let counters = Counters::new(&fs, sb)?;
            let debug = Debug::new(&fs, sb)?;
            let mounted = KBox::new(
                Mounted {
                    fs,
                    scope: Some(scope),
                    door: Some(door),
                    cache: F::registration().cache.load(Acquire),
                    ioends,
                    counters: Some(counters),
                    debug: Some(debug),
                },
                GFP_KERNEL,
            )?;
            (*sb).s_fs_info = KBox::into_raw(mounted).cast();
            let root = inode::get(&SuperBlock::<F>::new(sb), root)?;
            // Consumes the inode, also if it fails.
            let root = ub::d_make_root(root.into_raw());
            if root.is_null() {
                return Err(ENOMEM);
            }
            (*sb).s_root = root;
            if !ub::upcall_sb_rdonly(sb) {
                let volume = SuperBlock::<F>::new(sb).volume();
                match block_on(pinned(|| volume.make_writable())?)? {
                    Err(EROFS) => {
                        let how = format_args!("mounted read-only");
                        volume.disk().log(Level::Warning, how);
                        ub::upcall_sb_set_rdonly(sb);
                    }
                    result => result?,
                }
            } else if F::HAS_FINISH_RECOVERY {
                let volume = SuperBlock::<F>::new(sb).volume();
                block_on(pinned(|| volume.finish_recovery())?)?;
            }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn kill_sb(sb: *mut ub::super_block) {
        // SAFETY: The VFS is done with the superblock. Without a root `put_super` was not called,
        // and the scope ends here, before the device is closed.
        unsafe {
            let mounted: *mut Mounted<F> = (*sb).s_fs_info.cast();
            if !mounted.is_null() && (*sb).s_root.is_null() {
                (*mounted).end();
            }
            ub::kill_block_super(sb);
            if !mounted.is_null() {
                drop(KBox::from_raw(mounted));
            }
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn reconfigure(fc: *mut ub::fs_context) -> c_int {
        from_result(|| {
            // SAFETY: The VFS passes our context, with the root of a mounted superblock.
            unsafe {
                let sb = SuperBlock::<F>::new((*(*fc).root).d_sb);
                let volume = sb.volume();
                let was = ub::upcall_sb_rdonly(sb.raw.as_ptr());
                let becomes = match (*fc).sb_flags_mask & ub::UPCALL_SB_RDONLY {
                    0 => was,
                    _ => (*fc).sb_flags & ub::UPCALL_SB_RDONLY != 0,
                };
                let options = core::mem::replace(&mut (*fc).fs_private, null_mut());
                let options = KBox::from_raw(options.cast::<F::Options>());
                let old = volume.options();
                volume.remount(KBox::into_inner(options))?;
                let changed = match (was, becomes) {
                    (true, false) => block_on(pinned(|| volume.make_writable())?)?,
                    (false, true) => Self::end_writing(&sb),
                    _ => Ok(()),
                };
                if let Err(error) = changed {
                    // They were the volume's before, and are again.
                    let _ = volume.remount(old);
                    return Err(error);
                }
                ub::upcall_sb_set_acl(sb.raw.as_ptr(), volume.info().acl);
            }
            Ok(0)
        })
    }

    /// Makes a volume read-only that stays mounted. The VFS lets nobody change it any more.
    fn end_writing(sb: &SuperBlock<'_, F>) -> Result {
        // SAFETY: The superblock is mounted, and locked by the caller.
        unsafe {
            to_result(ub::sync_filesystem(sb.raw.as_ptr()))?;
            // As at unmount.
            ub::rcu_barrier();
        }
        block_on(sb.volume().make_read_only())?
    }
}
