# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The stand-ins that look and behave like GPUs do so: what others rely on. Four at
# once, a Hopper, a Blackwell, a Hopper without DVSEC, and a Blackwell whose DVSEC
# asks for the carve-out.
#
#| part | make check | make check-all adds | scripts/rig run
#| standin | newest | 6.12 6.12-patched newest-debug 6.12-16k 6.12-64k-patched |
#| | | | --kernel-args=iomem=relaxed
#| | | | --gpu=hopper:0x70000000000:1536M
#| | | | --gpu=blackwell:0x71000000000:1536M
#| | | | --gpu=hopper,device=2345,dvsec=-:0x72000000000:1536M
#| | | | --gpu=blackwell,device=31c2,dvsec=0:0x73000000000:1536M
# shellcheck disable=SC1091
. /lib.sh

dev=/sys/bus/pci/devices

# reg OFFSET: a register in BAR0, past every driver.
reg() { devmem $(($(sed -n '1s/ .*//p' "$dev/$BDF/resource") + $1)) 32; }

# is DEVICE: what lspci would print.
is() {
	grep -H . "$dev/$BDF/vendor" "$dev/$BDF/device" "$dev/$BDF/class" "$dev/$BDF/modalias"
	[ "$(cat "$dev/$BDF/vendor" "$dev/$BDF/device" "$dev/$BDF/class" | tr '\n' ' ')" = \
		"0x10de 0x$1 0x030200 " ]
}

# The functions that it is made of do not show.
one_function() {
	ls -d "$dev/${BDF%.0}".*
	[ "$(ls -d "$dev/${BDF%.0}".*)" = "$dev/$BDF" ]
}

# A tool that goes by modalias finds the driver's alias for it.
alias_matches() {
	modalias=vfio_pci:$(sed 's/^pci://' "$dev/$BDF/modalias")
	for alias in $(tr '\0' '\n' < /modules/nvgrace_gpu.ko | sed -n 's/^alias=//p'); do
		# shellcheck disable=SC2254
		case $modalias in $alias) return ;; esac
	done
	echo "$modalias"
	return 1
}

# resets_by METHOD: through sysfs, counted, and not ready until the GPU has trained.
resets_by() {
	before=$(knob "$BDF" "resets_$1")
	echo "$1" > "$dev/$BDF/reset_method"
	echo 1 > "$dev/$BDF/enable"
	[ "$(reg 0x1498) $(reg 0x200bc)" = '0x000000FF 0x000000FF' ] || return 1
	knob "$BDF" ready_ms -1
	echo 1 > "$dev/$BDF/reset"
	now="$(reg 0x1498) $(reg 0x200bc)"
	knob "$BDF" ready_ms 0
	echo default > "$dev/$BDF/reset_method"
	echo "$now, resets: $before, $(knob "$BDF" "resets_$1")"
	[ "$now" = '0x00000000 0x00000000' ] &&
		[ "$(knob "$BDF" "resets_$1")" = $((before + 1)) ] || return 1
	knob "$BDF" ready 1
	[ "$(reg 0x1498) $(reg 0x200bc)" = '0x000000FF 0x000000FF' ]
}

# The kernel's quirk for Hopper keeps its bus from being reset.
methods_are() { cat "$dev/$BDF/reset_method"; [ "$(cat "$dev/$BDF/reset_method")" = "$*" ]; }

alone_in_its_group() {
	ls "$dev/$BDF/iommu_group/devices"
	[ "$(ls "$dev/$BDF/iommu_group/devices")" = "$BDF" ]
}

# says GPU LINE...: what the driver said when it was bound, and nothing else.
says() {
	BDF=$(bdf_of "$1")
	shift
	sed -n "s/^.*nvgrace_gpu $BDF: //p" /tmp/bound | grep -v 'iommu group' > /tmp/said
	cat /tmp/said
	for line in \
		'ready: BAR0+0x1498 (C2C link) reads 0xff, BAR0+0x200bc (HBM training) reads 0xff' \
		"$@"; do
		echo "$line"
	done | cmp -s - /tmp/said
}

# A GPU is not taken by itself, only by name.
bound_by_name() {
	for gpu in $GPUS; do [ ! -e "$dev/$(bdf_of "$gpu")/driver" ] || return 1; done
	take_log > /dev/null
	for gpu in $GPUS; do bind_gpu "$(bdf_of "$gpu")" nvgrace_gpu || return 1; done
	take_log | tee /dev/console > /tmp/bound
}

# start GPU DVSEC RESET REGIONS: all at once, they must not care.
start() {
	export BDF DVSEC RESET REGIONS
	BDF=$(bdf_of "$1") DVSEC=$2 RESET=$3 REGIONS=$4
	in_background "$1" standin
}

# An error message goes the whole way, root port, interrupt, AER, driver; a fatal one
# has the bus reset, unless the kernel knows better. The GPU is awake: AER would
# resume it with pci_bus_sem held, and vfio_pci_core takes memory_lock then; its hot
# reset nests them the other way round, which lockdep reports of any VFIO device.
errors() {
	echo on > "$dev/$BDF/power/control"
	port=$(basename "$(dirname "$(readlink -f "$dev/$BDF")")")
	bars=$(bars_of "$BDF")
	before=$(knob "$BDF" resets_bus) lines=$(dmesg | wc -l)
	case $(cat "$dev/$BDF/reset_method") in
	*bus*) resets=1 end=successful ;;
	*) resets=0 end=failed ;;
	esac
	knob "$BDF" aer_correctable 0x1 &&
		soon logged "$lines" "$BDF: PCIe Bus Error: severity=Correctable" || return 1
	knob "$BDF" aer_uncorrectable 0x4000 &&
		soon logged "$lines" "$BDF: PCIe Bus Error: severity=Uncorrectable \(Non-Fatal\)" &&
		soon logged "$lines" "$port: AER: device recovery successful" || return 1
	[ "$(knob "$BDF" resets_bus)" = "$before" ] || return 1
	[ "$(knob "$BDF" aer_correctable) $(knob "$BDF" aer_uncorrectable)" = '0x0 0x0' ] ||
		return 1
	lines=$(dmesg | wc -l)
	knob "$BDF" aer_uncorrectable 0x10 &&
		soon logged "$lines" "$BDF: .*severity=Uncorrectable \(Fatal\)" &&
		soon logged "$lines" "$port: AER: device recovery $end" || return 1
	echo auto > "$dev/$BDF/power/control"
	[ "$(knob "$BDF" resets_bus)" = $((before + resets)) ] &&
		[ "$(bars_of "$BDF")" = "$bars" ]
}

plain_functions_again() {
	ls "$dev"
	[ -e "$dev/${BDF%.0}.1" ] && [ "$(cat "$dev/$BDF/vendor")" = 0x1234 ]
}

take_log > /dev/null
for gpu in GP00:2342:flr GP01:2941:flr,bus GP02:2345:flr GP03:31c2:flr,bus; do
	IFS=: read -r gpu id methods << END
$gpu
END
	BDF=$(bdf_of "$gpu")
	ok "ids.$gpu" is "$id"
	ok "one_function.$gpu" one_function
	ok "alias_matches.$gpu" alias_matches
	# shellcheck disable=SC2046
	ok "reset_methods.$gpu" methods_are $(echo "$methods" | tr , ' ')
	for method in $(echo "$methods" | tr , ' '); do
		ok "resets.$method.$gpu" resets_by "$method"
	done
done

for bar in 2 4; do
	ok "load.usemem_bar_$bar" insmod /modules/nvgrace_gpu.ko usemem_bar=$bar
	ok "bind.usemem_bar_$bar" bound_by_name
	res="BAR$((6 - bar)), backed 0x40000000 bar_size 0x40000000"
	use="BAR$bar, backed 0x20000000 bar_size 0x20000000"
	plain='backed 0x60000000 bar_size 0x80000000'
	[ $bar = 4 ] || use="$use; NVIDIA's guest driver needs usemem_bar=4"
	ok "layout.usemem_bar_$bar.GP00" says GP00 \
		"usemem [mem 0x70000000000-0x7001fffffff] is $use" \
		"resmem [mem 0x70020000000-0x7005fffffff] is $res"
	ok "layout.usemem_bar_$bar.GP01" says GP01 \
		"usemem [mem 0x71000000000-0x7105fffffff] is BAR4, $plain"
	ok "layout.usemem_bar_$bar.GP02" says GP02 \
		"usemem [mem 0x72000000000-0x7201fffffff] is $use" \
		"resmem [mem 0x72020000000-0x7205fffffff] is $res"
	ok "layout.usemem_bar_$bar.GP03" says GP03 \
		"usemem [mem 0x73000000000-0x7301fffffff] is $use" \
		"resmem [mem 0x73020000000-0x7305fffffff] is $res"
	hopper="$bar:$((GIB / 2)):$((GIB / 2)) $((6 - bar)):$GIB:$GIB"
	start GP00 0 flr "$hopper"
	start GP01 1 bus "4:$((GIB + GIB / 2)):$((2 * GIB)) 2:$GIB:$GIB"
	start GP02 -1 flr "$hopper"
	start GP03 0 bus "$hopper"
	wait
	for gpu in $GPUS; do
		nested "vfio.usemem_bar_$bar.$gpu" replay "$gpu"
		BDF=$(bdf_of "$gpu")
		ok "alone_in_its_group.usemem_bar_$bar.$gpu" alone_in_its_group
		ok "errors.usemem_bar_$bar.$gpu" errors
		echo > "$dev/$BDF/driver_override"
	done
	ok "unload.usemem_bar_$bar" rmmod nvgrace_gpu
done

# As it was, and once more.
ok standins_go rmmod gpu_standin
ok plain_functions_again plain_functions_again
ok standins_come load_standins
ok ids_again is 31c2
ok log log_is_clean '(AER: )?PCIe Bus Error: .*' '  device \[10de:.*\] error status/mask=.*' \
	' *\[[ 0-9]*\] .*' 'a reset cost its config space, which the driver restores'
finish
