// SPDX-License-Identifier: GPL-2.0

//! Changing the names in a directory: files come, go, and are renamed.
//!
//! The file system does each of it in one transaction, and its inodes are the truth. When the
//! transaction is over the attributes of all inodes that it was about are copied into the VFS's.
//!
//! # New inodes
//!
//! The VFS inode is made first, without a number: owner, permissions, and the attributes that
//! security modules want, are worked out with it. The file system makes its inode of them, and only
//! then the VFS inode gets its number and is entered into the VFS's table, since that may wait for
//! the eviction of one that had the number before. In between somebody with a file handle may have
//! got another VFS inode for the new inode. Then ours goes, and that one is used.
//!
//! # Locks
//!
//! The VFS has locked the directories, and what is removed, replaced or linked. The futures take
//! none of its locks.

use crate::acl_entry::AclEntry;
use crate::dir::name_bytes;
use crate::fs::FileSystem;
use crate::inode::{attach, get, refresh, result_pointer, Inode, InodeRef};
use crate::new_inode::{NewInode, NewXattr};
use crate::superblock::SuperBlock;
use crate::xattr_name::XattrNamespace;
use core::ptr::{null, null_mut, NonNull};
use disk::pinned;
use kernel::error::{from_result, to_result};
use kernel::ffi::{c_char, c_int, c_uint, c_void};
use kernel::prelude::*;
use upcall::block_on;
use upcall_bindings as ub;

const S_IFREG: u16 = 0o100_000;
const S_IFLNK: u16 = 0o120_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFCHR: u16 = 0o020_000;

/// A change of names: something gets another name, in the same or another directory.
pub struct Rename<'a, I> {
    /// The directory that has it.
    pub from: &'a I,
    /// Its name there.
    pub name: &'a [u8],
    /// What is renamed.
    pub source: &'a I,
    /// The directory that is to have it.
    pub to: &'a I,
    /// Its name there.
    pub new_name: &'a [u8],
    /// What has that name now: it is removed, or gets the other name.
    pub target: Option<&'a I>,
    /// Whether the two names are exchanged.
    pub exchange: bool,
    /// What is to be under the old name afterwards.
    pub whiteout: Option<&'a NewInode>,
}

/// A VFS inode that has no number yet, and what the file system is to make.
struct Fresh {
    inode: InodeRef,
    new: NewInode,
}

impl Fresh {
    /// Works out what a new inode in `dir` is to be.
    ///
    /// # Safety
    ///
    /// `idmap` is that of the caller's mount, and `name` is null or valid.
    unsafe fn prepare<F: FileSystem>(
        idmap: *mut ub::mnt_idmap,
        dir: &Inode<'_, F>,
        name: *const ub::qstr,
        mode: u16,
        device: (u32, u32),
    ) -> Result<Self> {
        let mut new = NewInode::with_mode(mode);
        new.device = device;
        let grpid = dir.volume().group_of_dir();
        // SAFETY: By the function's contract. The VFS inode is ours.
        unsafe {
            let raw = ub::upcall_new_inode(idmap, dir.as_ptr(), mode, grpid);
            let inode = InodeRef::from_raw(NonNull::new(raw).ok_or(ENOMEM)?);
            let (mut default, mut access) = (null_mut(), null_mut());
            to_result(ub::posix_acl_create(
                dir.as_ptr(),
                &raw mut (*raw).i_mode,
                &mut default,
                &mut access,
            ))?;
            let lists = (entries(default), entries(access));
            ub::upcall_drop_acl(default);
            ub::upcall_drop_acl(access);
            (new.default_acl, new.acl) = (lists.0?, lists.1?);
            to_result(ub::upcall_init_security(
                raw,
                dir.as_ptr(),
                name,
                Some(add_xattr),
                (&raw mut new.xattrs).cast(),
            ))?;
            new.mode = (*raw).i_mode;
            ub::upcall_inode_owner(raw, &mut new.uid, &mut new.gid);
            Ok(Self { inode, new })
        }
    }

    /// Makes the VFS inode that of the new inode `info`.
    fn publish<F: FileSystem>(self, sb: &SuperBlock<'_, F>, info: F::Inode) -> Result<Made> {
        let ino = sb.volume().attr(&info).ino;
        // SAFETY: The inode is ours, and has no number.
        if unsafe { ub::upcall_insert_inode(self.inode.as_ptr(), ino.into()) } != 0 {
            return Ok(Made::Found(get(sb, ino)?));
        }
        // SAFETY: The inode is new and locked, and goes if it cannot be filled.
        unsafe {
            if let Err(error) = attach(sb, self.inode.as_non_null(), info) {
                ub::iget_failed(self.inode.into_raw());
                return Err(error);
            }
        }
        Ok(Made::New(self.inode))
    }
}

/// The VFS inode of a new inode.
enum Made {
    /// Ours, which is locked.
    New(InodeRef),
    /// Somebody else's.
    Found(InodeRef),
}

impl Made {
    /// Gives it the name `dentry`. Returns another dentry if that is the inode's.
    ///
    /// # Safety
    ///
    /// `dentry` has no inode, and its directory is locked.
    unsafe fn instantiate(self, dentry: *mut ub::dentry) -> *mut ub::dentry {
        // SAFETY: By the function's contract; the reference goes along.
        unsafe {
            match self {
                Made::New(inode) => {
                    ub::d_instantiate_new(dentry, inode.into_raw());
                    null_mut()
                }
                // A directory has one dentry only, and a handle may have made it.
                Made::Found(inode) => {
                    ub::d_drop(dentry);
                    ub::d_splice_alias(inode.into_raw(), dentry)
                }
            }
        }
    }
}

/// The entries of a list of the VFS, if there is one.
///
/// # Safety
///
/// `acl` is null or valid.
pub(crate) unsafe fn entries(acl: *mut ub::posix_acl) -> Result<Option<KVec<AclEntry>>> {
    if acl.is_null() {
        return Ok(None);
    }
    // SAFETY: By the function's contract. The list has as many entries as it says.
    let count = unsafe { (*acl).__bindgen_anon_1.__bindgen_anon_1.a_count };
    let mut entries = KVec::with_capacity(count as usize, GFP_KERNEL)?;
    for i in 0..count {
        let mut entry = ub::upcall_acl_entry::default();
        // SAFETY: As above.
        unsafe { ub::upcall_acl_get(acl, i, &mut entry) };
        let entry = AclEntry {
            tag: entry.tag,
            perm: entry.perm,
            id: entry.id,
        };
        entries.push(entry, GFP_KERNEL)?;
    }
    Ok(Some(entries))
}

/// Takes what security modules want.
///
/// # Safety
///
/// Called by the kernel alone, with what [`Fresh::prepare`] passed.
unsafe extern "C" fn add_xattr(
    _inode: *mut ub::inode,
    mut xattr: *const ub::xattr,
    data: *mut c_void,
) -> c_int {
    from_result(|| {
        // SAFETY: By the function's contract. The array ends with an attribute without a name.
        unsafe {
            let xattrs = &mut *data.cast::<KVec<NewXattr>>();
            while !(*xattr).name.is_null() {
                let (mut name, mut value) = (KVec::new(), KVec::new());
                name.extend_from_slice(CStr::from_char_ptr((*xattr).name).to_bytes(), GFP_KERNEL)?;
                let bytes = core::slice::from_raw_parts((*xattr).value.cast(), (*xattr).value_len);
                value.extend_from_slice(bytes, GFP_KERNEL)?;
                let namespace = XattrNamespace::Security;
                let new = NewXattr {
                    namespace,
                    name,
                    value,
                };
                xattrs.push(new, GFP_KERNEL)?;
                xattr = xattr.add(1);
            }
        }
        Ok(0)
    })
}

/// Waits for the disk, if the directory was mounted or marked for that.
fn sync_if_asked<F: FileSystem>(dir: &Inode<'_, F>) -> Result {
    // SAFETY: The inode is valid.
    if unsafe { ub::upcall_inode_is_dirsync(dir.as_ptr()) } {
        block_on(dir.volume().sync_inode(dir.info(), false))??;
    }
    Ok(())
}

/// What a dentry is called.
///
/// # Safety
///
/// The dentry is valid, and its name stable, for as long as `'a`.
unsafe fn name<'a>(dentry: *mut ub::dentry) -> (*const ub::qstr, &'a [u8]) {
    // SAFETY: By the function's contract.
    unsafe {
        let name = &raw const (*dentry).__bindgen_anon_1.d_name;
        (name, name_bytes(name))
    }
}

/// What the VFS is told when a name is there that its dentry says is not: somebody made it past the
/// VFS, which comes again and looks it up.
fn unexpected(error: Error) -> Error {
    match error {
        EEXIST => ESTALE,
        error => error,
    }
}

/// Makes a new inode with the name `dentry`: a link to `target`, if there is one.
///
/// # Safety
///
/// As the VFS calls `create`.
unsafe fn make<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
    mode: u16,
    device: (u32, u32),
    target: Option<&[u8]>,
) -> Result<*mut ub::dentry> {
    // SAFETY: By the function's contract.
    unsafe {
        let dir = Inode::<F>::new(dir);
        let volume = dir.volume();
        let (qstr, name) = name(dentry);
        let fresh = Fresh::prepare(idmap, &dir, qstr, mode, device)?;
        let new = &fresh.new;
        let info = match target {
            Some(target) => block_on(pinned(|| volume.symlink(dir.info(), name, target, new))?)?,
            None => block_on(pinned(|| volume.create(dir.info(), name, new))?)?,
        };
        let info = info.map_err(unexpected)?;
        refresh(&dir);
        let made = fresh.publish(dir.superblock(), info).inspect_err(|_| {
            // The file is there, and this dentry says that it is not.
            ub::d_drop(dentry);
        })?;
        let other = made.instantiate(dentry);
        sync_if_asked(&dir)?;
        Ok(other)
    }
}

/// As [`make`], for what is no directory.
///
/// # Safety
///
/// As [`make`].
unsafe fn make_file<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
    mode: u16,
    device: (u32, u32),
    target: Option<&[u8]>,
) -> c_int {
    from_result(|| {
        // SAFETY: By the function's contract.
        let other = unsafe { make::<F>(idmap, dir, dentry, mode, device, target) }?;
        // Only directories have one dentry of their own; but it may be an error.
        if !other.is_null() {
            kernel::error::from_err_ptr(other)?;
            // SAFETY: The reference is ours.
            unsafe { ub::dput(other) };
        }
        Ok(0)
    })
}

/// `create`, as the kernel's series has it: with or without the last argument, which says that
/// there must not be such a file, and of which the VFS takes care.
pub(crate) trait Create<F> {
    /// The function.
    const CREATE: Self;
}

type Create4 =
    unsafe extern "C" fn(*mut ub::mnt_idmap, *mut ub::inode, *mut ub::dentry, ub::umode_t) -> c_int;
type Create5 = unsafe extern "C" fn(
    *mut ub::mnt_idmap,
    *mut ub::inode,
    *mut ub::dentry,
    ub::umode_t,
    bool,
) -> c_int;

impl<F: FileSystem> Create<F> for Create4 {
    const CREATE: Self = create::<F>;
}

impl<F: FileSystem> Create<F> for Create5 {
    const CREATE: Self = create_excl::<F>;
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
unsafe extern "C" fn create<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
    mode: ub::umode_t,
) -> c_int {
    // SAFETY: The VFS passes a directory of ours, locked, and a dentry of it without an inode.
    unsafe { make_file::<F>(idmap, dir, dentry, mode | S_IFREG, (0, 0), None) }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
unsafe extern "C" fn create_excl<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
    mode: ub::umode_t,
    _excl: bool,
) -> c_int {
    // SAFETY: As above.
    unsafe { create::<F>(idmap, dir, dentry, mode) }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn mkdir<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
    mode: ub::umode_t,
) -> *mut ub::dentry {
    // SAFETY: As above.
    result_pointer(unsafe { make::<F>(idmap, dir, dentry, mode | S_IFDIR, (0, 0), None) })
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn mknod<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
    mode: ub::umode_t,
    device: ub::dev_t,
) -> c_int {
    // SAFETY: As above.
    unsafe {
        let device = (ub::upcall_dev_major(device), ub::upcall_dev_minor(device));
        make_file::<F>(idmap, dir, dentry, mode, device, None)
    }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn symlink<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
    target: *const c_char,
) -> c_int {
    // SAFETY: As above; the target ends with a zero.
    unsafe {
        let target = CStr::from_char_ptr(target).to_bytes();
        let mode = S_IFLNK | 0o777;
        make_file::<F>(idmap, dir, dentry, mode, (0, 0), Some(target))
    }
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn tmpfile<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    dir: *mut ub::inode,
    file: *mut ub::file,
    mode: ub::umode_t,
) -> c_int {
    from_result(|| {
        // SAFETY: The VFS passes a directory of ours, and a file with a dentry without an inode.
        unsafe {
            let dir = Inode::<F>::new(dir);
            let fresh = Fresh::prepare(idmap, &dir, null(), mode | S_IFREG, (0, 0))?;
            let volume = dir.volume();
            let info = block_on(pinned(|| volume.tmpfile(dir.info(), &fresh.new))?)??;
            match fresh.publish(dir.superblock(), info)? {
                Made::New(inode) => {
                    ub::unlock_new_inode(inode.as_ptr());
                    to_result(ub::upcall_open_tmpfile(file, inode.into_raw()))?;
                }
                // A handle cannot lead to what never had a name.
                Made::Found(_) => return Err(ESTALE),
            }
            Ok(0)
        }
    })
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn link<F: FileSystem>(
    old: *mut ub::dentry,
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
) -> c_int {
    from_result(|| {
        // SAFETY: The VFS passes a dentry with an inode, locked, and as above.
        unsafe {
            let (dir, inode) = (Inode::<F>::new(dir), Inode::<F>::new((*old).d_inode));
            let (volume, name) = (dir.volume(), name(dentry).1);
            block_on(pinned(|| volume.link(dir.info(), name, inode.info()))?)?
                .map_err(unexpected)?;
            refresh(&dir);
            refresh(&inode);
            ub::ihold(inode.as_ptr());
            ub::d_instantiate(dentry, inode.as_ptr());
            sync_if_asked(&dir)?;
        }
        Ok(0)
    })
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn unlink<F: FileSystem>(
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
) -> c_int {
    // SAFETY: As for `remove`.
    from_result(|| unsafe { remove::<F>(dir, dentry, false) })
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn rmdir<F: FileSystem>(
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
) -> c_int {
    // SAFETY: As for `remove`.
    from_result(|| unsafe { remove::<F>(dir, dentry, true) })
}

/// # Safety
///
/// `dir` is a directory of ours, and `dentry` one of it with an inode; both are locked.
unsafe fn remove<F: FileSystem>(
    dir: *mut ub::inode,
    dentry: *mut ub::dentry,
    is_dir: bool,
) -> Result<c_int> {
    // SAFETY: By the function's contract.
    let (dir, child, name) = unsafe {
        let child = Inode::<F>::new((*dentry).d_inode);
        (Inode::<F>::new(dir), child, name(dentry).1)
    };
    let volume = dir.volume();
    if is_dir {
        block_on(pinned(|| volume.rmdir(dir.info(), name, child.info()))?)??;
    } else {
        block_on(pinned(|| volume.unlink(dir.info(), name, child.info()))?)??;
    }
    refresh(&dir);
    refresh(&child);
    sync_if_asked(&dir)?;
    Ok(0)
}

/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
pub(crate) unsafe extern "C" fn rename<F: FileSystem>(
    idmap: *mut ub::mnt_idmap,
    from: *mut ub::inode,
    old: *mut ub::dentry,
    to: *mut ub::inode,
    new: *mut ub::dentry,
    flags: c_uint,
) -> c_int {
    from_result(|| {
        // That there is no such name the VFS has looked.
        if flags & !(ub::RENAME_NOREPLACE | ub::RENAME_EXCHANGE | ub::RENAME_WHITEOUT) != 0 {
            return Err(EINVAL);
        }
        // SAFETY: The VFS passes directories of ours, locked, and dentries of them; the first has
        // an inode.
        unsafe {
            let (from, to) = (Inode::<F>::new(from), Inode::<F>::new(to));
            let source = Inode::<F>::new((*old).d_inode);
            let target = NonNull::new((*new).d_inode).map(|raw| Inode::<F>::new(raw.as_ptr()));
            let ((qstr, name), new_name) = (name(old), name(new).1);
            let whiteout = if flags & ub::RENAME_WHITEOUT != 0 {
                Some(Fresh::prepare(idmap, &from, qstr, S_IFCHR, (0, 0))?)
            } else {
                None
            };
            let rename = Rename {
                from: from.info(),
                name,
                source: source.info(),
                to: to.info(),
                new_name,
                target: target.as_ref().map(Inode::info),
                exchange: flags & ub::RENAME_EXCHANGE != 0,
                whiteout: whiteout.as_ref().map(|fresh| &fresh.new),
            };
            if target.is_some() && !rename.exchange && from.volume().flush_on_replace() {
                // After a loss of power the name leads to the old contents or to the new ones. An
                // error is for who syncs the file.
                ub::filemap_write_and_wait_range((*(*old).d_inode).i_mapping, 0, i64::MAX);
            }
            block_on(pinned(|| from.volume().rename(rename))?)?.map_err(unexpected)?;
            for inode in [Some(&from), Some(&to), Some(&source), target.as_ref()] {
                inode.map(refresh);
            }
            sync_if_asked(&from)?;
            sync_if_asked(&to)?;
        }
        Ok(0)
    })
}
