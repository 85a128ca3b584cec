// SPDX-License-Identifier: GPL-2.0

//! Mount options: all that ext4 has, since people have them in `fstab` and in superblocks.
//!
//! They are taken, checked and shown as ext4 does it. Those that choose between ways of ext4's code
//! have no further effect. [`FLAGS`] has those that are on or off, in the order in which ext4 shows
//! them.
//!
//! Three layers lie above each other: what the superblock has as bits, what it has as a string, and
//! what the mount was given. [`Options`] is one layer, or all of them [settled](Settled).

use kernel::prelude::*;
use kernel::sync::Arc;
use layout::superblock::{OnError, SUPER_KIB};
use layout::{RoCompat, SuperBlock};

mod settled;

pub use settled::Settled;

/// The usual number of blocks of an inode table that are read when one is wanted: that of ext4.
const INODE_READAHEAD_DEFAULT: u32 = 32;

/// The largest, as in ext4.
const INODE_READAHEAD_MAX: u32 = 1 << 30;

/// The usual seconds between commits.
const COMMIT_DEFAULT: u32 = 5;

/// The longest time between commits in seconds: an `int` of timer ticks in ext4, for every tick
/// that there is.
const COMMIT_MAX: u32 = i32::MAX as u32 / 1000;

/// The usual longest time to wait for others before a commit, in microseconds.
const MAX_BATCH_TIME_DEFAULT: u32 = 15_000;

/// The usual pause after a block of an inode table was zeroed, as a multiple of the time it took.
const INIT_ITABLE_DEFAULT: u32 = 10;

/// From how many groups on ext4 keeps lists of them by their free space.
const MANY_GROUPS: u32 = 16;

const MINIX_DF: u32 = 1 << 0;
const GRPID: u32 = 1 << 1;
const BLOCK_VALIDITY: u32 = 1 << 2;
const DIOREAD_NOLOCK: u32 = 1 << 3;
const DISCARD: u32 = 1 << 4;
const DELALLOC: u32 = 1 << 5;
const WARN_ON_ERROR: u32 = 1 << 6;
const JOURNAL_CHECKSUM: u32 = 1 << 7;
const ASYNC_COMMIT: u32 = 1 << 8;
const NORECOVERY: u32 = 1 << 9;
const BARRIER: u32 = 1 << 10;
const NO_AUTO_DA_ALLOC: u32 = 1 << 11;
const ZERO_ITABLE: u32 = 1 << 12;
const USER_XATTR: u32 = 1 << 13;
const ACL: u32 = 1 << 14;
const NO_UID32: u32 = 1 << 15;
const DEBUG: u32 = 1 << 16;
const QUOTA: u32 = 1 << 17;
const USRQUOTA: u32 = 1 << 18;
const GRPQUOTA: u32 = 1 << 19;
const PRJQUOTA: u32 = 1 << 20;
const NO_MBCACHE: u32 = 1 << 21;
const NO_PREFETCH: u32 = 1 << 22;
const ABORT: u32 = 1 << 23;

/// Names of flags, the flags, and whether the name sets them.
const FLAGS: &[(&str, u32, bool)] = &[
    ("minixdf", MINIX_DF, true),
    ("bsddf", MINIX_DF, false),
    ("grpid", GRPID, true),
    ("nogrpid", GRPID, false),
    ("block_validity", BLOCK_VALIDITY, true),
    ("noblock_validity", BLOCK_VALIDITY, false),
    ("dioread_nolock", DIOREAD_NOLOCK, true),
    ("nodioread_nolock", DIOREAD_NOLOCK, false),
    ("discard", DISCARD, true),
    ("nodiscard", DISCARD, false),
    ("delalloc", DELALLOC, true),
    ("nodelalloc", DELALLOC, false),
    ("warn_on_error", WARN_ON_ERROR, true),
    ("nowarn_on_error", WARN_ON_ERROR, false),
    ("nojournal_checksum", JOURNAL_CHECKSUM, false),
    ("journal_checksum", JOURNAL_CHECKSUM, true),
    (
        "journal_async_commit",
        ASYNC_COMMIT | JOURNAL_CHECKSUM,
        true,
    ),
    ("norecovery", NORECOVERY, true),
    ("barrier", BARRIER, true),
    ("nobarrier", BARRIER, false),
    ("noauto_da_alloc", NO_AUTO_DA_ALLOC, true),
    ("auto_da_alloc", NO_AUTO_DA_ALLOC, false),
    ("noinit_itable", ZERO_ITABLE, false),
    ("user_xattr", USER_XATTR, true),
    ("nouser_xattr", USER_XATTR, false),
    ("acl", ACL, true),
    ("noacl", ACL, false),
    ("nouid32", NO_UID32, true),
    ("debug", DEBUG, true),
    ("quota", QUOTA | USRQUOTA, true),
    ("usrquota", QUOTA | USRQUOTA, true),
    ("grpquota", QUOTA | GRPQUOTA, true),
    ("prjquota", QUOTA | PRJQUOTA, true),
    ("noquota", QUOTA | USRQUOTA | GRPQUOTA | PRJQUOTA, false),
    ("nombcache", NO_MBCACHE, true),
    ("no_prefetch_block_bitmaps", NO_PREFETCH, true),
    ("abort", ABORT, true),
];

/// Further names, and the names by which they are shown.
const ALIASES: &[(&str, &str)] = &[
    ("bsdgroups", "grpid"),
    ("sysvgroups", "nogrpid"),
    ("dioread_lock", "nodioread_nolock"),
    ("noload", "norecovery"),
    ("no_mbcache", "nombcache"),
];

/// What ext4 no longer knows, and takes.
const REMOVED: &[&str] = &[
    "oldalloc",
    "orlov",
    "bh",
    "nobh",
    "i_version",
    "mblk_io_submit",
    "nomblk_io_submit",
    "prefetch_block_bitmaps",
    "nocheck",
    "reservation",
    "noreservation",
];

/// Options that want a value, or may have one.
const VALUED: &[&str] = &[
    "errors",
    "inode_readahead_blks",
    "sb",
    "commit",
    "min_batch_time",
    "max_batch_time",
    "stripe",
    "resuid",
    "resgid",
    "max_dir_size_kb",
    "debug_want_extra_isize",
    "journal_ioprio",
    "journal_dev",
    "journal_path",
    "data",
    "data_err",
    "mb_optimize_scan",
    "usrjquota",
    "grpjquota",
    "jqfmt",
    "dax",
    "test_dummy_encryption",
    "check",
    "journal",
];

/// What is journaled of files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Data {
    Journal,
    Ordered,
    Writeback,
}

/// The name of a quota file, or that there is none.
type QuotaFile = Option<Arc<KVec<u8>>>;

/// One layer of mount options; what is `None`, and flags that are not `named`, the layer below
/// says.
#[derive(Clone, Default)]
pub struct Options {
    flags: u32,
    named: u32,
    /// The flags that were switched on by name, which a default is not.
    explicit: u32,
    on_error: Option<OnError>,
    inode_readahead: Option<u32>,
    sb: Option<u64>,
    data: Option<Data>,
    data_err_abort: Option<bool>,
    commit: Option<u32>,
    min_batch_time: Option<u32>,
    max_batch_time: Option<u32>,
    stripe: Option<u32>,
    resuid: Option<u32>,
    resgid: Option<u32>,
    init_itable: Option<u32>,
    max_dir_size_kb: Option<u32>,
    extra_isize: Option<u32>,
    journal_dev: bool,
    inlinecrypt: bool,
    dax: Option<&'static str>,
    mb_optimize_scan: Option<bool>,
    jqfmt: Option<&'static str>,
    quota_files: [Option<QuotaFile>; 2],
}

/// The options of a volume that are on or off.
#[derive(Clone, Copy)]
pub struct Flags(pub u32);

impl Flags {
    fn has(self, flags: u32) -> bool {
        self.0 & flags == flags
    }

    /// Whether access control lists are enforced.
    pub fn acl(self) -> bool {
        self.has(ACL)
    }

    /// Whether `user.` attributes are shown.
    pub fn user_xattr(self) -> bool {
        self.has(USER_XATTR)
    }

    /// Whether owners and groups have 16 bits only.
    pub fn uid16(self) -> bool {
        self.has(NO_UID32)
    }

    /// Whether writes are flushed where the order matters.
    pub fn barrier(self) -> bool {
        self.0 & BARRIER != 0
    }

    /// Whether what is new in a directory has its group, whatever the directory's mode says.
    pub fn group_of_dir(self) -> bool {
        self.has(GRPID)
    }

    /// Whether the device is told which blocks are free again.
    pub fn discard(self) -> bool {
        self.has(DISCARD)
    }

    /// Whether the contents of a file that replaces another are written first.
    pub fn auto_da_alloc(self) -> bool {
        !self.has(NO_AUTO_DA_ALLOC)
    }

    /// Whether `statfs` counts metadata as space.
    pub fn minix_df(self) -> bool {
        self.has(MINIX_DF)
    }
}

/// A number as the kernel reads it, with the prefixes of C.
fn number(value: &str) -> Result<u32> {
    let parsed = match value.strip_prefix("0x").or(value.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None if value.len() > 1 && value.starts_with('0') => u32::from_str_radix(value, 8),
        None => value.parse(),
    };
    // Rust takes a sign in all of them.
    match parsed {
        Ok(number) if !value.contains('+') => Ok(number),
        _ => Err(EINVAL),
    }
}

/// The one of `words` that is `value`.
fn word(value: &str, words: &[&'static str]) -> Result<&'static str> {
    let found = words.iter().find(|word| **word == value);
    found.copied().ok_or(EINVAL)
}

/// The name of a quota file in the root directory; none if it is empty.
fn quota_file(value: &str) -> Result<QuotaFile> {
    if value.is_empty() {
        return Ok(None);
    }
    if value.contains('/') {
        return Err(EINVAL);
    }
    let mut name = KVec::new();
    name.extend_from_slice(value.as_bytes(), GFP_KERNEL)?;
    Ok(Some(Arc::new(name, GFP_KERNEL)?))
}

impl Options {
    /// Takes one option. Returns `false` if there is no such option.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<bool> {
        let alias = ALIASES.iter().find(|(name, _)| *name == key);
        let key = alias.map_or(key, |(_, name)| name);
        if let Some(&(_, flags, set)) = FLAGS.iter().find(|(name, ..)| *name == key) {
            let on = match value {
                None => true,
                Some(value) if matches!(key, "barrier" | "auto_da_alloc") => number(value)? > 0,
                Some(_) => return Err(EINVAL),
            };
            self.set_flags(flags, set == on);
            return Ok(true);
        }
        match (key, value) {
            ("init_itable", value) => {
                self.set_flags(ZERO_ITABLE, true);
                self.init_itable = Some(value.map_or(Ok(INIT_ITABLE_DEFAULT), number)?);
            }
            ("inlinecrypt", None) => self.inlinecrypt = true,
            (key, None) if REMOVED.contains(&key) => {}
            ("inlinecrypt", _) => return Err(EINVAL),
            (key, Some(_)) if REMOVED.contains(&key) => return Err(EINVAL),
            (key, Some(value)) if VALUED.contains(&key) => self.set_value(key, value)?,
            (key, None) if VALUED.contains(&key) => return Err(EINVAL),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_value(&mut self, key: &str, value: &str) -> Result {
        match key {
            "errors" => {
                self.on_error = Some(match value {
                    "continue" => OnError::Continue,
                    "remount-ro" => OnError::ReadOnly,
                    "panic" => OnError::Panic,
                    _ => return Err(EINVAL),
                })
            }
            "inode_readahead_blks" => {
                let blocks = number(value)?;
                if blocks > INODE_READAHEAD_MAX || !(blocks == 0 || blocks.is_power_of_two()) {
                    return Err(EINVAL);
                }
                self.inode_readahead = Some(blocks);
            }
            "sb" => self.sb = Some(number(value)?.into()),
            "commit" => {
                self.commit = Some(match number(value)? {
                    0 => COMMIT_DEFAULT,
                    secs @ ..=COMMIT_MAX => secs,
                    _ => return Err(EINVAL),
                })
            }
            "min_batch_time" => self.min_batch_time = Some(number(value)?),
            "max_batch_time" => self.max_batch_time = Some(number(value)?),
            "stripe" => self.stripe = Some(number(value)?),
            "resuid" => self.resuid = Some(number(value)?),
            "resgid" => self.resgid = Some(number(value)?),
            "max_dir_size_kb" => self.max_dir_size_kb = Some(number(value)?),
            "debug_want_extra_isize" => match number(value)? {
                size if size >= 4 && size % 2 == 0 => self.extra_isize = Some(size),
                _ => return Err(EINVAL),
            },
            "journal_ioprio" => {
                if number(value)? > 7 {
                    return Err(EINVAL);
                }
            }
            "journal_dev" => {
                number(value)?;
                self.journal_dev = true;
            }
            "journal_path" => self.journal_dev = true,
            "data" => {
                self.data = Some(match value {
                    "journal" => Data::Journal,
                    "ordered" => Data::Ordered,
                    "writeback" => Data::Writeback,
                    _ => return Err(EINVAL),
                })
            }
            "data_err" => {
                self.data_err_abort = Some(word(value, &["abort", "ignore"])? == "abort");
            }
            "mb_optimize_scan" => {
                self.mb_optimize_scan = Some(word(value, &["0", "1"])? == "1");
            }
            "usrjquota" => self.quota_files[0] = Some(quota_file(value)?),
            "grpjquota" => self.quota_files[1] = Some(quota_file(value)?),
            "jqfmt" => self.jqfmt = Some(word(value, &["vfsold", "vfsv0", "vfsv1"])?),
            // There is no direct access to persistent memory, as on devices that have none in ext4.
            "dax" => self.dax = Some(word(value, &["inode", "never"])?),
            "journal" => {
                number(value)?;
            }
            "check" => {}
            // test_dummy_encryption, which makes new files encrypted.
            _ => return Err(EINVAL),
        }
        Ok(())
    }

    fn set_flags(&mut self, flags: u32, on: bool) {
        self.named |= flags;
        if on {
            self.flags |= flags;
            self.explicit |= flags;
        } else {
            self.flags &= !flags;
            self.explicit &= !flags;
        }
    }

    fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    /// Where the superblock is, in KiB.
    pub fn sb(&self) -> u64 {
        self.sb.unwrap_or(SUPER_KIB)
    }

    /// Whether contents would have to go through the journal.
    pub(crate) fn journals_data(&self) -> bool {
        self.data == Some(Data::Journal)
    }

    /// Switches `discard` off.
    pub(crate) fn end_discard(&mut self) {
        self.flags &= !DISCARD;
    }

    /// Whether to mount although the journal holds changes that were not written back.
    pub fn norecovery(&self) -> bool {
        self.has(NORECOVERY)
    }

    /// After how many seconds changes are committed though nobody waits for them.
    pub fn commit_interval(&self) -> u32 {
        self.commit.unwrap_or(COMMIT_DEFAULT)
    }

    /// What to do when the volume is found to be damaged; the superblock says, if `None`.
    pub fn on_error(&self) -> Option<OnError> {
        self.on_error
    }

    /// The flags, for those who look at one often.
    pub fn flags(&self) -> Flags {
        Flags(self.flags)
    }

    /// The user and the group that may use the blocks which are kept for those with privilege.
    pub fn reserve_owner(&self, sb: &SuperBlock) -> (u32, u32) {
        (
            self.resuid.unwrap_or(sb.reserved_uid),
            self.resgid.unwrap_or(sb.reserved_gid),
        )
    }

    /// How many blocks of an inode table are read when one is wanted.
    pub fn inode_readahead(&self) -> u32 {
        self.inode_readahead.unwrap_or(INODE_READAHEAD_DEFAULT)
    }

    /// The options that the superblock has as bits.
    fn of_bits(sb: &SuperBlock) -> Self {
        let bits = sb.default_mount_opts;
        let mut flags =
            ZERO_ITABLE | USER_XATTR | ACL | BLOCK_VALIDITY | DIOREAD_NOLOCK | BARRIER | DELALLOC;
        for (bit, flag) in [
            (0x1, DEBUG),
            (0x2, GRPID),
            (0x10, NO_UID32),
            (0x400, DISCARD),
        ] {
            if bits & bit != 0 {
                flags |= flag;
            }
        }
        for (bit, flag) in [(0x100, BARRIER), (0x800, DELALLOC)] {
            if bits & bit != 0 {
                flags &= !flag;
            }
        }
        if sb.geo.has_ro_compat(RoCompat::METADATA_CSUM) {
            flags |= JOURNAL_CHECKSUM;
        }
        Self {
            flags,
            named: !0,
            data: match bits & 0x60 {
                0x20 => Some(Data::Journal),
                0x40 => Some(Data::Ordered),
                0x60 => Some(Data::Writeback),
                _ => None,
            },
            ..Self::default()
        }
    }

    /// The options that the superblock has as a string.
    fn of_string(text: &[u8]) -> Result<Self> {
        let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
        let mut options = Self::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = match option.split_once('=') {
                Some(("", _)) => continue,
                Some((key, value)) => (key, Some(value)),
                None => (option, None),
            };
            if !options.set(key, value)? {
                return Err(EINVAL);
            }
        }
        // It was needed to find the string.
        options.sb = None;
        Ok(options)
    }

    /// Whether the options go together, and with the volume and the layers below; else says why
    /// not.
    fn check(&mut self, below: &Self, sb: &SuperBlock) -> core::result::Result<(), &'static str> {
        if self.extra_isize.unwrap_or(0) > u32::from(sb.geo.inode_size()) - 128 {
            return Err("debug_want_extra_isize is larger than the room in an inode");
        }
        if self.has(PRJQUOTA) && !sb.geo.has_ro_compat(RoCompat::PROJECT) {
            return Err("prjquota on a volume without the feature project");
        }
        if sb.geo.has_ro_compat(RoCompat::QUOTA) {
            // The volume itself knows where quotas are.
            self.quota_files = [None, None];
            self.jqfmt = None;
            return Ok(());
        }
        let file = |n: usize| {
            let file = self.quota_files[n].as_ref();
            file.or(below.quota_files[n].as_ref())
                .is_some_and(Option::is_some)
        };
        let files = [file(0), file(1)];
        let mut quotas = self.flags | below.flags & !self.named;
        for (file, flag) in files.into_iter().zip([USRQUOTA, GRPQUOTA]) {
            if file {
                self.named |= flag;
                self.flags &= !flag;
                quotas &= !flag;
            }
        }
        if files != [false, false] {
            if quotas & (USRQUOTA | GRPQUOTA) != 0 {
                return Err("usrquota and grpquota do not go with usrjquota= and grpjquota=");
            }
            if self.jqfmt.or(below.jqfmt).is_none() {
                return Err("usrjquota= and grpjquota= want jqfmt=");
            }
        }
        Ok(())
    }

    /// Lays `over` above these options.
    fn cover(&mut self, over: &Self) {
        self.flags = self.flags & !over.named | over.flags & over.named;
        self.explicit = over.explicit;
        self.on_error = over.on_error.or(self.on_error);
        self.inode_readahead = over.inode_readahead.or(self.inode_readahead);
        self.sb = over.sb.or(self.sb);
        self.data = over.data.or(self.data);
        self.data_err_abort = over.data_err_abort.or(self.data_err_abort);
        self.commit = over.commit.or(self.commit);
        self.min_batch_time = over.min_batch_time.or(self.min_batch_time);
        self.max_batch_time = over.max_batch_time.or(self.max_batch_time);
        self.stripe = over.stripe.or(self.stripe);
        self.resuid = over.resuid.or(self.resuid);
        self.resgid = over.resgid.or(self.resgid);
        self.init_itable = over.init_itable.or(self.init_itable);
        self.max_dir_size_kb = over.max_dir_size_kb.or(self.max_dir_size_kb);
        self.journal_dev |= over.journal_dev;
        self.inlinecrypt |= over.inlinecrypt;
        self.dax = over.dax.or(self.dax);
        self.mb_optimize_scan = over.mb_optimize_scan.or(self.mb_optimize_scan);
        self.jqfmt = over.jqfmt.or(self.jqfmt);
        for (file, over) in self.quota_files.iter_mut().zip(&over.quota_files) {
            if let Some(over) = over {
                if over.is_some() {
                    self.flags |= QUOTA;
                }
                *file = Some(over.clone());
            }
        }
    }

    /// The stripe that ext4 would allocate by: that of the options, or else the superblock's.
    fn stripe(&self, sb: &SuperBlock) -> u32 {
        let fits =
            |blocks: &u32| *blocks > 0 && u64::from(*blocks) <= sb.geo.blocks_per_group().get();
        let given = self.stripe.filter(fits);
        let stripe = given
            .or(Some(sb.raid_stripe_width).filter(fits))
            .or(Some(sb.raid_stride.into()).filter(fits));
        match stripe {
            Some(blocks @ 2..) if blocks & (sb.geo.cluster_blocks() - 1) == 0 => blocks,
            _ => 0,
        }
    }
}
