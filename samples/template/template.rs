// SPDX-License-Identifier: GPL-2.0

//! A module to begin with: a task that lists the root directory of the volume at `/mnt`.

use kernel::prelude::*;
use kernel::str::BStr;
use kernel::sync::Arc;
use stack::AsyncStackable;
use upcall::Scope;
use volume::Volume;

module! {
    type: Template,
    name: "template",
    authors: ["You"],
    description: "A module to begin with",
    license: "GPL",
}

struct Template {
    /// First, as fields are dropped in their order: the tasks go before what they use.
    _scope: Scope,
    /// Kept here, so that it is not a task that drops it last: that may have to sleep.
    _volume: Arc<Volume>,
}

async fn list(volume: Arc<Volume>) -> Result<usize> {
    let mut entries = volume.entries(volume.root(), 0);
    let mut count = 0;
    while let Some(entry) = entries.next().await? {
        pr_info!("{} is inode {}\n", BStr::from_bytes(entry.name), entry.ino);
        count += 1;
    }
    Ok(count)
}

impl kernel::Module for Template {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let volume = Arc::new(Volume::open(c"/mnt")?, GFP_KERNEL)?;
        let scope = Scope::new()?;
        let theirs = volume.clone();
        // Nobody waits for this one: it goes on when the module is loaded, and is gone when the module is.
        scope.spawn(async {
            match list(theirs).await {
                Ok(count) => pr_info!("{count} entries\n"),
                Err(error) => pr_err!("{error:?}\n"),
            }
        })?;
        Ok(Self {
            _scope: scope,
            _volume: volume,
        })
    }
}
