# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The GPU's life: not ready at probe, reset, asleep, gone, unbound under load. The
# stand-ins are a Hopper, a Blackwell, and a Hopper that firmware gives no memory.
#
#| part | make check | make check-all adds | scripts/rig run
#| life | newest 6.12-debug | 6.12 6.12-16k newest-debug 6.12-64k | --timeout=1200 --gpu=hopper:0x70000000000:4608M
#| | | | --gpu=blackwell:0x71000000000:4608M --gpu=hopper:0:0:-:-
# shellcheck disable=SC1091
. /lib.sh

gib=1073741824
dev=/sys/bus/pci/devices
drv=/sys/bus/pci/drivers/nvgrace_gpu

ms() { awk '{ printf "%d", $1 * 1000 }' /proc/uptime; }

# bind BDF: bind it, with the milliseconds that it took in $took; unbind it again.
bind() {
	echo nvgrace_gpu > "$dev/$1/driver_override"
	start=$(ms)
	if echo "$1" > $drv/bind; then rc=0; else rc=1; fi
	took=$(($(ms) - start))
	echo "took $took ms"
	return $rc
}

binds_late() {
	knob "$1" ready 0
	{ sleep 2; knob "$1" ready 1; } &
	bind "$1" && [ $took -ge 1000 ] && unbind_gpu "$1"
}

# What one of them says is not enough, and the message tells which.
binds_not() {
	knob "$1" ready 1
	knob "$1" hbm_training 0x7f
	dmesg -c > /dev/null
	! bind "$1" && [ $took -ge 29000 ] || return 1
	dmesg | grep -F 'not ready after 30 s: BAR0+0x1498 (C2C link) reads 0xff, BAR0+0x200bc (HBM training) reads 0x7f, both should be 0xff'
}

killed_while_binding() {
	knob "$1" ready 0
	echo nvgrace_gpu > "$dev/$1/driver_override"
	echo "$1" > $drv/bind &
	binding=$!
	sleep 1
	kill -0 $binding || return 1
	start=$(ms)
	kill -KILL $binding
	wait $binding
	echo "took $(($(ms) - start)) ms"
	[ $(($(ms) - start)) -lt 10000 ] && [ ! -e "$dev/$1/driver" ]
}

gone_at_probe() {
	knob "$1" ready 0
	echo nvgrace_gpu > "$dev/$1/driver_override"
	echo "$1" > $drv/bind &
	sleep 1
	start=$(ms)
	knob "$1" gone 1
	wait
	took=$(($(ms) - start))
	knob "$1" gone 0
	echo "took $took ms"
	dmesg | grep -F 'BAR0 and config space read all ones: the GPU is gone'
	[ $took -lt 10000 ] && [ ! -e "$dev/$1/driver" ]
}

# A device that firmware gives no memory is not looked at.
not_waited_for() {
	knob "$1" ready 0
	bind "$1" && [ $took -lt 10000 ] && unbind_gpu "$1"
}

# claims_are_gone BASE: in hex, as far as the regions have it in common.
claims_are_gone() { ! grep -E "^$1.*nvgrace_gpu" /proc/iomem; }

binds() {
	knob "$1" ready 1
	bind "$1"
}

debugfs_regions() {
	cat "/sys/kernel/debug/vfio/$hopper/nvgrace_gpu/regions"
	printf '%s\n' 'usemem: BAR2 base 0x70000000000 backed 0xe0000000 padded 0x100000000' \
		'resmem: BAR4 base 0x700e0000000 backed 0x40000000 padded 0x40000000' |
		cmp - "/sys/kernel/debug/vfio/$hopper/nvgrace_gpu/regions"
}

# Unbound while a process has it open and mapped: VFIO asks for it back, waits, and
# takes it when the process ends. The module stays as long.
unbound_under_load() {
	REGIONS=$hopper_regions RESET=flr BDF=$hopper life -r gpu.guest_flr.storm > /tmp/storm 2>&1 &
	sleep 2
	! rmmod nvgrace_gpu || return 1
	unbind_gpu "$hopper" &
	unbinding=$!
	sleep 1
	kill -0 $unbinding || { echo 'unbound in use'; cat /tmp/storm; return 1; }
	wait
	cat /tmp/storm
	grep -F 'ok 1 gpu.guest_flr.storm' /tmp/storm && [ ! -e "$dev/$hopper/driver" ] && claims_are_gone 700
}

export BDF REGIONS RESET
hopper=$(bdf_of GP00) blackwell=$(bdf_of GP01) bare=$(bdf_of GP02)
hopper_regions="2:$((3 * gib + gib / 2)):$((4 * gib)) 4:$gib:$gib"
blackwell_regions="4:$((4 * gib + gib / 2)):$((8 * gib)) 2:$gib:$gib"
dmesg -c > /dev/null

ok load insmod /modules/nvgrace_gpu.ko
ok probe.ready_late binds_late "$blackwell"
ok probe.never_ready binds_not "$blackwell"
ok probe.killed killed_while_binding "$blackwell"
ok probe.gone gone_at_probe "$blackwell"
ok probe.without_memory not_waited_for "$bare"
ok probe.nothing_claimed claims_are_gone 7
dmesg -c > /dev/null
ok probe.ready binds "$hopper"
ok probe.ready_blackwell binds "$blackwell"
ok debugfs.regions debugfs_regions
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
ok log log_is_clean 'not ready 30 s after a reset: .*' \
	'No device request channel registered, blocked until released by user' \
	'AER: PCIe Bus Error: severity=Uncorrectable \(Fatal\).*'
finish
