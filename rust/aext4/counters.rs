// SPDX-License-Identifier: GPL-2.0

//! What a volume counts, and shows in `/sys/fs/aext4/DEVICE/`: names and formats are ext4's.
//!
//! How much was written to the device is the device's own count, from the mount on. The superblock
//! is told the sum over the volume's life whenever it is written in place, and, while the volume is
//! writable, by the recorder ([`error_record`](crate::error_record)) after a commit if that is an
//! hour ago and 16 MiB. These are ext4's numbers.

use crate::ext4::{kept_back, Ext4};
use core::fmt::{self, Write};
use core::str;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use layout::super_edit::{ErrorRecord, SuperEdit};
use layout::SuperBlock;

/// How old what the superblock says may be, in seconds, and how far from the truth, in KiB.
const TELL_SECS: u64 = 3600;
const TELL_KBYTES: u64 = 16 << 10;

/// Shows a counter.
type Show = fn(&Ext4, &mut dyn Write) -> fmt::Result;

const TABLE: [(&CStr, Show); 18] = [
    (c"delayed_allocation_blocks", |volume, out| {
        let groups = volume.allocation_groups();
        let promised = groups.map_or(0, |groups| groups.counters().promised);
        writeln!(out, "{promised}")
    }),
    (c"session_write_kbytes", |volume, out| {
        writeln!(out, "{}", volume.session_kbytes())
    }),
    (c"lifetime_write_kbytes", |volume, out| {
        writeln!(out, "{}", volume.lifetime_kbytes())
    }),
    (c"reserved_clusters", |volume, out| {
        let geo = &volume.sb.geo;
        let clusters = kept_back(geo) >> geo.cluster_blocks().trailing_zeros();
        writeln!(out, "{clusters}")
    }),
    (c"errors_count", |volume, out| {
        writeln!(out, "{}", volume.error_counts().count)
    }),
    (c"first_error_ino", |volume, out| ino(&first(volume), out)),
    (c"last_error_ino", |volume, out| ino(&last(volume), out)),
    (c"first_error_block", |volume, out| {
        block(&first(volume), out)
    }),
    (c"last_error_block", |volume, out| block(&last(volume), out)),
    (c"first_error_line", |volume, out| {
        writeln!(out, "{}", first(volume).line)
    }),
    (c"last_error_line", |volume, out| {
        writeln!(out, "{}", last(volume).line)
    }),
    (c"first_error_func", |volume, out| func(&first(volume), out)),
    (c"last_error_func", |volume, out| func(&last(volume), out)),
    (c"first_error_errcode", |volume, out| {
        writeln!(out, "{}", first(volume).code)
    }),
    (c"last_error_errcode", |volume, out| {
        writeln!(out, "{}", last(volume).code)
    }),
    (c"first_error_time", |volume, out| {
        writeln!(out, "{}", first(volume).time)
    }),
    (c"last_error_time", |volume, out| {
        writeln!(out, "{}", last(volume).time)
    }),
    // What ext4 says of a volume without a journal: no thread commits.
    (c"journal_task", |_, out| out.write_str("<none>\n")),
];

/// The names of the counters.
pub const COUNTERS: &[&CStr] = &{
    let mut names = [c""; TABLE.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = TABLE[i].0;
        i += 1;
    }
    names
};

fn first(volume: &Ext4) -> ErrorRecord {
    volume.error_counts().first
}

fn last(volume: &Ext4) -> ErrorRecord {
    volume.error_counts().last
}

fn ino(error: &ErrorRecord, out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "{}", error.ino.map_or(0, |ino| ino.0))
}

fn block(error: &ErrorRecord, out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "{}", error.block.map_or(0, |pblk| pblk.0))
}

fn func(error: &ErrorRecord, out: &mut dyn Write) -> fmt::Result {
    // Whoever wrote it may have written anything: what is no text is left out.
    let name = error.func.split(|&byte| byte == 0).next().unwrap_or(&[]);
    writeln!(out, "{}", str::from_utf8(name).unwrap_or(""))
}

/// What is known of writes to the device.
pub(crate) struct Written {
    /// What the device had counted when the volume was mounted, in sectors of 512 bytes.
    start: u64,
    /// What the superblock said then, in KiB.
    before: u64,
    /// What it was told last: when, in seconds since 1970, and how many KiB.
    told: [Atomic<u64>; 2],
}

impl Written {
    /// Begins at `start`, what the device had counted before the volume was looked at.
    pub(crate) fn new(sb: &SuperBlock, start: u64) -> Self {
        Self {
            start,
            before: sb.kbytes_written,
            told: [Atomic::new(sb.write_time), Atomic::new(sb.kbytes_written)],
        }
    }
}

/// What the superblock is to say of writes.
#[derive(Clone, Copy)]
pub(crate) struct Tell {
    time: u64,
    kbytes: u64,
}

impl Tell {
    /// Tells the superblock.
    pub(crate) fn apply(&self, edit: &mut SuperEdit<'_>) {
        edit.set_write_time(self.time);
        edit.set_kbytes_written(self.kbytes);
    }
}

impl Ext4 {
    /// Writes counter `index` of [`COUNTERS`], and a line's end. Process context; does not sleep.
    pub fn show_counter(&self, index: usize, out: &mut dyn Write) -> fmt::Result {
        match TABLE.get(index) {
            Some((_, show)) => show(self, out),
            None => Err(fmt::Error),
        }
    }

    /// How many KiB were written to the device since the mount, by whomever.
    fn session_kbytes(&self) -> u64 {
        self.disk
            .sectors_written()
            .saturating_sub(self.written.start)
            >> 1
    }

    fn lifetime_kbytes(&self) -> u64 {
        self.written.before.saturating_add(self.session_kbytes())
    }

    /// What the superblock is to say now.
    pub(crate) fn writes_now(&self) -> Tell {
        Tell {
            time: u64::try_from(disk::time::now().secs).unwrap_or(0),
            kbytes: self.lifetime_kbytes(),
        }
    }

    /// What the superblock is to say now, if it is time that it is told.
    pub(crate) fn writes_if_due(&self) -> Option<Tell> {
        let [time, kbytes] = &self.written.told;
        let tell = self.writes_now();
        let due = tell.time.saturating_sub(time.load(Relaxed)) >= TELL_SECS
            && tell.kbytes.saturating_sub(kbytes.load(Relaxed)) > TELL_KBYTES;
        due.then_some(tell)
    }

    /// The superblock was told.
    pub(crate) fn writes_told(&self, tell: &Tell) {
        let [time, kbytes] = &self.written.told;
        time.store(tell.time, Relaxed);
        kbytes.store(tell.kbytes, Relaxed);
    }
}
