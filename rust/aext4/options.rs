// SPDX-License-Identifier: GPL-2.0

//! Mount options.

use core::fmt::{self, Write};
use kernel::prelude::*;
use layout::superblock::{OnError, SUPER_KIB};

/// The usual number of blocks of an inode table that are read when one is wanted: that of ext4.
const INODE_READAHEAD: u32 = 32;

/// The largest, as in ext4.
const INODE_READAHEAD_MAX: u32 = 1 << 30;

/// Mount options; see `Documentation/aext4.md`.
#[derive(Clone, Copy)]
pub struct Options {
    /// Mount although the journal holds changes that were not written back.
    pub noload: bool,
    /// What to do when the volume is found to be damaged; the superblock says, if `None`.
    pub on_error: Option<OnError>,
    /// Enforce access control lists.
    pub acl: bool,
    /// Show `user.` attributes.
    pub user_xattr: bool,
    /// How many blocks of an inode table are read when one is wanted.
    pub inode_readahead: u32,
    /// Where the superblock is, in KiB.
    pub sb: u64,
    /// Whether the volume was to be mounted for writing, which becomes a read-only mount.
    pub for_writing: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            noload: false,
            on_error: None,
            acl: true,
            user_xattr: true,
            inode_readahead: INODE_READAHEAD,
            sb: SUPER_KIB,
            for_writing: false,
        }
    }
}

impl Options {
    /// Takes one option. Returns `false` if there is no such option.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<bool> {
        match (key, value) {
            ("noload" | "norecovery", None) => self.noload = true,
            ("acl", None) => self.acl = true,
            ("noacl", None) => self.acl = false,
            ("user_xattr", None) => self.user_xattr = true,
            ("nouser_xattr", None) => self.user_xattr = false,
            ("errors", Some(value)) => {
                self.on_error = Some(match value {
                    "continue" => OnError::Continue,
                    "remount-ro" => OnError::ReadOnly,
                    "panic" => OnError::Panic,
                    _ => return Err(EINVAL),
                })
            }
            ("inode_readahead_blks", Some(value)) => {
                let blocks: u32 = value.parse().map_err(|_| EINVAL)?;
                if blocks > INODE_READAHEAD_MAX || !(blocks == 0 || blocks.is_power_of_two()) {
                    return Err(EINVAL);
                }
                self.inode_readahead = blocks;
            }
            ("sb", Some(value)) => self.sb = value.parse().map_err(|_| EINVAL)?,
            (
                "noload"
                | "norecovery"
                | "acl"
                | "noacl"
                | "user_xattr"
                | "nouser_xattr"
                | "errors"
                | "inode_readahead_blks"
                | "sb",
                _,
            ) => return Err(EINVAL),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Writes what differs from the default.
    pub fn show(&self, out: &mut dyn Write) -> fmt::Result {
        if self.noload {
            out.write_str(",noload")?;
        }
        match self.on_error {
            Some(OnError::Continue) => out.write_str(",errors=continue")?,
            Some(OnError::ReadOnly) => out.write_str(",errors=remount-ro")?,
            Some(OnError::Panic) => out.write_str(",errors=panic")?,
            None => {}
        }
        if !self.acl {
            out.write_str(",noacl")?;
        }
        if !self.user_xattr {
            out.write_str(",nouser_xattr")?;
        }
        if self.inode_readahead != INODE_READAHEAD {
            write!(out, ",inode_readahead_blks={}", self.inode_readahead)?;
        }
        if self.sb != SUPER_KIB {
            write!(out, ",sb={}", self.sb)?;
        }
        Ok(())
    }
}
