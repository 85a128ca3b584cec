// SPDX-License-Identifier: GPL-2.0
/*
 * Workqueues, and what is done on those that the executors share.
 */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/path.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "helpers.h"

/*
 * Reclaim on behalf of those who may not wait for it.  The pages are had from the allocator itself,
 * so that what is free in a slab cache does not pass for memory that others can have.
 */
static struct workqueue_struct *upcall_reclaim_queue;
static size_t upcall_reclaim_size;

static void upcall_reclaim_run(struct work_struct *work)
{
	unsigned int order = get_order(max(xchg(&upcall_reclaim_size, 0), 1));
	unsigned long pages = __get_free_pages(GFP_NOFS | __GFP_NOWARN, order);

	if (pages)
		free_pages(pages, order);
	upcall_rs_memory_freed();
}
static DECLARE_WORK(upcall_reclaim_work, upcall_reclaim_run);

/* Any context. */
void upcall_reclaim(size_t size)
{
	/* The larger of two may get lost: whoever wanted it asks again. */
	if (size > READ_ONCE(upcall_reclaim_size))
		WRITE_ONCE(upcall_reclaim_size, size);
	queue_work(upcall_reclaim_queue, &upcall_reclaim_work);
}

/* Lets go of paths.  Each may wait for its device, so none waits for another. */
static struct workqueue_struct *upcall_release_queue;

struct upcall_held_path {
	struct work_struct work;
	struct path path;
};

static void upcall_release_path(struct work_struct *work)
{
	struct upcall_held_path *held = container_of(work, struct upcall_held_path, work);

	path_put(&held->path);
	kfree(held);
}

/* Takes over a reference on a path, if there is memory to let go of it later. */
struct upcall_held_path *upcall_hold_path(const struct path *path, bool wait)
{
	struct upcall_held_path *held = kmalloc(sizeof(*held), wait ? GFP_KERNEL : GFP_NOWAIT);

	if (held) {
		INIT_WORK(&held->work, upcall_release_path);
		held->path = *path;
	}
	return held;
}

const struct path *upcall_held_path(const struct upcall_held_path *held)
{
	return &held->path;
}

/* Lets go of it: later, in another thread, or at once. */
void upcall_let_go(struct upcall_held_path *held, bool later)
{
	if (later)
		queue_work(upcall_release_queue, &held->work);
	else
		upcall_release_path(&held->work);
}

int upcall_queues_open(void)
{
	upcall_reclaim_queue = alloc_workqueue("upcall_reclaim", WQ_MEM_RECLAIM | WQ_UNBOUND, 1);
	upcall_release_queue = alloc_workqueue("upcall_release", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!upcall_reclaim_queue || !upcall_release_queue)
		return -ENOMEM;
	return upcall_ioends_open() ?: upcall_dio_open();
}

void upcall_queues_close(void)
{
	upcall_dio_close();
	upcall_ioends_close();
	if (upcall_reclaim_queue)
		destroy_workqueue(upcall_reclaim_queue);
	if (upcall_release_queue)
		destroy_workqueue(upcall_release_queue);
	upcall_reclaim_queue = NULL;
	upcall_release_queue = NULL;
}

/* For works that may wait, several at a time. */
struct workqueue_struct *upcall_alloc_workqueue(const char *name)
{
	return alloc_workqueue("%s", WQ_UNBOUND, 0, name);
}

struct workqueue_struct *upcall_alloc_ordered_workqueue(const char *name, unsigned int flags)
{
	return alloc_ordered_workqueue("%s", flags, name);
}

/* Runs a work that was never set up, after a grace period. */
void upcall_queue_rcu_work(struct workqueue_struct *wq, struct rcu_work *work,
			   void (*func)(struct work_struct *))
{
	INIT_RCU_WORK(work, func);
	queue_rcu_work(wq, work);
}
