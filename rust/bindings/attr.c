// SPDX-License-Identifier: GPL-2.0
/*
 * Attributes of inodes, and their times.
 */
#include <linux/fs.h>
#include <linux/time64.h>
#include <linux/uidgid.h>

#include "helpers.h"

void upcall_inode_fill(struct inode *inode, const struct upcall_attr *attr)
{
	inode->i_mode = attr->mode;
	i_uid_write(inode, attr->uid);
	i_gid_write(inode, attr->gid);
	set_nlink(inode, attr->nlink);
	i_size_write(inode, attr->size);
	inode->i_blocks = attr->sectors;
	inode->i_generation = attr->generation;
	inode_set_atime_to_ts(inode, attr->atime);
	inode_set_mtime_to_ts(inode, attr->mtime);
	inode_set_ctime_to_ts(inode, attr->ctime);
	inode_set_flags(inode, attr->s_flags, S_SYNC | S_APPEND | S_IMMUTABLE | S_NOATIME | S_DIRSYNC);
	if (attr->no_acl)
		cache_no_acl(inode);
	if (S_ISCHR(attr->mode) || S_ISBLK(attr->mode) || S_ISFIFO(attr->mode) || S_ISSOCK(attr->mode))
		init_special_inode(inode, attr->mode, MKDEV(attr->rdev_major, attr->rdev_minor));
}

/*
 * Whether the caller may change the attributes, as a file system asks at the beginning of its
 * setattr(); and what they become, with the volume's owners and groups.
 */
int upcall_setattr_prepare(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr,
			   struct upcall_setattr *to)
{
	struct inode *inode = d_inode(dentry);
	struct user_namespace *ns = i_user_ns(inode);
	vfsgid_t gid = i_gid_into_vfsgid(idmap, inode);
	int error;

	if (IS_IMMUTABLE(inode))
		return -EPERM;
	if (IS_APPEND(inode) && attr->ia_valid & (ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_TIMES_SET))
		return -EPERM;
	error = setattr_prepare(idmap, dentry, attr);
	if (error)
		return error;
	*to = (struct upcall_setattr) {
		.valid = attr->ia_valid,
		.size = attr->ia_size,
		.mode = attr->ia_mode,
		.atime = attr->ia_atime,
		.mtime = attr->ia_mtime,
	};
	if (attr->ia_valid & ATTR_UID)
		to->uid = from_kuid(ns, from_vfsuid(idmap, ns, attr->ia_vfsuid));
	if (attr->ia_valid & ATTR_GID) {
		gid = attr->ia_vfsgid;
		to->gid = from_kgid(ns, from_vfsgid(idmap, ns, gid));
	}
	if (attr->ia_valid & ATTR_MODE && !in_group_or_capable(idmap, inode, gid))
		to->mode &= ~S_ISGID;
	return 0;
}

void upcall_current_time(struct inode *inode, struct timespec64 *now)
{
	*now = current_time(inode);
}

/* The time of day for a file that has no VFS inode: not before a finer one that another file was given. */
void upcall_device_time(struct block_device *bdev, struct timespec64 *now)
{
	*now = current_time(bdev->bd_mapping->host);
}

/*
 * The time for a change of an inode, which it has from now on as its ctime: a finer one than usual if
 * somebody has looked at the one that it has.  Any context.
 */
void upcall_inode_stamp(struct inode *inode, struct timespec64 *now)
{
	*now = inode_set_ctime_current(inode);
}

/*
 * With lazytime: gives an inode the time, which sync_lazytime() is to write later.  Does not sleep.
 * Returns 0 if the superblock has no lazytime, 1 if it is done, or an error number.
 */
int upcall_lazy_time(struct inode *inode, enum fs_update_time what, unsigned int flags)
{
	int dirty;

	if (!(inode->i_sb->s_flags & SB_LAZYTIME))
		return 0;
	dirty = inode_update_time(inode, what, flags);
	if (dirty < 0)
		return dirty;
	if (dirty)
		__mark_inode_dirty(inode, dirty);
	return 1;
}

/* Whether the inode has times that are to be written later.  The caller writes them now. */
bool upcall_lazy_take(struct inode *inode)
{
	bool lazy;

	if (!(inode_state_read_once(inode) & I_DIRTY_TIME))
		return false;
	spin_lock(&inode->i_lock);
	lazy = inode_state_read(inode) & I_DIRTY_TIME;
	if (lazy)
		inode_state_clear(inode, I_DIRTY_TIME);
	spin_unlock(&inode->i_lock);
	return lazy;
}

/* The caller could not write them. */
void upcall_lazy_put(struct inode *inode)
{
	__mark_inode_dirty(inode, I_DIRTY_TIME);
}

void upcall_inode_times(struct inode *inode, struct upcall_times *times)
{
	times->atime = inode_get_atime(inode);
	times->mtime = inode_get_mtime(inode);
	times->ctime = inode_get_ctime(inode);
}

void upcall_inode_state_lock(struct inode *inode)
{
	spin_lock(&inode->i_lock);
}

void upcall_inode_state_unlock(struct inode *inode)
{
	spin_unlock(&inode->i_lock);
}

static struct timespec64 later(struct timespec64 a, struct timespec64 b)
{
	return timespec64_compare(&a, &b) > 0 ? a : b;
}

static void mirror_times(struct inode *inode, const struct upcall_attr *attr)
{
	struct timespec64 atime = attr->atime, mtime = attr->mtime, ctime = attr->ctime;
	struct timespec64 was = inode_get_ctime(inode);

	if (inode_state_read(inode) & I_DIRTY_TIME) {
		/* Some of those that the inode has are to be written later. */
		atime = later(inode_get_atime(inode), atime);
		mtime = later(inode_get_mtime(inode), mtime);
		ctime = later(was, ctime);
	}
	inode_set_atime_to_ts(inode, atime);
	inode_set_mtime_to_ts(inode, mtime);
	/* Setting it forgets that somebody has looked at it. */
	if (!timespec64_equal(&was, &ctime))
		inode_set_ctime_to_ts(inode, ctime);
}

/* What can change of an inode is as attr says; with i_lock held, under which attr was made. */
void upcall_inode_mirror(struct inode *inode, const struct upcall_attr *attr)
{
	inode->i_mode = attr->mode;
	i_uid_write(inode, attr->uid);
	i_gid_write(inode, attr->gid);
	if (inode->i_nlink != attr->nlink)
		set_nlink(inode, attr->nlink);
	if (!S_ISREG(attr->mode))
		i_size_write(inode, attr->size);
	inode->i_blocks = attr->sectors;
	mirror_times(inode, attr);
	inode_set_flags(inode, attr->s_flags, S_SYNC | S_APPEND | S_IMMUTABLE | S_NOATIME | S_DIRSYNC);
}

bool upcall_inode_is_sync(const struct inode *inode)
{
	return IS_SYNC(inode);
}

bool upcall_inode_is_dirsync(const struct inode *inode)
{
	return IS_DIRSYNC(inode);
}

void upcall_inode_owner(const struct inode *inode, u32 *uid, u32 *gid)
{
	*uid = i_uid_read(inode);
	*gid = i_gid_read(inode);
}
