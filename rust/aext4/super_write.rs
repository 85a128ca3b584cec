// SPDX-License-Identifier: GPL-2.0

//! [`SuperWrite`]: the superblock, written in place when no transaction may change it: to say that
//! the volume is in use, that it is not any more, or that it is recovered.
//!
//! The caller puts the block into the log first, if there is one
//! ([`doublewrite`](crate::journal::doublewrite)). Without a log, a loss of power may leave half of
//! it, which e2fsck repairs.

use crate::error::corrupted;
use disk::{Buf, Cache, Disk};
use kernel::prelude::*;
use layout::super_edit::SuperEdit;
use layout::superblock::SUPER_SIZE;
use layout::Geometry;

/// The block with the superblock, as it is to be.
pub(crate) struct SuperWrite {
    /// Which block of the volume it is.
    pub(crate) block: u64,
    /// Its content.
    pub(crate) buf: Buf,
    /// Where the superblock is on the device, and in the block.
    place: u64,
    offset: usize,
}

impl SuperWrite {
    /// Changes the superblock that the device has at byte `place`, in memory.
    ///
    /// Fails with the errors of the block layer, with `ENOMEM`, and with `EUCLEAN` if there is no
    /// superblock any more.
    pub(crate) async fn prepare(
        disk: &Disk,
        cache: &Cache,
        geo: &Geometry,
        place: u64,
        change: impl FnOnce(&mut SuperEdit<'_>),
    ) -> Result<Self> {
        let block = place >> geo.block_bits();
        let start = block << geo.block_bits();
        let offset = usize::try_from(place - start).map_err(|_| EINVAL)?;
        let mut draft = cache.draft().await?;
        let copy = |bytes: &[u8]| draft.data_mut().copy_from_slice(bytes);
        disk.read_raw(start, geo.block_size() as usize, copy)
            .await?;
        let raw = draft.data_mut().get_mut(offset..).unwrap_or(&mut []);
        let mut edit = SuperEdit::new(raw).ok_or_else(corrupted)?;
        change(&mut edit);
        edit.seal(geo.csum());
        Ok(Self {
            block,
            buf: draft.freeze(),
            place,
            offset,
        })
    }

    /// Writes it, and waits until it is on stable media. Fails with the errors of the block layer.
    ///
    /// # Cancellation
    ///
    /// Dropping the future lets the write go on alone.
    pub(crate) async fn write(self, disk: &Disk) -> Result {
        let Self { buf, offset, .. } = self;
        let copy = move |raw: &mut [u8]| {
            let from = buf
                .data()
                .get(offset..)
                .and_then(|from| from.get(..raw.len()));
            if let Some(from) = from {
                raw.copy_from_slice(from);
            }
        };
        disk.edit_raw(self.place, SUPER_SIZE, copy).await
    }
}
