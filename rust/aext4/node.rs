// SPDX-License-Identifier: GPL-2.0

//! Nodes: what the file system knows of an inode, and the table of them.
//!
//! A node is light: the checked inode, the runs of its map that were found last, and for small files and
//! links what lies in the inode itself. Both doors share it; it needs no VFS inode.
//!
//! # Concurrency
//!
//! A node's inode never changes while the volume is mounted read-only. The table has at most one node for
//! an inode; two who read the same inode at the same time both make a node, and the second to come
//! back takes the first's. A node leaves the table only when the table has the last reference, which is
//! told under the table's lock, by the node's count of users. Nodes without users stay until there
//! are many, the superblock's shrinker is asked for memory, or the volume goes.

use crate::error::{corrupted, About, OrReport};
use crate::map::RunCache;
use crate::volume::Volume;
use core::ops::Deref;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use layout::{DataMap, InlineData, Ino, Inode, InodeFlags, Lblk, NokeyName};
use vfs::{Attached, Buffer};

/// From how many nodes on the table makes room for each new one: some 64 MiB.
const MANY: usize = 1 << 16;

/// How many entries are examined under the table's lock at a time, to make room.
const SWEEP: usize = 16;

/// What the file system knows of an inode.
#[pin_data]
pub(crate) struct Node {
    /// The inode.
    pub(crate) inode: Inode,
    /// Where the inode lies: a block of the volume, and the offset in it.
    pub(crate) place: (u64, u32),
    /// Inline data, or the target of a fast or an encrypted link with a zero at its end.
    pub(crate) inline: KVec<u8>,
    #[pin]
    pub(crate) runs: SpinLock<RunCache>,
    /// Its VFS inode, if it has one.
    pub(crate) attached: Attached,
    /// References but the table's.
    users: Atomic<u32>,
}

/// Makes a node that is in no table.
///
/// Not in the caller, which is an `async fn` and so compiled into whatever module polls it: lockdep
/// would have the lock's name from there.
#[inline(never)]
fn new_node(inode: Inode, place: (u64, u32), inline: KVec<u8>) -> Result<Arc<Node>> {
    Arc::pin_init(
        pin_init!(Node {
            inode,
            place,
            inline,
            runs <- new_spinlock!(RunCache::new()),
            attached: Attached::new(),
            users: Atomic::new(0),
        }),
        GFP_KERNEL,
    )
}

/// A reference on a node that is, or was, in the table.
pub(crate) struct NodeRef(Arc<Node>);

impl Deref for NodeRef {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0
    }
}

impl NodeRef {
    fn new(node: Arc<Node>) -> Self {
        node.users.fetch_add(1, Relaxed);
        Self(node)
    }
}

impl Clone for NodeRef {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Drop for NodeRef {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Full);
    }
}

/// The nodes of a volume, by inode number.
pub(crate) struct Table {
    nodes: RBTree<u32, Arc<Node>>,
    len: usize,
    /// Where the next sweep begins.
    hand: u32,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            nodes: RBTree::new(),
            len: 0,
            hand: 0,
        }
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn get(&self, ino: Ino) -> Option<NodeRef> {
        self.nodes
            .get(&ino.0)
            .map(|node| NodeRef::new(node.clone()))
    }

    /// Takes those of the next few nodes out that have no users, for the caller to drop when it has released the lock.
    fn sweep(&mut self, unused: &mut [Option<RBTreeNode<u32, Arc<Node>>>; SWEEP]) {
        let mut cursor = self.nodes.cursor_lower_bound_mut(&self.hand);
        for slot in unused {
            let Some(at) = cursor else {
                self.hand = 0;
                return;
            };
            let (&ino, node) = at.current();
            self.hand = ino.saturating_add(1);
            cursor = if node.users.load(Acquire) == 0 {
                let (next, node) = at.remove_current();
                *slot = Some(node);
                self.len -= 1;
                // Behind the last it is the one before.
                next.filter(|next| *next.current().0 > ino)
            } else {
                at.move_next()
            };
        }
    }
}

impl Volume {
    /// The node of inode `ino`, from the table or from the disk.
    ///
    /// Fails with `ESTALE` if the inode is not in use.
    pub(crate) async fn get_node(&self, ino: Ino) -> Result<NodeRef> {
        if let Some(node) = self.nodes.lock().get(ino) {
            return Ok(node);
        }
        let (pblk, offset) = self.inode_place(ino).or_report(self, About::inode(ino))?;
        let around = self.inodes_around(ino, pblk);
        let buffer = self.disk.buffer_among(pblk.0, around).await?;
        let node = self.parse_node(ino, (pblk.0, offset), &buffer)?;
        let node = if node.inode.is_encrypted_link() && node.inline.is_empty() {
            // Seldom: it is not to make every future larger.
            KBox::pin(self.with_target(&node), GFP_KERNEL)?.await?
        } else {
            node
        };
        // Allocated, and freed, outside of the lock.
        let entry = RBTreeNode::new(ino.0, node.clone(), GFP_KERNEL)?;
        let mut unused = [const { None }; SWEEP];
        // From here on it has a user, so that the sweep leaves it.
        let node = NodeRef::new(node);
        let mut table = self.nodes.lock();
        if let Some(first) = table.get(ino) {
            drop(table);
            return Ok(first);
        }
        table.nodes.insert(entry);
        table.len += 1;
        if table.len > MANY {
            table.sweep(&mut unused);
        }
        // The lock goes before what was taken out.
        Ok(node)
    }

    /// The node of inode `ino`, for one who was given the number: a name, a file handle, a user of the Rust
    /// door.
    ///
    /// Fails with `ESTALE` if the inode is not in use, or one that the volume keeps for itself, and with
    /// `EUCLEAN` if it holds the value of an attribute.
    pub(crate) async fn get_user_node(&self, ino: Ino) -> Result<NodeRef> {
        if !self.sb.geo.is_user_ino(ino) {
            return Err(ESTALE);
        }
        let node = self.get_node(ino).await?;
        if node.inode.flags.has(InodeFlags::EA_INODE) {
            self.report(&format_args!(
                "inode {ino}: holds an attribute's value, and is no file"
            ));
            return Err(corrupted());
        }
        Ok(node)
    }

    /// The same node with what stands for the target of an encrypted link, which lies in a block.
    async fn with_target(&self, node: &Node) -> Result<Arc<Node>> {
        let ino = node.inode.ino;
        let piece = self.map_blocks(node, Lblk(0)).await?;
        let Some(pblk) = piece.data_block(Lblk(0)) else {
            self.report(&format_args!("inode {ino}: a link without a target"));
            return Err(corrupted());
        };
        let buffer = self.disk.buffer(pblk.0).await?;
        let target = self.nokey_target(ino, buffer.data())?;
        new_node(node.inode, node.place, target)
    }

    /// What stands for the target of an encrypted link with the contents `data`, with a zero at its end.
    fn nokey_target(&self, ino: Ino, data: &[u8]) -> Result<KVec<u8>> {
        let name = NokeyName::of_link(data).or_report(self, About::inode(ino))?;
        let mut target = KVec::new();
        target.extend_from_slice(name.show().bytes(), GFP_KERNEL)?;
        target.push(0, GFP_KERNEL)?;
        Ok(target)
    }

    /// Whether the contents of a file can be vouched for: fails with `EOPNOTSUPP` for one with a Merkle
    /// tree, which is not checked, and with `ENOKEY` for one that is encrypted.
    pub(crate) fn check_readable(&self, node: &Node) -> Result {
        if node.inode.flags.has(InodeFlags::ENCRYPT) {
            return Err(ENOKEY);
        }
        if node.inode.flags.has(InodeFlags::VERITY) {
            self.report(&format_args!(
                "inode {}: verity is not supported",
                node.inode.ino
            ));
            return Err(EOPNOTSUPP);
        }
        Ok(())
    }

    /// Looks at `count` nodes and frees those without users. Returns how many it freed.
    pub(crate) fn shrink(&self, count: usize) -> usize {
        let mut freed = 0;
        for _ in 0..count.div_ceil(SWEEP) {
            let mut unused = [const { None }; SWEEP];
            self.nodes.lock().sweep(&mut unused);
            freed += unused.iter().flatten().count();
        }
        freed
    }

    /// The node of inode `ino`, which is at `place` in `buffer`.
    fn parse_node(&self, ino: Ino, place: (u64, u32), buffer: &Buffer) -> Result<Arc<Node>> {
        let about = About::inode(ino);
        let geo = &self.sb.geo;
        let raw = buffer.data().get(place.1 as usize..).ok_or(EIO)?;
        let parsed = Inode::parse(raw, ino, geo);
        // A file handle may well name an inode that is gone; that is no damage.
        if let Err(error) = &parsed {
            if error.kind == layout::Kind::Stale {
                return Err(ESTALE);
            }
        }
        let inode = parsed.or_report(self, about)?;
        layout::map::verify_root(&inode, geo).or_report(self, about)?;
        let inline = self.inline_of(raw, &inode)?;
        new_node(inode, place, inline)
    }

    /// Copies what lies in the inode.
    fn inline_of(&self, raw: &[u8], inode: &Inode) -> Result<KVec<u8>> {
        let mut bytes = KVec::new();
        if inode.is_encrypted_link() {
            if inode.data_map() == DataMap::FastSymlink {
                bytes = self.nokey_target(inode.ino, &inode.block)?;
            }
        } else if let Some(target) = inode.fast_symlink() {
            bytes.extend_from_slice(target, GFP_KERNEL)?;
            bytes.push(0, GFP_KERNEL)?;
        } else if inode.data_map() == DataMap::Inline && !inode.is_dir() {
            let about = About::inode(inode.ino);
            let data = InlineData::parse(raw, inode, &self.sb.geo).or_report(self, about)?;
            let (head, tail) = data.contents(inode);
            let len = (head.len() + tail.len()) as u64;
            // mke2fs makes inline files of those that are one hole; no other ends behind its data.
            if inode.size > len
                && [head, tail]
                    .iter()
                    .any(|part| part.iter().any(|&byte| byte != 0))
            {
                self.report(&format_args!("{about}inline data ends before the file"));
                return Err(corrupted());
            }
            // A power of two, so that the memory does not cross a page, which iomap wants.
            let size = (head.len() + tail.len()).max(inode.size.min(Self::INLINE_MAX) as usize);
            bytes.reserve(size.next_power_of_two(), GFP_KERNEL)?;
            bytes.extend_from_slice(head, GFP_KERNEL)?;
            bytes.extend_from_slice(tail, GFP_KERNEL)?;
            let rest = size - bytes.len();
            bytes.extend_with(rest, 0, GFP_KERNEL)?;
        }
        Ok(bytes)
    }
}
