// SPDX-License-Identifier: GPL-2.0

//! Block requests as futures.
//!
//! C headers: [`include/linux/bio.h`](srctree/include/linux/bio.h),
//! [`include/linux/blk_types.h`](srctree/include/linux/blk_types.h).
//!
//! # Ownership
//!
//! A request is one allocation ([`RequestInner`]): bio, segment table and a *payload* that owns the
//! memory that the device reads or writes. It has two owners, the submitted bio and the
//! [`InFlight`] future. While the bio is out nobody else touches the payload. When the future is
//! dropped the request is merely detached: the device finishes with memory that the request still
//! owns. A completed request becomes a [`Request`] again once the bio has dropped its reference: it
//! then has one owner, which may submit it once more.
//!
//! # Concurrency
//!
//! The completion, `end_io`, runs once for each time that the bio was sent, in any context up to
//! hard interrupt, or inside `submit_bio` itself. It calls [`Payload::END`], completes [`Done`],
//! and drops the bio's reference. If that was the last (the future is gone), the payload's
//! destructor must not run there: the request is pushed on the executor, which releases it. A
//! request is a [`Member`] of its device's scope until it is released, so the scope's owner
//! outlives every callback.
//!
//! # Submitting never sleeps on a worker
//!
//! `submit_bio` may wait for a tag, for a frozen queue, for writeback throttling, or in the driver.
//! On an executor's worker bios go out with `REQ_NOWAIT`, and are refused where they would wait.
//! What would wait nevertheless is submitted by the scope's *blocking worker*, a thread that may:
//! requests that throttling or splitting does not refuse but makes wait (discards, zeroes), flushes
//! of a stacked device, all requests of a driver that sleeps or of a device without `REQ_NOWAIT`,
//! and those that were refused. Writes and flushes are marked `REQ_SYNC | REQ_IDLE`, as direct IO
//! is, which throttling leaves alone.
//!
//! A stacked device over a driver that sleeps is not recognised, and runs that driver on the
//! worker. Its limits do not tell: every driver with tags has `BLK_FEAT_NOWAIT`, and stacking
//! inherits no feature that says that a driver sleeps. Its members are listed in a type private to
//! the block layer.
//!
//! [`Queue`](crate::device::Queue) keeps the order: while there are requests for the blocking
//! worker, new ones of a worker go behind them. Threads that are not workers submit directly, and
//! wait where the kernel makes them wait. There is no retry of a request that failed.
//!
//! # Memory
//!
//! In an upcall a request's memory is had without waiting, or not at all; see
//! [`memory`](crate::memory).

use crate::device::{Device, Priority, Queued};
use crate::done::Done;
use crate::executor::{Core, Runnable};
use crate::scope::Member;
use crate::stats::Wait;
use crate::sys::blk::{self, Ask, Bio, BioVec, End as Ended, RawDevice, RawPage};
use crate::sys::{
    self, Acquire, Atomic, Cell, Error, Full, Reserve, Result, EBADF, EINVAL, ENOMEM, ESHUTDOWN,
};
use core::future::Future;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::pin::Pin;
use core::ptr::{from_ref, NonNull};
use core::task::{ready, Context, Poll};

/// What a request asks of the device.
///
/// In memory it is the operation and the flags of the bio.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Op {
    /// Read data.
    Read = blk::OP_READ,
    /// Read metadata, on which other operations wait.
    ReadMeta = blk::OP_READ | blk::META | blk::PRIO,
    /// Write data.
    Write = blk::OP_WRITE | blk::SYNC | blk::IDLE,
    /// Write data, and be done only when it is on stable media.
    WriteFua = blk::OP_WRITE | blk::SYNC | blk::IDLE | blk::FUA,
    /// Write metadata, or a log of it.
    WriteMeta = blk::OP_WRITE | blk::META | blk::SYNC | blk::IDLE,
    /// Bring what was written to stable media, then write metadata, and be done only when that is on
    /// stable media, too.
    WriteMetaFlushFua =
        blk::OP_WRITE | blk::META | blk::SYNC | blk::IDLE | blk::PREFLUSH | blk::FUA,
    /// Bring what was written to stable media. Without data.
    Flush = blk::OP_WRITE | blk::SYNC | blk::IDLE | blk::PREFLUSH,
    /// Forget what is there. Without data.
    Discard = blk::OP_DISCARD,
    /// Write zeroes. Without data.
    WriteZeroes = blk::OP_WRITE_ZEROES,
}

/// The bit of an operation that tells that it writes; a [`Flush`](Op::Flush) has it too.
pub(crate) const WRITES: u32 = 1;

/// The bits of an operation that is neither a read nor a write of data.
pub(crate) const WITHOUT_DATA: u32 = 0xfe;

const _: () = {
    assert!(blk::OP_READ == 0 && blk::OP_WRITE == WRITES);
    assert!(blk::OP_DISCARD & WITHOUT_DATA != 0 && blk::OP_WRITE_ZEROES & WITHOUT_DATA != 0);
    assert!(blk::OP_DISCARD & WRITES != 0 && blk::OP_WRITE_ZEROES & WRITES != 0);
};

/// What a request carries: the owner of the memory that its segments point to.
pub trait Payload: Send + 'static {
    /// Called once when the device is done. Any context: it may not sleep.
    const END: Option<fn(&mut Self, Result)> = None;
}

/// A part of a request's memory.
pub struct Segment {
    /// The page, or the head page of a folio.
    pub page: NonNull<RawPage>,
    /// Where the part begins, in bytes from the start of `page`.
    pub offset: u32,
    /// How long it is, in bytes.
    pub len: u32,
}

impl Segment {
    fn entry(&self) -> BioVec {
        blk::bio_vec(self.page, self.offset, self.len)
    }
}

/// Calls a payload's [`END`](Payload::END).
type End = unsafe fn(NonNull<Head>, Result);

/// What all requests begin with, whatever their payload.
#[repr(C)]
pub(crate) struct Head {
    runnable: Runnable,
    /// One for the bio, and one for the future; or one for the [`Request`], which is not submitted.
    refs: Atomic<sys::Small>,
    done: Done,
    /// Written by `end_io` before `done` is completed, read after.
    status: Cell<i32>,
    /// Given to the blocking worker to submit, not to the executor to release.
    submit: Atomic<bool>,
    segments: u16,
    /// What all segments have, in bytes.
    size: u32,
    /// There from when the request is submitted until both owners let go of it.
    submission: MaybeUninit<Submission>,
    reserve: Option<Reserve>,
    /// The default one, which releases it.
    executor: NonNull<Core>,
    /// Size and alignment of its memory.
    memory: (u32, u32),
    /// Null if there are none.
    table: *mut BioVec,
    /// In the user's module; called while the request is a member of the scope.
    end: Option<End>,
    drop_payload: unsafe fn(NonNull<Head>),
    bio: Bio,
}

/// What is asked of a device, each time that a request is submitted.
struct Submission {
    opf: u32,
    sector: u64,
    size: u32,
    priority: u16,
    /// Whether `queue` counts it: an upcall's is counted, a thread's is not.
    counted: bool,
    bdev: NonNull<RawDevice>,
    /// Where it is counted until it ends. Keeps the device open, if we opened it.
    queue: Queued,
    member: Member,
}

impl Head {
    /// # Safety
    ///
    /// The request was submitted.
    unsafe fn submission(&self) -> &Submission {
        // SAFETY: By the function's contract.
        unsafe { self.submission.assume_init_ref() }
    }
}

/// The bio of a request that is alive.
///
/// # Safety
///
/// The caller has a reference.
#[cfg(not(MODULE))]
pub(crate) unsafe fn bio_of<'a>(head: NonNull<Head>) -> &'a Bio {
    // SAFETY: By the function's contract.
    unsafe { &head.as_ref().bio }
}

/// The size of what all requests begin with, in bytes.
#[cfg_attr(not(MODULE), allow(dead_code, reason = "the host has no reserves"))]
pub(crate) const HEAD_SIZE: usize = size_of::<Head>();

/// The memory of a request, whoever owns it.
#[repr(C)]
struct RequestInner<P> {
    head: Head,
    payload: Cell<Option<P>>,
}

impl<P> RequestInner<P> {
    /// The memory of one with `count` segments, and where in it their table begins.
    fn layout(count: usize) -> Result<(sys::Layout, usize)> {
        let table = sys::Layout::array::<BioVec>(count).map_err(|_| EINVAL)?;
        sys::Layout::new::<Self>().extend(table).map_err(|_| EINVAL)
    }
}

impl<P: Payload> RequestInner<P> {
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

/// A request that is not submitted: its memory, and its payload.
///
/// # Invariants
///
/// Nobody else has a reference. There is no [`Submission`], and `done` has no waker. The segments
/// are those of the payload.
pub(crate) struct Request<P: Payload>(NonNull<RequestInner<P>>);

// SAFETY: The payload is `Send`, and all else is memory.
unsafe impl<P: Payload> Send for Request<P> {}
// SAFETY: A shared one gives shared access to the payload alone.
unsafe impl<P: Payload + Sync> Sync for Request<P> {}

impl<P: Payload> Request<P> {
    /// Allocates one. Gives the payload back if it fails. May sleep, but in an upcall.
    ///
    /// # Safety
    ///
    /// The segments stay valid, and are touched by nobody else, until the payload is dropped or
    /// handed back.
    #[inline(never)] // Those that are used again come by here once.
    pub(crate) unsafe fn new(
        segments: impl ExactSizeIterator<Item = Segment>,
        reserve: Option<&Reserve>,
        payload: P,
    ) -> Result<Self, (Error, P)> {
        let count = segments.len();
        let prepare = || {
            let entries = u16::try_from(count).map_err(|_| EINVAL)?;
            let (memory, table) = RequestInner::<P>::layout(count)?;
            let small = |n: usize| u32::try_from(n).map_err(|_| EINVAL);
            let sizes = (small(memory.size())?, small(memory.align())?);
            let executor = sys::executor()?;
            let request = sys::alloc(memory, reserve).ok_or(ENOMEM)?;
            Ok((entries, sizes, table, executor, request))
        };
        let (entries, memory, table, executor, request) = match prepare() {
            Ok(prepared) => prepared,
            Err(error) => return Err((error, payload)),
        };
        let table: *mut BioVec = match count {
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
            submission: MaybeUninit::uninit(),
            reserve: reserve.cloned(),
            executor,
            memory,
            table,
            end: P::END.map(|_| RequestInner::<P>::end as End),
            drop_payload: RequestInner::<P>::drop_payload,
            bio: Bio::new(),
        };
        let payload = Cell::new(Some(payload));
        let request = request.cast();
        // SAFETY: The memory is fresh, large enough and aligned.
        unsafe { request.write(RequestInner { head, payload }) };
        // INVARIANT: It is new.
        Ok(Self(request))
    }

    /// The payload, if it was not given out.
    pub(crate) fn payload(&self) -> Option<&P> {
        // SAFETY: By the invariant it is ours.
        RequestInner::payload(self.0.cast(), |payload| unsafe { (*payload).as_ref() })
    }

    /// Frees the request, and gives its payload.
    pub(crate) fn into_payload(self) -> Option<P> {
        // SAFETY: By the invariant it is ours.
        RequestInner::payload(self.0.cast(), |payload| unsafe { (*payload).take() })
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
            blk::set_part(&mut *head.table, offset, len);
            head.size = len;
        }
    }

    /// Asks the device for the bytes from `pos` on: as many as the segments have, and `more`.
    ///
    /// Fails with `ESHUTDOWN`, and with `EBADF` if it would change a device that is open for
    /// reading.
    #[inline]
    pub(crate) fn submit(
        self,
        device: &Device,
        op: Op,
        pos: u64,
        more: u32,
    ) -> Result<InFlight<P>, (Error, Self)> {
        let opf = op as u32 | device.flags;
        let special = opf & device.special != 0;
        if special && !device.allows(op) {
            return Err((EBADF, self));
        }
        let Some(member) = device.scope.enter() else {
            return Err((ESHUTDOWN, self));
        };
        let head: NonNull<Head> = ManuallyDrop::new(self).0.cast();
        let this = head.as_ptr();
        // SAFETY: By the invariant all of it is ours. One of the two references goes with the bio.
        // On a worker nothing may wait.
        unsafe {
            // The default executor first, which is the quickest to know.
            let upcall = (*this).executor.as_ref().is_current() || sys::on_worker();
            (&raw mut (*this).submission).write(MaybeUninit::new(Submission {
                opf,
                sector: pos >> blk::SECTOR_SHIFT,
                size: (*this).size.saturating_add(more),
                priority: device.priority,
                counted: upcall,
                bdev: device.bdev,
                queue: device.queue.clone(),
                member,
            }));
            (*this).refs.store(2, sys::Relaxed);
            (*this).done.reset();
            if !upcall || (*this).submission().queue.begin(special) {
                start(head, upcall, if upcall { blk::NOWAIT } else { 0 });
            } else {
                blocking_worker_submits(head);
            }
        }
        Ok(InFlight {
            head,
            payload: PhantomData,
        })
    }
}

impl<P: Payload> Drop for Request<P> {
    fn drop(&mut self) {
        let head = self.0.cast();
        // SAFETY: By the invariant all of it is ours.
        unsafe {
            RequestInner::<P>::drop_payload(head);
            free(head);
        }
    }
}

/// Calls `submit_all`, whose requests reach the device together, and merged where they are
/// neighbours.
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
/// Dropping it detaches the request: the device finishes it, and the executor then drops the
/// payload.
#[must_use = "dropping it detaches the request"]
pub struct InFlight<P> {
    head: NonNull<Head>,
    payload: PhantomData<P>,
}

// SAFETY: The payload is `Send`, all else is made to be shared.
unsafe impl<P: Payload> Send for InFlight<P> {}
// SAFETY: A shared `InFlight` gives access to nothing.
unsafe impl<P: Payload> Sync for InFlight<P> {}

/// Submits a request for the bytes from `pos` on, which is a multiple of the logical block size.
///
/// `segments` lie in memory that `payload` owns, fit the device's alignment, and are as many as the
/// device takes in one bio (256 always are). Fails with `ENOMEM`, with `EBADF` if it would change a
/// device that is open for reading, and with `ESHUTDOWN` once the device's scope is over; then
/// nothing was submitted and the payload is dropped. May sleep for memory; on a worker it waits
/// neither for memory, without which it fails, nor for the device.
///
/// # Safety
///
/// The segments stay valid, and are touched by nobody else, until the payload is dropped or handed
/// back.
pub unsafe fn submit<P: Payload>(
    device: &Device,
    op: Op,
    pos: u64,
    segments: impl ExactSizeIterator<Item = Segment>,
    payload: P,
) -> Result<InFlight<P>> {
    // SAFETY: By the function's contract.
    unsafe { submit_or_return(device, op, pos, 0, segments, payload) }.map_err(|(error, _)| error)
}

/// [`submit`], for `more` bytes than the segments have. Gives the payload back if it fails.
///
/// # Safety
///
/// As for [`submit`].
pub unsafe fn submit_or_return<P: Payload>(
    device: &Device,
    op: Op,
    pos: u64,
    more: u32,
    segments: impl ExactSizeIterator<Item = Segment>,
    payload: P,
) -> Result<InFlight<P>, (Error, Option<P>)> {
    // SAFETY: By the function's contract.
    unsafe { Request::new(segments, device.reserve(), payload) }
        .map_err(|(error, payload)| (error, Some(payload)))?
        .submit(device, op, pos, more)
        .map_err(|(error, request)| (error, request.into_payload()))
}

/// Initialises the bio and submits it: for an upcall, or else for the thread that calls.
///
/// What an upcall asks is of the usual priority, and the root control group's, as if a thread of
/// the kernel asked: not of the priority that its worker has for the processor.
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
        let submission = this.submission();
        let mut priority = submission.priority;
        if upcall && priority == 0 {
            priority = Priority::best_effort(4).0;
        }
        let ask = Ask {
            opf: submission.opf | flags,
            sector: submission.sector,
            size: submission.size,
            priority,
            bdev: submission.bdev,
            table: this.table,
            segments: this.segments,
        };
        this.bio.submit(head, &ask, upcall);
    }
}

/// Hands the request, which its queue counts as waiting, to the blocking worker, which submits it.
///
/// # Safety
///
/// As for [`start`].
unsafe fn blocking_worker_submits(head: NonNull<Head>) {
    // SAFETY: The bio's reference goes along; nobody else pushes the request while the bio is not
    // out. The blocking worker outlives every request, as the executor does.
    unsafe {
        let this = head.as_ref();
        this.submit.store(true, sys::Relaxed);
        this.submission()
            .member
            .scope()
            .blocking()
            .push(head.cast());
    }
}

/// The bio's completion. Any context.
///
/// # Safety
///
/// The bio of `head` was submitted, and is not out any more; called once for that.
pub(crate) unsafe fn end_io(head: NonNull<Head>, end: Ended, section: &sys::ReadSection) {
    // SAFETY: The bio has a reference.
    unsafe {
        let this = head.as_ref();
        let Ended::Done(errno) = end else {
            this.submission().queue.refused();
            return blocking_worker_submits(head);
        };
        this.bio.trace_end(|| this.submission().sector, errno);
        this.status.with_mut(|status| *status = errno);
        if this.submission().counted {
            this.submission().queue.ended();
        }
        if let Some(end) = this.end {
            end(head, result(errno));
        }
        // Before the reference goes: until then the waker's code is there.
        this.done.complete_in(section);
        if this.refs.fetch_sub(1, Full) == 1 {
            // The future is gone, and what is left must not run here.
            this.executor.as_ref().push(head.cast());
        }
    }
}

/// The result that an error number is, or 0.
#[inline(always)]
fn result(errno: i32) -> Result {
    if errno == 0 {
        return Ok(());
    }
    Err(Error::from_errno(errno))
}

/// Whether a runnable is a request, which on the blocking worker is one to be submitted.
pub(crate) fn is_request(runnable: NonNull<Runnable>) -> bool {
    // SAFETY: Who asks has taken the runnable from its list, or is about to, so it is there.
    let function = unsafe { runnable.as_ref() }.function();
    core::ptr::fn_addr_eq(function, run as unsafe fn(NonNull<Runnable>))
}

/// Runs on the blocking worker, to submit, or on the executor, to release.
///
/// # Safety
///
/// `runnable` is the first field of a head. On the blocking worker the bio's reference comes with
/// it; on the executor it is the last user's.
#[inline(never)] // Generic code takes its address, which must be in the runtime's own text.
unsafe fn run(runnable: NonNull<Runnable>) {
    let head: NonNull<Head> = runnable.cast();
    // SAFETY: By the function's contract. The request is a member of its scope until `release` has
    // dropped the payload.
    unsafe {
        let this = head.as_ref();
        if this.submit.xchg(false, sys::Full) {
            // It runs us, so it is there when the request is gone.
            let worker = NonNull::from(this.submission().member.scope().blocking());
            let sending = this.submission().queue.send();
            start(head, true, 0);
            // From here on the request may be gone. A later one of an upcall may reach the device
            // before it: it may still be in this thread's plug, which ends with those that follow
            // it, or when the thread sleeps.
            sending.sent();
            worker.as_ref().stats().tick();
        } else {
            let scope = from_ref(this.submission().member.scope());
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
    // SAFETY: By the function's contract all of the request is ours. The member goes last: until
    // then the user's module is there.
    unsafe {
        (head.as_ref().drop_payload)(head);
        let member = take_submission(head);
        free(head);
        drop(member);
    }
}

/// Drops what keeps the device, and gives what keeps the scope.
///
/// # Safety
///
/// Nobody else has a reference, and the request was submitted. Process context.
unsafe fn take_submission(head: NonNull<Head>) -> Member {
    // SAFETY: By the function's contract all of the request is ours.
    let submission = unsafe {
        (&raw const (*head.as_ptr()).submission)
            .read()
            .assume_init()
    };
    drop(submission.queue);
    submission.member
}

/// Frees the memory of a request.
///
/// # Safety
///
/// Nobody uses it any more, and it has neither payload nor submission.
unsafe fn free(head: NonNull<Head>) {
    // SAFETY: By the function's contract all of the request is ours. Size and alignment are those
    // of a layout.
    unsafe {
        let reserve = (*head.as_ptr()).reserve.take();
        let (size, align) = head.as_ref().memory;
        let memory = sys::Layout::from_size_align_unchecked(size as usize, align as usize);
        sys::free(head.cast(), memory, reserve.as_ref());
    }
}

impl<P> InFlight<P> {
    fn head(&self) -> &Head {
        // SAFETY: We have a reference.
        unsafe { self.head.as_ref() }
    }
}

impl<P: Payload> InFlight<P> {
    /// Ends a request, and keeps it with its payload for another one, if the completion has let go
    /// of it and its memory was not set aside for others as well.
    pub(crate) fn into_request(self) -> Result<Request<P>, Self> {
        // The other reference is the bio's. When `end_io` has dropped it, all of the request is
        // ours.
        if self.head().refs.load(Acquire) != 1 || self.head().reserve.is_some() {
            return Err(self);
        }
        // SAFETY: By the above.
        if RequestInner::<P>::payload(self.head, |payload| unsafe { (*payload).is_none() }) {
            return Err(self);
        }
        let head = ManuallyDrop::new(self).head;
        // SAFETY: By the above, and we have the future, which has the one reference.
        drop(unsafe { take_submission(head) });
        // INVARIANT: The submission was taken, `done` is complete and has no waker, and the payload
        // that the segments were made for is there.
        Ok(Request(head.cast()))
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
        RequestInner::<P>::payload(self.head, |payload| unsafe { (*payload).take() })
    }
}

impl<P> Unpin for InFlight<P> {}

impl<P: Payload> Future for InFlight<P> {
    type Output = (Result, Option<P>);

    /// Gives the result and the payload; the payload is `None` if it was given out before.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.poll_end(cx));
        Poll::Ready((result, self.take_payload()))
    }
}

impl<P> Drop for InFlight<P> {
    fn drop(&mut self) {
        // SAFETY: `&mut self` makes us the one waiter.
        unsafe { self.head().done.disarm() };
        if self.head().refs.fetch_sub(1, Full) == 1 {
            // SAFETY: It was the last reference.
            unsafe { release(self.head) };
        }
    }
}
