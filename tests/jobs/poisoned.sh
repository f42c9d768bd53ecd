# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Poisoned pages of the GPU's memory, under a process and under a guest. Needs a
# kernel that notifies the driver.
#
#| part | make check | make check-all adds | scripts/rig run
#| poisoned | newest | newest-debug | --gpu=hopper:0x70000000000:4608M
# shellcheck disable=SC1091
. /lib.sh

rounds() { grep -c '^# touched' /tmp/guest.verdict; }

# went_beyond N: the guest has finished more than N rounds.
went_beyond() { [ "$(rounds)" -gt "$1" ]; }

# start_guest: a process, $guest, runs a guest that uses two pages, until it is stopped.
start_guest() {
	# shellcheck disable=SC2046
	guest /guest.cpio $(vfio_args "$BDF") \
		-append "$(guest_append TEST=touch_pages)" > /tmp/guest.ktap 2>&1 &
	guest=$!
	until went_beyond 0; do
		kill -0 $guest || { cat /tmp/guest.log; return 1; }
		sleep 0.2
	done
}

inject() { echo $((BASE + $1)) > /sys/devices/system/memory/hard_offline_page; }

# guest_goes_on OFFSET: a page is poisoned, and the guest has begun and ended a round since.
guest_goes_on() {
	inject "$1" || return 1
	soon went_beyond $(($(rounds) + 1)) && return
	cat /tmp/qemu.log
	return 1
}

stop_guest() {
	! grep -F 'kvm run failed' /tmp/qemu.log || return 1
	kill "$(pidof qemu-system-aarch64)"
	wait "$guest"
	true
}

# The driver counts and lists the pages, and both that were poisoned under the guest are there.
lists_pages() {
	cat "$pages"
	[ "$(head -n 1 "$pages")" = $(($(wc -l < "$pages") - 1)) ] &&
		[ "$(grep -cxE 'usemem 0x(5|7)000' "$pages")" = 2 ]
}

export BDF REGIONS BASE=0x70000000000
BDF=$(bdf_of GP00)
REGIONS="2:$((3 * GIB + GIB / 2)):$((4 * GIB)) 4:$GIB:$GIB"
take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko
ok bind bind_gpu "$BDF" nvgrace_gpu
nested poisoned poisoned
ok guest start_guest
# A poisoned page that the guest does not use does not concern it. Nor does a page that it uses
# stop the VM: the page stays mapped, and on real hardware the guest takes its SEA.
ok guest.unused_page guest_goes_on 0x7000
ok guest.used_page guest_goes_on 0x5000
ok guest.stop stop_guest
pages=/sys/bus/pci/devices/$BDF/nvgrace_gpu/poisoned_pages
ok lists_pages lists_pages
ok unload rmmod nvgrace_gpu
ok log log_is_clean '(usemem|resmem): page at offset 0x[0-9a-f]* is poisoned'
finish
