// SPDX-License-Identifier: GPL-2.0

//! A layer that wants to be of both kinds.
//!
//! Expected: type mismatch resolving `<Both as Layer>::Kind == Synchronous`

#![allow(missing_docs)]

use kernel::prelude::*;
use stack::{AsyncStackable, Asynchronous, Ino, Layer, Stackable};
use upcall::Block;
use vfs::{AclEntry, Attr, DirBatch, StatFs};

struct Both;

impl Layer for Both {
    type Kind = Asynchronous;
}

impl AsyncStackable for Both {
    fn root(&self) -> Ino {
        Ino(1)
    }

    async fn lookup(&self, _: Ino, _: &[u8]) -> Result<Ino> {
        Err(ENOENT)
    }

    async fn stat(&self, _: Ino) -> Result<Attr> {
        Err(ENOENT)
    }

    async fn read(&self, _: Ino, _: u64, _: &mut Block) -> Result<usize> {
        Err(ENOENT)
    }

    async fn readlink(&self, _: Ino) -> Result<KVec<u8>> {
        Err(ENOENT)
    }

    async fn read_dir(&self, _: Ino, _: u64, _: &mut DirBatch) -> Result {
        Err(ENOENT)
    }

    async fn getxattr(&self, _: Ino, _: &[u8]) -> Result<KVec<u8>> {
        Err(ENOENT)
    }

    async fn listxattr(&self, _: Ino) -> Result<KVec<u8>> {
        Err(ENOENT)
    }

    async fn acl(&self, _: Ino, _: bool) -> Result<Option<KVec<AclEntry>>> {
        Err(ENOENT)
    }

    async fn statfs(&self) -> Result<StatFs> {
        Err(ENOENT)
    }
}

impl Stackable for Both {
    fn root(&self) -> Ino {
        Ino(1)
    }

    fn lookup(&self, _: Ino, _: &[u8]) -> Result<Ino> {
        Err(ENOENT)
    }

    fn stat(&self, _: Ino) -> Result<Attr> {
        Err(ENOENT)
    }

    fn read(&self, _: Ino, _: u64, _: &mut Block) -> Result<usize> {
        Err(ENOENT)
    }

    fn readlink(&self, _: Ino) -> Result<KVec<u8>> {
        Err(ENOENT)
    }

    fn read_dir(&self, _: Ino, _: u64, _: &mut DirBatch) -> Result {
        Err(ENOENT)
    }

    fn getxattr(&self, _: Ino, _: &[u8]) -> Result<KVec<u8>> {
        Err(ENOENT)
    }

    fn listxattr(&self, _: Ino) -> Result<KVec<u8>> {
        Err(ENOENT)
    }

    fn acl(&self, _: Ino, _: bool) -> Result<Option<KVec<AclEntry>>> {
        Err(ENOENT)
    }

    fn statfs(&self) -> Result<StatFs> {
        Err(ENOENT)
    }
}
