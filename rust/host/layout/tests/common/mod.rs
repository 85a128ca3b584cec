// SPDX-License-Identifier: GPL-2.0

//! Images for tests, made by e2fsprogs, and what e2fsprogs says of them.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, FileExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use layout_host::crc;
use layout_host::layout::*;
use layout_host::volume::Volume;

pub mod edit;

/// What mke2fs does unless told otherwise, so that images do not depend on the host's
/// configuration.
const MKE2FS_CONF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/mke2fs.conf");

/// Makes an empty directory for one test.
pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a scratch directory");
    dir
}

/// Runs a tool of e2fsprogs and returns its output; `ok` lists the exit codes that are fine.
pub fn run(tool: &str, args: &[&str], ok: &[i32]) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let out = Command::new(tool)
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("MKE2FS_CONFIG", MKE2FS_CONF)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{tool} (of e2fsprogs) is needed: {e}"));
    let code = out.status.code().unwrap_or(-1);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(ok.contains(&code), "{tool} {args:?}: {code}\n{text}\n{err}");
    text
}

/// An image file.
pub struct Image {
    pub path: PathBuf,
}

impl Image {
    /// Makes an image of `size` bytes, from `source` if there is one.
    pub fn make(dir: &Path, size: u64, options: &str, source: Option<&Path>) -> Self {
        let path = dir.join("image");
        File::create(&path)
            .and_then(|f| f.set_len(size))
            .expect("an image file");
        let mut args: Vec<&str> = vec!["-q", "-F", "-E", "lazy_itable_init=0,nodiscard"];
        args.extend(options.split_whitespace());
        if let Some(source) = source {
            args.extend(["-d", source.to_str().expect("a plain path")]);
        }
        let image = Self { path };
        args.push(image.str());
        run("mke2fs", &args, &[0]);
        image
    }

    pub fn str(&self) -> &str {
        self.path.to_str().expect("a plain path")
    }

    /// Runs debugfs commands that change the image.
    pub fn change(&self, commands: &[&str]) {
        if commands.is_empty() {
            return;
        }
        self.debugfs(&["-w"], commands);
    }

    /// Runs debugfs commands and returns what each printed.
    pub fn ask(&self, commands: &[&str]) -> Vec<String> {
        self.debugfs(&[], commands)
    }

    fn debugfs(&self, options: &[&str], commands: &[&str]) -> Vec<String> {
        let script = self.path.with_extension("debugfs");
        fs::write(&script, commands.join("\n") + "\n").expect("a script");
        let mut args = options.to_vec();
        args.extend(["-f", script.to_str().expect("a plain path"), self.str()]);
        let text = run("debugfs", &args, &[0]);
        // Each command is echoed behind a prompt.
        let mut parts = text.split("debugfs: ");
        parts.next();
        let parts: Vec<String> = parts
            .map(|s| s.split_once('\n').map_or("", |(_, s)| s).to_string())
            .collect();
        assert_eq!(parts.len(), commands.len(), "{text}");
        parts
    }

    /// Lets e2fsck index and pack directories.
    pub fn index_dirs(&self) {
        run("e2fsck", &["-fyD", self.str()], &[0, 1]);
    }

    pub fn open(&self) -> Volume<File> {
        self.try_open().expect("the volume opens")
    }

    pub fn try_open(&self) -> Result<Volume<File>> {
        let file = File::open(&self.path).expect("the image opens");
        match Volume::open(file, crc::FNS) {
            Ok(volume) => Ok(volume),
            Err(layout_host::volume::Fail::Layout(e)) => Err(e),
            Err(e) => panic!("{e:?}"),
        }
    }

    /// Returns the fields that `dumpe2fs -h` prints.
    pub fn header(&self) -> BTreeMap<String, String> {
        run("dumpe2fs", &["-h", self.str()], &[0])
            .lines()
            .filter_map(|l| l.split_once(':'))
            .map(|(k, v)| (k.trim().to_string(), v.trim().to_string()))
            .collect()
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("the image")
    }
}

/// A generator of numbers that look random.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Changes a few places of `data` the way bugs and attackers do.
    pub fn mutate(&mut self, data: &mut [u8]) {
        for _ in 0..1 + self.below(6) {
            let at = self.below(data.len());
            let value = match self.below(6) {
                0 => 0,
                1 => u64::MAX,
                2 => 1 << self.below(64),
                3 => self.below(300) as u64,
                _ => self.next(),
            };
            // Numbers are aligned, and structures start at round offsets.
            let width = 1 << self.below(4);
            let at = at / width * width;
            for (to, from) in data[at..].iter_mut().take(width).zip(value.to_le_bytes()) {
                *to = from;
            }
        }
    }
}

/// Bytes that look random and depend on `seed` only.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        })
        .collect()
}

/// Writes pieces of noise into a file with holes; returns the pieces.
pub fn sparse(path: &Path, size: u64, pieces: &[(u64, usize)]) -> Vec<(u64, Vec<u8>)> {
    let file = File::create(path).expect("a file");
    file.set_len(size).expect("a size");
    let pieces: Vec<_> = pieces
        .iter()
        .map(|&(at, n)| (at, noise(at + 1, n)))
        .collect();
    for (at, data) in &pieces {
        file.write_all_at(data, *at).expect("a write");
    }
    pieces
}

pub fn write(path: PathBuf, data: &[u8]) {
    File::create(path)
        .and_then(|mut f| f.write_all(data))
        .expect("a file");
}

/// Makes a tree with one of everything that needs no privilege.
pub fn source_tree(dir: &Path) -> PathBuf {
    let src = dir.join("source");
    let at = |name: &str| src.join(name);
    fs::create_dir_all(at("one/two/three")).expect("directories");
    for size in [
        0usize, 1, 59, 60, 61, 100, 155, 700, 1023, 1024, 1025, 4096, 9000, 300_000,
    ] {
        write(at(&format!("file-{size}")), &noise(size as u64, size));
    }
    sparse(
        &at("sparse"),
        3_000_001,
        &[
            (0, 10),
            (5000, 3000),
            (204_800, 4096),
            (2_000_000, 20_000),
            (2_999_000, 500),
        ],
    );
    sparse(&at("all-hole"), 100_000, &[]);
    for len in [1usize, 30, 59, 60, 61, 200, 1000] {
        let target: String = (0..len)
            .map(|i| char::from(b'a' + (i % 26) as u8))
            .collect();
        symlink(target, at(&format!("link-{len}"))).expect("a link");
    }
    fs::hard_link(at("file-700"), at("one/hard")).expect("a hard link");
    write(at("one/two/three/deep"), b"deep down");
    write(at("one/\u{fc}ml\u{e4}ut \u{4e2d}\u{6587}"), b"utf-8");
    write(at(&format!("one/{}", "n".repeat(255))), b"long name");
    for (i, mode) in [0o4755, 0o2070, 0o000, 0o444].into_iter().enumerate() {
        let file = at(&format!("mode-{i}"));
        write(file.clone(), b"x");
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("a mode");
    }
    // Few names, which fit an inode; more, which need its second part; many, which need an index.
    for (name, count, pad) in [
        ("few", 2, 1),
        ("some", 6, 1),
        ("several", 20, 3),
        ("many", 300, 40),
    ] {
        fs::create_dir(at(name)).expect("a directory");
        for i in 0..count {
            let name = format!("{name}/{i}-{}", "p".repeat(i % pad));
            if i % 7 == 6 {
                fs::create_dir(at(&name)).expect("a directory");
            } else {
                write(at(&name), name.as_bytes());
            }
        }
    }
    fs::create_dir(at("special")).expect("a directory");
    run(
        "mkfifo",
        &[at("special/fifo").to_str().expect("a plain path")],
        &[0],
    );
    // The name of a socket is limited, so it is bound by a short path and moved.
    let short = PathBuf::from(format!("/tmp/layout-{}", std::process::id()));
    let _ = fs::remove_file(&short);
    let moved =
        UnixListener::bind(&short).is_ok() && fs::rename(&short, at("special/socket")).is_ok();
    if !moved {
        let _ = fs::remove_file(&short);
    }
    src
}

/// Returns the names in a directory of the host, sorted.
pub fn host_names(dir: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|e| e.expect("an entry").file_name().as_bytes().to_vec())
        .collect();
    names.sort();
    names
}
