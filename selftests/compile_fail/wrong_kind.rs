// SPDX-License-Identifier: GPL-2.0

//! An asynchronous layer on a synchronous one, without an adapter.
//!
//! Expected: Blocking<RamFs>` has no asynchronous file operations

#![allow(missing_docs)]

use kernel::prelude::*;
use stack::{Blocking, RamFs, Verify};

fn wrong(fs: RamFs, spawner: upcall::Spawner) -> Result {
    Verify::new(Blocking(fs), spawner)?;
    Ok(())
}
