// SPDX-License-Identifier: GPL-2.0
/*
 * The clock, and timers.
 */
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/sched/task_stack.h>
#ifdef CONFIG_X86_64
#include <asm/msr.h>
#include <asm/tsc.h>
#endif

#include "helpers.h"

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
