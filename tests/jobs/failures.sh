# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Every allocation and user copy of probe, open and use fails once, with the kernel's
# fault injection; or, with CALLS=1, every call that the driver makes, with fail_calls.ko. Then
# nothing may be left, and nothing leaked.
#
#| part | make check | make check-all adds | scripts/rig run
#| failures | | 6.12-patched 6.12-debug newest-debug 6.12-64k-patched | --kernel-args=kmemleak=on
#| | | | --gpu=hopper,egm=0x60000000000/0x4000000/4/0x60004000000:0x70000000000:1536M
#| | | | --egm=0x60000000000:1G
#| failed-calls | newest | 6.12 6.12-patched newest-debug 6.12-16k | --env=CALLS=1
#| | | | --gpu=hopper,egm=0x60000000000/0x4000000/4/0x60004000000:0x70000000000:1536M
#| | | | --egm=0x60000000000:1G --kernel-args=kmemleak=on
# shellcheck disable=SC1091
. /lib.sh

DEBUG=/sys/kernel/debug

# Allocations that may sleep fail, too, and those of one page; without a stack trace for each.
set_up() {
	for f in failslab fail_page_alloc fail_usercopy; do
		[ ! -e $DEBUG/$f ] || echo 0 > $DEBUG/$f/verbose || return 1
	done
	echo N > $DEBUG/failslab/ignore-gfp-wait &&
		echo N > $DEBUG/fail_page_alloc/ignore-gfp-wait &&
		echo 0 > $DEBUG/fail_page_alloc/min-order
}

# VFIO 6.12 warns when it cannot make the group's device, and then undoes it well.
allow_warning vfio_group_release

BDF=$(bdf_of "$GPUS")
export BDF UNDEFINED=/undefined EGM=/dev/egm4
ok write_list python3 /egm-lists 0x60004000000 1 0x60000010000
say_ready "$BDF"
if has FAULT_INJECTION; then
	ok set_up set_up
else
	skip set_up 'the kernel has no FAULT_INJECTION'
fi
ok fail_calls insmod /modules/fail_calls.ko "functions=$(failures --calls)"
ok load insmod /modules/nvgrace_gpu.ko
echo nvgrace_gpu > "/sys/bus/pci/devices/$BDF/driver_override"
forget_leaks
take_log > /dev/null
if [ -n "${CALLS:-}" ]; then which=-f; else which=-F; fi
REGIONS="2:$((GIB / 2)):$((GIB / 2)) 4:$GIB:$GIB" nested failures failures $which calls
ok_no_leaks
# The driver and the PCI core name the step that failed, which is all that they know. The driver
# core names the files in sysfs that it could not make.
ok log log_is_clean 'error -(E[A-Z]*|[0-9]*): .*' "BAR 0: can't reserve .*" \
	'(usemem|resmem): the memory is registered for memory failures already: -16' \
	'.* is in use, see /proc/iomem' 'not ready after 30 s: .*' \
	'probe with driver nvgrace_gpu failed with error -[0-9]*' \
	'a reset cost its config space, which the driver restores' \
	'really_probe: driver_sysfs_add failed' "usemem_bar: '2' is neither 2 nor 4" \
	".2' invalid for parameter .usemem_bar'" 'device_add_groups\(\) failed' \
	'cannot make the class egm, .*: -[0-9]*' 'no memory for the EGM region of this GPU'
ok unload rmmod nvgrace_gpu
finish
