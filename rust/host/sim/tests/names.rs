// SPDX-License-Identifier: GPL-2.0

//! Names come, go and move, on volumes of all kinds: the tree is what a model says, whatever fails.

use aext4::{Ext4, InodeInfo, InodeRef, NewInode, Options, Rename, XattrFlags};
use kernel::machine::{self, Config, Fail, Rng};
use kernel::prelude::*;
use layout::{DataMap, Device, FileType, Ino};
use sim::e2fs::{run, Image, Scratch};
use sim::volume::Volume;
use sim::{dropped_after, simulate, simulate_on, Bed};
use simdisk::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use upcall::block_on;
use upcall::simulation::jitter;

const CRC: layout::CrcFns = layout::CrcFns {
    crc32c: disk::checksum::crc32c,
    crc16: disk::checksum::crc16,
};

/// What is made, and what e2fsprogs is told to make for it.
const KINDS: [&str; 10] = [
    "-b 4096",
    "-b 1024",
    "-b 4096 -O ^has_journal",
    "-b 1024 -O ^metadata_csum,^64bit",
    "-b 1024 -O ^extent,^64bit -I 128",
    "-b 1024 -O ^dir_index",
    "-b 2048 -O ^filetype,^metadata_csum",
    "-b 1024 -I 512 -O inline_data",
    "-b 1024 -r 0 -O none",
    "-b 4096 -O metadata_csum_seed,project,ea_inode,large_dir -I 256",
];

/// What an inode is, in the model.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Dir(BTreeMap<Vec<u8>, usize>),
    File,
    Link(Vec<u8>),
    Node(FileType, Option<(u32, u32)>),
}

/// A tree of names.
#[derive(Clone, Debug)]
struct Model {
    nodes: BTreeMap<usize, (Kind, u32)>,
    next: usize,
}

impl Model {
    /// An empty tree, with "lost+found".
    fn new() -> Self {
        let mut model = Self {
            nodes: BTreeMap::new(),
            next: 0,
        };
        model.node(Kind::Dir(BTreeMap::new()));
        model.add(0, b"lost+found", Kind::Dir(BTreeMap::new()));
        model
    }

    fn node(&mut self, kind: Kind) -> usize {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, (kind, 0));
        id
    }

    fn dir(&mut self, id: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.nodes.get_mut(&id).expect("a node").0 {
            Kind::Dir(names) => names,
            other => panic!("{other:?} is no directory"),
        }
    }

    fn names(&self, id: usize) -> &BTreeMap<Vec<u8>, usize> {
        match &self.nodes[&id].0 {
            Kind::Dir(names) => names,
            other => panic!("{other:?} is no directory"),
        }
    }

    fn is_dir(&self, id: usize) -> bool {
        matches!(self.nodes[&id].0, Kind::Dir(_))
    }

    fn add(&mut self, dir: usize, name: &[u8], kind: Kind) -> usize {
        let id = self.node(kind);
        self.link(dir, name, id);
        id
    }

    fn link(&mut self, dir: usize, name: &[u8], id: usize) {
        assert!(self.dir(dir).insert(name.to_vec(), id).is_none());
        self.nodes.get_mut(&id).unwrap().1 += 1;
    }

    fn unlink(&mut self, dir: usize, name: &[u8]) -> usize {
        let id = self.dir(dir).remove(name).expect("a name");
        let links = &mut self.nodes.get_mut(&id).unwrap().1;
        *links -= 1;
        id
    }

    /// Whether `id` is `of`, or in it.
    fn is_below(&self, id: usize, of: usize) -> bool {
        id == of
            || match &self.nodes[&of].0 {
                Kind::Dir(names) => names.values().any(|child| self.is_below(id, *child)),
                _ => false,
            }
    }

    /// All of it, in words.
    fn dump(&self) -> String {
        let mut out = String::new();
        let mut first = BTreeMap::new();
        self.dump_dir(0, "", &mut first, &mut out);
        out
    }

    fn dump_dir(
        &self,
        id: usize,
        path: &str,
        first: &mut BTreeMap<usize, String>,
        out: &mut String,
    ) {
        for (name, child) in self.names(id) {
            let path = format!("{path}/{}", String::from_utf8_lossy(name));
            let (kind, links) = &self.nodes[child];
            let (what, links) = match kind {
                Kind::Dir(names) => {
                    let dirs = names.values().filter(|id| self.is_dir(**id)).count();
                    ("Directory".to_string(), 2 + dirs as u32)
                }
                Kind::File => ("Regular".to_string(), *links),
                Kind::Link(to) => (format!("Symlink {}", String::from_utf8_lossy(to)), *links),
                Kind::Node(what, device) => (format!("{what:?} {device:?}"), *links),
            };
            let same = first.entry(*child).or_insert_with(|| path.clone());
            writeln!(out, "{path}: {what}, {links} links, {same}").unwrap();
            if self.is_dir(*child) {
                self.dump_dir(*child, &path, first, out);
            }
        }
    }
}

/// The tree of a volume, in the same words.
async fn dump(volume: &Volume) -> String {
    let mut out = String::new();
    let root = volume.0.iget(Ino::ROOT).await.expect("the root");
    let mut first = BTreeMap::new();
    let mut dirs = vec![(String::new(), root)];
    // Depth first, in the order of the names.
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    while let Some((path, dir)) = dirs.pop() {
        let mut names = BTreeSet::new();
        for (name, ino, _) in volume.entries(&dir).await.expect("a listing") {
            if name == b"." || name == b".." {
                continue;
            }
            assert!(
                names.insert(name.clone()),
                "{path}: {name:?} is there twice"
            );
            let node = volume.0.lookup(&dir, &name).await.expect("a look-up");
            let node = node.unwrap_or_else(|| panic!("{path}: {name:?} is not found"));
            assert_eq!(node.ino.0, ino);
            let path = format!("{path}/{}", String::from_utf8_lossy(&name));
            let inode = node.inode();
            let what = match node.file_type {
                FileType::Symlink => {
                    let mut target = Vec::new();
                    if node.has_fast_target() {
                        target.extend(node.inline.iter().take_while(|byte| **byte != 0));
                    } else {
                        target = target_of(volume, &node).await;
                    }
                    format!("Symlink {}", String::from_utf8_lossy(&target))
                }
                FileType::Regular | FileType::Directory => format!("{:?}", node.file_type),
                other => {
                    let device = inode.device.map(|device| (device.major, device.minor));
                    format!("{other:?} {device:?}")
                }
            };
            if node.is_dir() {
                let parent = volume.0.lookup(&node, b"..").await.expect("a look-up");
                assert_eq!(parent.expect("a parent").ino, dir.ino, "{path}/..");
                dirs.push((path.clone(), node.clone()));
            }
            lines.insert(path, format!("{what}, {} links, {}", inode.links, ino));
        }
    }
    // As a tree: a directory's names before what sorts behind it.
    let mut sorted: Vec<_> = lines.into_iter().collect();
    sorted.sort_by(|a, b| a.0.split('/').cmp(b.0.split('/')));
    for (path, line) in sorted {
        let (line, ino) = line.rsplit_once(' ').unwrap();
        let same = first
            .entry(ino.to_string())
            .or_insert_with(|| path.clone())
            .clone();
        writeln!(out, "{path}: {line} {same}").unwrap();
    }
    out
}

/// The target of a link that has it in a block.
async fn target_of(volume: &Volume, node: &InodeInfo) -> Vec<u8> {
    let extent = volume.0.map(node, layout::Lblk(0)).await.expect("a map");
    let pblk = extent.pblk().expect("a block");
    let run = volume.0.cache.read_run(pblk.0, 1).await.expect("a block");
    let data = run[0].data();
    let size = node.size() as usize;
    assert!(data[size..].iter().all(|byte| *byte == 0), "behind the end");
    data[..size].to_vec()
}

/// What a test does: a volume, its model, and the inodes by their numbers in the model.
struct World {
    volume: Volume,
    model: Model,
    inodes: BTreeMap<usize, InodeRef>,
    /// Inodes without names that are still in use, and whether they are files that never had one.
    open: Vec<(InodeRef, bool)>,
    rng: Rng,
    /// What the names begin with that it makes.
    prefix: &'static str,
    /// How many of the inodes are others', too, and stay where they are: the first.
    shared: usize,
    /// How often each result was seen.
    seen: BTreeMap<String, u32>,
}

fn new_inode(mode: u16) -> NewInode<'static> {
    NewInode {
        mode,
        uid: 1000,
        gid: 70_000,
        device: None,
        xattrs: &[],
    }
}

impl World {
    async fn new(volume: Volume, seed: u64) -> Self {
        let root = volume.0.iget(Ino::ROOT).await.expect("the root");
        let lost = volume
            .0
            .lookup(&root, b"lost+found")
            .await
            .unwrap()
            .unwrap();
        Self {
            volume,
            model: Model::new(),
            inodes: BTreeMap::from([(0, root), (1, lost)]),
            open: Vec::new(),
            rng: Rng::new(seed),
            prefix: "",
            shared: 2,
            seen: BTreeMap::new(),
        }
    }

    fn ext4(&self) -> kernel::sync::Arc<Ext4> {
        self.volume.0.clone()
    }

    /// A directory that has a name.
    fn some_dir(&mut self) -> usize {
        let dirs: Vec<usize> = self
            .model
            .nodes
            .iter()
            .filter(|(id, (kind, links))| {
                matches!(kind, Kind::Dir(_)) && (*links > 0 || **id == 0) && **id != 1
            })
            .map(|(id, _)| *id)
            .collect();
        dirs[self.rng.below(dirs.len() as u64) as usize]
    }

    fn some_name(&mut self, among: u64) -> Vec<u8> {
        let n = self.rng.below(among);
        // The length is told by the number.
        let len = 1 + (n * 7919) % 60;
        let mut name = format!("{}{n}-", self.prefix).into_bytes();
        name.resize(name.len() + len as usize, b'a' + (n % 26) as u8);
        name
    }

    /// A name that is in a directory.
    fn some_child(&mut self) -> Option<(usize, Vec<u8>, usize)> {
        let dir = self.some_dir();
        let names = self.model.names(dir);
        let count = names.len() as u64;
        if count == 0 {
            return None;
        }
        let (name, id) = names.iter().nth(self.rng.below(count) as usize).unwrap();
        (*id >= self.shared).then(|| (dir, name.clone(), *id))
    }

    /// Makes something, and says what must come of it.
    async fn make(&mut self, dir: usize, name: &[u8]) -> (Result, Result) {
        let exists = self.model.names(dir).contains_key(name);
        let expected = if exists { Err(EEXIST) } else { Ok(()) };
        let parent = self.inodes[&dir].clone();
        let ext4 = self.ext4();
        let block = ext4.sb.geo.block_size() as u64;
        let (kind, made) = match self.rng.below(10) {
            0..=2 => {
                let new = new_inode(0o100_640);
                (Kind::File, ext4.create(&parent, name, &new).await)
            }
            3..=5 => {
                let new = new_inode(0o040_750);
                (
                    Kind::Dir(BTreeMap::new()),
                    ext4.create(&parent, name, &new).await,
                )
            }
            6 | 7 => {
                let lens = [1, 59, 60, 61, block - 1];
                let len = lens[self.rng.below(5) as usize];
                let target = vec![b'a' + self.rng.below(26) as u8; len as usize];
                let made = ext4
                    .symlink(&parent, name, &target, &new_inode(0o777))
                    .await;
                (Kind::Link(target), made)
            }
            n => {
                let (mode, file_type) = [
                    (0o020_600, FileType::CharDevice),
                    (0o060_600, FileType::BlockDevice),
                    (0o010_600, FileType::Fifo),
                    (0o140_600, FileType::Socket),
                ][(self.rng.below(2) * 2 + n - 8) as usize];
                let is_device = mode < 0o100_000 && mode != 0o010_600;
                let device = is_device.then(|| {
                    let minors = [1, 300];
                    (7, minors[self.rng.below(2) as usize])
                });
                let mut new = new_inode(mode);
                new.device = device.map(|(major, minor)| Device { major, minor });
                (
                    Kind::Node(file_type, device),
                    ext4.create(&parent, name, &new).await,
                )
            }
        };
        let result = made.map(|made| {
            let id = self.model.add(dir, name, kind);
            self.inodes.insert(id, made);
        });
        (result, expected)
    }

    /// One operation. Gives what came of it, and what must have.
    async fn step(&mut self, among: u64) -> (&'static str, Result, Result) {
        let ext4 = self.ext4();
        match self.rng.below(23) {
            16..=19 => self.rename(among).await,
            20 => {
                let dir = self.some_dir();
                let new = new_inode(0o100_600);
                let made = ext4.tmpfile(&self.inodes[&dir], &new).await;
                let made = made.map(|made| {
                    assert!(made.is_deleted());
                    self.open.push((made, true));
                });
                ("tmpfile", made, Ok(()))
            }
            21 => {
                let Some(inode) = self.some_open() else {
                    return ("none", Ok(()), Ok(()));
                };
                ("let go", ext4.delete(inode.0).await, Ok(()))
            }
            22 => {
                // One that never had a name gets one.
                let Some(inode) = self.some_open() else {
                    return ("none", Ok(()), Ok(()));
                };
                if !inode.1 {
                    self.open.push(inode);
                    return ("none", Ok(()), Ok(()));
                }
                let dir = self.some_dir();
                let name = self.some_name(among);
                let there = self.model.names(dir).contains_key(&name);
                let expected = if there { Err(EEXIST) } else { Ok(()) };
                let parent = self.inodes[&dir].clone();
                let result = ext4.link(&parent, &name, &inode.0).await;
                match result {
                    Ok(()) => {
                        let id = self.model.add(dir, &name, Kind::File);
                        self.inodes.insert(id, inode.0);
                    }
                    Err(_) => self.open.push(inode),
                }
                ("link what had no name", result, expected)
            }
            0..=6 => {
                let dir = self.some_dir();
                let name = self.some_name(among);
                let (result, expected) = self.make(dir, &name).await;
                ("make", result, expected)
            }
            7 => {
                let Some((_, _, child)) = self.some_child() else {
                    return ("none", Ok(()), Ok(()));
                };
                let dir = self.some_dir();
                let name = self.some_name(among);
                let expected = if self.model.is_dir(child) {
                    Err(EPERM)
                } else if self.model.names(dir).contains_key(&name) {
                    Err(EEXIST)
                } else {
                    Ok(())
                };
                let (parent, inode) = (self.inodes[&dir].clone(), self.inodes[&child].clone());
                let result = ext4.link(&parent, &name, &inode).await;
                if result.is_ok() {
                    self.model.link(dir, &name, child);
                }
                ("link", result, expected)
            }
            8..=12 => {
                let Some((dir, mut name, mut child)) = self.some_child() else {
                    return ("none", Ok(()), Ok(()));
                };
                // Sometimes another name, or another inode.
                let mut expected = Ok(());
                if self.rng.below(8) == 0 {
                    name = self.some_name(among);
                    expected = match self.model.names(dir).get(&name) {
                        None => Err(ENOENT),
                        Some(id) if *id == child => Ok(()),
                        Some(_) => Err(ESTALE),
                    };
                } else if self.rng.below(8) == 0 {
                    let other = self.some_child().map(|(_, _, id)| id);
                    if let Some(other) = other.filter(|other| *other != child && *other != dir) {
                        child = other;
                        expected = Err(ESTALE);
                    }
                }
                let (parent, inode) = (self.inodes[&dir].clone(), self.inodes[&child].clone());
                let is_dir = self.model.is_dir(child);
                if is_dir && expected.is_ok() && !self.model.names(child).is_empty() {
                    expected = Err(ENOTEMPTY);
                }
                let wrong = self.rng.below(10) == 0;
                let result = if is_dir != wrong {
                    if wrong {
                        expected = Err(ENOTDIR);
                    }
                    ext4.rmdir(&parent, &name, &inode).await
                } else {
                    if wrong {
                        expected = Err(EISDIR);
                    }
                    ext4.unlink(&parent, &name, &inode).await
                };
                if result.is_ok() {
                    let id = self.model.unlink(dir, &name);
                    let gone = self.model.nodes[&id].1 == 0;
                    assert_eq!(inode.is_deleted(), gone);
                    if gone {
                        self.forget(id).await;
                    }
                }
                ("remove", result, expected)
            }
            13 => {
                let dir = self.some_dir();
                let parent = self.inodes[&dir].clone();
                let (name, expected): (&[u8], _) = match self.rng.below(5) {
                    0 => (b".", EEXIST),
                    1 => (b"..", EEXIST),
                    2 => (b"a/b", EINVAL),
                    3 => (&[b'n'; 256], ENAMETOOLONG),
                    _ => (b"", ENOENT),
                };
                let result = ext4.create(&parent, name, &new_inode(0o100_600)).await;
                ("bad name", result.map(drop), Err(expected))
            }
            _ => {
                let dir = self.some_dir();
                let name = self.some_name(among);
                let parent = self.inodes[&dir].clone();
                let found = ext4.lookup(&parent, &name).await.expect("a look-up");
                let known = self.model.names(dir).get(&name);
                let known = known.map(|id| self.inodes[id].ino);
                assert_eq!(found.map(|found| found.ino), known);
                ("look", Ok(()), Ok(()))
            }
        }
    }

    /// Moves something.
    async fn rename(&mut self, among: u64) -> (&'static str, Result, Result) {
        let Some((from, name, source)) = self.some_child() else {
            return ("none", Ok(()), Ok(()));
        };
        let to = match self.rng.below(3) {
            0 => from,
            _ => self.some_dir(),
        };
        let mut new_name = self.some_name(among);
        if self.rng.below(2) == 0 {
            let count = self.model.names(to).len() as u64;
            let at = self.rng.below(count.max(1)) as usize;
            if let Some(known) = self.model.names(to).keys().nth(at) {
                new_name = known.clone();
            }
        }
        let there = self.model.names(to).get(&new_name).copied();
        if there.is_some_and(|id| id < self.shared) {
            return ("none", Ok(()), Ok(()));
        }
        let mut target = there;
        if self.rng.below(10) == 0 {
            target = None;
        } else if self.rng.below(20) == 0 {
            target = self.some_child().map(|(_, _, id)| id);
        }
        let how = self.rng.below(6);
        let exchange = how == 0;
        let whiteout = (how == 1).then(|| new_inode(0o600));
        let model = &self.model;
        let is_dir = |id: usize| model.is_dir(id);
        let goes = target.filter(|id| is_dir(*id));
        let expected = if exchange && target.is_none() {
            Err(ENOENT)
        } else if source == to {
            Err(EINVAL)
        } else if goes.is_some_and(|id| id == from || id == to) {
            Err(if exchange { EINVAL } else { ENOTEMPTY })
        } else if from != to && is_dir(source) && model.is_below(to, source) {
            Err(EINVAL)
        } else if from != to && exchange && goes.is_some_and(|id| model.is_below(from, id)) {
            Err(EINVAL)
        } else if there.is_some() && target.is_none() {
            Err(EEXIST)
        } else if there != target {
            Err(ESTALE)
        } else if exchange || target == Some(source) {
            Ok(())
        } else {
            match target {
                Some(target) if is_dir(source) && !is_dir(target) => Err(ENOTDIR),
                Some(target) if !is_dir(source) && is_dir(target) => Err(EISDIR),
                Some(target) if is_dir(target) && !model.names(target).is_empty() => Err(ENOTEMPTY),
                _ => Ok(()),
            }
        };
        let ask = Rename {
            from: &self.inodes[&from].clone(),
            name: &name,
            source: &self.inodes[&source].clone(),
            to: &self.inodes[&to].clone(),
            new_name: &new_name,
            target: target.map(|id| &*self.inodes[&id]),
            exchange,
            whiteout: whiteout.as_ref(),
        };
        let result = self.ext4().rename(ask).await;
        if result.is_ok() && target != Some(source) {
            let gone = target.map(|_| self.model.unlink(to, &new_name));
            self.model.unlink(from, &name);
            self.model.link(to, &new_name, source);
            if let Some(gone) = gone.filter(|_| exchange) {
                self.model.link(from, &name, gone);
            }
            if whiteout.is_some() {
                let kind = Kind::Node(FileType::CharDevice, Some((0, 0)));
                let id = self.model.add(from, &name, kind);
                let parent = self.inodes[&from].clone();
                let found = self.ext4().lookup(&parent, &name).await.unwrap();
                self.inodes.insert(id, found.expect("the whiteout"));
            }
            if let Some(gone) = gone.filter(|gone| self.model.nodes[gone].1 == 0) {
                self.forget(gone).await;
            }
        }
        let what = match (exchange, whiteout.is_some(), from == to) {
            (true, _, false) => "exchange",
            (true, _, true) => "exchange in one directory",
            (_, true, _) => "rename with a whiteout",
            (_, _, false) => "rename",
            (_, _, true) => "rename in one directory",
        };
        (what, result, expected)
    }

    /// One of those in use without a name.
    fn some_open(&mut self) -> Option<(InodeRef, bool)> {
        let count = self.open.len() as u64;
        let at = self.rng.below(count.max(1)) as usize;
        (count > 0).then(|| self.open.remove(at))
    }

    /// The last user of something without a name lets go of it, soon.
    async fn forget(&mut self, id: usize) {
        self.model.nodes.remove(&id);
        let inode = self.inodes.remove(&id).expect("an inode");
        if self.rng.below(3) == 0 {
            if inode.is_dir() {
                // Nothing is made in it any more.
                let (ext4, new) = (self.ext4(), new_inode(0o100_600));
                let made = ext4.create(&inode, b"x", &new).await;
                assert_eq!(made.map(drop), Err(ENOENT));
            }
            self.open.push((inode, false));
            return;
        }
        self.ext4().delete(inode).await.expect("it is deleted");
    }

    /// Lets go of all.
    async fn let_go(&mut self) {
        while let Some((inode, _)) = self.some_open() {
            self.ext4().delete(inode).await.expect("it is deleted");
        }
    }

    async fn steps(&mut self, count: u64, among: u64) {
        for n in 0..count {
            let (what, result, expected) = self.step(among).await;
            assert_eq!(result, expected, "operation {n}, {what}");
            let seen = format!("{what}: {:?}", result.map_err(|error| error.to_errno()));
            *self.seen.entry(seen).or_default() += 1;
        }
    }
}

fn mount(bed: &Bed) -> Volume {
    let volume = block_on(Volume::mount(bed, Options::default())).expect("no deadlock");
    volume.expect("it mounts")
}

fn writable(bed: &Bed) -> Volume {
    let volume = mount(bed);
    let made = block_on(Ext4::make_writable(&volume.0)).expect("no deadlock");
    made.expect("it is writable");
    volume
}

/// Ends the writing. Gives what the disk has.
fn ended(bed: &Bed, volume: &Volume) -> Store {
    let ended = block_on(volume.0.make_read_only()).expect("no deadlock");
    ended.expect("it ends");
    bed.device.disk().durable().clone()
}

#[test]
fn names_are_what_a_model_says_on_every_kind_of_volume() {
    let dir = Scratch::new("names");
    let count = sim::count("NAMES_STEPS", 300);
    let mut seen = BTreeMap::new();
    for (n, options) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let (model, store) = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let mut world = block_on(World::new(volume.clone(), n as u64)).unwrap();
            block_on(world.steps(count, 40)).unwrap();
            block_on(world.let_go()).unwrap();
            let model = world.model.dump();
            assert_eq!(block_on(dump(&volume)).unwrap(), model, "{options}");
            for (what, times) in core::mem::take(&mut world.seen) {
                *seen.entry(what).or_insert(0) += times;
            }
            drop(world);
            let store = ended(bed, &volume);
            assert_eq!(machine::take_log(), Vec::<String>::new(), "{options}");
            (model, store)
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
        simulate(n as u64, store, |bed| {
            let volume = mount(bed);
            assert_eq!(block_on(dump(&volume)).unwrap(), model, "{options}");
        });
    }
    eprintln!("{seen:#?}");
    assert!(seen.len() > 10, "{seen:#?}");
}

/// What comes of a future within a second.
async fn timeout<T>(future: impl Future<Output = Option<T>>) -> Option<T> {
    let within = upcall::timeout(Duration::from_secs(1), future).await;
    within.ok().flatten()
}

/// How many levels the index of a directory has: 0 without one.
async fn levels(volume: &Volume, dir: &InodeInfo) -> u8 {
    if !dir.is_indexed() {
        return 0;
    }
    let extent = volume.0.map(dir, layout::Lblk(0)).await.expect("a map");
    let pblk = extent.pblk().expect("a block");
    let block = volume.0.block(pblk).await.expect("a block");
    let root = layout::DxRoot::parse(block.data(), &volume.0.sb.geo);
    root.expect("a root").levels + 1
}

/// Lets a directory have `count` names of one file, with some removed on the way. Gives the names.
async fn crowd(volume: &Volume, dir: &InodeInfo, count: usize, len: usize) -> BTreeSet<Vec<u8>> {
    let ext4 = &volume.0;
    let mut rng = Rng::new(count as u64);
    let file = ext4.create(dir, b"the file", &new_inode(0o100_600)).await;
    let file = file.expect("it is made");
    let mut names = BTreeSet::from([b"the file".to_vec()]);
    for n in 0..count {
        let mut name = format!("{n}-").into_bytes();
        name.resize(
            len.max(name.len()) - rng.below(len as u64 / 2) as usize,
            b'n',
        );
        ext4.link(dir, &name, &file).await.expect("there is room");
        assert_eq!(ext4.link(dir, &name, &file).await, Err(EEXIST));
        names.insert(name);
        if rng.one_in(7) {
            let at = rng.below(names.len() as u64) as usize;
            let name = names.iter().nth(at).expect("a name").clone();
            ext4.unlink(dir, &name, &file).await.expect("it goes");
            assert_eq!(ext4.unlink(dir, &name, &file).await, Err(ENOENT));
            names.remove(&name);
        }
    }
    assert_eq!(file.inode().links as usize, names.len());
    names
}

async fn listed(volume: &Volume, dir: &InodeInfo) -> BTreeSet<Vec<u8>> {
    let entries = volume.entries(dir).await.expect("a listing");
    let names = entries.into_iter().map(|(name, _, _)| name);
    names.filter(|name| name != b"." && name != b"..").collect()
}

/// Directories grow, on volumes made so, to so many levels of an index; and shrink.
fn grows(options: &str, size: u64, count: usize, len: usize, deep: u8) {
    let dir = Scratch::new(&format!("names-grow-{deep}-{count}-{}", options.len()));
    let image = Image::make(dir.path("image"), size, options);
    let (names, store) = simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        let names = block_on(async {
            let root = volume.0.iget(Ino::ROOT).await.unwrap();
            let new = new_inode(0o040_755);
            let dir = volume.0.create(&root, b"crowd", &new).await.unwrap();
            let names = crowd(&volume, &dir, count, len).await;
            assert_eq!(levels(&volume, &dir).await, deep, "{options}");
            assert!(listed(&volume, &dir).await == names, "{options}");
            names
        });
        (names.unwrap(), ended(bed, &volume))
    });
    let after = Image::write(dir.path("after"), &store);
    assert_eq!(after.is_clean(), Ok(()), "{options}");
    let store = simulate(2, store, |bed| {
        let volume = writable(bed);
        block_on(async {
            let dir = volume.path(b"crowd").await.unwrap();
            assert!(listed(&volume, &dir).await == names, "{options}");
            let file = volume.0.lookup(&dir, b"the file").await.unwrap();
            let file = match file {
                Some(file) => file,
                None => {
                    let name = names.first().unwrap();
                    volume.0.lookup(&dir, name).await.unwrap().unwrap()
                }
            };
            let root = volume.0.iget(Ino::ROOT).await.unwrap();
            assert_eq!(volume.0.rmdir(&root, b"crowd", &dir).await, Err(ENOTEMPTY));
            for name in &names {
                let found = volume.0.lookup(&dir, name).await.unwrap();
                assert_eq!(found.expect("it is there").ino, file.ino);
                volume.0.unlink(&dir, name, &file).await.expect("it goes");
            }
            assert!(listed(&volume, &dir).await.is_empty());
            volume.0.rmdir(&root, b"crowd", &dir).await.unwrap();
            for left in [file, dir] {
                assert!(left.is_deleted());
                volume.0.delete(left).await.unwrap();
            }
        })
        .unwrap();
        ended(bed, &volume)
    });
    let after = Image::write(dir.path("after"), &store);
    assert_eq!(after.is_clean(), Ok(()), "{options}");
}

#[test]
fn directories_grow_to_an_index_of_two_levels() {
    for (options, count, len, deep) in [
        ("-b 1024", 2500, 100, 2),
        ("-b 1024 -O ^metadata_csum,^64bit,^extent", 2500, 100, 2),
        ("-b 1024 -r 0 -O none", 500, 100, 0),
        ("-b 1024 -O ^dir_index", 2200, 60, 0),
        ("-b 4096", 3000, 100, 1),
        (
            "-b 4096 -O ^has_journal,^filetype,^metadata_csum",
            2000,
            100,
            1,
        ),
        ("-b 1024 -I 512 -O inline_data", 2500, 100, 2),
    ] {
        grows(options, 16 << 20, count, len, deep);
    }
}

#[test]
fn directories_grow_to_an_index_of_three_levels() {
    grows("-b 1024 -O large_dir", 96 << 20, 50_000, 250, 3);
}

#[test]
fn an_index_that_is_full_is_no_space() {
    // Without large_dir it has two levels.
    let dir = Scratch::new("names-full");
    let image = Image::make(dir.path("image"), 96 << 20, "-b 1024");
    let store = simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        let made = block_on(async {
            let root = volume.0.iget(Ino::ROOT).await.unwrap();
            let new = new_inode(0o040_755);
            let dir = volume.0.create(&root, b"crowd", &new).await.unwrap();
            let new = new_inode(0o100_600);
            let file = volume.0.create(&dir, b"file", &new).await.unwrap();
            for n in 0..65_000 {
                let mut name = format!("{n}-").into_bytes();
                name.resize(250, b'n');
                match volume.0.link(&dir, &name, &file).await {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error, ENOSPC);
                        let names = listed(&volume, &dir).await;
                        assert_eq!(names.len(), n + 1);
                        return n;
                    }
                }
            }
            panic!("there is always room");
        });
        assert!(made.unwrap() > 10_000);
        machine::take_log();
        ended(bed, &volume)
    });
    let after = Image::write(dir.path("after"), &store);
    assert_eq!(after.is_clean(), Ok(()));
}

#[test]
fn links_are_counted_as_far_as_they_can_be() {
    let dir = Scratch::new("names-links");
    // Without dir_nlink, or an index, directories are counted to the end.
    for (n, (options, most)) in [
        ("-b 1024 -N 70000 -I 128", None),
        ("-b 1024 -N 70000 -I 128 -O ^dir_nlink", Some(64_998)),
    ]
    .iter()
    .enumerate()
    {
        let image = Image::make(dir.path("image"), 112 << 20, options);
        let store = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            block_on(async {
                let root = volume.0.iget(Ino::ROOT).await.unwrap();
                let new = new_inode(0o040_755);
                let dir = volume.0.create(&root, b"dirs", &new).await.unwrap();
                let mut made = 0;
                for n in 0..65_100 {
                    let name = format!("{n}");
                    match volume.0.create(&dir, name.as_bytes(), &new).await {
                        Ok(_) => made += 1,
                        Err(error) => {
                            assert_eq!(error, EMLINK);
                            break;
                        }
                    }
                }
                match most {
                    None => {
                        assert_eq!((made, dir.inode().links), (65_100, 1));
                        let gone = volume.0.lookup(&dir, b"77").await.unwrap().unwrap();
                        volume.0.rmdir(&dir, b"77", &gone).await.unwrap();
                        volume.0.delete(gone).await.unwrap();
                        assert_eq!(dir.inode().links, 1);
                    }
                    Some(most) => assert_eq!((made, dir.inode().links), (*most, 65_000)),
                }
            })
            .unwrap();
            ended(bed, &volume)
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
    }
}

/// The names of the directories that tasks have in common.
const COMMON: [&[u8]; 3] = [b"common-0", b"common-1", b"common-2"];

#[test]
fn several_tasks_change_the_same_directories() {
    let dir = Scratch::new("names-tasks");
    for (n, options) in KINDS.iter().enumerate() {
        let image = Image::make(dir.path("image"), 32 << 20, options);
        let (models, store) = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let root = block_on(volume.0.iget(Ino::ROOT)).unwrap().unwrap();
            for name in COMMON {
                let new = new_inode(0o040_755);
                let made = volume.0.create(&root, name, &new);
                block_on(made).unwrap().unwrap();
            }
            drop(root);
            let mut tasks = Vec::new();
            for (at, prefix) in ["t0.", "t1.", "t2.", "t3."].iter().enumerate() {
                let volume = volume.clone();
                let seed = (n * 10 + at) as u64;
                let work = async move {
                    let mut world = World::new(volume.clone(), seed).await;
                    world.prefix = prefix;
                    for name in COMMON {
                        let id = world.model.add(0, name, Kind::Dir(BTreeMap::new()));
                        let node = volume.path(name).await.expect("it is there");
                        world.inodes.insert(id, node);
                    }
                    world.shared = 2 + COMMON.len();
                    for _ in 0..40 {
                        jitter().await;
                        world.steps(10, 120).await;
                    }
                    world.let_go().await;
                    world.model.dump()
                };
                tasks.push(bed.scope().spawn(work).expect("a task"));
            }
            let mut models = Vec::new();
            for task in tasks {
                models.push(block_on(task).unwrap().expect("it ends"));
            }
            let all = block_on(dump(&volume)).unwrap();
            for (at, model) in models.iter().enumerate() {
                assert_eq!(of_task(&all, at), of_task(model, at), "{options}");
            }
            (models, ended(bed, &volume))
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
        let all = simulate(n as u64, store, |bed| block_on(dump(&mount(bed))).unwrap());
        for (at, model) in models.iter().enumerate() {
            assert_eq!(of_task(&all, at), of_task(model, at), "{options}");
        }
    }
}

/// The lines of a tree that are of a task.
fn of_task(dump: &str, task: usize) -> Vec<&str> {
    let own = format!("/t{task}.");
    let path = |line: &str| line.split(": ").next().unwrap_or("").contains(&own);
    dump.lines().filter(|line| path(line)).collect()
}

#[test]
fn names_in_an_inode_move_to_a_block_when_they_are_too_many() {
    let dir = Scratch::new("names-inline");
    let source = dir.path("source");
    for name in COMMON {
        let path = source.join(std::str::from_utf8(name).unwrap());
        std::fs::create_dir_all(path).expect("a directory");
    }
    let from = source.to_str().unwrap();
    let (mut stayed, mut moved) = (0, 0);
    for n in 0..sim::count("NAMES_INLINE", 24) {
        let size = [256, 512, 1024][n as usize % 3];
        let more = ["", ",^metadata_csum", ",^extent,^64bit", ",^filetype"][n as usize % 4];
        let options = format!("-b 1024 -I {size} -O inline_data{more} -d {from}");
        let image = Image::make(dir.path("image"), 8 << 20, &options);
        let (model, store) = simulate(n, image.store(), |bed| {
            let volume = writable(bed);
            let mut world = block_on(World::new(volume.clone(), n)).unwrap();
            for name in COMMON {
                let id = world.model.add(0, name, Kind::Dir(BTreeMap::new()));
                let node = block_on(volume.path(name)).unwrap().expect("it is there");
                assert_eq!(node.data_map(), DataMap::Inline, "{options}");
                if n % 2 == 0 {
                    let value = [b'v'; 20];
                    let flags = XattrFlags::default();
                    let set = volume.0.set_xattr(&node, 1, b"kept", Some(&value), flags);
                    block_on(set).unwrap().expect("it is set");
                }
                world.inodes.insert(id, node);
            }
            world.shared = 2 + COMMON.len();
            block_on(world.steps(30 + n * 4, 30)).unwrap();
            for id in 2..world.shared {
                let node = &world.inodes[&id];
                match node.data_map() {
                    DataMap::Inline => stayed += 1,
                    _ => moved += 1,
                }
                if n % 2 == 0 {
                    let value = block_on(volume.0.xattr(node, 1, b"kept")).unwrap();
                    assert_eq!(&value.expect("it is kept")[..], [b'v'; 20]);
                }
            }
            block_on(world.let_go()).unwrap();
            let model = world.model.dump();
            assert_eq!(block_on(dump(&volume)).unwrap(), model, "{options}");
            drop(world);
            (model, ended(bed, &volume))
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
        let tree = simulate(n, store, |bed| block_on(dump(&mount(bed))).unwrap());
        assert_eq!(tree, model, "{options}");
    }
    assert!(stayed > 5 && moved > 5, "{stayed} {moved}");
}

#[test]
fn a_look_up_beside_a_split_finds_what_is_there() {
    let dir = Scratch::new("names-beside");
    // Without a journal what was changed is soon home, and leaves the memory.
    for (n, options) in [
        "-b 1024",
        "-b 1024 -O ^dir_index",
        "-b 1024 -O ^has_journal",
    ]
    .iter()
    .enumerate()
    {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let store = simulate(n as u64, image.store(), |bed| {
            let volume = writable(bed);
            let root = block_on(volume.0.iget(Ino::ROOT)).unwrap().unwrap();
            let new = new_inode(0o100_600);
            let file = block_on(volume.0.create(&root, b"file", &new))
                .unwrap()
                .unwrap();
            let new = new_inode(0o040_755);
            let dir = block_on(volume.0.create(&root, b"dir", &new))
                .unwrap()
                .unwrap();
            {
                // Who looks waits for who changes.
                let lock = dir.rwsem.try_write().expect("it is free");
                let look = dropped_after(5, volume.0.lookup(&dir, b"name"));
                assert!(block_on(timeout(look)).unwrap().is_none());
                let list = dropped_after(5, volume.entries(&dir));
                assert!(block_on(timeout(list)).unwrap().is_none());
                drop(lock);
            }
            let known = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
            let (made, ext4) = (known.clone(), volume.0.clone());
            let (to, ino) = (dir.clone(), file.ino);
            let adds = bed.scope().spawn(async move {
                for n in 0..400 {
                    let mut name = format!("{n}-").into_bytes();
                    name.resize(120, b'n');
                    ext4.link(&to, &name, &file).await.expect("there is room");
                    made.lock().unwrap().push(name);
                    jitter().await;
                    if n % 3 == 0 {
                        ext4.sync().await.expect("it is durable");
                    }
                }
            });
            let mut tasks = vec![adds.expect("a task")];
            for at in 0..3u64 {
                let (known, ext4, dir) = (known.clone(), volume.0.clone(), dir.clone());
                let looks = async move {
                    let mut rng = Rng::new(at);
                    for _ in 0..1500 {
                        jitter().await;
                        ext4.cache.shrink(1000);
                        let name = {
                            let known = known.lock().unwrap();
                            let count = known.len() as u64;
                            known.get(rng.below(count.max(1)) as usize).cloned()
                        };
                        let Some(name) = name else {
                            continue;
                        };
                        let found = ext4.lookup(&dir, &name).await.expect("a look-up");
                        assert_eq!(found.expect("it is there").ino, ino);
                    }
                };
                tasks.push(bed.scope().spawn(looks).expect("a task"));
            }
            for task in tasks {
                block_on(task).unwrap().expect("it ends");
            }
            drop((root, dir));
            ended(bed, &volume)
        });
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
    }
}

#[test]
fn a_volume_that_is_made_writable_again_has_its_own_superblock() {
    let dir = Scratch::new("names-super");
    for (n, options) in ["-b 4096", "-b 1024", "-b 1024 -O ^has_journal"]
        .iter()
        .enumerate()
    {
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let store = simulate(n as u64, image.store(), |bed| {
            let volume = mount(bed);
            let root = block_on(volume.0.iget(Ino::ROOT)).unwrap().unwrap();
            for _ in 0..5 {
                block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
                let new = new_inode(0o100_600);
                let made = block_on(volume.0.tmpfile(&root, &new)).unwrap().unwrap();
                block_on(volume.0.sync()).unwrap().unwrap();
                block_on(volume.0.delete(made)).unwrap().unwrap();
                block_on(volume.0.make_read_only()).unwrap().unwrap();
            }
            bed.device.disk().durable().clone()
        });
        let sb = layout::SuperBlock::parse(&store.get(1024, 1024), 1, CRC).expect("it is sound");
        assert_eq!(sb.last_orphan, None);
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
        let (_, said) = run("dumpe2fs", &["-h", after.path().to_str().expect("a path")]);
        let count = said.lines().find(|line| line.starts_with("Mount count"));
        let count = count.and_then(|line| line.split_whitespace().last());
        assert_eq!(count, Some("5"), "{options}: {said}");
    }
}

/// What was done before a loss of power.
#[derive(Default)]
struct Done {
    /// The tree after each operation.
    dumps: Vec<String>,
    /// How many operations are durable.
    synced: usize,
    /// States of the disk: what was durable when, and how many operations had begun.
    lost: Vec<(Store, usize, usize)>,
}

#[test]
fn a_loss_of_power_leaves_the_tree_after_some_operation() {
    let dir = Scratch::new("names-crash");
    let rounds = sim::count("NAMES_CRASHES", 8);
    let (mut states, mut behind) = (0u64, 0);
    for n in 0..rounds {
        // Those with a journal.
        let kinds = [KINDS[0], KINDS[1], KINDS[3], KINDS[4], KINDS[5], KINDS[7]];
        let options = kinds[n as usize % kinds.len()];
        let image = Image::make(dir.path("image"), 16 << 20, options);
        let done = Arc::new(Mutex::new(Done::default()));
        simulate(n, image.store(), |bed| {
            let volume = writable(bed);
            let mut world = block_on(World::new(volume.clone(), n)).unwrap();
            done.lock().unwrap().dumps.push(world.model.dump());
            let (seen, mut rng) = (done.clone(), Rng::new(n));
            bed.device.observe(move |disk| {
                if !rng.one_in(4) {
                    return;
                }
                let states = disk.crash_states(rng.next());
                let count = states.len() as u64;
                let one = states.states().nth(rng.below(count) as usize);
                let store = states.store(one.expect("a state"));
                let mut done = seen.lock().unwrap();
                let (synced, begun) = (done.synced, done.dumps.len());
                done.lost.push((store, synced, begun));
            });
            for _ in 0..150 {
                block_on(world.steps(1, 60)).unwrap();
                done.lock().unwrap().dumps.push(world.model.dump());
                match world.rng.below(12) {
                    0 => {
                        let count = done.lock().unwrap().dumps.len();
                        block_on(world.ext4().sync()).unwrap().unwrap();
                        done.lock().unwrap().synced = count - 1;
                    }
                    1 => {
                        // The last change may be another directory's.
                        let some = world.some_dir();
                        let some = world.inodes[&some].clone();
                        block_on(world.ext4().sync_inode(&some)).unwrap().unwrap();
                    }
                    2 => block_on(upcall::sleep(Duration::from_secs(2))).unwrap(),
                    _ => {}
                }
            }
            block_on(world.let_go()).unwrap();
            drop(world);
            ended(bed, &volume);
        });
        let mut done = done.lock().unwrap();
        let lost = core::mem::take(&mut done.lost);
        for (store, synced, begun) in lost {
            let dumps = &done.dumps;
            states += 1;
            let store = simulate(states, store, |bed| {
                let volume = mount(bed);
                let tree = block_on(dump(&volume)).unwrap();
                // The one that was under way may be there.
                let end = (begun + 1).min(dumps.len());
                let found = dumps[synced..end].iter().position(|dump| *dump == tree);
                assert!(
                    found.is_some(),
                    "{options}: after {synced} to {begun} operations there is none with\n{tree}"
                );
                behind += usize::from(found != Some(0));
                // What was removed is deleted.
                block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
                assert_eq!(block_on(dump(&volume)).unwrap(), tree);
                machine::take_log();
                ended(bed, &volume)
            });
            if states % 3 == 0 {
                let after = Image::write(dir.path("after"), &store);
                assert_eq!(after.is_clean(), Ok(()), "{options}");
            }
        }
    }
    assert!(states > 100 && behind > 10, "{states} {behind}");
}

/// A tree for the operations of [`act`].
async fn prepare(volume: &Volume) {
    let ext4 = &volume.0;
    let root = ext4.iget(Ino::ROOT).await.unwrap();
    let (dir, file) = (new_inode(0o040_755), new_inode(0o100_600));
    let d = match ext4.lookup(&root, b"d").await.unwrap() {
        // In its inode, as its directories.
        Some(d) => d,
        None => {
            let d = ext4.create(&root, b"d", &dir).await.unwrap();
            ext4.create(&d, b"sub", &dir).await.unwrap();
            ext4.create(&d, b"sub2", &dir).await.unwrap();
            d
        }
    };
    let first = ext4.create(&root, b"file", &file).await.unwrap();
    let other = ext4.create(&root, b"other", &file).await.unwrap();
    ext4.link(&d, b"other too", &other).await.unwrap();
    let full = ext4.create(&root, b"full", &dir).await.unwrap();
    for n in 0..3 {
        let name = [b'0' + n; 250];
        ext4.link(&full, &name, &first).await.unwrap();
    }
    let indexed = ext4.create(&root, b"indexed", &dir).await.unwrap();
    for n in 0..40 {
        let mut name = format!("{n}-").into_bytes();
        name.resize(200, b'n');
        ext4.link(&indexed, &name, &first).await.unwrap();
    }
}

/// How many operations [`act`] knows.
const ACTS: usize = 21;

/// One of the operations, on a tree of [`prepare`].
async fn act(ext4: &Ext4, which: usize) -> Result {
    let root = ext4.iget(Ino::ROOT).await?;
    let find = async |dir: &InodeInfo, name: &[u8]| -> Result<InodeRef> {
        ext4.lookup(dir, name).await?.ok_or(ENOENT)
    };
    let d = find(&root, b"d").await?;
    let file = find(&root, b"file").await?;
    let other = find(&root, b"other").await?;
    let (new_file, new_dir) = (new_inode(0o100_600), new_inode(0o040_755));
    let plain = |to, new_name| Rename {
        from: &root,
        name: b"file",
        source: &file,
        to,
        new_name,
        target: None,
        exchange: false,
        whiteout: None,
    };
    match which {
        0 => ext4.create(&d, b"new", &new_file).await.map(drop),
        1 => ext4.create(&d, b"new", &new_dir).await.map(drop),
        2 => {
            let target = [b't'; 300];
            ext4.symlink(&d, b"new", &target, &new_file).await.map(drop)
        }
        3 => ext4
            .symlink(&d, b"new", b"short", &new_file)
            .await
            .map(drop),
        4 => ext4
            .create(&d, b"new", &new_inode(0o010_600))
            .await
            .map(drop),
        5 => ext4.link(&d, b"new", &file).await,
        6 => ext4.unlink(&root, b"other", &other).await,
        7 => {
            let too = b"other too";
            ext4.unlink(&root, b"other", &other).await?;
            // Half of it is no failure of the whole.
            ext4.unlink(&d, too, &other).await.or(Ok(()))
        }
        8 => {
            let sub = find(&d, b"sub").await?;
            ext4.rmdir(&d, b"sub", &sub).await
        }
        9 => ext4.rename(plain(&d, b"moved")).await,
        10 => ext4.rename(plain(&root, b"moved")).await,
        11 => {
            let mut ask = plain(&root, b"other");
            ask.target = Some(&other);
            ext4.rename(ask).await
        }
        12 => {
            let sub = find(&d, b"sub").await?;
            let mut ask = plain(&d, b"sub");
            ask.target = Some(&sub);
            ask.exchange = true;
            ext4.rename(ask).await
        }
        13 => {
            let mut ask = plain(&d, b"moved");
            let whiteout = new_inode(0o600);
            ask.whiteout = Some(&whiteout);
            ext4.rename(ask).await
        }
        14 => {
            // A directory, over an empty one.
            let (sub, sub2) = (find(&d, b"sub").await?, find(&d, b"sub2").await?);
            let mut ask = plain(&d, b"sub2");
            (ask.from, ask.name, ask.source) = (&d, b"sub", &sub);
            ask.target = Some(&sub2);
            ext4.rename(ask).await
        }
        15 => {
            let sub = find(&d, b"sub").await?;
            let mut ask = plain(&root, b"sub");
            (ask.from, ask.name, ask.source) = (&d, b"sub", &sub);
            ext4.rename(ask).await
        }
        16 => {
            let full = find(&root, b"full").await?;
            ext4.create(&full, &[b'9'; 250], &new_file).await.map(drop)
        }
        17 => {
            let indexed = find(&root, b"indexed").await?;
            ext4.create(&indexed, &[b'9'; 250], &new_file)
                .await
                .map(drop)
        }
        18 => {
            // The names that a split has room for, in both halves.
            let indexed = find(&root, b"indexed").await?;
            ext4.rename(plain(&indexed, &[b'8'; 255])).await
        }
        19 => {
            // It does not fit an inode.
            ext4.create(&d, &[b'7'; 200], &new_file).await.map(drop)
        }
        _ => {
            let made = ext4.tmpfile(&root, &new_file).await?;
            ext4.delete(made).await
        }
    }
}

/// What a test of [`act`] begins with: a disk with a tree, and the trees before and after each
/// operation.
fn acts_made(dir: &Scratch, options: &str) -> (Store, String, Vec<String>) {
    let mut options = options.to_string();
    if options.contains("inline_data") {
        let source = dir.path("source");
        for name in ["sub", "sub2"] {
            std::fs::create_dir_all(source.join("d").join(name)).expect("a directory");
        }
        options += &format!(" -d {}", source.display());
    }
    let image = Image::make(dir.path("image"), 8 << 20, &options);
    let (store, before) = simulate(1, image.store(), |bed| {
        let volume = writable(bed);
        block_on(prepare(&volume)).unwrap();
        let before = block_on(dump(&volume)).unwrap();
        (ended(bed, &volume), before)
    });
    let after = (0..ACTS).map(|which| {
        simulate(2, store.clone(), |bed| {
            let volume = writable(bed);
            block_on(act(&volume.0, which)).unwrap().expect("it works");
            let after = block_on(dump(&volume)).unwrap();
            assert_eq!(after == before, which == ACTS - 1, "{which}");
            ended(bed, &volume);
            after
        })
    });
    let after = after.collect();
    (store, before, after)
}

/// The volume is made whole, also by a mount that deletes what was left.
fn settle(dir: &Scratch, store: Store, tree: &str, check: bool, what: &str) {
    let store = simulate(3, store, |bed| {
        let volume = writable(bed);
        assert_eq!(block_on(dump(&volume)).unwrap(), tree, "{what}");
        machine::take_log();
        ended(bed, &volume)
    });
    if check {
        let after = Image::write(dir.path("after"), &store);
        assert_eq!(after.is_clean(), Ok(()), "{what}");
    }
}

const ACT_KINDS: [&str; 2] = ["-b 1024", "-b 1024 -I 256 -O ^extent,^64bit,inline_data"];

#[test]
fn every_allocation_failed_in_turn() {
    let dir = Scratch::new("names-memory");
    let mut failed = 0;
    for (options, which) in ACT_KINDS
        .iter()
        .flat_map(|o| (0..ACTS).map(move |w| (o, w)))
    {
        let (store, before, after) = acts_of(&dir, options);
        for nth in 0.. {
            let what = format!("{options}, operation {which}, allocation {nth}");
            let config = Config::new(nth);
            let (over, tree, store) = simulate_on(config, store.clone(), |bed| {
                let volume = writable(bed);
                volume.0.cache.shrink(100_000);
                machine::fail_allocations(Fail::Nth(nth));
                let result = match nth % 2 {
                    0 => block_on(act(&volume.0, which)).unwrap(),
                    _ => {
                        // On a worker it is waited for.
                        let other = volume.clone();
                        let task = async move { act(&other.0, which).await };
                        let task = bed.scope().spawn(task);
                        task.and_then(|task| block_on(task)?.map_err(|_| EINTR)?)
                    }
                };
                let hit = machine::allocations().1 != 0;
                machine::fail_allocations(Fail::Never);
                let tree = block_on(dump(&volume)).unwrap();
                match result {
                    Ok(()) => assert!(tree == after[which] || which == 7, "{what}"),
                    Err(error) => {
                        assert_eq!(error, ENOMEM, "{what}");
                        assert!(tree == before || which == 7, "{what}");
                        failed += 1;
                    }
                }
                machine::take_log();
                (!hit, tree, ended(bed, &volume))
            });
            if nth % 4 == 0 {
                settle(&dir, store, &tree, nth % 16 == 0, &what);
            }
            if over && nth % 2 == 0 {
                break;
            }
        }
    }
    assert!(failed > 100, "{failed}");
}

#[test]
fn every_read_failed_in_turn() {
    let dir = Scratch::new("names-reads");
    let mut failed = 0;
    for (options, which) in ACT_KINDS
        .iter()
        .flat_map(|o| (0..ACTS).map(move |w| (o, w)))
    {
        let (store, before, after) = acts_of(&dir, options);
        for nth in 0.. {
            let what = format!("{options}, operation {which}, read {nth}");
            let (over, tree, store) = simulate_on(Config::new(nth), store.clone(), |bed| {
                let volume = writable(bed);
                volume.0.cache.shrink(100_000);
                let first = bed.device.disk().counts().reads;
                bed.device.disk().faults.reads.insert(first + nth);
                let result = block_on(act(&volume.0, which)).unwrap();
                let over = bed.device.disk().counts().reads <= first + nth;
                bed.device.disk().faults.reads.clear();
                let tree = block_on(dump(&volume)).unwrap();
                match result {
                    Ok(()) => assert!(tree == after[which] || which == 7, "{what}"),
                    Err(_) => {
                        assert!(tree == before || which == 7, "{what}");
                        failed += 1;
                    }
                }
                machine::take_log();
                (over, tree, ended(bed, &volume))
            });
            settle(&dir, store, &tree, nth % 4 == 0, &what);
            if over {
                break;
            }
        }
    }
    assert!(failed > 50, "{failed}");
}

#[test]
fn every_future_dropped_at_each_poll() {
    let dir = Scratch::new("names-dropped");
    let mut dropped = 0;
    for (options, which) in ACT_KINDS
        .iter()
        .flat_map(|o| (0..ACTS).map(move |w| (o, w)))
    {
        let (store, before, after) = acts_of(&dir, options);
        for polls in 0.. {
            let what = format!("{options}, operation {which}, {polls} polls");
            let config = Config::new(polls as u64);
            let (over, tree, store) = simulate_on(config, store.clone(), |bed| {
                let volume = writable(bed);
                volume.0.cache.shrink(100_000);
                let result = block_on(dropped_after(polls, act(&volume.0, which))).unwrap();
                let tree = block_on(dump(&volume)).unwrap();
                match result {
                    Some(result) => {
                        assert_eq!(result, Ok(()), "{what}");
                        assert!(tree == after[which], "{what}");
                    }
                    None => {
                        let whole = tree == before || tree == after[which] || which == 7;
                        assert!(whole, "{what}");
                        dropped += 1;
                    }
                }
                machine::take_log();
                (result.is_some(), tree, ended(bed, &volume))
            });
            settle(&dir, store, &tree, polls % 4 == 0, &what);
            if over {
                break;
            }
        }
    }
    assert!(dropped > 100, "{dropped}");
}

/// [`acts_made`], once for each kind.
fn acts_of(dir: &Scratch, options: &str) -> (Store, String, Vec<String>) {
    type Acts = BTreeMap<String, (Store, String, Vec<String>)>;
    static MADE: Mutex<Acts> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    let acts = made.entry(options.to_string());
    acts.or_insert_with(|| acts_made(dir, options)).clone()
}
