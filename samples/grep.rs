// SPDX-License-Identifier: GPL-2.0

//! Searches all files of a tree for a word, with a bound on what is in flight.
//!
//! The volume is mounted at `/mnt`, and its file `.grep` holds the word. Load the module with `in_flight=N`: so
//! many upcalls, all on one thread, share the walk. Logs the files that have the word, and where it is first.

use kernel::prelude::*;
use kernel::str::BStr;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use stack::{walk_tree, AsyncStackable, Found, Visitor};
use upcall::block_on;
use vfs::FileType;
use volume::{Ino, Volume};

module! {
    type: Grep,
    name: "grep",
    authors: ["The Upcall developers"],
    description: "Searches a tree for a word",
    license: "GPL",
    params: {
        in_flight: u32 {
            default: 64,
            description: "How many operations are under way at the same time",
        },
    },
}

struct Grep;

/// How many pages of a file are read at once.
const AHEAD: usize = 8;

struct Search {
    word: KVVec<u8>,
    files: Atomic<usize>,
    matches: Atomic<usize>,
}

impl Search {
    /// Where the word is in `bytes`.
    fn position(&self, bytes: &[u8]) -> Option<usize> {
        let first = *self.word.first()?;
        let mut at = 0;
        loop {
            at += bytes.get(at..)?.iter().position(|&byte| byte == first)?;
            if bytes.get(at..)?.starts_with(&self.word) {
                return Some(at);
            }
            at += 1;
        }
    }

    /// Where the word is in a file; what is behind it is not read.
    async fn find<L: AsyncStackable>(&self, layer: &L, ino: Ino) -> Result<Option<usize>> {
        let mut pages = layer.pages(ino, 0, AHEAD);
        // The end of the page before, where the word may begin, and the page.
        let mut window = KVec::new();
        let mut offset = 0;
        while let Some(page) = pages.next().await? {
            window.extend_from_slice(page, GFP_KERNEL)?;
            if let Some(at) = self.position(&window) {
                return Ok(Some(offset + at));
            }
            let done = (window.len() + 1).saturating_sub(self.word.len());
            window.copy_within(done.., 0);
            window.truncate(window.len() - done);
            offset += done;
        }
        Ok(None)
    }
}

impl<L: AsyncStackable> Visitor<L> for Search {
    async fn visit(&self, layer: &L, found: Found<'_>) -> Result<bool> {
        if found.attr.file_type != FileType::Regular {
            return Ok(true);
        }
        self.files.fetch_add(1, Relaxed);
        if let Some(at) = self.find(layer, found.ino).await? {
            self.matches.fetch_add(1, Relaxed);
            let name = BStr::from_bytes(found.name);
            pr_info!("inode {}, {name}: byte {at}\n", found.ino.0);
        }
        Ok(true)
    }
}

impl kernel::Module for Grep {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let volume = Arc::new(Volume::open(c"/mnt")?, GFP_KERNEL)?;
        let ino = block_on(volume.lookup(volume.root(), b".grep"))??;
        let mut word = block_on(volume.read_to_end(ino, 256))??;
        word.truncate(word.trim_ascii_end().len());
        if word.is_empty() {
            return Err(EINVAL);
        }
        let search = Arc::new(
            Search {
                word,
                files: Atomic::new(0),
                matches: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        let in_flight = module_parameters::in_flight.value() as usize;
        let walk = walk_tree(&volume, volume.root(), in_flight, &search);
        let visited = block_on(walk)??;
        pr_info!(
            "{} directories, {} files, {} with the word\n",
            visited.directories,
            search.files.load(Relaxed),
            search.matches.load(Relaxed)
        );
        Ok(Self)
    }
}
