// SPDX-License-Identifier: GPL-2.0

//! A bounded queue of values, from many senders to one receiver.
//!
//! # The algorithm
//!
//! A ring under a spinlock, and two [`Semaphore`]s: `space` counts the free slots, `items` those that
//! are full. A sender takes a permit of `space`, fills a slot and adds a permit to `items`; the receiver
//! does the opposite. So senders that wait for space are served first come, first served, and the
//! ring never overflows nor runs empty. The last sender that goes adds a permit without an item: the
//! end. The receiver that goes closes `space`.
//!
//! # Concurrency
//!
//! Process context. No value is dropped and no waker called under the spinlock.

use super::semaphore::{Closed, Semaphore, TryError};
use super::stats::Wait;
use super::sys::{self, Arc, Atomic, Full, KVec, Lock, Relaxed};

/// A queue with room for a fixed number of values.
pub(crate) struct Ring<T> {
    slots: KVec<Option<T>>,
    /// Where the oldest value is, and where the next goes.
    head: usize,
    tail: usize,
}

impl<T> Ring<T> {
    /// Makes an empty one. Fails with `ENOMEM`. May sleep.
    pub(crate) fn new(capacity: usize) -> sys::Result<Self> {
        let mut slots = KVec::new();
        for _ in 0..capacity {
            sys::push(&mut slots, None)?;
        }
        Ok(Self {
            slots,
            head: 0,
            tail: 0,
        })
    }

    /// The slot at `at`, which moves on.
    fn slot<'a>(slots: &'a mut [Option<T>], at: &mut usize) -> Option<&'a mut Option<T>> {
        let here = *at;
        *at = if here + 1 < slots.len() { here + 1 } else { 0 };
        slots.get_mut(here)
    }

    /// Appends a value. The caller knows that there is room.
    pub(crate) fn push(&mut self, value: T) {
        if let Some(slot) = Self::slot(&mut self.slots, &mut self.tail) {
            debug_assert!(slot.is_none());
            *slot = Some(value);
        }
    }

    /// Takes the oldest value.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.slots.get(self.head)?.is_none() {
            return None;
        }
        Self::slot(&mut self.slots, &mut self.head)?.take()
    }
}

struct Inner<T> {
    ring: Lock<Ring<T>>,
    space: Semaphore,
    items: Semaphore,
    senders: Atomic<usize>,
}

impl<T> Inner<T> {
    /// Drops what nobody will receive: values that hold senders would keep the channel alive.
    fn clear(&self) {
        loop {
            let value = self.ring.lock().pop();
            if value.is_none() {
                return;
            }
        }
    }
}

/// Makes a channel for `capacity` values, at least one. Fails with `ENOMEM`. May sleep.
///
/// ```
/// # use kernel::prelude::*;
/// # use upcall::{channel, Scope};
/// # async fn example(scope: &Scope) -> Result<u32> {
/// let (tx, mut rx) = channel(16)?;
/// for n in 0..4 {
///     let tx = tx.clone();
///     scope.spawn(async move { tx.send(n).await })?;
/// }
/// drop(tx);
/// let mut sum = 0;
/// while let Some(n) = rx.recv().await {
///     sum += n;
/// }
/// # Ok(sum)
/// # }
/// ```
pub fn channel<T: Send>(capacity: usize) -> sys::Result<(Sender<T>, Receiver<T>)> {
    let capacity = capacity.clamp(1, Semaphore::MAX);
    let inner = sys::new_arc(Inner {
        ring: sys::new_lock!(Ring::new(capacity)?),
        space: Semaphore::new(capacity),
        items: Semaphore::new(0),
        senders: Atomic::new(1),
    })?;
    Ok((Sender(inner.clone()), Receiver(inner)))
}

/// A side that gives values. It can be cloned.
pub struct Sender<T: Send>(Arc<Inner<T>>);

impl<T: Send> Sender<T> {
    /// Sends a value, once there is space for it. Fails with [`Closed`] when the receiver is gone;
    /// the value is then dropped, as is one that is sent at the moment when the receiver goes.
    ///
    /// # Cancellation
    ///
    /// The value is sent when the future is ready, and dropped with a future that is dropped before.
    pub async fn send(&self, value: T) -> Result<(), Closed> {
        self.0.space.acquire_as(1, Wait::Channel).await?.forget();
        self.put(value);
        Ok(())
    }

    /// Sends a value if there is space, and gives it back if not.
    pub fn try_send(&self, value: T) -> Result<(), (TryError, T)> {
        match self.0.space.try_take(1) {
            Ok(()) => {
                self.put(value);
                Ok(())
            }
            Err(error) => Err((error, value)),
        }
    }

    /// The caller has a permit of `space`.
    fn put(&self, value: T) {
        self.0.ring.lock().push(value);
        self.0.items.release(1);
        // The receiver may have gone, and looked, before the value was there.
        if self.0.space.is_closed() {
            self.0.clear();
        }
    }
}

impl<T: Send> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Relaxed);
        Self(self.0.clone())
    }
}

impl<T: Send> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Full) == 1 {
            self.0.items.release(1);
        }
    }
}

/// The side that gets the values. Dropping it drops what was not received.
pub struct Receiver<T: Send>(Arc<Inner<T>>);

impl<T: Send> Receiver<T> {
    /// Waits for the next value. Gives `None` when all senders are gone and nothing is left.
    ///
    /// # Cancellation
    ///
    /// No value is lost by dropping the future.
    pub async fn recv(&mut self) -> Option<T> {
        // Nobody closes `items`.
        self.0
            .items
            .acquire_as(1, Wait::Channel)
            .await
            .ok()?
            .forget();
        self.take()
    }

    /// Takes the next value, if there is one. Fails with [`TryError::Closed`] when all senders are gone
    /// and nothing is left.
    pub fn try_recv(&mut self) -> Result<T, TryError> {
        self.0.items.try_take(1)?;
        self.take().ok_or(TryError::Closed)
    }

    /// The caller has a permit of `items`.
    fn take(&mut self) -> Option<T> {
        let value = self.0.ring.lock().pop();
        match value {
            Some(_) => self.0.space.release(1),
            // The end: it is found again by whoever asks again.
            None => self.0.items.release(1),
        }
        value
    }
}

impl<T: Send> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.space.close();
        self.0.clear();
    }
}
