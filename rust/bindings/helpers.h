/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Static inlines and macros of the kernel that Rust cannot call, as functions.
 */
#ifndef UPCALL_HELPERS_H
#define UPCALL_HELPERS_H

#include <linux/bio.h>
#include <linux/buffer_head.h>
#include <linux/fs.h>
#include <linux/iomap.h>
#include <linux/pagemap.h>
#include <linux/workqueue.h>

/* Threads and workqueues */
bool upcall_current_work_is(work_func_t func);
void upcall_park(atomic_t *events, int seen);
struct workqueue_struct *upcall_alloc_ordered_workqueue(const char *name, unsigned int flags);
unsigned int upcall_memalloc_nofs_save(void);
void upcall_memalloc_nofs_restore(unsigned int flags);

/* Block devices and bios */
bool upcall_bdev_nowait(struct block_device *bdev);
int upcall_blk_status_to_errno(blk_status_t status);

/* Pages */
void *upcall_page_address(struct page *page);

#endif
