// SPDX-License-Identifier: GPL-2.0

//! Indirect maps that were edited, against a model and the parser.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::edit::{geo, large, Rng};
use layout_host::layout::extent_edit::Target;
use layout_host::layout::indirect_edit::*;
use layout_host::layout::*;

const INO: Ino = Ino(12);

/// A file with an indirect map, and the blocks of the volume that hold it.
struct File {
    geo: Geometry,
    root: [u8; 60],
    blocks: BTreeMap<u64, Vec<u8>>,
    next: u64,
    model: BTreeMap<u32, u64>,
}

impl File {
    fn new() -> Self {
        Self {
            geo: large(),
            root: [0; 60],
            blocks: BTreeMap::new(),
            next: 0xff00_0000,
            model: BTreeMap::new(),
        }
    }

    fn edit(
        &mut self,
        lblk: Lblk,
        plan: impl FnOnce(&IndirectPath<'_>) -> Result<IndirectPlan>,
    ) -> Result<(u32, u32)> {
        let geo = self.geo;
        let (mut nodes, mut at) = (vec![self.root.to_vec()], vec![0]);
        loop {
            let slices: Vec<&[u8]> = nodes.iter().map(Vec::as_slice).collect();
            let Some(next) = next_block(&slices, lblk, &geo)? else {
                break;
            };
            assert!(next.first <= lblk && lblk < next.end);
            if nodes.len() > 1 {
                assert!(IndirectPath::new(&slices[..1], lblk, &geo).is_err());
            }
            nodes.push(self.blocks[&next.pblk.0].clone());
            at.push(next.pblk.0);
        }
        let slices: Vec<&[u8]> = nodes.iter().map(Vec::as_slice).collect();
        let path = IndirectPath::new(&slices, lblk, &geo).expect("the map is sound");
        let mut plan = plan(&path)?;
        let fresh: Vec<Pblk> = (0..plan.new_blocks())
            .map(|i| Pblk(self.next + u64::from(i)))
            .collect();
        self.next += fresh.len() as u64;
        plan.place(&fresh).expect("enough blocks");
        for edit in plan.edits() {
            match edit.target {
                Target::Level(0) => edit.apply(&mut self.root).expect("it is as planned"),
                Target::Level(level) => {
                    let node = self.blocks.get_mut(&at[usize::from(level)]);
                    edit.apply(node.expect("a block"))
                        .expect("it is as planned");
                }
                Target::Fresh(n) => {
                    let mut node = vec![0xee; 1024];
                    edit.make(&mut node).expect("it is as planned");
                    self.blocks.insert(fresh[usize::from(n)].0, node);
                }
            }
        }
        for pblk in plan.freed_nodes() {
            self.blocks.remove(&pblk.0).expect("a block");
        }
        Ok((plan.range().0 .0, plan.range().1 .0))
    }

    fn map(&mut self, lblk: u32, len: u32, pblk: u64) -> Result<u32> {
        let (from, end) = self.edit(Lblk(lblk), |path| path.map(len, Pblk(pblk)))?;
        assert!(from == lblk && end > lblk && end - lblk <= len);
        for i in lblk..end {
            let old = self.model.insert(i, pblk + u64::from(i - lblk));
            assert_eq!(old, None, "block {i} was mapped");
        }
        Ok(end - lblk)
    }

    fn unmap_all(&mut self, from: u32, until: u32, most: u16) {
        let mut until = until;
        while until > from {
            let mut freed = Vec::new();
            let (start, end) = self
                .edit(Lblk(until - 1), |path| {
                    let plan = path.unmap(Lblk(from), Lblk(until), most)?;
                    let (start, end) = plan.range();
                    for extent in path.extents(start, end) {
                        freed.push(extent?);
                    }
                    Ok(plan)
                })
                .expect("the map is sound");
            assert!(from <= start && start < end && end == until);
            assert!(freed.len() <= usize::from(most));
            let gone: BTreeMap<u32, u64> = freed
                .iter()
                .flat_map(|e| {
                    let pblk = e.pblk().expect("no hole").0;
                    (0..e.len).map(move |i| (e.lblk.0 + i, pblk + u64::from(i)))
                })
                .collect();
            let mut expected = self.model.split_off(&start);
            self.model.append(&mut expected.split_off(&end));
            assert_eq!(gone, expected, "{start}..{end}");
            until = start;
        }
    }

    /// Compares the whole file with the model, and the blocks with those that are reached.
    fn check(&self) {
        let mut raw = vec![0; usize::from(self.geo.inode_size())];
        let mut edit = InodeEdit::init(&mut raw, 32, &self.geo).expect("an inode");
        edit.set_mode(0o100_644);
        edit.set_links(1);
        edit.set_block(&self.root);
        edit.seal(INO);
        let inode = Inode::parse(&raw, INO, &self.geo).expect("it parses");
        map::verify_root(&inode, &self.geo).expect("a sound root");
        let (mut seen, mut found) = (BTreeSet::new(), BTreeMap::new());
        let mut at = 0;
        while at < u32::MAX {
            let mut step = map::start(&inode, Lblk(at), &self.geo).expect("a root");
            while let Step::Descend(node) = step {
                let data = &self.blocks[&node.pblk.0];
                if seen.insert(node.pblk.0) {
                    assert!(data.iter().any(|&b| b != 0), "an empty block was kept");
                    node.verify(data, &inode.owner, &self.geo)
                        .expect("a sound block");
                }
                step = node.step(data, Lblk(at), &self.geo).expect("a sound block");
            }
            match step {
                Step::Extent(e) => {
                    let e = e.from(Lblk(at)).expect("it holds the block");
                    for i in 0..e.len {
                        found.insert(at + i, e.pblk().expect("no hole").0 + u64::from(i));
                    }
                    at = e.end().0;
                }
                Step::Hole { until } => at = until.0,
                Step::Descend(_) => unreachable!(),
            }
        }
        assert!(found == self.model, "the map is not what the model says");
        let blocks: BTreeSet<u64> = self.blocks.keys().copied().collect();
        assert_eq!(blocks, seen, "blocks leak or are missing");
    }
}

/// With blocks of 1 KiB the trees start at blocks 12, 268 and 65,804, and end at 16,843,020.
const END: u32 = 16_843_020;

#[test]
fn random_changes_are_what_the_model_says() {
    let edges = [0u32, 12, 268, 524, 65_804, 66_060, 131_340, END];
    for seed in 0..3 {
        let mut file = File::new();
        let mut rng = Rng(seed);
        for round in 0..6000 {
            let edge = edges[rng.below(8) as usize];
            let lblk = match rng.below(3) {
                0 => rng.below(600) as u32,
                1 => (edge + rng.below(20) as u32).saturating_sub(10),
                _ => rng.below(u64::from(END)) as u32,
            };
            let len = 1 + rng.below(40) as u32;
            if lblk >= END {
                assert!(file.map(lblk, len, 5000).is_err());
            } else if rng.one_in(3) {
                let most = 1 + rng.below(4) as u16;
                file.unmap_all(lblk, (lblk + len * 3).min(END), most);
            } else if file.model.contains_key(&lblk) {
                assert!(file.map(lblk, len, 5000).is_err());
            } else {
                let near = lblk.checked_sub(1).and_then(|l| file.model.get(&l));
                let pblk = near.map_or(2000 + rng.below(0xf000_0000), |p| p + 1);
                file.map(lblk, len, pblk).expect("it is mapped");
            }
            if round % 200 == 0 {
                file.check();
            }
        }
        file.check();
        file.unmap_all(0, END, 9);
        file.check();
        assert!(file.blocks.is_empty() && file.root == [0; 60]);
    }
}

#[test]
fn what_a_pointer_cannot_say_is_refused() {
    let mut file = File::new();
    assert!(file.map(0, 2, u64::from(u32::MAX)).is_err());
    assert!(file.map(0, 0, 5000).is_err());
    assert!(file.map(0, 1, 0).is_err());
    assert_eq!(file.map(0, 1, u64::from(u32::MAX)), Ok(1));
    assert_eq!(
        file.map(2, 100, 5000),
        Ok(10),
        "the inode has twelve pointers"
    );
    assert_eq!(
        file.map(10_000, 10_000, 6000),
        Ok(252),
        "and a block has 256"
    );
    assert!(file.map(END, 1, 5000).is_err());
    assert!(file.map(u32::MAX, 1, 5000).is_err());
    file.check();
    let slices: [&[u8]; 1] = [&file.root];
    let path = IndirectPath::new(&slices, Lblk(70_000), &file.geo).expect("a path");
    let mut plan = path.map(1, Pblk(7000)).expect("it can be mapped");
    assert_eq!(plan.new_blocks(), 3);
    assert!(plan.place(&[Pblk(8000), Pblk(8001)]).is_none());
    assert!(plan.place(&[Pblk(1 << 32), Pblk(1), Pblk(2)]).is_none());
    assert_eq!(plan.edits().count(), 0);
    plan.place(&[Pblk(8000), Pblk(8001), Pblk(8002)])
        .expect("enough");
    // The pointer that is to be set is no hole any more.
    let edit = plan.edits().next().expect("an edit");
    let mut root = [0xff; 60];
    assert!(edit.apply(&mut root).is_none());
    assert_eq!(root, [0xff; 60]);
}

/// Maps with blocks of 8 KiB reach beyond the largest block number that a file has.
#[test]
fn the_last_block_of_a_file_is_the_end() {
    let geo = geo(3, Incompat::FILETYPE, RoCompat::HUGE_FILE);
    let root = [0; 60];
    let last = Lblk(u32::MAX - 2);
    let path = IndirectPath::new(&[&root], last, &geo).expect("a path");
    let plan = path.map(5, Pblk(100)).expect("it can be mapped");
    assert_eq!(plan.range(), (last, Lblk::END));
    let plan = path.unmap(Lblk(0), Lblk::END, 9).expect("it is a hole");
    assert_eq!(plan.range().1, Lblk::END);
}

#[test]
fn wrong_bytes_never_panic() {
    let geo = large();
    let mut rng = Rng(9);
    for _ in 0..20_000 {
        let mut root = [0; 60];
        rng.mutate(&mut root);
        let mut block = vec![0; 1024];
        rng.mutate(&mut block);
        let lblk = Lblk(rng.wild() as u32);
        let mut nodes: Vec<&[u8]> = vec![&root];
        while let Ok(Some(_)) = next_block(&nodes, lblk, &geo) {
            nodes.push(&block);
        }
        let Ok(path) = IndirectPath::new(&nodes, lblk, &geo) else {
            continue;
        };
        let _ = path.map(rng.wild() as u32, Pblk(rng.wild()));
        let until = Lblk(rng.wild() as u32);
        let _ = path.extents(Lblk(0), until).count();
        if let Ok(mut plan) = path.unmap(Lblk(rng.wild() as u32), until, rng.u32() as u16) {
            plan.place(&[]).expect("no block is needed");
            for edit in plan.edits() {
                let _ = edit.apply(&mut vec![1; rng.below(1100) as usize]);
            }
        }
    }
}
