# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The next VFIO user finds zeroes in the memory with scrub=1, and without it what was left there.
#
#| part | make check | make check-all adds | scripts/rig run
#| scrub | newest | 6.12-patched newest-debug 6.12-64k-patched | --gpu=hopper:0x70000000000:1536M
# shellcheck disable=SC1091
. /lib.sh

# unbind_does_not_wait: nothing is written between two owners, also if the GPU is not ready.
unbind_does_not_wait() {
	hold_open || return 1
	holder=$!
	knob "$BDF" ready_ms -1
	kill -KILL $holder
	wait $holder
	unbind_gpu "$BDF"
	after=$?
	knob "$BDF" ready_ms 0
	knob "$BDF" ready 1
	return $after
}

export BDF REGIONS SCRUB BASE=0x70000000000
BDF=$(bdf_of GP00)
REGIONS="2:$((GIB / 2)):$((GIB / 2)) 4:$GIB:$GIB"
take_log > /dev/null

SCRUB=0
ok load.scrub_0 load_with_scrub 0
nested scrub_0 scrub -t closed -t vmm_is_killed -t open_mends_the_link -t gpu_cannot_be_reset
# With KASAN a guest takes minutes, and finds no more.
if ! has KASAN; then
	ok guest_crashes.scrub_0 guest_crashes
	for r in usemem resmem; do ok "left_by_guest.scrub_0.$r" verify $r 67108864; done
fi
ok unload.scrub_0 rmmod nvgrace_gpu

# The memory holds the guest's pattern.
SCRUB=1
ok load.scrub_1 load_with_scrub 1
nested scrub_1 scrub
ok unload.poisoned rmmod nvgrace_gpu
ok load.again load_with_scrub 1
if ! has KASAN; then
	ok guest_crashes.scrub_1 guest_crashes
	nested guest_crashed scrub -r memory.bound
fi
ok unbind_does_not_wait unbind_does_not_wait
ok unload.scrub_1 rmmod nvgrace_gpu

ok log scrub_log_is_clean
finish
