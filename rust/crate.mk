# SPDX-License-Identifier: GPL-2.0
#
# How a crate of ours, or a module that uses them, is compiled: as the kernel's rule for a Rust
# object, but for the following.
#
# Every async fn calls a function of `core` that objtool does not know not to return
# (objtool's list has the panics of arithmetic, and takes others by the ends of their
# names).  The call goes to a function of ours, which has such a name.  So does that of a sort whose
# order contradicts itself.
#
# What the kernel's macros include from its tree is taken out of the dependencies: a
# rule of Kbuild's would make these files, and then all of ours, again each time.
resumed := _Rupcall_async_fn_resumed_4core9panicking5panic
no-order := _Rupcall_no_order_4core9panicking5panic

quiet_cmd_crate_o = $(quiet_cmd_rustc_o_rs)
      cmd_crate_o = \
	$(rust_common_cmd) --emit=obj=$@ $<; \
	sed -Ei 's, ?[^ ]*/generated_arch_[a-z_]*_asm\.rs:?,,g' $(depfile); \
	$(NM) -u $@ | sed -n -e 's/^ *U \(_R.*28panic_const_async_fn_resumed\)$$/\1 $(resumed)/p' \
		-e 's/^ *U \(_R.*22panic_on_ord_violation\)$$/\1 $(no-order)/p' > $@.syms; \
	$(OBJCOPY) --redefine-syms=$@.syms $@; rm -f $@.syms \
	$(cmd_objtool)

define rule_crate_o
	$(call cmd_and_fixdep,crate_o)
	$(call cmd,gen_objtooldep)
endef

include $(dir $(lastword $(MAKEFILE_LIST)))compat.mk

# The flags of what uses all crates, whose metadata is in directory $(1).
uses-crates = $(call compat-flags,$(1)) -L $(1) --extern upcall --extern disk --extern vfs --extern stack --extern volume
