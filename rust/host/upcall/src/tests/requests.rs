// SPDX-License-Identifier: GPL-2.0

//! Requests, over a device that does what a test says: who submits, in which order, with what
//! memory.

use crate::bio::Op;
use crate::harness::*;
use crate::memory::Shortage;
use crate::sys::blk::{set_name, RawDevice};
use crate::sys::{self, EBADF, EINVAL, ENOMEM, ESHUTDOWN};
use crate::{block_on, memory_freed, Block, Blocks, Device, Scope};
use core::pin::Pin;
use core::ptr::{from_mut, from_ref, null_mut, NonNull};
use core::task::Poll;
use core::time::Duration;
use std::sync::{Arc, Mutex};

/// A device, and who runs its requests. Tests run one after another.
struct Fixture {
    disk: &'static RawDevice,
    host: Host,
    blocking: Host,
    shortage: &'static Shortage,
}

impl Fixture {
    fn new(depth: usize, blocking: bool) -> Self {
        Self::with(RawDevice::new(depth, blocking))
    }

    fn with(disk: RawDevice) -> Self {
        let host = Host::new();
        let shortage = Box::leak(Box::new(Shortage::new()));
        sys::set_shortage(from_mut(shortage));
        sys::set_default_executor(from_ref(host.executor()).cast_mut());
        let disk = Box::leak(Box::new(disk));
        set_name(c"disk", Some(disk));
        Self {
            disk,
            host,
            blocking: Host::blocking(),
            shortage,
        }
    }

    fn scope(&self) -> Scope {
        self.host.scope_with(&self.blocking)
    }

    fn open(&self, scope: &Scope) -> Device {
        Device::open(c"disk", true, scope).unwrap()
    }

    /// Runs what is ready, and completes what is in flight, until there is nothing.
    fn settle(&self) {
        loop {
            self.pump();
            if !self.disk.complete(0) {
                return;
            }
        }
    }

    /// Runs what is ready.
    fn pump(&self) {
        while self.host.try_run() || self.blocking.try_run() {}
    }

    /// Runs `future` in an upcall, completes what it asks for, and gives what it gives.
    fn upcall<F>(&self, scope: &Scope, future: F) -> F::Output
    where
        F: core::future::Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let mut handle = scope.spawn(future).unwrap();
        self.settle();
        match poll_once(Pin::new(&mut handle)) {
            Poll::Ready(Ok(output)) => output,
            _ => panic!("it did not end"),
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        assert_eq!(self.disk.openers(), 0, "the device is still open");
        set_name(c"disk", None);
        sys::set_short(false);
        sys::set_shortage(null_mut());
        sys::set_default_executor(null_mut());
    }
}

const SIZE: usize = Block::SIZE;

/// Queues a read of page `n` in an upcall.
fn read(scope: &Scope, device: &Device, n: u64) {
    let device = device.clone();
    let read = async move {
        let mut block = Block::vacant();
        block.read(&device, n * SIZE as u64, 0, SIZE).await.unwrap();
    };
    drop(scope.spawn(read));
}

/// The pages that the device was asked for, in order.
fn pages(disk: &RawDevice) -> Vec<u64> {
    disk.log().into_iter().map(|sector| sector / 8).collect()
}

#[test]
fn a_device_that_is_open_for_reading_is_not_changed() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        let device = Device::open(c"disk", false, &scope).unwrap();
        fixture.upcall(&scope, {
            let device = device.clone();
            async move {
                let mut block = Block::new().unwrap();
                let mut blocks = Blocks::new(2).unwrap();
                for fua in [false, true] {
                    assert_eq!(block.write(&device, 0, 0, SIZE, fua).await, Err(EBADF));
                    assert_eq!(blocks.write(&device, 0, 0, SIZE, fua).await, Err(EBADF));
                }
                assert_eq!(device.discard(0, 4096).await, Err(EBADF));
                assert_eq!(device.write_zeroes(0, 4096).await, Err(EBADF));
                assert_eq!(block.as_slice().len(), SIZE, "the content is lost");
                assert_eq!(block.read(&device, 0, 0, SIZE).await, Ok(()));
                assert_eq!(blocks.read(&device, 0, 0, SIZE).await, Ok(()));
                assert_eq!(device.flush().await, Ok(()));
            }
        });
        assert_eq!(fixture.disk.log().len(), 3);
        drop(device);
        drop(scope);
    });
}

#[test]
fn the_size_of_a_device_that_may_be_closed_is_not_read() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        fixture.disk.set_open(true);
        // SAFETY: It is open until the scope is over.
        let device = unsafe { Device::new(NonNull::from(fixture.disk), &scope) }.unwrap();
        let own = fixture.open(&scope);
        assert_eq!(device.size(), Ok(1 << 20));
        drop(scope);
        fixture.disk.set_open(false);
        assert_eq!(device.size(), Err(ESHUTDOWN));
        assert_eq!(own.size(), Ok(1 << 20), "its file keeps it open");
    });
}

#[test]
fn a_request_stays_open_as_long_as_it_is_out() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        read(&scope, &device, 1);
        fixture.pump();
        drop(device);
        scope.cancel();
        fixture.pump();
        assert_eq!(fixture.disk.openers(), 1);
        fixture.settle();
        assert_eq!(fixture.disk.openers(), 0);
        drop(scope);
    });
}

#[test]
fn a_request_of_the_blocking_worker_does_not_wait_for_what_comes_after_it() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        fixture.disk.take_tags(8);
        read(&scope, &device, 1);
        fixture.host.pump();
        assert_eq!(fixture.disk.refusals(), 1);
        fixture.disk.give_tags(8);
        let disk = fixture.disk;
        let mut checksum = scope.spawner().spawn_blocking(|| disk.in_flight()).unwrap();
        fixture.blocking.pump();
        assert_eq!(
            poll_once(Pin::new(&mut checksum)),
            Poll::Ready(Ok(1)),
            "the request is in a plug"
        );
        fixture.settle();
        drop(device);
        drop(scope);
    });
}

#[test]
fn requests_of_a_run_reach_the_device_together() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        let disk = fixture.disk;
        read(&scope, &device, 1);
        drop(scope.spawn(async move { assert_eq!(disk.in_flight(), 0) }));
        fixture.settle();
        assert_eq!(pages(fixture.disk), [1]);
        drop(device);
        drop(scope);
    });
}

#[test]
fn a_run_of_the_blocking_worker_stops_when_its_time_is_over() {
    session(|| {
        let fixture = Fixture::new(1000, true);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        fixture.disk.set_busy(Duration::from_micros(700));
        (0..10).for_each(|n| read(&scope, &device, n));
        fixture.host.pump();
        // Of two milliseconds
        for expected in [3, 6, 9, 10] {
            assert!(fixture.blocking.try_run(), "nobody queued the work");
            assert_eq!(pages(fixture.disk).len(), expected);
        }
        fixture.settle();
        drop(device);
        drop(scope);
    });
}

#[test]
fn nobody_goes_past_a_request_that_was_refused() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        fixture.disk.take_tags(7);
        (0..3).for_each(|n| read(&scope, &device, n));
        fixture.host.pump();
        assert_eq!(fixture.disk.refusals(), 2);
        // The device could take these at once.
        fixture.disk.give_tags(7);
        (3..6).for_each(|n| read(&scope, &device, n));
        fixture.host.pump();
        assert_eq!(pages(fixture.disk), [0]);
        fixture.blocking.pump();
        assert_eq!(pages(fixture.disk), [0, 1, 2, 3, 4, 5]);
        // With nobody before them they go themselves.
        read(&scope, &device, 6);
        fixture.host.pump();
        assert_eq!(pages(fixture.disk), [0, 1, 2, 3, 4, 5, 6]);
        fixture.settle();
        drop(device);
        drop(scope);
    });
}

#[test]
fn no_more_than_the_bound_is_in_flight() {
    session(|| {
        let fixture = Fixture::new(4, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        // As a device that is stacked on another: it would take them all.
        fixture.disk.give_tags(1000);
        (0..100).for_each(|n| read(&scope, &device, n));
        let blocking = fixture.blocking.worker();
        while pages(fixture.disk).len() < 100 || fixture.disk.in_flight() != 0 {
            fixture.host.pump();
            fixture.disk.complete(0);
        }
        fixture.settle();
        assert_eq!(fixture.disk.most_in_flight(), 4);
        assert!(pages(fixture.disk).into_iter().eq(0..100), "out of order");
        drop(device);
        drop(scope);
        blocking.stop();
    });
}

#[test]
fn threads_submit_themselves_and_leave_the_bound_to_upcalls() {
    session(|| {
        let fixture = Fixture::new(1, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        fixture.disk.give_tags(8);
        let mut block = Block::vacant();
        let mut transfer = block.read(&device, 0, 0, SIZE);
        assert!(poll_once(Pin::new(&mut transfer)).is_pending());
        assert_eq!(pages(fixture.disk), [0]);
        read(&scope, &device, 1);
        fixture.host.pump();
        assert_eq!(pages(fixture.disk), [0, 1]);
        // The end of a thread's request makes no room for an upcall's.
        read(&scope, &device, 2);
        fixture.disk.complete(0);
        fixture.host.pump();
        assert_eq!(pages(fixture.disk), [0, 1]);
        fixture.disk.complete(0);
        fixture.settle();
        assert_eq!(pages(fixture.disk), [0, 1, 2]);
        assert!(poll_once(Pin::new(&mut transfer)).is_ready());
        drop(block);
        drop(device);
        drop(scope);
    });
}

#[test]
fn threads_in_a_loop_do_not_keep_an_upcall_waiting() {
    session(|| {
        let fixture = Fixture::new(2, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        fixture.disk.give_tags(1000);
        // As many as the bound, at any time.
        let mut threads: std::collections::VecDeque<_> =
            (0..2).map(|_| Box::pin(read_by_thread(&device))).collect();
        for thread in &mut threads {
            assert!(poll_once(thread.as_mut()).is_pending());
        }
        // It is for the blocking worker, whatever else is in flight.
        let zeroes = device.clone();
        drop(scope.spawn(async move { zeroes.write_zeroes(SIZE as u64, 4096).await }));
        fixture.host.pump();
        let blocking = fixture.blocking.worker();
        let mut rounds = 0;
        while !pages(fixture.disk).contains(&1) && rounds < 1000 {
            let mut next = Box::pin(read_by_thread(&device));
            assert!(poll_once(next.as_mut()).is_pending());
            threads.push_back(next);
            while poll_once(threads[0].as_mut()).is_pending() {
                fixture.disk.complete(0);
            }
            threads.pop_front();
            std::thread::sleep(Duration::from_micros(100));
            rounds += 1;
        }
        while fixture.disk.complete(0) {}
        drop(threads);
        while !pages(fixture.disk).contains(&1) {
            std::thread::yield_now();
        }
        fixture.disk.complete(0);
        fixture.host.pump();
        blocking.stop();
        drop(device);
        drop(scope);
        assert!(rounds < 1000, "it waited as long as the threads went on");
    });
}

/// Reads the first page on the calling thread.
async fn read_by_thread(device: &Device) {
    Block::vacant().read(device, 0, 0, SIZE).await.unwrap();
}

#[test]
fn a_worker_never_waits_in_the_block_layer() {
    // The device checks who asks it what.
    let devices: [fn() -> RawDevice; 3] = [
        || RawDevice::new(8, false),
        || RawDevice::new(8, true),
        || RawDevice::stacked(8),
    ];
    for device in devices {
        session(|| {
            let fixture = Fixture::with(device());
            let scope = fixture.scope();
            let device = fixture.open(&scope);
            fixture.upcall(&scope, {
                let device = device.clone();
                async move {
                    let mut block = Block::new().unwrap();
                    for fua in [false, true] {
                        block.write(&device, 0, 0, SIZE, fua).await.unwrap();
                    }
                    block.read(&device, 0, 0, SIZE).await.unwrap();
                    let mut blocks = Blocks::new(300).unwrap();
                    blocks
                        .write(&device, 0, 0, 300 * SIZE, false)
                        .await
                        .unwrap();
                    blocks.read(&device, 0, 0, 300 * SIZE).await.unwrap();
                    device.flush().await.unwrap();
                    device.discard(0, 2 << 30).await.unwrap();
                    device.write_zeroes(0, 4096).await.unwrap();
                }
            });
            drop(device);
            drop(scope);
        });
    }
}

#[test]
fn a_refused_request_whose_future_is_gone_is_released() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        fixture.disk.take_tags(8);
        read(&scope, &device, 1);
        fixture.host.pump();
        scope.cancel();
        drop(device);
        fixture.disk.give_tags(8);
        fixture.settle();
        assert_eq!(pages(fixture.disk), [1]);
        drop(scope);
    });
}

#[test]
fn errors_of_the_device_come_back_with_the_block() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        let mut block = Block::new().unwrap();
        block.as_mut_slice().fill(7);
        let mut write = block.write(&device, 0, 0, SIZE, false);
        assert!(poll_once(Pin::new(&mut write)).is_pending());
        fixture.disk.complete(-22);
        assert_eq!(poll_once(Pin::new(&mut write)), Poll::Ready(Err(EINVAL)));
        assert!(block.as_slice().iter().all(|&byte| byte == 7));
        drop(block);
        drop(device);
        drop(scope);
    });
}

#[test]
fn an_upcall_waits_for_memory_without_its_thread() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        let done = Arc::new(Mutex::new(Vec::new()));
        let note = |what| {
            let done = done.clone();
            move |result: sys::Result| {
                result.unwrap();
                done.lock().unwrap().push(what);
            }
        };
        let (disk, noted) = (device.clone(), note("block"));
        drop(scope.spawn(async move {
            noted(Block::vacant().read(&disk, 0, 0, SIZE).await);
        }));
        let mut blocks = Blocks::new(300).unwrap();
        let (disk, noted) = (device.clone(), note("blocks"));
        drop(scope.spawn(async move {
            noted(blocks.read(&disk, 0, 0, 300 * SIZE).await);
        }));
        let (disk, noted) = (device.clone(), note("flush"));
        drop(scope.spawn(async move { noted(disk.flush().await) }));
        let (disk, noted) = (device.clone(), note("discard"));
        drop(scope.spawn(async move { noted(disk.discard(0, 4096).await) }));
        sys::set_short(true);
        fixture.settle();
        assert_eq!(sys::reclaims(), 4);
        assert!(done.lock().unwrap().is_empty());
        // Still none: they wait on.
        fixture.shortage.over();
        fixture.settle();
        assert_eq!(sys::reclaims(), 8);
        sys::set_short(false);
        fixture.shortage.over();
        fixture.settle();
        let mut done = core::mem::take(&mut *done.lock().unwrap());
        done.sort_unstable();
        assert_eq!(done, ["block", "blocks", "discard", "flush"]);
        drop(device);
        drop(scope);
    });
}

#[test]
fn what_is_not_async_fails_in_an_upcall_when_memory_is_short() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        let spawner = scope.spawner();
        let short = async move {
            assert_eq!(Block::new().err(), Some(ENOMEM));
            assert_eq!(Blocks::new(3).err(), Some(ENOMEM));
            assert_eq!(spawner.spawn(async {}).err(), Some(ENOMEM));
            memory_freed().await;
            spawner.spawn(async {}).unwrap().await.unwrap();
        };
        let mut handle = scope.spawn(short).unwrap();
        sys::set_short(true);
        fixture.settle();
        assert_eq!(sys::reclaims(), 1);
        // A thread waits in the allocator.
        assert!(Block::new().is_ok());
        block_on(memory_freed()).unwrap();
        sys::set_short(false);
        fixture.shortage.over();
        fixture.settle();
        assert_eq!(poll_once(Pin::new(&mut handle)), Poll::Ready(Ok(())));
        drop(handle);
        drop(scope);
    });
}

#[test]
fn any_number_can_wait_for_memory_and_give_up() {
    session(|| {
        let fixture = Fixture::new(1000, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        let handles: Vec<_> = (0..200)
            .map(|n| {
                let device = device.clone();
                let read = async move {
                    let mut block = Block::vacant();
                    block.read(&device, n * SIZE as u64, 0, SIZE).await
                };
                scope.spawn(read).unwrap()
            })
            .collect();
        sys::set_short(true);
        // Those without a place wake themselves.
        for _ in 0..5 {
            assert!(fixture.host.try_run());
        }
        handles.iter().step_by(2).for_each(|handle| handle.abort());
        for _ in 0..5 {
            assert!(fixture.host.try_run());
        }
        sys::set_short(false);
        fixture.shortage.over();
        // Some of those that were woken have a wake left in the table.
        fixture.shortage.over();
        fixture.settle();
        assert_eq!(pages(fixture.disk).len(), 100);
        drop(handles);
        drop(device);
        drop(scope);
    });
}

#[test]
fn pages_that_were_had_before_memory_ran_out_are_kept() {
    session(|| {
        let fixture = Fixture::new(8, false);
        let scope = fixture.scope();
        let device = fixture.open(&scope);
        let mut blocks = Blocks::new(8).unwrap();
        // Vacant, by a transfer that is given up.
        {
            let mut read = Box::pin(blocks.read(&device, 0, 0, 8 * SIZE));
            assert!(poll_once(read.as_mut()).is_pending());
        }
        fixture.settle();
        assert!(blocks.page(0).is_empty());
        // The table, and five pages.
        sys::fail_after(6);
        assert_eq!(blocks.fill_vacant(), Err(ENOMEM));
        assert_eq!(blocks.page(4).len(), SIZE);
        assert!(blocks.page(5).is_empty());
        sys::fail_after(3);
        assert_eq!(blocks.fill_vacant(), Ok(()));
        assert!(sys::cancel_failure(), "more pages than were missing");
        drop(blocks);
        drop(device);
        drop(scope);
    });
}

#[test]
fn the_flags_of_writes_are_those_that_throttling_leaves_alone() {
    use crate::sys::blk::{IDLE, SYNC};
    for op in [Op::Write, Op::WriteFua, Op::Flush] {
        assert_eq!(op as u32 & (SYNC | IDLE), SYNC | IDLE);
    }
}
