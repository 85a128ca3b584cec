// SPDX-License-Identifier: GPL-2.0
/*
 * What lockdep is told of locks that are held by threads.
 */
#include <linux/lockdep.h>

#include "helpers.h"

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
