// SPDX-License-Identifier: GPL-2.0

//! [`Permitted`]: a layer that asks what credentials permit.

use crate::asynchronous::{AsyncStackable, Ino, Layer};
use crate::forward;
use core::ops::Range;
use disk::gfp;
use kernel::cred::Credential;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use upcall::{Block, Blocks};
use vfs::permission::{is_admin, permitted, Access};
use vfs::DirBatch;

/// Does what credentials permit, as the VFS would: by mode bits, access control lists and capabilities.
///
/// Finding a name needs the right to execute the directory, listing it and reading a file, a `user.` or a `gnu.` attribute the
/// right to read, and `trusted.` attributes `CAP_SYS_ADMIN`, without which they are not listed. Every operation asks anew:
/// there is no open file that once was permitted. What is refused fails with `EACCES`.
pub struct Permitted<L> {
    below: L,
    credentials: ARef<Credential>,
}

impl<L: AsyncStackable> Permitted<L> {
    /// Makes the layer on `below`, for somebody with these credentials: those of a
    /// [`File`](kernel::fs::File), or of the calling thread
    /// ([`current_credentials`](vfs::permission::current_credentials)).
    pub fn new(below: L, credentials: ARef<Credential>) -> Self {
        Self { below, credentials }
    }

    /// The layer below.
    pub fn below(&self) -> &L {
        &self.below
    }

    /// Fails with `EACCES` if the credentials do not permit `access` to `ino`.
    pub async fn check(&self, ino: Ino, access: Access) -> Result {
        let attr = self.below.stat(ino).await?;
        let acl = if attr.no_xattr {
            None
        } else {
            self.below.acl(ino, false).await?
        };
        permitted(&self.credentials, &attr, acl.as_deref(), access)
    }
}

impl<L: Layer> Layer for Permitted<L> {
    type Kind = L::Kind;
}

impl<L: AsyncStackable> AsyncStackable for Permitted<L> {
    forward!(self, self.below; root, stat, readlink, acl, statfs);

    async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        self.check(dir, Access::EXECUTE).await?;
        self.below.lookup(dir, name).await
    }

    async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
        self.check(ino, Access::READ).await?;
        self.below.read(ino, offset, block).await
    }

    async fn read_at(&self, ino: Ino, range: Range<u64>, blocks: &mut Blocks) -> Result<usize> {
        self.check(ino, Access::READ).await?;
        self.below.read_at(ino, range, blocks).await
    }

    async fn read_dir(&self, dir: Ino, pos: u64, batch: &mut DirBatch) -> Result {
        self.check(dir, Access::READ).await?;
        self.below.read_dir(dir, pos, batch).await
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<KVec<u8>> {
        if name.starts_with(b"trusted.") && !is_admin(&self.credentials) {
            return Err(ENODATA);
        }
        if name.starts_with(b"user.") || name.starts_with(b"gnu.") {
            self.check(ino, Access::READ).await?;
        }
        self.below.getxattr(ino, name).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<KVec<u8>> {
        let all = self.below.listxattr(ino).await?;
        if is_admin(&self.credentials) {
            return Ok(all);
        }
        let mut names = KVec::new();
        for name in all.split_inclusive(|&byte| byte == 0) {
            if !name.starts_with(b"trusted.") {
                names.extend_from_slice(name, gfp())?;
            }
        }
        Ok(names)
    }
}
