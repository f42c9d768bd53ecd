# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Builds of this tree: the driver, the test modules and the test programs.

# copy_driver DIR: copy the driver and its KUnit tests. A file that did not change keeps its time,
# so make builds only what changed.
copy_driver() {
	local f
	while read -r f; do
		[ -e "$TOP/$f" ] || rm "$1/$f"
	done < <([ ! -d "$1" ] || find "$1" -name '*.[ch]' -printf '%P\n')
	while read -r f; do
		cmp -s "$TOP/$f" "$1/$f" || install -D -m 644 "$TOP/$f" "$1/$f"
	done < <(driver_files)
}

driver_files() {
	cd "$TOP" && find Kbuild Kconfig Makefile .kunitconfig nvgrace_gpu*.[ch] tests/kunit -type f
}

# build_module KERNEL DIR ARGUMENTS...: build the modules in DIR. A warning is an error, except
# kbuild's about pahole. ftrace needs the alignment of functions that the kernel's compiler made.
# This machine's compiler is older than that of Debian's kernels and lacks it, so for these the
# modules are built without ftrace.
build_module() {
	local kernel=$1 dir=$2 log=$2/log own=()
	shift 2
	[ -d "$kernel/src/build" ] || own=(CC_FLAGS_FTRACE=)
	[ ! -L "$kernel/src" ] || own=()
	make -C "$kernel/build/" "${KARCH[@]}" CC="$KCC" M="$dir" W=1 -j"$JOBS" "${own[@]}" "$@" \
		modules > "$log" 2>&1 || die_log "$log" "a module did not build"
	! grep 'warning:' "$log" | grep -v 'pahole version differs' | grep -q . ||
		die_log "$log" "a module built with warnings"
}

# build_driver KERNEL DIR OPTION...: build the driver in DIR; a kernel with KUnit gets
# the suites, too.
build_driver() {
	! grep -q '^CONFIG_KUNIT=y' "$1/config" || set -- "$@" CONFIG_NVGRACE_GPU_KUNIT_TEST=y
	build_module "$@" CONFIG_NVGRACE_GPU=m
}

fill_module() {
	local kernel=$1 coverage=$2 dropin=$3 dir=$4
	copy_driver "$dir"
	build_driver "$kernel" "$dir" ${coverage:+GCOV_PROFILE=y} ${dropin:+DROPIN=1}
}

fill_test_modules() {
	cp "$TOP"/tests/modules/* "$2"
	build_module "$1" "$2" KCSAN_SANITIZE=n
}

# driver_module KERNEL COVERAGE [DROPIN]: print a directory with nvgrace_gpu.ko, which has the KUnit
# suites if the kernel has KUnit. It is built for gcov if COVERAGE is not empty, and as
# nvgrace_gpu_vfio_pci.ko if DROPIN is not.
driver_module() {
	local inputs name=nvgrace_gpu${3:+_vfio_pci}
	inputs=$(driver_files | (cd "$TOP" && xargs cat); cat "$1/config"
		echo "$1 $2 $RECIPE${3:+ dropin}")
	cached "module-$(key <<< "$inputs")" "building $name.ko for $(cat "$1/release")" - \
		fill_module "$1" "$2" "${3:-}"
}

# apply_mutant PATCH DIR [OPTION]: put the fault into the driver in DIR. Lines near it may have
# changed.
apply_mutant() { patch -d "$2" -p1 -s -f -r - --fuzz=2 --no-backup-if-mismatch ${3:+"$3"} < "$1"; }

# fill_mutant KERNEL PATCH DIR: build the driver with a fault in it. One directory serves all
# mutants of a kernel, so that make compiles only what the patch changes.
fill_mutant() {
	local kernel=$1 patch=$2 dir=$3 name build f
	name=$(basename -s .patch "$patch")
	build=$CACHE/mutants-$(key <<< "$kernel $RECIPE")
	mkdir -p "$build" || die "cannot make the cache, $CACHE"
	lock "$build.lock"
	copy_driver "$build"
	apply_mutant "$patch" "$build" > "$build/log" 2>&1 ||
		die_log "$build/log" "mutant $name: the patch does not apply to the driver any more"
	(build_driver "$kernel" "$build") || die "mutant $name: does not compile"
	for f in "$build"/nvgrace_gpu_*.o "$build/nvgrace_gpu.ko"; do
		aarch64-linux-gnu-strip -g -o "$dir/${f##*/}" "$f"
	done
}

# mutant KERNEL NAME: print a directory with nvgrace_gpu.ko, whose driver has the fault of
# tests/mutants/NAME.patch.
mutant() {
	local patch=$TOP/tests/mutants/$2.patch inputs
	[ -f "$patch" ] || die "there is no mutant '$2' in tests/mutants"
	inputs=$(driver_files | (cd "$TOP" && xargs cat); cat "$patch" "$1/config"
		echo "$1 $RECIPE")
	cached "mutant-$(key <<< "$inputs")" "building mutant $2" - fill_mutant "$1" "$patch"
}

test_modules() {
	local inputs
	inputs=$(cat "$TOP"/tests/modules/* "$1/config"; echo "$1 $RECIPE")
	cached "test-modules-$(key <<< "$inputs")" \
		"building test modules for $(cat "$1/release")" - fill_test_modules "$1"
}

fill_kernels_driver() {
	cp "$2"/drivers/vfio/pci/nvgrace-gpu/* "$3"
	build_module "$1" "$3" CONFIG_NVGRACE_GPU_VFIO_PCI=m
}

# kernels_driver KERNEL SOURCE: build the kernel's own driver against the same headers as ours.
kernels_driver() {
	local inputs
	inputs=$(cat "$2"/drivers/vfio/pci/nvgrace-gpu/*; cat "$1/config"; echo "$1 $RECIPE")
	cached "kernels-driver-$(key <<< "$inputs")" \
		"building the kernel's own driver for $(cat "$1/release")" - \
		fill_kernels_driver "$1" "$2"
}

TEST_CFLAGS=(-static -s -O2 -Wall -Wno-nonnull -Wno-stringop-overread -Wno-stringop-overflow
	-Werror -pthread -D_GNU_SOURCE)

# program_files [NAME...]: print the paths of the guest's programs, and of these or all of the
# host's.
program_files() {
	local name
	printf '%s\n' "$TOP"/tests/guest/*.c
	if [ $# = 0 ]; then printf '%s\n' "$TOP"/tests/vfio/*.c; fi
	for name; do printf '%s\n' "$TOP/tests/vfio/$name.c"; done
}

# test_harness [NAME...]: print the path of the kernel's own harness, if one of these programs uses
# it.
test_harness() {
	local files
	mapfile -t files < <(program_files "$@")
	! grep -q '"fixture.h"' "${files[@]}" ||
		printf '%s\n' "$(source_612)/tools/testing/selftests"
}

# fill_programs UAPI HARNESS FILE... DIR
fill_programs() {
	local uapi=$1/usr/include harness=$2 dir=${*: -1} log names
	log=$dir/log
	mapfile -t names < <(basename -s .c "${@:3:$#-3}")
	make -C "$dir" -j"$JOBS" -f - CC="$KCC" VPATH="$TOP/tests/vfio:$TOP/tests/guest" \
		CFLAGS="${TEST_CFLAGS[*]} -isystem $uapi/aarch64-linux-gnu -isystem $uapi \
			${harness:+-I$harness} -I$TOP/tests -I$TOP/tests/lib" "${names[@]}" \
		> "$log" 2>&1 << 'END' || die_log "$log" "the test programs did not build"
%: %.c
	$(CC) $(CFLAGS) -c -o $@.o $< && $(CC) $(CFLAGS) -o $@ $@.o
END
	rm "$dir"/*.o "$log"
}

# test_programs [NAME...]: build the programs of the guest, and these or all of the host's. They are
# static, and one build against the newest interface runs on every kernel.
test_programs() {
	local uapi harness files inputs
	uapi=$(uapi)
	mapfile -t files < <(program_files "$@")
	harness=$(test_harness "$@")
	inputs=$(cat "${files[@]}" "$TOP"/tests/lib/*.h "$TOP/nvgrace_gpu_egm.h"
		echo "$* $harness $uapi ${TEST_CFLAGS[*]} $RECIPE")
	cached "programs-$(key <<< "$inputs")" "building the test programs" - \
		fill_programs "$uapi" "$harness" "${files[@]}"
}

KVM_SELFTESTS=(aarch64/page_fault_test kvm_page_table_test dirty_log_test
	set_memory_region_test memslot_modification_stress_test access_tracking_perf_test)

# fill_kvm_selftests UAPI SOURCE DIR: with DEBUG, page_fault_test prints which of its tests runs.
fill_kvm_selftests() {
	local uapi=$1/usr/include source=$2 dir=$3 log=$3/log t
	mkdir "$dir/out"
	make -s -C "$source/tools/testing/selftests/kvm" "${KARCH[@]}" OUTPUT="$dir/out" \
		EXTRA_CFLAGS=-DDEBUG LDFLAGS="-static -pthread -no-pie" \
		KHDR_INCLUDES="-isystem $uapi/aarch64-linux-gnu -isystem $uapi" \
		"${KVM_SELFTESTS[@]/#/$dir/out/}" > "$log" 2>&1 ||
		die_log "$log" "KVM's selftests did not build"
	for t in "${KVM_SELFTESTS[@]}"; do
		aarch64-linux-gnu-strip -o "$dir/${t##*/}" "$dir/out/$t"
	done
	rm -rf "$dir/out" "$log"
}

# kvm_selftests: build those of 6.12, which compare the patched kernel with the unpatched one.
kvm_selftests() {
	local uapi source inputs
	uapi=$(uapi)
	source=$(source_612)
	inputs="$source $uapi ${KVM_SELFTESTS[*]} $RECIPE"
	cached "kvm-selftests-$(key <<< "$inputs")" "building KVM's selftests" - \
		fill_kvm_selftests "$uapi" "$source"
}

# fill_vfio_selftests UAPI SOURCE DIR: their library links libuuid. A static one needs the libc of
# its own Debian, so it comes from this machine's.
fill_vfio_selftests() {
	local uapi=$1/usr/include source=$2 dir=$3 log=$3/log suite t
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	unpack "$suite" arm64 uuid-dev "$dir/deb"
	mkdir "$dir/out" "$dir/uuid"
	cp -r "$dir"/deb/usr/include/uuid "$dir"/deb/usr/lib/aarch64-linux-gnu/libuuid.a \
		"$dir/uuid"
	make -s -C "$source/tools/testing/selftests/vfio" "${KARCH[@]}" OUTPUT="$dir/out" \
		LDFLAGS="-static -pthread -L$dir/uuid" \
		KHDR_INCLUDES="-isystem $uapi/aarch64-linux-gnu -isystem $uapi -isystem $dir/uuid" \
		> "$log" 2>&1 || die_log "$log" "VFIO's selftests did not build"
	for t in "$dir"/out/*_test; do aarch64-linux-gnu-strip -o "$dir/${t##*/}" "$t"; done
	rm -rf "$dir/deb" "$dir/out" "$dir/uuid" "$log"
}

# vfio_selftests: the newest kernel's own.
vfio_selftests() {
	local uapi source
	uapi=$(uapi)
	source=$(source_newest)
	cached "vfio-selftests-$(key <<< "$source $uapi $RECIPE")" "building VFIO's selftests" - \
		fill_vfio_selftests "$uapi" "$source"
}

# ---- the driver linked into a kernel

# fill_linked KERNEL DIR: copy a kernel's source and build, and add the driver's Kconfig and Kbuild
# to its own. It has a kunit.py of its own, too, because that resolves links to find its kernel.
fill_linked() {
	local base=$1 dir=$2 source pci=$2/src/drivers/vfio/pci
	source=$(realpath "$base/src")
	if [ -d "$base/src/build" ]; then
		copy_build "$base" "$dir"
	else
		mkdir -p "$dir/src/build"
		cp -rs "$source/." "$dir/src/"
		cp -r --remove-destination "$source/tools/testing/kunit" "$dir/src/tools/testing/"
	fi
	cp --remove-destination "$source/drivers/vfio/pci/"{Kconfig,Makefile} "$pci/"
	echo 'obj-y += nvgrace_gpu/' >> "$pci/Makefile"
	sed -i 's|^endmenu|source "drivers/vfio/pci/nvgrace_gpu/Kconfig"\n\nendmenu|' "$pci/Kconfig"
	cp "$base/config" "$dir/config"
}

# linked_tree: print a directory with a copy of 6.12-patched, or of KSRC's kernel. src is the source
# with the driver as drivers/vfio/pci/nvgrace_gpu, src/build the build, and config the configuration
# without the driver. The caller locks the directory.
linked_tree() {
	local base name=6.12-patched
	[ -z "${KSRC:-}" ] || name=ksrc
	base=$(kernel $name)
	cached "linked-$(key <<< "$base $RECIPE")" \
		"making a kernel tree to link the driver into" - fill_linked "$base"
}
