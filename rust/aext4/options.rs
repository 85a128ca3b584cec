// SPDX-License-Identifier: GPL-2.0

//! Mount options.

use crate::layout::superblock::{OnError, SUPER_KIB};
use core::fmt::{self, Write};
use kernel::prelude::*;
use vfs::MountOption;

/// Mount options; see `Documentation/aext4.md`.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// Mount although the journal holds changes that were not written back.
    pub(crate) noload: bool,
    /// What to do when the volume is found to be damaged; the superblock says, if `None`.
    pub(crate) on_error: Option<OnError>,
    /// Enforce access control lists.
    pub(crate) acl: bool,
    /// Show `user.` attributes.
    pub(crate) user_xattr: bool,
    /// Where the superblock is, in KiB.
    pub(crate) sb: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            noload: false,
            on_error: None,
            acl: true,
            user_xattr: true,
            sb: SUPER_KIB,
        }
    }
}

impl Options {
    /// Takes one option. Returns `false` if there is no such option.
    pub(crate) fn set(&mut self, option: MountOption<'_>) -> Result<bool> {
        match (option.key, option.value) {
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
            ("sb", Some(value)) => self.sb = value.parse().map_err(|_| EINVAL)?,
            (
                "noload" | "norecovery" | "acl" | "noacl" | "user_xattr" | "nouser_xattr"
                | "errors" | "sb",
                _,
            ) => return Err(EINVAL),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Writes what differs from the default.
    pub(crate) fn show(&self, out: &mut dyn Write) -> fmt::Result {
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
        if self.sb != SUPER_KIB {
            write!(out, ",sb={}", self.sb)?;
        }
        Ok(())
    }
}
