// SPDX-License-Identifier: GPL-2.0

//! An overlay shows what a single file system would have, and keeps it in overlayfs' format.

use kernel::machine::{Config, Rng};
use kernel::prelude::*;
use kernel::sync::Arc;
use sim::simulate_on;
use sim::stacked::{dump, Both};
use simdisk::Store;
use stack::{AsyncStackable, Ino, Overlay, RamFs};
use upcall::block_on;
use vfs::{NewInode, SetAttr, Time, XattrFlags};

/// Some directories and files: the same for the same seed.
async fn tree(seed: u64) -> Result<RamFs> {
    let (fs, mut rng) = (RamFs::new()?, Rng::new(seed));
    let mut dirs = vec![fs.root()];
    let mut all = Vec::new();
    for _ in 0..25 {
        let dir = dirs[rng.below(dirs.len() as u64) as usize];
        let name = format!("name{}", rng.below(7));
        let mode = 0o600 | rng.below(0o100) as u16;
        let made = match rng.below(5) {
            0 | 1 => {
                fs.create(dir, name.as_bytes(), &NewInode::directory(mode))
                    .await
            }
            2 => fs.symlink(dir, name.as_bytes(), b"a target").await,
            3 => {
                fs.mknod(dir, name.as_bytes(), 0o060_000 | mode, (8, 1))
                    .await
            }
            _ => {
                fs.create(dir, name.as_bytes(), &NewInode::file(mode).owned_by(1, 2))
                    .await
            }
        };
        let Ok(made) = made else { continue };
        let attr = fs.stat(made).await?;
        match attr.mode & 0o170_000 {
            0o040_000 => dirs.push(made),
            0o100_000 => {
                let pos = rng.below(10_000);
                fs.write_bytes(made, Some(pos), name.as_bytes()).await?;
            }
            _ => {}
        }
        let flags = XattrFlags::default();
        fs.setxattr(made, b"user.a", name.as_bytes(), flags).await?;
        all.push(made);
    }
    for ino in all.into_iter().chain(dirs) {
        let time = Time {
            secs: 1000,
            nanos: 5,
        };
        let set = SetAttr {
            mtime: Some(time),
            ..SetAttr::default()
        };
        fs.set_attr(ino, &set).await?;
    }
    Ok(fs)
}

/// The directories of an upper file system.
async fn dirs<U: AsyncStackable>(upper: &U) -> Result<[Ino; 2]> {
    let top = upper.mkdir(upper.root(), b"upper", 0o755).await?;
    Ok([top, upper.mkdir(upper.root(), b"work", 0o755).await?])
}

#[test]
fn an_overlay_shows_what_one_file_system_would_have() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..sim::count("LAYERS_SEEDS", 30) {
        simulate_on(Config::new(seed), Store::zeroes(4096), |_| {
            block_on(async {
                let lower = Arc::new(tree(seed).await.unwrap(), GFP_KERNEL).unwrap();
                let before = dump(&*lower).await.unwrap();
                let upper = Arc::new(RamFs::new().unwrap(), GFP_KERNEL).unwrap();
                let [top, work] = dirs(&*upper).await.unwrap();
                let fs = Overlay::new(lower.clone(), upper.clone(), top, work);
                let fs = fs.await.unwrap();
                let mut both = Both::new(tree(seed).await.unwrap(), fs, seed);
                (both.whole, both.timely) = (false, false);
                for _ in 0..250 {
                    both.step().await;
                }
                both.finish().await;
                // What is below has not changed, and what is above says all.
                assert_eq!(dump(&*lower).await.unwrap(), before);
                let again = Overlay::new(lower, upper, top, work).await.unwrap();
                let shown = dump(&again).await.unwrap();
                let wanted = dump(&both.first).await.unwrap();
                assert_eq!(both.comparable(&shown), both.comparable(&wanted));
                for (what, times) in core::mem::take(&mut both.seen) {
                    *seen.entry(what).or_insert(0) += times;
                }
            })
            .unwrap();
        });
    }
    eprintln!("{seen:#?}");
    assert!(seen["rename below"] > 0 && seen["rename None"] > 0);
}
