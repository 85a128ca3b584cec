// SPDX-License-Identifier: GPL-2.0

//! Reads many files of an aext4 volume from one thread: look-up, inode and data of each.
//!
//! The volume is mounted at `/mnt`, and has a file `.read_many` with one path per line. Load the module
//! with `in_flight=N`. It spawns N upcalls, all on the runtime's one thread, each of which takes the next path
//! when it is done with one, and logs one line: files, bytes, errors, and the time in microseconds.

use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel::time::{Instant, Monotonic};
use stack::AsyncStackable;
use upcall::{block_on, Block, Scope};
use volume::Volume;

module! {
    type: ReadMany,
    name: "read_many",
    authors: ["The Upcall developers"],
    description: "Reads many files from one thread",
    license: "GPL",
    params: {
        in_flight: u32 {
            default: 16,
            description: "How many files are read at the same time",
        },
    },
}

struct ReadMany;

/// What the upcalls share.
struct Work {
    volume: Volume,
    /// The paths, one per line.
    list: KVVec<u8>,
    /// Where the next path begins in `list`.
    next: Atomic<usize>,
    files: Atomic<usize>,
    bytes: Atomic<usize>,
    errors: Atomic<usize>,
}

impl Work {
    /// The next path, if there is one.
    fn take(&self) -> Option<&[u8]> {
        let mut at = self.next.load(Relaxed);
        loop {
            let rest = self.list.get(at..)?;
            let len = rest.iter().position(|&byte| byte == b'\n')?;
            match self.next.cmpxchg(at, at + len + 1, Relaxed) {
                Ok(_) => return rest.get(..len),
                Err(now) => at = now,
            }
        }
    }

    /// Walks to a file and reads it. Returns its size.
    async fn read(&self, path: &[u8], block: &mut Block) -> Result<usize> {
        let ino = self.volume.walk(self.volume.root(), path).await?;
        let mut size = 0;
        loop {
            let count = self.volume.read(ino, size as u64, block).await?;
            size += count;
            if count < Block::SIZE {
                return Ok(size);
            }
        }
    }

    /// Reads files until there is none left.
    async fn run(self: Arc<Self>) {
        let mut block = Block::vacant();
        while let Some(path) = self.take() {
            match self.read(path, &mut block).await {
                Ok(size) => self.bytes.add(size, Relaxed),
                Err(_) => self.errors.add(1usize, Relaxed),
            }
            self.files.add(1usize, Relaxed);
        }
    }
}

impl kernel::Module for ReadMany {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let volume = Volume::open(c"/mnt")?;
        let ino = block_on(volume.walk(volume.root(), b".read_many"))??;
        let list = block_on(volume.read_to_end(ino, 1 << 24))??;
        let work = Arc::new(
            Work {
                volume,
                list,
                next: Atomic::new(0),
                files: Atomic::new(0),
                bytes: Atomic::new(0),
                errors: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        let in_flight = module_parameters::in_flight.value();
        let scope = Scope::new()?;
        let start = Instant::<Monotonic>::now();
        for _ in 0..in_flight {
            scope.spawn(work.clone().run())?;
        }
        block_on(scope.join())?;
        pr_info!(
            "in_flight {} files {} bytes {} errors {} us {} threads 1\n",
            in_flight,
            work.files.load(Relaxed),
            work.bytes.load(Relaxed),
            work.errors.load(Relaxed),
            start.elapsed().as_micros_ceil()
        );
        Ok(Self)
    }
}
