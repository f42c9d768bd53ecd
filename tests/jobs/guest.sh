# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The GPU in a guest, as an operator would start it: over iommufd, where this kernel has it, in
# both BAR layouts, and over the legacy container; then the host reads what the guest wrote.
#
#| part | make check | make check-all adds | scripts/rig run
#| guest | newest | 6.12 6.12-16k 6.12-patched newest-debug |
#| | | | --gpu=bus0:0x70000000000:1536M
#| | | | --gpu=port:0x72000000000:94.5G
# shellcheck disable=SC1091
. /lib.sh

export BDF REGIONS

# in_guest TEST [QEMU_ARGUMENTS]: a guest with the GPU at BDF.
in_guest() {
	in_guest_test=$1
	shift
	guest /guest.cpio -append "$(guest_append "TEST=$in_guest_test")" "$@"
}

# shellcheck disable=SC2046
over_iommufd() { in_guest "$@" $(vfio_args "$BDF"); }
over_container() { in_guest "$@" -device "vfio-pci,host=$BDF"; }

# reboots: the guest reboots once, and then uses both BARs.
reboots() {
	over_iommufd reboots,bars -action reboot=reset > /tmp/reboots.log
	cat /tmp/reboots.log
	grep 'the guest reboots' /tmp/reboots.log && grep 'the guest is back' /tmp/reboots.log &&
		! grep 'not ok' /tmp/reboots.log
}

# killed: QEMU is killed while its guest runs, and the GPU is free again.
killed() {
	over_iommufd sleep_forever > /tmp/killed.log &
	soon grep 'guest is up' /tmp/guest.verdict && kill -KILL "$(pidof qemu-system-aarch64)" ||
		return 1
	wait
	verify usemem 67108864
}

# guest_and_host NAME HOW: what the guest wrote is what the host sees afterwards.
guest_and_host() {
	nested "guest.$1" "$2" bars
	for r in usemem resmem; do ok "host_sees.$1.$r" verify $r 67108864; done
}

take_log > /dev/null

ok load.usemem_bar_4 insmod /modules/nvgrace_gpu.ko usemem_bar=4
BDF=$(bdf_of GP01)
ok bind.usemem_bar_4 bind_gpu "$BDF" nvgrace_gpu
# 94.5 GiB.
REGIONS="4:$((93 * GIB + GIB / 2)):$((128 * GIB)) 2:$GIB:$GIB"
guest_and_host usemem_bar_4 over_iommufd
ok unload.usemem_bar_4 rmmod nvgrace_gpu

ok load.usemem_bar_2 insmod /modules/nvgrace_gpu.ko
ok bind.usemem_bar_2 bind_gpu "$BDF" nvgrace_gpu
REGIONS="2:$((93 * GIB + GIB / 2)):$((128 * GIB)) 4:$GIB:$GIB"
guest_and_host usemem_bar_2 over_iommufd
ok qemu_is_killed killed
ok guest_reboots reboots

# 1.5 GiB: the legacy container pins the mapping page by page, which takes long.
BDF=$(bdf_of GP00)
ok bind.legacy bind_gpu "$BDF" nvgrace_gpu
REGIONS="2:$((GIB / 2)):$((GIB / 2)) 4:$GIB:$GIB"
guest_and_host legacy over_container
ok log log_is_clean
finish
