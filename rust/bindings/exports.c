// SPDX-License-Identifier: GPL-2.0
/*
 * Exports a crate's symbols, as the kernel's rust/exports.c does, and tells the module's version,
 * for which the kernel's module! has no key.  Kbuild compiles it once for each module, with the
 * list of the module's symbols.
 */
#include <linux/export.h>
#include <linux/module.h>

#define EXPORT_SYMBOL_RUST_GPL(sym) extern int sym; EXPORT_SYMBOL_GPL(sym)

#include CRATE_EXPORTS

MODULE_VERSION(VERSION);
