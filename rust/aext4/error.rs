// SPDX-License-Identifier: GPL-2.0

//! What becomes of a refusal: one line in the kernel log, and an error number.

use crate::ext4::Ext4;
use core::fmt;
use disk::Level;
use kernel::prelude::*;
use layout::super_edit::ErrorCode;
use layout::{Ino, Kind};

/// `EUCLEAN`, which ext4 calls `EFSCORRUPTED`: the volume contradicts itself.
pub fn corrupted() -> Error {
    Error::from_errno(-117)
}

/// The error number for a kind of refusal.
pub fn errno(kind: Kind) -> Error {
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
pub struct About {
    /// The inode, if it is about one.
    pub ino: Option<Ino>,
    /// The block of the volume, if it is about one.
    pub block: Option<u64>,
}

impl About {
    /// About the volume.
    pub const VOLUME: Self = Self {
        ino: None,
        block: None,
    };

    /// About an inode.
    pub fn inode(ino: Ino) -> Self {
        Self {
            ino: Some(ino),
            block: None,
        }
    }

    /// About a block of an inode.
    pub fn block(ino: Ino, block: u64) -> Self {
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
pub trait OrReport<T> {
    /// Logs the refusal, obeys `errors=`, and returns the error number.
    #[track_caller]
    fn or_report(self, volume: &Ext4, about: About) -> Result<T>;
}

impl<T> OrReport<T> for layout::Result<T> {
    #[track_caller]
    fn or_report(self, volume: &Ext4, about: About) -> Result<T> {
        match self {
            Ok(found) => Ok(found),
            Err(error) => {
                let errno = errno(error.kind);
                let code = ErrorCode::of(errno.to_errno());
                volume.report_about(about, code, &error);
                Err(errno)
            }
        }
    }
}

/// Logs a refusal while there is no volume yet.
pub fn refuse_mount(disk: &disk::Disk, error: layout::Error) -> Error {
    disk.log(Level::Error, format_args!("{error}"));
    errno(error.kind)
}
