// SPDX-License-Identifier: GPL-2.0

//! Directories for the VFS: `lookup` and `readdir`.

use crate::fs::{FileSystem, FileSystemType};
use crate::inode::{get, result_pointer, Inode, InodeRef};
use crate::listing::DirBatch;
use crate::namei::Rename;
use crate::new_inode::NewInode;
use crate::revalidate::names_version;
use crate::{file, inode};
use core::future::Future;
use core::marker::PhantomData;
use core::ptr::null_mut;
use kernel::error::{from_result, VTABLE_DEFAULT_ERROR};
use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;
use upcall::block_on;
use upcall_bindings as ub;

/// What `inode_operations` and `file_operations` need of directories.
#[vtable]
pub trait DirOperations: FileSystemType {
    /// Finds `name` in a directory; the inode is in use. Fails with `ENAMETOOLONG` if no name is so long.
    fn lookup(
        &self,
        dir: &Self::Inode,
        name: &[u8],
    ) -> impl Future<Output = Result<Option<u32>>> + Send;

    /// Whether what is new in a directory has its group, whatever the directory's mode says.
    fn group_of_dir(&self) -> bool {
        false
    }

    /// Whether a file's contents go to the disk before it replaces another one by a rename.
    fn flush_on_replace(&self) -> bool {
        false
    }

    /// Makes a file, a directory, a device, a pipe or a socket, by the mode.
    ///
    /// Fails with `EEXIST`, `ENOSPC`, `EMLINK`, `ENAMETOOLONG`, `EROFS`.
    fn create(
        &self,
        _dir: &Self::Inode,
        _name: &[u8],
        _new: &NewInode,
    ) -> impl Future<Output = Result<Self::Inode>> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Makes a symbolic link. Fails as [`create`](Self::create) does, with `ENAMETOOLONG` also for
    /// the target.
    fn symlink(
        &self,
        _dir: &Self::Inode,
        _name: &[u8],
        _target: &[u8],
        _new: &NewInode,
    ) -> impl Future<Output = Result<Self::Inode>> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Makes a file without a name, which is as if it were in `dir`.
    fn tmpfile(
        &self,
        _dir: &Self::Inode,
        _new: &NewInode,
    ) -> impl Future<Output = Result<Self::Inode>> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Gives an inode one more name.
    fn link(
        &self,
        _dir: &Self::Inode,
        _name: &[u8],
        _inode: &Self::Inode,
    ) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Takes a name from an inode that is no directory. Fails with `ESTALE` if it does not lead to it.
    fn unlink(
        &self,
        _dir: &Self::Inode,
        _name: &[u8],
        _child: &Self::Inode,
    ) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Takes the name from a directory, which is empty, or else `ENOTEMPTY`.
    fn rmdir(
        &self,
        _dir: &Self::Inode,
        _name: &[u8],
        _child: &Self::Inode,
    ) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Gives an inode another name.
    fn rename(&self, _rename: Rename<'_, Self::Inode>) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Lists a directory from position `pos` on, as far as it goes with little work; 0 is the start.
    ///
    /// Adds nothing if there is nothing more.
    fn read_dir(
        &self,
        dir: &Self::Inode,
        pos: u64,
        batch: &mut DirBatch,
    ) -> impl Future<Output = Result> + Send;
}

/// A name of a path, as the VFS has it.
///
/// # Safety
///
/// `name` is valid for as long as `'a`.
pub(crate) unsafe fn name_bytes<'a>(name: *const ub::qstr) -> &'a [u8] {
    // SAFETY: By the function's contract.
    unsafe {
        let len = (*name).__bindgen_anon_1.__bindgen_anon_1.len as usize;
        core::slice::from_raw_parts((*name).name, len)
    }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn lookup<F: FileSystem>(
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
    _flags: c_uint,
) -> *mut ub::dentry {
    // SAFETY: The VFS passes a directory of ours, locked, and a dentry whose name is stable.
    let (dir, name) = unsafe {
        (
            Inode::<F>::new(dir),
            name_bytes(&raw const (*dentry).__bindgen_anon_1.d_name),
        )
    };
    // SAFETY: The inode is valid.
    let version = unsafe { names_version(dir.as_ptr()) };
    let found = find(&dir, name).map(|inode| inode.map_or(null_mut(), InodeRef::into_raw));
    match found {
        // SAFETY: The dentry is being looked up; the inode's reference goes along. A directory may have
        // another dentry, which is moved here.
        Ok(inode) => unsafe {
            ub::upcall_dentry_set_version(dentry, version);
            let other = ub::d_splice_alias(inode, dentry);
            if kernel::error::from_err_ptr(other).is_ok_and(|other| !other.is_null()) {
                ub::upcall_dentry_set_version(other, version);
            }
            other
        },
        Err(error) => inode::error_pointer(error),
    }
}

fn find<F: FileSystem>(dir: &Inode<'_, F>, name: &[u8]) -> Result<Option<InodeRef>> {
    match block_on(dir.volume().lookup(dir.info(), name))?? {
        Some(ino) => get(dir.superblock(), ino).map(Some),
        None => Ok(None),
    }
}

/// The parent of a directory, for file handles.
///
/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn get_parent<F: FileSystem>(
    child: *mut ub::dentry,
) -> *mut ub::dentry {
    // SAFETY: The VFS passes a dentry of a directory of ours.
    let dir = unsafe { Inode::<F>::new((*child).d_inode) };
    let parent = find(&dir, b"..").and_then(|parent| parent.ok_or(ENOENT));
    // SAFETY: The inode's reference goes along.
    result_pointer(parent.map(|inode| unsafe { ub::d_obtain_alias(inode.into_raw()) }))
}

/// The functions that C calls.
struct Ops<F>(PhantomData<F>);

impl<F: FileSystem> Ops<F> {
    const OPERATIONS: &'static ub::file_operations = &ub::file_operations {
        llseek: Some(Self::llseek),
        read: Some(ub::generic_read_dir),
        iterate_shared: Some(Self::iterate),
        unlocked_ioctl: Some(file::ioctl::<F>),
        compat_ioctl: file::COMPAT_IOCTL,
        fsync: if F::HAS_SYNC_INODE {
            Some(Self::fsync)
        } else {
            Some(ub::noop_fsync)
        },
        setlease: Some(ub::generic_setlease),
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    };

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn llseek(file: *mut ub::file, offset: i64, whence: c_int) -> i64 {
        // SAFETY: The VFS passes a file of ours. Positions are cookies: all of them can be sought.
        unsafe {
            ub::generic_file_llseek_size(file, offset, whence, i64::MAX, (*(*file).f_inode).i_size)
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn fsync(
        file: *mut ub::file,
        _from: i64,
        _to: i64,
        datasync: c_int,
    ) -> c_int {
        from_result(|| {
            // SAFETY: The VFS passes a directory of ours.
            let dir = unsafe { Inode::<F>::new((*file).f_inode) };
            block_on(dir.volume().sync_inode(dir.info(), datasync != 0))??;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn iterate(file: *mut ub::file, ctx: *mut ub::dir_context) -> c_int {
        from_result(|| {
            // SAFETY: The VFS passes a directory of ours, locked for reading.
            let dir = unsafe { Inode::<F>::new((*file).f_inode) };
            let mut batch = DirBatch::new();
            loop {
                batch.clear();
                // A damaged directory may have billions of blocks without an entry.
                block_on(dir.volume().disk().checkpoint())?.map_err(|_| ERESTARTSYS)?;
                // SAFETY: The VFS passes a context that is ours to use.
                let pos = unsafe { (*ctx).pos } as u64;
                block_on(dir.volume().read_dir(dir.info(), pos, &mut batch))??;
                for entry in batch.iter() {
                    // SAFETY: As above.
                    unsafe {
                        let more = ub::upcall_dir_emit(
                            ctx,
                            entry.name.as_ptr().cast(),
                            entry.name.len() as c_int,
                            entry.ino.into(),
                            entry.file_type as c_uint,
                        );
                        if !more {
                            return Ok(0);
                        }
                        (*ctx).pos = entry.next as i64;
                    }
                }
                match batch.next() {
                    // SAFETY: As above.
                    Some(next) => unsafe { (*ctx).pos = next as i64 },
                    None => {
                        if let Some(end) = batch.end() {
                            // SAFETY: As above.
                            unsafe { (*ctx).pos = end as i64 };
                        }
                        return Ok(0);
                    }
                }
            }
        })
    }
}

pub(crate) fn operations<F: FileSystem>() -> &'static ub::file_operations {
    Ops::<F>::OPERATIONS
}
