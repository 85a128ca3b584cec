// SPDX-License-Identifier: GPL-2.0

//! Models of the end of an executor, with [RCU](sys::rcu): who finds one by the registry or by a
//! task is done with it before it is taken down.

use crate::harness::*;
use crate::registry;
use crate::sys::{self, rcu, rt};
use core::future::poll_fn;
use core::task::Poll;
use rt::thread;

/// What waits once, and leaves a waker.
fn waits_once(wakers: &Wakers) -> impl core::future::Future<Output = ()> {
    let wakers = wakers.clone();
    let mut polls = 0;
    poll_fn(move |cx| {
        polls += 1;
        if polls > 1 {
            return Poll::Ready(());
        }
        wakers.leave(cx, 1);
        Poll::Pending
    })
}

#[test]
fn a_walk_of_the_executors_against_the_end_of_one() {
    model(3, || {
        rcu::start();
        let hosts = [Host::new(), Host::new(), Host::new()];
        let walker = thread::spawn(|| {
            let mut count = 0;
            registry::find_executor(|core| {
                assert!(!core.is_blocking());
                count += 1;
                None::<()>
            });
            count
        });
        let [first, middle, last] = hosts;
        drop(middle);
        rcu::take_down();
        let count = walker.join().unwrap();
        assert!((2..=3).contains(&count), "{count}");
        drop((first, last));
        rcu::take_down();
        assert!(registry::find_executor(|_| Some(())).is_none());
    });
}

#[test]
fn a_walk_of_the_executors_against_a_new_one() {
    model(3, || {
        rcu::start();
        let old = Host::new();
        let walker = thread::spawn(|| {
            let mut count = 0;
            registry::find_executor(|_| {
                count += 1;
                None::<()>
            });
            count
        });
        let new = Host::new();
        let count = walker.join().unwrap();
        assert!((1..=2).contains(&count), "{count}");
        drop((old, new));
        rcu::take_down();
    });
}

#[test]
fn an_executor_that_is_found_against_the_end_of_two() {
    model(2, || {
        rcu::start();
        let (one, two) = (Host::new(), Host::new());
        // As one who asks whether it is on a worker does.
        let asks =
            thread::spawn(|| registry::find_executor(|core| core.is_current().then_some(())));
        let other = thread::spawn(move || drop(two));
        drop(one);
        other.join().unwrap();
        rcu::take_down();
        assert!(asks.join().unwrap().is_none());
    });
}

/// A wake, by `wake`, against the end of the task, of its scope, and of the executor, which runs for
/// another task already: so it may see what was pushed before whoever pushes has queued it.
fn wake_against_the_end(wake: fn(core::task::Waker)) {
    model(2, move || {
        rcu::start();
        let host = Host::new();
        let scope = host.scope();
        let wakers = Wakers::new();
        let handle = scope.spawn(waits_once(&wakers)).unwrap();
        host.pump();
        let waker = wakers.take();
        let other = scope.spawn(async {}).unwrap();
        let thread = thread::spawn(move || sys::interrupt(|| wake(waker)));
        while !(handle.is_finished() && other.is_finished()) {
            host.run_once();
        }
        drop((handle, other, scope, host));
        rcu::take_down();
        thread.join().unwrap();
    });
}

#[test]
fn a_wake_against_the_end_of_the_executor() {
    wake_against_the_end(core::task::Waker::wake);
}

#[test]
fn a_wake_by_reference_against_the_end_of_the_executor() {
    wake_against_the_end(|waker| waker.wake_by_ref());
}

#[test]
fn an_abort_against_the_end_of_the_executor() {
    model(2, || {
        rcu::start();
        let host = Host::new();
        let scope = host.scope();
        let probes = Probes::new();
        let never = Never {
            wakers: Wakers::new(),
            leave: 0,
            _probe: probes.probe(),
        };
        let handle = scope.spawn(never).unwrap();
        host.pump();
        let other = scope.spawn(async {}).unwrap();
        let thread = thread::spawn(move || handle.abort());
        while !(probes.dropped() == 1 && other.is_finished()) {
            host.run_once();
        }
        drop((other, scope, host));
        rcu::take_down();
        thread.join().unwrap();
        probes.check(1);
    });
}

#[test]
fn the_last_handle_is_dropped_against_another() {
    model(3, || {
        rcu::start();
        let host = Host::new();
        let other = host.clone();
        let thread = thread::spawn(move || sys::interrupt(|| drop(other)));
        drop(host);
        thread.join().unwrap();
        rcu::take_down();
        assert!(registry::find_executor(|_| Some(())).is_none());
    });
}
