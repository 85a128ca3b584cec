// SPDX-License-Identifier: GPL-2.0

//! Many tasks that use the Rust API at once, and know what is right.

use crate::{dump, Text};
use kernel::fmt::Write;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use stack::{walk_tree, AsyncStackable, Found, Visitor};
use upcall::{block_on, sleep, Mutex, Scope};
use vfs::FileType;
use volume::{Ino, Volume};

/// What a file is, as it was found at first.
#[derive(Clone, Copy)]
struct Known {
    dir: Ino,
    ino: Ino,
    size: u64,
    mtime: i64,
    sum: u32,
}

struct Shared {
    volume: Arc<Volume>,
    files: KVVec<(Known, KVec<u8>)>,
    done: Atomic<u64>,
    wrong: Atomic<u64>,
    stop: Atomic<bool>,
}

/// Finds all regular files.
struct Collect(Mutex<KVVec<(Known, KVec<u8>)>>);

impl<L: AsyncStackable> Visitor<L> for Collect {
    async fn visit(&self, layer: &L, found: Found<'_>) -> Result<bool> {
        if found.attr.file_type == FileType::Regular && found.attr.size < 1 << 22 {
            let (size, sum) = dump::content(layer, found.ino).await?;
            let mut name = KVec::new();
            name.extend_from_slice(found.name, GFP_KERNEL)?;
            let known = Known {
                dir: found.dir,
                ino: found.ino,
                size,
                mtime: found.attr.mtime.secs,
                sum,
            };
            self.0.lock().await?.push((known, name), GFP_KERNEL)?;
        }
        Ok(true)
    }
}

/// The tasks. Dropping it cancels them, wherever they are.
pub(crate) struct Hammer {
    scope: Scope,
    shared: Arc<Shared>,
}

impl Shared {
    /// Looks at one file in every way.
    async fn look(&self, known: &Known, name: &[u8]) -> Result<bool> {
        let found = self.volume.lookup(known.dir, name).await?;
        let attr = self.volume.stat(found).await?;
        let content = dump::content(&*self.volume, found).await?;
        Ok(found == known.ino
            && (attr.size, attr.mtime.secs) == (known.size, known.mtime)
            && content == (known.size, known.sum))
    }

    async fn run(self: Arc<Self>, seed: u64) {
        let mut n = seed;
        while !self.stop.load(Relaxed) {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = ((n >> 33) as usize).checked_rem(self.files.len());
            let Some((known, name)) = at.and_then(|at| self.files.get(at)) else {
                return;
            };
            match self.look(known, name).await {
                Ok(true) => {}
                Ok(false) => {
                    pr_err!("inode {}: not what it was\n", known.ino.0);
                    self.wrong.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    pr_err!("inode {}: error {}\n", known.ino.0, error.to_errno());
                    self.wrong.fetch_add(1, Relaxed);
                    sleep(core::time::Duration::from_millis(10)).await;
                }
            }
            self.done.fetch_add(1, Relaxed);
        }
    }
}

impl Hammer {
    pub(crate) fn new(volume: &Arc<Volume>, tasks: u64) -> Result<Self> {
        let collect = Arc::new(Collect(Mutex::new(KVVec::new())), GFP_KERNEL)?;
        block_on(walk_tree(volume, volume.root(), 64, &collect))??;
        let files = core::mem::take(&mut *collect.0.lock_blocking()?);
        if files.is_empty() {
            return Err(ENOENT);
        }
        let shared = Arc::new(
            Shared {
                volume: volume.clone(),
                files,
                done: Atomic::new(0),
                wrong: Atomic::new(0),
                stop: Atomic::new(false),
            },
            GFP_KERNEL,
        )?;
        let scope = Scope::new()?;
        for n in 0..tasks {
            scope.spawn(shared.clone().run(n + 1))?;
        }
        Ok(Self { scope, shared })
    }

    /// Lets the tasks finish what they are at, and says what they found.
    pub(crate) fn stop(self, out: &mut Text) -> Result {
        self.shared.stop.store(true, Relaxed);
        block_on(self.scope.join())?;
        writeln!(
            out,
            "{} {} {}",
            self.shared.files.len(),
            self.shared.done.load(Relaxed),
            self.shared.wrong.load(Relaxed)
        )?;
        Ok(())
    }
}
