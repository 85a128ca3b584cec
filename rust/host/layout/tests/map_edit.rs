// SPDX-License-Identifier: GPL-2.0

//! Extent trees that were edited, against a model and the parser.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::edit::{large, Rng};
use layout_host::layout::extent_edit::*;
use layout_host::layout::extent_path::*;
use layout_host::layout::*;

/// What the blocks of a file are: where each lies, and whether it is unwritten.
type Model = BTreeMap<u32, (u64, bool)>;

/// What is only an edit of the root is the one edit of the plan, and what is not has a plan.
fn same_in_root(path: &ExtentPath<'_>, plan: &Result<ExtentPlan>, change: Result<RootChange>) {
    let mut plan = match (plan, &change) {
        (Ok(plan), Ok(_)) => *plan,
        (Err(planned), Err(error)) => return assert_eq!(planned, error),
        // It was for the plan to say.
        (Err(_), Ok(None)) => return,
        _ => panic!("{plan:?}, but {change:?}"),
    };
    let blocks = vec![Pblk(1); plan.new_blocks().into()];
    plan.place(&blocks).expect("as many as it needs");
    let edits: Vec<_> = plan.edits().collect();
    let in_root = path.depth() == 0 && edits.len() == 1;
    match change.expect("an edit, or none") {
        Some((edit, range)) => {
            assert!(in_root && range == plan.range());
            assert_eq!(format!("{edit:?}"), format!("{:?}", edits[0]));
        }
        None => assert!(!in_root, "{plan:?}"),
    }
}

/// The plan that `fill` makes.
fn planned(fill: impl FnOnce(&mut ExtentPlan) -> Result<()>) -> Result<ExtentPlan> {
    let mut plan = ExtentPlan::EMPTY;
    fill(&mut plan)?;
    Ok(plan)
}

fn planned_shrink(path: &ExtentPath<'_>) -> Result<Option<ExtentPlan>> {
    let mut plan = ExtentPlan::EMPTY;
    Ok(path.shrink(&mut plan)?.then_some(plan))
}

/// A file with an extent tree, and the blocks of the volume that hold it.
struct File {
    geo: Geometry,
    root: [u8; 60],
    blocks: BTreeMap<u64, Vec<u8>>,
    next: u64,
    /// How many entries a node is said to have room for; fewer make deeper trees.
    max: Option<u16>,
    model: Model,
    splits: usize,
}

const INO: Ino = Ino(12);

impl File {
    fn new(geo: Geometry, max: Option<u16>) -> Self {
        Self {
            geo,
            root: extent::EMPTY_ROOT,
            blocks: BTreeMap::new(),
            next: (1 << 33) + 7,
            max,
            model: Model::new(),
            splits: 0,
        }
    }

    /// Reads the way to a block.
    fn path(&self, lblk: Lblk) -> (Vec<Vec<u8>>, Vec<u64>) {
        let (mut nodes, mut at) = (vec![self.root.to_vec()], vec![0]);
        loop {
            let slices: Vec<&[u8]> = nodes.iter().map(Vec::as_slice).collect();
            let Some(next) = next_block(&slices, lblk, &self.geo).expect("the tree is sound")
            else {
                return (nodes, at);
            };
            nodes.push(self.blocks[&next.pblk.0].clone());
            at.push(next.pblk.0);
        }
    }

    /// Plans and applies; returns the range that was changed.
    fn edit(
        &mut self,
        lblk: Lblk,
        plan: impl FnOnce(&ExtentPath<'_>) -> Result<ExtentPlan>,
    ) -> Result<(u32, u32)> {
        let (nodes, at) = self.path(lblk);
        let slices: Vec<&[u8]> = nodes.iter().map(Vec::as_slice).collect();
        let geo = self.geo;
        let path = ExtentPath::new(&slices, lblk, &geo).expect("the tree is sound");
        let mut plan = plan(&path)?;
        assert!(plan.new_blocks() <= path.depth() + 1);
        self.splits += usize::from(plan.new_blocks());
        let fresh: Vec<Pblk> = (0..plan.new_blocks())
            .map(|i| Pblk(self.next + u64::from(i)))
            .collect();
        self.next += fresh.len() as u64;
        if !fresh.is_empty() {
            assert!(plan.place(&fresh[1..]).is_none());
            assert_eq!(plan.edits().count(), 0);
        }
        plan.place(&fresh).expect("enough blocks");
        let mut changed = BTreeSet::new();
        for edit in plan.edits() {
            match edit.target {
                Target::Level(0) => edit.apply(&mut self.root).expect("it is as planned"),
                Target::Level(level) => {
                    let level = usize::from(level);
                    changed.insert(at[level]);
                    let node = self.blocks.get_mut(&at[level]).expect("a node");
                    edit.apply(node).expect("it is as planned");
                }
                Target::Fresh(n) => {
                    let mut node = vec![0xee; 1024];
                    let source = &nodes[usize::from(edit.source)];
                    edit.make(source, &mut node).expect("it is as planned");
                    if let Some(max) = self.max {
                        let entries = u16::from_le_bytes([node[2], node[3]]);
                        node[4..6].copy_from_slice(&max.max(entries).to_le_bytes());
                    }
                    let pblk = fresh[usize::from(n)].0;
                    changed.insert(pblk);
                    assert!(self.blocks.insert(pblk, node).is_none());
                }
            }
        }
        for pblk in plan.freed_nodes() {
            assert!(!changed.contains(&pblk.0), "a freed node was edited");
            self.blocks.remove(&pblk.0).expect("a node");
        }
        let owner = self.geo.csum().owner(INO, 0);
        for pblk in changed {
            let node = self.blocks.get_mut(&pblk).expect("a node");
            seal(node, &owner, &self.geo).expect("it is sealed");
        }
        Ok((plan.range().0 .0, plan.range().1 .0))
    }

    fn map(&mut self, lblk: u32, len: u32, pblk: u64, unwritten: bool) -> Result<u32> {
        let (from, end) = self.edit(Lblk(lblk), |path| {
            let plan = planned(|plan| path.map(len, Pblk(pblk), unwritten, plan));
            same_in_root(path, &plan, path.map_in_root(len, Pblk(pblk), unwritten));
            plan
        })?;
        assert!(from == lblk && end > lblk && end <= lblk.saturating_add(len));
        for i in lblk..end {
            let old = self
                .model
                .insert(i, (pblk + u64::from(i - lblk), unwritten));
            assert_eq!(old, None, "block {i} was mapped");
        }
        Ok(end - lblk)
    }

    fn convert(&mut self, lblk: u32, len: u32, unwritten: bool) -> Result<u32> {
        let (from, end) = self.edit(Lblk(lblk), |path| {
            let plan = planned(|plan| path.convert(len, unwritten, plan));
            same_in_root(path, &plan, path.convert_in_root(len, unwritten));
            plan
        })?;
        assert!(from == lblk && end > lblk && end <= lblk.saturating_add(len));
        for i in lblk..end {
            let block = self.model.get_mut(&i).expect("it is mapped");
            assert_eq!(block.1, !unwritten);
            block.1 = unwritten;
        }
        Ok(end - lblk)
    }

    /// Unmaps a range from its end; returns where that stopped.
    fn unmap(&mut self, from: u32, until: u32, most: u16) -> Result<u32> {
        let mut freed = Vec::new();
        let (start, end) = self.edit(Lblk(until - 1), |path| {
            let plan = planned(|plan| path.unmap(Lblk(from), Lblk(until), most, plan))?;
            let (start, end) = plan.range();
            for extent in path.extents(start, end) {
                freed.push(extent?);
            }
            Ok(plan)
        })?;
        assert!(from <= start && start < end && end == until);
        assert!(freed.len() <= usize::from(most));
        let mut gone: Model = Model::new();
        for extent in freed {
            for i in 0..extent.len {
                let pblk = extent.pblk().expect("no hole").0 + u64::from(i);
                gone.insert(extent.lblk.0 + i, (pblk, extent.is_unwritten()));
            }
        }
        let mut expected = self.model.split_off(&start);
        self.model.append(&mut expected.split_off(&end));
        assert_eq!(gone, expected, "{start}..{end}");
        Ok(start)
    }

    fn unmap_all(&mut self, from: u32, until: u32, most: u16) -> Result<()> {
        let mut until = until;
        while until > from {
            until = self.unmap(from, until, most)?;
        }
        Ok(())
    }

    /// Takes a range out of the file: what is behind it moves to the front.
    fn collapse(&mut self, from: u32, len: u32) -> Result<()> {
        self.unmap_all(from, from + len, 3)?;
        let mut at = from + len;
        while at < u32::MAX {
            let delta = -i64::from(len);
            let (_, end) = self.edit(Lblk(at), |path| {
                planned(|plan| path.shift(Lblk(at), delta, plan))
            })?;
            assert!(end > at);
            at = end;
        }
        let moved = self.model.split_off(&from);
        self.model
            .extend(moved.into_iter().map(|(l, b)| (l - len, b)));
        Ok(())
    }

    /// Puts a hole into the file: what is behind its start moves to the end.
    fn insert(&mut self, from: u32, len: u32) -> Result<()> {
        self.edit(Lblk(from), |path| planned(|plan| path.split_at(plan)))?;
        let mut end = u32::MAX;
        while end > from {
            let last = Lblk(end - 1);
            let delta = i64::from(len);
            let (start, _) = self.edit(last, |path| {
                planned(|plan| path.shift(Lblk(from), delta, plan))
            })?;
            assert!(start < end && start >= from);
            end = start;
        }
        let moved = self.model.split_off(&from);
        self.model
            .extend(moved.into_iter().map(|(l, b)| (l + len, b)));
        Ok(())
    }

    fn depth(&self) -> u16 {
        u16::from_le_bytes([self.root[6], self.root[7]])
    }

    fn inode(&self) -> Inode {
        let mut raw = vec![0; usize::from(self.geo.inode_size())];
        let mut edit = InodeEdit::init(&mut raw, 32, &self.geo).expect("an inode");
        edit.set_mode(0o100_644);
        edit.set_links(1);
        edit.set_flags(InodeFlags::EXTENTS);
        edit.set_block(&self.root);
        edit.seal(INO);
        Inode::parse(&raw, INO, &self.geo).expect("it parses")
    }

    /// Looks a block up with the parser, and notes the nodes on the way.
    fn look_up(&self, inode: &Inode, lblk: u32, seen: &mut BTreeSet<u64>) -> Step {
        let mut step = map::start(inode, Lblk(lblk), &self.geo).expect("a root");
        while let Step::Descend(node) = step {
            let data = &self.blocks[&node.pblk.0];
            if seen.insert(node.pblk.0) {
                node.verify(data, &inode.owner, &self.geo)
                    .expect("a sound node");
            }
            step = node
                .step(data, Lblk(lblk), &self.geo)
                .expect("a sound node");
        }
        step
    }

    /// Compares the whole file with the model, and the nodes with those that are reached.
    fn check(&self) {
        let inode = self.inode();
        map::verify_root(&inode, &self.geo).expect("a sound root");
        let mut seen = BTreeSet::new();
        let mut found = Model::new();
        let mut at = 0;
        while at < u32::MAX {
            match self.look_up(&inode, at, &mut seen) {
                Step::Extent(e) => {
                    assert!(e.lblk.0 <= at);
                    let e = e.from(Lblk(at)).expect("it holds the block");
                    for i in 0..e.len {
                        let pblk = e.pblk().expect("no hole").0 + u64::from(i);
                        found.insert(at + i, (pblk, e.is_unwritten()));
                    }
                    at = e.end().0;
                }
                Step::Hole { until } => at = until.0,
                Step::Descend(_) => unreachable!(),
            }
        }
        assert!(found == self.model, "the tree is not what the model says");
        let nodes: BTreeSet<u64> = self.blocks.keys().copied().collect();
        assert_eq!(nodes, seen, "nodes leak or are missing");
        if self.model.is_empty() {
            assert_eq!(self.depth(), 0);
        }
    }

    /// Counts the extents.
    fn extents(&self) -> usize {
        let inode = self.inode();
        let (mut at, mut count) = (0, 0);
        while at < u32::MAX {
            at = match self.look_up(&inode, at, &mut BTreeSet::new()) {
                Step::Extent(e) => {
                    count += 1;
                    e.end().0
                }
                Step::Hole { until } => until.0,
                Step::Descend(_) => unreachable!(),
            };
        }
        count
    }
}

/// Does one random thing to a file of `size` blocks.
fn random_step(file: &mut File, rng: &mut Rng, size: u32) {
    let lblk = rng.below(u64::from(size)) as u32;
    let longest = if rng.one_in(4) { 60 } else { 4 };
    let len = 1 + rng.below(longest) as u32;
    let before = file.max.map(|_| (file.root, file.blocks.clone()));
    let step = rng.below(10);
    let result = match (file.model.get(&lblk), step) {
        (None, 0..=7) => {
            // Often where a neighbour continues.
            let near = |lblk: Option<u32>| lblk.and_then(|l| file.model.get(&l)).copied();
            let (pblk, unwritten) = match (near(lblk.checked_sub(1)), near(Some(lblk + 1))) {
                (Some((pblk, unwritten)), _) if rng.one_in(2) => (pblk + 1, unwritten),
                (_, Some((pblk, unwritten))) if rng.one_in(2) => (pblk - 1, unwritten),
                _ => (1000 + rng.below(1 << 33), rng.one_in(2)),
            };
            file.map(lblk, len, pblk, unwritten).map(drop)
        }
        (Some(&(_, unwritten)), 0..=6) => file.convert(lblk, len, !unwritten).map(drop),
        (_, 8) => {
            // Whatever is behind the file's usual size goes away, so that it does not grow for ever.
            file.unmap_all(size, u32::MAX, 9).expect("it shrinks");
            match rng.one_in(2) {
                true => file.collapse(lblk, len),
                false => file.insert(lblk, len),
            }
        }
        _ => {
            let until = (lblk + len).min(size);
            let most = 1 + rng.below(5) as u16;
            file.unmap_all(lblk, until, most)
        }
    };
    if let Err(e) = result {
        // Only trees that cannot grow are refused, and they stay as they were.
        assert!(e.to_string().contains("cannot grow deeper"), "{e}");
        let now = (file.root, file.blocks.clone());
        assert!(before == Some(now) || step == 8);
    }
}

#[test]
fn random_changes_are_what_the_model_says() {
    for (seed, size, max, rounds) in [
        (1, 300u32, None, 12_000),
        (2, 6000, None, 12_000),
        (3, 400, Some(6), 8000),
        (4, 3000, Some(5), 6000),
        (5, 20_000, Some(4), 4000),
    ] {
        let mut rng = Rng(seed);
        let mut file = File::new(large(), max);
        let mut deepest = 0;
        for round in 0..rounds {
            random_step(&mut file, &mut rng, size);
            deepest = deepest.max(file.depth());
            if round % (rounds / 60) == 0 {
                file.check();
            }
        }
        file.check();
        let enough = match max {
            None => 1,
            Some(_) => 3,
        };
        assert!(deepest >= enough, "seed {seed}: depth {deepest} only");
        file.unmap_all(0, u32::MAX, 7).expect("it shrinks");
        file.check();
        assert!(file.blocks.is_empty());
    }
}

#[test]
fn tens_of_thousands_of_extents() {
    let mut file = File::new(large(), None);
    let mut rng = Rng(7);
    let count = 30_000u32;
    // Each block of the file is an extent of its own, in an order that splits everywhere.
    for i in 0..count {
        let lblk = (i * 7919) % count * 2;
        file.map(lblk, 1, 1 << 20 | u64::from(rng.u32()) << 1, i % 3 == 0)
            .expect("it grows");
        if i % 10_000 == 0 {
            file.check();
        }
    }
    assert!(file.depth() >= 2);
    assert_eq!(file.extents(), count as usize);
    file.check();
    for _ in 0..3000 {
        random_step(&mut file, &mut rng, count * 2);
    }
    file.check();
    // In front of all, and behind all.
    let (root, model) = (file.root, file.model.clone());
    assert_ne!(root, extent::EMPTY_ROOT);
    assert!(!model.is_empty());
    file.unmap_all(0, 500, 1000).expect("it shrinks");
    file.map(100, 2, 5000, false).expect("it grows");
    file.map(3, 1, 9000, true).expect("it grows");
    assert_eq!(file.map(u32::MAX - 2, 5, 7000, false), Ok(2));
    file.check();
    file.unmap_all(0, u32::MAX, 1000).expect("it shrinks");
    file.check();
    assert!(file.blocks.is_empty());
}

#[test]
fn a_file_that_grows_at_its_end_has_full_nodes() {
    let mut file = File::new(large(), None);
    for i in 0..84 * 10 {
        file.map(i * 2, 1, 1000 + u64::from(i) * 3, false)
            .expect("it grows");
    }
    file.check();
    assert_eq!(file.depth(), 2);
    // Ten leaves, one index, and nothing that is half full.
    assert_eq!(file.blocks.len(), 11);
}

#[test]
fn extents_are_joined_up_to_their_limits() {
    for (unwritten, limit) in [(false, 32_768u32), (true, 32_767)] {
        for step in [1000u32, 32_767, 40_000] {
            let mut file = File::new(large(), None);
            let mut at = 0;
            while at < 100_000 {
                at += file
                    .map(at, step.min(100_000 - at), 5000 + u64::from(at), unwritten)
                    .expect("it grows");
            }
            file.check();
            let least = 100_000usize.div_ceil(limit as usize);
            assert!(file.extents() <= least + 1, "{} extents", file.extents());
            assert_eq!(file.depth(), 0);
        }
        // Joined with both neighbours, but only if one extent can be so long.
        for (total, expected) in [(limit, 1), (limit + 1, 2)] {
            let mut file = File::new(large(), None);
            file.map(0, 1000, 5000, unwritten).expect("it grows");
            let right = total - 1001;
            file.map(1001, right, 6001, unwritten).expect("it grows");
            file.map(1000, 1, 6000, unwritten).expect("it grows");
            file.check();
            assert_eq!(file.extents(), expected);
        }
    }
    // An unwritten extent of the largest size becomes a written one, and the other way round.
    let mut file = File::new(large(), None);
    assert_eq!(file.map(5, 50_000, 5000, false), Ok(32_768));
    assert_eq!(file.convert(5, 50_000, true), Ok(32_767));
    file.check();
    assert_eq!(file.convert(32_772, 1, true), Ok(1));
    assert_eq!(file.extents(), 2);
    assert_eq!(file.convert(5, 50_000, false), Ok(32_767));
    assert_eq!(file.convert(32_772, 1, false), Ok(1));
    file.check();
    assert_eq!(file.extents(), 1);
}

#[test]
fn pieces_of_an_extent() {
    let fresh = |unwritten| {
        let mut file = File::new(large(), None);
        file.map(100, 30, 5000, unwritten).expect("it grows");
        file
    };
    for (from, len, pieces) in [
        (100, 30, 1),
        (100, 5, 2),
        (125, 5, 2),
        (110, 3, 3),
        (120, 99, 2),
    ] {
        let mut file = fresh(true);
        file.convert(from, len, false).expect("it converts");
        file.check();
        assert_eq!(file.extents(), pieces, "{from} {len}");
        // Back again, it is one.
        file.convert(from, len, true).expect("it converts");
        file.check();
        assert_eq!(file.extents(), 1, "{from} {len}");
    }
    for (from, until, pieces) in [(100, 130, 0), (0, 110, 1), (120, 999, 1), (110, 111, 2)] {
        let mut file = fresh(false);
        file.unmap_all(from, until, 9).expect("it unmaps");
        file.check();
        assert_eq!(file.extents(), pieces, "{from} {until}");
    }
    let mut file = fresh(false);
    let refused = |result: Result<u32>| {
        let e = result.expect_err("a refusal");
        assert_eq!(e.kind, Kind::Corrupt);
    };
    refused(file.map(129, 1, 9000, false));
    refused(file.map(90, 1, 1, false));
    refused(file.map(90, 1, 1 << 40, false));
    refused(file.map(90, 0, 9000, false));
    refused(file.convert(100, 1, false));
    refused(file.convert(130, 1, true));
    refused(file.convert(100, 0, true));
    file.check();
    // What the next extent leaves is mapped, and joined.
    assert_eq!(file.map(90, 50, 4990, false), Ok(10));
    assert_eq!((file.extents(), file.model.len()), (1, 40));
}

#[test]
fn a_tree_shrinks_into_the_inode() {
    let mut file = File::new(large(), None);
    for i in 0..10u32 {
        file.map(i * 10, 1, 1000 + u64::from(i), false)
            .expect("it grows");
    }
    let shrink = |file: &mut File| -> bool {
        let mut done = true;
        let result = file.edit(Lblk(0), |path| match planned_shrink(path)? {
            Some(plan) => Ok(plan),
            None => {
                done = false;
                planned(|plan| path.unmap(Lblk(0), Lblk(0), 1, plan))
            }
        });
        result.expect("it is sound");
        done
    };
    assert!(!shrink(&mut file), "ten do not fit");
    file.unmap_all(5, 60, 9).expect("it unmaps");
    assert!(!shrink(&mut file), "five do not fit");
    file.unmap_all(60, 61, 9).expect("it unmaps");
    assert_eq!((file.depth(), file.extents()), (1, 4));
    assert!(shrink(&mut file));
    file.check();
    assert_eq!((file.depth(), file.blocks.len(), file.extents()), (0, 0, 4));
    assert!(!shrink(&mut file));
}

#[test]
fn what_was_cut_is_merged_again() {
    let mut file = File::new(large(), None);
    file.map(10, 20, 1000, false).expect("it maps");
    file.map(40, 5, 1030, false).expect("it maps");
    let end = |file: &File, at: u32| {
        let (nodes, _) = file.path(Lblk(at));
        let slices: Vec<&[u8]> = nodes.iter().map(Vec::as_slice).collect();
        let path = ExtentPath::new(&slices, Lblk(at), &file.geo).expect("it is sound");
        path.mapped_end().expect("it is sound").0
    };
    let ends = [5, 10, 35, 40, u32::MAX - 1].map(|at| end(&file, at));
    assert_eq!(ends, [0, 30, 30, 45, 45]);
    for at in [10, 15, 29, 30, 35] {
        file.edit(Lblk(at), |path| planned(|plan| path.split_at(plan)))
            .expect("it is cut");
        file.edit(Lblk(at), |path| planned(|plan| path.merge_at(plan)))
            .expect("it is merged");
        assert_eq!(file.extents(), 2, "{at}");
        file.check();
    }
    // What lies behind on the volume does not continue it, nor does a hole.
    file.edit(Lblk(40), |path| planned(|plan| path.merge_at(plan)))
        .expect("nothing happens");
    assert_eq!(file.extents(), 2);
}

#[test]
fn ranges_are_taken_out_and_put_in() {
    let mut file = File::new(large(), None);
    for i in 0..1000u32 {
        file.map(i * 4, 3, 1000 + u64::from(i) * 5, i % 5 == 0)
            .expect("it grows");
    }
    assert_eq!(file.depth(), 2);
    for (from, len) in [(0, 1), (5, 7), (1300, 2000), (0, 4), (100_000, 5)] {
        file.insert(from, len).expect("there is room");
        file.check();
        file.collapse(from + len / 2, len / 2)
            .expect("there is room");
        file.check();
        file.collapse(from, len - len / 2).expect("there is room");
        file.check();
    }
    file.collapse(10, 2000).expect("there is room");
    file.check();
    // Nothing moves to where something is, neither in the leaf nor in the ones beside it.
    let leaf = Lblk(800);
    let ends = std::cell::Cell::new((Lblk(0), Lblk(0)));
    let shift = |file: &mut File, from: Lblk, delta| {
        file.edit(leaf, |path| {
            let slack = planned(|plan| path.shift(Lblk(0), 0, plan))?;
            ends.set(slack.range());
            planned(|plan| path.shift(from, delta, plan))
        })
    };
    shift(&mut file, leaf, 0).expect("nothing moves");
    let (before, model) = ((file.root, file.blocks.clone()), file.model.clone());
    // Each extent is followed by one free block, and the one behind the leaf has not moved.
    for (from, delta) in [(leaf, -2), (leaf, 2), (Lblk(0), 2), (Lblk(0), -500)] {
        let e = shift(&mut file, from, delta).expect_err("a refusal");
        assert!(e.to_string().contains("no room to move"), "{e}");
    }
    assert!(before == (file.root, file.blocks.clone()));
    assert!(
        ends.get().0 > Lblk(0) && ends.get().1 < Lblk::END,
        "a leaf in the middle"
    );
    shift(&mut file, Lblk(0), 1).expect("there is room");
    shift(&mut file, Lblk(0), -1).expect("there is room");
    assert!(before == (file.root, file.blocks.clone()) && model == file.model);
    // The last block that a file can have is no way to beyond.
    file.map(u32::MAX - 5, 2, 7000, false).expect("it grows");
    let before = (file.root, file.blocks.clone());
    for (from, delta) in [
        (0, 4),
        (0, 1 << 32),
        (0, i64::MAX),
        (0, i64::MIN),
        (0, -(1 << 31)),
    ] {
        let last = Lblk(u32::MAX - 1);
        let e = file
            .edit(last, |path| {
                planned(|plan| path.shift(Lblk(from), delta, plan))
            })
            .expect_err("a refusal");
        assert_eq!(e.kind, Kind::Corrupt);
    }
    assert!(before == (file.root, file.blocks.clone()));
    file.edit(Lblk(u32::MAX - 1), |path| {
        planned(|plan| path.shift(Lblk(2_000_000), 3, plan))
    })
    .expect("there is room");
}

#[test]
fn wrong_bytes_never_panic() {
    let geo = large();
    let mut rng = Rng(11);
    let sound = {
        let mut file = File::new(geo, None);
        for i in 0..200 {
            file.map(i * 3, 2, 5000 + u64::from(i) * 7, i % 4 == 0)
                .expect("it grows");
        }
        file
    };
    let mut made = 0;
    for _ in 0..30_000 {
        let lblk = Lblk(match rng.one_in(3) {
            true => rng.wild() as u32,
            false => rng.below(700) as u32,
        });
        let (mut nodes, _) = sound.path(lblk);
        let at = rng.below(nodes.len() as u64) as usize;
        rng.mutate(&mut nodes[at]);
        let mut slices: Vec<&[u8]> = nodes.iter().map(Vec::as_slice).collect();
        if rng.one_in(20) {
            slices.truncate(1);
        }
        let _ = next_block(&slices, lblk, &geo);
        let Ok(path) = ExtentPath::new(&slices, lblk, &geo) else {
            continue;
        };
        let (a, b) = (Lblk(rng.wild() as u32), Lblk(rng.wild() as u32));
        let _ = path.extents(a, b).count();
        let _ = path.mapped_end();
        let plans = [
            planned(|plan| path.map(rng.wild() as u32, Pblk(rng.wild()), rng.one_in(2), plan)),
            planned(|plan| path.map(1, Pblk(5000), rng.one_in(2), plan)),
            planned(|plan| path.convert(rng.wild() as u32, rng.one_in(2), plan)),
            planned(|plan| path.unmap(a, b, rng.u32() as u16, plan)),
            planned(|plan| path.unmap(Lblk(0), Lblk::END, u16::MAX, plan)),
            planned(|plan| path.split_at(plan)),
            planned(|plan| path.merge_at(plan)),
            planned(|plan| path.shift(a, rng.wild() as i64, plan)),
            planned(|plan| path.shift(lblk, -3, plan)),
            planned_shrink(&path).and_then(|plan| plan.ok_or(Error::corrupt(""))),
        ];
        for mut plan in plans.into_iter().filter_map(Result::ok) {
            plan.place(&[Pblk(9000); 7]).expect("enough blocks");
            made += 1;
            for edit in plan.edits() {
                // What is no source is left alone; what looks like it is edited within its bytes.
                let source = usize::from(edit.source);
                let mut fresh = vec![0; 1024];
                let _ = edit.make(slices[source], &mut fresh);
                let mut other = slices[source].to_vec();
                rng.mutate(&mut other);
                other.truncate(rng.below(1100) as usize);
                let before = other.clone();
                if edit.apply(&mut other).is_none() {
                    assert_eq!(other, before);
                }
                if before[..before.len().min(1)] != [0x0a] {
                    assert_eq!(other, before);
                }
            }
        }
    }
    assert!(made > 10_000, "{made} plans");
}
