// SPDX-License-Identifier: GPL-2.0
/*
 * Folios that are read, by iomap.
 */
#include <linux/iomap.h>
#include <linux/pagemap.h>

#include "helpers.h"

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
