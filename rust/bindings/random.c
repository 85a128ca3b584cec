// SPDX-License-Identifier: GPL-2.0
/*
 * Random numbers.
 */
#include <linux/random.h>

#include "helpers.h"

u64 upcall_random(void)
{
	return get_random_u64();
}
