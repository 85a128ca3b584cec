// SPDX-License-Identifier: GPL-2.0
/*
 * Exports the runtime's Rust symbols, as the kernel's rust/exports.c does.
 */
#include <linux/export.h>

#define EXPORT_SYMBOL_RUST_GPL(sym) extern int sym; EXPORT_SYMBOL_GPL(sym)

#include "upcall_exports.h"
