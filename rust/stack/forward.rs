// SPDX-License-Identifier: GPL-2.0

//! What a layer does not change goes to the layer below.

/// Operations of [`AsyncStackable`](crate::AsyncStackable) that what is below does: the future is
/// the one from there, so that the layer costs nothing.
///
/// Goes into the `impl` block: `self`, what is below, and the names of the operations. Those that
/// change something are `change`, `write_bytes`, `write`, `write_at`, `make_durable`, `open` and
/// `tmpfile`; a layer that has not got them is read-only, and without `write` and `write_at` pages
/// are copied.
///
/// ```
/// # use kernel::prelude::*;
/// # use stack::{forward, AsyncStackable, Ino, Layer};
/// # use upcall::Block;
/// /// Files in capitals.
/// struct Capitals<L>(L);
///
/// impl<L: Layer> Layer for Capitals<L> {
///     type Kind = L::Kind;
/// }
///
/// impl<L: AsyncStackable> AsyncStackable for Capitals<L> {
///     forward!(self, self.0; root, lookup, stat, readlink, read_dir, getxattr, listxattr, acl, statfs);
///
///     async fn read(&self, ino: Ino, offset: u64, block: &mut Block) -> Result<usize> {
///         let count = self.0.read(ino, offset, block).await?;
///         block.as_mut_slice().make_ascii_uppercase();
///         Ok(count)
///     }
/// }
/// ```
#[macro_export]
macro_rules! forward {
    ($this:ident, $below:expr; $($op:ident),* $(,)?) => {
        $($crate::forward!(@$op $this $below);)*
    };
    (@root $this:ident $below:expr) => {
        fn root(&$this) -> $crate::Ino {
            $below.root()
        }
    };
    (@lookup $this:ident $below:expr) => {
        fn lookup(&$this, dir: $crate::Ino, name: &[u8]) -> impl ::core::future::Future<Output = ::kernel::error::Result<$crate::Ino>> + Send {
            $below.lookup(dir, name)
        }
    };
    (@stat $this:ident $below:expr) => {
        fn stat(&$this, ino: $crate::Ino) -> impl ::core::future::Future<Output = ::kernel::error::Result<::vfs::Attr>> + Send {
            $below.stat(ino)
        }
    };
    (@read $this:ident $below:expr) => {
        fn read(
            &$this,
            ino: $crate::Ino,
            offset: u64,
            block: &mut ::upcall::Block,
        ) -> impl ::core::future::Future<Output = ::kernel::error::Result<usize>> + Send {
            $below.read(ino, offset, block)
        }
    };
    (@read_at $this:ident $below:expr) => {
        fn read_at(
            &$this,
            ino: $crate::Ino,
            range: ::core::ops::Range<u64>,
            blocks: &mut ::upcall::Blocks,
        ) -> impl ::core::future::Future<Output = ::kernel::error::Result<usize>> + Send {
            $below.read_at(ino, range, blocks)
        }
    };
    (@readlink $this:ident $below:expr) => {
        fn readlink(&$this, ino: $crate::Ino) -> impl ::core::future::Future<Output = ::kernel::error::Result<::kernel::alloc::KVec<u8>>> + Send {
            $below.readlink(ino)
        }
    };
    (@read_dir $this:ident $below:expr) => {
        fn read_dir(
            &$this,
            dir: $crate::Ino,
            pos: u64,
            batch: &mut ::vfs::DirBatch,
        ) -> impl ::core::future::Future<Output = ::kernel::error::Result> + Send {
            $below.read_dir(dir, pos, batch)
        }
    };
    (@getxattr $this:ident $below:expr) => {
        fn getxattr(
            &$this,
            ino: $crate::Ino,
            name: &[u8],
        ) -> impl ::core::future::Future<Output = ::kernel::error::Result<::kernel::alloc::KVec<u8>>> + Send {
            $below.getxattr(ino, name)
        }
    };
    (@listxattr $this:ident $below:expr) => {
        fn listxattr(&$this, ino: $crate::Ino) -> impl ::core::future::Future<Output = ::kernel::error::Result<::kernel::alloc::KVec<u8>>> + Send {
            $below.listxattr(ino)
        }
    };
    (@acl $this:ident $below:expr) => {
        fn acl(
            &$this,
            ino: $crate::Ino,
            default: bool,
        ) -> impl ::core::future::Future<Output = ::kernel::error::Result<::core::option::Option<::kernel::alloc::KVec<::vfs::AclEntry>>>> + Send {
            $below.acl(ino, default)
        }
    };
    (@change $this:ident $below:expr) => {
        fn change(&$this, change: $crate::Change<'_>) -> impl ::core::future::Future<Output = ::kernel::error::Result<$crate::Ino>> + Send {
            $below.change(change)
        }
    };
    (@write_bytes $this:ident $below:expr) => {
        fn write_bytes(
            &$this,
            ino: $crate::Ino,
            pos: ::core::option::Option<u64>,
            bytes: &[u8],
        ) -> impl ::core::future::Future<Output = ::kernel::error::Result<(u64, usize)>> + Send {
            $below.write_bytes(ino, pos, bytes)
        }
    };
    (@write $this:ident $below:expr) => {
        fn write(
            &$this,
            ino: $crate::Ino,
            offset: u64,
            block: &mut ::upcall::Block,
        ) -> impl ::core::future::Future<Output = ::kernel::error::Result<usize>> + Send {
            $below.write(ino, offset, block)
        }
    };
    (@write_at $this:ident $below:expr) => {
        fn write_at(
            &$this,
            ino: $crate::Ino,
            range: ::core::ops::Range<u64>,
            blocks: &mut ::upcall::Blocks,
        ) -> impl ::core::future::Future<Output = ::kernel::error::Result<usize>> + Send {
            $below.write_at(ino, range, blocks)
        }
    };
    (@make_durable $this:ident $below:expr) => {
        fn make_durable(&$this, what: $crate::Sync) -> impl ::core::future::Future<Output = ::kernel::error::Result> + Send {
            $below.make_durable(what)
        }
    };
    (@open $this:ident $below:expr) => {
        fn open(&$this, ino: $crate::Ino) -> impl ::core::future::Future<Output = ::kernel::error::Result<$crate::OpenInode>> + Send {
            $below.open(ino)
        }
    };
    (@tmpfile $this:ident $below:expr) => {
        fn tmpfile(
            &$this,
            dir: $crate::Ino,
            new: &::vfs::NewInode,
        ) -> impl ::core::future::Future<Output = ::kernel::error::Result<$crate::OpenInode>> + Send {
            $below.tmpfile(dir, new)
        }
    };
    (@statfs $this:ident $below:expr) => {
        fn statfs(&$this) -> impl ::core::future::Future<Output = ::kernel::error::Result<::vfs::StatFs>> + Send {
            $below.statfs()
        }
    };
}
