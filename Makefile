# SPDX-License-Identifier: GPL-2.0
#
# For a person at the command line.  What is built, and how, is in Kbuild.
# "make help" prints the targets with what stands behind their ##.

# The kernel to build for: any prepared tree with Rust, the running one's by default.
KDIR ?= /lib/modules/$(shell uname -r)/build
SHELL := /bin/bash

.PHONY: all modules install clean check-kdir help run shell test nightly lab mutants bench \
	check rustfmt rustfmt-check rustdoc clippy rust-analyzer

all: modules ## the same as "make modules"

### Building, for a tree of your own (KDIR=TREE, CLIPPY=1)

check-kdir:
	@if [ ! -e $(KDIR)/Makefile ]; then \
		echo "There is no kernel tree at $(KDIR)."; \
		echo "On Debian 13, tools/kernel-tree makes one for the running kernel; then: make KDIR=TREE"; \
		exit 1; \
	elif ! grep -qs '^CONFIG_RUST=y' $(KDIR)/include/config/auto.conf; then \
		echo "The kernel of $(KDIR) was configured without CONFIG_RUST=y, and cannot load Rust modules."; \
		echo "Debian's kernels from 7.2 on, in trixie-backports, can."; \
		exit 1; \
	elif [ ! -e $(KDIR)/rust/libkernel.rmeta ]; then \
		echo "$(KDIR) has no metadata of the kernel crate (rust/libkernel.rmeta)."; \
		echo "On Debian 13, tools/kernel-tree makes a tree that has it; then: make KDIR=TREE"; \
		echo "In a tree of your own: make LLVM= prepare rust/kernel.o modules_prepare"; \
		exit 1; \
	fi

modules: check-kdir ## build all modules in the checkout, the samples and the tests, too
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules

install: check-kdir ## build and install upcall.ko, aext4.ko, and fsck.aext4 (a link to e2fsck)
	$(MAKE) -C $(KDIR) M=$(CURDIR) UPCALL_ONLY=y modules
	$(MAKE) -C $(KDIR) M=$(CURDIR) UPCALL_ONLY=y modules_install
	depmod -b "$(INSTALL_MOD_PATH)/" -a "$$(cat $(KDIR)/include/config/kernel.release)"
	install -d "$(INSTALL_MOD_PATH)/usr/sbin"
	ln -sf e2fsck "$(INSTALL_MOD_PATH)/usr/sbin/fsck.aext4"

clean: ## remove what was built in the checkout
	@if [ -e $(KDIR)/Makefile ]; then $(MAKE) -C $(KDIR) M=$(CURDIR) clean; fi

### Checking the source, with the lab's tools

check: ## all checks (tools/check)
	tools/check

rustfmt: ## format the Rust
	tools/lab run rustfmt $$(git ls-files -co --exclude-standard '*.rs')

rustfmt-check: ## is the Rust formatted?
	tools/check rustfmt

clippy: ## build with Clippy's warnings
	tools/check $@

rustdoc: ## make the crates' documentation, with its examples
	tools/check $@

# With KDIR given, for that tree, after "make modules" there; else for the lab's
rust-analyzer: ## write rust-project.json, for editors
ifeq ($(origin KDIR),file)
	tools/lab run tools/rust-analyzer /kernel/stock "$$(tools/lab modules stock)" "$$(tools/lab path)/root"
else
	tools/rust-analyzer $(abspath $(KDIR)) $(CURDIR)
endif

### Running, in a virtual machine

lab: ## provision the lab; whatever needs it does so, too
	tools/lab

run: ## see it run: an image is checked, and read by many upcalls
	tools/run

shell: ## a shell in that machine, with the volume at /mnt
	tools/run --shell

test: ## run all tests, or those that UPCALL_TEST=PATTERN picks
	tools/test

nightly: ## the torture and the Rust API, for as long as a night allows
	tools/test --nightly

mutants: ## break the runtime and the journal in small ways, and expect red
	tools/lab run tools/mutants
	tools/lab run tools/mutants-journal

### Measuring, in simulated time (BENCH=T1,B1, LAT=100us,2ms)

bench: ## run the benchmarks
	BENCH="$(BENCH)" LAT="$(LAT)" bench/run

help: ## print this
	@sed -nE 's/^### (.*)/\n\1/p; s/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | awk -F '\t' \
		'NF == 2 { printf "    make %-14s %s\n", $$1, $$2; next } { print }'
