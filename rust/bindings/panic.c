// SPDX-License-Identifier: GPL-2.0
/*
 * What is said when something is wrong, and what ends the machine.
 */
#include <linux/bug.h>
#include <linux/math64.h>
#include <linux/panic.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>

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

/* Whether one more line may be logged: ten in five seconds. */
bool upcall_ratelimit(struct ratelimit_state *state, const char *label)
{
	return ___ratelimit(state, label);
}

void upcall_ratelimit_init(struct ratelimit_state *state)
{
	ratelimit_default_init(state);
}

void upcall_panic(const char *label)
{
	panic("%s: panic forced by errors=panic\n", label);
}
