// SPDX-License-Identifier: GPL-2.0

//! [`IoEnds`]: the end of writeback, where it needs a transaction.
//!
//! # Concurrency
//!
//! A bio that ends, in any context, puts its ioend on a lock-free list, and wakes the volume's
//! upcall with the first. The upcall takes the list, and for each run of bytes of one file that
//! follow each other calls [`write_done`](crate::DataOperations::write_done); then a work item of a
//! workqueue ends the writeback of the folios, which may sleep. Nothing on the way allocates but
//! `write_done` itself, which waits for reclaim: of clean memory, since whoever allocates here may
//! not wait for writeback.
//!
//! The folios keep their inode: `evict` waits until their writeback has ended. So when a
//! volume's inodes are gone, so are its ioends; what is left is a completion that is about to wake,
//! for which [`IoEnds`] waits for a grace period when it is dropped.
//!
//! The waker is in a slot of its own under a spinlock that completions take. The upcall looks at
//! the list again after it has put the waker there, so no ioend that came in between is missed.
//!
//! # Cancellation
//!
//! When the upcall's future is dropped (`umount -f`), the ioends that it has, and those that come
//! later, end with `EIO`. What they had reserved stays taken until the volume is gone.

use crate::fs::FileSystem;
use crate::inode::{refresh, Inode};
use core::cell::UnsafeCell;
use core::future::poll_fn;
use core::mem::offset_of;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Poll, Waker};
use disk::Level;
use kernel::error::Error;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;
use upcall::Spawner;
use upcall_bindings as ub;

/// The ioends of a volume.
///
/// # Invariants
///
/// `raw` and `lock` are initialised. `waker` is accessed with `lock` held.
#[pin_data(PinnedDrop)]
pub(crate) struct IoEnds {
    #[pin]
    raw: Opaque<ub::upcall_ioends>,
    #[pin]
    lock: Opaque<ub::spinlock_t>,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: What is shared is under the lock, or in lists without one; the rest is the upcall's.
unsafe impl Send for IoEnds {}
// SAFETY: As above.
unsafe impl Sync for IoEnds {}

impl IoEnds {
    /// Makes it. May sleep.
    #[inline(never)]
    pub(crate) fn new() -> Result<Arc<Self>> {
        let init = |slot: *mut ub::upcall_ioends| {
            // SAFETY: The memory is there to be initialised, and is not moved after.
            unsafe { ub::upcall_ioends_init(slot, Some(Self::wake)) }
        };
        // SAFETY: As above.
        let lock = |slot: *mut ub::spinlock_t| unsafe { ub::upcall_irq_lock_init(slot) };
        // INVARIANT: Both are initialised.
        Arc::pin_init(
            pin_init!(Self {
                raw <- Opaque::ffi_init(init),
                lock <- Opaque::ffi_init(lock),
                waker: UnsafeCell::new(None),
            }),
            GFP_KERNEL,
        )
    }

    /// Starts the upcall. Nothing is routed before.
    pub(crate) fn start<F: FileSystem>(this: &Arc<Self>, fs: &F, spawner: &Spawner) -> Result {
        let (taker, fs) = (Taker(this.clone()), fs.clone());
        // SAFETY: Initialised. There is no upcall.
        unsafe { ub::upcall_ioends_restart(this.raw.get()) };
        spawner
            .clone()
            .named(c"writeback-end")
            .spawn(async move { taker.run(&fs).await })?;
        Ok(())
    }

    /// Has the end of an ioend's bio come here.
    ///
    /// # Safety
    ///
    /// The ioend is of an inode of the volume whose ioends these are, and its bio is not submitted
    /// yet.
    pub(crate) unsafe fn route(&self, ioend: *mut ub::iomap_ioend) {
        // SAFETY: By the function's contract. The volume outlives what its inodes have under way.
        unsafe { ub::upcall_ioend_route(ioend, self.raw.get()) };
    }

    fn with_waker<R>(&self, f: impl FnOnce(&mut Option<Waker>) -> R) -> R {
        // SAFETY: By the invariant.
        let flags = unsafe { ub::upcall_irq_lock(self.lock.get()) };
        // SAFETY: We hold the lock.
        let result = f(unsafe { &mut *self.waker.get() });
        // SAFETY: The flags are from above.
        unsafe { ub::upcall_irq_unlock(self.lock.get(), flags) };
        result
    }

    /// # Safety
    ///
    /// Called by the end of a bio, in an RCU read section, with the structure that is in an
    /// [`IoEnds`].
    unsafe extern "C" fn wake(raw: *mut ub::upcall_ioends) {
        // SAFETY: By the function's contract. The read section keeps it.
        let this = unsafe { &*raw.byte_sub(offset_of!(Self, raw)).cast::<Self>() };
        if let Some(waker) = this.with_waker(Option::take) {
            waker.wake();
        }
    }

    /// Takes what has arrived. Returns whether there is anything.
    fn take(&self) -> bool {
        // SAFETY: Initialised, and only the upcall takes.
        unsafe { ub::upcall_ioends_take(self.raw.get()) }
    }
}

#[pinned_drop]
impl PinnedDrop for IoEnds {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the invariant. The upcall, which has a reference, is over.
        unsafe { ub::upcall_ioends_destroy(self.raw.get()) };
    }
}

/// A run of bytes that were written: of one file, one after the other.
struct Run {
    inode: NonNull<ub::inode>,
    pos: u64,
    /// Behind the last byte that is of the file: not always the end of a block.
    end: u64,
    error: Option<Error>,
    unwritten: bool,
    /// The block size less 1.
    mask: u64,
}

// SAFETY: An inode may be used by any thread.
unsafe impl Send for Run {}
// SAFETY: As above.
unsafe impl Sync for Run {}

/// The upcall's side.
struct Taker(Arc<IoEnds>);

impl Drop for Taker {
    fn drop(&mut self) {
        // SAFETY: Initialised; we are the upcall.
        unsafe { ub::upcall_ioends_stop(self.0.raw.get()) };
    }
}

impl Taker {
    async fn run<F: FileSystem>(self, fs: &F) {
        loop {
            poll_fn(|cx| {
                if self.0.take() {
                    return Poll::Ready(());
                }
                let waker = cx.waker().clone();
                let old = self.0.with_waker(|slot| slot.replace(waker));
                drop(old);
                // What arrived in between found no waker.
                if self.0.take() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            while let Some(run) = self.next_run() {
                let result = Self::finish(fs, &run).await;
                // SAFETY: It is the run that `next_run` gave.
                unsafe {
                    let errno = result.map_or_else(|error| error.to_errno(), |()| 0);
                    ub::upcall_ioends_end_run(self.0.raw.get(), errno);
                }
            }
        }
    }

    fn next_run(&self) -> Option<Run> {
        // SAFETY: Initialised; we are the upcall, and the last run was ended. An ioend that has not
        // ended keeps its inode.
        unsafe {
            let ioend = ub::upcall_ioends_next_run(self.0.raw.get());
            let ioend = NonNull::new(ioend)?.as_ptr();
            let pos = (*ioend).io_offset as u64;
            let errno = ub::upcall_ioend_error(ioend);
            let inode = NonNull::new((*ioend).io_inode)?;
            Some(Run {
                inode,
                mask: (1 << (*inode.as_ptr()).i_blkbits) - 1,
                pos,
                end: pos + (*ioend).io_size as u64,
                error: (errno < 0).then(|| Error::from_errno(errno)),
                unwritten: u32::from((*ioend).io_flags) & ub::IOMAP_IOEND_UNWRITTEN != 0,
            })
        }
    }

    /// Tells the file system. Fails if it cannot, or the bytes were not written.
    async fn finish<F: FileSystem>(fs: &F, run: &Run) -> Result {
        // SAFETY: The run is not ended, so the inode is there.
        let info = unsafe { Inode::<F>::new(run.inode.as_ptr()) }
            .info()
            .clone();
        if !run.unwritten && (run.error.is_some() || run.end <= fs.disk_size(&info)) {
            // It was to be seen whether the file has grown, and it has not; or nothing changes.
            return run.error.map_or(Ok(()), Err);
        }
        let (pos, end) = (run.pos & !run.mask, (run.end + run.mask) & !run.mask);
        let ok = run.error.is_none();
        let done = fs.write_done(&info, pos, end, ok, run.end).await;
        // SAFETY: As above.
        unsafe { refresh(&Inode::<F>::new(run.inode.as_ptr())) };
        if let Err(error) = &done {
            fs.disk().log_limited(
                Level::Error,
                format_args!(
                    "error {} after {} bytes of a file were written: they are lost",
                    error.to_errno(),
                    run.end - run.pos
                ),
            );
        }
        run.error.map_or(done, Err)
    }
}
