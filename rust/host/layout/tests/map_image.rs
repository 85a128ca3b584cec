// SPDX-License-Identifier: GPL-2.0

//! Files in images whose maps were edited, with the blocks taken from the bitmaps: e2fsck has nothing
//! to say of them, nor when the file is deleted.

mod common;

use std::collections::BTreeMap;

use common::edit::{fsck, Edited, Rng};
use common::{run, scratch, write, Image};
use layout_host::layout::bitmap::{clear_range, find_free, set_range};
use layout_host::layout::extent_edit::{seal, Target};
use layout_host::layout::group_edit::init_block_bitmap;
use layout_host::layout::*;

/// The plan that `fill` makes.
fn planned(fill: impl FnOnce(&mut ExtentPlan) -> Result<()>) -> Result<ExtentPlan> {
    let mut plan = ExtentPlan::EMPTY;
    fill(&mut plan)?;
    Ok(plan)
}

/// An image and a file in it.
struct Disk {
    image: Image,
    edited: Edited,
    ino: Ino,
    extents: bool,
    /// Blocks that the file takes, with those of its map.
    taken: u64,
    model: BTreeMap<u32, u64>,
    rng: Rng,
}

impl Disk {
    fn new(image: Image) -> Self {
        let inode = image.open().path("/file").expect("the file");
        Self {
            edited: Edited::load(&image),
            image,
            ino: inode.ino,
            extents: inode.data_map() == DataMap::Extents,
            taken: 0,
            model: BTreeMap::new(),
            rng: Rng(1),
        }
    }

    /// Changes the block bitmap of a group and counts it.
    fn bitmap(&mut self, group: Group, change: impl FnOnce(&mut [u8], &mut GroupEdit<'_>)) {
        let geo = self.edited.geo;
        let desc = self.edited.desc(group);
        let mut bitmap = self.edited.block(desc.block_bitmap).to_vec();
        let mut flags = desc.flags;
        if desc.has_flag(GroupDesc::BLOCK_UNINIT, &geo) {
            let free = init_block_bitmap(&mut bitmap, &desc, &geo);
            assert_eq!(free, Some(desc.free_clusters));
            flags &= !GroupDesc::BLOCK_UNINIT;
        }
        let raw = self.edited.desc_mut(group);
        let mut edit = GroupEdit::new(raw, group, &geo).expect("a descriptor");
        edit.set_flags(flags);
        change(&mut bitmap, &mut edit);
        edit.seal(Some(&bitmap), None).expect("it is sealed");
        self.edited
            .block_mut(desc.block_bitmap)
            .copy_from_slice(&bitmap);
    }

    /// Takes up to `most` blocks somewhere.
    fn take(&mut self, most: u32) -> (Pblk, u32) {
        let geo = self.edited.geo;
        let group = Group(self.rng.below(u64::from(geo.groups())) as u32);
        let bits = geo.group_clusters(group);
        let goal = self.rng.below(u64::from(bits)) as u32;
        let mut found = None;
        self.bitmap(group, |bitmap, edit| {
            let run = find_free(bitmap, bits, goal, 1, most).expect("room");
            set_range(bitmap, run.start, run.len).expect("it is free");
            edit.take_clusters(run.len).expect("it is free");
            found = Some(run);
        });
        let run = found.expect("a run");
        self.taken += u64::from(run.len);
        let first = geo.group_first_block(group).0;
        (Pblk(first + u64::from(run.start)), run.len)
    }

    fn give_back(&mut self, pblk: Pblk, len: u32) {
        let geo = self.edited.geo;
        for block in pblk.0..pblk.0 + u64::from(len) {
            let group = geo.group_of(Pblk(block)).expect("a group");
            let bit = (block - geo.group_first_block(group).0) as u32;
            self.bitmap(group, |bitmap, edit| {
                clear_range(bitmap, bit, 1).expect("it is in use");
                edit.return_clusters(1).expect("it is in use");
            });
        }
        self.taken -= u64::from(len);
    }

    fn inode(&mut self, change: impl FnOnce(&mut InodeEdit<'_>)) {
        let (geo, ino) = (self.edited.geo, self.ino);
        let mut edit = InodeEdit::new(self.edited.inode_mut(ino), &geo).expect("an inode");
        change(&mut edit);
        edit.seal(ino);
    }

    /// Counts what is free, for the superblock, and what the file takes; then e2fsck judges.
    fn judge(&mut self) {
        let geo = self.edited.geo;
        let sectors = self.taken << geo.block_bits() >> 9;
        let end = self
            .model
            .keys()
            .next_back()
            .map_or(0, |l| u64::from(*l) + 1);
        self.inode(|edit| {
            edit.set_sectors(sectors).expect("it can be kept");
            edit.set_size(end << geo.block_bits());
        });
        self.judge_free();
        // The parser finds what was mapped.
        let volume = self.image.open();
        let inode = volume.inode(self.ino).expect("the inode");
        let runs = volume.runs(&inode, Lblk::END).expect("the map reads");
        let found: BTreeMap<u32, u64> = runs
            .iter()
            .flat_map(|e| {
                let pblk = e.pblk().expect("no hole").0;
                (0..e.len).map(move |i| (e.lblk.0 + i, pblk + u64::from(i)))
            })
            .collect();
        assert!(found == self.model);
    }

    fn judge_free(&mut self) {
        let geo = self.edited.geo;
        let groups = (0..geo.groups()).map(|g| self.edited.desc(Group(g)));
        let (mut blocks, mut inodes) = (0, 0);
        for desc in groups {
            blocks += u64::from(desc.free_clusters);
            inodes += desc.free_inodes;
        }
        let csum = *geo.csum();
        let mut edit = SuperEdit::new(&mut self.edited.bytes[1024..]).expect("a superblock");
        edit.set_free_blocks(blocks);
        edit.set_free_inodes(inodes);
        edit.seal(&csum);
        self.edited.save(&self.image);
        fsck(&self.image);
    }

    /// Reads the way to a block: the map's blocks, and where they lie.
    fn path(&mut self, lblk: Lblk) -> (Vec<Vec<u8>>, Vec<Pblk>) {
        let (geo, ino) = (self.edited.geo, self.ino);
        let root = self.edited.inode(ino).block;
        let (mut nodes, mut at) = (vec![root.to_vec()], vec![Pblk(0)]);
        loop {
            let slices: Vec<&[u8]> = nodes.iter().map(Vec::as_slice).collect();
            let next = match self.extents {
                true => extent_path::next_block(&slices, lblk, &geo),
                false => indirect_edit::next_block(&slices, lblk, &geo),
            };
            let Some(next) = next.expect("the map is sound") else {
                return (nodes, at);
            };
            nodes.push(self.edited.block(next.pblk).to_vec());
            at.push(next.pblk);
        }
    }

    /// Applies the edits of a plan: `apply` is given an edit's number, its source and its target.
    fn apply(
        &mut self,
        at: &[Pblk],
        fresh: &[Pblk],
        targets: &[Target],
        mut apply: impl FnMut(usize, &mut [u8]) -> Option<()>,
    ) {
        let (geo, ino) = (self.edited.geo, self.ino);
        let owner = self.edited.inode(ino).owner;
        for (i, target) in targets.iter().enumerate() {
            let pblk = match target {
                Target::Level(0) => {
                    self.inode(|edit| {
                        let block = edit.block_mut().expect("it has one");
                        apply(i, block).expect("it is as planned");
                    });
                    continue;
                }
                Target::Level(level) => at[usize::from(*level)],
                Target::Fresh(n) => fresh[usize::from(*n)],
            };
            let node = self.edited.block_mut(pblk);
            apply(i, node).expect("it is as planned");
            if self.extents {
                seal(node, &owner, &geo).expect("it is sealed");
            }
        }
    }

    fn extent_edit(
        &mut self,
        lblk: Lblk,
        plan: impl FnOnce(&ExtentPath<'_>) -> Result<ExtentPlan>,
    ) -> (u32, u32) {
        let geo = self.edited.geo;
        let (nodes, at) = self.path(lblk);
        let slices: Vec<&[u8]> = nodes.iter().map(Vec::as_slice).collect();
        let path = ExtentPath::new(&slices, lblk, &geo).expect("the tree is sound");
        let mut plan = plan(&path).expect("it can be done");
        let fresh: Vec<Pblk> = (0..plan.new_blocks()).map(|_| self.take(1).0).collect();
        plan.place(&fresh).expect("enough blocks");
        let edits: Vec<_> = plan.edits().collect();
        let targets: Vec<_> = edits.iter().map(|e| e.target).collect();
        self.apply(&at, &fresh, &targets, |i, node| match targets[i] {
            Target::Level(_) => edits[i].apply(node),
            Target::Fresh(_) => edits[i].make(&nodes[usize::from(edits[i].source)], node),
        });
        for pblk in plan.freed_nodes() {
            self.give_back(pblk, 1);
        }
        (plan.range().0 .0, plan.range().1 .0)
    }

    fn indirect_edit(
        &mut self,
        lblk: Lblk,
        plan: impl FnOnce(&IndirectPath<'_>) -> Result<IndirectPlan>,
    ) -> (u32, u32) {
        let geo = self.edited.geo;
        let (nodes, at) = self.path(lblk);
        let slices: Vec<&[u8]> = nodes.iter().map(Vec::as_slice).collect();
        let path = IndirectPath::new(&slices, lblk, &geo).expect("the map is sound");
        let mut plan = plan(&path).expect("it can be done");
        let fresh: Vec<Pblk> = (0..plan.new_blocks()).map(|_| self.take(1).0).collect();
        plan.place(&fresh).expect("enough blocks");
        let edits: Vec<_> = plan.edits().collect();
        let targets: Vec<_> = edits.iter().map(|e| e.target).collect();
        self.apply(&at, &fresh, &targets, |i, node| match targets[i] {
            Target::Level(_) => edits[i].apply(node),
            Target::Fresh(_) => edits[i].make(node),
        });
        for pblk in plan.freed_nodes() {
            self.give_back(pblk, 1);
        }
        (plan.range().0 .0, plan.range().1 .0)
    }

    fn map(&mut self, lblk: u32, len: u32) {
        let (pblk, got) = self.take(len);
        let unwritten = self.rng.one_in(3);
        let (_, end) = match self.extents {
            true => self.extent_edit(Lblk(lblk), |path| {
                planned(|plan| path.map(got, pblk, unwritten, plan))
            }),
            false => self.indirect_edit(Lblk(lblk), |path| path.map(got, pblk)),
        };
        let used = end - lblk;
        for i in 0..used {
            self.model.insert(lblk + i, pblk.0 + u64::from(i));
        }
        if used < got {
            self.give_back(Pblk(pblk.0 + u64::from(used)), got - used);
        }
    }

    fn convert(&mut self, lblk: u32) {
        let len = 1 + self.rng.below(5) as u32;
        self.extent_edit(Lblk(lblk), |path| {
            planned(|plan| path.convert(len, false, plan))
                .or_else(|_| planned(|plan| path.convert(len, true, plan)))
        });
    }

    fn unmap(&mut self, from: u32, until: u32) {
        let mut until = until;
        while until > from {
            let mut gone = Vec::new();
            let last = Lblk(until - 1);
            let (start, _) = match self.extents {
                true => self.extent_edit(last, |path| {
                    let plan = planned(|plan| path.unmap(Lblk(from), Lblk(until), 5, plan))?;
                    gone = path.extents(plan.range().0, plan.range().1).collect();
                    Ok(plan)
                }),
                false => self.indirect_edit(last, |path| {
                    let plan = path.unmap(Lblk(from), Lblk(until), 5)?;
                    gone = path.extents(plan.range().0, plan.range().1).collect();
                    Ok(plan)
                }),
            };
            for extent in gone {
                let extent = extent.expect("it is sound");
                self.give_back(extent.pblk().expect("no hole"), extent.len);
            }
            let mut kept = self.model.split_off(&start);
            self.model.append(&mut kept.split_off(&until));
            until = start;
        }
    }

    /// Deletes the file, whose name debugfs takes away.
    fn delete(mut self) {
        let geo = self.edited.geo;
        let last = self.model.keys().next_back().copied();
        self.unmap(0, last.map_or(0, |lblk| lblk + 1));
        assert_eq!(self.taken, 0);
        self.inode(|edit| edit.clear(1_700_000_000));
        let (group, index) = geo.inode_index(self.ino).expect("an inode");
        let desc = self.edited.desc(group);
        let mut bitmap = self.edited.block(desc.inode_bitmap).to_vec();
        clear_range(&mut bitmap, index, 1).expect("it is in use");
        self.edited
            .block_mut(desc.inode_bitmap)
            .copy_from_slice(&bitmap);
        let raw = self.edited.desc_mut(group);
        let mut edit = GroupEdit::new(raw, group, &geo).expect("a descriptor");
        edit.return_inode(false).expect("it is in use");
        edit.seal(None, Some(&bitmap)).expect("it is sealed");
        self.edited.save(&self.image);
        self.image.change(&["unlink /file"]);
        self.edited = Edited::load(&self.image);
        self.judge_free();
        assert!(self.image.open().path("/file").is_err());
    }
}

#[test]
fn e2fsck_agrees_with_maps_and_bitmaps() {
    let dir = scratch("map-image");
    let src = dir.join("source");
    std::fs::create_dir(&src).expect("a directory");
    write(src.join("file"), b"");
    for (options, size, span) in [
        ("-t ext4 -b 1024", 40 << 20, 60_000u64),
        ("-t ext4 -b 4096", 160 << 20, 4_000_000),
        (
            "-t ext4 -b 1024 -g 2048 -O ^metadata_csum,uninit_bg,^flex_bg",
            20 << 20,
            6000,
        ),
        ("-t ext2 -b 1024", 40 << 20, 200_000),
        ("-t ext4 -b 4096 -O ^extent,^64bit", 160 << 20, 3_000_000),
    ] {
        let image = Image::make(&dir, size, options, Some(&src));
        let mut disk = Disk::new(image);
        assert_eq!(
            disk.extents,
            !options.contains("^extent") && !options.contains("ext2")
        );
        for round in 0..2000 {
            let lblk = match round % 3 {
                0 => disk.rng.below(span / 50) as u32,
                _ => disk.rng.below(span) as u32,
            };
            if disk.rng.one_in(7) {
                let len = disk.rng.below(span / 100) as u32;
                disk.unmap(lblk, lblk + len);
            } else if !disk.model.contains_key(&lblk) {
                let len = 1 + disk.rng.below(6) as u32;
                disk.map(lblk, len);
            } else if disk.extents {
                disk.convert(lblk);
            }
            if round % 500 == 499 {
                disk.judge();
            }
        }
        assert!(
            disk.model.len() > 500,
            "{options}: {} blocks",
            disk.model.len()
        );
        // What e2fsck would say, if a block were counted that the file has not.
        let (pblk, len) = disk.take(3);
        disk.edited.save(&disk.image);
        run("e2fsck", &["-fn", disk.image.str()], &[4]);
        disk.give_back(pblk, len);
        disk.judge();
        disk.delete();
    }
}
