# SPDX-License-Identifier: GPL-2.0-only
# The verbs. What is built is in Kbuild, which the kernel's own build reads too.

KDIR ?= /lib/modules/$(shell uname -r)/build
KERNEL ?= 6.12
RIG = scripts/rig

# What plays the GPU of demo and shell, and the size of its memory.
GPU ?= gh200
KIND_gh200 = hopper
SIZE_gh200 = 94.5G
KIND_gb200 = blackwell
SIZE_gb200 = 186G
KIND_gb300 = blackwell,device=31c2
SIZE_gb300 = 278G
GPU_SIZE ?= $(SIZE_$(GPU))
STANDIN = --gpu=$(or $(KIND_$(GPU)),$(error GPU=$(GPU): it is gh200, gb200 or gb300)):0x70000000000:$(GPU_SIZE)

module:
	@grep -qs '^CONFIG_VFIO_PCI_CORE=' $(KDIR)/include/config/auto.conf || { echo 'error: no kernel build with CONFIG_VFIO_PCI_CORE in KDIR=$(KDIR)' >&2; exit 1; }
	$(MAKE) -C $(KDIR) M=$(CURDIR) CONFIG_NVGRACE_GPU=m modules

install: module
	$(MAKE) -C $(KDIR) M=$(CURDIR) CONFIG_NVGRACE_GPU=m modules_install

clean:
	$(MAKE) -C $(KDIR) M=$(CURDIR) clean

demo:
	$(RIG) run --kernel=$(KERNEL) $(STANDIN) --module-args='$(MODULE_ARGS)' tests/rig/jobs/demo.sh

check:
	scripts/check

kunit:
	scripts/kunit arm64 x86_64

coverage:
	scripts/coverage

check-patches:
	scripts/check-patches

lint:
	scripts/lint

shell:
	$(RIG) shell --kernel=$(KERNEL) $(STANDIN) --module-args='$(MODULE_ARGS)'

help:
	@echo 'On a Grace machine:'
	@echo '  make               build nvgrace_gpu.ko against KDIR (default: the running kernel)'
	@echo '  make install       and install it below /lib/modules, as root'
	@echo '  make clean         remove what the build made'
	@echo 'On any Debian machine, no GPU needed; what they need is fetched and built into'
	@echo '$${XDG_CACHE_HOME:-~/.cache}/nvgrace_gpu:'
	@echo '  make demo          a GPU into a guest, on an emulated Grace host'
	@echo '  make check         every test; ends with "N passed, N failed"'
	@echo '  make kunit         the KUnit suites by kunit.py, on arm64 and x86-64'
	@echo '  make coverage      what they reach of the driver: lines and branches'
	@echo '  make check-patches the KVM series: applies, builds after each patch, checkpatch'
	@echo '  make shell         a prompt on that host, the module loaded'
	@echo '  make lint          checkpatch, sparse, shellcheck and the like: the part of check'
	@echo '                     that is about the source'
	@echo 'Options: KDIR=, ARCH= and CROSS_COMPILE= for the build; for the emulated host'
	@echo 'GPU=gh200, gb200 or gb300, GPU_SIZE=94.5G, MODULE_ARGS=usemem_bar=4, KERNEL=newest (the'
	@echo 'newest kernel that Debian 13 backports, not its 6.12) and KSRC= (a kernel tree of your'
	@echo 'own).'
	@echo 'scripts/rig help has more.'

.PHONY: module install clean demo check kunit coverage check-patches lint shell help
