// SPDX-License-Identifier: GPL-2.0

//! Fork-join: what has nothing to do with each other runs at the same time, and ends together.
//!
//! Three ways: futures within one task, tasks in a scope, and tasks of which only so many may be under way.

use core::time::Duration;
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::{block_on, join_all, sleep, try_join, JoinSet, RwSemaphore, Scope};

module! {
    type: ForkJoin,
    name: "fork_join",
    authors: ["The Upcall developers"],
    description: "What runs at the same time, and ends together",
    license: "GPL",
}

struct ForkJoin;

/// Something that takes a while, and may fail.
async fn square(n: u64) -> Result<u64> {
    if n == 0 {
        return Err(EDOM);
    }
    sleep(Duration::from_millis(1)).await;
    Ok(n * n)
}

/// Within one task: it goes on when all three have ended, or one has failed.
async fn one_task() -> Result<u64> {
    let (a, b, c) = try_join!(square(1), square(2), square(3))?;
    Ok(a + b + c)
}

/// A task for each; they share what they add to, under a lock that is waited for like a device.
fn tasks() -> Result<u64> {
    let total = Arc::new(RwSemaphore::new(0), GFP_KERNEL)?;
    let scope = Scope::new()?;
    let mut handles = KVec::new();
    for n in 1..=100 {
        let total = total.clone();
        let task = scope.spawn(async move {
            let square = square(n).await?;
            *total.write().await? += square;
            Ok::<_, Error>(())
        })?;
        handles.push(task, GFP_KERNEL)?;
    }
    block_on(scope.join())?;
    // All have ended; has one failed?
    for ended in block_on(join_all(handles)?)?? {
        ended??;
    }
    let total = *total.read_blocking()?;
    Ok(total)
}

/// Ten tasks at a time, and each one's value as soon as it has ended.
async fn ten_at_a_time() -> Result<u64> {
    let mut set = JoinSet::new(Scope::new()?, 10)?;
    let mut total = 0;
    for n in 1..=100 {
        if let Some(ended) = set.spawn(square(n)).await? {
            total += ended??;
        }
    }
    while let Some(ended) = set.next().await {
        total += ended??;
    }
    Ok(total)
}

impl kernel::Module for ForkJoin {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("one task: {}\n", block_on(one_task())??);
        pr_info!("tasks: {}\n", tasks()?);
        let total = block_on(ten_at_a_time())??;
        pr_info!("ten at a time: {total}\n");
        let failed = block_on(async { try_join!(square(4), square(0)) })?;
        pr_info!("one fails: {:?}\n", failed.map_err(Error::to_errno));
        Ok(Self)
    }
}
