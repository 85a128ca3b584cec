// SPDX-License-Identifier: GPL-2.0

//! The device below a volume.

use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::types::Opaque;
use upcall::{Block, Device, Scope, Spawner};
use upcall_bindings as ub;

/// The device below a volume: its bytes, its buffer cache and its name.
///
/// Requests, and everything that is spawned for the volume, belong to its scope, which ends before
/// the device is closed.
pub struct Disk {
    sb: NonNull<ub::super_block>,
    bdev: NonNull<ub::block_device>,
    device: Device,
    spawner: Spawner,
    block_size: u32,
    label: Label,
    limit: Opaque<ub::ratelimit_state>,
}

// SAFETY: A block device may be used from any thread.
unsafe impl Send for Disk {}
// SAFETY: As above.
unsafe impl Sync for Disk {}

impl Disk {
    /// Makes the disk below `sb`. Fails with `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `sb` is a superblock with a block device, which stays open until `scope` is over.
    pub(crate) unsafe fn new(sb: *mut ub::super_block, scope: &Scope, fs: &'static CStr) -> Result<Self> {
        // SAFETY: By the function's contract.
        unsafe {
            let bdev = NonNull::new_unchecked((*sb).s_bdev);
            // Not locked yet, so it may be moved.
            let limit = Opaque::uninit();
            ub::upcall_ratelimit_init(limit.get());
            let name = CStr::from_char_ptr((&raw const (*sb).s_id).cast());
            Ok(Self {
                sb: NonNull::new_unchecked(sb),
                bdev,
                device: Device::new(bdev.cast(), scope)?,
                spawner: scope.spawner(),
                block_size: (*sb).s_blocksize as u32,
                label: Label::new(fs, name.to_bytes()),
                limit,
            })
        }
    }

    /// The device, for requests.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What spawns into the volume's scope.
    pub fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// The size of the device in bytes.
    pub fn size(&self) -> u64 {
        // SAFETY: The device is open.
        unsafe { (*self.bdev.as_ptr()).bd_nr_sectors << 9 }
    }

    /// The smallest unit that the device reads, in bytes.
    pub fn logical_block_size(&self) -> u32 {
        self.device.logical_block_size()
    }

    /// The size of the blocks that [`buffer`](Self::buffer) reads, in bytes.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Sets the size of the blocks that [`buffer`](Self::buffer) reads, while the volume is mounted.
    ///
    /// Fails with `EINVAL` if the device cannot have blocks of `size` bytes. May sleep.
    pub fn set_block_size(&mut self, size: u32) -> Result {
        // SAFETY: The superblock is being mounted, by us alone.
        if unsafe { ub::sb_set_blocksize(self.sb.as_ptr(), size as i32) } == 0 {
            return Err(EINVAL);
        }
        self.block_size = size;
        Ok(())
    }

    pub(crate) fn bdev(&self) -> NonNull<ub::block_device> {
        self.bdev
    }

    /// Reads bytes `pos` to `pos + len`, which lie in one aligned page of the device, past the
    /// buffer cache. For the superblock, from which the block size is known.
    ///
    /// Fails with `EIO`, `ENOMEM`, and with `EINVAL` if the range crosses a page.
    pub async fn read_raw(&self, pos: u64, len: usize, each: impl FnOnce(&[u8])) -> Result {
        let page = Block::SIZE as u64;
        let base = pos - pos % page;
        let offset = (pos % page) as usize;
        let whole = Block::SIZE.min(self.size().saturating_sub(base) as usize);
        let mut block = Block::vacant();
        block.read(&self.device, base, 0, whole).await?;
        let end = offset.checked_add(len).filter(|&end| end <= whole);
        each(
            end.and_then(|end| block.as_slice().get(offset..end))
                .ok_or(EINVAL)?,
        );
        Ok(())
    }

    /// Writes one line to the kernel log, with the names of file system and device before it.
    ///
    /// Any context.
    pub fn log(&self, level: Level, args: core::fmt::Arguments<'_>) {
        self.label.log(level, args);
    }

    /// As [`log`](Self::log), but for what may come again and again: at most ten lines in five seconds.
    pub fn log_limited(&self, level: Level, args: core::fmt::Arguments<'_>) {
        // SAFETY: The state was initialised, and the string ends with a zero.
        if unsafe { ub::upcall_ratelimit(self.limit.get(), self.label.0.as_ptr()) } {
            self.label.log(level, args);
        }
    }

    /// Lets others run, in a long loop that may not wait for anything: other upcalls on a worker,
    /// other threads elsewhere. Fails with `EINTR` if the calling thread was killed.
    pub async fn checkpoint(&self) -> Result {
        if upcall::on_worker() {
            upcall::yield_now().await;
            return Ok(());
        }
        // SAFETY: Process context, as for every poll outside of a worker.
        if unsafe { ub::upcall_interrupted() } {
            return Err(EINTR);
        }
        Ok(())
    }

    /// Stops the machine, for `errors=panic`.
    pub fn panic(&self) {
        // SAFETY: The string ends with a zero.
        unsafe { ub::upcall_panic(self.label.0.as_ptr().cast()) }
    }
}

/// What log lines about a volume begin with: `aext4 (vda)`, cut to fit, with a zero at the end.
pub(crate) struct Label([u8; 48]);

impl Label {
    pub(crate) fn new(fs: &CStr, device: &[u8]) -> Self {
        let mut label = [0; 48];
        let parts = [fs.to_bytes(), b" (", device, b")"];
        let bytes = parts.iter().flat_map(|part| part.iter());
        let room = label.len() - 1;
        for (to, from) in label.iter_mut().take(room).zip(bytes) {
            *to = *from;
        }
        Self(label)
    }

    pub(crate) fn log(&self, level: Level, args: core::fmt::Arguments<'_>) {
        use kernel::print::{call_printk, format_strings as levels};
        let level = match level {
            Level::Error => &levels::ERR,
            Level::Warning => &levels::WARNING,
            Level::Info => &levels::INFO,
        };
        // SAFETY: The formats are the kernel crate's, and the label ends with a zero.
        unsafe { call_printk(level, &self.0, format_args!("{args}\n")) }
    }
}

/// How important a log line is.
#[derive(Clone, Copy)]
pub enum Level {
    /// Something is wrong with the volume or the device.
    Error,
    /// Something is unusual.
    Warning,
    /// For information.
    Info,
}
