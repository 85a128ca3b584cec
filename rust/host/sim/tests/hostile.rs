// SPDX-License-Identifier: GPL-2.0

//! Images broken on purpose give an error and a log line, and never a panic or a run without end:
//! one break for each kind of structure and check, as `selftests/hostile` has them, then random
//! bytes of metadata.

use aext4::Options;
use kernel::machine::{self, Config};
use kernel::prelude::*;
use sim::hostile::{walk_image, Base, NAMES};
use sim::image::{self, Broken};
use sim::simulate_on;
use sim::volume::Volume;
use simdisk::Store;
use std::collections::BTreeMap;
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
        .read(&node, 0, node.size().min(1 << 24), |_| ())
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
            for n in (1..401).step_by(7) {
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

fn random_images(part: u64) {
    if image::directory().is_none() {
        return image::skip("random images");
    }
    let count = std::env::var("UPCALL_RANDOM_IMAGES");
    let count = count.map_or(RANDOM_IMAGES, |n| n.parse().expect("a number"));
    let (_, spans) = image::hostile();
    let bases = NAMES.map(|name| Base::new(name, &spans));
    let mut mounted = 0;
    for seed in (part * count / 2)..((part + 1) * count / 2) {
        let base = &bases[(seed % 4) as usize];
        mounted += u64::from(walk_image(base.mutated(seed), seed));
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
