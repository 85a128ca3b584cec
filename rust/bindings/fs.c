// SPDX-License-Identifier: GPL-2.0
/*
 * Inodes, directories and open files.
 */
#include <linux/fs.h>
#include <linux/kdev_t.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/security.h>
#include <linux/slab.h>

#include "helpers.h"

struct kmem_cache *upcall_inode_cache(const char *name, unsigned int size, unsigned int align,
				      void (*ctor)(void *))
{
	return kmem_cache_create(name, size, align, SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, ctor);
}

void *upcall_alloc_inode(struct super_block *sb, struct kmem_cache *cache)
{
	return alloc_inode_sb(sb, cache, GFP_KERNEL);
}

void upcall_free_inode(void *inode)
{
	kfree(inode);
}

bool upcall_inode_is_new(struct inode *inode)
{
	return inode_state_read_once(inode) & I_NEW;
}

void upcall_set_large_folios(struct inode *inode)
{
	mapping_set_large_folios(inode->i_mapping);
}

void upcall_inode_nohighmem(struct inode *inode)
{
	inode_nohighmem(inode);
}

bool upcall_dir_emit(struct dir_context *ctx, const char *name, int len, u64 ino, unsigned int type)
{
	return dir_emit(ctx, name, len, ino, type);
}

void upcall_file_can_odirect(struct file *file)
{
	file->f_mode |= FMODE_CAN_ODIRECT | FMODE_NOWAIT;
}

bool upcall_inode_lock_shared(struct inode *inode, bool nowait)
{
	if (nowait)
		return inode_trylock_shared(inode);
	inode_lock_shared(inode);
	return true;
}

void upcall_inode_unlock_shared(struct inode *inode)
{
	inode_unlock_shared(inode);
}

void upcall_file_accessed(struct file *file)
{
	file_accessed(file);
}

/* A VFS inode without a number, with the owner and the mode that a new one in dir has. */
struct inode *upcall_new_inode(struct mnt_idmap *idmap, struct inode *dir, umode_t mode, bool grpid)
{
	struct inode *inode = new_inode(dir->i_sb);

	if (!inode)
		return NULL;
	inode_init_owner(idmap, inode, dir, mode);
	if (grpid) {
		inode->i_gid = dir->i_gid;
		inode->i_mode = mode;
	}
	return inode;
}

int upcall_init_security(struct inode *inode, struct inode *dir, const struct qstr *name,
			 int (*each)(struct inode *, const struct xattr *, void *), void *data)
{
	return security_inode_init_security(inode, dir, name, each, data);
}

int upcall_insert_inode(struct inode *inode, u64 ino)
{
	inode->i_ino = ino;
	return insert_inode_locked(inode);
}

int upcall_open_tmpfile(struct file *file, struct inode *inode)
{
	d_mark_tmpfile(file, inode);
	d_instantiate(file->f_path.dentry, inode);
	return finish_open_simple(file, 0);
}

u32 upcall_dev_major(dev_t dev)
{
	return MAJOR(dev);
}

u32 upcall_dev_minor(dev_t dev)
{
	return MINOR(dev);
}

/* Whether a link has no target; then it was let go of. */
bool upcall_link_is_empty(const char *link, struct delayed_call *done)
{
	if (IS_ERR_OR_NULL(link) || *link)
		return false;
	do_delayed_call(done);
	clear_delayed_call(done);
	return true;
}
