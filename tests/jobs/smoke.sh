# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# A minute of everything: both BAR layouts, some of the ABI, a reset, and a round of the fuzzer with
# a seed that is always the same. To be run before anything that takes longer.
#
#| part | make check | make check-all adds | scripts/rig run
#| smoke | | newest | --gpu=blackwell,dvsec=0:0x70000000000:4608M
#| | | | --gpu=hopper,egm=0x60000000000/0x10000000/4/-:0x72000000000:4608M
#| | | | --egm=0x60000000000:256M
# shellcheck disable=SC1091
. /lib.sh

export BDF REGIONS RESET=flr SEED=1 EGM=egm4
take_log > /dev/null
for layout in 4 2; do
	REGIONS="$layout:$((3 * GIB + GIB / 2)):$((4 * GIB)) $((6 - layout)):$GIB:$GIB"
	ok "load.usemem_bar_$layout" insmod /modules/nvgrace_gpu.ko usemem_bar=$layout
	bind_gpus usemem_bar_$layout
	BDF=$(bdf_of GP00)
	nested "abi.usemem_bar_$layout" abi -t bar_sizing -t info -t mmap_bounds \
		-t one_byte_at_every_edge -t faults_in_the_largest_blocks \
		-t mapping_comes_back_after_every_reset
	# The fuzzer knows the resets of a Hopper, whose bus the kernel does not reset.
	BDF=$(bdf_of GP01)
	[ $layout = 4 ] || nested fuzz fuzz
	ok "unload.usemem_bar_$layout" rmmod nvgrace_gpu
done
ok log log_is_clean
finish
