// SPDX-License-Identifier: GPL-2.0

//! Walking a path, with symbolic links, as the VFS does.

use crate::asynchronous::{AsyncStackable, Ino};
use disk::gfp;
use kernel::prelude::*;
use vfs::FileType;

/// How many links one walk follows, as the VFS: `MAXSYMLINKS`.
pub const MAX_LINKS: u32 = 40;

/// How long a path, or the target of a link, may be in bytes: less than `PATH_MAX`.
pub const PATH_MAX: usize = 4096;

/// What is left to walk: the path, and on top of it the targets of links that are being followed.
///
/// Each with how many bytes of it were walked.
struct Rest<'a> {
    path: (&'a [u8], usize),
    links: KVec<(KVec<u8>, usize)>,
}

impl Rest<'_> {
    /// What of each is left.
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let links = self
            .links
            .iter()
            .map(|(target, at)| (target.as_slice(), *at));
        Iterator::chain(core::iter::once(self.path), links)
            .map(|(bytes, at)| bytes.get(at..).unwrap_or(&[]))
    }

    /// Takes the next component into `name`. Returns whether there is one.
    fn next(&mut self, name: &mut KVec<u8>) -> Result<bool> {
        name.clear();
        loop {
            let (bytes, at) = match self.links.last_mut() {
                Some((target, at)) => (target.as_slice(), at),
                None => (self.path.0, &mut self.path.1),
            };
            let rest = bytes.get(*at..).unwrap_or(&[]);
            let slashes = rest.iter().take_while(|&&byte| byte == b'/').count();
            let component = rest.split(|&byte| byte == b'/').nth(slashes).unwrap_or(&[]);
            *at += slashes + component.len();
            if component.len() > 255 {
                return Err(ENAMETOOLONG);
            }
            if !component.is_empty() {
                name.extend_from_slice(component, gfp())?;
                return Ok(true);
            }
            if self.links.pop().is_none() {
                return Ok(false);
            }
        }
    }

    /// Whether there is no component behind the one that was taken last.
    fn is_last(&self) -> bool {
        self.parts()
            .all(|rest| rest.iter().all(|&byte| byte == b'/'))
    }

    /// Whether something behind the one that was taken last, if but a slash, wants it to be a directory.
    fn wants_directory(&self) -> bool {
        self.parts().any(|rest| !rest.is_empty())
    }
}

/// Walks; see [`AsyncStackable::walk`]. A link at the end is followed if `follow`.
pub(crate) async fn walk<L: AsyncStackable + ?Sized>(
    layer: &L,
    dir: Ino,
    path: &[u8],
    follow: bool,
) -> Result<Ino> {
    if path.is_empty() {
        return Err(ENOENT);
    }
    if path.len() >= PATH_MAX {
        return Err(ENAMETOOLONG);
    }
    let mut at = if path.starts_with(b"/") {
        layer.root()
    } else {
        dir
    };
    let mut rest = Rest {
        path: (path, 0),
        links: KVec::new(),
    };
    let mut followed = 0;
    let mut name = KVec::new();
    while rest.next(&mut name)? {
        let dir = at;
        if name.as_slice() == b".." && dir == layer.root() {
            continue;
        }
        at = layer.lookup(dir, &name).await?;
        let (last, wants_directory) = (rest.is_last(), rest.wants_directory());
        if last && !follow && !wants_directory {
            return Ok(at);
        }
        match layer.stat(at).await?.file_type {
            FileType::Symlink => {
                followed += 1;
                if followed > MAX_LINKS {
                    return Err(ELOOP);
                }
                let target = layer.readlink(at).await?;
                if target.is_empty() {
                    return Err(ENOENT);
                }
                at = if target.starts_with(b"/") {
                    layer.root()
                } else {
                    dir
                };
                rest.links.push((target, 0), gfp())?;
            }
            FileType::Directory => {}
            _ if wants_directory => return Err(ENOTDIR),
            _ => {}
        }
    }
    // A path of slashes and dots leads to where it began, which may be no directory.
    if path.ends_with(b"/") && layer.stat(at).await?.file_type != FileType::Directory {
        return Err(ENOTDIR);
    }
    Ok(at)
}
