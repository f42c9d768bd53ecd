# SPDX-License-Identifier: GPL-2.0-only
# The verbs. What is built is in Kbuild, which the kernel's own build reads too.

KDIR ?= /lib/modules/$(shell uname -r)/build
GPU_SIZE ?= 94.5G
RIG = scripts/rig

module:
	@grep -qs '^CONFIG_VFIO_PCI_CORE=' $(KDIR)/include/config/auto.conf || { echo 'error: no kernel build with CONFIG_VFIO_PCI_CORE in KDIR=$(KDIR)' >&2; exit 1; }
	$(MAKE) -C $(KDIR) M=$(CURDIR) CONFIG_NVGRACE_GPU=m modules

install: module
	$(MAKE) -C $(KDIR) M=$(CURDIR) CONFIG_NVGRACE_GPU=m modules_install

clean:
	$(MAKE) -C $(KDIR) M=$(CURDIR) clean

demo:
	$(RIG) run --gpu-size=$(GPU_SIZE) --module-args='$(MODULE_ARGS)' tests/rig/jobs/demo.sh

check:
	scripts/check

check-patches:
	scripts/check-patches

lint:
	scripts/lint

shell:
	$(RIG) shell --gpu-size=$(GPU_SIZE) --module-args='$(MODULE_ARGS)'

help:
	@echo 'On a Grace machine:'
	@echo '  make               build nvgrace_gpu.ko against KDIR (default: the running kernel)'
	@echo '  make install       and install it below /lib/modules, as root'
	@echo '  make clean         remove what the build made'
	@echo 'On any Debian machine, no GPU needed; what they need is fetched and built into'
	@echo '$${XDG_CACHE_HOME:-~/.cache}/nvgrace_gpu:'
	@echo '  make demo          a GPU into a guest, on an emulated Grace host'
	@echo '  make check         every test; ends with "N passed, N failed"'
	@echo '  make check-patches the KVM series: applies, builds after each patch, checkpatch'
	@echo '  make shell         a prompt on that host, the module loaded'
	@echo '  make lint          checkpatch, sparse, shellcheck and the like: the part of check'
	@echo '                     that is about the source'
	@echo 'Options: KDIR=, ARCH= and CROSS_COMPILE= for the build; GPU_SIZE=94.5G,'
	@echo 'MODULE_ARGS=usemem_bar=4 and KSRC= (a kernel tree of your own) for the emulated host.'
	@echo 'scripts/rig help has more.'

.PHONY: module install clean demo check check-patches lint shell help
