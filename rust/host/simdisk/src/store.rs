// SPDX-License-Identifier: GPL-2.0

//! The content of a disk: an image that is never written, and what differs from it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// The unit of what differs, in bytes.
const CHUNK: u64 = 4096;

/// The content of a disk. Clones share the image and all that was written before.
#[derive(Clone)]
pub struct Store {
    image: Image,
    size: u64,
    changed: HashMap<u64, Arc<[u8; CHUNK as usize]>>,
}

#[derive(Clone)]
enum Image {
    Zeroes,
    Bytes(Arc<Vec<u8>>),
    File(Arc<File>),
}

impl Store {
    /// Zeroes, of `size` bytes.
    pub fn zeroes(size: u64) -> Self {
        Self {
            image: Image::Zeroes,
            size,
            changed: HashMap::new(),
        }
    }

    /// An image in memory.
    pub fn bytes(bytes: Arc<Vec<u8>>) -> Self {
        Self {
            size: bytes.len() as u64,
            image: Image::Bytes(bytes),
            changed: HashMap::new(),
        }
    }

    /// An image in a file, which nobody changes meanwhile. What is read comes from the page cache.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        Ok(Self {
            size: file.metadata()?.len(),
            image: Image::File(Arc::new(file)),
            changed: HashMap::new(),
        })
    }

    /// The size, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads what is at `pos`, which lies inside.
    pub fn read(&self, pos: u64, to: &mut [u8]) {
        assert!(pos + to.len() as u64 <= self.size);
        self.parts(pos, to.len(), |chunk, skip, range| {
            let to = &mut to[range];
            match self.changed.get(&chunk) {
                Some(bytes) => to.copy_from_slice(&bytes[skip..skip + to.len()]),
                None => self.read_image(chunk * CHUNK + skip as u64, to),
            }
        });
    }

    fn read_image(&self, pos: u64, to: &mut [u8]) {
        match &self.image {
            Image::Zeroes => to.fill(0),
            Image::Bytes(bytes) => {
                let from = (pos as usize).min(bytes.len());
                let n = to.len().min(bytes.len() - from);
                to[..n].copy_from_slice(&bytes[from..from + n]);
                to[n..].fill(0);
            }
            Image::File(file) => {
                let mut done = 0;
                while done < to.len() {
                    match file.read_at(&mut to[done..], pos + done as u64) {
                        // The last chunk may be cut.
                        Ok(0) => break,
                        Ok(n) => done += n,
                        Err(error) => panic!("the image cannot be read: {error}"),
                    }
                }
                to[done..].fill(0);
            }
        }
    }

    /// Writes at `pos`, which lies inside.
    pub fn write(&mut self, pos: u64, from: &[u8]) {
        assert!(pos + from.len() as u64 <= self.size);
        let mut parts = Vec::new();
        self.parts(pos, from.len(), |chunk, skip, range| {
            parts.push((chunk, skip, range));
        });
        for (chunk, skip, range) in parts {
            if !self.changed.contains_key(&chunk) {
                let mut bytes = [0; CHUNK as usize];
                self.read_image(chunk * CHUNK, &mut bytes);
                self.changed.insert(chunk, Arc::new(bytes));
            }
            let bytes = self.changed.get_mut(&chunk).expect("it was put in");
            let to = &mut Arc::make_mut(bytes)[skip..skip + range.len()];
            to.copy_from_slice(&from[range]);
        }
    }

    /// The bytes from `pos` on.
    pub fn get(&self, pos: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(pos, &mut bytes);
        bytes
    }

    /// Calls `f` for the part of each chunk: its number, where the part begins in it, and which bytes of the
    /// range it has.
    fn parts(&self, pos: u64, len: usize, mut f: impl FnMut(u64, usize, core::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let at = pos + done as u64;
            let skip = (at % CHUNK) as usize;
            let n = (CHUNK as usize - skip).min(len - done);
            f(at / CHUNK, skip, done..done + n);
            done += n;
        }
    }
}
