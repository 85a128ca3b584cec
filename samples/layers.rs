// SPDX-License-Identifier: GPL-2.0

//! A stack of layers on a volume, one of them our own.
//!
//! The volume is mounted at `/mnt` and has a file `docs/greeting`. From below: the volume, a view
//! of its directory `docs`, an overlay that keeps changes in memory, one that writes what it reads
//! in capitals, and one that measures.

use kernel::prelude::*;
use kernel::str::BStr;
use stack::{forward, AsyncStackable, Ino, Latency, Layer, Overlay, Subtree};
use upcall::{block_on, Block};
use volume::Volume;

module! {
    type: Layers,
    name: "layers",
    authors: ["The Upcall developers"],
    description: "A stack of layers",
    license: "GPL",
}

struct Layers;

/// A layer that changes what is read, and leaves all else to what is below.
struct Capitals<L>(L);

/// It is asynchronous if what is below is; a type cannot be both.
impl<L: Layer> Layer for Capitals<L> {
    type Kind = L::Kind;
}

impl<L: AsyncStackable> AsyncStackable for Capitals<L> {
    forward!(self, self.0; root, lookup, stat, readlink, read_dir, getxattr, listxattr, acl, statfs);

    // Reads of many pages, and streams, come by way of this.
    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        let count = self.0.read(ino, offset, block).await?;
        block.as_mut_slice().make_ascii_uppercase();
        Ok(count)
    }
}

/// Logs the content of the file `greeting`.
async fn show<L: AsyncStackable>(layer: &L, what: &str) -> Result {
    let ino = layer.walk(layer.root(), b"/greeting").await?;
    let bytes = layer.read_to_end(ino, 4096).await?;
    pr_info!("{what}: {}\n", BStr::from_bytes(bytes.trim_ascii_end()));
    Ok(())
}

async fn stack(volume: Volume) -> Result {
    let view = Subtree::new(volume, b"/docs").await?;
    let stack = Latency::new(Capitals(Overlay::in_memory(view).await?));
    show(&stack, "capitals").await?;

    // A write reaches the layer that takes it, and no further.
    let overlay = &stack.below().0;
    let ino = overlay.lookup(overlay.root(), b"greeting").await?;
    overlay.write_bytes(ino, Some(0), b"bye").await?;
    show(&stack, "changed").await?;
    show(overlay.lower(), "still below").await?;
    pr_info!(
        "{} look-ups and {} reads were measured\n",
        stack.lookups().total(),
        stack.reads().total()
    );
    Ok(())
}

impl kernel::Module for Layers {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // The stack's future has a part of each layer. It is large, so it goes on the heap and not
        // on this thread's stack, where block_on() would have it.
        let future = KBox::pin(stack(Volume::open(c"/mnt")?), GFP_KERNEL)?;
        block_on(future)??;
        Ok(Self)
    }
}
