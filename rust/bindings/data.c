// SPDX-License-Identifier: GPL-2.0
/*
 * For files that are written: what has no symbol of its own, and the end of writeback that needs a
 * transaction.
 */
#include <linux/bio.h>
#include <linux/fs.h>
#include <linux/iomap.h>
#include <linux/list_sort.h>
#include <linux/llist.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rcupdate.h>
#include <linux/uio.h>
#include <linux/writeback.h>

#include "helpers.h"

bool upcall_inode_lock(struct inode *inode, bool nowait)
{
	if (nowait)
		return inode_trylock(inode);
	inode_lock(inode);
	return true;
}

void upcall_inode_unlock(struct inode *inode)
{
	inode_unlock(inode);
}

/* Whether a write has no privileges to take away, so that the shared lock is enough for it. */
bool upcall_inode_is_nosec(struct inode *inode)
{
	return IS_NOSEC(inode);
}

loff_t upcall_i_size_read(struct inode *inode)
{
	return i_size_read(inode);
}

void upcall_i_size_write(struct inode *inode, loff_t size)
{
	i_size_write(inode, size);
}

void upcall_invalidate_lock(struct inode *inode)
{
	filemap_invalidate_lock(inode->i_mapping);
}

void upcall_invalidate_unlock(struct inode *inode)
{
	filemap_invalidate_unlock(inode->i_mapping);
}

size_t upcall_iov_iter_count(const struct iov_iter *iter)
{
	return iov_iter_count(iter);
}

/* After a write: waits until it is durable, if the file or the request says so. */
ssize_t upcall_write_sync(struct kiocb *iocb, ssize_t count)
{
	return generic_write_sync(iocb, count);
}

bool upcall_file_is_sync(const struct file *file)
{
	return file->f_flags & O_DSYNC;
}

bool upcall_stable_writes(struct inode *inode)
{
	return mapping_stable_writes(inode->i_mapping);
}

/* Writes dirty files back, since what they have reserved may be more than what they need. */
void upcall_write_back_all(struct super_block *sb)
{
	try_to_writeback_inodes_sb(sb, WB_REASON_FS_FREE_SPACE);
}

loff_t upcall_folio_end(struct folio *folio)
{
	return folio_next_pos(folio);
}

/* For a mapping of a file, with operations of ours. */
int upcall_mmap_prepare(struct vm_area_desc *desc, const struct vm_operations_struct *ops)
{
	int err = generic_file_mmap_prepare(desc);

	if (!err)
		desc->vm_ops = ops;
	return err;
}

/* A page of a shared mapping is to be written to. */
vm_fault_t upcall_page_mkwrite(struct vm_fault *vmf, const struct iomap_ops *ops,
			       int (*prepare)(struct inode *inode))
{
	struct inode *inode = file_inode(vmf->vma->vm_file);
	vm_fault_t fault;
	int err;

	sb_start_pagefault(inode->i_sb);
	/* Before the folio is locked. */
	err = prepare(inode);
	if (err) {
		fault = vmf_fs_error(err);
		goto out;
	}
	file_update_time(vmf->vma->vm_file);
	/* Whoever punches holes waits until the page is dirty, or we find that it is gone. */
	filemap_invalidate_lock_shared(inode->i_mapping);
	fault = iomap_page_mkwrite(vmf, ops, NULL);
	filemap_invalidate_unlock_shared(inode->i_mapping);
out:
	sb_end_pagefault(inode->i_sb);
	return fault;
}

/*
 * The end of writeback that needs a transaction; see rust/vfs/ioends.rs.
 *
 * An ioend is on `arrived` from its bio's end on, then on `taken` and `same`, which the upcall has
 * to itself, then it is `current_run`, with those that were merged into it, then on `ended`.  Its io_list
 * is the link of the first three, and the head of what was merged later; io_private is the
 * volume's structure until its bio has ended, and the link of `ended`.
 */

static struct workqueue_struct *upcall_ioend_queue;

int upcall_ioends_open(void)
{
	upcall_ioend_queue = alloc_workqueue("upcall_ioend", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	return upcall_ioend_queue ? 0 : -ENOMEM;
}

void upcall_ioends_close(void)
{
	if (upcall_ioend_queue)
		destroy_workqueue(upcall_ioend_queue);
	upcall_ioend_queue = NULL;
}

/* Ends the writeback of folios, which may sleep. */
static void upcall_ioends_work(struct work_struct *work)
{
	struct upcall_ioends *ioends = container_of(work, struct upcall_ioends, work);
	struct llist_node *node = llist_reverse_order(llist_del_all(&ioends->ended));

	while (node) {
		struct iomap_ioend *ioend = container_of((void **)node, struct iomap_ioend, io_private);

		node = node->next;
		ioend->io_private = NULL;
		iomap_finish_ioends(ioend, ioend->io_error);
		cond_resched();
	}
}

void upcall_ioends_init(struct upcall_ioends *ioends, void (*wake)(struct upcall_ioends *))
{
	init_llist_head(&ioends->arrived);
	init_llist_head(&ioends->ended);
	INIT_LIST_HEAD(&ioends->taken);
	INIT_LIST_HEAD(&ioends->same);
	INIT_WORK(&ioends->work, upcall_ioends_work);
	ioends->current_run = NULL;
	ioends->over = false;
	ioends->wake = wake;
}

/* Once the upcall is over, and no writeback is under way: nobody uses it when this returns. */
void upcall_ioends_destroy(struct upcall_ioends *ioends)
{
	/* A completion may still be about to call wake(). */
	synchronize_rcu();
	flush_work(&ioends->work);
}

static void upcall_ioend_finish(struct upcall_ioends *ioends, struct iomap_ioend *ioend, int error)
{
	if (error)
		ioend->io_error = error;
	BUILD_BUG_ON(sizeof(ioend->io_private) != sizeof(struct llist_node));
	llist_add((struct llist_node *)&ioend->io_private, &ioends->ended);
	queue_work(upcall_ioend_queue, &ioends->work);
}

/* What arrives when nobody takes it any more. */
static void upcall_ioends_refuse(struct upcall_ioends *ioends)
{
	struct llist_node *node = llist_del_all(&ioends->arrived);

	while (node) {
		struct iomap_ioend *ioend = container_of((struct list_head *)node,
							 struct iomap_ioend, io_list);

		node = node->next;
		INIT_LIST_HEAD(&ioend->io_list);
		upcall_ioend_finish(ioends, ioend, -EIO);
	}
}

static void upcall_ioends_refuse_list(struct upcall_ioends *ioends, struct list_head *list)
{
	struct iomap_ioend *ioend, *next;

	list_for_each_entry_safe(ioend, next, list, io_list) {
		list_del_init(&ioend->io_list);
		upcall_ioend_finish(ioends, ioend, -EIO);
	}
}

/* The upcall is over: what it has, and what comes later, ends with an error. */
void upcall_ioends_stop(struct upcall_ioends *ioends)
{
	if (ioends->current_run)
		upcall_ioend_finish(ioends, ioends->current_run, -EIO);
	ioends->current_run = NULL;
	upcall_ioends_refuse_list(ioends, &ioends->same);
	upcall_ioends_refuse_list(ioends, &ioends->taken);
	WRITE_ONCE(ioends->over, true);
	/* Pairs with llist_add() in upcall_ioend_end_bio(): one of the two sees what the other did. */
	smp_mb();
	upcall_ioends_refuse(ioends);
}

/* An upcall takes what arrives again. */
void upcall_ioends_restart(struct upcall_ioends *ioends)
{
	WRITE_ONCE(ioends->over, false);
}

static void upcall_ioend_end_bio(struct bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio);
	struct upcall_ioends *ioends = ioend->io_private;
	bool first;

	/* As soon as the ioend is on the list the volume may go, but for a grace period. */
	rcu_read_lock();
	first = llist_add((struct llist_node *)&ioend->io_list, &ioends->arrived);
	if (READ_ONCE(ioends->over))
		upcall_ioends_refuse(ioends);
	else if (first)
		ioends->wake(ioends);
	rcu_read_unlock();
}

/* Before an ioend's bio is submitted: its end is for the upcall. */
void upcall_ioend_route(struct iomap_ioend *ioend, struct upcall_ioends *ioends)
{
	ioend->io_private = ioends;
	ioend->io_bio.bi_end_io = upcall_ioend_end_bio;
#ifdef UPCALL_BIO_COMPLETE_IN_TASK
	bio_clear_flag(&ioend->io_bio, BIO_COMPLETE_IN_TASK);
#endif
}

/*
 * Before an ioend's bio is submitted: it is not of the background for the block layer, as ext4's are
 * not. wbt allows so little of that at a time that a slow device is idle in between.
 */
void upcall_ioend_not_background(struct iomap_ioend *ioend)
{
	ioend->io_bio.bi_opf &= ~REQ_BACKGROUND;
}

/* Whether an ioend must end where one may sleep, although it needs no transaction. */
bool upcall_ioend_may_sleep(const struct iomap_ioend *ioend)
{
#ifdef IOMAP_IOEND_DONTCACHE
	return ioend->io_flags & IOMAP_IOEND_DONTCACHE;
#else
	return false;
#endif
}

static int upcall_ioend_compare(void *unused, const struct list_head *a, const struct list_head *b)
{
	const struct iomap_ioend *x = container_of(a, struct iomap_ioend, io_list);
	const struct iomap_ioend *y = container_of(b, struct iomap_ioend, io_list);

	if (x->io_inode != y->io_inode)
		return x->io_inode < y->io_inode ? -1 : 1;
	if (x->io_offset != y->io_offset)
		return x->io_offset < y->io_offset ? -1 : 1;
	return 0;
}

/* Takes what has arrived.  Returns whether there is anything. */
bool upcall_ioends_take(struct upcall_ioends *ioends)
{
	struct llist_node *node = llist_del_all(&ioends->arrived);

	if (node) {
		while (node) {
			struct list_head *link = (struct list_head *)node;

			node = node->next;
			list_add_tail(link, &ioends->taken);
		}
		list_sort(NULL, &ioends->taken, upcall_ioend_compare);
	}
	return !list_empty(&ioends->taken) || !list_empty(&ioends->same);
}

/*
 * The next run of what was taken: parts of one file that follow each other, merged.  It is to be
 * given to upcall_ioends_end_run().
 */
struct iomap_ioend *upcall_ioends_next_run(struct upcall_ioends *ioends)
{
	struct iomap_ioend *run, *ioend, *next;

	/* iomap merges by the place alone, so it is shown one file at a time. */
	if (list_empty(&ioends->same)) {
		run = list_first_entry_or_null(&ioends->taken, struct iomap_ioend, io_list);
		if (!run)
			return NULL;
		list_for_each_entry_safe(ioend, next, &ioends->taken, io_list) {
			if (ioend->io_inode != run->io_inode)
				break;
			list_move_tail(&ioend->io_list, &ioends->same);
		}
	}
	run = list_first_entry(&ioends->same, struct iomap_ioend, io_list);
	list_del_init(&run->io_list);
	iomap_ioend_try_merge(run, &ioends->same);
	ioends->current_run = run;
	return run;
}

/* How the bios of a run ended. */
int upcall_ioend_error(const struct iomap_ioend *run)
{
	return blk_status_to_errno(run->io_bio.bi_status);
}

/* The current run is done: the writeback of its folios ends. */
void upcall_ioends_end_run(struct upcall_ioends *ioends, int error)
{
	struct iomap_ioend *run = ioends->current_run;

	ioends->current_run = NULL;
	upcall_ioend_finish(ioends, run, error);
}
