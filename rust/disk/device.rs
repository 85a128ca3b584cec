// SPDX-License-Identifier: GPL-2.0

//! [`Disk`]: the device below a volume, and what is logged about it.

use crate::sys;
use crate::time::Now;
use kernel::prelude::*;
use upcall::{Block, Device, Spawner};

/// The device below a volume, and its name.
///
/// Requests, and everything that is spawned for the volume, belong to the scope of `spawner`, which
/// ends before the device is closed.
pub struct Disk {
    device: Device,
    spawner: Spawner,
    label: Label,
    limit: sys::RateLimit,
}

impl Disk {
    /// Makes the disk of a volume on `device`, whose log lines begin with `label`.
    pub fn new(device: Device, spawner: Spawner, label: Label) -> Self {
        Self {
            device,
            spawner,
            label,
            limit: sys::RateLimit::new(),
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

    /// The size of the device in bytes; 0 once the scope of the volume is over.
    pub fn size(&self) -> u64 {
        self.device.size().unwrap_or(0)
    }

    /// The smallest unit that the device reads, in bytes.
    pub fn logical_block_size(&self) -> u32 {
        self.device.logical_block_size()
    }

    /// Reads bytes `pos` to `pos + len`, which lie in one aligned page of the device, past every
    /// cache. For the superblock, from which the block size is known.
    ///
    /// Fails with `EIO`, `ENOMEM`, and with `EINVAL` if the range crosses a page.
    ///
    /// # Cancellation
    ///
    /// Dropping the future lets the read finish alone.
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

    /// The time of day for what is written to files: as exact as a timer tick, but not before any
    /// time that a file was given, which may be finer. Any context.
    pub fn now(&self) -> Now {
        let (secs, nanos) = sys::file_time(&self.device);
        Now { secs, nanos }
    }

    /// Whether nothing can be written to the device.
    pub fn is_read_only(&self) -> bool {
        sys::read_only(&self.device)
    }

    /// How many sectors of 512 bytes were written to the device since it is there, by whomever. Any
    /// context.
    pub fn sectors_written(&self) -> u64 {
        sys::sectors_written(&self.device)
    }

    /// What a discard should be a multiple of, in bytes; `None` if the device cannot discard.
    pub fn discard_granularity(&self) -> Option<u32> {
        Some(sys::discard_granularity(&self.device)).filter(|&bytes| bytes > 0)
    }

    /// Changes bytes `pos` to `pos + len`, which lie in one aligned page of the device, and waits
    /// until they are on stable media. For the superblock, which programs read and write on a
    /// mounted volume: `change` sees what they wrote, and they see what it does.
    ///
    /// Fails with the errors of the block layer, with `ENOMEM`, and with `ESHUTDOWN` once the scope
    /// of the volume is over.
    ///
    /// # Cancellation
    ///
    /// Dropping the future lets the change go on alone.
    pub async fn edit_raw(
        &self,
        pos: u64,
        len: usize,
        change: impl FnOnce(&mut [u8]) + Send + 'static,
    ) -> Result {
        let device = self.device.clone();
        let edit = self.spawner.spawn_blocking(move || {
            let mut change = Some(change);
            sys::edit_raw(&device, pos, len, &mut |bytes| {
                if let Some(change) = change.take() {
                    change(bytes);
                }
            })
        })?;
        edit.await?
    }

    /// Writes one line to the kernel log, with the names of file system and device before it.
    ///
    /// Any context.
    pub fn log(&self, level: Level, args: core::fmt::Arguments<'_>) {
        self.label.log(level, args);
    }

    /// As [`log`](Self::log), but for what may come again and again: at most ten lines in five
    /// seconds.
    pub fn log_limited(&self, level: Level, args: core::fmt::Arguments<'_>) {
        if self.limit.permits(&self.label.0) {
            self.label.log(level, args);
        }
    }

    /// Lets others run, in a long loop that may not wait for anything: other upcalls on a worker,
    /// other threads elsewhere. Fails with `EINTR` if the calling thread was killed.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub async fn checkpoint(&self) -> Result {
        if upcall::on_worker() {
            upcall::yield_now().await;
            return Ok(());
        }
        if sys::interrupted() {
            return Err(EINTR);
        }
        Ok(())
    }

    /// Stops the machine, for `errors=panic`.
    pub fn panic(&self) {
        sys::panic(&self.label.0);
    }
}

/// What log lines about a volume begin with: `aext4 (vda)`, cut to fit, with a zero at the end.
pub struct Label([u8; 48]);

impl Label {
    /// Makes the label of file system `fs` on `device`.
    pub fn new(fs: &CStr, device: &[u8]) -> Self {
        let mut label = [0; 48];
        let parts = [fs.to_bytes(), b" (", device, b")"];
        let bytes = parts.iter().flat_map(|part| part.iter());
        let room = label.len() - 1;
        for (to, from) in label.iter_mut().take(room).zip(bytes) {
            *to = *from;
        }
        Self(label)
    }

    /// Writes one line to the kernel log, with the label before it. Any context.
    pub fn log(&self, level: Level, args: core::fmt::Arguments<'_>) {
        sys::print(level, &self.0, args);
    }
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something is wrong with the volume or the device.
    Error,
    /// Something is unusual.
    Warning,
    /// For information.
    Info,
}
