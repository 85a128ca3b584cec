// SPDX-License-Identifier: GPL-2.0

//! Images that are broken on purpose, and what is done with them: for the tests, and for fuzzers.

use crate::image::{self, Span};
use crate::volume::Volume;
use crate::{simulate_on, Bed};
use aext4::Options;
use disk::checksum::crc32c;
use kernel::machine::{self, Config, Rng};
use kernel::prelude::*;
use layout::{FileType, Ino};
use simdisk::Store;
use std::collections::{BTreeMap, BTreeSet};
use upcall::block_on;

/// The images that are broken.
pub const NAMES: [&str; 4] = ["plain", "csum", "indirect", "inline"];

/// An image that is broken at random.
pub struct Base {
    store: Store,
    /// By kind.
    spans: BTreeMap<String, Vec<Span>>,
    /// The seed of its checksums, if it has some.
    checksums: Option<u32>,
}

impl Base {
    /// The one with this name.
    pub fn new(name: &str, spans: &[Span]) -> Self {
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
    pub fn mutated(&self, seed: u64) -> Store {
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
        match node.file_type {
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
                let size = node.size();
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

/// Mounts and walks a broken image; whether it could be mounted.
pub fn walk_image(store: Store, seed: u64) -> bool {
    let config = Config {
        // Not to take all decisions anew, which the other tests do.
        interrupts: seed % 8 == 0,
        ..Config::new(seed)
    };
    simulate_on(config, store, |bed: &Bed| {
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

/// All images, for a fuzzer.
pub struct Bases(Vec<(Base, Vec<u64>)>);

impl Bases {
    /// Opens them.
    pub fn open() -> Self {
        let (_, spans) = image::hostile();
        let base = |name: &&str| {
            let base = Base::new(name, &spans);
            // Each byte of metadata by its number, so that few bits of an input name one.
            let all = base.spans.values().flatten();
            let mut bytes: Vec<u64> = all
                .flat_map(|span| span.offset..span.offset + span.size)
                .collect();
            bytes.sort_unstable();
            bytes.dedup();
            (base, bytes)
        };
        Self(NAMES.iter().map(base).collect())
    }

    /// A copy of an image with these changes.
    pub fn changed(&self, edits: &Edits) -> Store {
        let (base, bytes) = &self.0[usize::from(edits.base) % self.0.len()];
        let mut store = base.store.clone();
        for &(at, byte) in &edits.bytes {
            let at = bytes[at as usize % bytes.len()];
            store.write(at, &[byte]);
        }
        if edits.sealed {
            let spans = base.spans.values().flatten();
            for span in spans.filter(|span| {
                let touched = |at: &u64| (span.offset..span.offset + span.size).contains(at);
                let at = |n: u32| bytes[n as usize % bytes.len()];
                edits.bytes.iter().any(|&(n, _)| touched(&at(n)))
            }) {
                base.seal(&mut store, span);
            }
        }
        store
    }
}

/// An input of a fuzzer: some bytes of metadata, by their numbers, and what they become.
pub struct Edits {
    base: u8,
    sealed: bool,
    bytes: Vec<(u32, u8)>,
}

impl Edits {
    /// The input's meaning: which image, and then three bytes for the place and one for each
    /// change.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (&first, rest) = data.split_first()?;
        let bytes = rest.chunks_exact(4).take(32);
        Some(Self {
            base: first & 3,
            sealed: first & 4 != 0,
            bytes: bytes
                .map(|edit| (u32::from_le_bytes([edit[0], edit[1], edit[2], 0]), edit[3]))
                .collect(),
        })
    }

    /// The input for these changes, those outside of metadata left out.
    pub fn of(bases: &Bases, image: &str, edits: &[(u64, u8)]) -> Self {
        let base = NAMES.iter().position(|name| *name == image);
        let base = base.expect("one of the images");
        let place = |&(at, byte): &(u64, u8)| {
            let n = bases.0[base].1.binary_search(&at).ok()?;
            Some((n as u32, byte))
        };
        Self {
            base: base as u8,
            sealed: false,
            bytes: edits.iter().filter_map(place).collect(),
        }
    }

    /// The input.
    pub fn bytes(&self) -> Vec<u8> {
        let mut data = vec![self.base | u8::from(self.sealed) << 2];
        for &(at, byte) in &self.bytes {
            data.extend(&at.to_le_bytes()[..3]);
            data.push(byte);
        }
        data
    }

    /// A seed for the machine, which depends on the input alone.
    pub fn seed(&self) -> u64 {
        let mut seed = Rng::new(self.base.into());
        for &(at, byte) in &self.bytes {
            seed = Rng::new(seed.next() ^ u64::from(at) << 8 ^ u64::from(byte));
        }
        seed.next()
    }
}
