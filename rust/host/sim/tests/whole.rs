// SPDX-License-Identifier: GPL-2.0

//! The whole of a volume that is written to: names, contents, attributes, on a disk that loses power
//! again and again. What was synced is there, and all else is as it was after some change.

use aext4::xattr_write::XattrFlags;
use aext4::{Ext4, InodeRef, NewInode, Options, Rename, SetAttributes};
use kernel::machine::{self, Rng};
use kernel::prelude::*;
use layout::xattr::INDEX_USER;
use layout::FileType;
use sim::e2fs::{Image, Scratch};
use sim::volume::Volume;
use sim::{simulate_on, varied, Bed};
use simdisk::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use upcall::block_on;

const KINDS: [&str; 4] = [
    "-b 1024 -J size=4",
    "-b 4096 -J size=4",
    "-b 1024 -O ^extent,^64bit,^metadata_csum -I 128 -J size=4",
    "-b 2048 -O ea_inode,inline_data,metadata_csum_seed -I 512 -J size=4",
];

/// How many changes are made between two losses of power.
const CHANGES: usize = 24;

/// How many of the states that a loss of power may leave are looked at, for each time that is one.
const STATES: usize = 12;

/// One in so many is also made writable and ended again, and one in so many of these is judged by
/// e2fsck.
const ENDED: u64 = 16;
const JUDGED: u64 = 4;

/// The longest file.
const SIZE_MAX: u64 = 150_000;

/// An inode, in the model.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    kind: Kind,
    mode: u16,
    uid: u32,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Dir,
    File(Arc<Vec<u8>>),
    Link(Vec<u8>),
    Pipe,
}

/// A tree: nodes by number, and paths.
#[derive(Clone, Debug, Default)]
struct Tree {
    nodes: BTreeMap<usize, Node>,
    paths: BTreeMap<Vec<u8>, usize>,
}

impl Tree {
    fn parent(path: &[u8]) -> (&[u8], &[u8]) {
        let slash = path.iter().rposition(|byte| *byte == b'/').expect("a path");
        (&path[..slash], &path[slash + 1..])
    }

    fn is_dir(&self, path: &[u8]) -> bool {
        self.nodes[&self.paths[path]].kind == Kind::Dir
    }

    fn is_empty(&self, path: &[u8]) -> bool {
        !self.paths.keys().any(|other| {
            other.len() > path.len() && other.starts_with(path) && other[path.len()] == b'/'
        })
    }

    /// All but the contents of files, in words. Names of one file have the first as theirs.
    fn dump(&self) -> String {
        let mut out = String::new();
        let mut first: BTreeMap<usize, &[u8]> = BTreeMap::new();
        for (path, id) in &self.paths {
            let node = &self.nodes[id];
            let links = self.paths.values().filter(|other| *other == id).count();
            let same = *first.entry(*id).or_insert(path);
            line(&mut out, path, node, links, same);
        }
        out
    }
}

fn line(out: &mut String, path: &[u8], node: &Node, links: usize, same: &[u8]) {
    let what = match &node.kind {
        Kind::Dir => "dir".to_string(),
        Kind::File(_) => format!("file {links}"),
        Kind::Link(to) => format!("link to {}", String::from_utf8_lossy(to)),
        Kind::Pipe => format!("pipe {links}"),
    };
    let values: Vec<_> = node
        .xattrs
        .iter()
        .map(|(name, value)| {
            let sum: u64 = value.iter().map(|byte| u64::from(*byte)).sum();
            format!("{}={}/{sum}", String::from_utf8_lossy(name), value.len())
        })
        .collect();
    writeln!(
        out,
        "{} {what} {:o} {} {values:?} {}",
        String::from_utf8_lossy(path),
        node.mode,
        node.uid,
        String::from_utf8_lossy(same)
    )
    .unwrap();
}

/// Reads the tree of a volume.
async fn read(volume: &Volume) -> Tree {
    let mut tree = Tree::default();
    let mut known: BTreeMap<u32, usize> = BTreeMap::new();
    let mut dirs = vec![Vec::new()];
    while let Some(dir) = dirs.pop() {
        let at = if dir.is_empty() {
            b"/".to_vec()
        } else {
            dir.clone()
        };
        let info = volume.path(&at).await.expect("a directory");
        for (name, _, _) in volume.entries(&info).await.expect("a listing") {
            if name == b"." || name == b".." || name == b"lost+found" {
                continue;
            }
            let path = [&dir[..], b"/", &name].concat();
            let node = volume.path(&path).await.expect("an inode");
            let next = known.len();
            let id = *known.entry(node.ino.0).or_insert(next);
            tree.nodes.insert(id, read_node(volume, &node).await);
            if node.is_dir() {
                dirs.push(path.clone());
            }
            tree.paths.insert(path, id);
        }
    }
    tree
}

async fn read_node(volume: &Volume, node: &InodeRef) -> Node {
    let inode = node.inode();
    let kind = match inode.file_type {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => {
            let target = volume.0.readlink(node).await.expect("a target");
            Kind::Link(target.iter().copied().collect())
        }
        FileType::Regular => {
            let mut bytes = Vec::new();
            volume
                .read(node, 0, inode.size, |part| bytes.extend_from_slice(part))
                .await
                .expect("contents");
            bytes.truncate(inode.size as usize);
            Kind::File(Arc::new(bytes))
        }
        _ => Kind::Pipe,
    };
    let attributes = volume.attributes(node).await.expect("attributes");
    Node {
        kind,
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        xattrs: attributes
            .into_iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(b"user.")?.to_vec(), value)))
            .collect(),
    }
}

/// What changes a volume, and the model with it.
struct Changer<'a> {
    volume: &'a Volume,
    rng: Rng,
    tree: Tree,
    next: usize,
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| 1 + (rng.next() % 255) as u8).collect()
}

impl Changer<'_> {
    fn pick(&mut self, which: impl Fn(&Node) -> bool) -> Option<Vec<u8>> {
        let nodes = &self.tree.nodes;
        let all: Vec<_> = self
            .tree
            .paths
            .iter()
            .filter(|(_, id)| which(&nodes[id]))
            .map(|(path, _)| path.clone())
            .collect();
        if all.is_empty() {
            return None;
        }
        let at = self.rng.below(all.len() as u64) as usize;
        Some(all[at].clone())
    }

    fn place(&mut self) -> Vec<u8> {
        let dir = match self.rng.below(3) {
            0 => None,
            _ => self.pick(|node| node.kind == Kind::Dir),
        };
        let len = [3, 8, 60, 200][self.rng.below(4) as usize];
        let mut name = format!("n{}", self.next);
        while name.len() < len {
            name.push('x');
        }
        self.next += 1;
        [&dir.unwrap_or_default()[..], b"/", name.as_bytes()].concat()
    }

    async fn info(&self, path: &[u8]) -> InodeRef {
        let path = if path.is_empty() { b"/" } else { path };
        self.volume.path(path).await.expect("it is there")
    }

    fn file(&self, path: &[u8]) -> Vec<u8> {
        match &self.tree.nodes[&self.tree.paths[path]].kind {
            Kind::File(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn set_file(&mut self, path: &[u8], bytes: Vec<u8>) {
        let id = self.tree.paths[path];
        self.tree.nodes.get_mut(&id).unwrap().kind = Kind::File(Arc::new(bytes));
    }

    fn drop_unnamed(&mut self) {
        let named: BTreeSet<_> = self.tree.paths.values().copied().collect();
        self.tree.nodes.retain(|id, _| named.contains(id));
    }

    fn add(&mut self, path: Vec<u8>, kind: Kind, mode: u16) {
        let id = self.tree.nodes.keys().next_back().map_or(0, |id| id + 1);
        let node = Node {
            kind,
            mode,
            uid: 7,
            xattrs: BTreeMap::new(),
        };
        self.tree.nodes.insert(id, node);
        self.tree.paths.insert(path, id);
    }

    /// Makes one change. Returns what it was; an empty string if there was nothing to change.
    async fn change(&mut self) -> String {
        let fs = &self.volume.0;
        let kind = self.rng.below(19);
        let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        match kind {
            0..=3 => {
                let path = self.place();
                let (dir, name) = Tree::parent(&path);
                let (dir, name) = (self.info(dir).await, name.to_vec());
                let mode = self.rng.below(0o1000) as u16;
                let (made, kind): (u16, Kind) = match self.rng.below(6) {
                    0 | 1 => (0o040_000, Kind::Dir),
                    2 => (0o010_000, Kind::Pipe),
                    _ => (0o100_000, Kind::File(Arc::default())),
                };
                let new = NewInode {
                    mode: made | mode,
                    uid: 7,
                    gid: 7,
                    device: None,
                    xattrs: &[],
                };
                fs.create(&dir, &name, &new).await.expect("made");
                let what = format!("make {made:o} {}", shown(&path));
                self.add(path, kind, mode);
                what
            }
            4 => {
                let path = self.place();
                let (dir, name) = Tree::parent(&path);
                let (dir, name) = (self.info(dir).await, name.to_vec());
                let len = [5, 59, 60, 900][self.rng.below(4) as usize];
                let target = bytes(self.rng.next(), len);
                let new = NewInode {
                    mode: 0o777,
                    uid: 7,
                    gid: 7,
                    device: None,
                    xattrs: &[],
                };
                fs.symlink(&dir, &name, &target, &new).await.expect("made");
                let what = format!("symlink {}", shown(&path));
                self.add(path, Kind::Link(target), 0o777);
                what
            }
            5..=7 => {
                let Some(path) = self.pick(|node| matches!(node.kind, Kind::File(_))) else {
                    return String::new();
                };
                let mut old = self.file(&path);
                let from = match self.rng.below(3) {
                    0 => old.len() as u64,
                    1 => self.rng.below(old.len() as u64 + 1),
                    _ => self.rng.below(SIZE_MAX),
                };
                let len = [10, 1024, 5000, 40_000][self.rng.below(4) as usize];
                let new = bytes(self.rng.next(), len);
                let info = self.info(&path).await;
                let written = Ext4::write_at(fs, &info, from, &new, true).await;
                assert_eq!(written, Ok(len));
                let from = from as usize;
                old.resize(old.len().max(from + len), 0);
                old[from..from + len].copy_from_slice(&new);
                self.set_file(&path, old);
                format!("write {from}+{len} {}", shown(&path))
            }
            8 => {
                let Some(path) = self.pick(|node| matches!(node.kind, Kind::File(_))) else {
                    return String::new();
                };
                let mut old = self.file(&path);
                let size = match self.rng.below(2) {
                    0 => self.rng.below(old.len() as u64 + 1),
                    _ => self.rng.below(SIZE_MAX),
                };
                let info = self.info(&path).await;
                fs.truncate(&info, size).await.expect("cut");
                old.resize(size as usize, 0);
                self.set_file(&path, old);
                format!("truncate {size} {}", shown(&path))
            }
            16..=18 => self.range().await,
            9 => {
                let path = self.pick(|node| node.kind != Kind::Dir);
                let to = self.place();
                let Some(path) = path else {
                    return String::new();
                };
                let info = self.info(&path).await;
                let (dir, name) = Tree::parent(&to);
                let (dir, name) = (self.info(dir).await, name.to_vec());
                fs.link(&dir, &name, &info).await.expect("linked");
                let id = self.tree.paths[&path];
                self.tree.paths.insert(to.clone(), id);
                format!("link {} {}", shown(&path), shown(&to))
            }
            10 | 11 => {
                let Some(path) = self.pick(|_| true) else {
                    return String::new();
                };
                let is_dir = self.tree.is_dir(&path);
                if is_dir && !self.tree.is_empty(&path) {
                    return String::new();
                }
                let info = self.info(&path).await;
                let (dir, name) = Tree::parent(&path);
                let (dir, name) = (self.info(dir).await, name.to_vec());
                match is_dir {
                    true => fs.rmdir(&dir, &name, &info).await.expect("removed"),
                    false => fs.unlink(&dir, &name, &info).await.expect("removed"),
                }
                fs.delete(info).await.expect("deleted");
                self.tree.paths.remove(&path);
                self.drop_unnamed();
                format!("remove {}", shown(&path))
            }
            12 | 13 => self.rename().await,
            14 => {
                let Some(path) = self.pick(|node| !matches!(node.kind, Kind::Link(_))) else {
                    return String::new();
                };
                let info = self.info(&path).await;
                let (mode, uid) = (self.rng.below(0o1000) as u16, self.rng.below(1000) as u32);
                let set = SetAttributes {
                    mode: Some(mode),
                    uid: Some(uid),
                    ..Default::default()
                };
                fs.set_attributes(&info, &set).await.expect("set");
                let id = self.tree.paths[&path];
                let node = self.tree.nodes.get_mut(&id).unwrap();
                (node.mode, node.uid) = (mode, uid);
                format!("set {mode:o} {uid} {}", shown(&path))
            }
            _ => {
                let Some(path) = self.pick(|node| matches!(node.kind, Kind::File(_) | Kind::Dir))
                else {
                    return String::new();
                };
                let info = self.info(&path).await;
                let name = format!("a{}", self.rng.below(4)).into_bytes();
                let len = [0, 20, 300, 700][self.rng.below(4) as usize];
                let value = bytes(self.rng.next(), len);
                let id = self.tree.paths[&path];
                let had = self.tree.nodes[&id].xattrs.contains_key(&name);
                let value = (!had || self.rng.below(3) > 0).then_some(value);
                let flags = XattrFlags::default();
                let set = fs.set_xattr(&info, INDEX_USER, &name, value.as_deref(), flags);
                match set.await {
                    Err(ENOSPC) => return format!("no room for {len} {}", shown(&path)),
                    other => other.expect("set"),
                }
                let xattrs = &mut self.tree.nodes.get_mut(&id).unwrap().xattrs;
                match value {
                    Some(value) => drop(xattrs.insert(name, value)),
                    None => drop(xattrs.remove(&name)),
                }
                format!("xattr {len} {}", shown(&path))
            }
        }
    }

    /// A range of a file is punched, zeroed, taken out or put in.
    async fn range(&mut self) -> String {
        let Some(path) = self.pick(|node| matches!(&node.kind, Kind::File(all) if !all.is_empty()))
        else {
            return String::new();
        };
        let fs = &self.volume.0;
        let info = self.info(&path).await;
        let mut all = self.file(&path);
        let (size, block) = (all.len(), fs.sb.geo.block_size() as usize);
        let pos = self.rng.below(size as u64) as usize;
        let len = [1, 3000, 30_000][self.rng.below(3) as usize];
        let end = size.min(pos + len);
        let (at, to) = (pos as u64, end as u64);
        let (start, moved) = (pos - pos % block, len.next_multiple_of(block));
        let kind = match self.rng.below(4) {
            2 if start + moved >= size => 0,
            3 if size + moved > SIZE_MAX as usize => 0,
            kind => kind,
        };
        fs.leave_inline(&info, true).await.expect("blocks");
        let kind = match info.data_map() {
            layout::DataMap::Extents => kind,
            _ => 0,
        };
        let (start_at, moved_by) = (start as u64, moved as u64);
        match kind {
            0 => fs.punch(&info, at, to).await.expect("punched"),
            1 => fs.zero(&info, at, to, true).await.expect("zeroed"),
            2 => {
                let done = fs.collapse(&info, start_at, moved_by, size as u64);
                done.await.expect("taken out");
                all.drain(start..start + moved);
            }
            _ => {
                let done = fs.insert(&info, start_at, moved_by, size as u64);
                done.await.expect("put in");
                all.splice(start..start, std::iter::repeat_n(0, moved));
            }
        }
        if kind < 2 {
            all[pos..end].fill(0);
        } else {
            // What is written in place later is for where the bytes are now.
            fs.sync().await.expect("synced");
        }
        self.set_file(&path, all);
        format!(
            "range {kind} {pos}+{len} {}",
            String::from_utf8_lossy(&path)
        )
    }

    async fn rename(&mut self) -> String {
        let Some(from) = self.pick(|_| true) else {
            return String::new();
        };
        let is_dir = self.tree.is_dir(&from);
        let other = self.pick(|node| (node.kind == Kind::Dir) == is_dir);
        let over = self.rng.below(3) == 0;
        let to = match other {
            Some(other) if over && other != from => other,
            _ => self.place(),
        };
        let target_id = self.tree.paths.get(&to).copied();
        let inside = |of: &[u8], path: &[u8]| {
            path.len() > of.len() && path.starts_with(of) && path[of.len()] == b'/'
        };
        if inside(&from, &to) || inside(&to, &from) || target_id == Some(self.tree.paths[&from]) {
            return String::new();
        }
        let exchange = target_id.is_some() && self.rng.below(2) == 0;
        if !exchange && is_dir && target_id.is_some() && !self.tree.is_empty(&to) {
            return String::new();
        }
        let source = self.info(&from).await;
        let target = match target_id {
            Some(_) => Some(self.info(&to).await),
            None => None,
        };
        let ((dir, name), (new_dir, new_name)) = (Tree::parent(&from), Tree::parent(&to));
        let (dir, new_dir) = (self.info(dir).await, self.info(new_dir).await);
        let rename = Rename {
            from: &dir,
            name,
            source: &source,
            to: &new_dir,
            new_name,
            target: target.as_deref(),
            exchange,
            whiteout: None,
        };
        self.volume.0.rename(rename).await.expect("renamed");
        let moved = |tree: &Tree, a: &[u8], b: &[u8]| -> Vec<(Vec<u8>, usize)> {
            tree.paths
                .iter()
                .filter(|(path, _)| **path == a || inside(a, path))
                .map(|(path, id)| ([b, &path[a.len()..]].concat(), *id))
                .collect()
        };
        let there = moved(&self.tree, &from, &to);
        let back = match exchange {
            true => moved(&self.tree, &to, &from),
            false => Vec::new(),
        };
        self.tree.paths.retain(|path, _| {
            *path != from && *path != to && !inside(&from, path) && !inside(&to, path)
        });
        self.tree.paths.extend(there);
        self.tree.paths.extend(back);
        drop(source);
        if let Some(target) = target {
            self.volume.0.delete(target).await.expect("deleted");
        }
        self.drop_unnamed();
        let what = if exchange { "exchange" } else { "rename" };
        format!(
            "{what} {} {}",
            String::from_utf8_lossy(&from),
            String::from_utf8_lossy(&to)
        )
    }
}

/// What was changed since the last loss of power.
#[derive(Default)]
struct Log {
    /// The tree after each change, what that was, and the tree in words.
    trees: Vec<(Tree, String, String)>,
}

impl Log {
    fn push(&mut self, tree: Tree, what: String) {
        let dump = tree.dump();
        self.trees.push((tree, what, dump));
    }
}

/// A state that the power may leave, with what it is to have.
struct Lost {
    store: Store,
    /// How many changes there may be at most, and at least.
    begun: usize,
    synced: usize,
}

fn mount(bed: &Bed) -> Volume {
    let mounted = block_on(Volume::mount(bed, Options::default())).expect("no deadlock");
    mounted.unwrap_or_else(|error| panic!("{error:?}: {:?}", machine::take_log()))
}

fn make_writable(volume: &Volume) {
    let made = block_on(Ext4::make_writable(&volume.0)).expect("no deadlock");
    assert_eq!(made, Ok(()), "{:?}", machine::take_log());
}

/// Whether the contents of a file may be what is left if the power went after some of the changes.
fn may_be(got: &[u8], versions: &[&[u8]]) -> bool {
    let longest = versions.iter().map(|bytes| bytes.len()).max().unwrap_or(0);
    got.len() <= longest
        && got.iter().enumerate().all(|(at, byte)| {
            *byte == 0 || versions.iter().any(|version| version.get(at) == Some(byte))
        })
}

/// After which change the tree is as it is here.
fn compare(got: &Tree, trees: &[(Tree, String, String)], lost: &Lost) -> Result<usize, String> {
    let dump = got.dump();
    let mut why = String::new();
    for at in lost.synced..=lost.begun {
        let (tree, _, wanted) = &trees[at];
        if *wanted != dump {
            continue;
        }
        let wrong = got.paths.iter().find(|(path, id)| {
            let Kind::File(bytes) = &got.nodes[id].kind else {
                return false;
            };
            // A file by its node: its name may be another's later.
            let node = tree.paths[*path];
            let versions: Vec<&[u8]> = trees[lost.synced..=lost.begun]
                .iter()
                .filter_map(|(tree, ..)| match &tree.nodes.get(&node)?.kind {
                    Kind::File(bytes) => Some(&bytes[..]),
                    _ => None,
                })
                .collect();
            match lost.synced == lost.begun {
                true => bytes[..] != *versions[0],
                false => !may_be(bytes, &versions),
            }
        });
        match wrong {
            None => return Ok(at),
            Some((path, _)) => why = format!("contents of {}", String::from_utf8_lossy(path)),
        }
    }
    let mut out = format!("{why}\n{dump}\nis none of these:\n");
    for (_, what, dump) in &trees[lost.synced..=lost.begun] {
        writeln!(out, "{what}:\n{dump}").unwrap();
    }
    Err(out)
}

/// Mounts `store`, changes it, and gives what a loss of power may leave.
fn life(seed: u64, store: Store, log: &mut Log, states: usize) -> Vec<Lost> {
    let lost = Arc::new(Mutex::new(Vec::<Lost>::new()));
    let now = Arc::new(Mutex::new((0usize, 0usize)));
    let shared = Arc::new(Mutex::new(core::mem::take(log)));
    simulate_on(varied(seed), store, |bed| {
        let volume = mount(bed);
        make_writable(&volume);
        machine::take_log();
        let (to, at, mut rng) = (lost.clone(), now.clone(), Rng::new(seed ^ 1));
        bed.device.observe(move |disk| {
            let (begun, synced) = *at.lock().unwrap();
            let crashes = disk.crash_states(rng.next());
            let count = crashes.len() as u64;
            let mut picked: BTreeSet<u64> = BTreeSet::new();
            while picked.len() < states.min(count as usize) {
                picked.insert(rng.below(count));
            }
            for (n, crash) in crashes.states().enumerate() {
                if picked.contains(&(n as u64)) {
                    let store = crashes.store(crash);
                    to.lock().unwrap().push(Lost {
                        store,
                        begun,
                        synced,
                    });
                }
            }
        });
        let tree = shared
            .lock()
            .unwrap()
            .trees
            .last()
            .map(|last| last.0.clone());
        let mut changer = Changer {
            volume: &volume,
            rng: Rng::new(seed ^ 2),
            tree: tree.unwrap_or_default(),
            next: (seed % 100_000) as usize * 1000,
        };
        {
            let mut log = shared.lock().unwrap();
            log.trees.clear();
            log.push(changer.tree.clone(), "before".to_string());
        }
        let mut made = 0;
        while made < CHANGES {
            now.lock().unwrap().0 = made + 1;
            let what = block_on(changer.change()).expect("no deadlock");
            if what.is_empty() {
                continue;
            }
            made += 1;
            let mut log = shared.lock().unwrap();
            log.push(changer.tree.clone(), what);
            drop(log);
            if changer.rng.below(4) == 0 {
                block_on(volume.0.sync()).unwrap().expect("synced");
                now.lock().unwrap().1 = made;
            }
        }
        block_on(volume.0.sync()).unwrap().expect("synced");
        now.lock().unwrap().1 = made;
        let got = block_on(read(&volume)).expect("no deadlock");
        assert_eq!(got.dump(), changer.tree.dump());
        block_on(volume.0.make_read_only()).unwrap().expect("ended");
    });
    let shared = Arc::try_unwrap(shared).ok().expect("nobody else's");
    *log = shared.into_inner().unwrap();
    let lost = core::mem::take(&mut *lost.lock().unwrap());
    lost
}

/// What is left of a state, after our recovery: which change it is, and, if it is to be `ended`, the
/// volume, whole again.
fn recovered(
    seed: u64,
    log: &Log,
    lost: &Lost,
    options: &str,
    ended: bool,
) -> (usize, Option<Store>) {
    simulate_on(varied(seed), lost.store.clone(), |bed| {
        let volume = mount(bed);
        let got = block_on(read(&volume)).expect("no deadlock");
        // The last change that was begun may not have ended.
        let most = lost.begun.min(log.trees.len() - 1);
        let bounds = Lost {
            store: lost.store.clone(),
            begun: most,
            synced: lost.synced.min(most),
        };
        let at = compare(&got, &log.trees, &bounds)
            .unwrap_or_else(|why| panic!("{options}, seed {seed}: {why}"));
        if ended {
            make_writable(&volume);
            block_on(volume.0.make_read_only()).unwrap().expect("ended");
        }
        machine::take_log();
        (at, ended.then(|| bed.device.disk().durable().clone()))
    })
}

/// Some lives of a volume, one after the other, of which all but the last end by a loss of power.
/// Returns how many states were looked at.
fn lives(dir: &Scratch, run: u64) -> u64 {
    let options = KINDS[(run % 4) as usize];
    let image = Image::make(dir.path(&format!("image{run}")), 24 << 20, options);
    let mut store = image.store();
    let (mut log, mut states, mut judged) = (Log::default(), 0, 0);
    for round in 0..4 {
        let seed = run * 1000 + round * 100 + 17;
        let all = life(seed, store.clone(), &mut log, STATES);
        let mut next = None;
        let mut rng = Rng::new(seed);
        for (n, lost) in all.iter().enumerate() {
            let ended = rng.one_in(ENDED) || (next.is_none() && n + 1 == all.len());
            let (at, after) = recovered(seed + n as u64, &log, lost, options, ended);
            states += 1;
            let Some(after) = after else {
                continue;
            };
            judged += 1;
            if judged % JUDGED == 0 {
                let image = Image::write(dir.path(&format!("after{run}")), &after);
                assert_eq!(image.is_clean(), Ok(()), "{options}, seed {seed}");
            }
            if next.is_none() || rng.one_in(4) {
                next = Some((at, after));
            }
        }
        // The next life begins with one of them.
        let (at, after) = next.expect("a state");
        let got = simulate_on(varied(seed), after.clone(), |bed| {
            let tree = block_on(read(&mount(bed))).expect("no deadlock");
            machine::take_log();
            tree
        });
        let what = log.trees[at].1.clone();
        log.trees.clear();
        log.push(got, what);
        store = after;
    }
    states
}

#[test]
fn a_volume_survives_one_loss_of_power_after_the_other() {
    let dir = Scratch::new("whole");
    let runs = sim::count("UPCALL_WHOLE", 130);
    let next = AtomicU64::new(0);
    let began = Instant::now();
    // Each run is a machine of its own.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let states: u64 = std::thread::scope(|scope| {
        let work = || {
            let mut states = 0;
            loop {
                let run = next.fetch_add(1, Ordering::Relaxed);
                if run >= runs {
                    return states;
                }
                states += lives(&dir, run);
                if run % 100 == 99 {
                    // Past the capture: a night is not to look like a hang.
                    let line = format!("{} runs of {runs}\n", run + 1);
                    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
                }
            }
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter()
            .map(|thread| thread.join().expect("no state is wrong"))
            .sum()
    });
    println!("{states} states in {:?}", began.elapsed());
    assert!(states > 200 * runs, "{states}");
}
