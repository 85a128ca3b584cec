// SPDX-License-Identifier: GPL-2.0

//! Upcalls that call upcalls, and pass values up and down.
//!
//! Each adds up a part of a range by two upcalls of its own, down to single numbers. Those are asked of a
//! "device": a timer that takes a tenth of a second. A thousand are waited for at the same time, by one thread.

use core::future::Future;
use core::ops::Range;
use core::pin::Pin;
use core::time::Duration;
use kernel::prelude::*;
use upcall::{block_on, sleep, Instant, Scope, Spawner};

module! {
    type: Nested,
    name: "nested",
    authors: ["The Upcall developers"],
    description: "Upcalls that call upcalls",
    license: "GPL",
}

struct Nested;

/// One number, after a while.
async fn number(n: u64) -> u64 {
    sleep(Duration::from_millis(100)).await;
    n
}

/// The sum of a range, by as many upcalls as there are numbers, and nearly as many in between.
///
/// A future that contains itself has to be boxed somewhere.
fn sum(
    spawner: Spawner,
    range: Range<u64>,
) -> Result<Pin<KBox<dyn Future<Output = Result<u64>> + Send>>> {
    let future = async move {
        let Range { start, end } = range;
        if end - start == 1 {
            return Ok(number(start).await);
        }
        let middle = start + (end - start) / 2;
        let low = spawner.spawn(sum(spawner.clone(), start..middle)?)?;
        let high = spawner.spawn(sum(spawner.clone(), middle..end)?)?;
        // Both are under way; which one is waited for first does not matter.
        Ok(low.await?? + high.await??)
    };
    let future: KBox<dyn Future<Output = Result<u64>> + Send> = KBox::new(future, GFP_KERNEL)?;
    Ok(future.into())
}

impl kernel::Module for Nested {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let scope = Scope::new()?;
        let start = Instant::now();
        let total = block_on(sum(scope.spawner(), 0..1000)?)??;
        let ms = Instant::now().since(start).as_millis();
        pr_info!("0 + 1 + ... + 999 = {total}\n");
        pr_info!("1000 waits of 100 ms took {ms} ms\n");
        Ok(Self)
    }
}
