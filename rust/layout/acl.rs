// SPDX-License-Identifier: GPL-2.0

//! POSIX access control lists, as the values of two attributes store them.

use super::bytes::{get_u16, get_u32, put_u16, put_u32};
use super::error::{Error, OrShort, Result};

const SHORT: &str = "access control list: cut off";
const VERSION: u32 = 1;

/// Whom an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclTag {
    /// The file's owner.
    UserObj,
    /// The user with this number.
    User(u32),
    /// The file's group.
    GroupObj,
    /// The group with this number.
    Group(u32),
    /// The bound of all but the owner's and the others' permissions.
    Mask,
    /// All others.
    Other,
}

impl AclTag {
    /// Returns the number that the kernel and user space have for the kind of entry.
    pub const fn code(self) -> u16 {
        match self {
            Self::UserObj => 0x01,
            Self::User(_) => 0x02,
            Self::GroupObj => 0x04,
            Self::Group(_) => 0x08,
            Self::Mask => 0x10,
            Self::Other => 0x20,
        }
    }
}

impl AclTag {
    /// Returns the number of the user or the group.
    const fn id(self) -> Option<u32> {
        match self {
            Self::User(id) | Self::Group(id) => Some(id),
            _ => None,
        }
    }
}

/// An entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclEntry {
    /// Whom it is about.
    pub tag: AclTag,
    /// What they may: read is 4, write is 2, execute is 1.
    pub perm: u16,
}

/// A checked list: entries in the right order, each that must exist exactly once.
#[derive(Clone, Copy, Debug)]
pub struct Acl<'a> {
    entries: &'a [u8],
    count: usize,
}

impl<'a> Acl<'a> {
    /// Checks the value of an attribute with a list; `None` if the list is empty.
    ///
    /// # Errors
    ///
    /// [`Kind::Corrupt`](super::Kind::Corrupt).
    pub fn parse(value: &'a [u8]) -> Result<Option<Self>> {
        let version = get_u32(value, 0).or_short(SHORT)?;
        if version != VERSION {
            return Err(Error::corrupt1("access control list: version {}", version));
        }
        let entries = value.get(4..).or_short(SHORT)?;
        if entries.is_empty() {
            return Ok(None);
        }
        // Each entry says how far the list got; it can stay there or go on, never back.
        let mut rank = 0;
        let mut named = false;
        let mut count = 0;
        let mut left = entries;
        while let Some((entry, rest)) = split(left)? {
            let (from, to) = match entry.tag {
                AclTag::UserObj => (0..1, 1),
                AclTag::User(_) => (1..2, 1),
                AclTag::GroupObj => (1..2, 2),
                AclTag::Group(_) => (2..3, 2),
                AclTag::Mask => (2..3, 3),
                // Named users and groups need a mask.
                AclTag::Other if named => (3..4, 4),
                AclTag::Other => (2..4, 4),
            };
            if !from.contains(&rank) {
                return Err(Error::corrupt1(
                    "access control list: entry {} is out of place",
                    count,
                ));
            }
            rank = to;
            named |= matches!(entry.tag, AclTag::User(_) | AclTag::Group(_));
            count += 1u64;
            left = rest;
        }
        if rank != 4 {
            return Err(Error::corrupt("access control list: not complete"));
        }
        Ok(Some(Self {
            entries,
            count: usize::try_from(count).unwrap_or(usize::MAX),
        }))
    }

    /// Returns the number of entries; at least 3.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Returns an iterator over the entries.
    pub const fn iter(&self) -> AclIter<'a> {
        AclIter { left: self.entries }
    }
}

/// Makes a list what it is when the permission bits become those of `mode`: as the kernel's
/// `posix_acl_chmod` does it.
pub fn set_permissions(entries: &mut [AclEntry], mode: u16) {
    let has_mask = entries.iter().any(|entry| entry.tag == AclTag::Mask);
    for entry in entries {
        match entry.tag {
            AclTag::UserObj => entry.perm = mode >> 6 & 7,
            AclTag::GroupObj if !has_mask => entry.perm = mode >> 3 & 7,
            AclTag::Mask => entry.perm = mode >> 3 & 7,
            AclTag::Other => entry.perm = mode & 7,
            _ => {}
        }
    }
}

/// Returns how many bytes a list takes as a value.
pub fn encoded_len(entries: &[AclEntry]) -> usize {
    let len = |entry: &AclEntry| match entry.tag.id() {
        Some(_) => 8,
        None => 4,
    };
    4 + entries.iter().map(len).sum::<usize>()
}

/// Writes a list as a value to `to`, which has [`encoded_len`] bytes.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) if `to` is too short, or [`Acl::parse`] would not take
/// the list: entries are missing, or not in the right order.
pub fn encode(entries: &[AclEntry], to: &mut [u8]) -> Result<()> {
    put_u32(to, 0, VERSION).or_short(SHORT)?;
    let mut at = 4;
    for entry in entries {
        put_u16(to, at, entry.tag.code()).or_short(SHORT)?;
        put_u16(to, at + 2, entry.perm).or_short(SHORT)?;
        at += 4;
        if let Some(id) = entry.tag.id() {
            put_u32(to, at, id).or_short(SHORT)?;
            at += 4;
        }
    }
    Acl::parse(to).map(drop)
}

/// An iterator over the entries of a checked list.
#[derive(Clone, Debug)]
pub struct AclIter<'a> {
    left: &'a [u8],
}

impl Iterator for AclIter<'_> {
    type Item = AclEntry;

    fn next(&mut self) -> Option<AclEntry> {
        let (entry, rest) = split(self.left).ok()??;
        self.left = rest;
        Some(entry)
    }
}

/// Decodes the first entry; returns it with the bytes behind it, or `None` at the end.
fn split(data: &[u8]) -> Result<Option<(AclEntry, &[u8])>> {
    if data.is_empty() {
        return Ok(None);
    }
    let tag = get_u16(data, 0).or_short(SHORT)?;
    let perm = get_u16(data, 2).or_short(SHORT)?;
    let id = || get_u32(data, 4).or_short(SHORT);
    let (tag, size) = match tag {
        0x01 => (AclTag::UserObj, 4),
        0x02 => (AclTag::User(id()?), 8),
        0x04 => (AclTag::GroupObj, 4),
        0x08 => (AclTag::Group(id()?), 8),
        0x10 => (AclTag::Mask, 4),
        0x20 => (AclTag::Other, 4),
        _ => return Err(Error::corrupt1("access control list: tag {x}", tag)),
    };
    if perm > 7 {
        return Err(Error::corrupt1(
            "access control list: permissions {x}",
            perm,
        ));
    }
    let rest = data.get(size..).or_short(SHORT)?;
    Ok(Some((AclEntry { tag, perm }, rest)))
}
