# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The newest kernel's own VFIO selftests, tools/testing/selftests/vfio, on two GPUs. They map each
# BAR as a whole and pass over the capability that says what of it can be mapped, so the memory of
# these GPUs is a power of two: 1 GiB of usemem and 1 GiB of resmem.
#
#| part | make check | make check-all adds | scripts/rig run
#| vfio-selftests | newest | newest-debug | --vfio-selftests
#| | | | --gpu=hopper:0x70000000000:2G --gpu=blackwell,dvsec=0:0x71000000000:2G
# shellcheck disable=SC1091
. /lib.sh

# reserve_huge_pages: some of them map huge pages, and skip without.
reserve_huge_pages() {
	for n in 2048kB/2 1048576kB/1; do
		file=/sys/kernel/mm/hugepages/hugepages-${n%/*}/nr_hugepages
		echo "${n#*/}" > "$file"
		grep -H . "$file"
		[ "$(cat "$file")" = "${n#*/}" ] || return 1
	done
}

# skips PROGRAM REASON: the program skips itself, for this reason.
skips() {
	"$1" "$first" > /tmp/skips.log 2>&1
	if [ $? = 4 ] && grep -qF "$2" /tmp/skips.log; then
		skip "$1" "$2"
	else
		ok "$1" eval 'cat /tmp/skips.log; false'
	fi
}

# Without an iommufd they fail, and do not skip, so they are told which variants to run.
args=
if ! has_iommufd; then
	for mode in vfio_type1_iommu vfio_type1v2_iommu; do
		args="$args -v $mode"
		for memory in anonymous anonymous_hugetlb_2mb anonymous_hugetlb_1gb; do
			args="$args -v ${mode}_$memory"
		done
	done
fi

# selftest PROGRAM BDF...
selftest() {
	selftest=$1
	shift
	# shellcheck disable=SC2086
	nested "$selftest" "$selftest" $args "$@"
}

first=$(bdf_of GP00) second=$(bdf_of GP01)
take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko
bind_gpus
ok huge_pages reserve_huge_pages
selftest vfio_dma_mapping_test "$first"
selftest vfio_dma_mapping_mmio_test "$first"
selftest vfio_pci_device_init_perf_test "$first" "$second"
# They open the device by its node alone.
if has_iommufd; then
	for gpu in $first $second; do
		selftest vfio_iommufd_setup_test "$gpu"
		selftest vfio_pci_device_test "$gpu"
	done
	# Nothing of a stand-in moves memory: its BAR0 is plain RAM.
	skips vfio_pci_driver_test "No driver found for device $first"
else
	for t in vfio_iommufd_setup_test vfio_pci_device_test vfio_pci_driver_test; do
		skip $t 'the kernel has no IOMMUFD'
	done
fi
skips vfio_pci_sriov_uapi_test "SR-IOV may not be supported by the PF: $first"
ok unload rmmod nvgrace_gpu
ok log log_is_clean
finish
