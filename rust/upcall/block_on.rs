// SPDX-License-Identifier: GPL-2.0

//! The border between synchronous and asynchronous code.
//!
//! # Concurrency
//!
//! The future is polled on the calling thread, and the thread parks between polls. The parker's
//! token is read before each poll, and the thread sleeps only while the token is unchanged, so a
//! wake between the poll and the sleep is not lost. A waker may outlive the call: it holds a
//! reference on the thread, and a late wake is a spurious one, which every sleeper of the kernel
//! has to expect.
//!
//! # Accounting
//!
//! [`block_on`] and [`block_on_killable`] are how synchronous code waits for a device, so a thread
//! parked there counts as waiting for IO, as one does that waits for a folio. The end of a scope and
//! the blocking forms of the locks are waits for other threads, as `mutex_lock` and `down_read` are,
//! and count as sleep only.

use super::sys::{self, Parker, Token};
use core::future::Future;
use core::mem::ManuallyDrop;
use core::pin::Pin;
use core::task::{Context, Poll};

/// Pins an argument where the caller has put it: `core::pin::pin!` would move it, and a future is
/// a kilobyte, maybe.
macro_rules! pinned {
    ($future:ident) => {{
        // SAFETY: The argument is the function's own, and this shadows its name: nobody moves it.
        let $future = unsafe { Pin::new_unchecked(&mut $future) };
        $future
    }};
}

/// Runs `future` on the calling thread until it is ready.
///
/// A future that is ready at once costs no more than its poll: no executor, no allocation, no
/// atomic operation. Sleeps uninterruptibly otherwise, as a wait for IO, so it must be called from
/// process context with no spinlock held; where the kernel checks that, it does so also for a future
/// that is ready.
///
/// On an executor's own worker it fails with `EDEADLK`, with a warning, and the future is dropped
/// unpolled: it could wait for what only this thread can run.
pub fn block_on<F: Future>(mut future: F) -> sys::Result<F::Output> {
    block_on_as(pinned!(future), true)
}

/// [`block_on`], where no allocation may recurse into a file system: the caller has a folio locked, or
/// is one whom reclaim waits for.
pub fn block_on_nofs<F: Future>(future: F) -> sys::Result<F::Output> {
    let _nofs = sys::NoFs::enter();
    block_on(future)
}

/// [`block_on`] for what is no wait for IO.
pub(crate) fn block_on_others<F: Future>(mut future: F) -> sys::Result<F::Output> {
    block_on_as(pinned!(future), false)
}

fn block_on_as<F: Future>(future: Pin<&mut F>, io: bool) -> sys::Result<F::Output> {
    sys::might_sleep();
    if sys::on_worker() {
        sys::warn_if!(true, "block_on() inside an upcall");
        return Err(sys::EDEADLK);
    }
    Ok(park(future, io))
}

/// [`block_on`], given up when the calling thread is killed.
///
/// Fails with `EINTR` when a fatal signal comes before the future is ready, which is then dropped. Only for futures that
/// may be dropped at any point, and whose effect nobody misses.
pub fn block_on_killable<F: Future>(mut future: F) -> sys::Result<F::Output> {
    sys::might_sleep();
    if sys::on_worker() {
        sys::warn_if!(true, "block_on_killable() inside an upcall");
        return Err(sys::EDEADLK);
    }
    park_until(pinned!(future), Parker::park_killable).ok_or(sys::EINTR)
}

/// Whether the caller is a poll on the worker of an executor whose tasks may not sleep, where [`block_on`] is refused.
pub fn on_worker() -> bool {
    sys::on_worker()
}

/// [`block_on`], for a caller that knows that it is not on a worker; as a wait for IO if `io`.
pub(crate) fn wait<F: Future>(mut future: F, io: bool) -> F::Output {
    park(pinned!(future), io)
}

fn park<F: Future>(future: Pin<&mut F>, io: bool) -> F::Output {
    let park = |parker: &Parker, token| {
        parker.park(token, io);
        true
    };
    match park_until(future, park) {
        Some(output) => output,
        // `park` never gives up.
        None => unreachable!(),
    }
}

/// Polls `future` until it is ready, and calls `park` between polls, until that gives up.
fn park_until<F: Future>(
    mut future: Pin<&mut F>,
    park: impl Fn(&Parker, Token) -> bool,
) -> Option<F::Output> {
    let parker = Parker::current();
    // Borrowed: clones take references of their own.
    let waker = ManuallyDrop::new(parker.waker());
    let mut cx = Context::from_waker(&waker);
    loop {
        let token = parker.token();
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        if !park(&parker, token) {
            return None;
        }
    }
}
