// SPDX-License-Identifier: GPL-2.0

//! Memory for what is planned. An upcall does not wait for reclaim in an allocation, but for
//! [`upcall::memory_freed`].
//!
//! # Cancellation
//!
//! Dropping one of the futures leaves the vector as it is.

use core::future::Future;
use core::mem::MaybeUninit;
use core::time::Duration;
use disk::{gfp, Boxed};
use kernel::prelude::*;
use kernel::rbtree::{RBTreeNode, RBTreeNodeReservation};

/// What `attempt` makes, which has no memory at times.
pub(crate) async fn retry<T>(attempt: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match attempt() {
            Err(ENOMEM) if upcall::on_worker() => upcall::memory_freed().await,
            made => return made,
        }
    }
}

/// How long to wait for memory outside of an upcall, where the allocation has waited for reclaim.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits before something is tried again that must not fail for want of memory, since it is about
/// data that was accepted already.
pub(crate) async fn pause() {
    if upcall::on_worker() {
        upcall::memory_freed().await;
    } else {
        upcall::sleep(PAUSE).await;
    }
}

/// The memory of an element of a tree.
pub(crate) async fn tree_node<K, V>() -> Result<RBTreeNodeReservation<K, V>> {
    retry(|| RBTreeNodeReservation::new(gfp())).await
}

/// How many elements' memory [`Spares`] keep.
const SPARES_MAX: usize = 16;

/// Memory of elements that were in a tree, for those that come next: many are there for the time of
/// one operation.
pub(crate) struct Spares<K, V> {
    kept: [Option<RBTreeNodeReservation<K, V>>; SPARES_MAX],
    count: usize,
}

impl<K, V> Spares<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            kept: [const { None }; SPARES_MAX],
            count: 0,
        }
    }

    pub(crate) fn take(&mut self) -> Option<RBTreeNodeReservation<K, V>> {
        self.count = self.count.checked_sub(1)?;
        self.kept.get_mut(self.count)?.take()
    }

    /// Keeps memory, or gives it back, to be freed without a lock.
    #[must_use = "it is freed without the lock"]
    pub(crate) fn keep(&mut self, node: RBTreeNode<K, V>) -> Option<RBTreeNode<K, V>> {
        let Some(slot) = self.kept.get_mut(self.count) else {
            return Some(node);
        };
        *slot = Some(node.into_reservation());
        self.count += 1;
        None
    }
}

/// Makes room for one more element.
pub(crate) async fn room<T>(vec: &mut KVec<T>) -> Result {
    room_for(vec, 1).await
}

/// Makes room for `count` more elements.
pub(crate) async fn room_for<T>(vec: &mut KVec<T>, count: usize) -> Result {
    loop {
        match vec.reserve(count, gfp()) {
            Ok(()) => return Ok(()),
            Err(_) if upcall::on_worker() => upcall::memory_freed().await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The memory of a box. What comes into it is not moved through a future.
pub(crate) async fn uninit<T>() -> Result<KBox<MaybeUninit<T>>> {
    retry(|| Ok(KBox::new_uninit(gfp())?)).await
}

/// A box of what `make` makes, when there is memory for it.
pub(crate) async fn boxed<T>(make: impl FnOnce() -> T) -> Result<KBox<T>> {
    Ok(KBox::write(uninit().await?, make()))
}

/// The future that `make` makes, in memory of its own: one that is large is not to be a part of
/// others.
pub(crate) async fn pinned<F: Future>(make: impl Fn() -> F) -> Result<Boxed<F>> {
    retry(|| disk::pinned(&make)).await
}

/// Puts a value on the heap. Not in the caller, whose frame would have room for it.
#[inline(never)]
pub(crate) fn kept<T>(value: T) -> Result<KBox<T>> {
    Ok(KBox::new(value, gfp())?)
}
