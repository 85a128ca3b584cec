// SPDX-License-Identifier: GPL-2.0

//! Models of a device's queue: who waits for room, against completions and requests that come
//! meanwhile.
//!
//! A lost wake-up shows as a deadlock, which loom reports.

use crate::device::{Queue, Queued};
use crate::harness::*;
use crate::memory::Shortage;
use crate::sys::{self, blk::Traits, rt::thread};
use core::task::Waker;

fn queue(depth: usize) -> Queued {
    let traits = Traits {
        logical_block_size: 512,
        nowait: true,
        depth: Some(depth),
    };
    Queued::new(Queue::new(&traits, None)).unwrap()
}

/// The blocking worker submits a request that waited, and the device ends it.
fn blocking_worker(queue: &Queued) {
    let sending = queue.send();
    sys::interrupt(|| queue.ended());
    sending.sent();
}

#[test]
fn room_is_waited_for_while_a_request_ends() {
    model(3, || {
        let queue = queue(1);
        assert!(queue.begin(false));
        assert!(!queue.begin(false), "above the bound");
        let other = queue.clone();
        let device = thread::spawn(move || sys::interrupt(|| other.ended()));
        blocking_worker(&queue);
        device.join().unwrap();
        assert!(queue.begin(false), "nobody waits");
        queue.ended();
    });
}

#[test]
fn room_is_waited_for_while_a_request_is_refused() {
    model(3, || {
        let queue = queue(1);
        assert!(queue.begin(false));
        assert!(!queue.begin(false));
        let other = queue.clone();
        let device = thread::spawn(move || sys::interrupt(|| other.refused()));
        blocking_worker(&queue);
        device.join().unwrap();
        assert!(!queue.begin(false), "past the one that was refused");
        blocking_worker(&queue);
        blocking_worker(&queue);
        assert!(queue.begin(false));
        queue.ended();
    });
}

#[test]
fn room_is_waited_for_while_another_request_comes() {
    model(2, || {
        let queue = queue(1);
        assert!(queue.begin(false));
        assert!(!queue.begin(false));
        let other = queue.clone();
        let worker = thread::spawn(move || {
            sys::interrupt(|| other.ended());
            let direct = other.begin(false);
            if direct {
                sys::interrupt(|| other.ended());
            }
            direct
        });
        blocking_worker(&queue);
        if !worker.join().unwrap() {
            blocking_worker(&queue);
        }
        assert!(queue.begin(false), "nobody waits");
        queue.ended();
    });
}

#[test]
fn a_waker_is_left_while_others_are_woken() {
    model(3, || {
        let shortage = Shared::new(Shortage::new());
        let count = Count::new();
        let waker = Waker::from(count.clone());
        let there = shortage.get();
        let reclaim = thread::spawn(move || there.over());
        there.leave(&waker).unwrap();
        // The run that is asked for after that.
        there.over();
        reclaim.join().unwrap();
        assert_eq!(count.wakes(), 1);
    });
}
