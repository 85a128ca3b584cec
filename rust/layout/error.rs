// SPDX-License-Identifier: GPL-2.0

//! What the parser says when it refuses something.

use core::fmt;

/// What sort of refusal an [`Error`] is, so that a caller maps it to an error number in one match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bytes are not an ext2, ext3 or ext4 volume: `EINVAL`.
    NotExt4,
    /// The superblock describes a volume that cannot be: `EINVAL` at mount, as ext4 has it.
    Geometry,
    /// The volume needs a feature that is not supported here: `EOPNOTSUPP`.
    Feature,
    /// A structure contradicts itself or the volume: `EUCLEAN`, which ext4 calls `EFSCORRUPTED`.
    Corrupt,
    /// A stored checksum does not match its data: `EBADMSG`, which ext4 calls `EFSBADCRC`.
    Checksum,
    /// The inode is not in use: `ESTALE` for a file handle, and corruption if a name led to it.
    Stale,
}

/// A refusal: a static reason and up to two numbers that it mentions.
///
/// The reason is a template. `{}` in it stands for the next number in decimal, `{x}` for the next
/// in hexadecimal, so that [`Display`](fmt::Display) yields one line for the log without an
/// allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Error {
    /// The sort of refusal.
    pub kind: Kind,
    /// The reason, with placeholders for `args`.
    pub what: &'static str,
    /// The numbers that the placeholders name, in order; unused ones are zero.
    pub args: [u64; 2],
}

/// What every parsing function returns.
pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// Makes a refusal whose reason mentions no number.
    #[cold]
    pub const fn new(kind: Kind, what: &'static str) -> Self {
        Self {
            kind,
            what,
            args: [0; 2],
        }
    }

    /// Makes a [`Kind::Corrupt`] refusal whose reason mentions no number.
    #[cold]
    pub const fn corrupt(what: &'static str) -> Self {
        Self::new(Kind::Corrupt, what)
    }

    /// Makes a [`Kind::Corrupt`] refusal whose reason mentions one number.
    #[cold]
    pub fn corrupt1(what: &'static str, a: impl Into<u64>) -> Self {
        Self::corrupt(what).with(a, 0u64)
    }

    /// Makes a [`Kind::Corrupt`] refusal whose reason mentions two numbers.
    #[cold]
    pub fn corrupt2(what: &'static str, a: impl Into<u64>, b: impl Into<u64>) -> Self {
        Self::corrupt(what).with(a, b)
    }

    /// Makes a [`Kind::Checksum`] refusal that mentions the stored and the computed checksum.
    #[cold]
    pub fn checksum(what: &'static str, stored: impl Into<u64>, computed: impl Into<u64>) -> Self {
        Self::new(Kind::Checksum, what).with(stored, computed)
    }

    /// Returns the same refusal with its two numbers set.
    pub fn with(mut self, a: impl Into<u64>, b: impl Into<u64>) -> Self {
        self.args = [a.into(), b.into()];
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut args = self.args.iter();
        let mut rest = self.what;
        while let Some((text, tail)) = rest.split_once('{') {
            f.write_str(text)?;
            let Some((hole, after)) = tail.split_once('}') else {
                return f.write_str(tail);
            };
            let n = args.next().copied().unwrap_or(0);
            if hole == "x" {
                write!(f, "{n:#x}")?;
            } else {
                write!(f, "{n}")?;
            }
            rest = after;
        }
        f.write_str(rest)
    }
}

impl core::error::Error for Error {}

/// Turns a read that ran off the end of its buffer into a refusal.
pub(super) trait OrShort<T> {
    /// Returns the value, or a [`Kind::Corrupt`] refusal that says `what` was too short.
    fn or_short(self, what: &'static str) -> Result<T>;
}

impl<T> OrShort<T> for Option<T> {
    #[inline]
    fn or_short(self, what: &'static str) -> Result<T> {
        match self {
            Some(v) => Ok(v),
            None => Err(Error::corrupt(what)),
        }
    }
}
