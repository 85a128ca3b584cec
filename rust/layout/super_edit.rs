// SPDX-License-Identifier: GPL-2.0

//! Changes to the superblock: what a mounted volume keeps in it. [`SuperEdit::seal`] comes last.

use super::bytes::{
    get_array, get_u16, get_u32, get_u64, get_u8, high32, join32, low32, put_bytes, put_u16,
    put_u32, put_u64, put_u8,
};
use super::csum::Csum;
use super::feature::{Compat, Features, Incompat, RoCompat};
use super::superblock::{SuperBlock, MAGIC, SUPER_SIZE};
use super::units::{Ino, Pblk};

/// Offsets of a time's lower 32 and upper 8 bits, in bytes.
type TimeAt = (usize, usize);

const WRITE_TIME: TimeAt = (0x30, 0x274);
const MOUNT_TIME: TimeAt = (0x2c, 0x275);
pub(super) const FIRST_ERROR: ErrorAt = ErrorAt {
    time: (0x198, 0x278),
    ino: 0x19c,
    block: 0x1a0,
    func: 0x1a8,
    line: 0x1c8,
    code: 0x27a,
};
pub(super) const LAST_ERROR: ErrorAt = ErrorAt {
    time: (0x1cc, 0x279),
    ino: 0x1d0,
    block: 0x1d8,
    func: 0x1e0,
    line: 0x1d4,
    code: 0x27b,
};
const ERROR_COUNT: usize = 0x194;
/// What belongs to errors ends here; the upper bits of their times, and their kinds, are elsewhere.
const ERRORS_END: usize = 0x200;
const ERRORS_MORE: usize = 0x278;
const STATE: usize = 0x3a;
const LAST_ORPHAN: usize = 0xe8;
const CHECKSUM: usize = 0x3fc;

/// Where the superblock keeps what it tells of an error.
pub(super) struct ErrorAt {
    time: TimeAt,
    ino: usize,
    block: usize,
    func: usize,
    line: usize,
    code: usize,
}

/// What kind of error was recorded, as `s_last_error_errcode` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorCode {
    /// Any other.
    Unknown = 1,
    /// `EIO`.
    Io = 2,
    /// `ENOMEM`.
    NoMemory = 3,
    /// `EBADMSG`.
    BadChecksum = 4,
    /// `EUCLEAN`.
    Corrupted = 5,
    /// `ENOSPC`.
    NoSpace = 6,
    /// `EROFS`.
    ReadOnly = 8,
    /// `ESHUTDOWN`.
    Shutdown = 16,
}

impl ErrorCode {
    /// The kind of an error number, as ext4 has it.
    pub const fn of(errno: i32) -> Self {
        match errno.saturating_abs() {
            5 => Self::Io,
            12 => Self::NoMemory,
            28 => Self::NoSpace,
            30 => Self::ReadOnly,
            74 => Self::BadChecksum,
            108 => Self::Shutdown,
            117 => Self::Corrupted,
            _ => Self::Unknown,
        }
    }
}

/// What a superblock tells of errors, as bytes.
#[derive(Clone, Copy, Debug)]
pub struct Errors {
    fields: [u8; ERRORS_END - ERROR_COUNT],
    more: [u8; 4],
    state: u16,
}

impl Errors {
    /// What a raw superblock tells; `None` if it is too short.
    pub fn of(raw: &[u8]) -> Option<Self> {
        Some(Self {
            fields: get_array(raw, ERROR_COUNT)?,
            more: get_array(raw, ERRORS_MORE)?,
            state: get_u16(raw, STATE)? & SuperBlock::STATE_ERROR,
        })
    }

    /// How many errors were recorded.
    pub fn count(&self) -> u32 {
        get_u32(&self.fields, 0).unwrap_or(0)
    }
}

/// What the superblock tells of one error: of the first, or of the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorRecord {
    /// When it was found, in seconds since 1970; 0 if there was none.
    pub time: u64,
    /// The inode that it is about, if one is known.
    pub ino: Option<Ino>,
    /// The block that it is about, if one is known.
    pub block: Option<Pblk>,
    /// The function that found it, with zeros behind it.
    pub func: [u8; 32],
    /// The line of the source.
    pub line: u32,
    /// Its kind: an [`ErrorCode`], or what somebody else wrote.
    pub code: u8,
}

impl ErrorRecord {
    /// What a raw superblock has at one of the two places; `None` if it is too short.
    pub(super) fn parse(raw: &[u8], at: &ErrorAt) -> Option<Self> {
        let (ino, block) = (get_u32(raw, at.ino)?, get_u64(raw, at.block)?);
        let (lo, hi) = at.time;
        Some(Self {
            time: join32(get_u32(raw, lo)?, get_u8(raw, hi)?.into()),
            ino: (ino != 0).then_some(Ino(ino)),
            block: (block != 0).then_some(Pblk(block)),
            func: get_array(raw, at.func)?,
            line: get_u32(raw, at.line)?,
            code: get_u8(raw, at.code)?,
        })
    }
}

/// Returns the head of the list of orphans and the state bits of a raw superblock; `None` if it is
/// too short.
pub fn orphans(raw: &[u8]) -> Option<(Option<Ino>, u16)> {
    let head = get_u32(raw, LAST_ORPHAN)?;
    Some(((head != 0).then_some(Ino(head)), get_u16(raw, STATE)?))
}

/// Whether a raw superblock has the magic number, and the right checksum if the volume has
/// checksums.
pub fn is_sound(raw: &[u8], csum: &Csum) -> bool {
    let covered = raw.get(..CHECKSUM);
    let sums = (
        get_u32(raw, CHECKSUM),
        covered.map(|raw| csum.crc32c(!0, raw)),
    );
    get_u16(raw, 0x38) == Some(MAGIC) && (!csum.metadata() || sums.0.is_some() && sums.0 == sums.1)
}

/// A text with zeros behind it, as the superblock has it; what does not fit is cut off.
pub fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    for (to, &from) in field.iter_mut().zip(text) {
        *to = from;
    }
    field
}

/// An editor of the superblock's bytes.
#[derive(Debug)]
pub struct SuperEdit<'a> {
    raw: &'a mut [u8],
}

impl<'a> SuperEdit<'a> {
    /// Starts to edit the superblock in the first 1,024 bytes of `raw`; `None` if there is none.
    pub fn new(raw: &'a mut [u8]) -> Option<Self> {
        let raw = raw.get_mut(..SUPER_SIZE)?;
        (get_u16(raw, 0x38)? == MAGIC).then_some(Self { raw })
    }

    // `new` checked the length, and every field lies in it.
    fn put32(&mut self, off: usize, v: u32) {
        let _ = put_u32(self.raw, off, v);
    }

    fn get32(&self, off: usize) -> u32 {
        get_u32(self.raw, off).unwrap_or(0)
    }

    /// Writes a text, with zeros behind it; what does not fit is cut off.
    fn put_text<const N: usize>(&mut self, off: usize, text: &[u8]) {
        let _ = put_bytes(self.raw, off, &padded::<N>(text));
    }

    fn put_time(&mut self, (lo, hi): TimeAt, secs: u64) {
        let secs = secs.min((1 << 40) - 1);
        self.put32(lo, low32(secs));
        let [hi_byte, ..] = high32(secs).to_le_bytes();
        let _ = put_u8(self.raw, hi, hi_byte);
    }

    fn time(&self, (lo, hi): TimeAt) -> (u32, u8) {
        (self.get32(lo), get_u8(self.raw, hi).unwrap_or(0))
    }

    /// Returns the feature words.
    pub fn features(&self) -> Features {
        Features {
            compat: Compat(self.get32(0x5c)),
            incompat: Incompat(self.get32(0x60)),
            ro_compat: RoCompat(self.get32(0x64)),
        }
    }

    /// Sets the feature words.
    ///
    /// A volume of revision 0 has none. It becomes one of revision 1 if a bit is set.
    pub fn set_features(&mut self, features: Features) {
        let Features {
            compat: Compat(compat),
            incompat: Incompat(incompat),
            ro_compat: RoCompat(ro_compat),
        } = features;
        if self.get32(0x4c) == 0 {
            if compat | incompat | ro_compat == 0 {
                return;
            }
            self.put32(0x4c, 1);
            self.put32(0x54, 11);
            let _ = put_u16(self.raw, 0x58, 128);
        }
        self.put32(0x5c, compat);
        self.put32(0x60, incompat);
        self.put32(0x64, ro_compat);
    }

    /// Returns the state bits; see [`SuperBlock::STATE_CLEAN`] and its neighbours.
    pub fn state(&self) -> u16 {
        get_u16(self.raw, STATE).unwrap_or(0)
    }

    /// Sets the state bits.
    pub fn set_state(&mut self, state: u16) {
        let _ = put_u16(self.raw, STATE, state);
    }

    /// Sets the number of free blocks: clusters are counted with all their blocks.
    pub fn set_free_blocks(&mut self, blocks: u64) {
        self.put32(0xc, low32(blocks));
        if self.features().incompat.has(Incompat::B64) {
            self.put32(0x158, high32(blocks));
        }
    }

    /// Sets the number of free inodes.
    pub fn set_free_inodes(&mut self, inodes: u32) {
        self.put32(0x10, inodes);
    }

    /// Sets the time of the last write, in seconds since 1970.
    pub fn set_write_time(&mut self, secs: u64) {
        self.put_time(WRITE_TIME, secs);
    }

    /// Sets the time of the last mount, in seconds since 1970.
    pub fn set_mount_time(&mut self, secs: u64) {
        self.put_time(MOUNT_TIME, secs);
    }

    /// Counts a mount.
    pub fn count_mount(&mut self) {
        let count = get_u16(self.raw, 0x34).unwrap_or(0);
        let _ = put_u16(self.raw, 0x34, count.saturating_add(1));
    }

    /// Sets where the volume was last mounted; 64 bytes of it are kept.
    pub fn set_last_mounted(&mut self, path: &[u8]) {
        self.put_text::<64>(0x88, path);
    }

    /// Sets the label; 16 bytes of it are kept.
    pub fn set_label(&mut self, label: &[u8]) {
        self.put_text::<16>(0x78, label);
    }

    /// Sets the head of the list of orphans; `None` if it is empty.
    pub fn set_last_orphan(&mut self, ino: Option<Ino>) {
        self.put32(LAST_ORPHAN, ino.map_or(0, |ino| ino.0));
    }

    /// Returns the head of the list of orphans.
    pub fn last_orphan(&self) -> Option<Ino> {
        Some(self.get32(LAST_ORPHAN)).filter(|&n| n != 0).map(Ino)
    }

    /// Sets how many KiB were written over the volume's life.
    pub fn set_kbytes_written(&mut self, kbytes: u64) {
        let _ = put_u64(self.raw, 0x178, kbytes);
    }

    /// Sets how many clusters metadata takes.
    pub fn set_overhead_clusters(&mut self, clusters: u32) {
        self.put32(0x248, clusters);
    }

    /// Takes over what was recorded of errors, if it is later than what is here.
    pub fn keep_errors(&mut self, errors: &Errors) {
        if errors.count() > self.get32(ERROR_COUNT) {
            let _ = put_bytes(self.raw, ERROR_COUNT, &errors.fields);
            let _ = put_bytes(self.raw, ERRORS_MORE, &errors.more);
        }
        self.set_state(self.state() | errors.state);
    }

    /// Records an error: as the last, as the first if none is recorded, in the count and in the
    /// state.
    pub fn record_error(&mut self, error: &ErrorRecord) {
        if self.time(FIRST_ERROR.time) == (0, 0) {
            self.put_error(&FIRST_ERROR, error);
        }
        self.put_error(&LAST_ERROR, error);
        let count = self.get32(ERROR_COUNT).saturating_add(1);
        self.put32(ERROR_COUNT, count);
        self.set_state(self.state() | SuperBlock::STATE_ERROR);
    }

    /// Counts `more` errors of which nothing else is recorded.
    pub fn count_errors(&mut self, more: u32) {
        self.put32(ERROR_COUNT, self.get32(ERROR_COUNT).saturating_add(more));
    }

    fn put_error(&mut self, at: &ErrorAt, error: &ErrorRecord) {
        // A time of 0 would count as none.
        self.put_time(at.time, error.time.max(1));
        self.put32(at.ino, error.ino.map_or(0, |ino| ino.0));
        let _ = put_u64(self.raw, at.block, error.block.map_or(0, |pblk| pblk.0));
        let _ = put_bytes(self.raw, at.func, &error.func);
        self.put32(at.line, error.line);
        let _ = put_u8(self.raw, at.code, error.code);
    }

    /// Computes and writes the checksum, if the volume has checksums.
    pub fn seal(self, csum: &Csum) {
        if !csum.metadata() {
            return;
        }
        if let Some(covered) = self.raw.get(..CHECKSUM) {
            let sum = csum.crc32c(!0, covered);
            let _ = put_u32(self.raw, CHECKSUM, sum);
        }
    }
}
