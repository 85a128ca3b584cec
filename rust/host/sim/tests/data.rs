// SPDX-License-Identifier: GPL-2.0

//! Contents are written: they are what a model says, on the disk too, and after a loss of power.

use aext4::{Ext4, InodeRef, Options};
use kernel::machine::Rng;
use kernel::prelude::*;
use sim::e2fs::{run, Image, Scratch};
use sim::volume::Volume;
use sim::{count, simulate, Bed};
use simdisk::Store;
use upcall::block_on;

const KINDS: [&str; 7] = [
    "-b 4096 -I 256",
    "-b 1024",
    "-b 1024 -O ^metadata_csum,^64bit",
    "-b 1024 -O ^has_journal,^extent,^metadata_csum,^64bit",
    "-b 4096 -O ^extent,^metadata_csum,^64bit",
    "-b 2048 -r 0 -O none",
    "-b 4096 -I 512 -O inline_data",
];

fn mount(bed: &Bed) -> Volume {
    let volume = block_on(Volume::mount(bed, Options::default()));
    volume.expect("no deadlock").expect("it mounts")
}

fn writable(bed: &Bed) -> Volume {
    let volume = mount(bed);
    block_on(Ext4::make_writable(&volume.0)).unwrap().unwrap();
    volume
}

/// An image with files `a`, `b` and so on: `b` and every second have 200 bytes.
fn image(dir: &Scratch, size: u64, options: &str, files: u32) -> Image {
    let image = Image::make(dir.path("image"), size, options);
    let empty = Image::file(dir, "empty", b"");
    let some = Image::file(dir, "some", &first_bytes());
    let mut commands = String::new();
    for n in 0..files {
        let name = char::from(b'a' + n as u8);
        let from = if n % 2 == 0 { &empty } else { &some };
        commands += &format!("write {} {name}\n", from.to_str().unwrap());
    }
    image.debugfs(&commands);
    image
}

/// What the second file has at first.
fn first_bytes() -> Vec<u8> {
    (0..200).map(|n| n as u8 ^ 0x5a).collect()
}

/// Bytes that tell writes apart.
fn some_bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend((rng.next() | 1).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

async fn read(volume: &Volume, info: &InodeRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    let size = info.size();
    let each = |part: &[u8]| bytes.extend_from_slice(part);
    volume.read(info, 0, size, each).await.unwrap();
    bytes
}

fn put(model: &mut Vec<u8>, pos: usize, bytes: &[u8]) {
    if model.len() < pos + bytes.len() {
        model.resize(pos + bytes.len(), 0);
    }
    model[pos..pos + bytes.len()].copy_from_slice(bytes);
}

async fn random(seed: u64, volume: &Volume) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    let files = [
        volume.path(b"a").await.unwrap(),
        volume.path(b"b").await.unwrap(),
    ];
    let mut models = [Vec::new(), first_bytes()];
    for _ in 0..80 {
        let which = rng.below(2) as usize;
        let (info, model) = (&files[which], &mut models[which]);
        match rng.below(8) {
            0 => {
                let size = [0, 100, 5000, 300_000, 2_000_000][rng.below(5) as usize];
                let size = size + rng.below(300);
                volume.0.truncate(info, size).await.unwrap();
                model.resize(size as usize, 0);
            }
            1 => assert_eq!(&read(volume, info).await, model, "seed {seed}"),
            _ => {
                let far = [100, 5000, 100_000, 1_500_000][rng.below(4) as usize];
                let pos = match rng.below(3) {
                    0 => model.len() as u64,
                    1 => rng.below(far) / 1024 * 1024,
                    _ => rng.below(far),
                };
                let len = [1, 700, 4096, 30_000, 300_000][rng.below(5) as usize];
                let bytes = some_bytes(&mut rng, 1 + len);
                if pos as usize + bytes.len() > 3_000_000 {
                    continue;
                }
                let done = Ext4::write_at(&volume.0, info, pos, &bytes, false).await;
                assert_eq!(done, Ok(bytes.len()), "seed {seed}: {:#?}", kernel::machine::take_log());
                put(model, pos as usize, &bytes);
                assert_eq!(volume.0.sectors(info), info.inode().sectors);
            }
        }
    }
    for (info, model) in files.iter().zip(&models) {
        assert!(&read(volume, info).await == model, "seed {seed}");
    }
    models.to_vec()
}

/// What is free by memory is what e2fsck counts: it is clean, and so the sums are right.
fn judge(dir: &Scratch, store: &Store, models: &[Vec<u8>], about: &str) {
    let image = Image::write(dir.path("after"), store);
    assert_eq!(image.is_clean(), Ok(()), "{about}");
    for (n, model) in models.iter().enumerate() {
        let name = char::from(b'a' + n as u8);
        let out = dir.path("dumped");
        let command = format!("dump {name} {}", out.to_str().unwrap());
        run(
            "debugfs",
            &["-R", &command, image.path().to_str().unwrap()],
        );
        let dumped = std::fs::read(&out).unwrap();
        let differs = dumped.iter().zip(model).position(|(a, b)| a != b);
        let sizes = (dumped.len(), model.len());
        if &dumped != model { std::fs::copy(image.path(), "/tmp/m-bad").unwrap(); std::fs::write("/tmp/m-model", model).unwrap(); std::fs::write("/tmp/m-dump", &dumped).unwrap(); }
        assert!(&dumped == model, "{about}, {name}: {sizes:?}, {differs:?}");
    }
}

#[test]
fn contents_are_what_the_model_has() {
    let dir = Scratch::new("data-random");
    for seed in count("SIM_FIRST", 0)..count("SIM_DATA", 28) {
        let options = KINDS[(seed % 7) as usize];
        let image = image(&dir, 24 << 20, options, 2);
        let (store, models) = simulate(seed, image.store(), |bed| {
            let volume = writable(bed);
            let models = block_on(random(seed, &volume)).unwrap();
            let counters = volume.0.allocation_groups().unwrap().counters();
            assert_eq!((counters.loaned, counters.promised), (0, 0));
            block_on(volume.0.make_read_only()).unwrap().unwrap();
            (bed.device.disk().durable().clone(), models)
        });
        judge(&dir, &store, &models, &format!("seed {seed}, {options}"));
        simulate(seed, store, |bed| {
            let volume = mount(bed);
            for (name, model) in [b"a", b"b"].into_iter().zip(&models) {
                let same = block_on(async {
                    let info = volume.path(name).await.unwrap();
                    &read(&volume, &info).await == model
                });
                assert!(same.unwrap(), "seed {seed}, {options}");
            }
        });
    }
}
