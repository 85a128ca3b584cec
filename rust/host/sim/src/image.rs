// SPDX-License-Identifier: GPL-2.0

//! The images that `selftests/mkimages -d` made, and what the kernel's ext4 tells of them.

use crate::python;
use simdisk::Store;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The directory with the images, if the environment names one: then they are there.
pub fn directory() -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("UPCALL_IMAGES")?);
    let corpus = directory.join("hostile.corpus");
    assert!(corpus.exists(), "{} is not there", corpus.display());
    Some(directory)
}

/// Says that a test was skipped, as the test runner does not.
pub fn skip(what: &str) {
    println!("{what}: skipped, there are no images (UPCALL_IMAGES)");
}

/// The names of all images.
pub fn names() -> Vec<String> {
    let Some(directory) = directory() else {
        return Vec::new();
    };
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .expect("the directory of images")
        .filter_map(|entry| {
            let name = entry.expect("an entry").file_name().into_string().ok()?;
            Some(name.strip_suffix(".img")?.to_string())
        })
        .collect();
    names.sort();
    names
}

/// An image.
pub fn open(name: &str) -> Store {
    let path = directory().expect("images").join(format!("{name}.img"));
    Store::open(&path).expect("the image opens")
}

/// What ext4 tells: for each path the values by the names of the facts.
pub type Facts = BTreeMap<Vec<u8>, BTreeMap<String, String>>;

/// What ext4 tells of an image.
pub fn facts(name: &str) -> Facts {
    let path = directory().expect("images").join(format!("{name}.dump"));
    let text = std::fs::read_to_string(path).expect("the dump of the image");
    let mut facts = Facts::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, '\t');
        let mut field = || fields.next().expect("three fields");
        let (path, fact, value) = (field(), field(), field());
        facts
            .entry(python::unescape(path))
            .or_default()
            .insert(fact.to_string(), value.to_string());
    }
    facts
}

/// One of the breaks of `selftests/hostile`.
pub struct Broken {
    /// What is broken.
    pub name: String,
    /// Which image.
    pub image: String,
    /// What is tried then: the name of a function there.
    pub action: String,
    /// On this path.
    pub path: String,
    /// The error numbers that are right, of which 0 is success.
    pub wanted: Vec<i32>,
    /// Whether the log need not say so.
    pub quiet: bool,
    /// The bytes that are changed.
    pub edits: Vec<(u64, u8)>,
}

/// Where an image has metadata.
#[derive(Clone)]
pub struct Span {
    /// Which image.
    pub image: String,
    /// "super", "groups", "inode" or "block".
    pub kind: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub size: u64,
    /// The inode's number, if it is one.
    pub ino: u32,
}

/// What `selftests/hostile` does to its images, and where they have metadata.
pub fn hostile() -> (Vec<Broken>, Vec<Span>) {
    let path = directory().expect("images").join("hostile.corpus");
    let text = std::fs::read_to_string(path).expect("the corpus of hostile");
    let (mut broken, mut spans) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[..] {
            ["broken", name, image, action, path, wanted, quiet, edits] => broken.push(Broken {
                name: name.to_string(),
                image: image.to_string(),
                action: action.to_string(),
                path: path.to_string(),
                wanted: wanted
                    .split(' ')
                    .map(|n| n.parse().expect("a number"))
                    .collect(),
                quiet: quiet == "1",
                edits: edits
                    .split(' ')
                    .map(|edit| {
                        let (at, byte) = edit.split_once(':').expect("an edit");
                        let byte = u8::from_str_radix(byte, 16).expect("a byte");
                        (at.parse().expect("an offset"), byte)
                    })
                    .collect(),
            }),
            ["span", image, kind, offset, size, ino] => spans.push(Span {
                image: image.to_string(),
                kind: kind.to_string(),
                offset: offset.parse().expect("an offset"),
                size: size.parse().expect("a size"),
                ino: ino.parse().expect("a number"),
            }),
            _ => panic!("no line of the corpus: {line}"),
        }
    }
    (broken, spans)
}
