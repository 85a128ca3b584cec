// SPDX-License-Identifier: GPL-2.0

//! Pages.

use crate::alloc::{allocate, release, AllocError, Flags};
use core::alloc::Layout;
use core::ptr::NonNull;

/// The size of a page, in bytes.
pub const PAGE_SIZE: usize = 4096;
/// Its shift.
pub const PAGE_SHIFT: usize = 12;
/// What an address has of the page's number.
pub const PAGE_MASK: usize = !(PAGE_SIZE - 1);

/// C's `struct page`: on the host the page itself, so that its address is the pointer.
#[allow(non_camel_case_types)]
#[repr(C, align(4096))]
pub struct page([u8; PAGE_SIZE]);

/// An owned page.
pub struct Page(NonNull<page>);

// SAFETY: It owns the page.
unsafe impl Send for Page {}
// SAFETY: A shared one gives access to nothing without `unsafe`.
unsafe impl Sync for Page {}

impl Page {
    /// Allocates a page.
    pub fn alloc_page(flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(allocate(Layout::new::<page>(), flags, "page")?.cast()))
    }

    /// The C page.
    pub fn as_ptr(&self) -> *mut page {
        self.0.as_ptr()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: The page is ours.
        unsafe { release(self.0.cast(), Layout::new::<page>()) };
    }
}
