// SPDX-License-Identifier: GPL-2.0

//! The whole of a volume that the Rust API and the VFS's functions change at once, on a disk that
//! loses power again and again.
//!
//! Several tasks change the same directories and files; some give up at some poll. What came of it
//! has to be what some order of their operations gives. After a loss of power the tree is one that
//! there was on such a way: with all that was synced, and what came before it.

use aext4::rename::Rename;
use aext4::{InodeRef, SetAttributes};
use kernel::machine::{self, Rng};
use kernel::prelude::*;
use layout::{xattr, AclTag, FileType};
use sim::changer::Changer;
use sim::lives::{
    self, bytes, decode_acl, encode_acl, is_below, make_writable, may_be, mount, read, read_node,
    record, Kind, Lost, Node, Story, Tree, ACL_ACCESS, ROOT,
};
use sim::{dropped_after, simulate_on, varied};
use simdisk::Store;
use stack::{AsyncStackable, Ino, OpenInode, RenameFlags, Sync as Durable};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use upcall::{block_on, join_all};
use vfs::{AclEntry, NewInode, SetAttr, XattrFlags};
use volume::Volume;

/// How many times several tasks change something between two losses of power.
const BATCHES: usize = 16;

/// How many of the states that a loss of power may leave are looked at, for each time that is one.
const STATES: usize = 3;

/// How many operations there are at once, at most: their orders are all tried.
const AT_ONCE: usize = 7;

/// The longest file.
const SIZE_MAX: u64 = 100_000;

/// How long what a task has given up goes on, at most.
const GOES_ON: Duration = Duration::from_millis(500);

const DEFAULT: &[u8] = b"system.posix_acl_default";

/// A name.
#[derive(Clone)]
struct Name(Vec<u8>);

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What is done. Inodes are nodes of the model. No task does what the VFS does with contents: a file
/// that programs have is not changed by the API's functions, but left to the VFS.
#[derive(Clone, Debug)]
enum Op {
    Make(usize, Name, usize, Node),
    Tmpfile(usize, usize, u16),
    Open(usize),
    Link(usize, Name, usize),
    Unlink(usize, Name),
    Rmdir(usize, Name),
    Rename((usize, Name), (usize, Name), RenameFlags, usize),
    SetAttr(usize, Option<u16>, Option<u32>),
    SetXattr(usize, Vec<u8>, Option<Vec<u8>>, XattrFlags),
    SetAcl(usize, bool, Option<Vec<AclEntry>>),
    Write(usize, Option<u64>, u64, usize),
    Truncate(usize, u64),
    Allocate(usize, Range<u64>, bool),
}

impl Op {
    /// The word for it.
    fn word(&self) -> String {
        let shown = format!("{self:?}");
        shown.split('(').next().unwrap_or("").to_string()
    }

    /// What it is about, beside names.
    fn ids(&self) -> [usize; 2] {
        match self {
            Self::Link(dir, _, id) => [*dir, *id],
            Self::Rename((from, _), (to, _), ..) => [*from, *to],
            Self::Make(id, ..)
            | Self::Tmpfile(id, ..)
            | Self::Unlink(id, _)
            | Self::Rmdir(id, _)
            | Self::Open(id)
            | Self::SetAttr(id, ..)
            | Self::SetXattr(id, ..)
            | Self::SetAcl(id, ..)
            | Self::Write(id, ..)
            | Self::Truncate(id, _)
            | Self::Allocate(id, ..) => [*id, *id],
        }
    }

    /// The inode whose contents change.
    fn contents_of(&self) -> Option<usize> {
        match self {
            Self::Write(id, ..) | Self::Truncate(id, _) | Self::Allocate(id, ..) => Some(*id),
            _ => None,
        }
    }

    /// The inode whose attributes change.
    fn attributes_of(&self) -> Option<usize> {
        match self {
            // A list that goes may not have been there: then nothing is done.
            Self::SetAttr(id, ..) | Self::SetXattr(id, ..) | Self::SetAcl(id, _, Some(_)) => {
                Some(*id)
            }
            _ => None,
        }
    }

    /// Errors that what the volume has room for, and of what kind it is, may lead to.
    fn may_fail(&self, error: Error) -> bool {
        match self {
            Self::SetXattr(..) | Self::SetAcl(..) | Self::SetAttr(..) => error == ENOSPC,
            Self::Allocate(..) => error == EOPNOTSUPP,
            _ => false,
        }
    }

    /// Does it to the model. Fails with the errors of which it has to fail with one.
    fn apply(&self, tree: &mut Tree) -> Result<(), Vec<Error>> {
        const GONE: [Error; 2] = [ESTALE, ENOENT];
        let dir_path = |tree: &Tree, dir: usize| -> Result<Vec<u8>, Vec<Error>> {
            if dir == ROOT {
                return Ok(Vec::new());
            }
            let found = tree.paths.iter().find(|(_, id)| **id == dir);
            Ok(found.ok_or(GONE.to_vec())?.0.clone())
        };
        let path = |tree: &Tree, dir: usize, name: &[u8]| -> Result<Vec<u8>, Vec<Error>> {
            Ok([&dir_path(tree, dir)?[..], b"/", name].concat())
        };
        let there = |tree: &Tree, id: usize| match tree.nodes.contains_key(&id) {
            true => Ok(()),
            false => Err(GONE.to_vec()),
        };
        match self {
            Self::Make(dir, name, id, node) => {
                let path = path(tree, *dir, name)?;
                if tree.paths.contains_key(&path) {
                    return Err(vec![EEXIST]);
                }
                tree.nodes.insert(*id, node.clone());
                tree.paths.insert(path, *id);
            }
            Self::Tmpfile(dir, id, mode) => {
                dir_path(tree, *dir)?;
                let node = Node {
                    kind: Kind::File(Arc::default()),
                    mode: *mode,
                    uid: 7,
                    xattrs: BTreeMap::new(),
                };
                tree.nodes.insert(*id, node);
                tree.held.insert(*id);
            }
            Self::Open(id) => {
                there(tree, *id)?;
                tree.held.insert(*id);
            }
            Self::Link(dir, name, id) => {
                there(tree, *id)?;
                let path = path(tree, *dir, name)?;
                if tree.paths.contains_key(&path) {
                    return Err(vec![EEXIST]);
                }
                tree.paths.insert(path, *id);
            }
            Self::Unlink(dir, name) => {
                let path = path(tree, *dir, name)?;
                if !tree.paths.contains_key(&path) {
                    return Err(vec![ENOENT]);
                }
                if tree.is_dir(&path) {
                    return Err(vec![EISDIR]);
                }
                tree.paths.remove(&path);
                tree.drop_unnamed();
            }
            Self::Rmdir(dir, name) => {
                let path = path(tree, *dir, name)?;
                if !tree.paths.contains_key(&path) {
                    return Err(vec![ENOENT]);
                }
                if !tree.is_dir(&path) {
                    return Err(vec![ENOTDIR]);
                }
                if !tree.is_empty(&path) {
                    return Err(vec![ENOTEMPTY]);
                }
                tree.paths.remove(&path);
                tree.drop_unnamed();
            }
            Self::Rename((from, name), (to, new_name), flags, whiteout) => {
                let source = path(tree, *from, name)?;
                let target = path(tree, *to, new_name)?;
                return rename(tree, &source, &target, *flags, *whiteout);
            }
            Self::SetAttr(id, mode, uid) => {
                there(tree, *id)?;
                let node = tree.nodes.get_mut(id).expect("it is there");
                if let Some(mode) = mode {
                    node.set_mode(*mode);
                }
                node.uid = uid.unwrap_or(node.uid);
            }
            Self::SetXattr(id, name, value, flags) => {
                there(tree, *id)?;
                let xattrs = &mut tree.nodes.get_mut(id).expect("it is there").xattrs;
                match xattrs.contains_key(name) {
                    true if flags.create => return Err(vec![EEXIST]),
                    false if flags.replace => return Err(vec![ENODATA]),
                    _ => {}
                }
                match value {
                    Some(value) => drop(xattrs.insert(name.clone(), value.clone())),
                    None => drop(xattrs.remove(name)),
                }
            }
            Self::SetAcl(id, default, entries) => {
                there(tree, *id)?;
                let node = tree.nodes.get_mut(id).expect("it is there");
                let name = if *default { DEFAULT } else { ACL_ACCESS };
                match entries {
                    Some(entries) => {
                        if !*default {
                            let mode = AclEntry::permissions(entries).expect("a whole list");
                            node.mode = node.mode & !0o777 | mode;
                        }
                        node.xattrs.insert(name.to_vec(), encode_acl(entries));
                    }
                    None => drop(node.xattrs.remove(name)),
                }
            }
            Self::Write(id, pos, seed, len) => {
                there(tree, *id)?;
                let mut all = tree.file(*id).to_vec();
                let pos = pos.map_or(all.len(), |pos| pos as usize);
                all.resize(all.len().max(pos + len), 0);
                all[pos..pos + len].copy_from_slice(&bytes(*seed, *len));
                tree.set_file(*id, all);
            }
            Self::Truncate(id, size) => {
                there(tree, *id)?;
                let mut all = tree.file(*id).to_vec();
                all.resize(*size as usize, 0);
                tree.set_file(*id, all);
            }
            Self::Allocate(id, range, keep_size) => {
                there(tree, *id)?;
                let mut all = tree.file(*id).to_vec();
                if !*keep_size && range.end as usize > all.len() {
                    all.resize(range.end as usize, 0);
                }
                tree.set_file(*id, all);
            }
        }
        Ok(())
    }
}

fn rename(
    tree: &mut Tree,
    from: &[u8],
    to: &[u8],
    flags: RenameFlags,
    whiteout: usize,
) -> Result<(), Vec<Error>> {
    let target = tree.paths.get(to).copied();
    let mut wrong = Vec::new();
    if flags.no_replace && target.is_some() {
        wrong.push(EEXIST);
    }
    let Some(source) = tree.paths.get(from).copied() else {
        // It may have been there when the names were looked up, one after the other.
        wrong.push(ENOENT);
        return Err(wrong);
    };
    if flags.exchange && target.is_none() {
        wrong.push(ENOENT);
    }
    if is_below(from, to) {
        wrong.push(EINVAL);
    }
    if is_below(to, from) {
        wrong.extend([EINVAL, ENOTEMPTY]);
    }
    if let (Some(target), false) = (target, flags.exchange) {
        let is_dir = |id: usize| tree.nodes[&id].kind == Kind::Dir;
        match (is_dir(source), is_dir(target)) {
            (true, false) => wrong.push(ENOTDIR),
            (false, true) => wrong.push(EISDIR),
            (true, true) if source != target && !tree.is_empty(to) => wrong.push(ENOTEMPTY),
            _ => {}
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    if Some(source) == target {
        return Ok(());
    }
    tree.rename(from, to, flags.exchange);
    if flags.whiteout {
        let node = Node {
            kind: Kind::Special(FileType::CharDevice, Some((0, 0))),
            mode: 0,
            uid: 0,
            xattrs: BTreeMap::new(),
        };
        tree.nodes.insert(whiteout, node);
        tree.paths.insert(from.to_vec(), whiteout);
    }
    Ok(())
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    /// The task gave it up.
    Dropped,
    Done(Result),
}

/// An operation, and when it was under way.
#[derive(Clone, Debug)]
struct Made {
    op: Op,
    outcome: Outcome,
    begun: u64,
    ended: u64,
}

/// How far things are: all that was done before a batch, and of that what the bits say.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    batch: usize,
    ops: u32,
}

impl Point {
    /// All that the other has, and more.
    fn has(self, other: Self) -> bool {
        self.batch > other.batch || self.batch == other.batch && self.ops & other.ops == other.ops
    }

    fn raise(&mut self, to: Self) {
        if to.batch > self.batch {
            *self = to;
        } else if to.batch == self.batch {
            self.ops |= to.ops;
        }
    }
}

/// How far things were when the power went.
#[derive(Clone, Debug, Default)]
struct Bounds {
    begun: Point,
    /// What has to be there of names and attributes, and of contents.
    names: Point,
    all_contents: Point,
    contents: BTreeMap<usize, Point>,
}

/// What tasks tell of how far they are.
#[derive(Default)]
struct Progress {
    clock: u64,
    ended: Point,
    attributes: BTreeMap<usize, Point>,
    contents: BTreeMap<usize, Point>,
    made: Vec<Option<Made>>,
    inos: BTreeMap<usize, Ino>,
    /// By the nodes of the tree that was read last.
    found: BTreeMap<usize, u32>,
    handles: BTreeMap<usize, OpenInode>,
    /// Keeps numbers of what the tasks are about from being given to others.
    pinned: Vec<InodeRef>,
}

impl Progress {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

/// A tree that there may have been.
struct State {
    ops: u32,
    tree: Tree,
    dump: String,
    /// The ones that it comes from.
    from: Vec<usize>,
}

impl State {
    fn first(tree: Tree) -> Self {
        Self {
            ops: 0,
            dump: tree.dump(),
            tree,
            from: Vec::new(),
        }
    }
}

/// What the tasks of a batch did.
#[derive(Debug)]
enum Step {
    /// The operation of this bit, by the VFS's functions or the API; given up at this poll.
    Op(usize, Op, bool, Option<usize>),
    /// By the VFS's functions or the API.
    Sync(Option<(usize, bool)>, bool),
}

/// What was changed since the last loss of power.
#[derive(Default)]
struct Doors {
    /// The trees that there may have been, batch by batch, and what happened in it.
    batches: Vec<(Vec<State>, String)>,
}

/// How often what happened.
static SEEN: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

fn seen(what: String) {
    *SEEN.lock().unwrap().entry(what).or_insert(0) += 1;
}

/// All trees that lead by some order of the operations to one that `is_there`.
fn explore(start: Tree, made: &[Option<Made>], is_there: impl Fn(&State) -> bool) -> Vec<State> {
    let mut states = vec![State::first(start)];
    let mut at = 0;
    while at < states.len() {
        for (bit, one) in made.iter().enumerate() {
            let ops = states[at].ops;
            let Some(one) = one else { continue };
            let later = |other: usize| {
                let other = made[other].as_ref().expect("it was made");
                other.begun > one.ended
            };
            if ops & 1 << bit != 0 || (0..made.len()).any(|n| ops & 1 << n != 0 && later(n)) {
                continue;
            }
            let mut tree = states[at].tree.clone();
            match (&one.outcome, one.op.apply(&mut tree)) {
                (Outcome::Dropped | Outcome::Done(Ok(())), Ok(())) => {}
                (Outcome::Done(Err(error)), Err(may)) if may.contains(error) => {}
                (Outcome::Done(Err(error)), _) if one.op.may_fail(*error) => {
                    tree = states[at].tree.clone();
                }
                _ => continue,
            }
            let ops = ops | 1 << bit;
            let same = |state: &&mut State| state.ops == ops && state.tree == tree;
            if let Some(state) = states[at + 1..].iter_mut().find(same) {
                state.from.push(at);
                continue;
            }
            states.push(State {
                ops,
                dump: tree.dump(),
                tree,
                from: vec![at],
            });
        }
        at += 1;
    }
    let done = |made: &Option<Made>| {
        let made = made.as_ref();
        made.is_some_and(|made| matches!(made.outcome, Outcome::Done(_)))
    };
    let wanted = (0..made.len()).filter(|bit| done(&made[*bit]));
    let wanted: u32 = wanted.map(|bit| 1 << bit).sum();
    let mut good = vec![false; states.len()];
    for at in (0..states.len()).rev() {
        let state = &states[at];
        if good[at] || state.ops & wanted == wanted && is_there(state) {
            good[at] = true;
            state.from.iter().for_each(|from| good[*from] = true);
        }
    }
    let mut good = good.into_iter();
    states.retain(|_| good.next() == Some(true));
    states
}

/// Chooses what is done.
struct Chooser<'a> {
    rng: &'a mut Rng,
    tree: Tree,
    names: &'a mut usize,
    /// What is expected to be there, whoever comes first.
    nodes: Vec<(usize, Kind)>,
}

impl Chooser<'_> {
    fn below(&mut self, n: u64) -> u64 {
        self.rng.below(n)
    }

    fn dir(&mut self) -> usize {
        let dirs: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| node.1 == Kind::Dir)
            .collect();
        match self.rng.below(dirs.len() as u64 + 2) as usize {
            n if n < dirs.len() => dirs[n].0,
            _ => ROOT,
        }
    }

    fn node(&mut self, which: impl Fn(&Kind) -> bool) -> Option<usize> {
        let all: Vec<_> = self.nodes.iter().filter(|node| which(&node.1)).collect();
        match all.len() as u64 {
            0 => None,
            // The last ones rather: the others of this batch are about them.
            len if self.rng.one_in(2) => {
                Some(all[(len - 1 - self.rng.below(len.min(3))) as usize].0)
            }
            len => Some(all[self.rng.below(len) as usize].0),
        }
    }

    fn file(&mut self) -> Option<usize> {
        self.node(|kind| matches!(kind, Kind::File(_)))
    }

    /// A name: a new one, or one that others choose, too.
    fn name(&mut self) -> Name {
        if self.rng.one_in(3) {
            return Name(format!("common{}", self.rng.below(3)).into_bytes());
        }
        *self.names += 1;
        let mut name = format!("d{}", self.names);
        let len = [4, 8, 60, 200][self.rng.below(4) as usize];
        while name.len() < len {
            name.push('x');
        }
        Name(name.into_bytes())
    }

    /// A directory, and a name that is in it, if there is one.
    fn named(&mut self) -> (usize, Name) {
        let at = self.below(self.tree.paths.len() as u64 + 1) as usize;
        let Some((path, _)) = self.tree.paths.iter().nth(at) else {
            return (self.dir(), self.name());
        };
        let (dir, name) = Tree::parent(path);
        let dir = self.tree.paths.get(dir).copied().unwrap_or(ROOT);
        (dir, Name(name.to_vec()))
    }

    fn acl(&mut self) -> Vec<AclEntry> {
        let mut perm = || self.rng.below(8) as u16;
        let entry = |tag, perm, id| AclEntry { tag, perm, id };
        vec![
            entry(1, perm(), 0),
            entry(2, perm(), 7),
            entry(4, perm(), 0),
            entry(16, perm(), 0),
            entry(32, perm(), 0),
        ]
    }

    fn make(&mut self) -> Op {
        let (dir, name, id) = (self.dir(), self.name(), self.tree.number());
        let mode = self.below(0o1000) as u16;
        let seed = self.rng.next();
        let kind = match self.below(8) {
            0 | 1 => Kind::Dir,
            2 => Kind::Special(FileType::Fifo, None),
            3 => Kind::Special(FileType::CharDevice, Some((1, 3))),
            4 => Kind::Link(bytes(seed, [5, 59, 60, 900][(seed % 4) as usize])),
            _ => Kind::File(Arc::default()),
        };
        let mut node = Node {
            kind: kind.clone(),
            mode,
            uid: 7,
            xattrs: BTreeMap::new(),
        };
        match kind {
            Kind::Link(_) => node.mode = 0o777,
            Kind::File(_) | Kind::Dir if self.rng.one_in(3) => {
                let acl = self.acl();
                node.mode = AclEntry::permissions(&acl).expect("a whole list");
                node.xattrs.insert(ACL_ACCESS.to_vec(), encode_acl(&acl));
            }
            _ => {}
        }
        self.nodes.push((id, kind));
        Op::Make(dir, name, id, node)
    }

    fn op(&mut self) -> Option<Op> {
        Some(match self.below(20) {
            0..=3 => self.make(),
            4 => {
                let (dir, id) = (self.dir(), self.tree.number());
                self.nodes.push((id, Kind::File(Arc::default())));
                Op::Tmpfile(dir, id, self.below(0o1000) as u16)
            }
            5 => Op::Open(self.file()?),
            6 => {
                let id = self.node(|kind| *kind != Kind::Dir)?;
                Op::Link(self.dir(), self.name(), id)
            }
            7 | 8 => {
                let (dir, name) = self.named();
                Op::Unlink(dir, name)
            }
            9 => {
                let (dir, name) = self.named();
                Op::Rmdir(dir, name)
            }
            10..=12 => {
                let to = match self.below(3) {
                    0 => self.named(),
                    _ => (self.dir(), self.name()),
                };
                let mut flags = RenameFlags::default();
                match self.below(6) {
                    0 => flags.no_replace = true,
                    1 | 2 => flags.exchange = true,
                    3 => flags.whiteout = true,
                    _ => {}
                }
                Op::Rename(self.named(), to, flags, self.tree.number())
            }
            13 => {
                let id = self.node(|kind| !matches!(kind, Kind::Link(_)))?;
                let mode = (!self.rng.one_in(4)).then(|| self.below(0o1000) as u16);
                let uid = self.rng.one_in(2).then(|| self.below(1000) as u32);
                Op::SetAttr(id, mode, uid)
            }
            14 | 15 => {
                let id = self.node(|kind| matches!(kind, Kind::File(_) | Kind::Dir))?;
                let name = format!("user.a{}", self.below(4)).into_bytes();
                let seed = self.rng.next();
                let value = bytes(seed, [0, 20, 300, 700][(seed % 4) as usize]);
                let value = (!self.rng.one_in(4)).then_some(value);
                let flags = XattrFlags {
                    create: value.is_some() && self.rng.one_in(4),
                    replace: value.is_none(),
                };
                Op::SetXattr(id, name, value, flags)
            }
            16 => {
                let default = self.rng.one_in(3);
                let id = self.node(|kind| match kind {
                    Kind::File(_) => !default,
                    kind => *kind == Kind::Dir,
                })?;
                Op::SetAcl(id, default, (!self.rng.one_in(4)).then(|| self.acl()))
            }
            17 => Op::Truncate(self.file()?, self.below(SIZE_MAX)),
            18 => {
                let (id, start) = (self.file()?, self.below(SIZE_MAX / 2));
                let len = 1 + self.below(SIZE_MAX / 3);
                Op::Allocate(id, start..start + len, self.rng.one_in(2))
            }
            _ => {
                let id = self.file()?;
                let len = [10, 1024, 5000, 30_000][self.below(4) as usize];
                let pos = (!self.rng.one_in(3)).then(|| self.below(SIZE_MAX / 2));
                Op::Write(id, pos, self.rng.next(), len)
            }
        })
    }

    /// What the tasks of a batch do.
    fn batch(&mut self) -> (Vec<Vec<Step>>, usize) {
        let (mut tasks, mut bit) = (Vec::new(), 0);
        for _ in 0..1 + self.below(4) {
            let mut steps = Vec::new();
            for _ in 0..1 + self.below(3) {
                if bit == AT_ONCE {
                    break;
                }
                let Some(op) = self.op() else { continue };
                let by_vfs = match &op {
                    Op::Make(.., node) => node.xattrs.is_empty() && self.rng.one_in(2),
                    Op::Tmpfile(..) | Op::Open(_) => false,
                    op => op.contents_of().is_none() && self.rng.one_in(2),
                };
                // The VFS waits for what it does.
                let gives_up = !by_vfs && self.rng.one_in(4);
                let polls = gives_up.then(|| self.below(6) as usize);
                let of = [op.contents_of(), op.attributes_of()];
                steps.push(Step::Op(bit, op, by_vfs, polls));
                bit += 1;
                if self.rng.one_in(3) {
                    let of = of.into_iter().flatten().next();
                    let of = of.filter(|_| !self.rng.one_in(3));
                    let datasync = self.rng.one_in(2);
                    steps.push(Step::Sync(of.map(|id| (id, datasync)), self.rng.one_in(3)));
                }
            }
            tasks.push(steps);
        }
        (tasks, bit)
    }
}

/// A volume by both doors.
struct Both<'a> {
    below: &'a sim::volume::Volume,
    api: Volume,
    now: &'a Mutex<Bounds>,
    progress: Mutex<Progress>,
}

impl Both<'_> {
    fn ino(&self, id: usize) -> Option<Ino> {
        match id {
            ROOT => Some(self.api.root()),
            id => self.progress.lock().unwrap().inos.get(&id).copied(),
        }
    }

    /// An inode was made, right now. If it is gone there is nothing more to be done with it.
    fn learn(&self, id: usize, ino: Ino) {
        let mut progress = self.progress.lock().unwrap();
        if let Ok(Some(info)) = self.below.0.iget_user_cached(layout::Ino(ino.0)) {
            progress.pinned.push(info);
            progress.inos.insert(id, ino);
        }
    }

    async fn pin(&self, tasks: &[Vec<Step>]) {
        for step in tasks.iter().flatten() {
            let Step::Op(_, op, ..) = step else { continue };
            for id in op.ids() {
                let Some(ino) = self.ino(id) else { continue };
                let info = self.iget(ino).await.expect("it is there");
                self.progress.lock().unwrap().pinned.push(info);
            }
        }
    }

    /// All inodes that an operation is about, if they have been made.
    fn inos(&self, op: &Op) -> Option<(Ino, Ino)> {
        let [one, other] = op.ids();
        Some((self.ino(one)?, self.ino(other)?))
    }

    /// By the Rust API.
    async fn by_api(&self, op: &Op, (one, other): (Ino, Ino)) -> Result {
        let api = &self.api;
        match op {
            Op::Make(_, name, id, node) => {
                let made = match &node.kind {
                    Kind::Link(target) => {
                        let new = &NewInode::with_mode(0o777).owned_by(7, 7);
                        let change = stack::Change::Symlink {
                            dir: one,
                            name,
                            target,
                            new,
                        };
                        api.change(change).await?
                    }
                    _ => api.create(one, name, &new_inode(node)).await?,
                };
                self.learn(*id, made);
            }
            Op::Tmpfile(_, id, mode) => {
                let new = NewInode::file(*mode).owned_by(7, 7);
                let made = api.tmpfile(one, &new).await?;
                self.learn(*id, made.ino());
                self.progress.lock().unwrap().handles.insert(*id, made);
            }
            Op::Open(id) => {
                let kept = api.open(one).await?;
                self.progress.lock().unwrap().handles.insert(*id, kept);
            }
            Op::Link(_, name, _) => drop(api.link(one, name, other).await?),
            Op::Unlink(_, name) => drop(api.unlink(one, name).await?),
            Op::Rmdir(_, name) => drop(api.rmdir(one, name).await?),
            Op::Rename((_, name), (_, new_name), flags, _) => {
                api.rename(one, name, other, new_name, *flags).await?;
            }
            Op::SetAttr(_, mode, uid) => {
                let set = SetAttr {
                    mode: *mode,
                    uid: *uid,
                    ..SetAttr::default()
                };
                api.set_attr(one, &set).await?;
            }
            Op::SetXattr(_, name, Some(value), flags) => {
                api.setxattr(one, name, value, *flags).await?;
            }
            Op::SetXattr(_, name, None, _) => drop(api.removexattr(one, name).await?),
            Op::SetAcl(_, default, acl) => {
                api.set_acl(one, *default, acl.as_deref()).await?;
            }
            Op::Write(_, pos, seed, len) => {
                let bytes = bytes(*seed, *len);
                let (_, count) = api.write_bytes(one, *pos, &bytes).await?;
                assert_eq!(count, *len);
            }
            Op::Truncate(_, size) => drop(api.truncate(one, *size).await?),
            Op::Allocate(_, range, keep) => {
                api.fallocate(one, range.clone(), *keep).await?;
            }
        }
        Ok(())
    }

    async fn iget(&self, ino: Ino) -> Result<InodeRef> {
        self.below.0.iget_user(layout::Ino(ino.0)).await
    }

    /// By the functions that the VFS calls.
    async fn by_vfs(&self, op: &Op, (one, other): (Ino, Ino)) -> Result {
        let fs = &self.below.0;
        let (one, other) = (self.iget(one).await?, self.iget(other).await?);
        match op {
            Op::Make(_, name, id, node) => {
                let new = new_inode(node);
                let device = match node.kind {
                    Kind::Special(_, Some((major, minor))) => Some(layout::Device { major, minor }),
                    _ => None,
                };
                let new = aext4::NewInode {
                    mode: new.mode,
                    uid: new.uid,
                    gid: new.gid,
                    device,
                    xattrs: &[],
                };
                let made = match &node.kind {
                    Kind::Link(target) => fs.symlink(&one, name, target, &new).await?,
                    _ => fs.create(&one, name, &new).await?,
                };
                self.learn(*id, Ino(made.ino.0));
            }
            Op::Link(_, name, _) => fs.link(&one, name, &other, true).await?,
            Op::Unlink(_, name) | Op::Rmdir(_, name) => {
                let child = fs.lookup(&one, name).await?.ok_or(ENOENT)?;
                match op {
                    // The VFS asks for that before.
                    Op::Unlink(..) if child.is_dir() => return Err(EISDIR),
                    Op::Unlink(..) => fs.unlink(&one, name, &child).await?,
                    _ if !child.is_dir() => return Err(ENOTDIR),
                    _ => fs.rmdir(&one, name, &child).await?,
                }
                fs.delete(child).await?;
            }
            Op::Rename((_, name), (_, new_name), flags, _) => {
                let source = fs.lookup(&one, name).await?.ok_or(ENOENT)?;
                let target = fs.lookup(&other, new_name).await?;
                if flags.no_replace && target.is_some() {
                    return Err(EEXIST);
                }
                let whiteout = aext4::NewInode {
                    mode: 0o020_000,
                    uid: 0,
                    gid: 0,
                    device: Some(layout::Device { major: 0, minor: 0 }),
                    xattrs: &[],
                };
                let rename = Rename {
                    from: &one,
                    name,
                    source: &source,
                    to: &other,
                    new_name,
                    target: target.as_deref(),
                    exchange: flags.exchange,
                    whiteout: flags.whiteout.then_some(&whiteout),
                };
                match fs.rename(rename).await {
                    // Made by the other door since it was looked up.
                    Err(EEXIST) => return Err(ESTALE),
                    done => done?,
                }
                if let Some(target) = target {
                    fs.delete(target).await?;
                }
            }
            Op::SetAttr(_, mode, uid) => {
                let set = SetAttributes {
                    mode: *mode,
                    uid: *uid,
                    ..SetAttributes::default()
                };
                fs.set_attributes(&one, &set).await?;
            }
            Op::SetXattr(_, name, value, flags) => {
                let flags = aext4::XattrFlags {
                    create: flags.create,
                    replace: flags.replace,
                };
                let name = name.strip_prefix(b"user.").expect("a user's");
                fs.set_xattr(&one, xattr::INDEX_USER, name, value.as_deref(), flags)
                    .await?;
            }
            Op::SetAcl(_, default, acl) => {
                let mode = match acl {
                    Some(acl) if !*default => {
                        let was = one.look(|inode| inode.mode);
                        Some(was & !0o777 | AclEntry::permissions(acl)?)
                    }
                    _ => None,
                };
                let acl = acl.as_deref().map(layout_acl);
                fs.set_acl(&one, *default, acl.as_deref(), mode).await?;
            }
            op => panic!("{op:?}"),
        }
        Ok(())
    }

    async fn make(&self, op: &Op, by_vfs: bool, inos: (Ino, Ino)) -> Result {
        if !by_vfs {
            return self.by_api(op, inos).await;
        }
        loop {
            match self.by_vfs(op, inos).await {
                // The VFS looks names up again.
                Err(ESTALE) => {
                    self.iget(inos.0).await?;
                    self.iget(inos.1).await?;
                }
                done => return done,
            }
        }
    }

    /// Makes something durable. What that is to be is known before, and holds behind it.
    async fn sync(&self, of: Option<(usize, bool)>, by_vfs: bool) {
        let progress = self.progress.lock().unwrap();
        let mut bounds = Bounds::default();
        let what = match of {
            None => {
                (bounds.names, bounds.all_contents) = (progress.ended, progress.ended);
                Durable::All
            }
            Some((id, datasync)) => {
                let Some(ino) = progress.inos.get(&id) else {
                    return;
                };
                if let Some(point) = progress.contents.get(&id) {
                    bounds.contents.insert(id, *point);
                }
                match datasync {
                    true => Durable::Data(*ino),
                    false => {
                        bounds.names = progress.attributes.get(&id).copied().unwrap_or_default();
                        Durable::Inode(*ino)
                    }
                }
            }
        };
        drop(progress);
        let done = match what {
            Durable::All if by_vfs => self.below.0.sync().await,
            Durable::Inode(ino) | Durable::Data(ino) if by_vfs => match self.iget(ino).await {
                Ok(info) => self.below.0.sync_inode(&info).await,
                Err(error) => Err(error),
            },
            what => self.api.make_durable(what).await,
        };
        match done {
            Ok(()) => {
                let mut now = self.now.lock().unwrap();
                now.names.raise(bounds.names);
                now.all_contents.raise(bounds.all_contents);
                for (id, point) in bounds.contents {
                    now.contents.entry(id).or_default().raise(point);
                }
                seen(format!("sync {}", of.is_some()));
            }
            // It was removed.
            Err(error) => assert_eq!((error, of.is_some()), (ESTALE, true)),
        }
    }

    async fn step(&self, batch: usize, step: Step) {
        upcall::simulation::jitter().await;
        let (bit, op, by_vfs, polls) = match step {
            Step::Sync(of, by_vfs) => return self.sync(of, by_vfs).await,
            Step::Op(bit, op, by_vfs, polls) => (bit, op, by_vfs, polls),
        };
        let Some(inos) = self.inos(&op) else {
            return;
        };
        let begun = self.progress.lock().unwrap().tick();
        let mut made = Made {
            op: op.clone(),
            outcome: Outcome::Dropped,
            begun,
            ended: u64::MAX,
        };
        // So that it is known also if the power goes meanwhile.
        self.progress.lock().unwrap().made[bit] = Some(made.clone());
        let point = Point {
            batch,
            ops: 1 << bit,
        };
        self.now.lock().unwrap().begun.raise(point);
        let make = self.make(&op, by_vfs, inos);
        let done = match polls {
            Some(polls) => dropped_after(polls, make).await,
            None => Some(make.await),
        };
        let mut progress = self.progress.lock().unwrap();
        if let Some(done) = done {
            made.outcome = Outcome::Done(done);
        }
        // Contents go on to change alone.
        if made.outcome != Outcome::Dropped || op.contents_of().is_none() {
            made.ended = progress.tick();
        }
        let word = op.word();
        match done {
            Some(Ok(())) => {
                progress.ended.raise(point);
                if let Some(id) = op.contents_of() {
                    progress.contents.entry(id).or_default().raise(point);
                }
                if let Some(id) = op.attributes_of() {
                    progress.attributes.entry(id).or_default().raise(point);
                }
                let door = if by_vfs { "VFS" } else { "API" };
                seen(format!("{word} by {door}"));
            }
            Some(Err(error)) => seen(format!("{word} {error:?}")),
            None => seen(format!("{word} dropped")),
        }
        if matches!(
            (&made.outcome, &op),
            (Outcome::Dropped, Op::Open(_) | Op::Tmpfile(..))
        ) {
            // Nobody has the handle.
            progress.made[bit] = None;
        } else {
            progress.made[bit] = Some(made);
        }
    }

    /// Makes progress of what the tree is now: the numbers of its inodes are known.
    async fn look(&self) -> (Tree, Kept) {
        let (got, inos) = read(self.below).await;
        let held: Vec<_> = {
            let progress = self.progress.lock().unwrap();
            progress.handles.keys().copied().collect()
        };
        let mut kept = Kept::new();
        for id in held {
            let info = self.iget(self.ino(id).expect("it was made")).await;
            kept.insert(id, read_node(self.below, &info.expect("it is kept")).await);
        }
        self.progress.lock().unwrap().found = inos;
        (got, kept)
    }

    /// The nodes of the model are the inodes that were found.
    fn know(&self, got: &Tree, tree: &Tree) {
        let mut progress = self.progress.lock().unwrap();
        for (path, id) in &tree.paths {
            let ino = Ino(progress.found[&got.paths[path]]);
            progress.inos.insert(*id, ino);
        }
        progress.inos.retain(|id, _| tree.nodes.contains_key(id));
    }

    /// Lets go of some of what is kept.
    fn let_go(&self, rng: &mut Rng, tree: &mut Tree) {
        let mut progress = self.progress.lock().unwrap();
        let mut gone = Vec::new();
        progress.handles.retain(|id, _| {
            let keep = !rng.one_in(4);
            if !keep {
                gone.push(*id);
            }
            keep
        });
        for id in gone {
            tree.held.remove(&id);
        }
        tree.drop_unnamed();
    }

    /// Several tasks at once. Gives the trees that there may have been.
    fn batch(
        &self,
        batch: usize,
        rng: &mut Rng,
        tree: &Tree,
        names: &mut usize,
    ) -> (Vec<State>, String) {
        let nodes = tree.nodes.iter();
        let mut chooser = Chooser {
            nodes: nodes.map(|(id, node)| (*id, node.kind.clone())).collect(),
            tree: tree.clone(),
            rng,
            names,
        };
        let (tasks, count) = chooser.batch();
        let mut tree = tree.clone();
        tree.next = chooser.tree.next;
        self.progress.lock().unwrap().made = vec![None; count];
        let shown: String = tasks.iter().map(|steps| format!("{steps:?}\n")).collect();
        block_on(self.pin(&tasks)).expect("no deadlock");
        let tasks = tasks.into_iter().map(|steps| async move {
            for step in steps {
                self.step(batch, step).await;
            }
        });
        let done = block_on(join_all(tasks).expect("memory")).expect("no deadlock");
        drop(done.expect("memory"));
        self.progress.lock().unwrap().pinned.clear();
        let made = core::mem::take(&mut self.progress.lock().unwrap().made);
        if made.iter().flatten().any(|made| made.ended == u64::MAX) {
            block_on(upcall::sleep(GOES_ON)).expect("no deadlock");
        }
        let (got, kept) = block_on(self.look()).expect("no deadlock");
        let dump = got.dump();
        let is_there = |state: &State| {
            state.dump == dump
                && got.paths.iter().all(|(path, id)| {
                    let node = &state.tree.nodes[&state.tree.paths[path]];
                    got.nodes[id].kind == node.kind
                })
                && kept
                    .iter()
                    .all(|(id, node)| state.tree.nodes.get(id) == Some(node))
        };
        let before = tree.dump();
        let states = explore(tree, &made, is_there);
        let Some(last) = states.last() else {
            let what = difference(&before, &dump);
            panic!("{shown}\n{}\nno order of these makes{what}", words(&made));
        };
        for (bit, made) in made.iter().enumerate() {
            if let Some(Made {
                op,
                outcome: Outcome::Dropped,
                ..
            }) = made
            {
                let there = last.ops & 1 << bit != 0;
                seen(format!(
                    "{} dropped, {}",
                    op.word(),
                    if there { "whole" } else { "absent" }
                ));
            }
        }
        self.know(&got, &last.tree);
        (states, words(&made))
    }

    /// One change, by the functions that the VFS calls, of contents too.
    fn alone(&self, batch: usize, changer: &mut Changer<'_>) -> (Vec<State>, String) {
        let before = changer.tree.clone();
        let point = Point { batch, ops: 1 };
        self.now.lock().unwrap().begun.raise(point);
        let what = block_on(changer.change()).expect("no deadlock");
        let tree = changer.tree.clone();
        let (got, _) = block_on(self.look()).expect("no deadlock");
        let (is, wanted) = (got.dump(), tree.dump());
        assert!(is == wanted, "{what}: {}", difference(&is, &wanted));
        self.know(&got, &tree);
        let mut progress = self.progress.lock().unwrap();
        progress.ended.raise(point);
        for (id, node) in &tree.nodes {
            let changed = before.nodes.get(id).map(|node| &node.kind) != Some(&node.kind);
            if changed {
                progress.contents.entry(*id).or_default().raise(point);
            }
        }
        let state = State {
            ops: 1,
            dump: tree.dump(),
            tree,
            from: Vec::new(),
        };
        (vec![state], what)
    }
}

/// What is kept.
type Kept = BTreeMap<usize, Node>;

/// Operations, by their bits, in words.
fn words(made: &[Option<Made>]) -> String {
    let words = |(bit, made): (usize, &Option<Made>)| {
        let made = made.as_ref()?;
        let (from, to) = (made.begun, made.ended);
        let op = format!("{:?}", made.op);
        Some(format!(
            "{} {from}..{to}: {op} {:?}\n",
            1 << bit,
            made.outcome
        ))
    };
    made.iter().enumerate().filter_map(words).collect()
}

/// What lines of the second are not in the first, and what are not in the second.
fn difference(first: &str, second: &str) -> String {
    let lines = |of: &str, not: &str, sign: &str| -> String {
        let rest = of
            .lines()
            .filter(|line| !not.lines().any(|other| other == *line));
        rest.map(|line| format!("\n  {sign} {line}")).collect()
    };
    lines(second, first, "+") + &lines(first, second, "-")
}

fn new_inode(node: &Node) -> NewInode {
    let (kind, device) = match &node.kind {
        Kind::Dir => (0o040_000, None),
        Kind::File(_) => (0o100_000, None),
        Kind::Link(_) => (0o120_000, None),
        Kind::Special(FileType::Fifo, _) => (0o010_000, None),
        Kind::Special(_, device) => (0o020_000, *device),
    };
    let mut new = NewInode::with_mode(kind | node.mode).owned_by(7, 7);
    new.device = device.unwrap_or_default();
    new.acl = node.xattrs.get(ACL_ACCESS).map(|acl| decode_acl(acl));
    new
}

fn layout_acl(entries: &[AclEntry]) -> Vec<layout::AclEntry> {
    let entries = entries.iter().map(|entry| {
        let tag = match entry.tag {
            1 => AclTag::UserObj,
            2 => AclTag::User(entry.id),
            4 => AclTag::GroupObj,
            16 => AclTag::Mask,
            _ => AclTag::Other,
        };
        layout::AclEntry {
            tag,
            perm: entry.perm,
        }
    });
    entries.collect()
}

impl Story for Doors {
    type Bounds = Bounds;

    fn live(&mut self, seed: u64, store: Store) -> Vec<Lost<Bounds>> {
        simulate_on(varied(seed), store, |bed| {
            let volume = mount(bed);
            let (tree, inos) = block_on(read(&volume)).expect("no deadlock");
            make_writable(&volume);
            machine::take_log();
            let now = Arc::new(Mutex::new(Bounds::default()));
            let lost = record(bed, seed ^ 1, STATES, &now);
            let inos = inos.into_iter().map(|(id, ino)| (id, Ino(ino))).collect();
            let both = Both {
                below: &volume,
                api: Volume::new(volume.0.clone()).expect("memory"),
                now: &now,
                progress: Mutex::new(Progress {
                    inos,
                    ..Progress::default()
                }),
            };
            let mut changer = Changer {
                volume: &volume,
                rng: Rng::new(seed ^ 2),
                tree,
                next: (seed % 100_000) as usize * 1000,
            };
            let (mut rng, mut names) = (Rng::new(seed ^ 3), changer.next);
            self.batches.clear();
            self.push(vec![State::first(changer.tree.clone())], "before");
            for batch in 1..=BATCHES {
                both.let_go(&mut rng, &mut changer.tree);
                if rng.one_in(3) {
                    // What is asked for next is on the disk.
                    volume.0.shrink(usize::MAX);
                    volume.0.cache.shrink(usize::MAX);
                }
                if rng.one_in(4) {
                    let states = both.alone(batch, &mut changer);
                    self.push(states.0, &states.1);
                    continue;
                }
                let (states, what) = both.batch(batch, &mut rng, &changer.tree, &mut names);
                changer.tree = states.last().expect("a state").tree.clone();
                self.push(states, &what);
            }
            block_on(both.sync(None, false)).expect("no deadlock");
            drop(both);
            block_on(volume.0.make_read_only()).unwrap().expect("ended");
            let lost = core::mem::take(&mut *lost.lock().unwrap());
            lost
        })
    }

    /// On some way that the tasks may have gone the tree is as it is here.
    fn check(&self, got: &Tree, bounds: &Bounds) -> Result<(), String> {
        let may = |least: Point| {
            let states = self
                .batches
                .iter()
                .enumerate()
                .flat_map(|(batch, (states, _))| {
                    states.iter().map(move |state| {
                        (
                            Point {
                                batch,
                                ops: state.ops,
                            },
                            state,
                        )
                    })
                });
            states.filter(move |(at, _)| at.has(least) && bounds.begun.has(*at))
        };
        let dump = got.dump();
        let mut why = String::new();
        for (_, state) in may(bounds.names).filter(|(_, state)| state.dump == dump) {
            let wrong = got.paths.iter().find(|(path, id)| {
                let Kind::File(bytes) = &got.nodes[id].kind else {
                    return false;
                };
                let node = state.tree.paths[*path];
                let mut least = bounds.all_contents;
                least.raise(bounds.contents.get(&node).copied().unwrap_or_default());
                let mut versions: Vec<&Arc<Vec<u8>>> = Vec::new();
                for (_, state) in may(least) {
                    if state.tree.nodes.contains_key(&node) {
                        let version = state.tree.file(node);
                        if !versions.iter().any(|other| Arc::ptr_eq(other, version)) {
                            versions.push(version);
                        }
                    }
                }
                let same = versions.iter().any(|version| *version == bytes);
                let versions: Vec<&[u8]> = versions.iter().map(|version| &version[..]).collect();
                !same && !may_be(bytes, &versions)
            });
            match wrong {
                None => return Ok(()),
                Some((path, _)) => why = format!("contents of {}", String::from_utf8_lossy(path)),
            }
        }
        let mut out = format!("{why}: it is none of these, at {bounds:?}:\n");
        let mut shown = usize::MAX;
        for (at, state) in may(bounds.names) {
            if shown != at.batch {
                shown = at.batch;
                writeln!(out, "{}", self.batches[shown].1).unwrap();
            }
            writeln!(out, "{at:?} has{}", difference(&dump, &state.dump)).unwrap();
        }
        Err(out)
    }
}

impl Doors {
    fn push(&mut self, states: Vec<State>, what: &str) {
        self.batches.push((states, what.to_string()));
    }
}

#[test]
fn what_both_doors_change_survives_one_loss_of_power_after_the_other() {
    let runs = sim::count("UPCALL_DOORS", 25);
    let began = Instant::now();
    let (runs, states) = lives::all::<Doors>("doors", runs);
    println!("{states} states in {:?}", began.elapsed());
    let seen = SEEN.lock().unwrap();
    println!("{seen:#?}");
    if runs < 25 {
        return;
    }
    assert!(states > 200 * runs, "{states}");
    let words = [
        "Make", "Link", "Unlink", "Rmdir", "Rename", "SetAttr", "SetXattr", "SetAcl",
    ];
    for word in words {
        for how in ["by API", "by VFS"] {
            let what = format!("{word} {how}");
            assert!(seen.contains_key(&what), "{what}");
        }
    }
    for word in ["Write", "Truncate", "Allocate"] {
        for how in ["by API", "dropped, absent", "dropped, whole"] {
            let what = format!("{word} {how}");
            assert!(seen.contains_key(&what), "{what}");
        }
    }
    let whole = words.map(|word| format!("{word} dropped, whole"));
    assert!(whole.iter().any(|what| seen.contains_key(what)));
    for what in [
        "Tmpfile by API",
        "Make dropped, absent",
        "Rename dropped, absent",
        "sync true",
        "sync false",
    ] {
        assert!(seen.contains_key(what), "{what}");
    }
}
