// SPDX-License-Identifier: GPL-2.0

//! Random numbers.

use crate::sys;

/// A number that nobody can guess. Process context.
///
/// C header: [`include/linux/random.h`](srctree/include/linux/random.h).
pub fn random() -> u64 {
    sys::random()
}
