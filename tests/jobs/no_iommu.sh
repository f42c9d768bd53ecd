# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# A host whose SMMU is off: VFIO has no group for the GPU, and the driver says what to do.
#
#| part | make check | make check-all adds | scripts/rig run
#| no-iommu | newest | 6.12 | --iommu=none --gpu=port:0x70000000000:1536M
# shellcheck disable=SC1091
. /lib.sh

refused() {
	! bind_gpu "$BDF" nvgrace_gpu || return 1
	dmesg > /tmp/dmesg
	grep "nvgrace_gpu $BDF: " /tmp/dmesg
	grep -q "nvgrace_gpu $BDF: .*no IOMMU" /tmp/dmesg
}

BDF=$(bdf_of "$GPUS")
take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko
ok no_iommu_group test ! -e "/sys/bus/pci/devices/$BDF/iommu_group"
ok bind_is_refused_with_the_reason refused
ok nothing_is_claimed test "$(claims)" = 0
ok unload rmmod nvgrace_gpu
ok log log_is_clean '.*no IOMMU: .*' 'probe with driver nvgrace_gpu failed with error -[0-9]*'
finish
