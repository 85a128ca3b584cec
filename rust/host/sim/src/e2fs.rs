// SPDX-License-Identifier: GPL-2.0

//! Images for tests, made and judged by e2fsprogs.

use simdisk::Store;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A directory that is gone when it is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one.
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("upcall-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a scratch directory");
        Self(dir)
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a program. Gives its status, and what it wrote.
pub fn run(tool: &str, args: &[&str]) -> (i32, String) {
    let path = std::env::var("PATH").unwrap_or_default();
    let out = Command::new(tool)
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{tool} (of e2fsprogs) is needed: {error}"));
    let text = [out.stdout, out.stderr].concat();
    (
        out.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// An image in a file.
pub struct Image(pub PathBuf);

impl Image {
    /// Makes one of `size` bytes, with these options of mke2fs.
    pub fn make(path: PathBuf, size: u64, options: &str) -> Self {
        let file = fs::File::create(&path).expect("an image file");
        file.set_len(size).expect("an image file");
        let image = Self(path);
        let mut args = vec![
            "-q",
            "-F",
            "-t",
            "ext4",
            "-E",
            "lazy_itable_init=0,nodiscard",
        ];
        args.extend(options.split_whitespace());
        args.push(image.str());
        let (status, text) = run("mke2fs", &args);
        assert_eq!(status, 0, "mke2fs {args:?}: {text}");
        image
    }

    /// Writes the content of a disk to a file.
    pub fn write(path: PathBuf, store: &Store) -> Self {
        fs::write(&path, store.get(0, store.size() as usize)).expect("an image file");
        Self(path)
    }

    fn str(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }

    /// A copy.
    pub fn copy(&self, path: PathBuf) -> Self {
        fs::copy(&self.0, &path).expect("a copy of the image");
        Self(path)
    }

    /// Runs commands of debugfs, which may change it.
    pub fn debugfs(&self, commands: &str) -> String {
        let script = self.0.with_extension("commands");
        fs::write(&script, commands).expect("a script");
        let script = script.to_str().expect("a plain path");
        let (status, text) = run("debugfs", &["-w", "-f", script, self.str()]);
        assert_eq!(status, 0, "debugfs: {text}");
        text
    }

    /// The blocks of the inode with this number, in their order.
    pub fn blocks(&self, ino: u32) -> Vec<u64> {
        let (_, text) = run("debugfs", &["-R", &format!("blocks <{ino}>"), self.str()]);
        let list = text.lines().rfind(|line| !line.starts_with("debugfs"));
        list.unwrap_or("")
            .split_whitespace()
            .map(|n| n.parse().expect("the number of a block"))
            .collect()
    }

    /// Lets e2fsck replay the journal.
    pub fn replay(&self) -> String {
        let (status, text) = run("e2fsck", &["-y", "-E", "journal_only", self.str()]);
        assert!(status <= 1, "e2fsck -E journal_only: {status}: {text}");
        text
    }

    /// Lets e2fsck mend what it mends without asking anybody, as when a machine starts.
    pub fn preen(&self) {
        let (status, text) = run("e2fsck", &["-fp", self.str()]);
        assert!(status <= 1, "e2fsck -fp: {status}: {text}");
    }

    /// Whether e2fsck finds nothing to say.
    pub fn is_clean(&self) -> Result<(), String> {
        let (status, text) = run("e2fsck", &["-fn", self.str()]);
        if status == 0 {
            Ok(())
        } else {
            Err(format!("e2fsck -fn: {status}: {text}"))
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).expect("the image")
    }

    /// The content, for a disk.
    pub fn store(&self) -> Store {
        Store::bytes(Arc::new(self.bytes()))
    }

    /// Writes a file for [`debugfs`](Self::debugfs) to read.
    pub fn file(dir: &Scratch, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.path(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}
