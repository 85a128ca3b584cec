// SPDX-License-Identifier: GPL-2.0

//! All executors and all scopes there are.
//!
//! # Concurrency
//!
//! Both lists are changed under one lock, which is for any context: a scope can end in an interrupt.
//! Executors are read under RCU; one is freed a grace period after it was removed.
//!
//! A scope is in the list from when it is made until its last member leaves, which then still keeps it. Who
//! walks the list becomes a member of the scope at which it is: that one then stays in the list, and with it
//! the user's module.

use crate::executor::Core;
use crate::scope::{Member, ScopeInner};
use crate::sys::{self, with_registry_lock as locked, Acquire, Atomic, Cell, Relaxed, Release};
use core::ptr::{from_ref, null, null_mut, NonNull};

sys::global! {
    static EXECUTORS: Atomic<*mut Core> = Atomic::new(null_mut());
}
sys::global! {
    static SCOPES: Atomic<*mut ScopeInner> = Atomic::new(null_mut());
}

/// Adds an executor.
pub(crate) fn add(core: &Core) {
    locked(|| {
        core.work().next().store(EXECUTORS.load(Relaxed), Relaxed);
        EXECUTORS.store(from_ref(core).cast_mut(), Release);
    });
}

/// Removes an executor. It may be read until a grace period is over.
pub(crate) fn remove(core: &Core) {
    locked(|| {
        let mut link: &Atomic<*mut Core> = &EXECUTORS;
        loop {
            let at = link.load(Relaxed);
            // SAFETY: What is in the list was added, and is not freed while we hold the lock.
            let Some(this) = (unsafe { at.as_ref() }) else {
                return;
            };
            if core::ptr::eq(this, core) {
                return link.store(this.work().next().load(Relaxed), Release);
            }
            link = this.work().next();
        }
    });
}

/// Calls `f` for each executor until it gives something. `f` does not sleep.
#[cfg_attr(not(MODULE), allow(dead_code, reason = "no model looks for one"))]
pub(crate) fn find_executor<R>(mut f: impl FnMut(&Core) -> Option<R>) -> Option<R> {
    let _rcu = sys::read_section();
    let mut at = EXECUTORS.load(Acquire);
    // SAFETY: We are in a read section, in which nothing in the list is freed.
    while let Some(core) = unsafe { at.as_ref() } {
        if let Some(result) = f(core) {
            return Some(result);
        }
        at = core.work().next().load(Acquire);
    }
    None
}

/// The neighbours of a scope in the list. Under the lock.
pub(crate) struct Registered(Cell<(*const ScopeInner, *const ScopeInner)>);

impl Registered {
    pub(crate) fn new() -> Self {
        Self(Cell::new((null(), null())))
    }

    /// Gives access to the pointers to the one before and the one after.
    fn links<R>(
        scope: *const ScopeInner,
        f: impl FnOnce(&mut (*const ScopeInner, *const ScopeInner)) -> R,
    ) -> R {
        // SAFETY: The scope is in the list, whose reference keeps it, and we hold the lock.
        unsafe { (*scope).registered.0.with_mut(|links| f(&mut *links)) }
    }
}

/// Adds a scope, once.
pub(crate) fn register(scope: &ScopeInner) {
    let scope = from_ref(scope);
    locked(|| {
        let next = SCOPES.load(Relaxed).cast_const();
        Registered::links(scope, |links| *links = (null(), next));
        if !next.is_null() {
            Registered::links(next, |links| links.0 = scope);
        }
        SCOPES.store(scope.cast_mut(), Relaxed);
    });
}

/// Removes a scope whose last member left, once.
pub(crate) fn unregister(scope: &ScopeInner) {
    locked(|| {
        let (prev, next) = Registered::links(scope, |links| *links);
        if prev.is_null() {
            SCOPES.store(next.cast_mut(), Relaxed);
        } else {
            Registered::links(prev, |links| links.1 = next);
        }
        if !next.is_null() {
            Registered::links(next, |links| links.0 = prev);
        }
    });
}

/// Calls `f` for each scope that is not over. It may sleep.
pub(crate) fn for_each_scope(mut f: impl FnMut(&ScopeInner)) {
    let mut at: Option<Member> = None;
    loop {
        let next = locked(|| {
            let mut scope = match &at {
                None => SCOPES.load(Relaxed).cast_const(),
                Some(member) => Registered::links(member.scope(), |links| links.1),
            };
            while let Some(this) = NonNull::new(scope.cast_mut()) {
                // SAFETY: What is in the list was not unregistered, which needs the lock, so that it is kept.
                if let Some(member) = unsafe { Member::join(this) } {
                    return Some(member);
                }
                scope = Registered::links(scope, |links| links.1);
            }
            None
        });
        // Outside the lock: it may be the last to leave.
        at = next;
        let Some(member) = &at else { return };
        f(member.scope());
    }
}
