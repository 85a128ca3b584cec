// SPDX-License-Identifier: GPL-2.0

//! Layers: the tree of one in words, and the same random operations on two of them.

use kernel::machine::Rng;
use kernel::prelude::*;
use stack::{AsyncStackable, Change, Ino, OpenInode, RenameFlags};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;
use upcall::Block;
use vfs::{AclEntry, Attr, FileType, NewInode, SetAttr, Time, XattrFlags};

/// The flags of inodes that show how a volume keeps its files.
const OF_FORMAT: u32 = 0x1000 | 0x8_0000 | 0x1000_0000;

/// All names of a directory but "." and "..", sorted, with what they lead to.
pub async fn names<L: AsyncStackable>(fs: &L, dir: Ino) -> Result<Vec<(Vec<u8>, Ino, FileType)>> {
    let mut entries = fs.entries(dir, 0);
    let mut names = Vec::new();
    while let Some(entry) = entries.next().await? {
        if entry.name != b"." && entry.name != b".." {
            names.push((entry.name.to_vec(), Ino(entry.ino), entry.file_type));
        }
    }
    names.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

/// The contents of a file; of a very long one, which has holes, where the random operations write.
pub async fn contents<L: AsyncStackable>(fs: &L, ino: Ino) -> Result<Vec<u8>> {
    let size = fs.stat(ino).await?.size;
    if size < 1 << 20 {
        let bytes = fs.read_to_end(ino, 1 << 20).await?;
        return Ok(bytes.as_slice().to_vec());
    }
    let page = Block::SIZE as u64;
    let mut all = Vec::new();
    let mut block = Block::vacant();
    for at in (0..12)
        .chain((1 << 20)..(1 << 20) + 4)
        .chain([(size - 1) / page])
    {
        let count = fs.read(ino, at * page, &mut block).await?;
        all.extend_from_slice(&block.as_slice()[..count]);
    }
    Ok(all)
}

/// The names of attributes, sorted, with their values.
pub async fn xattrs<L: AsyncStackable>(fs: &L, ino: Ino) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let names = fs.listxattr(ino).await?;
    let mut all = Vec::new();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let value = fs.getxattr(ino, name).await?;
        all.push((name.to_vec(), value.as_slice().to_vec()));
    }
    all.sort();
    Ok(all)
}

/// What an inode is, in words, but for its times.
pub async fn describe<L: AsyncStackable>(fs: &L, ino: Ino) -> Result<String> {
    let attr = fs.stat(ino).await?;
    let mut out = format!(
        "{:o} {} {}:{} {:?} {:#x}",
        attr.mode,
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.device,
        attr.flags & !OF_FORMAT
    );
    match attr.file_type {
        FileType::Regular => {
            let bytes = contents(fs, ino).await?;
            let sum = disk::checksum::crc32c(!0, &bytes);
            write!(out, " {} {sum:08x}", attr.size).expect("a string");
        }
        FileType::Symlink => {
            let target = fs.readlink(ino).await?;
            write!(out, " -> {}", String::from_utf8_lossy(&target)).expect("a string");
        }
        _ => {}
    }
    for (name, value) in xattrs(fs, ino).await? {
        let name = String::from_utf8_lossy(&name);
        write!(out, " {name}={value:?}").expect("a string");
    }
    Ok(out)
}

/// All of a tree, in words, but for times. Hard links show by the path that comes first.
pub async fn dump<L: AsyncStackable>(fs: &L) -> Result<String> {
    let mut out = String::new();
    let mut seen = BTreeMap::new();
    let mut left = vec![(String::new(), fs.root())];
    while let Some((path, dir)) = left.pop() {
        writeln!(out, "{path}/ {}", describe(fs, dir).await?).expect("a string");
        let mut below = Vec::new();
        for (name, ino, file_type) in names(fs, dir).await? {
            let path = format!("{path}/{}", String::from_utf8_lossy(&name));
            assert_eq!(fs.lookup(dir, &name).await?, ino, "{path}");
            let attr = fs.stat(ino).await?;
            assert!(file_type == FileType::Unknown || file_type == attr.file_type);
            if attr.file_type == FileType::Directory {
                assert_eq!(fs.lookup(ino, b"..").await?, dir, "{path}");
                below.push((path, ino));
            } else if let Some(first) = seen.get(&ino) {
                writeln!(out, "{path} = {first}").expect("a string");
            } else {
                writeln!(out, "{path} {}", describe(fs, ino).await?).expect("a string");
                seen.insert(ino, path);
            }
        }
        left.extend(below.into_iter().rev());
    }
    Ok(out)
}

/// What is known of an inode of both.
struct Node {
    inos: [Ino; 2],
    times: [[(i64, u32); 3]; 2],
}

/// Two layers that have to do the same, whatever is done.
pub struct Both<A, B> {
    /// The one.
    pub first: A,
    /// The other.
    pub second: B,
    /// By what the operations are chosen.
    pub rng: Rng,
    /// How often each result came of an operation.
    pub seen: BTreeMap<String, u64>,
    nodes: Vec<Node>,
    handles: Vec<[OpenInode; 2]>,
    /// Whether there are all operations: directories may not be to be renamed (`EXDEV`), nor count
    /// those in them, and handles may not keep what was not changed.
    pub whole: bool,
    /// Whether the same times change.
    pub timely: bool,
}

fn times(attr: &Attr) -> [(i64, u32); 3] {
    [attr.atime, attr.mtime, attr.ctime].map(|time: Time| (time.secs, time.nanos))
}

/// The same operation on both, whose results are compared.
macro_rules! both {
    ($this:ident, $what:expr, $fs:ident, $n:ident => $op:expr) => {{
        let one = {
            let ($fs, $n) = (&$this.first, 0usize);
            $op
        };
        let other = {
            let ($fs, $n) = (&$this.second, 1usize);
            $op
        };
        let (a, b) = (one.as_ref().err(), other.as_ref().err());
        match $this.whole {
            true => assert_eq!(a, b, "{}", $what),
            // What is wrong first is not.
            false => assert_eq!(a.is_some(), b.is_some(), "{} {a:?} {b:?}", $what),
        }
        let result = a.map_or("done".into(), |error| format!("{error:?}"));
        let word = $what.split(' ').next().unwrap_or("").to_string();
        *$this.seen.entry(format!("{word} {result}")).or_insert(0) += 1;
        one.ok().zip(other.ok())
    }};
}

impl<A: AsyncStackable, B: AsyncStackable> Both<A, B> {
    /// Of two layers whose roots are empty.
    pub fn new(first: A, second: B, seed: u64) -> Self {
        let root = Node {
            inos: [first.root(), second.root()],
            times: Default::default(),
        };
        Self {
            first,
            second,
            rng: Rng::new(seed),
            seen: BTreeMap::new(),
            nodes: vec![root],
            handles: Vec::new(),
            whole: true,
            timely: true,
        }
    }

    fn some(&mut self) -> [Ino; 2] {
        let n = self.rng.below(self.nodes.len() as u64) as usize;
        self.nodes[n].inos
    }

    async fn some_dir(&mut self) -> [Ino; 2] {
        for _ in 0..20 {
            let inos = self.some();
            if let Ok(attr) = self.first.stat(inos[0]).await {
                if attr.file_type == FileType::Directory || self.rng.one_in(20) {
                    return inos;
                }
            }
        }
        self.nodes[0].inos
    }

    fn some_name(&mut self) -> Vec<u8> {
        match self.rng.below(40) {
            0 => b".".to_vec(),
            1 => b"..".to_vec(),
            2 => Vec::new(),
            3 => vec![b'l'; 255],
            4 => vec![b'l'; 256],
            5 => b"a/b".to_vec(),
            6 => b"a\0b".to_vec(),
            n => format!("name{}", n % 7).into_bytes(),
        }
    }

    fn some_pos(&mut self) -> u64 {
        match self.rng.below(12) {
            0 => 1 << 32,
            1 => ((1 << 32) - 1) << 12,
            2 => u64::MAX - 5,
            3 => 4096,
            4 => 8192,
            _ => self.rng.below(20_000),
        }
    }

    fn some_bytes(&mut self) -> Vec<u8> {
        let len = [0, 1, 5, 100, 4096, 5000, 12_288][self.rng.below(7) as usize];
        let mut byte = self.rng.next() as u8;
        let mut bytes = Vec::new();
        bytes.resize_with(len, || {
            byte = byte.wrapping_mul(5).wrapping_add(1);
            byte
        });
        bytes
    }

    fn some_new(&mut self) -> NewInode {
        let mode = 0o644 ^ self.rng.below(0o10000) as u16;
        let types = [
            0o100_000, 0o100_000, 0o100_000, 0o040_000, 0o040_000, 0o020_000, 0o060_000, 0o010_000,
            0o140_000, 0o120_000, 0,
        ];
        let types = types[self.rng.below(types.len() as u64) as usize];
        let (uid, gid) = (self.rng.below(3) as u32, self.rng.below(3) as u32);
        let mut new = NewInode::with_mode(types | mode & 0o7777).owned_by(uid, gid);
        new.device = (self.rng.below(300) as u32, self.rng.below(300) as u32);
        new
    }

    fn acl(&mut self) -> Option<Vec<AclEntry>> {
        let entry = |tag, perm, id| AclEntry { tag, perm, id };
        match self.rng.below(6) {
            0 => None,
            1 => Some(Vec::new()),
            2 => Some(vec![entry(1, 7, 0), entry(4, 5, 0), entry(32, 4, 0)]),
            3 => Some(vec![entry(1, 7, 0), entry(32, 4, 0), entry(4, 5, 0)]),
            4 => Some(vec![
                entry(1, 6, 0),
                entry(2, 4, 7),
                entry(4, 5, 0),
                entry(32, 1, 0),
            ]),
            _ => Some(vec![
                entry(1, 6, 0),
                entry(2, 4, 7),
                entry(4, 5, 0),
                entry(8, 4, 1),
                entry(16, 6, 0),
                entry(32, 1, 0),
            ]),
        }
    }

    /// What was made, or found, is known from now on.
    fn learn(&mut self, inos: [Ino; 2]) {
        let known = |node: &&Node| node.inos[0] == inos[0] || node.inos[1] == inos[1];
        match self.nodes.iter().find(known) {
            Some(node) => assert_eq!(node.inos, inos),
            None => self.nodes.push(Node {
                inos,
                times: Default::default(),
            }),
        }
    }

    /// What is known is the same on both: whether it is there, its attributes, and which of its
    /// times the last operation has changed.
    async fn compare(&mut self, what: &str) {
        let mut n = 0;
        while let Some(node) = self.nodes.get_mut(n) {
            let attrs = [
                self.first.stat(node.inos[0]).await,
                self.second.stat(node.inos[1]).await,
            ];
            let [one, other] = match attrs {
                [Ok(one), Ok(other)] => [one, other],
                [one, other] => {
                    assert_eq!(one.err(), Some(ESTALE), "{what}");
                    assert_eq!(other.err(), Some(ESTALE), "{what}");
                    self.nodes.swap_remove(n);
                    continue;
                }
            };
            let whole = self.whole;
            let words = |attr: &Attr| {
                let is_dir = attr.file_type == FileType::Directory;
                let size = (!is_dir).then_some(attr.size);
                let links = (whole || !is_dir).then_some(attr.nlink);
                format!(
                    "{:o} {:?} {}:{} {:?} {size:?} {:#x} {:?}",
                    attr.mode,
                    links,
                    attr.uid,
                    attr.gid,
                    attr.device,
                    attr.flags & !OF_FORMAT,
                    attr.file_type,
                )
            };
            let of = node.inos;
            assert_eq!(words(&one), words(&other), "{what} of {of:?}");
            let now = [times(&one), times(&other)];
            let changed = |n: usize| {
                let times = node.times[n].iter().zip(&now[n]);
                times.map(|(was, is)| was != is).collect::<Vec<_>>()
            };
            if self.timely {
                assert_eq!(changed(0), changed(1), "{what}: times of {of:?}");
            }
            node.times = now;
            n += 1;
        }
    }

    /// Does something to both, and compares.
    pub async fn step(&mut self) {
        // So that times differ.
        upcall::sleep(Duration::from_millis(20)).await;
        let what = self.change().await;
        self.compare(&what).await;
    }

    async fn change(&mut self) -> String {
        let (dir, name) = (self.some_dir().await, self.some_name());
        let shown = String::from_utf8_lossy(&name).into_owned();
        let n = self.rng.below(24);
        match n {
            21 if !self.whole => "nothing".into(),
            0..=4 => {
                let new = self.some_new();
                let what = format!("create {dir:?} {shown} {:o}", new.mode);
                if let Some((a, b)) =
                    both!(self, what, fs, n => fs.create(dir[n], &name, &new).await)
                {
                    self.learn([a, b]);
                }
                what
            }
            5 => {
                let lens = [0, 1, 30, 59, 60, 61, 300, 4094, 4095, 4096];
                let target = vec![b't'; lens[self.rng.below(10) as usize]];
                let what = format!("symlink {dir:?} {shown} {}", target.len());
                if let Some((a, b)) =
                    both!(self, what, fs, n => fs.symlink(dir[n], &name, &target).await)
                {
                    self.learn([a, b]);
                }
                what
            }
            6 => {
                let of = self.some();
                let what = format!("link {dir:?} {shown} {of:?}");
                both!(self, what, fs, n => fs.link(dir[n], &name, of[n]).await);
                what
            }
            7 | 8 => {
                let what = format!("unlink {dir:?} {shown}");
                both!(self, what, fs, n => fs.unlink(dir[n], &name).await);
                what
            }
            9 => {
                let what = format!("rmdir {dir:?} {shown}");
                both!(self, what, fs, n => fs.rmdir(dir[n], &name).await);
                what
            }
            10..=12 => {
                let (to, new_name) = (self.some_dir().await, self.some_name());
                let flags = RenameFlags {
                    no_replace: self.rng.one_in(6),
                    exchange: self.rng.one_in(3),
                    whiteout: self.whole && self.rng.one_in(6),
                };
                let other = String::from_utf8_lossy(&new_name).into_owned();
                let what = format!("rename {dir:?} {shown} {to:?} {other} {flags:?}");
                if !self.whole {
                    let there = &self.second;
                    let lower = there.rename(dir[1], &name, to[1], &new_name, flags).await;
                    if lower == Err(EXDEV) {
                        *self.seen.entry("rename below".into()).or_insert(0) += 1;
                        return what;
                    }
                    let here = &self.first;
                    let wanted = here.rename(dir[0], &name, to[0], &new_name, flags).await;
                    assert_eq!(
                        wanted.is_err(),
                        lower.is_err(),
                        "{what} {wanted:?} {lower:?}"
                    );
                    *self
                        .seen
                        .entry(format!("rename {:?}", lower.err()))
                        .or_insert(0) += 1;
                    return what;
                }
                let moved = both!(self, what, fs, n =>
                    fs.rename(dir[n], &name, to[n], &new_name, flags).await);
                if flags.whiteout && moved.is_some() {
                    if let Some((a, b)) =
                        both!(self, "lookup", fs, n => fs.lookup(dir[n], &name).await)
                    {
                        self.learn([a, b]);
                    }
                }
                what
            }
            13 | 14 => self.set_attr().await,
            15 => {
                let of = self.some();
                let names: [&[u8]; 9] = [
                    b"user.a",
                    b"user.b",
                    b"trusted.c",
                    b"security.d",
                    b"system.e",
                    b"user.",
                    b"system.posix_acl_access",
                    b"nothing",
                    b"user.\0",
                ];
                let name = names[self.rng.below(names.len() as u64) as usize];
                let value = vec![b'v'; self.rng.below(30) as usize];
                let value = (!self.rng.one_in(4)).then_some(&value[..]);
                let flags = XattrFlags {
                    create: value.is_some() && self.rng.one_in(4),
                    replace: self.rng.one_in(4),
                };
                let what = format!("setxattr {of:?} {name:?} {value:?} {flags:?}");
                both!(self, what, fs, n => {
                    let change = Change::SetXattr { ino: of[n], name, value, flags };
                    fs.change(change).await
                });
                what
            }
            16 => {
                let (of, acl, default) = (self.some(), self.acl(), self.rng.one_in(2));
                let what = format!("set_acl {of:?} {default} {}", acl.is_some());
                both!(self, what, fs, n => fs.set_acl(of[n], default, acl.as_deref()).await);
                what
            }
            17 => {
                let (of, size) = (self.some(), self.some_pos());
                let what = format!("truncate {of:?} {size}");
                both!(self, what, fs, n => fs.truncate(of[n], size).await);
                what
            }
            18 => {
                let (of, start) = (self.some(), self.rng.below(20_000));
                let range = start..start + self.rng.below(9000);
                let keep = self.rng.one_in(2);
                let what = format!("fallocate {of:?} {range:?} {keep}");
                both!(self, what, fs, n => fs.fallocate(of[n], range.clone(), keep).await);
                what
            }
            19 | 20 => {
                let (of, bytes) = (self.some(), self.some_bytes());
                let pos = (!self.rng.one_in(3)).then(|| self.some_pos());
                let what = format!("write {of:?} {pos:?} {}", bytes.len());
                let done = both!(self, what, fs, n => fs.write_bytes(of[n], pos, &bytes).await);
                if let Some((a, b)) = done {
                    assert_eq!(a, b, "{what}");
                }
                what
            }
            21 => {
                let of = self.some();
                let what = format!("open {of:?}");
                let handles = both!(self, what, fs, n => fs.open(of[n]).await);
                if let Some((a, b)) = handles {
                    self.handles.push([a, b]);
                }
                what
            }
            22 => {
                let new = self.some_new();
                let what = format!("tmpfile {dir:?} {:o}", new.mode);
                let handles = both!(self, what, fs, n => fs.tmpfile(dir[n], &new).await);
                if let Some((a, b)) = handles {
                    self.learn([a.ino(), b.ino()]);
                    self.handles.push([a, b]);
                }
                what
            }
            _ => {
                let what = format!("look {dir:?} {shown}");
                if let Some((a, b)) = both!(self, what, fs, n => fs.lookup(dir[n], &name).await) {
                    self.learn([a, b]);
                }
                let of = self.some();
                both!(self, "readlink", fs, n => fs.readlink(of[n]).await);
                let pos = self.some_pos();
                let mut blocks = [Block::vacant(), Block::vacant()];
                let read = both!(self, "read", fs, n => fs.read(of[n], pos, &mut blocks[n]).await);
                if let Some((a, b)) = read {
                    assert_eq!(a, b, "{of:?} {pos}");
                    assert!(blocks[0].as_slice() == blocks[1].as_slice());
                }
                if self.rng.one_in(2) && !self.handles.is_empty() {
                    let n = self.rng.below(self.handles.len() as u64) as usize;
                    self.handles.swap_remove(n);
                }
                what
            }
        }
    }

    async fn set_attr(&mut self) -> String {
        let of = self.some();
        let was = [
            self.first.stat(of[0]).await.map_or(0, |attr| attr.flags),
            self.second.stat(of[1]).await.map_or(0, |attr| attr.flags),
        ];
        let rng = &mut self.rng;
        let time = Time {
            secs: 1_000_000_000 + rng.below(1000) as i64,
            nanos: rng.below(1000) as u32,
        };
        let set = SetAttr {
            mode: rng.one_in(2).then(|| rng.below(0o10000) as u16),
            uid: rng.one_in(3).then(|| rng.below(3) as u32),
            gid: rng.one_in(3).then(|| rng.below(3) as u32),
            project: rng.one_in(9).then(|| rng.below(2) as u32),
            atime: rng.one_in(4).then_some(time),
            mtime: rng.one_in(4).then_some(time),
            ..SetAttr::default()
        };
        // Those that keep others from changing it are a matter of who asks.
        let bits = [0x40, 0x80, 0x8, 0x1_0000, 0x2_0000, 0x4000, 0x4000_0000];
        let flip =
            (rng.one_in(4) && self.whole).then(|| bits[rng.below(bits.len() as u64) as usize]);
        let what = format!("set_attr {of:?} {:?} {flip:?} {:?}", set.mode, set.project);
        both!(self, what, fs, n => {
            let flags = flip.map(|flip| was[n] ^ flip);
            fs.set_attr(of[n], &SetAttr { flags, ..set }).await
        });
        what
    }

    /// Lets go of what is open, and compares the trees as a whole.
    pub async fn finish(&mut self) {
        self.handles.clear();
        let one = dump(&self.first).await.expect("a tree");
        let other = dump(&self.second).await.expect("a tree");
        assert_eq!(self.comparable(&one), self.comparable(&other));
    }

    /// What of a tree in words is to be the same.
    pub fn comparable(&self, tree: &str) -> String {
        let links = |line: &str| match line.split_once("/ ") {
            Some((path, rest)) if !self.whole => {
                let mut words: Vec<_> = rest.split(' ').collect();
                words.remove(1);
                format!("{path}/ {}\n", words.join(" "))
            }
            _ => format!("{line}\n"),
        };
        tree.lines().map(links).collect()
    }
}
