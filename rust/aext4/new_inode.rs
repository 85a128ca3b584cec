// SPDX-License-Identifier: GPL-2.0

//! [`NodePlan`]: a new inode, made in memory before the transaction that puts it on the disk.
//!
//! An inode is loaned, its bytes are made and parsed, and there is memory for all that follows. The
//! transaction copies the bytes to their place. After it the inode is entered into the table, where
//! another one who has read the bytes may have been faster: then his is the one.
//!
//! # Contents
//!
//! A file begins without a block, and with an empty map: not with inline data, even if the volume
//! has that. A directory begins with one block, which the transaction makes. A short link has its
//! target in the inode.
//!
//! A long link has it in a block of data, which is written to its place, and waited for, before the
//! transaction begins. The block is loaned, so nobody else has it, and nothing on the disk leads to
//! it. The commit flushes the device before it counts. So a loss of power leaves a link with its
//! target, or none: the order that data of files has, and what readers of links, who read data,
//! expect. Through the journal it would be metadata in the cache, and data in the page cache.

use crate::alloc::inodes::Hint;
use crate::alloc::{Allocator, Goal, InodeLoan, Loan, Space};
use crate::error::{About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::{InodeInfo, InodeRef, NewInfo};
use crate::inode_plan::Writable;
use crate::journal::{Credits, Transaction};
use crate::map_plan::{empty_root, first_block, Root};
use crate::memory;
use crate::set_attributes::{OF_ALL, OF_DIRECTORIES};
use crate::xattr_initial::{InitialXattrs, NewXattr};
use disk::{gfp, vec_with_capacity, Planned};
use kernel::alloc::KVVec;
use kernel::prelude::*;
use layout::bytes::put_bytes;
use layout::inode::I_BLOCK_SIZE;
use layout::inode_edit::{new_extra_isize, TimeField};
use layout::{
    dir_edit, Device, FileType, Incompat, Ino, Inode, InodeEdit, InodeFlags, Pblk, RoCompat,
};
use upcall::bio::Op;

/// What an inode begins as.
const ZEROES: [u8; 256] = [0; 256];

/// The flags that what is made in a directory has from it: beside those of [`InodeFlags`] that
/// are to be erased safely, to be kept for undeletion, and to be compressed or not.
const INHERITED: u32 = 0x7
    | 0x400
    | InodeFlags::SYNC.0
    | InodeFlags::NODUMP.0
    | InodeFlags::NOATIME.0
    | InodeFlags::JOURNAL_DATA.0
    | InodeFlags::NOTAIL.0
    | InodeFlags::DIRSYNC.0
    | InodeFlags::PROJINHERIT.0
    | InodeFlags::CASEFOLD.0
    | InodeFlags::DAX.0;

/// What a new inode is to be.
#[derive(Clone, Copy, Debug)]
pub struct NewInode<'a> {
    /// Type and permission bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The device, if it is one.
    pub device: Option<Device>,
    /// The attributes that it begins with.
    pub xattrs: &'a [NewXattr<'a>],
}

/// What a new inode begins with.
#[derive(Clone, Copy)]
pub(crate) enum Contents<'a> {
    /// Nothing.
    Empty,
    /// "." and "..".
    Directory,
    /// The target of a link.
    Target(&'a [u8]),
}

/// A new inode that nobody knows of yet.
///
/// # Cancellation
///
/// Dropping it gives back what was taken.
pub(crate) struct NodePlan<'a> {
    loan: InodeLoan,
    table: Planned,
    offset: usize,
    raw: KVVec<u8>,
    info: NewInfo,
    /// Its block, and that as one of metadata. Most have none.
    block: Option<KBox<(Loan, Option<Planned>)>>,
    xattrs: Option<KBox<InitialXattrs<'a>>>,
    parent: Ino,
}

impl Ext4 {
    /// Plans a new inode in the directory `dir`, which it may get a name in. It has `links` links.
    ///
    /// Fails with `EINVAL` for a mode without a type, with `ENOSPC`, with `EUCLEAN`, and with the
    /// errors of the block layer.
    ///
    /// # Cancellation
    ///
    /// Nothing is taken.
    pub(crate) async fn plan_node<'a>(
        &'a self,
        writable: &Writable,
        dir: &InodeInfo,
        name: &[u8],
        new: &NewInode<'_>,
        contents: Contents<'_>,
        links: u16,
    ) -> Result<NodePlan<'a>> {
        let file_type = FileType::from_mode(new.mode).ok_or(EINVAL)?;
        let allocator = writable.allocator(self);
        let top = dir.ino == Ino::ROOT || dir.flags().has(InodeFlags::TOPDIR);
        let hint = Hint {
            dir: file_type == FileType::Directory,
            top,
            seed: disk::checksum::crc32c(!0, name),
        };
        let loan = allocator.loan_inode(dir.ino, hint).await?;
        let ino = loan.ino();
        let (block, offset) = loan.place().ok_or(EIO)?;
        let table = self.plan_edit(block.0).await?;
        let place = (block.0, offset);
        let own = match contents {
            Contents::Empty => None,
            Contents::Target(target) if target.len() < I_BLOCK_SIZE => None,
            _ => {
                let plan = || self.plan_own_block(&allocator, ino, contents);
                let memory = memory::uninit().await?;
                Some(KBox::write(memory, memory::pinned(plan).await?.await?))
            }
        };
        let xattrs = match new.xattrs {
            [] => None,
            attrs => {
                let owner = (new.uid, new.gid);
                let plan = || InitialXattrs::plan(self, writable, ino, owner, attrs);
                Some(memory::pinned(plan).await?.await?)
            }
        };
        let size = usize::from(self.sb.geo.inode_size());
        let mut raw = vec_with_capacity(self.cache.spawner(), size).await?;
        // `extend_with` goes byte by byte.
        while raw.len() < size {
            let piece = ZEROES.get(..size - raw.len()).unwrap_or(&ZEROES);
            raw.extend_from_slice(piece, gfp())?;
        }
        let first = own.as_ref().map(|own| own.0.start());
        self.fill(&mut raw, ino, dir, new, contents, links, first, &xattrs)?;
        let info = memory::retry(|| self.info_of(&raw, ino, place)).await?;
        Ok(NodePlan {
            loan,
            table,
            offset: offset as usize,
            raw,
            info,
            block: own,
            xattrs,
            parent: dir.ino,
        })
    }

    /// What is known of a new inode with these bytes. Not in an async fn, which would keep the
    /// inode: it is large.
    fn info_of(&self, raw: &[u8], ino: Ino, place: (u64, u32)) -> Result<NewInfo> {
        let inode = Inode::parse_sealed(raw, ino, &self.sb.geo);
        self.new_info(&inode.or_report(self, About::inode(ino))?, place)
    }

    /// The block of a directory, to be made, or that of a long link, which is written.
    async fn plan_own_block(
        &self,
        allocator: &Allocator<'_>,
        ino: Ino,
        contents: Contents<'_>,
    ) -> Result<(Loan, Option<Planned>)> {
        let regular = matches!(contents, Contents::Target(_));
        let goal = Goal::of_inode(&self.sb.geo, self.sb.groups_per_flex, ino, regular);
        let taken = allocator
            .loan_blocks(goal, 1, 1, &mut Space::Caller)
            .await?;
        let planned = match contents {
            Contents::Target(target) => {
                self.write_target(taken.start(), target).await?;
                None
            }
            _ => Some(self.cache.plan_new(taken.start().0).await?),
        };
        Ok((taken, planned))
    }

    /// Writes the target of a link to its block.
    async fn write_target(&self, block: Pblk, target: &[u8]) -> Result {
        let mut draft = self.cache.draft().await?;
        let bytes = draft.data_mut();
        bytes.fill(0);
        put_bytes(bytes, 0, target).ok_or(ENAMETOOLONG)?;
        let op = Op::Write;
        self.cache.write_one(block.0, draft.freeze(), op).await
    }

    /// Makes the bytes of a new inode.
    #[allow(clippy::too_many_arguments)] // It is one statement, taken out of an async fn.
    fn fill(
        &self,
        raw: &mut [u8],
        ino: Ino,
        dir: &InodeInfo,
        new: &NewInode<'_>,
        contents: Contents<'_>,
        links: u16,
        first: Option<Pblk>,
        xattrs: &Option<KBox<InitialXattrs<'_>>>,
    ) -> Result {
        let geo = &self.sb.geo;
        let file_type = FileType::from_mode(new.mode).ok_or(EINVAL)?;
        let (parent_flags, parent_project) = dir.look(|dir| (dir.flags, dir.project));
        let mut edit = InodeEdit::init(raw, new_extra_isize(&self.sb), geo).ok_or(EINVAL)?;
        edit.set_mode(new.mode);
        edit.set_uid(self.stored_id(new.uid));
        edit.set_gid(self.stored_id(new.gid));
        edit.set_links(links);
        edit.set_generation(disk::random() as u32);
        let time = self.now();
        for field in [
            TimeField::Access,
            TimeField::Modify,
            TimeField::Change,
            TimeField::Create,
        ] {
            edit.set_time(field, time);
        }
        edit.set_version(1);
        let inherits = match file_type {
            FileType::Directory => INHERITED,
            FileType::Regular => INHERITED & !OF_DIRECTORIES,
            _ => INHERITED & OF_ALL,
        };
        let mut flags = parent_flags.0 & inherits;
        if parent_flags.has(InodeFlags::PROJINHERIT) && geo.has_ro_compat(RoCompat::PROJECT) {
            edit.set_project(parent_project);
        }
        let extents = geo.has_incompat(Incompat::EXTENTS);
        let mapped = match contents {
            Contents::Target(target) => target.len() >= I_BLOCK_SIZE,
            _ => matches!(file_type, FileType::Regular | FileType::Directory),
        };
        if mapped {
            if extents {
                flags |= InodeFlags::EXTENTS.0;
            }
            edit.set_block(&root(extents, first).ok_or(ENOSPC)?);
        }
        edit.set_flags(InodeFlags(flags));
        match contents {
            Contents::Empty => {}
            Contents::Directory => edit.set_size(geo.block_size().into()),
            Contents::Target(target) => {
                edit.set_size(target.len() as u64);
                if !mapped {
                    let mut block = [0; I_BLOCK_SIZE];
                    put_bytes(&mut block, 0, target).ok_or(ENAMETOOLONG)?;
                    edit.set_block(&block);
                }
            }
        }
        if first.is_some() {
            let sectors = u64::from(geo.block_size() >> 9);
            edit.set_sectors(sectors).ok_or(EFBIG)?;
        }
        if let Some(device) = new
            .device
            .filter(|_| matches!(file_type, FileType::CharDevice | FileType::BlockDevice))
        {
            edit.set_device(device);
        }
        if let Some(xattrs) = xattrs {
            xattrs.fill(&mut edit);
        }
        edit.seal(ino);
        Ok(())
    }
}

/// The root of a map that has one block, or none; `None` if the block's number does not fit.
#[inline(never)]
fn root(extents: bool, first: Option<Pblk>) -> Option<Root> {
    match first {
        Some(pblk) => first_block(extents, pblk),
        None => Some(empty_root(extents)),
    }
}

impl NodePlan<'_> {
    /// The number of the inode.
    pub(crate) fn ino(&self) -> Ino {
        self.loan.ino()
    }

    /// What it will be.
    pub(crate) fn info(&self) -> &InodeInfo {
        &self.info
    }

    /// What [`apply`](Self::apply) takes of the transaction's credits.
    pub(crate) fn credits(&self) -> Credits {
        let own = self.block.as_ref();
        let own = own.map_or(0, |own| Loan::CREDITS.blocks + u32::from(own.1.is_some()));
        let mut credits = self.loan.credits();
        credits.blocks += 1 + own;
        match &self.xattrs {
            Some(xattrs) => credits.and(xattrs.credits()),
            None => credits,
        }
    }

    /// Puts the inode on the disk; `dtime` is the next orphan, or 0. What is given is entered into
    /// the table when the transaction is over. Does not sleep, and does not fail.
    pub(crate) fn apply(self, volume: &Ext4, tx: &mut Transaction<'_>, dtime: u32) -> NewInfo {
        let geo = &volume.sb.geo;
        let (ino, parent, owner) = (self.loan.ino(), self.parent, self.info.owner);
        // Its block of the table is zeroed by this, if nothing was there before.
        self.loan.apply(tx);
        if let Some(mut xattrs) = self.xattrs {
            xattrs.apply(volume, tx);
        }
        let mut done = true;
        if let Some((loan, planned)) = self.block.map(KBox::into_inner) {
            loan.apply(tx);
            if let Some(planned) = planned {
                let made = tx.edit(planned, |block| {
                    dir_edit::init_dir(block, ino, parent, geo)?;
                    dir_edit::seal(block, &owner, geo)
                });
                done &= made.is_ok();
            }
        }
        let (raw, offset) = (&self.raw[..], self.offset);
        let copied = tx.edit(self.table, |block| {
            put_bytes(block, offset, raw)?;
            if dtime != 0 {
                let mut edit = InodeEdit::new(block.get_mut(offset..)?, geo)?;
                edit.set_dtime(dtime);
                edit.seal(ino);
            }
            Some(())
        });
        if !done || copied.is_none() {
            kernel::warn_on!(true);
        }
        self.info.set_changed_in(tx.tid());
        self.info.set_map_changed_in(tx.tid());
        self.info
    }
}

impl Ext4 {
    /// Enters a new inode, which a transaction has put on the disk, into the table.
    pub(crate) fn enter_node(&self, new: NewInfo) -> InodeRef {
        let changed = new.changed_in();
        let info = self.enter(new);
        // It may be somebody else's, who has read the bytes.
        if let Some(tid) = changed.filter(|_| info.changed_in().is_none()) {
            info.set_changed_in(tid);
            info.set_map_changed_in(tid);
        }
        info
    }
}
