// SPDX-License-Identifier: GPL-2.0
/*
 * For changes that do not come by the VFS: what the dcache and VFS inodes know is brought up to date,
 * and files that programs use are changed by the VFS nevertheless.
 */
#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/filelock.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/rcupdate.h>
#include <linux/writeback.h>

#include "helpers.h"

/*
 * Counts changes of names over all volumes, so that no two directories ever have the same version but
 * 0: a dentry that the VFS moves to another directory takes its d_time along.
 */
static atomic_long_t upcall_names_count = ATOMIC_LONG_INIT(0);

static struct upcall_inode *upcall_inode_of(struct inode *inode)
{
	return container_of(inode, struct upcall_inode, inode);
}

void upcall_names_init(struct inode *inode)
{
	upcall_inode_of(inode)->names = 0;
}

/* Any context, in a read section of RCU in which the inode was found. */
void upcall_names_changed(struct inode *inode)
{
	WRITE_ONCE(upcall_inode_of(inode)->names, atomic_long_inc_return(&upcall_names_count));
}

void upcall_dentry_set_version(struct dentry *dentry, unsigned long version)
{
	WRITE_ONCE(dentry->d_time, version);
}

/* The number of the inode that a dentry leads to; 0 if it is negative. */
u64 upcall_dentry_ino(const struct dentry *dentry)
{
	const struct inode *inode = d_inode_rcu(dentry);

	return inode ? inode->i_ino : 0;
}

/* What the VFS has worked out of attributes that have changed.  Does not sleep. */
void upcall_inode_forget(struct inode *inode)
{
	forget_all_cached_acls(inode);
	inode_set_flags(inode, 0, S_NOSEC);
}

/*
 * Whether anybody has a lease or a delegation, or one that keeps others from reading.  Does not
 * sleep.  The list of leases goes with the inode, which is in a read section of RCU at least: i_lock
 * keeps who evicts it away.
 */
bool upcall_has_leases(struct inode *inode, bool to_read)
{
	struct file_lock_context *ctx;
	struct file_lease *lease;
	bool found = false;

	if (!locks_inode_context(inode))
		return false;
	spin_lock(&inode->i_lock);
	ctx = locks_inode_context(inode);
	if (ctx && !(inode_state_read(inode) & (I_FREEING | I_WILL_FREE))) {
		spin_lock(&ctx->flc_lock);
		list_for_each_entry(lease, &ctx->flc_lease, c.flc_list)
			if (!to_read || lease->c.flc_type == F_WRLCK)
				found = true;
		spin_unlock(&ctx->flc_lock);
	}
	spin_unlock(&inode->i_lock);
	return found;
}

/*
 * Asks for those back that are in the way of whoever reads, or changes what is not contents.
 * -EWOULDBLOCK if they are not back yet.  May sleep, but not until then.
 */
int upcall_break_leases(struct inode *inode, bool to_read)
{
	if (to_read)
		return break_lease(inode, O_RDONLY | O_NONBLOCK);
	return break_deleg(inode, LEASE_BREAK_NONBLOCK);
}

loff_t upcall_inode_size(const struct inode *inode)
{
	return i_size_read(inode);
}

bool upcall_has_dirty(const struct inode *inode)
{
	return mapping_tagged(&inode->i_data, PAGECACHE_TAG_DIRTY) ||
	       mapping_tagged(&inode->i_data, PAGECACHE_TAG_WRITEBACK);
}

/*
 * Nothing leads to an inode any more: dentries that nobody uses go, and the inode with them.  Takes
 * over a reference on it.  May sleep.
 */
void upcall_prune(struct inode *inode)
{
	if (S_ISDIR(inode->i_mode)) {
		struct dentry *dentry = d_find_any_alias(inode);

		if (dentry) {
			d_invalidate(dentry);
			dput(dentry);
		}
	}
	d_prune_aliases(inode);
	iput(inode);
}

struct vfsmount *upcall_held_mount(const struct upcall_held_path *held)
{
	return upcall_held_path(held)->mnt;
}

/*
 * An inode as an open file, with the rights of the kernel.  Takes over a reference on the inode, also
 * if it fails: with -EWOULDBLOCK if others have leases, which were asked for.  May sleep, but not
 * until these are back.
 */
struct file *upcall_open_inode(struct vfsmount *mnt, struct inode *inode, int flags)
{
	struct path path = { .mnt = mnt, .dentry = d_obtain_alias(inode) };
	struct file *file;

	if (IS_ERR(path.dentry))
		return ERR_CAST(path.dentry);
	file = dentry_open(&path, flags | O_LARGEFILE | O_NONBLOCK, current_cred());
	dput(path.dentry);
	return file;
}

/* Closes it at once: a thread of the kernel would leave that to another, which keeps the mount. */
void upcall_close_inode(struct file *file)
{
	__fput_sync(file);
}

int upcall_file_truncate(struct file *file, loff_t size)
{
	return vfs_truncate(&file->f_path, size);
}

/* Writes what programs have changed of all files, and waits for it.  The caller keeps the mount. */
void upcall_write_inodes(struct super_block *sb)
{
	down_read(&sb->s_umount);
	if (!sb_rdonly(sb))
		sync_inodes_sb(sb);
	up_read(&sb->s_umount);
}
