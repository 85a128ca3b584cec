// SPDX-License-Identifier: GPL-2.0

//! A task that borrows from who spawns it, and may outlive it.
//!
//! Expected: borrowed value does not live long enough

#![allow(missing_docs)]

use kernel::prelude::*;
use upcall::Scope;

fn wrong(scope: &Scope) -> Result {
    let here = [1u8, 2, 3];
    let sum = &here;
    scope.spawn(async move { sum.len() })?;
    Ok(())
}
