// SPDX-License-Identifier: GPL-2.0

//! What a layer does not change goes to the layer below.

/// Operations of [`AsyncStackable`](crate::AsyncStackable) that what is below does: the future is the one from there, so
/// that the layer costs nothing.
macro_rules! forward {
    ($this:ident, $below:expr; $($op:ident),*) => {
        $(forward!(@$op $this $below);)*
    };
    (@root $this:ident $below:expr) => {
        fn root(&$this) -> Ino {
            $below.root()
        }
    };
    (@lookup $this:ident $below:expr) => {
        fn lookup(&$this, dir: Ino, name: &[u8]) -> impl Future<Output = Result<Ino>> + Send {
            $below.lookup(dir, name)
        }
    };
    (@stat $this:ident $below:expr) => {
        fn stat(&$this, ino: Ino) -> impl Future<Output = Result<Attr>> + Send {
            $below.stat(ino)
        }
    };
    (@read $this:ident $below:expr) => {
        fn read(
            &$this,
            ino: Ino,
            offset: u64,
            block: &mut Block,
        ) -> impl Future<Output = Result<usize>> + Send {
            $below.read(ino, offset, block)
        }
    };
    (@read_at $this:ident $below:expr) => {
        fn read_at(
            &$this,
            ino: Ino,
            range: Range<u64>,
            blocks: &mut Blocks,
        ) -> impl Future<Output = Result<usize>> + Send {
            $below.read_at(ino, range, blocks)
        }
    };
    (@readlink $this:ident $below:expr) => {
        fn readlink(&$this, ino: Ino) -> impl Future<Output = Result<KVec<u8>>> + Send {
            $below.readlink(ino)
        }
    };
    (@read_dir $this:ident $below:expr) => {
        fn read_dir(
            &$this,
            dir: Ino,
            pos: u64,
            batch: &mut DirBatch,
        ) -> impl Future<Output = Result> + Send {
            $below.read_dir(dir, pos, batch)
        }
    };
    (@getxattr $this:ident $below:expr) => {
        fn getxattr(
            &$this,
            ino: Ino,
            name: &[u8],
        ) -> impl Future<Output = Result<KVec<u8>>> + Send {
            $below.getxattr(ino, name)
        }
    };
    (@listxattr $this:ident $below:expr) => {
        fn listxattr(&$this, ino: Ino) -> impl Future<Output = Result<KVec<u8>>> + Send {
            $below.listxattr(ino)
        }
    };
    (@acl $this:ident $below:expr) => {
        fn acl(
            &$this,
            ino: Ino,
            default: bool,
        ) -> impl Future<Output = Result<Option<KVec<AclEntry>>>> + Send {
            $below.acl(ino, default)
        }
    };
    (@statfs $this:ident $below:expr) => {
        fn statfs(&$this) -> impl Future<Output = Result<StatFs>> + Send {
            $below.statfs()
        }
    };
}
pub(crate) use forward;
