# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The next VFIO user finds zeroes in the memory with scrub=1, and without it what was left there.
#
#| part | make check | make check-all adds | scripts/rig run
#| scrub | newest | 6.12-patched newest-debug | --gpu=hopper:0x70000000000:1536M
# shellcheck disable=SC1091
. /lib.sh

driver=/sys/bus/pci/drivers/nvgrace_gpu

# unbind_waits: unbind waits for a scrub, and the scrub waits for a GPU that is not ready.
unbind_waits() {
	hold_open || return 1
	holder=$!
	knob "$BDF" ready_ms -1
	kill -KILL $holder
	wait $holder
	echo "$BDF" > $driver/unbind &
	unbinding=$!
	soon grep -F nvgrace_gpu_scrub_exit /proc/$unbinding/stack
	waits=$?
	knob "$BDF" ready_ms 0
	knob "$BDF" ready 1
	wait $unbinding && [ $waits = 0 ]
}

export BDF REGIONS SCRUB BASE=0x70000000000
BDF=$(bdf_of GP00)
REGIONS="2:$((GIB / 2)):$((GIB / 2)) 4:$GIB:$GIB"
take_log > /dev/null

SCRUB=0
ok load.scrub_0 load_with_scrub 0
nested scrub_0 scrub -t closed -t vmm_is_killed
ok guest_crashes.scrub_0 guest_crashes
for r in usemem resmem; do ok "left_by_guest.scrub_0.$r" verify $r 67108864; done
ok unload.scrub_0 rmmod nvgrace_gpu

# The memory holds the guest's pattern.
SCRUB=1
ok load.scrub_1 load_with_scrub 1
nested scrub_1 scrub
ok unload.poisoned rmmod nvgrace_gpu
ok load.again load_with_scrub 1
ok guest_crashes.scrub_1 guest_crashes
nested guest_crashed scrub -r memory.bound
ok unbind_waits unbind_waits
ok unload.scrub_1 rmmod nvgrace_gpu

# Without a scrub the memory shows what the scrub at unbind has written.
ok load.scrubbed_at_unbind load_with_scrub 0
nested scrubbed_at_unbind scrub -r memory.bound
ok unload.last rmmod nvgrace_gpu
ok log scrub_log_is_clean
finish
