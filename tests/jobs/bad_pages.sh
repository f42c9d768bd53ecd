# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Poisoned pages of the GPU's memory, under a process and under a guest. Needs a
# kernel that notifies the driver.
#
#| part | make check | make check-all adds | scripts/rig run
#| bad-pages | newest | newest-debug | --gpu=hopper:0x70000000000:4608M
# shellcheck disable=SC1091
. /lib.sh

gib=1073741824
base=0x70000000000

start_guest() {
	# shellcheck disable=SC2046
	guest /guest.cpio $(vfio_args "$BDF") \
		-append 'console=ttyAMA0 panic=-1 kpti=off quiet TEST=touch_pages' \
		> /tmp/guest.ktap 2>&1 &
	guest=$!
	soon grep '# touching' /tmp/guest.verdict || { cat /tmp/guest.log; return 1; }
}

inject() { echo $((base + $1)) > /sys/devices/system/memory/hard_offline_page; }

# A poisoned page that the guest does not use is of no concern to it.
guest_goes_on() {
	inject 0x7000 && sleep 2 && kill -0 "$guest"
}

# Nor does a page that the guest uses stop the VM: the page stays mapped, and on real
# hardware the guest takes its SEA.
guest_uses_poisoned_page() {
	inject 0x5000 && sleep 5
	if grep -F 'kvm run failed' /tmp/qemu.log || ! kill -0 "$guest"; then
		cat /tmp/qemu.log
		return 1
	fi
	kill "$(pidof qemu-system-aarch64)"
	wait "$guest"
	true
}

# What the driver shows by debugfs, where the kernel has VFIO_DEBUGFS.
bad_pages_are() {
	cat "$pages"
	[ "$(grep -cxE '0x7000000(5|7)000' "$pages")" = 2 ]
}

export BDF REGIONS BASE=$base
BDF=$(bdf_of GP00)
REGIONS="2:$((3 * gib + gib / 2)):$((4 * gib)) 4:$gib:$gib"
take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko
ok bind bind_gpu "$BDF" nvgrace_gpu
nested bad_pages bad_pages
ok guest start_guest
ok guest_goes_on guest_goes_on
ok guest_uses_poisoned_page guest_uses_poisoned_page
pages=/sys/kernel/debug/vfio/$BDF/nvgrace_gpu/poisoned_pages
if [ -e "$pages" ]; then
	ok bad_pages_are bad_pages_are
else
	skip bad_pages_are 'this kernel has no VFIO_DEBUGFS'
fi
ok unload rmmod nvgrace_gpu
ok log log_is_clean '(usemem|resmem): page at offset 0x[0-9a-f]* is poisoned'
finish
