// SPDX-License-Identifier: GPL-2.0
/*
 * Static inlines and macros of the kernel that Rust cannot call, as functions.
 */
#include <linux/sched.h>
#include <linux/sched/mm.h>

#include "helpers.h"

bool upcall_current_work_is(work_func_t func)
{
	struct work_struct *work = current_work();

	return work && work->func == func;
}

/* Sleeps until *events differs from seen; see the Parker in rust/upcall/sys/linux.rs. */
void upcall_park(atomic_t *events, int seen)
{
	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		if (atomic_read(events) != seen)
			break;
		schedule();
	}
	__set_current_state(TASK_RUNNING);
}

struct workqueue_struct *upcall_alloc_ordered_workqueue(const char *name, unsigned int flags)
{
	return alloc_ordered_workqueue("%s", flags, name);
}

unsigned int upcall_memalloc_nofs_save(void)
{
	return memalloc_nofs_save();
}

void upcall_memalloc_nofs_restore(unsigned int flags)
{
	memalloc_nofs_restore(flags);
}

bool upcall_bdev_nowait(struct block_device *bdev)
{
	return bdev_nowait(bdev);
}

int upcall_blk_status_to_errno(blk_status_t status)
{
	return blk_status_to_errno(status);
}

void *upcall_page_address(struct page *page)
{
	return page_address(page);
}
