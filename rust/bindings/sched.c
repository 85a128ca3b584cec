// SPDX-License-Identifier: GPL-2.0
/*
 * Threads: what they wait for, and what they are allowed meanwhile.
 */
#include <linux/atomic.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/wait_bit.h>

#include "helpers.h"

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
