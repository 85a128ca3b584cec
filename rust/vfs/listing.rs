// SPDX-License-Identifier: GPL-2.0

//! Directory entries on their way to who lists a directory.

use crate::attr::FileType;
use kernel::prelude::*;

/// An entry of a directory listing.
pub struct DirEntry<'a> {
    /// The inode.
    pub ino: u32,
    /// The type, if the directory has it.
    pub file_type: FileType,
    /// The position behind the entry, from which a listing can go on.
    pub next: u64,
    /// The name.
    pub name: &'a [u8],
}

/// Directory entries, packed into one buffer.
#[derive(Default)]
pub struct DirBatch {
    /// What is behind `used` is there to be overwritten.
    bytes: KVec<u8>,
    used: usize,
    /// Where a listing goes on if it found nothing to add and is not at the end.
    next: Option<u64>,
    /// The end, if it is known.
    end: Option<u64>,
}

/// The bytes of an entry before its name.
const ENTRY_HEADER_LEN: usize = 14;

/// How many bytes a batch has for its first entries.
const BATCH_SIZE_MIN: usize = 512;

impl DirBatch {
    /// Makes an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets the entries and keeps the memory.
    pub fn clear(&mut self) {
        self.used = 0;
        self.next = None;
        self.end = None;
    }

    /// Makes room for `size` bytes more.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, size: usize) -> Result {
        let len = (self.used + size).next_power_of_two().max(BATCH_SIZE_MIN);
        let mut bytes = KVec::zeroed(len, disk::gfp())?;
        if let (Some(to), Some(from)) = (bytes.get_mut(..self.used), self.bytes.get(..self.used)) {
            to.copy_from_slice(from);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// The next `size` bytes of the buffer, which are used from then on.
    #[inline]
    fn room(&mut self, size: usize) -> Result<&mut [u8]> {
        let end = self.used + size;
        if end > self.bytes.len() {
            self.grow(size)?;
        }
        let room = self.bytes.get_mut(self.used..end).ok_or(EINVAL)?;
        self.used = end;
        Ok(room)
    }

    /// Adds an entry. Fails with `ENOMEM`, and with `EINVAL` for a name of more than 255 bytes.
    #[inline]
    pub fn push(&mut self, entry: &DirEntry<'_>) -> Result {
        let name_len = u8::try_from(entry.name.len()).map_err(|_| EINVAL)?;
        let room = self.room(ENTRY_HEADER_LEN + entry.name.len())?;
        let (head, name) = room
            .split_first_chunk_mut::<ENTRY_HEADER_LEN>()
            .ok_or(EINVAL)?;
        head[..4].copy_from_slice(&entry.ino.to_le_bytes());
        head[4..12].copy_from_slice(&entry.next.to_le_bytes());
        head[12] = entry.file_type as u8;
        head[13] = name_len;
        name.copy_from_slice(entry.name);
        Ok(())
    }

    /// Adds the entries of `other`, and goes on where it does. Fails with `ENOMEM`.
    pub fn append(&mut self, other: &Self) -> Result {
        let entries = other.bytes.get(..other.used).ok_or(EINVAL)?;
        self.room(entries.len())?.copy_from_slice(entries);
        self.next = other.next;
        self.end = other.end;
        Ok(())
    }

    /// Says that the listing goes on at `pos`, although there may be no entries.
    pub fn go_on_at(&mut self, pos: u64) {
        self.next = Some(pos);
    }

    /// Says that there are no more entries; a listing that goes on at `pos` finds none with the least work.
    pub fn end_at(&mut self, pos: u64) {
        self.end = Some(pos);
    }

    /// What [`end_at`](Self::end_at) was told.
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    /// How many bytes the entries have: where the one behind the last would begin.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Where the listing goes on after the entries; `None` at the end of the directory.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// The entry that begins at byte `at` of the buffer, and where the next one begins; 0 is the first.
    #[inline]
    pub fn entry_at(&self, at: usize) -> Option<(DirEntry<'_>, usize)> {
        let entries = self.bytes.get(..self.used)?;
        let (head, rest) = entries.get(at..)?.split_first_chunk::<ENTRY_HEADER_LEN>()?;
        let name = rest.get(..usize::from(head[13]))?;
        let entry = DirEntry {
            ino: u32::from_le_bytes(*head.first_chunk()?),
            next: u64::from_le_bytes(*head.get(4..)?.first_chunk()?),
            file_type: FileType::from_dt(head[12]),
            name,
        };
        Some((entry, at + ENTRY_HEADER_LEN + name.len()))
    }

    /// The entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = DirEntry<'_>> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let (entry, next) = self.entry_at(at)?;
            at = next;
            Some(entry)
        })
    }
}
