// SPDX-License-Identifier: GPL-2.0

//! The smallest user of the runtime: an upcall, and what it gives.

use kernel::prelude::*;
use upcall::{block_on, Scope};

module! {
    type: Hello,
    name: "hello",
    authors: ["The Upcall developers"],
    description: "The smallest user of the runtime",
    license: "GPL",
}

struct Hello {
    /// No task outlives its scope, so that none is left when the module goes.
    _scope: Scope,
}

async fn add(a: u32, b: u32) -> u32 {
    a + b
}

impl kernel::Module for Hello {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // On this thread, which sleeps whenever the future waits.
        let sum = block_on(add(1, 2))?;
        pr_info!("1 + 2 = {sum}\n");

        // On the runtime's thread. The outer error would be of the waiting, the inner one of the task.
        let scope = Scope::new()?;
        let task = scope.spawn(async { add(3, 4).await * 2 })?;
        let double = block_on(task)??;
        pr_info!("twice 3 + 4 = {double}\n");
        Ok(Self { _scope: scope })
    }
}
