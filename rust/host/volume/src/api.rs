// SPDX-License-Identifier: GPL-2.0

//! A volume for Rust callers.

use crate::vfs_ops::Mounted;
use aext4::{Ext4, InodeRef};
use disk::gfp;
use kernel::prelude::*;
use kernel::sync::Arc;
use layout::Ino as Number;
use stack::Ino;
use vfs::MountRef;

/// A mounted volume.
pub struct Volume(pub(crate) Arc<MountRef<Mounted>>);

impl Volume {
    /// The Rust API of a volume. Fails with `ENOMEM`.
    pub fn new(volume: Arc<Ext4>) -> Result<Self> {
        Ok(Self(Arc::new(MountRef::new(Mounted(volume)), gfp())?))
    }

    /// The volume itself.
    pub fn ext4(&self) -> &Arc<Ext4> {
        let mounted: &Mounted = &self.0;
        &mounted.0
    }

    pub(crate) async fn iget(&self, ino: Ino) -> Result<InodeRef> {
        self.0.iget_user(Number(ino.0)).await
    }
}
