// SPDX-License-Identifier: GPL-2.0

//! What becomes of a refusal: one line in the kernel log, and an error number.

use crate::volume::Volume;
use core::fmt;
use disk::Level;
use kernel::prelude::*;
use layout::{Ino, Kind};

/// `EUCLEAN`, which ext4 calls `EFSCORRUPTED`: the volume contradicts itself.
pub(crate) fn corrupted() -> Error {
    Error::from_errno(-117)
}

/// The error number for a kind of refusal.
pub(crate) fn errno(kind: Kind) -> Error {
    match kind {
        Kind::NotExt4 | Kind::Geometry => EINVAL,
        Kind::Feature => EOPNOTSUPP,
        Kind::Corrupt => corrupted(),
        Kind::Checksum => EBADMSG,
        Kind::Stale => ESTALE,
    }
}

/// What a log line is about: an inode, a block of one, or the volume.
#[derive(Clone, Copy)]
pub(crate) struct About {
    pub(crate) ino: Option<Ino>,
    pub(crate) block: Option<u64>,
}

impl About {
    pub(crate) fn inode(ino: Ino) -> Self {
        Self {
            ino: Some(ino),
            block: None,
        }
    }

    pub(crate) fn block(ino: Ino, block: u64) -> Self {
        Self {
            ino: Some(ino),
            block: Some(block),
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ino) = self.ino {
            write!(f, "inode {ino}, ")?;
        }
        if let Some(block) = self.block {
            write!(f, "block {block}, ")?;
        }
        Ok(())
    }
}

/// Turns a refusal of the parser into an error number, with a line in the log.
pub(crate) trait OrReport<T> {
    /// Logs the refusal, obeys `errors=`, and returns the error number.
    fn or_report(self, volume: &Volume, about: About) -> Result<T>;
}

impl<T> OrReport<T> for layout::Result<T> {
    fn or_report(self, volume: &Volume, about: About) -> Result<T> {
        self.map_err(|error| {
            volume.report(&format_args!("{about}{error}"));
            errno(error.kind)
        })
    }
}

/// Logs a refusal while there is no volume yet.
pub(crate) fn refuse_mount(disk: &disk::Disk, error: layout::Error) -> Error {
    disk.log(Level::Error, format_args!("{error}"));
    errno(error.kind)
}
