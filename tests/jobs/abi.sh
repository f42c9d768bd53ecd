# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The VFIO ABI, on GPUs of three sizes, in both BAR layouts. The largest GPU in the first layout
# gets every test; the others get those whose result depends on the size, the reset or the BAR,
# unless EVERY=1.
#
#| part | make check | make check-all adds | scripts/rig run
#| abi | 6.12 6.12-16k newest | 6.12-patched |
#| | | | --gpu=bus0:0x70000000000:1536M
#| | | | --gpu=port:0x71000000000:2560M-page
#| | | | --gpu=blackwell,dvsec=0:0x72000000000:94.5G
#| abi-every | | 6.12 6.12-16k newest 6.12-debug newest-debug 6.12-64k-patched | --env=EVERY=1
#| | | | --gpu=bus0:0x70000000000:1536M
#| | | | --gpu=port:0x71000000000:2560M-page
#| | | | --gpu=blackwell,dvsec=0:0x72000000000:94.5G
# shellcheck disable=SC1091
. /lib.sh


SOME='bar_sizing bars_are_zero_after_reset_from_sysfs mapping_comes_back_after_every_reset info
	one_byte_at_every_edge across_the_end_of_memory across_the_end_of_the_bar mmap_bounds
	hole_reads_ones_and_drops_writes faults_in_the_largest_blocks mappings_and_files_agree'

# tests GPU: the arguments that choose its tests.
tests() {
	case ${TEST_ARGS:-}${EVERY:-}$1.$layout in
	GP02.2) ;;
	GP*) for t in $SOME; do echo "-t $t"; done ;;
	*) echo "${TEST_ARGS:-}" ;;
	esac
}

# start GPU RESET and, worked out by hand from the GPU's size, what usemem and
# resmem have behind them and the power of two above that.
start() {
	export BDF RESET REGIONS
	BDF=$(bdf_of "$1") RESET=$2 REGIONS="$layout:$3:$4 $((6 - layout)):$5:$6"
	# shellcheck disable=SC2046
	in_background "$1" abi $(tests "$1")
}

take_log > /dev/null
for layout in 2 4; do
	ok "load.usemem_bar_$layout" insmod /modules/nvgrace_gpu.ko usemem_bar=$layout
	bind_gpus usemem_bar_$layout

	# All at once: it saves time, and they must not care.
	# 1.5 GiB, the smallest: no hole in either. No reset.
	start GP00 none $((GIB / 2)) $((GIB / 2)) "$GIB" "$GIB"
	# 2.5 GiB less a page: all that resmem can get.
	start GP01 bus "$GIB" "$GIB" $((GIB + GIB / 2 - PAGE_SIZE)) $((2 * GIB))
	# 94.5 GiB.
	start GP02 flr $((93 * GIB + GIB / 2)) $((128 * GIB)) "$GIB" "$GIB"
	wait
	for gpu in $GPUS; do nested "abi.usemem_bar_$layout.$gpu" replay "$gpu"; done
	ok "unload.usemem_bar_$layout" rmmod nvgrace_gpu
done
ok log log_is_clean
finish
