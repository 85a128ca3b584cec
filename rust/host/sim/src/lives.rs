// SPDX-License-Identifier: GPL-2.0

//! A volume that loses power again and again: what is in it, as a model, and its lives, one after
//! the other, each of which begins with what the power has left of the one before.

use crate::e2fs::{Image, Scratch};
use crate::volume::Volume;
use crate::{simulate_on, varied, Bed};
use aext4::{Ext4, InodeRef, Options};
use kernel::machine::{self, Rng};
use kernel::prelude::*;
use layout::FileType;
use simdisk::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use upcall::block_on;
use vfs::AclEntry;

const KINDS: [&str; 4] = [
    "-b 1024 -J size=4",
    "-b 4096 -J size=4",
    "-b 1024 -O ^extent,^64bit,^metadata_csum -I 128 -J size=4",
    "-b 2048 -O ea_inode,inline_data,metadata_csum_seed -I 512 -J size=4",
];

/// One state in so many is also made writable and ended again, and one in so many of these is
/// judged by e2fsck.
const ENDED: u64 = 16;
const JUDGED: u64 = 4;

/// How many lives a volume has.
const LIVES: u64 = 4;

/// The number of the root directory, which is no node of a tree.
pub const ROOT: usize = usize::MAX;

/// An inode, in the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// Attributes of users, and access control lists, by their whole names.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The name of the attribute that has an access control list.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";

impl Node {
    /// Gives it other permissions, which its access control list has, too.
    pub fn set_mode(&mut self, mode: u16) {
        self.mode = mode;
        if let Some(acl) = self.xattrs.get_mut(ACL_ACCESS) {
            *acl = encode_acl(&AclEntry::with_permissions(decode_acl(acl), mode));
        }
    }
}

/// An access control list, as `getxattr` gives it.
pub fn encode_acl(entries: &[AclEntry]) -> Vec<u8> {
    let bytes = AclEntry::to_xattr(entries).expect("memory");
    bytes.iter().copied().collect()
}

/// The entries of an access control list that `getxattr` has given.
pub fn decode_acl(acl: &[u8]) -> KVec<AclEntry> {
    let mut entries = KVec::new();
    for entry in acl[4..].chunks(8) {
        let entry = AclEntry {
            tag: u16::from_le_bytes([entry[0], entry[1]]),
            perm: u16::from_le_bytes([entry[2], entry[3]]),
            id: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
        };
        entries.push(entry, GFP_KERNEL).expect("memory");
    }
    entries
}

/// What an inode is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A file with these contents.
    File(Arc<Vec<u8>>),
    /// A symbolic link.
    Link(Vec<u8>),
    /// A pipe, a socket or a device, with its number.
    Special(FileType, Option<(u32, u32)>),
}

/// A tree: nodes by number, and paths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// The nodes.
    pub nodes: BTreeMap<usize, Node>,
    /// What leads to them.
    pub paths: BTreeMap<Vec<u8>, usize>,
    /// The nodes that stay without a name.
    pub held: BTreeSet<usize>,
    /// The number of the next node: none has one that another had.
    pub next: usize,
}

/// Whether a path leads below a directory.
pub fn is_below(of: &[u8], path: &[u8]) -> bool {
    path.len() > of.len() && path.starts_with(of) && path[of.len()] == b'/'
}

impl Tree {
    /// The directory of a path, and the name in it.
    pub fn parent(path: &[u8]) -> (&[u8], &[u8]) {
        let slash = path.iter().rposition(|byte| *byte == b'/').expect("a path");
        (&path[..slash], &path[slash + 1..])
    }

    /// Whether a path leads to a directory.
    pub fn is_dir(&self, path: &[u8]) -> bool {
        self.nodes[&self.paths[path]].kind == Kind::Dir
    }

    /// Whether nothing is below a path.
    pub fn is_empty(&self, path: &[u8]) -> bool {
        !self.paths.keys().any(|other| is_below(path, other))
    }

    /// A number for a new node.
    pub fn number(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    /// The contents of a file.
    pub fn file(&self, id: usize) -> &Arc<Vec<u8>> {
        match &self.nodes[&id].kind {
            Kind::File(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    /// Gives a file other contents.
    pub fn set_file(&mut self, id: usize, bytes: Vec<u8>) {
        self.nodes.get_mut(&id).expect("a file").kind = Kind::File(Arc::new(bytes));
    }

    /// Forgets what has no name, and is not held.
    pub fn drop_unnamed(&mut self) {
        let mut used: BTreeSet<_> = self.paths.values().copied().collect();
        used.extend(&self.held);
        self.nodes.retain(|id, _| used.contains(id));
    }

    /// Moves what is at `from`, and below it, to `to`; what is there goes, or comes to `from`.
    pub fn rename(&mut self, from: &[u8], to: &[u8], exchange: bool) {
        let moved = |tree: &Tree, a: &[u8], b: &[u8]| -> Vec<(Vec<u8>, usize)> {
            tree.paths
                .iter()
                .filter(|(path, _)| **path == a || is_below(a, path))
                .map(|(path, id)| ([b, &path[a.len()..]].concat(), *id))
                .collect()
        };
        let there = moved(self, from, to);
        let back = match exchange {
            true => moved(self, to, from),
            false => Vec::new(),
        };
        self.paths.retain(|path, _| {
            *path != from && *path != to && !is_below(from, path) && !is_below(to, path)
        });
        self.paths.extend(there);
        self.paths.extend(back);
        self.drop_unnamed();
    }

    /// All that has a name but the contents of files, in words. Names of one file have the first as
    /// theirs.
    pub fn dump(&self) -> String {
        let mut out = String::new();
        let mut first: BTreeMap<usize, &[u8]> = BTreeMap::new();
        let mut links: BTreeMap<usize, usize> = BTreeMap::new();
        for id in self.paths.values() {
            *links.entry(*id).or_insert(0) += 1;
        }
        for (path, id) in &self.paths {
            let same = *first.entry(*id).or_insert(path);
            line(&mut out, path, &self.nodes[id], links[id], same);
        }
        out
    }
}

/// How long something is, and its sum.
fn short(bytes: &[u8]) -> String {
    format!("{}/{:08x}", bytes.len(), disk::checksum::crc32c(!0, bytes))
}

fn line(out: &mut String, path: &[u8], node: &Node, links: usize, same: &[u8]) {
    let what = match &node.kind {
        Kind::Dir => "dir".to_string(),
        Kind::File(_) => format!("file {links}"),
        Kind::Link(to) => format!("link to {}", short(to)),
        Kind::Special(kind, device) => format!("{kind:?} {device:?} {links}"),
    };
    let values: Vec<_> = node
        .xattrs
        .iter()
        .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), short(value)))
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

/// Reads the tree of a volume, and tells the numbers of its inodes.
pub async fn read(volume: &Volume) -> (Tree, BTreeMap<usize, u32>) {
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
            let id = *known.entry(node.ino.0).or_insert_with(|| tree.number());
            tree.nodes.insert(id, read_node(volume, &node).await);
            if node.is_dir() {
                dirs.push(path.clone());
            }
            tree.paths.insert(path, id);
        }
    }
    let inos = known.into_iter().map(|(ino, id)| (id, ino)).collect();
    (tree, inos)
}

/// Reads an inode.
pub async fn read_node(volume: &Volume, node: &InodeRef) -> Node {
    let inode = node.inode();
    let kind = match inode.file_type {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => {
            let target = volume.0.readlink(node).await.expect("a target");
            Kind::Link(target.iter().copied().collect())
        }
        FileType::Regular => Kind::File(Arc::new(contents(volume, node).await)),
        other => Kind::Special(
            other,
            inode.device.map(|device| (device.major, device.minor)),
        ),
    };
    let attributes = volume.attributes(node).await.expect("attributes");
    Node {
        kind,
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        xattrs: attributes.into_iter().collect(),
    }
}

async fn contents(volume: &Volume, node: &InodeRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    let size = node.size();
    volume
        .read(node, 0, size, |part| bytes.extend_from_slice(part))
        .await
        .expect("contents");
    bytes.truncate(size as usize);
    bytes
}

/// Bytes that are not zero.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| 1 + (rng.next() % 255) as u8).collect()
}

/// Whether the contents of a file may be what is left if the power went after some of the changes:
/// each byte is one that was there, or none that was written where the file had an end.
pub fn may_be(got: &[u8], versions: &[&[u8]]) -> bool {
    let lens = || versions.iter().map(|bytes| bytes.len());
    let (shortest, longest) = (lens().min().unwrap_or(0), lens().max().unwrap_or(0));
    (shortest..=longest).contains(&got.len())
        && got.iter().enumerate().all(|(at, byte)| {
            let had = versions.iter().any(|version| version.get(at) == Some(byte));
            had || *byte == 0 && at >= shortest
        })
}

/// Mounts what is on the disk.
pub fn mount(bed: &Bed) -> Volume {
    let mounted = block_on(Volume::mount(bed, Options::default())).expect("no deadlock");
    mounted.unwrap_or_else(|error| panic!("{error:?}: {:?}", machine::take_log()))
}

/// Makes a volume writable.
pub fn make_writable(volume: &Volume) {
    let made = block_on(Ext4::make_writable(&volume.0)).expect("no deadlock");
    assert_eq!(made, Ok(()), "{:?}", machine::take_log());
}

/// What a loss of power may leave, with what is known of how far things were then.
pub type Lost<B> = (Store, B);

/// What losses of power there are from now on: of each request that completes so many states, and
/// what `now` says then.
pub fn record<B: Clone + Send + 'static>(
    bed: &Bed,
    seed: u64,
    states: usize,
    now: &Arc<Mutex<B>>,
) -> Arc<Mutex<Vec<Lost<B>>>> {
    let lost = Arc::new(Mutex::new(Vec::new()));
    let (to, now, mut rng) = (lost.clone(), now.clone(), Rng::new(seed));
    bed.device.observe(move |disk| {
        let crashes = disk.crash_states(rng.next());
        let count = crashes.len() as u64;
        let mut picked: BTreeSet<u64> = BTreeSet::new();
        while picked.len() < states.min(count as usize) {
            picked.insert(rng.below(count));
        }
        for (n, crash) in crashes.states().enumerate() {
            if picked.contains(&(n as u64)) {
                let store = crashes.store(crash);
                to.lock()
                    .unwrap()
                    .push((store, now.lock().unwrap().clone()));
            }
        }
    });
    lost
}

/// What happens to a volume in a life.
pub trait Story: Default {
    /// What is known of how far things were when the power went.
    type Bounds: Clone + Send;

    /// Mounts `store`, changes it, and gives what losses of power may leave.
    fn live(&mut self, seed: u64, store: Store) -> Vec<Lost<Self::Bounds>>;

    /// Whether the tree is one that a loss of power may leave.
    fn check(&self, got: &Tree, bounds: &Self::Bounds) -> Result<(), String>;
}

/// Checks what is left of a state after our recovery; and gives the volume, whole again, if it is
/// to be `ended`.
fn recovered<S: Story>(
    seed: u64,
    story: &S,
    (store, bounds): &Lost<S::Bounds>,
    options: &str,
    ended: bool,
) -> Option<Store> {
    simulate_on(varied(seed), store.clone(), |bed| {
        let volume = mount(bed);
        let (got, _) = block_on(read(&volume)).expect("no deadlock");
        let checked = story.check(&got, bounds);
        checked.unwrap_or_else(|why| panic!("{options}, seed {seed}: {why}"));
        if ended {
            make_writable(&volume);
            block_on(volume.0.make_read_only()).unwrap().expect("ended");
        }
        machine::take_log();
        ended.then(|| bed.device.disk().durable().clone())
    })
}

/// Some lives of a volume, one after the other, of which all but the last end by a loss of power.
/// Returns how many states were looked at.
fn lives<S: Story>(name: &str, run: u64) -> u64 {
    let dir = Scratch::new(&format!("{name}{run}"));
    let options = KINDS[(run % 4) as usize];
    let image = Image::make(dir.path("image"), 24 << 20, options);
    let mut store = image.store();
    let (mut story, mut states, mut judged) = (S::default(), 0, 0);
    for round in 0..LIVES {
        let seed = run * 1000 + round * 100 + 17;
        let all = story.live(seed, store.clone());
        let mut next = None;
        let mut rng = Rng::new(seed);
        for (n, lost) in all.iter().enumerate() {
            let ended = rng.one_in(ENDED) || (next.is_none() && n + 1 == all.len());
            let after = recovered(seed + n as u64, &story, lost, options, ended);
            states += 1;
            let Some(after) = after else {
                continue;
            };
            judged += 1;
            if judged % JUDGED == 0 {
                let image = Image::write(dir.path("after"), &after);
                assert_eq!(image.is_clean(), Ok(()), "{options}, seed {seed}");
            }
            if next.is_none() || rng.one_in(4) {
                next = Some(after);
            }
        }
        // The next life begins with one of them.
        store = next.expect("a state");
    }
    states
}

/// The lives of so many volumes, on all processors. Returns how many these were, and how many
/// states were looked at.
/// `UPCALL_RUN` in the environment is the number of the only one, `UPCALL_FIRST` of the first, if
/// a night was not long enough.
pub fn all<S: Story>(name: &str, runs: u64) -> (u64, u64) {
    let only = std::env::var("UPCALL_RUN").map(|run| run.parse().expect("a number"));
    let (first, runs) = match only {
        Ok(run) => (run, run + 1),
        Err(_) => (crate::count("UPCALL_FIRST", 0), runs),
    };
    let next = AtomicU64::new(first);
    // Each run is a machine of its own.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let states = std::thread::scope(|scope| {
        let work = || {
            let mut states = 0;
            loop {
                let run = next.fetch_add(1, Ordering::Relaxed);
                if run >= runs {
                    return states;
                }
                states += lives::<S>(name, run);
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
    (runs.saturating_sub(first), states)
}
