# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# EGM as a VMM has it: the node's own interface, then a guest whose RAM it is, with the GPU. The
# list of retired blocks is after the region.
#
#| part | make check | make check-all adds | scripts/rig run
#| egm | newest | 6.12-patched newest-debug 6.12-64k-patched | --kernel-args=kmemleak=on
#| | | | --egm=0x60000000000:2G
#| | | | --gpu=port,egm=0x60000000000/0x7fe00000/4/0x6007fe00000:0x70000000000:1536M
# shellcheck disable=SC1091
. /lib.sh

# in_guest TESTS [QEMU ARGUMENTS]: a guest with all of its RAM in EGM runs them. QEMU aligns RAM of
# a file by the page size, unless align says more, and then no block fits. VFIO's container maps RAM
# by address; iommufd does not take this memory.
in_guest() {
	in_guest_tests=$1
	shift
	GUEST_MACHINE=,memory-backend=egm guest /guest.cpio -device "vfio-pci,host=$BDF" \
		-object memory-backend-file,id=egm,mem-path=/dev/egm4,share=on,size=512M,align=1G \
		-append "$(guest_append "TEST=$in_guest_tests")" "$@"
}

# in_blocks: of what KVM mapped of the memory, 99 % and more was in blocks.
in_blocks() {
	all=0 blocks=0
	while read -r size phys _; do
		[ $((phys)) -ge $((BASE)) ] && [ $((phys)) -lt $((BASE + 2 * GIB)) ] || continue
		all=$((all + size))
		[ $((size)) -lt $((PAGE_SIZE * PAGE_SIZE / 8)) ] || blocks=$((blocks + size))
	done < /tmp/stage2
	echo "$blocks of $all bytes"
	[ $all -gt 67108864 ] && [ $((blocks * 100)) -ge $((all * 99)) ]
}

refused() {
	! in_guest bars > /tmp/refused || return 1
	grep 'backing store.*: Device or resource busy' /tmp/guest.log
}

# A guest uses the GPU's memory, and its kernel panics.
crashes() {
	in_guest bars,crash > /tmp/crash.log
	cat /tmp/crash.log
	grep 'the guest crashes' /tmp/crash.log &&
		! grep -e 'not ok' -e 'the guest hung' /tmp/crash.log
}

# zeroes: the next owner finds nothing of the last one.
zeroes() {
	python3 -c 'import mmap, os
m = mmap.mmap(os.open("/dev/egm4", os.O_RDWR), 0x7fe00000)
zero = bytes(4096)
bad = [hex(at) for at in range(0, len(m), 65536) if m[at:at + 4096] != zero]
print(bad[:10])
assert not bad'
}

# own: a process, $!, owns the memory until it is killed.
own() {
	python3 -c 'import mmap, os, time
m = mmap.mmap(os.open("/dev/egm4", os.O_RDWR), 4096)
print(m[0], flush=True)
time.sleep(3600)' > /tmp/own &
	soon [ -s /tmp/own ]
}

export BDF EGM=egm4 BASE=0x60000000000 REGIONS
BDF=$(bdf_of GP00)
REGIONS="2:$((GIB / 2)):$((GIB / 2)) 4:$GIB:$GIB"
ok write_list python3 /egm-lists 0x6007fe00000 2 0x60000000000 0x60000010000
ok load insmod /modules/nvgrace_gpu.ko
take_log > /dev/null
ok bind bind_gpu "$BDF" nvgrace_gpu
forget_leaks
nested egm egm
trace_stage2
nested guest in_guest reboots,bars -action reboot=reset
stop_tracing
ok in_blocks in_blocks
own
owner=$!
ok refused_while_owned refused
kill $owner
wait $owner || :
ok zeroes_after_owner zeroes
ok guest_crashes crashes
ok zeroes_after_crash zeroes
ok_no_leaks
unbind_gpu "$BDF"
ok unload rmmod nvgrace_gpu
ok nothing_is_claimed_any_more test "$(claims)" = 0
ok log log_is_clean
finish
