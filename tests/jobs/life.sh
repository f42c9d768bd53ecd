# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The GPU's life: not ready at probe, reset, asleep, gone, unbound under load. The
# stand-ins are a Hopper, a Blackwell, and a Hopper that firmware gives no memory.
#
#| part | make check | make check-all adds | scripts/rig run
#| life | newest 6.12-patched | 6.12 6.12-16k newest-debug 6.12-64k-patched |
#| | | | --gpu=hopper:0x70000000000:4608M
#| | | | --gpu=blackwell:0x71000000000:4608M --gpu=hopper:0:0:-:-
# shellcheck disable=SC1091
. /lib.sh

dev=/sys/bus/pci/devices
drv=/sys/bus/pci/drivers/nvgrace_gpu

# bind BDF
bind() {
	echo nvgrace_gpu > "$dev/$1/driver_override"
	echo "$1" > $drv/bind
}

# bind_starts BDF: a process, $binding, binds a GPU that is not ready, and sleeps until it is.
bind_starts() {
	knob "$1" ready 0
	bind "$1" &
	binding=$!
	soon grep -E 'sleep_before_poll|nvgrace_gpu_' /proc/$binding/wchan
}

# Whatever waited for the GPU in vain has said so.
nothing_timed_out() { ! dmesg | grep -F 'not ready after'; }

probe_waits() {
	bind_starts "$1" || return 1
	knob "$1" ready 1
	wait $binding && unbind_gpu "$1"
}

# One ready register is not enough, and the message names the other one.
probe_times_out() {
	knob "$1" ready 1
	knob "$1" hbm_training 0x7f
	take_log > /dev/null
	start=$(date +%s)
	! bind "$1" && [ $(($(date +%s) - start)) -ge 29 ] || return 1
	dmesg | grep -F 'not ready after 30 s: BAR0+0x1498 (C2C link) reads 0xff, '\
'BAR0+0x200bc (HBM training) reads 0x7f'
}

# No wait mends a link that failed.
link_failed() {
	knob "$1" ready 1
	knob "$1" c2c_link 0x13
	take_log > /dev/null
	! bind "$1" && nothing_timed_out || return 1
	dmesg | grep -F \
		'BAR0+0x1498 (C2C link) reads 0x13, a failure code: the link did not come up'
}

killed_while_binding() {
	take_log > /dev/null
	bind_starts "$1" || return 1
	kill -KILL $binding
	wait $binding
	nothing_timed_out && [ ! -e "$dev/$1/driver" ]
}

gone_at_probe() {
	take_log > /dev/null
	bind_starts "$1" || return 1
	knob "$1" gone 1
	! wait $binding
	bound=$?
	knob "$1" gone 0
	dmesg | grep -F 'BAR0 and config space read all ones: the GPU is gone' &&
		nothing_timed_out && [ $bound = 0 ] && [ ! -e "$dev/$1/driver" ]
}

# Nothing polls a GPU that firmware gives no memory: it is never ready, and bound all the same.
not_waited_for() {
	knob "$1" ready 0
	bind "$1" && unbind_gpu "$1"
}

# claims_are_gone BASE: no region is claimed whose address begins with BASE, in hex.
claims_are_gone() { ! grep -E "^$1.*nvgrace_gpu" /proc/iomem; }

binds() {
	knob "$1" ready 1
	bind "$1"
}

in_use() { [ "$(cat /sys/module/nvgrace_gpu/refcnt)" != 0 ]; }

# An unbind while a process has the GPU open and mapped: VFIO asks the process to release it, and
# waits until it ends. The module stays as long.
unbound_under_load() {
	REGIONS=$hopper_regions RESET=flr BDF=$hopper STORM_S=15 \
		life -r gpu.guest_flr.storm > /tmp/storm 2>&1 &
	soon in_use
	! rmmod nvgrace_gpu || return 1
	unbind_gpu "$hopper" &
	unbinding=$!
	soon grep -F vfio_unregister_group_dev /proc/$unbinding/stack ||
		{ echo 'unbound in use'; cat /tmp/storm; return 1; }
	wait
	cat /tmp/storm
	grep -F 'ok 1 gpu.guest_flr.storm' /tmp/storm && [ ! -e "$dev/$hopper/driver" ] &&
		claims_are_gone 700
}

status_is() {
	cat "$dev/$BDF/power/runtime_status"
	grep -qx "$1" "$dev/$BDF/power/runtime_status"
}

# power_state_is STATE: the state that runtime PM leaves the GPU in, which is bound and not open.
# Only time tells that it stays active: it would be suspended within milliseconds.
power_state_is() {
	case $1 in
	active) sleep 2; status_is active ;;
	*) soon status_is "$1" ;;
	esac
}

# idle_is STATE [PARAMETER]: the state of a GPU that is not open, before an open and after. The
# module binds the hopper when it is loaded: the last test has left its override.
idle_is() {
	for other in "$blackwell" "$bare"; do echo > "$dev/$other/driver_override"; done
	# shellcheck disable=SC2086
	insmod /modules/nvgrace_gpu.ko $2 && power_state_is "$1" &&
		life -r power.runtime_suspend && power_state_is "$1"
	rc=$?
	rmmod nvgrace_gpu
	return $rc
}

export BDF REGIONS RESET
hopper=$(bdf_of GP00) blackwell=$(bdf_of GP01) bare=$(bdf_of GP02)
hopper_regions="2:$((3 * GIB + GIB / 2)):$((4 * GIB)) 4:$GIB:$GIB"
blackwell_regions="4:$((4 * GIB + GIB / 2)):$((8 * GIB)) 2:$GIB:$GIB"
take_log > /dev/null

ok load insmod /modules/nvgrace_gpu.ko
ok probe.waits probe_waits "$blackwell"
ok probe.times_out probe_times_out "$blackwell"
ok probe.link_failed link_failed "$blackwell"
ok probe.killed killed_while_binding "$blackwell"
ok probe.gone gone_at_probe "$blackwell"
ok probe.without_memory not_waited_for "$bare"
ok probe.nothing_claimed claims_are_gone 7
take_log > /dev/null
ok probe.ready binds "$hopper"
ok probe.ready_blackwell binds "$blackwell"
BDF=$hopper REGIONS=$hopper_regions RESET=flr
nested hopper life
BDF=$blackwell REGIONS=$blackwell_regions RESET=bus
nested blackwell life -v hot_reset
nested aer life -t aer_recovery
BDF=$hopper REGIONS=$hopper_regions
nested dmabuf dmabuf
ok unbound_under_load unbound_under_load
ok rebind binds "$hopper"
ok unload rmmod nvgrace_gpu
ok claims_are_gone claims_are_gone 7
BDF=$hopper REGIONS=$hopper_regions RESET=flr
ok idle_in_d3 idle_is suspended
ok disable_idle_d3 idle_is active disable_idle_d3=1
ok log log_is_clean 'not ready after 30 s: .*' \
	'BAR0\+0x1498 \(C2C link\) reads 0x13, a failure code: .*' \
	'vfio_bar_restore: reset recovery - restoring BARs' \
	'No device request channel registered, blocked until released by user' \
	'AER: PCIe Bus Error: severity=Uncorrectable \(Fatal\).*'
finish
