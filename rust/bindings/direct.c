// SPDX-License-Identifier: GPL-2.0
/*
 * Direct reads: at once, or when the map of the file is in memory; see rust/vfs/direct.rs.
 */
#include <linux/fs.h>
#include <linux/iomap.h>
#include <linux/kthread.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uio.h>
#include <linux/workqueue.h>

#include "helpers.h"

/*
 * A direct read, by the short way where the kernel has one and it fits: a block or less, in one
 * extent.
 */
ssize_t upcall_dio_read(struct kiocb *iocb, struct iov_iter *to, const struct iomap_ops *ops)
{
#ifdef UPCALL_DIO_READ_SIMPLE
	ssize_t ret = iomap_dio_read_simple(iocb, to, ops->iomap_begin);

	if (ret != -ENOTBLK)
		return ret;
#endif
	return iomap_dio_rw(iocb, to, ops, NULL, 0, NULL, 0);
}

/*
 * A read that was put off.  It has a kiocb of its own, so that the caller's is completed when
 * nothing of ours uses the file any more: a caller that has its answer may close it.
 */
struct upcall_dio {
	struct work_struct work;
	struct kiocb iocb;
	struct kiocb *caller;
	struct iov_iter to;
	const void *segments;
	struct mm_struct *mm;
	const struct iomap_ops *ops;
	/* The thread that sends the read, and the end of the read. */
	refcount_t users;
	ssize_t result;
};

static struct workqueue_struct *upcall_dio_queue;

/* Its threads may wait for the inode's lock, and for pages of the caller's memory. */
int upcall_dio_open(void)
{
	upcall_dio_queue = alloc_workqueue("upcall_dio", WQ_UNBOUND, 0);
	return upcall_dio_queue ? 0 : -ENOMEM;
}

void upcall_dio_close(void)
{
	if (upcall_dio_queue)
		destroy_workqueue(upcall_dio_queue);
	upcall_dio_queue = NULL;
}

static void upcall_dio_put(struct upcall_dio *dio)
{
	struct kiocb *caller = dio->caller;
	ssize_t result;

	if (!refcount_dec_and_test(&dio->users))
		return;
	result = dio->result;
	caller->ki_pos = dio->iocb.ki_pos;
	kfree(dio->segments);
	kfree(dio);
	caller->ki_complete(caller, result);
}

static void upcall_dio_complete(struct kiocb *iocb, long result)
{
	struct upcall_dio *dio = container_of(iocb, struct upcall_dio, iocb);

	dio->result = result;
	upcall_dio_put(dio);
}

static void upcall_dio_work(struct work_struct *work)
{
	struct upcall_dio *dio = container_of(work, struct upcall_dio, work);
	struct inode *inode = file_inode(dio->iocb.ki_filp);
	ssize_t result;

	if (dio->mm)
		kthread_use_mm(dio->mm);
	inode_lock_shared(inode);
	result = upcall_dio_read(&dio->iocb, &dio->to, dio->ops);
	inode_unlock_shared(inode);
	if (dio->mm) {
		kthread_unuse_mm(dio->mm);
		mmput_async(dio->mm);
	}
	if (result != -EIOCBQUEUED)
		upcall_dio_complete(&dio->iocb, result);
	upcall_dio_put(dio);
}

/*
 * Puts a read off, in the thread that asked for it.  From then on it is completed by what is sent.
 * NULL without memory, or if what it reads to may not be there any more when it is sent.
 */
struct upcall_dio *upcall_dio_take(struct kiocb *iocb, const struct iov_iter *to,
				   const struct iomap_ops *ops)
{
	struct upcall_dio *dio;

	if (is_sync_kiocb(iocb) || !(iov_iter_is_bvec(to) || (user_backed_iter(to) && current->mm)))
		return NULL;
	dio = kzalloc_obj(*dio, GFP_NOWAIT);
	if (!dio)
		return NULL;
	dio->to = *to;
	if (iter_is_iovec(to)) {
		dio->segments = dup_iter(&dio->to, (struct iov_iter *)to, GFP_NOWAIT);
		if (!dio->segments) {
			kfree(dio);
			return NULL;
		}
	}
	if (user_backed_iter(to)) {
		dio->mm = current->mm;
		mmget(dio->mm);
	}
	dio->iocb = *iocb;
	dio->iocb.ki_flags &= ~IOCB_NOWAIT;
	dio->iocb.ki_complete = upcall_dio_complete;
	dio->caller = iocb;
	dio->ops = ops;
	refcount_set(&dio->users, 2);
	INIT_WORK(&dio->work, upcall_dio_work);
	return dio;
}

/* Has a thread send it.  That may wait.  Any context. */
void upcall_dio_send(struct upcall_dio *dio)
{
	queue_work(upcall_dio_queue, &dio->work);
}
