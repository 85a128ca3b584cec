// SPDX-License-Identifier: GPL-2.0
/*
 * Static inlines and macros of the kernel that Rust cannot call, as functions.
 */
#include <linux/backing-dev.h>
#include <linux/blk-integrity.h>
#include <linux/blk-mq.h>
#include <linux/buffer_head.h>
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/lockdep.h>
#include <linux/memcontrol.h>
#include <linux/mempool.h>
#include <linux/mm.h>
#include <linux/panic.h>
#include <linux/part_stat.h>
#include <linux/path.h>
#include <linux/random.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/security.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>
#ifdef CONFIG_X86_64
#include <asm/msr.h>
#include <asm/tsc.h>
#endif

#include "helpers.h"

/*
 * Called where an async fn is resumed after it returned, which no executor does.  Kbuild
 * says why it has this name.
 */
void __noreturn _Rupcall_async_fn_resumed_4core9panicking5panic(const void *location);
void __noreturn _Rupcall_async_fn_resumed_4core9panicking5panic(const void *location)
{
	pr_emerg("upcall: an async fn was resumed after it returned\n");
	BUG();
}

/* Called where what is sorted has no order, which no type here does. */
void __noreturn _Rupcall_no_order_4core9panicking5panic(void);
void __noreturn _Rupcall_no_order_4core9panicking5panic(void)
{
	pr_emerg("upcall: an order contradicts itself\n");
	BUG();
}

/*
 * Sleeps until *events differs from seen, and counts as a wait for IO if io; see the Parker in
 * rust/upcall/sys/linux.rs.
 */
void upcall_park(atomic_t *events, int seen, bool io)
{
	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		if (atomic_read(events) != seen)
			break;
		if (io)
			io_schedule();
		else
			schedule();
	}
	__set_current_state(TASK_RUNNING);
}

/* An upcall_park() for IO that returns false if the thread was killed before. */
bool upcall_park_killable(atomic_t *events, int seen)
{
	bool woken;

	for (;;) {
		set_current_state(TASK_KILLABLE);
		woken = atomic_read(events) != seen;
		if (woken || fatal_signal_pending(current))
			break;
		io_schedule();
	}
	__set_current_state(TASK_RUNNING);
	return woken;
}

mempool_t *upcall_mempool_create(int count, size_t size, bool wait)
{
	return mempool_create_node(count, mempool_kmalloc, mempool_kfree, (void *)size,
				   wait ? GFP_KERNEL : GFP_NOWAIT | __GFP_NOWARN, NUMA_NO_NODE);
}

void *upcall_mempool_alloc(mempool_t *pool, bool wait)
{
	return mempool_alloc(pool, wait ? GFP_NOIO : GFP_NOWAIT);
}

void upcall_mempool_free(void *element, mempool_t *pool)
{
	mempool_free(element, pool);
}

#ifdef CONFIG_LOCKDEP
/* Without a key the lock is one whose order nobody checks. */
void upcall_dep_init(struct lockdep_map *map, const char *name, struct lock_class_key *key)
{
	lockdep_init_map_wait(map, name, key ?: &__lockdep_no_validate__, 0, LD_WAIT_SLEEP);
}

void upcall_dep_read(struct lockdep_map *map)
{
	rwsem_acquire_read(map, 0, 0, _RET_IP_);
}

void upcall_dep_write(struct lockdep_map *map)
{
	rwsem_acquire(map, 0, 0, _RET_IP_);
}

void upcall_dep_downgrade(struct lockdep_map *map)
{
	lock_downgrade(map, _RET_IP_);
}

void upcall_dep_release(struct lockdep_map *map)
{
	rwsem_release(map, _RET_IP_);
}
#endif

u64 upcall_now(void)
{
	return ktime_get_ns();
}

/*
 * The time of a unit of the clock that sys::stamp() reads, in nanoseconds << shift.  May sleep: a
 * kernel that does not trust the clock has not measured it.
 */
u64 upcall_stamp_scale(unsigned int shift)
{
#ifdef CONFIG_X86_64
	u64 stamp, ns;

	if (tsc_khz)
		return div_u64((u64)NSEC_PER_MSEC << shift, tsc_khz);
	stamp = rdtsc();
	ns = ktime_get_ns();
	msleep(50);
	ns = ktime_get_ns() - ns;
	return div64_u64(ns << shift, (rdtsc() - stamp) ?: 1);
#else
	return 1ULL << shift;
#endif
}

/* With a constructor the memory is not cleared when it is allocated: it is written whole. */
static void upcall_cache_object(void *object)
{
}

struct kmem_cache *upcall_cache_create(unsigned int size)
{
	char name[16];

	snprintf(name, sizeof(name), "upcall-%u", size);
	return kmem_cache_create(name, size, 0, 0, upcall_cache_object);
}

void *upcall_cache_alloc(struct kmem_cache *cache)
{
	return kmem_cache_alloc(cache, GFP_NOFS);
}

void *upcall_cache_alloc_nowait(struct kmem_cache *cache)
{
	return kmem_cache_alloc(cache, GFP_NOWAIT | __GFP_NOWARN);
}

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

/* Lets go of paths.  Each may wait for its device, so none waits for another. */
static struct workqueue_struct *upcall_release_queue;

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

/* Any context. */
void upcall_reclaim(size_t size)
{
	/* The larger of two may get lost: whoever wanted it asks again. */
	if (size > READ_ONCE(upcall_reclaim_size))
		WRITE_ONCE(upcall_reclaim_size, size);
	queue_work(upcall_reclaim_queue, &upcall_reclaim_work);
}

bool upcall_is_kworker(void)
{
	return current->flags & PF_WQ_WORKER;
}

/* The count of those who use something; whoever takes it down waits for zero. */
void upcall_users_enter(atomic_t *users)
{
	atomic_inc(users);
}

void upcall_users_leave(atomic_t *users)
{
	/* What they used may be freed once the count is zero: only its address is used after. */
	if (atomic_dec_and_test(users))
		wake_up_var(users);
}

void upcall_users_wait(atomic_t *users)
{
	wait_var_event(users, !atomic_read_acquire(users));
}

/* A caller broke a rule of the runtime. */
void upcall_warn_rule(const char *rule, unsigned int len)
{
	WARN_RATELIMIT(1, "upcall: %.*s\n", len, rule);
}

void upcall_warn_long_poll(const char *name, unsigned int len, u64 ns)
{
	pr_warn_ratelimited("upcall: one poll of \"%.*s\" held the thread for %llu us\n", len, name,
			    div_u64(ns, NSEC_PER_USEC));
}

/* Guards the list of scopes.  A scope can end in interrupt context. */
static DEFINE_SPINLOCK(registry);

unsigned long upcall_registry_lock(void)
{
	unsigned long flags;

	spin_lock_irqsave(&registry, flags);
	return flags;
}

void upcall_registry_unlock(unsigned long flags)
{
	spin_unlock_irqrestore(&registry, flags);
}

/* Starts a timer that was never set up, at a time of the monotonic clock. */
void upcall_timer_start(struct hrtimer *timer, enum hrtimer_restart (*fire)(struct hrtimer *), u64 at)
{
	if (object_is_on_stack(timer))
		hrtimer_setup_on_stack(timer, fire, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
	else
		hrtimer_setup(timer, fire, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
	hrtimer_start(timer, ns_to_ktime(at), HRTIMER_MODE_ABS);
}

/* Waits for the handler if it is running. */
void upcall_timer_cancel(struct hrtimer *timer)
{
	hrtimer_cancel(timer);
	if (object_is_on_stack(timer))
		destroy_hrtimer_on_stack(timer);
}

/*
 * Waits until no completion that has begun is in our text any more: neither in interrupt context
 * or in the read section that end_io is, nor in a thread that was preempted there.
 */
void upcall_wait_for_completions(void)
{
	synchronize_rcu();
	synchronize_rcu_tasks();
}

/* For long loops of a thread: lets others run, and says whether the thread was killed. */
bool upcall_interrupted(void)
{
	cond_resched();
	return fatal_signal_pending(current);
}

/*
 * A run of an executor that always has something to do.  Its thread has the highest priority, to
 * answer quickly; one that does not come to an end shares the CPU as others do.  It never sleeps, and
 * the workqueue's cond_resched() is no quiescent state of RCU tasks; none of our callers is in a
 * trampoline.
 */
int upcall_busy_begin(void)
{
	int nice = task_nice(current);

	if (nice < 0)
		set_user_nice(current, 0);
	cond_resched_tasks_rcu_qs();
	return nice;
}

void upcall_busy_end(int nice)
{
	set_user_nice(current, nice);
}

/* For works that may wait, several at a time. */
struct workqueue_struct *upcall_alloc_workqueue(const char *name)
{
	return alloc_workqueue("%s", WQ_UNBOUND, 0, name);
}

/* Runs a work that was never set up, after a grace period. */
void upcall_queue_rcu_work(struct workqueue_struct *wq, struct rcu_work *work,
			   void (*func)(struct work_struct *))
{
	INIT_RCU_WORK(work, func);
	queue_rcu_work(wq, work);
}

struct workqueue_struct *upcall_alloc_ordered_workqueue(const char *name, unsigned int flags)
{
	return alloc_ordered_workqueue("%s", flags, name);
}

void upcall_preempt_disable(void)
{
	preempt_disable();
}

void upcall_preempt_enable(void)
{
	preempt_enable();
}

unsigned int upcall_memalloc_nofs_save(void)
{
	return memalloc_nofs_save();
}

void upcall_memalloc_nofs_restore(unsigned int flags)
{
	memalloc_nofs_restore(flags);
}

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

bool upcall_may_use_reserve(u32 uid, u32 gid)
{
	kgid_t group = make_kgid(&init_user_ns, gid);

	return uid_eq(make_kuid(&init_user_ns, uid), current_fsuid()) ||
	       (!gid_eq(group, GLOBAL_ROOT_GID) && in_group_p(group)) ||
	       capable(CAP_SYS_RESOURCE);
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

void *upcall_page_address(struct page *page)
{
	return page_address(page);
}

/* A lock that completions take.  All of them are one class: none is taken under another. */
void upcall_irq_lock_init(spinlock_t *lock)
{
	spin_lock_init(lock);
}

unsigned long upcall_irq_lock(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

void upcall_irq_unlock(spinlock_t *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}

/* Memory for a block, which does not cross a page, without zeroes where the kernel does not insist. */
void *upcall_block_alloc(unsigned int size, bool wait)
{
	gfp_t gfp = wait ? GFP_NOFS | __GFP_RETRY_MAYFAIL | __GFP_NOWARN : GFP_NOWAIT | __GFP_NOWARN;

	if (size == PAGE_SIZE)
		return (void *)__get_free_page(gfp);
	return kmalloc(size, gfp);
}

void upcall_block_free(void *block, unsigned int size)
{
	if (size == PAGE_SIZE)
		free_page((unsigned long)block);
	else
		kfree(block);
}

struct page *upcall_block_page(void *block, unsigned int *offset)
{
	*offset = offset_in_page(block);
	return virt_to_page(block);
}

u64 upcall_total_memory(void)
{
	return (u64)totalram_pages() << PAGE_SHIFT;
}

u64 upcall_random(void)
{
	return get_random_u64();
}

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

void upcall_sb_fill(struct super_block *sb, const struct upcall_volume_info *info)
{
	sb->s_magic = info->magic;
	sb->s_maxbytes = min_t(u64, info->max_bytes, MAX_LFS_FILESIZE);
	sb->s_time_gran = info->time_gran;
	sb->s_time_min = info->time_min;
	sb->s_time_max = info->time_max;
	super_set_uuid(sb, info->uuid, sizeof(info->uuid));
	super_set_sysfs_name_bdev(sb);
	upcall_sb_set_acl(sb, info->posix_acl);
}

void upcall_sb_set_acl(struct super_block *sb, bool acl)
{
	if (acl)
		sb->s_flags |= SB_POSIXACL;
	else
		sb->s_flags &= ~SB_POSIXACL;
}

bool upcall_inode_is_new(struct inode *inode)
{
	return inode_state_read_once(inode) & I_NEW;
}

void upcall_inode_fill(struct inode *inode, const struct upcall_attr *attr)
{
	inode->i_mode = attr->mode;
	i_uid_write(inode, attr->uid);
	i_gid_write(inode, attr->gid);
	set_nlink(inode, attr->nlink);
	i_size_write(inode, attr->size);
	inode->i_blocks = attr->sectors;
	inode->i_generation = attr->generation;
	inode_set_atime_to_ts(inode, attr->atime);
	inode_set_mtime_to_ts(inode, attr->mtime);
	inode_set_ctime_to_ts(inode, attr->ctime);
	inode_set_flags(inode, attr->s_flags, S_SYNC | S_APPEND | S_IMMUTABLE | S_NOATIME | S_DIRSYNC);
	if (attr->no_acl)
		cache_no_acl(inode);
	if (S_ISCHR(attr->mode) || S_ISBLK(attr->mode) || S_ISFIFO(attr->mode) || S_ISSOCK(attr->mode))
		init_special_inode(inode, attr->mode, MKDEV(attr->rdev_major, attr->rdev_minor));
}

void upcall_set_large_folios(struct inode *inode)
{
	mapping_set_large_folios(inode->i_mapping);
}

void upcall_inode_nohighmem(struct inode *inode)
{
	inode_nohighmem(inode);
}

void upcall_statfs_fsid(struct kstatfs *st, const struct super_block *sb)
{
	st->f_fsid = uuid_to_fsid((__u8 *)sb->s_uuid.b);
}

bool upcall_sb_rdonly(const struct super_block *sb)
{
	return sb_rdonly(sb);
}

/* For a superblock that is being filled. */
void upcall_sb_set_rdonly(struct super_block *sb)
{
	sb->s_flags |= SB_RDONLY;
}

/* Whether one more line may be logged: ten in five seconds. */
bool upcall_ratelimit(struct ratelimit_state *state, const char *label)
{
	return ___ratelimit(state, label);
}

void upcall_ratelimit_init(struct ratelimit_state *state)
{
	ratelimit_default_init(state);
}

/* Whether a shrinker is asked for all memory, and not for that of one control group. */
bool upcall_shrinks_all(const struct shrink_control *sc)
{
	return !sc->memcg || mem_cgroup_is_root(sc->memcg);
}

void upcall_invalidate_bdev(struct block_device *bdev)
{
	invalidate_bdev(bdev);
}

void upcall_panic(const char *label)
{
	panic("%s: panic forced by errors=panic\n", label);
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

/* iomap_bio_readahead(), with data for the operations; see upcall_iomap_private(). */
void upcall_bio_readahead(struct readahead_control *rac, const struct iomap_ops *ops, void *private)
{
	struct iomap_read_folio_ctx ctx = {
		.ops = &iomap_bio_read_ops,
		.rac = rac,
	};

	iomap_readahead(ops, &ctx, private);
}

/* In iomap_begin(): the private data of the iteration. */
void *upcall_iomap_private(struct iomap *iomap)
{
	return container_of(iomap, struct iomap_iter, iomap)->private;
}

void upcall_bio_read_folio(struct folio *folio, const struct iomap_ops *ops)
{
	iomap_bio_read_folio(folio, ops);
}

/*
 * Moves the folios of a readahead request to one that outlives the call.  They are locked and
 * in the page cache, which keeps their mapping alive; the file and its state are not needed to
 * read them.
 */
void upcall_readahead_take(struct readahead_control *to, struct readahead_control *from)
{
	*to = (struct readahead_control) {
		.mapping = from->mapping,
		._index = from->_index,
		._nr_pages = from->_nr_pages,
		._batch_count = from->_batch_count,
		.dropbehind = from->dropbehind,
	};
	from->_index += from->_nr_pages;
	from->_nr_pages = 0;
	from->_batch_count = 0;
}

/* Unlocks what was not read; whoever needs it reads it again and gets the error. */
void upcall_readahead_drop_rest(struct readahead_control *rac)
{
	struct folio *folio;

	while ((folio = readahead_folio(rac)))
		folio_unlock(folio);
}

u64 upcall_readahead_pos(struct readahead_control *rac)
{
	return readahead_pos(rac);
}

u64 upcall_readahead_length(struct readahead_control *rac)
{
	return readahead_length(rac);
}

void upcall_acl_set(struct posix_acl *acl, unsigned int i, short tag, unsigned short perm, u32 id)
{
	struct posix_acl_entry *entry = &acl->a_entries[i];

	entry->e_tag = tag;
	entry->e_perm = perm;
	if (tag == ACL_USER)
		entry->e_uid = make_kuid(&init_user_ns, id);
	else if (tag == ACL_GROUP)
		entry->e_gid = make_kgid(&init_user_ns, id);
}

void upcall_acl_get(const struct posix_acl *acl, unsigned int i, struct upcall_acl_entry *to)
{
	const struct posix_acl_entry *entry = &acl->a_entries[i];

	to->tag = entry->e_tag;
	to->perm = entry->e_perm;
	to->id = 0;
	if (entry->e_tag == ACL_USER)
		to->id = from_kuid(&init_user_ns, entry->e_uid);
	else if (entry->e_tag == ACL_GROUP)
		to->id = from_kgid(&init_user_ns, entry->e_gid);
}

void upcall_drop_acl(struct posix_acl *acl)
{
	posix_acl_release(acl);
}

/*
 * Whether the caller may change the attributes, as a file system asks at the beginning of its
 * setattr(); and what they become, with the volume's owners and groups.
 */
int upcall_setattr_prepare(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr,
			   struct upcall_setattr *to)
{
	struct inode *inode = d_inode(dentry);
	struct user_namespace *ns = i_user_ns(inode);
	vfsgid_t gid = i_gid_into_vfsgid(idmap, inode);
	int error;

	if (IS_IMMUTABLE(inode))
		return -EPERM;
	if (IS_APPEND(inode) && attr->ia_valid & (ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_TIMES_SET))
		return -EPERM;
	error = setattr_prepare(idmap, dentry, attr);
	if (error)
		return error;
	*to = (struct upcall_setattr) {
		.valid = attr->ia_valid,
		.size = attr->ia_size,
		.mode = attr->ia_mode,
		.atime = attr->ia_atime,
		.mtime = attr->ia_mtime,
	};
	if (attr->ia_valid & ATTR_UID)
		to->uid = from_kuid(ns, from_vfsuid(idmap, ns, attr->ia_vfsuid));
	if (attr->ia_valid & ATTR_GID) {
		gid = attr->ia_vfsgid;
		to->gid = from_kgid(ns, from_vfsgid(idmap, ns, gid));
	}
	if (attr->ia_valid & ATTR_MODE && !in_group_or_capable(idmap, inode, gid))
		to->mode &= ~S_ISGID;
	return 0;
}

void upcall_current_time(struct inode *inode, struct timespec64 *now)
{
	*now = current_time(inode);
}

/* The time of day for a file that has no VFS inode: not before a finer one that another file was given. */
void upcall_device_time(struct block_device *bdev, struct timespec64 *now)
{
	*now = current_time(bdev->bd_mapping->host);
}

/*
 * The time for a change of an inode, which it has from now on as its ctime: a finer one than usual if
 * somebody has looked at the one that it has.  Any context.
 */
void upcall_inode_stamp(struct inode *inode, struct timespec64 *now)
{
	*now = inode_set_ctime_current(inode);
}

/*
 * With lazytime: gives an inode the time, which sync_lazytime() is to write later.  Does not sleep.
 * Returns 0 if the superblock has no lazytime, 1 if it is done, or an error number.
 */
int upcall_lazy_time(struct inode *inode, enum fs_update_time what, unsigned int flags)
{
	int dirty;

	if (!(inode->i_sb->s_flags & SB_LAZYTIME))
		return 0;
	dirty = inode_update_time(inode, what, flags);
	if (dirty < 0)
		return dirty;
	if (dirty)
		__mark_inode_dirty(inode, dirty);
	return 1;
}

/* Whether the inode has times that are to be written later.  The caller writes them now. */
bool upcall_lazy_take(struct inode *inode)
{
	bool lazy;

	if (!(inode_state_read_once(inode) & I_DIRTY_TIME))
		return false;
	spin_lock(&inode->i_lock);
	lazy = inode_state_read(inode) & I_DIRTY_TIME;
	if (lazy)
		inode_state_clear(inode, I_DIRTY_TIME);
	spin_unlock(&inode->i_lock);
	return lazy;
}

/* The caller could not write them. */
void upcall_lazy_put(struct inode *inode)
{
	__mark_inode_dirty(inode, I_DIRTY_TIME);
}

void upcall_inode_times(struct inode *inode, struct upcall_times *times)
{
	times->atime = inode_get_atime(inode);
	times->mtime = inode_get_mtime(inode);
	times->ctime = inode_get_ctime(inode);
}

void upcall_inode_state_lock(struct inode *inode)
{
	spin_lock(&inode->i_lock);
}

void upcall_inode_state_unlock(struct inode *inode)
{
	spin_unlock(&inode->i_lock);
}

static struct timespec64 later(struct timespec64 a, struct timespec64 b)
{
	return timespec64_compare(&a, &b) > 0 ? a : b;
}

static void mirror_times(struct inode *inode, const struct upcall_attr *attr)
{
	struct timespec64 atime = attr->atime, mtime = attr->mtime, ctime = attr->ctime;
	struct timespec64 was = inode_get_ctime(inode);

	if (inode_state_read(inode) & I_DIRTY_TIME) {
		/* Some of those that the inode has are to be written later. */
		atime = later(inode_get_atime(inode), atime);
		mtime = later(inode_get_mtime(inode), mtime);
		ctime = later(was, ctime);
	}
	inode_set_atime_to_ts(inode, atime);
	inode_set_mtime_to_ts(inode, mtime);
	/* Setting it forgets that somebody has looked at it. */
	if (!timespec64_equal(&was, &ctime))
		inode_set_ctime_to_ts(inode, ctime);
}

/* What can change of an inode is as attr says; with i_lock held, under which attr was made. */
void upcall_inode_mirror(struct inode *inode, const struct upcall_attr *attr)
{
	inode->i_mode = attr->mode;
	i_uid_write(inode, attr->uid);
	i_gid_write(inode, attr->gid);
	if (inode->i_nlink != attr->nlink)
		set_nlink(inode, attr->nlink);
	if (!S_ISREG(attr->mode))
		i_size_write(inode, attr->size);
	inode->i_blocks = attr->sectors;
	mirror_times(inode, attr);
	inode_set_flags(inode, attr->s_flags, S_SYNC | S_APPEND | S_IMMUTABLE | S_NOATIME | S_DIRSYNC);
}

bool upcall_inode_is_sync(const struct inode *inode)
{
	return IS_SYNC(inode);
}

bool upcall_inode_is_dirsync(const struct inode *inode)
{
	return IS_DIRSYNC(inode);
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

void upcall_inode_owner(const struct inode *inode, u32 *uid, u32 *gid)
{
	*uid = i_uid_read(inode);
	*gid = i_gid_read(inode);
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
