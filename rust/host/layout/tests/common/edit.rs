// SPDX-License-Identifier: GPL-2.0

//! Images that tests change in memory, and random numbers.

use std::fs;

use layout_host::crc;
use layout_host::fuzz::plain_superblock;
use layout_host::layout::*;

use super::{run, Image};

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

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn u32(&mut self) -> u32 {
        self.next() as u32
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number of any magnitude, and often one at the edge of a field.
    pub fn wild(&mut self) -> u64 {
        let bits = self.below(65);
        let edge = 1u64.checked_shl(bits as u32).unwrap_or(0);
        match self.below(4) {
            0 => edge,
            1 => edge.wrapping_sub(1),
            2 => 0,
            _ => self.next() & edge.wrapping_sub(1),
        }
    }

    /// Changes a few bytes.
    pub fn mutate(&mut self, data: &mut [u8]) {
        for _ in 0..1 + self.below(6) {
            let width = 1 << self.below(3);
            let at = self.below(data.len() as u64) as usize / width * width;
            let value = self.wild();
            for (to, from) in data[at..].iter_mut().take(width).zip(value.to_le_bytes()) {
                *to = from;
            }
        }
    }
}

/// Returns the shape of a small volume with blocks of 1 KiB `<< log_block`, with real checksums if
/// `ro_compat` has them.
pub fn geo(log_block: u8, incompat: Incompat, ro_compat: RoCompat) -> Geometry {
    geo_with(log_block, incompat, ro_compat, |_| ())
}

/// Like [`geo`], with a change of the superblock.
pub fn geo_with(
    log_block: u8,
    incompat: Incompat,
    ro_compat: RoCompat,
    change: impl FnOnce(&mut [u8]),
) -> Geometry {
    let mut raw = plain_superblock(log_block, incompat, ro_compat);
    raw[0x68..0x78].copy_from_slice(b"0123456789abcdef");
    change(&mut raw);
    let csum = crc::crc32c(!0, &raw[..0x3fc]);
    raw[0x3fc..].copy_from_slice(&csum.to_le_bytes());
    SuperBlock::parse(&raw, 1, crc::FNS).expect("a volume").geo
}

/// A volume of 2^34 blocks of 1 KiB, so that block numbers have more than 32 bits.
pub fn large() -> Geometry {
    let incompat = Incompat::FILETYPE
        .or(Incompat::EXTENTS)
        .or(Incompat::FLEX_BG)
        .or(Incompat::B64);
    let ro_compat = RoCompat::METADATA_CSUM.or(RoCompat::HUGE_FILE);
    geo_with(0, incompat, ro_compat, |raw| {
        let mut put = |at: usize, v: u32| raw[at..at + 4].copy_from_slice(&v.to_le_bytes());
        put(0x0, 8 << 21);
        put(0x4, 0);
        put(0x150, 4);
        put(0x28, 8);
        put(0x4, 1);
    })
}

/// An image in memory, to be changed.
pub struct Edited {
    pub bytes: Vec<u8>,
    pub geo: Geometry,
}

impl Edited {
    pub fn load(image: &Image) -> Self {
        Self {
            bytes: image.bytes(),
            geo: *image.open().geo(),
        }
    }

    pub fn block(&self, pblk: Pblk) -> &[u8] {
        let size = self.geo.block_size() as usize;
        &self.bytes[pblk.0 as usize * size..][..size]
    }

    pub fn block_mut(&mut self, pblk: Pblk) -> &mut [u8] {
        let size = self.geo.block_size() as usize;
        &mut self.bytes[pblk.0 as usize * size..][..size]
    }

    /// Returns the descriptor's block and its bytes' place there.
    pub fn desc(&self, group: Group) -> GroupDesc {
        let (pblk, off) = self.geo.desc_location(group).expect("a group");
        GroupDesc::parse(&self.block(pblk)[off as usize..], group, &self.geo).expect("it parses")
    }

    pub fn desc_mut(&mut self, group: Group) -> &mut [u8] {
        let (pblk, off) = self.geo.desc_location(group).expect("a group");
        &mut self.block_mut(pblk)[off as usize..]
    }

    pub fn inode_mut(&mut self, ino: Ino) -> &mut [u8] {
        let (group, index) = self.geo.inode_index(ino).expect("an inode");
        let (pblk, off) = self
            .desc(group)
            .inode_location(index, &self.geo)
            .expect("an inode");
        let size = usize::from(self.geo.inode_size());
        &mut self.block_mut(pblk)[off as usize..][..size]
    }

    pub fn inode(&mut self, ino: Ino) -> Inode {
        let geo = self.geo;
        Inode::parse(self.inode_mut(ino), ino, &geo).expect("it parses")
    }

    pub fn save(&self, image: &Image) {
        fs::write(&image.path, &self.bytes).expect("the image is written");
    }
}

/// Lets e2fsck judge an image; it must find nothing to say.
pub fn fsck(image: &Image) {
    run("e2fsck", &["-fn", image.str()], &[0]);
}
