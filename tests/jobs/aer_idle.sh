# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# A GPU that is bound and not open survives a PCI error, awake or asleep: its config space is
# restored, and the next owner can use it. A Blackwell, whose bus the recovery resets, and a
# Hopper, whose recovery fails. Not on a kernel with lockdep: AER resumes a sleeping device with
# pci_bus_sem held, and vfio_pci_core takes memory_lock then; its hot reset nests them the other
# way round.
#
#| part | make check | make check-all adds | scripts/rig run
#| aer-idle | newest | 6.12 6.12-16k | --gpu=blackwell:0x71000000000:1536M
#| | | | --gpu=hopper:0x70000000000:1536M
# shellcheck disable=SC1091
. /lib.sh

dev=/sys/bus/pci/devices

# can_open: a VFIO user can open the GPU BDF, and read and write the memory.
can_open() {
	hold_open || return 1
	kill $!
	wait $! || :
	cat /tmp/hold
	grep -q holding /tmp/hold
}

# fatal_error: on the GPU BDF, which nobody has open; until the recovery is over.
fatal_error() {
	lines=$(dmesg | wc -l)
	knob "$BDF" aer_uncorrectable 0x10 && soon logged "$lines" 'AER: device recovery'
}

asleep() { grep -q suspended "$dev/$BDF/power/runtime_status"; }

# survives RESETS: an error of the GPU BDF, whose recovery resets the bus RESETS times.
survives() {
	before=$(bars_of "$BDF") bus=$(knob "$BDF" resets_bus)
	fatal_error || return 1
	after=$(bars_of "$BDF")
	printf '%s\n' "BARs before: $before" "and after:   $after"
	cat "$dev/$BDF/nvgrace_gpu/state" "$dev/$BDF/nvgrace_gpu/resets"
	[ "$after" = "$before" ] && [ "$(knob "$BDF" resets_bus)" = $((bus + $1)) ] &&
		grep -q '^[a-z]* c2c_link=' "$dev/$BDF/nvgrace_gpu/state"
}

# The PCI core and the next driver find the GPU as it was before, also without an open.
next_driver_finds_it() {
	before=$(bars_of "$BDF")
	fatal_error && unbind_gpu "$BDF" && [ "$(bars_of "$BDF")" = "$before" ]
}

# reset_by_port: through sysfs, with the other devices on the bus. Older kernels have no such file.
reset_by_port() {
	before=$(bars_of "$BDF")
	echo 1 > "$port/reset_subordinate" && [ "$(bars_of "$BDF")" = "$before" ]
}

export BDF REGIONS
take_log > /dev/null
for args in '' disable_idle_d3=1 'disable_idle_d3=1 scrub=1'; do
	name=$(echo "${args:-default}" | tr ' =' '._')
	# shellcheck disable=SC2086
	ok "load.$name" insmod /modules/nvgrace_gpu.ko $args
	for gpu in GP00 GP01; do
		BDF=$(bdf_of $gpu)
		resets=0 REGIONS="2:$((GIB / 2)):$((GIB / 2)) 4:$GIB:$GIB"
		[ $gpu = GP01 ] ||
			resets=1 REGIONS="4:$((GIB + GIB / 2)):$((2 * GIB)) 2:$GIB:$GIB"
		test=$name.$gpu port=$(dirname "$(readlink -f "$dev/$BDF")")
		ok "bind.$test" bind_gpu "$BDF" nvgrace_gpu
		[ -n "$args" ] || ok "asleep.$test" soon asleep
		# One that was never open, then one that was.
		ok "never_open.$test" survives $resets
		ok "open.$test" can_open
		[ -n "$args" ] || ok "asleep_again.$test" soon asleep
		ok "was_open.$test" survives $resets
		ok "reset.$test" sh -c "echo 1 > $dev/$BDF/reset"
		if [ -e "$port/reset_subordinate" ] && [ $resets = 1 ]; then
			ok "reset_by_port.$test" reset_by_port
		fi
		ok "open_again.$test" can_open
		ok "next_driver.$test" next_driver_finds_it
	done
	ok "unload.$name" rmmod nvgrace_gpu
done
ok log log_is_clean '(AER: )?PCIe Bus Error: .*' '  device \[10de:.*\] error status/mask=.*' \
	' *\[[ 0-9]*\] .*' 'a reset cost its config space, which the driver restores'
finish
