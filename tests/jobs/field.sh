# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# What people do with such a GPU, and what went wrong for them: new_id, remove and rescan, a
# VMM without root, O_DIRECT, huge pages off, physical BARs under the emulated ones.
#
#| part | make check | make check-all adds | scripts/rig run
#| field | 6.12 newest | 6.12-patched newest-debug 6.12-16k |
#| | | | --gpu=hopper:0x70000000000:4608M --gpu=hopper,device=2345:0x71000000000:4608M
# shellcheck disable=SC1091
. /lib.sh

dev=/sys/bus/pci/devices
drv=/sys/bus/pci/drivers/nvgrace_gpu
export BDF REGIONS RESET=flr
REGIONS="2:$((3 * GIB + GIB / 2)):$((4 * GIB)) 4:$GIB:$GIB"

driver_of() { basename "$(readlink -f "$dev/$1/driver")"; }

# new_id in place of driver_override: the GPU that is ready is bound, and the other one is
# refused with what its registers read; once it is ready it binds. The kernel probes both after
# the writes have returned, since a probe may wait.
new_id() {
	knob "$second" ready 0
	take_log > /dev/null
	echo 10de 2342 > $drv/new_id || return 1
	echo 10de 2345 > $drv/new_id || return 1
	soon [ -e "$dev/$first/driver" ] && [ "$(driver_of "$first")" = nvgrace_gpu ] || return 1
	soon eval "dmesg | grep -F 'not ready after 30 s'" || return 1
	[ ! -e "$dev/$second/driver" ] || return 1
	knob "$second" ready 1
	echo "$second" > $drv/bind && [ "$(driver_of "$second")" = nvgrace_gpu ]
	rc=$?
	for id in 2342 2345; do echo 10de $id > $drv/remove_id; done
	for gpu in $first $second; do unbind_gpu "$gpu"; done
	return $rc
}

# remove takes a bound GPU from the driver, with all claims; after rescan it binds again.
remove_bound() {
	bind_gpu "$first" nvgrace_gpu || return 1
	echo 1 > "$dev/$first/remove"
	[ ! -e "$dev/$first" ] && [ "$(claims)" = 0 ] || return 1
	echo 1 > /sys/bus/pci/rescan
	[ -e "$dev/$first" ] && bind_gpu "$first" nvgrace_gpu && [ "$(claims)" = 2 ]
}

# remove of an open GPU waits for the process that has it.
remove_open() {
	BDF=$first
	hold_open || return 1
	holder=$!
	echo 1 > "$dev/$first/remove" &
	removing=$!
	soon grep -F vfio_unregister_group_dev /proc/$removing/stack ||
		{ echo 'removed while open'; return 1; }
	kill -KILL $holder
	wait $holder $removing
	[ ! -e "$dev/$first" ] && [ "$(claims)" = 0 ] || return 1
	echo 1 > /sys/bus/pci/rescan
	[ -e "$dev/$first" ]
}

first=$(bdf_of GP00) second=$(bdf_of GP01)
take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko
ok new_id new_id
ok bind bind_gpu "$first" nvgrace_gpu
BDF=$first nested field field
unbind_gpu "$first"
ok remove_bound remove_bound
ok remove_open remove_open
ok unload rmmod nvgrace_gpu
ok log log_is_clean '(error -[A-Z0-9]*: )?not ready .*' \
	'probe with driver nvgrace_gpu failed with error -[0-9]*' \
	'timed out waiting for pending transaction.*' 'Device config space inaccessible.*' \
	'Unable to change power state from .*' \
	'No device request channel registered, blocked until released by user' \
	'error -[A-Z0-9]*: config space reads all ones: the GPU is gone' '.*removing.*'
finish
