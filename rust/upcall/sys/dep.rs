// SPDX-License-Identifier: GPL-2.0

//! What lockdep is told of a lock that threads hold.
//!
//! C header: [`include/linux/lockdep.h`](srctree/include/linux/lockdep.h).
//!
//! Lockdep follows threads. A guard that is held across an `.await` has none, so only guards of
//! the blocking functions are told. Without `CONFIG_LOCKDEP` all of it is nothing.

use core::marker::PhantomData;
use core::pin::Pin;
use kernel::prelude::*;
use kernel::sync::LockClassKey;
use kernel::types::NotThreadSafe;

#[cfg(CONFIG_LOCKDEP)]
use {kernel::types::Opaque, upcall_bindings as ub};

/// A class of locks, whose order to those of other classes lockdep learns and checks.
#[derive(Clone, Copy)]
pub struct LockClass {
    #[cfg_attr(not(CONFIG_LOCKDEP), allow(dead_code, reason = "nobody checks"))]
    name: &'static CStr,
    #[cfg_attr(not(CONFIG_LOCKDEP), allow(dead_code, reason = "nobody checks"))]
    key: Pin<&'static LockClassKey>,
}

impl LockClass {
    #[doc(hidden)]
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> Self {
        Self { name, key }
    }
}

/// Makes a [`LockClass`] of its own for the place where it is written, with a name.
#[macro_export]
macro_rules! lock_class {
    ($name:literal) => {
        $crate::LockClass::new($name, ::kernel::sync::static_lock_class!())
    };
}

/// A lock, as lockdep sees it.
pub(crate) struct DepMap(#[cfg(CONFIG_LOCKDEP)] Opaque<ub::lockdep_map>);

// SAFETY: Lockdep has locks of its own.
unsafe impl Send for DepMap {}
// SAFETY: As above.
unsafe impl Sync for DepMap {}

impl DepMap {
    /// Makes one whose order is not checked, if it has no class.
    pub(crate) fn new(class: Option<LockClass>) -> Self {
        #[cfg(not(CONFIG_LOCKDEP))]
        return {
            let _ = class;
            Self()
        };
        #[cfg(CONFIG_LOCKDEP)]
        {
            let map = Opaque::uninit();
            let (name, key) = match class {
                Some(class) => (class.name, class.key.as_ptr()),
                None => (c"upcall lock without a class", core::ptr::null_mut()),
            };
            // SAFETY: The map is fresh, and has no pointer to itself. Name and key are static.
            unsafe { ub::upcall_dep_init(map.get(), name.as_char_ptr(), key.cast()) };
            Self(map)
        }
    }

    /// The thread takes the lock for reading, and may have to wait.
    pub(crate) fn read(&self) -> Held<'_> {
        #[cfg(CONFIG_LOCKDEP)]
        // SAFETY: The map was initialised.
        unsafe {
            ub::upcall_dep_read(self.0.get())
        };
        Held(self, PhantomData)
    }

    /// The thread takes the lock for itself, and may have to wait.
    pub(crate) fn write(&self) -> Held<'_> {
        #[cfg(CONFIG_LOCKDEP)]
        // SAFETY: The map was initialised.
        unsafe {
            ub::upcall_dep_write(self.0.get())
        };
        Held(self, PhantomData)
    }
}

/// The calling thread holds a lock, or waits for it.
pub(crate) struct Held<'a>(
    #[cfg_attr(not(CONFIG_LOCKDEP), allow(dead_code, reason = "nobody checks"))] &'a DepMap,
    PhantomData<NotThreadSafe>,
);

impl Held<'_> {
    /// It is now held for reading.
    pub(crate) fn downgrade(&self) {
        #[cfg(CONFIG_LOCKDEP)]
        // SAFETY: The thread told of the lock.
        unsafe {
            ub::upcall_dep_downgrade(self.0 .0.get())
        };
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        #[cfg(CONFIG_LOCKDEP)]
        // SAFETY: As above.
        unsafe {
            ub::upcall_dep_release(self.0 .0.get())
        };
    }
}
