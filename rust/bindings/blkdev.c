// SPDX-License-Identifier: GPL-2.0
/*
 * Block devices.
 */
#include <linux/blk-integrity.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/buffer_head.h>
#include <linux/part_stat.h>

#include "helpers.h"

/* Not exclusively: such a file needs no more than fput(). */
struct file *upcall_open_bdev(const char *path, bool write)
{
	return bdev_file_open_by_path(path, BLK_OPEN_READ | (write ? BLK_OPEN_WRITE : 0), NULL, NULL);
}

struct block_device *upcall_file_bdev(struct file *file)
{
	return file_bdev(file);
}

u64 upcall_bdev_size(struct block_device *bdev)
{
	return bdev_nr_bytes(bdev);
}

bool upcall_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

u64 upcall_sectors_written(struct block_device *bdev)
{
	return part_stat_read(bdev, sectors[STAT_WRITE]);
}

/* What a discard should be a multiple of, in bytes; 0 if the device knows none. */
unsigned int upcall_discard_granularity(struct block_device *bdev)
{
	if (!bdev_max_discard_sectors(bdev))
		return 0;
	return max(bdev_discard_granularity(bdev), 1U);
}

/*
 * Changes bytes of the device in its own cache, where programs read and write them too, and writes
 * them to stable media.
 */
int upcall_edit_buffer(struct block_device *bdev, u64 pos,
		       void (*change)(void *arg, u8 *bytes), void *arg)
{
	unsigned int size = i_blocksize(bdev->bd_mapping->host);
	struct buffer_head *bh = __bread(bdev, pos >> ilog2(size), size);
	int err;

	if (!bh)
		return -EIO;
	lock_buffer(bh);
	/* The replay of a journal writes past the cache. */
	if (!buffer_dirty(bh)) {
		clear_buffer_uptodate(bh);
		err = __bh_read(bh, REQ_META, true);
		lock_buffer(bh);
		if (err || !buffer_uptodate(bh)) {
			unlock_buffer(bh);
			brelse(bh);
			return -EIO;
		}
	}
	change(arg, (u8 *)bh->b_data + (pos & (size - 1)));
	mark_buffer_dirty(bh);
	unlock_buffer(bh);
	err = __sync_dirty_buffer(bh, REQ_SYNC | REQ_META | REQ_FUA);
	brelse(bh);
	return err;
}

/*
 * Whether a request with REQ_NOWAIT is submitted, or refused, without a wait.  A driver that may
 * sleep does so in the thread that submits; and with integrity data each bio gets a buffer, with
 * an allocation that waits.
 */
bool upcall_bdev_nowait(struct block_device *bdev)
{
	struct request_queue *q = bdev_get_queue(bdev);

	if (queue_is_mq(q) && (q->tag_set->flags & BLK_MQ_F_BLOCKING))
		return false;
	return bdev_nowait(bdev) && !bdev_get_integrity(bdev);
}

/* How many requests a device has tags for; 0 if it has none. */
unsigned long upcall_bdev_depth(struct block_device *bdev)
{
	struct request_queue *q = bdev_get_queue(bdev);

	return queue_is_mq(q) ? (unsigned long)q->nr_requests * q->nr_hw_queues : 0;
}

/* In bytes: what direct IO has to align its memory to. */
unsigned int upcall_dma_alignment(struct block_device *bdev)
{
	return bdev_dma_alignment(bdev) + 1;
}

unsigned int upcall_logical_block_size(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

int upcall_blk_status_to_errno(blk_status_t status)
{
	return blk_status_to_errno(status);
}

void upcall_invalidate_bdev(struct block_device *bdev)
{
	invalidate_bdev(bdev);
}
