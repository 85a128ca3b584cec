// SPDX-License-Identifier: GPL-2.0
/*
 * What can be seen in debugfs: upcall/ of the runtime, and NAME/DEVICE/ of a mounted volume.
 *
 * An open file keeps upcall.ko: its end is in our text.  It does not keep the volume, nor the module
 * that has the volume's text: upcall_debugfs_destroy() waits for readers that are inside of show(),
 * and who has the file open reads -EIO from then on.
 *
 * A reader in show() holds what upcall_debugfs_destroy() waits for, and that is called with s_umount
 * held: show() takes spinlocks at most.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "helpers.h"

static int upcall_executors_show(struct seq_file *file, void *unused)
{
	upcall_rs_show_executors(file);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(upcall_executors);

static int upcall_tasks_show(struct seq_file *file, void *unused)
{
	upcall_rs_show_tasks(file);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(upcall_tasks);

static int upcall_poll_limit_get(void *unused, u64 *us)
{
	*us = upcall_rs_poll_limit();
	return 0;
}

static int upcall_poll_limit_set(void *unused, u64 us)
{
	return upcall_rs_set_poll_limit(us);
}
DEFINE_DEBUGFS_ATTRIBUTE(upcall_poll_limit_fops, upcall_poll_limit_get, upcall_poll_limit_set,
			 "%llu\n");

static struct dentry *upcall_debugfs;

void upcall_debugfs_create(void)
{
	upcall_debugfs = debugfs_create_dir("upcall", NULL);
	debugfs_create_file("executors", 0400, upcall_debugfs, NULL, &upcall_executors_fops);
	debugfs_create_file("tasks", 0400, upcall_debugfs, NULL, &upcall_tasks_fops);
	debugfs_create_file_unsafe("poll_limit_us", 0600, upcall_debugfs, NULL,
				   &upcall_poll_limit_fops);
}

void upcall_debugfs_remove(void)
{
	debugfs_remove(upcall_debugfs);
}

struct upcall_debugfs_volume {
	struct dentry *dir;
	upcall_debugfs_show show;
	const void *volume;
};

static int upcall_cache_show(struct seq_file *file, void *unused)
{
	const struct upcall_debugfs_volume *debugfs = file->private;

	debugfs->show(debugfs->volume, file);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(upcall_cache);

/* NAME/, to be given to upcall_debugfs_remove_root().  Without debugfs it is not there. */
struct dentry *upcall_debugfs_root(const char *name)
{
	return debugfs_create_dir(name, NULL);
}

void upcall_debugfs_remove_root(struct dentry *root)
{
	debugfs_remove(root);
}

/* Makes the directory of a superblock, with its file; NULL without memory.  May sleep. */
struct upcall_debugfs_volume *upcall_debugfs_add(struct dentry *root, const struct super_block *sb,
						 upcall_debugfs_show show, const void *volume)
{
	struct upcall_debugfs_volume *debugfs = kzalloc(sizeof(*debugfs), GFP_KERNEL);

	if (!debugfs)
		return NULL;
	debugfs->show = show;
	debugfs->volume = volume;
	debugfs->dir = debugfs_create_dir(sb->s_id, root);
	debugfs_create_file("cache", 0400, debugfs->dir, debugfs, &upcall_cache_fops);
	return debugfs;
}

/* Nobody is in show() any more when it returns, nor comes there.  May sleep. */
void upcall_debugfs_destroy(struct upcall_debugfs_volume *debugfs)
{
	debugfs_remove(debugfs->dir);
	kfree(debugfs);
}
