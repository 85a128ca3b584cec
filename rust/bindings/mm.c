// SPDX-License-Identifier: GPL-2.0
/*
 * Pages, slab caches and memory pools.
 */
#include <linux/memcontrol.h>
#include <linux/mempool.h>
#include <linux/mm.h>
#include <linux/shrinker.h>
#include <linux/slab.h>

#include "helpers.h"

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

void *upcall_page_address(struct page *page)
{
	return page_address(page);
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

/* Whether a shrinker is asked for all memory, and not for that of one control group. */
bool upcall_shrinks_all(const struct shrink_control *sc)
{
	return !sc->memcg || mem_cgroup_is_root(sc->memcg);
}
