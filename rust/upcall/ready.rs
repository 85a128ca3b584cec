// SPDX-License-Identifier: GPL-2.0

//! The ready list: what the executor is to poll next.
//!
//! Many producers, in any context up to hard interrupt, push; one consumer takes the whole list at
//! once. It is the algorithm of the kernel's `llist`
//! ([`include/linux/llist.h`](srctree/include/linux/llist.h)): a stack that is taken by one exchange
//! and reversed, so that the batch comes out in the order it was pushed. Since nothing is ever
//! popped singly there is no ABA problem and no lock.
//!
//! The list does not own what it links: whoever pushes passes a reference along, and the consumer
//! gets it.

use super::sys::{Atomic, Cell, Full, Relaxed};
use core::ptr::{null_mut, NonNull};

/// The link that a listed object embeds.
pub(crate) struct Link {
    /// Owned by whoever has the right to push the object, then by the list, then by the consumer.
    next: Cell<*mut Link>,
}

impl Link {
    /// Makes a link that is on no list.
    pub(crate) fn new() -> Self {
        Self {
            next: Cell::new(null_mut()),
        }
    }
}

/// A lock-free list with many producers and one consumer.
pub(crate) struct ReadyList {
    head: Atomic<*mut Link>,
}

impl ReadyList {
    /// Makes an empty list.
    pub(crate) fn new() -> Self {
        Self {
            head: Atomic::new(null_mut()),
        }
    }

    /// Pushes `link`. Returns `true` if the list was empty: then the caller wakes the consumer.
    ///
    /// Any context.
    ///
    /// # Safety
    ///
    /// `link` is on no list, stays valid until the consumer has it, and nobody else pushes it.
    pub(crate) unsafe fn push(&self, link: NonNull<Link>) -> bool {
        let mut head = self.head.load(Relaxed);
        loop {
            // SAFETY: The caller has the right to push, so the link is ours until it is listed.
            unsafe { link.as_ref().next.with_mut(|next| *next = head) };
            match self.head.cmpxchg(head, link.as_ptr(), Full) {
                Ok(_) => return head.is_null(),
                Err(now) => head = now,
            }
        }
    }

    /// Whether there is nothing to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Relaxed).is_null()
    }

    /// Takes everything, oldest first.
    pub(crate) fn take(&self) -> Batch {
        let mut newest = self.head.xchg(null_mut(), Full);
        let mut oldest = null_mut();
        while let Some(link) = NonNull::new(newest) {
            // SAFETY: The exchange made us the owner of every link behind `head`.
            newest = unsafe {
                link.as_ref()
                    .next
                    .with_mut(|next| core::mem::replace(&mut *next, oldest))
            };
            oldest = link.as_ptr();
        }
        Batch { head: oldest }
    }
}

/// Links taken from a [`ReadyList`], oldest first.
///
/// Whoever drops a batch that is not empty loses the references in it; the executor keeps what is
/// left of a batch for its next run.
pub(crate) struct Batch {
    head: *mut Link,
}

impl Batch {
    /// Makes an empty batch.
    pub(crate) const fn new() -> Self {
        Self { head: null_mut() }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// The link that [`next`](Iterator::next) gives next.
    pub(crate) fn peek(&self) -> Option<NonNull<Link>> {
        NonNull::new(self.head)
    }
}

impl Iterator for Batch {
    type Item = NonNull<Link>;

    fn next(&mut self) -> Option<NonNull<Link>> {
        let link = NonNull::new(self.head)?;
        // SAFETY: The batch owns its links until it hands them out.
        self.head = unsafe { link.as_ref().next.with(|next| *next) };
        Some(link)
    }
}
