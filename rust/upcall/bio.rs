// SPDX-License-Identifier: GPL-2.0

//! Block requests as futures.
//!
//! C headers: [`include/linux/bio.h`](srctree/include/linux/bio.h),
//! [`include/linux/blk_types.h`](srctree/include/linux/blk_types.h).
//!
//! # Ownership
//!
//! The request is one allocation: bio, segment table and a *payload* that owns the memory that the
//! device reads or writes. It has two owners, the submitted bio and the [`Io`] future. While the bio is
//! out nobody else touches the payload. When the future is dropped the request is merely
//! detached: the device finishes with memory that the request still owns. A request that is over, and that both
//! let go of, is [`Idle`]: it has one owner, which may ask again by it.
//!
//! # Concurrency
//!
//! The completion, `end_io`, runs once for each time that the bio was sent, in any context up to hard
//! interrupt, or inside `submit_bio` itself. It calls [`Payload::END`], completes [`Done`], and drops the bio's reference. If that was the last
//! (the future is gone), the payload's destructor must not run there: the request is pushed on the
//! executor, which releases it. A request is a [`Member`] of its device's scope until it is
//! released, so the scope's owner outlives every callback.
//!
//! # Submitting never sleeps on a worker
//!
//! `submit_bio` may wait for a tag or for a frozen queue. On an executor's worker bios go out with
//! `REQ_NOWAIT`; one that comes back with `BLK_STS_AGAIN` is handed to the scope's *sleeper*, a thread
//! that submits it again and may wait. A volume has a sleeper of its own, so that one that waits for a
//! device holds up nobody else: the devices may be stacked. Devices without `REQ_NOWAIT` are served by the sleeper alone.
//! Threads that are not workers submit directly. There is no retry of a request that failed.

use crate::device::{Device, Opened, Priority};
use crate::done::Done;
use crate::executor::{Core, Runnable};
use crate::module;
use crate::reserve::Reserve;
use crate::scope::Member;
use crate::stats::Wait;
use crate::sys::{self, Acquire, Atomic, Cell, Full};
use core::future::Future;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::pin::Pin;
use core::ptr::{from_ref, NonNull};
use core::task::{ready, Context, Poll};
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::types::Opaque;
use upcall_bindings as ub;

/// What a request asks of the device.
///
/// In memory it is the operation and the flags of the bio.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Op {
    /// Read data.
    Read = ub::req_op_REQ_OP_READ,
    /// Read metadata, on which other operations wait.
    ReadMeta = ub::req_op_REQ_OP_READ | ub::UPCALL_REQ_META | ub::UPCALL_REQ_PRIO,
    /// Write data.
    Write = ub::req_op_REQ_OP_WRITE | ub::UPCALL_REQ_SYNC,
    /// Write data, and be done only when it is on stable media.
    WriteFua = ub::req_op_REQ_OP_WRITE | ub::UPCALL_REQ_SYNC | ub::UPCALL_REQ_FUA,
    /// Bring what was written to stable media. Without data.
    Flush = ub::req_op_REQ_OP_WRITE | ub::UPCALL_REQ_PREFLUSH,
    /// Forget what is there. Without data.
    Discard = ub::req_op_REQ_OP_DISCARD,
    /// Write zeroes. Without data.
    WriteZeroes = ub::req_op_REQ_OP_WRITE_ZEROES,
}

/// What a request carries: the owner of the memory that its segments point to.
pub trait Payload: Send + 'static {
    /// Called once when the device is done. Any context: it may not sleep.
    const END: Option<fn(&mut Self, Result)> = None;
}

/// A part of a request's memory.
pub struct Segment {
    /// The page, or the head page of a folio.
    pub page: NonNull<bindings::page>,
    /// Where the part begins, in bytes from the start of `page`.
    pub offset: u32,
    /// How long it is, in bytes.
    pub len: u32,
}

impl Segment {
    fn entry(&self) -> ub::bio_vec {
        ub::bio_vec {
            bv_page: self.page.as_ptr().cast(),
            bv_len: self.len,
            bv_offset: self.offset,
        }
    }
}

/// Calls a payload's [`END`](Payload::END).
type End = unsafe fn(NonNull<Head>, Result);

/// What all requests begin with, whatever their payload.
#[repr(C)]
struct Head {
    runnable: Runnable,
    /// One for the bio, and one for the future; or one for the [`Idle`].
    refs: Atomic<u32>,
    done: Done,
    /// Written by `end_io` before `done` is completed, read after.
    status: Cell<i32>,
    /// Given to the sleeper to submit, not to the executor to release.
    submit: Atomic<bool>,
    segments: u16,
    /// What all segments have, in bytes.
    size: u32,
    /// What is asked, of whom: there while it is not idle.
    asked: MaybeUninit<Asked>,
    reserve: Option<Reserve>,
    /// The default one, which releases it.
    executor: NonNull<Core>,
    /// Size and alignment of its memory.
    memory: (u32, u32),
    /// Null if there are none.
    table: *mut ub::bio_vec,
    /// In the user's module; called while the request is a member of the scope.
    end: Option<End>,
    drop_payload: unsafe fn(NonNull<Head>),
    bio: Opaque<ub::bio>,
}

/// What is asked of a device, once.
struct Asked {
    opf: u32,
    sector: u64,
    size: u32,
    priority: u16,
    bdev: NonNull<ub::block_device>,
    /// Keeps the device open, if we opened it.
    opened: Option<Opened>,
    member: Member,
}

impl Head {
    /// # Safety
    ///
    /// The request is not idle.
    unsafe fn asked(&self) -> &Asked {
        // SAFETY: By the function's contract.
        unsafe { self.asked.assume_init_ref() }
    }
}

/// The size of what all requests begin with, in bytes.
pub(crate) const HEAD_SIZE: usize = size_of::<Head>();

#[repr(C)]
struct Request<P> {
    head: Head,
    payload: Cell<Option<P>>,
}

impl<P> Request<P> {
    /// The memory of one with `count` segments, and where in it their table begins.
    fn layout(count: usize) -> Result<(sys::Layout, usize)> {
        let table = sys::Layout::array::<ub::bio_vec>(count).map_err(|_| EINVAL)?;
        sys::Layout::new::<Self>().extend(table).map_err(|_| EINVAL)
    }
}

impl<P: Payload> Request<P> {
    fn payload<R>(head: NonNull<Head>, f: impl FnOnce(*mut Option<P>) -> R) -> R {
        // SAFETY: The callers have a reference on a request with a payload of type `P`.
        unsafe { head.cast::<Self>().as_ref() }.payload.with_mut(f)
    }

    /// # Safety
    ///
    /// Called by the completion, once, before it completes `done`.
    unsafe fn end(head: NonNull<Head>, result: Result) {
        Self::payload(head, |payload| {
            // SAFETY: The device is done, and `done` is not completed: the payload is ours.
            if let (Some(payload), Some(end)) = (unsafe { &mut *payload }, P::END) {
                end(payload, result);
            }
        });
    }

    /// # Safety
    ///
    /// The caller has the last reference.
    unsafe fn drop_payload(head: NonNull<Head>) {
        // SAFETY: The caller has the last reference.
        Self::payload(head, |payload| unsafe { *payload = None });
    }
}

/// A request that asks nothing, for what it will ask next: its memory and its payload.
///
/// # Invariants
///
/// Nobody else has a reference. Nothing is asked, and `done` has no waker. The segments are those of the
/// payload.
pub(crate) struct Idle<P: Payload>(NonNull<Request<P>>);

// SAFETY: The payload is `Send`, and all else is memory.
unsafe impl<P: Payload> Send for Idle<P> {}
// SAFETY: A shared one gives shared access to the payload alone.
unsafe impl<P: Payload + Sync> Sync for Idle<P> {}

impl<P: Payload> Idle<P> {
    /// Allocates one. Gives the payload back if it fails. May sleep.
    ///
    /// # Safety
    ///
    /// The segments stay valid, and are touched by nobody else, until the payload is dropped or handed back.
    #[inline(never)] // Those that are used again come by here once.
    pub(crate) unsafe fn new(
        segments: impl ExactSizeIterator<Item = Segment>,
        reserve: Option<&Reserve>,
        payload: P,
    ) -> Result<Self, (Error, P)> {
        let count = segments.len();
        let prepare = || {
            let entries = u16::try_from(count).map_err(|_| EINVAL)?;
            let (memory, table) = Request::<P>::layout(count)?;
            let small = |n: usize| u32::try_from(n).map_err(|_| EINVAL);
            let sizes = (small(memory.size())?, small(memory.align())?);
            let executor = module::executor()?;
            let request = sys::alloc(memory, reserve).ok_or(ENOMEM)?;
            Ok((entries, sizes, table, executor, request))
        };
        let (entries, memory, table, executor, request) = match prepare() {
            Ok(prepared) => prepared,
            Err(error) => return Err((error, payload)),
        };
        let table: *mut ub::bio_vec = match count {
            // The block layer looks at a table that is there, also if it has no entries.
            0 => core::ptr::null_mut(),
            // SAFETY: The table lies inside the allocation.
            _ => unsafe { request.add(table) }.as_ptr().cast(),
        };
        let (mut used, mut size) = (0u16, 0u32);
        segments.take(count).for_each(|segment| {
            // SAFETY: The table has `count` entries, and `used` is less.
            unsafe { table.add(usize::from(used)).write(segment.entry()) };
            used = used.wrapping_add(1);
            size = size.saturating_add(segment.len);
        });
        debug_assert!(used == entries);
        let head = Head {
            runnable: Runnable::new(run),
            refs: Atomic::new(1),
            done: Done::new(),
            status: Cell::new(0),
            submit: Atomic::new(false),
            segments: used,
            size,
            asked: MaybeUninit::uninit(),
            reserve: reserve.cloned(),
            executor,
            memory,
            table,
            end: P::END.map(|_| Request::<P>::end as End),
            drop_payload: Request::<P>::drop_payload,
            bio: Opaque::uninit(),
        };
        let payload = Cell::new(Some(payload));
        let request = request.cast();
        // SAFETY: The memory is fresh, large enough and aligned.
        unsafe { request.write(Request { head, payload }) };
        // INVARIANT: It is new.
        Ok(Self(request))
    }

    /// The payload, if it was not given out.
    pub(crate) fn payload(&self) -> Option<&P> {
        // SAFETY: By the invariant it is ours.
        Request::payload(self.0.cast(), |payload| unsafe { (*payload).as_ref() })
    }

    /// Frees the request, and gives its payload.
    pub(crate) fn into_payload(self) -> Option<P> {
        // SAFETY: By the invariant it is ours.
        Request::payload(self.0.cast(), |payload| unsafe { (*payload).take() })
    }

    /// Makes the one segment another part of the page that it is in.
    ///
    /// # Safety
    ///
    /// There is one segment, and the part is of a page of the payload's.
    pub(crate) unsafe fn set_part(&mut self, offset: u32, len: u32) {
        // SAFETY: By the invariant it is ours, and by the function's contract there is an entry.
        unsafe {
            let head = &mut self.0.as_mut().head;
            (*head.table).bv_offset = offset;
            (*head.table).bv_len = len;
            head.size = len;
        }
    }

    /// Asks the device for the bytes from `pos` on: as many as the segments have, and `more`.
    #[inline]
    pub(crate) fn submit(
        self,
        device: &Device,
        op: Op,
        pos: u64,
        more: u32,
    ) -> Result<Io<P>, (Error, Self)> {
        let Some(member) = device.scope.enter() else {
            return Err((ESHUTDOWN, self));
        };
        let head: NonNull<Head> = ManuallyDrop::new(self).0.cast();
        let this = head.as_ptr();
        // SAFETY: By the invariant all of it is ours. One of the two references goes with the bio. On a worker
        // nothing may wait.
        unsafe {
            (&raw mut (*this).asked).write(MaybeUninit::new(Asked {
                opf: op as u32 | device.flags,
                sector: pos >> bindings::SECTOR_SHIFT,
                size: (*this).size.saturating_add(more),
                priority: device.priority,
                bdev: device.bdev,
                opened: device.opened.clone(),
                member,
            }));
            (*this).refs.store(2, sys::Relaxed);
            (*this).done.reset();
            // The default executor first, which is the quickest to know.
            let upcall = (*this).executor.as_ref().is_current() || sys::on_worker();
            if upcall && !device.nowait {
                sleeper_submits(head);
            } else {
                start(head, upcall, if upcall { ub::UPCALL_REQ_NOWAIT } else { 0 });
            }
        }
        Ok(Io {
            head,
            payload: PhantomData,
        })
    }
}

impl<P: Payload> Drop for Idle<P> {
    fn drop(&mut self) {
        let head = self.0.cast();
        // SAFETY: By the invariant all of it is ours.
        unsafe {
            Request::<P>::drop_payload(head);
            free(head);
        }
    }
}

/// Calls `submit_all`, whose requests reach the device together, and merged where they are neighbours.
///
/// For a batch that is submitted in process context; inside an upcall it is so anyway, for all
/// upcalls of one run. May sleep where submitting may.
pub fn plugged<R>(submit_all: impl FnOnce() -> R) -> R {
    sys::with_plug(submit_all)
}

/// A submitted request.
///
/// A future of the result and the payload. The request was submitted already; awaiting it only
/// waits, so that a batch is submitted whole and then awaited.
///
/// Dropping it detaches the request: the device finishes it, and the executor then drops the payload.
#[must_use = "dropping it detaches the request"]
pub struct Io<P> {
    head: NonNull<Head>,
    payload: PhantomData<P>,
}

// SAFETY: The payload is `Send`, all else is made to be shared.
unsafe impl<P: Payload> Send for Io<P> {}
// SAFETY: A shared `Io` gives access to nothing.
unsafe impl<P: Payload> Sync for Io<P> {}

/// Submits a request for the bytes from `pos` on, which is a multiple of the logical block size.
///
/// `segments` lie in memory that `payload` owns, fit the device's alignment, and are as many as the
/// device takes in one bio (256 always are). Fails with `ENOMEM`, and with `ESHUTDOWN` once the
/// device's scope is over; then nothing was submitted and the payload is dropped. May sleep for
/// memory; on a worker it does not wait for the device.
///
/// # Safety
///
/// The segments stay valid, and are touched by nobody else, until the payload is dropped or handed back.
pub unsafe fn submit<P: Payload>(
    device: &Device,
    op: Op,
    pos: u64,
    segments: impl ExactSizeIterator<Item = Segment>,
    payload: P,
) -> Result<Io<P>> {
    // SAFETY: By the function's contract.
    unsafe { submit_or_return(device, op, pos, 0, segments, payload) }.map_err(|(error, _)| error)
}

/// [`submit`], for `more` bytes than the segments have. Gives the payload back if it fails.
///
/// # Safety
///
/// As for [`submit`].
pub(crate) unsafe fn submit_or_return<P: Payload>(
    device: &Device,
    op: Op,
    pos: u64,
    more: u32,
    segments: impl ExactSizeIterator<Item = Segment>,
    payload: P,
) -> Result<Io<P>, (Error, Option<P>)> {
    // SAFETY: By the function's contract.
    unsafe { Idle::new(segments, device.reserve(), payload) }
        .map_err(|(error, payload)| (error, Some(payload)))?
        .submit(device, op, pos, more)
        .map_err(|(error, idle)| (error, idle.into_payload()))
}

/// Initialises the bio and submits it: for an upcall, or else for the thread that calls.
///
/// What an upcall asks is of the usual priority, and the root control group's, as if a thread of the
/// kernel asked: not of the priority that its worker has for the processor.
///
/// # Safety
///
/// The caller passes on the bio's reference, and the bio is not out.
#[inline(always)] // Into the one that submits, and the one that submits again.
unsafe fn start(head: NonNull<Head>, upcall: bool, flags: u32) {
    // SAFETY: The request is alive until `end_io`, and nobody else touches the bio. The table has
    // `segments` entries.
    unsafe {
        let this = head.as_ref();
        let asked = this.asked();
        let bio = this.bio.get();
        let bdev = asked.bdev.as_ptr();
        let opf = asked.opf | flags;
        let mut priority = asked.priority;
        if upcall {
            // To say whose it is is cheaper than to let the kernel find out.
            ub::bio_init(bio, core::ptr::null_mut(), this.table, this.segments, opf);
            (*bio).bi_bdev = bdev;
            #[cfg(CONFIG_BLK_CGROUP)]
            ub::bio_associate_blkg_from_css(bio, ub::blkcg_root_css);
            if priority == 0 {
                priority = Priority::best_effort(4).0;
            }
        } else {
            ub::bio_init(bio, bdev, this.table, this.segments, opf);
        }
        (*bio).bi_vcnt = this.segments;
        (*bio).bi_iter.bi_sector = asked.sector;
        (*bio).bi_iter.bi_size = asked.size;
        (*bio).bi_ioprio = priority;
        (*bio).bi_end_io = Some(end_io);
        (*bio).bi_private = head.as_ptr().cast();
        sys::trace::bio_submit(bio);
        ub::submit_bio(bio);
    }
}

/// Hands the request to the sleeper, which submits it.
///
/// # Safety
///
/// As for [`start`].
unsafe fn sleeper_submits(head: NonNull<Head>) {
    // SAFETY: The bio's reference goes along; nobody else pushes the request while the bio is not out.
    // The sleeper outlives every request, as the executor does.
    unsafe {
        let this = head.as_ref();
        this.submit.store(true, sys::Relaxed);
        this.asked().member.scope().sleeper().push(head.cast());
    }
}

/// The bio's completion.
///
/// # Safety
///
/// Called by the kernel alone, as the C declaration says.
unsafe extern "C" fn end_io(bio: *mut ub::bio) {
    // The module's exit waits for us.
    let section = sys::read_section();
    // SAFETY: `bi_private` was set to the head by `start`, and the bio has a reference.
    unsafe {
        let head = NonNull::new_unchecked((*bio).bi_private.cast::<Head>());
        let this = head.as_ref();
        ub::bio_uninit(bio);
        let status = (*bio).bi_status;
        let nowait = (*bio).bi_opf & ub::UPCALL_REQ_NOWAIT != 0;
        // A stacked device may lose the ability while we use it.
        if nowait && (status == ub::UPCALL_BLK_STS_AGAIN || status == ub::UPCALL_BLK_STS_NOTSUPP) {
            return sleeper_submits(head);
        }
        let errno = if status == 0 {
            0
        } else {
            ub::upcall_blk_status_to_errno(status)
        };
        sys::trace::bio_complete(bio, || this.asked().sector, errno);
        this.status.with_mut(|status| *status = errno);
        if let Some(end) = this.end {
            end(head, result(errno));
        }
        // Before the reference goes: until then the waker's code is there.
        this.done.complete_in(&section);
        if this.refs.fetch_sub(1, Full) == 1 {
            // The future is gone, and what is left must not run here.
            this.executor.as_ref().push(head.cast());
        }
    }
}

/// [`to_result`], which is no call where all is well.
#[inline(always)]
fn result(errno: i32) -> Result {
    if errno == 0 {
        return Ok(());
    }
    to_result(errno)
}

/// Runs on the sleeper, to submit, or on the executor, to release.
///
/// # Safety
///
/// `runnable` is the first field of a head. On the sleeper the bio's reference comes with it; on
/// the executor it is the last user's.
#[inline(never)] // Its address is taken in generic code, and must be that of the runtime's own text.
unsafe fn run(runnable: NonNull<Runnable>) {
    let head: NonNull<Head> = runnable.cast();
    // SAFETY: By the function's contract. The request is a member of its scope until `release` has
    // dropped the payload.
    unsafe {
        let this = head.as_ref();
        if this.submit.xchg(false, sys::Full) {
            start(head, true, 0);
        } else {
            let scope = from_ref(this.asked().member.scope());
            let executor = this.executor;
            executor
                .as_ref()
                .within(scope, core::ptr::null(), || release(head));
            executor.as_ref().stats().tick();
        }
    }
}

/// Drops the payload and frees the request.
///
/// # Safety
///
/// Nobody else has a reference. Process context.
unsafe fn release(head: NonNull<Head>) {
    // SAFETY: By the function's contract all of the request is ours. The member goes last: until then
    // the user's module is there.
    unsafe {
        (head.as_ref().drop_payload)(head);
        let member = take_asked(head);
        free(head);
        drop(member);
    }
}

/// Drops what keeps the device, and gives what keeps the scope.
///
/// # Safety
///
/// Nobody else has a reference, and something was asked. Process context.
unsafe fn take_asked(head: NonNull<Head>) -> Member {
    // SAFETY: By the function's contract all of the request is ours.
    let asked = unsafe { (&raw const (*head.as_ptr()).asked).read().assume_init() };
    drop(asked.opened);
    asked.member
}

/// Frees the memory of a request.
///
/// # Safety
///
/// Nobody uses it any more, and it has no payload, and nothing asked.
unsafe fn free(head: NonNull<Head>) {
    // SAFETY: By the function's contract all of the request is ours. Size and alignment are those of a layout.
    unsafe {
        let reserve = (*head.as_ptr()).reserve.take();
        let (size, align) = head.as_ref().memory;
        let memory = sys::Layout::from_size_align_unchecked(size as usize, align as usize);
        sys::free(head.cast(), memory, reserve.as_ref());
    }
}

impl<P> Io<P> {
    fn head(&self) -> &Head {
        // SAFETY: We have a reference.
        unsafe { self.head.as_ref() }
    }
}

impl<P: Payload> Io<P> {
    /// Ends a request, and keeps it with its payload for another one, if the completion has let go of it
    /// and its memory was not set aside for others as well.
    pub(crate) fn into_idle(self) -> Result<Idle<P>, Self> {
        // Alone we are only when `end_io` has done its last: then all of the request is ours.
        if self.head().refs.load(Acquire) != 1 || self.head().reserve.is_some() {
            return Err(self);
        }
        // SAFETY: By the above.
        if Request::<P>::payload(self.head, |payload| unsafe { (*payload).is_none() }) {
            return Err(self);
        }
        let head = ManuallyDrop::new(self).head;
        // SAFETY: By the above, and we have the future, which has the one reference.
        drop(unsafe { take_asked(head) });
        // INVARIANT: Nothing is asked any more, `done` is complete and has no waker, and the payload that the
        // segments were made for is there.
        Ok(Idle(head.cast()))
    }

    /// Polls for the end, and leaves the payload where it is.
    #[inline(always)] // There are two callers.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        // SAFETY: `&mut self` makes us the one waiter.
        if unsafe { self.head().done.poll(cx, Wait::Bio) }.is_pending() {
            return Poll::Pending;
        }
        // SAFETY: The request is done, so the status is ours.
        let errno = self.head().status.with(|status| unsafe { *status });
        Poll::Ready(result(errno))
    }

    /// Gives the payload of a request that is done.
    pub(crate) fn take_payload(&mut self) -> Option<P> {
        if !self.head().done.is_done() {
            return None;
        }
        // SAFETY: The request is done, so the payload is ours.
        Request::<P>::payload(self.head, |payload| unsafe { (*payload).take() })
    }
}

impl<P> Unpin for Io<P> {}

impl<P: Payload> Future for Io<P> {
    type Output = (Result, Option<P>);

    /// Gives the result and the payload; the payload is `None` if it was given out before.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.poll_end(cx));
        Poll::Ready((result, self.take_payload()))
    }
}

impl<P> Drop for Io<P> {
    fn drop(&mut self) {
        // SAFETY: `&mut self` makes us the one waiter.
        unsafe { self.head().done.disarm() };
        if self.head().refs.fetch_sub(1, Full) == 1 {
            // SAFETY: It was the last reference.
            unsafe { release(self.head) };
        }
    }
}
