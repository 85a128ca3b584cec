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
use crate::ext4::Ext4;
use crate::map::ExtentCache;
use core::ops::Deref;
use disk::{Attached, Buf};
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use layout::{DataMap, InlineData, Ino, Inode, InodeFlags};

/// From how many nodes on the table makes room for each new one: some 64 MiB.
const INODES_MAX: usize = 1 << 16;

/// How many entries are examined under the table's lock at a time, to make room.
const SWEEP: usize = 16;

/// What the file system knows of an inode.
#[pin_data]
pub struct InodeInfo {
    /// The inode.
    pub inode: Inode,
    /// Where the inode lies: a block of the volume, and the offset in it.
    pub place: (u64, u32),
    /// Inline data, or the target of a fast link with a zero at its end.
    pub inline: KVec<u8>,
    /// What was found of its map.
    #[pin]
    pub extents: SpinLock<ExtentCache>,
    /// Its VFS inode, if it has one.
    pub attached: Attached,
    /// References but the table's.
    users: Atomic<u32>,
}

/// Makes a node that is in no table.
///
/// Not in the caller, which is an `async fn` and so compiled into whatever module polls it: lockdep
/// would have the lock's name from there.
#[inline(never)]
fn new_inode_info(inode: Inode, place: (u64, u32), inline: KVec<u8>) -> Result<Arc<InodeInfo>> {
    Arc::pin_init(
        pin_init!(InodeInfo {
            inode,
            place,
            inline,
            extents <- new_spinlock!(ExtentCache::new()),
            attached: Attached::new(),
            users: Atomic::new(0),
        }),
        GFP_KERNEL,
    )
}

/// A reference on a node that is, or was, in the table.
pub struct InodeRef(Arc<InodeInfo>);

impl Deref for InodeRef {
    type Target = InodeInfo;

    fn deref(&self) -> &InodeInfo {
        &self.0
    }
}

impl InodeRef {
    fn new(node: Arc<InodeInfo>) -> Self {
        node.users.fetch_add(1, Relaxed);
        Self(node)
    }
}

impl Clone for InodeRef {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Full);
    }
}

/// The nodes of a volume, by inode number.
pub struct InodeTable {
    nodes: RBTree<u32, Arc<InodeInfo>>,
    len: usize,
    /// Where the next sweep begins.
    hand: u32,
}

impl InodeTable {
    pub(crate) fn new() -> Self {
        Self {
            nodes: RBTree::new(),
            len: 0,
            hand: 0,
        }
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    fn get(&self, ino: Ino) -> Option<InodeRef> {
        self.nodes
            .get(&ino.0)
            .map(|node| InodeRef::new(node.clone()))
    }

    /// Takes those of the next few nodes out that have no users, for the caller to drop when it has released the lock.
    fn sweep(&mut self, unused: &mut [Option<RBTreeNode<u32, Arc<InodeInfo>>>; SWEEP]) {
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

impl Ext4 {
    /// The node of inode `ino`, from the table or from the disk.
    ///
    /// Fails with `ESTALE` if the inode is not in use.
    pub async fn iget(&self, ino: Ino) -> Result<InodeRef> {
        if let Some(node) = self.inodes.lock().get(ino) {
            return Ok(node);
        }
        let (pblk, offset) = self.inode_place(ino).or_report(self, About::inode(ino))?;
        let around = self.inodes_around(ino, pblk);
        let buffer = self.block_ahead(pblk, around).await?;
        let node = self.parse_inode(ino, (pblk.0, offset), &buffer)?;
        // Allocated, and freed, outside of the lock.
        let entry = RBTreeNode::new(ino.0, node.clone(), GFP_KERNEL)?;
        let mut unused = [const { None }; SWEEP];
        // From here on it has a user, so that the sweep leaves it.
        let node = InodeRef::new(node);
        let mut table = self.inodes.lock();
        if let Some(first) = table.get(ino) {
            drop(table);
            return Ok(first);
        }
        table.nodes.insert(entry);
        table.len += 1;
        if table.len > INODES_MAX {
            table.sweep(&mut unused);
        }
        // The lock goes before what was taken out.
        Ok(node)
    }

    /// Whether the contents of a file can be vouched for: fails with `EOPNOTSUPP` for one with a Merkle
    /// tree, which is not checked.
    pub fn check_readable(&self, node: &InodeInfo) -> Result {
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
    pub fn shrink(&self, count: usize) -> usize {
        let mut freed = 0;
        for _ in 0..count.div_ceil(SWEEP) {
            let mut unused = [const { None }; SWEEP];
            self.inodes.lock().sweep(&mut unused);
            freed += unused.iter().flatten().count();
        }
        freed
    }

    /// The node of inode `ino`, which is at `place` in `buffer`.
    fn parse_inode(&self, ino: Ino, place: (u64, u32), buffer: &Buf) -> Result<Arc<InodeInfo>> {
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
        new_inode_info(inode, place, inline)
    }

    /// Copies what lies in the inode.
    fn inline_of(&self, raw: &[u8], inode: &Inode) -> Result<KVec<u8>> {
        let mut bytes = KVec::new();
        if let Some(target) = inode.fast_symlink() {
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
