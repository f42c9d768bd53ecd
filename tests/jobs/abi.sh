# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The VFIO ABI, on GPUs of three sizes, in both BAR layouts.
#
#| part | make check | make check-all adds | scripts/rig run
#| abi | 6.12 6.12-16k newest 6.12-patched | 6.12-debug newest-debug 6.12-64k |
#| | | | --gpu=bus0:0x70000000000:1536M
#| | | | --gpu=port:0x71000000000:2560M-page
#| | | | --gpu=blackwell,dvsec=0:0x72000000000:94.5G
# shellcheck disable=SC1091
. /lib.sh

gib=1073741824

# start GPU RESET and, worked out by hand from the GPU's size, what usemem and
# resmem have behind them and the power of two above that.
start() {
	{
		# shellcheck disable=SC2086
		BDF=$(bdf_of "$1") RESET=$2 REGIONS="$layout:$3:$4 $((6 - layout)):$5:$6" \
			abi $TEST_ARGS
		echo $? > "/tmp/abi.$1.rc"
	} > "/tmp/abi.$1" 2>&1 &
}

replay() {
	cat "/tmp/abi.$1"
	return "$(cat "/tmp/abi.$1.rc")"
}

take_log > /dev/null
for layout in 2 4; do
	ok "load.usemem_bar_$layout" insmod /modules/nvgrace_gpu.ko usemem_bar=$layout
	bind_gpus usemem_bar_$layout

	# All at once: it saves time, and they must not care.
	# 1.5 GiB, the smallest: no hole in either. No reset.
	start GP00 none $((gib / 2)) $((gib / 2)) $gib $gib
	# 2.5 GiB less a page: all that resmem can get.
	start GP01 bus $gib $gib $((gib + gib / 2 - PAGE_SIZE)) $((2 * gib))
	# 94.5 GiB.
	start GP02 flr $((93 * gib + gib / 2)) $((128 * gib)) $gib $gib
	wait
	for gpu in $GPUS; do nested "abi.usemem_bar_$layout.$gpu" replay "$gpu"; done
	ok "unload.usemem_bar_$layout" rmmod nvgrace_gpu
done
ok log log_is_clean
finish
