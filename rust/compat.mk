# SPDX-License-Identifier: GPL-2.0
#
# What our crates use and the tree's `kernel` crate lacks, by looking at it: a cfg for each, for
# rust/compat/lib.rs.  If there is any, `compat-flags` gives the crates that one as `kernel`
# (an --extern with a path goes before one without).
#
#	$(call compat-flags,DIR)	DIR has libkernel_compat.rmeta

# lacks-if-not NAME,PATTERN,FILE: a cfg, unless FILE of the tree's rust/kernel has PATTERN (in which
# a dot stands for a parenthesis)
lacks-if-not = $(if $(shell grep -e $(2) $(srctree)/rust/kernel/$(3)),,--cfg lacks_$(1))

compat-cfg := $(strip \
	$(call lacks-if-not,errno,'declare_err!.EUCLEAN,',error.rs) \
	$(call lacks-if-not,ordering,'pub fn smp_mb<',sync/barrier.rs) \
	$(call lacks-if-not,restart,'newtype-enum hrtimer_restart',../bindgen_parameters) \
	$(call lacks-if-not,zeroed,'pub fn zeroed.n: usize',alloc/kvec.rs) \
	$(call lacks-if-not,value,'pub fn value.&self. -> T$$',module_param.rs))

compat-flags = $(if $(compat-cfg),--extern kernel=$(1)/libkernel_compat.rmeta)
