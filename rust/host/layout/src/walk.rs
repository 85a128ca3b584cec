// SPDX-License-Identifier: GPL-2.0

//! A walk over all that an image holds.

use crate::layout::*;
use crate::volume::{Disk, Fail, Out, Volume};

impl<D: Disk> Volume<D> {
    /// Reads everything that can be reached, errors or not, and returns how many parts failed.
    ///
    /// A directory is entered once. `Fail::Limit` ends the walk.
    pub fn walk(&self) -> Out<u64> {
        let mut failed = 0;
        let mut seen = std::collections::HashSet::new();
        let mut queue = vec![Ino::ROOT.0];
        queue.extend((1..=self.geo().inodes_count()).take(64));
        while let Some(ino) = queue.pop() {
            self.count()?;
            if !seen.insert(ino) {
                continue;
            }
            let mut note = |fail: Fail| match fail {
                Fail::Limit => Err(Fail::Limit),
                // Most of the first inodes are not in use.
                Fail::Layout(e) if e.kind == Kind::Stale => Ok(()),
                _ => {
                    failed += 1;
                    Ok(())
                }
            };
            let inode = match self.inode(Ino(ino)) {
                Ok(inode) => inode,
                Err(e) => {
                    note(e)?;
                    continue;
                }
            };
            if let Err(e) = self.xattrs(&inode) {
                note(e)?;
            }
            if let Err(e) = map::verify_root(&inode, self.geo()) {
                note(e.into())?;
            }
            if inode.is_dir() {
                match self.list(&inode) {
                    Ok(all) => {
                        for entry in &all {
                            if let Err(e) = self.lookup(&inode, &entry.name) {
                                note(e)?;
                            }
                        }
                        queue.extend(all.iter().map(|e| e.ino));
                    }
                    Err(e) => note(e)?,
                }
                if inode.is_indexed() {
                    if let Err(e) = self.list_hashed(&inode) {
                        note(e)?;
                    }
                }
            } else {
                if matches!(inode.data_map(), DataMap::Extents | DataMap::Indirect) {
                    if let Err(e) = self.runs(&inode, Lblk::END) {
                        note(e)?;
                    }
                }
                if let Err(e) = self.read(&inode, 0, 1 << 16) {
                    note(e)?;
                }
            }
        }
        for group in 0..self.geo().groups().min(256) {
            if let Err(e) = self.check_bitmaps(Group(group)) {
                if e == Fail::Limit {
                    return Err(e);
                }
                failed += 1;
            }
        }
        Ok(failed)
    }
}
