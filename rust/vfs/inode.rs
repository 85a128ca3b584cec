// SPDX-License-Identifier: GPL-2.0

//! VFS inodes, attached to the file system's.
//!
//! A VFS inode and the file system's inode ([`Inode`](crate::fs::FileSystemType::Inode)) are
//! allocated together with a count of readahead that is under way, in an [`InodeBox`].
//!
//! # Life
//!
//! `alloc` makes the box without the latter, [`get`] attaches it before the VFS inode is published,
//! and `free`, an RCU callback, drops it: path walks under RCU may look at a link's target until
//! then. Of an inode that is deleted `evict` hands it over, but for links: so nobody else uses it,
//! and it can be deleted at once. `evict` waits until no readahead uses the inode. Readahead holds
//! folio locks, for which `truncate_inode_pages` waits as well, but it goes on using the inode
//! after it released the last of them.

use crate::attr::{Attr, FileType, SetAttr, StatAttr};
use crate::fs::{FileSystem, FileSystemType};
use crate::namei::{self, Create};
use crate::setattr::{self, timespec};
use crate::superblock::SuperBlock;
use crate::{acl, dir, file, pages, xattr};
use core::future::Future;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use disk::{pinned, Attached, Level};
use kernel::error::{Error, VTABLE_DEFAULT_ERROR};
use kernel::ffi::{c_char, c_int, c_long, c_uint, c_void};
use kernel::prelude::*;
use upcall::block_on;
use upcall_bindings as ub;

/// What `inode_operations` need of all inodes.
#[vtable]
pub trait InodeOperations: FileSystemType {
    /// The attributes of an inode.
    fn attr(&self, inode: &Self::Inode) -> Attr;

    /// What `statx` tells of an inode beside what its VFS inode has. Does not sleep.
    fn stat_attr(&self, inode: &Self::Inode) -> StatAttr;

    /// Whether direct IO reaches the device; otherwise it goes through the page cache.
    fn is_direct(&self, inode: &Self::Inode) -> bool;

    /// Changes attributes, all or none. A time is rounded to what the inode can have.
    fn set_attributes(
        &self,
        _inode: &Self::Inode,
        _set: &SetAttr,
    ) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Waits until what was changed of an inode is durable; with `datasync` that is what leads to
    /// its contents.
    fn sync_inode(
        &self,
        _inode: &Self::Inode,
        _datasync: bool,
    ) -> impl Future<Output = Result> + Send {
        async { build_error!(VTABLE_DEFAULT_ERROR) }
    }

    /// Calls `attach` while nobody changes the inode's contents past the VFS.
    fn while_unchanged(
        &self,
        inode: &Self::Inode,
        attach: &mut (dyn FnMut() + Send),
    ) -> impl Future<Output = Result> + Send;

    /// Where the inode keeps its VFS inode.
    fn attached(inode: &Self::Inode) -> &Attached;

    /// The target of a symbolic link that is kept with the inode, with the zero at its end.
    fn fast_link<'a>(&self, inode: &'a Self::Inode) -> Option<&'a CStr>;
}

/// A VFS inode with what belongs to it.
#[repr(C)]
pub(crate) struct InodeBox<I> {
    raw: ub::upcall_inode,
    /// Set before the inode is published, constant until it is evicted.
    info: Option<I>,
    /// Readahead that is under way.
    pub(crate) reading: ub::atomic_t,
}

/// Constructs a box in the slab cache: once for its memory, not for each use.
///
/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn construct<I>(memory: *mut c_void) {
    let this: *mut InodeBox<I> = memory.cast();
    // SAFETY: The slab allocator passes memory of the cache's size.
    unsafe {
        ub::inode_init_once(&raw mut (*this).raw.inode);
        (&raw mut (*this).info).write(None);
        (&raw mut (*this).reading).write(ub::atomic_t::default());
    }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn alloc<F: FileSystem>(sb: *mut ub::super_block) -> *mut ub::inode {
    // SAFETY: The VFS passes a superblock of ours, which is mounted: the root inode is the first.
    unsafe {
        let inode = ub::upcall_alloc_inode(sb, SuperBlock::<F>::new(sb).mounted().cache);
        if !inode.is_null() {
            ub::upcall_names_init(inode.cast());
        }
        inode.cast()
    }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn free<F: FileSystem>(inode: *mut ub::inode) {
    let this: *mut InodeBox<F::Inode> = inode.cast();
    // SAFETY: Nobody uses the inode any more. The box goes back to the cache constructed.
    unsafe {
        drop((*this).info.take());
        ub::upcall_free_inode(inode.cast());
    }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn evict<F: FileSystem>(inode: *mut ub::inode) {
    let this: *mut InodeBox<F::Inode> = inode.cast();
    // SAFETY: The VFS passes an inode of ours without users.
    unsafe {
        // By the file system's count: the VFS's may not know yet of a change that did not come by
        // it.
        let volume = SuperBlock::<F>::new((*inode).i_sb).volume();
        let deleted = (*this)
            .info
            .as_ref()
            .is_some_and(|info| volume.attr(info).nlink == 0);
        if let Some(info) = &(*this).info {
            if deleted && volume.is_kept(info) {
                // What programs wrote is the file's, for who reads it past the page cache. What
                // cannot be written is noted in the log.
                ub::filemap_write_and_wait_range(&raw mut (*inode).i_data, 0, i64::MAX);
            }
            F::attached(info).clear();
        }
        ub::truncate_inode_pages_final(&raw mut (*inode).i_data);
        ub::upcall_users_wait(&raw mut (*this).reading);
        if let Some(info) = &(*this).info {
            volume.forget_inode(info);
        }
        let left = match &(*this).info {
            Some(info) if F::HAS_EVICT && deleted => {
                if volume.fast_link(info).is_some() {
                    // Path walks may look at the target until `free`.
                    Some(info.clone())
                } else {
                    (*this).info.take()
                }
            }
            _ => None,
        };
        if let Some(info) = left {
            // If it fails the inode stays on the disk's list of those to delete.
            let _ = pinned(|| volume.evict(info)).and_then(block_on);
        }
        ub::clear_inode(inode);
    }
}

/// A VFS inode, borrowed from a caller in C.
pub(crate) struct Inode<'a, F: FileSystem> {
    raw: NonNull<ub::inode>,
    sb: SuperBlock<'a, F>,
}

impl<'a, F: FileSystem> Inode<'a, F> {
    /// # Safety
    ///
    /// `inode` is an inode of a volume of type `F`, to which the file system's is attached, and is
    /// referenced for as long as `'a`.
    pub(crate) unsafe fn new(inode: *mut ub::inode) -> Self {
        // SAFETY: By the function's contract.
        unsafe {
            Self {
                raw: NonNull::new_unchecked(inode),
                sb: SuperBlock::new((*inode).i_sb),
            }
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut ub::inode {
        self.raw.as_ptr()
    }

    pub(crate) fn volume(&self) -> &'a F {
        self.sb.volume()
    }

    pub(crate) fn superblock(&self) -> &SuperBlock<'a, F> {
        &self.sb
    }

    pub(crate) fn info(&self) -> &'a F::Inode {
        let this: *const InodeBox<F::Inode> = self.raw.as_ptr().cast();
        // SAFETY: Our inodes are in boxes, and what is attached is constant while the inode is
        // referenced.
        match unsafe { &(*this).info } {
            Some(info) => info,
            // An inode to which nothing is attached is locked and new, and no operation is called
            // on it.
            None => unreachable!(),
        }
    }

    pub(crate) fn reading(&self) -> *mut ub::atomic_t {
        // SAFETY: Our inodes are in boxes.
        unsafe { &raw mut (*self.raw.as_ptr().cast::<InodeBox<F::Inode>>()).reading }
    }
}

/// A reference on a VFS inode.
pub(crate) struct InodeRef(NonNull<ub::inode>);

impl InodeRef {
    /// # Safety
    ///
    /// The caller has a reference, and passes it on.
    pub(crate) unsafe fn from_raw(inode: NonNull<ub::inode>) -> Self {
        Self(inode)
    }

    pub(crate) fn as_non_null(&self) -> NonNull<ub::inode> {
        self.0
    }

    pub(crate) fn as_ptr(&self) -> *mut ub::inode {
        self.0.as_ptr()
    }

    pub(crate) fn generation(&self) -> u32 {
        // SAFETY: We have a reference.
        unsafe { (*self.0.as_ptr()).i_generation }
    }

    pub(crate) fn into_raw(self) -> *mut ub::inode {
        ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        // SAFETY: We have a reference.
        unsafe { ub::iput(self.0.as_ptr()) }
    }
}

/// Gets the VFS inode with number `ino`, from memory or from the disk. May sleep.
pub(crate) fn get<F: FileSystem>(sb: &SuperBlock<'_, F>, ino: u32) -> Result<InodeRef> {
    // SAFETY: The superblock is mounted.
    let inode = unsafe { ub::iget_locked(sb.raw.as_ptr(), ino.into()) };
    let inode = NonNull::new(inode).ok_or(ENOMEM)?;
    // SAFETY: We have a reference.
    if !unsafe { ub::upcall_inode_is_new(inode.as_ptr()) } {
        return Ok(InodeRef(inode));
    }
    match block_on(sb.volume().iget(ino)).and_then(|info| info) {
        Ok(info) => {
            // SAFETY: The inode is new and locked, so it is ours to fill. If it cannot be, the
            // reference goes.
            unsafe {
                attach(sb, inode, info).inspect_err(|_| ub::iget_failed(inode.as_ptr()))?;
                ub::unlock_new_inode(inode.as_ptr());
            }
            Ok(InodeRef(inode))
        }
        Err(error) => {
            // SAFETY: As above; drops the reference.
            unsafe { ub::iget_failed(inode.as_ptr()) };
            Err(error)
        }
    }
}

/// Fills a VFS inode, and attaches it. Fails with the errors of [`while_unchanged`]. May sleep.
///
/// [`while_unchanged`]: InodeOperations::while_unchanged
///
/// # Safety
///
/// `inode` is new and locked.
pub(crate) unsafe fn attach<F: FileSystem>(
    sb: &SuperBlock<'_, F>,
    inode: NonNull<ub::inode>,
    info: F::Inode,
) -> Result {
    /// The VFS inode goes to the thread that blocks, which is the caller's.
    struct New(NonNull<ub::inode>);
    // SAFETY: It is used while the caller waits, and a VFS inode belongs to no thread.
    unsafe impl Send for New {}
    let (volume, new, kept) = (sb.volume(), New(inode), info.clone());
    block_on(volume.while_unchanged(&info, &mut move || {
        let New(inode) = &new;
        // SAFETY: By the function's contract.
        unsafe { fill(volume, *inode, &kept) }
    }))?
}

/// # Safety
///
/// `inode` is new and locked.
unsafe fn fill<F: FileSystem>(volume: &F, inode: NonNull<ub::inode>, info: &F::Inode) {
    let attr = volume.attr(info);
    let raw = inode.as_ptr();
    let c = c_attr(&attr);
    // SAFETY: By the function's contract.
    unsafe {
        ub::upcall_inode_fill(raw, &c);
        match attr.file_type {
            FileType::Directory => {
                (*raw).i_op = Ops::<F>::DIRECTORY;
                (*raw).__bindgen_anon_3.i_fop = dir::operations::<F>();
            }
            FileType::Regular => {
                (*raw).i_op = Ops::<F>::REGULAR;
                (*raw).__bindgen_anon_3.i_fop = file::operations::<F>();
                (*(*raw).i_mapping).a_ops = pages::operations::<F>();
                ub::upcall_set_large_folios(raw);
            }
            FileType::Symlink => match volume.fast_link(info) {
                Some(target) => {
                    (*raw).__bindgen_anon_5.i_link = target.as_char_ptr().cast_mut();
                    (*raw).i_op = Ops::<F>::FAST_LINK;
                }
                None => {
                    (*raw).i_op = Ops::<F>::SLOW_LINK;
                    (*(*raw).i_mapping).a_ops = pages::operations::<F>();
                    ub::upcall_inode_nohighmem(raw);
                }
            },
            _ => (*raw).i_op = Ops::<F>::SPECIAL,
        }
        // The memory is given back by `free`, an RCU callback, long after `evict`.
        F::attached(info).set(raw);
        (*raw.cast::<InodeBox<F::Inode>>()).info = Some(info.clone());
        // Whoever changed attributes in between did not find the VFS inode.
        refresh_by(volume, info, raw);
    }
}

/// The attributes for C.
fn c_attr(attr: &Attr) -> ub::upcall_attr {
    ub::upcall_attr {
        size: attr.size,
        sectors: attr.sectors,
        version: 0,
        atime: timespec(attr.atime),
        mtime: timespec(attr.mtime),
        ctime: timespec(attr.ctime),
        uid: attr.uid,
        gid: attr.gid,
        generation: attr.generation,
        nlink: attr.nlink,
        rdev_major: attr.device.0,
        rdev_minor: attr.device.1,
        s_flags: s_flags(attr.flags),
        mode: attr.mode,
        no_acl: attr.no_xattr,
    }
}

/// Copies what can change of the file system's inode into the VFS's, but for the size of a regular
/// file. Does not sleep.
pub(crate) fn refresh<F: FileSystem>(inode: &Inode<'_, F>) {
    // SAFETY: The inode is valid.
    unsafe { refresh_by(inode.volume(), inode.info(), inode.as_ptr()) }
}

/// # Safety
///
/// `raw` is, or was, the VFS inode of `info`, and its memory is valid.
pub(crate) unsafe fn refresh_by<F: FileSystem>(volume: &F, info: &F::Inode, raw: *mut ub::inode) {
    // SAFETY: By the function's contract. Under the lock nobody else is between reading and
    // copying.
    unsafe {
        ub::upcall_inode_state_lock(raw);
        ub::upcall_inode_mirror(raw, &c_attr(&volume.attr(info)));
        ub::upcall_inode_state_unlock(raw);
    }
}

/// The VFS's inode flags for `FS_*_FL`.
fn s_flags(flags: u32) -> u32 {
    [
        (ub::FS_SYNC_FL, ub::S_SYNC),
        (ub::FS_APPEND_FL, ub::S_APPEND),
        (ub::FS_IMMUTABLE_FL, ub::S_IMMUTABLE),
        (ub::FS_NOATIME_FL, ub::S_NOATIME),
        (ub::FS_DIRSYNC_FL, ub::S_DIRSYNC),
    ]
    .iter()
    .filter(|(fl, _)| flags & fl != 0)
    .fold(0, |all, (_, s)| all | s)
}

/// The functions that C calls.
struct Ops<F>(core::marker::PhantomData<F>);

impl<F: FileSystem> Ops<F> {
    const COMMON: ub::inode_operations = ub::inode_operations {
        getattr: Some(Self::getattr),
        setattr: present!(F::HAS_SET_ATTRIBUTES, setattr::setattr::<F>),
        update_time: present!(F::HAS_SET_ATTRIBUTES, setattr::update_time::<F>),
        sync_lazytime: present!(F::HAS_SET_ATTRIBUTES, setattr::sync_lazytime::<F>),
        listxattr: Some(xattr::list::<F>),
        get_inode_acl: Some(acl::get_inode_acl::<F>),
        set_acl: present!(F::HAS_SET_ACL, acl::set_acl::<F>),
        fileattr_get: Some(Self::fileattr_get),
        fileattr_set: present!(F::HAS_SET_ATTRIBUTES, setattr::fileattr_set::<F>),
        // SAFETY: Zero is what the C initialisers leave there.
        ..unsafe { core::mem::zeroed() }
    };
    const REGULAR: &'static ub::inode_operations = &ub::inode_operations {
        fiemap: Some(pages::fiemap::<F>),
        ..Self::COMMON
    };
    const DIRECTORY: &'static ub::inode_operations = &ub::inode_operations {
        lookup: Some(dir::lookup::<F>),
        create: present!(F::HAS_CREATE, Create::<F>::CREATE),
        mkdir: present!(F::HAS_CREATE, namei::mkdir::<F>),
        mknod: present!(F::HAS_CREATE, namei::mknod::<F>),
        symlink: present!(F::HAS_SYMLINK, namei::symlink::<F>),
        tmpfile: present!(F::HAS_TMPFILE, namei::tmpfile::<F>),
        link: present!(F::HAS_LINK, namei::link::<F>),
        unlink: present!(F::HAS_UNLINK, namei::unlink::<F>),
        rmdir: present!(F::HAS_RMDIR, namei::rmdir::<F>),
        rename: present!(F::HAS_RENAME, namei::rename::<F>),
        fiemap: Some(pages::fiemap::<F>),
        ..Self::COMMON
    };
    const FAST_LINK: &'static ub::inode_operations = &ub::inode_operations {
        get_link: Some(ub::simple_get_link),
        getattr: Some(Self::getattr),
        setattr: present!(F::HAS_SET_ATTRIBUTES, setattr::setattr::<F>),
        update_time: present!(F::HAS_SET_ATTRIBUTES, setattr::update_time::<F>),
        sync_lazytime: present!(F::HAS_SET_ATTRIBUTES, setattr::sync_lazytime::<F>),
        listxattr: Some(xattr::list::<F>),
        // SAFETY: As above.
        ..unsafe { core::mem::zeroed() }
    };
    const SLOW_LINK: &'static ub::inode_operations = &ub::inode_operations {
        get_link: Some(Self::get_link),
        ..*Self::FAST_LINK
    };
    const SPECIAL: &'static ub::inode_operations = &ub::inode_operations {
        getattr: Some(Self::getattr),
        setattr: present!(F::HAS_SET_ATTRIBUTES, setattr::setattr::<F>),
        update_time: present!(F::HAS_SET_ATTRIBUTES, setattr::update_time::<F>),
        sync_lazytime: present!(F::HAS_SET_ATTRIBUTES, setattr::sync_lazytime::<F>),
        listxattr: Some(xattr::list::<F>),
        get_inode_acl: Some(acl::get_inode_acl::<F>),
        set_acl: present!(F::HAS_SET_ACL, acl::set_acl::<F>),
        // SAFETY: As above.
        ..unsafe { core::mem::zeroed() }
    };

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn getattr(
        idmap: *mut ub::mnt_idmap,
        path: *const ub::path,
        stat: *mut ub::kstat,
        mask: u32,
        _query: c_uint,
    ) -> c_int {
        // SAFETY: The VFS passes a path to an inode of ours and a structure to fill.
        unsafe {
            let raw = (*(*path).dentry).d_inode;
            let inode = Inode::<F>::new(raw);
            let attr = inode.volume().stat_attr(inode.info());
            Self::fill_stat(&inode, &attr, stat, mask);
            ub::generic_fillattr(idmap, mask, raw, stat);
            if let Some(size) = attr.inline_size {
                // Programs take files without blocks for empty or sparse.
                (*stat).blocks += size.div_ceil(512);
            }
        }
        0
    }

    /// The target of a link that lies in blocks, by way of the page cache.
    ///
    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn get_link(
        dentry: *mut ub::dentry,
        raw: *mut ub::inode,
        done: *mut ub::delayed_call,
    ) -> *const c_char {
        // SAFETY: The VFS passes a link of ours; what `page_get_link` returns is a string or an
        // error.
        unsafe {
            let link = ub::page_get_link(dentry, raw, done);
            if !ub::upcall_link_is_empty(link, done) {
                return link;
            }
            if dentry.is_null() {
                // A path walk under RCU comes again: nothing keeps the volume in it.
                return ECHILD.to_ptr();
            }
            let inode = Inode::<F>::new(raw);
            let ino = inode.volume().attr(inode.info()).ino;
            inode.volume().disk().log_limited(
                Level::Error,
                format_args!("inode {ino}: a link without a target"),
            );
            error_pointer::<c_char>(crate::fs::errno(ub::EUCLEAN))
        }
    }

    /// What `generic_fillattr` does not know.
    ///
    /// # Safety
    ///
    /// `stat` is valid.
    unsafe fn fill_stat(inode: &Inode<'_, F>, attr: &StatAttr, stat: *mut ub::kstat, mask: u32) {
        const ATTRIBUTES: [(u32, u32); 6] = [
            (ub::FS_APPEND_FL, ub::STATX_ATTR_APPEND),
            (ub::FS_COMPR_FL, ub::STATX_ATTR_COMPRESSED),
            (ub::FS_ENCRYPT_FL, ub::STATX_ATTR_ENCRYPTED),
            (ub::FS_IMMUTABLE_FL, ub::STATX_ATTR_IMMUTABLE),
            (ub::FS_NODUMP_FL, ub::STATX_ATTR_NODUMP),
            (ub::FS_VERITY_FL, ub::STATX_ATTR_VERITY),
        ];
        // SAFETY: By the function's contract.
        unsafe {
            if let (Some(btime), true) = (attr.btime, mask & ub::STATX_BTIME != 0) {
                (*stat).result_mask |= ub::STATX_BTIME;
                (*stat).btime.tv_sec = btime.secs;
                (*stat).btime.tv_nsec = btime.nanos as c_long;
            }
            if mask & ub::STATX_DIOALIGN != 0 && attr.is_regular {
                let disk = inode.volume().disk();
                (*stat).result_mask |= ub::STATX_DIOALIGN;
                if attr.flags & ub::FS_ENCRYPT_FL != 0 {
                    // Blocks are encrypted as a whole.
                    (*stat).dio_mem_align = inode.volume().info().block_size;
                    (*stat).dio_offset_align = (*stat).dio_mem_align;
                } else if inode.volume().is_direct(inode.info()) {
                    (*stat).dio_mem_align = ub::upcall_dma_alignment(disk.device().as_ptr().cast());
                    (*stat).dio_offset_align = disk.logical_block_size();
                }
            }
            for (flag, attribute) in ATTRIBUTES {
                (*stat).attributes_mask |= u64::from(attribute);
                if attr.flags & flag != 0 {
                    (*stat).attributes |= u64::from(attribute);
                }
            }
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn fileattr_get(dentry: *mut ub::dentry, fa: *mut ub::file_kattr) -> c_int {
        // SAFETY: The VFS passes a dentry of ours and a structure to fill.
        unsafe {
            let inode = Inode::<F>::new((*dentry).d_inode);
            let attr = inode.volume().attr(inode.info());
            ub::fileattr_fill_flags(fa, attr.flags);
            (*fa).fsx_projid = attr.project;
        }
        0
    }
}

/// Turns an error into C's error pointer.
pub(crate) fn error_pointer<T>(error: Error) -> *mut T {
    error.to_ptr()
}

/// Turns a result into C's pointer or error pointer.
pub(crate) fn result_pointer<T>(result: Result<*mut T>) -> *mut T {
    result.unwrap_or_else(error_pointer)
}
