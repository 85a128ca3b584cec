// SPDX-License-Identifier: GPL-2.0

//! A set of tasks with a bound on how many there are, whose outputs come as they are finished.
//!
//! # Concurrency
//!
//! A task leaves its output in a ring under a spinlock and then adds a permit to `finished`; the
//! set's owner takes the permit and then the output. The ring has room for as many outputs as there
//! may be tasks, and for one that waits until its successor is spawned, so that leaving one needs
//! no memory. A task that is cancelled leaves nothing but the
//! permit.

use super::budget::Budget;
use super::channel::Ring;
use super::scope::Scope;
use super::semaphore::{Semaphore, TryError};
use super::stats::Wait;
use super::sys::{self, Arc, Lock};
use super::task::Cancelled;
use core::future::Future;

struct Inner<T> {
    outputs: Lock<Ring<T>>,
    finished: Semaphore,
}

/// A set of tasks of a scope of their own.
///
/// Dropping it drops the scope: its tasks are cancelled. An owner that finds output after output lets
/// other tasks have their turn after a millisecond.
///
/// ```
/// # use kernel::prelude::*;
/// # use upcall::{JoinSet, Scope};
/// # async fn example(items: &[u32]) -> Result<u32> {
/// # let read = |n| async move { Ok::<u32, Error>(n) };
/// // Eight at a time
/// let mut set = JoinSet::new(Scope::new()?, 8)?;
/// let mut sum = 0;
/// for &item in items {
///     if let Some(value) = set.spawn(read(item)).await? {
///         sum += value??;
///     }
/// }
/// while let Some(value) = set.next().await {
///     sum += value??;
/// }
/// # Ok(sum)
/// # }
/// ```
pub struct JoinSet<T: Send + 'static> {
    /// Dropped first: its tasks use the rest.
    scope: Scope,
    inner: Arc<Inner<T>>,
    limit: usize,
    /// Tasks whose output was not taken.
    len: usize,
    /// Of its owner, whose turn ends although the next output is there.
    budget: Budget,
}

/// Says that the task is over, however it ends.
struct Leaving<T>(Arc<Inner<T>>);

impl<T> Drop for Leaving<T> {
    fn drop(&mut self) {
        self.0.finished.release(1);
    }
}

impl<T: Send + 'static> JoinSet<T> {
    /// Makes a set of at most `limit` tasks (at least one), which are spawned in `scope`.
    ///
    /// Fails with `ENOMEM`. May sleep.
    pub fn new(scope: Scope, limit: usize) -> sys::Result<Self> {
        let limit = limit.max(1);
        Ok(Self {
            inner: sys::new_arc(Inner {
                outputs: sys::new_lock!(Ring::new(limit.saturating_add(1))?),
                finished: Semaphore::new(0),
            })?,
            scope,
            limit,
            len: 0,
            budget: Budget::new(),
        })
    }

    /// How many tasks there are whose output was not taken.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no such task.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Spawns `future`. If the set is full it waits for one to finish before, and gives its output.
    ///
    /// Fails with `ENOMEM`, and with `ESHUTDOWN` after [`abort_all`](Self::abort_all); the future is then
    /// dropped.
    ///
    /// # Cancellation
    ///
    /// A future that is dropped before it is ready has not spawned, and took no output.
    pub async fn spawn<F>(&mut self, future: F) -> sys::Result<Option<Result<T, Cancelled>>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.budget.pause().await;
        if self.len < self.limit {
            self.spawn_one(future)?;
            return Ok(None);
        }
        // Nobody closes `finished`.
        self.inner
            .finished
            .acquire_as(1, Wait::Task)
            .await?
            .forget();
        // The output stays where it is until the task is there.
        if let Err(error) = self.spawn_one(future) {
            self.inner.finished.release(1);
            return Err(error);
        }
        Ok(Some(self.take()))
    }

    /// Spawns `future` if the set is not full. Fails with `EAGAIN` if it is, and with `ENOMEM`.
    pub fn try_spawn<F>(&mut self, future: F) -> sys::Result
    where
        F: Future<Output = T> + Send + 'static,
    {
        if self.len == self.limit {
            return Err(sys::EAGAIN);
        }
        self.spawn_one(future)
    }

    fn spawn_one<F>(&mut self, future: F) -> sys::Result
    where
        F: Future<Output = T> + Send + 'static,
    {
        let leaving = Leaving(self.inner.clone());
        let spawned = self.scope.spawn(async move {
            let output = future.await;
            leaving.0.outputs.lock().push(output);
            drop(leaving);
        });
        if let Err(error) = spawned {
            // The future was dropped, and said that it is over.
            let _ = self.inner.finished.try_take(1);
            return Err(error);
        }
        self.len += 1;
        Ok(())
    }

    /// Cancels the tasks. Their outputs, or [`Cancelled`], still come; no task can be spawned any more.
    pub fn abort_all(&self) {
        self.scope.cancel();
    }

    /// Waits for a task to finish and gives its output; `None` if the set is empty.
    ///
    /// # Cancellation
    ///
    /// No output is lost by dropping the future.
    pub async fn next(&mut self) -> Option<Result<T, Cancelled>> {
        if self.len == 0 {
            return None;
        }
        self.budget.pause().await;
        // Nobody closes `finished`.
        self.inner
            .finished
            .acquire_as(1, Wait::Task)
            .await
            .ok()?
            .forget();
        Some(self.take())
    }

    /// Gives the output of a task that is finished, if there is one.
    pub fn try_next(&mut self) -> Result<Result<T, Cancelled>, TryError> {
        self.inner.finished.try_take(1)?;
        Ok(self.take())
    }

    /// The caller has a permit of `finished`.
    fn take(&mut self) -> Result<T, Cancelled> {
        self.len -= 1;
        let output = self.inner.outputs.lock().pop();
        output.ok_or(Cancelled)
    }
}
