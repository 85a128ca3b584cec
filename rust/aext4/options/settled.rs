// SPDX-License-Identifier: GPL-2.0

//! The options of a mounted volume: all layers laid above each other, changed and shown.

use super::{
    Data, Options, ASYNC_COMMIT, COMMIT_DEFAULT, DELALLOC, DIOREAD_NOLOCK, FLAGS,
    INIT_ITABLE_DEFAULT, INODE_READAHEAD_DEFAULT, JOURNAL_CHECKSUM, MANY_GROUPS,
    MAX_BATCH_TIME_DEFAULT, NORECOVERY, NO_MBCACHE, ZERO_ITABLE,
};
use core::fmt::{self, Write};
use disk::{Disk, Level};
use kernel::prelude::*;
use layout::superblock::{OnError, SUPER_KIB};
use layout::{Compat, SuperBlock};

/// The options of a volume, and what they would be without those of the mount.
pub struct Settled {
    /// The options, those of the superblock among them.
    pub options: Options,
    default_flags: u32,
    default_data: Option<Data>,
}

impl Settled {
    /// Lays the options of a mount above those of the superblock.
    ///
    /// Fails with `EINVAL` if they do not go together, or not with the volume; the reason was
    /// logged.
    pub fn new(mut given: Options, sb: &SuperBlock, disk: &Disk) -> Result<Self> {
        let mut options = Options::of_bits(sb);
        let text = sb.mount_opts();
        if !text.is_empty() {
            let parsed = Options::of_string(text).and_then(|mut over| {
                over.check(&options, sb).map_err(|_| EINVAL)?;
                Ok(over)
            });
            match parsed {
                Ok(over) => options.cover(&over),
                Err(_) => disk.log(
                    Level::Warning,
                    format_args!(
                        "the options in the superblock are not taken: {}",
                        core::str::from_utf8(text).unwrap_or("no text")
                    ),
                ),
            }
        }
        let mut settled = Self {
            default_flags: options.flags,
            default_data: options.data,
            options,
        };
        let result = given
            .check(&settled.options, sb)
            .and_then(|()| settled.complete(&given, sb));
        match result {
            Ok(()) => Ok(settled),
            Err(why) => {
                disk.log(Level::Error, format_args!("mount options: {why}"));
                Err(EINVAL)
            }
        }
    }

    fn complete(
        &mut self,
        given: &Options,
        sb: &SuperBlock,
    ) -> core::result::Result<(), &'static str> {
        let options = &mut self.options;
        options.cover(given);
        if options.data == Some(Data::Journal) {
            if options.explicit & DELALLOC != 0 {
                return Err("data=journal and delalloc do not go together");
            }
            options.flags &= !(DIOREAD_NOLOCK | DELALLOC);
        }
        if sb.geo.has_compat(Compat::HAS_JOURNAL) && !options.norecovery() {
            if options.journal_dev && sb.journal_ino.is_some() {
                return Err("journal_dev= or journal_path= on a volume with a journal of its own");
            }
            if options.data.is_none() {
                options.data = Some(Data::Ordered);
                self.default_data = options.data;
            }
            if options.data == Some(Data::Ordered) && options.has(ASYNC_COMMIT) {
                return Err("journal_async_commit does not go with data=ordered");
            }
        } else {
            // As in ext4, nothing may be said about a journal that is not used.
            if options.has(ASYNC_COMMIT) {
                return Err("journal_async_commit without a journal");
            }
            if options.explicit & JOURNAL_CHECKSUM != 0 {
                return Err("journal_checksum without a journal");
            }
            if options.commit.unwrap_or(COMMIT_DEFAULT) != COMMIT_DEFAULT {
                return Err("commit= without a journal");
            }
            if options.data != self.default_data {
                return Err("data= without a journal");
            }
            if options.data_err_abort == Some(true) {
                return Err("data_err=abort without a journal");
            }
            self.default_flags &= !JOURNAL_CHECKSUM;
            options.flags &= !JOURNAL_CHECKSUM;
            options.data = None;
            self.default_data = None;
        }
        options.stripe = Some(options.stripe(sb));
        options.explicit = 0;
        options.named = !0;
        Ok(())
    }

    /// Changes the options of a mounted volume; says why if that cannot be.
    pub fn remount(
        &mut self,
        mut new: Options,
        sb: &SuperBlock,
    ) -> core::result::Result<(), &'static str> {
        let old = &self.options;
        if new.sb() != old.sb() {
            return Err("sb= cannot be changed");
        }
        new.check(old, sb)?;
        match old.data {
            None => {
                new.data = None;
                new.data_err_abort = None;
            }
            data if data != new.data => return Err("data= cannot be changed"),
            Some(Data::Journal) if new.explicit & (DELALLOC | DIOREAD_NOLOCK) != 0 => {
                return Err("data=journal goes with neither delalloc nor dioread_nolock");
            }
            Some(Data::Ordered) if new.has(ASYNC_COMMIT) => {
                return Err("journal_async_commit does not go with data=ordered");
            }
            _ => {}
        }
        if old.has(DELALLOC) && !new.has(DELALLOC) {
            return Err("delalloc cannot be switched off");
        }
        if old.has(NO_MBCACHE) != new.has(NO_MBCACHE) {
            return Err("nombcache cannot be switched on");
        }
        if old.dax != new.dax {
            return Err("dax= cannot be changed");
        }
        // These two stay what they were.
        let kept = JOURNAL_CHECKSUM | NORECOVERY;
        new.flags = new.flags & !kept | old.flags & kept;
        if new.stripe != old.stripe {
            new.stripe = Some(
                new.stripe
                    .filter(|blocks| blocks & (sb.geo.cluster_blocks() - 1) == 0)
                    .unwrap_or(0),
            );
        }
        new.explicit = 0;
        self.options = new;
        Ok(())
    }

    /// Writes what differs from the default, in ext4's order.
    pub fn show(&self, sb: &SuperBlock, out: &mut dyn Write) -> fmt::Result {
        let options = &self.options;
        if options.sb() != SUPER_KIB {
            write!(out, ",sb={}", options.sb())?;
        }
        let changed = options.flags ^ self.default_flags;
        for &(name, flags, set) in FLAGS {
            let said = if set {
                options.has(flags)
            } else {
                options.flags & flags == 0
            };
            if said && changed & flags != 0 {
                write!(out, ",{name}")?;
            }
        }
        for (name, given, stored) in [
            ("resuid", options.resuid, sb.reserved_uid),
            ("resgid", options.resgid, sb.reserved_gid),
        ] {
            let id = given.unwrap_or(stored);
            if (id, stored) != (0, 0) {
                write!(out, ",{name}={id}")?;
            }
        }
        match options.on_error.filter(|on_error| *on_error != sb.on_error) {
            Some(OnError::Continue) => out.write_str(",errors=continue")?,
            Some(OnError::ReadOnly) => out.write_str(",errors=remount-ro")?,
            Some(OnError::Panic) => out.write_str(",errors=panic")?,
            None => {}
        }
        let differs = |value: Option<u32>, usual| value.filter(|value| *value != usual);
        for (name, value) in [
            ("commit", differs(options.commit, COMMIT_DEFAULT)),
            ("min_batch_time", differs(options.min_batch_time, 0)),
            (
                "max_batch_time",
                differs(options.max_batch_time, MAX_BATCH_TIME_DEFAULT),
            ),
            ("stripe", differs(options.stripe, 0)),
        ] {
            if let Some(value) = value {
                write!(out, ",{name}={value}")?;
            }
        }
        match options.data.filter(|_| options.data != self.default_data) {
            Some(Data::Journal) => out.write_str(",data=journal")?,
            Some(Data::Ordered) => out.write_str(",data=ordered")?,
            Some(Data::Writeback) => out.write_str(",data=writeback")?,
            None => {}
        }
        let init_itable = options.init_itable.filter(|_| options.has(ZERO_ITABLE));
        for (name, value) in [
            (
                "inode_readahead_blks",
                differs(options.inode_readahead, INODE_READAHEAD_DEFAULT),
            ),
            ("init_itable", differs(init_itable, INIT_ITABLE_DEFAULT)),
            ("max_dir_size_kb", differs(options.max_dir_size_kb, 0)),
        ] {
            if let Some(value) = value {
                write!(out, ",{name}={value}")?;
            }
        }
        if options.data_err_abort == Some(true) {
            out.write_str(",data_err=abort")?;
        }
        if options.inlinecrypt {
            out.write_str(",inlinecrypt")?;
        }
        if let Some(dax) = options.dax {
            write!(out, ",dax={dax}")?;
        }
        let many = sb.geo.groups() >= MANY_GROUPS;
        if let Some(scan) = options.mb_optimize_scan.filter(|scan| *scan != many) {
            write!(out, ",mb_optimize_scan={}", u32::from(scan))?;
        }
        if let Some(format) = options.jqfmt {
            write!(out, ",jqfmt={format}")?;
        }
        for (name, file) in ["usrjquota", "grpjquota"].iter().zip(&options.quota_files) {
            if let Some(Some(file)) = file {
                write!(out, ",{name}=")?;
                for char in core::str::from_utf8(file).unwrap_or("").chars() {
                    // What would end the option or the field is shown as the VFS shows it.
                    match char {
                        ' ' | '\t' | '\n' | '\\' | ',' => write!(out, "\\{:03o}", u32::from(char))?,
                        _ => out.write_char(char)?,
                    }
                }
            }
        }
        Ok(())
    }
}
