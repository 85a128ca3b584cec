// SPDX-License-Identifier: GPL-2.0

//! The host's block layer: devices that refuse, wait and complete as a test says.
//!
//! They check what a kernel would only punish: a request on a closed device, a wait on a worker, a
//! bio that is submitted twice.

// The models use none of the devices.
#![cfg_attr(loom, allow(dead_code))]

use super::{in_interrupt, interrupt, on_worker, read_section, Error, Result};
use crate::bio::{end_io, Head};
use core::ffi::CStr;
use core::ptr::NonNull;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

// The numbers are the kernel's, so far as `bio` relies on them.
pub(crate) const OP_READ: u32 = 0;
pub(crate) const OP_WRITE: u32 = 1;
pub(crate) const OP_DISCARD: u32 = 3;
pub(crate) const OP_WRITE_ZEROES: u32 = 9;
pub(crate) const SYNC: u32 = 1 << 11;
pub(crate) const META: u32 = 1 << 12;
pub(crate) const PRIO: u32 = 1 << 13;
pub(crate) const NOMERGE: u32 = 1 << 14;
pub(crate) const IDLE: u32 = 1 << 15;
pub(crate) const FUA: u32 = 1 << 17;
pub(crate) const PREFLUSH: u32 = 1 << 18;
pub(crate) const NOWAIT: u32 = 1 << 21;
pub(crate) const SECTOR_SHIFT: u32 = 9;

const OP_MASK: u32 = 0xff;

/// The bytes of a page.
#[repr(align(4096))]
pub struct RawPage(#[allow(dead_code, reason = "reached by pointers alone")] pub(crate) [u8; 4096]);

pub(crate) struct BioVec(NonNull<RawPage>, u32, u32);

pub(crate) fn bio_vec(page: NonNull<RawPage>, offset: u32, len: u32) -> BioVec {
    BioVec(page, offset, len)
}

pub(crate) fn set_part(entry: &mut BioVec, offset: u32, len: u32) {
    (entry.1, entry.2) = (offset, len);
}

pub(crate) struct Ask {
    pub(crate) opf: u32,
    pub(crate) sector: u64,
    pub(crate) size: u32,
    pub(crate) priority: u16,
    pub(crate) bdev: NonNull<RawDevice>,
    pub(crate) table: *mut BioVec,
    pub(crate) segments: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done(i32),
    Refused,
}

/// Knows whether it is out.
pub(crate) struct Bio(std::sync::atomic::AtomicBool);

impl Bio {
    pub(crate) fn new() -> Self {
        Self(false.into())
    }

    /// # Safety
    ///
    /// As in the kernel.
    pub(crate) unsafe fn submit(&self, head: NonNull<Head>, ask: &Ask, root: bool) {
        assert!(!in_interrupt(), "a bio is submitted in interrupt context");
        let out = self.0.swap(true, std::sync::atomic::Ordering::Relaxed);
        assert!(!out, "a bio is submitted that is out");
        let mut size = 0;
        for n in 0..ask.segments {
            // SAFETY: The table has so many entries, of pages that live.
            let BioVec(page, offset, len) = unsafe { &*ask.table.add(n.into()) };
            // SAFETY: As above. The device reads or writes what it is told.
            unsafe {
                page.as_ptr()
                    .cast::<u8>()
                    .add(*offset as usize)
                    .read_volatile()
            };
            assert!(offset + len <= 4096);
            size += len;
        }
        assert!(ask.segments == 0 || ask.size >= size);
        assert!(!root || ask.priority != 0, "of the worker's own priority");
        let sent = Sent {
            head: head.as_ptr() as usize,
            opf: ask.opf,
            sector: ask.sector,
        };
        let device = ask.bdev.as_ptr() as usize;
        // SAFETY: A test keeps its device.
        let busy = unsafe { ask.bdev.as_ref() }.state().busy;
        if !busy.is_zero() {
            super::advance(busy);
        }
        let plugged = PLUG.with(|plug| {
            let mut plug = plug.borrow_mut();
            plug.as_mut()
                .map(|list| list.push((device, sent)))
                .is_some()
        });
        if !plugged {
            receive(device, sent);
        }
    }

    /// # Safety
    ///
    /// As in the kernel.
    pub(crate) unsafe fn trace_end(&self, _sector: impl FnOnce() -> u64, _errno: i32) {}
}

super::rt::thread_local! {
    /// What the calling thread submitted, if it has a plug.
    static PLUG: core::cell::RefCell<Option<Vec<(usize, Sent)>>> =
        core::cell::RefCell::new(None);
}

/// Sends what the calling thread's plug has, as the kernel does before a thread sleeps.
pub(crate) fn flush_plug() {
    let list = PLUG.with(|plug| plug.borrow_mut().as_mut().map(std::mem::take));
    for (device, sent) in list.into_iter().flatten() {
        receive(device, sent);
    }
}

/// Keeps what `f` submits until it is over, or until the thread sleeps.
pub(crate) fn with_plug<R>(f: impl FnOnce() -> R) -> R {
    let outer = PLUG.with(|plug| plug.borrow_mut().replace(Vec::new()));
    assert!(outer.is_none(), "a plug inside a plug");
    let result = f();
    let list = PLUG.with(|plug| plug.borrow_mut().take());
    for (device, sent) in list.into_iter().flatten() {
        receive(device, sent);
    }
    result
}

fn receive(device: usize, sent: Sent) {
    // SAFETY: A test drops its device last.
    unsafe { &*(device as *const RawDevice) }.receive(sent);
}

/// What a device got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    head: usize,
    pub(crate) opf: u32,
    pub(crate) sector: u64,
}

/// A device with so many tags.
pub struct RawDevice {
    state: Mutex<State>,
    freed: Condvar,
    depth: usize,
    blocking: bool,
    stacked: bool,
}

struct State {
    /// For how long a thread that submits is busy.
    busy: Duration,
    open: usize,
    /// How many more requests it takes.
    tags: usize,
    out: VecDeque<Sent>,
    /// The sectors that were asked for, in the order in which the device got them.
    log: Vec<u64>,
    /// How many were refused.
    refused: usize,
    /// The most requests that were in flight.
    most: usize,
}

impl RawDevice {
    /// A device that is not open. `blocking` is whether its driver sleeps.
    pub(crate) fn new(depth: usize, blocking: bool) -> Self {
        let state = State {
            busy: Duration::ZERO,
            open: 0,
            tags: depth,
            out: VecDeque::new(),
            log: Vec::new(),
            refused: 0,
            most: 0,
        };
        Self {
            state: Mutex::new(state),
            freed: Condvar::new(),
            depth,
            blocking,
            stacked: false,
        }
    }

    /// One that has no tags of its own: it passes requests on to a device that has `depth`. Its
    /// flushes are new requests, which do not say that they may not wait.
    pub(crate) fn stacked(depth: usize) -> Self {
        Self {
            stacked: true,
            ..Self::new(depth, false)
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn receive(&self, sent: Sent) {
        let nowait = sent.opf & NOWAIT != 0;
        if on_worker() {
            let op = sent.opf & OP_MASK;
            assert!(nowait, "a worker may wait for a tag");
            assert!(!self.blocking, "a worker runs a driver that sleeps");
            let whole = op == OP_READ || op == OP_WRITE;
            assert!(whole, "a worker may wait while a request is split");
            let flush = sent.opf & PREFLUSH != 0;
            assert!(!self.stacked || !flush, "a worker may wait for another tag");
            let direct = sent.opf & (SYNC | IDLE) == SYNC | IDLE;
            assert!(op == OP_READ || direct, "a worker may be throttled");
        }
        let mut state = self.state();
        assert_ne!(state.open, 0, "a request on a closed device");
        while state.tags == 0 {
            if nowait {
                state.refused += 1;
                drop(state);
                return end(sent, End::Refused);
            }
            state = self.freed.wait(state).unwrap();
        }
        state.tags -= 1;
        state.log.push(sent.sector);
        state.out.push_back(sent);
        state.most = state.most.max(state.out.len());
    }

    /// Ends the oldest request, with an error number or 0. Returns whether there is one.
    pub(crate) fn complete(&self, errno: i32) -> bool {
        let mut state = self.state();
        let Some(sent) = state.out.pop_front() else {
            return false;
        };
        state.tags += 1;
        drop(state);
        self.freed.notify_one();
        interrupt(|| end(sent, End::Done(errno)));
        true
    }

    /// Others take so many tags.
    pub(crate) fn take_tags(&self, count: usize) {
        self.state().tags -= count;
    }

    /// Others give so many tags back.
    pub(crate) fn give_tags(&self, count: usize) {
        self.state().tags += count;
        self.freed.notify_all();
    }

    /// Each submission takes so long.
    pub(crate) fn set_busy(&self, busy: Duration) {
        self.state().busy = busy;
    }

    /// Opens it, or closes it.
    pub(crate) fn set_open(&self, open: bool) {
        let mut state = self.state();
        state.open = if open { state.open + 1 } else { state.open - 1 };
    }

    /// How often it is open.
    pub(crate) fn openers(&self) -> usize {
        self.state().open
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.state().out.len()
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.state().most
    }

    pub(crate) fn refusals(&self) -> usize {
        self.state().refused
    }

    pub(crate) fn log(&self) -> Vec<u64> {
        self.state().log.clone()
    }
}

fn end(sent: Sent, end: End) {
    let head = NonNull::new(sent.head as *mut Head).unwrap();
    let section = read_section();
    // SAFETY: The request has the bio's reference, and is out. It is not any more.
    unsafe {
        crate::bio::bio_of(head)
            .0
            .store(false, std::sync::atomic::Ordering::Relaxed);
        #[allow(clippy::unit_arg, reason = "the host's section is nothing")]
        end_io(head, end, &section);
    }
}

pub(crate) struct Traits {
    pub(crate) logical_block_size: u32,
    pub(crate) nowait: bool,
    pub(crate) depth: Option<usize>,
}

/// # Safety
///
/// A test keeps its device. So in the next.
pub(crate) unsafe fn traits(bdev: NonNull<RawDevice>) -> Traits {
    // SAFETY: By the function's contract.
    let device = unsafe { bdev.as_ref() };
    Traits {
        logical_block_size: 512,
        nowait: !device.blocking,
        depth: (!device.stacked).then_some(device.depth),
    }
}

/// # Safety
///
/// As above.
pub(crate) unsafe fn size(bdev: NonNull<RawDevice>) -> u64 {
    // SAFETY: By the function's contract.
    let device = unsafe { bdev.as_ref() };
    assert_ne!(device.openers(), 0, "the size of a closed device is read");
    1 << 20
}

/// The devices that can be opened.
static NAMES: Mutex<Vec<(&CStr, usize)>> = Mutex::new(Vec::new());

/// Gives a device a name, or none to none.
pub(crate) fn set_name(name: &'static CStr, device: Option<&RawDevice>) {
    let mut names = NAMES
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    names.retain(|known| known.0 != name);
    names.extend(device.map(|device| (name, core::ptr::from_ref(device) as usize)));
}

/// An open device.
pub(crate) struct OpenFile(usize);

impl Drop for OpenFile {
    fn drop(&mut self) {
        // SAFETY: A test keeps its device.
        unsafe { &*(self.0 as *const RawDevice) }.set_open(false);
    }
}

pub(crate) fn open(path: &CStr, _write: bool) -> Result<(OpenFile, NonNull<RawDevice>)> {
    let names = NAMES
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let known = names.iter().find(|known| known.0 == path);
    let device = known.ok_or(Error::from_errno(-2))?.1;
    let bdev = NonNull::new(device as *mut RawDevice).unwrap();
    // SAFETY: A test keeps its device.
    unsafe { bdev.as_ref() }.set_open(true);
    Ok((OpenFile(device), bdev))
}
