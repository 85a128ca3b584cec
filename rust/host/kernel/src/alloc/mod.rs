// SPDX-License-Identifier: GPL-2.0

//! Memory.
//!
//! All of it is from the host's allocator, so that a sanitizer sees each object. Each allocation
//! asks the [machine](crate::machine) first, which counts it, and fails those that a test wants to
//! fail.

mod kbox;
mod kvec;

use crate::machine;
use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

pub use kbox::Box;
pub use kvec::Vec;

/// A vector of what `kmalloc` gives.
pub type KVec<T> = Vec<T, allocator::Kmalloc>;
/// A vector of what `vmalloc` gives.
pub type VVec<T> = Vec<T, allocator::Vmalloc>;
/// A vector of what `kvmalloc` gives.
pub type KVVec<T> = Vec<T, allocator::KVmalloc>;
/// A value in what `kmalloc` gives.
pub type KBox<T> = Box<T, allocator::Kmalloc>;
/// A value in what `vmalloc` gives.
pub type VBox<T> = Box<T, allocator::Vmalloc>;
/// A value in what `kvmalloc` gives.
pub type KVBox<T> = Box<T, allocator::KVmalloc>;

/// There was no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no memory")
    }
}

/// How memory is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Whether all of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the caller can wait for memory.
    pub fn may_sleep(self) -> bool {
        self.contains(flags::__GFP_DIRECT_RECLAIM)
    }
}

impl core::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl core::ops::BitAnd for Flags {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl core::ops::Not for Flags {
    type Output = Self;

    fn not(self) -> Self {
        Self(!self.0)
    }
}

/// The flags by name.
pub mod flags {
    use super::Flags;

    /// The memory is filled with zeroes.
    pub const __GFP_ZERO: Flags = Flags(1);
    /// It may be in high memory.
    pub const __GFP_HIGHMEM: Flags = Flags(2);
    /// No warning if there is none.
    pub const __GFP_NOWARN: Flags = Flags(4);
    /// The caller may wait for reclaim.
    pub const __GFP_DIRECT_RECLAIM: Flags = Flags(8);
    /// Reclaim may use file systems.
    pub const __GFP_FS: Flags = Flags(16);
    /// Reserves may be used.
    pub const __GFP_HIGH: Flags = Flags(32);
    /// Rather fail than try hard.
    pub const __GFP_NORETRY: Flags = Flags(64);
    /// It is charged to the caller's group.
    pub const __GFP_ACCOUNT: Flags = Flags(128);
    /// Not from the emergency reserves.
    pub const __GFP_NOMEMALLOC: Flags = Flags(256);
    /// For a caller that may wait.
    pub const GFP_KERNEL: Flags = Flags(8 | 16);
    /// For a caller that may wait, but for no file system.
    pub const GFP_NOFS: Flags = Flags(8);
    /// For a caller that may wait, charged to its group.
    pub const GFP_KERNEL_ACCOUNT: Flags = Flags(8 | 16 | 128);
    /// For a caller that may not wait, from the reserves if need be.
    pub const GFP_ATOMIC: Flags = Flags(32);
    /// For a caller that may not wait.
    pub const GFP_NOWAIT: Flags = Flags(4);
}

/// The allocators, which differ in nothing on the host.
pub mod allocator {
    /// C: `kmalloc`.
    pub struct Kmalloc;
    /// C: `vmalloc`.
    pub struct Vmalloc;
    /// C: `kvmalloc`.
    pub struct KVmalloc;
}

/// What marks an allocator.
pub trait Allocator {}
impl Allocator for allocator::Kmalloc {}
impl Allocator for allocator::Vmalloc {}
impl Allocator for allocator::KVmalloc {}

/// Allocates memory of this layout, whose size is not zero. Fails when a test says so.
pub fn allocate(
    layout: Layout,
    flags: Flags,
    what: &'static str,
) -> Result<NonNull<u8>, AllocError> {
    machine::may_allocate(layout.size(), flags, what)?;
    assert_ne!(layout.size(), 0, "an allocation of nothing");
    // SAFETY: The size is not zero.
    let memory = unsafe {
        if flags.contains(flags::__GFP_ZERO) {
            std::alloc::alloc_zeroed(layout)
        } else {
            let memory = std::alloc::alloc(layout);
            if !memory.is_null() && !cfg!(miri) {
                // Nobody relies on zeroes that he did not ask for.
                memory.write_bytes(0x6b, layout.size());
            }
            memory
        }
    };
    let memory = NonNull::new(memory).ok_or(AllocError)?;
    machine::allocated(memory.as_ptr() as usize, layout.size(), what);
    Ok(memory)
}

/// Frees memory of [`allocate`].
///
/// # Safety
///
/// It comes from [`allocate`] with this layout, and nobody uses it any more.
pub unsafe fn release(memory: NonNull<u8>, layout: Layout) {
    machine::freed(memory.as_ptr() as usize);
    // SAFETY: By the function's contract.
    unsafe {
        if !cfg!(miri) {
            // A late use without a sanitizer finds no valid pointer.
            memory.as_ptr().write_bytes(0xa5, layout.size());
        }
        std::alloc::dealloc(memory.as_ptr(), layout);
    }
}
