# SPDX-License-Identifier: GPL-2.0
#
# For a person at the command line.  What is built, and how, is in Kbuild.

# The kernel to build for: any prepared tree with Rust, the running one's by default.
KDIR ?= /lib/modules/$(shell uname -r)/build
SHELL := /bin/bash

.PHONY: all modules install clean check-kdir help run shell test nightly lab mutants bench \
	rustfmt rustfmt-check rustdoc clippy

all: modules

## Building (KDIR=TREE, CLIPPY=1)

check-kdir:
	@if [ ! -e $(KDIR)/Makefile ]; then \
		echo "There is no kernel tree at $(KDIR)."; \
		echo "On Debian 13, tools/kernel-tree makes one for the running kernel; then: make KDIR=TREE"; \
		exit 1; \
	elif ! grep -qs '^CONFIG_RUST=y' $(KDIR)/include/config/auto.conf; then \
		echo "The kernel of $(KDIR) was configured without CONFIG_RUST=y, and cannot load Rust modules."; \
		echo "Debian's kernels from 7.3 on, in trixie-backports, can."; \
		exit 1; \
	elif [ ! -e $(KDIR)/rust/libkernel.rmeta ]; then \
		echo "$(KDIR) has no metadata of the kernel crate (rust/libkernel.rmeta)."; \
		echo "On Debian 13, tools/kernel-tree makes a tree that has it; then: make KDIR=TREE"; \
		echo "In a tree of your own: make LLVM= prepare rust/kernel.o modules_prepare"; \
		exit 1; \
	fi

modules: check-kdir
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules

# Without the samples and the tests
install: check-kdir
	$(MAKE) -C $(KDIR) M=$(CURDIR) UPCALL_ONLY=y modules
	$(MAKE) -C $(KDIR) M=$(CURDIR) UPCALL_ONLY=y modules_install
	depmod -b "$(INSTALL_MOD_PATH)/" -a "$$(cat $(KDIR)/include/config/kernel.release)"

clean:
	@if [ -e $(KDIR)/Makefile ]; then $(MAKE) -C $(KDIR) M=$(CURDIR) clean; fi

## Checking the source, with the lab's tools

rustfmt:
	tools/lab run rustfmt --edition 2021 $$(git ls-files -co --exclude-standard '*.rs')

rustfmt-check:
	tools/check rustfmt

clippy:
	tools/check $@

rustdoc:
	tools/check $@

## Running, in a virtual machine

lab:
	tools/lab

run:
	tools/run

shell:
	tools/run --shell

test:
	tools/test

nightly:
	tools/test --nightly

mutants:
	tools/lab run tools/mutants

## Measuring, in simulated time (BENCH=T1,B1, LAT=100us,2ms)

bench:
	BENCH="$(BENCH)" LAT="$(LAT)" bench/run

help:
	@sed -n 's/^## \(.*\)/\n\1/p; s/^\([a-z-]*\):.*/    make \1/p' Makefile | grep -v 'check-kdir'
