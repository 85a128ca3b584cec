// SPDX-License-Identifier: GPL-2.0

//! Changing the entries of a directory, and the links of what they lead to: [`NamePlan`],
//! [`LinkPlan`].
//!
//! A name is found again when it is planned to change it, and has to lead where the caller thinks.
//! Room for a new one is made before ([`dir_grow`](crate::dir_grow)), by transactions of its own:
//! a directory whose blocks were split, or that has one more, has the names that it had.
//!
//! # Concurrency
//!
//! The caller has the directory's `rwsem` to write from the plan to the end of the transaction. So
//! its blocks are what they were when they were planned, and readers of its entries wait. Who reads
//! them in other ways, as checks of "..", sees each block before the change or after it.

use crate::dir::{Found, Holds};
use crate::error::{corrupted, About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::inode_plan::{InodePlan, Writable};
use crate::journal::{Credits, Transaction};
use crate::memory;
use disk::Planned;
use kernel::prelude::*;
use layout::dir::NAME_MAX;
use layout::dir_edit::{self, Name, Place, Slot};
use layout::inline_dir_edit::{self, InlineChains, InlineSlot};
use layout::inode_edit::TimeField;
use layout::{
    htree_edit, Compat, DataMap, DxCursor, DxNode, DxPath, DxRoot, DxStep, FileType, Geometry,
    HashVersion, InlineData, Ino, InodeEdit, InodeFlags, Lblk, Owner, Reach,
};

/// How often room for a name is made, and found to be too little. A split makes enough; what moves
/// from the inode to a block may need one.
const GROW_MAX: u32 = 4;

/// Checks that an entry can have this name.
pub(crate) fn check_name(name: &[u8]) -> Result<Name<'_>> {
    if name.len() > NAME_MAX {
        return Err(ENAMETOOLONG);
    }
    if name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(EINVAL);
    }
    Name::new(name).ok_or(ENOENT)
}

/// Where a new entry goes.
pub(crate) enum Room {
    /// In the inode.
    Inode(InlineSlot),
    /// In this block of the volume.
    Block(u64, Slot),
}

/// A change of an entry.
pub(crate) enum Change<'a> {
    /// It is put in.
    Insert {
        room: Room,
        name: Name<'a>,
        ino: Ino,
        file_type: FileType,
    },
    /// It goes.
    Remove { found: Found },
    /// It leads elsewhere.
    Lead {
        found: Found,
        ino: Ino,
        file_type: FileType,
    },
    /// ".." leads elsewhere.
    Parent { found: Found, ino: Ino },
}

impl Change<'_> {
    /// The block that has the entry, if the inode does not.
    fn block(&self) -> Option<u64> {
        match self {
            Self::Insert { room, .. } => match room {
                Room::Inode(_) => None,
                Room::Block(block, _) => Some(*block),
            },
            Self::Remove { found } | Self::Lead { found, .. } | Self::Parent { found, .. } => {
                found.block
            }
        }
    }

    /// Changes the block, of a directory that has an index or not.
    fn apply(
        &self,
        block: &mut [u8],
        owner: &Owner,
        indexed: bool,
        geo: &Geometry,
    ) -> layout::Result<()> {
        match self {
            Self::Insert {
                room,
                name,
                ino,
                file_type,
            } => {
                if let Room::Block(_, slot) = room {
                    dir_edit::insert(block, slot, *name, *ino, *file_type, geo)?;
                }
            }
            Self::Remove { found } => dir_edit::remove(block, found.offset, found.ino, geo)?,
            Self::Lead {
                found,
                ino,
                file_type,
            } => dir_edit::set_entry(block, found.offset, found.ino, *ino, *file_type, geo)?,
            Self::Parent { found, ino } => {
                let dir = FileType::Directory;
                dir_edit::set_entry(block, found.offset, found.ino, *ino, dir, geo)?;
                if indexed {
                    // The root of an index has its checksum elsewhere.
                    return htree_edit::seal(block, Lblk(0), owner, geo);
                }
            }
        }
        dir_edit::seal(block, owner, geo)
    }

    /// Changes the inode.
    fn apply_inline(
        &self,
        raw: &mut [u8],
        chains: &InlineChains,
        geo: &Geometry,
    ) -> layout::Result<()> {
        match self {
            Self::Insert {
                room,
                name,
                ino,
                file_type,
            } => match room {
                Room::Inode(slot) => slot.insert(raw, *name, *ino, *file_type, geo),
                Room::Block(..) => Ok(()),
            },
            Self::Remove { found } => chains.remove(raw, found.offset, found.ino, geo),
            Self::Lead {
                found,
                ino,
                file_type,
            } => chains.set_entry(raw, found.offset, found.ino, *ino, *file_type, geo),
            Self::Parent { found, ino } => inline_dir_edit::set_parent(raw, found.ino, *ino),
        }
    }
}

/// What an operation on names does to one inode: to its entries, if it is a directory, to its links
/// and its times.
///
/// # Cancellation
///
/// Dropping it leaves the inode as it is.
pub(crate) struct NamePlan<'a> {
    info: &'a InodeInfo,
    /// There until it is applied.
    inode: Option<InodePlan>,
    /// The changes of entries, in their order, with the blocks that have them.
    changes: [Option<(Change<'a>, Option<Planned>)>; 2],
    chains: Option<InlineChains>,
    new: NewLinks,
}

/// What an operation on names does to an inode of whose entries none changes: a [`NamePlan`] that
/// needs no memory.
///
/// # Cancellation
///
/// Dropping it leaves the inode as it is.
pub(crate) struct LinkPlan<'a> {
    info: &'a InodeInfo,
    inode: InodePlan,
    new: NewLinks,
}

/// What an inode will have.
#[derive(Default)]
struct NewLinks {
    /// The number of links.
    links: Option<u16>,
    /// The time of deletion, or the next orphan.
    dtime: Option<u32>,
}

impl NewLinks {
    fn apply(&self, edit: &mut InodeEdit<'_>) {
        if let Some(links) = self.links {
            edit.set_links(links);
        }
        if let Some(dtime) = self.dtime {
            edit.set_dtime(dtime);
        }
    }
}

impl Ext4 {
    /// Plans what happens to an inode, whose lock the caller has, when a name of it comes or goes.
    pub(crate) async fn plan_link<'a>(&self, info: &'a InodeInfo) -> Result<LinkPlan<'a>> {
        Ok(LinkPlan {
            info,
            inode: self.plan_inode(info).await?,
            new: NewLinks::default(),
        })
    }

    /// Plans what happens to an inode, whose lock the caller has.
    pub(crate) async fn plan_name<'a>(&self, info: &'a InodeInfo) -> Result<NamePlan<'a>> {
        Ok(NamePlan {
            info,
            inode: Some(self.plan_inode(info).await?),
            changes: [None, None],
            chains: None,
            new: NewLinks::default(),
        })
    }

    /// Checks that a name can be made in a directory, whose lock the caller has, and finds a place
    /// for it, or makes one.
    ///
    /// Fails with `EEXIST` if it is there, as [`check_dir`](Self::check_dir) and [`check_name`] do,
    /// and as [`make_room`](Self::make_room).
    pub(crate) async fn place_new<'n>(
        &self,
        writable: &Writable,
        dir: &InodeInfo,
        name: &'n [u8],
    ) -> Result<(Name<'n>, Room)> {
        self.check_dir(dir)?;
        let name = match name {
            b"." | b".." => return Err(EEXIST),
            name => check_name(name)?,
        };
        let room = match (dir.data_map() == DataMap::Inline, dir.is_indexed()) {
            (true, _) => self.place_inline(dir, name).await?,
            (_, true) => self.place_indexed(dir, name).await?,
            _ => self.place_linear(dir, name).await?,
        };
        match room {
            Some(room) => Ok((name, room)),
            None => Ok((name, self.make_room(writable, dir, name).await?)),
        }
    }

    async fn place_inline(&self, dir: &InodeInfo, name: Name<'_>) -> Result<Option<Room>> {
        match self.find(dir, name.bytes()).await? {
            Some(_) => Err(EEXIST),
            None => self.find_room(dir, name).await,
        }
    }

    /// The first place for a name, once all blocks were seen.
    async fn place_linear(&self, dir: &InodeInfo, name: Name<'_>) -> Result<Option<Room>> {
        let mut room = None;
        for lblk in 0..self.dir_blocks(dir)? {
            self.checkpoint(lblk).await?;
            let found = self.place_in_block(dir, Lblk(lblk), name).await?;
            room = room.or(found);
        }
        Ok(room)
    }

    /// The place for a name in the leaf that its hash leads to. The next ones may have the name,
    /// too, if they have names of the same hash.
    async fn place_indexed(&self, dir: &InodeInfo, name: Name<'_>) -> Result<Option<Room>> {
        let Leaf { lblk, goes_on, .. } = self.find_leaf(dir, name.bytes()).await?;
        let room = self.place_in_block(dir, lblk, name).await?;
        if goes_on && self.find(dir, name.bytes()).await?.is_some() {
            return Err(EEXIST);
        }
        Ok(room)
    }

    /// Fails with `EEXIST` if the block has the name.
    async fn place_in_block(
        &self,
        dir: &InodeInfo,
        lblk: Lblk,
        name: Name<'_>,
    ) -> Result<Option<Room>> {
        let (buffer, about) = self.dir_block(dir, lblk, Holds::Entries, 0).await?;
        let place = dir_edit::place(buffer.data(), name, &self.sb.geo).or_report(self, about)?;
        let block = about.block.ok_or(EIO)?;
        match place {
            Place::Taken => Err(EEXIST),
            Place::Room(slot) => Ok(slot.map(|slot| Room::Block(block, slot))),
        }
    }

    /// Finds a place for a name in a directory, as it is.
    pub(crate) async fn find_room(&self, dir: &InodeInfo, name: Name<'_>) -> Result<Option<Room>> {
        let geo = &self.sb.geo;
        if dir.data_map() == DataMap::Inline {
            let buffer = self.inode_buffer(dir).await?;
            let raw = buffer.data().get(dir.place.1 as usize..).ok_or(EIO)?;
            let slot = self.chains(dir, raw)?.room(raw, name, geo);
            let slot = slot.or_report(self, About::inode(dir.ino))?;
            return Ok(slot.map(Room::Inode));
        }
        if dir.is_indexed() {
            let leaf = self.find_leaf(dir, name.bytes()).await?.lblk;
            return self.room_in_block(dir, leaf, name).await;
        }
        for lblk in 0..self.dir_blocks(dir)? {
            self.checkpoint(lblk).await?;
            let room = self.room_in_block(dir, Lblk(lblk), name).await?;
            if room.is_some() {
                return Ok(room);
            }
        }
        Ok(None)
    }

    async fn room_in_block(
        &self,
        dir: &InodeInfo,
        lblk: Lblk,
        name: Name<'_>,
    ) -> Result<Option<Room>> {
        let (buffer, about) = self.dir_block(dir, lblk, Holds::Entries, 0).await?;
        let slot = dir_edit::room(buffer.data(), name, &self.sb.geo).or_report(self, about)?;
        let block = about.block.ok_or(EIO)?;
        Ok(slot.map(|slot| Room::Block(block, slot)))
    }

    /// The leaf of an index where a name goes.
    pub(crate) async fn find_leaf(&self, dir: &InodeInfo, name: &[u8]) -> Result<Leaf> {
        let geo = &self.sb.geo;
        let blocks = self.dir_blocks(dir)?;
        let (buffer, about) = self.dir_block(dir, Lblk(0), Holds::Index, 0).await?;
        let root = DxRoot::parse(buffer.data(), geo).or_report(self, about)?;
        let version = root.version;
        let hash = geo.hash().hash(version, name).major;
        let (mut cursor, mut step) = DxCursor::start(&root, hash, blocks).or_report(self, about)?;
        drop(buffer);
        loop {
            step = match step {
                DxStep::Node(lblk) => {
                    let (buffer, about) = self.dir_block(dir, lblk, Holds::Index, 0).await?;
                    DxNode::parse(buffer.data(), lblk, geo)
                        .and_then(|node| cursor.feed(&node))
                        .or_report(self, about)?
                }
                DxStep::Leaf(leaf) => {
                    return Ok(Leaf {
                        lblk: leaf.lblk,
                        path: cursor.path(),
                        version,
                        goes_on: matches!(cursor.advance(Reach::SameHash), DxStep::Node(_)),
                    })
                }
                // A walk that was not advanced ends at a leaf.
                DxStep::Done => return Err(EIO),
            }
        }
    }

    /// The place of the names of a directory in its inode.
    pub(crate) fn chains(&self, dir: &InodeInfo, raw: &[u8]) -> Result<InlineChains> {
        let data = InlineData::parse(raw, &dir.inode(), &self.sb.geo);
        let data = data.or_report(self, About::inode(dir.ino))?;
        Ok(InlineChains::of(&data))
    }

    /// Finds a place for a name in a directory, or makes one.
    ///
    /// Fails with `ENOSPC`; with `EUCLEAN` or `EBADMSG` if the directory is damaged.
    pub(crate) async fn make_room(
        &self,
        writable: &Writable,
        dir: &InodeInfo,
        name: Name<'_>,
    ) -> Result<Room> {
        for _ in 0..GROW_MAX {
            if let Some(room) = self.find_room(dir, name).await? {
                return Ok(room);
            }
            memory::pinned(|| self.grow_dir(writable, dir, name))
                .await?
                .await?;
        }
        self.report(&format_args!(
            "inode {}, directory: no room for a name",
            dir.ino
        ));
        Err(corrupted())
    }
}

/// A leaf of an index.
pub(crate) struct Leaf {
    /// The block of the directory.
    pub(crate) lblk: Lblk,
    /// The way to it.
    pub(crate) path: DxPath,
    /// The hash function of the index.
    pub(crate) version: HashVersion,
    /// Whether the next leaf may have names of the same hash.
    pub(crate) goes_on: bool,
}

impl<'a> NamePlan<'a> {
    /// Plans the change of an entry.
    pub(crate) async fn change(&mut self, volume: &Ext4, change: Change<'a>) -> Result {
        let planned = match change.block() {
            Some(block) => Some(volume.plan_edit(block).await?),
            None => {
                let buffer = volume.inode_buffer(self.info).await?;
                let raw = buffer.data().get(self.info.place.1 as usize..).ok_or(EIO)?;
                self.chains = Some(volume.chains(self.info, raw)?);
                None
            }
        };
        let free = self.changes.iter_mut().find(|slot| slot.is_none());
        *free.ok_or(EINVAL)? = Some((change, planned));
        Ok(())
    }

    /// Plans another number of links.
    pub(crate) fn set_links(&mut self, links: u16) {
        self.new.links = Some(links);
    }

    /// Sets the time of deletion, or the next orphan.
    pub(crate) fn set_dtime(&mut self, dtime: u32) {
        self.new.dtime = Some(dtime);
    }

    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub(crate) fn credits(&self) -> u32 {
        let blocks = self.changes.iter().flatten();
        1 + blocks
            .map(|(_, block)| u32::from(block.is_some()))
            .sum::<u32>()
    }

    /// The changes are made. A directory whose entries change was modified now, and every inode
    /// changed. Does not sleep, and does not fail.
    pub(crate) fn apply(&mut self, volume: &Ext4, tx: &mut Transaction<'_>) {
        let (info, geo) = (self.info, &volume.sb.geo);
        let time = volume.stamp(info);
        let (indexed, version) = info.look(|inode| (inode.is_indexed(), inode.version));
        let mut done = true;
        let mut modified = false;
        for (change, planned) in self.changes.iter_mut().flatten() {
            modified |= !matches!(change, Change::Parent { .. });
            if let Some(planned) = planned.take() {
                let apply = |block: &mut [u8]| change.apply(block, &info.owner, indexed, geo);
                done &= tx.edit(planned, apply).is_ok();
            }
        }
        let Some(inode) = self.inode.take() else {
            // It was planned with it.
            kernel::warn_on!(true);
            return;
        };
        inode.apply(volume, tx, info, |edit| {
            if let Some(chains) = &self.chains {
                for (change, _) in self.changes.iter().flatten() {
                    let changed = change.apply_inline(edit.bytes_mut(), chains, geo);
                    done &= changed.is_ok();
                }
            }
            if modified {
                edit.set_time(TimeField::Modify, time);
                if !geo.has_compat(Compat::DIR_INDEX) {
                    // Names were put where the index was.
                    edit.set_flags(InodeFlags(edit.flags().0 & !InodeFlags::INDEX.0));
                }
            }
            edit.set_time(TimeField::Change, time);
            edit.set_version(version.wrapping_add(1));
            self.new.apply(edit);
        });
        if !done {
            // What was planned is not there any more: somebody has changed it without the lock.
            kernel::warn_on!(true);
        }
    }
}

impl LinkPlan<'_> {
    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub(crate) const CREDITS: Credits = InodePlan::CREDITS;

    /// Plans another number of links.
    pub(crate) fn set_links(&mut self, links: u16) {
        self.new.links = Some(links);
    }

    /// Sets the time of deletion, or the next orphan.
    pub(crate) fn set_dtime(&mut self, dtime: u32) {
        self.new.dtime = Some(dtime);
    }

    /// The changes are made; the inode has changed now. Does not sleep, and does not fail.
    pub(crate) fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>) {
        let Self { info, inode, new } = self;
        let time = volume.stamp(info);
        let version = info.look(|inode| inode.version);
        inode.apply(volume, tx, info, |edit| {
            edit.set_time(TimeField::Change, time);
            edit.set_version(version.wrapping_add(1));
            new.apply(edit);
        });
    }
}
