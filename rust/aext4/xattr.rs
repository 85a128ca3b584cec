// SPDX-License-Identifier: GPL-2.0

//! Extended attributes and access control lists.

use crate::error::{corrupted, About, OrReport};
use crate::ext4::Ext4;
use crate::inode_info::InodeInfo;
use crate::map::{Mapping, MappingKind};
use disk::{gfp, Buf};
use kernel::prelude::*;
use layout::xattr as format;
use layout::{Acl, AclEntry, EaValue, Lblk, Pblk, Xattr, XattrSet, XattrValue};

/// The largest value that is read; Linux has no larger ones.
pub(crate) const VALUE_MAX: u32 = 65536;

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
                value.extend_from_slice(bytes, gfp())?;
                Self::Here(value)
            }
            XattrValue::Inode(value) => Self::Inode(*value),
        })
    }
}

impl Ext4 {
    /// Looks at the attributes in the inode, then at those in the block, until `look` finds
    /// something.
    async fn each_set<T>(
        &self,
        info: &InodeInfo,
        mut look: impl FnMut(&XattrSet<'_>) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let about = About::inode(info.ino);
        if info.look(|inode| inode.xattr_offset.is_some()) {
            let buffer = self.inode_buffer(info).await?;
            let raw = buffer.data().get(info.place.1 as usize..).ok_or(EIO)?;
            let set =
                XattrSet::in_inode(raw, &info.inode(), &self.sb.geo).or_report(self, about)?;
            if let Some(found) = set.map(|set| look(&set)).transpose()?.flatten() {
                return Ok(Some(found));
            }
        }
        let Some(pblk) = info.look(|inode| inode.xattr_block) else {
            return Ok(None);
        };
        let buffer = self.xattr_block(info, pblk).await?;
        let about = About::block(info.ino, pblk.0);
        let set = XattrSet::in_block(buffer.data(), &self.sb.geo).or_report(self, about)?;
        look(&set)
    }

    pub(crate) async fn xattr_block(&self, info: &InodeInfo, pblk: Pblk) -> Result<Buf> {
        if self.is_system_block(pblk, 1) {
            let ino = info.ino;
            self.report(&format_args!(
                "inode {ino}, attributes: block {pblk} is metadata"
            ));
            return Err(corrupted());
        }
        let buffer = self.block(pblk).await?;
        if !buffer.is_verified() {
            XattrSet::verify_block(buffer.data(), pblk, &self.sb.geo)
                .or_report(self, About::block(info.ino, pblk.0))?;
            buffer.set_verified();
        }
        Ok(buffer)
    }

    /// Whether attributes with the prefix of number `index` are to be had.
    pub fn has_namespace(&self, index: u8) -> bool {
        match index {
            format::INDEX_USER | format::INDEX_HURD => self.flags().user_xattr(),
            format::INDEX_POSIX_ACL_ACCESS | format::INDEX_POSIX_ACL_DEFAULT => self.flags().acl(),
            format::INDEX_TRUSTED | format::INDEX_SECURITY => true,
            _ => false,
        }
    }

    /// The value of the attribute with the prefix of number `index` ([`layout::xattr`]).
    ///
    /// Fails with `ENODATA` if there is none, and with `EOPNOTSUPP` if the namespace is not to be
    /// had.
    pub async fn xattr(&self, info: &InodeInfo, index: u8, name: &[u8]) -> Result<KVec<u8>> {
        if !self.has_namespace(index) {
            return Err(EOPNOTSUPP);
        }
        let _lock = info.rwsem.read().await.map_err(|_| EIO)?;
        self.raw_xattr(info, index, name).await
    }

    /// The value of an attribute as it is on the disk, whatever the options say; `ENODATA` if there
    /// is none.
    async fn raw_xattr(&self, info: &InodeInfo, index: u8, name: &[u8]) -> Result<KVec<u8>> {
        let found = self
            .each_set(info, |set| {
                set.find(index, name).as_ref().map(Found::new).transpose()
            })
            .await?;
        match found {
            Some(Found::Here(value)) => Ok(value),
            Some(Found::Inode(value)) => self.inode_value(info, &value, name).await,
            None => Err(ENODATA),
        }
    }

    /// Reads a value that has an inode of its own.
    async fn inode_value(
        &self,
        info: &InodeInfo,
        value: &EaValue,
        name: &[u8],
    ) -> Result<KVec<u8>> {
        let geo = &self.sb.geo;
        let about = About::inode(info.ino);
        if value.size > VALUE_MAX {
            return Err(E2BIG);
        }
        let holder = match self.iget(value.ino).await {
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
            .open(&holder.inode(), &info.inode(), geo)
            .or_report(self, about)?;
        let mut bytes = KVec::with_capacity(value.size as usize, gfp())?;
        let mut lblk = 0;
        while bytes.len() < value.size as usize {
            let extent = self.map(&holder, Lblk(lblk)).await?;
            let left = value.size as usize - bytes.len();
            match extent.written_at(Lblk(lblk)) {
                Some(pblk) => {
                    let buffer = self.block(pblk).await?;
                    let part = left.min(buffer.data().len());
                    bytes.extend_from_slice(buffer.data().get(..part).ok_or(EIO)?, gfp())?;
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

    /// Calls `each` for every attribute that is to be had, with the number of its prefix and its
    /// name.
    pub async fn list_names(
        &self,
        info: &InodeInfo,
        each: &mut (dyn FnMut(u8, &[u8]) -> Result + Send),
    ) -> Result {
        let _lock = info.rwsem.read().await.map_err(|_| EIO)?;
        self.each_set(info, |set| {
            for attr in set.iter() {
                if self.has_namespace(attr.index) {
                    each(attr.index, attr.name)?;
                }
            }
            Ok(None::<()>)
        })
        .await?;
        Ok(())
    }

    /// Where the attributes are: in the inode, or else in their block.
    pub fn map_attributes(&self, info: &InodeInfo) -> Option<Mapping> {
        let geo = &self.sb.geo;
        let bits = geo.block_bits();
        if info.look(|inode| inode.xattr_offset.is_some()) {
            let (block, offset) = info.place;
            let skip = 128 + u64::from(info.inode().extra_isize);
            return Some(Mapping {
                offset: 0,
                len: u64::from(geo.inode_size())
                    .checked_sub(skip)
                    .filter(|&len| len > 0)?,
                kind: MappingKind::Inline((block << bits) + u64::from(offset) + skip),
            });
        }
        info.inode().xattr_block.map(|pblk| Mapping {
            offset: 0,
            len: geo.block_size().into(),
            kind: MappingKind::Data(pblk.0 << bits),
        })
    }

    /// An access control list; none if they are not enforced. Its `rwsem` is taken to read.
    pub async fn get_acl(&self, info: &InodeInfo, default: bool) -> Result<Option<KVec<AclEntry>>> {
        let _lock = info.rwsem.read().await.map_err(|_| EIO)?;
        self.acl_locked(info, default).await
    }

    /// As [`get_acl`](Self::get_acl), with the `rwsem` held.
    pub(crate) async fn acl_locked(
        &self,
        info: &InodeInfo,
        default: bool,
    ) -> Result<Option<KVec<AclEntry>>> {
        let index = if default {
            format::INDEX_POSIX_ACL_DEFAULT
        } else {
            format::INDEX_POSIX_ACL_ACCESS
        };
        if !self.has_namespace(index) {
            return Ok(None);
        }
        let value = match self.raw_xattr(info, index, b"").await {
            Err(error) if error == ENODATA => return Ok(None),
            value => value?,
        };
        let about = About::inode(info.ino);
        let Some(acl) = Acl::parse(&value).or_report(self, about)? else {
            return Ok(None);
        };
        let mut entries = KVec::new();
        for entry in acl.iter() {
            entries.push(entry, gfp())?;
        }
        Ok(Some(entries))
    }
}
