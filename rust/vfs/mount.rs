// SPDX-License-Identifier: GPL-2.0

//! Registration, mount options, mount and unmount.
//!
//! C headers: [`include/linux/fs_context.h`](srctree/include/linux/fs_context.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h).
//!
//! # Life of a volume
//!
//! `fill_super` makes a [`Scope`] for the volume's requests and upcalls, reads the volume with `block_on`,
//! and leaves a [`Mounted`] in `s_fs_info`. Unmounting evicts the inodes, and with them waits for
//! their readahead; then `put_super` drops the scope, which waits for whatever is left, before the
//! device is closed. `Mounted` itself goes when the superblock is dead, since what is attached to
//! evicted inodes is freed after an RCU grace period, and they refer to nothing in it.

use crate::fs::FileSystem;
use crate::inode::{self, InodeBox};
use crate::ioends::IoEnds;
use crate::{export, xattr};
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::ptr::{null_mut, NonNull};
use disk::{Disk, Label, Level};
use kernel::error::{from_result, to_result};
use kernel::ffi::{c_int, c_long, c_void};
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Release};
use kernel::sync::Arc;
use kernel::types::Opaque;
use upcall::{block_on, Device, Executor, Scope};
use upcall_bindings as ub;

/// The registration of a file system type. Lives in a `static`, since lockdep classes are in it.
pub struct Type<F> {
    raw: Opaque<ub::file_system_type>,
    /// The slab cache of [`InodeBox`]es, from registration on.
    cache: Atomic<*mut ub::kmem_cache>,
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
            fs_flags: (ub::FS_REQUIRES_DEV | ub::FS_ALLOW_IDMAP) as c_int,
            init_fs_context: Some(Ops::<F>::init_fs_context),
            kill_sb: Some(Ops::<F>::kill_sb),
            // SAFETY: Zero is what the C initialisers leave there.
            ..unsafe { core::mem::zeroed() }
        };
        Self {
            raw: Opaque::new(raw),
            cache: Atomic::new(null_mut()),
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
        // SAFETY: The type is static, and nobody else knows of it yet.
        let result = to_result(unsafe {
            (*self.raw.get()).owner = module.as_ptr().cast();
            ub::register_filesystem(self.raw.get())
        });
        if let Err(error) = result {
            // SAFETY: There are no inodes.
            unsafe { ub::kmem_cache_destroy(cache) };
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

/// What `s_fs_info` points to.
pub(crate) struct Mounted<F> {
    pub(crate) fs: F,
    scope: Option<Scope>,
    pub(crate) cache: *mut ub::kmem_cache,
    /// Behind `scope`, whose upcall uses it.
    pub(crate) ioends: Arc<IoEnds>,
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

/// Why a volume is not mounted for writing.
const READ_ONLY: &str = "writing is not supported";

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
        // SAFETY: As above.
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
            // SAFETY: The VFS passes a context of ours and a parameter; the strings end with a zero.
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
        unsafe {
            if (*fc).sb_flags & ub::UPCALL_SB_RDONLY == 0 {
                Self::label(fc).log(Level::Info, format_args!("{READ_ONLY}, mounting read-only"));
                F::asked_to_write(&mut *(*fc).fs_private.cast::<F::Options>());
                (*fc).sb_flags |= ub::UPCALL_SB_RDONLY;
            }
            ub::get_tree_bdev(fc, Some(Self::fill_super))
        }
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
        let fs = block_on(boxed_mount::<F>(disk, options, silent)?)??;
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
            (*sb).s_op = Self::SUPER;
            (*sb).s_xattr = xattr::handlers::<F>();
            (*sb).s_export_op = export::operations::<F>();
            let mounted = KBox::new(
                Mounted {
                    fs,
                    scope: Some(scope),
                    cache: F::registration().cache.load(Acquire),
                    ioends,
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
        }
        Ok(())
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn reconfigure(fc: *mut ub::fs_context) -> c_int {
        from_result(|| {
            // SAFETY: The VFS passes our context, with the root of a mounted superblock.
            unsafe {
                let sb = SuperBlock::<F>::new((*(*fc).root).d_sb);
                if (*fc).sb_flags_mask & ub::UPCALL_SB_RDONLY != 0
                    && (*fc).sb_flags & ub::UPCALL_SB_RDONLY == 0
                {
                    sb.volume().disk().log(
                        Level::Error,
                        format_args!("{READ_ONLY}, cannot remount read-write"),
                    );
                    return Err(EROFS);
                }
                (*fc).sb_flags |= ub::UPCALL_SB_RDONLY;
                let options = core::mem::replace(&mut (*fc).fs_private, null_mut());
                let options = KBox::from_raw(options.cast::<F::Options>());
                sb.volume().remount(KBox::into_inner(options))?;
                ub::upcall_sb_set_acl(sb.raw.as_ptr(), sb.volume().info().acl);
            }
            Ok(0)
        })
    }

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
    unsafe extern "C" fn kill_sb(sb: *mut ub::super_block) {
        // SAFETY: The VFS is done with the superblock. Without a root `put_super` was not called, and
        // the scope ends here, before the device is closed.
        unsafe {
            let mounted: *mut Mounted<F> = (*sb).s_fs_info.cast();
            if !mounted.is_null() && (*sb).s_root.is_null() {
                (*mounted).scope = None;
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

/// Puts the future of a mount on the heap: it is large, and mounting goes deep.
#[inline(never)]
fn boxed_mount<F: FileSystem>(
    disk: Disk,
    options: F::Options,
    silent: bool,
) -> Result<Pin<KBox<impl Future<Output = Result<F>>>>> {
    Ok(KBox::pin(F::mount(disk, options, silent), GFP_KERNEL)?)
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
