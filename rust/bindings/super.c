// SPDX-License-Identifier: GPL-2.0
/*
 * Superblocks.
 */
#include <linux/fs.h>
#include <linux/statfs.h>

#include "helpers.h"

void upcall_sb_fill(struct super_block *sb, const struct upcall_volume_info *info)
{
	sb->s_magic = info->magic;
	sb->s_maxbytes = min_t(u64, info->max_bytes, MAX_LFS_FILESIZE);
	sb->s_time_gran = info->time_gran;
	sb->s_time_min = info->time_min;
	sb->s_time_max = info->time_max;
	super_set_uuid(sb, info->uuid, sizeof(info->uuid));
	super_set_sysfs_name_bdev(sb);
	upcall_sb_set_acl(sb, info->posix_acl);
}

void upcall_sb_set_acl(struct super_block *sb, bool acl)
{
	if (acl)
		sb->s_flags |= SB_POSIXACL;
	else
		sb->s_flags &= ~SB_POSIXACL;
}

void upcall_statfs_fsid(struct kstatfs *st, const struct super_block *sb)
{
	st->f_fsid = uuid_to_fsid((__u8 *)sb->s_uuid.b);
}

bool upcall_sb_rdonly(const struct super_block *sb)
{
	return sb_rdonly(sb);
}

/* For a superblock that is being filled. */
void upcall_sb_set_rdonly(struct super_block *sb)
{
	sb->s_flags |= SB_RDONLY;
}
