// SPDX-License-Identifier: GPL-2.0

//! Each image of the feature matrix tells what the kernel's ext4 tells of it.

use aext4::{InodeInfo, Options};
use kernel::machine;
use kernel::prelude::*;
use layout::FileType;
use sim::image::{self, Facts};
use sim::python::{self, digest, list, Sha1};
use sim::simulate;
use sim::volume::{Entry, Volume};
use std::sync::{Arc, Mutex};
use upcall::block_on;

/// What `FS_IOC_GETFLAGS` shows.
const VISIBLE: u32 = 0x725b_dfff;

/// A file with more data than this was read in samples.
const WHOLE: u64 = 64 << 20;

/// Facts that are another's affair: of the page cache, of the C interface, of programs.
fn is_ours(fact: &str) -> bool {
    fact.starts_with("xattr ")
        || matches!(
            fact,
            "stat"
                | "xattrs"
                | "readlink"
                | "version"
                | "flags"
                | "segments"
                | "content"
                | "entries"
                | "no such name"
                | "getxattr b'user.none'"
                | "getxattr b'system.posix_acl_access'"
                | "getxattr b'system.posix_acl_default'"
        )
}

fn stat(node: &InodeInfo, block_size: u32) -> String {
    let inode = &node.inode();
    let (major, minor) = inode
        .device
        .map_or((0, 0), |d| (u64::from(d.major), u64::from(d.minor)));
    let device =
        (major & !0xfff) << 32 | (major & 0xfff) << 8 | (minor & !0xff) << 12 | minor & 0xff;
    // What lies in the inode takes no sectors, and is counted as if it did.
    let inline =
        inode.file_type == FileType::Regular && inode.data_map() == layout::DataMap::Inline;
    let ns = |t: layout::Time| i128::from(t.secs) * 1_000_000_000 + i128::from(t.nanos);
    format!(
        "({}, '0o{:o}', {}, {}, {}, {device}, {}, {block_size}, {}, {}, {}, {})",
        inode.ino.0,
        inode.mode,
        inode.links,
        inode.uid,
        inode.gid,
        inode.size,
        inode.sectors + if inline { inode.size.div_ceil(512) } else { 0 },
        ns(inode.atime),
        ns(inode.mtime),
        ns(inode.ctime),
    )
}

/// As it is if it is short, or else its digest.
fn digest_long(items: Vec<String>, tuple: bool) -> String {
    if items.len() <= 400 {
        return list(items);
    }
    assert!(tuple);
    let digest = digest(items.iter().map(|item| item.as_bytes()));
    format!("({}, '{digest}')", items.len())
}

fn entry((name, ino, kind): &Entry) -> String {
    format!("({}, {ino}, {kind})", python::bytes(name))
}

fn error<T>(result: Result<T>, show: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(value) => show(value),
        Err(error) => format!("'{error:?}'"),
    }
}

fn xattr_value(value: &[u8]) -> String {
    let shown = if value.len() < 300 {
        python::bytes(value)
    } else {
        format!("'{}'", digest([value]))
    };
    format!("({}, -1, {shown})", value.len())
}

async fn content(volume: &Volume, node: &InodeInfo, segments: &[(u64, u64)]) -> Result<String> {
    let size = node.size();
    let mut sha1 = Sha1::default();
    if size <= WHOLE {
        let total = volume
            .read(node, 0, size + 1, |bytes| sha1.update(bytes))
            .await?;
        return Ok(format!("({total}, '{}')", sha1.hex()));
    }
    let mut total = 0;
    for &(start, end) in segments {
        let mut at = start;
        while at < end && total < WHOLE {
            let n = volume
                .read(node, at, end.min(at + (1 << 20)), |b| sha1.update(b))
                .await?;
            assert_ne!(n, 0, "a short read");
            at += n;
            total += n;
        }
        volume
            .read(node, end, end + 5000, |bytes| sha1.update(bytes))
            .await?;
    }
    for at in [size / 2, size.saturating_sub(5000)] {
        volume
            .read(node, at, at + 5000, |bytes| sha1.update(bytes))
            .await?;
    }
    Ok(format!("'{}'", sha1.hex()))
}

/// All that we tell of a path, by the names of the facts.
async fn tell(volume: &Volume, path: &[u8]) -> Result<Vec<(String, String)>> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: String| facts.push((name.to_string(), value));
    let node = volume.path(path).await?;
    fact("stat", stat(&node, volume.0.sb.geo.block_size()));
    let attributes = volume.attributes(&node).await?;
    fact(
        "xattrs",
        list(attributes.iter().map(|(name, _)| python::bytes(name))),
    );
    for (name, value) in &attributes {
        fact(
            &format!("xattr {}", python::bytes(name)),
            xattr_value(value),
        );
    }
    for (name, default) in [("access", false), ("default", true)] {
        let value = match volume.acl(&node, default).await {
            // Who asks for one on a link is told that it has none of those.
            _ if node.file_type == FileType::Symlink => "'ENOTSUP'".to_string(),
            Ok(Some(value)) => xattr_value(&value),
            Ok(None) => "'ENODATA'".to_string(),
            Err(error) => format!("'{error:?}'"),
        };
        fact(&format!("getxattr b'system.posix_acl_{name}'"), value);
    }
    let none = volume
        .0
        .xattr(&node, layout::xattr::INDEX_USER, b"none")
        .await;
    fact(
        "getxattr b'user.none'",
        error(none, |value| xattr_value(&value)),
    );
    fact("version", format!("'{:#x}'", node.inode().generation));
    fact("flags", format!("'{:#x}'", node.flags().0 & VISIBLE));
    match node.file_type {
        FileType::Symlink => {
            let target = volume.0.readlink(&node).await;
            fact("readlink", error(target, |target| python::bytes(&target)));
        }
        FileType::Regular => {
            let segments = volume.segments(&node).await?;
            fact("content", content(volume, &node, &segments).await?);
            let shown = segments
                .iter()
                .take(3000)
                .map(|(a, b)| format!("({a}, {b})"));
            fact("segments", list(shown));
        }
        FileType::Directory => {
            let mut entries = volume.entries(&node).await?;
            entries.sort();
            fact(
                "entries",
                digest_long(entries.iter().map(entry).collect(), true),
            );
            let absent = volume.0.lookup(&node, b"no such name").await?;
            assert!(absent.is_none());
            fact("no such name", "'ENOENT'".to_string());
        }
        _ => {}
    }
    Ok(facts)
}

/// The number in ext4's `statfs`.
fn statfs(facts: &Facts, name: &str) -> u64 {
    let text = &facts[&b""[..]]["statfs"];
    let (_, rest) = text.split_once(&format!("'{name}': ")).expect("a figure");
    let end = rest.find(|c: char| !c.is_ascii_digit()).expect("an end");
    rest[..end].parse().expect("a number")
}

/// Compares, with four tasks and a thread; gives the number of facts and the differences.
fn compare(name: &str, seed: u64) -> (usize, Vec<String>) {
    let facts = Arc::new(image::facts(name));
    let compared = Arc::new(Mutex::new((0, Vec::new())));
    simulate(seed, image::open(name), |bed| {
        let mut options = Options::default();
        if name.starts_with("needs-recovery") {
            assert_eq!(options.set("noload", None), Ok(true));
        }
        let volume = block_on(Volume::mount(bed, options))
            .unwrap()
            .expect("it mounts");
        let st = volume.0.statfs();
        for (fact, ours) in [
            ("blocks", st.blocks),
            ("bfree", st.free),
            ("bavail", st.available),
            ("files", st.files),
            ("ffree", st.free_files),
        ] {
            assert_eq!(statfs(&facts, fact), ours, "{name}: statfs {fact}");
        }
        let paths: Vec<Vec<u8>> = facts.keys().filter(|p| !p.is_empty()).cloned().collect();
        let paths = Arc::new(Mutex::new(paths));
        let work = || {
            let (volume, facts) = (volume.clone(), facts.clone());
            let (paths, compared) = (paths.clone(), compared.clone());
            async move {
                loop {
                    let Some(path) = paths.lock().unwrap().pop() else {
                        return;
                    };
                    let told = tell(&volume, &path).await;
                    let mut compared = compared.lock().unwrap();
                    let wanted = &facts[&path];
                    let shown = python::bytes(&path);
                    match told {
                        Err(error) => {
                            compared.0 += 1;
                            // ext4 may have found the same.
                            if wanted.get("lstat") != Some(&format!("'{error:?}'")) {
                                compared.1.push(format!("{shown}: {error:?}"));
                            }
                        }
                        Ok(ours) => {
                            for (fact, theirs) in wanted.iter().filter(|(f, _)| is_ours(f)) {
                                compared.0 += 1;
                                let ours = ours.iter().find(|(name, _)| name == fact);
                                if ours.map(|(_, value)| value) != Some(theirs) {
                                    let cut = |s: &str| s.chars().take(300).collect::<String>();
                                    compared.1.push(format!(
                                        "{shown} {fact}\n  ext4: {}\n  ours: {}",
                                        cut(theirs),
                                        ours.map_or("nothing".into(), |(_, value)| cut(value)),
                                    ));
                                }
                            }
                            // What ext4 does not tell is not there.
                            for (fact, _) in ours.iter().filter(|(f, _)| f.starts_with("xattr ")) {
                                if !wanted.contains_key(fact) {
                                    compared.1.push(format!("{shown} {fact}: ext4 has none"));
                                }
                            }
                        }
                    }
                }
            }
        };
        let tasks: Vec<_> = (0..4).map(|_| bed.scope().spawn(work()).unwrap()).collect();
        block_on(work()).unwrap();
        for task in tasks {
            block_on(task).unwrap().unwrap();
        }
        let log = machine::take_log();
        let damage: Vec<_> = log.iter().filter(|line| line.starts_with("err")).collect();
        let expected = facts.values().any(|facts| facts.contains_key("lstat")) || name == "verity";
        assert_eq!(!damage.is_empty(), expected, "{name}: {damage:?}");
    });
    Arc::into_inner(compared).unwrap().into_inner().unwrap()
}

/// The differences that are meant to be: image, path and fact.
const KNOWN: &[(&str, &str)] = &[
    // Files with a Merkle tree are not read.
    ("verity", "b'/verity'"),
    // Encrypted files give ENOKEY, and the VFS interface, which is not here, gives their links a
    // size: that is compared in the virtual machine, by selftests/fidelity.
    ("encrypt", "b'/encrypted"),
    ("encrypt-4k", "b'/encrypted"),
];

fn images(part: usize) {
    let names = image::names();
    if names.is_empty() {
        return image::skip("images");
    }
    assert!(names.len() > 50, "{} images", names.len());
    let mut failed = Vec::new();
    for (n, name) in names.iter().enumerate().filter(|(n, _)| n % 2 == part) {
        let (facts, mut differences) = compare(name, n as u64);
        println!("{name}: {facts} facts, {} differ", differences.len());
        assert!(facts > 20, "{name}: only {facts} facts");
        for (_, path) in KNOWN.iter().filter(|(image, _)| image == name) {
            let all = differences.len();
            differences.retain(|text| !text.starts_with(path));
            assert_ne!(all, differences.len(), "{name}: {path} does not differ");
        }
        failed.extend(
            differences
                .into_iter()
                .map(|text| format!("{name}: {text}")),
        );
    }
    for text in failed.iter().take(20) {
        println!("{text}");
    }
    assert!(failed.is_empty(), "{} facts differ", failed.len());
}

#[test]
fn even_images_tell_what_ext4_tells() {
    images(0);
}

#[test]
fn odd_images_tell_what_ext4_tells() {
    images(1);
}
