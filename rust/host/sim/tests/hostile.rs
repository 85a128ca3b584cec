// SPDX-License-Identifier: GPL-2.0

//! Images broken on purpose give an error and a log line, and never a panic or a run without end: one
//! break for each kind of structure and check, as `selftests/hostile` has them, then random bytes of metadata.

use aext4::Options;
use disk::checksum::crc32c;
use kernel::machine::{self, Config, Rng};
use kernel::prelude::*;
use layout::{FileType, Ino};
use sim::image::{self, Broken, Span};
use sim::simulate_on;
use sim::volume::Volume;
use sim::Bed;
use simdisk::Store;
use std::collections::{BTreeMap, BTreeSet};
use upcall::block_on;

/// How many random images there are: `UPCALL_RANDOM_IMAGES` says otherwise.
const RANDOM_IMAGES: u64 = 20_000;

async fn look(volume: &Volume, path: &[u8]) -> Result {
    volume.path(path).await.map(drop)
}

/// Reads a file, then asks where its data is.
async fn use_file(volume: &Volume, path: &[u8]) -> Result {
    let node = volume.path(path).await?;
    let read = volume
        .read(&node, 0, node.inode.size.min(1 << 24), |_| ())
        .await;
    let mapped = volume.segments(&node).await;
    match (read, mapped) {
        // It was read in spite of it.
        (Ok(_), Err(_)) => Err(EBADE),
        (Err(error), Ok(_)) => Err(error),
        (_, Err(error)) => Err(error),
        _ => Ok(()),
    }
}

async fn finds(volume: &Volume, path: &[u8], names: &[Vec<u8>]) -> Result {
    for name in names {
        match look(volume, &[path, b"/", name].concat()).await {
            Err(error) if error != ENOENT => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn attempt(volume: &Volume, action: &str, path: &[u8]) -> Result {
    match action {
        "mount" => Ok(()),
        "look" => look(volume, path).await,
        "use" => use_file(volume, path).await,
        "lists" => {
            let node = volume.path(path).await?;
            volume.entries(&node).await.map(drop)
        }
        "finds" => {
            let names = ["a00", "a11", "b1", "sub", "n14", "no such name"];
            let names: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
            finds(volume, path, &names).await
        }
        "finds_long" => {
            for n in [1, 2, 5, 100, 200, 300, 400] {
                let mut name = format!("{n}-").into_bytes();
                name.extend(b"\xc3\xa9\xe4");
                name.resize(250, b'x');
                look(volume, &[path, b"/", &name].concat()).await?;
            }
            Ok(())
        }
        "link" => {
            let node = volume.path(path).await?;
            volume.0.readlink(&node).await.map(drop)
        }
        "attributes" => {
            let node = volume.path(path).await?;
            volume.attributes(&node).await.map(drop)
        }
        "get_acl" => {
            let node = volume.path(path).await?;
            volume.acl(&node, false).await?.ok_or(ENODATA).map(drop)
        }
        _ => panic!("no action: {action}"),
    }
}

fn edited(base: &Store, edits: impl IntoIterator<Item = (u64, u8)>) -> Store {
    let mut store = base.clone();
    for (at, byte) in edits {
        store.write(at, &[byte]);
    }
    store
}

/// What is wrong with how a break ended, if anything is.
fn judge(broken: &Broken, base: &Store, seed: u64) -> Option<String> {
    let store = edited(base, broken.edits.iter().copied());
    simulate_on(Config::new(seed), store, |bed| {
        let work = async {
            let volume = Volume::mount(bed, Options::default()).await?;
            attempt(&volume, &broken.action, broken.path.as_bytes()).await
        };
        let result = block_on(work).unwrap();
        let got = result.map_or_else(|error| -error.to_errno(), |()| 0);
        let said = machine::take_log();
        let name = &broken.name;
        if !broken.wanted.contains(&got) {
            return Some(format!("{name}: {result:?}, wanted {:?}", broken.wanted));
        }
        let errors = said
            .iter()
            .any(|line| line.starts_with("err: aext4 (sim): "));
        if result.is_err() && result != Err(ENOENT) && !broken.quiet && !errors {
            return Some(format!("{name}: {result:?}, and no line in the log"));
        }
        (said.len() >= 100).then(|| format!("{name}: {} lines in the log", said.len()))
    })
}

#[test]
fn each_break_is_found_and_told() {
    if image::directory().is_none() {
        return image::skip("hostile images");
    }
    let (all, _) = image::hostile();
    assert!(all.len() > 250, "{}", all.len());
    let mut bases = BTreeMap::new();
    let mut failed = Vec::new();
    for (n, broken) in all.iter().enumerate() {
        let image = &broken.image;
        let base = bases
            .entry(image.clone())
            .or_insert_with(|| image::open(&format!("hostile-{image}")));
        for seed in 0..3 {
            failed.extend(judge(broken, base, n as u64 * 3 + seed));
        }
    }
    failed.dedup();
    println!("{} breaks", all.len());
    assert!(failed.is_empty(), "{}: {failed:#?}", failed.len());
}

/// An image that is broken at random.
struct Base {
    store: Store,
    /// By kind.
    spans: BTreeMap<String, Vec<Span>>,
    /// The seed of its checksums, if it has some.
    checksums: Option<u32>,
}

impl Base {
    fn new(name: &str, spans: &[Span]) -> Self {
        let store = image::open(&format!("hostile-{name}"));
        let mut by_kind: BTreeMap<String, Vec<Span>> = BTreeMap::new();
        for span in spans.iter().filter(|span| span.image == name) {
            by_kind
                .entry(span.kind.clone())
                .or_default()
                .push(span.clone());
        }
        let word =
            |at: u64| u32::from_le_bytes(store.get(1024 + at, 4).try_into().expect("four bytes"));
        let seed = match word(0x60) & 0x2000 {
            0 => crc32c(!0, &store.get(1024 + 0x68, 16)),
            _ => word(0x270),
        };
        let checksums = (word(0x64) & 0x400 != 0).then_some(seed);
        Self {
            store,
            spans: by_kind,
            checksums,
        }
    }

    /// A copy with some bytes of its metadata changed.
    fn mutated(&self, seed: u64) -> Store {
        let mut store = self.store.clone();
        let mut rng = Rng::new(seed);
        for _ in 0..[1, 1, 2, 4, 16][rng.below(5) as usize] {
            let kind = match rng.below(10) {
                0 => "super",
                1 => "groups",
                2..6 => "inode",
                _ => "block",
            };
            let spans = &self.spans[kind];
            let span = &spans[rng.below(spans.len() as u64) as usize];
            // Fields lie at the beginning of most structures.
            let size = if rng.one_in(2) {
                span.size.min(160)
            } else {
                span.size
            };
            let at = span.offset + rng.below(size);
            let old = store.get(at, 1)[0];
            let new = match rng.below(5) {
                0 => 0,
                1 => 255,
                2 => old ^ 1 << rng.below(8),
                3 => old.wrapping_add(1),
                _ => rng.next() as u8,
            };
            store.write(at, &[new]);
            // Half of them are sealed, to get past the checksum.
            if rng.one_in(2) {
                self.seal(&mut store, span);
            }
        }
        store
    }

    fn seal(&self, store: &mut Store, span: &Span) {
        let Some(seed) = self.checksums else { return };
        match span.kind.as_str() {
            "super" => {
                let crc = crc32c(!0, &store.get(1024, 0x3fc));
                store.write(1024 + 0x3fc, &crc.to_le_bytes());
            }
            "inode" => {
                let mut raw = store.get(span.offset, span.size as usize);
                raw[0x7c..0x7e].fill(0);
                raw[0x82..0x84].fill(0);
                let crc = crc32c(seed, &span.ino.to_le_bytes());
                let crc = crc32c(crc32c(crc, &raw[0x64..0x68]), &raw);
                store.write(span.offset + 0x7c, &crc.to_le_bytes()[..2]);
                store.write(span.offset + 0x82, &crc.to_le_bytes()[2..]);
            }
            _ => {}
        }
    }
}

/// Looks at everything that the root leads to, once; gives how many inodes that were.
async fn walk(volume: &Volume) -> Result<usize> {
    let mut seen = BTreeSet::from([Ino::ROOT.0]);
    let mut todo = vec![volume.0.iget(Ino::ROOT).await?];
    let mut bad = Ok(());
    let mut note = |result: Result| {
        if let Err(error) = result {
            bad = Err(error);
        }
    };
    while let Some(node) = todo.pop() {
        note(volume.attributes(&node).await.map(drop));
        match node.inode.file_type {
            FileType::Directory => {
                let entries = volume.entries(&node).await;
                note(entries.as_ref().map(drop).map_err(|error| *error));
                for (name, ino, _) in entries.unwrap_or_default() {
                    if name == b"." || name == b".." || !seen.insert(ino) {
                        continue;
                    }
                    match volume.0.lookup(&node, &name).await {
                        Ok(Some(node)) => todo.push(node),
                        Ok(None) => note(Err(ENOENT)),
                        Err(error) => note(Err(error)),
                    }
                }
            }
            FileType::Regular => {
                let size = node.inode.size;
                note(
                    volume
                        .read(&node, 0, size.min(1 << 17), |_| ())
                        .await
                        .map(drop),
                );
                let tail = volume.read(&node, size.saturating_sub(5000), size, |_| ());
                note(tail.await.map(drop));
                // One of many terabytes has too many pieces to look at.
                let mut at = 0;
                for _ in 0..400 {
                    if at >= size {
                        break;
                    }
                    match volume.0.map_bytes(&node, at).await {
                        Ok(mapping) => {
                            assert!(mapping.offset <= at && mapping.end() > at);
                            at = mapping.end();
                        }
                        Err(error) => {
                            note(Err(error));
                            break;
                        }
                    }
                }
            }
            FileType::Symlink => note(volume.0.readlink(&node).await.map(drop)),
            _ => {}
        }
        assert!(seen.len() < 100_000, "a walk without end");
    }
    bad.map(|()| seen.len())
}

/// Mounts and walks an image broken at random; whether it could be mounted.
fn random_image(base: &Base, seed: u64) -> bool {
    let config = Config {
        // Not to take all decisions anew, which the other tests do.
        interrupts: seed % 8 == 0,
        ..Config::new(seed)
    };
    simulate_on(config, base.mutated(seed), |bed: &Bed| {
        let result = block_on(async {
            let volume = Volume::mount(bed, Options::default()).await?;
            Ok::<_, Error>(walk(&volume).await)
        });
        let result = result.unwrap();
        let said = machine::take_log();
        assert!(said.len() < 1000, "{} lines in the log", said.len());
        let error = match &result {
            Err(error) | Ok(Err(error)) => *error,
            Ok(Ok(count)) => {
                assert!(*count > 3);
                return true;
            }
        };
        // What is not there, or is not supported, is no damage.
        let quiet = [ENOENT, ESTALE, EOPNOTSUPP, ENODATA].contains(&error);
        assert!(
            quiet || !said.is_empty(),
            "{error:?}, and no line in the log"
        );
        let known = [EUCLEAN, EBADMSG, EINVAL, EIO, E2BIG, EFBIG, EROFS];
        assert!(quiet || known.contains(&error), "{error:?}");
        result.is_ok()
    })
}

fn random_images(part: u64) {
    if image::directory().is_none() {
        return image::skip("random images");
    }
    let count = std::env::var("UPCALL_RANDOM_IMAGES");
    let count = count.map_or(RANDOM_IMAGES, |n| n.parse().expect("a number"));
    let (_, spans) = image::hostile();
    let bases = ["plain", "csum", "indirect", "inline"].map(|name| Base::new(name, &spans));
    let mut mounted = 0;
    for seed in (part * count / 2)..((part + 1) * count / 2) {
        let base = &bases[(seed % 4) as usize];
        mounted += u64::from(random_image(base, seed));
    }
    println!("{mounted} of {} could be mounted", count / 2);
    // Else the walk saw nothing.
    assert!(mounted > count / 8, "too few could be mounted");
}

#[test]
fn random_bytes_first_half() {
    random_images(0);
}

#[test]
fn random_bytes_second_half() {
    random_images(1);
}
