// SPDX-License-Identifier: GPL-2.0

//! Random changes of a volume, one after the other, by the functions that the VFS calls.

use crate::lives::{bytes, is_below, Kind, Node, Tree};
use crate::volume::Volume;
use aext4::xattr_write::XattrFlags;
use aext4::{Ext4, InodeRef, NewInode, Rename, SetAttributes};
use kernel::machine::Rng;
use kernel::prelude::*;
use layout::xattr::INDEX_USER;
use layout::FileType;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest file.
pub const SIZE_MAX: u64 = 150_000;

/// What changes a volume, and the model with it.
pub struct Changer<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// By what changes are chosen.
    pub rng: Rng,
    /// What is there.
    pub tree: Tree,
    /// The number in the next name.
    pub next: usize,
}

impl Changer<'_> {
    /// A path to one of those that `which` chooses.
    pub fn pick(&mut self, which: impl Fn(&Node) -> bool) -> Option<Vec<u8>> {
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

    /// A path that there is not.
    pub fn place(&mut self) -> Vec<u8> {
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
        self.tree.file(self.tree.paths[path]).to_vec()
    }

    fn set_file(&mut self, path: &[u8], bytes: Vec<u8>) {
        let id = self.tree.paths[path];
        self.tree.set_file(id, bytes);
    }

    fn add(&mut self, path: Vec<u8>, kind: Kind, mode: u16) {
        let id = self.tree.number();
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
    pub async fn change(&mut self) -> String {
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
                    2 => (0o010_000, Kind::Special(FileType::Fifo, None)),
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
                fs.link(&dir, &name, &info, false).await.expect("linked");
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
                self.tree.drop_unnamed();
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
                node.set_mode(mode);
                node.uid = uid;
                format!("set {mode:o} {uid} {}", shown(&path))
            }
            _ => {
                let Some(path) = self.pick(|node| matches!(node.kind, Kind::File(_) | Kind::Dir))
                else {
                    return String::new();
                };
                let info = self.info(&path).await;
                let name = format!("a{}", self.rng.below(4)).into_bytes();
                let whole = [b"user.", &name[..]].concat();
                let len = [0, 20, 300, 700][self.rng.below(4) as usize];
                let value = bytes(self.rng.next(), len);
                let id = self.tree.paths[&path];
                let had = self.tree.nodes[&id].xattrs.contains_key(&whole);
                let value = (!had || self.rng.below(3) > 0).then_some(value);
                let flags = XattrFlags::default();
                let set = fs.set_xattr(&info, INDEX_USER, &name, value.as_deref(), flags);
                match set.await {
                    Err(ENOSPC) => return format!("no room for {len} {}", shown(&path)),
                    other => other.expect("set"),
                }
                let xattrs = &mut self.tree.nodes.get_mut(&id).unwrap().xattrs;
                match value {
                    Some(value) => drop(xattrs.insert(whole, value)),
                    None => drop(xattrs.remove(&whole)),
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
        if is_below(&from, &to) || is_below(&to, &from) || target_id == Some(self.tree.paths[&from])
        {
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
        self.tree.rename(&from, &to, exchange);
        drop(source);
        if let Some(target) = target {
            self.volume.0.delete(target).await.expect("deleted");
        }
        let what = if exchange { "exchange" } else { "rename" };
        format!(
            "{what} {} {}",
            String::from_utf8_lossy(&from),
            String::from_utf8_lossy(&to)
        )
    }
}
