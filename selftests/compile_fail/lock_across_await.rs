// SPDX-License-Identifier: GPL-2.0

//! A task that holds a spinlock while it waits.
//!
//! Expected: cannot be sent between threads safely

#![allow(missing_docs)]

use kernel::prelude::*;
use kernel::sync::{Arc, SpinLock};
use upcall::{yield_now, Scope};

fn wrong(scope: &Scope, lock: Arc<SpinLock<u32>>) -> Result {
    scope.spawn(async move {
        let guard = lock.lock();
        yield_now().await;
        drop(guard);
    })?;
    Ok(())
}
