// SPDX-License-Identifier: GPL-2.0

//! Extended attributes are changed, on a disk that fails and loses power: each change is whole or
//! absent, nothing is lost of those who share a block or a value, and e2fsck has nothing to say.

use aext4::{Ext4, InitialXattrs, InodeRef, NewInode, NewXattr, Options, XattrFlags};
use kernel::machine::{self, Config, Fail, Rng};
use kernel::prelude::*;
use layout::xattr_edit::{seal, set_refcount};
use layout::{AclEntry, AclTag, FileType, Ino, InodeEdit, Pblk, SuperBlock};
use sim::e2fs::{run, Image, Scratch};
use sim::volume::Volume;
use sim::{dropped_after, simulate, simulate_on, varied};
use simdisk::Store;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use upcall::block_on;

const CRC: layout::CrcFns = layout::CrcFns {
    crc32c: disk::checksum::crc32c,
    crc16: disk::checksum::crc16,
};

const KINDS: [&str; 9] = [
    "-b 4096",
    "-b 1024 -I 128",
    "-b 1024 -O ea_inode -I 256",
    "-b 2048 -I 1024 -O ^metadata_csum,^64bit",
    "-b 1024 -O ^has_journal,ea_inode -I 128",
    "-b 4096 -O ea_inode,^metadata_csum",
    "-b 1024 -O ea_inode,^extent,^64bit -I 256",
    "-b 4096 -O ea_inode,^extent,^64bit -I 256",
    "-b 1024 -r 0 -O none",
];

/// What files there are; some share a block of attributes.
const FILES: [&str; 4] = ["f0", "f1", "dir", "f3"];

const USER: u8 = 1;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn has_values(options: &str) -> bool {
    options.contains("ea_inode")
}

/// An image with files that have no attributes.
fn plain(dir: &Scratch, options: &str) -> Image {
    let image = Image::make(dir.path("image"), 16 << 20, options);
    let path = Image::file(dir, "content", b"content");
    let path = path.display();
    image.debugfs(&format!(
        "write {path} f0\nwrite {path} f1\nmkdir dir\nwrite {path} f3\n"
    ));
    image
}

fn superblock(bytes: &[u8]) -> SuperBlock {
    let raw = bytes[1024..2048].try_into().expect("a superblock");
    SuperBlock::parse(raw, 1, CRC).expect("a superblock")
}

/// What debugfs says of a field of a file.
fn stat(image: &Image, path: &str, field: &str) -> u64 {
    let said = image.debugfs(&format!("stat {path}\n"));
    let at = said
        .find(field)
        .unwrap_or_else(|| panic!("no {field}: {said}"));
    let rest = said[at + field.len()..].trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().expect("a number")
}

/// The attributes of the two who share a block in [`shared`], or that one.
fn shared_model(options: &str) -> Model {
    let mut model = Model::new();
    if options.contains("none") {
        // debugfs makes none where the superblock does not say that there are any.
        return model;
    }
    // With values in inodes it is as large as debugfs can read, and too large for the block.
    let block_size = if options.contains("4096") { 4096 } else { 1024 };
    let large = vec![
        b's';
        if has_values(options) {
            block_size - 24
        } else {
            150
        }
    ];
    let fill = vec![b'f'; 700];
    model.insert(b"user.fill".to_vec(), fill);
    model.insert(b"user.small".to_vec(), b"small".to_vec());
    model.insert(b"user.value".to_vec(), large);
    model
}

/// Gives `f0` and `f1` one block of attributes, as ext4 does if they are the same.
fn shared(dir: &Scratch, options: &str) -> Image {
    let image = plain(dir, options);
    let model = shared_model(options);
    if model.is_empty() {
        return image;
    }
    for (name, value) in &model {
        let name = String::from_utf8_lossy(name);
        // Behind what the inode has room for.
        let path = Image::file(dir, "value", value);
        image.debugfs(&format!("ea_set -f {} f0 {name}\n", path.display()));
    }
    let block = stat(&image, "f0", "File ACL:");
    assert!(block > 0, "{options}: no block");
    let (f0, f1) = (stat(&image, "f0", "Inode:"), stat(&image, "f1", "Inode:"));
    let sectors = stat(&image, "f0", "Blockcount:");
    let mut bytes = image.bytes();
    let sb = superblock(&bytes);
    let geo = &sb.geo;
    let size = geo.block_size() as usize;
    let raw = &mut bytes[block as usize * size..][..size];
    set_refcount(raw, 2).unwrap();
    seal(raw, Pblk(block), geo).unwrap();
    std::fs::write(image.path(), &bytes).expect("the image");
    image.debugfs(&format!(
        "sif f1 file_acl {block}\nsif f1 blocks {sectors}\n"
    ));
    // What is in the inode, too.
    let mut bytes = image.bytes();
    let place = |ino: u64, bytes: &[u8]| {
        let (group, index) = geo.inode_index(Ino(ino as u32)).unwrap();
        let (desc, offset) = geo.desc_location(group).unwrap();
        let raw = &bytes[desc.0 as usize * size + offset as usize..];
        let desc = layout::GroupDesc::parse(raw, group, geo).unwrap();
        let (block, offset) = desc.inode_location(index, geo).unwrap();
        block.0 as usize * size + offset as usize
    };
    let (from, to) = (place(f0, &bytes), place(f1, &bytes));
    let mut source = bytes[from..][..usize::from(geo.inode_size())].to_vec();
    let area = InodeEdit::new(&mut source, geo)
        .unwrap()
        .xattr_area()
        .to_vec();
    let mut edit = InodeEdit::new(&mut bytes[to..], geo).unwrap();
    edit.xattr_area().copy_from_slice(&area);
    edit.seal(Ino(f1 as u32));
    std::fs::write(image.path(), &bytes).expect("the image");
    // debugfs does not count the space of values, and this has copied a reference.
    let (status, said) = run("e2fsck", &["-fy", image.path().to_str().expect("a path")]);
    assert!(status <= 1, "{options}: {said}");
    let known = ["i_blocks is", "ref count is"];
    let expected = |line: &str| known.iter().any(|known| line.contains(known));
    assert!(
        said.lines()
            .all(|line| !line.contains("? yes") || expected(line)),
        "{options}: {said}"
    );
    assert_eq!(image.is_clean(), Ok(()), "{options}");
    image
}

fn mount(bed: &sim::Bed, write: bool) -> Volume {
    let volume = block_on(Volume::mount(bed, Options::default()))
        .expect("no deadlock")
        .expect("it mounts");
    if write {
        block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
    }
    volume
}

fn path(volume: &Volume, name: &str) -> InodeRef {
    block_on(volume.path(name.as_bytes())).unwrap().unwrap()
}

async fn set(volume: &Volume, info: &InodeRef, name: &[u8], value: Option<&[u8]>) -> Result {
    let flags = XattrFlags::default();
    volume.0.set_xattr(info, USER, name, value, flags).await
}

async fn read(volume: &Volume, info: &InodeRef) -> Result<Model> {
    Ok(volume.attributes(info).await?.into_iter().collect())
}

/// Names and sizes, to be shown.
fn sizes(model: &Model) -> Vec<(String, usize)> {
    let sizes = model.iter();
    sizes
        .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.len()))
        .collect()
}

/// Compares what a mount reads with the models.
fn compare(volume: &Volume, models: &[Model], what: &str) {
    for (name, model) in FILES.iter().zip(models) {
        let info = path(volume, name);
        let found = block_on(read(volume, &info)).unwrap().unwrap();
        let (had, want) = (sizes(&found), sizes(model));
        assert!(found == *model, "{what}: {name}: {had:?}, but {want:?}");
    }
}

/// How many blocks and inodes are free.
fn free(store: &Store) -> (u64, u64) {
    simulate(0, store.clone(), |bed| {
        let statfs = mount(bed, false).0.statfs();
        (statfs.free, statfs.free_files)
    })
}

/// Removes all attributes; then as much is free as there was before there were any.
fn remove_all(store: Store, dir: &Scratch, options: &str, none: (u64, u64)) {
    let done = simulate(0, store, |bed| {
        let volume = mount(bed, true);
        for name in FILES {
            let info = path(&volume, name);
            let all = block_on(read(&volume, &info)).unwrap().unwrap();
            for full in all.keys() {
                let name = full.strip_prefix(b"user.").expect("a prefix");
                block_on(set(&volume, &info, name, None)).unwrap().unwrap();
            }
            assert!(info.inode().xattr_block.is_none());
            assert_eq!(block_on(read(&volume, &info)).unwrap(), Ok(Model::new()));
        }
        block_on(volume.0.make_read_only()).unwrap().unwrap();
        bed.device.disk().durable().clone()
    });
    let image = Image::write(dir.path("removed"), &done);
    assert_eq!(image.is_clean(), Ok(()), "{options}");
    assert_eq!(free(&done), none, "{options}");
}

/// What debugfs reads of attributes.
fn compare_debugfs(image: &Image, file: &str, model: &Model) {
    for (n, (name, value)) in model.iter().enumerate() {
        if n % 3 != 0 {
            continue;
        }
        let out = image.path().with_extension("value");
        let _ = std::fs::remove_file(&out);
        let name = String::from_utf8_lossy(name);
        image.debugfs(&format!("ea_get -f {} {file} {name}\n", out.display()));
        let said = std::fs::read(&out).unwrap_or_default();
        assert!(said == *value, "{file}: {name}: {} bytes", said.len());
    }
}

/// One who changes the attributes of one file.
async fn change(volume: Volume, name: &'static str, mut model: Model, large: u64) -> Result<Model> {
    let info = volume.path(name.as_bytes()).await?;
    let prefix = b"user.".as_slice();
    for _ in 0..40 {
        let pick = machine::random(9);
        let name = vec![b'a' + pick as u8; 1 + pick as usize * 5];
        let full = [prefix, &name].concat();
        let before = info.inode();
        let mut changed = false;
        match machine::random(5) {
            0 => {
                let all: Vec<_> = model.keys().cloned().collect();
                if let Some(full) = all.get(machine::random(all.len() as u64 + 1) as usize) {
                    set(&volume, &info, &full[prefix.len()..], None).await?;
                    model.remove(full);
                    changed = true;
                }
            }
            1 => {
                let flags = XattrFlags {
                    create: machine::random(2) == 0,
                    replace: true,
                };
                let result = volume.0.set_xattr(&info, USER, &name, Some(b"one"), flags);
                let wanted = match (model.contains_key(&full), flags.create) {
                    (true, true) => Err(EEXIST),
                    (false, _) => Err(ENODATA),
                    (true, false) => Ok(()),
                };
                let result = result.await;
                match wanted.is_ok() && model[&full].is_empty() {
                    // The set may have no room for a value where there was none.
                    true => assert!(matches!(result, Ok(()) | Err(ENOSPC))),
                    false => assert_eq!(result, wanted),
                }
                if result.is_ok() {
                    changed = model.insert(full, b"one".to_vec()) != Some(b"one".to_vec());
                }
            }
            _ => {
                let bound = [10, 100, 300, large][machine::random(4) as usize];
                let len = machine::random(bound);
                let value: Vec<u8> = (0..len).map(|_| machine::random(256) as u8).collect();
                match set(&volume, &info, &name, Some(&value)).await {
                    Ok(()) => {
                        changed = model.insert(full, value.clone()) != Some(value);
                    }
                    Err(error) => assert_eq!(error, ENOSPC),
                }
            }
        }
        let after = info.inode();
        assert_eq!(after.version, before.version + u64::from(changed));
        assert!(read(&volume, &info).await? == model);
        match machine::random(12) {
            0 => volume.0.sync().await?,
            1 => drop(volume.0.cache.shrink(1000)),
            _ => {}
        }
    }
    Ok(model)
}

#[test]
fn attributes_are_what_they_were_set_to() {
    let dir = Scratch::new("xattr-write");
    let runs = sim::count("UPCALL_XATTRS", 3);
    for (n, options) in KINDS.iter().enumerate() {
        let none = free(&plain(&dir, options).store());
        let image = shared(&dir, options);
        for seed in 0..runs {
            let mut models = vec![Model::new(); FILES.len()];
            models[0] = shared_model(options);
            models[1] = models[0].clone();
            let large = match has_values(options) {
                true => 20_000,
                false => 1500,
            };
            let config = varied(seed * 10 + n as u64);
            let (models, done) = simulate_on(config, image.store(), |bed| {
                let volume = mount(bed, true);
                compare(&volume, &models, options);
                let tasks: Vec<_> = FILES
                    .iter()
                    .zip(models)
                    .map(|(name, model)| {
                        let work = change(volume.clone(), name, model, large);
                        bed.scope().spawn(work).unwrap()
                    })
                    .collect();
                let models: Vec<Model> = tasks
                    .into_iter()
                    .map(|task| block_on(task).unwrap().unwrap().unwrap())
                    .collect();
                compare(&volume, &models, options);
                block_on(volume.0.make_read_only()).unwrap().unwrap();
                (models, bed.device.disk().durable().clone())
            });
            let after = Image::write(dir.path("after"), &done);
            assert_eq!(after.is_clean(), Ok(()), "{options}: {seed}");
            for (name, model) in FILES.iter().zip(&models) {
                compare_debugfs(&after, name, model);
            }
            simulate(seed, done.clone(), |bed| {
                compare(&mount(bed, false), &models, options)
            });
            remove_all(done, &dir, options, none);
        }
    }
}

#[test]
fn what_is_refused() {
    let dir = Scratch::new("xattr-refused");
    let image = plain(&dir, "-b 1024 -I 256");
    simulate(0, image.store(), |bed| {
        let volume = mount(bed, false);
        let info = path(&volume, "f0");
        let set = |index: u8, name: &[u8], value: Option<&[u8]>| {
            let flags = XattrFlags::default();
            block_on(volume.0.set_xattr(&info, index, name, value, flags)).unwrap()
        };
        assert_eq!(set(USER, b"n", Some(b"v")), Err(EROFS));
        block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
        let long = [b'n'; 256];
        assert_eq!(set(USER, &long, Some(b"v")), Err(ERANGE));
        assert_eq!(set(USER, &long[1..], Some(b"v")), Ok(()));
        assert_eq!(set(USER, b"a\0b", Some(b"v")), Err(EINVAL));
        assert_eq!(set(USER, b"n", Some(&[0; 65537])), Err(E2BIG));
        assert_eq!(set(USER, b"n", Some(&[0; 65536])), Err(ENOSPC));
        assert_eq!(set(USER, b"n", Some(&[0; 1024 - 51])), Err(ENOSPC));
        assert_eq!(set(7, b"data", Some(b"v")), Err(EOPNOTSUPP));
        assert_eq!(set(9, b"c", Some(b"v")), Err(EOPNOTSUPP));
        // Nothing that is not there is removed.
        let version = info.inode().version;
        assert_eq!(set(USER, b"n", None), Ok(()));
        assert_eq!(info.inode().version, version);
        block_on(volume.0.make_read_only()).unwrap().unwrap();
    });
}

#[test]
fn without_space_nothing_changes() {
    let dir = Scratch::new("xattr-full");
    for (n, options) in ["-b 1024 -I 128 -m 0", "-b 1024 -I 128 -m 0 -O ea_inode"]
        .iter()
        .enumerate()
    {
        let image = shared(&dir, options);
        let rest = free(&image.store()).0;
        // What is kept back for what must not fail stays.
        let fill = vec![1; (rest as usize).saturating_sub(4) << 10];
        let fill = Image::file(&dir, "fill", &fill);
        image.debugfs(&format!("write {} fill\n", fill.display()));
        let done = simulate(n as u64, image.store(), |bed| {
            let volume = mount(bed, true);
            let mut models = vec![Model::new(); 4];
            models[0] = shared_model(options);
            models[1] = models[0].clone();
            for name in FILES {
                let info = path(&volume, name);
                let result = block_on(set(&volume, &info, b"n", Some(&[3; 900]))).unwrap();
                assert_eq!(result, Err(ENOSPC), "{options}: {name}");
            }
            compare(&volume, &models, options);
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            bed.device.disk().durable().clone()
        });
        let image = Image::write(dir.path("done"), &done);
        assert_eq!(image.is_clean(), Ok(()), "{options}");
    }
}

#[test]
fn access_control_lists() {
    let dir = Scratch::new("xattr-acl");
    let entry = |tag, perm| AclEntry { tag, perm };
    let list = [
        entry(AclTag::UserObj, 7),
        entry(AclTag::User(70_000), 5),
        entry(AclTag::GroupObj, 4),
        entry(AclTag::Mask, 5),
        entry(AclTag::Other, 1),
    ];
    for options in ["-b 4096", "-b 1024 -I 128 -O none -r 0"] {
        let image = plain(&dir, options);
        let done = simulate(0, image.store(), |bed| {
            let volume = mount(bed, true);
            let set = |name: &str, default, entries: Option<&[AclEntry]>, mode| {
                let info = path(&volume, name);
                let set = volume.0.set_acl(&info, default, entries, mode);
                block_on(set).unwrap()
            };
            assert_eq!(set("f0", false, Some(&list), Some(0o751)), Ok(()));
            assert_eq!(set("dir", true, Some(&list), None), Ok(()));
            assert_eq!(set("f1", true, Some(&list), None), Err(EACCES));
            assert_eq!(set("f1", true, None, None), Ok(()));
            assert_eq!(set("f1", false, Some(&list[..3]), None), Err(EINVAL));
            assert_eq!(set("f1", false, Some(&list), None), Ok(()));
            assert_eq!(set("f1", false, None, Some(0o600)), Ok(()));
            // The mode is set also if the list stays.
            assert_eq!(set("f1", false, None, Some(0o640)), Ok(()));
            assert_eq!(path(&volume, "f0").inode().mode, 0o100751);
            assert_eq!(path(&volume, "f1").inode().mode, 0o100640);
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            bed.device.disk().durable().clone()
        });
        let image = Image::write(dir.path("done"), &done);
        assert_eq!(image.is_clean(), Ok(()), "{options}");
        let said = image.debugfs("ea_list f0\nea_list dir\nea_list f1\n");
        assert!(said.contains("system.posix_acl_access"), "{said}");
        assert!(said.contains("system.posix_acl_default"), "{said}");
        simulate(0, done, |bed| {
            let volume = mount(bed, false);
            let get = |name: &str, default| {
                let info = path(&volume, name);
                let acl = block_on(volume.0.get_acl(&info, default)).unwrap().unwrap();
                acl.map(|acl| acl.to_vec())
            };
            assert_eq!(get("f0", false), Some(list.to_vec()));
            assert_eq!(get("dir", true), Some(list.to_vec()));
            assert_eq!(get("dir", false), None);
            assert_eq!(get("f1", false), None);
        });
    }
}

/// What a test with faults does: each step alone is whole or absent.
const STEPS: [(&str, &str, Option<usize>); 9] = [
    ("f0", "more", Some(40)),
    ("f1", "value", Some(6000)),
    ("f0", "value", None),
    ("dir", "large", Some(900)),
    ("dir", "large", Some(800)),
    ("dir", "large", None),
    ("f3", "huge", Some(9000)),
    ("f3", "huge", Some(3)),
    ("f1", "fill", None),
];

/// Kinds for tests with faults: with values in inodes, and without.
const FAULTY: [&str; 2] = ["-b 1024 -I 128 -O ea_inode", "-b 1024 -I 128"];

struct Session {
    models: Vec<Model>,
    /// What the step that is under way makes of them.
    next: Vec<Model>,
    failed: Vec<Error>,
}

impl Session {
    fn new(options: &str) -> Self {
        let mut models = vec![Model::new(); 4];
        models[0] = shared_model(options);
        models[1] = models[0].clone();
        Self {
            next: models.clone(),
            models,
            failed: Vec::new(),
        }
    }
}

/// Goes through the steps. One that fails for lack of space was not to be had anyway.
async fn session(volume: &Volume, to: &Mutex<Session>) -> Result {
    for (name, attr, value) in STEPS {
        let value = value.map(|len| vec![len as u8; len]);
        let file = FILES.iter().position(|file| *file == name).unwrap();
        {
            let mut session = to.lock().unwrap();
            let full = format!("user.{attr}").into_bytes();
            let mut next = session.models.clone();
            match &value {
                Some(value) => drop(next[file].insert(full, value.clone())),
                None => drop(next[file].remove(&full)),
            }
            session.next = next;
        }
        // What is in memory is not read.
        volume.0.shrink(100_000);
        volume.0.cache.shrink(100_000);
        let result = match volume.path(name.as_bytes()).await {
            Ok(info) => set(volume, &info, attr.as_bytes(), value.as_deref()).await,
            Err(error) => Err(error),
        };
        let mut session = to.lock().unwrap();
        match result {
            Ok(()) => session.models = session.next.clone(),
            Err(ENOSPC) => {}
            Err(error) => session.failed.push(error),
        }
    }
    Ok(())
}

/// What a volume is like after a session.
fn judge(dir: &Scratch, store: Store, session: &Session, either: bool, full: bool, what: &str) {
    simulate(0, store.clone(), |bed| {
        let volume = mount(bed, false);
        machine::take_log();
        let found: Vec<Model> = FILES
            .iter()
            .map(|name| {
                let info = path(&volume, name);
                block_on(read(&volume, &info)).unwrap().unwrap()
            })
            .collect();
        let good = found == session.models || either && found == session.next;
        assert!(
            good,
            "{what}: {:?}",
            found.iter().map(sizes).collect::<Vec<_>>()
        );
    });
    if full {
        let image = Image::write(dir.path("judged"), &store);
        assert_eq!(image.is_clean(), Ok(()), "{what}");
    }
}

/// Ends a session: the volume is well, and made read-only.
fn end(bed: &sim::Bed, volume: Volume) -> Store {
    block_on(volume.0.make_read_only()).unwrap().unwrap();
    drop(volume);
    machine::settle();
    machine::take_log();
    bed.device.disk().durable().clone()
}

#[test]
fn every_read_failed_in_turn() {
    let dir = Scratch::new("xattr-reads");
    for options in FAULTY {
        let image = shared(&dir, options);
        let mut hit = 0;
        for nth in 0.. {
            let to = Mutex::new(Session::new(options));
            let (over, store) = simulate_on(Config::new(nth), image.store(), |bed| {
                let volume = mount(bed, true);
                volume.0.shrink(100_000);
                volume.0.cache.shrink(100_000);
                let before = bed.device.disk().counts().reads;
                bed.device.disk().faults.reads.insert(before + nth);
                block_on(session(&volume, &to)).unwrap().unwrap();
                let over = bed.device.disk().counts().reads <= before + nth;
                bed.device.disk().faults.reads.clear();
                (over, end(bed, volume))
            });
            let session = to.into_inner().unwrap();
            hit += session.failed.len();
            assert!(session.failed.iter().all(|error| *error == EIO));
            let what = format!("{options}: read {nth}");
            judge(&dir, store, &session, false, true, &what);
            if over {
                break;
            }
        }
        assert!(hit > 5, "{hit}");
    }
}

#[test]
fn every_allocation_failed_in_turn() {
    let dir = Scratch::new("xattr-memory");
    for options in FAULTY {
        let image = shared(&dir, options);
        let mut hit = 0;
        for nth in (0..60).chain((60..).step_by(7)) {
            let to = Mutex::new(Session::new(options));
            let (over, store) = simulate_on(Config::new(nth), image.store(), |bed| {
                let volume = mount(bed, true);
                machine::fail_allocations(Fail::Nth(nth));
                block_on(session(&volume, &to)).unwrap().unwrap();
                let failed = machine::allocations().1 != 0;
                machine::fail_allocations(Fail::Never);
                (!failed, end(bed, volume))
            });
            let session = to.into_inner().unwrap();
            hit += session.failed.len();
            assert!(session.failed.iter().all(|error| *error == ENOMEM));
            let what = format!("{options}: allocation {nth}");
            judge(&dir, store, &session, false, nth % 8 == 0, &what);
            if over {
                break;
            }
        }
        assert!(hit > 20, "{hit}");
    }
}

#[test]
fn every_await_dropped() {
    let dir = Scratch::new("xattr-dropped");
    for options in FAULTY {
        let image = shared(&dir, options);
        let mut cut = 0;
        for polls in 0.. {
            let to = Mutex::new(Session::new(options));
            let (over, store) = simulate_on(Config::new(7), image.store(), |bed| {
                let volume = mount(bed, true);
                volume.0.shrink(100_000);
                volume.0.cache.shrink(100_000);
                let end_ = block_on(dropped_after(polls, session(&volume, &to))).unwrap();
                (end_.is_some(), end(bed, volume))
            });
            let session = to.into_inner().unwrap();
            assert_eq!(session.failed, []);
            let what = format!("{options}: {polls} polls");
            judge(&dir, store, &session, false, polls % 4 == 0, &what);
            if over {
                break;
            }
            cut += 1;
        }
        assert!(cut > 10, "{cut}");
    }
}

#[test]
fn a_loss_of_power_leaves_each_change_whole_or_absent() {
    let dir = Scratch::new("xattr-crash");
    let mut states = 0;
    for n in 0..6u64 {
        let options = FAULTY[n as usize % 2];
        let image = shared(&dir, options);
        // The models after each step; how many are done, and how many are promised.
        let steps = Arc::new(Mutex::new((vec![Session::new(options).models], 0usize)));
        type Lost = (Store, usize, usize);
        let lost = Arc::new(Mutex::new(Vec::<Lost>::new()));
        simulate(n, image.store(), |bed| {
            let volume = mount(bed, true);
            let (to, now, mut rng) = (lost.clone(), steps.clone(), Rng::new(n));
            bed.device.observe(move |disk| {
                let (begun, synced) = {
                    let now = now.lock().unwrap();
                    (now.0.len(), now.1)
                };
                let all = disk.crash_states(rng.next());
                let share = all.len() as u64 / 4 + 1;
                for crash in all.states().filter(|_| rng.one_in(share)) {
                    to.lock().unwrap().push((all.store(crash), begun, synced));
                }
            });
            let mut rng = Rng::new(n + 100);
            for (name, attr, value) in STEPS {
                let value = value.map(|len| vec![len as u8; len]);
                let file = FILES.iter().position(|file| *file == name).unwrap();
                let mut next = steps.lock().unwrap().0.last().unwrap().clone();
                let full = format!("user.{attr}").into_bytes();
                match &value {
                    Some(value) => drop(next[file].insert(full, value.clone())),
                    None => drop(next[file].remove(&full)),
                }
                if value.as_ref().is_some_and(|value| value.len() > 1000) && !has_values(options) {
                    continue;
                }
                // It may be durable before it returns.
                steps.lock().unwrap().0.push(next);
                let info = path(&volume, name);
                block_on(set(&volume, &info, attr.as_bytes(), value.as_deref()))
                    .unwrap()
                    .unwrap();
                if rng.one_in(2) {
                    block_on(volume.0.sync_inode(&info)).unwrap().unwrap();
                    let mut steps = steps.lock().unwrap();
                    steps.1 = steps.0.len() - 1;
                }
            }
            block_on(volume.0.make_read_only()).unwrap().unwrap();
        });
        let models = &steps.lock().unwrap().0;
        for (store, begun, synced) in core::mem::take(&mut *lost.lock().unwrap()) {
            states += 1;
            let recovered = simulate(states, store, |bed| {
                let volume = mount(bed, false);
                machine::take_log();
                let found: Vec<Model> = FILES
                    .iter()
                    .map(|name| {
                        let info = path(&volume, name);
                        block_on(read(&volume, &info)).unwrap().unwrap()
                    })
                    .collect();
                let good = models[synced..begun].iter().any(|model| *model == found);
                assert!(good, "{options}: synced {synced}, begun {begun}");
                bed.device.disk().durable().clone()
            });
            if states % 25 == 0 {
                let image = Image::write(dir.path("lost"), &recovered);
                assert_eq!(image.is_clean(), Ok(()), "{options}");
            }
        }
    }
    assert!(states > 200, "{states}");
}

#[test]
fn a_deleted_inode_leaves_none() {
    let dir = Scratch::new("xattr-release");
    for (n, options) in KINDS.iter().enumerate() {
        let image = shared(&dir, options);
        let done = simulate(n as u64, image.store(), |bed| {
            let volume = mount(bed, true);
            let info = path(&volume, "f3");
            let large = if has_values(options) { 30_000 } else { 600 };
            for i in 0..3u8 {
                let value = vec![i; large / (1 + 2 * usize::from(i))];
                let result = block_on(set(&volume, &info, &[b'a' + i], Some(&value))).unwrap();
                assert!(
                    result.is_ok() || result == Err(ENOSPC),
                    "{options}: {result:?}"
                );
            }
            for name in ["f0", "f1", "f3"] {
                let info = path(&volume, name);
                let Ext4 { cache, .. } = &*volume.0;
                let writable = volume.0.writable().unwrap();
                if name == "f3" {
                    block_on(volume.0.drop_xattr_values(&info))
                        .unwrap()
                        .unwrap();
                }
                let release = block_on(volume.0.plan_release_xattrs(&writable, &info));
                let release = release.unwrap().unwrap();
                let plan = block_on(volume.0.plan_inode(&info)).unwrap().unwrap();
                let mut credits = release.credits();
                credits.blocks += 1;
                // What is left is the block of the content.
                let sectors = u64::from(cache.block_size() >> 9);
                let mut tx = block_on(writable.journal.begin(cache, credits))
                    .unwrap()
                    .unwrap();
                release.apply(&volume.0, &mut tx);
                plan.apply(&volume.0, &mut tx, &info, |edit| {
                    edit.set_xattr_block(None);
                    edit.set_sectors(sectors).unwrap();
                    edit.xattr_area().fill(0);
                });
                drop(tx);
            }
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            bed.device.disk().durable().clone()
        });
        let image = Image::write(dir.path("done"), &done);
        assert_eq!(image.is_clean(), Ok(()), "{options}");
        assert_eq!(
            free(&done),
            free(&plain(&dir, options).store()),
            "{options}"
        );
    }
}

#[test]
fn a_new_inode_has_attributes_from_the_start() {
    let dir = Scratch::new("xattr-initial");
    for (n, options) in KINDS.iter().enumerate() {
        let image = plain(&dir, options);
        let large = vec![7; if has_values(options) { 3000 } else { 500 }];
        let all = [
            NewXattr {
                index: 6,
                name: b"selinux",
                value: b"a label\0",
            },
            NewXattr {
                index: 1,
                name: b"large",
                value: &large,
            },
            NewXattr {
                index: 1,
                name: b"empty",
                value: b"",
            },
        ];
        let done = simulate(n as u64, image.store(), |bed| {
            let volume = mount(bed, true);
            let info = path(&volume, "f0");
            assert_eq!(info.file_type, FileType::Regular);
            let writable = volume.0.writable().unwrap();
            let initial = |attrs: &[NewXattr<'_>]| {
                let plan = InitialXattrs::plan(&volume.0, &writable, info.ino, (1, 2), attrs);
                block_on(plan).unwrap()
            };
            assert_eq!(initial(&[all[0], all[0]]).err(), Some(EEXIST));
            let huge = NewXattr {
                value: &[0; 65537],
                ..all[0]
            };
            assert_eq!(initial(&[huge]).err(), Some(E2BIG));
            // An inode with nothing yet is as good as a new one.
            let mut plan = initial(&all).unwrap();
            let inode = block_on(volume.0.plan_inode(&info)).unwrap().unwrap();
            let mut credits = plan.credits();
            credits.blocks += 1;
            let mut tx = block_on(writable.journal.begin(&volume.0.cache, credits))
                .unwrap()
                .unwrap();
            plan.apply(&volume.0, &mut tx);
            inode.apply(&volume.0, &mut tx, &info, |edit| plan.fill(edit));
            drop(tx);
            drop(plan);
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            bed.device.disk().durable().clone()
        });
        let image = Image::write(dir.path("done"), &done);
        assert_eq!(image.is_clean(), Ok(()), "{options}");
        simulate(0, done, |bed| {
            let volume = mount(bed, false);
            let info = path(&volume, "f0");
            let found = block_on(read(&volume, &info)).unwrap().unwrap();
            assert_eq!(found.len(), 3);
            assert_eq!(found[&b"security.selinux"[..]], b"a label\0");
            assert_eq!(found[&b"user.large"[..]], large);
        });
    }
}

#[test]
fn what_is_created_has_attributes_and_leaves_none_when_deleted() {
    let dir = Scratch::new("xattr-create");
    for (n, options) in KINDS.iter().enumerate() {
        let none = free(&plain(&dir, options).store());
        let image = shared(&dir, options);
        let values = has_values(options);
        let large = vec![9; if values { 9000 } else { 400 }];
        let attrs = [
            NewXattr {
                index: 6,
                name: b"selinux",
                value: b"a label\0",
            },
            NewXattr {
                index: 1,
                name: b"large",
                value: &large,
            },
        ];
        let made = simulate(n as u64, image.store(), |bed| {
            let volume = mount(bed, true);
            let root = path(&volume, "");
            let new = |mode| NewInode {
                mode,
                uid: 1,
                gid: 2,
                device: None,
                xattrs: &attrs,
            };
            let ext4 = &volume.0;
            for (name, mode) in [("new", 0o100_644), ("newdir", 0o40_755), ("pipe", 0o10_600)] {
                let new = new(mode);
                let create = ext4.create(&root, name.as_bytes(), &new);
                block_on(create).unwrap().unwrap();
            }
            // e2fsck takes a short link for a long one if it has a value elsewhere and no block.
            let new = NewInode {
                xattrs: &attrs[..1],
                ..new(0o777)
            };
            let link = ext4.symlink(&root, b"link", b"target", &new);
            block_on(link).unwrap().unwrap();
            block_on(ext4.make_read_only()).unwrap().unwrap();
            bed.device.disk().durable().clone()
        });
        let image = Image::write(dir.path("made"), &made);
        assert_eq!(image.is_clean(), Ok(()), "{options}");
        let done = simulate(n as u64, made, |bed| {
            let volume = mount(bed, true);
            let root = path(&volume, "");
            for name in ["new", "newdir", "pipe", "link"] {
                let info = path(&volume, name);
                let found = block_on(read(&volume, &info)).unwrap().unwrap();
                assert_eq!(found[&b"security.selinux"[..]], b"a label\0");
                if name != "link" {
                    assert_eq!(found[&b"user.large"[..]], large);
                }
            }
            let inode = path(&volume, "link").inode();
            assert_eq!(inode.fast_symlink(), Some(&b"target"[..]));
            for name in ["new", "pipe", "link", "f0", "f1", "f3"] {
                let info = path(&volume, name);
                let unlink = volume.0.unlink(&root, name.as_bytes(), &info);
                block_on(unlink).unwrap().unwrap();
                block_on(volume.0.delete(info)).unwrap().unwrap();
            }
            for name in ["newdir", "dir"] {
                let info = path(&volume, name);
                let rmdir = volume.0.rmdir(&root, name.as_bytes(), &info);
                block_on(rmdir).unwrap().unwrap();
                block_on(volume.0.delete(info)).unwrap().unwrap();
            }
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            bed.device.disk().durable().clone()
        });
        let image = Image::write(dir.path("done"), &done);
        assert_eq!(image.is_clean(), Ok(()), "{options}");
        let left = free(&done);
        // The four that were there before are gone, too, and each had a block.
        assert_eq!(left, (none.0 + 4, none.1 + 4), "{options}");
    }
}
