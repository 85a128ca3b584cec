// SPDX-License-Identifier: GPL-2.0

//! [`Buf`]: an immutable version of a block, and the pool that its memory comes from.
//!
//! # Concurrency
//!
//! A version is written by one owner while nobody else knows of it: by the device, when it is read,
//! or by an edit, under the lock of its block's shard, when the cache has the one reference. From
//! when a second reference exists until all but one are gone its bytes do not change. So the slice
//! of a `Buf` is sound, whoever edits the block meanwhile.
//!
//! The last reference may go in any context: memory goes to the pool's free list, which is under a
//! spinlock that disables interrupts, or is freed.
//!
//! # What is set aside
//!
//! Who may need a version later, and cannot wait for memory then, sets one aside: it counts one of
//! the free list as its own. Which one, is told when it is needed. So `unreserved` and what is set
//! aside are together as many as there are in the list, or fewer while somebody is between the two:
//! who puts one into the list counts it afterwards, and who takes one has counted it before.

use crate::sys::{self, IrqLock};
use core::mem::ManuallyDrop;
use core::ptr::{null_mut, NonNull};
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::atomic::{Acquire, Atomic, Full, Relaxed, Release};

/// How many versions without a user a pool keeps, so that the next ones need not be allocated.
const FREE_VERSIONS_MAX: usize = 256;

/// A version of a block.
pub(crate) struct Version {
    refs: Atomic<usize>,
    /// Whether the file system compared the checksum of these bytes.
    verified: Atomic<bool>,
    data: NonNull<u8>,
    /// The next one in the list that it is in: the pool's free list, or the blocks of one request.
    pub(crate) next: *mut Version,
    /// What the version will be of when its read is done.
    pub(crate) entry: *mut crate::cache::Entry,
    /// There while the version is in use.
    pool: Option<Arc<Pool>>,
    size: u32,
}

/// A reference on a version of a block, whose bytes do not change while it is held.
pub struct Buf(NonNull<Version>);

// SAFETY: The bytes are shared and do not change; the count is atomic.
unsafe impl Send for Buf {}
// SAFETY: As for `Send`.
unsafe impl Sync for Buf {}

impl Buf {
    fn version(&self) -> &Version {
        // SAFETY: We have a reference.
        unsafe { self.0.as_ref() }
    }

    /// The bytes, as many as the volume's block size.
    #[inline]
    pub fn data(&self) -> &[u8] {
        let version = self.version();
        // SAFETY: The memory has that size, and nobody writes to a version that others refer to.
        unsafe { core::slice::from_raw_parts(version.data.as_ptr(), version.size as usize) }
    }

    /// Whether [`set_verified`](Self::set_verified) was called for these bytes.
    pub fn is_verified(&self) -> bool {
        self.version().verified.load(Acquire)
    }

    /// Remembers that the checksum of these bytes was compared.
    pub fn set_verified(&self) {
        self.version().verified.store(true, Release);
    }

    /// Whether nobody else refers to the version.
    pub(crate) fn is_unique(&self) -> bool {
        self.version().refs.load(Acquire) == 1
    }

    /// The bytes, to be changed.
    ///
    /// # Safety
    ///
    /// The reference is unique, and none is made while the bytes are borrowed.
    pub(crate) unsafe fn data_mut(&mut self) -> &mut [u8] {
        let version = self.version();
        // SAFETY: By the function's contract the memory is ours alone.
        unsafe { core::slice::from_raw_parts_mut(version.data.as_ptr(), version.size as usize) }
    }

    /// Gives the reference away, as a pointer.
    pub(crate) fn into_raw(self) -> NonNull<Version> {
        ManuallyDrop::new(self).0
    }

    /// Takes back what [`into_raw`](Self::into_raw) gave away.
    ///
    /// # Safety
    ///
    /// The pointer comes from there, and its reference is the caller's.
    pub(crate) unsafe fn from_raw(raw: NonNull<Version>) -> Self {
        Self(raw)
    }

    /// What a request needs to know of the memory.
    pub(crate) fn segment(&self) -> upcall::bio::Segment {
        let version = self.version();
        // SAFETY: The memory comes from `alloc_block`, with that size.
        unsafe { sys::segment(version.data, version.size) }
    }
}

impl Clone for Buf {
    #[inline]
    fn clone(&self) -> Self {
        // Of 64 bits, which no program counts through.
        self.version().refs.fetch_add(1, Relaxed);
        Self(self.0)
    }
}

impl Drop for Buf {
    #[inline]
    fn drop(&mut self) {
        if self.version().refs.fetch_sub(1, Full) == 1 {
            // SAFETY: It was the last reference.
            unsafe { release(self.0) };
        }
    }
}

/// Gives the memory of a version to its pool.
///
/// # Safety
///
/// Nobody refers to the version.
unsafe fn release(mut version: NonNull<Version>) {
    // SAFETY: By the function's contract the version is ours.
    let pool = unsafe { version.as_mut() }.pool.take();
    match pool {
        // SAFETY: As for the line before.
        Some(pool) => unsafe { pool.put(version) },
        // SAFETY: As for the line before.
        None => unsafe { free_version(version) },
    }
}

/// Frees the memory of a version.
///
/// # Safety
///
/// Nobody refers to the version, and it is in no list.
unsafe fn free_version(version: NonNull<Version>) {
    // SAFETY: By the function's contract the version is ours, and it came from a box.
    unsafe {
        let version = KBox::from_raw(version.as_ptr());
        sys::free_block(version.data, version.size);
    }
}

/// The versions that are not used.
struct FreeList {
    head: *mut Version,
}

// SAFETY: What is in the list is the list's alone.
unsafe impl Send for FreeList {}

/// Where versions of blocks of one size come from.
pub(crate) struct Pool {
    size: u32,
    /// How many in the free list are nobody's.
    unreserved: Atomic<usize>,
    free: IrqLock<FreeList>,
}

impl Pool {
    /// Makes a pool of blocks of `size` bytes.
    pub(crate) fn new(size: u32) -> Result<Arc<Self>> {
        let free = FreeList { head: null_mut() };
        let pool = Arc::new(
            Self {
                size,
                unreserved: Atomic::new(0),
                free: IrqLock::new(free),
            },
            GFP_KERNEL,
        )?;
        // SAFETY: Nobody else knows of the pool, and an `Arc` does not move.
        unsafe { pool.free.init() };
        Ok(pool)
    }

    /// The size of a block in bytes.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// A version that nobody else knows of, with undefined bytes. Waits for memory if `wait`, and
    /// then not for a file system.
    pub(crate) fn get(self: &Arc<Self>, wait: bool) -> Option<Buf> {
        let version = self.take().or_else(|| self.make(wait))?;
        // SAFETY: The version is ours alone.
        Some(unsafe { self.begin(version) })
    }

    /// Sets a version aside, and makes one for that if there is none. Returns whether there is
    /// memory, for which it does not wait.
    pub(crate) fn reserve(&self) -> bool {
        if self.count_one() {
            return true;
        }
        let made = self.make(false);
        // SAFETY: Nobody else knows of it.
        made.map(|version| unsafe { self.push(version) }).is_some()
    }

    /// Sets `buf` aside, of which nobody else knows.
    pub(crate) fn reserve_as(&self, buf: Buf) {
        debug_assert!(buf.is_unique());
        let mut version = buf.into_raw();
        // SAFETY: It was the one reference.
        unsafe {
            drop(version.as_mut().pool.take());
            self.push(version);
        }
    }

    /// Gives back what was set aside.
    pub(crate) fn cancel(&self) {
        if self.unreserved.fetch_add(1, Release) >= FREE_VERSIONS_MAX {
            if let Some(version) = self.take() {
                // SAFETY: It was in the list, so nobody refers to it.
                unsafe { free_version(version) };
            }
        }
    }

    /// The version that the caller has set aside, with undefined bytes. None if he has not.
    pub(crate) fn take_reserved(self: &Arc<Self>) -> Option<Buf> {
        let version = self.pop()?;
        // SAFETY: The version is ours alone.
        Some(unsafe { self.begin(version) })
    }

    /// The first reference to a version.
    ///
    /// # Safety
    ///
    /// Nobody else knows of the version, which is of this pool.
    unsafe fn begin(self: &Arc<Self>, mut version: NonNull<Version>) -> Buf {
        // SAFETY: By the function's contract the version is ours.
        let this = unsafe { version.as_mut() };
        this.refs.store(1, Relaxed);
        this.verified.store(false, Relaxed);
        this.next = null_mut();
        this.entry = null_mut();
        this.pool = Some(self.clone());
        Buf(version)
    }

    /// Counts one of the list as the caller's, if one is nobody's.
    fn count_one(&self) -> bool {
        let mut count = self.unreserved.load(Relaxed);
        while let Some(less) = count.checked_sub(1) {
            match self.unreserved.cmpxchg(count, less, Acquire) {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
        false
    }

    /// Takes one that is nobody's.
    fn take(&self) -> Option<NonNull<Version>> {
        self.count_one().then(|| self.pop()).flatten()
    }

    /// Takes one, which the caller has counted.
    fn pop(&self) -> Option<NonNull<Version>> {
        let mut free = self.free.lock();
        let version = NonNull::new(free.head)?;
        // SAFETY: What is in the list is the list's alone.
        free.head = unsafe { version.as_ref() }.next;
        Some(version)
    }

    /// Puts one into the list. The caller counts it.
    ///
    /// # Safety
    ///
    /// Nobody refers to the version, which is of this pool.
    unsafe fn push(&self, mut version: NonNull<Version>) {
        let mut free = self.free.lock();
        // SAFETY: By the function's contract the version is ours.
        unsafe { version.as_mut() }.next = free.head;
        free.head = version.as_ptr();
    }

    fn make(&self, wait: bool) -> Option<NonNull<Version>> {
        // What is waited for is not to wait for what a file system does to free memory.
        let _nofs = wait.then(sys::NoFs::enter);
        let flags = if wait { GFP_KERNEL } else { sys::GFP_NOWAIT };
        let data = sys::alloc_block(self.size, wait)?;
        let version = Version {
            refs: Atomic::new(1),
            verified: Atomic::new(false),
            data,
            next: null_mut(),
            entry: null_mut(),
            pool: None,
            size: self.size,
        };
        match KBox::new(version, flags) {
            Ok(version) => NonNull::new(KBox::into_raw(version)),
            Err(_) => {
                // SAFETY: The memory is ours, and was allocated with that size.
                unsafe { sys::free_block(data, self.size) };
                None
            }
        }
    }

    /// Takes back a version that nobody refers to.
    ///
    /// # Safety
    ///
    /// Nobody refers to the version, which is of this pool.
    unsafe fn put(&self, version: NonNull<Version>) {
        if self.unreserved.load(Relaxed) < FREE_VERSIONS_MAX {
            // SAFETY: By the function's contract.
            unsafe { self.push(version) };
            self.unreserved.fetch_add(1, Release);
        } else {
            // SAFETY: By the function's contract.
            unsafe { free_version(version) };
        }
    }

    /// Frees the versions that are not used. Returns how many there were.
    pub(crate) fn shrink(&self) -> usize {
        let mut count = 0;
        while let Some(version) = self.take() {
            // SAFETY: It was in the list, so nobody refers to it.
            unsafe { free_version(version) };
            count += 1;
        }
        count
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Not under the lock, which was not initialised if there was no memory for the pool.
        let free = self.free.get_mut();
        let mut count = 0;
        while let Some(version) = NonNull::new(free.head) {
            // SAFETY: What is in the list is the list's alone, and nobody refers to it.
            unsafe {
                free.head = version.as_ref().next;
                free_version(version);
            }
            count += 1;
        }
        // Whoever has set one aside has a reference to the pool.
        kernel::warn_on!(count != self.unreserved.load(Relaxed));
    }
}
