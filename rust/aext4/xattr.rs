// SPDX-License-Identifier: GPL-2.0

//! Extended attributes and access control lists.

use crate::error::{corrupted, About, OrReport};
use crate::node::Node;
use crate::volume::Volume;
use disk::Buf;
use kernel::prelude::*;
use layout::xattr as format;
use layout::{Acl, AclTag, EaValue, Lblk, Pblk, Xattr, XattrSet, XattrValue};
use vfs::{AclEntry, Mapping, MappingKind, XattrNamespace};

/// The largest value that is read; Linux has no larger ones.
const VALUE_MAX: u32 = 65536;

/// The namespace for a prefix's number; `None` for those that are not shown.
fn namespace(index: u8) -> Option<XattrNamespace> {
    Some(match index {
        format::INDEX_USER => XattrNamespace::User,
        format::INDEX_POSIX_ACL_ACCESS => XattrNamespace::AclAccess,
        format::INDEX_POSIX_ACL_DEFAULT => XattrNamespace::AclDefault,
        format::INDEX_TRUSTED => XattrNamespace::Trusted,
        format::INDEX_SECURITY => XattrNamespace::Security,
        format::INDEX_SYSTEM => XattrNamespace::System,
        format::INDEX_HURD => XattrNamespace::Gnu,
        _ => return None,
    })
}

fn index(namespace: XattrNamespace) -> u8 {
    match namespace {
        XattrNamespace::User => format::INDEX_USER,
        XattrNamespace::AclAccess => format::INDEX_POSIX_ACL_ACCESS,
        XattrNamespace::AclDefault => format::INDEX_POSIX_ACL_DEFAULT,
        XattrNamespace::Trusted => format::INDEX_TRUSTED,
        XattrNamespace::Security => format::INDEX_SECURITY,
        XattrNamespace::System => format::INDEX_SYSTEM,
        XattrNamespace::Gnu => format::INDEX_HURD,
    }
}

/// Where a value was found.
enum Found {
    Here(KVec<u8>),
    Inode(EaValue),
}

impl Found {
    fn new(attr: &Xattr<'_>) -> Result<Self> {
        Ok(match &attr.value {
            XattrValue::Here(bytes) => {
                let mut value = KVec::new();
                value.extend_from_slice(bytes, GFP_KERNEL)?;
                Self::Here(value)
            }
            XattrValue::Inode(value) => Self::Inode(*value),
        })
    }
}

impl Volume {
    /// Looks at the attributes in the inode, then at those in the block, until `look` finds something.
    async fn each_set<T>(
        &self,
        node: &Node,
        mut look: impl FnMut(&XattrSet<'_>) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let about = About::inode(node.inode.ino);
        if node.inode.xattr_offset.is_some() {
            let buffer = self.inode_buffer(node).await?;
            let raw = buffer.data().get(node.place.1 as usize..).ok_or(EIO)?;
            let set = XattrSet::in_inode(raw, &node.inode, &self.sb.geo).or_report(self, about)?;
            if let Some(found) = set.map(|set| look(&set)).transpose()?.flatten() {
                return Ok(Some(found));
            }
        }
        let Some(pblk) = node.inode.xattr_block else {
            return Ok(None);
        };
        let buffer = self.xattr_block(node, pblk).await?;
        let about = About::block(node.inode.ino, pblk.0);
        let set = XattrSet::in_block(buffer.data(), &self.sb.geo).or_report(self, about)?;
        look(&set)
    }

    async fn xattr_block(&self, node: &Node, pblk: Pblk) -> Result<Buf> {
        if self.is_fixed(pblk, 1) {
            let ino = node.inode.ino;
            self.report(&format_args!(
                "inode {ino}, attributes: block {pblk} is metadata"
            ));
            return Err(corrupted());
        }
        let buffer = self.block(pblk).await?;
        if !buffer.is_verified() {
            XattrSet::verify_block(buffer.data(), pblk, &self.sb.geo)
                .or_report(self, About::block(node.inode.ino, pblk.0))?;
            buffer.set_verified();
        }
        Ok(buffer)
    }

    /// The value of an attribute; `ENODATA` if there is none.
    pub(crate) async fn xattr(
        &self,
        node: &Node,
        space: XattrNamespace,
        name: &[u8],
    ) -> Result<KVec<u8>> {
        let index = index(space);
        let found = self
            .each_set(node, |set| {
                set.find(index, name).as_ref().map(Found::new).transpose()
            })
            .await?;
        match found {
            Some(Found::Here(value)) => Ok(value),
            Some(Found::Inode(value)) => self.inode_value(node, &value, name).await,
            None => Err(ENODATA),
        }
    }

    /// Reads a value that has an inode of its own.
    async fn inode_value(&self, node: &Node, value: &EaValue, name: &[u8]) -> Result<KVec<u8>> {
        let geo = &self.sb.geo;
        let about = About::inode(node.inode.ino);
        if value.size > VALUE_MAX {
            return Err(E2BIG);
        }
        let holder = match self.get_node(value.ino).await {
            Err(error) if error == ESTALE => {
                self.report(&format_args!(
                    "inode {}, attribute value: not in use",
                    value.ino
                ));
                return Err(corrupted());
            }
            holder => holder?,
        };
        let mut hasher = value
            .open(&holder.inode, &node.inode, geo)
            .or_report(self, about)?;
        let mut bytes = KVec::with_capacity(value.size as usize, GFP_KERNEL)?;
        let mut lblk = 0;
        while bytes.len() < value.size as usize {
            let piece = self.map_blocks(&holder, Lblk(lblk)).await?;
            let left = value.size as usize - bytes.len();
            match piece.data_block(Lblk(lblk)) {
                Some(pblk) => {
                    let buffer = self.block(pblk).await?;
                    let part = left.min(buffer.data().len());
                    bytes.extend_from_slice(buffer.data().get(..part).ok_or(EIO)?, GFP_KERNEL)?;
                }
                None => {
                    self.report(&format_args!(
                        "inode {}, attribute value: a hole",
                        value.ino
                    ));
                    return Err(corrupted());
                }
            }
            lblk += 1;
        }
        hasher.update(&bytes, geo);
        hasher.finish(name).or_report(self, about)?;
        Ok(bytes)
    }

    /// Calls `each` for every attribute that a name can be given to.
    pub(crate) async fn list_names(
        &self,
        node: &Node,
        each: &mut (dyn FnMut(XattrNamespace, &[u8]) -> Result + Send),
    ) -> Result {
        self.each_set(node, |set| {
            for attr in set.iter() {
                if let Some(space) = namespace(attr.index) {
                    each(space, attr.name)?;
                }
            }
            Ok(None::<()>)
        })
        .await?;
        Ok(())
    }

    /// Where the attributes are: in the inode, or else in their block.
    pub(crate) fn map_attributes(&self, node: &Node) -> Option<Mapping> {
        let geo = &self.sb.geo;
        let bits = geo.block_bits();
        if node.inode.xattr_offset.is_some() {
            let (block, offset) = node.place;
            let skip = 128 + u64::from(node.inode.extra_isize);
            return Some(Mapping {
                offset: 0,
                len: u64::from(geo.inode_size())
                    .checked_sub(skip)
                    .filter(|&len| len > 0)?,
                kind: MappingKind::Inline((block << bits) + u64::from(offset) + skip),
            });
        }
        node.inode.xattr_block.map(|pblk| Mapping {
            offset: 0,
            len: geo.block_size().into(),
            kind: MappingKind::Data(pblk.0 << bits),
        })
    }

    /// An access control list.
    pub(crate) async fn get_acl(
        &self,
        node: &Node,
        default: bool,
    ) -> Result<Option<KVec<AclEntry>>> {
        let space = if default {
            XattrNamespace::AclDefault
        } else {
            XattrNamespace::AclAccess
        };
        let value = match self.xattr(node, space, b"").await {
            Err(error) if error == ENODATA => return Ok(None),
            value => value?,
        };
        let about = About::inode(node.inode.ino);
        let Some(acl) = Acl::parse(&value).or_report(self, about)? else {
            return Ok(None);
        };
        let mut entries = KVec::new();
        for entry in acl.iter() {
            let id = match entry.tag {
                AclTag::User(id) | AclTag::Group(id) => id,
                _ => 0,
            };
            let entry = AclEntry {
                tag: entry.tag.code(),
                perm: entry.perm,
                id,
            };
            entries.push(entry, GFP_KERNEL)?;
        }
        Ok(Some(entries))
    }
}
