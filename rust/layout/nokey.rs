// SPDX-License-Identifier: GPL-2.0

//! What stands for an encrypted name, or the target of an encrypted link, while its key is missing.
//!
//! Encrypted names may have any bytes. They are shown as the kernel's `fs/crypto/fname.c` shows them: the
//! two hashes by which the directory is sorted and the encrypted name, or its beginning and the digest of
//! the rest, in the letters of base64 that are fit for names.

use super::bytes::{get_array, get_bytes, get_u16, us};
use super::error::{Error, OrShort, Result};
use super::hash::NameHash;
use super::sha256::sha256;

/// How many bytes of a name are kept as they are.
const KEPT: usize = 149;

/// The bytes before the name: two hashes.
const HASHES: usize = 8;

/// The size of what stands for the longest names.
const LONGEST: usize = HASHES + KEPT + 32;

/// The length of what [`NokeyName`] shows, at most.
pub const NOKEY_MAX: usize = LONGEST.div_ceil(3) * 4;

/// The shortest encrypted name: a block of the cipher.
const SHORTEST: usize = 16;

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What stands for an encrypted name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NokeyName {
    bytes: [u8; LONGEST],
    len: usize,
}

/// What a [`NokeyName`] looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    text: [u8; NOKEY_MAX],
    len: usize,
}

impl Shown {
    /// Returns the name that is shown.
    pub fn bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or(&[])
    }
}

impl NokeyName {
    /// Takes an encrypted name from the disk, and its hash in the directory.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if it is shorter than any cipher makes it.
    pub fn new(name: &[u8], hash: NameHash) -> Result<Self> {
        if name.len() < SHORTEST {
            return Err(Error::corrupt1(
                "an encrypted name of {} bytes",
                u64::try_from(name.len()).unwrap_or(u64::MAX),
            ));
        }
        let (kept, rest) = name.split_at_checked(KEPT).unwrap_or((name, &[]));
        let digest = sha256(rest);
        let digest: &[u8] = if rest.is_empty() { &[] } else { &digest };
        let (major, minor) = (hash.major.to_le_bytes(), hash.minor.to_le_bytes());
        let all = major.iter().chain(&minor).chain(kept).chain(digest);
        let mut this = Self {
            bytes: [0; LONGEST],
            len: 0,
        };
        for (to, from) in this.bytes.iter_mut().zip(all) {
            *to = *from;
            this.len += 1;
        }
        Ok(this)
    }

    /// Takes the contents of an encrypted link: the length of its target, and the encrypted target.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt) if the target is empty, or ends behind `data`.
    pub fn of_link(data: &[u8]) -> Result<Self> {
        let len = get_u16(data, 0).or_short("an encrypted link without a length")?;
        let target =
            get_bytes(data, 2, us(len.into())).or_short("an encrypted link that is cut")?;
        Self::new(target, NameHash { major: 0, minor: 0 })
    }

    /// Reads what [`show`](Self::show) wrote; `None` if it stands for no name.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut this = Self {
            bytes: [0; LONGEST],
            len: 0,
        };
        if text.len() > NOKEY_MAX {
            return None;
        }
        let (mut bits, mut have) = (0u32, 0u32);
        for letter in text {
            let value = LETTERS.iter().position(|l| l == letter)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
            have += 6;
            if have >= 8 {
                have -= 8;
                let [byte, ..] = (bits >> have).to_le_bytes();
                *this.bytes.get_mut(this.len)? = byte;
                this.len += 1;
                bits &= (1 << have) - 1;
            }
        }
        // A whole letter too many, or bits that no byte has.
        if have >= 6 || bits != 0 {
            return None;
        }
        let whole = this.len <= HASHES + KEPT || this.len == LONGEST;
        (this.len > HASHES && whole).then_some(this)
    }

    /// Returns the hash by which the directory is sorted.
    pub fn hash(&self) -> NameHash {
        let word = |at| get_array(&self.bytes, at).map_or(0, u32::from_le_bytes);
        NameHash {
            major: word(0),
            minor: word(4),
        }
    }

    /// Returns the name that users see.
    pub fn show(&self) -> Shown {
        let mut shown = Shown {
            text: [0; NOKEY_MAX],
            len: 0,
        };
        let bytes = self.bytes.get(..self.len).unwrap_or(&[]);
        let letters = bytes.chunks(3).flat_map(|chunk| {
            let word = (0..3).fold(0u32, |word, i| {
                word << 8 | u32::from(chunk.get(i).copied().unwrap_or(0))
            });
            let letter = move |i: usize| {
                let six = word >> (18 - 6 * i) & 63;
                LETTERS.get(us(six)).copied().unwrap_or(b'A')
            };
            (0..chunk.len() + 1).map(letter)
        });
        for (to, letter) in shown.text.iter_mut().zip(letters) {
            *to = letter;
            shown.len += 1;
        }
        shown
    }

    /// Returns whether this stands for `name`, which is encrypted.
    pub fn is_of(&self, name: &[u8]) -> bool {
        match Self::new(name, self.hash()) {
            Ok(other) => other == *self,
            Err(_) => false,
        }
    }
}
