// SPDX-License-Identifier: GPL-2.0
/*
 * What the runtime is compared with: the same work by the kernel's own means.
 *
 * Writing "WORKLOAD ARGUMENTS" to the debugfs file upcall_peer/run runs the workload in
 * the writer's thread, reading the file gives "ns=.. ops=.." of the last one and what else
 * it counted. bench/runtime does both; upcall_bench.rs has the other side.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/llist.h>
#include <linux/module.h>
#include <linux/rwsem.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/workqueue.h>

/* Ordered, as the executor's own: what is fair to compare with. And one that is not. */
static struct workqueue_struct *ordered, *unordered;

static DEFINE_MUTEX(running);
static char result[160];

static struct workqueue_struct *queue_named(const char *name)
{
	return !strcmp(name, "unordered") ? unordered : ordered;
}

/* ---- Work items ---- */

static void do_nothing(struct work_struct *work)
{
}

static u64 run_work(struct workqueue_struct *wq, u64 count)
{
	struct work_struct work;
	u64 start, i;

	INIT_WORK_ONSTACK(&work, do_nothing);
	start = ktime_get_ns();
	for (i = 0; i < count; i++) {
		queue_work(wq, &work);
		flush_work(&work);
	}
	start = ktime_get_ns() - start;
	destroy_work_on_stack(&work);
	return start;
}

/* An item that, when it runs, queues another, which may be itself. */
struct chained {
	struct work_struct work;
	struct chained *next;
	struct workqueue_struct *wq;
	u64 *left;
	struct completion *done;
};

static void run_next(struct work_struct *work)
{
	struct chained *this = container_of(work, struct chained, work);

	if (--*this->left)
		queue_work(this->wq, &this->next->work);
	else
		complete(this->done);
}

/* Two items that queue each other, or one that queues itself. */
static u64 run_requeue(struct workqueue_struct *wq, u64 count, bool itself)
{
	DECLARE_COMPLETION_ONSTACK(done);
	struct chained items[2];
	u64 start, left = count;
	int i;

	for (i = 0; i < 2; i++) {
		INIT_WORK_ONSTACK(&items[i].work, run_next);
		items[i].next = &items[itself ? i : !i];
		items[i].wq = wq;
		items[i].left = &left;
		items[i].done = &done;
	}
	start = ktime_get_ns();
	queue_work(wq, &items[0].work);
	wait_for_completion(&done);
	start = ktime_get_ns() - start;
	for (i = 0; i < 2; i++) {
		flush_work(&items[i].work);
		destroy_work_on_stack(&items[i].work);
	}
	return start;
}

/* The worker has nothing else to do, and tells us each time that it ran. */
struct told {
	struct work_struct work;
	struct completion done;
};

static void tell(struct work_struct *work)
{
	complete(&container_of(work, struct told, work)->done);
}

static u64 run_idle(struct workqueue_struct *wq, u64 count)
{
	struct told told;
	u64 start, i;

	INIT_WORK_ONSTACK(&told.work, tell);
	init_completion(&told.done);
	start = ktime_get_ns();
	for (i = 0; i < count; i++) {
		queue_work(wq, &told.work);
		wait_for_completion(&told.done);
	}
	start = ktime_get_ns() - start;
	flush_work(&told.work);
	destroy_work_on_stack(&told.work);
	return start;
}

/* ---- A lock ---- */

static DECLARE_RWSEM(lock);

static u64 run_rwsem(u64 count)
{
	u64 start = ktime_get_ns(), i;

	for (i = 0; i < count; i++) {
		down_read(&lock);
		up_read(&lock);
	}
	return ktime_get_ns() - start;
}

/* ---- Reads of a device ---- */

static struct bio_set bios;

struct reads {
	struct block_device *bdev;
	u64 count;
	u64 pages;
	atomic64_t next;
	atomic_t errors;
	/* Of one thread: */
	struct llist_head done;
	struct task_struct *submitter;
	/* Of many threads: */
	atomic64_t switches;
	struct completion all;
};

struct slot {
	struct bio bio;
	/* The one that is out: ours, or one that was allocated for the read. */
	struct bio *out;
	struct bio_vec vec;
	struct page *page;
	struct llist_node node;
	struct reads *reads;
};

static u64 splitmix64(u64 n)
{
	u64 z = n * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* The sector of the n-th read, as in upcall_bench.rs. */
static sector_t random_sector(struct reads *reads, u64 n)
{
	return (splitmix64(n) & (reads->pages - 1)) << (PAGE_SHIFT - SECTOR_SHIFT);
}

static struct bio *prepare(struct slot *slot, u64 n, bool allocate, blk_opf_t opf)
{
	struct bio *bio = &slot->bio;

	if (allocate)
		bio = bio_alloc_bioset(slot->reads->bdev, 1, opf, GFP_NOIO, &bios);
	else
		bio_init(bio, slot->reads->bdev, &slot->vec, 1, opf);
	__bio_add_page(bio, slot->page, PAGE_SIZE, 0);
	bio->bi_iter.bi_sector = random_sector(slot->reads, n);
	bio->bi_private = slot;
	slot->out = bio;
	return bio;
}

static void read_done(struct bio *bio)
{
	struct slot *slot = bio->bi_private;
	struct reads *reads = slot->reads;

	/* Whoever finds the list empty wakes. */
	if (llist_add(&slot->node, &reads->done))
		wake_up_process(reads->submitter);
}

/*
 * One thread with a number of reads in flight, each of which is followed by another when it is
 * done. Pages are made once. So are the bios, which is as cheap as it gets, or they are allocated
 * for each read, which is usual. What is done together is submitted together, but for "bios" alone, and
 * the block layer looks for neighbours to merge with for "merging" alone.
 */
static u64 run_bios(struct reads *reads, struct slot *slots, unsigned int depth, const char *how,
		    u64 *sleeps, u64 *sleeps_submitting)
{
	bool allocate = !strcmp(how, "allocated"), plugged = strcmp(how, "bios");
	blk_opf_t opf = REQ_OP_READ | (strcmp(how, "merging") ? REQ_NOMERGE : 0);
	struct llist_node *list;
	struct blk_plug plug;
	struct slot *slot, *next;
	struct bio *bio;
	unsigned long before;
	u64 start, n, out = 0;
	unsigned int i;

	init_llist_head(&reads->done);
	reads->submitter = current;
	start = ktime_get_ns();
	for (i = 0; i < depth; i++)
		llist_add(&slots[i].node, &reads->done);
	out = depth;
	while (out) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		list = llist_del_all(&reads->done);
		if (!list) {
			++*sleeps;
			schedule();
			continue;
		}
		__set_current_state(TASK_RUNNING);
		before = current->nvcsw;
		if (plugged)
			blk_start_plug(&plug);
		llist_for_each_entry_safe(slot, next, list, node) {
			if (slot->out) {
				if (slot->out->bi_status)
					atomic_inc(&reads->errors);
				if (allocate)
					bio_put(slot->out);
				else
					bio_uninit(slot->out);
			}
			n = atomic64_inc_return(&reads->next) - 1;
			if (n >= reads->count) {
				out--;
				continue;
			}
			bio = prepare(slot, n, allocate, opf);
			bio->bi_end_io = read_done;
			submit_bio(bio);
		}
		if (plugged)
			blk_finish_plug(&plug);
		*sleeps_submitting += current->nvcsw - before;
	}
	return ktime_get_ns() - start;
}

static int read_in_thread(void *data)
{
	struct slot *slot = data;
	struct reads *reads = slot->reads;
	u64 n;

	while ((n = atomic64_inc_return(&reads->next) - 1) < reads->count) {
		if (submit_bio_wait(prepare(slot, n, false, REQ_OP_READ | REQ_NOMERGE)))
			atomic_inc(&reads->errors);
		bio_uninit(&slot->bio);
	}
	atomic64_add(current->nvcsw + current->nivcsw, &reads->switches);
	/* Does not come back here, where the module may be gone. */
	kthread_complete_and_exit(&reads->all, 0);
}

/* A thread for each read that is in flight. */
static u64 run_kthreads(struct reads *reads, struct slot *slots, unsigned int depth)
{
	u64 start = ktime_get_ns();
	unsigned int i;

	init_completion(&reads->all);
	for (i = 0; i < depth; i++) {
		if (IS_ERR(kthread_run(read_in_thread, &slots[i], "upcall_peer"))) {
			atomic_inc(&reads->errors);
			break;
		}
	}
	while (i--)
		wait_for_completion(&reads->all);
	return ktime_get_ns() - start;
}

static void free_slots(struct slot *slots, unsigned int depth)
{
	unsigned int i;

	for (i = 0; i < depth && slots[i].page; i++)
		__free_page(slots[i].page);
	kvfree(slots);
}

static struct slot *make_slots(struct reads *reads, unsigned int depth)
{
	struct slot *slots = kvcalloc(depth, sizeof(*slots), GFP_KERNEL);
	unsigned int i;

	for (i = 0; slots && i < depth; i++) {
		slots[i].reads = reads;
		slots[i].page = alloc_page(GFP_KERNEL);
		if (!slots[i].page) {
			free_slots(slots, depth);
			return NULL;
		}
	}
	return slots;
}

static int run_reads(const char *name, const char *path, unsigned int depth, u64 count)
{
	u64 ns, sleeps = 0, submitting = 0;
	struct reads *reads;
	struct slot *slots;
	struct file *file;
	int err = -ENOMEM;

	reads = kzalloc_obj(*reads);
	if (!reads)
		return err;
	file = bdev_file_open_by_path(path, BLK_OPEN_READ, NULL, NULL);
	if (IS_ERR(file)) {
		err = PTR_ERR(file);
		goto free;
	}
	reads->bdev = file_bdev(file);
	reads->count = count;
	reads->pages = rounddown_pow_of_two(bdev_nr_bytes(reads->bdev) >> PAGE_SHIFT);
	slots = make_slots(reads, depth);
	if (!slots)
		goto close;
	if (!strcmp(name, "kthreads")) {
		ns = run_kthreads(reads, slots, depth);
		snprintf(result, sizeof(result),
			 "ns=%llu ops=%llu threads=%u switches=%lld bytes=%lu\n",
			 ns, count, depth, atomic64_read(&reads->switches),
			 depth * (THREAD_SIZE + sizeof(struct task_struct)));
	} else if (!strcmp(name, "bios") || !strcmp(name, "plugged") ||
		   !strcmp(name, "merging") ||
		   !strcmp(name, "allocated")) {
		ns = run_bios(reads, slots, depth, name, &sleeps, &submitting);
		snprintf(result, sizeof(result),
			 "ns=%llu ops=%llu sleeps=%llu sleeps_submitting=%llu\n",
			 ns, count, sleeps, submitting);
	} else {
		atomic_inc(&reads->errors);
	}
	err = atomic_read(&reads->errors) ? -EIO : 0;
	free_slots(slots, depth);
close:
	fput(file);
free:
	kfree(reads);
	return err;
}

/* ---- Reads of a file ---- */

/* Of one thread, with a number of them in flight. */
struct file_reads {
	struct file *file;
	u64 step, pages;
	struct llist_head done;
	struct task_struct *submitter;
};

struct file_read {
	struct kiocb iocb;
	struct bio_vec vec;
	struct page *page;
	struct llist_node node;
	struct file_reads *reads;
	long got;
};

/* The position of the n-th read, as in door_bench.rs and direct.c. */
static loff_t place(struct file_reads *reads, u64 n)
{
	return ((reads->pages ? splitmix64(n) & (reads->pages - 1) : n) * reads->step) << PAGE_SHIFT;
}

static void file_read_done(struct kiocb *iocb, long got)
{
	struct file_read *read = container_of(iocb, struct file_read, iocb);
	struct file_reads *reads = read->reads;

	read->got = got;
	if (llist_add(&read->node, &reads->done))
		wake_up_process(reads->submitter);
}

static void begin_file_read(struct file_read *read, u64 n)
{
	struct iov_iter iter;
	ssize_t got;

	init_sync_kiocb(&read->iocb, read->reads->file);
	read->iocb.ki_complete = file_read_done;
	read->iocb.ki_pos = place(read->reads, n);
	bvec_set_page(&read->vec, read->page, PAGE_SIZE, 0);
	iov_iter_bvec(&iter, ITER_DEST, &read->vec, 1, PAGE_SIZE);
	got = read->reads->file->f_op->read_iter(&read->iocb, &iter);
	if (got != -EIOCBQUEUED)
		file_read_done(&read->iocb, got);
}

/* As run_bios(), by the file system's own asynchronous direct reads. */
static int run_kiocbs(const char *path, unsigned int depth, u64 count, u64 step, u64 pages)
{
	struct file_read *slots, *read, *following;
	struct file_reads reads = { .step = step, .pages = pages, .submitter = current };
	u64 start, n = 0, sleeps = 0;
	unsigned int i, out = depth;
	struct llist_node *list;
	struct blk_plug plug;
	int err = -ENOMEM;

	init_llist_head(&reads.done);
	reads.file = filp_open(path, O_RDONLY | O_DIRECT, 0);
	if (IS_ERR(reads.file))
		return PTR_ERR(reads.file);
	slots = kvcalloc(depth, sizeof(*slots), GFP_KERNEL);
	if (!slots)
		goto close;
	for (i = 0; i < depth; i++) {
		slots[i].reads = &reads;
		slots[i].got = PAGE_SIZE;
		slots[i].page = alloc_page(GFP_KERNEL);
		if (!slots[i].page)
			goto free;
	}
	err = 0;
	start = ktime_get_ns();
	for (i = 0; i < depth; i++)
		llist_add(&slots[i].node, &reads.done);
	while (out) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		list = llist_del_all(&reads.done);
		if (!list) {
			sleeps++;
			schedule();
			continue;
		}
		__set_current_state(TASK_RUNNING);
		blk_start_plug(&plug);
		llist_for_each_entry_safe(read, following, list, node) {
			if (read->got != PAGE_SIZE)
				err = -EIO;
			if (n < count)
				begin_file_read(read, n++);
			else
				out--;
		}
		blk_finish_plug(&plug);
	}
	snprintf(result, sizeof(result), "ns=%llu ops=%llu sleeps=%llu\n",
		 ktime_get_ns() - start, count, sleeps);
free:
	for (i = 0; i < depth && slots[i].page; i++)
		__free_page(slots[i].page);
	kvfree(slots);
close:
	fput(reads.file);
	return err;
}

/* ---- The file ---- */

static int run(char *line)
{
	char name[16], word[64] = "";
	unsigned int depth = 0;
	u64 ns, count = 0, step = 0, pages = 0;
	int words;

	words = sscanf(line, "%15s %63s %u %llu %llu %llu", name, word, &depth, &count, &step, &pages);
	if (words >= 4) {
		if (!depth || depth > 65536 || !count)
			return -EINVAL;
		if (words == 6 && !strcmp(name, "kiocb"))
			return run_kiocbs(word, depth, count, step, pages);
		return run_reads(name, word, depth, count);
	}
	if (sscanf(line, "%15s %llu %63s", name, &count, word) < 2 || !count)
		return -EINVAL;
	if (!strcmp(name, "work"))
		ns = run_work(queue_named(word), count);
	else if (!strcmp(name, "requeue"))
		ns = run_requeue(queue_named(word), count, false);
	else if (!strcmp(name, "again"))
		ns = run_requeue(queue_named(word), count, true);
	else if (!strcmp(name, "idle"))
		ns = run_idle(queue_named(word), count);
	else if (!strcmp(name, "rwsem"))
		ns = run_rwsem(count);
	else
		return -EINVAL;
	snprintf(result, sizeof(result), "ns=%llu ops=%llu\n", ns, count);
	return 0;
}

static ssize_t run_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	char *line;
	int err;

	if (len > 128)
		return -EINVAL;
	line = memdup_user_nul(buf, len);
	if (IS_ERR(line))
		return PTR_ERR(line);
	mutex_lock(&running);
	err = run(line);
	mutex_unlock(&running);
	kfree(line);
	return err ?: len;
}

static ssize_t run_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	ssize_t count;

	mutex_lock(&running);
	count = simple_read_from_buffer(buf, len, pos, result, strlen(result));
	mutex_unlock(&running);
	return count;
}

static const struct file_operations run_fops = {
	.owner = THIS_MODULE,
	.read = run_read,
	.write = run_write,
};

static struct dentry *dir;

static int __init peer_init(void)
{
	ordered = alloc_ordered_workqueue("upcall_peer", WQ_MEM_RECLAIM | WQ_HIGHPRI);
	unordered = alloc_workqueue("upcall_peer_u", WQ_MEM_RECLAIM | WQ_HIGHPRI | WQ_UNBOUND, 0);
	if (!ordered || !unordered || bioset_init(&bios, 64, 0, BIOSET_NEED_BVECS)) {
		if (ordered)
			destroy_workqueue(ordered);
		if (unordered)
			destroy_workqueue(unordered);
		return -ENOMEM;
	}
	dir = debugfs_create_dir("upcall_peer", NULL);
	debugfs_create_file("run", 0600, dir, NULL, &run_fops);
	return 0;
}

static void __exit peer_exit(void)
{
	debugfs_remove(dir);
	bioset_exit(&bios);
	destroy_workqueue(ordered);
	destroy_workqueue(unordered);
}

module_init(peer_init);
module_exit(peer_exit);
MODULE_DESCRIPTION("What the runtime is compared with");
MODULE_LICENSE("GPL");
