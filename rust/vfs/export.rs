// SPDX-License-Identifier: GPL-2.0

//! File handles, for NFS and `open_by_handle_at`: inode number and generation.

use crate::dir;
use crate::fs::{FileSystem, FileSystemType};
use crate::inode::{get, result_pointer, Inode, InodeRef};
use crate::superblock::SuperBlock;
use core::future::Future;
use core::marker::PhantomData;
use disk::pinned;
use kernel::error::from_result;
use kernel::ffi::c_int;
use kernel::prelude::*;
use upcall::block_on;
use upcall_bindings as ub;

/// What `export_operations` need, and whoever has an inode's number.
#[vtable]
pub trait ExportOperations: FileSystemType {
    /// Inode `ino`, from memory or from the disk.
    ///
    /// Fails with `ESTALE` if the inode is not in use, or not for users: a file handle may name any.
    fn iget(&self, ino: u32) -> impl Future<Output = Result<Self::Inode>> + Send;
}

/// The functions that C calls.
struct Ops<F>(PhantomData<F>);

impl<F: FileSystem> Ops<F> {
    const OPERATIONS: &'static ub::export_operations = &ub::export_operations {
        encode_fh: Some(ub::generic_encode_ino32_fh),
        fh_to_dentry: Some(Self::fh_to_dentry),
        fh_to_parent: Some(Self::fh_to_parent),
        get_parent: Some(dir::get_parent::<F>),
        commit_metadata: present!(F::HAS_SYNC_INODE, Self::commit_metadata),
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    };

    /// Before the server of NFS says that something was changed.
    ///
    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn commit_metadata(inode: *mut ub::inode) -> c_int {
        from_result(|| {
            // SAFETY: The VFS passes an inode of ours.
            let inode = unsafe { Inode::<F>::new(inode) };
            block_on(pinned(|| inode.volume().sync_inode(inode.info(), false))?)??;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn fh_to_dentry(
        sb: *mut ub::super_block,
        fid: *mut ub::fid,
        len: c_int,
        kind: c_int,
    ) -> *mut ub::dentry {
        // SAFETY: The VFS passes a superblock of ours and a handle.
        unsafe { ub::generic_fh_to_dentry(sb, fid, len, kind, Some(Self::inode)) }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn fh_to_parent(
        sb: *mut ub::super_block,
        fid: *mut ub::fid,
        len: c_int,
        kind: c_int,
    ) -> *mut ub::dentry {
        // SAFETY: As above.
        unsafe { ub::generic_fh_to_parent(sb, fid, len, kind, Some(Self::inode)) }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn inode(
        sb: *mut ub::super_block,
        ino: u64,
        generation: u32,
    ) -> *mut ub::inode {
        // SAFETY: The VFS passes a superblock of ours.
        let sb = unsafe { SuperBlock::<F>::new(sb) };
        result_pointer(Self::find(&sb, ino, generation).map(InodeRef::into_raw))
    }

    fn find(sb: &SuperBlock<'_, F>, ino: u64, generation: u32) -> Result<InodeRef> {
        let ino = u32::try_from(ino).map_err(|_| ESTALE)?;
        let inode = get(sb, ino)?;
        if generation != 0 && inode.generation() != generation {
            return Err(ESTALE);
        }
        Ok(inode)
    }
}

pub(crate) fn operations<F: FileSystem>() -> &'static ub::export_operations {
    Ops::<F>::OPERATIONS
}
