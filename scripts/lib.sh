# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# What the scripts share: messages, the cache, and what is fetched and built into it.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/nvgrace_gpu
JOBS=$(nproc)
# The KVM series without its cover letter, 0000.
SERIES=("$TOP"/patches/linux-6.12/000[1-9]-*.patch)
KARCH=(ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-)

# Which of Debian's kernels, 6.12 or newest; and with the KVM series, if not empty.
RELEASE=6.12 PATCHED=

# A change in how something is fetched or built makes a new cache entry of it.
RECIPE=1

# What the host needs, by package name; the rest is fetched without installing.
HOST_PACKAGES=(acpica-tools bc bison cpio e2fsprogs flex gcc gcc-aarch64-linux-gnu
	libc6-dev libc6-dev-arm64-cross libelf-dev libssl-dev make mmdebstrap patch perl python3
	shellcheck sparse xz-utils)

say() { printf '%s\n' "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

# die_log LOG MESSAGE...: the last lines of a log, then the message with its path.
die_log() {
	local log=$1
	shift
	[ ! -s "$log" ] || tail -n 15 "$log" | sed 's/\x1b[^a-zA-Z]*[a-zA-Z]//g; s/^/  | /; s/\r//' >&2
	die "$*; the whole log is $log"
}

# step MESSAGE COMMAND...: a line with the time that the command took.
step() {
	local message=$1 start=${EPOCHREALTIME/[.,]/} ms
	shift
	printf '%-58s ' "$message" >&2
	"$@" || return
	ms=$(((${EPOCHREALTIME/[.,]/} - start) / 1000))
	printf '%4d.%d s\n' $((ms / 1000)) $((ms % 1000 / 100)) >&2
}

key() { sha256sum | cut -c1-16; }

install_packages() {
	local log=$CACHE/log/apt.log
	{ apt-get update && DEBIAN_FRONTEND=noninteractive timeout 900 \
		apt-get install -y --no-install-recommends "$@"; } > "$log" 2>&1 ||
		die_log "$log" "apt-get could not install: $*"
}

# The packages that are needed on the machine itself. Only this needs root.
need_packages() {
	local p missing=()
	command -v dpkg-query > /dev/null || die "this needs Debian or a system made from it: no dpkg-query found"
	for p in "${HOST_PACKAGES[@]}"; do
		[ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2> /dev/null)" = installed ] ||
			missing+=("$p")
	done
	if [ ${#missing[@]} -gt 0 ]; then
		[ "$(id -u)" = 0 ] || die "packages are missing; as root, run:
  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
		step "installing ${#missing[@]} packages" install_packages "${missing[@]}"
	fi
}

# What apt knows of the packages to fetch, for which a new machine has no lists yet.
need_package_lists() {
	! mirror > /dev/null || ! apt-cache show linux-source-6.12 > /dev/null 2>&1 || return 0
	[ "$(id -u)" = 0 ] || die "apt has no lists of packages, or none with linux-source-6.12; as root, run: apt-get update"
	step "updating apt's lists of packages" update_lists
	apt-cache show linux-source-6.12 > /dev/null 2>&1 || die "apt knows no linux-source-6.12: is this Debian 12 or newer, with its security updates?"
}

update_lists() {
	timeout 600 apt-get update > "$CACHE/log/apt.log" 2>&1 || die_log "$CACHE/log/apt.log" "apt-get update failed"
}

# For the part of the tests that is about the source: the headers that Debian has.
need_packages_for_lint() {
	[ "$(dpkg --print-architecture)" = amd64 ] || return 0
	ls -d /usr/src/linux-headers-6.12*-amd64 > /dev/null 2>&1 && return
	HOST_PACKAGES=(linux-headers-6.12-amd64)
	apt-cache show "${HOST_PACKAGES[0]}" > /dev/null 2>&1 || HOST_PACKAGES=(linux-headers-amd64)
	need_packages
}

# cached NAME MESSAGE FUNCTION: the directory $CACHE/NAME, filled by FUNCTION DIR if
# it is not there. A half-filled one never gets the name; a second caller waits.
cached() {
	local name=$1 message=$2 fill=$3 dir=$CACHE/$1 free_mib
	[ -d "$dir" ] && return
	mkdir -p "$CACHE/log" || die "cannot make the cache, $CACHE"
	exec {lock}> "$CACHE/$name.lock"
	flock -n "$lock" || { say "$message: another run is at it, waiting"; flock -w 3600 "$lock" ||
		die "another run has held $CACHE/$name.lock for an hour"; }
	if [ ! -d "$dir" ]; then
		free_mib=$(df -Pm "$CACHE" | awk 'NR == 2 { print $4 }')
		[ "$free_mib" -ge 6144 ] ||
			die "the disk of $CACHE has $free_mib MiB left, 6144 are needed; set XDG_CACHE_HOME to use another"
		rm -rf "$dir.new"
		mkdir "$dir.new" || die "cannot write to $CACHE"
		step "$message" "$fill" "$dir.new" || exit
		mv "$dir.new" "$dir"
	fi
	exec {lock}>&-
	rm -f "$CACHE/$name.lock"
}

# The first Debian mirror of the machine's own apt configuration.
mirror() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2> /dev/null |
		awk '/\/debian\/?$/ && !n++; END { exit !n }'
}

# trixie DIR ARCH PACKAGES: unpack packages of Debian 13 without installing them.
# NAME/trixie-backports takes one of its backports.
trixie() {
	local dir=$1 arch=$2 packages=$3 name=${3%%,*} log sources uri
	log=$CACHE/log/fetch-${name//\//-}-$2.log
	uri=$(mirror) || die "apt's configuration names no Debian mirror"
	sources=("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main")
	[[ $packages != */trixie-backports ]] || sources+=("${sources[0]/trixie/trixie-backports}")
	rmdir "$dir"
	timeout 1200 mmdebstrap --mode=chrootless --variant=extract --architectures="$arch" \
		--include="$packages" --aptopt='Acquire::Retries "3"' trixie "$dir" "${sources[@]}" \
		> "$log" 2>&1 || die_log "$log" "could not fetch $packages ($arch) from Debian 13; is there a network?"
}

# QEMU of Debian 13, with firmware: older ones let a guest get away with unaligned
# access to Device memory.
fill_tools() { trixie "$1" "$(dpkg --print-architecture)" qemu-system-arm,qemu-efi-aarch64,ipxe-qemu; }
fill_tools_x86() { trixie "$1" "$(dpkg --print-architecture)" qemu-system-x86; }

# unpacked_qemu TOOLS ARCH: the command line, word by line, that runs an unpacked QEMU.
unpacked_qemu() {
	local dir=$CACHE/$1
	printf '%s\n' "$dir"/usr/lib64/ld-linux-*.so.* --library-path "$dir/usr/lib/$(gcc -print-multiarch)" \
		"$dir/usr/bin/qemu-system-$2" -L "$dir/usr/share/qemu"
}

# An ext4 image of the emulated host's /usr: Debian's QEMU for arm64, and busybox.
fill_usr() {
	mkdir "$1/root"
	trixie "$1/root" arm64 qemu-system-arm,busybox-static
	rm -rf "$1"/root/usr/share/{doc,man,locale,info}
	mke2fs -q -t ext4 -d "$1/root/usr" "$1/usr.img" 512M > "$CACHE/log/mke2fs.log" 2>&1 ||
		die_log "$CACHE/log/mke2fs.log" "could not make the emulated host's disk"
	mv "$1/root/usr/bin/busybox" "$1/busybox"
	rm -rf "$1/root"
}

fill_source() {
	local log=$CACHE/log/source.log
	(cd "$1" && timeout 1200 apt-get -o Acquire::Retries=3 download "linux-source-6.12=$SRC_VERSION" &&
		dpkg-deb -x ./*.deb deb && tar -xf deb/usr/src/*.tar.xz --strip-components=1 &&
		rm -rf deb ./*.deb) > "$log" 2>&1 ||
		die_log "$log" "could not fetch linux-source-6.12 $SRC_VERSION; is there a network?"
}

# The newest kernel that Debian 13 has: a backport. The package of this name only
# depends on the one of the version, which is found in the changelog.
fill_newest() {
	local doc version
	mkdir "$1/deb"
	trixie "$1/deb" "$(dpkg --print-architecture)" linux-source/trixie-backports
	doc=$1/deb/usr/share/doc/linux-source/changelog.Debian.gz
	version=$(zcat "$doc" | sed -n '1s/^linux (\(.*\)) .*/\1/p')
	[ -n "$version" ] || die "$doc does not begin with a version of linux"
	tar -xf "$1"/deb/usr/src/linux-source-*.tar.xz -C "$1" --strip-components=1 ||
		die "the source of Linux $version could not be unpacked"
	echo "$version" > "$1/debian-version"
	rm -rf "$1/deb"
}

# apply_series DIR: the KVM series on a kernel tree. Exact, or it says what fails.
apply_series() {
	local p log=$CACHE/log/series.log
	: > "$log"
	for p in "${SERIES[@]}"; do
		patch -d "$1" -p1 --fuzz=0 --no-backup-if-mismatch -i "$p" >> "$log" 2>&1 ||
			die_log "$log" "${p#"$TOP/"} does not apply: $(grep -m 1 FAILED "$log")"
	done
}

# The same source and build by hard links, and the KVM series on top: only what it
# touches is built anew.
fill_patched() {
	find "$SRC" -mindepth 1 -maxdepth 1 ! -name 'build-*' -exec cp -al -t "$1" {} +
	cp -a "$KERNEL" "$1/"
	apply_series "$1"
	make -C "$1" O="$1/${KERNEL##*/}" "${KARCH[@]}" -j"$((JOBS + 1))" Image modules \
		> "$CACHE/log/patched.log" 2>&1 || die_log "$CACHE/log/patched.log" "the patched kernel did not build"
}

# fragment SRC: what the kernel in SRC is configured with, on top of allnoconfig.
fragment() {
	local only=newest
	[[ $(make -s -C "$1" kernelversion) != 6.12.* ]] || only=6.12
	cat "$TOP/tests/rig/kernel.config" "$TOP/tests/rig/kernel-$only.config"
}

# make_kernel OUT: configure and build; the fragment must be taken word for word.
make_kernel() {
	local out=$1 log=$CACHE/log/kernel-${1##*/}.log lost
	fragment "$SRC" > "$out/fragment"
	{ make -C "$SRC" O="$out" "${KARCH[@]}" KCONFIG_ALLCONFIG="$out/fragment" allnoconfig
	} > "$log" 2>&1 || die_log "$log" "the kernel could not be configured"
	lost=$(grep -o '^CONFIG_[A-Z0-9_]*=.*' "$out/fragment" | grep -vxF -f "$out/.config")
	[ -z "$lost" ] || die "this kernel does not take from tests/rig/kernel*.config: ${lost//$'\n'/ }"
	make -C "$SRC" O="$out" "${KARCH[@]}" -j"$((JOBS + 1))" Image modules >> "$log" 2>&1 &&
		make -C "$SRC" O="$out" "${KARCH[@]}" INSTALL_HDR_PATH="$out/uapi" headers_install >> "$log" 2>&1 ||
		die_log "$log" "the kernel did not build"
	# Newer kernels write down where the build is, and it is about to be moved.
	sed -i 's|^export KBUILD_OUTPUT = .*|export KBUILD_OUTPUT := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))|' "$out/Makefile"
}

# Sets SRC, the kernel's source, and SRC_NAME, what to call it: 6.12, or the newest
# one if RELEASE says so.
need_source() {
	[ "$RELEASE" = 6.12 ] || [ -z "$PATCHED" ] ||
		die "--patched is for 6.12; KVM of a newer kernel maps cacheable device memory by itself"
	if [ -n "${KSRC:-}" ]; then
		[ "$RELEASE" = 6.12 ] || die "KSRC and --kernel=newest exclude each other"
		[ -z "$PATCHED" ] || die "--patched is for Debian's kernel; apply the series to KSRC yourself"
		SRC=$(cd "$KSRC" 2> /dev/null && pwd) && [ -f "$SRC/Kbuild" ] ||
			die "KSRC=$KSRC is no kernel source tree"
		SRC_NAME=$KSRC
	elif [ "$RELEASE" = newest ]; then
		SRC=$CACHE/linux-trixie-backports
		cached "${SRC##*/}" "fetching the source of the newest Linux" fill_newest
		SRC_NAME="Debian linux-source $(cat "$SRC/debian-version")"
	else
		SRC_VERSION=$(apt-cache policy linux-source-6.12 2> /dev/null | awk '/Candidate:/ { print $2 }')
		SRC=$CACHE/linux-$SRC_VERSION
		cached "${SRC##*/}" "fetching the source of Linux $SRC_VERSION" fill_source
		SRC_NAME="Debian linux-source-6.12 $SRC_VERSION"
	fi
}

# Sets KERNEL, the build of $SRC for the emulated host; with PATCHED also SRC.
need_kernel() {
	local inputs series patched
	if [ -n "${KSRC:-}" ]; then
		KERNEL=$CACHE/ksrc-$(key <<< "$SRC")
		mkdir -p "$KERNEL"
		exec {lock}> "$KERNEL.lock"
		flock -w 3600 "$lock" || die "another run has held $KERNEL.lock for an hour"
		step "building the kernel in $SRC" make_kernel "$KERNEL" || exit
		exec {lock}>&-
		return
	fi
	inputs=$(fragment "$SRC"; aarch64-linux-gnu-gcc --version; echo "$RECIPE")
	# In the source tree, since kbuild's paths are relative then: both can move.
	KERNEL=$SRC/build-$(key <<< "$inputs")
	cached "${SRC##*/}/${KERNEL##*/}" "building that kernel (the long step: minutes)" make_kernel
	[ -n "$PATCHED" ] || return 0

	series=$(cat "${SERIES[@]}"; echo "${KERNEL##*/} $RECIPE")
	patched=${SRC##*/}-patched-$(key <<< "$series")
	cached "$patched" "patching that kernel with patches/linux-6.12" fill_patched
	KERNEL=$CACHE/$patched/${KERNEL##*/}
	SRC=$CACHE/$patched
}

# Sets MODULE: the driver and its KUnit tests, built for $KERNEL.
fill_module() {
	local log=$CACHE/log/module.log
	copy_driver "$1"
	make -C "$KERNEL" "${KARCH[@]}" M="$1" CONFIG_NVGRACE_GPU=m CONFIG_NVGRACE_GPU_KUNIT_TEST=m ${COVERAGE:+GCOV_PROFILE=y} \
		W=1 modules > "$log" 2>&1 ||
		die_log "$log" "the driver did not build"
	! grep -q 'warning:' "$log" || die_log "$log" "the driver built with warnings"
}

need_module() {
	local inputs
	inputs=$(cat "$TOP"/{Kbuild,nvgrace_gpu*.[ch],tests/kunit/*} "$KERNEL/.config"; echo "$KERNEL ${COVERAGE:+gcov} $RECIPE")
	MODULE=$CACHE/module-$(key <<< "$inputs")
	cached "${MODULE##*/}" "building nvgrace_gpu.ko" fill_module
}

KVM_SELFTESTS=(aarch64/page_fault_test kvm_page_table_test dirty_log_test set_memory_region_test
	memslot_modification_stress_test access_tracking_perf_test)
# Makes page_fault_test say which of its tests it is at.
KVM_SELFTESTS_CFLAGS=-DDEBUG

# Sets TESTS: the programs that run on the host and in the guest, static arm64.
fill_tests() {
	local log=$CACHE/log/tests.log src
	: > "$log"
	for src in "$TOP"/tests/{vfio,guest}/*.c; do
		aarch64-linux-gnu-gcc -static -O2 -g -Wall -Wno-nonnull -Wno-stringop-overread -Wno-stringop-overflow -Werror -pthread -D_GNU_SOURCE \
			-I"$KERNEL/uapi/include" -I"$SRC/tools/testing/selftests" -I"$TOP/tests" \
			-o "$1/$(basename "$src" .c)" "$src" >> "$log" 2>&1 ||
			die_log "$log" "${src#"$TOP/"} did not build"
	done
	mkdir "$1/modules"
	cp "$TOP"/tests/modules/* "$1/modules"
	make -C "$KERNEL" "${KARCH[@]}" M="$1/modules" W=1 modules >> "$log" 2>&1 ||
		die_log "$log" "the test modules did not build"
	# KVM's own selftests, of the kernel that is tested; on 6.12 only, where they
	# compare the patched one. (Newer kernels call the directory arm64.)
	[ -d "$SRC/tools/testing/selftests/kvm/aarch64" ] || return 0
	mkdir "$1/kvm"
	make -s -C "$SRC/tools/testing/selftests/kvm" "${KARCH[@]}" OUTPUT="$1/kvm" EXTRA_CFLAGS="$KVM_SELFTESTS_CFLAGS" \
		KHDR_INCLUDES="-isystem $KERNEL/uapi/include" LDFLAGS="-static -pthread -no-pie" \
		"${KVM_SELFTESTS[@]/#/$1/kvm/}" >> "$log" 2>&1 || die_log "$log" "KVM's selftests did not build"
	for src in "${KVM_SELFTESTS[@]}"; do
		aarch64-linux-gnu-strip -o "$1/${src##*/}" "$1/kvm/$src"
	done
	rm -rf "$1/kvm"
}

need_tests() {
	local inputs
	inputs=$(cat "$TOP"/tests/*.h "$TOP"/tests/vfio/*.[ch] "$TOP"/tests/guest/*.c "$TOP"/tests/modules/* "$KERNEL/.config"
		echo "$KERNEL ${KVM_SELFTESTS[*]} $KVM_SELFTESTS_CFLAGS $RECIPE")
	TESTS=$CACHE/tests-$(key <<< "$inputs")
	cached "${TESTS##*/}" "building the tests" fill_tests
}

# A kernel tree of links, with the driver's Kconfig and Kbuild called from its own.
# kunit.py finds its kernel by where it really is, so it is a copy.
fill_intree() {
	mkdir "$1/src" "$1/out"
	find "$SRC" -mindepth 1 -maxdepth 1 ! -name 'build-*' -exec cp -rs -t "$1/src" {} +
	cp -r --remove-destination "$SRC/tools/testing/kunit" "$1/src/tools/testing/"
	cp --remove-destination "$SRC"/drivers/vfio/pci/{Kconfig,Makefile} "$1/src/drivers/vfio/pci/"
	echo 'obj-y += nvgrace_gpu/' >> "$1/src/drivers/vfio/pci/Makefile"
	sed -i 's|^endmenu|source "drivers/vfio/pci/nvgrace_gpu/Kconfig"\n\nendmenu|' "$1/src/drivers/vfio/pci/Kconfig"
}

# copy_driver DIR: the driver and its KUnit tests. What is the same keeps its time,
# so that make builds only what changed.
copy_driver() {
	local f
	while read -r f; do
		[ -e "$TOP/$f" ] || rm "$1/$f"
	done < <([ ! -d "$1" ] || find "$1" -name '*.[ch]' -printf '%P\n')
	while read -r f; do
		cmp -s "$TOP/$f" "$1/$f" || install -D -m 644 "$TOP/$f" "$1/$f"
	done < <(cd "$TOP" && find Kbuild Kconfig Makefile .kunitconfig nvgrace_gpu*.[ch] tests/kunit -type f)
}

# Sets INTREE: the driver linked into a kernel tree, src in it, as
# drivers/vfio/pci/nvgrace_gpu; locked until the script ends.
need_intree() {
	INTREE=$CACHE/linked-$(key <<< "$SRC $RECIPE")
	cached "${INTREE##*/}" "making a kernel tree to link the driver into" fill_intree
	exec {intree_lock}> "$INTREE/lock"
	flock -n "$intree_lock" || { say "another run uses $INTREE, waiting"; flock -w 3600 "$intree_lock" ||
		die "another run has held $INTREE/lock for an hour"; }
	copy_driver "$INTREE/src/drivers/vfio/pci/nvgrace_gpu"
}

# What every build needs: the packages, and the kernel's source.
prepare_source() {
	mkdir -p "$CACHE/log" || die "cannot make the cache, $CACHE"
	need_packages
	need_package_lists
	need_source
}

# All that a boot needs. Prints a line for what has to be made, and what was taken.
prepare() {
	prepare_source
	cached "tools-$RECIPE" "fetching QEMU and firmware (Debian 13)" fill_tools
	cached "usr-$RECIPE" "fetching the emulated host's user space (arm64)" fill_usr
	need_kernel
	need_module
	need_tests
	# shellcheck disable=SC2034
	mapfile -t QEMU < <(unpacked_qemu "tools-$RECIPE" aarch64)
	# shellcheck disable=SC2034
	FIRMWARE=$CACHE/tools-$RECIPE/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd
	say "kernel $(cat "$KERNEL/include/config/kernel.release"), source $SRC_NAME${PATCHED:+ with patches/linux-6.12}; cache $CACHE"
}
