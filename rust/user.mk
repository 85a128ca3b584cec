# SPDX-License-Identifier: GPL-2.0
#
# For the Kbuild of a module that uses ours; Documentation/rust-api.md says how.
#
#	upcall-users	its Rust objects, without the .o
#	UPCALL		this checkout
#	UPCALL_OUT	where it was built, if that is elsewhere

UPCALL_OUT ?= $(UPCALL)

include $(UPCALL)/rust/crate.mk

$(foreach u,$(upcall-users),$(eval RUSTFLAGS_$(u).o := $(call uses-crates,$(UPCALL_OUT)/rust)))
$(upcall-users:%=$(obj)/%.o): $(obj)/%.o: $(src)/%.rs $(UPCALL_OUT)/rust/libvolume.rmeta FORCE
	+$(call if_changed_rule,crate_o)
