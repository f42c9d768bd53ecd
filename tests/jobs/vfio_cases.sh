# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Cases of Alex Williamson's VFIO tests, awilliam/tests on GitHub, that no other job has: threads
# that race for a mapping, mappings that are cut and moved, interrupts against resets, hot reset
# with wrong and right owners, and the device's own node. In both layouts, on a Hopper, whose bus is
# not reset, and a Blackwell. ROUNDS=n says how often two threads race for a block.
#
#| part | make check | make check-all adds | scripts/rig run
#| vfio-cases | newest | 6.12 6.12-patched | --env=ROUNDS=2000 --smp=4
#| | | | --gpu=hopper:0x70000000000:2560M --gpu=blackwell,dvsec=0:0x71000000000:2560M
#| vfio-cases-100000 | | newest 6.12-patched | --env=ROUNDS=100000 --env=RACES_ONLY=1
#| | | | --gpu=hopper:0x70000000000:2560M --smp=4 --timeout=7200
# shellcheck disable=SC1091
. /lib.sh

export BDF OTHER_BDF REGIONS RESET ROUNDS
first=$(bdf_of GP00)
[ -n "${RACES_ONLY:-}" ] || second=$(bdf_of GP01)
# ROUNDS=n among the arguments that scripts/rig was given is a setting.
args=
for arg in $TEST_ARGS; do
	case $arg in
	ROUNDS=*) ROUNDS=${arg#*=} ;;
	*) args="$args $arg" ;;
	esac
done
TEST_ARGS=$args

# use BDF RESET [OTHER_BDF]
use() { BDF=$1 RESET=$2 OTHER_BDF=${3:-}; }

# layout BAR: load the driver with usemem there.
layout() {
	REGIONS="$1:$((GIB + GIB / 2)):$((2 * GIB)) $((6 - $1)):$GIB:$GIB"
	ok "load.usemem_bar_$1" insmod /modules/nvgrace_gpu.ko usemem_bar="$1"
	bind_gpus "usemem_bar_$1"
}

take_log > /dev/null
layout 2
use "$first" flr
if [ -n "${RACES_ONLY:-}" ]; then
	nested races mapping -t first_touch_by_two_threads -t first_touch_while_huge_pages_go
else
	nested mapping mapping
	nested interrupts.hopper interrupts
	use "$second" bus
	nested interrupts.blackwell interrupts
	for layout in 2 4; do
		[ $layout = 2 ] || layout $layout
		use "$first" flr "$second"
		nested "hot_reset.usemem_bar_$layout.hopper" hot_reset
		nested "cdev.usemem_bar_$layout" cdev
		use "$second" bus "$first"
		nested "hot_reset.usemem_bar_$layout.blackwell" hot_reset
		[ $layout = 4 ] || ok "unload.usemem_bar_$layout" rmmod nvgrace_gpu
	done
fi
ok unload rmmod nvgrace_gpu
ok log log_is_clean 'Relaying device request to user \(#[0-9]*\)' \
	'vfio_bar_restore: reset recovery - restoring BARs' \
	'(AER: )?PCIe Bus Error: .*' '  device \[10de:.*\] error status/mask=.*' \
	' *\[[ 0-9]*\] .*'
finish
