# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Pages of the GPU's memory that go bad, under a process and under a guest. Needs a
# kernel that tells the driver.
#
#| part | make check | make check-all adds | scripts/rig run
#| bad-pages | newest | newest-debug | --gpu=hopper:0x70000000000:4608M
# shellcheck disable=SC1091
. /lib.sh

gib=1073741824
base=0x70000000000

start_guest() {
	guest /guest.cpio -object iommufd,id=iommufd0 -device "vfio-pci,host=$BDF,iommufd=iommufd0" \
		-append 'console=ttyAMA0 panic=-1 quiet TEST=touch_pages' > /tmp/guest.ktap 2>&1 &
	guest=$!
	for _ in $(seq 300); do
		! grep '# touching' /tmp/guest.verdict || return 0
		sleep 0.3
	done
	cat /tmp/guest.log
	return 1
}

inject() { echo $((base + $1)) > /sys/devices/system/memory/hard_offline_page; }

# A page that the guest does not use is of no concern to it.
guest_goes_on() {
	inject 0x7000 && sleep 2 && kill -0 "$guest"
}

# When the guest uses a bad page its vCPU stops: KVM takes what a fault on a VM_PFNMAP
# mapping says for a bad address. QEMU was told by SIGBUS before that.
guest_is_stopped() {
	inject 0x5000
	wait "$guest"
	grep -E 'Hardware memory error|kvm run failed Bad address' /tmp/guest.log || { cat /tmp/guest.log; return 1; }
}

bad_pages_are() {
	cat "/sys/kernel/debug/vfio/$BDF/nvgrace_gpu/bad_pages"
	[ "$(grep -cxE "0x7000000(5|7)000" "/sys/kernel/debug/vfio/$BDF/nvgrace_gpu/bad_pages")" = 2 ]
}

export BDF REGIONS BASE=$base
BDF=$(bdf_of GP00) REGIONS="2:$((3 * gib + gib / 2)):$((4 * gib)) 4:$gib:$gib"
dmesg -c > /dev/null
ok load insmod /modules/nvgrace_gpu.ko
ok bind bind_gpu "$BDF" nvgrace_gpu
nested bad_pages bad_pages
ok guest start_guest
ok guest_goes_on guest_goes_on
ok guest_is_stopped guest_is_stopped
ok bad_pages_are bad_pages_are
ok unload rmmod nvgrace_gpu
ok log log_is_clean '(usemem|resmem): page at offset 0x[0-9a-f]* went bad'
finish
