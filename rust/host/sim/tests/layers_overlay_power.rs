// SPDX-License-Identifier: GPL-2.0

//! A change of an overlay is whole or absent, whenever the power goes, and whoever gives up.

use kernel::machine::{self, Config, Rng};
use kernel::prelude::*;
use kernel::sync::Arc;
use sim::e2fs::{Image, Scratch};
use sim::stacked::dump;
use sim::tree::{ended, writable};
use sim::{dropped_after, simulate_on, Bed};
use simdisk::Store;
use stack::{
    forward, AsyncStackable, Change, Ino, Layer, OpenInode, Overlay, RenameFlags, Subtree,
};
use std::sync::{Arc as Shared, Mutex};
use std::time::Duration;
use upcall::block_on;
use vfs::{NewInode, SetAttr, XattrFlags};
use volume::Volume;

type Layers = Overlay<Subtree<Arc<Volume>>, Stepwise>;

/// A volume on which each step of a change is durable before the next one begins, so that a loss of
/// power may come between any two; if it is to be so.
struct Stepwise(Arc<Volume>, bool);

impl Stepwise {
    async fn step(&self) -> Result {
        match self.1 {
            true => self.0.sync().await,
            false => Ok(()),
        }
    }
}

impl Layer for Stepwise {
    type Kind = stack::Asynchronous;
}

impl AsyncStackable for Stepwise {
    forward!(self, self.0; root, lookup, stat, read, readlink, read_dir, getxattr, listxattr, acl, statfs);
    forward!(self, self.0; make_durable, open);

    async fn change(&self, change: Change<'_>) -> Result<Ino> {
        let ino = self.0.change(change).await?;
        self.step().await?;
        Ok(ino)
    }

    async fn write_bytes(&self, ino: Ino, pos: Option<u64>, bytes: &[u8]) -> Result<(u64, usize)> {
        let written = self.0.write_bytes(ino, pos, bytes).await?;
        self.step().await?;
        Ok(written)
    }

    async fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<OpenInode> {
        let made = self.0.tmpfile(dir, new).await?;
        self.step().await?;
        Ok(made)
    }
}

/// How many states of each change are looked at.
const STATES: usize = 300;

async fn layers(volume: &Arc<Volume>) -> Result<Layers> {
    stepwise(volume, false).await
}

async fn stepwise(volume: &Arc<Volume>, steps: bool) -> Result<Layers> {
    let at = |path: &'static [u8]| volume.walk(volume.root(), path);
    let (top, work) = (at(b"upper").await?, at(b"work").await?);
    let lower = Subtree::new(volume.clone(), b"/lower").await?;
    Overlay::new(lower, Stepwise(volume.clone(), steps), top, work).await
}

/// Makes what is below, and some changes of it: whiteouts, of a file and of a directory, a directory
/// with nothing but a whiteout in it, and files and directories that are above alone.
async fn prepare(volume: &Arc<Volume>) -> Result {
    let root = volume.root();
    for name in [b"lower" as &[u8], b"upper", b"work"] {
        volume.mkdir(root, name, 0o755).await?;
    }
    let lower = volume.walk(root, b"lower").await?;
    let flags = XattrFlags::default();
    for path in ["a", "a/sub", "gonedir", "full"] {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = volume.walk(lower, format!("./{dir}").as_bytes()).await?;
        let made = volume.mkdir(dir, name.as_bytes(), 0o750).await?;
        volume.setxattr(made, b"user.a", b"lower", flags).await?;
    }
    for (path, len) in [
        ("a/file", 9000),
        ("a/other", 100),
        ("a/sub/deep", 5000),
        ("gone", 1),
        ("gonedir/one", 1),
        ("full/x", 1),
    ] {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = volume.walk(lower, format!("./{dir}").as_bytes()).await?;
        let new = NewInode::file(0o640).owned_by(3, 4);
        let made = volume.create(dir, name.as_bytes(), &new).await?;
        volume.append(made, &vec![b'l'; len]).await?;
        volume
            .setxattr(made, b"user.x", path.as_bytes(), flags)
            .await?;
    }
    volume.symlink(lower, b"link", b"a/file").await?;
    let fs = layers(volume).await?;
    let root = fs.root();
    fs.unlink(root, b"gone").await?;
    let gone = fs.walk(root, b"gonedir").await?;
    fs.unlink(gone, b"one").await?;
    fs.rmdir(root, b"gonedir").await?;
    let full = fs.walk(root, b"full").await?;
    fs.unlink(full, b"x").await?;
    fs.setxattr(full, b"user.f", b"upper", flags).await?;
    let new = fs.create(root, b"new", &NewInode::file(0o600)).await?;
    fs.append(new, &[b'n'; 5000]).await?;
    let dir = fs.mkdir(root, b"newdir", 0o700).await?;
    fs.create(dir, b"in", &NewInode::file(0o600)).await?;
    fs.mkdir(root, b"emptydir", 0o711).await?;
    volume.sync().await
}

const KINDS: u64 = 22;

/// One change.
async fn change(fs: &Layers, kind: u64) -> Result {
    let (root, plain) = (fs.root(), RenameFlags::default());
    let at = |path: &'static [u8]| fs.walk_nofollow(root, path);
    let (a, sub) = (at(b"a").await?, at(b"a/sub").await?);
    let (file, other) = (at(b"a/file").await?, at(b"a/other").await?);
    let mode = SetAttr {
        mode: Some(0o604),
        ..SetAttr::default()
    };
    let uid = SetAttr {
        uid: Some(77),
        ..SetAttr::default()
    };
    let exchange = RenameFlags {
        exchange: true,
        ..plain
    };
    let xattr = XattrFlags::default();
    match kind {
        0 => fs.set_attr(at(b"a/sub/deep").await?, &mode).await,
        // To a whole block: the rest of one is zeroed before the size is durable.
        1 => fs.truncate(file, 4096).await,
        2 => fs.unlink(a, b"file").await,
        3 => fs.unlink(root, b"new").await,
        4 => fs.rmdir(root, b"full").await,
        5 => fs.mkdir(root, b"gonedir", 0o700).await,
        6 => fs.create(root, b"gone", &NewInode::file(0o600)).await,
        7 => fs.symlink(root, b"gone", b"a target").await,
        8 => fs.rename(a, b"file", sub, b"moved", plain).await,
        9 => fs.rename(a, b"file", a, b"other", plain).await,
        10 => fs.rename(root, b"newdir", root, b"full", plain).await,
        11 => fs.rename(root, b"newdir", root, b"gonedir", plain).await,
        12 => fs.rename(a, b"file", root, b"new", exchange).await,
        13 => fs.link(root, b"linked", file).await,
        14 => fs.setxattr(a, b"user.a", b"changed", xattr).await,
        15 => fs.rename(root, b"new", a, b"other", plain).await,
        16 => fs.rename(root, b"newdir", sub, b"fresh", plain).await,
        17 => fs.rmdir(root, b"emptydir").await,
        18 => fs.set_attr(at(b"link").await?, &uid).await,
        19 => fs.mkdir(sub, b"made", 0o700).await,
        20 => fs.append(other, b"x").await.map(|_| other),
        _ => fs.rename(a, b"file", root, b"newdir", exchange).await,
    }
    .map(drop)
}

/// The tree in words, but for the links of directories, which count those below in parts.
async fn shown(fs: &Layers) -> String {
    let links = |line: &str| match line.split_once("/ ") {
        Some((path, rest)) => {
            let mut words: Vec<_> = rest.split(' ').collect();
            words.remove(1);
            format!("{path}/ {}\n", words.join(" "))
        }
        None => format!("{line}\n"),
    };
    dump(fs).await.unwrap().lines().map(links).collect()
}

fn on_volume<R>(store: Store, f: impl FnOnce(&Bed, &Arc<Volume>) -> R) -> (R, Store) {
    simulate_on(Config::new(1), store, |bed| {
        let mounted = writable(bed);
        let volume = Volume::new(mounted.0.clone()).unwrap();
        let volume = Arc::new(volume, GFP_KERNEL).unwrap();
        let result = f(bed, &volume);
        drop(volume);
        let store = ended(bed, &mounted);
        machine::take_log();
        (result, store)
    })
}

fn prepared(dir: &Scratch) -> Store {
    let image = Image::make(dir.path("image"), 16 << 20, "-b 4096 -J size=4");
    let (made, store) = on_volume(image.store(), |_, volume| block_on(prepare(volume)));
    made.unwrap().unwrap();
    store
}

/// What is shown before a change, and behind it.
fn before_and_after(store: &Store, kind: u64) -> [String; 2] {
    let (shown, _) = on_volume(store.clone(), |_, volume| {
        block_on(async {
            let fs = layers(volume).await.unwrap();
            let before = shown(&fs).await;
            change(&fs, kind).await.unwrap();
            let after = shown(&fs).await;
            // The same by what is above alone.
            assert_eq!(shown(&layers(volume).await.unwrap()).await, after);
            [before, after]
        })
        .unwrap()
    });
    assert_ne!(shown[0], shown[1], "change {kind}");
    shown
}

#[test]
fn a_loss_of_power_leaves_a_change_whole_or_absent() {
    let dir = Scratch::new("layers-overlay-power");
    let store = prepared(&dir);
    for kind in 0..KINDS {
        let wanted = before_and_after(&store, kind);
        let states = Shared::new(Mutex::new(Vec::new()));
        let to = states.clone();
        on_volume(store.clone(), |bed, volume| {
            let fs = block_on(stepwise(volume, true)).unwrap().unwrap();
            block_on(volume.sync()).unwrap().unwrap();
            let mut rng = Rng::new(kind);
            bed.device.observe(move |disk| {
                let crashes = disk.crash_states(rng.next());
                let few = (crashes.len() as u64 / 4).max(1);
                for crash in crashes.states().filter(|_| rng.one_in(few)) {
                    to.lock().unwrap().push(crashes.store(crash));
                }
            });
            block_on(change(&fs, kind)).unwrap().unwrap();
            block_on(volume.sync()).unwrap().unwrap();
            bed.device.observe(|_| {});
        });
        let mut states = core::mem::take(&mut *states.lock().unwrap());
        let (mut rng, mut seen) = (Rng::new(kind), [0; 2]);
        while states.len() > STATES {
            states.swap_remove(rng.below(states.len() as u64) as usize);
        }
        for state in states {
            on_volume(state, |_, volume| {
                let got = block_on(async { shown(&layers(volume).await.unwrap()).await });
                let got = got.unwrap();
                let which = wanted.iter().position(|wanted| *wanted == got);
                let which = which.unwrap_or_else(|| {
                    panic!(
                        "change {kind}:\n{got}\nis neither\n{}\nnor\n{}",
                        wanted[0], wanted[1]
                    )
                });
                seen[which] += 1;
            });
        }
        eprintln!("change {kind}: {seen:?}");
        assert!(seen[0] > 0 && seen[1] > 0, "change {kind}: {seen:?}");
    }
}

#[test]
fn who_gives_up_leaves_a_change_whole_or_absent() {
    let dir = Scratch::new("layers-overlay-polls");
    let store = prepared(&dir);
    for kind in 0..KINDS {
        let wanted = before_and_after(&store, kind);
        for polls in 0.. {
            let (done, _) = on_volume(store.clone(), |_, volume| {
                block_on(async {
                    let fs = layers(volume).await.unwrap();
                    let done = dropped_after(polls, change(&fs, kind)).await;
                    // What was given up goes on.
                    upcall::sleep(Duration::from_millis(200)).await;
                    let got = shown(&fs).await;
                    let which = wanted.iter().position(|wanted| *wanted == got);
                    let which = which.unwrap_or_else(|| panic!("change {kind}, {polls}:\n{got}"));
                    let again = layers(volume).await.unwrap();
                    assert_eq!(shown(&again).await, got, "change {kind}, {polls}");
                    // And it can be done by the one who has seen it begin.
                    if which == 0 {
                        change(&fs, kind).await.unwrap();
                        assert_eq!(shown(&fs).await, wanted[1], "change {kind}, {polls}");
                    }
                    done
                })
                .unwrap()
            });
            if let Some(done) = done {
                done.unwrap();
                assert!(polls > 0, "change {kind}");
                break;
            }
        }
    }
}
