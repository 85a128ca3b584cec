// SPDX-License-Identifier: GPL-2.0

//! A disk as a block device of a machine: completions come as interrupts, by the seed.

use crate::{Fault, Op, Request, SimDisk};
use kernel::block::{block_device, Bio, BioOp, BlockDevice, Status};
use kernel::machine;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

/// How long requests take, in nanoseconds: from `least` on, and sometimes a multiple of that.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// What the fastest request takes.
    pub least: u64,
    /// How much more others take, at most.
    pub more: u64,
    /// One in so many requests takes twenty times as long; 0 for none.
    pub slow: u64,
    /// One in so many requests completes inside of its submission; 0 for none.
    pub at_once: u64,
    /// One in so many requests that may not wait is refused; 0 for none.
    pub refused: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            least: 10_000,
            more: 90_000,
            slow: 50,
            at_once: 20,
            refused: 20,
        }
    }
}

/// What is called when a request has completed, with the disk.
type Observer = Box<dyn FnMut(&mut SimDisk) + Send>;

/// A disk in a machine.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    disk: Mutex<SimDisk>,
    latency: Mutex<Latency>,
    observer: Mutex<Option<Observer>>,
    logical_block_size: u32,
    read_only: AtomicBool,
    sectors_written: AtomicU64,
    /// What C has a pointer to: made once, and there as long as the device.
    bdev: Mutex<Option<Box<block_device>>>,
}

/// What [`block_device`] has: a reference that does not keep the device, since the device keeps it.
struct Handle(std::sync::Weak<Inner>);

impl Device {
    /// A device for `disk`.
    pub fn new(disk: SimDisk, latency: Latency) -> Self {
        Self::with_block_size(disk, latency, 512)
    }

    /// [`new`](Self::new), whose smallest unit are `size` bytes.
    pub fn with_block_size(disk: SimDisk, latency: Latency, size: u32) -> Self {
        let inner = Arc::new(Inner {
            disk: Mutex::new(disk),
            latency: Mutex::new(latency),
            observer: Mutex::new(None),
            logical_block_size: size,
            read_only: AtomicBool::new(false),
            sectors_written: AtomicU64::new(0),
            bdev: Mutex::new(None),
        });
        let handle = Handle(Arc::downgrade(&inner));
        *inner.bdev.lock().unwrap() = Some(Box::new(block_device(Box::new(handle))));
        Self(inner)
    }

    /// How long requests take from now on.
    pub fn set_latency(&self, latency: Latency) {
        *self.0.latency.lock().unwrap() = latency;
    }

    /// From now on nothing is to be written to it.
    pub fn set_read_only(&self) {
        self.0.read_only.store(true, Relaxed);
    }

    /// The C device, which is there as long as the device.
    pub fn bdev(&self) -> NonNull<block_device> {
        let bdev = self.0.bdev.lock().unwrap();
        NonNull::from(&**bdev.as_ref().expect("it was made with the device"))
    }

    /// The disk.
    pub fn disk(&self) -> MutexGuard<'_, SimDisk> {
        self.0.disk.lock().unwrap()
    }

    /// Calls `f` whenever a request has completed, before anybody is told.
    pub fn observe(&self, f: impl FnMut(&mut SimDisk) + Send + 'static) {
        *self.0.observer.lock().unwrap() = Some(Box::new(f));
    }
}

/// The bytes of the segments.
fn gather(segments: &[(NonNull<u8>, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(start, len) in segments {
        // SAFETY: The memory is the bio's until it ends.
        bytes
            .extend_from_slice(unsafe { std::slice::from_raw_parts(start.as_ptr(), len as usize) });
    }
    bytes
}

/// Puts bytes into the segments.
fn scatter(segments: &[(NonNull<u8>, u32)], mut bytes: &[u8]) {
    for &(start, len) in segments {
        let n = (len as usize).min(bytes.len());
        // SAFETY: The memory is the bio's until it ends, and nobody else touches it.
        unsafe { start.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), n) };
        bytes = &bytes[n..];
    }
}

/// The part of a bio that is needed when it completes. The pointers are those of a `Send` bio.
struct Completion {
    inner: Arc<Inner>,
    id: crate::Id,
    bio: Bio,
    written: Vec<u8>,
}

impl Completion {
    fn run(self) {
        let Self {
            inner,
            id,
            bio,
            written,
        } = self;
        if bio.op == BioOp::Write {
            assert!(
                gather(&bio.segments) == written,
                "memory was changed while it was written, at sector {}",
                bio.sector
            );
        }
        let result = {
            let mut disk = inner.disk.lock().unwrap();
            let result = disk.complete(id);
            if let Some(observer) = &mut *inner.observer.lock().unwrap() {
                observer(&mut disk);
            }
            result
        };
        let status = match result {
            Ok(bytes) => {
                scatter(&bio.segments, &bytes);
                Status::Ok
            }
            Err(Fault::Io) => {
                if bio.op == BioOp::Read {
                    // Some of it may have come.
                    let part = bio.size as usize / 2 / 512 * 512;
                    scatter(&bio.segments, &vec![0xee; part]);
                }
                Status::Error(-5)
            }
            Err(Fault::Gone) => Status::Error(-19),
            Err(Fault::Invalid) => Status::Error(-5),
        };
        (bio.end)(status);
    }
}

impl BlockDevice for Handle {
    fn submit(&self, bio: Bio) {
        let inner = self.0.upgrade().expect("a device that is there");
        let latency = *inner.latency.lock().unwrap();
        let happens = |odds: u64| odds != 0 && machine::random(odds) == 0;
        if bio.nowait && happens(latency.refused) {
            return (bio.end)(Status::Again);
        }
        let written = if bio.op == BioOp::Write {
            gather(&bio.segments)
        } else {
            Vec::new()
        };
        let mut request = Request {
            op: match bio.op {
                BioOp::Read => Op::Read,
                BioOp::Write if bio.size == 0 => Op::Flush,
                BioOp::Write => Op::Write,
                BioOp::Discard => Op::Discard,
                BioOp::WriteZeroes => Op::WriteZeroes,
            },
            pos: bio.sector * 512,
            len: bio.size.into(),
            data: written.clone(),
            fua: bio.fua,
            preflush: bio.preflush,
        };
        if request.op == Op::Flush {
            request.pos = 0;
        }
        let size: u64 = bio
            .segments
            .iter()
            .map(|segment| u64::from(segment.1))
            .sum();
        let has_data = matches!(bio.op, BioOp::Read | BioOp::Write);
        assert!(
            !has_data || size == u64::from(bio.size),
            "segments of {size} bytes for {}",
            bio.size
        );
        let unit = u64::from(inner.logical_block_size);
        assert!(
            request.pos % unit == 0 && request.len % unit == 0,
            "a request of {} bytes at {} for a device of {unit}",
            request.len,
            request.pos
        );
        let writes = matches!(request.op, Op::Write | Op::Discard | Op::WriteZeroes);
        assert!(
            !writes || !inner.read_only.load(Relaxed),
            "a write to a device that is read-only"
        );
        if request.op == Op::Write {
            inner.sectors_written.fetch_add(request.len / 512, Relaxed);
        }
        let id = inner.disk.lock().unwrap().submit(request);
        let completion = Completion {
            inner: inner.clone(),
            id,
            bio,
            written,
        };
        if happens(latency.at_once) {
            return completion.run();
        }
        let mut takes = latency.least + machine::random(latency.more + 1);
        if happens(latency.slow) {
            takes *= 20;
        }
        machine::at(machine::now() + takes, move || completion.run());
    }

    fn size(&self) -> u64 {
        let inner = self.0.upgrade().expect("a device that is there");
        let size = inner.disk.lock().unwrap().size();
        size
    }

    fn sectors_written(&self) -> u64 {
        let inner = self.0.upgrade().expect("a device that is there");
        inner.sectors_written.load(Relaxed)
    }

    fn read_only(&self) -> bool {
        let inner = self.0.upgrade().expect("a device that is there");
        inner.read_only.load(Relaxed)
    }

    fn logical_block_size(&self) -> u32 {
        let inner = self.0.upgrade().expect("a device that is there");
        inner.logical_block_size
    }
}
