// SPDX-License-Identifier: GPL-2.0

use super::*;
use std::collections::BTreeSet;

/// So many sectors of this byte.
fn bytes(byte: u8, sectors: u64) -> Vec<u8> {
    vec![byte; (sectors * SECTOR) as usize]
}

fn disk() -> SimDisk {
    SimDisk::new(Store::zeroes(64 * SECTOR))
}

/// Writes sectors from `sector` on, and completes the write.
fn write(disk: &mut SimDisk, sector: u64, data: Vec<u8>) -> Id {
    let id = disk.submit(Request::write(sector * SECTOR, data));
    disk.complete(id).unwrap();
    id
}

fn run(disk: &mut SimDisk, request: Request) -> Result<Vec<u8>, Fault> {
    let id = disk.submit(request);
    disk.complete(id)
}

/// The first bytes of the first `n` sectors.
fn heads(store: &Store, n: u64) -> Vec<u8> {
    (0..n)
        .map(|sector| store.get(sector * SECTOR, 1)[0])
        .collect()
}

/// What the first `n` sectors may have after a loss of power.
fn outcomes(disk: &SimDisk, n: u64) -> BTreeSet<Vec<u8>> {
    disk.crash_states(1)
        .iter()
        .map(|(_, store)| heads(&store, n))
        .collect()
}

#[test]
fn reads_see_the_cache() {
    let mut disk = disk();
    let id = disk.submit(Request::write(SECTOR, bytes(1, 1)));
    assert_eq!(
        run(&mut disk, Request::read(SECTOR, SECTOR)),
        Ok(bytes(0, 1))
    );
    disk.complete(id).unwrap();
    assert_eq!(
        run(&mut disk, Request::read(SECTOR, SECTOR)),
        Ok(bytes(1, 1))
    );
    assert_eq!(heads(disk.durable(), 2), [0, 0]);
}

#[test]
fn a_flush_covers_what_completed_before_it_was_submitted() {
    let mut disk = disk();
    write(&mut disk, 0, bytes(1, 1));
    let under_way = disk.submit(Request::write(2 * SECTOR, bytes(3, 1)));
    let flush = disk.submit(Request::flush());
    write(&mut disk, 1, bytes(2, 1));
    disk.complete(under_way).unwrap();
    disk.complete(flush).unwrap();
    assert_eq!(heads(disk.durable(), 3), [1, 0, 0]);
    assert_eq!(disk.unflushed(), 2);
    run(&mut disk, Request::flush()).unwrap();
    assert_eq!(heads(disk.durable(), 2), [1, 2]);
    assert_eq!(outcomes(&disk, 2), BTreeSet::from([vec![1, 2]]));
}

#[test]
fn fua_makes_durable_itself_and_no_other() {
    let mut disk = disk();
    write(&mut disk, 0, bytes(1, 1));
    run(&mut disk, Request::write(SECTOR, bytes(2, 1)).with_fua()).unwrap();
    assert_eq!(heads(disk.durable(), 2), [0, 2]);
    assert_eq!(outcomes(&disk, 2), BTreeSet::from([vec![0, 2], vec![1, 2]]));
}

#[test]
fn preflush_comes_before_the_write() {
    let mut disk = disk();
    write(&mut disk, 0, bytes(1, 1));
    let commit = disk.submit(
        Request::write(SECTOR, bytes(2, 1))
            .with_fua()
            .with_preflush(),
    );
    // On its way the commit may be there, but never without what it is about.
    assert_eq!(
        outcomes(&disk, 2),
        BTreeSet::from([vec![0, 0], vec![1, 0], vec![1, 2]])
    );
    disk.complete(commit).unwrap();
    assert_eq!(outcomes(&disk, 2), BTreeSet::from([vec![1, 2]]));
}

#[test]
fn a_loss_of_power_takes_any_subset() {
    let mut disk = disk();
    for sector in 0..3 {
        write(&mut disk, sector, bytes(1 + sector as u8, 1));
    }
    // Also one that has not completed.
    disk.submit(Request::write(3 * SECTOR, bytes(4, 1)));
    let all: BTreeSet<Vec<u8>> = (0..16u8)
        .map(|mask| (0..4u8).map(|i| (mask >> i & 1) * (i + 1)).collect())
        .collect();
    assert_eq!(outcomes(&disk, 4), all);
}

#[test]
fn what_was_replaced_on_the_medium_does_not_come_back() {
    let mut disk = disk();
    write(&mut disk, 0, bytes(1, 2));
    run(&mut disk, Request::write(0, bytes(2, 1)).with_fua()).unwrap();
    // The old write's second sector is still on its way, its first is not.
    assert_eq!(outcomes(&disk, 2), BTreeSet::from([vec![2, 0], vec![2, 1]]));
    // Two in the cache: the newer wins if both are there.
    let mut disk = self::disk();
    write(&mut disk, 0, bytes(1, 1));
    write(&mut disk, 0, bytes(2, 1));
    assert_eq!(
        outcomes(&disk, 1),
        BTreeSet::from([vec![0], vec![1], vec![2]])
    );
    run(&mut disk, Request::flush()).unwrap();
    assert_eq!(heads(disk.durable(), 1), [2]);
}

#[test]
fn the_order_is_that_of_completion() {
    let mut disk = disk();
    let first = disk.submit(Request::write(0, bytes(1, 1)));
    let second = disk.submit(Request::write(0, bytes(2, 1)));
    disk.complete(second).unwrap();
    disk.complete(first).unwrap();
    assert_eq!(heads(disk.current(), 1), [1]);
    let both = disk.crash_states(1);
    let last = both.iter().filter(|(crash, _)| crash.writes() == 2);
    last.for_each(|(_, store)| assert_eq!(heads(&store, 1), [1]));
}

#[test]
fn writes_are_torn_at_sectors() {
    let mut disk = disk();
    write(&mut disk, 0, bytes(7, 4));
    let found = outcomes(&disk, 4);
    assert!(found.contains(&vec![0, 0, 0, 0]) && found.contains(&vec![7, 7, 7, 7]));
    assert!(found.contains(&vec![7, 0, 0, 0]), "{found:?}");
    assert!(found.contains(&vec![0, 0, 0, 7]), "{found:?}");
    let in_pieces = |state: &Vec<u8>| state.windows(3).any(|w| w == [7, 0, 7] || w == [0, 7, 0]);
    assert!(found.iter().any(in_pieces), "{found:?}");
    for (_, store) in disk.crash_states(1).iter() {
        for sector in 0..4 {
            let sector = store.get(sector * SECTOR, SECTOR as usize);
            assert!(sector.iter().all(|byte| *byte == sector[0]));
        }
    }
}

#[test]
fn of_many_writes_the_telling_states_are_listed() {
    let mut disk = disk();
    let n = 20;
    for sector in 0..n {
        write(&mut disk, sector, bytes(1, 1));
    }
    let crashes = disk.crash_states(1);
    assert!(
        crashes.len() > 150 && crashes.len() < 300,
        "{}",
        crashes.len()
    );
    let found: BTreeSet<Vec<u8>> = crashes.iter().map(|(_, store)| heads(&store, n)).collect();
    let n = n as usize;
    for one in 0..n {
        let state = |f: &dyn Fn(usize) -> bool| (0..n).map(|i| u8::from(f(i))).collect::<Vec<_>>();
        assert!(found.contains(&state(&|i| i != one)), "{one} missing");
        assert!(found.contains(&state(&|i| i == one)), "{one} alone");
        assert!(found.contains(&state(&|i| i < one)), "{one} first");
    }
    assert!(found.contains(&vec![1; n]));
}

#[test]
fn the_states_follow_the_seed() {
    let mut disk = disk();
    for sector in 0..10 {
        write(&mut disk, 2 * sector, bytes(1, 2));
    }
    let states = |seed| disk.crash_states(seed).states_for_test();
    assert_eq!(states(5), states(5));
    assert_ne!(states(5), states(6));
}

#[test]
fn faults_hit_the_request_that_was_chosen() {
    let mut disk = disk();
    disk.faults.reads.insert(1);
    disk.faults.writes.insert(0);
    disk.faults.flushes.insert(1);
    let read = || Request::read(0, SECTOR);
    assert!(run(&mut disk, read()).is_ok());
    assert_eq!(run(&mut disk, read()), Err(Fault::Io));
    assert!(run(&mut disk, read()).is_ok());
    assert_eq!(
        run(&mut disk, Request::write(0, bytes(1, 1))),
        Err(Fault::Io)
    );
    // A write that failed is not seen, and is not made durable, but may be there.
    assert_eq!(run(&mut disk, read()), Ok(bytes(0, 1)));
    assert!(run(&mut disk, Request::flush()).is_ok());
    assert_eq!(heads(disk.durable(), 1), [0]);
    assert_eq!(outcomes(&disk, 1), BTreeSet::from([vec![0], vec![1]]));
    // A flush that fails makes nothing durable, and so does one with PREFLUSH.
    write(&mut disk, 1, bytes(2, 1));
    let commit = Request::write(2 * SECTOR, bytes(3, 1));
    let commit = commit.with_preflush().with_fua();
    assert_eq!(run(&mut disk, commit), Err(Fault::Io));
    assert_eq!(heads(disk.durable(), 3), [0, 0, 0]);
    assert!(run(&mut disk, Request::flush()).is_ok());
    assert_eq!(heads(disk.durable(), 3), [0, 2, 0]);
}

#[test]
fn bad_sectors_fail_until_they_are_written() {
    let mut disk = disk();
    disk.faults.bad_sectors.insert(3);
    assert_eq!(run(&mut disk, Request::read(0, 4 * SECTOR)), Err(Fault::Io));
    assert!(run(&mut disk, Request::read(0, 3 * SECTOR)).is_ok());
    write(&mut disk, 3, bytes(1, 1));
    assert!(run(&mut disk, Request::read(0, 4 * SECTOR)).is_ok());
    disk.faults.gone = Some(disk.counts().all);
    assert_eq!(run(&mut disk, Request::read(0, SECTOR)), Err(Fault::Gone));
}

#[test]
fn requests_that_fit_no_disk_are_refused() {
    let mut disk = disk();
    let end = disk.size();
    assert_eq!(
        run(&mut disk, Request::read(end, SECTOR)),
        Err(Fault::Invalid)
    );
    assert_eq!(
        run(&mut disk, Request::write(end - SECTOR, bytes(1, 2))),
        Err(Fault::Invalid)
    );
    assert_eq!(
        run(&mut disk, Request::read(1, SECTOR)),
        Err(Fault::Invalid)
    );
    assert_eq!(outcomes(&disk, 64).len(), 1);
}

#[test]
fn zeroes_and_discards() {
    let mut disk = disk();
    run(&mut disk, Request::write(0, bytes(9, 4)).with_fua()).unwrap();
    run(&mut disk, Request::write_zeroes(0, SECTOR)).unwrap();
    run(&mut disk, Request::discard(SECTOR, SECTOR)).unwrap();
    disk.discarded = Discarded::Old;
    run(&mut disk, Request::discard(2 * SECTOR, SECTOR)).unwrap();
    disk.discarded = Discarded::Garbage;
    run(&mut disk, Request::discard(3 * SECTOR, SECTOR)).unwrap();
    assert_eq!(heads(disk.current(), 4), [0, 0, 9, 0xdc]);
    assert_eq!(heads(disk.durable(), 4), [9, 9, 9, 9]);
    // They are lost with the power like other writes.
    assert!(outcomes(&disk, 4).contains(&vec![0, 9, 9, 0xdc]));
    run(&mut disk, Request::flush()).unwrap();
    assert_eq!(heads(disk.durable(), 4), [0, 0, 9, 0xdc]);
}

#[test]
fn copies_share_the_image_and_differ_where_they_are_written() {
    let image: Vec<u8> = (0..16 * 1024u32).map(|i| (i / 512) as u8).collect();
    let base = Store::bytes(Arc::new(image.clone()));
    let (mut one, two) = (base.clone(), base.clone());
    one.write(4000, &[0xff; 200]);
    let mut want = image.clone();
    want[4000..4200].fill(0xff);
    assert_eq!(one.get(0, want.len()), want);
    assert_eq!(two.get(0, want.len()), image);
    let path = std::env::temp_dir().join(format!("simdisk-{}", std::process::id()));
    // A size that is no multiple of a chunk.
    std::fs::write(&path, &image[..5120]).unwrap();
    let mut file = Store::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(file.size(), 5120);
    file.write(4608, &[0xee; 512]);
    assert_eq!(file.get(0, 4608), image[..4608]);
    assert_eq!(file.get(4608, 512), [0xee; 512]);
}
