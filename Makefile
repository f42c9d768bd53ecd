# SPDX-License-Identifier: GPL-2.0-only
# The verbs. What is built is in Kbuild, which the kernel's own build reads too.

KDIR ?= /lib/modules/$(shell uname -r)/build
RIG = scripts/rig
KERNEL ?= newest

# The stand-in for the GPU of demo and shell, and the size of its memory.
GPU ?= gh200
KIND_gh200 = hopper
SIZE_gh200 = 94.5G
KIND_gb200 = blackwell
SIZE_gb200 = 186G
KIND_gb300 = blackwell,device=31c2
SIZE_gb300 = 278G
# Four GPUs in one guest, which has less to map than the real size.
SIZE_gb200-nvl4 = 3G
GPU_SIZE ?= $(SIZE_$(GPU))
KIND = $(or $(KIND_$(GPU)),$(error GPU=$(GPU): it is gh200, gb200, gb300 or gb200-nvl4))
# With EGM=1 the host has EGM, which is the guest's RAM then.
EGM_OPTION = $(if $(EGM),$(comma)egm=0x60000000000/0x40000000/4/-)
comma = ,
HOST = $(if $(KSRC),,--kernel=$(KERNEL)) --module-args='$(MODULE_ARGS)' \
	$(if $(filter gb200-nvl4,$(GPU)),$(if $(EGM),$(error EGM=1 has one \
	GPU: GPU=gh200, gb200 or gb300))--host=$(GPU):$(GPU_SIZE), \
	$(if $(EGM),--egm=0x60000000000:1G --env=EGM=egm4) \
	--gpu=$(KIND)$(EGM_OPTION):0x70000000000:$(GPU_SIZE))

module:
	@grep -qs '^CONFIG_VFIO_PCI_CORE=' $(KDIR)/include/config/auto.conf || \
		{ echo 'error: no kernel build with CONFIG_VFIO_PCI_CORE in KDIR=$(KDIR)' >&2; \
		exit 1; }
	$(MAKE) -C $(KDIR) M=$(CURDIR) CONFIG_NVGRACE_GPU=m modules

# Below INSTALL_MOD_PATH, or DESTDIR; depmod runs there, too. Where it goes in /lib/modules is
# kbuild's matter: updates/, before the kernel's own.
INSTALL_MOD_PATH ?= $(DESTDIR)
install: module
	$(MAKE) -C $(KDIR) M=$(CURDIR) CONFIG_NVGRACE_GPU=m \
		INSTALL_MOD_PATH=$(INSTALL_MOD_PATH) modules_install
	depmod $(if $(INSTALL_MOD_PATH),-b $(INSTALL_MOD_PATH)) $(KRELEASE)

uninstall:
	rm -f $(addprefix $(INSTALL_MOD_PATH)/lib/modules/$(KRELEASE)/,\
		$(foreach d,updates extra,$(d)/nvgrace_gpu.ko* $(d)/nvgrace_gpu_vfio_pci.ko*))
	depmod $(if $(INSTALL_MOD_PATH),-b $(INSTALL_MOD_PATH)) $(KRELEASE)

KRELEASE = $(shell cat $(KDIR)/include/config/kernel.release)

# The tool is one file, which can be copied to a host and run.
tool: build/nvgrace-gpu
build/nvgrace-gpu: scripts/tool dkms.conf \
		$(wildcard tools/nvgrace_gpu/*.py tools/nvgrace_gpu/*/*.py)
	scripts/tool $@

# The tool, its page, completion and udev rule, and an example for modprobe.d; as root, or with
# DESTDIR.
PREFIX ?= /usr/local
UDEV_DIR ?= $(if $(filter /usr,$(PREFIX)),/usr/lib,/etc)/udev/rules.d
TOOL_DOC = $(PREFIX)/share/doc/nvgrace-gpu-tools/examples
TOOL_FILES = sbin/nvgrace-gpu share/man/man8/nvgrace-gpu.8 \
	share/bash-completion/completions/nvgrace-gpu
install-tool: tool
	install -D -m 755 build/nvgrace-gpu $(DESTDIR)$(PREFIX)/sbin/nvgrace-gpu
	install -D -m 644 tools/nvgrace-gpu.8 \
		$(DESTDIR)$(PREFIX)/share/man/man8/nvgrace-gpu.8
	install -D -m 644 tools/nvgrace-gpu.completion \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/nvgrace-gpu
	install -D -m 644 tools/nvgrace-gpu.rules \
		$(DESTDIR)$(UDEV_DIR)/61-nvgrace-gpu-vfio.rules
	install -D -m 644 tools/nvgrace-gpu.modprobe $(DESTDIR)$(TOOL_DOC)/nvgrace_gpu.conf

# Also the rules that nvgrace-gpu bind --persist wrote: nothing else removes them then.
uninstall-tool:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,$(TOOL_FILES)) \
		$(DESTDIR)$(UDEV_DIR)/61-nvgrace-gpu-vfio.rules \
		$(DESTDIR)$(TOOL_DOC)/nvgrace_gpu.conf
	rm -f $(DESTDIR)/etc/udev/rules.d/60-nvgrace-gpu-*:*.rules
	-rmdir -p --ignore-fail-on-non-empty $(DESTDIR)$(TOOL_DOC)

# DKMS: the driver's source, and its build for the running kernel and for each one to come.
VERSION = $(shell sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' dkms.conf)
DKMS_DIR = $(DESTDIR)/usr/src/nvgrace-gpu-$(VERSION)
dkms-source:
	mkdir -p $(DKMS_DIR)
	cp Kbuild Kconfig Makefile dkms.conf nvgrace_gpu*.[ch] $(DKMS_DIR)

# DKMS may have this version already: from an install before, or for a kernel that it skipped.
dkms-install:
	if dkms status -m nvgrace-gpu -v $(VERSION) | grep -q .; then \
		dkms remove nvgrace-gpu/$(VERSION) --all; fi
	$(MAKE) dkms-source
	dkms add nvgrace-gpu/$(VERSION)
	dkms install nvgrace-gpu/$(VERSION) -k $(KRELEASE)

dkms-uninstall:
	-dkms remove nvgrace-gpu/$(VERSION) --all
	rm -rf $(DKMS_DIR)

deb:
	scripts/deb

# Debian's 6.12 with the series, as packages: PAGES=4k, 16k or 64k, LSMOD=file.
deb-kernel:
	PAGES='$(PAGES)' LSMOD='$(LSMOD)' scripts/deb-kernel

clean:
	$(MAKE) -C $(KDIR) M=$(CURDIR) clean
	rm -f build/nvgrace-gpu

# A static program for arm64, which checks a Grace machine.
selftest:
	scripts/selftest

demo:
	$(RIG) run $(HOST) --programs=verify \
		tests/jobs/$(if $(filter gb200-nvl4,$(GPU)),demo_gpus.sh,demo.sh)

shell:
	$(RIG) shell $(HOST)

CHECK = PARTS='$(PARTS)' KERNELS='$(KERNELS)' ARGS='$(ARGS)' FAILED='$(FAILED)' \
	WORKERS='$(WORKERS)' scripts/check $(if $(LIST),--list)
check:
	$(CHECK)

check-all:
	$(CHECK) --all

kunit:
	scripts/kunit arm64 x86_64

coverage:
	scripts/coverage

check-patches:
	scripts/check-patches

# Faults planted in the driver: for each, a test has to fail.
mutants:
	scripts/mutants

# The fuzzer for HOURS; SEED=n runs the round of one seed again.
soak:
	HOURS='$(HOURS)' SEED='$(SEED)' KERNELS='$(KERNELS)' scripts/soak

# Write the counts of the latest test run into Documentation/testing.rst.
figures:
	scripts/figures --write

lint:
	scripts/lint

htmldocs:
	scripts/htmldocs

# Against the kernel's own driver, in ratios. bench-check fails if one got worse than stored.
BENCH = Documentation/bench.json

bench:
	scripts/bench --json $(BENCH)

bench-check:
	scripts/bench --check

bench-plot:
	bash -c '. scripts/lib.sh && need_packages gnuplot-nox'
	scripts/bench --plot Documentation/bench.svg

# For editors and clangd: how each file of the driver is compiled.
compdb:
	scripts/compdb

help:
	@echo 'On a Grace machine:'
	@echo '  make               build nvgrace_gpu.ko against KDIR (default: the running kernel)'
	@echo '  make install       and install it below /lib/modules, as root; uninstall'
	@echo '  make tool          the tool nvgrace-gpu as one file in build/, to copy and run'
	@echo '  make install-tool  install it below PREFIX, as root; uninstall-tool'
	@echo '  make dkms-install  have DKMS build and install it for every kernel, as root;'
	@echo '                     dkms-uninstall'
	@echo '  make deb           Debian packages of both, in build/'
	@echo "  make deb-kernel    packages of Debian's 6.12 with patches/linux-6.12, in build/"
	@echo '  make clean         remove what the build made'
	@echo 'On any Debian machine, no GPU needed; what they need is fetched and built into'
	@echo '$${XDG_CACHE_HOME:-~/.cache}/nvgrace_gpu:'
	@echo '  make demo          a GPU into a guest, on an emulated Grace host'
	@echo '  make shell         a prompt on that host, the module loaded'
	@echo '  make check         the tests that every change has to pass; ends with'
	@echo '                     "N passed, N failed"'
	@echo '  make selftest      grace_selftest, a static program: which memory type has usemem'
	@echo '                     in a guest of this host?'
	@echo '  make check-all     and all others: more kernels, KVM'"'"'s selftests, coverage'
	@echo '  make kunit         the KUnit suites by kunit.py, on arm64 and x86-64'
	@echo '  make coverage      what they reach of the driver: lines and branches'
	@echo '  make bench         this driver and the kernel'"'"'s own, in ratios; bench-check'
	@echo '                     compares with those stored, bench-plot draws them'
	@echo '  make check-patches the series for 6.12: applies, builds patch by patch, checkpatch'
	@echo '  make mutants       plant faults in the driver: does a test fail for each?'
	@echo '  make lint          checkpatch, sparse, shellcheck and the like'
	@echo '  make htmldocs      Documentation/ as HTML, in the cache; prints where'
	@echo '  make soak          the fuzzer for HOURS=n; keeps seeds that failed; SEED=n: again'
	@echo '  make figures       what the tests counted when they ran last, into testing.rst'
	@echo '  make compdb        compile_commands.json, for editors'
	@echo 'Options:'
	@echo '  KDIR=, ARCH=, CROSS_COMPILE=    for the build'
	@echo '  PAGES=4k, 16k or 64k, and LSMOD=FILE, which lsmod wrote: only these modules;'
	@echo '                                  for deb-kernel'
	@echo '  DROPIN=1           name them nvgrace_gpu_vfio_pci, and show usemem at BAR4'
	@echo '  GPU=gh200, gb200, gb300 or gb200-nvl4, GPU_SIZE=94.5G, EGM=1,'
	@echo '  MODULE_ARGS=usemem_bar=4, and KERNEL=newest (default), 6.12, 6.12-16k, ... or'
	@echo '  KSRC= (a kernel source tree of your own): for demo and shell'
	@echo "  PARTS='abi life' KERNELS='6.12 newest' ARGS='-t mmap_bounds' FAILED=1 WORKERS=3"
	@echo '  LIST=1                          for check and check-all'
	@echo 'scripts/rig help has more.'

.PHONY: mutants module tool install clean selftest demo shell check check-all kunit coverage
.PHONY: check-patches lint figures htmldocs compdb help install-tool uninstall uninstall-tool
.PHONY: dkms-source dkms-install dkms-uninstall deb deb-kernel bench bench-check bench-plot soak
