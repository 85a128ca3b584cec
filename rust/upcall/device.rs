// SPDX-License-Identifier: GPL-2.0

//! [`Device`]: a block device, as the requests of a scope ask it.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h).
//!
//! A device is a value that says how it is asked: for which scope, with what memory, how urgently.
//! Clones share a [`Queue`] with the open file in it, and so does each request as long as it is
//! there, so that what is dropped first does not matter.
//!
//! # Concurrency
//!
//! A queue counts in one word the upcalls' requests that are in flight, and those that wait for the
//! scope's blocking worker. An upcall's request that finds neither somebody waiting nor the bound
//! reached goes to the device at once; any other waits, and the blocking worker submits in the
//! order in which they came. `count` is changed in any context, up to hard interrupt: by the
//! worker, by completions, and by the blocking worker.
//!
//! The requests of threads are not counted. A thread waits for a tag inside `submit_bio`, where it
//! takes turns with the blocking worker. If its request were counted before it has a tag, as many
//! threads as the bound, each in a loop, would keep the blocking worker waiting for ever.
//!
//! One thread waits for room, the blocking worker of the device's scope, and only while the request
//! that it is about to submit is counted as waiting. It leaves itself in `parked` and looks at the
//! count once more before it parks; whoever lowers the number in flight, while somebody waits,
//! takes it out and wakes it. So no wake is lost, and none needs a lock.

use crate::bio::{submit_or_return, InFlight, Op, Payload, WITHOUT_DATA, WRITES};
use crate::memory;
use crate::scope::{Scope, Spawner};
use crate::sys::blk::{self, OpenFile, RawDevice};
use crate::sys::{self, Atomic, Full, Parker, Relaxed, Reserve, Result, EINVAL, ENOMEM, ESHUTDOWN};
use core::ffi::CStr;
use core::ptr::{null_mut, NonNull};

/// A block device with the scope that its requests belong to.
#[derive(Clone)]
pub struct Device {
    pub(crate) bdev: NonNull<RawDevice>,
    pub(crate) scope: Spawner,
    /// The bits that mark an operation as one to look at closer: see [`Device::allows`] and
    /// [`Queued::begin`].
    pub(crate) special: u32,
    logical_block_size: u32,
    /// What clones and requests share.
    pub(crate) queue: Queued,
    reserve: Option<Reserve>,
    pub(crate) priority: u16,
    write: bool,
    /// For the bios, beside those of an [`Op`].
    pub(crate) flags: u32,
}

// SAFETY: A block device may be used from any thread.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Device {
    /// Makes a device for requests that belong to `scope`.
    ///
    /// It may be written to, if the device that was opened may. Fails with `ENOMEM`. May sleep.
    ///
    /// # Safety
    ///
    /// `bdev` is open, and stays so until `scope` was joined or dropped.
    pub unsafe fn new(bdev: NonNull<RawDevice>, scope: &Scope) -> Result<Self> {
        // SAFETY: By the function's contract.
        unsafe { Self::make(bdev, true, None, scope) }
    }

    /// Opens the device at `path`, for requests that belong to `scope`; for writing too if `write`.
    ///
    /// Without `write` what would change the device fails with `EBADF`; a [`flush`](Self::flush)
    /// does not, as `fsync` does not. The path is the calling thread's; a worker has no file
    /// system, and finds nothing. Others may use the device as well. It stays open as long as the
    /// returned device, a clone of it or one of its requests is there. Fails with the errors of
    /// opening a device. May sleep.
    pub fn open(path: &CStr, write: bool, scope: &Scope) -> Result<Self> {
        let (file, bdev) = blk::open(path, write)?;
        // SAFETY: The device and every request have the queue, which keeps it open.
        unsafe { Self::make(bdev, write, Some(file), scope) }
    }

    /// # Safety
    ///
    /// `bdev` is open, and stays so as long as `file`, or without one as long as the scope.
    unsafe fn make(
        bdev: NonNull<RawDevice>,
        write: bool,
        file: Option<OpenFile>,
        scope: &Scope,
    ) -> Result<Self> {
        // SAFETY: The device is open.
        let traits = unsafe { blk::traits(bdev) };
        // A device without tags is stacked on others. It makes a flush for each of them, without
        // `REQ_NOWAIT`, and submits it at once.
        let flush = if traits.depth.is_none() {
            blk::PREFLUSH
        } else {
            0
        };
        Ok(Self {
            bdev,
            scope: scope.spawner(),
            special: WITHOUT_DATA | flush | if write { 0 } else { WRITES },
            logical_block_size: traits.logical_block_size,
            queue: Queued::new(Queue::new(&traits, file))?,
            reserve: None,
            priority: 0,
            write,
            flags: 0,
        })
    }

    /// Whether it is open for what `op` does.
    pub(crate) fn allows(&self, op: Op) -> bool {
        self.write || op == Op::Flush || op as u32 & WRITES == 0
    }

    /// Where its requests have their memory from, if it was set aside.
    pub(crate) fn reserve(&self) -> Option<&Reserve> {
        self.reserve.as_ref()
    }

    /// Gives the device's requests memory that was set aside. `ENOMEM` then also means that a
    /// request does not fit, or, inside an upcall, that the reserve is used up.
    pub fn reserved(mut self, reserve: &Reserve) -> Self {
        self.reserve = Some(reserve.clone());
        self
    }

    /// Gives the device's requests a priority, for the device's scheduler to heed.
    ///
    /// Without, an upcall's requests have `best_effort(4)`, and those of another thread the
    /// thread's.
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority.0;
        self
    }

    /// Tells the block layer not to look for other requests to join the device's with.
    ///
    /// For requests at places that are far from each other, where each look is in vain. C:
    /// `REQ_NOMERGE`.
    pub fn without_merging(mut self) -> Self {
        self.flags |= blk::NOMERGE;
        self
    }

    /// The size, in bytes.
    ///
    /// Fails with `ESHUTDOWN` once the scope is over, if it was not opened by [`open`](Self::open):
    /// then it may be closed.
    pub fn size(&self) -> Result<u64> {
        let member = self.scope.enter();
        if member.is_none() && self.queue.queue().file.is_none() {
            return Err(ESHUTDOWN);
        }
        // SAFETY: The device is open: by the queue's file, or as long as we are a member.
        let size = unsafe { blk::size(self.bdev) };
        drop(member);
        Ok(size)
    }

    /// Brings all that was written before, and is done, to stable media.
    ///
    /// # Cancellation
    ///
    /// The device goes on with what was begun. So in the next two.
    pub async fn flush(&self) -> Result {
        self.without_data(Op::Flush, 0, 0).await?.await.0
    }

    /// Tells the device that the content of `len` bytes from byte `pos` on is not needed any more.
    ///
    /// Both are multiples of the logical block size. What is read there later may be anything.
    /// Fails with `EOPNOTSUPP` if the device has no use for it.
    pub async fn discard(&self, pos: u64, len: u64) -> Result {
        self.range(Op::Discard, pos, len).await
    }

    /// Makes `len` bytes from byte `pos` on zero, without sending them.
    ///
    /// Both are multiples of the logical block size. Fails with `EOPNOTSUPP` if the device cannot.
    pub async fn write_zeroes(&self, pos: u64, len: u64) -> Result {
        self.range(Op::WriteZeroes, pos, len).await
    }

    async fn range(&self, op: Op, pos: u64, len: u64) -> Result {
        let end = pos.checked_add(len).ok_or(EINVAL)?;
        if (pos | len) & u64::from(self.logical_block_size).wrapping_sub(1) != 0 {
            return Err(EINVAL);
        }
        let mut at = pos;
        while at < end {
            // A bio counts with 32 bits.
            let size = (end - at).min(1 << 30);
            self.without_data(op, at, size as u32).await?.await.0?;
            at += size;
        }
        Ok(())
    }

    async fn without_data(&self, op: Op, pos: u64, size: u32) -> Result<InFlight<Nothing>> {
        memory::retry(size_of::<Nothing>(), || {
            // SAFETY: There are no segments.
            match unsafe { submit_or_return(self, op, pos, size, core::iter::empty(), Nothing) } {
                Ok(io) => Some(Ok(io)),
                // What was set aside for others is not worth waiting for.
                Err((ENOMEM, _)) if self.reserve.is_none() => None,
                Err((error, _)) => Some(Err(error)),
            }
        })
        .await?
    }

    /// The smallest unit that the device reads, in bytes: a power of two.
    pub fn logical_block_size(&self) -> u32 {
        self.logical_block_size
    }

    /// The C device.
    pub fn as_ptr(&self) -> *mut RawDevice {
        self.bdev.as_ptr()
    }
}

/// In [`Queue::count`]: one request that waits for the blocking worker. Below are those in flight.
const WAITING: usize = 1 << (usize::BITS / 2);

/// How many requests may be in flight on a device that tells no number.
const DEFAULT_DEPTH: usize = 1024;

/// What the clones of a device and their requests share: the open file, and what is in flight.
pub(crate) struct Queue {
    refs: Atomic<usize>,
    /// How many requests of upcalls are in flight, and [`WAITING`] for each that waits for the
    /// blocking worker.
    count: Atomic<usize>,
    /// A worker's request goes to the device at once if the count is less: 0 if none does.
    direct: usize,
    /// How many may be in flight when the blocking worker submits one more.
    bound: usize,
    /// The blocking worker's thread while it waits for room, as [`Parker::leave`] gives it; or
    /// null.
    parked: Atomic<*mut ()>,
    /// Keeps the device open, if we opened it.
    file: Option<OpenFile>,
}

impl Queue {
    pub(crate) fn new(traits: &blk::Traits, file: Option<OpenFile>) -> Self {
        let bound = traits.depth.unwrap_or(DEFAULT_DEPTH).clamp(1, WAITING / 2);
        Self {
            refs: Atomic::new(1),
            count: Atomic::new(0),
            direct: if traits.nowait { bound } else { 0 },
            bound,
            parked: Atomic::new(null_mut()),
            file,
        }
    }

    /// Whether the blocking worker may submit one more.
    fn has_room(&self) -> bool {
        self.count.load(Relaxed) % WAITING < self.bound
    }

    /// The number in flight fell while somebody waits. Any context.
    #[cold]
    fn wake(&self) {
        // SAFETY: Only `wait_for_room` leaves something there, and whoever takes it out uses it up.
        if let Some(waker) = unsafe { Parker::take(self.parked.xchg(null_mut(), Full)) } {
            waker.wake();
        }
    }

    /// Waits until the blocking worker may submit one more. Called by the blocking worker, for a
    /// request that waits.
    fn wait_for_room(&self) {
        if self.has_room() {
            return;
        }
        let parker = Parker::current();
        loop {
            let token = parker.token();
            let old = self.parked.xchg(parker.leave(), Full);
            // SAFETY: As in `wake`.
            drop(unsafe { Parker::take(old) });
            if self.has_room() {
                break;
            }
            parker.park(token, true);
        }
        // SAFETY: As in `wake`.
        drop(unsafe { Parker::take(self.parked.xchg(null_mut(), Full)) });
    }
}

/// A reference on a [`Queue`]: an [`Arc`](kernel::sync::Arc) that counts inline, since each request
/// counts.
pub(crate) struct Queued(NonNull<Queue>);

// SAFETY: All of a queue is made to be shared, and the file of a device belongs to no thread.
unsafe impl Send for Queued {}
// SAFETY: As above.
unsafe impl Sync for Queued {}

impl Queued {
    pub(crate) fn new(queue: Queue) -> Result<Self> {
        let memory = sys::alloc(sys::Layout::new::<Queue>(), None).ok_or(ENOMEM)?;
        let memory = memory.cast();
        // SAFETY: The memory is fresh, large enough and aligned.
        unsafe { memory.write(queue) };
        Ok(Self(memory))
    }

    fn queue(&self) -> &Queue {
        // SAFETY: We have a reference.
        unsafe { self.0.as_ref() }
    }

    /// An upcall is about to submit a request: whether it is to do so at once, or to hand it to the
    /// blocking worker. `special` is one that does not let itself be refused.
    #[inline(always)]
    pub(crate) fn begin(&self, special: bool) -> bool {
        let before = self.queue().count.fetch_add(1, Full);
        if before < self.queue().direct && !special {
            return true;
        }
        self.refused();
        false
    }

    /// An upcall's request that was in flight is for the blocking worker. Any context.
    #[cold]
    pub(crate) fn refused(&self) {
        self.queue().count.fetch_add(WAITING - 1, Full);
        self.queue().wake();
    }

    /// An upcall's request that was in flight has ended. Any context.
    #[inline(always)]
    pub(crate) fn ended(&self) {
        if self.queue().count.fetch_sub(1, Full) >= WAITING {
            self.queue().wake();
        }
    }

    /// The blocking worker is about to submit a request that waited. Waits until the bound allows
    /// it.
    pub(crate) fn send(&self) -> Sending {
        self.queue().wait_for_room();
        self.queue().count.fetch_add(1, Full);
        Sending(self.clone())
    }
}

/// The blocking worker submits a request, which still counts as waiting: others do not go past it.
pub(crate) struct Sending(Queued);

impl Sending {
    /// The block layer has the request.
    pub(crate) fn sent(self) {
        self.0.queue().count.fetch_sub(WAITING, Full);
    }
}

impl Clone for Queued {
    #[inline(always)]
    fn clone(&self) -> Self {
        // Of 64 bits, which no program counts through.
        self.queue().refs.fetch_add(1, Relaxed);
        Self(self.0)
    }
}

impl Drop for Queued {
    #[inline(always)]
    fn drop(&mut self) {
        if self.queue().refs.fetch_sub(1, Full) == 1 {
            free(self.0);
        }
    }
}

/// Frees a queue whose last reference is gone. Process context.
#[cold]
fn free(queue: NonNull<Queue>) {
    // SAFETY: It was the last reference, and the memory comes from `alloc`.
    unsafe {
        queue.drop_in_place();
        sys::free(queue.cast(), sys::Layout::new::<Queue>(), None);
    }
}

/// The priority of requests, as of the system call `ioprio_set`.
///
/// C header: [`include/uapi/linux/ioprio.h`](srctree/include/uapi/linux/ioprio.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority(pub(crate) u16);

impl Priority {
    /// Before all others, which it may keep waiting. Level 0 is the first, 7 the
    /// last.
    pub const fn real_time(level: u8) -> Self {
        Self::new(1, level)
    }

    /// The usual class. Level 0 is the first, 7 the last; a thread has 4.
    pub const fn best_effort(level: u8) -> Self {
        Self::new(2, level)
    }

    /// When nobody else needs the device.
    pub const fn idle() -> Self {
        Self::new(3, 0)
    }

    const fn new(class: u16, level: u8) -> Self {
        // Levels above the last are the last.
        let level = if level > 7 { 7 } else { level };
        Self(class << 13 | level as u16)
    }
}

/// The payload of a request without data.
struct Nothing;

impl Payload for Nothing {}
