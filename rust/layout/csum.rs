// SPDX-License-Identifier: GPL-2.0

//! Checksums of metadata: the primitives that the caller lends, and what ext4 builds from them.

use super::bytes::{get_bytes, low16, us};
use super::error::{Error, Kind, Result};
use super::units::{Group, Ino, Pblk};

/// CRC-32C as the kernel's `crc32c(seed, data, len)` computes it: no inversion before or after.
pub type Crc32c = fn(seed: u32, data: &[u8]) -> u32;

/// CRC-16 (polynomial 0x8005, reflected) as the kernel's `crc16(crc, data, len)` computes it.
pub type Crc16 = fn(crc: u16, data: &[u8]) -> u16;

/// The checksum primitives, lent by whoever runs the parser.
#[derive(Clone, Copy, Debug)]
pub struct CrcFns {
    /// The CRC that all metadata carries on a volume with `metadata_csum`.
    pub crc32c: Crc32c,
    /// The CRC that group descriptors carry on a volume with `uninit_bg` only.
    pub crc16: Crc16,
}

/// Which checksums a volume's metadata carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None.
    None,
    /// A CRC-16 in each group descriptor (`uninit_bg`, also called `gdt_csum`).
    GroupCrc16,
    /// A CRC-32C in every structure (`metadata_csum`).
    Metadata,
}

/// How a volume's checksums are computed: primitives, seed and which of them are in use.
#[derive(Clone, Copy, Debug)]
pub struct Csum {
    fns: CrcFns,
    mode: Mode,
    seed: u32,
    uuid: [u8; 16],
}

impl Csum {
    /// Makes the volume's checksum rules; `seed` is that of the superblock, if it keeps one.
    pub fn new(fns: CrcFns, mode: Mode, uuid: [u8; 16], seed: Option<u32>) -> Self {
        let seed = match seed {
            Some(seed) => seed,
            None => (fns.crc32c)(!0, &uuid),
        };
        Self {
            fns,
            mode,
            seed,
            uuid,
        }
    }

    /// Returns which checksums are in use.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns whether all metadata carries a CRC-32C.
    #[inline]
    pub const fn metadata(&self) -> bool {
        matches!(self.mode, Mode::Metadata)
    }

    /// Returns the seed from which every CRC-32C of the volume starts, but the superblock's.
    pub const fn seed(&self) -> u32 {
        self.seed
    }

    /// Continues a CRC-32C over `data`.
    #[inline]
    pub fn crc32c(&self, seed: u32, data: &[u8]) -> u32 {
        (self.fns.crc32c)(seed, data)
    }

    /// Continues a CRC-32C over `data`, taking the `gap` bytes at `at` for zeros.
    ///
    /// That is how a checksum is computed which is stored in the data that it covers. If the gap
    /// does not lie in `data`, all of `data` is taken as it is.
    pub fn crc32c_zeroed(&self, seed: u32, data: &[u8], at: usize, gap: usize) -> u32 {
        const ZEROS: [u8; 4] = [0; 4];
        let parts = (
            data.get(..at),
            ZEROS.get(..gap),
            at.checked_add(gap).and_then(|end| data.get(end..)),
        );
        let (Some(head), Some(zeros), Some(tail)) = parts else {
            return self.crc32c(seed, data);
        };
        self.crc32c(self.crc32c(self.crc32c(seed, head), zeros), tail)
    }

    /// Returns the owner of metadata that belongs to an inode.
    pub fn owner(&self, ino: Ino, generation: u32) -> Owner {
        let seed = self.crc32c(self.seed, &ino.0.to_le_bytes());
        Owner {
            ino,
            seed: self.crc32c(seed, &generation.to_le_bytes()),
        }
    }

    /// Computes the checksum of a group descriptor; 0 if the volume has none.
    ///
    /// `raw` is the whole descriptor. Without the 64bit feature a descriptor has 32 bytes, which
    /// is all that either algorithm covers then.
    pub fn group_desc(&self, group: Group, raw: &[u8]) -> u16 {
        let number = group.0.to_le_bytes();
        match self.mode {
            Mode::None => 0,
            Mode::GroupCrc16 => {
                let mut crc = (self.fns.crc16)(!0, &self.uuid);
                crc = (self.fns.crc16)(crc, &number);
                crc = (self.fns.crc16)(crc, raw.get(..GROUP_CSUM).unwrap_or(raw));
                (self.fns.crc16)(crc, raw.get(GROUP_CSUM + 2..).unwrap_or(&[]))
            }
            Mode::Metadata => {
                let seed = self.crc32c(self.seed, &number);
                low16(self.crc32c_zeroed(seed, raw, GROUP_CSUM, 2))
            }
        }
    }

    /// Verifies the checksum of a bitmap of which the first `bits / 8` bytes are covered.
    ///
    /// `stored` has 32 bits if the descriptor is large enough for them (`wide`), else 16.
    pub(super) fn verify_bitmap(
        &self,
        what: &'static str,
        bitmap: &[u8],
        bits: u32,
        stored: u32,
        wide: bool,
    ) -> Result<()> {
        if !self.metadata() {
            return Ok(());
        }
        let Some(covered) = get_bytes(bitmap, 0, us(bits / 8)) else {
            return Err(Error::corrupt("bitmap: buffer shorter than a group"));
        };
        let mut computed = self.crc32c(self.seed, covered);
        if !wide {
            computed = u32::from(low16(computed));
        }
        if stored == computed {
            Ok(())
        } else {
            Err(Error::checksum(what, stored, computed))
        }
    }

    /// Computes the checksum of the extended-attribute block `raw`, which lies at `block`.
    pub(super) fn xattr_block(&self, block: Pblk, raw: &[u8]) -> u32 {
        let seed = self.crc32c(self.seed, &block.0.to_le_bytes());
        self.crc32c_zeroed(seed, raw, 16, 4)
    }
}

/// Offset of a group descriptor's checksum in the descriptor, in bytes.
pub(super) const GROUP_CSUM: usize = 0x1e;

/// The inode that a block of metadata belongs to, as its checksum sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The inode's number.
    pub ino: Ino,
    /// The CRC-32C of the volume's seed, the inode's number and its generation.
    pub seed: u32,
}

/// Verifies the superblock's own checksum, in its last four bytes.
pub(super) fn verify_super(fns: &CrcFns, raw: &[u8], stored: u32) -> Result<()> {
    let Some(covered) = raw.get(..0x3fc) else {
        return Err(Error::new(Kind::NotExt4, "superblock: buffer too short"));
    };
    let computed = (fns.crc32c)(!0, covered);
    if stored == computed {
        Ok(())
    } else {
        Err(Error::checksum(
            "superblock: checksum {x}, but {x} expected",
            stored,
            computed,
        ))
    }
}
