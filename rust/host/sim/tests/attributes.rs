// SPDX-License-Identifier: GPL-2.0

//! Attributes are changed, on a disk that loses power: what was synced is there, and nothing else is
//! changed.

use aext4::{Ext4, Options, SetAttributes};
use kernel::machine::{self, Rng};
use kernel::prelude::*;
use layout::{Inode, InodeFlags, Time};
use sim::e2fs::{Image, Scratch};
use sim::tree::{ended, mount, writable};
use sim::volume::Volume;
use sim::{simulate, Bed};
use simdisk::Store;
use stack::AsyncStackable;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use upcall::block_on;
use vfs::{AclEntry, SetAttr};

const KINDS: [&str; 5] = [
    "-b 4096",
    "-b 1024 -O ^metadata_csum,^64bit -I 128",
    "-b 1024 -O ^has_journal",
    "-b 2048 -I 256 -O ^extent,^64bit,project",
    "-b 1024 -r 0 -O none",
];

const NAMES: [&str; 4] = ["file", "dir", "link", "pipe"];

fn image(dir: &Scratch, options: &str) -> Image {
    let image = Image::make(dir.path("image"), 16 << 20, options);
    let path = Image::file(dir, "content", b"content");
    image.debugfs(&format!(
        "write {} file\nmkdir dir\nsymlink link target\nmknod pipe p\n",
        path.display()
    ));
    image
}

/// What an inode's attributes are, as far as they can be set.
#[derive(Clone, Debug, PartialEq)]
struct Facts {
    mode: u16,
    ids: (u32, u32, u32),
    flags: u32,
    times: [(i64, u32); 3],
}

fn facts(inode: &Inode) -> Facts {
    let time = |time: Time| (time.secs, time.nanos);
    Facts {
        mode: inode.mode,
        ids: (inode.uid, inode.gid, inode.project),
        flags: inode.flags.0,
        times: [time(inode.atime), time(inode.mtime), time(inode.ctime)],
    }
}

fn random(rng: &mut Rng, project: bool) -> SetAttributes {
    let mut some = |bound: u64| (rng.next() % 2 == 0).then(|| rng.next() % bound);
    let time = |secs: Option<u64>| {
        secs.map(|secs| Time {
            secs: i64::try_from(secs).unwrap(),
            nanos: (secs * 7919 % 1_000_000_000) as u32,
        })
    };
    SetAttributes {
        mode: some(0o10000).map(|mode| mode as u16),
        uid: some(1 << 32).map(|id| id as u32),
        gid: some(1 << 32).map(|id| id as u32),
        project: some(1 << 32).map(|id| id as u32).filter(|_| project),
        flags: None,
        atime: time(some(1 << 31)),
        mtime: time(some(1 << 31)),
        ctime: time(some(1 << 31)),
    }
}

/// What `set` makes of `facts`.
fn changed(facts: &mut Facts, set: &SetAttributes, nanos: bool) {
    let time = |time: Time| (time.secs, if nanos { time.nanos } else { 0 });
    let ids = &mut facts.ids;
    facts.mode = set
        .mode
        .map_or(facts.mode, |mode| facts.mode & !0o7777 | mode);
    *ids = (
        set.uid.unwrap_or(ids.0),
        set.gid.unwrap_or(ids.1),
        set.project.unwrap_or(ids.2),
    );
    for (old, new) in facts
        .times
        .iter_mut()
        .zip([set.atime, set.mtime, set.ctime])
    {
        *old = new.map_or(*old, time);
    }
}

#[test]
fn attributes_are_what_they_were_set_to() {
    let dir = Scratch::new("attributes");
    for (n, options) in KINDS.iter().enumerate() {
        let image = image(&dir, options);
        let (large, project) = (
            !options.contains("128") && n != 4,
            options.contains("project"),
        );
        let (wanted, done) = simulate(n as u64, image.store(), |bed| {
            let volume = block_on(Volume::mount(bed, Options::default()))
                .unwrap()
                .unwrap();
            let mut wanted = BTreeMap::new();
            let mut rng = Rng::new(n as u64);
            let root = block_on(volume.path(b"/file")).unwrap().unwrap();
            let set = SetAttributes::default();
            let refused = block_on(volume.0.set_attributes(&root, &set)).unwrap();
            assert_eq!(refused, Err(EROFS));
            block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
            for _ in 0..200 {
                let name = NAMES[(rng.next() % 4) as usize];
                let path = format!("/{name}");
                let info = block_on(volume.path(path.as_bytes())).unwrap().unwrap();
                let before = facts(&info.inode());
                let set = random(&mut rng, project);
                let mut after = before.clone();
                changed(&mut after, &set, large);
                block_on(volume.0.set_attributes(&info, &set))
                    .unwrap()
                    .unwrap();
                assert_eq!(facts(&info.inode()), after, "{options}: {set:?}");
                wanted.insert(path, after);
            }
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            (wanted, bed.device.disk().durable().clone())
        });
        let after = Image::write(dir.path("after"), &done);
        assert_eq!(after.is_clean(), Ok(()), "{options}");
        for (path, facts) in &wanted {
            let said = after.debugfs(&format!("stat {path}\n"));
            let mode = format!("Mode:  0{:03o}", facts.mode & 0o7777);
            assert!(said.contains(&mode), "{options}: {said} {facts:?}");
            // debugfs takes them for signed.
            let ids = [facts.ids.0, facts.ids.1].map(|id| (id as i32).to_string());
            let line = said.lines().find(|line| line.starts_with("User:"));
            let line = line.expect("a line of owners");
            assert!(ids.iter().all(|id| line.contains(id)), "{line} {facts:?}");
            assert!(said.contains(&format!("mtime: 0x{:08x}", facts.times[1].0)));
        }
        // Another mount reads the same.
        simulate(n as u64, done, |bed| {
            let volume = block_on(Volume::mount(bed, Options::default()))
                .unwrap()
                .unwrap();
            for (path, wanted) in &wanted {
                let info = block_on(volume.path(path.as_bytes())).unwrap().unwrap();
                assert_eq!(&facts(&info.inode()), wanted, "{options}: {path}");
            }
        });
    }
}

#[test]
fn flags_that_cannot_be_changed_stay_or_are_refused() {
    let dir = Scratch::new("attributes-flags");
    let image = image(&dir, KINDS[3]);
    simulate(1, image.store(), |bed| {
        let volume = block_on(Volume::mount(bed, Options::default()))
            .unwrap()
            .unwrap();
        block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
        let set = |path: &str, change: u32| {
            let info = block_on(volume.path(path.as_bytes())).unwrap().unwrap();
            let before = info.flags().0;
            let set = SetAttributes {
                flags: Some(InodeFlags(before ^ change)),
                ..Default::default()
            };
            let result = block_on(volume.0.set_attributes(&info, &set)).unwrap();
            result.map(|()| info.flags().0 ^ before)
        };
        let both = InodeFlags::APPEND.0 | InodeFlags::NOATIME.0;
        assert_eq!(set("/file", both), Ok(both));
        assert_eq!(set("/file", both), Ok(both));
        assert_eq!(set("/file", InodeFlags::DIRSYNC.0), Ok(0));
        assert_eq!(
            set("/dir", InodeFlags::DIRSYNC.0),
            Ok(InodeFlags::DIRSYNC.0)
        );
        assert_eq!(set("/pipe", both), Ok(InodeFlags::NOATIME.0));
        assert_eq!(
            set("/file", InodeFlags::HUGE_FILE.0 | InodeFlags::ENCRYPT.0),
            Ok(0)
        );
        for refused in [
            InodeFlags::EXTENTS,
            InodeFlags::JOURNAL_DATA,
            InodeFlags::DAX,
        ] {
            assert_eq!(set("/file", refused.0), Err(EOPNOTSUPP));
        }
        let info = block_on(volume.path(b"/file")).unwrap().unwrap();
        let project = SetAttributes {
            project: Some(7),
            ..Default::default()
        };
        assert_eq!(
            block_on(volume.0.set_attributes(&info, &project)).unwrap(),
            Ok(())
        );
        assert_eq!(info.inode().project, 7);
        block_on(volume.0.make_read_only()).unwrap().unwrap();
    });
}

#[test]
fn what_was_synced_is_there_after_a_loss_of_power() {
    let dir = Scratch::new("attributes-crash");
    let mut states = 0;
    for n in 0..12 {
        // Without a journal nothing is promised but that e2fsck repairs it.
        let options = ["-b 4096", "-b 1024 -O ^metadata_csum,^64bit -I 128"][n % 2];
        let image = image(&dir, options);
        type Lost = (Store, usize, usize);
        let lost = Arc::new(Mutex::new(Vec::<Lost>::new()));
        // How many changes were begun, and how many are promised.
        let made = Arc::new(Mutex::new((0usize, 0usize)));
        simulate(n as u64, image.store(), |bed| {
            let volume = block_on(Volume::mount(bed, Options::default()))
                .unwrap()
                .unwrap();
            block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
            let (to, now, mut rng) = (lost.clone(), made.clone(), Rng::new(n as u64));
            bed.device.observe(move |disk| {
                let (begun, synced) = *now.lock().unwrap();
                for (_, store) in disk.crash_states(rng.next()).iter() {
                    to.lock().unwrap().push((store, begun, synced));
                }
            });
            let mut rng = Rng::new(n as u64 + 100);
            for change in 1..=12usize {
                made.lock().unwrap().0 = change;
                let info = block_on(volume.path(b"/file")).unwrap().unwrap();
                let set = SetAttributes {
                    uid: Some(change as u32),
                    gid: Some(change as u32),
                    ..Default::default()
                };
                block_on(volume.0.set_attributes(&info, &set))
                    .unwrap()
                    .unwrap();
                match rng.next() % 3 {
                    0 => block_on(volume.0.sync_inode(&info)).unwrap().unwrap(),
                    1 => block_on(volume.0.sync()).unwrap().unwrap(),
                    _ => continue,
                }
                made.lock().unwrap().1 = change;
            }
            block_on(volume.0.make_read_only()).unwrap().unwrap();
        });
        for (store, begun, synced) in core::mem::take(&mut *lost.lock().unwrap()) {
            simulate(states, store, |bed| {
                let volume = block_on(Volume::mount(bed, Options::default()))
                    .unwrap()
                    .unwrap();
                machine::take_log();
                let inode = block_on(volume.path(b"/file")).unwrap().unwrap().inode();
                assert_eq!(inode.uid, inode.gid);
                let found = inode.uid as usize;
                assert!(
                    (synced..=begun).contains(&found),
                    "{options}: {found}, synced {synced}, begun {begun}"
                );
            });
            states += 1;
        }
    }
    assert!(states > 100, "{states}");
}

#[test]
fn damage_ends_writing_if_errors_say_so() {
    let dir = Scratch::new("attributes-damage");
    for (options, result) in [("remount-ro", Err(EROFS)), ("continue", Ok(()))] {
        let image = image(&dir, KINDS[0]);
        // A name that leads to an inode that is not in use.
        image.debugfs("link file lost\nlink <200> gone\n");
        simulate(5, image.store(), |bed| {
            let mut mount = Options::default();
            assert_eq!(mount.set("errors", Some(options)), Ok(true));
            let volume = block_on(Volume::mount(bed, mount)).unwrap().unwrap();
            block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
            let info = block_on(volume.path(b"/file")).unwrap().unwrap();
            let set = SetAttributes {
                uid: Some(5),
                ..Default::default()
            };
            assert_eq!(
                block_on(volume.0.set_attributes(&info, &set)).unwrap(),
                Ok(())
            );
            let gone = block_on(volume.path(b"/gone")).unwrap();
            assert!(gone.is_err());
            let after = block_on(volume.0.set_attributes(&info, &set)).unwrap();
            assert_eq!(after, result, "errors={options}");
            let _ = block_on(volume.0.make_read_only()).unwrap();
            machine::take_log();
        });
    }
}

const ACL: [AclEntry; 5] = [
    acl_entry(1, 6, 0),
    acl_entry(2, 7, 12),
    acl_entry(4, 5, 0),
    acl_entry(16, 4, 0),
    acl_entry(32, 0, 0),
];

const fn acl_entry(tag: u16, perm: u16, id: u32) -> AclEntry {
    AclEntry { tag, perm, id }
}

/// Mode, owner, and what the list says of the three classes.
type Permissions = (u16, u32, [u16; 3]);

const WAS: Permissions = (0o640, 0, [6, 4, 0]);
const WANTED: Permissions = (0o2751, 5, [7, 5, 1]);

async fn permissions(volume: &Volume) -> Permissions {
    let file = volume.path(b"file").await.unwrap();
    let acl = volume.0.get_acl(&file, false).await.unwrap();
    let acl = acl.expect("there is a list");
    let perm = |tag: u16| {
        let entry = acl.iter().find(|entry| entry.tag.code() == tag);
        entry.unwrap().perm
    };
    let inode = file.inode();
    (
        inode.mode & 0o7777,
        inode.uid,
        [perm(1), perm(16), perm(32)],
    )
}

/// Mode, owner and list of the file change, while others wait for the inode, and make all durable
/// that was changed as soon as they have it.
async fn change_permissions(bed: &Bed, volume: &Volume, states: &Arc<Mutex<Vec<Store>>>) {
    let api = volume::Volume::new(volume.0.clone()).unwrap();
    let file = api.walk(api.root(), b"file").await.unwrap();
    api.set_acl(file, false, Some(&ACL)).await.unwrap();
    api.sync().await.unwrap();
    assert_eq!(permissions(volume).await, WAS);
    let (mut rng, to) = (Rng::new(1), states.clone());
    bed.device.observe(move |disk| {
        let crashes = disk.crash_states(rng.next());
        for (_, store) in crashes.iter() {
            to.lock().unwrap().push(store);
        }
    });
    let info = volume.path(b"file").await.unwrap();
    let guard = info.rwsem.read().await.unwrap();
    let set = SetAttr {
        mode: Some(WANTED.0),
        uid: Some(WANTED.1),
        ..SetAttr::default()
    };
    let change = async { api.set_attr(file, &set).await.unwrap() };
    let other = async {
        let _guard = info.rwsem.write().await.unwrap();
        volume.0.sync().await.unwrap();
    };
    let begin = async {
        // The two have come to wait for it, in this order.
        upcall::sleep(Duration::from_millis(1)).await;
        drop(guard);
    };
    upcall::join!(change, other, begin);
    assert_eq!(permissions(volume).await, WANTED);
    api.sync().await.unwrap();
    bed.device.observe(|_| {});
}

#[test]
fn permissions_and_the_list_that_has_them_change_at_once() {
    let dir = Scratch::new("attributes-acl");
    for options in [KINDS[0], KINDS[1]] {
        let image = image(&dir, options);
        let states = Arc::new(Mutex::new(Vec::new()));
        simulate(1, image.store(), |bed| {
            let volume = writable(bed);
            block_on(change_permissions(bed, &volume, &states)).unwrap();
            ended(bed, &volume);
        });
        let mut seen = [0; 2];
        for store in states.lock().unwrap().drain(..) {
            let is = simulate(1, store, |bed| {
                let volume = mount(bed);
                let is = block_on(permissions(&volume)).unwrap();
                machine::take_log();
                is
            });
            let which = [WAS, WANTED].iter().position(|state| *state == is);
            seen[which.unwrap_or_else(|| panic!("{options}: {is:?}"))] += 1;
        }
        assert!(seen.iter().all(|count| *count > 0), "{options}: {seen:?}");
    }
}
