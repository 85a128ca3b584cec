// SPDX-License-Identifier: GPL-2.0

//! Trees of names: a model of one, what a volume has in the same words, and random operations on
//! both.

use crate::volume::Volume;
use crate::Bed;
use aext4::{Ext4, InodeInfo, InodeRef, NewInode, Options, Rename};
use kernel::machine::Rng;
use kernel::prelude::*;
use layout::{Device, FileType, Ino};
use simdisk::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use upcall::block_on;

/// What is made, and what e2fsprogs is told to make for it.
pub const KINDS: [&str; 10] = [
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
pub enum Kind {
    /// A directory, and the numbers of what it has.
    Dir(BTreeMap<Vec<u8>, usize>),
    /// A file.
    File,
    /// A link, and its target.
    Link(Vec<u8>),
    /// Something else, and its device.
    Node(FileType, Option<(u32, u32)>),
}

/// A tree of names.
#[derive(Clone, Debug)]
pub struct Model {
    /// What there is by number, and how many names it has.
    pub nodes: BTreeMap<usize, (Kind, u32)>,
    /// The next number.
    pub next: usize,
}

impl Model {
    /// An empty tree, with "lost+found".
    pub fn with_lost_and_found() -> Self {
        let mut model = Self {
            nodes: BTreeMap::new(),
            next: 0,
        };
        model.node(Kind::Dir(BTreeMap::new()));
        model.add(0, b"lost+found", Kind::Dir(BTreeMap::new()));
        model
    }

    /// Adds something without a name.
    pub fn node(&mut self, kind: Kind) -> usize {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, (kind, 0));
        id
    }

    /// The names of a directory, to be changed.
    pub fn dir(&mut self, id: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.nodes.get_mut(&id).expect("a node").0 {
            Kind::Dir(names) => names,
            other => panic!("{other:?} is no directory"),
        }
    }

    /// The names of a directory.
    pub fn names(&self, id: usize) -> &BTreeMap<Vec<u8>, usize> {
        match &self.nodes[&id].0 {
            Kind::Dir(names) => names,
            other => panic!("{other:?} is no directory"),
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self, id: usize) -> bool {
        matches!(self.nodes[&id].0, Kind::Dir(_))
    }

    /// Adds something with a name.
    pub fn add(&mut self, dir: usize, name: &[u8], kind: Kind) -> usize {
        let id = self.node(kind);
        self.link(dir, name, id);
        id
    }

    /// Adds a name.
    pub fn link(&mut self, dir: usize, name: &[u8], id: usize) {
        assert!(self.dir(dir).insert(name.to_vec(), id).is_none());
        self.nodes.get_mut(&id).unwrap().1 += 1;
    }

    /// Removes a name. Gives what it led to.
    pub fn unlink(&mut self, dir: usize, name: &[u8]) -> usize {
        let id = self.dir(dir).remove(name).expect("a name");
        let links = &mut self.nodes.get_mut(&id).unwrap().1;
        *links -= 1;
        id
    }

    /// Whether `id` is `of`, or in it.
    pub fn is_below(&self, id: usize, of: usize) -> bool {
        id == of
            || match &self.nodes[&of].0 {
                Kind::Dir(names) => names.values().any(|child| self.is_below(id, *child)),
                _ => false,
            }
    }

    /// All of it, in words.
    pub fn dump(&self) -> String {
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
pub async fn dump(volume: &Volume) -> String {
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
pub struct World {
    /// The volume.
    pub volume: Volume,
    /// The model.
    pub model: Model,
    /// The inodes by their numbers in the model.
    pub inodes: BTreeMap<usize, InodeRef>,
    /// Inodes without names that are still in use, and whether they are files that never had one.
    pub open: Vec<(InodeRef, bool)>,
    /// Where random numbers come from.
    pub rng: Rng,
    /// What the names begin with that it makes.
    pub prefix: &'static str,
    /// How many of the inodes are others', too, and stay where they are: the first.
    pub shared: usize,
    /// How often each result was seen.
    pub seen: BTreeMap<String, u32>,
}

/// A new inode with this mode.
pub fn new_inode(mode: u16) -> NewInode<'static> {
    NewInode {
        mode,
        uid: 1000,
        gid: 70_000,
        device: None,
        xattrs: &[],
    }
}

impl World {
    /// The tree of a volume that has nothing but "lost+found".
    pub async fn new(volume: Volume, seed: u64) -> Self {
        let root = volume.0.iget(Ino::ROOT).await.expect("the root");
        let lost = volume
            .0
            .lookup(&root, b"lost+found")
            .await
            .unwrap()
            .unwrap();
        Self {
            volume,
            model: Model::with_lost_and_found(),
            inodes: BTreeMap::from([(0, root), (1, lost)]),
            open: Vec::new(),
            rng: Rng::new(seed),
            prefix: "",
            shared: 2,
            seen: BTreeMap::new(),
        }
    }

    /// The volume.
    pub fn ext4(&self) -> kernel::sync::Arc<Ext4> {
        self.volume.0.clone()
    }

    /// A directory that has a name.
    pub fn some_dir(&mut self) -> usize {
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

    /// One of so many names.
    pub fn some_name(&mut self, among: u64) -> Vec<u8> {
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
                let result = ext4.link(&parent, &name, &inode.0, false).await;
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
                let result = ext4.link(&parent, &name, &inode, false).await;
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
        } else if from != to
            && (is_dir(source) && model.is_below(to, source)
                || exchange && goes.is_some_and(|id| model.is_below(from, id)))
        {
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
    pub async fn let_go(&mut self) {
        while let Some((inode, _)) = self.some_open() {
            self.ext4().delete(inode).await.expect("it is deleted");
        }
    }

    /// So many operations, each with what must come of it.
    pub async fn steps(&mut self, count: u64, among: u64) {
        for n in 0..count {
            let (what, result, expected) = self.step(among).await;
            assert_eq!(result, expected, "operation {n}, {what}");
            let seen = format!("{what}: {:?}", result.map_err(|error| error.to_errno()));
            *self.seen.entry(seen).or_default() += 1;
        }
    }
}

/// Mounts what is on the disk.
pub fn mount(bed: &Bed) -> Volume {
    let volume = block_on(Volume::mount(bed, Options::default())).expect("no deadlock");
    volume.expect("it mounts")
}

/// Mounts what is on the disk, for writing.
pub fn writable(bed: &Bed) -> Volume {
    writable_with(bed, &[])
}

/// Mounts what is on the disk, for writing, with these options.
pub fn writable_with(bed: &Bed, set: &[(&str, Option<&str>)]) -> Volume {
    let mut options = Options::default();
    for (key, value) in set {
        assert_eq!(options.set(key, *value), Ok(true));
    }
    let volume = block_on(Volume::mount(bed, options)).expect("no deadlock");
    let volume = volume.expect("it mounts");
    let made = block_on(Ext4::make_writable(&volume.0)).expect("no deadlock");
    made.expect("it is writable");
    volume
}

/// Ends the writing. Gives what the disk has.
pub fn ended(bed: &Bed, volume: &Volume) -> Store {
    let ended = block_on(volume.0.make_read_only()).expect("no deadlock");
    ended.expect("it ends");
    bed.device.disk().durable().clone()
}
