// SPDX-License-Identifier: GPL-2.0

//! Hashes of names, by which indexed directories are sorted.

use super::error::{Error, Result};

/// The hash functions that an index may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// The hash of the first indexed directories.
    Legacy,
    /// A cut-down MD4; the usual one.
    HalfMd4,
    /// The Tiny Encryption Algorithm.
    Tea,
}

/// A hash function with the signedness that it gives to the bytes of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashVersion {
    /// The function.
    pub algorithm: HashAlgorithm,
    /// Whether the bytes of a name count as unsigned numbers.
    pub unsigned: bool,
}

impl HashVersion {
    /// Decodes the version byte of an index root; `unsigned` is the volume's flag.
    ///
    /// A root holds 0, 1 or 2. Values up to 5, which name the signedness too, occur in memory and
    /// in the superblock.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) for any other value.
    pub fn decode(version: u8, unsigned: bool) -> Result<Self> {
        let algorithm = match version {
            0 | 3 => HashAlgorithm::Legacy,
            1 | 4 => HashAlgorithm::HalfMd4,
            2 | 5 => HashAlgorithm::Tea,
            _ => return Err(Error::corrupt1("directory index: hash version {}", version)),
        };
        Ok(Self {
            algorithm,
            unsigned: unsigned || version >= 3,
        })
    }

    /// Returns the version byte that an index root has for this function.
    ///
    /// It does not tell the signedness, which is the volume's.
    pub const fn to_root(self) -> u8 {
        match self.algorithm {
            HashAlgorithm::Legacy => 0,
            HashAlgorithm::HalfMd4 => 1,
            HashAlgorithm::Tea => 2,
        }
    }
}

/// The volume's part in hashing.
#[derive(Clone, Copy, Debug)]
pub struct HashParams {
    seed: [u32; 4],
    unsigned: bool,
    default_version: u8,
}

impl HashParams {
    /// The seed that is in use if the superblock's is all zeros.
    const DEFAULT_SEED: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

    /// Makes the parameters from the superblock's fields.
    pub fn new(seed: [u32; 4], unsigned: bool, default_version: u8) -> Self {
        Self {
            seed: match seed {
                [0, 0, 0, 0] => Self::DEFAULT_SEED,
                seed => seed,
            },
            unsigned,
            default_version,
        }
    }

    /// Returns whether the bytes of names count as unsigned numbers on this volume.
    pub const fn unsigned(&self) -> bool {
        self.unsigned
    }

    /// Returns the hash function that new indexes use.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the superblock names an unknown one.
    pub fn default_version(&self) -> Result<HashVersion> {
        HashVersion::decode(self.default_version, self.unsigned)
    }

    /// Returns the hash function of an index that is made now, as its root will be read.
    ///
    /// That differs from [`default_version`](Self::default_version) where the superblock names a
    /// function with unsigned characters on a volume with signed ones, which no root can say.
    ///
    /// # Errors
    ///
    /// As for [`default_version`](Self::default_version).
    pub fn new_index(&self) -> Result<HashVersion> {
        HashVersion::decode(self.default_version()?.to_root(), self.unsigned)
    }

    /// Hashes a name.
    pub fn hash(&self, version: HashVersion, name: &[u8]) -> NameHash {
        let unsigned = version.unsigned;
        let (major, minor) = match version.algorithm {
            HashAlgorithm::Legacy => (legacy(name, unsigned), 0),
            HashAlgorithm::HalfMd4 => {
                let mut state = self.seed;
                for_chunks::<8>(name, unsigned, |words| half_md4(&mut state, words));
                let [_, b, c, _] = state;
                (b, c)
            }
            HashAlgorithm::Tea => {
                let mut state = self.seed;
                for_chunks::<4>(name, unsigned, |words| tea(&mut state, words));
                let [a, b, _, _] = state;
                (a, b)
            }
        };
        NameHash::new(major, minor)
    }
}

/// The hash of a name; the order is that in which a hash-ordered listing returns names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NameHash {
    /// The part by which the index is sorted; its lowest bit is 0.
    pub major: u32,
    /// What tells names with the same major hash apart, most of the time.
    pub minor: u32,
}

impl NameHash {
    /// The cookie of the end of a directory.
    pub const COOKIE_END: u64 = (1 << 63) - 1;

    /// Makes a hash from the words that a hash function yields.
    ///
    /// Bit 0 of the major hash marks a collision in an index, and its largest value marks the end of
    /// a directory, so neither is left in it.
    pub const fn new(major: u32, minor: u32) -> Self {
        let major = match major & !1 {
            0xffff_fffe => 0xffff_fffc,
            major => major,
        };
        Self { major, minor }
    }

    /// Returns the listing position of this hash, as the kernel's ext4 gives it to user space.
    ///
    /// It is positive as a signed number and less than [`COOKIE_END`](Self::COOKIE_END).
    pub fn to_cookie(self) -> u64 {
        u64::from(self.major >> 1) << 32 | u64::from(self.minor)
    }

    /// Returns the hash that a listing position stands for; bit 63 is ignored.
    pub fn from_cookie(cookie: u64) -> Self {
        use super::bytes::low32;
        Self {
            major: low32(cookie >> 32) << 1,
            minor: low32(cookie),
        }
    }
}

/// Widens a byte of a name to 32 bits, with or without its sign.
fn widen(byte: u8, unsigned: bool) -> u32 {
    match u32::from(byte) {
        b @ 0x80.. if !unsigned => b | 0xffff_ff00,
        b => b,
    }
}

/// Feeds a name to a hash in groups of `N` big-endian words, padded with the length that is left.
fn for_chunks<const N: usize>(name: &[u8], unsigned: bool, mut f: impl FnMut(&[u32; N])) {
    let mut left = name;
    while !left.is_empty() {
        // Names have at most 255 bytes, so that the length is one byte; it is repeated in each byte
        // of the padding. What is longer is not a name, and hashes to something all the same.
        let len = u32::try_from(left.len()).unwrap_or(u32::MAX);
        let pad = (len & 0xff) | (len & 0xff) << 8;
        let pad = pad | pad << 16;
        let (now, later) = left.split_at(left.len().min(N * 4));
        let mut words = [pad; N];
        for (word, bytes) in words.iter_mut().zip(now.chunks(4)) {
            let mut value = pad;
            for &b in bytes {
                // A sign extends into the bytes before, on purpose.
                value = widen(b, unsigned).wrapping_add(value << 8);
            }
            *word = value;
        }
        f(&words);
        left = later;
    }
}

fn legacy(name: &[u8], unsigned: bool) -> u32 {
    let mut last = 0x12a3_fe2du32;
    let mut before = 0x37ab_e8f9u32;
    for &b in name {
        let mixed = last ^ widen(b, unsigned).wrapping_mul(7_152_373);
        let mut hash = before.wrapping_add(mixed);
        if hash & 0x8000_0000 != 0 {
            hash = hash.wrapping_sub(0x7fff_ffff);
        }
        before = last;
        last = hash;
    }
    last << 1
}

fn tea(state: &mut [u32; 4], key: &[u32; 4]) {
    let [s0, s1, ..] = state;
    let &[a, b, c, d] = key;
    let (mut x, mut y) = (*s0, *s1);
    let mut sum = 0u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        x = x.wrapping_add(
            (y << 4).wrapping_add(a) ^ y.wrapping_add(sum) ^ (y >> 5).wrapping_add(b),
        );
        y = y.wrapping_add(
            (x << 4).wrapping_add(c) ^ x.wrapping_add(sum) ^ (x >> 5).wrapping_add(d),
        );
    }
    *s0 = s0.wrapping_add(x);
    *s1 = s1.wrapping_add(y);
}

fn half_md4(state: &mut [u32; 4], words: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;

    /// One round: eight steps that rotate through the four registers.
    fn round(regs: &mut [u32; 4], mix: Mix, add: u32, shifts: [u32; 4], order: [u32; 8]) {
        for (word, shift) in order.into_iter().zip(shifts.into_iter().cycle()) {
            let [a, b, c, d] = *regs;
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(word)
                .wrapping_add(add);
            *regs = [d, sum.rotate_left(shift), b, c];
        }
    }

    let &[w0, w1, w2, w3, w4, w5, w6, w7] = words;
    let mut regs = *state;
    round(
        &mut regs,
        |x, y, z| z ^ (x & (y ^ z)),
        0,
        [3, 7, 11, 19],
        [w0, w1, w2, w3, w4, w5, w6, w7],
    );
    round(
        &mut regs,
        |x, y, z| (x & y).wrapping_add((x ^ y) & z),
        0x5a82_7999,
        [3, 5, 9, 13],
        [w1, w3, w5, w7, w0, w2, w4, w6],
    );
    round(
        &mut regs,
        |x, y, z| x ^ y ^ z,
        0x6ed9_eba1,
        [3, 9, 11, 15],
        [w3, w7, w2, w6, w1, w5, w0, w4],
    );
    for (s, r) in state.iter_mut().zip(regs) {
        *s = s.wrapping_add(r);
    }
}
