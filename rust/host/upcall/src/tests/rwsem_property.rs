// SPDX-License-Identifier: GPL-2.0

//! The rw-semaphore against a model that is too simple to be wrong.
//!
//! Random operations of random users; after each of them the semaphore has to have given the lock
//! to the same users as the model, and to have woken exactly those who got it while they waited.

use crate::harness::*;
use crate::{Read, ReadGuard, RwSemaphore, Write, WriteGuard};
use core::pin::Pin;
use core::task::{Poll, Waker};
use std::collections::VecDeque;
use std::sync::Arc;

const USERS: usize = 10;
const STEPS: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Read,
    Write,
}

/// First come, first served; nobody gets past a waiter.
#[derive(Default)]
struct Model {
    readers: usize,
    writer: bool,
    queue: VecDeque<(usize, Kind)>,
}

impl Model {
    fn free_for(&self, kind: Kind) -> bool {
        !self.writer && (kind == Kind::Read || self.readers == 0)
    }

    fn take(&mut self, kind: Kind) {
        match kind {
            Kind::Read => self.readers += 1,
            Kind::Write => self.writer = true,
        }
    }

    fn try_lock(&mut self, kind: Kind) -> bool {
        let free = self.queue.is_empty() && self.free_for(kind);
        if free {
            self.take(kind);
        }
        free
    }

    fn release(&mut self, kind: Kind) {
        match kind {
            Kind::Read => self.readers -= 1,
            Kind::Write => self.writer = false,
        }
    }

    /// Hands the lock over; returns to whom.
    fn grant(&mut self) -> Vec<usize> {
        let mut granted = Vec::new();
        while let Some(&(user, kind)) = self.queue.front() {
            if !self.free_for(kind) {
                break;
            }
            self.take(kind);
            self.queue.pop_front();
            granted.push(user);
        }
        granted
    }
}

enum Future<'a> {
    Read(Pin<Box<Read<'a, u64>>>),
    Write(Pin<Box<Write<'a, u64>>>),
}

enum Guard<'a> {
    Read(ReadGuard<'a, u64>),
    Write(WriteGuard<'a, u64>),
}

impl<'a> Future<'a> {
    fn new(sem: &'a RwSemaphore<u64>, kind: Kind) -> Self {
        match kind {
            Kind::Read => Self::Read(Box::pin(sem.read())),
            Kind::Write => Self::Write(Box::pin(sem.write())),
        }
    }

    fn poll(&mut self, waker: &Waker) -> Poll<Guard<'a>> {
        match self {
            Self::Read(future) => {
                poll_with(future.as_mut(), waker).map(|guard| Guard::Read(guard.unwrap()))
            }
            Self::Write(future) => {
                poll_with(future.as_mut(), waker).map(|guard| Guard::Write(guard.unwrap()))
            }
        }
    }
}

impl Guard<'_> {
    fn kind(&self) -> Kind {
        match self {
            Self::Read(_) => Kind::Read,
            Self::Write(_) => Kind::Write,
        }
    }
}

enum User<'a> {
    Idle,
    Waiting {
        future: Future<'a>,
        kind: Kind,
        /// Counts the calls of the waker of the last poll.
        count: Arc<Count>,
        /// The model has handed the lock over.
        granted: bool,
    },
    Holding(Guard<'a>),
}

fn run(seed: u64, steps: usize) {
    let sem = RwSemaphore::new(0);
    let mut model = Model::default();
    let mut value = 0;
    let mut users: Vec<User<'_>> = (0..USERS).map(|_| User::Idle).collect();
    let mut random = Random::new(seed);
    // Some runs have few writers, some few readers.
    let bias = 1 + seed as usize % 4;
    for step in 0..steps {
        let at = random.below(USERS);
        let kind = if random.one_in(bias) {
            Kind::Write
        } else {
            Kind::Read
        };
        let context = || format!("seed {seed}, step {step}, user {at}, {kind:?}");
        users[at] = match core::mem::replace(&mut users[at], User::Idle) {
            User::Idle if random.one_in(4) => {
                let guard = match kind {
                    Kind::Read => sem.try_read().map(Guard::Read),
                    Kind::Write => sem.try_write().map(Guard::Write),
                };
                assert_eq!(guard.is_ok(), model.try_lock(kind), "{}", context());
                guard.map_or(User::Idle, User::Holding)
            }
            User::Idle => {
                let mut future = Future::new(&sem, kind);
                let count = Count::new();
                let ready = future.poll(&count.clone().into());
                assert_eq!(ready.is_ready(), model.try_lock(kind), "{}", context());
                match ready {
                    Poll::Ready(guard) => User::Holding(guard),
                    Poll::Pending => {
                        model.queue.push_back((at, kind));
                        User::Waiting {
                            future,
                            kind,
                            count,
                            granted: false,
                        }
                    }
                }
            }
            User::Waiting {
                future,
                kind,
                granted,
                ..
            } if random.one_in(5) => {
                drop(future);
                if granted {
                    model.release(kind);
                } else {
                    model.queue.retain(|(user, _)| *user != at);
                }
                User::Idle
            }
            User::Waiting {
                mut future,
                kind,
                mut count,
                granted,
            } => {
                if random.one_in(2) && !granted {
                    count = Count::new();
                }
                let ready = future.poll(&count.clone().into());
                assert_eq!(ready.is_ready(), granted, "{}", context());
                match ready {
                    Poll::Ready(guard) => User::Holding(guard),
                    Poll::Pending => User::Waiting {
                        future,
                        kind,
                        count,
                        granted,
                    },
                }
            }
            User::Holding(Guard::Write(guard)) if random.one_in(3) => {
                model.writer = false;
                model.readers = 1;
                User::Holding(Guard::Read(guard.downgrade()))
            }
            User::Holding(mut guard) => {
                match &mut guard {
                    Guard::Read(guard) => assert_eq!(**guard, value, "{}", context()),
                    Guard::Write(guard) => {
                        value += 1;
                        **guard += 1;
                    }
                }
                model.release(guard.kind());
                drop(guard);
                User::Idle
            }
        };
        for user in model.grant() {
            let User::Waiting { granted, .. } = &mut users[user] else {
                panic!("{}", context());
            };
            *granted = true;
        }
        for (number, user) in users.iter().enumerate() {
            if let User::Waiting { count, granted, .. } = user {
                assert_eq!(
                    count.wakes(),
                    usize::from(*granted),
                    "user {number} woken, {}",
                    context()
                );
            }
        }
    }
    drop(users);
    assert_eq!(*sem.try_write().expect("a permit was lost"), value);
}

#[test]
fn rwsem_does_what_the_model_does() {
    session(|| {
        for seed in 0..20 {
            run(seed, STEPS / 20);
        }
    });
}
