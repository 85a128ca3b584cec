// SPDX-License-Identifier: GPL-2.0

//! The thread for blocking work in the place of the executor, and the other way round.
//!
//! Expected: expected `Executor`, found `BlockingWorker`

#![allow(missing_docs)]

use kernel::prelude::*;
use upcall::{Executor, Scope};

fn wrong() -> Result<Scope> {
    Scope::on(&Executor::blocking(c"mine")?, &Executor::shared()?)
}
