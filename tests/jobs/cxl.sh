# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# GPUs whose CXL Device DVSEC says when they are ready, with one range and with two, which have an
# id that the driver does not know. Their BAR0 never reads ready. They are never Cache_Capable with
# ATS: the kernel then wants an SMMU with ATS, which the emulated host does not have.
#
#| part | make check | make check-all adds | scripts/rig run
#| cxl | newest | 6.12 newest-debug 6.12-64k-patched |
#| | | | --gpu=vera:0x70000000000:4608M
#| | | | --gpu=vera,ranges=2,dvsec=-:0x71000000000:4608M
# shellcheck disable=SC1091
. /lib.sh

dev=/sys/bus/pci/devices

# says BDF LINE...: lines of the driver's when it was bound.
says() {
	sed -n "s/^.*nvgrace_gpu $1: //p" /tmp/bound > /tmp/said
	cat /tmp/said
	shift
	for line; do grep -qxF "$line" /tmp/said || { echo "missing: $line"; return 1; }; done
}

bind_all() {
	for gpu in $GPUS; do bind_gpu "$(bdf_of "$gpu")" nvgrace_gpu || return 1; done
	take_log > /tmp/bound
}

# not_ready_in SECONDS KNOB VALUE: a probe, with the GPU valid but never active, or not valid.
not_ready_in() {
	unbind_gpu "$one"
	echo on > "$dev/$one/power/control"
	knob "$one" ready_ms -1
	knob "$one" "$2" "$3"
	echo 1 > "$dev/$one/reset"
	start=$(date +%s)
	! bind_gpu "$one" nvgrace_gpu 2> /dev/null || return 1
	end=$(($(date +%s) - start))
	knob "$one" ready_ms 0
	knob "$one" valid_ms 0
	knob "$one" cxl_timeout 3
	echo 1 > "$dev/$one/reset"
	echo auto > "$dev/$one/power/control"
	take_log | grep -F "not ready after $1 s: CXL DVSEC+0x1c (range 1) reads $4" || return 1
	echo "the probe took $end s"
	[ $end -ge "$1" ]
}

# The time of one GPU, not of all: the module binds them when it is loaded.
probes_do_not_add_up() {
	for gpu in $GPUS; do
		bdf=$(bdf_of "$gpu")
		unbind_gpu "$bdf"
		echo nvgrace_gpu > "$dev/$bdf/driver_override"
		echo on > "$dev/$bdf/power/control"
		knob "$bdf" ready_ms -1
		knob "$bdf" cxl_timeout 2
		echo 1 > "$dev/$bdf/reset"
	done
	rmmod nvgrace_gpu
	take_log > /dev/null
	start=$(date +%s)
	insmod /modules/nvgrace_gpu.ko
	end=$(($(date +%s) - start))
	echo "two probes of 16 s took $end s"
	for gpu in $GPUS; do
		bdf=$(bdf_of "$gpu")
		[ ! -e "$dev/$bdf/driver" ] || return 1
		knob "$bdf" ready_ms 0
		knob "$bdf" cxl_timeout 3
		echo 1 > "$dev/$bdf/reset"
	done
	take_log | grep -cF 'not ready after 16 s' | grep -x 2 || return 1
	[ $end -ge 16 ] && [ $end -lt 31 ]
}

export BDF REGIONS RESET
one=$(bdf_of GP00) two=$(bdf_of GP01)
take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko
ok bind bind_all
ok source.one_range says "$one" \
	'not an id that the driver knows: ACPI says whether it has coherent memory' \
	'ready: CXL DVSEC+0x1c (range 1) reads 0xf0006003' \
	'usemem [mem 0x70000000000-0x7011fffffff] is BAR4, backed 0x120000000 bar_size 0x200000000'
ok source.two_ranges says "$two" \
	"ready: CXL DVSEC+0x1c (range 1) reads 0xf0006003, "\
'CXL DVSEC+0x2c (range 2) reads 0xf0006003' \
	"a CXL DVSEC, but no DVSEC of NVIDIA's: carving out resmem, probably without need"
ok probe.never_active not_ready_in 4 cxl_timeout 1 0xf0002001
ok probe.never_valid not_ready_in 1 valid_ms -1 0xf0006000
ok probe.again bind_gpu "$one" nvgrace_gpu
BDF=$one REGIONS="4:$((4 * GIB + GIB / 2)):$((8 * GIB)) 2:$GIB:$GIB" RESET=bus
nested one_range cxl
nested life life
BDF=$two REGIONS="2:$((3 * GIB + GIB / 2)):$((4 * GIB)) 4:$GIB:$GIB"
nested two_ranges cxl
ok probes_do_not_add_up probes_do_not_add_up
ok unload rmmod nvgrace_gpu
ok log log_is_clean 'not ready after [0-9]+ s: CXL DVSEC.*' \
	'error -ETIME: not ready after [0-9]+ s: CXL DVSEC.*' \
	'CXL DVSEC at config offset 0x160: 0x[0-9a-f]* has the reserved time-out 5, .*' \
	'vfio_bar_restore: reset recovery - restoring BARs' \
	'AER: PCIe Bus Error: severity=Uncorrectable \(Fatal\).*'
finish
