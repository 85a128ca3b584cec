// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/fs/NAME/DEVICE/: a file for each of some counters of a mounted volume.
 *
 * The kobject has its memory to itself, so that nobody who still looks at the directory can reach the
 * volume.  upcall_sysfs_destroy() takes the files away and waits for readers that are inside of
 * show(); who has one open reads -ENODEV from then on.  It also waits until the kobject is released,
 * which is in our text, so that neither module can go before.
 *
 * A reader in show() holds what upcall_sysfs_destroy() waits for, and that is called with s_umount
 * held: show() takes spinlocks at most.
 */
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "helpers.h"

struct upcall_sysfs {
	struct kobject kobj;
	struct completion released;
	upcall_sysfs_show show;
	const void *volume;
	struct attribute attrs[];
};

static ssize_t show(struct kobject *kobj, struct attribute *attr, char *page)
{
	const struct upcall_sysfs *sysfs = container_of(kobj, struct upcall_sysfs, kobj);

	return sysfs->show(sysfs->volume, attr - sysfs->attrs, (u8 *)page, PAGE_SIZE);
}

static void release(struct kobject *kobj)
{
	complete(&container_of(kobj, struct upcall_sysfs, kobj)->released);
}

static const struct sysfs_ops ops = { .show = show };
static const struct kobj_type type = { .sysfs_ops = &ops, .release = release };

/* /sys/fs/NAME, to be given back by kobject_put(); NULL without memory. */
struct kobject *upcall_sysfs_root(const char *name)
{
	return kobject_create_and_add(name, fs_kobj);
}

/*
 * Makes the directory of a superblock, with one file for each name; an error pointer if that fails.
 * The names are static.  May sleep.
 */
struct upcall_sysfs *upcall_sysfs_create(struct kobject *root, const struct super_block *sb,
					 const char *const *names, unsigned int count,
					 upcall_sysfs_show show, const void *volume)
{
	struct upcall_sysfs *sysfs = kzalloc(struct_size(sysfs, attrs, count), GFP_KERNEL);
	unsigned int i;
	int error;

	if (!sysfs)
		return ERR_PTR(-ENOMEM);
	init_completion(&sysfs->released);
	sysfs->show = show;
	sysfs->volume = volume;
	/* A slash in the name becomes a "!". */
	error = kobject_init_and_add(&sysfs->kobj, &type, root, "%s", sb->s_id);
	for (i = 0; i < count && !error; i++) {
		struct attribute *attr = &sysfs->attrs[i];

		sysfs_attr_init(attr);
		attr->name = names[i];
		attr->mode = 0444;
		error = sysfs_create_file(&sysfs->kobj, attr);
	}
	if (error) {
		upcall_sysfs_destroy(sysfs);
		return ERR_PTR(error);
	}
	return sysfs;
}

/* Nobody is in show() any more when it returns, nor comes there.  May sleep. */
void upcall_sysfs_destroy(struct upcall_sysfs *sysfs)
{
	kobject_del(&sysfs->kobj);
	kobject_put(&sysfs->kobj);
	wait_for_completion(&sysfs->released);
	kfree(sysfs);
}
