/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Static inlines and macros of the kernel that Rust cannot call, as functions.
 */
#ifndef UPCALL_HELPERS_H
#define UPCALL_HELPERS_H

#include <linux/bio.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/iomap.h>
#include <linux/llist.h>
#include <linux/lockdep_types.h>
#include <linux/mempool.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/ratelimit_types.h>
#include <linux/seq_file.h>
#include <linux/shrinker.h>
#include <linux/spinlock.h>
#include <linux/statfs.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xattr.h>

/* Threads and workqueues */
void upcall_wait_for_completions(void);
bool upcall_interrupted(void);
int upcall_busy_begin(void);
void upcall_busy_end(int nice);
u64 upcall_now(void);
bool upcall_is_kworker(void);
u64 upcall_stamp_scale(unsigned int shift);
void upcall_users_enter(atomic_t *users);
void upcall_users_leave(atomic_t *users);
void upcall_users_wait(atomic_t *users);
void upcall_warn_rule(const char *rule, unsigned int len);
void upcall_warn_long_poll(const char *name, unsigned int len, u64 ns);
unsigned long upcall_registry_lock(void);
void upcall_registry_unlock(unsigned long flags);
void upcall_timer_start(struct hrtimer *timer, enum hrtimer_restart (*fire)(struct hrtimer *), u64 at);
void upcall_timer_cancel(struct hrtimer *timer);
void upcall_park(atomic_t *events, int seen, bool io);
bool upcall_park_killable(atomic_t *events, int seen);
struct workqueue_struct *upcall_alloc_workqueue(const char *name);
void upcall_queue_rcu_work(struct workqueue_struct *wq, struct rcu_work *work,
			   void (*func)(struct work_struct *));
struct workqueue_struct *upcall_alloc_ordered_workqueue(const char *name, unsigned int flags);
void upcall_preempt_disable(void);
void upcall_preempt_enable(void);
unsigned int upcall_memalloc_nofs_save(void);
void upcall_memalloc_nofs_restore(unsigned int flags);

/* Memory of tasks and requests */
struct kmem_cache *upcall_cache_create(unsigned int size);
void *upcall_cache_alloc(struct kmem_cache *cache);
void *upcall_cache_alloc_nowait(struct kmem_cache *cache);
int upcall_queues_open(void);
void upcall_queues_close(void);
void upcall_reclaim(size_t size);
void upcall_rs_memory_freed(void);

/* Memory that is set aside */
mempool_t *upcall_mempool_create(int count, size_t size, bool wait);
void *upcall_mempool_alloc(mempool_t *pool, bool wait);
void upcall_mempool_free(void *element, mempool_t *pool);

/* What lockdep is told of locks that are held by threads; there if CONFIG_LOCKDEP is */
void upcall_dep_init(struct lockdep_map *map, const char *name, struct lock_class_key *key);
void upcall_dep_read(struct lockdep_map *map);
void upcall_dep_write(struct lockdep_map *map);
void upcall_dep_downgrade(struct lockdep_map *map);
void upcall_dep_release(struct lockdep_map *map);

/* debugfs, and what it asks of Rust */
void upcall_debugfs_create(void);
void upcall_debugfs_remove(void);
void upcall_rs_show_executors(struct seq_file *file);
void upcall_rs_show_tasks(struct seq_file *file);
u64 upcall_rs_poll_limit(void);
int upcall_rs_set_poll_limit(u64 us);
struct upcall_debugfs_volume;
typedef void (*upcall_debugfs_show)(const void *volume, struct seq_file *file);
struct dentry *upcall_debugfs_root(const char *name);
void upcall_debugfs_remove_root(struct dentry *root);
struct upcall_debugfs_volume *upcall_debugfs_add(struct dentry *root, const struct super_block *sb,
						 upcall_debugfs_show show, const void *volume);
void upcall_debugfs_destroy(struct upcall_debugfs_volume *debugfs);

/* sysfs: counters of mounted volumes.  A counter is written to a page of SIZE bytes. */
struct upcall_sysfs;
typedef ssize_t (*upcall_sysfs_show)(const void *volume, unsigned int index, u8 *page, size_t size);
struct kobject *upcall_sysfs_root(const char *name);
struct upcall_sysfs *upcall_sysfs_create(struct kobject *root, const struct super_block *sb,
					 const char *const *names, unsigned int count,
					 upcall_sysfs_show show, const void *volume);
void upcall_sysfs_destroy(struct upcall_sysfs *sysfs);

/* Tracepoints, for whoever checked their keys */
void upcall_do_trace_spawn(u64 task, const char *executor, const char *name, unsigned int len);
void upcall_do_trace_wake(u64 task);
void upcall_do_trace_poll_begin(u64 task);
void upcall_do_trace_poll_end(u64 task, bool ready);
void upcall_do_trace_cancel(u64 task);
void upcall_do_trace_complete(u64 task);
void upcall_do_trace_bio_submit(const struct bio *bio);
void upcall_do_trace_bio_complete(const struct bio *bio, u64 sector, int error);
void upcall_do_trace_aext4_transaction_start(const struct block_device *bdev, u32 tid, u32 blocks,
					     u32 revokes);
void upcall_do_trace_aext4_commit_begin(const struct block_device *bdev, u32 tid, u32 blocks,
					u32 revokes);
void upcall_do_trace_aext4_commit_end(const struct block_device *bdev, u32 tid, u64 us, int error);
void upcall_do_trace_aext4_checkpoint(const struct block_device *bdev, u32 tid, u32 transactions,
				      u32 blocks, u32 space);
void upcall_do_trace_aext4_allocate_blocks(const struct block_device *bdev, u64 goal, u32 want,
					   u64 start, u32 len);
void upcall_do_trace_aext4_allocate_inode(const struct block_device *bdev, u32 ino, u32 parent,
					  bool dir);
void upcall_do_trace_aext4_writeback_map(const struct block_device *bdev, u32 ino, u64 pos,
					 u64 offset, u64 len, u64 addr, bool mapped);

/* Block devices and bios */
bool upcall_bdev_nowait(struct block_device *bdev);
unsigned long upcall_bdev_depth(struct block_device *bdev);
struct file *upcall_open_bdev(const char *path, bool write);
struct block_device *upcall_file_bdev(struct file *file);
u64 upcall_bdev_size(struct block_device *bdev);
bool upcall_bdev_read_only(struct block_device *bdev);
bool upcall_may_use_reserve(u32 uid, u32 gid);
u64 upcall_sectors_written(struct block_device *bdev);
unsigned int upcall_discard_granularity(struct block_device *bdev);
int upcall_edit_buffer(struct block_device *bdev, u64 pos,
		       void (*change)(void *arg, u8 *bytes), void *arg);
unsigned int upcall_dma_alignment(struct block_device *bdev);
unsigned int upcall_logical_block_size(struct block_device *bdev);
int upcall_blk_status_to_errno(blk_status_t status);

/* Pages */
void *upcall_page_address(struct page *page);

/* Blocks of metadata, and the locks that completions take */
void upcall_irq_lock_init(spinlock_t *lock);
unsigned long upcall_irq_lock(spinlock_t *lock);
void upcall_irq_unlock(spinlock_t *lock, unsigned long flags);
void *upcall_block_alloc(unsigned int size, bool wait);
void upcall_block_free(void *block, unsigned int size);
struct page *upcall_block_page(void *block, unsigned int *offset);
u64 upcall_total_memory(void);
u64 upcall_random(void);

/* Superblocks and inodes */
struct upcall_volume_info {
	u64 magic;
	u64 max_bytes;
	s64 time_min, time_max;
	u32 time_gran;
	u8 uuid[16];
	bool posix_acl;
};

struct upcall_times {
	struct timespec64 atime, mtime, ctime;
};

struct upcall_attr {
	u64 size, sectors, version;
	struct timespec64 atime, mtime, ctime;
	u32 uid, gid, generation, nlink, rdev_major, rdev_minor;
	u32 s_flags;
	u16 mode;
	bool no_acl;
};

struct kmem_cache *upcall_inode_cache(const char *name, unsigned int size, unsigned int align,
				      void (*ctor)(void *));
void *upcall_alloc_inode(struct super_block *sb, struct kmem_cache *cache);
void upcall_free_inode(void *inode);
void upcall_sb_fill(struct super_block *sb, const struct upcall_volume_info *info);
void upcall_sb_set_acl(struct super_block *sb, bool acl);
bool upcall_inode_is_new(struct inode *inode);
void upcall_inode_fill(struct inode *inode, const struct upcall_attr *attr);
void upcall_set_large_folios(struct inode *inode);
void upcall_inode_nohighmem(struct inode *inode);
void upcall_statfs_fsid(struct kstatfs *st, const struct super_block *sb);
bool upcall_sb_rdonly(const struct super_block *sb);
void upcall_sb_set_rdonly(struct super_block *sb);
bool upcall_ratelimit(struct ratelimit_state *state, const char *label);
void upcall_ratelimit_init(struct ratelimit_state *state);
bool upcall_shrinks_all(const struct shrink_control *sc);
void upcall_invalidate_bdev(struct block_device *bdev);
void upcall_panic(const char *label);

bool upcall_link_is_empty(const char *link, struct delayed_call *done);

/* Files and directories */
bool upcall_dir_emit(struct dir_context *ctx, const char *name, int len, u64 ino, unsigned int type);
void upcall_file_can_odirect(struct file *file);
bool upcall_inode_lock_shared(struct inode *inode, bool nowait);
void upcall_inode_unlock_shared(struct inode *inode);
void upcall_file_accessed(struct file *file);

/* Pages */
void upcall_bio_readahead(struct readahead_control *rac, const struct iomap_ops *ops, void *private);
void *upcall_iomap_private(struct iomap *iomap);
void upcall_bio_read_folio(struct folio *folio, const struct iomap_ops *ops);
void upcall_readahead_take(struct readahead_control *to, struct readahead_control *from);
void upcall_readahead_drop_rest(struct readahead_control *rac);
u64 upcall_readahead_pos(struct readahead_control *rac);
u64 upcall_readahead_length(struct readahead_control *rac);

/* Direct reads */
struct upcall_dio;
int upcall_dio_open(void);
void upcall_dio_close(void);
ssize_t upcall_dio_read(struct kiocb *iocb, struct iov_iter *to, const struct iomap_ops *ops);
struct upcall_dio *upcall_dio_take(struct kiocb *iocb, const struct iov_iter *to,
				   const struct iomap_ops *ops);
void upcall_dio_send(struct upcall_dio *dio);

/* Files that are written */
bool upcall_inode_lock(struct inode *inode, bool nowait);
void upcall_inode_unlock(struct inode *inode);
bool upcall_inode_is_nosec(struct inode *inode);
loff_t upcall_i_size_read(struct inode *inode);
void upcall_i_size_write(struct inode *inode, loff_t size);
void upcall_invalidate_lock(struct inode *inode);
void upcall_invalidate_unlock(struct inode *inode);
size_t upcall_iov_iter_count(const struct iov_iter *iter);
ssize_t upcall_write_sync(struct kiocb *iocb, ssize_t count);
bool upcall_file_is_sync(const struct file *file);
bool upcall_stable_writes(struct inode *inode);
void upcall_write_back_all(struct super_block *sb);
loff_t upcall_folio_end(struct folio *folio);
int upcall_mmap_prepare(struct vm_area_desc *desc, const struct vm_operations_struct *ops);
vm_fault_t upcall_page_mkwrite(struct vm_fault *vmf, const struct iomap_ops *ops,
			       int (*prepare)(struct inode *inode));

/* Writeback whose end needs a transaction: of a volume */
struct upcall_ioends {
	struct llist_head arrived, ended;
	struct list_head taken, same;
	struct iomap_ioend *current_run;
	struct work_struct work;
	bool over;
	/* Any context */
	void (*wake)(struct upcall_ioends *ioends);
};
int upcall_ioends_open(void);
void upcall_ioends_close(void);
void upcall_ioends_init(struct upcall_ioends *ioends, void (*wake)(struct upcall_ioends *));
void upcall_ioends_destroy(struct upcall_ioends *ioends);
void upcall_ioends_stop(struct upcall_ioends *ioends);
void upcall_ioends_restart(struct upcall_ioends *ioends);
void upcall_ioend_route(struct iomap_ioend *ioend, struct upcall_ioends *ioends);
void upcall_ioend_not_background(struct iomap_ioend *ioend);
bool upcall_ioend_may_sleep(const struct iomap_ioend *ioend);
bool upcall_ioends_take(struct upcall_ioends *ioends);
struct iomap_ioend *upcall_ioends_next_run(struct upcall_ioends *ioends);
int upcall_ioend_error(const struct iomap_ioend *run);
void upcall_ioends_end_run(struct upcall_ioends *ioends, int error);

/* Attributes and access control lists */
void upcall_acl_set(struct posix_acl *acl, unsigned int i, short tag, unsigned short perm, u32 id);

/* Changes of inodes */
struct upcall_setattr {
	u32 valid, uid, gid;
	u16 mode;
	u64 size;
	struct timespec64 atime, mtime;
};
int upcall_setattr_prepare(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr,
			   struct upcall_setattr *to);
void upcall_current_time(struct inode *inode, struct timespec64 *now);
void upcall_device_time(struct block_device *bdev, struct timespec64 *now);
void upcall_inode_stamp(struct inode *inode, struct timespec64 *now);
int upcall_lazy_time(struct inode *inode, enum fs_update_time what, unsigned int flags);
bool upcall_lazy_take(struct inode *inode);
void upcall_lazy_put(struct inode *inode);
void upcall_inode_times(struct inode *inode, struct upcall_times *times);
void upcall_inode_state_lock(struct inode *inode);
void upcall_inode_state_unlock(struct inode *inode);
void upcall_inode_mirror(struct inode *inode, const struct upcall_attr *attr);
bool upcall_inode_is_sync(const struct inode *inode);
bool upcall_inode_is_dirsync(const struct inode *inode);

/* New inodes, and their names */
struct inode *upcall_new_inode(struct mnt_idmap *idmap, struct inode *dir, umode_t mode, bool grpid);
void upcall_inode_owner(const struct inode *inode, u32 *uid, u32 *gid);
int upcall_init_security(struct inode *inode, struct inode *dir, const struct qstr *name,
			 int (*each)(struct inode *, const struct xattr *, void *), void *data);
int upcall_insert_inode(struct inode *inode, u64 ino);
int upcall_open_tmpfile(struct file *file, struct inode *inode);
u32 upcall_dev_major(dev_t dev);
u32 upcall_dev_minor(dev_t dev);
void upcall_drop_acl(struct posix_acl *acl);

/* Changes that do not come by the VFS */
struct upcall_inode {
	struct inode inode;
	/* Of a directory: changes when its names do, but not when the VFS changes them. */
	unsigned long names;
};
void upcall_names_init(struct inode *inode);
void upcall_names_changed(struct inode *inode);
void upcall_dentry_set_version(struct dentry *dentry, unsigned long version);
u64 upcall_dentry_ino(const struct dentry *dentry);
void upcall_inode_forget(struct inode *inode);
bool upcall_has_leases(struct inode *inode, bool to_read);
int upcall_break_leases(struct inode *inode, bool to_read);
loff_t upcall_inode_size(const struct inode *inode);
bool upcall_has_dirty(const struct inode *inode);
void upcall_prune(struct inode *inode);
struct upcall_held_path;
struct vfsmount *upcall_held_mount(const struct upcall_held_path *held);
struct file *upcall_open_inode(struct vfsmount *mnt, struct inode *inode, int flags);
void upcall_close_inode(struct file *file);
int upcall_file_truncate(struct file *file, loff_t size);
void upcall_write_inodes(struct super_block *sb);

/* Readers without a VFS inode */
struct upcall_acl_entry {
	u16 tag;
	u16 perm;
	u32 id;
};
const struct cred *upcall_get_current_cred(void);
bool upcall_permitted(const struct cred *cred, u32 uid, u32 gid, u16 mode,
		      const struct upcall_acl_entry *acl, unsigned int count, unsigned int want);
void upcall_acl_get(const struct posix_acl *acl, unsigned int i, struct upcall_acl_entry *to);
bool upcall_cred_capable(const struct cred *cred, int cap);
bool upcall_cred_in_group(const struct cred *cred, u32 gid);
void upcall_cred_owners(const struct cred *cred, u32 *uid, u32 *gid);
bool upcall_has_pages(const struct inode *inode);
enum upcall_cached { UPCALL_NOT_CACHED, UPCALL_COPIED, UPCALL_CACHED_IN_PART };
enum upcall_cached upcall_copy_cached(struct inode *inode, u64 pos, void *to, size_t len);
const struct path *upcall_file_path(const struct file *file);
const struct path *upcall_held_path(const struct upcall_held_path *held);
struct upcall_held_path *upcall_hold_path(const struct path *path, bool wait);
void upcall_let_go(struct upcall_held_path *held, bool later);
struct dentry *upcall_dget(struct dentry *dentry);

#endif
