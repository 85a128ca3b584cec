// SPDX-License-Identifier: GPL-2.0

//! The block device's buffer cache, read asynchronously.
//!
//! C header: [`include/linux/buffer_head.h`](srctree/include/linux/buffer_head.h).
//!
//! Metadata is read through the buffer cache of the block device, so that programs that look at the
//! device see what the file system sees.
//!
//! # Concurrency
//!
//! A buffer that is being read is locked. Whoever gets the lock submits the read; the completion,
//! in any context, marks the buffer and unlocks it. Everybody else, be it an upcall or a thread of
//! another user of the device, waits for the unlock: threads sleep, upcalls put an entry with a wake
//! function of its own into the same wait queue. The entry lives in the pinned future; the wake
//! function runs under the queue's lock and takes the entry off as the last thing it does, and a
//! future that is dropped takes it off under that lock. The request owns a reference on the buffer, so a
//! dropped future leaves the read to finish alone.

use crate::disk::Disk;
use core::future::Future;
use core::marker::PhantomPinned;
use core::ops::Range;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll, Waker};
use kernel::ffi::{c_int, c_uint, c_void};
use kernel::prelude::*;
use kernel::sync::atomic::Full;
use kernel::sync::barrier::smp_mb;
use kernel::types::Opaque;
use upcall::bio::{plugged, submit, Io, Op, Payload, Segment};
use upcall_bindings as ub;

/// A reference on a buffer of the block device.
struct Head(NonNull<ub::buffer_head>);

// SAFETY: A buffer may be used from any thread.
unsafe impl Send for Head {}
// SAFETY: As above.
unsafe impl Sync for Head {}

impl Head {
    fn is_uptodate(&self) -> bool {
        // SAFETY: We have a reference.
        unsafe { ub::upcall_buffer_uptodate(self.0.as_ptr()) }
    }

    fn is_locked(&self) -> bool {
        // SAFETY: We have a reference.
        unsafe { ub::upcall_buffer_locked(self.0.as_ptr()) }
    }

    fn try_lock(&self) -> bool {
        // SAFETY: We have a reference.
        unsafe { ub::upcall_trylock_buffer(self.0.as_ptr()) }
    }

    fn clone_ref(&self) -> Self {
        // SAFETY: We have a reference.
        unsafe { ub::upcall_hold_buffer(self.0.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        // SAFETY: We have a reference, which goes.
        unsafe { ub::upcall_put_buffer(self.0.as_ptr()) }
    }
}

/// A block of metadata, in the block device's buffer cache.
///
/// Its bytes are shared with everybody who uses the device: programs that write to the device may
/// change them at any time. So what was read from them once may read differently the next time, and
/// whoever parses them checks what it uses when it uses it.
pub struct Buffer {
    head: Head,
    len: usize,
}

/// The private state bit of buffers that [`Buffer::set_verified`] sets. Bits from
/// `BH_PrivateStart` on belong to the file system on the device.
const VERIFIED: u32 = 40;

impl Buffer {
    /// The bytes, as many as the volume's block size.
    pub fn data(&self) -> &[u8] {
        // SAFETY: We have a reference on an uptodate buffer, whose memory is mapped.
        unsafe { core::slice::from_raw_parts((*self.head.0.as_ptr()).b_data.cast(), self.len) }
    }

    /// Whether [`set_verified`](Self::set_verified) was called since the block was read.
    pub fn is_verified(&self) -> bool {
        // SAFETY: We have a reference.
        unsafe { ub::upcall_buffer_test(self.head.0.as_ptr(), VERIFIED) }
    }

    /// Remembers that the block's checksum was compared.
    pub fn set_verified(&self) {
        // SAFETY: We have a reference.
        unsafe { ub::upcall_buffer_set(self.head.0.as_ptr(), VERIFIED) }
    }
}

/// The payload of a buffer's read: the reference, and the lock.
struct Reading(Head);

impl Payload for Reading {
    const END: Option<fn(&mut Self, Result)> = Some(|reading, result| {
        // SAFETY: The buffer was locked for this read, and we have a reference.
        unsafe { ub::upcall_end_buffer_read(reading.0 .0.as_ptr(), result.is_ok()) }
    });
}

/// What a buffer is looked up in.
#[derive(Clone, Copy)]
struct Cache {
    bdev: NonNull<ub::block_device>,
    size: u32,
}

// SAFETY: A block device may be used from any thread.
unsafe impl Send for Cache {}
// SAFETY: As above.
unsafe impl Sync for Cache {}

impl Cache {
    /// The buffer of a block, if there is one. Does not wait.
    fn find(self, block: u64) -> Option<Head> {
        // SAFETY: The device is open as long as its volume's scope.
        let head = unsafe { ub::upcall_find_buffer(self.bdev.as_ptr(), block, self.size) };
        NonNull::new(head).map(Head)
    }

    /// As `get`, but gives up where it would wait.
    fn get_nowait(self, block: u64) -> Option<Head> {
        // SAFETY: As above.
        let head = unsafe { ub::upcall_get_buffer_nowait(self.bdev.as_ptr(), block, self.size) };
        NonNull::new(head).map(Head)
    }

    /// The buffer of a block, which is made if there is none. May sleep.
    fn get(self, block: u64) -> Result<Head> {
        // SAFETY: As above.
        let head = unsafe { ub::upcall_get_buffer(self.bdev.as_ptr(), block, self.size) };
        NonNull::new(head).map(Head).ok_or(ENOMEM)
    }
}

impl Disk {
    fn cache(&self) -> Cache {
        Cache {
            bdev: self.bdev(),
            size: self.block_size(),
        }
    }

    fn buffer_of(&self, head: Head) -> Buffer {
        Buffer {
            head,
            len: self.block_size() as usize,
        }
    }

    /// Block `block` of the device, if it is in memory. Does not wait.
    pub fn cached_buffer(&self, block: u64) -> Option<Buffer> {
        let head = self.cache().find(block).filter(Head::is_uptodate)?;
        Some(self.buffer_of(head))
    }

    /// Reads block `block` of the device, in units of the volume's block size.
    ///
    /// Fails with `EIO` and other errors of the block layer, `ENOMEM`, and `ESHUTDOWN`. The caller
    /// has checked that the block lies on the volume.
    ///
    /// # Cancellation
    ///
    /// Dropping the future lets the read finish alone, and the block stays in memory.
    pub fn buffer(&self, block: u64) -> impl Future<Output = Result<Buffer>> + Send + '_ {
        self.buffer_among(block, block..block)
    }

    /// As [`buffer`](Self::buffer). If the block is not in memory, starts to read `others` as well, which may have it in
    /// between, and does not wait for them; without memory, or for blocks that are locked, it leaves them.
    pub async fn buffer_among(&self, block: u64, others: Range<u64>) -> Result<Buffer> {
        let head = match self.cache().find(block) {
            Some(head) if head.is_uptodate() => return Ok(self.buffer_of(head)),
            Some(head) => head,
            None => self.new_head(block).await?,
        };
        let io = loop {
            if head.is_uptodate() {
                return Ok(self.buffer_of(head));
            }
            let begun = if others.is_empty() {
                head.try_lock().then(|| self.start_read(&head))
            } else {
                // In the order of the device, so that they become one request.
                plugged(|| {
                    self.prefetch(others.start..others.end.min(block));
                    let begun = head.try_lock().then(|| self.start_read(&head));
                    self.prefetch(others.start.max(block + 1)..others.end);
                    begun
                })
            };
            match begun {
                Some(io) => break io?,
                // Somebody else reads it. If that fails we try ourselves, and get the error.
                None => Unlocked::new(&head).await,
            }
        };
        if let Some(io) = io {
            io.await.0?;
        }
        Ok(self.buffer_of(head))
    }

    /// Makes a buffer; where that has to wait for memory or a lock, a worker leaves it to the sleeper.
    async fn new_head(&self, block: u64) -> Result<Head> {
        if block >= self.size() / u64::from(self.block_size()) {
            // The device has shrunk.
            return Err(EIO);
        }
        let cache = self.cache();
        if !upcall::on_worker() {
            return cache.get(block);
        }
        match cache.get_nowait(block) {
            Some(head) => Ok(head),
            None => {
                let get = self.spawner().spawn_blocking(move || cache.get(block))?;
                get.await?
            }
        }
    }

    /// Submits the read of a locked buffer, unless it is uptodate; the lock is gone after that, or with the read.
    fn start_read(&self, head: &Head) -> Result<Option<Io<Reading>>> {
        let end = |uptodate| {
            // SAFETY: The caller holds the lock, and we have a reference.
            unsafe { ub::upcall_end_buffer_read(head.0.as_ptr(), uptodate) }
        };
        if head.is_uptodate() {
            end(true);
            return Ok(None);
        }
        // SAFETY: The caller holds the lock, so the bit is ours.
        unsafe { ub::upcall_buffer_clear(head.0.as_ptr(), VERIFIED) };
        let mut offset = 0;
        // SAFETY: We have a reference.
        let page = unsafe { ub::upcall_buffer_page(head.0.as_ptr(), &mut offset) };
        let segment = Segment {
            // SAFETY: A buffer lies in a folio.
            page: unsafe { NonNull::new_unchecked(page.cast()) },
            offset,
            len: self.block_size(),
        };
        // SAFETY: We have a reference. The block number is in units of the buffer's size.
        let pos = unsafe { (*head.0.as_ptr()).b_blocknr } * u64::from(self.block_size());
        let segments = core::iter::once(segment);
        let reading = Reading(head.clone_ref());
        // SAFETY: The buffer's memory stays while there is a reference, and its lock keeps others
        // from it.
        let io = unsafe { submit(self.device(), Op::ReadMeta, pos, segments, reading) };
        io.map(Some).inspect_err(|_| end(false))
    }

    /// Starts to read `blocks`, as far as that needs no waiting.
    fn prefetch(&self, blocks: Range<u64>) {
        for block in blocks {
            let Some(head) = self.cache().get_nowait(block) else {
                continue;
            };
            if !head.is_uptodate() && head.try_lock() && self.start_read(&head).is_err() {
                return;
            }
        }
    }
}

/// Waits until a buffer is unlocked.
struct Unlocked<'a> {
    head: &'a Head,
    entry: Opaque<Entry>,
    queued: bool,
    _pinned: PhantomPinned,
}

/// The entry in the wait queue.
#[repr(C)]
struct Entry {
    wait: ub::wait_queue_entry,
    /// The buffer whose unlock is waited for.
    buffer: *mut ub::buffer_head,
    /// Protected by the queue's lock while the entry is queued.
    waker: Option<Waker>,
}

// SAFETY: The entry is reached through the wait queue's lock.
unsafe impl Send for Unlocked<'_> {}

impl<'a> Unlocked<'a> {
    fn new(head: &'a Head) -> Self {
        Self {
            head,
            entry: Opaque::new(Entry {
                wait: ub::wait_queue_entry::default(),
                buffer: head.0.as_ptr(),
                waker: None,
            }),
            queued: false,
            _pinned: PhantomPinned,
        }
    }

    fn queue(&self) -> *mut ub::wait_queue_head {
        // SAFETY: We have a reference.
        unsafe { ub::upcall_buffer_wait_queue(self.head.0.as_ptr()) }
    }

    /// Takes the entry off, if the wake function has not.
    fn leave(&mut self) {
        if core::mem::take(&mut self.queued) {
            // SAFETY: The entry was queued. After this nobody else knows of it.
            unsafe {
                ub::finish_wait(self.queue(), &raw mut (*self.entry.get()).wait);
                (*self.entry.get()).waker = None;
            }
        }
    }

    /// Called by `unlock_buffer`, in any context, with the queue's lock held.
    ///
    /// # Safety
    ///
    /// Called by the kernel alone, as the C declaration says.
    unsafe extern "C" fn wake(
        wait: *mut ub::wait_queue_entry,
        _mode: c_uint,
        _flags: c_int,
        key: *mut c_void,
    ) -> c_int {
        let entry: *mut Entry = wait.cast();
        // SAFETY: The queue's entries with this function are ours, and live while they are queued; the
        // key of a bit's wait queue is a `wait_bit_key`.
        unsafe {
            let key: *const ub::wait_bit_key = key.cast();
            let buffer = (*entry).buffer;
            if (*key).flags.cast() != &raw mut (*buffer).b_state || ub::upcall_buffer_locked(buffer)
            {
                return 0;
            }
            let waker = (*entry).waker.take();
            ub::upcall_wait_entry_done(wait);
            // The entry may be gone now.
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        1
    }
}

impl Future for Unlocked<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: The entry stays where it is.
        let this = unsafe { self.get_unchecked_mut() };
        this.leave();
        if !this.head.is_locked() {
            return Poll::Ready(());
        }
        // SAFETY: The entry is on no queue, so it is ours, and it is pinned.
        unsafe {
            let entry = this.entry.get();
            (*entry).waker = Some(cx.waker().clone());
            ub::upcall_init_wait(&raw mut (*entry).wait, Some(Self::wake));
            ub::add_wait_queue(this.queue(), &raw mut (*entry).wait);
        }
        this.queued = true;
        // Pairs with the barrier between unlock and wake.
        smp_mb(Full);
        if this.head.is_locked() {
            return Poll::Pending;
        }
        this.leave();
        Poll::Ready(())
    }
}

impl Drop for Unlocked<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

// The wait entry is the first field, so that a pointer to one is a pointer to the other.
const _: () = assert!(core::mem::offset_of!(Entry, wait) == 0);
