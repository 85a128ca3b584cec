// SPDX-License-Identifier: GPL-2.0
/*
 * Spinlocks that completions take.
 */
#include <linux/spinlock.h>

#include "helpers.h"

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
