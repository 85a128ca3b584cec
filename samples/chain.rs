// SPDX-License-Identifier: GPL-2.0

//! A chain: each step is given the value of the one before, and the first that fails ends it.
//!
//! Reads, from a mounted volume, a file that names another: `/mnt/.chain` holds a path.

use kernel::prelude::*;
use kernel::str::BStr;
use kernel::sync::Arc;
use stack::AsyncStackable;
use upcall::{block_on, run};
use volume::{Ino, Volume};

module! {
    type: Chained,
    name: "chain",
    authors: ["The Upcall developers"],
    description: "Steps that pass on values",
    license: "GPL",
}

struct Chained;

const LIMIT: usize = 4096;

async fn find(volume: Arc<Volume>, path: &[u8]) -> Result<Ino> {
    volume.walk(volume.root(), path).await
}

async fn content(volume: Arc<Volume>, ino: Ino) -> Result<KVVec<u8>> {
    volume.read_to_end(ino, LIMIT).await
}

/// The first line of the file whose path is in the file at `path`.
fn first_line(volume: &Arc<Volume>, path: &'static [u8]) -> Result<KVVec<u8>> {
    let chain = run(find(volume.clone(), path))
        .then(|ino| content(volume.clone(), ino))
        .then(|path| async move { find(volume.clone(), path.trim_ascii_end()).await })
        .then(|ino| content(volume.clone(), ino))
        .then(|mut bytes| async move {
            let end = bytes
                .iter()
                .position(|&byte| byte == b'\n')
                .ok_or(ENODATA)?;
            bytes.truncate(end);
            Ok(bytes)
        });
    block_on(chain)?
}

impl kernel::Module for Chained {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let volume = Arc::new(Volume::open(c"/mnt")?, GFP_KERNEL)?;
        let line = first_line(&volume, b".chain")?;
        pr_info!("{}\n", BStr::from_bytes(&line));
        // The second step is not begun.
        let failed = first_line(&volume, b".nothing");
        pr_info!("without a start: {:?}\n", failed.map_err(Error::to_errno));
        Ok(Self)
    }
}
